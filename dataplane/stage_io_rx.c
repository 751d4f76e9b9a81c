/*
 * Frames in. Nothing is believed before it opened: until then a packet costs a look-up and its
 * cipher, and at most an answer smaller than itself.
 */
#include <string.h>

#include "dataplane/stage_io_state.h"
#include "fw/base/check.h"

/* ---- handshakes ---------------------------------------------------------------------------- */

static void mark_key(const struct plx_key *key, uint8_t mark[16])
{
	memcpy(mark, key->psk.mac_hello, 16);
}

/* Count a session against its key; false when the key has no more. */
static bool key_enter(struct plx_stage_io *io, const struct plx_key *key)
{
	struct plx_key_use *use = &io->sh->conf.keys->use[key->use_idx];
	uint32_t before = atomic_fetch_add_explicit(&use->n_sessions, 1, memory_order_relaxed);

	if (before < key->max_sessions)
		return true;
	atomic_fetch_sub_explicit(&use->n_sessions, 1, memory_order_relaxed);
	return false;
}

static void key_leave(struct plx_stage_io *io, uint32_t use_idx)
{
	atomic_fetch_sub_explicit(&io->sh->conf.keys->use[use_idx].n_sessions, 1,
	                          memory_order_relaxed);
}

static struct plx_session *new_session(struct plx_stage_io *io, const struct plx_key *key,
                                       const struct plx_hs_job *job,
                                       const struct plx_net_peer *peer)
{
	struct plx_session *s = plx_session_new(&io->sessions);

	if (s == NULL) {
		plx_count(io->page, PLX_M_HS_SESSIONS_FULL, 1);
		return NULL;
	}
	s->peer = *peer;
	s->conn.rx_last_ns = io->now_ns;
	s->key_id = key->psk.key_id;
	mark_key(key, s->key_mark);
	s->use_idx = key->use_idx;
	s->tenant = key->tenant_idx;
	s->max_priority = key->max_priority;
	s->share_prefix = key->share_prefix;
	if (key->kv_percent < 100)
		s->tenant_kv_blocks =
		    (uint32_t)((uint64_t)io->cfg->lim.n_kv_blocks * key->kv_percent / 100);
	memcpy(s->ephemeral, job->ephemeral, sizeof(s->ephemeral));
	return s;
}

static void forget_half_open(struct plx_stage_io *io, struct plx_halfopen_entry *e)
{
	memset(e, 0, sizeof(*e));
	io->halfopen.n_used--;
}

/* A HELLO with a good cookie that was not seen before: stage_hs does the rest. */
static void begin(struct plx_stage_io *io, const struct plx_key *key, const struct plx_hs_job *job,
                  const struct plx_net_peer *peer)
{
	struct plx_hs_ask ask = {.job = *job, .io_idx = io->idx};

	if (io->n_half >= io->cfg->lim.n_half_open) {
		plx_count(io->page, PLX_M_HS_HALF_FULL, 1);
		return;
	}
	if (!key_enter(io, key)) {
		plx_count(io->page, PLX_M_HS_KEY_FULL, 1);
		return;
	}
	struct plx_session *s = new_session(io, key, job, peer);

	if (s == NULL) {
		key_leave(io, key->use_idx);
		return;
	}
	struct plx_halfopen_entry *e = plx_halfopen_put(&io->halfopen, job->ephemeral, io->now_ns);

	ask.session_id = s->id;
	if (e != NULL && plx_ring_hs_ask_push(&io->sh->hs_ask, &ask)) {
		e->session_id = s->id;
		io->n_half++;
		plx_io_touch(io, s);
		return;
	}
	plx_count(io->page, e == NULL ? PLX_M_HS_HALF_FULL : PLX_M_HS_BUSY, 1);
	if (e != NULL)
		forget_half_open(io, e);
	plx_session_give(&io->sessions, s);
	key_leave(io, key->use_idx);
}

