/* What a step brought back: ids, ends, faults, lost devices. */
#include "dataplane/batch/compress_kv.h"
#include "dataplane/batch/move.h"
#include "dataplane/batch/sched_int.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define SMOOTH           8u  /* weight of a new measurement: 1/8 */
#define TOK_NS_LEAST_TOK 16u /* steps with fewer tokens say nothing about time a token */

static void smooth(uint64_t *mean, uint64_t x)
{
	*mean = *mean ? *mean - *mean / SMOOTH + x / SMOOTH : x;
}

static void measure(struct plx_sched *s, const struct plx_step *st)
{
	uint64_t ns = st->end_ns > st->start_ns ? st->end_ns - st->start_ns : 0;

	smooth(&s->load.step_ns, ns);
	if (st->n_tok >= TOK_NS_LEAST_TOK && !plx_sched_has_drafts(s, st))
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

/* One of the ids that a step sampled; how the answer ends with it. */
static enum plx_seq_end id_result(struct plx_sched *s, struct plx_step *st, uint32_t i, uint32_t k,
                                  uint32_t n_tok)
{
	const struct plx_step_seq *r = &plx_step_seqs(st)[i];
	const struct plx_step_out *o = &plx_step_outs(st)[i];
	struct plx_seq *q = &s->seq[r->slot];
	const struct plx_top *top = NULL;
	uint32_t index = q->n_out;

	if (o->top_off)
		top = (const struct plx_top *)(const void *)((const char *)st + o->top_off) +
		      (size_t)k * r->n_top;
	enum plx_seq_end end = plx_seq_take(q, n_tok, &o->id[k], s->conf.eog, s->conf.n_eog);

	plx_seq_publish(q, &s->prefix);
	if (end == PLX_SEQ_END_EOS)
		s->sink.end(s->sink.ctx, q->ent, q->sample, end, st->end_ns);
	else
		s->sink.token(s->sink.ctx, q->ent, q->sample, index, o->id[k], o->logprob[k], top,
		              top ? r->n_top : 0, end, st->end_ns);
	return end;
}

/* The step's log-probabilities, of the ids behind those that it ran; the last ends the request. */
static void take_scores(struct plx_sched *s, struct plx_step *st, const struct plx_step_seq *r,
                        uint64_t now_ns)
{
	const struct plx_step_tok *t = plx_step_toks(st) + r->first_tok;
	struct plx_seq *q = &s->seq[r->slot];
	struct plx_sched_ent *e = &s->ent[q->ent];

	for (uint32_t i = 0; i < r->n_tok; i++)
		if (t[i].flags & PLX_TOKF_SCORE)
			memcpy(&q->score[q->n_ok + i + 1], &t[i].pos[2], sizeof(*q->score));
	s->stats.scored_tokens += r->n_tok;
	(void)plx_seq_take(q, r->n_tok, NULL, NULL, 0);
	if (q->n_ok < q->n_prompt)
		return;
	e->out.kind = PLX_SCHED_SCORED;
	plx_sched_ent_end(s, q->ent, PLX_SEQ_END_NONE, now_ns);
}

/* What the prompt's last tokens attended to is known: what of it goes, now or where memory is
 * short. */
static void take_seen(struct plx_sched *s, struct plx_step *st, struct plx_seq *q)
{
	struct plx_compress_result out;

	q->n_stay = plx_evict_choose(plx_step_obs(st), q->n_prompt, &s->ent[q->ent].job.evict_goal,
	                             q->keep, &out);
	q->evict_loss = out.loss;
	q->evict = out.n_removed > 0 ? PLX_SEQ_EVICT_READY : PLX_SEQ_EVICT_DONE;
	if (q->evict == PLX_SEQ_EVICT_READY && !q->evict_late)
		plx_sched_evict(s, q);
}

static void take_share(struct plx_step_share *to, const struct plx_step_share *s)
{
	if (s->n > 0 && (to->n == 0 || s->least < to->least))
		to->least = s->least;
	to->n += s->n;
	to->sum += s->sum;
	to->chunks += s->chunks;
	to->read += s->read;
}

static void seq_result(struct plx_sched *s, struct plx_step *st, uint32_t i, uint64_t now_ns)
{
	const struct plx_step_seq *r = &plx_step_seqs(st)[i];
	const struct plx_step_out *o = &plx_step_outs(st)[i];
	struct plx_seq *q = &s->seq[r->slot];
	struct plx_sched_ent *e = &s->ent[q->ent];
	enum plx_seq_end end = PLX_SEQ_END_NONE;

	if (r->flags & PLX_SEQF_SPARSE)
		take_share(&e->out.share, &plx_step_shares(st)[i]);
	plx_sched_drafts_came(s, st, r, o);
	if (q->evict == PLX_SEQ_EVICT_TOLD)
		plx_sched_evict_came(s, q);
	if (r->flags & PLX_SEQF_OBSERVE)
		take_seen(s, st, q);
	if (q->score) {
		take_scores(s, st, r, now_ns);
		return;
	}
	if (o->n_out == 0) {
		(void)plx_seq_take(q, r->n_tok, NULL, NULL, 0);
		plx_seq_publish(q, &s->prefix);
		return;
	}
	q->last_ns = st->end_ns;
	if (e->first_ns == 0) {
		e->first_ns = st->end_ns;
		plx_sched_first_came(s, e);
	}
	for (uint32_t k = 0; k < o->n_out && end == PLX_SEQ_END_NONE; k++) {
		end = id_result(s, st, i, k, k == 0 ? r->n_tok - r->n_draft : 1);
		s->stats.late_tokens += end != PLX_SEQ_END_NONE ? o->n_out - k - 1 : 0;
	}
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
	s->promised -= plx_sched_records(q->n_top) * (1 + plx_step_seqs(st)[i].n_draft);
	bool leaving = q->leaving;

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
	if (leaving && q->leaving && q->in_flight == 0)
		plx_sched_let_go(s, slot);
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
	if (s->lost_request) {
		plx_sched_leave(s, key, false);
		s->lost_request(s->move_ctx, key);
		return;
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
	plx_tier_step_came(&s->tier, step, status == 0);
	plx_sched_step_came(s, step, status == 0, now_ns);
	plx_sched_draft_came(s, step, status == 0);
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
	return s->need_reset && s->n_steps_out == 0 &&
	       (s->n_run == s->n_kept || s->hungry != PLX_KV_NONE);
}

void plx_sched_reset_done(struct plx_sched *s)
{
	plx_prefix_clear(&s->prefix);
	plx_sched_restart_all(s);
	plx_kv_end_quarantine(&s->kv);
	for (uint32_t i = 0; i < s->conf.n_slots; i++)
		s->seq[i].slot_dirty = false;
	s->need_reset = s->lost = false;
}
