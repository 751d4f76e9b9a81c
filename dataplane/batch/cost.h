/*
 * The device's step time, learnt while it runs: nothing about the device is known beforehand.
 *
 *   time(step) = drift * max(light(step), heavy(step))
 *   (a step without prompt tokens: light alone)
 *   piece(step) = w0 + w1 * decodes + w2 * prefill + w3 * context + w4 * prefill_pos,   all w >= 0
 *
 * Two linear pieces, because a GPU's step is bound by reading weights and KV until it has enough
 * tokens to be bound by arithmetic, and the larger of the two is what it takes (the roofline); on a
 * device whose time is one linear function, a CPU's, both pieces find that one. Steps without
 * prompt tokens teach `light`, and so do those whose few prompt tokens cost nothing (it has no
 * weights for them); all others teach `heavy`.
 *
 * Each piece is fitted by least squares of the relative error with exponential forgetting (about
 * the last 200 of its steps count), in the information form: the 5 x 5 normal equations are kept
 * and solved anew after each step, features whose weight would be negative left out. A small term
 * holds each weight where it was as far as the steps say nothing about it, so that steps that are
 * all alike do no harm; a first step is shared out between the features (least norm).
 *
 * `drift` is the smoothed ratio of measured to fitted time, 1/16 a step and 1/4 once six errors in
 * a row have one sign. It follows a device that became 20 % slower within some 15 steps, long
 * before the fit does.
 *
 * Error: `err`, the smoothed |measured / predicted - 1|; and the margin, an upper quantile (99 %)
 * of measured / predicted - 1, followed by stochastic approximation (a step up by 0.99 where it is
 * exceeded, down by 0.01 where it is not, times 0.3 err). One step that is many times off moves
 * neither the fit nor drift by more than a step twice as long would.
 *
 * Owner:  one scheduler.  Thread: one.  Cost: about 200 ns an update, 10 to 20 ns a prediction
 * (tests/bench_cost), no allocation; the same steps give the same bits. Source: Ljung and
 * Soderstrom, "Theory and Practice of Recursive Identification" (forgetting); Lawson and Hanson,
 * "Solving Least Squares Problems" (weights that are not negative); Robbins and Monro, "A
 * Stochastic Approximation Method", 1951 (the quantile); Williams et al., "Roofline", CACM 2009;
 * Agrawal et al., "Sarathi-Serve", arXiv:2403.02310 (step time of mixed batches).
 */
#ifndef PLX_DATAPLANE_BATCH_COST_H
#define PLX_DATAPLANE_BATCH_COST_H

#include <stdbool.h>
#include <stdint.h>

#define PLX_COST_FEATURES 5

/* What a step has to do. */
struct plx_cost_work {
	uint32_t decodes;     /* tokens that are sampled: one a sequence, and its drafts */
	uint32_t prefill;     /* prompt tokens */
	uint64_t context;     /* sum over decodes of the positions before them */
	uint64_t prefill_pos; /* sum over prompt tokens of their position */
};

struct plx_cost_fit {
	double a[PLX_COST_FEATURES][PLX_COST_FEATURES]; /* normal equations, lower triangle */
	double b[PLX_COST_FEATURES];
	double w[PLX_COST_FEATURES]; /* ms a scaled feature */
	uint32_t n;                  /* steps, up to 1,000 */
};

struct plx_cost {
	struct plx_cost_fit light, heavy;
	double drift;
	double err;  /* smoothed relative error */
	double over; /* quantile of measured / predicted - 1 */
	int32_t run; /* errors of one sign in a row, with that sign */
	uint32_t n;  /* steps, up to 1,000 */
};

void plx_cost_init(struct plx_cost *c);

/* plx_cost_update - a step took ns; 0 is ignored (a device without a clock). */
void plx_cost_update(struct plx_cost *c, const struct plx_cost_work *w, uint64_t ns);

/* plx_cost_ready - enough steps were seen for predictions; with_prefill: of prompts too. */
bool plx_cost_ready(const struct plx_cost *c, bool with_prefill);

/* plx_cost_ns - the expected time of a step. */
double plx_cost_ns(const struct plx_cost *c, const struct plx_cost_work *w);

/* plx_cost_margin - 1 + the share of its expected time that a step exceeds in 1 % of cases. */
double plx_cost_margin(const struct plx_cost *c);

/*
 * plx_cost_chunk - how many prompt tokens from position pos on can join w so that the expected time
 * stays within budget_ns: the largest n <= most with plx_cost_ns(w + n tokens) <= budget_ns.
 */
uint32_t plx_cost_chunk(const struct plx_cost *c, const struct plx_cost_work *w, uint32_t pos,
                        double budget_ns, uint32_t most);

/* plx_cost_add_prefill - n prompt tokens from position pos on join w. */
static inline void plx_cost_add_prefill(struct plx_cost_work *w, uint32_t pos, uint32_t n)
{
	w->prefill += n;
	w->prefill_pos += (uint64_t)n * pos + (uint64_t)n * n / 2;
}

#endif
