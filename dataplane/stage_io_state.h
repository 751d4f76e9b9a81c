/*
 * Inside stage_io: its state and what its files call of each other.
 *
 *   stage_io.c      opening, the turn, timers, sessions' ends
 *   stage_io_rx.c   frames to packets to messages; handshakes; addresses that change
 *   stage_io_req.c  requests: REQ, CANCEL, and the events that come back
 *   stage_io_tx.c   packets out, answers and their retransmission
 */
#ifndef PLX_DATAPLANE_STAGE_IO_STATE_H
#define PLX_DATAPLANE_STAGE_IO_STATE_H

#include "dataplane/rand.h"
#include "dataplane/session.h"
#include "dataplane/stage_io.h"

#define PLX_IO_BURST       32u
#define PLX_IO_EVENTS      64u
#define PLX_IO_TIMERS      32u
#define PLX_IO_TX          64u
#define PLX_IO_WALK        32u /* sessions looked at in a turn when keys or drain change */
#define PLX_IO_RESETS      32u /* in each 100 ms */
#define PLX_IO_RESET_NS    UINT64_C(100000000)
#define PLX_IO_FRAGS       16u /* of a session's outbox in a turn */
#define PLX_IO_TOKENS_MSGS 32u /* of a stream in a turn */

struct plx_stage_io {
	struct plx_io_shared *sh;
	struct plx_links *links;
	const struct plx_config *cfg;
	const struct plx_port *port;
	struct plx_page *page;
	uint16_t queue;
	uint16_t n_tx;
	uint32_t idx;
	uint64_t now_ns; /* of this turn */
	struct rte_mbuf *tx[PLX_IO_TX];

	struct plx_crypt crypt;
	struct plx_sessions sessions;
	struct plx_cells cells;
	struct plx_pieces pieces;
	struct plx_reasm reasm;
	struct plx_halfopen halfopen;
	struct plx_rand rand;
	uint32_t n_half;
	uint32_t dirty;    /* sessions to look after at the end of the turn: index + 1 */
	uint64_t reset_ns; /* start of the current 100 ms */
	uint32_t n_resets; /* sent in it */
	uint32_t keys_reader;
	const struct plx_keytab *tab; /* the table that sessions were last checked against */
	uint32_t walk;                /* next session to check against a new table; n: none */
	bool draining;
	uint32_t drain_walk;
	struct plx_msg_drain drain_msg; /* what every outbox points to */

	struct plx_arena arena;
};

/* ---- stage_io.c ---- */

/* plx_io_touch - the session is looked after at the end of this turn. */
void plx_io_touch(struct plx_stage_io *io, struct plx_session *s);

/* How a session ends. */
#define PLX_IO_QUIET (-1) /* without a CLOSE */
/*
 * plx_io_end - cancel what runs, free what is kept, say CLOSE with close_code or nothing, and give
 * the session's place back. s is gone afterwards.
 */
void plx_io_end(struct plx_stage_io *io, struct plx_session *s, enum plx_cancel_cause cause,
                int close_code);

/* ---- stage_io_rx.c ---- */

/* plx_io_frame - take one received frame; foreign: another stage pushed it here. */
void plx_io_frame(struct plx_stage_io *io, struct rte_mbuf *m, bool foreign);
/* plx_io_handshaken - stage_hs is done with a handshake. */
void plx_io_handshaken(struct plx_stage_io *io, const struct plx_hs_tell *tell);

/* ---- stage_io_req.c ---- */

void plx_io_req(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                const uint8_t *payload);
void plx_io_cancel(struct plx_stage_io *io, struct plx_session *s, const struct plx_hdr *h,
                   const uint8_t *payload);
/* plx_io_expire - reject a request whose fragments did not all come in time; false: there is none.
 */
bool plx_io_expire(struct plx_stage_io *io);
/* plx_io_ack, plx_io_tok_ack - acknowledgements; -1 where the message does not decode. */
int plx_io_ack(struct plx_stage_io *io, struct plx_session *s, const uint8_t *payload,
               uint32_t bytes);
int plx_io_tok_ack(struct plx_stage_io *io, struct plx_session *s, const uint8_t *payload,
                   uint32_t bytes);
/* plx_io_event - what tok tells of a request. */
void plx_io_event(struct plx_stage_io *io, struct plx_ev *ev);

/* ---- stage_io_tx.c ---- */

/* A packet under way: pkt is where its protocol header goes. */
struct plx_io_pkt {
	struct rte_mbuf *m;
	uint8_t *pkt;
};

/* plx_io_begin - room for a datagram to `to`; false: no buffer (counted). */
bool plx_io_begin(struct plx_stage_io *io, const struct plx_net_peer *to, struct plx_io_pkt *t);
/* plx_io_commit - send its `bytes`; 0 gives it back unsent. */
void plx_io_commit(struct plx_stage_io *io, const struct plx_net_peer *to, struct plx_io_pkt *t,
                   uint32_t bytes);
/* plx_io_raw - a datagram that is complete as it is. */
void plx_io_raw(struct plx_stage_io *io, const struct plx_net_peer *to, const uint8_t *pkt,
                uint32_t bytes);
/* plx_io_queue - a frame that is complete as it is. */
void plx_io_queue(struct plx_stage_io *io, struct rte_mbuf *m);
/* plx_io_flush - give what is queued to the port. */
void plx_io_flush(struct plx_stage_io *io);

/* plx_io_say - seal and send a message of one packet. Returns false when it did not go. */
bool plx_io_say(struct plx_stage_io *io, struct plx_session *s, uint8_t type, uint8_t flags,
                uint64_t req_id, const void *payload, uint32_t bytes);

/* plx_io_challenge - ask the address under trial to prove itself, as far as 3x allows. */
void plx_io_challenge(struct plx_stage_io *io, struct plx_session *s);
/* plx_io_credit - CREDIT, when it is worth it. */
void plx_io_credit(struct plx_stage_io *io, struct plx_session *s);

/* plx_io_accept, plx_io_final - (re)send these parts of an answer and arm their timers. */
void plx_io_accept(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a);
void plx_io_final(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a);
/* plx_io_tokens - send what a stream has to send now. */
void plx_io_tokens(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a,
                   uint16_t sample);
/* plx_io_retransmit - everything of a session whose timer ran out; sets s->retx_ns anew. */
void plx_io_retransmit(struct plx_stage_io *io, struct plx_session *s);
/* plx_io_company - tokens that have waited long enough; sets s->flush_ns anew. */
void plx_io_company(struct plx_stage_io *io, struct plx_session *s);
/* plx_io_outbox - fragments of long messages. */
void plx_io_outbox(struct plx_stage_io *io, struct plx_session *s);
/* plx_io_settle - forget an answer when all of it is acknowledged; returns its credit. */
void plx_io_settle(struct plx_stage_io *io, struct plx_session *s, struct plx_answer *a);

#endif