static void on_hello(struct plx_stage_io *io, const uint8_t *pkt, uint32_t n,
                     const struct plx_net_peer *peer)
{
	struct plx_wire_addr addr = plx_net_to_wire(peer);
	const struct plx_key *key = NULL;
	uint8_t reply[PLX_HS_REPLY_MAX];
	size_t reply_bytes = 0;
	struct plx_hs_job job;
	uint64_t id;

	if (plx_hs_key_id(&id, pkt, n) == PLX_E_OK)
		key = plx_keytab_find(plx_keys_get(io->sh->conf.keys), id);
	if (key == NULL) {
		plx_count(io->page, PLX_M_HS_NO_KEY, 1);
		return;
	}
	enum plx_hs_verdict v = plx_hs_check(&job, reply, &reply_bytes, &io->sh->secrets, &key->psk,
	                                     io->crypt.ciphers, pkt, n, &addr, io->now_ns);

	plx_count(io->page, v == PLX_HS_DROP ? PLX_M_HS_BAD_MAC : PLX_M_HS_HELLO, 1);
	if (v == PLX_HS_REPLY) {
		plx_count(io->page, PLX_M_HS_RETRY, 1);
		plx_io_raw(io, peer, reply, (uint32_t)reply_bytes);
	}
	if (v != PLX_HS_DH)
		return;
	struct plx_halfopen_entry *e = plx_halfopen_get(&io->halfopen, job.ephemeral, io->now_ns);

	if (e == NULL)
		begin(io, key, &job, peer);
	else if (e->state == PLX_HALFOPEN_ACKED)
		plx_io_raw(io, peer, e->ack, e->ack_bytes);
}

void plx_io_handshaken(struct plx_stage_io *io, const struct plx_hs_tell *tell)
{
	struct plx_session *s = plx_sessions_find(&io->sessions, tell->session_id);

	if (s == NULL || s->state != PLX_SESSION_WAIT)
		return;
	struct plx_halfopen_entry *e = plx_halfopen_get(&io->halfopen, s->ephemeral, io->now_ns);

	if (tell->err != PLX_E_OK || e == NULL || tell->ack_bytes > sizeof(e->ack)) {
		plx_io_end(io, s, PLX_CANCEL_CLIENT, PLX_IO_QUIET);
		return;
	}
	plx_session_begin(s, &io->crypt, &tell->keys, tell->peer_id, &tell->limits,
	                  tell->credit_packets, io->now_ns);
	e->state = PLX_HALFOPEN_ACKED;
	e->ack_bytes = (uint16_t)tell->ack_bytes;
	memcpy(e->ack, tell->ack, tell->ack_bytes);
	plx_io_raw(io, &s->peer, tell->ack, tell->ack_bytes);
	plx_io_touch(io, s);
}

/* The first sealed packet: the client has the keys. */
static void confirm(struct plx_stage_io *io, struct plx_session *s)
{
	struct plx_halfopen_entry *e = plx_halfopen_get(&io->halfopen, s->ephemeral, io->now_ns);
	const struct plx_io_conf *c = &io->sh->conf;

	s->state = PLX_SESSION_OPEN;
	io->n_half--;
	if (e != NULL)
		e->state = PLX_HALFOPEN_DONE;
	plx_count(io->page, PLX_M_SESSION_OPENED, 1);
	if (c->models_bytes != 0)
		(void)plx_outbox_add(&s->outbox, PLX_T_MODELS, 0, 0, c->models, c->models_bytes,
		                     PLX_DGRAM_MIN_BYTES);
}

/* ---- sealed packets ------------------------------------------------------------------------ */

static void reset(struct plx_stage_io *io, uint32_t session_id, uint32_t n,
                  const struct plx_net_peer *peer)
{
	struct plx_wire_addr addr = plx_net_to_wire(peer);
	uint8_t pkt[PLX_RESET_BYTES];

	plx_count(io->page, PLX_M_IO_DROP_SESSION, 1);
	if (io->now_ns - io->reset_ns >= PLX_IO_RESET_NS) {
		io->reset_ns = io->now_ns;
		io->n_resets = 0;
	}
	if (io->n_resets >= PLX_IO_RESETS)
		return;
	size_t bytes = plx_reset_make(pkt, &io->sh->secrets, session_id, &addr, n);

	if (bytes == 0)
		return;
	io->n_resets++;
	plx_count(io->page, PLX_M_IO_RESETS, 1);
	plx_io_raw(io, peer, pkt, (uint32_t)bytes);
}

static int on_ping(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                   const uint8_t *payload)
{
	struct plx_msg_ping ping;

	if (plx_msg_get(PLX_T_PING, &ping, sizeof(ping), payload, h->payload_bytes) != PLX_E_OK)
		return PLX_E_FORMAT;
	struct plx_msg_pong pong = {.token = ping.token,
	                            .credit = plx_credit_rx_now(&s->credit),
	                            .load = plx_load_read(io->links)};

	(void)plx_io_say(io, s, PLX_T_PONG, 0, 0, &pong, sizeof(pong));
	return PLX_E_OK;
}

