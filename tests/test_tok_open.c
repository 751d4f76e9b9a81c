/* The tokenizer.ggml.* keys of a file: read, and refused by name where they are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "accel/model/gguf.h"
#include "accel/model/tokenizer.h"
#include "tests/lib/gguf_make.h"

/* What one file says; NULL or negative: the key is left out. */
struct keys {
	const char *model;
	const char *pre;
	int n_types; /* entries of token_type, of type types_elem */
	int types_elem;
	int n_scores;
	int n_tokens; /* 0: all four; -1: no key */
	uint32_t eos;
	int vocab_size;
	int add_bos_type; /* metadata type of add_bos_token; 0: no key */
	bool merges_i32;  /* merges of the wrong element type */
};

static const struct keys good = {.model = "gpt2",
                                 .pre = "smollm",
                                 .n_types = 4,
                                 .types_elem = PLX_GGUF_I32,
                                 .eos = 3,
                                 .vocab_size = 4,
                                 .add_bos_type = PLX_GGUF_BOOL};

static void put_array(struct gguf_make *m, const char *key, uint32_t elem, uint32_t n,
                      const struct gguf_buf *data)
{
	static uint8_t bytes[1024];
	struct gguf_buf b = {bytes, 0};

	gguf_put_u32(&b, elem);
	gguf_put_u64(&b, n);
	gguf_put(&b, data->p, data->n);
	gguf_make_raw(m, key, PLX_GGUF_ARR, b.p, b.n);
}

static void put_strings(struct gguf_make *m, const char *key, const char *const *s, uint32_t n)
{
	static uint8_t bytes[512];
	struct gguf_buf b = {bytes, 0};

	for (uint32_t i = 0; i < n; i++)
		gguf_put_str(&b, s[i]);
	put_array(m, key, PLX_GGUF_STR, n, &b);
}

static void put_numbers(struct gguf_make *m, const char *key, uint32_t elem, int n)
{
	static uint8_t bytes[512];
	struct gguf_buf b = {bytes, 0};

	for (int i = 0; i < n; i++)
		gguf_put_u32(&b, elem == PLX_GGUF_F32 ? 0 : i == 3 ? PLX_TOK_T_CONTROL : 1);
	put_array(m, key, elem, (uint32_t)n, &b);
}

static void put_keys(struct gguf_make *m, const struct keys *k)
{
	static const char *const tokens[] = {"a", "b", "ab", "</s>"};
	static const char *const merges[] = {"a b"};
	uint8_t one = 1;

	gguf_make_str(m, "general.architecture", "llama");
	if (k->vocab_size > 0)
		gguf_make_u32(m, "llama.vocab_size", (uint32_t)k->vocab_size);
	if (k->model != NULL)
		gguf_make_str(m, "tokenizer.ggml.model", k->model);
	if (k->pre != NULL)
		gguf_make_str(m, "tokenizer.ggml.pre", k->pre);
	if (k->n_tokens >= 0)
		put_strings(m, "tokenizer.ggml.tokens", tokens,
		            k->n_tokens == 0 ? 4 : (uint32_t)k->n_tokens);
	if (k->merges_i32)
		put_numbers(m, "tokenizer.ggml.merges", PLX_GGUF_I32, 1);
	else
		put_strings(m, "tokenizer.ggml.merges", merges, 1);
	if (k->n_types > 0)
		put_numbers(m, "tokenizer.ggml.token_type", (uint32_t)k->types_elem, k->n_types);
	if (k->n_scores > 0)
		put_numbers(m, "tokenizer.ggml.scores", PLX_GGUF_F32, k->n_scores);
	gguf_make_u32(m, "tokenizer.ggml.eos_token_id", k->eos);
	gguf_make_u32(m, "tokenizer.ggml.padding_token_id", UINT32_MAX);
	if (k->add_bos_type == PLX_GGUF_BOOL)
		gguf_make_raw(m, "tokenizer.ggml.add_bos_token", PLX_GGUF_BOOL, &one, 1);
	else if (k->add_bos_type != 0)
		gguf_make_u32(m, "tokenizer.ggml.add_bos_token", 1);
}

