/* The loop of an lcore: its stages in turn, and idle back-off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dataplane/stage.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"

static atomic_bool stop;

static uint32_t count_poll(void *state, uint64_t now_ns)
{
	uint32_t *n = state;

	assert_true(now_ns > 0);
	return ++*n % 2;
}

static uint32_t stopping_poll(void *state, uint64_t now_ns)
{
	uint32_t *n = state;

	(void)now_ns;
	if (++*n == 2000)
		atomic_store(&stop, true);
	return 0;
}

static void test_lcore_takes_its_stages_in_turn(void **state)
{
	static struct plx_page page[2];
	struct plx_lcore lc = {.stop = &stop};
	uint32_t a = 0, b = 0;

	(void)state;
	plx_page_init(&page[0], PLX_STAGE_IO, 0, 3);
	plx_page_init(&page[1], PLX_STAGE_TOK, 0, 3);
	assert_int_equal(plx_lcore_add(&lc, count_poll, &a, &page[0]), 0);
	assert_int_equal(plx_lcore_add(&lc, count_poll, &b, &page[1]), 0);
	b = 1;
	assert_int_equal(plx_lcore_turn(&lc), 1);
	assert_int_equal(plx_lcore_turn(&lc), 1);
	assert_int_equal(a, 2);
	assert_int_equal(b, 3);
	assert_int_equal(page[0].heartbeat, 2);
	assert_int_equal(lc.heartbeat, 2);
	assert_int_equal(page[0].hist[PLX_H_TURN].count, 1);
	for (uint32_t i = 2; i < PLX_LCORE_MAX_STAGES; i++)
		assert_int_equal(plx_lcore_add(&lc, count_poll, &a, &page[0]), 0);
	assert_int_equal(plx_lcore_add(&lc, count_poll, &a, &page[0]), PLX_E_FULL);
}

/* What its state holds, it says and does. */
struct saying {
	struct plx_page *page;
	enum plx_regime say;
	uint32_t done;
};

static uint32_t saying_poll(void *state, uint64_t now_ns)
{
	struct saying *s = state;

	while (plx_clock_ns() - now_ns < 2000)
		;
	plx_regime_say(s->page, s->say);
	return s->done;
}

/* Which regime a turn's time was counted as; each in one only. */
static int regime_of_turn(enum plx_regime say, uint32_t done)
{
	static struct plx_page page;
	struct saying s = {.page = &page, .say = say, .done = done};
	struct plx_lcore lc = {.stop = &stop};
	int found = -1;

	plx_page_init(&page, PLX_STAGE_IO, 0, 0);
	plx_lcore_add(&lc, saying_poll, &s, &page);
	plx_lcore_turn(&lc);
	for (int r = 0; r < PLX_REGIME_COUNT; r++) {
		if (page.regime_ns[r] == 0)
			continue;
		assert_int_equal(found, -1);
		assert_true(page.regime_ns[r] >= 2000);
		found = r;
	}
	return found;
}

static void test_turn_has_one_regime(void **state)
{
	(void)state;
	assert_int_equal(regime_of_turn(PLX_REGIME_BUSY, 1), PLX_REGIME_BUSY);
	assert_int_equal(regime_of_turn(PLX_REGIME_BUSY, 0), PLX_REGIME_IDLE);
	assert_int_equal(regime_of_turn(PLX_REGIME_BACKPRESSURED, 0), PLX_REGIME_BACKPRESSURED);
	assert_int_equal(regime_of_turn(PLX_REGIME_BACKPRESSURED, 1), PLX_REGIME_BUSY);
	assert_int_equal(regime_of_turn(PLX_REGIME_HOUSEKEEPING, 1), PLX_REGIME_HOUSEKEEPING);
}

static void test_lcore_backs_off_when_idle(void **state)
{
	static struct plx_page page;
	struct plx_lcore lc = {.stop = &stop, .backoff = true};
	uint32_t n = 0;

	(void)state;
	atomic_store(&stop, false);
	plx_page_init(&page, PLX_STAGE_IO, 0, 0);
	plx_lcore_add(&lc, stopping_poll, &n, &page);
	assert_int_equal(plx_lcore_run(&lc), 0);
	/* Turns 64 to 1,023 yield, those after sleep. */
	assert_int_equal(plx_counter_read(&page, PLX_M_IDLE_YIELDS), 960);
	assert_int_equal(plx_counter_read(&page, PLX_M_IDLE_SLEEPS), 977);
	atomic_store(&stop, false);
	n = 0;
	lc.backoff = false;
	assert_int_equal(plx_lcore_run(&lc), 0);
	assert_int_equal(plx_counter_read(&page, PLX_M_IDLE_YIELDS), 960);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lcore_takes_its_stages_in_turn),
	    cmocka_unit_test(test_turn_has_one_regime),
	    cmocka_unit_test(test_lcore_backs_off_when_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
