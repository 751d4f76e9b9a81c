/*
 * Matrix products of every format: scalar against double precision, vector paths against scalar
 * bit by bit, whatever the batch and however rows and tokens are cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/lib/isas.h"
#include "tests/lib/qdata.h"

#define MAX_TOK 17
#define MAX_OUT 56
#define MAX_IN  576

static uint8_t stored[MAX_OUT * MAX_IN * 4];
static _Alignas(64) uint8_t packed[80 * MAX_IN * 4];
static float x[MAX_TOK * MAX_IN];
static struct plx_k_qblk q[MAX_TOK * MAX_IN / 32];
static uint16_t bf16[MAX_TOK * MAX_IN];
static float golden[MAX_TOK * MAX_OUT];
static float y[MAX_TOK * MAX_OUT];

static const struct plx_kernels *tables[PLX_T_ISAS];
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
			for (uint32_t n = 1; n <= MAX_TOK; n++) {
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
	multiply_all(tables[0], &w, golden, 3, PLX_K_STORE);
	for (uint32_t k = 0; k < n_tables; k++) {
		for (uint32_t i = 0; i < 3 * 40; i++)
			y[i] = (float)i * 0.25f;
		multiply_all(tables[k], &w, y, 3, PLX_K_ADD);
		for (uint32_t i = 0; i < 3 * 40; i++)
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
		multiply(tables[k], &w, y, (uint32_t[2]){32, 40}, (uint32_t[2]){2, 5}, PLX_K_STORE);
		for (uint32_t i = 0; i < MAX_TOK * 40; i++) {
			bool inside = i % 40 >= 32 && i / 40 >= 2 && i / 40 < 5;

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

		multiply_all(tables[0], &w, golden, 4, PLX_K_STORE);
		for (uint32_t k = 0; k < n_tables; k++) {
			x[2 * w.n_in + 5] = k & 1 ? NAN : -INFINITY;
			tables[k]->quantise(q, x, MAX_TOK, w.n_in, w.n_in);
			tables[k]->to_bf16(bf16, x, MAX_TOK * w.n_in);
			multiply_all(tables[k], &w, y, 4, PLX_K_STORE);
			assert_memory_equal(y, golden, 2 * 16 * sizeof *y);
			assert_memory_equal(y + 48, golden + 48, 16 * sizeof *y);
			for (uint32_t r = 0; r < 16; r++)
				assert_true(!isfinite(y[32 + r]));
		}
	}
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
	n_tables = plx_t_tables(tables);
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
	    cmocka_unit_test(test_pack_bytes_refuses_what_cannot_be),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
