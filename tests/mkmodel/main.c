/*
 * Model files for benchmarks: a model of a well-known shape with random weights, whose speed is
 * that of a trained one (another format of a model is plx-model's work).
 *
 *   mkmodel shape DONOR.gguf SHAPE TYPE OUT.gguf [VOCAB]
 *                                                    SHAPE 1b, 8b or experts (4 layers of 16, small
 *                                                    enough for tests), DONOR's tokenizer; VOCAB
 * more than it has: unused tokens follow mkmodel facts FILE.gguf                          what a
 * token reads and multiplies
 *
 * TYPE is a format of kernels/quant.h; which tensor gets it is as tools/model/rules.h says.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/model.h"
#include "fw/base/check.h"
#include "fw/base/diag.h"
#include "tests/lib/qdata.h"
#include "tools/model/facts.h"
#include "tools/gguf/out.h"
#include "tools/gguf/rules.h"
#include "tools/gguf/write.h"

struct shape {
	const char *name;
	const char *title;
	uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv;
	bool tied;
	uint32_t n_expert, n_used; /* 0: none */
};

/* Llama 3.2 1B's and Llama 3 8B's; mixtral's architecture. */
static const struct shape shapes[] = {
    {"1b", "random 1B", 16, 2048, 8192, 32, 8, true, 0, 0},
    {"8b", "random 8B", 32, 4096, 14336, 32, 8, false, 0, 0},
    {"experts", "random experts", 4, 256, 512, 4, 2, true, 16, 2},
};

static void die(const char *what, const char *which)
{
	fprintf(stderr, "mkmodel: %s '%s'\n", what, which);
	exit(1);
}

static enum plx_qtype type_named(const char *name)
{
	enum plx_qtype type = PLX_Q_F32;
	struct plx_diag d = {0};

	if (plx_rules_type(name, &type, &d))
		die("can't write it:", d.text);
	return type;
}

static struct plx_gguf *open_gguf(const char *path)
{
	struct plx_diag d = {0};
	struct plx_gguf *g;

	if (plx_gguf_open(path, &g, &d) != 0)
		die("can't open:", d.text);
	return g;
}

/* ---- rows of weights ------------------------------------------------------------------------- */

/* Nearly normal: the sum of four uniform 16-bit numbers, whose variance is 4 / 12. */
static void random_row(float *x, uint64_t n, float deviation, uint64_t *seed)
{
	float unit = deviation * sqrtf(3) / 65536;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t r = plx_t_rand(seed);
		uint32_t sum =
		    (uint32_t)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));

		x[i] = unit * ((float)sum - 131070.0f);
	}
}

static void write_at(const struct plx_out *f, const void *p, size_t n, uint64_t off)
{
	struct plx_diag d = {0};

	if (plx_out_write(f, p, n, off, &d))
		die("can't write:", d.text);
}

/* ---- a shape with random weights ------------------------------------------------------------- */

static void put_config(struct plx_gw *f, const struct shape *s, enum plx_qtype type,
                       uint32_t n_vocab)
{
	plx_gw_str(f, "general.architecture", plx_gw_name("llama"));
	plx_gw_str(f, "general.name", plx_gw_name(s->title));
	plx_gw_u32(f, "general.file_type", plx_rules_file_type(type));
	plx_gw_u32(f, "general.quantization_version", 2);
	plx_gw_u32(f, "llama.block_count", s->n_layer);
	plx_gw_u32(f, "llama.context_length", 8192);
	plx_gw_u32(f, "llama.embedding_length", s->n_embd);
	plx_gw_u32(f, "llama.feed_forward_length", s->n_ff);
	plx_gw_u32(f, "llama.attention.head_count", s->n_head);
	plx_gw_u32(f, "llama.attention.head_count_kv", s->n_head_kv);
	plx_gw_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	plx_gw_u32(f, "llama.rope.dimension_count", s->n_embd / s->n_head);
	plx_gw_f32(f, "llama.rope.freq_base", 500000.0f);
	plx_gw_u32(f, "llama.vocab_size", n_vocab);
	if (s->n_expert == 0)
		return;
	plx_gw_u32(f, "llama.expert_count", s->n_expert);
	plx_gw_u32(f, "llama.expert_used_count", s->n_used);
}

/* DONOR's list, then unused tokens. */
static void put_tokens(struct plx_gw *f, const struct plx_gguf_kv *kv, uint32_t n_vocab)
{
	char text[32];

	plx_gw_arr(f, kv->key, PLX_GGUF_STR, n_vocab);
	plx_gw_elems(f, kv);
	for (uint32_t i = (uint32_t)kv->n; i < n_vocab; i++) {
		snprintf(text, sizeof text, "<|unused_%u|>", i);
		plx_gw_elem_str(f, plx_gw_name(text));
	}
}

