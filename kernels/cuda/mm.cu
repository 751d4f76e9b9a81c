/*
 * Matrix products on tensor cores, weights from 4 to 32 bits.
 *
 * A warp's unit is a tile of 16 rows by 32 columns: stored integers become bf16 exactly, are
 * multiplied by both bf16 parts of up to 8 tokens, and the block's sum is scaled in f32:
 *   p = sum over the 32 of q (hi + lo);  acc = fma(d, p, acc);  acc = fma(m, sum of x, acc)
 * Columns are dealt out in stretches of 64 to 16 chains, stretch i to chain i % 16; a result is
 * the sum of the chains in their order. For few tokens a block's 16 warps are the chains of one tile;
 * for many, a warp does all chains of its tiles one after another. So the bits are the same, for
 * any number of tokens.
 */
#include "kernels/cuda/mat.cuh"

#define CHAINS    16u
#define MANY_TILE 2u /* row tiles of a warp, for many tokens */
#define MANY_TOK  4u /* token tiles of 8 */
#define MANY_WARP 8u

static __device__ __forceinline__ void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
	    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* A lane's share of 8 tokens' 32 columns, and the sums of its two tokens. */
struct operand {
	uint4 hi, lo;
	float2 sum;
};

/* Where a lane reads activations: token 8i + g, and sums of tokens 8i + 2t, 8i + 2t + 1. */
struct reader {
	const uint16_t *x2;
	const float *sum;
	uint64_t x2_stride, sum_stride;
	uint32_t n_tok, tok0; /* this lane's first token is tok0 + g */
	uint32_t g, t;
};

template <bool SUM>
static __device__ __forceinline__ void operand_load(struct operand *b, const struct reader *r,
                                                    uint32_t i, uint32_t kb)
{
	uint32_t tok = r->tok0 + i * 8 + r->g, two = r->tok0 + i * 8 + r->t * 2;

	b->hi = b->lo = make_uint4(0, 0, 0, 0);
	b->sum = make_float2(0.0f, 0.0f);
	if (tok < r->n_tok) {
		const uint4 *at =
		    (const uint4 *)(r->x2 + tok * r->x2_stride + kb * 64 + r->t * 16);

		b->hi = __ldg(at);
		b->lo = __ldg(at + 1);
	}
	if (SUM && two < r->n_tok)
		b->sum.x = __ldg(r->sum + two * r->sum_stride + kb);
	if (SUM && two + 1 < r->n_tok)
		b->sum.y = __ldg(r->sum + (two + 1) * r->sum_stride + kb);
}

/* Half h of a tile's 32 columns: the operand, and what bf16 leaves of F16 and F32. */
template <int TYPE>
static __device__ __forceinline__ void tile_operand(const struct raw<TYPE> *w, int kb, int h,
                                                    uint32_t a[4], uint32_t rest[4])
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		a[i] = pair_at<TYPE>(w, i % 2, kb, h * 2 + i / 2, &rest[i]);
}

/* acc += tile times tokens, 32 columns. */
template <int TYPE>
static __device__ __forceinline__ void block_add(float acc[4], const struct raw<TYPE> *w, int kb,
                                                 const uint32_t a[2][4], const uint32_t rest[2][4],
                                                 const struct operand *b)
{
	constexpr bool floats = scale_of(TYPE) == SCALE_NONE;
	float p[4] = {0.0f, 0.0f, 0.0f, 0.0f};
	float *to = floats ? acc : p;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t h0 = h ? b->hi.z : b->hi.x, h1 = h ? b->hi.w : b->hi.y;
		uint32_t l0 = h ? b->lo.z : b->lo.x, l1 = h ? b->lo.w : b->lo.y;

		mma(to, a[h], l0, l1);
		if (TYPE == PLX_Q_F16 || TYPE == PLX_Q_F32)
			mma(to, rest[h], h0, h1);
		mma(to, a[h], h0, h1);
		if (floats || (scale_of(TYPE) != SCALE_K6 && h == 0))
			continue;
		float2 s0 = scale_at<TYPE>(w, 0, kb, h), s1 = scale_at<TYPE>(w, 1, kb, h);

		acc[0] = fmaf(s0.x, p[0], acc[0]);
		acc[1] = fmaf(s0.x, p[1], acc[1]);
		acc[2] = fmaf(s1.x, p[2], acc[2]);
		acc[3] = fmaf(s1.x, p[3], acc[3]);
		p[0] = p[1] = p[2] = p[3] = 0.0f;
		if (scale_of(TYPE) == SCALE_D || scale_of(TYPE) == SCALE_K6)
			continue;
		acc[0] = fmaf(s0.y, b->sum.x, acc[0]);
		acc[1] = fmaf(s0.y, b->sum.y, acc[1]);
		acc[2] = fmaf(s1.y, b->sum.x, acc[2]);
		acc[3] = fmaf(s1.y, b->sum.y, acc[3]);
	}
}

