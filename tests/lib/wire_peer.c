/*
 * The appliance in a box. A sample's packets are a function of their number, so that nothing is
 * stored to send them again; DONE goes out with the last of them, and each is sent again until it
 * is acknowledged by itself.
 */
#include "tests/lib/wire_peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/wire/conn.h"
#include "dataplane/wire/credit.h"
#include "dataplane/wire/reasm.h"
#include "dataplane/wire/req.h"
#include "fw/base/check.h"

#define N_REQS       256u
#define REGION_BYTES (1u << 20)
#define WINDOW       32u /* packets of a sample not acknowledged */
#define FEATURES                                                                                   \
	(PLX_FEAT_GENERATE | PLX_FEAT_TEXT | PLX_FEAT_IDS | PLX_FEAT_MESSAGES | PLX_FEAT_STOP |    \
	 PLX_FEAT_SAMPLES | PLX_FEAT_LOGPROBS | PLX_FEAT_DETERMINISTIC | PLX_FEAT_RESUME |         \
	 PLX_FEAT_CONTINUE | PLX_FEAT_BEST_OF)

struct stream {
	uint32_t sent;  /* packets sent at least once */
	uint32_t acked; /* packets acknowledged */
	struct plx_retx timer;
};

struct request {
	uint64_t req_id; /* 0: free */
	uint32_t packets;
	uint32_t prompt_bytes;
	uint32_t max_new;
	uint16_t n_samples;
	uint16_t n_made;  /* with best_of */
	bool compress;    /* it may be: 70 tokens and the sample's number left */
	bool ended;       /* its final answer is in the outbox, or was acknowledged */
	uint64_t next_ns; /* of the next token */
	uint32_t final_bytes;
	uint8_t final_type;
	uint8_t final[PLX_SAMPLES_MAX * 12 + 128];
	struct stream stream[PLX_SAMPLES_MAX];
};

struct plx_peer {
	struct plx_peer_cfg cfg;
	struct plx_peer_counts counts;
	struct plx_crypt crypt;
	struct plx_psk psk;
	struct plx_hs_secrets secrets;
	uint64_t rng;
	bool draining;
	bool credit_due;

	bool open;
	uint8_t ephemeral[32]; /* of the session's HELLO */
	uint8_t hello_ack[PLX_HELLO_ACK_MAX];
	int hello_ack_bytes;
	struct plx_wire_conn conn;
	struct plx_path path;
	struct plx_wire_limits lim;
	struct plx_credit_rx credit;
	struct plx_req_window window;
	struct plx_outbox outbox;
	struct plx_outmsg out[2 * N_REQS];
	struct plx_pieces pieces;
	struct plx_reasm reasm;
	struct plx_reasm_session reasm_session;
	struct plx_reasm_msg reasm_msg[16];
	void *region, *book;
	struct request *req; /* [N_REQS] */
	uint8_t models[65536];
	uint32_t models_bytes;
	struct plx_msg_drain drain;
	uint8_t pkt[PLX_DGRAM_MAX_BYTES];
};

static uint64_t rnd(struct plx_peer *p)
{
	p->rng = p->rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return p->rng >> 11;
}

static void make_models(struct plx_peer *p)
{
	struct plx_models_writer w;
	struct plx_msg_model m = {
	    .context_tokens = 2048, .vocab_size = 49152, .n_embd = 576, .flags = PLX_MODEL_CHAT};
	char name[PLX_MODEL_NAME_MAX];

	plx_models_begin(&w, p->models, sizeof(p->models));
	for (uint32_t i = 0; i < (p->cfg.n_models ? p->cfg.n_models : 1); i++) {
		m.model_id = i + 1;
		m.name_bytes = (uint32_t)snprintf(name, sizeof(name), "toy-%u", i + 1);
		plx_models_add(&w, &m, name);
	}
	int n = plx_models_end(&w);

	PLX_CHECK(n > 0);
	p->models_bytes = (uint32_t)n;
}

struct plx_peer *plx_peer_new(const struct plx_peer_cfg *cfg, uint64_t now_ns)
{
	struct plx_peer *p = aligned_alloc(64, sizeof(*p));

