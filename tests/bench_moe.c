/*
 * Experts against a dense model of the same active size: 4 of 64 experts of 512 wide beside one
 * network of 2,048, all else equal, random weights in Q4_0. Both models are made in memory; steps
 * of the one and of the other take turns, and the ratio is that of each two that follow each other:
 * so whatever else the machine does meets both, and neither finds its weights in the caches.
 *
 *   bench_moe [THREADS [profile]]
 *   bench_moe stream [THREADS [DIR]]   experts of which only a share is in memory
 *
 * One thread's time is the processor's that it took, so that what else runs does not count; of two
 * and more, and where a disk has a part in it, it is the clock's, and means something on a quiet
 * machine only. Tokens are random ids, given step by step, so that each chooses its experts anew.
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
#include "tests/lib/devkit.h"
#include "tests/lib/devprof.h"
#include "tests/lib/qdata.h"
#include "tools/gguf/write.h"

#define N_LAYER  12u
#define N_EMBD   1024u
#define N_EXPERT 64u
#define N_USED   4u
#define N_FF     512u
#define N_VOCAB  8192u
#define N_ROUND  3u
#define N_STEP   48u
#define N_BATCH  8u
#define N_PROMPT 256u

enum work {
	DECODE,
	BATCH,
	PREFILL,
	N_WORK,
};

static const char *const work_name[N_WORK] = {"decode", "batch 8", "prefill 256"};

struct file {
	struct plx_gw w;
	uint8_t *p;
};

/* ---- models --------------------------------------------------------------------------------- */

static void put_config(struct plx_gw *w, bool experts)
{
	plx_gw_str(w, "general.architecture", plx_gw_name("llama"));
	plx_gw_u32(w, "llama.block_count", N_LAYER);
	plx_gw_u32(w, "llama.context_length", 2048);
	plx_gw_u32(w, "llama.embedding_length", N_EMBD);
	plx_gw_u32(w, "llama.feed_forward_length", experts ? N_FF : N_USED * N_FF);
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
	put(w, l, "attn_norm.weight", N_EMBD, 1, 1);
	put(w, l, "attn_q.weight", N_EMBD, N_EMBD, 1);
	put(w, l, "attn_k.weight", N_EMBD, N_EMBD / 4, 1);
	put(w, l, "attn_v.weight", N_EMBD, N_EMBD / 4, 1);
	put(w, l, "attn_output.weight", N_EMBD, N_EMBD, 1);
	put(w, l, "ffn_norm.weight", N_EMBD, 1, 1);
	if (!experts) {
		put(w, l, "ffn_gate.weight", N_EMBD, N_USED * N_FF, 1);
		put(w, l, "ffn_up.weight", N_EMBD, N_USED * N_FF, 1);
		put(w, l, "ffn_down.weight", N_USED * N_FF, N_EMBD, 1);
		return;
	}
	put(w, l, "ffn_gate_inp.weight", N_EMBD, N_EXPERT, 1);
	put(w, l, "ffn_gate_exps.weight", N_EMBD, N_FF, N_EXPERT);
	put(w, l, "ffn_up_exps.weight", N_EMBD, N_FF, N_EXPERT);
	put(w, l, "ffn_down_exps.weight", N_FF, N_EMBD, N_EXPERT);
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
	uint16_t scale = plx_f32_to_f16(embedding ? 1 / 4.3f : 1 / (4.3f * 32));

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
	put(&f.w, -1, "token_embd.weight", N_EMBD, N_VOCAB, 1);
	put(&f.w, -1, "output_norm.weight", N_EMBD, 1, 1);
	for (uint32_t l = 0; l < N_LAYER; l++)
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
			fill_f32(f.p + at->off, at->bytes, at->bytes == N_EMBD * 4, &seed);
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

	for (uint32_t il = 0; il < N_LAYER; il++) {
		const uint64_t *heat = c->fwd.moe->heat + (size_t)il * N_EXPERT;
		double all = 0, most = 0;

		for (uint32_t e = 0; e < N_EXPERT; e++) {
			all += (double)heat[e];
			most = (double)heat[e] > most ? (double)heat[e] : most;
		}
		sum += most / (all / N_EXPERT);
	}
	return sum / N_LAYER;
}

/* ---- side by side --------------------------------------------------------------------------- */

#define MAX_PAIR (N_ROUND * N_STEP)

struct figures {
	double dense[MAX_PAIR], experts[MAX_PAIR], ratio[MAX_PAIR];
	uint32_t n;
};

static void pairs(struct devkit *d, struct devkit *e, enum work w, struct figures *f)
{
	static const struct load shape[N_WORK] = {{NULL, 1, 1, N_STEP, 11},
	                                          {NULL, N_BATCH, 1, N_STEP / 2, 11},
	                                          {NULL, 1, N_PROMPT, 3, 11}};
	struct load a = shape[w], b = shape[w];

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
	printf("bench_moe: %u thread(s), %s, %s: %.3f %s (quarters %.3f to %.3f of %u steps)\n",
	       n_threads, work_name[w], what, v[n / 2], unit, v[n / 4], v[n * 3 / 4], n);
}

static void profile_run(struct devkit *k)
{
	struct devprof *p = devprof_begin(k);

	(void)decode(k, N_STEP);
	devprof_end(p, "decode", N_STEP / 2);
	if (k->model->n_expert > 0)
		printf("bench_moe: busiest expert %.2f times the mean\n", unevenness(k));
}

static void side_by_side(uint32_t n_threads, bool profile)
{
	static struct figures f[N_WORK];
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
		for (uint32_t w = 0; w < N_WORK; w++)
			pairs(&d, &e, (enum work)w, &f[w]);
	for (uint32_t i = 0; i < N_WORK; i++) {
		enum work w = (enum work)i;

		print(n_threads, w, "dense", "tokens/s", f[w].dense, f[w].n);
		print(n_threads, w, "4 of 64 experts", "tokens/s", f[w].experts, f[w].n);
		print(n_threads, w, "experts / dense", "", f[w].ratio, f[w].n);
	}
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

		if (at->bytes != (uint64_t)N_EXPERT * N_EMBD * 4)
			continue;
		for (uint32_t e = 0; e < N_EXPERT; e++) {
			float s = 1 + 4 * exp2f(-(float)((e * 37 + i) % N_EXPERT) / 8);

			for (uint32_t j = 0; j < N_EMBD; j++)
				v[(size_t)e * N_EMBD + j] *= s;
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

	for (uint32_t il = 0; il < N_LAYER; il++) {
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
		lim.expert_mem_bytes = plx_experts_slot_bytes(m) * N_LAYER * N_EXPERT / 8 * eighths;
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

int main(int argc, char **argv)
{
	bool disk = argc > 1 && strcmp(argv[1], "stream") == 0;
	const char *threads = argc > 1 + disk ? argv[1 + disk] : NULL;
	const char *last = argc > 2 + disk ? argv[2 + disk] : NULL;

	if (disk) {
		stream(threads != NULL ? (uint32_t)atoi(threads) : 2, last != NULL ? last : "/tmp");
		return 0;
	}
	side_by_side(threads != NULL ? (uint32_t)atoi(threads) : 1,
	             last != NULL && strcmp(last, "profile") == 0);
	if (threads != NULL)
		return 0;
	side_by_side(2, false);
	stream(2, "/tmp");
	return 0;
}
