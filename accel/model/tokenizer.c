/*
 * Encoding as a state machine: cut at control and added tokens, normalise what is between, cut it
 * into words, merge each word, give out its ids. Every stage stops when the budget is used up and
 * goes on from its own position, so the ids can't depend on the budget.
 */
#include "accel/model/tokenizer.h"

#include <stdlib.h>

#include "accel/model/tok_char.h"
#include "accel/model/tok_merge.h"
#include "accel/model/tok_nfc.h"
#include "accel/model/tok_vocab.h"

enum stage {
	ENC_START,
	ENC_FIND,    /* look for the next control or added token */
	ENC_NORM,    /* normalise the text before it */
	ENC_WORDS,   /* next word of that text */
	ENC_MERGE,   /* merge the word */
	ENC_EMIT,    /* give out its ids */
	ENC_SPECIAL, /* give out the token found */
	ENC_END,
	ENC_DONE, /* the count was returned, or nothing was begun */
};

struct plx_tok_scratch {
	const struct plx_tok *tok;
	uint32_t max_text;
	struct plx_tok_job job;
	uint32_t n_ids;
	uint32_t n_dropped;
	uint8_t stage;
	bool space;    /* SentencePiece: the next piece of text begins with a space of its own */
	uint32_t frag; /* text not yet encoded begins here */
	uint32_t pos;  /* and was searched for tokens up to here */
	uint32_t span_idx; /* first span that ends behind pos */
	int32_t found;     /* token at pos */
	uint32_t found_len;
	uint8_t *norm; /* [max_text + 1] */
	struct plx_nfc nfc;
	struct plx_scan scan;
	struct plx_merge merge;
	uint32_t emit; /* symbol to give out next */
};

int plx_tok_scratch_new(struct plx_tok_scratch **out, const struct plx_tok *t, uint32_t max_text,
                        struct plx_diag *d)
{
	*out = NULL;
	if (max_text == 0 || max_text > PLX_TOK_MAX_TEXT)
		return plx_diag_set(d, PLX_E_INVAL, "texts of %u bytes: give 1 to %d", max_text,
		                    PLX_TOK_MAX_TEXT);
	struct plx_tok_scratch *s = calloc(1, sizeof(*s));

	if (s == NULL)
		goto nomem;
	s->tok = t;
	s->max_text = max_text;
	s->stage = ENC_DONE;
	s->norm = malloc((size_t)max_text + 1);
	if (s->norm == NULL || plx_merge_alloc(&s->merge, t, max_text + 1))
		goto nomem;
	memset(s->norm, 0, (size_t)max_text + 1);
	*out = s;
	return 0;
nomem:
	plx_tok_scratch_free(s);
	return plx_diag_set(d, PLX_E_NOMEM,
	                    "no memory to tokenise texts of %u bytes; lower the limit", max_text);
}

void plx_tok_scratch_free(struct plx_tok_scratch *s)
{
	if (s == NULL)
		return;
	plx_merge_release(&s->merge);
	free(s->norm);
	free(s);
}

static int emit(struct plx_tok_scratch *s, int32_t id)
{
	if (s->n_ids == s->job.max_ids)
		return PLX_E_TOO_LARGE;
	s->job.ids[s->n_ids++] = id;
	return 0;
}

/* ---- control and added tokens ---- */

/* Bytes from pos on in which a token may match: up to the next span; 0 inside one. */
static uint32_t open_bytes(struct plx_tok_scratch *s)
{
	const struct plx_tok_job *j = &s->job;

	while (s->span_idx < j->n_span &&
	       j->span[s->span_idx].off + j->span[s->span_idx].len <= s->pos)
		s->span_idx++;
	if (s->span_idx == j->n_span)
		return j->len - s->pos;
	uint32_t off = j->span[s->span_idx].off;

	return off > s->pos ? off - s->pos : 0;
}

/* Moves pos by one byte, or over a span, or sets found. */
static void look(struct plx_tok_scratch *s, int64_t *budget)
{
	const uint8_t *text = s->job.text;
	uint32_t n = open_bytes(s);
	uint32_t looked;

	(*budget)--;
	if (n == 0) {
		s->pos = s->job.span[s->span_idx].off + s->job.span[s->span_idx].len;
		return;
	}
	if (s->tok->trie_root[text[s->pos]] == 0) {
		s->pos++;
		return;
	}
	s->found = plx_trie_match(s->tok, text + s->pos, n, s->job.flags, &s->found_len, &looked);
	*budget -= looked;
	if (s->found == PLX_TOK_NONE)
		s->pos++;
}

