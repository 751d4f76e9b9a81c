/*
 * The CUDA device's steps as the batcher gives them: two in flight, without a CUDA call, drafts,
 * cached prefixes, faults, reset. Without a GPU each test says so and is skipped.
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
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "kernels/quant.h"
#include "tests/lib/cudarig.h"

static const int32_t last = PLX_TOK_LAST;

/* ---- steps in flight, drafts, prefixes
 * ------------------------------------------------------------ */

static void test_two_steps_in_flight_feed_back(void **state)
{
	int32_t want[CUDARIG_N_TEXT];

	(void)state;
	cudarig_or_skip();
	cudarig_greedy(5, want);
	cudarig_start(0, 0, 5);
	assert_int_equal(cudarig_submit(0), 0);
	for (uint32_t i = 1; i <= CUDARIG_N_TEXT; i++) {
		if (i < CUDARIG_N_TEXT) {
			devkit_seq(devkit_step(&cudarig_kit, i % 2), 0, &last, 5 + i - 1, 1, true);
			assert_int_equal(cudarig_submit(i % 2), 0);
			assert_int_equal(cudarig_submit(i % 2), PLX_E_INVAL); /* in flight */
		}
		assert_int_equal(devkit_wait(&cudarig_kit), (i - 1) % 2);
		assert_int_equal(cudarig_out((i - 1) % 2, 0)->n_out, 1);
		assert_int_equal(cudarig_out((i - 1) % 2, 0)->id[0], want[i - 1]);
	}
	cudarig_clear(0);
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
		p->get_stats(cudarig_kit.dev, &s);
	return s;
}

/* Behind a prompt the host launches one graph; the GPU takes the others itself. */
static void test_decode_steps_make_no_cuda_call(void **state)
{
	int32_t want[CUDARIG_N_TEXT];

	(void)state;
	cudarig_or_skip();
	if (getenv("PLX_CUDA_BELL") != NULL)
		skip(); /* told to do without */
	cudarig_greedy(5, want);
	cudarig_start(0, 0, 5);
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	struct plx_cuda_stats a = stats();

	for (uint32_t i = 1; i < CUDARIG_N_TEXT; i++) {
		devkit_seq(devkit_step(&cudarig_kit, 0), 0, &last, 5 + i - 1, 1, true);
		assert_int_equal(cudarig_submit(0), 0);
		assert_int_equal(devkit_wait(&cudarig_kit), 0);
		assert_int_equal(cudarig_out(0, 0)->id[0], want[i]);
	}
	struct plx_cuda_stats b = stats();

	assert_int_equal(b.n_kernels, a.n_kernels);
	assert_int_equal(b.n_queries, a.n_queries);
	assert_true(b.n_graphs - a.n_graphs <= 1);
	assert_int_equal(b.n_graphs - a.n_graphs + b.n_rung - a.n_rung, CUDARIG_N_TEXT - 1);
	/* A chain that was left alone parks; the next step starts another one. */
	usleep(60000);
	devkit_seq(devkit_step(&cudarig_kit, 0), 0, &last, 5 + CUDARIG_N_TEXT - 1, 1, true);
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	assert_int_equal(stats().n_graphs, b.n_graphs + 1);
	cudarig_clear(0);
}

/* Verifies n drafts after the prompt's first token; returns how many were accepted. */
static uint32_t verify(const int32_t *want, const int32_t *draft, uint32_t n)
{
	int32_t toks[1 + PLX_MAX_DRAFT];
	struct plx_step *s = cudarig_start(0, 0, 5);

	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	toks[0] = PLX_TOK_LAST;
	memcpy(toks + 1, draft, n * sizeof(toks[0]));
	s = devkit_step(&cudarig_kit, 0);
	devkit_seq(s, 0, toks, 5, 1 + n, true)->n_draft = n;
	for (uint32_t i = 0; i <= n; i++)
		plx_step_toks(s)[i].flags = PLX_TOKF_LOGITS;
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	const struct plx_step_out *o = cudarig_out(0, 0);
	uint32_t n_acc = o->n_accepted;

	assert_int_equal(o->n_out, n_acc + 1);
	for (uint32_t i = 0; i < o->n_out; i++)
		assert_int_equal(o->id[i], want[1 + i]);
	s = devkit_step(&cudarig_kit, 1);
	devkit_seq(s, 0, &last, 5 + 1 + n_acc, 1, true);
	assert_int_equal(cudarig_submit(1), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 1);
	assert_int_equal(cudarig_out(1, 0)->id[0], want[2 + n_acc]);
	cudarig_clear(0);
	return n_acc;
}