template <int TYPE> static __host__ __device__ constexpr bool wants_sum()
{
	return scale_of(TYPE) == SCALE_DM || scale_of(TYPE) == SCALE_K45;
}

static __device__ struct reader reader_of(const struct plx_kc_mm *m, uint32_t n_tok, uint32_t tok0)
{
	uint32_t lane = threadIdx.x % WARP;

	return {m->act.x2, m->act.sum, (uint64_t)m->act.n_kp * 128, (uint64_t)m->act.n_kp * 2,
	        n_tok,     tok0,       lane / 4,                    lane % 4};
}

static __device__ void result_put(const struct plx_kc_seg *s, uint32_t tok, uint32_t row, float v)
{
	float *y = s->y + (uint64_t)tok * s->y_stride + row;

	if (s->bias != NULL)
		v += s->bias[row];
	*y = s->add ? *y + v : v;
}

/* The segment that unit i belongs to, where each tile counts `each` to a unit; i becomes its own.
 * The loop is unrolled so that segments stay in constant memory. */
static __device__ __forceinline__ struct plx_kc_seg seg_of(const struct plx_kc_mm &m, uint32_t each,
                                                           uint32_t *i)
{
	struct plx_kc_seg s = m.seg[0];

#pragma unroll
	for (uint32_t k = 1; k < 3; k++) {
		uint32_t n = ((s.w.n_out + 15) / 16 + each - 1) / each;

		if (k >= m.n_seg || *i < n)
			break;
		*i -= n;
		s = m.seg[k];
	}
	return s;
}

/* ---- few tokens: a block a tile, a warp a chain ---------------------------------------------- */

/* Stretches that a warp has asked for: some 64 bytes a lane. */
#define AHEAD(type, n) (n_load(type) >= 4 || (n) >= 4 ? 2u : 4u)

template <int TYPE, int N>
static __device__ __forceinline__ void stretch_add(float acc[N][4], const struct raw<TYPE> *w,
                                                   const struct reader *r, uint32_t kp)
{
	constexpr bool early = N < 4; /* else there are no registers for it */
	struct operand b[2][N];

#pragma unroll
	for (int kb = 0; early && kb < 2; kb++)
#pragma unroll
		for (int i = 0; i < N; i++)
			operand_load<wants_sum<TYPE>()>(&b[kb][i], r, i, kp * 2 + kb);
#pragma unroll
	for (int kb = 0; kb < 2; kb++) {
		uint32_t a[2][4], rest[2][4];

		tile_operand<TYPE>(w, kb, 0, a[0], rest[0]);
		tile_operand<TYPE>(w, kb, 1, a[1], rest[1]);
#pragma unroll
		for (int i = 0; i < N; i++) {
			if (!early)
				operand_load<wants_sum<TYPE>()>(&b[kb][i], r, i, kp * 2 + kb);
			block_add<TYPE>(acc[i], w, kb, a, rest, &b[kb][i]);
		}
	}
}

