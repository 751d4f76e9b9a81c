/*
 * Attention over paged KV: scalar against double precision, every path and every cut of the
 * queries against the same bits, garbage beyond the sequence left alone, nothing touched beside the
 * operands.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/lib/guard.h"
#include "tests/lib/isas.h"
#include "tests/lib/qdata.h"

#define MAX_POS 1300
#define MAX_DIM 128
#define BLOCK   32
#define GROUP   3
#define MAX_TOK 9
#define BLOCKS  (MAX_POS / BLOCK + 1)

static const struct plx_kernels *tables[PLX_T_ISAS];
static uint32_t n_tables;

static uint16_t pages[BLOCKS * BLOCK * MAX_DIM * 2];
static uint32_t table[BLOCKS];
static float keys[MAX_POS][MAX_DIM];
static float values[MAX_POS][MAX_DIM];
static float queries[MAX_TOK * GROUP * MAX_DIM];
static float golden[MAX_TOK * GROUP * MAX_DIM];
static float out[MAX_TOK * GROUP * MAX_DIM];
static float part[MAX_TOK * GROUP * (MAX_DIM + 16)];
static float acc[MAX_TOK * GROUP * (MAX_DIM + 16)];

/* A sequence of n positions whose blocks lie in no order; what lies behind it is NaN. */
static struct plx_k_attn make(const struct plx_kernels *k, uint32_t dim, uint32_t n, uint32_t n_tok,
                              float size)
{
	uint64_t seed = 41;
	uint64_t half = (uint64_t)BLOCK * dim * 2;
	struct plx_k_attn a = {.kv = {.base = pages,
	                              .table = table,
	                              .block_bytes = 2 * half,
	                              .k_off = half,
	                              .v_off = 0,
	                              .block_tokens = BLOCK,
	                              .head_dim = dim},
	                       .q = queries,
	                       .q_stride = GROUP * dim,
	                       .n_tok = n_tok,
	                       .n_group = GROUP,
	                       .pos = n - n_tok,
	                       .scale = 1.0f / sqrtf((float)dim)};

	memset(pages, 0xff, sizeof pages);
	for (uint32_t i = 0; i < BLOCKS; i++)
		table[i] = (i * 7 + 3) % BLOCKS;
	for (uint32_t p = 0; p < n; p++) {
		for (uint32_t d = 0; d < dim; d++) {
			keys[p][d] = plx_t_uniform(&seed) * size;
			values[p][d] = plx_t_uniform(&seed) * size;
		}
		k->kv_store(&a.kv, p, keys[p], values[p]);
	}
	for (uint32_t i = 0; i < n_tok * GROUP * dim; i++)
		queries[i] = plx_t_uniform(&seed) * size;
	return a;
}

static void attend(const struct plx_kernels *k, const struct plx_k_attn *a, float *to)
{
	uint32_t nq = a->n_tok * a->n_group;

	k->attn_part(a, 0, acc);
	for (uint32_t s = 1; s < plx_k_attn_splits(a->pos + a->n_tok - 1); s++) {
		k->attn_part(a, s, part);
		k->attn_merge(acc, part, nq, a->kv.head_dim);
	}
	k->attn_finish(to, acc, nq, a->kv.head_dim);
}

/* The largest error of one query's output, over the largest |v|. */
static double error_of(const struct plx_k_attn *a, uint32_t t, uint32_t g, const float *got)
{
	static double s[MAX_POS];
	uint32_t dim = a->kv.head_dim;
	uint32_t n = a->pos + t + 1;
	const float *q = queries + (t * GROUP + g) * dim;
	double max = -1e300;
	double sum = 0.0;
	double worst = 0.0;
	double largest = 0.0;

	for (uint32_t p = 0; p < n; p++) {
		s[p] = 0.0;
		for (uint32_t d = 0; d < dim; d++)
			s[p] += (double)q[d] * (double)plx_f16_to_f32(plx_f32_to_f16(keys[p][d]));
		s[p] *= (double)a->scale;
		max = s[p] > max ? s[p] : max;
	}
	for (uint32_t p = 0; p < n; p++)
		sum += s[p] = exp(s[p] - max);
	for (uint32_t d = 0; d < dim; d++) {
		double o = 0.0;

		for (uint32_t p = 0; p < n; p++) {
			double v = (double)plx_f16_to_f32(plx_f32_to_f16(values[p][d]));

			o += s[p] / sum * v;
			largest = fabs(v) > largest ? fabs(v) : largest;
		}
		worst = fabs(o - (double)got[d]) > worst ? fabs(o - (double)got[d]) : worst;
	}
	return worst / largest;
}

