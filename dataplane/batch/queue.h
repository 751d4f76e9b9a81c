/*
 * Requests that wait, in the order in which they are to be served, and the fair shares of sessions.
 *
 * Order. Each entry has a rank, a moment in time; the least rank is first, ties in order of coming.
 * A rank is set once (PLX_QUEUE_HORIZON_NS = 8 s):
 *
 *   rank = arrival + horizon - own_work - priority * 8 s + lag,   0 <= horizon, lag <= 8 s
 *
 *   horizon   until the first token is due (objective or deadline; 1 s where there is none)
 *   own_work  how long its own prompt takes: what remains is slack, and the least slack goes first
 *   lag       how far its session is ahead of its fair share
 *
 * Since ranks are moments, everybody ages alike, and nothing that keeps arriving can starve a
 * request of priority p: of priority p + k it waits for no more than what arrived before
 * (k + 2) * 8 s after it. A request of a higher priority that arrives at the same time with the
 * same horizon and lag goes first.
 *
 * Fair shares are start-time fair queueing over tokens: a session's request starts, in virtual
 * time, when the session's one before has finished or now, whichever is later; it takes
 * tokens / weight of virtual time; prompts are charged when they come, answers as they grow;
 * virtual time is the start of the latest request that was served. A session that is idle saves
 * nothing up, and one that used what nobody else wanted owes nothing.
 *
 * The order is a treap whose heap keys are hashes of a serial number, with sums over subtrees, so
 * that what is ahead of a rank is known without walking.
 *
 * Owner:  the batch stage.  Thread: one.  Cost: O(log n) expected a call but where said; no
 *         allocation after init.
 * Source: Seidel and Aragon, "Randomized Search Trees", Algorithmica 1996; Goyal, Vin, Cheng,
 *         "Start-time Fair Queueing", SIGCOMM 1996; Stoica and Abdel-Wahab, "Earliest Eligible
 *         Virtual Deadline First", 1995 (deadlines out of shares).
 */
#ifndef PLX_DATAPLANE_BATCH_QUEUE_H
#define PLX_DATAPLANE_BATCH_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/arena.h"

#define PLX_QUEUE_NONE       UINT32_MAX
#define PLX_QUEUE_HORIZON_NS UINT64_C(8000000000)
#define PLX_QUEUE_NO_HURRY   UINT64_C(1000000000) /* horizon of a request that names none */

struct plx_order_node {
	uint32_t left, right, up;
	uint32_t heap; /* larger above */
	int64_t rank;
	uint64_t serial;                         /* 0: not in the order */
	uint64_t deadline_ns, first_deadline_ns; /* own; least of the subtree; UINT64_MAX: none */
	uint32_t tokens, count;                  /* own; of the subtree */
	uint64_t sum;                            /* tokens of the subtree */
};

/* Keys 0 .. n-1 in order of rank, each at most once. */
struct plx_order {
	uint32_t n, root;
	uint64_t serial;
	struct plx_order_node *node; /* [n] */
};

/* What lies before a rank. */
struct plx_order_ahead {
	uint32_t count;
	uint64_t tokens;
};

size_t plx_order_bytes(uint32_t n);

/* plx_order_init - empty.  Errors: NOMEM. */
int plx_order_init(struct plx_order *o, struct plx_arena *a, uint32_t n);

/* plx_order_add - a key that is not in it. deadline_ns 0: none. */
void plx_order_add(struct plx_order *o, uint32_t key, int64_t rank, uint32_t tokens,
                   uint64_t deadline_ns);
void plx_order_remove(struct plx_order *o, uint32_t key);

static inline bool plx_order_has(const struct plx_order *o, uint32_t key)
{
	return o->node[key].serial != 0;
}

/* plx_order_tokens - change what an entry counts for. */
void plx_order_tokens(struct plx_order *o, uint32_t key, uint32_t tokens);

