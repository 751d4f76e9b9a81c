/*
 * Blocks for kernel tests; where a block keeps its scales comes from quant.h's list of formats.
 */
#include "tests/lib/qdata.h"

uint64_t plx_t_rand(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

float plx_t_uniform(uint64_t *state)
{
	return (float)(int32_t)(plx_t_rand(state) >> 32) * 0x1p-31f;
}

static uint16_t scale_bits(enum plx_t_fill fill, uint64_t *state)
{
	uint16_t sign = (uint16_t)(plx_t_rand(state) >> 40 << 15);

	switch (fill) {
	case PLX_T_RANDOM:
		return plx_f32_to_f16(plx_t_uniform(state) * 0.02f);
	case PLX_T_SATURATED:
		return sign | 0x7bffu;
	case PLX_T_ZERO:
		return sign;
	case PLX_T_SUBNORMAL:
		return (uint16_t)(sign | (plx_t_rand(state) >> 20 & 0x3ffu));
	}
	return 0;
}

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof v);
}

static void fill_floats(enum plx_qtype type, uint8_t *p, size_t n, enum plx_t_fill fill,
                        uint64_t *state)
{
	for (size_t i = 0; i < n; i++) {
		float f = plx_t_uniform(state);

		if (fill == PLX_T_SATURATED)
			f = f < 0.0f ? -60000.0f : 60000.0f;
		if (fill == PLX_T_ZERO)
			f = f < 0.0f ? -0.0f : 0.0f;
		if (fill == PLX_T_SUBNORMAL)
			f *= type == PLX_Q_F16 ? 0x1p-15f : 0x1p-127f;
		if (type == PLX_Q_F32)
			memcpy(p + 4 * i, &f, sizeof f);
		else
			put16(p + 2 * i,
			      type == PLX_Q_F16 ? plx_f32_to_f16(f) : plx_f32_to_bf16(f));
	}
}

void plx_t_fill_blocks(enum plx_qtype type, void *dst, size_t n_elems, enum plx_t_fill fill,
                       uint64_t *state)
{
	uint32_t bytes = plx_qtype_block_bytes(type);
	uint8_t *p = dst;

	if (plx_qtype_block_elems(type) == 1) {
		fill_floats(type, p, n_elems, fill, state);
		return;
	}
	for (size_t b = 0; b < n_elems / plx_qtype_block_elems(type); b++, p += bytes) {
		int both = type == PLX_Q_Q4_1 || type == PLX_Q_Q5_1 || type == PLX_Q_Q4_K ||
		           type == PLX_Q_Q5_K;

		for (uint32_t i = 0; i < bytes; i++) {
			uint8_t r = (uint8_t)(plx_t_rand(state) >> 33);

			p[i] = fill == PLX_T_SATURATED ? (r & 1 ? 0xff : (r & 2 ? 0x80 : 0)) : r;
		}
		put16(type == PLX_Q_Q6_K ? p + 208 : p, scale_bits(fill, state));
		if (both)
			put16(p + 2, scale_bits(fill, state));
	}
}
