/* The tokenizer.ggml.* keys of a model file as a struct plx_tok_source. */
#include <stdio.h>
#include <stdlib.h>

#include "accel/model/gguf.h"
#include "accel/model/tok_vocab.h"

#define KEY_BYTES 96

/* What is copied out of the file, since the file's strings are packed and end in no NUL. */
struct opened {
	struct plx_tok_source src;
	struct plx_tok_str *tokens;
	struct plx_tok_str *merges;
	float *scores;
	int32_t *types;
	char model[64];
	char pre[64];
};

static int get_name(const struct plx_gguf *g, const char *key, char *out, size_t cap,
                    const char **name, struct plx_diag *d)
{
	struct plx_gguf_str s;

	if (plx_gguf_find(g, key) == NULL)
		return 0;
	int err = plx_gguf_get_str(g, key, &s, d);

	if (err)
		return err;
	if (s.len >= cap || memchr(s.ptr, '\0', s.len) != NULL)
		return plx_diag_set(d, PLX_E_UNSUPPORTED, "%s is \"%s\", which is not known", key,
		                    plx_quote(s.ptr, s.len).text);
	memcpy(out, s.ptr, s.len);
	out[s.len] = '\0';
	*name = out;
	return 0;
}

/* An optional array; *kv stays NULL where it is absent. Its length must be n unless n is 0. */
static int get_array(const struct plx_gguf *g, const char *key, enum plx_gguf_type elem, uint64_t n,
                     const struct plx_gguf_kv **kv, struct plx_diag *d)
{
	*kv = NULL;
	if (plx_gguf_find(g, key) == NULL)
		return 0;
	int err = plx_gguf_get_arr(g, key, elem, kv, d);

	if (err)
		return err;
	if (n != 0 && (*kv)->n != n)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s has %llu entries, but tokenizer.ggml.tokens has %llu; "
		                    "convert the model again",
		                    key, (unsigned long long)(*kv)->n, (unsigned long long)n);
	return 0;
}

