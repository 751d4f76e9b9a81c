/* The fake device; see fake_device.h. */
#include "tests/lib/fake_device.h"

#include <stdlib.h>
#include <string.h>

#include "accel/step.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"

struct fake_slot {
	uint32_t *block;
	int32_t last;
	struct plx_sampler sampler;
};

/* What a position of a block holds. */
struct fake_cell {
	uint64_t v;   /* hash of what was run there */
	uint32_t pos; /* that it is rotated to */
};

/* A step, or the copy of one block. */
struct fake_entry {
	bool is_copy;
	uint32_t step_idx;
	struct plx_block_copy pair;
	struct plx_fake *src; /* COPY: whose blocks */
	uint64_t at_ns;       /* STEP: given */
};

#define FIFO 4096u
#define CAPS (PLX_CAP_LAST | PLX_CAP_LOGPROBS | PLX_CAP_DRAFT | PLX_CAP_SHIFT | PLX_CAP_TREE)

struct fake_queue {
	struct plx_queue q;
	uint8_t *arena;
	struct fake_entry fifo[FIFO];
	uint32_t head, tail; /* of fifo */
	uint32_t polled;     /* polls of the oldest step */
};

struct plx_fake {
	struct plx_dev dev;
	struct plx_fake_conf conf;
	struct plx_step_checker chk;
	struct fake_slot *slot;
	struct fake_cell *kv; /* [n_blocks + n_host_blocks][block_tokens] */
	struct fake_queue queue;
	uint64_t generation;
	uint64_t now_ns; /* its own clock, where steps take a stated time */
	uint32_t n_resets;
	uint64_t free_ns; /* end of the last step, by the test's clock */
};

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ (h >> 29);
}

static uint64_t mix_begin(uint64_t seed, uint32_t sample)
{
	return mix(mix(1, seed), sample);
}

/* What is kept of a token: the one before it stands for all of its past. */
static uint64_t cell(uint64_t before, uint32_t pos, int32_t id)
{
	return mix(mix(mix(3, before), pos), (uint64_t)id);
}

static int32_t pick(const struct plx_fake_conf *c, uint64_t h)
{
	if (c->eog_every && h % c->eog_every == 0)
		return (int32_t)c->eog_id;
	int32_t id = (int32_t)((h >> 20) % c->n_vocab);

	return c->eog_every && id == (int32_t)c->eog_id ? (id + 1) % (int32_t)c->n_vocab : id;
}

uint32_t plx_fake_expect(const struct plx_fake_conf *c, const int32_t *prompt, uint32_t n_prompt,
                         uint64_t seed, uint32_t sample, uint32_t max_new, int32_t *out)
{
	static const struct plx_fake_window none = {0};

	return plx_fake_expect_window(c, &none, prompt, n_prompt, seed, sample, max_new, out);
}

/* A text as far as it was run. */
struct text {
	uint64_t v[4096]; /* cells of its context */
	uint32_t n;
	uint64_t h; /* of them */
};

static void text_run(struct text *t, const struct plx_fake_window *w, uint64_t begin, int32_t id)
{
	if (w->window && t->n == w->window) {
		t->n -= w->drop;
		memmove(&t->v[w->sinks], &t->v[w->sinks + w->drop],
		        (t->n - w->sinks) * sizeof(t->v[0]));
		t->h = begin;
		for (uint32_t i = 0; i < t->n; i++)
			t->h = mix(t->h, t->v[i]);
	}
	PLX_CHECK(t->n < 4096);
	t->v[t->n] = cell(t->n > 0 ? t->v[t->n - 1] : 0, t->n, id);
	t->h = mix(t->h, t->v[t->n]);
	t->n++;
}

