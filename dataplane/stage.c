/* The loop of an lcore: its stages in turn, with heartbeats and idle back-off. */
#include "dataplane/stage.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/quiet.h"

#define IDLE_TURNS_YIELD 64u
#define IDLE_TURNS_SLEEP 1024u
#define IDLE_TURNS_LONG  2048u
#define IDLE_SLEEP_NS    20000
#define IDLE_LONG_NS     60000
#define IDLE_WORKER_NS   250000

const char *plx_stage_kind_name(enum plx_stage_kind kind)
{
	static const char *const name[] = {"io", "hs", "tok", "batch", "accel", "worker"};

	return (unsigned int)kind < sizeof(name) / sizeof(name[0]) ? name[kind] : "unknown";
}

void plx_page_init(struct plx_page *p, enum plx_stage_kind kind, uint32_t index, uint32_t lcore)
{
	uint64_t trace_off = p->trace_off;
	uint32_t trace_events = p->trace_events;

	memset(p, 0, sizeof(*p));
	p->trace_off = trace_off;
	p->trace_events = trace_events;
	p->abi_version = PLX_PAGE_ABI;
	p->kind = (uint32_t)kind;
	p->index = index;
	p->lcore = lcore;
	if (index)
		snprintf(p->name, sizeof(p->name), "%s.%u", plx_stage_kind_name(kind), index);
	else
		snprintf(p->name, sizeof(p->name), "%s", plx_stage_kind_name(kind));
}

int plx_lcore_add(struct plx_lcore *lc, plx_stage_poll poll, void *state, struct plx_page *page)
{
	if (lc->n_stages == PLX_LCORE_MAX_STAGES)
		return PLX_E_FULL;
	lc->stage[lc->n_stages++] = (struct plx_stage){.poll = poll, .state = state, .page = page};
	return 0;
}

static enum plx_regime regime_of(const struct plx_page *p, uint32_t done)
{
	if (p->turn_regime == PLX_REGIME_HOUSEKEEPING)
		return PLX_REGIME_HOUSEKEEPING;
	if (done)
		return PLX_REGIME_BUSY;
	return p->turn_regime == PLX_REGIME_BACKPRESSURED ? PLX_REGIME_BACKPRESSURED
	                                                  : PLX_REGIME_IDLE;
}

static void trace_turn(struct plx_page *p, enum plx_trace_kind kind, uint64_t begin, uint64_t end)
{
	struct plx_trace_ev ev = {.ns = end, .kind = (uint16_t)kind, .a = begin, .b = end};

	plx_trace(p, &ev);
}

/* What is worth an event of its own: turns without end, and times without room behind. */
static void note_turn(struct plx_page *p, enum plx_regime r, uint64_t begin, uint64_t end)
{
	if (end - begin > PLX_LONG_NS)
		trace_turn(p, PLX_TR_LONG, begin, end);
	if (r == PLX_REGIME_BACKPRESSURED) {
		p->stall_ns = p->stall_ns != 0 ? p->stall_ns : begin;
	} else if (p->stall_ns != 0) {
		trace_turn(p, PLX_TR_STALL, p->stall_ns, begin);
		p->stall_ns = 0;
	}
}

static void account(struct plx_page *p, uint32_t done, uint64_t begin, uint64_t end)
{
	enum plx_regime r = regime_of(p, done);
	uint64_t *cell = &p->regime_ns[r], ns = end - begin;

	p->turn_regime = 0;
	note_turn(p, r, begin, end);
	__atomic_store_n(cell, *cell + ns, __ATOMIC_RELAXED);
	__atomic_store_n(&p->heartbeat, p->heartbeat + 1, __ATOMIC_RELAXED);
	if (done)
		plx_hist_add(&p->hist[PLX_H_TURN], ns);
}

uint32_t plx_lcore_turn(struct plx_lcore *lc)
{
	uint32_t sum = 0;
	uint64_t now = plx_clock_ns();

	for (uint32_t i = 0; i < lc->n_stages; i++) {
		struct plx_stage *s = &lc->stage[i];
		uint32_t done = s->poll(s->state, now);
		uint64_t end = plx_clock_ns();

		account(s->page, done, now, end);
		now = end;
		sum += done;
	}
	atomic_store_explicit(&lc->heartbeat,
	                      atomic_load_explicit(&lc->heartbeat, memory_order_relaxed) + 1,
	                      memory_order_relaxed);
	return sum;
}

/* What a wake-up costs is what an idle box takes: 15 us each on a virtual machine. */
static long sleep_ns(const struct plx_lcore *lc, uint32_t idle_turns)
{
	if (idle_turns < IDLE_TURNS_LONG)
		return IDLE_SLEEP_NS;
	/* No packet comes to a worker; it is only later to help. */
	if (lc->n_stages == 1 && lc->stage[0].page->kind == PLX_STAGE_WORKER)
		return IDLE_WORKER_NS;
	return IDLE_LONG_NS;
}

static void back_off(struct plx_lcore *lc, uint32_t idle_turns)
{
	struct plx_page *p = lc->stage[0].page;
	uint64_t begin = plx_clock_ns();

	if (idle_turns >= IDLE_TURNS_SLEEP) {
		struct timespec ts = {.tv_nsec = sleep_ns(lc, idle_turns)};

		plx_count(p, PLX_M_IDLE_SLEEPS, 1);
		nanosleep(&ts, NULL);
	} else {
		plx_count(p, PLX_M_IDLE_YIELDS, 1);
		sched_yield();
	}
	uint64_t *cell = &p->regime_ns[PLX_REGIME_IDLE];

	__atomic_store_n(cell, *cell + (plx_clock_ns() - begin), __ATOMIC_RELAXED);
}

int plx_lcore_run(void *arg)
{
	struct plx_lcore *lc = arg;
	uint32_t idle_turns = 0;

	atomic_store_explicit(&lc->thread_id, (uint64_t)gettid(), memory_order_relaxed);
	for (uint32_t i = 0; i < lc->n_stages; i++)
		__atomic_store_n(&lc->stage[i].page->thread_id, (uint64_t)gettid(),
		                 __ATOMIC_RELAXED);
	/* The default slack of 50 us would make each short sleep more than twice as long. */
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	(void)plx_quiet_set(true);
	while (!atomic_load_explicit(lc->stop, memory_order_relaxed)) {
		if (plx_lcore_turn(lc) > 0)
			idle_turns = 0;
		else if (idle_turns < IDLE_TURNS_LONG)
			idle_turns++;
		if (lc->backoff && lc->n_stages > 0 && idle_turns >= IDLE_TURNS_YIELD)
			back_off(lc, idle_turns);
	}
	(void)plx_quiet_set(false);
	return 0;
}
