/*
 * Stop strings: decides, byte by byte, what may be sent and where the text ends.
 *
 * One Knuth-Morris-Pratt automaton a string, run side by side. The bytes held back are the longest
 * suffix of the text that begins a stop string, so nothing of a stop string is ever sent and
 * nothing else waits. Pure logic, no allocation: lives inside the sequence.
 */
#ifndef PLX_ACCEL_MODEL_STOP_H
#define PLX_ACCEL_MODEL_STOP_H

#include <stdint.h>

#define PLX_STOP_MAX   16  /* stop strings of one request */
#define PLX_STOP_BYTES 128 /* bytes of one */

struct plx_stop {
	uint64_t n_in;    /* bytes of text seen */
	uint32_t n_held;  /* of them at the end, not released: a possible beginning of a stop */
	int32_t hit;      /* index of the stop string that matched; -1 while none did */
	uint64_t hit_off; /* where in the text the match begins; valid when hit >= 0 */
	uint32_t n;       /* stop strings */
	uint8_t held_by;  /* the string whose first n_held bytes are the held ones */
	uint8_t len[PLX_STOP_MAX];
	uint8_t at[PLX_STOP_MAX]; /* bytes of each that the text's end matches */
	uint8_t text[PLX_STOP_MAX][PLX_STOP_BYTES];
	uint8_t fail[PLX_STOP_MAX][PLX_STOP_BYTES];
};

/* plx_stop_init - no stop strings: everything is released at once. */
void plx_stop_init(struct plx_stop *s);

/*
 * plx_stop_add - add one stop string, before the first feed.
 *
 * Errors: INVAL (empty, or text was fed already), TOO_LARGE (over PLX_STOP_BYTES), LIMIT (over
 * PLX_STOP_MAX).  Cost: O(len).
 */
int plx_stop_add(struct plx_stop *s, const void *text, uint32_t len);

/*
 * plx_stop_feed - take n more bytes of text, write those that are now safe to send.
 *
 * The text stops at the first byte that completes a stop string; where several end there, the
 * longest counts. Bytes from hit_off on are never written. After a hit, input is ignored.
 *
 * @out  out [at least n + s->n_held]; may not overlap in.
 *
 * Returns the bytes written; s->hit, s->hit_off and s->n_held say the rest.
 * Cost: O(n * strings).
 * Source: Knuth, Morris and Pratt, "Fast Pattern Matching in Strings", SIAM J. Comput. 6 (1977).
 */
uint32_t plx_stop_feed(struct plx_stop *s, const void *in, uint32_t n, void *out);

/*
 * plx_stop_flush - end of text without a stop: release what is held.
 *
 * @out  out [at least s->n_held].  Returns the bytes written; 0 after a hit.
 */
uint32_t plx_stop_flush(struct plx_stop *s, void *out);

#endif
