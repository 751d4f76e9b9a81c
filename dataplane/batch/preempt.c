/* Blocks on demand, preemption and the reserve; preempt.h says the rules. */
#include "dataplane/batch/preempt.h"

#include "dataplane/batch/move.h"
#include "dataplane/batch/sched_int.h"
#include "fw/base/check.h"

#define TOKEN_NS 50000.0 /* a token, before any was measured */

/* ---- the order ---- */

void plx_sched_keep(struct plx_sched *s, struct plx_sched_ent *e)
{
	double token_ns = s->load.tok_ns ? (double)s->load.tok_ns : TOKEN_NS;
	uint64_t lag = plx_fair_lag_ns(&s->fair, e->fair_start, token_ns);

	uint64_t since_ns = e->job.since_ns ? e->job.since_ns : e->admit_ns;

	e->keep = plx_queue_rank(since_ns, 0, 0, e->job.priority, lag);
	e->serial = ++s->last_serial;
}

/* Whether slot a stands before slot b; both run. */
static bool ahead(const struct plx_sched *s, uint32_t a, uint32_t b)
{
	const struct plx_seq *x = &s->seq[a], *y = &s->seq[b];
	const struct plx_sched_ent *e = &s->ent[x->ent], *f = &s->ent[y->ent];

	if (e->keep != f->keep)
		return e->keep < f->keep;
	if (e->serial != f->serial)
		return e->serial < f->serial;
	return x->sample < y->sample;
}

static bool at_window(const struct plx_seq *q)
{
	return q->n_out >= q->window;
}

/* Whether a sequence runs and will go on by itself. */
static bool runs(const struct plx_seq *q)
{
	return q->state == PLX_SEQ_RUN && !q->leaving && !at_window(q);
}

static uint32_t blocks_of(const struct plx_sched *s, uint32_t positions)
{
	return (positions + s->conf.block_tokens - 1) / s->conf.block_tokens;
}

/* ---- leaving ---- */

void plx_sched_will_leave(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	if (s->hungry == slot)
		s->hungry = PLX_KV_NONE;
	if (q->yields > 0 || q->in_flight == 0)
		return;
	for (uint32_t i = 0; i < q->n_blocks; i++)
		q->yields += s->kv.block[q->block[i]].ref == 1;
	s->coming += q->yields;
}

void plx_sched_forget(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	s->coming -= q->yields;
	q->yields = 0;
	if (q->away)
		s->n_away--;
	q->away = false;
	if (s->hungry == slot)
		s->hungry = PLX_KV_NONE;
}

static void restart(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	plx_sched_forget(s, slot);
	if (s->ent[q->ent].first_ns)
		s->ent[q->ent].due_ns = 0; /* it came already */
	q->n_lost = q->n_ok;
	plx_seq_restart(q, &s->prefix, plx_sched_space(&s->ent[q->ent].job));
	q->away = true;
	s->n_away++;
	plx_sched_prefill_update(s, q->ent);
}

void plx_sched_let_go(struct plx_sched *s, uint32_t slot)
{
	PLX_DCHECK(s->seq[slot].leaving && s->seq[slot].in_flight == 0);
	restart(s, slot);
}

void plx_sched_preempt(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	PLX_CHECK(q->state == PLX_SEQ_RUN && !q->leaving);
	q->leaving = true;
	s->stats.preempted++;
	plx_sched_will_leave(s, slot);
	if (q->in_flight == 0)
		plx_sched_let_go(s, slot);
}

void plx_sched_restart_all(struct plx_sched *s)
{
	for (uint32_t i = 0; i < s->n_run; i++) {
		if (s->seq[s->run[i]].kept) {
			plx_sched_kept_drop(s, s->run[i]);
			continue;
		}
		PLX_DCHECK(s->seq[s->run[i]].state == PLX_SEQ_RUN);
		restart(s, s->run[i]);
	}
	s->hungry = PLX_KV_NONE;
}

