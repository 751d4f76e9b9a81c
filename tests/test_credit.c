/* Credit totals, and the window of request ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/credit.h"

static void test_credit_counts_base_packets(void **state)
{
	(void)state;
	assert_int_equal(plx_credit_packets(0), 1);
	assert_int_equal(plx_credit_packets(1152), 1);
	assert_int_equal(plx_credit_packets(1153), 2);
	assert_int_equal(plx_credit_packets(UINT32_MAX), 3728271);
}

static void test_credit_binds_the_client(void **state)
{
	struct plx_credit_tx t;
	struct plx_msg_credit more = {20, 3}, old = {5, 1};

	(void)state;
	plx_credit_tx_init(&t, 10, 2);
	assert_int_equal(plx_credit_tx_take(&t, 11), PLX_E_AGAIN);
	assert_int_equal(plx_credit_tx_take(&t, 10), 0);
	assert_int_equal(plx_credit_tx_take(&t, 1), PLX_E_AGAIN);
	plx_credit_tx_grant(&t, &more);
	plx_credit_tx_grant(&t, &old); /* reordered: ignored */
	assert_int_equal(plx_credit_tx_take(&t, 1), 0);
	assert_int_equal(plx_credit_tx_take(&t, 1), 0);
	assert_int_equal(plx_credit_tx_take(&t, 1), PLX_E_AGAIN); /* requests are used up */
}

static void test_credit_comes_back_as_requests_end(void **state)
{
	struct plx_credit_rx r;

	(void)state;
	plx_credit_rx_init(&r, 40, 8);
	assert_int_equal(plx_credit_rx_charge(&r, 41), PLX_E_LIMIT);
	assert_int_equal(plx_credit_rx_charge(&r, 40), 0);
	assert_false(plx_credit_rx_may(&r, 1));
	assert_true(plx_credit_rx_release(&r, 40));
	struct plx_msg_credit c = plx_credit_rx_now(&r);

	assert_int_equal(c.packets, 80);
	assert_int_equal(c.requests, 9);
	assert_int_equal(plx_credit_rx_charge(&r, 1), 0);
	assert_false(plx_credit_rx_release(&r, 1)); /* not worth a packet yet */
	assert_int_equal(plx_credit_rx_charge(&r, 1), 0);
	assert_true(plx_credit_rx_release(&r, 1)); /* two of eight requests */
}

/* Whatever the order, and with lost grants, the appliance is never charged beyond its window, and
 * the client never runs dry for good. */
static void test_credit_ends_agree(void **state)
{
	struct plx_credit_tx t;
	struct plx_credit_rx r;
	uint32_t flying[8], n_flying = 0, running[8], n_running = 0, ended = 0;
	uint64_t x = 99;

	(void)state;
	plx_credit_tx_init(&t, 64, 8);
	plx_credit_rx_init(&r, 64, 8);
	for (int i = 0; i < 100000; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		uint32_t packets = (uint32_t)(x >> 50) % 20 + 1;
		struct plx_msg_credit c;

		switch ((x >> 40) % 4) {
		case 0:
			if (n_flying < 8 && plx_credit_tx_take(&t, packets) == 0)
				flying[n_flying++] = packets;
			break;
		case 1:
			if (n_flying == 0)
				break;
			uint32_t k = (uint32_t)(x >> 45) % n_flying;

			assert_int_equal(plx_credit_rx_charge(&r, flying[k]), 0);
			assert_true(n_running < 8);
			running[n_running++] = flying[k];
			flying[k] = flying[--n_flying];
			break;
		case 2:
			if (n_running == 0)
				break;
			plx_credit_rx_release(&r, running[--n_running]);
			ended++;
			break;
		default:
			c = plx_credit_rx_now(&r);
			if (x & 1024) /* else lost */
				plx_credit_tx_grant(&t, &c);
		}
		assert_true(r.used.packets - r.released.packets <= 64);
	}
	assert_true(ended > 5000);
}

static void test_window_places_ids(void **state)
{
	struct plx_req_window w;
	uint32_t slot;

	(void)state;
	plx_req_window_init(&w, 2); /* spans 8 */
	assert_int_equal(plx_req_window_place(&w, 0, &slot), PLX_REQ_BELOW);
	assert_int_equal(plx_req_window_place(&w, 3, &slot), PLX_REQ_NEW);
	assert_int_equal(slot, 3);
	assert_int_equal(plx_req_window_place(&w, 9, &slot), PLX_REQ_BEYOND);
	plx_req_window_move(&w, 8);
	assert_int_equal(plx_req_window_place(&w, 1, &slot), PLX_REQ_NEW); /* came late */
	plx_req_window_move(&w, 10);
	assert_int_equal(plx_req_window_place(&w, 2, &slot), PLX_REQ_BELOW);
	assert_int_equal(plx_req_window_place(&w, 3, &slot), PLX_REQ_NEW);
	assert_int_equal(plx_req_window_place(&w, 18, &slot), PLX_REQ_NEW);
	assert_int_equal(slot, 2);
	assert_int_equal(plx_req_window_place(&w, 19, &slot), PLX_REQ_BEYOND);
	plx_req_window_move(&w, 4); /* never back */
	assert_int_equal(w.highest, 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_credit_counts_base_packets),
	    cmocka_unit_test(test_credit_binds_the_client),
	    cmocka_unit_test(test_credit_comes_back_as_requests_end),
	    cmocka_unit_test(test_credit_ends_agree),
	    cmocka_unit_test(test_window_places_ids),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
