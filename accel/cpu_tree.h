/* Trees of drafts on the CPU device: how they are laid out, sampled, and which path is taken. */
#ifndef PLX_ACCEL_CPU_TREE_H
#define PLX_ACCEL_CPU_TREE_H

#include "accel/cpu.h"

/* plx_cpu_tok_parent - the token of the step that token `at`, not a sequence's first, follows. */
static inline uint32_t plx_cpu_tok_parent(const struct plx_step_tok *tok, uint32_t at)
{
	return tok[at].parent < 0 ? at - 1 : (uint32_t)tok[at].parent;
}

/* plx_cpu_tree_lay - what hangs on each of the sequence's tokens; behind its branches. */
void plx_cpu_tree_lay(struct plx_cpu *c, const struct plx_step_tok *tok,
                      const struct plx_step_seq *q);

/*
 * plx_cpu_tree_sampler - what a row of sequence q samples by: the slot's sampler, or, in a tree,
 * `own`, which gets the ids of the row's ancestors.
 */
const struct plx_slot_sampler *plx_cpu_tree_sampler(const struct plx_cpu *c, uint32_t row,
                                                    const struct plx_step_seq *q,
                                                    const struct plx_cpu_slot *slot,
                                                    struct plx_slot_sampler *own);

/* Rows whose samples are taken, counted from the committed token's. */
struct plx_cpu_path {
	int32_t status; /* of the first that could not sample */
	uint32_t n;     /* at least 1 */
	uint32_t rank[PLX_MAX_DRAFT + 1];
};

/* plx_cpu_path_take - the path of a sequence whose rows, all chosen, begin at row. */
void plx_cpu_path_take(const struct plx_cpu *c, const struct plx_step_seq *q, uint32_t row,
                       struct plx_cpu_path *out);

/* plx_cpu_tree_settle - all rows are chosen: the cut of SETTLE; false: nothing has to move. */
bool plx_cpu_tree_settle(struct plx_cpu *c, struct plx_cut *out);

#endif