	(void)now_ns;
	PLX_CHECK(p);
	memset(p, 0, sizeof(*p));
	p->cfg = *cfg;
	p->rng = cfg->seed + 1;
	PLX_CHECK(!plx_crypt_open(&p->crypt, true, NULL));
	if (cfg->insecure)
		plx_psk_insecure(&p->psk);
	else
		plx_psk_init(&p->psk, cfg->key_id, cfg->key);
	memset(p->secrets.cookie_key, 7, sizeof(p->secrets.cookie_key));
	memset(p->secrets.reset_key, 9, sizeof(p->secrets.reset_key));
	p->region = aligned_alloc(64, REGION_BYTES);
	p->book = calloc(1, plx_pieces_footprint(REGION_BYTES));
	p->req = calloc(N_REQS, sizeof(*p->req));
	PLX_CHECK(p->region && p->book && p->req);
	PLX_CHECK(!plx_pieces_init(&p->pieces, p->region, REGION_BYTES, p->book));
	make_models(p);
	return p;
}

void plx_peer_free(struct plx_peer *p)
{
	plx_crypt_close(&p->crypt);
	free(p->region);
	free(p->book);
	free(p->req);
	free(p);
}

/* ---- sending ---- */

static void send_sealed(struct plx_peer *p, struct plx_hdr *h, uint64_t now_ns)
{
	int n = plx_conn_seal(&p->conn, &p->crypt, h, p->pkt, now_ns);

	PLX_CHECK(n > 0);
	p->cfg.send(p->cfg.ctx, p->pkt, (size_t)n);
}

static void send_msg(struct plx_peer *p, uint8_t type, const void *payload, size_t n,
                     uint64_t now_ns)
{
	struct plx_hdr h = {.type = type, .frag_count = 1, .payload_bytes = (uint16_t)n};

	memcpy(p->pkt + PLX_HDR_BYTES, payload, n);
	send_sealed(p, &h, now_ns);
}

static void queue_final(struct plx_peer *p, struct request *r)
{
	r->ended = true;
	p->credit_due |= plx_credit_rx_release(&p->credit, r->packets);
	PLX_CHECK(plx_outbox_add(&p->outbox, r->final_type, r->req_id, 0, r->final, r->final_bytes,
	                         PLX_DGRAM_MIN_BYTES));
}

static void end_reject(struct plx_peer *p, struct request *r, int err)
{
	bool kept = p->cfg.reject_err || p->draining || !p->cfg.not_kept;
	struct plx_msg_reject m = {.code = plx_err_wire(err),
	                           .option = kept ? 0 : PLX_OPT_CONTINUE,
	                           .retry_after_us = 1500};
	const char *detail = "as told";

	m.detail_bytes = (uint16_t)strlen(detail);
	int n = plx_msg_reject_encode(r->final, sizeof(r->final), &m, detail);

	PLX_CHECK(n > 0);
	r->final_type = PLX_T_REJECT;
	r->final_bytes = (uint32_t)n;
	queue_final(p, r);
}

static void end_cancelled(struct plx_peer *p, struct request *r)
{
	struct plx_msg_cancelled m = {.cause = PLX_CANCEL_CLIENT, .n_samples = r->n_samples};
	uint32_t n_tokens[PLX_SAMPLES_MAX] = {0};
	int n = plx_msg_cancelled_encode(r->final, sizeof(r->final), &m, n_tokens);

	PLX_CHECK(n > 0);
	r->final_type = PLX_T_CANCELLED;
	r->final_bytes = (uint32_t)n;
	p->counts.n_cancelled++;
	queue_final(p, r);
}

static void end_done(struct plx_peer *p, struct request *r)
{
	struct plx_msg_done m = {.n_samples = r->n_samples,
	                         .flags = r->n_made ? PLX_DONE_BEST : 0,
	                         .numeric_kind = 77,
	                         .prompt_tokens = r->prompt_bytes,
	                         .ns = {1, 2, 3, 4, 5, 6, 7, 8}};
	struct plx_msg_done_sample s[PLX_SAMPLES_MAX] = {0};

	for (uint16_t i = 0; i < r->n_samples; i++) {
		s[i] = (struct plx_msg_done_sample){.n_tokens = r->max_new,
		                                    .reason = PLX_FINISH_LENGTH};
		plx_done_left_set(&s[i], r->compress ? 70u + i : 0);
	}
	struct plx_msg_done_tail t = {.best = {r->n_made, r->n_made * r->max_new}};

	for (uint16_t i = 0; i < r->n_samples; i++)
		t.mean[i] = -0.25f * (float)(i + 1);
	int n = plx_msg_done_encode(r->final, sizeof(r->final), &m, s, &t);

	PLX_CHECK(n > 0);
	r->final_type = PLX_T_DONE;
	r->final_bytes = (uint32_t)n;
	queue_final(p, r);
}