/* plx_order_first, plx_order_next - walk in order; NONE: no more. next is O(1) amortised. */
uint32_t plx_order_first(const struct plx_order *o);
uint32_t plx_order_next(const struct plx_order *o, uint32_t key);

/* plx_order_after - the first with a rank above this one. */
uint32_t plx_order_after(const struct plx_order *o, int64_t rank);

/* plx_order_ahead - entries whose rank is this one or less: those a new one would stand behind. */
struct plx_order_ahead plx_order_ahead(const struct plx_order *o, int64_t rank);

/* plx_order_overdue - an entry whose deadline is now or earlier, the earliest; NONE. */
uint32_t plx_order_overdue(const struct plx_order *o, uint64_t now_ns);

static inline uint32_t plx_order_count(const struct plx_order *o)
{
	return o->root == PLX_QUEUE_NONE ? 0 : o->node[o->root].count;
}

static inline uint64_t plx_order_sum(const struct plx_order *o)
{
	return o->root == PLX_QUEUE_NONE ? 0 : o->node[o->root].sum;
}

/* plx_queue_rank - the formula above, with each term held to its range. */
int64_t plx_queue_rank(uint64_t now_ns, uint64_t horizon_ns, uint64_t own_work_ns, uint8_t priority,
                       uint64_t lag_ns);

/* ---- fair shares ---- */

struct plx_flow {
	uint32_t session, weight;
	uint32_t n_live;       /* requests that wait or run */
	uint32_t next;         /* in its bucket */
	uint32_t older, newer; /* among flows without requests, by when they became idle */
	uint64_t turn_ns;      /* of its latest request */
	double finish;         /* virtual time at which all it asked for so far is done */
};

struct plx_fair {
	uint32_t n, mask;
	uint32_t oldest, newest; /* idle */
	double now;              /* virtual time: tokens of a session of weight 1 */
	double weight;           /* of all sessions with requests */
	uint32_t *bucket;        /* [mask + 1] */
	struct plx_flow *flow;   /* [n] */
};

size_t plx_fair_bytes(uint32_t n_requests);

/* plx_fair_init - room for the sessions of n_requests and as many that are idle. Errors: NOMEM. */
int plx_fair_init(struct plx_fair *f, struct plx_arena *a, uint32_t n_requests);

/*
 * plx_fair_peek - the virtual time at which a session's next request would start.
 * plx_fair_enter - a request of so many prompt tokens comes; *start is its virtual start. Returns
 *                  the flow, for the calls below. weight 0 counts as 1.
 * plx_fair_serve - it starts: virtual time moves on to its start.
 * plx_fair_charge - its answer took so many tokens more; negative: it did not need what it was
 *                   charged.
 * plx_fair_leave - it is over.
 */
double plx_fair_peek(const struct plx_fair *f, uint32_t session);
uint32_t plx_fair_enter(struct plx_fair *f, uint32_t session, uint32_t weight, uint32_t tokens,
                        double *start);
void plx_fair_serve(struct plx_fair *f, double start);
void plx_fair_charge(struct plx_fair *f, uint32_t flow, int64_t tokens);
void plx_fair_leave(struct plx_fair *f, uint32_t flow);

/*
 * plx_fair_lag_ns - how long, in real time, until virtual time reaches start, if all sessions that
 * have requests are served at so many ns a token.
 */
uint64_t plx_fair_lag_ns(const struct plx_fair *f, double start, double token_ns);

/*
 * plx_fair_turn_ns - the moment at which a session's next request has its turn: now and its lag,
 *                    but while it is ahead of its share not before that of its request before,
 *                    however the estimate of time a token changed meanwhile.
 * plx_fair_took_turn - a request has entered with that turn.
 */
uint64_t plx_fair_turn_ns(const struct plx_fair *f, uint32_t session, uint64_t now_ns,
                          double token_ns);
void plx_fair_took_turn(struct plx_fair *f, uint32_t flow, uint64_t turn_ns);

#endif