/* Thin one out that has said that it may be; the last in the order first. False: none is left. */
static bool thin_out(struct plx_sched *s, uint32_t slot)
{
	uint32_t last = PLX_KV_NONE, bt = s->conf.block_tokens;

	for (uint32_t i = 0; i < s->n_run; i++) {
		uint32_t v = s->run[i];
		const struct plx_seq *q = &s->seq[v];

		if (v != slot && q->evict == PLX_SEQ_EVICT_READY && q->n_draft == 0 &&
		    q->yields == 0 && plx_seq_can_decode(q) &&
		    q->n_blocks > blocks_of(s, plx_seq_pos(q) + bt - q->n_prompt + q->n_stay) &&
		    (last == PLX_KV_NONE || ahead(s, last, v)))
			last = v;
	}
	if (last == PLX_KV_NONE)
		return false;
	struct plx_seq *q = &s->seq[last];

	plx_sched_evict(s, q);
	q->yields = q->n_blocks - blocks_of(s, plx_seq_pos(q) + bt);
	s->coming += q->yields;
	return true;
}

/* The last in the order behind slot that holds blocks, or one whose window is closed. */
static uint32_t victim(const struct plx_sched *s, uint32_t slot)
{
	uint32_t last = PLX_KV_NONE;

	for (uint32_t i = 0; i < s->n_run; i++) {
		uint32_t v = s->run[i];
		const struct plx_seq *q = &s->seq[v];

		if (v == slot || q->state != PLX_SEQ_RUN || q->leaving || q->n_blocks == 0)
			continue;
		if (at_window(q) && q->in_flight == 0)
			return v;
		if (ahead(s, slot, v) && (last == PLX_KV_NONE || ahead(s, last, v)))
			last = v;
	}
	return last;
}

void plx_sched_evict(struct plx_sched *s, struct plx_seq *q)
{
	struct plx_sched_final *f = &s->ent[q->ent].out;

	plx_seq_evict_begin(q, s->conf.block_tokens);
	s->stats.evicted_tokens += q->n_evicted;
	/* Said even if it is preempted and comes back whole: ids were made without those. */
	f->n_evicted = q->n_evicted;
	f->evict_loss = q->evict_loss;
}

void plx_sched_evict_came(struct plx_sched *s, struct plx_seq *q)
{
	plx_seq_evict_came(q, &s->prefix);
	s->coming -= q->yields;
	q->yields = 0;
}

/* ---- taking ---- */

/* There is no block: make others leave until as many come as were asked for. */
static void demand(struct plx_sched *s, uint32_t slot, uint32_t n)
{
	if (s->hungry == PLX_KV_NONE || ahead(s, slot, s->hungry))
		s->hungry = slot;
	s->asked += n;
	s->stats.short_of++;
	while (s->coming + plx_kv_room(&s->kv) < s->asked) {
		if (plx_sched_kept_yield(s) || thin_out(s, slot))
			continue;
		uint32_t v = victim(s, slot);

		if (v == PLX_KV_NONE)
			return;
		plx_sched_preempt(s, v);
	}
}

static bool must_wait(const struct plx_sched *s, uint32_t slot)
{
	return s->hungry != PLX_KV_NONE && s->hungry != slot && ahead(s, s->hungry, slot);
}

/* Take blocks until the sequence has so many, as far as there are any. */
static void take_up_to(struct plx_sched *s, uint32_t slot, uint32_t want)
{
	struct plx_seq *q = &s->seq[slot];

	bool asked = false;

	while (q->n_blocks < want && !must_wait(s, slot)) {
		if (plx_kv_room(&s->kv) == 0 && !asked) {
			demand(s, slot, want - q->n_blocks);
			asked = true;
		}
		uint32_t b = plx_prefix_take(&s->prefix);

		if (b == PLX_KV_NONE)
			return;
		q->block[q->n_blocks++] = b;
		s->asked -= asked;
	}
	if (q->n_blocks >= want && s->hungry == slot)
		s->hungry = PLX_KV_NONE;
}

/* ---- beyond the context ---- */

