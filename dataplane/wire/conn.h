/*
 * What a session needs at either end: keys and epochs, packet numbers, replay window, round trips,
 * pending acknowledgements, the path's address. The appliance's session and the client's embed it.
 *
 * A sender moves to the next epoch on its own; the receiver follows when a packet of that epoch
 * opens, and keeps the epoch before for three timeouts. The two directions are independent.
 */
#ifndef PLX_DATAPLANE_WIRE_CONN_H
#define PLX_DATAPLANE_WIRE_CONN_H

#include "dataplane/wire/handshake.h"
#include "dataplane/wire/loss.h"

/* Opened packets that failed to authenticate before the session must be given up. */
#define PLX_FORGERY_LIMIT (UINT64_C(1) << 36)

struct plx_wire_conn {
	struct plx_aead tx_key;
	struct plx_aead rx_key[3]; /* previous, current, next; by rx_slot */
	uint8_t tx_secret[PLX_SECRET_BYTES];
	uint8_t rx_secret[PLX_SECRET_BYTES]; /* of the current epoch */

	uint32_t local_id; /* what the peer writes in its headers */
	uint32_t peer_id;
	uint8_t side;       /* enum plx_wire_side: ours */
	uint8_t cipher;     /* enum plx_cipher */
	uint8_t rx_slot[3]; /* index into rx_key of previous, current, next */
	bool prev_ok, next_ok;
	bool closed;

	uint64_t tx_pkt_num;  /* next to use; starts at 1 */
	uint64_t tx_epoch;    /* the wire carries it modulo 16 */
	uint64_t tx_first;    /* first pkt_num of this epoch */
	uint64_t tx_acked;    /* largest pkt_num the peer said it saw */
	uint64_t rekey_after; /* packets; PLX_EPOCH_REKEY, tests use less */
	uint64_t rx_epoch;
	uint64_t prev_until_ns;

	struct plx_replay replay;
	uint64_t rx_largest;    /* largest pkt_num opened */
	uint64_t rx_largest_ns; /* and when */
	uint64_t rx_last_ns;    /* last packet opened: keepalive */
	uint64_t tx_last_ns;

	struct plx_rtt rtt;
	struct plx_sent_ring sent;

	struct plx_msg_ack_entry ack[PLX_ACK_MAX]; /* to be sent */
	uint32_t n_ack;
	bool ack_head_due;   /* a packet asked for a round-trip sample */
	uint64_t ack_due_ns; /* 0: nothing pending */

	uint64_t n_tx, n_rx, n_auth_fail, n_replay, n_format, n_epoch_fail;
};

/*
 * plx_conn_init - a session's wire state out of a finished handshake.
 *
 * @side      ours.
 * @local_id  our name for the session, @peer_id the other side's.
 * @lim       the session's limits: timeout floor, ack delay.
 */
void plx_conn_init(struct plx_wire_conn *c, struct plx_crypt *x, enum plx_wire_side side,
                   uint32_t local_id, uint32_t peer_id, const struct plx_hs_keys *keys,
                   const struct plx_wire_limits *lim, uint64_t now_ns);
/* plx_conn_wipe - erase the keys of a session that ended. */
void plx_conn_wipe(struct plx_wire_conn *c);

/*
 * plx_conn_seal - finish a packet whose payload stands at pkt + 32.
 *
 * @h    type, req_id, frag_idx, frag_count, payload_bytes, prio_flags as wanted; the rest
 *       (magic, version, session id, pkt_num, epoch) is set here, in h and in pkt.
 * @pkt  h->payload_bytes + 48 bytes of room.
 *
 * Returns the datagram's bytes.
 * Cost: one seal; at a rekey 2 us more. No allocation, no system call.
 * Errors: CLOSED; LIMIT: the epoch's packets are used up and the peer acknowledged none of
 * them, so that no rekey is possible: give the session up.
 */
int plx_conn_seal(struct plx_wire_conn *c, struct plx_crypt *x, struct plx_hdr *h, uint8_t *pkt,
                  uint64_t now_ns);

