/*
 * REQ: the block that every request begins with, its options, its prompt.
 *
 *   message = struct plx_msg_req | options (options_bytes) | prompt (prompt_bytes)
 *
 * The message may span fragments; this file works on the whole of it. Decoding copies nothing:
 * text, ids and options stay where they are and are reached through iterators.
 */
#ifndef PLX_DATAPLANE_WIRE_REQ_H
#define PLX_DATAPLANE_WIRE_REQ_H

#include "dataplane/wire/msg.h"

enum plx_req_kind { PLX_REQ_GENERATE = 1, PLX_REQ_EMBED = 2 };

/* Exactly one of TEXT, IDS, MESSAGES. */
enum plx_req_flag {
	PLX_REQ_TEXT = 1u << 0,
	PLX_REQ_IDS = 1u << 1,
	PLX_REQ_MESSAGES = 1u << 2, /* the prompt is the MESSAGES option; prompt_bytes is 0 */
	PLX_REQ_STREAM = 1u << 3,
	PLX_REQ_DETERMINISTIC = 1u << 4,
	PLX_REQ_LOGPROBS = 1u << 5,
	PLX_REQ_COMPRESS = 1u << 6, /* the context may be compressed, with loss */
	PLX_REQ_NO_TEXT = 1u << 7,  /* answer with ids alone */
	PLX_REQ_IGNORE_EOS = 1u << 8,
	PLX_REQ_SPECIAL = 1u << 9, /* TEXT only: special tokens in the text are control tokens */
	PLX_REQ_NO_DRAFT =
	    1u << 10, /* nothing is guessed ahead of the model; the text is the same */
};

struct plx_msg_req {
	uint32_t
	    message_bytes; /* block, options and prompt; says how many fragments there must be */
	uint8_t kind;
	uint8_t n_logprobs; /* top-n beside each token, with PLX_REQ_LOGPROBS */
	uint16_t n_samples; /* 1.. */
	uint32_t flags;
	uint32_t model_id;      /* 0: the appliance's first model */
	uint32_t adapter_id;    /* 0: none */
	uint32_t prompt_tokens; /* with PLX_REQ_IDS: prompt_bytes / 4; else 0 */
	uint32_t prompt_bytes;
	uint32_t options_bytes;
	uint32_t max_new;
	uint32_t deadline_us; /* from receipt; 0: none */
	uint32_t ttft_slo_us; /* 0: none */
	uint32_t itl_slo_us;  /* 0: none */
	uint64_t seed;
	uint64_t prefix_hash; /* a routing hint, never a look-up key */
	float temperature;    /* 0 greedy; 0..100 */
	float top_p;          /* (0, 1]; 1 off */
	float min_p;          /* [0, 1); 0 off */
	float repeat_penalty; /* (0, 100]; 1 off */
	uint32_t top_k;       /* 0 off */
	uint32_t zero;
};
#define PLX_REQ_BLOCK_BYTES 88u
static_assert(sizeof(struct plx_msg_req) == PLX_REQ_BLOCK_BYTES, "wire layout");
static_assert(offsetof(struct plx_msg_req, flags) == 8, "wire layout");
static_assert(offsetof(struct plx_msg_req, prompt_tokens) == 20, "wire layout");
static_assert(offsetof(struct plx_msg_req, max_new) == 32, "wire layout");
static_assert(offsetof(struct plx_msg_req, seed) == 48, "wire layout");
static_assert(offsetof(struct plx_msg_req, temperature) == 64, "wire layout");
static_assert(offsetof(struct plx_msg_req, top_k) == 80, "wire layout");

/* An option: this head, `bytes` of value, zero padding to 4. */
struct plx_req_tlv {
	uint16_t type; /* enum plx_req_opt; PLX_OPT_CRITICAL may be set */
	uint16_t zero;
	uint32_t bytes; /* of the value, padding not counted */
};
static_assert(sizeof(struct plx_req_tlv) == 8, "wire layout");
#define PLX_OPT_CRITICAL 0x8000u /* refuse the request rather than ignore the option */

