/*
 * The ops between matrix products: against double precision, and every path against scalar, with
 * operands between pages that can't be touched and with numbers that go wrong where they can.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "fw/base/err.h"
#include "kernels/kernels.h"
#include "tests/lib/guard.h"
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

/* ---- operands between pages that can't be touched ------------------------------------------- */

#define N_GUARDS 3

static struct plx_t_guard guard[N_GUARDS];

static void guards_open(void)
{
	for (uint32_t i = 0; i < N_GUARDS; i++)
		plx_t_guard_open(&guard[i], sizeof a);
}

static void guards_close(void)
{
	for (uint32_t i = 0; i < N_GUARDS; i++)
		plx_t_guard_close(&guard[i]);
}

/* Equal bits, but any NaN is as good as another. */
static void assert_same(const float *got, const float *want, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!isnan(got[i]) || !isnan(want[i]))
			assert_int_equal(plx_f32_bits(got[i]), plx_f32_bits(want[i]));
}

/* The same for a largest value, which may be a zero of either sign where both are there. */
static void assert_same_max(float got, float want)
{
	assert_true(got == want || (isnan(got) && isnan(want)));
}

static void assert_same_guarded(const float *got, uint32_t n)
{
	assert_same(got, golden, n);
	for (uint32_t i = 0; i < N_GUARDS; i++)
		assert_true(plx_t_guard_intact(&guard[i]));
}

/* Ops that take n values to n values: of a and b, the results of scalar in plain memory. */
static void check_elementwise(const struct plx_kernels *k, uint32_t n, bool at_end)
{
	static uint16_t half[N];
	const float *x = plx_t_guard_put(&guard[0], at_end, a, n * sizeof *a);
	const float *u = plx_t_guard_put(&guard[1], at_end, b, n * sizeof *b);
	float *to = plx_t_guard_put(&guard[2], at_end, NULL, n * sizeof *a);

	tables[0]->exp(golden, a, n);
	k->exp(to, x, n);
	assert_same_guarded(to, n);
	tables[0]->silu_mul(golden, a, b, n);
	k->silu_mul(to, x, u, n);
	assert_same_guarded(to, n);
	memcpy(golden, a, n * sizeof *a);
	tables[0]->add(golden, b, n);
	memcpy(to, a, n * sizeof *a);
	k->add(to, u, n);
	assert_same_guarded(to, n);
	tables[0]->to_bf16(half, a, n);
	uint16_t *bf16 = plx_t_guard_put(&guard[2], at_end, NULL, n * sizeof *bf16);

	k->to_bf16(bf16, x, n);
	assert_memory_equal(bf16, half, n * sizeof *half);
	assert_true(plx_t_guard_intact(&guard[2]));
}

/* Ops that take n values to few. */
static void check_reductions(const struct plx_kernels *k, uint32_t n, bool at_end)
{
	const float *x = plx_t_guard_put(&guard[0], at_end, a, n * sizeof *a);
	uint32_t n_max = (n + PLX_K_MAX_BLOCK - 1) / PLX_K_MAX_BLOCK;
	float *to = plx_t_guard_put(&guard[2], at_end, NULL, n_max * sizeof *to);
	float max[2] = {0.0f, 0.0f};
	float top[2] = {tables[0]->block_max(golden, a, n), k->block_max(to, x, n)};

	for (uint32_t i = 0; i < n_max; i++)
		assert_same_max(to[i], golden[i]);
	assert_same_max(top[1], top[0]);
	assert_true(plx_t_guard_intact(&guard[2]));
	assert_int_equal(k->argmax(x, n), tables[0]->argmax(a, n));
	assert_int_equal(k->logit_sum(x, n, &max[1]), tables[0]->logit_sum(a, n, &max[0]));
	assert_same_max(max[1], max[0]);
	if (isfinite(top[0]))
		assert_int_equal(k->weight_sum(x, n, top[0], 0.7f),
		                 tables[0]->weight_sum(a, n, top[0], 0.7f));
}

