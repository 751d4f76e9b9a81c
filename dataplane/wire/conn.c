/*
 * Keys and epochs, packet numbers, replay, round trips, pending acknowledgements: what both ends'
 * sessions have in common.
 */
#include "dataplane/wire/conn.h"

#include <string.h>

#include <sodium.h>

#include "fw/base/check.h"

enum { PREV, CUR, NEXT };

void plx_conn_init(struct plx_wire_conn *c, struct plx_crypt *x, enum plx_wire_side side,
                   uint32_t local_id, uint32_t peer_id, const struct plx_hs_keys *keys,
                   const struct plx_wire_limits *lim, uint64_t now_ns)
{
	bool client = side == PLX_SIDE_CLIENT;

	memset(c, 0, sizeof(*c));
	memcpy(c->tx_secret, client ? keys->secret_c2a : keys->secret_a2c, PLX_SECRET_BYTES);
	memcpy(c->rx_secret, client ? keys->secret_a2c : keys->secret_c2a, PLX_SECRET_BYTES);
	c->cipher = (uint8_t)keys->cipher;
	c->side = (uint8_t)side;
	c->local_id = local_id;
	c->peer_id = peer_id;
	for (uint8_t i = 0; i < 3; i++)
		c->rx_slot[i] = i;
	plx_aead_init(&c->tx_key, x, keys->cipher, c->tx_secret);
	plx_aead_init(&c->rx_key[CUR], x, keys->cipher, c->rx_secret);
	c->tx_pkt_num = c->tx_first = 1;
	c->rekey_after = PLX_EPOCH_REKEY;
	c->rx_last_ns = c->tx_last_ns = now_ns;
	plx_rtt_init(&c->rtt, lim->retx_floor_us * UINT64_C(1000),
	             lim->max_ack_delay_us * UINT64_C(1000));
}

void plx_conn_wipe(struct plx_wire_conn *c)
{
	sodium_memzero(c, sizeof(*c));
	c->closed = true;
}

/* ---- sending --------------------------------------------------------------------------------- */

int plx_conn_rekey(struct plx_wire_conn *c, struct plx_crypt *x)
{
	if (c->tx_acked < c->tx_first)
		return PLX_E_AGAIN;
	plx_secret_next(c->tx_secret, c->tx_secret);
	plx_aead_init(&c->tx_key, x, (enum plx_cipher)c->cipher, c->tx_secret);
	c->tx_epoch++;
	c->tx_first = c->tx_pkt_num;
	return 0;
}

/* Keep this epoch's packets below the limit; asks for an acknowledgement while it waits. */
static int tx_epoch_check(struct plx_wire_conn *c, struct plx_crypt *x, struct plx_hdr *h)
{
	uint64_t used = c->tx_pkt_num - c->tx_first;

	if (PLX_LIKELY(used < c->rekey_after) || plx_conn_rekey(c, x) == 0)
		return 0;
	if (used >= PLX_EPOCH_LIMIT - 1)
		return PLX_E_LIMIT;
	h->prio_flags |= PLX_F_ACK_REQ << 4;
	return 0;
}

