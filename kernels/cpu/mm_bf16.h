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

/*
 * Columns whose activations are copied beside each other before use: in place, the tokens of a
 * width that is a power of two would all fall into one set of the first-level cache.
 */
#define MM_BF16_PANEL 256
#define MM_BF16_AHEAD 1024 /* bytes to fetch ahead when the second-level cache has the tile */

/* Pairs of weights by pairs of activations; mm_bf16_x is what an activation is copied as. */
#ifdef __AVX512BF16__
typedef uint16_t mm_bf16_x;

V16_INLINE void mm_bf16_copy(mm_bf16_x *to, const uint16_t *from)
{
	memcpy(to, from, 16 * sizeof *to);
}
V16_INLINE void mm_bf16_pair(const int nt, vi pair, const mm_bf16_x *x, vf *chain)
{
#pragma GCC unroll 8
	for (int t = 0; t < nt; t++)
		chain[t] = vf_dot_bf16(chain[t], pair, x + t * MM_BF16_PANEL);
}
#else
typedef float mm_bf16_x;

V16_INLINE void mm_bf16_copy(mm_bf16_x *to, const uint16_t *from)
{
	vf_store(to, vf_from_bf16(from));
}
V16_INLINE void mm_bf16_pair(const int nt, vi pair, const mm_bf16_x *x, vf *chain)
{
	vf odd = vf_from_bits(vi_and(pair, vi_set1(-65536)));
	vf even = vf_from_bits(vi_shl(pair, 16));

#pragma GCC unroll 8
	for (int t = 0; t < nt; t++) {
		chain[t] = vf_fma(odd, vf_set1(x[t * MM_BF16_PANEL + 1]), chain[t]);
		chain[t] = vf_fma(even, vf_set1(x[t * MM_BF16_PANEL]), chain[t]);
	}
}
#endif

/* chain[i % 2][t] += pair i of columns k0 .. k0 + n, for nt tokens. */
V16_INLINE void mm_bf16_panel(const int nt, const struct mm_tile *m, uint32_t k0, uint32_t n,
                              vf chain[2][MM_BF16_TOKENS])
{
	const uint32_t ahead = m->prefetch ? m->prefetch : MM_BF16_AHEAD;
	_Alignas(64) mm_bf16_x x[MM_BF16_TOKENS * MM_BF16_PANEL];

	for (int t = 0; t < nt; t++)
		for (uint32_t i = 0; i < n; i += 16)
			mm_bf16_copy(x + t * MM_BF16_PANEL + i,
			             m->x16 + (size_t)t * m->stride + k0 + i);
	for (uint32_t k = 0; k < n; k += 4) {
		const uint8_t *w = m->w + (size_t)(k0 + k) * 32;

		__builtin_prefetch(w + ahead);
		__builtin_prefetch(w + ahead + 64);
		mm_bf16_pair(nt, vi_load(w), x + k, chain[0]);
		mm_bf16_pair(nt, vi_load(w + 64), x + k + 2, chain[1]);
	}
}

/* A tile by nt tokens, at most MM_BF16_TOKENS, over the whole of k. */
V16_INLINE void mm_bf16_tokens(const int nt, const struct mm_tile *m, vf *acc)
{
	vf chain[2][MM_BF16_TOKENS];

	for (int t = 0; t < nt; t++)
		chain[0][t] = chain[1][t] = vf_set1(0.0f);
	for (uint32_t k = 0; k < m->n_in; k += MM_BF16_PANEL)
		mm_bf16_panel(nt, m, k, m->n_in - k < MM_BF16_PANEL ? m->n_in - k : MM_BF16_PANEL,
		              chain);
	for (int t = 0; t < nt; t++)
		acc[t] = vf_add(chain[0][t], chain[1][t]);
}

#endif
