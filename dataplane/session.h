/*
 * The sessions of one io stage: their state, the table that finds them, and their timers.
 *
 * A session's id is io index (4 bits), generation (12), place in the table (16): a packet for a
 * session that has gone does not find its successor, and any stage sees whose a packet is. Every
 * session has one deadline, kept in a wheel of 8,192 slots of 2^14 ns; it fires at or up to a slot
 * after its time. A deadline beyond the wheel fires at its end and is set again by the owner.
 *
 * Owner: the io stage. Thread: its lcore. Nothing here allocates after plx_sessions_open.
 */
#ifndef PLX_DATAPLANE_SESSION_H
#define PLX_DATAPLANE_SESSION_H

#include "dataplane/answer.h"
#include "dataplane/keytab.h"
#include "dataplane/net.h"
#include "dataplane/wire/conn.h"
#include "dataplane/wire/credit.h"
#include "dataplane/wire/reasm.h"

#define PLX_SESSION_IO_SHIFT  28
#define PLX_SESSION_GEN_SHIFT 16
#define PLX_SESSION_GENS      4096u
#define PLX_SESSION_OUTBOX    2u /* messages beside answers: the model table, DRAIN */
#define PLX_NEVER             UINT64_MAX

enum plx_session_state {
	PLX_SESSION_FREE,
	PLX_SESSION_WAIT, /* its handshake is with stage_hs */
	PLX_SESSION_HALF, /* HELLO_ACK sent, nothing sealed has come back */
	PLX_SESSION_OPEN,
};

enum plx_slot_state {
	PLX_SLOT_EMPTY,   /* no request of this id yet */
	PLX_SLOT_PARTIAL, /* fragments are coming */
	PLX_SLOT_RUNNING, /* pushed; a FINAL event will come */
	PLX_SLOT_ENDED,   /* the final message is not acknowledged, or tokens are not */
	PLX_SLOT_SETTLED, /* all acknowledged: only the id is remembered */
};

/* One request id of the window. */
struct plx_slot {
	uint64_t req_id;
	uint64_t rx_ns;         /* first fragment */
	struct plx_req *req;    /* RUNNING */
	struct plx_answer *ans; /* from the charge until SETTLED */
	uint32_t packets;       /* credit charged */
	uint16_t frag_count;
	uint8_t state; /* enum plx_slot_state */
	uint8_t zero;
};

struct plx_session {
	uint32_t id; /* 0: never used */
	uint8_t state;
	bool dirty;      /* on the stage's list of sessions to look after this turn */
	bool credit_due; /* a CREDIT is worth sending */
	uint32_t wheel_next, wheel_prev; /* index + 1 */
	uint32_t wheel_slot;             /* + 1; 0: not in the wheel */
	uint32_t dirty_next;             /* index + 1 */
	uint64_t wheel_ns;               /* deadline it stands for */
	uint64_t retx_ns;                /* earliest answer timer; PLX_NEVER */
	uint64_t flush_ns;               /* tokens that wait for company must go; PLX_NEVER */
	struct plx_answer *live;         /* answers with something unacknowledged or to come */
	struct plx_answer *spare;        /* free ones */
	struct plx_slot *slot;           /* [4 * limits.n_session_requests] */

	struct plx_net_peer peer; /* path.addr's, with its next hop */
	struct plx_net_peer cand; /* path.cand's */
	struct plx_wire_conn conn;
	struct plx_path path;
	struct plx_credit_rx credit;
	struct plx_req_window window;
	struct plx_reasm_session reasm;
	struct plx_outbox outbox;
	struct plx_outmsg out[PLX_SESSION_OUTBOX];
	struct plx_wire_limits limits;

	uint64_t key_id;
	uint8_t key_mark[16]; /* tells whether the key is still the same one */
	uint32_t use_idx;
	uint32_t tenant;
	uint32_t tenant_kv_blocks;
	uint8_t max_priority;
	bool share_prefix;
	uint8_t ephemeral[32]; /* of its HELLO */
};