static void test_attention_is_near_double(void **state)
{
	static const uint32_t dims[] = {16, 64, 80, 96, 128};

	(void)state;
	for (uint32_t i = 0; i < 5; i++) {
		struct plx_k_attn a = make(tables[0], dims[i], 150, MAX_TOK, 3.0f);
		double worst = 0.0;

		attend(tables[0], &a, golden);
		for (uint32_t q = 0; q < MAX_TOK * GROUP; q++) {
			double e = error_of(&a, q / GROUP, q % GROUP, golden + q * dims[i]);

			worst = e > worst ? e : worst;
		}
		print_message("dim %u: error %.1e of the largest value\n", dims[i], worst);
		assert_true(worst < 3e-6);
	}
}

static void test_attention_merges_splits(void **state)
{
	struct plx_k_attn a = make(tables[0], 16, MAX_POS, 2, 3.0f);

	(void)state;
	attend(tables[0], &a, golden);
	assert_true(error_of(&a, 1, 2, golden + 5 * 16) < 3e-6);
	/* The first query's last position is the first split's last: the second adds nothing. */
	a = make(tables[0], 16, PLX_K_ATTN_SPLIT + 1, 2, 3.0f);
	attend(tables[0], &a, golden);
	assert_true(error_of(&a, 0, 0, golden) < 3e-6);
	tables[0]->attn_part(&a, 0, acc);
	tables[0]->attn_finish(out, acc, GROUP, 16);
	assert_memory_equal(out, golden, GROUP * 16 * sizeof *out);
}

static void test_attention_paths_give_equal_bits(void **state)
{
	static const uint32_t shapes[][3] = {
	    /* dim, positions, tokens */
	    {64, 1, 1}, {64, 17, 1},   {80, 64, 1},  {96, 65, 3},   {128, 70, 9}, {64, 130, 9},
	    {16, 9, 9}, {64, 1030, 9}, {64, 200, 4}, {128, 129, 2}, {48, 128, 1}};

	(void)state;
	for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		uint32_t floats = shapes[i][2] * GROUP * shapes[i][0];
		struct plx_k_attn a =
		    make(tables[0], shapes[i][0], shapes[i][1], shapes[i][2], i & 1 ? 20.0f : 1.0f);

		attend(tables[0], &a, golden);
		for (uint32_t f = 0; f < floats; f++)
			assert_true(golden[f] - golden[f] == 0.0f); /* finite */
		for (uint32_t k = 1; k < n_tables; k++) {
			a = make(tables[k], shapes[i][0], shapes[i][1], shapes[i][2],
			         i & 1 ? 20.0f : 1.0f);
			memset(out, 0, sizeof out);
			attend(tables[k], &a, out);
			assert_memory_equal(out, golden, floats * sizeof *out);
		}
	}
}

static void test_attention_is_the_same_alone_and_together(void **state)
{
	(void)state;
	for (uint32_t k = 0; k < n_tables; k++) {
		struct plx_k_attn a = make(tables[k], 64, 135, MAX_TOK, 2.0f);
		struct plx_k_attn one = a;

		attend(tables[k], &a, golden);
		one.n_tok = 1;
		one.n_group = 1;
		for (uint32_t q = 0; q < MAX_TOK * GROUP; q++) {
			one.pos = a.pos + q / GROUP;
			one.q = a.q + q * 64;
			attend(tables[k], &one, out);
			assert_memory_equal(out, golden + q * 64, 64 * sizeof *out);
		}
	}
}

