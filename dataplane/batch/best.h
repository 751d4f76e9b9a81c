/*
 * Samples that are held back until the best of them are known.
 *
 * A request that wants the best k of n samples has all n decoded; their ids with log-probabilities
 * (and alternatives) are kept here as they come, and once all have ended the k best are read again,
 * best first. How good a sample is: the mean of the log-probabilities of its ids, of those that
 * would be sent.
 *
 *   mean = sum over ids of log p(id | what stands before it) / ids
 *
 * Behind those with ids come samples without any, behind them those that failed; of equal ones the
 * lower number is first.
 *
 * Memory: one store of units, an id or an alternative each, in cells. A request reserves what it
 * may need at most before it begins, so that adding never fails.
 *
 * Owner: the tok stage.  Thread: one.  No allocation after init.
 * Source: best_of of the OpenAI completions interface: "the one with the highest log probability
 *         per token".
 */
#ifndef PLX_DATAPLANE_BATCH_BEST_H
#define PLX_DATAPLANE_BATCH_BEST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/accel.h"
#include "fw/base/arena.h"

#define PLX_BEST_CELL_UNITS 31u

struct plx_best_conf {
	uint32_t n_units;   /* ids and alternatives held in all; 0: none */
	uint32_t n_running; /* requests under way at once */
	uint32_t n_samples; /* samples of one */
};

struct plx_best_cell {
	uint32_t next; /* index + 1; 0: last */
	uint32_t zero;
	struct plx_top unit[PLX_BEST_CELL_UNITS];
};
static_assert(sizeof(struct plx_best_cell) == 256, "four cache lines");

/* A sample as it is held. Cells are index + 1. */
struct plx_best_sample {
	uint32_t first, last;
	uint32_t n_units;
	uint32_t n_ids; /* that would be sent */
	double sum;     /* of their log-probabilities */
	bool failed;
};

/* Where reading of a sample stands. */
struct plx_best_at {
	uint32_t cell; /* index + 1 */
	uint32_t unit; /* read of the sample */
};

struct plx_best {
	struct plx_best_conf conf;
	uint32_t n_cells, free_cell;
	uint32_t n_reserved;            /* cells, of all requests */
	struct plx_best_cell *cell;     /* [n_cells] */
	struct plx_best_sample *sample; /* [n_running][n_samples] */
	uint32_t *reserved;             /* [n_running] cells */
};

/* plx_best_bytes - what init takes from the arena. */
size_t plx_best_bytes(const struct plx_best_conf *c);

/* plx_best_init.  Errors: NOMEM. */
int plx_best_init(struct plx_best *b, struct plx_arena *a, const struct plx_best_conf *c);

/*
 * plx_best_begin - request `run` (0..n_running-1) starts: n samples of at most max_new ids with
 * n_top alternatives each.
 *
 * Errors: TOO_LARGE (more than there is in all), QUEUE_FULL (others have it now); nothing is taken
 * then.
 */
int plx_best_begin(struct plx_best *b, uint32_t run, uint32_t n, uint32_t max_new, uint32_t n_top);

/* plx_best_add - one more id of a sample, with as many alternatives as begin was told. */
void plx_best_add(struct plx_best *b, uint32_t run, uint32_t sample, const struct plx_top *id,
                  const struct plx_top *top, uint32_t n_top);

/* plx_best_count - an id of this log-probability would be sent. */
void plx_best_count(struct plx_best *b, uint32_t run, uint32_t sample, float logprob);

/* plx_best_failed - the sample is of no use. */
void plx_best_failed(struct plx_best *b, uint32_t run, uint32_t sample);

/* plx_best_mean - how good a sample is; 0 where it has no ids. */
float plx_best_mean(const struct plx_best *b, uint32_t run, uint32_t sample);

/* plx_best_ids - ids that all n samples would send. */
uint32_t plx_best_ids(const struct plx_best *b, uint32_t run, uint32_t n);

/* plx_best_rank - the numbers of n samples, best first. @order out [n]. Cost: O(n^2). */
void plx_best_rank(const struct plx_best *b, uint32_t run, uint32_t n, uint16_t *order);

/* plx_best_next - the next unit of a sample; *at begins as zero. False: there is none. */
bool plx_best_next(const struct plx_best *b, uint32_t run, uint32_t sample, struct plx_best_at *at,
                   struct plx_top *out);

/* plx_best_end - what request `run` holds and reserved is free again. No effect if it has none. */
void plx_best_end(struct plx_best *b, uint32_t run);

/* plx_best_check - abort unless cells and reservations add up; for tests. */
void plx_best_check(const struct plx_best *b);

#endif
