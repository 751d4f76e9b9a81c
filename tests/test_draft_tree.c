/* Trees of drafts: how they are built, which of them are run, and what look-up and lookahead grow.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/draft_ahead.h"
#include "dataplane/batch/draft_lookup.h"

/* ---- trees ---- */

/* 1(.5) 2(.4) 3(.32); 4(.3) 5(.27) beside 1; 6(.08) beside 3 */
static void grow(struct plx_draft *d)
{
	plx_draft_begin(d, true);
	assert_int_equal(plx_draft_add(d, -1, 1, 0.5f), 0);
	assert_int_equal(plx_draft_add(d, 0, 2, 0.8f), 1);
	assert_int_equal(plx_draft_add(d, 1, 3, 0.8f), 2);
	assert_int_equal(plx_draft_add(d, -1, 4, 0.3f), 3);
	assert_int_equal(plx_draft_add(d, 3, 5, 0.9f), 4);
	assert_int_equal(plx_draft_add(d, 1, 6, 0.2f), 5);
	assert_int_equal(plx_draft_add(d, 1, 6, 0.9f), 5); /* it is there */
	assert_int_equal(d->n, 6);
}

static void ids_are(const struct plx_draft *d, uint32_t n, const int32_t *id, const int32_t *parent)
{
	assert_int_equal(d->n, n);
	assert_memory_equal(d->id, id, n * sizeof(*id));
	assert_memory_equal(d->parent, parent, n * sizeof(*parent));
}

static void test_draft_tree_is_sorted(void **state)
{
	static const int32_t id[] = {1, 2, 3, 4, 5, 6}, parent[] = {-1, 0, 1, -1, 3, 1};
	static const int32_t same[] = {9, 8, 7}, chain[] = {-1, 0, 1};
	struct plx_draft d;

	(void)state;
	grow(&d);
	plx_draft_sort(&d);
	ids_are(&d, 6, id, parent);
	d.all[3] = d.all[4] = 0.45f; /* now before 2 and 3 */
	plx_draft_sort(&d);
	static const int32_t id2[] = {1, 4, 5, 2, 3, 6}, parent2[] = {-1, -1, 1, 0, 3, 3};

	ids_are(&d, 6, id2, parent2);
	/* Those that are as likely stay as they were. */
	plx_draft_begin(&d, true);
	for (int32_t i = 0; i < 3; i++)
		plx_draft_add(&d, i - 1, same[i], 1);
	plx_draft_sort(&d);
	ids_are(&d, 3, same, chain);
}

static void test_draft_tree_is_laid_depth_first(void **state)
{
	struct plx_draft d, o;

	(void)state;
	grow(&d);
	plx_draft_sort(&d);
	static const int32_t all[] = {1, 2, 3, 6, 4, 5}, all_up[] = {-1, 0, 1, 1, -1, 4};

	assert_int_equal(plx_draft_lay(&d, 6, 15, 9, &o), 2);
	ids_are(&o, 6, all, all_up);
	assert_int_equal(plx_draft_depth(&d, 6), 3);
	assert_int_equal(plx_draft_depth(&d, 2), 2);
	/* No branch but one: the likelier. */
	static const int32_t two[] = {1, 2, 3, 4, 5}, two_up[] = {-1, 0, 1, -1, 3};

	assert_int_equal(plx_draft_lay(&d, 6, 15, 1, &o), 1);
	ids_are(&o, 5, two, two_up);
	/* A chain. */
	static const int32_t chain[] = {1, 2, 3}, chain_up[] = {-1, 0, 1};

	assert_int_equal(plx_draft_lay(&d, 6, 15, 0, &o), 0);
	ids_are(&o, 3, chain, chain_up);
	/* Not so deep, and then with room for another branch. */
	static const int32_t flat[] = {1, 4}, flat_up[] = {-1, -1};

	assert_int_equal(plx_draft_lay(&d, 6, 1, 9, &o), 1);
	ids_are(&o, 2, flat, flat_up);
	/* The likeliest four. */
	static const int32_t four[] = {1, 2, 3, 4}, four_up[] = {-1, 0, 1, -1};

	assert_int_equal(plx_draft_lay(&d, 4, 15, 9, &o), 1);
	ids_are(&o, 4, four, four_up);
	assert_int_equal(plx_draft_lay(&d, 6, 0, 9, &o), 0);
	assert_int_equal(o.n, 0);
}

static void test_draft_tree_has_limits(void **state)
{
	struct plx_draft d;

	(void)state;
	plx_draft_begin(&d, true);
	for (int32_t i = 0; i < (int32_t)PLX_DRAFT_NODES; i++)
		assert_int_equal(plx_draft_add(&d, -1, i, 0.01f), i);
	assert_int_equal(plx_draft_add(&d, -1, 99, 1), -1);
	assert_int_equal(plx_draft_add(&d, -1, 5, 1), 5);
	assert_int_equal(d.n, PLX_DRAFT_NODES);
}

