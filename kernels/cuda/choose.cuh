/*
 * Choosing a token, by one block of CHOOSE_THREADS threads that meet at choose_sync: included by
 * whoever defines both. The definition is kernels/sample.h's.
 */
#ifndef PLX_KERNELS_CUDA_CHOOSE_CUH
#define PLX_KERNELS_CUDA_CHOOSE_CUH

#include "kernels/cuda/common.cuh"

#define THREADS CHOOSE_THREADS
#define WARPS   (CHOOSE_THREADS / WARP)
#define ONE     0x1p40f

struct cut {
	uint32_t key;
	uint32_t max_id;
};

struct choose_room {
	unsigned long long bin[256];
	unsigned long long left;
	unsigned long long part[WARPS];
	float value[WARPS];
	uint32_t id[WARPS];
	uint32_t key;
	uint32_t n_equal;
	struct cut c;
	float was[PLX_KC_RECENT_MAX];
};

/* A row that is being sampled; the same in all threads. */
struct row {
	const float *x;
	uint32_t n;
	float max;
};

/* The order of floats as integers; both zeros are equal, and subnormals are zeros. */
static __device__ __forceinline__ uint32_t key_of(float x)
{
	uint32_t u = __float_as_uint(fabsf(x) < 0x1p-126f ? 0.0f : x);

	return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ float float_of(uint32_t key)
{
	return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* plx_k_expf, bit for bit; compiled without contraction. */
static __device__ float exp_of(float x)
{
	float top = 88.3f < x ? 88.3f : x;
	float t = __fadd_rn(__fmul_rn(top, 0x1.715476p+0f), 0x1.8p+23f);
	float n = __fsub_rn(t, 0x1.8p+23f);
	float r = fmaf(n, 0x1.bd0106p-13f, fmaf(n, -0x1.63p-1f, top));
	float p = 0x1.a01a02p-13f;

	p = fmaf(p, r, 0x1.6c16c2p-10f);
	p = fmaf(p, r, 0x1.111112p-7f);
	p = fmaf(p, r, 0x1.555556p-5f);
	p = fmaf(p, r, 0x1.555556p-3f);
	p = fmaf(p, r, 0.5f);
	p = fmaf(p, r, 1.0f);
	p = fmaf(p, r, 1.0f);
	float y = __fmul_rn(p, __uint_as_float((__float_as_uint(t) << 23) + (127u << 23)));

	return x < -87.3f ? 0.0f : y;
}

static __device__ __forceinline__ unsigned long long weight_of(float x, float max, float inv_t)
{
	return (unsigned long long)(long long)__fmul_rn(exp_of(__fmul_rn(__fsub_rn(x, max), inv_t)),
	                                                ONE);
}

static __device__ __forceinline__ bool is_kept(struct cut c, float x, uint32_t id)
{
	uint32_t key = key_of(x);

	return key > c.key || (key == c.key && id <= c.max_id);
}

/* The sum of all threads' values, for all of them. */
static __device__ unsigned long long block_add(unsigned long long v, struct choose_room *m)
{
	for (int d = 16; d > 0; d >>= 1)
		v += __shfl_xor_sync(0xffffffffu, v, d);
	if (threadIdx.x % WARP == 0)
		m->part[threadIdx.x / WARP] = v;
	choose_sync();
	v = 0;
	for (uint32_t i = 0; i < WARPS; i++)
		v += m->part[i];
	choose_sync();
	return v;
}

/* Whether (x, id) comes before (y, other). */
static __device__ __forceinline__ bool is_before(float x, uint32_t id, float y, uint32_t other)
{
	return x > y || (x == y && id < other);
}

/* The first of all threads' candidates; id UINT32_MAX: none. */
static __device__ void block_first(float *x, uint32_t *id, struct choose_room *m)
{
	for (int d = 16; d > 0; d >>= 1) {
		float y = __shfl_xor_sync(0xffffffffu, *x, d);
		uint32_t other = __shfl_xor_sync(0xffffffffu, *id, d);

		if (is_before(y, other, *x, *id)) {
			*x = y;
			*id = other;
		}
	}
	if (threadIdx.x % WARP == 0) {
		m->value[threadIdx.x / WARP] = *x;
		m->id[threadIdx.x / WARP] = *id;
	}
	choose_sync();
	for (uint32_t i = 0; i < WARPS; i++)
		if (is_before(m->value[i], m->id[i], *x, *id)) {
			*x = m->value[i];
			*id = m->id[i];
		}
	choose_sync();
}

/* The best that comes after (last, last_id); with last = +inf the best of all. */
static __device__ uint32_t best_after(const struct row *r, float last, uint32_t last_id, float *out,
                                      struct choose_room *m)
{
	float x = -CUDART_INF_F;
	uint32_t id = UINT32_MAX;

	for (uint32_t i = threadIdx.x; i < r->n; i += THREADS)
		if (is_before(last, last_id, r->x[i], i) && is_before(r->x[i], i, x, id)) {
			x = r->x[i];
			id = i;
		}
	block_first(&x, &id, m);
	*out = x;
	return id;
}

/* The largest logit and its first id; false where there is a NaN. */
static __device__ bool nan_free(struct row *r, uint32_t *first, struct choose_room *m)
{
	unsigned long long nan = 0;
	float x = -CUDART_INF_F;
	uint32_t id = UINT32_MAX;

#pragma unroll 8
	for (uint32_t i = threadIdx.x; i < r->n; i += THREADS) {
		float v = r->x[i];

		nan += v != v;
		if (is_before(v, i, x, id)) {
			x = v;
			id = i;
		}
	}
	nan = block_add(nan, m);
	block_first(&x, &id, m);
	r->max = x;
	*first = id;
	return nan == 0;
}

/* The same; false where there is no finite largest either. */
static __device__ bool max_find(struct row *r, uint32_t *first, struct choose_room *m)
{
	return nan_free(r, first, m) && r->max > -CUDART_INF_F && r->max < CUDART_INF_F;
}

/* ---- cuts ------------------------------------------------------------------------------------ */

/* Fills the bins with byte `shift` of the keys that begin with `prefix`. */
static __device__ void bins_fill(const struct row *r, struct cut within, uint32_t prefix,
                                 uint32_t shift, bool weighed, struct choose_room *m)
{
	if (threadIdx.x < 256)
		m->bin[threadIdx.x] = 0;
	choose_sync();
	for (uint32_t i = threadIdx.x; i < r->n; i += THREADS) {
		uint32_t key = key_of(r->x[i]);
		bool in = shift == 24 || key >> (shift + 8) == prefix >> (shift + 8);

		if (!in || !is_kept(within, r->x[i], i))
			continue;
		unsigned long long v = weighed ? weight_of(r->x[i], r->max, 1.0f) : 1;

		if (v > 0)
			atomicAdd(&m->bin[(key >> shift) & 255], v);
	}
	choose_sync();
}

/* Thread 0: the bin, from the top, in which `left` is reached. */
static __device__ bool bin_choose(uint32_t *prefix, uint32_t shift, struct choose_room *m)
{
	if (threadIdx.x == 0) {
		int b = 255;

		while (b >= 0 && m->bin[b] < m->left)
			m->left -= m->bin[b--];
		m->key = b < 0 ? UINT32_MAX : *prefix | (uint32_t)b << shift;
		m->n_equal = b < 0;
	}
	choose_sync();
	*prefix = m->key;
	bool found = m->n_equal == 0;

	choose_sync();
	return found;
}

/* The left-th, by id, of the kept logits whose key is `key`: its id goes to m->c. */
static __device__ void equals_count(const struct row *r, struct cut within, uint32_t key,
                                    struct choose_room *m)
{
	unsigned long long before = 0, left = m->left;

	choose_sync();
	for (uint32_t at = 0; at < r->n && before < left; at += THREADS) {
		uint32_t i = at + threadIdx.x;
		bool hit = i < r->n && key_of(r->x[i]) == key && is_kept(within, r->x[i], i);
		uint32_t mask = __ballot_sync(0xffffffffu, hit), lane = threadIdx.x % WARP;

		if (lane == 0)
			m->part[threadIdx.x / WARP] = (uint32_t)__popc(mask);
		choose_sync();
		unsigned long long mine = before + (uint32_t)__popc(mask & ((2u << lane) - 1)),
				   all = 0;

		for (uint32_t w = 0; w < WARPS; w++) {
			all += m->part[w];
			if (w < threadIdx.x / WARP)
				mine += m->part[w];
		}
		if (hit && mine == left)
			m->c = {key, i};
		before += all;
		choose_sync();
	}
}

/* The shortest prefix of `within` whose count or weight reaches target; `within` if none does. */
static __device__ struct cut cut_find(const struct row *r, struct cut within, bool weighed,
                                      unsigned long long target, struct choose_room *m)
{
	uint32_t prefix = 0;

	if (threadIdx.x == 0) {
		m->left = target;
		m->c = within;
	}
	choose_sync();
	for (int shift = 24; shift >= 0; shift -= 8) {
		bins_fill(r, within, prefix, (uint32_t)shift, weighed, m);
		if (!bin_choose(&prefix, (uint32_t)shift, m))
			return within;
	}
	if (weighed && threadIdx.x == 0) {
		unsigned long long v = weight_of(float_of(prefix), r->max, 1.0f);

		m->left = (m->left + v - 1) / v;
	}
	choose_sync();
	equals_count(r, within, prefix, m);
	struct cut c = m->c;

	choose_sync();
	return c;
}

/* ---- drawing --------------------------------------------------------------------------------- */

static __device__ void philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t k0 = key[0], k1 = key[1];

	for (int i = 0; i < 4; i++)
		out[i] = ctr[i];
	for (int round = 0; round < 10; round++) {
		unsigned long long a = 0xd2511f53ull * out[0], b = 0xcd9e8d57ull * out[2];
		uint32_t c1 = out[1], c3 = out[3];

		out[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
		out[1] = (uint32_t)b;
		out[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
		out[3] = (uint32_t)a;
		k0 += 0x9e3779b9u;
		k1 += 0xbb67ae85u;
	}
}

static __device__ unsigned long long random_bits(const struct plx_kc_sampling *s)
{
	const uint32_t ctr[4] = {s->position, 0, s->sample, 0};
	const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
	uint32_t out[4];

	philox(ctr, key, out);
	return (unsigned long long)out[1] << 32 | out[0];
}

/* What is drawn from. */
struct pool {
	struct cut c;
	float least; /* of exp * ONE: min-p */
	float inv_temperature;
};

static __device__ unsigned long long pool_weight(const struct row *r, const struct pool *p,
                                                 uint32_t i)
{
	if (i >= r->n || !is_kept(p->c, r->x[i], i))
		return 0;
	if (__fmul_rn(exp_of(__fsub_rn(r->x[i], r->max)), ONE) < p->least)
		return 0;
	return weight_of(r->x[i], r->max, p->inv_temperature);
}

/* A warp walks its stretch of ids to the one whose running sum exceeds rest. */
static __device__ uint32_t stretch_walk(const struct row *r, const struct pool *p, uint32_t from,
                                        uint32_t to, unsigned long long rest)
{
	uint32_t lane = threadIdx.x % WARP;

	for (uint32_t at = from; at < to; at += WARP) {
		unsigned long long sum = at + lane < to ? pool_weight(r, p, at + lane) : 0;

		for (uint32_t d = 1; d < WARP; d *= 2) {
			unsigned long long below = __shfl_up_sync(0xffffffffu, sum, d);

			sum += lane >= d ? below : 0;
		}
		uint32_t hit = __ballot_sync(0xffffffffu, sum > rest);

		if (hit)
			return at + (uint32_t)__ffs((int)hit) - 1;
		rest -= __shfl_sync(0xffffffffu, sum, 31);
	}
	return UINT32_MAX;
}

static __device__ uint32_t draw(const struct row *r, const struct pool *p,
                                unsigned long long random, struct choose_room *m)
{
	uint32_t each = (r->n + WARPS - 1) / WARPS, warp = threadIdx.x / WARP;
	uint32_t from = min(warp * each, r->n), to = min(from + each, r->n);
	unsigned long long sum = 0, total = 0, below = 0;

	for (uint32_t i = from + threadIdx.x % WARP; i < to; i += WARP)
		sum += pool_weight(r, p, i);
	for (int d = 16; d > 0; d >>= 1)
		sum += __shfl_xor_sync(0xffffffffu, sum, d);
	if (threadIdx.x % WARP == 0)
		m->part[warp] = sum;
	choose_sync();
	for (uint32_t w = 0; w < WARPS; w++) {
		total += m->part[w];
		below += w < warp ? m->part[w] : 0;
	}
	unsigned long long at = __umul64hi(random, total);

	if (at >= below && at - below < sum) {
		uint32_t id = stretch_walk(r, p, from, to, at - below);

		if (threadIdx.x % WARP == 0)
			m->key = id;
	}
	choose_sync();
	uint32_t id = m->key;

	choose_sync();
	return id;
}

/* Steps 3 to 7 of the definition. */
static __device__ uint32_t choose(const struct row *r, const struct plx_kc_sampling *s,
                                  struct choose_room *m)
{
	struct pool p = {{0, UINT32_MAX}, ceilf(s->min_p * ONE), __fdiv_rn(1.0f, s->temperature)};

	if (s->top_k > 0 && s->top_k < r->n)
		p.c = cut_find(r, p.c, false, s->top_k, m);
	if (s->top_p < 1.0f) {
		unsigned long long sum = 0;

		for (uint32_t i = threadIdx.x; i < r->n; i += THREADS)
			if (is_kept(p.c, r->x[i], i))
				sum += weight_of(r->x[i], r->max, 1.0f);
		sum = block_add(sum, m);
		p.c =
		    cut_find(r, p.c, true,
		             (unsigned long long)ceil(__dmul_rn((double)s->top_p, (double)sum)), m);
	}
	return draw(r, &p, random_bits(s), m);
}

/* ---- log-probabilities ----------------------------------------------------------------------- */

/* Natural logarithm for x >= 1, as kernels/sample.c has it. */
static __device__ double log_of(double x)
{
	int e;
	double f = frexp(x, &e);

	if (f < 0x1.6a09e667f3bcdp-1) {
		f *= 2.0;
		e--;
	}
	f = __ddiv_rn(__dadd_rn(f, -1.0), __dadd_rn(f, 1.0));
	double f2 = __dmul_rn(f, f), p = 0.0;

	for (int i = 17; i >= 1; i -= 2)
		p = __dadd_rn(__dmul_rn(p, f2), __ddiv_rn(1.0, i));
	return __dadd_rn(__dmul_rn(__dmul_rn(2.0, f), p),
	                 __dmul_rn((double)e, 0x1.62e42fefa39efp-1));
}

static __device__ float logprob_of(float x, float max, double log_sum)
{
	return (float)__dsub_rn(__dsub_rn((double)x, (double)max), log_sum);
}

/* Of the logits as they came. */
static __device__ bool logprobs_make(struct row *r, const struct plx_kc_sampling *s, uint32_t id,
                                     float *out, struct choose_room *m)
{
	struct plx_kc_top *top = (struct plx_kc_top *)(uintptr_t)s->top_at;
	unsigned long long sum = 0;
	float last = CUDART_INF_F;
	uint32_t last_id = 0, first;

	/* Without a penalty they are those whose largest is known. */
	if (s->n_recent > 0 && !max_find(r, &first, m))
		return false;
#pragma unroll 8
	for (uint32_t i = threadIdx.x; i < r->n; i += THREADS)
		sum += weight_of(r->x[i], r->max, 1.0f);
	sum = block_add(sum, m);
	double log_sum = log_of(__dmul_rn((double)sum, 0x1p-40));

	*out = logprob_of(r->x[id], r->max, log_sum);
	for (uint32_t k = 0; k < s->n_top; k++) {
		last_id = best_after(r, last, last_id, &last, m);
		if (threadIdx.x == 0)
			top[k] = {(int32_t)last_id, logprob_of(last, r->max, log_sum)};
	}
	return true;
}

/* ---- the repeat penalty ---------------------------------------------------------------------- */

static __device__ void penalise(float *x, uint32_t n, const struct plx_kc_sampling *s,
                                struct choose_room *m)
{
	for (uint32_t i = threadIdx.x; i < s->n_recent; i += THREADS)
		m->was[i] = s->recent[i] < n ? x[s->recent[i]] : 0.0f;
	choose_sync();
	for (uint32_t i = threadIdx.x; i < s->n_recent; i += THREADS) {
		uint32_t id = s->recent[i];

		/* Whoever names an id writes the same value. */
		if (id < n)
			x[id] = m->was[i] > 0.0f ? __fdiv_rn(m->was[i], s->repeat_penalty)
			                         : __fmul_rn(m->was[i], s->repeat_penalty);
	}
	choose_sync();
}

static __device__ void restore(float *x, uint32_t n, const struct plx_kc_sampling *s,
                               const struct choose_room *m)
{
	for (uint32_t i = threadIdx.x; i < s->n_recent; i += THREADS)
		if (s->recent[i] < n)
			x[s->recent[i]] = m->was[i];
	choose_sync();
}

/* All threads: the row's choice, with its alternatives; x is penalised meanwhile. */
static __device__ struct plx_kc_choice
row_choose(float *x, uint32_t n_vocab, const struct plx_kc_sampling *s, struct choose_room *m)
{
	struct row r = {x, n_vocab, 0.0f};
	struct plx_kc_choice c = {-1, -1, 0.0f};
	uint32_t id = UINT32_MAX;

	penalise(x, n_vocab, s, m);
	bool fine = max_find(&r, &id, m);

	if (fine && s->temperature > 0.0f)
		id = choose(&r, s, m);
	restore(x, n_vocab, s, m);
	if (fine && id < n_vocab && logprobs_make(&r, s, id, &c.logprob, m)) {
		c.status = 0;
		c.id = (int32_t)id;
	}
	return c;
}

#undef THREADS
#undef WARPS
#endif
