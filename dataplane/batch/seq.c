/* One sequence's share of a step, and what comes back. */
#include "dataplane/batch/seq.h"

#include <string.h>

#include "fw/base/check.h"

static void add_delta(struct plx_step *st, uint32_t kind, uint32_t slot, uint32_t index,
                      uint32_t block, uint32_t sampler_off)
{
	PLX_DCHECK(st->n_delta < st->max_deltas);
	plx_step_deltas(st)[st->n_delta++] = (struct plx_step_delta){
	    .kind = kind, .slot = slot, .index = index, .block = block, .sampler_off = sampler_off};
}

/* The ids before the first that this slot runs, so that a shared prefix is penalised as well. */
static void fill_recent(struct plx_sampler *w, const struct plx_seq *s)
{
	uint32_t n = s->n_run < w->penalty_window ? s->n_run : w->penalty_window;

	w->n_recent = n;
	memcpy(w->recent, &s->ids[s->n_run - n], 4 * (size_t)n);
}

static void set_slot(struct plx_seq *s, uint32_t slot, struct plx_step *st,
                     const struct plx_sampler *sampler)
{
	struct plx_sampler *w = &plx_step_samplers(st)[st->n_sampler];
	uint32_t off = st->sampler_off + st->n_sampler * (uint32_t)sizeof(*w);

	st->n_sampler++;
	*w = *sampler;
	w->sample = s->sample;
	fill_recent(w, s);
	if (s->slot_dirty)
		add_delta(st, PLX_DELTA_SLOT_CLEAR, slot, 0, 0, 0);
	add_delta(st, PLX_DELTA_SLOT_SET, slot, 0, 0, off);
	s->set_pending = false;
	s->slot_dirty = true;
}

/* Deltas that the sequence's next token needs at most. */
static uint32_t deltas_for_one(const struct plx_seq *s, uint32_t block_tokens)
{
	uint32_t blocks = s->n_run / block_tokens + 1;

	return (s->set_pending ? 2u : 0u) + (blocks > s->n_told ? blocks - s->n_told : 0u);
}

/* Tokens out of n whose blocks fit the record's deltas, at least one; tells the blocks. */
static uint32_t tell_blocks(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f, uint32_t n)
{
	uint32_t want = (s->n_run + n + f->block_tokens - 1) / f->block_tokens;
	uint32_t room = f->step->max_deltas - f->step->n_delta;

	PLX_DCHECK(want <= s->n_blocks);
	if (want > s->n_told && want - s->n_told > room)
		want = s->n_told + room;
	for (; s->n_told < want; s->n_told++)
		add_delta(f->step, PLX_DELTA_BLOCK, slot, s->n_told, s->block[s->n_told], 0);
	uint32_t can = s->n_told * f->block_tokens - s->n_run;

	return can < n ? can : n;
}

static void add_tokens(struct plx_seq *s, struct plx_step *st, uint32_t n)
{
	struct plx_step_tok *t = &plx_step_toks(st)[st->n_tok];

	for (uint32_t i = 0; i < n; i++) {
		uint32_t pos = s->n_run + i;

		t[i] = (struct plx_step_tok){
		    .id = pos < s->n_known ? s->ids[pos] : PLX_TOK_LAST,
		    .pos = {pos, 0, 0},
		    .parent = -1,
		    .flags = pos + 1 >= s->n_known ? (uint32_t)PLX_TOKF_LOGITS : 0u,
		};
	}
}

uint32_t plx_seq_give(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f, uint32_t n,
                      const struct plx_sampler *sampler)
{
	struct plx_step *st = f->step;
	uint32_t left = f->max_tok - st->n_tok;

	n = n < left ? n : left;
	if (n == 0 || st->n_seq == f->max_seq ||
	    st->max_deltas - st->n_delta < deltas_for_one(s, f->block_tokens))
		return 0;
	if (s->set_pending)
		set_slot(s, slot, st, sampler);
	n = tell_blocks(s, slot, f, n);
	add_tokens(s, st, n);
	plx_step_seqs(st)[st->n_seq++] = (struct plx_step_seq){
	    .slot = slot, .first_tok = st->n_tok, .n_tok = n, .n_top = s->n_top, .flags = s->flags};
	st->n_tok += n;
	s->n_run += n;
	s->in_flight++;
	return n;
}

static bool is_eog(int32_t id, const int32_t *eog, uint32_t n_eog)
{
	for (uint32_t i = 0; i < n_eog; i++)
		if (eog[i] == id)
			return true;
	return false;
}

enum plx_seq_end plx_seq_take(struct plx_seq *s, uint32_t n_tok, const int32_t *id,
                              const int32_t *eog, uint32_t n_eog)
{
	s->n_ok += n_tok;
	if (!id)
		return PLX_SEQ_END_NONE;
	if (!s->ignore_eos && is_eog(*id, eog, n_eog))
		return PLX_SEQ_END_EOS;
	s->ids[s->n_prompt + s->n_out] = *id;
	s->n_out++;
	if (s->n_out < s->max_new)
		return PLX_SEQ_END_NONE;
	return s->by_context ? PLX_SEQ_END_CONTEXT : PLX_SEQ_END_LENGTH;
}

void plx_seq_publish(struct plx_seq *s, struct plx_prefix *p)
{
	uint32_t bt = p->block_tokens;

	while ((s->n_published + 1) * bt <= s->n_ok) {
		plx_prefix_add(p, &s->at, &s->ids[s->n_published * bt], s->block[s->n_published]);
		s->n_published++;
	}
}

/* The last first: a block is parked, and so evicted, before the one it hangs on. */
static void drop_blocks(struct plx_seq *s, struct plx_prefix *p)
{
	while (s->n_blocks > 0)
		plx_prefix_drop(p, s->block[--s->n_blocks]);
}

void plx_seq_restart(struct plx_seq *s, struct plx_prefix *p, uint32_t tenant)
{
	PLX_DCHECK(s->in_flight == 0);
	drop_blocks(s, p);
	s->n_known = s->n_prompt + s->n_out;
	s->n_run = s->n_ok = s->n_shared = 0;
	s->n_told = s->n_published = 0;
	s->at = plx_prefix_begin(tenant);
	s->set_pending = true;
	s->own = true;
	s->leaving = false;
}

void plx_seq_release(struct plx_seq *s, struct plx_prefix *p)
{
	drop_blocks(s, p);
	s->state = PLX_SEQ_FREE;
}
