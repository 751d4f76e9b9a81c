/*
 * The device on a whole text with the real model: on every instruction set, in every chunking and
 * on every number of threads the same bits, which are written down here; and close to the
 * double-precision reference in perplexity and in the distribution of the next token.
 *
 * PLX_GOLDEN=1 prints the hashes below as this machine computes them. The reference's file is
 * printed by `bench_perplexity golden`.
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

#include <xxhash.h>

#include "fw/base/check.h"
#include "kernels/kernels.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"
#include "tests/lib/par.h"
#include "tests/lib/ppl.h"
#include "tests/lib/ref.h"

#define PPL_BOUND 0.005 /* of the ratio of perplexities, less 1 */
#define KL_BOUND  0.005 /* nats a token */

/* The bits of the arithmetic of this name; it changes when they do (kernels/cpu/isa.h). */
#define NUMERIC_KIND "cpu-a8x32-kv16-2"

/* Hash of the hashes of the logits after each of the first n tokens. */
struct hash {
	uint32_t n;
	uint64_t want;
};
#ifdef PLX_DEBUG /* sanitizers are slow */
#define N_TEXT 48u
#define N_LIVE 16u
#else
#define N_TEXT PLX_PPL_MAX /* all of it */
#define N_LIVE 256u        /* tokens that the reference computes anew */
#endif

enum { N_CHUNKS = 5 };
static const uint32_t chunk[N_CHUNKS] = {PLX_PPL_DEV_ROWS, 1, 7, 64, 512};

/* How the text is run: so many tokens, from its start, in each of the chunks. */
struct way {
	const char *isa;
	uint32_t n_threads;
	uint32_t n[N_CHUNKS];
};

/* The first is the one that all are compared with: it has the logits after every token. */
static const struct way ways[] = {
#ifdef PLX_DEBUG
    {"auto", 1, {N_TEXT, 0, 0, 0, 0}}, {"avx2", 1, {0, 2, 7, 20, 0}},
    {"avx512", 1, {0, 2, 7, 20, 0}},   {"scalar", 1, {0, 1, 2, 0, 0}},
    {"avx2", 2, {0, 0, 0, 0, N_TEXT}}, {"avx512", 2, {0, 0, 0, 0, N_TEXT}},
#else
    {"auto", 1, {N_TEXT, 0, 0, 0, 0}},     {"avx2", 1, {0, 10, 70, 200, 1024}},
    {"avxvnni", 1, {0, 10, 70, 200, 600}}, {"avx512", 1, {0, 10, 70, 200, 1024}},
    {"amx", 1, {0, 10, 70, 200, 1024}},    {"scalar", 1, {0, 2, 7, 0, 20}},
    {"avx2", 2, {0, 10, 21, 64, 600}},     {"avxvnni", 2, {0, 10, 21, 64, 600}},
    {"avx512", 2, {0, 10, 21, 64, 600}},   {"amx", 2, {0, 10, 21, 64, 600}},
    {"scalar", 2, {0, 2, 7, 20, 0}},
#endif
};
#define N_WAYS (sizeof(ways) / sizeof(ways[0]))

/* A way at work. */
struct run {
	const struct way *way;
	struct devkit dev;
	uint32_t at;                          /* the chunk in work */
	uint64_t hash[N_CHUNKS][PLX_PPL_MAX]; /* of the logits after each token; 0: not seen */
};

static const char *model_path;
static int32_t ids[PLX_PPL_MAX];
static struct plx_ppl_gold gold[PLX_PPL_MAX];
static uint32_t n_all, n_text; /* tokens of the text, and those of them that are run */
static struct run run[N_WAYS];
static uint32_t n_runs;

/* What the first way made of the text. */
static float *first_rows; /* [N_LIVE][n_vocab] */
static struct plx_ppl_sum dev_sum, gold_sum;

static void row_score(const float *logits, uint32_t n_vocab, uint32_t pos)
{
	double *wide = calloc(n_vocab, sizeof(double));

	PLX_CHECK(wide != NULL);
	for (uint32_t i = 0; i < n_vocab; i++)
		wide[i] = (double)logits[i];
	plx_ppl_add_gold(&dev_sum, wide, &gold[pos], n_vocab, ids[pos + 1]);
	gold_sum.n++;
	gold_sum.logprob += gold[pos].next;
	if (pos < N_LIVE)
		memcpy(first_rows + (size_t)pos * n_vocab, logits, n_vocab * sizeof(float));
	free(wide);
}

static void row_take(void *arg, uint32_t pos, const float *logits)
{
	struct run *r = arg;
	uint32_t n_vocab = r->dev.model->n_vocab;

	r->hash[r->at][pos] = XXH3_64bits(logits, n_vocab * sizeof(float));
	if (r == &run[0])
		row_score(logits, n_vocab, pos);
}