struct plx_sessions {
	struct plx_session *s; /* [n] */
	uint32_t n;
	uint32_t n_used;
	uint32_t io_idx;
	uint32_t free; /* index + 1, by dirty_next */
	uint32_t n_slots;
	uint32_t n_answers; /* of a session */
	size_t answer_bytes;
	uint16_t gen_base; /* random, so that ids of an earlier run rarely fit */

	uint32_t *wheel;      /* [PLX_WHEEL_SLOTS] index + 1 */
	uint64_t *wheel_bits; /* [PLX_WHEEL_SLOTS / 64] */
	uint64_t wheel_now;   /* tick up to which all has fired */
};

#define PLX_WHEEL_SHIFT 14
#define PLX_WHEEL_SLOTS 8192u

/* plx_sessions_bytes - what plx_sessions_open takes from its arena. */
size_t plx_sessions_bytes(uint32_t n, uint32_t n_requests, uint32_t n_samples);

/*
 * plx_sessions_open - a table of n sessions of n_requests requests in flight each.
 *
 * @gen_base  random.
 *
 * Errors: NOMEM; LIMIT (n over 65,536, io_idx over 15).
 */
int plx_sessions_open(struct plx_sessions *t, struct plx_arena *a, uint32_t n, uint32_t n_requests,
                      uint32_t n_samples, uint32_t io_idx, uint16_t gen_base, uint64_t now_ns);

/* plx_session_io - the io stage that owns a session id. */
static inline uint32_t plx_session_io(uint32_t id)
{
	return id >> PLX_SESSION_IO_SHIFT;
}

/* plx_sessions_find - the session of an id, or NULL when there is none (any more). Cost: O(1). */
static inline struct plx_session *plx_sessions_find(const struct plx_sessions *t, uint32_t id)
{
	uint32_t i = id & 0xffffu;

	if (i >= t->n || t->s[i].id != id || t->s[i].state == PLX_SESSION_FREE)
		return NULL;
	return &t->s[i];
}

/* plx_sessions_index - place in the table. */
static inline uint32_t plx_sessions_index(const struct plx_sessions *t, const struct plx_session *s)
{
	return (uint32_t)(s - t->s);
}

/*
 * plx_session_new - a session in state WAIT with a fresh id; NULL: all n are in use.
 * plx_session_give - wipe its keys and free its place. Its answers must have been cleared. While it
 * is marked dirty the place stays taken: its stage calls plx_session_recycle when it comes to it.
 */
struct plx_session *plx_session_new(struct plx_sessions *t);
void plx_session_give(struct plx_sessions *t, struct plx_session *s);
void plx_session_recycle(struct plx_sessions *t, struct plx_session *s);

/*
 * plx_session_begin - a finished handshake makes it HALF.
 *
 * @lim  limits told to the client; @packets, @requests the credit windows.
 */
void plx_session_begin(struct plx_session *s, struct plx_crypt *x, const struct plx_hs_keys *keys,
                       uint32_t peer_id, const struct plx_wire_limits *lim, uint64_t packets,
                       uint64_t now_ns);

/*
 * plx_session_answer - take an answer for a slot and put it on the live list. Credit sees to it
 * that there is one: NULL would be our own mistake.
 * plx_session_settle - take it off and free it; what it stored must be cleared.
 */
struct plx_answer *plx_session_answer(struct plx_session *s, uint32_t slot);
void plx_session_settle(struct plx_session *s, struct plx_answer *a);

/* plx_session_arm - the session's deadline is when_ns, unless an earlier one stands. */
void plx_session_arm(struct plx_sessions *t, struct plx_session *s, uint64_t when_ns);

/*
 * plx_sessions_due - a session whose deadline has passed, taken out of the wheel; NULL: none.
 * Call again until NULL or the caller's budget is spent.
 */
struct plx_session *plx_sessions_due(struct plx_sessions *t, uint64_t now_ns);

/* plx_net_to_wire - a peer's address in the form that cookies and paths are bound to. */
struct plx_wire_addr plx_net_to_wire(const struct plx_net_peer *p);

#endif
