/*
 * A step on the GPU: from a record to the pass's arrays, from choices to results.
 *
 * Deltas, slots' samplers and acceptance mean what accel/cpu_step.c and accel/sampler.c say; here
 * one block does them, a warp a sequence.
 */
#include "accel/cuda_int.h"
#include "kernels/cuda/common.cuh"

#define THREADS 1024u
#define WARPS   (THREADS / WARP)

#define FAULT     (-14) /* enum plx_err, fw/base/err.h */
#define CANCELLED (-13)
#define LOST      (-15)

static __device__ uint64_t now_ns(void)
{
	uint64_t t;

	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
	return t;
}

/* The record's fixed fields and arrays, as they were taken. */
struct view {
	const struct plx_step *s;
	const struct plx_step_tok *tok;
	const struct plx_step_seq *seq;
	const struct plx_step_delta *delta;
};

static __device__ struct view view_of(const struct plx_cu_mem *m)
{
	const struct plx_step *s = (const struct plx_step *)m->staged;

	return {s, (const struct plx_step_tok *)(m->staged + s->tok_off),
	        (const struct plx_step_seq *)(m->staged + s->seq_off),
	        (const struct plx_step_delta *)(m->staged + s->delta_off)};
}

/* ---- taking a record ------------------------------------------------------------------------- */

/* Copies bytes from..from+n of the record; both 8-byte multiples. */
static __device__ void take(const struct plx_cu_mem *m, const uint8_t *record, uint32_t from,
                            uint64_t n)
{
	const unsigned long long *src = (const unsigned long long *)(record + from);
	unsigned long long *dst = (unsigned long long *)(m->staged + from);

	for (uint64_t i = threadIdx.x; i < (n + 7) / 8; i += THREADS)
		dst[i] = __ldcv(src + i);
}

static __device__ void record_take(const struct plx_cu_mem *m, const uint8_t *record)
{
	take(m, record, 0, sizeof(struct plx_step));
	__syncthreads();
	const struct plx_step *s = (const struct plx_step *)m->staged;

	take(m, record, s->tok_off, s->n_tok * sizeof(struct plx_step_tok));
	take(m, record, s->seq_off, s->n_seq * sizeof(struct plx_step_seq));
	take(m, record, s->delta_off, s->n_delta * sizeof(struct plx_step_delta));
	take(m, record, s->sampler_off, s->n_sampler * sizeof(struct plx_sampler));
	__syncthreads();
}

/* ---- deltas ---------------------------------------------------------------------------------- */

/* All threads: a new sequence in the slot. A thread writes the same words each time, so a slot that
 * is set twice is what the later one says. */
static __device__ void slot_set(struct plx_cu_slot *slot, const uint32_t *conf)
{
	uint32_t n = sizeof(struct plx_sampler) / 4;

	if (threadIdx.x < n)
		((uint32_t *)&slot->conf)[threadIdx.x] = conf[threadIdx.x];
	if (threadIdx.x < PLX_CU_RING)
		slot->recent[threadIdx.x] = 0;
	if (threadIdx.x == 0) {
		slot->first_pos = 0;
		slot->placed = 0;
		slot->failed = 0;
		slot->last_id = -1;
	}
}

static __device__ void deltas_apply(const struct plx_cu_mem *m, const struct view *v)
{
	for (uint32_t i = 0; i < v->s->n_delta; i++) {
		const struct plx_step_delta *e = &v->delta[i];

		if (e->kind == PLX_DELTA_SLOT_SET)
			slot_set(&m->slot[e->slot], (const uint32_t *)(m->staged + e->sampler_off));
		else if (e->kind == PLX_DELTA_BLOCK && threadIdx.x == 0)
			m->table[(uint64_t)e->slot * m->max_seq_blocks + e->index] = e->block;
	}
	__syncthreads();
}

/* ---- a slot's recent ids, by position; a warp -------------------------------------------------
 */

