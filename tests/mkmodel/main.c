/*
 * Model files for benchmarks: the same model in another format, or a model of a well-known shape
 * with random weights, whose speed is that of a trained one.
 *
 *   mkmodel requant IN.gguf TYPE OUT.gguf           IN's matrices as TYPE
 *   mkmodel shape DONOR.gguf SHAPE TYPE OUT.gguf [VOCAB]
 *                                                    SHAPE 1b or 8b, DONOR's tokenizer; VOCAB more
 *                                                    than it has: unused tokens follow
 *   mkmodel facts FILE.gguf                          what a token reads and multiplies
 *
 * TYPE: Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K, BF16, F16. Which tensor gets it is decided as
 * llama.cpp's converter does without its mixes: the head (or embedding, where they are one) is Q6_K
 * unless TYPE is Q8_0 or no quantisation, and rows that are no multiple of 256 fall back from Q4_K
 * to Q5_0 and from Q6_K to Q8_0.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "accel/model/model.h"
#include "fw/base/check.h"
#include "fw/base/diag.h"
#include "tests/lib/qdata.h"
#include "tests/mkmodel/write.h"

struct shape {
	const char *name;
	const char *title;
	uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv;
	bool tied;
};

/* Llama 3.2 1B's and Llama 3 8B's. */
static const struct shape shapes[] = {
    {"1b", "random 1B", 16, 2048, 8192, 32, 8, true},
    {"8b", "random 8B", 32, 4096, 14336, 32, 8, false},
};

static void die(const char *what, const char *which)
{
	fprintf(stderr, "mkmodel: %s '%s'\n", what, which);
	exit(1);
}

static enum plx_qtype type_named(const char *name)
{
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++)
		if (strcasecmp(plx_qtype_name(plx_qtype_at(i)), name) == 0)
			return plx_qtype_at(i);
	die("no such type:", name);
	return PLX_Q_F32;
}

static bool is_float(enum plx_qtype t)
{
	return t == PLX_Q_F32 || t == PLX_Q_F16 || t == PLX_Q_BF16;
}

static enum plx_qtype type_for(enum plx_qtype want, uint64_t n_cols, bool head)
{
	if (head && !is_float(want) && want != PLX_Q_Q8_0)
		want = PLX_Q_Q6_K;
	if (n_cols % plx_qtype_block_elems(want) == 0)
		return want;
	return want == PLX_Q_Q6_K ? PLX_Q_Q8_0 : PLX_Q_Q5_0;
}

/* llama.cpp's number for a file that is mostly of this type. */
static uint32_t file_type(enum plx_qtype t)
{
	static const uint32_t number[] = {
	    [PLX_Q_F32] = 0,   [PLX_Q_F16] = 1,   [PLX_Q_Q4_0] = 2,
	    [PLX_Q_Q4_1] = 3,  [PLX_Q_Q5_0] = 8,  [PLX_Q_Q8_0] = 7,
	    [PLX_Q_Q4_K] = 14, [PLX_Q_Q6_K] = 18, [PLX_Q_BF16] = 32,
	};

	return number[t];
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

/* Where a tensor's values come from: a file, or chance. */
struct source {
	const struct plx_gguf_tensor *t; /* NULL: random */
	float scale;                     /* of random values: their standard deviation */
	uint64_t seed;
};

/* Nearly normal: the sum of four uniform 16-bit numbers, whose variance is 4 / 12. */
static void random_row(struct source *s, float *x, uint64_t n)
{
	float unit = s->scale * sqrtf(3) / 65536;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t r = plx_t_rand(&s->seed);
		uint32_t sum =
		    (uint32_t)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));

		x[i] = unit * ((float)sum - 131070.0f);
	}
}

static void write_matrix(struct mk_file *f, struct source *s, enum plx_qtype type, uint64_t n_cols,
                         uint64_t n_rows)
{
	uint64_t from_bytes = 0, to_bytes = 0;
	float *x = calloc(n_cols, sizeof *x);
	uint8_t *out;

	PLX_CHECK(plx_q_row_bytes(type, n_cols, &to_bytes) == 0);
	out = malloc(to_bytes);
	PLX_CHECK(x && out);
	if (s->t != NULL)
		PLX_CHECK(plx_q_row_bytes(s->t->type, n_cols, &from_bytes) == 0);
	for (uint64_t r = 0; r < n_rows; r++) {
		if (s->t != NULL)
			plx_q_dequant((enum plx_qtype)s->t->type, s->t->data + r * from_bytes, x,
			              n_cols);
		else
			random_row(s, x, n_cols);
		plx_q_quantise(type, PLX_Q_PLAIN, x, out, n_cols);
		mk_data(f, out, to_bytes);
	}
	free(x);
	free(out);
}

/* ---- the same model in another format -------------------------------------------------------- */

static bool is_head(const struct plx_gguf *g, const struct plx_gguf_tensor *t)
{
	if (plx_gguf_tensor_find(g, "output.weight") != NULL)
		return plx_gguf_str_is(t->name, "output.weight");
	return plx_gguf_str_is(t->name, "token_embd.weight");
}

