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

#include "tests/lib/devkit.h"
#include "tests/lib/ref.h"
#include "tests/lib/tiny_golden.h"

/* Goldens are printed with nine digits, and Llama 3 factors are f32. */
#define REF_BOUND 1e-6
/* F32 and F16 weights, f32 activations, f16 KV: the last one dominates. */
#define DEV_BOUND 0.05

static const char *const names[] = {"llama3", "llama-linear", "qwen2", "qwen3"};
#define N_NAMES (sizeof(names) / sizeof(names[0]))

static void golden_read(const char *name, struct plx_t_golden *g)
{
	char path[128];

	snprintf(path, sizeof(path), "tests/golden/tiny/%s.logits", name);
	plx_t_golden_read(g, path);
}

static void test_reference_equals_transformers(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < N_NAMES; i++) {
		struct plx_t_golden g;
		struct plx_diag d = {0};
		struct plx_model *m;
		char path[128];

		golden_read(names[i], &g);
		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", names[i]);
		assert_int_equal(plx_model_open(path, &m, &d), 0);
		assert_int_equal(m->n_vocab, g.n_vocab);
		double worst = plx_t_golden_ref_error(&g, m);

		printf("tiny: %s: reference against transformers: %.1e\n", names[i], worst);
		assert_true(worst <= REF_BOUND);
		plx_model_close(m);
		plx_t_golden_free(&g);
	}
}

static double device_error(const char *name, const char *isa, const struct plx_t_golden *g)
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
		struct plx_t_golden g;

		golden_read(names[i], &g);
		double e = device_error(names[i], "auto", &g);

		printf("tiny: %s: device against transformers: %.1e\n", names[i], e);
		assert_true(e <= DEV_BOUND);
		/* The bound means something only where logits are far larger. */
		assert_true(fabs(g.logits[plx_ref_best(g.logits, g.n_vocab)]) > 20 * DEV_BOUND);
		plx_t_golden_free(&g);
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
