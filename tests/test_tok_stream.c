/* Ids back to text: whole characters, hidden control tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/mini_vocab.h"
#include "tests/lib/tok_golden.h"

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
	struct plx_tok *t = plx_mini_build(&g.src);

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
	struct plx_mini m;
	struct plx_tok_stream st;
	char out[64];
	uint32_t len;

	(void)state;
	plx_mini_init(&m);
	struct plx_tok *t = plx_mini_build(&m.src);

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stream_gives_whole_characters),
	    cmocka_unit_test(test_stream_hides_control),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
