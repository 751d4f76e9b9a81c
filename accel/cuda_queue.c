/* The CUDA device's queue: submit, poll, block copies, reset. */
#include <string.h>

#include "accel/cuda_dev.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"

#define OUTSTANDING_MAX 768u                /* launches beyond about 1,000 would wait in CUDA */
#define LOOK_NS         (2 * PLX_NS_PER_MS) /* between two questions to CUDA while nothing comes */
#define CHAIN_LOOK_NS   (100 * PLX_NS_PER_MS) /* without progress, before a chain is asked after */

static struct plx_cu_queue *queue_of(struct plx_queue *q)
{
	return (struct plx_cu_queue *)(void *)q;
}

static struct plx_cu *cu_of(struct plx_dev *dev)
{
	return (struct plx_cu *)(void *)dev;
}

int plx_cu_queue_open(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d)
{
	struct plx_cu *c = cu_of(dev);

	if (!c->loaded)
		return plx_diag_set(d, PLX_E_INVAL, "device %s: load a model before opening queues",
		                    c->conf.name);
	if (c->queue != NULL)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "device %s: a CUDA device has one queue, and it is open; place "
		                    "one accel stage on it",
		                    c->conf.name);
	c->queue = c->spare;
	*out = &c->queue->base;
	return PLX_E_OK;
}

struct plx_step *plx_cu_queue_step(struct plx_queue *base, uint32_t step_idx)
{
	struct plx_cu_queue *q = queue_of(base);

	if (step_idx >= q->check.lim.steps_in_flight)
		return NULL;
	return (struct plx_step *)(void *)(q->records +
	                                   (size_t)step_idx * q->check.lay.record_bytes);
}

/* ---- putting entries on the stream ----------------------------------------------------------- */

/* The host launches a step: the first graph of a chain, or kernels. */
static void step_launch(struct plx_cu_queue *q, struct plx_cu_entry *e)
{
	struct plx_cu *c = q->cu;

	if (e->shape == PLX_CU_NO_GRAPH) {
		e->n_launch = plx_cu_pass_launch(c, e->size);
		return;
	}
	c->bell->chain++;
	q->chained = c->chains;
	__atomic_store_n(&c->bell->n_rung, q->n_launched + 1, __ATOMIC_SEQ_CST);
	cudaError_t err = cudaGraphLaunch(
	    c->graph[e->shape / PLX_CU_SPLITS][e->shape % PLX_CU_SPLITS], c->stream);

	c->stats.n_graphs++;
	if (err != cudaSuccess)
		(void)plx_cu_error(c, err, "launching a step", NULL);
}

static void copy_launch(struct plx_cu_queue *q, struct plx_cu_entry *e)
{
	struct plx_cu *c = q->cu;

	plx_kc_copy_blocks(c->kv, c->host_blocks, c->block_bytes, c->lim.n_blocks,
	                   c->bell->pair + e->first_pair % PLX_CU_PAIRS, e->n_pair, c->stream);
	plx_cu_copy_finish(&c->mem, c->stream);
	e->n_launch = 2;
}

/* What the GPU reads when it takes an entry. */
static void entry_put(struct plx_cu_queue *q, const struct plx_cu_entry *e, uint32_t shape)
{
	struct plx_cu_bell *b = q->cu->bell;

	b->ring[q->n_launched % PLX_CU_ENTRIES] = e->step_idx;
	b->shape[q->n_launched % PLX_CU_ENTRIES] = shape;
}

/* Rings for what a chain can take; false where the host has to launch what comes next. */
static bool chain_ring(struct plx_cu_queue *q)
{
	struct plx_cu_bell *b = q->cu->bell;

	if (!q->chained)
		return false;
	/* C6: pairs with C5 on the GPU: what the chain has not completed is to be launched. */
	if (__atomic_load_n(&b->parked, __ATOMIC_ACQUIRE) == b->chain) {
		q->chained = false;
		q->n_launched = __atomic_load_n(&b->n_completed, __ATOMIC_ACQUIRE);
		if (b->park_error != 0)
			(void)plx_cu_error(q->cu, (cudaError_t)b->park_error,
			                   "a graph launching the next", NULL);
		return false;
	}
	while (q->n_launched < q->n_submitted) {
		const struct plx_cu_entry *e = &q->entry[q->n_launched % PLX_CU_ENTRIES];
		bool graph = e->kind == PLX_CU_STEP && e->shape != PLX_CU_NO_GRAPH;

		entry_put(q, e, graph ? e->shape : PLX_CU_NO_GRAPH);
		/* C3: pairs with C4 on the GPU. */
		__atomic_store_n(&b->n_rung, q->n_launched + 1, __ATOMIC_SEQ_CST);
		if (!graph)
			break; /* the chain parks there, and then it is the host's */
		q->cu->stats.n_rung++;
		q->n_launched++;
	}
	return true;
}

