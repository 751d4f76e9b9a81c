/* What the tokenizer refuses, its flags and spans, bounds of work, and streams of text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "accel/model/tokenizer.h"
#include "tests/lib/tok_golden.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

/* ---- a vocabulary small enough to reason about ---- */

enum { A, B, C, SP, AB, ABC, SP_AB, CTRL, CTRL_LONG, USER, N_MINI };

struct mini {
	struct plx_tok_str tokens[N_MINI];
	struct plx_tok_str merges[3];
	int32_t types[N_MINI];
	struct plx_tok_source src;
};

static struct plx_tok_str str(const char *s)
{
	return (struct plx_tok_str){s, strlen(s)};
}

static void mini_init(struct mini *m)
{
	static const char *const tokens[N_MINI] = {"a",
	                                           "b",
	                                           "c",
	                                           "\xc4\xa0",
	                                           "ab",
	                                           "abc",
	                                           "\xc4\xa0"
	                                           "ab",
	                                           "<x>",
	                                           "<x>>",
	                                           "<tag>"};
	static const char *const merges[3] = {"a b", "ab c", "\xc4\xa0 ab"};

	for (int i = 0; i < N_MINI; i++) {
		m->tokens[i] = str(tokens[i]);
		m->types[i] = PLX_TOK_T_NORMAL;
	}
	for (int i = 0; i < 3; i++)
		m->merges[i] = str(merges[i]);
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

static struct plx_tok *build(const struct plx_tok_source *src)
{
	struct plx_diag d = {0};
	struct plx_tok *t;

	if (plx_tok_build(&t, src, &d))
		fail_msg("%s", d.text);
	return t;
}

static struct plx_tok_scratch *scratch(const struct plx_tok *t, uint32_t max_text)
{
	struct plx_tok_scratch *s;

	assert_int_equal(plx_tok_scratch_new(&s, t, max_text, NULL), 0);
	return s;
}

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

/* ---- refusals ---- */

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
	struct mini m;

	(void)state;
	mini_init(&m);
	m.src.model = "bert";
	refused(&m.src, PLX_E_UNSUPPORTED, "\"bert\"; known are gpt2");
	m.src.model = NULL;
	refused(&m.src, PLX_E_UNSUPPORTED, "known are gpt2");
	mini_init(&m);
	m.src.pre = "deepseek-llm";
	refused(&m.src, PLX_E_UNSUPPORTED,
	        "\"deepseek-llm\"; known are gpt-2, smollm, llama-bpe, qwen2");
	m.src.pre = NULL;
	refused(&m.src, PLX_E_UNSUPPORTED, "tokenizer.ggml.pre is missing");
}

static void test_tokenizer_refuses_bad_tokens(void **state)
{
	struct mini m;

	(void)state;
	mini_init(&m);
	m.tokens[C] = str("a");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] \"a\" is the same as [0]");
	m.tokens[C] = str("");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] has 0 bytes");
	m.tokens[C] = str("a c");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] \"a c\" is normal text, but");
	m.tokens[C] = str("\xff\x01");
	refused(&m.src, PLX_E_FORMAT, "tokens[2] \"\\xff\\x01\" is normal text, but");
	mini_init(&m);
	m.types[B] = 7;
	refused(&m.src, PLX_E_FORMAT, "token_type[1] is 7");
	mini_init(&m);
	m.src.n_vocab = 49152;
	refused(&m.src, PLX_E_FORMAT, "has 10 entries, but the model's vocab_size is 49152");
	m.src.n_vocab = 0;
	m.src.n_tokens = 0;
	refused(&m.src, PLX_E_FORMAT, "tokens has 0 entries");
}

static void test_tokenizer_refuses_long_tokens(void **state)
{
	static char many[2 * PLX_TOK_MAX_PIECE + 1];
	struct mini m;

	(void)state;
	memset(many, 'q', sizeof(many));
	mini_init(&m);
	m.tokens[USER] = (struct plx_tok_str){many, sizeof(many)};
	refused(&m.src, PLX_E_FORMAT, "tokens[9] has 2049 bytes");
	m.tokens[USER].len = PLX_TOK_MAX_PIECE + 1;
	refused(&m.src, PLX_E_FORMAT, "tokens[9] stands for 1025 bytes");
	m.tokens[USER].len = PLX_TOK_MAX_PIECE;
	plx_tok_free(build(&m.src));
}

