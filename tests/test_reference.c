/*
 * The device against the double-precision reference on the real model: the same text, and logits
 * within a stated bound.
 *
 * The expected ids are literals. They were made by the reference (PLX_GOLDEN=1 prints them anew),
 * which is itself held against transformers in test_tiny.c.
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
#include "tests/lib/model_path.h"
#include "tests/lib/ref.h"

/*
 * Largest difference between a logit of the device and of the reference, for this file: the cost of
 * 8-bit activations and f16 KV. It is mostly common to all ids; so the second bound is for how the
 * best id stands to those within NEAR of it, which decides the text. Ids further off than NEAR
 * can't become the best, since that is more than twice LOGIT_BOUND.
 */
#define LOGIT_BOUND  1.5
#define MARGIN_BOUND 0.75
#define NEAR         3.5

/* "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n" */
static const int32_t prompt[] = {1,    4093, 198, 1780, 314, 260, 3575, 282,
                                 4649, 47,   2,   198,  1,   520, 9531, 198};
#define N_PROMPT ((uint32_t)(sizeof(prompt) / sizeof(prompt[0])))

#ifdef PLX_DEBUG
#define N_EXPECTED 8u /* sanitizers are slow */
#else
#define N_EXPECTED 24u
#endif
static const int32_t expected[24] = {504,  3575, 282, 4649, 314,  7042, 30,   2,
                                     198,  2,    1,   9690, 198,  2,    198,  1,
                                     4093, 198,  57,  5248, 3946, 288,  7198, 253};

static const char *model_path;

/* The logits of the reference before each expected id: [N_EXPECTED][n_vocab]. */
static double *ref_logits(const struct plx_model *m)
{
	double *out = calloc((size_t)N_EXPECTED * m->n_vocab, sizeof(double));
	struct plx_ref *r = plx_ref_open(m, N_PROMPT + N_EXPECTED);
	int32_t ids[N_PROMPT + N_EXPECTED - 1];

	PLX_CHECK(out != NULL);
	for (uint32_t i = 0; i < N_PROMPT; i++)
		ids[i] = prompt[i];
	for (uint32_t i = 0; i + 1 < N_EXPECTED; i++)
		ids[N_PROMPT + i] = expected[i];
	plx_ref_run(r, ids, N_PROMPT + N_EXPECTED - 1, N_EXPECTED, out);
	plx_ref_close(r);
	return out;
}

struct error {
	double logit;  /* largest of |dev - ref| */
	double margin; /* the same of (best - other), over the others within NEAR of the best */
};

static void error_add(struct error *e, const double *ref, const float *dev, uint32_t n)
{
	uint32_t best = plx_ref_best(ref, n);
	double common = (double)dev[best] - ref[best];

	for (uint32_t i = 0; i < n; i++) {
		double d = (double)dev[i] - ref[i];

		e->logit = fmax(e->logit, fabs(d));
		if (ref[best] - ref[i] < NEAR)
			e->margin = fmax(e->margin, fabs(d - common));
	}
}

/* Runs ids[0..n) at pos and returns the sampled one. */
static int32_t run_ids(struct devkit *k, const int32_t *ids, uint32_t pos, uint32_t n)
{
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(k, 0);

	if (pos == 0) {
		devkit_set(s, 0, &greedy);
		devkit_blocks(s, 0, 0, 8, 3);
	}
	devkit_seq(s, 0, ids, pos, n, true);
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	(void)devkit_wait(k);
	assert_int_equal(s->status, 0);
	assert_int_equal(plx_step_outs(s)[0].status, 0);
	return plx_step_outs(s)[0].id[0];
}

static void test_device_follows_reference(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	struct devkit k;
	struct error err = {0, 0};
	uint32_t n_certain = 0, n_same = 0;

	(void)state;
	devkit_open(&k, model_path, "auto", &lim);
	uint32_t n_vocab = k.model->n_vocab;
	double *ref = ref_logits(k.model);

	for (uint32_t i = 0; i < N_EXPECTED; i++) {
		const double *row = ref + (size_t)i * n_vocab;
		int32_t got = i == 0 ? run_ids(&k, prompt, 0, N_PROMPT)
		                     : run_ids(&k, &expected[i - 1], N_PROMPT + i - 1, 1);

		assert_int_equal(plx_ref_best(row, n_vocab), expected[i]);
		error_add(&err, row, devkit_logits(&k, 0), n_vocab);
		n_same += got == expected[i];
		if (plx_ref_margin(row, n_vocab) > MARGIN_BOUND) {
			n_certain++;
			assert_int_equal(got, expected[i]);
		}
	}
	printf("reference: %u of %u ids are the same, %u have a margin over %.2f; largest "
	       "difference of a logit %.3f, of a margin %.3f\n",
	       n_same, N_EXPECTED, n_certain, MARGIN_BOUND, err.logit, err.margin);
	assert_true(err.logit <= LOGIT_BOUND && err.margin <= MARGIN_BOUND);
	assert_true(n_certain >= N_EXPECTED / 2);
	free(ref);
	devkit_close(&k);
}

/* Prints the table above, from the reference alone. */
static void golden_print(void)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	PLX_CHECK(plx_model_open(model_path, &m, &d) == 0);
	double *logits = calloc(m->n_vocab, sizeof(double));
	struct plx_ref *r = plx_ref_open(m, N_PROMPT + N_EXPECTED);

	PLX_CHECK(logits != NULL);
	plx_ref_run(r, prompt, N_PROMPT, 1, logits);
	for (uint32_t i = 0; i < N_EXPECTED; i++) {
		int32_t id = (int32_t)plx_ref_best(logits, m->n_vocab);

		printf("%d, /* %.2f */%s", id, plx_ref_margin(logits, m->n_vocab),
		       i % 8 == 7 ? "\n" : " ");
		fflush(stdout);
		plx_ref_run(r, &id, 1, 1, logits);
	}
	plx_ref_close(r);
	plx_model_close(m);
	free(logits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_device_follows_reference)};

	model_path = plx_test_model();
	if (model_path == NULL) {
		printf("test_reference: SKIPPED, no model; `make test` gets it\n");
		return 0;
	}
	if (getenv("PLX_GOLDEN") != NULL) {
		golden_print();
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
