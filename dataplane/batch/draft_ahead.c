/* Drafts from a pool of n-grams and a Jacobi trajectory; draft_ahead.h says how. */
#include "dataplane/batch/draft_ahead.h"

#include <string.h>

#include "fw/base/err.h"

#define NONE        UINT32_MAX
#define PRIOR       16.0f /* guesses that the chances at the start count for */
#define PRIOR_SEQ   4.0f  /* guesses that all sequences count for in one */
#define FORGET      0.97f
#define FORGET_ALL  0.998f
#define WORTH_RUN   64.0f /* places that the trajectory's worth at the start counts for */
#define WORTH_FIRST 0.15f
#define WORTH_AGAIN 8.0f

/* ---- chances ---- */

static void score(struct plx_ahead_score *s, float hit, float forget)
{
	s->n = forget * s->n + 1;
	s->hits = forget * s->hits + hit;
}

static float chance(const struct plx_ahead_score *all, const struct plx_ahead_score *own)
{
	return (own->hits + PRIOR_SEQ * all->hits / all->n) / (own->n + PRIOR_SEQ);
}

static struct plx_ahead_score prior(float n, float p)
{
	return (struct plx_ahead_score){n, n * p};
}

/* ---- the pool ---- */

static struct plx_ahead_key *key_of(struct plx_ahead_slot *s, int32_t id)
{
	uint32_t h = (uint32_t)((uint64_t)(uint32_t)id * UINT64_C(0x9e3779b97f4a7c15) >> 40);

	return &s->key[h % PLX_AHEAD_KEYS];
}

/* The n-grams of an id; n 0 behind the last. */
static const struct plx_ahead_gram *grams(const struct plx_ahead_slot *s, int32_t id)
{
	static const struct plx_ahead_gram none[PLX_AHEAD_WAYS];
	const struct plx_ahead_key *k = key_of((struct plx_ahead_slot *)(uintptr_t)s, id);

	return k->id == id ? k->gram : none;
}

/* Where one of two is the beginning of the other. */
static bool agree(const struct plx_ahead_gram *a, const struct plx_ahead_gram *b)
{
	uint32_t n = a->n < b->n ? a->n : b->n;

	return memcmp(a->id, b->id, n * sizeof(a->id[0])) == 0;
}

/* ids[0] and the n behind it, which now are the latest; the oldest n-gram of that id goes. */
static void pool_add(struct plx_ahead_slot *s, const int32_t *ids, uint32_t n, bool made)
{
	struct plx_ahead_key *k = key_of(s, ids[0]);
	struct plx_ahead_gram g = {.n = (uint8_t)n, .made = made};
	uint32_t i = 0;

	memcpy(g.id, ids + 1, n * sizeof(g.id[0]));
	if (k->id != ids[0]) {
		memset(k, 0, sizeof(*k));
		k->id = ids[0];
	}
	while (i < PLX_AHEAD_WAYS - 1 && k->gram[i].n > 0 && !agree(&k->gram[i], &g))
		i++;
	if (k->gram[i].n > 0 && agree(&k->gram[i], &g)) {
		g.made = g.made && k->gram[i].made;
		if (k->gram[i].n > g.n) {
			g.n = k->gram[i].n;
			memcpy(g.id, k->gram[i].id, sizeof(g.id));
		}
	}
	memmove(&k->gram[1], &k->gram[0], i * sizeof(g));
	k->gram[0] = g;
}

/* ---- a sequence ---- */

size_t plx_ahead_bytes(uint32_t n_slots)
{
	return n_slots * sizeof(struct plx_ahead_slot) + 64;
}

int plx_ahead_init(struct plx_ahead *h, struct plx_arena *a, uint32_t n_slots, uint32_t n_x)
{
	static const float first[PLX_AHEAD_WAYS] = {0.3f, 0.15f, 0.1f};

	memset(h, 0, sizeof(*h));
	h->n_slots = n_slots;
	h->n_x = n_x < PLX_AHEAD_MOST ? n_x : PLX_AHEAD_MOST;
	h->slot = plx_arena_take(a, n_slots * sizeof(*h->slot), 64);
	if (!h->slot)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < PLX_AHEAD_WAYS; i++)
		h->way[i] = prior(PRIOR, first[i]);
	for (uint32_t i = 0; i < PLX_AHEAD_MOST; i++)
		h->place[i] = prior(PRIOR, 0.1f);
	h->further = prior(PRIOR, 0.5f);
	h->worth = prior(WORTH_RUN, WORTH_FIRST);
	return 0;
}

static void begin(void *ctx, uint32_t slot)
{
	struct plx_ahead *h = ctx;
	struct plx_ahead_slot *s = &h->slot[slot];

	memset(s, 0, sizeof(*s));
	for (uint32_t i = 0; i < PLX_AHEAD_KEYS; i++)
		s->key[i].id = -1;
	s->n_right = NONE;
}

