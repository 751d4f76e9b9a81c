/* Attention of a step: spans of tokens that are one unit of work, what they cost, their outputs. */
#include "accel/forward_int.h"

#include "accel/cut.h"
#include "accel/forward_pick.h"

const struct plx_fwd_rates *plx_fwd_rates_of(const struct plx_fwd *f)
{
	static const struct plx_fwd_rates scalar = {1.5, 1, 1, 0.3, 4};
	static const struct plx_fwd_rates avx2 = {40, 8, 8, 1, 12};
	static const struct plx_fwd_rates avx512 = {100, 16, 16, 1.2, 12};
	static const struct plx_fwd_rates amx = {300, 32, 16, 1.2, 12};

	if (f->k->isa == PLX_K_ISA_SCALAR)
		return &scalar;
	if (f->k->isa == PLX_K_ISA_AMX)
		return &amx;
	return f->k->isa >= PLX_K_ISA_AVX512 ? &avx512 : &avx2;
}

uint32_t plx_fwd_window(const struct plx_fwd *f, const struct plx_fwd_seq *q, uint32_t pos)
{
	uint32_t w = f->m->window, at = pos + q->ahead, lo = 0, hi = q->n_where;

	/* Whatever it reads lies behind the rows that moved, or nothing lies before its window. */
	if (w == 0 || q->n_where == 0 || pos + 1 >= w + q->n_where || at < w)
		return w;
	while (lo < hi) { /* the first place whose position is at + 1 - w or higher */
		uint32_t mid = (lo + hi) / 2;

		if (q->where[mid] + w <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return pos + 1 - lo;
}

/* The first split that a token at pos reads through a window; 0 is none. */
static uint32_t window_begin(uint32_t window, uint32_t pos)
{
	return window > 0 && pos + 1 > window ? (pos + 1 - window) / PLX_K_ATTN_SPLIT : 0;
}

static double attn_token_macs(const struct plx_fwd *f, uint32_t window, uint32_t pos)
{
	uint32_t seen = pos < PLX_K_ATTN_SPLIT ? pos + 1 : PLX_K_ATTN_SPLIT;

	if (window > 0 && seen > window + PLX_K_ATTN_CHUNK)
		seen = window + PLX_K_ATTN_CHUNK;

	return 2.0 * seen * f->m->head_dim * (f->m->n_head / f->m->n_head_kv);
}

/* The sequence that token t belongs to: the last one that begins at or before it. */
const struct plx_fwd_seq *plx_fwd_seq_of(const struct plx_fwd *f, uint32_t t)
{
	uint32_t lo = 0;
	uint32_t hi = f->n_seq;

	while (hi - lo > 1) {
		uint32_t mid = (lo + hi) / 2;

		if (f->seq[mid].first_tok <= t)
			lo = mid;
		else
			hi = mid;
	}
	return &f->seq[lo];
}

struct plx_k_kv plx_fwd_kv_view(const struct plx_fwd *f, const uint32_t *table, uint32_t layer,
                                uint32_t head)
{
	uint64_t n_kv = f->m->n_head_kv;
	enum plx_k_kv_type type = plx_fwd_kv_type(&f->lim);
	uint64_t k_bytes = plx_k_kv_k_bytes(type, f->lim.block_tokens, f->m->head_dim);
	uint64_t v_bytes = plx_k_kv_v_bytes(type, f->lim.block_tokens, f->m->head_dim);
	uint64_t k = layer * n_kv * (k_bytes + v_bytes);

	return (struct plx_k_kv){.base = f->kv,
	                         .table = table,
	                         .block_bytes = f->block_bytes,
	                         .k_off = k + head * k_bytes,
	                         .v_off = k + n_kv * k_bytes + head * v_bytes,
	                         .block_tokens = f->lim.block_tokens,
	                         .head_dim = f->m->head_dim,
	                         .type = type,
	                         .page_off =
	                             f->m->n_layer * n_kv * (k_bytes + v_bytes) +
	                             (layer * n_kv + head) *
	                                 plx_k_page_bytes(f->lim.block_tokens, f->m->head_dim)};
}

/* Turns a span's sums of one KV head into outputs, in the forms that Wo takes. */
static void attn_out(struct plx_fwd *f, const struct plx_fwd_span *sp, uint32_t head,
                     const float *acc, float *row)
{
	uint32_t hd = f->m->head_dim;
	uint32_t group = f->m->n_head / f->m->n_head_kv;
	uint32_t n = group * hd;

	for (uint32_t i = 0; i < sp->n_tok; i++) {
		size_t at = (size_t)(sp->tok + i) * f->m->n_head * hd + (size_t)head * n;
		float *out = f->att.f32 != NULL ? f->att.f32 + at : row;

		f->k->attn_finish(out, acc + (size_t)i * group * f->part_floats, group, hd,
		                  plx_fwd_kv_type(&f->lim));
		if (f->att_by_head && f->att.q8 != NULL)
			f->k->quantise(f->att.q8 + at / PLX_K_QBLOCK, out, 1, n, n);
		if (f->att_by_head && f->att.bf16 != NULL)
			f->k->to_bf16(f->att.bf16 + at, out, n);
	}
}

static void attn_unit(struct plx_fwd *f, uint32_t unit, const struct plx_fwd_lane *s)
{
	const struct plx_fwd_span *sp = &f->span[unit / f->m->n_head_kv];
	uint32_t head = unit % f->m->n_head_kv;
	uint32_t group = f->m->n_head / f->m->n_head_kv;
	uint32_t n_split = plx_k_attn_splits(sp->pos);
	uint32_t window = f->m->layer[f->il].window > 0 ? sp->window : 0;
	uint32_t first = window_begin(window, sp->pos);
	struct plx_k_attn a = {.kv = plx_fwd_kv_view(f, f->seq[sp->seq].table, f->il, head)};
	float *acc = s->acc;

	if (f->split < first || f->split >= n_split)
		return;
	a.q = f->qkv + (size_t)sp->tok * f->qkv_width + (size_t)head * group * f->m->head_dim;
	a.q_stride = f->qkv_width;
	a.n_tok = sp->n_tok;
	a.n_group = group;
	a.pos = sp->pos;
	a.scale = f->attn_scale;
	a.window = window;
	a.pick = plx_fwd_pick_of(f, sp, head);
	if (n_split > first + 1)
		acc = f->acc +
		      ((size_t)head * f->lim.max_step_tokens + sp->tok) * group * f->part_floats;
	if (f->split == first) {
		f->k->attn_part(&a, first, acc);
	} else {
		f->k->attn_part(&a, f->split, s->part);
		f->k->attn_merge(acc, s->part, sp->n_tok * group, f->m->head_dim);
	}
	if (f->split + 1 == n_split)
		attn_out(f, sp, head, acc, s->row);
}

void plx_fwd_attn_units(struct plx_fwd *f, struct plx_range u, uint32_t lane)
{
	for (uint32_t i = u.begin; i < u.end; i++)
		attn_unit(f, i, &f->lane[lane]);
}

/* Tokens from pos on until the first split that a window reads is another. */
static uint32_t to_window_split(uint32_t window, uint32_t pos)
{
	if (window == 0)
		return PLX_K_ATTN_SPLIT;
	return PLX_K_ATTN_SPLIT - (pos + 1 > window ? (pos + 1 - window) % PLX_K_ATTN_SPLIT : 0);
}

/*
 * Most tokens of a span that starts at pos: about an item's time, and never across two splits, nor
 * two that a window begins in, so that all tokens of a span add up the same splits; and never with
 * windows of different sizes.
 */
static uint32_t span_tokens(const struct plx_fwd *f, const struct plx_fwd_seq *q, uint32_t pos)
{
	uint32_t window = plx_fwd_window(f, q, pos), same = 1;
	uint32_t group = f->m->n_head / f->m->n_head_kv;
	double fit = PLX_CUT_ITEM_NS * plx_fwd_rates_of(f)->attn_macs / attn_token_macs(f, 0, pos);
	uint32_t by_queries = PLX_FWD_SPAN_MAX / group > 0 ? PLX_FWD_SPAN_MAX / group : 1;
	uint32_t to_split = PLX_K_ATTN_SPLIT - pos % PLX_K_ATTN_SPLIT;
	uint32_t to_begin = to_window_split(window, pos);
	uint32_t n = fit < 1 ? 1 : fit > PLX_FWD_SPAN_MAX ? PLX_FWD_SPAN_MAX : (uint32_t)fit;

	if (n > by_queries)
		n = by_queries;
	if (n > to_begin)
		n = to_begin;
	n = n < to_split ? n : to_split;
	if (window == 0 || q->n_where == 0)
		return n;
	while (same < n && plx_fwd_window(f, q, pos + same) == window)
		same++;
	return same;
}

void plx_fwd_spans_make(struct plx_fwd *f)
{
	f->n_span = 0;
	f->n_split = 1;
	f->window_split = UINT32_MAX;
	for (uint32_t i = 0; i < f->n_seq; i++) {
		const struct plx_fwd_seq *q = &f->seq[i];
		uint32_t last = plx_k_attn_splits(q->pos + q->n_tok - 1);

		uint32_t begin = window_begin(plx_fwd_window(f, q, q->pos), q->pos);

		if (last > f->n_split)
			f->n_split = last;
		if (begin < f->window_split)
			f->window_split = begin;
		for (uint32_t done = 0; done < q->n_tok;) {
			uint32_t pos = q->pos + done, n = span_tokens(f, q, pos);

			if (n > q->n_tok - done)
				n = q->n_tok - done;
			f->span[f->n_span++] = (struct plx_fwd_span){i, q->first_tok + done, n, pos,
			                                             plx_fwd_window(f, q, pos)};
			done += n;
		}
	}
}

double plx_fwd_attn_ns(const struct plx_fwd *f)
{
	bool has = f->m->layer[f->il].window > 0;
	double macs = 0;

	for (uint32_t i = 0; i < f->n_span; i++) {
		uint32_t pos = f->span[i].pos, window = has ? f->span[i].window : 0;

		if (plx_k_attn_splits(pos) > f->split && window_begin(window, pos) <= f->split)
			macs += attn_token_macs(f, window, pos) * f->span[i].n_tok;
	}
	return macs * f->m->n_head_kv / plx_fwd_rates_of(f)->attn_macs;
}
