/*
 * Sessions made and lost: memory, handshake, reconnection.
 *
 * A client is in one of three states. HANDSHAKE: HELLO is repeated until HELLO_ACK comes or the
 * connect timeout passes. OPEN: conn holds the keys. CLOSED: for good.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "tools/client/core.h"

#define HELLO_FIRST_WAIT_MS 100u
#define HELLO_MAX_WAIT_MS   1000u

void plx_client_config_init(struct plx_client_config *cfg)
{
	*cfg = (struct plx_client_config){.port = PLX_CLIENT_PORT,
	                                  .reconnect = true,
	                                  .connect_timeout_ms = 5000,
	                                  .silence_timeout_ms = 10000,
	                                  .n_requests = 64,
	                                  .request_bytes = 4u << 20,
	                                  .n_packets = 512,
	                                  .datagram_bytes = 1472};
}

static int check_config(const struct plx_client_config *cfg, struct plx_diag *d)
{
	if (cfg->n_requests < 1 || cfg->n_requests > 1024)
		return plx_diag_set(d, PLX_E_INVAL, "n_requests is %u; give 1 to 1024",
		                    cfg->n_requests);
	if (cfg->n_packets < 16)
		return plx_diag_set(d, PLX_E_INVAL, "n_packets is %u; give at least 16",
		                    cfg->n_packets);
	if (cfg->datagram_bytes < PLX_DGRAM_MIN_BYTES || cfg->datagram_bytes > PLX_DGRAM_MAX_BYTES)
		return plx_diag_set(d, PLX_E_INVAL, "datagram_bytes is %u; give %u to %u",
		                    cfg->datagram_bytes, PLX_DGRAM_MIN_BYTES, PLX_DGRAM_MAX_BYTES);
	if (cfg->request_bytes < PLX_REQ_BLOCK_BYTES)
		return plx_diag_set(d, PLX_E_INVAL, "request_bytes is %u; give at least %u",
		                    cfg->request_bytes, PLX_REQ_BLOCK_BYTES);
	if (!cfg->connect_timeout_ms || !cfg->silence_timeout_ms)
		return plx_diag_set(d, PLX_E_INVAL, "a timeout is 0; give milliseconds");
	return 0;
}

/* ---- handshake ---- */

static void begin_handshake(struct plx_client *c, uint64_t now_ns)
{
	uint8_t rand32[32];

	do
		c->env.random(c->env.ctx, &c->local_id, sizeof(c->local_id));
	while (!c->local_id);
	c->env.random(c->env.ctx, rand32, sizeof(rand32));
	plx_hsc_init(&c->hs, &c->psk, c->local_id, c->crypt.ciphers, rand32);
	sodium_memzero(rand32, sizeof(rand32));
	c->state = PLX_CL_HANDSHAKE;
	c->hs_began_ns = c->hs_next_ns = now_ns;
	c->hs_wait_ms = HELLO_FIRST_WAIT_MS;
	c->hs_heard = false;
	c->hs_said = c->hs_refused = 0;
	c->wake = true;
}

static void say_hello(struct plx_client *c, uint64_t now_ns)
{
	uint8_t pkt[PLX_HELLO_BYTES];

	plx_hsc_hello(&c->hs, pkt);
	c->hs_said++;
	c->hs_next_ns = now_ns + c->hs_wait_ms * PLX_NS_PER_MS;
	if (c->hs_wait_ms < HELLO_MAX_WAIT_MS)
		c->hs_wait_ms *= 2;
	if (plx_client_send(c, pkt, sizeof(pkt), now_ns) == PLX_E_IO)
		plx_client_hs_refused(c, now_ns);
}

void plx_client_hs_refused(struct plx_client *c, uint64_t now_ns)
{
	c->hs_refused |= 1u << c->addr_idx;
	if (c->state == PLX_CL_HANDSHAKE && !c->hs_heard && c->hs_said < c->env.n_addrs)
		c->hs_next_ns = now_ns;
}

/* Nobody answered: the next address gets a HELLO. */
static void next_addr(struct plx_client *c)
{
	if (c->hs_said && !c->hs_heard && c->env.n_addrs > 1)
		c->addr_idx = c->env.next_addr(c->env.ctx);
}

static bool all_refused(const struct plx_client *c)
{
	uint32_t n = c->env.n_addrs ? c->env.n_addrs : 1;

	return c->hs_refused == (1u << n) - 1;
}

static void give_up_handshake(struct plx_client *c, uint64_t now_ns)
{
	char why[PLX_CLIENT_WHY_BYTES];
	double s = (double)c->cfg.connect_timeout_ms / 1000;

	if (c->hs_heard)
		snprintf(why, sizeof(why),
		         "%s answered but did not finish the handshake in %.1f s; it may have no "
		         "session free, try again later",
		         c->peer_name, s);
	else if (all_refused(c))
		snprintf(
		    why, sizeof(why),
		    "%s says that nothing listens there; start polluxd or give its address and "
		    "port",
		    c->peer_name);
	else
		snprintf(
		    why, sizeof(why),
		    "no answer from %s in %.1f s: it is not running or not reachable, or it does "
		    "not know key id %llx with this key (a wrong key gets silence)",
		    c->peer_name, s, (unsigned long long)c->psk.key_id);
	plx_client_lose(c, PLX_E_TIMEOUT, why, now_ns);
}

