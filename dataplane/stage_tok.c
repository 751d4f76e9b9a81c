/* Start, turns, and the way out: answers decoded record by record; see stage_tok.h. */
#include "dataplane/stage_tok_int.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"

#define TEMPLATE_BYTES  65536u /* what a chat template may add to a prompt */
#define BYTES_A_TOKEN   16u
#define RECORDS_A_CLOCK 16u /* records between two looks at the clock */
#define WAITING_SPARE   8u  /* tokens that a character may spread over */
#define WALK_NS         PLX_NS_PER_MS
#define WALK_LEAST      16u
#define WALK_TURNS      512u /* walks in which every place is seen */

/* ---- start ---- */

static uint32_t max_text(const struct plx_config *cfg)
{
	uint64_t by_tokens = (uint64_t)BYTES_A_TOKEN * cfg->lim.prompt_tokens;
	uint64_t n = cfg->lim.request_bytes < by_tokens ? cfg->lim.request_bytes : by_tokens;

	n += TEMPLATE_BYTES;
	return n < PLX_TOK_MAX_TEXT ? (uint32_t)n : (uint32_t)PLX_TOK_MAX_TEXT;
}

static size_t n_answers(const struct plx_config *cfg)
{
	return (size_t)cfg->lim.n_requests * cfg->lim.n_samples;
}

static size_t tops_bytes(const struct plx_config *cfg)
{
	return (size_t)PLX_DETOK_HOLD * cfg->lim.n_logprobs * sizeof(struct plx_top);
}

static struct plx_talk_conf talk_conf(const struct plx_config *cfg)
{
	const struct plx_cfg_limits *m = &cfg->lim;
	uint64_t most = (uint64_t)m->n_sessions * m->kept_requests;
	uint32_t cells = (m->kept_tokens + PLX_TALK_CELL_IDS - 1) / PLX_TALK_CELL_IDS;

	return (struct plx_talk_conf){.n_tokens = m->kept_tokens,
	                              .n_entries = most < cells ? (uint32_t)most : cells,
	                              .per_owner = m->kept_requests,
	                              .n_running = m->n_requests,
	                              .n_samples = m->n_samples};
}

size_t plx_stage_tok_bytes(const struct plx_config *cfg)
{
	size_t evs = plx_links_events(cfg);
	struct plx_talk_conf kept = talk_conf(cfg);

	return plx_talk_bytes(&kept) + plx_tok_best_bytes(cfg) +
	       n_answers(cfg) * (sizeof(struct plx_detok) + tops_bytes(cfg) + 64) + max_text(cfg) +
	       PLX_MESSAGES_MAX * sizeof(struct plx_chat_msg) +
	       plx_tok_segs() * (sizeof(struct plx_chat_seg) + sizeof(struct plx_tok_span) +
	                         sizeof(struct plx_compress_span)) +
	       4 * (size_t)cfg->lim.prompt_tokens + 128 + evs * sizeof(struct plx_ev *) + 1024;
}

static int check_limits(const struct plx_config *cfg, const struct plx_tok *tok, struct plx_diag *d)
{
	const struct plx_cfg_limits *m = &cfg->lim;

	if (m->n_stop > PLX_STOP_MAX || m->stop_bytes > PLX_STOP_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "limits.n_stop is %u and stop_bytes %u; give at most %d and %d",
		                    m->n_stop, m->stop_bytes, PLX_STOP_MAX, PLX_STOP_BYTES);
	if (m->unacked_tokens < m->stop_bytes + WAITING_SPARE)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "limits.unacked_tokens is %u; give at least stop_bytes + %u, "
		                    "since so many may wait for a stop string",
		                    m->unacked_tokens, WAITING_SPARE);
	if (plx_tok_stream_max(tok) > PLX_EV_TEXT)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "the vocabulary has a token of %u bytes; a packet holds %d",
		                    plx_tok_stream_max(tok), PLX_EV_TEXT);
	return 0;
}

