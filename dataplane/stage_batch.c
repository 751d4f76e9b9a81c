/* Rings around the scheduler; see stage_batch.h. */
#include "dataplane/stage_batch.h"

#include <string.h>

#include "dataplane/batch/compress.h"
#include "dataplane/probe.h"
#include "dataplane/stage_batch_int.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/tick.h"

#define TICK_NS       PLX_NS_PER_MS
#define RESET_WAIT_NS PLX_NS_PER_S
#define NOTES_A_TURN  256u
#define REQS_A_TURN   32u
#define STALL_TIMES   20u /* as long as expected */
#define PROBE_STEPS   32u
#define AWAY_NS       PLX_NS_PER_S
#define AWAY_MOST_NS  (60 * PLX_NS_PER_S)

static_assert(PLX_SEQ_END_EOS == (int)PLX_FINISH_EOS && PLX_SEQ_END_STOP == (int)PLX_FINISH_STOP,
              "one numbering");
static_assert(PLX_SEQ_END_LENGTH == (int)PLX_FINISH_LENGTH &&
                  PLX_SEQ_END_CONTEXT == (int)PLX_FINISH_CONTEXT,
              "one numbering");
static_assert(PLX_SEQ_END_DEADLINE == (int)PLX_FINISH_DEADLINE &&
                  PLX_SEQ_END_FAULT == (int)PLX_FINISH_FAULT,
              "one numbering");
static_assert(PLX_SCHED_SLOW == (int)PLX_CANCEL_SLOW, "one numbering");
static_assert(PLX_SCHED_DONE == (int)PLX_FINAL_DONE && PLX_SCHED_REJECT == (int)PLX_FINAL_REJECT &&
                  PLX_SCHED_CANCELLED == (int)PLX_FINAL_CANCELLED,
              "one numbering");
/* ---- start ---- */

static void sink_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                       float logprob, const struct plx_top *top, uint32_t n_top,
                       enum plx_seq_end end, uint64_t device_ns);
static void sink_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                     uint64_t device_ns);
static void sink_final(void *ctx, uint32_t key, const struct plx_sched_final *f);
static void give_copies(void *ctx, uint32_t dev, const struct plx_block_copy *pairs, uint32_t n);
static void give_imports(void *ctx, uint32_t dev, uint32_t from, const struct plx_block_copy *pairs,
                         uint32_t n);

/* What the fleet is made of. */
static struct plx_fleet_conf fleet_conf(const struct plx_stage_batch *s)
{
	const struct plx_config *cfg = s->links->cfg;
	struct plx_fleet_conf f = {.n_dev = s->n_dev,
	                           .n_samples = cfg->lim.n_samples,
	                           .stall_times = STALL_TIMES,
	                           .stall_ns = cfg->tmr.stall_ms * PLX_NS_PER_MS,
	                           .probe_steps = PROBE_STEPS,
	                           .probe_keys = 1,
	                           .away_ns = AWAY_NS,
	                           .away_most_ns = AWAY_MOST_NS,
	                           .forget_ns = AWAY_MOST_NS,
	                           .retry_ns = RESET_WAIT_NS};

	for (uint32_t i = 0; i < f.n_dev; i++)
		f.dev[i] =
		    (struct plx_fleet_dev_conf){.role = (uint8_t)s->lane[i].dev.role,
		                                .kind = s->lane[i].dev.kind,
		                                .layout = s->lane[i].dev.layout,
		                                .sched = plx_batch_sched_conf(cfg, &s->model)};
	return f;
}

static int fleet_init(struct plx_stage_batch *s, struct plx_arena *a, struct plx_diag *d)
{
	struct plx_sched_sink sink = {s, sink_token, sink_end, sink_final};
	bool copies = s->model.caps & PLX_CAP_COPY;
	struct plx_fleet_io io = {s, copies ? give_copies : NULL, copies ? give_imports : NULL};
	struct plx_fleet_conf f = fleet_conf(s);

	return plx_fleet_init(&s->fleet, a, &f, &sink, &io, d);
}

