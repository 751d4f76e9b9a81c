/*
 * Tokenizer: text to token ids and back, as the model file's vocabulary says.
 *
 * Two families, by tokenizer.ggml.model: "gpt2" (byte-level BPE, merges by rank, a pre-tokenizer by
 * tokenizer.ggml.pre: gpt-2, smollm, llama-bpe, qwen2) and "llama" (SentencePiece BPE, merges by
 * score, byte fallback). A struct plx_tok is immutable after build and shared by threads; every
 * thread that encodes owns a scratch, sized at start. Encoding is a state machine that can stop
 * after any bounded amount of work, so a long prompt never holds an lcore; the ids are the same
 * whatever the budget. Work is O(n log n) in the text for any input.
 *
 * Text is bytes. Bytes that are not UTF-8 are legal: each is a character of its own, neither
 * letter, digit nor space.
 */
#ifndef PLX_ACCEL_MODEL_TOKENIZER_H
#define PLX_ACCEL_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"
#include "fw/base/err.h"

struct plx_gguf;        /* accel/model/gguf.h */
struct plx_tok;         /* vocabulary and its tables */
struct plx_tok_scratch; /* working memory and state of one encode */

#define PLX_TOK_NONE          (-1)      /* "the file names no such token" */
#define PLX_TOK_MAX_TOKENS    (1 << 21) /* entries of a vocabulary */
#define PLX_TOK_MAX_PIECE     1024      /* bytes of one token, as decoded */
#define PLX_TOK_MAX_TEXT      (64 << 20)
#define PLX_TOK_STEP_DEFAULT  512 /* budget of one step: well below 200 us, see _step */
#define PLX_TOK_CHAR_BYTES    4   /* longest UTF-8 character */
#define PLX_TOK_REPLACE_BYTES 3   /* U+FFFD in UTF-8 */

/* tokenizer.ggml.token_type, numbered as in the file. */
enum plx_tok_type {
	PLX_TOK_T_NORMAL = 1,
	PLX_TOK_T_UNKNOWN = 2,
	PLX_TOK_T_CONTROL = 3,
	PLX_TOK_T_USER = 4, /* added: matched as a whole, but visible text */
	PLX_TOK_T_UNUSED = 5,
	PLX_TOK_T_BYTE = 6, /* "<0x0A>" of SentencePiece */
};

/* What encode does beside plain text. Content of a message: 0. A template: PLX_TOK_SPECIALS. */
enum plx_tok_flags {
	PLX_TOK_CONTROL = 1 << 0, /* match control tokens' text: <|im_start|>, <s> ... */
	PLX_TOK_ADDED = 1 << 1,   /* match user-defined (added) tokens' text */
	PLX_TOK_SPECIALS = 3,     /* both */
	PLX_TOK_BOS = 1 << 2,     /* begin with bos if the file asks for it, unless the text does */
	PLX_TOK_EOS = 1 << 3,     /* end with eos if the file asks for it */
	PLX_TOK_NO_PREFIX =
	    1 << 4, /* text goes on from earlier text: no SentencePiece space prefix */
};

/* A string that need not end in NUL. */
struct plx_tok_str {
	const char *s;
	size_t len;
};

/* Bytes [off, off + len) of a text in which no control or added token may match, whole or part. */
struct plx_tok_span {
	uint32_t off;
	uint32_t len;
};

/*
 * A vocabulary in memory: what plx_tok_open reads from a file, and the seam for tests and fuzzers.
 * Nothing is trusted; everything is copied, so all of it may go after build.
 */
struct plx_tok_source {
	const char *model;                /* "gpt2" or "llama" */
	const char *pre;                  /* pre-tokenizer's name; NULL where there is none */
	const struct plx_tok_str *tokens; /* [n_tokens], spelled as in the file */
	uint32_t n_tokens;
	const float *scores;  /* [n_tokens]; NULL where there are none ("llama" needs them) */
	const int32_t *types; /* [n_tokens] enum plx_tok_type; NULL: all NORMAL */
	const struct plx_tok_str
	    *merges; /* [n_merges] "left right", best first ("gpt2" needs them) */
	uint32_t n_merges;
	uint32_t n_vocab;                /* what the model says; 0: doesn't say */
	int64_t bos, eos, eot, unk, pad; /* ids; PLX_TOK_NONE where the file has no such key */
	int8_t add_bos, add_eos, add_space_prefix; /* 0, 1; -1: the file doesn't say */
};

