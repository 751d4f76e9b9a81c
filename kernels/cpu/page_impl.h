/*
 * Summaries of pages of K, and what queries make of them, once for every instruction set: included
 * by table_impl.h alone. Lanes are dimensions.
 */
#ifndef PLX_KERNELS_CPU_PAGE_IMPL_H
#define PLX_KERNELS_CPU_PAGE_IMPL_H

#include "kernels/cpu/attn_impl.h"

/* The page that pos begins: its summary, [3][dim]. */
static uint16_t *page_at(const struct plx_k_kv *kv, uint32_t pos)
{
	uint32_t in_block = pos % kv->block_tokens / plx_k_page_tokens(kv->block_tokens);
	uint8_t *block = (uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;

	return (uint16_t *)(void *)(block + kv->page_off) + (size_t)in_block * 3 * kv->head_dim;
}

/* Of one 16 dimensions of a page. */
struct page_sum {
	vf sum, least, most;
};

/* A NaN stays in the sum alone. */
V16_INLINE void page_add(struct page_sum *s, vf k)
{
	s->sum = vf_add(s->sum, k);
	s->least = vf_min(s->least, k);
	s->most = vf_max(s->most, k);
}

/* f16 of 16 values, not above them (or, up, not below); infinities and NaN as they are. */
static void page_round(uint16_t *to, vf v, bool up)
{
	float x[16], got[16];

	vf_store(x, v);
	vf_to_f16(to, v);
	vf_store(got, vf_from_f16(to));
	for (int i = 0; i < 16; i++) {
		bool off = up ? got[i] < x[i] : got[i] > x[i];
		bool away = up == (to[i] < 0x8000u); /* from zero */

		if (off && got[i] == 0.0f)
			to[i] = up ? 0x0001u : 0x8001u;
		else if (off)
			to[i] = (uint16_t)(to[i] + (away ? 1 : -1));
	}
}

static void op_page_sum(const struct plx_k_kv *kv, uint32_t pos)
{
	const uint32_t dim = kv->head_dim, n = plx_k_page_tokens(kv->block_tokens);
	struct page_sum s[PLX_K_HEAD_DIM_MAX / 16];
	float k[PLX_K_HEAD_DIM_MAX];
	uint16_t *to = page_at(kv, pos);
	vf inv = vf_set1(1.0f / (float)n);

	PLX_DCHECK(pos % n == 0);
	op_k_load(kv, pos, k);
	for (uint32_t d = 0; d < dim / 16; d++)
		s[d].sum = s[d].least = s[d].most = vf_load(k + d * 16);
	for (uint32_t p = 1; p < n; p++) {
		op_k_load(kv, pos + p, k);
		for (uint32_t d = 0; d < dim / 16; d++)
			page_add(&s[d], vf_load(k + d * 16));
	}
	for (uint32_t d = 0; d < dim / 16; d++) {
		vf zero = vf_sub(s[d].sum, s[d].sum); /* NaN where one is, or an infinity */
		vf mean = vf_mul(s[d].sum, inv);

		mean = vf_max(vf_set1(-65504.0f), vf_min(vf_set1(65504.0f), mean));
		vf_to_f16(to + d * 16, mean);
		page_round(to + dim + d * 16, vf_add(s[d].least, zero), false);
		page_round(to + 2 * (size_t)dim + d * 16, vf_add(s[d].most, zero), true);
	}
}

static void op_page_rate(const struct plx_k_kv *kv, const float *q, float scale, uint32_t n,
                         float *mean, float *most)
{
	const uint32_t dim = kv->head_dim, page = plx_k_page_tokens(kv->block_tokens);
	vf up[PLX_K_HEAD_DIM_MAX / 16], down[PLX_K_HEAD_DIM_MAX / 16];

	for (uint32_t d = 0; d < dim / 16; d++) {
		up[d] = vf_max(vf_load(q + d * 16), vf_set1(0.0f));
		down[d] = vf_min(vf_load(q + d * 16), vf_set1(0.0f));
	}
	for (uint32_t i = 0; i < n; i++) {
		const uint16_t *at = page_at(kv, i * page);
		vf m = vf_set1(0.0f), top = vf_set1(0.0f);

		for (uint32_t d = 0; d < dim / 16; d++) {
			m = vf_fma(vf_load(q + d * 16), vf_from_f16(at + d * 16), m);
			if (most == NULL)
				continue;
			top = vf_fma(down[d], vf_from_f16(at + dim + d * 16), top);
			top = vf_fma(up[d], vf_from_f16(at + 2 * (size_t)dim + d * 16), top);
		}
		mean[i] = vf_hsum(m) * scale;
		if (most != NULL)
			most[i] = vf_hsum(top) * scale;
	}
}

#endif