int plx_conn_seal(struct plx_wire_conn *c, struct plx_crypt *x, struct plx_hdr *h, uint8_t *pkt,
                  uint64_t now_ns)
{
	if (c->closed)
		return PLX_E_CLOSED;
	int err = tx_epoch_check(c, x, h);

	if (err)
		return err;
	h->magic = PLX_WIRE_MAGIC;
	h->version = PLX_WIRE_VERSION;
	h->session_id = c->peer_id;
	h->pkt_num = c->tx_pkt_num++;
	h->epoch = c->tx_epoch & 15u;
	plx_hdr_encode(pkt, h);
	plx_seal(x, &c->tx_key, pkt, h->payload_bytes);
	if (plx_hdr_flags(h) & PLX_F_ACK_REQ)
		plx_sent_add(&c->sent, h->pkt_num, now_ns);
	c->tx_last_ns = now_ns;
	c->n_tx++;
	return (int)(h->payload_bytes + PLX_SEAL_BYTES);
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* Which of the three keys a packet's epoch bits mean; -1: none that is kept. */
static int rx_which(struct plx_wire_conn *c, struct plx_crypt *x, uint8_t epoch, uint64_t now_ns)
{
	uint8_t secret[PLX_SECRET_BYTES];

	if (epoch == (c->rx_epoch & 15u))
		return CUR;
	if (epoch == ((c->rx_epoch - 1) & 15u))
		return c->prev_ok && now_ns < c->prev_until_ns ? PREV : -1;
	if (epoch != ((c->rx_epoch + 1) & 15u))
		return -1;
	if (!c->next_ok) {
		plx_secret_next(secret, c->rx_secret);
		plx_aead_init(&c->rx_key[c->rx_slot[NEXT]], x, (enum plx_cipher)c->cipher, secret);
		sodium_memzero(secret, sizeof(secret));
		c->next_ok = true;
	}
	return NEXT;
}

/* A packet of the next epoch opened: the peer has moved on. */
static void rx_rotate(struct plx_wire_conn *c, uint64_t now_ns)
{
	uint8_t oldest = c->rx_slot[PREV];

	plx_secret_next(c->rx_secret, c->rx_secret);
	c->rx_epoch++;
	c->rx_slot[PREV] = c->rx_slot[CUR];
	c->rx_slot[CUR] = c->rx_slot[NEXT];
	c->rx_slot[NEXT] = oldest;
	c->next_ok = false;
	c->prev_ok = true;
	c->prev_until_ns = now_ns + 3 * plx_rtt_timeout(&c->rtt);
}

static int rx_decode(struct plx_wire_conn *c, struct plx_hdr *h, const uint8_t *pkt, size_t n_bytes)
{
	enum plx_wire_side from = c->side == PLX_SIDE_CLIENT ? PLX_SIDE_APPLIANCE : PLX_SIDE_CLIENT;

	if (plx_hdr_decode(h, pkt, n_bytes, from) || !plx_type_sealed(h->type) ||
	    h->session_id != c->local_id) {
		c->n_format++;
		return PLX_E_FORMAT;
	}
	if (plx_replay_check(&c->replay, h->pkt_num)) {
		c->n_replay++;
		return PLX_E_REPLAY;
	}
	return 0;
}

int plx_conn_open(struct plx_wire_conn *c, struct plx_crypt *x, struct plx_hdr *h, uint8_t *pkt,
                  size_t n_bytes, uint64_t now_ns)
{
	if (c->closed)
		return PLX_E_CLOSED;
	int err = rx_decode(c, h, pkt, n_bytes);

	if (err)
		return err;
	int which = rx_which(c, x, h->epoch, now_ns);

	if (which < 0) {
		c->n_epoch_fail++;
		return PLX_E_AUTH;
	}
	if (plx_open(x, &c->rx_key[c->rx_slot[which]], pkt, h->payload_bytes)) {
		if (++c->n_auth_fail >= PLX_FORGERY_LIMIT)
			c->closed = true;
		return PLX_E_AUTH;
	}
	plx_replay_mark(&c->replay, h->pkt_num);
	if (which == NEXT)
		rx_rotate(c, now_ns);
	if (h->pkt_num >= c->rx_largest) {
		c->rx_largest = h->pkt_num;
		c->rx_largest_ns = now_ns;
	}
	c->rx_last_ns = now_ns;
	c->n_rx++;
	return 0;
}

/* ---- acknowledgements ------------------------------------------------------------------------ */

void plx_conn_acked(struct plx_wire_conn *c, const struct plx_msg_ack_head *h, uint64_t now_ns)
{
	if (h->largest_pkt_num >= c->tx_pkt_num || h->largest_pkt_num <= c->tx_acked)
		return; /* never sent, or old news */
	c->tx_acked = h->largest_pkt_num;
	uint64_t sent_ns = plx_sent_take(&c->sent, h->largest_pkt_num);

	if (sent_ns && now_ns >= sent_ns)
		plx_rtt_sample(&c->rtt, now_ns - sent_ns, h->ack_delay_us * UINT64_C(1000));
}

static void ack_due(struct plx_wire_conn *c, bool at_once, uint64_t now_ns)
{
	uint64_t due = at_once ? now_ns : now_ns + c->rtt.max_ack_delay_ns;

	if (due == 0)
		due = 1;
	if (c->ack_due_ns == 0 || due < c->ack_due_ns)
		c->ack_due_ns = due;
}

void plx_conn_ack(struct plx_wire_conn *c, const struct plx_msg_ack_entry *e, bool at_once,
                  uint64_t now_ns)
{
	uint32_t i = 0;

	while (i < c->n_ack && (c->ack[i].req_id != e->req_id || c->ack[i].type != e->type))
		i++;
	if (i < PLX_ACK_MAX) {
		c->ack[i] = *e;
		if (i == c->n_ack)
			c->n_ack++;
	}
	ack_due(c, at_once, now_ns);
}

void plx_conn_ack_head(struct plx_wire_conn *c, uint64_t now_ns)
{
	c->ack_head_due = true;
	ack_due(c, true, now_ns);
}

struct plx_msg_ack_head plx_conn_ack_fill(const struct plx_wire_conn *c, uint16_t n_entries,
                                          uint64_t now_ns)
{
	uint64_t us = (now_ns - c->rx_largest_ns) / 1000;

	return (struct plx_msg_ack_head){.largest_pkt_num = c->rx_largest,
	                                 .ack_delay_us =
	                                     us > UINT32_MAX ? UINT32_MAX : (uint32_t)us,
	                                 .n_entries = n_entries};
}

int plx_conn_ack_flush(struct plx_wire_conn *c, struct plx_crypt *x, uint8_t *pkt, size_t cap,
                       uint64_t now_ns)
{
	if (c->ack_due_ns == 0 || now_ns < c->ack_due_ns || cap < PLX_SEAL_BYTES)
		return 0;
	struct plx_msg_ack_head head = plx_conn_ack_fill(c, (uint16_t)c->n_ack, now_ns);
	int n = plx_msg_ack_encode(pkt + PLX_HDR_BYTES, cap - PLX_SEAL_BYTES, &head, c->ack);

	if (n < 0)
		return n;
	struct plx_hdr h = {.type = PLX_T_ACK, .frag_count = 1, .payload_bytes = (uint16_t)n};

	c->n_ack = 0;
	c->ack_due_ns = 0;
	c->ack_head_due = false;
	return plx_conn_seal(c, x, &h, pkt, now_ns);
}
