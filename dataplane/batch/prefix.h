/*
 * The prefix cache: finds the KV blocks of a prompt that begins as an earlier one did.
 *
 * Only full blocks are known. Each has a uid that is never used twice; its key is a hash of
 * (secret, tenant, uid of the block before it, its token ids), and a hit compares all of these, so
 * that equal uids mean equal ids from the start of the text on: a hash collision costs time, never
 * correctness. Tenants never meet, since the first block of a chain has the tenant for parent, and
 * the secret keeps others from choosing ids that collide.
 *
 * Blocks that nobody holds stay parked in the pool (plx_kv) until their room is needed. Whoever
 * takes blocks does it through plx_prefix_take, which forgets what it evicts. A block whose parent
 * was evicted can't be reached any more and ages out.
 *
 * Owner: the batch stage.  Thread: one.  Cost: O(block_tokens) a block.
 */
#ifndef PLX_DATAPLANE_BATCH_PREFIX_H
#define PLX_DATAPLANE_BATCH_PREFIX_H

#include "dataplane/batch/kv.h"

#define PLX_PREFIX_SECRET_BYTES 8

struct plx_prefix_block {
	uint64_t uid;    /* 0: not in the cache */
	uint64_t parent; /* uid of the block before; tenant for the first */
	uint32_t next;   /* in its bucket */
	uint32_t bucket;
	bool first; /* parent is a tenant, not a uid */
};

struct plx_prefix {
	struct plx_kv *kv;
	uint32_t block_tokens;
	uint32_t n_buckets; /* power of two */
	bool enabled;
	uint64_t secret;
	uint64_t last_uid;
	uint32_t *bucket;               /* [n_buckets] first block or PLX_KV_NONE */
	struct plx_prefix_block *block; /* [kv->n_blocks] */
	int32_t *ids;                   /* [kv->n_blocks][block_tokens] */
};

/* A place in a chain: the block before it. plx_prefix_begin makes the first. */
struct plx_prefix_at {
	uint64_t parent;
	bool first;
};

size_t plx_prefix_bytes(uint32_t n_blocks, uint32_t block_tokens);

/* plx_prefix_init - an empty cache over kv; not enabled: nothing is ever found or kept. */
int plx_prefix_init(struct plx_prefix *p, struct plx_arena *a, struct plx_kv *kv,
                    uint32_t block_tokens, bool enabled, uint64_t secret);

static inline struct plx_prefix_at plx_prefix_begin(uint32_t tenant)
{
	return (struct plx_prefix_at){.parent = tenant, .first = true};
}

/*
 * plx_prefix_find - the block that holds ids [block_tokens] at this place, or PLX_KV_NONE.
 * Moves *at behind it. Does not hold it.
 */
uint32_t plx_prefix_find(const struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids);

/*
 * plx_prefix_add - block b, held by the caller and completely computed, has these ids at this
 * place. Moves *at behind it; where the cache knows an equal block already, that one stays.
 */
void plx_prefix_add(struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids, uint32_t b);

/* plx_prefix_take - plx_kv_take that forgets what it evicts. */
uint32_t plx_prefix_take(struct plx_prefix *p);

/* plx_prefix_drop - plx_kv_drop that parks what the cache knows. */
void plx_prefix_drop(struct plx_prefix *p, uint32_t b);

/* plx_prefix_forget - the content of b is not to be found again. */
void plx_prefix_forget(struct plx_prefix *p, uint32_t b);

/* plx_prefix_clear - forget everything and free what is parked (the device was reset). */
void plx_prefix_clear(struct plx_prefix *p);

#endif
