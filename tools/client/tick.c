/*
 * Packets that leave: first transmissions, retransmissions, acknowledgements, PINGs; and the timers
 * that decide over them.
 *
 * Of our own accord we PING when we were silent for a keepalive, when the appliance was silent for
 * a second with requests unfinished, and ten times a second while a request waits for credit.
 */
#include <string.h>

#include "tools/client/core.h"

#define BLOCKED_NS      (1 * PLX_NS_PER_MS) /* until a full socket is tried again */
#define BUSY_PROBE_NS   (1 * PLX_NS_PER_S)
#define CREDIT_PROBE_NS (100 * PLX_NS_PER_MS)
#define HOLE_TIMEOUTS   3u /* of one message in datagrams over the minimum */

int plx_client_send(struct plx_client *c, const uint8_t *pkt, size_t n_bytes, uint64_t now_ns)
{
	int err = c->env.send(c->env.ctx, pkt, n_bytes);

	if (err == PLX_E_AGAIN)
		c->blocked_ns = now_ns + BLOCKED_NS;
	if (!err)
		c->count.packets_sent++;
	return err;
}

/* Seal what stands behind the header's place in c->pkt, and send it. */
static int seal_and_send(struct plx_client *c, struct plx_hdr *h, uint64_t now_ns)
{
	int n = plx_conn_seal(&c->conn, &c->crypt, h, c->pkt, now_ns);

	if (n < 0) {
		plx_client_lose(c, PLX_E_LOST, "the session's keys are used up", now_ns);
		return n;
	}
	return plx_client_send(c, c->pkt, (size_t)n, now_ns);
}

int plx_client_send_msg(struct plx_client *c, uint8_t type, uint8_t flags, uint64_t req_id,
                        const void *payload, uint16_t payload_bytes, uint64_t now_ns)
{
	struct plx_hdr h = {.type = type,
	                    .req_id = req_id,
	                    .frag_count = 1,
	                    .payload_bytes = payload_bytes,
	                    .prio_flags = plx_hdr_pack_prio(0, flags)};

	PLX_CHECK(payload_bytes <= PLX_DGRAM_MIN_BYTES - PLX_SEAL_BYTES);
	memcpy(c->pkt + PLX_HDR_BYTES, payload, payload_bytes);
	return seal_and_send(c, &h, now_ns);
}

void plx_client_say_close(struct plx_client *c, uint64_t now_ns)
{
	struct plx_msg_close m = {.code = PLX_CLOSE_DONE};

	if (c->state == PLX_CL_OPEN)
		plx_client_send_msg(c, PLX_T_CLOSE, 0, 0, &m, sizeof(m), now_ns);
}

/* ---- PINGs ---- */

/* A PING whose datagram has n_bytes, at least what PING needs. */
static void send_ping(struct plx_client *c, uint64_t token, uint16_t n_bytes, uint64_t now_ns)
{
	struct plx_hdr h = {.type = PLX_T_PING, .frag_count = 1};
	struct plx_msg_ping m = {.token = token};

	h.payload_bytes =
	    (uint16_t)(n_bytes > PLX_SEAL_BYTES + sizeof(m) ? n_bytes - PLX_SEAL_BYTES : sizeof(m));
	memset(c->pkt + PLX_HDR_BYTES, 0, h.payload_bytes);
	memcpy(c->pkt + PLX_HDR_BYTES, &m, sizeof(m));
	seal_and_send(c, &h, now_ns);
}

void plx_client_probe(struct plx_client *c, uint64_t now_ns)
{
	c->probe_token = ++c->last_token;
	c->probe_ns = now_ns;
	send_ping(c, c->probe_token, 0, now_ns);
}

static void ping_once(struct plx_client *c, struct plx_client_ping_state *p, uint64_t now_ns)
{
	p->wire_token = ++c->last_token;
	p->sent_ns = now_ns;
	send_ping(c, p->wire_token, 0, now_ns);
	plx_retx_arm(&p->timer, &c->conn.rtt, now_ns);
}

int plx_client_ping(struct plx_client *c, uint64_t *token)
{
	if (c->state != PLX_CL_OPEN)
		return PLX_E_AGAIN;
	for (uint32_t i = 0; i < PLX_CLIENT_PINGS; i++) {
		struct plx_client_ping_state *p = &c->ping[i];

		if (p->user_token)
			continue;
		memset(p, 0, sizeof(*p));
		*token = p->user_token = ++c->last_token;
		ping_once(c, p, c->env.now_ns(c->env.ctx));
		return 0;
	}
	return PLX_E_FULL;
}

static void tick_pings(struct plx_client *c, uint64_t now_ns)
{
	for (uint32_t i = 0; i < PLX_CLIENT_PINGS; i++)
		if (c->ping[i].user_token && plx_retx_due(&c->ping[i].timer, now_ns))
			ping_once(c, &c->ping[i], now_ns);
}

/* When the next PING of our own is due. */
static uint64_t probe_due(const struct plx_client *c)
{
	uint64_t keepalive = c->ack.limits.keepalive_ms * PLX_NS_PER_MS;
	uint64_t busy = keepalive < BUSY_PROBE_NS ? keepalive : BUSY_PROBE_NS;
	uint64_t due = c->conn.tx_last_ns + keepalive, heard = c->conn.rx_last_ns;

	if (c->n_slots_used) {
		uint64_t since = heard > c->probe_ns ? heard : c->probe_ns;

		due = since + busy < due ? since + busy : due;
	}
	if (c->n_waiting && c->probe_ns + CREDIT_PROBE_NS < due)
		due = c->probe_ns + CREDIT_PROBE_NS;
	return due;
}

/* ---- messages ---- */

