/*
 * What several devices make together, in simulated time: two that share the load by measured speed,
 * prompts and answers on a device each, and one that fails in the middle. The devices are the
 * tests' fakes with a step time, so that every id is compared with what it should be.
 *
 *   bench_fleet [REQUESTS]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "tests/lib/fleetrig.h"

#define MS      1000000u
#define CLIENTS 30u

#define FAST_STEP 2 * MS, 50000
#define SLOW_STEP 5 * MS, 125000
#define DEV(role, time)                                                                            \
	{                                                                                          \
		PLX_FLEET_##role, 1, 1, 10, 400, 128, time, 0                                      \
	}

static const struct {
	const char *name;
	struct fleet_shape shape;
	bool fails; /* the first device is lost halfway, and its reset fails for half a second */
} run[] = {
    {"fast alone", {1, true, {DEV(MIXED, FAST_STEP)}}, false},
    {"slow alone (2.5 times as slow)", {1, true, {DEV(MIXED, SLOW_STEP)}}, false},
    {"both", {2, true, {DEV(MIXED, FAST_STEP), DEV(MIXED, SLOW_STEP)}}, false},
    {"both, fast one lost halfway",
     {2, true, {DEV(MIXED, FAST_STEP), DEV(MIXED, SLOW_STEP)}},
     true},
    {"two fast", {2, true, {DEV(MIXED, FAST_STEP), DEV(MIXED, FAST_STEP)}}, false},
    {"two fast, prompts and answers",
     {2, true, {DEV(PREFILL, FAST_STEP), DEV(DECODE, FAST_STEP)}},
     false},
    {"two fast, split, answers lost halfway",
     {2, true, {DEV(DECODE, FAST_STEP), DEV(PREFILL, FAST_STEP)}},
     true},
};

static struct fleet_rig g;
static uint32_t n_added, n_ended;
static double *first_ms, *gap_ms;
static uint32_t n_first, n_gap;
static uint64_t add_ns[FLEET_KEYS];
static bool counted[FLEET_KEYS];

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile(double *v, uint32_t n, double q)
{
	qsort(v, n, sizeof(*v), by_size);
	return n ? v[(uint32_t)(q * (n - 1))] : 0;
}

static void add_one(uint32_t key)
{
	int32_t p[FLEET_CTX];
	uint32_t n = 40 + n_added * 37 % 60, n_new = 20 + n_added * 23 % 40;

	fleet_prompt(p, n, (int32_t)(n_added * 131 % 997));
	struct plx_sched_job j = fleet_job(&g, key, p, n, 1, n_new, n_added);

	add_ns[key] = g.now;
	counted[key] = false;
	if (fleet_add(&g, key, &j) == 0)
		n_added++;
}

/* Clients that ask again as soon as they have their answer. */
static void clients(uint32_t n_requests)
{
	for (uint32_t k = 0; k < CLIENTS; k++) {
		struct fleet_req *r = &g.r[k];

		if (r->live || n_added == n_requests)
			continue;
		if (r->final_ns && !counted[k]) {
			n_ended++;
			counted[k] = true;
			if (r->first_ns)
				first_ms[n_first++] = (double)(r->first_ns - add_ns[k]) / MS;
			if (r->n_got[0] > 1)
				gap_ms[n_gap++] =
				    (double)(r->final_ns - r->first_ns) / (r->n_got[0] - 1) / MS;
		}
		add_one(k);
	}
}

static uint64_t next_event(void)
{
	uint64_t next = g.now + MS;

	for (uint32_t i = 0; i < g.f.conf.n_dev; i++) {
		uint64_t at = plx_fake_next_ns(g.dev[i].fake);

		next = at < next ? at : next;
	}
	return next > g.now ? next : g.now;
}

static void fail_when_due(uint32_t n_requests, uint64_t *back_ns)
{
	struct plx_fake_conf *c = plx_fake_conf(g.dev[0].fake);

	if (*back_ns == 0 && n_ended > n_requests / 2) {
		c->fail_status = PLX_E_LOST;
		c->reset_err = PLX_E_IO;
		*back_ns = g.now + 500 * MS;
	}
	if (g.now > *back_ns)
		c->reset_err = 0;
}

static void bench(uint32_t i, uint32_t n_requests)
{
	uint64_t back_ns = 0, tick_ns = 0;

	fleet_open(&g, &run[i].shape);
	n_added = n_ended = n_first = n_gap = 0;
	for (uint32_t d = 0; d < g.f.conf.n_dev; d++) {
		g.f.conf.stall_ns = 1000ull * MS;
		g.f.conf.retry_ns = 20 * MS;
	}
	while (n_ended + CLIENTS < n_requests) {
		clients(n_requests);
		if (run[i].fails)
			fail_when_due(n_requests, &back_ns);
		fleet_turn(&g, 0);
		g.now = next_event();
		if (g.now - tick_ns > MS)
			plx_fleet_tick(&g.f, tick_ns = g.now);
	}
	double s = (double)g.now / 1e9;
	uint64_t n_tokens = g.n_tokens, a = g.dev[0].n_tokens;

	for (; g.f.n_live > 0; g.now = next_event())
		fleet_turn(&g, 0);
	printf("%-38s %6.0f ids/s  share %3.0f %%  first p50 %4.0f p99 %5.0f ms  between %5.2f ms  "
	       "%u of %u done, %lu lost, %lu rescued, %lu handed, %lu copied\n",
	       run[i].name, (double)n_tokens / s, 100.0 * (double)a / (double)n_tokens,
	       quantile(first_ms, n_first, 0.5), quantile(first_ms, n_first, 0.99),
	       quantile(gap_ms, n_gap, 0.5), (uint32_t)g.n_done, n_added, g.n_lost,
	       g.f.stats.rescued, g.f.stats.handed, g.f.stats.imported);
	fleet_close(&g);
}

static uint32_t n_requests = 3000;

static void test_all(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < sizeof(run) / sizeof(run[0]); i++)
		bench(i, n_requests);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};

	if (argc > 1)
		n_requests = (uint32_t)strtoul(argv[1], NULL, 10);
	first_ms = calloc(n_requests + CLIENTS, sizeof(*first_ms));
	gap_ms = calloc(n_requests + CLIENTS, sizeof(*gap_ms));
	return first_ms && gap_ms ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