/* The last token's K and V are NaN: it alone sees them, though it shares blocks with others. */
static void test_attention_keeps_later_nans_from_earlier_tokens(void **state)
{
	const uint32_t before = (MAX_TOK - 1) * GROUP * 64;
	float nans[64];

	(void)state;
	for (uint32_t d = 0; d < 64; d++)
		nans[d] = NAN;
	for (uint32_t k = 0; k < n_tables; k++) {
		struct plx_k_attn a = make(tables[k], 64, 135, MAX_TOK, 2.0f);

		attend(tables[k], &a, golden);
		tables[k]->kv_store(&a.kv, 134, nans, nans);
		attend(tables[k], &a, out);
		assert_memory_equal(out, golden, before * sizeof *out);
		assert_true(isnan(out[before]));
	}
}

static void test_kv_store_saturates_and_keeps_nan(void **state)
{
	static uint16_t block[2 * 16 * 16];
	static const uint32_t first[1] = {0};
	float k[16] = {1.0f, 1e6f, -1e6f, NAN};
	float v[16] = {0x1p-24f, 65519.0f, 65520.0f};

	(void)state;
	for (uint32_t i = 0; i < n_tables; i++) {
		struct plx_k_kv kv = {block, first, sizeof block, 0, 512, 16, 16};

		memset(block, 0, sizeof block);
		tables[i]->kv_store(&kv, 5, k, v);
		assert_int_equal(block[0 * 16 + 5], 0x3c00); /* K: [dim][token] */
		assert_int_equal(block[1 * 16 + 5], 0x7bff);
		assert_int_equal(block[2 * 16 + 5], 0xfbff);
		assert_true((block[3 * 16 + 5] & 0x7fffu) > 0x7c00u);
		assert_int_equal(block[256 + 5 * 16 + 0], 1); /* V: [token][dim] */
		assert_int_equal(block[256 + 5 * 16 + 1], 0x7bff);
		assert_int_equal(block[256 + 5 * 16 + 2], 0x7bff);
	}
}

/* Every value of f16 comes back as it was stored, and what was loaded is stored as it was. */
static void test_k_load_gives_what_was_stored(void **state)
{
	static const uint16_t bits[16] = {0x0000, 0x8000, 0x3c00, 0xbc00, 0x0001, 0x8001,
	                                  0x03ff, 0x0400, 0x7bff, 0xfbff, 0x7e00, 0x3555,
	                                  0x2e66, 0xc900, 0x0200, 0x5640};
	static uint16_t block[2 * 48 * 32], before[2 * 48 * 32];
	static const uint32_t first[1] = {0};
	float k[48], v[48], got[48];

	(void)state;
	for (uint32_t d = 0; d < 48; d++) {
		k[d] = plx_f16_to_f32(bits[d % 16]);
		v[d] = (float)d;
	}
	for (uint32_t i = 0; i < n_tables; i++) {
		struct plx_k_kv kv = {block, first, sizeof block, 0, 48 * 64, 32, 48};

		memset(block, 0xaa, sizeof block);
		tables[i]->kv_store(&kv, 21, k, v);
		tables[i]->k_load(&kv, 21, got);
		for (uint32_t d = 0; d < 48; d++)
			assert_true(isnan(k[d]) ? isnan(got[d])
			                        : plx_f32_bits(got[d]) == plx_f32_bits(k[d]));
		memcpy(before, block, sizeof block);
		tables[i]->k_store(&kv, 21, got);
		assert_memory_equal(block, before, sizeof block);
		got[7] = 4.0f;
		tables[i]->k_store(&kv, 21, got);
		assert_int_equal(block[16 * 48 + 7 * 16 + 5], 0x4400);
		block[16 * 48 + 7 * 16 + 5] = before[16 * 48 + 7 * 16 + 5];
		assert_memory_equal(block, before, sizeof block);
	}
}

static void test_kv_export_is_the_exchange_layout(void **state)
{
	static uint16_t in[32 * 48];
	static uint16_t rows[32 * 48];
	static uint16_t back[32 * 48];

	(void)state;
	for (uint32_t i = 0; i < 32 * 48; i++)
		in[i] = (uint16_t)i;
	plx_k_kv_export(rows, in, 32, 48);
	assert_int_equal(rows[0 * 48 + 1], 16);            /* token 0, dim 1 */
	assert_int_equal(rows[17 * 48 + 2], 16 * 48 + 33); /* token 17, dim 2 */
	plx_k_kv_import(back, rows, 32, 48);
	assert_memory_equal(back, in, sizeof in);
}

