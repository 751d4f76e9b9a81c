/*
 * Tokens a second of the CPU device on a real model: prefill of 512 tokens and decode of 128, on
 * one and two threads, and where the time goes.
 *
 * Usage: bench_device [model.gguf] [isa] [threads] [prefill | decode | share | batch | batches |
 *        profile]
 * share: decode against this machine's read bandwidth, in turn on the same threads, a tenth of a
 * second each; BENCH_TOKEN_BYTES says what a token reads (mkmodel facts).
 * batch: decode of 8 sequences at once; batches: of 1 to 16, and a profile of 8.
 * BENCH_RUNS=n: that many runs of each (5), for a script that takes turns with other programs.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/cpu.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/devkit.h"
#include "tests/lib/devprof.h"
#include "tests/lib/model_path.h"
#include "tests/lib/stream.h"

#define N_PREFILL 512u
#define N_DECODE  128u

#define N_LONG 2000u

#define N_BATCH     8u
#define MAX_BATCH   16u
#define N_BATCH_CTX 64u /* tokens of each prompt, and new ones of each */

#define MAX_RUNS 25u

#define SHARE_PAIRS 8u /* of each run */
#define SHARE_NS    (100 * PLX_NS_PER_MS)

static uint32_t n_runs = 5;

static int32_t prompt[N_LONG];

static void shares(struct devkit *k, const struct plx_cpu_stats *before, const char *what)
{
	struct plx_cpu_stats now;
	uint64_t sum = 0;

	plx_cpu_get_stats(k->dev, &now);
	for (uint32_t i = 0; i < PLX_FWD_N_OPS; i++)
		sum += now.op_ns[i] - before->op_ns[i];
	sum += now.sample_ns - before->sample_ns;
	printf("bench_device: %s time shares:", what);
	for (uint32_t i = 0; i < PLX_FWD_N_OPS; i++)
		if (now.op_ns[i] > before->op_ns[i])
			printf(" %s %.1f%%", plx_fwd_op_name((enum plx_fwd_op)i),
			       100.0 * (double)(now.op_ns[i] - before->op_ns[i]) / (double)sum);
	printf(" sample %.1f%%; %llu items, longest so far %.0f us\n",
	       100.0 * (double)(now.sample_ns - before->sample_ns) / (double)sum,
	       (unsigned long long)(now.n_items - before->n_items), (double)now.item_max_ns / 1000);
}

