/* What the batch stage says of itself; see stage_batch_int.h. */
#include <stddef.h>
#include <string.h>

#include "dataplane/stage_batch_int.h"
#include "fw/base/clock.h"

#define RETRY_MOST_US 10000000u

/* What the scheduler knows is better than the guess from the load: 0 there is 0 here. */
uint32_t plx_batch_retry_us(uint64_t ns)
{
	uint64_t us = (ns + PLX_NS_PER_US - 1) / PLX_NS_PER_US;

	return us < RETRY_MOST_US ? (uint32_t)us : RETRY_MOST_US;
}

/* The sum over devices; the step time of those that run, on average; the earliest retry. */
static void sum_load(const struct plx_stage_batch *s, struct plx_sched_load *sum, uint32_t *room,
                     uint64_t *retry_ns)
{
	uint64_t n_steps = 0;

	for (uint32_t i = 0; i < s->n_dev; i++) {
		const struct plx_sched *d = &s->fleet.dev[i].sched;
		uint64_t retry = plx_sched_retry_ns(d);

		sum->queued_tokens += d->load.queued_tokens;
		sum->n_running += d->load.n_running;
		sum->n_waiting += d->load.n_waiting;
		sum->step_ns += d->load.step_ns;
		n_steps += d->load.step_ns > 0;
		*room += plx_kv_room(&d->kv);
		*retry_ns = i == 0 || retry < *retry_ns ? retry : *retry_ns;
	}
	sum->step_ns = n_steps ? sum->step_ns / n_steps : 0;
}

void plx_batch_publish_load(struct plx_stage_batch *s)
{
	struct plx_sched_load in = {0};
	struct plx_load *out = &s->links->load;
	uint32_t room = 0;
	uint64_t retry_ns = 0;

	sum_load(s, &in, &room, &retry_ns);
	uint64_t us = in.step_ns / PLX_NS_PER_US;

	plx_gauge_set(s->page, PLX_G_RUNNING, in.n_running);
	plx_gauge_set(s->page, PLX_G_WAITING, in.n_waiting);
	plx_gauge_set(s->page, PLX_G_QUEUED, in.queued_tokens);
	plx_gauge_set(s->page, PLX_G_KV_FREE, room);
	plx_gauge_set(s->page, PLX_G_KV_BLOCKS,
	              (uint64_t)s->n_dev * s->links->cfg->lim.n_kv_blocks);
	plx_gauge_set(s->page, PLX_G_STEP_SMOOTH_NS, in.step_ns);
	plx_gauge_set(s->page, PLX_G_IN_FLIGHT, plx_req_busy(s->links));
	atomic_store_explicit(&out->queued_tokens, in.queued_tokens, memory_order_relaxed);
	atomic_store_explicit(&out->running_sequences, in.n_running, memory_order_relaxed);
	atomic_store_explicit(&out->free_kv_blocks, room, memory_order_relaxed);
	atomic_store_explicit(&out->step_time_us, us > UINT32_MAX ? UINT32_MAX : (uint32_t)us,
	                      memory_order_relaxed);
	atomic_store_explicit(&out->waiting_requests, in.n_waiting, memory_order_relaxed);
	atomic_store_explicit(&out->retry_us, plx_batch_retry_us(retry_ns), memory_order_relaxed);
}

/* Every count of the scheduler's, all uint64_t, and the metric that shows it. */
#define COUNT(metric, field)                                                                       \
	{                                                                                          \
		PLX_M_##metric, offsetof(struct plx_sched, field)                                  \
	}
