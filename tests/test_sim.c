/*
 * The simulation itself, and through it the batcher under what a service meets: every request ends
 * exactly once with its own text, no block leaks (engines check that when they close), equal seeds
 * give equal runs, and clients that misbehave cost only themselves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/sched.h"
#include "fw/base/err.h"
#include "tests/sim/pool.h"
#include "tests/sim/report.h"

#define MS    1000000u
#define N     1500u
#define DAY   1u /* seed */
#define HZ(x) ((x)*SIM_CAPACITY_HZ)

/* ---- the trace ---- */

static int by_value(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint32_t median_prompt(const struct sim_trace *t, uint8_t kind)
{
	uint32_t *v = malloc(4 * (size_t)t->n_req), n = 0;

	for (uint32_t i = 0; i < t->n_req; i++)
		if (t->req[i].kind == kind)
			v[n++] = t->req[i].n_prompt;
	qsort(v, n, sizeof(*v), by_value);
	uint32_t m = v[n / 2];

	free(v);
	return m;
}

static void test_sim_trace_is_what_the_readme_says(void **state)
{
	struct sim_trace t;
	uint32_t max_prompt = 0;

	(void)state;
	sim_trace_make(&t, 20000, 8, DAY);
	assert_int_equal(t.n_req, 20000);
	assert_in_range((uint32_t)(t.offered_hz * 100), 720, 880);
	assert_in_range(t.n_kind[SIM_DOC], 800, 1200);
	assert_in_range(median_prompt(&t, SIM_CHAT), 950, 1150);
	assert_in_range(median_prompt(&t, SIM_DOC), 7500, 8600);
	for (uint32_t i = 0; i < t.n_req; i++) {
		const struct sim_req *r = &t.req[i];

		assert_true(i == 0 || r->at_ns >= t.req[i - 1].at_ns);
		assert_true(r->max_new > r->n_answer && r->max_new <= SIM_MAX_NEW);
		assert_true(r->n_answer > 0 && r->n_prompt > r->text.n_common);
		max_prompt = r->n_prompt > max_prompt ? r->n_prompt : max_prompt;
	}
	assert_in_range(max_prompt, 16384, SIM_MAX_PROMPT);
	sim_trace_free(&t);
}

/* Twice the rate: the same sessions, closer together, under the same weather. */
static void test_sim_trace_keeps_its_sessions_at_any_rate(void **state)
{
	struct sim_trace a, b;

	(void)state;
	sim_trace_make(&a, 1000, 4, DAY);
	sim_trace_make(&b, 1000, 8, DAY);
	assert_int_equal(a.spell[0].end_ns, b.spell[0].end_ns);
	assert_int_equal(a.spell[5].end_ns, b.spell[5].end_ns);
	assert_true(b.offered_hz > 1.5 * a.offered_hz);
	sim_trace_free(&a);
	sim_trace_free(&b);
}

/* A turn's prompt begins with the prompt and answer of the turn before. */
static void test_sim_trace_turns_share_their_text(void **state)
{
	struct sim_trace t;
	uint32_t n_followed = 0;

	(void)state;
	sim_trace_make(&t, 2000, 8, DAY);
	for (uint32_t i = 0; i < t.n_req; i++)
		for (uint32_t k = i + 1; k < t.n_req; k++) {
			if (t.req[k].session != t.req[i].session || t.req[i].kind != SIM_CHAT)
				continue;
			uint32_t said = t.req[i].n_prompt + t.req[i].n_answer;

			assert_true(t.req[k].n_prompt > said);
			assert_int_equal(sim_text_id(&t.req[k].text, said - 1),
			                 sim_text_id(&t.req[i].text, said - 1));
			n_followed++;
			break;
		}
	assert_in_range(n_followed, 600, 1400);
	sim_trace_free(&t);
}

/* ---- the device ---- */

static void test_sim_device_takes_the_curves_time(void **state)
{
	struct sim_dev d = {.curve = sim_h100()};
	struct sim_load one = {.n_decode = 1, .n_context = 1};
	struct sim_load many = {.n_decode = 64, .n_context = 64 * 1024};
	struct sim_load prompt = {
	    .n_chunks = 1, .n_prefill = 8192, .chunk_context = 8192, .chunk_pairs = 33558528};

	(void)state;
	/* 15 GB / (0.85 * 3.35 TB/s) = 5.268 ms, 0.6 ms, 2 us, and 46 ns of KV. */
	assert_in_range((uint32_t)sim_dev_ns(&d, &one), 5869000, 5871000);
	/* 64 tokens: 1.787 ms of arithmetic beside the weights, 3.017 ms of KV. */
	assert_in_range((uint32_t)sim_dev_ns(&d, &many), 9020000, 9060000);
	/* 8,192 * 27.92 us, 33.6 M pairs * 524,288 FLOP / 400 TFLOP/s = 44 ms. */
	assert_in_range((uint32_t)sim_dev_ns(&d, &prompt), 273000000, 274000000);
}

/* ---- the score ---- */

static void test_sim_hist_is_true_to_a_half_percent(void **state)
{
	struct sim_hist *h = calloc(1, sizeof(*h));

	(void)state;
	for (uint32_t i = 1; i <= 1000; i++)
		sim_hist_add(h, (uint64_t)i * MS);
	assert_in_range((uint32_t)(sim_hist_ms(h, 0.5) * 1000), 498000, 504000);
	assert_in_range((uint32_t)(sim_hist_ms(h, 0.99) * 1000), 987000, 995000);
	assert_int_equal((uint32_t)(sim_hist_ms(h, 1) * 1000), 1000000);
	free(h);
}

/* Requests by hand: n of them, gap apart. */
static struct sim_trace plain_trace(uint32_t n, uint64_t gap_ns, uint32_t n_prompt,
                                    uint32_t n_answer)
{
	struct sim_trace t = {.n_req = n, .n_spells = 1, .n_kind = {n, 0}, .offered_hz = 1};

	t.req = calloc(n, sizeof(*t.req));
	t.spell = calloc(1, sizeof(*t.spell));
	t.spell[0].end_ns = UINT64_MAX;
	for (uint32_t i = 0; i < n; i++)
		t.req[i] = (struct sim_req){.at_ns = 1 + i * gap_ns,
		                            .text = {.own = sim_mix(i + 1)},
		                            .n_prompt = n_prompt,
		                            .n_answer = n_answer,
		                            .max_new = 512,
		                            .session = i};
	return t;
}

static void test_sim_score_judges_first_and_gaps(void **state)
{
	struct sim_trace t = plain_trace(3, MS, 10, 3);
	struct sim_score *s = sim_score_open(&t);

	(void)state;
	for (uint32_t r = 0; r < 3; r++) {
		uint64_t at = t.req[r].at_ns + (r == 1 ? 301 : 299) * (uint64_t)MS;

		for (uint32_t i = 0; i < 3; i++, at += (r == 2 ? 31 : 29) * (uint64_t)MS)
			sim_score_token(s, r, i, sim_text_id(&t.req[r].text, 10 + i), at);
		sim_score_end(s, r, SIM_DONE, 0, at);
	}
	assert_int_equal(s->n_met, 1);
	assert_int_equal(s->n_late_first[SIM_CHAT], 1);
	assert_int_equal(s->n_late_gaps[SIM_CHAT], 1);
	sim_score_close(s);
	sim_trace_free(&t);
}

/* ---- whole runs ---- */

static void run_trace(const struct sim_trace *t, const char *who, const struct sim_ours_conf *conf,
                      struct sim *s, struct sim_result *out)
{
	sim_open(s, t, DAY);
	struct sim_engine e = !strcmp(who, "static")    ? sim_static(s, SIM_BEST_STATIC)
	                      : !strcmp(who, "orca")    ? sim_orca(s, SIM_BEST_ORCA)
	                      : !strcmp(who, "sarathi") ? sim_sarathi(s, SIM_BEST_SARATHI)
	                                                : sim_ours(s, conf);

	sim_run(s, &e);
	assert_int_equal(s->score->n_ended, t->n_req);
	sim_result_of(s, who, 0, out);
}

static struct sim_result run_day(const char *who, double hz, uint64_t seed)
{
	struct sim_trace t;
	struct sim s;
	struct sim_result r;
	struct sim_ours_conf conf = {.n_keys = 512};

	sim_trace_make(&t, N, hz, seed);
	run_trace(&t, who, &conf, &s, &r);
	sim_close(&s);
	sim_trace_free(&t);
	return r;
}

static void test_sim_baselines_end_everybody(void **state)
{
	struct sim_result sarathi = run_day("sarathi", HZ(0.8), DAY);
	struct sim_result orca = run_day("orca", HZ(0.8), DAY);
	struct sim_result fixed = run_day("static", HZ(0.8), DAY);

	(void)state;
	assert_int_equal(sarathi.n_done, N);
	assert_int_equal(orca.n_done, N);
	assert_int_equal(fixed.n_done, N);
	/* Chunks spare decodes what whole prompts do to them. */
	assert_true(sarathi.gap[1] < 25 && orca.gap[1] > 50);
	assert_true(sarathi.goodput_hz > orca.goodput_hz && orca.goodput_hz > fixed.goodput_hz);
}

static void test_sim_equal_seeds_give_equal_runs(void **state)
{
	struct sim_result a = run_day("ours", HZ(1.2), DAY), b = run_day("ours", HZ(1.2), DAY);
	struct sim_result c = run_day("ours", HZ(1.2), DAY + 1);

	(void)state;
	assert_int_equal(a.n_done + a.n_rejected + a.n_cut, N);
	assert_int_equal(a.n_cut, 0);
	assert_true(a.digest == b.digest && a.digest != c.digest);
	assert_true(a.gap[1] == b.gap[1] && a.n_steps == b.n_steps);
}

/*
 * What bench_batcher shows over 100,000 requests, held loosely over few: more served in time than
 * by the best baseline, tokens evenly spaced while documents come in, and under twice the capacity
 * still as many, the others told at once.
 */
static void test_sim_ours_serves_more_and_more_evenly(void **state)
{
	struct sim_result base = run_day("sarathi", HZ(0.95), DAY),
			  ours = run_day("ours", HZ(0.95), DAY);
	struct sim_result flood = run_day("ours", HZ(2), DAY);

	(void)state;
	assert_true(ours.goodput_hz >= base.goodput_hz);
	assert_true(ours.burst_gap[1] <= 1.3 * ours.burst_gap[0]);
	assert_true(ours.burst_gap[1] < 0.8 * base.burst_gap[1]);
	assert_true(flood.goodput_hz >= ours.goodput_hz);
	assert_true(flood.n_rejected > 0 && flood.reject[2] <= SIM_TARGET_REJECT_MS);
}

/*
 * One request on a device without noise: 100 prompt ids take 5.369 ms of matrices, 0.007 of
 * attention and 0.602 of the rest; an id 5.268 and 0.005. One step in flight adds the host's 20 us
 * to each gap, two hide it.
 */
static void test_sim_one_request_takes_its_steps(void **state)
{
	static const char *const who[2] = {"sarathi", "ours"};
	static const uint32_t gap_us[2] = {5895, 5875};

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		struct sim_trace t = plain_trace(1, 0, 100, 3);
		struct sim_ours_conf conf = {.n_keys = 8};
		struct sim s;

		sim_open(&s, &t, DAY);
		s.dev.curve.noise = 0;
		s.dev.curve.slow = 1;
		struct sim_engine e = i ? sim_ours(&s, &conf) : sim_sarathi(&s, 512);

		assert_string_equal(e.name, who[i]);
		sim_run(&s, &e);
		const struct sim_fate *f = &s.score->fate[0];

		assert_in_range((uint32_t)(f->first_ns / 1000), 5974, 5980);
		assert_in_range((uint32_t)((f->last_ns - f->first_ns) / 2000), gap_us[i] - 2,
		                gap_us[i] + 2);
		assert_int_equal(f->n_got, 3);
		sim_close(&s);
		sim_trace_free(&t);
	}
}

