/*
 * A layer of experts (CPU): each token chooses its experts, and each expert that was chosen makes
 * one pass over its weights for all of its tokens.
 *
 *   ROUTER    logits of all experts, in f32
 *   ROUTE     for each token softmax, the best n_expert_used of it, their weights
 *   GROUP     tokens sorted by expert: assignments, and jobs of at most 64 of them
 *   GATHER    activations of each assignment's token, so that a job's lie together
 *   EXP_WAIT  nothing to do: experts that are not in memory are on their way (experts.h)
 *   EXP_UP    mid = silu(Wg h) * (Wu h) * weight, by job and granule
 *   EXP_DOWN  out = Wd mid, by job and tile
 *   EXP_SUM   x += out of each of a token's experts, in increasing order, then of the shared one
 *
 * No expert is ever full: a token gets the experts that it chose, whatever runs beside it. What it
 * chose depends on its own logits alone (of equals, the lowest expert), and its sum has an order of
 * its own; so do its bits.
 *
 * Where experts are read from a file EXP_UP and EXP_DOWN run for those that are in memory, then for
 * those that came meanwhile, until all have run. Each writes rows of its own and EXP_SUM adds them
 * in their order, so no bit depends on which came first.
 *
 * An assignment is a row of EXP_UP and EXP_DOWN: those of expert 0 in the order of tokens, those of
 * expert 1, and so on. The shared expert's rows are the step's tokens, behind all of them.
 *
 * Source: Shazeer et al., "Outrageously Large Neural Networks", arXiv:1701.06538; Gale et al.,
 *         "MegaBlocks", arXiv:2211.15841 (grouping without dropping).
 */
#ifndef PLX_ACCEL_FORWARD_MOE_H
#define PLX_ACCEL_FORWARD_MOE_H

#include <stdatomic.h>
#include <stdint.h>

#include "accel/cut.h"
#include "accel/forward.h"

/* Up to this many tokens are routed by whoever groups them, and their next experts guessed. */
#define PLX_FWD_GUESS_TOK 4u

struct plx_experts; /* accel/experts.h */

/* One expert's consecutive assignments; of the shared expert, consecutive tokens. */
struct plx_fwd_job {
	uint32_t expert; /* n_expert: the shared one */
	uint32_t row;
	uint32_t n; /* at most PLX_FWD_TOK_CHUNK */
};

struct plx_fwd_moe {
	uint32_t n_used;  /* experts of a token, the shared one not counted */
	uint32_t stride;  /* floats of a token's router logits */
	float *logits;    /* [max_step_tokens][stride] */
	uint32_t *pick;   /* [max_step_tokens][n_used] experts, increasing */
	float *weight;    /* [max_step_tokens][n_used] */
	uint32_t *row_of; /* [max_step_tokens][n_used] the assignment of each */
	uint32_t *tok_of; /* [max_step_tokens * n_used] the token of an assignment */
	float *scale;     /* [max_step_tokens * (n_used + 1)] its weight; the shared ones behind */
	uint32_t *n_of;   /* [n_expert] scratch of GROUP */
	uint64_t *heat;   /* [n_layer][n_expert] tokens it has served */
	_Atomic uint64_t tokens, passes, busiest, hot; /* runner writes: struct plx_dev_experts */
	struct plx_fwd_job *job; /* of the current layer: routed ones, the shared expert's behind */
	/* Jobs that EXP_UP and EXP_DOWN run now: all, or those whose experts are in memory. */
	struct plx_fwd_job *wave;
	uint32_t n_routed; /* of the wave */
	uint32_t n_job;    /* the shared expert's among them */
	/* Where experts are read from a file. */
	struct plx_experts *store; /* NULL: all are in memory */
	uint32_t todo;             /* job[todo .. end_routed) have not run */
	uint32_t end_routed;
	uint32_t end;             /* job[end_routed .. end): the shared expert's that have not */
	float *guess;             /* [PLX_FWD_GUESS_TOK][stride] the next layer's logits, from this
	                           * layer's state */
	uint32_t *guess_pick;     /* [n_used] scratch */
	_Atomic uint64_t wait_ns; /* runner adds */
	struct plx_fwd_act in;    /* [max_step_tokens * n_used][n_embd] */
	struct plx_fwd_act
	    mid;    /* [max_step_tokens * n_used][n_ff_expert]; the shared: plx_fwd.mid */
	float *out; /* [max_step_tokens * (n_used + 1)][n_embd] */
	struct plx_fwd_ffn *ffn; /* [n_layer][plx_fwd_n_ffn] */
};

/* plx_fwd_moe_jobs - most jobs of a step of n_tok tokens. */
uint32_t plx_fwd_moe_jobs(const struct plx_model *m, uint32_t n_tok);

/* plx_fwd_moe_counts - how the experts were used. Thread: any. */
void plx_fwd_moe_counts(const struct plx_fwd *f, struct plx_dev_experts *out);

/* plx_fwd_moe_guesses - whether ROUTER computes f->moe->guess too. */
bool plx_fwd_moe_guesses(const struct plx_fwd *f);

/* plx_fwd_moe_waited - count time that a step waited for experts. Thread: the runner. */
void plx_fwd_moe_waited(struct plx_fwd *f, uint64_t ns);

/* plx_fwd_moe_next - the op after one of ROUTER .. EXP_DOWN; err where an expert could not be read.
 * Thread: as plx_fwd_next. */
enum plx_fwd_op plx_fwd_moe_next(struct plx_fwd *f);

/* plx_fwd_moe_cut - cut one of ROUTE .. EXP_SUM. */
struct plx_cut plx_fwd_moe_cut(const struct plx_fwd *f);

/* plx_fwd_moe_units - units of one of ROUTE .. EXP_SUM. */
void plx_fwd_moe_units(struct plx_fwd *f, struct plx_range u, uint32_t lane);

/* plx_fwd_moe_ahead - as plx_fwd_ahead, while one of ROUTER .. EXP_UP is open. */
const char *plx_fwd_moe_ahead(const struct plx_fwd *f, uint32_t share, uint32_t n_share);

#endif
