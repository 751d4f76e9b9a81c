/*
 * tok, batch and accel together over real rings, with a fake device below and a fake io above:
 * every request ends exactly once, with exactly the right text, whatever happens on the way.
 */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dataplane/stage_batch.h"
#include "fw/base/clock.h"
#include "tests/lib/stagesrig.h"

static void test_stages_answer_a_text(void **state)
{
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 12, .seed = 4};
	int32_t ids[64];

	(void)state;
	struct srig_client *c = srig_ask(&a);

	srig_run_out();
	assert_int_equal(c->n_accepts, 1);
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	uint32_t n = srig_encode("hello world", ids);

	assert_int_equal(c->res.prompt_tokens, n);
	assert_int_equal(ids[0], TINY_BOS);
	srig_check(c, ids, n, 0);
	assert_int_equal(plx_counter_read(&srig.page[1], PLX_M_REQ_DONE), 1);
	assert_true(c->res.ns[PLX_NS_TOK] > 0 && c->res.ns[PLX_NS_PREFILL] > 0);
}

static void test_stages_answer_ids_in_samples_with_logprobs(void **state)
{
	uint32_t ids[70];
	struct srig_ask a = {.flags = PLX_REQ_IDS | PLX_REQ_LOGPROBS,
	                     .ids = ids,
	                     .n_ids = 70,
	                     .max_new = 30,
	                     .n_samples = 3,
	                     .n_logprobs = 5,
	                     .seed = 9,
	                     .model_id = 5,
	                     .io = 1};

	(void)state;
	for (uint32_t i = 0; i < 70; i++)
		ids[i] = TINY_WORD(i % SRIG_WORDS);
	struct srig_client *c = srig_ask(&a);

	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	for (uint32_t s = 0; s < 3; s++)
		srig_check(c, (int32_t *)ids, 70, s);
	/* The second and the third got the block that the prompt ends in by a copy. */
	assert_int_equal(srig.sb.fleet.dev[0].sched.tier.n_cow, 2);
}

/* One prompt, one request after the other: who opted in finds what others that did showed, and
 * nothing of those that did not; these find their own tenant's. */
static void test_stages_share_prefixes_by_choice(void **state)
{
	static const struct {
		uint32_t tenant;
		bool share;
		uint32_t cached;
	} turn[] = {{1, false, 0}, {2, true, 0},  {3, false, 0}, {3, true, 64},
	            {2, false, 0}, {1, true, 64}, {1, false, 64}};
	uint32_t ids[70];
	struct srig_ask a = {.flags = PLX_REQ_IDS, .ids = ids, .n_ids = 70, .max_new = 2};

	(void)state;
	for (uint32_t i = 0; i < 70; i++)
		ids[i] = TINY_WORD(i % SRIG_WORDS);
	for (uint32_t i = 0; i < sizeof(turn) / sizeof(turn[0]); i++) {
		a.tenant = turn[i].tenant;
		a.share_prefix = turn[i].share;
		const struct srig_client *c = srig_ask_and_run(&a);

		assert_int_equal(c->res.kind, PLX_FINAL_DONE);
		assert_int_equal(c->res.cached_tokens, turn[i].cached);
		srig_check(c, (int32_t *)ids, 70, 0);
	}
}

