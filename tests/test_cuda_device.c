/*
 * The CUDA device's text against double precision and against the CPU device, the same bits
 * whatever else a step runs, and what it refuses.
 *
 * Judging text: every id of the device must be the reference's best, unless the reference has it
 * within LEAD of its best (a near tie that rounding decides); log-probabilities must be within
 * LOGPROB of the reference's. Without a GPU each test says so and is skipped, but those of errors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/cuda.h"
#include "accel/model/gguf.h"
#include "fw/base/err.h"
#include "kernels/quant.h"
#include "tests/lib/cudarig.h"
#include "tests/lib/model_path.h"
#include "tests/lib/ref.h"

/* K and V in f16 are what costs most: test_tiny.c sees 0.024 of a logit for them on tiny models. */
#define LEAD    0.05
#define LOGPROB 0.05

/* ---- text against double precision
 * --------------------------------------------------------------- */

/* Checks a text's ids and log-probabilities; says how far the worst were. */
static void judge(const struct plx_model *m, const struct cudarig_text *t, const char *name)
{
	uint32_t n = t->n_prompt + t->n_out - 1;
	double *row = malloc((size_t)t->n_out * m->n_vocab * sizeof(*row));
	int32_t *all = malloc(n * sizeof(*all));
	struct plx_ref *r = plx_ref_open(m, n);
	double lead = 0, off = 0;
	uint32_t n_tie = 0;

	assert_true(row != NULL && all != NULL && r != NULL);
	memcpy(all, t->prompt, t->n_prompt * sizeof(*all));
	memcpy(all + t->n_prompt, t->out, (t->n_out - 1) * sizeof(*all));
	plx_ref_run(r, all, n, t->n_out, row);
	for (uint32_t i = 0; i < t->n_out; i++) {
		const double *x = row + (size_t)i * m->n_vocab;
		uint32_t best = plx_ref_best(x, m->n_vocab);
		double lp = x[t->out[i]] - plx_ref_log_sum(x, m->n_vocab);

		n_tie += best != (uint32_t)t->out[i];
		lead = fmax(lead, x[best] - x[t->out[i]]);
		off = fmax(off, fabs(lp - (double)t->logprob[i]));
	}
	printf("%s: %u ids, %u of them not the reference's best, by %.4f at most; "
	       "log-probabilities off by %.4f at most\n",
	       name, t->n_out, n_tie, lead, off);
	plx_ref_close(r);
	free(row);
	free(all);
	assert_true(lead <= LEAD && off <= LOGPROB);
}

static void test_tiny_models_follow_the_reference(void **state)
{
	static const char *const names[] = {"llama3", "llama-linear", "qwen2", "qwen3"};
	struct plx_dev_limits lim = devkit_limits();

	(void)state;
	cudarig_or_skip();
	for (uint32_t i = 0; i < 4; i++) {
		int32_t prompt[40];
		struct cudarig_text t = cudarig_text_of(prompt, 40, 200, 0);
		struct devkit k;
		char path[64];

		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", names[i]);
		cudarig_open(&k, path, &lim);
		for (uint32_t j = 0; j < 40; j++)
			prompt[j] = cudarig_ids[j] % (int32_t)k.model->n_vocab;
		cudarig_run(&k, &t, 1);
		judge(k.model, &t, names[i]);
		devkit_close(&k);
	}
}

/* "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n" */
static const int32_t france[] = {1,    4093, 198, 1780, 314, 260, 3575, 282,
                                 4649, 47,   2,   198,  1,   520, 9531, 198};
static const int32_t one_word[] = {504};
static const int32_t words[] = {504, 3575, 282, 4649, 314,  7042, 30, 2,    198,  2,   1,    9690,
                                198, 2,    198, 1,    4093, 198,  57, 5248, 3946, 288, 7198, 253};

static void test_real_model_follows_the_reference(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	const char *path = plx_test_model();
	struct devkit k, cpu;

	(void)state;
	cudarig_or_skip();
	if (path == NULL) {
		print_message("SKIPPED: no model file: set PLX_TEST_MODEL\n");
		skip();
	}
	struct cudarig_text t[3] = {cudarig_text_of(france, 16, 64, 0),
	                            cudarig_text_of(one_word, 1, 64, 0),
	                            cudarig_text_of(words, 24, 64, 7)};

	cudarig_open(&k, path, &lim);
	cudarig_run(&k, t, 3);
	lim.n_threads = 4;
	devkit_open(&cpu, path, "auto", &lim);
	for (uint32_t i = 0; i < 3; i++) {
		struct devseq q = {.prompt = t[i].prompt, .n_prompt = t[i].n_prompt, .n_new = 64};
		uint32_t same = 0;

		q.sampler = devkit_greedy();
		devkit_run(&cpu, &q, 1);
		while (same < 64 && q.out[same] == t[i].out[same])
			same++;
		printf("text %u: the first %u of 64 ids are the CPU device's\n", i, same);
		judge(k.model, &t[i], "SmolLM2-135M");
	}
	/* test_reference.c's literal ids */
	assert_memory_equal(t[0].out, words, sizeof(words));
	devkit_close(&cpu);
	devkit_close(&k);
}

/* ---- the same bits
 * ------------------------------------------------------------------------------- */