static __device__ void recent_place(struct plx_cu_slot *s, uint32_t pos)
{
	uint32_t lane = threadIdx.x % WARP;

	if (!s->placed) {
		uint32_t n = min(s->conf.n_recent, pos);

		for (uint32_t i = lane; i < n; i += WARP)
			s->recent[(pos - n + i) % PLX_CU_RING] =
			    s->conf.recent[s->conf.n_recent - n + i];
		__syncwarp();
		if (lane == 0) {
			s->first_pos = pos - n;
			s->placed = 1;
		}
	}
	__syncwarp();
}

/* How the token at position pos is sampled. */
static __device__ void how_put(struct plx_kc_sampling *h, const struct plx_cu_slot *s, uint32_t pos,
                               uint32_t n_top, uint8_t *top)
{
	const struct plx_sampler *c = &s->conf;
	uint32_t known = pos > s->first_pos ? pos - s->first_pos : 0;
	uint32_t n =
	    c->repeat_penalty < 1 || c->repeat_penalty > 1 ? min(c->penalty_window, known) : 0;

	for (uint32_t i = threadIdx.x % WARP; i < n; i += WARP)
		h->recent[i] = (uint32_t)s->recent[(pos - n + i) % PLX_CU_RING];
	if (threadIdx.x % WARP != 0)
		return;
	h->temperature = c->temperature;
	h->top_p = c->top_p;
	h->min_p = c->min_p;
	h->repeat_penalty = c->repeat_penalty;
	h->top_k = c->top_k;
	h->sample = c->sample;
	h->seed = c->seed;
	h->position = pos;
	h->n_top = n_top;
	h->n_recent = n;
	h->top_at = (uint64_t)(uintptr_t)top;
}

/* ---- laying a step out ------------------------------------------------------------------------
 */

static __device__ uint8_t *top_at(const struct plx_cu_mem *m, uint8_t *record, uint32_t seq,
                                  uint32_t k, uint32_t n_top)
{
	return record + m->top_off +
	       ((uint64_t)seq * (PLX_MAX_DRAFT + 1) * PLX_MAX_TOP + (uint64_t)k * n_top) *
	           sizeof(struct plx_top);
}

/* Rows of sequence i: 0, or one and its drafts. */
static __device__ uint32_t rows_of(const struct view *v, uint32_t i)
{
	const struct plx_step_seq *q = &v->seq[i];

	return (v->tok[q->first_tok + q->n_tok - 1].flags & PLX_TOKF_LOGITS) != 0 ? q->n_draft + 1
	                                                                          : 0;
}

/* Each sequence's first row, by an inclusive scan; returns how many rows there are. */
static __device__ uint32_t rows_count(const struct plx_cu_mem *m, const struct view *v,
                                      uint32_t *scan)
{
	uint32_t mine = threadIdx.x < v->s->n_seq ? rows_of(v, threadIdx.x) : 0;

	scan[threadIdx.x] = mine;
	__syncthreads();
	for (uint32_t d = 1; d < THREADS; d *= 2) {
		uint32_t below = threadIdx.x >= d ? scan[threadIdx.x - d] : 0;

		__syncthreads();
		scan[threadIdx.x] += below;
		__syncthreads();
	}
	if (threadIdx.x < v->s->n_seq)
		m->seq_row[threadIdx.x] = scan[threadIdx.x] - mine;
	return scan[THREADS - 1];
}

/* A warp: tokens, recent ids and rows of sequence i. */
static __device__ void seq_lay(const struct plx_cu_mem *m, const struct view *v, uint32_t i,
                               uint8_t *record, uint32_t row0)
{
	const struct plx_step_seq *q = &v->seq[i];
	const struct plx_step_tok *t = v->tok + q->first_tok;
	struct plx_cu_slot *slot = &m->slot[q->slot];
	uint32_t lane = threadIdx.x % WARP, n_row = rows_of(v, i);

	recent_place(slot, t[0].pos[0]);
	for (uint32_t j = lane; j < q->n_tok; j += WARP) {
		uint32_t at = q->first_tok + j;
		int32_t id = t[j].id;

		if (id < 0) {
			id = slot->last_id;
			if (id < 0) { /* a slot that gave no token has none to feed back */
				slot->failed = 1;
				id = 0;
			}
		}
		m->id[at] = id;
		m->pos[at] = t[j].pos[0];
		m->slot_of[at] = q->slot;
		if (j + PLX_CU_RING >= q->n_tok)
			slot->recent[t[j].pos[0] % PLX_CU_RING] = id;
	}
	__syncwarp();
	for (uint32_t k = 0; k < n_row; k++) {
		uint32_t j = q->n_tok - n_row + k;

		if (lane == 0)
			m->row[row0 + k] = q->first_tok + j;
		how_put(&m->how[row0 + k], slot, t[j].pos[0] + 1, q->n_top,
		        top_at(m, record, i, k, q->n_top));
	}
}