uint32_t plx_fake_expect_window(const struct plx_fake_conf *c, const struct plx_fake_window *w,
                                const int32_t *prompt, uint32_t n_prompt, uint64_t seed,
                                uint32_t sample, uint32_t max_new, int32_t *out)
{
	static struct text t;
	uint64_t begin = mix_begin(seed, sample);

	t.n = 0;
	t.h = begin;
	for (uint32_t i = 0; i < n_prompt; i++)
		text_run(&t, w, begin, prompt[i]);
	for (uint32_t n = 0; n < max_new; n++) {
		out[n] = pick(c, t.h);
		if (c->eog_every && out[n] == (int32_t)c->eog_id)
			return n;
		text_run(&t, w, begin, out[n]);
	}
	return max_new;
}

static struct fake_cell *kv_at(struct plx_fake *f, const struct fake_slot *s, uint32_t pos)
{
	uint32_t bt = f->chk.lim.block_tokens;

	return &f->kv[(size_t)s->block[pos / bt] * bt + pos % bt];
}

static int fake_info(struct plx_dev *dev, struct plx_dev_info *out)
{
	struct plx_fake *f = (struct plx_fake *)dev;

	strcpy(out->name, "fake");
	strcpy(out->numeric_kind, "hash");
	out->caps = CAPS;
	out->n_vocab = f->conf.n_vocab;
	return 0;
}

static struct plx_step *step_at(struct plx_fake *f, uint32_t idx)
{
	return (struct plx_step *)(void *)(f->queue.arena + (size_t)idx * f->chk.lay.record_bytes);
}

static struct plx_step *fake_step(struct plx_queue *q, uint32_t idx)
{
	struct plx_fake *f = (struct plx_fake *)q->dev;

	return idx < f->chk.lim.steps_in_flight ? step_at(f, idx) : NULL;
}

static int fake_queue_open(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d)
{
	struct plx_fake *f = (struct plx_fake *)dev;

	(void)d;
	f->queue.q.dev = dev;
	*out = &f->queue.q;
	return 0;
}

static int fake_submit(struct plx_queue *q, uint32_t idx)
{
	struct plx_fake *f = (struct plx_fake *)q->dev;

	if (f->conf.refuse_again)
		return PLX_E_AGAIN;
	struct plx_step *st = step_at(f, idx);
	int e = plx_step_accept(&f->chk, st);

	if (e)
		return e;
	st->generation = f->generation;
	f->queue.fifo[f->queue.tail++ % FIFO] =
	    (struct fake_entry){.step_idx = idx, .at_ns = f->conf.clock ? *f->conf.clock : 0};
	return 0;
}

static int fake_copy(struct plx_queue *dst, struct plx_queue *src,
                     const struct plx_block_copy *pairs, uint32_t n)
{
	struct plx_fake *f = (struct plx_fake *)dst->dev, *from = (struct plx_fake *)src->dev;
	uint32_t n_blocks = f->chk.lim.n_blocks + f->chk.lim.n_host_blocks;
	uint32_t n_from = from->chk.lim.n_blocks + from->chk.lim.n_host_blocks;

	if (f != from && f->chk.lim.block_tokens != from->chk.lim.block_tokens)
		return PLX_E_UNSUPPORTED;
	if (f != from && f->conf.copy_err)
		return f->conf.copy_err;
	if (f->conf.refuse_again || f->queue.tail - f->queue.head + n > FIFO)
		return PLX_E_AGAIN;
	for (uint32_t i = 0; i < n; i++)
		if (pairs[i].src >= n_from || pairs[i].dst >= n_blocks)
			return PLX_E_INVAL;
	for (uint32_t i = 0; i < n; i++)
		f->queue.fifo[f->queue.tail++ % FIFO] =
		    (struct fake_entry){.is_copy = true, .pair = pairs[i], .src = from};
	return 0;
}

static void apply_delta(struct plx_fake *f, struct plx_step *st, const struct plx_step_delta *e)
{
	struct fake_slot *s = &f->slot[e->slot];

	if (e->kind == PLX_DELTA_SLOT_SET) {
		memcpy(&s->sampler, (char *)st + e->sampler_off, sizeof(s->sampler));
		s->last = -1;
	} else if (e->kind == PLX_DELTA_BLOCK) {
		s->block[e->index] = e->block;
	} else if (e->kind == PLX_DELTA_SHIFT) {
		uint32_t bt = f->chk.lim.block_tokens;

		for (uint32_t p = e->index * bt; p < e->n_blocks * bt; p++)
			kv_at(f, s, p)->pos -= e->block * bt;
	}
}

