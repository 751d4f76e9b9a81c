/*
 * A phase: how several lcores do one op without a lock, and end together.
 *
 * A phase is one op of a step, cut into n_units small and equal units. Each share (one a lcore, at
 * most PLX_PHASE_SHARES) begins with a stretch of its own, so that a lcore reads memory in order. A
 * claim takes half of what is left of the own stretch from its front (seven eighths where units are
 * short), but no more than `most` units; once that is empty, half of what is left of another's from
 * its back. So items are large first and small at the end, and no lcore stands idle for long. The
 * last few short units are left to their owner, who reads on where it is, while a thief would
 * begin with cache misses; only a thief that has waited for a while takes those too.
 *
 * One atomic word says everything about a stretch, so that a claim is a compare-and-swap: a lcore
 * that was away between its load and its swap either fails or claims valid units of the phase that
 * is open now. What is claimed is finished by its claimer, who says so when it finds nothing more
 * to claim, or before it leaves; the one that finishes the last unit (and nobody else) opens the
 * next phase. So a lcore may leave between any two items.
 *
 * What a phase means (which op, which buffers) is plain memory, written before plx_phase_open and
 * read after plx_phase_claim.
 *
 * Source: Polychronopoulos and Kuck, "Guided Self-Scheduling", IEEE ToC C-36(12), 1987; Blumofe
 * and Leiserson, "Scheduling Multithreaded Computations by Work Stealing", JACM 46(5), 1999.
 */
#ifndef PLX_ACCEL_PHASE_H
#define PLX_ACCEL_PHASE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/cut.h"

#define PLX_PHASE_SHARES    8u
#define PLX_PHASE_UNITS_MAX ((1u << 24) - 1) /* of a phase */

struct plx_share {
	alignas(64) _Atomic uint64_t word; /* most: 16 bits, end: 24, begin: 24 */
	/* What the lcore will read after this phase, to be fetched while it waits; a hint. */
	_Atomic(const char *) ahead;
};

struct plx_phase {
	struct plx_share share[PLX_PHASE_SHARES];
	alignas(64) _Atomic uint32_t n_done; /* units finished in this phase */
	alignas(64) uint32_t n_units;        /* of this phase; written by the one who opens it */
	uint32_t n_share;
	uint32_t part; /* a claim takes one part-th of what is left */
};

/* plx_phase_init - nothing to claim yet. Thread: one, before any lcore claims; n_lane > 0. */
static inline void plx_phase_init(struct plx_phase *p, uint32_t n_lane)
{
	uint32_t n = n_lane < PLX_PHASE_SHARES ? n_lane : PLX_PHASE_SHARES;

	for (uint32_t i = 0; i < PLX_PHASE_SHARES; i++) {
		atomic_init(&p->share[i].word, 0);
		atomic_init(&p->share[i].ahead, NULL);
	}
	atomic_init(&p->n_done, 0);
	p->n_units = 0;
	p->n_share = n;
	p->part = n_lane == 1 ? 1 : 2 * ((n_lane + n - 1) / n);
}

static inline uint64_t plx_phase_word(uint32_t begin, uint32_t end, uint64_t most)
{
	return most << 48 | (uint64_t)end << 24 | begin;
}

/*
 * plx_phase_open - open a phase of n_units > 0, at most `most` > 0 of them an item.
 * Thread: the one that finished the phase before.
 */
static inline void plx_phase_open(struct plx_phase *p, uint32_t n_units, uint32_t most)
{
	p->n_units = n_units;
	atomic_store_explicit(&p->n_done, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < p->n_share; i++) {
		struct plx_range r = plx_cut_range(n_units, p->n_share, i);

		/* P1: pairs with P2: who claims sees the phase's description and n_done = 0. */
		atomic_store_explicit(&p->share[i].word, plx_phase_word(r.begin, r.end, most),
		                      memory_order_release);
	}
}

