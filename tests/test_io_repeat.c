/* The io stage: what is sent again, when, and what it is counted as. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "dataplane/stage_io.h"
#include "fw/base/clock.h"
#include "tests/lib/iorig.h"

static struct plx_rig rig;
static struct plx_rig_client cli;
static uint8_t buf[2048];
static struct plx_hdr hdr;

static int setup(void **state)
{
	struct plx_config cfg = plx_rig_config();

	(void)state;
	if (plx_rig_open(&rig, &cfg, 1, NULL) != 0)
		return -1;
	plx_rig_client_init(&cli, &rig, 0, NULL, 40000);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	plx_rig_client_end(&cli);
	plx_rig_close(&rig);
	return 0;
}

static uint64_t count(enum plx_metric m)
{
	return plx_rig_count(&rig, 0, m);
}

static void test_io_repeats_until_acknowledged(void **state)
{
	uint32_t n_done = 0, n_tokens = 0;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = plx_rig_ask(&cli, "x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	plx_rig_done(&rig, r, 1);
	for (int i = 0; i < 100; i++) {
		plx_rig_turn(&rig, PLX_NS_PER_MS);
		while (plx_rig_hear(&cli, &hdr, buf)) {
			n_done += hdr.type == PLX_T_DONE;
			n_tokens += hdr.type == PLX_T_TOKENS;
		}
	}
	assert_true(n_done >= 3);
	assert_true(n_tokens >= 3);
	assert_true(count(PLX_M_TX_RETRANSMITS) >= 4);
	plx_rig_ack(&cli, PLX_T_DONE, id);
	plx_rig_tok_ack(&cli, id, 1, PLX_TOK_ACK_LAST);
	while (plx_rig_hear(&cli, &hdr, buf))
		;
	uint64_t before = count(PLX_M_TX_RETRANSMITS);

	for (int i = 0; i < 100; i++)
		plx_rig_turn(&rig, 10 * PLX_NS_PER_MS);
	assert_int_equal(count(PLX_M_TX_RETRANSMITS), before);
}

/* Turns until TOKENS packets come: how many came at once. */
static uint32_t one_round(void)
{
	uint32_t n = 0;

	for (int i = 0; i < 40000 && n == 0; i++) {
		plx_rig_turn(&rig, PLX_NS_PER_MS / 10);
		while (plx_rig_hear(&cli, &hdr, buf))
			n += hdr.type == PLX_T_TOKENS;
	}
	return n;
}

/* A stream's first timeout repeats one message, later ones without news twice as many each, up to
 * 16; news begins anew; an acknowledgement that brings none repeats nothing. */
