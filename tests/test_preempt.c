/*
 * Memory under pressure: blocks on demand, who leaves, who goes on, and the same ids whatever
 * happens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "tests/lib/guess.h"

static struct rig g;
static struct guess drafts;

static void no_eog(void)
{
	plx_fake_conf(g.fake)->eog_every = 0;
	g.s.conf.n_eog = 0;
}

static void test_preempt_blocks_come_with_positions(void **state)
{
	/* slots, blocks, tokens, sequences, steps, cache, copies, host */
	static const struct rig_shape h = {2, 12, 64, 2, 2, false, false, 0};
	int32_t p[20];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	rig_prompt(p, 20, 5);
	struct plx_sched_job j = rig_job(&g, 0, p, 20, 1, 100, 1);

	assert_int_equal(rig_add(&g, 0, &j), 0);
	rig_turn(&g);
	/* 20 prompt positions and the first token: two blocks of the eight it may need. */
	assert_int_equal(g.s.ent[0].need_blocks, 8);
	assert_int_equal(plx_kv_room(&g.s.kv), 10);
	for (uint32_t i = 0; i < 20; i++)
		rig_turn(&g);
	assert_int_equal(plx_kv_room(&g.s.kv), 8); /* two tokens a turn */
	rig_run_out(&g);
	assert_int_equal(g.r[0].n_got[0], 100);
	assert_int_equal(g.s.stats.preempted, 0);
	rig_close(&g);
}

static void test_preempt_youngest_leaves_and_says_the_same(void **state)
{
	static const struct rig_shape h = {3, 12, 64, 3, 2, false, false, 0};
	int32_t p[16];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 3; k++) {
		rig_prompt(p, 16, 100 * (int32_t)k);
		struct plx_sched_job j = rig_job(&g, k, p, 16, 1, 90, k);

		assert_int_equal(rig_add(&g, k, &j), 0);
		rig_turn(&g);
	}
	/* Each needs 7 blocks in the end: 21 of 12. */
	while (g.s.stats.preempted == 0)
		rig_turn(&g);
	const struct plx_seq *q[3];

	for (uint32_t k = 0; k < 3; k++)
		q[k] = &g.s.seq[g.s.ent[k].slot[0]];
	assert_false(q[0]->leaving || q[0]->away || q[1]->leaving || q[1]->away);
	assert_true(q[2]->leaving || q[2]->away);
	rig_run_out(&g);
	for (uint32_t k = 0; k < 3; k++)
		assert_int_equal(g.r[k].n_got[0], 90);
	assert_true(g.s.stats.preempted >= 2);
	assert_true(g.s.stats.recomputed_tokens > 60);
	rig_close(&g);
}

/* Four samples may need 25 blocks of 12: they take turns, and say the same. */
static void test_preempt_samples_need_not_fit_at_once(void **state)
{
	static const struct rig_shape h = {4, 12, 64, 4, 2, true, true, 0};
	int32_t p[20];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	rig_prompt(p, 20, 5);
	struct plx_sched_job j = rig_job(&g, 0, p, 20, 4, 90, 1);

	assert_int_equal(rig_add(&g, 0, &j), 0);
	assert_int_equal(g.s.ent[0].need_blocks, 25);
	rig_run_out(&g);
	assert_int_equal(g.n_done, 1);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(g.r[0].n_got[i], 90);
	assert_true(g.s.stats.preempted > 0);
	rig_close(&g);
}

static void test_preempt_priority_keeps_its_blocks(void **state)
{
	static const struct rig_shape h = {2, 8, 64, 2, 2, false, false, 0};
	int32_t p[16];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 2; k++) {
		rig_prompt(p, 16, 100 * (int32_t)k);
		struct plx_sched_job j = rig_job(&g, k, p, 16, 1, 100, k);

		j.priority = k ? 3 : 0;
		assert_int_equal(rig_add(&g, k, &j), 0);
		rig_turn(&g);
	}
	while (g.s.stats.preempted == 0)
		rig_turn(&g);
	/* The first came earlier, the second matters more. */
	const struct plx_seq *q = &g.s.seq[g.s.ent[0].slot[0]];

	assert_true(q->leaving || q->away);
	rig_run_out(&g);
	assert_int_equal(g.s.stats.preempted, 1);
	assert_int_equal(g.n_done, 2);
	rig_close(&g);
}