static void put_types(struct plx_gw *f, const struct plx_gguf_kv *kv, uint32_t n_vocab)
{
	plx_gw_arr(f, kv->key, PLX_GGUF_I32, n_vocab);
	plx_gw_elems(f, kv);
	for (uint32_t i = (uint32_t)kv->n; i < n_vocab; i++)
		plx_gw_elem_i32(f, 5); /* UNUSED */
}

static void put_tokenizer(struct plx_gw *f, const struct plx_gguf *g, uint32_t n_vocab)
{
	for (uint32_t i = 0; i < plx_gguf_n_kv(g); i++) {
		const struct plx_gguf_kv *kv = plx_gguf_kv_at(g, i);

		if (kv->key.len < 10 || memcmp(kv->key.ptr, "tokenizer.", 10) != 0)
			continue;
		if (plx_gguf_str_is(kv->key, "tokenizer.ggml.tokens"))
			put_tokens(f, kv, n_vocab);
		else if (plx_gguf_str_is(kv->key, "tokenizer.ggml.token_type"))
			put_types(f, kv, n_vocab);
		else
			plx_gw_kv(f, kv);
	}
}

/* One tensor of a shape. n_rows 0: a norm, all one. n_mats 0: of two dimensions. */
struct part {
	char name[32];
	enum plx_qtype type;
	uint32_t n_cols, n_rows, n_mats;
};

static struct part matrix(const char *name, enum plx_qtype want, uint32_t n_cols, uint32_t n_rows,
                          bool head)
{
	struct part p = {
	    .type = plx_rules_default(want, n_cols, head), .n_cols = n_cols, .n_rows = n_rows};

	snprintf(p.name, sizeof p.name, "%s", name);
	return p;
}

static struct part norm(const char *name, uint32_t n)
{
	return matrix(name, PLX_Q_F32, n, 0, false);
}

/* Matrices of a layer's network, or of its experts; returns how many. */
static uint32_t ffn_parts(struct part *p, const struct shape *s, enum plx_qtype t)
{
	bool e = s->n_expert > 0;
	uint32_t n = 0;

	if (e)
		p[n++] = matrix("ffn_gate_inp.weight", PLX_Q_F32, s->n_embd, s->n_expert, false);
	p[n++] =
	    matrix(e ? "ffn_gate_exps.weight" : "ffn_gate.weight", t, s->n_embd, s->n_ff, false);
	p[n++] = matrix(e ? "ffn_up_exps.weight" : "ffn_up.weight", t, s->n_embd, s->n_ff, false);
	p[n++] =
	    matrix(e ? "ffn_down_exps.weight" : "ffn_down.weight", t, s->n_ff, s->n_embd, false);
	for (uint32_t i = e; i < n; i++)
		p[i].n_mats = s->n_expert;
	return n;
}

#define LAYER_PARTS 10u /* at most */

static uint32_t layer_parts(struct part *p, const struct shape *s, enum plx_qtype t)
{
	uint32_t kv = s->n_embd / s->n_head * s->n_head_kv;
	struct part parts[LAYER_PARTS] = {
	    norm("attn_norm.weight", s->n_embd),
	    matrix("attn_q.weight", t, s->n_embd, s->n_embd, false),
	    matrix("attn_k.weight", t, s->n_embd, kv, false),
	    matrix("attn_v.weight", t, s->n_embd, kv, false),
	    matrix("attn_output.weight", t, s->n_embd, s->n_embd, false),
	    norm("ffn_norm.weight", s->n_embd),
	};
	uint32_t n = 6 + ffn_parts(parts + 6, s, t);

	for (uint32_t l = 0; l < s->n_layer; l++)
		for (uint32_t i = 0; i < n; i++) {
			p[l * n + i] = parts[i];
			PLX_CHECK(snprintf(p[l * n + i].name, sizeof p->name, "blk.%u.%s", l % 1000,
			                   parts[i].name) < (int)sizeof p->name);
		}
	return s->n_layer * n;
}

static void add_part(struct plx_gw *w, const struct part *p)
{
	uint64_t dim[3] = {p->n_cols, p->n_rows, p->n_mats};

	plx_gw_tensor(w, plx_gw_name(p->name), p->type, p->n_mats ? 3 : p->n_rows ? 2 : 1, dim);
}

