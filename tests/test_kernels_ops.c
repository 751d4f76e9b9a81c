/*
 * The ops between matrix products: against double precision, and every path against scalar.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "fw/base/err.h"
#include "kernels/kernels.h"
#include "tests/lib/isas.h"
#include "tests/lib/qdata.h"

#define N 2048

static float a[N];
static float b[N];
static float y[N];
static float golden[N];

static const struct plx_kernels *tables[PLX_T_ISAS];
static uint32_t n_tables;

static void randomise(float *x, float scale, uint64_t seed)
{
	for (uint32_t i = 0; i < N; i++)
		x[i] = plx_t_uniform(&seed) * scale;
}

static double relative(float got, double want)
{
	return fabs((double)got - want) / fabs(want);
}

static void test_exp_is_within_its_bound(void **state)
{
	double worst = 0.0;

	(void)state;
	for (double at = -87.3; at < 88.3; at += 0.0017) {
		float x = (float)at;
		double e = relative(plx_k_expf(x), exp((double)x));

		worst = e > worst ? e : worst;
	}
	print_message("exp: relative error %.2e\n", worst);
	assert_true(worst < 2e-7);
	assert_true(plx_k_expf(0.0f) == 1.0f);
	assert_true(plx_k_expf(-87.4f) == 0.0f);
	assert_true(plx_k_expf(-INFINITY) == 0.0f);
	assert_true(plx_k_expf(INFINITY) == plx_k_expf(88.3f));
	assert_true(plx_k_expf(NAN) != plx_k_expf(NAN));
}

static void test_exp_paths_give_equal_bits(void **state)
{
	(void)state;
	randomise(a, 100.0f, 21);
	a[0] = -INFINITY;
	a[1] = INFINITY;
	a[2] = -0.0f;
	a[3] = -87.3f;
	a[4] = 88.3f;
	for (uint32_t i = 0; i < N; i++)
		golden[i] = plx_k_expf(a[i]);
	for (uint32_t k = 0; k < n_tables; k++) {
		tables[k]->exp(y, a, N);
		assert_memory_equal(y, golden, sizeof y);
	}
}

static void test_quantise_rounds_to_even_and_sums(void **state)
{
	struct plx_k_qblk q[2];

	(void)state;
	memset(a, 0, sizeof a);
	a[0] = -127.0f;
	a[1] = 0.5f;
	a[2] = 1.5f;
	a[3] = -2.5f;
	a[16] = 3.2f;
	a[33] = 1e-31f; /* a block of nearly zeros */
	for (uint32_t k = 0; k < n_tables; k++) {
		tables[k]->quantise(q, a, 1, 64, 64);
		assert_int_equal(q[0].q[0], -127);
		assert_int_equal(q[0].q[1], 0);
		assert_int_equal(q[0].q[2], 2);
		assert_int_equal(q[0].q[3], -2);
		assert_int_equal(q[0].q[16], 3);
		assert_int_equal(q[0].sum_lo, -127);
		assert_int_equal(q[0].sum, -124);
		assert_true(q[0].d == 1.0f);
		assert_true(q[0].s == -124.0f);
		assert_true(q[1].d == 0.0f && q[1].q[1] == 0 && q[1].sum == 0);
	}
}

static void test_quantise_is_within_half_a_step(void **state)
{
	static struct plx_k_qblk q[N / 32];
	static struct plx_k_qblk first[N / 32];

	(void)state;
	randomise(a, 3.0f, 22);
	for (uint32_t i = 0; i < 32; i++)
		a[64 + i] *= 0x1p-98f;
	for (uint32_t i = 0; i < 32; i++)
		a[96 + i] *= 1e38f;
	for (uint32_t k = 0; k < n_tables; k++) {
		tables[k]->quantise(k ? q : first, a, 2, N / 2, N / 2);
		if (k)
			assert_memory_equal(q, first, sizeof q);
	}
	for (uint32_t i = 0; i < N; i++) {
		double d = (double)first[i / 32].d;

		assert_true(fabs((double)a[i] - d * first[i / 32].q[i % 32]) <= 0.501 * d);
	}
}

