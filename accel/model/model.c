/*
 * Opens a model: reads the configuration, then takes each tensor the architecture needs from the
 * file, checks its shape and type, and remembers which were taken, so that one left over is found.
 */
#include "accel/model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "accel/model/model_conf.h"
#include "fw/base/check.h"
#include "fw/base/err.h"
#include "kernels/quant.h"

#define NAME_BYTES   80
#define SAMPLE_BYTES 4096u
#define SMALL_BYTES  65536u /* a norm or a bias, which is read whole */
#define VEC_ALIGN    16u    /* floats: one cache line */

/* What building a model needs and the finished one does not. */
struct builder {
	struct plx_model *m;
	struct plx_diag *d;
	bool *taken; /* [n_tensor] */
	float *vec_next;
	int layer; /* -1: none */
};

static const char *full_name(const struct builder *b, const char *stem, char buf[NAME_BYTES])
{
	if (b->layer < 0)
		snprintf(buf, NAME_BYTES, "%s", stem);
	else
		snprintf(buf, NAME_BYTES, "blk.%d.%s", b->layer, stem);
	return buf;
}

static const struct plx_gguf_tensor *peek(const struct builder *b, const char *stem)
{
	char name[NAME_BYTES];

	return plx_gguf_tensor_find(b->m->gguf, full_name(b, stem, name));
}

/* Take a tensor of cols x rows (rows 1: a vector) x n whose type this build computes. */
static int take(struct builder *b, const char *stem, const uint32_t dim[3],
                const struct plx_gguf_tensor **out)
{
	const char *file = plx_gguf_name(b->m->gguf);
	const struct plx_gguf_tensor *t = peek(b, stem);
	char name[NAME_BYTES];

	full_name(b, stem, name);
	if (!t)
		return plx_diag_set(b->d, PLX_E_FORMAT,
		                    "%s: tensor '%s' is missing; a model in several files must be "
		                    "merged into one, else convert or fetch it again",
		                    file, name);
	if (t->dim[0] != dim[0] || t->dim[1] != dim[1] || t->dim[2] != dim[2] || t->dim[3] != 1)
		return plx_diag_set(b->d, PLX_E_FORMAT,
		                    "%s: tensor '%s' is %llu x %llu x %llu x %llu where the "
		                    "configuration says %u x %u x %u; convert or fetch the model "
		                    "again",
		                    file, name, (unsigned long long)t->dim[0],
		                    (unsigned long long)t->dim[1], (unsigned long long)t->dim[2],
		                    (unsigned long long)t->dim[3], dim[0], dim[1], dim[2]);
	if (!plx_qtype_known(t->type))
		return plx_diag_set(b->d, PLX_E_UNSUPPORTED,
		                    "%s: tensor '%s' is of type %s, which is not supported; give "
		                    "the model as F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
		                    "Q4_K, Q5_K or Q6_K",
		                    file, name, plx_gguf_tensor_type_name(t->type));
	b->taken[t - plx_gguf_tensor_at(b->m->gguf, 0)] = true;
	*out = t;
	return 0;
}

/* n matrices of cols x rows, one after another, as one. */
static int take_matrices(struct builder *b, const char *stem, uint32_t cols, uint32_t rows,
                         uint32_t n, struct plx_tensor *out)
{
	const struct plx_gguf_tensor *t;
	uint64_t all = (uint64_t)rows * n;
	char name[NAME_BYTES];
	int err = take(b, stem, (const uint32_t[]){cols, rows, n}, &t);

	if (err)
		return err;
	if (all > UINT32_MAX)
		return plx_diag_set(b->d, PLX_E_LIMIT,
		                    "%s: tensor '%s' has %llu rows, more than this build can run",
		                    plx_gguf_name(b->m->gguf), full_name(b, stem, name),
		                    (unsigned long long)all);
	*out = (struct plx_tensor){
	    .data = t->data,
	    .type = t->type,
	    .n_rows = (uint32_t)all,
	    .n_cols = cols,
	    .row_bytes = t->bytes / all,
	    .bytes = t->bytes,
	};
	return 0;
}

