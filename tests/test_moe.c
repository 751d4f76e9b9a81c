/*
 * Experts on the device: tiny random Mixtral, Qwen2-MoE and Qwen3-MoE against transformers
 * (tests/golden/tiny), ties, NaN, and who was counted. That no bit depends on batch, chunk, threads
 * or instruction set is tests/test_forward.c's; what files may say, tests/test_experts.c's.
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

#include "accel/cpu.h"
#include "accel/forward_moe.h"
#include "fw/base/check.h"
#include "fw/base/err.h"
#include "tests/lib/devkit.h"
#include "tests/lib/ref.h"
#include "tests/lib/tiny_golden.h"

#define MIXTRAL "tests/golden/tiny/mixtral.gguf"
/* Goldens are printed with nine digits. */
#define REF_BOUND 1e-6

/* F16 matrices take f32 activations, Q8_0 ones 8-bit activations. */
static const struct tiny {
	const char *name;
	double bound;    /* of a logit on the device */
	uint32_t n_same; /* greedy ids, of 20: 8 bits decide one anew, of best two 0.05 apart */
} tiny[] = {{"mixtral", 0.05, 20}, {"qwen2moe", 0.5, 19}, {"qwen3moe", 0.05, 20}};
#define N_TINY (sizeof(tiny) / sizeof(tiny[0]))

static void golden_read(const char *name, struct plx_t_golden *g)
{
	char path[128];

	snprintf(path, sizeof(path), "tests/golden/tiny/%s.logits", name);
	plx_t_golden_read(g, path);
}

/* ---- against transformers ------------------------------------------------------------------- */

static void test_reference_equals_transformers(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < N_TINY; i++) {
		struct plx_t_golden g;
		struct plx_diag d = {0};
		struct plx_model *m;
		char path[128];

		golden_read(tiny[i].name, &g);
		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", tiny[i].name);
		if (plx_model_open(path, &m, &d) != 0)
			fail_msg("%s", d.text);
		double worst = plx_t_golden_ref_error(&g, m);

		printf("moe: %s: reference against transformers: %.1e\n", tiny[i].name, worst);
		assert_true(worst <= REF_BOUND);
		plx_model_close(m);
		plx_t_golden_free(&g);
	}
}

/* Runs the golden's ids a token a step; counts where the device chose the golden's best id. */
static double device_run(const char *name, const struct plx_t_golden *g, uint32_t *n_same)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sampler greedy = devkit_greedy();
	struct devkit k;
	char path[128];
	double worst = 0;

	snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", name);
	devkit_open(&k, path, "auto", &lim);
	for (uint32_t t = 0; t < g->n_tok; t++) {
		const double *want = g->logits + (size_t)t * g->n_vocab;
		struct plx_step *s = devkit_step(&k, 0);

		if (t == 0) {
			devkit_set(s, 5, &greedy);
			devkit_blocks(s, 5, 0, 2, 40);
		}
		devkit_seq(s, 5, &g->id[t], t, 1, true);
		assert_int_equal(plx_queue_submit(k.q, 0), 0);
		(void)devkit_wait(&k);
		assert_int_equal(plx_step_outs(s)[0].status, 0);
		*n_same += plx_step_outs(s)[0].id[0] == (int32_t)plx_ref_best(want, g->n_vocab);
		for (uint32_t i = 0; i < g->n_vocab; i++)
			worst = fmax(worst, fabs((double)devkit_logits(&k, 0)[i] - want[i]));
	}
	devkit_close(&k);
	return worst;
}

static void test_device_is_near_transformers(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < N_TINY; i++) {
		struct plx_t_golden g;
		uint32_t n_same = 0;

		golden_read(tiny[i].name, &g);
		double e = device_run(tiny[i].name, &g, &n_same);

		printf("moe: %s: device against transformers: %.1e, %u of %u greedy ids\n",
		       tiny[i].name, e, n_same, g.n_tok);
		assert_true(e <= tiny[i].bound);
		assert_int_equal(n_same, tiny[i].n_same);
		assert_true(fabs(g.logits[plx_ref_best(g.logits, g.n_vocab)]) > 5 * tiny[i].bound);
		plx_t_golden_free(&g);
	}
}

/* ---- a file that a test changes ----------------------------------------------------------------
 */

struct bytes {
	uint8_t *p;
	size_t n;
};

static struct bytes file_read(const char *path)
{
	struct bytes b = {0};
	FILE *f = fopen(path, "rb");

	PLX_CHECK(f != NULL && fseek(f, 0, SEEK_END) == 0);
	b.n = (size_t)ftell(f);
	b.p = aligned_alloc(64, (b.n + 63) & ~(size_t)63);
	PLX_CHECK(b.p != NULL && fseek(f, 0, SEEK_SET) == 0 && fread(b.p, 1, b.n, f) == b.n);
	fclose(f);
	return b;
}

static struct plx_model *open_bytes(const struct bytes *b)
{
	struct plx_diag d = {0};
	struct plx_gguf *g;
	struct plx_model *m;

