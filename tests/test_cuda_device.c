/*
 * The CUDA device as the batcher sees it: text against double precision and against the CPU device,
 * the same bits whatever else a step runs, steps in flight, drafts, cached prefixes, faults, reset.
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

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/cuda.h"
#include "accel/model/gguf.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "kernels/quant.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"
#include "tests/lib/ref.h"

#define TINY "tests/golden/tiny/qwen3.gguf"

/* K and V in f16 are what costs most: test_tiny.c sees 0.024 of a logit for them on tiny models. */
#define LEAD    0.05
#define LOGPROB 0.05

#define N_TEXT 24u

static const int32_t ids[40] = {11, 90, 3,  77, 5,  60, 12, 99, 101, 7,  31, 2,  8,  120,
                                44, 1,  19, 63, 88, 27, 9,  70, 35,  54, 66, 13, 81, 4,
                                17, 29, 93, 10, 42, 58, 6,  22, 75,  37, 50, 15};
static const int32_t last = PLX_TOK_LAST;

static struct devkit kit;
static char why[PLX_DIAG_BYTES]; /* there is no GPU; "" where there is one */

/* ---- a kit on a GPU
 * ------------------------------------------------------------------------------ */

static int open_model(struct devkit *k, struct plx_model *m, const struct plx_dev_limits *lim,
                      struct plx_diag *d)
{
	struct plx_dev_conf conf = {.name = "gpu", .kind = "cuda"};
	struct plx_load_progress pr;
	int err = plx_dev_open(&conf, &k->dev, d);

	if (err != 0)
		return err;
	k->lim = *lim;
	k->budget_us = 0;
	k->model = m;
	err = plx_dev_load_begin(k->dev, m, lim, d);
	while (err == 0 && (err = plx_dev_load_poll(k->dev, 1000, &pr, d)) == PLX_E_AGAIN)
		err = 0;
	return err != 0 ? err : plx_queue_open(k->dev, &k->q, d);
}

static void open_gpu(struct devkit *k, const char *path, const struct plx_dev_limits *lim)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	memset(k, 0, sizeof(*k));
	if (plx_model_open(path, &m, &d) != 0 || open_model(k, m, lim, &d) != 0)
		fail_msg("%s", d.text);
}

static int setup(void **state)
{
	struct plx_dev_conf conf = {.name = "gpu", .kind = "cuda"};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_diag d = {0};
	struct plx_dev *dev;

	(void)state;
	if (plx_dev_open(&conf, &dev, &d) != 0) {
		memcpy(why, d.text, sizeof(why));
		return 0;
	}
	plx_dev_close(dev);
	open_gpu(&kit, TINY, &lim);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (why[0] == '\0')
		devkit_close(&kit);
	return 0;
}

static void gpu_or_skip(void)
{
	if (why[0] == '\0')
		return;
	print_message("SKIPPED: %s\n", why);
	skip();
}

static int submit(uint32_t idx)
{
	return plx_queue_submit(kit.q, idx);
}

static const struct plx_step_out *out(uint32_t idx, uint32_t seq)
{
	return &plx_step_outs(plx_queue_step(kit.q, idx))[seq];
}

static void clear(uint32_t slot)
{
	devkit_clear(devkit_step(&kit, 0), slot);
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(plx_queue_step(kit.q, 0)->status, 0);
}

/* A step that starts a sequence of n of ids in a slot, with blocks 64 * slot and on. */
static struct plx_step *start(uint32_t idx, uint32_t slot, uint32_t n)
{
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(&kit, idx);

	devkit_set(s, slot, &greedy);
	devkit_blocks(s, slot, 0, 8, 64 * slot);
	devkit_seq(s, slot, ids, 0, n, true);
	return s;
}

/* ---- running texts
 * ------------------------------------------------------------------------------- */

struct text {
	const int32_t *prompt;
	uint32_t n_prompt;
	uint32_t n_new;
	uint32_t chunk; /* prompt tokens a step */
	struct plx_sampler sampler;
	uint32_t n_run, n_out;
	int32_t out[512];
	float logprob[512];
};

