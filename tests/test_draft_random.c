/*
 * Drafts of each drafter, chains and trees, inside continuous batching: requests come, share
 * prefixes, are preempted for want of blocks, are stopped at some id as stop strings do, cancelled,
 * held back by windows and come again in other company; each id is the one said without drafts, by
 * seed or greedy, under penalties.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/draftrig.h"

#define N_TEXT 6u
#define N_NEW  40u
#define TURNS  700u

static const uint32_t n_prompt[N_TEXT] = {1, 16, 33, 60, 61, 90};
static int32_t prompt[N_TEXT][DRAFTRIG_CTX];
static int32_t want[N_TEXT][N_NEW];

static struct draftrig rig;
static uint64_t rng;

/* What runs under a key. */
static struct {
	bool live, stopped;
	uint32_t text, n, stop_at;
} req[DRAFTRIG_KEYS];
static bool learning;
static uint32_t n_final;

static uint32_t rnd(uint32_t n)
{
	rng = rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)(rng >> 33) % n;
}

static void on_token(void *ctx, uint32_t key, uint32_t index, int32_t id)
{
	(void)ctx;
	assert_true(req[key].live && !req[key].stopped);
	assert_int_equal(index, req[key].n++);
	if (learning)
		want[req[key].text][index] = id;
	else
		assert_int_equal(id, want[req[key].text][index]);
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	(void)ctx;
	assert_true(req[key].live);
	assert_true(f->kind == PLX_SCHED_DONE || f->kind == PLX_SCHED_CANCELLED);
	if (f->kind == PLX_SCHED_DONE && !req[key].stopped)
		assert_int_equal(req[key].n, N_NEW);
	req[key].live = false;
	n_final++;
}

static void add(uint32_t key, uint32_t text)
{
	struct plx_sched_admit out;
	struct plx_sched_job j = {.ids = prompt[text],
	                          .n_ids = n_prompt[text],
	                          .max_new = N_NEW,
	                          .n_samples = 1,
	                          .ignore_eos = true,
	                          .ttft_slo_ns = 3600 * UINT64_C(1000000000),
	                          .sampler = {.temperature = text % 2 ? 0.0f : 0.6f,
	                                      .top_p = 0.95f,
	                                      .repeat_penalty = text > 3 ? 1.1f : 1.0f,
	                                      .penalty_window = text > 3 ? 24 : 0,
	                                      .seed = 40 + text}};

	memset(&req[key], 0, sizeof(req[key]));
	req[key].text = text;
	req[key].live = true;
	req[key].stop_at = rnd(3) ? N_NEW + 1 : 1 + rnd(N_NEW);
	if (plx_sched_add(&rig.sched, key, &j, 1, &out) != 0)
		req[key].live = false;
}

static void open_rig(uint32_t who, bool trees, uint32_t n_blocks)
{
	draftrig_open(&rig, who, trees, n_blocks);
	rig.token = on_token;
	rig.final = on_final;
	memset(req, 0, sizeof(req));
	n_final = 0;
}

static void learn_texts(void)
{
	for (uint32_t t = 0; t < N_TEXT; t++)
		for (uint32_t i = 0; i < n_prompt[t]; i++)
			prompt[t][i] = (int32_t)(i < 34 ? 3 + i % 7 * 5 : (i * (7 + t)) % 64);
	learning = true;
	for (uint32_t t = 0; t < N_TEXT; t++) {
		open_rig(DRAFTRIG_NONE, false, DRAFTRIG_BLOCKS);
		add(0, t);
		req[0].stop_at = N_NEW + 1;
		while (draftrig_turn(&rig))
			;
		assert_int_equal(req[0].n, N_NEW);
		draftrig_close(&rig);
	}
	learning = false;
}

static void random_op(void)
{
	uint32_t key = rnd(DRAFTRIG_KEYS);

	if (!req[key].live && rnd(3) == 0)
		add(key, rnd(N_TEXT));
	else if (req[key].live && rnd(40) == 0)
		plx_sched_cancel(&rig.sched, key, 1, 1);
	else if (req[key].live && rnd(6) == 0)
		plx_sched_window(&rig.sched, key, 0, req[key].n + 1 + rnd(30));
	for (uint32_t k = 0; k < DRAFTRIG_KEYS; k++)
		if (req[k].live && !req[k].stopped && req[k].n >= req[k].stop_at) {
			req[k].stopped = true;
			plx_sched_stop(&rig.sched, k, 0, 1);
		}
}

