/* Rounds, means and who is better. */
#include "tools/tune/result.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tools/tune/pareto.h"

#define N_FITS 40u
#define OVER   0.02 /* an advantage of 2 % is none */

double plx_student(uint32_t n)
{
	static const double t[] = {0,     0,     12.71, 4.303, 3.182, 2.776, 2.571, 2.447,
	                           2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145};

	return n < 2 ? 0 : n < sizeof t / sizeof t[0] ? t[n] : 1.96 + 2.6 / n;
}

bool plx_result_add(struct plx_result *r, const struct plx_tune_point *p, const char *preset)
{
	struct plx_candidate *c;

	for (uint32_t i = 0; i < r->n; i++) {
		c = &r->c[i];
		if (!plx_tune_point_same(&c->point, p))
			continue;
		size_t len = strlen(c->preset);

		if (preset[0] && len + strlen(preset) + 3 < sizeof c->preset)
			snprintf(c->preset + len, sizeof c->preset - len, "%s%s", len ? "; " : "",
			         preset);
		c->found = c->found || !preset[0];
		return false;
	}
	if (r->n == PLX_RESULT_MAX)
		return false;
	c = &r->c[r->n++];
	memset(c, 0, sizeof *c);
	c->point = *p;
	c->found = !preset[0];
	snprintf(c->preset, sizeof c->preset, "%s", preset);
	for (uint32_t k = 0; k < PLX_RESULT_TIMES; k++)
		for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++)
			c->log[k][i] = (double)NAN;
	return true;
}

static void take_accuracy(struct plx_candidate *c, const double *v)
{
	c->cost[0] = v[3];
	c->f[PLX_FIG_LOSS] = 100 * expm1(v[1]);
	c->half[PLX_FIG_LOSS] = 100 * exp(v[1]) * expm1(1.96 * v[2]);
	c->f[PLX_FIG_KL] = v[3];
	c->half[PLX_FIG_KL] = 1.96 * v[4];
	c->f[PLX_FIG_TOP] = 100 * v[5];
}

void plx_result_take(struct plx_result *r, const struct plx_journal_rec *rec)
{
	const double *v = rec->v;

	for (uint32_t i = 0; i < r->n; i++) {
		struct plx_candidate *c = &r->c[i];
		struct plx_tune_point own = plx_tune_point_accuracy(&c->point);

		if (rec->kind == PLX_JOURNAL_ACCURACY && plx_tune_point_same(&own, &rec->point))
			take_accuracy(c, v);
		if (rec->kind != PLX_JOURNAL_CHECK ||
		    !plx_tune_point_same(&c->point, &rec->point) ||
		    !(v[0] >= 0 && v[0] < PLX_RESULT_ROUNDS))
			continue;
		uint32_t round = (uint32_t)v[0];

		for (uint32_t k = 0; k < PLX_RESULT_TIMES; k++)
			c->log[k][round] = log(v[1 + k]);
		c->f[PLX_FIG_MEMORY] = v[5];
	}
}

bool plx_result_lacks(const struct plx_result *r, uint32_t c, uint32_t round)
{
	return isnan(r->c[c].log[0][round]);
}

/* ---- means ---- */

/* What candidates and rounds do to a logarithm: log = of the candidate + of the round + chance. */
struct effects {
	double of[PLX_RESULT_MAX], round[PLX_RESULT_ROUNDS];
};

/* In how many rounds a candidate was measured, rounds of it alone left out: they say nothing. */
static uint32_t rounds_of(const struct plx_result *r, uint32_t c, bool *in)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++) {
		uint32_t others = 0;

		for (uint32_t j = 0; j < r->n; j++)
			others += j != c && !plx_result_lacks(r, j, i);
		in[i] = !plx_result_lacks(r, c, i) && (others > 0 || r->n == 1);
		n += in[i];
	}
	return n;
}

