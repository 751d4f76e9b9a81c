/*
 * What the type of KV does to speed: one token at a time, and a chunk of a prompt, behind a short
 * and a long context, in f16, q8 and q4, one thread.
 *
 * Usage: bench_kv [model.gguf] [isa] [long context]
 *
 * The three devices take turns, so that a machine that others use too is the same for all: a round
 * runs each of them once, and ratios are taken within rounds. BENCH_RUNS=n: rounds (9).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/cpu.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"

#define N_DECODE 16u  /* tokens of a stretch */
#define N_CHUNK  256u /* and of a chunk of a prompt */
#define SHORT    1024u
#define LONG     4096u
#define MAX_RUNS 25u

static const char *const names[PLX_KV_N_TYPES] = {"f16", "q8", "q4"};
static struct devkit kit[PLX_KV_N_TYPES];
static int32_t prompt[1u << 14];
static uint32_t n_runs = 9;

/* Runs n tokens from pos on, `chunk` a step. */
static void run(struct devkit *k, uint32_t pos, uint32_t n, uint32_t chunk)
{
	for (uint32_t end = pos + n; pos < end; pos += chunk) {
		struct plx_step *s = devkit_step(k, 0);

		devkit_seq(s, 0, prompt + pos, pos, chunk, true);
		PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
		(void)devkit_wait(k);
		PLX_CHECK(plx_queue_step(k->q, 0)->status == 0);
	}
}

static void open_all(const char *path, const char *isa, uint32_t n_ctx)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sampler greedy = devkit_greedy();
	struct plx_dev_info info;

	lim.block_tokens = 32;
	lim.max_seq_blocks = (n_ctx + N_CHUNK) / lim.block_tokens;
	lim.n_blocks = lim.max_seq_blocks;
	for (uint32_t i = 0; i < PLX_KV_N_TYPES; i++) {
		lim.kv_type = i;
		devkit_open(&kit[i], path, isa, &lim);
		struct plx_step *s = devkit_step(&kit[i], 0);

		devkit_set(s, 0, &greedy);
		devkit_blocks(s, 0, 0, lim.n_blocks, 0);
		PLX_CHECK(plx_queue_submit(kit[i].q, 0) == 0);
		(void)devkit_wait(&kit[i]);
		run(&kit[i], 0, n_ctx + N_CHUNK, N_CHUNK);
		PLX_CHECK(plx_dev_info_get(kit[i].dev, &info) == 0);
		printf("bench_kv: %s: %.2f KiB a token\n", names[i],
		       info.block_bytes / 1024.0 / lim.block_tokens);
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Median, and the range. */
static void spread(const char *what, double *v)
{
	qsort(v, n_runs, sizeof(v[0]), by_value);
	printf(" %s %.3g (%.3g to %.3g)", what, v[n_runs / 2], v[0], v[n_runs - 1]);
}

/* Stretches of n tokens from pos on, `chunk` a step. */
static void bench(uint32_t pos, uint32_t n, uint32_t chunk)
{
	static double rate[PLX_KV_N_TYPES][MAX_RUNS], attn[PLX_KV_N_TYPES][MAX_RUNS];
	double ratio[MAX_RUNS];

	for (uint32_t r = 0; r < n_runs; r++)
		for (uint32_t i = 0; i < PLX_KV_N_TYPES; i++) {
			struct plx_cpu_stats before, after;

			run(&kit[i], pos, chunk, chunk); /* warm */
			plx_cpu_get_stats(kit[i].dev, &before);
			uint64_t t0 = plx_clock_ns();

			run(&kit[i], pos, n, chunk);
			rate[i][r] = n * 1e9 / (double)(plx_clock_ns() - t0);
			plx_cpu_get_stats(kit[i].dev, &after);
			attn[i][r] =
			    (double)(after.op_ns[PLX_FWD_ATTN] - before.op_ns[PLX_FWD_ATTN]) / 1e3 /
			    n;
		}
	for (uint32_t i = PLX_KV_N_TYPES; i-- > 0;) { /* f16 is sorted last */
		for (uint32_t r = 0; r < n_runs; r++)
			ratio[r] = rate[i][r] / rate[0][r];
		printf("bench_kv: %s behind %u tokens, %s:", chunk == 1 ? "decode" : "prefill", pos,
		       names[i]);
		spread("tokens/s", rate[i]);
		spread("attention, us a token", attn[i]);
		spread("ratio to f16", ratio);
		printf(" over %u rounds\n", n_runs);
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : plx_test_model();
	const char *isa = argc > 2 ? argv[2] : "auto";
	uint32_t n_long = argc > 3 ? (uint32_t)atoi(argv[3]) : LONG;
	const char *runs = getenv("BENCH_RUNS");

	if (path == NULL) {
		printf("bench_kv: SKIPPED, no model; `make model` gets it\n");
		return 0;
	}
	if (runs != NULL && atoi(runs) >= 1 && atoi(runs) <= (int)MAX_RUNS)
		n_runs = (uint32_t)atoi(runs);
	PLX_CHECK(n_long % N_CHUNK == 0 && n_long >= SHORT &&
	          n_long + N_CHUNK <= sizeof(prompt) / sizeof(prompt[0]));
	for (uint32_t i = 0; i < sizeof(prompt) / sizeof(prompt[0]); i++)
		prompt[i] = (int32_t)(1000 + i * 37 % 20000);
	setvbuf(stdout, NULL, _IOLBF, 0);
	open_all(path, isa, n_long);
	bench(SHORT, N_DECODE, 1);
	bench(n_long, N_DECODE, 1);
	bench(SHORT, N_CHUNK, N_CHUNK);
	bench(n_long, N_CHUNK, N_CHUNK);
	for (uint32_t i = 0; i < PLX_KV_N_TYPES; i++)
		devkit_close(&kit[i]);
	return 0;
}
