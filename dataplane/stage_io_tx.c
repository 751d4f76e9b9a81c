/*
 * Packets out. What must arrive is kept by its answer and sent again when its timer runs out; the
 * session keeps the earliest of those timers, so that a turn without one costs nothing.
 */
#include <string.h>

#include "dataplane/stage_io_state.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"

#define PROBE_DOUBLINGS  4u /* of the messages that a timeout repeats: at most 16 */
#define NO_MBUF_WAIT_NS  UINT64_C(100000)
#define TOKENS_ACK_EVERY 16u /* a round-trip sample out of so many TOKENS messages */

void plx_io_flush(struct plx_stage_io *io)
{
	if (io->n_tx == 0)
		return;
	uint16_t sent = plx_port_tx(io->port, io->queue, io->tx, io->n_tx);

	plx_count(io->page, PLX_M_IO_TX, sent);
	if (sent < io->n_tx)
		plx_count(io->page, PLX_M_IO_TX_FULL, (uint64_t)(io->n_tx - sent));
	io->n_tx = 0;
}

void plx_io_queue(struct plx_stage_io *io, struct rte_mbuf *m)
{
	io->tx[io->n_tx++] = m;
	if (io->n_tx == PLX_IO_TX)
		plx_io_flush(io);
}

bool plx_io_begin(struct plx_stage_io *io, const struct plx_net_peer *to, struct plx_io_pkt *t)
{
	t->m = rte_pktmbuf_alloc(io->port->pool);
	if (PLX_UNLIKELY(t->m == NULL)) {
		plx_count(io->page, PLX_M_IO_NO_MBUF, 1);
		return false;
	}
	t->pkt = rte_pktmbuf_mtod(t->m, uint8_t *) + plx_net_hdr_bytes(to);
	return true;
}

void plx_io_commit(struct plx_stage_io *io, const struct plx_net_peer *to, struct plx_io_pkt *t,
                   uint32_t bytes)
{
	if (bytes == 0) {
		rte_pktmbuf_free(t->m);
		return;
	}
	uint32_t frame =
	    plx_net_output(&io->port->net, to, rte_pktmbuf_mtod(t->m, uint8_t *), bytes);

	t->m->data_len = (uint16_t)frame;
	t->m->pkt_len = frame;
	plx_io_queue(io, t->m);
}

void plx_io_raw(struct plx_stage_io *io, const struct plx_net_peer *to, const uint8_t *pkt,
                uint32_t bytes)
{
	struct plx_io_pkt t;

	if (!plx_io_begin(io, to, &t))
		return;
	memcpy(t.pkt, pkt, bytes);
	plx_io_commit(io, to, &t, bytes);
}

/* Seal what stands at t and send it. */
static bool seal(struct plx_stage_io *io, struct plx_session *s, const struct plx_net_peer *to,
                 struct plx_hdr *h, struct plx_io_pkt *t)
{
	int n = plx_conn_seal(&s->conn, &io->crypt, h, t->pkt, io->now_ns);

	if (PLX_UNLIKELY(n < 0)) {
		s->conn.closed =
		    true; /* no packet number is left: looked after at the turn's end */
		plx_io_touch(io, s);
		plx_io_commit(io, to, t, 0);
		return false;
	}
	plx_io_commit(io, to, t, (uint32_t)n);
	return true;
}

static bool say(struct plx_stage_io *io, struct plx_session *s, const struct plx_net_peer *to,
                struct plx_hdr *h, const void *payload)
{
	struct plx_io_pkt t;

	if (!plx_io_begin(io, to, &t))
		return false;
	memcpy(t.pkt + PLX_HDR_BYTES, payload, h->payload_bytes);
	return seal(io, s, to, h, &t);
}

bool plx_io_say(struct plx_stage_io *io, struct plx_session *s, uint8_t type, uint8_t flags,
                uint64_t req_id, const void *payload, uint32_t bytes)
{
	struct plx_hdr h = {.type = type,
	                    .req_id = req_id,
	                    .frag_count = 1,
	                    .payload_bytes = (uint16_t)bytes,
	                    .prio_flags = plx_hdr_pack_prio(0, flags)};

	return say(io, s, &s->peer, &h, payload);
}

void plx_io_challenge(struct plx_stage_io *io, struct plx_session *s)
{
	struct plx_msg_path m = {.nonce = s->path.nonce};

	struct plx_hdr h = {
	    .type = PLX_T_PATH_CHALLENGE, .frag_count = 1, .payload_bytes = sizeof(m)};

	if (plx_path_may_send(&s->path, sizeof(m) + PLX_SEAL_BYTES))
		(void)say(io, s, &s->cand, &h, &m);
}

void plx_io_credit(struct plx_stage_io *io, struct plx_session *s)
{
	struct plx_msg_credit m = plx_credit_rx_now(&s->credit);

	s->credit_due = !plx_io_say(io, s, PLX_T_CREDIT, 0, 0, &m, sizeof(m));
}

/* ---- answers ------------------------------------------------------------------------------- */

