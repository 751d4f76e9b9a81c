/* Drafts from the sequence itself; draft_lookup.h says how. */
#include "dataplane/batch/draft_lookup.h"

#include <string.h>

#include "fw/base/err.h"

#define LENGTHS     7u
#define EDGES       8u    /* ids looked at behind a match */
#define SHORTER     3u    /* matches looked at: the longest and its suffixes */
#define PRIOR       16.0f /* guesses that the chances at the start count for */
#define PRIOR_SEQ   6.0f  /* K: guesses that all sequences count for in one */
#define PRIOR_OTHER 0.2f  /* chance of a second guess where the first is wrong */
#define FORGET      0.97f
#define FORGET_ALL  0.998f

/* The chance of a guess by the length of its match, where one id came behind it, or several. */
static const float prior[LENGTHS][2] = {{0.15f, 0.10f}, {0.35f, 0.20f}, {0.50f, 0.30f},
                                        {0.60f, 0.40f}, {0.70f, 0.50f}, {0.80f, 0.60f},
                                        {0.90f, 0.70f}};

static_assert(PLX_LOOKUP_CLASSES == 2 * LENGTHS, "a class for each");

static uint32_t class_of(uint32_t len, bool branches)
{
	static const uint8_t of[16] = {0, 0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5};

	return 2 * (len < 16 ? of[len] : LENGTHS - 1) + branches;
}

size_t plx_lookup_bytes(uint32_t n_slots, uint32_t n_ids)
{
	return n_slots * (sizeof(struct plx_lookup_slot) + plx_suffix_bytes(n_ids)) + 64;
}

int plx_lookup_init(struct plx_lookup *l, struct plx_arena *a, uint32_t n_slots, uint32_t n_ids)
{
	memset(l, 0, sizeof(*l));
	l->n_slots = n_slots;
	l->slot = plx_arena_take(a, n_slots * sizeof(*l->slot), 64);
	if (!l->slot)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < n_slots; i++) {
		int e = plx_suffix_init(&l->slot[i].index, a, n_ids);

		if (e)
			return e;
	}
	for (uint32_t c = 0; c < PLX_LOOKUP_CLASSES; c++) {
		l->all.n[c] = PRIOR;
		l->all.hits[c] = PRIOR * prior[c / 2][c % 2];
		for (uint32_t r = 0; r < PLX_LOOKUP_OTHERS; r++) {
			l->all.n_other[r][c] = PRIOR;
			l->all.hits_other[r][c] = PRIOR * PRIOR_OTHER / (float)(r + 1);
		}
	}
	return 0;
}

static void begin(void *ctx, uint32_t slot)
{
	struct plx_lookup *l = ctx;

	plx_suffix_clear(&l->slot[slot].index);
	memset(&l->slot[slot].score, 0, sizeof(l->slot[slot].score));
}

static void score(struct plx_lookup_score *s, uint32_t class, bool hit, float forget)
{
	s->n[class] = forget * s->n[class] + 1;
	s->hits[class] = forget * s->hits[class] + (hit ? 1.0f : 0.0f);
}

static float chance(const struct plx_lookup *l, const struct plx_lookup_slot *s, uint32_t class)
{
	float all = l->all.hits[class] / l->all.n[class];

	return (s->score.hits[class] + PRIOR_SEQ * all) / (s->score.n[class] + PRIOR_SEQ);
}

/*
 * Other ids that came behind the state's strings, or their suffixes, than those in out; the latest
 * first. Returns how many there are then.
 */
static uint32_t others(const struct plx_suffix *x, uint32_t state, int32_t *out, uint32_t *end,
                       uint32_t n)
{
	for (uint32_t up = 0; up < SHORTER && state != 0 && n <= PLX_LOOKUP_OTHERS; up++) {
		struct plx_suffix_next next[EDGES];
		uint32_t n_next = plx_suffix_nexts(x, state, next, EDGES);

		for (uint32_t e = 0; e < n_next && n <= PLX_LOOKUP_OTHERS; e++) {
			uint32_t k = 0;

			while (k < n && out[k] != next[e].id)
				k++;
			if (k < n)
				continue;
			out[n] = next[e].id;
			end[n++] = next[e].end;
		}
		state = x->state[state].link;
	}
	return n;
}

/* The chance of guess r + 2 of a place, those before it being wrong. */
static float chance_other(const struct plx_lookup *l, const struct plx_lookup_slot *s, uint32_t r,
                          uint32_t class)
{
	float all = l->all.hits_other[r][class] / l->all.n_other[r][class];

	return (s->score.hits_other[r][class] + PRIOR_SEQ * all) /
	       (s->score.n_other[r][class] + PRIOR_SEQ);
}

static void score_other(struct plx_lookup_score *s, uint32_t r, uint32_t class, bool hit,
                        float forget)
{
	s->n_other[r][class] = forget * s->n_other[r][class] + 1;
	s->hits_other[r][class] = forget * s->hits_other[r][class] + (hit ? 1.0f : 0.0f);
}

