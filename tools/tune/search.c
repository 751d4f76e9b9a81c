/* Ask and tell. */
#include "tools/tune/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/tune/pareto.h"

#define N_RANDOM 48u
#define N_MIXED  48u
#define N_CLIMBS 3u /* times that each knob is set to its best value */
#define MAX_RACE 4u
#define AUGMENT  0.05 /* of all objectives' sum beside the worst one */

int plx_search_open(struct plx_search *s, const struct plx_search_conf *c)
{
	int err = 0;

	memset(s, 0, sizeof *s);
	if (c->n_knobs == 0 || c->n_knobs > PLX_GP_DIMS || c->n_obj == 0 ||
	    c->n_obj > PLX_SEARCH_OBJ)
		return PLX_E_INVAL;
	s->conf = *c;
	s->rng = c->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (uint32_t i = 0; i < c->n_obj && !err; i++)
		err = plx_gp_open(&s->gp[i], c->n_knobs, c->use[i], c->ordered, c->exact >> i & 1);
	if (err)
		plx_search_close(s);
	return err;
}

void plx_search_close(struct plx_search *s)
{
	for (uint32_t i = 0; i < PLX_SEARCH_OBJ; i++)
		plx_gp_close(&s->gp[i]);
}

/* ---- numbers ---- */

static uint64_t draw(struct plx_search *s)
{
	/* xorshift64*, Vigna, arXiv:1402.6246 */
	s->rng ^= s->rng >> 12;
	s->rng ^= s->rng << 25;
	s->rng ^= s->rng >> 27;
	return s->rng * UINT64_C(0x2545f4914f6cdd1d);
}

static uint32_t below(struct plx_search *s, uint32_t n)
{
	return (uint32_t)((draw(s) >> 32) * n >> 32);
}

static double uniform(struct plx_search *s)
{
	return ((double)(draw(s) >> 11) + 0.5) * 0x1p-53;
}

/* ---- what is known ---- */

static bool agree(const struct plx_search *s, uint32_t obj, const uint8_t *a, const uint8_t *b)
{
	for (uint32_t k = 0; k < s->conf.n_knobs; k++)
		if ((s->conf.use[obj] >> k & 1) && a[k] != b[k])
			return false;
	return true;
}

bool plx_search_known(const struct plx_search *s, uint32_t obj, const uint8_t *x, double *y)
{
	if (!(s->conf.exact >> obj & 1))
		return false;
	for (uint32_t i = 0; i < s->gp[obj].n; i++)
		if (agree(s, obj, s->gp[obj].obs[i].x, x)) {
			*y = s->gp[obj].obs[i].y;
			return true;
		}
	return false;
}

static struct plx_search_point *find(struct plx_search *s, const uint8_t *x)
{
	for (uint32_t i = 0; i < s->n_points; i++)
		if (memcmp(s->point[i].x, x, s->conf.n_knobs) == 0)
			return &s->point[i];
	return NULL;
}

bool plx_search_tell(struct plx_search *s, const uint8_t *x, uint32_t block, const double *y)
{
	struct plx_search_point *p = find(s, x);
	bool noisy = false;
	double old;

	if (s->n_told == PLX_SEARCH_MAX)
		return false;
	for (uint32_t i = 0; i < s->conf.n_obj; i++) {
		if (isnan(y[i]) || plx_search_known(s, i, x, &old))
			continue;
		(void)plx_gp_add(&s->gp[i], x, block, y[i]);
		noisy = noisy || !(s->conf.exact >> i & 1);
	}
	if (!p) {
		p = &s->point[s->n_points++];
		memcpy(p->x, x, s->conf.n_knobs);
	}
	p->n += noisy;
	s->n_told++;
	s->fresh = false;
	return true;
}

static void guess(struct plx_search *s, const uint8_t *x, double *y, double *sd)
{
	for (uint32_t i = 0; i < s->conf.n_obj; i++) {
		sd[i] = 0;
		if (!plx_search_known(s, i, x, &y[i]))
			plx_gp_predict(&s->gp[i], x, &y[i], &sd[i]);
	}
}

static void refresh(struct plx_search *s)
{
	static double y[PLX_SEARCH_MAX * PLX_SEARCH_OBJ];
	static bool on[PLX_SEARCH_MAX];

	if (s->fresh)
		return;
	for (uint32_t i = 0; i < s->conf.n_obj; i++)
		plx_gp_fit(&s->gp[i]);
	for (uint32_t i = 0; i < s->n_points; i++) {
		guess(s, s->point[i].x, s->point[i].y, s->point[i].sd);
		for (uint32_t k = 0; k < s->conf.n_obj; k++)
			y[i * s->conf.n_obj + k] = s->point[i].n ? s->point[i].y[k] : (double)NAN;
	}
	plx_pareto_front(y, s->n_points, s->conf.n_obj, on);
	for (uint32_t i = 0; i < s->n_points; i++)
		s->point[i].on_front = on[i];
	s->fresh = true;
}

