/* Threads take items by one counter. */
#include "tools/gguf/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fw/base/err.h"
#include "tools/gguf/out.h"

struct pool {
	plx_pool_fn fn;
	void *ctx;
	uint64_t n_items;
	_Atomic uint64_t next;
	_Atomic bool stop;
	pthread_mutex_t lock; /* of the two below */
	uint64_t failed_item;
	int err;
};

struct member {
	struct pool *p;
	uint32_t idx;
	pthread_t thread;
};

static void fail(struct pool *p, uint64_t item, int err)
{
	pthread_mutex_lock(&p->lock);
	if (!p->err || item < p->failed_item) {
		p->err = err;
		p->failed_item = item;
	}
	pthread_mutex_unlock(&p->lock);
	atomic_store_explicit(&p->stop, true, memory_order_relaxed);
}

static void *work(void *arg)
{
	const struct member *m = arg;
	struct pool *p = m->p;

	while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
		uint64_t item = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);

		if (item >= p->n_items)
			break;
		int err = plx_out_interrupted() ? PLX_E_CANCELLED : p->fn(p->ctx, m->idx, item);

		if (err)
			fail(p, item, err);
	}
	return NULL;
}

int plx_pool_run(uint32_t n_threads, uint64_t n_items, plx_pool_fn fn, void *ctx)
{
	struct pool p = {
	    .fn = fn, .ctx = ctx, .n_items = n_items, .lock = PTHREAD_MUTEX_INITIALIZER};
	struct member m[PLX_POOL_MAX];
	uint32_t n = n_threads < PLX_POOL_MAX ? n_threads : PLX_POOL_MAX, made = 1;

	for (uint32_t i = 0; i < n; i++)
		m[i] = (struct member){.p = &p, .idx = i};
	while (made < n && pthread_create(&m[made].thread, NULL, work, &m[made]) == 0)
		made++; /* fewer will do */
	work(&m[0]);
	for (uint32_t i = 1; i < made; i++)
		pthread_join(m[i].thread, NULL);
	return p.err;
}

uint32_t plx_pool_threads(uint32_t asked)
{
	cpu_set_t set;
	int n = asked ? (int)asked : 1;

	if (!asked && sched_getaffinity(0, sizeof set, &set) == 0)
		n = CPU_COUNT(&set);
	return n < 1 ? 1 : n > (int)PLX_POOL_MAX ? PLX_POOL_MAX : (uint32_t)n;
}
