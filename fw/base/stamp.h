/*
 * The page each stage keeps about itself: counters, gauges, histograms, regimes, heartbeat; and the
 * ring of trace events beside it. One writer (the stage's lcore); readable at any time by another
 * thread or process. Loads and stores are relaxed: a reader sees every value whole, but two values
 * need not be of the same instant. A trace event is copied under its own sequence number, so that
 * one that is overwritten meanwhile is known for that. Nothing here is ever prompt text or a token.
 */
#ifndef PLX_FW_BASE_STAMP_H
#define PLX_FW_BASE_STAMP_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "fw/base/hist.h"

enum plx_metric {
#define PLX_METRIC(name, unit, help) PLX_M_##name,
#include "fw/base/metrics.def"
	PLX_M_COUNT
};

enum plx_gauge {
#define PLX_GAUGE(name, unit, help) PLX_G_##name,
#include "fw/base/metrics.def"
	PLX_G_COUNT
};

enum plx_hist_idx {
#define PLX_HIST(name, help) PLX_H_##name,
#include "fw/base/metrics.def"
	PLX_H_COUNT
};

/* What a turn was; each lies in exactly one. */
enum plx_regime {
	PLX_REGIME_BUSY,          /* it found work */
	PLX_REGIME_IDLE,          /* it found none; back-off included */
	PLX_REGIME_BACKPRESSURED, /* there was work, and no room behind to hand it on */
	PLX_REGIME_HOUSEKEEPING,  /* timers, keys and tables, no packet and no token */
	PLX_REGIME_COUNT
};

#define PLX_PAGE_ABI 2u
#define PLX_LONG_NS  UINT64_C(2000000) /* ten slices of the devbox */

struct plx_page {
	uint32_t abi_version;
	uint32_t kind; /* enum plx_stage_kind */
	uint32_t lcore;
	uint32_t index;     /* which of its kind */
	uint64_t heartbeat; /* turns; stands still when the lcore hangs */
	uint64_t regime_ns[PLX_REGIME_COUNT];
	uint64_t thread_id;    /* kernel's id of the lcore's thread once it runs, else 0 */
	uint64_t trace_off;    /* from this page to its ring of events, in bytes; 0: none */
	uint64_t trace_seq;    /* events written so far */
	uint32_t trace_events; /* of the ring: a power of two */
	uint32_t turn_regime;  /* what the stage says of the turn it is in, 0: nothing */
	uint64_t stall_ns;     /* since when it can't hand on; 0: it can */
	char name[32];
	uint64_t counter[PLX_M_COUNT];
	uint64_t gauge[PLX_G_COUNT];
	_Alignas(64) struct plx_hist hist[PLX_H_COUNT];
};

/* What happened to a request or token. n, index, a, b, c as said; times are plx_clock_ns(). */
enum plx_trace_kind {
	PLX_TR_REQ_WHOLE = 1, /* io has all of it; n bytes, a first fragment's time */
	PLX_TR_REQ_ENCODED,   /* tok has its ids; n ids, a when tok began */
	PLX_TR_REQ_TAKEN,     /* batch has it; n ids */
	PLX_TR_REQ_ACCEPTED,  /* n cached ids, index place in the queue, a expected ns to first */
	PLX_TR_TOKEN,         /* batch got token `index`; a end of its step on the device */
	PLX_TR_TEXT,     /* tok made text of n tokens from `index` on; a as in TOKEN, of the last */
	PLX_TR_TAKEN_TX, /* io took these n tokens; a as in TOKEN, b when tok gave them */
	PLX_TR_SENT,     /* io sent what it had of the sample; index: next token */
	PLX_TR_REQ_END,  /* batch: over; n enum plx_final_kind, index reject code on the wire */
	PLX_TR_REQ_GONE, /* io sent the last message; n, index as in REQ_END */
	PLX_TR_STEP,     /* accel: done; n tokens, index sequences, a start, b end, c submit */
	PLX_TR_STALL,    /* a stage could not hand on; a begin, b end */
	PLX_TR_LONG,     /* one turn of a stage took over PLX_LONG_NS; a begin, b end */
	PLX_TR_KIND_END
};

/* One event, a cache line. */
struct plx_trace_ev {
	uint64_t seq; /* its number + 1; 0 while it is written */
	uint64_t ns;
	uint64_t req_id;  /* the client's number; 0 in STEP */
	uint32_t session; /* 0 in STEP */
	uint32_t n;
	uint16_t kind; /* enum plx_trace_kind */
	uint16_t sample;
	uint32_t index;
	uint64_t a;
	uint64_t b;
	uint64_t c;
};
static_assert(sizeof(struct plx_trace_ev) == 64, "one event, one cache line");

