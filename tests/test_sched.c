/*
 * The scheduler against the fake device: exact ids whatever the batch, chunk, sharing or order, and
 * exactly one end for each request. Time has test_sched_time.c, chance test_sched_random.c.
 */
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

static void test_sched_runs_one_request(void **state)
{
	struct plx_sched_admit out;
	int32_t p[50];

	(void)state;
	world_open(&w, 4, 20, 16, 4, 2, false);
	world_no_eog(&w);
	world_prompt(p, 50, 11);
	struct plx_sched_job j = world_job(&w, 3, p, 50, 1, 5, 77);

	assert_int_equal(world_add(&w, 3, &j, &out), 0);
	assert_int_equal(out.queue_position, 0);
	/* Two steps of 16 prompt tokens, then 16 and the last 2, then decodes one ahead. */
	assert_int_equal(world_turn(&w), 32);
	assert_int_equal(world_turn(&w), 18);
	assert_int_equal(w.e[3].n_got[0], 1);
	world_run_out(&w);
	assert_int_equal(w.e[3].n_got[0], 5);
	assert_int_equal(w.e[3].final.kind, PLX_SCHED_DONE);
	assert_int_equal(w.e[3].final.end[0], PLX_SEQ_END_LENGTH);
	assert_int_equal(w.s.stats.late_tokens, 0);
	world_close(&w);
}

static void test_sched_eog_discards_the_step_in_flight(void **state)
{
	struct plx_sched_admit out;
	int32_t p[4] = {1, 2, 3, 4};
	uint64_t seed = 0;

	(void)state;
	world_open(&w, 1, 10, 16, 1, 2, false);
	struct plx_sched_job j;

	/* A seed whose answer ends by itself after some ids. */
	do
		j = world_job(&w, 0, p, 4, 1, 30, seed++);
	while (w.e[0].n_want[0] < 3 || w.e[0].n_want[0] > 20);
	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	plx_fake_conf(w.fake)->polls = 1;
	world_run_out(&w);
	assert_int_equal(w.e[0].final.end[0], PLX_SEQ_END_EOS);
	assert_int_equal(w.e[0].final.n_out[0], w.e[0].n_want[0]);
	assert_int_equal(w.s.stats.late_tokens, 1);
	world_close(&w);
}

static void test_sched_samples_share_the_prompt(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	world_open(&w, 4, 22, 64, 4, 2, false);
	world_no_eog(&w);
	world_prompt(p, 100, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 100, 4, 24, 3);

	/* 99 / 16 = 6 shared blocks, and (100 + 24 - 1) / 16 rounded up = 8: 6 + 4 * 2 = 14. */
	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	assert_int_equal(w.s.ent[0].need_blocks, 14);
	world_run_out(&w);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(w.e[0].n_got[i], 24);
	/* 100 once, and the 4 tokens behind the shared blocks three times more. */
	assert_int_equal(w.s.stats.prefill_tokens, 112);
	world_close(&w);
}

