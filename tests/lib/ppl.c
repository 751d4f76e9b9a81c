/* Perplexity of a text, from rows of logits. */
#include "tests/lib/ppl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "accel/model/tokenizer.h"
#include "fw/base/check.h"
#include "kernels/sample.h"
#include "tests/lib/ref.h"

#define MAX_TEXT 65536u

uint32_t plx_ppl_ids(const struct plx_model *m, const char *path, int32_t *ids, uint32_t max)
{
	static char text[MAX_TEXT];
	FILE *f = fopen(path, "r");
	struct plx_tok_scratch *s;
	struct plx_tok *t;

	if (f == NULL)
		fprintf(stderr, "%s: run from the repository's root\n", path);
	PLX_CHECK(f != NULL);
	size_t len = fread(text, 1, sizeof(text), f);

	fclose(f);
	PLX_CHECK(len > 0 && len < sizeof(text));
	PLX_CHECK(plx_tok_open(&t, m->gguf, NULL) == 0);
	PLX_CHECK(plx_tok_scratch_new(&s, t, MAX_TEXT, NULL) == 0);
	int n = plx_tok_encode(s, text, (uint32_t)len, PLX_TOK_BOS, ids, max);

	PLX_CHECK(n > 1);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
	return (uint32_t)n;
}

/* A number in [0, 1) made of a position. */
static double uniform(uint32_t pos)
{
	const uint32_t ctr[4] = {pos, 0, 0, 0}, key[2] = {0, 0};
	uint32_t out[4];

	plx_k_philox(ctr, key, out);
	return (out[0] + out[1] * 0x1p-32) * 0x1p-32;
}

struct plx_ppl_gold plx_ppl_gold_make(const double *row, uint32_t n_vocab, uint32_t pos,
                                      int32_t next)
{
	double sum = plx_ref_log_sum(row, n_vocab), left = uniform(pos);
	uint32_t id = 0;

	while (id + 1 < n_vocab && (left -= exp(row[id] - sum)) >= 0)
		id++;
	return (struct plx_ppl_gold){row[next] - sum, (int32_t)id, row[id] - sum};
}

void plx_ppl_gold_print(const struct plx_ppl_gold *g)
{
	printf("%.5f %d %.5f\n", g->next, g->id, g->drawn);
}

uint32_t plx_ppl_gold_read(const char *path, struct plx_ppl_gold *g, uint32_t max)
{
	FILE *f = fopen(path, "r");
	uint32_t n = 0;

	if (f == NULL)
		fprintf(stderr, "%s: run from the repository's root\n", path);
	PLX_CHECK(f != NULL);
	while (n < max && fscanf(f, "%lf %d %lf", &g[n].next, &g[n].id, &g[n].drawn) == 3)
		n++;
	fclose(f);
	return n;
}

static void sum_add(struct plx_ppl_sum *s, double logprob, double ref, double kl)
{
	double delta = logprob - ref;

	s->n++;
	s->logprob += logprob;
	s->kl += kl;
	s->kl2 += kl * kl;
	s->delta2 += delta * delta;
	s->worst = fmax(s->worst, fabs(delta));
}

void plx_ppl_add(struct plx_ppl_sum *s, const double *row, const double *ref, uint32_t n_vocab,
                 int32_t next)
{
	double sum = plx_ref_log_sum(row, n_vocab), ref_sum = plx_ref_log_sum(ref, n_vocab), kl = 0;

	for (uint32_t i = 0; i < n_vocab; i++) {
		double lp = ref[i] - ref_sum;

		kl += exp(lp) * (lp - (row[i] - sum));
	}
	sum_add(s, row[next] - sum, ref[next] - ref_sum, kl);
	s->n_top += plx_ref_best(row, n_vocab) == plx_ref_best(ref, n_vocab);
}

void plx_ppl_add_gold(struct plx_ppl_sum *s, const double *row, const struct plx_ppl_gold *ref,
                      uint32_t n_vocab, int32_t next)
{
	double sum = plx_ref_log_sum(row, n_vocab), log_r = row[ref->id] - sum - ref->drawn;

	sum_add(s, row[next] - sum, ref->next, exp(log_r) - 1 - log_r);
}

double plx_ppl_error(const struct plx_ppl_sum *s, const struct plx_ppl_sum *ref)
{
	double mean = (s->logprob - ref->logprob) / s->n;

	return sqrt((s->delta2 / s->n - mean * mean) / s->n);
}

double plx_ppl_kl_error(const struct plx_ppl_sum *s)
{
	double mean = s->kl / s->n, var = s->kl2 / s->n - mean * mean;

	return var > 0 ? sqrt(var / s->n) : 0;
}

double plx_ppl_of(const struct plx_ppl_sum *s)
{
	return exp(-s->logprob / s->n);
}

struct plx_dev_limits plx_ppl_limits(void)
{
	struct plx_dev_limits lim = devkit_limits();

	lim.max_seq_blocks = PLX_PPL_MAX / lim.block_tokens;
	lim.n_blocks = lim.max_seq_blocks;
	return lim;
}

/* Fills record 0 with ids[pos..end), the last n_row of them with logits. */
static void step_fill(struct devkit *k, const int32_t *ids, uint32_t pos, uint32_t end,
                      uint32_t n_row)
{
	uint32_t bt = k->lim.block_tokens;
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(k, 0);

	if (pos == 0)
		devkit_set(s, 0, &greedy);
	devkit_blocks(s, 0, (pos + bt - 1) / bt, (end + bt - 1) / bt, (pos + bt - 1) / bt);
	devkit_seq(s, 0, ids + pos, pos, end - pos, true)->n_draft = n_row - 1;
	for (uint32_t i = 0; i < n_row; i++)
		plx_step_toks(s)[s->n_tok - 1 - i].flags = PLX_TOKF_LOGITS;
}

void plx_ppl_dev(struct devkit *k, const int32_t *ids, uint32_t from, uint32_t to, uint32_t chunk,
                 plx_ppl_row_fn row, void *arg)
{
	PLX_CHECK(k->model->n_vocab <= 1u << 18);
	for (uint32_t pos = from, end; pos < to; pos = end) {
		end = to - pos < chunk ? to : pos + chunk;
		uint32_t n = end - pos < PLX_PPL_DEV_ROWS ? end - pos : PLX_PPL_DEV_ROWS;

		step_fill(k, ids, pos, end, n);
		PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
		(void)devkit_wait(k);
		PLX_CHECK(plx_queue_step(k->q, 0)->status == 0);
		PLX_CHECK(plx_step_outs(plx_queue_step(k->q, 0))[0].status == 0);
		for (uint32_t i = 0; i < n; i++)
			row(arg, end - n + i, devkit_logits(k, i));
	}
}

void plx_ppl_dev_end(struct devkit *k)
{
	devkit_clear(devkit_step(k, 0), 0);
	PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
	(void)devkit_wait(k);
}
