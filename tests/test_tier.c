/* Batches of copies, what a copy takes, and the prefix cache's second level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/prefix.h"

#define BT   16u
#define POOL 4u
#define HOST 2u

struct call {
	uint32_t n;
	struct plx_block_copy pair[PLX_TIER_PAIRS];
};

struct world {
	struct plx_arena arena;
	struct plx_kv kv;
	struct plx_prefix px;
	struct plx_tier t;
	struct call call[8];
	uint32_t n_calls;
};

static struct world w;
static int32_t text[8 * BT];

static void on_copy(void *ctx, const struct plx_block_copy *pairs, uint32_t n)
{
	struct call *c = &w.call[w.n_calls++];

	assert_ptr_equal(ctx, &w);
	assert_in_range(w.n_calls, 1, 8);
	c->n = n;
	memcpy(c->pair, pairs, n * sizeof(*pairs));
}

static int world_open(void **state)
{
	struct plx_diag d = {""};

	(void)state;
	memset(&w, 0, sizeof(w));
	for (uint32_t i = 0; i < 8 * BT; i++)
		text[i] = (int32_t)(i * 7);
	assert_int_equal(plx_arena_open(&w.arena,
	                                plx_kv_bytes(POOL) + plx_prefix_bytes(POOL + HOST, BT) +
	                                    plx_tier_bytes(POOL, HOST),
	                                &d),
	                 0);
	assert_int_equal(plx_kv_init(&w.kv, &w.arena, POOL), 0);
	assert_int_equal(plx_prefix_init(&w.px, &w.arena, &w.kv, HOST, BT, true, 5), 0);
	assert_int_equal(plx_tier_init(&w.t, &w.arena, POOL, HOST), 0);
	plx_prefix_use_tier(&w.px, &w.t);
	w.t.copy = on_copy;
	w.t.ctx = &w;
	return 0;
}

static int world_close(void **state)
{
	(void)state;
	plx_arena_close(&w.arena);
	return 0;
}

/* n blocks of text, computed, known and parked, the last first. */
static void park_text(uint32_t tenant, uint32_t n, uint32_t *block)
{
	struct plx_prefix_at at = plx_prefix_begin(tenant);

	for (uint32_t i = 0; i < n; i++) {
		block[i] = plx_prefix_take(&w.px);
		plx_prefix_add(&w.px, &at, &text[i * BT], block[i]);
	}
	for (uint32_t i = n; i-- > 0;)
		plx_prefix_drop(&w.px, block[i]);
}

static void assert_pair(uint32_t call, uint32_t i, uint32_t src, uint32_t dst)
{
	assert_in_range(i, 0, w.call[call].n - 1);
	assert_int_equal(w.call[call].pair[i].src, src);
	assert_int_equal(w.call[call].pair[i].dst, dst);
}

static void test_tier_a_block_is_once_in_a_call(void **state)
{
	(void)state;
	plx_tier_pair(&w.t, 0, 4);
	plx_tier_pair(&w.t, 1, 5);
	assert_int_equal(w.n_calls, 0);
	/* Block 0 was copied out and is written now: not in the same call. */
	plx_tier_pair(&w.t, 5, 0);
	assert_int_equal(w.n_calls, 1);
	assert_int_equal(w.call[0].n, 2);
	assert_pair(0, 1, 1, 5);
	plx_tier_flush(&w.t);
	plx_tier_flush(&w.t);
	assert_int_equal(w.n_calls, 2);
	assert_int_equal(w.call[1].n, 1);
	assert_pair(1, 0, 5, 0);
	assert_int_equal(w.t.n_out, 2);
	assert_int_equal(w.t.n_back, 1);
}

