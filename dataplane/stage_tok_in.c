/*
 * The way in: prompts to ids, in slices; what a request goes on from in front, and what the client
 * of a resumed one has through its decoder.
 */
#include "dataplane/stage_tok_int.h"

#include "fw/base/check.h"
#include "fw/base/clock.h"

#define COPY_A_TURN  16384u
#define PRIME_A_TURN 256u

static void refuse(struct plx_stage_tok *s, int err, const char *why)
{
	plx_req_reject(s->links, s->in.req, err, why);
	s->in.work = PLX_TOK_REFUSE;
}

/* A refusal over an option, which REJECT names. */
static void refuse_option(struct plx_stage_tok *s, uint16_t option, const char *why)
{
	refuse(s, PLX_E_BAD_REQUEST, why);
	s->in.req->res.option = option;
}

static void hand_on(struct plx_stage_tok *s)
{
	struct plx_req *r = s->in.req;
	uint64_t now = plx_clock_ns();

	r->tok_ns = now;
	r->res.ns[PLX_NS_TOK] = now - s->in.begin_ns;
	plx_req_trace(
	    s->page, r,
	    (struct plx_trace_ev){
		.ns = now, .kind = PLX_TR_REQ_ENCODED, .n = r->n_ids, .a = s->in.begin_ns});
	s->in.work = PLX_TOK_IDLE;
	s->in.req = NULL;
	/* The ring holds every request there is. */
	PLX_CHECK(plx_ring_req_push(&s->links->tok_req, &r));
}

/* All is known of the prompt. */
static void prepared(struct plx_stage_tok *s)
{
	if (s->in.req->view.n_resumed)
		s->in.work = PLX_TOK_PRIME;
	else
		hand_on(s);
}

/* The prompt stands in ids; n_ids of them are new. */
static void encoded(struct plx_stage_tok *s, uint32_t n_ids)
{
	struct plx_req *r = s->in.req;
	const struct plx_req_compress *c = &r->view.compress;

	r->n_ids = r->n_kept + n_ids;
	if (c->by == PLX_COMPRESS_RATIO && c->target * (float)r->n_ids < 1.0f) {
		refuse_option(s, PLX_OPT_COMPRESS, "the ratio removes every token");
		return;
	}
	int e = plx_tok_best_begin(s, r);

	if (e) {
		refuse(s, e,
		       e == PLX_E_TOO_LARGE ? "so many samples of such a length can't be held back"
		                            : "too many samples are held back for others");
		return;
	}
	for (uint16_t i = 0; i < plx_req_runs(&r->view); i++)
		plx_detok_init(plx_tok_answer(s, r->idx, i), s->tok, r);
	plx_talk_begin(&s->talk, r->idx);
	s->in.sample = 0;
	s->in.n_primed = 0;
	s->in.n_marked = r->n_kept;
	s->in.marked_text = 0;
	if (c->by)
		s->in.work = PLX_TOK_MARK;
	else
		prepared(s);
}

/* A resumed request: what the client has goes through the decoder and is not sent. */
static void prime(struct plx_stage_tok *s)
{
	struct plx_tok_in *in = &s->in;
	struct plx_req *r = in->req;
	uint32_t n_vocab = plx_tok_n_vocab(s->tok), count;

	for (uint32_t k = 0; k < PRIME_A_TURN && in->sample < r->view.m.n_samples; k++) {
		const uint8_t *ids = plx_req_resumed(&r->view, in->sample, &count);

		if (in->n_primed == count) {
			in->sample++;
			in->n_primed = 0;
			continue;
		}
		uint32_t id = plx_get_u32(ids + 4 * (size_t)in->n_primed++);
		int32_t had = (int32_t)id;

		if (id >= n_vocab) {
			plx_talk_drop(&s->talk, r->idx);
			refuse_option(s, PLX_OPT_RESUME, "a token id is not in the vocabulary");
			return;
		}
		plx_detok_had(plx_tok_answer(s, r->idx, in->sample), had);
		plx_talk_add(&s->talk, r->idx, in->sample, &had, 1);
	}
	if (in->sample == r->view.m.n_samples)
		hand_on(s);
}

static void begin_job(struct plx_stage_tok *s, const struct plx_tok_job *job)
{
	int e = plx_tok_begin(s->in.scratch, job);

	if (e)
		refuse(s, e == PLX_E_TOO_LARGE ? e : PLX_E_BAD_REQUEST,
		       "the prompt's text is over the limit");
	else
		s->in.work = PLX_TOK_ENCODE;
}

