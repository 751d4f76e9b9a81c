/*
 * Pre-tokenizers: cut a text into the words within which BPE merges.
 *
 * The published patterns are regular expressions with one look-ahead. They are matched here by a
 * scanner with one state a run of characters and at most one character of backing off, because a
 * regular expression engine can't stop in the middle of a match: a word of a megabyte would hold
 * the lcore for milliseconds. The scanner stops after any number of characters and looks at each at
 * most twice, so it needs no match limit. Tests hold it against the patterns themselves.
 *
 *   gpt-2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm     every \p{N} is a word and ends the text before it; gpt-2 on what is between
 *   llama-bpe  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 *              | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   qwen2      as llama-bpe with \p{N} for \p{N}{1,3}; text is normalised to NFC before
 *
 * Source: the pre_tokenizer entries that the models' makers publish in their tokenizer.json.
 */
#ifndef PLX_ACCEL_MODEL_TOK_PRE_H
#define PLX_ACCEL_MODEL_TOK_PRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What tells the pre-tokenizers apart. */
struct plx_pre {
	const char *name;   /* tokenizer.ggml.pre */
	bool fold;          /* contractions in either case: 'S like 's */
	bool lead_any;      /* a word may begin with any one space or symbol, not only with ' ' */
	uint8_t max_digits; /* numbers in one word; 0: a run of any length, after an optional ' ' */
	bool digit_ends;    /* white space before a number is as at the end of the text */
	bool newlines; /* white space is cut after its last CR or LF; symbols take them along */
	bool nfc;      /* text is normalised first */
	bool ignore_merges; /* a word that is a token is that token, whatever the merges say */
	bool add_bos;       /* where the file doesn't say */
	bool spaces; /* SentencePiece: a word is a run of ' ' and the run of others after it */
	bool whole;  /* SentencePiece: the text is one word */
};

/* plx_pre_find - the pre-tokenizer with this name, or NULL. */
const struct plx_pre *plx_pre_find(const char *name);

/* plx_pre_known - "gpt-2, smollm, llama-bpe, qwen2". */
const char *plx_pre_known(void);

/* The two cuts of SentencePiece, as spaces and whole above. */
extern const struct plx_pre plx_pre_spaces;
extern const struct plx_pre plx_pre_whole;

/* Where a scan stands. The word found last is [start, pos). */
struct plx_scan {
	const struct plx_pre *pre;
	const uint8_t *text;
	uint32_t n;
	uint32_t start;
	uint32_t pos;
	uint32_t last;   /* in white space: where its last character begins */
	uint32_t nl_end; /* in white space: end of its last CR or LF; start where there is none */
	uint8_t state;   /* enum scan_state */
	uint8_t n_digits;
};

/* plx_scan_init - scan text [n]; text stays with the caller and must not change. */
void plx_scan_init(struct plx_scan *s, const struct plx_pre *pre, const void *text, uint32_t n);

/*
 * plx_scan_next - find the next word.
 *
 * @budget  reduced by one for each character looked at.
 *
 * Returns 1 when [s->start, s->pos) is a word (never empty), 0 at the end of the text, AGAIN when
 * the budget is used up. All words together are the text.
 */
int plx_scan_next(struct plx_scan *s, int64_t *budget);

#endif