static int take_in(struct plx_stage_tok *s, struct plx_arena *a, struct plx_diag *d)
{
	struct plx_tok_in *in = &s->in;

	in->max_text = max_text(s->links->cfg);
	in->text = plx_arena_take(a, in->max_text, 64);
	in->msg = plx_arena_take(a, PLX_MESSAGES_MAX * sizeof(*in->msg), 64);
	in->seg = plx_arena_take(a, plx_tok_segs() * sizeof(*in->seg), 64);
	in->span = plx_arena_take(a, plx_tok_segs() * sizeof(*in->span), 64);
	in->tok_end = plx_arena_take(a, 4 * (size_t)s->links->cfg->lim.prompt_tokens, 64);
	in->free_span = plx_arena_take(a, plx_tok_segs() * sizeof(*in->free_span), 64);
	if (!in->text || !in->msg || !in->seg || !in->span || !in->tok_end || !in->free_span)
		return plx_diag_set(d, PLX_E_NOMEM, "the tok stage's arena is too small");
	return plx_tok_scratch_new(&in->scratch, s->tok, in->max_text, d);
}

static int take_out(struct plx_stage_tok *s, struct plx_arena *a)
{
	const struct plx_config *cfg = s->links->cfg;
	struct plx_tok_out *out = &s->out;
	size_t n = n_answers(cfg);

	out->n_samples = cfg->lim.n_samples;
	out->answer = plx_arena_take(a, n * sizeof(*out->answer), 64);
	out->free_ev = plx_arena_take(a, s->links->n_evs * sizeof(struct plx_ev *), 64);
	if (!out->answer || !out->free_ev)
		return PLX_E_NOMEM;
	for (size_t i = 0; i < n && cfg->lim.n_logprobs > 0; i++) {
		out->answer[i].top = plx_arena_take(a, tops_bytes(cfg), 64);
		if (!out->answer[i].top)
			return PLX_E_NOMEM;
	}
	for (uint32_t i = 0; i < s->links->n_evs; i++)
		out->free_ev[out->n_free++] = &s->links->ev[i];
	return 0;
}

int plx_stage_tok_init(struct plx_stage_tok *s, struct plx_links *links, struct plx_arena *a,
                       const struct plx_tok *tok, const struct plx_chat *chat,
                       struct plx_page *page, struct plx_diag *d)
{
	int e = check_limits(links->cfg, tok, d);

	if (e)
		return e;
	memset(s, 0, sizeof(*s));
	s->links = links;
	s->page = page;
	s->tok = tok;
	s->chat = chat;
	s->slice_ns = links->cfg->tmr.slice_us * PLX_NS_PER_US;
	struct plx_talk_conf kept = talk_conf(links->cfg);

	e = plx_talk_init(&s->talk, a, &kept);
	e = e ? e : take_out(s, a);
	e = e ? e : plx_tok_best_init(s, a);
	if (e)
		return plx_diag_set(d, e, "the tok stage's arena is too small");
	return take_in(s, a, d);
}

void plx_stage_tok_close(struct plx_stage_tok *s)
{
	plx_tok_scratch_free(s->in.scratch);
	s->in.scratch = NULL;
}

/* ---- events ---- */

static void collect_events(struct plx_stage_tok *s)
{
	struct plx_ev *ev;

	for (uint32_t i = 0; i < s->links->n_io; i++)
		while (plx_ring_ev_pop(&s->links->ev_free[i], &ev))
			s->out.free_ev[s->out.n_free++] = ev;
}

static struct plx_ev *take_event(struct plx_stage_tok *s, struct plx_req *r, enum plx_ev_kind kind)
{
	PLX_CHECK(s->out.n_free > 0);
	struct plx_ev *ev = s->out.free_ev[--s->out.n_free];

	ev->req = r;
	ev->kind = (uint8_t)kind;
	ev->io_idx = (uint16_t)r->io_idx;
	ev->last = false;
	ev->sample = ev->n_ids = ev->n_top = ev->text_bytes = 0;
	ev->first_idx = 0;
	ev->device_ns = 0;
	return ev;
}

static void push_event(struct plx_stage_tok *s, struct plx_ev *ev)
{
	ev->out_ns = plx_clock_ns();
	if (ev->kind == PLX_EV_TOKENS)
		plx_req_trace(s->page, ev->req,
		              (struct plx_trace_ev){.ns = ev->out_ns,
		                                    .kind = PLX_TR_TEXT,
		                                    .sample = ev->sample,
		                                    .n = ev->n_ids,
		                                    .index = ev->first_idx,
		                                    .a = ev->device_ns});
	/* The ring holds every event there is. */
	PLX_CHECK(plx_ring_ev_push(&s->links->tok_io[ev->io_idx], &ev));
}

void plx_tok_push_final(struct plx_stage_tok *s, struct plx_req *r)
{
	push_event(s, take_event(s, r, PLX_EV_FINAL));
}

/* ---- out ---- */

