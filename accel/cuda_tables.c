/* What the CUDA device keeps beside weights and KV: activations, the step's arrays, the queue. */
#include <stdlib.h>
#include <string.h>

#include "accel/cuda_dev.h"
#include "fw/base/err.h"

#define PART_BYTES (UINT64_C(256) << 20) /* of attention's partial results, at most */

/* Takes from a memory, or only adds up where there is none yet. */
struct carver {
	uint8_t *base;
	uint64_t bytes;
};

static void *carve(struct carver *v, uint64_t n, uint64_t elem_bytes)
{
	uint64_t at = v->bytes;

	v->bytes += (n * elem_bytes + 255) & ~UINT64_C(255);
	return v->base != NULL ? v->base + at : NULL;
}

static void carve_act(struct carver *v, struct plx_kc_act *a, uint32_t n_tok, uint32_t n_in)
{
	uint64_t sum_bytes, x2_bytes = plx_kc_act_bytes(n_tok, n_in, &sum_bytes);

	a->x2 = carve(v, x2_bytes, 1);
	a->sum = carve(v, sum_bytes, 1);
	a->n_in = n_in;
	a->n_kp = (n_in + 63) / 64;
}

static void carve_step(struct carver *v, struct plx_cu *c, const struct plx_step_layout *lay)
{
	struct plx_cu_mem *m = &c->mem;
	uint64_t n_tok = c->lim.max_step_tokens;

	m->staged = carve(v, lay->record_bytes, 1);
	m->state = carve(v, 1, sizeof(*m->state));
	m->count = carve(v, 1, sizeof(*m->count));
	m->id = carve(v, n_tok, sizeof(*m->id));
	m->pos = carve(v, n_tok, sizeof(*m->pos));
	m->slot_of = carve(v, n_tok, sizeof(*m->slot_of));
	m->row = carve(v, n_tok, sizeof(*m->row));
	m->seq_row = carve(v, c->lim.max_step_seqs, sizeof(*m->seq_row));
	m->how = carve(v, n_tok, sizeof(*m->how));
	m->choice = carve(v, n_tok, sizeof(*m->choice));
	m->slot = carve(v, c->lim.n_slots, sizeof(*m->slot));
	m->table = carve(v, (uint64_t)c->lim.n_slots * c->lim.max_seq_blocks, sizeof(*m->table));
	m->max_seq_blocks = c->lim.max_seq_blocks;
	m->record_bytes = lay->record_bytes;
	m->top_off = lay->top_off;
}

/* Room for the partial results of the largest steps that use them, within PART_BYTES. */
static uint64_t part_floats(const struct plx_cu *c)
{
	uint64_t positions = (uint64_t)c->lim.max_seq_blocks * c->lim.block_tokens;
	uint64_t n_split = (positions + PLX_KC_ATTN_SPLIT - 1) / PLX_KC_ATTN_SPLIT;
	uint64_t one = c->m->n_head * n_split * (c->m->head_dim + 4);
	uint64_t most = PART_BYTES / sizeof(float);

	return one > most ? one : one * PLX_CU_HEAD_ROWS < most ? one * PLX_CU_HEAD_ROWS : most;
}

static void carve_all(struct carver *v, struct plx_cu *c)
{
	const struct plx_model *m = c->m;
	uint64_t n_tok = c->lim.max_step_tokens;
	uint64_t positions = (uint64_t)c->lim.max_seq_blocks * c->lim.block_tokens;
	uint32_t n_att = m->n_head * m->head_dim;
	struct plx_step_layout lay;

	plx_step_layout_make(&c->lim, &lay);
	c->part_floats = part_floats(c);
	c->logit_stride = (m->n_vocab + 63) & ~63u;
	c->rope = carve(v, positions * m->n_rot, sizeof(float));
	c->x = carve(v, n_tok * m->n_embd, sizeof(float));
	c->qkv = carve(v, n_tok * (n_att + 2 * m->n_head_kv * m->head_dim), sizeof(float));
	c->att = carve(v, n_tok * n_att, sizeof(float));
	c->gate = carve(v, n_tok * m->n_ff, sizeof(float));
	c->up = carve(v, n_tok * m->n_ff, sizeof(float));
	c->logits = carve(v, (uint64_t)PLX_CU_HEAD_ROWS * c->logit_stride, sizeof(float));
	c->part = carve(v, c->part_floats, sizeof(float));
	c->arrived = carve(v, m->n_head, sizeof(*c->arrived));
	c->scan = carve(v, PLX_CU_HEAD_ROWS, sizeof(*c->scan));
	carve_act(v, &c->act_norm, (uint32_t)n_tok, m->n_embd);
	carve_act(v, &c->act_att, (uint32_t)n_tok, n_att);
	carve_act(v, &c->act_mid, (uint32_t)n_tok, m->n_ff);
	carve_act(v, &c->act_last, PLX_CU_HEAD_ROWS, m->n_embd);
	carve_step(v, c, &lay);
}

uint64_t plx_cu_work_bytes(const struct plx_model *m, const struct plx_dev_limits *lim)
{
	struct plx_cu *c = calloc(1, sizeof(*c));
	struct carver v = {0};

	if (c == NULL)
		return 0;
	c->m = m;
	c->lim = *lim;
	carve_all(&v, c);
	free(c);
	return v.bytes;
}

void plx_cu_tables_make(struct plx_cu *c)
{
	struct carver v = {.base = c->work};

	carve_all(&v, c);
	c->mem.records = c->records;
	c->mem.bell = c->bell;
}

int plx_cu_queue_make(struct plx_cu *c, struct plx_diag *d)
{
	struct plx_cu_queue *q = calloc(1, sizeof(*q));
	struct plx_step_layout lay;
	struct plx_dev_info info = {.caps = 0};

	if (q == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: out of memory", c->conf.name);
	c->spare = q;
	plx_step_layout_make(&c->lim, &lay);
	(void)plx_cu_ops.info(&c->base, &info);
	q->base.dev = &c->base;
	q->cu = c;
	q->records = c->records;
	q->check.lim = c->lim;
	q->check.lay = lay;
	q->check.n_vocab = c->m->n_vocab;
	q->check.caps = info.caps;
	q->busy_step = calloc(c->lim.steps_in_flight, sizeof(*q->busy_step));
	q->check.slot = calloc(c->lim.n_slots, sizeof(*q->check.slot));
	q->check.undo = calloc(plx_step_undo_entries(&c->lim, &lay), sizeof(*q->check.undo));
	if (q->busy_step == NULL || q->check.slot == NULL || q->check.undo == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: out of memory", c->conf.name);
	for (uint32_t i = 0; i < c->lim.steps_in_flight; i++)
		plx_step_format(plx_cu_queue_step(&q->base, i), &lay);
	return PLX_E_OK;
}