/* Ops over rows that lie apart: three of n of a with 20 values between them. */
static void check_rows(const struct plx_kernels *k, uint32_t n, bool at_end)
{
	static struct plx_k_qblk want[N / 32];
	uint32_t stride = n + 20, n_all = 2 * stride + n, n_q = 3 * n / 32;
	const float *x = plx_t_guard_put(&guard[0], at_end, a, n_all * sizeof *a);
	const float *w = plx_t_guard_put(&guard[1], at_end, b, n * sizeof *b);
	float *to = plx_t_guard_put(&guard[2], at_end, NULL, n_all * sizeof *a);

	memset(golden, 0xff, sizeof golden);
	tables[0]->rmsnorm(golden, a, b, 3, n, stride, 1e-5f);
	k->rmsnorm(to, x, w, 3, n, stride, 1e-5f);
	assert_same_guarded(to, n_all);
	if (n % 32 != 0)
		return;
	struct plx_k_qblk *q = plx_t_guard_put(&guard[2], at_end, NULL, n_q * sizeof *q);

	tables[0]->quantise(want, a, 3, n, stride);
	k->quantise(q, x, 3, n, stride);
	for (uint32_t i = 0; i < n_q; i++) {
		assert_same(&q[i].d, &want[i].d, 1);
		assert_same(&q[i].s, &want[i].s, 1);
		assert_memory_equal(q[i].q, want[i].q, sizeof want[i].q);
		assert_int_equal(q[i].sum, want[i].sum);
		assert_int_equal(q[i].sum_lo, want[i].sum_lo);
	}
	assert_true(plx_t_guard_intact(&guard[2]));
}

static void check_rope(const struct plx_kernels *k, enum plx_k_rope kind, bool at_end)
{
	const float *tab = plx_t_guard_put(&guard[1], at_end, b, 64 * sizeof *b);
	float *x = plx_t_guard_put(&guard[0], at_end, a, 3 * 80 * sizeof *a);

	memcpy(golden, a, sizeof a);
	tables[0]->rope(golden, b, 3, 80, 64, kind);
	k->rope(x, tab, 3, 80, 64, kind);
	assert_same_guarded(x, 3 * 80);
}

static void check_all(const struct plx_kernels *k, bool at_end)
{
	for (uint32_t n = 16; n <= 272; n += 16) {
		check_elementwise(k, n, at_end);
		check_rows(k, n, at_end);
	}
	for (uint32_t n = 1; n <= 260; n++)
		check_reductions(k, n, at_end);
	check_rope(k, PLX_K_ROPE_ADJACENT, at_end);
	check_rope(k, PLX_K_ROPE_HALVES, at_end);
}

static void test_ops_touch_nothing_beside_their_operands(void **state)
{
	(void)state;
	guards_open();
	randomise(a, 20.0f, 33);
	randomise(b, 2.0f, 34);
	for (uint32_t k = 0; k < 2 * n_tables; k++)
		check_all(tables[k / 2], k & 1);
	guards_close();
}

/* Every pair of special numbers, in every lane. */
static void test_specials_give_equal_bits(void **state)
{
	static const float special[] = {0.0f,      -0.0f,     0x1p-149f, -0x1p-127f, 0x1p-126f,
	                                -1.0f,     1.0f,      88.3f,     -87.4f,     0x1p-100f,
	                                0x1p127f,  -0x1p127f, FLT_MAX,   -FLT_MAX,   INFINITY,
	                                -INFINITY, NAN};
	const uint32_t n = sizeof special / sizeof *special;

	(void)state;
	guards_open();
	for (uint32_t round = 0; round < 4; round++) {
		uint32_t used = n - round; /* without NaN, then without the infinities */

		for (uint32_t i = 0; i < N; i++) {
			a[i] = special[i % used];
			b[i] = special[i / used % used];
		}
		for (uint32_t k = 0; k < n_tables; k++)
			check_all(tables[k], k & 1);
	}
	guards_close();
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
	    cmocka_unit_test(test_ops_touch_nothing_beside_their_operands),
	    cmocka_unit_test(test_specials_give_equal_bits),
	    cmocka_unit_test(test_isa_names_and_kinds),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
