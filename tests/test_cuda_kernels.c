/*
 * The CUDA kernels: matrix products and embeddings against double precision in every format, with
 * the bound that ops.h's numerics give, the same bits for any number of tokens; the sampler's ids
 * and log-probabilities against the CPU's, which must be equal.
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

#include "accel/cuda.h"
#include "fw/base/err.h"
#include "kernels/cuda/lab.h"
#include "kernels/sample.h"
#include "tests/lib/qdata.h"

/*
 * Of sum |w x|: activations lose 2^-17 at most, F32 weights as much; then f32 sums, in the tensor
 * core with truncation.
 */
#define MM_BOUND 0x1p-15

static struct {
	int (*matmul)(uint32_t, const void *, uint64_t, uint32_t, uint32_t, const float *, uint32_t,
	              float *);
	int (*embed)(uint32_t, const void *, uint64_t, uint32_t, uint32_t, const int32_t *,
	             uint32_t, float *);
	int (*sample)(const float *, uint32_t, uint32_t, struct plx_kc_sampling *,
	              struct plx_kc_choice *, struct plx_kc_top *);
} lab;

static char why[PLX_DIAG_BYTES]; /* there is no GPU; "" where there is one */

static void *symbol(void *so, const char *name)
{
	void *p = dlsym(so, name);

	if (p == NULL)
		fail_msg("the plug-in lacks %s", name);
	return p;
}

static int setup(void **state)
{
	struct plx_dev_conf conf = {.name = "gpu", .kind = "cuda"};
	struct plx_diag d = {0};
	struct plx_dev *dev;
	char path[600];

	(void)state;
	if (plx_dev_open(&conf, &dev, &d) != 0) {
		memcpy(why, d.text, sizeof(why));
		return 0;
	}
	plx_dev_close(dev);
	assert_int_equal(plx_cuda_plugin_file(path, sizeof(path)), 0);
	void *so = dlopen(path, RTLD_NOW);

	assert_non_null(so);
	*(void **)&lab.matmul = symbol(so, "plx_kc_lab_matmul");
	*(void **)&lab.embed = symbol(so, "plx_kc_lab_embed");
	*(void **)&lab.sample = symbol(so, "plx_kc_lab_sample");
	return 0;
}

static void gpu_or_skip(void)
{
	if (why[0] == '\0')
		return;
	print_message("SKIPPED: %s\n", why);
	skip();
}

/* ---- matrix products ---------------------------------------------------------------------------
 */

#define MAX_TOK 70u

static void *random_matrix(uint32_t type, uint32_t n_out, uint32_t n_in, uint64_t *row_bytes,
                           uint64_t *seed)
{
	assert_int_equal(plx_q_row_bytes(type, n_in, row_bytes), 0);
	uint8_t *raw = malloc(n_out * *row_bytes);

	assert_non_null(raw);
	for (uint32_t r = 0; r < n_out; r++)
		plx_t_fill_blocks((enum plx_qtype)type, raw + r * *row_bytes, n_in, PLX_T_RANDOM,
		                  seed);
	return raw;
}

/* The largest error of a token's results, in parts of sum |w x|. */
static double worst(uint32_t type, const uint8_t *raw, uint64_t row_bytes, uint32_t n_out,
                    uint32_t n_in, const float *x, const float *y)
{
	float *w = malloc(n_in * sizeof(*w));
	double most = 0;

	assert_non_null(w);
	for (uint32_t r = 0; r < n_out; r++) {
		double sum = 0, size = 0;

		plx_q_dequant((enum plx_qtype)type, raw + r * row_bytes, w, n_in);
		for (uint32_t i = 0; i < n_in; i++) {
			sum += (double)w[i] * (double)x[i];
			size += fabs((double)w[i] * (double)x[i]);
		}
		double e = fabs((double)y[r] - sum) / (size + 1e-30);

		if (!(e <= most))
			most = e;
	}
	free(w);
	return most;
}

