/* The transformer pass on the GPU: which kernel follows which, and the graphs made of them. */
#include <math.h>
#include <string.h>

#include "accel/cuda_dev.h"
#include "fw/base/err.h"

/* ---- sizes ---------------------------------------------------------------------------------- */

static uint32_t max_splits(const struct plx_cu *c)
{
	uint64_t positions = (uint64_t)c->lim.max_seq_blocks * c->lim.block_tokens;

	return (uint32_t)((positions + PLX_KC_ATTN_SPLIT - 1) / PLX_KC_ATTN_SPLIT);
}

/* Splits of size class i: 1, 4, 16 .., at most what a context has. */
static uint32_t splits_of(const struct plx_cu *c, uint32_t i)
{
	uint32_t n = 1u << (2 * i), most = max_splits(c);

	return n < most ? n : most;
}

static bool parts_fit(const struct plx_cu *c, uint32_t n_tok, uint32_t n_split)
{
	return (uint64_t)n_tok * c->m->n_head * n_split * (c->m->head_dim + 4) <= c->part_floats;
}

struct plx_cu_size plx_cu_pass_size(const struct plx_cu *c, uint32_t n_tok, uint32_t n_row,
                                    uint32_t last_pos)
{
	struct plx_cu_size s = {.max_tok = n_tok, .max_row = n_row};
	uint32_t need = last_pos / PLX_KC_ATTN_SPLIT + 1, i = 0;

	if (n_tok <= PLX_CU_GRAPH_TOK)
		for (s.max_tok = 1; s.max_tok < n_tok;)
			s.max_tok *= 2;
	while (i + 1 < PLX_CU_SPLITS && splits_of(c, i) < need)
		i++;
	s.n_split = splits_of(c, i);
	if (n_tok > PLX_CU_HEAD_ROWS || s.n_split < need || !parts_fit(c, s.max_tok, s.n_split))
		s.n_split = 0;
	if (n_tok <= PLX_CU_GRAPH_TOK)
		s.max_row = s.max_tok;
	return s;
}

/* ---- kernels -------------------------------------------------------------------------------- */

static struct plx_kc_seg seg_of(const struct plx_kc_mat *w, float *y, uint32_t stride,
                                const float *bias, bool add)
{
	return (struct plx_kc_seg){.w = *w, .y = y, .bias = bias, .y_stride = stride, .add = add};
}

/* What products take and leave beside their segments. */
struct around {
	struct plx_kc_act act;
	struct plx_kc_norm_in norm;
	struct plx_kc_act mid;
	struct plx_kc_ahead ahead[PLX_KC_AHEAD];
};

/* Products of the same activations; those of one type go together. Returns launches. */
static uint32_t products(struct plx_cu *c, const struct around *a, uint32_t max_tok,
                         const struct plx_kc_seg *seg, uint32_t n)
{
	uint32_t n_launch = 0;

	for (uint32_t i = 0; i < n;) {
		struct plx_kc_mm mm = {.act = a->act,
		                       .norm = a->norm,
		                       .mid = a->mid,
		                       .n = c->mem.count,
		                       .max_tok = max_tok};
		uint32_t type = seg[i].w.type;

		if (i == 0)
			memcpy(mm.ahead, a->ahead, sizeof(mm.ahead));

		while (i < n && seg[i].w.type == type)
			mm.seg[mm.n_seg++] = seg[i++];
		plx_kc_matmul(&mm, c->stream);
		n_launch++;
	}
	return n_launch;
}

/* The norm in front of a product: done by it, or by a kernel of its own. Returns launches. */
static uint32_t norm_put(struct plx_cu *c, struct around *a, const float *w, uint32_t max_tok)
{
	if (plx_kc_few_norms(a->act.n_in, max_tok)) {
		a->norm =
		    (struct plx_kc_norm_in){.x = c->x, .w = w, .eps = c->m->rms_eps, .src = NULL};
		return 0;
	}
	plx_kc_norm(&a->act, c->x, w, c->m->rms_eps, NULL, 0, c->mem.count, max_tok, c->stream);
	return 1;
}

#define AHEAD_BYTES (UINT64_C(16) << 20) /* of weights asked into L2 by one kernel, at most */

/* Asks for a matrix as far as room is left; its quants are nearly all of it. */
static void ahead_add(struct around *a, const struct plx_kc_mat *w, uint64_t *room)
{
	uint64_t bytes = plx_kc_mat_bytes(w->type, w->n_out, w->n_in);

	for (uint32_t i = 0; i < PLX_KC_AHEAD && *room != 0; i++) {
		if (a->ahead[i].bytes > 0)
			continue;
		bytes = bytes < *room ? bytes : *room;
		a->ahead[i] = (struct plx_kc_ahead){w->q, bytes};
		*room -= bytes;
		return;
	}
}

