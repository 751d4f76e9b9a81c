/*
 * plx-model convert: a Hugging Face folder to one GGUF file.
 *
 * Every tensor that the architecture needs is taken by its name there and its shape is checked
 * against config.json; one that is left over is refused. llama's q and k are reordered, since GGUF
 * rotates adjacent pairs there. The result is opened by the readers that polluxd uses before it
 * gets its name: what they refuse never appears.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "accel/model/model.h"
#include "accel/model/tokenizer.h"
#include "fw/base/err.h"
#include "tools/model/commands.h"
#include "tools/gguf/emit.h"
#include "tools/model/hf.h"
#include "tools/gguf/out.h"
#include "tools/gguf/pool.h"
#include "tools/model/st.h"

#define LAYER_TENSORS 24u /* at most */

struct build {
	const struct plx_mtool_options *o;
	struct plx_hf hf;
	struct plx_st_set set;
	struct plx_emit_tensor *t;
	const uint8_t **src; /* [n_src] of t, in order */
	uint32_t n_src;
	uint32_t n;
	uint32_t n_taken; /* of the set */
	bool tied;
	struct plx_diag *d;
};

static uint32_t qtype_of(enum plx_st_dtype t)
{
	return t == PLX_ST_F32 ? PLX_Q_F32 : t == PLX_ST_F16 ? PLX_Q_F16 : PLX_Q_BF16;
}

/* ---- one tensor ------------------------------------------------------------------------------ */

/* The tensor of that name and shape; NULL and *err where it is not as it should be. */
static const struct plx_st_tensor *find_tensor(struct build *b, const char *name, uint64_t rows,
                                               uint64_t cols, int *err)
{
	const struct plx_st_tensor *t = plx_st_set_find(&b->set, name);
	uint32_t n_dims = rows ? 2 : 1;

	*err = 0;
	if (!t)
		*err = plx_diag_set(b->d, PLX_E_FORMAT,
		                    "%s: tensor '%s' is missing; fetch the model again", b->o->in,
		                    name);
	else if (t->dtype == PLX_ST_OTHER)
		*err = plx_diag_set(b->d, PLX_E_UNSUPPORTED,
		                    "%s: tensor '%s' is %s; save the model as F32, F16 or BF16",
		                    b->o->in, name, t->dtype_name);
	else if (t->n_dims != n_dims || t->dim[n_dims - 1] != cols || (rows && t->dim[0] != rows))
		*err = plx_diag_set(
		    b->d, PLX_E_FORMAT,
		    "%s: tensor '%s' has %u dimensions, %llu x %llu, where "
		    "config.json says %llu x %llu",
		    b->o->in, name, t->n_dims, (unsigned long long)(t->n_dims > 1 ? t->dim[0] : 1),
		    (unsigned long long)(t->n_dims ? t->dim[t->n_dims - 1] : 0),
		    (unsigned long long)(rows ? rows : 1), (unsigned long long)cols);
	b->n_taken += !*err;
	return *err ? NULL : t;
}

/* The format: by rule, or, where no main format was asked for, as stored (vectors F32). */
static int choose_type(struct build *b, struct plx_emit_tensor *t, bool head)
{
	struct plx_rules r = b->o->rules;
	enum plx_qtype type = PLX_Q_F32;

	if (!b->o->type_given)
		r.main = (enum plx_qtype)t->from;
	int err = plx_rules_for(&r, t->name, t->n_dims, t->dim[0], head, &type, b->d);

	t->to = type;
	return err;
}

