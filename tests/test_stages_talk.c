/* The stages together: requests that go on from earlier ones, or behind what a client has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/stage_batch.h"
#include "fw/base/clock.h"
#include "tests/lib/stagesrig.h"

static void expect_no_such_request(struct srig_ask a)
{
	const struct srig_client *c = srig_ask_and_run(&a);

	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_int_equal(c->res.option, PLX_OPT_CONTINUE);
}

static void test_stages_go_on_from_a_request(void **state)
{
	static const uint32_t more[3] = {TINY_WORD(1), TINY_WORD(2), TINY_WORD(3)};
	uint32_t ids[70];
	int32_t whole[200];
	struct srig_ask a = {
	    .flags = PLX_REQ_IDS, .ids = ids, .n_ids = 70, .max_new = 30, .req_id = 1};

	(void)state;
	srig_no_eog();
	for (uint32_t i = 0; i < 70; i++)
		ids[i] = TINY_WORD(i % SRIG_WORDS);
	a.n_samples = 2;
	struct srig_client first = *srig_ask_and_run(&a);

	assert_int_equal(first.res.kind, PLX_FINAL_DONE);
	memcpy(whole, ids, sizeof(ids));
	memcpy(whole + 70, first.id[1], 4 * 30);
	memcpy(whole + 100, more, sizeof(more));
	a = (struct srig_ask){.flags = PLX_REQ_IDS,
	                      .ids = more,
	                      .n_ids = 3,
	                      .max_new = 5,
	                      .seed = 3,
	                      .req_id = 2,
	                      .continued = 1,
	                      .continued_sample = 1};
	const struct srig_client *c = srig_ask_and_run(&a);

	srig_check(c, whole, 103, 0);
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	assert_int_equal(c->res.prompt_tokens, 103);
	/* All full blocks of what ran, prompt and answer: the 100th id was sampled, never run. */
	assert_int_equal(c->res.cached_tokens, 96);
	/* And on, with nothing new. */
	memcpy(whole + 103, c->id[0], 4 * 5);
	a = (struct srig_ask){.flags = PLX_REQ_IDS, .max_new = 4, .req_id = 3, .continued = 2};
	c = srig_ask_and_run(&a);
	srig_check(c, whole, 108, 0);
	assert_int_equal(c->res.prompt_tokens, 108);
	a.continued = 99; /* unknown */
	expect_no_such_request(a);
	a.continued = 3; /* another io stage's session of the same number */
	a.io = 1;
	expect_no_such_request(a);
	a.io = 0;
	a.continued_sample = 1; /* it had one */
	expect_no_such_request(a);
	a.continued_sample = 0;
	a.continued = 1; /* two newer ones are kept */
	expect_no_such_request(a);
	assert_int_equal(plx_counter_read(&srig.page[0], PLX_M_TOK_CONTINUED), 2);
	assert_int_equal(plx_counter_read(&srig.page[0], PLX_M_TOK_NOT_KEPT), 4);
}

static void test_stages_go_on_from_text_that_was_seen(void **state)
{
	int32_t ids[64], want[SRIG_NEW], whole[128];
	uint32_t n = srig_encode("abc", ids), at;
	struct srig_ask a = {.flags = PLX_REQ_TEXT, .text = "abc", .max_new = 40, .req_id = 1};

	(void)state;
	srig_no_eog();
	do {
		a.seed++;
		plx_fake_expect(plx_fake_conf(srig.fake), ids, n, a.seed, 0, 40, want);
		for (at = 2; at < 20 && !srig_stands_alone(want, at); at++)
			;
	} while (at == 20);
	a.stop = "llo";
	assert_int_equal(srig_ask_and_run(&a)->res.sample[0].n_tokens, at);
	/* What came behind the stop string was made, perhaps, but it is not kept; the new text is
	 * taken as it is, without begin of text or space. */
	memcpy(whole, ids, 4 * n);
	memcpy(whole + n, want, 4 * at);
	whole[n + at] = TINY_WORD(9);
	a = (struct srig_ask){
	    .flags = PLX_REQ_TEXT, .text = "abc", .max_new = 6, .req_id = 2, .continued = 1};
	const struct srig_client *c = srig_ask_and_run(&a);

	assert_int_equal(c->res.prompt_tokens, n + at + 1);
	srig_check(c, whole, n + at + 1, 0);
}

static void test_stages_forget_what_a_session_left(void **state)
{
	struct srig_ask a = {.flags = PLX_REQ_TEXT, .text = "hello", .max_new = 4, .req_id = 1};
	uint64_t now = plx_clock_ns();

	(void)state;
	srig_ask_and_run(&a);
	assert_int_equal(srig.st.talk.n_kept, 1);
	plx_session_mark(&srig.links, 0, SRIG_SESSION, false);
	for (uint32_t i = 0; i < 1000; i++)
		plx_stage_tok_poll(&srig.st, now += PLX_NS_PER_MS);
	assert_int_equal(srig.st.talk.n_kept, 0);
	plx_talk_check(&srig.st.talk);
	/* A conversation that outgrows the limit of prompt tokens. */
	srig.cfg.lim.prompt_tokens = 6;
	struct srig_client first = *srig_ask_and_run(&a);

	a.req_id = 2;
	a.continued = 1;
	const struct srig_client *c = srig_ask_and_run(&a);

	assert_int_equal(first.res.prompt_tokens, 5);
	assert_int_equal(c->res.err, PLX_E_TOO_LARGE);
}

