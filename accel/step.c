/* Step records: layout and acceptance. What is wrong is found before anything changes. */
#include "accel/step.h"

#include <math.h>
#include <string.h>

#include "fw/base/err.h"

#define RECORD_MAX_BYTES (UINT64_C(1) << 30)
#define PREFIX_TABLES    4u /* whole block tables one step's deltas can set */

static uint64_t align64(uint64_t v)
{
	return (v + 63) & ~UINT64_C(63);
}

static uint64_t deltas_max(const struct plx_dev_limits *l)
{
	return (plx_limits_sparse(l) ? 3 : 2) * (uint64_t)l->n_slots +
	       l->max_step_tokens / l->block_tokens + 2 * (uint64_t)l->max_step_seqs +
	       PREFIX_TABLES * (uint64_t)l->max_seq_blocks;
}

/* Lays the arrays out in 64 bits; out may be NULL where only the size matters. */
static uint64_t layout(const struct plx_dev_limits *l, struct plx_step_layout *out)
{
	uint64_t n_seq = l->max_step_seqs;
	uint64_t tok = align64(sizeof(struct plx_step));
	uint64_t seq = align64(tok + l->max_step_tokens * sizeof(struct plx_step_tok));
	uint64_t delta = align64(seq + n_seq * sizeof(struct plx_step_seq));
	uint64_t sampler = align64(delta + deltas_max(l) * sizeof(struct plx_step_delta));
	uint64_t res = align64(sampler + n_seq * sizeof(struct plx_sampler));
	uint64_t top = align64(res + n_seq * sizeof(struct plx_step_out));
	uint64_t obs =
	    align64(top + n_seq * (PLX_MAX_DRAFT + 1) * PLX_MAX_TOP * sizeof(struct plx_top));
	uint64_t places = (uint64_t)l->max_seq_blocks * l->block_tokens;
	uint64_t keep = align64(obs + places * sizeof(float));
	uint64_t share = align64(keep + (places + 63) / 64 * 8);
	uint64_t end = align64(share + n_seq * sizeof(struct plx_step_share));

	if (out != NULL)
		*out = (struct plx_step_layout){.record_bytes = (uint32_t)end,
		                                .tok_off = (uint32_t)tok,
		                                .seq_off = (uint32_t)seq,
		                                .delta_off = (uint32_t)delta,
		                                .sampler_off = (uint32_t)sampler,
		                                .out_off = (uint32_t)res,
		                                .top_off = (uint32_t)top,
		                                .max_deltas = (uint32_t)deltas_max(l),
		                                .obs_off = (uint32_t)obs,
		                                .keep_off = (uint32_t)keep,
		                                .share_off = (uint32_t)share};
	return end;
}

static int limit_range(const char *field, uint32_t v, uint32_t lo, uint32_t hi, struct plx_diag *d)
{
	if (v >= lo && v <= hi)
		return PLX_E_OK;
	return plx_diag_set(d, PLX_E_INVAL, "device limits: %s is %u; give %u to %u", field, v, lo,
	                    hi);
}

int plx_limits_check(const struct plx_dev_limits *l, struct plx_diag *d)
{
	int err = limit_range("n_slots", l->n_slots, 1, 1u << 20, d);

	if (err == 0)
		err = limit_range("n_blocks", l->n_blocks, 1, 1u << 28, d);
	if (err == 0)
		err = limit_range("n_host_blocks", l->n_host_blocks, 0, 1u << 28, d);
	if (err == 0)
		err = limit_range("kv_type", l->kv_type, 0, PLX_KV_N_TYPES - 1, d);
	if (err == 0)
		err = limit_range("sparse_mass", l->sparse_mass, 0, 1000, d);
	if (err == 0)
		err = limit_range("sparse_chunks", l->sparse_chunks, 0, 65535, d);
	if (err == 0)
		err = limit_range("block_tokens", l->block_tokens, 16, 256, d);
	if (err == 0 && (l->block_tokens & (l->block_tokens - 1)) != 0)
		err = plx_diag_set(d, PLX_E_INVAL,
		                   "device limits: block_tokens is %u; give a power of two",
		                   l->block_tokens);
	if (err == 0)
		err = limit_range("tree_branches", l->tree_branches, 0, PLX_MAX_TREE_BRANCHES, d);
	if (err == 0)
		err = limit_range("max_seq_blocks", l->max_seq_blocks, 1, 1u << 20, d);
	if (err == 0)
		err = limit_range("max_step_tokens", l->max_step_tokens, 1, 1u << 20, d);
	if (err == 0)
		err = limit_range("max_step_seqs", l->max_step_seqs, 1, l->n_slots, d);
	if (err == 0)
		err = limit_range("steps_in_flight", l->steps_in_flight, 2, 1024, d);
	if (err == 0)
		err = limit_range("n_threads", l->n_threads, 1, 256, d);
	if (err == 0 && layout(l, NULL) > RECORD_MAX_BYTES)
		err = plx_diag_set(d, PLX_E_LIMIT,
		                   "device limits: a step record would take %llu MiB; lower "
		                   "max_step_tokens or max_step_seqs",
		                   (unsigned long long)(layout(l, NULL) >> 20));
	return err;
}

