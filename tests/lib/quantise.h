/*
 * f32 to the block formats of kernels/quant.h: the plain way, for models that benchmarks and tests
 * make for themselves.
 *
 * Each scale is set by the block's extremes, without the search for least error that a converter
 * of models does. So the files are right in format, size and range, and as fast as any; their
 * text is somewhat worse than a converter's.
 */
#ifndef PLX_TESTS_LIB_QUANTISE_H
#define PLX_TESTS_LIB_QUANTISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

/* plx_t_can_quantise - F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K and Q6_K; not Q5_1, Q5_K. */
bool plx_t_can_quantise(enum plx_qtype type);

/*
 * plx_t_quantise - n_elems values, a whole number of blocks, in the format's own bytes.
 *
 * An element's error is at most one step of its block (half of one where the format has no second
 * level of scales), and what the f16 scales lose.
 *
 * @dst  out, n_elems / block_elems * block_bytes bytes; any alignment.
 * @src  in [n_elems] f32, finite, in f16's range.
 */
void plx_t_quantise(enum plx_qtype type, void *dst, const float *src, size_t n_elems);

#endif
