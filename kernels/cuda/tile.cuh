/*
 * A tile of 16 rows by 32 columns times 8 tokens on tensor cores: what every matrix product is made
 * of (mm.cu, stream.cuh). Stored integers become bf16 exactly, are multiplied by both bf16 parts
 * of the tokens, and the block's sum is scaled in f32:
 *   p = sum over the 32 of q (hi + lo);  acc = fma(d, p, acc);  acc = fma(m, sum of x, acc)
 */
#ifndef PLX_KERNELS_CUDA_TILE_CUH
#define PLX_KERNELS_CUDA_TILE_CUH

#include "kernels/cuda/mat.cuh"

#define CHAINS 16u /* stretches of 64 columns are dealt out to so many sums */

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

/* LIVE: written by the kernel that reads it, so not through the read-only cache. */
template <bool LIVE, class T> static __device__ __forceinline__ T act_get(const T *p)
{
	return LIVE ? *p : __ldg(p);
}

template <bool SUM, bool LIVE>
static __device__ __forceinline__ void operand_load(struct operand *b, const struct reader *r,
                                                    uint32_t i, uint32_t kb)
{
	uint32_t tok = r->tok0 + i * 8 + r->g, two = r->tok0 + i * 8 + r->t * 2;

	b->hi = b->lo = make_uint4(0, 0, 0, 0);
	b->sum = make_float2(0.0f, 0.0f);
	if (tok < r->n_tok) {
		const uint4 *at = (const uint4 *)(r->x2 + tok * r->x2_stride + kb * 64 + r->t * 16);

		b->hi = act_get<LIVE>(at);
		b->lo = act_get<LIVE>(at + 1);
	}
	if (SUM && two < r->n_tok)
		b->sum.x = act_get<LIVE>(r->sum + two * r->sum_stride + kb);
	if (SUM && two + 1 < r->n_tok)
		b->sum.y = act_get<LIVE>(r->sum + (two + 1) * r->sum_stride + kb);
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

#endif