/* ---- tokens ---- */

static uint32_t a_packet(const struct plx_peer *p)
{
	return p->cfg.tokens_a_packet ? p->cfg.tokens_a_packet : 1;
}

/* Packets of a sample, the one for the end alone counted. */
static uint32_t n_packets(const struct plx_peer *p, const struct request *r)
{
	return (r->max_new + a_packet(p) - 1) / a_packet(p) + p->cfg.end_alone;
}

static void send_tokens(struct plx_peer *p, const struct request *r, uint16_t sample, uint32_t k,
                        uint64_t now_ns)
{
	uint32_t first = k * a_packet(p), ids[256];
	struct plx_msg_tokens m = {.sample = sample};
	char text[4096];
	size_t n_text = 0;

	if (first > r->max_new)
		first = r->max_new;
	m.first_idx = first;
	m.count = (uint16_t)(r->max_new - first < a_packet(p) ? r->max_new - first : a_packet(p));
	for (uint32_t i = 0; i < m.count; i++) {
		ids[i] = 1000u * sample + 10u * (first + i) + r->prompt_bytes % 10u;
		n_text += (size_t)snprintf(text + n_text, sizeof(text) - n_text, "%u:%u ", sample,
		                           first + i);
	}
	if (k + 1 == n_packets(p, r)) {
		m.flags = PLX_TOKENS_LAST;
		if (p->cfg.end_alone)
			n_text += (size_t)snprintf(text + n_text, sizeof(text) - n_text, ".");
	}
	m.text_bytes = (uint16_t)n_text;
	int n = plx_msg_tokens_encode(p->pkt + PLX_HDR_BYTES, PLX_DGRAM_MIN_BYTES - PLX_SEAL_BYTES,
	                              &m, ids, NULL, NULL, text);

	PLX_CHECK(n > 0);
	struct plx_hdr h = {.type = PLX_T_TOKENS,
	                    .req_id = r->req_id,
	                    .frag_count = 1,
	                    .payload_bytes = (uint16_t)n,
	                    .prio_flags = plx_hdr_pack_prio(0, PLX_F_ACK_REQ)};

	send_sealed(p, &h, now_ns);
}

static void tick_stream(struct plx_peer *p, struct request *r, uint16_t sample, bool more,
                        uint64_t now_ns)
{
	struct stream *s = &r->stream[sample];
	uint32_t n = n_packets(p, r);

	if (plx_retx_due(&s->timer, now_ns)) {
		for (uint32_t k = s->acked; k < s->sent; k++)
			send_tokens(p, r, sample, k, now_ns);
		plx_retx_arm(&s->timer, &p->conn.rtt, now_ns);
	}
	while (more && s->sent < n && s->sent - s->acked < WINDOW) {
		send_tokens(p, r, sample, s->sent++, now_ns);
		plx_retx_arm(&s->timer, &p->conn.rtt, now_ns);
		if (p->cfg.token_ns)
			break;
	}
}

static void tick_request(struct plx_peer *p, struct request *r, uint64_t now_ns)
{
	bool more = !r->ended && now_ns >= r->next_ns, all = true;

	if (!r->req_id || (r->ended && r->final_type != PLX_T_DONE))
		return;
	for (uint16_t i = 0; i < r->n_samples; i++) {
		tick_stream(p, r, i, more, now_ns);
		all = all && r->stream[i].sent == n_packets(p, r);
	}
	if (more)
		r->next_ns = now_ns + p->cfg.token_ns;
	if (all && !r->ended)
		end_done(p, r);
}

static void on_tok_ack(struct plx_peer *p, const uint8_t *payload, size_t n, uint64_t now_ns)
{
	struct plx_msg_ack_head head;
	struct plx_msg_tok_ack_entry e[PLX_ACK_MAX];

	if (plx_msg_tok_ack_decode(&head, e, payload, n))
		return;
	plx_conn_acked(&p->conn, &head, now_ns);
	for (uint16_t i = 0; i < head.n_entries; i++) {
		struct request *r = &p->req[e[i].req_id % N_REQS];

		if (r->req_id != e[i].req_id || e[i].sample >= r->n_samples)
			continue;
		struct stream *s = &r->stream[e[i].sample];
		uint32_t acked = e[i].next_idx / a_packet(p);

		if (e[i].next_idx == r->max_new)
			acked = n_packets(p, r) - p->cfg.end_alone;
		if (e[i].flags & PLX_TOK_ACK_LAST)
			acked = n_packets(p, r);
		if (acked > s->sent || acked <= s->acked)
			continue;
		s->acked = acked;
		if (s->acked == s->sent)
			plx_retx_stop(&s->timer);
		else
			plx_retx_progress(&s->timer, &p->conn.rtt, now_ns);
	}
}

