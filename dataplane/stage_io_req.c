/*
 * Requests. (session, req_id) runs at most once: the slot of an id says what became of it, and an
 * id is charged against credit once, when its first fragment or its CANCEL is first accepted.
 * Every id that was charged ends in exactly one final message.
 */
#include <string.h>

#include "dataplane/probe.h"
#include "dataplane/stage_io_state.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/tick.h"

/* The slot of an id that was charged and is not forgotten, also when the window has moved past it:
 * an answer is owed until it is acknowledged. */
static struct plx_slot *known(const struct plx_session *s, uint64_t req_id)
{
	struct plx_slot *slot = &s->slot[req_id % s->window.span];

	return slot->req_id == req_id && slot->state != PLX_SLOT_EMPTY ? slot : NULL;
}

/* ---- ends ---------------------------------------------------------------------------------- */

/* The last word on a request, as it goes to the client. */
static void trace_gone(struct plx_stage_io *io, const struct plx_session *s,
                       const struct plx_answer *a, uint8_t kind, uint8_t code)
{
	struct plx_trace_ev ev = {.ns = plx_tick_ns(),
	                          .kind = PLX_TR_REQ_GONE,
	                          .session = s->id,
	                          .req_id = s->slot[a->slot].req_id,
	                          .n = kind,
	                          .index = code};

	plx_trace(io->page, &ev);
	if (kind == PLX_FINAL_REJECT)
		PLX_PROBE3(request_reject, ev.session, ev.req_id, code);
}

/* The final message stands in a: flush what waits and send it. */
static void finish(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a)
{
	s->slot[a->slot].state = PLX_SLOT_ENDED;
	a->ended_ns = io->now_ns;
	for (uint16_t i = 0; i < a->n_streams; i++)
		if (a->stream[i].unsent != 0)
			plx_io_tokens(io, s, a, i);
	plx_io_final(io, s, a);
}

static void write_reject(struct plx_answer *a, int err, uint16_t option, uint32_t retry_us,
                         const struct plx_msg_load *load, const char *detail)
{
	struct plx_msg_reject m = {.code = plx_err_wire(err),
	                           .option = option,
	                           .retry_after_us = retry_us,
	                           .load = *load,
	                           .detail_bytes = (uint16_t)strlen(detail)};
	int n = plx_msg_reject_encode(a->final_msg, sizeof(a->final_msg), &m, detail);

	PLX_CHECK(n > 0);
	a->final_type = PLX_T_REJECT;
	a->final_bytes = (uint16_t)n;
}

/* Refuse a request that tok never saw. */
static void reject(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a, int err,
                   const struct plx_req_fault *f)
{
	struct plx_msg_load load = plx_load_read(io->links);
	bool again = err == PLX_E_QUEUE_FULL || err == PLX_E_KV_PRESSURE;

	write_reject(a, err, f != NULL ? f->option : 0, again ? plx_load_retry_us(io->links) : 0,
	             &load, f != NULL ? f->detail : "");
	plx_count_reject(io->page, err);
	trace_gone(io, s, a, PLX_FINAL_REJECT, plx_err_wire(err));
	finish(io, s, a);
}

static void write_cancelled(struct plx_answer *a, uint8_t cause, const struct plx_result *res,
                            uint16_t n_samples)
{
	struct plx_msg_cancelled m = {.cause = cause, .n_samples = n_samples};
	uint32_t n_tokens[PLX_SAMPLES_MAX] = {0};

	if (res != NULL)
		m.prompt_tokens = res->prompt_tokens;
	for (uint16_t i = 0; res != NULL && i < n_samples; i++)
		n_tokens[i] = res->sample[i].n_tokens;
	int n = plx_msg_cancelled_encode(a->final_msg, sizeof(a->final_msg), &m, n_tokens);

	PLX_CHECK(n > 0);
	a->final_type = PLX_T_CANCELLED;
	a->final_bytes = (uint16_t)n;
}

