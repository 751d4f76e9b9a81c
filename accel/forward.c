/* The transformer pass: which op follows which, how each is cut, and what an item of it does. */
#include "accel/forward_int.h"

#include <string.h>

#include "accel/cut.h"
#include "accel/forward_moe.h"
#include "accel/forward_tree.h"
#include "accel/forward_pick.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

/* ---- what an op costs, roughly: only the cut depends on it ---------------------- */

double plx_fwd_mat_ns(const struct plx_fwd *f, const struct plx_k_mat *w, uint32_t n_tok)
{
	const struct plx_fwd_rates *r = plx_fwd_rates_of(f);
	double elems = (double)w->n_out * w->n_in;
	double block = (double)plx_qtype_block_bytes(w->type) / plx_qtype_block_elems(w->type);
	bool q8 = plx_k_wants(w->type) == PLX_K_ACT_Q8;
	double macs_ns = elems * n_tok / (q8 ? r->q8_macs : r->f32_macs);
	double bytes_ns = elems * block / r->bytes;

	return macs_ns > bytes_ns ? macs_ns : bytes_ns;
}

/* ---- matrix ops ----------------------------------------------------------------------------- */

/* One matrix of an op: y = w in (+ bias), or y += w in. */
struct seg {
	const struct plx_k_mat *w;
	const struct plx_fwd_act *in;
	float *y;
	const float *bias; /* [n_out] or NULL */
	uint32_t y_stride;
	enum plx_k_mode mode;
};

static uint32_t qkv_segs(const struct plx_fwd *f, struct seg seg[3])
{
	const struct plx_fwd_layer *l = &f->layer[f->il];
	const struct plx_layer *v = &f->m->layer[f->il];
	uint32_t w = f->qkv_width;

	seg[0] = (struct seg){&l->wq, &f->norm, f->qkv, v->bq, w, PLX_K_STORE};
	seg[1] = (struct seg){&l->wk, &f->norm, f->qkv + l->wq.n_out, v->bk, w, PLX_K_STORE};
	seg[2] = (struct seg){&l->wv, &f->norm, f->qkv + l->wq.n_out + l->wk.n_out,
	                      v->bv,  w,        PLX_K_STORE};
	return 3;
}

static uint32_t router_segs(const struct plx_fwd *f, struct seg seg[3])
{
	const struct plx_fwd_layer *l = &f->layer[f->il];
	const struct plx_fwd_moe *x = f->moe;

	seg[0] = (struct seg){&l->router, &f->norm, x->logits, NULL, x->stride, PLX_K_STORE};
	seg[1] = (struct seg){&l->shared_gate, &f->norm,   x->logits + f->m->n_expert, NULL,
	                      x->stride,       PLX_K_STORE};
	uint32_t n = f->m->n_ff_shared > 0 ? 2 : 1;

	if (plx_fwd_moe_guesses(f))
		seg[n++] =
		    (struct seg){&l[1].router, &f->norm, x->guess, NULL, x->stride, PLX_K_STORE};
	return n;
}

/* The matrices of the current op, but for gate and up, which have a function of their own. */
static uint32_t segs(const struct plx_fwd *f, struct seg seg[3])
{
	const struct plx_fwd_layer *l = &f->layer[f->il];
	uint32_t n_embd = f->m->n_embd;

	if (f->op == PLX_FWD_QKV)
		return qkv_segs(f, seg);
	if (f->op == PLX_FWD_ROUTER)
		return router_segs(f, seg);
	if (f->op == PLX_FWD_OUT)
		seg[0] = (struct seg){&l->wo, &f->att, f->x, NULL, n_embd, PLX_K_ADD};
	else if (f->op == PLX_FWD_DOWN)
		seg[0] = (struct seg){&l->down, &f->mid, f->x, NULL, n_embd, PLX_K_ADD};
	else
		seg[0] =
		    (struct seg){&f->head, &f->last, f->logits, NULL, f->logit_stride, PLX_K_STORE};
	return 1;
}

