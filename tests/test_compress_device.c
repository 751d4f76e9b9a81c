/*
 * Scoring over the CPU device: the log-probabilities that a scored prompt gets are, bit for bit,
 * those that its tokens had when they were sampled, in any chunks, beside others, preempted, and in
 * windows. And KV that goes behind the prompt: the same ids in any chunks, beside others and
 * preempted, fewer blocks; only where memory is short where that was said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/devsched.h"

#define CTX   DS_CTX
#define N_GEN DS_NEW
#define FIRST 20u /* prompt of the text that is generated */

static int32_t ids[600], *const said = ds.said[0];
static float *const logprob = ds.logprob[0], score[2][600];

/* An answer drawn at a high temperature, or a prompt that is scored. */
static void add(uint32_t key, uint32_t n_ids, float *to)
{
	struct plx_sched_job j = devsched_job(ids, n_ids);

	j.score = to;
	j.sampler.temperature = 1.5f;
	j.sampler.seed = 9;
	j.flags = to && ds.early_layers ? (uint32_t)PLX_SEQF_EARLY : 0u;
	devsched_add(key, &j);
}

/* A text of FIRST ids and those sampled behind them, with their log-probabilities. */
static void generate(void)
{
	for (uint32_t i = 0; i < FIRST; i++)
		ids[i] = (int32_t)(3 + i * 29 % 60);
	devsched_open(64, 40);
	add(0, FIRST, NULL);
	devsched_run(false);
	devsched_close();
	assert_int_equal(ds.n_said[0], N_GEN);
	memcpy(&ids[FIRST], said, 4 * N_GEN);
}

static void test_compress_device_scores_are_what_sampling_said(void **state)
{
	static const uint32_t step_tokens[] = {64, 7, 128, 33};

	(void)state;
	generate();
	for (uint32_t i = 0; i < 4; i++) {
		memset(score, 0, sizeof(score));
		devsched_open(step_tokens[i], i == 3 ? 9 : 40);
		add(1, FIRST + N_GEN, score[0]);
		add(2, FIRST + N_GEN, score[1]);
		devsched_run(i >= 2);
		assert_int_equal(ds.sched.stats.preempted > 0, i >= 2);
		devsched_close();
		for (uint32_t k = 1; k <= 2; k++) {
			assert_true(ds.ended[k]);
			assert_int_equal(ds.final[k].kind, PLX_SCHED_SCORED);
			assert_memory_equal(&score[k - 1][FIRST], logprob, 4 * N_GEN);
		}
	}
}

/* Longer than the context: windows of it, each as if its text stood alone; in one window's memory.
 */
static void test_compress_device_scores_in_windows(void **state)
{
	(void)state;
	generate();
	for (uint32_t i = 80; i < 600; i++)
		ids[i] = ids[i % 80];
	devsched_open(64, 16);
	add(1, 600, score[0]);
	devsched_run(false);
	assert_int_equal(ds.final[1].kind, PLX_SCHED_SCORED);
	devsched_close();
	memmove(ids, &ids[256], 256 * sizeof(ids[0]));
	devsched_open(64, 16);
	add(2, 256, score[1]);
	devsched_run(false);
	assert_int_equal(ds.final[2].kind, PLX_SCHED_SCORED);
	assert_memory_equal(&score[0][257], &score[1][1], 255 * sizeof(score[0][0]));
	devsched_close();
}

/* Scores of the first layers alone are those of a model that has no others, whatever answers
 * meanwhile; and that answer is what it is without. */
static void test_compress_device_scores_of_the_first_layers(void **state)
{
	static const uint32_t step_tokens[] = {64, 7, 33};

	(void)state;
	generate();
	ds.skip_layers = "1";
	devsched_open(64, 40);
	add(1, FIRST + N_GEN, score[0]);
	devsched_run(false);
	devsched_close();
	ds.skip_layers = NULL;
	ds.early_layers = 1;
	for (uint32_t i = 0; i < 3; i++) {
		memset(score[1], 0, sizeof(score[1]));
		ds.n_said[0] = 0;
		devsched_open(step_tokens[i], i == 2 ? 12 : 40);
		add(0, FIRST, NULL);
		add(1, FIRST + N_GEN, score[1]);
		add(2, FIRST + N_GEN, score[1]);
		devsched_run(i == 2);
		assert_int_equal(ds.final[1].kind, PLX_SCHED_SCORED);
		assert_int_equal(ds.final[2].kind, PLX_SCHED_SCORED);
		assert_memory_equal(&score[1][1], &score[0][1],
		                    (FIRST + N_GEN - 1) * sizeof(float));
		assert_int_equal(ds.n_said[0], N_GEN);
		assert_memory_equal(said, &ids[FIRST], 4 * N_GEN);
		devsched_close();
	}
	assert_memory_not_equal(&score[1][FIRST], logprob, 4 * N_GEN);
	ds.early_layers = 0;
}

