/*
 * Time: how long a step may take, and when a prompt's first token will come. cost.h says how long a
 * step takes; sched.h the policy.
 */
#include "dataplane/batch/sched_int.h"

#include <math.h>

#define COLD_TOKENS    512u /* prompt tokens in a step of which no time is known */
#define PACE           1.6  /* times a usual step of decodes: what prompts may make of it */
#define PACE_FREE      2.0  /* the same where nobody named an objective */
#define PROGRESS       1.05 /* times decodes alone: prompts get so much in any case */
#define HASTE          1.15 /* prompts go this much faster than they need to */
#define GATE           0.9  /* decodes alone may take this much of the objective */
#define LOOK_AHEAD     32u  /* waiting requests whose need is looked at for a step */
#define HALVINGS       8
#define USUAL_OVER     1000000u /* steps: some hours */
#define USUAL_WARM     10000u   /* steps that say what is usual at all */
#define USUAL_FAR      0.15
#define ANSWER_GUESS   128.0
#define SMOOTH         (1.0 / 16)
#define BEHIND_NS      INT64_C(4000000000)
#define RETRY_LEAST_NS 1e6
#define TRUTH_STEP     0.02 /* what one first token moves the correction by */
#define TRUTH_FIRST    0.5  /* the first one, the n-th an n-th of it */