/* Was the trajectory right at this place, if it was so far? */
static void judge_place(struct plx_ahead *h, struct plx_ahead_slot *s, uint32_t index, int32_t id)
{
	uint32_t j = index - s->at;

	if (s->n_right == NONE || index < s->at || j != s->n_right || j >= h->n_x)
		return;
	bool hit = s->x[j] == id;

	score(&h->place[j], hit ? 1 : 0, FORGET_ALL);
	s->n_right = hit ? j + 1 : NONE;
}

/* Was the pool right behind the id before this one? */
static void judge_pool(struct plx_ahead *h, struct plx_ahead_slot *s, int32_t before, int32_t id)
{
	if (s->n_followed > 0 && s->n_followed < s->follows.n) {
		bool hit = s->follows.id[s->n_followed++] == id;

		score(&s->further, hit ? 1 : 0, FORGET);
		score(&h->further, hit ? 1 : 0, FORGET_ALL);
		if (hit)
			return;
	}
	const struct plx_ahead_gram *g = grams(s, before);

	s->n_followed = 0;
	for (uint32_t i = 0; i < PLX_AHEAD_WAYS && g[i].n > 0; i++) {
		bool hit = g[i].id[0] == id;

		score(&s->way[i], hit ? 1 : 0, FORGET);
		score(&h->way[i], hit ? 1 : 0, FORGET_ALL);
		if (!hit)
			continue;
		s->follows = g[i];
		s->n_followed = 1;
		return;
	}
}

static uint32_t learn(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t n_prompt,
                      uint32_t most)
{
	struct plx_ahead *h = ctx;
	struct plx_ahead_slot *s = &h->slot[slot];
	uint32_t i = 0;

	for (; i < most && s->n_seen < n; i++, s->n_seen++) {
		uint32_t at = s->n_seen, back = at < PLX_AHEAD_GRAM ? at : PLX_AHEAD_GRAM;

		if (at >= n_prompt && at > 0) {
			judge_place(h, s, at, ids[at]);
			judge_pool(h, s, ids[at - 1], ids[at]);
			h->n_idle++;
		}
		for (; back > 0; back--)
			pool_add(s, ids + at - back, back, false);
	}
	return i;
}

/* ---- guessing ---- */

/* A draft of the last proposal, and where it is from. */
static int32_t add(struct plx_ahead_slot *s, int32_t parent, int32_t id, float p, bool made,
                   bool own)
{
	uint32_t was = s->last.n;
	int32_t at = plx_draft_add(&s->last, parent, id, p);

	if (at < 0)
		return at;
	if ((uint32_t)at == was) {
		s->made[at] = made;
		s->own[at] = false;
	}
	s->own[at] = s->own[at] || own;
	return at;
}

/* Behind draft `from`, whose id is `id`: n-grams, and what the pool has behind each one's end. */
static void add_grams(const struct plx_ahead *h, struct plx_ahead_slot *s, int32_t id,
                      uint32_t most, double least, bool tree)
{
	const struct plx_ahead_gram *first = grams(s, id);
	float left = 1, further = chance(&h->further, &s->further);

	for (uint32_t w = 0; w < PLX_AHEAD_WAYS && first[w].n > 0; w++) {
		const struct plx_ahead_gram *g = &first[w];
		float p = left * chance(&h->way[w], &s->way[w]);
		int32_t at = -1;

		left -= p;
		for (uint32_t depth = 0, k = 0; depth < most; depth++, k++, p = further) {
			if (k == g->n) {
				g = grams(s, g->id[k - 1]);
				k = 0;
			}
			float up = at < 0 ? 1 : s->last.all[at];

			if (g->n == 0 || (double)(up * p) < least)
				break;
			at = add(s, at, g->id[k], p, g->made, false);
			if (at < 0)
				return;
		}
		if (!tree)
			return;
	}
}

/* The trajectory: what it is worth is its places' chances, or what its n-grams were worth so far.
 */
static void add_trajectory(const struct plx_ahead *h, struct plx_ahead_slot *s, uint32_t most,
                           double least)
{
	float worth = h->worth.hits / h->worth.n, all = 1;
	int32_t at = -1;

	for (uint32_t j = 0; j < h->n_x && j < most; j++) {
		float direct = all * h->place[j].hits / h->place[j].n,
		      up = at < 0 ? 1 : s->last.all[at];
		float want = direct > worth ? direct : worth;

		want = want < up ? want : up;
		if ((double)want < least)
			return;
		at = add(s, at, s->x[j], want / up, false, true);
		if (at < 0)
			return;
		all = direct;
	}
}