void plx_client_hs_tick(struct plx_client *c, uint64_t now_ns)
{
	if (now_ns - c->hs_began_ns >= c->cfg.connect_timeout_ms * PLX_NS_PER_MS)
		give_up_handshake(c, now_ns);
	if (c->state != PLX_CL_HANDSHAKE || now_ns < c->hs_next_ns)
		return;
	next_addr(c);
	say_hello(c, now_ns);
}

static void open_session(struct plx_client *c, const struct plx_hs_keys *keys, uint64_t now_ns)
{
	static const struct plx_reasm_caps caps = {.max_msg_bytes = PLX_CLIENT_MODELS_BYTES,
	                                           .session_bytes = PLX_CLIENT_MODELS_BYTES,
	                                           .session_msgs = PLX_CLIENT_REASM_MSGS,
	                                           .timeout_ns = 10 * PLX_NS_PER_S};
	uint16_t dgram = c->dgram_max;

	if (dgram > c->ack.limits.max_datagram)
		dgram = c->ack.limits.max_datagram;
	if (dgram < PLX_DGRAM_MIN_BYTES)
		dgram = PLX_DGRAM_MIN_BYTES;
	plx_conn_init(&c->conn, &c->crypt, PLX_SIDE_CLIENT, c->local_id, c->ack.session_id, keys,
	              &c->ack.limits, now_ns);
	plx_credit_tx_init(&c->credit, c->ack.credit_packets, c->ack.credit_requests);
	plx_pmtu_init(&c->pmtu, dgram);
	plx_reasm_init(&c->reasm, &c->pieces, c->reasm_msg, PLX_CLIENT_REASM_MSGS, &caps);
	memset(&c->reasm_session, 0, sizeof(c->reasm_session));
	c->conn.rx_last_ns = now_ns;
	c->last_req_id = 0;
	memset(c->past, 0, sizeof(c->past));
	c->models_here = c->draining = false;
	c->n_late = 0;
	c->tok_ack_due_ns = c->blocked_ns = c->lack_ns = 0;
	c->state = PLX_CL_OPEN;
	c->count.n_sessions++;
	plx_client_note(c, PLX_CLIENT_EV_OPEN);
	plx_client_probe(c, now_ns); /* the first sealed packet confirms the session */
}

void plx_client_hs_input(struct plx_client *c, const uint8_t *pkt, size_t n_bytes, uint64_t now_ns)
{
	struct plx_hs_keys keys;

	if (c->state != PLX_CL_HANDSHAKE) {
		c->count.packets_dropped++;
		return;
	}
	int err = plx_hsc_input(&c->hs, &c->ack, &keys, pkt, n_bytes);

	switch (err) {
	case 0:
		open_session(c, &keys, now_ns);
		sodium_memzero(&keys, sizeof(keys));
		sodium_memzero(&c->hs, sizeof(c->hs));
		break;
	case PLX_E_AGAIN:
		c->hs_heard = true;
		say_hello(c, now_ns);
		break;
	case PLX_E_UNSUPPORTED:
		plx_client_lose(c, PLX_E_UNSUPPORTED,
		                "the appliance speaks no protocol version that this client knows; "
		                "update the older of the two",
		                now_ns);
		break;
	default:
		c->count.packets_dropped++;
	}
}

/* ---- loss ---- */

void plx_client_lose(struct plx_client *c, int err, const char *why, uint64_t now_ns)
{
	bool again = c->cfg.reconnect && c->state == PLX_CL_OPEN && err != PLX_E_AUTH &&
	             err != PLX_E_FORMAT && err != PLX_E_UNSUPPORTED;
	struct plx_client_event *ev;

	if (c->state == PLX_CL_CLOSED)
		return;
	snprintf(c->why, sizeof(c->why), "%s", why);
	c->why_err = err;
	plx_client_slots_lost(c, err, c->why, again);
	if (c->state == PLX_CL_OPEN) {
		c->count.retransmits += c->outbox.n_retx;
		c->count.spurious += c->outbox.n_spurious;
		c->count.rekeys += c->conn.tx_epoch;
		plx_outbox_init(&c->outbox, c->out, 2 * c->cfg.n_requests);
		plx_reasm_drop_all(&c->reasm, &c->reasm_session);
		plx_conn_wipe(&c->conn);
	}
	memset(c->ping, 0, sizeof(c->ping));
	c->n_late = 0;
	ev = plx_client_note(c, again ? PLX_CLIENT_EV_LOST : PLX_CLIENT_EV_CLOSED);
	if (ev)
		ev->failed = (struct plx_client_failed){.err = err, .why = c->why};
	if (again)
		begin_handshake(c, now_ns);
	else
		c->state = PLX_CL_CLOSED;
}

/* ---- memory ---- */