void plx_step_layout_make(const struct plx_dev_limits *lim, struct plx_step_layout *out)
{
	(void)layout(lim, out);
}

void plx_step_format(struct plx_step *s, const struct plx_step_layout *lay)
{
	s->abi_version = PLX_ACCEL_ABI;
	s->record_bytes = lay->record_bytes;
	s->tok_off = lay->tok_off;
	s->seq_off = lay->seq_off;
	s->delta_off = lay->delta_off;
	s->sampler_off = lay->sampler_off;
	s->out_off = lay->out_off;
	s->max_deltas = lay->max_deltas;
	s->obs_off = lay->obs_off;
	s->keep_off = lay->keep_off;
	s->share_off = lay->share_off;
}

uint32_t plx_step_undo_entries(const struct plx_dev_limits *lim, const struct plx_step_layout *lay)
{
	return lay->max_deltas + lim->max_step_seqs;
}

static int header_check(const struct plx_step_checker *c, const struct plx_step *s)
{
	const struct plx_step_layout *y = &c->lay;

	if (s->abi_version != PLX_ACCEL_ABI || s->record_bytes != y->record_bytes ||
	    s->tok_off != y->tok_off || s->seq_off != y->seq_off || s->delta_off != y->delta_off ||
	    s->sampler_off != y->sampler_off || s->out_off != y->out_off ||
	    s->max_deltas != y->max_deltas || s->obs_off != y->obs_off ||
	    s->keep_off != y->keep_off || s->share_off != y->share_off)
		return PLX_E_INVAL;
	if (s->n_tok > c->lim.max_step_tokens || s->n_seq > c->lim.max_step_seqs ||
	    s->n_delta > y->max_deltas || s->n_sampler > c->lim.max_step_seqs)
		return PLX_E_INVAL;
	if ((s->n_tok == 0) != (s->n_seq == 0))
		return PLX_E_INVAL;
	return s->n_tok == 0 && s->n_delta == 0 ? PLX_E_INVAL : PLX_E_OK;
}

static int sampler_check(const struct plx_step_checker *c, const struct plx_sampler *p)
{
	if (!(isfinite(p->temperature) && p->temperature >= 0))
		return PLX_E_INVAL;
	if (!(p->top_p > 0 && p->top_p <= 1) || !(p->min_p >= 0 && p->min_p <= 1))
		return PLX_E_INVAL;
	if (!(isfinite(p->repeat_penalty) && p->repeat_penalty > 0))
		return PLX_E_INVAL;
	if (p->n_recent > PLX_PENALTY_WINDOW || p->penalty_window > PLX_PENALTY_WINDOW)
		return PLX_E_INVAL;
	for (uint32_t i = 0; i < p->n_recent; i++)
		if (p->recent[i] < 0 || (uint32_t)p->recent[i] >= c->n_vocab)
			return PLX_E_INVAL;
	return PLX_E_OK;
}

static void remember(struct plx_step_checker *c, uint32_t slot)
{
	c->undo[c->n_undo].slot = slot;
	c->undo[c->n_undo++].was = c->slot[slot];
}

/* A slot is set from one of the record's own samplers. */
static int slot_set_check(const struct plx_step_checker *c, struct plx_step *s, uint32_t off)
{
	uint32_t first = s->sampler_off;
	uint32_t bytes = (uint32_t)sizeof(struct plx_sampler);

	if (off < first || (off - first) % bytes != 0 || (off - first) / bytes >= s->n_sampler)
		return PLX_E_INVAL;
	return sampler_check(c, plx_step_samplers(s) + (off - first) / bytes);
}