static uint32_t tiles(const struct plx_k_mat *w)
{
	return (w->n_out + PLX_K_TILE - 1) / PLX_K_TILE;
}

static void seg_rows(const struct plx_fwd *f, const struct seg *s, const struct plx_range *tile,
                     const struct plx_range *tok)
{
	const struct plx_fwd_act *in = s->in;
	struct plx_k_mm mm = {.w = s->w, .q = in->q8, .bf16 = in->bf16, .x = in->f32, .y = s->y};

	mm.y_stride = s->y_stride;
	mm.row_begin = tile->begin * PLX_K_TILE;
	plx_fwd_fetch(plx_fwd_row_at(s->w, mm.row_begin));
	mm.row_end = tile->end * PLX_K_TILE < s->w->n_out ? tile->end * PLX_K_TILE : s->w->n_out;
	mm.tok_begin = tok->begin;
	mm.tok_end = tok->end;
	mm.mode = s->bias != NULL ? PLX_K_ADD : s->mode;
	if (s->bias != NULL)
		for (uint32_t t = tok->begin; t < tok->end; t++)
			memcpy(s->y + (size_t)t * s->y_stride + mm.row_begin,
			       s->bias + mm.row_begin, (mm.row_end - mm.row_begin) * sizeof(float));
	f->k->matmul(&mm);
}

/* Tokens of chunk i of an op over n tokens. */
static struct plx_range chunk_toks(const struct plx_fwd *f, uint32_t i, uint32_t n)
{
	struct plx_range r = {i * f->tok_chunk, (i + 1) * f->tok_chunk};

	if (r.end > n)
		r.end = n;
	return r;
}

static uint32_t op_toks(const struct plx_fwd *f)
{
	return f->op == PLX_FWD_HEAD || f->op == PLX_FWD_HEAD_NORM ? f->n_head_row : f->n_tok;
}

/* Rows of the op's matrices, which are counted one after another, by a chunk of tokens. */
static void segs_rows(struct plx_fwd *f, struct plx_range row, struct plx_range tok)
{
	struct seg seg[3];
	uint32_t n_seg = segs(f, seg);
	uint32_t first = 0;

	for (uint32_t i = 0; i < n_seg; i++) {
		uint32_t n = tiles(seg[i].w);
		struct plx_range part = plx_range_within(row, first, n);

		if (part.begin < part.end)
			seg_rows(f, &seg[i], &part, &tok);
		first += n;
	}
}

static const uint8_t *granule_at(const struct plx_k_mat *w, uint64_t stride, uint32_t i)
{
	return (const uint8_t *)w->data + i * stride;
}

/* One granule of gate or up. */
static void ffn_granule(const struct plx_fwd *f, const struct plx_fwd_gated *g,
                        const struct plx_k_mat *w, uint32_t i, float *y,
                        const struct plx_range *tok)
{
	struct plx_k_mat view = {granule_at(w, g->w->stride, i), w->type, PLX_FWD_GRAIN, w->n_in};
	struct plx_fwd_act in = plx_fwd_act_at(&g->in, tok->begin, w->n_in);
	struct plx_k_mm mm = {.w = &view,
	                      .q = in.q8,
	                      .bf16 = in.bf16,
	                      .x = in.f32,
	                      .y = y,
	                      .y_stride = PLX_FWD_ROWS_MAX,
	                      .mode = PLX_K_STORE};

	mm.row_end = view.n_out;
	mm.tok_end = tok->end - tok->begin;
	f->k->matmul(&mm);
}

/* Values row.begin and on of out[t], n_ff wide. */
static void gated_store(const struct plx_fwd *f, const struct plx_fwd_gated *g, uint32_t t,
                        struct plx_range row, const float *v)
{
	uint32_t n = row.end - row.begin;
	size_t at = (size_t)t * g->w->gate.n_out + row.begin;

	if (g->out.q8 != NULL)
		f->k->quantise(g->out.q8 + at / PLX_K_QBLOCK, v, 1, n, n);
	if (g->out.bf16 != NULL)
		f->k->to_bf16(g->out.bf16 + at, v, n);
	if (g->out.f32 != NULL)
		memcpy(g->out.f32 + at, v, n * sizeof(float));
}

