/*
 * The matrix product of AMX with its tile instructions in plain C: the same source as the real one,
 * so that every machine tests it.
 */
#ifndef PLX_TESTS_LIB_AMX_MODEL_H
#define PLX_TESTS_LIB_AMX_MODEL_H

#include "kernels/kernels.h"

/* plx_t_matmul_amx_plain, _avx512 - all else in plain C, or for AVX-512 with VNNI. */
void plx_t_matmul_amx_plain(const struct plx_k_mm *m);
void plx_t_matmul_amx_avx512(const struct plx_k_mm *m);

#endif
