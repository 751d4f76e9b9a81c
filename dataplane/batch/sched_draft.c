/*
 * Drafts in the batcher: who learns what, when drafting pays, and what comes of it. draft.h has the
 * rule by which lengths are chosen, sched.h the policy.
 */
#include "dataplane/batch/sched_int.h"

#include <math.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

/*
 * With more than this running nothing is drafted or learnt: asking all would take longer than a
 * step may be filled in. A limit of the scheduler's own time, whatever the device could gain.
 */
#define RUN_MOST    PLX_SCHED_DRAFT_SEQS
#define SEEN_SMOOTH (1.0 / 8)
#define LEARN_LEAST 64u     /* ids looked at before a step in any case */
#define LEARN_MOST  1024u   /* and at most */
#define LEARN_NS    150.0   /* about what one takes */
#define LEARN_SHARE 0.01    /* of a step's time that it may take */
#define GAP_FIRST   20000.0 /* ns between two steps, before any was measured */
#define GAP_MOST    1e6
#define GAP_SMOOTH  (1.0 / 16)
#define TOK_LEAST   (1.0 / 1024) /* a draft takes this much of a step at least */
#define PROBE_SHARE 0.004        /* of the steps' time, for drafters that do not pay */
#define PROBE_IDS   3u           /* guessed at a time */
#define LOSS_SHARE  0.005        /* of the time of steps without drafts may be lost by drafting */
#define CREDIT_ONE  1.5          /* steps' time that may be lost at first */
#define PURSE_ONE   0.5          /* of its step's time that a sequence may lose at first */
#define CREDIT_MOST 8.0          /* and at most, whatever was won before */
#define TRY_IDS     3u   /* drafted for one at a time, as long as steps with drafts are new */
#define TRY_STEPS   4u   /* so many are */
#define ASK_MOST    16.0 /* times that, for a step that waited for those it asked */
#define STAYS_MOST  64u  /* ids over which what a drafter needs at first is spread */

size_t plx_sched_draft_bytes(const struct plx_sched_conf *c)
{
	size_t each = sizeof(struct plx_draft) + sizeof(struct plx_draft_share) + sizeof(uint32_t);
	size_t lookup = c->draft_ids ? plx_lookup_bytes(c->n_slots, c->draft_ids) : 0;
	size_t ahead = c->ahead_ids ? plx_ahead_bytes(c->n_slots) : 0;

	return c->n_slots * each + lookup + ahead + 192;
}

int plx_sched_draft_init(struct plx_sched *s, struct plx_arena *a)
{
	struct plx_sched_draft *d = &s->draft;
	uint32_t n = s->conf.n_slots;

	d->gap_ns = GAP_FIRST;
	d->plan = plx_arena_take(a, n * sizeof(*d->plan), 64);
	d->share = plx_arena_take(a, n * sizeof(*d->share), 64);
	d->slot = plx_arena_take(a, n * sizeof(*d->slot), 64);
	if (!d->plan || !d->share || !d->slot)
		return PLX_E_NOMEM;
	int e = 0;

	if (s->conf.draft_ids > 0) {
		e = plx_lookup_init(&d->lookup, a, n, s->conf.draft_ids);
		d->lookup.trees = s->conf.tree_branches > 0;
		struct plx_drafter by = plx_lookup_drafter(&d->lookup);

		e = e ? e : plx_sched_add_drafter(s, &by);
	}
	if (e == 0 && s->conf.ahead_ids > 0) {
		e = plx_ahead_init(&d->ahead, a, n, s->conf.ahead_ids);
		struct plx_drafter by = plx_ahead_drafter(&d->ahead);

		e = e ? e : plx_sched_add_drafter(s, &by);
	}
	return e;
}

int plx_sched_add_drafter(struct plx_sched *s, const struct plx_drafter *by)
{
	if (s->draft.n_by == PLX_DRAFTERS)
		return PLX_E_LIMIT;
	s->draft.by[s->draft.n_by++] = *by;
	return 0;
}

void plx_sched_draft_begin(struct plx_sched *s, uint32_t slot)
{
	const struct plx_seq *q = &s->seq[slot];
	struct plx_sampler how = s->ent[q->ent].job.sampler;

	how.sample = q->sample;
	s->seq[slot].purse_open = false;
	for (uint32_t i = 0; i < s->draft.n_by; i++) {
		const struct plx_drafter *by = &s->draft.by[i];

		by->begin(by->ctx, slot);
		if (by->sampling)
			by->sampling(by->ctx, slot, &how);
	}
}

