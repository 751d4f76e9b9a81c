/* What learning from a step and asking about one cost. One line a figure. */
#include <stdio.h>

#include "dataplane/batch/cost.h"
#include "fw/base/clock.h"

#define ROUNDS 200u
#define CALLS  500u

static struct plx_cost c;
static volatile double sink;

static struct plx_cost_work work(uint32_t i)
{
	struct plx_cost_work w = {.decodes = 40 + i % 60, .context = 40000 + i % 977 * 40};

	if (i % 3)
		plx_cost_add_prefill(&w, i % 4000, 100 + i % 400);
	return w;
}

static void update(uint32_t i)
{
	struct plx_cost_work w = work(i);

	plx_cost_update(&c, &w, 8000000 + w.prefill * UINT64_C(28000) + i % 7 * 100000);
}

static void predict(uint32_t i)
{
	struct plx_cost_work w = work(i);

	sink = plx_cost_ns(&c, &w);
}

static void chunk(uint32_t i)
{
	struct plx_cost_work w = work(i);

	sink = plx_cost_chunk(&c, &w, i % 4000, 25e6, 2048);
}

/* The best round: the machine has other work. */
static void best(const char *what, void (*call)(uint32_t i))
{
	uint64_t least = UINT64_MAX;

	for (uint32_t r = 0; r < ROUNDS; r++) {
		uint64_t t = plx_clock_ns();

		for (uint32_t i = 0; i < CALLS; i++)
			call(r * CALLS + i);
		t = plx_clock_ns() - t;
		least = t < least ? t : least;
	}
	printf("cost  %-44s %7.1f ns a call\n", what, (double)least / CALLS);
}

int main(void)
{
	plx_cost_init(&c);
	best("update", update);
	best("predict", predict);
	best("chunk", chunk);
	return 0;
}