static void test_tokenizer_refuses_bad_merges(void **state)
{
	struct mini m;

	(void)state;
	mini_init(&m);
	m.merges[1] = str("ab q");
	refused(&m.src, PLX_E_FORMAT,
	        "merges[1] names \"q\", which tokenizer.ggml.tokens does not");
	m.merges[1] = str("b c");
	refused(&m.src, PLX_E_FORMAT,
	        "merges[1] makes \"bc\", which tokenizer.ggml.tokens does not");
	m.merges[1] = str("a b");
	refused(&m.src, PLX_E_FORMAT, "merges[1] \"a b\" occurs twice");
	m.merges[1] = str("abc");
	refused(&m.src, PLX_E_FORMAT, "merges[1] is \"abc\", not two tokens");
	m.merges[1] = str("a b c");
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.merges[1] = str(" ab");
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.merges[1] = str("ab ");
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.merges[1] = (struct plx_tok_str){NULL, 0};
	refused(&m.src, PLX_E_FORMAT, "not two tokens");
	m.src.n_merges = 0;
	refused(&m.src, PLX_E_FORMAT, "merges is missing or empty");
}

static void test_tokenizer_never_merges_into_control(void **state)
{
	struct mini m;

	(void)state;
	mini_init(&m);
	m.types[ABC] = PLX_TOK_T_CONTROL;
	refused(&m.src, PLX_E_FORMAT, "merges[1] makes \"abc\", a special token (type 3)");
	m.types[ABC] = PLX_TOK_T_NORMAL;
	m.types[AB] = PLX_TOK_T_UNUSED;
	refused(&m.src, PLX_E_FORMAT, "merges[0] makes \"ab\", a special token (type 5)");
}

