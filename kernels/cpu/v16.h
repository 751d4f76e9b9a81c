/*
 * Sixteen lanes: the few operations that every kernel is written in, for each instruction set.
 *
 * vf is 16 f32, vi 16 i32, vb 64 bytes. The plain-C version at the end is the definition; the
 * intrinsics compute the same bits. A file's -march chooses, so each kernel is compiled once for
 * each instruction set from one source, and can't differ between them in order or rounding.
 */
#ifndef PLX_KERNELS_CPU_V16_H
#define PLX_KERNELS_CPU_V16_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/quant.h"

/* Vector code must end up in registers; plain C may stay functions, or compiling takes minutes. */
#if defined(__AVX2__)
#define V16_INLINE static inline __attribute__((always_inline))
#else
#define V16_INLINE static inline
#define V16_PLAIN  1
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

#include <immintrin.h>

#define V16_MM_TOKENS 8 /* tokens of one register block of the matrix product */
#define V16_ATTN_Q    4 /* queries of one register block of attention */

#ifdef __clang__ /* the compilers' headers differ in the sign of a shift count */
typedef unsigned v16_count;
#else
typedef int v16_count;
#endif
typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;
typedef __m512i vu; /* sums of 8 u64 */

V16_INLINE vf vf_set1(float x)
{
	return _mm512_set1_ps(x);
}
V16_INLINE vf vf_load(const float *p)
{
	return _mm512_loadu_ps(p);
}
V16_INLINE void vf_store(float *p, vf a)
{
	_mm512_storeu_ps(p, a);
}
V16_INLINE vf vf_add(vf a, vf b)
{
	return _mm512_add_ps(a, b);
}
V16_INLINE vf vf_sub(vf a, vf b)
{
	return _mm512_sub_ps(a, b);
}
V16_INLINE vf vf_mul(vf a, vf b)
{
	return _mm512_mul_ps(a, b);
}
V16_INLINE vf vf_div(vf a, vf b)
{
	return _mm512_div_ps(a, b);
}
V16_INLINE vf vf_fma(vf a, vf b, vf c)
{
	return _mm512_fmadd_ps(a, b, c);
}
V16_INLINE vf vf_max(vf a, vf b)
{
	return _mm512_max_ps(a, b);
}
V16_INLINE vf vf_min(vf a, vf b)
{
	return _mm512_min_ps(a, b);
}
V16_INLINE vf vf_neg(vf a)
{
	return _mm512_castsi512_ps(
	    _mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
V16_INLINE vf vf_first(vf a, uint32_t n, float fill)
{
	return _mm512_mask_mov_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1u), a);
}
V16_INLINE vf vf_zero_below(vf a, vf x, float limit)
{
	return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), a);
}
V16_INLINE vf vf_nan_to(vf a, float fill)
{
	return _mm512_mask_mov_ps(_mm512_set1_ps(fill), _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a);
}
V16_INLINE uint32_t vf_equal(vf a, vf b)
{
	return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
V16_INLINE float vf_hsum(vf a)
{
	__m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
	__m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));

	c = _mm_add_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
V16_INLINE float vf_hmax(vf a)
{
	return _mm512_reduce_max_ps(a);
}
V16_INLINE vf vf_from_f16(const uint16_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
V16_INLINE void vf_to_f16(uint16_t *p, vf a)
{
	_mm256_storeu_si256((__m256i *)(void *)p,
	                    _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V16_INLINE vf vf_from_bf16(const uint16_t *p)
{
	__m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);

	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
V16_INLINE void vf_to_bf16(uint16_t *p, vf a)
{
	__m512i u = _mm512_castps_si512(a);
	__m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
	__m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);

	r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), u,
	                         _mm512_set1_epi32(64 << 16));
	_mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}
