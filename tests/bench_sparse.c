/*
 * Sparse attention beside dense: time and error.
 *
 * Usage: bench_sparse [model.gguf] [tokens of the real text, 2048] [settings: all, few]
 *                     [parts: any of k, m, n, a; mn, and k too up to 2,048 tokens]
 *
 *   kernel: one KV head of 64 dimensions with three queries a token at 2k, 8k and 32k positions,
 *           keys made of topics that wander, and one planted key that a query needs: time of 64
 *           tokens of a prompt and of one more token, the output's relative error, and how often
 *           the planted key was read.
 *   model:  texts of the repository, one behind the other, then 48 tokens one by one: time of
 *           both, the logits' divergence from dense ones, and where the best id is the same.
 *   again:  the same of the first half of them said twice, so that a dense model copies what stands
 *           half of the context before: what sparse attention can do least.
 *   needle: a number hidden in that text at five depths, and the question for it at the end.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/forward_pick.h"
#include "accel/model/tokenizer.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "kernels/kernels.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"
#include "tests/lib/ppl.h"
#include "tests/lib/qdata.h"

/* together: the prompt's queries choose PLX_SPARSE_POOL at a time, by their mean, as a prompt's
 * do but for its last ones; else each one. few: of those that `few` runs with the model. */
struct setting {
	uint32_t mass, chunks;
	bool together, few;
};
static const struct setting settings[] = {
    {980, 0, true, true},   {980, 0, false, false},  {950, 0, true, true}, {950, 0, false, false},
    {900, 0, true, true},   {900, 0, false, false},  {0, 8, true, false},  {0, 8, false, false},
    {0, 16, true, true},    {0, 16, false, false},   {950, 8, true, true}, {950, 8, false, true},
    {980, 16, true, true},  {980, 16, false, false}, {0, 32, true, false}, {0, 32, false, false},
    {990, 32, true, false}, {990, 32, false, false},
};
#define N_SETTINGS (sizeof(settings) / sizeof(settings[0]))

static const char *way(const struct setting *set)
{
	return set->together ? "together" : "each    ";
}

static double ms(uint64_t since)
{
	return (double)(plx_clock_ns() - since) / 1e6;
}

/* ---- attention alone ------------------------------------------------------------------------- */

#define DIM     64u
#define GROUP   3u
#define BLOCK   32u
#define N_TOK   64u
#define TRIALS  8u
#define MAX_POS 32768u
#define SPLITS  (MAX_POS / PLX_K_ATTN_SPLIT + 1)
#define NQ      (N_TOK * GROUP)

static struct plx_k_kv kv;
static uint32_t table[MAX_POS / BLOCK];
static float query[NQ * DIM], out[2][NQ * DIM], acc[NQ * (DIM + 16)], part[NQ * (DIM + 16)];
static float mean[MAX_POS / BLOCK + 32], most[MAX_POS / BLOCK + 32];
static uint16_t pick[SPLITS][NQ];

static float normal(uint64_t *seed)
{
	return (plx_t_uniform(seed) + plx_t_uniform(seed) + plx_t_uniform(seed)) * 1.0f;
}

/* Keys of topics that last about 100 positions and come back; one key at `needle` is q's own. */
static void keys_make(const struct plx_kernels *k, uint32_t n, uint32_t needle, uint64_t seed)
{
	static float topic[64][DIM];
	uint32_t now = 0;
	float key[DIM], value[DIM];

	for (uint32_t i = 0; i < 64 * DIM; i++)
		topic[i / DIM][i % DIM] = normal(&seed);
	for (uint32_t i = 0; i < NQ; i++)
		for (uint32_t d = 0; d < DIM; d++)
			query[i * DIM + d] = 1.2f * topic[63][d] + 0.8f * normal(&seed);
	for (uint32_t p = 0; p < n; p++) {
		if (plx_t_rand(&seed) % 100 == 0)
			now = (uint32_t)(plx_t_rand(&seed) % 64);
		for (uint32_t d = 0; d < DIM; d++) {
			key[d] = topic[now][d] * 0.7f + 0.7f * normal(&seed);
			value[d] = normal(&seed);
			if (p == needle) {
				key[d] = 1.6f * query[(NQ - 1) * DIM + d];
				value[d] = 5.0f;
			}
		}
		k->kv_store(&kv, p, key, value);
		if (p % BLOCK == BLOCK - 1)
			k->page_sum(&kv, p - BLOCK + 1);
	}
}

