/*
 * Attention over paged KV of each type: scalar against double precision, every path and every cut
 * of the queries against the same bits, garbage beyond the sequence left alone, nothing touched
 * beside the operands. A test whose state is a type runs once for each of them.
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
#define MAX_DIM 256
#define BLOCK   32
#define GROUP   3
#define MAX_TOK 9
#define BLOCKS  (MAX_POS / BLOCK + 1)

static const struct plx_kernels *tables[PLX_T_ISAS];
static uint32_t n_tables;

static enum plx_k_kv_type types[] = {PLX_K_KV_F16, PLX_K_KV_Q8, PLX_K_KV_Q4};
static enum plx_k_kv_type kv_type; /* of the test that runs */

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
	uint64_t v_bytes = plx_k_kv_v_bytes(kv_type, BLOCK, dim);
	struct plx_k_attn a = {
	    .kv = {.base = pages,
	           .table = table,
	           .block_bytes = v_bytes + plx_k_kv_k_bytes(kv_type, BLOCK, dim),
	           .k_off = v_bytes,
	           .v_off = 0,
	           .block_tokens = BLOCK,
	           .head_dim = dim,
	           .type = kv_type},
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
	k->attn_finish(to, acc, nq, a->kv.head_dim, a->kv.type);
}

/* ---- what is stored, by the layout's description --------------------------------------------- */

static double f16_at(const uint8_t *p)
{
	uint16_t h;

	memcpy(&h, p, sizeof h);
	return (double)plx_f16_to_f32(h);
}

/* Walsh-Hadamard of the largest power of two that divides n. */
static void turn(double *x, uint32_t n)
{
	uint32_t size = n & -n;

	for (uint32_t h = 1; h < size; h *= 2)
		for (uint32_t i = 0; i < n; i++) {
			double a = x[i], b = x[i ^ h];

			if ((i & h) == 0) {
				x[i] = a + b;
				x[i ^ h] = a - b;
			}
		}
	for (uint32_t i = 0; i < n; i++)
		x[i] /= sqrt(size);
}

/* Element d of position r of a group of 16 positions. */
static double stored(const uint8_t *group, bool is_k, uint32_t dim, uint32_t r, uint32_t d)
{
	const uint32_t nb = (dim + 31) / 32, b = d / 32, c = d % 32;
	const bool q8 = kv_type == PLX_K_KV_Q8;
	const uint32_t q_bytes = q8 ? 512 : 256, h_bytes = !q8 && is_k ? 64 : 0;
	const uint8_t *q = group + b * q_bytes, *h = group + nb * q_bytes + b * h_bytes;
	double scale = f16_at(group + nb * (q_bytes + h_bytes) + b * 32 + r * 2);
	uint32_t u;

	if (kv_type == PLX_K_KV_F16)
		return f16_at(group + (is_k ? d * 16 + r : r * dim + d) * 2);
	if (q8)
		u = is_k ? q[c / 4 * 64 + r * 4 + c % 4]
		         : q[r / 4 * 128 + c / 16 * 64 + c % 16 * 4 + r % 4];
	else
		u = (is_k ? q[c % 16 / 4 * 64 + r * 4 + c % 4]
		          : q[r / 4 * 64 + c % 16 * 4 + r % 4]) >>
		        c / 16 * 4 &
		    15;
	if (h_bytes > 0)
		u |= (h[r * 4 + c % 4] >> c / 4 & 1u) << 4;
	return scale * ((double)u - (q8 ? 128 : is_k ? 16 : 8));
}

/* The K or V of position p, not turned. */
static void stored_row(const struct plx_k_kv *kv, bool is_k, uint32_t p, double *x)
{
	const uint8_t *block = (const uint8_t *)kv->base +
	                       kv->table[p / kv->block_tokens] * kv->block_bytes +
	                       (is_k ? kv->k_off : kv->v_off);
	uint64_t bytes = is_k ? plx_k_kv_k_bytes(kv_type, 16, kv->head_dim)
	                      : plx_k_kv_v_bytes(kv_type, 16, kv->head_dim);

	for (uint32_t d = 0; d < kv->head_dim; d++)
		x[d] = stored(block + p % kv->block_tokens / 16 * bytes, is_k, kv->head_dim, p % 16,
		              d);
	if (kv_type == PLX_K_KV_Q4)
		turn(x, kv->head_dim);
}

