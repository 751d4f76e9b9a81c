/* How the entries of the queue run: phases opened one after another, items claimed by any lcore. */
#include <string.h>

#include "accel/cpu.h"
#include "accel/cpu_tree.h"
#include "accel/forward_moe.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"

/* ---- items ---------------------------------------------------------------------------------- */

static uint8_t *block_at(const struct plx_cpu *c, uint32_t b)
{
	return b < c->lim.n_blocks ? c->fwd.kv + b * c->fwd.block_bytes
	                           : c->host.base + (b - c->lim.n_blocks) * c->fwd.block_bytes;
}

static void copy_pair(const struct plx_cpu *c, uint32_t i)
{
	const struct plx_block_copy *p =
	    &c->queue->pair[(c->cur.first_pair + i) % PLX_CPU_COPY_PAIRS];

	if (p->dst != p->src || c->cur.src != c)
		memcpy(block_at(c, p->dst), block_at(c->cur.src, p->src), c->fwd.block_bytes);
}

static void compute(struct plx_cpu *c, struct plx_range u, uint32_t lane)
{
	if (atomic_load_explicit(&c->abort, memory_order_relaxed) != 0)
		return;
	if (c->state == PLX_CPU_BODY) {
		plx_fwd_units(&c->fwd, u, lane);
		return;
	}
	for (uint32_t i = u.begin; i < u.end; i++) {
		if (c->state == PLX_CPU_SAMPLE)
			plx_cpu_step_sample(c, i);
		else
			copy_pair(c, i);
	}
}

static void trace(struct plx_cpu_trace *t, const struct plx_cpu *c, uint64_t begin_ns,
                  uint64_t end_ns)
{
	uint32_t op = c->state == PLX_CPU_BODY ? (uint32_t)c->fwd.op : PLX_FWD_N_OPS;

	if (t->n_event < t->max_event)
		t->event[t->n_event++] = (struct plx_cpu_event){begin_ns, end_ns, c->n_phase, op};
}

/* Computes an item and counts its time; *now_ns moves on to the item's end. */
static void compute_timed(struct plx_cpu *c, struct plx_range u, uint32_t lane, uint64_t *now_ns)
{
	struct plx_cpu_stats *s = &c->stats[lane];
	uint64_t begin = *now_ns;

	compute(c, u, lane);
	*now_ns = plx_clock_ns();
	uint64_t ns = *now_ns - begin;

	if (c->state == PLX_CPU_BODY)
		s->op_ns[c->fwd.op] += ns;
	else if (c->state == PLX_CPU_SAMPLE)
		s->sample_ns += ns;
	s->n_items++;
	if (c->trace != NULL)
		trace(&c->trace[lane], c, begin, *now_ns);
	if (ns > s->item_max_ns)
		s->item_max_ns = ns;
}

/* ---- entries -------------------------------------------------------------------------------- */

static bool pending(const struct plx_cpu *c)
{
	/* Q2: pairs with Q1 in plx_cpu_submit, so that the entry is seen before its number. */
	return c->n_started < atomic_load_explicit(&c->queue->n_submitted, memory_order_acquire);
}

/* How the entry that runs has to end now, whatever is left of it; 0: go on. */
static int stopped(const struct plx_cpu *c)
{
	if (atomic_load_explicit(&c->abort, memory_order_relaxed) != 0)
		return PLX_E_LOST;
	if (c->step != NULL && __atomic_load_n(&c->step->cancel, __ATOMIC_RELAXED) != 0)
		return PLX_E_CANCELLED;
	return c->step != NULL ? c->fwd.err : 0;
}

static void entry_complete(struct plx_cpu *c, int status)
{
	struct plx_cpu_queue *q = c->queue;

	if (c->step != NULL) {
		if (status == 0)
			plx_cpu_step_finish(c, c->step);
		else
			plx_cpu_step_fail(c, c->step, status);
		c->step->status = status;
		c->step->end_ns = plx_clock_ns();
	}
	c->step = NULL;
	uint64_t n = atomic_load_explicit(&q->n_completed, memory_order_relaxed);

	/* Q3: pairs with Q4 in collect, so that the results are seen before the count. */
	atomic_store_explicit(&q->n_completed, n + 1, memory_order_release);
}

/* Takes the next entry up to where its first phase can be opened; false when it ended there. */
static bool entry_begin(struct plx_cpu *c)
{
	struct plx_cpu_queue *q = c->queue;
	bool aborting = atomic_load_explicit(&c->abort, memory_order_relaxed) != 0;

	c->cur = q->entry[c->n_started++ & (q->n_entry - 1)];
	if (c->cur.kind == PLX_CPU_COPY) {
		c->state = PLX_CPU_COPY_FIRST;
		c->step = NULL;
		return true;
	}
	c->step = plx_cpu_queue_step(&q->base, c->cur.step_idx);
	c->step->start_ns = plx_clock_ns();
	if (!aborting && plx_cpu_step_begin(c, c->step)) {
		c->state = PLX_CPU_BODY;
		return true;
	}
	entry_complete(c, stopped(c));
	return false;
}

/* One row or one pair an item: each takes an item's time. */
static struct plx_cut one_by_one(uint32_t n)
{
	return (struct plx_cut){.n_units = n, .most = 1, .alone = n == 1};
}

