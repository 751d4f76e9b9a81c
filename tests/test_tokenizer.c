/* What the tokenizer refuses, its flags and spans, bounds of work, and streams of text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/mini_vocab.h"
#include "tests/lib/tok_golden.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

static void expect_ids(struct plx_tok_scratch *s, const char *text, uint32_t flags, int n,
                       const int32_t *want)
{
	int32_t ids[64];

	assert_int_equal(plx_tok_encode(s, text, (uint32_t)strlen(text), flags, ids, 64), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(ids[i], want[i]);
}

#define EXPECT(s, text, flags, ...)                                                                \
	expect_ids(s, text, flags, (int)N(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

static void test_tokenizer_merges_by_rank(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	struct plx_tok *t = plx_mini_build(&m.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, 100);

	EXPECT(s, "abc", 0, ABC);
	EXPECT(s, " ab", 0, SP_AB);
	EXPECT(s, " abc", 0, SP, ABC); /* "ab c" comes before "_ ab" */
	EXPECT(s, "aabbc", 0, A, AB, B, C);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
}

static void test_tokenizer_matches_specials_only_when_asked(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	struct plx_tok *t = plx_mini_build(&m.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, 100);

	EXPECT(s, "a<x>b<tag>c", PLX_TOK_SPECIALS, A, CTRL, B, USER, C);
	EXPECT(s, "<x>><x>", PLX_TOK_SPECIALS, CTRL_LONG, CTRL);
	EXPECT(s, "a<x>b<tag>c", 0, A, B, A, C); /* what has no token is dropped: < x > t g */
	assert_int_equal(plx_tok_dropped(s), 7);
	EXPECT(s, "a<x>b<tag>c", PLX_TOK_CONTROL, A, CTRL, B, A, C);
	EXPECT(s, "a<x>b<tag>c", PLX_TOK_ADDED, A, B, USER, C);
	assert_int_equal(plx_tok_dropped(s), 3);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
}

static void test_tokenizer_adds_bos_once_and_eos(void **state)
{
	struct plx_mini m;

	(void)state;
	plx_mini_init(&m);
	struct plx_tok *t = plx_mini_build(&m.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, 100);

	EXPECT(s, "ab", PLX_TOK_BOS | PLX_TOK_EOS, CTRL, AB, CTRL_LONG);
	EXPECT(s, "<x>ab", PLX_TOK_BOS | PLX_TOK_SPECIALS, CTRL, AB);
	EXPECT(s, "<x>ab", PLX_TOK_BOS, CTRL, AB); /* as text, "<x>" is dropped here */
	EXPECT(s, "", PLX_TOK_BOS | PLX_TOK_EOS, CTRL, CTRL_LONG);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
	m.src.add_bos = -1; /* gpt-2 doesn't add one by itself */
	m.src.add_eos = -1;
	t = plx_mini_build(&m.src);
	s = plx_mini_scratch(t, 100);
	EXPECT(s, "ab", PLX_TOK_BOS | PLX_TOK_EOS, AB);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
}

static int with_spans(struct plx_tok_scratch *s, const char *text, const struct plx_tok_span *span,
                      uint32_t n_span, int32_t *ids, uint32_t max_ids)
{
	struct plx_tok_job job = {.text = text,
	                          .len = (uint32_t)strlen(text),
	                          .flags = PLX_TOK_SPECIALS,
	                          .span = span,
	                          .n_span = n_span,
	                          .ids = ids,
	                          .max_ids = max_ids};
	int err = plx_tok_begin(s, &job);

	return err ? err : plx_tok_step(s, UINT32_MAX);
}