/* ---- operands between pages that can't be touched ------------------------------------------- */

enum { G_PAGES, G_TABLE, G_Q, G_PART, G_ACC, G_OUT, G_K, G_V, N_GUARDS };

static struct plx_t_guard guard[N_GUARDS];

static void guards_intact(void)
{
	for (uint32_t i = 0; i < N_GUARDS; i++)
		assert_true(plx_t_guard_intact(&guard[i]));
}

/* The sequence of a in the fewest blocks, stored from guarded rows; all else of it guarded too. */
static struct plx_k_attn guarded(const struct plx_kernels *k, const struct plx_k_attn *a,
                                 bool at_end)
{
	uint32_t dim = a->kv.head_dim, n = a->pos + a->n_tok, n_blocks = (n + BLOCK - 1) / BLOCK;
	uint32_t order[BLOCKS];
	struct plx_k_attn g = *a;

	for (uint32_t i = 0; i < n_blocks; i++)
		order[i] = n_blocks - 1 - i;
	g.kv.base = plx_t_guard_put(&guard[G_PAGES], at_end, NULL, n_blocks * a->kv.block_bytes);
	g.kv.table = plx_t_guard_put(&guard[G_TABLE], at_end, order, n_blocks * sizeof order[0]);
	g.q = plx_t_guard_put(&guard[G_Q], at_end, a->q,
	                      (size_t)a->n_tok * a->n_group * dim * sizeof(float));
	for (uint32_t p = 0; p < n; p++)
		k->kv_store(&g.kv, p,
		            plx_t_guard_put(&guard[G_K], at_end, keys[p], dim * sizeof(float)),
		            plx_t_guard_put(&guard[G_V], at_end, values[p], dim * sizeof(float)));
	return g;
}

static const float *attend_guarded(const struct plx_kernels *k, const struct plx_k_attn *a,
                                   bool at_end)
{
	uint32_t dim = a->kv.head_dim, nq = a->n_tok * a->n_group;
	size_t bytes = (size_t)nq * plx_k_attn_part_floats(dim) * sizeof(float);
	float *sum = plx_t_guard_put(&guard[G_ACC], at_end, NULL, bytes);
	float *to = plx_t_guard_put(&guard[G_OUT], at_end, NULL, (size_t)nq * dim * sizeof(float));

	k->attn_part(a, 0, sum);
	for (uint32_t s = 1; s < plx_k_attn_splits(a->pos + a->n_tok - 1); s++) {
		float *p = plx_t_guard_put(&guard[G_PART], at_end, NULL, bytes);

		k->attn_part(a, s, p);
		k->attn_merge(sum, p, nq, dim);
	}
	k->attn_finish(to, sum, nq, dim);
	guards_intact();
	return to;
}

static void test_attention_touches_nothing_beside_its_operands(void **state)
{
	static const uint32_t shapes[][3] = {
	    /* dim, positions, tokens: blocks that end with the sequence, and that do not */
	    {64, 1, 1},  {64, 16, 1},  {64, 32, 3},  {64, 33, 1},   {80, 64, 9},
	    {96, 95, 2}, {128, 96, 4}, {48, 127, 9}, {16, 1024, 1}, {16, 1025, 2}};

	(void)state;
	for (uint32_t i = 0; i < N_GUARDS; i++)
		plx_t_guard_open(&guard[i], sizeof pages);
	for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		struct plx_k_attn a =
		    make(tables[0], shapes[i][0], shapes[i][1], shapes[i][2], 2.0f);

		attend(tables[0], &a, golden);
		for (uint32_t k = 0; k < 2 * n_tables; k++) {
			struct plx_k_attn g = guarded(tables[k / 2], &a, k & 1);
			const float *to = attend_guarded(tables[k / 2], &g, k & 1);

			assert_memory_equal(to, golden,
			                    shapes[i][2] * GROUP * shapes[i][0] * sizeof *to);
		}
	}
	for (uint32_t i = 0; i < N_GUARDS; i++)
		plx_t_guard_close(&guard[i]);
}