static void test_preempt_cache_makes_coming_back_cheap(void **state)
{
	static const struct rig_shape h = {2, 20, 64, 2, 2, true, false, 0};
	int32_t p[70];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	rig_prompt(p, 70, 5);
	struct plx_sched_job j = rig_job(&g, 0, p, 70, 1, 40, 1);

	assert_int_equal(rig_add(&g, 0, &j), 0);
	while (g.r[0].n_got[0] < 15)
		rig_turn(&g);
	/* 84 positions came back: five full blocks stay, four positions are run again. */
	plx_sched_preempt(&g.s, g.s.ent[0].slot[0]);
	uint64_t before = g.s.stats.prefill_tokens;

	rig_run_out(&g);
	assert_int_equal(g.r[0].n_got[0], 40);
	assert_in_range(g.s.stats.recomputed_tokens, 1, 15);
	assert_in_range(g.s.stats.prefill_tokens - before, 1, 16);
	rig_close(&g);
}

/* The same pressure with and without host blocks: with them, less is computed again. */
static uint64_t recomputed_with(uint32_t n_host)
{
	const struct rig_shape h = {3, 12, 64, 3, 2, true, true, n_host};
	int32_t p[16];

	rig_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 3; k++) {
		rig_prompt(p, 16, 100 * (int32_t)k);
		struct plx_sched_job j = rig_job(&g, k, p, 16, 1, 90, k);

		assert_int_equal(rig_add(&g, k, &j), 0);
	}
	while (!plx_sched_idle(&g.s)) {
		g.s.tier.copy_ns = 0; /* not learnt, so that copying is always worth it */
		rig_turn(&g);
	}
	rig_run_out(&g);
	assert_int_equal(g.n_tokens, 270);
	assert_int_equal(g.s.tier.n_out > 0, n_host > 0);
	assert_int_equal(g.s.tier.n_back > 0, n_host > 0);
	assert_int_equal(g.n_copied, g.s.tier.n_out + g.s.tier.n_back);
	uint64_t n = g.s.stats.recomputed_tokens;

	rig_close(&g);
	return n;
}

static void test_preempt_host_blocks_save_computing(void **state)
{
	(void)state;
	uint64_t without = recomputed_with(0), with = recomputed_with(20);

	assert_true(without > 60);
	/* Less than a block for each that was preempted. */
	assert_in_range(with, 0, 16 * 3);
}

static void test_preempt_samples_copy_the_last_block(void **state)
{
	static const struct rig_shape h = {4, 22, 200, 4, 2, false, true, 0};
	int32_t p[100];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	rig_prompt(p, 100, 5);
	struct plx_sched_job j = rig_job(&g, 0, p, 100, 4, 24, 3);

	assert_int_equal(rig_add(&g, 0, &j), 0);
	rig_run_out(&g);
	assert_int_equal(g.n_tokens, 4 * 24);
	/* 96 positions are shared, 3 copied; the last token is run by each. */
	assert_int_equal(g.s.stats.prefill_tokens, 100 + 3);
	assert_int_equal(g.s.tier.n_cow, 3);
	rig_close(&g);
}

