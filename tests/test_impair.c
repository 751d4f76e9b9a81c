/* The bad network: what goes in comes out as the chances say, the same for the same seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/impair.h"

static void put(struct plx_impair *im, uint8_t byte, uint64_t now_ns)
{
	uint8_t data[100];

	memset(data, byte, sizeof(data));
	plx_impair_put(im, PLX_IMPAIR_UP, 7, data, sizeof(data), now_ns);
}

static struct plx_impair *open_up(struct plx_impair_cfg cfg)
{
	struct plx_impair *im = plx_impair_new((struct plx_impair_cfg[PLX_IMPAIR_DIRS]){cfg});

	assert_non_null(im);
	return im;
}

static void test_impair_passes_in_order_without_chances(void **state)
{
	struct plx_impair *im = open_up((struct plx_impair_cfg){.delay_us = 5});
	static struct plx_impair_packet p;

	(void)state;
	put(im, 1, 1000);
	put(im, 2, 1000);
	assert_int_equal(plx_impair_next_ns(im), 6000);
	assert_false(plx_impair_get(im, 5999, &p));
	assert_true(plx_impair_get(im, 6000, &p));
	assert_int_equal(p.data[99], 1);
	assert_int_equal(p.flow, 7);
	assert_int_equal(p.n_bytes, 100);
	assert_true(plx_impair_get(im, 6000, &p));
	assert_int_equal(p.data[0], 2);
	assert_false(plx_impair_get(im, UINT64_MAX, &p));
	assert_int_equal(plx_impair_next_ns(im), UINT64_MAX);
	plx_impair_free(im);
}

static void test_impair_reordered_packet_is_overtaken(void **state)
{
	struct plx_impair *im = open_up((struct plx_impair_cfg){.reorder = 1, .reorder_us = 50});
	static struct plx_impair_packet p;

	(void)state;
	put(im, 1, 0);
	plx_impair_set(im, PLX_IMPAIR_UP, &(struct plx_impair_cfg){0});
	put(im, 2, 100);
	assert_true(plx_impair_get(im, 60000, &p));
	assert_int_equal(p.data[0], 2);
	assert_true(plx_impair_get(im, 60000, &p));
	assert_int_equal(p.data[0], 1);
	plx_impair_free(im);
}

static void test_impair_damages_a_copy_when_told_to_spare(void **state)
{
	struct plx_impair *im =
	    open_up((struct plx_impair_cfg){.corrupt = 1, .spare_originals = true});
	static struct plx_impair_packet p, q;
	int differ = 0;

	(void)state;
	put(im, 9, 0);
	assert_true(plx_impair_get(im, 1, &p));
	assert_true(plx_impair_get(im, 1, &q));
	for (int i = 0; i < 100; i++)
		differ += __builtin_popcount((unsigned)(p.data[i] ^ q.data[i]));
	assert_int_equal(differ, 1);
	assert_int_equal(p.data[0], 9);
	plx_impair_free(im);
}

/* Ten per cent each of 10,000: every count within five standard deviations (150) of 1,000. */
static void test_impair_chances_hold_and_repeat_with_the_seed(void **state)
{
	struct plx_impair_cfg cfg = {.loss = 0.1, .duplicate = 0.1, .reorder = 0.1, .seed = 42};
	struct plx_impair_counts first = {0};
	static struct plx_impair_packet p;

	(void)state;
	for (int run = 0; run < 2; run++) {
		struct plx_impair *im = open_up(cfg);

		for (uint64_t i = 0; i < 10000; i++) {
			put(im, (uint8_t)i, i * 100000);
			while (plx_impair_get(im, i * 100000, &p))
				;
		}
		while (plx_impair_get(im, UINT64_MAX, &p))
			;
		const struct plx_impair_counts *c = plx_impair_counts_of(im, PLX_IMPAIR_UP);

		assert_in_range(c->lost, 850, 1150);
		assert_in_range(c->duplicated, 760, 1050);
		assert_in_range(c->reordered, 850, 1150);
		assert_int_equal(c->out, 10000 - c->lost + c->duplicated);
		assert_int_equal(c->full, 0);
		if (run)
			assert_memory_equal(c, &first, sizeof(first));
		first = *c;
		plx_impair_free(im);
	}
}

static void test_impair_replays_and_limits_size(void **state)
{
	struct plx_impair *im = open_up((struct plx_impair_cfg){.replay = 1, .mtu_bytes = 100});
	static struct plx_impair_packet p;
	static const uint8_t big[101];

	(void)state;
	put(im, 1, 0);
	put(im, 2, 0);
	plx_impair_put(im, PLX_IMPAIR_UP, 7, big, sizeof(big), 0);
	const uint8_t expect[] = {1, 1, 2};

	for (int i = 0; i < 3; i++) {
		assert_true(plx_impair_get(im, 0 + 1, &p));
		assert_int_equal(p.data[0], expect[i]);
	}
	assert_false(plx_impair_get(im, UINT64_MAX, &p));
	assert_int_equal(plx_impair_counts_of(im, PLX_IMPAIR_UP)->too_big, 1);
	plx_impair_free(im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_impair_passes_in_order_without_chances),
	    cmocka_unit_test(test_impair_reordered_packet_is_overtaken),
	    cmocka_unit_test(test_impair_damages_a_copy_when_told_to_spare),
	    cmocka_unit_test(test_impair_chances_hold_and_repeat_with_the_seed),
	    cmocka_unit_test(test_impair_replays_and_limits_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
