/* What a step is made of; sched.h says the policy. */
#include "dataplane/batch/sched_int.h"

#define LEAST_CHUNK  8u /* prompt tokens that a step takes in any case: nobody starves */
#define PROMPT_SHARE 8u /* 1/8 of a step is kept for prompts */

struct filling {
	struct plx_seq_fill f;
	struct plx_cost_work work;
	uint32_t room;     /* sink records that are left */
	uint32_t branches; /* of drafts' trees, likewise */
	bool tight;        /* a sequence did not fit */
	bool early;        /* a step of sequences with PLX_SEQF_EARLY */
};

/* A step observes one sequence and thins out one: another waits for the next. */
static bool evict_waits(const struct filling *w, const struct plx_seq *q)
{
	return q->evict == PLX_SEQ_EVICT_LOOK || (q->evict == PLX_SEQ_EVICT_TELL && w->f.keeps);
}

/* Of n known tokens, those to give so that PLX_OBSERVE_QUERIES end the prompt in one step. */
static uint32_t evict_chunk(const struct plx_seq *q, uint32_t n)
{
	uint32_t left = q->n_prompt - q->n_run;

	if (q->evict != PLX_SEQ_EVICT_WANT)
		return n;
	if (n >= left || left <= PLX_OBSERVE_QUERIES)
		return left;
	return left - n < PLX_OBSERVE_QUERIES ? left - PLX_OBSERVE_QUERIES : n;
}

/*
 * The same where the step or memory has only so much: what is observed must not depend on it, so
 * that the rest waits for another step. Where decodes alone may leave less room than that in every
 * step, it does not wait.
 */
static uint32_t evict_fit(const struct plx_sched *s, const struct plx_seq *q, uint32_t n)
{
	uint32_t left = q->n_prompt - q->n_run;

	if (q->evict != PLX_SEQ_EVICT_WANT || n >= left || left - n >= PLX_OBSERVE_QUERIES ||
	    s->conf.step_tokens < s->conf.step_seqs + PLX_OBSERVE_QUERIES)
		return n;
	return left > PLX_OBSERVE_QUERIES ? left - PLX_OBSERVE_QUERIES : 0;
}

/* Give a sequence its next n tokens if what they bring has room. */
static uint32_t give(struct plx_sched *s, struct filling *w, uint32_t slot, uint32_t n)
{
	struct plx_seq *q = &s->seq[slot];
	uint32_t records = plx_sched_records(q->n_top);

	if (records > w->room) {
		s->stats.room_waits++;
		w->tight = true;
		return 0;
	}
	uint32_t given = plx_seq_give(q, slot, &w->f, n, &s->ent[q->ent].job.sampler);

	if (given > 0)
		w->room -= records;
	else
		w->tight = true;
	return given;
}

/* Drafts behind the token that was just given. */
static void give_drafts(struct plx_sched *s, struct filling *w, uint32_t slot)
{
	const struct plx_draft *d = plx_sched_draft_of(s, slot);
	struct plx_seq *q = &s->seq[slot];
	uint32_t records = plx_sched_records(q->n_top), n = d ? d->n : 0, pos = plx_seq_pos(q);
	struct plx_draft lay;

	n = n < w->room / records ? n : w->room / records;
	if (n == 0)
		return;
	uint32_t depth = plx_sched_draft_room(s, slot, plx_draft_depth(d, n));

	uint32_t branches = plx_draft_lay(d, n, depth, w->branches, &lay);

	n = plx_seq_give_drafts(q, slot, &w->f, &lay);
	if (n == 0)
		return;
	w->room -= n * records;
	w->branches -= branches;
	s->draft.branches += branches;
	w->work.decodes += n;
	w->work.context += (uint64_t)n * pos;
	plx_sched_draft_gave(s, slot, w->f.step->id, n);
}

static bool may_prefill(const struct plx_sched *s, const struct plx_seq *q, uint64_t step_id)
{
	const struct plx_sched_ent *e = &s->ent[q->ent];

	if (q->state != PLX_SEQ_RUN || plx_seq_prefilling(q) == 0)
		return false;
	return q->own || (e->shared_step != PLX_SCHED_NOT_YET && e->shared_step < step_id);
}