/*
 * The largest error of one query's output, over the largest |v|: against what is stored, or against
 * what was given to be stored.
 */
static double error_of(const struct plx_k_attn *a, uint32_t t, uint32_t g, const float *got,
                       bool given)
{
	static double s[MAX_POS], k[MAX_POS][MAX_DIM], v[MAX_POS][MAX_DIM];
	uint32_t dim = a->kv.head_dim;
	uint32_t n = a->pos + t + 1;
	const float *q = queries + (t * GROUP + g) * dim;
	double max = -1e300;
	double sum = 0.0;
	double worst = 0.0;
	double largest = 0.0;

	for (uint32_t p = 0; p < n; p++) {
		stored_row(&a->kv, true, p, k[p]);
		stored_row(&a->kv, false, p, v[p]);
		s[p] = 0.0;
		for (uint32_t d = 0; d < dim; d++)
			s[p] += (double)q[d] * (given ? (double)keys[p][d] : k[p][d]);
		s[p] *= (double)a->scale;
		max = s[p] > max ? s[p] : max;
	}
	for (uint32_t p = 0; p < n; p++)
		sum += s[p] = exp(s[p] - max);
	for (uint32_t d = 0; d < dim; d++) {
		double o = 0.0;

		for (uint32_t p = 0; p < n; p++) {
			double x = given ? (double)values[p][d] : v[p][d];

			o += s[p] / sum * x;
			largest = fabs(x) > largest ? fabs(x) : largest;
		}
		worst = fabs(o - (double)got[d]) > worst ? fabs(o - (double)got[d]) : worst;
	}
	return worst / largest;
}

/* Against what is stored: f32 sums, or integers of 15 bits. Against what was given: the type. */
static const double sum_bound[] = {3e-6, 3e-4, 3e-4};
static const double type_bound[] = {2e-3, 2e-2, 0.3};

static void test_attention_is_near_double(void **state)
{
	static const uint32_t dims[] = {16, 64, 80, 96, 128, 256};

	kv_type = *(enum plx_k_kv_type *)*state;
	for (uint32_t i = 0; i < sizeof dims / sizeof *dims; i++) {
		struct plx_k_attn a = make(tables[0], dims[i], 150, MAX_TOK, 3.0f);
		double worst = 0.0, given = 0.0;

		attend(tables[0], &a, golden);
		for (uint32_t q = 0; q < MAX_TOK * GROUP; q++) {
			const float *got = golden + q * dims[i];

			worst = fmax(worst, error_of(&a, q / GROUP, q % GROUP, got, false));
			given = fmax(given, error_of(&a, q / GROUP, q % GROUP, got, true));
		}
		print_message("dim %u: error %.1e of the largest value; what the type costs: "
		              "%.1e\n",
		              dims[i], worst, given);
		assert_true(worst < sum_bound[kv_type] && given < type_bound[kv_type]);
	}
}

static void test_attention_merges_splits(void **state)
{
	kv_type = *(enum plx_k_kv_type *)*state;
	struct plx_k_attn a = make(tables[0], 16, MAX_POS, 2, 3.0f);

	attend(tables[0], &a, golden);
	assert_true(error_of(&a, 1, 2, golden + 5 * 16, false) < sum_bound[kv_type]);
	/* The first query's last position is the first split's last: the second adds nothing. */
	a = make(tables[0], 16, PLX_K_ATTN_SPLIT + 1, 2, 3.0f);
	attend(tables[0], &a, golden);
	assert_true(error_of(&a, 0, 0, golden, false) < sum_bound[kv_type]);
	tables[0]->attn_part(&a, 0, acc);
	tables[0]->attn_finish(out, acc, GROUP, 16, kv_type);
	assert_memory_equal(out, golden, GROUP * 16 * sizeof *out);
}

static void test_attention_paths_give_equal_bits(void **state)
{
	static const uint32_t shapes[][3] = {
	    /* dim, positions, tokens */
	    {64, 1, 1}, {64, 17, 1},   {80, 64, 1},  {96, 65, 3},   {128, 70, 9}, {64, 130, 9},
	    {16, 9, 9}, {64, 1030, 9}, {64, 200, 4}, {128, 129, 2}, {48, 128, 1}, {256, 100, 5}};

	kv_type = *(enum plx_k_kv_type *)*state;
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
	kv_type = *(enum plx_k_kv_type *)*state;
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

	kv_type = *(enum plx_k_kv_type *)*state;
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
		struct plx_k_kv kv = {block, first, sizeof block, 0, 512, 16, 16, PLX_K_KV_F16, 0};

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
		struct plx_k_kv kv = {block, first, sizeof block, 0, 48 * 64,
		                      32,    48,    PLX_K_KV_F16, 0};

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
	k->attn_finish(to, sum, nq, dim, a->kv.type);
	guards_intact();
	return to;
}

