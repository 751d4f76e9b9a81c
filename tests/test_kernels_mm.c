/*
 * Matrix products of every format: scalar against double precision, vector paths against scalar
 * bit by bit, whatever the batch and however rows and tokens are cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cpuid.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/lib/amx_model.h"
#include "tests/lib/guard.h"
#include "tests/lib/isas.h"
#include "tests/lib/qdata.h"

#define MAX_TOK 40
#define MAX_OUT 56
#define MAX_IN  576

static uint8_t stored[MAX_OUT * MAX_IN * 4];
static _Alignas(64) uint8_t packed[80 * MAX_IN * 4];
static float x[MAX_TOK * MAX_IN];
static struct plx_k_qblk q[MAX_TOK * MAX_IN / 32];
static uint16_t bf16[MAX_TOK * MAX_IN];
static float golden[MAX_TOK * MAX_OUT];
static float y[MAX_TOK * MAX_OUT];

static const struct plx_kernels *tables[PLX_T_ISAS + 2]; /* the models of AMX are the last */
static uint32_t n_tables;

static uint32_t width_of(enum plx_qtype type, uint32_t want)
{
	return plx_qtype_block_elems(type) == 256 ? (want + 255) / 256 * 256 : want;
}

/* Weights into stored and packed, activations into x and q. */
static struct plx_k_mat make(enum plx_qtype type, uint32_t n_out, uint32_t n_in,
                             enum plx_t_fill fill, uint64_t *seed)
{
	struct plx_k_mat w = {packed, type, n_out, n_in};

	assert_in_range(plx_k_pack_bytes(type, n_out, n_in), 1, sizeof packed);
	plx_t_fill_blocks(type, stored, (size_t)n_out * n_in, fill, seed);
	memset(packed, 0xa5, sizeof packed);
	for (uint32_t r = 0; r < n_out; r += 16) /* in slices, as a parallel load does */
		plx_k_pack(packed, type, stored, n_out, n_in, r, r + 16 < n_out ? r + 16 : n_out);
	for (uint32_t i = 0; i < MAX_TOK * n_in; i++)
		x[i] = plx_t_uniform(seed) * (i % 7 ? 1.0f : 8.0f);
	tables[0]->quantise(q, x, MAX_TOK, n_in, n_in);
	tables[0]->to_bf16(bf16, x, MAX_TOK * n_in);
	return w;
}

static void multiply(const struct plx_kernels *k, const struct plx_k_mat *w, float *out,
                     const uint32_t rows[2], const uint32_t toks[2], enum plx_k_mode mode)
{
	struct plx_k_mm m = {.w = w,
	                     .q = q,
	                     .bf16 = bf16,
	                     .x = x,
	                     .y = out,
	                     .y_stride = w->n_out,
	                     .row_begin = rows[0],
	                     .row_end = rows[1],
	                     .tok_begin = toks[0],
	                     .tok_end = toks[1],
	                     .mode = mode};

	k->matmul(&m);
}

static void multiply_all(const struct plx_kernels *k, const struct plx_k_mat *w, float *out,
                         uint32_t n_tok, enum plx_k_mode mode)
{
	multiply(k, w, out, (uint32_t[2]){0, w->n_out}, (uint32_t[2]){0, n_tok}, mode);
}

/* Activation i as the kernel has it. */
static double seen_by(enum plx_qtype type, uint32_t i)
{
	switch (plx_k_wants(type)) {
	case PLX_K_ACT_Q8:
		return (double)q[i / 32].d * q[i / 32].q[i % 32];
	case PLX_K_ACT_BF16:
		return (double)plx_bf16_to_f32(bf16[i]);
	case PLX_K_ACT_F32:
		break;
	}
	return (double)x[i];
}

/* Distance from double precision, over the norm of the results: with the activations that the
 * kernel had (only rounding), and with those before quantisation. */
