/*
 * The search: which point to measure next, so that the Pareto front is known after few
 * measurements. It knows neither models nor time: it is asked for a point and told what came out.
 *
 * Each objective has a guess over the knobs that it depends on (gp.h): so what the weight format
 * does to accuracy is learnt once, and not again for each batch size. Points are proposed in turn
 * by
 *
 * - exploring, the first ones: every value of every knob about equally often;
 * - proposing: objectives are weighted by numbers drawn anew each time, and of some hundred points
 *   (random ones, neighbours and mixtures of the front's) the one is taken whose weighted worst
 *   objective is best, each taken at its mean less one deviation;
 * - racing: of the points measured that may be on the front (nobody's mean is better than their
 *   mean less one deviation in everything), the least certain one is measured again, four times at
 *   most.
 *
 * Objectives are costs, smaller is better; logarithms of times and rates do well.
 *
 * Owner: the caller.  Thread: one.  The same seed, answers and calls give the same points.
 * Source: Paria et al., "A Flexible Framework for Multi-Objective Bayesian Optimization using
 *         Random Scalarizations", UAI 2019, arXiv:1805.12168; Knowles, "ParEGO", IEEE TEC 10, 2006;
 *         Maron and Moore, "Hoeffding Races", NeurIPS 1993.
 */
#ifndef PLX_TOOLS_TUNE_SEARCH_H
#define PLX_TOOLS_TUNE_SEARCH_H

#include "tools/tune/gp.h"

#define PLX_SEARCH_OBJ 6u
#define PLX_SEARCH_MAX PLX_GP_MAX /* measurements */

struct plx_search_conf {
	uint32_t n_knobs; /* at most PLX_GP_DIMS */
	uint32_t n_values[PLX_GP_DIMS];
	uint32_t ordered; /* bit k: knob k's values have an order */
	uint32_t n_obj;
	uint32_t use[PLX_SEARCH_OBJ]; /* bit k: the objective depends on knob k */
	uint32_t exact;               /* bit i: measured once is known */
	uint64_t seed;
};

/* A point and what is known of it. */
struct plx_search_point {
	uint8_t x[PLX_GP_DIMS];
	uint32_t n;                /* measurements of what is not exact */
	double y[PLX_SEARCH_OBJ];  /* expected; NaN: unknown */
	double sd[PLX_SEARCH_OBJ]; /* standard deviation of that */
	bool on_front;
};

struct plx_search {
	struct plx_search_conf conf;
	struct plx_gp gp[PLX_SEARCH_OBJ];
	struct plx_search_point point[PLX_SEARCH_MAX];
	uint32_t n_points;
	uint32_t n_told; /* measurements */
	uint32_t n_asked;
	uint64_t rng;
	bool fresh; /* y, sd and on_front are of all measurements */
};

/* plx_search_open. Errors: NOMEM, INVAL (a conf beyond the limits). */
int plx_search_open(struct plx_search *s, const struct plx_search_conf *c);
void plx_search_close(struct plx_search *s);

/* plx_search_ask - the point to measure next. */
void plx_search_ask(struct plx_search *s, uint8_t *x);

/*
 * plx_search_tell - a measurement.
 *
 * @block  measurements of one block were taken one right after another.
 * @y      [n_obj]; NaN: this one was not measured.
 *
 * Returns false where there is no room for it.
 */
bool plx_search_tell(struct plx_search *s, const uint8_t *x, uint32_t block, const double *y);

/* plx_search_known - an exact objective at x was told; *y it is. */
bool plx_search_known(const struct plx_search *s, uint32_t obj, const uint8_t *x, double *y);

/* plx_search_settle - guess anew from all measurements, so that the front depends on them alone and
 * not on when it was asked for. */
void plx_search_settle(struct plx_search *s);

/*
 * plx_search_front - at most max points that may be on the front: those on it by their means, then
 * those that are less one deviation; of too many such that ends and middle are there. All were
 * measured.
 * Returns how many.
 */
uint32_t plx_search_front(struct plx_search *s, uint32_t *idx, uint32_t max);

#endif
