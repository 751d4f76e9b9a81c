/* Control and added tokens: a trie for longest match, filled in the order of their bytes. */
#include <stdlib.h>

#include "accel/model/tok_vocab.h"

static bool in_trie(uint8_t type)
{
	return type == PLX_TOK_T_CONTROL || type == PLX_TOK_T_USER || type == PLX_TOK_T_UNKNOWN;
}

/* Child of node for byte c; made where it isn't there. Siblings stay in insertion order. */
static uint32_t child(struct plx_tok *t, uint32_t node, uint8_t c)
{
	uint32_t *link = &t->trie[node].child;

	if (node == 0)
		link = &t->trie_root[c];
	while (*link != 0 && t->trie[*link].byte != c)
		link = &t->trie[*link].sibling;
	if (*link == 0) {
		*link = t->n_trie;
		t->trie[t->n_trie++] = (struct plx_trie_node){.id = PLX_TOK_NONE, .byte = c};
	}
	return *link;
}

int plx_vocab_trie(struct plx_tok *t, struct plx_diag *d)
{
	size_t n_nodes = 1;

	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (in_trie(t->type[i]))
			n_nodes += t->piece[i].len;
	t->trie = calloc(n_nodes, sizeof(*t->trie));
	if (t->trie == NULL || n_nodes > UINT32_MAX)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %zu bytes of special tokens",
		                    n_nodes);
	t->n_trie = 1;
	t->trie[0].id = PLX_TOK_NONE;
	for (uint32_t i = 0; i < t->n_vocab; i++) {
		const uint8_t *p = t->pool + t->piece[i].off;
		uint32_t node = 0;

		if (!in_trie(t->type[i]))
			continue;
		for (uint32_t k = 0; k < t->piece[i].len; k++)
			node = child(t, node, p[k]);
		t->trie[node].id = (int32_t)i;
	}
	return 0;
}

static uint32_t follow(const struct plx_tok *t, uint32_t node, uint8_t c)
{
	uint32_t next = t->trie[node].child;

	while (next != 0 && t->trie[next].byte != c)
		next = t->trie[next].sibling;
	return next;
}

static bool allowed(const struct plx_tok *t, int32_t id, uint32_t flags)
{
	return flags & (t->type[id] == PLX_TOK_T_USER ? PLX_TOK_ADDED : PLX_TOK_CONTROL);
}

int32_t plx_trie_match(const struct plx_tok *t, const uint8_t *text, uint32_t n, uint32_t flags,
                       uint32_t *len, uint32_t *looked)
{
	int32_t best = PLX_TOK_NONE;
	uint32_t i = 0;
	uint32_t node = n > 0 ? t->trie_root[text[0]] : 0;

	*len = 0;
	while (node != 0) {
		int32_t id = t->trie[node].id;

		i++;
		if (id != PLX_TOK_NONE && allowed(t, id, flags)) {
			best = id;
			*len = i;
		}
		node = i < n ? follow(t, node, text[i]) : 0;
	}
	*looked = i + 1;
	return best;
}
