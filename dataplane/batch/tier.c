/* Batches of block copies, and what they take; see tier.h. */
#include "dataplane/batch/tier.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define SMOOTH 8.0        /* weight of a new measurement: 1/8 */
#define FORGET (1.0 / 64) /* of the time of a copy, each time that it was too much */

size_t plx_tier_bytes(uint32_t n_blocks, uint32_t n_host)
{
	return plx_kv_bytes(n_host) + ((size_t)n_blocks + n_host) * sizeof(uint32_t) + 64;
}

int plx_tier_init(struct plx_tier *t, struct plx_arena *a, uint32_t n_blocks, uint32_t n_host)
{
	size_t mark = ((size_t)n_blocks + n_host) * sizeof(*t->mark);

	memset(t, 0, sizeof(*t));
	t->base = n_blocks;
	t->batch = 1;
	t->left = UINT32_MAX;
	t->mark = plx_arena_take(a, mark, 64);
	if (!t->mark)
		return PLX_E_NOMEM;
	memset(t->mark, 0, mark);
	if (n_host > 0)
		return plx_kv_init(&t->kv, a, n_host);
	for (uint32_t c = 0; c < PLX_KV_CLASSES; c++)
		t->kv.oldest[c] = t->kv.newest[c] = PLX_KV_NONE;
	t->kv.quarantine = PLX_KV_NONE;
	return 0;
}

void plx_tier_flush(struct plx_tier *t)
{
	if (t->n_pairs == 0)
		return;
	t->copy(t->ctx, t->pair, t->n_pairs);
	t->n_given += t->n_pairs;
	t->n_pairs = 0;
	t->batch++;
}

void plx_tier_turn(struct plx_tier *t, uint32_t most)
{
	t->left = most;
}

void plx_tier_pair(struct plx_tier *t, uint32_t src, uint32_t dst)
{
	PLX_DCHECK(plx_tier_can(t) && src != dst);
	t->left--;
	if (t->n_pairs == PLX_TIER_PAIRS || t->mark[src] == t->batch || t->mark[dst] == t->batch)
		plx_tier_flush(t);
	t->mark[src] = t->mark[dst] = t->batch;
	t->pair[t->n_pairs++] = (struct plx_block_copy){.src = src, .dst = dst};
	t->n_out += dst >= t->base;
	t->n_back += src >= t->base;
	t->n_cow += src < t->base && dst < t->base;
}

void plx_tier_step_sent(struct plx_tier *t, uint64_t id, bool waits)
{
	t->sent[id % PLX_TIER_STEPS] = (struct plx_tier_sent){t->n_given, waits};
	t->n_given = 0;
}

void plx_tier_step_came(struct plx_tier *t, const struct plx_step *st, bool ok)
{
	const struct plx_tier_sent *e = &t->sent[st->id % PLX_TIER_STEPS];

	if (ok && e->n_pairs > 0 && e->waited && t->last_end_ns && st->start_ns >= t->last_end_ns) {
		double ns = (double)(st->start_ns - t->last_end_ns) / e->n_pairs;

		t->copy_ns += t->copy_ns > 0 ? (ns - t->copy_ns) / SMOOTH : ns;
	}
	t->last_end_ns = ok ? st->end_ns : 0;
}

bool plx_tier_worth(struct plx_tier *t, double compute_ns)
{
	if (!plx_tier_can(t))
		return false;
	if (compute_ns <= 0 || t->copy_ns <= compute_ns)
		return true;
	t->copy_ns -= t->copy_ns * FORGET; /* so that it is tried again some day */
	return false;
}

void plx_tier_clear(struct plx_tier *t)
{
	while (plx_kv_unpark_oldest(&t->kv) != PLX_KV_NONE)
		;
	t->n_pairs = t->n_given = 0;
	t->batch++;
	t->last_end_ns = 0;
}
