/*
 * Attention that reads not all it could: windows and chosen chunks, against double precision with
 * the mask, and every path and every cut of the queries against the same bits. What is left out is
 * NaN in these tests, so that one read of it would show. Each test runs once for each type of KV.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/lib/isas.h"
#include "tests/lib/qdata.h"

#define DIM     48
#define BLOCK   32
#define N_POS   1210
#define N_TOK   23
#define GROUP   3
#define NQ      (N_TOK * GROUP)
#define BLOCKS  ((N_POS + BLOCK - 1) / BLOCK)
#define SPLITS  2
#define CHUNKS  16 /* of a split */
#define FLOATS  (DIM + 16)
#define ALL     0xffffu
#define FIRST_Q (N_POS - N_TOK)

static const struct plx_kernels *tables[PLX_T_ISAS];
static uint32_t n_tables;
static enum plx_k_kv_type types[] = {PLX_K_KV_F16, PLX_K_KV_Q8, PLX_K_KV_Q4};

static uint16_t pages[BLOCKS * BLOCK * DIM * 4];
static uint32_t table[BLOCKS];
static float keys[N_POS][DIM], values[N_POS][DIM], queries[NQ * DIM];
static uint16_t pick[SPLITS][NQ];
static float acc[NQ * FLOATS], part[NQ * FLOATS], golden[NQ * DIM], out[NQ * DIM];

static struct plx_k_attn make(const struct plx_kernels *k, enum plx_k_kv_type type, uint32_t window)
{
	uint64_t seed = 77, v_bytes = plx_k_kv_v_bytes(type, BLOCK, DIM);
	struct plx_k_attn a = {.kv = {.base = pages,
	                              .table = table,
	                              .block_bytes = v_bytes + plx_k_kv_k_bytes(type, BLOCK, DIM),
	                              .k_off = v_bytes,
	                              .block_tokens = BLOCK,
	                              .head_dim = DIM,
	                              .type = type},
	                       .q = queries,
	                       .q_stride = GROUP * DIM,
	                       .n_tok = N_TOK,
	                       .n_group = GROUP,
	                       .pos = FIRST_Q,
	                       .scale = 0.2f,
	                       .window = window};

	memset(pages, 0xff, sizeof pages);
	for (uint32_t i = 0; i < BLOCKS; i++)
		table[i] = (i * 5 + 2) % BLOCKS;
	for (uint32_t p = 0; p < N_POS; p++) {
		for (uint32_t d = 0; d < DIM; d++) {
			keys[p][d] = plx_t_uniform(&seed) * 2.0f;
			values[p][d] = plx_t_uniform(&seed) * 2.0f;
		}
		k->kv_store(&a.kv, p, keys[p], values[p]);
	}
	for (uint32_t i = 0; i < NQ * DIM; i++)
		queries[i] = plx_t_uniform(&seed) * 2.0f;
	return a;
}

/* Each query its own random chunks: about one in four, and always its own. */
static void pick_make(void)
{
	uint64_t seed = 5;

	for (uint32_t q = 0; q < NQ; q++) {
		for (uint32_t s = 0; s < SPLITS; s++) {
			uint64_t r = plx_t_rand(&seed);

			pick[s][q] = (uint16_t)(r & r >> 16);
		}
		pick[1][q] |= (uint16_t)(1u << (FIRST_Q + q / GROUP) % 1024 / 64);
	}
}

static void attend(const struct plx_kernels *k, struct plx_k_attn *a, bool picks, uint32_t first,
                   float *to)
{
	uint32_t nq = a->n_tok * a->n_group;

	for (uint32_t s = 0; s < SPLITS; s++) {
		a->pick = picks ? pick[s] + first : NULL;
		k->attn_part(a, s, s == 0 ? acc : part);
		if (s > 0)
			k->attn_merge(acc, part, nq, DIM);
	}
	k->attn_finish(to, acc, nq, DIM, a->kv.type);
}

static bool seen(uint32_t q, uint32_t p, uint32_t window, bool picks)
{
	uint32_t end = FIRST_Q + q / GROUP + 1;

	return p < end && (window == 0 || p + window >= end) &&
	       (!picks || (pick[p / 1024][q] >> p % 1024 / 64 & 1) != 0);
}

