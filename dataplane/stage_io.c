/*
 * stage_io's turn: packets in, events in, timers, packets out. Sessions that something happened to
 * are on the dirty list and are looked after once at the end of the turn, so that a burst makes
 * one acknowledgement.
 */
#include "dataplane/stage_io.h"

#include <string.h>

#include "dataplane/stage_io_state.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"

#define REASM_MSGS     1024u
#define REASM_EXPIRES  8u
#define HANDSHAKES     4u
#define HALF_OPEN_MOST 1024u
#define FOREIGN_RING   1024u
#define SILENCES       3u /* keepalives without a packet before a session is given up */

/* ---- shared -------------------------------------------------------------------------------- */

size_t plx_io_shared_bytes(const struct plx_config *cfg, uint32_t n_io)
{
	uint32_t n = cfg->lim.n_half_open;

	return plx_ring_bytes(n * n_io, sizeof(struct plx_hs_ask)) +
	       n_io * (plx_ring_bytes(n, sizeof(struct plx_hs_tell)) +
	               plx_ring_bytes(FOREIGN_RING, sizeof(void *))) +
	       4096;
}

static struct plx_wire_limits limits_of(const struct plx_io_conf *conf)
{
	const struct plx_cfg_limits *m = &conf->cfg->lim;
	const struct plx_cfg_timers *t = &conf->cfg->tmr;

	return (struct plx_wire_limits){
	    .max_request_bytes = m->request_bytes,
	    .max_in_flight = m->n_session_requests,
	    .max_prompt_tokens = m->prompt_tokens,
	    .max_new = m->max_new_tokens,
	    .token_window = m->unacked_tokens,
	    .keepalive_ms = t->keepalive_ms,
	    .max_ack_delay_us = t->ack_delay_us,
	    .retx_floor_us = t->rtt_floor_us,
	    .result_ttl_ms = t->result_ttl_ms,
	    .reasm_timeout_ms = t->reasm_ttl_ms,
	    .coalesce_us = t->coalesce_us,
	    .max_samples = (uint16_t)m->n_samples,
	    .max_datagram = conf->max_datagram,
	    .max_stops = (uint16_t)m->n_stop,
	    .max_stop_bytes = (uint16_t)m->stop_bytes,
	    .max_priority = 15,
	    .max_logprobs = (uint8_t)m->n_logprobs,
	};
}

/* Known to whoever has every key, that is to the appliance, now and after a restart. */
static void make_secrets(struct plx_io_shared *sh)
{
	const struct plx_keytab *t = plx_keys_get(sh->conf.keys);
	crypto_generichash_state st;

	randombytes_buf(sh->secrets.cookie_key, sizeof(sh->secrets.cookie_key));
	(void)crypto_generichash_init(&st, (const uint8_t *)"pollux reset", 12, 32);
	for (uint32_t i = 0; i < t->n; i++)
		(void)crypto_generichash_update(&st, t->key[i].psk.psk, PLX_PSK_BYTES);
	(void)crypto_generichash_final(&st, sh->secrets.reset_key, sizeof(sh->secrets.reset_key));
}

int plx_io_shared_open(struct plx_io_shared *sh, struct plx_arena *a,
                       const struct plx_io_conf *conf, struct plx_diag *d)
{
	uint32_t n = conf->cfg->lim.n_half_open;

	if (conf->n_io == 0 || conf->n_io > PLX_MAX_IO)
		return plx_diag_set(d, PLX_E_LIMIT, "%u io stages; give 1 to %d", conf->n_io,
		                    PLX_MAX_IO);
	memset(sh, 0, sizeof(*sh));
	sh->conf = *conf;
	sh->limits = limits_of(conf);
	make_secrets(sh);
	int e = plx_ring_hs_ask_open(&sh->hs_ask, a, n * conf->n_io, PLX_RING_MPSC);

	for (uint32_t i = 0; i < conf->n_io && e == PLX_E_OK; i++) {
		e = plx_ring_hs_tell_open(&sh->hs_tell[i], a, n, PLX_RING_SPSC);
		if (e == PLX_E_OK)
			e = plx_ring_mbuf_open(&sh->foreign[i], a, FOREIGN_RING, PLX_RING_MPSC);
	}
	return e == PLX_E_OK ? e : plx_diag_set(d, e, "no memory for the rings of io stages");
}

