/*
 * The tokenizer's tables, shared by its own files and by nobody else.
 *
 * A symbol is what merges work on: an id of the vocabulary, or, in SentencePiece files, a character
 * that occurs in pieces but is none itself (numbered from n_vocab on, never given out). A pair of
 * symbols that merges is one entry of a hash table, for both families: byte-level files list their
 * pairs; for SentencePiece every split of every piece into two symbols is one.
 */
#ifndef PLX_ACCEL_MODEL_TOK_VOCAB_H
#define PLX_ACCEL_MODEL_TOK_VOCAB_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "accel/model/tok_pre.h"
#include "accel/model/tokenizer.h"

#define PLX_SYM_NONE  UINT32_MAX /* no such symbol */
#define PLX_RANK_NONE UINT32_MAX /* this pair doesn't merge */

enum plx_tok_attr {
	PLX_TOK_A_WHOLE = 1 << 0, /* its own bytes, as a word, encode to it alone */
	PLX_TOK_A_EOG = 1 << 1,
};

/* Bytes of one symbol in the pool. */
struct plx_piece {
	uint32_t off;
	uint32_t len;
};

/* Open addressing over byte strings; sym PLX_SYM_NONE marks a free slot. */
struct plx_str_slot {
	uint32_t tag; /* low half of the hash */
	uint32_t sym;
};

/* Open addressing over pairs; rank PLX_RANK_NONE marks a free slot. */
struct plx_pair {
	uint64_t key;  /* left << 32 | right */
	uint32_t rank; /* lower merges first */
	uint32_t made; /* symbol the two become */
};

/* Trie of control, unknown and added tokens: the children of a node are a list. */
struct plx_trie_node {
	uint32_t child;   /* first child; 0 where there is none */
	uint32_t sibling; /* 0 at the end */
	int32_t id;       /* token that ends here, or PLX_TOK_NONE */
	uint8_t byte;
};

struct plx_tok {
	bool spm;
	const struct plx_pre *pre;
	uint32_t n_vocab;
	uint32_t n_sym;
	uint32_t max_piece; /* longest piece in bytes */
	uint32_t max_plain; /* longest normal piece */
	uint8_t *pool;
	struct plx_piece *piece;    /* [n_sym] */
	uint8_t *type;              /* [n_sym] enum plx_tok_type */
	uint8_t *attr;              /* [n_sym] enum plx_tok_attr */
	uint32_t byte_sym[256];     /* byte-level: the byte; SentencePiece: <0xNN> */
	struct plx_str_slot *plain; /* normal pieces by their bytes */
	uint32_t plain_mask;
	struct plx_pair *pair;
	uint32_t pair_mask;
	struct plx_trie_node *trie; /* node 0 is the root */
	uint32_t n_trie;
	uint32_t trie_root[256]; /* child of the root by byte; 0: none */
	struct plx_tok_special special;
	int32_t *eog;
	uint32_t n_eog;
};

static inline uint64_t plx_str_hash(const void *p, size_t len)
{
	return XXH3_64bits(p, len);
}

/* plx_vocab_find - symbol of the normal piece with these bytes, or PLX_SYM_NONE. */
static inline uint32_t plx_vocab_find(const struct plx_tok *t, const void *p, uint32_t len)
{
	uint64_t h = plx_str_hash(p, len);

	for (uint32_t i = (uint32_t)(h >> 32) & t->plain_mask;; i = (i + 1) & t->plain_mask) {
		const struct plx_str_slot *s = &t->plain[i];

		if (s->sym == PLX_SYM_NONE)
			return PLX_SYM_NONE;
		if (s->tag == (uint32_t)h && t->piece[s->sym].len == len &&
		    memcmp(t->pool + t->piece[s->sym].off, p, len) == 0)
			return s->sym;
	}
}

static inline uint32_t plx_pair_slot(uint64_t key, uint32_t mask)
{
	uint64_t h = (key ^ (key >> 29)) * UINT64_C(0x9e3779b97f4a7c15);

	return (uint32_t)(h >> 32) & mask;
}

/* plx_pair_find - rank of the pair and the symbol it makes; PLX_RANK_NONE where it doesn't. */
static inline uint32_t plx_pair_find(const struct plx_tok *t, uint32_t left, uint32_t right,
                                     uint32_t *made)
{
	uint64_t key = (uint64_t)left << 32 | right;

	for (uint32_t i = plx_pair_slot(key, t->pair_mask);; i = (i + 1) & t->pair_mask) {
		const struct plx_pair *p = &t->pair[i];

		if (p->rank == PLX_RANK_NONE || p->key == key) {
			*made = p->made;
			return p->rank;
		}
	}
}

/* ---- building ---- */

/* Hash of the tokens as spelled in the file; lives while building. */
struct plx_raw {
	const struct plx_tok_source *src;
	struct plx_str_slot *slot;
	uint32_t mask;
};

/* plx_raw_find - index of the token spelled so, or PLX_SYM_NONE. */
uint32_t plx_raw_find(const struct plx_raw *r, const char *s, size_t len);

/* plx_quote - s for a message, at most about 40 characters, controls and high bytes as \xNN. */
struct plx_quoted {
	char text[64];
};
struct plx_quoted plx_quote(const char *s, size_t len);

/* plx_pow2_over - smallest power of two of at least 2 * n and 8. */
uint32_t plx_pow2_over(uint64_t n);

/* plx_vocab_pairs - fill t->pair, from merges or from the splits of pieces. */
int plx_vocab_pairs(struct plx_tok *t, const struct plx_raw *raw, struct plx_diag *d);

/* plx_vocab_trie - fill t->trie from control, unknown and user-defined tokens. */
int plx_vocab_trie(struct plx_tok *t, struct plx_diag *d);

/*
 * plx_trie_match - longest token at text[0..n) whose type flags allow.
 * Returns its id and *len, or PLX_TOK_NONE. *looked is how many bytes were read.
 */
int32_t plx_trie_match(const struct plx_tok *t, const uint8_t *text, uint32_t n, uint32_t flags,
                       uint32_t *len, uint32_t *looked);

#endif
