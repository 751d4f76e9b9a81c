/* Samples held back: what is kept comes back, the order, and that the store is bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "dataplane/batch/best.h"
#include "fw/base/err.h"

#define UNITS (6 * PLX_BEST_CELL_UNITS)

static struct plx_arena arena;
static struct plx_best best;

static int setup(void **state)
{
	static const struct plx_best_conf c = {.n_units = UNITS, .n_running = 3, .n_samples = 4};

	(void)state;
	if (plx_arena_open(&arena, plx_best_bytes(&c), NULL))
		return -1;
	return plx_best_init(&best, &arena, &c);
}

static int teardown(void **state)
{
	(void)state;
	plx_best_check(&best);
	plx_arena_close(&arena);
	return 0;
}

static void add(uint32_t run, uint32_t sample, int32_t id, float logprob)
{
	struct plx_top t = {id, logprob};

	plx_best_add(&best, run, sample, &t, NULL, 0);
	plx_best_count(&best, run, sample, logprob);
}

static void test_best_ranks_by_the_mean(void **state)
{
	uint16_t order[4];

	(void)state;
	assert_int_equal(plx_best_begin(&best, 1, 4, 8, 0), 0);
	add(1, 0, 10, -1.0f); /* mean -1, sum -3: a long one is not worse for its length */
	add(1, 0, 11, -0.5f);
	add(1, 0, 12, -1.5f);
	add(1, 1, 10, -2.0f);
	add(1, 3, 10, -0.25f);
	add(1, 3, 11, -0.75f);
	plx_best_rank(&best, 1, 4, order);
	assert_int_equal(order[0], 3);
	assert_int_equal(order[1], 0);
	assert_int_equal(order[2], 1);
	assert_int_equal(order[3], 2); /* it has no ids */
	assert_true(plx_best_mean(&best, 1, 3) == -0.5f);
	assert_true(plx_best_mean(&best, 1, 0) == -1.0f);
	assert_true(plx_best_mean(&best, 1, 2) == 0.0f);
	assert_int_equal(plx_best_ids(&best, 1, 4), 6);
	plx_best_failed(&best, 1, 3);
	plx_best_rank(&best, 1, 4, order);
	assert_int_equal(order[0], 0);
	assert_int_equal(order[3], 3);
	plx_best_end(&best, 1);
	assert_int_equal(best.n_reserved, 0);
}

static void test_best_keeps_order_among_equals(void **state)
{
	uint16_t order[3];

	(void)state;
	assert_int_equal(plx_best_begin(&best, 0, 3, 8, 0), 0);
	for (uint32_t i = 0; i < 3; i++)
		for (uint32_t k = 0; k <= i; k++)
			add(0, i, 7, -0.3f);
	plx_best_rank(&best, 0, 3, order);
	for (uint16_t i = 0; i < 3; i++)
		assert_int_equal(order[i], i);
	plx_best_end(&best, 0);
}

static void test_best_is_bounded(void **state)
{
	(void)state;
	/* Whole cells for each sample: 32 ids take two. */
	assert_int_equal(plx_best_begin(&best, 0, 4, 32, 0), PLX_E_TOO_LARGE);
	assert_int_equal(plx_best_begin(&best, 0, 2, PLX_BEST_CELL_UNITS, 2), 0);
	assert_int_equal(plx_best_begin(&best, 1, 1, 1, 0), PLX_E_QUEUE_FULL);
	assert_int_equal(plx_best_begin(&best, 1, 1, UINT32_MAX, UINT32_MAX - 1), PLX_E_TOO_LARGE);
	plx_best_end(&best, 0);
	plx_best_end(&best, 0); /* no effect */
	assert_int_equal(plx_best_begin(&best, 1, 1, 1, 0), 0);
	plx_best_end(&best, 1);
}

/* Units of a sample, random and full, against a plain list. */
static void test_best_gives_back_what_came(void **state)
{
	static struct plx_top want[3][4][200];
	uint32_t n[3][4] = {{0}}, n_top[3] = {0}, n_made[3] = {0};
	bool begun[3] = {false};

	(void)state;
	srand(11);
	for (uint32_t k = 0; k < 20000; k++) {
		uint32_t run = (uint32_t)rand() % 3, s = (uint32_t)rand() % 4;

		if (!begun[run]) {
			n_top[run] = (uint32_t)rand() % 3;
			n_made[run] = 1 + (uint32_t)rand() % 4;
			begun[run] = plx_best_begin(&best, run, n_made[run], 20, n_top[run]) == 0;
			for (uint32_t i = 0; i < 4; i++)
				n[run][i] = 0;
		} else if (rand() % 50 == 0) {
			for (uint32_t i = 0; i < n_made[run]; i++) {
				struct plx_best_at at = {0, 0};
				struct plx_top t;

				for (uint32_t u = 0; u < n[run][i]; u++) {
					assert_true(plx_best_next(&best, run, i, &at, &t));
					assert_int_equal(t.id, want[run][i][u].id);
				}
				assert_false(plx_best_next(&best, run, i, &at, &t));
			}
			plx_best_end(&best, run);
			begun[run] = false;
		} else if (s < n_made[run] && n[run][s] < 20 * (1 + n_top[run])) {
			struct plx_top *t = &want[run][s][n[run][s]];

			for (uint32_t i = 0; i <= n_top[run]; i++)
				t[i] = (struct plx_top){rand(), -1};
			plx_best_add(&best, run, s, t, t + 1, n_top[run]);
			n[run][s] += 1 + n_top[run];
		}
		if (k % 100 == 0)
			plx_best_check(&best);
	}
	for (uint32_t run = 0; run < 3; run++)
		plx_best_end(&best, run);
	assert_int_equal(best.n_reserved, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_best_ranks_by_the_mean, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_best_keeps_order_among_equals, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_best_is_bounded, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_best_gives_back_what_came, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
