/*
 * Attention of up to 16 queries over one split of 128 positions of a sequence's paged KV, by a
 * block of 512 threads that meet at attn_sync (whoever includes this defines it).
 *
 * Both products run on tensor cores: K and V are the f16 they are, scaled queries and probabilities
 * are sums of two f16. A warp has 8 positions for scores; then a warp a query: the maximum,
 * p = exp(s - max) and their sum, by one tree; then a warp has 8 dimensions of the result, over all
 * positions. An element's bits depend on its query, its split and what it sees alone: other rows
 * of a tile do not matter. Nothing of a position that no query may see is read.
 * Source: Milakov, Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135.
 */
#ifndef PLX_KERNELS_CUDA_ATTN_CUH
#define PLX_KERNELS_CUDA_ATTN_CUH

#include "kernels/cuda/common.cuh"

#define ATTN_THREADS 512u
#define ATTN_WARPS   (ATTN_THREADS / WARP)
#define ATTN_ROWS    16u /* queries of a unit */
#define SPLIT        PLX_KC_ATTN_SPLIT
#define EMPTY        (-3.0e38f)
#define Q_STRIDE     (PLX_KC_HEAD_MAX + 8)
#define P_STRIDE     (SPLIT + 8)
#define S_STRIDE     (SPLIT + 4)

/* A block's shared memory; aligned for 16-byte reads, whatever else a kernel has there. */
struct attn_room {
	alignas(16) __half qh[ATTN_ROWS][Q_STRIDE], ql[ATTN_ROWS][Q_STRIDE];
	__half ph[ATTN_ROWS][P_STRIDE], pl[ATTN_ROWS][P_STRIDE];
	float s[ATTN_ROWS][S_STRIDE];
	float max[ATTN_ROWS], sum[ATTN_ROWS];
	uint64_t k_at[SPLIT]; /* where positions begin, in the pool */
};

/* What a block works on: n_tok tokens of one sequence, n_head heads of one KV head. */
struct attn_job {
	uint32_t tok;    /* first */
	uint32_t head0;  /* first query head */
	uint32_t n_head; /* row r: token tok + r / n_head, head head0 + r % n_head */
	uint32_t n_row;
	uint32_t pos; /* of the first token */
};

static __device__ __forceinline__ uint32_t attn_seen(const struct attn_job *j, uint32_t row)
{
	return row < j->n_row ? j->pos + row / j->n_head + 1 : 0;
}

static __device__ __forceinline__ void mma_f16(float *c, const uint32_t *a, uint32_t b0,
                                               uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
	    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Scaled queries as two f16; zeros where there is no row or no dimension. They come from rotated,
 * [row][dim], or else from a->qkv. */
static __device__ void attn_queries(struct attn_room *m, const struct plx_kc_attn *a,
                                    const struct attn_job *j, const float *rotated)
{
	const struct plx_kc_kv *kv = &a->kv;
	uint32_t dim = kv->head_dim, most = (dim + 31) & ~31u;
	uint32_t width = (kv->n_head + 2 * kv->n_head_kv) * dim;

	for (uint32_t i = threadIdx.x; i < ATTN_ROWS * most; i += ATTN_THREADS) {
		uint32_t r = i / most, d = i % most;
		float v = 0.0f;

		if (r < j->n_row && d < dim)
			v = a->scale *
			    (rotated != NULL
			         ? rotated[r * dim + d]
			         : __ldcg(a->qkv + (uint64_t)(j->tok + r / j->n_head) * width +
			                  (uint64_t)(j->head0 + r % j->n_head) * dim + d));
		__half hi = to_f16(v);

		m->qh[r][d] = hi;
		m->ql[r][d] = to_f16(v - __half2float(hi));
	}
}

static __device__ __forceinline__ void attn_positions(struct attn_room *m,
                                                      const struct plx_kc_attn *a,
                                                      const struct attn_job *j, uint32_t slot,
                                                      uint32_t split)
{
	const struct plx_kc_kv *kv = &a->kv;
	uint32_t pos = split * SPLIT + threadIdx.x, head = j->head0 / (kv->n_head / kv->n_head_kv);

	if (threadIdx.x >= SPLIT || pos >= attn_seen(j, j->n_row - 1))
		return;
	uint32_t block = kv->table[(uint64_t)slot * kv->max_seq_blocks + pos / kv->block_tokens];
	uint64_t row = ((uint64_t)(a->layer * 2) * kv->n_head_kv + head) * kv->block_tokens +
	               pos % kv->block_tokens;

	m->k_at[threadIdx.x] = block * kv->block_bytes + row * kv->head_dim * sizeof(__half);
}

/* A warp's 8 positions with all rows; columns of 32 dimensions are dealt out so that a lane has 8
 * neighbours of them. */
static __device__ void attn_scores(struct attn_room *m, const struct plx_kc_attn *a,
                                   const struct attn_job *j, uint32_t split)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
	uint32_t p0 = threadIdx.x / WARP * 8, dim = a->kv.head_dim;
	bool in = split * SPLIT + p0 + g < attn_seen(j, j->n_row - 1);
	const uint4 *k = (const uint4 *)(a->kv.pool + (in ? m->k_at[p0 + g] : 0));
	float s[4] = {};

#pragma unroll 2
	for (uint32_t d = 0; d < dim; d += 32) {
		uint32_t at = d + t * 8;
		uint4 b = in && at < dim ? k[at / 8] : make_uint4(0, 0, 0, 0);
		uint4 h0 = *(const uint4 *)&m->qh[g][at], h1 = *(const uint4 *)&m->qh[g + 8][at];
		uint4 l0 = *(const uint4 *)&m->ql[g][at], l1 = *(const uint4 *)&m->ql[g + 8][at];
		const uint32_t la[2][4] = {{l0.x, l1.x, l0.y, l1.y}, {l0.z, l1.z, l0.w, l1.w}};
		const uint32_t ha[2][4] = {{h0.x, h1.x, h0.y, h1.y}, {h0.z, h1.z, h0.w, h1.w}};

		mma_f16(s, la[0], b.x, b.y);
		mma_f16(s, ha[0], b.x, b.y);
		mma_f16(s, la[1], b.z, b.w);
		mma_f16(s, ha[1], b.z, b.w);
	}
	for (uint32_t c = 0; c < 4; c++) {
		uint32_t row = g + c / 2 * 8, p = p0 + t * 2 + c % 2;

		m->s[row][p] = split * SPLIT + p < attn_seen(j, row) ? s[c] : EMPTY;
	}
}

