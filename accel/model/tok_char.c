/* Strict UTF-8 and character classes, on utf8proc's property tables. */
#include "accel/model/tok_char.h"

#include <utf8proc.h>

/* Lengths by lead byte and the range the second byte must lie in: Unicode 15, table 3-7. */
static uint32_t lead(uint8_t c, uint8_t *lo, uint8_t *hi)
{
	*lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
	*hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	return c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

uint32_t plx_char_partial(const uint8_t *p, uint32_t n, uint32_t *have)
{
	uint8_t lo, hi;
	uint32_t need = lead(p[0], &lo, &hi);
	uint32_t i;

	for (i = 1; i < need && i < n; i++) {
		if (p[i] < lo || p[i] > hi)
			break;
		lo = 0x80;
		hi = 0xbf;
	}
	*have = i;
	return i < need && i == n ? need : i;
}

uint32_t plx_char_decode(const uint8_t *p, uint32_t n, int32_t *cp)
{
	static const uint8_t bits[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	uint8_t lo, hi;

	if (p[0] < 0x80) {
		*cp = p[0];
		return 1;
	}
	uint32_t len = lead(p[0], &lo, &hi);
	int32_t c = p[0] & bits[len];

	*cp = PLX_CHAR_BAD;
	if (len == 0 || len > n || p[1] < lo || p[1] > hi)
		return 1;
	for (uint32_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 1;
		c = (c << 6) | (p[i] & 0x3f);
	}
	*cp = c;
	return len;
}

uint32_t plx_char_encode(int32_t cp, uint8_t *out)
{
	return (uint32_t)utf8proc_encode_char(cp, out);
}

static enum plx_char_class wide_class(int32_t cp)
{
	switch (utf8proc_get_property(cp)->category) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LL:
	case UTF8PROC_CATEGORY_LT:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO:
		return PLX_CHAR_LETTER;
	case UTF8PROC_CATEGORY_ND:
	case UTF8PROC_CATEGORY_NL:
	case UTF8PROC_CATEGORY_NO:
		return PLX_CHAR_NUMBER;
	case UTF8PROC_CATEGORY_ZS:
	case UTF8PROC_CATEGORY_ZL:
	case UTF8PROC_CATEGORY_ZP:
		return PLX_CHAR_SPACE;
	default:
		/* NEL is the one White_Space character beyond ASCII that is no separator. */
		return cp == 0x85 ? PLX_CHAR_SPACE : PLX_CHAR_OTHER;
	}
}

/* Class of a code point; OTHER for PLX_CHAR_BAD. */
static enum plx_char_class class_of(int32_t cp)
{
	if (cp < 0)
		return PLX_CHAR_OTHER;
	if (cp >= 0x80)
		return wide_class(cp);
	if ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z')
		return PLX_CHAR_LETTER;
	if (cp >= '0' && cp <= '9')
		return PLX_CHAR_NUMBER;
	return cp == ' ' || (cp >= '\t' && cp <= '\r') ? PLX_CHAR_SPACE : PLX_CHAR_OTHER;
}

struct plx_char plx_char_at(const uint8_t *p, uint32_t n)
{
	struct plx_char c;

	c.len = (uint8_t)plx_char_decode(p, n, &c.cp);
	c.class = (uint8_t)class_of(c.cp);
	return c;
}

int plx_char_is_mark(int32_t cp)
{
	if (cp < 0x300)
		return 0;
	if (cp >= 0x1160 && cp <= 0x11ff) /* Hangul vowels and finals join the syllable before */
		return 1;
	switch (utf8proc_get_property(cp)->category) {
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_MC:
	case UTF8PROC_CATEGORY_ME:
		return 1;
	default:
		return 0;
	}
}
