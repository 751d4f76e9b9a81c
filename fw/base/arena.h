/*
 * Memory sized at start: one mapping from which everything a component needs is carved, then
 * sealed. After plx_arena_seal a further plx_arena_take is a broken invariant and aborts.
 */
#ifndef PLX_FW_BASE_ARENA_H
#define PLX_FW_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"

struct plx_arena {
	uint8_t *base; /* start of the mapping */
	size_t size_bytes;
	size_t used_bytes;
	bool huge;   /* backed by explicit 2 MiB pages */
	bool sealed; /* nothing more may be taken */
};

/*
 * plx_arena_open - map and touch size_bytes of zeroed memory, on 2 MiB pages where the host has
 * them reserved, else on ordinary pages with transparent huge pages asked for.
 *
 * Errors: NOMEM, with the size and the remedy in d.
 */
int plx_arena_open(struct plx_arena *a, size_t size_bytes, struct plx_diag *d);

/*
 * plx_arena_map - the same, but no page is made yet: plx_arena_touch does that, in ranges that
 * several threads may share. What is used before it was touched costs a page fault each.
 */
int plx_arena_map(struct plx_arena *a, size_t size_bytes, struct plx_diag *d);

/*
 * plx_arena_touch - make the pages of [begin, end) present, zeroed.
 *
 * @begin, @end  offsets; what lies beyond the arena is left out.
 *
 * Thread: any, ranges that do not overlap; nothing was written to them yet.
 */
void plx_arena_touch(const struct plx_arena *a, size_t begin, size_t end);

/*
 * plx_arena_take - carve bytes aligned to align (a power of two, at most 2 MiB).
 *
 * Returns NULL when the arena is exhausted. Memory is zero. Owner: the arena.
 */
void *plx_arena_take(struct plx_arena *a, size_t bytes, size_t align);

/* plx_arena_seal - from now on taking is a bug. */
void plx_arena_seal(struct plx_arena *a);

/* plx_arena_close - unmap; a zeroed struct is accepted. */
void plx_arena_close(struct plx_arena *a);

#endif
