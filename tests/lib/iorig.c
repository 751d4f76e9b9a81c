/* The rig: rings as a port, and a client written with the wire library alone. */
#include "tests/lib/iorig.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_ethdev.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"

static const uint8_t appliance_ip[4] = {10, 77, 0, 2};

int plx_rig_eal(void)
{
	static char a0[] = "rig", a1[] = "--no-huge", a2[] = "--no-shconf", a3[] = "-m",
		    a4[] = "128", a5[] = "--no-pci", a6[] = "--no-telemetry",
		    a7[] = "--log-level=*:4", a8[] = "-l0";
	char *argv[] = {a0, a1, a2, a3, a4, a5, a6, a7, a8};

	return rte_eal_init(9, argv) < 0 ? -1 : 0;
}

struct plx_config plx_rig_config(void)
{
	return (struct plx_config){
	    .n_ports = 1,
	    .port = {{.name = "rig0", .ipv4 = {10, 77, 0, 2}, .udp_port = 7709, .n_queues = 1}},
	    .lim = {.n_sessions = 16,
	            .n_half_open = 8,
	            .n_session_requests = 4,
	            .n_requests = 8,
	            .request_bytes = 16384,
	            .reasm_bytes = 262144,
	            .prompt_tokens = 256,
	            .max_new_tokens = 256,
	            .n_samples = 2,
	            .n_stop = 4,
	            .stop_bytes = 32,
	            .n_logprobs = 4,
	            .n_slots = 8,
	            .n_kv_blocks = 100,
	            .block_tokens = 16,
	            .step_tokens = 64,
	            .step_seqs = 8,
	            .steps_in_flight = 2,
	            .unacked_tokens = 64,
	            .ring_entries = 64,
	            .n_mbufs = 4095},
	    .tmr = {.slice_us = 200,
	            .coalesce_us = 200,
	            .rtt_floor_us = 1000,
	            .ack_delay_us = 200,
	            .keepalive_ms = 1000,
	            .result_ttl_ms = 2000,
	            .reasm_ttl_ms = 1000,
	            .pause_ms = 500,
	            .drain_ms = 1000,
	            .step_deadline_ms = 1000},
	};
}

/* The ring driver is a plug-in of DPDK: its one function is found by name. */
typedef int (*from_rings)(const char *name, struct rte_ring *const rx[], unsigned int n_rx,
                          struct rte_ring *const tx[], unsigned int n_tx, unsigned int node);

static int make_port(struct plx_rig *r)
{
	static int serial;
	void *lib = dlopen("librte_net_ring.so.23", RTLD_NOW);
	from_rings make;
	char name[32];

	if (lib == NULL)
		return -1;
	*(void **)&make = dlsym(lib, "rte_eth_from_rings");
	for (uint32_t i = 0; i < r->n_io; i++) {
		snprintf(name, sizeof(name), "to_%d_%u", serial, i);
		r->to_io[i] =
		    rte_ring_create(name, PLX_RIG_QUEUE, 0, RING_F_SP_ENQ | RING_F_SC_DEQ);
		snprintf(name, sizeof(name), "from_%d_%u", serial, i);
		r->from_io[i] =
		    rte_ring_create(name, PLX_RIG_QUEUE, 0, RING_F_SP_ENQ | RING_F_SC_DEQ);
		if (r->to_io[i] == NULL || r->from_io[i] == NULL)
			return -1;
	}
	snprintf(name, sizeof(name), "rig_%d", serial++);
	int id = make(name, r->to_io, r->n_io, r->from_io, r->n_io, 0);

	return id < 0 ? -1 : plx_port_adopt(&r->port, &r->cfg, 0, (uint16_t)id, NULL);
}