/* Who shares finds what others that share have said, and nobody else finds it. */
static void test_preempt_prefixes_are_shared_by_choice(void **state)
{
	static const struct rig_shape h = {2, 40, 64, 2, 2, true, false, 0};
	static const struct {
		uint32_t tenant;
		bool share;
		uint32_t cached;
	} turn[] = {{1, true, 0},  {2, true, 64},  {2, false, 0}, {3, false, 0},
	            {1, false, 0}, {1, false, 64}, {0, false, 0}, {3, true, 64}};
	int32_t p[70];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	rig_prompt(p, 70, 5);
	for (uint32_t i = 0; i < sizeof(turn) / sizeof(turn[0]); i++) {
		struct plx_sched_job j = rig_job(&g, i, p, 70, 1, 4, i);

		j.tenant = turn[i].tenant;
		j.share_prefix = turn[i].share;
		assert_int_equal(rig_add(&g, i, &j), 0);
		rig_run_out(&g);
		assert_int_equal(g.r[i].final.cached_tokens, turn[i].cached);
	}
	rig_close(&g);
}

static void test_preempt_have_goes_on_where_it_was(void **state)
{
	static const struct rig_shape h = {4, 40, 64, 4, 2, true, false, 0};
	int32_t p[37];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	rig_prompt(p, 37, 5);
	struct plx_sched_job j = rig_job(&g, 0, p, 37, 4, 30, 1);

	rig_had(&g, &j, 0, 0, 30, PLX_SEQ_END_LENGTH);
	rig_had(&g, &j, 0, 1, 17, PLX_SEQ_END_NONE);
	rig_had(&g, &j, 0, 2, 0, PLX_SEQ_END_NONE);
	rig_had(&g, &j, 0, 3, 29, PLX_SEQ_END_NONE);
	assert_int_equal(rig_add(&g, 0, &j), 0);
	rig_run_out(&g);
	assert_int_equal(g.n_done, 1);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(g.r[0].n_got[i], 30);
	assert_int_equal(g.n_tokens, 13 + 30 + 1);
	assert_int_equal(g.r[0].final.n_out[0], 30);
	assert_int_equal(g.r[0].final.end[0], PLX_SEQ_END_LENGTH);
	/* Two blocks are shared and run once; 5 + 17, 5 and 5 + 29 positions are each one's own. */
	assert_int_equal(g.s.stats.prefill_tokens, 32 + 22 + 5 + 34);
	/* Nothing to go on with is no request. */
	rig_had(&g, &j, 0, 1, 30, PLX_SEQ_END_NONE);
	assert_int_equal(rig_add(&g, 0, &j), PLX_E_BAD_REQUEST);
	rig_close(&g);
}

static void test_preempt_fault_with_too_little_left_resets_at_once(void **state)
{
	static const struct rig_shape h = {2, 10, 64, 2, 2, false, false, 0};
	int32_t p[16];

	(void)state;
	rig_open(&g, &h);
	no_eog();
	g.s.conf.window = 5;
	for (uint32_t k = 0; k < 2; k++) {
		rig_prompt(p, 16, 100 * (int32_t)k);
		struct plx_sched_job j = rig_job(&g, k, p, 16, 1, 100, k);

		assert_int_equal(rig_add(&g, k, &j), 0);
	}
	rig_turn(&g);
	plx_sched_window(&g.s, 0, 0, 1000);
	while (g.r[0].n_got[0] < 75)
		rig_turn(&g);
	/* The second stands at its window; the step that fails runs the first alone. */
	plx_fake_conf(g.fake)->fail_status = PLX_E_FAULT;
	rig_turn(&g);
	assert_int_equal(g.n_rejected, 1);
	assert_int_equal(g.s.kv.n_quarantined, 6);
	assert_int_equal(plx_fake_resets(g.fake), 0);
	/* It goes on until the four blocks that are left are full: 64 positions, 49 ids. */
	plx_sched_window(&g.s, 1, 0, 1000);
	while (plx_fake_resets(g.fake) == 0)
		rig_turn(&g);
	assert_int_equal(g.r[1].n_got[0], 49);
	rig_run_out(&g);
	assert_int_equal(plx_fake_resets(g.fake), 1);
	assert_int_equal(g.r[1].n_got[0], 100);
	rig_close(&g);
}