void plx_sched_draft_end(struct plx_sched *s, uint32_t slot)
{
	for (uint32_t i = 0; i < s->draft.n_by; i++)
		if (s->draft.by[i].end)
			s->draft.by[i].end(s->draft.by[i].ctx, slot);
}

/* ---- learning ---- */

/* Let each drafter look at what came since, in turn, for a small part of a step's time. */
static void learn(struct plx_sched *s)
{
	struct plx_sched_draft *d = &s->draft;
	double fit = LEARN_SHARE * (double)s->load.step_ns / LEARN_NS;
	uint32_t left = (uint32_t)fmin(fmax(fit, LEARN_LEAST), LEARN_MOST), at = d->next;

	for (uint32_t i = 0; i < s->n_run; i++) {
		at = (d->next + i) % s->n_run;
		uint32_t slot = s->run[at];
		const struct plx_seq *q = &s->seq[slot];

		for (uint32_t b = 0; b < d->n_by && left > 0 && q->state == PLX_SEQ_RUN; b++)
			left -= d->by[b].learn(d->by[b].ctx, slot, q->ids, q->n_prompt + q->n_out,
			                       q->n_prompt, left);
		if (left == 0)
			break;
	}
	d->next = left == 0 ? at : 0;
}

/* ---- who shall have how many ---- */

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Positions behind its next token that it may run: answers, windows and blocks end somewhere. */
static uint32_t draft_limit(const struct plx_sched *s, const struct plx_seq *q)
{
	uint32_t end = least(q->max_new, q->window), bt = s->conf.block_tokens;

	if (s->ent[q->ent].job.no_drafts || q->state != PLX_SEQ_RUN || q->leaving || q->away ||
	    plx_seq_prefilling(q) > 0 || q->n_out == 0 || q->n_out + 1 >= end)
		return 0;
	uint32_t n = least(end - q->n_out - 1, PLX_MAX_DRAFT), pos = plx_seq_pos(q);
	uint32_t held = q->n_blocks * bt > pos ? q->n_blocks * bt - pos : 0;

	/* No step goes past a shift. */
	n = q->shift_at > q->n_run ? least(n, q->shift_at - q->n_run - 1) : 0;

	/* The next token takes a block where there is none, and its drafts lie in that too. */
	held = held ? held - 1 : bt - 1;
	return plx_kv_room(&s->kv) > s->n_run ? n : least(n, held);
}

/* Ids that a proposal promises, of those that can be run. */
static float promise(const struct plx_draft *p)
{
	float sum = 0;

	for (uint32_t i = 0; i < p->n && i < PLX_MAX_DRAFT; i++)
		sum += p->all[i];
	return sum;
}

/* What somebody has ready, of who promises most; false: nobody has anything. */
static bool ready(struct plx_sched *s, uint32_t slot, uint32_t most, double least_p)
{
	struct plx_sched_draft *d = &s->draft;
	struct plx_seq *q = &s->seq[slot];
	struct plx_draft *best = &d->plan[slot], one;

	plx_draft_begin(best, false);
	for (uint32_t b = 0; b < d->n_by; b++) {
		plx_draft_begin(&one, s->conf.tree_branches > 0);
		d->by[b].propose(d->by[b].ctx, slot, q->ids, q->n_prompt + q->n_out, most, least_p,
		                 &one);
		if (one.n == 0)
			continue;
		if (one.tree)
			plx_draft_sort(&one);
		if (best->n > 0 && promise(&one) <= promise(best))
			continue;
		one.tell = one.tree && d->by[b].came != NULL;
		*best = one;
		q->drafter = (uint8_t)b;
	}
	return best->n > 0;
}

/*
 * What catching up takes before the first id is guessed. As long as nobody measured it, an id is
 * taken to cost what one of a prompt costs the model itself.
 */
static double advance_ns(const struct plx_sched *s, const struct plx_draft_hope *h, double plain)
{
	double tok = s->load.tok_ns > 0 ? (double)s->load.tok_ns : plain;

	return h->once_ns > 0 ? h->once_ns : h->behind * tok;
}

