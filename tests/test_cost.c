/* The model of step time against devices whose time is known: it finds them, and follows them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>

#include <cmocka.h>

#include "dataplane/batch/cost.h"

static uint64_t rng;

static double uniform(void)
{
	rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return ((double)(rng >> 33) + 0.5) / 2147483648.0;
}

static double gauss(void)
{
	return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* A GPU: weights and KV to read, or arithmetic, whichever takes longer; ns. */
static double gpu(const struct plx_cost_work *w)
{
	double mem = 6.0e6 + 45.0 * (double)w->context;
	double ops = 0.5e6 + 28e3 * (w->decodes + w->prefill) + 3.0 * (double)w->prefill_pos;

	return mem > ops ? mem : ops;
}

/* A CPU: everything adds up; ns. */
static double cpu(const struct plx_cost_work *w)
{
	return 3e6 + 2.5e6 * w->decodes + 1.8e6 * w->prefill + 700.0 * (double)w->context +
	       500.0 * (double)w->prefill_pos;
}

/* A step like a scheduler's: some decodes, and in two of three steps prompt tokens. */
static struct plx_cost_work some_work(uint32_t most_decodes, uint32_t most_prefill)
{
	struct plx_cost_work w = {.decodes = (uint32_t)(uniform() * most_decodes)};

	w.context = (uint64_t)(w.decodes * (200 + 1500 * uniform()));
	if (w.decodes == 0 || uniform() < 0.67)
		plx_cost_add_prefill(&w, (uint32_t)(4000 * uniform()),
		                     1 + (uint32_t)(uniform() * most_prefill));
	return w;
}

static void teach(struct plx_cost *c, double (*device)(const struct plx_cost_work *), uint32_t n,
                  double noise, double scale, uint32_t decodes, uint32_t prefill)
{
	for (uint32_t i = 0; i < n; i++) {
		struct plx_cost_work w = some_work(decodes, prefill);

		plx_cost_update(c, &w, (uint64_t)(scale * device(&w) * (1 + noise * gauss())));
	}
}

static double worst_error(const struct plx_cost *c, double (*device)(const struct plx_cost_work *),
                          double scale, uint32_t decodes, uint32_t prefill)
{
	double worst = 0;

	for (uint32_t i = 0; i < 200; i++) {
		struct plx_cost_work w = some_work(decodes, prefill);
		double e = fabs(plx_cost_ns(c, &w) / (scale * device(&w)) - 1);

		worst = e > worst ? e : worst;
	}
	return worst;
}

static void test_cost_finds_a_linear_device(void **state)
{
	struct plx_cost c;

	(void)state;
	rng = 1;
	plx_cost_init(&c);
	teach(&c, cpu, 600, 0.05, 1, 16, 100);
	/* The weights themselves, of the piece that has all features: ms a scaled feature. */
	assert_true(fabs(c.heavy.w[2] * c.drift / (1.8 * 512) - 1) < 0.04);
	assert_true(fabs(c.heavy.w[1] * c.drift / (2.5 * 64) - 1) < 0.15);
	assert_true(worst_error(&c, cpu, 1, 16, 100) < 0.10);
}

static void test_cost_finds_a_device_with_a_knee(void **state)
{
	struct plx_cost c;

	(void)state;
	rng = 2;
	plx_cost_init(&c);
	teach(&c, gpu, 1000, 0.05, 1, 120, 900);
	assert_true(fabs(c.heavy.w[2] * c.drift / (28e-3 * 512) - 1) < 0.06);
	/* Below the knee, above it, and around it. */
	struct plx_cost_work w = {.decodes = 60, .context = 60000};

	assert_true(fabs(plx_cost_ns(&c, &w) / 8.7e6 - 1) < 0.04);
	plx_cost_add_prefill(&w, 0, 800);
	assert_true(fabs(plx_cost_ns(&c, &w) / gpu(&w) - 1) < 0.04);
	assert_true(worst_error(&c, gpu, 1, 120, 900) < 0.15);
}

static void test_cost_follows_a_slow_down(void **state)
{
	struct plx_cost c;
	struct plx_cost_work w = {.decodes = 60, .context = 60000};

	(void)state;
	rng = 3;
	plx_cost_init(&c);
	teach(&c, gpu, 500, 0.05, 1, 120, 900);
	plx_cost_add_prefill(&w, 0, 500);
	double before = plx_cost_ns(&c, &w);

	/* 20 % slower from one step to the next: 90 % of that after 20 steps, all after 60. */
	teach(&c, gpu, 20, 0.05, 1.2, 120, 900);
	assert_true(plx_cost_ns(&c, &w) / before > 1.18 - 0.05);
	teach(&c, gpu, 40, 0.05, 1.2, 120, 900);
	assert_true(fabs(plx_cost_ns(&c, &w) / before - 1.2) < 0.04);
	teach(&c, gpu, 600, 0.05, 1.2, 120, 900);
	assert_true(fabs(plx_cost_ns(&c, &w) / before - 1.2) < 0.04);
	/* And back: the margin it took meanwhile goes too. */
	teach(&c, gpu, 1000, 0.05, 1, 120, 900);
	assert_true(fabs(plx_cost_ns(&c, &w) / before - 1) < 0.04);
	assert_true(plx_cost_margin(&c) < 1.2);
}

