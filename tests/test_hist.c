/* A histogram's quantiles beside the exact ones of the same values: within 2 %. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "fw/base/hist.h"

#define N 20000

static struct plx_hist h;
static uint64_t value[N];

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The values go in; then every permille of both is compared. */
static double worst_error(void)
{
	double worst = 0;

	h = (struct plx_hist){0};
	for (int i = 0; i < N; i++)
		plx_hist_add(&h, value[i]);
	qsort(value, N, sizeof(value[0]), by_value);
	for (int permille = 1; permille < 1000; permille++) {
		double exact = (double)value[(size_t)permille * N / 1000];
		double got = (double)plx_hist_quantile(&h, permille / 1000.0);
		double off = fabs(got - exact) / exact;

		worst = off > worst ? off : worst;
	}
	return worst;
}

static double uniform(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (double)(*seed >> 11) * 0x1p-53;
}

static void test_hist_holds_two_percent_over_its_range(void **state)
{
	uint64_t seed = 7;

	(void)state;
	for (int i = 0; i < N; i++) /* 100 ns to 100 s, each decade as often */
		value[i] = (uint64_t)(100.0 * pow(10.0, 9.0 * uniform(&seed)));
	double worst = worst_error();

	print_message("worst of 999 quantiles, 100 ns to 100 s: %.2f %%\n", 100 * worst);
	assert_true(worst <= 0.02);
	assert_int_equal(plx_hist_quantile(&h, 1.0), value[N - 1]);
}

static void test_hist_holds_two_percent_of_latencies(void **state)
{
	uint64_t seed = 11;

	(void)state;
	for (int i = 0; i < N; i++) { /* 8 ms a token, with a tail */
		double u = uniform(&seed), tail = uniform(&seed);

		value[i] = (uint64_t)(8e6 * (0.9 + 0.2 * u) + (tail > 0.97 ? 5e7 * tail * u : 0));
	}
	assert_true(worst_error() <= 0.02);
}

static void test_hist_bins_meet_without_gap(void **state)
{
	(void)state;
	for (uint32_t b = 1; b < PLX_HIST_BINS; b++) {
		uint64_t low = plx_hist_low_ns(b);

		assert_int_equal(plx_hist_bin(low), b);
		assert_int_equal(plx_hist_bin(low - 1), b - 1);
	}
	assert_int_equal(plx_hist_bin(0), 0);
	assert_int_equal(plx_hist_bin(UINT64_MAX), PLX_HIST_BINS - 1);
	assert_int_equal(plx_hist_low_ns(PLX_HIST_BINS), UINT64_C(1) << PLX_HIST_MAX_EXP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hist_holds_two_percent_over_its_range),
	    cmocka_unit_test(test_hist_holds_two_percent_of_latencies),
	    cmocka_unit_test(test_hist_bins_meet_without_gap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