static void test_tokenizer_spans_hide_specials(void **state)
{
	static const int32_t want[] = {CTRL, AB, CTRL, A, B};
	struct plx_tok_span inside = {3, 5}; /* "ab<x>" of "<x>ab<x><x>ab" */
	struct plx_tok_span cut = {10, 1};   /* the middle of the third token */
	struct plx_mini m;
	int32_t ids[16];

	(void)state;
	plx_mini_init(&m);
	struct plx_tok *t = plx_mini_build(&m.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, 100);

	assert_int_equal(with_spans(s, "<x>ab<x><x>a<>b", &inside, 1, ids, 16), 5);
	assert_memory_equal(ids, want, sizeof(want));
	assert_int_equal(with_spans(s, "<x>abbbb<x>a", &cut, 1, ids, 16), 6);
	assert_int_equal(ids[0], CTRL);
	assert_int_equal(ids[5], A);
	inside.len = 13; /* one more than there is */
	assert_int_equal(with_spans(s, "<x>ab<x><x>a<>b", &inside, 1, ids, 16), PLX_E_INVAL);
	struct plx_tok_span back[2] = {{3, 2}, {4, 2}};

	assert_int_equal(with_spans(s, "<x>ab<x><x>a<>b", back, 2, ids, 16), PLX_E_INVAL);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
}

/* Words go across the seam of template and content, as they did in training. */
static void test_tokenizer_spans_leave_seamless_text_alone(void **state)
{
	static const char text[] = "<|im_start|>user\n\nWhat's this?<|im_end|>\n";
	struct plx_tok_span span = {17, 13}; /* "\nWhat's this?" */
	struct tok_golden g;
	int32_t a[64], b[64];

	(void)state;
	assert_int_equal(tok_golden_read(&g, "tests/golden/tokenizer/llama-bpe.txt"), 0);
	struct plx_tok *t = plx_mini_build(&g.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, 100);
	int n = plx_tok_encode(s, text, sizeof(text) - 1, PLX_TOK_SPECIALS, a, 64);

	assert_true(n > 5);
	assert_int_equal(with_spans(s, text, &span, 1, b, 64), n);
	assert_memory_equal(a, b, (size_t)n * 4);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
	tok_golden_free(&g);
}

static void test_tokenizer_limits_are_errors(void **state)
{
	struct plx_mini m;
	int32_t ids[4];
	struct plx_diag d = {0};
	struct plx_tok_scratch *none;

	(void)state;
	plx_mini_init(&m);
	struct plx_tok *t = plx_mini_build(&m.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, 8);

	assert_int_equal(plx_tok_encode(s, "abcabcabc", 9, 0, ids, 4), PLX_E_TOO_LARGE);
	assert_int_equal(plx_tok_encode(s, "bbbb", 4, 0, ids, 3), PLX_E_TOO_LARGE);
	assert_int_equal(plx_tok_step(s, 10), PLX_E_INVAL); /* it is over */
	assert_int_equal(plx_tok_encode(s, "bbbb", 4, 0, ids, 4), 4);
	assert_int_equal(plx_tok_step(s, 10), PLX_E_INVAL);
	assert_int_equal(plx_tok_encode(s, NULL, 0, 0, ids, 4), 0);
	assert_int_equal(plx_tok_scratch_new(&none, t, 0, &d), PLX_E_INVAL);
	assert_null(none);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
}

static void test_tokenizer_prefix_and_strip(void **state)
{
	struct tok_golden g;
	int32_t with[8], without[8];
	struct plx_tok_stream st;
	char text[256] = "";
	uint32_t len = 0;

	(void)state;
	assert_int_equal(tok_golden_read(&g, "tests/golden/tokenizer/spm.txt"), 0);
	struct plx_tok *t = plx_mini_build(&g.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, 100);
	char *out = malloc(plx_tok_stream_max(t));
	int n = plx_tok_encode(s, "The", 3, 0, with, 8);

	assert_int_equal(plx_tok_encode(s, "\xe2\x96\x81The", 6, PLX_TOK_NO_PREFIX, without, 8), n);
	assert_memory_equal(with, without, (size_t)n * 4);
	plx_tok_stream_init(&st, t, 0);
	for (int i = 0; i < n; i++) {
		int got = plx_tok_stream_push(&st, with[i], out, plx_tok_stream_max(t));

		assert_true(got >= 0);
		memcpy(text + len, out, (size_t)got);
		len += (uint32_t)got;
	}
	assert_string_equal(text, "The");
	plx_tok_stream_init(&st, t, PLX_TOK_KEEP_SPACE);
	assert_true(plx_tok_stream_push(&st, with[0], out, plx_tok_stream_max(t)) > 0);
	assert_int_equal(out[0], ' ');
	free(out);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
	tok_golden_free(&g);
}

