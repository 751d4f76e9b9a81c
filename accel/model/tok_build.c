/*
 * Checks a vocabulary and builds the tables. What is refused is refused here, with the key, the
 * index and the remedy; the rest of the tokenizer believes its tables.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "accel/model/tok_char.h"
#include "accel/model/tok_merge.h"
#include "accel/model/tok_vocab.h"

#define AGAIN_CONVERT "; convert the model again"

struct plx_quoted plx_quote(const char *s, size_t len)
{
	struct plx_quoted q = {{0}};
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];

		if (n + 8 > sizeof(q.text)) {
			memcpy(q.text + n, "...", 3);
			break;
		}
		if (c >= 0x20 && c < 0x7f)
			q.text[n++] = (char)c;
		else
			n += (size_t)snprintf(q.text + n, sizeof(q.text) - n, "\\x%02x", c);
	}
	return q;
}

uint32_t plx_pow2_over(uint64_t n)
{
	uint64_t p = 8;

	while (p < 2 * n && p <= UINT32_MAX)
		p *= 2;
	return (uint32_t)p; /* 0 where it would not fit */
}

static struct plx_str_slot *slots_new(uint32_t n_slots)
{
	struct plx_str_slot *s = malloc((size_t)n_slots * sizeof(*s));

	if (s != NULL)
		memset(s, 0xff, (size_t)n_slots * sizeof(*s)); /* sym NONE: free */
	return s;
}

/* ---- tokens as spelled ---- */

uint32_t plx_raw_find(const struct plx_raw *r, const char *s, size_t len)
{
	uint64_t h = plx_str_hash(s, len);

	for (uint32_t i = (uint32_t)(h >> 32) & r->mask;; i = (i + 1) & r->mask) {
		uint32_t sym = r->slot[i].sym;

		if (sym == PLX_SYM_NONE)
			return PLX_SYM_NONE;
		if (r->slot[i].tag == (uint32_t)h && r->src->tokens[sym].len == len &&
		    memcmp(r->src->tokens[sym].s, s, len) == 0)
			return sym;
	}
}

static void slot_put(struct plx_str_slot *slot, uint32_t mask, uint64_t h, uint32_t sym)
{
	uint32_t i = (uint32_t)(h >> 32) & mask;

	while (slot[i].sym != PLX_SYM_NONE)
		i = (i + 1) & mask;
	slot[i] = (struct plx_str_slot){.tag = (uint32_t)h, .sym = sym};
}

static int raw_build(struct plx_raw *r, const struct plx_tok_source *src, struct plx_diag *d)
{
	uint32_t n_slots = plx_pow2_over(src->n_tokens);

	r->src = src;
	r->mask = n_slots - 1;
	r->slot = slots_new(n_slots);
	if (r->slot == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %u tokens", src->n_tokens);
	for (uint32_t i = 0; i < src->n_tokens; i++) {
		struct plx_tok_str s = src->tokens[i];

		if (s.len == 0 || s.len > 2 * PLX_TOK_MAX_PIECE)
			return plx_diag_set(
			    d, PLX_E_FORMAT,
			    "tokenizer.ggml.tokens[%u] has %zu bytes, not 1 to %d" AGAIN_CONVERT, i,
			    s.len, 2 * PLX_TOK_MAX_PIECE);
		uint32_t first = plx_raw_find(r, s.s, s.len);

		if (first != PLX_SYM_NONE)
			return plx_diag_set(
			    d, PLX_E_FORMAT,
			    "tokenizer.ggml.tokens[%u] \"%s\" is the same as [%u]" AGAIN_CONVERT, i,
			    plx_quote(s.s, s.len).text, first);
		slot_put(r->slot, r->mask, plx_str_hash(s.s, s.len), i);
	}
	return 0;
}

/* ---- what the source says of itself ---- */

static int check_ids(const struct plx_tok_source *src, struct plx_diag *d)
{
	const struct {
		const char *key;
		int64_t id;
	} ids[] = {{"bos_token_id", src->bos},
	           {"eos_token_id", src->eos},
	           {"eot_token_id", src->eot},
	           {"unknown_token_id", src->unk},
	           {"padding_token_id", src->pad}};

	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
		if (ids[i].id < PLX_TOK_NONE || ids[i].id >= (int64_t)src->n_tokens)
			return plx_diag_set(
			    d, PLX_E_FORMAT,
			    "tokenizer.ggml.%s is %lld, but the ids are 0 to %u" AGAIN_CONVERT,
			    ids[i].key, (long long)ids[i].id, src->n_tokens - 1);
	return 0;
}

static int check_arrays(const struct plx_tok_source *src, bool spm, struct plx_diag *d)
{
	for (uint32_t i = 0; src->types != NULL && i < src->n_tokens; i++)
		if (src->types[i] < PLX_TOK_T_NORMAL || src->types[i] > PLX_TOK_T_BYTE)
			return plx_diag_set(
			    d, PLX_E_FORMAT,
			    "tokenizer.ggml.token_type[%u] is %d, not 1 to 6" AGAIN_CONVERT, i,
			    src->types[i]);
	if (!spm && src->n_merges == 0)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.merges is missing or empty, but the model \"gpt2\" "
		    "needs it" AGAIN_CONVERT);
	if (spm && (src->scores == NULL || src->types == NULL))
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.%s is missing, but the model \"llama\" needs it" AGAIN_CONVERT,
		    src->scores == NULL ? "scores" : "token_type");
	for (uint32_t i = 0; spm && i < src->n_tokens; i++)
		if (isnan(src->scores[i]))
			return plx_diag_set(
			    d, PLX_E_FORMAT,
			    "tokenizer.ggml.scores[%u] is not a number" AGAIN_CONVERT, i);
	return 0;
}