/* The id behind a row of hash h, as the k-th of the sequence's results. */
static void tell(struct plx_fake *f, struct plx_step *st, uint32_t i, uint64_t h, uint32_t k)
{
	const struct plx_step_seq *q = &plx_step_seqs(st)[i];
	struct plx_step_out *o = &plx_step_outs(st)[i];
	struct fake_slot *s = &f->slot[q->slot];

	s->last = pick(&f->conf, h);
	o->n_out = k + 1;
	o->n_accepted = k;
	o->id[k] = s->last;
	o->logprob[k] = -1.0f - (float)(h % 16);
	if (q->n_top == 0)
		return;
	o->top_off = f->chk.lay.top_off +
	             i * (PLX_MAX_DRAFT + 1) * PLX_MAX_TOP * (uint32_t)sizeof(struct plx_top);
	struct plx_top *top = (struct plx_top *)(void *)((char *)st + o->top_off) + k * q->n_top;

	for (uint32_t t = 0; t < q->n_top; t++)
		top[t] = (struct plx_top){(s->last + (int32_t)t) % (int32_t)f->conf.n_vocab,
		                          -1.0f - (float)t};
}

/* A row as its ancestors alone stand before it: the last cell of its path, and the hash of it all.
 */
struct row {
	uint64_t v, h;
	uint32_t pos;
	int32_t id;
};

static struct row row_behind(const struct row *up, uint32_t pos, int32_t id)
{
	struct row r = {.v = cell(up->v, pos, id), .pos = pos, .id = id};

	r.h = mix(up->h, r.v);
	return r;
}

/* What stands before position end, as read through the block table. */
static struct row row_at(struct plx_fake *f, const struct fake_slot *s, uint32_t end)
{
	struct row r = {.h = mix_begin(s->sampler.seed, s->sampler.sample)};

	for (uint32_t p = 0; p < end; p++) {
		const struct fake_cell *c = kv_at(f, s, p);

		r.h = mix(r.h, c->v + (c->pos != p));
		r.v = c->v;
	}
	return r;
}

static void put(struct plx_fake *f, const struct fake_slot *s, const struct row *r)
{
	*kv_at(f, s, r->pos) = (struct fake_cell){r->v, r->pos};
}

static uint32_t parent_of(const struct plx_step_tok *t, uint32_t first, uint32_t k)
{
	return t[k].parent < 0 ? k - 1 : (uint32_t)t[k].parent - first;
}

/* Rows first .. of a sequence; those that are not on the path taken leave their cells behind it. */
static void take_path(struct plx_fake *f, struct plx_step *st, uint32_t i, const struct row *row,
                      uint32_t root)
{
	const struct plx_step_seq *q = &plx_step_seqs(st)[i];
	struct plx_step_tok *t = &plx_step_toks(st)[q->first_tok];
	struct fake_slot *s = &f->slot[q->slot];
	uint32_t at = root, n = 0;

	for (uint32_t k = root; k < q->n_tok; k++)
		if (t[k].flags & PLX_TOKF_SAMPLED)
			t[k].pos[1] = (uint32_t)pick(&f->conf, row[k].h);
	for (;;) {
		put(f, s, &row[at]);
		tell(f, st, i, row[at].h, n++);
		uint32_t k = at + 1;

		while (k < q->n_tok && !(t[k].id == s->last && parent_of(t, q->first_tok, k) == at))
			k++;
		if (k == q->n_tok)
			return;
		at = k;
	}
}

