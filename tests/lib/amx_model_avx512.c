/* Tiles in plain C, lanes as the real one has them. */
#include "tests/lib/amx_model.h"

#define PLX_AMX_MODEL
#include "kernels/cpu/mm_amx.h"

void plx_t_matmul_amx_avx512(const struct plx_k_mm *m)
{
	op_matmul_amx(m);
}
