/*
 * Matrix products on tensor cores of more than 32 tokens, weights from 4 to 32 bits; of fewer:
 * few.cu.
 *
 * A warp's unit is a tile of 16 rows by 32 columns: stored integers become bf16 exactly, are
 * multiplied by both bf16 parts of up to 8 tokens, and the block's sum is scaled in f32:
 *   p = sum over the 32 of q (hi + lo);  acc = fma(d, p, acc);  acc = fma(m, sum of x, acc)
 * Columns are dealt out in stretches of 64 to 16 chains, stretch i to chain i % 16; a result is
 * the sum of the chains in their order. Here a warp does all chains of its tiles one after another;
 * in few.cu a block's 16 warps are the chains. So the bits are the same, for any number of tokens.
 */
#include "kernels/cuda/tile.cuh"

#define MANY_TILE 2u /* row tiles of a warp, for many tokens */
#define MANY_TOK  8u /* token tiles of 8 */
#define STAGES    4u /* stretches of tokens in shared memory */
#define MANY_WARP 8u

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

/* ---- many tokens: a block 16 tiles by 64 tokens, chain after chain --------------------------- */

/* Token rows in shared memory, of one stretch: 256 bytes, and 16 so that banks differ. */
#define ROW_BYTES   272u
#define STAGE_BYTES (MANY_TOK * 8 * (ROW_BYTES + 8))
#define MANY_BYTES  (STAGES * STAGE_BYTES)

static __device__ __forceinline__ uint32_t shared_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

/* Copies 16 or 8 bytes behind the threads' backs; zeros where there is no token. */
template <int BYTES>
static __device__ __forceinline__ void copy_async(void *to, const void *from, bool there)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_at(to)),
	             "l"(from), "n"(BYTES), "r"(there ? BYTES : 0)
	             : "memory");
}

/* Stretch kp of the block's tokens on its way into a stage. */
template <bool SUM>
static __device__ __forceinline__ void stage_fill(uint8_t *stage, const struct plx_kc_mm &m,
                                                  uint32_t tok0, uint32_t n_tok, uint32_t kp)
{
	for (uint32_t i = threadIdx.x; i < MANY_TOK * 8 * 16; i += MANY_WARP * WARP) {
		uint32_t tok = i / 16;
		bool there = tok0 + tok < n_tok;
		uint64_t row = (uint64_t)(there ? tok0 + tok : 0) * m.act.n_kp + kp;

		copy_async<16>(stage + tok * ROW_BYTES + i % 16 * 16,
		               (const uint8_t *)m.act.x2 + row * 256 + i % 16 * 16, there);
	}
	for (uint32_t tok = threadIdx.x; SUM && tok < MANY_TOK * 8; tok += MANY_WARP * WARP) {
		bool there = tok0 + tok < n_tok;
		uint64_t row = (uint64_t)(there ? tok0 + tok : 0) * m.act.n_kp + kp;

		copy_async<8>(stage + MANY_TOK * 8 * ROW_BYTES + tok * 8, m.act.sum + row * 2,
		              there);
	}
}

/* The stretch after kp, chain after chain; n_kp after the last one. */
static __device__ __forceinline__ uint32_t stretch_after(uint32_t kp, uint32_t n_kp)
{
	if (kp + CHAINS < n_kp)
		return kp + CHAINS;
	uint32_t chain = kp % CHAINS + 1;

	return chain < CHAINS && chain < n_kp ? chain : n_kp;
}

template <int TYPE>
static __device__ __forceinline__ void
many_load(struct raw<TYPE> w[MANY_TILE], const struct plx_kc_mat *mat, uint32_t tile, uint32_t kp)
{
	/* Beside an odd last tile it is read twice; nothing is written past the rows. */
#pragma unroll
	for (uint32_t j = 0; j < MANY_TILE; j++)
		raw_load<TYPE>(&w[j], mat, min(tile + j, (mat->n_out + 15) / 16 - 1), kp,
		               threadIdx.x % WARP);
}

template <int TYPE>
static __device__ __forceinline__ void many_step(float acc[MANY_TILE][MANY_TOK][4],
                                                 const struct raw<TYPE> w[MANY_TILE],
                                                 const uint8_t *stage)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

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
			const uint4 *at =
			    (const uint4 *)(stage + (i * 8 + g) * ROW_BYTES + kb * 128 + t * 32);
			const float *sum = (const float *)(stage + MANY_TOK * 8 * ROW_BYTES) +
			                   (i * 8 + t * 2) * 2 + kb;
			struct operand b;

			b.hi = at[0];
			b.lo = at[1];
			b.sum = wants_sum<TYPE>() ? make_float2(sum[0], sum[2])
			                          : make_float2(0.0f, 0.0f);
#pragma unroll
			for (uint32_t j = 0; j < MANY_TILE; j++)
				block_add<TYPE>(acc[j][i], &w[j], kb, a[j], rest[j], &b);
		}
	}
}