int plx_rig_open(struct plx_rig *r, const struct plx_config *cfg, uint32_t n_io,
                 const char *key_file)
{
	struct plx_diag d = {0};
	size_t bytes;

	memset(r, 0, sizeof(*r));
	r->cfg = *cfg;
	r->cfg.port[0].n_queues = n_io;
	r->n_io = n_io;
	r->now_ns = plx_clock_ns();
	r->key_file = key_file;
	bytes = plx_links_bytes(&r->cfg, n_io) + plx_io_shared_bytes(&r->cfg, n_io) + (1u << 20);
	int e = plx_arena_open(&r->arena, bytes, &d);

	e = e ? e : plx_links_open(&r->links, &r->arena, &r->cfg, n_io, &d);
	e = e ? e : plx_keys_open(&r->keys, key_file, &d);
	if (!e)
		e = cfg->port[0].iface[0] != '\0' ? plx_port_open(&r->port, &r->cfg, 0, &d)
		                                  : make_port(r);
	struct plx_io_conf conf = {
	    .cfg = &r->cfg,
	    .links = &r->links,
	    .keys = &r->keys,
	    .n_io = n_io,
	    .max_datagram = 1452,
	    .features = PLX_FEAT_TEXT | PLX_FEAT_IDS | PLX_FEAT_GENERATE | PLX_FEAT_STOP |
	                PLX_FEAT_LOGPROBS | PLX_FEAT_SAMPLES | PLX_FEAT_DETERMINISTIC |
	                PLX_FEAT_NO_STREAM | PLX_FEAT_RESUME | PLX_FEAT_CONTINUE,
	    .numeric_kind = 7};

	e = e ? e : plx_io_shared_open(&r->shared, &r->arena, &conf, &d);
	for (uint32_t i = 0; i < n_io && !e; i++)
		e = plx_stage_io_open(&r->io[i], &r->shared, &r->port, (uint16_t)i, i,
		                      &r->io_page[i], &d);
	e = e ? e : plx_stage_hs_open(&r->hs, &r->shared, &r->hs_page, &d);
	if (e)
		printf("rig: %d %s\n", e, d.text);
	r->now_ns = plx_clock_ns(); /* stages count from when they were opened */
	return e;
}

void plx_rig_close(struct plx_rig *r)
{
	uint16_t id = r->port.eth_id;
	void *m;

	for (uint32_t i = 0; i < r->n_io; i++) {
		plx_stage_io_close(r->io[i]);
		while (r->to_io[i] != NULL && (rte_ring_dequeue(r->to_io[i], &m) == 0 ||
		                               rte_ring_dequeue(r->from_io[i], &m) == 0))
			rte_pktmbuf_free(m);
	}
	plx_port_close(&r->port);
	if (r->to_io[0] != NULL)
		(void)rte_eth_dev_close(id);
	for (uint32_t i = 0; i < r->n_io; i++) {
		rte_ring_free(r->to_io[i]);
		rte_ring_free(r->from_io[i]);
	}
	plx_keys_close(&r->keys);
	plx_arena_close(&r->arena);
}

void plx_rig_turn(struct plx_rig *r, uint64_t step_ns)
{
	r->now_ns += step_ns;
	for (uint32_t i = 0; i < r->n_io; i++)
		(void)plx_stage_io_poll(r->io[i], r->now_ns);
	(void)plx_stage_hs_poll(&r->hs, r->now_ns);
}

/* ---- the client ---------------------------------------------------------------------------- */

void plx_rig_client_init(struct plx_rig_client *c, struct plx_rig *r, uint64_t key_id,
                         const uint8_t psk[32], uint16_t udp_port)
{
	static const uint8_t mac[6] = {2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee};
	static const uint8_t ip[4] = {10, 77, 0, 1}, no_ip6[16];
	uint8_t rand32[32];

	memset(c, 0, sizeof(*c));
	c->rig = r;
	c->next_req = 1;
	plx_net_if_init(&c->net, mac, ip, no_ip6, udp_port);
	c->server = (struct plx_net_peer){.family = 4, .port = 7709};
	memcpy(c->server.addr, appliance_ip, 4);
	memcpy(c->server.mac, r->port.net.mac, 6);
	PLX_CHECK(plx_crypt_open(&c->crypt, true, NULL) == 0);
	if (psk != NULL)
		plx_psk_init(&c->key, key_id, psk);
	else
		plx_psk_insecure(&c->key);
	randombytes_buf(rand32, sizeof(rand32));
	plx_hsc_init(&c->hs, &c->key, 0x1000u + udp_port, c->crypt.ciphers, rand32);
}

void plx_rig_client_end(struct plx_rig_client *c)
{
	plx_crypt_close(&c->crypt);
}

void plx_rig_put(struct plx_rig_client *c, const uint8_t *pkt, uint32_t bytes)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(c->rig->port.pool);

	PLX_CHECK(m != NULL);
	uint8_t *f = rte_pktmbuf_mtod(m, uint8_t *);

	memcpy(f + plx_net_hdr_bytes(&c->server), pkt, bytes);
	uint32_t n = plx_net_output(&c->net, &c->server, f, bytes);

	m->data_len = (uint16_t)n;
	m->pkt_len = n;
	PLX_CHECK(rte_ring_enqueue(c->rig->to_io[c->queue], m) == 0);
}