void plx_tok_tell_stop(struct plx_stage_tok *s, struct plx_detok *an, const struct plx_req *r,
                       uint16_t sample)
{
	struct plx_note n = {
	    .req_idx = r->idx, .gen = r->gen, .sample = sample, .kind = PLX_NOTE_STOP};

	/* A full ring is no loss: the next token that comes too late tries again. */
	an->told = plx_ring_note_push(&s->links->tok_note, &n);
}

void plx_tok_send_ready(struct plx_stage_tok *s, struct plx_detok *an, struct plx_req *r,
                        uint16_t sample)
{
	for (;;) {
		struct plx_ev *ev = take_event(s, r, PLX_EV_TOKENS);

		ev->sample = sample;
		if (!plx_detok_take(an, ev)) {
			s->out.free_ev[s->out.n_free++] = ev;
			return;
		}
		plx_talk_add(&s->talk, r->idx, sample, ev->id, ev->n_ids);
		push_event(s, ev);
	}
}

static void out_token(struct plx_stage_tok *s, const struct plx_out *o, const struct plx_top *top)
{
	struct plx_req *r = &s->links->req[o->req_idx];
	struct plx_detok *an = plx_tok_answer(s, o->req_idx, o->sample);
	uint64_t begin_ns = plx_clock_ns();

	if (r->view.n_made) {
		plx_tok_best_token(s, o, top);
		return;
	}
	if (an->over) {
		plx_count(s->page, PLX_M_TOK_DISCARDED, 1);
		if (!an->last_sent)
			plx_tok_send_ready(s, an, r, o->sample); /* what the client had ended it */
	} else {
		plx_detok_push(an, o->id, o->logprob, top, o->ns);
		if (o->end)
			plx_detok_end(an);
		plx_count(s->page, PLX_M_TOK_DECODED, 1);
		plx_count(s->page, PLX_M_TOK_STOPS, an->stopped);
		plx_tok_send_ready(s, an, r, o->sample);
	}
	if (an->stopped && !an->told && !o->end)
		plx_tok_tell_stop(s, an, r, o->sample);
	an->busy_ns += plx_clock_ns() - begin_ns;
}

static void out_end(struct plx_stage_tok *s, const struct plx_out *o)
{
	struct plx_detok *an = plx_tok_answer(s, o->req_idx, o->sample);

	if (s->links->req[o->req_idx].view.n_made) {
		plx_tok_best_end(s, o);
		return;
	}
	plx_detok_end(an);
	plx_tok_send_ready(s, an, &s->links->req[o->req_idx], o->sample);
}

static bool owner_is_there(void *links, uint64_t owner)
{
	return plx_session_marked(links, (uint32_t)(owner >> 32), (uint32_t)owner);
}

/* What was done can be continued; what was not, or whose session has gone, can't. */
void plx_tok_keep(struct plx_stage_tok *s, const struct plx_req *r)
{
	struct plx_talk_end e = {.owner = plx_tok_owner(r),
	                         .req_id = r->req_id,
	                         .prompt = r->ids,
	                         .n_prompt = r->n_ids - r->res.compress.n_pruned,
	                         .n_samples = r->view.m.n_samples};

	if (r->res.kind != PLX_FINAL_DONE || !owner_is_there(s->links, e.owner))
		plx_talk_drop(&s->talk, r->idx);
	else if (!plx_talk_keep(&s->talk, r->idx, &e) && s->talk.n_cells > 0)
		plx_count(s->page, PLX_M_TOK_NO_ROOM, 1);
}

static void forget_gone(struct plx_stage_tok *s, uint64_t now_ns)
{
	uint32_t n = s->talk.conf.n_entries / WALK_TURNS;

	if (now_ns - s->walk_ns < WALK_NS)
		return;
	s->walk_ns = now_ns;
	plx_talk_walk(&s->talk, n > WALK_LEAST ? n : WALK_LEAST, owner_is_there, s->links);
}

