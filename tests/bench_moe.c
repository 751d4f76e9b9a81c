/*
 * Experts against a dense model of the same active size: 4 of 64 experts beside one network of four
 * times their width, all else equal, random weights in Q4_0. Both models are made in memory; steps
 * of the one and of the other take turns, and the ratio is that of each two that follow each other:
 * so whatever else the machine does meets both. Decode is measured with each model alone as well,
 * stretch by stretch: then a dense model that is hardly larger than the last cache finds a part of
 * its weights there, which experts chosen anew by each token can not. So there are two shapes:
 *
 *   narrow  1,024 wide, experts of 512:   65 MB a token of 0.7 GB
 *   wide    2,048 wide, experts of 1,024: 170 MB a token of 1.9 GB; the widths of OLMoE
 *
 *   bench_moe [THREADS [profile]]      narrow
 *   bench_moe wide [THREADS]           decode of the wide shape; 4 GB of memory
 *   bench_moe stream [THREADS [DIR]]   narrow, experts of which only a share is in memory
 *
 * One thread's time is the processor's that it took, so that what else runs does not count; of two
 * and more, and where a disk has a part in it, it is the clock's, and means something on a quiet
 * machine only. Tokens are random ids, given step by step, so that each chooses its experts anew.
 *
 * Source: Muennighoff et al., "OLMoE: Open Mixture-of-Experts Language Models", arXiv:2409.02060
 *         (its widths).
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "accel/cpu.h"
#include "accel/experts.h"
#include "accel/forward_moe.h"
#include "fw/base/check.h"
#include "fw/base/mem.h"
#include "tests/lib/devkit.h"
#include "tests/lib/devprof.h"
#include "tests/lib/qdata.h"
#include "tools/gguf/write.h"

#define N_EXPERT 64u
#define N_USED   4u
#define N_VOCAB  8192u
#define N_ROUND  3u
#define N_STEP   48u
#define N_ALONE  24u /* steps of one model in a row */
#define N_TURN   12u

#define WIDE_BYTES (5ull << 30) /* both models as files, and as they are run */
#define N_BATCH    8u
#define N_PROMPT   256u

enum work {
	DECODE,
	BATCH,
	PREFILL,
	N_WORK,
};

static const char *const work_name[N_WORK] = {"decode", "batch 8", "prefill 256"};

struct shape {
	const char *name;
	uint32_t n_layer, n_embd, n_ff;
};

static const struct shape narrow = {"narrow", 12, 1024, 512}, wide = {"wide", 8, 2048, 1024};
static const struct shape *shape = &narrow;

struct file {
	struct plx_gw w;
	uint8_t *p;
};

/* ---- models --------------------------------------------------------------------------------- */

static void put_config(struct plx_gw *w, bool experts)
{
	plx_gw_str(w, "general.architecture", plx_gw_name("llama"));
	plx_gw_u32(w, "llama.block_count", shape->n_layer);
	plx_gw_u32(w, "llama.context_length", 2048);
	plx_gw_u32(w, "llama.embedding_length", shape->n_embd);
	plx_gw_u32(w, "llama.feed_forward_length", experts ? shape->n_ff : N_USED * shape->n_ff);
	plx_gw_u32(w, "llama.attention.head_count", 16);
	plx_gw_u32(w, "llama.attention.head_count_kv", 4);
	plx_gw_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	if (experts) {
		plx_gw_u32(w, "llama.expert_count", N_EXPERT);
		plx_gw_u32(w, "llama.expert_used_count", N_USED);
	}
}

static void put(struct plx_gw *w, int layer, const char *stem, uint64_t cols, uint64_t rows,
                uint64_t n)
{
	bool exact = rows == 1 || strcmp(stem, "ffn_gate_inp.weight") == 0;
	uint64_t dim[3] = {cols, rows, n};
	char name[64];

	snprintf(name, sizeof(name), "blk.%d.%s", layer, stem);
	plx_gw_tensor(w, plx_gw_name(layer < 0 ? stem : name), exact ? PLX_Q_F32 : PLX_Q_Q4_0,
	              rows == 1 ? 1
	              : n == 1  ? 2
	                        : 3,
	              dim);
}