/* Every token runs; rows are sampled, and taken as long as a draft is what was sampled. */
static void run_seq(struct plx_fake *f, struct plx_step *st, uint32_t i)
{
	static struct row row[4096];
	const struct plx_step_seq *q = &plx_step_seqs(st)[i];
	const struct plx_step_tok *t = &plx_step_toks(st)[q->first_tok];
	struct fake_slot *s = &f->slot[q->slot];
	uint32_t root = q->n_tok - 1 - q->n_draft;

	memset(&plx_step_outs(st)[i], 0, sizeof(struct plx_step_out));
	PLX_CHECK(q->n_tok <= 4096);
	struct row before = row_at(f, s, t[0].pos[0]);

	for (uint32_t k = 0; k < q->n_tok; k++) {
		const struct row *up = k == 0 ? &before : &row[parent_of(t, q->first_tok, k)];

		row[k] = row_behind(up, t[k].pos[0], t[k].id == PLX_TOK_LAST ? s->last : t[k].id);
		put(f, s, &row[k]);
	}
	if (t[q->n_tok - 1].flags & PLX_TOKF_LOGITS)
		take_path(f, st, i, row, root);
	if (f->conf.nan_slot1 == q->slot + 1) {
		plx_step_outs(st)[i].status = PLX_E_FAULT;
		plx_step_outs(st)[i].n_out = plx_step_outs(st)[i].n_accepted = 0;
		f->conf.nan_slot1 = 0;
	}
}

static void run_step(struct plx_fake *f, struct plx_step *st)
{
	st->start_ns = f->conf.step_ns ? f->now_ns : plx_clock_ns();
	for (uint32_t i = 0; i < st->n_delta; i++)
		apply_delta(f, st, &plx_step_deltas(st)[i]);
	/* The last first: sequences of one step may not count on each other. */
	for (uint32_t i = st->n_seq; i-- > 0;)
		run_seq(f, st, i);
	f->now_ns += f->conf.step_ns + st->n_tok * f->conf.tok_ns;
	st->end_ns = f->conf.step_ns ? f->now_ns : plx_clock_ns();
}

static void run_copy(struct plx_fake *f, const struct fake_entry *e)
{
	size_t bytes = sizeof(*f->kv) * f->chk.lim.block_tokens;

	memmove((char *)f->kv + e->pair.dst * bytes, (char *)e->src->kv + e->pair.src * bytes,
	        bytes);
}

/* When a step that is the oldest ends. */
static uint64_t end_ns(struct plx_fake *f, const struct fake_entry *e)
{
	uint64_t start = e->at_ns > f->free_ns ? e->at_ns : f->free_ns;

	return start + f->conf.step_ns + step_at(f, e->step_idx)->n_tok * f->conf.tok_ns;
}

static bool still_runs(struct plx_fake *f, const struct fake_entry *e)
{
	if (f->conf.hang)
		return true;
	if (f->conf.clock)
		return *f->conf.clock < end_ns(f, e);
	return f->queue.polled++ < f->conf.polls;
}

static void finish_step(struct plx_fake *f, const struct fake_entry *e, bool stale, bool cancelled)
{
	struct plx_step *st = step_at(f, e->step_idx);
	uint64_t end = end_ns(f, e);

	run_step(f, st);
	st->status = f->conf.fail_status;
	f->conf.fail_status = 0;
	if (stale || cancelled)
		st->status = stale ? PLX_E_LOST : PLX_E_CANCELLED;
	f->queue.polled = 0;
	if (!f->conf.clock)
		return;
	st->end_ns = stale || cancelled ? *f->conf.clock : end;
	st->start_ns = end - f->conf.step_ns - st->n_tok * f->conf.tok_ns;
	f->free_ns = st->end_ns;
}

static int fake_poll(struct plx_queue *q, uint32_t budget_us, uint32_t *done, uint32_t max_done)
{
	struct plx_fake *f = (struct plx_fake *)q->dev;
	struct fake_queue *fq = &f->queue;
	uint32_t n = 0;

	(void)budget_us;
	for (; fq->head != fq->tail && n < max_done; fq->head++) {
		const struct fake_entry *e = &fq->fifo[fq->head % FIFO];

		if (e->is_copy) {
			run_copy(f, e);
			continue;
		}
		struct plx_step *st = step_at(f, e->step_idx);
		bool stale = st->generation != f->generation;
		bool cancelled = __atomic_load_n(&st->cancel, __ATOMIC_RELAXED) != 0;

		if (!stale && !cancelled && still_runs(f, e))
			break;
		finish_step(f, e, stale, cancelled);
		done[n++] = e->step_idx;
	}
	return (int)n;
}

