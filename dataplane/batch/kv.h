/*
 * The pool of KV blocks: who holds which, and which are free.
 *
 * A block is free, held (one or more holders), parked (nobody holds it, its content is kept until
 * the room is needed) or quarantined (a device may still write it; back after the device's reset).
 * Free blocks are taken newest first. Of the parked ones the oldest of a class goes, of the class
 * whose chance to be held again is smallest for the time that it waited:
 *
 *   (held again + 1) / (parked + 2) / parkings since this one        smallest first
 *
 * counted for each class, halved now and then. With one class that is least recently used.
 *
 *   n_free + n_parked + n_quarantined + (blocks with ref > 0) == n_blocks
 *
 * Owner:  the batch stage.  Thread: one.  Cost: O(classes) a call, no allocation after init.
 * Source: Blankstein, Sen, Freedman, "Hyperbolic Caching: Flexible Caching for Web Applications",
 *         USENIX ATC 2017 (chance by time, here by class rather than by item).
 */
#ifndef PLX_DATAPLANE_BATCH_KV_H
#define PLX_DATAPLANE_BATCH_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/arena.h"

#define PLX_KV_NONE    UINT32_MAX
#define PLX_KV_CLASSES 8u

struct plx_kv_block {
	uint32_t ref;
	uint32_t prev, next; /* list of parked blocks of its class; next also links quarantine */
	uint64_t since;      /* parkings before it was parked */
	uint8_t class;       /* set by whoever knows the content; 0 when taken */
	bool parked;
	bool bad; /* goes to quarantine when its last holder drops it */
};

struct plx_kv {
	uint32_t n_blocks;
	uint32_t n_free;
	uint32_t n_parked;
	uint32_t n_quarantined;
	uint32_t quarantine; /* list by next */
	uint64_t n_parkings;
	uint32_t oldest[PLX_KV_CLASSES], newest[PLX_KV_CLASSES]; /* parked */
	uint32_t n_in[PLX_KV_CLASSES], n_again[PLX_KV_CLASSES];  /* parked, held again */
	uint32_t *free;                                          /* stack [n_blocks] */
	struct plx_kv_block *block;
};

/* plx_kv_bytes - what init takes from the arena. */
size_t plx_kv_bytes(uint32_t n_blocks);

/* plx_kv_init - all blocks free.  Errors: NOMEM. */
int plx_kv_init(struct plx_kv *kv, struct plx_arena *a, uint32_t n_blocks);

/* plx_kv_room - blocks that take can give: free and parked. */
static inline uint32_t plx_kv_room(const struct plx_kv *kv)
{
	return kv->n_free + kv->n_parked;
}

/*
 * plx_kv_take - a block with one holder; PLX_KV_NONE when there is no room.
 *
 * @evicted  out: true where the block was parked, so that whoever knows its content forgets it.
 */
uint32_t plx_kv_take(struct plx_kv *kv, bool *evicted);

/* plx_kv_hold - one holder more, of a held or parked block. */
void plx_kv_hold(struct plx_kv *kv, uint32_t b);

/*
 * plx_kv_drop - one holder less; the last one frees the block, or parks it where keep is set, or
 * quarantines it where it was marked bad.
 */
void plx_kv_drop(struct plx_kv *kv, uint32_t b, bool keep);

/* plx_kv_mark_bad - a device may write this held block at any time until it is reset. */
void plx_kv_mark_bad(struct plx_kv *kv, uint32_t b);

/* plx_kv_unpark_oldest - free the parked block that take would give; PLX_KV_NONE: none is parked.
 */
uint32_t plx_kv_unpark_oldest(struct plx_kv *kv);

/* plx_kv_end_quarantine - the device was reset: quarantined blocks are free. */
void plx_kv_end_quarantine(struct plx_kv *kv);

#endif
