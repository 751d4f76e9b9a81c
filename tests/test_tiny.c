/*
 * Tiny random models of each architecture: the reference pass and the device against the logits
 * that transformers gives (tests/golden/tiny, made by tests/gen/tiny_models.py in double
 * precision).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fw/base/check.h"
#include "tests/lib/devkit.h"
#include "tests/lib/ref.h"

/* Goldens are printed with nine digits, and Llama 3 factors are f32. */
#define REF_BOUND 1e-6
/* F32 and F16 weights, f32 activations, f16 KV: the last one dominates. */
#define DEV_BOUND 0.05

#define MAX_TOK 32u

struct golden {
	uint32_t n_tok;
	uint32_t n_vocab;
	int32_t id[MAX_TOK];
	double *logits; /* [n_tok][n_vocab] */
};

static const char *const names[] = {"llama3", "llama-linear", "qwen2", "qwen3"};
#define N_NAMES (sizeof(names) / sizeof(names[0]))

static void golden_read(const char *name, struct golden *g)
{
	char path[128];

	snprintf(path, sizeof(path), "tests/golden/tiny/%s.logits", name);
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%u %u", &g->n_tok, &g->n_vocab), 2);
	assert_in_range(g->n_tok, 1, MAX_TOK);
	for (uint32_t i = 0; i < g->n_tok; i++)
		assert_int_equal(fscanf(f, "%d", &g->id[i]), 1);
	size_t n = (size_t)g->n_tok * g->n_vocab;

	g->logits = calloc(n, sizeof(double));
	PLX_CHECK(g->logits != NULL);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(fscanf(f, "%lf", &g->logits[i]), 1);
	fclose(f);
}

static void test_reference_equals_transformers(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < N_NAMES; i++) {
		struct plx_diag d = {0};
		struct plx_model *m;
		struct golden g;
		char path[128];
		double worst = 0;

		golden_read(names[i], &g);
		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", names[i]);
		assert_int_equal(plx_model_open(path, &m, &d), 0);
		assert_int_equal(m->n_vocab, g.n_vocab);
		double *got = calloc((size_t)g.n_tok * g.n_vocab, sizeof(double));
		struct plx_ref *r = plx_ref_open(m, MAX_TOK);

		/* Two calls, so that the cache is tested as well. */
		plx_ref_run(r, g.id, 7, 7, got);
		plx_ref_run(r, g.id + 7, g.n_tok - 7, g.n_tok - 7, got + (size_t)7 * g.n_vocab);
		for (size_t j = 0; j < (size_t)g.n_tok * g.n_vocab; j++)
			worst = fmax(worst, fabs(got[j] - g.logits[j]));
		printf("tiny: %s: reference against transformers: %.1e\n", names[i], worst);
		assert_true(worst <= REF_BOUND);
		plx_ref_close(r);
		plx_model_close(m);
		free(got);
		free(g.logits);
	}
}

static double device_error(const char *name, const char *isa, const struct golden *g)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sampler greedy = devkit_greedy();
	struct devkit k;
	char path[128];
	double worst = 0;

	snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", name);
	devkit_open(&k, path, isa, &lim);
	for (uint32_t t = 0; t < g->n_tok; t++) {
		struct plx_step *s = devkit_step(&k, 0);

		if (t == 0) {
			devkit_set(s, 5, &greedy);
			devkit_blocks(s, 5, 0, 2, 40);
		}
		devkit_seq(s, 5, &g->id[t], t, 1, true);
		assert_int_equal(plx_queue_submit(k.q, 0), 0);
		(void)devkit_wait(&k);
		assert_int_equal(plx_step_outs(s)[0].status, 0);
		for (uint32_t i = 0; i < g->n_vocab; i++)
			worst = fmax(worst, fabs((double)devkit_logits(&k, 0)[i] -
			                         g->logits[(size_t)t * g->n_vocab + i]));
	}
	devkit_close(&k);
	return worst;
}

static void test_device_is_near_transformers(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < N_NAMES; i++) {
		struct golden g;

		golden_read(names[i], &g);
		double e = device_error(names[i], "auto", &g);

		printf("tiny: %s: device against transformers: %.1e\n", names[i], e);
		assert_true(e <= DEV_BOUND);
		/* The bound means something only where logits are far larger. */
		assert_true(fabs(g.logits[plx_ref_best(g.logits, g.n_vocab)]) > 20 * DEV_BOUND);
		free(g.logits);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_reference_equals_transformers),
	    cmocka_unit_test(test_device_is_near_transformers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
