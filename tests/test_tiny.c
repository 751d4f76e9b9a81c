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

#include "tests/lib/ref.h"
#include "tests/lib/tiny_golden.h"

/* Goldens are printed with nine digits, and Llama 3 factors are f32. */
#define REF_BOUND 1e-6
/* F32 and F16 weights, f32 activations, f16 KV: the last one dominates. */
#define DEV_BOUND 0.05

static const char *const names[] = {"llama3", "llama-linear", "qwen2",
                                    "qwen3",  "qwen2-window", "mistral"};
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

static void test_device_is_near_transformers(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < N_NAMES; i++) {
		struct plx_t_golden g;
		char path[128];

		golden_read(names[i], &g);
		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", names[i]);
		double e = plx_t_golden_dev_error(&g, path, "auto");

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