/* Take tensor `from` of rows x cols (rows 0: a vector) as `name`. */
static int take(struct build *b, const char *from, const char *name, uint64_t rows, uint64_t cols,
                uint32_t pair_heads)
{
	struct plx_emit_tensor *t = &b->t[b->n];
	int err;
	const struct plx_st_tensor *s = find_tensor(b, from, rows, cols, &err);

	if (!s)
		return err;
	b->src[b->n_src] = s->data;
	*t = (struct plx_emit_tensor){.n_dims = rows > 1 ? 2 : 1,
	                              .dim = {cols, rows ? rows : 1, 1, 1},
	                              .from = qtype_of(s->dtype),
	                              .src = &b->src[b->n_src],
	                              .n_src = 1,
	                              .n_pair_heads = pair_heads};
	snprintf(t->name, sizeof t->name, "%s", name);
	bool head = strcmp(name, b->tied ? "token_embd.weight" : "output.weight") == 0;

	b->n++;
	b->n_src++;
	return choose_type(b, t, head);
}

/* Take the matrices of a layer's experts as one: `from` has the layer's and then the expert's
 * number. */
static int take_experts(struct build *b, uint32_t layer, const char *part, const char *stem,
                        uint64_t rows, uint64_t cols)
{
	const char *block = b->hf.mixtral ? "block_sparse_moe" : "mlp";
	struct plx_emit_tensor *t = &b->t[b->n];
	uint32_t n = b->hf.n_expert;
	char from[128];

	*t = (struct plx_emit_tensor){
	    .n_dims = 3, .dim = {cols, rows, n, 1}, .src = &b->src[b->n_src], .n_src = n};
	snprintf(t->name, sizeof t->name, "blk.%u.%s", layer, stem);
	for (uint32_t e = 0; e < n; e++) {
		int err;

		snprintf(from, sizeof from, "model.layers.%u.%s.experts.%u.%s.weight", layer, block,
		         e, part);
		const struct plx_st_tensor *s = find_tensor(b, from, rows, cols, &err);

		if (!s)
			return err;
		if (e > 0 && qtype_of(s->dtype) != t->from)
			return plx_diag_set(b->d, PLX_E_UNSUPPORTED,
			                    "%s: tensor '%s' is of another type than the experts "
			                    "before it",
			                    b->o->in, from);
		t->from = qtype_of(s->dtype);
		b->src[b->n_src++] = s->data;
	}
	b->n++;
	return choose_type(b, t, false);
}

/* ---- a layer --------------------------------------------------------------------------------- */

/* One tensor of a layer; rows 0: a vector. */
struct part {
	const char *from, *name;
	uint64_t rows, cols;
	uint32_t pair_heads;
};

/* The feed-forward, but for experts: their router, and the shared one. */
static uint32_t ffn_parts(const struct plx_hf *h, struct part *p)
{
	uint32_t e = h->n_embd, ff = h->n_ff, sh = h->n_ff_shared, n = 0;

	if (h->n_expert == 0) {
		p[n++] = (struct part){"mlp.gate_proj.weight", "ffn_gate.weight", ff, e, 0};
		p[n++] = (struct part){"mlp.up_proj.weight", "ffn_up.weight", ff, e, 0};
		p[n++] = (struct part){"mlp.down_proj.weight", "ffn_down.weight", e, ff, 0};
		return n;
	}
	p[n++] = (struct part){h->mixtral ? "block_sparse_moe.gate.weight" : "mlp.gate.weight",
	                       "ffn_gate_inp.weight", h->n_expert, e, 0};
	if (sh == 0)
		return n;
	p[n++] =
	    (struct part){"mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", 1, e, 0};
	p[n++] =
	    (struct part){"mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", sh, e, 0};
	p[n++] = (struct part){"mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", sh, e, 0};
	p[n++] =
	    (struct part){"mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", e, sh, 0};
	return n;
}