/* Ids with a meaning; PLX_TOK_NONE where there is none. */
struct plx_tok_special {
	int32_t bos, eos, eot, unk, pad;
	bool add_bos, add_eos, add_space_prefix;
};

/*
 * plx_tok_build - check a vocabulary and make the tables that encode and decode use.
 *
 * @t  out: the tokenizer, one allocation tree; release with plx_tok_free.
 * @d  may be NULL; else says which key and index is wrong, and the remedy.
 *
 * Refused: an unknown model or pre-tokenizer (UNSUPPORTED, with the known names); no tokens, more
 * than PLX_TOK_MAX_TOKENS, n_vocab that differs, empty or duplicate tokens, types outside 1..6,
 * scores that aren't numbers, normal tokens of "gpt2" with a character outside the byte alphabet,
 * merges that aren't "left right", name a missing token, make a missing or control token or occur
 * twice, ids out of range, "llama" without all 256 byte tokens (FORMAT); NOMEM.
 *
 * Thread: at start.  Cost: about 100 ms for 128,000 tokens; memory about 100 B a token and merge.
 * Source: Sennrich et al., arXiv:1508.07909 (BPE); Radford et al. 2019 (byte-level BPE);
 *         Kudo and Richardson, arXiv:1808.06226 (SentencePiece).
 */
int plx_tok_build(struct plx_tok **t, const struct plx_tok_source *src, struct plx_diag *d);

/*
 * plx_tok_open - plx_tok_build on the tokenizer.ggml.* keys of an open model file; also refuses
 * keys of a wrong type and arrays of different lengths. The file may be closed afterwards.
 */
int plx_tok_open(struct plx_tok **t, const struct plx_gguf *g, struct plx_diag *d);

/* plx_tok_free - release; NULL is accepted. */
void plx_tok_free(struct plx_tok *t);

/* plx_tok_n_vocab - number of ids: valid ids are 0 .. n_vocab - 1. */
uint32_t plx_tok_n_vocab(const struct plx_tok *t);

/* plx_tok_special - ids with a meaning and the file's add_* switches. Owner: t. */
const struct plx_tok_special *plx_tok_special(const struct plx_tok *t);

/*
 * plx_tok_is_eog - true where id ends a generation: the file's eos and eot, and those of
 * <|im_end|> <|eot_id|> <|eom_id|> <|end|> <end_of_turn> </s> <|endoftext|> <|end_of_text|> <EOT>
 * that the vocabulary has as control tokens (</s> and <|endoftext|> only as such). An id out of
 * range is false.  Cost: O(1).
 */
bool plx_tok_is_eog(const struct plx_tok *t, int32_t id);

/* plx_tok_eog - the same set as a list: *ids (owned by t, ascending); returns how many. */
uint32_t plx_tok_eog(const struct plx_tok *t, const int32_t **ids);

/* plx_tok_type - an id's type; 0 for an id out of range. */
int plx_tok_type(const struct plx_tok *t, int32_t id);

/* plx_tok_find - id of the control or added token with exactly this text, else PLX_TOK_NONE. */
int32_t plx_tok_find(const struct plx_tok *t, const void *text, size_t len);

/*
 * plx_tok_piece - bytes an id stands for, before any hiding or stripping: "\n", " the", one byte
 * 0x0A for <0x0A>; the text of a control or added token as spelled. No copy.
 *
 * Returns a pointer into t (not NUL-terminated) and sets *len; NULL and 0 for an id out of range.
 */
const uint8_t *plx_tok_piece(const struct plx_tok *t, int32_t id, uint32_t *len);

/* ---- encode ---- */

/*
 * plx_tok_scratch_new - working memory for texts of at most max_text bytes, for this tokenizer.
 *
 * Owner: the caller, one a thread.  Cost: about 42 B a byte of text, allocated and touched here, so
 * that later use takes no page fault.  Errors: INVAL (0 or over PLX_TOK_MAX_TEXT), NOMEM.
 */
int plx_tok_scratch_new(struct plx_tok_scratch **s, const struct plx_tok *t, uint32_t max_text,
                        struct plx_diag *d);

/* plx_tok_scratch_free - NULL is accepted. */
void plx_tok_scratch_free(struct plx_tok_scratch *s);

/* What to encode, and where the ids go. */
struct plx_tok_job {
	const void *text; /* in [len] bytes */
	uint32_t len;
	uint32_t flags; /* enum plx_tok_flags */
	const struct plx_tok_span
	    *span; /* in [n_span], ascending, apart; NULL where there are none */
	uint32_t n_span;
	int32_t *ids; /* out [max_ids] */
	uint32_t max_ids;
};

