/*
 * The transformer pass in double precision, straight from a model file: the reference of every
 * device. It shares the file reader and the exact dequantisation with them and nothing else; it is
 * written to be read, one loop after another, in the order of accel/model/model.h.
 */
#ifndef PLX_TESTS_LIB_REF_H
#define PLX_TESTS_LIB_REF_H

#include <stdint.h>

#include "accel/model/model.h"

struct plx_ref;

/* plx_ref_open - an empty sequence of at most n_ctx tokens; NULL when memory is short. */
struct plx_ref *plx_ref_open(const struct plx_model *m, uint32_t n_ctx);
void plx_ref_close(struct plx_ref *r);

/*
 * plx_ref_run - append n tokens and compute the logits after the last n_rows of them.
 *
 * @logits  out [n_rows][n_vocab].
 *
 * Cost: every weight is dequantised once a call and multiplied n times.
 */
void plx_ref_run(struct plx_ref *r, const int32_t *ids, uint32_t n, uint32_t n_rows,
                 double *logits);

/* plx_ref_best - index of the largest of n values, the lowest one of equals. */
uint32_t plx_ref_best(const double *x, uint32_t n);

/* plx_ref_margin - how far the largest is above the second largest. */
double plx_ref_margin(const double *x, uint32_t n);

/* plx_ref_log_sum - log of the sum of exp(x[i]). */
double plx_ref_log_sum(const double *x, uint32_t n);

#endif
