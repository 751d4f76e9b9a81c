/*
 * Loading a model onto the CPU device, in slices: what is needed against what there is, weights
 * repacked row by row, then the KV pool, then everything else.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/cpu.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/mem.h"

#define MIB         (UINT64_C(1) << 20)
#define N_LAYER_MAT 7u
#define PAGE_BYTES  4096u

enum load_state {
	LOAD_WEIGHTS_OPEN,
	LOAD_WEIGHTS,
	LOAD_KV,
	LOAD_WORK,
	LOAD_ROPE,
	LOAD_EMBEDDINGS,
	LOAD_DONE,
};

struct plx_cpu_load {
	enum load_state state;
	uint64_t weight_bytes;
	uint64_t kv_bytes;
	uint64_t work_bytes;
	uint64_t done_bytes;
	uint32_t mat;             /* WEIGHTS: which matrix, 7 a layer and the output last */
	uint32_t row;             /* WEIGHTS: next row of it */
	uint8_t *dst;             /* WEIGHTS: where it goes */
	uint32_t pos;             /* ROPE: next position */
	uint64_t touch;           /* EMBEDDINGS: next byte */
	struct plx_k_mat *packed; /* [7 * n_layer + 1] */
	uint8_t sink;
};

/* ---- memory --------------------------------------------------------------------------------- */

static uint64_t align64(uint64_t v)
{
	return (v + 63) & ~UINT64_C(63);
}

/* What the queue, the slots and sampling take beside the pass. */
struct tables {
	struct plx_step_layout lay;
	uint32_t n_entry;
	uint32_t n_undo;
	uint64_t scratch_bytes;
	uint32_t n_head_row; /* most rows that are sampled at once */
};

static struct tables tables_of(const struct plx_dev_limits *l)
{
	struct tables t = {.n_entry = 1};

	plx_step_layout_make(l, &t.lay);
	while (t.n_entry < l->steps_in_flight + PLX_CPU_COPY_ENTRIES)
		t.n_entry *= 2;
	t.n_undo = plx_step_undo_entries(l, &t.lay);
	t.scratch_bytes = align64(plx_k_sample_scratch_bytes());
	t.n_head_row =
	    l->max_step_tokens < PLX_CPU_HEAD_ROWS ? l->max_step_tokens : PLX_CPU_HEAD_ROWS;
	return t;
}

static uint64_t table_bytes(const struct plx_dev_limits *l)
{
	struct tables t = tables_of(l);

	return align64(sizeof(struct plx_cpu_queue)) +
	       align64((uint64_t)l->steps_in_flight * t.lay.record_bytes) +
	       align64(l->steps_in_flight * sizeof(bool)) +
	       align64(t.n_entry * sizeof(struct plx_cpu_entry)) +
	       align64(l->n_slots * sizeof(struct plx_slot_shadow)) +
	       align64(t.n_undo * sizeof(struct plx_step_undo)) +
	       align64(l->n_slots * sizeof(struct plx_cpu_slot)) +
	       l->n_slots * align64(l->max_seq_blocks * sizeof(uint32_t)) +
	       t.n_head_row * t.scratch_bytes +
	       align64(t.n_head_row * sizeof(struct plx_choosing)) +
	       l->n_threads * align64(sizeof(struct plx_cpu_stats)) +
	       align64(l->max_step_tokens * sizeof(struct plx_choice)) +
	       align64(l->max_step_tokens * sizeof(uint32_t));
}

