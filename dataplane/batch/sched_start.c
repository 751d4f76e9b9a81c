/* Starting what waits: slots, cached and new KV blocks, the samples of a request. */
#include "dataplane/batch/move.h"
#include "dataplane/batch/sched_int.h"

#include <string.h>

#define PASS_MOST 64u /* waiting requests passed over in one step */

static uint32_t n_have(const struct plx_sched_ent *e, uint32_t sample)
{
	return e->job.have ? e->job.have[sample].n : 0;
}

/* Whether the sample was over before the request came here; takes its end over. */
static bool is_over(struct plx_sched_ent *e, uint32_t sample)
{
	if (!e->job.have || e->job.have[sample].end == PLX_SEQ_END_NONE)
		return false;
	e->out.end[sample] = e->job.have[sample].end;
	e->out.n_out[sample] = e->job.have[sample].n;
	return true;
}

/* Below which index it may make ids. */
static uint32_t window_of(const struct plx_sched *s, const struct plx_sched_ent *e, uint32_t sample)
{
	uint32_t n = n_have(e, sample);

	if (e->job.one_id)
		return n + 1;
	if (e->job.held)
		return UINT32_MAX;
	if (e->job.have && e->job.have[sample].window)
		return e->job.have[sample].window;
	return n + s->conf.window;
}

/* A sample that begins at position n_run, with n_blocks in its slot's table. */
static void seq_start(struct plx_sched *s, uint32_t key, uint32_t sample, uint32_t n_run,
                      uint32_t n_blocks)
{
	struct plx_sched_ent *e = &s->ent[key];
	uint32_t slot = s->free_slot[--s->n_free_slots], n = n_have(e, sample);
	struct plx_seq *q = &s->seq[slot];
	bool dirty = q->slot_dirty;
	int32_t *ids = q->ids;
	uint32_t *block = q->block;
	uint64_t *keep = q->keep;

	*q =
	    (struct plx_seq){.state = PLX_SEQ_RUN,
	                     .slot_dirty = dirty,
	                     .set_pending = true,
	                     .ignore_eos = e->job.ignore_eos,
	                     .by_context = e->by_context,
	                     .sample = (uint16_t)sample,
	                     .n_top = (uint16_t)e->job.n_top,
	                     .ent = key,
	                     .n_prompt = e->job.n_ids,
	                     .n_known = e->job.n_ids + n,
	                     .n_shared = n_run,
	                     .n_run = n_run,
	                     .n_ok = n_run,
	                     .n_out = n,
	                     .max_new = e->max_new,
	                     .window = window_of(s, e, sample),
	                     .n_blocks = n_blocks,
	                     .itl_ns = e->itl_ns,
	                     .flags = e->job.flags,
	                     .sparse_mass = e->job.sparse_mass,
	                     .sparse_chunks = e->job.sparse_chunks,
	                     .n_pool = plx_sparse_pooled(e->job.n_ids),
	                     .at = plx_prefix_begin(plx_sched_space(&e->job)),
	                     .ids = ids,
	                     .block = block,
	                     .keep = keep,
	                     .evict_late = e->job.evict_late,
	                     .evict = (uint8_t)(plx_sched_evicts(s, &e->job) ? PLX_SEQ_EVICT_WANT
	                                                                     : PLX_SEQ_EVICT_NONE)};
	plx_seq_may_shift(q, e->beyond ? &s->shift : NULL);
	plx_seq_may_score(q, e->job.score, plx_sched_score_span(s));
	memcpy(ids, e->job.ids, 4 * (size_t)e->job.n_ids);
	if (n > 0)
		memcpy(&ids[e->job.n_ids], e->job.have[sample].ids, 4 * (size_t)n);
	e->slot[sample] = (uint16_t)slot;
	s->run[s->n_run++] = slot;
	plx_sched_draft_begin(s, slot);
}

uint32_t plx_sched_known_blocks(const struct plx_sched *s, const struct plx_sched_ent *e)
{
	uint32_t bt = s->conf.block_tokens, shared = e->shared_end / bt, n = shared;
	uint32_t most = e->beyond ? s->shift.n_blocks : UINT32_MAX;

	for (uint32_t i = 0; i < e->job.n_samples; i++)
		if (!e->job.have || e->job.have[i].end == PLX_SEQ_END_NONE) {
			uint32_t own = (e->job.n_ids + n_have(e, i)) / bt + 1;

			n += (own < most ? own : most) - shared;
		}
	return n < e->need_blocks ? n : e->need_blocks;
}

