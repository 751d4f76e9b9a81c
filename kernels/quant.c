/*
 * Sizes and exact values of the block formats; quant.h has each formula.
 *
 * Every product here is exact in f32 (an 11-bit d, an at most 8-bit scale, an at most 6-bit
 * quant), so a value is rounded at most once, by the addition of a minimum.
 */
#include "kernels/quant.h"

#include <stdbool.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

struct format {
	uint32_t type;
	uint32_t block_elems;
	uint32_t block_bytes;
	const char *name;
};

static const struct format formats[PLX_QTYPE_COUNT] = {
    {PLX_Q_F32, 1, 4, "F32"},       {PLX_Q_F16, 1, 2, "F16"},       {PLX_Q_BF16, 1, 2, "BF16"},
    {PLX_Q_Q4_0, 32, 18, "Q4_0"},   {PLX_Q_Q4_1, 32, 20, "Q4_1"},   {PLX_Q_Q5_0, 32, 22, "Q5_0"},
    {PLX_Q_Q5_1, 32, 24, "Q5_1"},   {PLX_Q_Q8_0, 32, 34, "Q8_0"},   {PLX_Q_Q4_K, 256, 144, "Q4_K"},
    {PLX_Q_Q5_K, 256, 176, "Q5_K"}, {PLX_Q_Q6_K, 256, 210, "Q6_K"},
};

static const struct format *find(uint32_t type)
{
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++)
		if (formats[i].type == type)
			return &formats[i];
	return NULL;
}

int plx_qtype_known(uint32_t ggml_type)
{
	return find(ggml_type) != NULL;
}

const char *plx_qtype_name(uint32_t ggml_type)
{
	const struct format *f = find(ggml_type);

	return f ? f->name : "unknown";
}

enum plx_qtype plx_qtype_at(uint32_t i)
{
	PLX_CHECK(i < PLX_QTYPE_COUNT);
	return (enum plx_qtype)formats[i].type;
}

uint32_t plx_qtype_block_elems(uint32_t ggml_type)
{
	const struct format *f = find(ggml_type);

	return f ? f->block_elems : 0;
}

uint32_t plx_qtype_block_bytes(uint32_t ggml_type)
{
	const struct format *f = find(ggml_type);

	return f ? f->block_bytes : 0;
}

int plx_q_row_bytes(uint32_t ggml_type, uint64_t n_elems, uint64_t *bytes)
{
	return plx_q_matrix_bytes(ggml_type, n_elems, 1, bytes);
}

int plx_q_matrix_bytes(uint32_t ggml_type, uint64_t n_elems, uint64_t n_rows, uint64_t *bytes)
{
	const struct format *f = find(ggml_type);
	uint64_t row;
	uint64_t all;

	if (!f)
		return PLX_E_UNSUPPORTED;
	if (n_elems % f->block_elems)
		return PLX_E_FORMAT;
	if (__builtin_mul_overflow(n_elems / f->block_elems, f->block_bytes, &row) ||
	    __builtin_mul_overflow(row, n_rows, &all))
		return PLX_E_LIMIT;
	*bytes = all;
	return PLX_E_OK;
}

static uint16_t u16_at(const uint8_t *p)
{
	return (uint16_t)(p[0] | (unsigned)p[1] << 8);
}
static float f16_at(const uint8_t *p)
{
	return plx_f16_to_f32(u16_at(p));
}

/* w = d * (q - offset) + m over one 32-block of nibbles; qh holds the fifth bits, or is NULL. */
static void dequant_nibbles(const uint8_t *qs, const uint8_t *qh, float *dst, const float dm[2],
                            int offset)
{
	for (unsigned i = 0; i < 32; i++) {
		int q = (qs[i & 15] >> (i < 16 ? 0 : 4)) & 15;

		if (qh)
			q |= ((qh[i >> 3] >> (i & 7)) & 1) << 4;
		dst[i] = dm[0] * (float)(q - offset) + dm[1];
	}
}

static void dequant_q8_0(const uint8_t *p, float *dst)
{
	float d = f16_at(p);

	for (unsigned i = 0; i < 32; i++)
		dst[i] = d * (float)(int8_t)p[2 + i];
}

/* Q4_K and Q5_K: 8 sub-blocks of 32; each 32 bytes of qs hold two of them, low nibbles first. */
static void dequant_k45(const uint8_t *p, float *dst, const uint8_t *qh, const uint8_t *qs)
{
	float d = f16_at(p);
	float dmin = f16_at(p + 2);

	for (unsigned j = 0; j < 8; j++) {
		uint8_t sc;
		uint8_t mn;

		plx_q_k4_scale(p + 4, j, &sc, &mn);
		for (unsigned i = 0; i < 32; i++) {
			int q = (qs[(j / 2) * 32 + i] >> ((j & 1) * 4)) & 15;

			if (qh)
				q |= ((qh[i] >> j) & 1) << 4;
			dst[j * 32 + i] = d * (float)sc * (float)q - dmin * (float)mn;
		}
	}
}

static void dequant_q6_k(const uint8_t *p, float *dst)
{
	float d = f16_at(p + 208);

	for (unsigned i = 0; i < 256; i++) {
		float sc = (float)(int8_t)p[192 + i / 16];

		dst[i] = d * sc * (float)((int)plx_q_q6_at(p, i) - 32);
	}
}

static void dequant_floats(enum plx_qtype type, const uint8_t *p, float *dst, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (type == PLX_Q_F16)
			dst[i] = f16_at(p + 2 * i);
		else
			dst[i] = plx_bf16_to_f32(u16_at(p + 2 * i));
	}
}

static void dequant_block(enum plx_qtype type, const uint8_t *p, float *dst)
{
	float dm[2] = {f16_at(p), f16_at(p + 2)};
	float d0[2] = {dm[0], -0.0f}; /* x + -0 is x, also for a negative zero */

	switch (type) {
	case PLX_Q_Q4_0:
		dequant_nibbles(p + 2, NULL, dst, d0, 8);
		break;
	case PLX_Q_Q4_1:
		dequant_nibbles(p + 4, NULL, dst, dm, 0);
		break;
	case PLX_Q_Q5_0:
		dequant_nibbles(p + 6, p + 2, dst, d0, 16);
		break;
	case PLX_Q_Q5_1:
		dequant_nibbles(p + 8, p + 4, dst, dm, 0);
		break;
	case PLX_Q_Q8_0:
		dequant_q8_0(p, dst);
		break;
	case PLX_Q_Q4_K:
		dequant_k45(p, dst, NULL, p + 16);
		break;
	case PLX_Q_Q5_K:
		dequant_k45(p, dst, p + 16, p + 48);
		break;
	case PLX_Q_Q6_K:
		dequant_q6_k(p, dst);
		break;
	case PLX_Q_F32:
	case PLX_Q_F16:
	case PLX_Q_BF16:
		PLX_CHECK(false); /* a float format has no blocks */
	}
}

void plx_q_dequant(enum plx_qtype type, const void *src, float *dst, size_t n_elems)
{
	const uint8_t *p = src;

	if (type == PLX_Q_F32) {
		memcpy(dst, src, n_elems * sizeof *dst);
		return;
	}
	if (type == PLX_Q_F16 || type == PLX_Q_BF16) {
		dequant_floats(type, p, dst, n_elems);
		return;
	}
	uint32_t elems = plx_qtype_block_elems(type);
	uint32_t bytes = plx_qtype_block_bytes(type);

	PLX_CHECK(elems != 0 && n_elems % elems == 0);
	for (size_t b = 0; b < n_elems / elems; b++)
		dequant_block(type, p + b * bytes, dst + b * elems);
}
