/* Starting requests, filling steps, taking results; sched.h says the policy. */
#include "dataplane/batch/sched_int.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define PROMPT_SHARE     8u  /* 1/8 of a step is kept for prompts */
#define SMOOTH           8u  /* weight of a new measurement: 1/8 */
#define TOK_NS_LEAST_TOK 16u /* steps with fewer tokens say nothing about time a token */
#define NOT_YET          UINT64_MAX

/* ---- starting ---- */

/* Hold the cached blocks of the prompt in the first sample's table; returns how many. */
static uint32_t hold_cached(struct plx_sched *s, struct plx_sched_ent *e, uint32_t *block)
{
	struct plx_prefix_at at = plx_prefix_begin(e->job.tenant);
	uint32_t bt = s->conf.block_tokens, n = e->shared_end / bt, i = 0;

	for (; i < n; i++) {
		uint32_t b = plx_prefix_find(&s->prefix, &at, &e->job.ids[i * bt]);

		if (b == PLX_KV_NONE)
			break;
		plx_kv_hold(&s->kv, b);
		block[i] = b;
	}
	return i;
}

static void seq_start(struct plx_sched *s, uint32_t key, uint32_t sample, uint32_t slot,
                      uint32_t n_run)
{
	const struct plx_sched_ent *e = &s->ent[key];
	struct plx_seq *q = &s->seq[slot];
	bool dirty = q->slot_dirty;
	int32_t *ids = q->ids;
	uint32_t *block = q->block;

	*q = (struct plx_seq){.state = PLX_SEQ_RUN,
	                      .slot_dirty = dirty,
	                      .set_pending = true,
	                      .ignore_eos = e->job.ignore_eos,
	                      .by_context = e->by_context,
	                      .sample = (uint16_t)sample,
	                      .n_top = (uint16_t)e->job.n_top,
	                      .ent = key,
	                      .n_prompt = e->job.n_ids,
	                      .n_shared = n_run,
	                      .n_run = n_run,
	                      .n_ok = n_run,
	                      .max_new = e->max_new,
	                      .window = s->conf.window,
	                      .n_blocks = e->max_blocks,
	                      .flags = e->job.flags,
	                      .at = plx_prefix_begin(e->job.tenant),
	                      .ids = ids,
	                      .block = block};
	memcpy(ids, e->job.ids, 4 * (size_t)e->job.n_ids);
	s->run[s->n_run++] = slot;
}

/* The first sample's table: cached blocks, then new ones; false and unchanged without room. */
static bool take_first_table(struct plx_sched *s, struct plx_sched_ent *e, uint32_t *block,
                             uint32_t *n_cached)
{
	uint32_t n = hold_cached(s, e, block);

	if (e->need_blocks - n > plx_kv_room(&s->kv)) {
		while (n > 0)
			plx_prefix_drop(&s->prefix, block[--n]);
		return false;
	}
	for (uint32_t i = n; i < e->max_blocks; i++)
		block[i] = plx_prefix_take(&s->prefix);
	*n_cached = n;
	return true;
}

static void start_siblings(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];
	uint32_t shared = e->shared_end / s->conf.block_tokens;
	const uint32_t *first = s->seq[e->slot[0]].block;

	for (uint32_t i = 1; i < e->job.n_samples; i++) {
		uint32_t slot = s->free_slot[--s->n_free_slots];
		uint32_t *block = s->seq[slot].block;

		e->slot[i] = (uint16_t)slot;
		for (uint32_t b = 0; b < e->max_blocks; b++) {
			if (b < shared)
				plx_kv_hold(&s->kv, first[b]);
			block[b] = b < shared ? first[b] : plx_prefix_take(&s->prefix);
		}
		seq_start(s, key, i, slot, e->shared_end);
	}
}

/* Start a waiting request with all it needs; false: there is no room now. */
static bool ent_start(struct plx_sched *s, uint32_t key, uint64_t now_ns)
{
	struct plx_sched_ent *e = &s->ent[key];
	uint32_t bt = s->conf.block_tokens, n_cached;

	if (e->job.n_samples > s->n_free_slots ||
	    e->need_blocks - e->shared_end / bt > plx_kv_room(&s->kv))
		return false;
	uint32_t slot = s->free_slot[s->n_free_slots - 1];

	if (!take_first_table(s, e, s->seq[slot].block, &n_cached))
		return false;
	s->n_free_slots--;
	plx_sched_wait_remove(s, key);
	e->state = PLX_ENT_RUNNING;
	e->n_live = (uint16_t)e->job.n_samples;
	e->start_ns = now_ns;
	e->slot[0] = (uint16_t)slot;
	e->shared_step = n_cached * bt >= e->shared_end ? 0 : NOT_YET;
	e->out.cached_tokens = n_cached * bt;
	e->tenant_held = e->need_blocks;
	s->tenant_held[e->job.tenant] += e->need_blocks;
	s->stats.cached_tokens += n_cached * bt;
	seq_start(s, key, 0, slot, n_cached * bt);
	start_siblings(s, key);
	return true;
}