static void text_add(struct devkit *k, struct plx_step *s, struct text *t, uint32_t slot)
{
	uint32_t left = t->n_prompt - t->n_run, bt = k->lim.block_tokens;
	uint32_t each = k->lim.n_blocks / k->lim.n_slots;
	uint32_t pos = left > 0 ? t->n_run : t->n_prompt + t->n_out - 1;
	uint32_t n = left == 0 ? 1 : t->chunk > 0 && t->chunk < left ? t->chunk : left;

	if (pos == 0)
		devkit_set(s, slot, &t->sampler);
	for (uint32_t i = (pos + bt - 1) / bt; i < (pos + n + bt - 1) / bt; i++)
		devkit_blocks(s, slot, i, i + 1, slot * each + (each - 1 - i));
	devkit_seq(s, slot, left > 0 ? t->prompt + t->n_run : &last, pos, n, left <= n);
	t->n_run += left > 0 ? n : 0;
}

/* Runs texts together, one step at a time, each in its own slot. */
static void texts_run(struct devkit *k, struct text *t, uint32_t n)
{
	for (bool busy = true; busy;) {
		struct plx_step *s = devkit_step(k, 0);
		uint32_t who[64], n_who = 0;

		busy = false;
		for (uint32_t i = 0; i < n; i++) {
			if (t[i].n_out == t[i].n_new)
				continue;
			text_add(k, s, &t[i], i);
			who[n_who++] = i;
			busy = true;
		}
		if (!busy)
			break;
		assert_int_equal(plx_queue_submit(k->q, 0), 0);
		assert_int_equal(devkit_wait(k), 0);
		assert_int_equal(s->status, 0);
		for (uint32_t j = 0; j < n_who; j++) {
			const struct plx_step_out *o = &plx_step_outs(s)[j];
			struct text *q = &t[who[j]];

			assert_int_equal(o->status, 0);
			if (o->n_out == 0)
				continue;
			q->out[q->n_out] = o->id[0];
			q->logprob[q->n_out++] = o->logprob[0];
		}
	}
	struct plx_step *s = devkit_step(k, 0);

	for (uint32_t i = 0; i < n; i++)
		devkit_clear(s, i);
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	assert_int_equal(devkit_wait(k), 0);
}

static struct text text_of(const int32_t *prompt, uint32_t n_prompt, uint32_t n_new, uint32_t chunk)
{
	return (struct text){.prompt = prompt,
	                     .n_prompt = n_prompt,
	                     .n_new = n_new,
	                     .chunk = chunk,
	                     .sampler = devkit_greedy()};
}

/* What greedy decoding of the first n of ids gives, alone. */
static void greedy_of(uint32_t n, int32_t want[N_TEXT])
{
	struct text t = text_of(ids, n, N_TEXT, 0);

	texts_run(&kit, &t, 1);
	memcpy(want, t.out, sizeof(want[0]) * N_TEXT);
}

/* ---- text against double precision
 * --------------------------------------------------------------- */