static void test_sched_finds_a_cached_prefix(void **state)
{
	struct plx_sched_admit out;
	int32_t p[80];

	(void)state;
	world_open(&w, 2, 30, 64, 2, 2, true);
	world_no_eog(&w);
	world_prompt(p, 80, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 80, 1, 8, 1);

	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 0);
	world_run_out(&w);
	/* The same prompt: four of its five blocks, since the last token must run. */
	j = world_job(&w, 1, p, 80, 1, 8, 2);
	assert_int_equal(world_add(&w, 1, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 64);
	world_run_out(&w);
	assert_int_equal(w.e[1].final.cached_tokens, 64);
	assert_int_equal(w.s.stats.prefill_tokens, 80 + 16);
	/* Another tenant finds nothing. */
	j = world_job(&w, 2, p, 80, 1, 8, 2);
	j.tenant = 1;
	assert_int_equal(world_add(&w, 2, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 0);
	world_run_out(&w);
	assert_int_equal(w.e[2].final.cached_tokens, 0);
	world_close(&w);
}

static void test_sched_finds_what_it_generated(void **state)
{
	struct plx_sched_admit out;
	int32_t p[120];

	(void)state;
	world_open(&w, 2, 30, 64, 2, 2, true);
	world_no_eog(&w);
	world_prompt(p, 20, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 20, 1, 40, 1);

	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	world_run_out(&w);
	/* A second turn of the talk: prompt and answer, then more. 59 of 60 tokens ran: 3 blocks.
	 */
	memcpy(p + 20, w.e[0].want[0], 4 * 40);
	world_prompt(p + 60, 20, 400);
	j = world_job(&w, 1, p, 80, 1, 4, 1);
	assert_int_equal(world_add(&w, 1, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 48);
	world_run_out(&w);
	world_close(&w);
}

static void test_sched_refuses_what_can_not_run(void **state)
{
	struct plx_sched_admit out;
	int32_t p[WORLD_CTX];

	(void)state;
	world_open(&w, 2, 8, 64, 2, 2, false);
	world_prompt(p, WORLD_CTX, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 100, 1, 40, 1);

	assert_int_equal(world_add(&w, 0, &j, &out), PLX_E_TOO_LARGE); /* 9 blocks of 8 */
	j.max_new = 29;                                                /* 128 positions: 8 blocks */
	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	j.n_ids = 0;
	assert_int_equal(world_add(&w, 1, &j, &out), PLX_E_BAD_REQUEST);
	j.n_ids = 10;
	j.n_samples = 3;
	assert_int_equal(world_add(&w, 1, &j, &out), PLX_E_TOO_LARGE);
	j.n_samples = 1;
	j.tenant_blocks = 1;
	assert_int_equal(world_add(&w, 1, &j, &out), PLX_E_KV_PRESSURE);
	j.tenant_blocks = 0;
	j.deadline_ns = w.now;
	assert_int_equal(world_add(&w, 1, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	plx_sched_cancel(&w.s, 0, 1, w.now);
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_CANCELLED);
	world_run_out(&w);
	world_close(&w);
}

static void test_sched_starts_by_priority_then_arrival(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];
	static const uint8_t prio[5] = {0, 0, 2, 1, 2};
	static const uint32_t ahead[5] = {0, 1, 0, 1, 1};

	(void)state;
	world_open(&w, 1, 20, 64, 1, 2, false);
	world_prompt(p, 16, 5);
	for (uint32_t k = 0; k < 5; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 16, 1, 4, k);

		j.priority = prio[k];
		assert_int_equal(world_add(&w, k, &j, &out), 0);
		assert_int_equal(out.queue_position, ahead[k]);
	}
	world_run_out(&w);
	/* One slot: queue times tell the order 2, 4, 3, 0, 1. */
	assert_true(w.e[2].final.queue_ns < w.e[4].final.queue_ns);
	assert_true(w.e[4].final.queue_ns < w.e[3].final.queue_ns);
	assert_true(w.e[3].final.queue_ns < w.e[0].final.queue_ns);
	assert_true(w.e[0].final.queue_ns < w.e[1].final.queue_ns);
	world_close(&w);
}

static void test_sched_tenant_at_its_share_waits_alone(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 4, 20, 64, 4, 2, false);
	world_no_eog(&w);
	world_prompt(p, 16, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 16, 1, 30, k);

		j.tenant = k < 2 ? 7 : 8;
		j.tenant_blocks = 4; /* each needs 3 */
		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	world_turn(&w);
	assert_int_equal(w.s.load.n_waiting, 1);
	assert_int_equal(w.s.load.n_running, 2);
	world_run_out(&w);
	assert_true(w.e[1].final.queue_ns > w.e[2].final.queue_ns);
	world_close(&w);
}

static void test_sched_window_pauses_then_cancels(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 1, 20, 64, 1, 2, false);
	world_no_eog(&w);
	w.s.conf.window = 5;
	world_prompt(p, 16, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 16, 1, 20, 1);

	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	for (uint32_t i = 0; i < 50; i++)
		world_turn(&w);
	assert_int_equal(w.e[0].n_got[0], 5);
	plx_sched_tick(&w.s, w.now);
	assert_int_equal(w.s.stats.paused, 1);
	plx_sched_window(&w.s, 0, 0, 12);
	for (uint32_t i = 0; i < 50; i++)
		world_turn(&w);
	assert_int_equal(w.e[0].n_got[0], 12);
	plx_sched_tick(&w.s, w.now);
	assert_true(w.e[0].live);
	plx_sched_tick(&w.s, w.now + 1000);
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_CANCELLED);
	assert_int_equal(w.e[0].final.cause, PLX_SCHED_SLOW);
	world_run_out(&w);
	world_close(&w);
}

/* A cancelled request's blocks are free as soon as the steps that name them are back: no step is
 * filled with it again. */
static void test_sched_cancel_frees_blocks_within_a_step(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	world_open(&w, 4, 40, 64, 4, 2, false);
	world_no_eog(&w);
	world_prompt(p, 100, 5);
	for (uint32_t k = 0; k < 2; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 100, 1 + k, 40, k);

		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	for (uint32_t i = 0; i < 6; i++)
		world_turn(&w);
	/* Nothing is in flight: at once. */
	assert_int_equal(w.s.n_steps_out, 0);
	plx_sched_cancel(&w.s, 1, 1, w.now);
	uint32_t left = w.s.seq[w.s.ent[0].slot[0]].n_blocks;

	assert_int_equal(plx_kv_room(&w.s.kv), 40 - left);
	/* Two are: when the second is back. */
	plx_fake_conf(w.fake)->polls = 1;
	world_turn(&w);
	assert_int_equal(w.s.n_steps_out, 2);
	plx_sched_cancel(&w.s, 0, 1, w.now);
	assert_true(plx_kv_room(&w.s.kv) < 40);
	for (uint32_t i = 0; i < 4 && w.s.n_steps_out > 0; i++)
		assert_int_equal(world_turn(&w), 0);
	assert_int_equal(plx_kv_room(&w.s.kv), 40);
	assert_int_equal(w.n_cancelled, 2);
	world_run_out(&w);
	world_close(&w);
}

