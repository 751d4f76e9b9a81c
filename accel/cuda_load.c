/*
 * Loading a model onto the GPU, a piece at a time: weights through a pinned buffer, repacked by a
 * kernel; vectors; the angle table; the graphs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/cuda_dev.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "kernels/kernels.h"

#define PIECE_BYTES (UINT64_C(8) << 20)   /* of weights, as the file has them */
#define SPARE_BYTES (UINT64_C(512) << 20) /* left to CUDA: context, graphs */
#define N_MATS      7u                    /* of a layer */

enum phase {
	LOAD_WEIGHTS,
	LOAD_VECTORS,
	LOAD_ROPE,
	LOAD_GRAPHS,
	LOAD_DONE,
};

struct item {
	const struct plx_tensor *t;
	struct plx_kc_mat *m;
	uint64_t off; /* in the weights */
};

struct plx_cu_load {
	struct item *item; /* embeddings, output where it has its own, then layer by layer */
	uint32_t n_item;
	uint32_t at;  /* item */
	uint32_t row; /* of it */
	uint64_t vec_off;
	uint64_t vec_used;
	uint64_t piece_bytes;
	uint8_t *pinned;
	uint8_t *raw; /* device */
	uint32_t pos; /* of the angle table */
	uint32_t graph;
	uint64_t done_bytes, total_bytes;
	uint64_t begin_ns;
	enum phase phase;
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static const struct plx_tensor *tensor_of(const struct plx_layer *l, uint32_t i)
{
	const struct plx_tensor *t[N_MATS] = {&l->wq,   &l->wk, &l->wv,  &l->wo,
	                                      &l->gate, &l->up, &l->down};

	return t[i];
}

static struct plx_kc_mat *mat_of(struct plx_cu_layer *l, uint32_t i)
{
	struct plx_kc_mat *m[N_MATS] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};

	return m[i];
}

static uint64_t vector_bytes(const struct plx_model *m)
{
	uint64_t q = (uint64_t)m->n_head * m->head_dim, k = (uint64_t)m->n_head_kv * m->head_dim;
	uint64_t layer = 2 * (uint64_t)m->n_embd + q + 2 * k + 2 * (uint64_t)m->head_dim;

	/* Each vector begins on 256 bytes. */
	return (m->n_layer * layer + m->n_embd) * sizeof(float) + (m->n_layer * 7 + 1) * 256;
}

static uint64_t block_bytes(const struct plx_model *m, const struct plx_dev_limits *lim)
{
	return (uint64_t)m->n_layer * 2 * m->n_head_kv * lim->block_tokens * m->head_dim * 2;
}

static int model_check(struct plx_cu *c, struct plx_diag *d)
{
	const struct plx_model *m = c->m;

	if (c->lim.kv_type != PLX_KV_F16)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "device %s: a CUDA device keeps KV in f16; give kv_type: f16",
		                    c->conf.name);
	if (m->head_dim % 16 != 0 || m->head_dim > PLX_KC_HEAD_MAX || m->n_rot > m->head_dim)
		return plx_diag_set(
		    d, PLX_E_UNSUPPORTED,
		    "%s: heads of %u dimensions; a CUDA device runs multiples of 16 "
		    "up to %u",
		    m->name, m->head_dim, PLX_KC_HEAD_MAX);
	if (m->n_embd % 32 != 0 || m->n_ff % 32 != 0 || m->n_head * m->head_dim % 32 != 0)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: widths %u, %u and %u; a CUDA device runs multiples of 32",
		                    m->name, m->n_embd, m->n_ff, m->n_head * m->head_dim);
	if (plx_limits_sparse(&c->lim))
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "device %s: a CUDA device has no sparse attention; remove "
		                    "limits.sparse_mass and sparse_chunks",
		                    c->conf.name);
	if (m->window > 0 && (uint64_t)c->lim.max_seq_blocks * c->lim.block_tokens > m->window)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: a sliding window of %u tokens, which a CUDA device does "
		                    "not compute; lower limits.context_tokens to that",
		                    m->name, m->window);
	if (c->lim.max_step_seqs > PLX_CU_MAX_SEQS)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "device %s: max_step_seqs is %u; a CUDA device takes up to %u",
		                    c->conf.name, c->lim.max_step_seqs, PLX_CU_MAX_SEQS);
	if ((uint64_t)c->lim.max_seq_blocks * c->lim.block_tokens > PLX_MODEL_MAX_CTX)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "a context of %u blocks of %u tokens; at most %u tokens",
		                    c->lim.max_seq_blocks, c->lim.block_tokens, PLX_MODEL_MAX_CTX);
	return PLX_E_OK;
}