/* A warp a row: maximum, probabilities, their sum. A NaN becomes the sum's. */
static __device__ void attn_softmax(struct attn_room *m, const struct attn_job *j, uint32_t split)
{
	uint32_t lane = threadIdx.x % WARP, row = threadIdx.x / WARP, seen = attn_seen(j, row);
	float top = EMPTY, sum = 0.0f;

	for (uint32_t p = lane; p < SPLIT; p += WARP)
		top = fmaxf(top, m->s[row][p]);
	top = warp_max(top);
	for (uint32_t p = lane; p < SPLIT; p += WARP) {
		float e = split * SPLIT + p < seen ? expf(m->s[row][p] - top) : 0.0f;
		__half hi = to_f16(e);

		m->ph[row][p] = hi;
		m->pl[row][p] = to_f16(e - __half2float(hi));
		sum += e;
	}
	sum = warp_sum(sum);
	if (lane == 0) {
		m->max[row] = top;
		m->sum[row] = sum;
	}
}

/* Dimensions n0 .. n0 + 7 of all rows' results: o[c] is row g + 8 (c / 2), dimension 2t + c % 2. */
static __device__ void attn_values(float o[4], const struct attn_room *m,
                                   const struct plx_kc_attn *a, const struct attn_job *j,
                                   uint32_t split, uint32_t n0)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
	uint64_t v_off =
	    (uint64_t)a->kv.n_head_kv * a->kv.block_tokens * a->kv.head_dim * sizeof(__half);
	uint32_t n = min(SPLIT, attn_seen(j, j->n_row - 1) - split * SPLIT);

	uint32_t b[SPLIT / 16][2];

	/* All are asked for before the first is used. What is not there is zero, and adds nothing.
	 */
#pragma unroll
	for (uint32_t k = 0; k < SPLIT / 16; k++)
#pragma unroll
		for (uint32_t i = 0; i < 2; i++) {
			uint32_t p = k * 16 + t * 2 + i * 8;
			const uint8_t *at = a->kv.pool + v_off + (n0 + g) * sizeof(__half);

			b[k][i] = 0;
			if (p < n)
				b[k][i] = *(const uint16_t *)(at + m->k_at[p]);
			if (p + 1 < n)
				b[k][i] |= (uint32_t) * (const uint16_t *)(at + m->k_at[p + 1])
				           << 16;
		}
	o[0] = o[1] = o[2] = o[3] = 0.0f;
