/*
 * The ops for AVX-512 with VNNI. Nothing here but the table; the Makefile gives the file its
 * -march.
 */
#include "kernels/cpu/table_impl.h"

const struct plx_kernels plx_kernels_avx512 = PLX_KERNELS_TABLE(PLX_K_ISA_AVX512, "avx512vnni");
