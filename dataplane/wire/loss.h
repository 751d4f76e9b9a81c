/*
 * Loss recovery: round-trip estimator, retransmission timers, and the table of messages that are
 * sent again until acknowledged.
 *
 *   timeout = max(floor, srtt + max(4 * rttvar, 1 us) + max_ack_delay) * 2^backoff
 *   before the first sample: 10 * floor * 2^backoff
 *
 * Nothing is retransmitted because of what an ACK says, only because a timer ran out. A message
 * has at most 65 fragments in flight, from its first unacknowledged one: what an ACK can describe.
 * Source: RFC 9002 sections 5 and 6.2.
 */
#ifndef PLX_DATAPLANE_WIRE_LOSS_H
#define PLX_DATAPLANE_WIRE_LOSS_H

#include "dataplane/wire/msg.h"

struct plx_rtt {
	uint64_t srtt_ns, rttvar_ns, min_ns, latest_ns;
	uint64_t floor_ns; /* from the board: rack 200 us, devbox 5 ms */
	uint64_t max_ack_delay_ns;
	uint64_t n_samples;
};

/* plx_rtt_init - no sample yet: the timeout is ten times the floor. */
void plx_rtt_init(struct plx_rtt *r, uint64_t floor_ns, uint64_t max_ack_delay_ns);
/* plx_rtt_sample - one measured round trip, with the delay the peer says it added. */
void plx_rtt_sample(struct plx_rtt *r, uint64_t rtt_ns, uint64_t ack_delay_ns);
/* plx_rtt_timeout - the timeout without back-off, in ns. */
uint64_t plx_rtt_timeout(const struct plx_rtt *r);

/* One retransmission timer: for a message, or for a stream of tokens. */
#define PLX_RETX_BACKOFF_MAX 6u
#define PLX_RETX_MAX_NS      UINT64_C(2000000000)
struct plx_retx {
	uint64_t deadline_ns; /* 0: not running */
	uint32_t n_timeouts;  /* in a row, without progress */
};
/* plx_retx_arm - (re)start after sending. plx_retx_stop - nothing is outstanding. */
void plx_retx_arm(struct plx_retx *t, const struct plx_rtt *r, uint64_t now_ns);
static inline void plx_retx_stop(struct plx_retx *t)
{
	t->deadline_ns = 0;
	t->n_timeouts = 0;
}
/* plx_retx_progress - something was acknowledged: back-off restarts at 0. */
void plx_retx_progress(struct plx_retx *t, const struct plx_rtt *r, uint64_t now_ns);
/* plx_retx_due - whether it ran out; if so the back-off grows: send again, then arm. */
bool plx_retx_due(struct plx_retx *t, uint64_t now_ns);

/* Send times of the last 64 packets that asked for an acknowledgement, for round-trip samples. */
#define PLX_SENT_RING 64u
struct plx_sent_ring {
	uint64_t pkt_num[PLX_SENT_RING]; /* + 1; 0 empty */
	uint64_t sent_ns[PLX_SENT_RING];
	uint32_t at;
};

/* plx_sent_add - remember when a packet with ACK_REQ left; the oldest is forgotten. */
void plx_sent_add(struct plx_sent_ring *s, uint64_t pkt_num, uint64_t now_ns);
/* plx_sent_take - send time of pkt_num, once; 0 if it is not there. */
uint64_t plx_sent_take(struct plx_sent_ring *s, uint64_t pkt_num);

/* ---- messages sent again until acknowledged ------------------------------------------------- */

struct plx_outmsg {
	const uint8_t *msg; /* caller's, must stay until the message is done */
	uint64_t req_id;
	uint64_t acked_map;  /* bit i: fragment base + 1 + i */
	uint64_t resend_map; /* bit i: fragment base + i is to be sent again */
	uint64_t retx_pkt;   /* pkt_num of the first packet of the last retransmission */
	struct plx_retx timer;
	uint32_t msg_bytes;
	uint32_t base; /* first fragment not acknowledged */
	uint32_t next; /* first fragment never sent */
	uint16_t frag_count;
	uint16_t dgram_bytes; /* fixed within the message */
	uint8_t type;
	uint8_t prio;
	uint8_t used;
	uint8_t resend_last; /* fragment base + 64 is to be sent again */
	uint32_t n_retx;
	void *user; /* the caller's */
};

struct plx_outbox {
	struct plx_outmsg *out; /* [n], caller's */
	uint32_t n, n_used;
	uint32_t turn; /* where the next search begins: fairness */
	uint64_t n_sent, n_retx, n_spurious;
};

/* plx_outbox_init - empty, over n entries of the caller's. */
void plx_outbox_init(struct plx_outbox *b, struct plx_outmsg *out, uint32_t n);

/*
 * plx_outbox_add - queue a message.
 *
 * @msg          msg_bytes of plain text; stays the caller's and must not move until it is done.
 * @dgram_bytes  size of its datagrams, from plx_pmtu; fixed from now on.
 *
 * Returns the entry, or NULL when all n are in use or it would take more than 65,535 fragments.
 */
struct plx_outmsg *plx_outbox_add(struct plx_outbox *b, uint8_t type, uint64_t req_id, uint8_t prio,
                                  const uint8_t *msg, uint32_t msg_bytes, uint16_t dgram_bytes);

/* The next fragment to send. */
struct plx_out_frag {
	struct plx_outmsg *out;
	const uint8_t *bytes; /* copy to the packet, then seal */
	struct plx_hdr h;     /* type, req_id, frag_*, payload_bytes, prio_flags are filled in */
};

/*
 * plx_outbox_next - what to send now: retransmissions that are due first, then new fragments.
 *
 * Returns 1 and f, or 0 when nothing is to be sent. After sealing it call plx_outbox_sent with the
 * packet's number; a fragment not reported so is offered again.
 */
int plx_outbox_next(struct plx_outbox *b, uint64_t now_ns, struct plx_out_frag *f);
void plx_outbox_sent(struct plx_outbox *b, const struct plx_out_frag *f, uint64_t pkt_num,
                     const struct plx_rtt *r, uint64_t now_ns);

/*
 * plx_outbox_ack - an ACK entry came.
 *
 * @largest  its head's largest_pkt_num: a message acknowledged by a packet number below that of its
 *           retransmission was retransmitted in vain (n_spurious).
 *
 * Returns the entry when the message is now whole at the other side (it is still in the table:
 * read user, then plx_outbox_remove), else NULL. Nonsense is ignored.
 */
struct plx_outmsg *plx_outbox_ack(struct plx_outbox *b, const struct plx_msg_ack_entry *e,
                                  uint64_t largest, const struct plx_rtt *r, uint64_t now_ns);

/*
 * plx_outbox_restart - send a message anew in datagrams of another size (its path turned out not
 * to carry them): the other side forgets its fragments when the new first one comes.
 *
 * Errors: LIMIT where it would take more than 65,535 fragments.
 */
int plx_outbox_restart(struct plx_outmsg *o, uint16_t dgram_bytes);

/* plx_outbox_find - the entry of a message, or NULL. */
struct plx_outmsg *plx_outbox_find(struct plx_outbox *b, uint8_t type, uint64_t req_id);
void plx_outbox_remove(struct plx_outbox *b, struct plx_outmsg *o);
/* plx_outbox_deadline - when plx_outbox_next is worth calling again; 0: now; UINT64_MAX: never. */
uint64_t plx_outbox_deadline(const struct plx_outbox *b);

#endif