static enum plx_qtype requant_type(const struct plx_gguf *g, const struct plx_gguf_tensor *t,
                                   enum plx_qtype want)
{
	if (t->n_dims != 2)
		return (enum plx_qtype)t->type;
	if (!plx_qtype_known(t->type))
		die("can't read the type", plx_gguf_tensor_type_name(t->type));
	return type_for(want, t->dim[0], is_head(g, t));
}

static void requant(const char *in, const char *type_name, const char *out)
{
	enum plx_qtype want = type_named(type_name);
	struct plx_gguf *g = open_gguf(in);
	struct mk_file *f = mk_open(out);

	for (uint32_t i = 0; i < plx_gguf_n_kv(g); i++)
		if (!plx_gguf_str_is(plx_gguf_kv_at(g, i)->key, "general.file_type") &&
		    !plx_gguf_str_is(plx_gguf_kv_at(g, i)->key, "general.alignment"))
			mk_kv(f, plx_gguf_kv_at(g, i));
	mk_u32(f, "general.file_type", file_type(want));
	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(g, i);

		mk_tensor(f, t->name, requant_type(g, t, want), t->dim[0],
		          t->n_dims == 2 ? t->dim[1] : 0);
	}
	mk_head(f);
	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(g, i);
		enum plx_qtype type = requant_type(g, t, want);
		struct source s = {.t = t};

		if (type == (enum plx_qtype)t->type)
			mk_data(f, t->data, t->bytes);
		else
			write_matrix(f, &s, type, t->dim[0], t->dim[1]);
		mk_tensor_end(f);
	}
	mk_close(f);
	plx_gguf_close(g);
}

/* ---- a shape with random weights ------------------------------------------------------------- */

static void put_config(struct mk_file *f, const struct shape *s, enum plx_qtype type,
                       uint32_t n_vocab)
{
	mk_str(f, "general.architecture", "llama");
	mk_str(f, "general.name", s->title);
	mk_u32(f, "general.file_type", file_type(type));
	mk_u32(f, "general.quantization_version", 2);
	mk_u32(f, "llama.block_count", s->n_layer);
	mk_u32(f, "llama.context_length", 8192);
	mk_u32(f, "llama.embedding_length", s->n_embd);
	mk_u32(f, "llama.feed_forward_length", s->n_ff);
	mk_u32(f, "llama.attention.head_count", s->n_head);
	mk_u32(f, "llama.attention.head_count_kv", s->n_head_kv);
	mk_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	mk_u32(f, "llama.rope.dimension_count", s->n_embd / s->n_head);
	mk_f32(f, "llama.rope.freq_base", 500000.0f);
	mk_u32(f, "llama.vocab_size", n_vocab);
}

static void put_tokenizer(struct mk_file *f, const struct plx_gguf *g, uint32_t n_vocab)
{
	for (uint32_t i = 0; i < plx_gguf_n_kv(g); i++) {
		const struct plx_gguf_kv *kv = plx_gguf_kv_at(g, i);

		if (kv->key.len < 10 || memcmp(kv->key.ptr, "tokenizer.", 10) != 0)
			continue;
		if (plx_gguf_str_is(kv->key, "tokenizer.ggml.tokens"))
			mk_kv_strs(f, kv, n_vocab, "<|unused_%u|>");
		else if (plx_gguf_str_is(kv->key, "tokenizer.ggml.token_type"))
			mk_kv_i32s(f, kv, n_vocab, 5); /* UNUSED */
		else
			mk_kv(f, kv);
	}
}

/* One tensor of a shape. n_rows 0: a norm, all one. */
struct part {
	char name[32];
	enum plx_qtype type;
	uint32_t n_cols, n_rows;
};

static struct part matrix(const char *name, enum plx_qtype want, uint32_t n_cols, uint32_t n_rows,
                          bool head)
{
	struct part p = {.type = type_for(want, n_cols, head), .n_cols = n_cols, .n_rows = n_rows};

	snprintf(p.name, sizeof p.name, "%s", name);
	return p;
}

static struct part norm(const char *name, uint32_t n)
{
	return matrix(name, PLX_Q_F32, n, 0, false);
}

static uint32_t layer_parts(struct part *p, const struct shape *s, enum plx_qtype t)
{
	uint32_t kv = s->n_embd / s->n_head * s->n_head_kv;
	const struct part parts[] = {
	    norm("attn_norm.weight", s->n_embd),
	    matrix("attn_q.weight", t, s->n_embd, s->n_embd, false),
	    matrix("attn_k.weight", t, s->n_embd, kv, false),
	    matrix("attn_v.weight", t, s->n_embd, kv, false),
	    matrix("attn_output.weight", t, s->n_embd, s->n_embd, false),
	    norm("ffn_norm.weight", s->n_embd),
	    matrix("ffn_gate.weight", t, s->n_embd, s->n_ff, false),
	    matrix("ffn_up.weight", t, s->n_embd, s->n_ff, false),
	    matrix("ffn_down.weight", t, s->n_ff, s->n_embd, false),
	};
	uint32_t n = sizeof parts / sizeof parts[0];

	for (uint32_t l = 0; l < s->n_layer; l++)
		for (uint32_t i = 0; i < n; i++) {
			p[l * n + i] = parts[i];
			PLX_CHECK(snprintf(p[l * n + i].name, sizeof p->name, "blk.%u.%s", l % 1000,
			                   parts[i].name) < (int)sizeof p->name);
		}
	return s->n_layer * n;
}

