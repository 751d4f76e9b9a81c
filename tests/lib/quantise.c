/* Block formats by max-abs scaling; kernels/quant.h has the formulas that this inverts. */
#include "tests/lib/quantise.h"

#include <math.h>
#include <string.h>

#include "fw/base/check.h"

static int clamp(float v, int lo, int hi)
{
	int q = (int)lrintf(v);

	return q < lo ? lo : q > hi ? hi : q;
}

static float inverse(float d)
{
	return d != 0 ? 1.0f / d : 0;
}

/* Store a scale as f16; returns what a reader will see. */
static float put_f16(uint8_t *dst, float d)
{
	uint16_t h = plx_f32_to_f16(d);

	memcpy(dst, &h, sizeof h);
	return plx_f16_to_f32(h);
}

/* The element of largest magnitude, with its sign. */
static float extreme(const float *x, uint32_t n)
{
	float most = 0;

	for (uint32_t i = 0; i < n; i++)
		most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
	return most;
}

static void range(const float *x, uint32_t n, float *lo, float *hi)
{
	*lo = *hi = x[0];
	for (uint32_t i = 1; i < n; i++) {
		*lo = x[i] < *lo ? x[i] : *lo;
		*hi = x[i] > *hi ? x[i] : *hi;
	}
}

/* Element i in the low nibble of byte i, element i + 16 in its high one. */
static void put_nibbles(uint8_t *dst, const uint8_t q[32])
{
	for (uint32_t i = 0; i < 16; i++)
		dst[i] = (uint8_t)((q[i] & 15u) | (q[i + 16] & 15u) << 4);
}

static void q4_0(uint8_t *b, const float *x)
{
	float id = inverse(put_f16(b, extreme(x, 32) / -8));
	uint8_t q[32];

	for (uint32_t i = 0; i < 32; i++)
		q[i] = (uint8_t)(clamp(x[i] * id, -8, 7) + 8);
	put_nibbles(b + 2, q);
}

static void q4_1(uint8_t *b, const float *x)
{
	float lo, hi, id, m;
	uint8_t q[32];

	range(x, 32, &lo, &hi);
	id = inverse(put_f16(b, (hi - lo) / 15));
	m = put_f16(b + 2, lo);
	for (uint32_t i = 0; i < 32; i++)
		q[i] = (uint8_t)clamp((x[i] - m) * id, 0, 15);
	put_nibbles(b + 4, q);
}

static void q5_0(uint8_t *b, const float *x)
{
	float id = inverse(put_f16(b, extreme(x, 32) / -16));
	uint32_t high = 0;
	uint8_t q[32];

	for (uint32_t i = 0; i < 32; i++) {
		q[i] = (uint8_t)(clamp(x[i] * id, -16, 15) + 16);
		high |= (uint32_t)q[i] >> 4 << i;
	}
	memcpy(b + 2, &high, sizeof high);
	put_nibbles(b + 6, q);
}

static void q8_0(uint8_t *b, const float *x)
{
	float id = inverse(put_f16(b, fabsf(extreme(x, 32)) / 127));

	for (uint32_t i = 0; i < 32; i++)
		b[2 + i] = (uint8_t)clamp(x[i] * id, -127, 127);
}

/* Scale and minimum of sub-block j in the 12 bytes: plx_q_k4_scale, backwards. */
static void put_k4_scale(uint8_t *scales, uint32_t j, uint32_t sc, uint32_t mn)
{
	if (j < 4) {
		scales[j] |= (uint8_t)sc;
		scales[j + 4] |= (uint8_t)mn;
		return;
	}
	scales[j + 4] = (uint8_t)((sc & 15u) | (mn & 15u) << 4);
	scales[j - 4] |= (uint8_t)(sc >> 4 << 6);
	scales[j] |= (uint8_t)(mn >> 4 << 6);
}

