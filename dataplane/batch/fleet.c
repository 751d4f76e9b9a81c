/* The schedulers of several devices as one; fleet.h says the policy, fleet_route.c where requests
 * go, fleet_move.c how they move. */
#include "dataplane/batch/fleet.h"

#include <string.h>

#include "dataplane/batch/fleet_int.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

#define BUFS_A_SLOT 8u

/* ---- init ---- */

/* Buffers for what was said by those that move. */
static size_t n_bufs(const struct plx_fleet_conf *c)
{
	size_t most = (size_t)c->dev[0].sched.n_keys * c->n_samples, n = 0;

	for (uint32_t d = 0; d < c->n_dev && c->n_dev > 1; d++)
		n += (size_t)BUFS_A_SLOT * c->dev[d].sched.n_slots;
	return n < most ? n : most;
}

size_t plx_fleet_bytes(const struct plx_fleet_conf *c)
{
	uint32_t n_keys = c->dev[0].sched.n_keys;
	size_t n_samples = (size_t)n_keys * c->n_samples;
	size_t bytes = n_keys * (sizeof(struct plx_fleet_ent) + 2 * sizeof(uint32_t)) +
	               n_samples * (sizeof(struct plx_sched_have) + 2 * sizeof(uint32_t)) +
	               n_bufs(c) * (c->dev[0].sched.max_new + 1) * sizeof(int32_t) + 768;

	for (uint32_t d = 0; d < c->n_dev; d++)
		bytes += plx_sched_bytes(&c->dev[d].sched) +
		         c->dev[d].sched.n_slots * sizeof(struct plx_fleet_lease) + 64;
	return bytes;
}

static int check_conf(const struct plx_fleet_conf *c, struct plx_diag *d)
{
	if (c->n_dev == 0 || c->n_dev > PLX_FLEET_DEVS)
		return plx_diag_set(d, PLX_E_INVAL, "%u devices; give 1 to %d", c->n_dev,
		                    PLX_FLEET_DEVS);
	if (c->n_samples == 0 || c->n_samples > PLX_SCHED_MAX_SAMPLES)
		return plx_diag_set(d, PLX_E_INVAL, "%u samples; give 1 to %d", c->n_samples,
		                    PLX_SCHED_MAX_SAMPLES);
	for (uint32_t i = 0; i < c->n_dev; i++)
		if (c->dev[i].sched.n_keys != c->dev[0].sched.n_keys ||
		    c->dev[i].sched.max_new != c->dev[0].sched.max_new)
			return plx_diag_set(d, PLX_E_INVAL,
			                    "devices that differ in requests or ids of an answer");
	return 0;
}

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns);
static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns);
static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f);
static void on_copy(void *ctx, const struct plx_block_copy *pairs, uint32_t n);
static void on_import(void *ctx, uint32_t from_dev, const struct plx_block_copy *pairs, uint32_t n);
static void on_lost(void *ctx, uint32_t key);

/* Devices whose blocks this one can take over, bit by bit of the same numbers. */
static uint32_t copies_from(const struct plx_fleet_conf *c, uint32_t dev)
{
	const struct plx_fleet_dev_conf *me = &c->dev[dev];
	uint32_t set = 0;

	for (uint32_t i = 0; i < c->n_dev; i++)
		if (i != dev && me->layout != 0 && c->dev[i].layout == me->layout &&
		    c->dev[i].kind == me->kind)
			set |= UINT32_C(1) << i;
	return set;
}

