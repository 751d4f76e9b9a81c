/*
 * Drafts: ids that a sequence will probably have next, verified by the device in one step.
 *
 * A drafter guesses; the device samples after the committed token and after each draft with the
 * very draw that it would take there anyway (Philox of seed, sample, position) and takes the ids as
 * long as each is the draft that the next row was computed with. So the text is the one there would
 * be without drafts, at any temperature, whatever a drafter says, and its distribution is the
 * model's: a wrong draft costs time and nothing else. For a draft x taken from a point mass this is
 * the acceptance rule of speculative sampling, min(1, p(x) / q(x)) with q(x) = 1, its residual
 * drawn by the same random number.
 *
 * How many: with p[i] the chance that draft i is accepted when those before it were, a sequence
 * with k drafts gets 1 + sum over i < k of p[0] .. p[i] ids from a step. plx_draft_lengths chooses
 * k for all sequences of a step so that
 *
 *   ids expected / time expected
 *
 * is largest, and none at all where that is not worth more than without drafts.
 *
 * Owner: the batch stage.  Thread: one.  No allocation.
 * Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
 *         arXiv:2211.17192; Chen et al., arXiv:2302.01318; Dinkelbach, "On Nonlinear Fractional
 *         Programming", Management Science 13, 1967.
 */
#ifndef PLX_DATAPLANE_BATCH_DRAFT_H
#define PLX_DATAPLANE_BATCH_DRAFT_H

#include "accel/accel.h"

#define PLX_DRAFTERS    4u
#define PLX_DRAFT_FAINT 0.02 /* a chance below it is not to be believed */

/* What a drafter proposes for one sequence. */
struct plx_draft {
	uint32_t n;
	int32_t id[PLX_MAX_DRAFT];
	float p[PLX_MAX_DRAFT]; /* chance of each, those before it being right */
	bool hope;              /* chances alone: its drafter has to be asked for the ids */
};

/* Who guesses, as the metrics tell it. */
enum plx_draft_kind {
	PLX_DRAFT_LOOKUP, /* draft_lookup.h */
	PLX_DRAFT_MODEL,  /* draft_model.h: a smaller model */
	PLX_DRAFT_LAYERS, /* draft_model.h: the model without some of its layers */
};

/* What one that takes time to guess expects of it. */
struct plx_draft_hope {
	float p[PLX_MAX_DRAFT]; /* chance of each, those before it being right */
	double each_ns;         /* what each takes */
	double once_ns;         /* what it takes to catch up with the sequence */
};

/*
 * Who guesses. slot is the sequence's; a slot has one sequence at a time.
 *
 * Some guess at once: propose. Others take time, steps of a device of their own: these have
 * expect, ask and busy as well, are asked when that is worth it, and propose what they were asked
 * for when they are no longer busy.
 */
struct plx_drafter {
	const char *name;
	void *ctx;
	/* A new sequence takes the slot. */
	void (*begin)(void *ctx, uint32_t slot);
	/*
	 * The sequence has ids[0..n), the first n_prompt of them its prompt; n never shrinks.
	 * Looks at `most` more of them at most. Returns how many it looked at; when that is less
	 * than most, it has seen all.
	 */
	uint32_t (*learn)(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n,
	                  uint32_t n_prompt, uint32_t most);
	/*
	 * At most `most` ids behind ids[0..n), as long as the chance that all are right is at least
	 * `least`; none where it has not seen all of them.
	 */
	void (*propose)(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
	                double least, struct plx_draft *out);
	uint8_t kind; /* enum plx_draft_kind */
	/* The slot's sequence is over; may be NULL, as may all that follow. */
	void (*end)(void *ctx, uint32_t slot);
	/* How it samples: once, before the first ask. */
	void (*sampling)(void *ctx, uint32_t slot, const struct plx_sampler *how);
	/* What asking for `most` ids behind n would bring; returns how many it can guess. */
	uint32_t (*expect)(void *ctx, uint32_t slot, uint32_t n, uint32_t most,
	                   struct plx_draft_hope *out);
	/* Guess `want` ids behind ids[0..n), which stay until the sequence is over. */
	void (*ask)(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t want);
	/* Whether some of what was asked for is still to come. */
	bool (*busy)(void *ctx);
};

/* One sequence that could carry drafts. */
struct plx_draft_share {
	const float *p;
	uint32_t most; /* of p; lowered to what is worth its time */
	double tok_ns; /* what each draft adds to the step */
	double ask_ns; /* and what its drafter takes for it */
	uint32_t n;    /* out: drafts it should carry */
	double chance; /* that all of them are right */
};

struct plx_draft_step {
	uint32_t n_seq;   /* sequences that decode in the step, those without drafts too */
	uint32_t max_tok; /* drafts of all of them at most */
	double plain_ns;  /* the step without drafts */
	double wait_ns;   /* what a step with drafts costs beside its tokens */
	double limit_ns;  /* longest step; 0: none */
};

/*
 * plx_draft_lengths - choose n for each share.
 *
 * Returns ids a time, as a multiple of what the step without drafts makes; 1: no drafts, all n are
 * 0. Less than PLX_DRAFT_WORTH is not worth it.
 *
 * Cost: O(n_share * PLX_MAX_DRAFT), a few times.
 */
#define PLX_DRAFT_WORTH 1.15
double plx_draft_lengths(struct plx_draft_share *share, uint32_t n_share,
                         const struct plx_draft_step *step);

#endif