static bool over_share(const struct plx_sched *s, const struct plx_sched_ent *e)
{
	return e->job.tenant_blocks &&
	       s->tenant_held[e->job.tenant] + e->need_blocks > e->job.tenant_blocks;
}

static void start_waiting(struct plx_sched *s, uint64_t now_ns)
{
	for (uint32_t p = PLX_SCHED_PRIORITIES; p-- > 0;) {
		uint32_t next;

		for (uint32_t k = s->wait[p].first; k != PLX_ENT_NONE; k = next) {
			next = s->ent[k].next;
			if (!over_share(s, &s->ent[k]) && !ent_start(s, k, now_ns))
				return;
		}
	}
}

/* ---- steps ---- */

static uint32_t records_for(uint32_t n_top)
{
	return 1 + (n_top + 2) / 3;
}

struct filling {
	struct plx_seq_fill f;
	uint32_t room; /* sink records that are left */
	bool tight;    /* a sequence did not fit */
};

/* Give a sequence its next n tokens if what they bring has room. */
static uint32_t give(struct plx_sched *s, struct filling *w, uint32_t slot, uint32_t n)
{
	struct plx_seq *q = &s->seq[slot];
	uint32_t records = records_for(q->n_top);

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
	return q->sample == 0 || (e->shared_step != NOT_YET && e->shared_step < step_id);
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
		if (q->sample == 0 && e->shared_step == NOT_YET && q->n_run >= e->shared_end)
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
		start_waiting(s, now_ns);
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

/* ---- results ---- */

static void smooth(uint64_t *mean, uint64_t x)
{
	*mean = *mean ? *mean - *mean / SMOOTH + x / SMOOTH : x;
}

static void measure(struct plx_sched *s, const struct plx_step *st)
{
	uint64_t ns = st->end_ns > st->start_ns ? st->end_ns - st->start_ns : 0;

	smooth(&s->load.step_ns, ns);
	if (st->n_tok >= TOK_NS_LEAST_TOK)
		smooth(&s->load.tok_ns, ns / st->n_tok);
}

/* A number that is none: alone it ends its sample; in the prompt it ends the request. */
static void seq_fault(struct plx_sched *s, uint32_t slot, uint64_t device_ns, uint64_t now_ns)
{
	struct plx_seq *q = &s->seq[slot];
	struct plx_sched_ent *e = &s->ent[q->ent];

	s->stats.faulted++;
	if (q->n_out == 0) {
		e->out.kind = PLX_SCHED_DONE;
		plx_sched_ent_end(s, q->ent, PLX_SEQ_END_FAULT, now_ns);
		return;
	}
	s->sink.end(s->sink.ctx, q->ent, q->sample, PLX_SEQ_END_FAULT, device_ns);
	plx_sched_sample_end(s, slot, PLX_SEQ_END_FAULT, now_ns);
}

static void seq_result(struct plx_sched *s, struct plx_step *st, uint32_t i, uint64_t now_ns)
{
	const struct plx_step_seq *r = &plx_step_seqs(st)[i];
	const struct plx_step_out *o = &plx_step_outs(st)[i];
	struct plx_seq *q = &s->seq[r->slot];
	struct plx_sched_ent *e = &s->ent[q->ent];
	const struct plx_top *top =
	    o->top_off ? (const struct plx_top *)(const void *)((const char *)st + o->top_off)
		       : NULL;
	uint32_t index = q->n_out;
	enum plx_seq_end end =
	    plx_seq_take(q, r->n_tok, o->n_out ? &o->id[0] : NULL, s->conf.eog, s->conf.n_eog);

	plx_seq_publish(q, &s->prefix);
	if (o->n_out == 0)
		return;
	q->last_ns = st->end_ns;
	if (e->first_ns == 0)
		e->first_ns = st->end_ns;
	if (end == PLX_SEQ_END_EOS)
		s->sink.end(s->sink.ctx, q->ent, q->sample, end, st->end_ns);
	else
		s->sink.token(s->sink.ctx, q->ent, q->sample, index, o->id[0], o->logprob[0], top,
		              top ? r->n_top : 0, end, st->end_ns);
	if (end != PLX_SEQ_END_NONE)
		plx_sched_sample_end(s, r->slot, end, now_ns);
}

static void take_result(struct plx_sched *s, struct plx_step *st, uint32_t i, int status,
                        uint64_t now_ns)
{
	uint32_t slot = plx_step_seqs(st)[i].slot;
	struct plx_seq *q = &s->seq[slot];

	PLX_CHECK(q->in_flight > 0);
	q->in_flight--;
	s->promised -= records_for(q->n_top);
	if (q->state == PLX_SEQ_DRAIN) {
		if (status == 0)
			s->stats.late_tokens += plx_step_outs(st)[i].n_out;
		if (q->in_flight == 0)
			plx_sched_seq_leave(s, slot);
	} else if (plx_step_outs(st)[i].status != 0) {
		seq_fault(s, slot, st->end_ns, now_ns);
	} else {
		seq_result(s, st, i, now_ns);
	}
}

static void mark_bad(struct plx_sched *s, const struct plx_seq *q)
{
	for (uint32_t b = 0; b < q->n_blocks; b++)
		plx_kv_mark_bad(&s->kv, q->block[b]);
	s->need_reset = true;
}

static void lose_request(struct plx_sched *s, uint32_t key, uint64_t now_ns)
{
	const struct plx_sched_ent *e = &s->ent[key];

	for (uint32_t i = 0; i < e->job.n_samples; i++)
		if (e->out.end[i] == PLX_SEQ_END_NONE) {
			mark_bad(s, &s->seq[e->slot[i]]);
			s->stats.faulted++;
		}
	plx_sched_ent_fail(s, key, PLX_SCHED_REJECT, PLX_E_DEVICE_LOST, 0, now_ns);
}

/* A step failed: what it ran is lost, and with a lost device whatever runs. */
static void lose_step(struct plx_sched *s, struct plx_step *st, int status, uint64_t now_ns)
{
	plx_prefix_clear(&s->prefix);
	for (uint32_t i = 0; i < st->n_seq; i++) {
		struct plx_seq *q = &s->seq[plx_step_seqs(st)[i].slot];

		if (q->state == PLX_SEQ_RUN)
			lose_request(s, q->ent, now_ns);
		else
			mark_bad(s, q);
	}
	if (status != PLX_E_LOST)
		return;
	s->lost = s->need_reset = true;
	for (uint32_t i = 0; i < s->n_run;) {
		struct plx_seq *q = &s->seq[s->run[i]];

		if (q->state != PLX_SEQ_RUN) {
			i++;
			continue;
		}
		lose_request(s, q->ent, now_ns);
		i = 0; /* s->run changed; each time a request fewer runs */
	}
}

void plx_sched_done(struct plx_sched *s, struct plx_step *step, int status, uint64_t now_ns)
{
	PLX_CHECK(s->n_steps_out > 0);
	s->n_steps_out--;
	if (status == 0)
		measure(s, step);
	else
		lose_step(s, step, status, now_ns);
	for (uint32_t i = 0; i < step->n_seq; i++)
		take_result(s, step, i, status, now_ns);
	plx_sched_update_load(s);
}

bool plx_sched_wants_reset(const struct plx_sched *s)
{
	return s->need_reset && s->n_steps_out == 0 && s->n_run == 0;
}

void plx_sched_reset_done(struct plx_sched *s)
{
	plx_prefix_clear(&s->prefix);
	plx_kv_end_quarantine(&s->kv);
	for (uint32_t i = 0; i < s->conf.n_slots; i++)
		s->seq[i].slot_dirty = false;
	s->need_reset = s->lost = false;
}

/* ---- self-check ---- */

static void check_blocks(const struct plx_sched *s)
{
	uint64_t held = 0, refs = 0, want = 0;

	for (uint32_t b = 0; b < s->kv.n_blocks; b++) {
		held += s->kv.block[b].ref > 0;
		refs += s->kv.block[b].ref;
		PLX_CHECK(!s->kv.block[b].parked || s->kv.block[b].ref == 0);
	}
	for (uint32_t i = 0; i < s->n_run; i++)
		want += s->seq[s->run[i]].n_blocks;
	PLX_CHECK(refs == want);
	PLX_CHECK(s->kv.n_free + s->kv.n_parked + s->kv.n_quarantined + held == s->kv.n_blocks);
}

void plx_sched_check(const struct plx_sched *s)
{
	uint32_t n_free = 0, waiting = 0;

	for (uint32_t i = 0; i < s->conf.n_slots; i++) {
		const struct plx_seq *q = &s->seq[i];

		n_free += q->state == PLX_SEQ_FREE;
		PLX_CHECK(q->state != PLX_SEQ_DRAIN || q->in_flight > 0);
		PLX_CHECK(q->state != PLX_SEQ_RUN || s->ent[q->ent].state == PLX_ENT_RUNNING);
		PLX_CHECK(q->in_flight <= s->n_steps_out);
	}
	PLX_CHECK(n_free == s->n_free_slots && n_free + s->n_run == s->conf.n_slots);
	for (uint32_t k = 0; k < s->conf.n_keys; k++)
		waiting += s->ent[k].state == PLX_ENT_WAITING;
	PLX_CHECK(waiting == s->load.n_waiting);
	PLX_CHECK(s->n_steps_out > 0 || s->promised == 0);
	check_blocks(s);
}
