/* Admission, waiting and every way to end; starts, steps and results have files of their own,
 * sched.h the policy. */
#include "dataplane/batch/sched_int.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define WAIT_POOLS    8u /* what waits may need this many times the pool */
#define STEP_GUESS_NS 10000000u

static uint32_t seq_blocks_max(const struct plx_sched_conf *c)
{
	return (c->ctx_tokens + c->block_tokens - 1) / c->block_tokens;
}

size_t plx_sched_bytes(const struct plx_sched_conf *c)
{
	size_t seq = sizeof(struct plx_seq) + 4 * ((size_t)c->ctx_tokens + 1) +
	             4 * (size_t)seq_blocks_max(c) + 128 + 2 * sizeof(uint32_t);

	return plx_kv_bytes(c->n_blocks) + plx_prefix_bytes(c->n_blocks, c->block_tokens) +
	       c->n_keys * sizeof(struct plx_sched_ent) + c->n_slots * seq + 512;
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
	if (c->n_eog > PLX_SCHED_MAX_EOG)
		return plx_diag_set(d, PLX_E_INVAL, "%u end-of-generation ids; at most %d",
		                    c->n_eog, PLX_SCHED_MAX_EOG);
	if (c->block_tokens == 0 || c->n_blocks == 0 || c->ctx_tokens < 2 || c->window == 0)
		return plx_diag_set(d, PLX_E_INVAL, "a block, pool, context or window of none");
	return 0;
}

static int take_seqs(struct plx_sched *s, struct plx_arena *a)
{
	const struct plx_sched_conf *c = &s->conf;

	for (uint32_t i = 0; i < c->n_slots; i++) {
		struct plx_seq *q = &s->seq[i];

		q->ids = plx_arena_take(a, 4 * ((size_t)c->ctx_tokens + 1), 64);
		q->block = plx_arena_take(a, 4 * (size_t)seq_blocks_max(c), 64);
		if (!q->ids || !q->block)
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
	for (uint32_t i = 0; i < PLX_SCHED_PRIORITIES; i++)
		s->wait[i] = (struct plx_sched_list){PLX_ENT_NONE, PLX_ENT_NONE};
	s->ent = plx_arena_take(a, c->n_keys * sizeof(*s->ent), 64);
	s->seq = plx_arena_take(a, c->n_slots * sizeof(*s->seq), 64);
	s->run = plx_arena_take(a, c->n_slots * sizeof(*s->run), 64);
	s->free_slot = plx_arena_take(a, c->n_slots * sizeof(*s->free_slot), 64);
	if (!s->ent || !s->seq || !s->run || !s->free_slot)
		return PLX_E_NOMEM;
	e = take_seqs(s, a);
	e = e ? e : plx_kv_init(&s->kv, a, c->n_blocks);
	return e ? e
	         : plx_prefix_init(&s->prefix, a, &s->kv, c->block_tokens, c->prefix_cache,
	                           c->secret);
}

/* ---- waiting requests ---- */

static void wait_append(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];
	struct plx_sched_list *w = &s->wait[e->priority];

	e->prev = w->last;
	e->next = PLX_ENT_NONE;
	if (w->last != PLX_ENT_NONE)
		s->ent[w->last].next = key;
	else
		w->first = key;
	w->last = key;
	s->load.n_waiting++;
	s->load.waiting_tokens += e->job.n_ids;
	s->waiting_blocks += e->need_blocks;
}

void plx_sched_wait_remove(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];
	struct plx_sched_list *w = &s->wait[e->priority];

	if (e->prev != PLX_ENT_NONE)
		s->ent[e->prev].next = e->next;
	else
		w->first = e->next;
	if (e->next != PLX_ENT_NONE)
		s->ent[e->next].prev = e->prev;
	else
		w->last = e->prev;
	s->load.n_waiting--;
	s->load.waiting_tokens -= e->job.n_ids;
	s->waiting_blocks -= e->need_blocks;
}

void plx_sched_update_load(struct plx_sched *s)
{
	uint32_t tokens = s->load.waiting_tokens, running = 0;

	for (uint32_t i = 0; i < s->n_run; i++) {
		const struct plx_seq *q = &s->seq[s->run[i]];

		if (q->state == PLX_SEQ_RUN) {
			tokens += plx_seq_prefilling(q);
			running++;
		}
	}
	s->load.queued_tokens = tokens;
	s->load.n_running = running;
}

/* Prompt blocks that may be shared: the last prompt token always runs in a block of one's own. */
static uint32_t shareable_blocks(const struct plx_sched *s, uint32_t n_ids)
{
	return (n_ids - 1) / s->conf.block_tokens;
}

static uint32_t cached_now(const struct plx_sched *s, const struct plx_sched_job *j)
{
	struct plx_prefix_at at = plx_prefix_begin(j->tenant);
	uint32_t bt = s->conf.block_tokens, n = shareable_blocks(s, j->n_ids), i = 0;

	while (i < n && plx_prefix_find(&s->prefix, &at, &j->ids[i * bt]) != PLX_KV_NONE)
		i++;
	return i * bt;
}

static uint64_t est_ttft_ns(const struct plx_sched *s, uint32_t own_tokens)
{
	uint64_t step = s->load.step_ns ? s->load.step_ns : STEP_GUESS_NS;
	uint64_t ahead = s->load.queued_tokens + own_tokens;

	if (s->load.tok_ns)
		return step + ahead * s->load.tok_ns;
	return step * (1 + ahead / s->conf.step_tokens);
}

static int refuse(struct plx_sched_admit *out, int err, const char *why)
{
	out->why = why;
	return err;
}