static void test_cost_margin_covers_its_quantile(void **state)
{
	struct plx_cost c;
	uint32_t over = 0, n = 20000;

	(void)state;
	rng = 4;
	plx_cost_init(&c);
	teach(&c, gpu, 2000, 0.05, 1, 120, 900);
	for (uint32_t i = 0; i < n; i++) {
		struct plx_cost_work w = some_work(120, 900);
		double ns = gpu(&w) * (1 + 0.05 * gauss());

		over += ns > plx_cost_ns(&c, &w) * plx_cost_margin(&c);
		plx_cost_update(&c, &w, (uint64_t)ns);
	}
	/* 1 % is said; normal noise of 5 % has its 99 % quantile at 11.6 %. */
	assert_in_range(over, n / 200, n / 60);
	assert_true(c.err > 0.03 && c.err < 0.06);
	assert_true(plx_cost_margin(&c) > 1.08 && plx_cost_margin(&c) < 1.2);
}

static void test_cost_survives_steps_all_alike(void **state)
{
	struct plx_cost c;
	struct plx_cost_work w = {.decodes = 8, .context = 8000}, x = w;

	(void)state;
	plx_cost_init(&c);
	for (uint32_t i = 0; i < 100000; i++)
		plx_cost_update(&c, &w, 12000000);
	assert_true(fabs(plx_cost_ns(&c, &w) / 12e6 - 1) < 0.001);
	assert_false(plx_cost_ready(&c, true));
	/* Then something else, once: no weight may have drifted to where this breaks it. */
	plx_cost_add_prefill(&x, 0, 256);
	plx_cost_update(&c, &x, 20000000);
	assert_true(fabs(plx_cost_ns(&c, &x) / 20e6 - 1) < 0.01);
	assert_true(plx_cost_ns(&c, &w) > 11.9e6 && plx_cost_ns(&c, &w) < 15e6);
	for (int i = 0; i < PLX_COST_FEATURES; i++)
		assert_true(c.light.w[i] >= 0 && c.heavy.w[i] >= 0);
}

static void test_cost_an_outlier_moves_little(void **state)
{
	struct plx_cost c;
	struct plx_cost_work w = {.decodes = 60, .context = 60000};

	(void)state;
	rng = 5;
	plx_cost_init(&c);
	teach(&c, gpu, 500, 0.05, 1, 120, 900);
	double before = plx_cost_ns(&c, &w);

	plx_cost_update(&c, &w, UINT64_C(10000000000));
	assert_true(plx_cost_ns(&c, &w) / before < 1.09);
	plx_cost_update(&c, &w, 0);
	plx_cost_update(&c, &w, 1);
	assert_true(plx_cost_ns(&c, &w) / before > 0.97);
}

static void test_cost_chunk_is_the_largest_that_fits(void **state)
{
	struct plx_cost c;

	(void)state;
	rng = 6;
	plx_cost_init(&c);
	teach(&c, gpu, 1000, 0, 1, 120, 900);
	for (uint32_t i = 0; i < 1000; i++) {
		struct plx_cost_work w = {.decodes = (uint32_t)(uniform() * 100)}, more;
		uint32_t pos = (uint32_t)(uniform() * 8000);
		double budget = 5e6 + 40e6 * uniform();

		w.context = w.decodes * 900u;
		uint32_t n = plx_cost_chunk(&c, &w, pos, budget, 2000);

		assert_true(n <= 2000);
		if (n > 0) {
			more = w;
			plx_cost_add_prefill(&more, pos, n);
			assert_true(plx_cost_ns(&c, &more) <= budget * 1.001);
		}
		if (n < 2000) {
			more = w;
			plx_cost_add_prefill(&more, pos, n + 2);
			assert_true(plx_cost_ns(&c, &more) >= budget * 0.999);
		}
	}
	/* 500 tokens of a first chunk take 14.5 ms: so it says, within its error. */
	struct plx_cost_work none = {0};

	assert_in_range(plx_cost_chunk(&c, &none, 0, 14.875e6, 2000), 480, 520);
}

static void test_cost_knows_nothing_at_first(void **state)
{
	struct plx_cost c;
	struct plx_cost_work w = {.prefill = 100, .prefill_pos = 5000};

	(void)state;
	plx_cost_init(&c);
	assert_false(plx_cost_ready(&c, false));
	for (uint32_t i = 0; i < 4; i++)
		plx_cost_update(&c, &w, 10000000);
	assert_true(plx_cost_ready(&c, true));
	assert_true(fabs(plx_cost_ns(&c, &w) / 10e6 - 1) < 0.01);
	/* A step ten times the size is expected to take longer, and not more than in proportion. */
	w.prefill = 1000;
	w.prefill_pos = 500000;
	assert_true(plx_cost_ns(&c, &w) > 15e6 && plx_cost_ns(&c, &w) < 101e6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_cost_finds_a_linear_device),
	    cmocka_unit_test(test_cost_finds_a_device_with_a_knee),
	    cmocka_unit_test(test_cost_follows_a_slow_down),
	    cmocka_unit_test(test_cost_margin_covers_its_quantile),
	    cmocka_unit_test(test_cost_survives_steps_all_alike),
	    cmocka_unit_test(test_cost_an_outlier_moves_little),
	    cmocka_unit_test(test_cost_chunk_is_the_largest_that_fits),
	    cmocka_unit_test(test_cost_knows_nothing_at_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
