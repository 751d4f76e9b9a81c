/* What the CPU device keeps beside weights, KV and the pass: slots, the queue, sampling. */
#include "accel/cpu.h"
#include "fw/base/check.h"

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

/* Entries of a slot's `where`: only a model with windows asks for it. */
static uint64_t where_places(const struct plx_dev_limits *l, const struct plx_model *m)
{
	return m->window > 0 ? (uint64_t)l->max_seq_blocks * l->block_tokens : 0;
}

uint64_t plx_cpu_table_bytes(const struct plx_dev_limits *l, const struct plx_model *m)
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
	       l->n_slots * align64(where_places(l, m) * sizeof(uint32_t)) +
	       t.n_head_row * t.scratch_bytes +
	       align64(t.n_head_row * sizeof(struct plx_choosing)) +
	       l->n_threads * align64(sizeof(struct plx_cpu_stats)) +
	       align64(l->max_step_tokens * sizeof(struct plx_choice)) +
	       align64(l->max_step_tokens * sizeof(uint32_t));
}

static void *take(struct plx_cpu *c, uint64_t n, uint64_t elem_bytes)
{
	void *p = plx_arena_take(&c->work, align64(n * elem_bytes), 64);

	PLX_CHECK(p != NULL); /* plx_cpu_table_bytes counts the same things */
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
	for (uint32_t i = 0; i < lim->n_slots; i++) {
		c->slot[i].table = take(c, lim->max_seq_blocks, sizeof(uint32_t));
		if (c->m->window > 0)
			c->slot[i].where = take(c, where_places(lim, c->m), sizeof(uint32_t));
	}
	c->scratch_bytes = t.scratch_bytes;
	c->scratch = take(c, t.n_head_row, t.scratch_bytes);
	c->choosing = take(c, t.n_head_row, sizeof(*c->choosing));
	c->stats = take(c, lim->n_threads, align64(sizeof(*c->stats)));
	c->choice = take(c, lim->max_step_tokens, sizeof(*c->choice));
	c->row_seq = take(c, lim->max_step_tokens, sizeof(*c->row_seq));
}

void plx_cpu_tables_make(struct plx_cpu *c)
{
	slots_make(c);
	queue_make(c);
}
