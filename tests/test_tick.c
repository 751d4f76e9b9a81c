/* The cheap clock beside the one clock: close to it, and never back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>

#include "fw/base/tick.h"

#define SLACK_NS 20000 /* a thread may be taken off its core between two looks of one pair */

/* Between two looks at the clock lies what the cheap one says, whatever happens meanwhile. */
static void watch_for(uint64_t ns, uint32_t nap_us)
{
	uint64_t end = plx_clock_ns() + ns, before = 0;

	while (plx_clock_ns() < end) {
		uint64_t a = plx_clock_ns(), tick = plx_tick_ns(), b = plx_clock_ns();

		assert_true(tick + SLACK_NS >= a);
		assert_true(tick <= b + SLACK_NS);
		assert_true(tick >= before);
		before = tick;
		if (nap_us > 0)
			usleep(nap_us);
	}
}

static void test_tick_is_the_clock(void **state)
{
	(void)state;
	watch_for(100 * PLX_NS_PER_MS, 0);
	watch_for(100 * PLX_NS_PER_MS, 300);
	watch_for(100 * PLX_NS_PER_MS, 5000);
}

static void test_tick_of_a_counter_that_went_back(void **state)
{
	(void)state;
	watch_for(5 * PLX_NS_PER_MS, 0);
	plx_tick_own.tsc += UINT64_C(1) << 40; /* as after a move to another host */
	plx_tick_own.first_tsc = plx_tick_own.tsc;
	uint64_t a = plx_clock_ns(), tick = plx_tick_ns(), b = plx_clock_ns();

	assert_true(tick >= a && tick <= b);
	watch_for(5 * PLX_NS_PER_MS, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tick_is_the_clock),
	    cmocka_unit_test(test_tick_of_a_counter_that_went_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