/* A frame that is for another client goes to the back: tests have few of them. */
uint32_t plx_rig_get(struct plx_rig_client *c, uint8_t *pkt, uint32_t cap)
{
	for (uint32_t q = 0; q < c->rig->n_io; q++) {
		struct rte_ring *ring = c->rig->from_io[q];
		uint32_t n = rte_ring_count(ring);
		void *p;

		for (uint32_t i = 0; i < n && rte_ring_dequeue(ring, &p) == 0; i++) {
			struct rte_mbuf *m = p;
			struct plx_net_rx rx;
			uint8_t *f = rte_pktmbuf_mtod(m, uint8_t *);

			if (plx_net_input(&c->net, f, m->data_len, 2048, false, &rx) !=
			    PLX_NET_UDP) {
				(void)rte_ring_enqueue(ring, m);
				continue;
			}
			PLX_CHECK(rx.payload_bytes <= cap);
			memcpy(pkt, f + rx.payload_off, rx.payload_bytes);
			rte_pktmbuf_free(m);
			return rx.payload_bytes;
		}
	}
	return 0;
}

int plx_rig_connect(struct plx_rig_client *c)
{
	uint8_t pkt[2048];
	struct plx_hs_keys keys;
	struct plx_msg_ping ping = {.token = 77};
	struct plx_hdr h;

	plx_hsc_hello(&c->hs, pkt);
	plx_rig_put(c, pkt, PLX_HELLO_BYTES);
	for (int i = 0; i < 20; i++) {
		plx_rig_turn(c->rig, 50000);
		uint32_t n = plx_rig_get(c, pkt, sizeof(pkt));
		int e = n > 0 ? plx_hsc_input(&c->hs, &c->ack, &keys, pkt, n) : PLX_E_FORMAT;

		if (e == PLX_E_AGAIN) {
			plx_hsc_hello(&c->hs, pkt);
			plx_rig_put(c, pkt, PLX_HELLO_BYTES);
		}
		if (e != 0)
			continue;
		c->n_hello_acks++;
		plx_conn_init(&c->conn, &c->crypt, PLX_SIDE_CLIENT, c->hs.hello.session_id,
		              c->ack.session_id, &keys, &c->ack.limits, c->rig->now_ns);
		plx_rig_say(c, PLX_T_PING, 0, &ping, sizeof(ping));
		return plx_rig_expect(c, PLX_T_PONG, &h, pkt) ? 0 : -1;
	}
	return -1;
}

uint64_t plx_rig_send(struct plx_rig_client *c, struct plx_hdr *h, const void *payload,
                      uint32_t bytes)
{
	uint8_t pkt[2048];

	h->payload_bytes = (uint16_t)bytes;
	if (h->frag_count == 0)
		h->frag_count = 1;
	memcpy(pkt + PLX_HDR_BYTES, payload, bytes);
	int n = plx_conn_seal(&c->conn, &c->crypt, h, pkt, c->rig->now_ns);

	PLX_CHECK(n > 0);
	plx_rig_put(c, pkt, (uint32_t)n);
	return h->pkt_num;
}

void plx_rig_say(struct plx_rig_client *c, uint8_t type, uint64_t req_id, const void *payload,
                 uint32_t bytes)
{
	struct plx_hdr h = {.type = type, .req_id = req_id};

	(void)plx_rig_send(c, &h, payload, bytes);
}

int plx_rig_hear(struct plx_rig_client *c, struct plx_hdr *h, uint8_t *payload)
{
	uint8_t pkt[2048];
	uint32_t n;

	while ((n = plx_rig_get(c, pkt, sizeof(pkt))) > 0) {
		if (plx_conn_open(&c->conn, &c->crypt, h, pkt, n, c->rig->now_ns) != 0)
			continue;
		memcpy(payload, pkt + PLX_HDR_BYTES, h->payload_bytes);
		return 1;
	}
	return 0;
}

int plx_rig_expect(struct plx_rig_client *c, uint8_t type, struct plx_hdr *h, uint8_t *payload)
{
	for (int i = 0; i < 100; i++) {
		while (plx_rig_hear(c, h, payload))
			if (h->type == type)
				return 1;
		plx_rig_turn(c->rig, 100000);
	}
	return 0;
}

