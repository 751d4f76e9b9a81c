/*
 * Matrix products of up to 32 tokens: weights are read once, at the memory's rate.
 *
 * A block's 16 warps are the chains of the tiles it works on, one tile after another: warp c sums
 * stretches c, c + 16 .. of 64 columns, and a result is the sum of the chains in their order, as
 * in mm.cu. Each warp asks for weights several stretches ahead, across tiles, and before it waits
 * for the kernel in front of it; what comes after that, and what the next kernels will read, is
 * asked into L2 meanwhile. Activations lie in shared memory where they fit, normed on the way in
 * where the product is told to: every block does that for itself, in norm_kernel's order.
 */
#include "kernels/cuda/tile.cuh"

#define THREADS    (CHAINS * WARP)
#define TOK_BYTES  272u /* a stretch of a token in shared memory: 256, and 16 for the banks */
#define ROOM_BYTES (72u * 1024) /* of activations in shared memory */
#define NORM_EACH  8u           /* values a thread norms: rows of up to 4,096 */

/* What a launch is told beside its operands; the same for all blocks. */
struct few {
	struct plx_kc_mm m;
	uint32_t n_unit;    /* a tile, or the two of gate and the two of up that make 32 columns */
	uint32_t n_sub;     /* tiles of a unit: 1 or 4 */
	uint32_t n_round;   /* stretches of a chain, at most */
	uint32_t tok_room;  /* tokens that partial sums have room for */
	uint32_t n_parity;  /* sets of partial sums */
	uint32_t part_off;  /* in shared memory, behind activations */
	uint32_t own_bytes; /* of a tile, asked into L2 beforehand */
};

/* Where a warp's lanes read a tile's next stretch. */
struct cursor {
	const uint8_t *q, *hi, *scale, *super;
};

/* ---- asking for weights -----------------------------------------------------------------------
 */

/* The tile that (unit, sub) is; the loop is unrolled so that segments stay in constant memory. */
static __device__ __forceinline__ uint32_t tile_of(const struct few &f, uint32_t unit, uint32_t sub,
                                                   uint32_t *seg)
{
	uint32_t tile = unit;

	*seg = 0;
	if (f.n_sub == 4) {
		*seg = sub % 2;
		return unit * 2 + sub / 2;
	}
#pragma unroll
	for (uint32_t k = 0; k < 2; k++) {
		uint32_t n = (f.m.seg[k].w.n_out + 15) / 16;

		if (*seg != k || k + 1 >= f.m.n_seg || tile < n)
			continue;
		tile -= n;
		*seg = k + 1;
	}
	return tile;
}

template <class T>
static __device__ __forceinline__ T seg_get(const struct few &f, uint32_t seg,
                                            T plx_kc_mat::*member)
{
	T a = f.m.seg[0].w.*member;

	a = seg == 1 ? f.m.seg[1].w.*member : a;
	return seg == 2 ? f.m.seg[2].w.*member : a;
}

template <int TYPE>
static __device__ __forceinline__ void cursor_set(struct cursor *c, const struct few &f,
                                                  uint32_t unit, uint32_t sub)
{
	uint32_t seg, tile = tile_of(f, unit, sub, &seg);
	uint32_t n_kp = f.m.act.n_kp, chain = threadIdx.x / WARP, lane = threadIdx.x % WARP;
	uint64_t at = (uint64_t)tile * n_kp + chain;

	c->q =
	    (const uint8_t *)seg_get(f, seg, &plx_kc_mat::q) + at * n_load(TYPE) * 512 + lane * 16;
	if (has_hi(TYPE))
		c->hi = (const uint8_t *)seg_get(f, seg, &plx_kc_mat::hi) + at * 256 + lane * 8;
	if (scale_bytes(TYPE) > 0)
		c->scale = (const uint8_t *)seg_get(f, seg, &plx_kc_mat::scale) +
		           (at * 8 + lane / 4) * scale_bytes(TYPE);
	if (has_super(TYPE))
		c->super = (const uint8_t *)seg_get(f, seg, &plx_kc_mat::super) +
		           (((uint64_t)tile * (n_kp / 4) + chain / 4) * 8 + lane / 4) * 8;
}