/* Checks a text's ids and log-probabilities; says how far the worst were. */
static void judge(const struct plx_model *m, const struct text *t, const char *name)
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
	gpu_or_skip();
	for (uint32_t i = 0; i < 4; i++) {
		int32_t prompt[40];
		struct text t = text_of(prompt, 40, 200, 0);
		struct devkit k;
		char path[64];

		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", names[i]);
		open_gpu(&k, path, &lim);
		for (uint32_t j = 0; j < 40; j++)
			prompt[j] = ids[j] % (int32_t)k.model->n_vocab;
		texts_run(&k, &t, 1);
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
	gpu_or_skip();
	if (path == NULL) {
		print_message("SKIPPED: no model file: set PLX_TEST_MODEL\n");
		skip();
	}
	struct text t[3] = {text_of(france, 16, 64, 0), text_of(one_word, 1, 64, 0),
	                    text_of(words, 24, 64, 7)};

	open_gpu(&k, path, &lim);
	texts_run(&k, t, 3);
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

static void same_text(const struct text *a, const struct text *b)
{
	assert_int_equal(a->n_out, b->n_out);
	assert_memory_equal(a->out, b->out, a->n_out * sizeof(a->out[0]));
	assert_memory_equal(a->logprob, b->logprob, a->n_out * sizeof(a->logprob[0]));
}

static void test_bits_do_not_depend_on_company_or_cut(void **state)
{
	static const uint32_t chunks[8] = {0, 1, 2, 5, 16, 31, 33, 39};
	static const uint32_t lens[8] = {40, 40, 40, 40, 40, 40, 40, 40};
	struct text alone = text_of(ids, 40, 180, 0), t[8];

	(void)state;
	gpu_or_skip();
	texts_run(&kit, &alone, 1);
	for (uint32_t i = 0; i < 8; i++)
		t[i] = text_of(ids, lens[i], 180, chunks[i]);
	texts_run(&kit, t, 8);
	for (uint32_t i = 0; i < 8; i++)
		same_text(&t[i], &alone);
	/* Sampled texts of several temperatures, alone and together. */
	for (uint32_t i = 0; i < 8; i++) {
		t[i] = text_of(ids, 20 + i, 60, i);
		t[i].sampler = (struct plx_sampler){.temperature = 0.5f + 0.2f * (float)i,
		                                    .top_p = 0.95f,
		                                    .top_k = i * 10,
		                                    .min_p = 0.01f,
		                                    .repeat_penalty = 1.1f,
		                                    .penalty_window = 64,
		                                    .seed = i};
	}
	struct text again[8];

	memcpy(again, t, sizeof(t));
	texts_run(&kit, t, 8);
	for (uint32_t i = 0; i < 8; i++) {
		texts_run(&kit, &again[i], 1);
		same_text(&again[i], &t[i]);
	}
}

/* A prompt of several splits, in one chunk (one block for all splits) and in chunks (one each). */
static void test_long_prompts_keep_their_bits(void **state)
{
	int32_t prompt[500];
	struct text t[4];

	(void)state;
	gpu_or_skip();
	for (uint32_t i = 0; i < 500; i++)
		prompt[i] = (int32_t)((i * 37 + i / 7) % 128);
	for (uint32_t i = 0; i < 4; i++)
		t[i] = text_of(prompt, 500, 20, i == 0 ? 0 : i == 1 ? 30 : i == 2 ? 64 : 127);
	for (uint32_t i = 0; i < 4; i++)
		texts_run(&kit, &t[i], 1);
	for (uint32_t i = 1; i < 4; i++)
		same_text(&t[i], &t[0]);
	judge(kit.model, &t[0], "500 tokens");
}

/* ---- steps in flight, drafts, prefixes
 * ------------------------------------------------------------ */

static void test_two_steps_in_flight_feed_back(void **state)
{
	int32_t want[N_TEXT];

	(void)state;
	gpu_or_skip();
	greedy_of(5, want);
	start(0, 0, 5);
	assert_int_equal(submit(0), 0);
	for (uint32_t i = 1; i <= N_TEXT; i++) {
		if (i < N_TEXT) {
			devkit_seq(devkit_step(&kit, i % 2), 0, &last, 5 + i - 1, 1, true);
			assert_int_equal(submit(i % 2), 0);
			assert_int_equal(submit(i % 2), PLX_E_INVAL); /* in flight */
		}
		assert_int_equal(devkit_wait(&kit), (i - 1) % 2);
		assert_int_equal(out((i - 1) % 2, 0)->n_out, 1);
		assert_int_equal(out((i - 1) % 2, 0)->id[0], want[i - 1]);
	}
	clear(0);
}

/* What the device counted so far. */
static struct plx_cuda_stats stats(void)
{
	struct plx_cuda_stats s = {0};
	char path[600];

	assert_int_equal(plx_cuda_plugin_file(path, sizeof(path)), 0);
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const struct plx_cuda_plugin *p = so != NULL ? dlsym(so, PLX_CUDA_SYMBOL) : NULL;

	if (p == NULL)
		fail_msg("%s has no %s", path, PLX_CUDA_SYMBOL);
	else
		p->get_stats(kit.dev, &s);
	return s;
}

/* Behind a prompt the host launches one graph; the GPU takes the others itself. */
static void test_decode_steps_make_no_cuda_call(void **state)
{
	int32_t want[N_TEXT];

	(void)state;
	gpu_or_skip();
	if (getenv("PLX_CUDA_BELL") != NULL)
		skip(); /* told to do without */
	greedy_of(5, want);
	start(0, 0, 5);
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	struct plx_cuda_stats a = stats();

	for (uint32_t i = 1; i < N_TEXT; i++) {
		devkit_seq(devkit_step(&kit, 0), 0, &last, 5 + i - 1, 1, true);
		assert_int_equal(submit(0), 0);
		assert_int_equal(devkit_wait(&kit), 0);
		assert_int_equal(out(0, 0)->id[0], want[i]);
	}
	struct plx_cuda_stats b = stats();

	assert_int_equal(b.n_kernels, a.n_kernels);
	assert_int_equal(b.n_queries, a.n_queries);
	assert_true(b.n_graphs - a.n_graphs <= 1);
	assert_int_equal(b.n_graphs - a.n_graphs + b.n_rung - a.n_rung, N_TEXT - 1);
	/* A chain that was left alone parks; the next step starts another one. */
	usleep(60000);
	devkit_seq(devkit_step(&kit, 0), 0, &last, 5 + N_TEXT - 1, 1, true);
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(stats().n_graphs, b.n_graphs + 1);
	clear(0);
}

/* Verifies n drafts after the prompt's first token; returns how many were accepted. */
static uint32_t verify(const int32_t *want, const int32_t *draft, uint32_t n)
{
	int32_t toks[1 + PLX_MAX_DRAFT];
	struct plx_step *s = start(0, 0, 5);

	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	toks[0] = PLX_TOK_LAST;
	memcpy(toks + 1, draft, n * sizeof(toks[0]));
	s = devkit_step(&kit, 0);
	devkit_seq(s, 0, toks, 5, 1 + n, true)->n_draft = n;
	for (uint32_t i = 0; i <= n; i++)
		plx_step_toks(s)[i].flags = PLX_TOKF_LOGITS;
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	const struct plx_step_out *o = out(0, 0);
	uint32_t n_acc = o->n_accepted;

	assert_int_equal(o->n_out, n_acc + 1);
	for (uint32_t i = 0; i < o->n_out; i++)
		assert_int_equal(o->id[i], want[1 + i]);
	s = devkit_step(&kit, 1);
	devkit_seq(s, 0, &last, 5 + 1 + n_acc, 1, true);
	assert_int_equal(submit(1), 0);
	assert_int_equal(devkit_wait(&kit), 1);
	assert_int_equal(out(1, 0)->id[0], want[2 + n_acc]);
	clear(0);
	return n_acc;
}

static void test_drafts_are_verified(void **state)
{
	int32_t want[N_TEXT], draft[PLX_MAX_DRAFT];

	(void)state;
	gpu_or_skip();
	greedy_of(5, want);
	for (uint32_t wrong = 0; wrong <= PLX_MAX_DRAFT; wrong++) {
		memcpy(draft, want + 1, sizeof(draft));
		if (wrong < PLX_MAX_DRAFT)
			draft[wrong] = (draft[wrong] + 1) % 128;
		assert_int_equal(verify(want, draft, PLX_MAX_DRAFT), wrong);
	}
}

/* Blocks copied on the GPU, and out to the host and back. */
static void check_copied_prefix(bool over_host)
{
	struct text q = text_of(ids, 40, 4, 0), other = text_of(ids + 7, 33, 1, 0);
	uint32_t host = kit.lim.n_blocks;
	struct plx_block_copy here[2] = {{127, 900}, {126, 901}};
	struct plx_block_copy away[2] = {{127, host}, {126, host + 3}};
	struct plx_block_copy back[2] = {{host, 900}, {host + 3, 901}};
	struct plx_step *s;

	q.sampler.repeat_penalty = 1.5f;
	q.sampler.penalty_window = 64;
	struct plx_sampler p = q.sampler;

	texts_run(&kit, &q, 1); /* leaves the first 32 ids' KV in blocks 127 and 126 */
	assert_int_equal(plx_queue_copy_blocks(kit.q, kit.q, over_host ? away : here, 2), 0);
	texts_run(&kit, &other, 1); /* in the same blocks */
	if (over_host)
		assert_int_equal(plx_queue_copy_blocks(kit.q, kit.q, back, 2), 0);
	memcpy(p.recent, ids, 32 * sizeof(ids[0]));
	p.n_recent = 32;
	s = devkit_step(&kit, 0);
	devkit_set(s, 6, &p);
	devkit_blocks(s, 6, 0, 2, 900);
	devkit_blocks(s, 6, 2, 4, 500);
	devkit_seq(s, 6, ids + 32, 32, 8, true);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(submit(0), 0);
		assert_int_equal(devkit_wait(&kit), 0);
		assert_int_equal(out(0, 0)->id[0], q.out[i]);
		assert_memory_equal(out(0, 0)->logprob, &q.logprob[i], sizeof(float));
		devkit_seq(devkit_step(&kit, 0), 6, &last, 40 + i, 1, true);
	}
	clear(6);
}

