/*
 * The store's threads: first they make the file, if there is none, then the pool's pages. From then
 * on one of them looks at the runner's rings, so that the runner has nobody to wake, which would be
 * a system call; it wakes the others, who read. While nothing comes it sleeps longer between looks.
 */
#include <time.h>

#include "accel/experts_int.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/base/thread.h"

#define SAY_MOST  8u
#define NAP_NS    20000L  /* while there was something lately */
#define REST_NS   500000L /* later on */
#define LATELY_NS (50 * PLX_NS_PER_MS)

struct reader {
	struct plx_experts *x;
	uint32_t idx;
};

/* ---- rings ---------------------------------------------------------------------------------- */

bool plx_expert_ring_push(struct plx_expert_ring *r, uint32_t slot)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

	if (head - atomic_load_explicit(&r->tail, memory_order_acquire) > r->mask)
		return false;
	__atomic_store_n(&r->slot[head & r->mask], slot, __ATOMIC_RELAXED);
	/* E1: pairs with E2, so that a reader sees the entry and what the slot is to hold. */
	atomic_store_explicit(&r->head, head + 1, memory_order_release);
	return true;
}

bool plx_expert_ring_pop(struct plx_expert_ring *r, uint32_t *slot)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	/* E2: pairs with E1. */
	while (tail != atomic_load_explicit(&r->head, memory_order_acquire)) {
		*slot = __atomic_load_n(&r->slot[tail & r->mask], __ATOMIC_RELAXED);
		if (atomic_compare_exchange_weak_explicit(
			&r->tail, &tail, tail + 1, memory_order_acq_rel, memory_order_relaxed))
			return true;
	}
	return false;
}

/* ---- work ----------------------------------------------------------------------------------- */

static enum plx_experts_stage stage_of(const struct plx_experts *x)
{
	return (enum plx_experts_stage)atomic_load_explicit(&x->stage, memory_order_acquire);
}

static void stage_set(struct plx_experts *x, enum plx_experts_stage s)
{
	/* E3: pairs with the loads in stage_of, so that the file and why are seen. */
	atomic_store_explicit(&x->stage, s, memory_order_release);
}

static void broken(struct plx_experts *x, int err, const struct plx_diag *why)
{
	if (atomic_fetch_add_explicit(&x->failing, 1, memory_order_relaxed) != 0)
		return;
	x->err = err;
	x->why = *why;
	stage_set(x, PLX_EXPERTS_BROKEN);
}

static bool stopped(const struct plx_experts *x)
{
	return atomic_load_explicit(&x->stop, memory_order_relaxed);
}

/* Experts into the file, one after another; each thread packs in a slot of its own. */
static void make(struct plx_experts *x, uint32_t idx)
{
	uint8_t *buf = plx_expert_slot_at(x, idx);
	struct plx_diag why = {0};
	int err = PLX_E_OK;

	while (!stopped(x) && stage_of(x) == PLX_EXPERTS_MAKING) {
		uint32_t i = atomic_fetch_add_explicit(&x->next, 1, memory_order_relaxed);

		if (i >= x->n_total)
			return;
		plx_expert_pack(x, i, buf);
		err = plx_expert_file_put(x, i, buf, &why);
		/* E4: pairs with itself: the last one sees the sums of all. */
		if (err == 0 &&
		    atomic_fetch_add_explicit(&x->n_made, 1, memory_order_acq_rel) + 1 ==
		        x->n_total) {
			err = plx_expert_file_end(x, &why);
			if (err == 0)
				stage_set(x, PLX_EXPERTS_TOUCHING);
		}
		if (err != 0)
			broken(x, err, &why);
	}
}

static void touch(struct plx_experts *x, uint32_t idx)
{
	uint64_t each = x->pool->size_bytes / x->n_thread, from = idx * each;

	plx_arena_touch(x->pool, from, idx + 1 == x->n_thread ? x->pool->size_bytes : from + each);
	if (atomic_fetch_add_explicit(&x->n_touched, 1, memory_order_acq_rel) + 1 == x->n_thread)
		stage_set(x, PLX_EXPERTS_SERVING);
}

/* A disk that is gone fails every read: the first few say enough. */
static void say(struct plx_experts *x, const struct plx_diag *why)
{
	uint32_t n = atomic_fetch_add_explicit(&x->n_failed, 1, memory_order_relaxed);

	if (n < SAY_MOST)
		plx_log(PLX_LOG_ERROR, "experts: %s%s", why->text,
		        n + 1 == SAY_MOST ? "; further ones are not said" : "");
}