static void write_done(const struct plx_stage_io *io, struct plx_answer *a, const struct plx_req *r)
{
	const struct plx_result *res = &r->res;
	bool compressed = r->view.compress.by != 0;
	struct plx_msg_done_tail tail = {
	    .compress = res->compress, .best = res->best, .sparse = res->sparse};
	struct plx_msg_done m = {
	    .n_samples = r->view.m.n_samples,
	    .flags = (uint16_t)((res->kind_changed ? PLX_DONE_KIND_CHANGED : 0) |
	                        (compressed ? PLX_DONE_COMPRESSED : 0) |
	                        (r->view.n_made ? PLX_DONE_BEST : 0) |
	                        (r->view.features & PLX_FEAT_SPARSE ? PLX_DONE_SPARSE : 0)),
	    .numeric_kind = res->numeric_kind ? res->numeric_kind : io->sh->conf.numeric_kind,
	    .prompt_tokens = res->prompt_tokens,
	    .cached_tokens = res->cached_tokens};

	memcpy(m.ns, res->ns, sizeof(m.ns));
	m.ns[PLX_NS_RX] = r->whole_ns - r->rx_ns;
	m.ns[PLX_NS_TX] = a->wait_ns;
	m.ns[PLX_NS_TTFT] = a->first_token_ns != 0 ? a->first_token_ns - r->whole_ns : 0;
	memcpy(tail.mean, res->mean, sizeof(tail.mean));
	int n = plx_msg_done_encode(a->final_msg, sizeof(a->final_msg), &m, res->sample, &tail);

	PLX_CHECK(n > 0);
	a->final_type = PLX_T_DONE;
	a->final_bytes = (uint16_t)n;
}

/* ---- a new request ------------------------------------------------------------------------- */

/* Take over the slot of an id that is new; NULL: over credit, or the slot is still needed. */
static struct plx_slot *claim(struct plx_stage_io *io, struct plx_session *s, uint64_t req_id,
                              uint32_t at, uint32_t packets)
{
	struct plx_slot *slot = &s->slot[at];

	if (slot->state != PLX_SLOT_EMPTY && slot->state != PLX_SLOT_SETTLED) {
		plx_count(io->page, PLX_M_REQ_BEYOND, 1);
		return NULL;
	}
	if (plx_credit_rx_charge(&s->credit, packets) != PLX_E_OK) {
		plx_count(io->page, PLX_M_REQ_NO_CREDIT, 1);
		return NULL;
	}
	*slot = (struct plx_slot){
	    .req_id = req_id, .rx_ns = io->now_ns, .packets = packets, .state = PLX_SLOT_PARTIAL};
	plx_req_window_move(&s->window, req_id);
	PLX_CHECK(plx_session_answer(s, at) != NULL);
	return slot;
}

static void fill_request(struct plx_stage_io *io, struct plx_session *s, struct plx_slot *slot,
                         struct plx_req *r, uint8_t prio)
{
	const struct plx_msg_req *m = &r->view.m;

	r->io_idx = io->idx;
	r->session_id = s->id;
	plx_session_mark(io->links, io->idx, s->id, true);
	r->req_id = slot->req_id;
	r->tenant = s->tenant;
	r->tenant_kv_blocks = s->tenant_kv_blocks;
	r->share_prefix = s->share_prefix;
	r->priority = prio < s->max_priority ? prio : s->max_priority;
	r->rx_ns = slot->rx_ns;
	r->whole_ns = io->now_ns;
	r->deadline_ns = m->deadline_us != 0 ? io->now_ns + m->deadline_us * PLX_NS_PER_US : 0;
}

/* The answer's streams, now that the number of samples is known. What a client resumes behind was
 * acknowledged, elsewhere. */
static void open_streams(struct plx_stage_io *io, struct plx_answer *a, const struct plx_req *r)
{
	a->n_streams = r->view.m.n_samples;
	memset(a->stream, 0, a->n_streams * sizeof(a->stream[0]));
	for (uint16_t i = 0; i < a->n_streams; i++) {
		(void)plx_req_resumed(&r->view, i, &a->stream[i].end_idx);
		a->stream[i].acked_idx = a->stream[i].end_idx;
	}
	a->prio = r->priority;
	a->logprobs = (r->view.m.flags & PLX_REQ_LOGPROBS) != 0;
	a->whole_ns = a->progress_ns = io->now_ns;
}