static void test_sim_pool_keeps_what_was_used_last(void **state)
{
	struct sim_pool p;
	uint32_t b[3];

	(void)state;
	sim_pool_open(&p, 3);
	for (uint32_t i = 0; i < 3; i++) {
		b[i] = sim_pool_take(&p);
		sim_pool_publish(&p, b[i], 100 + i);
	}
	assert_int_equal(sim_pool_take(&p), SIM_NO_BLOCK);
	sim_pool_drop(&p, b[1]);
	sim_pool_drop(&p, b[0]);
	sim_pool_drop(&p, b[2]);
	sim_pool_hold(&p, sim_pool_find(&p, 101)); /* used again: now the youngest */
	sim_pool_drop(&p, b[1]);
	assert_int_equal(sim_pool_take(&p), b[0]);
	assert_int_equal(sim_pool_take(&p), b[2]);
	assert_int_equal(sim_pool_find(&p, 100), SIM_NO_BLOCK);
	assert_int_equal(sim_pool_find(&p, 101), b[1]);
	assert_int_equal(p.n_free, 1);
	sim_pool_close(&p);
}

/* ---- who misbehaves ---- */

static void ask_for_nothing(uint32_t req, struct plx_sched_job *j)
{
	(void)req;
	j->ttft_slo_ns = j->itl_slo_ns = 0;
}