static __global__ void __launch_bounds__(THREADS) begin_kernel(const struct plx_cu_mem m)
{
	__shared__ uint32_t scan[THREADS];

	step_wait();
	struct plx_cu_state *st = m.state;
	uint32_t at = (uint32_t)st->serial % PLX_CU_ENTRIES;
	uint8_t *record = m.records + (uint64_t)__ldcv(&m.bell->ring[at]) * m.record_bytes;
	uint32_t abort = __ldcv(&m.bell->abort);
	uint64_t begin = now_ns();

	record_take(&m, record);
	const struct view v = view_of(&m);
	int32_t status = abort ? LOST : v.s->cancel ? CANCELLED : 0;

	if (!abort)
		deltas_apply(&m, &v);
	uint32_t n_row = status == 0 ? rows_count(&m, &v, scan) : 0;

	__syncthreads();
	for (uint32_t i = threadIdx.x / WARP; status == 0 && i < v.s->n_seq; i += WARPS)
		seq_lay(&m, &v, i, record, m.seq_row[i]);
	if (threadIdx.x != 0)
		return;
	m.count->n_tok = status == 0 ? v.s->n_tok : 0;
	m.count->n_row = n_row;
	st->record = record;
	st->status = status;
	st->n_seq = v.s->n_seq;
	st->begin_ns = begin;
}

void plx_cu_step_begin(const struct plx_cu_mem *m, struct CUstream_st *st)
{
	step_launch(begin_kernel, 1, THREADS, st, *m);
}

/* ---- results --------------------------------------------------------------------------------- */

/* Sampled tokens from the first row on, as long as each is the draft the next row was run with. */
static __device__ void rows_accept(const struct plx_cu_mem *m, const struct view *v,
                                   const struct plx_step_seq *q, uint32_t row,
                                   struct plx_step_out *out)
{
	const struct plx_step_tok *draft = v->tok + q->first_tok + q->n_tok - q->n_draft;

	for (uint32_t k = 0; k <= q->n_draft; k++) {
		struct plx_kc_choice c = m->choice[row + k];

		if (c.status != 0) {
			out->status = FAULT;
			out->n_out = 0;
			out->n_accepted = 0;
			return;
		}
		out->id[k] = c.id;
		out->logprob[k] = c.logprob;
		out->n_out = k + 1;
		out->n_accepted = k;
		if (k == q->n_draft || c.id != draft[k].id)
			return;
	}
}

static __device__ void seq_finish(const struct plx_cu_mem *m, const struct view *v, uint32_t i,
                                  struct plx_step_out *out)
{
	const struct plx_step_seq *q = &v->seq[i];
	struct plx_cu_slot *slot = &m->slot[q->slot];

	if (slot->failed) {
		out->status = FAULT;
		return;
	}
	if (rows_of(v, i) == 0)
		return;
	uint32_t row = m->seq_row[i];

	rows_accept(m, v, q, row, out);
	if (out->status != 0) {
		slot->failed = 1;
		return;
	}
	if (q->n_top > 0)
		out->top_off = m->top_off + i * (uint32_t)((PLX_MAX_DRAFT + 1) * PLX_MAX_TOP *
		                                           sizeof(struct plx_top));
	uint32_t first = m->pos[m->row[row]] + 1;