static double run(struct devkit *k, uint32_t n_prompt, uint32_t n_new, const char *what)
{
	struct devseq q = {.prompt = prompt, .n_prompt = n_prompt, .n_new = n_new};
	struct plx_cpu_stats before;

	q.sampler = devkit_greedy();
	plx_cpu_get_stats(k->dev, &before);
	uint64_t t0 = plx_clock_ns();

	devkit_run(k, &q, 1);
	double s = (double)(plx_clock_ns() - t0) / 1e9;

	if (what != NULL)
		shares(k, &before, what);
	return s;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Median of the runs, with the range. */
static void report(struct devkit *k, const char *isa, bool prefill)
{
	uint32_t n_prompt = prefill ? N_PREFILL : 1, n_new = prefill ? 1 : N_DECODE;
	double n = prefill ? N_PREFILL : N_DECODE, rate[MAX_RUNS];
	const char *what = prefill ? "prefill 512" : "decode 128";

	run(k, n_prompt, prefill ? 1 : N_DECODE / 8, NULL);
	for (uint32_t i = 0; i < n_runs; i++)
		rate[i] = n / run(k, n_prompt, n_new, i + 1 == n_runs ? what : NULL);
	qsort(rate, n_runs, sizeof(rate[0]), by_value);
	printf("bench_device: %s, %u thread%s, %s: %.1f tokens/s (%.1f to %.1f over %u runs)\n",
	       what, k->lim.n_threads, k->lim.n_threads > 1 ? "s" : "", isa, rate[n_runs / 2],
	       rate[0], rate[n_runs - 1], n_runs);
	fflush(stdout);
}

/* ---- decode against reading ------------------------------------------------------------------ */

/*
 * n tokens after a prompt of one, two steps in flight, as the batcher runs them; returns the
 * seconds from the first one's end to the last one's.
 */
static double decode_stretch(struct devkit *k, uint32_t n)
{
	const int32_t last = PLX_TOK_LAST;
	struct plx_sampler greedy = devkit_greedy();
	const uint32_t bt = k->lim.block_tokens;
	uint64_t t0 = 0;

	for (uint32_t i = 0; i <= n + 1; i++) {
		struct plx_step *s = devkit_step(k, i % 2);

		if (i == 0) {
			devkit_set(s, 0, &greedy);
			devkit_blocks(s, 0, 0, (n + bt) / bt, 0);
		}
		if (i <= n) {
			devkit_seq(s, 0, i == 0 ? prompt : &last, i, 1, true);
			PLX_CHECK(plx_queue_submit(k->q, i % 2) == 0);
		}
		if (i > 0)
			PLX_CHECK(devkit_wait(k) == (i - 1) % 2);
		if (i == 1)
			t0 = plx_clock_ns();
	}
	double s = (double)(plx_clock_ns() - t0) / 1e9;

	devkit_clear(devkit_step(k, 0), 0);
	PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
	(void)devkit_wait(k);
	return s;
}

struct reading {
	const struct stream_loop *loop;
	uint64_t time_ns;
	uint8_t *buf[DEVKIT_MAX_THREADS];
	size_t off[DEVKIT_MAX_THREADS];
	double rate[DEVKIT_MAX_THREADS];
};

static void read_task(void *arg, uint32_t lane)
{
	const size_t piece = STREAM_PASS_BYTES / 8;
	struct reading *r = arg;
	uint64_t t0, now;
	size_t bytes = 0;

	if (r->buf[lane] == NULL)
		r->buf[lane] = stream_buffer();
	t0 = now = plx_clock_ns();
	for (; now - t0 < r->time_ns; now = plx_clock_ns()) {
		r->loop->fn(r->buf[lane] + r->off[lane], piece);
		r->off[lane] = (r->off[lane] + piece) % STREAM_BYTES;
		bytes += piece;
	}
	r->rate[lane] = now > t0 ? (double)bytes / (double)(now - t0) : 0;
}

/* GB/s of all lanes together. */
static double read_rate(struct devkit *k, struct reading *r, uint64_t time_ns)
{
	double sum = 0;

	r->time_ns = time_ns;
	devkit_lend(k, read_task, r);
	for (uint32_t i = 0; i < k->lim.n_threads; i++)
		sum += r->rate[i];
	return sum;
}

static void choose_loop(struct devkit *k, struct reading *r)
{
	const struct stream_loop *best = stream_loop(0);
	double rate = 0;

	r->loop = best;
	(void)read_rate(k, r, 0); /* takes the buffers */
	for (uint32_t i = 0; (r->loop = stream_loop(i)) != NULL; i++) {
		double now = read_rate(k, r, SHARE_NS / 2);

		if (now > rate) {
			rate = now;
			best = r->loop;
		}
	}
	r->loop = best;
}

/*
 * Memory that others use too changes its rate from second to second, so each stretch of decode is
 * held against the reads right before and right after it, and the median of these shares counts.
 */
static void share(struct devkit *k, const char *isa)
{
	static double part[MAX_RUNS * SHARE_PAIRS], rate[MAX_RUNS * SHARE_PAIRS],
	    gbs[MAX_RUNS * SHARE_PAIRS];
	const char *env = getenv("BENCH_TOKEN_BYTES");
	double bytes = env != NULL ? atof(env) : 0, before;
	uint32_t n = n_runs * SHARE_PAIRS, n_tok;
	static struct reading r;

	if (stream_loop(0) == NULL || bytes <= 0) {
		printf("bench_device: share: SKIPPED, %s\n",
		       bytes <= 0 ? "BENCH_TOKEN_BYTES is not set" : "no AVX2 here");
		return;
	}
	choose_loop(k, &r);
	n_tok = (uint32_t)((double)SHARE_NS / 1e9 / (decode_stretch(k, 8) / 8)) + 1;
	n_tok = n_tok < N_DECODE ? n_tok : N_DECODE;
	before = read_rate(k, &r, SHARE_NS);
	for (uint32_t i = 0; i < n; i++) {
		rate[i] = n_tok / decode_stretch(k, n_tok);
		double after = read_rate(k, &r, SHARE_NS);

		gbs[i] = (before + after) / 2;
		part[i] = 100 * rate[i] * bytes / 1e9 / gbs[i];
		before = after;
	}
	qsort(part, n, sizeof(part[0]), by_value);
	qsort(rate, n, sizeof(rate[0]), by_value);
	qsort(gbs, n, sizeof(gbs[0]), by_value);
	printf("bench_device: share, %u threads, %s: %.1f %% of the read bandwidth (quartiles %.1f "
	       "to %.1f, %u pairs); decode %.1f tokens/s (%.1f to %.1f), read %.2f GB/s (%.2f to "
	       "%.2f, %s)\n",
	       k->lim.n_threads, isa, part[n / 2], part[n / 4], part[3 * n / 4], n, rate[n / 2],
	       rate[n / 4], rate[3 * n / 4], gbs[n / 2], gbs[n / 4], gbs[3 * n / 4], r.loop->name);
	fflush(stdout);
}

static void fill_batch(struct devseq *seq, uint32_t n)
{
	memset(seq, 0, n * sizeof(seq[0]));
	for (uint32_t i = 0; i < n; i++) {
		seq[i].prompt = prompt + i * N_BATCH_CTX % (N_LONG - N_BATCH_CTX);
		seq[i].n_prompt = N_BATCH_CTX;
		seq[i].n_new = N_BATCH_CTX + 1;
		seq[i].sampler = devkit_greedy();
	}
}

/* Tokens a second of all sequences together, from the step after their prompts, which run in one.
 */
static double run_batch(struct devkit *k, uint32_t n)
{
	static struct devseq seq[MAX_BATCH];

	fill_batch(seq, n);
	devkit_run(k, seq, n);
	return (double)(n * N_BATCH_CTX) * 1e9 / (double)(plx_clock_ns() - seq[0].first_ns);
}

static void batch(struct devkit *k, const char *isa, uint32_t n)
{
	double rate[MAX_RUNS];

	for (uint32_t i = 0; i < n_runs; i++)
		rate[i] = run_batch(k, n);
	qsort(rate, n_runs, sizeof(rate[0]), by_value);
	printf(
	    "bench_device: batch %u, %u thread%s, %s: %.1f tokens/s (%.1f to %.1f over %u runs)\n",
	    n, k->lim.n_threads, k->lim.n_threads > 1 ? "s" : "", isa, rate[n_runs / 2], rate[0],
	    rate[n_runs - 1], n_runs);
	fflush(stdout);
}

static void batches(struct devkit *k, const char *isa)
{
	for (uint32_t n = 1; n <= MAX_BATCH; n *= 2)
		batch(k, isa, n);
	struct devprof *p = devprof_begin(k);

	(void)run_batch(k, N_BATCH);
	devprof_end(p, "batch 8", N_BATCH * N_BATCH_CTX * 3 / 2);
}

/* One prompt and a run of single tokens, op by op. */
static void profile(struct devkit *k)
{
	run(k, N_PREFILL, 1, NULL);
	struct devprof *p = devprof_begin(k);

	for (uint32_t i = 0; i < 5; i++)
		run(k, N_PREFILL, 1, NULL);
	devprof_end(p, "prefill 512", N_PREFILL);
	p = devprof_begin(k);
	for (uint32_t i = 0; i < 3; i++)
		run(k, 1, N_DECODE, NULL);
	devprof_end(p, "decode 128", N_DECODE / 2);
}

/* Each lane on a core of its own, as lcores are; left alone where the machine has too few. */
static void pin(struct devkit *k)
{
	/* Workers first: one that spins where this thread has to go would keep it out. */
	for (uint32_t i = k->lim.n_threads; i-- > 0;) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(i, &set);
		(void)pthread_setaffinity_np(i > 0 ? k->worker[i - 1] : pthread_self(), sizeof(set),
		                             &set);
	}
}