static __device__ __forceinline__ void stages_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int TYPE>
static __global__ void __launch_bounds__(MANY_WARP *WARP, 1)
    many_kernel(const __grid_constant__ struct plx_kc_mm m)
{
	extern __shared__ __align__(16) uint8_t stages[];
	uint32_t tok0 = blockIdx.x * MANY_TOK * 8, unit = blockIdx.y, lane = threadIdx.x % WARP;

	step_wait();
	uint32_t n_tok = count_of(m.n, m.of_rows, m.row0, m.max_tok);

	if (tok0 >= n_tok)
		return;
	const struct plx_kc_seg s = seg_of(m, MANY_TILE * MANY_WARP, &unit);
	uint32_t tile = (unit * MANY_WARP + threadIdx.x / WARP) * MANY_TILE;
	bool mine = tile < (s.w.n_out + 15) / 16;
	float sum[MANY_TILE][MANY_TOK][4] = {}, acc[MANY_TILE][MANY_TOK][4] = {};
	struct raw<TYPE> next[MANY_TILE];
	uint32_t ahead = 0;

	for (uint32_t i = 0; i + 1 < STAGES; i++) {
		if (ahead < s.w.n_kp) {
			stage_fill<wants_sum<TYPE>()>(stages + i * STAGE_BYTES, m, tok0, n_tok,
			                              ahead);
			ahead = stretch_after(ahead, s.w.n_kp);
		}
		stages_commit();
	}
	if (mine)
		many_load<TYPE>(next, &s.w, tile, 0);
	uint32_t kp = 0;

	for (uint32_t i = 0; kp < s.w.n_kp; i++) {
		uint32_t after = stretch_after(kp, s.w.n_kp);
		struct raw<TYPE> w[MANY_TILE];

		asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
		__syncthreads();
		if (ahead < s.w.n_kp) {
			stage_fill<wants_sum<TYPE>()>(stages +
			                                  (i + STAGES - 1) % STAGES * STAGE_BYTES,
			                              m, tok0, n_tok, ahead);
			ahead = stretch_after(ahead, s.w.n_kp);
		}
		stages_commit();
#pragma unroll
		for (uint32_t j = 0; j < MANY_TILE; j++)
			w[j] = next[j];
		if (mine && after < s.w.n_kp)
			many_load<TYPE>(next, &s.w, tile, after);
		if (mine)
			many_step<TYPE>(acc, w, stages + i % STAGES * STAGE_BYTES);
		if (kp + CHAINS >= s.w.n_kp)
#pragma unroll
			for (uint32_t k = 0; k < MANY_TILE * MANY_TOK * 4; k++) {
				sum[k / 4 / MANY_TOK][k / 4 % MANY_TOK][k % 4] +=
				    acc[k / 4 / MANY_TOK][k / 4 % MANY_TOK][k % 4];
				acc[k / 4 / MANY_TOK][k / 4 % MANY_TOK][k % 4] = 0.0f;
			}
		kp = after;
	}
#pragma unroll
	for (uint32_t k = 0; k < MANY_TILE * MANY_TOK * 4; k++) {
		uint32_t row = (tile + k / 4 / MANY_TOK) * 16 + lane / 4 + k % 4 / 2 * 8;
		uint32_t tok = tok0 + k / 4 % MANY_TOK * 8 + lane % 4 * 2 + k % 2;

		if (mine && tok < n_tok && row < s.w.n_out)
			result_put(&s, tok, row, sum[k / 4 / MANY_TOK][k / 4 % MANY_TOK][k % 4]);
	}
}

template <int TYPE>
static void many_launch(const struct plx_kc_mm *m, uint32_t units, struct CUstream_st *st)
{
	static bool large; /* a kernel says once that it wants more than 48 KiB */

	if (!large)
		large = cudaFuncSetAttribute((const void *)many_kernel<TYPE>,
		                             cudaFuncAttributeMaxDynamicSharedMemorySize,
		                             (int)MANY_BYTES) == cudaSuccess;
	step_launch_with(MANY_BYTES, many_kernel<TYPE>,
	                 dim3((m->max_tok + MANY_TOK * 8 - 1) / (MANY_TOK * 8), units),
	                 MANY_WARP * WARP, st, *m);
}

/* ---- launching ------------------------------------------------------------------------------- */

template <int TYPE> static void launch(const struct plx_kc_mm *m, struct CUstream_st *st)
{
	uint32_t units = 0;

	for (uint32_t i = 0; i < m->n_seg; i++)
		units += ((m->seg[i].w.n_out + 15) / 16 + MANY_TILE * MANY_WARP - 1) /
		         (MANY_TILE * MANY_WARP);
	many_launch<TYPE>(m, units, st);
}

void plx_kc_matmul(const struct plx_kc_mm *m, struct CUstream_st *st)
{
	if (m->max_tok <= PLX_KC_FEW) {
		plx_kc_few(m, st);
		return;
	}
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
