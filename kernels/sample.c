/*
 * Choosing a token, a bounded piece at a time; sample.h has the definition and its order.
 *
 * No sort: what top-k and top-p keep is a prefix of the order "larger logit first, lower id
 * first", so it is named by a cut: its last logit, and the highest id kept among equals of that.
 * A cut is found in bins that hold counts (top-k) or sums of integer weights (top-p): first by
 * distance from the maximum, then by the bits of the logits that are left, until they are one
 * value. Maxima of blocks of 64 logits usually leave a few hundred candidates to look at; when they
 * don't, the same code looks at all logits.
 *
 * All of it is passes over logits (enum pass). A pass can stop after any 1,024 of them; what it has
 * by then is integers, counts and maxima, so where it stops changes nothing. When a pass ends,
 * pass_ended says what that was for (enum goal) and begins the next one.
 */
#include "kernels/sample.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define BIN_BITS     11
#define BINS         (1u << BIN_BITS)
#define CANDIDATES   8192u
#define BLOCK        PLX_K_MAX_BLOCK
#define BLOCKS       (PLX_K_VOCAB_MAX / BLOCK)
#define STRETCH      1024u   /* logits between two places where a pass can stop */
#define ONE          0x1p40f /* the weight of probability 1 */
#define SPAN         28.0f   /* further below the maximum than this a weight is 0 */
#define NEAR         0x1p-10f
#define OCTAVE_SHIFT 16 /* of a distance's bits: 15 octaves from NEAR to SPAN, 128 bins each */

enum pass {
	PASS_MAX,    /* block_max and max */
	PASS_GATHER, /* candidates: logits in lo .. hi */
	PASS_BINS,   /* the select's bins */
	PASS_EQUALS, /* the left-th of the logits whose key is lo */
	PASS_SUM,    /* weights of what the cut and min-p leave, by stretch and in all */
	PASS_TOP,    /* the best n_top */
	PASS_DONE,
};

/* What a pass is for. */
enum goal {
	FOR_MAX,
	FOR_BEST,        /* select among the blocks' maxima: none of the best is below it */
	FOR_BEST_GATHER, /* the logits that are not below it */
	FOR_TOP_K,       /* select */
	FOR_TOTAL,       /* what top-p is a part of */
	FOR_DROP,        /* gather the logits at most `drop` below the maximum */
	FOR_DROP_SUM,    /* whether they are enough for top-p */
	FOR_TOP_P,       /* select */
	FOR_DRAW,
	FOR_TOP,
};

/* Some of the logits, ids increasing. */
struct view {
	const float *x;
	const uint32_t *id; /* NULL: x[i] is id i */
	uint32_t n;
};

/* A prefix of the order: logits whose key is above `key`, and those equal with id <= max_id. */
struct cut {
	uint32_t key;
	uint32_t max_id;
};

static const struct cut everything = {0, UINT32_MAX};

/*
 * The search for the shortest prefix of `within` whose count or weight reaches `left`; there may be
 * none where min-p let narrow to less than top-p wants.
 */
struct select {
	struct view v;
	struct cut within;
	bool weighed;     /* else counted */
	bool by_distance; /* bins of distances from the maximum; else of key bits from `shift` on */
	bool narrowing;   /* the pass that runs is a gather of what is left */
	uint32_t shift;
	uint64_t left; /* to be reached inside lo .. hi */
};

struct job {
	const struct plx_kernels *k;
	struct plx_k_sampling s;
	struct view all;
	uint64_t random;
	bool logprobs; /* a plx_k_logprobs: the fields below, and no draw */
	uint32_t logprob_id;
	uint32_t n_top;
	uint32_t n_best; /* in top */
	double log_sum;
	float logprob;
	struct plx_k_logprob top[PLX_K_TOP_MAX];

	enum pass pass;
	enum goal goal;
	uint32_t at; /* how far the pass has come */
	uint32_t end;
	int64_t result; /* DONE: what is returned */

	float max;
	bool nan;
	float drop;
	struct view v;   /* holds all that can be kept */
	struct cut c;    /* what is kept */
	uint64_t target; /* top-p; 0: keeps all */

