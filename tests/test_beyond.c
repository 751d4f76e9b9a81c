/*
 * Texts that outgrow their context: the oldest tokens leave at fixed places, and every id is the
 * same whatever happens on the way. Contexts are of ten blocks of 16; two leave at a time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "tests/lib/schedrig.h"

static struct rig g;

/* slots, blocks, tokens, sequences, steps, cache, copies, host */
static const struct rig_shape plain = {4, 44, 64, 4, 2, false, true, 0};
static const struct rig_shape caching = {4, 44, 64, 4, 2, true, true, 0};
static const struct rig_shape roomy = {6, 90, 64, 6, 2, true, true, 0};

static void open_rig(const struct rig_shape *h)
{
	rig_open(&g, h);
	plx_fake_conf(g.fake)->eog_every = 0;
	g.s.conf.n_eog = 0;
}

/* A request under key: n prompt ids from `first` on, n_new of an answer. */
static int add(uint32_t key, int32_t first, uint32_t n, uint32_t n_samples, uint32_t n_new)
{
	int32_t p[RIG_TEXT];

	rig_prompt(p, n, first);
	struct plx_sched_job j = rig_job(&g, key, p, n, n_samples, n_new, key);

	rig_beyond(&g, &j, key, n_new);
	return rig_add(&g, key, &j);
}

static void test_shift_rule_in_words(void **state)
{
	struct plx_shift r = plx_shift_of(170, 16);

	(void)state;
	assert_int_equal(r.n_blocks, 10);
	assert_int_equal(r.drop, 2);
	assert_int_equal(plx_shift_left(&r, 159), 0);
	assert_int_equal(plx_shift_left(&r, 160), 32);
	assert_int_equal(plx_shift_left(&r, 191), 32);
	assert_int_equal(plx_shift_left(&r, 192), 64);
	assert_int_equal(plx_shift_of(2048, 32).drop, 16);
	assert_int_equal(plx_shift_of(64, 16).drop, 1);
	assert_int_equal(plx_shift_of(63, 16).drop, 0);
}

static void test_beyond_an_answer_goes_on(void **state)
{
	(void)state;
	open_rig(&plain);
	assert_int_equal(add(0, 5, 40, 1, 200), 0);
	rig_run_out(&g);
	assert_int_equal(g.r[0].n_got[0], 200);
	assert_int_equal(g.r[0].final.end[0], PLX_SEQ_END_LENGTH);
	/* The last of 240 tokens was made after token 238 was run: 160, 192 and 224 were before. */
	assert_int_equal(g.r[0].final.n_left[0], 96);
	assert_int_equal(g.s.stats.shifts, 3);
	assert_int_equal(g.s.stats.left_tokens, 96);
	rig_close(&g);
}

static void test_beyond_without_leave_is_refused_or_ends(void **state)
{
	int32_t p[RIG_TEXT];
	struct plx_sched_admit out;

	(void)state;
	open_rig(&plain);
	rig_prompt(p, 160, 5);
	struct plx_sched_job j = rig_job(&g, 0, p, 160, 1, 50, 1);

	assert_int_equal(plx_sched_add(&g.s, 0, &j, g.now, &out), PLX_E_TOO_LARGE);
	assert_string_equal(out.why,
	                    "the prompt is longer than the context, and may not be compressed");
	j = rig_job(&g, 0, p, 140, 1, 50, 1);
	assert_int_equal(rig_add(&g, 0, &j), 0);
	rig_run_out(&g);
	assert_int_equal(g.r[0].final.end[0], PLX_SEQ_END_CONTEXT);
	assert_int_equal(g.r[0].n_got[0], 20);
	assert_int_equal(g.r[0].final.n_left[0], 0);
	/* A limit there is, for those too. */
	g.s.conf.max_prompt = 300;
	assert_int_equal(add(0, 5, 301, 1, 10), PLX_E_TOO_LARGE);
	assert_int_equal(add(0, 5, 300, 1, 10), 0);
	rig_run_out(&g);
	rig_close(&g);
}

static void test_beyond_a_device_that_cannot(void **state)
{
	struct rig_shape no_copies = plain;

	(void)state;
	no_copies.copies = false;
	open_rig(&no_copies);
	assert_int_equal(add(0, 5, 300, 1, 10), PLX_E_TOO_LARGE);
	rig_close(&g);
	open_rig(&plain);
	g.s.conf.can_shift = false;
	assert_int_equal(add(0, 5, 300, 1, 10), PLX_E_TOO_LARGE);
	rig_close(&g);
}

