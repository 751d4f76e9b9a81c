/*
 * One answer on its way out: ids to text, stop strings, and which tokens may go when.
 *
 * A token waits, with its text, while the text may be the beginning of a stop string or ends within
 * a character; tokens go whole, in order, or not at all. A stop ends the answer: the token in which
 * it begins goes with the text before it, if there is any; everything later is dropped.
 *
 * Owner: stage_tok.  Thread: one.  No allocation after init.
 */
#ifndef PLX_DATAPLANE_DETOK_H
#define PLX_DATAPLANE_DETOK_H

#include "accel/model/stop.h"
#include "accel/model/tokenizer.h"
#include "dataplane/request.h"

/*
 * Tokens that may wait: a stop string's bytes, a character's, and some to spare for tokens without
 * text. Should more of those come while text waits, further ids are left out of the answer; no text
 * is.
 */
#define PLX_DETOK_HOLD 192

/* Text that is released while its token waits is less than one token's; one push adds no more than
 * a token and a stop string. */
#define PLX_DETOK_TEXT (2 * PLX_EV_TEXT + PLX_STOP_BYTES)

struct plx_detok_tok {
	int32_t id;
	float logprob;
	uint64_t text_end; /* offset in the answer's text behind its last whole character */
	uint64_t safe_at;  /* it may go when so many bytes of text are released */
	uint64_t ns;
};

struct plx_detok {
	bool over;        /* nothing more comes in */
	bool stopped;     /* by a stop string */
	bool last_sent;   /* the event with `last` was taken */
	bool told;        /* batch knows that it stopped; the stage's */
	bool plain;       /* ids only: no decoder, no stop strings */
	uint16_t n_top;   /* alternatives a token */
	uint64_t busy_ns; /* spent on it; the stage's */
	uint32_t n_sent;
	uint32_t n_had; /* the first so many are the client's already */
	uint32_t n_held;
	uint32_t n_text;     /* bytes in text */
	uint64_t text_off;   /* offset of text[0] in the answer: what is before was sent */
	uint64_t n_pushed;   /* bytes of text that the decoder made */
	struct plx_top *top; /* [PLX_DETOK_HOLD][n_top] beside held; NULL only where n_top is 0 */
	struct plx_tok_stream stream;
	struct plx_stop stop;
	struct plx_detok_tok held[PLX_DETOK_HOLD];
	char text[PLX_DETOK_TEXT];
};

/*
 * plx_detok_init - before the first token of an answer to r (decoded REQ: its stop strings,
 * flags and n_logprobs). a->top is set by the caller and kept.
 */
void plx_detok_init(struct plx_detok *a, const struct plx_tok *t, const struct plx_req *r);

/*
 * plx_detok_push - one more token. Take all that is ready (plx_detok_take) before the next push.
 *
 * @top  in [a->n_top] alternatives; NULL: the device gave none, they are zero.
 *
 * After it a->over says whether a stop string ended the answer. No effect once it is over.
 * Cost: O(bytes of the token * stop strings).
 */
void plx_detok_push(struct plx_detok *a, int32_t id, float logprob, const struct plx_top *top,
                    uint64_t ns);

/*
 * plx_detok_had - an id that the client has already, of an answer it resumes: it goes through
 * decoder and stop strings as if it were pushed and sent, and nothing of it is taken. Before the
 * first push, in order.
 */
void plx_detok_had(struct plx_detok *a, int32_t id);

/* plx_detok_end - no token comes after those pushed: all of them may go (unless a stop hits). */
void plx_detok_end(struct plx_detok *a);

/* plx_detok_events - an upper bound of the events that one push or end makes ready. */
uint32_t plx_detok_events(const struct plx_detok *a);

/*
 * plx_detok_take - fill sample-independent fields of ev with tokens that may go: last, n_ids,
 * n_top, text, first_idx, device_ns. False: nothing is ready.
 *
 * The last event of an answer that is over has `last`, with no tokens where all went before.
 */
bool plx_detok_take(struct plx_detok *a, struct plx_ev *ev);

#endif