/* Granules of gate and up, at most PLX_FWD_ROWS_MAX rows, by a chunk of tokens. */
static void ffn_part(const struct plx_fwd *f, const struct plx_fwd_gated *g, struct plx_range row,
                     struct plx_range tok, const struct plx_fwd_lane *s)
{
	for (uint32_t i = row.begin; i < row.end; i++) {
		uint32_t y = (i - row.begin) * PLX_FWD_GRAIN;

		ffn_granule(f, g, &g->w->gate, i, s->gate + y, &tok);
		ffn_granule(f, g, &g->w->up, i, s->up + y, &tok);
	}
	row.begin *= PLX_FWD_GRAIN;
	row.end *= PLX_FWD_GRAIN;
	for (uint32_t t = tok.begin; t < tok.end; t++) {
		float *v = s->gate + (size_t)(t - tok.begin) * PLX_FWD_ROWS_MAX;
		uint32_t n = row.end - row.begin;

		f->k->silu_mul(v, v, s->up + (size_t)(t - tok.begin) * PLX_FWD_ROWS_MAX, n);
		for (uint32_t i = 0; i < n && g->scale != NULL; i++)
			v[i] *= g->scale[t];
		gated_store(f, g, t, row, v);
	}
}

void plx_fwd_gated_rows(const struct plx_fwd *f, const struct plx_fwd_gated *g,
                        struct plx_range granule, struct plx_range tok,
                        const struct plx_fwd_lane *s)
{
	const uint32_t most = PLX_FWD_ROWS_MAX / PLX_FWD_GRAIN;

	plx_fwd_fetch(granule_at(&g->w->gate, g->w->stride, granule.begin));
	for (uint32_t at = granule.begin; at < granule.end; at += most) {
		struct plx_range part = {at, granule.end - at > most ? at + most : granule.end};

		ffn_part(f, g, part, tok, s);
	}
}

/* The dense layer's. */
static void gate_up_rows(const struct plx_fwd *f, struct plx_range row, struct plx_range tok,
                         const struct plx_fwd_lane *s)
{
	const struct plx_fwd_layer *l = &f->layer[f->il];
	struct plx_fwd_ffn w = {l->gate, l->up, l->down, l->ffn_stride};
	struct plx_fwd_gated g = {&w, f->norm, f->mid, NULL};

	plx_fwd_gated_rows(f, &g, row, tok, s);
}

static void mat_rows(struct plx_fwd *f, struct plx_range row, uint32_t chunk, uint32_t lane)
{
	struct plx_range tok = chunk_toks(f, chunk, op_toks(f));

	if (row.end > f->n_rows)
		row.end = f->n_rows;
	if (f->op == PLX_FWD_GATE_UP)
		gate_up_rows(f, row, tok, &f->lane[lane]);
	else
		segs_rows(f, row, tok);
}

/* Units are stretches of rows times chunks: all chunks pass one stretch after another. */
static void mat_units(struct plx_fwd *f, struct plx_range u, uint32_t lane)
{
	if (f->n_chunk == 1) {
		u.begin *= f->unit_rows;
		u.end *= f->unit_rows;
		mat_rows(f, u, 0, lane);
		return;
	}
	for (uint32_t i = u.begin; i < u.end; i++) {
		uint32_t first = i / f->n_chunk * f->unit_rows;

		mat_rows(f, (struct plx_range){first, first + f->unit_rows}, i % f->n_chunk, lane);
	}
}

/* ---- what short ops will read --------------------------------------------------------------- */

/*
 * Ops that one lcore does alone spend most of their time on cache misses, since the weights of a
 * layer push everything else out. So what they read is fetched when the matrix op before opens.
 */
static void fetch_floats(const float *v, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 16)
		__builtin_prefetch(v + i, 0, 2);
}

static void fetch_to_write(const uint8_t *at, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i += 64)
		__builtin_prefetch(at + i, 1, 2);
}