static int dev_init(struct plx_fleet *f, struct plx_arena *a, uint32_t i, struct plx_diag *diag)
{
	struct plx_fleet_dev *d = &f->dev[i];
	const struct plx_sched_conf *c = &f->conf.dev[i].sched;
	struct plx_sched_sink sink = {
	    .ctx = d, .token = on_token, .end = on_end, .final = on_final};

	d->fleet = f;
	d->idx = i;
	d->lease = plx_arena_take(a, c->n_slots * sizeof(*d->lease), 64);
	if (!d->lease)
		return PLX_E_NOMEM;
	memset(d->lease, 0, c->n_slots * sizeof(*d->lease));
	int e = plx_sched_init(&d->sched, a, c, &sink, diag);

	if (e)
		return e;
	if (f->io.copy)
		plx_sched_set_copy(&d->sched, d, on_copy);
	if (f->conf.n_dev > 1)
		plx_sched_set_move(&d->sched, d, copies_from(&f->conf, i), on_import, on_lost);
	return 0;
}

int plx_fleet_init(struct plx_fleet *f, struct plx_arena *a, const struct plx_fleet_conf *c,
                   const struct plx_sched_sink *sink, const struct plx_fleet_io *io,
                   struct plx_diag *d)
{
	int e = check_conf(c, d);

	if (e)
		return e;
	uint32_t n_keys = c->dev[0].sched.n_keys;
	size_t n_samples = (size_t)n_keys * c->n_samples;

	memset(f, 0, sizeof(*f));
	f->conf = *c;
	f->sink = *sink;
	f->io = *io;
	f->ent = plx_arena_take(a, n_keys * sizeof(*f->ent), 64);
	f->live = plx_arena_take(a, n_keys * sizeof(*f->live), 64);
	f->todo = plx_arena_take(a, n_keys * sizeof(*f->todo), 64);
	f->have = plx_arena_take(a, n_samples * sizeof(*f->have), 64);
	f->window = plx_arena_take(a, n_samples * sizeof(*f->window), 64);
	f->hold = plx_arena_take(a, n_samples * sizeof(*f->hold), 64);
	f->n_bufs = (uint32_t)n_bufs(c);
	f->ids = plx_arena_take(a, f->n_bufs * c->dev[0].sched.max_new * sizeof(*f->ids), 64);
	f->free_buf = plx_arena_take(a, f->n_bufs * sizeof(*f->free_buf), 64);
	if (!f->ent || !f->live || !f->todo || !f->have || !f->window || !f->hold || !f->ids ||
	    !f->free_buf)
		return PLX_E_NOMEM;
	for (; f->n_free_bufs < f->n_bufs; f->n_free_bufs++)
		f->free_buf[f->n_free_bufs] = f->n_free_bufs;
	memset(f->ent, 0, n_keys * sizeof(*f->ent));
	memset(f->hold, 0, n_samples * sizeof(*f->hold));
	for (uint32_t i = 0; i < c->n_dev && !e; i++)
		e = dev_init(f, a, i, d);
	return e;
}

/* ---- what schedulers say ---- */

static void on_copy(void *ctx, const struct plx_block_copy *pairs, uint32_t n)
{
	struct plx_fleet_dev *d = ctx;

	d->fleet->io.copy(d->fleet->io.ctx, d->idx, pairs, n);
}

static void on_import(void *ctx, uint32_t from_dev, const struct plx_block_copy *pairs, uint32_t n)
{
	struct plx_fleet_dev *d = ctx;

	d->fleet->io.import(d->fleet->io.ctx, d->idx, from_dev, pairs, n);
}

static void on_lost(void *ctx, uint32_t key)
{
	struct plx_fleet_dev *d = ctx;

	plx_fleet_due(d->fleet, key, false);
}

