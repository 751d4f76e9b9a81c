/*
 * An appliance in a box, for tests of the client: the protocol's other half built on
 * dataplane/wire, and in place of a model a rule for what is answered.
 *
 * Answer of sample s: token i has id 1000 * s + 10 * i + (bytes of the prompt) % 10 and the text
 * "<s>:<i> "; there are max_new of them. One client at a time, no threads, time passed in.
 */
#ifndef PLX_TESTS_LIB_WIRE_PEER_H
#define PLX_TESTS_LIB_WIRE_PEER_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/wire/handshake.h"
#include "dataplane/wire/msg.h"

struct plx_peer_cfg {
	uint64_t key_id;
	uint8_t key[32];
	bool insecure;
	uint64_t token_ns;        /* between two tokens of a sample; 0: all at once */
	uint32_t tokens_a_packet; /* 0: 1 */
	bool end_alone;           /* a sample's end comes in a packet without ids */
	int reject_err;           /* refuse every request so, 0: accept */
	bool not_kept;            /* refuse those that go on from another */
	uint64_t lacks;           /* features that it is to be without */
	uint32_t keepalive_ms;    /* 0: 5,000 */
	uint32_t max_in_flight;   /* 0: 8 */
	uint32_t n_models;        /* 0: 1 */
	uint16_t max_datagram;    /* 0: 1,200 */
	uint64_t rekey_after;     /* packets; 0: the protocol's */
	uint64_t seed;
	/* Send a datagram to the client. */
	void (*send)(void *ctx, const uint8_t *pkt, size_t n_bytes);
	void *ctx;
};

struct plx_peer_counts {
	uint32_t n_sessions;   /* handshakes answered */
	uint32_t n_requests;   /* requests that ran: each (session, req_id) once */
	uint32_t n_repeated;   /* whole REQs of a request already known */
	uint32_t n_cancelled;  /* requests ended by CANCEL */
	uint32_t n_resumed;    /* ids that requests said they have */
	uint32_t n_continued;  /* requests that go on from another */
	uint64_t continued;    /* req_id that the last of them named */
	uint32_t prompt_bytes; /* of the last request */
	uint32_t n_finals_acked;
	uint32_t n_overdrawn; /* requests over the credit granted */
	uint32_t n_moved;     /* address changes answered */
	bool closed;          /* the client said CLOSE */
};

struct plx_peer;

struct plx_peer *plx_peer_new(const struct plx_peer_cfg *cfg, uint64_t now_ns);
void plx_peer_free(struct plx_peer *p);

/* plx_peer_input - a datagram from the client at addr; pkt is written over. */
void plx_peer_input(struct plx_peer *p, uint8_t *pkt, size_t n_bytes,
                    const struct plx_wire_addr *addr, uint64_t now_ns);
/* plx_peer_tick - timers, tokens, retransmissions. */
void plx_peer_tick(struct plx_peer *p, uint64_t now_ns);
/* plx_peer_next_ns - when to tick again. */
uint64_t plx_peer_next_ns(const struct plx_peer *p);

/* plx_peer_restart - forget every session, as an appliance that was killed and started again;
 * the reset key stays. */
void plx_peer_restart(struct plx_peer *p);
/* plx_peer_drain - say DRAIN; new requests are refused. */
void plx_peer_drain(struct plx_peer *p, uint64_t now_ns);
/* plx_peer_say_close - CLOSE with a code; the session is forgotten. */
void plx_peer_say_close(struct plx_peer *p, enum plx_close_code code, uint64_t now_ns);
/* plx_peer_say - seal and send any payload under any header, right or wrong; no-op without a
 * session.
 */
void plx_peer_say(struct plx_peer *p, const struct plx_hdr *h, const uint8_t *payload,
                  uint64_t now_ns);
/* plx_peer_set - answer from now on as cfg says (token_ns, tokens_a_packet, end_alone, reject,
 * not_kept, lacks). */
void plx_peer_set(struct plx_peer *p, const struct plx_peer_cfg *cfg);

const struct plx_peer_counts *plx_peer_counts_of(const struct plx_peer *p);

#endif
