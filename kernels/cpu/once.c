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

/* ---- a token's row --------------------------------------------------------------------------- */

static uint8_t *block_of(const struct plx_k_kv *kv, uint32_t pos)
{
	return (uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;
}

static void move_f16(const struct plx_k_kv *kv, uint32_t to, uint32_t from)
{
	uint32_t a = to % kv->block_tokens, b = from % kv->block_tokens, hd = kv->head_dim;
	uint16_t *dk = (uint16_t *)(void *)(block_of(kv, to) + kv->k_off) + a / 16 * 16 * hd;
	const uint16_t *sk =
	    (const uint16_t *)(const void *)(block_of(kv, from) + kv->k_off) + b / 16 * 16 * hd;
	uint16_t *dv = (uint16_t *)(void *)(block_of(kv, to) + kv->v_off);
	const uint16_t *sv = (const uint16_t *)(const void *)(block_of(kv, from) + kv->v_off);

	for (uint32_t d = 0; d < hd; d++)
		dk[(size_t)d * 16 + a % 16] = sk[(size_t)d * 16 + b % 16];
	memcpy(dv + (size_t)a * hd, sv + (size_t)b * hd, 2 * (size_t)hd);
}

/* Row b of a group of 16 positions into row a of another; kvq.h says where its bytes are. */
static void move_group(uint8_t *dst, const uint8_t *src, struct kvq f, uint32_t n_block, bool is_k,
                       uint32_t a, uint32_t b)
{
	uint32_t q_end = n_block * f.q_bytes, h_end = q_end + n_block * f.h_bytes;

	for (uint32_t at = 0; at < (is_k ? h_end : 0); at += 64)
		memcpy(dst + at + 4 * (size_t)a, src + at + 4 * (size_t)b, 4);
	for (uint32_t at = 0; at < (is_k ? 0 : q_end); at += f.q_bytes)
		for (uint32_t j = 0; j < f.q_bytes / 16; j++)
			dst[at + a / 4 * (f.q_bytes / 4) + 4 * j + a % 4] =
			    src[at + b / 4 * (f.q_bytes / 4) + 4 * j + b % 4];
	for (uint32_t i = 0; i < n_block; i++)
		memcpy(dst + h_end + 32 * (size_t)i + 2 * (size_t)a,
		       src + h_end + 32 * (size_t)i + 2 * (size_t)b, 2);
}

void plx_k_kv_move(const struct plx_k_kv *kv, uint32_t to, uint32_t from)
{
	uint32_t a = to % kv->block_tokens, b = from % kv->block_tokens;
	uint32_t n_block = kvq_blocks(kv->head_dim);
	struct kvq fk = kvq_k(kv->type), fv = kvq_v(kv->type);
	size_t gk = kvq_group_bytes(fk, kv->head_dim), gv = kvq_group_bytes(fv, kv->head_dim);

	if (to == from)
		return;
	if (kv->type == PLX_K_KV_F16) {
		move_f16(kv, to, from);
		return;
	}
	move_group(block_of(kv, to) + kv->k_off + a / 16 * gk,
	           block_of(kv, from) + kv->k_off + b / 16 * gk, fk, n_block, true, a % 16, b % 16);
	move_group(block_of(kv, to) + kv->v_off + a / 16 * gv,
	           block_of(kv, from) + kv->v_off + b / 16 * gv, fv, n_block, false, a % 16,
	           b % 16);
}
