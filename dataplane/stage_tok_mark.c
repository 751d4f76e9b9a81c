/*
 * The way in of a prompt that may be compressed: where its tokens lie in its text, and which of
 * them must stay (dataplane/batch/compress.h).
 */
#include "dataplane/stage_tok_int.h"

#include <string.h>

#include "dataplane/batch/compress.h"
#include "fw/base/check.h"

#define TOKENS_A_TURN 2048u

/* The piece is no text that anybody wrote: a begin of text that the tokenizer put in front. */
static bool is_control(const struct plx_tok *t, int32_t id)
{
	return plx_tok_type(t, id) == PLX_TOK_T_CONTROL;
}

/* Ids came without a text: their pieces are one. False: it has no room. */
static bool append(struct plx_tok_in *in, const uint8_t *piece, uint32_t n)
{
	if (n > in->max_text - in->marked_text)
		return false;
	if (n)
		memcpy(in->text + in->marked_text, piece, n);
	in->marked_text += n;
	return true;
}

/* The next token's end; false: its text can't be followed any more. */
static bool follow(struct plx_stage_tok *s, uint32_t i)
{
	struct plx_tok_in *in = &s->in;
	const struct plx_req *r = in->req;
	uint32_t n, was = in->marked_text;
	const uint8_t *piece = plx_tok_piece(s->tok, r->ids[i], &n);
	bool ok = r->view.m.flags & PLX_REQ_IDS
	              ? append(in, piece, n)
	              : plx_compress_follow(in->prompt, in->prompt_len, &in->marked_text, piece, n);

	if (!ok && is_control(s->tok, r->ids[i])) {
		in->marked_text = was;
		ok = true;
	}
	in->tok_end[i - r->n_kept] = in->marked_text;
	return ok;
}

static bool role_stays(const struct plx_req *r, uint32_t role)
{
	return role == PLX_CHAT_SYSTEM || ((uint32_t)r->view.compress.keep_roles >> role & 1);
}

static const char *last_line(const char *text, uint32_t len)
{
	const char *p = text + len;

	while (p > text && p[-1] == '\n')
		p--;
	while (p > text && p[-1] != '\n')
		p--;
	return p;
}

/* Which message a segment is from; n_msgs: it is the template's. */
static uint32_t message_of(const struct plx_tok_in *in, const struct plx_chat_seg *g)
{
	uint32_t i = 0;

	while (i < in->n_msgs && !(g->content && g->ptr >= in->msg[i].text &&
	                           g->ptr < in->msg[i].text + in->msg[i].len))
		i++;
	return i;
}

static uint32_t last_user(const struct plx_tok_in *in)
{
	uint32_t last = in->n_msgs;

	for (uint32_t i = 0; i < in->n_msgs; i++)
		last = in->msg[i].role == PLX_CHAT_USER ? i : last;
	return last;
}

/* The bytes of a rendered chat that may be touched. */
static uint32_t chat_spans(struct plx_tok_in *in, struct plx_compress_span *span)
{
	uint32_t at = 0, n = 0, user = last_user(in);

	for (uint32_t i = 0; i < in->n_segs; at += in->seg[i++].len) {
		uint32_t m = message_of(in, &in->seg[i]);

		if (m < in->n_msgs && !role_stays(in->req, in->msg[m].role))
			span[n++] = (struct plx_compress_span){at, at + in->seg[i].len, m == user};
	}
	return n;
}

/* Where byte `at` of message m lies in the rendered chat; what was trimmed counts as its edge. */
static uint32_t chat_at(const struct plx_tok_in *in, uint32_t m, uint32_t at)
{
	uint32_t off = 0, found = 0;
	const char *p = in->msg[m].text + at;

	for (uint32_t i = 0; i < in->n_segs; off += in->seg[i++].len) {
		const struct plx_chat_seg *g = &in->seg[i];

		if (message_of(in, g) != m)
			continue;
		if (p <= g->ptr)
			return found ? found : off;
		found = off + (p < g->ptr + g->len ? (uint32_t)(p - g->ptr) : g->len);
		if (p <= g->ptr + g->len)
			return found;
	}
	return found;
}

/* The last line of the last user's message, or of a text: what is to be done often stands there. */
static void keep_last_line(struct plx_tok_in *in, uint32_t n, uint8_t *mark)
{
	uint32_t m = last_user(in);
	const char *line;

	if (in->n_msgs == 0) {
		line = last_line(in->prompt, in->prompt_len);
		if (line > in->prompt)
			plx_compress_keep(in->tok_end, n, (uint32_t)(line - in->prompt), UINT32_MAX,
			                  mark);
		return;
	}
	if (m == in->n_msgs)
		return;
	line = last_line(in->msg[m].text, in->msg[m].len);
	if (line > in->msg[m].text)
		plx_compress_keep(in->tok_end, n,
		                  chat_at(in, m, (uint32_t)(line - in->msg[m].text)),
		                  chat_at(in, m, in->msg[m].len), mark);
}

static void keep_spans(struct plx_tok_in *in, uint32_t n, uint8_t *mark)
{
	const struct plx_req_view *v = &in->req->view;

	for (uint32_t i = 0; i < v->compress.n_keep; i++) {
		struct plx_req_keep k = plx_req_keep_at(v, i);

		if (v->m.flags & PLX_REQ_IDS)
			for (uint32_t t = k.first; t < k.end && t < n; t++)
				mark[t] |= PLX_MARK_KEEP;
		else if (in->n_msgs == 0)
			plx_compress_keep(in->tok_end, n, k.first, k.end, mark);
		else if (k.message < in->n_msgs)
			plx_compress_keep(in->tok_end, n, chat_at(in, k.message, k.first),
			                  chat_at(in, k.message, k.end), mark);
	}
}

/* The first n tokens were followed; the others stay. */
static void mark(struct plx_stage_tok *s, uint32_t n)
{
	struct plx_tok_in *in = &s->in;
	struct plx_req *r = in->req;
	uint8_t *to = r->mark + r->n_kept;
	struct plx_compress_span whole = {0, in->marked_text, true};
	bool ids = r->view.m.flags & PLX_REQ_IDS;
	uint32_t n_span = in->n_msgs ? chat_spans(in, in->free_span) : 1;

	memset(r->mark, PLX_MARK_KEEP, r->n_ids);
	if (n == 0)
		return;
	plx_compress_mark(ids ? in->text : in->prompt, in->tok_end, n,
	                  in->n_msgs ? in->free_span : &whole, n_span, to);
	if (!ids)
		keep_last_line(in, n, to);
	keep_spans(in, n, to);
	for (uint32_t i = 0; i < n; i++)
		if (is_control(s->tok, r->ids[r->n_kept + i]))
			to[i] |= PLX_MARK_KEEP;
}

bool plx_tok_mark(struct plx_stage_tok *s)
{
	struct plx_tok_in *in = &s->in;
	const struct plx_req *r = in->req;
	uint32_t end =
	    r->n_ids - in->n_marked > TOKENS_A_TURN ? in->n_marked + TOKENS_A_TURN : r->n_ids;

	while (in->n_marked < end && follow(s, in->n_marked))
		in->n_marked++;
	if (in->n_marked == end && end < r->n_ids)
		return false;
	mark(s, in->n_marked - r->n_kept);
	return true;
}