/* Nothing that was scored can be found by others, and a cancel frees it. */
static void test_compress_device_scoring_leaves_nothing(void **state)
{
	(void)state;
	generate();
	devsched_open(64, 40);
	add(1, FIRST + N_GEN, score[0]);
	devsched_run(false);
	add(0, FIRST + N_GEN, NULL);
	devsched_run(false);
	assert_int_equal(ds.final[0].cached_tokens, 0);
	add(1, FIRST + N_GEN, score[0]);
	plx_sched_cancel(&ds.sched, 1, 1, 1);
	assert_int_equal(ds.final[1].kind, PLX_SCHED_CANCELLED);
	devsched_close();
}

/* A request whose prompt is thinned out to half. */
static void add_thin(uint32_t key, uint32_t n_ids, bool late)
{
	struct plx_sched_job j = devsched_job(ids, n_ids);

	j.evict = true;
	j.evict_late = late;
	j.evict_goal.target = 0.5f;
	devsched_add(key, &j);
}

static void long_prompt(void)
{
	generate();
	for (uint32_t i = 80; i < 180; i++)
		ids[i] = ids[i * 7 % 80];
}

static void test_compress_device_same_ids_when_thinned_out(void **state)
{
	static const uint32_t step_tokens[] = {200, 40, 64, 64};
	static const uint32_t n_blocks[] = {40, 40, 40, 17};
	int32_t want[N_GEN];

	(void)state;
	long_prompt();
	for (uint32_t i = 0; i < 4; i++) {
		devsched_open(step_tokens[i], n_blocks[i]);
		add_thin(0, 180, false);
		if (i >= 2)
			add_thin(1, 150, false);
		devsched_run(i >= 2);
		assert_int_equal(ds.final[0].kind, PLX_SCHED_DONE);
		assert_int_equal(ds.final[0].n_out[0], N_GEN);
		assert_int_equal(ds.final[0].n_evicted, 90);
		assert_true(ds.final[0].evict_loss > 0 && ds.final[0].evict_loss < 0.5f);
		assert_int_equal(ds.sched.stats.preempted > 0, i >= 2);
		if (i == 0)
			memcpy(want, said, sizeof(want));
		assert_memory_equal(said, want, sizeof(want));
		devsched_close();
	}
}

/* Two that fill the memory: one of them gives up half of its prompt, and nobody is preempted. */
static void test_compress_device_late_only_under_pressure(void **state)
{
	(void)state;
	long_prompt();
	devsched_open(200, 40);
	add_thin(0, 180, true);
	devsched_run(false);
	assert_int_equal(ds.final[0].n_evicted, 0);
	assert_true(ds.final[0].evict_loss >= 0);
	devsched_close();
	devsched_open(200, 26);
	add_thin(0, 180, true);
	add_thin(1, 180, true);
	devsched_run(false);
	assert_int_equal(ds.final[0].kind, PLX_SCHED_DONE);
	assert_int_equal(ds.final[1].kind, PLX_SCHED_DONE);
	assert_int_equal(ds.final[0].n_evicted + ds.final[1].n_evicted, 90);
	assert_int_equal(ds.sched.stats.preempted, 0);
	assert_int_equal(ds.sched.stats.evicted_tokens, 90);
	devsched_close();
	/* The same without leave: one has to go and come back. */
	devsched_open(200, 26);
	add(1, 180, NULL);
	add(2, 180, NULL);
	ds.sched.conf.prefix_cache = false;
	devsched_run(false);
	assert_true(ds.sched.stats.preempted > 0);
	devsched_close();
}

static void test_compress_device_goal_of_none_changes_nothing(void **state)
{
	int32_t want[N_GEN];

	(void)state;
	long_prompt();
	for (uint32_t i = 0; i < 2; i++) {
		struct plx_sched_job j = devsched_job(ids, 180);

		j.evict = i == 1;
		j.evict_goal.by_loss = true;
		devsched_open(64, 40);
		devsched_add(0, &j);
		devsched_run(false);
		assert_int_equal(ds.final[0].n_evicted, 0);
		if (i == 0)
			memcpy(want, said, sizeof(want));
		assert_memory_equal(said, want, sizeof(want));
		devsched_close();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_compress_device_scores_are_what_sampling_said),
	    cmocka_unit_test(test_compress_device_scores_in_windows),
	    cmocka_unit_test(test_compress_device_scores_of_the_first_layers),
	    cmocka_unit_test(test_compress_device_scoring_leaves_nothing),
	    cmocka_unit_test(test_compress_device_same_ids_when_thinned_out),
	    cmocka_unit_test(test_compress_device_late_only_under_pressure),
	    cmocka_unit_test(test_compress_device_goal_of_none_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