template <int TYPE>
static __device__ __forceinline__ void cursor_load(struct raw<TYPE> *w, struct cursor *c)
{
#pragma unroll
	for (int i = 0; i < n_load(TYPE); i++)
		w->q[i] = __ldcs((const uint4 *)(c->q + i * 512));
	if (has_hi(TYPE))
		w->hi = __ldcs((const uint2 *)c->hi);
	if (scale_bytes(TYPE) == 16)
		w->scale = __ldcs((const uint4 *)c->scale);
	if (scale_bytes(TYPE) == 8) {
		uint2 v = __ldcs((const uint2 *)c->scale);

		w->scale = make_uint4(v.x, v.y, 0, 0);
	}
	if (has_super(TYPE))
		w->super = __ldg((const uint2 *)c->super);
	c->q += CHAINS * n_load(TYPE) * 512;
	c->hi += CHAINS * 256;
	c->scale += CHAINS * 8 * scale_bytes(TYPE);
	c->super += CHAINS / 4 * 64;
}

/* Where the next load stands. */
struct place {
	uint32_t unit, sub, round;
};

template <int TYPE>
static __device__ __forceinline__ void place_next(struct place *p, struct cursor *c,
                                                  const struct few &f)
{
	if (++p->round < f.n_round)
		return;
	p->round = 0;
	if (++p->sub == f.n_sub) {
		p->sub = 0;
		p->unit += gridDim.x;
	}
	if (p->unit < f.n_unit)
		cursor_set<TYPE>(c, f, p->unit, p->sub);
}

template <int TYPE>
static __device__ __forceinline__ void ahead_load(struct raw<TYPE> *w, struct place *p,
                                                  struct cursor *c, const struct few &f)
{
	if (p->unit >= f.n_unit)
		return;
	if (threadIdx.x / WARP + p->round * CHAINS < f.m.act.n_kp)
		cursor_load<TYPE>(w, c);
	place_next<TYPE>(p, c, f);
}

static __device__ __forceinline__ void l2_ask(const void *at, uint32_t bytes)
{
	asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
}

/* A warp: what this block will read, and its share of what comes after this kernel. */
template <int TYPE> static __device__ __forceinline__ void l2_fill(const struct few &f)
{
	uint32_t lane = threadIdx.x, seg;

	if (lane < f.n_sub && f.own_bytes > 0) {
		uint32_t tile = tile_of(f, blockIdx.x, lane, &seg);

		l2_ask((const uint8_t *)seg_get(f, seg, &plx_kc_mat::q) +
		           (uint64_t)tile * f.m.act.n_kp * n_load(TYPE) * 512,
		       f.own_bytes);
	}
	if (lane < PLX_KC_AHEAD && f.m.ahead[lane].bytes > 0) {
		uint64_t each = f.m.ahead[lane].bytes / gridDim.x & ~(uint64_t)15;

		if (each > 0)
			l2_ask((const uint8_t *)f.m.ahead[lane].at + blockIdx.x * each,
			       (uint32_t)each);
	}
}

/* ---- activations ------------------------------------------------------------------------------
 */

/* Stretch kp of a token in shared memory: a warp's stretches lie together. */
static __device__ __forceinline__ uint8_t *stretch_at(uint8_t *room, const struct few &f,
                                                      uint32_t kp, uint32_t tok)
{
	return room + ((kp % CHAINS * f.n_round + kp / CHAINS) * f.tok_room + tok) * TOK_BYTES;
}

/* The norm's weights on their way into this multiprocessor's cache. */
static __device__ __forceinline__ void norm_ask(const struct few &f)
{
	uint32_t i = threadIdx.x * 32;

	if (i < f.m.act.n_in)
		asm volatile("prefetch.global.L1 [%0];" ::"l"(f.m.norm.w + i));
}