/* The device behind the others drafts for the first. */
static int draft_init(struct plx_stage_batch *s, struct plx_arena *a, struct plx_diag *d)
{
	struct plx_dmodel_conf c = plx_batch_dmodel_conf(&s->model.draft_lim, s->model.draft_kind);

	if (!s->has_draft)
		return 0;
	c.n_top = s->fleet.dev[0].sched.conf.tree_branches > 0 ? PLX_DMODEL_TOP : 0;
	if (!(s->model.caps & PLX_CAP_DRAFT))
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "the device can't verify drafts (DRAFT), and another drafts");
	int e = plx_dmodel_init(&s->draft, a, &c);
	struct plx_drafter by = plx_dmodel_drafter(&s->draft);

	if (e)
		return plx_diag_set(d, e, "the batch stage's arena is too small");
	return plx_sched_add_drafter(&s->fleet.dev[0].sched, &by);
}

int plx_stage_batch_init(struct plx_stage_batch *s, struct plx_links *links, struct plx_arena *a,
                         const struct plx_batch_dev *dev, const struct plx_batch_model *model,
                         struct plx_page *page, struct plx_diag *d)
{
	const struct plx_config *cfg = links->cfg;
	uint32_t n = cfg->lim.n_requests;

	memset(s, 0, sizeof(*s));
	if (!(model->caps & PLX_CAP_LAST))
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "the device can't feed back what it sampled (LAST)");
	if (cfg->lim.steps_in_flight > PLX_BATCH_MAX_STEPS)
		return plx_diag_set(d, PLX_E_LIMIT, "limits.steps_in_flight is %u; give at most %d",
		                    cfg->lim.steps_in_flight, PLX_BATCH_MAX_STEPS);
	s->links = links;
	s->page = page;
	s->model = *model;
	s->has_draft = model->draft_lim.n_slots > 0;
	s->n_dev = links->n_accel - s->has_draft;
	for (uint32_t i = 0; i < links->n_accel; i++) {
		struct plx_batch_lane *l = &s->lane[i];

		l->dev = dev[i];
		for (; l->n_free < cfg->lim.steps_in_flight; l->n_free++)
			l->free_step[l->n_free] = l->n_free;
	}
	s->live = plx_arena_take(a, n * sizeof(*s->live), 64);
	s->place = plx_arena_take(a, n * sizeof(*s->place), 64);
	s->last_ns = plx_arena_take(a, n * sizeof(*s->last_ns), 64);
	s->said_ns = plx_arena_take(a, n * sizeof(*s->said_ns), 64);
	s->scored = plx_arena_take(a, n * sizeof(*s->scored), 64);
	s->have = plx_arena_take(a, (size_t)n * cfg->lim.n_samples * sizeof(*s->have), 64);
	if (!s->live || !s->place || !s->last_ns || !s->said_ns || !s->have || !s->scored)
		return plx_diag_set(d, PLX_E_NOMEM, "the batch stage's arena is too small");
	int e = fleet_init(s, a, d);

	return e ? e : draft_init(s, a, d);
}

/* ---- towards tok ---- */

static void push_out(struct plx_stage_batch *s, const struct plx_out *o)
{
	/* fill left room for all that steps can bring, and two records a request beside. */
	PLX_CHECK(plx_ring_out_push(&s->links->batch_tok, o));
}

static void push_tops(struct plx_stage_batch *s, uint32_t key, uint16_t sample,
                      const struct plx_top *top, uint32_t n_top)
{
	for (uint32_t i = 0; i < n_top; i += 3) {
		struct plx_out o = {.kind = PLX_OUT_TOP, .sample = sample, .req_idx = key};
		uint32_t n = n_top - i < 3 ? n_top - i : 3;

		memcpy(o.top, &top[i], n * sizeof(*top));
		push_out(s, &o);
	}
}