/* Known options are all critical to an appliance that lacks the feature, flagged or not. */
enum plx_req_opt {
	PLX_OPT_STOP = 1,       /* value: one stop string; repeated for more */
	PLX_OPT_MESSAGES = 2,   /* u32 n, then n of struct plx_req_message, content, pad to 4 */
	PLX_OPT_RESUME = 3,     /* u32 sample, u32 count, ids u32[count]; one a sample */
	PLX_OPT_CONTINUE = 4,   /* u64 req_id of a finished request of this session, u32 sample */
	PLX_OPT_LOGIT_BIAS = 5, /* {u32 id, f32 bias}[]; bias finite, -100..100 */
	PLX_OPT_GRAMMAR = 6,    /* u32 syntax (1 GBNF, 2 JSON schema), then UTF-8 text */
	PLX_OPT_IMAGE = 7, /* u32 format (1: RGB8), u32 width, u32 height, u32 prompt_off, pixels */
	PLX_OPT_COMPRESS = 8, /* struct plx_req_compress, then n_keep of struct plx_req_keep */
	PLX_OPT_BEST_OF = 9,  /* struct plx_req_best */
	PLX_OPT_SPARSE = 10,  /* struct plx_req_sparse */
	PLX_OPT_LAST = 10,
};
#define PLX_MESSAGES_MAX   1024u
#define PLX_LOGIT_BIAS_MAX 1024u

enum plx_req_role {
	PLX_ROLE_SYSTEM = 0,
	PLX_ROLE_USER = 1,
	PLX_ROLE_ASSISTANT = 2,
	PLX_ROLE_TOOL = 3,
};

struct plx_req_message {
	uint8_t role;
	uint8_t zero[3];
	uint32_t bytes; /* content that follows, padded to 4 */
};
static_assert(sizeof(struct plx_req_message) == 8, "wire layout");

/*
 * How much of the prompt may be removed; with the flag PLX_REQ_COMPRESS only.
 *
 * RATIO: tokens that are kept / tokens of the prompt, at most 1 and so many that at least one token
 * is kept. LOSS: of the prompt's self-information (the sum of -log p of its tokens), the share that
 * may be removed, at least 0 and below 1. Never removed, whatever the target: what the chat
 * template writes, system messages, messages of keep_roles, spans of n_keep, and what
 * dataplane/batch/compress.h protects. So less may be removed than was allowed; never more. Where
 * KV is removed (compress_kv.h) the loss is the share of attention, and none of that is protected
 * but the first and the last tokens. With both, each has the square root of the ratio, or half of
 * the loss.
 */
enum plx_req_compress_how {
	PLX_COMPRESS_PROMPT = 1, /* before it is run: units that say least */
	PLX_COMPRESS_KV = 2, /* when it was run: KV of tokens attended to least; one sample only */
	PLX_COMPRESS_LATE = 4, /* KV only where memory is short, rather than to be preempted */
};
enum plx_req_compress_by { PLX_COMPRESS_RATIO = 1, PLX_COMPRESS_LOSS = 2 };
struct plx_req_compress {
	uint8_t by;         /* enum plx_req_compress_by */
	uint8_t keep_roles; /* bit enum plx_req_role: these messages stay whole */
	uint8_t how;        /* PLX_COMPRESS_*; 0 is PROMPT */
	uint8_t zero;
	float target;
	uint32_t n_keep;
};
static_assert(sizeof(struct plx_req_compress) == 12, "wire layout");
#define PLX_REQ_KEEP_MAX 256u

/* A span that stays: [first, end) of a message's content or the prompt's text in bytes, or of the
 * prompt's ids in tokens. A token that has a byte of it stays. */
