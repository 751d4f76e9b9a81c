/*
 * The payload of every message but REQ (req.h) and the handshake's (handshake.h).
 *
 * A struct plx_msg_<type> is the fixed part as it lies on the wire; a trailing variable part is
 * given to the encoder, and found by the decoder, as pointers into the packet (struct
 * plx_msg_<type>_view). Encoders return the payload's bytes, or LIMIT when it does not fit cap;
 * decoders return 0 or FORMAT, and accept no trailing bytes unless they say so.
 */
#ifndef PLX_DATAPLANE_WIRE_MSG_H
#define PLX_DATAPLANE_WIRE_MSG_H

#include "dataplane/wire/proto.h"

#define PLX_ACK_MAX        32u /* messages one ACK or TOK_ACK speaks of */
#define PLX_SAMPLES_MAX    64u
#define PLX_LOGPROBS_MAX   20u
#define PLX_DETAIL_MAX     256u /* bytes of text in REJECT and CLOSE */
#define PLX_MODEL_NAME_MAX 128u
#define PLX_MODELS_MAX     256u

/* What a balancer wants to know; in PONG and REJECT. */
struct plx_msg_load {
	uint32_t queued_tokens;
	uint32_t running_sequences;
	uint32_t free_kv_blocks;
	uint32_t step_time_us; /* smoothed */
};
static_assert(sizeof(struct plx_msg_load) == 16, "wire layout");

/* The head of ACK and TOK_ACK: one round-trip sample for the other side. */
struct plx_msg_ack_head {
	uint64_t largest_pkt_num; /* largest opened so far */
	uint32_t ack_delay_us;    /* from its arrival to this packet; saturates */
	uint16_t n_entries;       /* 0..PLX_ACK_MAX */
	uint16_t zero;
};
static_assert(sizeof(struct plx_msg_ack_head) == 16, "wire layout");

/* How much of one message has arrived. first_missing == frag_count: all of it. */
struct plx_msg_ack_entry {
	uint64_t req_id;
	uint64_t map;           /* bit i: fragment first_missing + 1 + i has arrived */
	uint32_t first_missing; /* up to 65,535 */
	uint8_t type;           /* of the message that is acknowledged */
	uint8_t zero[3];
};
static_assert(sizeof(struct plx_msg_ack_entry) == 24, "wire layout");
static_assert(offsetof(struct plx_msg_ack_entry, first_missing) == 16, "wire layout");
static_assert(offsetof(struct plx_msg_ack_entry, type) == 20, "wire layout");

int plx_msg_ack_encode(uint8_t *p, size_t cap, const struct plx_msg_ack_head *h,
                       const struct plx_msg_ack_entry *e);
/* e has room for PLX_ACK_MAX. */
int plx_msg_ack_decode(struct plx_msg_ack_head *h, struct plx_msg_ack_entry *e, const uint8_t *p,
                       size_t n_bytes);

/* Tokens below next_idx have arrived; send from there. Also how a client resumes. */
struct plx_msg_tok_ack_entry {
	uint64_t req_id;
	uint32_t next_idx;
	uint16_t sample;
	uint16_t flags; /* PLX_TOK_ACK_* */
};
#define PLX_TOK_ACK_RESEND 1u /* send from next_idx at once */
/* The sample's end has arrived: next_idx can't tell where the last TOKENS carries no id. */
#define PLX_TOK_ACK_LAST 2u
static_assert(sizeof(struct plx_msg_tok_ack_entry) == 16, "wire layout");

int plx_msg_tok_ack_encode(uint8_t *p, size_t cap, const struct plx_msg_ack_head *h,
                           const struct plx_msg_tok_ack_entry *e);
int plx_msg_tok_ack_decode(struct plx_msg_ack_head *h, struct plx_msg_tok_ack_entry *e,
                           const uint8_t *p, size_t n_bytes);

/* CANCEL: header.req_id names the request. May overtake its REQ, so it says what credit that took.
 */
struct plx_msg_cancel {
	uint32_t packets; /* credit the REQ took: plx_credit_packets */
	uint32_t zero;
};
static_assert(sizeof(struct plx_msg_cancel) == 8, "wire layout");

/* PING: a token that PONG repeats; further bytes are padding (a path MTU probe), ignored. */
struct plx_msg_ping {
	uint64_t token;
};

struct plx_msg_credit {
	uint64_t packets;  /* of REQ messages, counted by plx_credit_packets, since the handshake */
	uint64_t requests; /* REQs begun since the handshake */
};
static_assert(sizeof(struct plx_msg_credit) == 16, "wire layout");

