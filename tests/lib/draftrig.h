/*
 * The scheduler over the CPU device with a tiny model and one drafter, as a chain or as trees,
 * whose drafts are run as if they were likely, so that there are many of them, right and wrong.
 */
#ifndef PLX_TESTS_LIB_DRAFTRIG_H
#define PLX_TESTS_LIB_DRAFTRIG_H

#include "tests/lib/draftdev.h"

#define DRAFTRIG_NONE   PLX_DRAFTERS /* who: nobody drafts */
#define DRAFTRIG_SLOTS  16u
#define DRAFTRIG_KEYS   16u
#define DRAFTRIG_CTX    256u
#define DRAFTRIG_BLOCKS 400u

struct draftrig {
	struct devkit kit;
	struct draftdev draft;
	struct plx_arena arena;
	struct plx_sched sched;
	uint32_t who; /* enum plx_draft_kind, or NONE */
	uint32_t free_step[2], n_free;
	uint64_t clock;
	uint32_t n_idle; /* turns in a row in which nothing was given */
	/* What comes. */
	void (*token)(void *ctx, uint32_t key, uint32_t index, int32_t id);
	void (*final)(void *ctx, uint32_t key, const struct plx_sched_final *f);
	void *ctx;
};

/* draftrig_open - n_blocks KV blocks of 16; only one rig is open at a time. */
void draftrig_open(struct draftrig *r, uint32_t who, bool trees, uint32_t n_blocks);
void draftrig_close(struct draftrig *r);

/* draftrig_turn - fill what there is room for, then wait for a step; false: nothing is left. */
bool draftrig_turn(struct draftrig *r);

/* draftrig_name - "lookup", "model" ... */
const char *draftrig_name(uint32_t who);

#endif
