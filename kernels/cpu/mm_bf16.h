/*
 * BF16 weights by bf16 activations: included by mm_impl.h alone.
 *
 * A row's sum is two chains: pair i of columns (2i, 2i+1) belongs to chain i % 2, and each pair
 * adds its odd column's product first, then its even one's, each by an fma of its own. That is
 * what vdpbf16ps computes for a lane, so machines that have it need one instruction for a pair;
 * the others widen both operands (exact) and compute the same two fmas.
 * Source: Intel SDM, VDPBF16PS: odd product first, round to nearest even, FTZ and DAZ.
 */
#ifndef PLX_KERNELS_CPU_MM_BF16_H
#define PLX_KERNELS_CPU_MM_BF16_H

#include "kernels/cpu/mm_tile.h"
#include "kernels/cpu/v16.h"

#if defined(__AVX512BW__)
#define MM_BF16_TOKENS V16_MM_TOKENS
#else
#define MM_BF16_TOKENS (V16_MM_TOKENS / 2)
#endif

#ifdef __AVX512BF16__

/* chain[j][t] += the pairs of tile m, for nt tokens. */
V16_INLINE void mm_bf16_chains(const int nt, const struct mm_tile *m, vf chain[2][MM_BF16_TOKENS])
{
	for (uint32_t k = 0; k < m->n_in; k += 4) {
		const uint8_t *w = m->w + (size_t)k * 32;

		__builtin_prefetch(w + m->prefetch);
		__builtin_prefetch(w + m->prefetch + 64);
#pragma GCC unroll 2
		for (uint32_t j = 0; j < 2; j++) {
			vi pair = vi_load(w + 64 * j);

#pragma GCC unroll 8
			for (int t = 0; t < nt; t++)
				chain[j][t] = vf_dot_bf16(
				    chain[j][t], pair, m->x16 + (size_t)t * m->stride + k + 2 * j);
		}
	}
}

#else

#define MM_BF16_PANEL 256 /* columns whose activations are widened at once */

/* The same for n columns from k0, whose activations x has as f32. */
V16_INLINE void mm_bf16_panel(const int nt, const struct mm_tile *m, uint32_t k0, uint32_t n,
                              float x[MM_BF16_TOKENS][MM_BF16_PANEL], vf chain[2][MM_BF16_TOKENS])
{
	for (uint32_t k = 0; k < n; k += 4) {
		const uint8_t *w = m->w + (size_t)(k0 + k) * 32;

		__builtin_prefetch(w + m->prefetch);
		__builtin_prefetch(w + m->prefetch + 64);
#pragma GCC unroll 2
		for (uint32_t j = 0; j < 2; j++) {
			vi pair = vi_load(w + 64 * j);
			vf odd = vf_from_bits(vi_and(pair, vi_set1(-65536)));
			vf even = vf_from_bits(vi_shl(pair, 16));

#pragma GCC unroll 8
			for (int t = 0; t < nt; t++) {
				const float *xt = &x[t][k + 2 * j];

				chain[j][t] = vf_fma(odd, vf_set1(xt[1]), chain[j][t]);
				chain[j][t] = vf_fma(even, vf_set1(xt[0]), chain[j][t]);
			}
		}
	}
}

V16_INLINE void mm_bf16_chains(const int nt, const struct mm_tile *m, vf chain[2][MM_BF16_TOKENS])
{
	float x[MM_BF16_TOKENS][MM_BF16_PANEL];

	for (uint32_t k = 0; k < m->n_in; k += MM_BF16_PANEL) {
		uint32_t n = m->n_in - k < MM_BF16_PANEL ? m->n_in - k : MM_BF16_PANEL;

		for (int t = 0; t < nt; t++)
			for (uint32_t i = 0; i < n; i += 16)
				vf_store(&x[t][i],
				         vf_from_bf16(m->x16 + (size_t)t * m->stride + k + i));
		mm_bf16_panel(nt, m, k, n, x, chain);
	}
}

#endif

/* A tile by nt tokens, at most MM_BF16_TOKENS, over the whole of k. */
V16_INLINE void mm_bf16_tokens(const int nt, const struct mm_tile *m, vf *acc)
{
	vf chain[2][MM_BF16_TOKENS];

	for (int t = 0; t < nt; t++)
		chain[0][t] = chain[1][t] = vf_set1(0.0f);
	mm_bf16_chains(nt, m, chain);
	for (int t = 0; t < nt; t++)
		acc[t] = vf_add(chain[0][t], chain[1][t]);
}

#endif