/* A whole message: decode it, hand it to tok, or say why not. */
static void whole(struct plx_stage_io *io, struct plx_session *s, struct plx_slot *slot,
                  const uint8_t *msg, uint32_t bytes, uint8_t prio)
{
	struct plx_answer *a = slot->ans;
	struct plx_req_fault fault;
	struct plx_req *r;

	if (io->draining) {
		reject(io, s, a, PLX_E_DRAINING, NULL);
		return;
	}
	if (bytes > s->limits.max_request_bytes) {
		reject(io, s, a, PLX_E_TOO_LARGE, NULL);
		return;
	}
	r = plx_req_take(io->links);
	if (r == NULL) {
		plx_count(io->page, PLX_M_REQ_NO_ROOM, 1);
		reject(io, s, a, PLX_E_QUEUE_FULL, NULL);
		return;
	}
	plx_count(io->page, PLX_M_REQ_OPENED, 1);
	memcpy(r->body, msg, bytes);
	int err = plx_req_decode(&r->view, r->body, bytes, &s->limits,
	                         (uint32_t)io->sh->conf.features, &fault);

	if (err != PLX_E_OK) {
		plx_req_give(io->links, r);
		reject(io, s, a, fault.err, &fault);
		return;
	}
	fill_request(io, s, slot, r, prio);
	open_streams(io, a, r);
	slot->req = r;
	slot->state = PLX_SLOT_RUNNING;
	plx_req_trace(io->page, r,
	              (struct plx_trace_ev){
			  .ns = io->now_ns, .kind = PLX_TR_REQ_WHOLE, .n = bytes, .a = r->rx_ns});
	PLX_PROBE3(request_begin, r->session_id, r->req_id, bytes);
	if (plx_req_push(io->links, r))
		return;
	plx_count(io->page, PLX_M_REQ_RING_FULL, 1);
	slot->req = NULL;
	a->n_streams = 0;
	plx_req_give(io->links, r);
	reject(io, s, a, PLX_E_QUEUE_FULL, NULL);
}

/* ---- fragments ----------------------------------------------------------------------------- */

static void ack_whole(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h)
{
	struct plx_msg_ack_entry e = plx_ack_whole(h->type, h->req_id, h->frag_count);

	plx_conn_ack(&s->conn, &e, true, io->now_ns);
}

/* A request whose message has come before: acknowledge again, and repeat the stored answer. */
static void repeated(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                     struct plx_slot *slot)
{
	struct plx_answer *a = slot->ans;

	plx_count(io->page, PLX_M_REQ_REPEATED, 1);
	ack_whole(io, s, h);
	if (a == NULL || !(plx_hdr_flags(h) & PLX_F_RETX) || h->frag_idx != 0)
		return;
	if (a->accept == PLX_LEG_OPEN)
		plx_io_accept(io, s, a);
	if (a->final == PLX_LEG_OPEN)
		plx_io_final(io, s, a);
}

/* An id below the window never runs; the client is told each time it asks. */
static void below(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h)
{
	static const char why[] = "the request id is below the window";
	struct plx_msg_reject m = {.code = plx_err_wire(PLX_E_BAD_REQUEST),
	                           .load = plx_load_read(io->links),
	                           .detail_bytes = sizeof(why) - 1};
	uint8_t p[sizeof(m) + sizeof(why)];
	int n = plx_msg_reject_encode(p, sizeof(p), &m, why);

	plx_count(io->page, PLX_M_REQ_BELOW, 1);
	if (n > 0 && h->frag_idx == 0)
		(void)plx_io_say(io, s, PLX_T_REJECT, 0, h->req_id, p, (uint32_t)n);
}

static void one_fragment(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                         const uint8_t *payload, struct plx_slot *slot)
{
	slot->frag_count = 1;
	ack_whole(io, s, h);
	whole(io, s, slot, payload, h->payload_bytes, plx_hdr_prio(h));
}

static void a_fragment(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                       const uint8_t *payload, struct plx_slot *slot)
{
	struct plx_msg_ack_entry e;
	struct plx_reasm_whole w;
	int rc = plx_reasm_add(&io->reasm, &s->reasm, h, payload, io->now_ns, &w);

	if (rc == PLX_REASM_DONE) {
		slot->frag_count = w.frag_count;
		ack_whole(io, s, h);
		whole(io, s, slot, w.buf, w.msg_bytes, w.prio);
		plx_pieces_give(&io->pieces, w.buf);
		return;
	}
	if (rc == PLX_E_TOO_LARGE) {
		reject(io, s, slot->ans, PLX_E_TOO_LARGE, NULL);
		return;
	}
	if (rc != PLX_REASM_MORE)
		plx_count(io->page, PLX_M_REQ_REASM, 1);
	if (plx_reasm_state(&io->reasm, &s->reasm, h->type, h->req_id, &e) == PLX_E_OK)
		plx_conn_ack(&s->conn, &e, (plx_hdr_flags(h) & PLX_F_ACK_REQ) != 0, io->now_ns);
}