static int on_path_response(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                            const uint8_t *payload, const struct plx_net_peer *peer)
{
	struct plx_wire_addr addr = plx_net_to_wire(peer);
	struct plx_msg_path m;

	if (plx_msg_get(PLX_T_PATH_RESPONSE, &m, sizeof(m), payload, h->payload_bytes) != PLX_E_OK)
		return PLX_E_FORMAT;
	if (plx_path_response(&s->path, &addr, m.nonce)) {
		s->peer = *peer;
		plx_count(io->page, PLX_M_SESSION_MOVED, 1);
	}
	return PLX_E_OK;
}

/* Whose address a packet came from; a new one is challenged. */
static void look_at_path(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                         const struct plx_net_peer *peer, uint32_t n)
{
	if (PLX_LIKELY(plx_net_peer_same(&s->peer, peer))) {
		memcpy(s->peer.mac, peer->mac, sizeof(peer->mac));
		s->peer.link_local = peer->link_local;
		return;
	}
	struct plx_wire_addr addr = plx_net_to_wire(peer);
	bool newest = h->pkt_num == s->conn.rx_largest;

	if (!plx_path_seen(&s->path, &addr, n, newest, plx_rand_u64(&io->rand)))
		return;
	s->cand = *peer;
	plx_io_challenge(io, s);
	(void)plx_path_poll(&s->path, &s->conn.rtt, io->now_ns); /* starts its timer */
}

/* Returns non-zero where the message does not decode. The session may be gone afterwards. */
static int dispatch(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                    const uint8_t *payload, const struct plx_net_peer *peer)
{
	struct plx_msg_close bye;

	switch (h->type) {
	case PLX_T_REQ:
		plx_io_req(io, s, h, payload);
		return PLX_E_OK;
	case PLX_T_CANCEL:
		plx_io_cancel(io, s, h, payload);
		return PLX_E_OK;
	case PLX_T_ACK:
		return plx_io_ack(io, s, payload, h->payload_bytes);
	case PLX_T_TOK_ACK:
		return plx_io_tok_ack(io, s, payload, h->payload_bytes);
	case PLX_T_PING:
		return on_ping(io, s, h, payload);
	case PLX_T_PATH_RESPONSE:
		return on_path_response(io, s, h, payload, peer);
	case PLX_T_PONG:
		return PLX_E_OK;
	case PLX_T_CLOSE:
		if (plx_msg_get(PLX_T_CLOSE, &bye, sizeof(bye), payload, h->payload_bytes) !=
		    PLX_E_OK)
			return PLX_E_FORMAT;
		plx_count(io->page, PLX_M_SESSION_CLOSED, 1);
		plx_io_end(io, s, PLX_CANCEL_CLIENT, PLX_IO_QUIET);
		return PLX_E_OK;
	default:
		return PLX_E_FORMAT; /* a type of the other side; plx_conn_open refuses those
		                        already */
	}
}

static void count_unopened(struct plx_stage_io *io, int err)
{
	enum plx_metric m = PLX_M_IO_DROP_FORMAT;

	if (err == PLX_E_AUTH)
		m = PLX_M_IO_DROP_AUTH;
	else if (err == PLX_E_REPLAY)
		m = PLX_M_IO_DROP_REPLAY;
	plx_count(io->page, m, 1);
}

static void on_sealed(struct plx_stage_io *io, struct plx_session *s, uint8_t *pkt, uint32_t n,
                      const struct plx_net_peer *peer)
{
	struct plx_hdr h;
	int err = plx_conn_open(&s->conn, &io->crypt, &h, pkt, n, io->now_ns);

	if (PLX_UNLIKELY(err != PLX_E_OK)) {
		count_unopened(io, err);
		if (s->conn.closed)
			plx_io_touch(io, s);
		return;
	}
	plx_io_touch(io, s);
	if (PLX_UNLIKELY(s->state == PLX_SESSION_HALF))
		confirm(io, s);
	look_at_path(io, s, &h, peer, n);
	if (plx_hdr_flags(&h) & PLX_F_ACK_REQ && h.type != PLX_T_REQ && h.type != PLX_T_CANCEL)
		plx_conn_ack_head(&s->conn, io->now_ns);
	if (dispatch(io, s, &h, pkt + PLX_HDR_BYTES, peer) != PLX_E_OK)
		plx_count(io->page, PLX_M_IO_DROP_MESSAGE, 1);
}