static void write_part(struct mk_file *f, const struct part *p, uint64_t seed)
{
	static const float one = 1.0f;
	struct source s = {.scale = 1.0f / sqrtf((float)p->n_cols), .seed = seed};

	if (p->n_rows > 0)
		write_matrix(f, &s, p->type, p->n_cols, p->n_rows);
	else
		for (uint32_t i = 0; i < p->n_cols; i++)
			mk_data(f, &one, sizeof one);
	mk_tensor_end(f);
}

static void write_shape(const char *donor, const struct shape *s, enum plx_qtype type,
                        const char *out, uint32_t n_vocab)
{
	struct plx_gguf *g = open_gguf(donor);
	const struct plx_gguf_kv *tokens = plx_gguf_find(g, "tokenizer.ggml.tokens");
	struct part *part = calloc(s->n_layer * 9 + 3, sizeof *part);
	struct mk_file *f = mk_open(out);
	uint32_t n = 0;

	if (tokens == NULL)
		die("no tokenizer in", donor);
	PLX_CHECK(part != NULL);
	n_vocab = n_vocab > tokens->n ? n_vocab : (uint32_t)tokens->n;
	put_config(f, s, type, n_vocab);
	put_tokenizer(f, g, n_vocab);
	part[n++] = matrix("token_embd.weight", type, s->n_embd, n_vocab, s->tied);
	n += layer_parts(part + n, s, type);
	part[n++] = norm("output_norm.weight", s->n_embd);
	if (!s->tied)
		part[n++] = matrix("output.weight", type, s->n_embd, n_vocab, true);
	for (uint32_t i = 0; i < n; i++)
		mk_tensor(f, mk_name(part[i].name), part[i].type, part[i].n_cols, part[i].n_rows);
	mk_head(f);
	for (uint32_t i = 0; i < n; i++)
		write_part(f, &part[i], 0x9e3779b97f4a7c15u * (i + 1));
	mk_close(f);
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

struct facts {
	uint64_t matrix_bytes, macs; /* of the layers' matrices */
	uint64_t vector_bytes;       /* norms and biases, f32 as we hold them */
};

static void add(struct facts *f, const struct plx_tensor *t)
{
	f->matrix_bytes += t->bytes;
	f->macs += (uint64_t)t->n_rows * t->n_cols;
}

static void add_layer(struct facts *f, const struct plx_model *m, const struct plx_layer *l)
{
	uint64_t q_dim = (uint64_t)m->n_head * m->head_dim;
	uint64_t kv_dim = (uint64_t)m->n_head_kv * m->head_dim;
	const struct plx_tensor *mats[] = {&l->wq,   &l->wk, &l->wv,  &l->wo,
	                                   &l->gate, &l->up, &l->down};

	for (size_t i = 0; i < sizeof mats / sizeof mats[0]; i++)
		add(f, mats[i]);
	f->vector_bytes += 2 * m->n_embd * sizeof(float);
	if (l->bq != NULL)
		f->vector_bytes += (q_dim + 2 * kv_dim) * sizeof(float);
	if (l->q_norm != NULL)
		f->vector_bytes += 2 * m->head_dim * sizeof(float);
}

/* One line for scripts. token_bytes: what a token of decode must read, KV apart. */
static void print_facts(const char *path)
{
	struct plx_diag d = {0};
	struct facts f = {0};
	struct plx_model *m;

	if (plx_model_open(path, &m, &d) != 0)
		die("can't open:", d.text);
	for (uint32_t i = 0; i < m->n_layer; i++)
		add_layer(&f, m, &m->layer[i]);
	f.vector_bytes += m->n_embd * sizeof(float) + m->tok_embd.row_bytes;
	printf("token_bytes=%llu layer_bytes=%llu head_bytes=%llu layer_macs=%llu type=%s "
	       "head_type=%s params=%llu\n",
	       (unsigned long long)(f.matrix_bytes + m->output.bytes + f.vector_bytes),
	       (unsigned long long)f.matrix_bytes, (unsigned long long)m->output.bytes,
	       (unsigned long long)f.macs, plx_qtype_name(m->layer[0].gate.type),
	       plx_qtype_name(m->output.type), (unsigned long long)m->n_param);
	plx_model_close(m);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "requant") == 0 && argc == 5)
		requant(argv[2], argv[3], argv[4]);
	else if (strcmp(what, "shape") == 0 && (argc == 6 || argc == 7))
		make_shape(argv[2], argv[3], argv[4], argv[5], argc == 7 ? argv[6] : "0");
	else if (strcmp(what, "facts") == 0 && argc == 3)
		print_facts(argv[2]);
	else
		die("give requant IN TYPE OUT, shape DONOR 1b|8b TYPE OUT [VOCAB], or facts FILE, "
		    "not",
		    what);
	return 0;
}
