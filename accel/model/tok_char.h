/*
 * Characters for the tokenizer: strict UTF-8 decoding and the four classes pre-tokenizers know.
 *
 * A byte that does not begin a valid UTF-8 character is a character of one byte and of class OTHER,
 * with the code point PLX_CHAR_BAD.
 */
#ifndef PLX_ACCEL_MODEL_TOK_CHAR_H
#define PLX_ACCEL_MODEL_TOK_CHAR_H

#include <stdint.h>

#define PLX_CHAR_BAD (-1)

enum plx_char_class {
	PLX_CHAR_OTHER,
	PLX_CHAR_LETTER, /* general category L */
	PLX_CHAR_NUMBER, /* general category N */
	PLX_CHAR_SPACE,  /* property White_Space */
};

/* One character of a text: its class, and whether it is CR or LF. */
struct plx_char {
	int32_t cp;
	uint8_t len;   /* bytes, 1..4 */
	uint8_t class; /* enum plx_char_class */
};

/*
 * plx_char_decode - code point and length of the character at p.
 *
 * Accepts exactly the well-formed sequences of Unicode 15, table 3-7 (no overlong forms, no
 * surrogates, nothing above U+10FFFF).
 *
 * @p     in [n], n >= 1.
 * @cp    out: code point, or PLX_CHAR_BAD.
 * Returns the length in bytes; 1 for a bad byte.
 */
uint32_t plx_char_decode(const uint8_t *p, uint32_t n, int32_t *cp);

/* plx_char_encode - code point (valid) to UTF-8; out holds 4 bytes. Returns the length. */
uint32_t plx_char_encode(int32_t cp, uint8_t *out);

/*
 * plx_char_partial - length of the longest beginning of a well-formed character at p, n >= 1.
 *
 * Returns n_need > have when p[0..have) could still become a character of n_need bytes with have ==
 * n; have is stored. Returns have when it is whole (>= 1) or broken after have bytes.
 */
uint32_t plx_char_partial(const uint8_t *p, uint32_t n, uint32_t *have);

/* plx_char_at - decode and classify. */
struct plx_char plx_char_at(const uint8_t *p, uint32_t n);

/* plx_char_is_mark - combining: may order or compose with what stands before it in NFC. */
int plx_char_is_mark(int32_t cp);

#endif
