/* The client library against an appliance in a box: requests, answers, refusals, cancels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/client_rig.h"

#define SECOND UINT64_C(1000000000)

static void test_client_streams_an_answer(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	struct plx_crig_log *l = plx_crig_submit(r, "abcde", 4, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, 2 * SECOND, plx_crig_all_final, NULL));
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
	struct plx_crig *r = plx_crig_plain();
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

	assert_true(plx_crig_run(r, 2 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.done.samples[0].left_tokens, 70);
	assert_int_equal(l->final.done.samples[1].left_tokens, 71);
	plx_crig_close(r);
}

static void test_client_tells_the_best_of_several(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	struct plx_client_request q;
	struct plx_diag d = {0};
	uint64_t req;

	(void)state;
	plx_client_request_init(&q);
	q.text = "abc";
	q.text_bytes = 3;
	q.max_new = 2;
	q.n_samples = 2;
	q.best_of = 5;
	assert_int_equal(plx_client_submit(r->client, &q, &req, NULL), 0);
	struct plx_crig_log *l = plx_crig_log_of(r, req);

	assert_true(plx_crig_run(r, 2 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->final.done.n_samples, 2);
	assert_int_equal(l->final.done.made_samples, 5);
	assert_int_equal(l->final.done.made_tokens, 10);
	assert_true(l->final.done.samples[1].mean_logprob == -0.5f);
	q.best_of = 1; /* fewer than come back */
	assert_int_equal(plx_client_submit(r->client, &q, &req, &d), PLX_E_INVAL);
	assert_string_equal(d.text, "best_of is 1; give n_samples or more of them, 2 to 64");
	plx_crig_close(r);
}

static void test_client_reads_the_model_table(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();
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
	struct plx_crig *r = plx_crig_plain();
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

	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
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
	struct plx_crig *r = plx_crig_plain();
	char *big = malloc(100001);

	(void)state;
	memset(big, 'x', 100000);
	big[100000] = 0;
	for (int i = 0; i < 40; i++)
		plx_crig_submit(r, i == 7 ? big : "hello", 3, PLX_CLIENT_RESUBMIT_NEVER);
	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
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
	struct plx_crig *r = plx_crig_plain();

	(void)state;
	/* One long request, and 60 short ones beside it: 8 in flight, so ids may lead by 31. */
	plx_crig_submit(r, "long", 400, PLX_CLIENT_RESUBMIT_NEVER);
	for (int i = 0; i < 60; i++)
		plx_crig_submit(r, "short", 1, PLX_CLIENT_RESUBMIT_NEVER);
	plx_crig_run(r, SECOND / 50, NULL, NULL);
	assert_int_equal(r->log[0].n_finals, 0);
	assert_int_equal(r->client->last_req_id, 32);
	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	for (int i = 0; i < 61; i++)
		assert_int_equal(r->log[i].final.type, PLX_CLIENT_EV_DONE);
	plx_crig_close(r);
}

static void test_client_pings(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	uint64_t token;

	(void)state;
	assert_int_equal(plx_client_ping(r->client, &token), PLX_E_AGAIN);
	assert_true(plx_crig_run(r, SECOND, plx_crig_is_open, NULL));
	assert_int_equal(plx_client_ping(r->client, &token), 0);
	plx_crig_run(r, SECOND / 100, NULL, NULL);
	assert_int_equal(r->n_pong, 1);
	assert_in_range(r->last_rtt_ns, 200000, 202000);
	plx_crig_close(r);
}

static void test_client_stays_alive_when_idle(void **state)
{
	struct plx_crig *r = plx_crig_plain();

	(void)state;
	plx_crig_run(r, 60 * SECOND, NULL, NULL);
	assert_int_equal(r->n_open, 1);
	assert_int_equal(r->n_lost + r->n_closed, 0);
	plx_crig_close(r);
}

