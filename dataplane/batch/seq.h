/*
 * A sequence: the tokens of one answer while it runs, and what it may do next.
 *
 * Positions 0 .. n_prompt-1 are the prompt; running position p >= n_prompt-1 samples the answer's
 * token p - n_prompt + 1, whose id becomes ids[p + 1]. `n_run` positions were given to the device,
 * `n_ok` of them came back, so n_run may be ahead by as many steps as are in flight: a decode token
 * is always given as PLX_TOK_LAST. Ids that are known when it starts, or starts again after it was
 * preempted, are given as they are: `n_known` of them, the prompt and what was generated before.
 *
 * A sequence that may outgrow its context (shift.h) loses tokens on the way: token i stands at
 * position i - n_left. A shift is made between two steps, when none is in flight, by the batcher
 * (preempt.h), and told to the device with the next token.
 *
 * A sequence holds the KV blocks of the positions that were given, and takes more as it goes
 * (preempt.h). The table of the device grows with them.
 *
 * Ending: plx_seq_end moves it to DRAIN, where what steps in flight still bring is discarded; when
 * none is in flight its slot and blocks are free.
 */
#ifndef PLX_DATAPLANE_BATCH_SEQ_H
#define PLX_DATAPLANE_BATCH_SEQ_H

#include "accel/accel.h"
#include "dataplane/batch/draft.h"
#include "dataplane/batch/prefix.h"
#include "dataplane/batch/shift.h"

enum plx_seq_state {
	PLX_SEQ_FREE,
	PLX_SEQ_RUN,
	PLX_SEQ_DRAIN, /* over; steps in flight still name its slot, or it is kept (move.h) */
};

/* Of a sequence whose KV may be thinned out behind its prompt (compress_kv.h). */
enum plx_seq_evict {
	PLX_SEQ_EVICT_NONE,
	PLX_SEQ_EVICT_WANT,  /* its prompt is not run yet */
	PLX_SEQ_EVICT_LOOK,  /* what its last tokens attend to is being observed: nothing else runs
	                      */
	PLX_SEQ_EVICT_READY, /* keep says what may go, where memory is short */
	PLX_SEQ_EVICT_TELL, /* the next token tells the device; positions count without what went */
	PLX_SEQ_EVICT_TOLD, /* that step is in flight: its blocks are still held */
	PLX_SEQ_EVICT_DONE,
};

/* Why an answer ended; the numbers are those of enum plx_finish on the wire. */
enum plx_seq_end {
	PLX_SEQ_END_NONE = 0,
	PLX_SEQ_END_EOS = 1,
	PLX_SEQ_END_STOP = 2,
	PLX_SEQ_END_LENGTH = 3,
	PLX_SEQ_END_CONTEXT = 4,
	PLX_SEQ_END_DEADLINE = 5,
	PLX_SEQ_END_FAULT = 6,
};

