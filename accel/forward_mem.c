/* What the transformer pass needs in memory, and whether it can run a model at all. */
#include "accel/forward.h"

#include <math.h>
#include <string.h>

#include "accel/forward_moe.h"
#include "accel/forward_pick.h"
#include "accel/forward_tree.h"
#include "fw/base/err.h"

/* Logits held at once: as many rows as this many bytes hold, within 8 to 64. */
#define HEAD_BYTES (16u << 20)

static uint32_t max_positions(const struct plx_dev_limits *lim)
{
	return lim->max_seq_blocks * lim->block_tokens;
}

uint32_t plx_fwd_layer_mats(const struct plx_model *m)
{
	return plx_fwd_first_ffn(m) + 3 * (m->n_expert > 0 ? plx_fwd_n_ffn(m) : 1);
}

/* A vector as a matrix of one row. */
static struct plx_tensor one_row(const float *v, uint32_t n)
{
	uint64_t bytes = n * sizeof(float);

	return (struct plx_tensor){(const uint8_t *)v, PLX_Q_F32, 1, n, bytes, bytes};
}

struct plx_tensor plx_fwd_layer_mat(const struct plx_model *m, uint32_t il, uint32_t i)
{
	const struct plx_layer *l = &m->layer[il];
	uint32_t first = plx_fwd_first_ffn(m), part = i < first ? 0 : (i - first) % 3;
	const struct plx_tensor *head[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->router};
	const struct plx_tensor *ffn[] = {&l->gate, &l->up, &l->down};

	if (i < first)
		return i == 5 ? one_row(l->shared_gate, m->n_embd) : *head[i];
	uint32_t e = (i - first) / 3;

	return e < m->n_expert ? plx_model_expert(m, l, (enum plx_expert_part)part, e) : *ffn[part];
}

/* The widths that must be whole blocks; the experts' where there are experts. */
static int widths_check(const struct plx_model *m, struct plx_diag *d)
{
	uint32_t ff = m->n_expert > 0 ? m->n_ff_expert : m->n_ff;

	if (m->n_embd % 32 != 0 || ff % 32 != 0 || m->n_ff_shared % 32 != 0 ||
	    m->n_head * m->head_dim % 32 != 0)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: widths %u, %u and %u; the CPU device runs multiples of 32",
		                    m->name, m->n_embd,
		                    m->n_ff_shared % 32 != 0 ? m->n_ff_shared : ff,
		                    m->n_head * m->head_dim);
	return PLX_E_OK;
}

static int shapes_check(const struct plx_model *m, struct plx_diag *d)
{
	if (m->head_dim % 16 != 0 || m->head_dim > PLX_K_HEAD_DIM_MAX)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: heads of %u dimensions; the CPU device runs multiples of "
		                    "16 up to %u",
		                    m->name, m->head_dim, PLX_K_HEAD_DIM_MAX);
	if (m->n_vocab > PLX_MODEL_MAX_VOCAB)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: a vocabulary of %u; at most %u", m->name,
		                    m->n_vocab, PLX_MODEL_MAX_VOCAB);
	return PLX_E_OK;
}

int plx_fwd_check(const struct plx_model *m, const struct plx_dev_limits *lim, struct plx_diag *d)
{
	int err = shapes_check(m, d);

	if (err == 0)
		err = widths_check(m, d);
	if (err != 0)
		return err;
	if ((uint64_t)lim->max_seq_blocks * lim->block_tokens > PLX_MODEL_MAX_CTX)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "a context of %u blocks of %u tokens; at most %u tokens",
		                    lim->max_seq_blocks, lim->block_tokens, PLX_MODEL_MAX_CTX);
	if (plx_fwd_weight_bytes(m) == 0)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: a weight matrix has a type or width that the CPU kernels "
		                    "do not compute",
		                    m->name);
	return PLX_E_OK;
}

/* A matrix repacked, rounded up so that the next one is aligned; 0 where it can't be. */
static uint64_t mat_bytes(const struct plx_tensor *t)
{
	return (plx_k_pack_bytes(t->type, t->n_rows, t->n_cols) + 63) & ~UINT64_C(63);
}

uint64_t plx_fwd_weight_bytes(const struct plx_model *m)
{
	uint64_t sum = mat_bytes(&m->output);
	bool all = sum > 0;

	for (uint32_t il = 0; il < m->n_layer; il++)
		for (uint32_t i = 0; i < plx_fwd_layer_mats(m); i++) {
			struct plx_tensor t = plx_fwd_layer_mat(m, il, i);
			uint64_t b = mat_bytes(&t);

			all = all && b > 0;
			sum += b;
		}
	return all ? sum : 0;
}

