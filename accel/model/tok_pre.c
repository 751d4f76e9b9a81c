/* The pre-tokenizers' scanner: one state a run of characters. */
#include "accel/model/tok_pre.h"

#include <string.h>

#include "accel/model/tok_char.h"
#include "fw/base/err.h"

enum scan_state {
	SCAN_BEGIN,
	SCAN_LETTERS,
	SCAN_NUMBERS,
	SCAN_OTHERS,
	SCAN_NEWLINES, /* CR and LF after symbols */
	SCAN_SPACE,
	SCAN_SP_SPACES, /* SentencePiece: ' ' */
	SCAN_SP_TEXT,   /* SentencePiece: anything else */
	SCAN_WORD,      /* [start, pos) is complete */
};

static const struct plx_pre known[] = {
    {.name = "gpt-2"},
    {.name = "smollm", .max_digits = 1, .digit_ends = true},
    {.name = "llama-bpe",
     .fold = true,
     .lead_any = true,
     .max_digits = 3,
     .newlines = true,
     .ignore_merges = true,
     .add_bos = true},
    {.name = "qwen2",
     .fold = true,
     .lead_any = true,
     .max_digits = 1,
     .newlines = true,
     .nfc = true},
};

const struct plx_pre plx_pre_spaces = {.name = "spaces", .spaces = true};
const struct plx_pre plx_pre_whole = {.name = "whole", .whole = true};

const struct plx_pre *plx_pre_find(const char *name)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].name, name) == 0)
			return &known[i];
	return NULL;
}

const char *plx_pre_known(void)
{
	return "gpt-2, smollm, llama-bpe, qwen2";
}

void plx_scan_init(struct plx_scan *s, const struct plx_pre *pre, const void *text, uint32_t n)
{
	*s = (struct plx_scan){.pre = pre, .text = text, .n = n, .state = SCAN_WORD};
}

static struct plx_char char_at(const struct plx_scan *s, uint32_t pos)
{
	return plx_char_at(s->text + pos, s->n - pos);
}

static bool is_newline(struct plx_char c)
{
	return c.cp == '\n' || c.cp == '\r';
}

/* A letter as contractions compare it: folded where asked; U+017F folds to s. */
static int32_t fold(const struct plx_scan *s, struct plx_char c)
{
	if (!s->pre->fold)
		return c.cp;
	if (c.cp >= 'A' && c.cp <= 'Z')
		return c.cp | 0x20;
	return c.cp == 0x17f ? 's' : c.cp;
}

/* End of the contraction whose apostrophe is at start; 0 where there is none. */
static uint32_t contraction(const struct plx_scan *s)
{
	uint32_t pos = s->start + 1;

	if (pos >= s->n)
		return 0;
	struct plx_char a = char_at(s, pos);
	int32_t first = fold(s, a);

	pos += a.len;
	if (first == 's' || first == 't' || first == 'm' || first == 'd')
		return pos;
	if (pos >= s->n)
		return 0;
	struct plx_char b = char_at(s, pos);
	int32_t second = fold(s, b);

	if ((first == 'r' || first == 'v') && second == 'e')
		return pos + b.len;
	return first == 'l' && second == 'l' ? pos + b.len : 0;
}

static uint8_t run_of(enum plx_char_class class)
{
	return class == PLX_CHAR_LETTER   ? SCAN_LETTERS
	       : class == PLX_CHAR_NUMBER ? SCAN_NUMBERS
	                                  : SCAN_OTHERS;
}

/* Whether c, a space or symbol, goes into one word with the run that d begins. */
static bool leads(const struct plx_pre *pre, struct plx_char c, struct plx_char d)
{
	if (d.class == PLX_CHAR_LETTER)
		return c.cp == ' ' || (pre->lead_any && !is_newline(c));
	if (d.class == PLX_CHAR_NUMBER)
		return c.cp == ' ' && pre->max_digits == 0;
	return d.class == PLX_CHAR_OTHER && c.cp == ' ';
}

