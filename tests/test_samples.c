/*
 * Several samples of one prompt: they share its blocks, and their drafts are verified together, in
 * the same step, as those of different requests are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lib/guess.h"
#include "tests/lib/schedrig.h"

#define N_PROMPT 100u
#define N_NEW    24u

static struct rig g;
static int32_t prompt[4][N_PROMPT];

static const struct rig_shape shape = {
    .n_slots = 4, .n_blocks = 40, .step_tokens = 120, .step_seqs = 4, .steps = 2};

static void add(uint32_t key, uint32_t n_samples)
{
	plx_fake_conf(g.fake)->eog_every = 0; /* all answers are as long as they may be */
	rig_prompt(prompt[key], N_PROMPT, (int32_t)(10 + key));
	struct plx_sched_job j = rig_job(&g, key, prompt[key], N_PROMPT, n_samples, N_NEW, 5 + key);

	assert_int_equal(rig_add(&g, key, &j), 0);
}

/* The most blocks that are held at once until all is done. */
static uint32_t most_blocks(void)
{
	uint32_t most = 0;

	while (rig_turn(&g) > 0 || !plx_sched_idle(&g.s)) {
		uint32_t used = g.conf.n_blocks - plx_kv_room(&g.s.kv);

		most = used > most ? used : most;
	}
	return most;
}

/* A prompt of 100 and 24 ids take 8 blocks of 16, of which the first 6 are the prompt's alone. */
static void test_samples_share_the_blocks_of_their_prompt(void **state)
{
	uint32_t alone, four, apart;

	(void)state;
	rig_open(&g, &shape);
	add(0, 1);
	alone = most_blocks();
	add(0, 4);
	four = most_blocks();
	for (uint32_t k = 0; k < 4; k++)
		add(k, 1);
	apart = most_blocks();
	assert_int_equal(alone, 8);
	assert_int_equal(four, 6 + 4 * 2);
	assert_int_equal(apart, 4 * 8);
	rig_close(&g);
}

/* Of the steps that were filled last: the most sequences of one that carry drafts. */
static uint32_t drafting_together(void)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < shape.steps; i++) {
		struct plx_step *st = plx_queue_step(g.q, i);
		uint32_t n = 0;

		for (uint32_t k = 0; k < st->n_seq; k++)
			n += plx_step_seqs(st)[k].n_draft > 0;
		most = n > most ? n : most;
	}
	return most;
}

static uint32_t run_with_drafts(void)
{
	uint32_t most = 0;

	while (rig_turn(&g) > 0 || !plx_sched_idle(&g.s)) {
		uint32_t n = drafting_together();

		most = n > most ? n : most;
	}
	return most;
}

static void test_samples_drafts_are_verified_in_one_step(void **state)
{
	struct guess u = {.wrong = 5, .most = 4, .p = 0.9f};

	(void)state;
	rig_open(&g, &shape);
	guess_open(&u, &g);
	add(0, 4);
	assert_int_equal(run_with_drafts(), 4);
	for (uint32_t k = 0; k < 4; k++)
		add(k, 1);
	assert_int_equal(run_with_drafts(), 4);
	assert_true(u.n > 0);
	rig_run_out(&g);
	rig_close(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_samples_share_the_blocks_of_their_prompt),
	    cmocka_unit_test(test_samples_drafts_are_verified_in_one_step),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