static uint64_t rng_state = 1;

static uint32_t rng(uint32_t below)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(((rng_state >> 33) * below) >> 31);
}

/* Bytes that are sometimes text and sometimes not. */
static uint32_t random_text(uint8_t *out, uint32_t max)
{
	static const char *const bits[] = {
	    " ",        "\n",           "'s",       "12",
	    "\xc3\xa9", "\xe4\xbd\xa0", "\xcc\x81", "\xf0\x9f\x98\x80",
	    "The",      " time",        "<tool>",   "<|im_end|>",
	    "\r\n",     "\xe2\x82",     "\xff",     "aaaaaaaa"};
	uint32_t n = 0;

	while (n + 16 < max && rng(50) != 0) {
		const char *b = bits[rng(N(bits))];

		if (rng(3) == 0) {
			out[n++] = (uint8_t)rng(256);
			continue;
		}
		memcpy(out + n, b, strlen(b));
		n += (uint32_t)strlen(b);
	}
	return n;
}

static void same_at_any_budget(struct plx_tok_scratch *s, const uint8_t *text, uint32_t len,
                               const int32_t *want, int n)
{
	static int32_t ids[8192];
	struct plx_tok_job job = {
	    .text = text, .len = len, .flags = PLX_TOK_SPECIALS, .ids = ids, .max_ids = 8192};
	int got;

	assert_int_equal(plx_tok_begin(s, &job), 0);
	while ((got = plx_tok_step(s, 1 + rng(40))) == PLX_E_AGAIN)
		;
	assert_int_equal(got, n);
	assert_memory_equal(ids, want, (size_t)n * 4);
}

static void round_trip(const char *path, bool strip)
{
	static uint8_t text[1024], back[4096];
	static int32_t ids[8192];
	struct tok_golden g;

	assert_int_equal(tok_golden_read(&g, path), 0);
	struct plx_tok *t = plx_mini_build(&g.src);
	struct plx_tok_scratch *s = plx_mini_scratch(t, sizeof(text));

	for (int round = 0; round < 1000; round++) {
		uint32_t len = random_text(text, sizeof(text));
		int n = plx_tok_encode(s, text, len, PLX_TOK_SPECIALS, ids, 8192);
		uint32_t n_back = 0;

		assert_true(n >= 0);
		for (int i = 0; i < n; i++) {
			uint32_t n_piece;
			const uint8_t *p = plx_tok_piece(t, ids[i], &n_piece);

			assert_non_null(p);
			assert_true(n_back + n_piece <= sizeof(back));
			memcpy(back + n_back, p, n_piece);
			n_back += n_piece;
		}
		uint32_t skip = strip && n_back > 0;

		assert_int_equal(n_back, len + skip);
		assert_memory_equal(back + skip, text, len);
		same_at_any_budget(s, text, len, ids, n);
		n = plx_tok_encode(s, text, len, PLX_TOK_ADDED, ids, 8192);
		for (int i = 0; i < n; i++) /* what a user writes never becomes control */
			assert_int_not_equal(plx_tok_type(t, ids[i]), PLX_TOK_T_CONTROL);
	}
	plx_tok_scratch_free(s);
	plx_tok_free(t);
	tok_golden_free(&g);
}

static void test_tokenizer_round_trips(void **state)
{
	(void)state;
	round_trip("tests/golden/tokenizer/gpt-2.txt", false);
	round_trip("tests/golden/tokenizer/llama-bpe.txt", false);
	round_trip("tests/golden/tokenizer/spm.txt", true);
	round_trip("tests/golden/tokenizer/spm-noprefix.txt", false);
}

