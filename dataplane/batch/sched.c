/* Waiting and every way to end; admission, time, starts, steps and results have files of their own,
 * sched.h the policy. */
#include "dataplane/batch/move.h"
#include "dataplane/batch/sched_int.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

static uint32_t seq_blocks_max(const struct plx_sched_conf *c)
{
	return (c->ctx_tokens + c->block_tokens - 1) / c->block_tokens;
}

/* Ids of the longest text: what may go beyond the context ends by the limits alone. */
static uint32_t text_max(const struct plx_sched_conf *c)
{
	uint32_t most = c->max_prompt + c->max_new;

	return c->can_shift && most > c->ctx_tokens ? most : c->ctx_tokens;
}

static size_t keep_bytes(const struct plx_sched_conf *c)
{
	return c->can_evict ? ((size_t)c->ctx_tokens + 63) / 64 * 8 : 8;
}

size_t plx_sched_bytes(const struct plx_sched_conf *c)
{
	size_t seq = sizeof(struct plx_seq) + 4 * ((size_t)text_max(c) + 1) +
	             4 * (size_t)seq_blocks_max(c) + keep_bytes(c) + 192 + 2 * sizeof(uint32_t);

	return plx_kv_bytes(c->n_blocks) +
	       plx_prefix_bytes(c->n_blocks + c->n_host_blocks, c->block_tokens) +
	       plx_tier_bytes(c->n_blocks, c->n_host_blocks) +
	       c->n_keys * sizeof(struct plx_sched_ent) + c->n_slots * seq +
	       2 * plx_order_bytes(c->n_keys) + plx_fair_bytes(c->n_keys) +
	       plx_sched_draft_bytes(c) + 512;
}

static int check_conf(const struct plx_sched_conf *c, struct plx_diag *d)
{
	if (c->n_slots == 0 || c->n_slots > UINT16_MAX)
		return plx_diag_set(d, PLX_E_INVAL, "%u slots; give 1 to %d", c->n_slots,
		                    UINT16_MAX);
	if (c->step_seqs == 0 || c->step_seqs > c->n_slots || c->step_tokens < 2)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "steps of %u sequences and %u tokens with %u slots",
		                    c->step_seqs, c->step_tokens, c->n_slots);
	if (c->steps_in_flight == 0 || c->steps_in_flight > PLX_SCHED_MAX_STEPS)
		return plx_diag_set(d, PLX_E_INVAL, "%u steps in flight; give 1 to %d",
		                    c->steps_in_flight, PLX_SCHED_MAX_STEPS);
	if (c->n_eog > PLX_SCHED_MAX_EOG)
		return plx_diag_set(d, PLX_E_INVAL, "%u end-of-generation ids; at most %d",
		                    c->n_eog, PLX_SCHED_MAX_EOG);
	if (c->block_tokens == 0 || c->n_blocks == 0 || c->ctx_tokens < 2 || c->window == 0)
		return plx_diag_set(d, PLX_E_INVAL, "a block, pool, context or window of none");
	if (c->n_host_blocks > 0 && !c->prefix_cache)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "%u host blocks, but no prefix cache that would use them",
		                    c->n_host_blocks);
	return 0;
}

static int take_seqs(struct plx_sched *s, struct plx_arena *a)
{
	const struct plx_sched_conf *c = &s->conf;

	for (uint32_t i = 0; i < c->n_slots; i++) {
		struct plx_seq *q = &s->seq[i];

		q->ids = plx_arena_take(a, 4 * ((size_t)text_max(c) + 1), 64);
		q->block = plx_arena_take(a, 4 * (size_t)seq_blocks_max(c), 64);
		q->keep = plx_arena_take(a, keep_bytes(c), 64);
		if (!q->ids || !q->block || !q->keep)
			return PLX_E_NOMEM;
		s->free_slot[i] = c->n_slots - 1 - i;
	}
	s->n_free_slots = c->n_slots;
	return 0;
}