static void test_drafts_are_verified(void **state)
{
	int32_t want[CUDARIG_N_TEXT], draft[PLX_MAX_DRAFT];

	(void)state;
	cudarig_or_skip();
	cudarig_greedy(5, want);
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
	struct cudarig_text q = cudarig_text_of(cudarig_ids, 40, 4, 0),
			    other = cudarig_text_of(cudarig_ids + 7, 33, 1, 0);
	uint32_t host = cudarig_kit.lim.n_blocks;
	struct plx_block_copy here[2] = {{127, 900}, {126, 901}};
	struct plx_block_copy away[2] = {{127, host}, {126, host + 3}};
	struct plx_block_copy back[2] = {{host, 900}, {host + 3, 901}};
	struct plx_step *s;

	q.sampler.repeat_penalty = 1.5f;
	q.sampler.penalty_window = 64;
	struct plx_sampler p = q.sampler;

	cudarig_run(&cudarig_kit, &q, 1); /* leaves the first 32 ids' KV in blocks 127 and 126 */
	assert_int_equal(
	    plx_queue_copy_blocks(cudarig_kit.q, cudarig_kit.q, over_host ? away : here, 2), 0);
	cudarig_run(&cudarig_kit, &other, 1); /* in the same blocks */
	if (over_host)
		assert_int_equal(plx_queue_copy_blocks(cudarig_kit.q, cudarig_kit.q, back, 2), 0);
	memcpy(p.recent, cudarig_ids, 32 * sizeof(cudarig_ids[0]));
	p.n_recent = 32;
	s = devkit_step(&cudarig_kit, 0);
	devkit_set(s, 6, &p);
	devkit_blocks(s, 6, 0, 2, 900);
	devkit_blocks(s, 6, 2, 4, 500);
	devkit_seq(s, 6, cudarig_ids + 32, 32, 8, true);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(cudarig_submit(0), 0);
		assert_int_equal(devkit_wait(&cudarig_kit), 0);
		assert_int_equal(cudarig_out(0, 0)->id[0], q.out[i]);
		assert_memory_equal(cudarig_out(0, 0)->logprob, &q.logprob[i], sizeof(float));
		devkit_seq(devkit_step(&cudarig_kit, 0), 6, &last, 40 + i, 1, true);
	}
	cudarig_clear(6);
}

static void test_cached_prefixes_go_on_alike(void **state)
{
	struct plx_block_copy bad = {0, cudarig_kit.lim.n_blocks + cudarig_kit.lim.n_host_blocks};

	(void)state;
	cudarig_or_skip();
	check_copied_prefix(false);
	check_copied_prefix(true);
	assert_int_equal(plx_queue_copy_blocks(cudarig_kit.q, cudarig_kit.q, &bad, 1), PLX_E_INVAL);
}

static void test_copies_are_bounded(void **state)
{
	struct plx_block_copy fine[100] = {{1, 1}};
	uint32_t done, n = 0;

	(void)state;
	cudarig_or_skip();
	for (uint32_t i = 0; i < 100; i++)
		fine[i] = (struct plx_block_copy){i, 500 + i};
	for (uint32_t i = 0; i < 2000; i++) {
		int err;

		while ((err = plx_queue_copy_blocks(cudarig_kit.q, cudarig_kit.q, fine,
		                                    1 + i % 100)) == PLX_E_AGAIN) {
			n++;
			assert_int_equal(plx_queue_poll(cudarig_kit.q, 0, &done, 1), 0);
		}
		assert_int_equal(err, 0);
	}
	assert_true(n > 0);
	cudarig_start(0, 0, 3);
	while (cudarig_submit(0) == PLX_E_AGAIN)
		(void)plx_queue_poll(cudarig_kit.q, 0, &done, 1);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	cudarig_clear(0);
}

static void test_alternatives_are_told(void **state)
{
	struct plx_step *s;

	(void)state;
	cudarig_or_skip();
	s = cudarig_start(0, 0, 9);
	plx_step_seqs(s)[0].n_top = 5;
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	const struct plx_step_out *o = cudarig_out(0, 0);
	const struct plx_top *top = (const struct plx_top *)(const void *)((char *)s + o->top_off);

	assert_true(o->top_off != 0);
	assert_int_equal(top[0].id, o->id[0]);
	assert_memory_equal(&top[0].logprob, o->logprob, sizeof(float));
	for (uint32_t i = 1; i < 5; i++)
		assert_true(top[i].logprob <= top[i - 1].logprob && top[i].id != top[0].id);
	assert_true(s->end_ns >= s->start_ns && s->end_ns - s->start_ns < PLX_NS_PER_S);
	cudarig_clear(0);
}

/* ---- faults
 * --------------------------------------------------------------------------------------- */

