/*
 * Which units go: they are counted into bins by their mean self-information, the bins that go whole
 * are found by adding up, and of the one behind them units go in order of the text as they fit. So
 * nothing is sorted.
 */
#include "dataplane/batch/compress.h"

#include <math.h>
#include <string.h>

#define BINS    512u
#define BIN_PER 32.0f /* bins a nat: up to 16 nats, which is a chance of 1 in 9 million */

/* What may still go. */
struct budget {
	double info;
	uint32_t tokens;
};

struct unit {
	uint32_t end; /* token behind it */
	uint32_t n;   /* tokens that may go */
	double info;  /* theirs */
	uint32_t bin; /* BINS: nothing of it may go */
};

static double info_of(const float *logprob, uint32_t i)
{
	double x = -(double)logprob[i];

	return i > 0 && isfinite(x) && x > 0 ? x : 0;
}

static bool may_go(const uint8_t *mark, uint32_t i)
{
	return i > 0 && !(mark[i] & PLX_MARK_KEEP);
}

static struct unit unit_at(const uint8_t *mark, const float *logprob, uint32_t n, uint32_t first)
{
	struct unit u = {.end = first};

	do {
		u.n += may_go(mark, u.end);
		u.info += may_go(mark, u.end) ? info_of(logprob, u.end) : 0;
		u.end++;
	} while (u.end < n && !(mark[u.end] & PLX_MARK_UNIT));
	double bin = u.n ? u.info / u.n * (double)BIN_PER : BINS;

	u.bin = u.n == 0 ? BINS : bin < BINS - 1 ? (uint32_t)bin : BINS - 1;
	return u;
}

static bool fits(const struct budget *b, uint32_t n, double info)
{
	return n <= b->tokens && info <= b->info;
}

static void spend(struct budget *b, uint32_t n, double info)
{
	b->tokens -= n;
	b->info -= info;
}

static struct budget budget_of(const struct plx_compress_goal *goal, uint32_t n, double total)
{
	/* Rounded so that what stays is never less than was asked for. */
	double stays = ceil((double)goal->target * n - 1e-6);

	if (goal->by_loss)
		return (struct budget){(double)goal->target * total, n - 1};
	stays = stays < 1 ? 1 : stays;
	return (struct budget){total, stays < n ? n - (uint32_t)stays : 0};
}

/* The first bin that does not go whole; what is left of the budget for it. */
static uint32_t whole_bins(const uint8_t *mark, const float *logprob, uint32_t n, struct budget *b)
{
	struct {
		double info;
		uint32_t n;
	} bin[BINS] = {{0, 0}};
	uint32_t k = 0;

	for (uint32_t i = 0; i < n;) {
		struct unit u = unit_at(mark, logprob, n, i);

		i = u.end;
		if (u.bin == BINS)
			continue;
		bin[u.bin].n += u.n;
		bin[u.bin].info += u.info;
	}
	for (; k < BINS && fits(b, bin[k].n, bin[k].info); k++)
		spend(b, bin[k].n, bin[k].info);
	return k;
}

uint32_t plx_compress_prune(int32_t *ids, const uint8_t *mark, const float *logprob, uint32_t n,
                            const struct plx_compress_goal *goal, struct plx_compress_result *out)
{
	double total = 0, gone = 0;
	uint32_t n_stay = 0;

	*out = (struct plx_compress_result){0, 0};
	for (uint32_t i = 0; i < n; i++)
		total += info_of(logprob, i);
	if (n == 0)
		return 0;
	struct budget left = budget_of(goal, n, total);
	uint32_t whole = whole_bins(mark, logprob, n, &left);

	for (uint32_t i = 0; i < n;) {
		struct unit u = unit_at(mark, logprob, n, i);
		bool goes = u.bin < whole;

		if (!goes && u.bin == whole && whole < BINS && fits(&left, u.n, u.info)) {
			spend(&left, u.n, u.info);
			goes = true;
		}
		gone += goes ? u.info : 0;
		for (; i < u.end; i++)
			if (!goes || !may_go(mark, i))
				ids[n_stay++] = ids[i];
	}
	out->n_removed = n - n_stay;
	out->loss = total > 0 && gone > 0 ? (float)fmin(gone / total, 1) : 0;
	return n_stay;
}
