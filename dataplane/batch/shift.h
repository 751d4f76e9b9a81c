/*
 * Texts longer than the context: which tokens leave it, and when.
 *
 * A context of n blocks, w = n * block_tokens positions, keeps the sequence's first block (the
 * attention sinks: what every later token has learnt to look at) and its newest tokens. Whenever
 * its positions are full, before the next token is run, the oldest d tokens behind the sinks leave
 * and the others move down by d positions, so that token i of a text stands, when it is run, at
 *
 *   i - left(i),   left(i) = 0                          for i < w
 *                  left(i) = d * (1 + (i - w) / d)      from there on
 *
 *   d = drop * block_tokens,   drop = n / 4 blocks, at least one
 *
 * So everything is a function of the token's index alone: chunks, batches, preemption, prefixes
 * found in a cache and conversations that go on replay the same moves, and the text is the same.
 * A token moves w / d times at most before it leaves.
 *
 * Contexts of less than four blocks don't do it.
 *
 * Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
 *         arXiv:2309.17453: sinks and positions within the cache. There one token leaves at a time
 *         and K is kept unrotated; here whole blocks leave, so that the rest is rotated seldom.
 */
#ifndef PLX_DATAPLANE_BATCH_SHIFT_H
#define PLX_DATAPLANE_BATCH_SHIFT_H

#include <stdint.h>

#define PLX_SHIFT_SINKS 1u /* blocks */
#define PLX_SHIFT_LEAST 4u /* blocks of a context */
#define PLX_SHIFT_NEVER UINT32_MAX

struct plx_shift {
	uint32_t n_blocks; /* of the context */
	uint32_t drop;     /* blocks that leave at once; 0: none ever do */
	uint32_t block_tokens;
};

/* plx_shift_of - the rule for a context of so many tokens. */
static inline struct plx_shift plx_shift_of(uint32_t ctx_tokens, uint32_t block_tokens)
{
	uint32_t n = ctx_tokens / block_tokens;

	return (struct plx_shift){n, n < PLX_SHIFT_LEAST ? 0 : n / 4, block_tokens};
}

/* plx_shift_window, plx_shift_step - tokens of the context; tokens that leave at once. */
static inline uint32_t plx_shift_window(const struct plx_shift *r)
{
	return r->n_blocks * r->block_tokens;
}

static inline uint32_t plx_shift_step(const struct plx_shift *r)
{
	return r->drop * r->block_tokens;
}

/* plx_shift_left - tokens that have left when token i is run; r->drop is not 0. */
static inline uint32_t plx_shift_left(const struct plx_shift *r, uint32_t i)
{
	uint32_t w = plx_shift_window(r), d = plx_shift_step(r);

	return i < w ? 0 : d * (1 + (i - w) / d);
}

#endif
