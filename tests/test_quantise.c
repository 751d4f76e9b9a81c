/* Tests of tests/lib/quantise.c: what it writes is what the product's reader takes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "tests/lib/qdata.h"
#include "tests/lib/quantise.h"

#define N 1024u

static float x[N], y[N];
static uint8_t bytes[N * 4];

/* Values in -1..1, in every 16 at a size of their own. */
static void fill(void)
{
	uint64_t seed = 11;

	for (uint32_t i = 0; i < N; i++)
		x[i] = plx_t_uniform(&seed) * (float)(1 + i / 16 % 4) / 4;
}

static float worst(enum plx_qtype type)
{
	float most = 0;

	fill();
	assert_true(plx_t_can_quantise(type));
	memset(bytes, 0xa5, sizeof bytes);
	plx_t_quantise(type, bytes, x, N);
	plx_q_dequant(type, bytes, y, N);
	for (uint32_t i = 0; i < N; i++)
		most = fabsf(x[i] - y[i]) > most ? fabsf(x[i] - y[i]) : most;
	return most;
}

/* Steps: 1/8 of the largest value, 2/15 of it, and so on; the largest positive value of a format
 * whose negative side is longer by one loses a whole step. */
static void test_quantise_errors_stay_below_a_step(void **state)
{
	static const struct {
		enum plx_qtype type;
		float most;
	} expect[] = {
	    {PLX_Q_F32, 0},        {PLX_Q_F16, 0.0003f}, {PLX_Q_BF16, 0.002f},
	    {PLX_Q_Q8_0, 0.0045f}, {PLX_Q_Q4_0, 0.126f}, {PLX_Q_Q4_1, 0.068f},
	    {PLX_Q_Q5_0, 0.0635f}, {PLX_Q_Q4_K, 0.080f}, {PLX_Q_Q6_K, 0.032f},
	};

	(void)state;
	for (size_t i = 0; i < sizeof expect / sizeof expect[0]; i++) {
		float most = worst(expect[i].type);

		if (!(most <= expect[i].most))
			fail_msg("%s: %f", plx_qtype_name(expect[i].type), (double)most);
		if (expect[i].type != PLX_Q_F32) /* a reader that gave x back would prove nothing */
			assert_true(most > expect[i].most / 8);
	}
}

static void test_quantise_keeps_zeros_and_constants(void **state)
{
	static const enum plx_qtype types[] = {PLX_Q_Q4_0, PLX_Q_Q4_1, PLX_Q_Q5_0,
	                                       PLX_Q_Q8_0, PLX_Q_Q4_K, PLX_Q_Q6_K};

	(void)state;
	for (size_t t = 0; t < sizeof types / sizeof types[0]; t++)
		for (int v = -1; v <= 1; v++) {
			for (uint32_t i = 0; i < N; i++)
				x[i] = (float)v;
			plx_t_quantise(types[t], bytes, x, N);
			plx_q_dequant(types[t], bytes, y, N);
			for (uint32_t i = 0; i < N; i++)
				assert_float_equal(y[i], v, 0.002);
		}
}

static void test_quantise_one_block_of_q4_0(void **state)
{
	uint8_t b[18];

	(void)state;
	for (uint32_t i = 0; i < 32; i++)
		x[i] = (float)i / 4 - 4; /* -4 .. 3.75: d = 0.5 */
	plx_t_quantise(PLX_Q_Q4_0, b, x, 32);
	assert_int_equal(b[0] | b[1] << 8, 0x3800);
	assert_int_equal(b[2], 0x80);      /* elements 0 and 16: -4 and 0 */
	assert_int_equal(b[2 + 2], 0x91);  /* 2 and 18: -3.5 and 0.5 */
	assert_int_equal(b[2 + 14], 0xf7); /* 14 and 30: -0.5 and 3.5 */
}

static void test_quantise_refuses_what_it_lacks(void **state)
{
	(void)state;
	assert_false(plx_t_can_quantise(PLX_Q_Q5_1));
	assert_false(plx_t_can_quantise(PLX_Q_Q5_K));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_quantise_errors_stay_below_a_step),
	    cmocka_unit_test(test_quantise_keeps_zeros_and_constants),
	    cmocka_unit_test(test_quantise_one_block_of_q4_0),
	    cmocka_unit_test(test_quantise_refuses_what_it_lacks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
