/* Single elements of a repacked matrix: embeddings. */
#ifndef PLX_KERNELS_CUDA_ELEM_CUH
#define PLX_KERNELS_CUDA_ELEM_CUH

#include "kernels/cuda/mat.cuh"

/* One element of a repacked matrix, as plx_q_dequant gives it. */
template <int TYPE>
static __device__ float elem(const struct plx_kc_mat *m, uint32_t row, uint32_t col)
{
	uint32_t g = row % 8, r = row / 8 % 2, kb = col / 32 % 2, h = col / 16 % 2;
	uint32_t lane = g * 4 + col / 4 % 4, e = h * 4 + col % 4;
	struct raw<TYPE> w;

	raw_load<TYPE>(&w, m, row / 16, col / 64, lane);
	uint32_t rest = 0, pair = pair_at<TYPE>(&w, (int)r, (int)kb, (int)(e / 2), &rest);
	float q = e % 2 ? bf16_high(pair) : bf16_low(pair);

	if (TYPE == PLX_Q_F16 || TYPE == PLX_Q_F32)
		return q + (e % 2 ? bf16_high(rest) : bf16_low(rest));
	if (scale_of(TYPE) == SCALE_NONE)
		return q;
	float2 s = scale_at<TYPE>(&w, (int)r, (int)kb, (int)h);

	return fmaf(s.x, q, s.y);
}

#endif