static void test_cached_prefixes_go_on_alike(void **state)
{
	struct plx_block_copy bad = {0, kit.lim.n_blocks + kit.lim.n_host_blocks};

	(void)state;
	gpu_or_skip();
	check_copied_prefix(false);
	check_copied_prefix(true);
	assert_int_equal(plx_queue_copy_blocks(kit.q, kit.q, &bad, 1), PLX_E_INVAL);
}

static void test_copies_are_bounded(void **state)
{
	struct plx_block_copy fine[100] = {{1, 1}};
	uint32_t done, n = 0;

	(void)state;
	gpu_or_skip();
	for (uint32_t i = 0; i < 100; i++)
		fine[i] = (struct plx_block_copy){i, 500 + i};
	for (uint32_t i = 0; i < 2000; i++) {
		int err;

		while ((err = plx_queue_copy_blocks(kit.q, kit.q, fine, 1 + i % 100)) ==
		       PLX_E_AGAIN) {
			n++;
			assert_int_equal(plx_queue_poll(kit.q, 0, &done, 1), 0);
		}
		assert_int_equal(err, 0);
	}
	assert_true(n > 0);
	start(0, 0, 3);
	while (submit(0) == PLX_E_AGAIN)
		(void)plx_queue_poll(kit.q, 0, &done, 1);
	assert_int_equal(devkit_wait(&kit), 0);
	clear(0);
}