V16_INLINE vu vu_zero(void)
{
	return _mm512_setzero_si512();
}
V16_INLINE vu vu_add_floor(vu sum, vf a)
{
	__m256 hi = _mm512_extractf32x8_ps(a, 1);

	sum = _mm512_add_epi64(sum, _mm512_cvttps_epi64(_mm512_castps512_ps256(a)));
	return _mm512_add_epi64(sum, _mm512_cvttps_epi64(hi));
}
V16_INLINE uint64_t vu_hsum(vu sum)
{
	return (uint64_t)_mm512_reduce_add_epi64(sum);
}
V16_INLINE vf vf_rope_pairs(vf x, vf tab)
{
	vf swapped = _mm512_permute_ps(x, 0xb1);

	return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(tab),
	                          _mm512_mul_ps(swapped, _mm512_movehdup_ps(tab)));
}
V16_INLINE vf vf_from_i(vi a)
{
	return _mm512_cvtepi32_ps(a);
}
V16_INLINE vf vf_from_bits(vi a)
{
	return _mm512_castsi512_ps(a);
}
V16_INLINE vi vi_from_bits(vf a)
{
	return _mm512_castps_si512(a);
}
V16_INLINE vi vi_round(vf a)
{
	return _mm512_cvtps_epi32(a);
}
V16_INLINE vi vi_set1(int32_t x)
{
	return _mm512_set1_epi32(x);
}
V16_INLINE vi vi_load(const void *p)
{
	return _mm512_loadu_si512(p);
}
V16_INLINE vi vi_add(vi a, vi b)
{
	return _mm512_add_epi32(a, b);
}
V16_INLINE vi vi_sub(vi a, vi b)
{
	return _mm512_sub_epi32(a, b);
}
V16_INLINE vi vi_mul(vi a, vi b)
{
	return _mm512_mullo_epi32(a, b);
}
V16_INLINE vi vi_and(vi a, vi b)
{
	return _mm512_and_si512(a, b);
}
V16_INLINE vi vi_max(vi a, vi b)
{
	return _mm512_max_epi32(a, b);
}
#define vi_shl(a, n) _mm512_slli_epi32((a), (unsigned)(n))
#define vi_sar(a, n) _mm512_srai_epi32((a), (unsigned)(n))
V16_INLINE int32_t vi_hsum(vi a)
{
	return _mm512_reduce_add_epi32(a);
}
V16_INLINE int32_t vi_hmax(vi a)
{
	return _mm512_reduce_max_epi32(a);
}
V16_INLINE vi vi_from_u8(const uint8_t *p)
{
	return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
V16_INLINE vi vi_from_i8(const uint8_t *p)
{
	return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
V16_INLINE void vi_store_i8(int8_t *p, vi a)
{
	_mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}
V16_INLINE vb vb_load(const uint8_t *p)
{
	return _mm512_loadu_si512(p);
}
V16_INLINE void vb_store(uint8_t *p, vb a)
{
	_mm512_storeu_si512(p, a);
}
V16_INLINE vb vb_sub(vb a, int k)
{
	return _mm512_sub_epi8(a, _mm512_set1_epi8((char)k));
}
V16_INLINE vb vb_low4(vb a)
{
	return _mm512_and_si512(a, _mm512_set1_epi8(15));
}
V16_INLINE vb vb_high4(vb a)
{
	return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}
/* a | (bits shifted left by n (right by -n), only those in mask kept) */
V16_INLINE vb vb_or_bits(vb a, vb bits, int n, int mask)
{
	vb moved =
	    n >= 0 ? _mm512_slli_epi16(bits, (v16_count)n) : _mm512_srli_epi16(bits, (v16_count)-n);

	return _mm512_ternarylogic_epi32(a, moved, _mm512_set1_epi8((char)mask), 0xf8);
}
/* Four products a lane: acc[r] += sum over j<4 of w[4r + j] * a4's byte j; w at most 127. */
V16_INLINE vi vi_dot(vi acc, vb w, const int8_t *a4)
{
	int32_t a;

	memcpy(&a, a4, sizeof a);
	return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a));
}
/* The same for w up to 255. */
V16_INLINE vi vi_dot_wide(vi acc, vb w, const int8_t *a4)
{
	return vi_dot(acc, w, a4);
}
#ifdef __AVX512BF16__
/*
 * Two products of bf16 a lane, w's odd half by x[1] first, each added by an fma of its own; FTZ and
 * DAZ whatever the thread has set. bf16_probe.h tells whether a machine does just that.
 */
V16_INLINE vf vf_dot_bf16(vf acc, vi w, const uint16_t *x)
{
	int32_t x2;

	memcpy(&x2, x, sizeof x2);
	return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)_mm512_set1_epi32(x2));
}
#endif

#elif defined(__AVX2__)

#include <immintrin.h>

#define V16_MM_TOKENS 4
#define V16_ATTN_Q    2

typedef struct {
	__m256 a, b; /* lanes 0-7, 8-15 */
} vf;
typedef struct {
	__m256i a, b;
} vi;
typedef vi vb;

