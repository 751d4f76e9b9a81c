/* The client library's logic against an appliance in a box, over good and bad networks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "tests/lib/client_rig.h"

#define SECOND UINT64_C(1000000000)

static struct plx_client_config client_cfg(void)
{
	struct plx_client_config cc;

	plx_client_config_init(&cc);
	cc.host = "box";
	cc.key_id = 5;
	memset(cc.key, 3, sizeof(cc.key));
	return cc;
}

static struct plx_peer_cfg peer_cfg(void)
{
	struct plx_peer_cfg pc = {.key_id = 5, .token_ns = 100000, .seed = 1};

	memset(pc.key, 3, sizeof(pc.key));
	return pc;
}

static struct plx_crig *open_rig(void)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();

	return plx_crig_open(&cc, &pc, NULL);
}

static bool all_final(struct plx_crig *r, void *arg)
{
	(void)arg;
	for (uint32_t i = 0; i < r->n_log; i++)
		if (!r->log[i].n_finals)
			return false;
	return true;
}

static bool is_open(struct plx_crig *r, void *arg)
{
	(void)arg;
	return r->n_open > 0;
}

static bool is_closed(struct plx_crig *r, void *arg)
{
	(void)arg;
	return r->n_closed > 0;
}

/* log[0] has at least *arg ids. */
static bool has_ids(struct plx_crig *r, void *arg)
{
	return r->log[0].n_ids[0] >= *(uint32_t *)arg;
}

/* ---- the good way ---- */

static void test_client_streams_an_answer(void **state)
{
	struct plx_crig *r = open_rig();
	struct plx_crig_log *l = plx_crig_submit(r, "abcde", 4, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, 2 * SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_string_equal(l->text, "0:0 0:1 0:2 0:3 ");
	assert_int_equal(l->n_ids[0], 4);
	assert_int_equal(l->n_accepts, 1);
	assert_false(l->bad_order);
	assert_int_equal(l->final.done.prompt_tokens, 5);
	assert_int_equal(l->final.done.numeric_kind, 77);
	assert_int_equal(l->final.done.stage_ns[PLX_CLIENT_NS_DECODE], 5);
	assert_int_equal(l->final.done.samples[0].n_tokens, 4);
	assert_int_equal(l->final.done.samples[0].left_tokens, 0);
	assert_int_equal(l->final.done.samples[0].finish, PLX_CLIENT_FINISH_LENGTH);
	/* Handshake with RETRY: 2 round trips of 200 us, then REQ and the first token. */
	assert_in_range(l->final.done.ttft_ns, 600000, 700000);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_requests, 1);
	plx_crig_run(r, SECOND / 10, NULL, NULL);
	assert_int_equal(l->n_finals, 1);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_finals_acked, 1);
	plx_crig_close(r);
}

static void test_client_tells_what_left_the_context(void **state)
{
	struct plx_crig *r = open_rig();
	struct plx_client_request q;
	uint64_t req;

	(void)state;
	plx_client_request_init(&q);
	q.text = "abc";
	q.text_bytes = 3;
	q.max_new = 2;
	q.n_samples = 2;
	q.allow_compression = true;
	assert_int_equal(plx_client_submit(r->client, &q, &req, NULL), 0);
	struct plx_crig_log *l = plx_crig_log_of(r, req);

	assert_true(plx_crig_run(r, 2 * SECOND, all_final, NULL));
	assert_int_equal(l->final.done.samples[0].left_tokens, 70);
	assert_int_equal(l->final.done.samples[1].left_tokens, 71);
	plx_crig_close(r);
}

static void test_client_reads_the_model_table(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();
	struct plx_client_model m;

	(void)state;
	pc.n_models = 100; /* 9 fragments */
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);

	plx_crig_run(r, SECOND, NULL, NULL);
	assert_int_equal(r->n_models, 1);
	assert_true(plx_client_model(r->client, 99, &m));
	assert_string_equal(m.name, "toy-100");
	assert_int_equal(m.vocab_size, 49152);
	assert_true(m.chat);
	assert_false(plx_client_model(r->client, 100, &m));
	plx_crig_close(r);
}

