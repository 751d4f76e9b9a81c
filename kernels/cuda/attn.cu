/*
 * Attention over paged KV: a block works on one token, the query heads of one KV head, and a split
 * of 128 positions (or on all its splits, one after another).
 *
 * In a split a thread is first a position: s[j] = scale * sum over d of q[d] k[j][d], by fma in the
 * order of d. Then a warp a head: the maximum, p[j] = exp(s[j] - max) and their sum, by one tree.
 * Then a warp takes every fourth position and a lane the dimensions; the four sums are added in
 * order. Nothing of a position that the query must not see is read.
 * Source: Milakov, Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135.
 */
#include "kernels/cuda/common.cuh"

#define SPLIT   PLX_KC_ATTN_SPLIT
#define WARPS   (SPLIT / WARP)
#define GROUP   8u                     /* query heads that go through a split together */
#define EMPTY   (-3.0e38f)
#define LANE_D2 (PLX_KC_HEAD_MAX / 64) /* pairs of dimensions of a lane, at most */

/* A block's shared memory. */
struct room {
	float q[GROUP][PLX_KC_HEAD_MAX];
	float s[GROUP][SPLIT];
	float o[WARPS][PLX_KC_HEAD_MAX];
	float max[GROUP];
	float sum[GROUP];
	uint64_t k_at[SPLIT]; /* where positions begin, in the pool */
};

/* What a block works on. */
struct job {
	const struct plx_kc_attn *a;
	uint32_t tok;
	uint32_t head0; /* first query head */
	uint32_t n;     /* query heads */
	uint32_t seen;  /* positions the query sees */
	uint64_t v_off; /* from a position's K to its V */
};

static __device__ void positions_find(struct room *m, const struct job *j, uint32_t split)
{
	const struct plx_kc_kv *kv = &j->a->kv;
	uint32_t pos = split * SPLIT + threadIdx.x, head = j->head0 / (kv->n_head / kv->n_head_kv);

	if (pos >= j->seen)
		return;
	uint32_t slot = j->a->toks.slot[j->tok];
	uint32_t block = kv->table[(uint64_t)slot * kv->max_seq_blocks + pos / kv->block_tokens];
	uint64_t row = ((uint64_t)(j->a->layer * 2) * kv->n_head_kv + head) * kv->block_tokens +
	               pos % kv->block_tokens;

	m->k_at[threadIdx.x] = block * kv->block_bytes + row * kv->head_dim * sizeof(__half);
}

/* A thread a position: its scores with all heads. */
static __device__ void scores_make(struct room *m, const struct job *j, uint32_t split)
{
	uint32_t dim = j->a->kv.head_dim;
	float s[GROUP] = {};

	if (split * SPLIT + threadIdx.x >= j->seen) {
		for (uint32_t i = 0; i < j->n; i++)
			m->s[i][threadIdx.x] = EMPTY;
		return;
	}
	const uint4 *k = (const uint4 *)(j->a->kv.pool + m->k_at[threadIdx.x]);

	for (uint32_t d = 0; d < dim; d += 8) {
		uint4 v = k[d / 8];
		const __half2 *h = (const __half2 *)&v;

#pragma unroll
		for (uint32_t e = 0; e < 4; e++) {
			float2 f = __half22float2(h[e]);

#pragma unroll
			for (uint32_t i = 0; i < GROUP; i++) {
				s[i] = fmaf(m->q[i][d + e * 2], f.x, s[i]);
				s[i] = fmaf(m->q[i][d + e * 2 + 1], f.y, s[i]);
			}
		}
	}
#pragma unroll
	for (uint32_t i = 0; i < GROUP; i++)
		m->s[i][threadIdx.x] = s[i] * j->a->scale;
}

/* A warp a head: maximum, probabilities, their sum. A NaN becomes the sum's. */
static __device__ void softmax_make(struct room *m, const struct job *j, uint32_t split)
{
	uint32_t lane = threadIdx.x % WARP;

	for (uint32_t i = threadIdx.x / WARP; i < j->n; i += WARPS) {
		float top = EMPTY, sum = 0.0f;

		for (uint32_t p = lane; p < SPLIT; p += WARP)
			top = fmaxf(top, m->s[i][p]);
		top = warp_max(top);
		for (uint32_t p = lane; p < SPLIT; p += WARP) {
			bool in = split * SPLIT + p < j->seen;
			float e = in ? expf(m->s[i][p] - top) : 0.0f;

			m->s[i][p] = e;
			sum += e;
		}
		sum = warp_sum(sum);
		if (lane == 0) {
			m->max[i] = top;
			m->sum[i] = sum;
		}
	}
}

