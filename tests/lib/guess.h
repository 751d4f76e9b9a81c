/*
 * A drafter for the scheduler's rig that knows what is to come, and now and then says otherwise.
 */
#ifndef PLX_TESTS_LIB_GUESS_H
#define PLX_TESTS_LIB_GUESS_H

#include "tests/lib/schedrig.h"

struct guess {
	struct rig *g;
	uint32_t wrong; /* one of so many drafts is wrong; 0: none */
	uint32_t most;  /* drafts proposed at most */
	uint32_t forks; /* at each so manieth place there is another candidate; 0: at none */
	float p;        /* the chance it says each has */
	uint64_t n;     /* drafts proposed */
};

/* guess_open - let it draft in the rig, whose device's steps then take long and tokens little. */
void guess_open(struct guess *u, struct rig *g);

#endif