/* Launches what was accepted, as far as the stream takes it without waiting. */
static void pump(struct plx_cu_queue *q)
{
	struct plx_cu *c = q->cu;

	if (q->n_launched < q->n_submitted || q->chained)
		plx_cu_bind(c);
	while (!chain_ring(q) && q->n_launched < q->n_submitted && c->dead == cudaSuccess &&
	       q->n_outstanding < OUTSTANDING_MAX) {
		struct plx_cu_entry *e = &q->entry[q->n_launched % PLX_CU_ENTRIES];

		entry_put(q, e, e->shape);
		/* The GPU reads it behind the launch, which orders it. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (e->kind == PLX_CU_COPY)
			copy_launch(q, e);
		else
			step_launch(q, e);
		q->n_outstanding += e->n_launch;
		c->stats.n_kernels += e->n_launch;
		q->n_launched++;
		cudaError_t err = cudaGetLastError();

		if (err != cudaSuccess)
			(void)plx_cu_error(c, err, "launching kernels", NULL);
	}
}

/* ---- submit ---------------------------------------------------------------------------------- */

static uint32_t rows_of(const struct plx_step_seq *q, const struct plx_step_tok *t)
{
	return (t[q->first_tok + q->n_tok - 1].flags & PLX_TOKF_LOGITS) != 0 ? q->n_draft + 1 : 0;
}

static struct plx_cu_size size_of(const struct plx_cu *c, struct plx_step *s)
{
	const struct plx_step_tok *t = plx_step_toks(s);
	uint32_t n_row = 0, last_pos = 0;

	if (s->n_tok == 0)
		return (struct plx_cu_size){0};
	for (uint32_t i = 0; i < s->n_seq; i++) {
		const struct plx_step_seq *q = &plx_step_seqs(s)[i];
		uint32_t last = t[q->first_tok].pos[0] + q->n_tok - 1;

		n_row += rows_of(q, t);
		last_pos = last > last_pos ? last : last_pos;
	}
	return plx_cu_pass_size(c, s->n_tok, n_row, last_pos);
}

static bool entries_full(const struct plx_cu_queue *q)
{
	return q->n_submitted - q->n_collected >= PLX_CU_ENTRIES;
}

int plx_cu_submit(struct plx_queue *base, uint32_t step_idx)
{
	struct plx_cu_queue *q = queue_of(base);
	struct plx_step *s = plx_cu_queue_step(base, step_idx);

	if (q->busy_step[step_idx])
		return PLX_E_INVAL;
	if (q->cu->dead != cudaSuccess)
		return PLX_E_LOST;
	if (entries_full(q))
		return PLX_E_AGAIN;
	int err = plx_step_accept(&q->check, s);

	if (err != 0)
		return err;
	q->busy_step[step_idx] = true;
	s->generation = q->cu->generation;
	if (q->n_submitted == q->n_collected)
		q->moved_ns = plx_clock_ns();
	struct plx_cu_size size = size_of(q->cu, s);

	q->entry[q->n_submitted++ % PLX_CU_ENTRIES] =
	    (struct plx_cu_entry){.kind = PLX_CU_STEP,
	                          .step_idx = step_idx,
	                          .size = size,
	                          .shape = plx_cu_graph_at(q->cu, size)};
	pump(q);
	return PLX_E_OK;
}

int plx_cu_copy_blocks(struct plx_queue *dst, struct plx_queue *src,
                       const struct plx_block_copy *pairs, uint32_t n)
{
	struct plx_cu_queue *q = queue_of(dst);
	struct plx_cu *c = q->cu;
	uint32_t n_all = c->lim.n_blocks + c->lim.n_host_blocks;

	if (dst != src)
		return PLX_E_UNSUPPORTED;
	if (n == 0)
		return PLX_E_OK;
	if (n > PLX_CU_PAIRS / 2)
		return PLX_E_LIMIT;
	for (uint32_t i = 0; i < n; i++)
		if (pairs[i].src >= n_all || pairs[i].dst >= n_all)
			return PLX_E_INVAL;
	if (c->dead != cudaSuccess)
		return PLX_E_LOST;
	/* A call's pairs lie together; what is left at the ring's end is passed over. */
	uint64_t skip = PLX_CU_PAIRS - q->n_pair % PLX_CU_PAIRS;

	skip = skip < n ? skip : 0;
	if (entries_full(q) || q->n_pair - q->n_pair_done + skip + n > PLX_CU_PAIRS)
		return PLX_E_AGAIN;
	q->n_pair += skip;
	struct plx_cu_entry e = {.kind = PLX_CU_COPY,
	                         .shape = PLX_CU_NO_GRAPH,
	                         .first_pair = (uint32_t)(q->n_pair % PLX_CU_PAIRS),
	                         .n_pair = n};

	for (uint32_t i = 0; i < n; i++)
		c->bell->pair[q->n_pair++ % PLX_CU_PAIRS] =
		    (struct plx_kc_pair){pairs[i].src, pairs[i].dst};
	e.pair_end = q->n_pair;
	q->entry[q->n_submitted++ % PLX_CU_ENTRIES] = e;
	pump(q);
	return PLX_E_OK;
}

/* ---- poll ------------------------------------------------------------------------------------ */

static void fail_outs(struct plx_step *s, int status)
{
	for (uint32_t i = 0; i < s->n_seq; i++) {
		memset(&plx_step_outs(s)[i], 0, sizeof(struct plx_step_out));
		plx_step_outs(s)[i].status = status;
	}
}

/* The record of a completed step; done is NULL where the GPU will not complete it any more. */
static void step_complete(struct plx_cu_queue *q, const struct plx_cu_entry *e,
                          const struct plx_cu_done *done)
{
	struct plx_step *s = plx_cu_queue_step(&q->base, e->step_idx);

	q->busy_step[e->step_idx] = false;
	s->end_ns = plx_clock_ns();
	s->start_ns = s->end_ns;
	s->status = done != NULL ? done->status : PLX_E_LOST;
	if (done == NULL)
		fail_outs(s, PLX_E_LOST);
	else if (done->end_ns > done->begin_ns)
		s->start_ns -= done->end_ns - done->begin_ns;
}

/* Takes completed entries off in order; copies complete without a word. */
static int collect(struct plx_cu_queue *q, uint64_t completed, bool lost, uint32_t *done_idx,
                   uint32_t max_done)
{
	const struct plx_cu_bell *b = q->cu->bell;
	uint32_t n = 0;

	while (q->n_collected < completed) {
		const struct plx_cu_entry *e = &q->entry[q->n_collected % PLX_CU_ENTRIES];

		if (e->kind == PLX_CU_COPY) {
			q->n_pair_done = e->pair_end;
		} else {
			if (n == max_done)
				break;
			bool gone =
			    lost || (q->n_collected >= q->lost_from && q->n_collected < q->lost_to);

			step_complete(q, e,
			              gone ? NULL : &b->done[q->n_collected % PLX_CU_ENTRIES]);
			done_idx[n++] = e->step_idx;
		}
		q->n_outstanding -= e->n_launch;
		q->n_collected++;
		q->moved_ns = q->chained ? plx_clock_ns() : q->moved_ns;
	}
	return (int)n;
}

/* Asks CUDA, seldom, whether the GPU is still well. */
static void look(struct plx_cu_queue *q)
{
	uint64_t now = plx_clock_ns();

	if (now - q->looked_ns < LOOK_NS || (q->chained && now - q->moved_ns < CHAIN_LOOK_NS))
		return;
	q->looked_ns = now;
	q->cu->stats.n_queries++;
	cudaError_t e = cudaStreamQuery(q->cu->stream);

	if (e != cudaSuccess && e != cudaErrorNotReady)
		(void)plx_cu_error(q->cu, e, "running a step", NULL);
}

int plx_cu_poll(struct plx_queue *base, uint32_t budget_us, uint32_t *done_idx, uint32_t max_done)
{
	struct plx_cu_queue *q = queue_of(base);
	/* C2: pairs with C1 on the GPU. */
	uint64_t completed = __atomic_load_n(&q->cu->bell->n_completed, __ATOMIC_ACQUIRE);

	(void)budget_us;
	int n = collect(q, completed, false, done_idx, max_done);

	pump(q);
	if (n > 0 || q->n_collected == q->n_submitted)
		return n;
	if (q->cu->dead == cudaSuccess)
		look(q);
	if (q->cu->dead != cudaSuccess)
		n = collect(q, q->n_submitted, true, done_idx, max_done);
	return n;
}

/* ---- reset ----------------------------------------------------------------------------------- */

int plx_cu_reset(struct plx_dev *dev)
{
	struct plx_cu *c = cu_of(dev);
	struct plx_cu_queue *q = c->queue;

	if (!c->loaded)
		return PLX_E_INVAL;
	if (c->dead != cudaSuccess)
		return PLX_E_LOST; /* CUDA's context is gone with its process */
	/* What is not complete by now is lost, even if the GPU gets through with it. */
	if (q != NULL) {
		q->lost_from = __atomic_load_n(&c->bell->n_completed, __ATOMIC_ACQUIRE);
		q->lost_to = q->n_submitted;
	}
	__atomic_store_n(&c->bell->abort, 1, __ATOMIC_SEQ_CST);
	while (q != NULL && (q->chained || q->n_launched < q->n_submitted) &&
	       c->dead == cudaSuccess) {
		cudaError_t e = cudaStreamSynchronize(c->stream);

		if (e != cudaSuccess)
			return plx_cu_error(c, e, "resetting", NULL);
		q->n_outstanding = 0;
		for (uint64_t i = q->n_collected; i < q->n_launched; i++)
			q->entry[i % PLX_CU_ENTRIES].n_launch = 0;
		pump(q);
	}
	cudaError_t e = cudaStreamSynchronize(c->stream);

	if (e == cudaSuccess)
		e = cudaMemset(c->mem.slot, 0, c->lim.n_slots * sizeof(struct plx_cu_slot));
	if (e != cudaSuccess)
		return plx_cu_error(c, e, "resetting", NULL);
	if (q != NULL)
		plx_step_checker_reset(&q->check);
	c->generation++;
	__atomic_store_n(&c->bell->abort, 0, __ATOMIC_SEQ_CST);
	return PLX_E_OK;
}