static void test_client_samples_interleave(void **state)
{
	struct plx_crig *r = open_rig();
	struct plx_client_request q;
	uint64_t req;

	(void)state;
	plx_client_request_init(&q);
	q.ids = (const uint32_t[]){1, 2, 3};
	q.n_ids = 3;
	q.n_samples = 3;
	q.max_new = 5;
	q.temperature = 1;
	assert_int_equal(plx_client_submit(r->client, &q, &req, NULL), 0);
	struct plx_crig_log *l = plx_crig_log_of(r, req);

	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->final.done.n_samples, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(l->n_ids[i], 5);
	assert_false(l->bad_order);
	plx_crig_close(r);
}

/* More requests than credit, one of them of many fragments: all run, none over credit. */
static void test_client_keeps_within_credit(void **state)
{
	struct plx_crig *r = open_rig();
	char *big = malloc(100001);

	(void)state;
	memset(big, 'x', 100000);
	big[100000] = 0;
	for (int i = 0; i < 40; i++)
		plx_crig_submit(r, i == 7 ? big : "hello", 3, PLX_CLIENT_RESUBMIT_NEVER);
	assert_true(plx_crig_run(r, 5 * SECOND, all_final, NULL));
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(r->log[i].final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(r->log[7].final.done.prompt_tokens, 100000);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_requests, 40);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_overdrawn, 0);
	free(big);
	plx_crig_close(r);
}

static void test_client_keeps_ids_within_the_window(void **state)
{
	struct plx_crig *r = open_rig();

	(void)state;
	/* One long request, and 60 short ones beside it: 8 in flight, so ids may lead by 31. */
	plx_crig_submit(r, "long", 400, PLX_CLIENT_RESUBMIT_NEVER);
	for (int i = 0; i < 60; i++)
		plx_crig_submit(r, "short", 1, PLX_CLIENT_RESUBMIT_NEVER);
	plx_crig_run(r, SECOND / 50, NULL, NULL);
	assert_int_equal(r->log[0].n_finals, 0);
	assert_int_equal(r->client->last_req_id, 32);
	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	for (int i = 0; i < 61; i++)
		assert_int_equal(r->log[i].final.type, PLX_CLIENT_EV_DONE);
	plx_crig_close(r);
}

static void test_client_pings(void **state)
{
	struct plx_crig *r = open_rig();
	uint64_t token;

	(void)state;
	assert_int_equal(plx_client_ping(r->client, &token), PLX_E_AGAIN);
	assert_true(plx_crig_run(r, SECOND, is_open, NULL));
	assert_int_equal(plx_client_ping(r->client, &token), 0);
	plx_crig_run(r, SECOND / 100, NULL, NULL);
	assert_int_equal(r->n_pong, 1);
	assert_in_range(r->last_rtt_ns, 200000, 202000);
	plx_crig_close(r);
}

static void test_client_stays_alive_when_idle(void **state)
{
	struct plx_crig *r = open_rig();

	(void)state;
	plx_crig_run(r, 60 * SECOND, NULL, NULL);
	assert_int_equal(r->n_open, 1);
	assert_int_equal(r->n_lost + r->n_closed, 0);
	plx_crig_close(r);
}

static void test_client_rekeys_under_way(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();
	struct plx_client_info info;

	(void)state;
	pc.rekey_after = 20;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);

	assert_true(plx_crig_run(r, SECOND, is_open, NULL));
	r->client->conn.rekey_after = 20;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 300, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, 5 * SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 300);
	plx_client_info(r->client, &info);
	assert_true(info.rekeys >= 2);
	assert_int_equal(r->n_lost, 0);
	plx_crig_close(r);
}

/* ---- refusals ---- */

static void test_client_reports_reject(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();

	(void)state;
	pc.reject_err = PLX_E_KV_PRESSURE;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(l->final.reject.err, PLX_E_KV_PRESSURE);
	assert_int_equal(l->final.reject.retry_after_us, 1500);
	assert_string_equal(l->why, "as told");
	plx_crig_close(r);
}

