/*
 * tokenizer.json to the tokenizer.* keys.
 *
 * Byte-level BPE keeps its vocabulary and merges. SentencePiece BPE has no merges in GGUF: a piece
 * gets the score -rank, rank being that of the first merge that makes it, so that merging by
 * highest score is merging in the list's order; pieces that no merge makes and that are longer than
 * a character are marked unused, since merging can't reach them either.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/model/tokenizer.h"
#include "fw/base/err.h"
#include "tools/model/hf.h"

#define MAX_TEMPLATE (4u << 20)

struct tok {
	const struct plx_hf *h;
	const json_t *model; /* tokenizer.json's */
	uint32_t n;          /* of the vocabulary, as the embedding has it */
	const char **text;   /* [n]; NULL: no such token */
	int32_t *type;       /* [n] enum plx_tok_type */
	float *score;        /* [n] */
	bool spm;
	struct plx_diag *d;
};

static int bad(const struct tok *t, const char *what)
{
	return plx_diag_set(t->d, PLX_E_FORMAT, "%stokenizer.json: %s; fetch the model again",
	                    t->h->folder, what);
}

/* ---- vocabulary ------------------------------------------------------------------------------ */

static int place(struct tok *t, const char *text, const json_t *id, int32_t type)
{
	json_int_t i = json_integer_value(id);
	char what[160];

	if (!json_is_integer(id) || i < 0 || i >= (json_int_t)t->n) {
		snprintf(what, sizeof what, "token \"%.40s\" has an id that is not below %u", text,
		         t->n);
		return bad(t, what);
	}
	if (t->text[i] && strcmp(t->text[i], text) != 0) {
		snprintf(what, sizeof what, "tokens \"%.40s\" and \"%.40s\" have the same id",
		         t->text[i], text);
		return bad(t, what);
	}
	t->text[i] = text;
	t->type[i] = type;
	return 0;
}

static bool is_byte(const char *s)
{
	return strlen(s) == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>';
}

static int read_vocab(struct tok *t)
{
	const json_t *vocab = json_object_get(t->model, "vocab");
	const char *text;
	json_t *id;

	if (!json_is_object(vocab))
		return bad(t, "its model has no vocab");
	json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
	{
		bool byte = t->spm && is_byte(text);
		int err = place(t, text, id, byte ? PLX_TOK_T_BYTE : PLX_TOK_T_NORMAL);

		if (err)
			return err;
	}
	return 0;
}

/* Tokens that are matched as a whole. Flags that eat white space around them have no equal. */
static int read_added(struct tok *t)
{
	const json_t *a;
	size_t i;

	json_array_foreach(json_object_get(t->h->tokenizer, "added_tokens"), i, a)
	{
		const char *text = json_string_value(json_object_get(a, "content"));
		bool special = json_is_true(json_object_get(a, "special"));

		if (!text || !*text)
			return bad(t, "an added token has no content");
		if (json_is_true(json_object_get(a, "lstrip")) ||
		    json_is_true(json_object_get(a, "rstrip")) ||
		    json_is_true(json_object_get(a, "single_word")))
			return plx_diag_set(t->d, PLX_E_UNSUPPORTED,
			                    "%stokenizer.json: added token \"%.40s\" has lstrip, "
			                    "rstrip or single_word, which is not supported",
			                    t->h->folder, text);
		int err = place(t, text, json_object_get(a, "id"),
		                special ? PLX_TOK_T_CONTROL : PLX_TOK_T_USER);

		if (err)
			return err;
	}
	return 0;
}

/* ---- merges ---------------------------------------------------------------------------------- */

/* One merge as "left right": a string, or a pair. The result is in buf or of the JSON. */
static const char *merge_text(const json_t *m, char *buf, size_t bytes)
{
	const char *left = json_string_value(json_array_get(m, 0));
	const char *right = json_string_value(json_array_get(m, 1));

	if (json_is_string(m))
		return json_string_value(m);
	if (json_array_size(m) != 2 || !left || !right || strchr(left, ' ') || strchr(right, ' '))
		return NULL;
	if ((size_t)snprintf(buf, bytes, "%s %s", left, right) >= bytes)
		return NULL;
	return buf;
}

static int put_merges(const struct tok *t, struct plx_gw *w)
{
	const json_t *merges = json_object_get(t->model, "merges"), *m;
	char buf[4 * PLX_TOK_MAX_PIECE];
	size_t i;

	plx_gw_arr(w, plx_gw_name("tokenizer.ggml.merges"), PLX_GGUF_STR, json_array_size(merges));
	json_array_foreach(merges, i, m)
	{
		const char *text = merge_text(m, buf, sizeof buf);

		if (!text)
			return bad(t, "a merge is no pair of tokens");
		plx_gw_elem_str(w, plx_gw_name(text));
	}
	return 0;
}

/* Characters of a valid UTF-8 string (jansson has checked it). */
static uint32_t n_chars(const char *s)
{
	uint32_t n = 0;

	for (; *s; s++)
		n += ((uint8_t)*s & 0xc0) != 0x80;
	return n;
}

