/*
 * Work cut into items: how several lcores share one op without a lock.
 *
 * A phase is one op of a step, cut into n_items. One atomic word holds n_items and the next
 * unclaimed item, so that a claim is a compare-and-swap on a value that says everything: a lcore
 * that was away between its load and its swap either fails or claims a valid item of the phase that
 * is open now. What is claimed is finished by its claimer; the one that finishes the last item
 * (and nobody else) opens the next phase. So a lcore may leave between any two items.
 *
 * What a phase means (which op, which buffers) is plain memory, written before plx_work_open and
 * read after plx_work_claim.
 */
#ifndef PLX_ACCEL_WORK_H
#define PLX_ACCEL_WORK_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct plx_work {
	alignas(64) _Atomic uint64_t word; /* n_items in the high half, next item in the low one */
	alignas(64) _Atomic uint32_t n_done; /* items finished in this phase */
};

struct plx_claim {
	uint32_t item;
	uint32_t n_items; /* of its phase */
};

/* plx_work_open - open a phase of n_items > 0. Thread: the one that finished the phase before. */
static inline void plx_work_open(struct plx_work *w, uint32_t n_items)
{
	atomic_store_explicit(&w->n_done, 0, memory_order_relaxed);
	/* W1: pairs with W2, so that a claimer sees the phase's description and n_done = 0. */
	atomic_store_explicit(&w->word, (uint64_t)n_items << 32, memory_order_release);
}

/* plx_work_close - nothing to claim until the next open. Thread: as plx_work_open. */
static inline void plx_work_close(struct plx_work *w)
{
	atomic_store_explicit(&w->word, 0, memory_order_release);
}

/*
 * plx_work_claim - take an item; false when none is left to take.
 * Thread: any.  Cost: one load, and one compare-and-swap where there is an item.
 */
static inline bool plx_work_claim(struct plx_work *w, struct plx_claim *out)
{
	uint64_t v = atomic_load_explicit(&w->word, memory_order_relaxed);

	while ((uint32_t)v < (uint32_t)(v >> 32)) {
		/* W2: pairs with W1. */
		if (atomic_compare_exchange_weak_explicit(&w->word, &v, v + 1, memory_order_acquire,
		                                          memory_order_relaxed)) {
			out->item = (uint32_t)v;
			out->n_items = (uint32_t)(v >> 32);
			return true;
		}
	}
	return false;
}

/*
 * plx_work_finish - say that a claimed item is done.
 *
 * Returns true to exactly one caller of a phase, the last: all items' writes are visible to it, and
 * it has to open the next phase or close.
 */
static inline bool plx_work_finish(struct plx_work *w, const struct plx_claim *c)
{
	/* W3: pairs with itself, releasing this item's writes and acquiring the others'. */
	return atomic_fetch_add_explicit(&w->n_done, 1, memory_order_acq_rel) + 1 == c->n_items;
}

#endif