static void test_client_rekeys_under_way(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();
	struct plx_client_info info;

	(void)state;
	pc.rekey_after = 20;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);

	assert_true(plx_crig_run(r, SECOND, plx_crig_is_open, NULL));
	r->client->conn.rekey_after = 20;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 300, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, 5 * SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 300);
	plx_client_info(r->client, &info);
	assert_true(info.rekeys >= 2);
	assert_int_equal(r->n_lost, 0);
	plx_crig_close(r);
}

static void test_client_reports_reject(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();

	(void)state;
	pc.reject_err = PLX_E_KV_PRESSURE;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(l->final.reject.err, PLX_E_KV_PRESSURE);
	assert_int_equal(l->final.reject.retry_after_us, 1500);
	assert_string_equal(l->why, "as told");
	plx_crig_close(r);
}

static void test_client_refuses_what_can_not_be_sent(void **state)
{
	struct plx_crig *r = plx_crig_plain();
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

	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(l->final.reject.err, PLX_E_TOO_LARGE);
	free(big);
	plx_crig_close(r);
}

static void test_client_drain_is_told_and_new_requests_refused(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	uint32_t some = 5;
	struct plx_crig_log *first = plx_crig_submit(r, "a", 50, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	plx_peer_drain(r->peer, r->now_ns);
	plx_crig_run(r, SECOND / 1000, NULL, NULL);
	assert_int_equal(r->n_drain, 1);
	struct plx_crig_log *second = plx_crig_submit(r, "b", 4, PLX_CLIENT_RESUBMIT_NEVER);

	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(first->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(first->n_ids[0], 50);
	assert_int_equal(second->final.type, PLX_CLIENT_EV_REJECT);
	assert_int_equal(second->final.reject.err, PLX_E_DRAINING);
	plx_crig_close(r);
}

static void test_client_cancels_a_running_request(void **state)
{
	struct plx_crig *r = plx_crig_plain();
	uint32_t some = 5;
	struct plx_crig_log *l = plx_crig_submit(r, "a", 4000, PLX_CLIENT_RESUBMIT_NEVER);

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_has_ids, &some));
	assert_int_equal(plx_client_cancel(r->client, l->req), 0);
	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_CANCELLED);
	assert_int_equal(l->final.cancelled.cause, PLX_CLIENT_CANCEL_ASKED);
	assert_int_equal(plx_client_cancel(r->client, l->req), PLX_E_NOT_FOUND);
	plx_crig_close(r);
}

static void test_client_cancel_before_the_session_never_reaches_the_appliance(void **state)
{
	struct plx_crig *r = plx_crig_plain();
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
	struct plx_crig *r = plx_crig_plain();

	(void)state;
	assert_true(plx_crig_run(r, SECOND, plx_crig_is_open, NULL));
	plx_crig_run(r, SECOND / 10, NULL, NULL);
	struct plx_crig_log *l = plx_crig_submit(r, "a", 40, PLX_CLIENT_RESUBMIT_NEVER);

	r->cut = true;
	plx_crig_run(r, 1000000, NULL, NULL);
	r->cut = false;
	assert_int_equal(plx_client_cancel(r->client, l->req), 0);
	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_CANCELLED);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_requests, 0);
	assert_int_equal(plx_peer_counts_of(r->peer)->n_cancelled, 1);
	plx_crig_close(r);
}

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

	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
	assert_int_equal(l->final.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(l->n_ids[0], 5);
	return l;
}

static void test_client_sends_only_what_is_new(void **state)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);
	const struct plx_peer_counts *n = plx_peer_counts_of(r->peer);

	(void)state;
	plx_crig_submit(r, "one", 5, PLX_CLIENT_RESUBMIT_NEVER);
	uint64_t first = plx_crig_submit(r, "two", 5, PLX_CLIENT_RESUBMIT_NEVER)->req;

	assert_true(plx_crig_run(r, SECOND, plx_crig_all_final, NULL));
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
	struct plx_crig *r = plx_crig_plain();
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_client_streams_an_answer),
	    cmocka_unit_test(test_client_tells_what_left_the_context),
	    cmocka_unit_test(test_client_tells_the_best_of_several),
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
	    cmocka_unit_test(test_client_sends_only_what_is_new),
	    cmocka_unit_test(test_client_checks_what_is_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
