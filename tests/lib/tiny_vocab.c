/* The tests' vocabulary; see tiny_vocab.h. */
#include "tests/lib/tiny_vocab.h"

#include <stdio.h>
#include <string.h>

#include "fw/base/check.h"

#define MAX_TOKENS 512

struct plx_tok *plx_tiny_vocab(const char *const *words, uint32_t n)
{
	static char byte_name[256][8];
	struct plx_tok_str tokens[MAX_TOKENS] = {{"<unk>", 5}, {"<s>", 3}, {"</s>", 4}};
	int32_t types[MAX_TOKENS] = {PLX_TOK_T_UNKNOWN, PLX_TOK_T_CONTROL, PLX_TOK_T_CONTROL};
	float scores[MAX_TOKENS] = {0};
	struct plx_diag d = {""};
	struct plx_tok *t = NULL;

	PLX_CHECK(n + TINY_WORD(0) <= MAX_TOKENS);
	for (int b = 0; b < 256; b++) {
		snprintf(byte_name[b], sizeof(byte_name[b]), "<0x%02X>", (unsigned int)b);
		tokens[TINY_BYTE(b)] = (struct plx_tok_str){byte_name[b], 6};
		types[TINY_BYTE(b)] = PLX_TOK_T_BYTE;
	}
	for (uint32_t i = 0; i < n; i++) {
		tokens[TINY_WORD(i)] = (struct plx_tok_str){words[i], strlen(words[i])};
		types[TINY_WORD(i)] = PLX_TOK_T_NORMAL;
		scores[TINY_WORD(i)] = -(float)i;
	}
	struct plx_tok_source src = {.model = "llama",
	                             .tokens = tokens,
	                             .n_tokens = TINY_WORD(0) + n,
	                             .scores = scores,
	                             .types = types,
	                             .bos = TINY_BOS,
	                             .eos = TINY_EOS,
	                             .eot = PLX_TOK_NONE,
	                             .unk = 0,
	                             .pad = PLX_TOK_NONE,
	                             .add_bos = 1,
	                             .add_eos = 0,
	                             .add_space_prefix = 0};
	int err = plx_tok_build(&t, &src, &d);

	if (err)
		fprintf(stderr, "%s\n", d.text);
	PLX_CHECK(err == 0);
	return t;
}
