/*
 * Choosing a token: against a plain sorting reference in double precision, literal cases, and
 * operands between pages that can't be touched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "kernels/sample.h"
#include "tests/lib/guard.h"
#include "tests/lib/isas.h"
#include "tests/lib/qdata.h"

#define VOCAB     5000
#define VOCAB_BIG 262144

static const struct plx_kernels *tables[PLX_T_ISAS];
static uint32_t n_tables;
static float logits[VOCAB_BIG];
static void *scratch;

static const struct plx_k_sampling plain = {
    .temperature = 1.0f, .top_p = 1.0f, .min_p = 0.0f, .repeat_penalty = 1.0f, .seed = 1};

static void make_logits(float scale, uint64_t seed)
{
	for (uint32_t i = 0; i < VOCAB; i++)
		logits[i] = plx_t_uniform(&seed) * scale;
	logits[4000] = logits[4001]; /* equals, wherever they rank */
	logits[17] = logits[3000];
}

static int by_rank(const void *pa, const void *pb)
{
	uint32_t a = *(const uint32_t *)pa;
	uint32_t b = *(const uint32_t *)pb;

	if (logits[a] > logits[b])
		return -1;
	if (logits[a] < logits[b])
		return 1;
	return a < b ? -1 : 1;
}

/* Weights, in sorted order and by the definition; cuts in integers as the definition has them. */
static int64_t reference(const struct plx_k_sampling *s, uint32_t n, uint64_t random)
{
	static uint32_t rank[VOCAB_BIG];
	static bool kept[VOCAB_BIG];
	uint32_t n_kept = s->top_k > 0 && s->top_k < n ? s->top_k : n;
	uint64_t sum = 0;
	uint64_t run = 0;

	for (uint32_t i = 0; i < n; i++)
		rank[i] = i;
	qsort(rank, n, sizeof *rank, by_rank);
	float max = logits[rank[0]];

	for (uint32_t i = 0; i < n_kept; i++)
		sum += (uint64_t)(plx_k_expf(logits[rank[i]] - max) * 0x1p40f);
	if (s->top_p < 1.0f) {
		uint64_t target = (uint64_t)ceil((double)s->top_p * (double)sum);
		uint32_t i = 0;

		for (; i < n_kept && run < target; i++)
			run += (uint64_t)(plx_k_expf(logits[rank[i]] - max) * 0x1p40f);
		n_kept = i;
	}
	memset(kept, 0, sizeof kept);
	sum = 0;
	for (uint32_t i = 0; i < n_kept; i++)
		kept[rank[i]] = floorf(plx_k_expf(logits[rank[i]] - max) * 0x1p40f) >=
		                ceilf(s->min_p * 0x1p40f);
	for (int pass = 0; pass < 2; pass++) {
		run = 0;
		for (uint32_t i = 0; i < n; i++) {
			if (!kept[i])
				continue;
			float e = plx_k_expf((logits[i] - max) * (1.0f / s->temperature));

			run += (uint64_t)(e * 0x1p40f);
			if (pass == 1 &&
			    (long double)run > (long double)random * 0x1p-64L * (long double)sum)
				return i;
		}
		sum = run;
	}
	return -1;
}

static uint64_t bits_of(uint64_t seed, uint32_t position, uint32_t draw, uint32_t sample)
{
	const uint32_t ctr[4] = {position, draw, sample, 0};
	const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	uint32_t out[4];

	plx_k_philox(ctr, key, out);
	return (uint64_t)out[1] << 32 | out[0];
}