/* A copy in place of block i, which others hold or the cache knows; false: not in this step. */
static bool copy_block(struct plx_sched *s, uint32_t slot, uint32_t i)
{
	struct plx_seq *q = &s->seq[slot];

	if (must_wait(s, slot) || !plx_tier_can(&s->tier))
		return false;
	bool asked = plx_kv_room(&s->kv) == 0;

	if (asked)
		demand(s, slot, 1);
	uint32_t to = plx_prefix_take(&s->prefix);

	if (to == PLX_KV_NONE)
		return false;
	s->asked -= asked;
	if (!plx_tier_can(&s->tier)) { /* making room took the last copy */
		plx_prefix_drop(&s->prefix, to);
		return false;
	}
	plx_tier_pair(&s->tier, q->block[i], to);
	plx_prefix_drop(&s->prefix, q->block[i]);
	q->block[i] = to;
	q->n_told = q->n_told < i ? q->n_told : i;
	return true;
}

/* Block i may be written, and nobody finds it; false: not in this step. */
static bool make_own(struct plx_sched *s, uint32_t slot, uint32_t i, bool roomy)
{
	uint32_t b = s->seq[slot].block[i];

	if (s->kv.block[b].ref > 1)
		return copy_block(s, slot, i);
	if (s->prefix.block[b].uid == 0 || (roomy && copy_block(s, slot, i)))
		return true;
	plx_prefix_forget(&s->prefix, b);
	return true;
}

/* The oldest tokens leave; false: not in this step. */
static bool shift(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];
	bool roomy = plx_kv_room(&s->kv) > plx_sched_owed(s) + q->n_blocks;

	if (q->in_flight > 0)
		return false;
	for (uint32_t i = PLX_SHIFT_SINKS + q->shift->drop; i < q->n_blocks; i++)
		if (!make_own(s, slot, i, roomy))
			return false;
	if (s->hungry == slot)
		s->hungry = PLX_KV_NONE;
	plx_seq_shift(q, &s->prefix);
	s->stats.shifts++;
	s->stats.left_tokens += plx_shift_step(q->shift);
	return true;
}

uint32_t plx_sched_blocks_for(struct plx_sched *s, uint32_t slot, uint32_t n)
{
	struct plx_seq *q = &s->seq[slot];
	uint32_t bt = s->conf.block_tokens;

	if (q->n_run == q->shift_at && q->score)
		plx_seq_next_window(q);
	else if (q->n_run == q->shift_at && !shift(s, slot))
		return 0;
	uint32_t pos = plx_seq_pos(q);

	n = n < q->shift_at - q->n_run ? n : q->shift_at - q->n_run;
	take_up_to(s, slot, blocks_of(s, pos + n));
	uint32_t can = q->n_blocks * bt > pos ? q->n_blocks * bt - pos : 0;

	return can < n ? can : n;
}

/* The first of all that would go on. */
static uint32_t head(const struct plx_sched *s)
{
	uint32_t first = PLX_KV_NONE;

	for (uint32_t i = 0; i < s->n_run; i++) {
		uint32_t v = s->run[i];

		if (runs(&s->seq[v]) && (first == PLX_KV_NONE || ahead(s, v, first)))
			first = v;
	}
	return first;
}

void plx_sched_memory_turn(struct plx_sched *s)
{
	s->asked = 0;
	plx_tier_turn(&s->tier, s->conf.step_copies ? s->conf.step_copies : UINT32_MAX);
	if (s->hungry != PLX_KV_NONE && !runs(&s->seq[s->hungry]))
		s->hungry = PLX_KV_NONE;
	s->head = s->n_away > 0 ? head(s) : PLX_KV_NONE;
}

uint64_t plx_sched_owed(const struct plx_sched *s)
{
	uint64_t owed = 0;

	for (uint32_t i = 0; i < s->n_run; i++) {
		const struct plx_seq *q = &s->seq[s->run[i]];
		uint32_t has = blocks_of(s, q->n_shared);

		if (!runs(q))
			continue;
		has = q->n_blocks > has ? q->n_blocks : has;
		owed += 1;
		uint32_t need = blocks_of(s, plx_seq_within(q, q->n_known));

		if (plx_seq_prefilling(q) > 0 && need > has)
			owed += need - has;
	}
	return owed;
}