static void test_tier_learns_what_a_copy_takes(void **state)
{
	struct plx_step st = {.id = 1, .start_ns = 1000, .end_ns = 2000};

	(void)state;
	plx_tier_step_sent(&w.t, 1, false);
	plx_tier_pair(&w.t, 0, 4);
	plx_tier_pair(&w.t, 1, 5);
	plx_tier_flush(&w.t);
	plx_tier_step_sent(&w.t, 2, true);
	plx_tier_step_came(&w.t, &st, true);
	assert_true(w.t.copy_ns == 0);
	st = (struct plx_step){.id = 2, .start_ns = 2600, .end_ns = 4000};
	plx_tier_step_came(&w.t, &st, true);
	assert_true(w.t.copy_ns == 300);
	assert_true(plx_tier_worth(&w.t, 300));
	assert_false(plx_tier_worth(&w.t, 100));
	/* One that found the device idle says nothing. */
	plx_tier_pair(&w.t, 0, 4);
	plx_tier_flush(&w.t);
	plx_tier_step_sent(&w.t, 3, false);
	st = (struct plx_step){.id = 3, .start_ns = 9000, .end_ns = 9100};
	plx_tier_step_came(&w.t, &st, true);
	assert_in_range((uint64_t)w.t.copy_ns, 290, 300);
}

static void test_tier_evicted_blocks_are_found_again(void **state)
{
	struct plx_prefix_at at = plx_prefix_begin(1);
	uint32_t b[3], taken[POOL];

	(void)state;
	park_text(1, 3, b);
	for (uint32_t i = 0; i < 3; i++)
		taken[i] = plx_prefix_take(&w.px);
	/* One was free; the last of the text and the one before it had to go. */
	plx_tier_flush(&w.t);
	assert_int_equal(w.n_calls, 1);
	assert_int_equal(w.call[0].n, 2);
	assert_int_equal(w.call[0].pair[0].src, b[2]);
	assert_int_equal(w.call[0].pair[1].src, b[1]);
	for (uint32_t i = 0; i < 3; i++)
		plx_prefix_drop(&w.px, taken[i]);
	assert_int_equal(plx_prefix_hold(&w.px, &at, text), b[0]);
	/* Known, but not in the pool: fetched. */
	assert_int_equal(plx_prefix_hold(&w.px, &at, &text[BT]), PLX_KV_NONE);
	uint32_t back = plx_prefix_fetch(&w.px, &at, &text[BT]);

	assert_in_range(back, 0, POOL - 1);
	plx_tier_flush(&w.t);
	assert_int_equal(w.call[1].n, 1);
	assert_pair(1, 0, w.call[0].pair[1].dst, back);
	assert_int_equal(w.t.kv.n_free, 1);
	/* From now on it is in the pool. */
	at = plx_prefix_begin(1);
	assert_int_equal(plx_prefix_find(&w.px, &at, text), b[0]);
	assert_int_equal(plx_prefix_find(&w.px, &at, &text[BT]), back);
	assert_in_range(plx_prefix_find(&w.px, &at, &text[2 * BT]), POOL, POOL + HOST - 1);
}

static void test_tier_full_of_others_takes_what_was_found(void **state)
{
	struct plx_prefix_at at = plx_prefix_begin(1);
	uint32_t b[4], c[4];

	(void)state;
	park_text(1, 4, b); /* fills the pool */
	park_text(2, 4, c); /* two go to the host, two are forgotten */
	assert_int_equal(w.t.n_out, 2);
	assert_int_equal(w.t.kv.n_free, 0);
	assert_int_equal(plx_prefix_find(&w.px, &at, text), PLX_KV_NONE);
	/* The first of the second text is found, so it lasts longer than the rest of it. */
	at = plx_prefix_begin(2);
	uint32_t first = plx_prefix_hold(&w.px, &at, text);

	assert_int_equal(first, c[0]);
	plx_prefix_drop(&w.px, first);
	for (uint32_t i = 0; i < 3; i++)
		(void)plx_prefix_take(&w.px);
	at = plx_prefix_begin(2);
	assert_int_equal(plx_prefix_find(&w.px, &at, text), c[0]);
	plx_prefix_clear(&w.px);
	assert_int_equal(w.t.kv.n_free, HOST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_tier_a_block_is_once_in_a_call, world_open,
	                                    world_close),
	    cmocka_unit_test_setup_teardown(test_tier_learns_what_a_copy_takes, world_open,
	                                    world_close),
	    cmocka_unit_test_setup_teardown(test_tier_evicted_blocks_are_found_again, world_open,
	                                    world_close),
	    cmocka_unit_test_setup_teardown(test_tier_full_of_others_takes_what_was_found,
	                                    world_open, world_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