/* Scores of SentencePiece pieces by the rank of the merge that makes them. */
static int rank_pieces(struct tok *t)
{
	const json_t *vocab = json_object_get(t->model, "vocab"), *m;
	char buf[4 * PLX_TOK_MAX_PIECE], piece[4 * PLX_TOK_MAX_PIECE];
	size_t i;

	json_array_foreach(json_object_get(t->model, "merges"), i, m)
	{
		const char *text = merge_text(m, buf, sizeof buf);
		const char *gap = text ? strchr(text, ' ') : NULL;

		if (!gap || strlen(text) >= sizeof piece)
			return bad(t, "a merge is no pair of tokens");
		snprintf(piece, sizeof piece, "%.*s%s", (int)(gap - text), text, gap + 1);
		const json_t *id = json_object_get(vocab, piece);

		if (!id)
			return bad(t, "a merge makes no token");
		float *score = &t->score[json_integer_value(id)];

		if (*score == 0)
			*score = -(float)(i + 1);
	}
	for (uint32_t k = 0; k < t->n; k++)
		if (t->type[k] == PLX_TOK_T_NORMAL && t->text[k] && t->score[k] == 0 &&
		    n_chars(t->text[k]) > 1)
			t->type[k] = PLX_TOK_T_UNUSED;
	return 0;
}

/* ---- ids with a meaning ---------------------------------------------------------------------- */

