/*
 * Where things lie in a repacked matrix (ops.h), and how a lane turns them into operands.
 *
 * Lane 4g + t of a warp holds, of a tile's rows g and g + 8 and of each 32 columns, the columns
 * h*16 + t*4 + j (h = 0, 1; j = 0 .. 3): what mma.m16n8k16 wants for half h, since any order of
 * columns will do that weights and activations share. Of each row those are the 8 elements
 * e = h*4 + j. A nibble of element e lies at bits 4*(e/2) + 16*(e%2) of its row's word, so that two
 * masked nibbles over 0x4300 are two bf16, 128 + q.
 */
#ifndef PLX_KERNELS_CUDA_MAT_CUH
#define PLX_KERNELS_CUDA_MAT_CUH

#include "kernels/cuda/common.cuh"

#define SCALE_D    0 /* f16 d:             [g][row half][kb], 8 bytes a g */
#define SCALE_DM   1 /* f16 d, m:          [g][row half][kb], 16 bytes */
#define SCALE_K45  2 /* u8 sc, mn:         [g][row half][kb], 8 bytes; super f16 d, dmin */
#define SCALE_K6   3 /* i8 sc:             [g][row half][kb][half], 8 bytes; super f16 d, 0 */
#define SCALE_NONE 4

#define N_LIST(X)                                                                                  \
	X(PLX_Q_F32) X(PLX_Q_F16) X(PLX_Q_BF16) X(PLX_Q_Q4_0) X(PLX_Q_Q4_1) X(PLX_Q_Q5_0)          \
	X(PLX_Q_Q5_1) X(PLX_Q_Q8_0) X(PLX_Q_Q4_K) X(PLX_Q_Q5_K) X(PLX_Q_Q6_K)

static __host__ __device__ constexpr int scale_of(int type)
{
	return type == PLX_Q_F32 || type == PLX_Q_F16 || type == PLX_Q_BF16 ? SCALE_NONE
	       : type == PLX_Q_Q4_1 || type == PLX_Q_Q5_1                  ? SCALE_DM
	       : type == PLX_Q_Q4_K || type == PLX_Q_Q5_K                  ? SCALE_K45
	       : type == PLX_Q_Q6_K                                        ? SCALE_K6
	                                                                   : SCALE_D;
}

/* Loads of 16 bytes a lane makes for 64 columns. */
static __host__ __device__ constexpr int n_load(int type)
{
	return type == PLX_Q_F32                            ? 8
	       : type == PLX_Q_F16 || type == PLX_Q_BF16 ? 4
	       : type == PLX_Q_Q8_0                         ? 2
	                                                    : 1;
}

static __host__ __device__ constexpr bool has_hi(int type)
{
	return type == PLX_Q_Q5_0 || type == PLX_Q_Q5_1 || type == PLX_Q_Q5_K || type == PLX_Q_Q6_K;
}

static __host__ __device__ constexpr int scale_bytes(int type)
{
	return scale_of(type) == SCALE_NONE ? 0 : scale_of(type) == SCALE_DM ? 16 : 8;
}

static __host__ __device__ constexpr bool has_super(int type)
{
	return scale_of(type) == SCALE_K45 || scale_of(type) == SCALE_K6;
}

/* What is taken off 128 + q: two bf16. */
static __host__ __device__ constexpr uint32_t bias_of(int type)
{
	return type == PLX_Q_Q4_0   ? 0x43084308u /* 136 */
	       : type == PLX_Q_Q5_0 ? 0x43104310u /* 144 */
	       : type == PLX_Q_Q6_K ? 0x43204320u /* 160 */
	                            : 0x43004300u;
}

/* What a lane holds of 64 columns. */
template <int TYPE> struct raw {
	uint4 q[n_load(TYPE)];
	uint2 hi;
	uint4 scale; /* 8 bytes in x and y, or 16 */
	uint2 super;
};

template <int TYPE>
static __device__ __forceinline__ void raw_load(struct raw<TYPE> *w, const struct plx_kc_mat *m,
                                                uint32_t tile, uint32_t kp, uint32_t lane)
{
	uint64_t at = (uint64_t)tile * m->n_kp + kp;

#pragma unroll
	for (int i = 0; i < n_load(TYPE); i++)
		w->q[i] = __ldcs((const uint4 *)m->q + (at * n_load(TYPE) + i) * WARP + lane);
	if (has_hi(TYPE))
		w->hi = __ldcs((const uint2 *)m->hi + at * WARP + lane);
	if (scale_bytes(TYPE) == 16)
		w->scale = __ldg((const uint4 *)m->scale + at * 8 + lane / 4);
	if (scale_bytes(TYPE) == 8) {
		uint2 v = __ldg((const uint2 *)m->scale + at * 8 + lane / 4);

		w->scale = make_uint4(v.x, v.y, 0, 0);
	}
	if (has_super(TYPE))
		w->super = __ldg((const uint2 *)m->super +
		                 ((uint64_t)tile * (m->n_kp / 4) + kp / 4) * 8 + lane / 4);
}