void plx_rig_ack(struct plx_rig_client *c, uint8_t type, uint64_t req_id)
{
	struct plx_msg_ack_entry e = plx_ack_whole(type, req_id, 1);
	struct plx_msg_ack_head head = plx_conn_ack_fill(&c->conn, 1, c->rig->now_ns);
	uint8_t p[64];
	int n = plx_msg_ack_encode(p, sizeof(p), &head, &e);

	PLX_CHECK(n > 0);
	plx_rig_say(c, PLX_T_ACK, 0, p, (uint32_t)n);
}

uint32_t plx_rig_req(uint8_t *msg, uint32_t cap, const char *text, uint32_t bytes)
{
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_req_writer w;

	m.max_new = 16;
	m.flags |= PLX_REQ_TEXT;
	plx_req_begin(&w, msg, cap, &m);
	plx_req_prompt_text(&w, text, bytes);
	int n = plx_req_end(&w);

	PLX_CHECK(n > 0);
	return (uint32_t)n;
}

/* ---- tok's part ---------------------------------------------------------------------------- */

struct plx_req *plx_rig_take(struct plx_rig *r, uint32_t io)
{
	struct plx_req *req;

	return plx_ring_req_pop(&r->links.io_tok[io], &req) ? req : NULL;
}

static struct plx_ev *free_event(struct plx_rig *r, const struct plx_req *req)
{
	struct plx_ev *ev;

	/* tok owns the events that are free; those that came back are taken first. */
	if (!plx_ring_ev_pop(&r->links.ev_free[req->io_idx], &ev)) {
		PLX_CHECK(r->n_fresh < r->links.n_evs);
		ev = &r->links.ev[r->n_fresh++];
	}
	memset(ev, 0, sizeof(*ev));
	return ev;
}

static void push(struct plx_rig *r, struct plx_req *req, struct plx_ev *ev, enum plx_ev_kind kind)
{
	ev->req = req;
	ev->kind = (uint8_t)kind;
	ev->io_idx = (uint16_t)req->io_idx;
	ev->out_ns = r->now_ns;
	PLX_CHECK(plx_ring_ev_push(&r->links.tok_io[req->io_idx], &ev));
}

void plx_rig_tokens(struct plx_rig *r, struct plx_req *req, uint32_t idx, int32_t id,
                    const char *text, bool last)
{
	struct plx_ev *ev = free_event(r, req);

	ev->first_idx = idx;
	ev->n_ids = id >= 0;
	ev->id[0] = id;
	ev->logprob[0] = -0.5f;
	ev->last = last;
	ev->text_bytes = (uint16_t)strlen(text);
	memcpy(ev->text, text, ev->text_bytes);
	push(r, req, ev, PLX_EV_TOKENS);
}

void plx_rig_event(struct plx_rig *r, struct plx_req *req, enum plx_ev_kind kind)
{
	struct plx_ev *ev = free_event(r, req);

	ev->accept = (struct plx_msg_accept){.queue_position = 3, .est_ttft_us = 1500};
	push(r, req, ev, kind);
}

uint64_t plx_rig_ask(struct plx_rig_client *c, const char *text)
{
	uint8_t msg[1200];
	uint32_t n = plx_rig_req(msg, sizeof(msg), text, (uint32_t)strlen(text));
	uint64_t id = c->next_req++;

	plx_rig_say(c, PLX_T_REQ, id, msg, n);
	plx_rig_turn(c->rig, 1000);
	return id;
}

void plx_rig_tok_ack(struct plx_rig_client *c, uint64_t req_id, uint32_t next, uint16_t flags)
{
	struct plx_msg_tok_ack_entry e = {.req_id = req_id, .next_idx = next, .flags = flags};
	struct plx_msg_ack_head head = plx_conn_ack_fill(&c->conn, 1, c->rig->now_ns);
	uint8_t p[64];
	int n = plx_msg_tok_ack_encode(p, sizeof(p), &head, &e);

	plx_rig_say(c, PLX_T_TOK_ACK, 0, p, (uint32_t)n);
	plx_rig_turn(c->rig, 1000);
}

void plx_rig_done(struct plx_rig *r, struct plx_req *req, uint32_t n_tokens)
{
	req->res.kind = PLX_FINAL_DONE;
	req->res.prompt_tokens = 5;
	req->res.sample[0] =
	    (struct plx_msg_done_sample){.n_tokens = n_tokens, .reason = PLX_FINISH_EOS};
	plx_rig_event(r, req, PLX_EV_FINAL);
}