	for (uint32_t k = 0; k < out->n_out; k++)
		slot->recent[(first + k) % PLX_CU_RING] = out->id[k];
	slot->last_id = out->id[out->n_out - 1];
}

/* Thread 0: the entry is complete, when all that was written for it can be seen. */
static __device__ void complete(const struct plx_cu_mem *m, int32_t status)
{
	struct plx_cu_state *st = m->state;
	struct plx_cu_done *d = &m->bell->done[st->serial % PLX_CU_ENTRIES];

	d->status = status;
	d->begin_ns = st->begin_ns;
	d->end_ns = now_ns();
	d->serial = (uint32_t)st->serial;
	st->serial++;
	__threadfence_system();
	/* C1: pairs with C2 in the poll, so that results are seen before the count. */
	*(volatile unsigned long long *)&m->bell->n_completed = st->serial;
}

/* ---- the chain of graphs ----------------------------------------------------------------------
 */

/* Waits for the entry behind `serial`; false where the chain ends. */
static __device__ bool chain_wait(const struct plx_cu_mem *m, uint64_t serial)
{
	const volatile struct plx_cu_bell *b = m->bell;
	uint64_t begin = now_ns();

	/* C4: pairs with C3 in the queue, so that ring, shape and record are seen. */
	while (b->n_rung <= serial)
		if (b->abort || now_ns() - begin > PLX_CU_IDLE_NS)
			return false;
	__threadfence_system();
	return true;
}

/* Thread 0: launches the next step's graph behind this one, or says that the chain has ended. */
static __device__ void chain_next(const struct plx_cu_mem *m)
{
	uint64_t serial = m->state->serial;
	uint32_t shape = PLX_CU_NO_GRAPH;
	cudaError_t e = cudaSuccess;

	if (chain_wait(m, serial))
		shape = __ldcv(&m->bell->shape[serial % PLX_CU_ENTRIES]);
	if (shape != PLX_CU_NO_GRAPH)
		e = cudaGraphLaunch(m->graph[shape], cudaStreamGraphTailLaunch);
	if (shape != PLX_CU_NO_GRAPH && e == cudaSuccess)
		return;
	*(volatile uint32_t *)&m->bell->park_error = (uint32_t)e;
	__threadfence_system();
	/* C5: pairs with C6 in the queue: nothing of this chain runs behind it. */
	*(volatile uint32_t *)&m->bell->parked = __ldcv(&m->bell->chain);
}

/* Results of all sequences, and the entry's completion. */
static __device__ void step_finish(const struct plx_cu_mem &m)
{
	const struct view v = view_of(&m);
	uint32_t i = threadIdx.x;

	if (i < m.state->n_seq) {
		struct plx_step_out out = {};

		out.status = m.state->status;
		if (out.status == 0)
			seq_finish(&m, &v, i, &out);
		*((struct plx_step_out *)(m.state->record + v.s->out_off) + i) = out;
		__threadfence_system();
	}
	__syncthreads();
	if (i == 0)
		complete(&m, m.state->status);
}

static __global__ void __launch_bounds__(THREADS) finish_kernel(const struct plx_cu_mem m)
{
	step_wait();
	step_finish(m);
}

/* CUDA takes a kernel that launches graphs in a graph only (error 801 elsewhere). */
static __global__ void __launch_bounds__(THREADS) chain_kernel(const struct plx_cu_mem m)
{
	step_finish(m);
	if (threadIdx.x == 0)
		chain_next(&m);
}

void plx_cu_step_finish(const struct plx_cu_mem *m, struct CUstream_st *st)
{
	if (m->graph != NULL)
		chain_kernel<<<1, THREADS, 0, st>>>(*m);
	else
		step_launch(finish_kernel, 1, THREADS, st, *m);
}

static __global__ void copied_kernel(const struct plx_cu_mem m)
{
	m.state->begin_ns = now_ns();
	complete(&m, 0);
}

void plx_cu_copy_finish(const struct plx_cu_mem *m, struct CUstream_st *st)
{
	copied_kernel<<<1, 1, 0, st>>>(*m);
}