/* Nobody's mean is better than its mean less one deviation in everything. */
static bool may_be(const struct plx_search *s, const struct plx_search_point *p)
{
	double low[PLX_SEARCH_OBJ];

	for (uint32_t k = 0; k < s->conf.n_obj; k++)
		low[k] = p->y[k] - p->sd[k];
	for (uint32_t i = 0; i < s->n_points; i++)
		if (s->point[i].on_front && &s->point[i] != p &&
		    plx_pareto_dominates(s->point[i].y, low, s->conf.n_obj))
			return false;
	return p->n > 0;
}

/* Those that pass, the front's or all that may be on it. */
static uint32_t gather(const struct plx_search *s, bool on_front, uint32_t *idx)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->n_points; i++)
		if (s->point[i].on_front == on_front && (on_front || may_be(s, &s->point[i])))
			idx[n++] = i;
	return n;
}

/* Weights of the objectives, and what they are measured by: the front's ideal point and extent. */
struct scale {
	double weight[PLX_SEARCH_OBJ], ideal[PLX_SEARCH_OBJ], extent[PLX_SEARCH_OBJ];
};

static void draw_scale(struct plx_search *s, const uint32_t *front, uint32_t n, struct scale *c)
{
	double sum = 0;

	for (uint32_t k = 0; k < s->conf.n_obj; k++) {
		double low = INFINITY, high = -INFINITY;

		for (uint32_t i = 0; i < n; i++) {
			low = fmin(low, s->point[front[i]].y[k]);
			high = fmax(high, s->point[front[i]].y[k]);
		}
		c->ideal[k] = low;
		c->extent[k] = fmax(high - low, 1e-3);
		/* Squared: more of them near the ends, where one objective is all. */
		c->weight[k] = pow(log(uniform(s)), 2);
		sum += c->weight[k];
	}
	for (uint32_t k = 0; k < s->conf.n_obj; k++)
		c->weight[k] /= sum;
}

/* The weighted worst objective. */
static double weigh(const struct plx_search *s, const struct scale *c, const double *y)
{
	double worst = -INFINITY, sum = 0;

	for (uint32_t k = 0; k < s->conf.n_obj; k++) {
		double v = c->weight[k] * (y[k] - c->ideal[k]) / c->extent[k];

		worst = fmax(worst, v);
		sum += v;
	}
	return worst + AUGMENT * sum;
}

/* Of too many, those that are best under weights drawn at random: ends and middle alike. */
static uint32_t spread(struct plx_search *s, uint32_t *idx, uint32_t n, uint32_t max)
{
	uint64_t keep = s->rng;

	s->rng = 1;
	for (uint32_t i = 0; i < max && i < n; i++) {
		struct scale c;
		uint32_t best = i;

		draw_scale(s, idx, n, &c);
		for (uint32_t j = i + 1; j < n; j++)
			if (weigh(s, &c, s->point[idx[j]].y) < weigh(s, &c, s->point[idx[best]].y))
				best = j;
		uint32_t swap = idx[i];

		idx[i] = idx[best];
		idx[best] = swap;
	}
	s->rng = keep;
	return max < n ? max : n;
}

void plx_search_settle(struct plx_search *s)
{
	for (uint32_t i = 0; i < s->conf.n_obj; i++)
		s->gp[i].n_fit = s->gp[i].n_chosen = 0;
	s->fresh = false;
}

uint32_t plx_search_front(struct plx_search *s, uint32_t *idx, uint32_t max)
{
	uint32_t all[PLX_SEARCH_MAX], n, more;

	refresh(s);
	n = spread(s, all, gather(s, true, all), max);
	memcpy(idx, all, n * sizeof *idx);
	if (n == 0 || n == max)
		return n;
	more = spread(s, all, gather(s, false, all), max - n);
	memcpy(idx + n, all, more * sizeof *idx);
	return n + more;
}

/* ---- proposals ---- */

/* How many points explore: enough that each value is seen about three times. */
static uint32_t n_explore(const struct plx_search *s)
{
	uint32_t most = 2;

	for (uint32_t k = 0; k < s->conf.n_knobs; k++)
		most = s->conf.n_values[k] > most ? s->conf.n_values[k] : most;
	return 3 * most;
}