static void give_decodes(struct plx_sched *s, struct filling *w)
{
	uint32_t first = s->n_run ? s->first_decode % s->n_run : 0;

	s->first_decode = 0;
	for (uint32_t i = 0; i < s->n_run; i++) {
		uint32_t at = (first + i) % s->n_run;
		uint32_t slot = s->run[at];

		if (!plx_seq_can_decode(&s->seq[slot]) || evict_waits(w, &s->seq[slot]) ||
		    plx_sched_blocks_for(s, slot, 1) == 0)
			continue;
		uint32_t pos = plx_seq_pos(&s->seq[slot]);

		if (give(s, w, slot, 1) == 0) {
			s->first_decode = at;
			return;
		}
		w->work.decodes++;
		w->work.context += pos;
		s->stats.decode_tokens++;
		give_drafts(s, w, slot);
	}
}

/* The next chunk of one sequence; false: the step is full. One that lacks memory is passed over. */
static bool give_chunk(struct plx_sched *s, struct filling *w, uint32_t slot, double aim_ns)
{
	struct plx_seq *q = &s->seq[slot];

	if (evict_waits(w, q) || !plx_sched_goes_on(s, slot))
		return true;
	uint32_t pos = plx_seq_pos(q);
	uint32_t left = plx_seq_prefilling(q);
	uint32_t n = plx_sched_chunk(s, &w->work, pos, aim_ns, left);

	if (n < plx_seq_group(q) && w->work.prefill == 0) {
		uint32_t least = plx_seq_group(q) > LEAST_CHUNK ? plx_seq_group(q) : LEAST_CHUNK;

		n = left < least ? left : least;
	}
	if (n == 0)
		return false;
	n = evict_chunk(q, n);
	if (q->evict == PLX_SEQ_EVICT_WANT && q->n_run + n == q->n_prompt && w->f.observes)
		return true;
	if (q->evict == PLX_SEQ_EVICT_WANT && n > w->f.max_tok - w->f.step->n_tok)
		n = w->f.max_tok - w->f.step->n_tok;
	if (n == 0)
		return false;
	n = evict_fit(s, q, plx_sched_blocks_for(s, slot, n));
	if (n == 0)
		return true;
	pos = plx_seq_pos(q);
	uint32_t given = give(s, w, slot, n);

	if (given == 0)
		return false;
	plx_cost_add_prefill(&w->work, pos, given);
	s->stats.prefill_tokens += given;
	plx_sched_gave(s, slot, w->f.step->id);
	return true;
}

static bool is_early(const struct plx_sched_ent *e)
{
	return (e->job.flags & PLX_SEQF_EARLY) != 0;
}

/* Whether anything waits for a step that ends early: such steps hold nothing else. */
static bool early_waits(const struct plx_sched *s)
{
	uint32_t k = plx_order_first(&s->prefill);

	while (k != PLX_QUEUE_NONE && !is_early(&s->ent[k]))
		k = plx_order_next(&s->prefill, k);
	return k != PLX_QUEUE_NONE;
}

/* Prompt tokens in the order of the policy, as many as the step may take. */
static void give_prompts(struct plx_sched *s, struct filling *w, double aim_ns)
{
	uint64_t id = w->f.step->id;
	uint32_t next;

	for (uint32_t k = plx_order_first(&s->prefill); k != PLX_QUEUE_NONE; k = next) {
		const struct plx_sched_ent *e = &s->ent[k];
		bool full = false;

		next = plx_order_next(&s->prefill, k);
		if (is_early(e) != w->early)
			continue;
		for (uint32_t i = 0; i < e->job.n_samples && !full; i++) {
			uint32_t slot = e->slot[i];

			if (e->out.end[i] == PLX_SEQ_END_NONE && may_prefill(s, &s->seq[slot], id))
				full = !give_chunk(s, w, slot, aim_ns);
		}
		plx_sched_prefill_update(s, k);
		if (full)
			return;
	}
}

/* Whether an idle device had better wait for company: only while nothing runs. */
static bool waits_for_company(const struct plx_sched *s, uint64_t now_ns)
{
	uint32_t k = plx_order_first(&s->wait);

	if (s->conf.wait_ns == 0 || s->n_run > 0 || s->n_steps_out > 0 || k == PLX_QUEUE_NONE)
		return false;
	if (s->load.n_waiting >= s->conf.step_seqs ||
	    plx_order_sum(&s->wait) >= s->conf.step_tokens)
		return false;
	uint64_t oldest = now_ns;

	for (uint32_t i = 0; k != PLX_QUEUE_NONE; k = plx_order_next(&s->wait, k), i++)
		oldest = s->ent[k].admit_ns < oldest ? s->ent[k].admit_ns : oldest;
	return now_ns - oldest < s->conf.wait_ns;
}