static uint32_t layer_parts(const struct plx_hf *h, struct part *p)
{
	uint64_t q = (uint64_t)h->n_head * h->head_dim, kv = (uint64_t)h->n_head_kv * h->head_dim;
	uint32_t e = h->n_embd;
	bool llama = h->arch == PLX_ARCH_LLAMA;
	const struct part common[] = {
	    {"input_layernorm.weight", "attn_norm.weight", 0, e, 0},
	    {"self_attn.q_proj.weight", "attn_q.weight", q, e, llama ? h->n_head : 0},
	    {"self_attn.k_proj.weight", "attn_k.weight", kv, e, llama ? h->n_head_kv : 0},
	    {"self_attn.v_proj.weight", "attn_v.weight", kv, e, 0},
	    {"self_attn.o_proj.weight", "attn_output.weight", e, q, 0},
	    {"post_attention_layernorm.weight", "ffn_norm.weight", 0, e, 0},
	};
	uint32_t n = sizeof common / sizeof common[0];

	memcpy(p, common, sizeof common);
	if (plx_hf_has_bias(h)) {
		p[n++] = (struct part){"self_attn.q_proj.bias", "attn_q.bias", 0, q, 0};
		p[n++] = (struct part){"self_attn.k_proj.bias", "attn_k.bias", 0, kv, 0};
		p[n++] = (struct part){"self_attn.v_proj.bias", "attn_v.bias", 0, kv, 0};
	}
	if (h->arch == PLX_ARCH_QWEN3 || h->arch == PLX_ARCH_QWEN3MOE) {
		p[n++] = (struct part){"self_attn.q_norm.weight", "attn_q_norm.weight", 0,
		                       h->head_dim, 0};
		p[n++] = (struct part){"self_attn.k_norm.weight", "attn_k_norm.weight", 0,
		                       h->head_dim, 0};
	}
	return n + ffn_parts(h, p + n);
}

static int take_layer_experts(struct build *b, uint32_t layer)
{
	const struct plx_hf *h = &b->hf;
	bool mixtral = h->mixtral;
	int err;

	if (h->n_expert == 0)
		return 0;
	if ((err = take_experts(b, layer, mixtral ? "w1" : "gate_proj", "ffn_gate_exps.weight",
	                        h->n_ff_expert, h->n_embd)) ||
	    (err = take_experts(b, layer, mixtral ? "w3" : "up_proj", "ffn_up_exps.weight",
	                        h->n_ff_expert, h->n_embd)))
		return err;
	return take_experts(b, layer, mixtral ? "w2" : "down_proj", "ffn_down_exps.weight",
	                    h->n_embd, h->n_ff_expert);
}

static int take_layers(struct build *b)
{
	struct part p[LAYER_TENSORS];
	uint32_t n = layer_parts(&b->hf, p);
	char from[96], name[64];

	for (uint32_t l = 0; l < b->hf.n_layer; l++)
		for (uint32_t i = 0; i < n; i++) {
			snprintf(from, sizeof from, "model.layers.%u.%s", l, p[i].from);
			snprintf(name, sizeof name, "blk.%u.%s", l, p[i].name);
			int err = take(b, from, name, p[i].rows, p[i].cols, p[i].pair_heads);

			if (err)
				return err;
		}
	for (uint32_t l = 0; l < b->hf.n_layer; l++) {
		int err = take_layer_experts(b, l);

		if (err)
			return err;
	}
	return 0;
}

/* ---- the model ------------------------------------------------------------------------------- */

static bool ends(const char *s, const char *tail)
{
	size_t n = strlen(s), k = strlen(tail);

	return n >= k && strcmp(s + n - k, tail) == 0;
}

/* Tables that follow from the configuration; a head that is the embedding once more. */
static bool is_harmless(const struct build *b, const char *name)
{
	return ends(name, ".rotary_emb.inv_freq") ||
	       (b->tied && strcmp(name, "lm_head.weight") == 0);
}

static bool is_taken(const struct build *b, const struct plx_st_tensor *t)
{
	for (uint32_t i = 0; i < b->n_src; i++)
		if (b->src[i] == t->data)
			return true;
	return false;
}

