/*
 * The Pollux client library: one session with one appliance, several requests in flight.
 *
 * Poll-driven: plx_client_fd and plx_client_next_ns say what to wait for, plx_client_process does
 * what is due without ever blocking, plx_client_event hands out what happened. Blocking helpers
 * (plx_client_connect, plx_client_ask) are loops over these. Every request submitted ends in
 * exactly one final event: DONE, REJECT, CANCELLED or FAILED.
 *
 * Memory is bounded by the limits in struct plx_client_config: n_requests messages of at most
 * request_bytes, and n_packets received packets of at most datagram_bytes; beyond that the library
 * stops acknowledging, and the appliance pauses.
 *
 * Thread: a client belongs to one thread at a time; different clients share nothing.
 */
#ifndef PLX_TOOLS_CLIENT_CLIENT_H
#define PLX_TOOLS_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"
#include "fw/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PLX_CLIENT_PORT        7709
#define PLX_CLIENT_KEY_BYTES   32
#define PLX_CLIENT_SAMPLES_MAX 64
#define PLX_CLIENT_PAST        64 /* finished requests that can be named to go on from */

struct plx_client;

/* Where to connect and within which bounds. Begin with plx_client_config_init. */
struct plx_client_config {
	const char *host;                  /* address, or name: up to 8 addresses are tried */
	uint16_t port;                     /* 7709 */
	uint64_t key_id;                   /* which key; 0 with insecure */
	uint8_t key[PLX_CLIENT_KEY_BYTES]; /* pre-shared; see plx_client_key_read */
	bool insecure;                     /* for an appliance that runs without keys */
	bool reconnect;                    /* true: a new session when the appliance lost ours */
	uint32_t connect_timeout_ms;       /* 5,000: a handshake without answer */
	uint32_t silence_timeout_ms;       /* 10,000: a session from which nothing comes */
	uint32_t n_requests;               /* 64: submitted and not finished, 1..1024 */
	uint32_t request_bytes;            /* 4 MiB: one request's message */
	uint32_t n_packets;                /* 512: received, not handed out; at least 16 */
	uint16_t datagram_bytes;           /* 1,472: largest sent and taken, 1,200..9,216 */
};

/* plx_client_config_init - the defaults named above; host must be set. */
void plx_client_config_init(struct plx_client_config *cfg);

/*
 * plx_client_key_read - key_id and key from a client key file: one line `id=<hex> key=<64 hex>`,
 * as `plx-key show-client` writes it. A file that others may read is refused.
 *
 * Errors: IO, FORMAT, AUTH (its mode), each with file, line and remedy in d.
 */
int plx_client_key_read(struct plx_client_config *cfg, const char *path, struct plx_diag *d);

/*
 * plx_client_open - make a client and start the handshake; does not wait for it.
 *
 * Errors: INVAL (a bound out of range), NOT_FOUND (host), IO (no socket), NOMEM; d says more.
 */
int plx_client_open(struct plx_client **out, const struct plx_client_config *cfg,
                    struct plx_diag *d);

/*
 * plx_client_close - cancel what is unfinished, say CLOSE to the appliance and free everything.
 *
 * No final event comes for unfinished requests. NULL is accepted.
 */
void plx_client_close(struct plx_client *c);

/* ---- poll-driven use ---- */

/* plx_client_fd - the socket to poll for POLLIN; it stays the same until close, also where the
 * host's next address is tried. */
int plx_client_fd(const struct plx_client *c);

/* plx_client_now_ns - the clock that next_ns and process speak of: CLOCK_MONOTONIC. */
uint64_t plx_client_now_ns(void);

/* plx_client_next_ns - when process must be called though nothing came; UINT64_MAX: never. */
uint64_t plx_client_next_ns(const struct plx_client *c);

/*
 * plx_client_process - receive, acknowledge, retransmit, time out, send.
 *
 * @now_ns  plx_client_now_ns().
 *
 * Cost: never blocks; at most 64 packets are received in a call.
 * Errors: CLOSED when the session is over for good (plx_client_why says why). Events that came
 * before can still be taken.
 */
