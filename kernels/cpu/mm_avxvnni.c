/*
 * The matrix product for AVX2 with AVX-VNNI: dpbusd in place of maddubs, madd and add.
 */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/mm_impl.h"

void plx_k_matmul_avxvnni(const struct plx_k_mm *m)
{
	op_matmul(m);
}
