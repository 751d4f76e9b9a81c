/*
 * Points of which none is better than another in everything. All objectives are costs: smaller is
 * better.
 */
#ifndef PLX_TOOLS_TUNE_PARETO_H
#define PLX_TOOLS_TUNE_PARETO_H

#include <stdbool.h>
#include <stdint.h>

/* plx_pareto_dominates - a is nowhere worse than b and somewhere better; a NaN is worst of all. */
bool plx_pareto_dominates(const double *a, const double *b, uint32_t n_obj);

/*
 * plx_pareto_front - which points nobody dominates; of points that are equal in all, the first.
 *
 * @y   in [n][n_obj].
 * @on  out [n].
 *
 * A point with a NaN is never on the front.  Returns how many are.  Cost: O(n^2 n_obj).
 */
uint32_t plx_pareto_front(const double *y, uint32_t n, uint32_t n_obj, bool *on);

/*
 * plx_pareto_gap - by how much the best of some points fails to be as good as p in everything:
 *
 *   min over i of max over k of (y[i][k] - p[k])
 *
 * At most 0: one of them is at least as good everywhere. @who: out, that point; may be NULL.
 * Source: Zitzler et al., "Performance assessment of multiobjective optimizers", IEEE TEC 7, 2003
 * (the additive epsilon indicator).
 */
double plx_pareto_gap(const double *y, uint32_t n, uint32_t n_obj, const double *p, uint32_t *who);

#endif