/* With a quarter of the pool sequences leave, go to the host and come back: it can be read. */
static void test_stages_count_what_memory_did(void **state)
{
	uint32_t ids[20], taken[44];
	struct srig_ask a = {.flags = PLX_REQ_IDS, .ids = ids, .n_ids = 20, .max_new = 40};
	bool evicted;

	(void)state;
	srig_no_eog();
	for (uint32_t i = 0; i < 44; i++)
		taken[i] = plx_kv_take(&srig.sb.fleet.dev[0].sched.kv, &evicted);
	for (uint32_t i = 0; i < 16; i++) {
		for (uint32_t k = 0; k < 20; k++)
			ids[k] = TINY_WORD((k * (i % 6 + 1)) % SRIG_WORDS);
		a.seed = i;
		a.io = i % SRIG_IOS;
		assert_int_equal(srig_ask(&a)->n_finals, 0);
	}
	while (plx_req_busy(&srig.links) > 0)
		srig_turn();
	for (uint32_t i = 0; i < 44; i++)
		plx_kv_drop(&srig.sb.fleet.dev[0].sched.kv, taken[i], false);
	srig_run_out();
	assert_int_equal(srig.n_kind[PLX_FINAL_DONE], 16);
	assert_true(srig_counted(PLX_M_BATCH_PREEMPTED) > 0);
	assert_true(srig_counted(PLX_M_BATCH_SHORT_OF) >= srig_counted(PLX_M_BATCH_PREEMPTED));
	assert_true(srig_counted(PLX_M_BATCH_SWAP_OUT) > 0);
	assert_int_equal(srig_counted(PLX_M_BATCH_SWAP_OUT), srig.sb.fleet.dev[0].sched.tier.n_out);
	assert_int_equal(srig_counted(PLX_M_BATCH_SWAP_IN), srig.sb.fleet.dev[0].sched.tier.n_back);
	assert_int_equal(srig_counted(PLX_M_BATCH_RECOMPUTED),
	                 srig.sb.fleet.dev[0].sched.stats.recomputed_tokens);
	assert_int_equal(srig_counted(PLX_M_BATCH_COW), 0);
}

/* Each first token and each step is held against what was said of it. */
static void test_stages_count_what_estimates_were_off(void **state)
{
	struct srig_ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 30};
	uint64_t n_first = 0, n_steps = 0;

	(void)state;
	srig_no_eog();
	for (uint32_t i = 0; i < 40; i++)
		srig_ask_and_run(&a);
	for (uint32_t b = 0; b < PLX_SCHED_ERR_BINS; b++) {
		n_first += srig_counted((enum plx_metric)(PLX_M_TTFT_OFF_10 + b));
		n_steps += srig_counted((enum plx_metric)(PLX_M_STEP_OFF_5 + b));
	}
	/* All but the first few, of which nothing could be said. */
	assert_in_range(n_first, 30, 39);
	assert_in_range(n_steps, 1000, srig_counted(PLX_M_BATCH_STEPS) - 1);
	assert_true(srig_counted(PLX_M_TTFT_LATER) <= n_first);
	assert_int_equal(srig.page[1].hist[PLX_H_TTFT_OFF].count, n_first);
	assert_int_equal(srig.page[1].hist[PLX_H_TTFT].count, 40);
}

static void test_stages_reject_what_they_can_not_do(void **state)
{
	uint32_t bad[2] = {1, 100000};
	uint32_t many[600] = {0};
	struct srig_ask a = {.flags = PLX_REQ_IDS, .ids = bad, .n_ids = 2, .max_new = 4};

	(void)state;
	struct srig_client *c = srig_ask(&a);

	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_string_equal(c->res.detail, "a token id is not in the vocabulary");
	a.ids = many;
	a.n_ids = 600;
	c = srig_ask(&a);
	srig_run_out();
	assert_int_equal(c->res.err, PLX_E_TOO_LARGE);
	a = (struct srig_ask){.flags = PLX_REQ_MESSAGES, .text = "hi", .max_new = 4};
	c = srig_ask(&a);
	srig_run_out();
	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_string_equal(c->res.detail, "the model has no chat template");
	a = (struct srig_ask){.flags = PLX_REQ_TEXT, .text = "hi", .max_new = 4, .model_id = 6};
	c = srig_ask(&a);
	srig_run_out();
	assert_int_equal(c->res.err, PLX_E_NO_MODEL);
	a = (struct srig_ask){.flags = PLX_REQ_TEXT, .text = "hi", .max_new = 4, .deadline_ns = 1};
	c = srig_ask(&a);
	srig_run_out();
	assert_int_equal(c->res.err, PLX_E_DEADLINE_UNMEETABLE);
	assert_int_equal(srig.n_kind[PLX_FINAL_REJECT], 5);
}

