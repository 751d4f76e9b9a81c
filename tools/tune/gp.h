/*
 * A guess at one objective over a space of knobs, from noisy measurements: Gaussian process
 * regression with a kernel for knobs.
 *
 *   c_d(x, x')  1 where the values are equal; else exp(-|i - j| / 2) for an ordered knob, 0 for
 *               another
 *   k(x, x')    = (1 - pair) mean over d of c_d + pair mean over d < e of c_d c_e
 *   cov         = k + block * [same block] + noise * [same measurement]
 *
 * so an objective is the sum of what each knob does, of what pairs of knobs do together, of what
 * the machine did meanwhile (a block: measurements taken one right after another) and of chance. y
 * is shifted and scaled to mean 0 and variance 1 first. pair, block and noise are those of a short
 * list under which the measurements are likeliest.
 *
 * Owner: the caller.  Thread: one.  Cost: O(n^3) a fit, O(n^2) a prediction.
 * Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006 (2.2, 5.4);
 *         Duvenaud et al., "Additive Gaussian Processes", NeurIPS 2011, arXiv:1112.4394.
 */
#ifndef PLX_TOOLS_TUNE_GP_H
#define PLX_TOOLS_TUNE_GP_H

#include <stdbool.h>
#include <stdint.h>

#define PLX_GP_DIMS 16u
#define PLX_GP_MAX  400u /* measurements */

struct plx_gp_obs {
	uint8_t x[PLX_GP_DIMS];
	uint32_t block;
	double y;
};

struct plx_gp {
	uint32_t n_dims;
	uint32_t use;     /* bit d: the objective depends on knob d; at least one */
	uint32_t ordered; /* bit d */
	uint32_t n;
	struct plx_gp_obs obs[PLX_GP_MAX];
	/* of the fit */
	uint32_t n_fit, n_chosen; /* measurements in it, and when pair, block, noise were chosen */
	double mean, scale;
	double pair, block, noise;
	double *l;     /* [n][n] lower triangle, Cholesky's */
	double *alpha; /* [n] */
	double *work;  /* [n] */
};

/* plx_gp_open - no measurements yet. @exact: there is no noise. Errors: NOMEM. */
int plx_gp_open(struct plx_gp *g, uint32_t n_dims, uint32_t use, uint32_t ordered, bool exact);
void plx_gp_close(struct plx_gp *g);

/* plx_gp_add - a measurement; false where there is no room. */
bool plx_gp_add(struct plx_gp *g, const uint8_t *x, uint32_t block, double y);

/* plx_gp_fit - take all measurements in. */
void plx_gp_fit(struct plx_gp *g);

/* plx_gp_predict - mean and standard deviation of the objective at x, the machine being as on
 * average; without a measurement 0 and 1. */
void plx_gp_predict(struct plx_gp *g, const uint8_t *x, double *mean, double *sd);

#endif