static int check_source(const struct plx_tok_source *src, struct plx_diag *d)
{
	if (src->n_tokens == 0 || src->n_tokens > PLX_TOK_MAX_TOKENS)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.tokens has %u entries, not 1 to %d" AGAIN_CONVERT,
		    src->n_tokens, PLX_TOK_MAX_TOKENS);
	if (src->n_vocab != 0 && src->n_vocab != src->n_tokens)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.tokens has %u entries, but the model's vocab_size "
		    "is %u" AGAIN_CONVERT,
		    src->n_tokens, src->n_vocab);
	if (src->n_merges > 4u * PLX_TOK_MAX_TOKENS)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.merges has %u entries, more than %d" AGAIN_CONVERT,
		    src->n_merges, 4 * PLX_TOK_MAX_TOKENS);
	return check_ids(src, d);
}

static int choose_kind(struct plx_tok *t, const struct plx_tok_source *src, struct plx_diag *d)
{
	const char *model = src->model == NULL ? "" : src->model;

	t->spm = strcmp(model, "llama") == 0;
	if (!t->spm && strcmp(model, "gpt2") != 0)
		return plx_diag_set(
		    d, PLX_E_UNSUPPORTED,
		    "tokenizer.ggml.model is \"%s\"; known are gpt2 (byte-level BPE) "
		    "and llama (SentencePiece BPE)",
		    plx_quote(model, strlen(model)).text);
	if (t->spm)
		return 0;
	if (src->pre == NULL)
		return plx_diag_set(
		    d, PLX_E_UNSUPPORTED,
		    "tokenizer.ggml.pre is missing, so how to cut words is unknown; "
		    "convert the model again with a converter that writes it (%s)",
		    plx_pre_known());
	t->pre = plx_pre_find(src->pre);
	if (t->pre == NULL)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "tokenizer.ggml.pre is \"%s\"; known are %s",
		                    plx_quote(src->pre, strlen(src->pre)).text, plx_pre_known());
	return 0;
}

/* ---- spelling to bytes ---- */

/*
 * The byte alphabet of byte-level BPE: printable Latin-1 stands for itself, the other 68 bytes in
 * ascending order for U+0100 and up. Radford et al. 2019. Returns -1 for a character outside.
 */
static int alphabet_byte(int32_t cp)
{
	int32_t n = 0x100;

	if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xff && cp != 0xad))
		return cp;
	for (int b = 0; cp >= 0x100 && cp < 0x144 && b < 0x100; b++) {
		if ((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad))
			continue;
		if (n++ == cp)
			return b;
	}
	return -1;
}

static int unspell_bytes(struct plx_tok *t, uint32_t idx, struct plx_tok_str s, uint8_t *out,
                         struct plx_diag *d)
{
	const uint8_t *p = (const uint8_t *)s.s;
	uint32_t n = 0;
	int32_t cp;

	for (size_t i = 0; i < s.len;) {
		i += plx_char_decode(p + i, (uint32_t)(s.len - i), &cp);
		int byte = alphabet_byte(cp);

		if (byte < 0)
			return plx_diag_set(
			    d, PLX_E_FORMAT,
			    "tokenizer.ggml.tokens[%u] \"%s\" is normal text, but has "
			    "a character outside the byte alphabet; give it its "
			    "token_type (control 3, user-defined 4)",
			    idx, plx_quote(s.s, s.len).text);
		out[n++] = (uint8_t)byte;
	}
	t->piece[idx].len = n;
	return 0;
}

