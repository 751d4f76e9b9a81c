/* The client library over a bad network, and with a reader that is slow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/client_rig.h"

#define SECOND UINT64_C(1000000000)

static void bad_net(struct plx_impair_cfg net, struct plx_peer_cfg pc, uint32_t n_requests)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	char expect[1024] = "";

	for (uint32_t i = 0; i < 60; i++)
		snprintf(expect + strlen(expect), sizeof(expect) - strlen(expect), "0:%u ", i);
	if (pc.end_alone)
		strcat(expect, ".");
	for (uint64_t seed = 1; seed <= 5; seed++) {
		net.seed = seed;
		struct plx_crig *r = plx_crig_open(&cc, &pc, &net);
		char prompt[5000];

		memset(prompt, 'p', sizeof(prompt));
		for (uint32_t i = 0; i < n_requests; i++) {
			prompt[i % 3 ? 10 : 4999] = 0;
			plx_crig_submit(r, prompt, 60, PLX_CLIENT_RESUBMIT_NEVER);
			memset(prompt, 'p', sizeof(prompt));
		}
		assert_true(plx_crig_run(r, 60 * SECOND, plx_crig_all_final, NULL));
		plx_crig_run(r, 10 * SECOND, NULL, NULL);
		for (uint32_t i = 0; i < n_requests; i++) {
			assert_int_equal(r->log[i].n_finals, 1);
			assert_int_equal(r->log[i].final.type, PLX_CLIENT_EV_DONE);
			assert_string_equal(r->log[i].text, expect);
			assert_false(r->log[i].bad_order);
		}
		assert_int_equal(plx_peer_counts_of(r->peer)->n_requests, n_requests);
		assert_int_equal(plx_peer_counts_of(r->peer)->n_sessions, 1);
		assert_int_equal(plx_peer_counts_of(r->peer)->n_finals_acked, n_requests);
		plx_crig_close(r);
	}
}

static void test_client_survives_loss_duplication_reordering(void **state)
{
	(void)state;
	bad_net(
	    (struct plx_impair_cfg){.loss = 0.1, .duplicate = 0.1, .reorder = 0.1, .delay_us = 500},
	    plx_crig_peer_cfg(), 12);
}

static void test_client_survives_damage_and_replay(void **state)
{
	(void)state;
	bad_net(
	    (struct plx_impair_cfg){
		.corrupt = 0.1, .truncate = 0.1, .replay = 0.3, .delay_us = 500},
	    plx_crig_peer_cfg(), 12);
}

static void test_client_end_that_comes_alone_may_be_lost_too(void **state)
{
	struct plx_peer_cfg pc = plx_crig_peer_cfg();

	(void)state;
	pc.end_alone = true;
	pc.tokens_a_packet = 7;
	bad_net((struct plx_impair_cfg){.loss = 0.3, .delay_us = 500}, pc, 6);
}

/* The appliance's first acknowledgement was on its way when the request went again. */
static void test_client_counts_spurious_retransmits(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();
	struct plx_impair_cfg slow = {.delay_us = 40000, .seed = 1};
	struct plx_client_info info;

	(void)state;
	/* A round trip of 80 ms against the 50 ms of a first timeout. */
	struct plx_crig *r = plx_crig_open(&cc, &pc, &slow);

	plx_crig_submit(r, "a", 3, PLX_CLIENT_RESUBMIT_NEVER);
	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
	plx_client_info(r->client, &info);
	assert_int_equal(info.retransmits, 1);
	assert_int_equal(info.spurious, 1);
	plx_crig_submit(r, "b", 3, PLX_CLIENT_RESUBMIT_NEVER);
	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
	plx_client_info(r->client, &info); /* the timeout has learnt */
	assert_int_equal(info.retransmits, 1);
	assert_int_equal(info.spurious, 1);
	plx_crig_close(r);
}

/* DONE is here, but tokens found no room until the appliance (10 s here) let them go. */
static void test_client_fails_when_its_tokens_are_gone(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();

	(void)state;
	cc.n_packets = 16;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 40, PLX_CLIENT_RESUBMIT_ALWAYS);

	r->reading = false;
	plx_crig_run(r, 9 * SECOND, NULL, NULL);
	assert_true(r->client->slot[0].final_here);
	assert_false(r->client->slot[0].final_queued);
	plx_crig_run(r, 5 * SECOND, NULL, NULL);
	assert_true(r->client->slot[0].final_queued);
	r->reading = true;
	plx_crig_run(r, 20 * SECOND, NULL, NULL);
	assert_int_equal(l->n_finals, 1);
	assert_int_equal(l->final.type, PLX_CLIENT_EV_FAILED);
	assert_int_equal(l->final.failed.err, PLX_E_TIMEOUT);
	assert_non_null(strstr(l->why, "not all of its tokens were taken in the 10.0 s"));
	assert_int_equal(l->n_ids[0], 16);
	assert_int_equal(l->n_restarts, 0);
	assert_int_equal(r->n_lost, 0);
	plx_crig_close(r);
}

static void test_client_bounds_what_it_holds(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();

	(void)state;
	cc.n_packets = 16;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 200, PLX_CLIENT_RESUBMIT_NEVER);

	r->reading = false;
	plx_crig_run(r, SECOND, NULL, NULL);
	assert_int_equal(r->client->n_packets, 16);
	assert_int_equal(l->n_finals, 0);
	r->reading = true;
	assert_true(plx_crig_run(r, 20 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 200);
	assert_false(l->bad_order);
	plx_crig_close(r);
}

static void test_client_full_table_is_an_error(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();
	struct plx_client_request q;
	struct plx_diag d = {0};
	uint64_t req;

	(void)state;
	cc.n_requests = 2;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);

	plx_crig_submit(r, "a", 4, PLX_CLIENT_RESUBMIT_NEVER);
	plx_crig_submit(r, "b", 4, PLX_CLIENT_RESUBMIT_NEVER);
	plx_client_request_init(&q);
	q.text = "c";
	q.text_bytes = 1;
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), PLX_E_FULL);
	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	plx_crig_take_events(r);
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), 0);
	plx_crig_close(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_client_survives_loss_duplication_reordering),
	    cmocka_unit_test(test_client_survives_damage_and_replay),
	    cmocka_unit_test(test_client_end_that_comes_alone_may_be_lost_too),
	    cmocka_unit_test(test_client_counts_spurious_retransmits),
	    cmocka_unit_test(test_client_fails_when_its_tokens_are_gone),
	    cmocka_unit_test(test_client_bounds_what_it_holds),
	    cmocka_unit_test(test_client_full_table_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
