/*
 * Inside the client library: the session's state and the parts that work on it.
 *
 * No file but io.c knows of sockets; packets leave through env.send, time and random bytes come
 * from env too, so that a test can run a client against anything in one process.
 *
 * A request's slot is taken by submit and given back when its final event has been handed out, so
 * that events need no memory beyond the slots and the n_packets received packets.
 */
#ifndef PLX_TOOLS_CLIENT_CORE_H
#define PLX_TOOLS_CLIENT_CORE_H

#include "dataplane/wire/conn.h"
#include "dataplane/wire/credit.h"
#include "dataplane/wire/pmtu.h"
#include "dataplane/wire/reasm.h"
#include "dataplane/wire/req.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tools/client/client.h"

#define PLX_CLIENT_PINGS        16u
#define PLX_CLIENT_NOTES        32u /* events about the session that may wait; later ones are lost */
#define PLX_CLIENT_MODELS_BYTES 131072u
#define PLX_CLIENT_WHY_BYTES    256u
#define PLX_CLIENT_REASM_MSGS   2u
#define PLX_CLIENT_SEND_BURST   64u
#define PLX_CLIENT_ADDRS        8u /* of a name */
#define PLX_CLIENT_AGAIN        5u /* times that a request whose device was lost goes again */

/* What the library needs from outside. */
struct plx_client_env {
	void *ctx;
	/* Send one datagram. 0; AGAIN: no room now; LIMIT: larger than the path; IO: refused. */
	int (*send)(void *ctx, const uint8_t *pkt, size_t n_bytes);
	uint64_t (*now_ns)(void *ctx);
	void (*random)(void *ctx, void *out, size_t n_bytes);
	/* Talk to the peer's next address from now on, after the last to the first again; returns
	 * its index. NULL: there is but one. */
	uint32_t (*next_addr)(void *ctx);
	uint32_t n_addrs; /* at most PLX_CLIENT_ADDRS; 0 counts as 1 */
};

/* An event that waits; TOKENS carry their packet's payload behind them. */
struct plx_client_node {
	struct plx_client_node *next;
	enum { PLX_NODE_FIXED, PLX_NODE_HEAP, PLX_NODE_NOTE } kind;
	struct plx_client_event ev;
};

/* A TOKENS payload that came before its turn. */
struct plx_client_held {
	struct plx_client_held *next;
	struct plx_client_node *node; /* ev.tokens describes it */
};

/* Ids of a sample that came, kept for a request that may be resumed. */
struct plx_client_had {
	uint32_t *id;
	uint32_t n, cap;
};

struct plx_client_sample_state {
	uint32_t next; /* index of the first id that has not come */
	bool last;     /* the sample's end has come */
	bool ack_due;
	bool resend; /* ask for next at once */
};

/* One submitted request. */
struct plx_client_slot {
	uint64_t handle; /* 0: free */
	uint64_t req_id; /* in this session; 0: not begun */
	uint8_t *msg;    /* the REQ message; NULL once the final event is queued */
	uint32_t msg_bytes;
	uint8_t *more; /* the one that only goes on from an earlier request; NULL: none */
	uint32_t more_bytes;
	uint64_t continues; /* that request's handle */
	bool sent_more;     /* more is what was sent last */
	uint8_t *again;     /* the message with what came of its answer */
	uint64_t wait_ns;   /* not to be sent before; 0: now */
	uint8_t n_again;    /* DEVICE_LOST it survived */
	bool no_resume;     /* the appliance refused to resume it */
	bool not_kept;      /* the appliance said that it has the earlier one no longer */
	uint16_t n_samples;
	uint8_t prio;
	uint8_t resubmit; /* enum plx_client_resubmit */
	bool cancel_asked;
	bool handed_tokens; /* a TOKENS event was taken by the caller */
	bool final_here;    /* fin.ev is filled; waits for tokens that are under way */
	bool final_queued;
	bool accepted; /* ACCEPT came */
	bool arrived;  /* the appliance has the whole REQ */
	bool restart_queued;
	struct plx_msg_cancel cancel; /* payload of the CANCEL */
	uint64_t submit_ns;
	uint64_t first_ns; /* first TOKENS; 0 none yet */
	uint64_t retx_pkt; /* pkt_num of the REQ's last repeat, no ACK of it yet; 0: none */
	uint64_t lack_ns;  /* DONE is here: when the tokens that lack count as gone */
	struct plx_client_held *held;
	struct plx_client_node fin, accept, restart;
	struct plx_client_sample_state sample[PLX_CLIENT_SAMPLES_MAX];
	struct plx_client_had had[PLX_CLIENT_SAMPLES_MAX];
	struct plx_client_sample result[PLX_CLIENT_SAMPLES_MAX];
	char detail[PLX_DETAIL_MAX + 1];
};