/* U+2581 stands for a space. */
static void unspell_spaces(struct plx_tok *t, uint32_t idx, struct plx_tok_str s, uint8_t *out)
{
	uint32_t n = 0;

	for (size_t i = 0; i < s.len;) {
		if (s.len - i >= 3 && memcmp(s.s + i, "\xe2\x96\x81", 3) == 0) {
			out[n++] = ' ';
			i += 3;
		} else {
			out[n++] = (uint8_t)s.s[i++];
		}
	}
	t->piece[idx].len = n;
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	                              : -1;
}

static int unspell_hex(struct plx_tok *t, uint32_t idx, struct plx_tok_str s, uint8_t *out,
                       struct plx_diag *d)
{
	int hi = s.len == 6 ? hex(s.s[3]) : -1;
	int lo = s.len == 6 ? hex(s.s[4]) : -1;

	if (hi < 0 || lo < 0 || memcmp(s.s, "<0x", 3) != 0 || s.s[5] != '>' ||
	    t->byte_sym[16 * hi + lo] != PLX_SYM_NONE)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.tokens[%u] \"%s\" is of type byte, but no <0x00> "
		    "to <0xFF>, or one that there is already" AGAIN_CONVERT,
		    idx, plx_quote(s.s, s.len).text);
	out[0] = (uint8_t)(16 * hi + lo);
	t->piece[idx].len = 1;
	t->byte_sym[out[0]] = idx;
	return 0;
}

static int unspell(struct plx_tok *t, const struct plx_tok_source *src, uint32_t i,
                   struct plx_diag *d)
{
	struct plx_tok_str s = src->tokens[i];
	uint8_t *out = t->pool + t->piece[i].off;
	int err = 0;

	if (t->type[i] == PLX_TOK_T_BYTE)
		err = unspell_hex(t, i, s, out, d);
	else if (t->type[i] == PLX_TOK_T_NORMAL && !t->spm)
		err = unspell_bytes(t, i, s, out, d);
	else if (t->spm && (t->type[i] == PLX_TOK_T_NORMAL || t->type[i] == PLX_TOK_T_USER))
		unspell_spaces(t, i, s, out);
	else {
		memcpy(out, s.s, s.len);
		t->piece[i].len = (uint32_t)s.len;
	}
	if (err == 0 && t->piece[i].len > PLX_TOK_MAX_PIECE)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.tokens[%u] stands for %u bytes, more than %d" AGAIN_CONVERT, i,
		    t->piece[i].len, PLX_TOK_MAX_PIECE);
	return err;
}

/* Characters of normal pieces, at most: room for those that are no piece themselves. */
static uint64_t count_chars(const struct plx_tok_source *src)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < src->n_tokens; i++)
		if (src->types[i] == PLX_TOK_T_NORMAL && src->tokens[i].len > 1)
			n += src->tokens[i].len;
	return n;
}

static int pieces_alloc(struct plx_tok *t, const struct plx_tok_source *src, struct plx_diag *d)
{
	uint64_t bytes = 0;
	/* A SentencePiece character takes one symbol and its bytes; there are 0x110000 at most. */
	uint64_t chars = t->spm ? count_chars(src) : 0;
	uint64_t extra = chars < 0x110000 ? chars : 0x110000;

	for (uint32_t i = 0; i < src->n_tokens; i++)
		bytes += src->tokens[i].len;
	if (bytes + 4 * extra > UINT32_MAX)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "tokenizer.ggml.tokens has %llu bytes; at most 4 GiB",
		                    (unsigned long long)bytes);
	t->n_vocab = src->n_tokens;
	t->n_sym = src->n_tokens;
	t->pool = malloc(bytes + 4 * extra);
	t->piece = calloc(t->n_vocab + extra, sizeof(*t->piece));
	t->type = calloc(t->n_vocab + extra, 1);
	t->attr = calloc(t->n_vocab + extra, 1);
	t->plain_mask = plx_pow2_over(t->n_vocab + extra) - 1;
	t->plain = slots_new(t->plain_mask + 1);
	if (t->pool == NULL || t->piece == NULL || t->type == NULL || t->attr == NULL ||
	    t->plain == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for a vocabulary of %u tokens",
		                    t->n_vocab);
	return 0;
}

