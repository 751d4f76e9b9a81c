/* Requests that change devices, what is kept for them, and devices that fail; see fleet.h. */
#include "dataplane/batch/fleet_int.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

void plx_fleet_due(struct plx_fleet *f, uint32_t key, bool hand)
{
	struct plx_fleet_ent *e = &f->ent[key];

	e->hand = e->due ? e->hand && hand : hand;
	if (!e->due)
		f->todo[f->n_todo++] = key;
	e->due = true;
}

/* ---- what is kept ---- */

static void release(struct plx_fleet *f, uint32_t dev, uint32_t slot)
{
	f->dev[dev].lease[slot].state = PLX_LEASE_NONE;
	plx_sched_release(&f->dev[dev].sched, slot);
}

/* What is kept of one sample. */
static void let_go(struct plx_fleet *f, uint32_t *hold)
{
	uint32_t h = *hold;

	*hold = 0;
	if (h & PLX_HOLD_BUF)
		f->free_buf[f->n_free_bufs++] = h & ~PLX_HOLD_BUF;
	else if (h)
		release(f, (h - 1) >> 16, (h - 1) & 0xffff);
}

void plx_fleet_let_go(struct plx_fleet *f, uint32_t key)
{
	for (uint32_t i = 0; i < f->conf.n_samples; i++)
		let_go(f, &f->hold[plx_fleet_at(f, key, i)]);
}

/* It started on dev: its ids are there, and its blocks will be when step_id came back. */
static void started(struct plx_fleet *f, uint32_t key, uint32_t dev, uint64_t step_id)
{
	bool imported = f->dev[dev].sched.ent[key].imported;

	f->ent[key].coming = false;
	f->dev[dev].n_coming--;
	f->stats.imported += imported;
	for (uint32_t i = 0; imported && i < f->conf.n_samples; i++) {
		uint32_t *h = &f->hold[plx_fleet_at(f, key, i)], at = *h - 1;

		if (*h == 0 || *h & PLX_HOLD_BUF)
			continue;
		f->dev[at >> 16].lease[at & 0xffff] = (struct plx_fleet_lease){
		    .state = PLX_LEASE_LENT, .to = (uint8_t)dev, .key = key, .step = step_id};
		f->dev[at >> 16].sched.seq[at & 0xffff].lent = true;
		f->n_lent++;
		*h = 0;
	}
	plx_fleet_let_go(f, key);
}

void plx_fleet_started(struct plx_fleet *f, uint32_t dev, uint64_t step_id)
{
	const struct plx_fleet_dev *d = &f->dev[dev];

	for (uint32_t i = 0; d->n_coming > 0 && i < f->n_live; i++) {
		uint32_t key = f->live[i];

		if (f->ent[key].dev == dev && f->ent[key].coming &&
		    d->sched.ent[key].state == PLX_ENT_RUNNING)
			started(f, key, dev, step_id);
	}
}

void plx_fleet_unlend(struct plx_fleet *f, uint32_t dev, uint64_t step_id)
{
	bool none_out = f->dev[dev].sched.n_steps_out == 0;

	for (uint32_t d = 0; d < f->conf.n_dev && f->n_lent > 0; d++)
		for (uint32_t i = 0; i < f->dev[d].sched.conf.n_slots; i++) {
			const struct plx_fleet_lease *l = &f->dev[d].lease[i];

			if (l->state != PLX_LEASE_LENT || l->to != dev ||
			    (l->step > step_id &&
			     !(none_out && f->dev[dev].state == PLX_FLEET_OUT)))
				continue;
			f->n_lent--;
			release(f, d, i);
		}
}

/* ---- leaving and arriving ---- */

/* Its ids in a buffer; false: there is none. */
static bool save_ids(struct plx_fleet *f, size_t at, const int32_t *ids, uint32_t n)
{
	if (f->n_free_bufs == 0)
		return false;
	uint32_t b = f->free_buf[--f->n_free_bufs];
	int32_t *to = &f->ids[(size_t)b * f->conf.dev[0].sched.max_new];

	memcpy(to, ids, 4 * (size_t)n);
	f->have[at].ids = to;
	f->have[at].from = NULL;
	f->hold[at] = PLX_HOLD_BUF | b;
	return true;
}

/* What a sample takes along from the slot that it had. */
static bool pack_sample(struct plx_fleet *f, uint32_t key, uint32_t i, uint32_t dev, uint32_t slot)
{
	size_t at = plx_fleet_at(f, key, i);
	const struct plx_seq *q = &f->dev[dev].sched.seq[slot];

	f->have[at] = (struct plx_sched_have){
	    .ids = &q->ids[q->n_prompt], .n = q->n_out, .window = f->window[at], .from_dev = dev};
	if (!q->kept)
		return save_ids(f, at, f->have[at].ids, q->n_out);
	f->have[at].from = q;
	f->hold[at] = 1 + (dev << 16 | slot);
	f->dev[dev].lease[slot] = (struct plx_fleet_lease){.state = PLX_LEASE_WAIT, .key = key};
	return true;
}

