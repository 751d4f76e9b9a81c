/* The passes that choosing a token is made of, and the search for a cut; sample.c says how. */
#include <string.h>

#include "kernels/sample_int.h"

void plx_k_job_weights16(const struct plx_k_job *j, const float *x, uint32_t n,
                         float inv_temperature, uint64_t out[16])
{
	float e[16];

	for (uint32_t i = 0; i < 16; i++)
		e[i] = i < n ? (x[i] - j->max) * inv_temperature : -INFINITY;
	j->k->exp(e, e, 16);
	for (uint32_t i = 0; i < 16; i++)
		out[i] = (uint64_t)(int64_t)(e[i] * ONE);
}

/* Whether the block that begins at i has nothing as large as limit. */
static inline bool block_is_below(const struct plx_k_job *j, const struct plx_k_view *v, uint32_t i,
                                  float limit)
{
	return is_all(j, v) && j->block_max[i / BLOCK] < limit;
}

/* ---- passes: each looks at entries at .. end - 1 -------------------------------------------- */

void plx_k_job_pass_begin(struct plx_k_job *j, enum plx_k_pass pass, enum plx_k_goal goal,
                          uint32_t n)
{
	j->pass = pass;
	j->goal = goal;
	j->at = 0;
	j->end = n;
}

static void run_max(struct plx_k_job *j, uint32_t at, uint32_t end)
{
	float top = j->k->block_max(j->block_max + at / BLOCK, j->all.x + at, end - at);

	j->nan = j->nan || isnan(top);
	j->max = top > j->max ? top : j->max;
}

void plx_k_job_gather_begin(struct plx_k_job *j, enum plx_k_goal goal, uint32_t lo, uint32_t hi)
{
	plx_k_job_pass_begin(j, PASS_GATHER, goal, j->all.n);
	j->lo = lo;
	j->hi = hi;
	j->n_found = 0;
	j->overflow = false;
}

struct plx_k_view plx_k_job_gathered(const struct plx_k_job *j)
{
	return j->overflow ? j->all : (struct plx_k_view){j->x, j->id, j->n_found};
}

static void gather_block(struct plx_k_job *j, uint32_t at, uint32_t end)
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

