/*
 * Packets that came: opened, checked, given to who knows what they mean. Whatever does not open,
 * is replayed or belongs to another session is counted and has no other effect.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/client/core.h"

/* An answer overtook the ACK of its REQ, which is in no outbox by now. */
static void late_ack(struct plx_client *c, const struct plx_msg_ack_entry *e, uint64_t largest)
{
	struct plx_client_slot *s = e->type == PLX_T_REQ ? plx_client_slot_of(c, e->req_id) : NULL;

	if (!s || !s->retx_pkt)
		return;
	if (largest < s->retx_pkt)
		c->count.spurious++;
	s->retx_pkt = 0;
}

static void on_ack(struct plx_client *c, const uint8_t *payload, size_t n_bytes, uint64_t now_ns)
{
	struct plx_msg_ack_head head;
	struct plx_msg_ack_entry e[PLX_ACK_MAX];

	if (plx_msg_ack_decode(&head, e, payload, n_bytes))
		return;
	plx_conn_acked(&c->conn, &head, now_ns);
	for (uint16_t i = 0; i < head.n_entries; i++) {
		struct plx_outmsg *o =
		    plx_outbox_ack(&c->outbox, &e[i], head.largest_pkt_num, &c->conn.rtt, now_ns);

		if (o)
			plx_outbox_remove(&c->outbox, o);
		else
			late_ack(c, &e[i], head.largest_pkt_num);
	}
}

static void on_ping(struct plx_client *c, const uint8_t *payload, size_t n_bytes, uint64_t now_ns)
{
	struct plx_msg_ping ping;
	struct plx_msg_pong pong = {0};

	if (plx_msg_get(PLX_T_PING, &ping, sizeof(ping), payload, n_bytes))
		return;
	pong.token = ping.token;
	plx_client_send_msg(c, PLX_T_PONG, 0, 0, &pong, sizeof(pong), now_ns);
}

static void user_pong(struct plx_client *c, const struct plx_msg_pong *m, uint64_t now_ns)
{
	for (uint32_t i = 0; i < PLX_CLIENT_PINGS; i++) {
		struct plx_client_ping_state *p = &c->ping[i];
		struct plx_client_event *ev;

		if (!p->user_token || p->wire_token != m->token)
			continue;
		plx_rtt_sample(&c->conn.rtt, now_ns - p->sent_ns, 0);
		ev = plx_client_note(c, PLX_CLIENT_EV_PONG);
		if (ev)
			ev->pong = (struct plx_client_pong){
			    .token = p->user_token,
			    .rtt_ns = now_ns - p->sent_ns,
			    .load = {.queued_tokens = m->load.queued_tokens,
			             .running_sequences = m->load.running_sequences,
			             .free_kv_blocks = m->load.free_kv_blocks,
			             .step_time_us = m->load.step_time_us}};
		p->user_token = 0;
	}
}

static void on_pong(struct plx_client *c, const uint8_t *payload, size_t n_bytes, uint64_t now_ns)
{
	struct plx_msg_pong m;

	if (plx_msg_get(PLX_T_PONG, &m, sizeof(m), payload, n_bytes))
		return;
	plx_credit_tx_grant(&c->credit, &m.credit);
	plx_pmtu_pong(&c->pmtu, m.token, now_ns);
	if (m.token == c->probe_token) {
		c->probe_token = 0;
		plx_rtt_sample(&c->conn.rtt, now_ns - c->probe_ns, 0);
	}
	user_pong(c, &m, now_ns);
}

static void on_credit(struct plx_client *c, const uint8_t *payload, size_t n_bytes)
{
	struct plx_msg_credit m;

	if (!plx_msg_get(PLX_T_CREDIT, &m, sizeof(m), payload, n_bytes))
		plx_credit_tx_grant(&c->credit, &m);
}

static void on_close(struct plx_client *c, const uint8_t *payload, size_t n_bytes, uint64_t now_ns)
{
	struct plx_msg_close m;

	if (plx_msg_get(PLX_T_CLOSE, &m, sizeof(m), payload, n_bytes))
		return;
	switch (m.code) {
	case PLX_CLOSE_REVOKED:
		plx_client_lose(c, PLX_E_AUTH,
		                "our key was removed from the appliance; ask for a new one",
		                now_ns);
		break;
	case PLX_CLOSE_SHUTDOWN:
		plx_client_lose(c, PLX_E_LOST, "the appliance was shut down", now_ns);
		break;
	case PLX_CLOSE_PROTOCOL:
		plx_client_lose(c, PLX_E_FORMAT,
		                "the appliance says that this client broke a rule of the protocol",
		                now_ns);
		break;
	default:
		plx_client_lose(c, PLX_E_LOST, "the appliance closed the session", now_ns);
	}
}

static void on_drain(struct plx_client *c, const struct plx_hdr *h, const uint8_t *payload,
                     uint64_t now_ns)
{
	struct plx_msg_ack_entry e = plx_ack_whole(h->type, h->req_id, h->frag_count);
	struct plx_msg_drain m;

	if (plx_msg_get(PLX_T_DRAIN, &m, sizeof(m), payload, h->payload_bytes))
		return;
	plx_conn_ack(&c->conn, &e, true, now_ns);
	if (c->draining)
		return;
	struct plx_client_event *ev = plx_client_note(c, PLX_CLIENT_EV_DRAIN);

	c->draining = true;
	if (ev)
		ev->drain_grace_ms = m.grace_ms;
}