static void errors_of(const struct plx_k_mat *w, const float *out, double *rounding, double *all)
{
	static float row[MAX_IN];
	double norm = 0.0;
	double diff[2] = {0.0, 0.0};
	uint64_t row_bytes = 0;

	assert_int_equal(plx_q_row_bytes(w->type, w->n_in, &row_bytes), 0);
	for (uint32_t r = 0; r < w->n_out; r++) {
		plx_q_dequant(w->type, stored + r * row_bytes, row, w->n_in);
		for (uint32_t t = 0; t < MAX_TOK; t++) {
			double seen = 0.0;
			double exact = 0.0;

			for (uint32_t i = 0; i < w->n_in; i++) {
				double given = (double)x[t * w->n_in + i];

				seen += (double)row[i] * seen_by(w->type, t * w->n_in + i);
				exact += (double)row[i] * given;
			}
			double got = (double)out[t * w->n_out + r];

			diff[0] += (got - seen) * (got - seen);
			diff[1] += (got - exact) * (got - exact);
			norm += exact * exact;
		}
	}
	*rounding = sqrt(diff[0] / norm);
	*all = sqrt(diff[1] / norm);
}

static void test_matmul_is_near_double(void **state)
{
	uint64_t seed = 11;

	(void)state;
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		enum plx_qtype type = plx_qtype_at(i);
		struct plx_k_mat w = make(type, 40, width_of(type, 512), PLX_T_RANDOM, &seed);
		double rounding;
		double all;

		multiply_all(tables[0], &w, golden, MAX_TOK, PLX_K_STORE);
		errors_of(&w, golden, &rounding, &all);
		static const double bound[] = {5e-7, 2.5e-3, 0.015}; /* by plx_k_act */

		print_message("%-5s rounding %.1e, with its activations' %.1e\n",
		              plx_qtype_name(type), rounding, all);
		assert_true(rounding < 5e-7);
		assert_true(all < bound[plx_k_wants(type)]);
	}
}

static void test_matmul_paths_give_equal_bits(void **state)
{
	static const uint32_t shapes[][2] = {{1, 32}, {17, 96}, {40, 288}, {16, 64}};
	uint64_t seed = 12;

	(void)state;
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		for (uint32_t s = 0; s < 16; s++) {
			enum plx_qtype type = plx_qtype_at(i);
			uint32_t n_in = width_of(type, shapes[s % 4][1]);
			struct plx_k_mat w =
			    make(type, shapes[s % 4][0], n_in, (enum plx_t_fill)(s / 4), &seed);

			multiply_all(tables[0], &w, golden, MAX_TOK, PLX_K_STORE);
			for (uint32_t k = 1; k < n_tables; k++) {
				memset(y, 0, sizeof y);
				multiply_all(tables[k], &w, y, MAX_TOK, PLX_K_STORE);
				assert_memory_equal(y, golden, MAX_TOK * w.n_out * sizeof *y);
			}
		}
	}
}

static void test_matmul_batch_and_cut_change_nothing(void **state)
{
	uint64_t seed = 13;

	(void)state;
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		enum plx_qtype type = plx_qtype_at(i);
		struct plx_k_mat w = make(type, 56, width_of(type, 160), PLX_T_RANDOM, &seed);

		multiply_all(tables[0], &w, golden, MAX_TOK, PLX_K_STORE);
		for (uint32_t k = 0; k < n_tables; k++) {
			for (uint32_t n = 1; n <= MAX_TOK; n += n < 18 ? 1 : 7) {
				memset(y, 0, sizeof y);
				multiply_all(tables[k], &w, y, n, PLX_K_STORE);
				assert_memory_equal(y, golden, n * w.n_out * sizeof *y);
			}
			memset(y, 0, sizeof y);
			for (uint32_t row = 0; row < 56; row += 32)
				for (uint32_t t = 0; t < MAX_TOK; t += 5)
					multiply(
					    tables[k], &w, y,
					    (uint32_t[2]){row, row + 32 < 56 ? row + 32 : 56},
					    (uint32_t[2]){t, t + 5 < MAX_TOK ? t + 5 : MAX_TOK},
					    PLX_K_STORE);
			assert_memory_equal(y, golden, MAX_TOK * w.n_out * sizeof *y);
		}
	}
}