static int take_matrix(struct builder *b, const char *stem, uint32_t cols, uint32_t rows,
                       struct plx_tensor *out)
{
	return take_matrices(b, stem, cols, rows, 1, out);
}

/* Take a vector, converted to f32 in the model's memory. */
static int take_vector(struct builder *b, const char *stem, uint32_t n, const float **out)
{
	const struct plx_gguf_tensor *t;
	char name[NAME_BYTES];
	int err = take(b, stem, (const uint32_t[]){n, 1, 1}, &t);

	if (err)
		return err;
	if (t->type != PLX_Q_F32 && t->type != PLX_Q_F16 && t->type != PLX_Q_BF16)
		return plx_diag_set(b->d, PLX_E_UNSUPPORTED,
		                    "%s: tensor '%s' is of type %s, but norms, biases and factors "
		                    "must be F32, F16 or BF16; convert the model again",
		                    plx_gguf_name(b->m->gguf), full_name(b, stem, name),
		                    plx_gguf_tensor_type_name(t->type));
	plx_q_dequant((enum plx_qtype)t->type, t->data, b->vec_next, n);
	*out = b->vec_next;
	b->vec_next += (n + VEC_ALIGN - 1) / VEC_ALIGN * VEC_ALIGN;
	return 0;
}

static bool has_qk_norm(const struct plx_model *m)
{
	return m->arch == PLX_ARCH_QWEN3 || m->arch == PLX_ARCH_QWEN3MOE;
}

static int take_biases(struct builder *b, struct plx_layer *l, uint32_t q_dim, uint32_t kv_dim)
{
	const struct plx_model *m = b->m;
	bool any = peek(b, "attn_q.bias") || peek(b, "attn_k.bias") || peek(b, "attn_v.bias");
	int err;

	if (has_qk_norm(m) || (m->arch == PLX_ARCH_LLAMA && !any))
		return 0; /* one that qwen3 has all the same is found as left over */
	if ((err = take_vector(b, "attn_q.bias", q_dim, &l->bq)) ||
	    (err = take_vector(b, "attn_k.bias", kv_dim, &l->bk)))
		return err;
	return take_vector(b, "attn_v.bias", kv_dim, &l->bv);
}

static int take_attention(struct builder *b, struct plx_layer *l)
{
	const struct plx_model *m = b->m;
	uint32_t q_dim = m->n_head * m->head_dim;
	uint32_t kv_dim = m->n_head_kv * m->head_dim;
	int err;

	if ((err = take_vector(b, "attn_norm.weight", m->n_embd, &l->attn_norm)) ||
	    (err = take_matrix(b, "attn_q.weight", m->n_embd, q_dim, &l->wq)) ||
	    (err = take_matrix(b, "attn_k.weight", m->n_embd, kv_dim, &l->wk)) ||
	    (err = take_matrix(b, "attn_v.weight", m->n_embd, kv_dim, &l->wv)) ||
	    (err = take_matrix(b, "attn_output.weight", q_dim, m->n_embd, &l->wo)) ||
	    (err = take_biases(b, l, q_dim, kv_dim)))
		return err;
	if (!has_qk_norm(m))
		return 0;
	if ((err = take_vector(b, "attn_q_norm.weight", m->head_dim, &l->q_norm)))
		return err;
	return take_vector(b, "attn_k_norm.weight", m->head_dim, &l->k_norm);
}

static int take_dense(struct builder *b, struct plx_layer *l)
{
	const struct plx_model *m = b->m;
	int err;

	if ((err = take_matrix(b, "ffn_gate.weight", m->n_embd, m->n_ff, &l->gate)) ||
	    (err = take_matrix(b, "ffn_up.weight", m->n_embd, m->n_ff, &l->up)))
		return err;
	return take_matrix(b, "ffn_down.weight", m->n_ff, m->n_embd, &l->down);
}