static struct plx_kc_kv kv_of(const struct plx_cu *c)
{
	return (struct plx_kc_kv){.pool = c->kv,
	                          .block_bytes = c->block_bytes,
	                          .table = c->mem.table,
	                          .max_seq_blocks = c->lim.max_seq_blocks,
	                          .block_tokens = c->lim.block_tokens,
	                          .n_head = c->m->n_head,
	                          .n_head_kv = c->m->n_head_kv,
	                          .head_dim = c->m->head_dim};
}

static struct plx_kc_toks toks_of(const struct plx_cu *c, uint32_t max_tok)
{
	return (struct plx_kc_toks){
	    .n = c->mem.count, .pos = c->mem.pos, .slot = c->mem.slot_of, .max_tok = max_tok};
}

static uint32_t qkv_launch(struct plx_cu *c, const struct plx_cu_layer *l, uint32_t max_tok)
{
	uint32_t q = l->wq.n_out, k = l->wk.n_out, w = q + 2 * k;
	struct plx_kc_seg seg[3] = {seg_of(&l->wq, c->qkv, w, l->bq, false),
	                            seg_of(&l->wk, c->qkv + q, w, l->bk, false),
	                            seg_of(&l->wv, c->qkv + q + k, w, l->bv, false)};

	struct around a = {.act = c->act_norm};
	uint64_t room = AHEAD_BYTES;
	uint32_t n = norm_put(c, &a, l->attn_norm, max_tok);

	/* Attention leaves the memory idle. */
	ahead_add(&a, &l->wo, &room);
	ahead_add(&a, &l->gate, &room);
	ahead_add(&a, &l->up, &room);
	return n + products(c, &a, max_tok, seg, 3);
}

static uint32_t attention_launch(struct plx_cu *c, const struct plx_cu_layer *l, uint32_t il,
                                 struct plx_cu_size size)
{
	const struct plx_model *m = c->m;
	struct plx_kc_rope rope = {.kv = kv_of(c),
	                           .toks = toks_of(c, size.max_tok),
	                           .qkv = c->qkv,
	                           .tab = c->rope,
	                           .q_norm = l->q_norm,
	                           .k_norm = l->k_norm,
	                           .eps = m->rms_eps,
	                           .n_rot = m->n_rot,
	                           .halves = m->pairing == PLX_ROPE_HALVES,
	                           .layer = il};
	struct plx_kc_attn attn = {.kv = rope.kv,
	                           .toks = rope.toks,
	                           .qkv = c->qkv,
	                           .part = size.n_split > 0 ? c->part : NULL,
	                           .out = m->head_dim % 32 == 0 ? NULL : c->att,
	                           .act = c->act_att,
	                           .scale = (float)(1.0 / sqrt(m->head_dim)),
	                           .n_split = size.n_split,
	                           .layer = il};
	struct plx_kc_seg out = seg_of(&l->wo, c->x, m->n_embd, NULL, true);
	struct around a = {.act = c->act_att};
	uint32_t n = 1;

	if (attn.part != NULL && size.max_tok == 1) {
		plx_kc_attention_one(&rope, &attn, c->arrived, c->stream);
	} else {
		plx_kc_rope(&rope, c->stream);
		plx_kc_attention(&attn, c->stream);
		n = size.n_split > 0 ? 3 : 2;
	}
	if (attn.out != NULL)
		plx_kc_split(&c->act_att, c->att, NULL, c->mem.count, size.max_tok, c->stream);
	return n + (attn.out != NULL ? 1u : 0u) + products(c, &a, size.max_tok, &out, 1);
}

static uint32_t ffn_launch(struct plx_cu *c, const struct plx_cu_layer *l,
                           const struct plx_cu_layer *next, uint32_t max_tok)
{
	const struct plx_model *m = c->m;
	struct plx_kc_seg seg[2] = {seg_of(&l->gate, c->gate, m->n_ff, NULL, false),
	                            seg_of(&l->up, c->up, m->n_ff, NULL, false)};
	struct plx_kc_seg down = seg_of(&l->down, c->x, m->n_embd, NULL, true);
	struct around in = {.act = c->act_norm}, out = {.act = c->act_mid};
	uint64_t room = AHEAD_BYTES;
	uint32_t n = norm_put(c, &in, l->ffn_norm, max_tok);
	bool whole = max_tok <= PLX_KC_FEW && l->gate.type == l->up.type;

	if (whole)
		in.mid = c->act_mid;
	ahead_add(&in, &l->down, &room);
	if (next != NULL)
		ahead_add(&out, &next->wq, &room);
	n += products(c, &in, max_tok, seg, 2);
	if (!whole) {
		plx_kc_split(&c->act_mid, c->gate, c->up, c->mem.count, max_tok, c->stream);
		n++;
	}
	return n + products(c, &out, max_tok, &down, 1);
}