/* The table gets shorter, and the tokens that moved were all behind those that left. */
static int shift_accept(const struct plx_step_checker *c, struct plx_slot_shadow *slot,
                        const struct plx_step_delta *e)
{
	uint64_t bt = c->lim.block_tokens;

	if ((c->caps & PLX_CAP_SHIFT) == 0)
		return PLX_E_UNSUPPORTED;
	if (!slot->live || slot->shifted == c->serial || e->block == 0 || e->index >= e->n_blocks ||
	    e->n_blocks > slot->n_blocks || e->block > c->lim.max_seq_blocks - e->n_blocks)
		return PLX_E_INVAL;
	slot->shifted = c->serial;
	slot->n_blocks = e->n_blocks;
	if (slot->next_pos == 0)
		return PLX_E_OK;
	if (slot->next_pos <= (e->index + e->block) * bt ||
	    slot->next_pos > (e->n_blocks + e->block) * bt)
		return PLX_E_INVAL;
	slot->next_pos -= (uint32_t)(e->block * bt);
	slot->n_pool -= slot->n_pool < e->block * bt ? slot->n_pool : (uint32_t)(e->block * bt);
	return PLX_E_OK;
}

/* Rows of what has run, but for drafts behind it; what stays fills the blocks that the table keeps.
 */
static int keep_accept(struct plx_step_checker *c, struct plx_slot_shadow *slot, struct plx_step *s,
                       const struct plx_step_delta *e)
{
	const uint64_t *keep = plx_step_keep(s);
	uint32_t n = 0, bt = c->lim.block_tokens;

	if ((c->caps & PLX_CAP_EVICT) == 0)
		return PLX_E_UNSUPPORTED;
	if (!slot->live || c->keeps || e->index == 0 || e->index > slot->next_pos)
		return PLX_E_INVAL;
	for (uint32_t p = 0; p < e->index; p++)
		n += keep[p / 64] >> (p % 64) & 1;
	if (n == 0 || e->n_blocks != (n + bt - 1) / bt)
		return PLX_E_INVAL;
	c->keeps = true;
	slot->n_gone += e->index - n;
	slot->next_pos = n;
	slot->n_blocks = e->n_blocks;
	slot->n_pool = 0;
	return PLX_E_OK;
}

static int sparse_accept(const struct plx_step_checker *c, struct plx_slot_shadow *slot,
                         const struct plx_step_delta *e)
{
	if ((c->caps & PLX_CAP_SPARSE) == 0 || !plx_limits_sparse(&c->lim))
		return PLX_E_UNSUPPORTED;
	if (!slot->live || slot->next_pos != 0 || e->block > 1000 || e->n_blocks > 65535 ||
	    e->index % PLX_SPARSE_POOL != 0)
		return PLX_E_INVAL;
	slot->n_pool = e->index;
	return PLX_E_OK;
}

static int delta_accept(struct plx_step_checker *c, struct plx_step *s,
                        const struct plx_step_delta *e)
{
	if (e->slot >= c->lim.n_slots)
		return PLX_E_INVAL;
	struct plx_slot_shadow *slot = &c->slot[e->slot];

	remember(c, e->slot);
	switch (e->kind) {
	case PLX_DELTA_SLOT_SET:
		if (slot->live || slot_set_check(c, s, e->sampler_off) != 0)
			return PLX_E_INVAL;
		slot->live = true;
		slot->has_last = false;
		slot->n_blocks = 0;
		slot->next_pos = 0;
		slot->n_gone = 0;
		slot->n_pool = 0;
		return PLX_E_OK;
	case PLX_DELTA_SLOT_CLEAR:
		if (!slot->live)
			return PLX_E_INVAL;
		slot->live = false;
		return PLX_E_OK;
	case PLX_DELTA_BLOCK:
		if (!slot->live || e->block >= c->lim.n_blocks || e->index > slot->n_blocks ||
		    e->index >= c->lim.max_seq_blocks)
			return PLX_E_INVAL;
		if (e->index == slot->n_blocks)
			slot->n_blocks++;
		return PLX_E_OK;
	case PLX_DELTA_SHIFT:
		return shift_accept(c, slot, e);
	case PLX_DELTA_KEEP:
		return keep_accept(c, slot, s, e);
	case PLX_DELTA_SPARSE:
		return sparse_accept(c, slot, e);
	default:
		return PLX_E_INVAL;
	}
}

