/*
 * The ops for AVX2, FMA and F16C. Nothing here but the table; the Makefile gives the file its
 * -march.
 */
#include "kernels/cpu/table_impl.h"

const struct plx_kernels plx_kernels_avx2 = PLX_KERNELS_TABLE(PLX_K_ISA_AVX2, "avx2");
