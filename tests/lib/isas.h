/*
 * The kernel tables this machine can run: scalar first, so that tests compare the others with it.
 */
#ifndef PLX_TESTS_LIB_ISAS_H
#define PLX_TESTS_LIB_ISAS_H

#include "kernels/kernels.h"

#define PLX_T_ISAS 6

/* plx_t_tables - every table that runs here, and the thread set up for them; returns their number.
 */
static inline uint32_t plx_t_tables(const struct plx_kernels *k[PLX_T_ISAS])
{
	static const enum plx_k_isa isa[] = {PLX_K_ISA_SCALAR,     PLX_K_ISA_AVX2,
	                                     PLX_K_ISA_AVXVNNI,    PLX_K_ISA_AVX512,
	                                     PLX_K_ISA_AVX512BF16, PLX_K_ISA_AMX};
	uint32_t n = 0;

	plx_k_fpu_setup();
	for (uint32_t i = 0; i < PLX_T_ISAS; i++) {
		k[n] = plx_kernels_select(isa[i]);
		n += k[n] != NULL;
	}
	return n;
}

#endif