/*
 * What could be had by asking: chances, and in *ask_ns what each id takes beside its place in the
 * step; what it takes to catch up is spread over the ids that are still to come. It is
 * an advance, of all that are asked together never more than the account has. Where nobody knows
 * what a guess takes, one is asked.
 */
static bool hoped(struct plx_sched *s, uint32_t slot, uint32_t most, double plain, double *ask_ns)
{
	struct plx_sched_draft *d = &s->draft;
	struct plx_seq *q = &s->seq[slot];
	struct plx_draft *plan = &d->plan[slot];
	struct plx_draft_hope h;

	for (uint32_t b = 0; b < d->n_by && !d->asked; b++) {
		const struct plx_drafter *by = &d->by[b];

		plan->n =
		    by->expect ? by->expect(by->ctx, slot, q->n_prompt + q->n_out, most, &h) : 0;
		double advance = plan->n > 0 ? advance_ns(s, &h, plain) : 0;

		if (plan->n == 0 || (advance > 0 && d->advance_ns + advance > d->credit_ns)) {
			plan->n = 0;
			continue;
		}
		uint32_t n = h.each_ns > 0 ? plan->n : 1;

		d->advance_ns += advance;

		plx_draft_begin(plan, false);
		for (uint32_t i = 0; i < n; i++)
			plx_draft_add(plan, (int32_t)i - 1, 0, h.p[i]);
		plan->hope = true;
		q->drafter = (uint8_t)b;
		*ask_ns = h.each_ns + advance / least(q->max_new - q->n_out, STAYS_MOST);
		return true;
	}
	return false;
}

/*
 * A step of all that decode without drafts: what the cost model says, or what such steps took when
 * they were last seen, if that is less: with many drafts there are few of them to learn from.
 */
static double plain_ns(const struct plx_sched *s)
{
	double model = plx_cost_ns(&s->cost, &s->view.work);
	double seen = s->draft.seen_ns[least(s->view.work.decodes, RUN_MOST)];

	return seen > 0 && seen < model ? seen : model;
}

/*
 * Drafts that a sequence's purse pays for if none of them is right: what it may lose at first, a
 * share of its steps' time, and what its drafts won. So nobody's answer gets slower by more than
 * that, whatever others won.
 */
static uint32_t purse_most(struct plx_sched *s, uint32_t slot, double ns, double plain)
{
	struct plx_seq *q = &s->seq[slot];

	if (!q->purse_open) {
		q->purse_ns = PURSE_ONE * plain / s->view.work.decodes;
		q->purse_open = true;
	}
	/* The cost model has not seen what places beyond the first take. */
	uint32_t most = s->draft.n_given < TRY_STEPS ? TRY_IDS : PLX_MAX_DRAFT;

	return q->purse_ns <= 0 ? 0 : (uint32_t)fmin(q->purse_ns / ns, most);
}

/* One sequence that could carry drafts, if somebody has any that could be worth it. */
static void find_share(struct plx_sched *s, uint32_t slot, uint32_t most, double ns, double plain)
{
	struct plx_sched_draft *d = &s->draft;
	double ask_ns = 0;

	/* What is worth less than a step's time without drafts is in no choice. */
	double least_p = fmax(ns * s->view.work.decodes / plain, PLX_DRAFT_FAINT);

	if (!ready(s, slot, most, least_p) && !hoped(s, slot, most, plain, &ask_ns))
		return;
	d->slot[d->n_share] = slot;
	d->share[d->n_share++] =
	    (struct plx_draft_share){.p = d->plan[slot].all,
	                             .most = least(d->plan[slot].n, PLX_MAX_DRAFT),
	                             .tok_ns = ns,
	                             .ask_ns = ask_ns};
}

