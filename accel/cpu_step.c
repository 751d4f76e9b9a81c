/* A step on the CPU device: from a record to the pass's arrays, and from logits to results. */
#include <string.h>

#include "accel/cpu.h"
#include "accel/cpu_tree.h"
#include "accel/forward_tree.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

/* ---- deltas --------------------------------------------------------------------------------- */

/* Of n places, those that stay keep their positions; the others go. Returns how many go. */
static uint32_t places_keep(struct plx_cpu_slot *slot, const uint64_t *keep, uint32_t n)
{
	uint32_t to = 0;

	for (uint32_t p = 0; p < n; p++) {
		if ((keep[p / 64] >> (p % 64) & 1) == 0)
			continue;
		if (slot->where != NULL)
			slot->where[to] = p < slot->n_where ? slot->where[p] : p + slot->n_gone;
		to++;
	}
	slot->n_where = slot->where != NULL ? to : 0;
	return n - to;
}

/* Places from `first` on move down, and so do their positions. The batcher asks for no shift behind
 * an eviction (a text that was thinned out does not outgrow its context); no test does either. */
static void places_shift(struct plx_cpu_slot *slot, uint32_t first, uint32_t down)
{
	uint32_t p = first;

	for (; p + down < slot->n_where; p++)
		slot->where[p] = slot->where[p + down] - down;
	slot->n_where = p < slot->n_where ? p : slot->n_where;
}

static void delta_apply(struct plx_cpu *c, struct plx_step *s, const struct plx_step_delta *e)
{
	struct plx_cpu_slot *slot = &c->slot[e->slot];

	if (e->kind == PLX_DELTA_BLOCK) {
		slot->table[e->index] = e->block;
	} else if (e->kind == PLX_DELTA_SLOT_SET) {
		uint32_t i =
		    (e->sampler_off - s->sampler_off) / (uint32_t)sizeof(struct plx_sampler);

		plx_slot_sampler_set(&slot->sampler, plx_step_samplers(s) + i);
		slot->failed = false;
		slot->n_left = slot->n_gone = slot->n_where = 0;
		slot->sparse = (struct plx_fwd_choice){c->lim.sparse_mass, c->lim.sparse_chunks, 0};
	} else if (e->kind == PLX_DELTA_SHIFT) {
		uint32_t down = e->block * c->lim.block_tokens;

		slot->n_left += down;
		slot->sparse.n_pool -= slot->sparse.n_pool < down ? slot->sparse.n_pool : down;
		places_shift(slot, e->index * c->lim.block_tokens, down);
		plx_fwd_shift_add(&c->fwd, slot->table, e->index, e->n_blocks, down);
	} else if (e->kind == PLX_DELTA_KEEP) {
		const uint64_t *keep = plx_step_keep(s);
		uint32_t gone = places_keep(slot, keep, e->index);

		slot->n_left += gone;
		slot->n_gone += gone;
		slot->sparse.n_pool = 0;
		plx_fwd_evict_add(&c->fwd, slot->table, keep, e->index);
	} else if (e->kind == PLX_DELTA_SPARSE) {
		slot->sparse = (struct plx_fwd_choice){e->block, e->n_blocks, e->index};
	}
}

/* ---- laying a step out ---------------------------------------------------------------------- */

/* The id a token stands for. A slot that has none to feed back gave no token: it fails. */
static int32_t tok_id(struct plx_cpu_slot *slot, const struct plx_step_tok *t)
{
	if (t->id != PLX_TOK_LAST)
		return t->id;
	if (slot->sampler.last_id >= 0)
		return slot->sampler.last_id;
	slot->failed = true;
	return 0;
}

/* Token at of sequence i: its id and position, what is sampled, what it leaves to those behind. */
static void tok_lay(struct plx_cpu *c, const struct plx_step_tok *t, struct plx_cpu_slot *slot,
                    uint32_t i, uint32_t at)
{
	struct plx_fwd *f = &c->fwd;

	f->id[at] = tok_id(slot, t);
	f->pos[at] = t->pos[0];
	plx_slot_sampler_note(&slot->sampler, slot->n_left + f->pos[at], f->id[at]);
	if ((t->flags & (PLX_TOKF_LOGITS | PLX_TOKF_SCORE)) != 0) {
		c->row_seq[f->n_row] = i;
		f->row[f->n_row++] = at;
	}
}