#pragma unroll
	for (uint32_t k = 0; k < SPLIT / 16; k++) {
		const uint32_t *h0 = (const uint32_t *)&m->ph[g][k * 16 + t * 2];
		const uint32_t *h1 = (const uint32_t *)&m->ph[g + 8][k * 16 + t * 2];
		const uint32_t *l0 = (const uint32_t *)&m->pl[g][k * 16 + t * 2];
		const uint32_t *l1 = (const uint32_t *)&m->pl[g + 8][k * 16 + t * 2];
		const uint32_t la[4] = {l0[0], l1[0], l0[4], l1[4]};
		const uint32_t ha[4] = {h0[0], h1[0], h0[4], h1[4]};

		mma_f16(o, la, b[k][0], b[k][1]);
		mma_f16(o, ha, b[k][0], b[k][1]);
	}
}

/* ---- partial results, merged in increasing order of splits ----------------------------------- */

/* A running result: what has been merged so far. */
struct merged {
	float max, sum, o;
};

static __device__ __forceinline__ void merge_add(struct merged *r, float max, float sum, float o)
{
	float top = fmaxf(r->max, max);
	float keep = expf(r->max - top), add = expf(max - top);

	r->sum = fmaf(sum, add, r->sum * keep);
	r->max = top;
	r->o = fmaf(o, add, r->o * keep);
}

static __device__ __forceinline__ float *part_at(const struct plx_kc_attn *a, uint32_t tok,
                                                 uint32_t head, uint32_t split)
{
	return a->part +
	       (((uint64_t)tok * a->kv.n_head + head) * a->n_split + split) * (a->kv.head_dim + 4);
}

/* All threads: a unit's partial results into a->part, behind queries and positions that are in
 * place. */
static __device__ void attn_part(struct attn_room *m, const struct plx_kc_attn *a,
                                 const struct attn_job *j, uint32_t split)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, dim = a->kv.head_dim;

	attn_scores(m, a, j, split);
	attn_sync();
	attn_softmax(m, j, split);
	attn_sync();
	for (uint32_t n0 = threadIdx.x / WARP * 8; n0 < dim; n0 += ATTN_WARPS * 8) {
		float o[4];

		attn_values(o, m, a, j, split, n0);
#pragma unroll
		for (uint32_t h = 0; h < 2; h++) {
			uint32_t row = g + h * 8;

			if (row >= j->n_row || split * SPLIT >= attn_seen(j, row))
				continue;
			float *to =
			    part_at(a, j->tok + row / j->n_head, j->head0 + row % j->n_head, split);

			*(float2 *)(to + n0 + t * 2) = make_float2(o[h * 2], o[h * 2 + 1]);
			if (n0 == 0 && t == 0)
				*(float2 *)(to + dim) = make_float2(m->max[row], m->sum[row]);
		}
	}
}

/* Dimension d of a head, merged from its parts. */
static __device__ __forceinline__ float attn_merge(const struct plx_kc_attn *a, uint32_t tok,
                                                   uint32_t head, uint32_t d, uint32_t n)
{
	struct merged r = {EMPTY, 0.0f, 0.0f};
	uint32_t dim = a->kv.head_dim;

	for (uint32_t s = 0; s < n; s++) {
		const float *p = part_at(a, tok, head, s);
		float2 w = __ldcg((const float2 *)(p + dim));

		merge_add(&r, w.x, w.y, __ldcg(p + d));
	}
	return r.o / r.sum;
}

/* Dimension d of a head's result; warps come as a whole where it goes to act. */
static __device__ __forceinline__ void attn_put(const struct plx_kc_attn *a, uint32_t tok,
                                                uint32_t head, uint32_t d, float v)
{
	uint64_t at = (uint64_t)head * a->kv.head_dim + d;

	if (a->out != NULL)
		a->out[(uint64_t)tok * a->kv.n_head * a->kv.head_dim + at] = v;
	else
		split_store(&a->act, tok, (uint32_t)(at / 32), (uint32_t)(at % 32), v);
}

/* Heads of a KV head go through a unit together, up to 16; so many units a KV head has. */
static __host__ __device__ __forceinline__ uint32_t attn_parts(const struct plx_kc_kv *kv)
{
	return (kv->n_head / kv->n_head_kv + ATTN_ROWS - 1) / ATTN_ROWS;
}

/* Unit i of a token's heads. */
static __device__ __forceinline__ void attn_heads(struct attn_job *j, const struct plx_kc_kv *kv,
                                                  uint32_t i)
{
	uint32_t group = kv->n_head / kv->n_head_kv, parts = attn_parts(kv);

	j->head0 = i / parts * group + i % parts * ATTN_ROWS;
	j->n_head = min(ATTN_ROWS, group - i % parts * ATTN_ROWS);
}

#endif