/* Without objectives whoever finds a key is served, and the others are told at once. */
static void test_sim_ten_thousand_sessions_at_once(void **state)
{
	struct sim_trace t = plain_trace(10000, 0, 200, 20);
	struct sim_ours_conf conf = {.n_keys = 512, .edit = ask_for_nothing};
	struct sim s;
	struct sim_result r;

	(void)state;
	run_trace(&t, "ours", &conf, &s, &r);
	assert_int_equal(r.n_done, 512);
	assert_int_equal(s.score->err_count[-PLX_E_QUEUE_FULL], 10000 - 512);
	assert_true(r.reject[2] == 0);
	sim_close(&s);
	sim_trace_free(&t);
}

/* With them, nobody waits for what can't be kept, and many are still served. */
static void test_sim_ten_thousand_with_objectives(void **state)
{
	struct sim_trace t = plain_trace(10000, 0, 200, 20);
	struct sim_ours_conf conf = {.n_keys = 512};
	struct sim s;
	struct sim_result r;

	(void)state;
	run_trace(&t, "ours", &conf, &s, &r);
	assert_int_equal(r.n_done + r.n_rejected, 10000);
	assert_int_equal(r.n_cut, 0);
	assert_true(r.reject[2] <= SIM_TARGET_REJECT_MS);
	assert_true(r.n_done >= 10);
	sim_close(&s);
	sim_trace_free(&t);
}