static void test_alternatives_are_told(void **state)
{
	struct plx_step *s;

	(void)state;
	gpu_or_skip();
	s = start(0, 0, 9);
	plx_step_seqs(s)[0].n_top = 5;
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	const struct plx_step_out *o = out(0, 0);
	const struct plx_top *top = (const struct plx_top *)(const void *)((char *)s + o->top_off);

	assert_true(o->top_off != 0);
	assert_int_equal(top[0].id, o->id[0]);
	assert_memory_equal(&top[0].logprob, o->logprob, sizeof(float));
	for (uint32_t i = 1; i < 5; i++)
		assert_true(top[i].logprob <= top[i - 1].logprob && top[i].id != top[0].id);
	assert_true(s->end_ns >= s->start_ns && s->end_ns - s->start_ns < PLX_NS_PER_S);
	clear(0);
}

/* ---- faults
 * --------------------------------------------------------------------------------------- */

static void test_cancelled_step_is_dropped(void **state)
{
	int32_t want[N_TEXT];

	(void)state;
	gpu_or_skip();
	greedy_of(5, want);
	struct plx_step *s = start(0, 0, 40);

	s->cancel = 1;
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(s->status, PLX_E_CANCELLED);
	assert_int_equal(out(0, 0)->status, PLX_E_CANCELLED);
	assert_int_equal(out(0, 0)->n_out, 0);
	/* Its deltas hold: the slot is taken. It has sampled nothing that could be fed back. */
	s = devkit_step(&kit, 0);
	devkit_seq(s, 0, &last, 40, 1, true);
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(s->status, 0);
	assert_int_equal(out(0, 0)->status, PLX_E_FAULT);
	clear(0);
	start(1, 0, 5);
	assert_int_equal(submit(1), 0);
	assert_int_equal(devkit_wait(&kit), 1);
	assert_int_equal(out(1, 0)->id[0], want[0]);
	clear(0);
}