static int check_leftovers(const struct build *b)
{
	uint32_t n = b->n_taken, all = 0;

	for (uint32_t f = 0; f < b->set.n_files; f++)
		for (uint32_t i = 0; i < plx_st_n(b->set.file[f]); i++) {
			all++;
			n += is_harmless(b, plx_st_at(b->set.file[f], i)->name);
		}
	for (uint32_t f = 0; n < all && f < b->set.n_files; f++)
		for (uint32_t i = 0; i < plx_st_n(b->set.file[f]); i++) {
			const struct plx_st_tensor *t = plx_st_at(b->set.file[f], i);

			if (is_harmless(b, t->name) || is_taken(b, t))
				continue;
			return plx_diag_set(b->d, PLX_E_UNSUPPORTED,
			                    "%s: tensor '%.80s' has no place in architecture %s",
			                    b->o->in, t->name, plx_arch_name(b->hf.arch));
		}
	return 0;
}

static int take_rope_factors(struct build *b)
{
	if (!b->hf.rope_factors)
		return 0;
	b->src[b->n_src] = (const uint8_t *)b->hf.rope_factors;
	b->t[b->n] = (struct plx_emit_tensor){.name = "rope_freqs.weight",
	                                      .n_dims = 1,
	                                      .dim = {b->hf.head_dim / 2, 1, 1, 1},
	                                      .from = PLX_Q_F32,
	                                      .to = PLX_Q_F32,
	                                      .src = &b->src[b->n_src],
	                                      .n_src = 1};
	b->n++;
	b->n_src++;
	return 0;
}

static int take_all(struct build *b)
{
	const struct plx_hf *h = &b->hf;
	bool has_head = plx_st_set_find(&b->set, "lm_head.weight") != NULL;
	int err;

	b->tied = h->tied_said ? h->tied : !has_head;
	if ((err = take(b, "model.embed_tokens.weight", "token_embd.weight", h->n_vocab, h->n_embd,
	                0)) ||
	    (err = take_rope_factors(b)) || (err = take_layers(b)) ||
	    (err = take(b, "model.norm.weight", "output_norm.weight", 0, h->n_embd, 0)))
		return err;
	if (!b->tied)
		err = take(b, "lm_head.weight", "output.weight", h->n_vocab, h->n_embd, 0);
	return err ? err : check_leftovers(b);
}

/* The format that most matrix elements get. */
static enum plx_qtype main_type(const struct build *b)
{
	uint64_t n[PLX_Q_BF16 + 1] = {0};
	enum plx_qtype most = PLX_Q_F32;

	if (b->o->type_given)
		return b->o->rules.main;
	for (uint32_t i = 0; i < b->n; i++)
		n[b->t[i].to] += b->t[i].dim[0] * b->t[i].dim[1] * b->t[i].dim[2];
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++)
		most = n[plx_qtype_at(i)] > n[most] ? plx_qtype_at(i) : most;
	return most;
}

static int put_metadata(const struct build *b, struct plx_gw *w)
{
	int err;

	plx_gw_str(w, "general.architecture", plx_gw_name(plx_arch_name(b->hf.arch)));
	plx_gw_str(w, "general.type", plx_gw_name("model"));
	plx_gw_str(w, "general.name", plx_gw_name(b->hf.name));
	plx_gw_u32(w, "general.file_type", plx_rules_file_type(main_type(b)));
	plx_gw_u32(w, "general.quantization_version", 2);
	if ((err = plx_hf_conf_put(&b->hf, w, b->d)))
		return err;
	return plx_hf_tok_put(&b->hf, w, b->o->pre, b->d);
}

/* What polluxd would refuse is refused before a gigabyte is written: the head alone, with room for
 * the data that nobody reads yet, goes through its readers. */
static int rehearse(const struct build *b, const struct plx_gw *w)
{
	struct plx_gguf *g;
	struct plx_tok *t;
	uint8_t *image = calloc(1, w->file_bytes);
	int err;

	if (!image)
		return 0; /* the model is larger than memory: its checks come with its first use */
	memcpy(image, w->head.p, w->head.n);
	err = plx_gguf_open_mem(image, w->file_bytes, &g, b->d);
	if (!err) {
		err = plx_tok_open(&t, g, b->d);
		plx_tok_free(err ? NULL : t);
		plx_gguf_close(g);
	}
	free(image);
	return err;
}

