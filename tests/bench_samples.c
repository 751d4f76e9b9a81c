/*
 * What several samples of one prompt take, with the real model: KV memory at most, time to the
 * first id and to the last, and answers a second; beside one sample, and beside as many requests
 * that share nothing.
 *
 *   bench_samples [model.gguf]
 *
 * A prompt of 180 tokens, 60 ids an answer at temperature 1. The best of four is what four samples
 * take: nothing is computed for the choice.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/devsched.h"
#include "tests/lib/model_path.h"

#define TOKENS 180u
#define ROUNDS 7u
#define WAYS   3u

static const struct way {
	const char *name;
	uint32_t n_requests, n_samples;
} ways[WAYS] = {{"1 sample", 1, 1}, {"4 samples", 1, 4}, {"4 requests apart", 4, 1}};

static double first_ms[WAYS][ROUNDS], all_ms[WAYS][ROUNDS];
static uint32_t most_blocks[WAYS];

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double since_ms(uint64_t t)
{
	return (double)(plx_clock_ns() - t) / 1e6;
}

static void measure(uint32_t w, uint32_t round)
{
	static int32_t ids[4][TOKENS];
	uint64_t begin = plx_clock_ns();

	for (uint32_t k = 0; k < ways[w].n_requests; k++) {
		for (uint32_t i = 0; i < TOKENS; i++)
			ids[k][i] = (int32_t)(1000 + (i * 7919 + k) % 20000);
		struct plx_sched_job j = devsched_job(ids[k], TOKENS);

		j.n_samples = ways[w].n_samples;
		j.sampler.temperature = 1;
		j.sampler.seed = 5 + k;
		devsched_add(k, &j);
	}
	while (devsched_turn()) {
		uint32_t used = ds.sched.conf.n_blocks - plx_kv_room(&ds.sched.kv);

		most_blocks[w] = used > most_blocks[w] ? used : most_blocks[w];
		if (first_ms[w][round] <= 0 && ds.n_said[0] > 0)
			first_ms[w][round] = since_ms(begin);
	}
	all_ms[w][round] = since_ms(begin);
}

static void print(uint32_t w)
{
	struct plx_dev_info info;
	double *first = first_ms[w], *all = all_ms[w];
	uint32_t answers = ways[w].n_requests * ways[w].n_samples;

	PLX_CHECK(plx_dev_info_get(ds.kit.dev, &info) == 0);
	qsort(first, ROUNDS, sizeof(*first), by_value);
	qsort(all, ROUNDS, sizeof(*all), by_value);
	printf(
	    "%-16s KV %.2f MiB at most, first id %.0f ms (%.0f to %.0f), last id %.0f ms (%.0f to "
	    "%.0f), %.2f answers/s\n",
	    ways[w].name, (double)most_blocks[w] * info.block_bytes / 1048576, first[ROUNDS / 2],
	    first[0], first[ROUNDS - 1], all[ROUNDS / 2], all[0], all[ROUNDS - 1],
	    answers * 1e3 / all[ROUNDS / 2]);
}

int main(int argc, char **argv)
{
	ds.path = argc > 1 ? argv[1] : plx_test_model();
	if (ds.path == NULL) {
		printf("bench_samples: no model; skipped\n");
		return 0;
	}
	ds.n_threads = 2;
	ds.no_cache = true;
	devsched_open(256, 80);
	for (uint32_t r = 0; r < ROUNDS; r++)
		for (uint32_t w = 0; w < WAYS; w++)
			measure(w, r);
	for (uint32_t w = 0; w < WAYS; w++)
		print(w);
	devsched_close();
	return 0;
}