/* ---- numbers that go wrong where they can ---------------------------------------------------- */

enum { EQUAL, ONE_WINS, RISING, FALLING, LARGEST, LEAST, OVERFLOWS, N_KINDS };

/* What kind makes of key and value p, and of the queries. */
static void fill_kind(uint32_t kind, uint32_t n, uint32_t dim)
{
	static const float query[N_KINDS] = {1.0f, 30.0f, 4.0f, 4.0f, 0x1p-16f, 0x1p-130f, 3e38f};

	for (uint32_t p = 0; p < n; p++) {
		float key[N_KINDS] = {1.0f,
		                      p == n / 2 ? 60.0f : -60.0f,
		                      (float)p,
		                      -(float)p,
		                      p % 2 ? 65504.0f : -65504.0f,
		                      (float)(p % 5) * 0x1p-24f,
		                      p % 3 ? 65504.0f : -65504.0f};

		for (uint32_t d = 0; d < dim; d++) {
			keys[p][d] = key[kind];
			values[p][d] = kind == LEAST ? 0x1p-24f : (p + d) % 2 ? 65504.0f : -1.5f;
		}
	}
	for (uint32_t i = 0; i < MAX_TOK * GROUP * dim; i++)
		queries[i] = i % (2 * dim) == 1 ? -query[kind] : query[kind];
}

/* Equal bits, but any NaN is as good as another. */
static void assert_same(const float *got, const float *want, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!isnan(got[i]) || !isnan(want[i]))
			assert_int_equal(plx_f32_bits(got[i]), plx_f32_bits(want[i]));
}

static void test_attention_extremes_give_equal_bits(void **state)
{
	static const uint32_t n_pos[] = {9, 70, 200, 1090};

	(void)state;
	for (uint32_t i = 0; i < N_KINDS * 4; i++) {
		uint32_t n = n_pos[i / N_KINDS], kind = i % N_KINDS, dim = i % 2 ? 64 : 16;
		struct plx_k_attn a = make(tables[0], dim, n, MAX_TOK, 1.0f);

		fill_kind(kind, n, dim);
		for (uint32_t k = 0; k < n_tables; k++) {
			for (uint32_t p = 0; p < n; p++)
				tables[k]->kv_store(&a.kv, p, keys[p], values[p]);
			attend(tables[k], &a, k ? out : golden);
			if (k)
				assert_same(out, golden, MAX_TOK * GROUP * dim);
		}
		for (uint32_t f = 0; kind != OVERFLOWS && f < MAX_TOK * GROUP * dim; f++)
			assert_true(fabsf(golden[f]) <= 65520.0f);
	}
}

static void test_nan_in_a_query_stays_there(void **state)
{
	const uint32_t dim = 64, bad = 4 * GROUP + 1;

	(void)state;
	for (uint32_t k = 0; k < n_tables; k++) {
		struct plx_k_attn a = make(tables[k], dim, 70, MAX_TOK, 2.0f);

		attend(tables[k], &a, golden);
		queries[bad * dim + 17] = NAN;
		attend(tables[k], &a, out);
		for (uint32_t q = 0; q < MAX_TOK * GROUP; q++)
			for (uint32_t d = q * dim; d < (q + 1) * dim; d++)
				assert_true(q == bad ? isnan(out[d]) : out[d] == golden[d]);
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
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_attention_is_near_double),
	    cmocka_unit_test(test_attention_merges_splits),
	    cmocka_unit_test(test_attention_paths_give_equal_bits),
	    cmocka_unit_test(test_attention_is_the_same_alone_and_together),
	    cmocka_unit_test(test_attention_keeps_later_nans_from_earlier_tokens),
	    cmocka_unit_test(test_kv_store_saturates_and_keeps_nan),
	    cmocka_unit_test(test_k_load_gives_what_was_stored),
	    cmocka_unit_test(test_attention_touches_nothing_beside_its_operands),
	    cmocka_unit_test(test_attention_extremes_give_equal_bits),
	    cmocka_unit_test(test_nan_in_a_query_stays_there),
	    cmocka_unit_test(test_kv_export_is_the_exchange_layout),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