static void arm(struct plx_stage_io *io, struct plx_session *s, struct plx_retx *t)
{
	plx_retx_arm(t, &s->conn.rtt, io->now_ns);
	if (t->deadline_ns < s->retx_ns)
		s->retx_ns = t->deadline_ns;
}

static uint8_t flags_of(const struct plx_retx *t)
{
	return t->n_timeouts > 0 ? PLX_F_ACK_REQ | PLX_F_RETX : PLX_F_ACK_REQ;
}

/* The number of the packet that was sealed last. */
static uint64_t last_pkt(const struct plx_session *s)
{
	return s->conn.tx_pkt_num - 1;
}

void plx_io_accept(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a)
{
	a->accept = PLX_LEG_OPEN;
	uint8_t flags = flags_of(&a->accept_timer);

	if (plx_io_say(io, s, PLX_T_ACCEPT, flags, a->req_id, &a->accept_msg,
	               sizeof(a->accept_msg)) &&
	    flags & PLX_F_RETX)
		a->accept_pkt = last_pkt(s);
	arm(io, s, &a->accept_timer);
	plx_io_touch(io, s);
}

void plx_io_final(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a)
{
	a->final = PLX_LEG_OPEN;
	uint8_t flags = flags_of(&a->final_timer);

	if (plx_io_say(io, s, a->final_type, flags, a->req_id, a->final_msg, a->final_bytes) &&
	    flags & PLX_F_RETX)
		a->final_pkt = last_pkt(s);
	arm(io, s, &a->final_timer);
	plx_io_touch(io, s);
}

static bool send_message(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a,
                         uint16_t sample)
{
	struct plx_stream *st = &a->stream[sample];
	struct plx_stream_msg m;
	struct plx_io_pkt t;

	if (st->resend == 0 && st->unsent == 0)
		return false;
	if (!plx_io_begin(io, &s->peer, &t))
		return false;
	(void)plx_stream_make(&io->cells, st, sample, a->logprobs, t.pkt + PLX_HDR_BYTES, &m);
	bool ask = m.retx || m.last || st->n_msgs % TOKENS_ACK_EVERY == 0;
	struct plx_hdr h = {.type = PLX_T_TOKENS,
	                    .req_id = a->req_id,
	                    .frag_count = 1,
	                    .payload_bytes = (uint16_t)m.bytes,
	                    .prio_flags =
	                        plx_hdr_pack_prio(a->prio, (uint8_t)((ask ? PLX_F_ACK_REQ : 0) |
	                                                             (m.retx ? PLX_F_RETX : 0)))};

	if (!seal(io, s, &s->peer, &h, &t))
		return false;
	if (m.retx) {
		plx_count(io->page, PLX_M_TX_RETRANSMITS, 1);
		st->retx_pkt = last_pkt(s);
	}
	plx_stream_sent(&io->cells, st, &m);
	return true;
}

void plx_io_tokens(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a,
                   uint16_t sample)
{
	struct plx_stream *st = &a->stream[sample];
	uint32_t n = 0;

	while (n < PLX_IO_TOKENS_MSGS && send_message(io, s, a, sample))
		n++;
	if (n > 0 && a->first_token_ns == 0) {
		a->first_token_ns = io->now_ns;
		plx_hist_add(&io->page->hist[PLX_H_FIRST], io->now_ns - a->whole_ns);
	}
	if (n > 0) {
		struct plx_trace_ev ev = {.ns = plx_clock_ns(),
		                          .kind = PLX_TR_SENT,
		                          .session = s->id,
		                          .req_id = s->slot[a->slot].req_id,
		                          .sample = sample,
		                          .n = n,
		                          .index = st->end_idx};

		plx_trace(io->page, &ev);
	}
	if (n > 0 && st->timer.deadline_ns == 0)
		arm(io, s, &st->timer);
	if (st->resend != 0 ||
	    st->unsent != 0) { /* the rest in the next turn, or with new buffers */
		uint64_t again = io->now_ns + (n > 0 ? 0 : NO_MBUF_WAIT_NS);

		if (again < s->flush_ns)
			s->flush_ns = again;
	}
	plx_io_touch(io, s);
}

/* The unacknowledged tokens of an answer are too old, or its reader too slow. */
static void check_age(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a)
{
	const struct plx_cfg_timers *t = &io->cfg->tmr;
	struct plx_req *r = s->slot[a->slot].req;

	if (a->ended_ns != 0 && io->now_ns - a->ended_ns > t->result_ttl_ms * PLX_NS_PER_MS) {
		bool any = false;

		for (uint16_t i = 0; i < a->n_streams; i++) {
			any |= a->stream[i].oldest != 0;
			plx_stream_clear(&io->cells, &a->stream[i]);
		}
		if (any)
			plx_count(io->page, PLX_M_TX_EXPIRED, 1);
		return;
	}
	for (uint16_t i = 0; r != NULL && i < a->n_streams; i++) {
		const struct plx_stream *st = &a->stream[i];
		bool full = st->end_idx - st->acked_idx >= io->cfg->lim.unacked_tokens;

		if (full && io->now_ns - a->progress_ns > t->pause_ms * PLX_NS_PER_MS) {
			plx_count(io->page, PLX_M_REQ_SLOW, 1);
			plx_req_cancel(r, PLX_CANCEL_SLOW);
			return;
		}
	}
}

