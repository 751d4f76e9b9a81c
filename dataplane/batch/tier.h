/*
 * The second level of the prefix cache: blocks in host memory, and the copies of blocks that the
 * device is asked for.
 *
 * A block of the pool whose room is needed, but whose content somebody may want again, is copied to
 * a host block and stays in the prefix cache under that number (n_blocks + host block). Whoever
 * finds it there has it copied back. So a preempted sequence is swapped out exactly as far as
 * others need its room, and a talk's blocks outlive the pool. The other way to get KV back is to
 * compute it again: the cheaper is taken, by the measured time of a copy and the cost model's time
 * of the block's tokens (preempt.h).
 *
 * Copies are given to plx_tier.copy before the step that counts on them is; the device runs both in
 * that order, so a copied block may be reused at once. A block stands in at most one pair of a
 * call.
 *
 * The time of a copy: between the end of a step and the start of the next, which was waiting, the
 * device copied. Where it copies beside its work, that is nothing, and that is the cost.
 *
 * Owner: the batch stage.  Thread: one.  Cost: O(1) a copy, no allocation after init.
 */
#ifndef PLX_DATAPLANE_BATCH_TIER_H
#define PLX_DATAPLANE_BATCH_TIER_H

#include "accel/accel.h"
#include "dataplane/batch/kv.h"

#define PLX_TIER_PAIRS 64u
#define PLX_TIER_STEPS 16u /* in flight at most */

/* A step in flight: the copies that were given before it. */
struct plx_tier_sent {
	uint32_t n_pairs;
	bool waited; /* another step ran when it was given */
};

struct plx_tier {
	void (*copy)(void *ctx, const struct plx_block_copy *pairs, uint32_t n); /* NULL: can't */
	void *ctx;
	struct plx_kv kv; /* host blocks: free, or parked with content */
	uint32_t base;    /* number of the first: blocks of the pool */
	uint32_t *mark;   /* [pool and host] last batch of pairs that a block was in */
	uint32_t batch;
	uint32_t n_pairs;
	uint32_t left;    /* pairs that may be given before the next step */
	uint32_t n_given; /* pairs since the last step */
	double copy_ns;   /* measured, a block; 0: not yet */
	uint64_t last_end_ns;
	uint64_t n_out, n_back, n_cow; /* copied to the host, from it, within the pool */
	struct plx_tier_sent sent[PLX_TIER_STEPS]; /* by step id */
	struct plx_block_copy pair[PLX_TIER_PAIRS];
};

size_t plx_tier_bytes(uint32_t n_blocks, uint32_t n_host);

/* plx_tier_init - n_host may be 0.  Errors: NOMEM. */
int plx_tier_init(struct plx_tier *t, struct plx_arena *a, uint32_t n_blocks, uint32_t n_host);

/* plx_tier_turn - a step begins to be filled: at most so many pairs before it. */
void plx_tier_turn(struct plx_tier *t, uint32_t most);

/* plx_tier_can - whether a block can be copied now. */
static inline bool plx_tier_can(const struct plx_tier *t)
{
	return t->copy != NULL && t->left > 0;
}

/* plx_tier_pair - copy a block, after the pairs before and before the next step. */
void plx_tier_pair(struct plx_tier *t, uint32_t src, uint32_t dst);

/* plx_tier_flush - give the pairs to the device now. */
void plx_tier_flush(struct plx_tier *t);

/* plx_tier_step_sent - after flush: a step is given; waits: behind another one. */
void plx_tier_step_sent(struct plx_tier *t, uint64_t id, bool waits);
void plx_tier_step_came(struct plx_tier *t, const struct plx_step *st, bool ok);

/*
 * plx_tier_worth - whether to copy a block rather than to compute it again in compute_ns. While the
 * time of a copy is not known it is tried.
 */
bool plx_tier_worth(struct plx_tier *t, double compute_ns);

/* plx_tier_clear - the device was reset: host blocks are free, pairs forgotten. */
void plx_tier_clear(struct plx_tier *t);

#endif
