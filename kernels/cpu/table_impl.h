/*
 * One instruction set's table: included by isa_*.c, each compiled with its own -march.
 */
#ifndef PLX_KERNELS_CPU_TABLE_IMPL_H
#define PLX_KERNELS_CPU_TABLE_IMPL_H

#include "kernels/cpu/attn_impl.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/mm_impl.h"
#include "kernels/cpu/ops_impl.h"
#include "kernels/cpu/page_impl.h"
#include "kernels/cpu/rotate_impl.h"

#define PLX_KERNELS_TABLE(isa_id, name, product)                                                   \
	{                                                                                          \
		.isa = (isa_id), .isa_name = (name), .numeric_kind = PLX_K_NUMERIC_KIND,           \
		.quantise = op_quantise, .to_bf16 = op_to_bf16, .matmul = (product),               \
		.rmsnorm = op_rmsnorm, .rope = op_rope, .silu_mul = op_silu_mul, .add = op_add,    \
		.kv_store = op_kv_store, .k_load = op_k_load, .k_store = op_k_store,               \
		.k_rotate = op_k_rotate, .attn_part = op_attn_part, .attn_merge = op_attn_merge,   \
		.attn_finish = op_attn_finish, .page_sum = op_page_sum, .page_rate = op_page_rate, \
		.exp = op_exp, .argmax = op_argmax, .block_max = op_block_max,                     \
		.logit_sum = op_logit_sum, .weight_sum = op_weight_sum,                            \
	}

#endif