/* The same ids in steps of any size, alone and in company. */
static void test_beyond_prompts_of_many_contexts(void **state)
{
	static const uint32_t step_tokens[] = {7, 33, 64, 200};

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		struct rig_shape h = plain;

		h.step_tokens = step_tokens[i];
		open_rig(&h);
		assert_int_equal(add(0, 5, 700, 1, 60), 0);
		assert_int_equal(add(1, 7, 161, 1, 60), 0);
		assert_int_equal(add(2, 7, 160, 1, 60), 0);
		assert_int_equal(add(3, 7, 159, 1, 60), 0);
		rig_run_out(&g);
		assert_int_equal(g.n_tokens, 240);
		/* 758 is the last that was run: 160, 192, ... 736 were before. */
		assert_int_equal(g.r[0].final.n_left[0], 19 * 32);
		assert_int_equal(g.s.stats.preempted, 0);
		rig_close(&g);
	}
}

static void test_beyond_samples_share_the_context(void **state)
{
	static const uint32_t n_prompt[] = {100, 159, 160, 161, 400};

	(void)state;
	for (uint32_t i = 0; i < 10; i++) {
		open_rig(i % 2 ? &plain : &caching);
		assert_int_equal(add(0, 5, n_prompt[i / 2], 4, 100), 0);
		rig_run_out(&g);
		assert_int_equal(g.n_tokens, 400);
		assert_true(g.s.tier.n_cow > 0);
		rig_close(&g);
	}
}

/* What the cache knows is not what moves. */
static void test_beyond_the_cache_keeps_what_it_knew(void **state)
{
	(void)state;
	open_rig(&roomy);
	assert_int_equal(add(0, 5, 300, 1, 50), 0);
	rig_run_out(&g);
	/* All of the first context is found, and nothing of what came later. */
	assert_int_equal(add(1, 5, 300, 1, 50), 0);
	rig_run_out(&g);
	assert_int_equal(g.r[1].final.cached_tokens, 160);
	assert_int_equal(add(2, 5, 300, 3, 50), 0);
	assert_int_equal(add(3, 5, 400, 1, 150), 0);
	for (uint32_t i = 0; i < 6; i++)
		rig_turn(&g);
	int32_t p[RIG_CTX];

	rig_prompt(p, 150, 5);
	struct plx_sched_job j = rig_job(&g, 4, p, 150, 1, 9, 4);

	assert_int_equal(rig_add(&g, 4, &j), 0);
	rig_run_out(&g);
	assert_int_equal(g.r[4].final.cached_tokens, 144);
	assert_int_equal(g.n_done, 5);
	rig_close(&g);
}

/* A pool that holds one context: with nobody else there, nothing is copied and all goes on. */
static void test_beyond_a_pool_of_one_context(void **state)
{
	static const struct rig_shape h = {2, 10, 64, 2, 2, true, true, 0};

	(void)state;
	open_rig(&h);
	assert_int_equal(add(0, 5, 500, 1, 100), 0);
	assert_int_equal(add(1, 5, 300, 1, 100), 0);
	rig_run_out(&g);
	assert_int_equal(g.n_tokens, 200);
	rig_close(&g);
}

static void test_beyond_preempted_it_says_the_same(void **state)
{
	(void)state;
	for (uint32_t n = 0; n < 180; n += 9) {
		open_rig(n % 2 ? &plain : &caching);
		assert_int_equal(add(0, 5, 230, 1, 180), 0);
		while (g.r[0].n_got[0] < n)
			rig_turn(&g);
		uint32_t slot = g.s.ent[0].slot[0];

		if (g.s.ent[0].start_ns && g.s.seq[slot].n_blocks > 0)
			plx_sched_preempt(&g.s, slot);
		rig_run_out(&g);
		assert_int_equal(g.r[0].n_got[0], 180);
		rig_close(&g);
	}
}

static void test_beyond_goes_on_from_what_was_said(void **state)
{
	int32_t p[RIG_TEXT];

	(void)state;
	open_rig(&caching);
	for (uint32_t k = 0; k < 8; k++) {
		rig_prompt(p, 100, 5);
		struct plx_sched_job j = rig_job(&g, k, p, 100, 2, 150, 9);

		rig_beyond(&g, &j, k, 150);
		rig_had(&g, &j, k, 0, 20 * k, PLX_SEQ_END_NONE);
		rig_had(&g, &j, k, 1, 149 - k, PLX_SEQ_END_NONE);
		assert_int_equal(rig_add(&g, k, &j), 0);
		rig_run_out(&g);
		assert_int_equal(g.r[k].n_got[0], 150);
		assert_int_equal(g.r[k].final.n_left[0], 96);
	}
	rig_close(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_shift_rule_in_words),
	    cmocka_unit_test(test_beyond_an_answer_goes_on),
	    cmocka_unit_test(test_beyond_without_leave_is_refused_or_ends),
	    cmocka_unit_test(test_beyond_a_device_that_cannot),
	    cmocka_unit_test(test_beyond_prompts_of_many_contexts),
	    cmocka_unit_test(test_beyond_samples_share_the_context),
	    cmocka_unit_test(test_beyond_the_cache_keeps_what_it_knew),
	    cmocka_unit_test(test_beyond_a_pool_of_one_context),
	    cmocka_unit_test(test_beyond_preempted_it_says_the_same),
	    cmocka_unit_test(test_beyond_goes_on_from_what_was_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
