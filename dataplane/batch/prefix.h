/*
 * The prefix cache: finds the KV blocks of a prompt that begins as an earlier one did.
 *
 * Only full blocks are known. Each has a uid that is never used twice; its key is a hash of
 * (secret, tenant, uid of the block before it, its token ids), and a hit compares all of these, so
 * that equal uids mean equal ids from the start of the text on: a hash collision costs time, never
 * correctness. Tenants never meet, since the first block of a chain has the tenant for parent, and
 * the secret keeps others from choosing ids that collide.
 *
 * Blocks that nobody holds stay parked in the pool until their room is needed, in classes by their
 * place in the text (kv.h): what stands far into long texts is wanted again less often, and goes
 * first. Whoever takes blocks does it through plx_prefix_take. What that evicts goes to the host's
 * blocks (tier.h) where one is free, or where it was found before and so is worth more than what
 * is there; else it is forgotten. A block whose parent was forgotten can't be reached any more and
 * ages out.
 *
 * Owner: the batch stage.  Thread: one.  Cost: O(block_tokens) a block.
 */
#ifndef PLX_DATAPLANE_BATCH_PREFIX_H
#define PLX_DATAPLANE_BATCH_PREFIX_H

#include "dataplane/batch/kv.h"
#include "dataplane/batch/tier.h"

#define PLX_PREFIX_SECRET_BYTES 8
#define PLX_PREFIX_SHARED       UINT32_MAX /* in place of a tenant: all that opted in */

struct plx_prefix_block {
	uint64_t uid;    /* 0: not in the cache */
	uint64_t parent; /* uid of the block before; tenant for the first */
	uint32_t next;   /* in its bucket */
	uint32_t bucket;
	uint32_t depth; /* blocks before it */
	bool first;     /* parent is a tenant, not a uid */
	bool found;     /* at least once */
};

struct plx_prefix {
	struct plx_kv *kv;
	struct plx_tier *tier; /* NULL: no second level */
	uint32_t n_blocks;     /* of both */
	uint32_t block_tokens;
	uint32_t n_buckets; /* power of two */
	bool one_class;     /* plain LRU, to compare */
	bool enabled;
	uint64_t secret;
	uint64_t last_uid;
	uint32_t *bucket;               /* [n_buckets] first block or PLX_KV_NONE */
	struct plx_prefix_block *block; /* [n_blocks] */
	int32_t *ids;                   /* [n_blocks][block_tokens] */
};

/* A place in a chain: the block before it. plx_prefix_begin makes the first. */
struct plx_prefix_at {
	uint64_t parent;
	uint32_t depth;
	bool first;
};

size_t plx_prefix_bytes(uint32_t n_blocks, uint32_t block_tokens);

/*
 * plx_prefix_init - an empty cache over kv; not enabled: nothing is ever found or kept.
 *
 * @n_host  host blocks that plx_prefix_use_tier will bring.
 */
int plx_prefix_init(struct plx_prefix *p, struct plx_arena *a, struct plx_kv *kv, uint32_t n_host,
                    uint32_t block_tokens, bool enabled, uint64_t secret);

/* plx_prefix_use_tier - evict to these host blocks, for the same pool. */
void plx_prefix_use_tier(struct plx_prefix *p, struct plx_tier *tier);

static inline struct plx_prefix_at plx_prefix_begin(uint64_t tenant)
{
	return (struct plx_prefix_at){.parent = tenant, .first = true};
}

/*
 * plx_prefix_find - the block that holds ids [block_tokens] at this place, or PLX_KV_NONE; one
 * from kv->n_blocks on is a host block. Moves *at behind it. Does not hold it.
 */
uint32_t plx_prefix_find(const struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids);

/*
 * plx_prefix_hold - find it and hold it. PLX_KV_NONE also where it lies in a host block.
 * plx_prefix_fetch - the same, copied back from a host block if need be; PLX_KV_NONE also where
 *                    there is no room or no copy left.
 */
uint32_t plx_prefix_hold(struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids);
uint32_t plx_prefix_fetch(struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids);

/*
 * plx_prefix_add - block b, held by the caller and completely computed, has these ids at this
 * place. Moves *at behind it; where the cache knows an equal block already, that one stays.
 */
void plx_prefix_add(struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids, uint32_t b);

/* plx_prefix_take - plx_kv_take that looks after what it evicts. */
uint32_t plx_prefix_take(struct plx_prefix *p);

/* plx_prefix_drop - plx_kv_drop that parks what the cache knows. */
void plx_prefix_drop(struct plx_prefix *p, uint32_t b);

/* plx_prefix_forget - the content of b is not to be found again. */
void plx_prefix_forget(struct plx_prefix *p, uint32_t b);

/* plx_prefix_clear - forget everything and free what is parked (the device was reset). */
void plx_prefix_clear(struct plx_prefix *p);

#endif