static void test_stages_stop_string_ends_the_answer(void **state)
{
	int32_t ids[64], want[SRIG_NEW];
	uint32_t n = srig_encode("abc", ids), at;
	struct srig_ask a = {.flags = PLX_REQ_TEXT, .text = "abc", .max_new = 40};

	(void)state;
	/* A seed whose answer has a word among its first ids: that word is the stop string. */
	srig_no_eog();
	do {
		a.seed++;
		plx_fake_expect(plx_fake_conf(srig.fake), ids, n, a.seed, 0, 40, want);
		for (at = 2; at < 20 && !srig_stands_alone(want, at); at++)
			;
	} while (at == 20);
	a.stop = "llo";
	struct srig_client *c = srig_ask(&a);

	srig_run_out();
	srig_check(c, ids, n, 0);
	assert_int_equal(c->res.sample[0].reason, PLX_FINISH_STOP);
	assert_int_equal(c->res.sample[0].n_tokens, at);
	assert_int_equal(plx_counter_read(&srig.page[0], PLX_M_TOK_STOPS), 1);
	/* It was told in time: far fewer than 40 tokens were made. */
	assert_true(plx_counter_read(&srig.page[1], PLX_M_BATCH_DECODE) < at + 4);
}

static void test_stages_cancel_at_any_time(void **state)
{
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 40, .seed = 3, .n_samples = 2};
	int32_t ids[64];
	uint32_t n = srig_encode(a.text, ids);

	(void)state;
	plx_fake_conf(srig.fake)->polls = 1;
	for (uint32_t when = 0; when < 60; when++) {
		struct plx_req *q = srig_make(&a);
		struct srig_client *c = &srig.client[q->idx];

		assert_true(plx_req_push(&srig.links, q));
		for (uint32_t i = 0; i < when && c->open; i++)
			srig_turn();
		if (c->open)
			plx_req_cancel(q, PLX_CANCEL_CLIENT);
		srig_run_out();
		assert_int_equal(c->n_finals, 1);
		assert_true(c->res.kind == PLX_FINAL_DONE || (c->res.kind == PLX_FINAL_CANCELLED &&
		                                              c->res.cause == PLX_CANCEL_CLIENT));
		srig_check(c, ids, n, 0);
		srig_check(c, ids, n, 1);
	}
	assert_true(srig.n_kind[PLX_FINAL_CANCELLED] > 20);
}

static void test_stages_drain_ends_everything(void **state)
{
	struct srig_ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 40};

	(void)state;
	for (uint32_t i = 0; i < 12; i++) {
		a.io = i % SRIG_IOS;
		srig_ask(&a);
	}
	for (uint32_t i = 0; i < 4; i++)
		srig_turn();
	atomic_store(&srig.links.drain, 2);
	srig_ask(&a);
	srig_run_out();
	assert_int_equal(srig.n_finals, 13);
	assert_true(srig.n_kind[PLX_FINAL_CANCELLED] >= 7);
	for (uint32_t i = 0; i < 13; i++)
		if (srig.client[i].res.kind == PLX_FINAL_CANCELLED)
			assert_int_equal(srig.client[i].res.cause, PLX_CANCEL_DRAIN);
}

static void test_stages_full_forward_ring_is_the_pushers_to_answer(void **state)
{
	struct srig_ask a = {.flags = PLX_REQ_TEXT, .text = "hello", .max_new = 4};
	struct plx_req *q;
	uint32_t pushed = 0;

	(void)state;
	while ((q = srig_make(&a)) != NULL && plx_req_push(&srig.links, q))
		pushed++;
	assert_non_null(q);
	if (!q)
		return;
	assert_int_equal(pushed, 15); /* 8 entries need 16 slots, of which rte_ring keeps one */
	plx_req_reject(&srig.links, q, PLX_E_QUEUE_FULL, NULL);
	assert_true(q->res.retry_after_us >= 1000);
	plx_req_give(&srig.links, q);
	srig_run_out();
	assert_int_equal(srig.n_kind[PLX_FINAL_DONE], 15);
}

