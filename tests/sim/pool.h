/*
 * The baselines' KV blocks and prefix cache: reference counts, free blocks that still hold known
 * text found by key, the one unused longest evicted first. What a block holds is known exactly from
 * the text's streams, so a 64-bit key stands for its ids and nothing is compared.
 *
 * Owner: one baseline.  Cost: O(1) a call.
 */
#ifndef PLX_TESTS_SIM_POOL_H
#define PLX_TESTS_SIM_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/trace.h"

#define SIM_NO_BLOCK UINT32_MAX

struct sim_block {
	uint64_t key; /* 0: content unknown */
	uint32_t ref;
	uint32_t prev, next; /* of free blocks, next to be taken first */
	uint32_t chain;      /* in its bucket */
};

struct sim_pool {
	struct sim_block *block;
	uint32_t *bucket; /* [n_buckets] */
	uint32_t n_blocks, n_buckets;
	uint32_t n_free;
	uint32_t first, last; /* free */
};

void sim_pool_open(struct sim_pool *p, uint32_t n_blocks);
void sim_pool_close(struct sim_pool *p);

/* sim_pool_key - what block i of a text, of block_tokens each, holds. Never 0. */
uint64_t sim_pool_key(const struct sim_text *t, uint32_t i, uint32_t block_tokens);

/* sim_pool_find - a block with this content or SIM_NO_BLOCK; not held yet. */
uint32_t sim_pool_find(const struct sim_pool *p, uint64_t key);
void sim_pool_hold(struct sim_pool *p, uint32_t b);

/* sim_pool_take - a block with one holder; SIM_NO_BLOCK: none is free. */
uint32_t sim_pool_take(struct sim_pool *p);

/* sim_pool_publish - a held block is computed and has this content. */
void sim_pool_publish(struct sim_pool *p, uint32_t b, uint64_t key);
void sim_pool_drop(struct sim_pool *p, uint32_t b);

#endif