/* A sample of a request that is to be handed on made its first id here, or ended. */
static void sample_came(struct plx_fleet *f, uint32_t key, uint32_t sample)
{
	struct plx_fleet_ent *e = &f->ent[key];

	if (e->await == 0)
		return;
	e->await &= ~(UINT64_C(1) << sample);
	if (e->await == 0)
		plx_fleet_due(f, key, true);
}

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct plx_fleet_dev *d = ctx;
	struct plx_fleet *f = d->fleet;
	struct plx_fleet_ent *e = &f->ent[key];
	uint64_t kind1 = (uint64_t)f->conf.dev[d->idx].kind + 1;

	PLX_DCHECK(e->live && e->dev == d->idx);
	e->changed |= e->said_kind1 != 0 && e->said_kind1 != kind1;
	e->said_kind1 = kind1;
	e->first_ns = e->first_ns ? e->first_ns : device_ns;
	f->sink.token(f->sink.ctx, key, sample, index, id, logprob, top, n_top, end, device_ns);
	sample_came(f, key, sample);
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	struct plx_fleet_dev *d = ctx;
	struct plx_fleet *f = d->fleet;

	f->sink.end(f->sink.ctx, key, sample, end, device_ns);
	sample_came(f, key, sample);
}

/* The times of all its lives. */
static void sum_up(const struct plx_fleet *f, const struct plx_fleet_ent *e,
                   struct plx_sched_final *out)
{
	uint64_t now = f->now_ns, start = e->start_ns, first = e->first_ns;

	out->cached_tokens = e->cached;
	out->queue_ns = start ? start - e->admit_ns : 0;
	out->prefill_ns = first > start && start ? first - start : 0;
	out->decode_ns = first && now > first ? now - first : 0;
}

/* Which is a function of the texts alone, wherever they were made. */
static void note_left(const struct plx_fleet *f, const struct plx_fleet_ent *e,
                      struct plx_sched_final *out)
{
	const struct plx_shift *rule = &f->dev[e->dev].sched.shift;

	for (uint32_t i = 0; e->moved && e->job.beyond && i < e->job.n_samples; i++) {
		uint32_t n = e->job.n_ids + out->n_out[i];

		out->n_left[i] = rule->drop && n > 1 ? plx_shift_left(rule, n - 2) : 0;
	}
}

void plx_fleet_close(struct plx_fleet *f, uint32_t key, struct plx_sched_final *out)
{
	struct plx_fleet_ent *e = &f->ent[key];
	uint32_t last = f->live[--f->n_live];

	if (e->moved)
		sum_up(f, e, out);
	note_left(f, e, out);
	out->device = e->dev;
	out->kind_changed = e->changed;
	plx_fleet_let_go(f, key);
	f->live[e->place] = last;
	f->ent[last].place = e->place;
	e->live = false;
	f->sink.final(f->sink.ctx, key, out);
}

/* It had moved and waited: what it said is told all the same. */
static void end_coming(const struct plx_fleet *f, uint32_t key, struct plx_sched_final *out)
{
	const struct plx_sched_have *h = &f->have[plx_fleet_at(f, key, 0)];
	bool late = out->kind == PLX_SCHED_REJECT && out->err == PLX_E_DEADLINE_UNMEETABLE &&
	            f->ent[key].first_ns;

	if (late) {
		out->kind = PLX_SCHED_DONE;
		out->err = 0;
	}
	for (uint32_t i = 0; i < f->ent[key].job.n_samples; i++) {
		out->n_out[i] = h[i].n;
		out->end[i] = h[i].end;
		if (late && h[i].end == PLX_SEQ_END_NONE)
			out->end[i] = PLX_SEQ_END_DEADLINE;
	}
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *final)
{
	struct plx_fleet_dev *d = ctx;
	struct plx_fleet *f = d->fleet;
	struct plx_fleet_ent *e = &f->ent[key];
	struct plx_sched_final out = *final;

	PLX_CHECK(e->live && e->dev == d->idx);
	if (e->moved && e->coming)
		end_coming(f, key, &out);
	else if (!e->moved && out.queue_ns)
		out.queue_ns += d->sched.ent[key].admit_ns - e->admit_ns;
	d->n_keys--;
	d->n_coming -= e->coming;
	e->coming = false;
	plx_fleet_close(f, key, &out);
}

/* ---- requests ---- */