/* How many units of at most `most` an item a thief leaves to their owner: a twelfth of an item. */
static inline uint32_t plx_phase_keep(uint64_t most)
{
	return (uint32_t)most / 12;
}

enum plx_phase_who {
	PLX_PHASE_OWNER,  /* takes from the front */
	PLX_PHASE_THIEF,  /* takes from the back, and leaves the last few */
	PLX_PHASE_ROBBER, /* takes from the back, down to the last one */
};

/* With this many in an item, units are so short that few at the end make nobody wait. */
#define PLX_PHASE_SHORT 8u

/*
 * How many of left units a claim takes. Each claim costs some 80 ns and a pause of the stream that
 * its lcore reads, so of short units an owner takes all but an eighth.
 */
static inline uint32_t plx_phase_take(const struct plx_phase *p, uint32_t left, uint32_t most,
                                      enum plx_phase_who who)
{
	bool front = who == PLX_PHASE_OWNER && p->part == 2 && most >= PLX_PHASE_SHORT;
	uint32_t n = front ? left - left / 8 : left / p->part;

	if (n > most)
		return most;
	return n > 0 ? n : 1;
}

/* Takes units of one stretch; false when there are none for this taker. */
static inline bool plx_phase_claim_of(struct plx_phase *p, uint32_t share, enum plx_phase_who who,
                                      struct plx_range *out)
{
	_Atomic uint64_t *word = &p->share[share].word;
	uint64_t v = atomic_load_explicit(word, memory_order_relaxed);

	for (;;) {
		uint32_t begin = (uint32_t)v & PLX_PHASE_UNITS_MAX;
		uint32_t end = (uint32_t)(v >> 24) & PLX_PHASE_UNITS_MAX;

		if (begin >= end)
			return false;
		if (who == PLX_PHASE_THIEF && end - begin <= plx_phase_keep(v >> 48))
			return false;
		uint32_t n = plx_phase_take(p, end - begin, (uint32_t)(v >> 48), who);
		bool front = who == PLX_PHASE_OWNER;
		uint64_t left = front ? plx_phase_word(begin + n, end, v >> 48)
		                      : plx_phase_word(begin, end - n, v >> 48);

		/* P2: pairs with P1. */
		if (atomic_compare_exchange_weak_explicit(word, &v, left, memory_order_acquire,
		                                          memory_order_relaxed)) {
			*out = front ? (struct plx_range){begin, begin + n}
			             : (struct plx_range){end - n, end};
			return true;
		}
	}
}

/*
 * plx_phase_claim - take units [out->begin, out->end); false when none is left to take.
 *
 * @patient  leave the last few units to their owner, if they are short; false for a lcore that has
 *           waited for them, since their owner may be away.
 *
 * Thread: any.  Cost: one load and one compare-and-swap on a line that is mostly the lcore's own;
 * where its stretch is empty, a load for each other share.
 */
static inline bool plx_phase_claim(struct plx_phase *p, uint32_t lane, bool patient,
                                   struct plx_range *out)
{
	uint32_t own = lane % p->n_share;

	enum plx_phase_who who = patient ? PLX_PHASE_THIEF : PLX_PHASE_ROBBER;

	if (plx_phase_claim_of(p, own, PLX_PHASE_OWNER, out))
		return true;
	for (uint32_t i = 1; i < p->n_share; i++)
		if (plx_phase_claim_of(p, (own + i) % p->n_share, who, out))
			return true;
	return false;
}

/*
 * plx_phase_finish - say that n claimed units are done.
 *
 * Returns true to exactly one caller of a phase, the last: all units' writes are visible to it, and
 * it has to open the next phase. The others may not touch what describes the phase any more.
 */
static inline bool plx_phase_finish(struct plx_phase *p, uint32_t n)
{
	uint32_t n_units = p->n_units;

	/* P3: pairs with itself, releasing these units' writes and acquiring the others'. */
	return atomic_fetch_add_explicit(&p->n_done, n, memory_order_acq_rel) + n == n_units;
}

#endif
