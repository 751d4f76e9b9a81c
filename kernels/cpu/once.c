/*
 * What is computed at start or too seldom to need an instruction set of its own.
 */
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "fw/base/check.h"
#include "kernels/cpu/kvq.h"

float plx_k_expf(float x)
{
	float top = 88.3f < x ? 88.3f : x; /* NaN passes */
	float t = top * 0x1.715476p+0f + 0x1.8p+23f;
	float n = t - 0x1.8p+23f;
	float r = fmaf(n, 0x1.bd0106p-13f, fmaf(n, -0x1.63p-1f, top));
	float p = 0x1.a01a02p-13f;

	p = fmaf(p, r, 0x1.6c16c2p-10f);
	p = fmaf(p, r, 0x1.111112p-7f);
	p = fmaf(p, r, 0x1.555556p-5f);
	p = fmaf(p, r, 0x1.555556p-3f);
	p = fmaf(p, r, 0.5f);
	p = fmaf(p, r, 1.0f);
	p = fmaf(p, r, 1.0f);
	float y = p * plx_f32_from_bits((plx_f32_bits(t) << 23) + (127u << 23));

	return x < -87.3f ? 0.0f : y;
}

void plx_k_rope_row(float *tab, uint32_t pos, uint32_t n_rot, double base, double pos_scale,
                    const float *factors)
{
	for (uint32_t i = 0; i < n_rot / 2; i++) {
		double angle = (double)pos * pos_scale * pow(base, -2.0 * i / n_rot);

		if (factors)
			angle /= (double)factors[i];
		tab[2 * i] = (float)cos(angle);
		tab[2 * i + 1] = (float)sin(angle);
	}
}

uint64_t plx_k_kv_k_bytes(enum plx_k_kv_type type, uint32_t n_tok, uint32_t head_dim)
{
	if (type == PLX_K_KV_F16)
		return (uint64_t)n_tok * head_dim * sizeof(uint16_t);
	return (uint64_t)(n_tok / 16) * kvq_group_bytes(kvq_k(type), head_dim);
}

uint64_t plx_k_kv_v_bytes(enum plx_k_kv_type type, uint32_t n_tok, uint32_t head_dim)
{
	if (type == PLX_K_KV_F16)
		return (uint64_t)n_tok * head_dim * sizeof(uint16_t);
	return (uint64_t)(n_tok / 16) * kvq_group_bytes(kvq_v(type), head_dim);
}

void plx_k_kv_export(uint16_t *dst, const uint16_t *src, uint32_t block_tokens, uint32_t head_dim)
{
	PLX_DCHECK(block_tokens % 16 == 0);
	for (uint32_t t = 0; t < block_tokens; t++)
		for (uint32_t d = 0; d < head_dim; d++)
			dst[(size_t)t * head_dim + d] =
			    src[(size_t)(t / 16 * 16) * head_dim + (size_t)d * 16 + t % 16];
}

void plx_k_kv_import(uint16_t *dst, const uint16_t *src, uint32_t block_tokens, uint32_t head_dim)
{
	PLX_DCHECK(block_tokens % 16 == 0);
	for (uint32_t t = 0; t < block_tokens; t++)
		for (uint32_t d = 0; d < head_dim; d++)
			dst[(size_t)(t / 16 * 16) * head_dim + (size_t)d * 16 + t % 16] =
			    src[(size_t)t * head_dim + d];
}