/* io takes nothing for a long time: everything stands still, nothing is lost. */
static void test_stages_wait_for_an_io_that_is_busy(void **state)
{
	uint32_t ids[20];
	struct srig_ask a = {.flags = PLX_REQ_IDS | PLX_REQ_LOGPROBS,
	                     .ids = ids,
	                     .n_ids = 20,
	                     .max_new = 40,
	                     .n_samples = 3,
	                     .n_logprobs = 5};

	(void)state;
	srig_no_eog();
	srig.sb.fleet.dev[0].sched.conf.window = 40;
	for (uint32_t i = 0; i < 20; i++)
		ids[i] = TINY_WORD(i % SRIG_WORDS);
	for (uint32_t i = 0; i < 14; i++) {
		a.seed = i;
		a.io = i % SRIG_IOS;
		srig_ask(&a);
	}
	srig.deaf = true;
	for (uint32_t i = 0; i < 3000; i++)
		srig_turn();
	assert_true(plx_counter_read(&srig.page[0], PLX_M_TOK_WAITS) > 0);
	assert_int_equal(srig.n_finals, 0);
	srig.deaf = false;
	srig_run_out();
	assert_int_equal(srig.n_kind[PLX_FINAL_DONE], 14);
	for (uint32_t i = 0; i < 14; i++)
		for (uint32_t s = 0; s < 3; s++)
			srig_check(&srig.client[i], (int32_t *)ids, 20, s);
}

static void test_stages_pause_without_acknowledgements(void **state)
{
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 40, .seed = 1};
	int32_t ids[64];

	(void)state;
	srig_no_eog();
	srig.no_acks = true;
	struct plx_req *q = srig_make(&a);
	struct srig_client *c = &srig.client[q->idx];

	assert_true(plx_req_push(&srig.links, q));
	for (uint32_t i = 0; i < 500; i++)
		srig_turn();
	assert_true(c->open);
	assert_true(c->n_ids[0] <= 16 && c->n_ids[0] >= 12);
	srig.no_acks = false;
	assert_true(plx_note_window(&srig.links, q, 0, 20));
	srig_run_out();
	srig_check(c, ids, srig_encode(a.text, ids), 0);
	assert_int_equal(c->n_ids[0], 40);
}

static void test_stages_a_step_that_hangs_is_a_timeout(void **state)
{
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 20, .seed = 1};
	int32_t ids[64];

	(void)state;
	srig.sa.deadline_ns = 20 * PLX_NS_PER_MS;
	plx_fake_conf(srig.fake)->hang = true;
	struct srig_client *c = srig_ask(&a);

	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_DEVICE_LOST);
	assert_true(c->res.retry_after_us > 0);
	/* Both steps that were in flight. */
	assert_int_equal(plx_counter_read(&srig.page[2], PLX_M_DEV_TIMEOUTS), 2);
	plx_fake_conf(srig.fake)->hang = false;
	c = srig_ask(&a);
	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	srig_check(c, ids, srig_encode(a.text, ids), 0);
	assert_true(plx_fake_resets(srig.fake) >= 1);
	assert_int_equal(srig.sb.fleet.dev[0].sched.kv.n_quarantined, 0);
}

/* Turns for so many milliseconds, all of which the step waits for experts; each of n_ms one comes.
 */
static void wait_for_experts(uint64_t ms, bool they_come)
{
	struct plx_dev_experts *e = &plx_fake_conf(srig.fake)->experts;
	uint64_t last_ns = plx_clock_ns(), end_ns = last_ns + ms * PLX_NS_PER_MS;

	while (last_ns < end_ns) {
		uint64_t now_ns = plx_clock_ns();

		e->wait_ns += now_ns - last_ns;
		e->read_bytes += they_come ? 4096 : 0;
		last_ns = now_ns;
		srig_turn();
	}
}

/* A disk may be slower than a step's deadline: its reads are waited for while they come. */
static void test_stages_wait_for_experts_past_the_deadline(void **state)
{
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 20, .seed = 1};
	int32_t ids[64];

	(void)state;
	srig.sa.deadline_ns = 20 * PLX_NS_PER_MS;
	srig.sa.read_most_ns = 50 * PLX_NS_PER_MS;
	plx_fake_conf(srig.fake)->hang = true;
	struct srig_client *c = srig_ask(&a);

	wait_for_experts(100, true);
	assert_int_equal(plx_counter_read(&srig.page[2], PLX_M_DEV_TIMEOUTS), 0);
	assert_true(c->open);
	plx_fake_conf(srig.fake)->hang = false;
	srig_run_out();
	srig_check(c, ids, srig_encode(a.text, ids), 0);
	assert_int_equal(c->n_ids[0], 20);
	/* A step that hangs while no expert is read: its time counts against the deadline. */
	plx_fake_conf(srig.fake)->hang = true;
	c = srig_ask(&a);
	wait_for_experts(40, false);
	assert_int_equal(plx_counter_read(&srig.page[2], PLX_M_DEV_TIMEOUTS), 0);
	wait_for_experts(100, false);
	assert_true(plx_counter_read(&srig.page[2], PLX_M_DEV_TIMEOUTS) > 0);
	plx_fake_conf(srig.fake)->hang = false;
	srig_run_out();
	assert_int_equal(c->res.err, PLX_E_DEVICE_LOST);
}

