/*
 * Sampling on the CPU device: a slot's sampler, the ids its repeat penalty looks at, and the choice
 * of a token from logits.
 *
 * Recent ids are kept by position, so that a token that is run, a token that was sampled and a
 * draft that was wrong all write the place they belong to, and writing twice changes nothing.
 */
#ifndef PLX_ACCEL_SAMPLER_H
#define PLX_ACCEL_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "kernels/sample.h"

#define PLX_RECENT_RING 128u /* at least the window and the drafts after it */

struct plx_slot_sampler {
	struct plx_sampler conf;
	int32_t recent[PLX_RECENT_RING]; /* id at position p: recent[p % PLX_RECENT_RING] */
	uint32_t first_pos;              /* no id is known before this position */
	bool placed;     /* conf.recent was put in its place, before the first token run */
	int32_t last_id; /* sampled last; -1: none yet */
};

/* plx_slot_sampler_set - a new sequence in the slot. */
void plx_slot_sampler_set(struct plx_slot_sampler *s, const struct plx_sampler *conf);

/* plx_slot_sampler_note - the sequence has id at pos; positions come in order, but may return. */
void plx_slot_sampler_note(struct plx_slot_sampler *s, uint32_t pos, int32_t id);

/* plx_slot_sampler_recent - the ids before pos that count, oldest first; returns how many. */
uint32_t plx_slot_sampler_recent(const struct plx_slot_sampler *s, uint32_t pos,
                                 uint32_t out[PLX_PENALTY_WINDOW]);

/* What is chosen for one row of logits. */
struct plx_choice {
	int32_t status; /* 0 or FAULT */
	int32_t id;
	float logprob;
};

enum plx_choosing_state {
	PLX_CHOOSING_NEW, /* not begun; the caller's to set and to look at */
	PLX_CHOOSING_ID,
	PLX_CHOOSING_LOGPROBS,
	PLX_CHOOSING_DONE,
};

/* A choice that is being made. Between steps it belongs to whoever makes it. */
struct plx_choosing {
	enum plx_choosing_state state;
	const struct plx_kernels *k;
	float *logits;
	struct plx_top *top;
	uint32_t n_top;
	uint32_t n_vocab;
	uint32_t n_recent;
	uint32_t recent[PLX_PENALTY_WINDOW];
	float was[PLX_PENALTY_WINDOW]; /* their logits before the penalty */
	struct plx_choice choice;
};

/*
 * plx_slot_sampler_begin, plx_slot_sampler_step - choose the token at position pos, in steps.
 *
 * @g       out; a step returns true when g->choice is final.
 * @logits  in [n_vocab]; penalised between steps, restored before the id is known.
 * @top     out [n_top], best first; may be NULL when n_top is 0.
 * @scratch plx_k_sample_scratch_bytes(), for this choice alone until it is final.
 * @budget  of a step, as for plx_k_sample_step; it changes no bit.
 *
 * Log-probabilities are those of the logits as they came, before any sampling option.
 * Thread: any, each step another one; the slot is only read, by begin.
 */
void plx_slot_sampler_begin(struct plx_choosing *g, const struct plx_slot_sampler *s,
                            const struct plx_kernels *k, float *logits, uint32_t n_vocab,
                            uint32_t pos, struct plx_top *top, uint32_t n_top, void *scratch);
/* plx_slot_score_begin - no choice, but how likely `id` is: g->choice is it with its logprob. */
void plx_slot_score_begin(struct plx_choosing *g, const struct plx_kernels *k, float *logits,
                          uint32_t n_vocab, uint32_t id, void *scratch);
bool plx_slot_sampler_step(struct plx_choosing *g, uint32_t budget, void *scratch);

/*
 * plx_slot_sampler_choose - the same at once.
 *
 * Cost: about ten passes over the logits, two when greedy.
 */
struct plx_choice plx_slot_sampler_choose(const struct plx_slot_sampler *s,
                                          const struct plx_kernels *k, float *logits,
                                          uint32_t n_vocab, uint32_t pos, struct plx_top *top,
                                          uint32_t n_top, void *scratch);

#endif
