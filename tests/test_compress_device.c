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

#include "accel/model/layers.h"
#include "dataplane/batch/preempt.h"
#include "tests/lib/devkit.h"

#define CTX   256u
#define BT    16u
#define N_GEN 60u
#define FIRST 20u /* prompt of the text that is generated */

static struct devkit kit;
static struct plx_sched sched;
static struct plx_arena arena;
static struct plx_sched_final final[3];
static bool ended[3];
static int32_t ids[600], said[N_GEN];
static float logprob[N_GEN], score[2][600];
static uint32_t n_said;
static uint32_t early_layers;   /* of the next device */
static const char *skip_layers; /* of its model; NULL: none */
static struct plx_model *whole; /* what a model without layers is of */

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id, float lp,
                     const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	(void)ctx, (void)sample, (void)top, (void)n_top, (void)end, (void)device_ns;
	if (key != 0)
		return;
	assert_true(index < N_GEN);
	said[index] = id;
	logprob[index] = lp;
	n_said = index + 1;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
	fail();
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	(void)ctx;
	final[key] = *f;
	ended[key] = true;
}

static void on_copy(void *ctx, const struct plx_block_copy *pairs, uint32_t n)
{
	(void)ctx;
	assert_int_equal(plx_queue_copy_blocks(kit.q, kit.q, pairs, n), 0);
}

static void open_device(const struct plx_dev_limits *lim)
{
	const char *path = "tests/golden/tiny/llama3.gguf";
	struct plx_model *part;

	whole = NULL;
	if (skip_layers) {
		assert_int_equal(plx_model_open(path, &whole, NULL), 0);
		assert_int_equal(plx_model_without(whole, skip_layers, &part, NULL), 0);
		devkit_open_model(&kit, part, "auto", lim);
	} else {
		devkit_open(&kit, path, "auto", lim);
	}
}

static void open_all(uint32_t step_tokens, uint32_t n_blocks)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sched_sink sink = {NULL, on_token, on_end, on_final};
	struct plx_diag d = {""};
	struct plx_sched_conf c = {.n_keys = 3,
	                           .n_slots = 3,
	                           .n_blocks = n_blocks,
	                           .block_tokens = BT,
	                           .ctx_tokens = CTX,
	                           .can_shift = true,
	                           .can_evict = true,
	                           .max_prompt = 600,
	                           .max_new = CTX,
	                           .step_tokens = step_tokens,
	                           .step_seqs = 3,
	                           .steps_in_flight = 2,
	                           .window = 1000,
	                           .pause_ns = UINT64_MAX,
	                           .prefix_cache = true};

	lim.n_slots = 3;
	lim.n_blocks = n_blocks;
	lim.block_tokens = BT;
	lim.max_seq_blocks = CTX / BT;
	lim.max_step_tokens = step_tokens;
	lim.max_step_seqs = 3;
	lim.steps_in_flight = 2;
	lim.n_threads = 1;
	lim.early_layers = early_layers;
	open_device(&lim);
	assert_int_equal(plx_arena_open(&arena, plx_sched_bytes(&c), &d), 0);
	assert_int_equal(plx_sched_init(&sched, &arena, &c, &sink, &d), 0);
	plx_sched_set_copy(&sched, NULL, on_copy);
	memset(ended, 0, sizeof(ended));
}

static void close_all(uint32_t n_blocks)
{
	plx_sched_check(&sched);
	assert_int_equal(plx_kv_room(&sched.kv), n_blocks);
	devkit_close(&kit);
	plx_model_close(whole);
	plx_arena_close(&arena);
}

static void run_all(bool preempts)
{
	uint32_t free_step[2] = {0, 1}, n_free = 2, n = 0;

	while (!plx_sched_idle(&sched)) {
		while (
		    n_free > 0 &&
		    plx_sched_fill(&sched, plx_queue_step(kit.q, free_step[n_free - 1]), 1000, 1))
			assert_int_equal(plx_queue_submit(kit.q, free_step[--n_free]), 0);
		uint32_t idx = devkit_wait(&kit);
		struct plx_step *st = plx_queue_step(kit.q, idx);

		assert_int_equal(st->status, 0);
		plx_sched_done(&sched, st, 0, 1);
		plx_sched_check(&sched);
		free_step[n_free++] = idx;
		for (uint32_t v = 0; preempts && v < 3 && n < 6; v++)
			if (sched.seq[v].state == PLX_SEQ_RUN && !sched.seq[v].leaving &&
			    sched.seq[v].n_blocks > 0 && n++ % 2 == 0)
				plx_sched_preempt(&sched, v);
	}
}