/* Units of work for len bytes that repeat pattern, as one word or many. */
static uint64_t work_for(struct plx_tok_scratch *s, uint8_t *text, uint32_t len,
                         const char *pattern, int32_t *ids)
{
	size_t n = strlen(pattern);
	struct plx_tok_job job = {
	    .text = text, .len = len, .flags = PLX_TOK_SPECIALS, .ids = ids, .max_ids = 3 * len};
	uint64_t steps = 1;
	int got;

	for (uint32_t i = 0; i < len; i++)
		text[i] = (uint8_t)pattern[i % n];
	assert_int_equal(plx_tok_begin(s, &job), 0);
	while ((got = plx_tok_step(s, PLX_TOK_STEP_DEFAULT)) == PLX_E_AGAIN)
		steps++;
	assert_true(got > 0);
	return steps * PLX_TOK_STEP_DEFAULT;
}

/* A step overshoots by at most one operation, so units bound the time. */
static void test_tokenizer_work_is_linear(void **state)
{
	static const char *const patterns[] = {"a",
	                                       "ab",
	                                       "the",
	                                       "<",
	                                       "<|im_star",
	                                       "\n",
	                                       " ",
	                                       " \n",
	                                       "1",
	                                       "'",
	                                       "\xcc\x81\xcc\xa3",
	                                       "\xe4\xbd\xa0",
	                                       "\xff",
	                                       "e\xcc\x81",
	                                       "the \xf0\x9f\x98\x80"};
	static const char *const files[] = {"smollm", "llama-bpe", "qwen2", "spm", "spm-phrases"};
	const uint32_t len = 200000;
	uint8_t *text = malloc(len);
	int32_t *ids = malloc((size_t)len * 12);

	(void)state;
	for (size_t f = 0; f < N(files); f++) {
		struct tok_golden g;
		char path[128];

		snprintf(path, sizeof(path), "tests/golden/tokenizer/%s.txt", files[f]);
		assert_int_equal(tok_golden_read(&g, path), 0);
		struct plx_tok *t = plx_mini_build(&g.src);
		struct plx_tok_scratch *s = plx_mini_scratch(t, len);

		for (size_t p = 0; p < N(patterns); p++)
			assert_in_range(work_for(s, text, len, patterns[p], ids), 1, 20 * len);
		plx_tok_scratch_free(s);
		plx_tok_free(t);
		tok_golden_free(&g);
	}
	free(text);
	free(ids);
}

static void test_tokenizer_knows_ends_of_generation(void **state)
{
	struct plx_mini m;
	const int32_t *ids;

	(void)state;
	plx_mini_init(&m);
	m.tokens[USER] = plx_mini_str("</s>"); /* added, not control: ordinary text */
	m.tokens[CTRL] = plx_mini_str("<|eot_id|>");
	struct plx_tok *t = plx_mini_build(&m.src);

	assert_int_equal(plx_tok_special(t)->eot, CTRL);
	assert_int_equal(plx_tok_eog(t, &ids), 2);
	assert_int_equal(ids[0], CTRL);
	assert_int_equal(ids[1], CTRL_LONG);
	assert_true(plx_tok_is_eog(t, CTRL));
	assert_false(plx_tok_is_eog(t, USER));
	assert_false(plx_tok_is_eog(t, -1));
	assert_false(plx_tok_is_eog(t, N_MINI));
	plx_tok_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tokenizer_merges_by_rank),
	    cmocka_unit_test(test_tokenizer_matches_specials_only_when_asked),
	    cmocka_unit_test(test_tokenizer_adds_bos_once_and_eos),
	    cmocka_unit_test(test_tokenizer_spans_hide_specials),
	    cmocka_unit_test(test_tokenizer_spans_leave_seamless_text_alone),
	    cmocka_unit_test(test_tokenizer_limits_are_errors),
	    cmocka_unit_test(test_tokenizer_prefix_and_strip),
	    cmocka_unit_test(test_tokenizer_round_trips),
	    cmocka_unit_test(test_tokenizer_work_is_linear),
	    cmocka_unit_test(test_tokenizer_knows_ends_of_generation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