/* The first guess was wrong: was one of the others right? */
static void judge_others(struct plx_lookup *l, struct plx_lookup_slot *s, int32_t first, int32_t id)
{
	int32_t other[PLX_LOOKUP_OTHERS + 1] = {first};
	uint32_t end[PLX_LOOKUP_OTHERS + 1];
	uint32_t class = class_of(s->index.match_len, true);
	uint32_t n = others(&s->index, s->index.match, other, end, 1);

	for (uint32_t r = 1; r < n; r++) {
		bool hit = other[r] == id;

		score_other(&s->score, r - 1, class, hit, FORGET);
		score_other(&l->all, r - 1, class, hit, FORGET_ALL);
		if (hit)
			return;
	}
}

/* An id of the answer: was the guess right? */
static void judge(struct plx_lookup *l, struct plx_lookup_slot *s, const int32_t *ids, int32_t id)
{
	const struct plx_suffix *x = &s->index;

	if (x->match_len == 0)
		return;
	uint32_t class = class_of(x->match_len, plx_suffix_branches(x, x->match));
	bool hit = ids[x->match_end] == id;

	score(&s->score, class, hit, FORGET);
	score(&l->all, class, hit, FORGET_ALL);
	if (!hit && l->trees)
		judge_others(l, s, ids[x->match_end], id);
}

static uint32_t learn(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t n_prompt,
                      uint32_t most)
{
	struct plx_lookup *l = ctx;
	struct plx_lookup_slot *s = &l->slot[slot];
	uint32_t i = 0;

	for (; i < most && s->index.n < n; i++) {
		int32_t id = ids[s->index.n];

		if (s->index.n >= n_prompt)
			judge(l, s, ids, id);
		plx_suffix_add(&s->index, id);
	}
	return i;
}

/* A candidate and what came behind it where it stood, behind draft `parent`. */
static void add_other(const struct plx_lookup *l, const struct plx_lookup_slot *s,
                      const int32_t *ids, uint32_t n, int32_t parent, uint32_t end, float p,
                      double least, uint32_t most, struct plx_draft *out)
{
	float up = parent < 0 ? 1.0f : out->all[parent];

	for (uint32_t i = 0; i < most && end + i <= n; i++) {
		int32_t id = ids[end - 1 + i];

		if ((double)(up * p) < least || end + i > n)
			return;
		parent = plx_draft_add(out, parent, id, p);
		if (parent < 0 || end + i == n)
			return;
		up = out->all[parent];
		p = chance(l, s, class_of(i + 1, false));
	}
}

/* Behind a place of the first path, where its state forks: the second and third guess. */
static void add_others(const struct plx_lookup *l, const struct plx_lookup_slot *s,
                       const int32_t *ids, uint32_t n, struct plx_draft *out, uint32_t at,
                       uint32_t state, uint32_t most, double least)
{
	int32_t other[PLX_LOOKUP_OTHERS + 1] = {out->id[at]};
	uint32_t end[PLX_LOOKUP_OTHERS + 1] = {0};
	uint32_t class = class_of(s->index.match_len + at, true);
	uint32_t n_other = others(&s->index, state, other, end, 1);
	float left = 1 - out->p[at];

	for (uint32_t r = 1; r < n_other; r++) {
		float p = left * chance_other(l, s, r - 1, class);

		add_other(l, s, ids, n, (int32_t)at - 1, end[r], p, least, most - at, out);
		left -= p;
	}
}

static void propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                    double least, struct plx_draft *out)
{
	const struct plx_lookup *l = ctx;
	const struct plx_lookup_slot *s = &l->slot[slot];
	const struct plx_suffix *x = &s->index;
	uint32_t state = x->match, states[PLX_MAX_DRAFT], n_path = 0;
	double all = 1;

	if (x->n != n || x->match_len == 0)
		return;
	for (; n_path < most && n_path < PLX_MAX_DRAFT; n_path++) {
		uint32_t from = x->match_end + n_path;
		bool branches = state != PLX_SUFFIX_NONE && plx_suffix_branches(x, state);
		int32_t id = from < n ? ids[from] : out->id[from - n];
		float p = chance(l, s, class_of(x->match_len + n_path, branches));

		all *= (double)p;
		if (all < least)
			break;
		plx_draft_add(out, (int32_t)n_path - 1, id, p);
		states[n_path] = state;
		if (state != PLX_SUFFIX_NONE)
			state = plx_suffix_step(x, state, id);
	}
	for (uint32_t i = 0; i < n_path && out->tree; i++)
		if (states[i] != PLX_SUFFIX_NONE)
			add_others(l, s, ids, n, out, i, states[i], most, least);
}

struct plx_drafter plx_lookup_drafter(struct plx_lookup *l)
{
	return (struct plx_drafter){
	    .name = "lookup", .ctx = l, .begin = begin, .learn = learn, .propose = propose};
}
