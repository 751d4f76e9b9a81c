/*
 * Byte-pair merging of one word: the pair of lowest rank first, the leftmost among equals.
 *
 * Short words are merged by looking at all pairs each time; long ones by a linked list and a heap
 * of candidates, where a candidate that no longer holds is skipped when it comes up. O(n log n) for
 * any word, and it can stop after any bounded number of operations.
 */
#ifndef PLX_ACCEL_MODEL_TOK_MERGE_H
#define PLX_ACCEL_MODEL_TOK_MERGE_H

#include <stdint.h>

#include "accel/model/tok_vocab.h"

#define PLX_MERGE_SMALL 32 /* symbols up to which no heap is used */

struct plx_sym {
	uint32_t id;   /* symbol, or PLX_SYM_NONE: a character that no piece has */
	uint32_t off;  /* where in the word its text begins */
	uint32_t prev; /* neighbours by index; PLX_SYM_NONE at the ends */
	uint32_t next;
	uint32_t rank; /* of the pair it forms with next; PLX_RANK_NONE when dead or last */
	uint32_t made; /* what that pair makes */
};

/* A word being merged. After it is done the result is sym[0], sym[sym[0].next] ... */
struct plx_merge {
	const struct plx_tok *tok;
	const uint8_t *word;
	uint32_t len;
	uint32_t n_sym;     /* symbols set up */
	uint32_t n_dropped; /* bytes of the word without a symbol */
	uint32_t at;        /* progress within a phase */
	uint8_t phase;
	uint32_t n_heap;
	uint32_t max_len;    /* capacity: bytes of a word */
	struct plx_sym *sym; /* [max_len] */
	uint64_t *heap;      /* [2 * max_len] rank << 32 | index of the left symbol */
};

/* plx_merge_alloc - memory for words of max_len bytes. NOMEM leaves m releasable. */
int plx_merge_alloc(struct plx_merge *m, const struct plx_tok *t, uint32_t max_len);

/* plx_merge_release - free that memory. */
void plx_merge_release(struct plx_merge *m);

/* plx_merge_begin - take a word, 1 <= len <= max_len; it must stay until the result was read. */
void plx_merge_begin(struct plx_merge *m, const uint8_t *word, uint32_t len);

/*
 * plx_merge_step - go on; reduces budget by one for each symbol set up, 2 for a pair, 4 for a
 * merge. Returns 0 when the word is done, AGAIN otherwise.
 */
int plx_merge_step(struct plx_merge *m, int64_t *budget);

#endif
