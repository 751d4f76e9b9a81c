/* A head of q, k or v on its way from a product to attention: norm, rotation, the cache. */
#ifndef PLX_KERNELS_CUDA_ROPE_CUH
#define PLX_KERNELS_CUDA_ROPE_CUH

#include "kernels/cuda/common.cuh"

/* 1 / RMS of a head, or 1 where it has no norm. */
static __device__ float head_scale(const float *x, const float *norm, uint32_t dim, float eps)
{
	float sum = 0.0f;

	if (norm == NULL)
		return 1.0f;
	for (uint32_t i = threadIdx.x % WARP; i < dim; i += WARP) {
		float v = __ldcg(x + i);

		sum = fmaf(v, v, sum);
	}
	return 1.0f / sqrtf(warp_sum(sum) / (float)dim + eps);
}

static __device__ __forceinline__ float normed(const float *x, const float *norm, float r,
                                               uint32_t i)
{
	float v = __ldcg(x + i);

	return norm == NULL ? v : v * r * norm[i];
}

/* A head's q or k: norm and rotation. Values go to y (f32) or c (f16), whichever is given. */
static __device__ void head_rotate(const struct plx_kc_rope *p, const float *x, const float *norm,
                                   const float *tab, float *y, __half *c)
{
	uint32_t dim = p->kv.head_dim, half = p->n_rot / 2, lane = threadIdx.x % WARP;
	float r = head_scale(x, norm, dim, p->eps);

	for (uint32_t i = lane; i < half + (dim - p->n_rot); i += WARP) {
		if (i >= half) {
			uint32_t at = p->n_rot + i - half;
			float v = normed(x, norm, r, at);

			if (y != NULL)
				y[at] = v;
			else
				c[at] = to_f16(v);
			continue;
		}
		uint32_t i0 = p->halves ? i : 2 * i, i1 = p->halves ? i + half : 2 * i + 1;
		float a = normed(x, norm, r, i0), b = normed(x, norm, r, i1);
		float cs = tab[2 * i], sn = tab[2 * i + 1];
		float u = fmaf(a, cs, -(b * sn)), v = fmaf(b, cs, a * sn);

		if (y != NULL) {
			y[i0] = u;
			y[i1] = v;
		} else {
			c[i0] = to_f16(u);
			c[i1] = to_f16(v);
		}
	}
}

/* Where position pos of a slot keeps K (v = 0) or V (v = 1) of a head. */
static __device__ __half *cache_at(const struct plx_kc_kv *kv, uint32_t slot, uint32_t pos,
                                   uint32_t layer, uint32_t v, uint32_t head)
{
	uint32_t block = kv->table[(uint64_t)slot * kv->max_seq_blocks + pos / kv->block_tokens];
	uint64_t row = ((uint64_t)(layer * 2 + v) * kv->n_head_kv + head) * kv->block_tokens +
	               pos % kv->block_tokens;

	return (__half *)(kv->pool + block * kv->block_bytes) + row * kv->head_dim;
}

/* A warp: head h (queries, then K, then V) of token t. What other blocks wrote is read past L1. */
static __device__ void head_finish(const struct plx_kc_rope *p, uint32_t t, uint32_t h)
{
	uint32_t dim = p->kv.head_dim, n_q = p->kv.n_head, n_kv = p->kv.n_head_kv;
	uint32_t pos = p->toks.pos[t], slot = p->toks.slot[t];
	const float *tab = p->tab + (uint64_t)pos * p->n_rot;
	float *x = p->qkv + ((uint64_t)t * (n_q + 2 * n_kv) + h) * dim;

	if (h < n_q) {
		head_rotate(p, x, p->q_norm, tab, x, NULL);
	} else if (h < n_q + n_kv) {
		head_rotate(p, x, p->k_norm, tab, NULL,
		            cache_at(&p->kv, slot, pos, p->layer, 0, h - n_q));
	} else {
		__half *c = cache_at(&p->kv, slot, pos, p->layer, 1, h - n_q - n_kv);

		for (uint32_t i = threadIdx.x % WARP; i < dim; i += WARP)
			c[i] = to_f16(__ldcg(x + i));
	}
}

#endif
