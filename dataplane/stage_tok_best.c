/* Samples held back until the best of them are known, and then sent; see stage_tok.h. */
#include <string.h>

#include "dataplane/stage_tok_int.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"

#define IDS_A_TURN 64u /* sent of one request */

static struct plx_best_conf conf_of(const struct plx_config *cfg)
{
	return (struct plx_best_conf){.n_units = cfg->lim.best_of_tokens,
	                              .n_running = cfg->lim.n_requests,
	                              .n_samples = cfg->lim.n_samples};
}

size_t plx_tok_best_bytes(const struct plx_config *cfg)
{
	struct plx_best_conf c = conf_of(cfg);
	size_t each = cfg->lim.n_samples * sizeof(uint64_t) + sizeof(struct plx_tok_sending) + 4;

	return plx_best_bytes(&c) + cfg->lim.n_requests * each + 256;
}

int plx_tok_best_init(struct plx_stage_tok *s, struct plx_arena *a)
{
	const struct plx_config *cfg = s->links->cfg;
	struct plx_best_conf c = conf_of(cfg);
	struct plx_tok_best *b = &s->best;
	size_t n = cfg->lim.n_requests;

	b->made_ns = plx_arena_take(a, n * cfg->lim.n_samples * sizeof(*b->made_ns), 64);
	b->sending = plx_arena_take(a, n * sizeof(*b->sending), 64);
	b->ready = plx_arena_take(a, n * sizeof(*b->ready), 64);
	if (!b->made_ns || !b->sending || !b->ready)
		return PLX_E_NOMEM;
	return plx_best_init(&b->store, a, &c);
}

int plx_tok_best_begin(struct plx_stage_tok *s, const struct plx_req *r)
{
	const struct plx_msg_req *m = &r->view.m;
	uint32_t n_top = m->flags & PLX_REQ_LOGPROBS ? m->n_logprobs : 0;

	if (r->view.n_made == 0)
		return 0;
	return plx_best_begin(&s->best.store, r->idx, r->view.n_made, m->max_new, n_top);
}

/* ---- while they are made ---- */

/* What would be sent now counts for the sample, and goes nowhere. */
static void sink(struct plx_stage_tok *s, struct plx_detok *an, uint32_t req_idx, uint32_t sample)
{
	struct plx_ev *ev = &s->best.sunk;

	while (plx_detok_take(an, ev))
		for (uint32_t i = 0; i < ev->n_ids; i++)
			plx_best_count(&s->best.store, req_idx, sample, ev->logprob[i]);
}

void plx_tok_best_token(struct plx_stage_tok *s, const struct plx_out *o, const struct plx_top *top)
{
	static const struct plx_top none[PLX_MAX_TOP];
	const struct plx_req *r = &s->links->req[o->req_idx];
	struct plx_detok *an = plx_tok_answer(s, o->req_idx, o->sample);
	struct plx_top id = {o->id, o->logprob};
	uint64_t begin_ns = plx_clock_ns();

	if (an->over) {
		plx_count(s->page, PLX_M_TOK_DISCARDED, 1);
	} else {
		plx_best_add(&s->best.store, o->req_idx, o->sample, &id, top ? top : none,
		             an->n_top);
		plx_detok_push(an, o->id, o->logprob, top, o->ns);
		if (o->end)
			plx_detok_end(an);
		s->best.made_ns[o->req_idx * s->out.n_samples + o->sample] = o->ns;
		plx_count(s->page, PLX_M_TOK_DECODED, 1);
		plx_count(s->page, PLX_M_TOK_STOPS, an->stopped);
		sink(s, an, o->req_idx, o->sample);
	}
	if (an->stopped && !an->told && !o->end)
		plx_tok_tell_stop(s, an, r, o->sample);
	an->busy_ns += plx_clock_ns() - begin_ns;
}

void plx_tok_best_end(struct plx_stage_tok *s, const struct plx_out *o)
{
	struct plx_detok *an = plx_tok_answer(s, o->req_idx, o->sample);

	plx_detok_end(an);
	sink(s, an, o->req_idx, o->sample);
}

/* ---- the choice ---- */

/* The answer begins anew, to be sent as that of the next sample of the order. */
static void begin_sample(struct plx_stage_tok *s, const struct plx_req *r)
{
	struct plx_tok_sending *g = &s->best.sending[r->idx];

	g->read = (struct plx_best_at){0, 0};
	plx_detok_init(plx_tok_answer(s, r->idx, g->order[g->at]), s->tok, r);
}

/* All samples have ended: why, and what each would have sent. */
static void close_samples(struct plx_stage_tok *s, struct plx_req *r)
{
	for (uint16_t i = 0; i < r->view.n_made; i++) {
		struct plx_detok *an = plx_tok_answer(s, r->idx, i);
		struct plx_msg_done_sample *to = &r->res.sample[i];

		plx_detok_end(an);
		sink(s, an, r->idx, i);
		r->res.ns[PLX_NS_DETOK] += an->busy_ns;
		if (an->stopped)
			to->reason = PLX_FINISH_STOP;
		else if (to->reason == PLX_FINISH_FAULT)
			plx_best_failed(&s->best.store, r->idx, i);
	}
}

