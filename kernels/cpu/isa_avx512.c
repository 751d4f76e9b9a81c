/*
 * The ops for AVX-512 with VNNI, and the same with the matrix products of AVX-512 BF16, and of
 * AMX beside it. Nothing here but the tables; the Makefile gives the file its -march.
 */
#include "kernels/cpu/table_impl.h"

const struct plx_kernels plx_kernels_avx512 =
    PLX_KERNELS_TABLE(PLX_K_ISA_AVX512, "avx512vnni", op_matmul);
const struct plx_kernels plx_kernels_avx512bf16 =
    PLX_KERNELS_TABLE(PLX_K_ISA_AVX512BF16, "avx512bf16", plx_k_matmul_avx512bf16);
const struct plx_kernels plx_kernels_amx =
    PLX_KERNELS_TABLE(PLX_K_ISA_AMX, "amx", plx_k_matmul_amx);
