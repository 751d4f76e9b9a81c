/* Stop strings: literal cases, and a property test against the naive search. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "accel/model/stop.h"
#include "fw/base/err.h"

static void add(struct plx_stop *s, const char *text)
{
	assert_int_equal(plx_stop_add(s, text, (uint32_t)strlen(text)), 0);
}

/* Feeds in, expects out to be released and held bytes to wait. */
static void feed(struct plx_stop *s, const char *in, const char *out, uint32_t held)
{
	char got[256] = "";
	uint32_t n = plx_stop_feed(s, in, (uint32_t)strlen(in), got);

	assert_int_equal(n, strlen(out));
	assert_string_equal(got, out);
	assert_int_equal(s->n_held, held);
}

static void test_stop_without_strings_holds_nothing(void **state)
{
	struct plx_stop s;

	(void)state;
	plx_stop_init(&s);
	feed(&s, "anything", "anything", 0);
	assert_int_equal(s.hit, -1);
	assert_int_equal(plx_stop_flush(&s, NULL), 0);
}

static void test_stop_holds_beginnings(void **state)
{
	struct plx_stop s;
	char out[8] = "";

	(void)state;
	plx_stop_init(&s);
	add(&s, "\nUser:");
	feed(&s, "hello\n", "hello", 1);
	feed(&s, "Us", "", 3);
	feed(&s, "\nUse", "\nUs", 4);
	feed(&s, "d", "\nUsed", 0);
	feed(&s, "\n\nUs", "\n", 3);
	assert_int_equal(plx_stop_flush(&s, out), 3);
	assert_string_equal(out, "\nUs");
	assert_int_equal(s.hit, -1);
}

static void test_stop_cuts_at_the_match(void **state)
{
	struct plx_stop s;

	(void)state;
	plx_stop_init(&s);
	add(&s, "END");
	add(&s, "###");
	feed(&s, "ab##", "ab", 2);
	feed(&s, "E", "##", 1);
	feed(&s, "N###D", "EN", 3);
	assert_int_equal(s.hit, 1);
	assert_int_equal(s.hit_off, 6);
	feed(&s, "more", "", 3);
	assert_int_equal(plx_stop_flush(&s, NULL), 0);
}

static void test_stop_takes_longest_of_those_that_end_together(void **state)
{
	struct plx_stop s;

	(void)state;
	plx_stop_init(&s);
	add(&s, "bc");
	add(&s, "abc");
	add(&s, "zabcq");
	feed(&s, "xabc", "x", 3);
	assert_int_equal(s.hit, 1);
	assert_int_equal(s.hit_off, 1);
}

static void test_stop_refuses(void **state)
{
	static const char many[PLX_STOP_BYTES + 1] = "x";
	struct plx_stop s;

	(void)state;
	plx_stop_init(&s);
	assert_int_equal(plx_stop_add(&s, "", 0), PLX_E_INVAL);
	assert_int_equal(plx_stop_add(&s, many, sizeof(many)), PLX_E_TOO_LARGE);
	for (int i = 0; i < PLX_STOP_MAX; i++)
		assert_int_equal(plx_stop_add(&s, many, PLX_STOP_BYTES), 0);
	assert_int_equal(plx_stop_add(&s, "x", 1), PLX_E_LIMIT);
	plx_stop_init(&s);
	feed(&s, "a", "a", 0);
	assert_int_equal(plx_stop_add(&s, "x", 1), PLX_E_INVAL);
}

/* ---- against the naive search ---- */

static uint64_t rng_state = 7;

static uint32_t rng(uint32_t below)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(((rng_state >> 33) * below) >> 31);
}

static void random_word(uint8_t *out, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		out[i] = (uint8_t)('a' + rng(2 + rng(2)));
}

/* First end at which a string matches; the longest there. Returns its index or -1. */
static int naive(const struct plx_stop *s, const uint8_t *text, uint32_t n, uint32_t *off)
{
	for (uint32_t end = 1; end <= n; end++) {
		int best = -1;

		for (uint32_t i = 0; i < s->n; i++) {
			uint32_t len = s->len[i];

			if (len <= end && memcmp(text + end - len, s->text[i], len) == 0 &&
			    (best < 0 || len > s->len[best]))
				best = (int)i;
		}
		if (best >= 0) {
			*off = end - s->len[best];
			return best;
		}
	}
	return -1;
}

/* Longest end of text that begins a stop string. */
static uint32_t naive_held(const struct plx_stop *s, const uint8_t *text, uint32_t n)
{
	for (uint32_t h = n; h > 0; h--)
		for (uint32_t i = 0; i < s->n; i++)
			if (h < s->len[i] && memcmp(text + n - h, s->text[i], h) == 0)
				return h;
	return 0;
}

static void one_round(void)
{
	uint8_t text[64], word[8], out[128];
	uint32_t n = rng(sizeof(text));
	uint32_t n_out = 0, off = 0;
	struct plx_stop s;

	plx_stop_init(&s);
	for (uint32_t k = rng(5); k > 0; k--) {
		uint32_t len = 1 + rng(6);

		random_word(word, len);
		assert_int_equal(plx_stop_add(&s, word, len), 0);
	}
	random_word(text, n);
	int want = naive(&s, text, n, &off);

	for (uint32_t i = 0; i < n;) {
		uint32_t part = 1 + rng(n - i);

		n_out += plx_stop_feed(&s, text + i, part, out + n_out);
		i += part;
		if (s.hit >= 0)
			break;
		/* No more and no less than the beginnings of stops is held. */
		assert_int_equal(s.n_held, naive_held(&s, text, i));
		assert_int_equal(n_out + s.n_held, i);
	}
	if (want < 0) {
		assert_int_equal(s.hit, -1);
		n_out += plx_stop_flush(&s, out + n_out);
		off = n;
	} else {
		assert_true(s.hit >= 0);
		assert_int_equal(s.len[s.hit], s.len[want]);
		assert_int_equal(s.hit_off, off);
	}
	assert_int_equal(n_out, off);
	assert_memory_equal(out, text, off);
}

static void test_stop_equals_naive_search(void **state)
{
	(void)state;
	for (int i = 0; i < 50000; i++)
		one_round();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stop_without_strings_holds_nothing),
	    cmocka_unit_test(test_stop_holds_beginnings),
	    cmocka_unit_test(test_stop_cuts_at_the_match),
	    cmocka_unit_test(test_stop_takes_longest_of_those_that_end_together),
	    cmocka_unit_test(test_stop_refuses),
	    cmocka_unit_test(test_stop_equals_naive_search),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