static void test_tokenizer_refuses_ids_out_of_range(void **state)
{
	struct mini m;

	(void)state;
	mini_init(&m);
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

/* ---- flags and spans ---- */

static void test_tokenizer_merges_by_rank(void **state)
{
	struct mini m;

	(void)state;
	mini_init(&m);
	struct plx_tok *t = build(&m.src);
	struct plx_tok_scratch *s = scratch(t, 100);

	EXPECT(s, "abc", 0, ABC);
	EXPECT(s, " ab", 0, SP_AB);
	EXPECT(s, " abc", 0, SP, ABC); /* "ab c" comes before "_ ab" */
	EXPECT(s, "aabbc", 0, A, AB, B, C);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
}

static void test_tokenizer_matches_specials_only_when_asked(void **state)
{
	struct mini m;

	(void)state;
	mini_init(&m);
	struct plx_tok *t = build(&m.src);
	struct plx_tok_scratch *s = scratch(t, 100);

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
	struct mini m;

	(void)state;
	mini_init(&m);
	struct plx_tok *t = build(&m.src);
	struct plx_tok_scratch *s = scratch(t, 100);

	EXPECT(s, "ab", PLX_TOK_BOS | PLX_TOK_EOS, CTRL, AB, CTRL_LONG);
	EXPECT(s, "<x>ab", PLX_TOK_BOS | PLX_TOK_SPECIALS, CTRL, AB);
	EXPECT(s, "<x>ab", PLX_TOK_BOS, CTRL, AB); /* as text, "<x>" is dropped here */
	EXPECT(s, "", PLX_TOK_BOS | PLX_TOK_EOS, CTRL, CTRL_LONG);
	plx_tok_scratch_free(s);
	plx_tok_free(t);
	m.src.add_bos = -1; /* gpt-2 doesn't add one by itself */
	m.src.add_eos = -1;
	t = build(&m.src);
	s = scratch(t, 100);
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
	struct mini m;
	int32_t ids[16];

	(void)state;
	mini_init(&m);
	struct plx_tok *t = build(&m.src);
	struct plx_tok_scratch *s = scratch(t, 100);

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
	struct plx_tok *t = build(&g.src);
	struct plx_tok_scratch *s = scratch(t, 100);
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
	struct mini m;
	int32_t ids[4];
	struct plx_diag d = {0};
	struct plx_tok_scratch *none;

	(void)state;
	mini_init(&m);
	struct plx_tok *t = build(&m.src);
	struct plx_tok_scratch *s = scratch(t, 8);

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

/* ---- SentencePiece's space ---- */

static void test_tokenizer_prefix_and_strip(void **state)
{
	struct tok_golden g;
	int32_t with[8], without[8];
	struct plx_tok_stream st;
	char text[256] = "";
	uint32_t len = 0;

	(void)state;
	assert_int_equal(tok_golden_read(&g, "tests/golden/tokenizer/spm.txt"), 0);
	struct plx_tok *t = build(&g.src);
	struct plx_tok_scratch *s = scratch(t, 100);
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

/* ---- round trips, budgets, work ---- */

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
	struct plx_tok *t = build(&g.src);
	struct plx_tok_scratch *s = scratch(t, sizeof(text));

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
		struct plx_tok *t = build(&g.src);
		struct plx_tok_scratch *s = scratch(t, len);

		for (size_t p = 0; p < N(patterns); p++)
			assert_in_range(work_for(s, text, len, patterns[p], ids), 1, 20 * len);
		plx_tok_scratch_free(s);
		plx_tok_free(t);
		tok_golden_free(&g);
	}
	free(text);
	free(ids);
}

/* ---- streams ---- */

/* Pushes single-byte tokens and compares all that comes out. */
static void stream_gives(const struct plx_tok *t, const char *bytes, const char *want,
                         const char *want_flush)
{
	struct plx_tok_stream st;
	uint32_t cap = plx_tok_stream_max(t);
	char *out = malloc(cap);
	char all[256];
	size_t n = 0;

	plx_tok_stream_init(&st, t, 0);
	for (const char *b = bytes; *b != '\0'; b++) {
		int32_t id = -1;

		for (int32_t i = 0; i < 256; i++) {
			uint32_t len;
			const uint8_t *p = plx_tok_piece(t, i, &len);

			if (len == 1 && p[0] == (uint8_t)*b)
				id = i;
		}
		int got = plx_tok_stream_push(&st, id, out, cap);

		assert_true(got >= 0);
		memcpy(all + n, out, (size_t)got);
		n += (size_t)got;
	}
	all[n] = '\0';
	assert_string_equal(all, want);
	int got = plx_tok_stream_flush(&st, out, cap);

	assert_int_equal(got, strlen(want_flush));
	assert_memory_equal(out, want_flush, (size_t)got);
	assert_int_equal(plx_tok_stream_flush(&st, out, cap), 0);
	free(out);
}

#define FFFD "\xef\xbf\xbd"

/* Expectations are bytes.decode("utf-8", "replace") of Python 3.11. */
static void test_stream_gives_whole_characters(void **state)
{
	struct tok_golden g;

	(void)state;
	assert_int_equal(tok_golden_read(&g, "tests/golden/tokenizer/gpt-2.txt"), 0);
	struct plx_tok *t = build(&g.src);

	stream_gives(t, "abc", "abc", "");
	stream_gives(t, "\xe2\x82\xac", "\xe2\x82\xac", "");
	stream_gives(t, "\xe2\x82", "", FFFD);
	stream_gives(t, "\xe2\x82z", FFFD "z", "");
	stream_gives(t, "\xe2\xe2\x82\xac", FFFD "\xe2\x82\xac", "");
	stream_gives(t, "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80", "");
	stream_gives(t, "\xf0\x9f\x98", "", FFFD);
	stream_gives(t, "\xf0\x80\x80", FFFD FFFD FFFD, "");
	stream_gives(t, "\xed\xa0\x80x", FFFD FFFD FFFD "x", "");
	stream_gives(t, "\x80\xff", FFFD FFFD, "");
	stream_gives(t, "\xc0\xaf", FFFD FFFD, "");
	stream_gives(t, "\xf4\x90", FFFD FFFD, "");
	plx_tok_free(t);
	tok_golden_free(&g);
}

static void test_stream_hides_control(void **state)
{
	struct mini m;
	struct plx_tok_stream st;
	char out[64];
	uint32_t len;

	(void)state;
	mini_init(&m);
	struct plx_tok *t = build(&m.src);

	assert_true(plx_tok_stream_max(t) <= sizeof(out));
	plx_tok_stream_init(&st, t, 0);
	assert_int_equal(plx_tok_stream_push(&st, CTRL, out, sizeof(out)), 0);
	assert_int_equal(plx_tok_stream_push(&st, USER, out, sizeof(out)), 5);
	assert_memory_equal(out, "<tag>", 5);
	assert_int_equal(plx_tok_stream_push(&st, SP_AB, out, sizeof(out)), 3);
	assert_memory_equal(out, " ab", 3); /* byte-level text keeps its space */
	plx_tok_stream_init(&st, t, PLX_TOK_SHOW_CONTROL);
	assert_int_equal(plx_tok_stream_push(&st, CTRL, out, sizeof(out)), 3);
	assert_int_equal(plx_tok_stream_push(&st, N_MINI, out, sizeof(out)), PLX_E_INVAL);
	assert_int_equal(plx_tok_stream_push(&st, -1, out, sizeof(out)), PLX_E_INVAL);
	assert_int_equal(plx_tok_stream_push(&st, A, out, 1), PLX_E_INVAL);
	assert_null(plx_tok_piece(t, N_MINI, &len));
	assert_int_equal(plx_tok_type(t, CTRL), PLX_TOK_T_CONTROL);
	assert_int_equal(plx_tok_type(t, N_MINI), 0);
	assert_int_equal(plx_tok_find(t, "<x>>", 4), CTRL_LONG);
	assert_int_equal(plx_tok_find(t, "<x>>>", 5), PLX_TOK_NONE);
	assert_int_equal(plx_tok_find(t, "ab", 2), PLX_TOK_NONE);
	plx_tok_free(t);
}

static void test_tokenizer_knows_ends_of_generation(void **state)
{
	struct mini m;
	const int32_t *ids;

	(void)state;
	mini_init(&m);
	m.tokens[USER] = str("</s>"); /* added, not control: ordinary text */
	m.tokens[CTRL] = str("<|eot_id|>");
	struct plx_tok *t = build(&m.src);

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
	    cmocka_unit_test(test_tokenizer_names_unknown_kinds),
	    cmocka_unit_test(test_tokenizer_refuses_bad_tokens),
	    cmocka_unit_test(test_tokenizer_refuses_long_tokens),
	    cmocka_unit_test(test_tokenizer_refuses_bad_merges),
	    cmocka_unit_test(test_tokenizer_never_merges_into_control),
	    cmocka_unit_test(test_tokenizer_refuses_ids_out_of_range),
	    cmocka_unit_test(test_tokenizer_refuses_bad_sentencepiece),
	    cmocka_unit_test(test_tokenizer_merges_by_rank),
	    cmocka_unit_test(test_tokenizer_matches_specials_only_when_asked),
	    cmocka_unit_test(test_tokenizer_adds_bos_once_and_eos),
	    cmocka_unit_test(test_tokenizer_spans_hide_specials),
	    cmocka_unit_test(test_tokenizer_spans_leave_seamless_text_alone),
	    cmocka_unit_test(test_tokenizer_limits_are_errors),
	    cmocka_unit_test(test_tokenizer_prefix_and_strip),
	    cmocka_unit_test(test_tokenizer_round_trips),
	    cmocka_unit_test(test_tokenizer_work_is_linear),
	    cmocka_unit_test(test_stream_gives_whole_characters),
	    cmocka_unit_test(test_stream_hides_control),
	    cmocka_unit_test(test_tokenizer_knows_ends_of_generation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