/* A row's norm as operands; the last value of each token's stretch is followed by two sums. */
static __device__ __forceinline__ void norm_store(uint8_t *room, const struct few &f, float *part)
{
	const float *x =
	    f.m.norm.x +
	    (uint64_t)(f.m.norm.src != NULL ? f.m.norm.src[f.m.row0] : 0) * f.m.act.n_in;
	uint32_t lane = threadIdx.x % WARP;
	float sum = 0.0f, v[NORM_EACH];

#pragma unroll
	for (uint32_t k = 0; k < NORM_EACH; k++) {
		uint32_t i = threadIdx.x + k * THREADS;

		v[k] = i < f.m.act.n_in ? x[i] : 0.0f;
	}
#pragma unroll
	for (uint32_t k = 0; k < NORM_EACH; k++)
		if (threadIdx.x + k * THREADS < f.m.act.n_in)
			sum = fmaf(v[k], v[k], sum);
	sum = warp_sum(sum);
	if (lane == 0)
		part[threadIdx.x / WARP] = sum;
	__syncthreads();
	sum = 0.0f;
	for (uint32_t i = 0; i < CHAINS; i++)
		sum += part[i];
	float r = 1.0f / sqrtf(sum / (float)f.m.act.n_in + f.m.norm.eps);

#pragma unroll
	for (uint32_t k = 0; k < NORM_EACH; k++) {
		uint32_t b = threadIdx.x / WARP + k * CHAINS;

		if (b >= f.m.act.n_kp * 2)
			continue;
		uint8_t *at = stretch_at(room, f, b / 2, 0);
		uint16_t *to = (uint16_t *)at + b % 2 * 64 + ((lane >> 2) & 3) * 16 +
		               (lane >> 4) * 4 + (lane & 3);
		uint32_t i = b * 32 + lane;
		float y = i < f.m.act.n_in ? v[k] * r * __ldg(f.m.norm.w + i) : 0.0f;
		__nv_bfloat16 hi = __float2bfloat16_rn(y);
		__nv_bfloat16 lo = __float2bfloat16_rn(y - __bfloat162float(hi));

		to[0] = __bfloat16_as_ushort(hi);
		to[8] = __bfloat16_as_ushort(lo);
		sum = warp_sum(__bfloat162float(hi) + __bfloat162float(lo));
		if (lane == 0)
			((float *)(at + 256))[b % 2] = sum;
	}
	__syncthreads();
}

template <int BYTES> static __device__ __forceinline__ void copy_async(void *to, const void *from)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
			 (uint32_t)__cvta_generic_to_shared(to)),
	             "l"(from), "n"(BYTES)
	             : "memory");
}

/* A warp's own stretches of all tokens, so that warps need not meet. */
static __device__ __forceinline__ void stretches_take(uint8_t *room, const struct few &f,
                                                      uint32_t n_tok)
{
	uint32_t lane = threadIdx.x % WARP, chain = threadIdx.x / WARP, n_kp = f.m.act.n_kp;
	uint32_t n = chain < n_kp ? (n_kp - chain + CHAINS - 1) / CHAINS * n_tok : 0;

	for (uint32_t i = lane / 16; i < n; i += 2) {
		uint32_t tok = i % n_tok, kp = chain + i / n_tok * CHAINS;
		uint8_t *to = stretch_at(room, f, kp, tok);
		uint64_t at = (uint64_t)tok * n_kp + kp;

		copy_async<16>(to + lane % 16 * 16,
		               (const uint8_t *)f.m.act.x2 + at * 256 + lane % 16 * 16);
		if (lane % 16 == 0)
			copy_async<8>(to + 256, f.m.act.sum + at * 2);
	}
	asm volatile("cp.async.wait_all;" ::: "memory");
	__syncwarp();
}

