/* How the entries of the queue run: phases opened one after another, items claimed by any lcore. */
#include <string.h>

#include "accel/cpu.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"

/* ---- items ---------------------------------------------------------------------------------- */

static void copy_item(struct plx_cpu *c, uint32_t item)
{
	const struct plx_block_copy *p =
	    &c->queue->pair[(c->cur.first_pair + item) % PLX_CPU_COPY_PAIRS];

	if (p->dst != p->src)
		memcpy(c->fwd.kv + p->dst * c->fwd.block_bytes,
		       c->fwd.kv + p->src * c->fwd.block_bytes, c->fwd.block_bytes);
}

static void compute(struct plx_cpu *c, const struct plx_claim *it, uint32_t lane)
{
	if (atomic_load_explicit(&c->abort, memory_order_relaxed) != 0)
		return;
	if (c->state == PLX_CPU_BODY)
		plx_fwd_item(&c->fwd, it->item, it->n_items, lane);
	else if (c->state == PLX_CPU_SAMPLE)
		plx_cpu_step_sample(c, it->item);
	else
		copy_item(c, it->item);
}

static void trace(struct plx_cpu_trace *t, const struct plx_cpu *c, uint64_t begin_ns,
                  uint64_t end_ns)
{
	uint32_t op = c->state == PLX_CPU_BODY ? (uint32_t)c->fwd.op : PLX_FWD_N_OPS;

	if (t->n_event < t->max_event)
		t->event[t->n_event++] = (struct plx_cpu_event){begin_ns, end_ns, c->n_phase, op};
}

/* Computes an item and counts its time; *now_ns moves on to the item's end. */
static void compute_timed(struct plx_cpu *c, const struct plx_claim *it, uint32_t lane,
                          uint64_t *now_ns)
{
	struct plx_cpu_stats *s = &c->stats[lane];
	uint64_t begin = *now_ns;

	compute(c, it, lane);
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
	return 0;
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

/* The next phase of the entry: its number of items, 0 at the entry's end. */
static uint32_t phase_next(struct plx_cpu *c)
{
	c->n_phase++;
	switch (c->state) {
	case PLX_CPU_BODY:
		if (c->fwd.op == PLX_FWD_HEAD) {
			c->state = PLX_CPU_SAMPLE;
			plx_cpu_step_sample_begin(c);
			return c->fwd.n_head_row;
		}
		return plx_fwd_next(&c->fwd);
	case PLX_CPU_SAMPLE:
		/* The items' own counts; work.h made them visible. */
		if (atomic_load_explicit(&c->n_choosing, memory_order_relaxed) > 0)
			return c->fwd.n_head_row;
		c->state = PLX_CPU_BODY;
		return plx_fwd_next(&c->fwd);
	case PLX_CPU_COPY_FIRST:
		c->state = PLX_CPU_COPYING;
		return c->cur.n_pair;
	case PLX_CPU_COPYING:
	case PLX_CPU_IDLE:
		break;
	}
	return 0;
}

static void go_idle(struct plx_cpu *c)
{
	c->state = PLX_CPU_IDLE;
	plx_work_close(&c->phase);
	/* R1: pairs with R2 in the poll, so that the owner sees what the runner left. */
	atomic_store_explicit(&c->running, 0, memory_order_release);
}

/* Begins entries until one has a phase to open; opens it, or goes idle. */
static void entries_next(struct plx_cpu *c)
{
	while (pending(c)) {
		if (!entry_begin(c))
			continue;
		uint32_t n = stopped(c) != 0 ? 0 : phase_next(c);

		if (n > 0) {
			plx_work_open(&c->phase, n);
			return;
		}
		entry_complete(c, stopped(c));
	}
	go_idle(c);
}

/*
 * After a phase: open the next one. Phases of one item are done here, until the deadline, since
 * handing them out costs more than they do.
 */
static void advance(struct plx_cpu *c, uint32_t lane, uint64_t deadline_ns, uint64_t *now_ns)
{
	for (;;) {
		int stop = stopped(c);
		uint32_t n = stop != 0 ? 0 : phase_next(c);

		if (n == 0) {
			entry_complete(c, stop);
			entries_next(c);
			return;
		}
		if (n > 1 || *now_ns >= deadline_ns) {
			plx_work_open(&c->phase, n);
			return;
		}
		compute_timed(c, &(struct plx_claim){0, 1}, lane, now_ns);
	}
}

void plx_cpu_run_start(struct plx_cpu *c)
{
	entries_next(c);
}

bool plx_cpu_run_item(struct plx_cpu *c, uint32_t lane, uint64_t deadline_ns, uint64_t *now_ns)
{
	struct plx_claim it;

	if (!plx_work_claim(&c->phase, &it))
		return false;
	compute_timed(c, &it, lane, now_ns);
	if (plx_work_finish(&c->phase, &it))
		advance(c, lane, deadline_ns, now_ns);
	return true;
}