/* First sight of an id. Only fragment 0 says how large the message is, and only it begins one. */
static struct plx_slot *begin(struct plx_stage_io *io, struct plx_session *s,
                              const struct plx_hdr *h, const uint8_t *payload, uint32_t at)
{
	struct plx_msg_req m;

	if (h->frag_idx != 0) {
		plx_count(io->page, PLX_M_REQ_REASM, 1);
		return NULL;
	}
	uint32_t bytes = h->payload_bytes;

	if (plx_req_peek(&m, payload, h->payload_bytes) == PLX_E_OK && h->frag_count > 1)
		bytes = m.message_bytes;
	/* What is too large is rejected, for which one packet of credit is enough. */
	if (bytes > s->limits.max_request_bytes)
		bytes = 0;
	struct plx_slot *slot = claim(io, s, h->req_id, at, plx_credit_packets(bytes));

	if (slot == NULL)
		return NULL;
	if (h->frag_count > 1 && bytes == 0) {
		reject(io, s, slot->ans, PLX_E_TOO_LARGE, NULL);
		return NULL;
	}
	return slot;
}

void plx_io_req(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                const uint8_t *payload)
{
	struct plx_slot *slot = known(s, h->req_id);
	uint32_t at;

	if (slot == NULL) {
		switch (plx_req_window_place(&s->window, h->req_id, &at)) {
		case PLX_REQ_BELOW:
			below(io, s, h);
			return;
		case PLX_REQ_BEYOND:
			plx_count(io->page, PLX_M_REQ_BEYOND, 1);
			return;
		case PLX_REQ_NEW:
			slot = begin(io, s, h, payload, at);
			break;
		}
		if (slot == NULL)
			return;
	}
	if (slot->state != PLX_SLOT_PARTIAL)
		repeated(io, s, h, slot);
	else if (h->frag_count == 1)
		one_fragment(io, s, h, payload, slot);
	else
		a_fragment(io, s, h, payload, slot);
}

/* The client was told of fragments that came and will not send them again: so it must be told. */
bool plx_io_expire(struct plx_stage_io *io)
{
	struct plx_reasm_gone gone;

	if (!plx_reasm_expire_next(&io->reasm, io->now_ns, &gone))
		return false;
	char *owner = (char *)gone.session - offsetof(struct plx_session, reasm);
	struct plx_session *s = (struct plx_session *)(void *)owner;

	plx_count(io->page, PLX_M_REQ_REASM, 1);
	struct plx_slot *slot = known(s, gone.req_id);

	if (slot != NULL && slot->state == PLX_SLOT_PARTIAL)
		reject(io, s, slot->ans, PLX_E_QUEUE_FULL, NULL);
	return true;
}

/* ---- CANCEL -------------------------------------------------------------------------------- */

/* A CANCEL before its REQ: the id is used up and will never run. */
static struct plx_slot *tombstone(struct plx_stage_io *io, struct plx_session *s,
                                  const struct plx_hdr *h, const uint8_t *payload, uint32_t at)
{
	struct plx_msg_cancel m;

	if (plx_msg_get(PLX_T_CANCEL, &m, sizeof(m), payload, h->payload_bytes) != PLX_E_OK) {
		plx_count(io->page, PLX_M_IO_DROP_MESSAGE, 1);
		return NULL;
	}
	struct plx_slot *slot = claim(io, s, h->req_id, at, m.packets);

	if (slot != NULL)
		plx_count(io->page, PLX_M_REQ_TOMBSTONES, 1);
	return slot;
}

void plx_io_cancel(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                   const uint8_t *payload)
{
	struct plx_slot *slot = known(s, h->req_id);
	uint32_t at;

	if (slot == NULL) {
		enum plx_req_place place = plx_req_window_place(&s->window, h->req_id, &at);

		if (place == PLX_REQ_BEYOND)
			plx_count(io->page, PLX_M_REQ_BEYOND, 1);
		else if (place == PLX_REQ_BELOW)
			ack_whole(io, s, h); /* long over: nothing to cancel */
		else
			slot = tombstone(io, s, h, payload, at);
		if (slot == NULL)
			return;
	}
	ack_whole(io, s, h);
	if (slot->state == PLX_SLOT_RUNNING) {
		plx_req_cancel(slot->req, PLX_CANCEL_CLIENT);
	} else if (slot->state == PLX_SLOT_PARTIAL) {
		(void)plx_reasm_drop(&io->reasm, &s->reasm, PLX_T_REQ, h->req_id);
		write_cancelled(slot->ans, PLX_CANCEL_CLIENT, NULL, 0);
		finish(io, s, slot->ans);
	}
}