static uint64_t least_of(uint64_t a, uint64_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

/* ---- what a step may take ---- */

/* A mean over hours, in which no spell, however far off, counts for more than USUAL_FAR. */
static void learn_usual(struct plx_sched *s, double step_ns)
{
	struct plx_sched_pace *p = &s->pace;

	p->n_usual += p->n_usual < USUAL_OVER;
	if (p->n_usual > USUAL_WARM)
		step_ns = fmin(fmax(step_ns, (1 - USUAL_FAR) * p->usual_ns),
		               (1 + USUAL_FAR) * p->usual_ns);
	p->usual_ns += (step_ns - p->usual_ns) / p->n_usual;
}

/*
 * Prompt tokens a ns that those with an objective need, the most of all first ones in order:
 * whoever stands behind needs what is ahead of it too. HUGE_VAL: more than any pace gives.
 */
static double need_of(const struct plx_sched *s, uint64_t now_ns)
{
	const struct plx_order *o[2] = {&s->prefill, &s->wait};
	uint32_t k[2] = {plx_order_first(o[0]), plx_order_first(o[1])};
	double need = 0, tokens = 0, start = (double)now_ns + s->pace.out_ns;

	for (uint32_t i = 0; i < LOOK_AHEAD; i++) {
		int w = k[0] == PLX_QUEUE_NONE ||
		        (k[1] != PLX_QUEUE_NONE && o[1]->node[k[1]].rank < o[0]->node[k[0]].rank);

		if (k[w] == PLX_QUEUE_NONE)
			break;
		const struct plx_sched_ent *e = &s->ent[k[w]];

		tokens += o[w]->node[k[w]].tokens;
		k[w] = plx_order_next(o[w], k[w]);
		if (e->due_ns == 0 || e->late)
			continue;
		double left = (double)e->due_ns - start;

		need = left > 0 ? fmax(need, tokens / left) : HUGE_VAL;
	}
	return need;
}

uint32_t plx_sched_chunk(const struct plx_sched *s, const struct plx_cost_work *w, uint32_t pos,
                         double aim_ns, uint32_t most)
{
	if (!plx_cost_ready(&s->cost, true)) {
		uint32_t left = w->prefill < COLD_TOKENS ? COLD_TOKENS - w->prefill : 0;

		return most < left ? most : left;
	}
	return aim_ns > 0 ? plx_cost_chunk(&s->cost, w, pos, aim_ns, most) : most;
}

/* The shortest step between lo and hi whose share of prompt tokens meets the need. */
static double step_for(const struct plx_sched *s, const struct plx_cost_work *base, double need,
                       double lo, double hi)
{
	if (plx_sched_chunk(s, base, 0, lo, s->conf.step_tokens) >= need * lo)
		return lo;
	if (plx_sched_chunk(s, base, 0, hi, s->conf.step_tokens) <= need * hi)
		return hi;
	for (int i = 0; i < HALVINGS; i++) {
		double mid = (lo + hi) / 2;

		if (plx_sched_chunk(s, base, 0, mid, s->conf.step_tokens) >= need * mid)
			hi = mid;
		else
			lo = mid;
	}
	return hi;
}

/* How long a step may take by the objectives; 0: any. */
static double slo_of(const struct plx_sched *s, uint64_t itl_ns)
{
	return itl_ns ? (double)itl_ns / plx_cost_margin(&s->cost) : 0;
}

/* How long a step in which decodes alone take so long is to be with prompts; 0: any. */
static double paced(const struct plx_sched *s, uint32_t decodes, double alone, uint64_t itl_ns)
{
	double slo = slo_of(s, itl_ns);

	if (decodes == 0)
		return slo;
	double usual = s->pace.usual_ns > 0 ? s->pace.usual_ns : alone;
	double pace = slo > 0 ? fmin(PACE * usual, slo) : PACE_FREE * usual;

	return fmax(pace, PROGRESS * alone);
}

/* What the step would have to be, as a step of decodes alone, for prompts to meet objectives. */
static double wanted(const struct plx_sched *s, const struct plx_cost_work *base, double alone,
                     uint64_t itl_ns, uint64_t now_ns)
{
	double least = PROGRESS * alone, most = slo_of(s, itl_ns);

	if (most <= least || plx_order_count(&s->prefill) == 0)
		return alone;
	return fmax(alone, step_for(s, base, HASTE * need_of(s, now_ns), least, most) / PACE);
}

double plx_sched_aim_ns(struct plx_sched *s, const struct plx_cost_work *base, uint64_t itl_ns,
                        uint64_t now_ns)
{
	if (!plx_cost_ready(&s->cost, false))
		return 0;
	double alone = plx_cost_ns(&s->cost, base);

	if (base->decodes > 0)
		learn_usual(s, wanted(s, base, alone, itl_ns, now_ns));
	return paced(s, base->decodes, alone, itl_ns);
}

/* ---- when a first token comes ---- */

double plx_sched_prompt_ns(const struct plx_sched *s, uint32_t tokens)
{
	struct plx_cost_work w = {0};

	if (!plx_cost_ready(&s->cost, true))
		return 0;
	uint32_t most = s->conf.ctx_tokens, half = most / 2;

	plx_cost_add_prefill(&w, 0, tokens < most ? tokens : most);
	/* Beyond the context nothing sees more than it holds. */
	for (uint32_t at = most; at < tokens; at += half)
		plx_cost_add_prefill(&w, half, tokens - at < half ? tokens - at : half);
	return plx_cost_ns(&s->cost, &w);
}

/* What steps in flight still take. */
static double out_left(const struct plx_sched *s, uint64_t now_ns)
{
	double ran = s->n_steps_out ? (double)(now_ns - s->pace.out_since) : 0;

	return fmax(s->pace.out_ns - ran, 0);
}

double plx_sched_ttft_ns(const struct plx_sched *s, uint64_t ahead, uint32_t own, uint64_t now_ns)
{
	struct plx_cost_work base = s->view.work;
	uint64_t tokens = ahead + own;
	uint32_t room = s->conf.step_tokens, pos = (uint32_t)(tokens / 4);

	/* Whoever is ahead will decode beside the rest. */
	if (ahead > 0 && base.decodes == 0)
		base.decodes = 1;
	room = room > base.decodes + 1 ? room - base.decodes : 1;
	double step = paced(s, base.decodes, plx_cost_ns(&s->cost, &base), s->view.itl_ns);
	uint32_t n = plx_sched_chunk(s, &base, pos, step, room);

	n = n ? n : 1;
	struct plx_cost_work last = base, whole = base;

	plx_cost_add_prefill(&whole, pos, n);
	plx_cost_add_prefill(&last, 0, (uint32_t)(tokens % n));
	double each = step > 0 ? step : plx_cost_ns(&s->cost, &whole);

	return out_left(s, now_ns) + (double)(tokens / n) * each + plx_cost_ns(&s->cost, &last);
}

/* An answer's whole time, at the pace of now. */
static double answer_ns(const struct plx_sched *s)
{
	double answer = s->pace.answer > 0 ? s->pace.answer : ANSWER_GUESS;

	return answer * (double)s->load.step_ns;
}

double plx_sched_slots_ns(const struct plx_sched *s, uint32_t n_seq)
{
	uint32_t n_run = s->view.n_seq ? s->view.n_seq : 1;

	return n_seq > s->n_free_slots ? (n_seq - s->n_free_slots) * answer_ns(s) / n_run : 0;
}

/* How long until so many blocks come free, if n answers hold or yield `held` and each that ends
 * yields its part at once. */
static double freed_ns(const struct plx_sched *s, double blocks, double held, uint32_t n)
{
	return n > 0 && held > 0 ? ceil(blocks * n / held) * answer_ns(s) / n : 0;
}

double plx_sched_blocks_ns(const struct plx_sched *s, uint64_t blocks)
{
	uint64_t room = plx_kv_room(&s->kv), want = blocks + plx_sched_owed(s);
	uint32_t n_run = s->view.n_seq;

	if (want <= room)
		return 0;
	/* Meanwhile the others grow. */
	double held = (double)(s->kv.n_blocks - room);
	double grown = n_run * s->pace.answer / s->conf.block_tokens;

	return freed_ns(s, (double)(want - room), fmax(held - grown, held / 4), n_run);
}

double plx_sched_tenant_ns(const struct plx_sched *s, uint32_t tenant, uint64_t blocks)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->n_run; i++) {
		const struct plx_seq *q = &s->seq[s->run[i]];

		n += q->state == PLX_SEQ_RUN && s->ent[q->ent].job.tenant == tenant;
	}
	return freed_ns(s, (double)blocks, s->tenant_held[tenant], n);
}