/* ---- requests ---- */

/* What the client has of each sample is not made again. One token a packet. */
static void take_resumed(struct plx_peer *p, struct request *r, const struct plx_req_view *v)
{
	uint32_t n;

	for (uint16_t i = 0; i < r->n_samples; i++) {
		plx_req_resumed(v, i, &n);
		r->stream[i].sent = r->stream[i].acked = n;
		p->counts.n_resumed += n;
	}
}

static void on_whole(struct plx_peer *p, uint64_t req_id, const uint8_t *msg, size_t n,
                     uint64_t now_ns)
{
	struct request *r = &p->req[req_id % N_REQS];
	struct plx_req_view v;
	struct plx_req_fault f;
	uint32_t slot;

	if (r->req_id == req_id) {
		p->counts.n_repeated++;
		return;
	}
	if (plx_req_window_place(&p->window, req_id, &slot) != PLX_REQ_NEW)
		return;
	memset(r, 0, sizeof(*r));
	r->req_id = req_id;
	r->packets = plx_credit_packets((uint32_t)n);
	if (plx_credit_rx_charge(&p->credit, r->packets))
		p->counts.n_overdrawn++;
	plx_req_window_move(&p->window, req_id);
	p->counts.n_requests++;
	if (plx_req_decode(&v, msg, n, &p->lim, (uint32_t)(FEATURES & ~p->cfg.lacks), &f)) {
		end_reject(p, r, f.err);
		return;
	}
	r->prompt_bytes = v.m.prompt_bytes;
	r->max_new = v.m.max_new;
	r->n_samples = v.m.n_samples;
	r->n_made = v.n_made;
	r->compress = (v.m.flags & PLX_REQ_COMPRESS) != 0;
	p->counts.prompt_bytes = v.m.prompt_bytes;
	take_resumed(p, r, &v);
	if (v.continued) {
		p->counts.n_continued++;
		p->counts.continued = v.continued;
		if (p->cfg.not_kept) {
			end_reject(p, r, PLX_E_BAD_REQUEST);
			return;
		}
	}
	if (p->draining || p->cfg.reject_err) {
		end_reject(p, r, p->draining ? PLX_E_DRAINING : p->cfg.reject_err);
		return;
	}
	struct plx_msg_accept a = {.queue_position = 1, .est_ttft_us = 2, .prompt_tokens = 3};
	struct plx_hdr h = {
	    .type = PLX_T_ACCEPT, .req_id = req_id, .frag_count = 1, .payload_bytes = sizeof(a)};

	memcpy(p->pkt + PLX_HDR_BYTES, &a, sizeof(a));
	send_sealed(p, &h, now_ns);
}

static void on_req(struct plx_peer *p, const struct plx_hdr *h, const uint8_t *payload,
                   uint64_t now_ns)
{
	struct plx_msg_ack_entry e = plx_ack_whole(h->type, h->req_id, h->frag_count);
	struct plx_reasm_whole whole;

	if (p->req[h->req_id % N_REQS].req_id == h->req_id) {
		p->counts.n_repeated++;
	} else if (h->frag_count == 1) {
		on_whole(p, h->req_id, payload, h->payload_bytes, now_ns);
	} else {
		int r = plx_reasm_add(&p->reasm, &p->reasm_session, h, payload, now_ns, &whole);

		if (r == PLX_REASM_DONE) {
			on_whole(p, h->req_id, whole.buf, whole.msg_bytes, now_ns);
			plx_pieces_give(&p->pieces, whole.buf);
		} else if (plx_reasm_state(&p->reasm, &p->reasm_session, h->type, h->req_id, &e)) {
			return;
		}
	}
	plx_conn_ack(&p->conn, &e, plx_hdr_flags(h) & PLX_F_ACK_REQ, now_ns);
}