int plx_sched_init(struct plx_sched *s, struct plx_arena *a, const struct plx_sched_conf *c,
                   const struct plx_sched_sink *sink, struct plx_diag *d)
{
	int e = check_conf(c, d);

	if (e)
		return e;
	memset(s, 0, sizeof(*s));
	s->conf = *c;
	s->sink = *sink;
	s->next_step_id = 1;
	s->pace.truth[0] = s->pace.truth[1] = 1;
	s->shift = plx_shift_of(c->ctx_tokens, c->block_tokens);
	s->hungry = s->head = PLX_KV_NONE;
	plx_cost_init(&s->cost);
	s->ent = plx_arena_take(a, c->n_keys * sizeof(*s->ent), 64);
	s->seq = plx_arena_take(a, c->n_slots * sizeof(*s->seq), 64);
	s->run = plx_arena_take(a, c->n_slots * sizeof(*s->run), 64);
	s->free_slot = plx_arena_take(a, c->n_slots * sizeof(*s->free_slot), 64);
	if (!s->ent || !s->seq || !s->run || !s->free_slot)
		return PLX_E_NOMEM;
	e = take_seqs(s, a);
	e = e ? e : plx_order_init(&s->wait, a, c->n_keys);
	e = e ? e : plx_order_init(&s->prefill, a, c->n_keys);
	e = e ? e : plx_fair_init(&s->fair, a, c->n_keys);
	e = e ? e : plx_kv_init(&s->kv, a, c->n_blocks);
	e = e ? e
	      : plx_prefix_init(&s->prefix, a, &s->kv, c->n_host_blocks, c->block_tokens,
	                        c->prefix_cache, c->secret);
	e = e ? e : plx_tier_init(&s->tier, a, c->n_blocks, c->n_host_blocks);
	e = e ? e : plx_sched_draft_init(s, a);
	if (e == 0)
		plx_prefix_use_tier(&s->prefix, &s->tier);
	return e;
}

void plx_sched_set_copy(struct plx_sched *s, void *ctx,
                        void (*copy)(void *ctx, const struct plx_block_copy *pairs, uint32_t n))
{
	s->tier.ctx = ctx;
	s->tier.copy = copy;
}

/* ---- waiting requests ---- */

void plx_sched_wait_add(struct plx_sched *s, uint32_t key, uint32_t cached_tokens)
{
	struct plx_sched_ent *e = &s->ent[key];

	plx_order_add(&s->wait, key, e->rank, e->job.n_ids - cached_tokens, e->job.deadline_ns);
	s->load.n_waiting++;
	s->load.waiting_tokens += e->job.n_ids;
	s->tenant_waits[e->job.tenant] += e->need_blocks;
}

void plx_sched_wait_remove(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];

	plx_order_remove(&s->wait, key);
	s->load.n_waiting--;
	s->load.waiting_tokens -= e->job.n_ids;
	s->tenant_waits[e->job.tenant] -= e->need_blocks;
}

void plx_sched_prefill_update(struct plx_sched *s, uint32_t key)
{
	const struct plx_sched_ent *e = &s->ent[key];
	uint32_t left = 0;

	for (uint32_t i = 0; e->state == PLX_ENT_RUNNING && i < e->job.n_samples; i++)
		if (e->out.end[i] == PLX_SEQ_END_NONE)
			left += plx_seq_prefilling(&s->seq[e->slot[i]]);
	if (plx_order_has(&s->prefill, key)) {
		if (left > 0)
			plx_order_tokens(&s->prefill, key, left);
		else
			plx_order_remove(&s->prefill, key);
	} else if (left > 0) {
		plx_order_add(&s->prefill, key, e->rank, left, e->job.deadline_ns);
	}
}

void plx_sched_update_load(struct plx_sched *s)
{
	struct plx_sched_view v = {.n_seq = 0};

	for (uint32_t i = 0; i < s->n_run; i++) {
		const struct plx_seq *q = &s->seq[s->run[i]];

		if (q->state != PLX_SEQ_RUN)
			continue;
		v.n_seq++;
		if (q->itl_ns && (v.itl_ns == 0 || q->itl_ns < v.itl_ns))
			v.itl_ns = q->itl_ns;
		if (plx_seq_prefilling(q) > 0)
			continue;
		v.work.decodes++;
		v.work.context += plx_seq_pos(q);
	}
	s->view = v;
	s->load.n_running = v.n_seq;
	s->load.queued_tokens = s->load.waiting_tokens + (uint32_t)plx_order_sum(&s->prefill);
}

/* ---- the end of sequences and requests ---- */

static void run_remove(struct plx_sched *s, uint32_t slot)
{
	uint32_t i = 0;

	while (s->run[i] != slot)
		i++;
	memmove(&s->run[i], &s->run[i + 1], (s->n_run - i - 1) * sizeof(*s->run));
	s->n_run--;
}