/* A request that is DONE: its id in this session. */
struct plx_client_past {
	uint64_t handle, req_id;
};

struct plx_client_ping_state {
	uint64_t user_token; /* 0: free */
	uint64_t wire_token; /* of the last sending */
	uint64_t sent_ns;
	struct plx_retx timer;
};

enum plx_client_state { PLX_CL_HANDSHAKE, PLX_CL_OPEN, PLX_CL_CLOSED };

struct plx_client {
	struct plx_client_config cfg; /* host is not kept */
	struct plx_client_env env;
	struct plx_crypt crypt;
	struct plx_psk psk;
	enum plx_client_state state;
	int fd; /* -1 without a socket */
	char peer_name[96];

	/* Handshake. */
	struct plx_hs_client hs;
	uint32_t local_id;
	uint64_t hs_began_ns, hs_next_ns;
	uint32_t hs_wait_ms;
	uint32_t hs_said;    /* HELLOs */
	uint32_t hs_refused; /* bit map: addresses whose host said that nothing listens there */
	uint32_t addr_idx;   /* the address in use */
	bool hs_heard;       /* a RETRY came: somebody with our key is there */

	/* Session. */
	struct plx_wire_conn conn;
	struct plx_hello_ack ack;
	struct plx_credit_tx credit;
	struct plx_pmtu pmtu;
	struct plx_outbox outbox;
	struct plx_outmsg *out; /* [2 * n_requests]: REQ and CANCEL of each */
	uint64_t last_req_id;
	uint64_t tok_ack_due_ns; /* 0: none */
	uint64_t lack_ns;        /* earliest of the slots'; 0: none */
	uint64_t probe_ns;       /* last PING of our own */
	uint64_t probe_token;
	bool wake;           /* submit or cancel was called: tick at once */
	uint64_t blocked_ns; /* the socket had no room: not before this */
	uint16_t dgram_max;  /* for the next session; falls after a black hole */

	/* TOKENS of requests that are over come again when our TOK_ACK was lost. */
	struct plx_msg_tok_ack_entry late[PLX_ACK_MAX];
	uint32_t n_late;

	struct plx_pieces pieces;
	struct plx_reasm reasm;
	struct plx_reasm_session reasm_session;
	struct plx_reasm_msg reasm_msg[PLX_CLIENT_REASM_MSGS];
	void *reasm_region, *reasm_book;

	struct plx_client_slot *slot; /* [n_requests] */
	uint32_t n_slots_used;
	uint32_t n_waiting; /* slots that are not begun */
	uint64_t last_handle;
	struct plx_client_past past[PLX_CLIENT_PAST]; /* of this session, at handle % PAST */
	struct plx_client_ping_state ping[PLX_CLIENT_PINGS];
	uint64_t last_token;

	struct plx_client_node *ev_head, *ev_tail;
	struct plx_client_node *taken; /* handed out last */
	struct plx_client_node note[PLX_CLIENT_NOTES], closed;
	uint32_t note_used; /* bit map */
	uint32_t n_packets; /* held or queued TOKENS */

	uint8_t *models; /* the MODELS message */
	uint32_t models_bytes;
	bool models_here; /* of this session */
	bool draining;

	char why[PLX_CLIENT_WHY_BYTES];
	int why_err;
	struct plx_client_info count; /* counters; the rest is filled on request */
	_Alignas(64) uint8_t pkt[PLX_DGRAM_MAX_BYTES];
};

/* core.c: making and losing sessions. */

/* plx_client_make - a client without a socket; the handshake begins at env's now. */
int plx_client_make(struct plx_client **out, const struct plx_client_config *cfg,
                    const struct plx_client_env *env, struct plx_diag *d);
/* plx_client_free - wipe keys and free; says nothing to the appliance. */
void plx_client_free(struct plx_client *c);
/* plx_client_lose - the session is gone: reconnect or close; err and why go to the requests. */
void plx_client_lose(struct plx_client *c, int err, const char *why, uint64_t now_ns);
/* plx_client_hs_input - a RETRY, HELLO_ACK or VERSION_NEG came. */
void plx_client_hs_input(struct plx_client *c, const uint8_t *pkt, size_t n_bytes, uint64_t now_ns);
/* plx_client_hs_tick - repeat HELLO, or give up. */
void plx_client_hs_tick(struct plx_client *c, uint64_t now_ns);
/*
 * plx_client_hs_refused - the host at the address in use says that nothing listens there. That is
 * anybody's word, and an appliance that shares an address with its host's kernel makes that kernel
 * say so too: it never ends anything, but the peer's other addresses are tried at once.
 */