/* ---- the list of matrices ----------------------------------------------------------------------
 */

static int item_add(struct plx_cu *c, const struct plx_tensor *t, struct plx_kc_mat *m,
                    struct plx_diag *d)
{
	struct plx_cu_load *l = c->load;
	uint64_t bytes = plx_kc_mat_bytes(t->type, t->n_rows, t->n_cols);

	if (bytes == 0)
		return plx_diag_set(
		    d, PLX_E_UNSUPPORTED,
		    "%s: a matrix of %u x %u in %s is nothing a CUDA device computes", c->m->name,
		    t->n_rows, t->n_cols, plx_qtype_name(t->type));
	l->item[l->n_item++] = (struct item){t, m, c->weight_bytes};
	c->weight_bytes += bytes;
	l->total_bytes += t->bytes;
	if (16 * t->row_bytes > l->piece_bytes)
		l->piece_bytes = 16 * t->row_bytes;
	return PLX_E_OK;
}

static int items_make(struct plx_cu *c, struct plx_diag *d)
{
	const struct plx_model *m = c->m;
	int err = item_add(c, &m->tok_embd, &c->embd, d);

	if (err == 0 && !m->tied_output)
		err = item_add(c, &m->output, &c->head, d);
	for (uint32_t il = 0; il < m->n_layer; il++)
		for (uint32_t i = 0; i < N_MATS && err == 0; i++)
			err = item_add(c, tensor_of(&m->layer[il], i), mat_of(&c->layer[il], i), d);
	c->load->vec_off = c->weight_bytes;
	c->weight_bytes += vector_bytes(m);
	return err;
}

/* ---- memory ------------------------------------------------------------------------------------
 */

static int room_check(struct plx_cu *c, struct plx_diag *d)
{
	uint64_t need = c->weight_bytes + c->kv_bytes + c->work_bytes + c->load->piece_bytes;
	size_t free_bytes = 0, total = 0;
	cudaError_t e = cudaMemGetInfo(&free_bytes, &total);

	if (e != cudaSuccess)
		return plx_cu_error(c, e, "asking for free memory", d);
	uint64_t room = free_bytes > SPARE_BYTES ? free_bytes - SPARE_BYTES : 0;

	if (need <= room)
		return PLX_E_OK;
	uint64_t fixed = need - c->kv_bytes;
	uint64_t fit = room > fixed ? (room - fixed) / c->block_bytes : 0;

	return plx_diag_set(
	    d, PLX_E_NOMEM,
	    "device %s: weights %llu MiB + KV %llu MiB + work %llu MiB; %s has %llu "
	    "MiB to give; %llu KV blocks would fit",
	    c->conf.name, (unsigned long long)(c->weight_bytes >> 20),
	    (unsigned long long)(c->kv_bytes >> 20), (unsigned long long)(c->work_bytes >> 20),
	    c->name, (unsigned long long)(room >> 20), (unsigned long long)fit);
}

static int host_alloc(struct plx_cu *c, void *out, uint64_t bytes, struct plx_diag *d)
{
	void **p = out;
	cudaError_t e = cudaHostAlloc(p, bytes, cudaHostAllocMapped | cudaHostAllocPortable);

	if (e != cudaSuccess) {
		(void)cudaGetLastError();
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: %llu MiB of pinned memory: %s",
		                    c->conf.name, (unsigned long long)(bytes >> 20),
		                    cudaGetErrorString(e));
	}
	memset(*p, 0, bytes);
	return PLX_E_OK;
}

