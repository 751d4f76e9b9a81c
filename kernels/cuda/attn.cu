/*
 * Attention over paged KV as kernels of their own: a block a split, or a block all splits of up to
 * 16 queries, one after another. attn.cuh has the arithmetic.
 */
#define attn_sync() __syncthreads()
#include "kernels/cuda/attn.cuh"
#include "kernels/cuda/rope.cuh"

/* A block a token, a KV head and a split. */
static __global__ void __launch_bounds__(ATTN_THREADS)
    part_kernel(const __grid_constant__ plx_kc_attn a)
{
	__shared__ struct attn_room m;
	struct attn_job j;
	uint32_t split = blockIdx.z;

	step_wait();
	if (blockIdx.x >= a.toks.n->n_tok)
		return;
	attn_heads(&j, &a.kv, blockIdx.y);
	j.tok = blockIdx.x;
	j.n_row = j.n_head;
	j.pos = a.toks.pos[j.tok];
	if (split * SPLIT > j.pos)
		return;
	attn_queries(&m, &a, &j, NULL);
	attn_positions(&m, &a, &j, a.toks.slot[j.tok], split);
	__syncthreads();
	attn_part(&m, &a, &j, split);
}

#define MERGE_THREADS 256u

static __global__ void __launch_bounds__(MERGE_THREADS)
    merge_kernel(const __grid_constant__ plx_kc_attn a)
{
	uint32_t tok = blockIdx.x, head = blockIdx.y, dim = a.kv.head_dim;

	step_wait();
	if (tok >= a.toks.n->n_tok)
		return;
	for (uint32_t d = threadIdx.x; d < dim; d += MERGE_THREADS)
		attn_put(&a, tok, head, d,
		         attn_merge(&a, tok, head, d, a.toks.pos[tok] / SPLIT + 1));
}

/* ---- one token: rotation, attention and merging in one kernel ---------------------------------
 */

struct one {
	struct plx_kc_rope r;
	struct plx_kc_attn a;
	uint32_t *arrived; /* [unit] */
};

/* Warps: the unit's queries, rotated, and where the position is this block's, K and V put into the
 * cache: units of one KV head write the same. */
static __device__ void one_rotate(const struct one &o, const struct attn_job *j, float *q, bool kv)
{
	uint32_t dim = o.a.kv.head_dim, warp = threadIdx.x / WARP;
	uint32_t n_q = o.a.kv.n_head, n_kv = o.a.kv.n_head_kv, of = j->head0 / (n_q / n_kv);
	const float *tab = o.r.tab + (uint64_t)j->pos * o.r.n_rot;

	for (uint32_t h = warp; h < j->n_head; h += ATTN_WARPS)
		head_rotate(&o.r, o.a.qkv + (uint64_t)(j->head0 + h) * dim, o.r.q_norm, tab,
		            q + h * dim, NULL);
	if (kv && warp >= ATTN_WARPS - 2)
		head_finish(&o.r, 0, n_q + of + (ATTN_WARPS - 1 - warp) * n_kv);
}

/* Whether this block is the last of its unit's n. */
static __device__ bool one_last(uint32_t *arrived, uint32_t n)
{
	__shared__ uint32_t before;

	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0) {
		before = atomicAdd(arrived, 1);
		if (before + 1 == n)
			*arrived = 0; /* for the next layer */
	}
	__syncthreads();
	__threadfence();
	return before + 1 == n;
}

static __global__ void __launch_bounds__(ATTN_THREADS)
    one_kernel(const __grid_constant__ struct one o)
{
	__shared__ struct attn_room m;
	struct attn_job j;
	uint32_t split = blockIdx.y, dim = o.a.kv.head_dim;
	float *q = (float *)m.ph; /* probabilities and scores come when queries are done with */

	static_assert(sizeof(m.ph) + sizeof(m.pl) + sizeof(m.s) >=
	                  ATTN_ROWS * PLX_KC_HEAD_MAX * sizeof(float),
	              "rotated queries lie there");
	step_wait();
	if (o.a.toks.n->n_tok == 0)
		return;
	attn_heads(&j, &o.a.kv, blockIdx.x);
	j.tok = 0;
	j.n_row = j.n_head;
	j.pos = o.a.toks.pos[0];
	if (split * SPLIT > j.pos)
		return;
	uint32_t n = j.pos / SPLIT + 1;

	attn_positions(&m, &o.a, &j, o.a.toks.slot[0], split);
	one_rotate(o, &j, q, split + 1 == n);
	__syncthreads();
	attn_queries(&m, &o.a, &j, q);
	__syncthreads();
	attn_part(&m, &o.a, &j, split);
	if (!one_last(&o.arrived[blockIdx.x], n))
		return;
	for (uint32_t i = threadIdx.x; i < j.n_head * dim; i += ATTN_THREADS)
		attn_put(&o.a, 0, j.head0 + i / dim, i % dim,
		         attn_merge(&o.a, 0, j.head0 + i / dim, i % dim, n));
}

void plx_kc_attention_one(const struct plx_kc_rope *r, const struct plx_kc_attn *a,
                          uint32_t *arrived, struct CUstream_st *st)
{
	const struct one o = {*r, *a, arrived};

	step_launch(one_kernel, dim3(a->kv.n_head_kv * attn_parts(&a->kv), a->n_split),
	            ATTN_THREADS, st, o);
}

/* ---- many tokens ------------------------------------------------------------------------------
 */