/* Whether the request can run at all; fills max_new and the blocks it needs. */
static int size_up(const struct plx_sched *s, const struct plx_sched_job *j,
                   struct plx_sched_ent *e, struct plx_sched_admit *out)
{
	const struct plx_sched_conf *c = &s->conf;

	if (j->n_ids == 0 || j->n_samples == 0)
		return refuse(out, PLX_E_BAD_REQUEST, "the prompt has no tokens");
	if (j->n_ids > c->max_prompt || j->n_ids >= c->ctx_tokens)
		return refuse(out, PLX_E_TOO_LARGE, "the prompt is over the limit of tokens");
	if (j->n_samples > c->n_slots || j->n_samples > c->step_seqs ||
	    j->n_samples > PLX_SCHED_MAX_SAMPLES)
		return refuse(out, PLX_E_TOO_LARGE, "more samples than can run at once");
	uint32_t limit = c->max_new, ctx_left = c->ctx_tokens - j->n_ids;

	e->max_new = j->max_new && j->max_new < limit ? j->max_new : limit;
	e->by_context = e->max_new > ctx_left;
	if (e->by_context)
		e->max_new = ctx_left;
	uint32_t shared = shareable_blocks(s, j->n_ids);

	e->shared_end = shared * c->block_tokens;
	e->max_blocks = plx_seq_blocks(j->n_ids, e->max_new, c->block_tokens);
	e->need_blocks = shared + j->n_samples * (e->max_blocks - shared);
	if (e->need_blocks > c->n_blocks)
		return refuse(out, PLX_E_TOO_LARGE,
		              "prompt and answer need more KV blocks than there are");
	return 0;
}

static int check_pressure(const struct plx_sched *s, const struct plx_sched_job *j,
                          const struct plx_sched_ent *e, uint64_t now_ns,
                          struct plx_sched_admit *out)
{
	if (j->tenant_blocks && e->need_blocks > j->tenant_blocks)
		return refuse(out, PLX_E_KV_PRESSURE, "the key's share of KV memory is too small");
	if (s->waiting_blocks + e->need_blocks > (uint64_t)WAIT_POOLS * s->conf.n_blocks)
		return refuse(out, PLX_E_KV_PRESSURE, "too much waits for KV memory");
	if (j->deadline_ns && now_ns >= j->deadline_ns)
		return refuse(out, PLX_E_DEADLINE_UNMEETABLE, "the deadline has passed");
	/* An estimate counts only once it rests on measurements. */
	if (j->deadline_ns && s->load.tok_ns && now_ns + out->est_ttft_ns > j->deadline_ns)
		return refuse(out, PLX_E_DEADLINE_UNMEETABLE,
		              "the first token is expected after the deadline");
	return 0;
}

static uint32_t waiting_ahead(const struct plx_sched *s, uint8_t priority)
{
	uint32_t n = 0;

	for (uint32_t p = priority; p < PLX_SCHED_PRIORITIES; p++)
		for (uint32_t k = s->wait[p].first; k != PLX_ENT_NONE; k = s->ent[k].next)
			n++;
	return n;
}

int plx_sched_add(struct plx_sched *s, uint32_t key, const struct plx_sched_job *job,
                  uint64_t now_ns, struct plx_sched_admit *out)
{
	struct plx_sched_ent *e = &s->ent[key];

	PLX_CHECK(key < s->conf.n_keys && e->state == PLX_ENT_FREE &&
	          job->tenant < PLX_SCHED_TENANTS && job->priority < PLX_SCHED_PRIORITIES);
	memset(out, 0, sizeof(*out));
	int err = size_up(s, job, e, out);

	if (err)
		return err;
	plx_sched_update_load(s);
	out->cached_tokens = cached_now(s, job);
	out->est_ttft_ns = est_ttft_ns(s, job->n_ids - out->cached_tokens);
	err = check_pressure(s, job, e, now_ns, out);
	if (err)
		return err;
	out->queue_position = waiting_ahead(s, job->priority);
	e->state = PLX_ENT_WAITING;
	e->priority = job->priority;
	e->job = *job;
	e->n_live = 0;
	e->tenant_held = 0;
	e->admit_ns = now_ns;
	e->start_ns = e->first_ns = 0;
	memset(&e->out, 0, sizeof(e->out));
	wait_append(s, key);
	return 0;
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
	plx_seq_release(&s->seq[slot], &s->prefix);
	run_remove(s, slot);
	s->free_slot[s->n_free_slots++] = slot;
}

/* From now on nothing of the sequence is wanted. */
static void seq_end(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	q->state = PLX_SEQ_DRAIN;
	if (q->in_flight == 0)
		plx_sched_seq_leave(s, slot);
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
	s->tenant_held[e->job.tenant] -= e->tenant_held;
	e->state = PLX_ENT_FREE;
	s->sink.final(s->sink.ctx, key, f);
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
		e->out.end[i] = (uint8_t)end;
		e->out.n_out[i] = q->n_out;
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

	e->out.end[q->sample] = (uint8_t)end;
	e->out.n_out[q->sample] = q->n_out;
	seq_end(s, slot);
	if (--e->n_live > 0)
		return;
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
	for (uint32_t p = 0; p < PLX_SCHED_PRIORITIES; p++) {
		uint32_t next;

		for (uint32_t k = s->wait[p].first; k != PLX_ENT_NONE; k = next) {
			struct plx_sched_ent *e = &s->ent[k];

			next = e->next;
			if (e->job.deadline_ns && now_ns >= e->job.deadline_ns)
				plx_sched_ent_fail(s, k, PLX_SCHED_REJECT,
				                   PLX_E_DEADLINE_UNMEETABLE, 0, now_ns);
		}
	}
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
	bool at_window = q->n_out >= q->window && q->n_out < q->max_new;

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