static void test_client_refuses_what_can_not_be_sent(void **state)
{
	struct plx_crig *r = open_rig();
	struct plx_client_request q;
	struct plx_diag d = {0};
	uint64_t req;
	char *big = calloc(1, 400000);

	(void)state;
	memset(big, 'x', 300000);
	plx_client_request_init(&q);
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), PLX_E_INVAL);
	assert_string_equal(d.text, "a request has 0 prompts; give one of text, ids, messages");
	struct plx_crig_log *l = plx_crig_submit(r, big, 4, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(l->final.reject.err, PLX_E_TOO_LARGE);
	free(big);
	plx_crig_close(r);
}

static void test_client_drain_is_told_and_new_requests_refused(void **state)
{
	struct plx_crig *r = open_rig();
	uint32_t some = 5;
	struct plx_crig_log *first = plx_crig_submit(r, "a", 50, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	plx_peer_drain(r->peer, r->now_ns);
	plx_crig_run(r, SECOND / 1000, NULL, NULL);
	assert_int_equal(r->n_drain, 1);
	struct plx_crig_log *second = plx_crig_submit(r, "b", 4, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(first->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(first->n_ids[0], 50);
	assert_int_equal(second->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(second->final.reject.err, PLX_E_DRAINING);
	plx_crig_close(r);
}

/* ---- cancel ---- */

static void test_client_cancels_a_running_request(void **state)
{
	struct plx_crig *r = open_rig();
	uint32_t some = 5;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4000, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	assert_int_equal(plx_client_cancel(r->client, l->req), 0);
	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_CANCELLED);
	assert_int_equal(l->final.cancelled.cause, PLX_CLIENT_CANCEL_ASKED);
	assert_int_equal(plx_client_cancel(r->client, l->req), PLX_E_NOT_FOUND);
	plx_crig_close(r);
}

static void test_client_cancel_before_the_session_never_reaches_the_appliance(void **state)
{
	struct plx_crig *r = open_rig();
	struct plx_crig_log *l = plx_crig_submit(r, "a", 40, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_int_equal(plx_client_cancel(r->client, l->req), 0);
	plx_crig_run(r, SECOND, NULL, NULL);
	assert_int_equal(l->n_finals, 1);
	assert_int_equal(l->final.type, PLX_CLIENT_EV_CANCELLED);
	assert_int_equal(l->final.cancelled.n_samples, 0);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_requests, 0);
	plx_crig_close(r);
}

/* The REQ is lost, its CANCEL arrives: the request never runs. */
static void test_client_cancel_overtakes(void **state)
{
	struct plx_crig *r = open_rig();

	(void)state;
	assert_true(plx_crig_run(r, SECOND, is_open, NULL));
	plx_crig_run(r, SECOND / 10, NULL, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 40, PLX_CLIENT_RESUBMIT_NEVER);

	r->cut = true;
	plx_crig_run(r, 1000000, NULL, NULL);
	r->cut = false;
	assert_int_equal(plx_client_cancel(r->client, l->req), 0);
	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_CANCELLED);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_requests, 0);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_cancelled, 1);
	plx_crig_close(r);
}

/* ---- bad networks ---- */

static void bad_net(struct plx_impair_cfg net, struct plx_peer_cfg pc, uint32_t n_requests)
{
	struct plx_client_config cc = client_cfg();
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
		assert_true(plx_crig_run(r, 60 * SECOND, all_final, NULL));
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
	    peer_cfg(), 12);
}

static void test_client_survives_damage_and_replay(void **state)
{
	(void)state;
	bad_net(
	    (struct plx_impair_cfg){
		.corrupt = 0.1, .truncate = 0.1, .replay = 0.3, .delay_us = 500},
	    peer_cfg(), 12);
}

static void test_client_end_that_comes_alone_may_be_lost_too(void **state)
{
	struct plx_peer_cfg pc = peer_cfg();

	(void)state;
	pc.end_alone = true;
	pc.tokens_a_packet = 7;
	bad_net((struct plx_impair_cfg){.loss = 0.3, .delay_us = 500}, pc, 6);
}

