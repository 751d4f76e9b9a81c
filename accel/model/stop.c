/* Stop strings: one Knuth-Morris-Pratt automaton each, fed side by side. */
#include "accel/model/stop.h"

#include <stdbool.h>
#include <string.h>

#include "fw/base/err.h"

void plx_stop_init(struct plx_stop *s)
{
	s->n_in = 0;
	s->n_held = 0;
	s->hit = -1;
	s->hit_off = 0;
	s->n = 0;
	s->held_by = 0;
}

int plx_stop_add(struct plx_stop *s, const void *text, uint32_t len)
{
	if (len == 0 || s->n_in != 0)
		return PLX_E_INVAL;
	if (len > PLX_STOP_BYTES)
		return PLX_E_TOO_LARGE;
	if (s->n == PLX_STOP_MAX)
		return PLX_E_LIMIT;
	uint8_t *p = s->text[s->n];
	uint8_t *fail = s->fail[s->n];
	uint8_t k = 0;

	memcpy(p, text, len);
	/* fail[i]: how long a proper suffix of p[0..i] is also its beginning. */
	fail[0] = 0;
	for (uint32_t i = 1; i < len; i++) {
		while (k > 0 && p[k] != p[i])
			k = fail[k - 1];
		k = (uint8_t)(k + (p[k] == p[i]));
		fail[i] = k;
	}
	s->len[s->n] = (uint8_t)len;
	s->at[s->n] = 0;
	s->n++;
	return 0;
}

/* Bytes of string i that the text ends with after byte c. A full match ends the feed. */
static uint8_t advance(const struct plx_stop *s, uint32_t i, uint8_t c)
{
	uint8_t k = s->at[i];

	while (k > 0 && s->text[i][k] != c)
		k = s->fail[i][k - 1];
	return (uint8_t)(k + (s->text[i][k] == c));
}

/* Takes one byte; sets how much is held, and hit. */
static void feed_byte(struct plx_stop *s, uint8_t c)
{
	uint32_t longest = 0;

	s->n_in++;
	s->n_held = 0;
	for (uint32_t i = 0; i < s->n; i++) {
		uint8_t k = s->at[i] = advance(s, i, c);

		if (k == s->len[i] && k > longest) {
			longest = k;
			s->hit = (int32_t)i;
		}
		if (k > s->n_held) {
			s->n_held = k;
			s->held_by = (uint8_t)i;
		}
	}
	if (s->hit >= 0) {
		s->hit_off = s->n_in - longest;
		s->n_held = longest;
	}
}

uint32_t plx_stop_feed(struct plx_stop *s, const void *in, uint32_t n, void *out)
{
	const uint8_t *p = in;
	uint8_t *o = out;
	uint32_t n_out = 0;

	for (uint32_t i = 0; i < n && s->hit < 0; i++) {
		uint32_t was = s->n_held;
		uint8_t by = s->held_by;

		feed_byte(s, p[i]);
		/* Held text is the beginning of a stop string, so it is read from there. */
		uint32_t go = was + 1 - s->n_held;
		uint32_t from_held = go < was ? go : was;

		memcpy(o + n_out, s->text[by], from_held);
		n_out += from_held;
		if (go > was)
			o[n_out++] = p[i];
	}
	return n_out;
}

uint32_t plx_stop_flush(struct plx_stop *s, void *out)
{
	uint32_t n = s->n_held;

	if (s->hit >= 0 || n == 0)
		return 0;
	memcpy(out, s->text[s->held_by], n);
	s->n_held = 0;
	return n;
}