static int take_shared(struct builder *b, struct plx_layer *l)
{
	uint32_t n_embd = b->m->n_embd, n_ff = b->m->n_ff_shared;
	int err;

	if (n_ff == 0)
		return 0;
	if ((err = take_vector(b, "ffn_gate_inp_shexp.weight", n_embd, &l->shared_gate)) ||
	    (err = take_matrix(b, "ffn_gate_shexp.weight", n_embd, n_ff, &l->gate)) ||
	    (err = take_matrix(b, "ffn_up_shexp.weight", n_embd, n_ff, &l->up)))
		return err;
	return take_matrix(b, "ffn_down_shexp.weight", n_ff, n_embd, &l->down);
}

static const char *const part_name[] = {"gate", "up", "down"};

/* One matrix of every expert from a tensor each; all of one type. */
static int take_singles(struct builder *b, struct plx_layer *l, enum plx_expert_part part,
                        struct plx_tensor *out)
{
	const struct plx_model *m = b->m;
	bool down = part == PLX_EXPERT_DOWN;
	uint32_t cols = down ? m->n_ff_expert : m->n_embd;
	uint32_t rows = down ? m->n_embd : m->n_ff_expert;
	struct plx_tensor t = {0}, first = {0};

	for (uint32_t e = 0; e < m->n_expert; e++) {
		char stem[48], name[NAME_BYTES];

		snprintf(stem, sizeof stem, "ffn_%s.%u.weight", part_name[part], e);
		int err = take_matrix(b, stem, cols, rows, &t);

		if (err)
			return err;
		first = e == 0 ? t : first;
		if (t.type != first.type)
			return plx_diag_set(b->d, PLX_E_UNSUPPORTED,
			                    "%s: tensor '%s' is of another type than the first "
			                    "expert's; convert the model again",
			                    plx_gguf_name(m->gguf), full_name(b, stem, name));
		l->exp_one[part * m->n_expert + e] = t.data;
	}
	first.data = NULL;
	first.n_rows *= m->n_expert; /* within 32 bits: 1024 experts of 2^19 rows */
	first.bytes *= m->n_expert;
	*out = first;
	return 0;
}

static int take_all_singles(struct builder *b, struct plx_layer *l)
{
	struct plx_model *m = b->m;
	size_t n = (size_t)3 * m->n_expert;
	int err;

	if (!m->exp_one)
		m->exp_one = calloc(n * m->n_layer, sizeof *m->exp_one);
	if (!m->exp_one)
		return plx_diag_set(b->d, PLX_E_NOMEM, "%s: no memory for tables; free some",
		                    plx_gguf_name(m->gguf));
	l->exp_one = m->exp_one + n * (uint32_t)b->layer;
	if ((err = take_singles(b, l, PLX_EXPERT_GATE, &l->exp_gate)) ||
	    (err = take_singles(b, l, PLX_EXPERT_UP, &l->exp_up)))
		return err;
	return take_singles(b, l, PLX_EXPERT_DOWN, &l->exp_down);
}

static int take_stacks(struct builder *b, struct plx_layer *l)
{
	const struct plx_model *m = b->m;
	uint32_t n = m->n_expert, n_ff = m->n_ff_expert;
	int err;

	if ((err = take_matrices(b, "ffn_gate_exps.weight", m->n_embd, n_ff, n, &l->exp_gate)) ||
	    (err = take_matrices(b, "ffn_up_exps.weight", m->n_embd, n_ff, n, &l->exp_up)))
		return err;
	return take_matrices(b, "ffn_down_exps.weight", n_ff, m->n_embd, n, &l->exp_down);
}

static int take_experts(struct builder *b, struct plx_layer *l)
{
	const struct plx_model *m = b->m;
	int err = take_matrix(b, "ffn_gate_inp.weight", m->n_embd, m->n_expert, &l->router);

	if (!err)
		err = peek(b, "ffn_gate.0.weight") ? take_all_singles(b, l) : take_stacks(b, l);
	if (err)
		return err;
	return take_shared(b, l);
}