/* Chooses for the queries of n_tok tokens, the last of n positions, from query `first` on. */
static void choose(const struct plx_kernels *k, uint32_t n, uint32_t n_tok,
                   const struct setting *set, uint32_t first)
{
	const struct plx_fwd_choice how = {.mass = set->mass, .chunks = set->chunks};
	uint32_t step = set->together && n_tok > 1 ? PLX_SPARSE_POOL : 1, share;
	uint32_t per = PLX_K_ATTN_CHUNK / BLOCK;
	float pooled[DIM];

	for (uint32_t t = 0; t < n_tok; t += step)
		for (uint32_t g = 0; g < GROUP; g++) {
			const float *q = query + (size_t)(first + t * GROUP + g) * DIM;
			uint32_t at = (n - n_tok + t) / PLX_K_ATTN_CHUNK;
			uint16_t chosen[SPLITS];

			if (step > 1)
				plx_fwd_pool(pooled, q, GROUP * DIM, step, DIM);
			k->page_rate(&kv, step > 1 ? pooled : q, 0.125f, at * per, mean,
			             step > 1 ? NULL : most);
			if (step > 1)
				memcpy(most, mean, sizeof most);
			plx_fwd_pick_chunks(k, &how, mean, most, at, per, chosen, &share);
			for (uint32_t i = t; i < t + step; i++)
				for (uint32_t s = 0; s <= at / 16; s++)
					pick[s][i * GROUP + g] = chosen[s];
		}
}

/* The last n_tok tokens of n positions; into out[to]. */
static void attend(const struct plx_kernels *k, uint32_t n, uint32_t n_tok,
                   const struct setting *set, uint32_t to)
{
	uint32_t nq = n_tok * GROUP, first = NQ - nq;
	struct plx_k_attn a = {.kv = kv,
	                       .q = query + (size_t)first * DIM,
	                       .q_stride = GROUP * DIM,
	                       .n_tok = n_tok,
	                       .n_group = GROUP,
	                       .pos = n - n_tok,
	                       .scale = 0.125f};

	if (set)
		choose(k, n, n_tok, set, first);
	for (uint32_t s = 0; s < plx_k_attn_splits(n - 1); s++) {
		a.pick = set ? pick[s] : NULL;
		k->attn_part(&a, s, s == 0 ? acc : part);
		if (s > 0)
			k->attn_merge(acc, part, nq, DIM);
	}
	k->attn_finish(out[to] + (size_t)first * DIM, acc, nq, DIM, PLX_K_KV_F16);
}

static double once(const struct plx_kernels *k, uint32_t n, uint32_t n_tok,
                   const struct setting *set, uint32_t to)
{
	uint64_t t0 = plx_clock_ns();

	attend(k, n, n_tok, set, to);
	return ms(t0) * 1000;
}

/* Minima in turns: [0] dense, [1] sparse. */
static void timed(const struct plx_kernels *k, uint32_t n, uint32_t n_tok,
                  const struct setting *set, double us[2])
{
	double best[2] = {1e30, 1e30};

	for (uint32_t i = 0; i < (n_tok == 1 ? 18u : 6u); i++) {
		double t = once(k, n, n_tok, i % 2 ? set : NULL, i % 2);

		best[i % 2] = t < best[i % 2] ? t : best[i % 2];
	}
	us[0] += best[0] / TRIALS;
	us[1] += best[1] / TRIALS;
}

/* Squared error of the outputs of queries from..NQ-1, and their squared size. */
static void add_error(uint32_t from, double *err, double *size)
{
	for (uint32_t i = from * DIM; i < NQ * DIM; i++) {
		double x = (double)out[0][i];

		*err += pow((double)out[1][i] - x, 2);
		*size += x * x;
	}
}

