/* The best of several timings: what a benchmark of nanoseconds reports. */
#ifndef PLX_TESTS_LIB_BEST_H
#define PLX_TESTS_LIB_BEST_H

#include <stdint.h>

#include "fw/base/clock.h"

/* plx_best_ns - least time of n_runs runs of n calls of once(0 .. n - 1), in ns for one call. */
static inline double plx_best_ns(uint32_t n_runs, uint32_t n, void (*once)(uint32_t i))
{
	uint64_t best = UINT64_MAX;

	for (uint32_t c = 0; c < n_runs; c++) {
		uint64_t t = plx_clock_ns();

		for (uint32_t i = 0; i < n; i++)
			once(i);
		t = plx_clock_ns() - t;
		best = t < best ? t : best;
	}
	return (double)best / n;
}

#endif