/* How long a poll holds its lcore while a long prompt runs: what a packet may have to wait. */
static void slices(struct devkit *k)
{
	memset(&k->polls, 0, sizeof(k->polls));
	run(k, N_LONG, 1, NULL);
	printf(
	    "bench_device: poll of %u us while a prompt of %u tokens runs, %u thread%s: p50 %.0f "
	    "us, p99 %.0f us, longest %.0f us\n",
	    k->budget_us, N_LONG, k->lim.n_threads, k->lim.n_threads > 1 ? "s" : "",
	    (double)plx_hist_quantile(&k->polls, 0.5) / 1000,
	    (double)plx_hist_quantile(&k->polls, 0.99) / 1000, (double)k->polls.max_ns / 1000);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : plx_test_model();
	const char *isa = argc > 2 ? argv[2] : "auto";
	uint32_t only = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
	const char *part = argc > 4 ? argv[4] : "";
	const char *runs = getenv("BENCH_RUNS");

	if (runs != NULL && atoi(runs) >= 1 && atoi(runs) <= (int)MAX_RUNS)
		n_runs = (uint32_t)atoi(runs);
	if (path == NULL) {
		printf("bench_device: SKIPPED, no model; `make model` gets it\n");
		return 0;
	}
	for (uint32_t i = 0; i < N_LONG; i++)
		prompt[i] = (int32_t)(1000 + i * 37 % 20000);
	for (uint32_t n = 1; n <= 2; n++) {
		struct plx_dev_limits lim = devkit_limits();
		struct devkit k;

		if (only != 0 && only != n)
			continue;
		lim.n_threads = n;
		if (strcmp(part, "batch") == 0)
			lim.max_step_tokens = N_BATCH * N_BATCH_CTX;
		if (strcmp(part, "batches") == 0) {
			lim.max_step_tokens = MAX_BATCH * N_BATCH_CTX;
			lim.n_slots = MAX_BATCH;
			lim.max_step_seqs = MAX_BATCH;
		}
		devkit_open(&k, path, isa, &lim);
		pin(&k);
		if (strcmp(part, "profile") == 0)
			profile(&k);
		if (part[0] == '\0' || strcmp(part, "prefill") == 0)
			report(&k, isa, true);
		if (part[0] == '\0' || strcmp(part, "decode") == 0)
			report(&k, isa, false);
		if (strcmp(part, "share") == 0)
			share(&k, isa);
		if (strcmp(part, "batch") == 0)
			batch(&k, isa, N_BATCH);
		if (strcmp(part, "batches") == 0)
			batches(&k, isa);
		if (part[0] == '\0')
			slices(&k);
		devkit_close(&k);
	}
	return 0;
}