static void check_product(uint32_t type, uint32_t n_out, uint32_t n_in, uint64_t *seed)
{
	static const uint32_t toks[] = {1, 2, 7, 8, 9, 16, 17, 32, 33, MAX_TOK};
	uint64_t row_bytes;
	uint8_t *raw = random_matrix(type, n_out, n_in, &row_bytes, seed);
	float *x = malloc(MAX_TOK * n_in * sizeof(*x)), *y = malloc(MAX_TOK * n_out * sizeof(*y));
	float *want = malloc(MAX_TOK * n_out * sizeof(*want));
	double most = 0;

	assert_true(x != NULL && y != NULL && want != NULL);
	for (uint32_t i = 0; i < MAX_TOK * n_in; i++)
		x[i] = plx_t_uniform(seed) * 4.0f;
	assert_int_equal(lab.matmul(type, raw, row_bytes, n_out, n_in, x, MAX_TOK, want), 0);
	for (uint32_t t = 0; t < MAX_TOK; t += 23) {
		double e = worst(type, raw, row_bytes, n_out, n_in, x + t * n_in, want + t * n_out);

		most = e > most ? e : most;
	}
	printf("%-5s %5u x %5u: off by %.3g of sum |w x|\n", plx_qtype_name(type), n_out, n_in,
	       most);
	assert_true(most <= MM_BOUND);
	for (uint32_t i = 0; i < sizeof(toks) / sizeof(toks[0]); i++) {
		memset(y, 0xff, MAX_TOK * n_out * sizeof(*y));
		assert_int_equal(lab.matmul(type, raw, row_bytes, n_out, n_in, x, toks[i], y), 0);
		if (memcmp(y, want, (size_t)toks[i] * n_out * sizeof(*y)) != 0)
			fail_msg("%s: other bits with %u tokens", plx_qtype_name(type), toks[i]);
	}
	free(raw);
	free(x);
	free(y);
	free(want);
}

static void test_products_keep_their_bound_and_bits(void **state)
{
	uint64_t seed = 7;

	(void)state;
	gpu_or_skip();
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		uint32_t type = plx_qtype_at(i);
		bool k = plx_qtype_block_elems(type) == 256;

		check_product(type, 48, k ? 256 : 32, &seed);
		check_product(type, 100, k ? 768 : 608, &seed);
		check_product(type, 1000, k ? 2048 : 1568, &seed);
	}
}

static void test_embeddings_are_exact(void **state)
{
	static const int32_t ids[4] = {0, 99, 17, 40};
	uint64_t seed = 11, row_bytes;
	float got[4 * 512], want[512];

	(void)state;
	gpu_or_skip();
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		uint32_t type = plx_qtype_at(i);
		uint8_t *raw = random_matrix(type, 100, 512, &row_bytes, &seed);

		assert_int_equal(lab.embed(type, raw, row_bytes, 100, 512, ids, 4, got), 0);
		for (uint32_t t = 0; t < 4; t++) {
			plx_q_dequant((enum plx_qtype)type, raw + (uint32_t)ids[t] * row_bytes,
			              want, 512);
			for (uint32_t c = 0; c < 512; c++) {
				double e = fabs((double)got[t * 512 + c] - (double)want[c]);

				/* F32 alone is rounded: to 16 bits and two signs. */
				if (e > (type == PLX_Q_F32 ? 0x1p-16 * fabs((double)want[c]) : 0))
					fail_msg("%s: column %u is %a, not %a",
					         plx_qtype_name(type), c, (double)got[t * 512 + c],
					         (double)want[c]);
			}
		}
		free(raw);
	}
}

/* ---- sampling -----------------------------------------------------------------------------------
 */

#define N_ROW 48u

static void random_how(struct plx_kc_sampling *h, uint32_t i, uint32_t n_vocab, uint64_t *seed)
{
	static const float temperatures[] = {0.0f, 0.7f, 1.0f, 2.5f};
	static const float top_ps[] = {1.0f, 0.9f, 0.3f};
	static const uint32_t top_ks[] = {0, 1, 40, 700};

	memset(h, 0, sizeof(*h));
	h->temperature = temperatures[i % 4];
	h->top_p = top_ps[i / 4 % 3];
	h->min_p = i % 5 == 0 ? 0.05f : 0.0f;
	h->repeat_penalty = i % 3 == 0 ? 1.3f : 1.0f;
	h->top_k = top_ks[i / 2 % 4];
	h->sample = i % 2;
	h->seed = plx_t_rand(seed);
	h->position = i * 7;
	h->n_top = i % 21;
	h->n_recent = i % 3 == 0 ? i : 0;
	for (uint32_t k = 0; k < h->n_recent; k++)
		h->recent[k] = (uint32_t)(plx_t_rand(seed) % n_vocab / (k % 2 + 1));
}