static void test_cancelled_step_is_dropped(void **state)
{
	int32_t want[CUDARIG_N_TEXT];

	(void)state;
	cudarig_or_skip();
	cudarig_greedy(5, want);
	struct plx_step *s = cudarig_start(0, 0, 40);

	s->cancel = 1;
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	assert_int_equal(s->status, PLX_E_CANCELLED);
	assert_int_equal(cudarig_out(0, 0)->status, PLX_E_CANCELLED);
	assert_int_equal(cudarig_out(0, 0)->n_out, 0);
	/* Its deltas hold: the slot is taken. It has sampled nothing that could be fed back. */
	s = devkit_step(&cudarig_kit, 0);
	devkit_seq(s, 0, &last, 40, 1, true);
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	assert_int_equal(s->status, 0);
	assert_int_equal(cudarig_out(0, 0)->status, PLX_E_FAULT);
	cudarig_clear(0);
	cudarig_start(1, 0, 5);
	assert_int_equal(cudarig_submit(1), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 1);
	assert_int_equal(cudarig_out(1, 0)->id[0], want[0]);
	cudarig_clear(0);
}

static void test_reset_loses_what_was_accepted(void **state)
{
	int32_t want[CUDARIG_N_TEXT];
	uint32_t done[4];

	(void)state;
	cudarig_or_skip();
	cudarig_greedy(5, want);
	struct plx_step *a = cudarig_start(0, 0, 40);
	struct plx_step *b = cudarig_start(1, 1, 40);

	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(cudarig_submit(1), 0);
	uint64_t generation = a->generation;

	assert_int_equal(plx_dev_reset(cudarig_kit.dev), 0);
	assert_int_equal(plx_queue_poll(cudarig_kit.q, 0, done, 4), 2);
	assert_int_equal(done[0], 0);
	assert_int_equal(done[1], 1);
	assert_int_equal(b->status, PLX_E_LOST);
	assert_int_equal(cudarig_out(1, 0)->status, PLX_E_LOST);
	cudarig_start(0, 0, 5);
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(a->generation, generation + 1);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	assert_int_equal(cudarig_out(0, 0)->status, 0);
	assert_int_equal(cudarig_out(0, 0)->id[0], want[0]);
	cudarig_clear(0);
}

static void test_close_in_the_middle(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	struct devkit mine = cudarig_kit;

	(void)state;
	cudarig_or_skip();
	cudarig_open(&cudarig_kit, CUDARIG_TINY, &lim);
	cudarig_start(0, 0, 40);
	assert_int_equal(cudarig_submit(0), 0);
	devkit_close(&cudarig_kit);
	cudarig_kit = mine;
}

/* A copy of the tiny model in which one embedding row is NaN. */
static struct plx_model *nan_model(uint32_t row, void **mem)
{
	struct plx_diag d = {0};
	struct plx_gguf *g;
	struct plx_model *m;
	FILE *f = fopen(CUDARIG_TINY, "rb");

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
	struct devkit good = cudarig_kit;
	struct plx_diag d = {0};
	int32_t want[CUDARIG_N_TEXT];
	void *mem;

	(void)state;
	cudarig_or_skip();
	struct plx_model *m = nan_model(125, &mem);

	m->output = cudarig_kit.model->output; /* else id 125's own logit is NaN for everybody */
	m->tied_output = false;
	memset(&cudarig_kit, 0, sizeof(cudarig_kit));
	assert_int_equal(cudarig_open_model(&cudarig_kit, m, &lim, &d), 0);
	cudarig_greedy(5, want);
	struct plx_step *s = cudarig_start(0, 0, 5);

	devkit_set(s, 1, &greedy);
	devkit_blocks(s, 1, 0, 1, 64);
	devkit_seq(s, 1, bad, 0, 3, true);
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	assert_int_equal(s->status, 0);
	assert_int_equal(cudarig_out(0, 0)->status, 0);
	assert_int_equal(cudarig_out(0, 0)->id[0], want[0]);
	assert_int_equal(cudarig_out(0, 1)->status, PLX_E_FAULT);
	assert_int_equal(cudarig_out(0, 1)->n_out, 0);
	/* And stays failed, while the other one goes on. */
	s = devkit_step(&cudarig_kit, 0);
	devkit_seq(s, 0, &last, 5, 1, true);
	devkit_seq(s, 1, cudarig_ids, 3, 1, true);
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	assert_int_equal(cudarig_out(0, 0)->id[0], want[1]);
	assert_int_equal(cudarig_out(0, 1)->status, PLX_E_FAULT);
	devkit_close(&cudarig_kit);
	free(mem);
	cudarig_kit = good;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
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

	return cmocka_run_group_tests(tests, cudarig_setup, cudarig_teardown);
}