static void add(uint32_t key, uint32_t n_ids, float *to)
{
	struct plx_sched_admit out;
	struct plx_sched_job j = {
	    .ids = ids, .n_ids = n_ids, .max_new = N_GEN, .n_samples = 1, .score = to};

	j.sampler =
	    (struct plx_sampler){.temperature = 1.5f, .top_p = 1, .repeat_penalty = 1, .seed = 9};
	j.ignore_eos = true;
	j.flags = to && early_layers ? (uint32_t)PLX_SEQF_EARLY : 0u;
	assert_int_equal(plx_sched_add(&sched, key, &j, 1, &out), 0);
}

/* A text of FIRST ids and those sampled behind them, with their log-probabilities. */
static void generate(void)
{
	for (uint32_t i = 0; i < FIRST; i++)
		ids[i] = (int32_t)(3 + i * 29 % 60);
	open_all(64, 40);
	add(0, FIRST, NULL);
	run_all(false);
	close_all(40);
	assert_int_equal(n_said, N_GEN);
	memcpy(&ids[FIRST], said, sizeof(said));
}

static void test_compress_device_scores_are_what_sampling_said(void **state)
{
	static const uint32_t step_tokens[] = {64, 7, 128, 33};

	(void)state;
	generate();
	for (uint32_t i = 0; i < 4; i++) {
		memset(score, 0, sizeof(score));
		open_all(step_tokens[i], i == 3 ? 9 : 40);
		add(1, FIRST + N_GEN, score[0]);
		add(2, FIRST + N_GEN, score[1]);
		run_all(i >= 2);
		assert_int_equal(sched.stats.preempted > 0, i >= 2);
		close_all(i == 3 ? 9 : 40);
		for (uint32_t k = 1; k <= 2; k++) {
			assert_true(ended[k]);
			assert_int_equal(final[k].kind, PLX_SCHED_SCORED);
			assert_memory_equal(&score[k - 1][FIRST], logprob, sizeof(logprob));
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
	open_all(64, 16);
	add(1, 600, score[0]);
	run_all(false);
	assert_int_equal(final[1].kind, PLX_SCHED_SCORED);
	close_all(16);
	memmove(ids, &ids[256], 256 * sizeof(ids[0]));
	open_all(64, 16);
	add(2, 256, score[1]);
	run_all(false);
	assert_int_equal(final[2].kind, PLX_SCHED_SCORED);
	assert_memory_equal(&score[0][257], &score[1][1], 255 * sizeof(score[0][0]));
	close_all(16);
}

/* Scores of the first layers alone are those of a model that has no others, whatever answers
 * meanwhile; and that answer is what it is without. */
static void test_compress_device_scores_of_the_first_layers(void **state)
{
	static const uint32_t step_tokens[] = {64, 7, 33};

	(void)state;
	generate();
	skip_layers = "1";
	open_all(64, 40);
	add(1, FIRST + N_GEN, score[0]);
	run_all(false);
	close_all(40);
	skip_layers = NULL;
	early_layers = 1;
	for (uint32_t i = 0; i < 3; i++) {
		memset(score[1], 0, sizeof(score[1]));
		n_said = 0;
		open_all(step_tokens[i], i == 2 ? 12 : 40);
		add(0, FIRST, NULL);
		add(1, FIRST + N_GEN, score[1]);
		add(2, FIRST + N_GEN, score[1]);
		run_all(i == 2);
		assert_int_equal(final[1].kind, PLX_SCHED_SCORED);
		assert_int_equal(final[2].kind, PLX_SCHED_SCORED);
		assert_memory_equal(&score[1][1], &score[0][1],
		                    (FIRST + N_GEN - 1) * sizeof(float));
		assert_int_equal(n_said, N_GEN);
		assert_memory_equal(said, &ids[FIRST], sizeof(said));
		close_all(i == 2 ? 12 : 40);
	}
	assert_memory_not_equal(&score[1][FIRST], logprob, sizeof(logprob));
	early_layers = 0;
}

/* Nothing that was scored can be found by others, and a cancel frees it. */
static void test_compress_device_scoring_leaves_nothing(void **state)
{
	(void)state;
	generate();
	open_all(64, 40);
	add(1, FIRST + N_GEN, score[0]);
	run_all(false);
	add(0, FIRST + N_GEN, NULL);
	run_all(false);
	assert_int_equal(final[0].cached_tokens, 0);
	add(1, FIRST + N_GEN, score[0]);
	plx_sched_cancel(&sched, 1, 1, 1);
	assert_int_equal(final[1].kind, PLX_SCHED_CANCELLED);
	close_all(40);
}

/* A request whose prompt is thinned out to half. */
static void add_thin(uint32_t key, uint32_t n_ids, bool late)
{
	struct plx_sched_admit out;
	struct plx_sched_job j = {.ids = ids,
	                          .n_ids = n_ids,
	                          .max_new = N_GEN,
	                          .n_samples = 1,
	                          .evict = true,
	                          .evict_late = late,
	                          .evict_goal = {false, 0.5f}};

	j.sampler = (struct plx_sampler){.top_p = 1, .repeat_penalty = 1};
	j.ignore_eos = true;
	assert_int_equal(plx_sched_add(&sched, key, &j, 1, &out), 0);
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
		open_all(step_tokens[i], n_blocks[i]);
		add_thin(0, 180, false);
		if (i >= 2)
			add_thin(1, 150, false);
		run_all(i >= 2);
		assert_int_equal(final[0].kind, PLX_SCHED_DONE);
		assert_int_equal(final[0].n_out[0], N_GEN);
		assert_int_equal(final[0].n_evicted, 90);
		assert_true(final[0].evict_loss > 0 && final[0].evict_loss < 0.5f);
		assert_int_equal(sched.stats.preempted > 0, i >= 2);
		if (i == 0)
			memcpy(want, said, sizeof(want));
		assert_memory_equal(said, want, sizeof(want));
		close_all(n_blocks[i]);
	}
}

/* Two that fill the memory: one of them gives up half of its prompt, and nobody is preempted. */
static void test_compress_device_late_only_under_pressure(void **state)
{
	(void)state;
	long_prompt();
	open_all(200, 40);
	add_thin(0, 180, true);
	run_all(false);
	assert_int_equal(final[0].n_evicted, 0);
	assert_true(final[0].evict_loss >= 0);
	close_all(40);
	open_all(200, 26);
	add_thin(0, 180, true);
	add_thin(1, 180, true);
	run_all(false);
	assert_int_equal(final[0].kind, PLX_SCHED_DONE);
	assert_int_equal(final[1].kind, PLX_SCHED_DONE);
	assert_int_equal(final[0].n_evicted + final[1].n_evicted, 90);
	assert_int_equal(sched.stats.preempted, 0);
	assert_int_equal(sched.stats.evicted_tokens, 90);
	close_all(26);
	/* The same without leave: one has to go and come back. */
	open_all(200, 26);
	add(1, 180, NULL);
	add(2, 180, NULL);
	sched.conf.prefix_cache = false;
	run_all(false);
	assert_true(sched.stats.preempted > 0);
	close_all(26);
}

static void test_compress_device_goal_of_none_changes_nothing(void **state)
{
	int32_t want[N_GEN];
	struct plx_sched_admit out;

	(void)state;
	long_prompt();
	for (uint32_t i = 0; i < 2; i++) {
		struct plx_sched_job j = {.ids = ids,
		                          .n_ids = 180,
		                          .max_new = N_GEN,
		                          .n_samples = 1,
		                          .ignore_eos = true,
		                          .evict = i == 1,
		                          .evict_goal = {true, 0}};

		j.sampler = (struct plx_sampler){.top_p = 1, .repeat_penalty = 1};
		open_all(64, 40);
		assert_int_equal(plx_sched_add(&sched, 0, &j, 1, &out), 0);
		run_all(false);
		assert_int_equal(final[0].n_evicted, 0);
		if (i == 0)
			memcpy(want, said, sizeof(want));
		assert_memory_equal(said, want, sizeof(want));
		close_all(40);
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
