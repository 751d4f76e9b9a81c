/*
 * Where things lie in a quantised K or V: shared by what stores, what attends and what counts
 * bytes.
 *
 * Sixteen positions are a group; groups follow each other. Dimensions are in blocks of 32, the last
 * one padded where head_dim is no multiple of it. A value is d * (u - half), u an unsigned integer
 * of the type's bits, half 2^(bits - 1), d the signed f16 scale of its block and position: what is
 * largest in magnitude has u = 0. In a group come all q planes, block by block, then all h planes,
 * then all scales, [16] f16 a block; r is the position in the group, c the dimension in the block:
 *   K  8 bits   512 bytes: byte (c >> 2) * 64 + r * 4 + (c & 3)
 *      q        256 bytes: byte (c & 12) * 16 + r * 4 + (c & 3), low nibble c < 16, high c >= 16
 *      h, 1 bit  64 bytes: bit 4 of dimension c is bit (c >> 2) of byte r * 4 + (c & 3)
 *   V  8 bits   512 bytes: byte (r >> 2) * 128 + (c >> 4) * 64 + (c & 15) * 4 + (r & 3)
 *      q        256 bytes: byte (r >> 2) * 64 + (c & 15) * 4 + (r & 3), nibbles as above
 * So one 64-byte load holds four dimensions of 16 positions of K, or four positions of 16
 * dimensions of V, and a byte belongs to one position alone: positions of a group may be stored at
 * the same time.
 */
#ifndef PLX_KERNELS_CPU_KVQ_H
#define PLX_KERNELS_CPU_KVQ_H

#include <stdint.h>

#include "kernels/kernels.h"

#define KVQ_BLOCK  32u
#define KVQ_BLOCKS (PLX_K_HEAD_DIM_MAX / KVQ_BLOCK)

/* How K or V is kept. */
struct kvq {
	int bits;
	uint32_t q_bytes; /* of 16 positions of a block */
	uint32_t h_bytes;
};

static inline __attribute__((always_inline)) struct kvq kvq_k(enum plx_k_kv_type type)
{
	return type == PLX_K_KV_Q8 ? (struct kvq){8, 512, 0} : (struct kvq){5, 256, 64};
}

static inline __attribute__((always_inline)) struct kvq kvq_v(enum plx_k_kv_type type)
{
	return type == PLX_K_KV_Q8 ? (struct kvq){8, 512, 0} : (struct kvq){4, 256, 0};
}

static inline __attribute__((always_inline)) uint32_t kvq_blocks(uint32_t head_dim)
{
	return (head_dim + KVQ_BLOCK - 1) / KVQ_BLOCK;
}

/* Bytes of a group of 16 positions. */
static inline __attribute__((always_inline)) uint32_t kvq_group_bytes(struct kvq f,
                                                                      uint32_t head_dim)
{
	return kvq_blocks(head_dim) * (f.q_bytes + f.h_bytes + 16 * 2);
}

/* Where a group's planes begin. */
static inline __attribute__((always_inline)) uint32_t kvq_h_off(struct kvq f, uint32_t head_dim)
{
	return kvq_blocks(head_dim) * f.q_bytes;
}

static inline __attribute__((always_inline)) uint32_t kvq_d_off(struct kvq f, uint32_t head_dim)
{
	return kvq_blocks(head_dim) * (f.q_bytes + f.h_bytes);
}

#endif