static void test_philox_known_answers(void **state)
{
	/* The generator's published test vectors (Random123, kat_vectors, philox4x32 10). */
	static const uint32_t zero[4] = {0, 0, 0, 0};
	static const uint32_t pi_ctr[4] = {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u};
	static const uint32_t pi_key[2] = {0xa4093822u, 0x299f31d0u};
	static const uint32_t want0[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
	static const uint32_t want_pi[4] = {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u};
	uint32_t out[4];

	(void)state;
	plx_k_philox(zero, zero, out);
	assert_memory_equal(out, want0, sizeof out);
	plx_k_philox(pi_ctr, pi_key, out);
	assert_memory_equal(out, want_pi, sizeof out);
}

static void test_sample_follows_the_definition(void **state)
{
	static const float top_ps[] = {1.0f, 0.95f, 0.5f, 0.01f};
	static const float min_ps[] = {0.0f, 0.05f, 1.0f};
	static const uint32_t top_ks[] = {0, 1, 40, 300};
	static const float scales[] = {0.5f, 12.0f, 60.0f};

	(void)state;
	for (uint32_t i = 0; i < 4 * 3 * 4 * 3; i++) {
		struct plx_k_sampling s = plain;
		uint32_t n = i % 5 ? VOCAB : 33;

		s.top_p = top_ps[i % 4];
		s.min_p = min_ps[i / 4 % 3];
		s.top_k = top_ks[i / 12 % 4];
		s.temperature = i % 7 ? 0.8f : 1.6f;
		s.seed = i * UINT64_C(0x123456789);
		make_logits(scales[i / 48], i + 1);
		int64_t want = reference(&s, n, bits_of(s.seed, i, 0, 0));

		for (uint32_t k = 0; k < n_tables; k++)
			assert_int_equal(plx_k_sample(tables[k], &s, logits, n, i, 0, scratch),
			                 want);
	}
}

#define N_KINDS 8u

/* Kinds of logits: what the search for a cut could trip over. */
static void make_kind(uint32_t kind, uint32_t n, uint64_t seed)
{
	for (uint32_t i = 0; i < n; i++) {
		float u = plx_t_uniform(&seed);

		switch (kind) {
		case 0: /* flat, but no two bits equal by intent */
			logits[i] = 10.0f + u * 1e-3f;
			break;
		case 1: /* many equals, both zeros among them */
			logits[i] = truncf(u * 3.0f);
			break;
		case 2: /* next to each other as floats, across a power of two */
			logits[i] =
			    plx_f32_from_bits(0x41000000u + (uint32_t)(int32_t)(u * 900.0f));
			break;
		case 3: /* tiny, around zero */
			logits[i] = u * 1e-30f;
			break;
		case 4: /* bell-shaped, some at -inf */
			logits[i] = i % 3 == 1
			                ? -INFINITY
			                : 4.0f * (u + plx_t_uniform(&seed) + plx_t_uniform(&seed));
			break;
		case 5: /* the largest and the least there are */
			logits[i] = i % 7 == 3 ? FLT_MAX : i % 2 ? -FLT_MAX : 0x1p-149f;
			break;
		case 6: /* all at -inf but one */
			logits[i] = i == n - 1 ? u : -INFINITY;
			break;
		default: /* a comb around where weights end, below one peak */
			logits[i] = i == n / 2 ? 30.0f : (float)(i % 64) * 0.02f + 2.0f;
			break;
		}
	}
}

/* The id at a budget, the same at once and after any number of steps. */
static int64_t sample_in_steps(const struct plx_kernels *k, const struct plx_k_sampling *s,
                               uint32_t n, uint32_t position, uint32_t budget, uint32_t *n_steps)
{
	int64_t id = PLX_E_AGAIN;

	plx_k_sample_begin(scratch, k, s, logits, n, position, 0);
	for (*n_steps = 0; id == PLX_E_AGAIN; ++*n_steps)
		id = plx_k_sample_step(scratch, budget);
	return id;
}

static void check_kind(uint32_t kind, uint32_t n, const struct plx_k_sampling *s, uint32_t position)
{
	static const uint32_t budgets[] = {0, 1500, 8192, UINT32_MAX};
	uint32_t n_steps;

	make_kind(kind, n, position + 1);
	int64_t want = reference(s, n, bits_of(s->seed, position, 0, 0));

	for (uint32_t k = 0; k < n_tables; k++) {
		assert_int_equal(plx_k_sample(tables[k], s, logits, n, position, 0, scratch), want);
		uint32_t budget = budgets[(position + k) % 4];

		assert_int_equal(sample_in_steps(tables[k], s, n, position, budget, &n_steps),
		                 want);
		if (n > 8192 && budget < 8192)
			assert_true(n_steps > n / 8192);
	}
}

static void test_sample_any_logits_any_budget(void **state)
{
	static const struct plx_k_sampling how[] = {
	    {.temperature = 1.0f, .top_p = 0.95f, .seed = 2},
	    {.temperature = 0.7f, .top_p = 0.3f, .min_p = 0.02f, .seed = 3},
	    {.temperature = 1.5f, .top_p = 0.9f, .top_k = 9000, .seed = 4},
	    {.temperature = 1.5f, .top_p = 1.0f, .min_p = 0.5f, .seed = 5},
	    {.temperature = 0.9f, .top_p = 0.999f, .top_k = 12, .seed = 6},
	    {.temperature = 3.0f, .top_p = 1.0f, .min_p = 1e-12f, .seed = 7},
	    {.temperature = 2.0f, .top_p = 0.9999f, .min_p = 0.3f, .seed = 9},
	};
	static const uint32_t sizes[] = {17, 64, 1000, 1024, 1025, 4099, 20011};

	(void)state;
	for (uint32_t i = 0; i < N_KINDS * 7 * 7; i++)
		check_kind(i % N_KINDS, sizes[i / (N_KINDS * 7)], &how[i / N_KINDS % 7], i);
}

static void test_sample_large_vocabularies(void **state)
{
	static const struct plx_k_sampling p = {.temperature = 1.0f, .top_p = 0.95f, .seed = 8};

	(void)state;
	check_kind(0, VOCAB_BIG, &p, 1);
	check_kind(1, VOCAB_BIG - 5, &p, 2);
	check_kind(4, 151936, &p, 3);
}

static void test_logprobs_at_any_budget(void **state)
{
	static const uint32_t budgets[] = {0, 3000, UINT32_MAX};
	struct plx_k_logprob want[PLX_K_TOP_MAX], top[PLX_K_TOP_MAX];
	float want_lp, lp;

	(void)state;
	for (uint32_t kind = 0; kind < N_KINDS; kind++) {
		make_kind(kind, 20011, kind + 1);
		assert_int_equal(
		    plx_k_logprobs(tables[0], logits, 20011, 77, &want_lp, want, 20, scratch), 0);
		for (uint32_t b = 0; b < 3; b++) {
			const struct plx_kernels *k = tables[b % n_tables];
			int err = PLX_E_AGAIN;

			plx_k_logprobs_begin(scratch, k, logits, 20011, 77, 20);
			while (err == PLX_E_AGAIN)
				err = plx_k_logprobs_step(scratch, budgets[b], &lp, top);
			assert_int_equal(err, 0);
			assert_memory_equal(&lp, &want_lp, sizeof lp);
			assert_memory_equal(top, want, sizeof top);
		}
	}
}

static void test_sample_among_many_equals(void **state)
{
	struct plx_k_sampling s = plain;

	(void)state;
	for (uint32_t i = 0; i < VOCAB; i++)
		logits[i] = 1.0f;
	s.top_k = 3;
	for (uint32_t draw = 0; draw < 50; draw++) {
		int64_t id = plx_k_sample(tables[0], &s, logits, VOCAB, 9, draw, scratch);

		assert_in_range(id, 0, 2);
		assert_int_equal(id, reference(&s, VOCAB, bits_of(1, 9, draw, 0)));
	}
	s.top_k = 0;
	s.top_p = 0x1p-10f; /* 4.9 of the 5000 */
	for (uint32_t draw = 0; draw < 50; draw++)
		assert_in_range(plx_k_sample(tables[0], &s, logits, VOCAB, 9, draw, scratch), 0, 4);
}

static void test_sample_frequencies_are_the_probabilities(void **state)
{
	static const float three[3] = {0.0f, 0.69314718f, -INFINITY}; /* 1 : 2 : 0 */
	uint32_t seen[3] = {0};

	(void)state;
	for (uint32_t p = 0; p < 30000; p++) {
		int64_t id = plx_k_sample(tables[0], &plain, three, 3, p, 0, scratch);

		assert_in_range(id, 0, 2);
		seen[id]++;
	}
	assert_in_range(seen[0], 9750, 10250); /* 10000 +- 3 standard deviations */
	assert_int_equal(seen[2], 0);
}

static void test_sample_greedy_takes_the_lowest_of_equals(void **state)
{
	struct plx_k_sampling s = plain;

	(void)state;
	s.temperature = 0.0f;
	make_logits(3.0f, 5);
	logits[2500] = logits[4900] = 9.0f;
	for (uint32_t k = 0; k < n_tables; k++) {
		assert_int_equal(plx_k_sample(tables[k], &s, logits, VOCAB, 0, 0, scratch), 2500);
		assert_int_equal(plx_k_sample(tables[k], &s, logits + 2501, 2499, 0, 0, scratch),
		                 2399);
	}
}

static void test_sample_refuses_bad_logits_and_settings(void **state)
{
	struct plx_k_sampling s = plain;

	(void)state;
	make_logits(3.0f, 6);
	s.top_p = 0.0f;
	assert_int_equal(plx_k_sample(tables[0], &s, logits, VOCAB, 0, 0, scratch), PLX_E_INVAL);
	s = plain;
	s.temperature = NAN;
	assert_int_equal(plx_k_sample(tables[0], &s, logits, VOCAB, 0, 0, scratch), PLX_E_INVAL);
	assert_int_equal(plx_k_sample(tables[0], &plain, logits, 0, 0, 0, scratch), PLX_E_INVAL);
	logits[77] = NAN;
	assert_int_equal(plx_k_sample(tables[0], &plain, logits, VOCAB, 0, 0, scratch),
	                 PLX_E_FAULT);
	logits[77] = INFINITY;
	assert_int_equal(plx_k_sample(tables[0], &plain, logits, VOCAB, 0, 0, scratch),
	                 PLX_E_FAULT);
}

static void test_penalise_counts_an_id_once(void **state)
{
	static const uint32_t recent[] = {3, 1, 3, 9};
	float x[4] = {1.0f, -2.0f, 3.0f, 4.0f};

	(void)state;
	plx_k_penalise(x, 4, recent, 4, 2.0f);
	assert_true(x[0] == 1.0f && x[1] == -4.0f && x[2] == 3.0f && x[3] == 2.0f);
}

static void test_logprobs_are_near_double(void **state)
{
	struct plx_k_logprob top[PLX_K_TOP_MAX];
	double sum = 0.0;
	float lp;

	(void)state;
	make_logits(14.0f, 8);
	logits[4321] = logits[99] = 14.5f;
	for (uint32_t i = 0; i < VOCAB; i++)
		sum += exp((double)logits[i]);
	for (uint32_t k = 0; k < n_tables; k++) {
		for (uint32_t id = 0; id < VOCAB; id += 97) {
			double want = (double)logits[id] - log(sum);

			assert_int_equal(
			    plx_k_logprobs(tables[k], logits, VOCAB, id, &lp, NULL, 0, scratch), 0);
			assert_true(fabs((double)lp - want) < 2e-6 + 2e-7 * fabs(want));
		}
		assert_int_equal(
		    plx_k_logprobs(tables[k], logits, VOCAB, 4321, &lp, top, 20, scratch), 0);
		assert_int_equal(top[0].id, 99);
		assert_int_equal(top[1].id, 4321);
		assert_true(top[0].logprob == lp && top[1].logprob == lp);
		for (uint32_t i = 1; i < 20; i++) {
			uint32_t above = 0;

			for (uint32_t j = 0; j < VOCAB; j++)
				above += logits[j] > logits[top[i].id];
			assert_true(above <= i && top[i].logprob <= top[i - 1].logprob);
		}
	}
	assert_int_equal(plx_k_logprobs(tables[0], logits, VOCAB, VOCAB, &lp, NULL, 0, scratch),
	                 PLX_E_INVAL);
	assert_int_equal(plx_k_logprobs(tables[0], logits, 5, 1, &lp, top, 5, scratch), 0);
	logits[1] = NAN;
	assert_int_equal(plx_k_logprobs(tables[0], logits, VOCAB, 1, &lp, NULL, 0, scratch),
	                 PLX_E_FAULT);
}

/* ---- operands between pages that can't be touched ------------------------------------------- */

enum { G_LOGITS, G_SCRATCH, G_TOP, G_LOGPROB, N_GUARDS };

static struct plx_t_guard guard[N_GUARDS];

static void guards_intact(void)
{
	for (uint32_t i = 0; i < N_GUARDS; i++)
		assert_true(plx_t_guard_intact(&guard[i]));
}

/* Everything of n logits: as in plain memory, at once and in steps. */
static void check_guarded(const struct plx_kernels *k, const struct plx_k_sampling *s, uint32_t n,
                          bool at_end)
{
	struct plx_k_logprob want[PLX_K_TOP_MAX];
	uint32_t n_top = n < PLX_K_TOP_MAX ? n : PLX_K_TOP_MAX;
	float want_lp = 0.0f;
	int64_t id = plx_k_sample(tables[0], s, logits, n, n, 1, scratch);
	const float *x = plx_t_guard_put(&guard[G_LOGITS], at_end, logits, n * sizeof *x);
	void *room = plx_t_guard_put(&guard[G_SCRATCH], at_end, NULL, plx_k_sample_scratch_bytes());
	struct plx_k_logprob *top =
	    plx_t_guard_put(&guard[G_TOP], at_end, NULL, n_top * sizeof *top);
	float *lp = plx_t_guard_put(&guard[G_LOGPROB], at_end, NULL, sizeof *lp);

	assert_in_range(id, 0, n - 1);
	assert_int_equal(plx_k_sample(k, s, x, n, n, 1, room), id);
	plx_k_sample_begin(room, k, s, x, n, n, 1);
	int64_t got = PLX_E_AGAIN;

	while (got == PLX_E_AGAIN)
		got = plx_k_sample_step(room, 0);
	assert_int_equal(got, id);
	assert_int_equal(
	    plx_k_logprobs(tables[0], logits, n, n - 1, &want_lp, want, n_top, scratch), 0);
	assert_int_equal(plx_k_logprobs(k, x, n, n - 1, lp, top, n_top, room), 0);
	assert_memory_equal(lp, &want_lp, sizeof want_lp);
	assert_memory_equal(top, want, n_top * sizeof *want);
	guards_intact();
}

static void test_sample_touches_nothing_beside_its_operands(void **state)
{
	static const struct plx_k_sampling how[] = {
	    {.temperature = 0.0f, .top_p = 1.0f, .repeat_penalty = 1.0f},
	    {.temperature = 1.0f, .top_p = 0.95f, .repeat_penalty = 1.0f, .seed = 2},
	    {.temperature = 0.7f,
	     .top_p = 0.9f,
	     .min_p = 0.02f,
	     .repeat_penalty = 1.0f,
	     .top_k = 9},
	};
	static const uint32_t sizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 1000, 1024, 1025, 4099};

	(void)state;
	for (uint32_t i = 0; i < N_GUARDS; i++)
		plx_t_guard_open(&guard[i], plx_k_sample_scratch_bytes());
	for (uint32_t i = 0; i < 3 * 12 * N_KINDS; i++) {
		uint32_t n = sizes[i / 3 % 12];

		make_kind(i / 36, n, i + 1);
		logits[0] = logits[0] > 0.0f ? logits[0] : 1.0f; /* one is finite */
		for (uint32_t k = 0; k < 2 * n_tables; k++)
			check_guarded(tables[k / 2], &how[i % 3], n, k & 1);
	}
	for (uint32_t i = 0; i < N_GUARDS; i++)
		plx_t_guard_close(&guard[i]);
}

