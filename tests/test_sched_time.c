/* The scheduler over a device whose steps take time: pace, what is let in, and whose turn it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "tests/lib/schedworld.h"

static struct world w;

#define STEP_NS  1000000u /* a step */
#define TOKEN_NS 20000u   /* and each of its tokens */

/* A turn in which steps run one after the other; returns how long the longest with decodes took. */
static uint64_t timed_turn(void)
{
	uint32_t done[WORLD_STEPS];
	uint64_t longest = 0;

	while (w.n_free > 0) {
		uint32_t idx = w.free_step[w.n_free - 1];

		if (plx_sched_fill(&w.s, plx_queue_step(w.q, idx), WORLD_ROOM, w.now) == 0)
			break;
		w.n_free--;
		assert_int_equal(plx_queue_submit(w.q, idx), 0);
	}
	int n = plx_queue_poll(w.q, 0, done, WORLD_STEPS);

	for (int i = 0; i < n; i++) {
		struct plx_step *st = plx_queue_step(w.q, done[i]);
		bool decodes = plx_step_toks(st)[0].id == PLX_TOK_LAST;

		st->start_ns = w.now;
		w.now += STEP_NS + (uint64_t)TOKEN_NS * st->n_tok;
		st->end_ns = w.now;
		if (decodes && st->end_ns - st->start_ns > longest)
			longest = st->end_ns - st->start_ns;
		plx_sched_done(&w.s, st, st->status, w.now);
		w.free_step[w.n_free++] = done[i];
	}
	w.now += n == 0 ? STEP_NS : 0;
	return longest;
}

static void timed_out(void)
{
	for (uint32_t i = 0; i < 10000 && !plx_sched_idle(&w.s); i++)
		timed_turn();
	assert_true(plx_sched_idle(&w.s));
	plx_sched_check(&w.s);
}

/* Requests enough for the scheduler to know the device; keys 20 to 23. */
static void timed_open_with(uint32_t n_slots, uint32_t n_blocks)
{
	struct plx_sched_admit out;
	int32_t p[150];

	world_open(&w, n_slots, n_blocks, 128, n_slots, 2, false);
	world_no_eog(&w);
	world_prompt(p, 150, 5);
	for (uint32_t i = 0; i < 8; i++) {
		struct plx_sched_job j = world_job(&w, 20 + i % 4, p, 5 + 18 * i, 1, 10, i);

		assert_int_equal(world_add(&w, 20 + i % 4, &j, &out), 0);
		if (i % 2)
			timed_out();
	}
	memset(&w.s.stats, 0, sizeof(w.s.stats));
}

static void timed_open(uint32_t n_slots)
{
	timed_open_with(n_slots, 80);
}

static void test_sched_steps_keep_the_objective_between_tokens(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	uint64_t longest = 0;

	(void)state;
	timed_open(6);
	world_prompt(p, 150, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 10, 1, 40, k);

		j.itl_slo_ns = 2000000; /* a step of 50 tokens */
		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	timed_turn();
	timed_turn();
	/* 300 prompt tokens at once would take 7 ms; they come in chunks beside the three. */
	for (uint32_t k = 3; k < 5; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 150, 1, 5, k);

		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	for (uint32_t i = 0; i < 8; i++) {
		uint64_t ns = timed_turn();

		longest = ns > longest ? ns : longest;
	}
	assert_in_range(longest, 1400000, 2000000);
	assert_true(w.s.load.queued_tokens < 150);
	timed_out();
	assert_int_equal(w.n_rejected, 0);
	world_close(&w);
}

/* Four answers of 40 ids, begun one after the other: 7 blocks each and 2 more as they grow. */
static void run_four(uint32_t n_blocks, uint32_t tenant_blocks)
{
	struct plx_sched_admit out;
	int32_t p[100];

	timed_open_with(6, n_blocks);
	w.s.pace.answer = 40;
	world_prompt(p, 100, 5);
	for (uint32_t k = 0; k < 4; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 100, 1, 40, k);

		j.tenant = tenant_blocks ? 1 : 0;
		j.tenant_blocks = tenant_blocks;
		assert_int_equal(world_add(&w, k, &j, &out), 0);
		for (uint32_t i = 0; i < 5 && k < 3; i++)
			timed_turn();
	}
	timed_turn();
	assert_int_equal(w.s.n_run, 4);
	assert_in_range(plx_sched_retry_ns(&w.s), 9000000, 14000000); /* 40 * 1.1 ms / 4 */
}

static void wait_ns(uint64_t ns)
{
	uint64_t then = w.now + ns;

	while (w.now < then)
		timed_turn();
}