/* n_tok tokens of a prompt, or one more token; the planted key is the last query's. */
static void kernel_row(const struct plx_kernels *k, uint32_t n, uint32_t n_tok,
                       const struct setting *set)
{
	double us[2] = {0}, err = 0, size = 0;
	uint32_t found = 0;
	uint64_t seed = n;

	for (uint32_t trial = 0; trial < TRIALS; trial++) {
		uint32_t needle = 128 + (uint32_t)(plx_t_rand(&seed) % (n - 512));

		keys_make(k, n, needle, seed + trial);
		timed(k, n, n_tok, set, us);
		found += pick[needle / 1024][n_tok * GROUP - 1] >> needle % 1024 / 64 & 1;
		add_error(NQ - n_tok * GROUP, &err, &size);
	}
	printf("bench_sparse: kernel %5u positions, %2u tokens, mass %3u chunks %2u %s: %8.1f us "
	       "of %8.1f us dense (%.2f times as fast); error %.4f; needle read %u of %u\n",
	       n, n_tok, set->mass, set->chunks, way(set), us[1], us[0], us[0] / us[1],
	       sqrt(err / size), found, TRIALS);
	fflush(stdout);
}

static void kernels_run(void)
{
	const struct plx_kernels *k = plx_kernels_select(PLX_K_ISA_BEST);
	uint64_t head = plx_k_kv_k_bytes(PLX_K_KV_F16, BLOCK, DIM);

	kv = (struct plx_k_kv){.table = table,
	                       .block_bytes = 2 * head + plx_k_page_bytes(BLOCK, DIM),
	                       .v_off = head,
	                       .block_tokens = BLOCK,
	                       .head_dim = DIM,
	                       .page_off = 2 * head};
	kv.base = aligned_alloc(64, kv.block_bytes * (MAX_POS / BLOCK));
	PLX_CHECK(kv.base != NULL);
	for (uint32_t i = 0; i < MAX_POS / BLOCK; i++)
		table[i] = i;
	plx_k_fpu_setup();
	for (uint32_t n = 2048; n <= MAX_POS; n *= 4)
		for (uint32_t i = 0; i < N_SETTINGS; i++) {
			kernel_row(k, n, N_TOK, &settings[i]);
			if (!settings[i].together)
				kernel_row(k, n, 1, &settings[i]);
		}
	free(kv.base);
}

/* ---- the real model -------------------------------------------------------------------------- */

#define N_AFTER 48u
#define MAX_IDS 33000u
#define STEP    256u

static int32_t ids[MAX_IDS];
static uint32_t n_ids;

/* A device with these settings; NULL: dense. */
static void kit_open(struct devkit *k, const char *path, const struct setting *set, uint32_t n_ctx)
{
	struct plx_dev_limits lim = devkit_limits();

	lim.block_tokens = BLOCK;
	lim.max_seq_blocks = n_ctx / BLOCK + 4;
	lim.n_blocks = lim.max_seq_blocks;
	lim.max_step_tokens = STEP;
	lim.n_threads = 2;
	lim.sparse_own = set != NULL;
	devkit_open(k, path, "auto", &lim);
}

/* Tokens from..to-1; the time. The last one's logits are there if `want`. */
static double run(struct devkit *k, const struct setting *set, const int32_t *id, uint32_t from,
                  uint32_t to, bool want)
{
	struct plx_sampler greedy = devkit_greedy();
	uint64_t t0 = plx_clock_ns();

	for (uint32_t at = from; at < to; at += STEP) {
		struct plx_step *s = devkit_step(k, 0);
		uint32_t end = at + STEP < to ? at + STEP : to;

		if (at == 0) {
			devkit_set(s, 0, &greedy);
			devkit_blocks(s, 0, 0, k->lim.max_seq_blocks, 0);
			if (set)
				devkit_sparse(s, 0, set->mass, set->chunks,
				              set->together ? plx_sparse_pooled(to) : 0);
		}
		devkit_seq(s, 0, id + at, at, end - at, want && end == to)->flags =
		    set ? PLX_SEQF_SPARSE : 0;
		PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
		(void)devkit_wait(k);
	}
	return ms(t0);
}

static double divergence(const float *p, const float *q, uint32_t n, bool *same)
{
	double zp = 0, zq = 0, sum = 0;
	uint32_t bp = 0, bq = 0;

	for (uint32_t i = 0; i < n; i++) {
		bp = p[i] > p[bp] ? i : bp;
		bq = q[i] > q[bq] ? i : bq;
	}
	for (uint32_t i = 0; i < n; i++) {
		zp += exp((double)p[i] - (double)p[bp]);
		zq += exp((double)q[i] - (double)q[bq]);
	}
	for (uint32_t i = 0; i < n; i++) {
		double lp = (double)p[i] - (double)p[bp] - log(zp);

		sum += exp(lp) * (lp - ((double)q[i] - (double)q[bq] - log(zq)));
	}
	*same = bp == bq;
	return sum;
}