/* One device, the text anew in each chunking. */
static void run_way(void *arg, uint32_t i)
{
	struct run *r = &run[i];
	struct plx_dev_limits lim = plx_ppl_limits();

	(void)arg;
	lim.n_threads = r->way->n_threads;
	devkit_open(&r->dev, model_path, r->way->isa, &lim);
	for (r->at = 0; r->at < N_CHUNKS; r->at++) {
		uint32_t n = r->way->n[r->at] < n_text ? r->way->n[r->at] : n_text;

		if (n == 0)
			continue;
		plx_ppl_dev(&r->dev, ids, 0, n, chunk[r->at], row_take, r);
		plx_ppl_dev_end(&r->dev);
	}
	devkit_close(&r->dev);
}

/* Runs the text in all ways, as many at a time as there are cores; the tests look at the rows. */
static int setup(void **state)
{
	struct plx_model *m;

	(void)state;
	PLX_CHECK(plx_model_open(model_path, &m, NULL) == 0);
	n_all = plx_ppl_ids(m, PLX_PPL_TEXT, ids, PLX_PPL_MAX) - 1;
	n_text = n_all < N_TEXT ? n_all : N_TEXT;
	PLX_CHECK(plx_ppl_gold_read(PLX_PPL_GOLD, gold, PLX_PPL_MAX) == n_all);
	first_rows = calloc((size_t)N_LIVE * m->n_vocab, sizeof(float));
	PLX_CHECK(first_rows != NULL);
	plx_model_close(m);
	for (uint32_t i = 0; i < N_WAYS; i++)
		if (devkit_has_isa(ways[i].isa))
			run[n_runs++].way = &ways[i];
	plx_t_par(n_runs, run_way, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(first_rows);
	return 0;
}

/* ---- bits ---------------------------------------------------------------------------------- */

static void test_bits_are_those_written_down(void **state)
{
	static const struct hash hash[] = {{16, 0xbed97fcde1b4af7e},
	                                   {48, 0x2bcd8b10069f8b34},
	                                   {1024, 0x9e8b8df8352064c5},
	                                   {3889, 0x49375925255a3855}};

	(void)state;
	assert_string_equal(plx_kernels_select(PLX_K_ISA_BEST)->numeric_kind, NUMERIC_KIND);
	for (uint32_t i = 0; i < sizeof(hash) / sizeof(hash[0]) && hash[i].n <= n_text; i++) {
		uint64_t got = XXH3_64bits(run[0].hash[0], hash[i].n * sizeof(uint64_t));

		if (getenv("PLX_GOLDEN") != NULL)
			printf("{%u, 0x%016llx},\n", hash[i].n, (unsigned long long)got);
		else
			assert_int_equal(got, hash[i].want);
	}
}

static void test_every_way_gives_the_same_bits(void **state)
{
	(void)state;
	for (uint32_t i = 1; i < n_runs; i++) {
		const struct run *r = &run[i];
		uint32_t n = 0;

		for (uint32_t c = 0; c < N_CHUNKS; c++)
			for (uint32_t t = 0; t < n_text; t++) {
				n += r->hash[c][t] != 0;
				if (r->hash[c][t] != 0 && r->hash[c][t] != run[0].hash[0][t])
					fail_msg("the logits after token %u differ: %s, %u "
					         "threads, %u tokens a step",
					         t, r->way->isa, r->way->n_threads, chunk[c]);
			}
		assert_true(n > 0);
		print_message("%s, %u threads: the same logits after %u tokens\n", r->way->isa,
		              r->way->n_threads, n);
	}
}

/* ---- accuracy ------------------------------------------------------------------------------ */

static void test_perplexity_is_near_double(void **state)
{
	double ratio = plx_ppl_of(&dev_sum) / plx_ppl_of(&gold_sum);

	(void)state;
	print_message("%u tokens: perplexity %.4f, double %.4f: %+.3f %% (error %.3f); "
	              "divergence about %.5f nats\n",
	              n_text, plx_ppl_of(&dev_sum), plx_ppl_of(&gold_sum), 100 * (ratio - 1),
	              100 * plx_ppl_error(&dev_sum, &gold_sum), dev_sum.kl / n_text);
	if (n_text < n_all)
		skip(); /* too short to say anything */
	assert_true(fabs(ratio - 1) <= PPL_BOUND);
	assert_true(dev_sum.kl / n_text <= KL_BOUND);
}

/* The reference's file is what the reference says, and the divergence by all ids agrees. */
static void test_reference_says_what_its_file_says(void **state)
{
	struct plx_ppl_sum sum = {0};
	struct plx_model *m;

	(void)state;
	PLX_CHECK(plx_model_open(model_path, &m, NULL) == 0);
	double *rows = calloc((size_t)N_LIVE * m->n_vocab, sizeof(double));
	double *wide = calloc(m->n_vocab, sizeof(double));
	struct plx_ref *ref = plx_ref_open(m, N_LIVE);

	PLX_CHECK(rows != NULL && wide != NULL && ref != NULL);
	plx_ref_run(ref, ids, N_LIVE, N_LIVE, rows);
	for (uint32_t t = 0; t < N_LIVE; t++) {
		const double *row = rows + (size_t)t * m->n_vocab;
		struct plx_ppl_gold g = plx_ppl_gold_make(row, m->n_vocab, t, ids[t + 1]);

		assert_int_equal(g.id, gold[t].id);
		assert_true(fabs(g.next - gold[t].next) < 1e-5);
		assert_true(fabs(g.drawn - gold[t].drawn) < 1e-5);
		for (uint32_t i = 0; i < m->n_vocab; i++)
			wide[i] = (double)first_rows[(size_t)t * m->n_vocab + i];
		plx_ppl_add(&sum, wide, row, m->n_vocab, ids[t + 1]);
	}
	print_message("%u tokens, all ids: divergence %.5f nats\n", N_LIVE, sum.kl / sum.n);
	assert_true(sum.kl / sum.n <= KL_BOUND);
	plx_ref_close(ref);
	plx_model_close(m);
	free(rows);
	free(wide);
}

/* ---- KV in 8 and in 4 bits ------------------------------------------------------------------ */

#ifdef PLX_DEBUG
#define N_KV      16u
#define N_KV_AVX2 4u
#else
#define N_KV      512u
#define N_KV_AVX2 96u
#endif

/* A type's text, on the best instruction set and on another. */
struct kv_run {
	uint32_t type;
	uint64_t hash[N_KV];
	uint32_t n_other; /* tokens after which the other one's logits are the same */
	struct plx_ppl_sum sum, gold;
};

static void kv_row(void *arg, uint32_t pos, const float *logits)
{
	struct kv_run *r = arg;
	uint32_t n_vocab = run[0].dev.model->n_vocab;
	uint64_t h = XXH3_64bits(logits, n_vocab * sizeof(float));

	if (r->gold.n == N_KV) {
		r->n_other += h == r->hash[pos];
		return;
	}
	double *wide = calloc(n_vocab, sizeof(double));

	PLX_CHECK(wide != NULL);
	for (uint32_t i = 0; i < n_vocab; i++)
		wide[i] = (double)logits[i];
	plx_ppl_add_gold(&r->sum, wide, &gold[pos], n_vocab, ids[pos + 1]);
	free(wide);
	r->gold.n++;
	r->gold.logprob += gold[pos].next;
	r->hash[pos] = h;
}

static void kv_run(struct kv_run *r, const char *isa, uint32_t n, uint32_t rows)
{
	struct plx_dev_limits lim = plx_ppl_limits();

	lim.kv_type = r->type;
	devkit_open(&run[0].dev, model_path, isa, &lim);
	plx_ppl_dev(&run[0].dev, ids, 0, n, rows, kv_row, r);
	devkit_close(&run[0].dev);
}

/* The bits of "-kv8-1" and "-kv4-1", and what they cost. */
static void test_kv_types(void **state)
{
	static struct kv_run kv[] = {{.type = PLX_KV_Q8}, {.type = PLX_KV_Q4}};
	static const struct hash hash[][2] = {
	    {{16, 0x79732b0ec84da0f8}, {512, 0xfb9dbfe2c4063ceb}},
	    {{16, 0xee57bf0e89c25714}, {512, 0x7b833254ff4f837e}}};
	/* A few tokens say little. */
	static const double kl_bound[] = {N_KV < 512 ? 0.02 : 0.006, N_KV < 512 ? 0.12 : 0.03};

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		struct kv_run *r = &kv[i];

		kv_run(r, "auto", N_KV, PLX_PPL_DEV_ROWS);
		if (devkit_has_isa("avx2")) {
			kv_run(r, "avx2", N_KV_AVX2, 1);
			assert_int_equal(r->n_other, N_KV_AVX2);
		}
		for (uint32_t j = 0; j < 2 && hash[i][j].n <= N_KV; j++) {
			uint64_t got = XXH3_64bits(r->hash, hash[i][j].n * sizeof(uint64_t));

			if (getenv("PLX_GOLDEN") != NULL)
				printf("{%u, 0x%016llx},\n", hash[i][j].n, (unsigned long long)got);
			else
				assert_int_equal(got, hash[i][j].want);
		}
		print_message("%s, %u tokens: perplexity %+.3f %% of double's (error %.3f), "
		              "divergence about %.5f nats\n",
		              i == 0 ? "q8" : "q4", N_KV,
		              100 * (plx_ppl_of(&r->sum) / plx_ppl_of(&r->gold) - 1),
		              100 * plx_ppl_error(&r->sum, &r->gold), r->sum.kl / N_KV);
		assert_true(r->sum.kl / N_KV <= kl_bound[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_bits_are_those_written_down),
	    cmocka_unit_test(test_every_way_gives_the_same_bits),
	    cmocka_unit_test(test_perplexity_is_near_double),
	    cmocka_unit_test(test_reference_says_what_its_file_says),
	    cmocka_unit_test(test_kv_types),
	};

	model_path = plx_test_model();
	if (model_path == NULL) {
		printf("test_perplexity: SKIPPED, no model; `make test` gets it\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