struct plx_seq {
	uint8_t state;    /* enum plx_seq_state */
	bool slot_dirty;  /* the device still has an earlier sequence's slot */
	bool set_pending; /* SLOT_SET was not sent yet */
	bool ignore_eos;
	bool by_context; /* max_new was cut by the context limit */
	bool own;        /* runs its prompt itself; else it waits for the first sample's */
	bool leaving;    /* preempted: its blocks go when the steps in flight came back */
	bool away;       /* was preempted and has not gone on yet */
	bool untold;     /* the device was not told of the last shift */
	bool kept;       /* goes on elsewhere: slot and ids stay until then (move.h) */
	bool kept_kv;    /* and its blocks */
	bool lent;       /* which another device copies */
	uint16_t sample;
	uint16_t n_top;
	uint32_t ent; /* the request's key */
	uint32_t n_prompt;
	uint32_t n_known;  /* ids that were there when it (re)started */
	uint32_t n_shared; /* first positions whose KV others compute: never run here */
	uint32_t n_run;
	uint32_t n_ok;
	uint32_t n_left;   /* tokens that left the context */
	uint32_t shift_at; /* tokens leave before this one is run */
	uint32_t n_out;    /* ids of the answer: generated before, and received */
	uint32_t max_new;
	uint32_t window; /* may sample ids below this index */
	uint32_t in_flight;
	uint32_t n_draft;  /* places of drafts in its step in flight, which is the only one then */
	uint8_t drafter;   /* whose they are */
	bool purse_open;   /* it has something to lose by drafts */
	double purse_ns;   /* how much: lent, earned and won, less what it lost */
	double draft_ns;   /* what each place of the drafts planned last takes */
	uint32_t n_blocks; /* held */
	uint32_t yields;   /* blocks that its leaving will free; 0 until then */
	uint32_t n_lost;   /* positions that were run before it was preempted */
	uint32_t n_told;   /* blocks the device's table has */
	uint32_t n_published; /* blocks the prefix cache has seen */
	uint32_t flags;       /* enum plx_seq_flag */
	/* With PLX_SEQF_SPARSE: PLX_DELTA_SPARSE's. Tokens below n_pool are given in whole groups,
	 * and only their blocks are shared: behind them queries choose by where this prompt ends.
	 */
	uint32_t sparse_mass, sparse_chunks, n_pool;
	const struct plx_shift *shift; /* NULL: it ends where its context does */
	float *score;                  /* [n_prompt] what it is run for; NULL: an answer */
	uint32_t score_span;           /* tokens that it looks back at most */
	uint8_t evict;                 /* enum plx_seq_evict */
	bool evict_late;               /* only where memory is short */
	uint32_t n_stay;               /* places of the prompt whose bits in keep are set */
	uint32_t n_evicted;            /* tokens that went */
	uint32_t keep_from;            /* TELL: places before */
	float evict_loss;
	uint64_t *keep; /* [ctx_tokens / 64, rounded up] bits */
	struct plx_prefix_at at;
	uint64_t paused_ns; /* at the window since; 0: not */
	uint64_t last_ns;   /* device time of the last id */
	uint64_t itl_ns;    /* objective from one id to the next; 0: none */
	int32_t *ids;       /* [ctx_tokens] prompt and answer */
	uint32_t *block;    /* [ctx_tokens / block_tokens, rounded up] */
};

/* plx_seq_sampled - ids of the answer, with those given to the device; 0: no next one is in sight.
 */
static inline uint32_t plx_seq_sampled(const struct plx_seq *s)
{
	return s->n_run >= s->n_known ? s->n_run - s->n_prompt + 1 : 0;
}

/* plx_seq_prefilling - known tokens that were not given to the device yet. */
static inline uint32_t plx_seq_prefilling(const struct plx_seq *s)
{
	return s->n_run < s->n_known ? s->n_known - s->n_run : 0;
}

/* plx_seq_can_decode - whether the next token may be given to the device now. */
static inline bool plx_seq_can_decode(const struct plx_seq *s)
{
	uint32_t n = plx_seq_sampled(s);

	return s->state == PLX_SEQ_RUN && !s->leaving && n > 0 && n < s->max_new && n < s->window &&
	       s->evict != PLX_SEQ_EVICT_LOOK;
}

/* plx_seq_pos - where the next token will stand. */
static inline uint32_t plx_seq_pos(const struct plx_seq *s)
{
	return s->n_run - s->n_left;
}

/* plx_seq_group - fewest of the next tokens that a step may run. */
static inline uint32_t plx_seq_group(const struct plx_seq *s)
{
	return (s->flags & PLX_SEQF_SPARSE) && s->n_run < s->n_pool ? PLX_SPARSE_POOL : 1;
}

/* plx_seq_shareable - of so many tokens, those whose KV others may find. */
static inline uint32_t plx_seq_shareable(const struct plx_seq *s, uint32_t tokens)
{
	return (s->flags & PLX_SEQF_SPARSE) && tokens > s->n_pool ? s->n_pool : tokens;
}

/* plx_seq_within - of so many tokens, those that its context can have. */
static inline uint32_t plx_seq_within(const struct plx_seq *s, uint32_t tokens)
{
	uint32_t most = s->score   ? s->score_span
	                : s->shift ? plx_shift_window(s->shift)
	                           : UINT32_MAX;

	return tokens < most ? tokens : most;
}