/* The next phase of the entry; false at the entry's end. */
static bool phase_next(struct plx_cpu *c, struct plx_cut *out)
{
	c->n_phase++;
	switch (c->state) {
	case PLX_CPU_BODY:
		if (c->fwd.op != PLX_FWD_HEAD)
			return plx_fwd_next(&c->fwd, out);
		c->state = PLX_CPU_SAMPLE;
		plx_cpu_step_sample_begin(c);
		*out = one_by_one(c->fwd.n_head_row);
		return true;
	case PLX_CPU_SAMPLE:
		*out = one_by_one(c->fwd.n_head_row);
		/* The items' own counts; phase.h made them visible. */
		if (atomic_load_explicit(&c->n_choosing, memory_order_relaxed) > 0)
			return true;
		c->state = PLX_CPU_BODY;
		return plx_fwd_next(&c->fwd, out) || plx_cpu_tree_settle(c, out);
	case PLX_CPU_COPY_FIRST:
		c->state = PLX_CPU_COPYING;
		*out = one_by_one(c->cur.n_pair);
		return true;
	case PLX_CPU_COPYING:
	case PLX_CPU_IDLE:
		break;
	}
	return false;
}

/* Tells waiting lanes what to fetch, then lets them claim. */
static void phase_open(struct plx_cpu *c, const struct plx_cut *cut)
{
	struct plx_phase *p = &c->phase;

	for (uint32_t i = 0; i < p->n_share && c->state == PLX_CPU_BODY; i++)
		atomic_store_explicit(&p->share[i].ahead, plx_fwd_ahead(&c->fwd, i, p->n_share),
		                      memory_order_relaxed);
	plx_phase_open(p, cut->n_units, cut->most);
}

static void go_idle(struct plx_cpu *c)
{
	c->state = PLX_CPU_IDLE;
	/* R1: pairs with R2 in the poll, so that the owner sees what the runner left. */
	atomic_store_explicit(&c->running, 0, memory_order_release);
}

/* Begins entries until one has a phase to open; opens it, or goes idle. */
static void entries_next(struct plx_cpu *c)
{
	while (pending(c)) {
		if (!entry_begin(c))
			continue;
		struct plx_cut cut;

		if (stopped(c) == 0 && phase_next(c, &cut)) {
			phase_open(c, &cut);
			return;
		}
		entry_complete(c, stopped(c));
	}
	go_idle(c);
}

/* Nobody has anything to claim until the owner finds that the weights are there. */
static void wait_begin(struct plx_cpu *c, uint64_t now_ns)
{
	c->wait_from_ns = now_ns;
	/* R3: pairs with R4, so that the owner has all that the runner left. */
	atomic_store_explicit(&c->waiting, 1, memory_order_release);
}

/*
 * After a phase: open the next one. Short phases are done here, until the deadline, since handing
 * them out costs more than they do.
 */
static void advance(struct plx_cpu *c, uint32_t lane, uint64_t deadline_ns, uint64_t *now_ns)
{
	for (;;) {
		int stop = stopped(c);
		struct plx_cut cut;

		if (stop != 0 || !phase_next(c, &cut)) {
			entry_complete(c, stop != 0 ? stop : stopped(c));
			entries_next(c);
			return;
		}
		if (cut.n_units == 0) {
			wait_begin(c, *now_ns);
			return;
		}
		if (!cut.alone || *now_ns >= deadline_ns) {
			phase_open(c, &cut);
			return;
		}
		compute_timed(c, (struct plx_range){0, cut.n_units}, lane, now_ns);
	}
}

bool plx_cpu_run_resume(struct plx_cpu *c, uint64_t deadline_ns, uint64_t *now_ns)
{
	/* R4: pairs with R3. */
	if (atomic_load_explicit(&c->waiting, memory_order_acquire) == 0)
		return false;
	plx_fwd_moe_waited(&c->fwd, *now_ns - c->wait_from_ns);
	atomic_store_explicit(&c->waiting, 0, memory_order_relaxed);
	advance(c, 0, deadline_ns, now_ns);
	return atomic_load_explicit(&c->waiting, memory_order_relaxed) != 0;
}

void plx_cpu_run_start(struct plx_cpu *c)
{
	entries_next(c);
}

/* Weights of the next op begin to arrive while the phase is closed and short ops are done. */
static void fetch_next(const struct plx_cpu *c, uint32_t lane)
{
	const struct plx_share *s = &c->phase.share[lane % c->phase.n_share];
	const char *at = atomic_load_explicit(&s->ahead, memory_order_relaxed);

	if (at == NULL)
		return;
	for (uint32_t i = 0; i < PLX_CPU_AHEAD_FIRST; i += 64)
		__builtin_prefetch(at + i, 0, 2);
}

bool plx_cpu_run_items(struct plx_cpu *c, uint32_t lane, struct plx_cpu_wait *w,
                       uint64_t deadline_ns, uint64_t *now_ns)
{
	struct plx_range u;
	uint32_t done = 0;

	do {
		if (!plx_phase_claim(&c->phase, lane, w->n_wait < PLX_CPU_PATIENCE, &u))
			break;
		compute_timed(c, u, lane, now_ns);
		done += u.end - u.begin;
	} while (*now_ns < deadline_ns);
	if (done == 0)
		return false;
	w->n_wait = 0;
	fetch_next(c, lane);
	if (plx_phase_finish(&c->phase, done))
		advance(c, lane, deadline_ns, now_ns);
	return true;
}

void plx_cpu_run_wait(struct plx_cpu *c, uint32_t lane, struct plx_cpu_wait *w)
{
	const struct plx_share *s = &c->phase.share[lane % c->phase.n_share];
	const char *at = atomic_load_explicit(&s->ahead, memory_order_relaxed);

	w->n_wait++;
	if (at != w->at) {
		w->at = at;
		w->bytes = 0;
	}
	if (at == NULL || w->bytes >= PLX_CPU_AHEAD_BYTES) {
		__builtin_ia32_pause();
		return;
	}
	for (uint32_t i = 0; i < PLX_CPU_AHEAD_STEP; i += 64)
		__builtin_prefetch(at + w->bytes + i, 0, 2);
	w->bytes += PLX_CPU_AHEAD_STEP;
}
