/* The ground floor: error list, diagnostics, arena, histogram. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/arena.h"
#include "fw/base/diag.h"
#include "fw/base/err.h"
#include "fw/base/hist.h"

static void test_err_maps_to_wire_and_back(void **state)
{
	(void)state;
	assert_int_equal(plx_err_wire(PLX_E_QUEUE_FULL), 1);
	assert_int_equal(plx_err_wire(PLX_E_DEVICE_LOST), 9);
	assert_int_equal(plx_err_wire(PLX_E_AGAIN), 0);
	assert_int_equal(plx_err_from_wire(5), PLX_E_UNAUTHORISED);
	assert_int_equal(plx_err_from_wire(0), PLX_E_FORMAT);
	assert_int_equal(plx_err_from_wire(10), PLX_E_FORMAT);
	assert_string_equal(plx_err_name(PLX_E_KV_PRESSURE), "KV_PRESSURE");
	assert_string_equal(plx_err_name(12345), "UNKNOWN");
}

static void test_diag_keeps_first_message(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(plx_diag_set(&d, PLX_E_INVAL, "line %d", 3), PLX_E_INVAL);
	assert_int_equal(plx_diag_set(&d, PLX_E_IO, "later"), PLX_E_IO);
	assert_string_equal(d.text, "line 3");
	assert_int_equal(plx_diag_set(NULL, PLX_E_IO, "nobody"), PLX_E_IO);
}

static void test_arena_takes_aligned_zeroed_memory(void **state)
{
	struct plx_arena a;
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(plx_arena_open(&a, 100, &d), 0);
	uint8_t *p = plx_arena_take(&a, 3, 1);
	uint8_t *q = plx_arena_take(&a, 64, 64);

	assert_non_null(p);
	assert_int_equal((uintptr_t)q % 64, 0);
	assert_int_equal(q - p, 64);
	assert_int_equal(q[63], 0);
	assert_null(plx_arena_take(&a, (size_t)2 << 20, 1));
	plx_arena_close(&a);
}

static void test_hist_quantiles_are_close(void **state)
{
	static struct plx_hist h;

	(void)state;
	for (uint64_t i = 1; i <= 1000; i++)
		plx_hist_add(&h, i * 1000);
	uint64_t p50 = plx_hist_quantile(&h, 0.5);
	uint64_t p99 = plx_hist_quantile(&h, 0.99);

	assert_in_range(p50, 501000 * 98 / 100, 501000 * 102 / 100);
	assert_in_range(p99, 991000 * 98 / 100, 991000 * 102 / 100);
	assert_int_equal(plx_hist_quantile(&h, 1.0), 1000000);
	assert_int_equal(h.count, 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_err_maps_to_wire_and_back),
	    cmocka_unit_test(test_diag_keeps_first_message),
	    cmocka_unit_test(test_arena_takes_aligned_zeroed_memory),
	    cmocka_unit_test(test_hist_quantiles_are_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
