/* Built by hand. */
#include "tests/lib/mini_vocab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct plx_tok_str plx_mini_str(const char *s)
{
	return (struct plx_tok_str){s, strlen(s)};
}

void plx_mini_init(struct plx_mini *m)
{
	static const char *const tokens[N_MINI] = {"a",
	                                           "b",
	                                           "c",
	                                           "\xc4\xa0",
	                                           "ab",
	                                           "abc",
	                                           ("\xc4\xa0"
	                                            "ab"),
	                                           "<x>",
	                                           "<x>>",
	                                           "<tag>"};
	static const char *const merges[3] = {"a b", "ab c", "\xc4\xa0 ab"};

	for (int i = 0; i < N_MINI; i++) {
		m->tokens[i] = plx_mini_str(tokens[i]);
		m->types[i] = PLX_TOK_T_NORMAL;
	}
	for (int i = 0; i < 3; i++)
		m->merges[i] = plx_mini_str(merges[i]);
	m->types[CTRL] = m->types[CTRL_LONG] = PLX_TOK_T_CONTROL;
	m->types[USER] = PLX_TOK_T_USER;
	m->src = (struct plx_tok_source){.model = "gpt2",
	                                 .pre = "gpt-2",
	                                 .tokens = m->tokens,
	                                 .n_tokens = N_MINI,
	                                 .types = m->types,
	                                 .merges = m->merges,
	                                 .n_merges = 3,
	                                 .bos = CTRL,
	                                 .eos = CTRL_LONG,
	                                 .eot = PLX_TOK_NONE,
	                                 .unk = PLX_TOK_NONE,
	                                 .pad = PLX_TOK_NONE,
	                                 .add_bos = 1,
	                                 .add_eos = 1,
	                                 .add_space_prefix = -1};
}

struct plx_tok *plx_mini_build(const struct plx_tok_source *src)
{
	struct plx_diag d = {0};
	struct plx_tok *t;

	if (plx_tok_build(&t, src, &d))
		fail_msg("%s", d.text);
	return t;
}

struct plx_tok_scratch *plx_mini_scratch(const struct plx_tok *t, uint32_t max_text)
{
	struct plx_tok_scratch *s;

	assert_int_equal(plx_tok_scratch_new(&s, t, max_text, NULL), 0);
	return s;
}