static int get_strings(const struct plx_gguf *g, const char *key, struct plx_tok_str **out,
                       uint32_t *n, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv;
	struct plx_gguf_str s;
	int err = get_array(g, key, PLX_GGUF_STR, 0, &kv, d);

	if (err || kv == NULL || kv->n == 0)
		return err;
	if (kv->n > 4u * PLX_TOK_MAX_TOKENS)
		return plx_diag_set(d, PLX_E_FORMAT, "%s has %llu entries, more than %d", key,
		                    (unsigned long long)kv->n, 4 * PLX_TOK_MAX_TOKENS);
	*out = malloc(kv->n * sizeof(**out));
	if (*out == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", key);
	struct plx_gguf_iter it = plx_gguf_strs(kv);

	while (plx_gguf_next(&it, &s))
		(*out)[(*n)++] = (struct plx_tok_str){s.ptr, s.len};
	return 0;
}

static int get_scores(const struct plx_gguf *g, struct opened *o, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv;
	int err = get_array(g, "tokenizer.ggml.scores", PLX_GGUF_F32, o->src.n_tokens, &kv, d);

	if (err || kv == NULL)
		return err;
	o->src.scores = o->scores = malloc(kv->n * sizeof(float));
	if (o->scores == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for tokenizer.ggml.scores");
	for (uint64_t i = 0; i < kv->n; i++)
		o->scores[i] = plx_gguf_arr_f32(kv, i);
	return 0;
}

static int get_types(const struct plx_gguf *g, struct opened *o, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv;
	int err = get_array(g, "tokenizer.ggml.token_type", PLX_GGUF_I32, o->src.n_tokens, &kv, d);

	if (err || kv == NULL)
		return err;
	o->src.types = o->types = malloc(kv->n * sizeof(int32_t));
	if (o->types == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for tokenizer.ggml.token_type");
	for (uint64_t i = 0; i < kv->n; i++)
		o->types[i] = plx_gguf_arr_i32(kv, i);
	return 0;
}

/* An absent id, and the 2^32 - 1 that some converters write for one, is PLX_TOK_NONE. */
static int get_id(const struct plx_gguf *g, const char *key, int64_t *id, struct plx_diag *d)
{
	uint32_t v;
	int err = plx_gguf_get_u32_or(g, key, UINT32_MAX, &v, d);

	*id = v == UINT32_MAX ? PLX_TOK_NONE : (int64_t)v;
	return err;
}

static int get_switch(const struct plx_gguf *g, const char *key, int8_t *sw, struct plx_diag *d)
{
	bool v;
	int err = 0;

	*sw = -1;
	if (plx_gguf_find(g, key) == NULL)
		return 0;
	err = plx_gguf_get_bool(g, key, &v, d);
	if (err == 0)
		*sw = v;
	return err;
}

static int get_ids(const struct plx_gguf *g, struct plx_tok_source *src, struct plx_diag *d)
{
	int err;

	if ((err = get_id(g, "tokenizer.ggml.bos_token_id", &src->bos, d)) ||
	    (err = get_id(g, "tokenizer.ggml.eos_token_id", &src->eos, d)) ||
	    (err = get_id(g, "tokenizer.ggml.eot_token_id", &src->eot, d)) ||
	    (err = get_id(g, "tokenizer.ggml.unknown_token_id", &src->unk, d)) ||
	    (err = get_id(g, "tokenizer.ggml.padding_token_id", &src->pad, d)) ||
	    (err = get_switch(g, "tokenizer.ggml.add_bos_token", &src->add_bos, d)) ||
	    (err = get_switch(g, "tokenizer.ggml.add_eos_token", &src->add_eos, d)))
		return err;
	return get_switch(g, "tokenizer.ggml.add_space_prefix", &src->add_space_prefix, d);
}

/* "<architecture>.vocab_size", where the file has it. */
static int get_n_vocab(const struct plx_gguf *g, uint32_t *n, struct plx_diag *d)
{
	char key[KEY_BYTES];
	struct plx_gguf_str arch;

	if (plx_gguf_find(g, "general.architecture") == NULL)
		return 0;
	int err = plx_gguf_get_str(g, "general.architecture", &arch, d);

	if (err || arch.len > 64)
		return err;
	snprintf(key, sizeof(key), "%.*s.vocab_size", (int)arch.len, arch.ptr);
	return plx_gguf_get_u32_or(g, key, 0, n, d);
}

static int read_keys(const struct plx_gguf *g, struct opened *o, struct plx_diag *d)
{
	int err;

	if ((err = get_name(g, "tokenizer.ggml.model", o->model, sizeof(o->model), &o->src.model,
	                    d)) ||
	    (err = get_name(g, "tokenizer.ggml.pre", o->pre, sizeof(o->pre), &o->src.pre, d)) ||
	    (err = get_strings(g, "tokenizer.ggml.tokens", &o->tokens, &o->src.n_tokens, d)) ||
	    (err = get_strings(g, "tokenizer.ggml.merges", &o->merges, &o->src.n_merges, d)))
		return err;
	o->src.tokens = o->tokens;
	o->src.merges = o->merges;
	if (o->src.n_tokens == 0)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "tokenizer.ggml.tokens is missing or empty; give a model file "
		                    "with its tokenizer");
	if ((err = get_scores(g, o, d)) || (err = get_types(g, o, d)) ||
	    (err = get_ids(g, &o->src, d)))
		return err;
	return get_n_vocab(g, &o->src.n_vocab, d);
}

int plx_tok_open(struct plx_tok **t, const struct plx_gguf *g, struct plx_diag *d)
{
	struct opened o = {.src = {.bos = PLX_TOK_NONE}};
	int err = read_keys(g, &o, d);

	*t = NULL;
	if (err == 0)
		err = plx_tok_build(t, &o.src, d);
	free(o.tokens);
	free(o.merges);
	free(o.scores);
	free(o.types);
	return err;
}