static void test_reset_loses_what_was_accepted(void **state)
{
	int32_t want[N_TEXT];
	uint32_t done[4];

	(void)state;
	gpu_or_skip();
	greedy_of(5, want);
	struct plx_step *a = start(0, 0, 40);
	struct plx_step *b = start(1, 1, 40);

	assert_int_equal(submit(0), 0);
	assert_int_equal(submit(1), 0);
	uint64_t generation = a->generation;

	assert_int_equal(plx_dev_reset(kit.dev), 0);
	assert_int_equal(plx_queue_poll(kit.q, 0, done, 4), 2);
	assert_int_equal(done[0], 0);
	assert_int_equal(done[1], 1);
	assert_int_equal(b->status, PLX_E_LOST);
	assert_int_equal(out(1, 0)->status, PLX_E_LOST);
	start(0, 0, 5);
	assert_int_equal(submit(0), 0);
	assert_int_equal(a->generation, generation + 1);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(out(0, 0)->status, 0);
	assert_int_equal(out(0, 0)->id[0], want[0]);
	clear(0);
}

static void test_close_in_the_middle(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	struct devkit mine = kit;

	(void)state;
	gpu_or_skip();
	open_gpu(&kit, TINY, &lim);
	start(0, 0, 40);
	assert_int_equal(submit(0), 0);
	devkit_close(&kit);
	kit = mine;
}

/* A copy of the tiny model in which one embedding row is NaN. */
static struct plx_model *nan_model(uint32_t row, void **mem)
{
	struct plx_diag d = {0};
	struct plx_gguf *g;
	struct plx_model *m;
	FILE *f = fopen(TINY, "rb");

	assert_non_null(f);
	*mem = malloc(1 << 20);
	assert_non_null(*mem);
	size_t bytes = fread(*mem, 1, 1 << 20, f);

	fclose(f);
	assert_int_equal(plx_gguf_open_mem(*mem, bytes, &g, &d), 0);
	const struct plx_gguf_tensor *t = plx_gguf_tensor_find(g, "token_embd.weight");
	float *w = (float *)(void *)((uint8_t *)*mem + t->file_off);

	assert_int_equal(t->type, PLX_Q_F32);
	w[row * t->dim[0] + 3] = NAN;
	assert_int_equal(plx_model_from_gguf(g, &m, &d), 0);
	return m;
}

