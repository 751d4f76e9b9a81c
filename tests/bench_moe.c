/*
 * Experts against a dense model of the same active size: 4 of 64 experts of 512 wide beside one
 * network of 2,048, all else equal, random weights in Q4_0. Both models are made in memory; rounds
 * of the one and of the other take turns, and the ratio is that of each round's pair.
 *
 *   bench_moe [THREADS] [profile]
 *
 * One thread's time is the processor's that it took, so that what else runs does not count; of two
 * and more it is the clock's, and means something on a quiet machine only.
 * Tokens are random ids, given step by step, so that each chooses its experts anew.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "accel/cpu.h"
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

/*
 * n_step steps of n_seq sequences of n_tok tokens each, after a first one; tokens a second of the
 * step that three in four are slower than, since those that other processes interrupt say nothing.
 */
static double run(struct devkit *k, uint32_t n_seq, uint32_t n_tok, uint32_t n_step)
{
	static int32_t ids[N_PROMPT];
	struct plx_sampler greedy = devkit_greedy();
	double rate[N_STEP];
	uint64_t seed = 11;

	for (uint32_t i = 0; i <= n_step; i++) {
		struct plx_step *s = devkit_step(k, 0);

		for (uint32_t q = 0; q < n_seq; q++) {
			uint32_t each = k->lim.n_blocks / k->lim.n_slots;

			if (i == 0) {
				devkit_set(s, q, &greedy);
				devkit_blocks(s, q, 0, ((n_step + 1) * n_tok + 15) / 16, q * each);
			}
			for (uint32_t t = 0; t < n_tok; t++)
				ids[t] = any_id(&seed);
			devkit_seq(s, q, ids, i * n_tok, n_tok, true);
		}
		double t0 = now_s(k);

		PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
		(void)devkit_wait(k);
		if (i > 0)
			rate[i - 1] = n_seq * n_tok / (now_s(k) - t0);
	}
	qsort(rate, n_step, sizeof(rate[0]), by_value);
	struct plx_step *s = devkit_step(k, 0);

	for (uint32_t q = 0; q < n_seq; q++)
		devkit_clear(s, q);
	PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
	(void)devkit_wait(k);
	return rate[n_step * 3 / 4];
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

static void round_run(const struct file *f, uint32_t n_threads, bool profile, double rate[N_WORK])
{
	struct plx_dev_limits lim = devkit_limits();
	struct devkit k;

	lim.n_threads = n_threads;
	devkit_open_model(&k, model_of(f), "auto", &lim);
	pin(&k);
	(void)run(&k, 1, 1, 4);
	if (profile) {
		struct devprof *p = devprof_begin(&k);

		(void)run(&k, 1, 1, N_STEP);
		devprof_end(p, "decode", N_STEP / 2);
	}
	rate[DECODE] = run(&k, 1, 1, N_STEP);
	rate[BATCH] = run(&k, N_BATCH, 1, N_STEP / 4);
	rate[PREFILL] = run(&k, 1, N_PROMPT, 1);
	if (profile && k.model->n_expert > 0)
		printf("bench_moe: busiest expert %.2f times the mean\n", unevenness(&k));
	devkit_close(&k);
}

/* ---- figures -------------------------------------------------------------------------------- */

static void print(uint32_t n_threads, const char *what, const char *unit, double *v)
{
	qsort(v, N_ROUND, sizeof(*v), by_value);
	printf("bench_moe: %u thread(s), %s: %.3f %s (%.3f to %.3f over %u rounds)\n", n_threads,
	       what, v[N_ROUND / 2], unit, v[0], v[N_ROUND - 1], N_ROUND);
}

static void report(uint32_t n_threads, double dense[N_ROUND][N_WORK],
                   double experts[N_ROUND][N_WORK])
{
	for (uint32_t w = 0; w < N_WORK; w++) {
		double d[N_ROUND], e[N_ROUND], ratio[N_ROUND];
		char what[64];

		for (uint32_t i = 0; i < N_ROUND; i++) {
			d[i] = dense[i][w];
			e[i] = experts[i][w];
			ratio[i] = e[i] / d[i];
		}
		snprintf(what, sizeof(what), "%s, dense", work_name[w]);
		print(n_threads, what, "tokens/s", d);
		snprintf(what, sizeof(what), "%s, 4 of 64 experts", work_name[w]);
		print(n_threads, what, "tokens/s", e);
		snprintf(what, sizeof(what), "%s, experts / dense", work_name[w]);
		print(n_threads, what, "", ratio);
	}
}

int main(int argc, char **argv)
{
	uint32_t n_threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
	bool profile = argc > 2 && strcmp(argv[2], "profile") == 0;
	double dense[N_ROUND][N_WORK], experts[N_ROUND][N_WORK];
	struct file d = make(false), e = make(true);

	for (uint32_t i = 0; i < N_ROUND; i++) {
		round_run(&d, n_threads, profile && i == 0, dense[i]);
		round_run(&e, n_threads, profile && i == 0, experts[i]);
	}
	report(n_threads, dense, experts);
	plx_gw_free(&d.w);
	plx_gw_free(&e.w);
	free(d.p);
	free(e.p);
	return 0;
}
