/*
 * Tokens are counted into bins by the bits of what they are worth, which order floats that are not
 * negative; whole bins go as far as the goal allows, and of the next one tokens as they come.
 */
#include "dataplane/batch/compress_kv.h"

#include <math.h>
#include <string.h>

#include "accel/accel.h"

#define BITS 11u /* of the worth: the exponent and three bits behind */
#define BINS (1u << BITS)

static float seen_at(const float *seen, uint32_t p)
{
	return isfinite(seen[p]) && seen[p] > 0 ? seen[p] : 0;
}

static uint32_t bin_of(const float *seen, uint32_t n, uint32_t p)
{
	uint32_t from = p < PLX_EVICT_NEAR ? 0 : p - PLX_EVICT_NEAR;
	uint32_t to = n - p > PLX_EVICT_NEAR ? p + PLX_EVICT_NEAR : n - 1, bits;
	float most = 0;

	for (uint32_t i = from; i <= to; i++)
		most = seen_at(seen, i) > most ? seen_at(seen, i) : most;
	memcpy(&bits, &most, sizeof(bits));
	return bits >> (31 - BITS);
}

struct left {
	double seen;
	uint32_t n;
};

static bool spend(struct left *l, uint32_t n, double seen)
{
	if (n > l->n || seen > l->seen)
		return false;
	l->n -= n;
	l->seen -= seen;
	return true;
}

static struct left goal_of(const struct plx_compress_goal *g, uint32_t n, double total)
{
	double stay = ceil((double)g->target * n - 1e-6);

	if (g->by_loss)
		return (struct left){(double)g->target * total, n};
	return (struct left){total, stay < n ? n - (uint32_t)stay : 0};
}

/* The first bin that does not go whole. */
static uint32_t whole_bins(const float *seen, uint32_t n, uint32_t end, struct left *left)
{
	struct left bin[BINS];
	uint32_t k = 0;

	memset(bin, 0, sizeof(bin));
	for (uint32_t p = PLX_EVICT_SINKS; p < end; p++) {
		struct left *b = &bin[bin_of(seen, n, p)];

		b->n++;
		b->seen += (double)seen_at(seen, p);
	}
	while (k < BINS && spend(left, bin[k].n, bin[k].seen))
		k++;
	return k;
}

uint32_t plx_evict_choose(const float *seen, uint32_t n, const struct plx_compress_goal *goal,
                          uint64_t *keep, struct plx_compress_result *out)
{
	uint32_t end = n > PLX_OBSERVE_QUERIES ? n - PLX_OBSERVE_QUERIES : 0, stay = n;
	double total = 0, gone = 0;

	memset(keep, 0xff, ((size_t)n + 63) / 64 * 8);
	*out = (struct plx_compress_result){0, 0};
	for (uint32_t p = 0; p < n; p++)
		total += (double)seen_at(seen, p);
	struct left left = goal_of(goal, n, total);
	uint32_t whole = whole_bins(seen, n, end, &left);

	for (uint32_t p = PLX_EVICT_SINKS; p < end; p++) {
		uint32_t b = bin_of(seen, n, p);
		double s = (double)seen_at(seen, p);

		if (b > whole || (b == whole && !spend(&left, 1, s)))
			continue;
		keep[p / 64] &= ~(UINT64_C(1) << (p % 64));
		gone += s;
		stay--;
	}
	out->n_removed = n - stay;
	out->loss = total > 0 ? (float)fmin(gone / total, 1) : 0;
	return stay;
}