static void test_attention_touches_nothing_beside_its_operands(void **state)
{
	static const uint32_t shapes[][3] = {
	    /* dim, positions, tokens: blocks that end with the sequence, and that do not */
	    {64, 1, 1},  {64, 16, 1},  {64, 32, 3},  {64, 33, 1},   {80, 64, 9},
	    {96, 95, 2}, {128, 96, 4}, {48, 127, 9}, {16, 1024, 1}, {16, 1025, 2}};

	kv_type = *(enum plx_k_kv_type *)*state;
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

	kv_type = *(enum plx_k_kv_type *)*state;
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
			assert_true(fabsf(golden[f]) <=
			            (kv_type == PLX_K_KV_F16 ? 65520.0f : 80000.0f));
	}
}

static void test_nan_in_a_query_stays_there(void **state)
{
	const uint32_t dim = 64, bad = 4 * GROUP + 1;

	kv_type = *(enum plx_k_kv_type *)*state;
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

/* V's NaN alone is as good as K's: all that see the token. */
static void test_nan_in_v_reaches_those_who_see_it(void **state)
{
	const uint32_t before = (MAX_TOK - 1) * GROUP * 64;
	float v[64];

	kv_type = *(enum plx_k_kv_type *)*state;
	for (uint32_t k = 0; k < n_tables; k++) {
		struct plx_k_attn a = make(tables[k], 64, 135, MAX_TOK, 2.0f);

		attend(tables[k], &a, golden);
		memcpy(v, values[134], sizeof v);
		v[40] = NAN;
		tables[k]->kv_store(&a.kv, 134, keys[134], v);
		attend(tables[k], &a, out);
		assert_memory_equal(out, golden, before * sizeof *out);
		for (uint32_t q = before; q < before + GROUP * 64; q += 64)
			assert_true(isnan(out[q + 40]));
	}
}

/* A shift loads K, turns it and stores it: load and store alone move next to nothing. */
static void test_k_is_loaded_as_stored(void **state)
{
	static const uint32_t dims[] = {16, 48, 64, 96, 128, 256};

	kv_type = *(enum plx_k_kv_type *)*state;
	for (uint32_t i = 0; i < sizeof dims / sizeof *dims * n_tables; i++) {
		const struct plx_kernels *k = tables[i % n_tables];
		uint32_t dim = dims[i / n_tables];
		struct plx_k_attn a = make(k, dim, 40, 1, 5.0f);
		double want[MAX_DIM], again[MAX_DIM], off = 0.0;
		float got[MAX_DIM];

		stored_row(&a.kv, true, 37, want);
		k->k_load(&a.kv, 37, got);
		for (uint32_t d = 0; d < dim; d++)
			assert_true(fabs((double)got[d] - want[d]) < 2e-6 * 5.0);
		k->k_store(&a.kv, 37, got);
		stored_row(&a.kv, true, 37, again);
		for (uint32_t d = 0; d < dim; d++)
			off = fmax(off, fabs(again[d] - want[d]));
		assert_true(off < 0.01);
		stored_row(&a.kv, true, 36, again);
		k->k_load(&a.kv, 36, got); /* its neighbour stays */
		for (uint32_t d = 0; d < dim; d++)
			assert_true(fabs((double)got[d] - again[d]) < 2e-6 * 5.0);
	}
}

/* Where bytes go, by hand: position 6 of a block of 16, 32 dimensions. */
static void test_q8_and_q4_bytes(void **state)
{
	static uint8_t block[2 * 544];
	static const uint32_t first[1] = {0};
	float k[32] = {0}, v[32] = {0};

	(void)state;
	k[0] = 128.0f, k[5] = -127.0f, k[6] = 1.0f, k[7] = -3.0f;
	v[17] = -64.0f, v[3] = 63.0f;
	for (uint32_t i = 0; i < n_tables; i++) {
		struct plx_k_kv kv = {block, first, sizeof block, 0, 544, 16, 32, PLX_K_KV_Q8, 0};

		memset(block, 0xaa, sizeof block);
		tables[i]->kv_store(&kv, 6, k, v);
		assert_int_equal(block[6 * 4], 0);            /* d = -1: 128 = -1 * (0 - 128) */
		assert_int_equal(block[6 * 4 + 1], 128);      /* 0 */
		assert_int_equal(block[64 + 6 * 4 + 1], 255); /* -127 */
		assert_int_equal(block[64 + 6 * 4 + 2], 127); /* 1 */
		assert_int_equal(block[64 + 6 * 4 + 3], 131); /* -3 */
		assert_int_equal(block[512 + 12] | block[512 + 13] << 8, 0xbc00);
		assert_int_equal(block[64 + 5 * 4], 0xaa); /* position 5 is untouched */
		assert_int_equal(block[544 + 128 + 64 + 1 * 4 + 2], 0); /* V: d = 0.5 */
		assert_int_equal(block[544 + 128 + 3 * 4 + 2], 254);
		assert_int_equal(block[544 + 512 + 12] | block[544 + 512 + 13] << 8, 0x3800);
	}
	/* Turned, a one at dimension 0 is 1/sqrt(32) everywhere: the largest magnitude. */
	memset(k, 0, sizeof k);
	memset(v, 0, sizeof v);
	k[0] = 16.0f * 5.656854f;
	v[0] = -16.0f * 5.656854f;
	for (uint32_t i = 0; i < n_tables; i++) {
		struct plx_k_kv kv = {block, first, 640, 0, 352, 16, 32, PLX_K_KV_Q4, 0};

		memset(block, 0xaa, sizeof block);
		tables[i]->kv_store(&kv, 6, k, v);
		for (uint32_t c = 0; c < 16; c++) {
			assert_int_equal(block[c / 4 * 64 + 6 * 4 + c % 4], 0);
			assert_int_equal(block[352 + 64 + c * 4 + 2], 0);
		}
		for (uint32_t c = 0; c < 4; c++)
			assert_int_equal(block[256 + 6 * 4 + c], 0);
		assert_int_equal(block[256 + 5 * 4], 0xaa);
		assert_int_equal(block[320 + 12] | block[320 + 13] << 8, 0xbc00); /* -1 */
		assert_int_equal(block[352 + 256 + 12] | block[352 + 256 + 13] << 8,
		                 0x4000); /* 2 */
	}
}

static void test_kv_bytes(void **state)
{
	(void)state;
	assert_int_equal(plx_k_kv_k_bytes(PLX_K_KV_F16, 32, 64), 4096);
	assert_int_equal(plx_k_kv_v_bytes(PLX_K_KV_F16, 32, 64), 4096);
	assert_int_equal(plx_k_kv_k_bytes(PLX_K_KV_Q8, 32, 64), 2176);
	assert_int_equal(plx_k_kv_v_bytes(PLX_K_KV_Q8, 32, 64), 2176);
	assert_int_equal(plx_k_kv_k_bytes(PLX_K_KV_Q4, 32, 64), 1408);
	assert_int_equal(plx_k_kv_v_bytes(PLX_K_KV_Q4, 32, 64), 1152);
	assert_int_equal(plx_k_kv_k_bytes(PLX_K_KV_Q8, 16, 80), 1632); /* 3 blocks */
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
	    OF_EACH_TYPE(test_attention_is_near_double),
	    OF_EACH_TYPE(test_attention_merges_splits),
	    OF_EACH_TYPE(test_attention_paths_give_equal_bits),
	    OF_EACH_TYPE(test_attention_is_the_same_alone_and_together),
	    OF_EACH_TYPE(test_attention_keeps_later_nans_from_earlier_tokens),
	    OF_EACH_TYPE(test_attention_touches_nothing_beside_its_operands),
	    OF_EACH_TYPE(test_attention_extremes_give_equal_bits),
	    OF_EACH_TYPE(test_nan_in_a_query_stays_there),
	    OF_EACH_TYPE(test_nan_in_v_reaches_those_who_see_it),
	    OF_EACH_TYPE(test_k_is_loaded_as_stored),
	    cmocka_unit_test(test_kv_store_saturates_and_keeps_nan),
	    cmocka_unit_test(test_k_load_gives_what_was_stored),
	    cmocka_unit_test(test_q8_and_q4_bytes),
	    cmocka_unit_test(test_kv_bytes),
	    cmocka_unit_test(test_kv_export_is_the_exchange_layout),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