static void test_sched_memory_that_comes_too_late_is_kv_pressure(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	run_four(34, 0);
	world_prompt(p, 100, 6);
	struct plx_sched_job j = world_job(&w, 4, p, 100, 1, 10, 9);

	j.ttft_slo_ns = 10000000;
	assert_int_equal(world_add(&w, 4, &j, &out), PLX_E_KV_PRESSURE);
	assert_int_equal(w.s.stats.pressed, 1);
	assert_in_range(out.retry_ns, 5000000, 100000000);
	wait_ns(out.retry_ns);
	assert_int_equal(world_add(&w, 4, &j, &out), 0);
	timed_out();
	assert_int_equal(w.n_rejected, 0);
	assert_true(w.e[4].final.queue_ns + w.e[4].final.prefill_ns <= 11000000);
	world_close(&w);
}

/* The same where only the tenant's share is short: others are let in. */
static void test_sched_share_that_comes_too_late_is_kv_pressure(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	run_four(80, 36); /* four may need 9 each */
	world_prompt(p, 100, 6);
	struct plx_sched_job j = world_job(&w, 4, p, 10, 1, 10, 9);

	j.ttft_slo_ns = 5000000;
	j.tenant = 1;
	j.tenant_blocks = 36;
	assert_int_equal(world_add(&w, 4, &j, &out), PLX_E_KV_PRESSURE);
	assert_true(out.retry_ns >= 1000000);
	j.tenant_blocks = 1;
	assert_int_equal(world_add(&w, 4, &j, &out), PLX_E_KV_PRESSURE);
	assert_int_equal(out.retry_ns, 0);
	j.tenant = 2;
	j.tenant_blocks = 36;
	assert_int_equal(world_add(&w, 4, &j, &out), 0);
	timed_out();
	world_close(&w);
}

/* Twenty that may need 4 blocks each, of 9, say little: nobody is refused for what it might. */
static void test_sched_what_may_be_needed_is_not_counted(void **state)
{
	struct plx_sched_admit out;
	int32_t p[20];

	(void)state;
	timed_open_with(6, 9);
	world_prompt(p, 20, 5);
	for (uint32_t k = 0; k < 20; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 20, 1, 40, k);

		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	for (uint32_t k = 0; k < 20; k++)
		plx_sched_cancel(&w.s, k, 1, w.now);
	timed_out();
	world_close(&w);
}

