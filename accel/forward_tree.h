/*
 * Trees of drafts in the pass (CPU): each branch is a sequence of its own whose block table is its
 * sequence's, but for the last block or two, which lie outside the pool.
 *
 *   BRANCH  the block that the committed token stands in is copied for each branch
 *   ROPE    a token's K and V go to its own branch and to all that hang on it
 *   ATTN    reads a branch as it reads any sequence: the bits are those of a chain
 *   SETTLE  the blocks of the branch that was taken go over its sequence's own
 *
 * The first branch, from the committed token to the first leaf, stands in the sequence's own
 * blocks, so that a chain costs nothing and the likeliest path is where it belongs.
 *
 * Drafts stand in the order of depth first, so that all that hangs on token t are the tokens behind
 * it up to sub_end[t].
 *
 * Source: Miao et al., "SpecInfer", arXiv:2305.09781 (trees verified in one step).
 */
#ifndef PLX_ACCEL_FORWARD_TREE_H
#define PLX_ACCEL_FORWARD_TREE_H

#include "accel/forward.h"

/* A block that is copied. */
struct plx_fwd_copy {
	uint32_t from, to;
};

struct plx_fwd_tree {
	uint32_t *sub_end;         /* [max_step_tokens]; of this step's, where n_branch > 0 */
	uint32_t *table;           /* [tree_branches][max_seq_blocks] */
	struct plx_fwd_copy *copy; /* [2 * tree_branches] of BRANCH, then of SETTLE */
	uint32_t n_branch;         /* in this step */
	uint32_t n_copy;
};

/* plx_fwd_tree_blocks - blocks behind the pool's that the limits' branches take. */
static inline uint32_t plx_fwd_tree_blocks(const struct plx_dev_limits *lim)
{
	return 2 * lim->tree_branches;
}

/* plx_fwd_tree_begin - a step without trees, so far. */
void plx_fwd_tree_begin(struct plx_fwd *f);

/*
 * plx_fwd_tree_branch - a table for a branch of the sequence that has `table` and whose committed
 * token stands at pos; at most lim.tree_branches a step. It stays until the next step begins.
 */
const uint32_t *plx_fwd_tree_branch(struct plx_fwd *f, const uint32_t *table, uint32_t pos);

/*
 * plx_fwd_tree_settle - the positions from `pos`, the committed token's, to `last` of a branch go
 * to the table they belong to when plx_fwd_tree_go lets them.
 * plx_fwd_tree_go - when logits are all there: true, and the cut of SETTLE, where anything goes.
 */
void plx_fwd_tree_settle(struct plx_fwd *f, const uint32_t *branch, const uint32_t *table,
                         uint32_t pos, uint32_t last);
bool plx_fwd_tree_go(struct plx_fwd *f, struct plx_cut *out);

/* BRANCH and SETTLE: unit u is layer u % n_layer of a block that is copied. */
struct plx_cut plx_fwd_tree_cut(const struct plx_fwd *f);
void plx_fwd_tree_units(const struct plx_fwd *f, struct plx_range u);

/* plx_fwd_body_op - the op that follows those on what is stored already. */
static inline enum plx_fwd_op plx_fwd_body_op(const struct plx_fwd *f)
{
	return f->tree != NULL && f->tree->n_copy > 0 ? PLX_FWD_BRANCH : PLX_FWD_EMBED;
}

/* plx_fwd_hangs_on - whether b is a branch of the step and token t is before its first one. */
static inline bool plx_fwd_hangs_on(const struct plx_fwd *f, const struct plx_fwd_seq *b,
                                    uint32_t t)
{
	return f->tree != NULL && f->tree->n_branch > 0 && b < f->seq + f->n_seq &&
	       b->first_tok < f->tree->sub_end[t];
}

#endif