template <int TYPE>
static __device__ __forceinline__ void operand_get(struct operand *b, const uint8_t *stretch,
                                                   uint32_t kb, uint32_t n_tok)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

	b->hi = b->lo = make_uint4(0, 0, 0, 0);
	b->sum = make_float2(0.0f, 0.0f);
	if (g < n_tok) {
		const uint4 *at = (const uint4 *)(stretch + g * TOK_BYTES + kb * 128 + t * 32);

		b->hi = at[0];
		b->lo = at[1];
	}
	if (wants_sum<TYPE>() && t * 2 < n_tok)
		b->sum.x = ((const float *)(stretch + t * 2 * TOK_BYTES + 256))[kb];
	if (wants_sum<TYPE>() && t * 2 + 1 < n_tok)
		b->sum.y = ((const float *)(stretch + (t * 2 + 1) * TOK_BYTES + 256))[kb];
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* Stretches that a warp has asked for. */
#define AHEAD(type, n)                                                                             \
	(n_load(type) >= 2 || (n) >= 4 || has_hi(type) || scale_bytes(type) > 8 ? 2u : 3u)

template <int TYPE, int N, bool ROOM>
static __device__ __forceinline__ void stretch_add(float acc[N][4], const struct raw<TYPE> *w,
                                                   const struct reader *r, const uint8_t *stretch,
                                                   uint32_t kp)
{
	struct operand b[2][N];

#pragma unroll
	for (int kb = 0; N < 4 && kb < 2; kb++)
#pragma unroll
		for (int i = 0; i < N; i++)
			if (ROOM)
				operand_get<TYPE>(&b[kb][i], stretch, (uint32_t)kb, r->n_tok);
			else
				operand_load<wants_sum<TYPE>(), false>(&b[kb][i], r, (uint32_t)i,
				                                       kp * 2 + (uint32_t)kb);
#pragma unroll
	for (int kb = 0; kb < 2; kb++) {
		uint32_t a[2][4], rest[2][4];

		tile_operand<TYPE>(w, kb, 0, a[0], rest[0]);
		tile_operand<TYPE>(w, kb, 1, a[1], rest[1]);
#pragma unroll
		for (int i = 0; i < N; i++) {
			if (N >= 4) /* there are no registers to load it early */
				operand_load<wants_sum<TYPE>(), false>(&b[kb][i], r, (uint32_t)i,
				                                       kp * 2 + (uint32_t)kb);
			block_add<TYPE>(acc[i], w, kb, a, rest, &b[kb][i]);
		}
	}
}

/* ---- results ----------------------------------------------------------------------------------
 */

/* Partial sums of a tile: [chain][token][16 rows]. */
static __device__ __forceinline__ float *part_of(float *part, const struct few &f, uint32_t parity,
                                                 uint32_t sub)
{
	return part + (parity * f.n_sub + sub) * CHAINS * f.tok_room * 16;
}

template <int N>
static __device__ __forceinline__ void part_put(float *part, const float acc[N][4],
                                                const struct few &f)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

	part += threadIdx.x / WARP * f.tok_room * 16;
#pragma unroll
	for (uint32_t i = 0; i < N; i++)
#pragma unroll
		for (uint32_t c = 0; c < 4; c++) {
			uint32_t tok = i * 8 + t * 2 + c % 2;

			if (tok < f.tok_room)
				part[tok * 16 + g + c / 2 * 8] = acc[i][c];
		}
}

static __device__ __forceinline__ float chains_sum(const float *part, const struct few &f,
                                                   uint32_t i)
{
	float v = 0.0f;

#pragma unroll
	for (uint32_t c = 0; c < CHAINS; c++)
		v += part[c * f.tok_room * 16 + i];
	return v;
}

/* A tile's results: bias and what is there already are added. */
static __device__ __forceinline__ void tile_put(const float *part, const struct few &f,
                                                uint32_t unit, uint32_t n_tok)
{
	uint32_t seg, tile = tile_of(f, unit, 0, &seg);

	for (uint32_t i = threadIdx.x; i < n_tok * 16; i += THREADS) {
		uint32_t row = tile * 16 + i % 16;
		const struct plx_kc_seg *s = seg == 0   ? &f.m.seg[0]
		                             : seg == 1 ? &f.m.seg[1]
		                                        : &f.m.seg[2];
		float *y = s->y + (uint64_t)(i / 16) * s->y_stride + row;

		if (row >= s->w.n_out)
			continue;
		float v = chains_sum(part, f, i);

		if (s->bias != NULL)
			v += s->bias[row];
		*y = s->add ? *y + v : v;
	}
}