/* Logits and choices of rows row0 .. row0 + n - 1. */
static uint32_t head_launch(struct plx_cu *c, uint32_t row0, uint32_t n)
{
	const struct plx_model *m = c->m;
	struct plx_kc_mm mm = {.n_seg = 1,
	                       .act = c->act_last,
	                       .n = c->mem.count,
	                       .row0 = row0,
	                       .of_rows = 1,
	                       .max_tok = n};

	mm.seg[0] = seg_of(&c->head, c->logits, c->logit_stride, NULL, false);
	uint32_t n_launch = 1;

	if (plx_kc_few_norms(m->n_embd, n)) {
		mm.norm = (struct plx_kc_norm_in){
		    .x = c->x, .w = c->output_norm, .eps = m->rms_eps, .src = c->mem.row};
	} else {
		plx_kc_norm(&c->act_last, c->x, c->output_norm, m->rms_eps, c->mem.row, row0,
		            c->mem.count, n, c->stream);
		n_launch++;
	}
	plx_kc_matmul(&mm, c->stream);
	return n_launch + plx_kc_sample(c->logits, c->logit_stride, m->n_vocab, c->mem.how,
	                                c->mem.choice, c->scan, c->mem.count, row0, n, c->stream);
}

uint32_t plx_cu_pass_launch(struct plx_cu *c, struct plx_cu_size size)
{
	uint32_t n = 2;

	plx_cu_step_begin(&c->mem, c->stream);
	if (size.max_tok > 0) {
		plx_kc_embed(&c->embd, c->mem.id, c->x, c->mem.count, size.max_tok, c->stream);
		n++;
	}
	for (uint32_t il = 0; il < c->m->n_layer && size.max_tok > 0; il++) {
		n += qkv_launch(c, &c->layer[il], size.max_tok);
		n += attention_launch(c, &c->layer[il], il, size);
		n += ffn_launch(c, &c->layer[il], il + 1 < c->m->n_layer ? &c->layer[il + 1] : NULL,
		                size.max_tok);
	}
	for (uint32_t row0 = 0; row0 < size.max_row; row0 += PLX_CU_HEAD_ROWS) {
		uint32_t left = size.max_row - row0;

		n += head_launch(c, row0, left < PLX_CU_HEAD_ROWS ? left : PLX_CU_HEAD_ROWS);
	}
	plx_cu_step_finish(&c->mem, c->stream);
	return n;
}

/* ---- graphs --------------------------------------------------------------------------------- */

uint32_t plx_cu_graph_at(const struct plx_cu *c, struct plx_cu_size size)
{
	uint32_t t = 0, s = 0;

	if (size.max_tok == 0 || size.max_tok > PLX_CU_GRAPH_TOK || size.n_split == 0)
		return PLX_CU_NO_GRAPH;
	while (1u << t < size.max_tok)
		t++;
	while (s + 1 < PLX_CU_SPLITS && splits_of(c, s) < size.n_split)
		s++;
	return c->graph[t][s] != NULL ? t * PLX_CU_SPLITS + s : PLX_CU_NO_GRAPH;
}

static int capture(struct plx_cu *c, struct plx_cu_size size, cudaGraphExec_t *out,
                   struct plx_diag *d)
{
	cudaGraph_t graph = NULL;
	cudaError_t e = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);

	if (e != cudaSuccess)
		return plx_cu_error(c, e, "capturing a graph", d);
	/* Only a graph's last kernel goes on with a chain. */
	c->mem.graph = c->chains ? c->graph_table : NULL;
	(void)plx_cu_pass_launch(c, size);
	c->mem.graph = NULL;
	e = cudaGetLastError();
	cudaError_t end = cudaStreamEndCapture(c->stream, &graph);

	if (e == cudaSuccess)
		e = end;
	if (e == cudaSuccess)
		e = cudaGraphInstantiate(out, graph,
		                         c->chains ? cudaGraphInstantiateFlagDeviceLaunch : 0);
	if (e == cudaSuccess)
		e = cudaGraphUpload(*out, c->stream);
	if (graph != NULL)
		(void)cudaGraphDestroy(graph);
	return e == cudaSuccess ? PLX_E_OK : plx_cu_error(c, e, "making a graph", d);
}

int plx_cu_graph_make(struct plx_cu *c, uint32_t i, struct plx_diag *d)
{
	uint32_t t = i % PLX_CU_GRAPH_SIZE, s = i / PLX_CU_GRAPH_SIZE;
	struct plx_cu_size size = {
	    .max_tok = 1u << t, .max_row = 1u << t, .n_split = splits_of(c, s)};
	bool wanted = (t == 0 || 1u << (t - 1) < c->lim.max_step_tokens) &&
	              (s == 0 || splits_of(c, s - 1) < max_splits(c)) &&
	              parts_fit(c, size.max_tok, size.n_split);

	if (wanted) {
		int err = capture(c, size, &c->graph[t][s], d);

		if (err != 0 && c->chains && i == 0) {
			/* A driver that can't: the host launches each step. */
			c->chains = false;
			c->dead = cudaSuccess;
			(void)cudaGetLastError();
			err = capture(c, size, &c->graph[t][s], d);
		}
		if (err != 0)
			return err;
	}
	return i + 1 == PLX_CU_GRAPH_SIZE * PLX_CU_SPLITS;
}
