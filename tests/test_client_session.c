/* The client library: how sessions end, and what becomes of their requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "tests/lib/client_rig.h"

#define SECOND UINT64_C(1000000000)

static void test_client_wrong_key_meets_silence(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();

	(void)state;
	cc.key[0] ^= 1;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4, PLX_CLIENT_RESUBMIT_ALWAYS);

	assert_true(plx_crig_run(r, 10 * SECOND, plx_crig_is_closed, NULL));
	assert_int_equal(r->now_ns / SECOND, 6); /* began at 1 s, timeout 5 s */
	assert_non_null(strstr(r->why, "key id 5"));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_FAILED);
	assert_int_equal(l->final.failed.err, PLX_E_TIMEOUT);
	assert_int_equal(plx_impair_counts_of(r->net, PLX_IMPAIR_DOWN)->in, 0);
	plx_crig_close(r);
}

static void restart_under_way(enum plx_client_resubmit resubmit, struct plx_crig_log *out,
                              uint32_t *n_open)
{
	struct plx_crig *r = plx_crig_plain();
	uint32_t some = 10;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 100, resubmit);

	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	plx_peer_restart(r->peer);
	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
	*out = *l;
	*n_open = r->n_open;
	plx_crig_run(r, SECOND, NULL, NULL);
	assert_int_equal(l->n_finals, 1);
	plx_crig_close(r);
}

static void test_client_restart_fails_what_may_not_run_twice(void **state)
{
	static struct plx_crig_log l;
	uint32_t n_open;

	(void)state;
	restart_under_way(PLX_CLIENT_RESUBMIT_UNSTARTED, &l, &n_open);
	assert_int_equal(l.final.type, PLX_CLIENT_EV_FAILED);
	assert_int_equal(l.final.failed.err, PLX_E_LOST);
	assert_non_null(strstr(l.why, "restarted"));
}

static void test_client_restart_begins_anew_where_allowed(void **state)
{
	static struct plx_crig_log l;
	uint32_t n_open;

	(void)state;
	restart_under_way(PLX_CLIENT_RESUBMIT_ALWAYS, &l, &n_open);
	assert_int_equal(l.final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l.n_restarts, 1);
	assert_int_equal(l.n_ids[0], 100);
	assert_false(l.bad_order);
	assert_int_equal(n_open, 2);
}

static void test_client_resumes_behind_what_came(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	uint32_t some = 10, n;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 100, PLX_CLIENT_RESUBMIT_RESUME);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	plx_peer_restart(r->peer);
	n = l->n_ids[0];
	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_restarts, 0);
	assert_int_equal(l->n_accepts, 1);
	assert_int_equal(l->n_ids[0], 100);
	assert_false(l->bad_order);
	assert_non_null(strstr(l->text, "0:8 0:9 0:10 0:11 "));
	assert_true(plx_peer_counts_of(r->peer)->n_resumed >= n);
	assert_int_equal(r->n_open, 2);
	plx_crig_close(r);
}

static void test_client_begins_anew_where_it_can_not_resume(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();
	uint32_t some = 10;

	(void)state;
	pc.lacks = PLX_FEAT_RESUME;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 100, PLX_CLIENT_RESUBMIT_RESUME);

	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	plx_peer_restart(r->peer);
	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_restarts, 1);
	assert_int_equal(l->n_ids[0], 100);
	assert_false(l->bad_order);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_resumed, 0);
	plx_crig_close(r);
}

/* What came of the best of several can't be gone on from: all are made again. */
static void test_client_best_of_begins_anew(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	struct plx_client_request q;
	uint32_t some = 10;
	uint64_t req;

	(void)state;
	plx_client_request_init(&q);
	q.text = "a";
	q.text_bytes = 1;
	q.max_new = 100;
	q.best_of = 3;
	q.resubmit = PLX_CLIENT_RESUBMIT_RESUME;
	assert_int_equal(plx_client_submit(r->client, &q, &req, NULL), 0);
	struct plx_crig_log *l = plx_crig_log_of(r, req);

	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	plx_peer_restart(r->peer);
	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_restarts, 1);
	assert_int_equal(l->n_ids[0], 100);
	assert_false(l->bad_order);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_resumed, 0);
	assert_int_equal(l->final.done.made_samples, 3);
	plx_crig_close(r);
}

static void test_client_waits_for_a_lost_device(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();

	(void)state;
	pc.reject_err = PLX_E_DEVICE_LOST;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 20, PLX_CLIENT_RESUBMIT_RESUME);

	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(l->final.reject.err, PLX_E_DEVICE_LOST);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_requests,
	                 6); /* one, and five times again */
	l = plx_crig_submit(r, "a", 20, PLX_CLIENT_RESUBMIT_RESUME);
	plx_crig_run(r, 2 * 1500 * 1000, NULL, NULL);
	pc.reject_err = 0;
	plx_peer_set(r->peer, &pc);
	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 20);
	plx_crig_close(r);
}

