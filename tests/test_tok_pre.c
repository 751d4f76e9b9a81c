/*
 * The pre-tokenizers' scanner against the published patterns, run by pcre2, on random text; and
 * UTF-8 decoding and NFC against literal tables.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "accel/model/tok_char.h"
#include "accel/model/tok_nfc.h"
#include "accel/model/tok_pre.h"
#include "fw/base/err.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

/* pcre2's \s has U+180E, which is no White_Space: the property is named instead. */
#define S  "\\p{White_Space}"
#define NS "\\P{White_Space}"

static const char gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" S "\\p{L}\\p{N}]+|" S "+(?!" NS ")|" S "+";
/* Every number is a word; what is between them ends before it, as if the text ended there. */
static const char smollm[] = "\\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?[^" S "\\p{L}\\p{N}]+|" S
			     "+(?=\\p{N})|" S "+(?!" NS ")|" S "+";
static const char llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" S
    "\\p{L}\\p{N}]+[\\r\\n]*|" S "*[\\r\\n]+|" S "+(?!" NS ")|" S "+";
static const char qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" S
    "\\p{L}\\p{N}]+[\\r\\n]*|" S "*[\\r\\n]+|" S "+(?!" NS ")|" S "+";

static uint64_t rng_state = 3;

static uint32_t rng(uint32_t below)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(((rng_state >> 33) * below) >> 31);
}

static pcre2_code *compile(const char *pattern)
{
	size_t where;
	int err;
	pcre2_code *re = pcre2_compile((const uint8_t *)pattern, PCRE2_ZERO_TERMINATED,
	                               PCRE2_UTF | PCRE2_UCP, &err, &where, NULL);

	assert_non_null(re);
	return re;
}

/* What pcre2's Unicode version knows; ours is one version younger. */
static pcre2_code *known_re;
static pcre2_match_data *known_md;

static bool assigned(int32_t cp)
{
	uint8_t c[4];

	if (cp >= 0xd800 && cp < 0xe000)
		return false;
	return pcre2_match(known_re, c, plx_char_encode(cp, c), 0, 0, known_md, NULL) > 0;
}

static int32_t random_char(void)
{
	static const int32_t likely[] = {' ',  ' ',    '\n',   '\r',   '\t',   '\'',    's',
	                                 'S',  't',    'r',    'e',    'v',    'l',     'L',
	                                 'd',  'M',    '1',    '2',    '.',    '-',     0xa0,
	                                 0x85, 0x2028, 0x3000, 0x180e, 0x200b, 0x17f,   0xbd,
	                                 0xe9, 0x301,  0x4f60, 0x660,  0x2163, 0x1f600, 0xfeff};
	int32_t cp;

	if (rng(4) != 0)
		return likely[rng(N(likely))];
	do
		cp = (int32_t)rng(rng(2) ? 0x3000 : 0x20000);
	while (!assigned(cp));
	return cp;
}

static uint32_t random_text(uint8_t *out, uint32_t n_chars)
{
	uint32_t n = 0;

	while (n_chars-- > 0)
		n += plx_char_encode(random_char(), out + n);
	return n;
}

/* One text: every match of the pattern is the scanner's next word, at a random budget. */
static void same_words(pcre2_code *re, pcre2_match_data *md, const struct plx_pre *pre,
                       const uint8_t *text, uint32_t n)
{
	struct plx_scan s;
	size_t at = 0;

	plx_scan_init(&s, pre, text, n);
	for (;;) {
		int64_t budget = 1 + rng(5);
		int got = plx_scan_next(&s, &budget);

		if (got == PLX_E_AGAIN)
			continue;
		if (got == 0)
			break;
		assert_int_equal(pcre2_match(re, text, n, at, 0, md, NULL), 1);
		const size_t *v = pcre2_get_ovector_pointer(md);

		assert_int_equal(v[0], at);
		assert_int_equal(s.start, v[0]);
		assert_int_equal(s.pos, v[1]);
		at = v[1];
	}
	assert_int_equal(at, n);
}

static void against(const char *name, const char *pattern)
{
	uint8_t text[4 * 60];
	const struct plx_pre *pre = plx_pre_find(name);
	pcre2_code *re = compile(pattern);

	assert_non_null(pre);
	pcre2_match_data *md = pcre2_match_data_create_from_pattern(re, NULL);

	for (int i = 0; i < 20000; i++)
		same_words(re, md, pre, text, random_text(text, rng(60)));
	pcre2_match_data_free(md);
	pcre2_code_free(re);
}