/*
 * plx_tok_begin - start to encode; the work is done by plx_tok_step. Drops an earlier job.
 *
 * A rendered chat prompt is one text with flags SPECIALS, and one span for each message's content:
 * pre-tokenisation and merges run across the seams as the model was trained, yet no user text
 * becomes control. text, span and ids must stay until the job is done or dropped.
 *
 * Where the file has add_space_prefix, a space goes before the text and after each control token
 * (not after an added one, as in SentencePiece). Text is otherwise taken as it is, but for NFC
 * where the pre-tokenizer asks for it; a pile of more than 64 combining marks is normalised in
 * parts.
 *
 * Errors: TOO_LARGE (len over max_text), INVAL (spans out of order or range).
 */
int plx_tok_begin(struct plx_tok_scratch *s, const struct plx_tok_job *job);

/*
 * plx_tok_step - go on for about budget units of work.
 *
 * @budget  1 or more; a unit is a byte looked at or a symbol set up, 4 are a merge: 5-150 ns each.
 *          PLX_TOK_STEP_DEFAULT stays well below 200 us.
 *
 * Returns AGAIN while there is work, then the number of ids (>= 0, and the same from any budget).
 * Errors: TOO_LARGE (more than max_ids ids, or NFC makes the text longer than max_text). After an
 * error or the count the job is over: a further step is INVAL.
 * Thread: the scratch's owner.  Cost: no allocation, no system call.
 */
int plx_tok_step(struct plx_tok_scratch *s, uint32_t budget);

/*
 * plx_tok_encode - begin and step until done, in one call: for tools, tests and short texts.
 *
 * Returns the number of ids, or TOO_LARGE. Cost: tens of nanoseconds a byte.
 */
int plx_tok_encode(struct plx_tok_scratch *s, const void *text, uint32_t len, uint32_t flags,
                   int32_t *ids, uint32_t max_ids);

/*
 * plx_tok_dropped - bytes of the last finished job that the vocabulary has no token for and that
 * are therefore missing from the ids (byte-level files without all 256 bytes; SmolLM2 lacks 21,
 * 6 of them ASCII control characters). The reference implementation drops them too.
 */
uint32_t plx_tok_dropped(const struct plx_tok_scratch *s);

/* ---- decode ---- */

enum plx_tok_stream_flags {
	PLX_TOK_SHOW_CONTROL = 1 << 0, /* control tokens' text is written too */
	PLX_TOK_KEEP_SPACE = 1 << 1,   /* keep the leading space a SentencePiece text begins with */
};

/* Turns ids into text as they come. All state is here; init, then push; nothing to release. */
struct plx_tok_stream {
	const struct plx_tok *tok;
	uint8_t flags;
	uint8_t n_held; /* bytes of an unfinished character: 0..3 */
	bool at_start;  /* no visible byte was seen yet */
	uint8_t held[PLX_TOK_CHAR_BYTES];
};

/* plx_tok_stream_init - begin an answer's text; @flags: enum plx_tok_stream_flags. */
void plx_tok_stream_init(struct plx_tok_stream *st, const struct plx_tok *t, uint32_t flags);

/* plx_tok_stream_max - out space that one push or flush can need with this vocabulary. */
uint32_t plx_tok_stream_max(const struct plx_tok *t);

/*
 * plx_tok_stream_push - the text that id adds, whole characters only.
 *
 * Output is always valid UTF-8: bytes of an unfinished character wait in st (st->n_held of them),
 * and bytes that can't be UTF-8 become U+FFFD, one for each maximal part of a character (Unicode
 * 15, section 3.9), so that all pushes and the flush together equal the concatenated pieces
 * decoded with replacement. Control, unknown and unused tokens add nothing (see flags). Where the
 * file has add_space_prefix, one space at the very start is dropped.
 *
 * @out  out [cap], cap at least plx_tok_stream_max.
 *
 * Returns the bytes written, 0 or more. Errors: INVAL (id out of range, cap too small).
 */
int plx_tok_stream_push(struct plx_tok_stream *st, int32_t id, void *out, uint32_t cap);

/*
 * plx_tok_stream_flush - end of text: a held, unfinished character becomes one U+FFFD.
 *
 * Returns the bytes written: 0 or 3. Errors: INVAL (cap below 3).
 */
int plx_tok_stream_flush(struct plx_tok_stream *st, void *out, uint32_t cap);

#endif