/* Reads one slot that waits; false when none does. */
static bool serve(struct plx_experts *x, bool needs_only)
{
	uint32_t i, want = PLX_EXPERT_QUEUED;
	struct plx_diag why = {0};

	if (!plx_expert_ring_pop(&x->needs, &i) &&
	    (needs_only || !plx_expert_ring_pop(&x->guesses, &i)))
		return false;
	struct plx_expert_slot *s = &x->slot[i];

	/* A slot may stand in both rings: whoever comes second finds it read, or being read. */
	if (!atomic_compare_exchange_strong_explicit(&s->state, &want, PLX_EXPERT_READING,
	                                             memory_order_acquire, memory_order_relaxed))
		return true;
	int err = plx_expert_read(x, s->expert, plx_expert_slot_at(x, i), &why);

	if (err != 0)
		say(x, &why);
	/* E5: pairs with E6, so that the runner sees the weights. */
	atomic_store_explicit(&s->state, err == 0 ? PLX_EXPERT_READY : PLX_EXPERT_FAILED,
	                      memory_order_release);
	return true;
}

static void nap(long ns)
{
	nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static uint32_t n_in(const struct plx_expert_ring *r)
{
	return atomic_load_explicit(&r->head, memory_order_relaxed) -
	       atomic_load_explicit(&r->tail, memory_order_relaxed);
}

/* Wakes as many readers as there is work for, no more often than once for each. */
static void wake(sem_t *work, uint32_t n, uint32_t most)
{
	int have = 0;

	(void)sem_getvalue(work, &have);
	for (uint32_t i = have > 0 ? (uint32_t)have : 0; i < n && i < most; i++)
		(void)sem_post(work);
}

/* Looks at the rings until the end. */
static void watch(struct plx_experts *x)
{
	uint64_t last_ns = plx_clock_ns();
	uint32_t seen = 0, half = PLX_EXPERTS_READERS / 2;

	while (!stopped(x)) {
		uint32_t heads = atomic_load_explicit(&x->n_turn, memory_order_relaxed);
		uint32_t needs = n_in(&x->needs), guesses = n_in(&x->guesses);

		wake(&x->work[0], needs, half);
		wake(&x->work[1], (needs > half ? needs - half : 0) + guesses, half);
		if (heads != seen || needs + guesses > 0)
			last_ns = plx_clock_ns();
		seen = heads;
		nap(plx_clock_ns() - last_ns < LATELY_NS ? NAP_NS : REST_NS);
	}
}

/* Threads 0 .. READERS-1 read, half of them needs alone; the last one watches. */
static void *reader_main(void *arg)
{
	struct plx_experts *x = arg;
	uint32_t idx = atomic_fetch_add_explicit(&x->n_started, 1, memory_order_relaxed);

	plx_thread_keep_off(x->cpus);
	if (idx < x->n_slot)
		make(x, idx);
	while (!stopped(x) && stage_of(x) == PLX_EXPERTS_MAKING)
		nap(REST_NS);
	if (!stopped(x) && stage_of(x) != PLX_EXPERTS_BROKEN)
		touch(x, idx);
	if (idx == PLX_EXPERTS_READERS)
		watch(x);
	while (!stopped(x)) {
		(void)sem_wait(&x->work[idx % 2]);
		while (!stopped(x) && serve(x, idx % 2 == 0))
			;
	}
	return NULL;
}

/* ---- from outside --------------------------------------------------------------------------- */

uint32_t plx_experts_threads(struct plx_experts *x)
{
	x->n_thread = PLX_EXPERTS_THREADS;
	for (uint32_t i = 0; i < PLX_EXPERTS_THREADS; i++)
		if (plx_thread_start(&x->thread[i], reader_main, x) != 0) {
			/* Those that run count on all: they end, and nothing was begun. */
			x->n_thread = i;
			plx_experts_threads_end(x);
			break;
		}
	return x->n_thread;
}

void plx_experts_threads_end(struct plx_experts *x)
{
	atomic_store_explicit(&x->stop, true, memory_order_relaxed);
	for (uint32_t i = 0; i < PLX_EXPERTS_READERS; i++)
		(void)sem_post(&x->work[i % 2]);
	for (uint32_t i = 0; i < x->n_thread; i++)
		(void)pthread_join(x->thread[i], NULL);
	x->n_thread = 0;
}
