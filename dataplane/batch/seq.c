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
	if (s->flags & PLX_SEQF_SPARSE)
		add_delta(st, PLX_DELTA_SPARSE, slot, s->n_pool, s->sparse_mass, s->sparse_chunks);
	s->set_pending = false;
	s->slot_dirty = true;
}

/* Deltas that the sequence's next token needs at most. */
static uint32_t deltas_for_one(const struct plx_seq *s, uint32_t block_tokens)
{
	uint32_t blocks = plx_seq_pos(s) / block_tokens + 1;

	return (s->set_pending ? 2u + ((s->flags & PLX_SEQF_SPARSE) != 0) : 0u) + s->untold +
	       (s->evict == PLX_SEQ_EVICT_TELL) + (blocks > s->n_told ? blocks - s->n_told : 0u);
}

static void tell_up_to(struct plx_seq *s, uint32_t slot, struct plx_step *st, uint32_t n_blocks)
{
	for (; s->n_told < n_blocks; s->n_told++)
		add_delta(st, PLX_DELTA_BLOCK, slot, s->n_told, s->block[s->n_told], 0);
}

/* The blocks that moved, where the device does not know them there, then that they did. */
static void tell_shift(struct plx_seq *s, uint32_t slot, struct plx_step *st)
{
	uint32_t n = s->shift->n_blocks - s->shift->drop;

	tell_up_to(s, slot, st, n);
	add_delta(st, PLX_DELTA_SHIFT, slot, PLX_SHIFT_SINKS, s->shift->drop, n);
	s->untold = false;
}

/* Tokens out of n whose blocks fit the record's deltas, at least one; tells the blocks. */
static uint32_t tell_blocks(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f, uint32_t n)
{
	uint32_t pos = plx_seq_pos(s), want = (pos + n + f->block_tokens - 1) / f->block_tokens;
	uint32_t room = f->step->max_deltas - f->step->n_delta;

	PLX_DCHECK(want <= s->n_blocks);
	if (want > s->n_told && want - s->n_told > room)
		want = s->n_told + room;
	tell_up_to(s, slot, f->step, want);
	uint32_t can = s->n_told * f->block_tokens - pos;

	return can < n ? can : n;
}

static void add_tokens(struct plx_seq *s, struct plx_step *st, uint32_t n)
{
	struct plx_step_tok *t = &plx_step_toks(st)[st->n_tok];

	for (uint32_t i = 0; i < n; i++) {
		uint32_t pos = s->n_run + i;

		t[i] = (struct plx_step_tok){
		    .id = pos < s->n_known ? s->ids[pos] : PLX_TOK_LAST,
		    .pos = {pos - s->n_left, 0, 0},
		    .parent = -1,
		    .flags = pos + 1 >= s->n_known && !s->score ? (uint32_t)PLX_TOKF_LOGITS : 0u,
		};
		if (s->score && pos + 1 < s->n_prompt) {
			t[i].flags = PLX_TOKF_SCORE;
			t[i].pos[1] = (uint32_t)s->ids[pos + 1];
		}
	}
}

void plx_seq_evict_begin(struct plx_seq *s, uint32_t block_tokens)
{
	uint32_t gone = s->n_prompt - s->n_stay;

	PLX_DCHECK(s->n_left == 0 && s->n_draft == 0 && s->n_run >= s->n_prompt);
	for (uint32_t p = s->n_prompt; p < s->n_run; p++)
		s->keep[p / 64] |= UINT64_C(1) << (p % 64);
	s->keep_from = s->n_run;
	s->n_left = s->n_evicted = gone;
	s->n_told = (s->n_run - gone + block_tokens - 1) / block_tokens;
	s->evict = PLX_SEQ_EVICT_TELL;
}

void plx_seq_evict_came(struct plx_seq *s, struct plx_prefix *p)
{
	uint32_t bt = p->block_tokens, need = (plx_seq_pos(s) + bt - 1) / bt;

	while (s->n_blocks > need)
		plx_prefix_drop(p, s->block[--s->n_blocks]);
	s->evict = PLX_SEQ_EVICT_DONE;
}

static void tell_keep(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f)
{
	memcpy(plx_step_keep(f->step), s->keep, ((size_t)s->keep_from + 63) / 64 * 8);
	add_delta(f->step, PLX_DELTA_KEEP, slot, s->keep_from, 0, s->n_told);
	s->evict = PLX_SEQ_EVICT_TOLD;
	f->keeps = true;
}

/* The prompt ends with these n tokens: what they attend to decides what of it may go. */
static uint32_t observe(struct plx_seq *s, struct plx_seq_fill *f, uint32_t n)
{
	if (s->evict != PLX_SEQ_EVICT_WANT || s->n_run + n < s->n_prompt)
		return 0;
	s->evict = PLX_SEQ_EVICT_LOOK;
	f->observes = true;
	return PLX_SEQF_OBSERVE;
}

