/*
 * Which format each tensor gets.
 *
 * A model's main type goes to its matrices, with these exceptions, in this order:
 *   the user's rules, PATTERN=TYPE, shell patterns on the tensor's name, the first that matches;
 *   norms, biases and other vectors, and a router of experts, are F32;
 *   the head (the embedding where they are one) is Q6_K, since every token depends on all of it,
 *     where the main type is a quantised one other than Q8_0;
 *   rows that are no whole number of blocks of 256 fall back, Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to
 *     Q8_0; rows that are no multiple of 32, to F16.
 */
#ifndef PLX_TOOLS_GGUF_RULES_H
#define PLX_TOOLS_GGUF_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "fw/base/diag.h"
#include "kernels/quant.h"

#define PLX_RULES_MAX 64u

struct plx_rules {
	enum plx_qtype main;
	uint32_t n;
	struct {
		char pattern[128];
		enum plx_qtype type;
	} rule[PLX_RULES_MAX];
};

/* plx_rules_type - "q4_k", in either case, as a format.  Errors: INVAL; d lists the formats. */
int plx_rules_type(const char *name, enum plx_qtype *type, struct plx_diag *d);

/* plx_rules_add - "PATTERN=TYPE".  Errors: INVAL, LIMIT. */
int plx_rules_add(struct plx_rules *r, const char *text, struct plx_diag *d);

/*
 * plx_rules_for - the format of a tensor.
 *
 * @name    NUL-terminated.
 * @n_dims, n_cols  its shape: dimensions as stored, elements of a row.
 * @head    the output matrix, or the embedding of a model that has no other.
 *
 * Errors: INVAL where a rule of the user's names a format whose blocks don't fit the rows, or a
 * quantised one for a vector.
 */
int plx_rules_for(const struct plx_rules *r, const char *name, uint32_t n_dims, uint64_t n_cols,
                  bool head, enum plx_qtype *type, struct plx_diag *d);

/* plx_rules_default - the same without rules, for a matrix. */
enum plx_qtype plx_rules_default(enum plx_qtype main, uint64_t n_cols, bool head);

/* plx_rules_file_type - general.file_type of a file that is mostly of this format. */
uint32_t plx_rules_file_type(enum plx_qtype type);

#endif