/* All that could carry drafts, with what each draft adds to a step of all that decode. */
static void find_shares(struct plx_sched *s, double plain)
{
	struct plx_sched_draft *d = &s->draft;
	double model = plx_cost_ns(&s->cost, &s->view.work);
	uint32_t n_hope = 0;

	d->n_share = 0;
	d->advance_ns = 0;
	for (uint32_t i = 0; i < s->n_run; i++) {
		uint32_t slot = s->run[i];
		const struct plx_seq *q = &s->seq[slot];
		uint32_t most = draft_limit(s, q);
		struct plx_cost_work more = s->view.work;

		d->plan[slot].n = 0;
		if (most == 0)
			continue;
		more.decodes++;
		more.context += plx_seq_pos(q);
		double ns = fmax(plx_cost_ns(&s->cost, &more) - model, TOK_LEAST * plain);

		most = least(most, purse_most(s, slot, ns, plain));
		if (most > 0)
			find_share(s, slot, most, ns, plain);
	}
	/* Those that are asked together share a drafter's steps. */
	for (uint32_t i = 0; i < d->n_share; i++)
		n_hope += d->plan[d->slot[i]].hope;
	for (uint32_t i = 0; i < d->n_share; i++)
		d->share[i].tok_ns += n_hope ? d->share[i].ask_ns / n_hope : 0;
}

/* Drafts that the record has room for beside what decodes and prompts' eighth. */
static uint32_t tokens_left(const struct plx_sched *s)
{
	uint32_t all = s->conf.step_tokens - s->conf.step_tokens / 8, n = s->view.work.decodes;

	return all > n ? all - n : 0;
}

/* Chooses lengths; whether any are worth it. Lengths are in plan. */
static bool choose(struct plx_sched *s)
{
	struct plx_sched_draft *d = &s->draft;
	struct plx_draft_step step = {
	    .n_seq = s->view.work.decodes, .max_tok = tokens_left(s), .wait_ns = d->gap_ns};

	d->n_share = 0;
	/* Steps that drafts made longer would leave prompts no time. */
	if (step.n_seq == 0 || !plx_cost_ready(&s->cost, false) || plx_order_count(&s->prefill) > 0)
		return false;
	step.plain_ns = plain_ns(s);
	if (s->view.itl_ns)
		step.limit_ns = (double)s->view.itl_ns / plx_cost_margin(&s->cost);
	if (step.plain_ns <= 0)
		return false;
	if (d->credit_ns < 0)
		return false;
	find_shares(s, step.plain_ns);
	bool pays = plx_draft_lengths(d->share, d->n_share, &step) > 1;

	for (uint32_t i = 0; i < d->n_share; i++) {
		d->plan[d->slot[i]].n = d->share[i].n;
		s->seq[d->slot[i]].draft_ns = d->share[i].tok_ns;
	}
	return pays;
}

/* ---- asking ---- */

static void ask(struct plx_sched *s, uint32_t slot, uint32_t n)
{
	const struct plx_seq *q = &s->seq[slot];
	const struct plx_drafter *by = &s->draft.by[q->drafter];

	by->ask(by->ctx, slot, q->ids, q->n_prompt + q->n_out, n);
}

static bool anybody_busy(const struct plx_sched *s)
{
	const struct plx_sched_draft *d = &s->draft;

	for (uint32_t b = 0; b < d->n_by; b++)
		if (d->by[b].busy && d->by[b].busy(d->by[b].ctx))
			return true;
	return false;
}

/* With nothing in flight: ask who is worth it. Whether the step has to wait for guesses. */
static bool guessing(struct plx_sched *s)
{
	struct plx_sched_draft *d = &s->draft;
	bool any = false;

	if (d->asking)
		d->asking = anybody_busy(s);
	if (d->asked || s->n_run == 0 || plx_order_count(&s->prefill) > 0)
		return d->asking;
	learn(s);
	if (choose(s))
		for (uint32_t i = 0; i < d->n_share; i++)
			if (d->plan[d->slot[i]].hope && d->share[i].n > 0) {
				ask(s, d->slot[i], d->share[i].n);
				any = true;
			}
	d->asked = d->asking = any;
	return any;
}

/* Where nobody is worth asking: now and then one is asked beside the steps, for little. */
static void probe(struct plx_sched *s)
{
	struct plx_sched_draft *d = &s->draft;

	if (d->probe_ns <= 0 || s->n_run == 0 || anybody_busy(s))
		return;
	uint32_t slot = s->run[d->probes % s->n_run], most = draft_limit(s, &s->seq[slot]);
	struct plx_seq *q = &s->seq[slot];
	struct plx_draft_hope h;

	if (most == 0)
		return;
	for (uint32_t b = 0; b < d->n_by; b++) {
		const struct plx_drafter *by = &d->by[b];
		uint32_t n = by->expect ? by->expect(by->ctx, slot, q->n_prompt + q->n_out,
		                                     least(most, PROBE_IDS), &h)
		                        : 0;

		double ns = n > 0 ? advance_ns(s, &h, plain_ns(s)) + n * h.each_ns : 0;

		if (n == 0 || ns > d->probe_ns)
			continue;
		d->probe_ns -= ns;
		d->probes++;
		q->drafter = (uint8_t)b;
		ask(s, slot, n);
		return;
	}
}