V16_INLINE vf vf_set1(float x)
{
	return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
V16_INLINE vf vf_load(const float *p)
{
	return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
V16_INLINE void vf_store(float *p, vf x)
{
	_mm256_storeu_ps(p, x.a);
	_mm256_storeu_ps(p + 8, x.b);
}
#define V16_AVX2_BINARY(name, type, op)                                                            \
	V16_INLINE type name(type x, type y)                                                       \
	{                                                                                          \
		return (type){op(x.a, y.a), op(x.b, y.b)};                                         \
	}
V16_AVX2_BINARY(vf_add, vf, _mm256_add_ps)
V16_AVX2_BINARY(vf_sub, vf, _mm256_sub_ps)
V16_AVX2_BINARY(vf_mul, vf, _mm256_mul_ps)
V16_AVX2_BINARY(vf_div, vf, _mm256_div_ps)
V16_AVX2_BINARY(vf_max, vf, _mm256_max_ps)
V16_AVX2_BINARY(vf_min, vf, _mm256_min_ps)
V16_AVX2_BINARY(vi_add, vi, _mm256_add_epi32)
V16_AVX2_BINARY(vi_sub, vi, _mm256_sub_epi32)
V16_AVX2_BINARY(vi_mul, vi, _mm256_mullo_epi32)
V16_AVX2_BINARY(vi_and, vi, _mm256_and_si256)
V16_AVX2_BINARY(vi_max, vi, _mm256_max_epi32)
V16_INLINE vf vf_fma(vf x, vf y, vf z)
{
	return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
V16_INLINE vf vf_neg(vf x)
{
	__m256 s = _mm256_set1_ps(-0.0f);

	return (vf){_mm256_xor_ps(x.a, s), _mm256_xor_ps(x.b, s)};
}
V16_INLINE vf vf_first(vf x, uint32_t n, float fill)
{
	__m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	__m256i first = _mm256_set1_epi32((int32_t)n);
	__m256 f = _mm256_set1_ps(fill);
	__m256i ka = _mm256_cmpgt_epi32(first, lane);
	__m256i kb = _mm256_cmpgt_epi32(first, _mm256_add_epi32(lane, _mm256_set1_epi32(8)));

	return (vf){_mm256_blendv_ps(f, x.a, _mm256_castsi256_ps(ka)),
	            _mm256_blendv_ps(f, x.b, _mm256_castsi256_ps(kb))};
}
V16_INLINE vf vf_zero_below(vf r, vf x, float limit)
{
	__m256 l = _mm256_set1_ps(limit);

	return (vf){_mm256_and_ps(r.a, _mm256_cmp_ps(x.a, l, _CMP_NLT_UQ)),
	            _mm256_and_ps(r.b, _mm256_cmp_ps(x.b, l, _CMP_NLT_UQ))};
}
V16_INLINE vf vf_nan_to(vf x, float fill)
{
	__m256 f = _mm256_set1_ps(fill);

	return (vf){_mm256_blendv_ps(f, x.a, _mm256_cmp_ps(x.a, x.a, _CMP_ORD_Q)),
	            _mm256_blendv_ps(f, x.b, _mm256_cmp_ps(x.b, x.b, _CMP_ORD_Q))};
}
V16_INLINE uint32_t vf_equal(vf x, vf y)
{
	int lo = _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ));
	int hi = _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));

	return (uint32_t)lo | (uint32_t)hi << 8;
}
V16_INLINE float vf_hsum(vf x)
{
	__m256 b = _mm256_add_ps(x.a, x.b);
	__m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));

	c = _mm_add_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
V16_INLINE float vf_hmax(vf x)
{
	__m256 b = _mm256_max_ps(x.a, x.b);
	__m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));

	c = _mm_max_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
V16_INLINE vf vf_from_f16(const uint16_t *p)
{
	return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
	            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}
V16_INLINE void vf_to_f16(uint16_t *p, vf x)
{
	_mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
	_mm_storeu_si128((__m128i *)(void *)(p + 8),
	                 _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
V16_INLINE vf vf_from_bf16(const uint16_t *p)
{
	__m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
	__m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)));

	return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
	            _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