struct plx_req_keep {
	uint32_t message; /* which one; 0 without messages */
	uint32_t first, end;
};
static_assert(sizeof(struct plx_req_keep) == 12, "wire layout");

/*
 * More samples are made than are wanted: n_made, from n_samples (and at least 2) up to max_samples.
 * The n_samples of them whose ids are likeliest by the mean of their log-probabilities are sent,
 * best first, when all have ended. Not with RESUME.
 */
struct plx_req_best {
	uint16_t n_made;
	uint16_t zero;
};
static_assert(sizeof(struct plx_req_best) == 4, "wire layout");

/*
 * How much of a long context attention reads at least, as the appliance estimates it: mass of 1,000
 * parts of it (1,000: all), and as many chunks of 64 positions where single keys may matter most.
 * Not both 0. The appliance may read more. A request that asks for equal bits reads all.
 */
struct plx_req_sparse {
	uint16_t mass;
	uint16_t chunks;
};
static_assert(sizeof(struct plx_req_sparse) == 4, "wire layout");

/* What a decoded REQ looks like: pointers into the message, valid as long as its bytes are. */
struct plx_req_view {
	struct plx_msg_req m;
	const uint8_t *options; /* m.options_bytes, every option already checked */
	const uint8_t *prompt;  /* text, or ids read with plx_get_u32 */
	uint32_t n_messages;    /* with PLX_REQ_MESSAGES */
	uint32_t n_stops;
	uint64_t continued;               /* req_id of the CONTINUE option; 0: none */
	uint32_t continued_sample;        /* which of its samples */
	uint32_t n_resumed;               /* RESUME options */
	uint32_t features;                /* enum plx_wire_feature bits that this request needs */
	struct plx_req_compress compress; /* by 0: the option is not there */
	const uint8_t *keep;              /* its [n_keep] struct plx_req_keep, perhaps unaligned */
	uint16_t n_made;                  /* samples that are made for the best; 0: no BEST_OF */
	struct plx_req_sparse sparse;     /* 0 and 0: the option is not there */
};

/* plx_req_runs - samples that are decoded: at least as many as are sent. */
static inline uint16_t plx_req_runs(const struct plx_req_view *v)
{
	return v->n_made ? v->n_made : v->m.n_samples;
}

/* Why a REQ was refused; what REJECT says. */
struct plx_req_fault {
	int err;         /* BAD_REQUEST or TOO_LARGE */
	uint16_t option; /* type of the option at fault, else 0 */
	char detail[96]; /* for a person; never prompt text */
};

/*
 * plx_req_decode - check a whole REQ message and describe it.
 *
 * Everything is checked: sums of lengths, flag combinations, floats finite and in range, every
 * option's layout, UTF-8 where text is text, limits of `lim`, and that `features` has what is
 * needed. After success no iterator below can fail.
 *
 * @p, n_bytes  the reassembled message.
 * @lim         the session's limits.
 * @features    enum plx_wire_feature bits that run here.
 * @f           filled on failure.
 *
 * Thread: any.  Cost: one pass over the text to check UTF-8 (n_bytes), nothing else is O(n).
 * Errors: BAD_REQUEST, TOO_LARGE (f says which).
 */
int plx_req_decode(struct plx_req_view *v, const uint8_t *p, size_t n_bytes,
                   const struct plx_wire_limits *lim, uint32_t features, struct plx_req_fault *f);

/*
 * plx_req_peek_bytes - message_bytes, model_id and the rest of a first fragment's block, for the
 * size limit that is checked before any memory is taken.
 *
 * @p  the first fragment's payload.
 *
 * Errors: FORMAT where it is shorter than the block.
 */
int plx_req_peek(struct plx_msg_req *m, const uint8_t *p, size_t n_bytes);

/*
 * plx_req_opt_next - walk the options: *off starts at 0; returns 1 with the next option of `type`
 * (0: of any), or 0 at the end. value points into the message.
 */
