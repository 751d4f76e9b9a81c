/*
 * The page each stage keeps about itself: counters, histograms, heartbeat. One writer (the stage's
 * lcore); readable at any time by another thread or process. All loads and stores are relaxed: a
 * reader sees every value whole, but two values need not be of the same instant.
 */
#ifndef PLX_FW_BASE_STAMP_H
#define PLX_FW_BASE_STAMP_H

#include <stdint.h>

#include "fw/base/hist.h"

enum plx_metric {
#define PLX_METRIC(name, unit, help) PLX_M_##name,
#include "fw/base/metrics.def"
	PLX_M_COUNT
};

enum plx_hist_idx {
#define PLX_HIST(name, help) PLX_H_##name,
#include "fw/base/metrics.def"
	PLX_H_COUNT
};

#define PLX_PAGE_ABI 1u

struct plx_page {
	uint32_t abi_version;
	uint32_t kind; /* enum plx_stage_kind */
	uint32_t lcore;
	uint32_t index;     /* which of its kind */
	uint64_t heartbeat; /* turns; stands still when the lcore hangs */
	uint64_t busy_ns;   /* turns that found work */
	uint64_t idle_ns;   /* turns that found none, back-off included */
	char name[32];
	uint64_t counter[PLX_M_COUNT];
	struct plx_hist hist[PLX_H_COUNT];
};

/* plx_count - add n to a counter. Thread: the page's one writer.  Cost: 1 ns. */
static inline void plx_count(struct plx_page *p, enum plx_metric m, uint64_t n)
{
	__atomic_store_n(&p->counter[m], p->counter[m] + n, __ATOMIC_RELAXED);
}

/* plx_counter_read - a counter's value. Thread: any. */
static inline uint64_t plx_counter_read(const struct plx_page *p, enum plx_metric m)
{
	return __atomic_load_n(&p->counter[m], __ATOMIC_RELAXED);
}

/* plx_metric_name - "REQ_OPENED"; plx_metric_unit - "requests". */
const char *plx_metric_name(enum plx_metric m);
const char *plx_metric_unit(enum plx_metric m);

/* plx_hist_name - "TURN". */
const char *plx_hist_name(enum plx_hist_idx h);

#endif