/* The appliance's first acknowledgement was on its way when the request went again. */
static void test_client_counts_spurious_retransmits(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();
	struct plx_impair_cfg slow = {.delay_us = 40000, .seed = 1};
	struct plx_client_info info;

	(void)state;
	/* A round trip of 80 ms against the 50 ms of a first timeout. */
	struct plx_crig *r = plx_crig_open(&cc, &pc, &slow);

	plx_crig_submit(r, "a", 3, PLX_CLIENT_RESUBMIT_NEVER);
	assert_true(plx_crig_run(r, 5 * SECOND, all_final, NULL));
	plx_client_info(r->client, &info);
	assert_int_equal(info.retransmits, 1);
	assert_int_equal(info.spurious, 1);
	plx_crig_submit(r, "b", 3, PLX_CLIENT_RESUBMIT_NEVER);
	assert_true(plx_crig_run(r, 5 * SECOND, all_final, NULL));
	plx_client_info(r->client, &info); /* the timeout has learnt */
	assert_int_equal(info.retransmits, 1);
	assert_int_equal(info.spurious, 1);
	plx_crig_close(r);
}

/* ---- a slow reader ---- */

/* DONE is here, but tokens found no room until the appliance (10 s here) let them go. */
static void test_client_fails_when_its_tokens_are_gone(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();

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
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();

	(void)state;
	cc.n_packets = 16;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 200, PLX_CLIENT_RESUBMIT_NEVER);

	r->reading = false;
	plx_crig_run(r, SECOND, NULL, NULL);
	assert_int_equal(r->client->n_packets, 16);
	assert_int_equal(l->n_finals, 0);
	r->reading = true;
	assert_true(plx_crig_run(r, 20 * SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 200);
	assert_false(l->bad_order);
	plx_crig_close(r);
}

static void test_client_full_table_is_an_error(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();
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
	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	plx_crig_take_events(r);
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), 0);
	plx_crig_close(r);
}

/* ---- lost sessions ---- */

static void test_client_wrong_key_meets_silence(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();

	(void)state;
	cc.key[0] ^= 1;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4, PLX_CLIENT_RESUBMIT_ALWAYS);

	assert_true(plx_crig_run(r, 10 * SECOND, is_closed, NULL));
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
	struct plx_crig *r = open_rig();
	uint32_t some = 10;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 100, resubmit);

	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	plx_peer_restart(r->peer);
	assert_true(plx_crig_run(r, 5 * SECOND, all_final, NULL));
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
	struct plx_crig *r = open_rig();
	uint32_t some = 10, n;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 100, PLX_CLIENT_RESUBMIT_RESUME);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	plx_peer_restart(r->peer);
	n = l->n_ids[0];
	assert_true(plx_crig_run(r, 5 * SECOND, all_final, NULL));
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
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();
	uint32_t some = 10;

	(void)state;
	pc.lacks = PLX_FEAT_RESUME;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 100, PLX_CLIENT_RESUBMIT_RESUME);

	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	plx_peer_restart(r->peer);
	assert_true(plx_crig_run(r, 5 * SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_restarts, 1);
	assert_int_equal(l->n_ids[0], 100);
	assert_false(l->bad_order);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_resumed, 0);
	plx_crig_close(r);
}

static void test_client_waits_for_a_lost_device(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();

	(void)state;
	pc.reject_err = PLX_E_DEVICE_LOST;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 20, PLX_CLIENT_RESUBMIT_RESUME);

	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(l->final.reject.err, PLX_E_DEVICE_LOST);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_requests,
	                 6); /* one, and five times again */
	l = plx_crig_submit(r, "a", 20, PLX_CLIENT_RESUBMIT_RESUME);
	plx_crig_run(r, 2 * 1500 * 1000, NULL, NULL);
	pc.reject_err = 0;
	plx_peer_set(r->peer, &pc);
	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 20);
	plx_crig_close(r);
}

/* ---- going on from an earlier request ---- */