/* All of an answer, then again behind each of its first n ids: what is sent is the rest of it. */
static void resume_anywhere(struct srig_ask a, uint32_t step)
{
	struct srig_client whole;
	uint32_t had[SRIG_NEW];

	a.flags = PLX_REQ_TEXT;
	whole = *srig_ask_and_run(&a);
	assert_int_equal(whole.res.kind, PLX_FINAL_DONE);
	memcpy(had, whole.id[0], sizeof(had));
	a.had = had;
	for (a.n_had = 1; a.n_had <= whole.n_ids[0] && a.n_had < a.max_new; a.n_had += step) {
		struct plx_req *q = srig_make(&a);
		struct srig_client *c = &srig.client[q->idx];

		c->n_ids[0] = a.n_had; /* acknowledged in another session */
		assert_true(plx_req_push(&srig.links, q));
		srig_run_out();
		assert_int_equal(c->res.kind, PLX_FINAL_DONE);
		assert_int_equal(c->n_ids[0], whole.n_ids[0]);
		assert_memory_equal(c->id[0] + a.n_had, whole.id[0] + a.n_had,
		                    4 * (whole.n_ids[0] - a.n_had));
		assert_true(c->n_text[0] <= whole.n_text[0]);
		assert_memory_equal(c->text[0], whole.text[0] + whole.n_text[0] - c->n_text[0],
		                    c->n_text[0]);
		assert_int_equal(c->res.sample[0].reason, whole.res.sample[0].reason);
		assert_int_equal(c->res.sample[0].n_tokens, whole.n_ids[0]);
		assert_int_equal(c->res.prompt_tokens, whole.res.prompt_tokens);
		assert_true(c->last[0]);
	}
}

static void test_stages_resume_an_answer_anywhere(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 8; seed++) {
		resume_anywhere((struct srig_ask){.text = "hello", .max_new = 40, .seed = seed}, 3);
		resume_anywhere(
		    (struct srig_ask){.text = "a", .max_new = 30, .seed = seed, .stop = "ab"}, 1);
	}
}

static void test_stages_resume_within_a_stop_string(void **state)
{
	int32_t ids[64], want[SRIG_NEW];
	uint32_t n = srig_encode("abc", ids), at;
	struct srig_ask a = {.text = "abc", .max_new = 40};

	(void)state;
	/* "he" (0) could begin the stop string "hellx": it waits for what comes. */
	srig_no_eog();
	do {
		a.seed++;
		plx_fake_expect(plx_fake_conf(srig.fake), ids, n, a.seed, 0, 40, want);
		for (at = 2; at < 20 && want[at] != TINY_WORD(0); at++)
			;
	} while (at == 20);
	a.stop = "hellx";
	resume_anywhere(a, 1);
}

/* Sample 0 of two has some, sample 1 nothing. */
static void test_stages_resume_one_of_two_samples(void **state)
{
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello", .max_new = 20, .seed = 2, .n_samples = 2};
	uint32_t had[7];

	(void)state;
	srig_no_eog();
	struct srig_client whole = *srig_ask_and_run(&a);

	memcpy(had, whole.id[0], sizeof(had));
	a.had = had;
	a.n_had = 7;
	struct plx_req *q = srig_make(&a);
	struct srig_client *c = &srig.client[q->idx];

	c->n_ids[0] = 7;
	assert_true(plx_req_push(&srig.links, q));
	srig_run_out();
	assert_memory_equal(c->id[0] + 7, whole.id[0] + 7, 4 * 13);
	assert_memory_equal(c->id[1], whole.id[1], 4 * 20);
	assert_int_equal(c->res.sample[0].n_tokens, 20);
	assert_int_equal(c->res.sample[1].n_tokens, 20);
}

static void test_stages_resume_what_they_can(void **state)
{
	static const uint32_t bad[2] = {1, 100000};
	struct srig_ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hi", .max_new = 40, .had = bad, .n_had = 2};

	(void)state;
	const struct srig_client *c = srig_ask_and_run(&a);

	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_int_equal(c->res.option, PLX_OPT_RESUME);
	plx_talk_check(&srig.st.talk);
}

#define scenario(t) cmocka_unit_test_setup_teardown(t, srig_open, srig_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    scenario(test_stages_go_on_from_a_request),
	    scenario(test_stages_go_on_from_text_that_was_seen),
	    scenario(test_stages_forget_what_a_session_left),
	    scenario(test_stages_resume_an_answer_anywhere),
	    scenario(test_stages_resume_within_a_stop_string),
	    scenario(test_stages_resume_one_of_two_samples),
	    scenario(test_stages_resume_what_they_can),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
