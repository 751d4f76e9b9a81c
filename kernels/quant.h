/*
 * The block formats of weights, as GGUF stores them, and their exact values.
 *
 * A row of n elements is n / block_elems blocks, one after another. This header knows sizes and
 * values; kernels.h multiplies. Everything is little-endian, as the file is.
 *
 * Formula of each block (d, m, dmin: f16; q: unsigned unless said; i: element in the block):
 *   F32, F16, BF16  w = stored value
 *   Q4_0 (32)   w = d * (q4 - 8)          18 bytes: d, qs[16]; element i in the low nibble of
 *                                         qs[i], element i + 16 in its high nibble
 *   Q4_1 (32)   w = d * q4 + m            20 bytes: d, m, qs[16]
 *   Q5_0 (32)   w = d * (q5 - 16)         22 bytes: d, qh[4] (bit i is bit 4 of q[i]), qs[16]
 *   Q5_1 (32)   w = d * q5 + m            24 bytes: d, m, qh[4], qs[16]
 *   Q8_0 (32)   w = d * q8, q8 signed     34 bytes: d, qs[32]
 *   Q4_K (256)  w = d*sc[i/32] * q4 - dmin*mn[i/32]      144 bytes: d, dmin, scales[12], qs[128]
 *   Q5_K (256)  w = d*sc[i/32] * q5 - dmin*mn[i/32]      176 bytes: d, dmin, scales[12], qh[32],
 *                                                        qs[128]
 *   Q6_K (256)  w = d*sc[i/16] * (q6 - 32), sc signed    210 bytes: ql[128], qh[64], scales[16], d
 * sc and mn of Q4_K and Q5_K are 6-bit numbers packed in scales[12] (plx_q_k4_scale); plx_q_q6_at
 * finds a q6.
 */
#ifndef PLX_KERNELS_QUANT_H
#define PLX_KERNELS_QUANT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The numbers are GGUF's, so that a file's type field casts after plx_qtype_known said yes. */
enum plx_qtype {
	PLX_Q_F32 = 0,
	PLX_Q_F16 = 1,
	PLX_Q_Q4_0 = 2,
	PLX_Q_Q4_1 = 3,
	PLX_Q_Q5_0 = 6,
	PLX_Q_Q5_1 = 7,
	PLX_Q_Q8_0 = 8,
	PLX_Q_Q4_K = 12,
	PLX_Q_Q5_K = 13,
	PLX_Q_Q6_K = 14,
	PLX_Q_BF16 = 30,
};

#define PLX_QTYPE_COUNT 11 /* the number of formats above */

/* plx_qtype_known - 1 where ggml_type, a number from a file, is one of the formats above. */
int plx_qtype_known(uint32_t ggml_type);

/* plx_qtype_name - "Q4_1" and so on; "unknown" for a number not in the list. */
const char *plx_qtype_name(uint32_t ggml_type);

/* plx_qtype_at - the i-th format, 0 <= i < PLX_QTYPE_COUNT, for loops over all of them. */
enum plx_qtype plx_qtype_at(uint32_t i);

/* plx_qtype_block_elems, plx_qtype_block_bytes - size of a block; 0 for a number not listed. */
uint32_t plx_qtype_block_elems(uint32_t ggml_type);
uint32_t plx_qtype_block_bytes(uint32_t ggml_type);

/*
 * plx_q_row_bytes - bytes of one row of n_elems elements.
 *
 * @bytes  out, set only on success.
 *
 * Errors: UNSUPPORTED (format not listed), FORMAT (n_elems is not a multiple of the block),
 *         LIMIT (the size does not fit 64 bits).
 */
int plx_q_row_bytes(uint32_t ggml_type, uint64_t n_elems, uint64_t *bytes);

/*
 * plx_q_matrix_bytes - bytes of n_rows rows of n_elems; errors as plx_q_row_bytes.
 */
int plx_q_matrix_bytes(uint32_t ggml_type, uint64_t n_elems, uint64_t n_rows, uint64_t *bytes);

/*
 * plx_q_dequant - the exact values of a row, rounded once to f32 where a sum does not fit.
 *
 * @type   one of the list.
 * @src    in, n_elems elements as stored; any alignment.
 * @dst    out [n_elems] f32.
 * @n_elems a multiple of the block.
 *
 * Products (d * sc * q) are exact in f32; d * q + m is rounded once. Used for the embedding
 * lookup, by tests and by the double-precision reference.
 * Thread: any.  Cost: O(n_elems).
 */
void plx_q_dequant(enum plx_qtype type, const void *src, float *dst, size_t n_elems);

/* How much work goes into a block's scales. */
enum plx_q_effort {
	PLX_Q_PLAIN, /* set by the block's extremes, quants rounded to nearest */
	PLX_Q_FIT,   /* searched for the least sum of squared errors */
};

