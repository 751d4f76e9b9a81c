/* Ops over single tokens: embedding, norms, rotation and storing; see forward_int.h. */
#include <string.h>

#include "accel/forward_int.h"
#include "accel/forward_tree.h"
#include "kernels/kernels.h"

/* Writes token t of an activation in the forms that are wanted; src may be the f32 form itself. */
static void act_store(const struct plx_fwd *f, const struct plx_fwd_act *a, uint32_t t, uint32_t n,
                      const float *src)
{
	if (a->q8 != NULL)
		f->k->quantise(a->q8 + (size_t)t * (n / PLX_K_QBLOCK), src, 1, n, n);
	if (a->bf16 != NULL)
		f->k->to_bf16(a->bf16 + (size_t)t * n, src, n);
	if (a->f32 != NULL && a->f32 + (size_t)t * n != src)
		memcpy(a->f32 + (size_t)t * n, src, n * sizeof(float));
}

static void embed_tok(struct plx_fwd *f, uint32_t t)
{
	const struct plx_tensor *e = &f->m->tok_embd;

	plx_q_dequant((enum plx_qtype)e->type,
	              e->data + (uint64_t)(uint32_t)f->id[t] * e->row_bytes,
	              f->x + (size_t)t * f->m->n_embd, f->m->n_embd);
}

static void norm_tok(struct plx_fwd *f, uint32_t t, float *row)
{
	const struct plx_layer *l = &f->m->layer[f->il];
	uint32_t n = f->m->n_embd;
	uint32_t src = f->op == PLX_FWD_HEAD_NORM ? f->row[f->row0 + t] : t;
	const float *w = f->op == PLX_FWD_NORM1   ? l->attn_norm
	                 : f->op == PLX_FWD_NORM2 ? l->ffn_norm
	                                          : f->m->output_norm;

	f->k->rmsnorm(row, f->x + (size_t)src * n, w, 1, n, n, f->m->rms_eps);
	act_store(f, f->op == PLX_FWD_HEAD_NORM ? &f->last : &f->norm, t, n, row);
}

static void rope_tok(struct plx_fwd *f, const struct plx_fwd_seq *q, uint32_t t)
{
	const struct plx_model *m = f->m;
	const struct plx_layer *l = &m->layer[f->il];
	uint32_t hd = m->head_dim;
	float *qv = f->qkv + (size_t)t * f->qkv_width;
	float *kv = qv + (size_t)m->n_head * hd;
	const float *vv = kv + (size_t)m->n_head_kv * hd;
	const float *tab = f->rope + (size_t)(f->pos[t] + q->ahead) * m->n_rot;
	enum plx_k_rope kind =
	    m->pairing == PLX_ROPE_HALVES ? PLX_K_ROPE_HALVES : PLX_K_ROPE_ADJACENT;

	if (l->q_norm != NULL) {
		f->k->rmsnorm(qv, qv, l->q_norm, m->n_head, hd, hd, m->rms_eps);
		f->k->rmsnorm(kv, kv, l->k_norm, m->n_head_kv, hd, hd, m->rms_eps);
	}
	f->k->rope(qv, tab, m->n_head, hd, m->n_rot, kind);
	f->k->rope(kv, tab, m->n_head_kv, hd, m->n_rot, kind);
	for (uint32_t h = 0; h < m->n_head_kv; h++) {
		struct plx_k_kv view = plx_fwd_kv_view(f, q->table, f->il, h);

		f->k->kv_store(&view, f->pos[t], kv + (size_t)h * hd, vv + (size_t)h * hd);
		/* And into the branches that hang on it. */
		for (const struct plx_fwd_seq *b = q + 1; plx_fwd_hangs_on(f, b, t); b++) {
			view.table = b->table;
			f->k->kv_store(&view, f->pos[t], kv + (size_t)h * hd, vv + (size_t)h * hd);
		}
	}
}

void plx_fwd_tok_units(struct plx_fwd *f, struct plx_range tok, uint32_t lane)
{
	for (uint32_t t = tok.begin; t < tok.end; t++) {
		if (f->op == PLX_FWD_EMBED)
			embed_tok(f, t);
		else if (f->op == PLX_FWD_ROPE)
			rope_tok(f, plx_fwd_seq_of(f, t), t);
		else if (f->op == PLX_FWD_QATT)
			act_store(f, &f->att, t, f->m->n_head * f->m->head_dim,
			          f->att.f32 + (size_t)t * f->m->n_head * f->m->head_dim);
		else
			norm_tok(f, t, f->lane[lane].row);
	}
}
