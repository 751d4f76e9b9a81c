/*
 * The ops in plain C: the definition, and the fallback. Nothing here but the table; the Makefile
 * gives the file its -march.
 */
#include "kernels/cpu/table_impl.h"

const struct plx_kernels plx_kernels_scalar =
    PLX_KERNELS_TABLE(PLX_K_ISA_SCALAR, "scalar", op_matmul);
