/* Kept conversations: found whole, bounded, forgotten in the right order, never leaking a cell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/talk.h"

static struct plx_arena arena;
static struct plx_talk t;

static void open_talk(struct plx_talk_conf c)
{
	struct plx_diag d;

	assert_int_equal(plx_arena_open(&arena, plx_talk_bytes(&c), &d), 0);
	assert_int_equal(plx_talk_init(&t, &arena, &c), 0);
}

static int shut(void **state)
{
	(void)state;
	plx_talk_check(&t);
	plx_arena_close(&arena);
	return 0;
}

static const int32_t *count_from(int32_t first, uint32_t n)
{
	static int32_t id[8192];

	for (uint32_t i = 0; i < n; i++)
		id[i] = first + (int32_t)i;
	return id;
}

/* A request of n_prompt ids from 100 on, with one answer of n_answer ids from 5000 on. */
static bool keep(uint64_t owner, uint64_t req_id, uint32_t n_prompt, uint32_t n_answer)
{
	struct plx_talk_end e = {owner, req_id, NULL, n_prompt, 1};

	plx_talk_begin(&t, 0);
	for (uint32_t i = 0; i < n_answer; i++)
		plx_talk_add(&t, 0, 0, count_from(5000 + (int32_t)i, 1), 1);
	e.prompt = count_from(100, n_prompt);
	return plx_talk_keep(&t, 0, &e);
}

static void test_talk_gives_back_prompt_and_answer(void **state)
{
	int32_t out[270];

	(void)state;
	open_talk((struct plx_talk_conf){1000, 4, 4, 2, 1});
	assert_true(keep(7, 1, 200, 70));
	uint32_t e = plx_talk_find(&t, 7, 1);

	assert_int_not_equal(e, PLX_TALK_NONE);
	assert_int_equal(plx_talk_len(&t, e, 0), 270);
	plx_talk_copy(&t, e, 0, out);
	assert_int_equal(out[0], 100);
	assert_int_equal(out[199], 299);
	assert_int_equal(out[200], 5000);
	assert_int_equal(out[269], 5069);
	/* Another session's, another request, another sample: none. */
	assert_int_equal(plx_talk_find(&t, 8, 1), PLX_TALK_NONE);
	assert_int_equal(plx_talk_find(&t, 7, 2), PLX_TALK_NONE);
	assert_int_equal(plx_talk_len(&t, e, 1), 0);
}

static void test_talk_samples_are_apart(void **state)
{
	struct plx_talk_end e = {9, 3, NULL, 2, 2};
	int32_t out[8];

	(void)state;
	open_talk((struct plx_talk_conf){1000, 4, 4, 1, 2});
	plx_talk_begin(&t, 0);
	plx_talk_add(&t, 0, 1, count_from(50, 3), 3);
	plx_talk_add(&t, 0, 0, count_from(40, 1), 1);
	e.prompt = count_from(1, 2);
	assert_true(plx_talk_keep(&t, 0, &e));
	uint32_t i = plx_talk_find(&t, 9, 3);

	assert_int_equal(plx_talk_len(&t, i, 0), 3);
	assert_int_equal(plx_talk_len(&t, i, 1), 5);
	plx_talk_copy(&t, i, 1, out);
	assert_int_equal(out[1], 2);
	assert_int_equal(out[4], 52);
}

static void test_talk_an_owner_has_its_number(void **state)
{
	(void)state;
	open_talk((struct plx_talk_conf){10000, 16, 2, 1, 1});
	for (uint64_t i = 1; i <= 3; i++)
		assert_true(keep(7, i, 10, 10));
	assert_true(keep(8, 1, 10, 10));
	assert_int_equal(plx_talk_find(&t, 7, 1), PLX_TALK_NONE);
	assert_int_not_equal(plx_talk_find(&t, 7, 2), PLX_TALK_NONE);
	assert_int_not_equal(plx_talk_find(&t, 7, 3), PLX_TALK_NONE);
	assert_int_not_equal(plx_talk_find(&t, 8, 1), PLX_TALK_NONE);
}

static void test_talk_the_least_used_goes(void **state)
{
	(void)state;
	/* Eight cells; each request takes three. */
	open_talk((struct plx_talk_conf){8 * PLX_TALK_CELL_IDS, 16, 16, 1, 1});
	assert_true(keep(1, 1, 2 * PLX_TALK_CELL_IDS, 1));
	assert_true(keep(2, 1, 2 * PLX_TALK_CELL_IDS, 1));
	assert_int_not_equal(plx_talk_find(&t, 1, 1), PLX_TALK_NONE); /* now 2 is the older */
	assert_true(keep(3, 1, 2 * PLX_TALK_CELL_IDS, 1));
	assert_int_equal(plx_talk_find(&t, 2, 1), PLX_TALK_NONE);
	assert_int_not_equal(plx_talk_find(&t, 1, 1), PLX_TALK_NONE);
	assert_int_not_equal(plx_talk_find(&t, 3, 1), PLX_TALK_NONE);
	/* More than there is: not kept, and everything else made way in vain. */
	assert_false(keep(4, 1, 9 * PLX_TALK_CELL_IDS, 1));
	assert_int_equal(t.n_free_cells, 8);
	assert_int_equal(t.n_kept, 0);
}

