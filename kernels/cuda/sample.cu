/*
 * Choosing tokens on the GPU: kernels/sample.h's definition. A greedy row is read by 32 blocks,
 * what else there is by one.
 *
 * Weights are integers, so sums are exact in any order and the ids are those of the CPU for equal
 * logits. What top-k and top-p keep is a prefix of the order "larger logit first, lower id first",
 * named by a cut: the key of its last logit, and the highest id kept among equals of that. It is
 * found by four passes over bytes of the keys, counts or weights in bins, and one over the equals.
 */
#define CHOOSE_THREADS 1024u
#define choose_sync()  __syncthreads()
#include "kernels/cuda/choose.cuh"

/* A block's stretch of a row: its largest logit. */
static __global__ void __launch_bounds__(CHOOSE_THREADS)
    scan_kernel(const float *logits, uint32_t stride, uint32_t n_vocab, struct plx_kc_scan *scan,
                const struct plx_kc_count *n, uint32_t row0, uint32_t most)
{
	__shared__ struct choose_room m;
	uint32_t each = (n_vocab + PLX_KC_SCAN - 1) / PLX_KC_SCAN;
	uint32_t from = min(blockIdx.x * each, n_vocab), id;

	step_wait();
	if (blockIdx.y >= count_of(n, 1, row0, most))
		return;
	struct row r = {logits + (uint64_t)blockIdx.y * stride + from, min(each, n_vocab - from),
	                0.0f};
	uint32_t fine = nan_free(&r, &id, &m);

	if (threadIdx.x != 0)
		return;
	scan += blockIdx.y;
	scan->max[blockIdx.x] = r.max;
	scan->id[blockIdx.x] = id == UINT32_MAX ? id : from + id;
	scan->fine[blockIdx.x] = fine;
}

/* A warp: the row's largest logit and its first id; false where there is none. */
static __device__ bool scan_first(const struct plx_kc_scan *scan, float *x, uint32_t *id)
{
	uint32_t lane = threadIdx.x % WARP;
	bool fine = __all_sync(0xffffffffu, (int)__ldcg(&scan->fine[lane]));

	*x = __ldcg(&scan->max[lane]);
	*id = __ldcg(&scan->id[lane]);
	for (int d = 16; d > 0; d >>= 1) {
		float y = __shfl_xor_sync(0xffffffffu, *x, d);
		uint32_t other = __shfl_xor_sync(0xffffffffu, *id, d);

		if (is_before(y, other, *x, *id)) {
			*x = y;
			*id = other;
		}
	}
	return fine && *x > -CUDART_INF_F && *x < CUDART_INF_F;
}

/* A block's stretch of a greedy row: its part of the sum; the last block has the choice. */
static __device__ void greedy_choose(const float *x, uint32_t n_vocab, struct plx_kc_scan *scan,
                                     struct plx_kc_choice *out, struct choose_room *m)
{
	uint32_t each = (n_vocab + PLX_KC_SCAN - 1) / PLX_KC_SCAN, id;
	uint32_t from = min(blockIdx.x * each, n_vocab), to = min(from + each, n_vocab);
	unsigned long long sum = 0;
	float max;
	bool fine = scan_first(scan, &max, &id);

	for (uint32_t i = from + threadIdx.x; i < to; i += CHOOSE_THREADS)
		sum += weight_of(x[i], max, 1.0f);
	sum = block_add(sum, m);
	if (threadIdx.x != 0)
		return;
	atomicAdd(&scan->sum, sum);
	__threadfence();
	if (atomicAdd(&scan->arrived, 1) + 1 < PLX_KC_SCAN)
		return;
	__threadfence();
	sum = atomicExch(&scan->sum, 0);
	scan->arrived = 0;
	*out = {-1, -1, 0.0f};
	if (fine)
		*out = {0, (int32_t)id,
		        logprob_of(max, max, log_of(__dmul_rn((double)sum, 0x1p-40)))};
}

static __global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    sample_kernel(float *logits, uint32_t stride, uint32_t n_vocab,
                  const struct plx_kc_sampling *how, struct plx_kc_choice *out,
                  struct plx_kc_scan *scan, const struct plx_kc_count *n, uint32_t row0,
                  uint32_t most)
{
	__shared__ struct choose_room m;
	__shared__ struct plx_kc_sampling s;
	uint32_t at = row0 + blockIdx.y;

	step_wait();
	if (blockIdx.y >= count_of(n, 1, row0, most))
		return;
	logits += (uint64_t)blockIdx.y * stride;
	if (!(how[at].temperature > 0.0f) && how[at].n_recent == 0 && how[at].n_top == 0) {
		greedy_choose(logits, n_vocab, scan + blockIdx.y, &out[at], &m);
		return;
	}
	if (blockIdx.x != 0)
		return;
	for (uint32_t i = threadIdx.x; i < sizeof(s) / 4; i += CHOOSE_THREADS)
		((uint32_t *)&s)[i] = ((const uint32_t *)&how[at])[i];
	__syncthreads();
	struct plx_kc_choice c = row_choose(logits, n_vocab, &s, &m);

	if (threadIdx.x == 0)
		out[at] = c;
}

uint32_t plx_kc_sample(float *logits, uint32_t stride, uint32_t n_vocab,
                       const struct plx_kc_sampling *how, struct plx_kc_choice *out,
                       struct plx_kc_scan *scan, const struct plx_kc_count *n, uint32_t row0,
                       uint32_t max_row, struct CUstream_st *st)
{
	dim3 grid(PLX_KC_SCAN, max_row);

	step_launch(scan_kernel, grid, CHOOSE_THREADS, st, logits, stride, n_vocab, scan, n, row0,
	            max_row);
	step_launch(sample_kernel, grid, CHOOSE_THREADS, st, logits, stride, n_vocab, how, out,
	            scan, n, row0, max_row);
	return 2;
}