static void test_io_probes_more_after_each_timeout(void **state)
{
	static const uint32_t want[] = {1, 2, 4, 8, 16, 16};

	(void)state;
	rig.cfg.tmr.coalesce_us = 0;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = plx_rig_ask(&cli, "x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	for (uint32_t i = 0; i < 40; i++) {
		plx_rig_tokens(&rig, r, i, (int32_t)i, "a", false);
		plx_rig_turn(&rig, 1000);
	}
	uint32_t n_first = 0;

	while (plx_rig_hear(&cli, &hdr, buf))
		n_first += hdr.type == PLX_T_TOKENS;
	assert_int_equal(n_first, 40);
	for (uint32_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		assert_int_equal(one_round(), want[i]);
	plx_rig_tok_ack(&cli, id, 10, 0);
	assert_int_equal(one_round(), 1);
	for (int i = 0; i < 3; i++)
		plx_rig_tok_ack(&cli, id, 10, 0); /* the same again is no news */
	while (plx_rig_hear(&cli, &hdr, buf))
		assert_int_not_equal(hdr.type, PLX_T_TOKENS);
	assert_int_equal(one_round(), 2);
}

/* The client had everything, but its acknowledgements come late: they speak of packets from before
 * the repeats. */
static void test_io_counts_what_it_repeated_in_vain(void **state)
{
	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	plx_rig_ack(&cli, PLX_T_MODELS, 0);
	uint64_t id = plx_rig_ask(&cli, "x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	plx_rig_done(&rig, r, 1);
	assert_true(plx_rig_expect(&cli, PLX_T_DONE, &hdr, buf));
	assert_int_equal(count(PLX_M_TX_RETRANSMITS), 0);
	for (int i = 0; i < 30; i++)
		plx_rig_turn(&rig, PLX_NS_PER_MS);
	assert_true(count(PLX_M_TX_RETRANSMITS) >= 2);
	plx_rig_ack(&cli, PLX_T_DONE, id);
	plx_rig_tok_ack(&cli, id, 1, PLX_TOK_ACK_LAST);
	assert_int_equal(count(PLX_M_TX_SPURIOUS), 2);

	/* Another, of which the first copies are lost: nothing was in vain. */
	while (plx_rig_hear(&cli, &hdr, buf))
		;
	id = plx_rig_ask(&cli, "y");
	r = plx_rig_take(&rig, 0);
	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	plx_rig_done(&rig, r, 1);
	for (int i = 0; i < 30; i++)
		plx_rig_turn(&rig, PLX_NS_PER_MS);
	while (plx_rig_hear(&cli, &hdr, buf))
		;
	plx_rig_ack(&cli, PLX_T_DONE, id);
	plx_rig_tok_ack(&cli, id, 1, PLX_TOK_ACK_LAST);
	assert_int_equal(count(PLX_M_TX_SPURIOUS), 2);
}

static void test_io_end_without_id_is_kept_until_told(void **state)
{
	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = plx_rig_ask(&cli, "x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", false);
	plx_rig_turn(&rig, 1000);
	plx_rig_tok_ack(&cli, id, 1, 0);
	plx_rig_tokens(&rig, r, 1, -1, "bc", true);
	plx_rig_done(&rig, r, 1);
	plx_rig_turn(&rig, 1000);
	while (plx_rig_hear(&cli, &hdr, buf))
		; /* lost on the way */
	plx_rig_ack(&cli, PLX_T_DONE, id);
	plx_rig_tok_ack(&cli, id, 1, PLX_TOK_ACK_RESEND);
	assert_true(plx_rig_expect(&cli, PLX_T_TOKENS, &hdr, buf));
	assert_int_equal(hdr.req_id, id);
	plx_rig_tok_ack(&cli, id, 1, PLX_TOK_ACK_LAST);
	while (plx_rig_hear(&cli, &hdr, buf))
		;
	for (int i = 0; i < 50; i++)
		plx_rig_turn(&rig, 10 * PLX_NS_PER_MS);
	while (plx_rig_hear(&cli, &hdr, buf))
		assert_int_not_equal(hdr.type, PLX_T_TOKENS);
}

/* An answer that is owed stays owed while the window moves past its id. */
static void test_io_hears_acknowledgements_below_the_window(void **state)
{
	struct plx_req *r;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	(void)plx_rig_ask(&cli, "first");
	r = plx_rig_take(&rig, 0);
	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	plx_rig_done(&rig, r, 1);
	plx_rig_turn(&rig, 1000);
	for (uint64_t id = 2; id < 30; id++) {
		if (id % 16 == 1)
			cli.next_req++; /* its slot is taken */
		uint64_t this_id = plx_rig_ask(&cli, "more");

		r = plx_rig_take(&rig, 0);
		assert_non_null(r);
		plx_rig_done(&rig, r, 0);
		plx_rig_turn(&rig, 1000);
		plx_rig_ack(&cli, PLX_T_DONE, this_id);
		plx_rig_turn(&rig, 1000);
	}
	uint64_t before = count(PLX_M_TX_RETRANSMITS);

	plx_rig_tok_ack(&cli, 1, 1, PLX_TOK_ACK_LAST);
	plx_rig_ack(&cli, PLX_T_DONE, 1);
	plx_rig_turn(&rig, 1000);
	for (int i = 0; i < 20; i++)
		plx_rig_turn(&rig, 100 * PLX_NS_PER_MS);
	assert_int_equal(count(PLX_M_TX_RETRANSMITS), before);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_io_repeats_until_acknowledged),
	    T(test_io_probes_more_after_each_timeout),
	    T(test_io_counts_what_it_repeated_in_vain),
	    T(test_io_end_without_id_is_kept_until_told),
	    T(test_io_hears_acknowledgements_below_the_window),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