/* It did not come to start where it was moved to: no slot is kept for a second journey. */
static bool pack_again(struct plx_fleet *f, uint32_t key)
{
	bool ok = true;

	for (uint32_t i = 0; f->ent[key].moved && i < f->ent[key].job.n_samples; i++) {
		size_t at = plx_fleet_at(f, key, i);
		uint32_t was = f->hold[at];

		if (was == 0 || was & PLX_HOLD_BUF)
			continue;
		ok = save_ids(f, at, f->have[at].ids, f->have[at].n) && ok;
		release(f, (was - 1) >> 16, (was - 1) & 0xffff);
		if (!ok)
			f->hold[at] = 0;
	}
	return ok;
}

/* The request leaves its device, if it has not; then have says where each sample stands. False:
 * that can't be kept. */
static bool pack(struct plx_fleet *f, uint32_t key, bool with_kv)
{
	struct plx_fleet_ent *e = &f->ent[key];
	struct plx_sched *s = &f->dev[e->dev].sched;
	const struct plx_sched_ent *was = &s->ent[key];
	bool ok = true;

	if (was->state != PLX_ENT_FREE)
		plx_sched_leave(s, key, with_kv);
	f->dev[e->dev].n_keys--;
	if (e->coming) {
		f->dev[e->dev].n_coming--;
		e->coming = false;
		return pack_again(f, key);
	}
	if (was->start_ns == 0)
		return true;
	if (e->start_ns == 0) {
		e->start_ns = was->start_ns;
		e->cached = was->out.cached_tokens;
	}
	e->moved = true;
	for (uint32_t i = 0; i < e->job.n_samples; i++) {
		if (was->out.end[i] == PLX_SEQ_END_NONE)
			ok = pack_sample(f, key, i, e->dev, was->slot[i]) && ok;
		else
			f->have[plx_fleet_at(f, key, i)] =
			    (struct plx_sched_have){.n = was->out.n_out[i], .end = was->out.end[i]};
	}
	return ok;
}

static struct plx_sched_job job_of(const struct plx_fleet *f, uint32_t key)
{
	const struct plx_fleet_ent *e = &f->ent[key];
	struct plx_sched_job j = e->job;

	if (e->moved)
		j.have = &f->have[plx_fleet_at(f, key, 0)];
	j.since_ns = e->admit_ns;
	j.first_ns = e->first_ns;
	return j;
}

/* Whether blocks that are kept for it can be copied there. */
static bool can_import(const struct plx_fleet *f, uint32_t key, uint32_t dev)
{
	for (uint32_t i = 0; f->ent[key].moved && i < f->ent[key].job.n_samples; i++) {
		const struct plx_sched_have *h = &f->have[plx_fleet_at(f, key, i)];

		if (h->from && !(f->dev[dev].sched.import_from >> h->from_dev & 1))
			return false;
	}
	return true;
}

static uint64_t samples_to_come(const struct plx_fleet *f, uint32_t key)
{
	uint64_t set = 0;

	for (uint32_t i = 0; i < f->ent[key].job.n_samples; i++)
		if (!f->ent[key].moved || f->have[plx_fleet_at(f, key, i)].end == PLX_SEQ_END_NONE)
			set |= UINT64_C(1) << i;
	return set;
}

/* It ends here: nobody can take it. */
static void drop(struct plx_fleet *f, uint32_t key)
{
	struct plx_sched_final out = {.kind = PLX_SCHED_REJECT, .err = PLX_E_DEVICE_LOST};

	for (uint32_t i = 0; f->ent[key].moved && i < f->ent[key].job.n_samples; i++) {
		const struct plx_sched_have *h = &f->have[plx_fleet_at(f, key, i)];

		out.end[i] = h->end;
		out.n_out[i] = h->n;
	}
	f->stats.dropped++;
	plx_fleet_close(f, key, &out);
}

static void arrive(struct plx_fleet *f, uint32_t key, uint32_t dev, const struct plx_sched_job *j)
{
	struct plx_fleet_ent *e = &f->ent[key];
	struct plx_sched_admit a;

	PLX_CHECK(plx_sched_add(&f->dev[dev].sched, key, j, f->now_ns, &a) == 0);
	e->dev = (uint8_t)dev;
	e->coming = true;
	e->await = j->one_id ? samples_to_come(f, key) : 0;
	f->dev[dev].n_keys++;
	f->dev[dev].n_coming++;
}

