/* Perplexity of a text, from rows of logits. */
#include "tests/lib/ppl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "accel/model/tokenizer.h"
#include "fw/base/check.h"
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

double plx_ppl_logprob(const double *logits, uint32_t n_vocab, int32_t id)
{
	return logits[id] - plx_ref_log_sum(logits, n_vocab);
}

double plx_ppl_logprob_f32(const float *logits, uint32_t n_vocab, int32_t id)
{
	double max = (double)-INFINITY, sum = 0;

	for (uint32_t i = 0; i < n_vocab; i++)
		max = fmax(max, (double)logits[i]);
	for (uint32_t i = 0; i < n_vocab; i++)
		sum += exp((double)logits[i] - max);
	return (double)logits[id] - (max + log(sum));
}

void plx_ppl_add(struct plx_ppl_sum *s, const double *row, const double *ref, uint32_t n_vocab,
                 int32_t next)
{
	double sum = plx_ref_log_sum(row, n_vocab), ref_sum = plx_ref_log_sum(ref, n_vocab);
	double logprob = row[next] - sum, delta = logprob - (ref[next] - ref_sum), kl = 0;

	for (uint32_t i = 0; i < n_vocab; i++) {
		double lp = ref[i] - ref_sum;

		kl += exp(lp) * (lp - (row[i] - sum));
	}
	s->n++;
	s->logprob += logprob;
	s->kl += kl;
	s->delta2 += delta * delta;
	s->worst = fmax(s->worst, fabs(delta));
	s->n_top += plx_ref_best(row, n_vocab) == plx_ref_best(ref, n_vocab);
}

double plx_ppl_error(const struct plx_ppl_sum *s, const struct plx_ppl_sum *ref)
{
	double mean = (s->logprob - ref->logprob) / s->n;

	return sqrt((s->delta2 / s->n - mean * mean) / s->n);
}

double plx_ppl_of(const struct plx_ppl_sum *s)
{
	return exp(-s->logprob / s->n);
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
