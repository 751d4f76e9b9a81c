/*
 * Perplexity: how well a model predicts a text, by its logits from different arithmetic.
 *
 *   ppl = exp(-mean over i of log p(id[i + 1] | id[0..i]))
 *
 * Logits come in rows, one after each token of the text; everything made of them is double.
 */
#ifndef PLX_TESTS_LIB_PPL_H
#define PLX_TESTS_LIB_PPL_H

#include <stdint.h>

#include "accel/model/model.h"
#include "tests/lib/devkit.h"

#define PLX_PPL_TEXT "tests/golden/perplexity.txt"

/*
 * plx_ppl_ids - the text's ids, begun with bos where the model's file asks for it.
 * Returns how many, at most max; fails the program when the text can't be read.
 */
uint32_t plx_ppl_ids(const struct plx_model *m, const char *path, int32_t *ids, uint32_t max);

/* plx_ppl_logprob, plx_ppl_logprob_f32 - log p(id) of a row; f32 logits are widened first. */
double plx_ppl_logprob(const double *logits, uint32_t n_vocab, int32_t id);
double plx_ppl_logprob_f32(const float *logits, uint32_t n_vocab, int32_t id);

/* What a text's rows came to. Zero-initialise. */
struct plx_ppl_sum {
	uint32_t n;
	double logprob; /* sum over tokens of log p(next) */
	double kl;      /* sum over tokens of the divergence from the reference's distribution */
	double delta2;  /* sum of the squared difference of log p(next) to the reference */
	double worst;   /* largest difference of log p(next) to the reference */
	uint32_t n_top; /* tokens after which both have the same best id */
};

/* plx_ppl_add - one row and the reference's row at the same place; next is the id that follows. */
void plx_ppl_add(struct plx_ppl_sum *s, const double *row, const double *ref, uint32_t n_vocab,
                 int32_t next);

/*
 * plx_ppl_error - standard error of log(perplexity / the reference's perplexity), from the spread
 * of the tokens' differences: how much of the ratio is chance of this text.
 */
double plx_ppl_error(const struct plx_ppl_sum *s, const struct plx_ppl_sum *ref);

/* plx_ppl_of - perplexity of the tokens so far. */
double plx_ppl_of(const struct plx_ppl_sum *s);

/* Takes the row of logits after token pos. */
typedef void (*plx_ppl_row_fn)(void *arg, uint32_t pos, const float *logits);

#define PLX_PPL_DEV_ROWS 8u /* rows a device step gives: devkit_logits holds as many */

/*
 * plx_ppl_dev - run ids[from..to) through slot 0 of a device, chunk tokens a step, as a prompt
 * whose end is verified like drafts; row is called for the last PLX_PPL_DEV_ROWS tokens of each
 * step.
 *
 * The slot is taken at from = 0. A later from goes on where the last call ended.
 */
void plx_ppl_dev(struct devkit *k, const int32_t *ids, uint32_t from, uint32_t to, uint32_t chunk,
                 plx_ppl_row_fn row, void *arg);

#endif