int plx_req_opt_next(const struct plx_req_view *v, uint32_t *off, uint16_t type,
                     struct plx_req_tlv *tlv, const uint8_t **value);

/* plx_req_message_next - walk the MESSAGES option; *off starts at 0; 1, or 0 at the end. */
int plx_req_message_next(const struct plx_req_view *v, uint32_t *off, struct plx_req_message *m,
                         const char **content);

/* plx_req_resumed - the ids that RESUME gives for a sample, little-endian u32 at a multiple of 4
 * from the message's beginning; sets *count, 0 where there are none. Cost: O(options). */
const uint8_t *plx_req_resumed(const struct plx_req_view *v, uint16_t sample, uint32_t *count);

/* plx_req_keep_at - span i of the COMPRESS option, 0..compress.n_keep-1. */
static inline struct plx_req_keep plx_req_keep_at(const struct plx_req_view *v, uint32_t i)
{
	const uint8_t *p = v->keep + i * sizeof(struct plx_req_keep);

	return (struct plx_req_keep){plx_get_u32(p), plx_get_u32(p + 4), plx_get_u32(p + 8)};
}

/* plx_req_id - token id i of a PLX_REQ_IDS prompt. */
static inline uint32_t plx_req_id(const struct plx_req_view *v, uint32_t i)
{
	return plx_get_u32(v->prompt + 4u * (size_t)i);
}

/*
 * Write a REQ into memory the caller gives: begin with the block (lengths are filled in by end),
 * add options in any order, then the prompt, then end, which returns the message's bytes. The first
 * error sticks and is what end returns (LIMIT: cap; INVAL: a misuse).
 */
struct plx_req_writer {
	uint8_t *p;
	size_t cap, used;
	size_t messages_at; /* offset of the open MESSAGES option, 0 when there is none */
	bool continued;     /* CONTINUE was written: the prompt may be empty */
	struct plx_msg_req m;
	int err;
};
void plx_req_begin(struct plx_req_writer *w, uint8_t *p, size_t cap, const struct plx_msg_req *m);
void plx_req_stop(struct plx_req_writer *w, const char *s, size_t bytes);
/* One chat message; all of them in a row, before or after other options. */
void plx_req_message(struct plx_req_writer *w, enum plx_req_role role, const char *s, size_t bytes);
void plx_req_resume(struct plx_req_writer *w, uint16_t sample, const uint32_t *ids, uint32_t count);
/* Go on from a finished request of the same session. Its req_id stands at
 * PLX_REQ_CONTINUE_AT of the message when this is the first option written. */
void plx_req_continue(struct plx_req_writer *w, uint64_t req_id, uint32_t sample);
#define PLX_REQ_CONTINUE_AT (PLX_REQ_BLOCK_BYTES + 8u)
void plx_req_bias(struct plx_req_writer *w, const struct plx_msg_top *bias, uint32_t count);
/* How much of the prompt may be removed; sets the flag COMPRESS. */
void plx_req_prune(struct plx_req_writer *w, const struct plx_req_compress *c,
                   const struct plx_req_keep *keep);
/* The likeliest of so many samples. */
void plx_req_best_of(struct plx_req_writer *w, uint16_t n_made);
void plx_req_sparse(struct plx_req_writer *w, uint16_t mass, uint16_t chunks);
/* Any option by its bytes. */
void plx_req_opt(struct plx_req_writer *w, uint16_t type, const void *value, uint32_t bytes);
void plx_req_prompt_text(struct plx_req_writer *w, const char *s, size_t bytes);
void plx_req_prompt_ids(struct plx_req_writer *w, const uint32_t *ids, uint32_t count);
int plx_req_end(struct plx_req_writer *w);

/* plx_msg_req_init - a block with every default: generate, stream, one sample, greedy. */
struct plx_msg_req plx_msg_req_init(void);

/* plx_utf8_valid - whether s is well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). */
bool plx_utf8_valid(const uint8_t *s, size_t bytes);

#endif
