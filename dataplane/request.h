/*
 * A request on its way through the stages, what comes back, and the rings between them.
 *
 *   io --req--> tok --req--> batch --cmd--> accel --done--> batch --out--> tok --ev--> io
 *   io --note--> batch (window)     tok --note--> batch (stop)     io --ev--> tok (empty again)
 *
 * A struct plx_req is taken from the pool by io, filled, and pushed; from then on it is not io's
 * until its FINAL event comes back, which every pushed request gets exactly once. What io filled
 * stays as it is all the while, so that every stage may read it; `ids` and `res` are written by the
 * stage that has the request. The exceptions are `cancel`, which io writes at any time and tok and
 * batch read before they work on the request, and `window`.
 *
 * Full rings: io_tok is the only forward ring that a request can find full from outside; then io
 * itself answers QUEUE_FULL. tok rejects where tok_req is full. Return rings have room for
 * everything that can be on its way (events, records, requests); pushing there is checked by
 * PLX_CHECK. No stage waits for room while it holds what another needs to make room: io takes
 * events unconditionally, tok takes records as long as events are free, batch fills a step only
 * when batch_tok has room for all that the step can produce.
 */
#ifndef PLX_DATAPLANE_REQUEST_H
#define PLX_DATAPLANE_REQUEST_H

#include <stdatomic.h>

#include "accel/accel.h"
#include "dataplane/ring.h"
#include "dataplane/wire/req.h"
#include "fw/base/config.h"
#include "fw/base/err.h"
#include "fw/base/stamp.h"

#define PLX_MAX_IO      16  /* io stages */
#define PLX_MAX_TENANTS 256 /* tenants that a KV share is kept for */

/* What REJECT, CANCELLED and DONE are made of; kind says which. */
enum plx_final_kind { PLX_FINAL_DONE = 1, PLX_FINAL_REJECT, PLX_FINAL_CANCELLED };

struct plx_result {
	uint8_t kind;             /* enum plx_final_kind */
	uint8_t cause;            /* CANCELLED: enum plx_cancel_cause */
	uint16_t option;          /* REJECT, BAD_REQUEST: type of the option at fault, else 0 */
	int32_t err;              /* REJECT: PLX_E_QUEUE_FULL .. PLX_E_DEVICE_LOST */
	uint32_t retry_after_us;  /* REJECT; 0: do not retry as is */
	struct plx_msg_load load; /* REJECT: at that moment */
	uint32_t prompt_tokens;
	uint32_t cached_tokens;
	uint32_t numeric_kind; /* DONE: of the device that ran it last; 0: as io knows it */
	bool kind_changed;     /* DONE: others ran a part of it */
	struct plx_msg_done_compress compress; /* DONE, with the option COMPRESS */
	struct plx_msg_done_best best;         /* DONE, with the option BEST_OF */
	float mean[PLX_SAMPLES_MAX];           /* likewise, of what was sent */
	struct plx_msg_done_sparse sparse;     /* DONE, with the option SPARSE */
	uint64_t ns[PLX_NS_COUNT]; /* tok fills TOK and DETOK, batch QUEUE, PREFILL, DECODE; io the
	                              rest */
	char detail[96];           /* REJECT: for a person, may be ""; never prompt text */
	struct plx_msg_done_sample
	    sample[PLX_SAMPLES_MAX]; /* tokens sent, and why it ended (DONE) */
};

struct plx_req {
	/* Set once. */
	uint32_t idx;  /* place in the pool, 0..n_requests-1: index of each stage's own tables */
	uint32_t gen;  /* grows each time this place is taken */
	uint8_t *body; /* [lim.request_bytes] the REQ message; view points into it */
	int32_t *ids;  /* [lim.prompt_tokens] prompt, written by tok; what is pruned, by batch */
	uint8_t *
	    mark; /* [lim.prompt_tokens] enum plx_compress_mark, by tok, with the option COMPRESS */
	float *score; /* [lim.prompt_tokens] batch's: log-probabilities of ids */

	/* Filled by io before the push; nobody writes them afterwards. */
	uint32_t io_idx; /* which io stage owns the session */
	uint32_t session_id;
	uint64_t req_id;
	uint32_t tenant;           /* 0..PLX_MAX_TENANTS-1 */
	uint32_t tenant_kv_blocks; /* blocks the tenant may hold at once; 0: no limit */
	uint8_t priority;          /* 0..15, larger first; io has capped it by the key's */
	bool share_prefix;         /* its prefixes are those of all that opted in (keytab.h) */
	uint64_t rx_ns;            /* first fragment */
	uint64_t whole_ns;         /* last fragment: the request began */
	uint64_t deadline_ns;      /* absolute, plx_clock_ns; 0: none */
	struct plx_req_view view;  /* decoded by plx_req_decode with the body as its bytes */

