/*
 * A vocabulary for tests of what lies around the tokenizer: SentencePiece with <unk>, <s>, </s>,
 * the 256 bytes and a list of words.
 */
#ifndef PLX_TESTS_LIB_TINY_VOCAB_H
#define PLX_TESTS_LIB_TINY_VOCAB_H

#include "accel/model/tokenizer.h"

#define TINY_BOS     1
#define TINY_EOS     2
#define TINY_BYTE(b) (3 + (b))
#define TINY_WORD(i) (259 + (i))

/* plx_tiny_vocab - build it with n words, spelled as in a model file ("\u2581" for a space). */
struct plx_tok *plx_tiny_vocab(const char *const *words, uint32_t n);

#endif