static void model_row(const char *path, uint32_t n, const struct setting *set, float *dense,
                      double time[2])
{
	struct plx_dev_sparse read = {0};
	struct devkit k;
	double prefill, after = 0, kl = 0, worst = 0;
	uint32_t n_same = 0;

	kit_open(&k, path, set, n + N_AFTER);
	prefill = run(&k, set, ids, 0, n, false);
	for (uint32_t i = 0; i < N_AFTER; i++) {
		uint32_t nv = k.model->n_vocab;
		bool same;

		after += run(&k, set, ids, n + i, n + i + 1, true);
		if (set == NULL) {
			memcpy(dense + (size_t)i * nv, devkit_logits(&k, 0), nv * sizeof(float));
			continue;
		}
		double d = divergence(dense + (size_t)i * nv, devkit_logits(&k, 0), nv, &same);

		kl += d / N_AFTER;
		worst = d > worst ? d : worst;
		n_same += same;
	}
	if (set == NULL) {
		time[0] = prefill;
		time[1] = after;
		printf("bench_sparse: model %5u tokens, dense: prompt %.0f ms, token %.2f ms\n", n,
		       prefill, after / N_AFTER);
	} else {
		PLX_CHECK(plx_dev_sparse_get(k.dev, &read) == 0);
		printf(
		    "bench_sparse: model %5u tokens, mass %3u chunks %2u %s: prompt %.0f ms (%.2f "
		    "times as fast), token %.2f ms (%.2f); read %.0f %% of the chunks; KL %.5f, "
		    "worst %.4f; best id the same %u of %u\n",
		    n, set->mass, set->chunks, way(set), prefill, time[0] / prefill,
		    after / N_AFTER, time[1] / after,
		    100.0 * (double)read.read / (double)read.chunks, kl, worst, n_same, N_AFTER);
	}
	fflush(stdout);
	devkit_close(&k);
}

/* ---- the needle ------------------------------------------------------------------------------ */

static uint32_t encode(struct plx_tok_scratch *s, const char *text, int32_t *to, uint32_t max)
{
	int n = plx_tok_encode(s, text, (uint32_t)strlen(text), 0, to, max);

	PLX_CHECK(n > 0);
	return (uint32_t)n;
}

/* The prompt: text with the needle at `depth` of n tokens, and the question. */
static uint32_t needle_make(const struct plx_model *m, uint32_t n, double depth, uint32_t number,
                            int32_t *to, int32_t *answer, uint32_t *n_answer)
{
	int32_t hidden[64], asked[64];
	struct plx_tok_scratch *s;
	struct plx_tok *t;
	char text[160];

	PLX_CHECK(plx_tok_open(&t, m->gguf, NULL) == 0);
	PLX_CHECK(plx_tok_scratch_new(&s, t, 4096, NULL) == 0);
	snprintf(text, sizeof text, "\n\nThe secret code of the lighthouse is %u.\n\n", number);
	uint32_t n_hidden = encode(s, text, hidden, 64);
	uint32_t n_asked = encode(s, "\n\nThe secret code of the lighthouse is", asked, 64);

	snprintf(text, sizeof text, " %u", number);
	*n_answer = encode(s, text, answer, 16);
	uint32_t left = n - n_hidden - n_asked, before = (uint32_t)(depth * left);

	memcpy(to, ids, before * sizeof *to);
	memcpy(to + before, hidden, n_hidden * sizeof *to);
	memcpy(to + before + n_hidden, ids + before, (left - before) * sizeof *to);
	memcpy(to + left + n_hidden, asked, n_asked * sizeof *to);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
	return n;
}

