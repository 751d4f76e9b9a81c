/*
 * Reads a tokenizer golden: a vocabulary as a plx_tok_source, and cases of text, flags and ids.
 *
 * Lines: "model NAME", "pre NAME", "bos|eos|unk|add_space_prefix N", "t TYPE SCORE HEX" a token as
 * spelled in a GGUF file, "m HEX" a merge, "c FLAGS HEX ID..." a case; HEX is "-" for no bytes.
 */
#ifndef PLX_TESTS_LIB_TOK_GOLDEN_H
#define PLX_TESTS_LIB_TOK_GOLDEN_H

#include <stdint.h>

#include "accel/model/tokenizer.h"

struct tok_case {
	uint8_t *text;
	uint32_t len;
	uint32_t flags;
	int32_t *ids;
	uint32_t n_ids;
};

struct tok_golden {
	struct plx_tok_source src; /* its arrays belong to the golden */
	struct plx_tok_str *tokens;
	struct plx_tok_str *merges;
	float *scores;
	int32_t *types;
	struct tok_case *cases;
	uint32_t n_cases;
	char model[32];
	char pre[32];
};

/* tok_golden_read - 0, or -1 with a message on stderr. Release by tok_golden_free in either case.
 */
int tok_golden_read(struct tok_golden *g, const char *path);
void tok_golden_free(struct tok_golden *g);

#endif