static void probe_first(const struct plx_req *r, uint64_t device_ns)
{
	uint64_t ns = device_ns > r->whole_ns ? device_ns - r->whole_ns : 0;

	PLX_PROBE3(first_token, r->session_id, r->req_id, ns);
}

static void measure(struct plx_stage_batch *s, uint32_t key, uint64_t device_ns)
{
	uint64_t *last = &s->last_ns[key];
	uint64_t begin = *last ? *last : s->links->req[key].batch_ns;
	enum plx_hist_idx h = *last ? PLX_H_ITL : PLX_H_TTFT;

	if (device_ns > begin)
		plx_hist_add(&s->page->hist[h], device_ns - begin);
	if (*last == 0 && s->said_ns[key] != 0)
		plx_hist_add(&s->page->hist[PLX_H_TTFT_OFF], device_ns > s->said_ns[key]
		                                                 ? device_ns - s->said_ns[key]
		                                                 : s->said_ns[key] - device_ns);
	*last = device_ns;
}

static void sink_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                       float logprob, const struct plx_top *top, uint32_t n_top,
                       enum plx_seq_end end, uint64_t device_ns)
{
	struct plx_stage_batch *s = ctx;
	struct plx_out o = {.kind = PLX_OUT_TOKEN,
	                    .end = (uint8_t)end,
	                    .sample = sample,
	                    .req_idx = key,
	                    .index = index,
	                    .id = id,
	                    .logprob = logprob,
	                    .n_top = n_top,
	                    .ns = device_ns};

	push_out(s, &o);
	push_tops(s, key, sample, top, n_top);
	plx_req_trace(s->page, &s->links->req[key],
	              (struct plx_trace_ev){.ns = plx_tick_ns(),
	                                    .kind = PLX_TR_TOKEN,
	                                    .sample = sample,
	                                    .n = 1,
	                                    .index = index,
	                                    .a = device_ns});
	if (sample == 0 && index == 0)
		probe_first(&s->links->req[key], device_ns);
	if (sample == 0)
		measure(s, key, device_ns);
}

static void sink_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct plx_out o = {.kind = PLX_OUT_END,
	                    .end = (uint8_t)end,
	                    .sample = sample,
	                    .req_idx = key,
	                    .ns = device_ns};

	push_out(ctx, &o);
}

/* The request goes back; what is in res is final but for what tok adds. */
static void give_back(struct plx_stage_batch *s, struct plx_req *r)
{
	struct plx_out o = {.kind = PLX_OUT_FINAL, .req_idx = r->idx};

	if (r->res.kind == PLX_FINAL_REJECT)
		plx_count_reject(s->page, r->res.err);
	else
		plx_count(s->page,
		          r->res.kind == PLX_FINAL_DONE ? PLX_M_REQ_DONE : PLX_M_REQ_CANCELLED, 1);
	plx_req_trace(s->page, r,
	              (struct plx_trace_ev){.ns = plx_tick_ns(),
	                                    .kind = PLX_TR_REQ_END,
	                                    .n = r->res.kind,
	                                    .index = plx_err_wire(r->res.err)});
	push_out(s, &o);
}

static void live_remove(struct plx_stage_batch *s, uint32_t key)
{
	uint32_t last = s->live[--s->n_live];

	s->live[s->place[key]] = last;
	s->place[last] = s->place[key];
}