static void seq_lay(struct plx_cpu *c, struct plx_step *s, uint32_t i)
{
	const struct plx_step_seq *q = &plx_step_seqs(s)[i];
	const struct plx_step_tok *tok = plx_step_toks(s);
	uint32_t root = q->first_tok + q->n_tok - 1 - q->n_draft;
	struct plx_cpu_slot *slot = &c->slot[q->slot];
	struct plx_fwd *f = &c->fwd;
	struct plx_fwd_seq *run = &f->seq[f->n_seq++];

	*run = (struct plx_fwd_seq){.table = slot->table,
	                            .first_tok = q->first_tok,
	                            .pos = tok[q->first_tok].pos[0],
	                            .ahead = slot->n_gone,
	                            .where = slot->where,
	                            .n_where = slot->n_where,
	                            .step_seq = i};
	if ((q->flags & PLX_SEQF_SPARSE) != 0)
		run->sparse = slot->sparse;
	for (uint32_t at = q->first_tok; at < q->first_tok + q->n_tok; at++) {
		if (at > q->first_tok && plx_cpu_tok_parent(tok, at) != at - 1) {
			run = &f->seq[f->n_seq++];
			*run = run[-1];
			run->table = plx_fwd_tree_branch(f, slot->table, tok[root].pos[0]);
			run->first_tok = at;
			run->n_tok = 0;
			run->pos = tok[at].pos[0];
		}
		run->n_tok++;
		tok_lay(c, &tok[at], slot, i, at);
	}
	if (f->tree != NULL)
		plx_cpu_tree_lay(c, tok, q);
}

bool plx_cpu_step_begin(struct plx_cpu *c, struct plx_step *s)
{
	c->fwd.n_shift = c->fwd.evict.n_pos = c->fwd.observe.n_query = 0;
	c->fwd.err = 0;
	for (uint32_t i = 0; i < s->n_delta; i++)
		delta_apply(c, s, plx_step_deltas(s) + i);
	if ((s->n_tok == 0 && c->fwd.n_shift + c->fwd.evict.n_pos == 0) ||
	    __atomic_load_n(&s->cancel, __ATOMIC_RELAXED) != 0)
		return false;
	c->fwd.n_tok = s->n_tok;
	uint32_t observed = UINT32_MAX;

	c->fwd.n_seq = c->fwd.n_row = 0;
	plx_fwd_tree_begin(&c->fwd);
	for (uint32_t i = 0; i < s->n_seq; i++) {
		if ((plx_step_seqs(s)[i].flags & PLX_SEQF_OBSERVE) != 0)
			observed = c->fwd.n_seq;
		seq_lay(c, s, i);
	}
	if (observed != UINT32_MAX)
		plx_fwd_observe(&c->fwd, observed);
	c->fwd.early = s->n_seq > 0 && (plx_step_seqs(s)[0].flags & PLX_SEQF_EARLY) != 0;
	plx_fwd_begin(&c->fwd);
	return true;
}

/* ---- sampling ------------------------------------------------------------------------------- */

/* Which of its sequence's sampled rows row is: 0 for the committed token, then the drafts. */
static uint32_t row_rank(const struct plx_cpu *c, uint32_t row, const struct plx_step_seq *q)
{
	return c->fwd.row[row] - (q->first_tok + q->n_tok - 1 - q->n_draft);
}

static uint32_t top_off(const struct plx_cpu *c, uint32_t seq)
{
	return c->queue->check.lay.top_off +
	       seq * (uint32_t)((PLX_MAX_DRAFT + 1) * PLX_MAX_TOP * sizeof(struct plx_top));
}

static void row_begin(struct plx_cpu *c, uint32_t i)
{
	uint32_t row = c->fwd.row0 + i;
	uint32_t seq = c->row_seq[row];
	const struct plx_step_seq *q = &plx_step_seqs(c->step)[seq];
	const struct plx_cpu_slot *slot = &c->slot[q->slot];
	const struct plx_step_tok *t = &plx_step_toks(c->step)[c->fwd.row[row]];
	char *tops = (char *)c->step + top_off(c, seq);

	if ((t->flags & PLX_TOKF_SCORE) != 0) {
		plx_slot_score_begin(&c->choosing[i], c->k,
		                     c->fwd.logits + (size_t)i * c->fwd.logit_stride, c->m->n_vocab,
		                     t->pos[1], c->scratch + i * c->scratch_bytes);
		return;
	}
	struct plx_top *top =
	    (struct plx_top *)(void *)tops + (size_t)row_rank(c, row, q) * q->n_top;

	struct plx_slot_sampler own;

	plx_slot_sampler_begin(&c->choosing[i], plx_cpu_tree_sampler(c, row, q, slot, &own), c->k,
	                       c->fwd.logits + (size_t)i * c->fwd.logit_stride, c->m->n_vocab,
	                       slot->n_left + c->fwd.pos[c->fwd.row[row]] + 1, top, q->n_top,
	                       c->scratch + i * c->scratch_bytes);
}

void plx_cpu_step_sample_begin(struct plx_cpu *c)
{
	for (uint32_t i = 0; i < c->fwd.n_head_row; i++)
		c->choosing[i].state = PLX_CHOOSING_NEW;
	atomic_store_explicit(&c->n_choosing, c->fwd.n_head_row, memory_order_relaxed);
}

