/*
 * The comparison at the end: what the search found and the presets, measured anew in rounds, each
 * round all of them in an order of its own, so that a slow minute hits all alike.
 *
 * A logarithm is taken as the candidate's effect, the round's and chance, fitted by least squares;
 * 95 % intervals are by Student's t over rounds, pairs are compared over the rounds that have both.
 * Since these measurements are not those that the search chose by, nobody looks good by luck. Who
 * has nothing over another by all that is known is measured no more, so that the time goes to those
 * that are not told apart yet: it stays in the table with what was measured.
 */
#ifndef PLX_TOOLS_TUNE_RESULT_H
#define PLX_TOOLS_TUNE_RESULT_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/tune/budget.h"
#include "tools/tune/journal.h"

#define PLX_RESULT_MAX    24u /* candidates */
#define PLX_RESULT_ROUNDS 32u
#define PLX_RESULT_OBJ    4u /* divergence, -ln rate, ln p99, ln first token */
#define PLX_RESULT_TIMES  4u /* ln rate, ln p50, ln p99, ln first token */

struct plx_candidate {
	char preset[128]; /* its names, with "; " between; "": it is none */
	bool found;       /* by the search, or where it began */
	bool out;         /* retired */
	struct plx_tune_point point;
	double f[PLX_FIGURES];
	double half[PLX_FIGURES]; /* half of the 95 % interval; 0: exact */
	double cost[PLX_RESULT_OBJ];
	double log[PLX_RESULT_TIMES][PLX_RESULT_ROUNDS]; /* a round's; NaN: not measured */
	uint32_t number;                                 /* on the front, from 1; 0: it is not */
};

struct plx_result {
	struct plx_candidate c[PLX_RESULT_MAX];
	uint32_t n;
	uint32_t n_rounds; /* in which all that are not retired were measured */
};

/* What a preset is to the front without presets. */
enum plx_verdict {
	PLX_VERDICT_BEATEN, /* one is at least as good in all, better in some */
	PLX_VERDICT_EQUAL,  /* none is; one differs by no more than chance */
	PLX_VERDICT_BEATS,  /* none is, nor by chance */
};

/* plx_result_add - one more candidate, a preset by name, or ("") found by the search; false where
 * it is full, or is there already (then what is new of this is noted). */
bool plx_result_add(struct plx_result *r, const struct plx_tune_point *p, const char *preset);

/* plx_result_take - a measurement of PLX_JOURNAL_CHECK, round v[0]; or of ACCURACY. */
void plx_result_take(struct plx_result *r, const struct plx_journal_rec *rec);

/* plx_result_lacks - whether a candidate was not measured in a round. */
bool plx_result_lacks(const struct plx_result *r, uint32_t c, uint32_t round);

/*
 * plx_result_retire - whoever is, but for 2 %, certainly nowhere better than one that the search
 * found and that runs on is out. The first candidate never is: it is what the others are held
 * against. What was measured behind the first n_rounds is not looked at, so that the same journal
 * gives the same again.  Returns how many run on.
 */
uint32_t plx_result_retire(struct plx_result *r, uint32_t n_rounds);

/* plx_result_sum - means, intervals, the front and its numbers, fastest first. */
void plx_result_sum(struct plx_result *r);

/*
 * plx_result_judge - a preset against the front of what the search found.
 *
 * @by  out: the candidate that comes nearest to being better in all.
 * @gap out: how much worse that one is in its worst objective, as a logarithm.
 */
enum plx_verdict plx_result_judge(const struct plx_result *r, uint32_t preset, uint32_t *by,
                                  double *gap);

/* plx_student - half of the 95 % interval of a mean in standard errors, n values. */
double plx_student(uint32_t n);

#endif
