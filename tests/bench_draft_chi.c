/*
 * Whether drafts change the distribution of sampled ids: for each drafter, chains and trees, the
 * chi-square of 100,000 draws of each of three places, of as many answers, against as many sampled
 * without drafts from other seeds.
 *
 *   bench_draft_chi [answers [from]]
 *
 * from: the first variant, of 0 (look-up, chains) to 7 (lookahead, trees).
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/lib/draftchi.h"
#include "tests/lib/draftrig.h"

int main(int argc, char **argv)
{
	static struct draftchi plain, c;
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 100000, df;
	bool failed = false;

	n = n < 1000 ? 1000 : n;
	draftchi_draw(&plain, DRAFTRIG_NONE, false, 1000, n);
	for (uint32_t i = argc > 2 ? (uint32_t)atoi(argv[2]) : 0; i < 2 * PLX_DRAFTERS; i++) {
		draftchi_draw(&c, i / 2, i % 2, 50000000 + i * UINT64_C(10000000), n);
		printf("bench_draft_chi: %-9s %-6s %u answers: accepted %.1f %% of %.2f drafts an "
		       "answer, %.2f branches; chi-square by place",
		       draftrig_name(i / 2), i % 2 ? "trees" : "chains", n,
		       100.0 * (double)c.accepted / (double)(c.drafted ? c.drafted : 1),
		       (double)c.drafted / n, (double)c.branches / n);
		for (uint32_t k = 0; k < DRAFTCHI_PLACES; k++) {
			double chi = draftchi_of(plain.count[k], c.count[k], &df);

			printf(" %.1f (df %u, 99.9 %%: %.1f)", chi, df, draftchi_bound(df));
			failed = failed || chi > draftchi_bound(df);
		}
		printf("\n");
		fflush(stdout);
	}
	return failed;
}