static int take_layer(struct builder *b, struct plx_layer *l)
{
	int err;

	if ((err = take_attention(b, l)) ||
	    (err = take_vector(b, "ffn_norm.weight", b->m->n_embd, &l->ffn_norm)))
		return err;
	return b->m->n_expert > 0 ? take_experts(b, l) : take_dense(b, l);
}

/* The vocabulary's size is the embedding's row count; whatever else states it must agree. */
static int find_vocab(struct builder *b)
{
	struct plx_model *m = b->m;
	const struct plx_gguf_tensor *t = peek(b, "token_embd.weight");
	const struct plx_gguf_kv *list = plx_gguf_find(m->gguf, "tokenizer.ggml.tokens");
	char key[NAME_BYTES];
	uint32_t said;

	if (!t)
		return 0; /* take_matrix says so */
	if (t->dim[1] > PLX_MODEL_MAX_VOCAB)
		return plx_diag_set(b->d, PLX_E_LIMIT,
		                    "%s: the vocabulary has %llu tokens, over the limit of %u; "
		                    "this build can't run a model of that size",
		                    plx_gguf_name(m->gguf), (unsigned long long)t->dim[1],
		                    PLX_MODEL_MAX_VOCAB);
	m->n_vocab = (uint32_t)t->dim[1];
	snprintf(key, sizeof key, "%s.vocab_size", plx_arch_name(m->arch));
	if (plx_gguf_get_u32_or(m->gguf, key, m->n_vocab, &said, b->d))
		return PLX_E_FORMAT;
	if (said != m->n_vocab || (list && list->n != m->n_vocab))
		return plx_diag_set(b->d, PLX_E_FORMAT,
		                    "%s: tensor 'token_embd.weight' has %u rows, but '%s' says %u "
		                    "and 'tokenizer.ggml.tokens' lists %llu tokens; convert or "
		                    "fetch the model again",
		                    plx_gguf_name(m->gguf), m->n_vocab, key, said,
		                    (unsigned long long)(list ? list->n : m->n_vocab));
	return 0;
}

static int take_ends(struct builder *b)
{
	struct plx_model *m = b->m;
	int err;

	if ((err = find_vocab(b)) ||
	    (err = take_matrix(b, "token_embd.weight", m->n_embd, m->n_vocab, &m->tok_embd)) ||
	    (err = take_vector(b, "output_norm.weight", m->n_embd, &m->output_norm)))
		return err;
	m->tied_output = !peek(b, "output.weight");
	m->output = m->tok_embd;
	if (m->tied_output)
		return 0;
	return take_matrix(b, "output.weight", m->n_embd, m->n_vocab, &m->output);
}

static int take_rope_factors(struct builder *b)
{
	struct plx_model *m = b->m;
	int err;

	if (!peek(b, "rope_freqs.weight"))
		return 0;
	if ((err = take_vector(b, "rope_freqs.weight", m->n_rot / 2, &m->rope_factors)))
		return err;
	for (uint32_t i = 0; i < m->n_rot / 2; i++) {
		float f = m->rope_factors[i];

		if (!(f > 0 && isfinite(f)))
			return plx_diag_set(b->d, PLX_E_FORMAT,
			                    "%s: tensor 'rope_freqs.weight' holds a factor that "
			                    "is not positive and finite; fetch the model again",
			                    plx_gguf_name(m->gguf));
	}
	return 0;
}

/* Files of 2023 store the rotation frequencies, which follow from rope_base, in every layer. */
static bool is_harmless(struct plx_gguf_str name)
{
	static const char tail[] = ".attn_rot_embd.weight";
	size_t n = sizeof tail - 1;

	return name.len > n && memcmp(name.ptr + name.len - n, tail, n) == 0;
}

static int check_leftovers(const struct builder *b)
{
	const struct plx_gguf *g = b->m->gguf;

	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		struct plx_gguf_str name = plx_gguf_tensor_at(g, i)->name;
		char shown[NAME_BYTES];

		if (b->taken[i] || is_harmless(name))
			continue;
		return plx_diag_set(b->d, PLX_E_UNSUPPORTED,
		                    "%s: tensor '%s' has no place in architecture %s as this build "
		                    "computes it; give a model without it",
		                    plx_gguf_name(g), plx_gguf_printable(name, shown, sizeof shown),
		                    plx_arch_name(b->m->arch));
	}
	return 0;
}