/* Where ROPE will put token t's K and V; K lies across a group of 16 positions, and V too but in
 * f16. */
static void fetch_kv(const struct plx_fwd *f, uint32_t t)
{
	const uint32_t *table = plx_fwd_seq_of(f, t)->table;
	uint32_t block = table[f->pos[t] / f->lim.block_tokens], hd = f->m->head_dim;
	uint32_t at = f->pos[t] % f->lim.block_tokens;
	enum plx_k_kv_type type = plx_fwd_kv_type(&f->lim);
	uint32_t k = (uint32_t)plx_k_kv_k_bytes(type, 16, hd);
	uint32_t v = (uint32_t)plx_k_kv_v_bytes(type, 16, hd);

	for (uint32_t h = 0; h < f->m->n_head_kv; h++) {
		struct plx_k_kv kv = plx_fwd_kv_view(f, table, f->il, h);
		const uint8_t *b = f->kv + block * kv.block_bytes;

		fetch_to_write(b + kv.k_off + (size_t)(at / 16) * k, k);
		if (type == PLX_K_KV_F16)
			fetch_to_write(b + kv.v_off + (size_t)at * (v / 16), v / 16);
		else
			fetch_to_write(b + kv.v_off + (size_t)(at / 16) * v, v);
	}
}

static void fetch_short(const struct plx_fwd *f)
{
	const struct plx_layer *l = &f->m->layer[f->il];
	bool last = plx_fwd_last(f);

	if (f->n_tok > PLX_FWD_AHEAD_TOK)
		return;
	if (f->op == PLX_FWD_OUT)
		fetch_floats(l->ffn_norm, f->m->n_embd);
	if (f->op == PLX_FWD_DOWN || f->op == PLX_FWD_EXP_DOWN)
		fetch_floats(last ? f->m->output_norm : l[1].attn_norm, f->m->n_embd);
	for (uint32_t t = 0; f->op == PLX_FWD_QKV && t < f->n_tok; t++)
		fetch_kv(f, t);
}

/* ---- the sequence of ops -------------------------------------------------------------------- */

static void head_group_set(struct plx_fwd *f, uint32_t row0)
{
	uint32_t left = f->n_row - row0;

	f->row0 = row0;
	f->n_head_row = left < f->head_group ? left : f->head_group;
}

/* After the last op of a layer: the next layer, or the logits; false when nothing is left. */
static bool layer_next(struct plx_fwd *f)
{
	if (!plx_fwd_last(f)) {
		f->il++;
		f->op = PLX_FWD_NORM1;
		return true;
	}
	head_group_set(f, 0);
	f->op = PLX_FWD_HEAD_NORM;
	return f->n_row > 0;
}

static enum plx_fwd_op first_op(const struct plx_fwd *f)
{
	if (f->n_shift > 0)
		return PLX_FWD_SHIFT;
	return f->evict.n_pos > 0 ? PLX_FWD_EVICT : plx_fwd_body_op(f);
}

