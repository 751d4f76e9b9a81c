/*
 * The tables that select.c chooses from.
 */
#ifndef PLX_KERNELS_CPU_ISA_H
#define PLX_KERNELS_CPU_ISA_H

#include "kernels/kernels.h"

/* Changes whenever any op's bits do. All instruction sets give the same bits, so there is one. */
#define PLX_K_NUMERIC_KIND "cpu-a8x32-kv16-2"

extern const struct plx_kernels plx_kernels_scalar;
extern const struct plx_kernels plx_kernels_avx2;
extern const struct plx_kernels plx_kernels_avxvnni;
extern const struct plx_kernels plx_kernels_avx512;
extern const struct plx_kernels plx_kernels_avx512bf16;
extern const struct plx_kernels plx_kernels_amx;

/* Matrix products of tables that share every other op with a lesser one's. */
void plx_k_matmul_avxvnni(const struct plx_k_mm *m);
void plx_k_matmul_avx512bf16(const struct plx_k_mm *m);
void plx_k_matmul_amx(const struct plx_k_mm *m);

/*
 * plx_k_bf16_agrees - whether this machine's vdpbf16ps rounds as the golden does (mm_bf16.h).
 *
 * Cost: a few instructions.  Thread: any; its floating-point settings stay.
 */
bool plx_k_bf16_agrees(void);

#endif
