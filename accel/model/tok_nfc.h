/*
 * Unicode normalisation form C, in parts of bounded size.
 *
 * Only combining characters change together with what stands before them, so a text falls into
 * segments of one character and the combining ones after it, each normalised alone. A segment is
 * cut after PLX_NFC_SEGMENT characters: a longer pile of combining marks, which no script has, is
 * normalised in parts. Bytes that are not UTF-8 are copied.
 *
 * Source: Unicode Standard Annex 15; the same idea as its Stream-Safe Text Format.
 */
#ifndef PLX_ACCEL_MODEL_TOK_NFC_H
#define PLX_ACCEL_MODEL_TOK_NFC_H

#include <stdint.h>

#define PLX_NFC_SEGMENT 64 /* characters */

struct plx_nfc {
	const uint8_t *in;
	uint32_t n_in;
	uint32_t in_pos;
	uint8_t *out;
	uint32_t max_out;
	uint32_t n_out;
};

/*
 * plx_nfc_step - normalise on; budget is reduced by the characters done, or their square in a
 * segment of several.
 *
 * Returns 0 when all of in is done, AGAIN otherwise. Errors: TOO_LARGE (out is full).
 */
int plx_nfc_step(struct plx_nfc *s, int64_t *budget);

#endif