static void step_clear(struct plx_step *st, uint64_t id)
{
	st->id = id;
	st->n_tok = st->n_seq = st->n_delta = st->n_sampler = 0;
	st->status = 0;
	st->start_ns = st->end_ns = 0;
	__atomic_store_n(&st->cancel, 0u, __ATOMIC_RELAXED);
}

/* Decodes first; where prompts wait, an eighth of the record is kept for them. */
static void decodes_first(struct plx_sched *s, struct filling *w, uint64_t now_ns)
{
	const struct plx_sched_conf *c = &s->conf;

	if (plx_order_count(&s->prefill) > 0) {
		const struct plx_sched_ent *e = &s->ent[plx_order_first(&s->prefill)];
		uint32_t keep = c->step_tokens / PROMPT_SHARE;

		/* A group of queries that choose together is run whole. */
		if ((e->job.flags & PLX_SEQF_SPARSE) && keep < PLX_SPARSE_POOL)
			keep = PLX_SPARSE_POOL < c->step_tokens ? PLX_SPARSE_POOL : keep;

		w->f.max_tok -= keep ? keep : 1;
		w->f.max_seq -= c->step_seqs > 1 ? 1 : 0;
	}
	plx_sched_draft_plan(s);
	give_decodes(s, w);
	w->f.max_tok = c->step_tokens;
	w->f.max_seq = c->step_seqs;
	double aim = plx_sched_aim_ns(s, &w->work, s->view.itl_ns, now_ns);

	if (plx_order_count(&s->prefill) > 0)
		give_prompts(s, w, aim);
}

/* Where a step has room for one sequence, decodes and prompts that wait take turns: half of the
 * objective each. */
static bool prompts_turn(const struct plx_sched *s)
{
	return s->conf.step_seqs == 1 && !s->had_prompt && plx_order_count(&s->prefill) > 0;
}

static void fill_early(struct plx_sched *s, struct filling *w, uint64_t now_ns)
{
	w->early = true;
	give_prompts(s, w, plx_sched_aim_ns(s, &w->work, s->view.itl_ns / 2, now_ns));
	w->early = w->f.step->n_tok > 0;
}

/* Steps that end early and all others take turns. */
static void fill_step(struct plx_sched *s, struct filling *w, uint64_t now_ns)
{
	bool early = early_waits(s);

	if (early && !s->had_early)
		fill_early(s, w, now_ns);
	if (w->f.step->n_tok == 0 && prompts_turn(s))
		give_prompts(s, w, plx_sched_aim_ns(s, &w->work, s->view.itl_ns / 2, now_ns));
	if (w->work.prefill == 0)
		decodes_first(s, w, now_ns);
	if (early && s->had_early && w->f.step->n_tok == 0)
		fill_early(s, w, now_ns);
	s->had_prompt = w->work.prefill > 0 && !w->early;
	s->had_early = w->early;
}

uint32_t plx_sched_fill(struct plx_sched *s, struct plx_step *step, uint32_t room, uint64_t now_ns)
{
	const struct plx_sched_conf *c = &s->conf;

	if (s->lost || waits_for_company(s, now_ns) || plx_sched_draft_waits(s))
		return 0;
	plx_sched_memory_turn(s);
	if (!s->need_reset)
		plx_sched_start_waiting(s, c->step_tokens, now_ns);
	plx_sched_update_load(s);
	step_clear(step, s->next_step_id);
	struct filling w = {.f = {.step = step,
	                          .max_tok = c->step_tokens,
	                          .max_seq = c->step_seqs,
	                          .block_tokens = c->block_tokens},
	                    .room = room > s->promised ? room - s->promised : 0,
	                    .branches = c->tree_branches};
	uint32_t before = w.room;

	fill_step(s, &w, now_ns);
	plx_tier_flush(&s->tier);
	s->load.queued_tokens = s->load.waiting_tokens + (uint32_t)plx_order_sum(&s->prefill);
	if (step->n_tok == 0)
		return 0;
	s->next_step_id++;
	s->n_steps_out++;
	s->promised += before - w.room;
	s->stats.steps++;
	plx_tier_step_sent(&s->tier, step->id, s->n_steps_out > 1);
	plx_sched_step_sent(s, step->id, &w.work, now_ns);
	s->sent[step->id % PLX_SCHED_MAX_STEPS].early = w.early;
	plx_sched_draft_sent(s, step->id, &w.work);
	return step->n_tok;
}