/* ---- random operations ---- */

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

static void random_have(struct plx_sched_job *j, uint32_t key)
{
	struct rig_req *r = &g.r[key];

	for (uint32_t i = 0; i < r->n_samples; i++) {
		uint32_t n = r->n_want[i] ? rnd(r->n_want[i]) : 0;
		bool over = i + 1 < r->n_samples && rnd(3) == 0;

		rig_had(&g, j, key, i, n, over ? PLX_SEQ_END_STOP : PLX_SEQ_END_NONE);
		r->stopped[i] = over;
	}
}

static void random_add(void)
{
	uint32_t key = rnd(RIG_KEYS);
	int32_t p[RIG_TEXT];

	if (g.r[key].live || rnd(3))
		return;
	bool beyond = g.s.tier.copy && rnd(4) == 0;
	uint32_t n = 1 + rnd(rnd(4) ? 60 : RIG_CTX - 1);

	if (beyond && rnd(2))
		n += rnd(400);
	uint32_t same = rnd(n + 1);

	/* One of three beginnings, then something new. */
	rig_prompt(p, n, (int32_t)rnd(3));
	rig_prompt(p + same, n - same, (int32_t)rnd(RIG_VOCAB));
	struct plx_sched_job j =
	    rig_job(&g, key, p, n, 1 + rnd(4) / 3 * rnd(RIG_SAMPLES), 1 + rnd(RIG_NEW), rnd(100));

	if (beyond)
		rig_beyond(&g, &j, key, 1 + rnd(RIG_NEW));
	j.tenant = rnd(2);
	j.priority = (uint8_t)rnd(PLX_SCHED_PRIORITIES);
	j.share_prefix = rnd(2) != 0;
	if (rnd(6) == 0)
		random_have(&j, key);
	rig_add(&g, key, &j);
}

static void random_end(void)
{
	uint32_t key = rnd(RIG_KEYS), sample = rnd(RIG_SAMPLES);
	struct rig_req *r = &g.r[key];

	if (rnd(4) == 0) {
		plx_sched_cancel(&g.s, key, 1, g.now);
		assert_false(r->live);
	} else if (r->live && r->ended[sample] == 0 && r->n_got[sample] > 0 &&
	           g.s.ent[key].start_ns) {
		r->stopped[sample] = true;
		r->ended[sample] = PLX_SEQ_END_STOP;
		plx_sched_stop(&g.s, key, sample, g.now);
	}
}

static void random_preempt(void)
{
	uint32_t slot = rnd(g.conf.n_slots);
	const struct plx_seq *q = &g.s.seq[slot];

	if (q->state == PLX_SEQ_RUN && !q->leaving && q->n_blocks > 0)
		plx_sched_preempt(&g.s, slot);
}

static void random_fault(void)
{
	static const int status[] = {PLX_E_FAULT, PLX_E_LOST, PLX_E_TIMEOUT, PLX_E_CANCELLED};

	if (rnd(2))
		plx_fake_conf(g.fake)->fail_status = status[rnd(4)];
	else
		plx_fake_conf(g.fake)->nan_slot1 = 1 + rnd(g.conf.n_slots);
}

static void random_op(void)
{
	switch (rnd(16)) {
	case 0:
	case 1:
	case 2:
		random_add();
		break;
	case 3:
		if (rnd(6) == 0)
			random_end();
		break;
	case 4:
		plx_sched_tick(&g.s, g.now);
		break;
	case 5:
		plx_sched_window(&g.s, rnd(RIG_KEYS), rnd(RIG_SAMPLES), rnd(200));
		break;
	case 6:
		plx_fake_conf(g.fake)->polls = rnd(3);
		if (rnd(60) == 0)
			random_fault();
		break;
	case 7:
		g.s.tier.copy_ns = rnd(2) ? 0 : 1e15; /* worth it, and never worth it */
		if (rnd(4) == 0)
			random_preempt();
		break;
	default:
		rig_turn(&g);
		break;
	}
}