int plx_client_process(struct plx_client *c, uint64_t now_ns);

/* plx_client_wait - poll and process once: returns when something was done or after timeout_ms.
 * Returns what process returned. A signal ends the wait early. */
int plx_client_wait(struct plx_client *c, uint32_t timeout_ms);

/* plx_client_connect - wait until the session is open. Errors: TIMEOUT, CLOSED, AUTH, UNSUPPORTED;
 * d says why in words. */
int plx_client_connect(struct plx_client *c, struct plx_diag *d);

/* plx_client_why - one sentence on why the session is over or was last lost; "" when it wasn't. */
const char *plx_client_why(const struct plx_client *c);

/* ---- requests ---- */

enum plx_client_role {
	PLX_CLIENT_SYSTEM = 0,
	PLX_CLIENT_USER = 1,
	PLX_CLIENT_ASSISTANT = 2,
	PLX_CLIENT_TOOL = 3,
};

struct plx_client_message {
	enum plx_client_role role;
	const char *text; /* UTF-8 */
	size_t n_bytes;
};

/* What may happen to an unfinished request when the appliance, or one that takes its place, lost
 * the session. */
enum plx_client_resubmit {
	PLX_CLIENT_RESUBMIT_NEVER,     /* it ends FAILED */
	PLX_CLIENT_RESUBMIT_UNSTARTED, /* submitted again if no TOKENS event was handed out yet */
	PLX_CLIENT_RESUBMIT_ALWAYS,    /* the same, and else a RESTART event says: begin anew */
	/*
	 * It goes on behind the tokens that came, without an event, also after REJECT DEVICE_LOST
	 * (five times at most, each after the time that REJECT named); as ALWAYS where the
	 * appliance can't resume. Randomness is a function of seed, sample and position, so an
	 * appliance of the same numeric_kind makes the same text as without the break. The library
	 * keeps the ids that came: 4 bytes each.
	 */
	PLX_CLIENT_RESUBMIT_RESUME,
};

/* A span of the prompt: bytes [first, end) of a message or of the text, or ids. */
struct plx_client_keep {
	uint32_t message; /* 0 without messages */
	uint32_t first, end;
};

/*
 * What to generate. Exactly one of text, ids and messages. Begin with plx_client_request_init; all
 * pointers are read during submit only.
 *
 * A request that goes on from a finished one (continues) is given whole all the same, with the
 * earlier prompt and its answer; n_known says how much of it they are. Where the appliance has them
 * still only the rest is sent and computed; where it has not (another session, too long ago, or it
 * lacks the feature) the library sends the whole by itself, and ACCEPT's cached_tokens tell. With
 * the rest the appliance goes on from the very ids it gave; with the whole, text is made into ids
 * anew, which may cut it into other tokens.
 */
