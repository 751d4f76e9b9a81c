/* The CPU device's queue: submit, poll, worker, block copies, reset. */
#include <stdlib.h>
#include <string.h>

#include "accel/cpu.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"

static struct plx_cpu *cpu_of(struct plx_dev *dev)
{
	return (struct plx_cpu *)(void *)dev;
}

static struct plx_cpu_queue *queue_of(struct plx_queue *q)
{
	return (struct plx_cpu_queue *)(void *)q;
}

static inline void relax(void)
{
	__builtin_ia32_pause();
}

int plx_cpu_queue_open(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d)
{
	struct plx_cpu *c = cpu_of(dev);

	if (!c->loaded)
		return plx_diag_set(d, PLX_E_INVAL, "device %s: load a model before opening queues",
		                    c->conf.name);
	if (c->queue != NULL)
		return plx_diag_set(
		    d, PLX_E_LIMIT,
		    "device %s: a CPU device has one queue, and it is open; place one "
		    "accel stage on it",
		    c->conf.name);
	plx_phase_init(&c->phase, c->lim.n_threads);
	c->queue = c->spare;
	*out = &c->queue->base;
	return PLX_E_OK;
}

struct plx_step *plx_cpu_queue_step(struct plx_queue *base, uint32_t step_idx)
{
	struct plx_cpu_queue *q = queue_of(base);

	if (step_idx >= q->check.lim.steps_in_flight)
		return NULL;
	return (struct plx_step *)(void *)(q->records +
	                                   (size_t)step_idx * q->check.lay.record_bytes);
}

/* ---- the owner's side ----------------------------------------------------------------------- */

static bool entries_full(const struct plx_cpu_queue *q)
{
	return atomic_load_explicit(&q->n_submitted, memory_order_relaxed) - q->n_collected >=
	       q->n_entry;
}

static void entry_push(struct plx_cpu_queue *q, struct plx_cpu_entry e)
{
	uint64_t n = atomic_load_explicit(&q->n_submitted, memory_order_relaxed);

	q->entry[n & (q->n_entry - 1)] = e;
	/* Q1: pairs with Q2 in the runner, so that the entry is seen before its number. */
	atomic_store_explicit(&q->n_submitted, n + 1, memory_order_release);
}

int plx_cpu_submit(struct plx_queue *base, uint32_t step_idx)
{
	struct plx_cpu_queue *q = queue_of(base);
	struct plx_step *s = plx_cpu_queue_step(base, step_idx);

	if (q->busy_step[step_idx])
		return PLX_E_INVAL;
	if (entries_full(q))
		return PLX_E_AGAIN;
	int err = plx_step_accept(&q->check, s);

	if (err != 0)
		return err;
	q->busy_step[step_idx] = true;
	s->generation = q->cpu->generation;
	entry_push(q, (struct plx_cpu_entry){.kind = PLX_CPU_STEP, .step_idx = step_idx});
	return PLX_E_OK;
}

/* Whether blocks of one are blocks of the other. */
static bool same_layout(struct plx_dev *a, struct plx_dev *b)
{
	struct plx_dev_info x, y;

	return plx_dev_info_get(a, &x) == 0 && plx_dev_info_get(b, &y) == 0 &&
	       x.kv_layout_hash == y.kv_layout_hash;
}

static uint32_t all_blocks(const struct plx_cpu_queue *q)
{
	return q->check.lim.n_blocks + q->check.lim.n_host_blocks;
}

int plx_cpu_copy_blocks(struct plx_queue *dst, struct plx_queue *src,
                        const struct plx_block_copy *pairs, uint32_t n)
{
	struct plx_cpu_queue *q = queue_of(dst), *from = queue_of(src);

	if (dst != src && !same_layout(dst->dev, src->dev))
		return PLX_E_UNSUPPORTED;
	if (n == 0)
		return PLX_E_OK;
	if (n > PLX_CPU_COPY_PAIRS)
		return PLX_E_LIMIT;
	for (uint32_t i = 0; i < n; i++)
		if (pairs[i].src >= all_blocks(from) || pairs[i].dst >= all_blocks(q))
			return PLX_E_INVAL;
	if (entries_full(q) || q->n_pair - q->n_pair_done + n > PLX_CPU_COPY_PAIRS)
		return PLX_E_AGAIN;
	struct plx_cpu_entry e = {
	    .kind = PLX_CPU_COPY, .first_pair = q->n_pair, .n_pair = n, .src = from->cpu};

	for (uint32_t i = 0; i < n; i++)
		q->pair[q->n_pair++ % PLX_CPU_COPY_PAIRS] = pairs[i];
	entry_push(q, e);
	return PLX_E_OK;
}