/* Give a packet to the stage that owns its session; false when none of this port does. */
static bool hand_over(struct plx_stage_io *io, struct rte_mbuf *m, uint32_t owner)
{
	if (owner >= io->sh->conf.n_io || io->sh->port_of[owner] != io->port)
		return false;
	if (plx_ring_mbuf_push(&io->sh->foreign[owner], &m)) {
		plx_count(io->page, PLX_M_IO_FOREIGN, 1);
		return true;
	}
	plx_count(io->page, PLX_M_IO_FOREIGN_FULL, 1);
	rte_pktmbuf_free(m);
	return true;
}

/* Returns whether the buffer was handed on. */
static bool on_datagram(struct plx_stage_io *io, struct rte_mbuf *m, uint8_t *pkt, uint32_t n,
                        const struct plx_net_peer *peer, bool foreign)
{
	uint32_t id;

	if (n < PLX_HDR_BYTES || pkt[0] != (PLX_WIRE_MAGIC & 0xff) ||
	    pkt[1] != PLX_WIRE_MAGIC >> 8) {
		plx_count(io->page, PLX_M_IO_DROP_FORMAT, 1);
		return false;
	}
	uint8_t type = pkt[offsetof(struct plx_hdr, type)];

	if (type == PLX_T_HELLO) {
		on_hello(io, pkt, n, peer);
		return false;
	}
	if (!plx_type_sealed(type) || pkt[offsetof(struct plx_hdr, version)] != PLX_WIRE_VERSION) {
		plx_count(io->page, PLX_M_IO_DROP_FORMAT, 1);
		return false;
	}
	memcpy(&id, pkt + offsetof(struct plx_hdr, session_id), sizeof(id));
	if (plx_session_io(id) != io->idx && !foreign && hand_over(io, m, plx_session_io(id)))
		return true;
	struct plx_session *s = plx_sessions_find(&io->sessions, id);

	if (s == NULL)
		reset(io, id, n, peer);
	else if (s->state == PLX_SESSION_WAIT)
		plx_count(io->page, PLX_M_IO_DROP_SESSION, 1);
	else
		on_sealed(io, s, pkt, n, peer);
	return false;
}

static const enum plx_metric drop_metric[PLX_NET_N_VERDICTS] = {
    [PLX_NET_DROP_SHORT] = PLX_M_IO_DROP_SHORT, [PLX_NET_DROP_PROTO] = PLX_M_IO_DROP_PROTO,
    [PLX_NET_DROP_FRAG] = PLX_M_IO_DROP_FRAG,   [PLX_NET_DROP_OPTION] = PLX_M_IO_DROP_OPTION,
    [PLX_NET_DROP_SUM] = PLX_M_IO_DROP_SUM,     [PLX_NET_DROP_DST] = PLX_M_IO_DROP_DST,
    [PLX_NET_DROP_SRC] = PLX_M_IO_DROP_SRC,     [PLX_NET_DROP_PORT] = PLX_M_IO_DROP_PORT,
};

void plx_io_frame(struct plx_stage_io *io, struct rte_mbuf *m, bool foreign)
{
	uint8_t *frame = rte_pktmbuf_mtod(m, uint8_t *);
	uint32_t room = (uint32_t)m->data_len + rte_pktmbuf_tailroom(m);
	enum plx_net_verdict v = PLX_NET_DROP_PROTO;
	struct plx_net_rx rx;

	if (PLX_LIKELY(m->nb_segs == 1))
		v = plx_net_input(&io->port->net, frame, m->data_len, room,
		                  plx_port_sum_ok(io->port, m), &rx);
	if (PLX_LIKELY(v == PLX_NET_UDP)) {
		if (!on_datagram(io, m, frame + rx.payload_off, rx.payload_bytes, &rx.peer,
		                 foreign))
			rte_pktmbuf_free(m);
	} else if (v == PLX_NET_REPLY) {
		plx_count(io->page, PLX_M_IO_REPLIES, 1);
		m->data_len = (uint16_t)rx.reply_bytes;
		m->pkt_len = rx.reply_bytes;
		plx_io_queue(io, m);
	} else {
		plx_count(io->page, drop_metric[v], 1);
		rte_pktmbuf_free(m);
	}
}