/* The last word: what was sent of each answer, and why it ended if tok knows better. */
static void out_final(struct plx_stage_tok *s, const struct plx_out *o)
{
	struct plx_req *r = &s->links->req[o->req_idx];
	struct plx_result *res = &r->res;

	if (r->view.n_made) {
		if (!plx_tok_best_final(s, r))
			plx_tok_push_final(s, r);
		return;
	}
	for (uint16_t i = 0; i < r->view.m.n_samples; i++) {
		struct plx_detok *an = plx_tok_answer(s, o->req_idx, i);

		/* A deadline ends answers without a word for each: what waits belongs to them. */
		if (res->kind == PLX_FINAL_DONE && !an->last_sent) {
			plx_detok_end(an);
			plx_tok_send_ready(s, an, r, i);
		}
		res->sample[i].n_tokens = an->n_sent;
		res->ns[PLX_NS_DETOK] += an->busy_ns;
		if (an->stopped)
			res->sample[i].reason = PLX_FINISH_STOP;
	}
	plx_tok_keep(s, r);
	plx_tok_push_final(s, r);
}

static void out_accept(struct plx_stage_tok *s, const struct plx_out *o)
{
	struct plx_req *r = &s->links->req[o->req_idx];
	struct plx_ev *ev = take_event(s, r, PLX_EV_ACCEPTED);

	ev->accept = (struct plx_msg_accept){.queue_position = o->index,
	                                     .est_ttft_us = o->n_top,
	                                     .cached_tokens = (uint32_t)o->id,
	                                     .prompt_tokens = r->n_ids};
	push_event(s, ev);
}

/* Events that a record can lead to. */
static uint32_t events_for(const struct plx_stage_tok *s, const struct plx_out *o)
{
	const struct plx_req *r = &s->links->req[o->req_idx];
	uint32_t n = 1;

	if (o->kind == PLX_OUT_ACCEPT || r->view.n_made)
		return n;
	if (o->kind != PLX_OUT_FINAL)
		return n + plx_detok_events(plx_tok_answer(s, o->req_idx, o->sample));
	for (uint16_t i = 0; i < r->view.m.n_samples; i++) {
		const struct plx_detok *an = plx_tok_answer(s, o->req_idx, i);

		n += an->last_sent ? 0 : plx_detok_events(an);
	}
	return n;
}

static void take_top(struct plx_stage_tok *s, const struct plx_out *o)
{
	struct plx_tok_out *t = &s->out;

	PLX_CHECK(t->opened && t->n_tops < t->open.n_top);
	memcpy(&t->top[t->n_tops], o->top, sizeof(o->top));
	t->n_tops += 3;
	if (t->n_tops < t->open.n_top)
		return;
	t->opened = false;
	out_token(s, &t->open, t->top);
}

static void take_record(struct plx_stage_tok *s, const struct plx_out *o)
{
	switch ((enum plx_out_kind)o->kind) {
	case PLX_OUT_ACCEPT:
		out_accept(s, o);
		break;
	case PLX_OUT_TOKEN:
		if (o->n_top == 0) {
			out_token(s, o, NULL);
			break;
		}
		s->out.open = *o;
		s->out.opened = true;
		s->out.n_tops = 0;
		break;
	case PLX_OUT_TOP:
		take_top(s, o);
		break;
	case PLX_OUT_END:
		out_end(s, o);
		break;
	case PLX_OUT_FINAL:
		out_final(s, o);
		break;
	}
}

/* Fetch a record unless one waits, and see that events are free for it. */
static bool fetch(struct plx_stage_tok *s)
{
	struct plx_tok_out *t = &s->out;

	if (!t->fetched)
		t->fetched = plx_ring_out_pop(&s->links->batch_tok, &t->rec);
	if (!t->fetched)
		return false;
	if (events_for(s, &t->rec) > t->n_free) {
		collect_events(s);
		if (events_for(s, &t->rec) > t->n_free) {
			plx_count(s->page, PLX_M_TOK_WAITS, 1);
			plx_regime_say(s->page, PLX_REGIME_BACKPRESSURED);
			return false;
		}
	}
	t->fetched = false;
	return true;
}

static uint32_t run_out(struct plx_stage_tok *s)
{
	uint64_t at = plx_clock_ns();
	uint32_t n = 0;

	while (at < s->end_ns && fetch(s)) {
		struct plx_out o = s->out.rec;

		take_record(s, &o);
		n++;
		if (n % RECORDS_A_CLOCK == 0)
			at = plx_clock_ns();
	}
	return n;
}

/* ---- the turn ---- */

uint32_t plx_stage_tok_poll(void *state, uint64_t now_ns)
{
	struct plx_stage_tok *s = state;

	s->end_ns = now_ns + s->slice_ns;
	collect_events(s);
	forget_gone(s, now_ns);
	uint32_t work = run_out(s);

	work += plx_tok_best_send(s, now_ns);
	return work + plx_tok_run_in(s);
}