static void put_layer(struct plx_gw *w, int l, bool experts)
{
	put(w, l, "attn_norm.weight", shape->n_embd, 1, 1);
	put(w, l, "attn_q.weight", shape->n_embd, shape->n_embd, 1);
	put(w, l, "attn_k.weight", shape->n_embd, shape->n_embd / 4, 1);
	put(w, l, "attn_v.weight", shape->n_embd, shape->n_embd / 4, 1);
	put(w, l, "attn_output.weight", shape->n_embd, shape->n_embd, 1);
	put(w, l, "ffn_norm.weight", shape->n_embd, 1, 1);
	if (!experts) {
		put(w, l, "ffn_gate.weight", shape->n_embd, N_USED * shape->n_ff, 1);
		put(w, l, "ffn_up.weight", shape->n_embd, N_USED * shape->n_ff, 1);
		put(w, l, "ffn_down.weight", N_USED * shape->n_ff, shape->n_embd, 1);
		return;
	}
	put(w, l, "ffn_gate_inp.weight", shape->n_embd, N_EXPERT, 1);
	put(w, l, "ffn_gate_exps.weight", shape->n_embd, shape->n_ff, N_EXPERT);
	put(w, l, "ffn_up_exps.weight", shape->n_embd, shape->n_ff, N_EXPERT);
	put(w, l, "ffn_down_exps.weight", shape->n_ff, shape->n_embd, N_EXPERT);
}

/* Sixteen quants of four bits, -7 to 7: what is -8 becomes 0, so that their mean is 0 and tokens do
 * not all look alike to the router. */
static uint64_t quants(uint64_t *seed)
{
	uint64_t r = plx_t_rand(seed);
	uint64_t any = (r | r >> 1 | r >> 2 | r >> 3) & 0x1111111111111111u;

	return r | (any ^ 0x1111111111111111u) << 3;
}

/* Q4_0 under one scale: values of rms 1 in embeddings, rows of length 1 in matrices. */
static void fill_q4(uint8_t *p, uint64_t bytes, bool embedding, uint64_t *seed)
{
	uint16_t scale =
	    plx_f32_to_f16(embedding ? 1 / 4.3f : 1 / (4.3f * sqrtf((float)shape->n_embd)));

	for (uint64_t i = 0; i < bytes; i += 18) {
		uint64_t r[2] = {quants(seed), quants(seed)};

		memcpy(p + i, &scale, 2);
		memcpy(p + i + 2, r, 16);
	}
}

static void fill_f32(uint8_t *p, uint64_t bytes, bool norm, uint64_t *seed)
{
	for (uint64_t i = 0; i < bytes; i += 4) {
		float v = norm ? 1 : plx_t_uniform(seed) * 0.1f;

		memcpy(p + i, &v, 4);
	}
}

static struct file make(bool experts)
{
	struct file f = {0};
	uint64_t seed = 7;

	put_config(&f.w, experts);
	put(&f.w, -1, "token_embd.weight", shape->n_embd, N_VOCAB, 1);
	put(&f.w, -1, "output_norm.weight", shape->n_embd, 1, 1);
	for (uint32_t l = 0; l < shape->n_layer; l++)
		put_layer(&f.w, (int)l, experts);
	PLX_CHECK(plx_gw_finish(&f.w, NULL) == 0);
	f.p = aligned_alloc(64, (f.w.file_bytes + 63) & ~UINT64_C(63));
	PLX_CHECK(f.p != NULL);
	memset(f.p, 0, f.w.file_bytes);
	memcpy(f.p, f.w.head.p, f.w.head.n);
	for (uint32_t i = 0; i < f.w.n_tensor; i++) {
		const struct plx_gw_place *at = &f.w.place[i];

		if (at->bytes % 18 == 0)
			fill_q4(f.p + at->off, at->bytes, i == 0, &seed);
		else
			fill_f32(f.p + at->off, at->bytes, at->bytes == shape->n_embd * 4, &seed);
	}
	return f;
}

static struct plx_model *model_of(const struct file *f)
{
	struct plx_diag d = {0};
	struct plx_gguf *g;
	struct plx_model *m;

	if (plx_gguf_open_mem(f->p, f->w.file_bytes, &g, &d) != 0 ||
	    plx_model_from_gguf(g, &m, &d) != 0) {
		fprintf(stderr, "bench_moe: %s\n", d.text);
		exit(1);
	}
	return m;
}

/* ---- runs ----------------------------------------------------------------------------------- */

