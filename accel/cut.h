/* How an op is cut: units small enough to share evenly, items short enough to stop between. */
#ifndef PLX_ACCEL_CUT_H
#define PLX_ACCEL_CUT_H

#include <stdbool.h>
#include <stdint.h>

#define PLX_CUT_ITEM_NS  20000.0 /* an item's aim at most: a lcore can leave after each */
#define PLX_CUT_UNIT_NS  5000.0  /* a unit's aim where it may be any size */
#define PLX_CUT_SHARE_NS 1500.0  /* below this an op is not worth handing to another lcore */

struct plx_range {
	uint32_t begin;
	uint32_t end;
};

/* An op as it is handed out. */
struct plx_cut {
	uint32_t n_units;
	uint32_t most; /* units of an item */
	bool alone;    /* so short that whoever opens it does it */
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

/* plx_cut_op - an op of n_units that takes about ns on one lcore: items of 20 us at most. */
static inline struct plx_cut plx_cut_op(double ns, uint32_t n_units)
{
	double most = ns > 0 ? n_units * PLX_CUT_ITEM_NS / ns : n_units;

	most = most < 1 ? 1 : most > 65535 ? 65535 : most;
	return (struct plx_cut){.n_units = n_units,
	                        .most = (uint32_t)most,
	                        .alone = n_units <= 1 || ns < PLX_CUT_SHARE_NS};
}

#endif
