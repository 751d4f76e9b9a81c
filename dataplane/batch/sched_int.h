/* What the scheduler's own files share; nobody else includes it. */
#ifndef PLX_DATAPLANE_BATCH_SCHED_INT_H
#define PLX_DATAPLANE_BATCH_SCHED_INT_H

#include "dataplane/batch/preempt.h"
#include "dataplane/batch/sched.h"

enum plx_ent_state { PLX_ENT_FREE, PLX_ENT_WAITING, PLX_ENT_RUNNING };

/* plx_sched_wait_add, plx_sched_wait_remove - a waiting request enters or leaves the order. */
void plx_sched_wait_add(struct plx_sched *s, uint32_t key, uint32_t cached_tokens);
void plx_sched_wait_remove(struct plx_sched *s, uint32_t key);

/* plx_sched_prefill_update - the prompt tokens a running request has not given may have changed. */
void plx_sched_prefill_update(struct plx_sched *s, uint32_t key);

/* plx_sched_update_load - look at everything that runs anew: load and view. */
void plx_sched_update_load(struct plx_sched *s);

/* plx_sched_seq_leave - free the slot and blocks of a sequence that no step names; of one that is
 * kept, what is not. */
void plx_sched_seq_leave(struct plx_sched *s, uint32_t slot);

/* plx_sched_ent_free - the request's accounts are settled, its key is free; its sequences left. */
void plx_sched_ent_free(struct plx_sched *s, uint32_t key);

/*
 * plx_sched_sample_end - one sample is over; the request is done when it was the last.
 * plx_sched_ent_end - end a request as a whole, as out.kind says; samples that run get `end`.
 * plx_sched_ent_fail - the same as REJECT err or CANCELLED cause.
 */
void plx_sched_sample_end(struct plx_sched *s, uint32_t slot, enum plx_seq_end end,
                          uint64_t now_ns);
void plx_sched_ent_end(struct plx_sched *s, uint32_t key, enum plx_seq_end end, uint64_t now_ns);
void plx_sched_ent_fail(struct plx_sched *s, uint32_t key, enum plx_sched_final_kind kind, int err,
                        uint8_t cause, uint64_t now_ns);

#define PLX_SCHED_NOT_YET UINT64_MAX /* shared_step: no step has the last shared position yet */

/* plx_sched_space - whose prefixes a request finds. */
static inline uint64_t plx_sched_space(const struct plx_sched_job *j)
{
	uint64_t space = j->share_prefix ? PLX_PREFIX_SHARED : j->tenant;

	/* KV that sparse attention made is another one, each way of it. */
	if (j->flags & PLX_SEQF_SPARSE)
		space |= (uint64_t)j->sparse_mass << 32 | (uint64_t)j->sparse_chunks << 44 |
		         UINT64_C(1) << 63;
	return space;
}

/* plx_sched_score_span - tokens of a window in which prompts are scored, in whole blocks. */
static inline uint32_t plx_sched_score_span(const struct plx_sched *s)
{
	uint32_t bt = s->conf.block_tokens, most = PLX_SCHED_SCORE_SPAN;

	most = s->conf.ctx_tokens < most ? s->conf.ctx_tokens : most;
	return most < bt ? bt : most / bt * bt;
}

/* plx_sched_evicts - whether the request's KV is thinned out. */
static inline bool plx_sched_evicts(const struct plx_sched *s, const struct plx_sched_job *j)
{
	return j->evict && s->conf.can_evict && j->n_samples == 1 && !j->score;
}

/* plx_sched_records - sink records that one token with n_top alternatives takes. */
static inline uint32_t plx_sched_records(uint32_t n_top)
{
	return 1 + (n_top + 2) / 3;
}

/* plx_sched_known_blocks - blocks its samples need to run all they know and one token more. */
uint32_t plx_sched_known_blocks(const struct plx_sched *s, const struct plx_sched_ent *e);

/*
 * plx_sched_start_waiting - start what has room, in order, until the prompts that run ahead of the
 * next one have so many tokens (sched_start.c).
 */
void plx_sched_start_waiting(struct plx_sched *s, uint32_t tokens, uint64_t now_ns);

/* ---- drafts (sched_draft.c) ---- */

/* plx_sched_draft_bytes, plx_sched_draft_init - memory for drafts; the look-up drafter. */
size_t plx_sched_draft_bytes(const struct plx_sched_conf *c);
int plx_sched_draft_init(struct plx_sched *s, struct plx_arena *a);

/* plx_sched_draft_begin, plx_sched_draft_end - a sequence takes the slot, or leaves it. */
void plx_sched_draft_begin(struct plx_sched *s, uint32_t slot);
void plx_sched_draft_end(struct plx_sched *s, uint32_t slot);

