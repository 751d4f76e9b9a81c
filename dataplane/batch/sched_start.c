/* Starting what waits: slots, cached and new KV blocks, the samples of a request. */
#include "dataplane/batch/sched_int.h"

#include <string.h>

#define PASS_MOST 64u /* waiting requests passed over in one step */

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
	                      .itl_ns = e->itl_ns,
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
	plx_sched_wait_remove(s, key);
	plx_fair_serve(&s->fair, e->fair_start);
	e->state = PLX_ENT_RUNNING;
	e->n_live = (uint16_t)e->job.n_samples;
	e->start_ns = now_ns;
	e->slot[0] = (uint16_t)slot;
	e->shared_step = n_cached * bt >= e->shared_end ? 0 : PLX_SCHED_NOT_YET;
	e->out.cached_tokens = n_cached * bt;
	e->tenant_held = e->need_blocks;
	s->tenant_held[e->job.tenant] += e->need_blocks;
	s->stats.cached_tokens += n_cached * bt;
	seq_start(s, key, 0, slot, n_cached * bt);
	start_siblings(s, key);
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