static void sink_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct plx_stage_batch *s = ctx;
	struct plx_req *r = &s->links->req[key];
	struct plx_result *res = &r->res;

	live_remove(s, key);
	if (f->kind == PLX_SCHED_SCORED) {
		s->scored[s->n_scored++] = key;
		return;
	}
	if (f->kind == PLX_SCHED_REJECT)
		plx_req_reject(s->links, r, f->err, NULL);
	res->kind = f->kind;
	res->cause = f->cause;
	res->numeric_kind = plx_batch_sparse_kind(s, r, plx_batch_kind(s, r, f->device));
	res->sparse = plx_batch_share(&f->share);
	res->kind_changed = f->kind_changed;
	res->cached_tokens = f->cached_tokens < r->n_ids ? f->cached_tokens : r->n_ids;
	res->compress.n_evicted = f->n_evicted;
	/* Of what was left, that share went. */
	res->compress.loss += (1 - res->compress.loss) * f->evict_loss;
	res->ns[PLX_NS_QUEUE] = f->queue_ns;
	res->ns[PLX_NS_PREFILL] = f->prefill_ns;
	res->ns[PLX_NS_DECODE] = f->decode_ns;
	for (uint32_t i = 0; i < plx_req_runs(&r->view); i++) {
		res->sample[i] =
		    (struct plx_msg_done_sample){.n_tokens = f->n_out[i], .reason = f->end[i]};
		plx_done_left_set(&res->sample[i], f->n_left[i]);
	}
	if (f->queue_ns)
		plx_hist_add(&s->page->hist[PLX_H_QUEUE], f->queue_ns);
	if (f->prefill_ns)
		plx_hist_add(&s->page->hist[PLX_H_PREFILL], f->prefill_ns);
	if (f->decode_ns)
		plx_hist_add(&s->page->hist[PLX_H_DECODE], f->decode_ns);
	give_back(s, r);
}

/* ---- new requests ---- */

static void accept(struct plx_stage_batch *s, const struct plx_req *r,
                   const struct plx_sched_admit *a)
{
	uint64_t us = a->est_ttft_ns / PLX_NS_PER_US;
	struct plx_out o = {
	    .kind = PLX_OUT_ACCEPT,
	    .req_idx = r->idx,
	    .index = a->queue_position,
	    .n_top = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us,
	    .id = (int32_t)(a->cached_tokens < r->n_ids ? a->cached_tokens : r->n_ids)};

	plx_count(s->page, PLX_M_REQ_ACCEPTED, 1);
	plx_req_trace(s->page, r,
	              (struct plx_trace_ev){.ns = plx_tick_ns(),
	                                    .kind = PLX_TR_REQ_ACCEPTED,
	                                    .n = a->cached_tokens,
	                                    .index = a->queue_position,
	                                    .a = a->est_ttft_ns});
	push_out(s, &o);
}

static void cancelled(struct plx_stage_batch *s, struct plx_req *r, uint8_t cause)
{
	r->res.kind = PLX_FINAL_CANCELLED;
	r->res.cause = cause;
	give_back(s, r);
}

/* Why the request has to end now: 0 or enum plx_cancel_cause. C2. */
static uint8_t cancel_cause(const struct plx_stage_batch *s, const struct plx_req *r)
{
	if (atomic_load_explicit(&s->links->drain, memory_order_relaxed) >= 2)
		return PLX_CANCEL_DRAIN;
	return (uint8_t)atomic_load_explicit(&r->cancel, memory_order_relaxed);
}

static void live_add(struct plx_stage_batch *s, uint32_t key)
{
	s->place[key] = s->n_live;
	s->live[s->n_live++] = key;
}

static void refused(struct plx_stage_batch *s, struct plx_req *r, int err,
                    const struct plx_sched_admit *admit)
{
	plx_req_reject(s->links, r, err, admit->why);
	r->res.retry_after_us = plx_batch_retry_us(admit->retry_ns);
	give_back(s, r);
}