static void enter(struct plx_fleet *f, uint32_t key, uint32_t dev, const struct plx_sched_job *job)
{
	struct plx_fleet_ent *e = &f->ent[key];
	bool due = e->due; /* an earlier request's place in todo can't be: settle left none */

	PLX_CHECK(!due);
	*e = (struct plx_fleet_ent){.live = true,
	                            .dev = (uint8_t)dev,
	                            .place = f->n_live,
	                            .admit_ns = f->now_ns,
	                            .job = *job};
	f->live[f->n_live++] = key;
	f->dev[dev].n_keys++;
	for (uint32_t i = 0; i < job->n_samples; i++) {
		uint32_t n = job->have ? job->have[i].n : 0;
		bool over = job->have && job->have[i].end != PLX_SEQ_END_NONE;

		f->window[plx_fleet_at(f, key, i)] =
		    job->held ? UINT32_MAX : n + f->dev[dev].sched.conf.window;
		if (f->dev[dev].sched.ent[key].job.one_id && !over)
			e->await |= UINT64_C(1) << i;
	}
}

int plx_fleet_add(struct plx_fleet *f, uint32_t key, const struct plx_sched_job *job,
                  uint64_t now_ns, struct plx_sched_admit *out)
{
	uint32_t dev = 0, refuser = 0;
	struct plx_sched_job j = *job;
	int err = 0;

	f->now_ns = now_ns;
	f->ent[key].job.flags = job->flags; /* routing asks for them */
	if (job->n_samples > f->conf.n_samples) {
		*out = (struct plx_sched_admit){.why = "more samples than can run at once"};
		return PLX_E_TOO_LARGE;
	}
	if (f->conf.n_dev > 1)
		dev = plx_fleet_best(f, key, job, PLX_WANT_PROMPT, PLX_KV_NONE, &err, &refuser);
	if (dev == PLX_KV_NONE && refuser == PLX_KV_NONE) {
		*out = (struct plx_sched_admit){.why = "no device is left that may run it"};
		return err;
	}
	dev = dev == PLX_KV_NONE ? refuser : dev; /* which counts the refusal */
	j.one_id = f->conf.n_dev > 1 && !job->score && plx_fleet_prompts_only(f, key, dev);
	err = plx_sched_add(&f->dev[dev].sched, key, &j, now_ns, out);
	if (err == 0)
		enter(f, key, dev, job);
	return err;
}

void plx_fleet_cancel(struct plx_fleet *f, uint32_t key, uint8_t cause, uint64_t now_ns)
{
	f->now_ns = now_ns;
	if (f->ent[key].live)
		plx_sched_cancel(plx_fleet_sched(f, key), key, cause, now_ns);
}

void plx_fleet_reject(struct plx_fleet *f, uint32_t key, int err, uint64_t now_ns)
{
	f->now_ns = now_ns;
	if (f->ent[key].live)
		plx_sched_reject(plx_fleet_sched(f, key), key, err, now_ns);
}

/* A sample of a request that was moved and has not started there is over. */
static void stop_coming(struct plx_fleet *f, uint32_t key, uint32_t sample)
{
	struct plx_sched_have *h = &f->have[plx_fleet_at(f, key, 0)];
	struct plx_sched_final out = {.kind = PLX_SCHED_DONE};
	uint32_t n = f->ent[key].job.n_samples, n_live = 0;
	struct plx_fleet_dev *d = &f->dev[f->ent[key].dev];

	if (h[sample].end == PLX_SEQ_END_NONE)
		h[sample].end = PLX_SEQ_END_STOP;
	f->ent[key].await &= ~(UINT64_C(1) << sample);
	for (uint32_t i = 0; i < n; i++) {
		n_live += h[i].end == PLX_SEQ_END_NONE;
		out.end[i] = h[i].end;
		out.n_out[i] = h[i].n;
	}
	if (n_live > 0)
		return;
	plx_sched_leave(&d->sched, key, false);
	d->n_keys--;
	d->n_coming--;
	f->ent[key].coming = false;
	plx_fleet_close(f, key, &out);
}