uint64_t plx_fwd_block_bytes(const struct plx_model *m, const struct plx_dev_limits *lim)
{
	enum plx_k_kv_type type = plx_fwd_kv_type(lim);

	uint64_t pages =
	    plx_limits_sparse(lim) ? plx_k_page_bytes(lim->block_tokens, m->head_dim) : 0;

	return (uint64_t)m->n_layer * m->n_head_kv *
	       (plx_k_kv_k_bytes(type, lim->block_tokens, m->head_dim) +
	        plx_k_kv_v_bytes(type, lim->block_tokens, m->head_dim) + pages);
}

/* ---- carving -------------------------------------------------------------------------------- */

/* Takes from an arena, or only adds up where there is none yet. */
struct carver {
	struct plx_arena *arena;
	uint64_t bytes;
	bool failed;
};

static void *carve(struct carver *c, uint64_t n, uint64_t elem_bytes)
{
	uint64_t bytes = (n * elem_bytes + 63) & ~UINT64_C(63);

	c->bytes += bytes;
	if (c->arena == NULL)
		return NULL;
	void *p = plx_arena_take(c->arena, bytes, 64);

	c->failed = c->failed || p == NULL;
	return p;
}

static float *carve_floats(struct carver *c, uint64_t n)
{
	return carve(c, n, sizeof(float));
}

/* Which forms of its activations a set of matrices takes. */
struct forms {
	bool q8;
	bool bf16;
	bool f32;
};

static void forms_add(struct forms *f, const struct plx_tensor *t)
{
	enum plx_k_act act = plx_k_wants((enum plx_qtype)t->type);

	f->q8 = f->q8 || act == PLX_K_ACT_Q8;
	f->bf16 = f->bf16 || act == PLX_K_ACT_BF16;
	f->f32 = f->f32 || act == PLX_K_ACT_F32;
}

static void carve_act(struct carver *c, struct plx_fwd_act *a, struct forms f, uint64_t n_tok,
                      uint32_t n)
{
	a->q8 = f.q8 ? carve(c, n_tok * (n / PLX_K_QBLOCK), sizeof(struct plx_k_qblk)) : NULL;
	a->bf16 = f.bf16 ? carve(c, n_tok * n, sizeof(*a->bf16)) : NULL;
	a->f32 = f.f32 ? carve_floats(c, n_tok * n) : NULL;
}

/* What each activation's matrices take. */
struct all_forms {
	struct forms norm, att, mid, last;
	struct forms in, mid_expert; /* of the experts but the shared one */
};

static void forms_join(struct forms *f, const struct forms *g)
{
	f->q8 = f->q8 || g->q8;
	f->bf16 = f->bf16 || g->bf16;
	f->f32 = f->f32 || g->f32;
}

static void forms_of_experts(struct all_forms *a, const struct plx_model *m,
                             const struct plx_layer *l)
{
	forms_add(&a->norm, &l->router);
	forms_add(&a->in, &l->exp_gate);
	forms_add(&a->in, &l->exp_up);
	forms_add(&a->mid_expert, &l->exp_down);
	forms_join(&a->norm, &a->in);                    /* what is gathered comes from norm */
	a->norm.f32 = a->norm.f32 || m->n_ff_shared > 0; /* its gate is f32 */
}

static struct all_forms forms_of(const struct plx_model *m)
{
	struct all_forms a = {0};

	for (uint32_t il = 0; il < m->n_layer; il++) {
		const struct plx_layer *l = &m->layer[il];

		forms_add(&a.norm, &l->wq);
		forms_add(&a.norm, &l->wk);
		forms_add(&a.norm, &l->wv);
		forms_add(&a.att, &l->wo);
		if (m->n_expert > 0)
			forms_of_experts(&a, m, l);
		if (m->n_expert > 0 && m->n_ff_shared == 0)
			continue;
		forms_add(&a.norm, &l->gate);
		forms_add(&a.norm, &l->up);
		forms_add(&a.mid, &l->down);
	}
	forms_add(&a.last, &m->output);
	return a;
}

/* What the experts' ops need; into *x, which is f->moe or, while only counting, nobody's. */
static void carve_moe(struct carver *c, const struct plx_fwd *f, const struct all_forms *a,
                      struct plx_fwd_moe *x)
{
	const struct plx_model *m = f->m;
	uint64_t n_tok = f->lim.max_step_tokens, rows = n_tok * m->n_expert_used;

