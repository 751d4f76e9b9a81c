/*
 * The transformer pass in double precision, straight from a model file: the reference of every
 * device. It shares the file reader and the exact dequantisation with them and nothing else; it is
 * written to be read, one loop after another, in the order of accel/model/model.h,
 * sliding windows included. Loops over rows
 * and tokens run on all cores; no bit depends on how many.
 */
#ifndef PLX_TESTS_LIB_REF_H
#define PLX_TESTS_LIB_REF_H

#include <stdint.h>

#include "accel/model/model.h"

struct plx_ref;

/*
 * What a device rounds, one flag each, so that the price of each can be told apart: 8-bit
 * activations (blocks of 32, as plx_kernels.quantise makes them) in front of one kind of matrix,
 * and K and V kept in f16. Matrices of floats take their activations as they are.
 */
enum plx_ref_round {
	PLX_REF_A8_QKV = 1 << 0,
	PLX_REF_A8_WO = 1 << 1,
	PLX_REF_A8_GATE_UP = 1 << 2,
	PLX_REF_A8_DOWN = 1 << 3,
	PLX_REF_A8_HEAD = 1 << 4,
	PLX_REF_A8 = 31, /* all of them */
	PLX_REF_KV16 = 1 << 5,
};

/* plx_ref_open - an empty sequence of at most n_ctx tokens; NULL when memory is short. */
struct plx_ref *plx_ref_open(const struct plx_model *m, uint32_t n_ctx);
void plx_ref_close(struct plx_ref *r);

/* plx_ref_round - from now on round what flags (enum plx_ref_round) name; at first nothing is. */
void plx_ref_round(struct plx_ref *r, uint32_t flags);

/* plx_ref_gone - from now on nobody attends to token i of those before where gone[i]; NULL: all
 * count. It must stay. */
void plx_ref_gone(struct plx_ref *r, const uint8_t *gone);

/*
 * plx_ref_run - append n tokens and compute the logits after the last n_rows of them.
 *
 * @logits  out [n_rows][n_vocab].
 *
 * Cost: every weight is dequantised once a call and multiplied n times, so call it with 64 or more
 * where speed matters; bench_perplexity prints tokens/s.
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