/* Nibbles of 64 elements a time: the first 32 low, the next 32 high. */
static void q4_k(uint8_t *b, const float *x)
{
	float scale[8], low[8], most = 0, least = 0;
	uint8_t q[256];

	for (uint32_t j = 0; j < 8; j++) {
		float lo, hi;

		range(x + 32 * j, 32, &lo, &hi);
		low[j] = lo < 0 ? -lo : 0;
		scale[j] = hi > -low[j] ? (hi + low[j]) / 15 : 0;
		most = scale[j] > most ? scale[j] : most;
		least = low[j] > least ? low[j] : least;
	}
	memset(b, 0, 16);
	float d = put_f16(b, most / 63), dmin = put_f16(b + 2, least / 63);

	for (uint32_t j = 0; j < 8; j++) {
		int sc = clamp(scale[j] * inverse(d), 0, 63);
		int mn = clamp(low[j] * inverse(dmin), 0, 63);
		float id = inverse(d * (float)sc);

		put_k4_scale(b + 4, j, (uint32_t)sc, (uint32_t)mn);
		for (uint32_t i = 32 * j; i < 32 * j + 32; i++)
			q[i] = (uint8_t)clamp((x[i] + dmin * (float)mn) * id, 0, 15);
	}
	for (uint32_t i = 0; i < 128; i++) {
		uint32_t from = i / 32 * 64 + i % 32;

		b[16 + i] = (uint8_t)(q[from] | q[from + 32] << 4);
	}
}

/* Quant i of a Q6_K block: plx_q_q6_at, backwards, into zeroed bytes. */
static void put_q6(uint8_t *b, uint32_t i, uint32_t q)
{
	uint32_t half = i >> 7, run = (i >> 5) & 3, col = i & 31;

	b[half * 64 + (run & 1) * 32 + col] |= (uint8_t)((q & 15u) << (run >> 1) * 4);
	b[128 + half * 32 + col] |= (uint8_t)(q >> 4 << run * 2);
}

static void q6_k(uint8_t *b, const float *x)
{
	float scale[16];

	for (uint32_t j = 0; j < 16; j++)
		scale[j] = extreme(x + 16 * j, 16) / -32;
	memset(b, 0, 210);
	float d = put_f16(b + 208, extreme(scale, 16) / -128);

	for (uint32_t j = 0; j < 16; j++) {
		int sc = clamp(scale[j] * inverse(d), -128, 127);
		float id = inverse(d * (float)sc);

		b[192 + j] = (uint8_t)sc;
		for (uint32_t i = 16 * j; i < 16 * j + 16; i++)
			put_q6(b, i, (uint32_t)(clamp(x[i] * id, -32, 31) + 32));
	}
}

static void f16(uint8_t *b, const float *x)
{
	(void)put_f16(b, *x);
}

static void bf16(uint8_t *b, const float *x)
{
	uint16_t h = plx_f32_to_bf16(*x);

	memcpy(b, &h, sizeof h);
}

static void f32(uint8_t *b, const float *x)
{
	memcpy(b, x, sizeof *x);
}

typedef void (*block_fn)(uint8_t *b, const float *x);

static block_fn block_of(enum plx_qtype type)
{
	static const block_fn fn[] = {
	    [PLX_Q_F32] = f32,   [PLX_Q_F16] = f16,   [PLX_Q_Q4_0] = q4_0,
	    [PLX_Q_Q4_1] = q4_1, [PLX_Q_Q5_0] = q5_0, [PLX_Q_Q8_0] = q8_0,
	    [PLX_Q_Q4_K] = q4_k, [PLX_Q_Q6_K] = q6_k, [PLX_Q_BF16] = bf16,
	};

	return (size_t)type < sizeof fn / sizeof fn[0] ? fn[type] : NULL;
}

bool plx_t_can_quantise(enum plx_qtype type)
{
	return block_of(type) != NULL;
}

void plx_t_quantise(enum plx_qtype type, void *dst, const float *src, size_t n_elems)
{
	uint32_t elems = plx_qtype_block_elems(type), bytes = plx_qtype_block_bytes(type);
	block_fn fn = block_of(type);

	PLX_CHECK(fn != NULL && n_elems % elems == 0);
	for (size_t i = 0; i < n_elems / elems; i++)
		fn((uint8_t *)dst + i * bytes, src + i * elems);
}