/* Tokens from j->tok on that are one sequence's, in order, as many as fit the rows. */
static __device__ uint32_t run_of(const struct plx_kc_attn *a, const struct attn_job *j,
                                  uint32_t end)
{
	uint32_t n = 1, most = min(ATTN_ROWS / j->n_head, end - j->tok);

	while (n < most && a->toks.slot[j->tok + n] == a->toks.slot[j->tok] &&
	       a->toks.pos[j->tok + n] == j->pos + n)
		n++;
	return n;
}

/* Results of a warp's dimensions n0 .. n0 + 7, merged; a lane has two rows' two dimensions. */
struct held {
	float max[2], sum[2], o[4];
};

static __device__ void held_add(struct held *r, const struct attn_room *m, const float o[4],
                                const struct attn_job *j, uint32_t split)
{
	uint32_t g = threadIdx.x % WARP / 4;

#pragma unroll
	for (uint32_t h = 0; h < 2; h++) {
		struct merged x = {r->max[h], r->sum[h], r->o[h * 2]};
		struct merged y = {r->max[h], r->sum[h], r->o[h * 2 + 1]};

		if (split * SPLIT >= attn_seen(j, g + h * 8))
			continue;
		merge_add(&x, m->max[g + h * 8], m->sum[g + h * 8], o[h * 2]);
		merge_add(&y, m->max[g + h * 8], m->sum[g + h * 8], o[h * 2 + 1]);
		*r = {{h ? r->max[0] : x.max, h ? x.max : r->max[1]},
		      {h ? r->sum[0] : x.sum, h ? x.sum : r->sum[1]},
		      {h ? r->o[0] : x.o, h ? r->o[1] : y.o, h ? x.o : r->o[2], h ? y.o : r->o[3]}};
	}
}

/* A warp's results leave through shared memory, since act takes 32 columns at once. */
static __device__ void held_put(const struct plx_kc_attn *a, const struct attn_job *j,
                                const struct held *r, float *out, uint32_t n0)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

#pragma unroll
	for (uint32_t c = 0; c < 4; c++)
		if (g + c / 2 * 8 < j->n_row)
			out[(g + c / 2 * 8) * a->kv.head_dim + n0 + t * 2 + c % 2] =
			    r->o[c] / r->sum[c / 2];
}

#define HELD (PLX_KC_HEAD_MAX / 8 / ATTN_WARPS) /* eights of dimensions of a warp, at most */

/* All splits of a run of tokens of one sequence. */
static __device__ void run_attend(struct attn_room *m, float *out, const struct plx_kc_attn *a,
                                  const struct attn_job *j, uint32_t slot)
{
	uint32_t dim = a->kv.head_dim, warp = threadIdx.x / WARP;
	struct held r[HELD];

#pragma unroll
	for (uint32_t i = 0; i < HELD; i++)
		r[i] = {{EMPTY, EMPTY}, {0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
	attn_queries(m, a, j, NULL);
	for (uint32_t split = 0; split * SPLIT < attn_seen(j, j->n_row - 1); split++) {
		attn_positions(m, a, j, slot, split);
		__syncthreads();
		attn_scores(m, a, j, split);
		__syncthreads();
		attn_softmax(m, j, split);
		__syncthreads();
#pragma unroll
		for (uint32_t i = 0; i < HELD; i++) {
			float o[4];

			if ((warp + i * ATTN_WARPS) * 8 >= dim)
				continue;
			attn_values(o, m, a, j, split, (warp + i * ATTN_WARPS) * 8);
			held_add(&r[i], m, o, j, split);
		}
		__syncthreads();
	}
#pragma unroll
	for (uint32_t i = 0; i < HELD; i++)
		if ((warp + i * ATTN_WARPS) * 8 < dim)
			held_put(a, j, &r[i], out, (warp + i * ATTN_WARPS) * 8);
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < j->n_row * dim; i += ATTN_THREADS)
		attn_put(a, j->tok + i / dim / j->n_head, j->head0 + i / dim % j->n_head, i % dim,
		         out[i]);
	__syncthreads();
}

static __global__ void __launch_bounds__(ATTN_THREADS)
    whole_kernel(const __grid_constant__ plx_kc_attn a)
{
	__shared__ struct attn_room m;
	struct attn_job j;

	step_wait();
	attn_heads(&j, &a.kv, blockIdx.y);
	uint32_t each = ATTN_ROWS / j.n_head;
	uint32_t end = min((blockIdx.x + 1) * each, a.toks.n->n_tok);

	for (j.tok = blockIdx.x * each; j.tok < end;) {
		j.pos = a.toks.pos[j.tok];
		uint32_t n = run_of(&a, &j, end);

		j.n_row = n * j.n_head;
		/* Scores are done with when results are put there. */
		run_attend(&m, (float *)m.qh, &a, &j, a.toks.slot[j.tok]);
		j.tok += n;
	}
}

void plx_kc_attention(const struct plx_kc_attn *a, struct CUstream_st *st)
{
	uint32_t group = a->kv.n_head / a->kv.n_head_kv;
	uint32_t units = a->kv.n_head_kv * attn_parts(&a->kv);
	uint32_t each = group < ATTN_ROWS ? ATTN_ROWS / group : 1;

	if (a->part == NULL) {
		step_launch(whole_kernel, dim3((a->toks.max_tok + each - 1) / each, units),
		            ATTN_THREADS, st, *a);
		return;
	}
	step_launch(part_kernel, dim3(a->toks.max_tok, units, a->n_split), ATTN_THREADS, st, *a);
	step_launch(merge_kernel, dim3(a->toks.max_tok, a->kv.n_head), MERGE_THREADS, st, *a);
}
