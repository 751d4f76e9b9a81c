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

/*
 * plx_slot_sampler_choose - choose the token at position pos.
 *
 * @logits  in [n_vocab]; changed while it runs, restored before it returns.
 * @top     out [n_top], best first; may be NULL when n_top is 0.
 * @scratch plx_k_sample_scratch_bytes().
 *
 * Log-probabilities are those of the logits as they came, before any sampling option.
 * Thread: any; the slot is only read.  Cost: about ten passes over the logits, two when greedy.
 */
struct plx_choice plx_slot_sampler_choose(const struct plx_slot_sampler *s,
                                          const struct plx_kernels *k, float *logits,
                                          uint32_t n_vocab, uint32_t pos, struct plx_top *top,
                                          uint32_t n_top, void *scratch);

#endif