static void test_talk_an_answer_without_room_is_not_kept(void **state)
{
	struct plx_talk_end e = {1, 1, NULL, 1, 1};

	(void)state;
	open_talk((struct plx_talk_conf){2 * PLX_TALK_CELL_IDS, 4, 4, 2, 1});
	plx_talk_begin(&t, 0);
	plx_talk_begin(&t, 1);
	plx_talk_add(&t, 0, 0, count_from(0, 100), 100);
	plx_talk_add(&t, 1, 0, count_from(0, 10), 10); /* no cell */
	e.prompt = count_from(0, 1);
	assert_false(plx_talk_keep(&t, 1, &e));
	plx_talk_drop(&t, 0);
	assert_int_equal(t.n_free_cells, 2);
}

static void test_talk_off_keeps_nothing(void **state)
{
	(void)state;
	open_talk((struct plx_talk_conf){0, 0, 4, 1, 1});
	assert_false(keep(1, 1, 10, 10));
	assert_int_equal(plx_talk_find(&t, 1, 1), PLX_TALK_NONE);
}

static bool only_odd(void *ctx, uint64_t owner)
{
	(void)ctx;
	return owner % 2 == 1;
}

static void test_talk_forgets_whose_owner_is_gone(void **state)
{
	(void)state;
	open_talk((struct plx_talk_conf){10000, 8, 4, 1, 1});
	for (uint64_t i = 1; i <= 6; i++)
		assert_true(keep(i, 1, 10, 10));
	assert_int_equal(plx_talk_walk(&t, 4, only_odd, NULL), 2);
	assert_int_equal(plx_talk_walk(&t, 4, only_odd, NULL), 1);
	for (uint64_t i = 1; i <= 6; i++)
		assert_int_equal(plx_talk_find(&t, i, 1) != PLX_TALK_NONE, i % 2 == 1);
}

/* A model of it: the ids that an entry must have follow from owner and request. */
static void test_talk_random_days(void **state)
{
	static int32_t out[1024];
	uint32_t n_found = 0;

	(void)state;
	open_talk((struct plx_talk_conf){4000, 24, 3, 4, 2});
	srandom(1);
	for (uint32_t k = 0; k < 20000; k++) {
		uint32_t run = (uint32_t)random() % 4, n = 1 + (uint32_t)random() % 300;
		uint64_t owner = 1 + (uint64_t)random() % 12;
		struct plx_talk_end e = {owner, k + 1, NULL, n, 2};

		plx_talk_drop(&t, run);
		plx_talk_begin(&t, run);
		plx_talk_add(&t, run, 1, count_from((int32_t)k, n / 2), n / 2);
		e.prompt = count_from((int32_t)k, n);
		if (random() % 3)
			plx_talk_keep(&t, run, &e);
		uint32_t i = plx_talk_find(&t, 1 + (uint64_t)random() % 12, k + 1 - k % 5);

		if (i != PLX_TALK_NONE) {
			uint32_t len = plx_talk_len(&t, i, 1);
			int32_t first = (int32_t)t.entry[i].req_id - 1;

			n_found++;
			plx_talk_copy(&t, i, 1, out);
			assert_int_equal(out[0], first);
			assert_int_equal(out[len - 1],
			                 len == 1 ? first : first + (int32_t)(len / 3) - 1);
		}
		if (k % 7 == 0)
			plx_talk_walk(&t, 3, only_odd, NULL);
		if (k % 100 == 0)
			plx_talk_check(&t);
	}
	assert_true(n_found > 100);
	for (uint32_t run = 0; run < 4; run++)
		plx_talk_drop(&t, run);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(test_talk_gives_back_prompt_and_answer, shut),
	    cmocka_unit_test_teardown(test_talk_samples_are_apart, shut),
	    cmocka_unit_test_teardown(test_talk_an_owner_has_its_number, shut),
	    cmocka_unit_test_teardown(test_talk_the_least_used_goes, shut),
	    cmocka_unit_test_teardown(test_talk_an_answer_without_room_is_not_kept, shut),
	    cmocka_unit_test_teardown(test_talk_off_keeps_nothing, shut),
	    cmocka_unit_test_teardown(test_talk_forgets_whose_owner_is_gone, shut),
	    cmocka_unit_test_teardown(test_talk_random_days, shut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