static void begin_text(struct plx_stage_tok *s)
{
	const struct plx_req *r = s->in.req;
	const struct plx_msg_req *m = &r->view.m;
	uint32_t specials = m->flags & PLX_REQ_SPECIAL ? (uint32_t)PLX_TOK_SPECIALS : 0u;
	uint32_t start = r->view.continued ? (uint32_t)PLX_TOK_NO_PREFIX : (uint32_t)PLX_TOK_BOS;
	s->in.prompt = (const char *)r->view.prompt;
	s->in.prompt_len = m->prompt_bytes;
	struct plx_tok_job job = {.text = r->view.prompt,
	                          .len = m->prompt_bytes,
	                          .flags = specials | start,
	                          .ids = r->ids + r->n_kept,
	                          .max_ids = s->links->cfg->lim.prompt_tokens - r->n_kept};

	if (m->prompt_bytes == 0)
		encoded(s, 0);
	else
		begin_job(s, &job);
}

static uint32_t list_messages(struct plx_stage_tok *s)
{
	struct plx_req_message m;
	const char *content;
	uint32_t off = 0, n = 0;

	while (n < PLX_MESSAGES_MAX &&
	       plx_req_message_next(&s->in.req->view, &off, &m, &content) > 0)
		s->in.msg[n++] =
		    (struct plx_chat_msg){.text = content, .len = m.bytes, .role = m.role};
	return n;
}

static void begin_messages(struct plx_stage_tok *s)
{
	struct plx_tok_in *in = &s->in;
	struct plx_chat_prompt p = {.text = in->text,
	                            .max_text = in->max_text,
	                            .span = in->span,
	                            .max_span = plx_tok_segs()};

	if (!s->chat) {
		refuse(s, PLX_E_BAD_REQUEST, "the model has no chat template");
		return;
	}
	bool more = in->req->view.continued != 0;
	uint32_t n_msgs = list_messages(s);
	int n = more ? plx_chat_render_more(s->chat, in->msg, n_msgs, in->seg, plx_tok_segs())
	             : plx_chat_render(s->chat, in->msg, n_msgs, in->seg, plx_tok_segs());
	int e = n < 0 ? n : plx_chat_join(in->seg, (uint32_t)n, &p);

	if (e == PLX_E_UNSUPPORTED) {
		refuse_option(
		    s, PLX_OPT_CONTINUE,
		    "the chat template changes earlier turns; send the whole conversation");
		return;
	}
	if (e) {
		refuse(s, e == PLX_E_TOO_LARGE ? e : PLX_E_BAD_REQUEST,
		       "the chat template does not take these messages");
		return;
	}
	in->prompt = p.text;
	in->prompt_len = p.len;
	in->n_msgs = n_msgs;
	in->n_segs = (uint32_t)n;
	struct plx_tok_job job = {.text = p.text,
	                          .len = p.len,
	                          .flags = (uint32_t)PLX_TOK_SPECIALS |
	                                   (uint32_t)(more ? PLX_TOK_NO_PREFIX : PLX_TOK_BOS),
	                          .span = p.span,
	                          .n_span = p.n_span,
	                          .ids = in->req->ids + in->req->n_kept,
	                          .max_ids = s->links->cfg->lim.prompt_tokens - in->req->n_kept};

	begin_job(s, &job);
}

static bool check_cancel(struct plx_stage_tok *s)
{
	struct plx_req *r = s->in.req;
	uint8_t cause = plx_tok_cancelled(s, r);

	if (!cause)
		return false;
	r->res.kind = PLX_FINAL_CANCELLED;
	r->res.cause = cause;
	s->in.work = PLX_TOK_REFUSE;
	return true;
}

/* Put the ids of the request that this one continues in front; false: refused. */
static bool put_kept(struct plx_stage_tok *s)
{
	struct plx_req *r = s->in.req;
	uint32_t entry = plx_talk_find(&s->talk, plx_tok_owner(r), r->view.continued);
	uint32_t n =
	    entry == PLX_TALK_NONE ? 0 : plx_talk_len(&s->talk, entry, r->view.continued_sample);

	if (entry == PLX_TALK_NONE)
		refuse_option(s, PLX_OPT_CONTINUE,
		              "the request to go on from is not kept; send the whole text");
	else if (n == 0)
		refuse_option(s, PLX_OPT_CONTINUE, "the request to go on from has no such sample");
	else if (n > s->links->cfg->lim.prompt_tokens)
		refuse(s, PLX_E_TOO_LARGE, "the conversation is over the limit of prompt tokens");
	else
		plx_talk_copy(&s->talk, entry, r->view.continued_sample, r->ids);
	r->n_kept = r->n_ids = n;
	bool kept = s->in.work != PLX_TOK_REFUSE;

	plx_count(s->page, kept ? PLX_M_TOK_CONTINUED : PLX_M_TOK_NOT_KEPT, 1);
	return kept;
}