static void on_cancel(struct plx_peer *p, const struct plx_hdr *h, const uint8_t *payload,
                      uint64_t now_ns)
{
	struct plx_msg_ack_entry e = plx_ack_whole(h->type, h->req_id, 1);
	struct request *r = &p->req[h->req_id % N_REQS];
	struct plx_msg_cancel m;

	if (plx_msg_get(PLX_T_CANCEL, &m, sizeof(m), payload, h->payload_bytes))
		return;
	plx_conn_ack(&p->conn, &e, true, now_ns);
	if (r->req_id != h->req_id) { /* it overtook its REQ: a tombstone */
		memset(r, 0, sizeof(*r));
		r->req_id = h->req_id;
		r->packets = m.packets;
		plx_credit_rx_charge(&p->credit, r->packets);
		plx_req_window_move(&p->window, h->req_id);
		plx_reasm_drop(&p->reasm, &p->reasm_session, PLX_T_REQ, h->req_id);
	}
	if (!r->ended)
		end_cancelled(p, r);
}

/* ---- session ---- */

static void open_session(struct plx_peer *p, const struct plx_hs_job *job,
                         const struct plx_wire_addr *addr, uint64_t now_ns)
{
	static const struct plx_reasm_caps caps = {.max_msg_bytes = 256u << 10,
	                                           .session_bytes = REGION_BYTES,
	                                           .session_msgs = 16,
	                                           .timeout_ns = UINT64_C(5000000000)};
	uint32_t in_flight = p->cfg.max_in_flight ? p->cfg.max_in_flight : 8;
	struct plx_hs_keys keys;
	uint8_t rand32[32];

	p->lim = (struct plx_wire_limits){
	    .max_request_bytes = caps.max_msg_bytes,
	    .max_in_flight = in_flight,
	    .max_prompt_tokens = 65536,
	    .max_new = 4096,
	    .token_window = WINDOW,
	    .keepalive_ms = p->cfg.keepalive_ms ? p->cfg.keepalive_ms : 5000,
	    .max_ack_delay_us = 1000,
	    .retx_floor_us = 5000,
	    .result_ttl_ms = 10000,
	    .reasm_timeout_ms = 5000,
	    .max_samples = PLX_SAMPLES_MAX,
	    .max_datagram = p->cfg.max_datagram ? p->cfg.max_datagram : PLX_DGRAM_MIN_BYTES,
	    .max_stops = 8,
	    .max_stop_bytes = 64,
	    .max_priority = 15,
	    .max_logprobs = 20};
	struct plx_hello_ack ack = {.session_id = (uint32_t)rnd(p) | 1u,
	                            .features = FEATURES & ~p->cfg.lacks,
	                            .credit_packets = 256,
	                            .credit_requests = in_flight,
	                            .limits = p->lim};

	for (size_t i = 0; i < sizeof(rand32); i++)
		rand32[i] = (uint8_t)rnd(p);
	p->hello_ack_bytes =
	    plx_hs_respond(p->hello_ack, &keys, &ack, &p->secrets, job, &p->psk, rand32);
	PLX_CHECK(p->hello_ack_bytes > 0);
	memcpy(p->ephemeral, job->ephemeral, sizeof(p->ephemeral));
	plx_conn_init(&p->conn, &p->crypt, PLX_SIDE_APPLIANCE, ack.session_id,
	              job->client_session_id, &keys, &p->lim, now_ns);
	if (p->cfg.rekey_after)
		p->conn.rekey_after = p->cfg.rekey_after;
	plx_path_init(&p->path, addr);
	plx_credit_rx_init(&p->credit, ack.credit_packets, in_flight);
	plx_req_window_init(&p->window, in_flight);
	plx_outbox_init(&p->outbox, p->out, 2 * N_REQS);
	plx_reasm_init(&p->reasm, &p->pieces, p->reasm_msg, 16, &caps);
	memset(&p->reasm_session, 0, sizeof(p->reasm_session));
	memset(p->req, 0, N_REQS * sizeof(*p->req));
	p->open = true;
	p->counts.n_sessions++;
	plx_outbox_add(&p->outbox, PLX_T_MODELS, 0, 0, p->models, p->models_bytes,
	               PLX_DGRAM_MIN_BYTES);
}

