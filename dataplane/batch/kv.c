/* Block pool: a stack of free blocks, a list of parked ones, reference counts. */
#include "dataplane/batch/kv.h"

#include "fw/base/check.h"
#include "fw/base/err.h"

#define COUNT_MOST 65536u /* parkings of a class, then they count half */

size_t plx_kv_bytes(uint32_t n_blocks)
{
	return n_blocks * (sizeof(uint32_t) + sizeof(struct plx_kv_block)) + 128;
}

int plx_kv_init(struct plx_kv *kv, struct plx_arena *a, uint32_t n_blocks)
{
	*kv = (struct plx_kv){.n_blocks = n_blocks, .n_free = n_blocks, .quarantine = PLX_KV_NONE};
	for (uint32_t c = 0; c < PLX_KV_CLASSES; c++)
		kv->oldest[c] = kv->newest[c] = PLX_KV_NONE;
	kv->free = plx_arena_take(a, n_blocks * sizeof(*kv->free), 64);
	kv->block = plx_arena_take(a, n_blocks * sizeof(*kv->block), 64);
	if (!kv->free || !kv->block)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < n_blocks; i++)
		kv->free[i] = n_blocks - 1 - i;
	return 0;
}

static void unlink_parked(struct plx_kv *kv, uint32_t b)
{
	struct plx_kv_block *k = &kv->block[b];

	if (k->prev != PLX_KV_NONE)
		kv->block[k->prev].next = k->next;
	else
		kv->oldest[k->class] = k->next;
	if (k->next != PLX_KV_NONE)
		kv->block[k->next].prev = k->prev;
	else
		kv->newest[k->class] = k->prev;
	k->parked = false;
	kv->n_parked--;
}

static void park(struct plx_kv *kv, uint32_t b)
{
	struct plx_kv_block *k = &kv->block[b];
	uint32_t c = k->class;

	k->parked = true;
	k->since = kv->n_parkings++;
	k->prev = kv->newest[c];
	k->next = PLX_KV_NONE;
	if (kv->newest[c] != PLX_KV_NONE)
		kv->block[kv->newest[c]].next = b;
	else
		kv->oldest[c] = b;
	kv->newest[c] = b;
	kv->n_parked++;
	if (++kv->n_in[c] == COUNT_MOST) {
		kv->n_in[c] /= 2;
		kv->n_again[c] /= 2;
	}
}

/* The parked block that is least worth its room. */
static uint32_t least_wanted(const struct plx_kv *kv)
{
	uint32_t best = PLX_KV_NONE;
	double least = 0;

	for (uint32_t c = 0; c < PLX_KV_CLASSES; c++) {
		uint32_t b = kv->oldest[c];

		if (b == PLX_KV_NONE)
			continue;
		double chance = (kv->n_again[c] + 1.0) / (kv->n_in[c] + 2.0);
		double worth = chance / (double)(kv->n_parkings - kv->block[b].since);

		if (best == PLX_KV_NONE || worth < least) {
			best = b;
			least = worth;
		}
	}
	return best;
}

uint32_t plx_kv_take(struct plx_kv *kv, bool *evicted)
{
	uint32_t b;

	*evicted = false;
	if (kv->n_free > 0) {
		b = kv->free[--kv->n_free];
	} else if (kv->n_parked > 0) {
		b = least_wanted(kv);
		unlink_parked(kv, b);
		*evicted = true;
	} else {
		return PLX_KV_NONE;
	}
	kv->block[b].ref = 1;
	kv->block[b].bad = false;
	kv->block[b].class = 0;
	return b;
}

void plx_kv_hold(struct plx_kv *kv, uint32_t b)
{
	PLX_CHECK(b < kv->n_blocks && (kv->block[b].ref > 0 || kv->block[b].parked));
	if (kv->block[b].parked) {
		unlink_parked(kv, b);
		kv->n_again[kv->block[b].class]++;
	}
	kv->block[b].ref++;
}

void plx_kv_drop(struct plx_kv *kv, uint32_t b, bool keep)
{
	PLX_CHECK(b < kv->n_blocks && kv->block[b].ref > 0);
	struct plx_kv_block *k = &kv->block[b];

	if (--k->ref > 0)
		return;
	if (k->bad) {
		k->next = kv->quarantine;
		kv->quarantine = b;
		kv->n_quarantined++;
	} else if (keep) {
		park(kv, b);
	} else {
		kv->free[kv->n_free++] = b;
	}
}

void plx_kv_mark_bad(struct plx_kv *kv, uint32_t b)
{
	PLX_CHECK(b < kv->n_blocks && kv->block[b].ref > 0);
	kv->block[b].bad = true;
}

uint32_t plx_kv_unpark_oldest(struct plx_kv *kv)
{
	uint32_t b = least_wanted(kv);

	if (b == PLX_KV_NONE)
		return b;
	unlink_parked(kv, b);
	kv->free[kv->n_free++] = b;
	return b;
}

void plx_kv_end_quarantine(struct plx_kv *kv)
{
	while (kv->quarantine != PLX_KV_NONE) {
		uint32_t b = kv->quarantine;

		kv->quarantine = kv->block[b].next;
		kv->block[b].bad = false;
		kv->free[kv->n_free++] = b;
		kv->n_quarantined--;
	}
}
