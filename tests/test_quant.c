/*
 * Block formats: sizes, exact values against the gguf package (tests/gen/quant_goldens.py), and
 * the half-precision conversions against the compiler's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "kernels/quant.h"

static void test_qtype_sizes_are_ggufs(void **state)
{
	(void)state;
	assert_int_equal(plx_qtype_block_bytes(PLX_Q_Q4_1), 20);
	assert_int_equal(plx_qtype_block_elems(PLX_Q_Q4_1), 32);
	assert_int_equal(plx_qtype_block_bytes(PLX_Q_Q6_K), 210);
	assert_int_equal(plx_qtype_block_elems(PLX_Q_Q6_K), 256);
	assert_int_equal(plx_qtype_block_bytes(PLX_Q_BF16), 2);
	assert_int_equal(plx_qtype_block_bytes(9), 0); /* Q8_1 */
	assert_string_equal(plx_qtype_name(13), "Q5_K");
	assert_string_equal(plx_qtype_name(4), "unknown");
	assert_true(plx_qtype_known(30));
	assert_false(plx_qtype_known(31));
}

static void test_row_bytes_refuses_what_does_not_fit(void **state)
{
	uint64_t bytes = 1;

	(void)state;
	assert_int_equal(plx_q_row_bytes(PLX_Q_Q4_1, 576, &bytes), PLX_E_OK);
	assert_int_equal(bytes, 360);
	assert_int_equal(plx_q_row_bytes(PLX_Q_Q4_K, 576, &bytes), PLX_E_FORMAT);
	assert_int_equal(plx_q_row_bytes(99, 32, &bytes), PLX_E_UNSUPPORTED);
	assert_int_equal(plx_q_row_bytes(PLX_Q_F32, UINT64_MAX / 2, &bytes), PLX_E_LIMIT);
	assert_int_equal(
	    plx_q_matrix_bytes(PLX_Q_F16, UINT64_C(1) << 40, UINT64_C(1) << 23, &bytes),
	    PLX_E_LIMIT);
	assert_int_equal(bytes, 360);
	assert_int_equal(plx_q_matrix_bytes(PLX_Q_Q8_0, 64, 3, &bytes), PLX_E_OK);
	assert_int_equal(bytes, 204);
}

static void test_dequant_equals_the_gguf_package(void **state)
{
	FILE *f = fopen("tests/golden/quant/blocks.bin", "rb");
	uint32_t head[3];
	int formats = 0;

	(void)state;
	assert_non_null(f);
	while (fread(head, sizeof head, 1, f) == 1) {
		uint64_t bytes = 0;
		uint8_t *raw = malloc(head[2]);
		float *want = malloc(head[1] * sizeof *want);
		float *got = malloc(head[1] * sizeof *got);

		assert_int_equal(plx_q_row_bytes(head[0], head[1], &bytes), PLX_E_OK);
		assert_int_equal(bytes, head[2]);
		assert_int_equal(fread(raw, 1, head[2], f), head[2]);
		assert_int_equal(fread(want, sizeof *want, head[1], f), head[1]);
		plx_q_dequant((enum plx_qtype)head[0], raw, got, head[1]);
		assert_memory_equal(got, want, head[1] * sizeof *got);
		free(raw);
		free(want);
		free(got);
		formats++;
	}
	fclose(f);
	assert_int_equal(formats, PLX_QTYPE_COUNT);
}

static void test_f16_equals_the_compilers(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 65536; h++) {
		uint16_t bits = (uint16_t)h;
		__extension__ _Float16 half;
		float mine = plx_f16_to_f32(bits);

		memcpy(&half, &bits, sizeof half);
		if ((h & 0x7c00u) == 0x7c00u && (h & 0x3ffu)) {
			assert_true(mine != mine);
			continue;
		}
		assert_int_equal(plx_f32_bits(mine), plx_f32_bits((float)half));
		assert_int_equal(plx_f32_to_f16(mine), bits);
	}
}

static void test_f32_to_f16_rounds_to_even(void **state)
{
	(void)state;
	/* Every exponent, with mantissas around each rounding boundary. */
	for (uint32_t hi = 0; hi < 65536; hi++) {
		static const uint32_t lows[] = {0,      1,      0xfff,  0x1000,
		                                0x1001, 0x7fff, 0x8000, 0xffff};

		for (uint32_t i = 0; i < 8; i++) {
			float f = plx_f32_from_bits(hi << 16 | lows[i]);
			__extension__ _Float16 half = (_Float16)f;
			uint16_t want;

			memcpy(&want, &half, sizeof want);
			if (f != f)
				assert_true((plx_f32_to_f16(f) & 0x7fffu) > 0x7c00u);
			else
				assert_int_equal(plx_f32_to_f16(f), want);
		}
	}
	assert_int_equal(plx_f32_to_f16(65519.0f), 0x7bff);
	assert_int_equal(plx_f32_to_f16(65520.0f), 0x7c00);
	assert_int_equal(plx_f32_to_f16(0x1p-24f), 1);
	assert_int_equal(plx_f32_to_f16(0x1p-25f), 0);
	assert_int_equal(plx_f32_to_f16(0x1.8p-24f), 2);
}

static void test_bf16_rounds_to_even(void **state)
{
	(void)state;
	assert_int_equal(plx_f32_to_bf16(1.0f), 0x3f80);
	assert_int_equal(plx_f32_to_bf16(plx_f32_from_bits(0x3f808000u)), 0x3f80);
	assert_int_equal(plx_f32_to_bf16(plx_f32_from_bits(0x3f818000u)), 0x3f82);
	assert_int_equal(plx_f32_to_bf16(plx_f32_from_bits(0x7f7fffffu)), 0x7f80);
	assert_true((plx_f32_to_bf16(plx_f32_from_bits(0x7f800001u)) & 0x7fffu) > 0x7f80u);
	assert_int_equal(plx_f32_bits(plx_bf16_to_f32(0x0001)), 0x00010000); /* a subnormal */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_qtype_sizes_are_ggufs),
	    cmocka_unit_test(test_row_bytes_refuses_what_does_not_fit),
	    cmocka_unit_test(test_dequant_equals_the_gguf_package),
	    cmocka_unit_test(test_f16_equals_the_compilers),
	    cmocka_unit_test(test_f32_to_f16_rounds_to_even),
	    cmocka_unit_test(test_bf16_rounds_to_even),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