/* Every tenth client stops reading after 16 ids: it is cut off, the others notice nothing. */
static void test_sim_client_that_never_reads(void **state)
{
	struct sim_trace t = plain_trace(200, 50 * (uint64_t)MS, 100, 40);
	struct sim_ours_conf conf = {.n_keys = 256, .window = 16, .pause_ns = 200 * (uint64_t)MS};
	struct sim s;
	struct sim_result r;

	(void)state;
	conf.deaf_mod = 10;
	run_trace(&t, "ours", &conf, &s, &r);
	assert_int_equal(r.n_cut, 20);
	assert_int_equal(r.n_done, 180);
	assert_int_equal(s.score->n_met, 180);
	for (uint32_t i = 9; i < 200; i += 10)
		assert_int_equal(s.score->fate[i].n_got, 16);
	sim_close(&s);
	sim_trace_free(&t);
}

static void ask_for_the_absurd(uint32_t req, struct plx_sched_job *j)
{
	if (req % 10 == 3)
		j->ttft_slo_ns = j->itl_slo_ns = 1;
	if (req % 10 == 7)
		j->ttft_slo_ns = j->itl_slo_ns = UINT64_MAX;
}

/* Objectives of a nanosecond, or of six centuries: refused or served, but nobody else suffers. */
static void test_sim_absurd_objectives(void **state)
{
	struct sim_trace t = plain_trace(300, 40 * (uint64_t)MS, 300, 40);
	struct sim_ours_conf conf = {.n_keys = 256, .edit = ask_for_the_absurd};
	struct sim s;
	struct sim_result r;
	uint32_t n_sane = 0;

	(void)state;
	run_trace(&t, "ours", &conf, &s, &r);
	for (uint32_t i = 0; i < 300; i++)
		if (i % 10 != 3 && i % 10 != 7)
			n_sane += s.score->fate[i].end == SIM_DONE &&
			          s.score->fate[i].first_ns - t.req[i].at_ns < 300 * (uint64_t)MS;
	assert_int_equal(n_sane, 240);
	assert_true(r.n_cut == 0 && s.score->fate[7].end == SIM_DONE);
	sim_close(&s);
	sim_trace_free(&t);
}

/* Prompts beyond the limit, and beyond what the pool holds: told at once, nothing waits for them.
 */
static void test_sim_requests_that_never_fit(void **state)
{
	struct sim_trace t = plain_trace(100, 20 * (uint64_t)MS, 100, 10);
	struct sim_ours_conf conf = {.n_keys = 256, .n_blocks = 256};
	struct sim s;
	struct sim_result r;

	(void)state;
	for (uint32_t i = 0; i < 100; i += 4)
		t.req[i].n_prompt = i % 8 ? 40000 : 9000;
	run_trace(&t, "ours", &conf, &s, &r);
	assert_int_equal(r.n_rejected, 25);
	assert_int_equal(s.score->err_count[-PLX_E_TOO_LARGE], 25);
	assert_int_equal(r.n_done, 75);
	assert_int_equal(s.score->n_met, 75);
	assert_true(r.reject[2] == 0);
	sim_close(&s);
	sim_trace_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sim_trace_is_what_the_readme_says),
	    cmocka_unit_test(test_sim_trace_keeps_its_sessions_at_any_rate),
	    cmocka_unit_test(test_sim_trace_turns_share_their_text),
	    cmocka_unit_test(test_sim_device_takes_the_curves_time),
	    cmocka_unit_test(test_sim_hist_is_true_to_a_half_percent),
	    cmocka_unit_test(test_sim_score_judges_first_and_gaps),
	    cmocka_unit_test(test_sim_baselines_end_everybody),
	    cmocka_unit_test(test_sim_equal_seeds_give_equal_runs),
	    cmocka_unit_test(test_sim_ours_serves_more_and_more_evenly),
	    cmocka_unit_test(test_sim_one_request_takes_its_steps),
	    cmocka_unit_test(test_sim_pool_keeps_what_was_used_last),
	    cmocka_unit_test(test_sim_ten_thousand_sessions_at_once),
	    cmocka_unit_test(test_sim_ten_thousand_with_objectives),
	    cmocka_unit_test(test_sim_client_that_never_reads),
	    cmocka_unit_test(test_sim_absurd_objectives),
	    cmocka_unit_test(test_sim_requests_that_never_fit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