/* ---- look-up ---- */

#define IDS 300u

static struct plx_arena arena;
static struct plx_lookup look;
static struct plx_ahead ahead;
static struct plx_drafter by;

static int open_lookup(void **state)
{
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_arena_open(&arena, plx_lookup_bytes(1, IDS), &d), 0);
	assert_int_equal(plx_lookup_init(&look, &arena, 1, IDS), 0);
	look.trees = true;
	by = plx_lookup_drafter(&look);
	by.begin(by.ctx, 0);
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	plx_arena_close(&arena);
	return 0;
}

/* Whether the draft has a path of these ids. */
static bool has_path(const struct plx_draft *d, const int32_t *id, uint32_t n)
{
	int32_t at = -1;

	for (uint32_t k = 0; k < n; k++) {
		uint32_t i = (uint32_t)(at + 1);

		while (i < d->n && !(d->parent[i] == at && d->id[i] == id[k]))
			i++;
		if (i == d->n)
			return false;
		at = (int32_t)i;
	}
	return true;
}

static void test_lookup_grows_what_came_elsewhere(void **state)
{
	/* Behind 5 6 came 7 8 9, then 20 21 22; behind a 6 alone 30 31. */
	static const int32_t ids[] = {5, 6, 7, 8, 9, 40, 5, 6, 20, 21, 22, 41, 6, 30, 31, 42, 5, 6};
	static const int32_t a[] = {20, 21, 22}, b[] = {7, 8, 9}, c[] = {30, 31};
	uint32_t n = sizeof(ids) / sizeof(ids[0]);
	struct plx_draft d;

	(void)state;
	by.learn(by.ctx, 0, ids, n, n, IDS);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 0, ids, n, 8, 0, &d);
	assert_true(has_path(&d, a, 3) && !has_path(&d, b, 1));
	for (uint32_t i = 0; i < d.n; i++)
		assert_int_equal(d.parent[i], (int32_t)i - 1); /* a chain */
	plx_draft_begin(&d, true);
	by.propose(by.ctx, 0, ids, n, 8, 0, &d);
	assert_true(has_path(&d, a, 3) && has_path(&d, b, 3) && has_path(&d, c, 2));
	/* What came behind the longest match, and lately, is likelier. */
	float p[64] = {0};

	for (uint32_t i = 0; i < d.n; i++)
		if (d.parent[i] == -1)
			p[d.id[i]] = d.all[i];
	assert_true(p[20] > p[7] && p[7] > p[30] && p[30] > 0);
	assert_true(p[20] + p[7] + p[30] <= 1);
	plx_draft_begin(&d, true);
	by.propose(by.ctx, 0, ids, n, 1, 0, &d); /* one place */
	assert_int_equal(d.n, 3);
}

/* A text in which the second guess is always right: it becomes the likelier one. */
static void test_lookup_learns_which_guess_is_right(void **state)
{
	int32_t ids[IDS];
	struct plx_draft d;

	(void)state;
	/* 1 x 1 y 1 x 1 y ...: what came last behind 1 is never what comes, the one before is. */
	for (uint32_t i = 0; i < IDS; i++)
		ids[i] = i % 2 == 0 ? 1 : i % 4 == 1 ? 2 : 3;
	for (uint32_t n = 1; n < 60; n++) /* as a text whose index holds little */
		by.learn(by.ctx, 0, ids, n, 1, 1);
	plx_draft_begin(&d, true);
	by.propose(by.ctx, 0, ids, 59, 1, 0, &d);
	assert_true(d.n >= 1 && d.id[0] == ids[59] && d.p[0] > 0.8f);
}

/* ---- lookahead ---- */

static int open_ahead(void **state)
{
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_arena_open(&arena, plx_ahead_bytes(2), &d), 0);
	assert_int_equal(plx_ahead_init(&ahead, &arena, 2, 4), 0);
	by = plx_ahead_drafter(&ahead);
	by.begin(by.ctx, 0);
	by.begin(by.ctx, 1);
	return 0;
}

static void test_ahead_guesses_from_its_pool(void **state)
{
	static const int32_t ids[] = {5, 6, 7, 8, 9, 5, 6, 20, 21, 5};
	static const int32_t a[] = {6, 20, 21, 5}, b[] = {6, 7, 8, 9};
	struct plx_draft d;

	(void)state;
	assert_int_equal(by.learn(by.ctx, 0, ids, 10, 10, 4), 4);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 0, ids, 10, 4, 0, &d);
	assert_int_equal(d.n, 0); /* it has not seen all */
	assert_int_equal(by.learn(by.ctx, 0, ids, 10, 10, 100), 6);
	by.propose(by.ctx, 0, ids, 10, 4, 0, &d);
	assert_int_equal(d.n, 4);
	assert_memory_equal(d.id, a, sizeof(a));
	plx_draft_begin(&d, true);
	by.propose(by.ctx, 0, ids, 10, 4, 0, &d);
	assert_true(has_path(&d, a, 4) && has_path(&d, b, 4));
	/* The other slot knows nothing of it. */
	plx_draft_begin(&d, false);
	by.learn(by.ctx, 1, ids, 1, 1, 100);
	by.propose(by.ctx, 1, ids, 1, 4, 0, &d);
	assert_int_equal(d.n, 0);
}

