/* Free blocks in order of last use, known ones also in a hash table. */
#include "tests/sim/pool.h"

#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"

void sim_pool_open(struct sim_pool *p, uint32_t n_blocks)
{
	*p = (struct sim_pool){.n_blocks = n_blocks, .n_buckets = 1, .n_free = n_blocks};
	while (p->n_buckets < n_blocks * 2)
		p->n_buckets *= 2;
	p->block = calloc(n_blocks, sizeof(*p->block));
	p->bucket = malloc(p->n_buckets * sizeof(*p->bucket));
	PLX_CHECK(p->block && p->bucket);
	memset(p->bucket, 0xff, p->n_buckets * sizeof(*p->bucket));
	for (uint32_t b = 0; b < n_blocks; b++) {
		p->block[b].prev = b - 1;
		p->block[b].next = b + 1;
	}
	p->block[0].prev = p->block[n_blocks - 1].next = SIM_NO_BLOCK;
	p->last = n_blocks - 1;
}

void sim_pool_close(struct sim_pool *p)
{
	free(p->block);
	free(p->bucket);
}

uint64_t sim_pool_key(const struct sim_text *t, uint32_t i, uint32_t block_tokens)
{
	bool shared = (i + 1) * block_tokens <= t->n_common;
	uint64_t text = shared ? t->common : sim_mix(t->own ^ sim_mix(t->common + t->n_common));

	return sim_mix(text + (uint64_t)(i + 1) * UINT64_C(0xd1342543de82ef95)) | 1;
}

static uint32_t *link_of(const struct sim_pool *p, uint64_t key)
{
	return &p->bucket[(key >> 20) & (p->n_buckets - 1)];
}

uint32_t sim_pool_find(const struct sim_pool *p, uint64_t key)
{
	uint32_t b = *link_of(p, key);

	while (b != SIM_NO_BLOCK && p->block[b].key != key)
		b = p->block[b].chain;
	return b;
}

static void forget(struct sim_pool *p, uint32_t b)
{
	uint32_t *link = link_of(p, p->block[b].key);

	while (*link != b)
		link = &p->block[*link].chain;
	*link = p->block[b].chain;
	p->block[b].key = 0;
}

static void unfree(struct sim_pool *p, uint32_t b)
{
	struct sim_block *k = &p->block[b];

	if (k->prev != SIM_NO_BLOCK)
		p->block[k->prev].next = k->next;
	else
		p->first = k->next;
	if (k->next != SIM_NO_BLOCK)
		p->block[k->next].prev = k->prev;
	else
		p->last = k->prev;
	p->n_free--;
}

void sim_pool_hold(struct sim_pool *p, uint32_t b)
{
	if (p->block[b].ref++ == 0)
		unfree(p, b);
}

uint32_t sim_pool_take(struct sim_pool *p)
{
	uint32_t b = p->first;

	if (p->n_free == 0)
		return SIM_NO_BLOCK;
	unfree(p, b);
	if (p->block[b].key)
		forget(p, b);
	p->block[b].ref = 1;
	return b;
}

void sim_pool_publish(struct sim_pool *p, uint32_t b, uint64_t key)
{
	if (p->block[b].key || sim_pool_find(p, key) != SIM_NO_BLOCK)
		return;
	p->block[b].key = key;
	p->block[b].chain = *link_of(p, key);
	*link_of(p, key) = b;
}

/* Unknown blocks go first in line, known ones last. */
void sim_pool_drop(struct sim_pool *p, uint32_t b)
{
	struct sim_block *k = &p->block[b];
	bool known = k->key != 0;

	PLX_CHECK(k->ref > 0);
	if (--k->ref > 0)
		return;
	k->prev = known && p->n_free ? p->last : SIM_NO_BLOCK;
	k->next = !known && p->n_free ? p->first : SIM_NO_BLOCK;
	if (k->prev != SIM_NO_BLOCK)
		p->block[k->prev].next = b;
	else
		p->first = b;
	if (k->next != SIM_NO_BLOCK)
		p->block[k->next].prev = b;
	else
		p->last = b;
	p->n_free++;
}