static void test_matmul_adds_to_a_residual(void **state)
{
	uint64_t seed = 14;
	struct plx_k_mat w = make(PLX_Q_Q4_1, 40, 64, PLX_T_RANDOM, &seed);

	(void)state;
	multiply_all(tables[0], &w, golden, 19, PLX_K_STORE);
	for (uint32_t k = 0; k < n_tables; k++) {
		for (uint32_t i = 0; i < 19 * 40; i++)
			y[i] = (float)i * 0.25f;
		multiply_all(tables[k], &w, y, 19, PLX_K_ADD);
		for (uint32_t i = 0; i < 19 * 40; i++)
			assert_true(y[i] == (float)i * 0.25f + golden[i]);
	}
}

static void test_matmul_writes_only_its_rows_and_tokens(void **state)
{
	uint64_t seed = 15;
	struct plx_k_mat w = make(PLX_Q_Q8_0, 40, 64, PLX_T_RANDOM, &seed);

	(void)state;
	for (uint32_t k = 0; k < n_tables; k++) {
		for (uint32_t i = 0; i < MAX_TOK * 40; i++)
			y[i] = 77.0f;
		uint32_t end = k & 1 ? 5 : 24;

		multiply(tables[k], &w, y, (uint32_t[2]){32, 40}, (uint32_t[2]){2, end},
		         PLX_K_STORE);
		for (uint32_t i = 0; i < MAX_TOK * 40; i++) {
			bool inside = i % 40 >= 32 && i / 40 >= 2 && i / 40 < end;

			assert_int_equal(y[i] == 77.0f, !inside);
		}
	}
}

static void test_nan_stays_in_its_token(void **state)
{
	uint64_t seed = 16;

	(void)state;
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		enum plx_qtype type = plx_qtype_at(i);
		struct plx_k_mat w = make(type, 16, width_of(type, 64), PLX_T_RANDOM, &seed);

		multiply_all(tables[0], &w, golden, 12, PLX_K_STORE);
		for (uint32_t k = 0; k < n_tables; k++) {
			x[2 * w.n_in + 5] = k & 1 ? NAN : -INFINITY;
			tables[k]->quantise(q, x, MAX_TOK, w.n_in, w.n_in);
			tables[k]->to_bf16(bf16, x, MAX_TOK * w.n_in);
			multiply_all(tables[k], &w, y, 12, PLX_K_STORE);
			assert_memory_equal(y, golden, 2 * 16 * sizeof *y);
			assert_memory_equal(y + 48, golden + 48, 9 * 16 * sizeof *y);
			for (uint32_t r = 0; r < 16; r++)
				assert_true(!isfinite(y[32 + r]));
		}
	}
}

/* Equal bits, but any NaN is as good as another. */
static void assert_same(const float *got, const float *want, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!isnan(got[i]) || !isnan(want[i]))
			assert_int_equal(plx_f32_bits(got[i]), plx_f32_bits(want[i]));
}

static void compare_all(const struct plx_k_mat *w, uint32_t n_tok)
{
	multiply_all(tables[0], w, golden, n_tok, PLX_K_STORE);
	for (uint32_t k = 1; k < n_tables; k++) {
		multiply_all(tables[k], w, y, n_tok, PLX_K_STORE);
		assert_same(y, golden, n_tok * w->n_out);
	}
}

/* Quantised activations whose sums are extreme: all of one sign, alternating, alternating pairs. */
static void fill_extreme_q(uint32_t n_blocks)
{
	static const float scale[] = {1.0f, 0x1p-100f, 0x1.fffffep+127f, 0x1p-126f, 3e-5f};

	for (uint32_t b = 0; b < MAX_TOK * n_blocks; b++) {
		struct plx_k_qblk *at = &q[b];
		uint32_t kind = b / n_blocks + b % n_blocks / 2;

		at->sum = at->sum_lo = 0;
		for (uint32_t i = 0; i < 32; i++) {
			bool neg = kind % 4 == 1 || (kind % 4 == 2 && i % 2) ||
			           (kind % 4 == 3 && i % 4 >= 2);

			at->q[i] = neg ? -127 : 127;
			at->sum += at->q[i];
			at->sum_lo += i < 16 ? at->q[i] : 0;
		}
		at->d = scale[kind % 5];
		at->s = at->d * (float)at->sum;
	}
}