static struct plx_crig_log *go_on(struct plx_crig *r, uint64_t from, const char *text, size_t known)
{
	struct plx_client_request q;
	struct plx_diag d;
	uint64_t req;

	plx_client_request_init(&q);
	q.text = text;
	q.text_bytes = strlen(text);
	q.max_new = 5;
	q.continues = from;
	q.n_known = known;
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), 0);
	struct plx_crig_log *l = plx_crig_log_of(r, req);

	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 5);
	return l;
}

static void test_client_sends_only_what_is_new(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	const struct plx_peer_counts *n = plx_peer_counts_of(r->peer);

	(void)state;
	plx_crig_submit(r, "one", 5, PLX_CLIENT_RESUBMIT_NEVER);
	uint64_t first = plx_crig_submit(r, "two", 5, PLX_CLIENT_RESUBMIT_NEVER)->req;

	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	uint64_t second = go_on(r, first, "two and more", 4)->req;

	assert_int_equal(n->n_continued, 1);
	assert_int_equal(n->continued, 2);
	assert_int_equal(n->prompt_bytes, 8);
	go_on(r, second, "nothing new", 11);
	assert_int_equal(n->n_continued, 2);
	assert_int_equal(n->continued, 3);
	assert_int_equal(n->prompt_bytes, 0);
	/* One that it never had, or has no longer: the whole. */
	go_on(r, 1234, "whole", 4);
	assert_int_equal(n->n_continued, 2);
	assert_int_equal(n->prompt_bytes, 5);
	pc.not_kept = true;
	plx_peer_set(r->peer, &pc);
	assert_int_equal(go_on(r, second, "the whole again", 4)->n_finals, 1);
	assert_int_equal(n->n_continued, 3);
	assert_int_equal(n->n_requests, 7);
	assert_int_equal(n->prompt_bytes, 15);
	/* A new session knows nothing of the old one's. */
	pc.not_kept = false;
	plx_peer_set(r->peer, &pc);
	plx_peer_restart(r->peer);
	go_on(r, second, "another session", 4);
	assert_int_equal(n->n_continued, 3);
	assert_int_equal(n->prompt_bytes, 15);
	plx_crig_close(r);
}

static void test_client_checks_what_is_known(void **state)
{
	struct plx_crig *r = open_rig();
	struct plx_client_message m = {.role = PLX_CLIENT_USER, .text = "x", .n_bytes = 1};
	struct plx_client_request q;
	struct plx_diag d = {0};
	uint64_t req;

	(void)state;
	plx_client_request_init(&q);
	q.messages = &m;
	q.n_messages = 1;
	q.continues = 1;
	q.n_known = 1; /* and no message after them */
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), PLX_E_INVAL);
	assert_string_equal(
	    d.text, "n_known is 1 of 1; give what the earlier request and its answer cover");
	q.n_known = 0;
	q.continue_sample = 64;
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), PLX_E_INVAL);
	plx_crig_close(r);
}

static void test_client_silence_ends_the_session(void **state)
{
	struct plx_crig *r = open_rig();
	uint32_t some = 10;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4000, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	r->cut = true;
	assert_true(plx_crig_run(r, 20 * SECOND, is_closed, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_FAILED);
	assert_int_equal(l->final.failed.err, PLX_E_TIMEOUT);
	assert_int_equal(r->n_lost, 1); /* tried a new handshake first */
	assert_int_equal(l->n_finals, 1);
	plx_crig_close(r);
}

static void test_client_revoked_key_closes_for_good(void **state)
{
	struct plx_crig *r = open_rig();
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4000, PLX_CLIENT_RESUBMIT_ALWAYS);
	uint32_t some = 10;
	struct plx_client_request q;
	uint64_t req;

	(void)state;
	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	plx_peer_say_close(r->peer, PLX_CLOSE_REVOKED, r->now_ns);
	assert_true(plx_crig_run(r, SECOND, is_closed, NULL));
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
	struct plx_crig *r = open_rig();

	(void)state;
	assert_true(plx_crig_run(r, SECOND, is_open, NULL));
	plx_client_say_close(r->client, r->now_ns);
	plx_crig_run(r, SECOND / 100, NULL, NULL);
	assert_true(plx_peer_counts_of(r->peer)->closed);
	plx_crig_close(r);
}