static void test_sched_deadlines(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 1, 20, 64, 1, 2, false);
	world_no_eog(&w);
	world_prompt(p, 16, 5);
	for (uint32_t k = 0; k < 2; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 16, 1, 40, k);

		j.deadline_ns = 1000;
		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	for (uint32_t i = 0; i < 5; i++)
		world_turn(&w);
	plx_sched_tick(&w.s, 999);
	assert_true(w.e[0].live && w.e[1].live);
	plx_sched_tick(&w.s, 1000);
	/* The one that runs keeps what it has; the one that waits is refused. */
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_DONE);
	assert_int_equal(w.e[0].final.end[0], PLX_SEQ_END_DEADLINE);
	assert_true(w.e[0].final.n_out[0] > 0);
	assert_int_equal(w.e[1].final.kind, PLX_SCHED_REJECT);
	assert_int_equal(w.e[1].final.err, PLX_E_DEADLINE_UNMEETABLE);
	world_run_out(&w);
	world_close(&w);
}

static void test_sched_step_fault_ends_what_it_ran(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 2, 20, 64, 2, 2, true);
	world_no_eog(&w);
	world_prompt(p, 16, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 16, 1, 30, k);

		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	world_turn(&w);
	plx_fake_conf(w.fake)->fail_status = PLX_E_FAULT;
	world_turn(&w);
	for (uint32_t k = 0; k < 2; k++) {
		assert_int_equal(w.e[k].final.kind, PLX_SCHED_REJECT);
		assert_int_equal(w.e[k].final.err, PLX_E_DEVICE_LOST);
	}
	assert_true(w.e[2].live);
	world_run_out(&w);
	assert_int_equal(w.e[2].final.kind, PLX_SCHED_DONE);
	assert_int_equal(plx_fake_resets(w.fake), 1);
	assert_int_equal(w.s.kv.n_quarantined, 0);
	world_close(&w);
}

static void test_sched_quarantine_lasts_until_reset(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 3, 20, 64, 1, 2, false);
	world_no_eog(&w);
	world_prompt(p, 16, 5);
	for (uint32_t k = 0; k < 2; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 16, 1, 30, k);

		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	/* One sequence a step: the first that comes back fails, the other one goes on. */
	plx_fake_conf(w.fake)->fail_status = PLX_E_FAULT;
	world_turn(&w);
	assert_int_equal(w.n_rejected, 1);
	struct plx_sched_job j = world_job(&w, 2, p, 16, 1, 30, 2);

	assert_int_equal(world_add(&w, 2, &j, &out), 0);
	for (uint32_t i = 0; i < 5; i++)
		world_turn(&w);
	/* Its two blocks, prompt and first ids, are nobody's, and nothing new starts. */
	assert_int_equal(w.s.kv.n_quarantined, 2);
	assert_int_equal(plx_kv_room(&w.s.kv), 20 - 2 - 2);
	assert_int_equal(w.s.load.n_waiting, 1);
	assert_int_equal(plx_fake_resets(w.fake), 0);
	world_run_out(&w);
	assert_int_equal(plx_fake_resets(w.fake), 1);
	assert_int_equal(w.n_done, 2);
	world_close(&w);
}

static void test_sched_nan_ends_one_sample(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 3, 20, 64, 3, 2, false);
	world_no_eog(&w);
	world_prompt(p, 16, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 16, 2, 10, 1);

	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	j = world_job(&w, 1, p, 16, 1, 10, 2);
	assert_int_equal(world_add(&w, 1, &j, &out), 0);
	for (uint32_t i = 0; i < 3; i++)
		world_turn(&w);
	plx_fake_conf(w.fake)->nan_slot1 = 1u + w.s.ent[0].slot[1];
	world_run_out(&w);
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_DONE);
	assert_int_equal(w.e[0].final.end[0], PLX_SEQ_END_LENGTH);
	assert_int_equal(w.e[0].final.end[1], PLX_SEQ_END_FAULT);
	assert_int_equal(w.e[1].final.end[0], PLX_SEQ_END_LENGTH);
	world_close(&w);
}

