/* Hash table of full KV blocks, chained by uid; see prefix.h. */
#include "dataplane/batch/prefix.h"

#include <string.h>

#include <xxhash.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define FIRST_CLASS 512u /* tokens; the next ones each reach twice as far */

static uint32_t buckets_for(uint32_t n_blocks)
{
	return n_blocks < 2 ? 2u : 1u << (32 - __builtin_clz(n_blocks - 1));
}

size_t plx_prefix_bytes(uint32_t n_blocks, uint32_t block_tokens)
{
	return buckets_for(n_blocks) * sizeof(uint32_t) +
	       n_blocks * (sizeof(struct plx_prefix_block) + 4 * (size_t)block_tokens) + 192;
}

int plx_prefix_init(struct plx_prefix *p, struct plx_arena *a, struct plx_kv *kv, uint32_t n_host,
                    uint32_t block_tokens, bool enabled, uint64_t secret)
{
	uint32_t n = kv->n_blocks + n_host;

	*p = (struct plx_prefix){.kv = kv,
	                         .block_tokens = block_tokens,
	                         .n_blocks = n,
	                         .n_buckets = buckets_for(n),
	                         .enabled = enabled,
	                         .secret = secret};
	p->bucket = plx_arena_take(a, p->n_buckets * sizeof(*p->bucket), 64);
	p->block = plx_arena_take(a, n * sizeof(*p->block), 64);
	p->ids = plx_arena_take(a, 4 * (size_t)n * block_tokens, 64);
	if (!p->bucket || !p->block || !p->ids)
		return PLX_E_NOMEM;
	memset(p->bucket, 0xff, p->n_buckets * sizeof(*p->bucket));
	return 0;
}

static uint32_t bucket_of(const struct plx_prefix *p, const struct plx_prefix_at *at,
                          const int32_t *ids)
{
	uint64_t head[2] = {at->parent, at->first};
	uint64_t seed = XXH3_64bits_withSeed(head, sizeof(head), p->secret);
	uint64_t h = XXH3_64bits_withSeed(ids, 4 * (size_t)p->block_tokens, seed);

	return (uint32_t)h & (p->n_buckets - 1);
}

static bool same(const struct plx_prefix *p, uint32_t b, const struct plx_prefix_at *at,
                 const int32_t *ids)
{
	const struct plx_prefix_block *k = &p->block[b];

	return k->parent == at->parent && k->first == at->first &&
	       memcmp(&p->ids[(size_t)b * p->block_tokens], ids, 4 * (size_t)p->block_tokens) == 0;
}

static uint32_t look_up(const struct plx_prefix *p, uint32_t bucket, const struct plx_prefix_at *at,
                        const int32_t *ids)
{
	uint32_t b = p->bucket[bucket];

	while (b != PLX_KV_NONE && !same(p, b, at, ids))
		b = p->block[b].next;
	return b;
}

/* Which class of parked blocks one belongs to, by how far into the text it stands. */
static uint8_t class_of(const struct plx_prefix *p, uint32_t depth)
{
	uint64_t pos = (uint64_t)depth * p->block_tokens;
	uint8_t c = 0;

	while (!p->one_class && c < PLX_KV_CLASSES - 1 && pos >= FIRST_CLASS << c)
		c++;
	return c;
}

static void move_on(const struct plx_prefix *p, struct plx_prefix_at *at, uint32_t b)
{
	at->parent = p->block[b].uid;
	at->depth++;
	at->first = false;
}

uint32_t plx_prefix_find(const struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids)
{
	if (!p->enabled)
		return PLX_KV_NONE;
	uint32_t b = look_up(p, bucket_of(p, at, ids), at, ids);

	if (b != PLX_KV_NONE)
		move_on(p, at, b);
	return b;
}

void plx_prefix_add(struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids, uint32_t b)
{
	if (!p->enabled)
		return;
	if (p->block[b].uid != 0) { /* a sibling that shares it was here first */
		move_on(p, at, b);
		return;
	}
	uint32_t bucket = bucket_of(p, at, ids);
	uint32_t known = look_up(p, bucket, at, ids);

	if (known == PLX_KV_NONE) {
		memcpy(&p->ids[(size_t)b * p->block_tokens], ids, 4 * (size_t)p->block_tokens);
		p->block[b] = (struct plx_prefix_block){.uid = ++p->last_uid,
		                                        .parent = at->parent,
		                                        .depth = at->depth,
		                                        .first = at->first,
		                                        .next = p->bucket[bucket],
		                                        .bucket = bucket};
		p->bucket[bucket] = b;
		p->kv->block[b].class = class_of(p, at->depth);
		known = b;
	}
	move_on(p, at, known);
}

