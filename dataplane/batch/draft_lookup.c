/* Drafts from the sequence itself; draft_lookup.h says how. */
#include "dataplane/batch/draft_lookup.h"

#include <string.h>

#include "fw/base/err.h"

#define LENGTHS    7u
#define PRIOR      16.0f /* guesses that the chances at the start count for */
#define PRIOR_SEQ  6.0f  /* K: guesses that all sequences count for in one */
#define FORGET     0.97f
#define FORGET_ALL 0.998f

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

static void propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                    double least, struct plx_draft *out)
{
	const struct plx_lookup *l = ctx;
	const struct plx_lookup_slot *s = &l->slot[slot];
	const struct plx_suffix *x = &s->index;
	uint32_t state = x->match;
	double all = 1;

	out->n = 0;
	if (x->n != n || x->match_len == 0)
		return;
	for (; out->n < most && out->n < PLX_MAX_DRAFT; out->n++) {
		uint32_t from = x->match_end + out->n;
		bool branches = state != PLX_SUFFIX_NONE && plx_suffix_branches(x, state);
		int32_t id = from < n ? ids[from] : out->id[from - n];
		float p = chance(l, s, class_of(x->match_len + out->n, branches));

		all *= (double)p;
		if (all < least)
			return;
		out->id[out->n] = id;
		out->p[out->n] = p;
		if (state != PLX_SUFFIX_NONE)
			state = plx_suffix_step(x, state, id);
	}
}

struct plx_drafter plx_lookup_drafter(struct plx_lookup *l)
{
	return (struct plx_drafter){
	    .name = "lookup", .ctx = l, .begin = begin, .learn = learn, .propose = propose};
}
