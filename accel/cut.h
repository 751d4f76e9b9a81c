/* How an op is cut into items: enough of them to share and to stop between, not more. */
#ifndef PLX_ACCEL_CUT_H
#define PLX_ACCEL_CUT_H

#include <stdint.h>

#define PLX_CUT_ITEM_NS  20000.0 /* an item's aim: a lcore can leave after each */
#define PLX_CUT_SHARE_NS 2500.0  /* below this an item is not worth handing to another lcore */

struct plx_range {
	uint32_t begin;
	uint32_t end;
};

/* plx_cut_range - part i of 0..n_units-1 cut into n_parts nearly equal ones, in order. */
static inline struct plx_range plx_cut_range(uint32_t n_units, uint32_t n_parts, uint32_t i)
{
	return (struct plx_range){(uint32_t)((uint64_t)n_units * i / n_parts),
	                          (uint32_t)((uint64_t)n_units * (i + 1) / n_parts)};
}

/* plx_range_within - the part of r that lies in [first, first + n), counted from first. */
static inline struct plx_range plx_range_within(struct plx_range r, uint32_t first, uint32_t n)
{
	uint32_t b = r.begin > first ? r.begin - first : 0;
	uint32_t e = r.end > first ? r.end - first : 0;

	return (struct plx_range){b < n ? b : n, e < n ? e : n};
}

/*
 * plx_cut_items - how many items for an op that takes about ns on one lcore: 1..n_units.
 *
 * Items of 20 us; with several lcores also up to four a lcore, unless that makes them tiny.
 */
static inline uint32_t plx_cut_items(double ns, uint32_t n_units, uint32_t n_threads)
{
	double n = ns / PLX_CUT_ITEM_NS + 1;

	if (n_threads > 1) {
		double shared = ns / PLX_CUT_SHARE_NS;

		if (shared > 4.0 * n_threads)
			shared = 4.0 * n_threads;
		if (shared > n)
			n = shared;
	}
	if (n >= n_units)
		return n_units > 0 ? n_units : 1;
	return n < 1 ? 1 : (uint32_t)n;
}

#endif
