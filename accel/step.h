/*
 * Step records: their layout, and the checks a step passes before a device accepts it.
 *
 * The same for every kind of device. The checker keeps what slots will look like after all steps
 * accepted so far (live or not, how many blocks), not what they look like on the device now, so
 * that a step can be judged while earlier ones still run.
 */
#ifndef PLX_ACCEL_STEP_H
#define PLX_ACCEL_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/accel.h"

/* Where the arrays of a record lie. */
struct plx_step_layout {
	uint32_t record_bytes; /* multiple of 64 */
	uint32_t tok_off;
	uint32_t seq_off;
	uint32_t delta_off;
	uint32_t sampler_off;
	uint32_t out_off;
	uint32_t top_off; /* struct plx_top[max_step_seqs][PLX_MAX_DRAFT + 1][PLX_MAX_TOP] */
	uint32_t max_deltas;
	uint32_t obs_off, keep_off;
	uint32_t share_off;
};

/* What the accepted steps make of a slot. */
struct plx_slot_shadow {
	uint32_t n_blocks; /* entries of its block table that are set; no holes */
	uint32_t next_pos; /* after the furthest token accepted; 0: none yet */
	uint32_t mark;     /* serial of the last step that named it */
	uint32_t shifted;  /* serial of the last step that shifted it */
	uint32_t n_gone;   /* tokens that KEEP let go: positions are places and so many */
	uint32_t n_pool;   /* tokens below choose together (PLX_DELTA_SPARSE) */
	bool live;
	bool has_last; /* a step that samples was accepted: PLX_TOK_LAST has a meaning */
};

struct plx_step_undo {
	uint32_t slot;
	struct plx_slot_shadow was;
};

struct plx_step_checker {
	struct plx_dev_limits lim;
	struct plx_step_layout lay;
	uint32_t caps;
	uint32_t n_vocab;
	uint32_t serial;
	uint32_t n_undo;
	bool keeps, observes;         /* the step that is checked does already */
	bool early;                   /* its sequences so far have PLX_SEQF_EARLY */
	uint32_t n_branch;            /* of its trees, so far */
	struct plx_slot_shadow *slot; /* [n_slots] */
	struct plx_step_undo *undo;   /* [max_deltas + max_step_seqs] */
};

/*
 * plx_limits_check - the limits that every device refuses, with the field's name in d.
 * Errors: INVAL, LIMIT (a record would exceed 1 GiB).
 */
int plx_limits_check(const struct plx_dev_limits *lim, struct plx_diag *d);

/*
 * plx_step_layout_make - layout of the records for limits that plx_limits_check passed.
 *
 * max_deltas is room for a set and a clear of every sequence of a step, for the blocks that a
 * step's tokens can fill, and for four whole block tables, so that a few sequences with long cached
 * prefixes can start in one step; more of them start in the next (a step may hold deltas alone).
 */
void plx_step_layout_make(const struct plx_dev_limits *lim, struct plx_step_layout *out);

/* plx_step_format - write a zeroed record's fixed fields. */
void plx_step_format(struct plx_step *s, const struct plx_step_layout *lay);

/* plx_step_undo_entries - entries that undo[] needs. */
uint32_t plx_step_undo_entries(const struct plx_dev_limits *lim, const struct plx_step_layout *lay);

/*
 * plx_step_accept - check a step against its limits, the device's abilities and the slots.
 *
 * A step may hold deltas alone (n_tok = n_seq = 0). Sequences cover the tokens without gap, in
 * order, each slot at most once. Positions of a sequence grow by one, in a step and, after the
 * slot's first token, from step to step (going back is allowed, a gap is not; SHIFT moves the next
 * one down; in a tree each draft stands behind its parent); the blocks that they
 * and all positions before them lie in must be set. Those of a sparse sequence that choose together
 * are not cut apart. PLX_TOK_LAST stands only first in a sequence,
 * on a slot for which a sampling step was accepted. PLX_TOKF_LOGITS stands on the last token, or
 * with drafts on exactly the last 1 + n_draft; drafts are vocabulary ids.
 *
 * Returns 0 and has applied the step to slot[]; on error slot[] is as before.
 * Cost:   O(n_delta + n_seq + n_tok), no allocation.
 * Errors: INVAL, UNSUPPORTED.
 */
int plx_step_accept(struct plx_step_checker *c, struct plx_step *s);

/* plx_step_checker_reset - all slots empty. */
void plx_step_checker_reset(struct plx_step_checker *c);

#endif
