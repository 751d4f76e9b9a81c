/*
 * stage_tok: text to token ids on the way in, ids to text on the way out.
 *
 * In: one request at a time is encoded in slices, so that a long prompt never stalls the answers of
 * others; ids are checked and copied. What can't be encoded is rejected here.
 *
 * Out: each answer goes through dataplane/detok (decoder, stop strings). A stop string ends it:
 * batch is told, and what still comes is dropped and counted, never sent. What batch counts and
 * what tok sends may so differ: res.sample[] of the FINAL event is what was sent.
 *
 * What is done is kept for a while (dataplane/batch/talk), so that a request may go on from it: its
 * prompt is then the kept prompt and answer, to the id as the client was given them, and the new
 * text behind. Ids sent count, not ids made: after a stop string nothing that came behind it is
 * kept, but the token in which it begins is whole where part of it was sent; an end-of-text id is
 * not kept (a template writes its own end of turn). What belongs to a session that has gone is
 * forgotten within a second.
 *
 * Of a request that wants the best of several samples nothing is sent while they are made: each is
 * decoded as if it were, so that stop strings end it, and is held with its log-probabilities
 * (dataplane/batch/best). When batch is done with all, those chosen go through detok once more and
 * out, best first, one behind the other, as fast as the client acknowledges.
 *
 * All events are made here, and records are taken only while enough events are free for the worst
 * they can lead to; otherwise they wait in their ring and batch stops filling steps.
 */
#ifndef PLX_DATAPLANE_STAGE_TOK_H
#define PLX_DATAPLANE_STAGE_TOK_H

#include "accel/model/chat.h"
#include "dataplane/batch/best.h"
#include "dataplane/batch/compress.h"
#include "dataplane/batch/talk.h"
#include "dataplane/detok.h"
#include "dataplane/request.h"
#include "dataplane/stage.h"

enum plx_tok_work {
	PLX_TOK_IDLE,
	PLX_TOK_COPY,   /* ids that came as such */
	PLX_TOK_ENCODE, /* a text in the scratch */
	PLX_TOK_MARK,   /* what of the prompt may be left out */
	PLX_TOK_PRIME,  /* ids that the client of a resumed request has already */
	PLX_TOK_REFUSE, /* the request goes back when an event is free */
};

/* The way in: the request at hand and the memory to encode it. */
struct plx_tok_in {
	enum plx_tok_work work;
	struct plx_req *req;
	uint64_t begin_ns;
	uint32_t next_io; /* io stages take turns */
	uint16_t sample;  /* PRIME: at hand */
	uint32_t n_primed;
	uint32_t max_text;
	char *text;                /* [max_text] a rendered chat */
	struct plx_chat_msg *msg;  /* [PLX_MESSAGES_MAX] */
	struct plx_chat_seg *seg;  /* [PLX_CHAT_SEGS(PLX_MESSAGES_MAX)] */
	struct plx_tok_span *span; /* as many */
	struct plx_tok_scratch *scratch;
	/* MARK: */
	const char *prompt; /* the text that was encoded */
	uint32_t prompt_len;
	uint32_t n_msgs, n_segs;             /* of msg and seg; 0: no chat */
	uint32_t n_marked;                   /* ids followed */
	uint32_t marked_text;                /* bytes of the text behind which they end */
	uint32_t *tok_end;                   /* [lim.prompt_tokens] */
	struct plx_compress_span *free_span; /* as many as seg */
};

/* The way out. */
struct plx_tok_out {
	uint32_t n_samples;       /* lim.n_samples */
	struct plx_detok *answer; /* [n_requests][n_samples] */
	struct plx_out open;      /* a TOKEN whose TOPs have not all come */
	uint32_t n_tops;          /* of them that came */
	struct plx_top top[PLX_MAX_TOP + 2];
	bool opened;
	bool fetched; /* rec was taken from the ring and waits for free events */
	struct plx_out rec;
	uint32_t n_free;
	struct plx_ev **free_ev; /* [n_evs] */
};

/* A request whose best samples are being sent. */
struct plx_tok_sending {
	uint64_t since_ns; /* the client read last */
	uint64_t n_acked;  /* ids, as of then */
	uint32_t n_sent;   /* ids of the samples that are out */
	uint16_t at;       /* of order, the one that is going out */
	uint16_t order[PLX_SAMPLES_MAX];
	struct plx_best_at read;
};

/* Samples held back. */
struct plx_tok_best {
	struct plx_best store;
	uint64_t *made_ns;               /* [n_requests][n_samples] the device made the last id */
	struct plx_tok_sending *sending; /* [n_requests] */
	uint32_t n_ready;
	uint32_t *ready;    /* [n_requests] places of requests being sent */
	struct plx_ev sunk; /* what would have been sent */
};

struct plx_stage_tok {
	struct plx_links *links;
	struct plx_page *page;
	const struct plx_tok *tok;
	const struct plx_chat *chat; /* NULL: messages are refused */
	uint64_t slice_ns;
	uint64_t end_ns;  /* of this turn's slice */
	uint64_t walk_ns; /* of the last look for sessions that have gone */
	struct plx_tok_in in;
	struct plx_tok_out out;
	struct plx_talk talk;
	struct plx_tok_best best;
};

/* plx_stage_tok_bytes - what init takes from the arena. */
size_t plx_stage_tok_bytes(const struct plx_config *cfg);

/*
 * plx_stage_tok_init - make the stage; all memory is taken here (the tokenizer's scratch by an
 * allocation of its own).
 *
 * @chat  NULL where the model has no template.
 *
 * A prompt's text, template included, may have 64 KiB more than request_bytes, and no more than 16
 * bytes for each of prompt_tokens and 64 KiB; beyond that it is TOO_LARGE.
 *
 * Owner:  plx_stage_tok_close gives the scratch back. tok and chat must outlive the stage.
 * Errors: NOMEM; LIMIT (stop strings over the limits of accel/model/stop.h, unacked_tokens below
 *         what may wait for a stop string, a vocabulary with a token over PLX_EV_TEXT bytes).
 */
int plx_stage_tok_init(struct plx_stage_tok *s, struct plx_links *links, struct plx_arena *a,
                       const struct plx_tok *tok, const struct plx_chat *chat,
                       struct plx_page *page, struct plx_diag *d);
void plx_stage_tok_close(struct plx_stage_tok *s);

/* plx_stage_tok_poll - a turn: first what goes out, then encoding for the rest of the slice. */
uint32_t plx_stage_tok_poll(void *state, uint64_t now_ns);

#endif