void plx_client_hs_refused(struct plx_client *c, uint64_t now_ns);

/* input.c: packets that came. */

/* plx_client_input - a datagram came; pkt is written over. */
void plx_client_input(struct plx_client *c, uint8_t *pkt, size_t n_bytes, uint64_t now_ns);

/* tick.c: packets that leave. */

/* plx_client_tick - timers, and everything that can be sent now. CLOSED when it is over. */
int plx_client_tick(struct plx_client *c, uint64_t now_ns);
/* plx_client_say_close - a CLOSE packet, once. */
void plx_client_say_close(struct plx_client *c, uint64_t now_ns);
/* plx_client_probe - a PING of our own: proves that we live, elicits credit, a round trip. */
void plx_client_probe(struct plx_client *c, uint64_t now_ns);
/* plx_client_send - hand a datagram to env. */
int plx_client_send(struct plx_client *c, const uint8_t *pkt, size_t n_bytes, uint64_t now_ns);
/* plx_client_send_msg - seal and send a message of one packet that is not sent again. */
int plx_client_send_msg(struct plx_client *c, uint8_t type, uint8_t flags, uint64_t req_id,
                        const void *payload, uint16_t payload_bytes, uint64_t now_ns);

/* request.c: submitted requests on their way out. */

struct plx_client_slot *plx_client_slot_of(struct plx_client *c, uint64_t req_id);
/* plx_client_begin - queue what credit allows, in order of submission. */
void plx_client_begin(struct plx_client *c);
/* plx_client_rejected - a REJECT came (in s->fin.ev): true where the request goes again by itself,
 * since what it goes on from is not kept, it can't be resumed, or its device was lost. */
bool plx_client_rejected(struct plx_client *c, struct plx_client_slot *s, uint64_t now_ns);
/* plx_client_had - ids of a sample came: they are kept where the request may be resumed. */
void plx_client_had(struct plx_client_slot *s, const struct plx_client_tokens *t);
/* plx_client_waits_until - the earliest time for which a request waits; UINT64_MAX: none. */
uint64_t plx_client_waits_until(const struct plx_client *c);
/* plx_client_req_arrived - an answer shows that the whole REQ is there: it is sent no more. */
void plx_client_req_arrived(struct plx_client *c, struct plx_client_slot *s);
/* plx_client_slots_lost - decide over every unfinished request: FAILED, or submitted again. */
void plx_client_slots_lost(struct plx_client *c, int err, const char *why, bool again);
/* plx_client_slot_fail - end it FAILED. */
void plx_client_slot_fail(struct plx_client *c, struct plx_client_slot *s, int err,
                          const char *why);
/* plx_client_slot_end - the final event (in s->fin.ev) is complete: queue it. */
void plx_client_slot_end(struct plx_client *c, struct plx_client_slot *s);
/* plx_client_slot_free - its final event was taken. */
void plx_client_slot_free(struct plx_client *c, struct plx_client_slot *s);

/* answer.c: what the appliance says about requests. */

/* plx_client_answer - an opened ACCEPT, TOKENS, DONE, REJECT or CANCELLED. */
void plx_client_answer(struct plx_client *c, const struct plx_hdr *h, const uint8_t *payload,
                       uint64_t now_ns);
/* plx_client_lacking - fail what is DONE and whose tokens the appliance no longer keeps. */
void plx_client_lacking(struct plx_client *c, uint64_t now_ns);
/* plx_client_tok_acks - send the TOK_ACKs that are due. */
void plx_client_tok_acks(struct plx_client *c, uint64_t now_ns);

/* event.c: the queue. */

void plx_client_queue(struct plx_client *c, struct plx_client_node *n);
/* plx_client_note - queue an event about the session; NULL when too many wait. */
struct plx_client_event *plx_client_note(struct plx_client *c, enum plx_client_event_type type);
void plx_client_node_drop(struct plx_client *c, struct plx_client_node *n);
/* plx_client_events_drop - forget queued ACCEPT and TOKENS of a request. */
void plx_client_events_drop(struct plx_client *c, uint64_t req);
void plx_client_events_free(struct plx_client *c);
/* plx_client_event_of - as plx_client_event, but only events of req. */
bool plx_client_event_of(struct plx_client *c, uint64_t req, struct plx_client_event *ev);

#endif
