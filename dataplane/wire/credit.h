/*
 * Credit from appliance to client, in absolute totals since the handshake: packets of REQ messages
 * and requests begun. Packets are counted at their base size and once, whatever size the path
 * allows and however often they are sent, so that both ends come to the same sums. As with
 * QUIC's MAX_DATA (RFC 9000 section 4) a total can be repeated, lost or reordered without harm.
 */
#ifndef PLX_DATAPLANE_WIRE_CREDIT_H
#define PLX_DATAPLANE_WIRE_CREDIT_H

#include "dataplane/wire/msg.h"

/* plx_credit_packets - what a REQ message takes: ceil(message_bytes / 1,152), at least 1. */
static inline uint32_t plx_credit_packets(uint32_t message_bytes)
{
	uint32_t room = PLX_DGRAM_MIN_BYTES - PLX_SEAL_BYTES;

	return message_bytes <= room ? 1 : (message_bytes - 1) / room + 1;
}

/* The client's half. */
struct plx_credit_tx {
	struct plx_msg_credit granted, used;
};
/* plx_credit_tx_init - first grant, from HELLO_ACK. */
void plx_credit_tx_init(struct plx_credit_tx *c, uint64_t packets, uint64_t requests);
/* plx_credit_tx_grant - a CREDIT or PONG came; smaller totals than known are old and ignored. */
void plx_credit_tx_grant(struct plx_credit_tx *c, const struct plx_msg_credit *m);
/* plx_credit_tx_take - begin a request of that many packets; AGAIN when credit lacks. */
int plx_credit_tx_take(struct plx_credit_tx *c, uint32_t packets);

/* The appliance's half. */
struct plx_credit_rx {
	struct plx_msg_credit granted, used, released;
	struct plx_msg_credit window; /* what may be outstanding */
};
/* plx_credit_rx_init - windows: fragments and requests outstanding at once; gives the first grant.
 */
void plx_credit_rx_init(struct plx_credit_rx *c, uint64_t packets, uint64_t requests);
/* plx_credit_rx_may - whether a new request of that many packets is within what was granted. */
static inline bool plx_credit_rx_may(const struct plx_credit_rx *c, uint32_t packets)
{
	return packets <= c->granted.packets - c->used.packets &&
	       c->used.requests < c->granted.requests;
}
/*
 * plx_credit_rx_charge - a request's first fragment (or a CANCEL that overtook it) was accepted,
 * for the first time for its req_id. LIMIT, and no charge, when it is over.
 */
int plx_credit_rx_charge(struct plx_credit_rx *c, uint32_t packets);
/*
 * plx_credit_rx_release - a request has ended: what it held is free again.
 *
 * Returns true when enough was freed (a quarter of either window) that a CREDIT is worth sending;
 * plx_credit_rx_now then says what to send. PONG always carries it.
 */
bool plx_credit_rx_release(struct plx_credit_rx *c, uint32_t packets);
struct plx_msg_credit plx_credit_rx_now(struct plx_credit_rx *c);

/*
 * The window of request ids: (session, req_id) runs at most once. Ids are 1, 2, 3, ... without
 * gaps in what a client uses; the window spans 4 times the requests in flight. Slot i of the
 * session's request table belongs to the id that equals i modulo the span.
 */
struct plx_req_window {
	uint64_t highest; /* largest id seen; 0 none */
	uint32_t span;
	uint32_t zero;
};
enum plx_req_place {
	PLX_REQ_NEW,    /* inside or above the window; slot may hold an older id */
	PLX_REQ_BELOW,  /* BAD_REQUEST: never runs */
	PLX_REQ_BEYOND, /* further ahead than the span: the client broke its rule; drop */
};
static inline void plx_req_window_init(struct plx_req_window *w, uint32_t max_in_flight)
{
	w->highest = 0;
	w->span = 4 * max_in_flight;
	w->zero = 0;
}
/*
 * plx_req_window_place - where req_id stands; *slot is req_id modulo span.
 *
 * NEW does not say that it never came: the caller compares the id that its slot holds. If the slot
 * holds a request that has not ended, drop the packet; it comes again.
 */
enum plx_req_place plx_req_window_place(const struct plx_req_window *w, uint64_t req_id,
                                        uint32_t *slot);
/* plx_req_window_move - req_id was taken. */
void plx_req_window_move(struct plx_req_window *w, uint64_t req_id);

#endif
