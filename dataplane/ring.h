/*
 * Typed rings: rte_ring with elements of one type, carved from an arena.
 *
 * PLX_RING_DEFINE(name, type) makes struct plx_ring_<name> and its functions, so that a wrong type
 * is a compile error and the element size is a constant the compiler can inline. Elements are
 * copied by value; their size is a multiple of 4. A push hands over what the element refers to:
 * the pusher may not touch it afterwards.
 *
 *   int      plx_ring_<name>_open(r, arena, n, sync)  n usable entries (rounded up to 2^k - 1)
 *   bool     plx_ring_<name>_push(r, &elem)           false: full, nothing was done
 *   bool     plx_ring_<name>_pop(r, &elem)            false: empty
 *   uint32_t plx_ring_<name>_pop_n(r, elems, max)     how many came
 *   uint32_t plx_ring_<name>_count(r), _room(r)       exact on the side that asks for its own
 *                                                     half: the producer's room never shrinks and
 *                                                     the consumer's count never shrinks behind it
 *
 * Owner:  the arena.  Thread: sync says how many pushers and poppers there may be.
 * Cost:   a few ns, no lock, no system call.  Errors: open gives NOMEM, INVAL.
 */
#ifndef PLX_DATAPLANE_RING_H
#define PLX_DATAPLANE_RING_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_ring.h>
#include <rte_ring_elem.h>

#include "fw/base/arena.h"
#include "fw/base/err.h"

enum plx_ring_sync {
	PLX_RING_SPSC, /* one pusher, one popper */
	PLX_RING_MPSC, /* many pushers, one popper */
	PLX_RING_MPMC, /* many of both */
};

/*
 * plx_ring_flags - rte_ring's flags for a sync. Many pushers use its relaxed tail sync, so that one
 * that is preempted between its two halves does not make the others spin.
 */
static inline unsigned int plx_ring_flags(enum plx_ring_sync sync)
{
	if (sync == PLX_RING_SPSC)
		return RING_F_SP_ENQ | RING_F_SC_DEQ;
	return RING_F_MP_RTS_ENQ |
	       (sync == PLX_RING_MPSC ? (unsigned int)RING_F_SC_DEQ : RING_F_MC_RTS_DEQ);
}

/* plx_ring_slots - the power of two that holds n entries and the one rte_ring keeps empty. */
static inline uint32_t plx_ring_slots(uint32_t n)
{
	return n < 2 ? 4u : 1u << (32 - __builtin_clz(n));
}

/* plx_ring_bytes - what open takes from the arena, alignment included. */
static inline size_t plx_ring_bytes(uint32_t n, uint32_t elem_bytes)
{
	return (size_t)rte_ring_get_memsize_elem(elem_bytes, plx_ring_slots(n)) +
	       RTE_CACHE_LINE_SIZE;
}

/* plx_ring_make - an rte_ring in the arena; NULL where it does not fit or n is over 2^30. */
struct rte_ring *plx_ring_make(struct plx_arena *a, const char *name, uint32_t n,
                               uint32_t elem_bytes, enum plx_ring_sync sync);

/* plx_ring_used - rte_ring_count with loads that may race with the other side's stores. */
static inline uint32_t plx_ring_used(const struct rte_ring *r)
{
	uint32_t prod = __atomic_load_n(&r->prod.tail, __ATOMIC_RELAXED);
	uint32_t cons = __atomic_load_n(&r->cons.tail, __ATOMIC_RELAXED);
	uint32_t n = (prod - cons) & r->mask;

	return n > r->capacity ? r->capacity : n;
}

#define PLX_RING_DEFINE(name, type)                                                                \
	struct plx_ring_##name {                                                                   \
		struct rte_ring *r;                                                                \
	};                                                                                         \
	static_assert(sizeof(type) % 4 == 0, "rte_ring copies words");                             \
	static inline int plx_ring_##name##_open(struct plx_ring_##name *q, struct plx_arena *a,   \
	                                         uint32_t n, enum plx_ring_sync sync)              \
	{                                                                                          \
		q->r = plx_ring_make(a, #name, n, (uint32_t)sizeof(type), sync);                   \
		return q->r ? 0 : PLX_E_NOMEM;                                                     \
	}                                                                                          \
	static inline bool plx_ring_##name##_push(struct plx_ring_##name *q, const type *e)        \
	{                                                                                          \
		type copy = *e;                                                                    \
		return rte_ring_enqueue_elem(q->r, &copy, (unsigned int)sizeof(type)) == 0;        \
	}                                                                                          \
	static inline bool plx_ring_##name##_pop(struct plx_ring_##name *q, type *e)               \
	{                                                                                          \
		return rte_ring_dequeue_elem(q->r, e, (unsigned int)sizeof(type)) == 0;            \
	}                                                                                          \
	static inline uint32_t plx_ring_##name##_pop_n(struct plx_ring_##name *q, type *e,         \
	                                               uint32_t max)                               \
	{                                                                                          \
		return rte_ring_dequeue_burst_elem(q->r, e, (unsigned int)sizeof(type), max,       \
		                                   NULL);                                          \
	}                                                                                          \
	static inline uint32_t plx_ring_##name##_count(const struct plx_ring_##name *q)            \
	{                                                                                          \
		return plx_ring_used(q->r);                                                        \
	}                                                                                          \
	static inline uint32_t plx_ring_##name##_room(const struct plx_ring_##name *q)             \
	{                                                                                          \
		return q->r->capacity - plx_ring_used(q->r);                                       \
	}

#endif