static int memory_check(const struct plx_cpu *c, const struct plx_cpu_load *l, struct plx_diag *d)
{
	uint64_t avail = plx_mem_available();
	uint64_t fixed = l->weight_bytes + l->work_bytes;
	uint64_t block = plx_fwd_block_bytes(c->m, &c->lim);

	if (fixed + l->kv_bytes <= avail)
		return PLX_E_OK;
	if (fixed >= avail)
		return plx_diag_set(
		    d, PLX_E_NOMEM,
		    "device %s: %s needs %llu MiB for weights and %llu MiB for "
		    "activations and tables, but only %llu MiB are free; take a smaller "
		    "model or quantisation, or lower step_tokens and step_seqs",
		    c->conf.name, c->m->name, (unsigned long long)(l->weight_bytes / MIB),
		    (unsigned long long)(l->work_bytes / MIB), (unsigned long long)(avail / MIB));
	return plx_diag_set(
	    d, PLX_E_NOMEM,
	    "device %s: weights %llu MiB + KV %llu MiB (%u blocks of %llu KiB) + tables %llu MiB "
	    "do not "
	    "fit in the %llu MiB that are free; at most %llu KV blocks would fit: lower "
	    "n_kv_blocks",
	    c->conf.name, (unsigned long long)(l->weight_bytes / MIB),
	    (unsigned long long)(l->kv_bytes / MIB), c->lim.n_blocks,
	    (unsigned long long)(block / 1024), (unsigned long long)(l->work_bytes / MIB),
	    (unsigned long long)(avail / MIB), (unsigned long long)((avail - fixed) / block));
}

int plx_cpu_load_begin(struct plx_dev *dev, const struct plx_model *model,
                       const struct plx_dev_limits *limits, struct plx_diag *d)
{
	struct plx_cpu *c = (struct plx_cpu *)(void *)dev;

	if (c->loaded || c->load != NULL)
		return plx_diag_set(d, PLX_E_EXISTS, "device %s: a model is loaded already",
		                    c->conf.name);
	int err = plx_fwd_check(model, limits, d);

	if (err != 0)
		return err;
	struct plx_cpu_load *l = calloc(1, sizeof(*l));

	if (l != NULL)
		l->packed = calloc(N_LAYER_MAT * (size_t)model->n_layer + 1, sizeof(*l->packed));
	if (l == NULL || l->packed == NULL) {
		free(l);
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: out of memory", c->conf.name);
	}
	c->m = model;
	c->lim = *limits;
	c->load = l;
	l->weight_bytes = plx_fwd_weight_bytes(model);
	l->kv_bytes = plx_fwd_block_bytes(model, limits) * limits->n_blocks;
	l->work_bytes = plx_fwd_work_bytes(model, limits) + table_bytes(limits);
	err = memory_check(c, l, d);
	if (err != 0)
		plx_cpu_unload(c);
	return err;
}

/* ---- weights -------------------------------------------------------------------------------- */

static const struct plx_tensor *source(const struct plx_model *m, uint32_t mat)
{
	const struct plx_layer *l = &m->layer[mat / N_LAYER_MAT];

	if (mat == m->n_layer * N_LAYER_MAT)
		return &m->output;
	const struct plx_tensor *t[N_LAYER_MAT] = {&l->wq,   &l->wk, &l->wv,  &l->wo,
	                                           &l->gate, &l->up, &l->down};

	return t[mat % N_LAYER_MAT];
}

/* Packs rows of the current matrix, about 64 Ki elements; moves on to the next one at its end. */
static void pack_some(struct plx_cpu *c, struct plx_cpu_load *l)
{
	const struct plx_tensor *t = source(c->m, l->mat);
	uint64_t bytes = plx_k_pack_bytes(t->type, t->n_rows, t->n_cols);
	uint32_t rows = (65536 / t->n_cols + PLX_K_TILE) / PLX_K_TILE * PLX_K_TILE;
	uint32_t end = rows < t->n_rows - l->row ? l->row + rows : t->n_rows;

	if (l->row == 0)
		l->dst = plx_arena_take(&c->weights, bytes, 64);
	PLX_CHECK(l->dst != NULL); /* the arena was sized by the same function */
	plx_k_pack(l->dst, (enum plx_qtype)t->type, t->data, t->n_rows, t->n_cols, l->row, end);
	l->row = end;
	l->done_bytes += bytes * (end == t->n_rows);
	if (end < t->n_rows)
		return;
	l->packed[l->mat++] =
	    (struct plx_k_mat){l->dst, (enum plx_qtype)t->type, t->n_rows, t->n_cols};
	l->row = 0;
}