static void on_hello(struct plx_peer *p, const uint8_t *pkt, size_t n,
                     const struct plx_wire_addr *addr, uint64_t now_ns)
{
	uint8_t reply[PLX_HS_REPLY_MAX];
	struct plx_hs_job job;
	size_t reply_bytes = 0;
	uint64_t key_id;

	if (plx_hs_key_id(&key_id, pkt, n) || key_id != p->psk.key_id)
		return;
	switch (plx_hs_check(&job, reply, &reply_bytes, &p->secrets, &p->psk, p->crypt.ciphers, pkt,
	                     n, addr, now_ns)) {
	case PLX_HS_DROP:
		return;
	case PLX_HS_REPLY:
		p->cfg.send(p->cfg.ctx, reply, reply_bytes);
		return;
	case PLX_HS_DH:
		break;
	}
	if (!p->open || memcmp(p->ephemeral, job.ephemeral, sizeof(p->ephemeral)) != 0)
		open_session(p, &job, addr, now_ns);
	p->cfg.send(p->cfg.ctx, p->hello_ack, (size_t)p->hello_ack_bytes);
}

static void on_ack(struct plx_peer *p, const uint8_t *payload, size_t n, uint64_t now_ns)
{
	struct plx_msg_ack_head head;
	struct plx_msg_ack_entry e[PLX_ACK_MAX];

	if (plx_msg_ack_decode(&head, e, payload, n))
		return;
	plx_conn_acked(&p->conn, &head, now_ns);
	for (uint16_t i = 0; i < head.n_entries; i++) {
		struct plx_outmsg *o =
		    plx_outbox_ack(&p->outbox, &e[i], head.largest_pkt_num, &p->conn.rtt, now_ns);

		if (!o)
			continue;
		if (o->type != PLX_T_MODELS && o->type != PLX_T_DRAIN)
			p->counts.n_finals_acked++;
		plx_outbox_remove(&p->outbox, o);
	}
}

static void on_ping(struct plx_peer *p, const uint8_t *payload, size_t n, uint64_t now_ns)
{
	struct plx_msg_ping m;
	struct plx_msg_pong pong = {.load = {.queued_tokens = 11, .free_kv_blocks = 22}};

	if (plx_msg_get(PLX_T_PING, &m, sizeof(m), payload, n))
		return;
	pong.token = m.token;
	pong.credit = plx_credit_rx_now(&p->credit);
	send_msg(p, PLX_T_PONG, &pong, sizeof(pong), now_ns);
}

static void seen_from(struct plx_peer *p, const struct plx_hdr *h, const uint8_t *payload, size_t n,
                      const struct plx_wire_addr *addr, uint64_t now_ns)
{
	struct plx_msg_path m;

	if (h->type == PLX_T_PATH_RESPONSE &&
	    !plx_msg_get(h->type, &m, sizeof(m), payload, h->payload_bytes) &&
	    plx_path_response(&p->path, addr, m.nonce))
		p->counts.n_moved++;
	if (plx_path_seen(&p->path, addr, n, h->pkt_num == p->conn.rx_largest, rnd(p) | 1)) {
		m.nonce = p->path.nonce;
		send_msg(p, PLX_T_PATH_CHALLENGE, &m, sizeof(m), now_ns);
	}
}

static void on_sealed(struct plx_peer *p, const struct plx_hdr *h, const uint8_t *payload,
                      uint64_t now_ns)
{
	if (h->type == PLX_T_REQ)
		on_req(p, h, payload, now_ns);
	else if (h->type == PLX_T_CANCEL)
		on_cancel(p, h, payload, now_ns);
	else if (h->type == PLX_T_TOK_ACK)
		on_tok_ack(p, payload, h->payload_bytes, now_ns);
	else if (h->type == PLX_T_ACK)
		on_ack(p, payload, h->payload_bytes, now_ns);
	else if (h->type == PLX_T_PING)
		on_ping(p, payload, h->payload_bytes, now_ns);
	else if (h->type == PLX_T_CLOSE)
		p->counts.closed = true;
}

void plx_peer_input(struct plx_peer *p, uint8_t *pkt, size_t n, const struct plx_wire_addr *addr,
                    uint64_t now_ns)
{
	uint8_t reset[PLX_RESET_BYTES];
	struct plx_hdr h;

	if (plx_hdr_decode(&h, pkt, n, PLX_SIDE_CLIENT) == 0 && h.type == PLX_T_HELLO) {
		on_hello(p, pkt, n, addr, now_ns);
	} else if (p->open && !plx_conn_open(&p->conn, &p->crypt, &h, pkt, n, now_ns)) {
		seen_from(p, &h, pkt + PLX_HDR_BYTES, n, addr, now_ns);
		on_sealed(p, &h, pkt + PLX_HDR_BYTES, now_ns);
		if (plx_hdr_flags(&h) & PLX_F_ACK_REQ && !p->conn.ack_due_ns)
			plx_conn_ack_head(&p->conn, now_ns);
	} else if (plx_hdr_decode(&h, pkt, n, PLX_SIDE_CLIENT) == 0 &&
	           (!p->open || h.session_id != p->conn.local_id)) {
		n = plx_reset_make(reset, &p->secrets, h.session_id, addr, n);
		if (n)
			p->cfg.send(p->cfg.ctx, reset, n);
	}
}