/* Room for a block for each that runs; those that are away are not counted, they have not got it.
 */
static bool has_room(const struct plx_sched *s, const struct plx_seq *q)
{
	uint32_t need = blocks_of(s, plx_seq_within(q, q->n_known + 1));
	uint32_t running = s->n_run - s->n_away;

	return plx_kv_room(&s->kv) >= need + running;
}

/* What n prompt tokens at this position take, beside what a step takes anyway. */
static double prompt_ns(const struct plx_sched *s, uint32_t pos, uint32_t n)
{
	struct plx_cost_work none = {0}, w = {0};

	if (!plx_cost_ready(&s->cost, true))
		return 0;
	plx_cost_add_prefill(&w, pos, n);
	return plx_cost_ns(&s->cost, &w) - plx_cost_ns(&s->cost, &none);
}

static uint32_t fetch(struct plx_sched *s, struct plx_prefix_at *at, const int32_t *ids,
                      uint32_t pos)
{
	struct plx_prefix_at there = *at;

	if (plx_prefix_find(&s->prefix, &there, ids) == PLX_KV_NONE ||
	    !plx_tier_worth(&s->tier, prompt_ns(s, pos, s->conf.block_tokens)))
		return PLX_KV_NONE;
	return plx_prefix_fetch(&s->prefix, at, ids);
}

uint32_t plx_sched_hold_prefix(struct plx_sched *s, struct plx_prefix_at *at, const int32_t *ids,
                               uint32_t *block, uint32_t n, uint32_t most, bool fetch_too)
{
	uint32_t bt = s->conf.block_tokens;

	for (; n < most; n++) {
		block[n] = plx_prefix_hold(&s->prefix, at, &ids[n * bt]);
		if (block[n] == PLX_KV_NONE && fetch_too)
			block[n] = fetch(s, at, &ids[n * bt], n * bt);
		if (block[n] == PLX_KV_NONE)
			break;
	}
	return n;
}

static void come_back(struct plx_sched *s, struct plx_seq *q)
{
	struct plx_prefix_at at = q->at;
	uint32_t bt = s->conf.block_tokens;

	uint32_t most =
	    q->score || q->evict ? 0 : plx_seq_shareable(q, plx_seq_within(q, q->n_known - 1)) / bt;

	q->n_blocks = plx_sched_hold_prefix(s, &at, q->ids, q->block, 0, most, true);
	uint32_t n = q->n_blocks * bt;

	q->n_shared = q->n_run = q->n_ok = n;
	s->stats.recomputed_tokens += q->n_lost > n ? q->n_lost - n : 0;
	q->away = false;
	s->n_away--;
}

/*
 * A sample that has the shared blocks and nothing else yet: a copy of the leader's next block has
 * the rest of the prompt but for the last token, which each sample runs itself.
 */
static void copy_tail(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];
	const struct plx_sched_ent *e = &s->ent[q->ent];
	const struct plx_seq *l = &s->seq[e->slot[e->leader]];
	uint32_t n = e->shared_end / s->conf.block_tokens, end = e->job.n_ids - 1;

	if (q->own || !q->set_pending || q->n_blocks != n || end == e->shared_end ||
	    e->out.end[e->leader] != PLX_SEQ_END_NONE || l->n_blocks <= n || l->n_run <= end ||
	    l->n_left > 0)
		return;
	/* Where shared_step does not say when it ran the rest: not in this very step. */
	if ((e->shared_step == 0 || l->n_lost > 0) && l->n_ok <= end)
		return;
	if (!plx_tier_worth(&s->tier, prompt_ns(s, e->shared_end, end - e->shared_end)))
		return;
	take_up_to(s, slot, n + 1);
	/* None came, or it was the leader's, or making room took the last copy. */
	if (q->n_blocks == n || l->n_blocks <= n || !plx_tier_can(&s->tier))
		return;
	plx_tier_pair(&s->tier, l->block[n], q->block[n]);
	q->n_shared = q->n_run = q->n_ok = end;
}

