/*
 * The stages together: the best of several samples. What is right comes from the same request
 * without the option, whose samples and log-probabilities are all sent: the means are made here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/request.h"
#include "fw/base/clock.h"
#include "tests/lib/stagesrig.h"

static int teardown(void **state)
{
	plx_best_check(&srig.st.best.store);
	assert_int_equal(srig.st.best.store.n_reserved, 0);
	assert_int_equal(srig.st.best.n_ready, 0);
	return srig_close(state);
}

static double mean(const struct srig_client *c, uint32_t s)
{
	double sum = 0;

	for (uint32_t i = 0; i < c->n_ids[s]; i++)
		sum += (double)c->logprob[s][i];
	return c->n_ids[s] ? sum / c->n_ids[s] : -1e9;
}

/* The sample that comes at that rank. */
static uint32_t at_rank(const struct srig_client *c, uint32_t rank)
{
	for (uint32_t s = 0; s < SRIG_SAMPLES; s++) {
		uint32_t before = 0;

		for (uint32_t o = 0; o < SRIG_SAMPLES; o++)
			before += mean(c, o) > mean(c, s) || (mean(c, o) == mean(c, s) && o < s);
		if (before == rank)
			return s;
	}
	fail();
	return 0;
}

/* got has the k best of all, best first. */
static void expect_best(const struct srig_client *got, const struct srig_client *all, uint32_t k)
{
	uint32_t made = 0;

	assert_int_equal(got->res.kind, PLX_FINAL_DONE);
	for (uint32_t s = 0; s < SRIG_SAMPLES; s++)
		made += all->n_ids[s];
	assert_int_equal(got->res.best.n_made, SRIG_SAMPLES);
	assert_int_equal(got->res.best.n_tokens, made);
	for (uint32_t r = 0; r < k; r++) {
		uint32_t s = at_rank(all, r);

		assert_true(got->last[r]);
		assert_int_equal(got->n_ids[r], all->n_ids[s]);
		assert_memory_equal(got->id[r], all->id[s], 4 * all->n_ids[s]);
		assert_memory_equal(got->logprob[r], all->logprob[s], 4 * all->n_ids[s]);
		assert_int_equal(got->n_text[r], all->n_text[s]);
		assert_memory_equal(got->text[r], all->text[s], all->n_text[s]);
		assert_int_equal(got->res.sample[r].n_tokens, all->n_ids[s]);
		assert_int_equal(got->res.sample[r].reason, all->res.sample[s].reason);
		assert_true(all->n_ids[s] == 0 ||
		            fabs((double)got->res.mean[r] - mean(all, s)) < 1e-5);
	}
	for (uint32_t r = k; r < SRIG_SAMPLES; r++)
		assert_int_equal(got->n_ids[r], 0);
}

static struct srig_ask ask_of(const char *text, const char *stop, uint64_t seed)
{
	return (struct srig_ask){.flags = PLX_REQ_TEXT | PLX_REQ_LOGPROBS,
	                         .text = text,
	                         .stop = stop,
	                         .max_new = SRIG_NEW,
	                         .n_logprobs = 2,
	                         .seed = seed,
	                         .n_samples = SRIG_SAMPLES};
}

/* Asks for all, then for the k best, and compares. */
static void compare(struct srig_ask a, uint16_t k)
{
	struct srig_client all = *srig_ask_and_run(&a);

	a.n_samples = k;
	a.best_of = SRIG_SAMPLES;
	expect_best(srig_ask_and_run(&a), &all, k);
}

static void test_stages_best_is_the_likeliest(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		compare(ask_of("hello world", NULL, seed), (uint16_t)(1 + seed % SRIG_SAMPLES));
		compare(ask_of("hello world", "l", seed), (uint16_t)(1 + seed % SRIG_SAMPLES));
	}
	/* Answers of different lengths were among them: the mean was decided by it. */
	assert_true(srig_counted(PLX_M_TOK_STOPS) > 12);
}

static void test_stages_best_without_logprobs_asked(void **state)
{
	struct srig_ask a = ask_of("ab", NULL, 3);
	struct srig_client all = *srig_ask_and_run(&a);

	(void)state;
	a.flags = PLX_REQ_TEXT | PLX_REQ_NO_TEXT;
	a.n_logprobs = 0;
	a.n_samples = 1;
	a.best_of = SRIG_SAMPLES;
	const struct srig_client *got = srig_ask_and_run(&a);
	uint32_t s = at_rank(&all, 0);

	assert_int_equal(got->n_text[0], 0);
	assert_memory_equal(got->id[0], all.id[s], 4 * all.n_ids[s]);
}