static bool needle_found(struct devkit *k, const struct setting *set, uint32_t n, double depth,
                         uint32_t number)
{
	static int32_t prompt[MAX_IDS];
	int32_t answer[16];
	uint32_t n_answer, n_right = 0;

	needle_make(k->model, n, depth, number, prompt, answer, &n_answer);
	for (uint32_t i = 0; i < n_answer; i++)
		prompt[n + i] = answer[i];
	for (uint32_t i = 0; i < n_answer; i++) {
		const float *row;
		uint32_t best = 0;

		run(k, set, prompt, i == 0 ? 0 : n + i - 1, n + i, true);
		row = devkit_logits(k, 0);
		for (uint32_t v = 1; v < k->model->n_vocab; v++)
			best = row[v] > row[best] ? v : best;
		n_right += (int32_t)best == answer[i];
	}
	struct plx_step *s = devkit_step(k, 0);

	devkit_clear(s, 0);
	PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
	(void)devkit_wait(k);
	return n_right == n_answer;
}

#define N_DEPTHS 5u

static void needle_row(const char *path, uint32_t n, const struct setting *set)
{
	static const double depths[] = {0.1, 0.3, 0.5, 0.7, 0.9};
	struct devkit k;
	char at[64] = "";
	uint32_t found = 0, used = 0;

	kit_open(&k, path, set, n + 16);
	for (uint32_t i = 0; i < N_DEPTHS; i++)
		if (needle_found(&k, set, n, depths[i], 4817 + 1103 * i)) {
			used += (uint32_t)snprintf(at + used, sizeof at - used, " %.1f", depths[i]);
			found++;
		}
	printf("bench_sparse: needle %5u tokens, mass %3u chunks %2u %s: found %u of %u, at%s\n", n,
	       set ? set->mass : 0, set ? set->chunks : 0, set ? way(set) : "(dense)", found,
	       N_DEPTHS, found ? at : " none");
	fflush(stdout);
	devkit_close(&k);
}

/* Prose, and behind it what the protocol is. */
static void text_fill(const char *path)
{
	static int32_t more[MAX_IDS];
	struct plx_diag d = {0};
	struct plx_model *m;

	PLX_CHECK(plx_model_open(path, &m, &d) == 0);
	n_ids = plx_ppl_ids(m, PLX_PPL_TEXT, ids, PLX_PPL_MAX);
	uint32_t n = plx_ppl_ids(m, "dataplane/wire/SPEC.md", more, MAX_IDS - n_ids);
	uint32_t bos = more[0] == ids[0];

	memcpy(ids + n_ids, more + bos, (n - bos) * sizeof *ids);
	n_ids += n - bos;
	plx_model_close(m);
}

/* The first half of n tokens and those behind it, said twice. */
static void text_again(uint32_t n)
{
	for (uint32_t i = n / 2; i < n + N_AFTER; i++)
		ids[i] = ids[i - n / 2 + (i == n / 2)];
}

/* Dense, then every setting, or the few. */
static void model_rows(const char *path, uint32_t n, bool few)
{
	float *dense = malloc((size_t)N_AFTER * PLX_MODEL_MAX_VOCAB / 8 * sizeof(float));
	double time[2];

	PLX_CHECK(dense != NULL);
	model_row(path, n, NULL, dense, time);
	for (uint32_t i = 0; i < N_SETTINGS; i++)
		if (settings[i].few || !few)
			model_row(path, n, &settings[i], dense, time);
	free(dense);
}

static void needle_rows(const char *path, uint32_t n, bool few)
{
	needle_row(path, n, NULL);
	for (uint32_t i = 0; i < N_SETTINGS; i++)
		if (settings[i].few || !few)
			needle_row(path, n, &settings[i]);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 && argv[1][0] ? argv[1] : plx_test_model();
	uint32_t n = argc > 2 ? (uint32_t)atoi(argv[2]) : 2048;
	bool few = argc > 3 && strcmp(argv[3], "few") == 0;
	const char *parts = argc > 4 ? argv[4] : n <= 2048 ? "kmn" : "mn";

	if (strchr(parts, 'k'))
		kernels_run();
	if (path == NULL) {
		printf("bench_sparse: real model SKIPPED: give its path\n");
		return 0;
	}
	text_fill(path);
	if (n < 256 || n + N_AFTER > n_ids) {
		printf("bench_sparse: real model SKIPPED: give 256 to %u tokens\n",
		       n_ids - N_AFTER);
		return 0;
	}
	if (strchr(parts, 'm'))
		model_rows(path, n, few);
	if (strchr(parts, 'n'))
		needle_rows(path, n, few);
	if (strchr(parts, 'a')) {
		text_again(n);
		printf("bench_sparse: what follows is of a text that is said twice\n");
		model_rows(path, n, few);
	}
	return 0;
}
