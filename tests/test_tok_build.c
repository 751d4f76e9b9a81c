/* Vocabularies that can not be, each refused with its reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/mini_vocab.h"
#include "tests/lib/tok_golden.h"

static void refused(const struct plx_tok_source *src, int err, const char *text)
{
	struct plx_diag d = {0};
	struct plx_tok *t = (void *)1;

	assert_int_equal(plx_tok_build(&t, src, &d), err);
	assert_null(t);
	if (strstr(d.text, text) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", d.text, text);
}

static void test_tokenizer_names_unknown_kinds(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	m.src.model = "bert";
	refused(&m.src, PLX_E_UNSUPPORTED, "\"bert\"; known are gpt2");
	m.src.model = NULL;
	refused(&m.src, PLX_E_UNSUPPORTED, "known are gpt2");
	plx_mini_init(&m);
	m.src.pre = "deepseek-llm";
	refused(&m.src, PLX_E_UNSUPPORTED,
	        "\"deepseek-llm\"; known are gpt-2, smollm, llama-bpe, qwen2");
	m.src.pre = NULL;
	refused(&m.src, PLX_E_UNSUPPORTED, "tokenizer.ggml.pre is missing");
}

static void test_tokenizer_refuses_bad_tokens(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	m.tokens[C] = plx_mini_str("a");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] \"a\" is the same as [0]");
	m.tokens[C] = plx_mini_str("");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] has 0 bytes");
	m.tokens[C] = plx_mini_str("a c");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] \"a c\" is normal text, but");
	m.tokens[C] = plx_mini_str("\xff\x01");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] \"\\xff\\x01\" is normal text, but");
	plx_mini_init(&m);
	m.types[B] = 7;
	refused(&m.src, PLX_E_FORMAT, "token_type[1] is 7");
	plx_mini_init(&m);
	m.src.n_vocab = 49152;
	refused(&m.src, PLX_E_FORMAT, "has 10 entries, but the model's vocab_size is 49152");
	m.src.n_vocab = 0;
	m.src.n_tokens = 0;
	refused(&m.src, PLX_E_FORMAT, "tokens has 0 entries");
}

static void test_tokenizer_refuses_long_tokens(void **state)
{
	static char many[2 * PLX_TOK_MAX_PIECE + 1];
	struct plx_mini m;

	(void)state;
	memset(many, 'q', sizeof(many));
	plx_mini_init(&m);
	m.tokens[USER] = (struct plx_tok_str){many, sizeof(many)};
	refused(&m.src, PLX_E_FORMAT, "tokens[9] has 2049 bytes");
	m.tokens[USER].len = PLX_TOK_MAX_PIECE + 1;
	refused(&m.src, PLX_E_FORMAT, "tokens[9] stands for 1025 bytes");
	m.tokens[USER].len = PLX_TOK_MAX_PIECE;
	plx_tok_free(plx_mini_build(&m.src));
}

static void test_tokenizer_refuses_bad_merges(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	m.merges[1] = plx_mini_str("ab q");
	refused(&m.src, PLX_E_FORMAT,
	        "merges[1] names \"q\", which tokenizer.ggml.tokens does not");
	m.merges[1] = plx_mini_str("b c");
	refused(&m.src, PLX_E_FORMAT,
	        "merges[1] makes \"bc\", which tokenizer.ggml.tokens does not");
	m.merges[1] = plx_mini_str("a b");
	refused(&m.src, PLX_E_FORMAT, "merges[1] \"a b\" occurs twice");
	m.merges[1] = plx_mini_str("abc");
	refused(&m.src, PLX_E_FORMAT, "merges[1] is \"abc\", not two tokens");
	m.merges[1] = plx_mini_str("a b c");
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.merges[1] = plx_mini_str(" ab");
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.merges[1] = plx_mini_str("ab ");
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.merges[1] = (struct plx_tok_str){NULL, 0};
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.src.n_merges = 0;
	refused(&m.src, PLX_E_FORMAT, "merges is missing or empty");
}

static void test_tokenizer_never_merges_into_control(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	m.types[ABC] = PLX_TOK_T_CONTROL;
	refused(&m.src, PLX_E_FORMAT, "merges[1] makes \"abc\", a special token (type 3)");
	m.types[ABC] = PLX_TOK_T_NORMAL;
	m.types[AB] = PLX_TOK_T_UNUSED;
	refused(&m.src, PLX_E_FORMAT, "merges[0] makes \"ab\", a special token (type 5)");
}

static void test_tokenizer_refuses_ids_out_of_range(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	m.src.eos = N_MINI;
	refused(&m.src, PLX_E_FORMAT, "tokenizer.ggml.eos_token_id is 10, but the ids are 0 to 9");
	m.src.eos = -2;
	refused(&m.src, PLX_E_FORMAT, "tokenizer.ggml.eos_token_id is -2");
}

static void test_tokenizer_refuses_bad_sentencepiece(void **state)
{
	float *scores;
	struct tok_golden g;

	(void)state;
	assert_int_equal(tok_golden_read(&g, "tests/golden/tokenizer/spm.txt"), 0);
	scores = g.scores;
	g.src.scores = NULL;
	refused(&g.src, PLX_E_FORMAT, "tokenizer.ggml.scores is missing");
	g.src.scores = scores;
	g.src.types = NULL;
	refused(&g.src, PLX_E_FORMAT, "tokenizer.ggml.token_type is missing");
	g.src.types = g.types;
	scores[300] = NAN;
	refused(&g.src, PLX_E_FORMAT, "scores[300] is not a number");
	scores[300] = -41;
	g.types[3 + 0x41] = PLX_TOK_T_UNUSED; /* <0x41> */
	refused(&g.src, PLX_E_FORMAT, "has no <0x41> of type byte");
	g.types[300] = PLX_TOK_T_BYTE;
	refused(&g.src, PLX_E_FORMAT, "is of type byte, but no <0x00> to <0xFF>");
	tok_golden_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tokenizer_names_unknown_kinds),
	    cmocka_unit_test(test_tokenizer_refuses_bad_tokens),
	    cmocka_unit_test(test_tokenizer_refuses_long_tokens),
	    cmocka_unit_test(test_tokenizer_refuses_bad_merges),
	    cmocka_unit_test(test_tokenizer_never_merges_into_control),
	    cmocka_unit_test(test_tokenizer_refuses_ids_out_of_range),
	    cmocka_unit_test(test_tokenizer_refuses_bad_sentencepiece),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