static __device__ __forceinline__ float half_at(uint32_t word, uint32_t i)
{
	return __half2float(__ushort_as_half((unsigned short)(word >> (16 * i))));
}

/* Scale and minimum of row half r (rows g, g + 8) in 32-block kb; of K6, for half h. */
template <int TYPE>
static __device__ __forceinline__ float2 scale_at(const struct raw<TYPE> *w, int r, int kb, int h)
{
	if (scale_of(TYPE) == SCALE_D)
		return make_float2(half_at(r ? w->scale.y : w->scale.x, kb), 0.0f);
	if (scale_of(TYPE) == SCALE_DM) {
		uint32_t v = r ? (kb ? w->scale.w : w->scale.z) : (kb ? w->scale.y : w->scale.x);

		return make_float2(half_at(v, 0), half_at(v, 1));
	}
	uint32_t v = r ? w->scale.y : w->scale.x;
	uint32_t s = r ? w->super.y : w->super.x;

	if (scale_of(TYPE) == SCALE_K6)
		return make_float2(
		    half_at(s, 0) * (float)(int8_t)(v >> (16 * kb + 8 * h)), 0.0f);
	return make_float2(half_at(s, 0) * (float)((v >> (16 * kb)) & 255),
	                   -half_at(s, 1) * (float)((v >> (16 * kb + 8)) & 255));
}

static __device__ __forceinline__ uint32_t bf16x2_sub(uint32_t a, uint32_t b)
{
	uint32_t d;

	asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
	return d;
}

/* Two bf16 of two floats, the first one low. */
static __device__ __forceinline__ uint32_t bf16x2_of(float lo, float hi)
{
	uint32_t d;

	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
	return d;
}

static __device__ __forceinline__ float bf16_low(uint32_t v)
{
	return __uint_as_float(v << 16);
}

static __device__ __forceinline__ float bf16_high(uint32_t v)
{
	return __uint_as_float(v & 0xffff0000u);
}

/* What the first bf16 of two floats leaves. */
static __device__ __forceinline__ uint32_t bf16x2_rest(uint32_t first, float lo, float hi)
{
	return bf16x2_of(lo - bf16_low(first), hi - bf16_high(first));
}

/* Elements 2p, 2p + 1 of row half r in 32-block kb: a bf16 pair, and for F16 and F32 the rest. */
template <int TYPE>
static __device__ __forceinline__ uint32_t pair_at(const struct raw<TYPE> *w, int r, int kb, int p,
                                                   uint32_t *rest)
{
	if (TYPE == PLX_Q_F32) {
		const uint4 v = w->q[(kb * 4 + r * 2 + p / 2) % n_load(TYPE)];
		float a = __uint_as_float(p & 1 ? v.z : v.x), b = __uint_as_float(p & 1 ? v.w : v.y);
		uint32_t d = bf16x2_of(a, b);

		*rest = bf16x2_rest(d, a, b);
		return d;
	}
	if (TYPE == PLX_Q_F16 || TYPE == PLX_Q_BF16) {
		const uint4 v = w->q[(kb * 2 + r) % n_load(TYPE)];
		uint32_t u = p == 0 ? v.x : p == 1 ? v.y : p == 2 ? v.z : v.w;

		if (TYPE == PLX_Q_BF16)
			return u;
		float a = half_at(u, 0), b = half_at(u, 1);
		uint32_t d = bf16x2_of(a, b);

		*rest = bf16x2_rest(d, a, b);
		return d;
	}
	if (TYPE == PLX_Q_Q8_0) {
		const uint4 v = w->q[kb % n_load(TYPE)];
		uint32_t u = r ? (p / 2 ? v.w : v.z) : (p / 2 ? v.y : v.x);
		uint32_t b = __byte_perm(u, 0, p & 1 ? 0x4342 : 0x4140);

		/* (128 + low seven bits) - (128, or 256 where the sign is set) */
		return bf16x2_sub((b & 0x007f007fu) | 0x43004300u,
		                  (b & 0x00800080u) | 0x43004300u);
	}
	const uint4 v = w->q[0];
	uint32_t u = kb ? (r ? v.w : v.z) : (r ? v.y : v.x);
	uint32_t n = (u >> (4 * p)) & 0x000f000fu;

	if (has_hi(TYPE))
		n |= (((kb ? w->hi.y : w->hi.x) >> (2 * (r * 4 + p))) & 0x00030003u) << 4;
	return bf16x2_sub(n | 0x43004300u, bias_of(TYPE));
}

#endif