/* Takes completed entries off in order; copies complete without a word. */
static int collect(struct plx_cpu_queue *q, uint32_t *done_idx, uint32_t max_done)
{
	/* Q4: pairs with Q3 in the runner. */
	uint64_t completed = atomic_load_explicit(&q->n_completed, memory_order_acquire);
	uint32_t n = 0;

	while (q->n_collected < completed) {
		const struct plx_cpu_entry *e = &q->entry[q->n_collected & (q->n_entry - 1)];

		if (e->kind == PLX_CPU_COPY) {
			q->n_pair_done += e->n_pair;
		} else {
			if (n == max_done)
				break;
			q->busy_step[e->step_idx] = false;
			done_idx[n++] = e->step_idx;
		}
		q->n_collected++;
	}
	return (int)n;
}

/* Starts the next entry where nothing runs; false when there is nothing to run at all. */
static bool keep_running(struct plx_cpu *c)
{
	/* R2: pairs with R1, so that n_started and the rest of the runner's state are ours. */
	if (atomic_load_explicit(&c->running, memory_order_acquire) != 0)
		return true;
	if (c->n_started == atomic_load_explicit(&c->queue->n_submitted, memory_order_relaxed))
		return false;
	atomic_store_explicit(&c->running, 1, memory_order_relaxed);
	plx_cpu_run_start(c);
	return true;
}

int plx_cpu_poll(struct plx_queue *base, uint32_t budget_us, uint32_t *done_idx, uint32_t max_done)
{
	struct plx_cpu_queue *q = queue_of(base);
	uint64_t now = plx_clock_ns();
	uint64_t deadline = now + budget_us * PLX_NS_PER_US;
	struct plx_cpu_wait wait = {0};

	plx_k_fpu_setup();
	for (;;) {
		bool some = keep_running(q->cpu);
		int n = collect(q, done_idx, max_done);

		if (n > 0 || !some || now >= deadline)
			return n;
		if (plx_cpu_run_resume(q->cpu, deadline, &now))
			return 0; /* the lcore has better to do than to look on */
		if (!plx_cpu_run_items(q->cpu, 0, &wait, deadline, &now)) {
			plx_cpu_run_wait(q->cpu, 0, &wait);
			now = plx_clock_ns();
		}
	}
}

int plx_cpu_worker(struct plx_dev *dev, uint32_t worker_idx, uint32_t budget_us)
{
	struct plx_cpu *c = cpu_of(dev);

	if (worker_idx == 0 || worker_idx >= c->lim.n_threads)
		return PLX_E_INVAL;
	if (!c->loaded)
		return plx_cpu_load_help(c, worker_idx, budget_us);
	if (atomic_load_explicit(&c->running, memory_order_relaxed) == 0)
		return 0;
	uint64_t now = plx_clock_ns();
	uint64_t deadline = now + budget_us * PLX_NS_PER_US;
	struct plx_cpu_wait wait = {0};
	int did = 0;

	plx_k_fpu_setup();
	while (now < deadline && atomic_load_explicit(&c->running, memory_order_relaxed) != 0 &&
	       atomic_load_explicit(&c->waiting, memory_order_relaxed) == 0) {
		if (plx_cpu_run_items(c, worker_idx, &wait, deadline, &now)) {
			did = 1;
		} else {
			plx_cpu_run_wait(c, worker_idx, &wait);
			now = plx_clock_ns();
		}
	}
	return did;
}

int plx_cpu_reset(struct plx_dev *dev)
{
	struct plx_cpu *c = cpu_of(dev);

	if (!c->loaded)
		return PLX_E_INVAL;
	atomic_store_explicit(&c->abort, 1, memory_order_relaxed);
	while (c->queue != NULL && keep_running(c)) {
		struct plx_cpu_wait wait = {.n_wait = PLX_CPU_PATIENCE};
		uint64_t now = plx_clock_ns();

		(void)plx_cpu_run_resume(c, 0, &now);
		if (!plx_cpu_run_items(c, 0, &wait, 0, &now))
			relax();
	}
	if (c->queue != NULL)
		plx_step_checker_reset(&c->queue->check);
	for (uint32_t i = 0; i < c->lim.n_slots; i++)
		c->slot[i].failed = false;
	c->generation++;
	atomic_store_explicit(&c->abort, 0, memory_order_relaxed);
	return PLX_E_OK;
}