static void on_path(struct plx_client *c, const uint8_t *payload, size_t n_bytes, uint64_t now_ns)
{
	struct plx_msg_path m;

	if (!plx_msg_get(PLX_T_PATH_CHALLENGE, &m, sizeof(m), payload, n_bytes))
		plx_client_send_msg(c, PLX_T_PATH_RESPONSE, 0, 0, &m, sizeof(m), now_ns);
}

/* ---- the model table ---- */

static void keep_models(struct plx_client *c, const uint8_t *p, uint32_t n_bytes)
{
	struct plx_models_reader r;
	uint8_t *copy = NULL;

	if (plx_models_open(&r, p, n_bytes) || !(copy = malloc(n_bytes)))
		return;
	memcpy(copy, p, n_bytes);
	free(c->models);
	c->models = copy;
	c->models_bytes = n_bytes;
	c->models_here = true;
	plx_client_note(c, PLX_CLIENT_EV_MODELS);
}

static void on_models(struct plx_client *c, const struct plx_hdr *h, const uint8_t *payload,
                      uint64_t now_ns)
{
	struct plx_msg_ack_entry e = plx_ack_whole(h->type, h->req_id, h->frag_count);
	struct plx_reasm_whole whole;
	bool at_once = plx_hdr_flags(h) & PLX_F_ACK_REQ;

	if (h->frag_count > 1 && !c->models_here) {
		int r = plx_reasm_add(&c->reasm, &c->reasm_session, h, payload, now_ns, &whole);

		if (r == PLX_REASM_DONE) {
			keep_models(c, whole.buf, whole.msg_bytes);
			plx_pieces_give(&c->pieces, whole.buf);
		} else if (plx_reasm_state(&c->reasm, &c->reasm_session, h->type, h->req_id, &e)) {
			return;
		}
	} else if (!c->models_here) {
		keep_models(c, payload, h->payload_bytes);
	}
	plx_conn_ack(&c->conn, &e, at_once || c->models_here, now_ns);
}

/* ---- every packet ---- */

static void on_sealed(struct plx_client *c, const struct plx_hdr *h, const uint8_t *payload,
                      uint64_t now_ns)
{
	switch ((enum plx_wire_type)h->type) {
	case PLX_T_ACK:
		on_ack(c, payload, h->payload_bytes, now_ns);
		break;
	case PLX_T_PING:
		on_ping(c, payload, h->payload_bytes, now_ns);
		break;
	case PLX_T_PONG:
		on_pong(c, payload, h->payload_bytes, now_ns);
		break;
	case PLX_T_CREDIT:
		on_credit(c, payload, h->payload_bytes);
		break;
	case PLX_T_CLOSE:
		on_close(c, payload, h->payload_bytes, now_ns);
		break;
	case PLX_T_DRAIN:
		on_drain(c, h, payload, now_ns);
		break;
	case PLX_T_MODELS:
		on_models(c, h, payload, now_ns);
		break;
	case PLX_T_PATH_CHALLENGE:
		on_path(c, payload, h->payload_bytes, now_ns);
		break;
	case PLX_T_ACCEPT:
	case PLX_T_TOKENS:
	case PLX_T_DONE:
	case PLX_T_REJECT:
	case PLX_T_CANCELLED:
		plx_client_answer(c, h, payload, now_ns);
		break;
	case PLX_T_HELLO:
	case PLX_T_RETRY:
	case PLX_T_HELLO_ACK:
	case PLX_T_VERSION_NEG:
	case PLX_T_RESET:
	case PLX_T_REQ:
	case PLX_T_CANCEL:
	case PLX_T_TOK_ACK:
	case PLX_T_PATH_RESPONSE:
	case PLX_T_VECTORS:
		c->count.packets_dropped++;
		break;
	}
}

static void on_unsealed(struct plx_client *c, uint8_t type, const uint8_t *pkt, size_t n_bytes,
                        uint64_t now_ns)
{
	if (type != PLX_T_RESET) {
		plx_client_hs_input(c, pkt, n_bytes, now_ns);
		return;
	}
	if (c->state != PLX_CL_OPEN ||
	    plx_reset_check(pkt, n_bytes, c->conn.peer_id, c->ack.reset_token)) {
		c->count.packets_dropped++;
		return;
	}
	plx_client_lose(c, PLX_E_LOST,
	                "the appliance does not know this session any more: it was "
	                "restarted, or we were silent for too long",
	                now_ns);
}

void plx_client_input(struct plx_client *c, uint8_t *pkt, size_t n_bytes, uint64_t now_ns)
{
	struct plx_hdr h;

	c->count.packets_received++;
	if (n_bytes >= PLX_HDR_BYTES && !plx_type_sealed(pkt[offsetof(struct plx_hdr, type)])) {
		on_unsealed(c, pkt[offsetof(struct plx_hdr, type)], pkt, n_bytes, now_ns);
		return;
	}
	if (c->state != PLX_CL_OPEN ||
	    plx_conn_open(&c->conn, &c->crypt, &h, pkt, n_bytes, now_ns)) {
		c->count.packets_dropped++;
		return;
	}
	on_sealed(c, &h, pkt + PLX_HDR_BYTES, now_ns);
	/* Asked for by a packet that has no acknowledgement of its own: a round-trip sample. */
	if (plx_hdr_flags(&h) & PLX_F_ACK_REQ && c->state == PLX_CL_OPEN && !c->conn.ack_due_ns &&
	    !c->tok_ack_due_ns)
		plx_conn_ack_head(&c->conn, now_ns);
}