/* What the CPU makes of one row. */
static void want_of(float *x, uint32_t n_vocab, const struct plx_kc_sampling *h,
                    struct plx_kc_choice *c, struct plx_k_logprob *top)
{
	const struct plx_kernels *k = plx_kernels_select(PLX_K_ISA_SCALAR);
	struct plx_k_sampling s = {h->temperature, h->top_p,  h->min_p, h->repeat_penalty,
	                           h->top_k,       h->sample, h->seed};
	void *scratch = aligned_alloc(64, (plx_k_sample_scratch_bytes() + 63) & ~(size_t)63);
	float *y = malloc(n_vocab * sizeof(*y));

	assert_true(scratch != NULL && y != NULL);
	memcpy(y, x, n_vocab * sizeof(*y));
	plx_k_penalise(y, n_vocab, h->recent, h->n_recent, h->repeat_penalty);
	int64_t id = plx_k_sample(k, &s, y, n_vocab, h->position, 0, scratch);

	*c = (struct plx_kc_choice){.status = -1, .id = -1};
	if (id >= 0 &&
	    plx_k_logprobs(k, x, n_vocab, (uint32_t)id, &c->logprob, top, h->n_top, scratch) == 0) {
		c->status = 0;
		c->id = (int32_t)id;
	}
	free(scratch);
	free(y);
}

static void check_rows(float *x, uint32_t n_vocab, struct plx_kc_sampling *how)
{
	struct plx_kc_choice got[N_ROW], want;
	struct plx_kc_top top[N_ROW][20];
	struct plx_k_logprob want_top[20];

	plx_k_fpu_setup();
	assert_int_equal(lab.sample(x, N_ROW, n_vocab, how, got, top[0]), 0);
	for (uint32_t i = 0; i < N_ROW; i++) {
		want_of(x + (size_t)i * n_vocab, n_vocab, &how[i], &want, want_top);
		if (got[i].id != want.id || got[i].status != want.status ||
		    memcmp(&got[i].logprob, &want.logprob, sizeof(float)) != 0)
			fail_msg("row %u of %u ids: %d (%a), not %d (%a)", i, n_vocab, got[i].id,
			         (double)got[i].logprob, want.id, (double)want.logprob);
		for (uint32_t k = 0; k < how[i].n_top && want.status == 0; k++)
			if (top[i][k].id != (int32_t)want_top[k].id ||
			    memcmp(&top[i][k].logprob, &want_top[k].logprob, sizeof(float)) != 0)
				fail_msg("row %u of %u ids: place %u is %d, not %u", i, n_vocab, k,
				         top[i][k].id, want_top[k].id);
	}
}

/* Logits like a model's, flat ones, and ones with many equals. */
static void test_choices_are_the_cpus(void **state)
{
	static const uint32_t vocabs[] = {25, 128, 5000, 49152};
	uint64_t seed = 3;

	(void)state;
	gpu_or_skip();
	for (uint32_t v = 0; v < 4; v++)
		for (uint32_t shape = 0; shape < 3; shape++) {
			size_t n = (size_t)N_ROW * vocabs[v];
			float *x = malloc(n * sizeof(*x));
			struct plx_kc_sampling how[N_ROW];

			assert_non_null(x);
			for (size_t i = 0; i < n; i++) {
				float u = plx_t_uniform(&seed);

				x[i] = shape == 0   ? 12.0f * u * u * u + 2.0f * u
				       : shape == 1 ? 0.01f * u
				                    : rintf(3.0f * u);
			}
			for (uint32_t i = 0; i < N_ROW; i++)
				random_how(&how[i], i, vocabs[v], &seed);
			if (vocabs[v] == 128) { /* and what can't be sampled */
				x[5] = NAN;
				x[128] = INFINITY;
				x[2 * 128 + 9] = INFINITY;
				for (uint32_t i = 3 * 128; i < 4 * 128; i++)
					x[i] = -INFINITY;
				x[4 * 128 + 1] = -INFINITY;
			}
			check_rows(x, vocabs[v], how);
			free(x);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_products_keep_their_bound_and_bits),
	    cmocka_unit_test(test_embeddings_are_exact),
	    cmocka_unit_test(test_choices_are_the_cpus),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