static int find(struct plx_tok_scratch *s, int64_t *budget)
{
	s->found = PLX_TOK_NONE;
	if (!(s->job.flags & PLX_TOK_SPECIALS))
		s->pos = s->job.len;
	while (s->pos < s->job.len && s->found == PLX_TOK_NONE) {
		if (*budget <= 0)
			return PLX_E_AGAIN;
		look(s, budget);
	}
	s->stage = ENC_NORM;
	s->nfc = (struct plx_nfc){.in = (const uint8_t *)s->job.text + s->frag,
	                          .n_in = s->pos - s->frag,
	                          .out = s->norm,
	                          .max_out = s->max_text};
	return 0;
}

/* bos, unless the text begins with it. Positions are left as they were. */
static int start(struct plx_tok_scratch *s, int64_t *budget)
{
	s->stage = ENC_FIND;
	if (!(s->job.flags & PLX_TOK_BOS) || !s->tok->special.add_bos)
		return 0;
	s->found = PLX_TOK_NONE;
	if (s->job.len > 0 && (s->job.flags & PLX_TOK_SPECIALS) && open_bytes(s) > 0)
		look(s, budget);
	s->pos = 0;
	s->span_idx = 0;
	return s->found == s->tok->special.bos ? 0 : emit(s, s->tok->special.bos);
}

static int special(struct plx_tok_scratch *s, int64_t *budget)
{
	(*budget)--;
	if (s->found == PLX_TOK_NONE) {
		s->stage = ENC_END;
		return 0;
	}
	s->pos += s->found_len;
	s->frag = s->pos;
	s->space = s->tok->special.add_space_prefix && s->tok->type[s->found] != PLX_TOK_T_USER;
	s->stage = ENC_FIND;
	return emit(s, s->found);
}

/* ---- text between them ---- */

/* SentencePiece: a space before, and U+2581 of the text becomes the space it stands for. */
static int copy_spaces(struct plx_tok_scratch *s, int64_t *budget)
{
	struct plx_nfc *c = &s->nfc;

	if (c->in_pos == 0 && c->n_out == 0 && s->space)
		c->out[c->n_out++] = ' ';
	while (c->in_pos < c->n_in) {
		const uint8_t *p = c->in + c->in_pos;
		uint32_t left = c->n_in - c->in_pos;

		if (*budget <= 0)
			return PLX_E_AGAIN;
		(*budget)--;
		if (left >= 3 && p[0] == 0xe2 && p[1] == 0x96 && p[2] == 0x81) {
			c->out[c->n_out++] = ' ';
			c->in_pos += 3;
		} else {
			c->out[c->n_out++] = p[0];
			c->in_pos++;
		}
	}
	return 0;
}

static int normalise(struct plx_tok_scratch *s, int64_t *budget)
{
	const struct plx_pre *pre = s->tok->pre;
	/* The space at the start stands before an added token too, as that is text. */
	bool lone =
	    s->space && s->found != PLX_TOK_NONE && s->tok->type[s->found] == PLX_TOK_T_USER;
	int err = 0;

	if (s->nfc.n_in == 0 && !lone) {
		s->stage = ENC_SPECIAL;
		return 0;
	}
	if (s->tok->spm)
		err = copy_spaces(s, budget);
	else if (pre->nfc)
		err = plx_nfc_step(&s->nfc, budget);
	if (err)
		return err;
	if (s->tok->spm || pre->nfc)
		plx_scan_init(&s->scan, pre, s->norm, s->nfc.n_out);
	else
		plx_scan_init(&s->scan, pre, s->nfc.in, s->nfc.n_in);
	s->stage = ENC_WORDS;
	return 0;
}

static int word(struct plx_tok_scratch *s, int64_t *budget)
{
	int got = plx_scan_next(&s->scan, budget);
	const uint8_t *p = s->scan.text + s->scan.start;
	uint32_t len = s->scan.pos - s->scan.start;

	if (got <= 0) {
		s->stage = got == 0 ? ENC_SPECIAL : ENC_WORDS;
		return got;
	}
	(*budget)--;
	if (len <= s->tok->max_plain) {
		uint32_t sym = plx_vocab_find(s->tok, p, len);

		*budget -= len / 16;
		if (sym < s->tok->n_vocab && (s->tok->attr[sym] & PLX_TOK_A_WHOLE))
			return emit(s, (int32_t)sym);
	}
	plx_merge_begin(&s->merge, p, len);
	s->stage = ENC_MERGE;
	return 0;
}

