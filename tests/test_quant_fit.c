/*
 * Tests of kernels/quant_fit.c: what it writes is what the reader takes back, the search pays, and
 * the bytes are the same whatever is beside them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "tests/lib/qdata.h"

#define N 4096u

static float x[N], y[N];
static uint8_t bytes[N * 4];

/* Values in -1..1, in every 16 at a size of their own. */
static void fill(void)
{
	uint64_t seed = 11;

	for (uint32_t i = 0; i < N; i++)
		x[i] = plx_t_uniform(&seed) * (float)(1 + i / 16 % 4) / 4;
}

/* Nearly normal values, as weights are. */
static void fill_normal(uint64_t seed)
{
	for (uint32_t i = 0; i < N; i++) {
		x[i] = 0;
		for (uint32_t k = 0; k < 6; k++)
			x[i] += 0.02f * plx_t_uniform(&seed);
	}
}

static void round_trip(enum plx_qtype type, enum plx_q_effort effort)
{
	memset(bytes, 0xa5, sizeof bytes);
	plx_q_quantise(type, effort, x, bytes, N);
	plx_q_dequant(type, bytes, y, N);
}

/* Largest error and sum of squared errors of x against y, elements from..to. */
static float worst(void)
{
	float most = 0;

	for (uint32_t i = 0; i < N; i++)
		most = fabsf(x[i] - y[i]) > most ? fabsf(x[i] - y[i]) : most;
	return most;
}

static double squared(uint32_t from, uint32_t to)
{
	double e = 0;

	for (uint32_t i = from; i < to; i++) {
		double v = (double)x[i] - (double)y[i];

		e += v * v;
	}
	return e;
}

/* Steps: 1/8 of the largest value, 2/15 of it, and so on; the largest positive value of a format
 * whose negative side is longer by one loses a whole step. */
static void test_plain_errors_stay_below_a_step(void **state)
{
	static const struct {
		enum plx_qtype type;
		float most;
	} expect[PLX_QTYPE_COUNT] = {
	    {PLX_Q_F32, 0},        {PLX_Q_F16, 0.0003f},  {PLX_Q_BF16, 0.002f},
	    {PLX_Q_Q8_0, 0.0045f}, {PLX_Q_Q4_0, 0.126f},  {PLX_Q_Q4_1, 0.068f},
	    {PLX_Q_Q5_0, 0.0635f}, {PLX_Q_Q5_1, 0.0335f}, {PLX_Q_Q4_K, 0.080f},
	    {PLX_Q_Q5_K, 0.050f},  {PLX_Q_Q6_K, 0.032f},
	};

	(void)state;
	fill();
	for (size_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		round_trip(expect[i].type, PLX_Q_PLAIN);
		float most = worst();

		if (!(most <= expect[i].most))
			fail_msg("%s: %f", plx_qtype_name(expect[i].type), (double)most);
		if (expect[i].type != PLX_Q_F32) /* a reader that gave x back would prove nothing */
			assert_true(most > expect[i].most / 8);
	}
}

static void test_fit_is_never_worse_than_plain(void **state)
{
	(void)state;
	for (uint32_t t = 0; t < PLX_QTYPE_COUNT; t++) {
		enum plx_qtype type = plx_qtype_at(t);
		uint32_t n = plx_qtype_block_elems(type);
		double plain[N];

		if (n == 1)
			continue;
		for (uint64_t seed = 1; seed <= 4; seed++) {
			fill_normal(seed);
			x[5] *= seed == 2 ? 1e4f : 1; /* an outlier */
			round_trip(type, PLX_Q_PLAIN);
			for (uint32_t i = 0; i < N; i += n)
				plain[i] = squared(i, i + n);
			round_trip(type, PLX_Q_FIT);
			for (uint32_t i = 0; i < N; i += n)
				assert_true(squared(i, i + n) <= plain[i]);
		}
	}
}

/* Squared error of FIT over that of PLAIN on normal weights; the list is what is promised. */
static void test_fit_pays(void **state)
{
	static const struct {
		enum plx_qtype type;
		double most;
	} expect[] = {
	    {PLX_Q_Q4_0, 0.92}, {PLX_Q_Q4_1, 0.84}, {PLX_Q_Q5_0, 0.91}, {PLX_Q_Q5_1, 0.84},
	    {PLX_Q_Q8_0, 0.92}, {PLX_Q_Q4_K, 0.84}, {PLX_Q_Q5_K, 0.86}, {PLX_Q_Q6_K, 0.86},
	};

	(void)state;
	fill_normal(7);
	for (size_t i = 0; i < sizeof expect / sizeof expect[0]; i++) {
		round_trip(expect[i].type, PLX_Q_PLAIN);
		double plain = squared(0, N);

		round_trip(expect[i].type, PLX_Q_FIT);
		print_message("%s: squared error %.3f of plain\n", plx_qtype_name(expect[i].type),
		              squared(0, N) / plain);
		assert_true(squared(0, N) <= expect[i].most * plain);
	}
}