/* The pointer to b in its bucket. */
static uint32_t *link_to(struct plx_prefix *p, uint32_t b)
{
	uint32_t *link = &p->bucket[p->block[b].bucket];

	while (*link != b) {
		PLX_CHECK(*link != PLX_KV_NONE);
		link = &p->block[*link].next;
	}
	return link;
}

void plx_prefix_forget(struct plx_prefix *p, uint32_t b)
{
	if (p->block[b].uid == 0)
		return;
	*link_to(p, b) = p->block[b].next;
	p->block[b].uid = 0;
}

/* What is known of b is known of `to` from now on, and nothing of b. */
static void rename_block(struct plx_prefix *p, uint32_t b, uint32_t to)
{
	size_t n = p->block_tokens;

	*link_to(p, b) = to;
	p->block[to] = p->block[b];
	memcpy(&p->ids[to * n], &p->ids[b * n], 4 * n);
	p->block[b].uid = 0;
}

void plx_prefix_use_tier(struct plx_prefix *p, struct plx_tier *tier)
{
	PLX_CHECK(tier->kv.n_blocks + p->kv->n_blocks == p->n_blocks);
	p->tier = tier;
}

/* Copy what an evicted block has to a host block; false: it is not worth it, or can't be. */
static bool keep_in_host(struct plx_prefix *p, uint32_t b)
{
	struct plx_tier *t = p->tier;
	bool evicted;

	if (!t || !plx_tier_can(t) || p->block[b].uid == 0)
		return false;
	if (t->kv.n_free == 0 && !p->block[b].found)
		return false;
	uint32_t h = plx_kv_take(&t->kv, &evicted);

	if (h == PLX_KV_NONE)
		return false;
	if (evicted)
		plx_prefix_forget(p, t->base + h);
	rename_block(p, b, t->base + h);
	t->kv.block[h].class = class_of(p, p->block[t->base + h].depth);
	plx_tier_pair(t, b, t->base + h);
	plx_kv_drop(&t->kv, h, true);
	return true;
}

uint32_t plx_prefix_take(struct plx_prefix *p)
{
	bool evicted;
	uint32_t b = plx_kv_take(p->kv, &evicted);

	if (evicted && !keep_in_host(p, b))
		plx_prefix_forget(p, b);
	return b;
}

static uint32_t found(struct plx_prefix *p, struct plx_prefix_at *at, uint32_t b)
{
	p->block[b].found = true;
	move_on(p, at, b);
	return b;
}

uint32_t plx_prefix_hold(struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids)
{
	if (!p->enabled)
		return PLX_KV_NONE;
	uint32_t b = look_up(p, bucket_of(p, at, ids), at, ids);

	if (b == PLX_KV_NONE || b >= p->kv->n_blocks || p->kv->block[b].bad)
		return PLX_KV_NONE;
	plx_kv_hold(p->kv, b);
	return found(p, at, b);
}

uint32_t plx_prefix_fetch(struct plx_prefix *p, struct plx_prefix_at *at, const int32_t *ids)
{
	if (!p->enabled)
		return PLX_KV_NONE;
	uint32_t b = look_up(p, bucket_of(p, at, ids), at, ids);

	if (b == PLX_KV_NONE)
		return b;
	if (b < p->kv->n_blocks)
		return plx_prefix_hold(p, at, ids);
	if (!plx_tier_can(p->tier))
		return PLX_KV_NONE;
	struct plx_kv *host = &p->tier->kv;
	uint32_t h = b - p->tier->base;

	plx_kv_hold(host, h); /* so that making room does not take it, nor the last copy */
	p->tier->left--;
	uint32_t to = plx_prefix_take(p);

	p->tier->left++;

	plx_kv_drop(host, h, to == PLX_KV_NONE);
	if (to == PLX_KV_NONE)
		return to;
	rename_block(p, b, to);
	p->kv->block[to].class = class_of(p, p->block[to].depth);
	plx_tier_pair(p->tier, b, to);
	return found(p, at, to);
}

void plx_prefix_drop(struct plx_prefix *p, uint32_t b)
{
	if (p->kv->block[b].bad) /* it waits for the reset: nobody may find it */
		plx_prefix_forget(p, b);
	plx_kv_drop(p->kv, b, p->block[b].uid != 0);
}

void plx_prefix_clear(struct plx_prefix *p)
{
	for (uint32_t b = 0; b < p->n_blocks; b++)
		plx_prefix_forget(p, b);
	while (plx_kv_unpark_oldest(p->kv) != PLX_KV_NONE)
		;
	if (p->tier)
		plx_tier_clear(p->tier);
}
