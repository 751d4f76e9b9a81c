/*
 * The objectives that the simulated service is judged by. A request has met its objective when
 *
 *   - it ended DONE with its whole answer,
 *   - its first token came within first_ms of its arrival, and
 *   - at most 1 in 100 of the gaps between its tokens was longer than between_ms.
 *
 * The last is the p99 of what one reader sees. A mean would hide a stream that freezes for a second
 * and then catches up, which is the fault this is about; a maximum would let one step out of
 * hundreds, made late by the device's own noise, fail an answer that reads perfectly well.
 */
#ifndef PLX_TESTS_SIM_OBJECTIVES_H
#define PLX_TESTS_SIM_OBJECTIVES_H

#include <stdint.h>

enum sim_kind { SIM_CHAT, SIM_DOC, SIM_KINDS };

#define SIM_GAPS_LATE_SHARE 0.01 /* of an answer's gaps may be over the objective */

struct sim_objective {
	uint32_t first_ms;
	uint32_t between_ms;
};

static const struct sim_objective sim_objectives[SIM_KINDS] = {
    [SIM_CHAT] = {.first_ms = 300, .between_ms = 30},
    [SIM_DOC] = {.first_ms = 3000, .between_ms = 60},
};

/* Targets that bench_batcher prints beside its results. */
#define SIM_TARGET_SPREAD    1.2  /* p99 / p50 of gaps at 95 % of capacity, in prefill bursts */
#define SIM_TARGET_MEDIAN    1.1  /* that p50, over the best baseline's */
#define SIM_TARGET_KEPT      0.90 /* goodput at 120 % over its own peak */
#define SIM_TARGET_REJECT_MS 1.0  /* the excess knows by then */

/*
 * What `bench_batcher sweep 100000` found: each baseline's setting with the highest peak goodput,
 * and the highest of these peaks, which is the capacity that loads are given in.
 */
#define SIM_BEST_STATIC  128u
#define SIM_BEST_ORCA    512u
#define SIM_BEST_SARATHI 384u
#define SIM_CAPACITY_HZ  7.49

#endif