struct plx_client_request {
	const char *text; /* as it is, without a chat template */
	size_t text_bytes;
	const uint32_t *ids; /* vocabulary ids */
	uint32_t n_ids;
	const struct plx_client_message *messages; /* through the model's chat template */
	uint32_t n_messages;
	uint64_t continues;       /* a request of this client that is DONE; 0: none */
	uint16_t continue_sample; /* which of its samples */
	size_t n_known;           /* with continues: bytes of text, ids, or messages it covers */
	uint32_t model_id;        /* 0: the first */
	uint32_t max_new;         /* 256: ids of each sample */
	uint16_t n_samples;       /* 1 */
	uint8_t priority;         /* 0: lowest; at most 15 */
	uint8_t n_logprobs;       /* alternatives beside each token, with logprobs */
	bool logprobs;            /* report the log-probability of each token */
	bool deterministic;       /* as the appliance defines it; the CPU always is */
	bool ids_only;            /* no text in TOKENS */
	bool no_drafts;           /* the appliance guesses nothing ahead; the text is the same */
	bool ignore_eos;          /* go on after the model's end of text */
	bool allow_compression;   /* a full context: its oldest tokens leave, and it goes on */
	bool special;             /* text: special tokens in it are control tokens */
	uint32_t deadline_us;     /* from receipt at the appliance; 0: none */
	uint64_t seed;
	float temperature;    /* 0: greedy */
	float top_p;          /* 1: off */
	float min_p;          /* 0: off */
	float repeat_penalty; /* 1: off */
	uint32_t top_k;       /* 0: off */
	const char *const *stops;
	uint32_t n_stops;
	enum plx_client_resubmit resubmit; /* UNSTARTED */
	/* Permission to remove what says least of the prompt, before it is run; one of both, with
	 * allow_compression. System messages, questions, numbers and names stay. */
	float keep_ratio;   /* tokens kept / tokens of the prompt, above 0, at most 1; 0: no */
	float max_loss;     /* share of the prompt's information removed, below 1; 0: no */
	bool evict;         /* not the prompt's text but KV of its tokens goes, when it was run */
	bool evict_late;    /* with evict: only where the appliance's memory is short */
	bool prune_too;     /* with evict: the text as well */
	uint8_t keep_roles; /* bit enum plx_client_role: messages that stay whole */
	const struct plx_client_keep *keeps; /* spans that stay */
	uint32_t n_keeps;                    /* at most 256 */
	/* Samples to make, of which the n_samples likeliest by the mean log-probability of their
	 * ids come back, best first, when all are made; 0: no more than n_samples. */
	uint16_t best_of;
	/* Long contexts: attention may leave out what it hardly looks at. Parts of 1,000 that it
	 * reads at least, by the appliance's estimate (1,000: all), and chunks of 64 positions
	 * beside; 0 and 0: as the appliance does. */
	uint16_t attend_mass, attend_chunks;
};

/* plx_client_request_init - the defaults named above. */
void plx_client_request_init(struct plx_client_request *r);

/*
 * plx_client_submit - copy the request and send it as soon as the session is open and there is
 * credit.
 *
 * @req  out: names the request in events and in cancel; never 0, grows, stays over reconnects.
 *
 * Errors: INVAL, TOO_LARGE, FULL (n_requests unfinished), UNSUPPORTED (the appliance lacks it, once
 * known), CLOSED, NOMEM; d says more.
 */
int plx_client_submit(struct plx_client *c, const struct plx_client_request *r, uint64_t *req,
                      struct plx_diag *d);

/*
 * plx_client_cancel - ask for the end of a request; its final event tells how it ended.
 *
 * Errors: NOT_FOUND when it has ended already or never was.
 */
int plx_client_cancel(struct plx_client *c, uint64_t req);

/* plx_client_ping - measure a round trip; a PONG event follows unless the session is lost.
 * At most 16 at a time. @token out: repeated in the event. Errors: AGAIN (no session), FULL. */
int plx_client_ping(struct plx_client *c, uint64_t *token);

/* ---- events ---- */

enum plx_client_event_type {
	PLX_CLIENT_EV_OPEN = 1,  /* the session is open (again) */
	PLX_CLIENT_EV_MODELS,    /* the model table came; plx_client_model */
	PLX_CLIENT_EV_ACCEPT,    /* req: queued */
	PLX_CLIENT_EV_TOKENS,    /* req: in order and without gaps for each sample */
	PLX_CLIENT_EV_RESTART,   /* req: was submitted again; forget its tokens */
	PLX_CLIENT_EV_DONE,      /* req, final */
	PLX_CLIENT_EV_REJECT,    /* req, final */
	PLX_CLIENT_EV_CANCELLED, /* req, final */
	PLX_CLIENT_EV_FAILED, /* req, final: the session was lost and nobody knows how it would end,
	                       * or its tokens were not taken while the appliance kept them */
	PLX_CLIENT_EV_PONG,   /* a ping came back */
	PLX_CLIENT_EV_DRAIN,  /* the appliance takes no new requests */
	PLX_CLIENT_EV_LOST,   /* the appliance lost the session; a new handshake begins */
	PLX_CLIENT_EV_CLOSED, /* the session is over for good */
};