/* ---- acknowledgements ---------------------------------------------------------------------- */

static struct plx_answer *answer_of(const struct plx_session *s, uint64_t req_id)
{
	const struct plx_slot *slot = known(s, req_id);

	return slot != NULL ? slot->ans : NULL;
}

/* What was repeated in packet retx_pkt is acknowledged by a client that had not seen that one. */
static void repeated_in_vain(struct plx_stage_io *io, uint64_t *retx_pkt, uint64_t largest)
{
	if (*retx_pkt > largest)
		plx_count(io->page, PLX_M_TX_SPURIOUS, 1);
	*retx_pkt = 0;
}

static void acked(struct plx_stage_io *io, struct plx_session *s, const struct plx_msg_ack_entry *e,
                  uint64_t largest)
{
	struct plx_answer *a;

	if (e->type == PLX_T_MODELS || e->type == PLX_T_DRAIN) {
		uint64_t in_vain = s->outbox.n_spurious;
		struct plx_outmsg *o =
		    plx_outbox_ack(&s->outbox, e, largest, &s->conn.rtt, io->now_ns);

		plx_count(io->page, PLX_M_TX_SPURIOUS, s->outbox.n_spurious - in_vain);
		if (o != NULL)
			plx_outbox_remove(&s->outbox, o);
		return;
	}
	a = answer_of(s, e->req_id);
	if (a == NULL || e->first_missing == 0)
		return;
	if (e->type == PLX_T_ACCEPT && a->accept == PLX_LEG_OPEN) {
		a->accept = PLX_LEG_ACKED;
		repeated_in_vain(io, &a->accept_pkt, largest);
		plx_retx_stop(&a->accept_timer);
	} else if (e->type == a->final_type && a->final == PLX_LEG_OPEN) {
		a->final = PLX_LEG_ACKED;
		repeated_in_vain(io, &a->final_pkt, largest);
		plx_retx_stop(&a->final_timer);
		plx_retx_stop(&a->accept_timer);
		plx_io_settle(io, s, a);
	}
}

int plx_io_ack(struct plx_stage_io *io, struct plx_session *s, const uint8_t *payload,
               uint32_t bytes)
{
	struct plx_msg_ack_entry e[PLX_ACK_MAX];
	struct plx_msg_ack_head head;

	if (plx_msg_ack_decode(&head, e, payload, bytes) != PLX_E_OK)
		return PLX_E_FORMAT;
	plx_conn_acked(&s->conn, &head, io->now_ns);
	for (uint32_t i = 0; i < head.n_entries; i++)
		acked(io, s, &e[i], head.largest_pkt_num);
	return PLX_E_OK;
}

static void tokens_acked(struct plx_stage_io *io, struct plx_session *s,
                         const struct plx_msg_tok_ack_entry *e, uint64_t largest)
{
	struct plx_answer *a = answer_of(s, e->req_id);

	if (a == NULL || e->sample >= a->n_streams)
		return;
	struct plx_stream *st = &a->stream[e->sample];

	if (plx_stream_ack(&io->cells, st, e->next_idx, (e->flags & PLX_TOK_ACK_LAST) != 0)) {
		const struct plx_req *r = s->slot[a->slot].req;

		a->progress_ns = io->now_ns;
		repeated_in_vain(io, &st->retx_pkt, largest);
		if (plx_stream_sent_unacked(st)) {
			plx_retx_progress(&st->timer, &s->conn.rtt, io->now_ns);
			if (st->timer.deadline_ns < s->retx_ns)
				s->retx_ns = st->timer.deadline_ns;
		} else {
			plx_retx_stop(&st->timer);
		}
		if (r != NULL && !plx_note_window(io->links, r, e->sample,
		                                  st->acked_idx + io->cfg->lim.unacked_tokens)) {
			a->note_due = true;
			s->flush_ns = io->now_ns;
		}
		plx_io_settle(io, s, a);
	}
	if (answer_of(s, e->req_id) == a && e->flags & PLX_TOK_ACK_RESEND) {
		plx_stream_rewind(st);
		if (st->resend != 0)
			plx_io_tokens(io, s, a, e->sample);
	}
}