/* Room for every vector in the file, each on a cache line of its own. */
static size_t count_vec_floats(const struct plx_gguf *g)
{
	size_t n = 0;

	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(g, i);

		if (t->dim[0] == t->n_elem)
			n += ((size_t)t->n_elem + VEC_ALIGN - 1) / VEC_ALIGN * VEC_ALIGN;
	}
	return n + VEC_ALIGN;
}

static int alloc_tables(struct builder *b)
{
	struct plx_model *m = b->m;
	size_t vec_bytes = count_vec_floats(m->gguf) * sizeof(float);

	m->layer = calloc(m->n_layer, sizeof *m->layer);
	m->vec = aligned_alloc(VEC_ALIGN * sizeof(float), vec_bytes);
	b->taken = calloc(plx_gguf_n_tensor(m->gguf) + 1u, sizeof *b->taken);
	b->vec_next = m->vec;
	if (!m->layer || !m->vec || !b->taken)
		return plx_diag_set(b->d, PLX_E_NOMEM,
		                    "%s: no memory for %zu bytes of norms and tables; free some",
		                    plx_gguf_name(m->gguf), vec_bytes);
	return 0;
}

static void add_up(struct plx_model *m)
{
	for (uint32_t i = 0; i < plx_gguf_n_tensor(m->gguf); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(m->gguf, i);

		m->weight_bytes += t->bytes;
		m->n_param += t->n_elem;
	}
}

static void hash_samples(XXH3_state_t *s, const struct plx_gguf_tensor *t)
{
	size_t n = t->bytes < SAMPLE_BYTES ? (size_t)t->bytes : SAMPLE_BYTES;

	XXH3_128bits_update(s, t->data, n);
	XXH3_128bits_update(s, t->data + t->bytes - n, n);
}

static int hash_model(struct plx_model *m, struct plx_diag *d)
{
	XXH3_state_t *s = XXH3_createState();
	uint64_t size = plx_gguf_file_bytes(m->gguf);
	uint64_t head_bytes;
	const uint8_t *head = plx_gguf_head(m->gguf, &head_bytes);
	XXH128_canonical_t canon;

	if (!s)
		return plx_diag_set(d, PLX_E_NOMEM, "%s: no memory to hash it; free some",
		                    plx_gguf_name(m->gguf));
	XXH3_128bits_reset(s);
	XXH3_128bits_update(s, &size, sizeof size);
	XXH3_128bits_update(s, head, (size_t)head_bytes);
	for (uint32_t i = 0; i < plx_gguf_n_tensor(m->gguf); i++)
		hash_samples(s, plx_gguf_tensor_at(m->gguf, i));
	XXH128_canonicalFromHash(&canon, XXH3_128bits_digest(s));
	memcpy(m->hash, canon.digest, sizeof m->hash);
	XXH3_freeState(s);
	return 0;
}

/*
 * What opening reads of the tensors, asked of the disk all at once: vectors, and the samples of
 * matrices. One after another they would take a trip to the disk each.
 */
static void ask_samples(const struct plx_gguf *g)
{
	plx_gguf_scattered(g, true);
	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(g, i);

		if (t->bytes <= SMALL_BYTES) {
			plx_gguf_ask(g, t->data, t->bytes);
			continue;
		}
		plx_gguf_ask(g, t->data, SAMPLE_BYTES);
		plx_gguf_ask(g, t->data + t->bytes - SAMPLE_BYTES, SAMPLE_BYTES);
	}
}

static int build(struct builder *b)
{
	struct plx_model *m = b->m;
	int err;

	if ((err = plx_model_conf_read(m, b->d)) || (err = alloc_tables(b)) ||
	    (err = plx_model_conf_windows(m, b->d)) || (err = take_ends(b)) ||
	    (err = take_rope_factors(b)))
		return err;
	for (uint32_t i = 0; i < m->n_layer; i++) {
		b->layer = (int)i;
		if ((err = take_layer(b, &m->layer[i])))
			return err;
	}
	if ((err = check_leftovers(b)))
		return err;
	add_up(m);
	return hash_model(m, b->d);
}