/* "bos_token" of tokenizer_config.json: a string, or an object with its content. */
static const char *config_token(const struct plx_hf *h, const char *key)
{
	const json_t *v = json_object_get(h->tok_config, key);

	return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static int64_t id_of(const struct tok *t, const char *text)
{
	for (uint32_t i = 0; text && i < t->n; i++)
		if (t->text[i] && strcmp(t->text[i], text) == 0)
			return i;
	return -1;
}

/* A token by tokenizer_config.json's text, else by the id in config.json (or the first of some). */
static int64_t special_id(const struct tok *t, const char *name)
{
	char key[32];
	int64_t id = -1;

	snprintf(key, sizeof key, "%s_token", name);
	id = id_of(t, config_token(t->h, key));
	if (id >= 0)
		return id;
	snprintf(key, sizeof key, "%s_token_id", name);
	const json_t *v = json_object_get(t->h->config, key);

	if (json_is_array(v))
		v = json_array_get(v, 0);
	id = json_is_integer(v) ? json_integer_value(v) : -1;
	return id < (int64_t)t->n ? id : -1;
}

/* An id that ends a generation, which neither eos nor a well-known text says: -1 where none. */
static int64_t further_end(const struct tok *t, int64_t eos)
{
	static const char *const well_known[] = {"<|im_end|>", "<|eot_id|>",    "<|eom_id|>",
	                                         "<|end|>",    "<EOT>",         "<end_of_turn>",
	                                         "</s>",       "<|endoftext|>", "<|end_of_text|>"};
	const json_t *list = json_object_get(t->h->generation, "eos_token_id"), *v;
	size_t i;

	json_array_foreach(list, i, v)
	{
		json_int_t id = json_integer_value(v);
		bool known = !json_is_integer(v) || id < 0 || id >= (json_int_t)t->n || id == eos ||
		             !t->text[id];

		for (size_t k = 0; !known && k < sizeof well_known / sizeof well_known[0]; k++)
			known = strcmp(t->text[id], well_known[k]) == 0;
		if (!known)
			return id;
	}
	return -1;
}

/* Whether the post-processor's template puts that token at the text's begin (or end). */
static bool template_has(const json_t *post, const char *text, bool at_begin)
{
	const json_t *list = json_object_get(post, "processors"), *p;
	const json_t *single = json_object_get(post, "single");
	size_t i, n = json_array_size(single);

	json_array_foreach(list, i, p) if (template_has(p, text, at_begin)) return true;
	if (n == 0 || !text)
		return false;
	const json_t *e = json_array_get(single, at_begin ? 0 : n - 1);
	const char *id =
	    json_string_value(json_object_get(json_object_get(e, "SpecialToken"), "id"));

	return id && strcmp(id, text) == 0;
}

static bool adds(const struct tok *t, const char *key, int64_t id, bool at_begin)
{
	const json_t *said = json_object_get(t->h->tok_config, key);
	const json_t *post = json_object_get(t->h->tokenizer, "post_processor");

	if (json_is_boolean(said))
		return json_is_true(said);
	return id >= 0 && template_has(post, t->text[id], at_begin);
}

static void put_id(struct plx_gw *w, const char *key, int64_t id)
{
	if (id >= 0)
		plx_gw_u32(w, key, (uint32_t)id);
}

static void put_specials(const struct tok *t, struct plx_gw *w)
{
	int64_t bos = special_id(t, "bos"), eos = special_id(t, "eos");

	put_id(w, "tokenizer.ggml.bos_token_id", bos);
	put_id(w, "tokenizer.ggml.eos_token_id", eos);
	put_id(w, "tokenizer.ggml.eot_token_id", further_end(t, eos));
	put_id(w, "tokenizer.ggml.unknown_token_id", special_id(t, "unk"));
	put_id(w, "tokenizer.ggml.padding_token_id", special_id(t, "pad"));
	plx_gw_bool(w, "tokenizer.ggml.add_bos_token", adds(t, "add_bos_token", bos, true));
	plx_gw_bool(w, "tokenizer.ggml.add_eos_token", adds(t, "add_eos_token", eos, false));
}

/* ---- chat template --------------------------------------------------------------------------- */

/* chat_template.jinja as one string to be freed, or NULL. */
static char *template_file(const struct plx_hf *h)
{
	char path[PATH_MAX + 64];
	FILE *f;

	snprintf(path, sizeof path, "%schat_template.jinja", h->folder);
	f = fopen(path, "re");
	char *text = f ? calloc(1, MAX_TEMPLATE + 1) : NULL;

	if (text)
		text[fread(text, 1, MAX_TEMPLATE, f)] = '\0';
	if (f)
		fclose(f);
	return text;
}

static void put_template(const struct plx_hf *h, struct plx_gw *w)
{
	const json_t *v = json_object_get(h->tok_config, "chat_template"), *e;
	const char *text = json_string_value(v);
	char *file = text ? NULL : template_file(h);
	size_t i;

	json_array_foreach(v, i, e)
	{
		const char *name = json_string_value(json_object_get(e, "name"));

		if (name && strcmp(name, "default") == 0)
			text = json_string_value(json_object_get(e, "template"));
	}
	text = text ? text : file;
	if (text && *text)
		plx_gw_str(w, "tokenizer.chat_template", plx_gw_name(text));
	free(file);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void put_vocab(const struct tok *t, struct plx_gw *w)
{
	char pad[32];

	plx_gw_arr(w, plx_gw_name("tokenizer.ggml.tokens"), PLX_GGUF_STR, t->n);
	for (uint32_t i = 0; i < t->n; i++) {
		snprintf(pad, sizeof pad, "[PAD%u]", i);
		plx_gw_elem_str(w, plx_gw_name(t->text[i] ? t->text[i] : pad));
	}
	plx_gw_arr(w, plx_gw_name("tokenizer.ggml.token_type"), PLX_GGUF_I32, t->n);
	for (uint32_t i = 0; i < t->n; i++)
		plx_gw_elem_i32(w, t->text[i] ? t->type[i] : PLX_TOK_T_UNUSED);
	if (!t->spm)
		return;
	plx_gw_arr(w, plx_gw_name("tokenizer.ggml.scores"), PLX_GGUF_F32, t->n);
	for (uint32_t i = 0; i < t->n; i++)
		plx_gw_elem_f32(w, t->score[i]);
}

static int read_all(struct tok *t)
{
	const char *type = json_string_value(json_object_get(t->model, "type"));
	int err;

	if (!type || strcmp(type, "BPE") != 0)
		return plx_diag_set(
		    t->d, PLX_E_UNSUPPORTED,
		    "%stokenizer.json: its model is \"%.20s\"; only BPE is supported", t->h->folder,
		    type ? type : "");
	if ((err = read_vocab(t)))
		return err;
	if (t->spm && (err = rank_pieces(t)))
		return err;
	if ((err = read_added(t)))
		return err;
	int64_t unk = special_id(t, "unk");

	if (t->spm && unk >= 0)
		t->type[unk] = PLX_TOK_T_UNKNOWN;
	return 0;
}

static int put_all(struct tok *t, struct plx_gw *w, const char *pre, bool space)
{
	plx_gw_str(w, "tokenizer.ggml.model", plx_gw_name(t->spm ? "llama" : "gpt2"));
	plx_gw_str(w, "tokenizer.ggml.pre", plx_gw_name(t->spm ? "default" : pre));
	put_vocab(t, w);
	int err = t->spm ? 0 : put_merges(t, w);

	if (t->spm)
		plx_gw_bool(w, "tokenizer.ggml.add_space_prefix", space);
	put_specials(t, w);
	put_template(t->h, w);
	return err;
}

int plx_hf_tok_put(const struct plx_hf *h, struct plx_gw *w, const char *pre, struct plx_diag *d)
{
	struct tok t = {.h = h,
	                .model = json_object_get(h->tokenizer, "model"),
	                .n = h->n_vocab,
	                .text = calloc(h->n_vocab, sizeof *t.text),
	                .type = calloc(h->n_vocab, sizeof *t.type),
	                .score = calloc(h->n_vocab, sizeof *t.score),
	                .d = d};
	const char *found = pre;
	bool space = false;
	int err = 0;

	t.spm = json_is_true(json_object_get(t.model, "byte_fallback"));
	if (!t.text || !t.type || !t.score)
		err = plx_diag_set(d, PLX_E_NOMEM, "no memory for the vocabulary");
	if (!err && !pre)
		err = plx_hf_pre_find(h->tokenizer, &found, &space, d);
	if (!err)
		err = read_all(&t);
	if (!err)
		err = put_all(&t, w, found, space);
	free(t.text);
	free(t.type);
	free(t.score);
	return err;
}