uint64_t plx_sched_retry_ns(const struct plx_sched *s)
{
	uint32_t n_run = s->view.n_seq;

	return (uint64_t)fmax(n_run ? answer_ns(s) / n_run : 0, RETRY_LEAST_NS);
}

bool plx_sched_gated(const struct plx_sched *s, const struct plx_sched_ent *e)
{
	struct plx_cost_work w = s->view.work;
	uint64_t itl = least_of(s->view.itl_ns, e->itl_ns);

	if (itl == 0 || s->view.n_seq == 0 || !plx_cost_ready(&s->cost, false))
		return false;
	w.decodes = s->view.n_seq + e->job.n_samples;
	w.context += (uint64_t)e->job.n_samples * e->job.n_ids;
	return plx_cost_ns(&s->cost, &w) > GATE * slo_of(s, itl);
}

bool plx_sched_too_late(const struct plx_sched *s, uint32_t key, uint64_t now_ns)
{
	const struct plx_sched_ent *e = &s->ent[key];
	const struct plx_order *o = plx_order_has(&s->wait, key) ? &s->wait : &s->prefill;

	if (e->due_ns == 0 || e->late || !plx_cost_ready(&s->cost, true))
		return false;
	return (double)now_ns + out_left(s, now_ns) + plx_sched_prompt_ns(s, o->node[key].tokens) >
	       (double)e->due_ns;
}

void plx_sched_put_behind(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];
	struct plx_order *o = plx_order_has(&s->wait, key) ? &s->wait : &s->prefill;
	uint32_t tokens = o->node[key].tokens;

	e->late = true;
	e->rank += BEHIND_NS;
	s->stats.late_starts++;
	plx_order_remove(o, key);
	plx_order_add(o, key, e->rank, tokens, e->job.deadline_ns);
}

/* ---- what came of it ---- */

void plx_sched_step_sent(struct plx_sched *s, uint64_t id, const struct plx_cost_work *w,
                         uint64_t now_ns)
{
	struct plx_sched_sent *t = &s->sent[id % PLX_SCHED_MAX_STEPS];

	t->work = *w;
	t->expect_ns = plx_cost_ns(&s->cost, w);
	t->known = plx_cost_ready(&s->cost, w->prefill > 0);
	if (s->n_steps_out == 1) {
		s->pace.out_ns = 0;
		s->pace.out_since = now_ns;
	}
	s->pace.out_ns += t->expect_ns;
}

/* Which bin an error counts in: the first of [n - 1] bounds that it is not over, or the last. */
static uint32_t bin_of(double err, const double *bound, uint32_t n)
{
	uint32_t b = 0;

	while (b < n - 1 && err > bound[b])
		b++;
	return b;
}

static void judge_step(struct plx_sched *s, const struct plx_sched_sent *t, uint64_t ns)
{
	static const double bound[PLX_SCHED_ERR_BINS - 1] = {0.05, 0.1, 0.25, 0.5};

	if (t->known && t->expect_ns > 0)
		s->stats.step_err[bin_of(fabs((double)ns / t->expect_ns - 1), bound,
		                         PLX_SCHED_ERR_BINS)]++;
}

void plx_sched_step_came(struct plx_sched *s, const struct plx_step *st, bool ok, uint64_t now_ns)
{
	const struct plx_sched_sent *t = &s->sent[st->id % PLX_SCHED_MAX_STEPS];

	s->pace.out_ns = fmax(s->pace.out_ns - t->expect_ns, 0);
	s->pace.out_since = now_ns;
	if (!ok || st->end_ns <= st->start_ns || t->early)
		return;
	judge_step(s, t, st->end_ns - st->start_ns);
	plx_cost_update(&s->cost, &t->work, st->end_ns - st->start_ns);
}

void plx_sched_first_came(struct plx_sched *s, const struct plx_sched_ent *e)
{
	static const double bound[PLX_SCHED_ERR_BINS - 1] = {0.1, 0.25, 0.5, 1};
	struct plx_sched_pace *p = &s->pace;

	if (e->raw_ns == 0 || e->first_ns <= e->admit_ns)
		return;
	double truth = (double)(e->first_ns - e->admit_ns);
	double said = (double)e->said_ns, err = fabs(said / truth - 1);

	s->stats.ttft_err[bin_of(err, bound, PLX_SCHED_ERR_BINS)]++;
	s->stats.ttft_later += truth > said;
	p->ttft_err += SMOOTH * (fmin(err, 2) - p->ttft_err);
	double *t = &p->truth[e->by_place], ratio = truth / (double)e->raw_ns / *t;
	double step = 1 + fmax(TRUTH_STEP, TRUTH_FIRST / (double)++p->n_truth[e->by_place]);

	*t = fmin(fmax(ratio > 1 ? *t * step : *t / step, 0.25), 4);
}