/* Stored blocks of equal bytes, their f16 scales all of one value. */
static void fill_equal(enum plx_qtype type, size_t n_elems, uint8_t byte, uint16_t scale)
{
	uint32_t bytes = plx_qtype_block_bytes(type);
	size_t n = n_elems / plx_qtype_block_elems(type);
	bool both =
	    type == PLX_Q_Q4_1 || type == PLX_Q_Q5_1 || type == PLX_Q_Q4_K || type == PLX_Q_Q5_K;

	memset(stored, byte, n * bytes);
	for (size_t i = 0; i < n; i++) {
		uint8_t *p = stored + i * bytes + (type == PLX_Q_Q6_K ? 208 : 0);

		memcpy(p, &scale, sizeof scale);
		if (both)
			memcpy(p + 2, &scale, sizeof scale);
	}
}

static void test_extreme_blocks_give_equal_bits(void **state)
{
	static const uint8_t byte[] = {0x00, 0xff, 0x80, 0x7f, 0xf0, 0x0f, 0x88};
	/* largest, least, least normal, -largest, infinite, NaN */
	static const uint16_t scale[] = {0x7bff, 0x0001, 0x0400, 0xfbff, 0x7c00, 0x7e00};

	(void)state;
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		enum plx_qtype type = plx_qtype_at(i);
		uint32_t n_in = width_of(type, 96);

		if (plx_k_wants(type) != PLX_K_ACT_Q8)
			continue;
		fill_extreme_q(n_in / 32);
		for (uint32_t c = 0; c < 42; c++) {
			struct plx_k_mat w = {packed, type, 17, n_in};

			fill_equal(type, (size_t)17 * n_in, byte[c % 7], scale[c / 7]);
			plx_k_pack(packed, type, stored, 17, n_in, 0, 17);
			compare_all(&w, c % 2 ? 19 : 9);
		}
	}
}

/* ---- BF16: what one instruction does must be what two fmas do -------------------------------- */

/* A bf16 with an exponent in [lo, hi]; 0 gives subnormals. */
static uint16_t bf16_between(uint32_t lo, uint32_t hi, uint64_t *seed)
{
	uint64_t r = plx_t_rand(seed) >> 20;
	uint32_t e = lo + (uint32_t)(r >> 8) % (hi - lo + 1);

	return (uint16_t)((r & 1) << 15 | e << 7 | (r >> 1 & 127));
}

/*
 * Exponents of weights and activations: products that are subnormal, or below it; at the edge of
 * overflow; of all sizes; sums that nearly cancel, where one more or one fewer rounding shows.
 */
static const uint32_t bf16_range[][4] = {
    {60, 70, 55, 66},     {0, 3, 120, 130}, {0, 254, 0, 254},    {185, 192, 188, 192},
    {120, 134, 120, 134}, {50, 64, 60, 66}, {127, 127, 127, 127}};

static void fill_adversarial_bf16(uint32_t round, uint32_t n_out, uint32_t n_in, uint64_t *seed)
{
	const uint32_t *range = bf16_range[round % 7];
	uint32_t back = round / 7 % 4; /* columns whose product is taken off again; 0: none */

	for (uint32_t i = 0; i < n_out * n_in; i++) {
		uint16_t v = bf16_between(range[0], range[1], seed);

		if (back && i % n_in >= back && i % 3)
			memcpy(&v, stored + 2 * (i - back), 2);
		memcpy(stored + 2 * i, &v, 2);
	}
	for (uint32_t i = 0; i < MAX_TOK * n_in; i++) {
		bf16[i] = bf16_between(range[2], range[3], seed);
		if (back && i % n_in >= back && i % 5)
			bf16[i] = bf16[i - back] ^ (uint16_t)(0x8000u | (i % 11 == 0));
	}
}

