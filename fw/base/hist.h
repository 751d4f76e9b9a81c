/*
 * A log-linear histogram of durations from 100 ns to 100 s, fixed in size, single writer, readable
 * by another process while it is written.
 *
 * Values are nanoseconds. Each power of two is cut into 32 equal bins, so a quantile read back is
 * within 1/32 of the bin's lower edge (3.2 %, half of that at the middle, which is what is
 * returned: 1.6 %). Values outside the range land in the first or last bin; the true maximum is
 * kept beside.
 */
#ifndef PLX_FW_BASE_HIST_H
#define PLX_FW_BASE_HIST_H

#include <stdint.h>

#define PLX_HIST_SUB_BITS 5
#define PLX_HIST_MIN_EXP  6  /* 64 ns */
#define PLX_HIST_MAX_EXP  37 /* 137 s */
#define PLX_HIST_BINS     ((PLX_HIST_MAX_EXP - PLX_HIST_MIN_EXP) << PLX_HIST_SUB_BITS)

struct plx_hist {
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint64_t bin[PLX_HIST_BINS];
};

/* plx_hist_bin - index of the bin that holds ns. */
static inline uint32_t plx_hist_bin(uint64_t ns)
{
	if (ns < (UINT64_C(1) << PLX_HIST_MIN_EXP))
		return 0;
	uint32_t exp = 63u - (uint32_t)__builtin_clzll(ns);

	if (exp >= PLX_HIST_MAX_EXP)
		return PLX_HIST_BINS - 1;
	uint64_t sub = (ns >> (exp - PLX_HIST_SUB_BITS)) & ((1u << PLX_HIST_SUB_BITS) - 1);

	return ((exp - PLX_HIST_MIN_EXP) << PLX_HIST_SUB_BITS) + (uint32_t)sub;
}

/* plx_hist_add - count one duration. Thread: the histogram's one writer. Cost: a few ns. */
static inline void plx_hist_add(struct plx_hist *h, uint64_t ns)
{
	uint32_t b = plx_hist_bin(ns);

	__atomic_store_n(&h->bin[b], h->bin[b] + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&h->sum_ns, h->sum_ns + ns, __ATOMIC_RELAXED);
	__atomic_store_n(&h->count, h->count + 1, __ATOMIC_RELAXED);
	if (ns > h->max_ns)
		__atomic_store_n(&h->max_ns, ns, __ATOMIC_RELAXED);
}

/* plx_hist_low_ns - lower edge of a bin, 0..PLX_HIST_BINS (the upper edge of the last). */
uint64_t plx_hist_low_ns(uint32_t bin);

/*
 * plx_hist_quantile - the middle of the bin in which the quantile lies, in ns.
 *
 * @q  0..1; 1 gives the recorded maximum.
 *
 * Returns 0 for an empty histogram.
 */
uint64_t plx_hist_quantile(const struct plx_hist *h, double q);

#endif