V16_INLINE __m256i to_bf16_half(__m256 x)
{
	__m256i u = _mm256_castps_si256(x);
	__m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
	__m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
	__m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);

	r = _mm256_blendv_epi8(r, _mm256_or_si256(u, _mm256_set1_epi32(64 << 16)), nan);
	return _mm256_srli_epi32(r, 16);
}
V16_INLINE void vf_to_bf16(uint16_t *p, vf x)
{
	__m256i r = _mm256_packus_epi32(to_bf16_half(x.a), to_bf16_half(x.b));

	_mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(r, 0xd8));
}
V16_INLINE __m256 rope_pairs_half(__m256 x, __m256 tab)
{
	__m256 swapped = _mm256_permute_ps(x, 0xb1);

	return _mm256_fmaddsub_ps(x, _mm256_moveldup_ps(tab),
	                          _mm256_mul_ps(swapped, _mm256_movehdup_ps(tab)));
}
V16_INLINE vf vf_rope_pairs(vf x, vf tab)
{
	return (vf){rope_pairs_half(x.a, tab.a), rope_pairs_half(x.b, tab.b)};
}
V16_INLINE vf vf_from_i(vi x)
{
	return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
V16_INLINE vf vf_from_bits(vi x)
{
	return (vf){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
V16_INLINE vi vi_from_bits(vf x)
{
	return (vi){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
V16_INLINE vi vi_round(vf x)
{
	return (vi){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
V16_INLINE vi vi_set1(int32_t x)
{
	return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
V16_INLINE vi vi_load(const void *p)
{
	const __m256i *v = p;

	return (vi){_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
#define vi_shl(x, n) ((vi){_mm256_slli_epi32((x).a, (n)), _mm256_slli_epi32((x).b, (n))})
#define vi_sar(x, n) ((vi){_mm256_srai_epi32((x).a, (n)), _mm256_srai_epi32((x).b, (n))})
V16_INLINE int32_t vi_hsum(vi x)
{
	__m256i b = _mm256_add_epi32(x.a, x.b);
	__m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));

	c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
	return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}
V16_INLINE int32_t vi_hmax(vi x)
{
	__m256i b = _mm256_max_epi32(x.a, x.b);
	__m128i c = _mm_max_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));

	c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4e));
	return _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}
V16_INLINE vi vi_from_u8(const uint8_t *p)
{
	return (vi){_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)),
	            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8)))};
}
V16_INLINE vi vi_from_i8(const uint8_t *p)
{
	return (vi){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)),
	            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8)))};
}
V16_INLINE void vi_store_i8(int8_t *p, vi x)
{
	__m128i lo = _mm_packs_epi32(_mm256_castsi256_si128(x.a), _mm256_extracti128_si256(x.a, 1));
	__m128i hi = _mm_packs_epi32(_mm256_castsi256_si128(x.b), _mm256_extracti128_si256(x.b, 1));

	_mm_storeu_si128((__m128i *)(void *)p, _mm_packs_epi16(lo, hi));
}
V16_INLINE vb vb_load(const uint8_t *p)
{
	return vi_load(p);
}
V16_INLINE void vb_store(uint8_t *p, vb x)
{
	_mm256_storeu_si256((__m256i *)(void *)p, x.a);
	_mm256_storeu_si256((__m256i *)(void *)(p + 32), x.b);
}
V16_INLINE vb vb_sub(vb x, int k)
{
	__m256i v = _mm256_set1_epi8((char)k);

	return (vb){_mm256_sub_epi8(x.a, v), _mm256_sub_epi8(x.b, v)};
}
V16_INLINE vb vb_low4(vb x)
{
	__m256i k = _mm256_set1_epi8(15);

	return (vb){_mm256_and_si256(x.a, k), _mm256_and_si256(x.b, k)};
}
V16_INLINE vb vb_high4(vb x)
{
	return vb_low4((vb){_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
V16_INLINE __m256i or_bits_half(__m256i x, __m256i bits, int n, int mask)
{
	__m256i moved = n >= 0 ? _mm256_slli_epi16(bits, n) : _mm256_srli_epi16(bits, -n);

	return _mm256_or_si256(x, _mm256_and_si256(moved, _mm256_set1_epi8((char)mask)));
}
V16_INLINE vb vb_or_bits(vb x, vb bits, int n, int mask)
{
	return (vb){or_bits_half(x.a, bits.a, n, mask), or_bits_half(x.b, bits.b, n, mask)};
}
#ifdef __AVXVNNI__
V16_INLINE vi vi_dot(vi acc, vb w, const int8_t *a4)
{
	int32_t bits;

	memcpy(&bits, a4, sizeof bits);
	__m256i a = _mm256_set1_epi32(bits);

	return (vi){_mm256_dpbusd_avx_epi32(acc.a, w.a, a), _mm256_dpbusd_avx_epi32(acc.b, w.b, a)};
}
V16_INLINE vi vi_dot_wide(vi acc, vb w, const int8_t *a4)
{
	return vi_dot(acc, w, a4);
}
#else
/* maddubs adds pairs in 16 bits: exact while w <= 127, since 2 * 127 * 127 fits. */
V16_INLINE __m256i dot_half(__m256i acc, __m256i w, __m256i a)
{
	__m256i pairs = _mm256_maddubs_epi16(w, a);

	return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
V16_INLINE vi vi_dot(vi acc, vb w, const int8_t *a4)
{
	int32_t bits;

	memcpy(&bits, a4, sizeof bits);
	__m256i a = _mm256_set1_epi32(bits);

	return (vi){dot_half(acc.a, w.a, a), dot_half(acc.b, w.b, a)};
}
/* w = 16 * high + low, so that neither part can saturate. */
V16_INLINE __m256i dot_wide_half(__m256i acc, __m256i w, __m256i a)
{
	__m256i k = _mm256_set1_epi8(15);
	__m256i low = _mm256_maddubs_epi16(_mm256_and_si256(w, k), a);
	__m256i high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 4), k), a);

	acc = _mm256_add_epi32(acc, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
	return _mm256_add_epi32(acc, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
}
V16_INLINE vi vi_dot_wide(vi acc, vb w, const int8_t *a4)
{
	int32_t bits;

	memcpy(&bits, a4, sizeof bits);
	__m256i a = _mm256_set1_epi32(bits);

	return (vi){dot_wide_half(acc.a, w.a, a), dot_wide_half(acc.b, w.b, a)};
}
#endif

#else /* the definition */

#define V16_MM_TOKENS 4
#define V16_ATTN_Q    2

typedef struct {
	float v[16];
} vf;
typedef struct {
	int32_t v[16];
} vi;
typedef struct {
	uint8_t v[64];
} vb;

#define V16_EACH(type, expr)                                                                       \
	type r;                                                                                    \
	for (int i = 0; i < 16; i++)                                                               \
		r.v[i] = (expr);                                                                   \
	return r

V16_INLINE vf vf_set1(float x)
{
	V16_EACH(vf, x);
}
V16_INLINE vf vf_load(const float *p)
{
	V16_EACH(vf, p[i]);
}
V16_INLINE void vf_store(float *p, vf a)
{
	memcpy(p, a.v, sizeof a.v);
}
V16_INLINE vf vf_add(vf a, vf b)
{
	V16_EACH(vf, a.v[i] + b.v[i]);
}
V16_INLINE vf vf_sub(vf a, vf b)
{
	V16_EACH(vf, a.v[i] - b.v[i]);
}
V16_INLINE vf vf_mul(vf a, vf b)
{
	V16_EACH(vf, a.v[i] * b.v[i]);
}
V16_INLINE vf vf_div(vf a, vf b)
{
	V16_EACH(vf, a.v[i] / b.v[i]);
}
V16_INLINE vf vf_fma(vf a, vf b, vf c)
{
	V16_EACH(vf, fmaf(a.v[i], b.v[i], c.v[i]));
}
/* The second operand where either is NaN, as the instruction has it. */
V16_INLINE vf vf_max(vf a, vf b)
{
	V16_EACH(vf, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
V16_INLINE vf vf_min(vf a, vf b)
{
	V16_EACH(vf, a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
V16_INLINE vf vf_neg(vf a)
{
	V16_EACH(vf, -a.v[i]);
}
/* The first n (at most 16) lanes of a, fill in the others. */
V16_INLINE vf vf_first(vf a, uint32_t n, float fill)
{
	V16_EACH(vf, (uint32_t)i < n ? a.v[i] : fill);
}
/* a, but 0 where x < limit. */
V16_INLINE vf vf_zero_below(vf a, vf x, float limit)
{
	V16_EACH(vf, x.v[i] < limit ? 0.0f : a.v[i]);
}
V16_INLINE vf vf_nan_to(vf a, float fill)
{
	V16_EACH(vf, a.v[i] != a.v[i] ? fill : a.v[i]);
}
/* Bit i is set where lane i is equal. */
V16_INLINE uint32_t vf_equal(vf a, vf b)
{
	uint32_t m = 0;

	for (unsigned i = 0; i < 16; i++)
		m |= (uint32_t)(a.v[i] >= b.v[i] && a.v[i] <= b.v[i]) << i;
	return m;
}
/* Halves are added to halves: 16 to 8 to 4 to 2 to 1. */
V16_INLINE float vf_hsum(vf a)
{
	for (int w = 8; w > 0; w /= 2)
		for (int i = 0; i < w; i++)
			a.v[i] = a.v[i] + a.v[i + w];
	return a.v[0];
}
V16_INLINE float vf_hmax(vf a)
{
	for (int i = 1; i < 16; i++)
		a.v[0] = a.v[0] > a.v[i] ? a.v[0] : a.v[i];
	return a.v[0];
}
V16_INLINE vf vf_from_f16(const uint16_t *p)
{
	V16_EACH(vf, plx_f16_to_f32(p[i]));
}
V16_INLINE void vf_to_f16(uint16_t *p, vf a)
{
	for (int i = 0; i < 16; i++)
		p[i] = plx_f32_to_f16(a.v[i]);
}
V16_INLINE vf vf_from_bf16(const uint16_t *p)
{
	V16_EACH(vf, plx_bf16_to_f32(p[i]));
}
V16_INLINE void vf_to_bf16(uint16_t *p, vf a)
{
	for (int i = 0; i < 16; i++)
		p[i] = plx_f32_to_bf16(a.v[i]);
}
/* Pairs (a, b) with (cos, sin) become (a*cos - b*sin, b*cos + a*sin). */
V16_INLINE vf vf_rope_pairs(vf x, vf tab)
{
	vf r;

	for (int i = 0; i < 16; i += 2) {
		r.v[i] = fmaf(x.v[i], tab.v[i], -(x.v[i + 1] * tab.v[i + 1]));
		r.v[i + 1] = fmaf(x.v[i + 1], tab.v[i], x.v[i] * tab.v[i + 1]);
	}
	return r;
}
V16_INLINE vf vf_from_i(vi a)
{
	V16_EACH(vf, (float)a.v[i]);
}
V16_INLINE vf vf_from_bits(vi a)
{
	V16_EACH(vf, plx_f32_from_bits((uint32_t)a.v[i]));
}
V16_INLINE vi vi_from_bits(vf a)
{
	V16_EACH(vi, (int32_t)plx_f32_bits(a.v[i]));
}
/* Round to nearest, ties to even; |a| < 2^22. */
V16_INLINE vi vi_round(vf a)
{
	V16_EACH(vi, (int32_t)rintf(a.v[i]));
}
V16_INLINE vi vi_set1(int32_t x)
{
	V16_EACH(vi, x);
}
V16_INLINE vi vi_load(const void *p)
{
	vi r;

	memcpy(&r, p, sizeof r);
	return r;
}
V16_INLINE vi vi_add(vi a, vi b)
{
	V16_EACH(vi, a.v[i] + b.v[i]);
}
V16_INLINE vi vi_sub(vi a, vi b)
{
	V16_EACH(vi, a.v[i] - b.v[i]);
}
V16_INLINE vi vi_mul(vi a, vi b)
{
	V16_EACH(vi, a.v[i] * b.v[i]);
}
V16_INLINE vi vi_and(vi a, vi b)
{
	V16_EACH(vi, a.v[i] & b.v[i]);
}
V16_INLINE vi vi_max(vi a, vi b)
{
	V16_EACH(vi, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
V16_INLINE vi vi_shl(vi a, int n)
{
	V16_EACH(vi, (int32_t)((uint32_t)a.v[i] << n));
}
/* Rounds down, so that the sign stays. */
V16_INLINE vi vi_sar(vi a, int n)
{
	V16_EACH(vi, a.v[i] >> n);
}
V16_INLINE int32_t vi_hsum(vi a)
{
	int32_t s = 0;

	for (int i = 0; i < 16; i++)
		s += a.v[i];
	return s;
}
V16_INLINE int32_t vi_hmax(vi a)
{
	int32_t m = a.v[0];

	for (int i = 1; i < 16; i++)
		m = a.v[i] > m ? a.v[i] : m;
	return m;
}
V16_INLINE vi vi_from_u8(const uint8_t *p)
{
	V16_EACH(vi, p[i]);
}
V16_INLINE vi vi_from_i8(const uint8_t *p)
{
	V16_EACH(vi, (int8_t)p[i]);
}
V16_INLINE void vi_store_i8(int8_t *p, vi a)
{
	for (int i = 0; i < 16; i++)
		p[i] = (int8_t)a.v[i];
}
#define V16_EACH_BYTE(expr)                                                                        \
	vb r;                                                                                      \
	for (int i = 0; i < 64; i++)                                                               \
		r.v[i] = (uint8_t)(expr);                                                          \
	return r

V16_INLINE vb vb_load(const uint8_t *p)
{
	V16_EACH_BYTE(p[i]);
}
V16_INLINE void vb_store(uint8_t *p, vb a)
{
	memcpy(p, a.v, sizeof a.v);
}
/* Each byte less k, modulo 256. */
V16_INLINE vb vb_sub(vb a, int k)
{
	V16_EACH_BYTE(a.v[i] - k);
}
V16_INLINE vb vb_low4(vb a)
{
	V16_EACH_BYTE(a.v[i] & 15);
}
V16_INLINE vb vb_high4(vb a)
{
	V16_EACH_BYTE(a.v[i] >> 4);
}
/* a | (bits shifted left by n (right by -n), only those in mask kept) */
V16_INLINE vb vb_or_bits(vb a, vb bits, int n, int mask)
{
	V16_EACH_BYTE(a.v[i] | ((n >= 0 ? bits.v[i] << n : bits.v[i] >> -n) & mask));
}
/* Four products a lane: acc[r] += sum over j<4 of w[4r + j] * a4[j]; w at most 127. */
V16_INLINE vi vi_dot(vi acc, vb w, const int8_t *a4)
{
	for (int i = 0; i < 16; i++)
		for (int j = 0; j < 4; j++)
			acc.v[i] += (int32_t)w.v[4 * i + j] * a4[j];
	return acc;
}
/* The same for w up to 255. */
V16_INLINE vi vi_dot_wide(vi acc, vb w, const int8_t *a4)
{
	return vi_dot(acc, w, a4);
}

#endif

#ifndef __AVX512VNNI__
/* Sums of integers below 2^41, given as floats that are rounded down; exact in any order. */
typedef uint64_t vu;

V16_INLINE vu vu_zero(void)
{
	return 0;
}
V16_INLINE vu vu_add_floor(vu sum, vf a)
{
	float v[16];

	vf_store(v, a);
	for (int i = 0; i < 16; i++)
		sum += (uint64_t)(v[i] >= 0.0f ? (int64_t)v[i] : 0);
	return sum;
}
V16_INLINE uint64_t vu_hsum(vu sum)
{
	return sum;
}
#endif

/*
 * exp of sixteen lanes: 2^n * e^r with n = round(x / ln 2) and a degree-7 Taylor polynomial on
 * |r| <= ln2/2 (truncation 5e-9). The bound and the ends of the range are plx_k_expf's.
 */
V16_INLINE vf vf_exp(vf x)
{
	vf top = vf_min(vf_set1(88.3f), x); /* NaN passes */
	vf t = vf_add(vf_mul(top, vf_set1(0x1.715476p+0f)), vf_set1(0x1.8p+23f));
	vf n = vf_sub(t, vf_set1(0x1.8p+23f));
	vf r = vf_fma(n, vf_set1(-0x1.63p-1f), top);
	vf p = vf_set1(0x1.a01a02p-13f); /* 1/5040 */

	r = vf_fma(n, vf_set1(0x1.bd0106p-13f), r);
	p = vf_fma(p, r, vf_set1(0x1.6c16c2p-10f)); /* 1/720 */
	p = vf_fma(p, r, vf_set1(0x1.111112p-7f));  /* 1/120 */
	p = vf_fma(p, r, vf_set1(0x1.555556p-5f));  /* 1/24 */
	p = vf_fma(p, r, vf_set1(0x1.555556p-3f));  /* 1/6 */
	p = vf_fma(p, r, vf_set1(0.5f));
	p = vf_fma(p, r, vf_set1(1.0f));
	p = vf_fma(p, r, vf_set1(1.0f));
	vi scale = vi_add(vi_shl(vi_from_bits(t), 23), vi_set1(127 << 23));

	return vf_zero_below(vf_mul(p, vf_from_bits(scale)), x, -87.3f);
}

#endif
