/* NFC by segments; the tables and the algorithm within a segment are utf8proc's. */
#include "accel/model/tok_nfc.h"

#include <string.h>
#include <utf8proc.h>

#include "accel/model/tok_char.h"
#include "fw/base/err.h"

#define MAX_DECOMPOSED 4 /* code points that one decomposes to, canonically */

/* Whether cp, with no combining character after it, is its own NFC. */
static int stands(int32_t cp)
{
	utf8proc_int32_t d[MAX_DECOMPOSED];
	int last_class = 0;

	if (cp < 0x300 || (cp >= 0xac00 && cp <= 0xd7a3)) /* Hangul syllables compose back */
		return 1;
	return utf8proc_decompose_char(cp, d, MAX_DECOMPOSED, UTF8PROC_DECOMPOSE, &last_class) ==
	           1 &&
	       d[0] == cp;
}

/* Bytes of the segment at in_pos, and how many characters: one, and the marks after it. */
static uint32_t segment(const struct plx_nfc *s, uint32_t *n_chars, int32_t *first)
{
	uint32_t pos = s->in_pos;
	int32_t cp;

	pos += plx_char_decode(s->in + pos, s->n_in - pos, first);
	*n_chars = 1;
	while (*first >= 0 && pos < s->n_in && *n_chars < PLX_NFC_SEGMENT) {
		uint32_t len = plx_char_decode(s->in + pos, s->n_in - pos, &cp);

		if (!plx_char_is_mark(cp))
			break;
		pos += len;
		(*n_chars)++;
	}
	return pos - s->in_pos;
}

/* Decompose, order and compose one segment in place of buf. Returns its bytes as UTF-8. */
static uint32_t compose(const uint8_t *p, uint32_t len, utf8proc_int32_t *buf, int max)
{
	utf8proc_ssize_t n =
	    utf8proc_decompose(p, len, buf, max, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);

	n = utf8proc_reencode(buf, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
	return (uint32_t)n;
}

static int put(struct plx_nfc *s, const void *p, uint32_t len)
{
	if (len > s->max_out - s->n_out)
		return PLX_E_TOO_LARGE;
	memcpy(s->out + s->n_out, p, len);
	s->n_out += len;
	return 0;
}

static int one_segment(struct plx_nfc *s, int64_t *budget)
{
	utf8proc_int32_t buf[PLX_NFC_SEGMENT * MAX_DECOMPOSED + 2];
	uint32_t n_chars;
	int32_t first;
	uint32_t len = segment(s, &n_chars, &first);
	const uint8_t *p = s->in + s->in_pos;

	s->in_pos += len;
	*budget -= (int64_t)n_chars * n_chars;
	if (n_chars == 1 && stands(first))
		return put(s, p, len);
	uint32_t n = compose(p, len, buf, PLX_NFC_SEGMENT * MAX_DECOMPOSED);

	return put(s, buf, n);
}

int plx_nfc_step(struct plx_nfc *s, int64_t *budget)
{
	while (s->in_pos < s->n_in) {
		if (*budget <= 0)
			return PLX_E_AGAIN;
		int err = one_segment(s, budget);

		if (err)
			return err;
	}
	return 0;
}