void plx_fleet_stop(struct plx_fleet *f, uint32_t key, uint32_t sample, uint64_t now_ns)
{
	f->now_ns = now_ns;
	if (!f->ent[key].live || sample >= f->ent[key].job.n_samples)
		return;
	if (f->ent[key].moved && f->ent[key].coming) {
		stop_coming(f, key, sample);
	} else {
		plx_sched_stop(plx_fleet_sched(f, key), key, sample, now_ns);
		if (f->ent[key].live)
			sample_came(f, key, sample);
	}
	plx_fleet_settle(f);
}

void plx_fleet_window(struct plx_fleet *f, uint32_t key, uint32_t sample, uint32_t next)
{
	const struct plx_fleet_ent *e = &f->ent[key];

	if (!e->live || sample >= e->job.n_samples)
		return;
	size_t at = plx_fleet_at(f, key, sample);

	if (next <= f->window[at])
		return;
	f->window[at] = next;
	if (e->moved)
		f->have[at].window = next;
	if (!plx_fleet_sched((struct plx_fleet *)f, key)->ent[key].job.one_id)
		plx_sched_window(plx_fleet_sched(f, key), key, sample, next);
}

/* ---- devices ---- */

static bool stalls(const struct plx_fleet *f, const struct plx_fleet_dev *d)
{
	const struct plx_sched *s = &d->sched;

	if (d->state == PLX_FLEET_OUT || s->n_steps_out == 0 || f->now_ns < s->pace.out_since)
		return false;
	uint64_t oldest = s->next_step_id - s->n_steps_out;
	double expect = s->sent[oldest % PLX_SCHED_MAX_STEPS].expect_ns * f->conf.stall_times;
	double most = (double)f->conf.stall_ns > expect ? (double)f->conf.stall_ns : expect;

	uint64_t since = s->pace.out_since > d->alive_ns ? s->pace.out_since : d->alive_ns;

	return f->now_ns > since && (double)(f->now_ns - since) > most;
}

void plx_fleet_alive(struct plx_fleet *f, uint32_t dev, uint64_t now_ns)
{
	f->dev[dev].alive_ns = now_ns;
}

void plx_fleet_tick(struct plx_fleet *f, uint64_t now_ns)
{
	f->now_ns = now_ns;
	for (uint32_t i = 0; i < f->conf.n_dev; i++) {
		struct plx_fleet_dev *d = &f->dev[i];

		plx_sched_tick(&d->sched, now_ns);
		if (f->conf.n_dev == 1)
			return;
		if (f->conf.stall_ns && stalls(f, d)) {
			f->stats.stalled++;
			plx_fleet_take_out(f, i);
		}
		plx_fleet_try_back(f, i);
	}
	plx_fleet_settle(f);
}

/* Records that steps of other devices can still bring. */
static uint32_t promised_by_others(const struct plx_fleet *f, uint32_t dev)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < f->conf.n_dev; i++)
		n += i != dev ? f->dev[i].sched.promised : 0;
	return n;
}

uint32_t plx_fleet_fill(struct plx_fleet *f, uint32_t dev, struct plx_step *step, uint32_t room,
                        uint64_t now_ns)
{
	struct plx_fleet_dev *d = &f->dev[dev];
	uint32_t others = promised_by_others(f, dev);
	uint64_t id = d->sched.next_step_id;

	f->now_ns = now_ns;
	if (d->state == PLX_FLEET_OUT)
		return 0;
	uint32_t n = plx_sched_fill(&d->sched, step, room > others ? room - others : 0, now_ns);

	plx_fleet_started(f, dev, id);
	return n;
}