static void world(uint32_t who, bool trees, uint64_t seed)
{
	rng = seed;
	open_rig(who, trees, 22);
	rig.sched.conf.window = 20;
	for (uint32_t i = 0; i < TURNS; i++) {
		rig.n_idle = 0;
		random_op();
		draftrig_turn(&rig);
		if (i % 16 == 0)
			plx_sched_check(&rig.sched);
	}
	rig.sched.conf.window = 1000;
	for (uint32_t k = 0; k < DRAFTRIG_KEYS; k++)
		if (req[k].live)
			plx_sched_window(&rig.sched, k, 0, 1000);
	while (draftrig_turn(&rig))
		;
	for (uint32_t k = 0; k < DRAFTRIG_KEYS; k++)
		assert_false(req[k].live);
	print_message("%s %s: %u answers, %lu drafted, %lu accepted, %lu branches, %lu preempted\n",
	              draftrig_name(who), trees ? "trees" : "chains", n_final,
	              (unsigned long)rig.sched.draft.drafted[who],
	              (unsigned long)rig.sched.draft.accepted[who],
	              (unsigned long)rig.sched.draft.branches,
	              (unsigned long)rig.sched.stats.preempted);
	assert_true(n_final > 20 && rig.sched.stats.preempted > 0);
	assert_true(rig.sched.stats.cached_tokens > 0);
	assert_true(rig.sched.draft.drafted[who] > 60 && rig.sched.draft.accepted[who] > 5);
	assert_true(trees == (rig.sched.draft.branches > 0));
	draftrig_close(&rig);
}

static void test_drafts_of_each_drafter_change_no_id(void **state)
{
	(void)state;
	learn_texts();
	for (uint32_t i = 0; i < 2 * PLX_DRAFTERS; i++)
		world(i / 2, i % 2, 77 + i);
}

/* ---- the account ---- */

/* A drafter that has to catch up with a long prompt first, and does not know what that takes. */
static uint32_t n_asked;

static void slow_begin(void *ctx, uint32_t slot)
{
	(void)ctx, (void)slot;
}

static uint32_t slow_learn(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n,
                           uint32_t n_prompt_ids, uint32_t most)
{
	(void)ctx, (void)slot, (void)ids, (void)n, (void)n_prompt_ids, (void)most;
	return 0;
}

static void slow_propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                         double least, struct plx_draft *out)
{
	(void)ctx, (void)slot, (void)ids, (void)n, (void)most, (void)least, (void)out;
}

static uint32_t slow_expect(void *ctx, uint32_t slot, uint32_t n, uint32_t most,
                            struct plx_draft_hope *out)
{
	uint32_t seen = *(uint32_t *)ctx;

	(void)slot;
	*out = (struct plx_draft_hope){.behind = n > seen ? n - seen : 0};
	for (uint32_t i = 0; i < most; i++)
		out->p[i] = 0.9f;
	return most;
}

static void slow_ask(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t want_ids)
{
	(void)ctx, (void)slot, (void)ids, (void)n;
	assert_int_equal(want_ids, 1); /* nobody knows what one takes */
	n_asked++;
}

static uint32_t asked_with(uint32_t seen)
{
	struct plx_drafter by = {.name = "slow",
	                         .ctx = &seen,
	                         .begin = slow_begin,
	                         .learn = slow_learn,
	                         .propose = slow_propose,
	                         .kind = PLX_DRAFT_MODEL,
	                         .expect = slow_expect,
	                         .ask = slow_ask};

	open_rig(DRAFTRIG_NONE, false, DRAFTRIG_BLOCKS);
	assert_int_equal(plx_sched_add_drafter(&rig.sched, &by), 0);
	rng = 1;
	n_asked = 0;
	add(0, 5); /* 90 ids */
	req[0].stop_at = N_NEW + 1;
	rig.sched.load.tok_ns = 100000;
	do {
		/* A step and a half, as after the first steps of all. */
		rig.sched.draft.credit_ns = 1.5 * 910000;
		rig.sched.load.tok_ns = 100000;
	} while (draftrig_turn(&rig));
	draftrig_close(&rig);
	return n_asked;
}

/* 90 ids at 0.1 ms are more than the account has; 10 are not. */
static void test_drafts_catch_up_only_on_credit(void **state)
{
	(void)state;
	learn_texts();
	assert_int_equal(asked_with(0), 0);
	assert_true(asked_with(200) > 0);
	assert_true(asked_with(86) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_drafts_of_each_drafter_change_no_id),
	    cmocka_unit_test(test_drafts_catch_up_only_on_credit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
