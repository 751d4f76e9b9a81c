/* Admission, start, steps and ends; sched.h says the policy. */
#include "dataplane/batch/sched.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

enum ent_state { ENT_FREE, ENT_WAITING, ENT_RUNNING };

#define NONE             UINT32_MAX
#define WAIT_POOLS       8u  /* what waits may need this many times the pool */
#define PROMPT_SHARE     8u  /* 1/8 of a step is kept for prompts */
#define SMOOTH           8u  /* weight of a new measurement: 1/8 */
#define TOK_NS_LEAST_TOK 16u /* steps with fewer tokens say nothing about time a token */
#define STEP_GUESS_NS    10000000u
#define NOT_YET          UINT64_MAX

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
		s->wait[i] = (struct plx_sched_list){NONE, NONE};
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
	e->next = NONE;
	if (w->last != NONE)
		s->ent[w->last].next = key;
	else
		w->first = key;
	w->last = key;
	s->load.n_waiting++;
	s->load.waiting_tokens += e->job.n_ids;
	s->waiting_blocks += e->need_blocks;
}

static void wait_remove(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];
	struct plx_sched_list *w = &s->wait[e->priority];

	if (e->prev != NONE)
		s->ent[e->prev].next = e->next;
	else
		w->first = e->next;
	if (e->next != NONE)
		s->ent[e->next].prev = e->prev;
	else
		w->last = e->prev;
	s->load.n_waiting--;
	s->load.waiting_tokens -= e->job.n_ids;
	s->waiting_blocks -= e->need_blocks;
}

static void update_load(struct plx_sched *s)
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
		for (uint32_t k = s->wait[p].first; k != NONE; k = s->ent[k].next)
			n++;
	return n;
}

int plx_sched_add(struct plx_sched *s, uint32_t key, const struct plx_sched_job *job,
                  uint64_t now_ns, struct plx_sched_admit *out)
{
	struct plx_sched_ent *e = &s->ent[key];

	PLX_CHECK(key < s->conf.n_keys && e->state == ENT_FREE && job->tenant < PLX_SCHED_TENANTS &&
	          job->priority < PLX_SCHED_PRIORITIES);
	memset(out, 0, sizeof(*out));
	int err = size_up(s, job, e, out);

	if (err)
		return err;
	update_load(s);
	out->cached_tokens = cached_now(s, job);
	out->est_ttft_ns = est_ttft_ns(s, job->n_ids - out->cached_tokens);
	err = check_pressure(s, job, e, now_ns, out);
	if (err)
		return err;
	out->queue_position = waiting_ahead(s, job->priority);
	e->state = ENT_WAITING;
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

static void seq_leave(struct plx_sched *s, uint32_t slot)
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
		seq_leave(s, slot);
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
	e->state = ENT_FREE;
	s->sink.final(s->sink.ctx, key, f);
}

/* End a request as a whole: every sample that still runs gets `end`. */
static void ent_end(struct plx_sched *s, uint32_t key, enum plx_seq_end end, uint64_t now_ns)
{
	struct plx_sched_ent *e = &s->ent[key];

	if (e->state == ENT_WAITING)
		wait_remove(s, key);
	for (uint32_t i = 0; e->state == ENT_RUNNING && i < e->job.n_samples; i++) {
		struct plx_seq *q = &s->seq[e->slot[i]];

		if (e->out.end[i] != PLX_SEQ_END_NONE)
			continue;
		e->out.end[i] = (uint8_t)end;
		e->out.n_out[i] = q->n_out;
		seq_end(s, e->slot[i]);
	}
	ent_close(s, key, now_ns);
}

static void ent_fail(struct plx_sched *s, uint32_t key, enum plx_sched_final_kind kind, int err,
                     uint8_t cause, uint64_t now_ns)
{
	struct plx_sched_final *f = &s->ent[key].out;

	f->kind = (uint8_t)kind;
	f->err = err;
	f->cause = cause;
	ent_end(s, key, PLX_SEQ_END_NONE, now_ns);
}

/* One sample is over; the request is done when it was the last. */
static void sample_end(struct plx_sched *s, uint32_t slot, enum plx_seq_end end, uint64_t now_ns)
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
	if (s->ent[key].state != ENT_FREE)
		ent_fail(s, key, PLX_SCHED_CANCELLED, 0, cause, now_ns);
}

/* The running sequence of a sample, or NULL. */
static struct plx_seq *live_sample(struct plx_sched *s, uint32_t key, uint32_t sample)
{
	struct plx_sched_ent *e = &s->ent[key];

	if (e->state != ENT_RUNNING || sample >= e->job.n_samples ||
	    e->out.end[sample] != PLX_SEQ_END_NONE)
		return NULL;
	return &s->seq[e->slot[sample]];
}

void plx_sched_stop(struct plx_sched *s, uint32_t key, uint32_t sample, uint64_t now_ns)
{
	if (live_sample(s, key, sample))
		sample_end(s, s->ent[key].slot[sample], PLX_SEQ_END_STOP, now_ns);
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

		for (uint32_t k = s->wait[p].first; k != NONE; k = next) {
			struct plx_sched_ent *e = &s->ent[k];

			next = e->next;
			if (e->job.deadline_ns && now_ns >= e->job.deadline_ns)
				ent_fail(s, k, PLX_SCHED_REJECT, PLX_E_DEADLINE_UNMEETABLE, 0,
				         now_ns);
		}
	}
}

/* The deadline passed: what was made so far is the answer; nothing yet is a REJECT. */
static void seq_too_late(struct plx_sched *s, uint32_t key, uint64_t now_ns)
{
	struct plx_sched_ent *e = &s->ent[key];

	if (e->first_ns == 0) {
		ent_fail(s, key, PLX_SCHED_REJECT, PLX_E_DEADLINE_UNMEETABLE, 0, now_ns);
		return;
	}
	e->out.kind = PLX_SCHED_DONE;
	ent_end(s, key, PLX_SEQ_END_DEADLINE, now_ns);
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
		ent_fail(s, q->ent, PLX_SCHED_CANCELLED, 0, PLX_SCHED_SLOW, now_ns);
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
	update_load(s);
}

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
	wait_remove(s, key);
	e->state = ENT_RUNNING;
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

		for (uint32_t k = s->wait[p].first; k != NONE; k = next) {
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
	update_load(s);
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
		ent_end(s, q->ent, PLX_SEQ_END_FAULT, now_ns);
		return;
	}
	s->sink.end(s->sink.ctx, q->ent, q->sample, PLX_SEQ_END_FAULT, device_ns);
	sample_end(s, slot, PLX_SEQ_END_FAULT, now_ns);
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
		sample_end(s, r->slot, end, now_ns);
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
			seq_leave(s, slot);
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
	ent_fail(s, key, PLX_SCHED_REJECT, PLX_E_DEVICE_LOST, 0, now_ns);
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
	update_load(s);
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
		PLX_CHECK(q->state != PLX_SEQ_RUN || s->ent[q->ent].state == ENT_RUNNING);
		PLX_CHECK(q->in_flight <= s->n_steps_out);
	}
	PLX_CHECK(n_free == s->n_free_slots && n_free + s->n_run == s->conf.n_slots);
	for (uint32_t k = 0; k < s->conf.n_keys; k++)
		waiting += s->ent[k].state == ENT_WAITING;
	PLX_CHECK(waiting == s->load.n_waiting);
	PLX_CHECK(s->n_steps_out > 0 || s->promised == 0);
	check_blocks(s);
}
