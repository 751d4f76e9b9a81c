/* Probing for larger datagrams. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/pmtu.h"

#define MS(n) ((n)*UINT64_C(1000000))

static struct plx_rtt rtt;
static uint64_t now, token;

/* Run the search on a path that carries path_bytes; returns the probes it took. */
static int search(struct plx_pmtu *p, uint16_t path_bytes)
{
	int n = 0;

	for (int i = 0; i < 10000 && p->state == PLX_PMTU_SEARCHING; i++) {
		uint16_t bytes = plx_pmtu_poll(p, ++token, &rtt, now);

		n += bytes != 0;
		if (bytes && bytes <= path_bytes)
			plx_pmtu_pong(p, token, now + MS(1));
		now += MS(5);
	}
	return n;
}

static int setup(void **state)
{
	(void)state;
	plx_rtt_init(&rtt, MS(1), 0);
	now = MS(1);
	token = 0;
	return 0;
}

static void test_pmtu_takes_the_largest_at_once(void **state)
{
	struct plx_pmtu p;

	(void)state;
	plx_pmtu_init(&p, 9000);
	assert_int_equal(p.bytes, 1200);
	assert_int_equal(search(&p, 9000), 1);
	assert_int_equal(p.bytes, 9000);
	assert_int_equal(p.state, PLX_PMTU_COMPLETE);
	assert_int_equal(plx_pmtu_deadline(&p), UINT64_MAX);
	assert_int_equal(plx_pmtu_poll(&p, 1, &rtt, UINT64_MAX - 1), 0);
}

static void test_pmtu_halves_towards_the_path(void **state)
{
	static const uint16_t paths[] = {1200, 1280, 1472, 1500, 4000, 8999};

	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		struct plx_pmtu p;

		setup(state);
		plx_pmtu_init(&p, 9000);
		search(&p, paths[i]);
		assert_int_equal(p.state, PLX_PMTU_COMPLETE);
		assert_true(p.bytes <= paths[i] && paths[i] - p.bytes <= (int)PLX_PMTU_STEP_BYTES);
	}
}

static void test_pmtu_nothing_to_gain(void **state)
{
	struct plx_pmtu p;

	(void)state;
	plx_pmtu_init(&p, 1200);
	assert_int_equal(plx_pmtu_poll(&p, 1, &rtt, now), 0);
	assert_int_equal(p.state, PLX_PMTU_COMPLETE);
	plx_pmtu_init(&p, 100);
	assert_int_equal(p.max_bytes, 1200);
	plx_pmtu_init(&p, 65000);
	assert_int_equal(p.max_bytes, PLX_DGRAM_MAX_BYTES);
}

static void test_pmtu_probe_is_tried_three_times(void **state)
{
	struct plx_pmtu p;

	(void)state;
	plx_pmtu_init(&p, 1472);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(plx_pmtu_poll(&p, (uint64_t)i + 1, &rtt, now), 1472);
		assert_int_equal(plx_pmtu_poll(&p, 9, &rtt, now), 0);
		now = plx_pmtu_deadline(&p);
	}
	assert_int_equal(plx_pmtu_poll(&p, 4, &rtt, now), 1336);
	plx_pmtu_pong(&p, 3, now); /* an answer to a probe given up */
	assert_int_equal(p.bytes, 1200);
	plx_pmtu_pong(&p, 4, now);
	assert_int_equal(p.bytes, 1336);
}

static void test_pmtu_raises_again_later(void **state)
{
	struct plx_pmtu p;

	(void)state;
	plx_pmtu_init(&p, 1472);
	search(&p, 1400);
	uint16_t before = p.bytes;

	assert_int_equal(plx_pmtu_poll(&p, 77, &rtt, now), 0);
	now += PLX_PMTU_RAISE_NS;
	assert_int_equal(plx_pmtu_poll(&p, 78, &rtt, now), 1472);
	plx_pmtu_pong(&p, 78, now);
	assert_true(before < 1472);
	assert_int_equal(p.bytes, 1472);
}

static void test_pmtu_falls_back_in_a_black_hole(void **state)
{
	struct plx_pmtu p;

	(void)state;
	plx_pmtu_init(&p, 9000);
	search(&p, 9000);
	plx_pmtu_timeouts(&p, 9000, 2, now);
	assert_int_equal(p.bytes, 9000);
	plx_pmtu_timeouts(&p, 1200, 9, now); /* 1,200 is lost for other reasons */
	assert_int_equal(p.bytes, 9000);
	plx_pmtu_timeouts(&p, 9000, 3, now);
	assert_int_equal(p.bytes, 1200);
	assert_int_equal(p.state, PLX_PMTU_BASE);
	assert_int_equal(plx_pmtu_poll(&p, 500, &rtt, now), 1200);
	plx_pmtu_pong(&p, 500, now);
	assert_int_equal(p.state, PLX_PMTU_SEARCHING);
	search(&p, 4000);
	assert_true(p.bytes <= 4000 && p.bytes > 3960);
}

static void test_pmtu_reports_a_dead_path(void **state)
{
	struct plx_pmtu p;

	(void)state;
	plx_pmtu_init(&p, 9000);
	search(&p, 9000);
	plx_pmtu_timeouts(&p, 9000, 3, now);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(plx_pmtu_poll(&p, (uint64_t)i + 900, &rtt, now), 1200);
		now = plx_pmtu_deadline(&p);
	}
	assert_int_equal(p.state, PLX_PMTU_ERROR);
	plx_pmtu_pong(&p, 903, now);
	assert_int_equal(p.state, PLX_PMTU_SEARCHING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_pmtu_takes_the_largest_at_once, setup),
	    cmocka_unit_test_setup(test_pmtu_halves_towards_the_path, setup),
	    cmocka_unit_test_setup(test_pmtu_nothing_to_gain, setup),
	    cmocka_unit_test_setup(test_pmtu_probe_is_tried_three_times, setup),
	    cmocka_unit_test_setup(test_pmtu_raises_again_later, setup),
	    cmocka_unit_test_setup(test_pmtu_falls_back_in_a_black_hole, setup),
	    cmocka_unit_test_setup(test_pmtu_reports_a_dead_path, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
