/*
 * Lookahead decoding: n-grams of the model's own trajectories.
 *
 * Behind a sequence stands its trajectory, guesses x[0..W) of the places to come. Run as a chain of
 * drafts, row j samples what the model says behind x[..j]: an iteration of Jacobi's method for all
 * places at once, x'[j + 1] = f(x[..j]). The next trajectory is what was sampled behind the ids
 * that were taken. Most of it is wrong at its place, but much of it is what comes a few places on,
 * so that of each row the sampled id with the ids before it go into a pool of n-grams; so do those
 * of the text itself. What the pool has behind the last id are drafts; all of it is verified as any
 * draft.
 *
 * A slot's pool keeps, for each id, up to PLX_AHEAD_WAYS n-grams that begin with it, the latest
 * first. What stands further on is looked up behind a candidate's last id.
 *
 * How likely: ids of the answer judge, whether drafts were run or not, if an id's k-th n-gram was
 * right, and how its ids further on were, and each place of the trajectory. What the trajectory is
 * worth beyond that is measured too: the drafts accepted that only it had put into the pool, for
 * each place of it that was run; where that is below what a place takes it is not run, but for a
 * few places each PLX_AHEAD_AGAIN ids. Without trees the device does not say what rows sampled that
 * were not taken: then there is no trajectory, and the pool is the text's.
 *
 * Owner:  the batch stage.  Thread: one.  Memory: 29 KiB a slot. No allocation.
 * Cost:   learn some 50 ns an id; propose O(drafts).
 * Source: Santilli et al., "Accelerating Transformer Inference for Translation via Parallel
 *         Decoding", arXiv:2305.10427 (Jacobi); Fu et al., "Break the Sequential Dependency of LLM
 *         Inference Using Lookahead Decoding", arXiv:2402.02057 (the pool).
 */
#ifndef PLX_DATAPLANE_BATCH_DRAFT_AHEAD_H
#define PLX_DATAPLANE_BATCH_DRAFT_AHEAD_H

#include "dataplane/batch/draft.h"
#include "fw/base/arena.h"

#define PLX_AHEAD_GRAM  3u   /* ids behind the first of an n-gram */
#define PLX_AHEAD_WAYS  3u   /* n-grams of an id */
#define PLX_AHEAD_KEYS  512u /* ids with n-grams, by hash; the last one to come stays */
#define PLX_AHEAD_MOST  8u   /* places of a trajectory */
#define PLX_AHEAD_AGAIN 4096u

struct plx_ahead_gram {
	uint8_t n; /* ids; 0: none */
	bool made; /* by a trajectory, and not in the text so far */
	int32_t id[PLX_AHEAD_GRAM];
};

struct plx_ahead_key {
	int32_t id;
	struct plx_ahead_gram gram[PLX_AHEAD_WAYS];
};

/* Guesses and those that were right, forgotten exponentially. */
struct plx_ahead_score {
	float n, hits;
};

struct plx_ahead_slot {
	struct plx_ahead_key key[PLX_AHEAD_KEYS];
	uint32_t n_seen;               /* ids learnt */
	uint32_t at;                   /* index of x[0] among the sequence's ids */
	int32_t x[PLX_AHEAD_MOST];     /* the trajectory */
	uint32_t n_right;              /* of x, as far as ids came; NONE: one was wrong */
	struct plx_ahead_gram follows; /* an n-gram whose first ids came */
	uint32_t n_followed;
	struct plx_ahead_score way[PLX_AHEAD_WAYS], further;
	struct plx_draft last;      /* proposed last */
	bool made[PLX_DRAFT_NODES]; /* of it: the pool has it from a trajectory alone */
	bool own[PLX_DRAFT_NODES];  /* of it: a place of the trajectory */
};

struct plx_ahead {
	uint32_t n_slots, n_x;
	struct plx_ahead_slot *slot; /* [n_slots] */
	struct plx_ahead_score way[PLX_AHEAD_WAYS], further;
	struct plx_ahead_score place[PLX_AHEAD_MOST]; /* of the trajectory, those before it right */
	struct plx_ahead_score worth; /* places run; drafts accepted that they made */
	uint64_t n_idle;              /* ids learnt since a trajectory was run */
};

/* plx_ahead_bytes - what init takes from the arena. */
size_t plx_ahead_bytes(uint32_t n_slots);

/* plx_ahead_init - trajectories of n_x places, at most PLX_AHEAD_MOST.  Errors: NOMEM. */
int plx_ahead_init(struct plx_ahead *h, struct plx_arena *a, uint32_t n_slots, uint32_t n_x);

/* plx_ahead_drafter - it as a drafter; h must stay. */
struct plx_drafter plx_ahead_drafter(struct plx_ahead *h);

#endif