uint64_t plx_fake_next_ns(struct plx_fake *f)
{
	const struct fake_queue *fq = &f->queue;
	const struct fake_entry *e = &fq->fifo[fq->head % FIFO];

	if (fq->head == fq->tail || f->conf.hang)
		return UINT64_MAX;
	return e->is_copy ? *f->conf.clock : end_ns(f, e);
}

static int fake_reset(struct plx_dev *dev)
{
	struct plx_fake *f = (struct plx_fake *)dev;
	const struct plx_dev_limits *l = &f->chk.lim;

	if (f->conf.reset_err)
		return f->conf.reset_err;
	f->generation++;
	f->n_resets++;
	plx_step_checker_reset(&f->chk);
	memset(f->kv, 0xee,
	       sizeof(*f->kv) * ((size_t)l->n_blocks + l->n_host_blocks) * l->block_tokens);
	return 0;
}

static int fake_experts(struct plx_dev *dev, struct plx_dev_experts *out)
{
	*out = ((struct plx_fake *)dev)->conf.experts;
	return 0;
}

static void fake_close(struct plx_dev *dev)
{
	struct plx_fake *f = (struct plx_fake *)dev;

	for (uint32_t i = 0; i < f->chk.lim.n_slots; i++)
		free(f->slot[i].block);
	free(f->slot);
	free(f->kv);
	free(f->chk.slot);
	free(f->chk.undo);
	free(f->queue.arena);
	free(f);
}

static const struct plx_dev_ops fake_ops = {
    .info = fake_info,
    .queue_open = fake_queue_open,
    .queue_step = fake_step,
    .submit = fake_submit,
    .poll = fake_poll,
    .copy_blocks = fake_copy,
    .reset = fake_reset,
    .close = fake_close,
    .experts = fake_experts,
};

static void *zalloc(size_t n, size_t size)
{
	void *p = calloc(n, size);

	PLX_CHECK(p != NULL);
	return p;
}

struct plx_fake *plx_fake_open(const struct plx_dev_limits *lim, const struct plx_fake_conf *conf)
{
	struct plx_fake *f = zalloc(1, sizeof(*f));
	struct plx_diag d = {""};

	PLX_CHECK(plx_limits_check(lim, &d) == 0);
	f->dev.ops = &fake_ops;
	f->conf = *conf;
	f->chk.lim = *lim;
	f->chk.caps = CAPS;
	f->chk.n_vocab = conf->n_vocab;
	plx_step_layout_make(lim, &f->chk.lay);
	f->chk.slot = zalloc(lim->n_slots, sizeof(*f->chk.slot));
	f->chk.undo = zalloc(plx_step_undo_entries(lim, &f->chk.lay), sizeof(*f->chk.undo));
	f->slot = zalloc(lim->n_slots, sizeof(*f->slot));
	for (uint32_t i = 0; i < lim->n_slots; i++)
		f->slot[i].block = zalloc(lim->max_seq_blocks, 4);
	f->kv = zalloc(((size_t)lim->n_blocks + lim->n_host_blocks) * lim->block_tokens,
	               sizeof(*f->kv));
	f->queue.arena = zalloc(lim->steps_in_flight, f->chk.lay.record_bytes);
	f->queue.q.dev = &f->dev;
	for (uint32_t i = 0; i < lim->steps_in_flight; i++)
		plx_step_format(step_at(f, i), &f->chk.lay);
	return f;
}

struct plx_dev *plx_fake_dev(struct plx_fake *f)
{
	return &f->dev;
}

struct plx_fake_conf *plx_fake_conf(struct plx_fake *f)
{
	return &f->conf;
}

uint32_t plx_fake_resets(const struct plx_fake *f)
{
	return f->n_resets;
}
