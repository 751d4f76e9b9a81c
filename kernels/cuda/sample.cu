/*
 * Choosing tokens on the GPU: kernels/sample.h's definition, one block a row of logits.
 *
 * Weights are integers, so sums are exact in any order and the ids are those of the CPU for equal
 * logits. What top-k and top-p keep is a prefix of the order "larger logit first, lower id first",
 * named by a cut: the key of its last logit, and the highest id kept among equals of that. It is
 * found by four passes over bytes of the keys, counts or weights in bins, and one over the equals.
 */
#define CHOOSE_THREADS 1024u
#define choose_sync()  __syncthreads()
#include "kernels/cuda/choose.cuh"

static __global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    sample_kernel(float *logits, uint32_t stride, uint32_t n_vocab,
                  const struct plx_kc_sampling *how, struct plx_kc_choice *out,
                  const struct plx_kc_count *n, uint32_t row0, uint32_t most)
{
	__shared__ struct choose_room m;
	__shared__ struct plx_kc_sampling s;

	step_wait();
	if (blockIdx.x >= count_of(n, 1, row0, most))
		return;
	for (uint32_t i = threadIdx.x; i < sizeof(s) / 4; i += CHOOSE_THREADS)
		((uint32_t *)&s)[i] = ((const uint32_t *)&how[row0 + blockIdx.x])[i];
	__syncthreads();
	struct plx_kc_choice c =
	    row_choose(logits + (uint64_t)blockIdx.x * stride, n_vocab, &s, &m);

	if (threadIdx.x == 0)
		out[row0 + blockIdx.x] = c;
}

void plx_kc_sample(float *logits, uint32_t stride, uint32_t n_vocab,
                   const struct plx_kc_sampling *how, struct plx_kc_choice *out,
                   const struct plx_kc_count *n, uint32_t row0, uint32_t max_row,
                   struct CUstream_st *st)
{
	step_launch(sample_kernel, max_row, CHOOSE_THREADS, st, logits, stride, n_vocab, how, out,
	            n, row0, max_row);
}