bool plx_sched_draft_waits(struct plx_sched *s)
{
	struct plx_sched_draft *d = &s->draft;

	if (d->n_by == 0)
		return false;
	if (s->n_run > RUN_MOST)
		return d->out && s->n_steps_out > 0;
	if (s->n_steps_out == 0)
		return guessing(s);
	if (!d->out && !d->decided) {
		learn(s);
		d->pays = choose(s);
		d->decided = true;
		if (!d->pays)
			probe(s);
	}
	d->waited = d->waited || d->out || d->pays;
	return d->out || d->pays;
}

void plx_sched_draft_plan(struct plx_sched *s)
{
	struct plx_sched_draft *d = &s->draft;

	d->n_share = 0;
	if (d->n_by == 0 || s->n_steps_out > 0 || s->n_run > RUN_MOST)
		return;
	learn(s);
	if (!choose(s))
		d->n_share = 0;
}

const struct plx_draft *plx_sched_draft_of(const struct plx_sched *s, uint32_t slot)
{
	const struct plx_draft *p = &s->draft.plan[slot];

	return s->draft.n_share > 0 && p->n > 0 && !p->hope && s->seq[slot].in_flight == 1 ? p
	                                                                                   : NULL;
}

uint32_t plx_sched_draft_room(struct plx_sched *s, uint32_t slot, uint32_t n)
{
	const struct plx_seq *q = &s->seq[slot];
	uint32_t held = q->n_blocks * s->conf.block_tokens - plx_seq_pos(q);

	n = least(n, q->shift_at - q->n_run);
	if (n <= held)
		return n;
	/* More than a block for each that runs: nobody has to leave for it. */
	return plx_kv_room(&s->kv) > s->n_run ? plx_sched_blocks_for(s, slot, n) : held;
}

/* ---- what came of it ---- */

void plx_sched_draft_gave(struct plx_sched *s, uint32_t slot, uint64_t step_id, uint32_t n)
{
	s->draft.n_given += s->draft.n_given == 0 || step_id != s->draft.out_id;
	s->draft.out = true;
	s->draft.out_id = step_id;
	s->draft.drafted[s->draft.by[s->seq[slot].drafter].kind] += n;
}

/* What a row's drafts won or lost, by what the cost model says that they took. */
static void fill_purse(const struct plx_sched *s, struct plx_seq *q, uint32_t n_draft,
                       uint32_t n_accepted)
{
	const struct plx_sched_draft *d = &s->draft;

	if (d->plain_ns <= 0 || d->n_plain == 0 || !q->purse_open)
		return;
	double own = d->plain_ns / d->n_plain;

	if (n_draft > 0)
		q->purse_ns += n_accepted * own - n_draft * q->draft_ns - d->gap_ns / d->n_plain;
	else
		q->purse_ns += LOSS_SHARE * own;
	q->purse_ns = fmin(q->purse_ns, CREDIT_MOST * own);
}

/* Tells who drafted what each row sampled. */
static void tell_rows(const struct plx_drafter *by, const struct plx_step *st,
                      const struct plx_step_seq *r, const struct plx_step_out *o)
{
	uint32_t root = r->first_tok + r->n_tok - 1 - r->n_draft;
	const struct plx_step_tok *tok =
	    (const struct plx_step_tok *)(const void *)((const char *)st + st->tok_off) + root;
	struct plx_draft_rows rows = {.n = r->n_draft, .n_taken = o->n_out, .taken = o->id};

	for (uint32_t i = 0; i <= r->n_draft; i++) {
		rows.id[i] = tok[i].id;
		rows.parent[i] = tok[i].parent < 0 ? (int32_t)i - 1 : tok[i].parent - (int32_t)root;
		rows.sampled[i] = (int32_t)tok[i].pos[1];
	}
	by->came(by->ctx, r->slot, &rows);
}

