/*
 * What a register block of the matrix product is told: shared by mm_impl.h and mm_bf16.h.
 */
#ifndef PLX_KERNELS_CPU_MM_TILE_H
#define PLX_KERNELS_CPU_MM_TILE_H

#include "kernels/kernels.h"

/*
 * Ahead of the block in work, found by measurement: a page for blocks of up to 16 x 5 bits, whose
 * unpacking keeps the processor's window short. Blocks with more bytes come sooner when only their
 * own lines are asked for, all at once, and the rest is left to the processor's own prefetching.
 */
#define MM_PREFETCH_BYTES 4096
#define MM_PREFETCH_BLOCK 384 /* bytes of quants from which on it is 0 */

/* Where a register block reads and what it has to know; constant but for the pointers. */
struct mm_tile {
	const uint8_t *w;           /* the tile */
	const struct plx_k_qblk *a; /* first token's first block */
	const float *x;             /* or first token's activations, for F32 and F16 */
	const uint16_t *x16;        /* or in bf16, for BF16 */
	size_t stride;              /* blocks (or values) from one token to the next */
	uint32_t n_in;
	uint32_t prefetch; /* how far ahead to fetch; 0: the block in work, or in cache already */
};

#endif