static void begin(struct plx_stage_tok *s)
{
	struct plx_req *r = s->in.req;
	const struct plx_msg_req *m = &r->view.m;
	const struct plx_cfg_limits *lim = &s->links->cfg->lim;

	s->in.begin_ns = plx_clock_ns();
	s->in.n_msgs = s->in.n_segs = 0;
	r->n_ids = 0;
	if (check_cancel(s) || (r->view.continued && !put_kept(s)))
		return;
	if (m->n_samples == 0 || m->n_samples > lim->n_samples || m->n_logprobs > lim->n_logprobs ||
	    r->view.n_stops > lim->n_stop)
		refuse(s, PLX_E_TOO_LARGE, "more samples, logprobs or stop strings than allowed");
	else if (m->flags & PLX_REQ_MESSAGES)
		begin_messages(s);
	else if (m->flags & PLX_REQ_TEXT)
		begin_text(s);
	else if (m->prompt_tokens > lim->prompt_tokens - r->n_kept)
		refuse(s, PLX_E_TOO_LARGE, "the prompt is over the limit of tokens");
	else
		s->in.work = PLX_TOK_COPY;
}

static void copy_ids(struct plx_stage_tok *s)
{
	struct plx_req *r = s->in.req;
	uint32_t n_vocab = plx_tok_n_vocab(s->tok), n = r->n_kept + r->view.m.prompt_tokens;
	uint32_t end = n - r->n_ids > COPY_A_TURN ? r->n_ids + COPY_A_TURN : n;

	for (uint32_t i = r->n_ids; i < end; i++) {
		uint32_t id = plx_req_id(&r->view, i - r->n_kept);

		if (id >= n_vocab) {
			refuse(s, PLX_E_BAD_REQUEST, "a token id is not in the vocabulary");
			return;
		}
		r->ids[i] = (int32_t)id;
	}
	r->n_ids = end;
	if (end == n)
		encoded(s, r->view.m.prompt_tokens);
}

static void encode(struct plx_stage_tok *s)
{
	int n = plx_tok_step(s->in.scratch, PLX_TOK_STEP_DEFAULT);

	if (n == PLX_E_AGAIN)
		return;
	if (n < 0) {
		refuse(s, n == PLX_E_TOO_LARGE ? n : PLX_E_BAD_REQUEST,
		       "the prompt is over the limit of tokens");
		return;
	}
	plx_count(s->page, PLX_M_TOK_ENCODED, (uint64_t)n);
	encoded(s, (uint32_t)n);
}

static void give_refused(struct plx_stage_tok *s)
{
	struct plx_req *r = s->in.req;
	bool rejected = r->res.kind == PLX_FINAL_REJECT;

	if (rejected)
		plx_count_reject(s->page, r->res.err);
	else
		plx_count(s->page, PLX_M_REQ_CANCELLED, 1);
	s->in.work = PLX_TOK_IDLE;
	s->in.req = NULL;
	plx_best_end(&s->best.store, r->idx);
	plx_tok_push_final(s, r);
}

static bool next_request(struct plx_stage_tok *s)
{
	struct plx_tok_in *in = &s->in;

	for (uint32_t i = 0; i < s->links->n_io; i++) {
		uint32_t io = (in->next_io + i) % s->links->n_io;

		if (plx_ring_req_pop(&s->links->io_tok[io], &in->req)) {
			in->next_io = io + 1;
			return true;
		}
	}
	return false;
}

/* One piece of work on the request at hand or the next one; false: nothing to do now. */
static bool run_in_once(struct plx_stage_tok *s)
{
	switch (s->in.work) {
	case PLX_TOK_IDLE:
		if (!next_request(s))
			return false;
		begin(s);
		return true;
	case PLX_TOK_COPY:
		if (!check_cancel(s))
			copy_ids(s);
		return true;
	case PLX_TOK_ENCODE:
		if (!check_cancel(s))
			encode(s);
		return true;
	case PLX_TOK_MARK:
		if (!check_cancel(s) && plx_tok_mark(s))
			prepared(s);
		return true;
	case PLX_TOK_PRIME:
		if (!check_cancel(s))
			prime(s);
		else
			plx_talk_drop(&s->talk, s->in.req->idx);
		return true;
	case PLX_TOK_REFUSE:
		if (s->out.n_free == 0)
			return false;
		give_refused(s);
		return true;
	}
	return false;
}

uint32_t plx_tok_run_in(struct plx_stage_tok *s)
{
	uint32_t n = 0;

	while (run_in_once(s)) {
		n++;
		if (plx_clock_ns() >= s->end_ns)
			break;
	}
	return n;
}