static void take_request(struct plx_stage_batch *s, struct plx_req *r)
{
	struct plx_sched_admit admit = {0};
	const char *why;
	uint8_t cause = cancel_cause(s, r);
	bool scores = (r->view.compress.how & PLX_COMPRESS_PROMPT) && r->n_ids > 1;

	r->batch_ns = s->now_ns;
	plx_req_trace(
	    s->page, r,
	    (struct plx_trace_ev){.ns = plx_tick_ns(), .kind = PLX_TR_REQ_TAKEN, .n = r->n_ids});
	r->res.prompt_tokens = r->n_ids;
	if (cause) {
		cancelled(s, r, cause);
		return;
	}
	struct plx_sched_job job = scores ? plx_batch_score_job(s, r) : plx_batch_job(s, r);

	job.have = scores ? NULL : plx_batch_have(s, r);
	int e = plx_batch_check(s, r, &why);

	if (e) {
		plx_req_reject(s->links, r, e, why);
		give_back(s, r);
		return;
	}
	e = plx_fleet_add(&s->fleet, r->idx, &job, s->now_ns, &admit);
	if (e) {
		refused(s, r, e, &admit);
		return;
	}
	s->last_ns[r->idx] = 0;
	const struct plx_sched *sched = &s->fleet.dev[s->fleet.ent[r->idx].dev].sched;
	bool judged = sched->ent[r->idx].raw_ns && !scores;

	s->said_ns[r->idx] = judged ? s->now_ns + admit.est_ttft_ns : 0;
	live_add(s, r->idx);
	accept(s, r, &admit);
}

/* A prompt was scored: what says least of it goes, the rest is run. */
static void take_scored(struct plx_stage_batch *s, struct plx_req *r)
{
	const struct plx_req_compress *c = &r->view.compress;
	struct plx_compress_goal goal = plx_batch_goal(c);
	struct plx_compress_result out;
	struct plx_sched_admit admit = {0};
	uint8_t cause = cancel_cause(s, r);

	if (cause) {
		cancelled(s, r, cause);
		return;
	}
	(void)plx_compress_prune(r->ids, r->mark, r->score, r->n_ids, &goal, &out);
	r->res.compress.n_pruned = out.n_removed;
	r->res.compress.loss = out.loss;
	plx_count(s->page, PLX_M_BATCH_PRUNED, out.n_removed);
	struct plx_sched_job job = plx_batch_job(s, r);

	job.have = plx_batch_have(s, r);
	job.since_ns = r->batch_ns;
	int e = plx_fleet_add(&s->fleet, r->idx, &job, s->now_ns, &admit);

	if (e)
		refused(s, r, e, &admit);
	else
		live_add(s, r->idx);
}

static void take_all_scored(struct plx_stage_batch *s)
{
	while (s->n_scored > 0)
		take_scored(s, &s->links->req[s->scored[--s->n_scored]]);
}

static uint32_t take_requests(struct plx_stage_batch *s)
{
	struct plx_req *r;
	uint32_t n = 0;

	for (; n < REQS_A_TURN && plx_ring_req_pop(&s->links->tok_req, &r); n++)
		take_request(s, r);
	return n;
}

/* ---- notices, cancels, deadlines ---- */

static bool is_live(const struct plx_stage_batch *s, uint32_t key)
{
	uint32_t at = s->place[key];

	return at < s->n_live && s->live[at] == key;
}

static void take_note(struct plx_stage_batch *s, const struct plx_note *n)
{
	/* Only a live request's gen may be read: io changes it when a place is taken anew. */
	if (!is_live(s, n->req_idx) || s->links->req[n->req_idx].gen != n->gen)
		return;
	if (n->kind == PLX_NOTE_STOP)
		plx_fleet_stop(&s->fleet, n->req_idx, n->sample, s->now_ns);
	else
		plx_fleet_window(&s->fleet, n->req_idx, n->sample, n->next);
}

static uint32_t take_notes_of(struct plx_stage_batch *s, struct plx_ring_note *ring)
{
	struct plx_note n;
	uint32_t i = 0;

	for (; i < NOTES_A_TURN && plx_ring_note_pop(ring, &n); i++)
		take_note(s, &n);
	return i;
}