/* The appliance's load. */
struct plx_client_load {
	uint32_t queued_tokens;
	uint32_t running_sequences;
	uint32_t free_kv_blocks;
	uint32_t step_time_us; /* smoothed */
};

struct plx_client_accept {
	uint32_t queue_position;
	uint32_t est_ttft_us;
	uint32_t cached_tokens; /* of the prompt, found in the prefix cache */
	uint32_t prompt_tokens; /* 0: not counted yet */
};

struct plx_client_top {
	uint32_t id;
	float logprob;
};

struct plx_client_tokens {
	uint16_t sample;
	uint16_t count;     /* of ids; may be 0 when last */
	uint32_t first_idx; /* of the first id within the sample */
	bool last;          /* the sample ends here */
	uint8_t n_top;
	uint32_t text_bytes;
	const uint32_t *ids;              /* [count] */
	const float *logprobs;            /* [count] or NULL */
	const struct plx_client_top *top; /* [count][n_top] or NULL */
	const char *text;                 /* [text_bytes], whole UTF-8 characters, no terminator */
};

enum plx_client_finish {
	PLX_CLIENT_FINISH_EOS = 1,      /* the model's end of text */
	PLX_CLIENT_FINISH_STOP = 2,     /* a stop string */
	PLX_CLIENT_FINISH_LENGTH = 3,   /* max_new */
	PLX_CLIENT_FINISH_CONTEXT = 4,  /* the context is full */
	PLX_CLIENT_FINISH_DEADLINE = 5, /* the deadline passed while it ran */
	PLX_CLIENT_FINISH_FAULT = 6,    /* this sample alone failed */
};

/* Nanoseconds of a request by stage. */
enum plx_client_stage {
	PLX_CLIENT_NS_RX,      /* first fragment to whole request */
	PLX_CLIENT_NS_TOK,     /* text to ids */
	PLX_CLIENT_NS_QUEUE,   /* waiting for a place in a step */
	PLX_CLIENT_NS_PREFILL, /* steps over the prompt */
	PLX_CLIENT_NS_DECODE,  /* the other steps */
	PLX_CLIENT_NS_DETOK,   /* ids to text */
	PLX_CLIENT_NS_TX,      /* waiting to be sent */
	PLX_CLIENT_NS_TTFT,    /* whole request to first token given to the port */
	PLX_CLIENT_NS_COUNT
};

struct plx_client_sample {
	uint32_t n_tokens;
	enum plx_client_finish finish; /* DONE only */
	uint32_t left_tokens; /* DONE: of prompt and answer, those that its last one was made
	                       * without; with allow_compression */
	float mean_logprob;   /* DONE, with best_of: of its ids */
};

struct plx_client_done {
	uint16_t n_samples;
	bool kind_changed;     /* moved to a device with other arithmetic on the way */
	uint32_t numeric_kind; /* equal kinds give equal bits */
	uint32_t prompt_tokens;
	uint32_t cached_tokens;
	uint64_t stage_ns[PLX_CLIENT_NS_COUNT];  /* as the appliance measured */
	uint64_t ttft_ns;                        /* submit to first TOKENS, as the client saw it */
	uint64_t total_ns;                       /* submit to DONE, as the client saw it */
	const struct plx_client_sample *samples; /* [n_samples] */
	/* With keep_ratio or max_loss: tokens of prompt_tokens that were removed before it was run,
	 * and whose memory was given up afterwards; the estimated loss, 0..1. */
	uint32_t pruned_tokens, evicted_tokens;
	float loss;
	/* With best_of: the samples that were made, and the ids of all of them. */
	uint32_t made_samples, made_tokens;
	/* With attend_mass or attend_chunks: shares of the attention that was read, on average and
	 * least, estimated; of the positions, those that were read. Else 0. */
	float share_mean, share_least, share_read;
};

struct plx_client_reject {
	int err;                 /* PLX_E_QUEUE_FULL .. PLX_E_DEVICE_LOST */
	uint16_t option;         /* BAD_REQUEST: the option at fault, else 0 */
	uint32_t retry_after_us; /* 0: don't try the same again */
	struct plx_client_load load;
	const char *detail; /* one line for a person, "" when there is none */
};