/* Token i of a sequence whose last n_row tokens are sampled. */
static int tok_check(const struct plx_step_checker *c, const struct plx_step_tok *t,
                     const struct plx_step_seq *q, uint32_t i, bool has_last)
{
	bool sampled = (t->flags & PLX_TOKF_LOGITS) != 0;

	if ((t->flags & ~(uint32_t)(PLX_TOKF_LOGITS | PLX_TOKF_HIDDEN | PLX_TOKF_SCORE |
	                            PLX_TOKF_SAMPLED)) != 0)
		return PLX_E_INVAL;
	if ((t->flags & PLX_TOKF_SAMPLED) != 0 && (c->caps & PLX_CAP_TREE) == 0)
		return PLX_E_UNSUPPORTED;
	if ((t->flags & PLX_TOKF_SAMPLED) != 0 && !sampled)
		return PLX_E_INVAL;
	if ((t->flags & PLX_TOKF_SCORE) != 0 && (c->caps & PLX_CAP_SCORE) == 0)
		return PLX_E_UNSUPPORTED;
	if ((t->flags & PLX_TOKF_SCORE) != 0 && t->pos[1] >= c->n_vocab)
		return PLX_E_INVAL;
	if ((t->flags & PLX_TOKF_HIDDEN) != 0 && (c->caps & PLX_CAP_HIDDEN) == 0)
		return PLX_E_UNSUPPORTED;
	if (t->id < PLX_TOK_LAST && (c->caps & PLX_CAP_EMBED) == 0)
		return PLX_E_UNSUPPORTED;
	if (t->id == PLX_TOK_LAST && (i != 0 || !has_last || (c->caps & PLX_CAP_LAST) == 0))
		return PLX_E_INVAL;
	if (t->id >= 0 && (uint32_t)t->id >= c->n_vocab)
		return PLX_E_INVAL;
	if (i + 1 + q->n_draft < q->n_tok)
		return sampled ? PLX_E_INVAL : PLX_E_OK;
	return q->n_draft > 0 && !sampled ? PLX_E_INVAL : PLX_E_OK;
}

/* The token of the step that token idx stands behind. */
static uint32_t parent_of(const struct plx_step_tok *tok, uint32_t idx)
{
	return tok[idx].parent < 0 ? idx - 1 : (uint32_t)tok[idx].parent;
}

/* Token i of a sequence stands behind its parent, and branches are in the order of depth first. */
static int place_check(struct plx_step_checker *c, const struct plx_step_seq *q,
                       const struct plx_step_tok *tok, uint32_t i)
{
	uint32_t idx = q->first_tok + i, root = q->first_tok + q->n_tok - 1 - q->n_draft;

	if (i == 0)
		return tok[idx].parent == -1 ? PLX_E_OK : PLX_E_INVAL;
	uint32_t parent = parent_of(tok, idx), at = idx - 1;

	if (tok[idx].parent < -1)
		return PLX_E_INVAL;
	if (parent != idx - 1) {
		if ((c->caps & PLX_CAP_TREE) == 0)
			return PLX_E_UNSUPPORTED;
		if (idx <= root || parent < root || parent >= idx ||
		    ++c->n_branch > c->lim.tree_branches || (q->flags & PLX_SEQF_OBSERVE) != 0)
			return PLX_E_INVAL;
		while (at > parent)
			at = parent_of(tok, at);
		if (at != parent)
			return PLX_E_INVAL;
	}
	return tok[idx].pos[0] == tok[parent].pos[0] + 1 ? PLX_E_OK : PLX_E_INVAL;
}

/* The furthest position of a sequence's tokens. */
static uint32_t last_place(const struct plx_step_tok *t, uint32_t n)
{
	uint32_t last = 0;

	for (uint32_t i = 0; i < n; i++)
		last = t[i].pos[0] > last ? t[i].pos[0] : last;
	return last;
}

static int seq_shape_check(const struct plx_step_checker *c, const struct plx_step_seq *q)
{
	if (q->n_draft > PLX_MAX_DRAFT || q->n_draft >= q->n_tok || q->n_top > PLX_MAX_TOP ||
	    q->n_top > c->n_vocab ||
	    (q->flags & ~(uint32_t)(PLX_SEQF_DETERMINISTIC | PLX_SEQF_OBSERVE | PLX_SEQF_SPARSE |
	                            PLX_SEQF_EARLY)) != 0)
		return PLX_E_INVAL;
	if ((q->flags & PLX_SEQF_EARLY) != 0 &&
	    ((c->caps & PLX_CAP_EARLY) == 0 || c->lim.early_layers == 0))
		return PLX_E_UNSUPPORTED;
	if ((q->flags & PLX_SEQF_SPARSE) != 0 &&
	    ((c->caps & PLX_CAP_SPARSE) == 0 || !plx_limits_sparse(&c->lim)))
		return PLX_E_UNSUPPORTED;
	if ((q->n_draft > 0 && (c->caps & PLX_CAP_DRAFT) == 0) ||
	    (q->adapter != 0 && (c->caps & PLX_CAP_ADAPTER) == 0) ||
	    ((q->flags & PLX_SEQF_OBSERVE) != 0 && (c->caps & PLX_CAP_EVICT) == 0) ||
	    (q->mask_off != 0 && (c->caps & PLX_CAP_MASK) == 0) ||
	    (q->n_top > 0 && (c->caps & PLX_CAP_LOGPROBS) == 0))
		return PLX_E_UNSUPPORTED;
	return PLX_E_OK;
}