/* Moves op, il, split and the head group on; false at the end. */
static bool op_next(struct plx_fwd *f)
{
	switch (f->op) {
	case PLX_FWD_N_OPS: /* before the first */
		f->op = first_op(f);
		return true;
	case PLX_FWD_SHIFT:
		if (++f->i_shift < f->n_shift)
			return true;
		f->op = f->evict.n_pos > 0 ? PLX_FWD_EVICT : plx_fwd_body_op(f);
		return f->n_tok > 0 || f->op == PLX_FWD_EVICT;
	case PLX_FWD_EVICT:
		f->op = plx_fwd_body_op(f);
		return f->n_tok > 0;
	case PLX_FWD_BRANCH:
		f->op = PLX_FWD_EMBED;
		return true;
	case PLX_FWD_EMBED:
		f->il = 0;
		f->op = PLX_FWD_NORM1;
		return true;
	case PLX_FWD_ROPE:
	case PLX_FWD_OBSERVE:
	case PLX_FWD_PAGES:
	case PLX_FWD_PICK:
		return plx_fwd_attn_next(f);
	case PLX_FWD_ATTN:
		if (f->split + 1 < f->n_split) {
			f->split++;
			return true;
		}
		f->op = f->att_by_head ? PLX_FWD_OUT : PLX_FWD_QATT;
		return true;
	case PLX_FWD_NORM2:
		f->op = f->moe != NULL ? PLX_FWD_ROUTER : PLX_FWD_GATE_UP;
		return true;
	case PLX_FWD_ROUTER:
	case PLX_FWD_ROUTE:
	case PLX_FWD_GROUP:
	case PLX_FWD_GATHER:
	case PLX_FWD_EXP_WAIT:
	case PLX_FWD_EXP_UP:
	case PLX_FWD_EXP_DOWN:
		f->op = plx_fwd_moe_next(f);
		return f->err == 0;
	case PLX_FWD_EXP_SUM:
	case PLX_FWD_DOWN:
		return layer_next(f);
	case PLX_FWD_HEAD:
		if (f->row0 + f->n_head_row >= f->n_row)
			return false;
		head_group_set(f, f->row0 + f->n_head_row);
		f->op = PLX_FWD_HEAD_NORM;
		return true;
	case PLX_FWD_NORM1:
	case PLX_FWD_QKV:
	case PLX_FWD_QATT:
	case PLX_FWD_OUT:
	case PLX_FWD_GATE_UP:
	case PLX_FWD_HEAD_NORM:
		f->op++;
		return true;
	case PLX_FWD_SETTLE:
	default:
		return false;
	}
}

/*
 * Cuts a matrix op of n_rows into chunks of tokens times stretches of rows. With one chunk a unit
 * is as small as can be, since a claim may take any number of them and they are computed as one.
 */
static struct plx_cut mat_cut(struct plx_fwd *f, double ns, uint32_t n_rows, uint32_t n_tok)
{
	uint32_t n_chunk = (n_tok + PLX_FWD_TOK_CHUNK - 1) / PLX_FWD_TOK_CHUNK;
	uint32_t per_chunk = (n_tok + n_chunk - 1) / n_chunk;

	f->tok_chunk = (per_chunk + 7) & ~7u;
	f->n_chunk = (n_tok + f->tok_chunk - 1) / f->tok_chunk;
	f->n_rows = n_rows;
	f->unit_rows = 1;
	if (f->n_chunk > 1) {
		double fit = PLX_CUT_UNIT_NS * n_rows * f->n_chunk / ns;

		f->unit_rows = fit < 1 ? 1 : fit > n_rows ? n_rows : (uint32_t)fit;
	}
	return plx_cut_op(ns, (n_rows + f->unit_rows - 1) / f->unit_rows * f->n_chunk);
}

static struct plx_cut segs_cut(struct plx_fwd *f)
{
	struct seg seg[3];
	uint32_t n_seg = segs(f, seg);
	uint32_t n_rows = 0;
	double ns = 0;

	for (uint32_t i = 0; i < n_seg; i++) {
		n_rows += tiles(seg[i].w);
		ns += plx_fwd_mat_ns(f, seg[i].w, op_toks(f));
	}
	return mat_cut(f, ns, n_rows, op_toks(f));
}

static struct plx_cut gate_up_cut(struct plx_fwd *f)
{
	const struct plx_fwd_layer *l = &f->layer[f->il];
	double ns = plx_fwd_mat_ns(f, &l->gate, f->n_tok) + plx_fwd_mat_ns(f, &l->up, f->n_tok);

	return mat_cut(f, ns, f->m->n_ff / PLX_FWD_GRAIN, f->n_tok);
}

static struct plx_cut tok_cut(struct plx_fwd *f, uint32_t n_tok, uint32_t width)
{
	return plx_cut_op((double)n_tok * width / plx_fwd_rates_of(f)->floats, n_tok);
}