	/* Written by the stage that has the request. */
	uint32_t n_ids;    /* of ids */
	uint32_t n_kept;   /* of them, the first: those of the request that this one continues */
	uint64_t tok_ns;   /* tok was done with the prompt */
	uint64_t batch_ns; /* batch took it */
	struct plx_result res;

	/* Written by io at any time: 0 or enum plx_cancel_cause. C1 in tok, C2 in batch. */
	_Alignas(64) _Atomic uint32_t cancel;
	/* With BEST_OF, likewise: ids of each sample that may be sent, as plx_note_window says; 0:
	 * lim.unacked_tokens. Read by tok (B1). */
	_Atomic uint32_t window[PLX_SAMPLES_MAX];
};

enum plx_ev_kind {
	PLX_EV_ACCEPTED = 1, /* at most one, before any TOKENS */
	PLX_EV_TOKENS,
	PLX_EV_FINAL, /* last; the request is io's again, req->res says how it ended */
};

#define PLX_EV_IDS  16  /* tokens of one event */
#define PLX_EV_TOPS 40  /* n_ids * n_top of one event, at most */
#define PLX_EV_TEXT 688 /* text of one event: with all else full it fits a 1,200-byte datagram */

/*
 * What tok tells io. Tokens of a sample come in order and without gaps: first_idx is the sum of
 * n_ids before it. Text is whole UTF-8 characters. An event with n_ids 0 occurs only with last.
 */
struct plx_ev {
	struct plx_req *req;
	uint8_t kind; /* enum plx_ev_kind */
	bool last;    /* the sample ends with these */
	uint16_t sample;
	uint16_t n_ids;
	uint16_t n_top; /* alternatives a token */
	uint16_t text_bytes;
	uint16_t io_idx;
	uint32_t first_idx;
	uint64_t device_ns;           /* when the device was done with the last of them */
	uint64_t out_ns;              /* when tok pushed this */
	struct plx_msg_accept accept; /* ACCEPTED */
	int32_t id[PLX_EV_IDS];
	float logprob[PLX_EV_IDS];
	struct plx_msg_top top[PLX_EV_TOPS]; /* [n_ids][n_top] */
	char text[PLX_EV_TEXT];
};

enum plx_note_kind {
	PLX_NOTE_WINDOW = 1, /* io: sample may generate ids below index `next` */
	PLX_NOTE_STOP,       /* tok: sample is over, nothing of it is wanted any more */
};

/* A notice to batch; one for a request that has gone (gen differs) is ignored. */
struct plx_note {
	uint32_t req_idx;
	uint32_t gen;
	uint16_t sample;
	uint16_t kind; /* enum plx_note_kind */
	uint32_t next;
};

enum plx_out_kind {
	PLX_OUT_ACCEPT = 1, /* index queue position, n_top estimated us, id cached tokens */
	PLX_OUT_TOKEN,      /* followed by its TOPs */
	PLX_OUT_TOP,        /* up to three alternatives of the TOKEN before */
	PLX_OUT_END,        /* the sample ended without a token more */
	PLX_OUT_FINAL,      /* the request itself goes back: req->res is filled */
};

/* What batch tells tok: one record by value. */
struct plx_out {
	uint8_t kind; /* enum plx_out_kind */
	uint8_t end;  /* TOKEN, END: enum plx_finish when the sample ends with it, else 0 */
	uint16_t sample;
	uint32_t req_idx;
	union {
		struct {
			uint32_t index; /* TOKEN: within the sample */
			int32_t id;
			float logprob;
			uint32_t n_top; /* TOKEN: alternatives that follow in TOPs */
			uint64_t ns;    /* TOKEN, END: when the device was done with the step */
		};
		struct plx_top top[3];
	};
};
static_assert(sizeof(struct plx_out) == 32, "copied by value through a ring");

enum plx_cmd_kind {
	PLX_CMD_STEP = 1, /* submit step record step_idx */
	PLX_CMD_RESET,    /* nothing is in flight: begin a new device generation */
	PLX_CMD_COPY,     /* copy KV block src, of device `from`, to dst */
};

/*
 * batch to accel, and back: the same element with err filled. A COPY has an answer only where
 * another device's blocks can't be copied: then the step behind it fails unseen by the device.
 */