/* 32 columns of silu(gate) up: a warp a token. */
static __device__ __forceinline__ void mid_put(float *part, const struct few &f, uint32_t parity,
                                               uint32_t unit, uint32_t n_tok)
{
	uint32_t lane = threadIdx.x % WARP, sub = lane / 16 * 2;

	for (uint32_t tok = threadIdx.x / WARP; tok < n_tok; tok += CHAINS) {
		uint32_t i = tok * 16 + lane % 16;
		float v = chains_sum(part_of(part, f, parity, sub), f, i);
		float up = chains_sum(part_of(part, f, parity, sub + 1), f, i);

		v = v / (1.0f + expf(-v)) * up;
		split_store(&f.m.mid, tok, unit, lane, v);
	}
}

/* All threads, behind the last tile of a unit. */
static __device__ __forceinline__ void unit_put(float *part, const struct few &f, uint32_t parity,
                                                uint32_t unit, uint32_t n_tok)
{
	__syncthreads();
	if (f.n_sub == 1)
		tile_put(part_of(part, f, parity, 0), f, unit, n_tok);
	else
		mid_put(part, f, parity, unit, n_tok);
	if (f.n_parity == 1)
		__syncthreads();
}

/* ---- the kernel -------------------------------------------------------------------------------
 */

template <int TYPE, int N> static __host__ __device__ constexpr int blocks_of()
{
	return N == 1 && TYPE != PLX_Q_F32 && TYPE != PLX_Q_F16 ? 2 : 1;
}

template <int TYPE, int N, bool ROOM>
static __global__ void __launch_bounds__(THREADS, (blocks_of<TYPE, N>()))
    few_kernel(const __grid_constant__ struct few f)
{
	extern __shared__ __align__(16) uint8_t room[];
	constexpr uint32_t D = AHEAD(TYPE, N);
	float *part = (float *)(room + f.part_off);
	uint32_t chain = threadIdx.x / WARP;
	struct place at = {blockIdx.x, 0, 0}, now = at;
	struct raw<TYPE> w[D];
	struct cursor c;

	cursor_set<TYPE>(&c, f, at.unit, 0);
#pragma unroll
	for (uint32_t d = 0; d < D; d++)
		ahead_load<TYPE>(&w[d], &at, &c, f);
	if (threadIdx.x < WARP)
		l2_fill<TYPE>(f);
	if (ROOM && f.m.norm.x != NULL)
		norm_ask(f);
	/* Weights are nobody's to write: they are on their way while the kernel before ends. */
	step_wait();
	uint32_t n_tok = count_of(f.m.n, f.m.of_rows, f.m.row0, f.m.max_tok);

	if (n_tok == 0)
		return;
	const struct reader r = {
	    f.m.act.x2, f.m.act.sum, (uint64_t)f.m.act.n_kp * 128, (uint64_t)f.m.act.n_kp * 2,
	    n_tok,      0,           threadIdx.x % WARP / 4,       threadIdx.x % 4};

	if (ROOM && f.m.norm.x != NULL)
		norm_store(room, f, part);
	else if (ROOM)
		stretches_take(room, f, n_tok);
	float acc[N][4] = {};
	uint32_t parity = 0;

	while (now.unit < f.n_unit) {
#pragma unroll
		for (uint32_t d = 0; d < D; d++) {
			uint32_t kp = chain + now.round * CHAINS;

			if (now.unit >= f.n_unit)
				break;
			if (kp < f.m.act.n_kp)
				stretch_add<TYPE, N, ROOM>(
				    acc, &w[d], &r, ROOM ? stretch_at(room, f, kp, 0) : room, kp);
			ahead_load<TYPE>(&w[d], &at, &c, f);
			if (++now.round < f.n_round)
				continue;
			now.round = 0;
			part_put<N>(part_of(part, f, parity, now.sub), acc, f);
#pragma unroll
			for (int i = 0; i < N * 4; i++)
				acc[i / 4][i % 4] = 0.0f;
			if (++now.sub < f.n_sub)
				continue;
			now.sub = 0;
			unit_put(part, f, parity, now.unit, n_tok);
			parity = f.n_parity - 1 - parity;
			now.unit += gridDim.x;
		}
	}
}

