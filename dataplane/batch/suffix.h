/*
 * An index over a sequence's ids that knows, after each id, the longest suffix that stood before.
 *
 * It is the suffix automaton of the ids added: one state for each set of substrings that end at the
 * same places. The longest suffix of the whole that occurs earlier too is the longest string of the
 * state that the last state's suffix link leads to, so that it is known at no cost once an id was
 * added. Each state keeps where one of its strings' occurrences ends, of those found as a match the
 * latest one: what came behind it then is likely to come now.
 *
 * Memory is bounded: at most `most` ids are indexed. Ids added after that are only looked for: the
 * match is then the longest suffix that occurs among the first `most` ids.
 *
 * States have at most one edge for most ids, which they hold themselves; other edges are in a hash
 * table. There are fewer than 2 n states, and fewer than n such edges.
 *
 * Owner:  whoever owns the sequence.  Thread: one.
 * Cost:   O(1) amortised an id, in the worst case O(ids so far); 80 bytes an id. No allocation.
 * Source: Blumer et al., "The smallest automaton recognizing the subwords of a text", Theoretical
 *         Computer Science 40, 1985; online construction as in Crochemore and Rytter, "Jewels of
 *         Stringology", 2002.
 */
#ifndef PLX_DATAPLANE_BATCH_SUFFIX_H
#define PLX_DATAPLANE_BATCH_SUFFIX_H

#include <stdbool.h>
#include <stdint.h>

#include "fw/base/arena.h"

#define PLX_SUFFIX_NONE UINT32_MAX

struct plx_suffix_state {
	uint32_t len;  /* of its longest string */
	uint32_t link; /* state of that string's longest suffix that is not in this one */
	uint32_t end;  /* ids before the end of an occurrence, the end included */
	uint32_t more; /* last of its other edges; NONE */
	int32_t id;    /* of its first edge */
	uint32_t to;   /* where that leads; NONE: it has no edge */
};

struct plx_suffix_edge {
	uint32_t from;
	int32_t id;
	uint32_t to;
	uint32_t chain; /* next one of equal hash; NONE */
	uint32_t other; /* next one of the same state; NONE */
};

struct plx_suffix {
	uint32_t most;      /* ids that can be indexed */
	uint32_t head_mask; /* heads - 1 */
	uint32_t n;         /* ids added */
	uint32_t n_state, n_edge;
	uint32_t last;      /* state of all ids indexed */
	uint32_t match;     /* state of the longest match; 0: none */
	uint32_t match_len; /* ids of it; 0: none */
	uint32_t match_end; /* ids before the end of its earlier occurrence, the end included */
	struct plx_suffix_state *state; /* [2 * most] */
	struct plx_suffix_edge *edge;   /* [most] */
	uint32_t *head;                 /* [head_mask + 1] */
};

/* plx_suffix_bytes - what init takes from the arena. */
size_t plx_suffix_bytes(uint32_t most);

/* plx_suffix_init - an empty index of 1 to 2^28 ids. Errors: NOMEM. */
int plx_suffix_init(struct plx_suffix *x, struct plx_arena *a, uint32_t most);

/* plx_suffix_clear - begin anew. Cost: 4 to 8 bytes written for each id that can be indexed. */
void plx_suffix_clear(struct plx_suffix *x);

/* plx_suffix_add - id comes next; match, match_len and match_end are renewed. */
void plx_suffix_add(struct plx_suffix *x, int32_t id);

/*
 * plx_suffix_step - the state that id leads to from one of the index, as the match does when id
 * comes next; NONE: id never came behind it.
 */
uint32_t plx_suffix_step(const struct plx_suffix *x, uint32_t state, int32_t id);

/* An id that came behind a state's strings. */
struct plx_suffix_next {
	int32_t id;
	uint32_t end; /* ids before the end of an occurrence of both, the id included */
};

/* plx_suffix_nexts - such ids, the latest found first; at most `most` are looked at. Returns how
 * many. */
uint32_t plx_suffix_nexts(const struct plx_suffix *x, uint32_t state, struct plx_suffix_next *out,
                          uint32_t most);

/* plx_suffix_branches - whether different ids came behind the state's strings. */
static inline bool plx_suffix_branches(const struct plx_suffix *x, uint32_t state)
{
	return x->state[state].more != PLX_SUFFIX_NONE;
}

#endif