static void begin_space(struct plx_scan *s, struct plx_char c)
{
	s->last = s->start;
	s->nl_end = is_newline(c) ? s->pos : s->start;
	s->state = SCAN_SPACE;
}

static void begin(struct plx_scan *s)
{
	struct plx_char c = char_at(s, s->start);
	uint32_t end = c.cp == '\'' ? contraction(s) : 0;

	s->pos = s->start + c.len;
	s->n_digits = 1;
	if (end != 0) {
		s->pos = end;
		s->state = SCAN_WORD;
		return;
	}
	if (c.class != PLX_CHAR_LETTER && c.class != PLX_CHAR_NUMBER && s->pos < s->n) {
		struct plx_char d = char_at(s, s->pos);

		if (leads(s->pre, c, d)) {
			s->pos += d.len;
			s->state = run_of(d.class);
			return;
		}
	}
	if (c.class == PLX_CHAR_SPACE)
		begin_space(s, c);
	else
		s->state = run_of(c.class);
}

/* White space ended before pos: give back what belongs to the next word. */
static void end_space(struct plx_scan *s, bool at_end)
{
	if (s->pre->newlines && s->nl_end > s->start)
		s->pos = s->nl_end;
	else if (!at_end && s->last > s->start)
		s->pos = s->last;
	s->state = SCAN_WORD;
}

/* A run of one class takes c or ends. */
static void run(struct plx_scan *s, struct plx_char c)
{
	bool fits = (s->state == SCAN_LETTERS && c.class == PLX_CHAR_LETTER) ||
	            (s->state == SCAN_OTHERS && c.class == PLX_CHAR_OTHER) ||
	            (s->state == SCAN_NEWLINES && is_newline(c)) ||
	            (s->state == SCAN_NUMBERS && c.class == PLX_CHAR_NUMBER &&
	             (s->pre->max_digits == 0 || s->n_digits < s->pre->max_digits));

	if (fits) {
		s->n_digits++; /* read only where max_digits bounds it */
		s->pos += c.len;
	} else if (s->state == SCAN_OTHERS && s->pre->newlines && is_newline(c)) {
		s->state = SCAN_NEWLINES;
	} else {
		s->state = SCAN_WORD;
	}
}

static void space(struct plx_scan *s, struct plx_char c)
{
	if (c.class != PLX_CHAR_SPACE) {
		end_space(s, s->pre->digit_ends && c.class == PLX_CHAR_NUMBER);
		return;
	}
	s->last = s->pos;
	s->pos += c.len;
	if (is_newline(c))
		s->nl_end = s->pos;
}

static void sentencepiece(struct plx_scan *s)
{
	bool sp = s->text[s->pos] == ' ' && s->pre->spaces;

	if (sp && s->state == SCAN_SP_TEXT) {
		s->state = SCAN_WORD;
		return;
	}
	if (!sp)
		s->state = SCAN_SP_TEXT;
	s->pos++;
}

static void advance(struct plx_scan *s)
{
	if (s->state == SCAN_BEGIN)
		begin(s);
	else if (s->state >= SCAN_SP_SPACES)
		sentencepiece(s);
	else if (s->state == SCAN_SPACE)
		space(s, char_at(s, s->pos));
	else
		run(s, char_at(s, s->pos));
}

int plx_scan_next(struct plx_scan *s, int64_t *budget)
{
	if (s->state == SCAN_WORD) {
		s->start = s->pos;
		s->state = s->pre->spaces || s->pre->whole ? SCAN_SP_SPACES : SCAN_BEGIN;
	}
	while (s->pos < s->n) {
		if (*budget <= 0)
			return PLX_E_AGAIN;
		(*budget)--;
		advance(s);
		if (s->state == SCAN_WORD)
			return 1;
	}
	if (s->state == SCAN_SPACE)
		end_space(s, true);
	s->state = SCAN_WORD;
	return s->pos > s->start;
}
