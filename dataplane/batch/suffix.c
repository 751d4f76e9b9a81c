/* The suffix automaton of a sequence's ids; suffix.h says what it is for. */
#include "dataplane/batch/suffix.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define NONE PLX_SUFFIX_NONE
#define ROOT 0u

static uint32_t heads_for(uint32_t most)
{
	uint32_t n = 16;

	while (n < most)
		n *= 2;
	return n;
}

size_t plx_suffix_bytes(uint32_t most)
{
	return 2 * (size_t)most * sizeof(struct plx_suffix_state) +
	       (size_t)most * sizeof(struct plx_suffix_edge) + 4 * (size_t)heads_for(most) +
	       3 * 64 + 2 * sizeof(struct plx_suffix_state);
}

int plx_suffix_init(struct plx_suffix *x, struct plx_arena *a, uint32_t most)
{
	uint32_t heads = heads_for(most);

	memset(x, 0, sizeof(*x));
	x->most = most;
	x->head_mask = heads - 1;
	/* The root, and two for each id but the first. */
	x->state = plx_arena_take(a, (2 * (size_t)most + 1) * sizeof(*x->state), 64);
	x->edge = plx_arena_take(a, (size_t)most * sizeof(*x->edge), 64);
	x->head = plx_arena_take(a, 4 * (size_t)heads, 64);
	if (!x->state || !x->edge || !x->head)
		return PLX_E_NOMEM;
	plx_suffix_clear(x);
	return 0;
}

static uint32_t new_state(struct plx_suffix *x, uint32_t len, uint32_t end)
{
	PLX_DCHECK(x->n_state <= 2 * x->most);
	x->state[x->n_state] = (struct plx_suffix_state){
	    .len = len, .link = NONE, .end = end, .more = NONE, .to = NONE};
	return x->n_state++;
}

void plx_suffix_clear(struct plx_suffix *x)
{
	memset(x->head, 0xff, 4 * ((size_t)x->head_mask + 1));
	x->n = x->n_state = x->n_edge = 0;
	x->match = x->match_len = x->match_end = 0;
	x->last = new_state(x, 0, 0);
}

static uint32_t hash(const struct plx_suffix *x, uint32_t from, int32_t id)
{
	uint64_t h = ((uint64_t)from << 32 | (uint32_t)id) * UINT64_C(0x9e3779b97f4a7c15);

	return (uint32_t)(h >> 36) & x->head_mask;
}

/* The place where the edge's target stands; NULL: there is no such edge. */
static uint32_t *find(const struct plx_suffix *x, uint32_t from, int32_t id)
{
	struct plx_suffix_state *s = &x->state[from];

	if (s->to == NONE)
		return NULL;
	if (s->id == id)
		return &s->to;
	if (s->more == NONE)
		return NULL;
	uint32_t e = x->head[hash(x, from, id)];

	while (e != NONE && (x->edge[e].from != from || x->edge[e].id != id))
		e = x->edge[e].chain;
	return e == NONE ? NULL : &x->edge[e].to;
}

/* An edge that is not there yet. */
static void add_edge(struct plx_suffix *x, uint32_t from, int32_t id, uint32_t to)
{
	struct plx_suffix_state *s = &x->state[from];

	if (s->to == NONE) {
		s->id = id;
		s->to = to;
		return;
	}
	uint32_t *head = &x->head[hash(x, from, id)];

	PLX_DCHECK(x->n_edge < x->most);
	x->edge[x->n_edge] = (struct plx_suffix_edge){from, id, to, *head, s->more};
	*head = s->more = x->n_edge++;
}

/* A state for the shorter strings of q, those up to len, with its edges and its link. */
static uint32_t split(struct plx_suffix *x, uint32_t q, uint32_t len)
{
	uint32_t c = new_state(x, len, x->state[q].end);

	add_edge(x, c, x->state[q].id, x->state[q].to);
	for (uint32_t e = x->state[q].more; e != NONE; e = x->edge[e].other)
		add_edge(x, c, x->edge[e].id, x->edge[e].to);
	x->state[c].link = x->state[q].link;
	x->state[q].link = c;
	return c;
}

/* The state of the longest suffix that was there before, p having an edge by id. */
static uint32_t link_of(struct plx_suffix *x, uint32_t p, int32_t id)
{
	uint32_t q = *find(x, p, id);

	if (x->state[q].len == x->state[p].len + 1)
		return q;
	uint32_t c = split(x, q, x->state[p].len + 1);

	for (uint32_t *to; p != NONE && (to = find(x, p, id)) != NULL && *to == q;
	     p = x->state[p].link)
		*to = c;
	return c;
}

static void extend(struct plx_suffix *x, int32_t id)
{
	uint32_t cur = new_state(x, x->n + 1, x->n + 1), p = x->last;

	for (; p != NONE && find(x, p, id) == NULL; p = x->state[p].link)
		add_edge(x, p, id, cur);
	x->state[cur].link = p == NONE ? ROOT : link_of(x, p, id);
	x->last = cur;
	x->match = x->state[cur].link;
	x->match_len = x->state[x->match].len;
}

/* Nothing is added any more: follow the match. */
static void follow(struct plx_suffix *x, int32_t id)
{
	uint32_t *to = find(x, x->match, id);

	while (to == NULL && x->match != ROOT) {
		x->match = x->state[x->match].link;
		x->match_len = x->state[x->match].len;
		to = find(x, x->match, id);
	}
	if (to == NULL)
		return;
	x->match = *to;
	x->match_len++;
}

void plx_suffix_add(struct plx_suffix *x, int32_t id)
{
	if (x->n < x->most)
		extend(x, id);
	else
		follow(x, id);
	x->n++;
	x->match_end = x->state[x->match].end;
	/* Where the index is full the match may be a shorter string of its state. */
	if (x->match != ROOT && x->match_len == x->state[x->match].len)
		x->state[x->match].end = x->n;
}

uint32_t plx_suffix_step(const struct plx_suffix *x, uint32_t state, int32_t id)
{
	const uint32_t *to = find(x, state, id);

	return to ? *to : NONE;
}

static void put_next(const struct plx_suffix *x, struct plx_suffix_next *out, uint32_t n,
                     int32_t id, uint32_t to)
{
	uint32_t end = x->state[to].end;

	for (; n > 0 && out[n - 1].end < end; n--)
		out[n] = out[n - 1];
	out[n] = (struct plx_suffix_next){id, end};
}

uint32_t plx_suffix_nexts(const struct plx_suffix *x, uint32_t state, struct plx_suffix_next *out,
                          uint32_t most)
{
	const struct plx_suffix_state *s = &x->state[state];
	uint32_t n = 0;

	if (s->to == NONE || most == 0)
		return 0;
	put_next(x, out, n++, s->id, s->to);
	for (uint32_t e = s->more; e != NONE && n < most; e = x->edge[e].other)
		put_next(x, out, n++, x->edge[e].id, x->edge[e].to);
	return n;
}