struct plx_cmd {
	uint16_t kind; /* enum plx_cmd_kind */
	uint16_t from; /* COPY: the accel stage whose block src is */
	union {
		uint32_t step_idx; /* STEP */
		uint32_t src;      /* COPY */
	};
	union {
		int32_t err;    /* back: 0; STEP: the step's status, or submit's error; RESET */
		uint32_t batch; /* COPY: pairs of equal number may go in one call */
	};
	uint32_t dst; /* COPY */
};
static_assert(sizeof(struct plx_cmd) == 16, "copied by value through a ring");

/* plx_cmd_copies - most copies that batch gives before one step. */
static inline uint32_t plx_cmd_copies(const struct plx_config *cfg)
{
	uint32_t most = cfg->lim.prompt_tokens + cfg->lim.max_new_tokens;

	return most / cfg->lim.block_tokens + 64;
}

/* plx_cmd_entries - commands that wait for accel at most: steps, a reset, copies of two steps. */
static inline uint32_t plx_cmd_entries(const struct plx_config *cfg)
{
	return cfg->lim.steps_in_flight + 1 + 2 * plx_cmd_copies(cfg);
}

/* plx_cmd_answers - answers on their way to batch: steps, a copy refused before each, a reset. */
static inline uint32_t plx_cmd_answers(const struct plx_config *cfg)
{
	return 2 * cfg->lim.steps_in_flight + 1;
}

typedef struct plx_req *plx_req_ptr;
typedef struct plx_ev *plx_ev_ptr;
PLX_RING_DEFINE(req, plx_req_ptr)
PLX_RING_DEFINE(ev, plx_ev_ptr)
PLX_RING_DEFINE(note, struct plx_note)
PLX_RING_DEFINE(out, struct plx_out)
PLX_RING_DEFINE(cmd, struct plx_cmd)

/* How busy the appliance is. Writer: batch; readers: any stage. */
struct plx_load {
	_Atomic uint32_t queued_tokens; /* prompt tokens not run yet */
	_Atomic uint32_t running_sequences;
	_Atomic uint32_t free_kv_blocks; /* not reserved */
	_Atomic uint32_t step_time_us;   /* smoothed */
	_Atomic uint32_t waiting_requests;
	_Atomic uint32_t retry_us; /* when a place that is full now is expected to be free */
};

/* Everything the stages share: the pools and the rings. Made once at start. */
struct plx_links {
	const struct plx_config *cfg;
	uint32_t n_io;
	uint32_t n_evs;
	struct plx_req *req; /* [lim.n_requests] */
	struct plx_load load;
	/* Session ids by place, 0 where a session has gone. Writer: the io stage; tok reads. */
	_Atomic uint32_t *open_session[PLX_MAX_IO]; /* [lim.n_sessions] */
	_Atomic uint32_t
	    drain; /* main: 0; 1 io refuses new requests; 2 batch and tok end the rest */

	struct plx_ring_req req_free;           /* any io takes and gives */
	struct plx_ring_req io_tok[PLX_MAX_IO]; /* lim.ring_entries each */
	struct plx_ring_req tok_req;            /* tok to batch */
	struct plx_ring_ev tok_io[PLX_MAX_IO];
	struct plx_ring_ev ev_free[PLX_MAX_IO]; /* io to tok */
	struct plx_ring_note io_note[PLX_MAX_IO];
	struct plx_ring_note tok_note;
	struct plx_ring_out batch_tok;
	uint32_t n_accel;
	struct plx_ring_cmd batch_accel[PLX_CFG_MAX_DEVS];
	struct plx_ring_cmd accel_batch[PLX_CFG_MAX_DEVS];
	/* batch: a RESET stands in the ring, and what is before it is of no use any more. */
	_Atomic uint32_t reset_asked[PLX_CFG_MAX_DEVS];
	/* accel: bytes of experts that its device has read; while that grows it does not stall. */
	_Atomic uint64_t dev_read[PLX_CFG_MAX_DEVS];
	struct plx_ev *ev; /* [n_evs]; tok owns those that are free */
};

/*
 * plx_links_events - events in the pool: a few for each running sequence and request, and as many
 * as the end of one request with every sample waiting at a stop string can need at once.
 */
uint32_t plx_links_events(const struct plx_config *cfg);

/* plx_links_accels - accel stages that cfg has, or 1. */
uint32_t plx_links_accels(const struct plx_config *cfg);

/* plx_links_bytes - what plx_links_open takes from its arena. */
size_t plx_links_bytes(const struct plx_config *cfg, uint32_t n_io);

/*
 * plx_links_open - make pools and rings for n_io io stages, one tok, one batch, and the accel
 * stages that cfg has, at least one.
 *
 * @cfg  must outlive the links.
 *
 * Owner:  the arena. Thread: at start, before any stage runs.
 * Errors: NOMEM; LIMIT where cfg asks for more than the types here can hold (d says what).
 */
