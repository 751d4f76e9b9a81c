/*
 * Ids sampled with drafts are the ids sampled without, seed by seed, and from other seeds of the
 * same distribution: each drafter, chains and trees, through the scheduler and the CPU device.
 * bench_draft_chi draws 100,000 of each place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lib/draftchi.h"
#include "tests/lib/draftrig.h"

#define N      1200u
#define N_SAME 200u

static void test_draft_chi_of_each_drafter(void **state)
{
	static struct draftchi plain, few, same, other;
	uint32_t df;

	(void)state;
	draftchi_draw(&plain, DRAFTRIG_NONE, false, 1000, N);
	draftchi_draw(&few, DRAFTRIG_NONE, false, 1000, N_SAME);
	assert_int_equal(plain.drafted, 0);
	for (uint32_t i = 0; i < 2 * PLX_DRAFTERS; i++) {
		uint32_t who = i / 2;
		bool trees = i % 2;

		draftchi_draw(&same, who, trees, 1000, N_SAME);
		assert_memory_equal(same.count, few.count, sizeof(few.count));
		draftchi_draw(&other, who, trees, 500000 + i * 100000, N);
		print_message("%s %s: %lu drafted, %lu accepted, %lu branches\n",
		              draftrig_name(who), trees ? "trees" : "chains",
		              (unsigned long)other.drafted, (unsigned long)other.accepted,
		              (unsigned long)other.branches);
		assert_true(other.drafted > N && other.accepted > N / 100);
		assert_true(trees ? other.branches > N / 4 : other.branches == 0);
		for (uint32_t k = 0; k < DRAFTCHI_PLACES; k++) {
			double chi = draftchi_of(plain.count[k], other.count[k], &df);

			assert_true(df > 4);
			assert_true(chi < draftchi_bound(df));
		}
	}
	/* One that takes the likeliest id one time in five too often is found. */
	uint32_t best = 0;

	for (uint32_t i = 0; i < DRAFTCHI_VOCAB; i++)
		best = other.count[0][i] > other.count[0][best] ? i : best;
	other.count[0][best] += N / 5;
	double chi = draftchi_of(plain.count[0], other.count[0], &df);

	assert_true(chi > draftchi_bound(df));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_draft_chi_of_each_drafter),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
