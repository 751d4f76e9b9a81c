/* Tiles and lanes in plain C. */
#include "tests/lib/amx_model.h"

#define PLX_AMX_MODEL
#include "kernels/cpu/mm_amx.h"

void plx_t_matmul_amx_plain(const struct plx_k_mm *m)
{
	op_matmul_amx(m);
}