static void test_zeros_and_constants_are_kept(void **state)
{
	(void)state;
	for (uint32_t t = 0; t < PLX_QTYPE_COUNT; t++)
		for (int v = -1; v <= 1; v++)
			for (int effort = PLX_Q_PLAIN; effort <= PLX_Q_FIT; effort++) {
				for (uint32_t i = 0; i < N; i++)
					x[i] = (float)v;
				round_trip(plx_qtype_at(t), (enum plx_q_effort)effort);
				for (uint32_t i = 0; i < N; i++)
					assert_float_equal(y[i], v, 0.002);
			}
}

/* Nothing a file can hold makes an infinity or NaN, but for F16's own overflow. */
static void test_extremes_stay_finite(void **state)
{
	static const float sizes[] = {FLT_MAX, 1e20f, 1e9f, 1e-9f, 1e-20f, FLT_TRUE_MIN};

	(void)state;
	for (uint32_t t = 0; t < PLX_QTYPE_COUNT; t++)
		for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++)
			for (int effort = PLX_Q_PLAIN; effort <= PLX_Q_FIT; effort++) {
				enum plx_qtype type = plx_qtype_at(t);

				if (plx_qtype_block_elems(type) == 1)
					continue;
				fill();
				for (uint32_t i = 0; i < N; i += 3)
					x[i] = (i & 1 ? -1.0f : 1.0f) * sizes[k];
				round_trip(type, (enum plx_q_effort)effort);
				for (uint32_t i = 0; i < N; i++)
					assert_true(isfinite(y[i]));
			}
}

/* A block's bytes come from its own elements: cut anywhere, the row is the same. */
static void test_blocks_do_not_know_their_neighbours(void **state)
{
	static uint8_t again[N * 4];

	(void)state;
	fill_normal(9);
	for (uint32_t t = 0; t < PLX_QTYPE_COUNT; t++) {
		enum plx_qtype type = plx_qtype_at(t);
		uint64_t row = 0;

		assert_int_equal(plx_q_row_bytes(type, 256, &row), 0);
		round_trip(type, PLX_Q_FIT);
		for (uint32_t i = N / 256; i-- > 0;)
			plx_q_quantise(type, PLX_Q_FIT, x + (size_t)256 * i, again + row * i, 256);
		assert_memory_equal(bytes, again, row * (N / 256));
	}
}

/* What a format can hold exactly comes back exactly. */
static void test_fit_keeps_what_is_exact(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (uint32_t i = 0; i < N; i++)
		x[i] = 0.25f * (float)((int)(plx_t_rand(&seed) % 16) - 8);
	for (uint32_t i = 0; i < N; i += 16)
		x[i] = -2.0f; /* both ends are used */
	for (uint32_t i = 1; i < N; i += 16)
		x[i] = 1.75f;
	round_trip(PLX_Q_Q4_0, PLX_Q_FIT);
	assert_memory_equal(x, y, sizeof x);
	round_trip(PLX_Q_Q4_1, PLX_Q_FIT);
	assert_memory_equal(x, y, sizeof x);
}

static void test_one_block_of_q4_0(void **state)
{
	uint8_t b[18];

	(void)state;
	for (uint32_t i = 0; i < 32; i++)
		x[i] = (float)i / 4 - 4; /* -4 .. 3.75: d = 0.5 */
	plx_q_quantise(PLX_Q_Q4_0, PLX_Q_PLAIN, x, b, 32);
	assert_int_equal(b[0] | b[1] << 8, 0x3800);
	assert_int_equal(b[2], 0x80);      /* elements 0 and 16: -4 and 0 */
	assert_int_equal(b[2 + 2], 0x91);  /* 2 and 18: -3.5 and 0.5 */
	assert_int_equal(b[2 + 14], 0xf7); /* 14 and 30: -0.5 and 3.5 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_plain_errors_stay_below_a_step),
	    cmocka_unit_test(test_fit_is_never_worse_than_plain),
	    cmocka_unit_test(test_fit_pays),
	    cmocka_unit_test(test_zeros_and_constants_are_kept),
	    cmocka_unit_test(test_extremes_stay_finite),
	    cmocka_unit_test(test_blocks_do_not_know_their_neighbours),
	    cmocka_unit_test(test_fit_keeps_what_is_exact),
	    cmocka_unit_test(test_one_block_of_q4_0),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