struct plx_msg_pong {
	uint64_t token;
	struct plx_msg_credit credit; /* zeros when the client sends it */
	struct plx_msg_load load;     /* zeros when the client sends it */
};
static_assert(sizeof(struct plx_msg_pong) == 40, "wire layout");

enum plx_close_code {
	PLX_CLOSE_DONE = 0,     /* nothing more to say */
	PLX_CLOSE_REVOKED = 1,  /* the key was removed */
	PLX_CLOSE_SHUTDOWN = 2, /* the appliance stops */
	PLX_CLOSE_PROTOCOL = 3, /* the other side broke a rule */
	PLX_CLOSE_IDLE = 4,
};
struct plx_msg_close {
	uint32_t code; /* enum plx_close_code; unknown ones are taken as DONE */
	uint32_t zero;
};
static_assert(sizeof(struct plx_msg_close) == 8, "wire layout");

/* PATH_CHALLENGE and PATH_RESPONSE: the response repeats the challenge. */
struct plx_msg_path {
	uint64_t nonce;
};

struct plx_msg_accept {
	uint32_t queue_position;
	uint32_t est_ttft_us; /* from now */
	uint32_t cached_tokens;
	uint32_t prompt_tokens; /* 0 where not yet known */
};
static_assert(sizeof(struct plx_msg_accept) == 16, "wire layout");

struct plx_msg_reject {
	uint8_t code; /* plx_err_wire(): 1 QUEUE_FULL .. 9 DEVICE_LOST */
	uint8_t zero;
	uint16_t option;         /* BAD_REQUEST over an option: its type; else 0 */
	uint32_t retry_after_us; /* 0: do not retry as is */
	struct plx_msg_load load;
	uint16_t detail_bytes; /* UTF-8 for a person follows */
	uint16_t zero2[3];
};
static_assert(sizeof(struct plx_msg_reject) == 32, "wire layout");
static_assert(offsetof(struct plx_msg_reject, detail_bytes) == 24, "wire layout");

int plx_msg_reject_encode(uint8_t *p, size_t cap, const struct plx_msg_reject *m,
                          const char *detail);
/* detail: into p, m->detail_bytes long, not terminated; checked to be UTF-8 without controls. */
int plx_msg_reject_decode(struct plx_msg_reject *m, const char **detail, const uint8_t *p,
                          size_t n_bytes);

struct plx_msg_drain {
	uint32_t grace_ms; /* requests in flight have this long */
	uint32_t zero;
};
static_assert(sizeof(struct plx_msg_drain) == 8, "wire layout");

/* TOKENS: fixed part; then ids u32[count], logprobs f32[count] and top {id u32, f32}[count][n_top]
 * where flagged, then text. One packet always. */
enum plx_tokens_flag {
	PLX_TOKENS_LOGPROBS = 1,
	PLX_TOKENS_LAST = 2, /* the sample ends with these (count may be 0: text that waited) */
};
struct plx_msg_tokens {
	uint16_t sample;
	uint16_t count;
	uint32_t first_idx; /* index within the sample of the first id */
	uint16_t text_bytes;
	uint8_t flags;
	uint8_t n_top; /* 0..20 */
	uint32_t zero;
};
static_assert(sizeof(struct plx_msg_tokens) == 16, "wire layout");
static_assert(offsetof(struct plx_msg_tokens, text_bytes) == 8, "wire layout");

struct plx_msg_top {
	uint32_t id;
	float logprob;
};
static_assert(sizeof(struct plx_msg_top) == 8, "wire layout");

/* The parts of a TOKENS payload, in the packet; each 4-byte aligned if the payload is. */
struct plx_msg_tokens_view {
	struct plx_msg_tokens m;
	const uint8_t *ids;      /* [count] u32: read with plx_get_u32 */
	const uint8_t *logprobs; /* [count] f32 or NULL */
	const uint8_t *top;      /* [count][n_top] struct plx_msg_top or NULL */
	const char *text;        /* text_bytes, not terminated */
};

/* plx_msg_tokens_bytes - payload bytes that such a message takes. */
size_t plx_msg_tokens_bytes(const struct plx_msg_tokens *m);
int plx_msg_tokens_encode(uint8_t *p, size_t cap, const struct plx_msg_tokens *m,
                          const uint32_t *ids, const float *logprobs, const struct plx_msg_top *top,
                          const char *text);
int plx_msg_tokens_decode(struct plx_msg_tokens_view *v, const uint8_t *p, size_t n_bytes);