void plx_sched_seq_leave(struct plx_sched *s, uint32_t slot)
{
	plx_sched_forget(s, slot);
	plx_sched_draft_end(s, slot);
	if (s->seq[slot].kept) {
		if (!s->seq[slot].kept_kv)
			plx_sched_kept_drop(s, slot);
		return;
	}
	plx_seq_release(&s->seq[slot], &s->prefix);
	run_remove(s, slot);
	s->free_slot[s->n_free_slots++] = slot;
}

/* From now on nothing of the sequence is wanted. */
static void seq_end(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	q->state = PLX_SEQ_DRAIN;
	q->leaving = false;
	plx_sched_will_leave(s, slot);
	if (q->in_flight == 0)
		plx_sched_seq_leave(s, slot);
}

/* The session pays for what it got: the answers too, and no prompt that never ran. */
static void settle_share(struct plx_sched *s, const struct plx_sched_ent *e)
{
	int64_t tokens = e->start_ns ? 0 : -(int64_t)e->job.n_ids;

	for (uint32_t i = 0; i < e->job.n_samples; i++)
		tokens += e->out.n_out[i];
	plx_fair_charge(&s->fair, e->flow, tokens);
	plx_fair_leave(&s->fair, e->flow);
}

static void learn_answer(struct plx_sched *s, uint32_t n_out)
{
	double *mean = &s->pace.answer;

	*mean = *mean > 0 ? *mean + (n_out - *mean) / 64 : n_out;
}

void plx_sched_ent_free(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];

	s->tenant_held[e->job.tenant] -= e->tenant_held;
	settle_share(s, e);
	e->state = PLX_ENT_FREE;
	plx_sched_prefill_update(s, key);
}

static void ent_close(struct plx_sched *s, uint32_t key, uint64_t now_ns)
{
	struct plx_sched_ent *e = &s->ent[key];
	struct plx_sched_final *f = &e->out;

	if (e->start_ns)
		f->queue_ns = e->start_ns - e->admit_ns;
	if (e->first_ns) {
		f->prefill_ns = e->first_ns > e->start_ns ? e->first_ns - e->start_ns : 0;
		f->decode_ns = now_ns > e->first_ns ? now_ns - e->first_ns : 0;
	}
	plx_sched_ent_free(s, key);
	s->sink.final(s->sink.ctx, key, f);
}

/* What a sample says in the end. */
static void note_end(struct plx_sched_ent *e, const struct plx_seq *q, enum plx_seq_end end)
{
	uint32_t n = q->n_prompt + q->n_out;

	e->out.end[q->sample] = (uint8_t)end;
	e->out.n_out[q->sample] = q->n_out;
	e->out.n_left[q->sample] = q->shift && n > 1 ? plx_shift_left(q->shift, n - 2) : 0;
}

/* End a request as a whole: every sample that still runs gets `end`. */
void plx_sched_ent_end(struct plx_sched *s, uint32_t key, enum plx_seq_end end, uint64_t now_ns)
{
	struct plx_sched_ent *e = &s->ent[key];

	if (e->state == PLX_ENT_WAITING)
		plx_sched_wait_remove(s, key);
	for (uint32_t i = 0; e->state == PLX_ENT_RUNNING && i < e->job.n_samples; i++) {
		struct plx_seq *q = &s->seq[e->slot[i]];

		if (e->out.end[i] != PLX_SEQ_END_NONE)
			continue;
		note_end(e, q, end);
		seq_end(s, e->slot[i]);
	}
	ent_close(s, key, now_ns);
}

void plx_sched_ent_fail(struct plx_sched *s, uint32_t key, enum plx_sched_final_kind kind, int err,
                        uint8_t cause, uint64_t now_ns)
{
	struct plx_sched_final *f = &s->ent[key].out;

	f->kind = (uint8_t)kind;
	f->err = err;
	f->cause = cause;
	plx_sched_ent_end(s, key, PLX_SEQ_END_NONE, now_ns);
}

