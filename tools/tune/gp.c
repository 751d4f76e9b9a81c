/* Gaussian process regression by Cholesky's factor. */
#include "tools/tune/gp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"

#define EXACT_NOISE 1e-6
#define LENGTH      2.0 /* values of an ordered knob over which it changes by e */

int plx_gp_open(struct plx_gp *g, uint32_t n_dims, uint32_t use, uint32_t ordered, bool exact)
{
	memset(g, 0, sizeof *g);
	g->n_dims = n_dims;
	g->use = use;
	g->ordered = ordered;
	g->noise = exact ? EXACT_NOISE : 0;
	g->l = calloc((size_t)PLX_GP_MAX * PLX_GP_MAX, sizeof(double));
	g->alpha = calloc(PLX_GP_MAX, sizeof(double));
	g->work = calloc(PLX_GP_MAX, sizeof(double));
	if (g->l && g->alpha && g->work)
		return 0;
	plx_gp_close(g);
	return PLX_E_NOMEM;
}

void plx_gp_close(struct plx_gp *g)
{
	free(g->l);
	free(g->alpha);
	free(g->work);
	g->l = g->alpha = g->work = NULL;
}

bool plx_gp_add(struct plx_gp *g, const uint8_t *x, uint32_t block, double y)
{
	if (g->n == PLX_GP_MAX)
		return false;
	memcpy(g->obs[g->n].x, x, g->n_dims);
	g->obs[g->n].block = block;
	g->obs[g->n++].y = y;
	return true;
}

static double kernel(const struct plx_gp *g, const uint8_t *a, const uint8_t *b)
{
	double sum = 0, square = 0, n = 0;

	for (uint32_t d = 0; d < g->n_dims; d++) {
		if (!(g->use >> d & 1))
			continue;
		double c = a[d] == b[d]          ? 1
		           : g->ordered >> d & 1 ? exp(-fabs((double)a[d] - b[d]) / LENGTH)
		                                 : 0;

		sum += c;
		square += c * c;
		n++;
	}
	if (n < 2)
		return sum;
	return (1 - g->pair) * sum / n + g->pair * (sum * sum - square) / (n * (n - 1));
}

static double *at(const struct plx_gp *g, uint32_t i, uint32_t j)
{
	return g->l + (size_t)i * PLX_GP_MAX + j;
}

/* x = L^-1 x */
static void solve(const struct plx_gp *g, double *x)
{
	for (uint32_t i = 0; i < g->n_fit; i++) {
		const double *row = at(g, i, 0);
		double s = x[i];

		for (uint32_t j = 0; j < i; j++)
			s -= row[j] * x[j];
		x[i] = s / row[i];
	}
}

/* x = L^-T x */
static void solve_back(const struct plx_gp *g, double *x)
{
	for (uint32_t i = g->n_fit; i-- > 0;) {
		x[i] /= *at(g, i, i);
		for (uint32_t j = 0; j < i; j++)
			x[j] -= *at(g, i, j) * x[i];
	}
}

static void factor(struct plx_gp *g)
{
	for (uint32_t i = 0; i < g->n_fit; i++)
		for (uint32_t j = 0; j <= i; j++) {
			const struct plx_gp_obs *a = &g->obs[i], *b = &g->obs[j];
			double s = kernel(g, a->x, b->x) + (a->block == b->block ? g->block : 0);

			s += i == j ? g->noise : 0;
			for (uint32_t m = 0; m < j; m++)
				s -= *at(g, i, m) * *at(g, j, m);
			*at(g, i, j) = i == j ? sqrt(fmax(s, 1e-9)) : s / *at(g, j, j);
		}
}

/* Factor and weights; returns the logarithm of the measurements' likelihood, but for a constant. */
static double condition(struct plx_gp *g)
{
	double fit = 0;

	factor(g);
	for (uint32_t i = 0; i < g->n_fit; i++)
		g->alpha[i] = (g->obs[i].y - g->mean) / g->scale;
	solve(g, g->alpha);
	for (uint32_t i = 0; i < g->n_fit; i++)
		fit -= g->alpha[i] * g->alpha[i] / 2 + log(*at(g, i, i));
	solve_back(g, g->alpha);
	return fit;
}

static void choose(struct plx_gp *g)
{
	static const double pairs[] = {0.05, 0.3, 0.7}, blocks[] = {0.003, 0.1},
			    noises[] = {0.003, 0.03, 0.2};
	double best = -INFINITY, pair = 0, block = 0, noise = g->noise;
	bool exact = g->noise > 0 && g->noise <= EXACT_NOISE;

	for (uint32_t p = 0; p < 3; p++)
		for (uint32_t i = 0; i < (exact ? 1 : 6); i++) {
			g->pair = pairs[p];
			g->block = exact ? 0 : blocks[i / 3];
			g->noise = exact ? EXACT_NOISE : noises[i % 3];
			double likely = condition(g);

			if (likely <= best)
				continue;
			best = likely;
			pair = g->pair;
			block = g->block;
			noise = g->noise;
		}
	g->pair = pair;
	g->block = block;
	g->noise = noise;
	g->n_chosen = g->n_fit;
}

void plx_gp_fit(struct plx_gp *g)
{
	double sum = 0, square = 0;

	if (g->n == g->n_fit)
		return;
	g->n_fit = g->n;
	for (uint32_t i = 0; i < g->n; i++)
		sum += g->obs[i].y;
	g->mean = sum / g->n;
	for (uint32_t i = 0; i < g->n; i++)
		square += (g->obs[i].y - g->mean) * (g->obs[i].y - g->mean);
	g->scale = fmax(sqrt(square / g->n), 1e-9);
	if (g->n_chosen == 0 || g->n >= g->n_chosen + g->n_chosen / 4 + 1)
		choose(g);
	(void)condition(g);
}

void plx_gp_predict(struct plx_gp *g, const uint8_t *x, double *mean, double *sd)
{
	double m = 0, v;

	*mean = 0;
	*sd = 1;
	if (g->n_fit == 0)
		return;
	v = kernel(g, x, x);
	for (uint32_t i = 0; i < g->n_fit; i++) {
		g->work[i] = kernel(g, x, g->obs[i].x);
		m += g->work[i] * g->alpha[i];
	}
	solve(g, g->work);
	for (uint32_t i = 0; i < g->n_fit; i++)
		v -= g->work[i] * g->work[i];
	*mean = g->mean + g->scale * m;
	*sd = g->scale * sqrt(fmax(v, 0));
}