enum plx_finish {
	PLX_FINISH_EOS = 1,      /* the model's end of text */
	PLX_FINISH_STOP = 2,     /* a stop string */
	PLX_FINISH_LENGTH = 3,   /* max_new */
	PLX_FINISH_CONTEXT = 4,  /* the context is full */
	PLX_FINISH_DEADLINE = 5, /* the deadline passed while it ran */
	PLX_FINISH_FAULT = 6,    /* not a number came out; this sample alone failed */
};

/* Where a request's time went, in DONE. */
enum plx_stage_ns {
	PLX_NS_RX,      /* first fragment to whole request */
	PLX_NS_TOK,     /* text to token ids */
	PLX_NS_QUEUE,   /* waiting for a place in a step */
	PLX_NS_PREFILL, /* steps over the prompt */
	PLX_NS_DECODE,  /* the other steps */
	PLX_NS_DETOK,   /* ids to text, summed */
	PLX_NS_TX,      /* waiting to be sent, summed */
	PLX_NS_TTFT,    /* whole request to first token given to the port */
	PLX_NS_COUNT
};

struct plx_msg_done {
	uint16_t n_samples;
	uint16_t flags;        /* PLX_DONE_* */
	uint32_t numeric_kind; /* names the arithmetic; equal kinds give equal bits */
	uint32_t prompt_tokens;
	uint32_t cached_tokens;
	uint64_t ns[PLX_NS_COUNT];
};
#define PLX_DONE_KIND_CHANGED 1u
#define PLX_DONE_COMPRESSED   2u /* struct plx_msg_done_compress follows the samples */
#define PLX_DONE_BEST         4u /* struct plx_msg_done_best follows behind that, then means */
#define PLX_DONE_SPARSE       8u /* struct plx_msg_done_sparse follows behind that */
static_assert(PLX_NS_COUNT == 8, "wire layout");
static_assert(sizeof(struct plx_msg_done) == 80, "wire layout");

struct plx_msg_done_sample {
	uint32_t n_tokens;
	uint8_t reason; /* enum plx_finish */
	uint8_t
	    left[3]; /* little-endian: tokens that had left the context when the last was made */
};
static_assert(sizeof(struct plx_msg_done_sample) == 8, "wire layout");

/* plx_done_left_set, plx_done_left - that field; more than it holds counts as the most. */
static inline void plx_done_left_set(struct plx_msg_done_sample *s, uint32_t n)
{
	n = n < 0xffffff ? n : 0xffffff;
	s->left[0] = (uint8_t)n;
	s->left[1] = (uint8_t)(n >> 8);
	s->left[2] = (uint8_t)(n >> 16);
}

static inline uint32_t plx_done_left(const struct plx_msg_done_sample *s)
{
	return s->left[0] | (uint32_t)s->left[1] << 8 | (uint32_t)s->left[2] << 16;
}

/* What was removed of a prompt whose request had the option COMPRESS; prompt_tokens counts them. */
struct plx_msg_done_compress {
	uint32_t n_pruned;  /* tokens removed before prefill */
	uint32_t n_evicted; /* tokens whose KV was removed behind it */
	float loss;         /* estimated, 0..1: share of self-information or attention removed */
	uint32_t zero;
};
static_assert(sizeof(struct plx_msg_done_compress) == 16, "wire layout");

/* What the samples sent were chosen from; n_samples f32 follow: the mean log-probability of each
 * one's ids, 0 where it has none. */
struct plx_msg_done_best {
	uint32_t n_made;   /* samples decoded */
	uint32_t n_tokens; /* of all of them: what the answer took */
};
static_assert(sizeof(struct plx_msg_done_best) == 8, "wire layout");

/* What attention left out for a request with the option SPARSE: all 1 where it left out nothing.
 * Shares are of the attention before a query's own 64 positions, estimated. */
struct plx_msg_done_sparse {
	float mean;  /* share that was read, over queries, heads and layers */
	float least; /* the smallest of them */
	float read;  /* of the positions, those that were read */
	uint32_t zero;
};
static_assert(sizeof(struct plx_msg_done_sparse) == 16, "wire layout");

/* What stands behind the samples, as flags say. */
struct plx_msg_done_tail {
	struct plx_msg_done_compress compress; /* PLX_DONE_COMPRESSED */
	struct plx_msg_done_best best;         /* PLX_DONE_BEST */
	float mean[PLX_SAMPLES_MAX];           /* likewise, n_samples of them */
	struct plx_msg_done_sparse sparse;     /* PLX_DONE_SPARSE */
};

/* t: of it what m->flags name; may be NULL where they name nothing. */
int plx_msg_done_encode(uint8_t *p, size_t cap, const struct plx_msg_done *m,
                        const struct plx_msg_done_sample *s, const struct plx_msg_done_tail *t);