	if (plx_gguf_open_mem(b->p, b->n, &g, &d) != 0 || plx_model_from_gguf(g, &m, &d) != 0)
		fail_msg("%s", d.text);
	return m;
}

/* ---- routing -------------------------------------------------------------------------------- */

static const int32_t ids[24] = {11, 30, 3,  57, 5,  60, 12, 9,  41, 7,  31, 2,
                                8,  20, 44, 1,  19, 63, 18, 27, 39, 50, 35, 54};

static const struct plx_fwd *pass_of(const struct devkit *k)
{
	return &((const struct plx_cpu *)(const void *)k->dev)->fwd;
}

static void run_ids(struct devkit *k, struct devseq *q, uint32_t chunk)
{
	*q = (struct devseq){
	    .prompt = ids, .n_prompt = 24, .n_new = 1, .chunk = chunk, .sampler = devkit_greedy()};
	devkit_run(k, q, 1);
	assert_int_equal(q->status, 0);
}

/* A step's tokens are all counted, each with as many experts as it uses. */
static void test_tokens_are_counted(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	struct devkit k;
	struct devseq q;

	(void)state;
	devkit_open(&k, "tests/golden/tiny/qwen3moe.gguf", "auto", &lim);
	run_ids(&k, &q, 5);
	const uint64_t *heat = pass_of(&k)->moe->heat;

	for (uint32_t il = 0; il < 3; il++) {
		uint64_t sum = 0, n_hit = 0;

		for (uint32_t e = 0; e < 16; e++) {
			sum += heat[il * 16 + e];
			n_hit += heat[il * 16 + e] > 0;
		}
		/* The last layer of a step without logits ends at its K and V. */
		assert_int_equal(sum, il < 2 ? 96 : 16);
		assert_true(n_hit > 4);
	}
	struct plx_dev_experts n;

	/* 24 tokens in steps of 5 5 5 5 4, 4 experts each; the last layer runs in one of them. */
	assert_int_equal(plx_dev_experts_get(k.dev, &n), 0);
	assert_int_equal(n.tokens, 96 + 96 + 16);
	assert_true(n.passes >= 11 * 4 && n.passes < n.tokens);
	assert_true(n.busiest >= 11 && n.busiest <= 24 + 24 + 4);
	/* In the first step few of 16 experts have served; what was hot is what `heat` says now,
	 * within what they served before they were. */
	assert_true(n.hot > 0 && n.hot < n.tokens);
	devkit_close(&k);
}

/* Routers whose rows are all alike: every token gets the lowest experts. */
static void test_ties_go_to_the_lowest_experts(void **state)
{
	struct bytes b = file_read(MIXTRAL);
	struct plx_dev_limits lim = devkit_limits();
	struct plx_model *m = open_bytes(&b);
	struct devkit k;
	struct devseq q;

	(void)state;
	for (uint32_t il = 0; il < 2; il++) {
		float *router = (float *)(uintptr_t)m->layer[il].router.data;

		for (uint32_t e = 1; e < 4; e++)
			memcpy(router + 64 * (size_t)e, router, 64 * sizeof(float));
	}
	devkit_open_model(&k, m, "auto", &lim);
	run_ids(&k, &q, 0);
	const uint64_t *heat = pass_of(&k)->moe->heat;
	static const uint64_t want[8] = {24, 24, 0, 0, 24, 24, 0, 0};

	assert_memory_equal(heat, want, sizeof(want));
	devkit_close(&k);
	free(b.p);
}

/* A NaN in one sequence's router logits stays in that sequence. */
static void test_nan_stays_in_its_sequence(void **state)
{
	static const int32_t bad[3] = {1, 62, 2}, good[4] = {5, 6, 7, 8};
	struct bytes b = file_read(MIXTRAL);
	struct plx_dev_limits lim = devkit_limits();
	struct plx_model *m = open_bytes(&b);
	uint8_t *row = b.p + (m->tok_embd.data - b.p) + 62 * m->tok_embd.row_bytes;
	struct devseq alone = {
	    .prompt = good, .n_prompt = 4, .n_new = 6, .sampler = devkit_greedy()};
	struct devseq both[2] = {alone, alone};
	struct devkit k;

	(void)state;
	both[1].prompt = bad;
	both[1].n_prompt = 3;
	memset(row, 0xff, m->tok_embd.row_bytes);
	devkit_open_model(&k, m, "auto", &lim);
	devkit_run(&k, &alone, 1);
	devkit_run(&k, both, 2);
	assert_int_equal(both[1].status, PLX_E_FAULT);
	assert_int_equal(both[0].status, 0);
	assert_int_equal(both[0].n_out, 6);
	assert_true(both[0].hash == alone.hash);
	devkit_close(&k);
	free(b.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_reference_equals_transformers),
	    cmocka_unit_test(test_device_is_near_transformers),
	    cmocka_unit_test(test_tokens_are_counted),
	    cmocka_unit_test(test_ties_go_to_the_lowest_experts),
	    cmocka_unit_test(test_nan_stays_in_its_sequence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