static int take_memory(struct plx_client *c)
{
	c->slot = calloc(c->cfg.n_requests, sizeof(*c->slot));
	c->out = calloc(2 * (size_t)c->cfg.n_requests, sizeof(*c->out));
	c->reasm_region = aligned_alloc(64, PLX_CLIENT_MODELS_BYTES * 2);
	c->reasm_book = calloc(1, plx_pieces_footprint(PLX_CLIENT_MODELS_BYTES * 2));
	if (!c->slot || !c->out || !c->reasm_region || !c->reasm_book)
		return PLX_E_NOMEM;
	return plx_pieces_init(&c->pieces, c->reasm_region, PLX_CLIENT_MODELS_BYTES * 2,
	                       c->reasm_book);
}

int plx_client_make(struct plx_client **out, const struct plx_client_config *cfg,
                    const struct plx_client_env *env, struct plx_diag *d)
{
	int err = check_config(cfg, d);
	struct plx_client *c;

	*out = NULL;
	if (err)
		return err;
	c = aligned_alloc(64, sizeof(*c));
	if (!c)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for a client");
	memset(c, 0, sizeof(*c));
	c->cfg = *cfg;
	c->cfg.host = NULL;
	sodium_memzero(c->cfg.key, sizeof(c->cfg.key));
	c->env = *env;
	c->fd = -1;
	c->dgram_max = cfg->datagram_bytes;
	snprintf(c->peer_name, sizeof(c->peer_name), "%s port %u", cfg->host ? cfg->host : "peer",
	         cfg->port);
	err = plx_crypt_open(&c->crypt, true, d);
	if (!err)
		err = take_memory(c);
	if (err) {
		plx_client_free(c);
		return plx_diag_set(d, err, "no memory for %u requests", cfg->n_requests);
	}
	if (cfg->insecure)
		plx_psk_insecure(&c->psk);
	else
		plx_psk_init(&c->psk, cfg->key_id, cfg->key);
	plx_outbox_init(&c->outbox, c->out, 2 * cfg->n_requests);
	begin_handshake(c, env->now_ns(env->ctx));
	*out = c;
	return 0;
}

void plx_client_free(struct plx_client *c)
{
	plx_client_events_free(c);
	for (uint32_t i = 0; c->slot && i < c->cfg.n_requests; i++) {
		struct plx_client_slot *s = &c->slot[i];

		while (s->held) {
			struct plx_client_held *h = s->held;

			s->held = h->next;
			plx_client_node_drop(c, h->node);
			free(h);
		}
		free(s->msg);
		free(s->more);
		free(s->again);
		for (uint32_t k = 0; k < PLX_CLIENT_SAMPLES_MAX; k++)
			free(s->had[k].id);
	}
	plx_crypt_close(&c->crypt);
	free(c->slot);
	free(c->out);
	free(c->reasm_region);
	free(c->reasm_book);
	free(c->models);
	sodium_memzero(c, sizeof(*c));
	free(c);
}

/* ---- what is known ---- */

const char *plx_client_why(const struct plx_client *c)
{
	return c->why;
}

void plx_client_info(const struct plx_client *c, struct plx_client_info *info)
{
	*info = c->count;
	info->open = c->state == PLX_CL_OPEN;
	info->n_unfinished = c->n_slots_used;
	if (!info->n_sessions)
		return;
	info->features = (uint32_t)c->ack.features;
	info->max_in_flight = c->ack.limits.max_in_flight;
	info->max_request_bytes = c->ack.limits.max_request_bytes;
	info->max_prompt_tokens = c->ack.limits.max_prompt_tokens;
	info->max_new = c->ack.limits.max_new;
	info->keepalive_ms = c->ack.limits.keepalive_ms;
	info->max_samples = c->ack.limits.max_samples;
	info->datagram_bytes = c->pmtu.bytes;
	info->cipher =
	    c->ack.cipher == PLX_CIPHER_AES_256_GCM ? "AES-256-GCM" : "ChaCha20-Poly1305";
	info->srtt_ns = c->conn.rtt.srtt_ns;
	if (c->state != PLX_CL_OPEN)
		return;
	info->retransmits += c->outbox.n_retx;
	info->spurious += c->outbox.n_spurious;
	info->rekeys += c->conn.tx_epoch;
}

bool plx_client_model(const struct plx_client *c, uint32_t idx, struct plx_client_model *m)
{
	struct plx_models_reader r;
	struct plx_msg_model e;
	const char *name;

	if (!c->models || plx_models_open(&r, c->models, c->models_bytes))
		return false;
	for (uint32_t i = 0; plx_models_next(&r, &e, &name); i++) {
		if (i != idx)
			continue;
		*m = (struct plx_client_model){.model_id = e.model_id,
		                               .context_tokens = e.context_tokens,
		                               .vocab_size = e.vocab_size,
		                               .n_embd = e.n_embd,
		                               .chat = e.flags & PLX_MODEL_CHAT};
		memcpy(m->hash, e.hash, sizeof(m->hash));
		snprintf(m->name, sizeof(m->name), "%.*s", (int)e.name_bytes, name);
		return true;
	}
	return false;
}