struct plx_wire_limits plx_io_limits(const struct plx_io_shared *sh, const struct plx_key *key)
{
	struct plx_wire_limits l = sh->limits;

	if (key->max_requests < l.max_in_flight)
		l.max_in_flight = key->max_requests;
	if (key->max_priority < l.max_priority)
		l.max_priority = key->max_priority;
	return l;
}

/* ---- opening ------------------------------------------------------------------------------- */

static uint32_t half_open_entries(const struct plx_config *cfg)
{
	uint32_t n = cfg->lim.n_half_open + cfg->lim.n_sessions;

	return n < HALF_OPEN_MOST ? n : HALF_OPEN_MOST;
}

size_t plx_stage_io_bytes(const struct plx_config *cfg)
{
	const struct plx_cfg_limits *m = &cfg->lim;

	return sizeof(struct plx_stage_io) +
	       plx_sessions_bytes(m->n_sessions, m->n_session_requests, m->n_samples) +
	       (size_t)m->n_requests * m->unacked_tokens * sizeof(struct plx_cell) +
	       m->reasm_bytes + plx_pieces_footprint(m->reasm_bytes) +
	       REASM_MSGS * sizeof(struct plx_reasm_msg) +
	       half_open_entries(cfg) * sizeof(struct plx_halfopen_entry) + 8192;
}

static int open_reasm(struct plx_stage_io *io)
{
	const struct plx_cfg_limits *m = &io->cfg->lim;
	struct plx_reasm_caps caps = {
	    .max_msg_bytes = m->request_bytes,
	    .session_bytes = 4 * m->request_bytes,
	    .session_msgs = m->n_session_requests,
	    .timeout_ns = io->cfg->tmr.reasm_ttl_ms * PLX_NS_PER_MS,
	};
	void *region = plx_arena_take(&io->arena, m->reasm_bytes, 64);
	void *book = plx_arena_take(&io->arena, plx_pieces_footprint(m->reasm_bytes), 64);
	struct plx_reasm_msg *msg = plx_arena_take(&io->arena, REASM_MSGS * sizeof(*msg), 64);

	if (region == NULL || book == NULL || msg == NULL)
		return PLX_E_NOMEM;
	int e = plx_pieces_init(&io->pieces, region, m->reasm_bytes, book);

	plx_reasm_init(&io->reasm, &io->pieces, msg, REASM_MSGS, &caps);
	return e;
}

static int carve(struct plx_stage_io *io)
{
	const struct plx_cfg_limits *m = &io->cfg->lim;
	uint32_t n_cells = m->n_requests * m->unacked_tokens;
	uint16_t gen_base = (uint16_t)(plx_rand_u64(&io->rand) % PLX_SESSION_GENS);
	int e = plx_sessions_open(&io->sessions, &io->arena, m->n_sessions, m->n_session_requests,
	                          m->n_samples, io->idx, gen_base, io->now_ns);

	if (e != PLX_E_OK)
		return e;
	struct plx_cell *cells = plx_arena_take(&io->arena, n_cells * sizeof(*cells), 64);

	io->halfopen.n = half_open_entries(io->cfg);
	io->halfopen.e = plx_arena_take(&io->arena, io->halfopen.n * sizeof(*io->halfopen.e), 64);
	if (cells == NULL || io->halfopen.e == NULL)
		return PLX_E_NOMEM;
	plx_cells_init(&io->cells, cells, n_cells);
	return open_reasm(io);
}

int plx_stage_io_open(struct plx_stage_io **out, struct plx_io_shared *sh,
                      const struct plx_port *port, uint16_t queue, uint32_t io_idx,
                      struct plx_page *page, struct plx_diag *d)
{
	struct plx_arena arena = {0};
	int e = plx_arena_open(&arena, plx_stage_io_bytes(sh->conf.cfg), d), reader;

	*out = NULL;
	if (e != PLX_E_OK)
		return e;
	struct plx_stage_io *io = plx_arena_take(&arena, sizeof(*io), 64);