int plx_model_from_gguf(struct plx_gguf *g, struct plx_model **out, struct plx_diag *d)
{
	struct builder b = {.d = d, .layer = -1};
	int err;

	*out = NULL;
	b.m = calloc(1, sizeof *b.m);
	if (!b.m) {
		err = plx_diag_set(d, PLX_E_NOMEM, "%s: no memory to open it; free some",
		                   plx_gguf_name(g));
		plx_gguf_close(g);
		return err;
	}
	b.m->gguf = g;
	ask_samples(g);
	err = build(&b);
	plx_gguf_scattered(g, false);
	free(b.taken);
	if (err)
		plx_model_close(b.m);
	else
		*out = b.m;
	return err;
}

int plx_model_open(const char *path, struct plx_model **out, struct plx_diag *d)
{
	struct plx_gguf *g;
	int err = plx_gguf_open(path, &g, d);

	*out = NULL;
	return err ? err : plx_model_from_gguf(g, out, d);
}

struct plx_tensor plx_model_expert(const struct plx_model *m, const struct plx_layer *l,
                                   enum plx_expert_part part, uint32_t e)
{
	const struct plx_tensor *all[] = {&l->exp_gate, &l->exp_up, &l->exp_down};
	struct plx_tensor t = *all[part];

	t.n_rows /= m->n_expert;
	t.bytes /= m->n_expert;
	t.data = l->exp_one ? l->exp_one[part * m->n_expert + e] : t.data + e * t.bytes;
	return t;
}

void plx_model_close(struct plx_model *m)
{
	if (!m)
		return;
	free(m->layer);
	if (m->of) {
		free(m);
		return;
	}
	plx_gguf_close(m->gguf);
	free(m->exp_one);
	free(m->vec);
	free(m);
}

/* "210 Q4_1, 61 F32, 1 Q8_0" */
static void describe_types(const struct plx_model *m, char *buf, size_t buf_bytes)
{
	size_t used = 0;

	buf[0] = '\0';
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		uint32_t type = plx_qtype_at(i);
		uint32_t n = 0;

		for (uint32_t k = 0; k < plx_gguf_n_tensor(m->gguf); k++)
			n += plx_gguf_tensor_at(m->gguf, k)->type == type;
		if (n && used < buf_bytes)
			used += (size_t)snprintf(buf + used, buf_bytes - used, "%s%u %s",
			                         used ? ", " : "", n, plx_qtype_name(type));
	}
}

void plx_model_describe(const struct plx_model *m, char *buf, size_t buf_bytes)
{
	char types[128], experts[64] = "", window[48] = "";
	char hash[2 * PLX_MODEL_HASH_BYTES + 1];

	describe_types(m, types, sizeof types);
	for (size_t i = 0; i < PLX_MODEL_HASH_BYTES; i++)
		snprintf(hash + 2 * i, 3, "%02x", m->hash[i]);
	if (m->n_expert > 0)
		snprintf(experts, sizeof experts, ", %u of %u experts of %u", m->n_expert_used,
		         m->n_expert, m->n_ff_expert);
	if (m->window > 0)
		snprintf(window, sizeof window, ", sliding window %u", m->window);
	snprintf(buf, buf_bytes,
	         "%s: %s, %.1f M parameters, %.1f MiB (%s), %u layers, embedding %u, heads %u/%u "
	         "of %u, feed-forward %u%s, vocabulary %u%s, context %u%s, hash %s",
	         m->name, plx_arch_name(m->arch), (double)m->n_param / 1e6,
	         (double)m->weight_bytes / 1048576.0, types, m->n_layer, m->n_embd, m->n_head,
	         m->n_head_kv, m->head_dim, m->n_ff, experts, m->n_vocab,
	         m->tied_output ? " (tied)" : "", m->n_ctx, window, hash);
}
