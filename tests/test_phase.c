/*
 * Phases: every unit is claimed once, what describes a phase and what its units wrote is seen by
 * whom it has to be, and exactly one lcore is the last. The stress test is for TSan above all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <string.h>

#include <pthread.h>

#include "accel/phase.h"

#define N_LANE_MAX 10u
#define N_PHASE    4000u
#define UNITS_MAX  300u

static void claim_is(struct plx_phase *p, uint32_t lane, uint32_t begin, uint32_t end)
{
	struct plx_range r;

	assert_true(plx_phase_claim(p, lane, false, &r));
	assert_int_equal(r.begin, begin);
	assert_int_equal(r.end, end);
}

/* One lane takes as much as an item may have, in order. */
static void test_one_lane_goes_in_order(void **state)
{
	struct plx_phase p;
	struct plx_range r;

	(void)state;
	plx_phase_init(&p, 1);
	assert_false(plx_phase_claim(&p, 0, false, &r));
	plx_phase_open(&p, 10, 4);
	claim_is(&p, 0, 0, 4);
	claim_is(&p, 0, 4, 8);
	assert_false(plx_phase_finish(&p, 8));
	claim_is(&p, 0, 8, 10);
	assert_false(plx_phase_claim(&p, 0, false, &r));
	assert_true(plx_phase_finish(&p, 2));
}

/* Of long units two lanes halve their own stretch from its front; a thief halves another's from its
 * back. */
static void test_two_lanes_halve_and_steal(void **state)
{
	struct plx_phase p;
	struct plx_range r;

	(void)state;
	plx_phase_init(&p, 2);
	plx_phase_open(&p, 24, 7);
	claim_is(&p, 0, 0, 6);
	claim_is(&p, 1, 12, 18);
	claim_is(&p, 0, 6, 9);
	claim_is(&p, 0, 9, 10);
	claim_is(&p, 0, 10, 11);
	claim_is(&p, 0, 11, 12);
	claim_is(&p, 0, 21, 24);
	claim_is(&p, 1, 18, 19);
	claim_is(&p, 0, 20, 21);
	claim_is(&p, 1, 19, 20);
	assert_false(plx_phase_claim(&p, 0, false, &r));
	assert_false(plx_phase_claim(&p, 1, false, &r));
	assert_false(plx_phase_finish(&p, 16));
	assert_true(plx_phase_finish(&p, 8));
}

/* Of short ones an owner takes all but an eighth, then the rest; a thief halves as ever. */
static void test_short_units_are_taken_nearly_all_at_once(void **state)
{
	struct plx_phase p;

	(void)state;
	plx_phase_init(&p, 2);
	plx_phase_open(&p, 64, 100);
	claim_is(&p, 0, 0, 28);
	claim_is(&p, 0, 28, 32);
	claim_is(&p, 0, 48, 64);
	claim_is(&p, 1, 32, 46);
	claim_is(&p, 1, 46, 48);
	assert_false(plx_phase_finish(&p, 48));
	assert_true(plx_phase_finish(&p, 16));
}

/* A patient thief leaves a twelfth of an item's units to their owner. */
static void test_the_last_units_are_left_to_their_owner(void **state)
{
	struct plx_phase p;
	struct plx_range r;

	(void)state;
	plx_phase_init(&p, 2);
	plx_phase_open(&p, 8, 36);
	claim_is(&p, 0, 0, 4);
	assert_true(plx_phase_claim(&p, 0, true, &r));
	assert_int_equal(r.begin, 6);
	assert_int_equal(r.end, 8);
	assert_false(plx_phase_claim(&p, 0, true, &r));
	claim_is(&p, 0, 5, 6);
	claim_is(&p, 1, 4, 5);
	assert_true(plx_phase_finish(&p, 8));
}

/* An item is never longer than the cut allows, and one unit suffices for a phase. */
static void test_items_are_bounded(void **state)
{
	struct plx_phase p;

	(void)state;
	plx_phase_init(&p, 2);
	plx_phase_open(&p, 1000, 3);
	claim_is(&p, 0, 0, 3);
	claim_is(&p, 1, 500, 503);
	plx_phase_init(&p, 3);
	plx_phase_open(&p, 1, 1);
	claim_is(&p, 0, 0, 1);
	assert_true(plx_phase_finish(&p, 1));
}

/* ---- stress --------------------------------------------------------------------------------- */

/* A chain of phases; plain memory but for the phase itself and the end. */
static struct {
	struct plx_phase p;
	uint32_t n_phase;         /* opened so far */
	uint32_t n_units;         /* of the open phase */
	uint32_t mark[UNITS_MAX]; /* how often each unit was claimed */
	uint32_t wrong;           /* units that were not claimed exactly once */
	_Atomic uint32_t over;
	_Atomic uint32_t next_lane;
} chain;

static uint32_t units_of(uint32_t phase)
{
	return 1 + phase * 2654435761u % UNITS_MAX;
}

static void chain_next(void)
{
	for (uint32_t i = 0; i < chain.n_units; i++)
		chain.wrong += chain.mark[i] != 1;
	memset(chain.mark, 0, sizeof(chain.mark));
	if (++chain.n_phase > N_PHASE) {
		atomic_store(&chain.over, 1);
		return;
	}
	chain.n_units = units_of(chain.n_phase);
	plx_phase_open(&chain.p, chain.n_units, 1 + chain.n_phase % 50);
}

static void *lane_main(void *arg)
{
	uint32_t lane = atomic_fetch_add(&chain.next_lane, 1);
	uint32_t leave = 0;
	struct plx_range r;

	(void)arg;
	while (atomic_load(&chain.over) == 0) {
		uint32_t done = 0;

		/* Now and then a lane leaves between two items. */
		while (++leave % 7 != 0 && plx_phase_claim(&chain.p, lane, leave % 3 != 0, &r)) {
			for (uint32_t i = r.begin; i < r.end; i++)
				chain.mark[i]++;
			done += r.end - r.begin;
		}
		if (done > 0 && plx_phase_finish(&chain.p, done))
			chain_next();
		else if (done == 0)
			sched_yield();
	}
	return NULL;
}

static void stress(uint32_t n_lane)
{
	pthread_t t[N_LANE_MAX];

	memset(&chain, 0, sizeof(chain));
	plx_phase_init(&chain.p, n_lane);
	chain_next();
	for (uint32_t i = 0; i < n_lane; i++)
		assert_int_equal(pthread_create(&t[i], NULL, lane_main, NULL), 0);
	for (uint32_t i = 0; i < n_lane; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(chain.wrong, 0);
	assert_int_equal(chain.n_phase, 4001);
}

static void test_units_run_once_on_two_and_three(void **state)
{
	(void)state;
	stress(2);
	stress(3);
}

/* More lanes than shares. */
static void test_units_run_once_on_ten(void **state)
{
	(void)state;
	stress(10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_one_lane_goes_in_order),
	    cmocka_unit_test(test_two_lanes_halve_and_steal),
	    cmocka_unit_test(test_short_units_are_taken_nearly_all_at_once),
	    cmocka_unit_test(test_the_last_units_are_left_to_their_owner),
	    cmocka_unit_test(test_items_are_bounded),
	    cmocka_unit_test(test_units_run_once_on_two_and_three),
	    cmocka_unit_test(test_units_run_once_on_ten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