	x->n_used = m->n_expert_used;
	x->stride = (plx_fwd_n_ffn(m) + 15) & ~15u;
	x->logits = carve_floats(c, n_tok * x->stride);
	x->pick = carve(c, rows, sizeof(*x->pick));
	x->weight = carve_floats(c, rows);
	x->row_of = carve(c, rows, sizeof(*x->row_of));
	x->tok_of = carve(c, rows, sizeof(*x->tok_of));
	x->scale = carve_floats(c, rows + n_tok);
	x->guess = carve_floats(c, (uint64_t)PLX_FWD_GUESS_TOK * x->stride);
	x->guess_pick = carve(c, x->n_used, sizeof(*x->guess_pick));
	x->n_of = carve(c, m->n_expert, sizeof(*x->n_of));
	x->heat = carve(c, (uint64_t)m->n_layer * m->n_expert, sizeof(*x->heat));
	x->job = carve(c, plx_fwd_moe_jobs(m, f->lim.max_step_tokens), sizeof(*x->job));
	carve_act(c, &x->in, a->in, rows, m->n_embd);
	carve_act(c, &x->mid, a->mid_expert, rows, m->n_ff_expert);
	x->out = carve_floats(c, (rows + (m->n_ff_shared > 0 ? n_tok : 0)) * m->n_embd);
	x->ffn = carve(c, (uint64_t)m->n_layer * plx_fwd_n_ffn(m), sizeof(*x->ffn));
}

/* What picking chunks needs; into *x, as carve_moe. */
static void carve_picks(struct carver *c, const struct plx_fwd *f, struct plx_fwd_picks *x)
{
	uint64_t n_tok = f->lim.max_step_tokens, n_pos = max_positions(&f->lim);
	uint64_t n_split = plx_k_attn_splits((uint32_t)n_pos - 1);
	uint64_t n_page = n_pos / plx_k_page_tokens(f->lim.block_tokens) + 16;
	struct plx_fwd_pick_lane lane;

	x->pick = carve(c, n_split * f->m->n_head * n_tok, sizeof(*x->pick));
	x->page = carve(c, n_tok, sizeof(*x->page));
	x->lane = carve(c, f->lim.n_threads, sizeof(*x->lane));
	for (uint32_t i = 0; i < f->lim.n_threads; i++) {
		struct plx_fwd_pick_lane *s = x->lane != NULL ? &x->lane[i] : &lane;

		memset(s, 0, sizeof(*s));
		s->mean = carve_floats(c, n_page);
		s->most = carve_floats(c, n_page + n_split); /* and a query's pick */
		s->share = carve(c, f->lim.max_step_seqs, sizeof(*s->share));
	}
}

/* What trees of drafts need; into *x, as carve_moe. */
static void carve_tree(struct carver *c, const struct plx_fwd *f, struct plx_fwd_tree *x)
{
	uint32_t n = f->lim.tree_branches;

	memset(x, 0, sizeof(*x));
	x->sub_end = carve(c, f->lim.max_step_tokens, sizeof(*x->sub_end));
	x->table = carve(c, (uint64_t)n * f->lim.max_seq_blocks, sizeof(*x->table));
	x->copy = carve(c, 2 * n, sizeof(*x->copy));
}

static void carve_acts(struct carver *c, struct plx_fwd *f)
{
	const struct plx_model *m = f->m;
	struct all_forms a = forms_of(m);
	uint64_t n_tok = f->lim.max_step_tokens;
	struct plx_fwd_moe moe;

	f->att_by_head = !a.att.q8 || m->n_head / m->n_head_kv * m->head_dim % PLX_K_QBLOCK == 0;
	a.att.f32 = a.att.f32 || !f->att_by_head;
	carve_act(c, &f->norm, a.norm, n_tok, m->n_embd);
	carve_act(c, &f->att, a.att, n_tok, m->n_head * m->head_dim);
	carve_act(c, &f->mid, a.mid, n_tok, m->n_expert > 0 ? m->n_ff_shared : m->n_ff);
	carve_act(c, &f->last, a.last, f->head_group, m->n_embd);
	if (m->n_expert == 0)
		return;
	f->moe = carve(c, 1, sizeof(*f->moe));
	carve_moe(c, f, &a, f->moe != NULL ? f->moe : &moe);
}