void plx_cpu_step_sample(struct plx_cpu *c, uint32_t i)
{
	struct plx_choosing *g = &c->choosing[i];

	if (g->state == PLX_CHOOSING_DONE)
		return;
	if (g->state == PLX_CHOOSING_NEW)
		row_begin(c, i);
	if (!plx_slot_sampler_step(g, PLX_CPU_CHOOSE_BUDGET, c->scratch + i * c->scratch_bytes))
		return;
	c->choice[c->fwd.row0 + i] = g->choice;
	atomic_fetch_sub_explicit(&c->n_choosing, 1, memory_order_relaxed);
}

/* ---- results -------------------------------------------------------------------------------- */

/* What a path's row sampled, as the k-th of the outs; its alternatives go where they are wanted. */
static void out_put(struct plx_cpu *c, const struct plx_step_seq *q, uint32_t seq, uint32_t row,
                    uint32_t rank, uint32_t k)
{
	struct plx_step_out *out = &plx_step_outs(c->step)[seq];
	struct plx_top *top = (struct plx_top *)(void *)((char *)c->step + top_off(c, seq));

	out->id[k] = c->choice[row + rank].id;
	out->logprob[k] = c->choice[row + rank].logprob;
	if (k < rank && q->n_top > 0)
		memmove(top + (size_t)k * q->n_top, top + (size_t)rank * q->n_top,
		        q->n_top * sizeof(*top));
}

/* Takes the sampled tokens of a sequence along the path that they are. */
static void rows_accept(struct plx_cpu *c, uint32_t seq, uint32_t row, struct plx_step_out *out)
{
	const struct plx_step_seq *q = &plx_step_seqs(c->step)[seq];
	struct plx_step_tok *root =
	    plx_step_toks(c->step) + q->first_tok + q->n_tok - 1 - q->n_draft;
	struct plx_cpu_path path;

	plx_cpu_path_take(c, q, row, &path);
	if (path.status != 0) {
		out->status = path.status;
		return;
	}
	for (uint32_t k = 0; k < path.n; k++)
		out_put(c, q, seq, row, path.rank[k], k);
	out->n_out = path.n;
	out->n_accepted = path.n - 1;
	for (uint32_t k = 0; k <= q->n_draft; k++)
		if ((root[k].flags & PLX_TOKF_SAMPLED) != 0)
			root[k].pos[1] = (uint32_t)c->choice[row + k].id;
}

/* The log-probabilities that a sequence's tokens asked for; FAULT where one is not a number. */
static int rows_score(struct plx_cpu *c, uint32_t row, uint32_t end)
{
	for (; row < end; row++) {
		const struct plx_choice *ch = &c->choice[row];

		if (ch->status != 0)
			return ch->status;
		memcpy(&plx_step_toks(c->step)[c->fwd.row[row]].pos[2], &ch->logprob,
		       sizeof(ch->logprob));
	}
	return 0;
}

static void seq_finish(struct plx_cpu *c, uint32_t i, uint32_t row, uint32_t end,
                       struct plx_step_out *out)
{
	const struct plx_step_seq *q = &plx_step_seqs(c->step)[i];
	struct plx_cpu_slot *slot = &c->slot[q->slot];

	memset(out, 0, sizeof(*out));
	if (slot->failed) {
		out->status = PLX_E_FAULT;
		return;
	}
	if (row == end)
		return;
	if ((plx_step_toks(c->step)[c->fwd.row[row]].flags & PLX_TOKF_SCORE) != 0) {
		out->status = rows_score(c, row, end);
		slot->failed = out->status != 0;
		return;
	}
	rows_accept(c, i, row, out);
	if (out->status != 0) {
		slot->failed = true;
		return;
	}
	if (q->n_top > 0)
		out->top_off = top_off(c, i);
	uint32_t first_pos = slot->n_left + c->fwd.pos[c->fwd.row[row]] + 1;

	for (uint32_t k = 0; k < out->n_out; k++)
		plx_slot_sampler_note(&slot->sampler, first_pos + k, out->id[k]);
	slot->sampler.last_id = out->id[out->n_out - 1];
}

void plx_cpu_step_finish(struct plx_cpu *c, struct plx_step *s)
{
	uint32_t row = 0;

	if (c->fwd.observe.n_query > 0)
		plx_fwd_observed(&c->fwd, plx_step_obs(s));
	if (c->fwd.picks != NULL)
		plx_fwd_shares(&c->fwd, plx_step_shares(s));
	for (uint32_t i = 0; i < s->n_seq; i++) {
		uint32_t first = row;

		while (row < c->fwd.n_row && c->row_seq[row] == i)
			row++;
		seq_finish(c, i, first, row, &plx_step_outs(s)[i]);
	}
}

void plx_cpu_step_fail(struct plx_cpu *c, struct plx_step *s, int status)
{
	for (uint32_t i = 0; i < s->n_seq; i++) {
		memset(&plx_step_outs(s)[i], 0, sizeof(struct plx_step_out));
		if (c->fwd.picks != NULL)
			memset(&plx_step_shares(s)[i], 0, sizeof(struct plx_step_share));
		plx_step_outs(s)[i].status = status;
	}
}
