/*
 * Inside stage_tok: what its files call of each other.
 *
 *   stage_tok.c     start, turns, the way out
 *   stage_tok_in.c  the way in
 *   stage_tok_mark.c  what of a prompt must stay
 *   stage_tok_best.c  samples held back until the best are known
 */
#ifndef PLX_DATAPLANE_STAGE_TOK_INT_H
#define PLX_DATAPLANE_STAGE_TOK_INT_H

#include "dataplane/stage_tok.h"

/* plx_tok_segs - segments of the longest chat. */
static inline uint32_t plx_tok_segs(void)
{
	return PLX_CHAT_SEGS(PLX_MESSAGES_MAX);
}

/* plx_tok_answer - the state of one sample of a request. */
static inline struct plx_detok *plx_tok_answer(const struct plx_stage_tok *s, uint32_t req_idx,
                                               uint32_t sample)
{
	return &s->out.answer[(size_t)req_idx * s->out.n_samples + sample];
}

/* plx_tok_owner - whose a kept request is: io stage and session. */
static inline uint64_t plx_tok_owner(const struct plx_req *r)
{
	return (uint64_t)r->io_idx << 32 | r->session_id;
}

/* plx_tok_push_final - the request goes back to io. An event must be free. */
void plx_tok_push_final(struct plx_stage_tok *s, struct plx_req *r);

/*
 * plx_tok_mark - mark the tokens of the prompt at hand (r->mark), some at a call; true: all are.
 * in.prompt is its text, in.n_marked begins at r->n_kept.  Cost: the last call is O(text).
 */
bool plx_tok_mark(struct plx_stage_tok *s);

/* plx_tok_cancelled - why the request has to end now: 0 or enum plx_cancel_cause. C1. */
static inline uint8_t plx_tok_cancelled(const struct plx_stage_tok *s, const struct plx_req *r)
{
	if (atomic_load_explicit(&s->links->drain, memory_order_relaxed) >= 2)
		return PLX_CANCEL_DRAIN;
	return (uint8_t)atomic_load_explicit(&r->cancel, memory_order_relaxed);
}

/* plx_tok_send_ready - what may go of an answer, as that of a sample. As many events as
 * plx_detok_events says must be free. */
void plx_tok_send_ready(struct plx_stage_tok *s, struct plx_detok *an, struct plx_req *r,
                        uint16_t sample);

/* plx_tok_tell_stop - batch need not go on with a sample. */
void plx_tok_tell_stop(struct plx_stage_tok *s, struct plx_detok *an, const struct plx_req *r,
                       uint16_t sample);

/* plx_tok_keep - the request ended: what was sent of it may be continued, if it is DONE. */
void plx_tok_keep(struct plx_stage_tok *s, const struct plx_req *r);

/*
 * Samples held back (batch/best.h), of requests with view.n_made.
 *
 * plx_tok_best_begin - room for all that its samples may make; before the first of them.
 *         Errors: TOO_LARGE, QUEUE_FULL.
 * plx_tok_best_token, plx_tok_best_end - what batch says of a sample.
 * plx_tok_best_final - batch is done with the request: choose and begin to send, or give up what
 *         was held. True: it is being sent, and goes back to io by itself; takes no events.
 * plx_tok_best_send - send of all that are ready while events are free; returns how many ids.
 */
size_t plx_tok_best_bytes(const struct plx_config *cfg);
int plx_tok_best_init(struct plx_stage_tok *s, struct plx_arena *a);
int plx_tok_best_begin(struct plx_stage_tok *s, const struct plx_req *r);
void plx_tok_best_token(struct plx_stage_tok *s, const struct plx_out *o,
                        const struct plx_top *top);
void plx_tok_best_end(struct plx_stage_tok *s, const struct plx_out *o);
bool plx_tok_best_final(struct plx_stage_tok *s, struct plx_req *r);
uint32_t plx_tok_best_send(struct plx_stage_tok *s, uint64_t now_ns);

/* plx_tok_run_in - work on prompts until the slice ends; returns how many pieces. */
uint32_t plx_tok_run_in(struct plx_stage_tok *s);

#endif