/* Our own versions run nowhere: an authentic VERSION_NEG ends it, a forged one does not. */
static void test_client_version_negotiation(void **state)
{
	struct plx_crig *r = open_rig();
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
	struct plx_crig *r = open_rig();
	uint8_t pkt[PLX_RESET_BYTES];
	struct plx_hs_secrets other = {.reset_key = {1}};

	(void)state;
	assert_true(plx_crig_run(r, SECOND, is_open, NULL));
	assert_int_equal(plx_reset_make(pkt, &other, r->client->conn.peer_id, &r->client_addr, 100),
	                 PLX_RESET_BYTES);
	plx_client_input(r->client, pkt, sizeof(pkt), r->now_ns);
	plx_crig_run(r, SECOND, NULL, NULL);
	assert_int_equal(r->n_lost, 0);
	plx_crig_close(r);
}

static void test_client_answers_an_address_challenge(void **state)
{
	struct plx_crig *r = open_rig();
	uint32_t some = 10;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 200, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, has_ids, &some));
	r->client_addr.port = 4001;
	assert_true(plx_crig_run(r, SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_moved, 1);
	assert_int_equal(r->n_lost, 0);
	plx_crig_close(r);
}

/* Larger datagrams are found by probing, and given up when the path stops carrying them. */
static void test_client_finds_the_datagram_size(void **state)
{
	struct plx_client_config cc = client_cfg();
	struct plx_peer_cfg pc = peer_cfg();
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

	assert_true(plx_crig_run(r, 20 * SECOND, all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->final.done.prompt_tokens, 20000);
	free(big);
	plx_crig_close(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_client_streams_an_answer),
	    cmocka_unit_test(test_client_tells_what_left_the_context),
	    cmocka_unit_test(test_client_reads_the_model_table),
	    cmocka_unit_test(test_client_samples_interleave),
	    cmocka_unit_test(test_client_keeps_within_credit),
	    cmocka_unit_test(test_client_keeps_ids_within_the_window),
	    cmocka_unit_test(test_client_pings),
	    cmocka_unit_test(test_client_stays_alive_when_idle),
	    cmocka_unit_test(test_client_rekeys_under_way),
	    cmocka_unit_test(test_client_reports_reject),
	    cmocka_unit_test(test_client_refuses_what_can_not_be_sent),
	    cmocka_unit_test(test_client_drain_is_told_and_new_requests_refused),
	    cmocka_unit_test(test_client_cancels_a_running_request),
	    cmocka_unit_test(test_client_cancel_before_the_session_never_reaches_the_appliance),
	    cmocka_unit_test(test_client_cancel_overtakes),
	    cmocka_unit_test(test_client_survives_loss_duplication_reordering),
	    cmocka_unit_test(test_client_survives_damage_and_replay),
	    cmocka_unit_test(test_client_end_that_comes_alone_may_be_lost_too),
	    cmocka_unit_test(test_client_counts_spurious_retransmits),
	    cmocka_unit_test(test_client_fails_when_its_tokens_are_gone),
	    cmocka_unit_test(test_client_bounds_what_it_holds),
	    cmocka_unit_test(test_client_full_table_is_an_error),
	    cmocka_unit_test(test_client_wrong_key_meets_silence),
	    cmocka_unit_test(test_client_restart_fails_what_may_not_run_twice),
	    cmocka_unit_test(test_client_restart_begins_anew_where_allowed),
	    cmocka_unit_test(test_client_resumes_behind_what_came),
	    cmocka_unit_test(test_client_begins_anew_where_it_can_not_resume),
	    cmocka_unit_test(test_client_waits_for_a_lost_device),
	    cmocka_unit_test(test_client_sends_only_what_is_new),
	    cmocka_unit_test(test_client_checks_what_is_known),
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