static void test_sched_lost_device_ends_all_that_run(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	world_open(&w, 3, 30, 16, 1, 2, true);
	world_no_eog(&w);
	world_prompt(p, 100, 5);
	for (uint32_t k = 0; k < 4; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 10, 1, 30, k);

		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	world_turn(&w);
	plx_fake_conf(w.fake)->fail_status = PLX_E_LOST;
	world_turn(&w);
	/* Three ran, though one alone was in the step; the fourth had not started. */
	assert_int_equal(w.n_rejected, 3);
	assert_true(w.e[3].live);
	world_run_out(&w);
	assert_int_equal(w.n_done, 1);
	world_close(&w);
}

static void test_sched_stops_filling_without_room(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 4, 20, 64, 4, 2, false);
	world_prompt(p, 16, 5);
	for (uint32_t k = 0; k < 4; k++) {
		struct plx_sched_job j = world_job(&w, k, p, 16, 1, 8, k);

		j.n_top = 4; /* three records a token */
		assert_int_equal(world_add(&w, k, &j, &out), 0);
	}
	struct plx_step *st = plx_queue_step(w.q, 0);

	assert_int_equal(plx_sched_fill(&w.s, st, 2, w.now), 0);
	assert_int_equal(plx_sched_fill(&w.s, st, 7, w.now), 32);
	assert_int_equal(st->n_seq, 2);
	assert_int_equal(w.s.promised, 6);
	/* The rest is promised already. */
	assert_int_equal(plx_sched_fill(&w.s, plx_queue_step(w.q, 1), 8, w.now), 0);
	assert_int_equal(w.s.stats.room_waits, 4);
	world_close(&w);
}

/* Long prompts do not stop others' tokens: every step has room for both. */
static void test_sched_decodes_go_on_beside_a_prompt(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	world_open(&w, 4, 40, 16, 4, 2, false);
	world_no_eog(&w);
	world_prompt(p, 150, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 10, 1, 40, 1);

	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	world_turn(&w);
	j = world_job(&w, 1, p, 150, 1, 8, 2);
	assert_int_equal(world_add(&w, 1, &j, &out), 0);
	/* 150 tokens at 15 a step are 10 steps; each also carries a token of the first. */
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(world_turn(&w), 32);
	assert_true(w.e[0].n_got[0] >= 10);
	world_run_out(&w);
	world_close(&w);
}

/* The same where a step has one sequence: they take turns, and so do the two that decode then. */
static void test_sched_steps_of_one_sequence_starve_nobody(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	world_open(&w, 4, 40, 16, 1, 2, false);
	world_no_eog(&w);
	world_prompt(p, 150, 5);
	struct plx_sched_job j = world_job(&w, 0, p, 10, 1, 40, 1);

	assert_int_equal(world_add(&w, 0, &j, &out), 0);
	world_turn(&w);
	j = world_job(&w, 1, p, 100, 1, 40, 2);
	assert_int_equal(world_add(&w, 1, &j, &out), 0);
	/* 100 tokens at 16 a step are 7 steps, every other one. */
	for (uint32_t i = 0; i < 8; i++)
		world_turn(&w);
	assert_in_range(w.e[0].n_got[0], 8, 10);
	assert_in_range(w.e[1].n_got[0], 1, 2);
	for (uint32_t i = 0; i < 10; i++)
		world_turn(&w);
	assert_in_range(w.e[0].n_got[0], 17, 21);
	assert_in_range(w.e[1].n_got[0], 9, 13);
	world_run_out(&w);
	assert_int_equal(w.n_done, 2);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sched_runs_one_request),
	    cmocka_unit_test(test_sched_eog_discards_the_step_in_flight),
	    cmocka_unit_test(test_sched_samples_share_the_prompt),
	    cmocka_unit_test(test_sched_finds_a_cached_prefix),
	    cmocka_unit_test(test_sched_finds_what_it_generated),
	    cmocka_unit_test(test_sched_refuses_what_can_not_run),
	    cmocka_unit_test(test_sched_starts_by_priority_then_arrival),
	    cmocka_unit_test(test_sched_tenant_at_its_share_waits_alone),
	    cmocka_unit_test(test_sched_window_pauses_then_cancels),
	    cmocka_unit_test(test_sched_cancel_frees_blocks_within_a_step),
	    cmocka_unit_test(test_sched_deadlines),
	    cmocka_unit_test(test_sched_step_fault_ends_what_it_ran),
	    cmocka_unit_test(test_sched_quarantine_lasts_until_reset),
	    cmocka_unit_test(test_sched_nan_ends_one_sample),
	    cmocka_unit_test(test_sched_lost_device_ends_all_that_run),
	    cmocka_unit_test(test_sched_stops_filling_without_room),
	    cmocka_unit_test(test_sched_decodes_go_on_beside_a_prompt),
	    cmocka_unit_test(test_sched_steps_of_one_sequence_starve_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
