/* Pareto fronts by comparing all pairs: there are a few hundred points at most. */
#include "tools/tune/pareto.h"

#include <math.h>
#include <stddef.h>

bool plx_pareto_dominates(const double *a, const double *b, uint32_t n_obj)
{
	bool better = false;

	for (uint32_t k = 0; k < n_obj; k++) {
		if (isnan(a[k]) || a[k] > b[k])
			return false;
		better = better || isnan(b[k]) || a[k] < b[k];
	}
	return better;
}

static bool whole(const double *y, uint32_t n_obj)
{
	for (uint32_t k = 0; k < n_obj; k++)
		if (isnan(y[k]))
			return false;
	return true;
}

static bool equal(const double *a, const double *b, uint32_t n_obj)
{
	for (uint32_t k = 0; k < n_obj; k++)
		if (a[k] < b[k] || a[k] > b[k])
			return false;
	return true;
}

uint32_t plx_pareto_front(const double *y, uint32_t n, uint32_t n_obj, bool *on)
{
	uint32_t n_on = 0;

	for (uint32_t i = 0; i < n; i++) {
		const double *p = y + (size_t)i * n_obj;

		on[i] = whole(p, n_obj);
		for (uint32_t j = 0; j < n && on[i]; j++) {
			const double *q = y + (size_t)j * n_obj;

			on[i] = j == i || !(plx_pareto_dominates(q, p, n_obj) ||
			                    (j < i && equal(q, p, n_obj)));
		}
		n_on += on[i];
	}
	return n_on;
}

double plx_pareto_gap(const double *y, uint32_t n, uint32_t n_obj, const double *p, uint32_t *who)
{
	double best = INFINITY;

	for (uint32_t i = 0; i < n; i++) {
		double worst = -INFINITY;

		for (uint32_t k = 0; k < n_obj; k++)
			worst = fmax(worst, y[(size_t)i * n_obj + k] - p[k]);
		if (worst < best) {
			best = worst;
			if (who)
				*who = i;
		}
	}
	return best;
}