static void propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                    double least, struct plx_draft *out)
{
	struct plx_ahead *h = ctx;
	struct plx_ahead_slot *s = &h->slot[slot];

	if (s->n_seen != n || n == 0)
		return;
	if (h->n_idle >= PLX_AHEAD_AGAIN) { /* it may be worth more by now */
		h->worth = prior(WORTH_AGAIN, WORTH_FIRST);
		h->n_idle = 0;
	}
	plx_draft_begin(&s->last, out->tree);
	add_grams(h, s, ids[n - 1], most, least, out->tree);
	if (out->tree && h->n_x > 0) {
		if (s->at != n) { /* none: ids of the text, from anywhere */
			for (uint32_t j = 0; j < h->n_x; j++)
				s->x[j] = ids[(n * 7 + j * 13) % n];
			s->at = n;
			s->n_right = 0;
		}
		add_trajectory(h, s, most, least);
	}
	*out = s->last;
}

/* ---- what rows sampled ---- */

/* The child of a proposed draft that is id; -1: it was not proposed. */
static int32_t child(const struct plx_draft *d, int32_t at, int32_t id)
{
	for (uint32_t i = (uint32_t)(at + 1); i < d->n; i++)
		if (d->parent[i] == at && d->id[i] == id)
			return (int32_t)i;
	return -1;
}

/* Places of the trajectory that were run, and drafts taken that an earlier one had made. */
static void judge_worth(struct plx_ahead *h, const struct plx_ahead_slot *s,
                        const struct plx_draft_rows *r)
{
	int32_t at[PLX_MAX_DRAFT + 1] = {-1};
	float run = 0, won = 0;

	for (uint32_t i = 1; i <= r->n; i++) {
		at[i] = r->parent[i] > 0 && at[r->parent[i]] < 0
		            ? -1
		            : child(&s->last, at[r->parent[i]], r->id[i]);
		run += at[i] >= 0 && s->own[at[i]];
	}
	int32_t way = -1;

	for (uint32_t k = 0; k + 1 < r->n_taken; k++) {
		way = child(&s->last, way, r->taken[k]);
		if (way < 0)
			break;
		won += s->made[way];
	}
	for (float i = 0; i < run; i++)
		score(&h->worth, 0, FORGET_ALL);
	h->worth.hits += won;
	if (run > 0)
		h->n_idle = 0;
}

/* What was sampled behind the last ids of row i's path. */
static void pool_row(struct plx_ahead_slot *s, const struct plx_draft_rows *r, uint32_t i)
{
	int32_t gram[PLX_AHEAD_GRAM + 1];
	uint32_t n = PLX_AHEAD_GRAM;

	gram[n] = r->sampled[i];
	for (uint32_t at = i; at > 0 && n > 0; at = (uint32_t)r->parent[at])
		gram[--n] = r->id[at];
	for (; n < PLX_AHEAD_GRAM; n++)
		pool_add(s, gram + n, PLX_AHEAD_GRAM - n, true);
}

/* The trajectory behind the ids taken: what its rows sampled there. */
static void move_on(struct plx_ahead *h, struct plx_ahead_slot *s, const struct plx_draft_rows *r)
{
	int32_t sampled[PLX_AHEAD_MOST + 1], n = 0;
	uint32_t row = 0;

	for (uint32_t k = 0; k < r->n_taken; k++)
		judge_place(h, s, s->n_seen + k, r->taken[k]);
	for (sampled[n++] = r->sampled[0]; (uint32_t)n <= h->n_x; n++) {
		uint32_t i = row + 1;

		while (i <= r->n && !((uint32_t)r->parent[i] == row && r->id[i] == s->x[n - 1]))
			i++;
		if (i > r->n)
			break;
		row = i;
		sampled[n] = r->sampled[row];
	}
	/* sampled[j] stands j places behind the committed token's next one. */
	for (uint32_t j = 0; j < h->n_x; j++) {
		uint32_t from = j + r->n_taken;

		s->x[j] = from < (uint32_t)n ? sampled[from] : s->x[(j + r->n_taken) % h->n_x];
	}
	s->at = s->n_seen + r->n_taken;
	s->n_right = 0;
}

static void came(void *ctx, uint32_t slot, const struct plx_draft_rows *r)
{
	struct plx_ahead *h = ctx;
	struct plx_ahead_slot *s = &h->slot[slot];

	judge_worth(h, s, r);
	for (uint32_t i = 1; i <= r->n; i++)
		pool_row(s, r, i);
	if (h->n_x > 0)
		move_on(h, s, r);
}

struct plx_drafter plx_ahead_drafter(struct plx_ahead *h)
{
	return (struct plx_drafter){.name = "lookahead",
	                            .ctx = h,
	                            .begin = begin,
	                            .learn = learn,
	                            .propose = propose,
	                            .kind = PLX_DRAFT_AHEAD,
	                            .came = came};
}