static struct plx_cut op_cut(struct plx_fwd *f)
{
	switch (f->op) {
	case PLX_FWD_SHIFT:
		return plx_fwd_shift_cut(f);
	case PLX_FWD_EVICT:
		return plx_fwd_evict_cut(f);
	case PLX_FWD_OBSERVE:
		return plx_fwd_observe_cut(f);
	case PLX_FWD_BRANCH:
	case PLX_FWD_SETTLE:
		return plx_fwd_tree_cut(f);
	case PLX_FWD_EMBED:
	case PLX_FWD_NORM1:
	case PLX_FWD_NORM2:
		return tok_cut(f, f->n_tok, f->m->n_embd);
	case PLX_FWD_QATT:
		return tok_cut(f, f->n_tok, f->m->n_head * f->m->head_dim);
	case PLX_FWD_HEAD_NORM:
		return tok_cut(f, f->n_head_row, f->m->n_embd);
	case PLX_FWD_ROPE:
		return tok_cut(f, f->n_tok, 2 * f->qkv_width);
	case PLX_FWD_PAGES:
	case PLX_FWD_PICK:
		return plx_fwd_pick_cut(f);
	case PLX_FWD_ATTN:
		return plx_cut_op(plx_fwd_attn_ns(f), f->n_span * f->m->n_head_kv);
	case PLX_FWD_GATE_UP:
		return gate_up_cut(f);
	case PLX_FWD_QKV:
	case PLX_FWD_OUT:
	case PLX_FWD_DOWN:
	case PLX_FWD_ROUTER:
	case PLX_FWD_HEAD:
		return segs_cut(f);
	case PLX_FWD_ROUTE:
	case PLX_FWD_GROUP:
	case PLX_FWD_GATHER:
	case PLX_FWD_EXP_WAIT:
	case PLX_FWD_EXP_UP:
	case PLX_FWD_EXP_DOWN:
	case PLX_FWD_EXP_SUM:
		return plx_fwd_moe_cut(f);
	case PLX_FWD_N_OPS:
		break;
	}
	return (struct plx_cut){1, 1, true};
}

void plx_fwd_begin(struct plx_fwd *f)
{
	PLX_DCHECK(f->n_tok + f->n_shift + f->evict.n_pos > 0 &&
	           f->n_tok <= f->lim.max_step_tokens);
	f->op = PLX_FWD_N_OPS;
	f->err = 0;
	f->il = 0;
	f->i_shift = 0;
	f->split = 0;
	plx_fwd_spans_make(f);
	plx_fwd_pick_begin(f);
}

bool plx_fwd_next(struct plx_fwd *f, struct plx_cut *out)
{
	if (!op_next(f))
		return false;
	fetch_short(f);
	*out = op_cut(f);
	return true;
}

void plx_fwd_units(struct plx_fwd *f, struct plx_range units, uint32_t lane)
{
	switch (f->op) {
	case PLX_FWD_SHIFT:
		plx_fwd_shift_units(f, units);
		break;
	case PLX_FWD_EVICT:
		plx_fwd_evict_units(f, units);
		break;
	case PLX_FWD_OBSERVE:
		plx_fwd_observe_units(f, units, lane);
		break;
	case PLX_FWD_BRANCH:
	case PLX_FWD_SETTLE:
		plx_fwd_tree_units(f, units);
		break;
	case PLX_FWD_EMBED:
	case PLX_FWD_NORM1:
	case PLX_FWD_ROPE:
	case PLX_FWD_QATT:
	case PLX_FWD_NORM2:
	case PLX_FWD_HEAD_NORM:
		plx_fwd_tok_units(f, units, lane);
		break;
	case PLX_FWD_PAGES:
	case PLX_FWD_PICK:
		plx_fwd_pick_units(f, units, lane);
		break;
	case PLX_FWD_ATTN:
		plx_fwd_attn_units(f, units, lane);
		break;
	case PLX_FWD_GATE_UP:
	case PLX_FWD_QKV:
	case PLX_FWD_OUT:
	case PLX_FWD_DOWN:
	case PLX_FWD_ROUTER:
	case PLX_FWD_HEAD:
		mat_units(f, units, lane);
		break;
	case PLX_FWD_ROUTE:
	case PLX_FWD_GROUP:
	case PLX_FWD_GATHER:
	case PLX_FWD_EXP_UP:
	case PLX_FWD_EXP_DOWN:
	case PLX_FWD_EXP_SUM:
		plx_fwd_moe_units(f, units, lane);
		break;
	case PLX_FWD_EXP_WAIT:
	case PLX_FWD_N_OPS:
		break;
	}
}

