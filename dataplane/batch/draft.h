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
 * Drafts may be a tree, several candidates for a place: the device goes from what it sampled to the
 * child that is this id. As it samples once for a place, whoever stands there, the text is still
 * the one without drafts. Of candidates x1, x2 .. this accepts the k-th with the probability that
 * rejecting them one after the other from the residuals would, (p(xk) / (1 - p(x1) .. )) times the
 * chance that those before were rejected, which is p(xk).
 *
 * How many: with a[i] the chance that draft i and those before it on its path are accepted, a
 * sequence with k drafts gets 1 + sum over i < k of a[i] ids from a step. As a falls along a path,
 * the best k drafts are those of the largest a, and are a tree. plx_draft_lengths chooses
 * k for all sequences of a step so that
 *
 *   ids expected / time expected
 *
 * is largest, and none at all where that is not worth more than without drafts.
 *
 * Owner: the batch stage.  Thread: one.  No allocation.
 * Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
 *         arXiv:2211.17192; Chen et al., arXiv:2302.01318; Miao et al., "SpecInfer",
 *         arXiv:2305.09781 (trees); Dinkelbach, "On Nonlinear Fractional
 *         Programming", Management Science 13, 1967.
 */
#ifndef PLX_DATAPLANE_BATCH_DRAFT_H
#define PLX_DATAPLANE_BATCH_DRAFT_H

#include "accel/accel.h"

#define PLX_DRAFTERS    4u
#define PLX_DRAFT_FAINT 0.02 /* a chance below it is not to be believed */

#define PLX_DRAFT_NODES 32u /* candidates, of which PLX_MAX_DRAFT at most are run */

/* What a drafter proposes for one sequence. */
struct plx_draft {
	uint32_t n;
	int32_t id[PLX_DRAFT_NODES];
	int32_t parent[PLX_DRAFT_NODES]; /* an earlier one; -1: the committed token */
	float p[PLX_DRAFT_NODES];   /* chance of each, those before it on its path being right */
	float all[PLX_DRAFT_NODES]; /* and of these all */
	bool hope;                  /* chances alone: its drafter has to be asked for the ids */
	bool tree;                  /* in: there may be branches */
	bool tell;                  /* the drafter wants to know what each row sampled */
};

/* plx_draft_begin - no drafts yet. */
static inline void plx_draft_begin(struct plx_draft *d, bool tree)
{
	d->n = 0;
	d->hope = d->tell = false;
	d->tree = tree;
}

/*
 * plx_draft_add - one more behind `parent`; where that has such a child already, that one.
 * Returns its index; -1: there is no room.
 */
int32_t plx_draft_add(struct plx_draft *d, int32_t parent, int32_t id, float p);

/* plx_draft_sort - those of the largest `all` first, parents before children. */
void plx_draft_sort(struct plx_draft *d);

/* plx_draft_depth - how far behind the committed token the furthest of the first n stands. */
uint32_t plx_draft_depth(const struct plx_draft *d, uint32_t n);

/*
 * plx_draft_lay - of the first n, n <= PLX_MAX_DRAFT, those that stand at most `depth` behind the
 * committed token, with at most `branches` beside the first: in the order of depth first, out.
 * Returns the branches beside the first.
 */
uint32_t plx_draft_lay(const struct plx_draft *d, uint32_t n, uint32_t depth, uint32_t branches,
                       struct plx_draft *out);

/* Who guesses, as the metrics tell it. */
enum plx_draft_kind {
	PLX_DRAFT_LOOKUP, /* draft_lookup.h */
	PLX_DRAFT_MODEL,  /* draft_model.h: a smaller model */
	PLX_DRAFT_LAYERS, /* draft_model.h: the model without some of its layers */
	PLX_DRAFT_AHEAD,  /* draft_ahead.h: n-grams of the model's own trajectories */
};

/* What one that takes time to guess expects of it. */
struct plx_draft_hope {
	float p[PLX_MAX_DRAFT]; /* chance of each, those before it being right */
	double each_ns;         /* what each takes */
	double once_ns;         /* what it takes to catch up with the sequence; 0: not known */
	uint32_t behind;        /* ids to catch up with, where they take time */
};

/* What rows sampled: row 0 is the committed token's, then the drafts, depth first. */
struct plx_draft_rows {
	uint32_t n;       /* drafts */
	uint32_t n_taken; /* ids: accepted drafts and the one behind them */
	const int32_t *taken;
	int32_t id[PLX_MAX_DRAFT + 1]; /* [0]: nobody's */
	int32_t parent[PLX_MAX_DRAFT + 1];
	int32_t sampled[PLX_MAX_DRAFT + 1];
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
	 * Ids behind ids[0..n), as long as the chance that all on their path are right is at least
	 * `least`; none where it has not seen all of them. They stand at most `most` behind, and
	 * are a chain, or, where out->tree says so, may branch; added by plx_draft_add, in any
	 * order. `out` was begun.
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
	/*
	 * A step with drafts of its own came back; before what it brought is learnt. Only where
	 * the device verifies trees, which also say what rows sampled that are not taken.
	 */
	void (*came)(void *ctx, uint32_t slot, const struct plx_draft_rows *rows);
};

/* One sequence that could carry drafts. */
struct plx_draft_share {
	const float *p; /* chances of whole paths, falling */
	uint32_t most;  /* of p; lowered to what is worth its time */
	double tok_ns;  /* what each draft adds to the step */
	double ask_ns;  /* and what its drafter takes for it */
	uint32_t n;     /* out: drafts it should carry */
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