/* s has room for PLX_SAMPLES_MAX; of t is zero what flags do not name. */
int plx_msg_done_decode(struct plx_msg_done *m, struct plx_msg_done_sample *s,
                        struct plx_msg_done_tail *t, const uint8_t *p, size_t n_bytes);

enum plx_cancel_cause {
	PLX_CANCEL_CLIENT = 1,  /* a CANCEL came */
	PLX_CANCEL_SLOW = 2,    /* the client acknowledged no tokens for too long */
	PLX_CANCEL_DRAIN = 3,   /* the drain's grace ended */
	PLX_CANCEL_REVOKED = 4, /* the key was removed */
};
struct plx_msg_cancelled {
	uint8_t cause; /* enum plx_cancel_cause */
	uint8_t zero;
	uint16_t n_samples; /* u32 tokens of each follow; 0 for a tombstone */
	uint32_t prompt_tokens;
};
static_assert(sizeof(struct plx_msg_cancelled) == 8, "wire layout");

int plx_msg_cancelled_encode(uint8_t *p, size_t cap, const struct plx_msg_cancelled *m,
                             const uint32_t *n_tokens);
/* n_tokens has room for PLX_SAMPLES_MAX. */
int plx_msg_cancelled_decode(struct plx_msg_cancelled *m, uint32_t *n_tokens, const uint8_t *p,
                             size_t n_bytes);

/* MODELS: u32 message_bytes, u16 n_models, u16 zero, then for each this and its name, padded to 4.
 */
struct plx_msg_model {
	uint32_t model_id;
	uint32_t context_tokens;
	uint32_t vocab_size;
	uint32_t n_embd;
	uint8_t hash[32]; /* identity of the model: equal for equal files; zero-padded */
	uint32_t flags;   /* bit 0 chat template known; bit 1 embeds */
	uint32_t name_bytes;
};
#define PLX_MODEL_CHAT  1u
#define PLX_MODEL_EMBED 2u
static_assert(sizeof(struct plx_msg_model) == 56, "wire layout");

/* Write a model table: begin, add each, end; end returns the message's bytes. */
struct plx_models_writer {
	uint8_t *p;
	size_t cap, used;
	uint16_t n_models;
	int err;
};
void plx_models_begin(struct plx_models_writer *w, uint8_t *p, size_t cap);
void plx_models_add(struct plx_models_writer *w, const struct plx_msg_model *m, const char *name);
int plx_models_end(struct plx_models_writer *w);

/* Read one: open checks the head and every entry; next returns 0 when the table is done, else 1. */
struct plx_models_reader {
	const uint8_t *p, *end;
	uint16_t n_models, n_read;
};
int plx_models_open(struct plx_models_reader *r, const uint8_t *p, size_t n_bytes);
int plx_models_next(struct plx_models_reader *r, struct plx_msg_model *m, const char **name);

/* VECTORS: what an embed request asked for, before its DONE; f32[n_vectors][dim] follow. */
struct plx_msg_vectors {
	uint32_t message_bytes;
	uint32_t dim;
	uint16_t n_vectors;
	uint16_t zero;
	uint32_t prompt_tokens;
};
static_assert(sizeof(struct plx_msg_vectors) == 16, "wire layout");
int plx_msg_vectors_encode(uint8_t *p, size_t cap, const struct plx_msg_vectors *m,
                           const float *values);
/* values: into p, n_vectors * dim f32. */
int plx_msg_vectors_decode(struct plx_msg_vectors *m, const uint8_t **values, const uint8_t *p,
                           size_t n_bytes);

/*
 * plx_msg_put, plx_msg_get - encode or decode a message that is a fixed struct and nothing else:
 * CANCEL, PING (get ignores padding), CREDIT, PONG, CLOSE, PATH_*, ACCEPT, DRAIN.
 *
 * @type     the message's type; its struct's size must be `bytes` (checked in debug builds).
 *
 * put returns the payload's bytes or LIMIT; get returns 0 or FORMAT (wrong length, or a field
 * that must be zero is not).
 */
int plx_msg_put(uint8_t type, uint8_t *p, size_t cap, const void *m, size_t bytes);
int plx_msg_get(uint8_t type, void *m, size_t bytes, const uint8_t *p, size_t n_bytes);

/* Unaligned little-endian loads and stores. */
static inline uint32_t plx_get_u32(const uint8_t *p)
{
	uint32_t v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline float plx_get_f32(const uint8_t *p)
{
	float v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline void plx_put_u32(uint8_t *p, uint32_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}

#endif