/* plx_count - add n to a counter. Thread: the page's one writer.  Cost: 1 ns. */
static inline void plx_count(struct plx_page *p, enum plx_metric m, uint64_t n)
{
	__atomic_store_n(&p->counter[m], p->counter[m] + n, __ATOMIC_RELAXED);
}

/* plx_counter_read - a counter's value. Thread: any. */
static inline uint64_t plx_counter_read(const struct plx_page *p, enum plx_metric m)
{
	return __atomic_load_n(&p->counter[m], __ATOMIC_RELAXED);
}

/* plx_gauge_set - a value of now. Thread: the page's one writer.  Cost: 1 ns. */
static inline void plx_gauge_set(struct plx_page *p, enum plx_gauge g, uint64_t v)
{
	__atomic_store_n(&p->gauge[g], v, __ATOMIC_RELAXED);
}

/*
 * plx_regime_say - what the turn the stage is in was, should it end with nothing done
 * (BACKPRESSURED), or whatever it did (HOUSEKEEPING). Forgotten at the turn's end.
 * Thread: the page's one writer.
 */
static inline void plx_regime_say(struct plx_page *p, enum plx_regime r)
{
	p->turn_regime = (uint32_t)r;
}

/*
 * plx_trace - write an event into the page's ring, over the oldest.
 *
 * @ev  all but seq is filled.
 *
 * Thread: the page's one writer.  Cost: a cache line's stores; nothing where the page has no ring.
 */
static inline void plx_trace(struct plx_page *p, const struct plx_trace_ev *ev)
{
	if (p->trace_off == 0)
		return;
	uint64_t n = p->trace_seq;
	struct plx_trace_ev *to =
	    (struct plx_trace_ev *)(void *)((char *)p + p->trace_off) + (n & (p->trace_events - 1));
	const uint64_t *src = (const uint64_t *)(const void *)ev;
	uint64_t *dst = (uint64_t *)(void *)to;

	/* W1: seq 0 before the content. Pairs with R2: a reader that saw any of it sees seq moved.
	 */
	__atomic_store_n(&dst[0], 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	for (unsigned int i = 1; i < sizeof(*ev) / sizeof(*src); i++)
		__atomic_store_n(&dst[i], src[i], __ATOMIC_RELAXED);
	/* W2: pairs with R1. */
	__atomic_store_n(&dst[0], n + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&p->trace_seq, n + 1, __ATOMIC_RELEASE);
}

/*
 * plx_trace_read - copy event number n (0..) of a ring; false: it was overwritten, is being
 * written, or never was.
 * Thread: any.
 */
static inline bool plx_trace_read(const struct plx_trace_ev *ring, uint32_t n_events, uint64_t n,
                                  struct plx_trace_ev *out)
{
	const uint64_t *src = (const uint64_t *)(const void *)&ring[n & (n_events - 1)];
	uint64_t *dst = (uint64_t *)(void *)out;

	/* R1: pairs with W2. */
	if (__atomic_load_n(&src[0], __ATOMIC_ACQUIRE) != n + 1)
		return false;
	dst[0] = n + 1;
	for (unsigned int i = 1; i < sizeof(*out) / sizeof(*src); i++)
		dst[i] = __atomic_load_n(&src[i], __ATOMIC_RELAXED);
	/* R2: pairs with W1. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&src[0], __ATOMIC_RELAXED) == n + 1;
}

/* plx_metric_name - "REQ_OPENED"; plx_metric_unit - "requests"; plx_metric_help - a sentence. */
const char *plx_metric_name(enum plx_metric m);
const char *plx_metric_unit(enum plx_metric m);
const char *plx_metric_help(enum plx_metric m);

/* plx_gauge_name, plx_gauge_unit, plx_gauge_help - likewise. */
const char *plx_gauge_name(enum plx_gauge g);
const char *plx_gauge_unit(enum plx_gauge g);
const char *plx_gauge_help(enum plx_gauge g);

/* plx_hist_name - "TURN"; plx_hist_help - a sentence. */
const char *plx_hist_name(enum plx_hist_idx h);
const char *plx_hist_help(enum plx_hist_idx h);

/* plx_regime_name - "busy", "idle", "backpressured", "housekeeping". */
const char *plx_regime_name(enum plx_regime r);

/* plx_trace_name - "req_whole" and so on; "unknown" for what is no kind. */
const char *plx_trace_name(uint32_t kind);

#endif
