/*
 * Ids against the public libraries: `tokenizers` and `sentencepiece` on small trained vocabularies,
 * and `tokenizers` on the vocabulary of the real SmolLM2 file where that is at hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "accel/model/gguf.h"
#include "accel/model/tokenizer.h"
#include "tests/lib/model_path.h"
#include "tests/lib/tok_golden.h"

#define MAX_TEXT 4096
#define MAX_IDS  (4 * MAX_TEXT)

static int32_t ids[MAX_IDS];

static void explain(const struct tok_case *c, int n, uint32_t idx)
{
	fprintf(stderr, "case %u, flags %u, text \"%.*s\"\n  expected", idx, c->flags, (int)c->len,
	        c->text);
	for (uint32_t i = 0; i < c->n_ids; i++)
		fprintf(stderr, " %d", c->ids[i]);
	fprintf(stderr, "\n  got     ");
	for (int i = 0; i < n; i++)
		fprintf(stderr, " %d", ids[i]);
	fprintf(stderr, "\n");
}

/* Every case in one go, and in steps of budgets that end in every stage. Returns failed cases. */
static int run_cases(const struct plx_tok *t, const struct tok_golden *g)
{
	static const uint32_t budgets[] = {UINT32_MAX, 1, 3, 17};
	struct plx_tok_scratch *s;
	int n_bad = 0;

	assert_int_equal(plx_tok_scratch_new(&s, t, MAX_TEXT, NULL), 0);
	for (uint32_t i = 0; i < g->n_cases; i++) {
		const struct tok_case *c = &g->cases[i];

		for (size_t b = 0; b < sizeof(budgets) / sizeof(budgets[0]); b++) {
			struct plx_tok_job job = {.text = c->text,
			                          .len = c->len,
			                          .flags = c->flags,
			                          .ids = ids,
			                          .max_ids = MAX_IDS};
			int n = plx_tok_begin(s, &job);

			while (n == 0 && (n = plx_tok_step(s, budgets[b])) == PLX_E_AGAIN)
				n = 0;
			if (n == (int)c->n_ids &&
			    (n == 0 || memcmp(ids, c->ids, (size_t)n * 4) == 0))
				continue;
			explain(c, n, i);
			n_bad++;
			break;
		}
	}
	plx_tok_scratch_free(s);
	return n_bad;
}

static void check_golden(const char *name, uint32_t least_cases)
{
	struct tok_golden g;
	struct plx_diag d = {0};
	struct plx_tok *t;
	char path[256];

	snprintf(path, sizeof(path), "tests/golden/tokenizer/%s.txt", name);
	assert_int_equal(tok_golden_read(&g, path), 0);
	if (plx_tok_build(&t, &g.src, &d))
		fail_msg("%s: %s", name, d.text);
	assert_true(g.n_cases >= least_cases);
	assert_int_equal(run_cases(t, &g), 0);
	plx_tok_free(t);
	tok_golden_free(&g);
}

static void test_tokenizer_equals_gpt2(void **state)
{
	(void)state;
	check_golden("gpt-2", 250);
}

static void test_tokenizer_equals_smollm(void **state)
{
	(void)state;
	check_golden("smollm", 250);
}

static void test_tokenizer_equals_llama3(void **state)
{
	(void)state;
	check_golden("llama-bpe", 250);
}

static void test_tokenizer_equals_qwen2(void **state)
{
	(void)state;
	check_golden("qwen2", 250);
}

static void test_tokenizer_equals_sentencepiece(void **state)
{
	(void)state;
	check_golden("spm", 250);
	check_golden("spm-user", 250);
	check_golden("spm-noprefix", 250);
	check_golden("spm-phrases", 250);
}

static void test_tokenizer_equals_real_vocabulary(void **state)
{
	const char *path = plx_test_model();
	struct tok_golden g;
	struct plx_diag d = {0};
	struct plx_gguf *file;
	struct plx_tok *t;
	const int32_t *eog;

	(void)state;
	if (path == NULL) {
		print_message("no model file: set PLX_TEST_MODEL to it\n");
		skip();
	}
	assert_int_equal(tok_golden_read(&g, "tests/golden/tokenizer/smollm2.txt"), 0);
	if (plx_gguf_open(path, &file, &d) || plx_tok_open(&t, file, &d))
		fail_msg("%s", d.text);
	plx_gguf_close(file);
	assert_int_equal(plx_tok_n_vocab(t), 49152);
	assert_true(g.n_cases >= 300);
	assert_int_equal(run_cases(t, &g), 0);
	assert_int_equal(plx_tok_special(t)->bos, 1);
	assert_int_equal(plx_tok_special(t)->eos, 2);
	assert_int_equal(plx_tok_special(t)->eot, 2);
	assert_false(plx_tok_special(t)->add_bos);
	assert_int_equal(plx_tok_eog(t, &eog), 2);
	assert_int_equal(eog[0], 0); /* <|endoftext|> */
	assert_int_equal(eog[1], 2); /* <|im_end|> */
	plx_tok_free(t);
	tok_golden_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tokenizer_equals_gpt2),
	    cmocka_unit_test(test_tokenizer_equals_smollm),
	    cmocka_unit_test(test_tokenizer_equals_llama3),
	    cmocka_unit_test(test_tokenizer_equals_qwen2),
	    cmocka_unit_test(test_tokenizer_equals_sentencepiece),
	    cmocka_unit_test(test_tokenizer_equals_real_vocabulary),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
