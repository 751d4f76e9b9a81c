/* The suffix index against a search through all suffixes: lengths, places, edges, bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/suffix.h"

#define MOST 300u

static struct plx_arena arena;
static struct plx_suffix x;
static int32_t ids[2 * MOST];

static int open_index(void **state)
{
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_arena_open(&arena, plx_suffix_bytes(MOST), &d), 0);
	assert_int_equal(plx_suffix_init(&x, &arena, MOST), 0);
	return 0;
}

static int close_index(void **state)
{
	(void)state;
	plx_arena_close(&arena);
	return 0;
}

static uint64_t rng = 1;

static uint32_t draw(uint32_t n)
{
	rng = rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)(rng >> 33) % n;
}

/* Whether the last len of n ids also end behind `end` of them. */
static bool same(uint32_t n, uint32_t end, uint32_t len)
{
	return end >= len && memcmp(&ids[end - len], &ids[n - len], 4 * (size_t)len) == 0;
}

/* The longest suffix of n ids that ends earlier, or, once the index is full, among its ids. */
static uint32_t longest(uint32_t n)
{
	uint32_t last = n - 1 < MOST ? n - 1 : MOST, best = 0;

	for (uint32_t end = 1; end <= last; end++)
		while (best < end && same(n, end, best + 1))
			best++;
	return best;
}

static void add_and_check(uint32_t n)
{
	plx_suffix_add(&x, ids[n - 1]);
	assert_int_equal(x.n, n);
	assert_int_equal(x.match_len, longest(n));
	assert_true(x.match_len == 0 || same(n, x.match_end, x.match_len));
	assert_true(x.match_end < n);
	assert_true(x.n_state <= 2 * MOST && x.n_edge < MOST);
}

static void test_suffix_literal(void **state)
{
	/* 1 2 3 1 2 4 1 2 3 1: longest suffix seen before, and where it ended last. */
	static const int32_t text[10] = {1, 2, 3, 1, 2, 4, 1, 2, 3, 1};
	static const uint32_t len[10] = {0, 0, 0, 1, 2, 0, 1, 2, 3, 4};
	static const uint32_t end[10] = {0, 0, 0, 1, 2, 0, 4, 5, 3, 4};

	(void)state;
	for (uint32_t i = 0; i < 10; i++) {
		plx_suffix_add(&x, text[i]);
		assert_int_equal(x.match_len, len[i]);
		if (len[i])
			assert_int_equal(x.match_end, end[i]);
	}
}

static void test_suffix_is_the_longest(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 60; round++) {
		uint32_t alphabet = 1 + draw(round % 3 == 0 ? 2 : 40), copy = draw(8);

		plx_suffix_clear(&x);
		for (uint32_t n = 1; n <= MOST; n++) {
			uint32_t from = n > 20 ? draw(n - 20) : 0;

			ids[n - 1] = (int32_t)draw(alphabet);
			/* Now and then a stretch that stood before. */
			for (uint32_t i = 0; copy && n > 20 && draw(20) < copy && i < 19;
			     i++, n++) {
				ids[n - 1] = ids[from + i];
				if (n == MOST)
					break;
				add_and_check(n);
				ids[n] = (int32_t)draw(alphabet);
			}
			add_and_check(n);
		}
	}
}

/* Beyond its bound the index stays what it was and is only searched. */
static void test_suffix_full_is_searched(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 20; round++) {
		plx_suffix_clear(&x);
		for (uint32_t n = 1; n <= 2 * MOST; n++) {
			ids[n - 1] = n > MOST && draw(8) ? ids[n - MOST + round] : (int32_t)draw(3);
			plx_suffix_add(&x, ids[n - 1]);
			assert_int_equal(x.match_len, longest(n));
			assert_true(same(n, x.match_end, x.match_len) && x.match_end < n);
		}
		assert_true(x.n_state <= 2 * MOST && x.n_edge < MOST);
	}
}

/* A step follows exactly the ids that came behind the state's strings; branches says if several. */
static void test_suffix_steps(void **state)
{
	(void)state;
	for (uint32_t n = 1; n <= MOST; n++) {
		ids[n - 1] = (int32_t)draw(6);
		plx_suffix_add(&x, ids[n - 1]);
		uint32_t seen = 0;

		for (uint32_t end = x.match_len; end < n; end++)
			seen |= same(n, end, x.match_len) ? 1u << ids[end] : 0;
		for (int32_t id = 0; id < 6; id++)
			assert_int_equal(plx_suffix_step(&x, x.match, id) != PLX_SUFFIX_NONE,
			                 seen >> id & 1);
		assert_int_equal(plx_suffix_branches(&x, x.match), (seen & (seen - 1)) != 0);
	}
}

/* The texts with most states (a b b b ...) and most edges (a b b ... b c) stay within the bounds.
 */
static void test_suffix_worst_texts(void **state)
{
	(void)state;
	for (uint32_t end = 0; end < 2; end++) {
		plx_suffix_clear(&x);
		for (uint32_t n = 0; n < MOST; n++) {
			ids[n] = n == 0 ? 1 : end && n == MOST - 1 ? 3 : 2;
			plx_suffix_add(&x, ids[n]);
		}
		assert_true(x.n_state <= 2 * MOST && x.n_edge < MOST);
	}
	assert_int_equal(x.n_state, 2 * MOST - 2);
	plx_suffix_clear(&x);
	for (uint32_t n = 0; n < MOST; n++)
		plx_suffix_add(&x, (int32_t)n);
	assert_int_equal(x.n_state, MOST + 1);
	assert_int_equal(x.n_edge, MOST - 1); /* all but one of the root's */
	assert_int_equal(x.match_len, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_suffix_literal, open_index, close_index),
	    cmocka_unit_test_setup_teardown(test_suffix_is_the_longest, open_index, close_index),
	    cmocka_unit_test_setup_teardown(test_suffix_full_is_searched, open_index, close_index),
	    cmocka_unit_test_setup_teardown(test_suffix_steps, open_index, close_index),
	    cmocka_unit_test_setup_teardown(test_suffix_worst_texts, open_index, close_index),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