/* A model that goes by the place alone: after one iteration the trajectory is right. */
static void test_ahead_follows_its_trajectory(void **state)
{
	int32_t ids[64] = {100};
	struct plx_draft d;
	uint32_t n = 1, first_taken = 0;

	(void)state;
	for (uint32_t step = 0; step < 6; step++) {
		struct plx_draft_rows r = {0};
		uint32_t depth[PLX_MAX_DRAFT + 1] = {0};
		int32_t taken[PLX_MAX_DRAFT + 1];
		struct plx_draft o;

		by.learn(by.ctx, 0, ids, n, 1, 100);
		plx_draft_begin(&d, true);
		by.propose(by.ctx, 0, ids, n, 8, 0, &d);
		assert_true(d.n >= 4); /* its trajectory at least */
		plx_draft_sort(&d);
		plx_draft_lay(&d, d.n < 15 ? d.n : 15, 15, 9, &o);
		r.n = o.n;
		r.sampled[0] = 100 + (int32_t)n;
		for (uint32_t i = 0; i < o.n; i++) {
			r.id[i + 1] = o.id[i];
			r.parent[i + 1] = o.parent[i] + 1;
			depth[i + 1] = depth[o.parent[i] + 1] + 1;
			r.sampled[i + 1] = 100 + (int32_t)(n + depth[i + 1]);
		}
		uint32_t row = 0;

		for (uint32_t i = 1; i <= r.n + 1; i++) {
			if (i == r.n + 1 ||
			    ((uint32_t)r.parent[i] == row && r.id[i] == r.sampled[row]))
				taken[r.n_taken++] = r.sampled[row];
			row = i <= r.n && (uint32_t)r.parent[i] == row && r.id[i] == r.sampled[row]
			          ? i
			          : row;
		}
		r.taken = taken;
		by.came(by.ctx, 0, &r);
		for (uint32_t k = 0; k < r.n_taken; k++)
			ids[n++] = taken[k];
		first_taken += step > 0 && r.n_taken > 1;
	}
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(ids[i], 100 + (int32_t)i);
	/* Nothing repeats in this text: whatever was accepted is the trajectory's doing. */
	assert_true(first_taken >= 3);
}

/* What a trajectory brings is measured: rows run that bring nothing make it worth nothing. */
static void test_ahead_stops_where_it_brings_nothing(void **state)
{
	int32_t ids[4096];
	struct plx_draft d;
	uint32_t n = 1, run = 0;

	(void)state;
	ids[0] = 1;
	for (uint32_t step = 0; step < 400; step++) {
		struct plx_draft_rows r = {.n_taken = 1};
		int32_t next = (int32_t)(1000 + step * 17);

		by.learn(by.ctx, 0, ids, n, 1, 100);
		plx_draft_begin(&d, true);
		by.propose(by.ctx, 0, ids, n, 8, 0.06, &d);
		r.n = d.n < 15 ? d.n : 15;
		r.taken = &next;
		r.sampled[0] = next;
		for (uint32_t i = 0; i < r.n; i++) {
			r.id[i + 1] = d.id[i];
			r.parent[i + 1] = d.parent[i] + 1;
			r.sampled[i + 1] = (int32_t)(90000 + step * 31 + i);
		}
		if (r.n > 0)
			by.came(by.ctx, 0, &r);
		run += step >= 200 ? d.n : 0;
		ids[n++] = next;
	}
	assert_int_equal(run, 0);
	assert_true(ahead.worth.hits / ahead.worth.n < 0.06f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_draft_tree_is_sorted),
	    cmocka_unit_test(test_draft_tree_is_laid_depth_first),
	    cmocka_unit_test(test_draft_tree_has_limits),
	    cmocka_unit_test_setup_teardown(test_lookup_grows_what_came_elsewhere, open_lookup,
	                                    close_all),
	    cmocka_unit_test_setup_teardown(test_lookup_learns_which_guess_is_right, open_lookup,
	                                    close_all),
	    cmocka_unit_test_setup_teardown(test_ahead_guesses_from_its_pool, open_ahead,
	                                    close_all),
	    cmocka_unit_test_setup_teardown(test_ahead_follows_its_trajectory, open_ahead,
	                                    close_all),
	    cmocka_unit_test_setup_teardown(test_ahead_stops_where_it_brings_nothing, open_ahead,
	                                    close_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