/*
 * plx_conn_open - check, open in place, and note what it tells (largest number, epoch, time).
 *
 * @h    filled with the decoded header; the payload is at pkt + 32, h->payload_bytes long.
 *
 * Errors: FORMAT, REPLAY, AUTH; drop the packet (it is counted in c).
 */
int plx_conn_open(struct plx_wire_conn *c, struct plx_crypt *x, struct plx_hdr *h, uint8_t *pkt,
                  size_t n_bytes, uint64_t now_ns);

/* plx_conn_acked - the head of an ACK or TOK_ACK came: takes the round-trip sample. */
void plx_conn_acked(struct plx_wire_conn *c, const struct plx_msg_ack_head *h, uint64_t now_ns);

/*
 * plx_conn_ack - acknowledge a message (again): replaces what is pending for the same one.
 *
 * @at_once  whether to send without delay: the message is whole, came twice, or h asked for it.
 *
 * When PLX_ACK_MAX are pending the next is dropped; a retransmission will ask again.
 */
void plx_conn_ack(struct plx_wire_conn *c, const struct plx_msg_ack_entry *e, bool at_once,
                  uint64_t now_ns);
/* plx_conn_ack_head - a packet with PLX_F_ACK_REQ came for which there is no entry. */
void plx_conn_ack_head(struct plx_wire_conn *c, uint64_t now_ns);
/*
 * plx_conn_ack_flush - seal an ACK packet of all that is pending, if due by now.
 *
 * Returns the datagram's bytes, 0 when nothing is due, or plx_conn_seal's errors.
 */
int plx_conn_ack_flush(struct plx_wire_conn *c, struct plx_crypt *x, uint8_t *pkt, size_t cap,
                       uint64_t now_ns);
/* plx_conn_ack_fill - the head for an ACK or TOK_ACK sent at now_ns. */
struct plx_msg_ack_head plx_conn_ack_fill(const struct plx_wire_conn *c, uint16_t n_entries,
                                          uint64_t now_ns);

/* plx_conn_rekey - move to the next epoch now; AGAIN until the peer acknowledged this one. */
int plx_conn_rekey(struct plx_wire_conn *c, struct plx_crypt *x);

/* ---- the client's address ------------------------------------------------------------------- */

#define PLX_PATH_FACTOR 3u /* bytes out for each byte in, until a new address has answered */
#define PLX_PATH_TRIES  3u
struct plx_path {
	struct plx_wire_addr addr;   /* answered: where we send */
	struct plx_wire_addr cand;   /* asked */
	uint64_t nonce;              /* 0: no challenge runs */
	uint64_t rx_bytes, tx_bytes; /* with cand */
	struct plx_retx timer;
	uint64_t n_moved, n_failed;
};
/* plx_path_init - the address of the handshake. */
void plx_path_init(struct plx_path *p, const struct plx_wire_addr *addr);
/*
 * plx_path_seen - an opened packet of n_bytes came from addr.
 *
 * @newest  whether it carries the largest pkt_num so far: only that can move a session.
 * @nonce   8 random bytes for a new challenge, not 0.
 *
 * Returns true when a PATH_CHALLENGE with p->nonce should go to p->cand now.
 */
bool plx_path_seen(struct plx_path *p, const struct plx_wire_addr *addr, size_t n_bytes,
                   bool newest, uint64_t nonce);
/* plx_path_may_send - whether n_bytes more may go to cand; counts them if so. */
bool plx_path_may_send(struct plx_path *p, size_t n_bytes);
/* plx_path_response - true when addr answered with the right nonce: p->addr is addr now. */
bool plx_path_response(struct plx_path *p, const struct plx_wire_addr *addr, uint64_t nonce);
/* plx_path_poll - true when the challenge should be repeated; gives up after PLX_PATH_TRIES. */
bool plx_path_poll(struct plx_path *p, const struct plx_rtt *r, uint64_t now_ns);

#endif
