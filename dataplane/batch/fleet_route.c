/* Which device takes a request; fleet.h says the policy. */
#include "dataplane/batch/fleet_int.h"
#include "fw/base/err.h"

#define ANSWER_GUESS 128.0      /* ids of an answer, before any was measured */
#define STEP_NS      10000000.0 /* a step, likewise */

static bool role_fits(const struct plx_fleet *f, uint32_t dev, enum plx_fleet_want want)
{
	uint8_t role = f->conf.dev[dev].role;

	return role == PLX_FLEET_MIXED || want == PLX_WANT_ANY ||
	       (want == PLX_WANT_PROMPT) == (role == PLX_FLEET_PREFILL);
}

bool plx_fleet_may(const struct plx_fleet *f, uint32_t key, uint32_t dev, enum plx_fleet_want want,
                   bool strict)
{
	const struct plx_fleet_dev *d = &f->dev[dev];
	bool fixed = f->ent[key].job.flags & PLX_SEQF_DETERMINISTIC;

	if (d->state == PLX_FLEET_OUT ||
	    (d->state == PLX_FLEET_PROBE && d->n_keys >= f->conf.probe_keys))
		return false;
	if (fixed && f->conf.dev[dev].kind != f->conf.dev[0].kind)
		return false;
	return !strict || role_fits(f, dev, want);
}

/* When all of it would have been said, from now on. */
static double complete_ns(const struct plx_sched *s, const struct plx_sched_job *j,
                          const struct plx_sched_admit *a)
{
	double n = s->pace.answer > 0 ? s->pace.answer : ANSWER_GUESS, step = STEP_NS;
	struct plx_cost_work w = s->view.work;

	if (j->max_new && j->max_new < n)
		n = j->max_new;
	w.decodes = s->view.n_seq + s->load.n_waiting + j->n_samples;
	w.decodes = w.decodes < s->conf.step_seqs ? w.decodes : s->conf.step_seqs;
	w.context += (uint64_t)j->n_samples * j->n_ids;
	if (plx_cost_ready(&s->cost, false))
		step = plx_cost_ns(&s->cost, &w);
	return (double)a->est_ttft_ns + (n > 1 ? n - 1 : 0) * step;
}

struct choice {
	uint32_t best, refuser;
	double best_ns;
	int err;
	uint64_t retry_ns;
};

static void ask(struct plx_fleet *f, uint32_t key, const struct plx_sched_job *job, uint32_t dev,
                struct choice *c)
{
	struct plx_sched *s = &f->dev[dev].sched;
	struct plx_sched_admit a;
	int err = plx_sched_quote(s, key, job, f->now_ns, &a);

	if (err) {
		bool sooner = a.retry_ns > 0 && (c->retry_ns == 0 || a.retry_ns < c->retry_ns);

		if (c->refuser != PLX_KV_NONE && !sooner)
			return;
		c->refuser = dev;
		c->err = err;
		c->retry_ns = a.retry_ns;
		return;
	}
	/* One request finds out how fast it is. */
	bool unknown = !plx_cost_ready(&s->cost, true) && f->dev[dev].n_keys == 0;
	double ns = unknown ? 0 : complete_ns(s, job, &a);

	if (c->best == PLX_KV_NONE || ns < c->best_ns) {
		c->best = dev;
		c->best_ns = ns;
	}
}

uint32_t plx_fleet_best(struct plx_fleet *f, uint32_t key, const struct plx_sched_job *job,
                        enum plx_fleet_want want, uint32_t not, int *err, uint32_t *refuser)
{
	struct choice c = {.best = PLX_KV_NONE, .refuser = PLX_KV_NONE, .err = PLX_E_DEVICE_LOST};
	bool any = false;

	for (int strict = 1; strict >= 0 && !any; strict--)
		for (uint32_t d = 0; d < f->conf.n_dev; d++) {
			if (d == not || !plx_fleet_may(f, key, d, want, strict))
				continue;
			any = true;
			ask(f, key, job, d, &c);
		}
	*err = c.best == PLX_KV_NONE ? c.err : 0;
	*refuser = c.refuser;
	return c.best;
}

bool plx_fleet_prompts_only(const struct plx_fleet *f, uint32_t key, uint32_t dev)
{
	if (f->conf.dev[dev].role != PLX_FLEET_PREFILL)
		return false;
	for (uint32_t d = 0; d < f->conf.n_dev; d++)
		if (d != dev && f->conf.dev[d].role != PLX_FLEET_PREFILL &&
		    plx_fleet_may(f, key, d, PLX_WANT_ANSWER, true))
			return true;
	return false;
}