/*
 * plx_sched_draft_waits - no step may be given now: one with drafts is in flight, or drafts pay and
 * the steps in flight have to come back before it is known behind which ids, or those that were
 * asked for drafts have not guessed yet.
 */
bool plx_sched_draft_waits(struct plx_sched *s);

/* plx_sched_draft_plan - a step begins to be filled: who shall have how many drafts. */
void plx_sched_draft_plan(struct plx_sched *s);

/* plx_sched_draft_of - the drafts planned for a sequence that has nothing in flight; NULL: none. */
const struct plx_draft *plx_sched_draft_of(const struct plx_sched *s, uint32_t slot);

/* plx_sched_draft_room - how many of n places behind the next token have blocks; takes a block
 * where there are plenty. */
uint32_t plx_sched_draft_room(struct plx_sched *s, uint32_t slot, uint32_t n);

/* plx_sched_draft_gave, plx_sched_drafts_came - a sequence's drafts go to the device, come back. */
void plx_sched_draft_gave(struct plx_sched *s, uint32_t slot, uint64_t step_id, uint32_t n);
void plx_sched_drafts_came(struct plx_sched *s, const struct plx_step *st,
                           const struct plx_step_seq *r, const struct plx_step_out *o);

/* plx_sched_has_drafts - whether a step that came back carried any. */
bool plx_sched_has_drafts(const struct plx_sched *s, const struct plx_step *st);

/* plx_sched_draft_sent, plx_sched_draft_came - a step of w goes to the device, comes back. */
void plx_sched_draft_sent(struct plx_sched *s, uint64_t step_id, const struct plx_cost_work *w);
void plx_sched_draft_came(struct plx_sched *s, struct plx_step *st, bool ok);

/* ---- time (sched_plan.c) ---- */

/*
 * plx_sched_aim_ns - how long a step that runs `base` may take with prompt tokens added.
 *
 * @itl_ns  the strictest objective of those it serves; 0: none.
 *
 * Returns 0 where nothing limits it.
 */
double plx_sched_aim_ns(struct plx_sched *s, const struct plx_cost_work *base, uint64_t itl_ns,
                        uint64_t now_ns);

/* plx_sched_chunk - prompt tokens from pos on that a step of w can take to last aim_ns; 0: any. */
uint32_t plx_sched_chunk(const struct plx_sched *s, const struct plx_cost_work *w, uint32_t pos,
                         double aim_ns, uint32_t most);

/* plx_sched_prompt_ns - the prompt's own time on an idle device. */
double plx_sched_prompt_ns(const struct plx_sched *s, uint32_t tokens);

/*
 * plx_sched_ttft_ns - when the last of own prompt tokens is done and its id there, with so many
 * others ahead and what is in flight.
 */
double plx_sched_ttft_ns(const struct plx_sched *s, uint64_t ahead, uint32_t own, uint64_t now_ns);

/*
 * plx_sched_slots_ns - how long until n_seq more sequences find slots.
 * plx_sched_blocks_ns - how long until they find so many blocks, beside what those that run want
 *                       for what they know.
 * plx_sched_tenant_ns - how long until a tenant holds so many blocks less of its share.
 *
 * All take answers to end as often as they did lately; 0: at once.
 */
double plx_sched_slots_ns(const struct plx_sched *s, uint32_t n_seq);
double plx_sched_blocks_ns(const struct plx_sched *s, uint64_t blocks);
double plx_sched_tenant_ns(const struct plx_sched *s, uint32_t tenant, uint64_t blocks);

/* plx_sched_gated - one more would make decodes alone too slow for somebody's objective. */
bool plx_sched_gated(const struct plx_sched *s, const struct plx_sched_ent *e);

/* plx_sched_too_late - its first token can't come as wanted any more; not said twice. */
bool plx_sched_too_late(const struct plx_sched *s, uint32_t key, uint64_t now_ns);

/* plx_sched_put_behind - it missed its objective: behind those that can still meet theirs. */
void plx_sched_put_behind(struct plx_sched *s, uint32_t key);

/* plx_sched_sent, plx_sched_came - a step goes to the device, or came back as step says. */
void plx_sched_step_sent(struct plx_sched *s, uint64_t id, const struct plx_cost_work *w,
                         uint64_t now_ns);
void plx_sched_step_came(struct plx_sched *s, const struct plx_step *st, bool ok, uint64_t now_ns);

/* plx_sched_first_came - a request's first id: judge its estimate. */
void plx_sched_first_came(struct plx_sched *s, const struct plx_sched_ent *e);

#endif