	PLX_CHECK(io != NULL);
	io->arena = arena;
	io->sh = sh;
	io->links = sh->conf.links;
	io->cfg = sh->conf.cfg;
	io->port = port;
	io->queue = queue;
	io->idx = io_idx;
	io->page = page;
	io->now_ns = plx_clock_ns();
	plx_rand_open(&io->rand);
	e = plx_crypt_open(&io->crypt, true, d);
	reader = plx_keys_reader(sh->conf.keys);
	if (e == PLX_E_OK && reader < 0)
		e = reader;
	if (e == PLX_E_OK)
		e = carve(io);
	if (e != PLX_E_OK) {
		plx_stage_io_close(io);
		return plx_diag_set(d, e, "io stage %u: %s", io_idx, plx_err_help(e));
	}
	io->keys_reader = (uint32_t)reader;
	io->tab = plx_keys_get(sh->conf.keys);
	plx_keys_seen(sh->conf.keys, io->keys_reader, io->tab->gen);
	io->walk = io->sessions.n;
	sh->port_of[io_idx] = port;
	*out = io;
	return PLX_E_OK;
}

void plx_stage_io_close(struct plx_stage_io *io)
{
	if (io == NULL)
		return;
	struct plx_arena arena = io->arena;

	plx_crypt_close(&io->crypt);
	for (uint32_t i = 0; io->sessions.s != NULL && i < io->sessions.n; i++)
		plx_conn_wipe(&io->sessions.s[i].conn);
	plx_arena_close(&arena);
}

uint32_t plx_stage_io_sessions(const struct plx_stage_io *io)
{
	return __atomic_load_n(&io->sessions.n_used, __ATOMIC_RELAXED);
}

/* ---- sessions ------------------------------------------------------------------------------ */

void plx_io_touch(struct plx_stage_io *io, struct plx_session *s)
{
	if (s->dirty)
		return;
	s->dirty = true;
	s->dirty_next = io->dirty;
	io->dirty = plx_sessions_index(&io->sessions, s) + 1;
}

void plx_io_end(struct plx_stage_io *io, struct plx_session *s, enum plx_cancel_cause cause,
                int close_code)
{
	struct plx_msg_close bye = {.code = (uint32_t)close_code};
	struct plx_answer *next;

	for (struct plx_answer *a = s->live; a != NULL; a = next) {
		struct plx_req *r = s->slot[a->slot].req;

		next = a->next;
		if (r != NULL)
			plx_req_cancel(r, cause);
		for (uint16_t i = 0; i < a->n_streams; i++)
			plx_stream_clear(&io->cells, &a->stream[i]);
		plx_session_settle(s, a);
	}
	plx_reasm_drop_all(&io->reasm, &s->reasm);
	plx_session_mark(io->links, io->idx, s->id, false);
	if (close_code != PLX_IO_QUIET && s->state == PLX_SESSION_OPEN && !s->conn.closed)
		(void)plx_io_say(io, s, PLX_T_CLOSE, 0, 0, &bye, sizeof(bye));
	if (s->state == PLX_SESSION_WAIT || s->state == PLX_SESSION_HALF) {
		struct plx_halfopen_entry *e =
		    plx_halfopen_get(&io->halfopen, s->ephemeral, io->now_ns);

		io->n_half--;
		if (e != NULL)
			e->state = PLX_HALFOPEN_DONE; /* a repeat of that HELLO begins nothing */
	}
	atomic_fetch_sub_explicit(&io->sh->conf.keys->use[s->use_idx].n_sessions, 1,
	                          memory_order_relaxed);
	plx_session_give(&io->sessions, s);
}