/* The largest error of all queries against double over what was given, over the largest value. */
static double error_of(const float *got, uint32_t window, bool picks, enum plx_k_kv_type type)
{
	static double s[N_POS];
	double worst = 0;

	for (uint32_t q = 0; q < NQ; q++) {
		double o[DIM] = {0}, sum = 0;

		for (uint32_t p = 0; p < N_POS; p++) {
			double dot = 0;

			for (uint32_t d = 0; d < DIM; d++) {
				double k = (double)keys[p][d];

				if (type == PLX_K_KV_F16)
					k = (double)plx_f16_to_f32(plx_f32_to_f16(keys[p][d]));
				dot += (double)queries[q * DIM + d] * k;
			}
			s[p] = seen(q, p, window, picks) ? exp((double)0.2f * dot) : 0;
			sum += s[p];
			for (uint32_t d = 0; d < DIM; d++)
				o[d] += s[p] * (double)values[p][d];
		}
		for (uint32_t d = 0; d < DIM; d++)
			worst = fmax(worst, fabs(o[d] / sum - (double)got[q * DIM + d]));
	}
	return worst / 2;
}

/* V's rounding to f16 is in the first; the others are what 8 and 4 bits cost. */
static const double bound[] = {3e-4, 2e-2, 0.35};

static const uint32_t windows[] = {1, 2, 17, 64, 65, 100, 186, 187, 200, 1000, 1187, 1209, 1210};
#define N_WINDOWS (sizeof windows / sizeof windows[0])

static void test_a_window_is_near_double(void **state)
{
	enum plx_k_kv_type type = *(enum plx_k_kv_type *)*state;
	struct plx_k_attn a = make(tables[0], type, 0);

	for (uint32_t i = 0; i < N_WINDOWS; i++) {
		a.window = windows[i];
		attend(tables[0], &a, false, 0, golden);
		double e = error_of(golden, windows[i], false, type);

		if (!(e < bound[type]))
			fail_msg("window %u: error %.1e", windows[i], e);
	}
}

static void test_chosen_chunks_are_near_double(void **state)
{
	enum plx_k_kv_type type = *(enum plx_k_kv_type *)*state;
	struct plx_k_attn a = make(tables[0], type, 0);

	pick_make();
	attend(tables[0], &a, true, 0, golden);
	assert_true(error_of(golden, 0, true, type) < bound[type]);
	a.window = 150;
	attend(tables[0], &a, true, 0, golden);
	assert_true(error_of(golden, 150, true, type) < bound[type]);
}

static void test_all_chunks_and_wide_windows_are_dense(void **state)
{
	enum plx_k_kv_type type = *(enum plx_k_kv_type *)*state;

	for (uint32_t k = 0; k < n_tables; k++) {
		struct plx_k_attn a = make(tables[k], type, 0);

		attend(tables[k], &a, false, 0, golden);
		memset(pick, 0xff, sizeof pick);
		attend(tables[k], &a, true, 0, out);
		assert_memory_equal(out, golden, sizeof out);
		a.window = N_POS;
		attend(tables[k], &a, false, 0, out);
		assert_memory_equal(out, golden, sizeof out);
		a.window = N_POS - 1; /* the last token alone sees one position less */
		attend(tables[k], &a, false, 0, out);
		assert_memory_equal(out, golden, (NQ - GROUP) * DIM * sizeof *out);
		assert_true(memcmp(out + (NQ - GROUP) * DIM, golden + (NQ - GROUP) * DIM,
		                   GROUP * DIM * sizeof *out) != 0);
	}
}