static uint32_t take_notes(struct plx_stage_batch *s)
{
	uint32_t n = take_notes_of(s, &s->links->tok_note);

	for (uint32_t i = 0; i < s->links->n_io; i++)
		n += take_notes_of(s, &s->links->io_note[i]);
	return n;
}

static void cancel_live(struct plx_stage_batch *s)
{
	for (uint32_t i = 0; i < s->n_live;) {
		uint32_t key = s->live[i];
		uint8_t cause = cancel_cause(s, &s->links->req[key]);

		if (cause)
			plx_fleet_cancel(&s->fleet, key, cause, s->now_ns); /* removes live[i] */
		else
			i++;
	}
}

/* ---- the devices ---- */

static void reset_done(struct plx_stage_batch *s, uint32_t dev, int err)
{
	s->lane[dev].resetting = false;
	plx_fleet_reset_done(&s->fleet, dev, err, s->now_ns);
	if (s->n_dev > 1)
		return;
	s->gone = err != 0;
	/* Nobody waits for a device that may never come back; each call takes live[0] out. */
	while (err && s->n_live > 0)
		plx_fleet_reject(&s->fleet, s->live[0], PLX_E_DEVICE_LOST, s->now_ns);
}

static void take_result(struct plx_stage_batch *s, uint32_t dev, const struct plx_cmd *c)
{
	struct plx_batch_lane *l = &s->lane[dev];

	if (c->kind == PLX_CMD_RESET) {
		reset_done(s, dev, c->err);
	} else if (c->kind == PLX_CMD_COPY) {
		plx_fleet_copy_failed(&s->fleet, dev, c->from);
	} else {
		l->free_step[l->n_free++] = c->step_idx;
		plx_fleet_done(&s->fleet, dev, plx_queue_step(l->dev.queue, c->step_idx), c->err,
		               s->now_ns);
	}
}

/* Of the device that drafts. One that fails is left alone from then on. */
static uint32_t take_guesses(struct plx_stage_batch *s)
{
	struct plx_batch_lane *l = &s->lane[s->n_dev];
	struct plx_cmd c;
	uint32_t n = 0;

	for (; s->has_draft && plx_ring_cmd_pop(&s->links->accel_batch[s->n_dev], &c); n++) {
		l->free_step[l->n_free++] = c.step_idx;
		plx_dmodel_done(&s->draft, plx_queue_step(l->dev.queue, c.step_idx), c.err);
	}
	return n;
}

static uint32_t take_results(struct plx_stage_batch *s)
{
	struct plx_cmd c;
	uint32_t n = take_guesses(s);

	for (uint32_t i = 0; i < s->n_dev; i++)
		for (; plx_ring_cmd_pop(&s->links->accel_batch[i], &c); n++)
			take_result(s, i, &c);
	return n;
}

/* Devices whose steps wait for a disk that reads. */
static void fleet_hear(struct plx_stage_batch *s)
{
	for (uint32_t i = 0; i < s->n_dev; i++) {
		uint64_t n = atomic_load_explicit(&s->links->dev_read[i], memory_order_relaxed);

		if (n != s->lane[i].read_bytes)
			plx_fleet_alive(&s->fleet, i, s->now_ns);
		s->lane[i].read_bytes = n;
	}
}

static void ask_reset(struct plx_stage_batch *s, uint32_t dev)
{
	struct plx_cmd c = {.kind = PLX_CMD_RESET};

	if (s->lane[dev].resetting || !plx_fleet_wants_reset(&s->fleet, dev, s->now_ns))
		return;
	/* Relaxed: the ring orders nothing that this is about; seen late it only costs time. */
	atomic_store_explicit(&s->links->reset_asked[dev], 1, memory_order_relaxed);
	PLX_CHECK(plx_ring_cmd_push(&s->links->batch_accel[dev], &c));
	s->lane[dev].resetting = true;
}