enum plx_client_cause {
	PLX_CLIENT_CANCEL_ASKED = 1,   /* by us */
	PLX_CLIENT_CANCEL_SLOW = 2,    /* we took no tokens for too long */
	PLX_CLIENT_CANCEL_DRAIN = 3,   /* the appliance stopped before it was done */
	PLX_CLIENT_CANCEL_REVOKED = 4, /* our key was removed */
};

struct plx_client_cancelled {
	enum plx_client_cause cause;
	uint16_t n_samples;                      /* 0: it never ran */
	const struct plx_client_sample *samples; /* [n_samples], n_tokens only */
};

struct plx_client_failed {
	int err;         /* LOST, TIMEOUT, CLOSED, AUTH */
	const char *why; /* one sentence */
};

struct plx_client_pong {
	uint64_t token;
	uint64_t rtt_ns;
	struct plx_client_load load;
};

/* What happened. Pointers hold until the next call of plx_client_event or plx_client_close. */
struct plx_client_event {
	enum plx_client_event_type type;
	uint64_t req; /* 0 where the event is about no request */
	union {
		struct plx_client_accept accept;
		struct plx_client_tokens tokens;
		struct plx_client_done done;
		struct plx_client_reject reject;
		struct plx_client_cancelled cancelled;
		struct plx_client_failed failed; /* FAILED, LOST and CLOSED */
		struct plx_client_pong pong;
		uint32_t drain_grace_ms; /* DRAIN */
	};
};

/* plx_client_event - take the oldest event; false when there is none. */
bool plx_client_event(struct plx_client *c, struct plx_client_event *ev);

/* plx_client_event_final - whether ev ends its request. */
bool plx_client_event_final(const struct plx_client_event *ev);

/* ---- blocking use ---- */

/* Called for each event of the request, the final one too. Return false to cancel the request; what
 * comes until its final event is still reported. */
typedef bool plx_client_on_event(void *arg, const struct plx_client_event *ev);

/*
 * plx_client_ask - submit a request and wait for its end. Events of other requests stay queued.
 *
 * Returns 0 for DONE, the reject code for REJECT, CANCELLED, or what FAILED carried; d has words.
 */
int plx_client_ask(struct plx_client *c, const struct plx_client_request *r,
                   plx_client_on_event *fn, void *arg, struct plx_diag *d);

/* ---- what is known ---- */

struct plx_client_info {
	bool open;
	uint32_t n_sessions;   /* handshakes completed */
	uint32_t n_unfinished; /* requests */
	uint32_t features;     /* bits as in the protocol's HELLO_ACK */
	uint32_t max_in_flight;
	uint32_t max_request_bytes;
	uint32_t max_prompt_tokens;
	uint32_t max_new;
	uint32_t keepalive_ms;
	uint16_t max_samples;
	uint16_t datagram_bytes; /* in use for new messages */
	const char *cipher;      /* "AES-256-GCM" or "ChaCha20-Poly1305" */
	uint64_t srtt_ns;
	uint64_t packets_sent;
	uint64_t packets_received;
	uint64_t packets_dropped; /* received, but damaged, replayed, foreign or without room */
	uint64_t retransmits;     /* fragments of requests sent again */
	uint64_t spurious;        /* of those, rounds that an ACK shows were in vain */
	uint64_t rekeys;
};

void plx_client_info(const struct plx_client *c, struct plx_client_info *info);

struct plx_client_model {
	uint32_t model_id;
	uint32_t context_tokens;
	uint32_t vocab_size;
	uint32_t n_embd;
	uint8_t hash[32]; /* SHA-256 of the model file */
	bool chat;        /* has a chat template */
	char name[129];
};

/* plx_client_model - entry idx of the model table; false past its end or before EV_MODELS. */
bool plx_client_model(const struct plx_client *c, uint32_t idx, struct plx_client_model *m);

#ifdef __cplusplus
}
#endif

#endif