int plx_io_tok_ack(struct plx_stage_io *io, struct plx_session *s, const uint8_t *payload,
                   uint32_t bytes)
{
	struct plx_msg_tok_ack_entry e[PLX_ACK_MAX];
	struct plx_msg_ack_head head;

	if (plx_msg_tok_ack_decode(&head, e, payload, bytes) != PLX_E_OK)
		return PLX_E_FORMAT;
	plx_conn_acked(&s->conn, &head, io->now_ns);
	for (uint32_t i = 0; i < head.n_entries; i++)
		tokens_acked(io, s, &e[i], head.largest_pkt_num);
	return PLX_E_OK;
}

/* ---- events -------------------------------------------------------------------------------- */

static void on_tokens(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a,
                      const struct plx_ev *ev)
{
	struct plx_stream *st = &a->stream[ev->sample];
	uint64_t wait_ns = io->cfg->tmr.coalesce_us * PLX_NS_PER_US;

	if (a->overrun || ev->sample >= a->n_streams)
		return;
	if (io->now_ns > ev->out_ns) {
		a->wait_ns += io->now_ns - ev->out_ns;
		plx_hist_add(&io->page->hist[PLX_H_TX_WAIT], io->now_ns - ev->out_ns);
	}
	plx_req_trace(io->page, ev->req,
	              (struct plx_trace_ev){.ns = plx_tick_ns(),
	                                    .kind = PLX_TR_TAKEN_TX,
	                                    .sample = ev->sample,
	                                    .n = ev->n_ids,
	                                    .index = ev->first_idx,
	                                    .a = ev->device_ns,
	                                    .b = ev->out_ns});
	if (st->oldest == 0)
		a->progress_ns = io->now_ns; /* nothing was owed until now */
	int err = plx_stream_put(&io->cells, st, ev, a->logprobs, io->now_ns);

	if (err != PLX_E_OK) {
		PLX_DCHECK(err == PLX_E_FULL);
		a->overrun = true;
		plx_count(io->page, PLX_M_REQ_SLOW, 1);
		plx_req_cancel(ev->req, PLX_CANCEL_SLOW);
		return;
	}
	if (st->n_msgs == 0 || ev->last || wait_ns == 0 || io->now_ns - st->since_ns >= wait_ns)
		plx_io_tokens(io, s, a, ev->sample);
	else if (st->since_ns + wait_ns < s->flush_ns)
		s->flush_ns = st->since_ns + wait_ns;
	plx_io_touch(io, s);
}

static void on_final(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a,
                     struct plx_req *r)
{
	const struct plx_result *res = &r->res;

	s->slot[a->slot].req = NULL;
	if (res->kind == PLX_FINAL_DONE)
		write_done(io, a, r);
	else if (res->kind == PLX_FINAL_REJECT)
		write_reject(a, res->err, res->option, res->retry_after_us, &res->load,
		             res->detail);
	else
		write_cancelled(a, res->cause, res, r->view.m.n_samples);
	if (io->now_ns > r->whole_ns)
		plx_hist_add(&io->page->hist[PLX_H_E2E], io->now_ns - r->whole_ns);
	trace_gone(io, s, a, res->kind, plx_err_wire(res->err));
	if (res->kind != PLX_FINAL_REJECT)
		PLX_PROBE4(request_end, r->session_id, r->req_id, io->now_ns - r->whole_ns,
		           res->kind);
	finish(io, s, a);
}

void plx_io_event(struct plx_stage_io *io, struct plx_ev *ev)
{
	struct plx_req *r = ev->req;
	struct plx_session *s = plx_sessions_find(&io->sessions, r->session_id);
	struct plx_answer *a = s != NULL ? answer_of(s, r->req_id) : NULL;

	if (a == NULL || s->slot[a->slot].req != r) {
		plx_count(io->page, PLX_M_REQ_STALE, 1); /* its session has gone */
	} else if (ev->kind == PLX_EV_ACCEPTED) {
		a->accept_msg = ev->accept;
		plx_io_accept(io, s, a);
	} else if (ev->kind == PLX_EV_TOKENS) {
		on_tokens(io, s, a, ev);
	} else {
		on_final(io, s, a, r);
	}
	if (ev->kind == PLX_EV_FINAL)
		plx_req_give(io->links, r);
}
