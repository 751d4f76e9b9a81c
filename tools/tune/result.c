/* Rounds, means and who is better. */
#include "tools/tune/result.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tools/tune/pareto.h"

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
		if (preset[0] && !c->preset[0])
			snprintf(c->preset, sizeof c->preset, "%s", preset);
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

static bool complete(const struct plx_result *r, uint32_t round)
{
	for (uint32_t i = 0; i < r->n; i++)
		if (plx_result_lacks(r, i, round))
			return false;
	return r->n > 0;
}

/* What a round did to all of them. */
static double shift(const struct plx_result *r, uint32_t k, uint32_t round)
{
	double sum = 0;

	for (uint32_t i = 0; i < r->n; i++)
		sum += r->c[i].log[k][round];
	return sum / r->n;
}

/* Mean over rounds and half of its interval, of figure k less (`less` not NULL) another's. */
static double mean_of(const struct plx_result *r, const struct plx_candidate *c,
                      const struct plx_candidate *less, uint32_t k, double *half)
{
	double sum = 0, square = 0, base = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++) {
		if (!complete(r, i))
			continue;
		double mid = shift(r, k, i), d = c->log[k][i] - (less ? less->log[k][i] : mid);

		base += mid;
		sum += d;
		square += d * d;
		n++;
	}
	if (n == 0) {
		*half = 0;
		return (double)NAN;
	}
	double mean = sum / n, var = n > 1 ? fmax(square - sum * mean, 0) / (n - 1) : 0;

	*half = plx_student(n) * sqrt(var / n);
	return mean + (less ? 0 : base / n);
}

static void sum_candidate(const struct plx_result *r, struct plx_candidate *c)
{
	static const enum plx_figure fig[PLX_RESULT_TIMES] = {PLX_FIG_RATE, PLX_FIG_P50,
	                                                      PLX_FIG_P99, PLX_FIG_FIRST};
	double mean[PLX_RESULT_TIMES];

	for (uint32_t k = 0; k < PLX_RESULT_TIMES; k++) {
		double half;

		mean[k] = mean_of(r, c, NULL, k, &half);
		c->f[fig[k]] = exp(mean[k]);
		c->half[fig[k]] = exp(mean[k]) * expm1(half);
	}
	c->cost[1] = -mean[0];
	c->cost[2] = mean[2];
	c->cost[3] = mean[3];
}

void plx_result_sum(struct plx_result *r)
{
	double y[PLX_RESULT_MAX * PLX_RESULT_OBJ];
	bool on[PLX_RESULT_MAX];

	r->n_rounds = 0;
	for (uint32_t i = 0; i < PLX_RESULT_ROUNDS; i++)
		r->n_rounds += complete(r, i);
	for (uint32_t i = 0; i < r->n; i++) {
		sum_candidate(r, &r->c[i]);
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

/* ---- presets ---- */

/* Whether a is worse than b in an objective by more than chance. */
static bool worse(const struct plx_result *r, const struct plx_candidate *a,
                  const struct plx_candidate *b)
{
	static const struct {
		uint32_t k;
		double sign;
	} time[] = {{0, -1}, {2, 1}, {3, 1}};
	double half;

	if (a->cost[0] > b->cost[0] + 1e-9) /* the same text: this is no chance */
		return true;
	for (uint32_t i = 0; i < 3; i++) {
		double d = time[i].sign * mean_of(r, a, b, time[i].k, &half);

		if (d > half)
			return true;
	}
	return false;
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
		bool same = !worse(r, c, p);

		/* One that is worse by chance alone goes before any that is worse by more. */
		if ((same && !equal) || (same == equal && g < *gap)) {
			*gap = g;
			*by = i;
		}
		equal = equal || same;
	}
	return *gap <= 0 ? PLX_VERDICT_BEATEN : equal ? PLX_VERDICT_EQUAL : PLX_VERDICT_BEATS;
}