static int dev_alloc(struct plx_cu *c, void *out, uint64_t bytes, struct plx_diag *d)
{
	void **p = out;
	cudaError_t e = cudaMalloc(p, bytes);

	if (e == cudaSuccess)
		e = cudaMemsetAsync(*p, 0, bytes, c->stream);
	else
		(void)cudaGetLastError();
	return e == cudaSuccess ? PLX_E_OK : plx_cu_error(c, e, "allocating memory", d);
}

static int memory_take(struct plx_cu *c, struct plx_diag *d)
{
	struct plx_cu_load *l = c->load;
	struct plx_step_layout lay;

	plx_step_layout_make(&c->lim, &lay);
	int err = dev_alloc(c, &c->weights, c->weight_bytes, d);

	if (err == 0)
		err = dev_alloc(c, &c->kv, c->kv_bytes, d);
	if (err == 0)
		err = dev_alloc(c, &c->work, c->work_bytes, d);
	if (err == 0)
		err = dev_alloc(c, &c->graph_table, sizeof(c->graph), d);
	if (err == 0)
		err = dev_alloc(c, &l->raw, l->piece_bytes, d);
	if (err == 0)
		err = host_alloc(c, &l->pinned, l->piece_bytes, d);
	if (err == 0)
		err = host_alloc(c, &c->records,
		                 (uint64_t)c->lim.steps_in_flight * lay.record_bytes, d);
	if (err == 0)
		err = host_alloc(c, &c->bell, sizeof(*c->bell), d);
	if (err == 0 && c->lim.n_host_blocks > 0)
		err = host_alloc(c, &c->host_blocks, c->lim.n_host_blocks * c->block_bytes, d);
	return err;
}

static void items_place(struct plx_cu *c)
{
	struct plx_cu_load *l = c->load;

	for (uint32_t i = 0; i < l->n_item; i++)
		plx_kc_mat_place(l->item[i].m, c->weights + l->item[i].off, l->item[i].t->type,
		                 l->item[i].t->n_rows, l->item[i].t->n_cols);
	if (c->m->tied_output)
		c->head = c->embd;
}

