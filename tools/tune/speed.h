/*
 * How fast a configuration serves: the real scheduler over the CPU device in this process, without
 * packets. A number of requests is in flight at all times: when one ends, the next comes; at the
 * start each comes when the one before it has its first token, so that prompts and answers mix.
 * Prompts are stretches of the user's text, answers greedy and of fixed length.
 */
#ifndef PLX_TOOLS_TUNE_SPEED_H
#define PLX_TOOLS_TUNE_SPEED_H

#include "fw/base/diag.h"
#include "tools/tune/knobs.h"
#include "tools/tune/rig.h"

#define PLX_SPEED_BATCH  64u    /* requests in flight at most */
#define PLX_SPEED_ANSWER 4096u  /* ids of an answer at most */
#define PLX_SPEED_GAPS   65536u /* ids of all answers at most */

struct plx_speed_load {
	uint32_t batch;      /* requests in flight */
	uint32_t n_requests; /* in all, at least batch */
	uint32_t prompt;     /* ids of each */
	uint32_t answer;     /* ids of each, at least 2 */
	const int32_t *ids;  /* [n_ids] the text; at least prompt */
	uint32_t n_ids;
	uint32_t n_threads;
	uint32_t sparse_from; /* positions below it are dense in any case */
	uint32_t n_places;    /* ids of the text that accuracy is taken on */
	bool cpu_time;        /* measure the process's CPU time: on one thread, on a busy machine */
};

struct plx_speed {
	double rate;                     /* ids a second of all answers, from first to last */
	double first_ms, p50_ms, p99_ms; /* medians and quantile over requests, over ids */
	uint64_t drafted, accepted;
	uint64_t text; /* hash of the answers */
};

/*
 * plx_speed_effect - a setup with what this load can't fill cut off: two whose effects are equal
 * serve it alike, and one of them is enough to measure. Sparse attention counts only where the load
 * and the text that its loss is seen on both go beyond sparse_from.
 */
void plx_speed_effect(const struct plx_speed_load *l, struct plx_tune_setup *s);

/* plx_speed_limits - sizes of the device for it. */
struct plx_dev_limits plx_speed_limits(const struct plx_speed_load *l,
                                       const struct plx_tune_setup *s);

/*
 * plx_speed_run - serve the load once, after a short part of it so that the scheduler knows the
 * device. The rig was opened with plx_speed_limits and the setup's slice.
 *
 * Errors: NOMEM, FAULT, CANCELLED (a signal), what the scheduler refuses a request with.
 */
int plx_speed_run(struct plx_speed *out, const struct plx_speed_load *l,
                  const struct plx_tune_setup *s, struct plx_rig *r, struct plx_diag *d);

#endif
