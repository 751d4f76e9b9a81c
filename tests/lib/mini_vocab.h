/*
 * A vocabulary small enough to reason about: three letters, a space, three merges, two control
 * tokens, one of the user's.
 */
#ifndef PLX_TESTS_LIB_MINI_VOCAB_H
#define PLX_TESTS_LIB_MINI_VOCAB_H

#include "accel/model/tokenizer.h"

enum { A, B, C, SP, AB, ABC, SP_AB, CTRL, CTRL_LONG, USER, N_MINI };

struct plx_mini {
	struct plx_tok_str tokens[N_MINI];
	struct plx_tok_str merges[3];
	int32_t types[N_MINI];
	struct plx_tok_source src;
};

/* plx_mini_str - a string's bytes. */
struct plx_tok_str plx_mini_str(const char *s);
/* plx_mini_init - the source, to be changed before it is built. */
void plx_mini_init(struct plx_mini *m);
/* plx_mini_build - a tokenizer of it; fails the test where there is none. */
struct plx_tok *plx_mini_build(const struct plx_tok_source *src);
struct plx_tok_scratch *plx_mini_scratch(const struct plx_tok *t, uint32_t max_text);

#endif
