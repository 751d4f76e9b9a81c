/*
 * plx-tune's search on functions whose front is known: it comes near it with a small part of the
 * grid's measurements, noise or not, and a guess says what was measured.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tune/pareto.h"
#include "tools/tune/search.h"

static uint64_t rng;

static double uniform(void)
{
	rng = rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (double)(rng >> 11) * 0x1p-53;
}

static double normal(void)
{
	return sqrt(-2 * log(uniform() + 1e-18)) * cos(6.283185307179586 * uniform());
}

/* ---- Pareto ---- */

static bool dominated(const double *y, uint32_t n, uint32_t n_obj, uint32_t i)
{
	for (uint32_t j = 0; j < n; j++) {
		uint32_t less = 0, more = 0;

		for (uint32_t k = 0; k < n_obj; k++) {
			less += y[j * n_obj + k] < y[i * n_obj + k];
			more += y[j * n_obj + k] > y[i * n_obj + k];
		}
		if (more == 0 && (less > 0 || j < i))
			return true;
	}
	return false;
}

static void test_front_is_what_nobody_dominates(void **state)
{
	(void)state;
	rng = 3;
	for (uint32_t round = 0; round < 400; round++) {
		uint32_t n = 1 + round % 40, n_obj = 1 + round % 4, sum = 0;
		double y[160];
		bool on[40];

		for (uint32_t i = 0; i < n * n_obj; i++)
			y[i] = floor(uniform() * 6); /* many are equal */
		uint32_t n_on = plx_pareto_front(y, n, n_obj, on);

		for (uint32_t i = 0; i < n; i++) {
			assert_int_equal(on[i], !dominated(y, n, n_obj, i));
			sum += on[i];
			/* Somebody of the front is at least as good as anybody. */
			assert_true(plx_pareto_gap(y, n, n_obj, y + i * n_obj, NULL) <= 0);
		}
		assert_int_equal(n_on, sum);
	}
}

static void test_front_by_hand(void **state)
{
	const double y[] = {1, 5, 2, 2, 5, 1, 3, 3, 2, 2, (double)NAN, 0};
	bool on[6];
	uint32_t who = 9;

	(void)state;
	assert_int_equal(plx_pareto_front(y, 6, 2, on), 3);
	assert_true(on[0] && on[1] && on[2]);
	assert_false(on[3] || on[4] || on[5]);
	const double p[] = {1.5, 2.25}, far[] = {9, 9};

	assert_true(fabs(plx_pareto_gap(y, 3, 2, p, &who) - 0.5) < 1e-12);
	assert_int_equal(who, 1);
	assert_true(fabs(plx_pareto_gap(y, 3, 2, far, &who) + 7) < 1e-12);
}

/* ---- guesses ---- */

static void test_guess_learns_what_knobs_do(void **state)
{
	static struct plx_gp g;
	uint8_t x[3];
	double mean, sd, worst = 0;

	(void)state;
	rng = 1;
	assert_int_equal(plx_gp_open(&g, 3, 7, 1, false), 0);
	plx_gp_predict(&g, (const uint8_t[]){0, 0, 0}, &mean, &sd);
	assert_true(mean == 0 && sd == 1);
	for (uint32_t i = 0; i < 60; i++) {
		for (uint32_t d = 0; d < 3; d++)
			x[d] = (uint8_t)(uniform() * 5);
		assert_true(
		    plx_gp_add(&g, x, i / 4, x[0] * 0.5 + (x[1] == 2) + 7 + 0.02 * normal()));
	}
	plx_gp_fit(&g);
	for (uint32_t i = 0; i < 125; i++) {
		const uint8_t at[3] = {(uint8_t)(i % 5), (uint8_t)(i / 5 % 5), (uint8_t)(i / 25)};

		plx_gp_predict(&g, at, &mean, &sd);
		worst = fmax(worst, fabs(mean - (at[0] * 0.5 + (at[1] == 2) + 7)));
		assert_true(sd < 0.5);
	}
	assert_true(worst < 0.15); /* of a range of 3 */
	plx_gp_close(&g);
}