static void test_nan_fails_its_sequence_alone(void **state)
{
	static const int32_t bad[3] = {11, 125, 3};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sampler greedy = devkit_greedy();
	struct devkit good = kit;
	struct plx_diag d = {0};
	int32_t want[N_TEXT];
	void *mem;

	(void)state;
	gpu_or_skip();
	struct plx_model *m = nan_model(125, &mem);

	m->output = kit.model->output; /* else id 125's own logit is NaN for everybody */
	m->tied_output = false;
	memset(&kit, 0, sizeof(kit));
	assert_int_equal(open_model(&kit, m, &lim, &d), 0);
	greedy_of(5, want);
	struct plx_step *s = start(0, 0, 5);

	devkit_set(s, 1, &greedy);
	devkit_blocks(s, 1, 0, 1, 64);
	devkit_seq(s, 1, bad, 0, 3, true);
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(s->status, 0);
	assert_int_equal(out(0, 0)->status, 0);
	assert_int_equal(out(0, 0)->id[0], want[0]);
	assert_int_equal(out(0, 1)->status, PLX_E_FAULT);
	assert_int_equal(out(0, 1)->n_out, 0);
	/* And stays failed, while the other one goes on. */
	s = devkit_step(&kit, 0);
	devkit_seq(s, 0, &last, 5, 1, true);
	devkit_seq(s, 1, ids, 3, 1, true);
	assert_int_equal(submit(0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(out(0, 0)->id[0], want[1]);
	assert_int_equal(out(0, 1)->status, PLX_E_FAULT);
	devkit_close(&kit);
	free(mem);
	kit = good;
}

/* ---- what it refuses
 * ------------------------------------------------------------------------------ */

static void test_device_info(void **state)
{
	struct plx_dev_info info;

	(void)state;
	gpu_or_skip();
	assert_int_equal(plx_dev_info_get(kit.dev, &info), 0);
	assert_int_equal(info.caps, PLX_CAP_LAST | PLX_CAP_DRAFT | PLX_CAP_LOGPROBS | PLX_CAP_COPY);
	assert_int_equal(info.n_vocab, 128);
	assert_int_equal(info.block_bytes, 3 * 2 * 2 * 16 * 16 * 2);
	assert_true(strlen(info.numeric_kind) > 0 && info.kv_layout_hash != 0);
	printf("%s: %s\n", info.name, info.numeric_kind);
	assert_int_equal(plx_dev_worker(kit.dev, 1, 1), PLX_E_UNSUPPORTED);
}

static void test_load_refuses_what_does_not_fit(void **state)
{
	struct plx_dev_conf conf = {.name = "big", .kind = "cuda"};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_diag d = {0};
	struct plx_dev *dev;

	(void)state;
	gpu_or_skip();
	lim.n_blocks = 1u << 28; /* of 6 KiB */
	assert_int_equal(plx_dev_open(&conf, &dev, &d), 0);
	assert_int_equal(plx_dev_load_begin(dev, kit.model, &lim, &d), PLX_E_NOMEM);
	assert_non_null(strstr(d.text, "KV 1572864 MiB"));
	assert_non_null(strstr(d.text, "KV blocks would fit"));
	plx_dev_close(dev);
	lim = devkit_limits();
	lim.kv_type = PLX_KV_Q8;
	memset(&d, 0, sizeof(d));
	assert_int_equal(plx_dev_open(&conf, &dev, &d), 0);
	assert_int_equal(plx_dev_load_begin(dev, kit.model, &lim, &d), PLX_E_UNSUPPORTED);
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
	    cmocka_unit_test(test_device_info),
	    cmocka_unit_test(test_load_refuses_what_does_not_fit),
	    cmocka_unit_test(test_tiny_models_follow_the_reference),
	    cmocka_unit_test(test_real_model_follows_the_reference),
	    cmocka_unit_test(test_bits_do_not_depend_on_company_or_cut),
	    cmocka_unit_test(test_long_prompts_keep_their_bits),
	    cmocka_unit_test(test_two_steps_in_flight_feed_back),
	    cmocka_unit_test(test_decode_steps_make_no_cuda_call),
	    cmocka_unit_test(test_drafts_are_verified),
	    cmocka_unit_test(test_cached_prefixes_go_on_alike),
	    cmocka_unit_test(test_copies_are_bounded),
	    cmocka_unit_test(test_alternatives_are_told),
	    cmocka_unit_test(test_cancelled_step_is_dropped),
	    cmocka_unit_test(test_reset_loses_what_was_accepted),
	    cmocka_unit_test(test_close_in_the_middle),
	    cmocka_unit_test(test_nan_fails_its_sequence_alone),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
