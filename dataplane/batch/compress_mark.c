/* Marks from the text: where phrases end, and what must not be touched. */
#include "dataplane/batch/compress.h"

#include <string.h>

/* A walk over the text of one span. */
struct walk {
	const char *text;
	const uint32_t *tok_end;
	uint32_t n;
	uint32_t tok; /* the first token that ends behind where the walk stands */
	uint8_t *mark;
};

static bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_upper(char c)
{
	return c >= 'A' && c <= 'Z';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* A full stop, ? or ! with nothing but a closing quote or bracket before white space. */
static bool ends_sentence(const char *t, uint32_t i, uint32_t end)
{
	if (t[i] == '\n')
		return true;
	if (t[i] != '.' && t[i] != '?' && t[i] != '!')
		return false;
	while (i + 1 < end && (t[i + 1] == '"' || t[i + 1] == '\'' || t[i + 1] == ')'))
		i++;
	return i + 1 == end || is_space(t[i + 1]);
}

static bool ends_phrase(const char *t, uint32_t i, uint32_t end)
{
	bool inner = t[i] == ',' || t[i] == ';' || t[i] == ':';

	return ends_sentence(t, i, end) || (inner && (i + 1 == end || is_space(t[i + 1])));
}

static uint32_t tok_begin(const struct walk *w, uint32_t i)
{
	return i > 0 ? w->tok_end[i - 1] : 0;
}

/* The token that has byte `at` as its first, but for white space, or the one behind it. */
static void unit_begins(struct walk *w, uint32_t at)
{
	while (w->tok < w->n && w->tok_end[w->tok] <= at)
		w->tok++;
	uint32_t first = w->tok < w->n ? tok_begin(w, w->tok) : at;

	while (first < at && is_space(w->text[first]))
		first++;
	uint32_t tok = w->tok + (first < at);

	if (tok < w->n)
		w->mark[tok] |= PLX_MARK_UNIT;
}

void plx_compress_keep(const uint32_t *tok_end, uint32_t n, uint32_t first, uint32_t end,
                       uint8_t *mark)
{
	uint32_t lo = 0, hi = n;

	while (lo < hi) { /* the first token that ends behind first */
		uint32_t mid = lo + (hi - lo) / 2;

		if (tok_end[mid] <= first)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < n && (lo > 0 ? tok_end[lo - 1] : 0) < end; lo++)
		mark[lo] |= PLX_MARK_KEEP;
}

/* A word [first, end): whether it is a number or a name. */
static bool stays(const char *t, uint32_t first, uint32_t end, bool begins_sentence)
{
	uint32_t n_upper = 0;

	for (uint32_t i = first; i < end; i++) {
		if (is_digit(t[i]))
			return true;
		n_upper += is_upper(t[i]);
	}
	/* "I" is no name; two capitals are one wherever they stand. */
	return n_upper >= 2 || (n_upper == 1 && !begins_sentence && end - first > 1);
}

static uint32_t word_end(const char *t, uint32_t i, uint32_t end)
{
	while (i < end && !is_space(t[i]))
		i++;
	return i;
}

static uint32_t sentence_end(const char *t, uint32_t i, uint32_t end)
{
	while (i < end && !ends_sentence(t, i, end))
		i++;
	return i < end ? i + 1 : end;
}

/* Whether the sentence that ends before `end` asks. */
static bool asks(const char *t, uint32_t first, uint32_t end)
{
	while (end > first && (is_space(t[end - 1]) || t[end - 1] == '"' || t[end - 1] == ')'))
		end--;
	return end > first && t[end - 1] == '?';
}

static void mark_sentence(struct walk *w, uint32_t first, uint32_t end)
{
	uint32_t n_words = 0;
	bool begins = true;

	unit_begins(w, first);
	for (uint32_t i = first; i < end;) {
		uint32_t space = i;

		while (i < end && is_space(w->text[i]))
			i++;
		uint32_t e = word_end(w->text, i, end);

		if (n_words == PLX_COMPRESS_WORDS) {
			unit_begins(w, space);
			n_words = 0;
		}
		if (e > i && stays(w->text, i, e, begins))
			plx_compress_keep(w->tok_end, w->n, i, e, w->mark);
		n_words += e > i;
		if (e > i && ends_phrase(w->text, e - 1, end))
			n_words = PLX_COMPRESS_WORDS;
		begins = begins && e == i;
		i = e;
	}
}

static void mark_span(struct walk *w, const struct plx_compress_span *s)
{
	for (uint32_t i = s->first; i < s->end;) {
		uint32_t e = sentence_end(w->text, i, s->end);

		mark_sentence(w, i, e);
		if (s->asks && asks(w->text, i, e))
			plx_compress_keep(w->tok_end, w->n, i, e, w->mark);
		i = e;
	}
	unit_begins(w, s->end);
}

void plx_compress_mark(const char *text, const uint32_t *end, uint32_t n,
                       const struct plx_compress_span *span, uint32_t n_span, uint8_t *mark)
{
	struct walk w = {.text = text, .tok_end = end, .n = n, .mark = mark};
	uint32_t at = 0;

	memset(mark, 0, n);
	for (uint32_t i = 0; i < n_span; i++) {
		if (span[i].first > at)
			plx_compress_keep(end, n, at, span[i].first, mark);
		mark_span(&w, &span[i]);
		at = span[i].end;
	}
	plx_compress_keep(end, n, at, UINT32_MAX, mark);
}

bool plx_compress_follow(const char *text, uint32_t len, uint32_t *at, const uint8_t *piece,
                         uint32_t piece_len)
{
	for (uint32_t i = 0; i < piece_len; i++) {
		if (*at < len && (uint8_t)text[*at] == piece[i])
			(*at)++;
		else if (piece[i] != ' ')
			return false;
	}
	return true;
}