static void test_guess_takes_the_block_out(void **state)
{
	static struct plx_gp g;
	double a, b, sd;

	(void)state;
	rng = 5;
	assert_int_equal(plx_gp_open(&g, 1, 1, 0, false), 0);
	/* Value 1 costs 0.2 more, but was measured in the better blocks more often. */
	for (uint32_t i = 0; i < 80; i++) {
		uint32_t block = i / 4;
		const uint8_t x = block % 2 ? i % 4 > 0 : i % 4 == 0;

		plx_gp_add(&g, &x, block, 0.2 * x - 0.5 * (block % 2) + 0.01 * normal());
	}
	plx_gp_fit(&g);
	plx_gp_predict(&g, (const uint8_t[]){0}, &a, &sd);
	plx_gp_predict(&g, (const uint8_t[]){1}, &b, &sd);
	assert_true(b - a > 0.1);
	plx_gp_close(&g);
}

/* ---- search ---- */

#ifdef PLX_DEBUG /* sanitizers are slow */
#define SEEDS 1u
#else
#define SEEDS 3u
#endif

#define KNOBS 6u
static const uint32_t values[KNOBS] = {6, 3, 5, 4, 4, 3}; /* 4,320 points */
#define GRID (6u * 3u * 5u * 4u * 4u * 3u)

/* A caricature of the real thing: formats trade accuracy for speed, steps trade evenness for it. */
static void truth(const uint8_t *x, double *y)
{
	static const double loss[] = {0, 0.004, 0.012, 0.05, 0.03, 0.09};
	static const double slow[] = {0.6, 0.25, 0.1, 0, 0.05, 0.02};
	double step = fabs(x[2] - 3.0) * 0.06, seqs = (3 - x[3]) * 0.12;

	y[0] = 8 * (loss[x[0]] + 0.006 * x[1] * x[1] + 0.004 * x[1] * (x[0] == 3));
	y[1] = slow[x[0]] + step + seqs - 0.05 * x[1] + (x[4] == 0 ? 0.2 : 0.02 * x[4]) +
	       (x[4] == 3 && x[2] > 2 ? 0.15 : 0) + 0.01 * x[5];
	y[2] = 0.5 * slow[x[0]] + 0.11 * x[2] - 0.5 * seqs + (x[4] == 2 ? -0.05 : 0.03 * x[4]);
}

static void point_of(uint32_t i, uint8_t *x)
{
	for (uint32_t k = 0; k < KNOBS; k++) {
		x[k] = (uint8_t)(i % values[k]);
		i /= values[k];
	}
}

static void open_search(struct plx_search *s, uint64_t seed)
{
	struct plx_search_conf c = {.n_knobs = KNOBS,
	                            .ordered = 0x2c,
	                            .n_obj = 3,
	                            .use = {3, 63, 63},
	                            .exact = 1,
	                            .seed = seed};

	memcpy(c.n_values, values, sizeof values);
	assert_int_equal(plx_search_open(s, &c), 0);
}

/* How far the found front is from the true one, the worst place of it (ranges are about 1). */
static double distance(struct plx_search *s, const double *best, uint32_t n_best, double *mean)
{
	uint32_t idx[PLX_SEARCH_MAX], n = plx_search_front(s, idx, PLX_SEARCH_MAX);
	static double found[PLX_SEARCH_MAX * 3];
	double worst = 0;

	for (uint32_t i = 0; i < n; i++)
		truth(s->point[idx[i]].x, found + i * 3);
	*mean = 0;
	for (uint32_t i = 0; i < n_best; i++) {
		double g = fmax(plx_pareto_gap(found, n, 3, best + i * 3, NULL), 0);

		worst = fmax(worst, g);
		*mean += g / n_best;
	}
	return worst;
}

static uint32_t true_front(double *best)
{
	static double y[GRID * 3];
	static bool on[GRID];
	uint8_t x[KNOBS];
	uint32_t n = 0;

	for (uint32_t i = 0; i < GRID; i++) {
		point_of(i, x);
		truth(x, y + i * 3);
	}
	plx_pareto_front(y, GRID, 3, on);
	for (uint32_t i = 0; i < GRID; i++)
		if (on[i])
			memcpy(best + 3 * n++, y + i * 3, 3 * sizeof *y);
	return n;
}

static void measure(struct plx_search *s, uint32_t n, double noise)
{
	for (uint32_t i = 0; i < n; i++) {
		uint8_t x[PLX_GP_DIMS];
		double y[3];

		plx_search_ask(s, x);
		for (uint32_t k = 0; k < KNOBS; k++)
			assert_true(x[k] < values[k]);
		truth(x, y);
		double minute = noise * sin(i / 4 * 1.7); /* what the machine does */

		y[1] += noise * normal() + minute;
		y[2] += 2 * noise * normal() + minute;
		assert_true(plx_search_tell(s, x, i / 4, y));
	}
}

