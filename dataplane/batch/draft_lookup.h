/*
 * Prompt look-up: what came behind the longest suffix that stood before is what comes now.
 *
 * Each slot has a suffix index (suffix.h) over prompt and answer. Drafts are the ids behind the
 * latest earlier occurrence of the longest match, and where they come to the sequence's end, on
 * through themselves.
 *
 * In trees there are second and third guesses for a place: other ids that came behind the match or
 * a suffix of it, the latest first, and what stood behind them there.
 *
 * How likely: ids are judged in classes, by the length of the match before them (1, 2, 3, 4-5, 6-8,
 * 9-15, 16 and more) and whether different ids came behind it before. Each id of the answer says,
 * whether drafts were run or not, if the guess of its class was right, so that a sequence's chances
 * are known without trying:
 *
 *   p(class) = (hits in this sequence + K * share of hits over all) / (ids in this sequence + K)
 *
 * both forgotten exponentially. Hence a sequence that never repeats itself costs its index and
 * nothing else.
 *
 * Owner:  the batch stage.  Thread: one.  Memory: 80 bytes an id that can be indexed, a slot.
 * Cost:   learn O(1) amortised an id, some 100 ns; propose O(most). No allocation.
 * Source: Saxena, "Prompt Lookup Decoding", 2023 (n-grams of the prompt); Hu et al., "SAM
 *         Decoding", arXiv:2411.10666 (suffix automata).
 */
#ifndef PLX_DATAPLANE_BATCH_DRAFT_LOOKUP_H
#define PLX_DATAPLANE_BATCH_DRAFT_LOOKUP_H

#include "dataplane/batch/draft.h"
#include "dataplane/batch/suffix.h"

#define PLX_LOOKUP_CLASSES 14u
#define PLX_LOOKUP_OTHERS  2u /* guesses for a place beside the first, in trees */

/* Guesses and those that were right, forgotten exponentially. */
struct plx_lookup_score {
	float n[PLX_LOOKUP_CLASSES];
	float hits[PLX_LOOKUP_CLASSES];
	/* Of the second and third guess, those before it being wrong. */
	float n_other[PLX_LOOKUP_OTHERS][PLX_LOOKUP_CLASSES];
	float hits_other[PLX_LOOKUP_OTHERS][PLX_LOOKUP_CLASSES];
};

struct plx_lookup_slot {
	struct plx_suffix index;
	struct plx_lookup_score score;
};

struct plx_lookup {
	uint32_t n_slots;
	struct plx_lookup_slot *slot; /* [n_slots] */
	struct plx_lookup_score all;
	bool trees; /* second guesses are wanted; set before anything is learnt */
};

/* plx_lookup_bytes - what init takes from the arena: n_slots indices of so many ids. */
size_t plx_lookup_bytes(uint32_t n_slots, uint32_t n_ids);

/* plx_lookup_init.  Errors: NOMEM. */
int plx_lookup_init(struct plx_lookup *l, struct plx_arena *a, uint32_t n_slots, uint32_t n_ids);

/* plx_lookup_drafter - it as a drafter; l must stay. */
struct plx_drafter plx_lookup_drafter(struct plx_lookup *l);

#endif