static void test_quantise_marks_what_is_not_finite(void **state)
{
	struct plx_k_qblk q[1];

	(void)state;
	for (uint32_t k = 0; k < n_tables; k++) {
		randomise(a, 1.0f, 23);
		a[7] = k & 1 ? -INFINITY : NAN;
		tables[k]->quantise(q, a, 1, 32, 32);
		assert_true(q[0].d != q[0].d && q[0].s != q[0].s);
		assert_int_equal(q[0].q[3], 0);
	}
}

static void test_rmsnorm_is_near_double(void **state)
{
	double sum = 0.0;

	(void)state;
	randomise(a, 5.0f, 24);
	randomise(b, 2.0f, 25);
	for (uint32_t i = 0; i < 576; i++)
		sum += (double)a[i] * (double)a[i];
	for (uint32_t k = 0; k < n_tables; k++) {
		float *out = k ? y : golden;

		tables[k]->rmsnorm(out, a, b, 3, 576, 600, 1e-5f);
		for (uint32_t i = 0; i < 576; i++) {
			double want = (double)a[i] * (double)b[i] / sqrt(sum / 576 + 1e-5);

			assert_true(relative(out[i], want) < 5e-7);
		}
		if (k)
			for (uint32_t t = 0; t < 3; t++)
				assert_memory_equal(y + t * 600, golden + t * 600, 576 * 4);
	}
}

static void test_rope_turns_pairs(void **state)
{
	static float tab[64];
	float factors[32];

	(void)state;
	for (uint32_t i = 0; i < 32; i++)
		factors[i] = 2.0f;
	plx_k_rope_row(tab, 1000, 64, 10000.0, 1.0, factors);
	for (uint32_t i = 0; i < 32; i++) {
		double angle = 1000 * pow(10000.0, -(double)i / 32) / 2;

		assert_true(fabs((double)tab[2 * i] - cos(angle)) < 6e-8);
		assert_true(fabs((double)tab[2 * i + 1] - sin(angle)) < 6e-8);
	}
	for (uint32_t kind = 0; kind < 2; kind++) {
		for (uint32_t k = 0; k < n_tables; k++) {
			float *out = k ? y : golden;

			randomise(a, 1.0f, 26);
			memcpy(out, a, sizeof a);
			tables[k]->rope(out, tab, 3, 80, 64, (enum plx_k_rope)kind);
			for (uint32_t i = 0; i < 3 * 80; i++) {
				uint32_t h = i / 80 * 80;
				uint32_t d = i % 80;
				uint32_t pair = kind ? d % 32 : d / 2;
				bool second = kind ? d >= 32 : d & 1;
				double p = (double)a[kind ? h + pair : h + 2 * pair];
				double q = (double)a[kind ? h + pair + 32 : h + 2 * pair + 1];
				double c = (double)tab[(2 * pair) % 64];
				double s = (double)tab[(2 * pair + 1) % 64];
				double want = second ? q * c + p * s : p * c - q * s;

				if (d >= 64)
					assert_true(out[i] == a[i]);
				else
					assert_true(fabs((double)out[i] - want) < 2e-7);
			}
			if (k)
				assert_memory_equal(y, golden, sizeof y);
		}
	}
}

static void test_silu_mul_is_near_double(void **state)
{
	(void)state;
	randomise(a, 30.0f, 27);
	randomise(b, 3.0f, 28);
	a[0] = -200.0f;
	a[1] = 200.0f;
	for (uint32_t k = 0; k < n_tables; k++) {
		tables[k]->silu_mul(k ? y : golden, a, b, N);
		if (k)
			assert_memory_equal(y, golden, sizeof y);
	}
	for (uint32_t i = 1; i < N; i++) {
		double want = (double)a[i] / (1 + exp(-(double)a[i])) * (double)b[i];

		assert_true(relative(golden[i], want) < 1e-6);
	}
	assert_true(fabsf(golden[0]) < 1e-30f);
}

static void test_add_adds(void **state)
{
	(void)state;
	randomise(a, 30.0f, 29);
	randomise(b, 3.0f, 30);
	for (uint32_t k = 0; k < n_tables; k++) {
		memcpy(y, a, sizeof y);
		tables[k]->add(y, b, N);
		for (uint32_t i = 0; i < N; i++)
			assert_true(y[i] == a[i] + b[i]);
	}
}