static void test_bits_do_not_depend_on_company_or_cut(void **state)
{
	static const uint32_t chunks[8] = {0, 1, 2, 5, 16, 31, 33, 39};
	static const uint32_t lens[8] = {40, 40, 40, 40, 40, 40, 40, 40};
	struct cudarig_text alone = cudarig_text_of(cudarig_ids, 40, 180, 0), t[8];

	(void)state;
	cudarig_or_skip();
	cudarig_run(&cudarig_kit, &alone, 1);
	for (uint32_t i = 0; i < 8; i++)
		t[i] = cudarig_text_of(cudarig_ids, lens[i], 180, chunks[i]);
	cudarig_run(&cudarig_kit, t, 8);
	for (uint32_t i = 0; i < 8; i++)
		cudarig_same(&t[i], &alone);
	/* Sampled texts of several temperatures, alone and together. */
	for (uint32_t i = 0; i < 8; i++) {
		t[i] = cudarig_text_of(cudarig_ids, 20 + i, 60, i);
		t[i].sampler = (struct plx_sampler){.temperature = 0.5f + 0.2f * (float)i,
		                                    .top_p = 0.95f,
		                                    .top_k = i * 10,
		                                    .min_p = 0.01f,
		                                    .repeat_penalty = 1.1f,
		                                    .penalty_window = 64,
		                                    .seed = i};
	}
	struct cudarig_text again[8];

	memcpy(again, t, sizeof(t));
	cudarig_run(&cudarig_kit, t, 8);
	for (uint32_t i = 0; i < 8; i++) {
		cudarig_run(&cudarig_kit, &again[i], 1);
		cudarig_same(&again[i], &t[i]);
	}
}

/* A prompt of several splits, in one chunk (one block for all splits) and in chunks (one each). */
static void test_long_prompts_keep_their_bits(void **state)
{
	int32_t prompt[500];
	struct cudarig_text t[4];

	(void)state;
	cudarig_or_skip();
	for (uint32_t i = 0; i < 500; i++)
		prompt[i] = (int32_t)((i * 37 + i / 7) % 128);
	for (uint32_t i = 0; i < 4; i++)
		t[i] = cudarig_text_of(prompt, 500, 20,
		                       i == 0   ? 0
		                       : i == 1 ? 30
		                       : i == 2 ? 64
		                                : 127);
	for (uint32_t i = 0; i < 4; i++)
		cudarig_run(&cudarig_kit, &t[i], 1);
	for (uint32_t i = 1; i < 4; i++)
		cudarig_same(&t[i], &t[0]);
	judge(cudarig_kit.model, &t[0], "500 tokens");
}

/* ---- what it refuses
 * ------------------------------------------------------------------------------ */

static void test_device_info(void **state)
{
	struct plx_dev_info info;

	(void)state;
	cudarig_or_skip();
	assert_int_equal(plx_dev_info_get(cudarig_kit.dev, &info), 0);
	assert_int_equal(info.caps, PLX_CAP_LAST | PLX_CAP_DRAFT | PLX_CAP_LOGPROBS | PLX_CAP_COPY);
	assert_int_equal(info.n_vocab, 128);
	assert_int_equal(info.block_bytes, 3 * 2 * 2 * 16 * 16 * 2);
	assert_true(strlen(info.numeric_kind) > 0 && info.kv_layout_hash != 0);
	printf("%s: %s\n", info.name, info.numeric_kind);
	assert_int_equal(plx_dev_worker(cudarig_kit.dev, 1, 1), PLX_E_UNSUPPORTED);
}

static void test_load_refuses_what_does_not_fit(void **state)
{
	struct plx_dev_conf conf = {.name = "big", .kind = "cuda"};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_diag d = {0};
	struct plx_dev *dev;

	(void)state;
	cudarig_or_skip();
	lim.n_blocks = 1u << 28; /* of 6 KiB */
	assert_int_equal(plx_dev_open(&conf, &dev, &d), 0);
	assert_int_equal(plx_dev_load_begin(dev, cudarig_kit.model, &lim, &d), PLX_E_NOMEM);
	assert_non_null(strstr(d.text, "KV 1572864 MiB"));
	assert_non_null(strstr(d.text, "KV blocks would fit"));
	plx_dev_close(dev);
	lim = devkit_limits();
	lim.kv_type = PLX_KV_Q8;
	memset(&d, 0, sizeof(d));
	assert_int_equal(plx_dev_open(&conf, &dev, &d), 0);
	assert_int_equal(plx_dev_load_begin(dev, cudarig_kit.model, &lim, &d), PLX_E_UNSUPPORTED);
	assert_non_null(strstr(d.text, "kv_type"));
	plx_dev_close(dev);
}

/* On every machine: what is missing is named, and so is what to do. */
static void test_open_says_what_is_missing(void **state)
{
	struct plx_dev_conf conf = {.name = "gpu7", .kind = "cuda", .index = 4711};
	struct plx_diag d = {0};
	struct plx_dev *dev = NULL;
	char path[600];
	int err = plx_dev_open(&conf, &dev, &d);

	(void)state;
	assert_true(err == PLX_E_UNSUPPORTED || err == PLX_E_NOT_FOUND);
	assert_null(dev);
	assert_non_null(strstr(d.text, "gpu7"));
	assert_int_equal(plx_cuda_plugin_file(path, sizeof(path)), 0);
	if (access(path, R_OK) != 0)
		assert_non_null(strstr(d.text, "nvcc"));
	else
		assert_true(strstr(d.text, "driver") != NULL || strstr(d.text, "GPU") != NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_open_says_what_is_missing),
	    cmocka_unit_test(test_load_refuses_what_does_not_fit),
	    cmocka_unit_test(test_device_info),
	    cmocka_unit_test(test_tiny_models_follow_the_reference),
	    cmocka_unit_test(test_real_model_follows_the_reference),
	    cmocka_unit_test(test_bits_do_not_depend_on_company_or_cut),
	    cmocka_unit_test(test_long_prompts_keep_their_bits),
	};

	return cmocka_run_group_tests(tests, cudarig_setup, cudarig_teardown);
}
