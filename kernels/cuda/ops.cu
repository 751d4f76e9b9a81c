/* Everything between matrix products and attention: embeddings, norms, rotation, block copies. */
#include "kernels/cuda/elem.cuh"
#include "kernels/cuda/rope.cuh"

static uint64_t up256(uint64_t v)
{
	return (v + 255) & ~(uint64_t)255;
}

uint64_t plx_kc_act_bytes(uint32_t n_tok, uint32_t n_in, uint64_t *sum_bytes)
{
	uint64_t n_kp = ((uint64_t)n_in + 63) / 64;

	*sum_bytes = up256(n_tok * n_kp * 2 * sizeof(float));
	return up256(n_tok * n_kp * 128 * sizeof(uint16_t));
}

/* ---- embeddings ----------------------------------------------------------------------------- */

template <int TYPE>
static __global__ void embed_kernel(struct plx_kc_mat w, const int32_t *id, float *x,
                                    const struct plx_kc_count *n)
{
	step_wait();
	if (blockIdx.x >= n->n_tok)
		return;
	for (uint32_t c = threadIdx.x; c < w.n_in; c += blockDim.x)
		x[(uint64_t)blockIdx.x * w.n_in + c] = elem<TYPE>(&w, (uint32_t)id[blockIdx.x], c);
}

void plx_kc_embed(const struct plx_kc_mat *w, const int32_t *id, float *x,
                  const struct plx_kc_count *n, uint32_t max_tok, struct CUstream_st *st)
{
	switch (w->type) {
#define X(T)                                                                                       \
	case T:                                                                                    \
		step_launch(embed_kernel<T>, max_tok, 256, st, *w, id, x, n);                      \
		break;
		N_LIST(X)
#undef X
	default:
		break;
	}
}

/* ---- norms and the two-bf16 form ------------------------------------------------------------- */

#define NORM_WARPS 16u

/* The sum of a block's threads' values, in a fixed order; for all of them. */
static __device__ float block_sum(float v, float *part)
{
	v = warp_sum(v);
	if (threadIdx.x % WARP == 0)
		part[threadIdx.x / WARP] = v;
	__syncthreads();
	v = 0.0f;
	for (uint32_t i = 0; i < NORM_WARPS; i++)
		v += part[i];
	return v;
}

static __global__ void __launch_bounds__(NORM_WARPS *WARP)
    norm_kernel(struct plx_kc_act act, const float *x, const float *w, float eps,
                const uint32_t *src, uint32_t row0, const struct plx_kc_count *n, uint32_t most)
{
	__shared__ float part[NORM_WARPS];
	uint32_t t = blockIdx.x, lane = threadIdx.x % WARP;

	step_wait();
	if (t >= count_of(n, src != NULL, row0, most))
		return;
	x += (uint64_t)(src != NULL ? src[row0 + t] : t) * act.n_in;
	float sum = 0.0f;

	for (uint32_t i = threadIdx.x; i < act.n_in; i += NORM_WARPS * WARP)
		sum = fmaf(x[i], x[i], sum);
	float r = 1.0f / sqrtf(block_sum(sum, part) / (float)act.n_in + eps);

	for (uint32_t b = threadIdx.x / WARP; b < act.n_in / 32; b += NORM_WARPS)
		split_store(&act, t, b, lane, x[b * 32 + lane] * r * w[b * 32 + lane]);
}

void plx_kc_norm(const struct plx_kc_act *act, const float *x, const float *w, float eps,
                 const uint32_t *src, uint32_t row0, const struct plx_kc_count *n, uint32_t max_tok,
                 struct CUstream_st *st)
{
	step_launch(norm_kernel, max_tok, NORM_WARPS * WARP, st, *act, x, w, eps, src, row0, n,
	            max_tok);
}

#define SPLIT_WARPS 4u

static __global__ void split_kernel(struct plx_kc_act act, const float *x, const float *up,
                                    const struct plx_kc_count *n)
{
	uint32_t b = blockIdx.x * SPLIT_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;

	step_wait();
	for (uint32_t t = blockIdx.y; t < n->n_tok && b < act.n_in / 32; t += gridDim.y) {
		uint64_t at = (uint64_t)t * act.n_in + b * 32 + lane;
		float v = x[at];

		if (up != NULL)
			v = v / (1.0f + expf(-v)) * up[at];
		split_store(&act, t, b, lane, v);
	}
}

void plx_kc_split(const struct plx_kc_act *act, const float *x, const float *up,
                  const struct plx_kc_count *n, uint32_t max_tok, struct CUstream_st *st)
{
	dim3 grid((act->n_in / 32 + SPLIT_WARPS - 1) / SPLIT_WARPS,
	          max_tok < 65535 ? max_tok : 65535);

	step_launch(split_kernel, grid, SPLIT_WARPS * WARP, st, *act, x, up, n);
}

/* ---- rotation, and K and V into the cache ---------------------------------------------------- */

#define ROPE_WARPS 8u

static __global__ void rope_kernel(struct plx_kc_rope p)
{
	step_wait();
	if (blockIdx.x >= p.toks.n->n_tok)
		return;
	for (uint32_t h = threadIdx.x / WARP; h < p.kv.n_head + 2 * p.kv.n_head_kv; h += ROPE_WARPS)
		head_finish(&p, blockIdx.x, h);
}

void plx_kc_rope(const struct plx_kc_rope *r, struct CUstream_st *st)
{
	step_launch(rope_kernel, r->toks.max_tok, ROPE_WARPS * WARP, st, *r);
}

/* ---- block copies ---------------------------------------------------------------------------- */

static __global__ void copy_kernel(uint8_t *pool, uint8_t *host, uint64_t block_bytes,
                                   uint32_t n_dev, const struct plx_kc_pair *pairs, uint32_t n)
{
	for (uint32_t i = blockIdx.y; i < n; i += gridDim.y) {
		struct plx_kc_pair p = pairs[i];
		const uint4 *from =
		    (const uint4 *)(p.src < n_dev ? pool + p.src * block_bytes
		                                  : host + (p.src - n_dev) * block_bytes);
		uint4 *to = (uint4 *)(p.dst < n_dev ? pool + p.dst * block_bytes
		                                    : host + (p.dst - n_dev) * block_bytes);

		for (uint64_t k = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
		     k < block_bytes / 16; k += (uint64_t)gridDim.x * blockDim.x)
			to[k] = from[k];
	}
}

void plx_kc_copy_blocks(uint8_t *pool, uint8_t *host, uint64_t block_bytes, uint32_t n_dev,
                        const struct plx_kc_pair *pairs, uint32_t n, struct CUstream_st *st)
{
	uint64_t x = (block_bytes / 16 + 1023) / 1024;

	copy_kernel<<<dim3((uint32_t)(x < 64 ? x : 64), n < 1024 ? n : 1024), 256, 0, st>>>(
	    pool, host, block_bytes, n_dev, pairs, n);
}