/* Nobody answers for this device now: it does so itself. */
static void stay(struct plx_fleet *f, uint32_t key)
{
	struct plx_fleet_ent *e = &f->ent[key];
	struct plx_sched *s = plx_fleet_sched(f, key);

	s->ent[key].job.one_id = false;
	for (uint32_t i = 0; i < e->job.n_samples; i++)
		plx_sched_window(s, key, i, f->window[plx_fleet_at(f, key, i)]);
}

static void move(struct plx_fleet *f, uint32_t key, bool hand)
{
	struct plx_fleet_ent *e = &f->ent[key];
	enum plx_fleet_want want = hand ? PLX_WANT_ANSWER : PLX_WANT_PROMPT;
	uint32_t was = e->dev, refuser;
	int err;

	e->await = 0;
	if (hand && !plx_fleet_prompts_only(f, key, was)) {
		stay(f, key);
		return;
	}
	bool whole = pack(f, key, hand);
	struct plx_sched_job j = job_of(f, key);
	uint32_t to = !whole ? PLX_KV_NONE : plx_fleet_best(f, key, &j, want, was, &err, &refuser);

	if (to == PLX_KV_NONE && hand && whole &&
	    pack_again(f, key)) /* nobody else: it goes on where it was */
		to = plx_fleet_best(f, key, &j, PLX_WANT_ANY, PLX_KV_NONE, &err, &refuser);
	if (to == PLX_KV_NONE || (!can_import(f, key, to) && !pack_again(f, key))) {
		drop(f, key);
		return;
	}
	j.one_id = !hand && plx_fleet_prompts_only(f, key, to);
	arrive(f, key, to, &j);
	f->stats.handed += hand;
	f->stats.rescued += !hand;
}

void plx_fleet_settle(struct plx_fleet *f)
{
	while (f->n_todo > 0) {
		uint32_t key = f->todo[--f->n_todo];
		bool was_due = f->ent[key].due;

		f->ent[key].due = false;
		if (was_due && f->ent[key].live)
			move(f, key, f->ent[key].hand);
	}
}

/* ---- devices ---- */

/* What others have of this device's blocks is not to be trusted any more. */
static void recall(struct plx_fleet *f, uint32_t dev)
{
	struct plx_fleet_dev *d = &f->dev[dev];

	for (uint32_t i = 0; i < d->sched.conf.n_slots; i++) {
		struct plx_fleet_lease *l = &d->lease[i];

		if (l->state == PLX_LEASE_WAIT && d->sched.seq[i].kept_kv)
			plx_sched_kept_drop(&d->sched, i); /* importable says so from now on */
		if (l->state == PLX_LEASE_LENT && f->ent[l->key].live &&
		    f->ent[l->key].dev == l->to && l->to != dev)
			plx_fleet_due(f, l->key, false);
	}
}

void plx_fleet_take_out(struct plx_fleet *f, uint32_t dev)
{
	struct plx_fleet_dev *d = &f->dev[dev];
	const struct plx_fleet_conf *c = &f->conf;

	if (d->state == PLX_FLEET_OUT)
		return;
	if (d->n_failed > 0 && f->now_ns - d->failed_ns > c->forget_ns)
		d->n_failed = 0;
	uint64_t away = d->n_failed == 0 ? 0 : c->away_ns;

	for (uint32_t i = 1; i < d->n_failed && away < c->away_most_ns; i++)
		away *= 2;
	d->n_failed++;
	d->failed_ns = f->now_ns;
	d->back_ns = f->now_ns + (away < c->away_most_ns ? away : c->away_most_ns);
	d->retry_ns = f->now_ns;
	d->state = PLX_FLEET_OUT;
	d->was_reset = false;
	d->sched.need_reset = d->sched.lost = true;
	f->stats.failed++;
	plx_prefix_clear(&d->sched.prefix);
	for (uint32_t i = 0; i < f->n_live; i++)
		if (f->ent[f->live[i]].dev == dev)
			plx_fleet_due(f, f->live[i], false);
	recall(f, dev);
}

void plx_fleet_try_back(struct plx_fleet *f, uint32_t dev)
{
	struct plx_fleet_dev *d = &f->dev[dev];

	if (d->state != PLX_FLEET_OUT || !d->was_reset || d->sched.n_steps_out > 0 ||
	    f->now_ns < d->back_ns)
		return;
	plx_fleet_unlend(f, dev, 0);
	plx_sched_reset_done(&d->sched);
	d->state = PLX_FLEET_PROBE;
	d->n_good = 0;
	f->stats.returned++;
}