static uint32_t live_samples(const struct plx_sched_ent *e)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < e->job.n_samples; i++)
		n += !e->job.have || e->job.have[i].end == PLX_SEQ_END_NONE;
	return n;
}

/* The samples, the first of which runs the prompt that they share behind n_cached blocks. */
static void start_samples(struct plx_sched *s, uint32_t key, uint32_t n_cached)
{
	struct plx_sched_ent *e = &s->ent[key];
	uint32_t bt = s->conf.block_tokens, first = PLX_KV_NONE;

	e->shared_step = n_cached * bt >= e->shared_end ? 0 : PLX_SCHED_NOT_YET;
	for (uint32_t i = 0; i < e->job.n_samples; i++) {
		if (is_over(e, i))
			continue;
		bool leads = first == PLX_KV_NONE;

		seq_start(s, key, i, leads ? n_cached * bt : e->shared_end, leads ? n_cached : 0);
		s->seq[e->slot[i]].own = leads;
		e->leader = leads ? (uint16_t)i : e->leader;
		first = leads ? e->slot[i] : first;
	}
	if (e->shared_step == 0)
		plx_sched_share(s, key, first);
}

/* Start a waiting request if what it knows has room; false: there is none now. */
static bool ent_start(struct plx_sched *s, uint32_t key, uint64_t now_ns)
{
	struct plx_sched_ent *e = &s->ent[key];
	uint32_t n_live = live_samples(e), need = plx_sched_known_blocks(s, e);
	uint64_t room = plx_kv_room(&s->kv), owed = plx_sched_owed(s);

	if (n_live > s->n_free_slots || need > room + e->shared_end / s->conf.block_tokens)
		return false;
	struct plx_prefix_at at = plx_prefix_begin(plx_sched_space(&e->job));
	uint32_t *block = s->seq[s->free_slot[s->n_free_slots - 1]].block;
	uint32_t most = e->shared_end / s->conf.block_tokens;
	uint32_t n_cached = plx_sched_hold_prefix(s, &at, e->job.ids, block, 0, most, false);

	bool import = plx_sched_importable(s, &e->job);

	if (need - n_cached + owed > plx_kv_room(&s->kv) ||
	    (import && plx_sched_import_pairs(s, key) > s->tier.left)) {
		while (n_cached > 0)
			plx_prefix_drop(&s->prefix, block[--n_cached]);
		return false;
	}
	n_cached = plx_sched_hold_prefix(s, &at, e->job.ids, block, n_cached, most, true);
	plx_sched_wait_remove(s, key);
	plx_fair_serve(&s->fair, e->fair_start);
	e->state = PLX_ENT_RUNNING;
	e->n_live = (uint16_t)n_live;
	e->start_ns = now_ns;
	e->out.cached_tokens = n_cached * s->conf.block_tokens;
	e->tenant_held = e->need_blocks;
	s->tenant_held[e->job.tenant] += e->need_blocks;
	s->stats.cached_tokens += e->out.cached_tokens;
	plx_sched_keep(s, e);
	start_samples(s, key, n_cached);
	if (import)
		plx_sched_import(s, key);
	plx_sched_prefill_update(s, key);
	return true;
}

static bool over_share(const struct plx_sched *s, const struct plx_sched_ent *e)
{
	return e->job.tenant_blocks &&
	       s->tenant_held[e->job.tenant] + e->need_blocks > e->job.tenant_blocks;
}

void plx_sched_start_waiting(struct plx_sched *s, uint32_t tokens, uint64_t now_ns)
{
	uint32_t next, passed = 0;

	for (uint32_t k = plx_order_first(&s->wait); k != PLX_QUEUE_NONE && passed < PASS_MOST;
	     k = next) {
		struct plx_sched_ent *e = &s->ent[k];

		next = plx_order_next(&s->wait, k);
		if (plx_order_ahead(&s->prefill, e->rank).tokens >= tokens)
			return;
		if (plx_sched_too_late(s, k, now_ns)) {
			plx_sched_put_behind(s, k);
			passed++;
			continue;
		}
		if (over_share(s, e)) {
			passed++;
			continue;
		}
		if (plx_sched_gated(s, e) || !ent_start(s, k, now_ns))
			return;
	}
}