void plx_fleet_done(struct plx_fleet *f, uint32_t dev, struct plx_step *step, int status,
                    uint64_t now_ns)
{
	struct plx_fleet_dev *d = &f->dev[dev];
	uint64_t id = step->id;

	f->now_ns = now_ns;
	plx_sched_done(&d->sched, step, status, now_ns);
	if (f->conf.n_dev == 1)
		return;
	if (status != 0)
		plx_fleet_take_out(f, dev);
	else if (d->state == PLX_FLEET_PROBE && ++d->n_good >= f->conf.probe_steps)
		d->state = PLX_FLEET_UP;
	plx_fleet_unlend(f, dev, id);
	plx_fleet_try_back(f, dev);
	plx_fleet_settle(f);
}

void plx_fleet_copy_failed(struct plx_fleet *f, uint32_t dev, uint32_t from_dev)
{
	f->dev[dev].sched.import_from &= ~(UINT32_C(1) << from_dev);
}

bool plx_fleet_wants_reset(const struct plx_fleet *f, uint32_t dev, uint64_t now_ns)
{
	const struct plx_fleet_dev *d = &f->dev[dev];

	if (f->conf.n_dev == 1)
		return now_ns >= d->retry_ns && plx_sched_wants_reset(&d->sched);
	return d->state == PLX_FLEET_OUT && !d->was_reset && now_ns >= d->retry_ns;
}

void plx_fleet_reset_done(struct plx_fleet *f, uint32_t dev, int err, uint64_t now_ns)
{
	struct plx_fleet_dev *d = &f->dev[dev];

	f->now_ns = now_ns;
	d->retry_ns = now_ns + (err ? f->conf.retry_ns : 0);
	if (err)
		return;
	if (f->conf.n_dev == 1) {
		plx_sched_reset_done(&d->sched);
		return;
	}
	d->was_reset = true;
	plx_fleet_try_back(f, dev);
}

bool plx_fleet_idle(const struct plx_fleet *f)
{
	bool idle = f->n_live == 0;

	for (uint32_t i = 0; i < f->conf.n_dev; i++)
		idle = idle && f->dev[i].sched.n_steps_out == 0;
	return idle;
}

/* ---- invariants ---- */

static void check_dev(const struct plx_fleet *f, const struct plx_fleet_dev *d)
{
	uint32_t n_kept = 0, n_keys = 0, n_coming = 0;

	plx_sched_check(&d->sched);
	for (uint32_t i = 0; i < d->sched.conf.n_slots; i++) {
		n_kept += d->lease[i].state != PLX_LEASE_NONE;
		PLX_CHECK(d->sched.seq[i].kept == (d->lease[i].state != PLX_LEASE_NONE));
		PLX_CHECK(d->sched.seq[i].lent <= (d->lease[i].state == PLX_LEASE_LENT));
	}
	PLX_CHECK(n_kept == d->sched.n_kept);
	for (uint32_t i = 0; i < f->n_live; i++) {
		const struct plx_fleet_ent *e = &f->ent[f->live[i]];

		n_keys += e->dev == d->idx;
		n_coming += e->dev == d->idx && e->coming;
		PLX_CHECK((d->sched.ent[f->live[i]].state != PLX_ENT_FREE) == (e->dev == d->idx));
	}
	PLX_CHECK(n_keys == d->n_keys && n_coming == d->n_coming);
}

void plx_fleet_check(const struct plx_fleet *f)
{
	PLX_CHECK(f->n_todo == 0);
	for (uint32_t i = 0; i < f->conf.n_dev; i++)
		check_dev(f, &f->dev[i]);
	uint32_t n_held = 0;

	for (uint32_t i = 0; i < f->n_live; i++) {
		uint32_t key = f->live[i];

		PLX_CHECK(f->ent[key].live && f->ent[key].place == i);
		for (uint32_t k = 0; k < f->conf.n_samples; k++)
			n_held += (f->hold[plx_fleet_at(f, key, k)] & PLX_HOLD_BUF) != 0;
	}
	PLX_CHECK(n_held + f->n_free_bufs == f->n_bufs);
}
