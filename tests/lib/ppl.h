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
#define PLX_PPL_GOLD "tests/golden/perplexity-q4_1.txt" /* of the model that `make run` uses */
#define PLX_PPL_MAX  4096u                              /* ids that a text may have */

/*
 * plx_ppl_ids - the text's ids, begun with bos where the model's file asks for it.
 * Returns how many, at most max; fails the program when the text can't be read.
 */
uint32_t plx_ppl_ids(const struct plx_model *m, const char *path, int32_t *ids, uint32_t max);

/*
 * What is kept of a reference's row: enough for the perplexity and, by one drawn id, for an
 * estimate of the divergence without bias.
 */
struct plx_ppl_gold {
	double next;  /* log p of the id that follows */
	int32_t id;   /* drawn from the reference's distribution, by numbers made of the position */
	double drawn; /* log p(id) */
};

/* plx_ppl_gold_make - of the row after token pos. */
struct plx_ppl_gold plx_ppl_gold_make(const double *row, uint32_t n_vocab, uint32_t pos,
                                      int32_t next);

/* plx_ppl_gold_print, plx_ppl_gold_read - a line a token; read returns how many, at most max. */
void plx_ppl_gold_print(const struct plx_ppl_gold *g);
uint32_t plx_ppl_gold_read(const char *path, struct plx_ppl_gold *g, uint32_t max);

/* What a text's rows came to. Zero-initialise. */
struct plx_ppl_sum {
	uint32_t n;
	double logprob; /* sum over tokens of log p(next) */
	double kl;      /* sum over tokens of the divergence from the reference's distribution */
	double kl2;     /* sum of its square (plx_ppl_add alone) */
	double delta2;  /* sum of the squared difference of log p(next) to the reference */
	double worst;   /* largest difference of log p(next) to the reference */
	uint32_t n_top; /* tokens after which both have the same best id */
};

/* plx_ppl_add - one row and the reference's row at the same place; next is the id that follows. */
void plx_ppl_add(struct plx_ppl_sum *s, const double *row, const double *ref, uint32_t n_vocab,
                 int32_t next);

/*
 * plx_ppl_add_gold - the same with what is kept of the reference's row; n_top stays.
 *
 * The divergence is estimated as the mean of r - 1 - log r, r = p(id) / p_ref(id), over ids drawn
 * from p_ref: never below 0, and for distributions close to each other it scatters little.
 * Source: Schulman, "Approximating KL divergence", 2020 (the estimator k3).
 */
void plx_ppl_add_gold(struct plx_ppl_sum *s, const double *row, const struct plx_ppl_gold *ref,
                      uint32_t n_vocab, int32_t next);

/*
 * plx_ppl_error - standard error of log(perplexity / the reference's perplexity), from the spread
 * of the tokens' differences: how much of the ratio is chance of this text.
 */
double plx_ppl_error(const struct plx_ppl_sum *s, const struct plx_ppl_sum *ref);

/* plx_ppl_kl_error - standard error of the mean divergence, from the spread over tokens. */
double plx_ppl_kl_error(const struct plx_ppl_sum *s);

/* plx_ppl_of - perplexity of the tokens so far. */
double plx_ppl_of(const struct plx_ppl_sum *s);

/* Takes the row of logits after token pos. */
typedef void (*plx_ppl_row_fn)(void *arg, uint32_t pos, const float *logits);

#define PLX_PPL_DEV_ROWS (1u + PLX_MAX_DRAFT) /* rows a device step gives */

/* plx_ppl_limits - for one sequence of PLX_PPL_MAX tokens. */
struct plx_dev_limits plx_ppl_limits(void);

/*
 * plx_ppl_dev - run ids[from..to) through slot 0 of a device, chunk tokens a step, as a prompt
 * whose end is verified like drafts; row is called for the last PLX_PPL_DEV_ROWS tokens of each
 * step.
 *
 * The slot is taken at from = 0. A later from goes on where the last call ended. The vocabulary has
 * at most 2^18 ids, so that the device holds a step's rows at once.
 */
void plx_ppl_dev(struct devkit *k, const int32_t *ids, uint32_t from, uint32_t to, uint32_t chunk,
                 plx_ppl_row_fn row, void *arg);

/* plx_ppl_dev_end - give the slot back, so that a text can begin anew. */
void plx_ppl_dev_end(struct devkit *k);

#endif
