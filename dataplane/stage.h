/*
 * A stage: a poll function with its state, placed on an lcore; and the loop an lcore runs.
 *
 * An lcore takes its stages in turn, for ever. A turn ends when it has nothing more to do or when
 * its slice (timers.slice_us) is over, whichever is first; it never waits. Stages that share an
 * lcore share nothing else: they talk through rings as if they stood on different ones.
 */
#ifndef PLX_DATAPLANE_STAGE_H
#define PLX_DATAPLANE_STAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fw/base/config.h"
#include "fw/base/stamp.h"

#define PLX_LCORE_MAX_STAGES 16

/*
 * plx_stage_poll - one turn of a stage.
 *
 * @state   the stage's own.
 * @now_ns  plx_clock_ns() when the turn began, so that a stage need not ask again.
 *
 * Returns how much was done (packets, records, steps ...); 0: nothing was there.
 * Thread: the stage's lcore.  Cost: at most the slice; no allocation, lock or wait.
 */
typedef uint32_t (*plx_stage_poll)(void *state, uint64_t now_ns);

struct plx_stage {
	plx_stage_poll poll;
	void *state;
	struct plx_page *page; /* its counters; never NULL */
};

/* What an lcore runs. Filled at start; the lcore alone uses it from plx_lcore_run on. */
struct plx_lcore {
	uint32_t cpu;
	uint32_t n_stages;
	bool backoff;               /* yield, then sleep, when nothing comes for long */
	const atomic_bool *stop;    /* set by main: the loop returns after the turn */
	_Atomic uint64_t heartbeat; /* turns of the loop; main's watchdog reads it */
	_Atomic uint64_t thread_id; /* kernel's thread id once it runs, else 0 */
	struct plx_stage stage[PLX_LCORE_MAX_STAGES];
};

/*
 * plx_page_init - name a page and empty it; its ring of events stays as it is. kind and index make
 * "tok", "io.1" and so on. A page that is not of fw/base/share.h is zero before.
 */
void plx_page_init(struct plx_page *p, enum plx_stage_kind kind, uint32_t index, uint32_t lcore);

/* plx_stage_kind_name - "io", "hs", "tok", "batch", "accel", "worker". */
const char *plx_stage_kind_name(enum plx_stage_kind kind);

/*
 * plx_lcore_add - place a stage on an lcore, after those placed before.
 * Errors: FULL (PLX_LCORE_MAX_STAGES).
 */
int plx_lcore_add(struct plx_lcore *lc, plx_stage_poll poll, void *state, struct plx_page *page);

/*
 * plx_lcore_turn - every stage once, in order; returns the sum of what they did.
 * Counts each stage's time by regime. For tests and for lcores with a loop of their own.
 */
uint32_t plx_lcore_turn(struct plx_lcore *lc);

/*
 * plx_lcore_run - turns until *stop; returns 0.
 *
 * With backoff: after 64 turns in a row that found nothing the loop yields after each, after 1,024
 * it sleeps 20 us after each, after 2,048 (some 30 ms) 60 us, and 250 us where the only stage is a
 * worker; yields and sleeps are counted by name in the first stage's page. Without backoff it makes
 * no system call at all. In a debug build a stage that allocates aborts.
 *
 * Thread: the lcore (it fits rte_eal_remote_launch: int (*)(void *)).
 */
int plx_lcore_run(void *lc);

#endif
