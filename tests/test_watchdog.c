/* The watchdog is satisfied only while every lcore's heartbeat moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fw/base/log.h"
#include "fw/watchdog.h"

static void test_watchdog_wants_every_lcore_to_move(void **state)
{
	static struct plx_watchdog w;
	_Atomic uint64_t beat[2] = {0, 0};
	uint32_t cpu = 99;

	(void)state;
	plx_log_init("test", PLX_LOG_ERROR);
	assert_int_equal(plx_watchdog_add(&w, &beat[0], 4, 0), 0);
	assert_int_equal(plx_watchdog_add(&w, &beat[1], 7, 0), 0);
	assert_false(plx_watchdog_look(&w, 1000, 5000, &cpu));
	assert_int_equal(cpu, 4);
	beat[0]++;
	assert_false(plx_watchdog_look(&w, 2000, 5000, &cpu));
	assert_int_equal(cpu, 7);
	beat[0]++;
	beat[1]++;
	assert_true(plx_watchdog_look(&w, 3000, 5000, &cpu));
	beat[0]++;
	assert_false(plx_watchdog_look(&w, 9000, 5000, &cpu));
	assert_true(w.lcore[1].named);
	assert_false(w.lcore[0].named);
	beat[0]++;
	beat[1]++;
	assert_true(plx_watchdog_look(&w, 9500, 5000, &cpu));
	assert_false(w.lcore[1].named);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_watchdog_wants_every_lcore_to_move),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
