/*
 * Logits that transformers computed for a tiny random model: `n_tok n_vocab`, the ids, then a row a
 * token, in text (tests/gen/tiny_models.py).
 */
#ifndef PLX_TESTS_LIB_TINY_GOLDEN_H
#define PLX_TESTS_LIB_TINY_GOLDEN_H

#include <stdint.h>

#include "accel/model/model.h"

#define PLX_T_GOLDEN_TOK 32u

struct plx_t_golden {
	uint32_t n_tok;
	uint32_t n_vocab;
	int32_t id[PLX_T_GOLDEN_TOK];
	double *logits; /* [n_tok][n_vocab] */
};

/* plx_t_golden_read - of this file; a missing or malformed one ends the program. */
void plx_t_golden_read(struct plx_t_golden *g, const char *path);
void plx_t_golden_free(struct plx_t_golden *g);

/* plx_t_golden_ref_error - the largest difference of the double-precision pass (ref.h) over m. */
double plx_t_golden_ref_error(const struct plx_t_golden *g, const struct plx_model *m);

/* plx_t_golden_dev_error - that of the CPU device with a model file, in logits (tiny_device.c). */
double plx_t_golden_dev_error(const struct plx_t_golden *g, const char *path, const char *isa);

#endif
