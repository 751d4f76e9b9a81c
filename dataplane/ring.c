/* Where rings come from. */
#include "dataplane/ring.h"

struct rte_ring *plx_ring_make(struct plx_arena *a, const char *name, uint32_t n,
                               uint32_t elem_bytes, enum plx_ring_sync sync)
{
	if (n > 1u << 30)
		return NULL;
	uint32_t slots = plx_ring_slots(n);
	size_t bytes = (size_t)rte_ring_get_memsize_elem(elem_bytes, slots);
	struct rte_ring *r = plx_arena_take(a, bytes, RTE_CACHE_LINE_SIZE);

	if (r && rte_ring_init(r, name, slots, plx_ring_flags(sync)) != 0)
		return NULL;
	return r;
}