static void test_sched_absurd_objectives_are_refused(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	timed_open(4);
	world_prompt(p, 150, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 100, 1, 5, 1);

	j.ttft_slo_ns = 1;
	assert_int_equal(world_add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	assert_int_equal(out.retry_ns, 0);
	j.ttft_slo_ns = 0;
	j.itl_slo_ns = 1;
	assert_int_equal(world_add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	/* Not absurd, but more than this device can do: 100 tokens take 3 ms, one takes 1.02. */
	j.itl_slo_ns = 900000;
	assert_int_equal(world_add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	j.itl_slo_ns = 0;
	j.ttft_slo_ns = 2000000;
	assert_int_equal(world_add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	j.ttft_slo_ns = 0;
	j.deadline_ns = w.now + 2000000;
	assert_int_equal(world_add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	assert_int_equal(w.s.stats.unmeetable, 5);
	j.deadline_ns = w.now + 50000000;
	j.ttft_slo_ns = 50000000;
	j.itl_slo_ns = 10000000;
	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	timed_out();
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_DONE);
	world_close(&w);
}

/* A queue is as long as its objective allows, and a refusal says when to come again. */
static void test_sched_queue_is_bounded_by_time(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	uint32_t k = 0;
	int err = 0;

	(void)state;
	timed_open(8);
	world_prompt(p, 150, 5);
	/* Each prompt takes 3 ms or a bit more; the first token is wanted after 20. */
	for (; k < 20 && err == 0; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 128, 1, 2, k);

		j.ttft_slo_ns = 20000000;
		err = world_add(&w, k, &j, &out);
	}
	assert_int_equal(err, PLX_E_QUEUE_FULL);
	assert_in_range(k, 4, 8);
	assert_int_equal(w.s.stats.full, 1);
	assert_in_range(out.retry_ns, 1000000, 10000000);
	/* So long later there is room for it. */
	uint64_t then = w.now + out.retry_ns;

	while (w.now < then)
		timed_turn();
	struct plx_sched_job j = world_job(&w, k, p, 128, 1, 2, k);

	j.ttft_slo_ns = 20000000;
	assert_int_equal(world_add(&w, k, &j, &out), 0);
	timed_out();
	/* Whoever was let in had its first token in time, within what estimates are off. */
	for (uint32_t i = 0; i < k - 1; i++)
		assert_true(w.e[i].final.queue_ns + w.e[i].final.prefill_ns <= 22000000);
	assert_true(w.s.stats.ttft_err[0] + w.s.stats.ttft_err[1] >= k / 2);
	assert_int_equal(w.s.stats.late_starts, 0);
	world_close(&w);
}

static void test_sched_least_slack_goes_first(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	static const uint64_t slo_ms[3] = {3000, 0, 300};

	(void)state;
	timed_open(1);
	world_prompt(p, 150, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 100, 1, 4, k);

		j.ttft_slo_ns = slo_ms[k] * 1000000;
		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	assert_int_equal(out.queue_position, 0);
	timed_out();
	/* One slot: 0.3 s first, who wants nothing counts as 1 s, 3 s last. */
	assert_true(w.e[2].final.queue_ns < w.e[1].final.queue_ns);
	assert_true(w.e[1].final.queue_ns < w.e[0].final.queue_ns);
	world_close(&w);
}

/* A session that floods does not stop one that asks once. */
static void test_sched_sessions_share_by_tokens(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	uint32_t before = 0;

	(void)state;
	timed_open(1);
	world_prompt(p, 150, 5);
	for (uint32_t k = 0; k < 12; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 140, 1, 10, k);

		j.session = k < 11 ? 1 : 2;
		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	assert_in_range(out.queue_position, 1, 4);
	timed_out();
	for (uint32_t k = 0; k < 11; k++)
		before += w.e[k].final.queue_ns < w.e[11].final.queue_ns;
	assert_in_range(before, 1, 4);
	world_close(&w);
}

static void test_sched_who_is_too_late_goes_behind(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	timed_open(1);
	world_prompt(p, 150, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 10, 1, 40, 0);

	/* The first holds the only slot for 40 ms and more, which nobody can foresee. */
	w.s.pace.answer = 1;
	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	timed_turn();
	j = world_job(&w, 1, p, 100, 1, 4, 1);
	j.ttft_slo_ns = 10000000;
	assert_int_equal(world_add(&w, 1, &j, &out), 0);
	j = world_job(&w, 2, p, 100, 1, 4, 2);
	j.ttft_slo_ns = 100000000;
	assert_int_equal(world_add(&w, 2, &j, &out), 0);
	assert_int_equal(out.queue_position, 1);
	timed_out();
	assert_int_equal(w.s.stats.late_starts, 1);
	assert_true(w.e[2].final.queue_ns < w.e[1].final.queue_ns);
	assert_int_equal(w.n_done, 8 + 3);
	world_close(&w);
}

static void test_sched_idle_device_waits_for_company_as_told(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 4, 20, 64, 2, 2, false);
	world_no_eog(&w);
	world_prompt(p, 16, 5);
	w.s.conf.wait_ns = 100;
	w.now = 1000;
	struct plx_step *st = plx_queue_step(w.q, 0);
	struct plx_sched_job j = world_job(&w, 0, p, 16, 1, 4, 0);

	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	assert_int_equal(plx_sched_fill(&w.s, st, WORLD_ROOM, 1099), 0);
	/* A second one makes the batch full. */
	j = world_job(&w, 1, p, 16, 1, 4, 1);
	assert_int_equal(world_add(&w, 1, &j, &out), 0);
	assert_int_equal(world_turn(&w), 34);
	world_run_out(&w);
	/* Alone it goes when its time is over, and not later. */
	w.now = 5000;
	j = world_job(&w, 0, p, 16, 1, 4, 0);
	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	assert_int_equal(plx_sched_fill(&w.s, st, WORLD_ROOM, 5099), 0);
	w.now = 5100;
	assert_int_equal(world_turn(&w), 17);
	world_run_out(&w);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sched_steps_keep_the_objective_between_tokens),
	    cmocka_unit_test(test_sched_memory_that_comes_too_late_is_kv_pressure),
	    cmocka_unit_test(test_sched_share_that_comes_too_late_is_kv_pressure),
	    cmocka_unit_test(test_sched_what_may_be_needed_is_not_counted),
	    cmocka_unit_test(test_sched_absurd_objectives_are_refused),
	    cmocka_unit_test(test_sched_queue_is_bounded_by_time),
	    cmocka_unit_test(test_sched_least_slack_goes_first),
	    cmocka_unit_test(test_sched_sessions_share_by_tokens),
	    cmocka_unit_test(test_sched_who_is_too_late_goes_behind),
	    cmocka_unit_test(test_sched_idle_device_waits_for_company_as_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
