/* What the kernels share: conversions, reductions in a fixed order, the two-bf16 form. */
#ifndef PLX_KERNELS_CUDA_COMMON_CUH
#define PLX_KERNELS_CUDA_COMMON_CUH

#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <math_constants.h>
#include <stdint.h>

#include "kernels/cuda/ops.h"

#define WARP 32u

/* Sum over a warp: the same tree for everybody. */
static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
	for (int d = 16; d > 0; d >>= 1)
		v += __shfl_xor_sync(0xffffffffu, v, d);
	return v;
}

static __device__ __forceinline__ float warp_max(float v)
{
#pragma unroll
	for (int d = 16; d > 0; d >>= 1)
		v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
	return v;
}

/* Saturated, so that no finite value becomes infinite. */
static __device__ __forceinline__ __half to_f16(float v)
{
	v = v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v; /* NaN passes */
	return __float2half_rn(v);
}

/* Value of column k (0..31, this lane) of 32-block b as two bf16, and the block's sum. */
static __device__ __forceinline__ void split_store(const struct plx_kc_act *a, uint32_t tok,
                                                   uint32_t b, uint32_t k, float v)
{
	uint16_t *to = a->x2 + (uint64_t)tok * a->n_kp * 128 + b * 64 + ((k >> 2) & 3) * 16 +
	               (k >> 4) * 4 + (k & 3);
	__nv_bfloat16 hi = __float2bfloat16_rn(v);
	__nv_bfloat16 lo = __float2bfloat16_rn(v - __bfloat162float(hi));
	float sum = warp_sum(__bfloat162float(hi) + __bfloat162float(lo));

	to[0] = __bfloat16_as_ushort(hi);
	to[8] = __bfloat16_as_ushort(lo);
	if (k == 0)
		a->sum[(uint64_t)tok * a->n_kp * 2 + b] = sum;
}

/*
 * Kernels of a step follow one another closely: each lets the next one be placed at once, and waits
 * for the one before to be complete, and what it wrote to be visible, before it touches anything
 * that a step changes. All threads call it, those that have nothing to do too: the kernel after
 * the next relies on it.
 */
static __device__ __forceinline__ void step_wait(void)
{
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
	asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* Launches a kernel that calls step_wait; errors are cudaGetLastError's. */
template <class... P, class... A>
static void step_launch_with(uint32_t shared_bytes, void (*kernel)(P...), dim3 grid,
                             uint32_t threads, struct CUstream_st *st, A... args)
{
	cudaLaunchAttribute at = {};
	cudaLaunchConfig_t c = {};

	at.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	at.val.programmaticStreamSerializationAllowed = 1;
	c.gridDim = grid;
	c.blockDim = dim3(threads);
	c.dynamicSmemBytes = shared_bytes;
	c.stream = st;
	c.attrs = &at;
	c.numAttrs = 1;
	(void)cudaLaunchKernelEx(&c, kernel, static_cast<P>(args)...);
}

template <class... P, class... A>
static void step_launch(void (*kernel)(P...), dim3 grid, uint32_t threads, struct CUstream_st *st,
                        A... args)
{
	step_launch_with(0, kernel, grid, threads, st, args...);
}

/* Tokens that a launch works on: all of a step's, or some of its rows. */
static __device__ __forceinline__ uint32_t count_of(const struct plx_kc_count *n, uint32_t of_rows,
                                                    uint32_t row0, uint32_t most)
{
	uint32_t c = of_rows ? n->n_row : n->n_tok;

	c = c > row0 ? c - row0 : 0;
	return c < most ? c : most;
}

#endif
