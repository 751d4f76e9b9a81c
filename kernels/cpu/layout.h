/*
 * Where things lie in a repacked matrix: shared by pack.c, which writes it, and mm_impl.h, which
 * multiplies.
 *
 * Tiles of 16 rows follow each other; a tile is read from its first byte to its last, once.
 *
 * Block formats: a tile is groups of 2 blocks of 32 columns (K formats: 8, a super-block), the
 * last one padded with zeros. In a group come all q planes, then all h planes, then the scales;
 * a group's size is a multiple of 64. r is the row in the tile, c the column in the block:
 *   q, 4 bits  256 bytes: byte (c & 12) * 16 + r * 4 + (c & 3), low nibble c < 16, high nibble
 *              c >= 16, so a 64-byte load holds 4 columns of 16 rows, twice
 *   q, 8 bits  512 bytes: byte (c >> 2) * 64 + r * 4 + (c & 3), value + 128
 *   h, 1 bit   64 bytes: bit 4 of column c is bit (c >> 2) of byte r * 4 + (c & 3)
 *   h, 2 bits  128 bytes: bits 4-5 of column c are bits 2*((c >> 2) & 3) and up of byte
 *              (c >> 4) * 64 + r * 4 + (c & 3)
 *   scales     Q4_0, Q5_0, Q8_0: d[16] f16 a block; Q4_1, Q5_1: d[16], m[16] f16 a block;
 *              Q4_K, Q5_K: d[16], dmin[16] f16, then sc[16], mn[16] u8 a block;
 *              Q6_K: d[16] f16, then sc of c < 16 [16] and of c >= 16 [16], i8, a block
 * Float formats: F32, F16: [n_in][16]; BF16: [n_in/2][16][2].
 */
#ifndef PLX_KERNELS_CPU_LAYOUT_H
#define PLX_KERNELS_CPU_LAYOUT_H

#include <stdint.h>

#include "kernels/kernels.h"

/*
 * Which layout this is: grows by one with every change of what stands above or of where pack.c puts
 * a byte, or of the order in which a model's matrices lie, so that matrices which another build
 * repacked and wrote to a file are not taken for ours.
 */
#define PLX_K_LAYOUT_ID 2u

struct plx_layout {
	uint32_t group_blocks; /* blocks of 32 columns in a group; 0: a float format */
	uint32_t q_bytes;      /* of one block */
	uint32_t h_bytes;      /* of one block */
	uint32_t s_bytes;      /* of one group */
};

static inline __attribute__((always_inline)) struct plx_layout plx_layout_of(enum plx_qtype type)
{
	switch (type) {
	case PLX_Q_Q4_0:
		return (struct plx_layout){2, 256, 0, 2 * 32};
	case PLX_Q_Q4_1:
		return (struct plx_layout){2, 256, 0, 2 * 64};
	case PLX_Q_Q5_0:
		return (struct plx_layout){2, 256, 64, 2 * 32};
	case PLX_Q_Q5_1:
		return (struct plx_layout){2, 256, 64, 2 * 64};
	case PLX_Q_Q8_0:
		return (struct plx_layout){2, 512, 0, 2 * 32};
	case PLX_Q_Q4_K:
		return (struct plx_layout){8, 256, 0, 64 + 8 * 32};
	case PLX_Q_Q5_K:
		return (struct plx_layout){8, 256, 64, 64 + 8 * 32};
	case PLX_Q_Q6_K:
		return (struct plx_layout){8, 256, 128, 32 + 8 * 32 + 32};
	case PLX_Q_F32:
	case PLX_Q_F16:
	case PLX_Q_BF16:
		break;
	}
	return (struct plx_layout){0, 0, 0, 0};
}

static inline __attribute__((always_inline)) uint32_t plx_layout_group_bytes(struct plx_layout l)
{
	return l.group_blocks * (l.q_bytes + l.h_bytes) + l.s_bytes;
}

/* Bytes of a tile of 16 rows; a multiple of 64. */
static inline uint64_t plx_layout_tile_bytes(enum plx_qtype type, uint32_t n_in)
{
	struct plx_layout l = plx_layout_of(type);

	if (l.group_blocks == 0)
		return (uint64_t)n_in * PLX_K_TILE * (type == PLX_Q_F32 ? 4 : 2);
	uint64_t groups = ((uint64_t)n_in / 32 + l.group_blocks - 1) / l.group_blocks;

	return groups * plx_layout_group_bytes(l);
}

#endif