static void test_stages_best_can_be_continued(void **state)
{
	static const uint32_t more[2] = {TINY_WORD(1), TINY_WORD(2)};
	int32_t whole[128];
	uint32_t n = srig_encode("abc", whole);
	struct srig_ask a = ask_of("abc", NULL, 9);

	(void)state;
	srig_no_eog();
	a.n_samples = 2;
	a.best_of = 3;
	a.req_id = 1;
	struct srig_client first = *srig_ask_and_run(&a);

	memcpy(whole + n, first.id[1], 4 * first.n_ids[1]);
	n += first.n_ids[1];
	memcpy(whole + n, more, sizeof(more));
	a = (struct srig_ask){.flags = PLX_REQ_IDS,
	                      .ids = more,
	                      .n_ids = 2,
	                      .max_new = 5,
	                      .req_id = 2,
	                      .continued = 1,
	                      .continued_sample = 1};
	const struct srig_client *c = srig_ask_and_run(&a);

	srig_check(c, whole, n + 2, 0);
	assert_int_equal(c->res.prompt_tokens, n + 2);
	a.req_id = 3;
	a.continued_sample = 2; /* made, but not sent */
	assert_int_equal(srig_ask_and_run(&a)->res.option, PLX_OPT_CONTINUE);
}

/* Nobody is told anything before all is made, and samples do not wait for a client. */
static void test_stages_best_is_sent_as_the_client_reads(void **state)
{
	struct srig_ask a = ask_of("abc", NULL, 4);
	uint64_t begin = plx_clock_ns();

	(void)state;
	srig_no_eog();
	a.n_samples = 2;
	a.best_of = SRIG_SAMPLES;
	srig.no_acks = true;
	struct srig_client *c = srig_ask(&a);

	while (srig.sb.n_live > 0 || c->n_ids[0] == 0) {
		assert_true(c->n_ids[0] == 0 || srig.sb.n_live == 0);
		assert_true(plx_clock_ns() - begin < 2 * PLX_NS_PER_S);
		srig_turn();
	}
	for (uint32_t i = 0; i < 50; i++)
		srig_turn();
	/* One window of all that is sent; the others wait. */
	assert_int_equal(c->n_ids[0], srig.cfg.lim.unacked_tokens);
	assert_int_equal(c->n_ids[1], 0);
	srig.no_acks = false;
	plx_note_window(&srig.links, &srig.links.req[c - srig.client], 0, 2 * 16);
	srig_run_out();
	assert_int_equal(c->n_ids[0], SRIG_NEW);
	assert_int_equal(c->n_ids[1], SRIG_NEW);
}

static void test_stages_best_gives_up_a_slow_client(void **state)
{
	struct srig_ask a = ask_of("abc", NULL, 4);

	(void)state;
	srig_no_eog();
	a.n_samples = 1;
	a.best_of = 2;
	srig.no_acks = true;
	srig.cfg.tmr.pause_ms = 20;
	const struct srig_client *c = srig_ask_and_run(&a);

	assert_int_equal(c->res.kind, PLX_FINAL_CANCELLED);
	assert_int_equal(c->res.cause, PLX_CANCEL_SLOW);
	assert_int_equal(c->res.sample[0].n_tokens, 16);
}

static void test_stages_best_is_cancelled_in_the_middle(void **state)
{
	struct srig_ask a = ask_of("abc", NULL, 4);

	(void)state;
	srig_no_eog();
	a.n_samples = 1;
	a.best_of = 3;
	srig.no_acks = true;
	for (uint32_t part = 0; part < 2; part++) {
		struct srig_client *c = srig_ask(&a);
		uint64_t begin = plx_clock_ns();

		for (uint32_t i = 0; i < 4; i++)
			srig_turn();
		while (part == 1 && c->n_ids[0] < 16) {
			assert_true(plx_clock_ns() - begin < 2 * PLX_NS_PER_S);
			srig_turn();
		}
		plx_req_cancel(&srig.links.req[c - srig.client], PLX_CANCEL_CLIENT);
		srig_run_out();
		assert_int_equal(c->res.kind, PLX_FINAL_CANCELLED);
		assert_int_equal(c->res.cause, PLX_CANCEL_CLIENT);
		assert_int_equal(c->res.sample[0].n_tokens, part == 0 ? 0 : 16);
	}
}

static void test_stages_best_of_what_a_fault_left(void **state)
{
	struct srig_ask a = ask_of("abc", NULL, 4);
	struct srig_client all;

	(void)state;
	srig_no_eog();
	all = *srig_ask_and_run(&a);
	a.best_of = SRIG_SAMPLES;
	const struct srig_client *c = srig_ask(&a);
	uint32_t n_fault = 0;

	while (srig.sb.fleet.dev[0].sched.n_run < SRIG_SAMPLES)
		srig_turn();
	for (uint32_t i = 0; i < 10; i++) /* the prompt, and a few ids */
		srig_turn();
	plx_fake_conf(srig.fake)->nan_slot1 = 1 + srig.sb.fleet.dev[0].sched.run[1];
	srig_run_out();
	for (uint32_t r = 0; r < SRIG_SAMPLES; r++)
		n_fault += c->res.sample[r].reason == PLX_FINISH_FAULT;
	assert_int_equal(n_fault, 1);
	assert_int_equal(c->res.sample[SRIG_SAMPLES - 1].reason, PLX_FINISH_FAULT);
	assert_true(c->res.mean[0] >= c->res.mean[1]);
	assert_true(mean(&all, at_rank(&all, 0)) >= (double)c->res.mean[0] - 1e-6);
}