static void test_bf16_rounds_as_two_fmas(void **state)
{
	uint64_t seed = 17;

	(void)state;
	for (uint32_t round = 0; round < 84; round++) {
		struct plx_k_mat w = {packed, PLX_Q_BF16, 16, 64};

		fill_adversarial_bf16(round, 16, 64, &seed);
		plx_k_pack(packed, PLX_Q_BF16, stored, 16, 64, 0, 16);
		compare_all(&w, 12);
	}
}

/* Were one maker's instruction to round otherwise, the table would be refused: say so here. */
static void test_bf16_instruction_is_used_where_it_exists(void **state)
{
	unsigned a = 0;
	unsigned b;
	unsigned c;
	unsigned d;

	(void)state;
	if (!plx_kernels_select(PLX_K_ISA_AVX512) || !__get_cpuid_count(7, 1, &a, &b, &c, &d) ||
	    !(a >> 5 & 1))
		skip();
	assert_non_null(plx_kernels_select(PLX_K_ISA_AVX512BF16));
}

/* Infinities and NaNs among weights and activations: what is not NaN has equal bits. */
static void test_bf16_specials_agree(void **state)
{
	static const uint16_t special[] = {0x7f80, 0xff80, 0x7fc0, 0x7f81,
	                                   0x0000, 0x8000, 0x7f7f, 0x0001};
	uint64_t seed = 18;

	(void)state;
	for (uint32_t round = 0; round < 32; round++) {
		struct plx_k_mat w = {packed, PLX_Q_BF16, 16, 32};

		fill_adversarial_bf16(4, 16, 32, &seed);
		memcpy(stored + 2 * (plx_t_rand(&seed) % 512), &special[round % 8], 2);
		bf16[plx_t_rand(&seed) % 384] = special[round / 4];
		plx_k_pack(packed, PLX_Q_BF16, stored, 16, 32, 0, 16);
		compare_all(&w, 12);
	}
}

static void test_to_bf16_rounds_to_nearest_even(void **state)
{
	static const uint32_t in[16] = {0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001,
	                                0x3f80ffff, 0xbf818000, 0x7f7fffff, 0x7f800000,
	                                0x7f800001, 0xffffffff, 0x00000001, 0x00008001,
	                                0x80000000, 0x007fffff, 0x7f7f7fff, 0xff800000};
	static const uint16_t out[16] = {0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x3f81, 0xbf82,
	                                 0x7f80, 0x7f80, 0x7fc0, 0xffff, 0x0000, 0x0001,
	                                 0x8000, 0x0080, 0x7f7f, 0xff80};
	float f[16];
	uint16_t got[16];

	(void)state;
	memcpy(f, in, sizeof f);
	for (uint32_t k = 0; k < n_tables; k++) {
		tables[k]->to_bf16(got, f, 16);
		assert_memory_equal(got, out, sizeof out);
	}
}

/* ---- operands between pages that can't be touched -------------------------------------------- */

#define GUARD_BYTES (96u * 4096u)

static struct plx_t_guard guard[4];

static void multiply_guarded(const struct plx_kernels *k, const struct plx_k_mat *w, uint32_t n_tok,
                             bool at_end)
{
	size_t n = (size_t)n_tok * w->n_in;
	struct plx_k_mat view = *w;
	struct plx_k_mm m = {.w = &view, .y_stride = w->n_out, .row_end = w->n_out};

	view.data = plx_t_guard_put(&guard[0], at_end, packed,
	                            plx_k_pack_bytes(w->type, w->n_out, w->n_in));
	if (plx_k_wants(w->type) == PLX_K_ACT_Q8)
		m.q = plx_t_guard_put(&guard[1], at_end, q, n / 32 * sizeof *q);
	if (plx_k_wants(w->type) == PLX_K_ACT_BF16)
		m.bf16 = plx_t_guard_put(&guard[2], at_end, bf16, n * sizeof *bf16);
	if (plx_k_wants(w->type) == PLX_K_ACT_F32)
		m.x = plx_t_guard_put(&guard[2], at_end, x, n * sizeof *x);
	m.y = plx_t_guard_put(&guard[3], at_end, y, (size_t)n_tok * w->n_out * sizeof *y);
	m.tok_end = n_tok;
	k->matmul(&m);
	assert_memory_equal(m.y, golden, (size_t)n_tok * w->n_out * sizeof *y);
	for (uint32_t i = 0; i < 4; i++)
		assert_true(plx_t_guard_intact(&guard[i]));
}