/* One head's o of this split, into m->o[0]; all threads come along. */
static __device__ void values_make(struct room *m, const struct job *j, uint32_t split, uint32_t i)
{
	uint32_t dim = j->a->kv.head_dim, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
	uint32_t left = j->seen - split * SPLIT, n = left < SPLIT ? left : SPLIT;
	float2 o[LANE_D2] = {};

	for (uint32_t p = warp; p < n; p += WARPS) {
		const __half2 *v =
		    (const __half2 *)(j->a->kv.pool + m->k_at[p] + j->v_off);
		float w = m->s[i][p];

#pragma unroll
		for (uint32_t k = 0; k < LANE_D2; k++) {
			if ((k * WARP + lane) * 2 >= dim)
				continue;
			float2 f = __half22float2(v[k * WARP + lane]);

			o[k].x = fmaf(w, f.x, o[k].x);
			o[k].y = fmaf(w, f.y, o[k].y);
		}
	}
#pragma unroll
	for (uint32_t k = 0; k < LANE_D2; k++) {
		if ((k * WARP + lane) * 2 >= dim)
			continue;
		m->o[warp][(k * WARP + lane) * 2] = o[k].x;
		m->o[warp][(k * WARP + lane) * 2 + 1] = o[k].y;
	}
	__syncthreads();
	for (uint32_t d = threadIdx.x; d < dim; d += SPLIT) {
		float sum = m->o[0][d];

		for (uint32_t w = 1; w < WARPS; w++)
			sum += m->o[w][d];
		m->o[0][d] = sum;
	}
	__syncthreads();
}

/* A running result: what has been merged so far. */
struct merged {
	float max, sum;
	float o[PLX_KC_HEAD_MAX / SPLIT]; /* dimensions threadIdx.x + k * SPLIT */
};

/* c and its factors for one more partial with maximum and sum given. */
static __device__ __forceinline__ void merge_factors(struct merged *r, float max, float sum,
                                                     float *keep, float *add)
{
	float top = fmaxf(r->max, max);

	*keep = expf(r->max - top);
	*add = expf(max - top);
	r->sum = fmaf(sum, *add, r->sum * *keep);
	r->max = top;
}

static __device__ __forceinline__ float merge_one(float o, float part, float keep, float add)
{
	return fmaf(part, add, o * keep);
}

/* Dimension d of a head's result; warps come as a whole where it goes to act. */
static __device__ __forceinline__ void result_put(const struct plx_kc_attn *a, uint32_t tok,
                                                  uint32_t head, uint32_t d, float v)
{
	uint64_t at = (uint64_t)head * a->kv.head_dim + d;

	if (a->out != NULL)
		a->out[(uint64_t)tok * a->kv.n_head * a->kv.head_dim + at] = v;
	else
		split_store(&a->act, tok, (uint32_t)(at / 32), (uint32_t)(at % 32), v);
}

static __device__ void queries_load(struct room *m, const struct job *j)
{
	const struct plx_kc_kv *kv = &j->a->kv;
	uint32_t dim = kv->head_dim, width = (kv->n_head + 2 * kv->n_head_kv) * dim;
	const float *q = j->a->qkv + (uint64_t)j->tok * width + (uint64_t)j->head0 * dim;

	for (uint32_t i = threadIdx.x; i < GROUP * dim; i += SPLIT)
		m->q[i / dim][i % dim] = i / dim < j->n ? q[i] : 0.0f;
}

static __device__ bool job_find(struct job *j, const struct plx_kc_attn *a)
{
	const struct plx_kc_kv *kv = &a->kv;
	uint32_t group = kv->n_head / kv->n_head_kv, parts = (group + GROUP - 1) / GROUP;
	uint32_t head = blockIdx.y / parts, part = blockIdx.y % parts;

	j->a = a;
	j->tok = blockIdx.x;
	if (j->tok >= a->toks.n->n_tok)
		return false;
	j->head0 = head * group + part * GROUP;
	j->n = min(GROUP, group - part * GROUP);
	j->seen = a->toks.pos[j->tok] + 1;
	j->v_off = (uint64_t)kv->n_head_kv * kv->block_tokens * kv->head_dim * sizeof(__half);
	return true;
}

static __device__ float *part_at(const struct plx_kc_attn *a, uint32_t tok, uint32_t head,
                                 uint32_t split)
{
	return a->part + (((uint64_t)tok * a->kv.n_head + head) * a->n_split + split) *
	                     (a->kv.head_dim + 2);
}