int plx_links_open(struct plx_links *l, struct plx_arena *a, const struct plx_config *cfg,
                   uint32_t n_io, struct plx_diag *d);

/*
 * plx_req_take - a request from the pool, with gen moved on, res and cancel zero; NULL: all are in
 * flight (io answers QUEUE_FULL). io fills body, then view and the fields above.
 * plx_req_give - put it back, after its FINAL event and once io needs nothing of it any more.
 * Thread: any io stage.  Cost: tens of ns.
 */
struct plx_req *plx_req_take(struct plx_links *l);
void plx_req_give(struct plx_links *l, struct plx_req *r);

/* plx_req_busy - requests that are not in the pool. Thread: any. */
uint32_t plx_req_busy(const struct plx_links *l);

/*
 * plx_req_push - hand a filled request to tok. False: the ring is full; the request is still io's,
 * which answers QUEUE_FULL (plx_load_retry_us gives the time).  Thread: io stage r->io_idx.
 */
bool plx_req_push(struct plx_links *l, struct plx_req *r);

/* plx_req_cancel - ask for the end of a pushed request; its FINAL still comes. Thread: its io. */
static inline void plx_req_cancel(struct plx_req *r, enum plx_cancel_cause cause)
{
	/* C1, C2: read relaxed by tok and batch; the flag says nothing about other memory. */
	atomic_store_explicit(&r->cancel, (uint32_t)cause, memory_order_relaxed);
}

/*
 * plx_ev_next - the next event for an io stage, or NULL. Thread: io stage io_idx.
 * plx_ev_give - hand it back empty, as soon as its content is copied. Thread: the same.
 */
struct plx_ev *plx_ev_next(struct plx_links *l, uint32_t io_idx);
void plx_ev_give(struct plx_links *l, struct plx_ev *ev);

/*
 * plx_note_window - a sample may go on until it has generated `next` ids: io calls this as TOK_ACK
 * moves on, with next = acknowledged + lim.unacked_tokens. Without it a sample stops at
 * lim.unacked_tokens. Totals only grow, so a lost or repeated one does no harm.
 *
 * False: the ring is full; call again later.  Thread: io stage r->io_idx, r pushed and not FINAL.
 */
bool plx_note_window(struct plx_links *l, const struct plx_req *r, uint16_t sample, uint32_t next);

/*
 * plx_session_mark - a session began to send requests (open), or has gone: what tok keeps of its
 * finished ones is then forgotten.
 * plx_session_marked - whether it is there; false where its id has no place.
 * Thread: io stage io_idx marks, any reads; a request of a session comes after its mark.
 */
void plx_session_mark(struct plx_links *l, uint32_t io_idx, uint32_t session_id, bool open);
bool plx_session_marked(const struct plx_links *l, uint32_t io_idx, uint32_t session_id);

/* plx_load_read - the figures for PONG and REJECT. Thread: any. */
struct plx_msg_load plx_load_read(const struct plx_links *l);

/*
 * plx_load_retry_us - when a request that no scheduler looked at could be tried again, 1 ms to 10
 * s: what the scheduler said last (plx_sched_retry_ns). Thread: any.
 */
uint32_t plx_load_retry_us(const struct plx_links *l);

/* plx_count_reject - count a request that ends in REJECT err, and its reason. */
static inline void plx_count_reject(struct plx_page *p, int err)
{
	uint8_t wire = plx_err_wire(err);

	plx_count(p, PLX_M_REQ_REJECTED, 1);
	if (wire != 0)
		plx_count(p, (enum plx_metric)(PLX_M_REJ_QUEUE_FULL + wire - 1), 1);
}
static_assert(PLX_M_REJ_DEVICE_LOST - PLX_M_REJ_QUEUE_FULL ==
                  PLX_ERR_WIRE_FIRST - PLX_ERR_WIRE_LAST,
              "one counter for each reject code, in their order");

/*
 * plx_req_trace - an event of a request into a stage's ring.
 *
 * @ev  all but req_id and session, which are r's.
 *
 * Thread: the stage that has the request, or batch and io while it runs.
 */
static inline void plx_req_trace(struct plx_page *p, const struct plx_req *r,
                                 struct plx_trace_ev ev)
{
	ev.req_id = r->req_id;
	ev.session = r->session_id;
	plx_trace(p, &ev);
}

/* plx_req_reject - fill r->res as a REJECT with the load of now. detail may be NULL. */
void plx_req_reject(const struct plx_links *l, struct plx_req *r, int err, const char *detail);

#endif