/* Tokens pos .. end-1 of a sequence whose first n_pool choose in groups: none is cut apart. */
static bool pools_whole(uint32_t n_pool, uint32_t pos, uint64_t end)
{
	return (pos >= n_pool || pos % PLX_SPARSE_POOL == 0) &&
	       (end >= n_pool || end % PLX_SPARSE_POOL == 0);
}

static int seq_accept(struct plx_step_checker *c, const struct plx_step_seq *q,
                      const struct plx_step_tok *tok)
{
	int err = seq_shape_check(c, q);

	if (err != 0 || q->slot >= c->lim.n_slots)
		return err != 0 ? err : PLX_E_INVAL;
	struct plx_slot_shadow *slot = &c->slot[q->slot];

	if (!slot->live || slot->mark == c->serial)
		return PLX_E_INVAL;
	remember(c, q->slot);
	slot->mark = c->serial;
	const struct plx_step_tok *t = tok + q->first_tok;
	uint64_t last_pos = last_place(t, q->n_tok);
	uint32_t flags = 0;

	if (last_pos / c->lim.block_tokens >= slot->n_blocks ||
	    last_pos + slot->n_gone >= (uint64_t)c->lim.max_seq_blocks * c->lim.block_tokens)
		return PLX_E_INVAL;
	if ((q->flags & PLX_SEQF_SPARSE) != 0 &&
	    !pools_whole(slot->n_pool, t[0].pos[0], last_pos + 1))
		return PLX_E_INVAL;
	if ((q->flags & PLX_SEQF_OBSERVE) != 0 && c->observes)
		return PLX_E_INVAL;
	c->observes = c->observes || (q->flags & PLX_SEQF_OBSERVE) != 0;
	bool early = (q->flags & PLX_SEQF_EARLY) != 0;

	if (q->first_tok > 0 && early != c->early)
		return PLX_E_INVAL;
	c->early = early;
	if (slot->next_pos != 0 && t[0].pos[0] > slot->next_pos)
		return PLX_E_INVAL;
	if (last_pos >= slot->next_pos)
		slot->next_pos = (uint32_t)last_pos + 1;
	for (uint32_t i = 0; i < q->n_tok; i++) {
		err = place_check(c, q, tok, i);
		if (err != 0)
			return err;
		err = tok_check(c, t + i, q, i, slot->has_last);
		if (err != 0)
			return err;
		flags |= t[i].flags;
	}
	if ((flags & PLX_TOKF_SCORE) != 0 && (flags & PLX_TOKF_LOGITS) != 0)
		return PLX_E_INVAL;
	if ((t[q->n_tok - 1].flags & PLX_TOKF_LOGITS) != 0)
		slot->has_last = true;
	return PLX_E_OK;
}

static int body_accept(struct plx_step_checker *c, struct plx_step *s)
{
	const struct plx_step_seq *q = plx_step_seqs(s);
	uint32_t next_tok = 0;

	for (uint32_t i = 0; i < s->n_delta; i++) {
		int err = delta_accept(c, s, plx_step_deltas(s) + i);

		if (err != 0)
			return err;
	}
	for (uint32_t i = 0; i < s->n_seq; i++) {
		if (q[i].first_tok != next_tok || q[i].n_tok == 0 ||
		    q[i].n_tok > s->n_tok - next_tok)
			return PLX_E_INVAL;
		next_tok += q[i].n_tok;
		int err = seq_accept(c, q + i, plx_step_toks(s));

		if (err != 0)
			return err;
	}
	return next_tok == s->n_tok ? PLX_E_OK : PLX_E_INVAL;
}

int plx_step_accept(struct plx_step_checker *c, struct plx_step *s)
{
	int err = header_check(c, s);

	if (err != 0)
		return err;
	c->n_undo = 0;
	c->keeps = c->observes = false;
	c->n_branch = 0;
	if (++c->serial == 0)
		c->serial = 1;
	err = body_accept(c, s);
	while (err != 0 && c->n_undo > 0) {
		c->n_undo--;
		c->slot[c->undo[c->n_undo].slot] = c->undo[c->n_undo].was;
	}
	return err;
}

void plx_step_checker_reset(struct plx_step_checker *c)
{
	memset(c->slot, 0, c->lim.n_slots * sizeof(*c->slot));
	c->serial = 0;
}