static int plain_add(struct plx_tok *t, uint32_t sym, struct plx_diag *d)
{
	const uint8_t *p = t->pool + t->piece[sym].off;
	uint32_t len = t->piece[sym].len;
	uint32_t first = plx_vocab_find(t, p, len);

	if (first != PLX_SYM_NONE)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.tokens[%u] stands for the same text as [%u]" AGAIN_CONVERT, sym,
		    first);
	slot_put(t->plain, t->plain_mask, plx_str_hash(p, len), sym);
	return 0;
}

static int pieces_build(struct plx_tok *t, const struct plx_tok_source *src, struct plx_diag *d)
{
	uint32_t off = 0;
	int err = pieces_alloc(t, src, d);

	memset(t->byte_sym, 0xff, sizeof(t->byte_sym));
	for (uint32_t i = 0; err == 0 && i < t->n_vocab; i++) {
		t->type[i] = (uint8_t)(src->types == NULL ? PLX_TOK_T_NORMAL : src->types[i]);
		t->piece[i].off = off;
		err = unspell(t, src, i, d);
		off += t->piece[i].len;
		if (t->piece[i].len > t->max_piece)
			t->max_piece = t->piece[i].len;
		if (err || t->type[i] != PLX_TOK_T_NORMAL)
			continue;
		if (t->piece[i].len > t->max_plain)
			t->max_plain = t->piece[i].len;
		if (!t->spm && t->piece[i].len == 1)
			t->byte_sym[t->pool[t->piece[i].off]] = i;
		err = plain_add(t, i, d);
	}
	return err;
}

/* ---- SentencePiece ---- */

static int check_bytes(const struct plx_tok *t, struct plx_diag *d)
{
	for (int b = 0; b < 256; b++)
		if (t->byte_sym[b] == PLX_SYM_NONE)
			return plx_diag_set(d, PLX_E_FORMAT,
			                    "tokenizer.ggml.tokens has no <0x%02X> of type byte; "
			                    "SentencePiece without byte fallback is not supported",
			                    (unsigned)b);
	return 0;
}

/* Characters inside pieces that are no piece themselves become symbols of their own. */
static void add_chars(struct plx_tok *t)
{
	uint32_t off = t->piece[t->n_vocab - 1].off + t->piece[t->n_vocab - 1].len;
	int32_t cp;

	for (uint32_t i = 0; i < t->n_vocab; i++) {
		const uint8_t *p = t->pool + t->piece[i].off;
		uint32_t len = t->piece[i].len;
		uint32_t n;

		if (t->type[i] != PLX_TOK_T_NORMAL)
			continue;
		for (uint32_t k = 0; k < len; k += n) {
			n = plx_char_decode(p + k, len - k, &cp);
			if (plx_vocab_find(t, p + k, n) != PLX_SYM_NONE)
				continue;
			memcpy(t->pool + off, p + k, n);
			t->piece[t->n_sym] = (struct plx_piece){.off = off, .len = n};
			off += n;
			slot_put(t->plain, t->plain_mask, plx_str_hash(p + k, n), t->n_sym++);
		}
	}
}

/* Words may be cut before each space if no piece goes on past a space after something else. */
static bool cuts_at_spaces(const struct plx_tok *t)
{
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		const uint8_t *p = t->pool + t->piece[i].off;

		for (uint32_t k = 1; t->type[i] == PLX_TOK_T_NORMAL && k < t->piece[i].len; k++)
			if (p[k] == ' ' && p[k - 1] != ' ')
				return false;
	}
	return true;
}

/* ---- ids with a meaning ---- */

int32_t plx_tok_find(const struct plx_tok *t, const void *text, size_t len)
{
	uint32_t n, looked;
	int32_t id = PLX_TOK_NONE;

	if (len > 0 && len <= 2 * PLX_TOK_MAX_PIECE)
		id = plx_trie_match(t, text, (uint32_t)len, PLX_TOK_SPECIALS, &n, &looked);
	return id != PLX_TOK_NONE && t->piece[id].len == len ? id : PLX_TOK_NONE;
}

static int32_t find_name(const struct plx_tok *t, const char *name)
{
	return plx_tok_find(t, name, strlen(name));
}

static void mark_eog(struct plx_tok *t)
{
	static const char *const always[] = {"<|im_end|>", "<|eot_id|>",    "<|eom_id|>",
	                                     "<|end|>",    "<EOT>",         "<end_of_turn>",
	                                     "</s>",       "<|endoftext|>", "<|end_of_text|>"};

	if (t->special.eos != PLX_TOK_NONE)
		t->attr[t->special.eos] |= PLX_TOK_A_EOG;
	if (t->special.eot != PLX_TOK_NONE)
		t->attr[t->special.eot] |= PLX_TOK_A_EOG;
	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++) {
		int32_t id = find_name(t, always[i]);

		if (id != PLX_TOK_NONE && t->type[id] == PLX_TOK_T_CONTROL)
			t->attr[id] |= PLX_TOK_A_EOG;
	}
}

