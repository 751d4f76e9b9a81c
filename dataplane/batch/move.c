/* Leaving, being kept, and starting with another device's blocks; see move.h. */
#include "dataplane/batch/move.h"

#include "dataplane/batch/sched_int.h"
#include "fw/base/check.h"

/* ---- leaving ---- */

static void keep_seq(struct plx_sched *s, uint32_t slot, bool with_kv)
{
	struct plx_seq *q = &s->seq[slot];

	q->state = PLX_SEQ_DRAIN;
	q->leaving = false;
	q->kept = q->kept_kv = with_kv && q->in_flight == 0 && q->n_blocks > 0;
	s->n_kept += q->kept;
	plx_sched_will_leave(s, slot);
	if (q->in_flight == 0)
		plx_sched_seq_leave(s, slot);
}

void plx_sched_leave(struct plx_sched *s, uint32_t key, bool with_kv)
{
	struct plx_sched_ent *e = &s->ent[key];

	PLX_CHECK(e->state != PLX_ENT_FREE);
	if (e->state == PLX_ENT_WAITING)
		plx_sched_wait_remove(s, key);
	for (uint32_t i = 0; e->state == PLX_ENT_RUNNING && i < e->job.n_samples; i++) {
		if (e->out.end[i] != PLX_SEQ_END_NONE)
			continue;
		e->out.n_out[i] = s->seq[e->slot[i]].n_out;
		keep_seq(s, e->slot[i], with_kv);
	}
	plx_sched_ent_free(s, key);
}

void plx_sched_kept_drop(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	PLX_CHECK(q->kept && q->in_flight == 0);
	plx_seq_release(q, &s->prefix);
	q->state = PLX_SEQ_DRAIN;
	q->n_run = q->n_ok = q->n_shared = q->n_left = 0;
	q->kept_kv = q->lent = false;
}

bool plx_sched_kept_yield(struct plx_sched *s)
{
	for (uint32_t i = 0; s->n_kept > 0 && i < s->n_run; i++) {
		const struct plx_seq *q = &s->seq[s->run[i]];

		if (!q->kept_kv || q->lent)
			continue;
		plx_sched_kept_drop(s, s->run[i]);
		return true;
	}
	return false;
}

void plx_sched_release(struct plx_sched *s, uint32_t slot)
{
	struct plx_seq *q = &s->seq[slot];

	PLX_CHECK(q->kept);
	q->kept = q->kept_kv = q->lent = false;
	s->n_kept--;
	if (q->in_flight == 0)
		plx_sched_seq_leave(s, slot);
}

/* ---- starting with another device's blocks ---- */

void plx_sched_set_move(struct plx_sched *s, void *ctx, uint32_t from,
                        void (*import)(void *ctx, uint32_t from_dev,
                                       const struct plx_block_copy *pairs, uint32_t n),
                        void (*lost)(void *ctx, uint32_t key))
{
	s->move_ctx = ctx;
	s->import_from = from;
	s->import = import;
	s->lost_request = lost;
}

/* Positions that are in the kept blocks, but for the last known one, which is always run here. */
static uint32_t positions_of(const struct plx_sched_job *j, const struct plx_sched_have *h)
{
	uint32_t known = j->n_ids + h->n;

	return h->from->n_ok < known ? h->from->n_ok : known - 1;
}

static uint32_t blocks_for(const struct plx_sched *s, uint32_t positions)
{
	return (positions + s->conf.block_tokens - 1) / s->conf.block_tokens;
}

bool plx_sched_importable(const struct plx_sched *s, const struct plx_sched_job *j)
{
	uint32_t n = 0;

	if (s->import_from == 0 || !j->have)
		return false;
	for (uint32_t i = 0; i < j->n_samples; i++) {
		const struct plx_sched_have *h = &j->have[i];

		if (h->end != PLX_SEQ_END_NONE)
			continue;
		if (!h->from || !h->from->kept_kv || h->from->n_left > 0 ||
		    !(s->import_from >> h->from_dev & 1) || positions_of(j, h) < j->n_ids)
			return false;
		n++;
	}
	return n > 0;
}

uint32_t plx_sched_import_pairs(const struct plx_sched *s, uint32_t key)
{
	const struct plx_sched_ent *e = &s->ent[key];
	uint32_t shared = e->shared_end / s->conf.block_tokens, n = shared;

	for (uint32_t i = 0; i < e->job.n_samples; i++)
		if (e->job.have[i].end == PLX_SEQ_END_NONE)
			n += blocks_for(s, positions_of(&e->job, &e->job.have[i])) - shared;
	return n;
}

/* The sample's blocks from the first that it lacks on, and it stands behind them. */
static void import_seq(struct plx_sched *s, struct plx_seq *q, const struct plx_sched_have *h,
                       uint32_t positions)
{
	struct plx_block_copy pair[PLX_TIER_PAIRS];
	uint32_t n = 0;

	while (q->n_blocks < blocks_for(s, positions)) {
		uint32_t b = plx_prefix_take(&s->prefix);

		PLX_CHECK(b != PLX_KV_NONE); /* what it knows had room when it started */
		pair[n++] = (struct plx_block_copy){.src = h->from->block[q->n_blocks], .dst = b};
		q->block[q->n_blocks++] = b;
		if (n < PLX_TIER_PAIRS && q->n_blocks < blocks_for(s, positions))
			continue;
		plx_tier_flush(&s->tier); /* what stood in these blocks goes out first */
		s->import(s->move_ctx, h->from_dev, pair, n);
		n = 0;
	}
	q->n_run = q->n_ok = q->n_shared = positions;
}

void plx_sched_import(struct plx_sched *s, uint32_t key)
{
	struct plx_sched_ent *e = &s->ent[key];
	const struct plx_sched_job *j = &e->job;
	uint32_t lead = e->leader;

	s->tier.left -= plx_sched_import_pairs(s, key);
	import_seq(s, &s->seq[e->slot[lead]], &j->have[lead], positions_of(j, &j->have[lead]));
	if (e->shared_step == PLX_SCHED_NOT_YET) {
		e->shared_step = 0;
		plx_sched_share(s, key, e->slot[lead]);
	}
	for (uint32_t i = 0; i < j->n_samples; i++)
		if (i != lead && j->have[i].end == PLX_SEQ_END_NONE)
			import_seq(s, &s->seq[e->slot[i]], &j->have[i],
			           positions_of(j, &j->have[i]));
	e->imported = true;
}