/* A block a split. */
static __global__ void __launch_bounds__(SPLIT) part_kernel(const __grid_constant__ plx_kc_attn a)
{
	__shared__ struct room m;
	struct job j;
	uint32_t split = blockIdx.z;

	step_wait();
	if (!job_find(&j, &a) || split * SPLIT >= j.seen)
		return;
	queries_load(&m, &j);
	positions_find(&m, &j, split);
	__syncthreads();
	scores_make(&m, &j, split);
	__syncthreads();
	softmax_make(&m, &j, split);
	__syncthreads();
	for (uint32_t i = 0; i < j.n; i++) {
		float *to = part_at(&a, j.tok, j.head0 + i, split);

		values_make(&m, &j, split, i);
		for (uint32_t d = threadIdx.x; d < a.kv.head_dim; d += SPLIT)
			to[d] = m.o[0][d];
		if (threadIdx.x == 0) {
			to[a.kv.head_dim] = m.max[i];
			to[a.kv.head_dim + 1] = m.sum[i];
		}
		__syncthreads();
	}
}

static __global__ void __launch_bounds__(SPLIT) merge_kernel(const __grid_constant__ plx_kc_attn a)
{
	uint32_t tok = blockIdx.x, head = blockIdx.y, dim = a.kv.head_dim;
	struct merged r = {EMPTY, 0.0f, {}};

	step_wait();
	if (tok >= a.toks.n->n_tok)
		return;
	uint32_t n = a.toks.pos[tok] / SPLIT + 1;

	for (uint32_t s = 0; s < n; s++) {
		const float *p = part_at(&a, tok, head, s);
		float keep, add;

		merge_factors(&r, p[dim], p[dim + 1], &keep, &add);
		for (uint32_t k = 0, d = threadIdx.x; d < dim; k++, d += SPLIT)
			r.o[k] = merge_one(r.o[k], p[d], keep, add);
	}
	for (uint32_t k = 0, d = threadIdx.x; d < dim; k++, d += SPLIT)
		result_put(&a, tok, head, d, r.o[k] / r.sum);
}

/* A block all splits of its heads. */
static __global__ void __launch_bounds__(SPLIT) whole_kernel(const __grid_constant__ plx_kc_attn a)
{
	__shared__ struct room m;
	struct merged r[GROUP];
	struct job j;
	uint32_t dim = a.kv.head_dim;

	step_wait();
	if (!job_find(&j, &a))
		return;
#pragma unroll
	for (uint32_t i = 0; i < GROUP; i++)
		r[i] = {EMPTY, 0.0f, {}};
	queries_load(&m, &j);
	for (uint32_t split = 0; split * SPLIT < j.seen; split++) {
		positions_find(&m, &j, split);
		__syncthreads();
		scores_make(&m, &j, split);
		__syncthreads();
		softmax_make(&m, &j, split);
		__syncthreads();
#pragma unroll
		for (uint32_t i = 0; i < GROUP; i++) {
			float keep, add;

			if (i >= j.n)
				continue;
			values_make(&m, &j, split, i);
			merge_factors(&r[i], m.max[i], m.sum[i], &keep, &add);
#pragma unroll
			for (uint32_t k = 0; k < PLX_KC_HEAD_MAX / SPLIT; k++)
				if (threadIdx.x + k * SPLIT < dim)
					r[i].o[k] = merge_one(
					    r[i].o[k], m.o[0][threadIdx.x + k * SPLIT], keep, add);
			__syncthreads();
		}
	}
#pragma unroll
	for (uint32_t i = 0; i < GROUP; i++) {
#pragma unroll
		for (uint32_t k = 0; k < PLX_KC_HEAD_MAX / SPLIT; k++)
			if (i < j.n && threadIdx.x + k * SPLIT < dim)
				result_put(&a, j.tok, j.head0 + i, threadIdx.x + k * SPLIT,
				           r[i].o[k] / r[i].sum);
	}
}

void plx_kc_attention(const struct plx_kc_attn *a, struct CUstream_st *st)
{
	uint32_t group = a->kv.n_head / a->kv.n_head_kv;
	uint32_t units = a->kv.n_head_kv * ((group + GROUP - 1) / GROUP);

	if (a->part == NULL) {
		step_launch(whole_kernel, dim3(a->toks.max_tok, units), SPLIT, st, *a);
		return;
	}
	step_launch(part_kernel, dim3(a->toks.max_tok, units, a->n_split), SPLIT, st, *a);
	step_launch(merge_kernel, dim3(a->toks.max_tok, a->kv.n_head), SPLIT, st, *a);
}