int plx_cu_load_begin(struct plx_dev *dev, const struct plx_model *model,
                      const struct plx_dev_limits *limits, struct plx_diag *d)
{
	struct plx_cu *c = (struct plx_cu *)(void *)dev;

	if (c->load != NULL)
		return plx_diag_set(d, PLX_E_EXISTS, "device %s: a model is loaded already",
		                    c->conf.name);
	plx_cu_bind(c);
	c->m = model;
	c->lim = *limits;
	int err = model_check(c, d);

	if (err != 0)
		return err;
	c->load = calloc(1, sizeof(*c->load));
	c->layer = calloc(model->n_layer, sizeof(*c->layer));
	if (c->load != NULL)
		c->load->item = calloc(model->n_layer * N_MATS + 2, sizeof(*c->load->item));
	if (c->load == NULL || c->layer == NULL || c->load->item == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: out of memory", c->conf.name);
	c->load->piece_bytes = PIECE_BYTES;
	c->load->begin_ns = plx_clock_ns();
	err = items_make(c, d);
	c->block_bytes = block_bytes(model, limits);
	c->kv_bytes = c->block_bytes * limits->n_blocks;
	c->work_bytes = plx_cu_work_bytes(model, limits);
	if (err == 0)
		err = room_check(c, d);
	if (err == 0)
		err = memory_take(c, d);
	if (err != 0)
		return err;
	plx_cu_tables_make(c);
	items_place(c);
	return plx_cu_queue_make(c, d);
}

/* ---- the pieces --------------------------------------------------------------------------------
 */

static int weights_some(struct plx_cu *c, struct plx_diag *d)
{
	struct plx_cu_load *l = c->load;
	const struct plx_tensor *t = l->item[l->at].t;
	uint32_t n = (uint32_t)(l->piece_bytes / t->row_bytes) & ~15u;

	n = n < t->n_rows - l->row ? n : t->n_rows - l->row;
	uint64_t bytes = n * t->row_bytes;

	memcpy(l->pinned, t->data + l->row * t->row_bytes, bytes);
	cudaError_t e =
	    cudaMemcpyAsync(l->raw, l->pinned, bytes, cudaMemcpyHostToDevice, c->stream);

	plx_kc_pack(l->item[l->at].m, l->raw, t->row_bytes, l->row, n, c->stream);
	if (e == cudaSuccess)
		e = cudaGetLastError();
	if (e == cudaSuccess)
		e = cudaStreamSynchronize(c->stream);
	if (e != cudaSuccess)
		return plx_cu_error(c, e, "loading weights", d);
	l->done_bytes += bytes;
	l->row += n;
	if (l->row == t->n_rows) {
		l->row = 0;
		l->at++;
	}
	if (l->at == l->n_item)
		l->phase = LOAD_VECTORS;
	return PLX_E_OK;
}

/* A vector's copy in device memory; NULL for none. An error is found at the end. */
static const float *vector_put(struct plx_cu *c, const float *v, uint32_t n)
{
	struct plx_cu_load *l = c->load;
	uint8_t *to = c->weights + l->vec_off + l->vec_used;

	if (v == NULL)
		return NULL;
	l->vec_used += (n * sizeof(float) + 255) & ~UINT64_C(255);
	(void)cudaMemcpyAsync(to, v, n * sizeof(float), cudaMemcpyHostToDevice, c->stream);
	return (const float *)(const void *)to;
}

static int vectors_load(struct plx_cu *c, struct plx_diag *d)
{
	const struct plx_model *m = c->m;
	uint32_t q = m->n_head * m->head_dim, k = m->n_head_kv * m->head_dim;

	for (uint32_t il = 0; il < m->n_layer; il++) {
		const struct plx_layer *from = &m->layer[il];
		struct plx_cu_layer *to = &c->layer[il];

		to->attn_norm = vector_put(c, from->attn_norm, m->n_embd);
		to->ffn_norm = vector_put(c, from->ffn_norm, m->n_embd);
		to->bq = vector_put(c, from->bq, q);
		to->bk = vector_put(c, from->bk, k);
		to->bv = vector_put(c, from->bv, k);
		to->q_norm = vector_put(c, from->q_norm, m->head_dim);
		to->k_norm = vector_put(c, from->k_norm, m->head_dim);
	}
	c->output_norm = vector_put(c, m->output_norm, m->n_embd);
	cudaError_t e = cudaStreamSynchronize(c->stream);

	if (e == cudaSuccess)
		e = cudaGetLastError();
	c->load->phase = LOAD_ROPE;
	return e == cudaSuccess ? PLX_E_OK : plx_cu_error(c, e, "loading vectors", d);
}

static int rope_some(struct plx_cu *c, struct plx_diag *d)
{
	struct plx_cu_load *l = c->load;
	const struct plx_model *m = c->m;
	uint32_t n_pos = c->lim.max_seq_blocks * c->lim.block_tokens;
	uint32_t n = 256 < n_pos - l->pos ? 256 : n_pos - l->pos;
	float *row = (float *)(void *)l->pinned;
	uint64_t row_bytes = m->n_rot * sizeof(float);

	for (uint32_t i = 0; i < n; i++)
		plx_k_rope_row(row + (size_t)i * m->n_rot, l->pos + i, m->n_rot,
		               (double)m->rope_base, (double)m->rope_scale, m->rope_factors);
	cudaError_t e =
	    cudaMemcpyAsync(c->work + ((const uint8_t *)c->rope - c->work) + l->pos * row_bytes,
	                    row, n * row_bytes, cudaMemcpyHostToDevice, c->stream);

	if (e == cudaSuccess)
		e = cudaStreamSynchronize(c->stream);
	l->pos += n;
	if (l->pos == n_pos)
		l->phase = LOAD_GRAPHS;
	return e == cudaSuccess ? PLX_E_OK : plx_cu_error(c, e, "loading angles", d);
}

static int graphs_some(struct plx_cu *c, struct plx_diag *d)
{
	int n = plx_cu_graph_make(c, c->load->graph++, d);

	if (n < 0)
		return n;
	if (n == 1) {
		cudaError_t e = cudaMemcpyAsync(c->graph_table, c->graph, sizeof(c->graph),
		                                cudaMemcpyHostToDevice, c->stream);

		if (e == cudaSuccess)
			e = cudaStreamSynchronize(c->stream);

		if (e != cudaSuccess)
			return plx_cu_error(c, e, "making graphs", d);
		c->load->phase = LOAD_DONE;
	}
	return PLX_E_OK;
}

static void buffers_free(struct plx_cu_load *l)
{
	(void)cudaFree(l->raw);
	(void)cudaFreeHost(l->pinned);
	l->raw = NULL;
	l->pinned = NULL;
}

int plx_cu_load_poll(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
                     struct plx_diag *d)
{
	struct plx_cu *c = (struct plx_cu *)(void *)dev;
	uint64_t end = plx_clock_ns() + budget_us * PLX_NS_PER_US;
	static const char *const what[] = {"weights", "vectors", "rotation table", "graphs",
	                                   "done"};
	struct plx_cu_load *l = c->load;
	int err = PLX_E_OK;

	if (l == NULL)
		return PLX_E_INVAL;
	plx_cu_bind(c);
	do {
		if (l->phase == LOAD_WEIGHTS)
			err = weights_some(c, d);
		else if (l->phase == LOAD_VECTORS)
			err = vectors_load(c, d);
		else if (l->phase == LOAD_ROPE)
			err = rope_some(c, d);
		else if (l->phase == LOAD_GRAPHS)
			err = graphs_some(c, d);
	} while (err == 0 && l->phase != LOAD_DONE && plx_clock_ns() < end);
	memset(out, 0, sizeof(*out));
	out->done_bytes = l->done_bytes;
	out->total_bytes = l->total_bytes;
	out->what = what[l->phase];
	if (err != 0 || l->phase != LOAD_DONE)
		return err != 0 ? err : PLX_E_AGAIN;
	if (!c->loaded) {
		buffers_free(l);
		snprintf(out->note, sizeof(out->note), "%s: weights repacked on the GPU, %llu ms",
		         c->name,
		         (unsigned long long)((plx_clock_ns() - l->begin_ns) / PLX_NS_PER_MS));
	}
	c->loaded = true;
	return PLX_E_OK;
}

void plx_cu_unload(struct plx_cu *c)
{
	for (uint32_t i = 0; i < PLX_CU_GRAPH_SIZE * PLX_CU_SPLITS; i++)
		if (c->graph[i / PLX_CU_SPLITS][i % PLX_CU_SPLITS] != NULL)
			(void)cudaGraphExecDestroy(c->graph[i / PLX_CU_SPLITS][i % PLX_CU_SPLITS]);
	if (c->spare != NULL) {
		free(c->spare->busy_step);
		free(c->spare->check.slot);
		free(c->spare->check.undo);
		free(c->spare);
	}
	if (c->load != NULL) {
		buffers_free(c->load);
		free(c->load->item);
		free(c->load);
	}
	free(c->layer);
	(void)cudaFree(c->weights);
	(void)cudaFree(c->kv);
	(void)cudaFree(c->work);
	(void)cudaFree(c->graph_table);
	(void)cudaFreeHost(c->records);
	(void)cudaFreeHost(c->bell);
	(void)cudaFreeHost(c->host_blocks);
}