/* One sample is over; the request is done when it was the last. */
void plx_sched_sample_end(struct plx_sched *s, uint32_t slot, enum plx_seq_end end, uint64_t now_ns)
{
	struct plx_seq *q = &s->seq[slot];
	uint32_t key = q->ent;
	struct plx_sched_ent *e = &s->ent[key];

	note_end(e, q, end);
	learn_answer(s, q->n_out);
	seq_end(s, slot);
	if (--e->n_live > 0) {
		plx_sched_lead(s, key);
		plx_sched_prefill_update(s, key);
		return;
	}
	e->out.kind = PLX_SCHED_DONE;
	ent_close(s, key, now_ns);
}

void plx_sched_cancel(struct plx_sched *s, uint32_t key, uint8_t cause, uint64_t now_ns)
{
	if (s->ent[key].state != PLX_ENT_FREE)
		plx_sched_ent_fail(s, key, PLX_SCHED_CANCELLED, 0, cause, now_ns);
}

void plx_sched_reject(struct plx_sched *s, uint32_t key, int err, uint64_t now_ns)
{
	if (s->ent[key].state != PLX_ENT_FREE)
		plx_sched_ent_fail(s, key, PLX_SCHED_REJECT, err, 0, now_ns);
}

/* The running sequence of a sample, or NULL. */
static struct plx_seq *live_sample(struct plx_sched *s, uint32_t key, uint32_t sample)
{
	struct plx_sched_ent *e = &s->ent[key];

	if (e->state != PLX_ENT_RUNNING || sample >= e->job.n_samples ||
	    e->out.end[sample] != PLX_SEQ_END_NONE)
		return NULL;
	return &s->seq[e->slot[sample]];
}

void plx_sched_stop(struct plx_sched *s, uint32_t key, uint32_t sample, uint64_t now_ns)
{
	if (live_sample(s, key, sample))
		plx_sched_sample_end(s, s->ent[key].slot[sample], PLX_SEQ_END_STOP, now_ns);
}

void plx_sched_window(struct plx_sched *s, uint32_t key, uint32_t sample, uint32_t next)
{
	struct plx_seq *q = live_sample(s, key, sample);

	if (q && next > q->window) {
		q->window = next;
		q->paused_ns = 0;
	}
}

static void tick_waiting(struct plx_sched *s, uint64_t now_ns)
{
	uint32_t k;

	while ((k = plx_order_overdue(&s->wait, now_ns)) != PLX_QUEUE_NONE)
		plx_sched_ent_fail(s, k, PLX_SCHED_REJECT, PLX_E_DEADLINE_UNMEETABLE, 0, now_ns);
}

/* The deadline passed: what was made so far is the answer; nothing yet is a REJECT. */
static void seq_too_late(struct plx_sched *s, uint32_t key, uint64_t now_ns)
{
	struct plx_sched_ent *e = &s->ent[key];

	if (e->first_ns == 0) {
		plx_sched_ent_fail(s, key, PLX_SCHED_REJECT, PLX_E_DEADLINE_UNMEETABLE, 0, now_ns);
		return;
	}
	e->out.kind = PLX_SCHED_DONE;
	plx_sched_ent_end(s, key, PLX_SEQ_END_DEADLINE, now_ns);
}

/* True when the sequence's request was ended, which changes s->run. */
static bool tick_seq(struct plx_sched *s, struct plx_seq *q, uint64_t now_ns)
{
	uint64_t deadline = s->ent[q->ent].job.deadline_ns;

	if (deadline && now_ns >= deadline) {
		seq_too_late(s, q->ent, now_ns);
		return true;
	}
	bool at_window =
	    q->n_out >= q->window && q->n_out < q->max_new && !s->ent[q->ent].job.one_id;

	if (at_window && q->paused_ns == 0) {
		q->paused_ns = now_ns;
		s->stats.paused++;
	}
	if (at_window && now_ns - q->paused_ns >= s->conf.pause_ns) {
		plx_sched_ent_fail(s, q->ent, PLX_SCHED_CANCELLED, 0, PLX_SCHED_SLOW, now_ns);
		return true;
	}
	return false;
}

void plx_sched_tick(struct plx_sched *s, uint64_t now_ns)
{
	tick_waiting(s, now_ns);
	for (uint32_t i = 0; i < s->n_run;) {
		struct plx_seq *q = &s->seq[s->run[i]];

		if (q->state == PLX_SEQ_RUN && tick_seq(s, q, now_ns))
			i = 0; /* each time a request fewer runs, so this ends */
		else
			i++;
	}
	plx_sched_update_load(s);
}