static void test_argmax_takes_the_lowest_of_equals(void **state)
{
	(void)state;
	for (uint32_t k = 0; k < n_tables; k++) {
		randomise(a, 1.0f, 31);
		a[0] = NAN;
		a[555] = a[777] = a[40] = 2.0f;
		assert_int_equal(tables[k]->argmax(a, 1003), 40);
		assert_int_equal(tables[k]->argmax(a + 41, 1001), 514);
		assert_int_equal(tables[k]->argmax(a, 1), 0);
		for (uint32_t i = 0; i < 40; i++)
			a[i] = -INFINITY;
		a[0] = NAN;
		assert_int_equal(tables[k]->argmax(a, 33), 1);
	}
}

static void test_block_max_and_logit_sum(void **state)
{
	float maxima[16];
	float first[16];
	float late[16];

	(void)state;
	for (uint32_t k = 0; k < n_tables; k++) {
		float *out = k ? maxima : first;
		float max = 0.0f;
		uint64_t want = 0;

		randomise(a, 20.0f, 32);
		a[900] = 21.0f;
		assert_true(tables[k]->block_max(out, a, 1001) == 21.0f);
		assert_true(out[14] == 21.0f);
		if (k)
			assert_memory_equal(maxima, first, sizeof maxima);
		for (uint32_t i = 0; i < 1001; i++)
			want += (uint64_t)(plx_k_expf(a[i] - 21.0f) * 0x1p40f);
		assert_int_equal(tables[k]->logit_sum(a, 1001, &max), want);
		assert_true(max == 21.0f);
		want = 0;
		for (uint32_t i = 0; i < 1001; i++)
			want += (uint64_t)(plx_k_expf((a[i] - 21.0f) * 0.7f) * 0x1p40f);
		assert_int_equal(tables[k]->weight_sum(a, 1001, 21.0f, 0.7f), want);
		a[1000] = NAN;
		assert_int_equal(tables[k]->logit_sum(a, 1001, &max), 0);
		float top = tables[k]->block_max(late, a, 1001);

		assert_true(top != top && late[15] != late[15] && late[14] == 21.0f);
		a[1000] = INFINITY;
		assert_int_equal(tables[k]->logit_sum(a, 1001, &max), 0);
		for (uint32_t i = 0; i < 20; i++)
			a[i] = -INFINITY;
		assert_int_equal(tables[k]->logit_sum(a, 20, &max), 0);
	}
}

static void test_isa_names_and_kinds(void **state)
{
	(void)state;
	assert_int_equal(plx_kernels_isa("avx2"), PLX_K_ISA_AVX2);
	assert_int_equal(plx_kernels_isa("best"), PLX_K_ISA_BEST);
	assert_int_equal(plx_kernels_isa("mmx"), PLX_E_INVAL);
	assert_ptr_equal(plx_kernels_select(PLX_K_ISA_BEST), tables[n_tables - 1]);
	for (uint32_t k = 0; k < n_tables; k++)
		assert_string_equal(tables[k]->numeric_kind, tables[0]->numeric_kind);
}

static int setup(void **state)
{
	(void)state;
	n_tables = plx_t_tables(tables);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_exp_is_within_its_bound),
	    cmocka_unit_test(test_exp_paths_give_equal_bits),
	    cmocka_unit_test(test_quantise_rounds_to_even_and_sums),
	    cmocka_unit_test(test_quantise_is_within_half_a_step),
	    cmocka_unit_test(test_quantise_marks_what_is_not_finite),
	    cmocka_unit_test(test_rmsnorm_is_near_double),
	    cmocka_unit_test(test_rope_turns_pairs),
	    cmocka_unit_test(test_silu_mul_is_near_double),
	    cmocka_unit_test(test_add_adds),
	    cmocka_unit_test(test_argmax_takes_the_lowest_of_equals),
	    cmocka_unit_test(test_block_max_and_logit_sum),
	    cmocka_unit_test(test_isa_names_and_kinds),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