static void choose(struct plx_stage_tok *s, struct plx_req *r)
{
	struct plx_tok_sending *g = &s->best.sending[r->idx];
	struct plx_result *res = &r->res;
	struct plx_msg_done_sample was[PLX_SAMPLES_MAX];

	close_samples(s, r);
	plx_best_rank(&s->best.store, r->idx, r->view.n_made, g->order);
	memcpy(was, res->sample, sizeof(was));
	for (uint16_t i = 0; i < r->view.m.n_samples; i++) {
		res->sample[i] = was[g->order[i]];
		res->sample[i].n_tokens = 0;
		res->mean[i] = plx_best_mean(&s->best.store, r->idx, g->order[i]);
	}
	res->best.n_made = r->view.n_made;
	res->best.n_tokens = plx_best_ids(&s->best.store, r->idx, r->view.n_made);
}

bool plx_tok_best_final(struct plx_stage_tok *s, struct plx_req *r)
{
	struct plx_tok_sending *g = &s->best.sending[r->idx];

	if (r->res.kind != PLX_FINAL_DONE) {
		for (uint16_t i = 0; i < r->view.m.n_samples; i++)
			r->res.sample[i].n_tokens = 0;
		plx_tok_keep(s, r);
		plx_best_end(&s->best.store, r->idx);
		return false;
	}
	choose(s, r);
	g->at = 0;
	g->n_sent = 0;
	g->n_acked = 0;
	g->since_ns = plx_clock_ns();
	begin_sample(s, r);
	s->best.ready[s->best.n_ready++] = r->idx;
	return true;
}

/* ---- sending ---- */

/* Ids of all samples that the client has. B1: pairs with plx_note_window. */
static uint64_t acked(const struct plx_stage_tok *s, const struct plx_req *r)
{
	uint32_t unacked = s->links->cfg->lim.unacked_tokens;
	uint64_t n = 0;

	for (uint32_t i = 0; i < r->view.m.n_samples; i++) {
		uint32_t w = atomic_load_explicit(&r->window[i], memory_order_relaxed);

		n += w > unacked ? w - unacked : 0;
	}
	return n;
}

/* Whether more may be sent; else how long it has been so is looked at. */
static bool open_to(struct plx_stage_tok *s, struct plx_req *r, uint32_t n_sent, uint64_t now_ns)
{
	struct plx_tok_sending *g = &s->best.sending[r->idx];
	uint64_t n = acked(s, r);

	if (n > g->n_acked) {
		g->n_acked = n;
		g->since_ns = now_ns;
	}
	return n_sent < n + s->links->cfg->lim.unacked_tokens;
}

/* The next id of the sample that goes out, or its end. */
static void push_next(struct plx_stage_tok *s, const struct plx_req *r, struct plx_detok *an)
{
	struct plx_tok_sending *g = &s->best.sending[r->idx];
	uint16_t from = g->order[g->at];
	struct plx_top id, top[PLX_MAX_TOP];

	if (an->over || !plx_best_next(&s->best.store, r->idx, from, &g->read, &id)) {
		plx_detok_end(an);
		return;
	}
	for (uint32_t i = 0; i < an->n_top; i++)
		PLX_CHECK(plx_best_next(&s->best.store, r->idx, from, &g->read, &top[i]));
	plx_detok_push(an, id.id, id.logprob, top,
	               s->best.made_ns[r->idx * s->out.n_samples + from]);
}

/* Sends what may go; true: all is out. */
static bool send(struct plx_stage_tok *s, struct plx_req *r, uint64_t now_ns, uint32_t *n)
{
	struct plx_tok_sending *g = &s->best.sending[r->idx];

	for (uint32_t k = 0; k < IDS_A_TURN && g->at < r->view.m.n_samples; k++) {
		struct plx_detok *an = plx_tok_answer(s, r->idx, g->order[g->at]);

		if (s->out.n_free <= plx_detok_events(an) ||
		    !open_to(s, r, g->n_sent + an->n_sent, now_ns))
			break;
		push_next(s, r, an);
		plx_tok_send_ready(s, an, r, g->at);
		r->res.sample[g->at].n_tokens = an->n_sent;
		(*n)++;
		if (!an->last_sent)
			continue;
		g->n_sent += an->n_sent;
		if (++g->at < r->view.m.n_samples)
			begin_sample(s, r);
	}
	return g->at == r->view.m.n_samples;
}

/* Whether the request is over, as it is then. */
static bool is_over(struct plx_stage_tok *s, struct plx_req *r, uint64_t now_ns, uint32_t *n)
{
	uint8_t cause = plx_tok_cancelled(s, r);
	uint64_t pause_ns = s->links->cfg->tmr.pause_ms * PLX_NS_PER_MS;

	if (!cause && send(s, r, now_ns, n))
		return true;
	if (!cause && now_ns > s->best.sending[r->idx].since_ns + pause_ns)
		cause = PLX_CANCEL_SLOW;
	if (cause) {
		r->res.kind = PLX_FINAL_CANCELLED;
		r->res.cause = cause;
	}
	return cause != 0;
}

uint32_t plx_tok_best_send(struct plx_stage_tok *s, uint64_t now_ns)
{
	struct plx_tok_best *b = &s->best;
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->n_ready;) {
		struct plx_req *r = &s->links->req[b->ready[i]];

		if (s->out.n_free == 0)
			break;
		if (!is_over(s, r, now_ns, &n) || s->out.n_free == 0) {
			i++;
			continue;
		}
		plx_tok_keep(s, r);
		plx_best_end(&b->store, r->idx);
		b->ready[i] = b->ready[--b->n_ready];
		plx_tok_push_final(s, r);
		n++;
	}
	return n;
}