void plx_peer_tick(struct plx_peer *p, uint64_t now_ns)
{
	struct plx_out_frag f;

	if (!p->open)
		return;
	for (uint32_t i = 0; i < N_REQS; i++)
		tick_request(p, &p->req[i], now_ns);
	while (plx_outbox_next(&p->outbox, now_ns, &f)) {
		memcpy(p->pkt + PLX_HDR_BYTES, f.bytes, f.h.payload_bytes);
		send_sealed(p, &f.h, now_ns);
		plx_outbox_sent(&p->outbox, &f, f.h.pkt_num, &p->conn.rtt, now_ns);
	}
	if (p->credit_due) {
		struct plx_msg_credit m = plx_credit_rx_now(&p->credit);

		p->credit_due = false;
		send_msg(p, PLX_T_CREDIT, &m, sizeof(m), now_ns);
	}
	int n = plx_conn_ack_flush(&p->conn, &p->crypt, p->pkt, PLX_DGRAM_MIN_BYTES, now_ns);

	if (n > 0)
		p->cfg.send(p->cfg.ctx, p->pkt, (size_t)n);
}

uint64_t plx_peer_next_ns(const struct plx_peer *p)
{
	uint64_t next = p->open ? plx_outbox_deadline(&p->outbox) : UINT64_MAX;

	if (p->open && p->conn.ack_due_ns && p->conn.ack_due_ns < next)
		next = p->conn.ack_due_ns;
	for (uint32_t i = 0; p->open && i < N_REQS; i++) {
		const struct request *r = &p->req[i];

		if (!r->req_id || (r->ended && r->final_type != PLX_T_DONE))
			continue;
		if (!r->ended && r->next_ns < next)
			next = r->next_ns;
		for (uint32_t k = 0; k < r->n_samples; k++)
			if (r->stream[k].timer.deadline_ns && r->stream[k].timer.deadline_ns < next)
				next = r->stream[k].timer.deadline_ns;
	}
	return next;
}

void plx_peer_restart(struct plx_peer *p)
{
	p->open = p->draining = false;
	plx_conn_wipe(&p->conn);
	memset(p->secrets.cookie_key, (int)(rnd(p) & 255), sizeof(p->secrets.cookie_key));
}

void plx_peer_drain(struct plx_peer *p, uint64_t now_ns)
{
	(void)now_ns;
	p->draining = true;
	p->drain.grace_ms = 1234;
	plx_outbox_add(&p->outbox, PLX_T_DRAIN, 0, 0, (const uint8_t *)&p->drain, sizeof(p->drain),
	               PLX_DGRAM_MIN_BYTES);
}

void plx_peer_say_close(struct plx_peer *p, enum plx_close_code code, uint64_t now_ns)
{
	struct plx_msg_close m = {.code = code};

	send_msg(p, PLX_T_CLOSE, &m, sizeof(m), now_ns);
	p->open = false;
}

void plx_peer_say(struct plx_peer *p, const struct plx_hdr *h, const uint8_t *payload,
                  uint64_t now_ns)
{
	struct plx_hdr copy = *h;

	if (!p->open)
		return;
	memcpy(p->pkt + PLX_HDR_BYTES, payload, h->payload_bytes);
	send_sealed(p, &copy, now_ns);
}

void plx_peer_set(struct plx_peer *p, const struct plx_peer_cfg *cfg)
{
	p->cfg.token_ns = cfg->token_ns;
	p->cfg.tokens_a_packet = cfg->tokens_a_packet;
	p->cfg.end_alone = cfg->end_alone;
	p->cfg.reject_err = cfg->reject_err;
	p->cfg.not_kept = cfg->not_kept;
	p->cfg.lacks = cfg->lacks;
}

const struct plx_peer_counts *plx_peer_counts_of(const struct plx_peer *p)
{
	return &p->counts;
}
