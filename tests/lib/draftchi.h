/*
 * The distribution of ids sampled with drafts of each drafter, as chains and as trees, beside that
 * of ids sampled without, from other seeds: Pearson's chi-square of two samples for each place.
 */
#ifndef PLX_TESTS_LIB_DRAFTCHI_H
#define PLX_TESTS_LIB_DRAFTCHI_H

#include <stdbool.h>
#include <stdint.h>

#define DRAFTCHI_PLACES 3u /* ids 1 to 3 of an answer, which drafts stand for */
#define DRAFTCHI_VOCAB  64u

struct draftchi {
	uint32_t count[DRAFTCHI_PLACES][DRAFTCHI_VOCAB];
	uint64_t drafted, accepted, branches;
};

/* draftchi_draw - n answers to one prompt by drafter `who` (draftrig.h), from seed on. */
void draftchi_draw(struct draftchi *c, uint32_t who, bool trees, uint64_t seed, uint32_t n);

/* draftchi_of - the statistic of two counts of equal size; *df: its degrees of freedom. */
double draftchi_of(const uint32_t *a, const uint32_t *b, uint32_t *df);

/* draftchi_bound - what it exceeds once in 1,000 where both are of one distribution. */
double draftchi_bound(uint32_t df);

#endif