static int32_t any_id(uint64_t *seed)
{
	return (int32_t)(plx_t_rand(seed) >> 20) & (int32_t)(N_VOCAB - 1);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double now_s(const struct devkit *k)
{
	struct timespec t;

	clock_gettime(k->lim.n_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One workload on one device: n_seq sequences of n_tok tokens a step. */
struct load {
	struct devkit *k;
	uint32_t n_seq, n_tok, n_step;
	uint64_t seed;
};

/* Step i; returns tokens a second. */
static double step(struct load *l, uint32_t i)
{
	static int32_t ids[N_PROMPT];
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(l->k, 0);
	uint32_t each = l->k->lim.n_blocks / l->k->lim.n_slots;

	for (uint32_t q = 0; q < l->n_seq; q++) {
		if (i == 0) {
			devkit_set(s, q, &greedy);
			devkit_blocks(s, q, 0, ((l->n_step + 1) * l->n_tok + 15) / 16, q * each);
		}
		for (uint32_t t = 0; t < l->n_tok; t++)
			ids[t] = any_id(&l->seed);
		devkit_seq(s, q, ids, i * l->n_tok, l->n_tok, true);
	}
	double t0 = now_s(l->k);

	PLX_CHECK(plx_queue_submit(l->k->q, 0) == 0);
	(void)devkit_wait(l->k);
	return l->n_seq * l->n_tok / (now_s(l->k) - t0);
}

static void end(struct load *l)
{
	struct plx_step *s = devkit_step(l->k, 0);

	for (uint32_t q = 0; q < l->n_seq; q++)
		devkit_clear(s, q);
	PLX_CHECK(plx_queue_submit(l->k->q, 0) == 0);
	(void)devkit_wait(l->k);
}

/* Tokens a second of decode, after n_step steps that do not count. */
static double decode(struct devkit *k, uint32_t n_step)
{
	struct load l = {k, 1, 1, 2 * n_step, 11};
	double rate[4 * N_STEP];

	PLX_CHECK(n_step <= 4 * N_STEP);
	for (uint32_t i = 0; i < n_step; i++)
		(void)step(&l, i);
	for (uint32_t i = 0; i < n_step; i++)
		rate[i] = 1 / step(&l, n_step + i);
	end(&l);
	double sum = 0;

	for (uint32_t i = 0; i < n_step; i++)
		sum += rate[i];
	return n_step / sum;
}

static void pin(struct devkit *k)
{
	for (uint32_t i = k->lim.n_threads; i-- > 0;) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(i, &set);
		(void)pthread_setaffinity_np(i > 0 ? k->worker[i - 1] : pthread_self(), sizeof(set),
		                             &set);
	}
}

/* How uneven the experts were: the most tokens of one over the mean, the mean over layers. */
static double unevenness(const struct devkit *k)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)k->dev;
	double sum = 0;

	for (uint32_t il = 0; il < shape->n_layer; il++) {
		const uint64_t *heat = c->fwd.moe->heat + (size_t)il * N_EXPERT;
		double all = 0, most = 0;

		for (uint32_t e = 0; e < N_EXPERT; e++) {
			all += (double)heat[e];
			most = (double)heat[e] > most ? (double)heat[e] : most;
		}
		sum += most / (all / N_EXPERT);
	}
	return sum / shape->n_layer;
}

/* ---- side by side --------------------------------------------------------------------------- */

#define MAX_PAIR (N_ROUND * N_STEP)

struct figures {
	double dense[MAX_PAIR], experts[MAX_PAIR], ratio[MAX_PAIR];
	uint32_t n;
};

static void pairs(struct devkit *d, struct devkit *e, enum work w, struct figures *f)
{
	static const struct load loads[N_WORK] = {{NULL, 1, 1, N_STEP, 11},
	                                          {NULL, N_BATCH, 1, N_STEP / 2, 11},
	                                          {NULL, 1, N_PROMPT, 3, 11}};
	struct load a = loads[w], b = loads[w];

	a.k = d;
	b.k = e;
	for (uint32_t i = 0; i <= a.n_step; i++) {
		double dense = step(&a, i), experts = step(&b, i);

		if (i == 0)
			continue;
		f->dense[f->n] = dense;
		f->experts[f->n] = experts;
		f->ratio[f->n++] = experts / dense;
	}
	end(&a);
	end(&b);
}

/* Median, and the quarters below and above which a quarter of the steps lie. */
static void print(uint32_t n_threads, enum work w, const char *what, const char *unit, double *v,
                  uint32_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	printf("bench_moe: %s, %u thread(s), %s, %s: %.3f %s (quarters %.3f to %.3f of %u steps)\n",
	       shape->name, n_threads, work_name[w], what, v[n / 2], unit, v[n / 4], v[n * 3 / 4],
	       n);
}

