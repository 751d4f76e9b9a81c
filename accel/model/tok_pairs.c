/* Which two symbols merge: read from merges (byte-level) or worked out from pieces (SentencePiece).
 */
#include <math.h>
#include <stdlib.h>

#include "accel/model/tok_char.h"
#include "accel/model/tok_vocab.h"

static int pairs_alloc(struct plx_tok *t, uint64_t n, struct plx_diag *d)
{
	uint32_t slots = plx_pow2_over(n);

	if (slots == 0 || n > UINT32_MAX / 4)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "the vocabulary has %llu merges; that is too many",
		                    (unsigned long long)n);
	t->pair_mask = slots - 1;
	t->pair = malloc((size_t)slots * sizeof(*t->pair));
	if (t->pair == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %llu merges",
		                    (unsigned long long)n);
	memset(t->pair, 0xff, (size_t)slots * sizeof(*t->pair)); /* rank NONE: free */
	return 0;
}

/* Returns false where the pair is there already. */
static bool pair_add(struct plx_tok *t, uint32_t left, uint32_t right, uint32_t rank, uint32_t made)
{
	uint64_t key = (uint64_t)left << 32 | right;
	uint32_t i = plx_pair_slot(key, t->pair_mask);

	while (t->pair[i].rank != PLX_RANK_NONE) {
		if (t->pair[i].key == key)
			return false;
		i = (i + 1) & t->pair_mask;
	}
	t->pair[i] = (struct plx_pair){.key = key, .rank = rank, .made = made};
	return true;
}

/* ---- byte-level: one merge of the file ---- */

/* Token that a merge names or makes; must be one that text can turn into. */
static int merge_token(const struct plx_tok *t, const struct plx_raw *raw, uint32_t idx,
                       struct plx_tok_str name, const char *role, uint32_t *sym, struct plx_diag *d)
{
	*sym = plx_raw_find(raw, name.s, name.len);
	if (*sym == PLX_SYM_NONE)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.merges[%u] %s \"%s\", which tokenizer.ggml.tokens "
		    "does not have; convert the model again",
		    idx, role, plx_quote(name.s, name.len).text);
	if (t->type[*sym] != PLX_TOK_T_NORMAL && t->type[*sym] != PLX_TOK_T_USER)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.merges[%u] %s \"%s\", a special token (type %u); "
		    "text must not become one: convert the model again",
		    idx, role, plx_quote(name.s, name.len).text, t->type[*sym]);
	return 0;
}

static int merge_add(struct plx_tok *t, const struct plx_raw *raw, uint32_t idx, struct plx_diag *d)
{
	struct plx_tok_str m = raw->src->merges[idx];
	const char *gap = m.len > 0 ? memchr(m.s, ' ', m.len) : NULL;
	size_t n_left = gap == NULL ? 0 : (size_t)(gap - m.s);
	size_t n_right = gap == NULL ? 0 : m.len - n_left - 1;
	char both[4 * PLX_TOK_MAX_PIECE];
	uint32_t left, right, made;
	int err;

	if (n_left == 0 || n_right == 0 || memchr(gap + 1, ' ', n_right) != NULL)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "tokenizer.ggml.merges[%u] is \"%s\", not two tokens with one "
		                    "space between; convert the model again",
		                    idx, plx_quote(m.s, m.len).text);
	if ((err =
	         merge_token(t, raw, idx, (struct plx_tok_str){m.s, n_left}, "names", &left, d)) ||
	    (err = merge_token(t, raw, idx, (struct plx_tok_str){gap + 1, n_right}, "names", &right,
	                       d)))
		return err;
	/* Both are tokens, so at most 2 * PLX_TOK_MAX_PIECE bytes each. */
	memcpy(both, m.s, n_left);
	memcpy(both + n_left, gap + 1, n_right);
	err = merge_token(t, raw, idx, (struct plx_tok_str){both, n_left + n_right}, "makes", &made,
	                  d);
	if (err)
		return err;
	if (!pair_add(t, left, right, idx, made))
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "tokenizer.ggml.merges[%u] \"%s\" occurs twice; convert the model "
		    "again",
		    idx, plx_quote(m.s, m.len).text);
	return 0;
}

static int from_merges(struct plx_tok *t, const struct plx_raw *raw, struct plx_diag *d)
{
	int err = pairs_alloc(t, raw->src->n_merges, d);

	for (uint32_t i = 0; err == 0 && i < raw->src->n_merges; i++)
		err = merge_add(t, raw, i, d);
	return err;
}

/* ---- SentencePiece: every split of every piece ---- */

static int by_score(const void *a, const void *b)
{
	float x = *(const float *)a;
	float y = *(const float *)b;

	return (x < y) - (x > y);
}

/* Position of a score among the scores in falling order; equal scores are equal. */
static uint32_t rank_of(const float *sorted, uint32_t n, float score)
{
	uint32_t lo = 0;

	while (n > 0) {
		uint32_t half = n / 2;

		if (sorted[lo + half] > score) {
			lo += half + 1;
			n -= half + 1;
		} else {
			n = half;
		}
	}
	return lo;
}

/* Counts the splits of piece made into two symbols, or enters them with its rank. */
static uint64_t splits(struct plx_tok *t, uint32_t made, uint32_t rank, bool enter)
{
	const uint8_t *p = t->pool + t->piece[made].off;
	uint32_t len = t->piece[made].len;
	uint64_t n = 0;
	int32_t cp;

	for (uint32_t k = plx_char_decode(p, len, &cp); k < len;
	     k += plx_char_decode(p + k, len - k, &cp)) {
		uint32_t left = plx_vocab_find(t, p, k);
		uint32_t right =
		    left == PLX_SYM_NONE ? PLX_SYM_NONE : plx_vocab_find(t, p + k, len - k);

		if (right == PLX_SYM_NONE)
			continue;
		n++;
		if (enter)
			pair_add(t, left, right, rank, made);
	}
	return n;
}

static int from_pieces(struct plx_tok *t, const struct plx_tok_source *src, struct plx_diag *d)
{
	float *sorted = malloc(t->n_vocab * sizeof(*sorted));
	uint64_t n = 0;
	int err = PLX_E_NOMEM;

	if (sorted == NULL)
		return plx_diag_set(d, err, "no memory for %u scores", t->n_vocab);
	memcpy(sorted, src->scores, t->n_vocab * sizeof(*sorted));
	qsort(sorted, t->n_vocab, sizeof(*sorted), by_score);
	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (t->type[i] == PLX_TOK_T_NORMAL)
			n += splits(t, i, 0, false);
	err = pairs_alloc(t, n, d);
	for (uint32_t i = 0; err == 0 && i < t->n_vocab; i++)
		if (t->type[i] == PLX_TOK_T_NORMAL)
			splits(t, i, rank_of(sorted, t->n_vocab, src->scores[i]), true);
	free(sorted);
	return err;
}

int plx_vocab_pairs(struct plx_tok *t, const struct plx_raw *raw, struct plx_diag *d)
{
	return t->spm ? from_pieces(t, raw->src, d) : from_merges(t, raw, d);
}