/* Every path, and each query alone, gives the scalar path's bits. */
static void test_paths_and_cuts_give_equal_bits(void **state)
{
	enum plx_k_kv_type type = *(enum plx_k_kv_type *)*state;

	pick_make();
	for (uint32_t w = 0; w < 2 * N_WINDOWS; w += 3)
		for (uint32_t k = 0; k < n_tables; k++) {
			bool picks = w % 2;
			struct plx_k_attn a = make(tables[k], type, windows[w / 2]), one = a;

			attend(tables[k], &a, picks, 0, k == 0 ? golden : out);
			if (k > 0)
				assert_memory_equal(out, golden, sizeof out);
			one.n_tok = one.n_group = 1;
			for (uint32_t q = k; q < NQ; q += 7) {
				one.pos = a.pos + q / GROUP;
				one.q = a.q + q * DIM;
				attend(tables[k], &one, picks, q, out);
				assert_memory_equal(out, golden + q * DIM, DIM * sizeof *out);
			}
		}
}

/* What no query sees is made NaN: no bit changes. */
static void test_what_is_left_out_is_not_read(void **state)
{
	enum plx_k_kv_type type = *(enum plx_k_kv_type *)*state;
	float nans[DIM];

	for (uint32_t d = 0; d < DIM; d++)
		nans[d] = NAN;
	for (uint32_t w = 0; w < N_WINDOWS; w += 2)
		for (uint32_t k = 0; k < n_tables; k++) {
			struct plx_k_attn a = make(tables[k], type, windows[w]);

			attend(tables[k], &a, false, 0, golden);
			for (uint32_t p = 0; p + windows[w] < FIRST_Q + 1; p++)
				tables[k]->kv_store(&a.kv, p, nans, nans);
			attend(tables[k], &a, false, 0, out);
			assert_memory_equal(out, golden, sizeof out);
		}
	for (uint32_t k = 0; k < n_tables; k++) {
		struct plx_k_attn a = make(tables[k], type, 0);

		memset(pick, 0, sizeof pick);
		for (uint32_t q = 0; q < NQ; q++)
			pick[1][q] = 1u << 2; /* positions 1152 to 1215 */
		attend(tables[k], &a, true, 0, golden);
		for (uint32_t p = 0; p < 1152; p++)
			tables[k]->kv_store(&a.kv, p, nans, nans);
		attend(tables[k], &a, true, 0, out);
		assert_memory_equal(out, golden, sizeof out);
		assert_true(isfinite(out[0]));
	}
}

/* A later token's NaN beside a window's beginning stays its own. */
static void test_nans_stay_with_those_who_see_them(void **state)
{
	enum plx_k_kv_type type = *(enum plx_k_kv_type *)*state;
	const uint32_t at = 1130; /* the query at 1196 with a window of 67 sees it, 1197 doesn't */
	float nans[DIM];

	for (uint32_t d = 0; d < DIM; d++)
		nans[d] = NAN;
	for (uint32_t k = 0; k < n_tables; k++) {
		struct plx_k_attn a = make(tables[k], type, 67);
		uint32_t first_clean = (1197 - FIRST_Q) * GROUP * DIM;

		attend(tables[k], &a, false, 0, golden);
		tables[k]->kv_store(&a.kv, at, nans, nans);
		attend(tables[k], &a, false, 0, out);
		for (uint32_t i = 0; i < first_clean; i++)
			assert_true(isnan(out[i]));
		assert_memory_equal(out + first_clean, golden + first_clean,
		                    sizeof out - first_clean * sizeof *out);
	}
}

static int setup(void **state)
{
	(void)state;
	n_tables = plx_t_tables(tables);
	return 0;
}

int main(void)
{
#define OF_EACH_TYPE(f)                                                                            \
	{#f ": f16", f, NULL, NULL, &types[0]}, {#f ": q8", f, NULL, NULL, &types[1]},             \
	{                                                                                          \
#f ": q4", f, NULL, NULL, &types[2]                                                \
	}
	const struct CMUnitTest tests[] = {
	    OF_EACH_TYPE(test_a_window_is_near_double),
	    OF_EACH_TYPE(test_chosen_chunks_are_near_double),
	    OF_EACH_TYPE(test_all_chunks_and_wide_windows_are_dense),
	    OF_EACH_TYPE(test_paths_and_cuts_give_equal_bits),
	    OF_EACH_TYPE(test_what_is_left_out_is_not_read),
	    OF_EACH_TYPE(test_nans_stay_with_those_who_see_them),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
