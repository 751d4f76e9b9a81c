/*
 * The barrier between two phases: from the moment a lcore has finished a phase's last unit to the
 * moment the other one has claimed its first of the next, with two threads and empty items.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <pthread.h>
#include <x86intrin.h>

#include "accel/phase.h"
#include "fw/base/clock.h"

#define N_PHASE 200000u
#define N_UNITS 16u

static struct {
	struct plx_phase p;
	uint64_t end_tsc; /* the phase before, by lane `closer`; plain, as a description is */
	uint32_t closer;
	uint32_t n_phase;
	_Atomic uint32_t over;
	double took[2][N_PHASE]; /* by the lane that came second */
	uint32_t n_took[2];
} bar;

static void pin(uint32_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void next(uint32_t lane, uint64_t end_tsc)
{
	if (++bar.n_phase > N_PHASE) {
		atomic_store(&bar.over, 1);
		return;
	}
	bar.end_tsc = end_tsc;
	bar.closer = lane;
	plx_phase_open(&bar.p, N_UNITS, 2);
}

static void lane_run(uint32_t lane)
{
	uint32_t seen = 0;
	struct plx_range r;

	pin(lane);
	while (atomic_load_explicit(&bar.over, memory_order_relaxed) == 0) {
		uint32_t done = 0;

		while (plx_phase_claim(&bar.p, lane, true, &r)) {
			if (bar.n_phase != seen && bar.closer != lane && bar.n_phase > 1)
				bar.took[lane][bar.n_took[lane]++] =
				    (double)(__rdtsc() - bar.end_tsc);
			seen = bar.n_phase;
			done += r.end - r.begin;
		}
		uint64_t t = __rdtsc();

		if (done > 0 && plx_phase_finish(&bar.p, done))
			next(lane, t);
		else if (done == 0)
			__builtin_ia32_pause();
	}
}

static void *other_main(void *arg)
{
	(void)arg;
	lane_run(1);
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double all[2 * N_PHASE];

int main(void)
{
	uint64_t ns = plx_clock_ns(), tsc = __rdtsc();
	uint32_t n = 0;
	pthread_t t;

	plx_phase_init(&bar.p, 2);
	next(0, tsc);
	if (pthread_create(&t, NULL, other_main, NULL) != 0)
		return 1;
	lane_run(0);
	pthread_join(t, NULL);
	double per_tsc = (double)(plx_clock_ns() - ns) / (double)(__rdtsc() - tsc);

	for (uint32_t i = 0; i < 2; i++)
		for (uint32_t j = 0; j < bar.n_took[i]; j++)
			all[n++] = bar.took[i][j] * per_tsc;
	if (n == 0) {
		printf("bench_phase: SKIPPED, the two threads never ran at the same time\n");
		return 0;
	}
	qsort(all, n, sizeof(all[0]), by_value);
	printf("bench_phase: last unit finished to the other lcore's first claim: p50 %.0f ns, p99 "
	       "%.0f ns (%u of %u phases)\n",
	       all[n / 2], all[(uint64_t)n * 99 / 100], n, N_PHASE);
	return 0;
}
