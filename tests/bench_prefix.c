/*
 * The prefix cache: how many prompt tokens of the simulated service (tests/sim/README.md) it finds,
 * with plain LRU and with the classes of kv.h; what a look-up takes.
 *
 * Requests come one after the other, so that the pool is all cache: a bound for what is found in
 * service, the same for both policies.
 */
#include <stdio.h>
#include <stdlib.h>

#include "dataplane/batch/prefix.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/sim/trace.h"

#define N_REQ  20000u
#define BT     32u
#define PROMPT 32768u

struct cache {
	struct plx_arena arena;
	struct plx_kv kv;
	struct plx_prefix px;
	uint32_t *block;
	int32_t *ids;
};

static void cache_open(struct cache *c, uint32_t n_blocks, uint32_t bt)
{
	struct plx_diag d = {""};

	PLX_CHECK(plx_arena_open(&c->arena, plx_kv_bytes(n_blocks) + plx_prefix_bytes(n_blocks, bt),
	                         &d) == 0);
	PLX_CHECK(plx_kv_init(&c->kv, &c->arena, n_blocks) == 0);
	PLX_CHECK(plx_prefix_init(&c->px, &c->arena, &c->kv, 0, bt, true, 42) == 0);
	c->block = calloc(SIM_MAX_PROMPT + SIM_MAX_NEW, sizeof(*c->block));
	c->ids = calloc(SIM_MAX_PROMPT + SIM_MAX_NEW, sizeof(*c->ids));
	PLX_CHECK(c->block && c->ids);
}

static void cache_close(struct cache *c)
{
	free(c->block);
	free(c->ids);
	plx_arena_close(&c->arena);
}

/* Prompt and answer as one text; returns the prompt's tokens that were known. */
static uint32_t serve(struct cache *c, const struct sim_req *r)
{
	uint32_t bt = c->px.block_tokens, n = (r->n_prompt + r->n_answer) / bt, known = 0;
	struct plx_prefix_at at = plx_prefix_begin(0);

	for (uint32_t i = 0; i < n * bt; i++)
		c->ids[i] = sim_text_id(&r->text, i);
	while (known < (r->n_prompt - 1) / bt) {
		uint32_t b = plx_prefix_hold(&c->px, &at, &c->ids[known * bt]);

		if (b == PLX_KV_NONE)
			break;
		c->block[known++] = b;
	}
	for (uint32_t i = known; i < n; i++) {
		c->block[i] = plx_prefix_take(&c->px);
		plx_prefix_add(&c->px, &at, &c->ids[i * bt], c->block[i]);
	}
	while (n > 0)
		plx_prefix_drop(&c->px, c->block[--n]);
	return known * bt;
}

static double found(const struct sim_trace *t, uint32_t n_blocks, bool one_class)
{
	static struct cache c;
	uint64_t prompt = 0, known = 0;

	cache_open(&c, n_blocks, BT);
	c.px.one_class = one_class;
	for (uint32_t i = 0; i < t->n_req; i++) {
		prompt += t->req[i].n_prompt;
		known += serve(&c, &t->req[i]);
	}
	cache_close(&c);
	return 100.0 * (double)known / (double)prompt;
}

static void compare(void)
{
	static const uint32_t pool[] = {1600, 3200, 6300, 12600};
	struct sim_trace t;

	sim_trace_make(&t, N_REQ, 7.0, 1);
	for (uint32_t i = 0; i < sizeof(pool) / sizeof(pool[0]); i++) {
		double lru = found(&t, pool[i], true), ours = found(&t, pool[i], false);

		printf("prefix %5u blocks of %u, prompt tokens found      LRU %5.1f %%  ours %5.1f "
		       "%%\n",
		       pool[i], BT, lru, ours);
	}
	sim_trace_free(&t);
}

static void look_up(uint32_t bt)
{
	static struct cache c;
	struct sim_req r = {.text = {1, 2, 0}, .n_prompt = PROMPT, .n_answer = bt};
	uint64_t best = UINT64_MAX;

	cache_open(&c, 4 * PROMPT / bt, bt);
	(void)serve(&c, &r);
	for (uint32_t k = 0; k < 50; k++) {
		struct plx_prefix_at at = plx_prefix_begin(0);
		uint64_t t0 = plx_clock_ns();
		uint32_t n = 0;

		while (n < PROMPT / bt &&
		       plx_prefix_find(&c.px, &at, &c.ids[n * bt]) != PLX_KV_NONE)
			n++;
		uint64_t ns = plx_clock_ns() - t0;

		PLX_CHECK(n == PROMPT / bt);
		best = ns < best ? ns : best;
	}
	printf("prefix look-up of %u tokens, blocks of %2u             %6.1f us\n", PROMPT, bt,
	       (double)best / 1000);
	cache_close(&c);
}

int main(void)
{
	look_up(16);
	look_up(32);
	compare();
	return 0;
}
