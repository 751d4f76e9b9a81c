/*
 * Finished requests whose text a later request may go on from: prompt and answers as token ids.
 *
 * Ids of answers are added while they are sent, so that what is kept is exactly what the client
 * was given; when the request is done its prompt joins them and the whole can be found by owner
 * (a session) and req_id. Everything lies in cells of PLX_TALK_CELL_IDS ids out of one bounded
 * store. When cells or entries run out the entry used longest ago goes; an owner that has its full
 * number loses its oldest; a request whose ids find no cell at all is not kept.
 *
 * Invariant: each cell is in exactly one chain or free; an entry is in the table, in its owner's
 * bucket and in the order of use, or free.
 *
 * Owner: the tok stage.  Thread: one.  No allocation after init.
 */
#ifndef PLX_DATAPLANE_BATCH_TALK_H
#define PLX_DATAPLANE_BATCH_TALK_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/arena.h"

#define PLX_TALK_CELL_IDS 63u
#define PLX_TALK_NONE     UINT32_MAX

struct plx_talk_conf {
	uint32_t n_tokens;  /* ids kept in all; 0: nothing is kept */
	uint32_t n_entries; /* finished requests kept in all */
	uint32_t per_owner; /* of them of one owner */
	uint32_t n_running; /* requests under way at once */
	uint32_t n_samples; /* answers of one request */
};

struct plx_talk_cell {
	uint32_t next; /* index + 1; 0: last */
	int32_t id[PLX_TALK_CELL_IDS];
};
static_assert(sizeof(struct plx_talk_cell) == 256, "four cache lines");

/* Ids in a row; cells are index + 1. */
struct plx_talk_chain {
	uint32_t first, last;
	uint32_t n;
};

struct plx_talk_entry {
	uint64_t owner, req_id;
	uint32_t bucket_next;  /* index + 1; of a free entry: the next free one */
	uint32_t older, newer; /* in order of use: index + 1 */
	uint16_t n_samples;    /* 0: free */
	struct plx_talk_chain prompt;
};

struct plx_talk {
	struct plx_talk_conf conf;
	uint32_t n_cells, free_cell, n_free_cells;
	uint32_t free_entry, n_kept;
	uint32_t oldest, newest; /* index + 1 */
	uint32_t n_buckets;
	uint32_t walk;                 /* where plx_talk_walk goes on */
	struct plx_talk_cell *cell;    /* [n_cells] */
	struct plx_talk_entry *entry;  /* [n_entries] */
	struct plx_talk_chain *answer; /* [n_entries][n_samples] */
	struct plx_talk_chain *live;   /* [n_running][n_samples] */
	bool *lost;                    /* [n_running] an id found no cell */
	uint32_t *bucket;              /* [n_buckets] index + 1 */
};

/* plx_talk_bytes - what init takes from the arena. */
size_t plx_talk_bytes(const struct plx_talk_conf *c);

/* plx_talk_init.  Errors: NOMEM. */
int plx_talk_init(struct plx_talk *t, struct plx_arena *a, const struct plx_talk_conf *c);

/* plx_talk_begin - request `run` (0..n_running-1) starts: nothing of it was sent. */
void plx_talk_begin(struct plx_talk *t, uint32_t run);

/* plx_talk_add - n more ids of a sample were sent. Cost: a copy. */
void plx_talk_add(struct plx_talk *t, uint32_t run, uint16_t sample, const int32_t *ids,
                  uint32_t n);

/* What is kept of a request that is done. */
struct plx_talk_end {
	uint64_t owner, req_id;
	const int32_t *prompt; /* [n_prompt] */
	uint32_t n_prompt;
	uint16_t n_samples;
};

/*
 * plx_talk_keep - request `run` is done: keep it. False: there was no room, or nothing is kept at
 * all; then nothing of it is left.  Cost: a copy of the prompt.
 */
bool plx_talk_keep(struct plx_talk *t, uint32_t run, const struct plx_talk_end *e);

/* plx_talk_drop - request `run` ended otherwise: nothing of it is left. */
void plx_talk_drop(struct plx_talk *t, uint32_t run);

/* plx_talk_find - a kept request, counted as used now; PLX_TALK_NONE: unknown, or gone. */
uint32_t plx_talk_find(struct plx_talk *t, uint64_t owner, uint64_t req_id);

/* plx_talk_len - ids of the prompt and of one answer of a kept request; 0: no such sample. */
uint32_t plx_talk_len(const struct plx_talk *t, uint32_t entry, uint32_t sample);

/* plx_talk_copy - those ids. @out [plx_talk_len]. */
void plx_talk_copy(const struct plx_talk *t, uint32_t entry, uint32_t sample, int32_t *out);

/*
 * plx_talk_walk - look at the next n places of the table, and forget those whose owner is gone.
 * Returns how many were forgotten.
 */
uint32_t plx_talk_walk(struct plx_talk *t, uint32_t n, bool (*is_there)(void *ctx, uint64_t owner),
                       void *ctx);

/* plx_talk_check - abort unless the invariants hold; for tests. */
void plx_talk_check(const struct plx_talk *t);

#endif