static void random_point(struct plx_search *s, uint8_t *x)
{
	for (uint32_t k = 0; k < s->conf.n_knobs; k++)
		x[k] = (uint8_t)below(s, s->conf.n_values[k]);
}

/* Each knob's values in turn, shifted by a number of its own: all about equally often. */
static void explore(struct plx_search *s, uint8_t *x)
{
	uint32_t best = 0;
	uint8_t y[PLX_GP_DIMS];

	for (uint32_t tries = 0; tries < 16; tries++) {
		uint32_t far = PLX_GP_DIMS;

		random_point(s, y);
		y[s->n_asked % s->conf.n_knobs] =
		    (uint8_t)(s->n_asked % s->conf.n_values[s->n_asked % s->conf.n_knobs]);
		for (uint32_t i = 0; i < s->n_points; i++) {
			uint32_t differ = 0;

			for (uint32_t k = 0; k < s->conf.n_knobs; k++)
				differ += y[k] != s->point[i].x[k];
			far = differ < far ? differ : far;
		}
		if (far > best || tries == 0) {
			best = far;
			memcpy(x, y, sizeof y);
		}
	}
}

/* A child of one or two points of the front, with a knob or two changed. */
static void mix(struct plx_search *s, const uint32_t *front, uint32_t n, uint8_t *x)
{
	const uint8_t *a = s->point[front[below(s, n)]].x, *b = s->point[front[below(s, n)]].x;
	uint32_t n_change = 1 + below(s, 2);

	for (uint32_t k = 0; k < s->conf.n_knobs; k++)
		x[k] = below(s, 2) ? a[k] : b[k];
	for (uint32_t i = 0; i < n_change; i++) {
		uint32_t k = below(s, s->conf.n_knobs);

		x[k] = (uint8_t)below(s, s->conf.n_values[k]);
	}
}

/* Of a point that is not measured, each objective less one deviation. */
static double score(struct plx_search *s, const struct scale *c, const uint8_t *x)
{
	double y[PLX_SEARCH_OBJ], sd[PLX_SEARCH_OBJ];

	guess(s, x, y, sd);
	for (uint32_t k = 0; k < s->conf.n_obj; k++)
		y[k] -= sd[k];
	return weigh(s, c, y);
}

/* Set one knob after another to its best value, never to a point that was measured. */
static void climb(struct plx_search *s, const struct scale *c, uint8_t *x, double best)
{
	for (uint32_t i = 0; i < N_CLIMBS * s->conf.n_knobs; i++) {
		uint32_t k = i % s->conf.n_knobs;
		uint8_t keep = x[k];

		for (uint8_t v = 0; v < s->conf.n_values[k]; v++) {
			x[k] = v;
			double now = v == keep || find(s, x) ? best : score(s, c, x);

			if (now < best) {
				best = now;
				keep = v;
			}
		}
		x[k] = keep;
	}
}

static bool propose(struct plx_search *s, uint8_t *x)
{
	uint32_t front[PLX_SEARCH_MAX], n = plx_search_front(s, front, PLX_SEARCH_MAX);
	double best = INFINITY;
	uint8_t y[PLX_GP_DIMS];
	struct scale c;

	if (n == 0)
		return false;
	draw_scale(s, front, n, &c);
	for (uint32_t i = 0; i < N_RANDOM + N_MIXED; i++) {
		if (i < N_RANDOM)
			random_point(s, y);
		else
			mix(s, front, n, y);
		if (find(s, y))
			continue;
		double v = score(s, &c, y);

		if (v < best) {
			best = v;
			memcpy(x, y, s->conf.n_knobs);
		}
	}
	if (isfinite(best))
		climb(s, &c, x, best);
	return isfinite(best);
}

static bool race(struct plx_search *s, uint8_t *x)
{
	double most = 0;

	refresh(s);
	for (uint32_t i = 0; i < s->n_points; i++) {
		const struct plx_search_point *p = &s->point[i];
		double sd = 0;

		if (p->n >= MAX_RACE || !may_be(s, p))
			continue;
		for (uint32_t k = 0; k < s->conf.n_obj; k++)
			sd += p->sd[k] / fmax(s->gp[k].scale, 1e-9);
		if (sd / p->n > most) {
			most = sd / p->n;
			memcpy(x, p->x, s->conf.n_knobs);
		}
	}
	return most > 0;
}

void plx_search_ask(struct plx_search *s, uint8_t *x)
{
	uint32_t turn = s->n_asked;

	refresh(s);
	if (turn < n_explore(s))
		explore(s, x);
	else if (!(turn % 3 == 0 && race(s, x)) && !propose(s, x) && !race(s, x))
		random_point(s, x);
	s->n_asked++;
}