/* llama.cpp has one rule for the weights of experts in each of these two architectures. */
static bool llama_cpp_differs(const struct plx_hf *h)
{
	return (h->arch == PLX_ARCH_QWEN2MOE && h->expert_norm) ||
	       (h->arch == PLX_ARCH_QWEN3MOE && !h->expert_norm);
}

static int write_file(struct build *b)
{
	const struct plx_mtool_options *o = b->o;
	struct plx_emit_options e = {.path = o->out,
	                             .verb = "converting",
	                             .effort = o->plain ? PLX_Q_PLAIN : PLX_Q_FIT,
	                             .n_threads = plx_pool_threads(o->n_threads),
	                             .force = o->force,
	                             .quiet = o->quiet};
	struct plx_gw w = {0}, trial = {0};
	int err = put_metadata(b, &trial);

	for (uint32_t i = 0; i < b->n && !err; i++)
		plx_gw_tensor(&trial, plx_gw_name(b->t[i].name), b->t[i].to, b->t[i].n_dims,
		              b->t[i].dim);
	if (!err)
		err = plx_gw_finish(&trial, b->d);
	if (!err)
		err = rehearse(b, &trial);
	plx_gw_free(&trial);
	if (!err)
		err = put_metadata(b, &w);
	if (!err)
		err = plx_emit(&w, b->t, b->n, &e, b->d);
	if (!err && !o->quiet && llama_cpp_differs(&b->hf))
		printf(
		    "%s: norm_topk_prob is %s; polluxd follows it, llama.cpp (0c1e570) takes all "
		    "models of this architecture the other way\n",
		    o->out, b->hf.expert_norm ? "true" : "false");
	if (!err && !o->quiet)
		printf("%s: %s, %u tensors, %.1f MiB, mostly %s\n", o->out,
		       plx_arch_name(b->hf.arch), b->n, (double)w.file_bytes / 1048576,
		       plx_qtype_name(main_type(b)));
	plx_gw_free(&w);
	return err;
}

/* The folder in which the JSON files are: "" or with a slash at its end. */
static int folder_of(const char *in, char *folder, size_t bytes, struct plx_diag *d)
{
	const char *slash = strrchr(in, '/');
	struct stat st;
	int n;

	if (stat(in, &st) == 0 && S_ISDIR(st.st_mode))
		n = snprintf(folder, bytes, "%s/", in);
	else
		n = snprintf(folder, bytes, "%.*s", slash ? (int)(slash + 1 - in) : 0, in);
	if ((size_t)n >= bytes)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: the name is too long", in);
	return 0;
}

int plx_mtool_convert(const struct plx_mtool_options *o, struct plx_diag *d)
{
	struct build b = {.o = o, .d = d};
	char folder[PATH_MAX];
	int err = plx_out_check(o->out, o->force, d);

	if (err || (err = folder_of(o->in, folder, sizeof folder, d)) ||
	    (err = plx_hf_open(folder, &b.hf, d)))
		return err;
	err = plx_st_set_open(o->in, &b.set, d);
	if (!err) {
		uint32_t room = b.hf.n_layer * LAYER_TENSORS + 4;

		b.t = calloc(room, sizeof *b.t);
		b.src = calloc(room + 3ul * b.hf.n_layer * b.hf.n_expert, sizeof *b.src);
		if (!b.t || !b.src)
			err = plx_diag_set(d, PLX_E_NOMEM, "no memory for %u tensors", room);
	}
	if (!err)
		err = take_all(&b);
	if (!err)
		err = write_file(&b);
	free(b.t);
	free(b.src);
	plx_st_set_close(&b.set);
	plx_hf_close(&b.hf);
	return err;
}