static void run_gather(struct plx_k_job *j, uint32_t at, uint32_t end)
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
static uint32_t members16(const struct plx_k_job *j, uint32_t at, uint32_t n, uint32_t bin[16])
{
	const struct plx_k_select *s = &j->sel;
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
static void bins16(struct plx_k_job *j, uint32_t at, uint32_t n)
{
	uint64_t value[16];
	uint32_t bin[16];
	uint32_t members = members16(j, at, n, bin);

	if (members && j->sel.weighed)
		plx_k_job_weights16(j, j->sel.v.x + at, n, 1.0f, value);
	for (; members; members &= members - 1) {
		uint32_t i = (uint32_t)__builtin_ctz(members);

		j->bin[bin[i]] += j->sel.weighed ? value[i] : 1;
	}
}

static void run_bins(struct plx_k_job *j, uint32_t at, uint32_t end)
{
	float limit = float_of(j->lo);

	for (uint32_t i = at; i < end; i += 16)
		if (!block_is_below(j, &j->sel.v, i, limit))
			bins16(j, i, end - i < 16 ? end - i : 16);
}

static void run_equals(struct plx_k_job *j, uint32_t at, uint32_t end)
{
	struct plx_k_select *s = &j->sel;
	float limit = float_of(j->lo);

	for (uint32_t i = at; i < end; i++) {
		if (block_is_below(j, &s->v, i, limit)) {
			i |= BLOCK - 1;
			continue;
		}
		uint32_t id = id_of(&s->v, i);

		if (key_of(s->v.x[i]) != j->lo || !is_kept(s->within, j->lo, id) || --s->left > 0)
			continue;
		j->c = (struct plx_k_cut){j->lo, id};
		j->at = j->end;
		return;
	}
}

void plx_k_job_sum_begin(struct plx_k_job *j, enum plx_k_goal goal, const struct plx_k_view *v,
                         struct plx_k_cut c, float inv_temperature)
{
	plx_k_job_pass_begin(j, PASS_SUM, goal, v->n);
	j->over = *v;
	j->sum_cut = c;
	j->sum_min_p = goal == FOR_DRAW ? j->s.min_p : 0.0f;
	j->inv_temperature = inv_temperature;
	j->sum = 0;
}

/* Sets the least probable of n logits to -inf. */
static void min_p_mask(const struct plx_k_job *j, float *x, uint32_t n)
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

const float *plx_k_job_kept_stretch(const struct plx_k_job *j, uint32_t at, uint32_t n,
                                    float buf[STRETCH])
{
	const struct plx_k_view *v = &j->over;

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

static bool stretch_is_below(const struct plx_k_job *j, uint32_t at, uint32_t end, float limit)
{
	uint32_t i = at;

	while (i < end && block_is_below(j, &j->over, i, limit))
		i += BLOCK;
	return i >= end;
}

static void run_sum(struct plx_k_job *j, uint32_t at, uint32_t end)
{
	bool cuts = j->sum_cut.key != 0;
	float limit = cuts ? float_of(j->sum_cut.key) : -INFINITY;
	float buf[STRETCH];

	for (uint32_t i = at; i < end; i += STRETCH) {
		uint32_t n = end - i < STRETCH ? end - i : STRETCH;
		uint64_t sum = 0;

		if (!cuts || !stretch_is_below(j, i, i + n, limit))
			sum = j->k->weight_sum(plx_k_job_kept_stretch(j, i, n, buf), n, j->max,
			                       j->inv_temperature);
		j->bin[i / STRETCH] = sum;
		j->sum += sum;
	}
}

/* Keeps the best n_top, best first, by insertion. */
static void run_top(struct plx_k_job *j, uint32_t at, uint32_t end)
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

void plx_k_job_pass_run(struct plx_k_job *j, uint32_t at, uint32_t end)
{
	static void (*const run[])(struct plx_k_job * j, uint32_t at, uint32_t end) = {
	    [PASS_MAX] = run_max,       [PASS_GATHER] = run_gather, [PASS_BINS] = run_bins,
	    [PASS_EQUALS] = run_equals, [PASS_SUM] = run_sum,       [PASS_TOP] = run_top,
	};

	run[j->pass](j, at, end);
}

/* ---- finding a cut -------------------------------------------------------------------------- */

static void bins_begin(struct plx_k_job *j)
{
	plx_k_job_pass_begin(j, PASS_BINS, j->goal, j->sel.v.n);
	memset(j->bin, 0, sizeof j->bin);
}

void plx_k_job_select_begin(struct plx_k_job *j, enum plx_k_goal goal, const struct plx_k_view *v,
                            bool weighed, uint64_t target)
{
	j->sel = (struct plx_k_select){
	    .v = *v, .within = j->c, .weighed = weighed, .by_distance = true, .left = target};
	j->lo = weighed ? key_of(j->max - SPAN) : 0;
	j->hi = key_of(j->max);
	j->goal = goal;
	bins_begin(j);
}

/* The least key in lo .. hi whose bin by distance is at most `bin`. */
static uint32_t first_key(const struct plx_k_job *j, uint32_t bin)
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
static void keys_narrow(struct plx_k_job *j, uint32_t bin)
{
	struct plx_k_select *s = &j->sel;

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
static void select_refine(struct plx_k_job *j)
{
	struct plx_k_select *s = &j->sel;
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

		plx_k_job_weights16(j, &x, 1, 1.0f, value);
		s->left = (s->left + value[0] - 1) / value[0];
	}
	plx_k_job_pass_begin(j, PASS_EQUALS, j->goal, s->v.n);
}

bool plx_k_job_select_goes_on(struct plx_k_job *j)
{
	struct plx_k_select *s = &j->sel;
	uint32_t bin = 0;

	if (j->pass == PASS_EQUALS)
		return false;
	if (s->narrowing) {
		s->v = plx_k_job_gathered(j);
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
		plx_k_job_gather_begin(j, j->goal, j->lo, j->hi);
	else
		select_refine(j);
	return true;
}