uint32_t plx_seq_give(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f, uint32_t n,
                      const struct plx_sampler *sampler)
{
	struct plx_step *st = f->step;
	uint32_t left = f->max_tok - st->n_tok;

	n = n < left ? n : left;
	if (plx_seq_group(s) > 1 && s->n_run + n < s->n_pool)
		n -= (s->n_run + n) % PLX_SPARSE_POOL;
	if (n == 0 || st->n_seq == f->max_seq ||
	    st->max_deltas - st->n_delta < deltas_for_one(s, f->block_tokens))
		return 0;
	if (s->set_pending)
		set_slot(s, slot, st, sampler);
	if (s->untold)
		tell_shift(s, slot, st);
	if (s->evict == PLX_SEQ_EVICT_TELL)
		tell_keep(s, slot, f);
	n = tell_blocks(s, slot, f, n);
	add_tokens(s, st, n);
	plx_step_seqs(st)[st->n_seq++] =
	    (struct plx_step_seq){.slot = slot,
	                          .first_tok = st->n_tok,
	                          .n_tok = n,
	                          .n_top = s->n_top,
	                          .flags = s->flags | observe(s, f, n)};
	st->n_tok += n;
	s->n_run += n;
	s->in_flight++;
	return n;
}

/* Drafts of d that stand at most `most` places behind the token given last, at most `left`, up to
 * the first that does not; *depth: of the furthest. */
static uint32_t add_drafts(struct plx_seq *s, struct plx_step *st, const struct plx_draft *d,
                           uint32_t left, uint32_t most, uint32_t *depth)
{
	uint32_t first = st->n_tok, root = plx_seq_pos(s) - 1, i = 0;

	*depth = 0;
	for (; i < d->n && i < left; i++) {
		int32_t up = (int32_t)first + d->parent[i];
		uint32_t pos = plx_step_toks(st)[up].pos[0] + 1;

		if (pos - root > most)
			break;
		plx_step_toks(st)[st->n_tok++] = (struct plx_step_tok){
		    .id = d->id[i],
		    .pos = {pos, 0, 0},
		    .parent = d->parent[i] == (int32_t)i - 1 ? -1 : up,
		    .flags = d->tell ? PLX_TOKF_LOGITS | PLX_TOKF_SAMPLED : PLX_TOKF_LOGITS};
		*depth = pos - root > *depth ? pos - root : *depth;
	}
	return i;
}

uint32_t plx_seq_give_drafts(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f,
                             const struct plx_draft *d)
{
	struct plx_step *st = f->step;
	struct plx_step_seq *q = &plx_step_seqs(st)[st->n_seq - 1];
	uint32_t left = f->max_tok - st->n_tok, to_shift = s->shift_at - s->n_run, depth;
	uint32_t held = s->n_blocks * f->block_tokens - plx_seq_pos(s);
	uint32_t most = plx_draft_depth(d, d->n);

	PLX_DCHECK(q->slot == slot && s->in_flight == 1 && d->n <= PLX_MAX_DRAFT);
	most = most < held ? most : held;
	most = most < to_shift ? most : to_shift;
	if (most > 0)
		most = tell_blocks(s, slot, f, most);
	uint32_t n = add_drafts(s, st, d, left, most, &depth);

	if (n > 0 && d->tell)
		plx_step_toks(st)[q->first_tok + q->n_tok - 1].flags |= PLX_TOKF_SAMPLED;
	q->n_tok += n;
	q->n_draft = n;
	s->n_draft = depth;
	s->n_run += depth;
	return n;
}

void plx_seq_drafts_came(struct plx_seq *s, uint32_t n_accepted)
{
	PLX_DCHECK(n_accepted <= s->n_draft);
	s->n_run -= s->n_draft - n_accepted;
	s->n_draft = 0;
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

	while (s->n_left == 0 && !s->score && !s->evict &&
	       (s->n_published + 1) * bt <= plx_seq_shareable(s, s->n_ok)) {
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

void plx_seq_shift(struct plx_seq *s, struct plx_prefix *p)
{
	const uint32_t first = PLX_SHIFT_SINKS, n = s->shift->drop;

	PLX_DCHECK(s->in_flight == 0 && s->n_run == s->shift_at && !s->untold &&
	           s->n_blocks == s->shift->n_blocks);
	for (uint32_t i = n; i-- > 0;)
		plx_prefix_drop(p, s->block[first + i]);
	s->n_blocks -= n;
	memmove(&s->block[first], &s->block[first + n], 4 * (size_t)(s->n_blocks - first));
	s->n_left += plx_shift_step(s->shift);
	s->shift_at += plx_shift_step(s->shift);
	s->n_told = s->n_told < first ? s->n_told : first;
	s->untold = true;
}

void plx_seq_restart(struct plx_seq *s, struct plx_prefix *p, uint64_t tenant)
{
	PLX_DCHECK(s->in_flight == 0);
	drop_blocks(s, p);
	s->n_known = s->n_prompt + s->n_out;
	s->n_run = s->n_ok = s->n_shared = 0;
	s->n_told = s->n_published = s->n_left = 0;
	s->untold = false;
	if (s->evict)
		s->evict = PLX_SEQ_EVICT_WANT;
	s->n_evicted = 0;
	plx_seq_may_shift(s, s->shift);
	plx_seq_may_score(s, s->score, s->score_span);
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
