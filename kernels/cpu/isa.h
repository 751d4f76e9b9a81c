/*
 * The tables that select.c chooses from.
 */
#ifndef PLX_KERNELS_CPU_ISA_H
#define PLX_KERNELS_CPU_ISA_H

#include "kernels/kernels.h"

/* Changes whenever any op's bits do. All instruction sets give the same bits, so there is one. */
#define PLX_K_NUMERIC_KIND "cpu-a8x32-kv16-1"

extern const struct plx_kernels plx_kernels_scalar;
extern const struct plx_kernels plx_kernels_avx2;
extern const struct plx_kernels plx_kernels_avx512;

#endif