template <int TYPE, int N>
static __global__ void __launch_bounds__(CHAINS *WARP) few_kernel(const struct plx_kc_mm m)
{
	__shared__ float part[CHAINS][N * 128];
	uint32_t tile = blockIdx.x, lane = threadIdx.x % WARP, chain = threadIdx.x / WARP;
	const struct plx_kc_seg s = seg_of(m, 1, &tile);
	float acc[N][4] = {};

	struct raw<TYPE> w[AHEAD(TYPE, N)];

	/* What memory is asked for is used several rounds later. */
#pragma unroll
	for (uint32_t i = 0; i < AHEAD(TYPE, N); i++)
		if (chain + i * CHAINS < s.w.n_kp)
			raw_load<TYPE>(&w[i], &s.w, tile, chain + i * CHAINS, lane);
	/* Weights are nobody's to write: they are on their way while the kernel before ends. */
	step_wait();
	uint32_t n_tok = count_of(m.n, m.of_rows, m.row0, m.max_tok);

	if (n_tok == 0)
		return;
	const struct reader r = reader_of(&m, n_tok, 0);

	for (uint32_t kp0 = chain; kp0 < s.w.n_kp; kp0 += AHEAD(TYPE, N) * CHAINS) {
#pragma unroll
		for (uint32_t i = 0; i < AHEAD(TYPE, N); i++) {
			uint32_t kp = kp0 + i * CHAINS, next = kp + AHEAD(TYPE, N) * CHAINS;

			if (kp >= s.w.n_kp)
				break;
			stretch_add<TYPE, N>(acc, &w[i], &r, kp);
			if (next < s.w.n_kp)
				raw_load<TYPE>(&w[i], &s.w, tile, next, lane);
		}
	}
#pragma unroll
	for (int i = 0; i < N; i++)
#pragma unroll
		for (int c = 0; c < 4; c++)
			part[chain][(i * 8 + r.t * 2 + c % 2) * 16 + r.g + c / 2 * 8] = acc[i][c];
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < N * 128; i += CHAINS * WARP) {
		uint32_t tok = i / 16, row = tile * 16 + i % 16;
		float v = 0.0f;

		for (uint32_t c = 0; c < CHAINS; c++)
			v += part[c][i];
		if (tok < n_tok && row < s.w.n_out)
			result_put(&s, tok, row, v);
	}
}

/* ---- many tokens: a warp two tiles by 32 tokens, chain after chain --------------------------- */

template <int TYPE>
static __device__ __forceinline__ void many_load(struct raw<TYPE> w[MANY_TILE],
                                                 const struct plx_kc_mat *mat, uint32_t tile,
                                                 uint32_t kp)
{
	/* Beside an odd last tile it is read twice; nothing is written past the rows. */
#pragma unroll
	for (uint32_t j = 0; j < MANY_TILE; j++)
		raw_load<TYPE>(&w[j], mat, min(tile + j, (mat->n_out + 15) / 16 - 1), kp,
		               threadIdx.x % WARP);
}

template <int TYPE>
static __device__ __forceinline__ void many_step(float acc[MANY_TILE][MANY_TOK][4],
                                                 const struct raw<TYPE> w[MANY_TILE], uint32_t kp,
                                                 const struct reader *r)
{
#pragma unroll
	for (int kb = 0; kb < 2; kb++) {
		uint32_t a[MANY_TILE][2][4], rest[MANY_TILE][2][4];

#pragma unroll
		for (uint32_t j = 0; j < MANY_TILE; j++) {
			tile_operand<TYPE>(&w[j], kb, 0, a[j][0], rest[j][0]);
			tile_operand<TYPE>(&w[j], kb, 1, a[j][1], rest[j][1]);
		}
#pragma unroll
		for (uint32_t i = 0; i < MANY_TOK; i++) {
			struct operand b;

			operand_load<wants_sum<TYPE>()>(&b, r, i, kp * 2 + kb);
#pragma unroll
			for (uint32_t j = 0; j < MANY_TILE; j++)
				block_add<TYPE>(acc[j][i], &w[j], kb, a[j], rest[j], &b);
		}
	}
}

