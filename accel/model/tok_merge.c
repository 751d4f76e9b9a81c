/* Merging one word: pairs in order of rank, by scanning (short) or by a heap (long). */
#include "accel/model/tok_merge.h"

#include <stdlib.h>
#include <string.h>

#include "accel/model/tok_char.h"
#include "fw/base/err.h"

enum phase {
	MERGE_SYMBOLS, /* cut the word into symbols */
	MERGE_PAIRS,   /* rank every pair and put it on the heap */
	MERGE_HEAP,    /* merge the best until none is left */
	MERGE_DONE,
};

int plx_merge_alloc(struct plx_merge *m, const struct plx_tok *t, uint32_t max_len)
{
	size_t n = (size_t)max_len + 1;

	*m = (struct plx_merge){.tok = t, .max_len = max_len, .phase = MERGE_DONE};
	m->sym = malloc(n * sizeof(*m->sym));
	m->heap = malloc(2 * n * sizeof(*m->heap));
	if (m->sym == NULL || m->heap == NULL)
		return PLX_E_NOMEM;
	/* Touched now, so that encoding takes no page fault. */
	memset(m->sym, 0, n * sizeof(*m->sym));
	memset(m->heap, 0, 2 * n * sizeof(*m->heap));
	return 0;
}

void plx_merge_release(struct plx_merge *m)
{
	free(m->sym);
	free(m->heap);
	*m = (struct plx_merge){.phase = MERGE_DONE};
}

void plx_merge_begin(struct plx_merge *m, const uint8_t *word, uint32_t len)
{
	m->word = word;
	m->len = len;
	m->n_sym = 0;
	m->n_dropped = 0;
	m->n_heap = 0;
	m->at = 0;
	m->phase = MERGE_SYMBOLS;
}

/* ---- heap of 64-bit keys, smallest first ---- */

static void heap_push(struct plx_merge *m, uint64_t key)
{
	uint32_t i = m->n_heap++;

	while (i > 0 && m->heap[(i - 1) / 2] > key) {
		m->heap[i] = m->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	m->heap[i] = key;
}

static uint64_t heap_pop(struct plx_merge *m)
{
	uint64_t top = m->heap[0];
	uint64_t key = m->heap[--m->n_heap];
	uint32_t i = 0;

	for (;;) {
		uint32_t c = 2 * i + 1;

		if (c >= m->n_heap)
			break;
		if (c + 1 < m->n_heap && m->heap[c + 1] < m->heap[c])
			c++;
		if (m->heap[c] >= key)
			break;
		m->heap[i] = m->heap[c];
		i = c;
	}
	m->heap[i] = key;
	return top;
}

/* ---- symbols ---- */

static void rank_pair(struct plx_merge *m, uint32_t left, uint32_t right)
{
	struct plx_sym *s = &m->sym[left];

	s->rank = PLX_RANK_NONE;
	if (s->id != PLX_SYM_NONE && right != PLX_SYM_NONE && m->sym[right].id != PLX_SYM_NONE)
		s->rank = plx_pair_find(m->tok, s->id, m->sym[right].id, &s->made);
}

static void add_symbol(struct plx_merge *m, uint32_t id, uint32_t off)
{
	uint32_t i = m->n_sym++;

	m->sym[i] = (struct plx_sym){.id = id,
	                             .off = off,
	                             .prev = i == 0 ? PLX_SYM_NONE : i - 1,
	                             .next = PLX_SYM_NONE,
	                             .rank = PLX_RANK_NONE};
	if (i > 0)
		m->sym[i - 1].next = i;
}

/* One symbol at m->at: a byte, or in SentencePiece a character. */
static void next_symbol(struct plx_merge *m)
{
	const struct plx_tok *t = m->tok;
	int32_t cp;

	if (t->spm) {
		uint32_t len = plx_char_decode(m->word + m->at, m->len - m->at, &cp);

		add_symbol(m, plx_vocab_find(t, m->word + m->at, len), m->at);
		m->at += len;
		return;
	}
	uint32_t id = t->byte_sym[m->word[m->at]];

	if (id != PLX_SYM_NONE)
		add_symbol(m, id, m->at);
	else
		m->n_dropped++;
	m->at++;
}

/* ---- short words ---- */

static void merge_small(struct plx_merge *m)
{
	struct plx_sym *s = m->sym;
	uint32_t n = m->n_sym;

	for (uint32_t i = 0; i + 1 < n; i++)
		rank_pair(m, i, i + 1);
	while (n > 1) {
		uint32_t best = 0;

		for (uint32_t i = 1; i + 1 < n; i++)
			if (s[i].rank < s[best].rank)
				best = i;
		if (s[best].rank == PLX_RANK_NONE)
			break;
		s[best].id = s[best].made;
		n--;
		memmove(&s[best + 1], &s[best + 2], (n - best - 1) * sizeof(*s));
		rank_pair(m, best, best + 1 < n ? best + 1 : PLX_SYM_NONE);
		if (best > 0)
			rank_pair(m, best - 1, best);
	}
	for (uint32_t i = 0; i < n; i++)
		s[i].next = i + 1 < n ? i + 1 : PLX_SYM_NONE;
	m->n_sym = n;
}

/* ---- long words ---- */

static void push_pair(struct plx_merge *m, uint32_t left, uint32_t right)
{
	rank_pair(m, left, right);
	if (m->sym[left].rank != PLX_RANK_NONE)
		heap_push(m, (uint64_t)m->sym[left].rank << 32 | left);
}

static void merge_best(struct plx_merge *m)
{
	uint64_t top = heap_pop(m);
	uint32_t i = (uint32_t)top;
	struct plx_sym *s = &m->sym[i];

	/* Stale: the pair changed, or its left half is gone. */
	if (s->rank != (uint32_t)(top >> 32) || s->rank == PLX_RANK_NONE)
		return;
	uint32_t gone = s->next;

	s->id = s->made;
	s->next = m->sym[gone].next;
	m->sym[gone].rank = PLX_RANK_NONE;
	if (s->next != PLX_SYM_NONE)
		m->sym[s->next].prev = i;
	push_pair(m, i, s->next);
	if (s->prev != PLX_SYM_NONE)
		push_pair(m, s->prev, i);
}

static void end_symbols(struct plx_merge *m, int64_t *budget)
{
	m->at = 0;
	m->phase = MERGE_PAIRS;
	if (m->n_sym > PLX_MERGE_SMALL)
		return;
	*budget -= 2 * (int64_t)m->n_sym;
	merge_small(m);
	m->phase = MERGE_DONE;
}

/* Costs in units: in a word of a megabyte, heap and pairs are out of the caches. */
#define PAIR_COST  2
#define MERGE_COST 4

static void work(struct plx_merge *m, int64_t *budget)
{
	(*budget)--;
	if (m->phase == MERGE_SYMBOLS) {
		next_symbol(m);
		if (m->at == m->len)
			end_symbols(m, budget);
	} else if (m->phase == MERGE_PAIRS) {
		*budget -= PAIR_COST - 1;
		push_pair(m, m->at, m->at + 1);
		if (++m->at + 1 == m->n_sym)
			m->phase = MERGE_HEAP;
	} else if (m->n_heap > 0) {
		*budget -= MERGE_COST - 1;
		merge_best(m);
	} else {
		m->phase = MERGE_DONE;
	}
}

int plx_merge_step(struct plx_merge *m, int64_t *budget)
{
	while (m->phase != MERGE_DONE) {
		if (*budget <= 0)
			return PLX_E_AGAIN;
		work(m, budget);
	}
	return 0;
}