/* ---- what is read next ---------------------------------------------------------------------- */

/* Where the share-th of n_share stretches of a matrix op's rows begins. */
static const char *seg_at(const struct plx_k_mat *const w[], uint32_t n_seg, uint32_t share,
                          uint32_t n_share)
{
	uint32_t n_rows = 0;
	uint32_t i = 0;

	for (uint32_t j = 0; j < n_seg; j++)
		n_rows += tiles(w[j]);
	uint32_t row = plx_cut_range(n_rows, n_share, share).begin;

	while (i + 1 < n_seg && row >= tiles(w[i]))
		row -= tiles(w[i++]);
	return (const char *)plx_fwd_row_at(w[i], row * PLX_K_TILE);
}

/* The same of gate and up. */
static const char *ffn_at(const struct plx_fwd *f, uint32_t share, uint32_t n_share)
{
	const struct plx_fwd_layer *l = &f->layer[f->il];
	uint32_t i = plx_cut_range(f->m->n_ff / PLX_FWD_GRAIN, n_share, share).begin;

	return (const char *)granule_at(&l->gate, l->ffn_stride, i);
}

const char *plx_fwd_ahead(const struct plx_fwd *f, uint32_t share, uint32_t n_share)
{
	const struct plx_fwd_layer *l = &f->layer[f->il];
	bool ends = f->op == PLX_FWD_DOWN || f->op == PLX_FWD_EXP_DOWN || f->op == PLX_FWD_EXP_SUM;
	bool to_head = ends && plx_fwd_last(f);
	const struct plx_k_mat *w[3] = {&f->head};
	uint32_t n_seg = 1;

	if (f->n_tok > PLX_FWD_AHEAD_TOK)
		return NULL;
	if (f->op >= PLX_FWD_ROUTER && f->op <= PLX_FWD_EXP_UP)
		return plx_fwd_moe_ahead(f, share, n_share);
	if ((f->op == PLX_FWD_OUT || f->op == PLX_FWD_NORM2) && f->moe == NULL)
		return ffn_at(f, share, n_share);
	if (f->op == PLX_FWD_OUT || f->op == PLX_FWD_NORM2) {
		w[0] = &l->router;
	} else if ((f->op >= PLX_FWD_QKV && f->op <= PLX_FWD_QATT) || f->op == PLX_FWD_OBSERVE) {
		w[0] = &l->wo;
	} else if (f->op == PLX_FWD_GATE_UP) {
		w[0] = &l->down;
	} else if (!to_head && f->op != PLX_FWD_HEAD_NORM) {
		/* This layer's, the next one's, or, after the head, those of the next step. */
		l = &f->layer[f->op == PLX_FWD_NORM1 ? f->il : ends ? f->il + 1 : 0];
		w[0] = &l->wq;
		w[1] = &l->wk;
		w[2] = &l->wv;
		n_seg = 3;
	}
	return seg_at(w, n_seg, share, n_share);
}

const char *plx_fwd_op_name(enum plx_fwd_op op)
{
	static const char *const name[PLX_FWD_N_OPS] = {
	    "shift",     "embed", "norm1",  "qkv",      "rope",    "pages",    "pick",
	    "attn",      "qatt",  "out",    "norm2",    "gate_up", "down",     "router",
	    "route",     "group", "gather", "exp_wait", "exp_up",  "exp_down", "exp_sum",
	    "head_norm", "head",  "evict",  "observe",  "branch",  "settle"};

	return (uint32_t)op < PLX_FWD_N_OPS ? name[op] : "unknown";
}