/* One pass: each candidate's mean without the rounds' effects. */
static void fit_candidates(const struct plx_result *r, uint32_t k, struct effects *e)
{
	for (uint32_t c = 0; c < r->n; c++) {
		bool in[PLX_RESULT_ROUNDS];
		uint32_t n = rounds_of(r, c, in);

		e->of[c] = 0;
		for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++)
			e->of[c] += in[i] ? (r->c[c].log[k][i] - e->round[i]) / n : 0;
		if (n == 0)
			e->of[c] = (double)NAN;
	}
}

/* A round's mean without the candidates' effects; NaN where it says nothing. */
static double round_mean(const struct plx_result *r, uint32_t k, const struct effects *e,
                         uint32_t round)
{
	double sum = 0;
	uint32_t n = 0;

	for (uint32_t c = 0; c < r->n; c++)
		if (!plx_result_lacks(r, c, round)) {
			sum += r->c[c].log[k][round] - e->of[c];
			n++;
		}
	return n > 1 || n == r->n ? sum / n : (double)NAN;
}

/* The other: the rounds' effects, whose mean is 0. */
static void fit_rounds(const struct plx_result *r, uint32_t k, struct effects *e)
{
	double sum = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++) {
		e->round[i] = round_mean(r, k, e, i);
		if (isnan(e->round[i]))
			continue;
		sum += e->round[i];
		n++;
	}
	for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++)
		e->round[i] = isnan(e->round[i]) ? 0 : e->round[i] - sum / n;
}

/* By turns, which converges to least squares; where all are in all rounds, at once. */
static void fit(const struct plx_result *r, uint32_t k, struct effects *e)
{
	memset(e->round, 0, sizeof e->round);
	for (uint32_t i = 0; i < N_FITS; i++) {
		fit_candidates(r, k, e);
		fit_rounds(r, k, e);
	}
	fit_candidates(r, k, e);
}

/* Half of the interval of a mean over n whose squares of deviations sum up to this. */
static double half_of(double square, uint32_t n)
{
	return n > 1 ? plx_student(n) * sqrt(fmax(square, 0) / (n - 1) / n) : 0;
}

static double scatter(const struct plx_result *r, uint32_t c, uint32_t k, const struct effects *e)
{
	bool in[PLX_RESULT_ROUNDS];
	uint32_t n = rounds_of(r, c, in);
	double square = 0;

	for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++)
		if (in[i])
			square += pow(r->c[c].log[k][i] - e->round[i] - e->of[c], 2);
	return half_of(square, n);
}

/* The mean of a less b over those of the first rounds that have both; NaN: there are none. */
static double differ(const struct plx_candidate *a, const struct plx_candidate *b, uint32_t k,
                     uint32_t n_rounds, double *half)
{
	double sum = 0, square = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_rounds; i++) {
		double d = a->log[k][i] - b->log[k][i];

		if (isnan(d))
			continue;
		sum += d;
		square += d * d;
		n++;
	}
	*half = half_of(square - (n ? sum * sum / n : 0), n);
	return n ? sum / n : (double)NAN;
}

static void sum_times(struct plx_result *r)
{
	static const enum plx_figure fig[PLX_RESULT_TIMES] = {PLX_FIG_RATE, PLX_FIG_P50,
	                                                      PLX_FIG_P99, PLX_FIG_FIRST};
	static const uint32_t cost[PLX_RESULT_TIMES] = {1, 0, 2, 3}; /* 0: none */
	struct effects e;

	for (uint32_t k = 0; k < PLX_RESULT_TIMES; k++) {
		fit(r, k, &e);
		for (uint32_t i = 0; i < r->n; i++) {
			struct plx_candidate *c = &r->c[i];

			c->f[fig[k]] = exp(e.of[i]);
			c->half[fig[k]] = exp(e.of[i]) * expm1(scatter(r, i, k, &e));
			if (cost[k])
				c->cost[cost[k]] = k == 0 ? -e.of[i] : e.of[i];
		}
	}
}

/* All that still run were measured in it. */
static bool complete(const struct plx_result *r, uint32_t round)
{
	bool any = false;

	for (uint32_t i = 0; i < r->n; i++) {
		if (plx_result_lacks(r, i, round) && !r->c[i].out)
			return false;
		any = any || !plx_result_lacks(r, i, round);
	}
	return any;
}