/* ---- tables --------------------------------------------------------------------------------- */

static void *take(struct plx_cpu *c, uint64_t n, uint64_t elem_bytes)
{
	void *p = plx_arena_take(&c->work, align64(n * elem_bytes), 64);

	PLX_CHECK(p != NULL); /* table_bytes counts the same things */
	return p;
}

static void queue_make(struct plx_cpu *c)
{
	const struct plx_dev_limits *lim = &c->lim;
	struct tables t = tables_of(lim);
	struct plx_cpu_queue *q = take(c, 1, sizeof(*q));

	q->base.dev = &c->base;
	q->cpu = c;
	q->records = take(c, lim->steps_in_flight, t.lay.record_bytes);
	q->busy_step = take(c, lim->steps_in_flight, sizeof(bool));
	q->entry = take(c, t.n_entry, sizeof(struct plx_cpu_entry));
	q->n_entry = t.n_entry;
	q->check.lim = *lim;
	q->check.lay = t.lay;
	q->check.n_vocab = c->m->n_vocab;
	q->check.slot = take(c, lim->n_slots, sizeof(struct plx_slot_shadow));
	q->check.undo = take(c, t.n_undo, sizeof(struct plx_step_undo));
	struct plx_dev_info info;

	(void)plx_dev_info_get(&c->base, &info);
	q->check.caps = info.caps;
	for (uint32_t i = 0; i < lim->steps_in_flight; i++)
		plx_step_format(plx_cpu_queue_step(&q->base, i), &t.lay);
	c->spare = q;
}

static void slots_make(struct plx_cpu *c)
{
	const struct plx_dev_limits *lim = &c->lim;
	struct tables t = tables_of(lim);

	c->slot = take(c, lim->n_slots, sizeof(*c->slot));
	for (uint32_t i = 0; i < lim->n_slots; i++)
		c->slot[i].table = take(c, lim->max_seq_blocks, sizeof(uint32_t));
	c->scratch_bytes = t.scratch_bytes;
	c->scratch = take(c, t.n_head_row, t.scratch_bytes);
	c->choosing = take(c, t.n_head_row, sizeof(*c->choosing));
	c->stats = take(c, lim->n_threads, align64(sizeof(*c->stats)));
	c->choice = take(c, lim->max_step_tokens, sizeof(*c->choice));
	c->row_seq = take(c, lim->max_step_tokens, sizeof(*c->row_seq));
}

static void layers_set(struct plx_cpu *c, const struct plx_k_mat *packed)
{
	for (uint32_t il = 0; il < c->m->n_layer; il++) {
		const struct plx_k_mat *p = packed + (size_t)il * N_LAYER_MAT;

		c->fwd.layer[il] = (struct plx_fwd_layer){p[0], p[1], p[2], p[3], p[4], p[5], p[6]};
	}
	c->fwd.head = packed[(size_t)c->m->n_layer * N_LAYER_MAT];
}

static int work_make(struct plx_cpu *c, const struct plx_cpu_load *l, struct plx_diag *d)
{
	int err = plx_arena_open(&c->work, l->work_bytes, d);

	if (err != 0)
		return err;
	err = plx_fwd_init(&c->fwd, c->m, c->k, &c->lim, &c->work);
	PLX_CHECK(err == 0); /* plx_fwd_work_bytes counts the same things */
	PLX_CHECK(c->fwd.head_group <= PLX_CPU_HEAD_ROWS);
	layers_set(c, l->packed);
	c->fwd.kv = c->kv.base;
	slots_make(c);
	queue_make(c);
	plx_arena_seal(&c->work);
	return PLX_E_OK;
}

static void rope_some(struct plx_cpu *c, struct plx_cpu_load *l)
{
	const struct plx_model *m = c->m;

	plx_k_rope_row(c->fwd.rope + (size_t)l->pos * m->n_rot, l->pos, m->n_rot,
	               (double)m->rope_base, (double)m->rope_scale, m->rope_factors);
	l->pos++;
}