/* Whether a session is over for a reason of time; then it has been ended. */
static bool ended_by_time(struct plx_stage_io *io, struct plx_session *s)
{
	uint64_t silent = io->now_ns - s->conn.rx_last_ns;
	uint64_t limit = SILENCES * io->cfg->tmr.keepalive_ms * PLX_NS_PER_MS;

	if (s->state != PLX_SESSION_OPEN)
		limit = PLX_COOKIE_LIFE_NS;
	if (!s->conn.closed && (io->now_ns < s->conn.rx_last_ns || silent < limit))
		return false;
	plx_count(io->page, PLX_M_SESSION_IDLE, 1);
	plx_io_end(io, s, PLX_CANCEL_CLIENT, PLX_CLOSE_IDLE);
	return true;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t next_deadline(const struct plx_stage_io *io, const struct plx_session *s)
{
	uint64_t keep = SILENCES * io->cfg->tmr.keepalive_ms * PLX_NS_PER_MS;
	uint64_t t =
	    s->conn.rx_last_ns + (s->state == PLX_SESSION_HALF ? PLX_COOKIE_LIFE_NS : keep);

	t = earlier(t, s->retx_ns);
	t = earlier(t, s->flush_ns);
	if (s->conn.ack_due_ns != 0)
		t = earlier(t, s->conn.ack_due_ns);
	if (s->outbox.n_used != 0)
		t = earlier(t, plx_outbox_deadline(&s->outbox));
	if (s->path.nonce != 0)
		t = earlier(t, s->path.timer.deadline_ns);
	return t;
}

static void flush_acks(struct plx_stage_io *io, struct plx_session *s)
{
	struct plx_io_pkt t;

	if (s->conn.ack_due_ns == 0 || io->now_ns < s->conn.ack_due_ns ||
	    !plx_io_begin(io, &s->peer, &t))
		return;
	int n = plx_conn_ack_flush(&s->conn, &io->crypt, t.pkt, PLX_DGRAM_MIN_BYTES, io->now_ns);

	plx_io_commit(io, &s->peer, &t, n > 0 ? (uint32_t)n : 0);
}

/* Everything a session's clock asks for; then its next deadline. */
static void look_after(struct plx_stage_io *io, struct plx_session *s)
{
	if (s->state == PLX_SESSION_FREE || ended_by_time(io, s))
		return;
	if (io->now_ns >= s->retx_ns)
		plx_io_retransmit(io, s);
	if (io->now_ns >= s->flush_ns)
		plx_io_company(io, s);
	if (s->outbox.n_used != 0)
		plx_io_outbox(io, s);
	if (s->path.nonce != 0 && plx_path_poll(&s->path, &s->conn.rtt, io->now_ns))
		plx_io_challenge(io, s);
	if (s->credit_due)
		plx_io_credit(io, s);
	flush_acks(io, s);
	plx_session_arm(&io->sessions, s, next_deadline(io, s));
}

static void look_after_dirty(struct plx_stage_io *io)
{
	uint32_t i = io->dirty;

	io->dirty = 0;
	while (i != 0) {
		struct plx_session *s = &io->sessions.s[i - 1];

		i = s->dirty_next;
		s->dirty = false;
		s->dirty_next = 0;
		if (s->state == PLX_SESSION_FREE)
			plx_session_recycle(&io->sessions, s);
		else
			look_after(io, s);
	}
}

/* ---- the turn ------------------------------------------------------------------------------ */

static bool key_still_good(const struct plx_keytab *t, const struct plx_session *s)
{
	const struct plx_key *k = plx_keytab_find(t, s->key_id);

	return k != NULL && k->share_prefix == s->share_prefix &&
	       memcmp(k->psk.mac_hello, s->key_mark, sizeof(s->key_mark)) == 0;
}

/* A new key table: every session is checked against it, some a turn. */
static void follow_keys(struct plx_stage_io *io)
{
	const struct plx_keytab *t = plx_keys_get(io->sh->conf.keys);

	if (t != io->tab) {
		io->tab = t;
		io->walk = 0;
	}
	if (io->walk == io->sessions.n)
		return;
	for (uint32_t i = 0; i < PLX_IO_WALK && io->walk < io->sessions.n; i++) {
		struct plx_session *s = &io->sessions.s[io->walk++];

		if (s->state == PLX_SESSION_FREE || key_still_good(t, s))
			continue;
		plx_count(io->page, PLX_M_SESSION_REVOKED, 1);
		plx_io_end(io, s, PLX_CANCEL_REVOKED, PLX_CLOSE_REVOKED);
	}
	if (io->walk == io->sessions.n)
		plx_keys_seen(io->sh->conf.keys, io->keys_reader, t->gen);
}

/* The appliance stops: every client is told until it has heard, some a turn. */
static void follow_drain(struct plx_stage_io *io)
{
	if (!io->draining) {
		if (atomic_load_explicit(&io->links->drain, memory_order_relaxed) == 0)
			return;
		io->draining = true;
		io->drain_msg = (struct plx_msg_drain){.grace_ms = io->cfg->tmr.drain_ms};
	}
	for (uint32_t i = 0; i < PLX_IO_WALK && io->drain_walk < io->sessions.n; i++) {
		struct plx_session *s = &io->sessions.s[io->drain_walk++];

		if (s->state != PLX_SESSION_OPEN)
			continue;
		(void)plx_outbox_add(&s->outbox, PLX_T_DRAIN, 0, 0, (const uint8_t *)&io->drain_msg,
		                     sizeof(io->drain_msg), PLX_DGRAM_MIN_BYTES);
		plx_io_touch(io, s);
	}
}

static uint32_t take_packets(struct plx_stage_io *io)
{
	struct rte_mbuf *m[PLX_IO_BURST];
	uint16_t n = plx_port_rx(io->port, io->queue, m, PLX_IO_BURST);

	for (uint16_t i = 0; i < n; i++) {
		if (i + 1 < n)
			__builtin_prefetch(rte_pktmbuf_mtod(m[i + 1], void *));
		plx_io_frame(io, m[i], false);
	}
	if (n > 0)
		plx_count(io->page, PLX_M_IO_RX, n);
	uint32_t k = plx_ring_mbuf_pop_n(&io->sh->foreign[io->idx], m, PLX_IO_BURST);

	for (uint32_t i = 0; i < k; i++)
		plx_io_frame(io, m[i], true);
	return n + k;
}

static uint32_t take_handshakes(struct plx_stage_io *io)
{
	struct plx_hs_tell tell;
	uint32_t n = 0;

	while (n < HANDSHAKES && plx_ring_hs_tell_pop(&io->sh->hs_tell[io->idx], &tell)) {
		plx_io_handshaken(io, &tell);
		sodium_memzero(&tell.keys, sizeof(tell.keys));
		n++;
	}
	return n;
}

static uint32_t take_events(struct plx_stage_io *io)
{
	struct plx_ev *ev;
	uint32_t n = 0;

	while (n < PLX_IO_EVENTS && (ev = plx_ev_next(io->links, io->idx)) != NULL) {
		plx_io_event(io, ev);
		plx_ev_give(io->links, ev);
		n++;
	}
	return n;
}

static uint32_t run_timers(struct plx_stage_io *io)
{
	struct plx_session *s;
	uint32_t n = 0;

	while (n < PLX_IO_TIMERS && (s = plx_sessions_due(&io->sessions, io->now_ns)) != NULL) {
		look_after(io, s);
		n++;
	}
	for (uint32_t i = 0; i < REASM_EXPIRES && plx_io_expire(io); i++)
		n++;
	return n;
}

uint32_t plx_stage_io_poll(void *state, uint64_t now_ns)
{
	struct plx_stage_io *io = state;
	uint32_t n;

	io->now_ns = now_ns;
	n = take_packets(io);
	n += take_handshakes(io);
	n += take_events(io);
	follow_keys(io);
	follow_drain(io);
	uint32_t n_timers = run_timers(io);

	if (n == 0 && n_timers > 0)
		plx_regime_say(io->page, PLX_REGIME_HOUSEKEEPING);
	n += n_timers;
	look_after_dirty(io);
	plx_io_flush(io);
	return n;
}

void plx_stage_io_farewell(struct plx_stage_io *io, uint64_t now_ns)
{
	io->now_ns = now_ns;
	for (uint32_t i = 0; i < io->sessions.n; i++)
		if (io->sessions.s[i].state != PLX_SESSION_FREE)
			plx_io_end(io, &io->sessions.s[i], PLX_CANCEL_DRAIN, PLX_CLOSE_SHUTDOWN);
	look_after_dirty(io);
	plx_io_flush(io);
}
