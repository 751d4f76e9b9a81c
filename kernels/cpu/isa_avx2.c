/*
 * The ops for AVX2, FMA and F16C, and the same with the matrix products of AVX-VNNI. Nothing here
 * but the tables; the Makefile gives the file its -march.
 */
#include "kernels/cpu/table_impl.h"

const struct plx_kernels plx_kernels_avx2 = PLX_KERNELS_TABLE(PLX_K_ISA_AVX2, "avx2", op_matmul);
const struct plx_kernels plx_kernels_avxvnni =
    PLX_KERNELS_TABLE(PLX_K_ISA_AVXVNNI, "avxvnni", plx_k_matmul_avxvnni);
