/*
 * Inside stage_tok: what its files call of each other.
 *
 *   stage_tok.c     start, turns, the way out
 *   stage_tok_in.c  the way in
 *   stage_tok_mark.c  what of a prompt must stay
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

/* plx_tok_run_in - work on prompts until the slice ends; returns how many pieces. */
uint32_t plx_tok_run_in(struct plx_stage_tok *s);

#endif