/* Records that steps may bring: what is left beside two for each request. */
static uint32_t out_room(const struct plx_stage_batch *s)
{
	uint32_t room = plx_ring_out_room(&s->links->batch_tok);
	uint32_t kept = 2 * s->links->cfg->lim.n_requests;

	return room > kept ? room - kept : 0;
}

/* Towards accel, ahead of the step that counts on them; fill_steps left room for as many. */
static void give_imports(void *ctx, uint32_t dev, uint32_t from, const struct plx_block_copy *pairs,
                         uint32_t n)
{
	struct plx_stage_batch *s = ctx;

	s->lane[dev].copy_batch++;
	for (uint32_t i = 0; i < n; i++) {
		struct plx_cmd c = {.kind = PLX_CMD_COPY,
		                    .from = (uint16_t)from,
		                    .src = pairs[i].src,
		                    .batch = s->lane[dev].copy_batch,
		                    .dst = pairs[i].dst};

		PLX_CHECK(plx_ring_cmd_push(&s->links->batch_accel[dev], &c));
	}
}

static void give_copies(void *ctx, uint32_t dev, const struct plx_block_copy *pairs, uint32_t n)
{
	give_imports(ctx, dev, dev, pairs, n);
}

/* Whether a step, its copies and a reset have room on the way to accel. */
static bool accel_has_room(const struct plx_stage_batch *s, uint32_t dev)
{
	uint32_t need = s->fleet.dev[dev].sched.conf.step_copies + 2;

	return plx_ring_cmd_room(&s->links->batch_accel[dev]) >= need;
}

static uint32_t fill_steps(struct plx_stage_batch *s, uint32_t dev)
{
	struct plx_batch_lane *l = &s->lane[dev];
	uint32_t n = 0;

	while (l->n_free > 0 && !l->resetting && accel_has_room(s, dev)) {
		uint32_t idx = l->free_step[l->n_free - 1];
		struct plx_cmd c = {.kind = PLX_CMD_STEP, .step_idx = idx};

		if (plx_fleet_fill(&s->fleet, dev, plx_queue_step(l->dev.queue, idx), out_room(s),
		                   s->now_ns) == 0)
			break;
		l->n_free--;
		PLX_CHECK(plx_ring_cmd_push(&s->links->batch_accel[dev], &c));
		n++;
	}
	return n;
}

/* Steps of the device that drafts. */
static uint32_t fill_guesses(struct plx_stage_batch *s)
{
	struct plx_batch_lane *l = &s->lane[s->n_dev];
	uint32_t n = 0;

	while (s->has_draft && l->n_free > 0 &&
	       plx_ring_cmd_room(&s->links->batch_accel[s->n_dev]) > 0) {
		uint32_t idx = l->free_step[l->n_free - 1];
		struct plx_cmd c = {.kind = PLX_CMD_STEP, .step_idx = idx};

		if (plx_dmodel_fill(&s->draft, plx_queue_step(l->dev.queue, idx)) == 0)
			break;
		l->n_free--;
		PLX_CHECK(plx_ring_cmd_push(&s->links->batch_accel[s->n_dev], &c));
		n++;
	}
	return n;
}

uint32_t plx_stage_batch_poll(void *state, uint64_t now_ns)
{
	struct plx_stage_batch *s = state;

	s->now_ns = now_ns;
	uint32_t work = take_results(s);

	take_all_scored(s);
	work += take_notes(s) + take_requests(s);
	bool tick = now_ns - s->tick_ns >= TICK_NS;

	if (work || tick)
		cancel_live(s);
	if (tick) {
		s->tick_ns = now_ns;
		fleet_hear(s);
		plx_fleet_tick(&s->fleet, now_ns);
	}
	for (uint32_t i = 0; i < s->n_dev; i++) {
		work += fill_steps(s, i);
		ask_reset(s, i);
	}
	plx_batch_say_regime(s);
	work += fill_guesses(s);
	if (work || tick) {
		plx_batch_publish_load(s);
		plx_batch_publish_counts(s);
	}
	return work;
}
