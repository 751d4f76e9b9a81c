/*
 * The CUDA device's speed with a model file: decode at several batches, two steps in flight;
 * prefill; the share of what a plain kernel reads in that time; what was launched.
 *
 *   bench_cuda MODEL [GPU]
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/cuda.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "tests/lib/devkit.h"

#define CONTEXT  160u /* tokens before the first that is timed */
#define N_DECODE 256u
#define MAX_SEQ  32u

static const struct plx_cuda_plugin *plugin;
static float read_gb_s;

static void die(const char *what)
{
	fprintf(stderr, "bench_cuda: %s\n", what);
	exit(1);
}

static void plugin_find(void)
{
	char path[600];
	int (*read)(uint64_t, uint32_t, float *);

	PLX_CHECK(plx_cuda_plugin_file(path, sizeof(path)) == 0);
	void *so = dlopen(path, RTLD_NOW);

	if (so == NULL)
		die(dlerror());
	plugin = dlsym(so, PLX_CUDA_SYMBOL);
	*(void **)&read = dlsym(so, "plx_kc_lab_read");
	PLX_CHECK(plugin != NULL && read != NULL);
	if (read(UINT64_C(4) << 30, 20, &read_gb_s) != 0)
		die("the read kernel failed");
	printf("read kernel, 4 GiB: %.0f GB/s\n", (double)read_gb_s);
}

static void open_gpu(struct devkit *k, const char *path, uint32_t gpu)
{
	struct plx_dev_conf conf = {.name = "gpu", .kind = "cuda", .index = gpu};
	struct plx_load_progress pr;
	struct plx_dev_info info;
	struct plx_diag d = {0};
	int err;

	memset(k, 0, sizeof(*k));
	k->lim = (struct plx_dev_limits){.n_slots = MAX_SEQ,
	                                 .n_blocks = MAX_SEQ * 64 + 256,
	                                 .block_tokens = 16,
	                                 .max_seq_blocks = 256,
	                                 .max_step_tokens = 2048,
	                                 .max_step_seqs = MAX_SEQ,
	                                 .steps_in_flight = 4,
	                                 .n_threads = 1};
	if (plx_model_open(path, &k->model, &d) != 0 || plx_dev_open(&conf, &k->dev, &d) != 0 ||
	    plx_dev_load_begin(k->dev, k->model, &k->lim, &d) != 0)
		die(d.text);
	do
		err = plx_dev_load_poll(k->dev, 100000, &pr, &d);
	while (err == PLX_E_AGAIN);
	if (err != 0 || plx_queue_open(k->dev, &k->q, &d) != 0)
		die(d.text);
	PLX_CHECK(plx_dev_info_get(k->dev, &info) == 0);
	printf("%s, %s; %s: %s\n", k->model->name, pr.note, info.name, info.numeric_kind);
}

static void wait_step(struct devkit *k, uint32_t idx)
{
	struct plx_step *s = plx_queue_step(k->q, idx);

	PLX_CHECK(devkit_wait(k) == idx);
	PLX_CHECK(s->status == 0);
	for (uint32_t i = 0; i < s->n_seq; i++)
		PLX_CHECK(plx_step_outs(s)[i].status == 0);
}

/* A prompt of n tokens in slot i. */
static void prompt_add(struct devkit *k, struct plx_step *s, uint32_t slot, uint32_t n)
{
	static int32_t ids[2048];
	struct plx_sampler greedy = devkit_greedy();

	for (uint32_t i = 0; i < n; i++)
		ids[i] = (int32_t)((i * 7919 + slot * 104729 + 5) % k->model->n_vocab);
	devkit_set(s, slot, &greedy);
	devkit_blocks(s, slot, 0, n > 1024 ? n / 16 : 64, slot * 64);
	devkit_seq(s, slot, ids, 0, n, true);
}

static void clear_all(struct devkit *k, uint32_t n)
{
	struct plx_step *s = devkit_step(k, 0);

	for (uint32_t i = 0; i < n; i++)
		devkit_clear(s, i);
	PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
	wait_step(k, 0);
}

static void decode_submit(struct devkit *k, uint32_t idx, uint32_t n_seq, uint32_t pos)
{
	static const int32_t last = PLX_TOK_LAST;
	struct plx_step *s = devkit_step(k, idx);

	for (uint32_t i = 0; i < n_seq; i++)
		devkit_seq(s, i, &last, pos, 1, true);
	PLX_CHECK(plx_queue_submit(k->q, idx) == 0);
}