static void profile_run(struct devkit *k)
{
	struct devprof *p = devprof_begin(k);

	(void)decode(k, N_STEP);
	devprof_end(p, "decode", N_STEP / 2);
	if (k->model->n_expert > 0)
		printf("bench_moe: busiest expert %.2f times the mean\n", unevenness(k));
}

/* Each model alone, a stretch of steps after another. */
static void alone(struct devkit *d, struct devkit *e)
{
	double dense[N_TURN], experts[N_TURN], ratio[N_TURN];

	for (uint32_t i = 0; i < N_TURN; i++) {
		dense[i] = decode(d, N_ALONE);
		experts[i] = decode(e, N_ALONE);
		ratio[i] = experts[i] / dense[i];
	}
	qsort(dense, N_TURN, sizeof(dense[0]), by_value);
	qsort(experts, N_TURN, sizeof(experts[0]), by_value);
	qsort(ratio, N_TURN, sizeof(ratio[0]), by_value);
	printf("bench_moe: %s, %u thread(s), decode alone, %u steps in a row: dense %.1f, experts "
	       "%.1f tokens/s, ratio %.3f (quarters %.3f to %.3f, all %.3f to %.3f of %u)\n",
	       shape->name, d->lim.n_threads, N_ALONE, dense[N_TURN / 2], experts[N_TURN / 2],
	       ratio[N_TURN / 2], ratio[N_TURN / 4], ratio[N_TURN * 3 / 4], ratio[0],
	       ratio[N_TURN - 1], N_TURN);
}

static void side_by_side(uint32_t n_threads, uint32_t n_work, bool profile)
{
	struct figures f[N_WORK] = {0};
	struct file dense = make(false), experts = make(true);
	struct plx_dev_limits lim = devkit_limits();
	struct devkit d, e;

	lim.n_threads = n_threads;
	devkit_open_model(&d, model_of(&dense), "auto", &lim);
	pin(&d);
	devkit_open_twin(&e, model_of(&experts), "auto", &lim, &d);
	if (profile) {
		profile_run(&d);
		profile_run(&e);
	}
	for (uint32_t i = 0; i < N_ROUND; i++)
		for (uint32_t w = 0; w < n_work; w++)
			pairs(&d, &e, (enum work)w, &f[w]);
	for (uint32_t i = 0; i < n_work; i++) {
		enum work w = (enum work)i;

		print(n_threads, w, "dense", "tokens/s", f[w].dense, f[w].n);
		print(n_threads, w, "4 of 64 experts", "tokens/s", f[w].experts, f[w].n);
		print(n_threads, w, "experts / dense", "", f[w].ratio, f[w].n);
	}
	alone(&d, &e);
	devkit_close(&d);
	devkit_close(&e);
	plx_gw_free(&dense.w);
	plx_gw_free(&experts.w);
	free(dense.p);
	free(experts.p);
}

/* ---- experts on disk ------------------------------------------------------------------------ */

/*
 * Routers like those of trained models prefer some experts: the rows of expert e, in an order of
 * each layer's own, are longer the earlier it stands, from 5 times to once.
 */
static void skew(struct file *f)
{
	for (uint32_t i = 0; i < f->w.n_tensor; i++) {
		const struct plx_gw_place *at = &f->w.place[i];
		float *v = (float *)(void *)(f->p + at->off);

		if (at->bytes != (uint64_t)N_EXPERT * shape->n_embd * 4)
			continue;
		for (uint32_t e = 0; e < N_EXPERT; e++) {
			float s = 1 + 4 * exp2f(-(float)((e * 37 + i) % N_EXPERT) / 8);

			for (uint32_t j = 0; j < shape->n_embd; j++)
				v[(size_t)e * shape->n_embd + j] *= s;
		}
	}
}

static int by_count(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x < y) - (x > y);
}

/* How much of the work the hottest quarter of each layer's experts did. */
static double hottest_quarter(const struct devkit *k)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)k->dev;
	double all = 0, hot = 0;

	for (uint32_t il = 0; il < shape->n_layer; il++) {
		uint64_t heat[N_EXPERT];

		memcpy(heat, c->fwd.moe->heat + (size_t)il * N_EXPERT, sizeof(heat));
		qsort(heat, N_EXPERT, sizeof(heat[0]), by_count);
		for (uint32_t e = 0; e < N_EXPERT; e++) {
			all += (double)heat[e];
			hot += e < N_EXPERT / 4 ? (double)heat[e] : 0;
		}
	}
	return hot / all;
}

