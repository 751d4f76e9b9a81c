/* The stages together, everything at once: random days, and each stage on a thread of its own. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/stage_batch.h"
#include "fw/base/clock.h"
#include "tests/lib/stagesrig.h"

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

static uint32_t rand_ids[SRIG_REQS][128];
static uint32_t rand_n[SRIG_REQS];

static struct plx_req *rand_req[SRIG_REQS];

static void random_ask(void)
{
	static const char *stops[] = {"ab", "llo", "b", "\xe2\x82\xac", "heab"};
	uint32_t ids[128], n = 1 + rnd(120);
	uint32_t top = rnd(3) ? 0 : 1 + rnd(5);
	struct srig_ask a = {.flags = PLX_REQ_IDS | (top ? (uint32_t)PLX_REQ_LOGPROBS : 0u),
	                     .ids = ids,
	                     .n_ids = n,
	                     .stop = rnd(3) ? NULL : stops[rnd(5)],
	                     .n_samples = (uint16_t)(1 + rnd(4) / 3 * rnd(3)),
	                     .max_new = 1 + rnd(SRIG_NEW),
	                     .n_logprobs = (uint8_t)top,
	                     .seed = rnd(50),
	                     .deadline_ns = rnd(20) ? 0 : plx_clock_ns() + rnd(2000000),
	                     .io = rnd(SRIG_IOS)};

	for (uint32_t i = 0; i < n; i++)
		ids[i] = TINY_WORD((i * (1 + n % 3)) % SRIG_WORDS);
	struct plx_req *q = srig_make(&a);

	if (!q)
		return;
	memcpy(rand_ids[q->idx], ids, sizeof(ids));
	rand_n[q->idx] = n;
	rand_req[q->idx] = q;
	if (!plx_req_push(&srig.links, q)) {
		srig.client[q->idx].open = false;
		plx_req_give(&srig.links, q);
	}
}

static void random_trouble(void)
{
	uint32_t i = rnd(SRIG_REQS);

	if (srig.client[i].open && rnd(3) == 0)
		plx_req_cancel(rand_req[i], PLX_CANCEL_CLIENT);
	if (rnd(40) == 0)
		plx_fake_conf(srig.fake)->fail_status = rnd(2) ? PLX_E_FAULT : PLX_E_LOST;
	plx_fake_conf(srig.fake)->refuse_again = rnd(10) == 0;
	plx_fake_conf(srig.fake)->polls = rnd(3);
	srig.deaf = rnd(4) == 0;
}

static void check_ended(bool *was_open)
{
	for (uint32_t i = 0; i < SRIG_REQS; i++) {
		const struct srig_client *c = &srig.client[i];

		if (was_open[i] && !c->open && c->n_finals == 1) {
			bool faulted = false;
			uint32_t n = srig.links.req[i].view.m.n_samples;

			for (uint32_t s = 0; s < n; s++)
				faulted |= c->res.sample[s].reason == PLX_FINISH_DEADLINE;
			for (uint32_t s = 0; s < n && !faulted; s++)
				srig_check(c, (int32_t *)rand_ids[i], rand_n[i], s);
		}
		was_open[i] = c->open;
	}
}

static void test_stages_random_days(void **state)
{
	bool was_open[SRIG_REQS] = {false};

	(void)state;
	rng_state = 11;
	for (uint32_t i = 0; i < 60000; i++) {
		if (rnd(4) == 0)
			random_ask();
		if (rnd(20) == 0)
			random_trouble();
		for (uint32_t k = 0; k < SRIG_REQS; k++)
			was_open[k] = srig.client[k].open;
		switch (rnd(4)) {
		case 0:
			srig_io_poll();
			break;
		case 1:
			plx_stage_tok_poll(&srig.st, plx_clock_ns());
			break;
		case 2:
			plx_stage_batch_poll(&srig.sb, plx_clock_ns());
			break;
		default:
			plx_stage_accel_poll(&srig.sa, plx_clock_ns());
			break;
		}
		check_ended(was_open);
	}
	srig.deaf = false;
	plx_fake_conf(srig.fake)->refuse_again = false;
	plx_fake_conf(srig.fake)->fail_status = 0;
	srig_run_out();
	assert_true(srig.n_kind[PLX_FINAL_DONE] > 500);
	assert_true(srig.n_kind[PLX_FINAL_CANCELLED] > 50);
	assert_true(srig.n_kind[PLX_FINAL_REJECT] > 20);
}

static atomic_bool stop;

static void *run_lcore(void *lc)
{
	plx_lcore_run(lc);
	return NULL;
}

static void start_lcores(struct plx_lcore *lc, pthread_t *t)
{
	static const plx_stage_poll poll[3] = {plx_stage_tok_poll, plx_stage_batch_poll,
	                                       plx_stage_accel_poll};
	void *const own[3] = {&srig.st, &srig.sb, &srig.sa};

	atomic_store(&stop, false);
	for (uint32_t i = 0; i < 3; i++) {
		lc[i] = (struct plx_lcore){.cpu = i, .backoff = true, .stop = &stop};
		assert_int_equal(plx_lcore_add(&lc[i], poll[i], own[i], &srig.page[i]), 0);
		assert_int_equal(pthread_create(&t[i], NULL, run_lcore, &lc[i]), 0);
	}
}

static void test_stages_on_threads_of_their_own(void **state)
{
	static struct plx_lcore lc[3];
	pthread_t t[3];
	bool was_open[SRIG_REQS] = {false};
	bool doomed[SRIG_REQS] = {false}; /* one request in four is cancelled, at some moment */
	uint32_t asked = 0;

	(void)state;
	rng_state = 3;
	start_lcores(lc, t);
	uint64_t end = plx_clock_ns() + 20 * PLX_NS_PER_S;

	while ((asked < 400 || plx_req_busy(&srig.links) > 0) && plx_clock_ns() < end) {
		if (asked < 400 && plx_req_busy(&srig.links) < SRIG_REQS) {
			random_ask();
			asked++;
		}
		uint32_t i = rnd(SRIG_REQS);

		if (srig.client[i].open && doomed[i] && rnd(50) == 0)
			plx_req_cancel(rand_req[i], PLX_CANCEL_CLIENT);
		for (uint32_t k = 0; k < SRIG_REQS; k++) {
			if (srig.client[k].open && !was_open[k])
				doomed[k] = rnd(4) == 0;
			was_open[k] = srig.client[k].open;
		}
		if (srig_io_poll() == 0)
			sched_yield();
		check_ended(was_open);
	}
	assert_int_equal(plx_req_busy(&srig.links), 0);
	atomic_store(&stop, true);
	for (uint32_t i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		assert_true(lc[i].heartbeat > 0);
	}
	srig_run_out();
	assert_true(srig.n_kind[PLX_FINAL_DONE] > 100);
}

#define scenario(t) cmocka_unit_test_setup_teardown(t, srig_open, srig_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    scenario(test_stages_random_days),
	    scenario(test_stages_on_threads_of_their_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