static void test_pre_equals_patterns(void **state)
{
	(void)state;
	known_re = compile("\\P{Cn}");
	known_md = pcre2_match_data_create_from_pattern(known_re, NULL);
	against("gpt-2", gpt2);
	against("smollm", smollm);
	against("llama-bpe", llama3);
	against("qwen2", qwen2);
	pcre2_match_data_free(known_md);
	pcre2_code_free(known_re);
}

static void test_pre_takes_any_bytes(void **state)
{
	uint8_t text[200];

	(void)state;
	for (int i = 0; i < 20000; i++) {
		struct plx_scan s;
		uint32_t n = rng(sizeof(text)), words = 0;
		int64_t budget = 1000;

		for (uint32_t k = 0; k < n; k++)
			text[k] = (uint8_t)rng(256);
		plx_scan_init(&s, plx_pre_find("llama-bpe"), text, n);
		while (plx_scan_next(&s, &budget) == 1) {
			words++;
			assert_true(s.pos > s.start);
		}
		assert_int_equal(s.pos, n);
		assert_true(words <= n);
		assert_true(1000 - budget <= 2 * (int64_t)n); /* each character at most twice */
	}
	assert_null(plx_pre_find("llama"));
}

static void test_char_decodes_well_formed_only(void **state)
{
	static const struct {
		const char *bytes;
		uint32_t len;
		int32_t cp;
	} t[] = {{"A", 1, 'A'},
	         {"\xc3\xa9", 2, 0xe9},
	         {"\xe2\x82\xac", 3, 0x20ac},
	         {"\xf0\x9f\x98\x80", 4, 0x1f600},
	         {"\xf4\x8f\xbf\xbf", 4, 0x10ffff},
	         {"\xf4\x90\x80\x80", 1, PLX_CHAR_BAD},
	         {"\xc0\x80", 1, PLX_CHAR_BAD},
	         {"\xe0\x9f\xbf", 1, PLX_CHAR_BAD},
	         {"\xed\xa0\x80", 1, PLX_CHAR_BAD},
	         {"\xe2\x82", 1, PLX_CHAR_BAD},
	         {"\xe2\x82z", 1, PLX_CHAR_BAD},
	         {"\x80", 1, PLX_CHAR_BAD}};

	(void)state;
	for (size_t i = 0; i < N(t); i++) {
		int32_t cp;

		assert_int_equal(
		    plx_char_decode((const uint8_t *)t[i].bytes, (uint32_t)strlen(t[i].bytes), &cp),
		    t[i].len);
		assert_int_equal(cp, t[i].cp);
	}
}

static void nfc_is(const char *in, const char *want)
{
	uint8_t out[512];
	struct plx_nfc s = {.in = (const uint8_t *)in,
	                    .n_in = (uint32_t)strlen(in),
	                    .out = out,
	                    .max_out = sizeof(out)};
	int64_t budget = 1;

	while (plx_nfc_step(&s, &budget) == PLX_E_AGAIN)
		budget = 1;
	assert_int_equal(s.n_out, strlen(want));
	assert_memory_equal(out, want, s.n_out);
}

/* Expectations are unicodedata.normalize("NFC", x) of Python 3.11. */
static void test_nfc_composes(void **state)
{
	uint8_t small[4];
	struct plx_nfc full = {
	    .in = (const uint8_t *)"hello", .n_in = 5, .out = small, .max_out = 4};
	int64_t budget = 100;

	(void)state;
	nfc_is("plain text", "plain text");
	nfc_is("e\xcc\x81", "\xc3\xa9");
	nfc_is("\xcc\x81", "\xcc\x81");
	nfc_is("a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81");            /* ordered, then composed */
	nfc_is("\xe2\x84\xab", "\xc3\x85");                             /* Angstrom sign */
	nfc_is("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"); /* Hangul jamo */
	nfc_is("\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81");
	nfc_is("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"); /* excluded from composition */
	nfc_is("\xef\xa4\x80", "\xe8\xb1\x88");
	nfc_is("\xe2\x82 e\xcc\x81\xff", "\xe2\x82 \xc3\xa9\xff"); /* broken bytes stay */
	assert_int_equal(plx_nfc_step(&full, &budget), PLX_E_TOO_LARGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_pre_equals_patterns),
	    cmocka_unit_test(test_pre_takes_any_bytes),
	    cmocka_unit_test(test_char_decodes_well_formed_only),
	    cmocka_unit_test(test_nfc_composes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