static void test_client_silence_ends_the_session(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	uint32_t some = 10;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4000, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	r->cut = true;
	assert_true(plx_crig_run(r, 20 * SECOND, plx_crig_is_closed, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_FAILED);
	assert_int_equal(l->final.failed.err, PLX_E_TIMEOUT);
	assert_int_equal(r->n_lost, 1); /* tried a new handshake first */
	assert_int_equal(l->n_finals, 1);
	plx_crig_close(r);
}

static void test_client_revoked_key_closes_for_good(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4000, PLX_CLIENT_RESUBMIT_ALWAYS);
	uint32_t some = 10;
	struct plx_client_request q;
	uint64_t req;

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	plx_peer_say_close(r->peer, PLX_CLOSE_REVOKED, r->now_ns);
	assert_true(plx_crig_run(r, SECOND, plx_crig_is_closed, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_FAILED);
	assert_int_equal(l->final.failed.err, PLX_E_AUTH);
	plx_client_request_init(&q);
	q.text = "x";
	q.text_bytes = 1;
	assert_int_equal(plx_client_submit(r->client, &q, &req, NULL), PLX_E_CLOSED);
	plx_crig_close(r);
}

static void test_client_close_is_said(void **state)
{
	struct plx_crig *r = plx_crig_plain();

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_is_open, NULL));
	plx_client_say_close(r->client, r->now_ns);
	plx_crig_run(r, SECOND / 100, NULL, NULL);
	assert_true(plx_peer_counts_of(r->peer)->closed);
	plx_crig_close(r);
}

/* Our own versions run nowhere: an authentic VERSION_NEG ends it, a forged one does not. */
static void test_client_version_negotiation(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	struct plx_version_neg m = {.versions = {2}};
	struct plx_hdr h = {.magic = PLX_WIRE_MAGIC,
	                    .version = 2,
	                    .type = PLX_T_VERSION_NEG,
	                    .session_id = r->client->local_id,
	                    .frag_count = 1,
	                    .payload_bytes = sizeof(m)};
	uint8_t pkt[PLX_HDR_BYTES + sizeof(m)];

	(void)state;
	memcpy(m.ephemeral, r->client->hs.hello.ephemeral, sizeof(m.ephemeral));
	plx_hdr_encode(pkt, &h);
	memcpy(pkt + PLX_HDR_BYTES, &m, sizeof(m));
	r->cut = true;
	plx_client_input(r->client, pkt, sizeof(pkt), r->now_ns);
	plx_crig_run(r, SECOND / 100, NULL, NULL);
	assert_int_equal(r->n_closed, 0);
	crypto_generichash(pkt + sizeof(pkt) - 16, 16, pkt, sizeof(pkt) - 16,
	                   r->client->psk.mac_reply, 32);
	plx_client_input(r->client, pkt, sizeof(pkt), r->now_ns);
	plx_crig_run(r, SECOND / 100, NULL, NULL);
	assert_int_equal(r->n_closed, 1);
	assert_non_null(strstr(r->why, "no protocol version"));
	plx_crig_close(r);
}

/* A RESET without the token of this session does nothing. */
static void test_client_forged_reset_has_no_effect(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	uint8_t pkt[PLX_RESET_BYTES];
	struct plx_hs_secrets other = {.reset_key = {1}};

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_is_open, NULL));
	assert_int_equal(plx_reset_make(pkt, &other, r->client->conn.peer_id, &r->client_addr, 100),
	                 PLX_RESET_BYTES);
	plx_client_input(r->client, pkt, sizeof(pkt), r->now_ns);
	plx_crig_run(r, SECOND, NULL, NULL);
	assert_int_equal(r->n_lost, 0);
	plx_crig_close(r);
}

static void test_client_answers_an_address_challenge(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	uint32_t some = 10;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 200, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	r->client_addr.port = 4001;
	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_moved, 1);
	assert_int_equal(r->n_lost, 0);
	plx_crig_close(r);
}

/* Larger datagrams are found by probing, and given up when the path stops carrying them. */
static void test_client_finds_the_datagram_size(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();
	struct plx_impair_cfg net = {.delay_us = 100, .mtu_bytes = 1400};
	struct plx_client_info info;
	char *big = calloc(1, 20001);

	(void)state;
	memset(big, 'x', 20000);
	pc.max_datagram = 1472;
	struct plx_crig *r = plx_crig_open(&cc, &pc, &net);

	plx_crig_run(r, 3 * SECOND, NULL, NULL);
	plx_client_info(r->client, &info);
	assert_in_range(info.datagram_bytes, 1369, 1400);
	net.mtu_bytes = 1250;
	plx_impair_set(r->net, PLX_IMPAIR_UP, &net);
	struct plx_crig_log *l = plx_crig_submit(r, big, 4, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, 20 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->final.done.prompt_tokens, 20000);
	free(big);
	plx_crig_close(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_client_wrong_key_meets_silence),
	    cmocka_unit_test(test_client_restart_fails_what_may_not_run_twice),
	    cmocka_unit_test(test_client_restart_begins_anew_where_allowed),
	    cmocka_unit_test(test_client_resumes_behind_what_came),
	    cmocka_unit_test(test_client_begins_anew_where_it_can_not_resume),
	    cmocka_unit_test(test_client_best_of_begins_anew),
	    cmocka_unit_test(test_client_waits_for_a_lost_device),
	    cmocka_unit_test(test_client_silence_ends_the_session),
	    cmocka_unit_test(test_client_revoked_key_closes_for_good),
	    cmocka_unit_test(test_client_close_is_said),
	    cmocka_unit_test(test_client_version_negotiation),
	    cmocka_unit_test(test_client_forged_reset_has_no_effect),
	    cmocka_unit_test(test_client_answers_an_address_challenge),
	    cmocka_unit_test(test_client_finds_the_datagram_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