/*
 * plx_q_quantise - f32 to blocks: the inverse of plx_q_dequant, but for what the format can't hold.
 *
 * FIT tries 13 to 38 scales a block of 32 (or sub-block), each followed by the least-squares
 * solution for its quants; for formats with two levels of scales, also the integers beside each
 * scale, and the block's own scales by least squares over all sub-blocks. What it writes is never
 * worse than PLAIN: both are decoded, the smaller sum of squared errors stays. The bytes depend on
 * src alone: no machine, order or thread count changes them.
 *
 * @type   any of the list; the float formats round to nearest.
 * @src    in [n_elems] f32, finite. Scales saturate at f16's range, so larger blocks are cut there;
 *         F16 itself overflows to infinity.
 * @dst    out, n_elems / block_elems * block_bytes bytes; any alignment.
 * @n_elems a multiple of the block.
 *
 * Thread: any.  Cost: about 3 ns an element PLAIN, 25 to 80 ns FIT.
 * Source: the search over inverse scales with a least-squares step is the common way to make these
 *         formats; for one level of scales it is Lloyd's method (IEEE Trans. Inf. Theory 28, 1982).
 */
void plx_q_quantise(enum plx_qtype type, enum plx_q_effort effort, const float *src, void *dst,
                    size_t n_elems);

/* plx_q_k4_scale - sub-block j's (0..7) scale and minimum from the 12 bytes of Q4_K and Q5_K. */
static inline void plx_q_k4_scale(const uint8_t *scales, uint32_t j, uint8_t *sc, uint8_t *mn)
{
	if (j < 4) {
		*sc = scales[j] & 63u;
		*mn = scales[j + 4] & 63u;
		return;
	}
	*sc = (uint8_t)((scales[j + 4] & 15u) | ((unsigned)scales[j - 4] >> 6 << 4));
	*mn = (uint8_t)(((unsigned)scales[j + 4] >> 4) | ((unsigned)scales[j] >> 6 << 4));
}

/*
 * plx_q_q6_at - the 6-bit quant (0..63) of element i (0..255) of a Q6_K block.
 *
 * Elements come in two halves of 128, each in four runs of 32: ql's 64 bytes hold runs 0 and 1 in
 * their low nibbles and runs 2 and 3 in the high ones; qh's 32 bytes hold two bits of each run.
 */
static inline uint8_t plx_q_q6_at(const uint8_t *block, uint32_t i)
{
	uint32_t half = i >> 7;
	uint32_t run = (i >> 5) & 3;
	uint32_t col = i & 31;
	uint32_t low = (unsigned)block[half * 64 + (run & 1) * 32 + col] >> (run >> 1) * 4;
	uint32_t high = (unsigned)block[128 + half * 32 + col] >> run * 2;

	return (uint8_t)((low & 15u) | (high & 3u) << 4);
}

static inline float plx_f32_from_bits(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof f);
	return f;
}

static inline uint32_t plx_f32_bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof u);
	return u;
}

/*
 * plx_f16_to_f32 - exact, subnormals, infinities and NaN included.
 *
 * Integer arithmetic alone, so FTZ and DAZ have no say.
 */
static inline float plx_f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
	uint32_t exp = (h >> 10) & 31u;
	uint32_t man = h & 1023u;

	if (exp == 31) /* NaNs come out quiet, as the processor's conversion gives them */
		return plx_f32_from_bits(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0));
	if (exp != 0)
		return plx_f32_from_bits(sign | (exp + 112u) << 23 | man << 13);
	if (man == 0)
		return plx_f32_from_bits(sign);
	uint32_t shift = (uint32_t)__builtin_clz(man) - 21u; /* brings the leading one to bit 10 */

	return plx_f32_from_bits(sign | (113u - shift) << 23 | ((man << shift) & 1023u) << 13);
}

/* plx_f32_to_f16 - round to nearest, ties to even; overflow gives infinity; NaN stays NaN. */
static inline uint16_t plx_f32_to_f16(float f)
{
	uint32_t u = plx_f32_bits(f);
	uint32_t sign = (u >> 16) & 0x8000u;
	uint32_t mag = u & 0x7fffffffu;

	if (mag > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00u | ((mag >> 13) & 0x1ffu));
	if (mag >= 0x477ff000u) /* 65520 and above round to infinity */
		return (uint16_t)(sign | 0x7c00u);
	if (mag < 0x33000001u) /* at most 2^-25: half of the smallest subnormal rounds to zero */
		return (uint16_t)sign;
	if (mag < 0x38800000u) { /* below 2^-14: a subnormal of units 2^-24 */
		uint32_t drop = 126u - (mag >> 23);
		uint32_t man = (mag & 0x7fffffu) | 0x800000u;
		uint32_t half = (1u << (drop - 1)) - 1u + ((man >> drop) & 1u);

		return (uint16_t)(sign | ((man + half) >> drop));
	}
	return (uint16_t)(sign | ((mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13));
}

/* plx_bf16_to_f32 - exact. */
static inline float plx_bf16_to_f32(uint16_t h)
{
	return plx_f32_from_bits((uint32_t)h << 16);
}

/* plx_f32_to_bf16 - round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t plx_f32_to_bf16(float f)
{
	uint32_t u = plx_f32_bits(f);

	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(u >> 16 | 64u);
	return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

#endif
