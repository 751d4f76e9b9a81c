/* A loop on all cores: threads take items from one counter. */
#include "tests/lib/par.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "fw/base/check.h"

#define MAX_THREADS 16u

struct par {
	uint32_t n;
	_Atomic uint32_t next;
	void (*item)(void *arg, uint32_t i);
	void *arg;
};

static void *thread_main(void *arg)
{
	struct par *p = arg;

	for (;;) {
		uint32_t i = atomic_fetch_add(&p->next, 1);

		if (i >= p->n)
			return NULL;
		p->item(p->arg, i);
	}
}

void plx_t_par(uint32_t n, void (*item)(void *arg, uint32_t i), void *arg)
{
	struct par p = {.n = n, .item = item, .arg = arg};
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t n_threads = cores < 1                   ? 1
	                     : cores > (long)MAX_THREADS ? MAX_THREADS
	                                                 : (uint32_t)cores;
	pthread_t thread[MAX_THREADS];

	if (n_threads > n)
		n_threads = n > 0 ? n : 1;
	for (uint32_t i = 1; i < n_threads; i++)
		PLX_CHECK(pthread_create(&thread[i], NULL, thread_main, &p) == 0);
	(void)thread_main(&p);
	for (uint32_t i = 1; i < n_threads; i++)
		pthread_join(thread[i], NULL);
}