/* plx_seq_may_shift - from now on tokens leave as rule says; NULL: none do. */
static inline void plx_seq_may_shift(struct plx_seq *s, const struct plx_shift *rule)
{
	s->shift = rule;
	s->shift_at = rule ? plx_shift_window(rule) : PLX_SHIFT_NEVER;
}

/* plx_seq_may_score - the sequence is scored in windows: at shift_at all tokens leave. */
static inline void plx_seq_may_score(struct plx_seq *s, float *score, uint32_t span)
{
	s->score = score;
	s->score_span = span;
	if (score)
		s->shift_at = span;
}

/* plx_seq_next_window - the next token is the first of a window, over the blocks of the last. */
static inline void plx_seq_next_window(struct plx_seq *s)
{
	s->n_left = s->n_run;
	s->shift_at += s->score_span;
}

/* plx_seq_blocks - blocks that a prompt and its answer need: the last id is never run. */
static inline uint32_t plx_seq_blocks(uint32_t n_prompt, uint32_t max_new, uint32_t block_tokens)
{
	return (n_prompt + max_new - 1 + block_tokens - 1) / block_tokens;
}

/* Where a step record stands while it is filled. */
struct plx_seq_fill {
	struct plx_step *step;
	uint32_t max_tok;
	uint32_t max_seq;
	uint32_t block_tokens;
	bool observes, keeps; /* a sequence's attention is observed; one's KV is thinned out */
};

/*
 * plx_seq_evict_begin - of the next step on, places of the prompt whose bits in keep are not set
 * are no longer there. No drafts are in flight.
 * plx_seq_evict_came - the step that told it came back: give the blocks back that are not needed.
 */
void plx_seq_evict_begin(struct plx_seq *s, uint32_t block_tokens);
void plx_seq_evict_came(struct plx_seq *s, struct plx_prefix *p);

/*
 * plx_seq_give - append the sequence's next n tokens, whose blocks it holds, to a step: known ones,
 * or one PLX_TOK_LAST. Adds the deltas they need first, SLOT_SET with sampler for the first.
 *
 * @n        not past shift_at.
 * @sampler  the request's; sample and recent are filled here.
 *
 * Returns the tokens given: fewer than n, down to 0, where the record is full.
 */
uint32_t plx_seq_give(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f, uint32_t n,
                      const struct plx_sampler *sampler);

/*
 * plx_seq_give_drafts - append drafts, depth first, behind the one token that plx_seq_give has just
 * appended, as many of the first as the record and the sequence's blocks have room for. Nothing
 * else of it is in flight. Returns how many.
 */
uint32_t plx_seq_give_drafts(struct plx_seq *s, uint32_t slot, struct plx_seq_fill *f,
                             const struct plx_draft *d);

/* plx_seq_drafts_came - the step with drafts came back, so many of them were accepted. */
void plx_seq_drafts_came(struct plx_seq *s, uint32_t n_accepted);

/*
 * plx_seq_take - account n_tok tokens that came back and, with id, the one sampled after them.
 * Returns how the answer ends with it, if it does: EOS (then id is no text and not kept), LENGTH
 * or CONTEXT.
 *
 * @id  NULL: nothing was sampled.
 */
enum plx_seq_end plx_seq_take(struct plx_seq *s, uint32_t n_tok, const int32_t *id,
                              const int32_t *eog, uint32_t n_eog);

/* plx_seq_publish - show the prefix cache every block that is complete and has not moved. */
void plx_seq_publish(struct plx_seq *s, struct plx_prefix *p);

/*
 * plx_seq_shift - the oldest tokens behind the sinks leave. The next token is shift_at, no step in
 * flight names the sequence, and the blocks that move are its own and unknown to the cache.
 */
void plx_seq_shift(struct plx_seq *s, struct plx_prefix *p);

/*
 * plx_seq_restart - give all blocks back and be as before the first step, with the ids received as
 * known ones. No step in flight names it.
 */
void plx_seq_restart(struct plx_seq *s, struct plx_prefix *p, uint64_t tenant);

/* plx_seq_release - give all blocks back, the last first, and free the sequence. */
void plx_seq_release(struct plx_seq *s, struct plx_prefix *p);

#endif