static void test_matmul_touches_nothing_beyond_its_operands(void **state)
{
	static const uint32_t n_tok[] = {1, 3, 8, 16, 27};
	uint64_t seed = 19;

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		plx_t_guard_open(&guard[i], GUARD_BYTES);
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT * 10; i++) {
		enum plx_qtype type = plx_qtype_at(i / 10);
		struct plx_k_mat w =
		    make(type, i & 1 ? 21 : 16, width_of(type, 96), PLX_T_RANDOM, &seed);

		multiply_all(tables[0], &w, golden, n_tok[i % 5], PLX_K_STORE);
		for (uint32_t k = 0; k < n_tables; k++)
			for (int at_end = 0; at_end < 2; at_end++)
				multiply_guarded(tables[k], &w, n_tok[i % 5], at_end);
	}
	for (uint32_t i = 0; i < 4; i++)
		plx_t_guard_close(&guard[i]);
}

static void test_pack_bytes_refuses_what_cannot_be(void **state)
{
	(void)state;
	assert_int_equal(plx_k_pack_bytes(PLX_Q_Q4_1, 192, 576), 192 * 360);
	assert_int_equal(plx_k_pack_bytes(PLX_Q_Q6_K, 16, 256), 16 * 210 + 32);
	assert_int_equal(plx_k_pack_bytes(PLX_Q_F16, 1, 32), 16 * 64);
	assert_int_equal(plx_k_pack_bytes(PLX_Q_Q4_K, 16, 576), 0);
	assert_int_equal(plx_k_pack_bytes(PLX_Q_F32, 16, 33), 0);
	assert_int_equal(plx_k_pack_bytes(PLX_Q_F32, 0, 32), 0);
	assert_int_equal(plx_k_pack_bytes(77, 16, 32), 0);
	/* 2^28 tiles of 2^38 bytes do not fit 64 bits */
	assert_int_equal(plx_k_pack_bytes(PLX_Q_F32, UINT32_MAX, UINT32_MAX - 31), 0);
}

static int setup(void **state)
{
	(void)state;
	static struct plx_kernels model[2];

	n_tables = plx_t_tables(tables);
	model[0] = model[1] = *tables[0];
	model[0].matmul = plx_t_matmul_amx_plain;
	tables[n_tables++] = &model[0];
	model[1].matmul = plx_t_matmul_amx_avx512;
	if (plx_kernels_select(PLX_K_ISA_AVX512))
		tables[n_tables++] = &model[1];
	for (uint32_t k = 0; k < n_tables; k++)
		print_message("table %u: %s%s\n", k, tables[k]->isa_name,
		              tables[k] == &model[0] || tables[k] == &model[1] ? ", AMX's model"
		                                                               : "");
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_matmul_is_near_double),
	    cmocka_unit_test(test_matmul_paths_give_equal_bits),
	    cmocka_unit_test(test_matmul_batch_and_cut_change_nothing),
	    cmocka_unit_test(test_matmul_adds_to_a_residual),
	    cmocka_unit_test(test_matmul_writes_only_its_rows_and_tokens),
	    cmocka_unit_test(test_nan_stays_in_its_token),
	    cmocka_unit_test(test_extreme_blocks_give_equal_bits),
	    cmocka_unit_test(test_bf16_rounds_as_two_fmas),
	    cmocka_unit_test(test_bf16_instruction_is_used_where_it_exists),
	    cmocka_unit_test(test_bf16_specials_agree),
	    cmocka_unit_test(test_to_bf16_rounds_to_nearest_even),
	    cmocka_unit_test(test_matmul_touches_nothing_beyond_its_operands),
	    cmocka_unit_test(test_pack_bytes_refuses_what_cannot_be),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
