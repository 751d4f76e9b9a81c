/*
 * Drafts from a model: a smaller one of the same vocabulary, or the model itself without some of
 * its layers, on a device of its own (any kind).
 *
 * A sequence has the same slot there as on the device that answers. When it is asked, the model
 * runs the ids that it has not seen, then samples one id after another behind them, by the
 * request's own sampler: as seed, sample and position are those of the answer, each id is drawn by
 * the very random number that the answer's is, and two models that agree say the same at any
 * temperature. Steps of all sequences asked are shared, and as many are in flight as the device
 * takes, since it feeds back itself what it sampled.
 *
 * What was guessed wrong is rolled back by running the positions anew: KV behind the first wrong id
 * is not used. Blocks are taken from the draft device's own pool as a sequence goes; who finds none
 * gets no drafts.
 *
 * How likely: guesses are judged in classes by the probability that the draft model gave them, in
 * each sequence and over all, as look-up's are (draft_lookup.h), and by how many were right at all
 * for what nobody was asked yet. What a guess takes, and what an id takes to catch up, is measured.
 *
 * In trees the draft model's other likely ids for each place stand beside its guess; the chance of
 * each, by its probability, is judged where the guess was wrong.
 *
 * A device that fails is not used again: there are no drafts from then on.
 *
 * Owner:  the batch stage.  Thread: one.  No allocation after init.
 * Cost:   O(slots) a step; O(ids run) to catch up.
 * Source: Leviathan et al., arXiv:2211.17192; Zhang et al., "Draft & Verify: Lossless Large
 *         Language Model Acceleration via Self-Speculative Decoding", arXiv:2309.08168 (layers
 *         left out).
 */
#ifndef PLX_DATAPLANE_BATCH_DRAFT_MODEL_H
#define PLX_DATAPLANE_BATCH_DRAFT_MODEL_H

#include "dataplane/batch/draft.h"
#include "fw/base/arena.h"

#define PLX_DMODEL_CLASSES 8u
#define PLX_DMODEL_STEPS   16u
#define PLX_DMODEL_TOP     3u

struct plx_dmodel_conf {
	uint32_t n_slots;
	uint32_t n_ctx; /* positions of a sequence; behind them nothing is drafted */
	uint32_t n_blocks;
	uint32_t block_tokens;
	uint32_t step_tokens;
	uint32_t step_seqs;
	enum plx_draft_kind kind;
	uint32_t n_top; /* choices asked for each place, for trees; at most PLX_DMODEL_TOP */
};

/* Guesses and those that were right, forgotten exponentially. */
struct plx_dmodel_score {
	float n[PLX_DMODEL_CLASSES], hits[PLX_DMODEL_CLASSES];
	float n_any, hits_any;
	/* Of the draft model's other choices where its guess was wrong; over all alone. */
	float n_other[PLX_DMODEL_CLASSES], hits_other[PLX_DMODEL_CLASSES];
};

struct plx_dmodel_slot {
	const int32_t *ids; /* what it was asked behind */
	uint32_t n_ids;
	uint32_t want;      /* ids to guess; 0: it was not asked */
	uint32_t n_run;     /* positions given to the device */
	uint32_t n_given;   /* guesses given to the device */
	uint32_t n_judged;  /* of the guesses, looked at by learn */
	uint32_t in_flight; /* steps that name the slot */
	uint32_t stale;     /* of them, the first ones: what they bring is nobody's */
	uint32_t n_blocks, n_told;
	uint32_t *block;      /* [n_ctx / block_tokens, rounded up] */
	bool set;             /* the device has the sampler */
	bool on_device;       /* the device has a sequence there, this one or an earlier one */
	bool failed;          /* a number that is none came: no drafts for this sequence */
	struct plx_draft got; /* p: the draft model's log-probabilities */
	struct plx_top top[PLX_MAX_DRAFT][PLX_DMODEL_TOP];
	struct plx_sampler how;
	struct plx_dmodel_score score;
};

struct plx_dmodel {
	struct plx_dmodel_conf conf;
	struct plx_dmodel_slot *slot; /* [n_slots] */
	uint32_t *free;               /* [n_blocks] stack */
	uint32_t n_free;
	uint32_t n_asked; /* sequences whose guesses are to come */
	uint32_t n_out;   /* steps in flight */
	uint64_t next_id; /* of steps */
	bool lost;        /* the device failed */
	double step_ns;   /* a step of guesses; 0: not known */
	double tok_ns;    /* an id to catch up; 0: not known */
	struct plx_dmodel_score all;
};

/* plx_dmodel_bytes - what init takes from the arena. */
size_t plx_dmodel_bytes(const struct plx_dmodel_conf *c);

/* plx_dmodel_init.  Errors: NOMEM. */
int plx_dmodel_init(struct plx_dmodel *m, struct plx_arena *a, const struct plx_dmodel_conf *c);

/* plx_dmodel_drafter - it as a drafter; m must stay. */
struct plx_drafter plx_dmodel_drafter(struct plx_dmodel *m);

/*
 * plx_dmodel_fill - fill a step record of the draft device, if there is anything to run.
 *
 * Returns the tokens in it; 0: nothing, the record was not used. Otherwise it comes back through
 * plx_dmodel_done exactly once, in order.
 */
uint32_t plx_dmodel_fill(struct plx_dmodel *m, struct plx_step *step);

/* plx_dmodel_done - a step came back, as status says. */
void plx_dmodel_done(struct plx_dmodel *m, struct plx_step *step, int status);

#endif