/* ---- launching ------------------------------------------------------------------------------- */

static uint32_t n_blocks(void)
{
	static int n_sm; /* asked once */

	if (n_sm == 0 &&
	    cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, 0) != cudaSuccess)
		n_sm = 132;
	return (uint32_t)n_sm * 2;
}

template <int TYPE, int N, bool ROOM>
static void few_launch(const struct few *f, uint32_t bytes, struct CUstream_st *st)
{
	static bool large; /* a kernel says once that it wants more than 48 KiB */

	if (!large)
		large = cudaFuncSetAttribute((const void *)few_kernel<TYPE, N, ROOM>,
		                             cudaFuncAttributeMaxDynamicSharedMemorySize,
		                             200 * 1024) == cudaSuccess;
	step_launch_with(bytes, few_kernel<TYPE, N, ROOM>,
	                 dim3(f->n_unit < n_blocks() ? f->n_unit : n_blocks()), THREADS, st, *f);
}

static uint32_t tiles_of(const struct plx_kc_mm *m)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->n_seg; i++)
		n += (m->seg[i].w.n_out + 15) / 16;
	return n;
}

template <int TYPE> static void few_any(const struct plx_kc_mm *m, struct CUstream_st *st)
{
	struct few f = {};
	uint32_t act_bytes;

	f.m = *m;
	f.n_sub = m->mid.x2 != NULL ? 4 : 1;
	f.n_unit = tiles_of(m) / f.n_sub;
	f.n_round = (m->act.n_kp + CHAINS - 1) / CHAINS;
	f.tok_room = m->max_tok;
	f.n_parity = m->max_tok <= 4 ? 2 : 1;
	f.own_bytes = m->act.n_kp * n_load(TYPE) * 512;
	f.own_bytes = f.own_bytes * f.n_sub <= 128 * 1024 ? f.own_bytes : 0;
	act_bytes = CHAINS * f.n_round * m->max_tok * TOK_BYTES;

	bool in_room = m->max_tok <= 8 && act_bytes <= ROOM_BYTES;

	f.part_off = in_room ? act_bytes : 0;
	uint32_t bytes = f.part_off + f.n_parity * f.n_sub * CHAINS * f.tok_room * 64;

	if (m->max_tok <= 8 && in_room)
		few_launch<TYPE, 1, true>(&f, bytes, st);
	else if (m->max_tok <= 8)
		few_launch<TYPE, 1, false>(&f, bytes, st);
	else if (m->max_tok <= 16)
		few_launch<TYPE, 2, false>(&f, bytes, st);
	else
		few_launch<TYPE, 4, false>(&f, bytes, st);
}

bool plx_kc_few_norms(uint32_t n_in, uint32_t max_tok)
{
	uint32_t n_round = ((n_in + 63) / 64 + CHAINS - 1) / CHAINS;

	return max_tok == 1 && n_in <= NORM_EACH * THREADS &&
	       CHAINS * n_round * TOK_BYTES <= ROOM_BYTES;
}

void plx_kc_few(const struct plx_kc_mm *m, struct CUstream_st *st)
{
	switch (m->seg[0].w.type) {
#define X(T)                                                                                       \
	case T:                                                                                    \
		few_any<T>(m, st);                                                                 \
		break;
		N_LIST(X)
#undef X
	default:
		break;
	}
}