static void carve_lane(struct carver *c, const struct plx_fwd *f, struct plx_fwd_lane *s)
{
	const struct plx_model *m = f->m;
	uint32_t group = m->n_head / m->n_head_kv;
	uint32_t queries = group > PLX_FWD_SPAN_MAX ? group : PLX_FWD_SPAN_MAX;
	uint32_t widest = m->n_embd > m->n_head * m->head_dim ? m->n_embd : m->n_head * m->head_dim;

	s->row = carve_floats(c, widest);
	s->gate = carve_floats(c, (uint64_t)PLX_FWD_TOK_CHUNK * PLX_FWD_ROWS_MAX);
	s->up = carve_floats(c, (uint64_t)PLX_FWD_TOK_CHUNK * PLX_FWD_ROWS_MAX);
	s->part = carve_floats(c, (uint64_t)queries * f->part_floats);
	s->acc = carve_floats(c, (uint64_t)queries * f->part_floats);
	s->score = carve_floats(c, (uint64_t)(f->m->n_head / f->m->n_head_kv) * f->observe_stride);
	s->seen = carve(c, f->observe_stride, sizeof(*s->seen));
}

static void carve_step(struct carver *c, struct plx_fwd *f)
{
	uint64_t n_tok = f->lim.max_step_tokens;

	f->id = carve(c, n_tok, sizeof(*f->id));
	f->pos = carve(c, n_tok, sizeof(*f->pos));
	f->row = carve(c, n_tok, sizeof(*f->row));
	f->seq = carve(c, f->lim.max_step_seqs + f->lim.tree_branches, sizeof(*f->seq));
	f->shift = carve(c, f->lim.n_slots, sizeof(*f->shift));
	f->span = carve(c, n_tok, sizeof(*f->span));
	f->evict.table = carve(c, f->lim.max_seq_blocks, sizeof(*f->evict.table));
}

static void carve_all(struct carver *c, struct plx_fwd *f)
{
	const struct plx_model *m = f->m;
	uint64_t n_tok = f->lim.max_step_tokens;
	struct plx_fwd_lane lane;

	f->layer = carve(c, m->n_layer, sizeof(*f->layer));
	f->rope = carve_floats(c, (uint64_t)max_positions(&f->lim) * m->n_rot);
	f->x = carve_floats(c, n_tok * m->n_embd);
	f->qkv = carve_floats(c, n_tok * f->qkv_width);
	f->acc = max_positions(&f->lim) > PLX_K_ATTN_SPLIT
	             ? carve_floats(c, n_tok * m->n_head * f->part_floats)
	             : NULL;
	f->logits = carve_floats(c, (uint64_t)f->head_group * f->logit_stride);
	carve_acts(c, f);
	carve_step(c, f);
	if (plx_limits_sparse(&f->lim)) {
		struct plx_fwd_picks picks;

		f->picks = carve(c, 1, sizeof(*f->picks));
		carve_picks(c, f, f->picks != NULL ? f->picks : &picks);
	}
	if (f->lim.tree_branches > 0) {
		struct plx_fwd_tree tree;

		f->tree = carve(c, 1, sizeof(*f->tree));
		carve_tree(c, f, f->tree != NULL ? f->tree : &tree);
	}
	f->lane = carve(c, f->lim.n_threads, sizeof(*f->lane));
	for (uint32_t i = 0; i < f->lim.n_threads; i++)
		carve_lane(c, f, f->lane != NULL ? &f->lane[i] : &lane);
}

/* Everything that follows from the sizes alone. */
static void derive(struct plx_fwd *f, const struct plx_model *m, const struct plx_dev_limits *lim)
{
	memset(f, 0, sizeof(*f));
	f->m = m;
	f->lim = *lim;
	f->block_bytes = plx_fwd_block_bytes(m, lim);
	f->qkv_width = (m->n_head + 2 * m->n_head_kv) * m->head_dim;
	f->part_floats = plx_k_attn_part_floats(m->head_dim);
	f->logit_stride = (m->n_vocab + 15) & ~15u;
	f->head_group = HEAD_BYTES / (f->logit_stride * (uint32_t)sizeof(float));
	f->head_group = f->head_group < 8 ? 8 : f->head_group > 64 ? 64 : f->head_group;
	f->attn_scale = (float)(1.0 / sqrt(m->head_dim));
	f->observe_stride = max_positions(lim);
	f->op = PLX_FWD_N_OPS;
}

uint64_t plx_fwd_work_bytes(const struct plx_model *m, const struct plx_dev_limits *lim)
{
	struct carver c = {0};
	struct plx_fwd f;

	derive(&f, m, lim);
	carve_all(&c, &f);
	return c.bytes;
}

int plx_fwd_init(struct plx_fwd *f, const struct plx_model *m, const struct plx_kernels *k,
                 const struct plx_dev_limits *lim, struct plx_arena *arena)
{
	struct carver c = {.arena = arena};

	derive(f, m, lim);
	f->k = k;
	carve_all(&c, f);
	return c.failed ? PLX_E_NOMEM : PLX_E_OK;
}