/* As many measurements at points drawn at random. */
static void measure_at_random(struct plx_search *s, uint32_t n, double noise)
{
	for (uint32_t i = 0; i < n; i++) {
		uint8_t x[PLX_GP_DIMS];
		double y[3];

		point_of((uint32_t)(uniform() * GRID), x);
		truth(x, y);
		y[1] += noise * normal();
		y[2] += 2 * noise * normal();
		assert_true(plx_search_tell(s, x, i / 4, y));
	}
}

static void test_search_finds_the_front(void **state)
{
	static double best[GRID * 3];
	static struct plx_search s;
	uint32_t n_best = true_front(best), n = GRID / 36; /* 2.8 % of the grid */
	double mean[3] = {0}, sum[3] = {0}, one;

	(void)state;
	rng = 11;
	for (uint32_t i = 0; i < SEEDS; i++) {
		open_search(&s, i + 1);
		measure(&s, n, 0);
		sum[0] += distance(&s, best, n_best, &one) / SEEDS;
		mean[0] += one / SEEDS;
		plx_search_close(&s);
		open_search(&s, i + 1);
		measure(&s, n, 0.03);
		sum[1] += distance(&s, best, n_best, &one) / SEEDS;
		mean[1] += one / SEEDS;
		plx_search_close(&s);
		open_search(&s, i + 1);
		measure_at_random(&s, n, 0.03);
		sum[2] += distance(&s, best, n_best, &one) / SEEDS;
		mean[2] += one / SEEDS;
		plx_search_close(&s);
	}
	print_message(
	    "%u of %u points on the front; with %u measurements the found one is off by "
	    "%.3f on average (%.3f at worst) without noise, %.3f (%.3f) with, %.3f (%.3f) at "
	    "points drawn at random\n",
	    n_best, GRID, n, mean[0], sum[0], mean[1], sum[1], mean[2], sum[2]);
	assert_true(mean[0] < 0.04);
	assert_true(mean[1] < 0.045);
	assert_true(mean[1] < 0.7 * mean[2]);
}

static void test_search_asks_the_same_again(void **state)
{
	static struct plx_search a, b;

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		rng = 2;
		open_search(i ? &b : &a, 9);
		measure(i ? &b : &a, 60, 0.05);
	}
	assert_int_equal(a.n_points, b.n_points);
	for (uint32_t i = 0; i < a.n_points; i++)
		assert_memory_equal(a.point[i].x, b.point[i].x, KNOBS);
	plx_search_close(&a);
	plx_search_close(&b);
}

/* What is exact is known at once, for every point that shares its knobs. */
static void test_exact_objective_is_known(void **state)
{
	static struct plx_search s;
	const uint8_t x[PLX_GP_DIMS] = {1, 2, 0, 0, 0, 0}, other[PLX_GP_DIMS] = {1, 2, 4, 1, 2, 2};
	const uint8_t unknown[PLX_GP_DIMS] = {1, 1, 0, 0, 0, 0};
	double y = 0;

	(void)state;
	open_search(&s, 1);
	assert_true(plx_search_tell(&s, x, 0, (const double[]){0.125, 1, 2}));
	assert_true(plx_search_known(&s, 0, other, &y));
	assert_true(y == 0.125);
	assert_false(plx_search_known(&s, 0, unknown, &y));
	assert_false(plx_search_known(&s, 1, x, &y));
	plx_search_close(&s);
}

/* Room ends; it is said, and the front stays. */
static void test_search_is_bounded(void **state)
{
	static struct plx_search s;
	uint8_t x[PLX_GP_DIMS] = {0};
	uint32_t idx[4], n = 0;

	(void)state;
	open_search(&s, 1);
	while (n < PLX_SEARCH_MAX + 5 && plx_search_tell(&s, x, n / 4, (const double[]){0, 1, 2})) {
		n++;
		point_of(n % 20, x);
	}
	assert_int_equal(n, PLX_SEARCH_MAX);
	assert_int_equal(s.n_points, 20);
	plx_search_close(&s);
	open_search(&s, 1);
	assert_int_equal(plx_search_front(&s, idx, 4), 0);
	plx_search_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_front_is_what_nobody_dominates),
	    cmocka_unit_test(test_front_by_hand),
	    cmocka_unit_test(test_guess_learns_what_knobs_do),
	    cmocka_unit_test(test_guess_takes_the_block_out),
	    cmocka_unit_test(test_search_finds_the_front),
	    cmocka_unit_test(test_search_asks_the_same_again),
	    cmocka_unit_test(test_exact_objective_is_known),
	    cmocka_unit_test(test_search_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