static int list_eog(struct plx_tok *t)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->n_vocab; i++)
		n += (t->attr[i] & PLX_TOK_A_EOG) != 0;
	t->eog = malloc((n + 1) * sizeof(*t->eog));
	if (t->eog == NULL)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (t->attr[i] & PLX_TOK_A_EOG)
			t->eog[t->n_eog++] = (int32_t)i;
	return 0;
}

static int specials(struct plx_tok *t, const struct plx_tok_source *src, struct plx_diag *d)
{
	static const char *const turn_ends[] = {"<|eot_id|>", "<|im_end|>", "<|end|>",
	                                        "<end_of_turn>"};
	struct plx_tok_special *sp = &t->special;
	bool bos = t->spm || t->pre->add_bos;
	bool space = t->spm && src->add_space_prefix != 0;

	*sp = (struct plx_tok_special){.bos = (int32_t)src->bos,
	                               .eos = (int32_t)src->eos,
	                               .eot = (int32_t)src->eot,
	                               .unk = (int32_t)src->unk,
	                               .pad = (int32_t)src->pad};
	for (size_t i = 0; sp->eot == PLX_TOK_NONE && i < 4; i++)
		sp->eot = find_name(t, turn_ends[i]);
	sp->add_bos = sp->bos != PLX_TOK_NONE && (src->add_bos < 0 ? bos : src->add_bos);
	sp->add_eos = sp->eos != PLX_TOK_NONE && src->add_eos > 0;
	sp->add_space_prefix = space;
	mark_eog(t);
	if (list_eog(t))
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for the tokenizer");
	return 0;
}

/* ---- words that are tokens ---- */

static bool encodes_to(struct plx_merge *m, const struct plx_tok *t, uint32_t id)
{
	int64_t budget = INT64_MAX;

	plx_merge_begin(m, t->pool + t->piece[id].off, t->piece[id].len);
	plx_merge_step(m, &budget);
	return m->n_dropped == 0 && m->n_sym > 0 && m->sym[0].id == id &&
	       m->sym[0].next == PLX_SYM_NONE;
}

/* Marks every token that its own bytes encode to, so that most words need no merging. */
static int mark_whole(struct plx_tok *t, struct plx_diag *d)
{
	struct plx_merge m;
	int err = plx_merge_alloc(&m, t, t->max_plain);

	for (uint32_t i = 0; err == 0 && i < t->n_vocab; i++)
		if (t->type[i] == PLX_TOK_T_NORMAL &&
		    ((!t->spm && t->pre->ignore_merges) || encodes_to(&m, t, i)))
			t->attr[i] |= PLX_TOK_A_WHOLE;
	plx_merge_release(&m);
	return err ? plx_diag_set(d, err, "no memory for the tokenizer") : 0;
}

static int build(struct plx_tok *t, const struct plx_tok_source *src, struct plx_raw *raw,
                 struct plx_diag *d)
{
	int err;

	if ((err = check_source(src, d)) || (err = choose_kind(t, src, d)) ||
	    (err = check_arrays(src, t->spm, d)) || (err = raw_build(raw, src, d)) ||
	    (err = pieces_build(t, src, d)))
		return err;
	if (t->spm) {
		if ((err = check_bytes(t, d)))
			return err;
		add_chars(t);
		t->pre = cuts_at_spaces(t) ? &plx_pre_spaces : &plx_pre_whole;
	}
	if ((err = plx_vocab_trie(t, d)) || (err = plx_vocab_pairs(t, raw, d)) ||
	    (err = specials(t, src, d)))
		return err;
	return mark_whole(t, d);
}

int plx_tok_build(struct plx_tok **out, const struct plx_tok_source *src, struct plx_diag *d)
{
	struct plx_tok *t = calloc(1, sizeof(*t));
	struct plx_raw raw = {0};
	int err;

	*out = NULL;
	if (t == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for the tokenizer");
	err = build(t, src, &raw, d);
	free(raw.slot);
	if (err) {
		plx_tok_free(t);
		return err;
	}
	*out = t;
	return 0;
}

void plx_tok_free(struct plx_tok *t)
{
	if (t == NULL)
		return;
	free(t->pool);
	free(t->piece);
	free(t->type);
	free(t->attr);
	free(t->plain);
	free(t->pair);
	free(t->trie);
	free(t->eog);
	free(t);
}
