/*
 * Sliding windows in contexts of several attention splits: the device against the double-precision
 * pass, and every chunking, batch, path and type of KV against one sequence alone. The windows are
 * put onto a model that has none, in its first and its last layer; the file's own are test_model's
 * and test_tiny's.
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

#include "fw/base/check.h"
#include "tests/lib/devkit.h"
#include "tests/lib/ref.h"

#define MODEL  "tests/golden/tiny/qwen3.gguf"
#define N_TOK  1300u
#define N_NEW  6u
#define N_ROWS 48u /* logits that are compared, from the end */
/* As test_tiny's: f16 KV against none. */
#define BOUND 0.05

static int32_t ids[N_TOK + N_NEW];

static struct plx_model *model_open(uint32_t window)
{
	struct plx_diag d = {0};
	struct plx_model *m;
	uint32_t x = 99;

	assert_int_equal(plx_model_open(MODEL, &m, &d), 0);
	m->window = m->layer[0].window = m->layer[m->n_layer - 1].window = window;
	for (uint32_t i = 0; i < N_TOK + N_NEW; i++) {
		x = x * 1664525u + 1013904223u;
		ids[i] = (int32_t)((x >> 8) % m->n_vocab);
	}
	return m;
}

/* Runs tokens from..to-1 and, where want is set, leaves the last one's logits. */
static const float *run(struct devkit *k, uint32_t from, uint32_t to, bool want)
{
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(k, 0);

	if (from == 0) {
		devkit_set(s, 0, &greedy);
		devkit_blocks(s, 0, 0, k->lim.max_seq_blocks, 0);
	}
	devkit_seq(s, 0, ids + from, from, to - from, want);
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	(void)devkit_wait(k);
	assert_int_equal(s->status, 0);
	return devkit_logits(k, 0);
}

static void test_device_follows_reference(void **state)
{
	static const uint32_t windows[] = {1, 100, 1024, 1250};

	(void)state;
	for (uint32_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
		struct plx_dev_limits lim = devkit_limits();
		struct plx_model *m = model_open(windows[i]);
		double *want = calloc((size_t)N_ROWS * m->n_vocab, sizeof(double)), worst = 0;
		struct plx_ref *r = plx_ref_open(m, N_TOK);
		struct devkit k;

		PLX_CHECK(want != NULL);
		plx_ref_run(r, ids, N_TOK, N_ROWS, want);
		plx_ref_close(r);
		lim.n_threads = 1;
		devkit_open_model(&k, m, "auto", &lim);
		for (uint32_t at = 0; at < N_TOK - N_ROWS; at += 313)
			run(&k, at, at + 313 < N_TOK - N_ROWS ? at + 313 : N_TOK - N_ROWS, false);
		for (uint32_t t = 0; t < N_ROWS; t++) {
			uint32_t at = N_TOK - N_ROWS + t;
			const float *got = run(&k, at, at + 1, true);

			for (uint32_t v = 0; v < m->n_vocab; v++)
				worst = fmax(
				    worst, fabs((double)got[v] - want[(size_t)t * m->n_vocab + v]));
		}
		printf("window: %u: device against double: %.1e\n", windows[i], worst);
		assert_true(worst <= BOUND);
		devkit_close(&k);
		free(want);
	}
}

struct way {
	const char *isa;
	uint32_t n_threads, chunk;
	bool together;
};

/* Three sequences; the longest has N_TOK tokens. */
static void run_way(const struct way *w, uint32_t kv_type, uint32_t window, struct devseq q[3])
{
	static const uint32_t len[3] = {N_TOK, 1023, 60};
	struct plx_dev_limits lim = devkit_limits();
	struct devkit k;

	lim.n_threads = w->n_threads;
	lim.kv_type = kv_type;
	devkit_open_model(&k, model_open(window), w->isa, &lim);
	memset(q, 0, 3 * sizeof(q[0]));
	for (uint32_t i = 0; i < 3; i++) {
		q[i].prompt = ids + i;
		q[i].n_prompt = len[i];
		q[i].n_new = N_NEW;
		q[i].chunk = w->chunk;
		q[i].sampler = devkit_greedy();
		if (!w->together)
			devkit_run(&k, &q[i], 1);
	}
	if (w->together)
		devkit_run(&k, q, 3);
	devkit_close(&k);
}

static void test_bits_do_not_depend_on_the_way(void **state)
{
	static const struct way ways[] = {{"avx2", 1, 333, true}, {"auto", 2, 50, true}};
	static const struct way first = {"scalar", 1, 0, false};
	static const uint32_t windows[] = {70, 1024};
	static struct devseq base[3], q[3];

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t type = i == 0 ? PLX_KV_F16 : i == 1 ? PLX_KV_Q8 : PLX_KV_Q4;

		run_way(&first, type, windows[i % 2], base);
		for (uint32_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
			if (!devkit_has_isa(ways[w].isa))
				continue;
			run_way(&ways[w], type, windows[i % 2], q);
			for (uint32_t s = 0; s < 3; s++)
				if (q[s].n_out != N_NEW || q[s].hash != base[s].hash)
					fail_msg("sequence %u differs: window %u, %s, chunk %u", s,
					         windows[i % 2], ways[w].isa, ways[w].chunk);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_device_follows_reference),
	    cmocka_unit_test(test_bits_do_not_depend_on_the_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