/*
 * A stream's timeout repeats its oldest message; each further one without news twice as many, while
 * the time between them doubles: where much is lost one probe in a long time is too few, and the
 * rate never grows. Two for the first timeout would end sooner at 30 % loss (a third less time),
 * but repeat half as much again at 10 %, most of it in vain. Source: RFC 9002 section 6.2.4, which
 * allows more than one probe.
 */
static void probe_stream(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a,
                         uint16_t sample)
{
	struct plx_stream *st = &a->stream[sample];
	uint32_t doublings = st->timer.n_timeouts - 1;
	uint32_t most = 1u << (doublings < PROBE_DOUBLINGS ? doublings : PROBE_DOUBLINGS);

	plx_stream_rewind(st);
	for (uint32_t n = 0; n < most && st->resend != 0 && send_message(io, s, a, sample); n++)
		;
	st->resend = 0;
}

static void retransmit_streams(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a)
{
	for (uint16_t i = 0; i < a->n_streams; i++) {
		struct plx_stream *st = &a->stream[i];

		if (plx_retx_due(&st->timer, io->now_ns)) {
			probe_stream(io, s, a, i);
			if (plx_stream_sent_unacked(st))
				arm(io, s, &st->timer);
		} else if (st->timer.deadline_ns != 0 && st->timer.deadline_ns < s->retx_ns) {
			s->retx_ns = st->timer.deadline_ns;
		}
	}
}

void plx_io_retransmit(struct plx_stage_io *io, struct plx_session *s)
{
	struct plx_answer *next;

	s->retx_ns = PLX_NEVER;
	for (struct plx_answer *a = s->live; a != NULL; a = next) {
		next = a->next;
		check_age(io, s, a);
		if (plx_retx_due(&a->accept_timer, io->now_ns)) {
			plx_count(io->page, PLX_M_TX_RETRANSMITS, 1);
			plx_io_accept(io, s, a);
		} else if (a->accept_timer.deadline_ns != 0 &&
		           a->accept_timer.deadline_ns < s->retx_ns) {
			s->retx_ns = a->accept_timer.deadline_ns;
		}
		retransmit_streams(io, s, a);
		if (plx_retx_due(&a->final_timer, io->now_ns)) {
			plx_count(io->page, PLX_M_TX_RETRANSMITS, 1);
			plx_io_final(io, s, a);
		} else if (a->final_timer.deadline_ns != 0 &&
		           a->final_timer.deadline_ns < s->retx_ns) {
			s->retx_ns = a->final_timer.deadline_ns;
		}
		plx_io_settle(io, s, a);
	}
}

/* Tell batch how far the client has read, where its ring was full before. */
static void tell_window(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a)
{
	const struct plx_req *r = s->slot[a->slot].req;
	bool ok = true;

	for (uint16_t i = 0; r != NULL && i < a->n_streams; i++)
		ok &= plx_note_window(io->links, r, i,
		                      a->stream[i].acked_idx + io->cfg->lim.unacked_tokens);
	a->note_due = !ok;
}

void plx_io_company(struct plx_stage_io *io, struct plx_session *s)
{
	uint64_t wait_ns = io->cfg->tmr.coalesce_us * PLX_NS_PER_US;

	s->flush_ns = PLX_NEVER;
	for (struct plx_answer *a = s->live; a != NULL; a = a->next) {
		if (a->note_due)
			tell_window(io, s, a);
		if (a->note_due)
			s->flush_ns = io->now_ns + wait_ns;
		for (uint16_t i = 0; i < a->n_streams; i++) {
			struct plx_stream *st = &a->stream[i];
			uint64_t due = st->since_ns + wait_ns;

			if (st->resend == 0 && st->unsent == 0)
				continue;
			if (st->resend != 0 || due <= io->now_ns || a->ended_ns != 0)
				plx_io_tokens(io, s, a, i);
			else if (due < s->flush_ns)
				s->flush_ns = due;
		}
	}
}

void plx_io_outbox(struct plx_stage_io *io, struct plx_session *s)
{
	struct plx_out_frag f;

	for (uint32_t n = 0; n < PLX_IO_FRAGS && plx_outbox_next(&s->outbox, io->now_ns, &f); n++) {
		if (!say(io, s, &s->peer, &f.h, f.bytes))
			return;
		plx_outbox_sent(&s->outbox, &f, f.h.pkt_num, &s->conn.rtt, io->now_ns);
		if (plx_hdr_flags(&f.h) & PLX_F_RETX)
			plx_count(io->page, PLX_M_TX_RETRANSMITS, 1);
	}
}

void plx_io_settle(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a)
{
	struct plx_slot *slot = &s->slot[a->slot];

	(void)io;
	if (!plx_answer_settled(a))
		return;
	slot->state = PLX_SLOT_SETTLED;
	if (plx_credit_rx_release(&s->credit, slot->packets))
		s->credit_due = true;
	plx_session_settle(s, a);
	plx_io_touch(io, s);
}
