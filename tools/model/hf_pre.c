/*
 * Recognises the rules by which a tokenizer.json cuts text. They are compared in full, field by
 * field, with those that accel/model/tok_pre.h has: nearly the same would be other tokens.
 */
#include <stdio.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/model/hf.h"

/* The published patterns. Llama 3's has numbers of up to three digits, Qwen 2's single digits. */
#define HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const char llama3[] = HEAD "\\p{N}{1,3}" TAIL;
static const char qwen2[] = HEAD "\\p{N}" TAIL;

static bool is_type(const json_t *o, const char *type)
{
	const char *t = json_string_value(json_object_get(o, "type"));

	return t && strcmp(t, type) == 0;
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* ByteLevel with or without its own pattern; absent use_regex is true. */
static bool is_byte_level(const json_t *o, bool regex)
{
	const json_t *r = json_object_get(o, "use_regex");

	return is_type(o, "ByteLevel") && !json_is_true(json_object_get(o, "add_prefix_space")) &&
	       (r ? json_is_true(r) : true) == regex;
}

static bool is_split(const json_t *o, const char *pattern)
{
	return is_type(o, "Split") && !json_is_true(json_object_get(o, "invert")) &&
	       strcmp(text_of(o, "behavior"), "Isolated") == 0 &&
	       strcmp(text_of(json_object_get(o, "pattern"), "Regex"), pattern) == 0;
}

static bool is_digits(const json_t *o)
{
	return is_type(o, "Digits") && json_is_true(json_object_get(o, "individual_digits"));
}

/* Byte-level BPE: its name, or NULL. */
static const char *byte_level(const json_t *norm, const json_t *pre)
{
	const json_t *list = json_object_get(pre, "pretokenizers");
	const json_t *a = json_array_get(list, 0), *b = json_array_get(list, 1);
	bool plain = !norm || json_is_null(norm);

	if (plain && is_byte_level(pre, true))
		return "gpt-2";
	if (!is_type(pre, "Sequence") || json_array_size(list) != 2)
		return NULL;
	if (plain && is_digits(a) && is_byte_level(b, true))
		return "smollm";
	if (plain && is_split(a, llama3) && is_byte_level(b, false))
		return "llama-bpe";
	if (is_type(norm, "NFC") && is_split(a, qwen2) && is_byte_level(b, false))
		return "qwen2";
	return NULL;
}

/* SentencePiece as a normalizer: " " becomes U+2581, and one may go before the text. */
static bool spm_normalizer(const json_t *norm, bool *space)
{
	const json_t *list = json_object_get(norm, "normalizers"), *n;
	bool replaces = false;
	size_t i;

	*space = false;
	if (!is_type(norm, "Sequence"))
		return false;
	json_array_foreach(list, i, n)
	{
		if (is_type(n, "Prepend") && strcmp(text_of(n, "prepend"), "\xe2\x96\x81") == 0)
			*space = true;
		else if (is_type(n, "Replace") &&
		         strcmp(text_of(json_object_get(n, "pattern"), "String"), " ") == 0 &&
		         strcmp(text_of(n, "content"), "\xe2\x96\x81") == 0)
			replaces = true;
		else
			return false;
	}
	return replaces;
}

/* SentencePiece as a pre-tokenizer that does the same and does not cut. */
static bool spm_metaspace(const json_t *pre, bool *space)
{
	const char *scheme = text_of(pre, "prepend_scheme");

	*space = strcmp(scheme, "never") != 0;
	return is_type(pre, "Metaspace") &&
	       strcmp(text_of(pre, "replacement"), "\xe2\x96\x81") == 0 &&
	       json_is_false(json_object_get(pre, "split"));
}

int plx_hf_pre_find(const json_t *tokenizer, const char **name, bool *space, struct plx_diag *d)
{
	const json_t *norm = json_object_get(tokenizer, "normalizer");
	const json_t *pre = json_object_get(tokenizer, "pre_tokenizer");
	bool no_norm = !norm || json_is_null(norm), no_pre = !pre || json_is_null(pre);

	*space = false;
	*name = NULL;
	if (json_is_true(json_object_get(json_object_get(tokenizer, "model"), "byte_fallback"))) {
		if ((no_pre && spm_normalizer(norm, space)) ||
		    (no_norm && spm_metaspace(pre, space)))
			return 0;
	} else {
		*name = byte_level(norm, pre);
		if (*name)
			return 0;
	}
	return plx_diag_set(d, PLX_E_UNSUPPORTED,
	                    "tokenizer.json: its normalizer (%.30s) and pre_tokenizer (%.30s) are "
	                    "none that is known; if it is the same as one of gpt-2, smollm, "
	                    "llama-bpe, qwen2, say so by --pre",
	                    no_norm ? "none" : text_of(norm, "type"),
	                    no_pre ? "none" : text_of(pre, "type"));
}