static int open_keys(const struct keys *k, struct plx_tok **t, struct plx_diag *d)
{
	struct gguf_make m;
	struct plx_gguf *g;
	int err;

	gguf_make_init(&m);
	put_keys(&m, k);
	gguf_make_finish(&m);
	*d = (struct plx_diag){{0}};
	if (plx_gguf_open_mem(m.file.p, m.file.n, &g, d))
		fail_msg("%s", d->text);
	err = plx_tok_open(t, g, d);
	plx_gguf_close(g);
	gguf_make_free(&m);
	return err;
}

static void refused(const struct keys *k, int err, const char *text)
{
	struct plx_diag d;
	struct plx_tok *t;

	assert_int_equal(open_keys(k, &t, &d), err);
	assert_null(t);
	if (strstr(d.text, text) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", d.text, text);
}

static void test_open_reads_a_file(void **state)
{
	struct plx_diag d;
	struct plx_tok *t;
	struct plx_tok_scratch *s;
	int32_t ids[8];

	(void)state;
	if (open_keys(&good, &t, &d))
		fail_msg("%s", d.text);
	assert_int_equal(plx_tok_n_vocab(t), 4);
	assert_int_equal(plx_tok_special(t)->eos, 3);
	assert_int_equal(plx_tok_special(t)->bos, PLX_TOK_NONE);
	assert_int_equal(plx_tok_special(t)->pad, PLX_TOK_NONE); /* 2^32 - 1 in the file */
	assert_false(plx_tok_special(t)->add_bos);               /* without a bos there is none */
	assert_true(plx_tok_is_eog(t, 3));
	assert_int_equal(plx_tok_scratch_new(&s, t, 16, NULL), 0);
	assert_int_equal(plx_tok_encode(s, "aab</s>", 7, PLX_TOK_SPECIALS, ids, 8), 3);
	assert_int_equal(ids[0], 0);
	assert_int_equal(ids[1], 2);
	assert_int_equal(ids[2], 3);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
}

static void test_open_refuses_missing_keys(void **state)
{
	struct keys k = good;

	(void)state;
	k.n_tokens = -1;
	refused(&k, PLX_E_FORMAT, "tokenizer.ggml.tokens is missing or empty");
	k = good;
	k.model = NULL;
	refused(&k, PLX_E_UNSUPPORTED, "tokenizer.ggml.model is \"\"; known are");
	k = good;
	k.pre = NULL;
	refused(&k, PLX_E_UNSUPPORTED, "tokenizer.ggml.pre is missing");
	k = good;
	k.model = "llama";
	refused(&k, PLX_E_FORMAT, "tokenizer.ggml.scores is missing");
}

static void test_open_refuses_wrong_lengths(void **state)
{
	struct keys k = good;

	(void)state;
	k.n_types = 3;
	refused(&k, PLX_E_FORMAT,
	        "tokenizer.ggml.token_type has 3 entries, but tokenizer.ggml.tokens has 4");
	k = good;
	k.n_scores = 5;
	refused(&k, PLX_E_FORMAT, "tokenizer.ggml.scores has 5 entries");
	k = good;
	k.vocab_size = 5;
	refused(&k, PLX_E_FORMAT, "has 4 entries, but the model's vocab_size is 5");
	k = good;
	k.n_tokens = 2;
	k.n_types = 2;
	k.vocab_size = 0;
	k.eos = 1;
	refused(&k, PLX_E_FORMAT, "merges[0] makes \"ab\", which tokenizer.ggml.tokens does not");
	k = good;
	k.eos = 4;
	refused(&k, PLX_E_FORMAT, "tokenizer.ggml.eos_token_id is 4, but the ids are 0 to 3");
}

static void test_open_refuses_wrong_types(void **state)
{
	struct keys k = good;

	(void)state;
	k.types_elem = PLX_GGUF_U32;
	refused(&k, PLX_E_FORMAT, "tokenizer.ggml.token_type");
	k = good;
	k.merges_i32 = true;
	refused(&k, PLX_E_FORMAT, "tokenizer.ggml.merges");
	k = good;
	k.add_bos_type = PLX_GGUF_U32;
	refused(&k, PLX_E_FORMAT, "tokenizer.ggml.add_bos_token");
	k = good;
	k.pre = "a name that is longer than any pre-tokenizer's name could ever sensibly be";
	refused(&k, PLX_E_UNSUPPORTED, "which is not known");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_open_reads_a_file),
	    cmocka_unit_test(test_open_refuses_missing_keys),
	    cmocka_unit_test(test_open_refuses_wrong_lengths),
	    cmocka_unit_test(test_open_refuses_wrong_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