static void write_part(const struct plx_out *f, const struct part *p, uint64_t off, uint64_t seed)
{
	uint64_t row_bytes = 0;
	float *x = calloc(p->n_cols, sizeof *x);
	uint8_t *out;

	PLX_CHECK(plx_q_row_bytes(p->type, p->n_cols, &row_bytes) == 0);
	out = malloc(row_bytes);
	PLX_CHECK(x && out);
	for (uint32_t i = 0; i < p->n_cols; i++)
		x[i] = 1.0f;
	if (p->n_rows == 0)
		write_at(f, x, p->n_cols * sizeof *x, off);
	for (uint32_t r = 0; r < p->n_rows * (p->n_mats ? p->n_mats : 1); r++) {
		random_row(x, p->n_cols, 1.0f / sqrtf((float)p->n_cols), &seed);
		plx_q_quantise(p->type, PLX_Q_PLAIN, x, out, p->n_cols);
		write_at(f, out, row_bytes, off + r * row_bytes);
	}
	free(x);
	free(out);
}

static void write_parts(const char *path, struct plx_gw *w, const struct part *part)
{
	struct plx_diag d = {0};
	struct plx_out f;

	if (plx_gw_finish(w, &d) || plx_out_open(&f, path, true, w->file_bytes, &d))
		die("can't write:", d.text);
	write_at(&f, w->head.p, w->head.n, 0);
	for (uint32_t i = 0; i < w->n_tensor; i++)
		write_part(&f, &part[i], w->place[i].off, 0x9e3779b97f4a7c15u * (i + 1));
	if (plx_out_commit(&f, &d))
		die("can't write:", d.text);
}

static void write_shape(const char *donor, const struct shape *s, enum plx_qtype type,
                        const char *out, uint32_t n_vocab)
{
	struct plx_gguf *g = open_gguf(donor);
	const struct plx_gguf_kv *tokens = plx_gguf_find(g, "tokenizer.ggml.tokens");
	struct part *part = calloc(s->n_layer * LAYER_PARTS + 3, sizeof *part);
	struct plx_gw w = {0};
	uint32_t n = 0;

	if (tokens == NULL)
		die("no tokenizer in", donor);
	PLX_CHECK(part != NULL);
	n_vocab = n_vocab > tokens->n ? n_vocab : (uint32_t)tokens->n;
	put_config(&w, s, type, n_vocab);
	put_tokenizer(&w, g, n_vocab);
	part[n++] = matrix("token_embd.weight", type, s->n_embd, n_vocab, s->tied);
	n += layer_parts(part + n, s, type);
	part[n++] = norm("output_norm.weight", s->n_embd);
	if (!s->tied)
		part[n++] = matrix("output.weight", type, s->n_embd, n_vocab, true);
	for (uint32_t i = 0; i < n; i++)
		add_part(&w, &part[i]);
	write_parts(out, &w, part);
	plx_gw_free(&w);
	free(part);
	plx_gguf_close(g);
}

static void make_shape(const char *donor, const char *name, const char *type, const char *out,
                       const char *vocab)
{
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
		if (strcmp(shapes[i].name, name) == 0) {
			write_shape(donor, &shapes[i], type_named(type), out,
			            (uint32_t)strtoul(vocab, NULL, 10));
			return;
		}
	die("no such shape:", name);
}

/* ---- facts ----------------------------------------------------------------------------------- */

/* One line for scripts. token_bytes: what a token of decode must read, KV apart. */
static void print_facts(const char *path)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	if (plx_model_open(path, &m, &d) != 0)
		die("can't open:", d.text);
	struct plx_facts f = plx_facts_of(m);

	printf("token_bytes=%llu layer_bytes=%llu head_bytes=%llu layer_macs=%llu type=%s "
	       "head_type=%s params=%llu\n",
	       (unsigned long long)f.token_bytes, (unsigned long long)f.layer_bytes,
	       (unsigned long long)f.head_bytes, (unsigned long long)f.layer_macs,
	       plx_qtype_name(m->layer[0].gate.type), plx_qtype_name(m->output.type),
	       (unsigned long long)m->n_param);
	plx_model_close(m);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "shape") == 0 && (argc == 6 || argc == 7))
		make_shape(argv[2], argv[3], argv[4], argv[5], argc == 7 ? argv[6] : "0");
	else if (strcmp(what, "facts") == 0 && argc == 3)
		print_facts(argv[2]);
	else
		die("give shape DONOR 1b|8b|experts TYPE OUT [VOCAB], or facts FILE, "
		    "not",
		    what);
	return 0;
}