	struct view over; /* SUM */
	struct cut sum_cut;
	float sum_min_p;
	float inv_temperature;
	uint64_t sum;
	uint32_t lo; /* GATHER, BINS, EQUALS: keys */
	uint32_t hi;
	uint32_t n_found;
	bool overflow; /* GATHER: there are more than CANDIDATES */
	struct select sel;

	uint64_t bin[BINS]; /* BINS; SUM: by stretch */
	float block_max[BLOCKS];
	float x[CANDIDATES];
	uint32_t id[CANDIDATES];
};

static_assert(PLX_K_VOCAB_MAX / STRETCH <= BINS, "a sum of each stretch fits in the bins");
static_assert(STRETCH % BLOCK == 0, "passes stop between blocks");

/* ---- order and weights -------------------------------------------------------------------- */

/* The order of floats as integers; both zeros are equal. */
static uint32_t key_of(float x)
{
	uint32_t u = plx_f32_bits(x + 0.0f);

	return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static float float_of(uint32_t key)
{
	return plx_f32_from_bits(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

static uint32_t id_of(const struct view *v, uint32_t i)
{
	return v->id ? v->id[i] : i;
}

static bool is_kept(struct cut c, uint32_t key, uint32_t id)
{
	return key > c.key || (key == c.key && id <= c.max_id);
}

/* Weights of n <= 16 logits, the others 0. */
static void weights16(const struct job *j, const float *x, uint32_t n, float inv_temperature,
                      uint64_t out[16])
{
	float e[16];

	for (uint32_t i = 0; i < 16; i++)
		e[i] = i < n ? (x[i] - j->max) * inv_temperature : -INFINITY;
	j->k->exp(e, e, 16);
	for (uint32_t i = 0; i < 16; i++)
		out[i] = (uint64_t)(int64_t)(e[i] * ONE);
}

static bool is_all(const struct job *j, const struct view *v)
{
	return v->x == j->all.x;
}

/* Whether the block that begins at i has nothing as large as limit. */
static bool block_is_below(const struct job *j, const struct view *v, uint32_t i, float limit)
{
	return is_all(j, v) && j->block_max[i / BLOCK] < limit;
}

/* ---- passes: each looks at entries at .. end - 1 -------------------------------------------- */

static void pass_begin(struct job *j, enum pass pass, enum goal goal, uint32_t n)
{
	j->pass = pass;
	j->goal = goal;
	j->at = 0;
	j->end = n;
}

static void done(struct job *j, int64_t result)
{
	j->pass = PASS_DONE;
	j->result = result;
}

static void run_max(struct job *j, uint32_t at, uint32_t end)
{
	float top = j->k->block_max(j->block_max + at / BLOCK, j->all.x + at, end - at);

	j->nan = j->nan || isnan(top);
	j->max = top > j->max ? top : j->max;
}

static void gather_begin(struct job *j, enum goal goal, uint32_t lo, uint32_t hi)
{
	pass_begin(j, PASS_GATHER, goal, j->all.n);
	j->lo = lo;
	j->hi = hi;
	j->n_found = 0;
	j->overflow = false;
}

static struct view gathered(const struct job *j)
{
	return j->overflow ? j->all : (struct view){j->x, j->id, j->n_found};
}

static void gather_block(struct job *j, uint32_t at, uint32_t end)
{
	const float lo = float_of(j->lo);
	const float hi = float_of(j->hi);

	for (uint32_t i = at; i < end; i++) {
		if (j->all.x[i] < lo || j->all.x[i] > hi)
			continue;
		if (j->n_found == CANDIDATES) {
			j->overflow = true;
			j->at = j->end;
			return;
		}
		j->x[j->n_found] = j->all.x[i];
		j->id[j->n_found++] = i;
	}
}

static void run_gather(struct job *j, uint32_t at, uint32_t end)
{
	float limit = float_of(j->lo);

	for (uint32_t i = at; i < end && !j->overflow; i += BLOCK)
		if (!block_is_below(j, &j->all, i, limit))
			gather_block(j, i, i + BLOCK < end ? i + BLOCK : end);
}

/*
 * Bin 0 holds the largest logits; all that are SPAN below the maximum share the last one. From NEAR
 * on an octave of distances has 128 bins, so that flat logits are told apart as well as others.
 */
static uint32_t bin_by_distance(float max, float x)
{
	const uint32_t first = plx_f32_bits(NEAR) >> OCTAVE_SHIFT;
	float d = max - x;
	uint32_t bin = (plx_f32_bits(d + NEAR) >> OCTAVE_SHIFT) - first;

	return d < SPAN ? bin : BINS - 1;
}

/* Which of n <= 16 entries count, and their bins. */
static uint32_t members16(const struct job *j, uint32_t at, uint32_t n, uint32_t bin[16])
{
	const struct select *s = &j->sel;
	const float *x = s->v.x + at;
	uint32_t members = 0;

	if (s->by_distance && s->within.key == 0) {
		for (uint32_t i = 0; i < n; i++)
			bin[i] = bin_by_distance(j->max, x[i]);
		return (1u << n) - 1;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t key = key_of(x[i]);
		bool in = (key >= j->lo) & (key <= j->hi);

		in = in && is_kept(s->within, key, id_of(&s->v, at + i));
		members |= (uint32_t)in << i;
		bin[i] = s->by_distance ? bin_by_distance(j->max, x[i]) : (j->hi - key) >> s->shift;
	}
	return members;
}

/* Adds n <= 16 entries to their bins. */
static void bins16(struct job *j, uint32_t at, uint32_t n)
{
	uint64_t value[16];
	uint32_t bin[16];
	uint32_t members = members16(j, at, n, bin);

	if (members && j->sel.weighed)
		weights16(j, j->sel.v.x + at, n, 1.0f, value);
	for (; members; members &= members - 1) {
		uint32_t i = (uint32_t)__builtin_ctz(members);

		j->bin[bin[i]] += j->sel.weighed ? value[i] : 1;
	}
}

static void run_bins(struct job *j, uint32_t at, uint32_t end)
{
	float limit = float_of(j->lo);

	for (uint32_t i = at; i < end; i += 16)
		if (!block_is_below(j, &j->sel.v, i, limit))
			bins16(j, i, end - i < 16 ? end - i : 16);
}

static void run_equals(struct job *j, uint32_t at, uint32_t end)
{
	struct select *s = &j->sel;
	float limit = float_of(j->lo);

	for (uint32_t i = at; i < end; i++) {
		if (block_is_below(j, &s->v, i, limit)) {
			i |= BLOCK - 1;
			continue;
		}
		uint32_t id = id_of(&s->v, i);

		if (key_of(s->v.x[i]) != j->lo || !is_kept(s->within, j->lo, id) || --s->left > 0)
			continue;
		j->c = (struct cut){j->lo, id};
		j->at = j->end;
		return;
	}
}

static void sum_begin(struct job *j, enum goal goal, const struct view *v, struct cut c,
                      float inv_temperature)
{
	pass_begin(j, PASS_SUM, goal, v->n);
	j->over = *v;
	j->sum_cut = c;
	j->sum_min_p = goal == FOR_DRAW ? j->s.min_p : 0.0f;
	j->inv_temperature = inv_temperature;
	j->sum = 0;
}

/* Sets the least probable of n logits to -inf. */
static void min_p_mask(const struct job *j, float *x, uint32_t n)
{
	const float least = ceilf(j->sum_min_p * ONE);
	float e[16];

	for (uint32_t i = 0; i < n; i += 16) {
		uint32_t m = n - i < 16 ? n - i : 16;

		for (uint32_t l = 0; l < 16; l++)
			e[l] = l < m ? x[i + l] - j->max : -INFINITY;
		j->k->exp(e, e, 16);
		for (uint32_t l = 0; l < m; l++)
			x[i + l] = e[l] * ONE < least ? -INFINITY : x[i + l];
	}
}

/* The logits of a stretch, -inf where the cut or min-p leaves one out. */
static const float *kept_stretch(const struct job *j, uint32_t at, uint32_t n, float buf[STRETCH])
{
	const struct view *v = &j->over;

	if (j->sum_cut.key == 0 && j->sum_min_p <= 0.0f)
		return v->x + at;
	const float last = j->sum_cut.key ? float_of(j->sum_cut.key) : -INFINITY;

	for (uint32_t i = 0; i < n; i++) {
		float x = v->x[at + i];
		bool kept = x > last || (x >= last && id_of(v, at + i) <= j->sum_cut.max_id);

		buf[i] = kept ? x : -INFINITY;
	}
	if (j->sum_min_p > 0.0f)
		min_p_mask(j, buf, n);
	return buf;
}

static bool stretch_is_below(const struct job *j, uint32_t at, uint32_t end, float limit)
{
	uint32_t i = at;

	while (i < end && block_is_below(j, &j->over, i, limit))
		i += BLOCK;
	return i >= end;
}

static void run_sum(struct job *j, uint32_t at, uint32_t end)
{
	bool cuts = j->sum_cut.key != 0;
	float limit = cuts ? float_of(j->sum_cut.key) : -INFINITY;
	float buf[STRETCH];

	for (uint32_t i = at; i < end; i += STRETCH) {
		uint32_t n = end - i < STRETCH ? end - i : STRETCH;
		uint64_t sum = 0;

		if (!cuts || !stretch_is_below(j, i, i + n, limit))
			sum = j->k->weight_sum(kept_stretch(j, i, n, buf), n, j->max,
			                       j->inv_temperature);
		j->bin[i / STRETCH] = sum;
		j->sum += sum;
	}
}

/* Keeps the best n_top, best first, by insertion. */
static void run_top(struct job *j, uint32_t at, uint32_t end)
{
	for (uint32_t i = at; i < end; i++) {
		float x = j->v.x[i];
		uint32_t to = j->n_best;

		while (to > 0 && j->top[to - 1].logprob < x)
			to--;
		if (to == j->n_top)
			continue;
		j->n_best = j->n_best < j->n_top ? j->n_best + 1 : j->n_best;
		memmove(&j->top[to + 1], &j->top[to], (j->n_best - 1 - to) * sizeof *j->top);
		j->top[to] = (struct plx_k_logprob){id_of(&j->v, i), x};
	}
}

/* ---- finding a cut -------------------------------------------------------------------------- */

static void bins_begin(struct job *j)
{
	pass_begin(j, PASS_BINS, j->goal, j->sel.v.n);
	memset(j->bin, 0, sizeof j->bin);
}

/* Its cut will be in j->c. */
static void select_begin(struct job *j, enum goal goal, const struct view *v, bool weighed,
                         uint64_t target)
{
	j->sel = (struct select){
	    .v = *v, .within = j->c, .weighed = weighed, .by_distance = true, .left = target};
	j->lo = weighed ? key_of(j->max - SPAN) : 0;
	j->hi = key_of(j->max);
	j->goal = goal;
	bins_begin(j);
}

/* The least key in lo .. hi whose bin by distance is at most `bin`. */
static uint32_t first_key(const struct job *j, uint32_t bin)
{
	uint32_t lo = key_of(-INFINITY) > j->lo ? key_of(-INFINITY) : j->lo;
	uint32_t hi = j->hi;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (bin_by_distance(j->max, float_of(mid)) <= bin)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* Leaves in lo .. hi the keys of one bin. */
static void keys_narrow(struct job *j, uint32_t bin)
{
	struct select *s = &j->sel;

	if (s->by_distance) {
		uint32_t lo = first_key(j, bin);

		j->hi = bin > 0 ? first_key(j, bin - 1) - 1 : j->hi;
		j->lo = lo;
	} else {
		j->hi -= bin << s->shift;
		if ((j->hi - j->lo) >> s->shift > 0)
			j->lo = j->hi - ((1u << s->shift) - 1);
	}
	s->by_distance = false;
}

/* The next pass over what lo .. hi leaves. */
static void select_refine(struct job *j)
{
	struct select *s = &j->sel;
	uint64_t value[16];

	s->narrowing = false;
	if (j->lo < j->hi) {
		uint32_t bits = 32 - (uint32_t)__builtin_clz(j->hi - j->lo);

		s->shift = bits > BIN_BITS ? bits - BIN_BITS : 0;
		bins_begin(j);
		return;
	}
	if (s->weighed) {
		float x = float_of(j->lo);

		weights16(j, &x, 1, 1.0f, value);
		s->left = (s->left + value[0] - 1) / value[0];
	}
	pass_begin(j, PASS_EQUALS, j->goal, s->v.n);
}

/* After a pass of the select; false when j->c is its cut: `within`, if none reaches the target. */
static bool select_goes_on(struct job *j)
{
	struct select *s = &j->sel;
	uint32_t bin = 0;

	if (j->pass == PASS_EQUALS)
		return false;
	if (s->narrowing) {
		s->v = gathered(j);
		select_refine(j);
		return true;
	}
	while (bin < BINS && j->bin[bin] < s->left)
		s->left -= j->bin[bin++];
	if (bin == BINS)
		return false;
	keys_narrow(j, bin);
	s->narrowing = is_all(j, &s->v);
	if (s->narrowing)
		gather_begin(j, j->goal, j->lo, j->hi);
	else
		select_refine(j);
	return true;
}

/* ---- from pass to pass ---------------------------------------------------------------------- */

/* floor(random / 2^64 * n) */
static uint64_t scaled(uint64_t random, uint64_t n)
{
	__extension__ typedef unsigned __int128 u128;

	return (uint64_t)((u128)random * n >> 64);
}

/* The id with which the running sum of weights exceeds r, found through the stretches' sums. */
static int64_t draw_one(struct job *j)
{
	uint64_t r = scaled(j->random, j->sum);
	float buf[STRETCH];
	uint64_t value[16];
	uint32_t at = 0;

	while (j->bin[at / STRETCH] <= r) {
		r -= j->bin[at / STRETCH];
		at += STRETCH;
		PLX_CHECK(at < j->over.n); /* r is below the sum */
	}
	uint32_t n = j->over.n - at < STRETCH ? j->over.n - at : STRETCH;
	const float *x = kept_stretch(j, at, n, buf);

	for (uint32_t i = 0; i < n; i += 16) {
		weights16(j, x + i, n - i < 16 ? n - i : 16, j->inv_temperature, value);
		for (uint32_t l = 0; l < 16; r -= value[l++])
			if (value[l] > r)
				return id_of(&j->over, at + i + l);
	}
	return PLX_E_FAULT; /* not reached: r is below the stretch's sum */
}

/* The first of the logits equal to max, through the blocks' maxima. */
static int64_t first_of_max(const struct job *j)
{
	uint32_t i = 0;

	while (j->block_max[i / BLOCK] < j->max)
		i += BLOCK;
	while (j->all.x[i] < j->max)
		i++;
	return i;
}

static void draw_begin(struct job *j)
{
	sum_begin(j, FOR_DRAW, &j->v, j->c, 1.0f / j->s.temperature);
}

static void top_p_begin(struct job *j)
{
	if (j->target > 0)
		select_begin(j, FOR_TOP_P, &j->v, true, j->target);
	else
		draw_begin(j);
}

static void drop_begin(struct job *j, float drop)
{
	j->drop = drop;
	gather_begin(j, FOR_DROP, key_of(j->max - drop), key_of(j->max));
}

/* With the total in j->target, where top-p needs it. */
static void after_total(struct job *j)
{
	if (!j->v.id && j->c.key == 0 && (j->target > 0 || j->s.min_p > 0.0f))
		drop_begin(j, 4.0f);
	else
		top_p_begin(j);
}

static void after_top_k(struct job *j)
{
	if (j->s.top_p < 1.0f)
		sum_begin(j, FOR_TOTAL, &j->v, j->c, 1.0f);
	else
		after_total(j);
}

/* Some logits were gathered: enough of them, too many, or too few yet. */
static void after_drop(struct job *j)
{
	struct view v = gathered(j);
	bool min_p_ends = plx_k_expf(-j->drop) < j->s.min_p * 0.5f;

	if (j->overflow || min_p_ends || (j->goal == FOR_DROP_SUM && j->sum >= j->target)) {
		j->v = v;
		top_p_begin(j);
	} else if (j->goal == FOR_DROP && j->target > 0) {
		sum_begin(j, FOR_DROP_SUM, &v, everything, 1.0f);
	} else if (j->drop < 32.0f) {
		drop_begin(j, j->drop * 2.0f);
	} else {
		top_p_begin(j);
	}
}

/* j->v has the n_best first ones. */
static void after_best(struct job *j)
{
	if (j->logprobs)
		pass_begin(j, PASS_TOP, FOR_TOP, j->v.n);
	else
		select_begin(j, FOR_TOP_K, &j->v, false, j->s.top_k);
}

/* At least the n_best (> 0) first logits: no fewer blocks have a maximum that reaches the limit. */
static void best_begin(struct job *j, uint32_t n_best)
{
	struct view maxima = {j->block_max, NULL, (j->all.n + BLOCK - 1) / BLOCK};

	if (n_best > maxima.n || n_best > CANDIDATES)
		after_best(j);
	else
		select_begin(j, FOR_BEST, &maxima, false, n_best);
}

static void after_best_cut(struct job *j)
{
	uint32_t lo = j->c.key;

	j->c = everything;
	gather_begin(j, FOR_BEST_GATHER, lo, key_of(j->max));
}

static void after_max(struct job *j)
{
	if (j->nan || !(j->max > -INFINITY && j->max < INFINITY))
		done(j, PLX_E_FAULT);
	else if (j->logprobs)
		sum_begin(j, FOR_TOTAL, &j->v, everything, 1.0f);
	else if (j->s.temperature <= 0.0f)
		done(j, first_of_max(j));
	else if (j->s.top_k > 0 && j->s.top_k < j->all.n)
		best_begin(j, j->s.top_k);
	else
		after_top_k(j);
}

/*
 * Natural logarithm for x >= 1, error below 1e-12: x = m * 2^e, log m = 2 atanh((m-1)/(m+1)).
 * Our own, since the library's bits differ between machines.
 */
static double log_of(double x)
{
	int e;
	double m = frexp(x, &e);

	if (m < 0x1.6a09e667f3bcdp-1) {
		m *= 2.0;
		e--;
	}
	double f = (m - 1.0) / (m + 1.0);
	double p = 0.0;

	for (int i = 17; i >= 1; i -= 2)
		p = p * (f * f) + 1.0 / i;
	return 2.0 * f * p + e * 0x1.62e42fefa39efp-1;
}

static void logprob_set(struct job *j)
{
	j->log_sum = log_of((double)j->sum * 0x1p-40);
	j->logprob = (float)((double)j->all.x[j->logprob_id] - (double)j->max - j->log_sum);
	if (j->n_top > 0)
		best_begin(j, j->n_top);
	else
		done(j, PLX_E_OK);
}

static void top_set(struct job *j)
{
	for (uint32_t i = 0; i < j->n_top; i++)
		j->top[i].logprob =
		    (float)((double)j->top[i].logprob - (double)j->max - j->log_sum);
	done(j, PLX_E_OK);
}

static bool is_select(enum goal g)
{
	return g == FOR_BEST || g == FOR_TOP_K || g == FOR_TOP_P;
}

static void pass_ended(struct job *j)
{
	if (is_select(j->goal) && select_goes_on(j))
		return;
	switch (j->goal) {
	case FOR_MAX:
		after_max(j);
		break;
	case FOR_BEST:
		after_best_cut(j);
		break;
	case FOR_BEST_GATHER:
		j->v = gathered(j);
		after_best(j);
		break;
	case FOR_TOP_K:
		after_top_k(j);
		break;
	case FOR_TOTAL:
		if (j->logprobs) {
			logprob_set(j);
			break;
		}
		j->target = (uint64_t)ceil((double)j->s.top_p * (double)j->sum);
		after_total(j);
		break;
	case FOR_DROP:
	case FOR_DROP_SUM:
		after_drop(j);
		break;
	case FOR_TOP_P:
		draw_begin(j);
		break;
	case FOR_DRAW:
		done(j, draw_one(j));
		break;
	case FOR_TOP:
		top_set(j);
		break;
	}
}

/* Looks at some more logits, about budget's worth; returns what they cost. */
static uint64_t pass_some(struct job *j, uint64_t budget)
{
	/* Logits that cost as much as one of PASS_BINS. */
	static const uint8_t worth[] = {
	    [PASS_MAX] = 4,    [PASS_GATHER] = 2, [PASS_BINS] = 1,
	    [PASS_EQUALS] = 2, [PASS_SUM] = 2,    [PASS_TOP] = 2,
	};
	static void (*const run[])(struct job * j, uint32_t at, uint32_t end) = {
	    [PASS_MAX] = run_max,       [PASS_GATHER] = run_gather, [PASS_BINS] = run_bins,
	    [PASS_EQUALS] = run_equals, [PASS_SUM] = run_sum,       [PASS_TOP] = run_top,
	};
	enum pass pass = j->pass;
	uint32_t at = j->at;
	uint64_t n = budget * worth[pass] / STRETCH * STRETCH;

	n = n < STRETCH ? STRETCH : n;
	j->at = n < j->end - at ? at + (uint32_t)n : j->end;
	n = j->at - at;
	run[pass](j, at, j->at);
	if (j->at == j->end)
		pass_ended(j);
	return n / worth[pass] + 1;
}

static int64_t job_step(struct job *j, uint32_t budget)
{
	uint64_t left = budget;

	while (j->pass != PASS_DONE) {
		uint64_t cost = pass_some(j, left);

		if (cost >= left)
			break;
		left -= cost;
	}
	return j->pass == PASS_DONE ? j->result : PLX_E_AGAIN;
}

/* ---- the functions of the header ------------------------------------------------------------ */

static bool settings_are_valid(const struct plx_k_sampling *s)
{
	return s->temperature < INFINITY && s->top_p > 0.0f && s->top_p <= 1.0f &&
	       s->min_p >= 0.0f && s->min_p <= 1.0f;
}

static uint64_t random_bits(const struct plx_k_sampling *s, uint32_t position, uint32_t draw)
{
	const uint32_t ctr[4] = {position, draw, s->sample, 0};
	const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
	uint32_t out[4];

	plx_k_philox(ctr, key, out);
	return (uint64_t)out[1] << 32 | out[0];
}

size_t plx_k_sample_scratch_bytes(void)
{
	return sizeof(struct job);
}

static void job_begin(struct job *j, const struct plx_kernels *k, const float *logits,
                      uint32_t n_vocab)
{
	j->k = k;
	j->all = (struct view){logits, NULL, n_vocab};
	j->v = j->all;
	j->c = everything;
	j->target = 0;
	j->max = -INFINITY;
	j->nan = false;
	pass_begin(j, PASS_MAX, FOR_MAX, n_vocab);
	if (n_vocab == 0 || n_vocab > PLX_K_VOCAB_MAX)
		done(j, PLX_E_INVAL);
}

void plx_k_sample_begin(void *scratch, const struct plx_kernels *k, const struct plx_k_sampling *s,
                        const float *logits, uint32_t n_vocab, uint32_t position, uint32_t draw)
{
	struct job *j = scratch;

	job_begin(j, k, logits, n_vocab);
	j->s = *s;
	j->logprobs = false;
	if (settings_are_valid(s))
		j->random = random_bits(s, position, draw);
	else
		done(j, PLX_E_INVAL);
}

int64_t plx_k_sample_step(void *scratch, uint32_t budget)
{
	return job_step(scratch, budget);
}

int64_t plx_k_sample(const struct plx_kernels *k, const struct plx_k_sampling *s,
                     const float *logits, uint32_t n_vocab, uint32_t position, uint32_t draw,
                     void *scratch)
{
	int64_t id = PLX_E_AGAIN;

	plx_k_sample_begin(scratch, k, s, logits, n_vocab, position, draw);
	while (id == PLX_E_AGAIN)
		id = plx_k_sample_step(scratch, UINT32_MAX);
	return id;
}

void plx_k_logprobs_begin(void *scratch, const struct plx_kernels *k, const float *logits,
                          uint32_t n_vocab, uint32_t id, uint32_t n_top)
{
	struct job *j = scratch;

	job_begin(j, k, logits, n_vocab);
	j->logprobs = true;
	j->logprob_id = id;
	j->n_top = n_top;
	j->n_best = 0;
	if (id >= n_vocab || n_top > n_vocab || n_top > PLX_K_TOP_MAX)
		done(j, PLX_E_INVAL);
}

int plx_k_logprobs_step(void *scratch, uint32_t budget, float *logprob, struct plx_k_logprob *top)
{
	struct job *j = scratch;
	int err = (int)job_step(j, budget);

	if (err != 0)
		return err;
	*logprob = j->logprob;
	if (j->n_top > 0)
		memcpy(top, j->top, j->n_top * sizeof *top);
	return PLX_E_OK;
}

int plx_k_logprobs(const struct plx_kernels *k, const float *logits, uint32_t n_vocab, uint32_t id,
                   float *logprob, struct plx_k_logprob *top, uint32_t n_top, void *scratch)
{
	int err = PLX_E_AGAIN;

	plx_k_logprobs_begin(scratch, k, logits, n_vocab, id, n_top);
	while (err == PLX_E_AGAIN)
		err = plx_k_logprobs_step(scratch, UINT32_MAX, logprob, top);
	return err;
}