static void test_stages_refuse_while_the_device_is_gone(void **state)
{
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 20, .seed = 1};

	(void)state;
	plx_fake_conf(srig.fake)->fail_status = PLX_E_LOST;
	plx_fake_conf(srig.fake)->reset_err = PLX_E_LOST;
	struct srig_client *c = srig_ask(&a);

	srig_run_out();
	assert_int_equal(c->res.err, PLX_E_DEVICE_LOST);
	/* The reset fails; a request that comes now does not wait for a better one. */
	srig_turn();
	srig_turn();
	c = srig_ask(&a);
	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_DEVICE_LOST);
	assert_string_equal(c->res.detail, "the device did not come back after a reset");
	plx_fake_conf(srig.fake)->reset_err = 0;
	srig.sb.fleet.dev[0].retry_ns = 0;
	for (uint32_t i = 0; i < 10; i++)
		srig_turn();
	c = srig_ask(&a);
	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
}

static void test_stages_submit_again_is_tried_again(void **state)
{
	struct srig_ask a = {.flags = PLX_REQ_TEXT, .text = "hello", .max_new = 4};

	(void)state;
	plx_fake_conf(srig.fake)->refuse_again = true;
	struct srig_client *c = srig_ask(&a);

	for (uint32_t i = 0; i < 100; i++)
		srig_turn();
	assert_true(c->open && c->n_accepts == 1 && c->n_ids[0] == 0);
	plx_fake_conf(srig.fake)->refuse_again = false;
	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
}

static size_t heap_bytes(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* Promise 1: after start no stage takes memory (sanitizers bring a heap that is not counted). */
static void test_stages_take_no_memory(void **state)
{
	struct srig_ask a = {.flags = PLX_REQ_TEXT | PLX_REQ_LOGPROBS,
	                     .text = "hello world, hello worlds, hello",
	                     .max_new = 30,
	                     .stop = "heab",
	                     .n_samples = 3,
	                     .n_logprobs = 3};

	(void)state;
	size_t before = heap_bytes();

	for (uint32_t i = 0; i < 40; i++) {
		a.seed = i;
		srig_ask(&a);
		srig_run_out();
	}
	assert_int_equal(srig.n_kind[PLX_FINAL_DONE], 40);
	assert_int_equal(heap_bytes(), before);
}

#define scenario(t) cmocka_unit_test_setup_teardown(t, srig_open, srig_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    scenario(test_stages_answer_a_text),
	    scenario(test_stages_answer_ids_in_samples_with_logprobs),
	    scenario(test_stages_share_prefixes_by_choice),
	    scenario(test_stages_count_what_memory_did),
	    scenario(test_stages_count_what_estimates_were_off),
	    scenario(test_stages_reject_what_they_can_not_do),
	    scenario(test_stages_stop_string_ends_the_answer),
	    scenario(test_stages_cancel_at_any_time),
	    scenario(test_stages_drain_ends_everything),
	    scenario(test_stages_full_forward_ring_is_the_pushers_to_answer),
	    scenario(test_stages_wait_for_an_io_that_is_busy),
	    scenario(test_stages_pause_without_acknowledgements),
	    scenario(test_stages_a_step_that_hangs_is_a_timeout),
	    scenario(test_stages_wait_for_experts_past_the_deadline),
	    scenario(test_stages_refuse_while_the_device_is_gone),
	    scenario(test_stages_submit_again_is_tried_again),
	    scenario(test_stages_take_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