static double stream_run(const char *path, uint32_t n_threads, uint32_t eighths, double all)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_dev_experts n[2];
	struct plx_diag d = {0};
	struct plx_model *m;
	struct devkit k;

	PLX_CHECK(plx_model_open(path, &m, &d) == 0);
	lim.n_threads = n_threads;
	if (eighths < 8)
		lim.expert_mem_bytes =
		    plx_experts_slot_bytes(m) * shape->n_layer * N_EXPERT / 8 * eighths;
	devkit_open_cached(&k, m, "auto", &lim, path);
	pin(&k);
	(void)decode(&k, 2 * N_STEP);
	PLX_CHECK(plx_dev_experts_get(k.dev, &n[0]) == 0);
	double rate = decode(&k, 2 * N_STEP);

	PLX_CHECK(plx_dev_experts_get(k.dev, &n[1]) == 0);
	double hits = (double)(n[1].hits - n[0].hits), misses = (double)(n[1].misses - n[0].misses);

	if (eighths == 8)
		printf("bench_moe: %u thread(s), experts in memory: all: %.1f tokens/s; the "
		       "hottest quarter does %.0f %% of the work\n",
		       n_threads, rate, 100 * hottest_quarter(&k));
	else
		printf("bench_moe: %u thread(s), experts in memory: %u/8: %.1f tokens/s, %.3f of "
		       "all; hits %.1f %%, read %.2f MB a token, %.0f %% of guesses used, waiting "
		       "%.0f %% of the time\n",
		       n_threads, eighths, rate, rate / all, 100 * hits / (hits + misses),
		       (double)(n[1].read_bytes - n[0].read_bytes) / 1e6 / (4 * N_STEP),
		       100.0 * (double)(n[1].ahead_used - n[0].ahead_used) /
		           (double)(n[1].ahead - n[0].ahead),
		       (double)(n[1].wait_ns - n[0].wait_ns) / 1e9 / (4 * N_STEP / rate) * 100);
	devkit_close(&k);
	return rate;
}

static void stream(uint32_t n_threads, const char *folder)
{
	static const char *const tails[] = {"", ".plx", ".dense.plx", ".experts.plx"};
	static const uint32_t shares[] = {6, 4, 2, 1};
	char dir[200], path[256], name[300];
	struct file f = make(true);

	snprintf(dir, sizeof(dir), "%s/plx-moe-XXXXXX", folder);
	PLX_CHECK(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/m.gguf", dir);
	skew(&f);
	FILE *out = fopen(path, "wb");

	PLX_CHECK(out != NULL && fwrite(f.p, 1, f.w.file_bytes, out) == f.w.file_bytes);
	PLX_CHECK(fclose(out) == 0);
	plx_gw_free(&f.w);
	free(f.p);
	double all = stream_run(path, n_threads, 8, 0);

	for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++)
		(void)stream_run(path, n_threads, shares[i], all);
	for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", path, tails[i]);
		(void)unlink(name);
	}
	PLX_CHECK(rmdir(dir) == 0);
}

static void wide_shape(uint32_t n_threads)
{
	if (plx_mem_available() < WIDE_BYTES) {
		printf("bench_moe: wide: SKIPPED, %llu MiB of memory are wanted\n",
		       WIDE_BYTES >> 20);
		return;
	}
	shape = &wide;
	side_by_side(n_threads, DECODE + 1, false);
	shape = &narrow;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	bool named = strcmp(what, "stream") == 0 || strcmp(what, "wide") == 0;
	const char *threads = argc > 1 + named ? argv[1 + named] : NULL;
	const char *last = argc > 2 + named ? argv[2 + named] : NULL;
	uint32_t n = threads != NULL ? (uint32_t)atoi(threads) : named ? 2 : 1;

	if (strcmp(what, "stream") == 0)
		stream(n, last != NULL ? last : "/tmp");
	else if (named)
		wide_shape(n);
	else
		side_by_side(n, N_WORK, last != NULL && strcmp(last, "profile") == 0);
	if (argc > 1)
		return 0;
	side_by_side(2, N_WORK, false);
	wide_shape(2);
	stream(2, "/tmp");
	return 0;
}