void plx_sched_drafts_came(struct plx_sched *s, const struct plx_step *st,
                           const struct plx_step_seq *r, const struct plx_step_out *o)
{
	struct plx_seq *q = &s->seq[r->slot];
	const struct plx_drafter *by = &s->draft.by[q->drafter];

	fill_purse(s, q, r->n_draft, o->n_accepted);
	if (r->n_draft == 0)
		return;
	PLX_DCHECK(q->n_draft <= r->n_draft);
	plx_seq_drafts_came(q, o->n_accepted);
	s->draft.accepted[by->kind] += o->n_accepted;
	s->stats.decode_tokens += o->n_accepted;
	if (by->came && s->conf.tree_branches > 0)
		tell_rows(by, st, r, o);
}

bool plx_sched_has_drafts(const struct plx_sched *s, const struct plx_step *st)
{
	return st->id == s->draft.out_id;
}

void plx_sched_draft_sent(struct plx_sched *s, uint64_t step_id, const struct plx_cost_work *w)
{
	struct plx_sched_draft *d = &s->draft;
	uint32_t n = s->view.work.decodes;

	d->waited = d->waited || d->asked;
	if (d->waited) {
		d->waited_id = step_id;
		d->waits++;
	}
	/* Steps with prompt tokens are not judged. */
	d->plain_ns = w->prefill == 0 && plx_cost_ready(&s->cost, false) ? plain_ns(s) : 0;
	d->n_plain = n;
	d->pure[step_id % PLX_SCHED_MAX_STEPS] =
	    w->prefill == 0 && n <= RUN_MOST && w->decodes == n ? (uint8_t)n : 0;
	d->came_late = d->asked;
	d->waited = false;
	d->decided = false;
	d->asked = d->asking = false;
}

/* A step of decodes alone came back. */
static void see_plain(struct plx_sched_draft *d, const struct plx_step *st)
{
	uint32_t n = d->pure[st->id % PLX_SCHED_MAX_STEPS];

	if (n == 0 || st->end_ns <= st->start_ns)
		return;
	double ns = (double)(st->end_ns - st->start_ns), *seen = &d->seen_ns[n];

	*seen = *seen > 0 ? *seen + SEEN_SMOOTH * (ns - *seen) : ns;
}

static uint32_t ids_of(struct plx_step *st)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < st->n_seq; i++)
		n += plx_step_outs(st)[i].n_out;
	return n;
}

/* What the step, and the wait before it, won or lost against steps without drafts. */
static void account(struct plx_sched *s, struct plx_step *st)
{
	struct plx_sched_draft *d = &s->draft;
	double most = CREDIT_MOST * d->plain_ns;

	if (d->plain_ns <= 0 || d->n_plain == 0)
		return;
	if (!d->opened) {
		d->credit_ns = CREDIT_ONE * d->plain_ns;
		d->opened = true;
	}
	if (st->id == d->waited_id && d->last_end_ns > 0 && st->end_ns > d->last_end_ns) {
		/* Time in which nobody wanted anything is no loss of drafting's. */
		double took = fmin((double)(st->end_ns - d->last_end_ns),
		                   d->came_late ? ASK_MOST * most : most);

		d->credit_ns += d->plain_ns * ids_of(st) / d->n_plain - took;
	} else {
		d->credit_ns += LOSS_SHARE * d->plain_ns;
		d->probe_ns = fmin(d->probe_ns + PROBE_SHARE * d->plain_ns, most);
	}
	d->credit_ns = fmin(d->credit_ns, most);
}

void plx_sched_draft_came(struct plx_sched *s, struct plx_step *st, bool ok)
{
	struct plx_sched_draft *d = &s->draft;

	d->decided = false;
	d->out = d->out && st->id != d->out_id;
	if (ok)
		see_plain(d, st);
	if (ok)
		account(s, st);
	if (ok && st->id == d->waited_id && !d->came_late && d->last_end_ns > 0 &&
	    st->start_ns > d->last_end_ns)
		d->gap_ns += GAP_SMOOTH *
		             (fmin((double)(st->start_ns - d->last_end_ns), GAP_MOST) - d->gap_ns);
	d->last_end_ns = ok ? st->end_ns : 0;
}