bool plx_sched_goes_on(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	if (q->leaving)
		return false;
	if (!q->away) {
		copy_tail(s, slot);
		return true;
	}
	if (at_window(q) || must_wait(s, slot) || (slot != s->head && !has_room(s, q)))
		return false;
	come_back(s, q);
	plx_sched_prefill_update(s, q->ent);
	return true;
}

/* ---- samples of one request ---- */

void plx_sched_share(struct plx_sched *s, uint32_t key, uint32_t slot)
{
	const struct plx_sched_ent *e = &s->ent[key];
	uint32_t n = e->shared_end / s->conf.block_tokens;

	for (uint32_t i = 0; i < e->job.n_samples; i++) {
		struct plx_seq *q = &s->seq[e->slot[i]];

		if (e->out.end[i] != PLX_SEQ_END_NONE || q->own || q->n_blocks > 0)
			continue;
		for (; q->n_blocks < n; q->n_blocks++) {
			q->block[q->n_blocks] = s->seq[slot].block[q->n_blocks];
			plx_kv_hold(&s->kv, q->block[q->n_blocks]);
		}
	}
}

void plx_sched_gave(struct plx_sched *s, uint32_t slot, uint64_t step_id)
{
	const struct plx_seq *q = &s->seq[slot];
	struct plx_sched_ent *e = &s->ent[q->ent];

	/* With the tail, where it can be copied; before anything leaves the context. */
	bool tail = s->tier.copy && plx_seq_within(q, e->job.n_ids) == e->job.n_ids;

	if (!q->own || e->shared_step != PLX_SCHED_NOT_YET ||
	    q->n_run < (tail ? e->job.n_ids : e->shared_end))
		return;
	e->shared_step = step_id;
	plx_sched_share(s, q->ent, slot);
}

void plx_sched_lead(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];
	uint32_t next = PLX_KV_NONE;

	if (e->shared_step != PLX_SCHED_NOT_YET)
		return;
	for (uint32_t i = e->job.n_samples; i-- > 0;) {
		if (e->out.end[i] != PLX_SEQ_END_NONE)
			continue;
		if (s->seq[e->slot[i]].own)
			return;
		next = i;
	}
	if (next == PLX_KV_NONE)
		return;
	struct plx_seq *q = &s->seq[e->slot[next]];

	e->leader = (uint16_t)next;
	q->own = true;
	q->n_shared = q->n_run = q->n_ok = 0;
}

/* ---- invariants ---- */

void plx_sched_memory_check(const struct plx_sched *s)
{
	uint32_t h = head(s), n_away = 0;
	uint64_t coming = 0;

	for (uint32_t i = 0; i < s->n_run; i++) {
		const struct plx_seq *q = &s->seq[s->run[i]];
		bool attached = q->own || q->n_blocks > 0 || q->n_shared == 0;

		coming += q->yields;
		n_away += q->away;
		PLX_CHECK(!q->leaving || (q->in_flight > 0 && q->state == PLX_SEQ_RUN));
		PLX_CHECK(!q->away || (q->n_blocks == 0 && q->in_flight == 0));
		PLX_CHECK(!attached || q->n_blocks * s->conf.block_tokens >= plx_seq_pos(q));
		PLX_CHECK(q->n_run <= q->shift_at && q->n_ok <= q->n_run);
		PLX_CHECK(!q->shift || q->n_blocks <= q->shift->n_blocks);
	}
	PLX_CHECK(coming == s->coming && n_away == s->n_away);
	PLX_CHECK(s->hungry == PLX_KV_NONE || s->seq[s->hungry].state == PLX_SEQ_RUN);
	if (h == PLX_KV_NONE || s->need_reset)
		return;
	PLX_CHECK(s->kv.n_quarantined == 0);
	PLX_CHECK(s->ent[s->seq[h].ent].max_blocks <= s->kv.n_blocks);
}