void plx_result_sum(struct plx_result *r)
{
	double y[PLX_RESULT_MAX * PLX_RESULT_OBJ];
	bool on[PLX_RESULT_MAX];

	r->n_rounds = 0;
	for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++)
		r->n_rounds += complete(r, i);
	sum_times(r);
	for (uint32_t i = 0; i < r->n; i++) {
		memcpy(y + i * PLX_RESULT_OBJ, r->c[i].cost, sizeof r->c[i].cost);
	}
	plx_pareto_front(y, r->n, PLX_RESULT_OBJ, on);
	for (uint32_t i = 0; i < r->n; i++) {
		uint32_t rank = 1;

		for (uint32_t j = 0; j < r->n; j++)
			rank += on[j] && (r->c[j].cost[1] < r->c[i].cost[1] ||
			                  (j < i && r->c[j].cost[1] <= r->c[i].cost[1]));
		r->c[i].number = on[i] ? rank : 0;
	}
}

/* ---- pairs ---- */

/* The objectives that are times: which, and the sign with which less is better. */
static const struct {
	uint32_t k;
	double sign;
} time_cost[] = {{0, -1}, {2, 1}, {3, 1}};
#define N_TIME_COST (sizeof time_cost / sizeof time_cost[0])

/* Whether a is worse than b in an objective by more than chance. */
static bool worse(const struct plx_candidate *a, const struct plx_candidate *b)
{
	double half;

	if (a->cost[0] > b->cost[0] + 1e-9) /* the same text: this is no chance */
		return true;
	for (size_t i = 0; i < N_TIME_COST; i++) {
		double d =
		    time_cost[i].sign * differ(a, b, time_cost[i].k, PLX_RESULT_ROUNDS, &half);

		if (d > half)
			return true;
	}
	return false;
}

/* Whether b has nothing over a: not more than OVER in any objective, by all that is known. */
static bool covers(const struct plx_candidate *a, const struct plx_candidate *b, uint32_t n_rounds)
{
	double half;

	if (a->cost[0] > b->cost[0] + 1e-9)
		return false;
	for (size_t i = 0; i < N_TIME_COST; i++) {
		double d = time_cost[i].sign * differ(a, b, time_cost[i].k, n_rounds, &half);

		if (!(d + half <= OVER))
			return false;
	}
	return true;
}

uint32_t plx_result_retire(struct plx_result *r, uint32_t n_rounds)
{
	uint32_t n = 0;

	for (uint32_t i = r->n; i-- > 1;) { /* 0 is what the search began at: it runs on */
		struct plx_candidate *c = &r->c[i];

		for (uint32_t j = 0; j < r->n && !c->out; j++)
			c->out = j != i && !r->c[j].out && r->c[j].found &&
			         covers(&r->c[j], c, n_rounds);
	}
	for (uint32_t i = 0; i < r->n; i++)
		n += !r->c[i].out;
	return n;
}

enum plx_verdict plx_result_judge(const struct plx_result *r, uint32_t preset, uint32_t *by,
                                  double *gap)
{
	const struct plx_candidate *p = &r->c[preset];
	bool equal = false;

	*gap = INFINITY;
	*by = preset;
	for (uint32_t i = 0; i < r->n; i++) {
		const struct plx_candidate *c = &r->c[i];
		double g;

		if (!c->found)
			continue;
		g = plx_pareto_gap(c->cost, 1, PLX_RESULT_OBJ, p->cost, NULL);
		bool same = !worse(c, p);

		/* One that is worse by chance alone goes before any that is worse by more. */
		if ((same && !equal) || (same == equal && g < *gap)) {
			*gap = g;
			*by = i;
		}
		equal = equal || same;
	}
	return *gap <= 0 ? PLX_VERDICT_BEATEN : equal ? PLX_VERDICT_EQUAL : PLX_VERDICT_BEATS;
}