static void open_windows(void)
{
	for (uint32_t k = 0; k < RIG_KEYS; k++)
		for (uint32_t i = 0; i < RIG_SAMPLES; i++)
			plx_sched_window(&g.s, k, i, 1000);
	g.s.conf.window = 1000;
	plx_fake_conf(g.fake)->fail_status = 0;
	plx_fake_conf(g.fake)->nan_slot1 = 0;
}

/* One world with a pool that is far too small; every id is right, each request ends once. */
static void random_world(uint64_t seed, uint32_t n_ops)
{
	rng_state = seed;
	uint32_t n_slots = 5 + rnd(10);
	struct rig_shape h = {n_slots,
	                      10 + rnd(8),
	                      2 + rnd(3) * 20 + rnd(16),
	                      1 + rnd(n_slots),
	                      2 + rnd(2),
	                      rnd(3) != 0,
	                      rnd(3) != 0,
	                      0};

	h.n_host = h.cache && rnd(3) ? 1 + rnd(30) : 0;

	rig_open(&g, &h);
	drafts =
	    (struct guess){.wrong = 1 + rnd(8), .most = PLX_MAX_DRAFT, .forks = rnd(4), .p = 0.8f};
	if (rnd(2))
		guess_open(&drafts, &g);
	g.s.conf.window = 1 + rnd(100);
	g.s.conf.pause_ns = 400;
	for (uint32_t i = 0; i < n_ops; i++) {
		random_op();
		if (i % 16 == 0)
			plx_sched_check(&g.s);
	}
	open_windows();
	rig_run_out(&g);
	for (uint32_t k = 0; k < RIG_KEYS; k++)
		assert_false(g.r[k].live);
}

static void test_preempt_million_random_operations(void **state)
{
	uint64_t tokens = 0, done = 0, preempted = 0, recomputed = 0, out = 0, back = 0, cow = 0;
	uint64_t shifts = 0, drafted = 0, accepted = 0, branches = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		random_world(seed, 25000);
		tokens += g.n_tokens;
		done += g.n_done;
		preempted += g.s.stats.preempted;
		recomputed += g.s.stats.recomputed_tokens;
		out += g.s.tier.n_out;
		back += g.s.tier.n_back;
		cow += g.s.tier.n_cow;
		shifts += g.s.stats.shifts;
		drafted += g.s.draft.drafted[0];
		accepted += g.s.draft.accepted[0];
		branches += g.s.draft.branches;
		rig_close(&g);
	}

	/* The operations reached what they are meant to reach. */
	assert_true(tokens > 100000 && done > 5000);
	assert_true(preempted > 3000 && recomputed > 80000);
	assert_true(drafted > 20000 && accepted > 5000 && accepted < drafted);
	assert_true(branches > 3000);
	assert_true(out > 500 && back > 40 && cow > 100);
	assert_true(shifts > 2000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_preempt_blocks_come_with_positions),
	    cmocka_unit_test(test_preempt_youngest_leaves_and_says_the_same),
	    cmocka_unit_test(test_preempt_priority_keeps_its_blocks),
	    cmocka_unit_test(test_preempt_samples_need_not_fit_at_once),
	    cmocka_unit_test(test_preempt_cache_makes_coming_back_cheap),
	    cmocka_unit_test(test_preempt_host_blocks_save_computing),
	    cmocka_unit_test(test_preempt_samples_copy_the_last_block),
	    cmocka_unit_test(test_preempt_prefixes_are_shared_by_choice),
	    cmocka_unit_test(test_preempt_have_goes_on_where_it_was),
	    cmocka_unit_test(test_preempt_fault_with_too_little_left_resets_at_once),
	    cmocka_unit_test(test_preempt_million_random_operations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