/* What was made until then counts. */
static void test_stages_best_at_its_deadline(void **state)
{
	struct srig_ask a = ask_of("abc", NULL, 4);
	struct srig_client all;

	(void)state;
	srig_no_eog();
	all = *srig_ask_and_run(&a);
	a.n_samples = 1;
	a.best_of = SRIG_SAMPLES;
	a.deadline_ns = plx_clock_ns() + 20 * PLX_NS_PER_MS;
	const struct srig_client *c = srig_ask(&a);

	const uint64_t *made = &srig.sb.fleet.dev[0].sched.stats.decode_tokens;

	for (uint64_t before = *made; *made < before + 12;)
		srig_turn();
	plx_fake_conf(srig.fake)->hang = true;
	while (plx_clock_ns() < a.deadline_ns + 2 * PLX_NS_PER_MS)
		srig_turn();
	plx_fake_conf(srig.fake)->hang = false;
	srig_run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	assert_int_equal(c->res.sample[0].reason, PLX_FINISH_DEADLINE);
	assert_in_range(c->n_ids[0], 1, SRIG_NEW - 1);
	for (uint32_t s = 0, same = 0; s <= SRIG_SAMPLES; s++) {
		assert_true(s < SRIG_SAMPLES || same > 0);
		same += s < SRIG_SAMPLES && memcmp(c->id[0], all.id[s], 4 * c->n_ids[0]) == 0;
	}
}

static void test_stages_best_is_bounded(void **state)
{
	struct srig_ask a = ask_of("abc", NULL, 4);

	(void)state;
	a.n_samples = 1;
	a.best_of = 3;
	a.n_logprobs = 5;
	/* 3 samples of 40 ids and 200 alternatives: 24 cells of 49. The third finds no room. */
	const struct srig_client *one = srig_ask(&a), *two = srig_ask(&a), *three = srig_ask(&a);

	srig_run_out();
	assert_int_equal(one->res.kind, PLX_FINAL_DONE);
	assert_int_equal(two->res.kind, PLX_FINAL_DONE);
	assert_int_equal(three->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(three->res.err, PLX_E_QUEUE_FULL);
	a.max_new = 4000;
	a.text = "ab";
	const struct srig_client *c = srig_ask_and_run(&a);

	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_TOO_LARGE);
}

/* Requests of both kinds at once, cancelled, stopped, starved of memory and events, on a device
 * that fails: what is DONE is right, and nothing is left behind. */
static void test_stages_best_random(void **state)
{
	static struct srig_client all[4];
	static const char *const stop[4] = {NULL, "lo", "abx", NULL};
	static char text[4][420];
	struct srig_ask a[4];
	uint32_t n_done = 0;

	(void)state;
	srand(5);
	for (uint32_t i = 0; i < 4; i++) {
		/* Two of these at once, with three answers each, take more than the 60 blocks. */
		memset(text[i], 'c' + (int)i, sizeof(text[i]) - 1);
		a[i] = ask_of(text[i], stop[i], 40 + i);
		all[i] = *srig_ask_and_run(&a[i]);
	}
	for (uint32_t round = 0; round < 100; round++) {
		struct srig_client *c[4];
		uint16_t k[4];

		for (uint32_t i = 0; i < 4; i++) {
			struct srig_ask b = a[i];

			k[i] = (uint16_t)(1 + (uint32_t)rand() % SRIG_SAMPLES);
			b.n_samples = k[i];
			b.best_of = rand() % 5 ? SRIG_SAMPLES : 0;
			b.deadline_ns = rand() % 9 ? 0 : plx_clock_ns() + 300000;
			c[i] = srig_ask(&b);
			k[i] = b.best_of && !b.deadline_ns ? k[i] : 0;
		}
		for (int turns = rand() % 60; turns > 0; turns--)
			srig_turn();
		if (rand() % 4 == 0)
			plx_req_cancel(&srig.links.req[c[0] - srig.client], PLX_CANCEL_CLIENT);
		if (rand() % 8 == 0)
			plx_fake_conf(srig.fake)->fail_status = PLX_E_FAULT;
		srig_run_out();
		for (uint32_t i = 0; i < 4; i++)
			if (k[i] && c[i]->res.kind == PLX_FINAL_DONE) {
				expect_best(c[i], &all[i], k[i]);
				n_done++;
			}
		plx_best_check(&srig.st.best.store);
		assert_int_equal(srig.st.best.store.n_reserved, 0);
	}
	assert_true(n_done > 200);
	assert_true(srig_counted(PLX_M_BATCH_PREEMPTED) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_stages_best_is_the_likeliest, srig_open, teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_without_logprobs_asked, srig_open,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_can_be_continued, srig_open, teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_is_sent_as_the_client_reads, srig_open,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_gives_up_a_slow_client, srig_open,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_is_cancelled_in_the_middle, srig_open,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_of_what_a_fault_left, srig_open,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_at_its_deadline, srig_open, teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_is_bounded, srig_open, teardown),
	    cmocka_unit_test_setup_teardown(test_stages_best_random, srig_open, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