static const struct {
	enum plx_metric metric;
	size_t at;
} counts[PLX_BATCH_COUNTS] = {
    COUNT(BATCH_STEPS, stats.steps),
    COUNT(BATCH_PREFILL, stats.prefill_tokens),
    COUNT(BATCH_DECODE, stats.decode_tokens),
    COUNT(BATCH_CACHED, stats.cached_tokens),
    COUNT(BATCH_LATE, stats.late_tokens),
    COUNT(BATCH_PAUSED, stats.paused),
    COUNT(BATCH_FAULTS, stats.faulted),
    COUNT(BATCH_RING_WAITS, stats.room_waits),
    COUNT(BATCH_PREEMPTED, stats.preempted),
    COUNT(BATCH_RECOMPUTED, stats.recomputed_tokens),
    COUNT(BATCH_SHORT_OF, stats.short_of),
    COUNT(BATCH_LATE_STARTS, stats.late_starts),
    COUNT(BATCH_SWAP_OUT, tier.n_out),
    COUNT(BATCH_SWAP_IN, tier.n_back),
    COUNT(BATCH_COW, tier.n_cow),
    COUNT(BATCH_SHIFTS, stats.shifts),
    COUNT(BATCH_LEFT, stats.left_tokens),
    COUNT(BATCH_SCORED, stats.scored_tokens),
    COUNT(BATCH_EVICTED, stats.evicted_tokens),
    COUNT(TTFT_OFF_10, stats.ttft_err[0]),
    COUNT(TTFT_OFF_25, stats.ttft_err[1]),
    COUNT(TTFT_OFF_50, stats.ttft_err[2]),
    COUNT(TTFT_OFF_100, stats.ttft_err[3]),
    COUNT(TTFT_OFF_MORE, stats.ttft_err[4]),
    COUNT(TTFT_LATER, stats.ttft_later),
    COUNT(STEP_OFF_5, stats.step_err[0]),
    COUNT(STEP_OFF_10, stats.step_err[1]),
    COUNT(STEP_OFF_25, stats.step_err[2]),
    COUNT(STEP_OFF_50, stats.step_err[3]),
    COUNT(STEP_OFF_MORE, stats.step_err[4]),
    COUNT(DRAFT_LOOKUP, draft.drafted[PLX_DRAFT_LOOKUP]),
    COUNT(DRAFT_LOOKUP_OK, draft.accepted[PLX_DRAFT_LOOKUP]),
    COUNT(DRAFT_MODEL, draft.drafted[PLX_DRAFT_MODEL]),
    COUNT(DRAFT_MODEL_OK, draft.accepted[PLX_DRAFT_MODEL]),
    COUNT(DRAFT_LAYERS, draft.drafted[PLX_DRAFT_LAYERS]),
    COUNT(DRAFT_LAYERS_OK, draft.accepted[PLX_DRAFT_LAYERS]),
    COUNT(DRAFT_PROBES, draft.probes),
    COUNT(DRAFT_AHEAD, draft.drafted[PLX_DRAFT_AHEAD]),
    COUNT(DRAFT_AHEAD_OK, draft.accepted[PLX_DRAFT_AHEAD]),
    COUNT(DRAFT_BRANCHES, draft.branches),
};

static const struct {
	enum plx_metric metric;
	size_t at;
} fleet_counts[PLX_BATCH_FLEET_COUNTS] = {
    {PLX_M_FLEET_HANDED, offsetof(struct plx_fleet_stats, handed)},
    {PLX_M_FLEET_IMPORTED, offsetof(struct plx_fleet_stats, imported)},
    {PLX_M_FLEET_RESCUED, offsetof(struct plx_fleet_stats, rescued)},
    {PLX_M_FLEET_DROPPED, offsetof(struct plx_fleet_stats, dropped)},
    {PLX_M_FLEET_FAILED, offsetof(struct plx_fleet_stats, failed)},
    {PLX_M_FLEET_STALLED, offsetof(struct plx_fleet_stats, stalled)},
    {PLX_M_FLEET_RETURNED, offsetof(struct plx_fleet_stats, returned)},
};

static uint64_t count_at(const void *base, size_t at)
{
	uint64_t n;

	memcpy(&n, (const char *)base + at, sizeof(n));
	return n;
}

static void publish(struct plx_stage_batch *s, enum plx_metric metric, uint64_t now, uint64_t *was)
{
	plx_count(s->page, metric, now - *was);
	*was = now;
}

void plx_batch_publish_counts(struct plx_stage_batch *s)
{
	for (uint32_t i = 0; i < PLX_BATCH_COUNTS; i++) {
		uint64_t now = 0;

		for (uint32_t d = 0; d < s->n_dev; d++)
			now += count_at(&s->fleet.dev[d].sched, counts[i].at);
		publish(s, counts[i].metric, now, &s->counted[i]);
	}
	for (uint32_t i = 0; i < PLX_BATCH_FLEET_COUNTS; i++)
		publish(s, fleet_counts[i].metric, count_at(&s->fleet.stats, fleet_counts[i].at),
		        &s->fleet_counted[i]);
}

/* Whether steps could not be filled for want of room towards tok. */
void plx_batch_say_regime(struct plx_stage_batch *s)
{
	uint64_t waits = 0;

	for (uint32_t d = 0; d < s->n_dev; d++)
		waits += s->fleet.dev[d].sched.stats.room_waits;
	if (waits != s->room_waits)
		plx_regime_say(s->page, PLX_REGIME_BACKPRESSURED);
	s->room_waits = waits;
}