/* Reads a byte of each page of the embeddings, so that no token waits for the page to be mapped. */
static void touch_some(const struct plx_cpu *c, struct plx_cpu_load *l)
{
	for (uint32_t i = 0; i < 64 && l->touch < c->m->tok_embd.bytes; i++) {
		l->sink ^= *(const volatile uint8_t *)(c->m->tok_embd.data + l->touch);
		l->touch += PAGE_BYTES;
	}
}

/* ---- the slices ----------------------------------------------------------------------------- */

static int weights_open(struct plx_cpu *c, struct plx_cpu_load *l, struct plx_diag *d)
{
	l->state = LOAD_WEIGHTS;
	return plx_arena_open(&c->weights, l->weight_bytes, d);
}

static int kv_open(struct plx_cpu *c, struct plx_cpu_load *l, struct plx_diag *d)
{
	l->state = LOAD_WORK;
	l->done_bytes = l->weight_bytes + l->kv_bytes;
	return plx_arena_open(&c->kv, l->kv_bytes, d);
}

/* One small piece of work; moves state on. */
static int load_some(struct plx_cpu *c, struct plx_cpu_load *l, struct plx_diag *d)
{
	int err = PLX_E_OK;

	switch (l->state) {
	case LOAD_WEIGHTS_OPEN:
		err = weights_open(c, l, d);
		break;
	case LOAD_WEIGHTS:
		pack_some(c, l);
		if (l->mat > c->m->n_layer * N_LAYER_MAT)
			l->state = LOAD_KV;
		break;
	case LOAD_KV:
		plx_arena_seal(&c->weights);
		err = kv_open(c, l, d);
		break;
	case LOAD_WORK:
		err = work_make(c, l, d);
		l->done_bytes += l->work_bytes;
		l->state = LOAD_ROPE;
		break;
	case LOAD_ROPE:
		rope_some(c, l);
		if (l->pos == c->lim.max_seq_blocks * c->lim.block_tokens)
			l->state = LOAD_EMBEDDINGS;
		break;
	case LOAD_EMBEDDINGS:
		touch_some(c, l);
		if (l->touch >= c->m->tok_embd.bytes)
			l->state = LOAD_DONE;
		break;
	case LOAD_DONE:
		break;
	}
	return err;
}

static const char *load_what(enum load_state s)
{
	static const char *const what[] = {"weights",  "weights",    "KV pool", "activations",
	                                   "rotation", "embeddings", "ready"};

	return what[s];
}

static void progress_set(const struct plx_cpu_load *l, struct plx_load_progress *out)
{
	out->done_bytes = l->done_bytes;
	out->total_bytes = l->weight_bytes + l->kv_bytes + l->work_bytes;
	out->what = load_what(l->state);
}

int plx_cpu_load_poll(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
                      struct plx_diag *d)
{
	struct plx_cpu *c = (struct plx_cpu *)(void *)dev;
	struct plx_cpu_load *l = c->load;
	uint64_t deadline = plx_clock_ns() + budget_us * PLX_NS_PER_US;

	if (l == NULL)
		return c->loaded ? PLX_E_OK : PLX_E_INVAL;
	while (l->state != LOAD_DONE) {
		int err = load_some(c, l, d);

		progress_set(l, out);
		if (err != 0) {
			plx_cpu_unload(c);
			return err;
		}
		if (plx_clock_ns() >= deadline)
			return PLX_E_AGAIN;
	}
	free(l->packed);
	free(l);
	c->load = NULL;
	c->loaded = true;
	return PLX_E_OK;
}

void plx_cpu_unload(struct plx_cpu *c)
{
	if (c->load != NULL)
		free(c->load->packed);
	free(c->load);
	c->load = NULL;
	c->loaded = false;
	plx_arena_close(&c->weights);
	plx_arena_close(&c->kv);
	plx_arena_close(&c->work);
}
