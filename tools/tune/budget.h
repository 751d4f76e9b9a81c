/*
 * What a configuration came to, and what the user demands of it: "perplexity 1 %", "p99
 * inter-token 20 ms", "at least 50 tokens/s".
 */
#ifndef PLX_TOOLS_TUNE_BUDGET_H
#define PLX_TOOLS_TUNE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "fw/base/diag.h"

enum plx_figure {
	PLX_FIG_LOSS,   /* perplexity above the reference's, % */
	PLX_FIG_KL,     /* divergence of the next id's distribution from the reference's, nats */
	PLX_FIG_TOP,    /* places of the text with the reference's best id, %; more is better */
	PLX_FIG_RATE,   /* ids a second of all answers together; more is better */
	PLX_FIG_FIRST,  /* first id after the request came, ms, median */
	PLX_FIG_P50,    /* from one id of an answer to the next, ms, median */
	PLX_FIG_P99,    /* the same, 99 of 100 */
	PLX_FIG_MEMORY, /* weights and KV blocks, MiB */
	PLX_FIGURES,
};

struct plx_figure_info {
	const char *name;  /* as in a budget */
	const char *label; /* of an axis, with its unit */
	const char *unit;
	bool more; /* more is better */
};
extern const struct plx_figure_info plx_figure_info[PLX_FIGURES];

/* A figure must be at most (or, where more is better, at least) so much, in its unit. */
struct plx_budget {
	enum plx_figure figure;
	double bound;
};

/*
 * plx_budget_parse - words in any order and case, then a number with or without its unit.
 *
 * Units: % ; ms us s ; MiB GiB ; nats ; tokens/s. A word such as "at most" is allowed where it is
 * true of the figure.
 *
 * Errors: INVAL; d lists the figures.
 */
int plx_budget_parse(struct plx_budget *b, const char *text, struct plx_diag *d);

/* plx_budget_excess - how far f is from holding it, as a share of the bound; at most 0: it holds.
 */
double plx_budget_excess(const struct plx_budget *b, const double f[PLX_FIGURES]);

/*
 * plx_budget_choose - of n configurations, that which holds all budgets and is fastest (tokens a
 * second; of two within 1 %, the one with less divergence).
 *
 * @f     [n][PLX_FIGURES].
 * Returns its index, or -1; then *nearest is the one whose worst excess is smallest.
 */
int plx_budget_choose(const struct plx_budget *b, uint32_t n_budgets,
                      const double (*f)[PLX_FIGURES], uint32_t n, uint32_t *nearest);

/* plx_budgets_help - the figures for --help. */
void plx_budgets_help(FILE *f);

#endif