template <int TYPE>
static __global__ void __launch_bounds__(MANY_WARP *WARP) many_kernel(const struct plx_kc_mm m)
{
	step_wait();
	uint32_t n_tok = count_of(m.n, m.of_rows, m.row0, m.max_tok);
	uint32_t unit = blockIdx.x * MANY_WARP + threadIdx.x / WARP;
	uint32_t tok0 = blockIdx.y * MANY_TOK * 8;

	if (tok0 >= n_tok)
		return;
	const struct plx_kc_seg s = seg_of(m, MANY_TILE, &unit);
	uint32_t tile = unit * MANY_TILE, tiles = (s.w.n_out + 15) / 16;

	if (tile >= tiles)
		return;
	const struct reader r = reader_of(&m, n_tok, tok0);
	float sum[MANY_TILE][MANY_TOK][4] = {};
	struct raw<TYPE> next[MANY_TILE];

	for (uint32_t chain = 0; chain < CHAINS; chain++) {
		float acc[MANY_TILE][MANY_TOK][4] = {};

		if (chain < s.w.n_kp)
			many_load<TYPE>(next, &s.w, tile, chain);
		for (uint32_t kp = chain; kp < s.w.n_kp; kp += CHAINS) {
			struct raw<TYPE> w[MANY_TILE];

#pragma unroll
			for (uint32_t j = 0; j < MANY_TILE; j++)
				w[j] = next[j];
			if (kp + CHAINS < s.w.n_kp)
				many_load<TYPE>(next, &s.w, tile, kp + CHAINS);
			many_step<TYPE>(acc, w, kp, &r);
		}
#pragma unroll
		for (uint32_t i = 0; i < MANY_TILE * MANY_TOK * 4; i++)
			sum[i / 16][i / 4 % 4][i % 4] += acc[i / 16][i / 4 % 4][i % 4];
	}
#pragma unroll
	for (uint32_t i = 0; i < MANY_TILE * MANY_TOK * 4; i++) {
		uint32_t row = (tile + i / 16) * 16 + r.g + i % 4 / 2 * 8;
		uint32_t tok = tok0 + i / 4 % 4 * 8 + r.t * 2 + i % 2;

		if (tok < n_tok && row < s.w.n_out)
			result_put(&s, tok, row, sum[i / 16][i / 4 % 4][i % 4]);
	}
}

/* ---- launching ------------------------------------------------------------------------------- */

template <int TYPE> static void launch(const struct plx_kc_mm *m, struct CUstream_st *st)
{
	uint32_t tiles = 0, units = 0;

	for (uint32_t i = 0; i < m->n_seg; i++) {
		uint32_t n = (m->seg[i].w.n_out + 15) / 16;

		tiles += n;
		units += (n + MANY_TILE - 1) / MANY_TILE;
	}
	if (m->max_tok <= 8)
		step_launch(few_kernel<TYPE, 1>, tiles, CHAINS * WARP, st, *m);
	else if (m->max_tok <= 16)
		step_launch(few_kernel<TYPE, 2>, tiles, CHAINS * WARP, st, *m);
	else if (m->max_tok <= 32)
		step_launch(few_kernel<TYPE, 4>, tiles, CHAINS * WARP, st, *m);
	else
		step_launch(many_kernel<TYPE>,
		            dim3((units + MANY_WARP - 1) / MANY_WARP,
		                 (m->max_tok + MANY_TOK * 8 - 1) / (MANY_TOK * 8)),
		            MANY_WARP * WARP, st, *m);
}

void plx_kc_matmul(const struct plx_kc_mm *m, struct CUstream_st *st)
{
	switch (m->seg[0].w.type) {
#define X(T)                                                                                       \
	case T:                                                                                    \
		launch<T>(m, st);                                                                  \
		break;
		N_LIST(X)
#undef X
	default:
		break;
	}
}
