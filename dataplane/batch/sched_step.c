/* What a step is made of; sched.h says the policy. */
#include "dataplane/batch/sched_int.h"

#define PROMPT_SHARE 8u /* 1/8 of a step is kept for prompts */

struct filling {
	struct plx_seq_fill f;
	uint32_t room; /* sink records that are left */
	bool tight;    /* a sequence did not fit */
};

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

static bool may_prefill(const struct plx_sched *s, const struct plx_seq *q, uint64_t step_id)
{
	const struct plx_sched_ent *e = &s->ent[q->ent];

	if (q->state != PLX_SEQ_RUN || plx_seq_prefilling(q) == 0)
		return false;
	return q->sample == 0 || (e->shared_step != PLX_SCHED_NOT_YET && e->shared_step < step_id);
}

static bool any_prefill(const struct plx_sched *s, uint64_t step_id)
{
	for (uint32_t i = 0; i < s->n_run; i++)
		if (may_prefill(s, &s->seq[s->run[i]], step_id))
			return true;
	return false;
}

static void give_decodes(struct plx_sched *s, struct filling *w)
{
	uint32_t first = s->n_run ? s->first_decode % s->n_run : 0;

	s->first_decode = 0;
	for (uint32_t i = 0; i < s->n_run; i++) {
		uint32_t at = (first + i) % s->n_run;
		uint32_t slot = s->run[at];

		if (!plx_seq_can_decode(&s->seq[slot]))
			continue;
		if (give(s, w, slot, 1) == 0) {
			s->first_decode = at;
			return;
		}
		s->stats.decode_tokens++;
	}
}

static void give_prompts(struct plx_sched *s, struct filling *w)
{
	uint64_t id = w->f.step->id;

	for (uint32_t i = 0; i < s->n_run; i++) {
		struct plx_seq *q = &s->seq[s->run[i]];
		struct plx_sched_ent *e = &s->ent[q->ent];

		if (!may_prefill(s, q, id))
			continue;
		uint32_t given = give(s, w, s->run[i], plx_seq_prefilling(q));

		if (given == 0)
			return;
		s->stats.prefill_tokens += given;
		if (q->sample == 0 && e->shared_step == PLX_SCHED_NOT_YET &&
		    q->n_run >= e->shared_end)
			e->shared_step = id;
	}
}

static void step_clear(struct plx_step *st, uint64_t id)
{
	st->id = id;
	st->n_tok = st->n_seq = st->n_delta = st->n_sampler = 0;
	st->status = 0;
	st->start_ns = st->end_ns = 0;
	__atomic_store_n(&st->cancel, 0u, __ATOMIC_RELAXED);
}

uint32_t plx_sched_fill(struct plx_sched *s, struct plx_step *step, uint32_t room, uint64_t now_ns)
{
	const struct plx_sched_conf *c = &s->conf;

	if (s->lost)
		return 0;
	if (!s->need_reset)
		plx_sched_start_waiting(s, now_ns);
	step_clear(step, s->next_step_id);
	struct filling w = {.f = {.step = step,
	                          .max_tok = c->step_tokens,
	                          .max_seq = c->step_seqs,
	                          .block_tokens = c->block_tokens},
	                    .room = room > s->promised ? room - s->promised : 0};
	uint32_t before = w.room;

	if (any_prefill(s, step->id)) {
		uint32_t keep = c->step_tokens / PROMPT_SHARE;

		w.f.max_tok -= keep ? keep : 1;
		w.f.max_seq -= c->step_seqs > 1 ? 1 : 0;
	}
	give_decodes(s, &w);
	w.f.max_tok = c->step_tokens;
	w.f.max_seq = c->step_seqs;
	give_prompts(s, &w);
	plx_sched_update_load(s);
	if (step->n_tok == 0)
		return 0;
	s->next_step_id++;
	s->n_steps_out++;
	s->promised += before - w.room;
	s->stats.steps++;
	return step->n_tok;
}
