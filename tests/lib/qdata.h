/*
 * Weights and activations for kernel tests: valid blocks of every format, random or extreme.
 */
#ifndef PLX_TESTS_LIB_QDATA_H
#define PLX_TESTS_LIB_QDATA_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

/* What the scales and quants of generated blocks look like. */
enum plx_t_fill {
	PLX_T_RANDOM,    /* ordinary scales, any quants */
	PLX_T_SATURATED, /* largest finite scales that keep products finite, extreme quants */
	PLX_T_ZERO,      /* scales of zero, of both signs */
	PLX_T_SUBNORMAL, /* f16 subnormal scales */
};
#define PLX_T_FILLS 4

/* plx_t_rand - next 64 bits of a xorshift generator; *state is not 0. */
uint64_t plx_t_rand(uint64_t *state);

/* plx_t_uniform - a float in [-1, 1). */
float plx_t_uniform(uint64_t *state);

/* plx_t_fill_blocks - n_elems elements of a format; dst has plx_q_row_bytes of them. */
void plx_t_fill_blocks(enum plx_qtype type, void *dst, size_t n_elems, enum plx_t_fill fill,
                       uint64_t *state);

#endif