static int merge(struct plx_tok_scratch *s, int64_t *budget)
{
	int err = plx_merge_step(&s->merge, budget);

	if (err)
		return err;
	s->n_dropped += s->merge.n_dropped;
	s->emit = s->merge.n_sym > 0 ? 0 : PLX_SYM_NONE;
	s->stage = ENC_EMIT;
	return 0;
}

/* A character that is no piece: its bytes. A space is spelled U+2581 in these files. */
static int emit_bytes(struct plx_tok_scratch *s, uint32_t off)
{
	const uint8_t *p = s->merge.word + off;
	int32_t cp;
	uint32_t len = plx_char_decode(p, s->merge.len - off, &cp);
	int err = 0;

	if (cp == ' ') {
		p = (const uint8_t *)"\xe2\x96\x81";
		len = 3;
	}
	for (uint32_t i = 0; err == 0 && i < len; i++)
		err = emit(s, (int32_t)s->tok->byte_sym[p[i]]);
	return err;
}

static int emit_word(struct plx_tok_scratch *s, int64_t *budget)
{
	while (s->emit != PLX_SYM_NONE) {
		const struct plx_sym *sym = &s->merge.sym[s->emit];
		int err;

		if (*budget <= 0)
			return PLX_E_AGAIN;
		(*budget)--;
		err =
		    sym->id < s->tok->n_vocab ? emit(s, (int32_t)sym->id) : emit_bytes(s, sym->off);
		if (err)
			return err;
		s->emit = sym->next;
	}
	s->stage = ENC_WORDS;
	return 0;
}

static int end(struct plx_tok_scratch *s)
{
	s->stage = ENC_DONE;
	if ((s->job.flags & PLX_TOK_EOS) && s->tok->special.add_eos)
		return emit(s, s->tok->special.eos);
	return 0;
}

/* ---- the machine ---- */

static int advance(struct plx_tok_scratch *s, int64_t *budget)
{
	switch ((enum stage)s->stage) {
	case ENC_START:
		return start(s, budget);
	case ENC_FIND:
		return find(s, budget);
	case ENC_NORM:
		return normalise(s, budget);
	case ENC_WORDS:
		return word(s, budget);
	case ENC_MERGE:
		return merge(s, budget);
	case ENC_EMIT:
		return emit_word(s, budget);
	case ENC_SPECIAL:
		return special(s, budget);
	case ENC_END:
		return end(s);
	case ENC_DONE:
		break;
	}
	return PLX_E_INVAL;
}

static bool spans_ok(const struct plx_tok_job *j)
{
	uint32_t end = 0;

	for (uint32_t i = 0; i < j->n_span; i++) {
		if (j->span[i].off < end || j->span[i].off > j->len ||
		    j->span[i].len > j->len - j->span[i].off)
			return false;
		end = j->span[i].off + j->span[i].len;
	}
	return true;
}

int plx_tok_begin(struct plx_tok_scratch *s, const struct plx_tok_job *job)
{
	s->stage = ENC_DONE;
	if (job->len > s->max_text)
		return PLX_E_TOO_LARGE;
	if (!spans_ok(job))
		return PLX_E_INVAL;
	s->job = *job;
	s->n_ids = 0;
	s->n_dropped = 0;
	s->frag = 0;
	s->pos = 0;
	s->span_idx = 0;
	s->space = s->tok->special.add_space_prefix && !(job->flags & PLX_TOK_NO_PREFIX);
	s->stage = ENC_START;
	return 0;
}

int plx_tok_step(struct plx_tok_scratch *s, uint32_t budget)
{
	int64_t left = budget;
	int err = s->stage == ENC_DONE ? PLX_E_INVAL : 0;

	while (err == 0 && s->stage != ENC_DONE)
		err = left > 0 ? advance(s, &left) : PLX_E_AGAIN;
	if (err == 0)
		return (int)s->n_ids;
	if (err != PLX_E_AGAIN)
		s->stage = ENC_DONE;
	return err;
}

int plx_tok_encode(struct plx_tok_scratch *s, const void *text, uint32_t len, uint32_t flags,
                   int32_t *ids, uint32_t max_ids)
{
	struct plx_tok_job job = {
	    .text = text, .len = len, .flags = flags, .ids = ids, .max_ids = max_ids};
	int err = plx_tok_begin(s, &job);

	while (err == 0) {
		err = plx_tok_step(s, UINT32_MAX);
		if (err != PLX_E_AGAIN)
			return err;
		err = 0;
	}
	return err;
}

uint32_t plx_tok_dropped(const struct plx_tok_scratch *s)
{
	return s->n_dropped;
}
