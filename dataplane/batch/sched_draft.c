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
#define RUN_MOST    64u
#define LEARN_LEAST 64u     /* ids looked at before a step in any case */
#define LEARN_MOST  1024u   /* and at most */
#define LEARN_NS    150.0   /* about what one takes */
#define LEARN_SHARE 0.01    /* of a step's time that it may take */
#define GAP_FIRST   20000.0 /* ns between two steps, before any was measured */
#define GAP_MOST    1e6
#define GAP_SMOOTH  (1.0 / 16)
#define TOK_LEAST   (1.0 / 1024) /* a draft takes this much of a step at least */

size_t plx_sched_draft_bytes(const struct plx_sched_conf *c)
{
	size_t each = sizeof(struct plx_draft) + sizeof(struct plx_draft_share) + sizeof(uint32_t);
	size_t lookup = c->draft_ids ? plx_lookup_bytes(c->n_slots, c->draft_ids) : 0;

	return c->n_slots * each + lookup + 192;
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
	if (s->conf.draft_ids == 0)
		return 0;
	int e = plx_lookup_init(&d->lookup, a, n, s->conf.draft_ids);
	struct plx_drafter by = plx_lookup_drafter(&d->lookup);

	return e ? e : plx_sched_add_drafter(s, &by);
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
	for (uint32_t i = 0; i < s->draft.n_by; i++)
		s->draft.by[i].begin(s->draft.by[i].ctx, slot);
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

	if (q->state != PLX_SEQ_RUN || q->leaving || q->away || plx_seq_prefilling(q) > 0 ||
	    q->n_out == 0 || q->n_out + 1 >= end)
		return 0;
	uint32_t n = least(end - q->n_out - 1, PLX_MAX_DRAFT), pos = plx_seq_pos(q);
	uint32_t held = q->n_blocks * bt > pos ? q->n_blocks * bt - pos : 0;

	/* No step goes past a shift. */
	n = q->shift_at > q->n_run ? least(n, q->shift_at - q->n_run - 1) : 0;

	/* The next token takes a block where there is none, and its drafts lie in that too. */
	held = held ? held - 1 : bt - 1;
	return plx_kv_room(&s->kv) > s->n_run ? n : least(n, held);
}

static void propose(struct plx_sched *s, uint32_t slot, uint32_t most, double least_p)
{
	struct plx_sched_draft *d = &s->draft;
	struct plx_seq *q = &s->seq[slot];

	for (uint32_t b = 0; b < d->n_by; b++) {
		d->by[b].propose(d->by[b].ctx, slot, q->ids, q->n_prompt + q->n_out, most, least_p,
		                 &d->plan[slot]);
		q->drafter = (uint8_t)b;
		if (d->plan[slot].n > 0)
			return;
	}
}

/* All that could carry drafts, with what each draft adds to a step of all that decode. */
static void find_shares(struct plx_sched *s, double plain_ns)
{
	struct plx_sched_draft *d = &s->draft;

	d->n_share = 0;
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
		double ns = fmax(plx_cost_ns(&s->cost, &more) - plain_ns, TOK_LEAST * plain_ns);

		/* What is worth less than a step's time without drafts is in no choice. */
		propose(s, slot, most, fmax(ns * s->view.work.decodes / plain_ns, PLX_DRAFT_FAINT));
		if (d->plan[slot].n == 0)
			continue;
		d->slot[d->n_share] = slot;
		d->share[d->n_share++] = (struct plx_draft_share){
		    .p = d->plan[slot].p, .most = d->plan[slot].n, .tok_ns = ns};
	}
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
	if (step.n_seq == 0 || !plx_cost_ready(&s->cost, false))
		return false;
	step.plain_ns = plx_cost_ns(&s->cost, &s->view.work);
	if (s->view.itl_ns)
		step.limit_ns = (double)s->view.itl_ns / plx_cost_margin(&s->cost);
	if (step.plain_ns <= 0)
		return false;
	find_shares(s, step.plain_ns);
	bool pays = plx_draft_lengths(d->share, d->n_share, &step) > 1;

	for (uint32_t i = 0; i < d->n_share; i++)
		d->plan[d->slot[i]].n = d->share[i].n;
	return pays;
}

bool plx_sched_draft_waits(struct plx_sched *s)
{
	struct plx_sched_draft *d = &s->draft;

	if (d->n_by == 0 || s->n_steps_out == 0)
		return false;
	if (s->n_run > RUN_MOST)
		return d->out;
	if (!d->out && !d->decided) {
		learn(s);
		d->pays = choose(s);
		d->decided = true;
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

	return s->draft.n_share > 0 && p->n > 0 && s->seq[slot].in_flight == 1 ? p : NULL;
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
	s->draft.out = true;
	s->draft.out_id = step_id;
	s->draft.drafted[s->seq[slot].drafter] += n;
}

void plx_sched_drafts_came(struct plx_sched *s, const struct plx_step_seq *r,
                           const struct plx_step_out *o)
{
	struct plx_seq *q = &s->seq[r->slot];

	if (r->n_draft == 0)
		return;
	PLX_DCHECK(q->n_draft == r->n_draft);
	plx_seq_drafts_came(q, o->n_accepted);
	s->draft.accepted[q->drafter] += o->n_accepted;
	s->stats.decode_tokens += o->n_accepted;
}

bool plx_sched_has_drafts(const struct plx_sched *s, const struct plx_step *st)
{
	return st->id == s->draft.out_id;
}

void plx_sched_draft_sent(struct plx_sched *s, uint64_t step_id)
{
	struct plx_sched_draft *d = &s->draft;

	if (d->waited) {
		d->waited_id = step_id;
		d->waits++;
	}
	d->waited = false;
	d->decided = false;
}

void plx_sched_draft_came(struct plx_sched *s, const struct plx_step *st, bool ok)
{
	struct plx_sched_draft *d = &s->draft;

	d->decided = false;
	d->out = d->out && st->id != d->out_id;
	if (ok && st->id == d->waited_id && d->last_end_ns > 0 && st->start_ns > d->last_end_ns)
		d->gap_ns += GAP_SMOOTH *
		             (fmin((double)(st->start_ns - d->last_end_ns), GAP_MOST) - d->gap_ns);
	d->last_end_ns = ok ? st->end_ns : 0;
}