/*
 * A message that keeps timing out: true when it begins anew. In large datagrams the path may carry
 * them no longer, and it is cut smaller. After that an acknowledgement still under way may have
 * spoken of the larger cut, so that the appliance lacks the fragment 0 that we hold for
 * acknowledged: it goes again.
 */
static bool check_black_hole(struct plx_client *c, struct plx_outmsg *o, uint64_t now_ns)
{
	if (o->timer.n_timeouts >= 2 * HOLE_TIMEOUTS && o->base)
		return !plx_outbox_restart(o, o->dgram_bytes);
	if (!o->timer.n_timeouts || o->dgram_bytes <= PLX_DGRAM_MIN_BYTES)
		return false;
	plx_pmtu_timeouts(&c->pmtu, o->dgram_bytes, o->timer.n_timeouts, now_ns);
	if (o->timer.n_timeouts < HOLE_TIMEOUTS || c->pmtu.bytes >= o->dgram_bytes)
		return false;
	return !plx_outbox_restart(o, c->pmtu.bytes);
}

static void tick_outbox(struct plx_client *c, uint64_t now_ns)
{
	struct plx_out_frag f;

	for (uint32_t i = 0; i < PLX_CLIENT_SEND_BURST && now_ns >= c->blocked_ns; i++) {
		if (!plx_outbox_next(&c->outbox, now_ns, &f))
			return;
		if (check_black_hole(c, f.out, now_ns))
			continue;
		memcpy(c->pkt + PLX_HDR_BYTES, f.bytes, f.h.payload_bytes);
		int err = seal_and_send(c, &f.h, now_ns);

		if (c->state != PLX_CL_OPEN || err == PLX_E_AGAIN)
			return;
		/* One that the host refused counts as lost on the way. */
		plx_outbox_sent(&c->outbox, &f, f.h.pkt_num, &c->conn.rtt, now_ns);
	}
}

static void tick_acks(struct plx_client *c, uint64_t now_ns)
{
	if (c->tok_ack_due_ns && now_ns >= c->tok_ack_due_ns)
		plx_client_tok_acks(c, now_ns);
	if (c->state != PLX_CL_OPEN)
		return;
	int n = plx_conn_ack_flush(&c->conn, &c->crypt, c->pkt, PLX_DGRAM_MIN_BYTES, now_ns);

	if (n > 0)
		plx_client_send(c, c->pkt, (size_t)n, now_ns);
}

/* When the session counts as dead: three keepalives without a word, or what the caller allows. */
static uint64_t silence_end(const struct plx_client *c)
{
	uint64_t three = 3 * c->ack.limits.keepalive_ms * PLX_NS_PER_MS;
	uint64_t ours = c->cfg.silence_timeout_ms * PLX_NS_PER_MS;

	return c->conn.rx_last_ns + (three < ours ? three : ours);
}

static void tick_open(struct plx_client *c, uint64_t now_ns)
{
	uint16_t probe_bytes;

	if (now_ns >= silence_end(c)) {
		plx_client_lose(
		    c, PLX_E_TIMEOUT,
		    "nothing came from the appliance for too long: it is down, hangs or "
		    "can't be reached",
		    now_ns);
		return;
	}
	if (c->lack_ns && now_ns >= c->lack_ns)
		plx_client_lacking(c, now_ns);
	plx_client_begin(c);
	tick_outbox(c, now_ns);
	if (c->state == PLX_CL_OPEN)
		tick_acks(c, now_ns);
	if (c->state != PLX_CL_OPEN)
		return;
	tick_pings(c, now_ns);
	plx_reasm_expire(&c->reasm, now_ns, PLX_CLIENT_REASM_MSGS);
	if (now_ns >= probe_due(c))
		plx_client_probe(c, now_ns);
	probe_bytes = plx_pmtu_poll(&c->pmtu, c->last_token + 1, &c->conn.rtt, now_ns);
	if (probe_bytes) {
		c->last_token++;
		send_ping(c, c->last_token, probe_bytes, now_ns);
	}
}

int plx_client_tick(struct plx_client *c, uint64_t now_ns)
{
	c->wake = false;
	if (c->state == PLX_CL_OPEN)
		tick_open(c, now_ns);
	if (c->state == PLX_CL_HANDSHAKE)
		plx_client_hs_tick(c, now_ns);
	return c->state == PLX_CL_CLOSED ? PLX_E_CLOSED : 0;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t next_open(const struct plx_client *c)
{
	uint64_t next = plx_outbox_deadline(&c->outbox);

	if (next < c->blocked_ns)
		next = c->blocked_ns;
	next = min64(next, silence_end(c));
	next = min64(next, probe_due(c));
	next = min64(next, plx_pmtu_deadline(&c->pmtu));
	if (c->conn.ack_due_ns)
		next = min64(next, c->conn.ack_due_ns);
	if (c->lack_ns)
		next = min64(next, c->lack_ns);
	if (c->n_waiting)
		next = min64(next, plx_client_waits_until(c));
	if (c->tok_ack_due_ns)
		next = min64(next, c->tok_ack_due_ns);
	for (uint32_t i = 0; i < PLX_CLIENT_PINGS; i++)
		if (c->ping[i].user_token && c->ping[i].timer.deadline_ns)
			next = min64(next, c->ping[i].timer.deadline_ns);
	return next;
}

uint64_t plx_client_next_ns(const struct plx_client *c)
{
	if (c->state == PLX_CL_CLOSED)
		return UINT64_MAX;
	if (c->wake)
		return 0;
	if (c->state == PLX_CL_HANDSHAKE)
		return min64(c->hs_next_ns,
		             c->hs_began_ns + c->cfg.connect_timeout_ms * PLX_NS_PER_MS);
	return next_open(c);
}