/* Ids at both ends of the vocabulary and beyond it. */
static void test_penalise_touches_nothing_beside_its_operands(void **state)
{
	static const uint32_t recent[] = {0, 6, 7, UINT32_MAX, 0x80000000u, 6, 1u << 30};
	static const float x[7] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, -7.0f};

	(void)state;
	plx_t_guard_open(&guard[0], sizeof x);
	plx_t_guard_open(&guard[1], sizeof recent);
	for (int at_end = 0; at_end < 2; at_end++) {
		float *y = plx_t_guard_put(&guard[0], at_end, x, sizeof x);
		const uint32_t *ids = plx_t_guard_put(&guard[1], at_end, recent, sizeof recent);

		plx_k_penalise(y, 7, ids, 7, 2.0f);
		assert_true(y[0] == 0.5f && y[6] == -14.0f);
		assert_memory_equal(y + 1, x + 1, 5 * sizeof *x);
		assert_true(plx_t_guard_intact(&guard[0]));
	}
	plx_t_guard_close(&guard[0]);
	plx_t_guard_close(&guard[1]);
}

static int setup(void **state)
{
	(void)state;
	n_tables = plx_t_tables(tables);
	scratch = malloc(plx_k_sample_scratch_bytes());
	return scratch ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	free(scratch);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_philox_known_answers),
	    cmocka_unit_test(test_sample_follows_the_definition),
	    cmocka_unit_test(test_sample_any_logits_any_budget),
	    cmocka_unit_test(test_sample_large_vocabularies),
	    cmocka_unit_test(test_logprobs_at_any_budget),
	    cmocka_unit_test(test_sample_among_many_equals),
	    cmocka_unit_test(test_sample_frequencies_are_the_probabilities),
	    cmocka_unit_test(test_sample_greedy_takes_the_lowest_of_equals),
	    cmocka_unit_test(test_sample_refuses_bad_logits_and_settings),
	    cmocka_unit_test(test_penalise_counts_an_id_once),
	    cmocka_unit_test(test_logprobs_are_near_double),
	    cmocka_unit_test(test_sample_touches_nothing_beside_its_operands),
	    cmocka_unit_test(test_penalise_touches_nothing_beside_its_operands),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