static void decode(struct devkit *k, uint32_t n_seq)
{
	struct plx_cuda_stats a, b;

	for (uint32_t i = 0; i < n_seq; i++) {
		prompt_add(k, devkit_step(k, 0), i, CONTEXT);
		PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
		wait_step(k, 0);
	}
	decode_submit(k, 0, n_seq, CONTEXT); /* one to warm up */
	wait_step(k, 0);
	plugin->get_stats(k->dev, &a);
	uint64_t t = plx_clock_ns();

	decode_submit(k, 0, n_seq, CONTEXT + 1);
	for (uint32_t i = 1; i <= N_DECODE; i++) {
		if (i < N_DECODE)
			decode_submit(k, i % 2, n_seq, CONTEXT + 1 + i);
		wait_step(k, (i - 1) % 2);
	}
	double us = (double)(plx_clock_ns() - t) / N_DECODE / 1e3;

	plugin->get_stats(k->dev, &b);
	printf(
	    "decode, %2u sequences, context %u: %8.1f us a step, %8.0f tokens/s; weights alone "
	    "%.1f us, %.0f %% of the read rate; a step: %.2f rung, %.2f graphs, %.2f kernels, "
	    "%.2f questions\n",
	    n_seq, CONTEXT, us, n_seq / us * 1e6, (double)a.weight_bytes / (double)read_gb_s / 1e3,
	    100 * (double)a.weight_bytes / (double)read_gb_s / 1e3 / us,
	    (double)(b.n_rung - a.n_rung) / N_DECODE, (double)(b.n_graphs - a.n_graphs) / N_DECODE,
	    (double)(b.n_kernels - a.n_kernels) / N_DECODE,
	    (double)(b.n_queries - a.n_queries) / N_DECODE);
	clear_all(k, n_seq);
}

static int by_time(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* From a submit to the token, one step at a time; the context stays below 512. */
static void alone(struct devkit *k)
{
	static uint64_t ns[12 * 256];
	uint32_t n = 0;

	for (uint32_t run = 0; run < 12; run++) {
		prompt_add(k, devkit_step(k, 0), 0, CONTEXT);
		PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
		wait_step(k, 0);
		for (uint32_t i = 0; i < 256; i++) {
			uint64_t t = plx_clock_ns();

			decode_submit(k, 0, 1, CONTEXT + i);
			wait_step(k, 0);
			ns[n++] = plx_clock_ns() - t;
		}
		clear_all(k, 1);
	}
	qsort(ns, n, sizeof(ns[0]), by_time);
	printf("one step at a time, submit to token: p50 %.1f, p99 %.1f, p99.9 %.1f us\n",
	       (double)ns[n / 2] / 1e3, (double)ns[n * 99 / 100] / 1e3,
	       (double)ns[n * 999 / 1000] / 1e3);
}

static void prefill(struct devkit *k, uint32_t n)
{
	uint64_t best = UINT64_MAX, submit = UINT64_MAX;

	for (uint32_t run = 0; run < 4; run++) {
		prompt_add(k, devkit_step(k, 0), 0, n);
		uint64_t t = plx_clock_ns();

		PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
		uint64_t t1 = plx_clock_ns() - t;

		wait_step(k, 0);
		t = plx_clock_ns() - t;
		best = t < best ? t : best;
		submit = t1 < submit ? t1 : submit;
		clear_all(k, 1);
	}
	printf("prefill, %4u tokens: %8.2f ms, %8.0f tokens/s; submit took %.0f us\n", n,
	       (double)best / 1e6, n / ((double)best / 1e9), (double)submit / 1e3);
}

int main(int argc, char **argv)
{
	static const uint32_t batches[] = {1, 2, 4, 8, 16, 32};
	static struct devkit k;

	if (argc < 2) {
		/* `make bench` runs every benchmark without arguments. */
		printf("bench_cuda: skipped: give a model file, on a machine with a GPU\n");
		return 0;
	}
	plugin_find();
	open_gpu(&k, argv[1], argc > 2 ? (uint32_t)atoi(argv[2]) : 0);
	for (uint32_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++)
		decode(&k, batches[i]);
	alone(&k);
	prefill(&k, 128);
	prefill(&k, 512);
	prefill(&k, 2048);
	devkit_close(&k);
	return 0;
}
