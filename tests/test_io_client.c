/*
 * The io stage and the client library with a bad network between them: loss, copies, reordering,
 * damage and replays both ways. Whatever happens, every request ends exactly once, and a DONE means
 * exactly the right text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/stage_io.h"
#include "fw/base/clock.h"
#include "tests/lib/impair.h"
#include "tests/lib/iorig.h"
#include "tools/client/core.h"

#define REQUESTS 120u
#define TURN_NS  UINT64_C(200000)
#define TURNS    200000u

static struct plx_rig rig;
static struct plx_rig_client wire; /* for its address alone */
static struct plx_impair *net;
static uint64_t draw_state;
static bool no_tokens; /* no TOKENS packet reaches the client */

static uint32_t draw(uint32_t below)
{
	draw_state = draw_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)(draw_state >> 33) % below;
}

/* ---- tok and batch, as far as io can tell ---------------------------------------------------- */

struct job {
	struct plx_req *req;
	uint32_t seed, made, n, window;
};
static struct job job[64];

static uint32_t tokens_of(uint32_t seed)
{
	return 1 + seed * 7 % 90; /* some need more than one window of 64 */
}

static void word(uint32_t seed, uint32_t i, char out[16])
{
	snprintf(out, 16, " w%u.%u", seed, i);
}

static void finish(struct job *j, enum plx_final_kind kind)
{
	j->req->res.kind = (uint8_t)kind;
	j->req->res.cause = (uint8_t)atomic_load(&j->req->cancel);
	j->req->res.sample[0] =
	    (struct plx_msg_done_sample){.n_tokens = j->made, .reason = PLX_FINISH_EOS};
	plx_rig_event(&rig, j->req, PLX_EV_FINAL);
	j->req = NULL;
}

static void run_job(struct job *j)
{
	char text[16];

	if (atomic_load(&j->req->cancel) != 0) {
		finish(j, PLX_FINAL_CANCELLED);
		return;
	}
	if (j->made == j->window)
		return;
	word(j->seed, j->made, text);
	plx_rig_tokens(&rig, j->req, j->made, (int32_t)j->made, text, false);
	if (++j->made < j->n)
		return;
	plx_rig_tokens(&rig, j->req, j->made, -1, "!", true); /* text that waited, without an id */
	finish(j, PLX_FINAL_DONE);
}

static void run_tok(void)
{
	struct plx_req *r;
	struct plx_note note;

	while ((r = plx_rig_take(&rig, 0)) != NULL) {
		struct job *j = &job[r->idx];

		assert_null(j->req); /* one at a time in each place */
		*j = (struct job){.req = r, .window = rig.cfg.lim.unacked_tokens};
		j->seed = (uint32_t)atoi((const char *)r->view.prompt);
		j->n = tokens_of(j->seed);
		plx_rig_event(&rig, r, PLX_EV_ACCEPTED);
	}
	while (plx_ring_note_pop(&rig.links.io_note[0], &note))
		if (job[note.req_idx].req != NULL && job[note.req_idx].req->gen == note.gen &&
		    note.next > job[note.req_idx].window)
			job[note.req_idx].window = note.next;
	for (uint32_t i = 0; i < rig.cfg.lim.n_requests; i++)
		if (job[i].req != NULL && plx_ring_ev_count(&rig.links.tok_io[0]) < 128)
			run_job(&job[i]);
}

/* ---- the client ---------------------------------------------------------------------------- */

static int env_send(void *ctx, const uint8_t *pkt, size_t n)
{
	(void)ctx;
	plx_impair_put(net, PLX_IMPAIR_UP, 0, pkt, (uint32_t)n, rig.now_ns);
	return 0;
}

static uint64_t env_now(void *ctx)
{
	(void)ctx;
	return rig.now_ns;
}

static void env_random(void *ctx, void *out, size_t n)
{
	(void)ctx;
	randombytes_buf(out, n);
}

struct asked {
	uint64_t handle;
	uint32_t seed;
	uint32_t n_final;
	bool cancelled;
	uint32_t text_bytes;
	char text[2048];
};
static struct asked asked[REQUESTS];
static uint32_t n_asked, n_done, n_cancelled;

static struct asked *asked_by(uint64_t handle)
{
	for (uint32_t i = 0; i < n_asked; i++)
		if (asked[i].handle == handle)
			return &asked[i];
	return NULL;
}

static void ask_next(struct plx_client *c)
{
	struct plx_client_request r;
	struct asked *a = &asked[n_asked];
	static char text[6000];
	int n = snprintf(text, sizeof(text), "%u:", n_asked);

	memset(text + n, 'p', sizeof(text) - (size_t)n);
	plx_client_request_init(&r);
	r.text = text;
	r.text_bytes = (size_t)n + draw(5000); /* from one packet to five */
	r.resubmit = PLX_CLIENT_RESUBMIT_NEVER;
	memset(a, 0, sizeof(*a));
	if (plx_client_submit(c, &r, &a->handle, NULL) != 0)
		return;
	a->seed = n_asked++;
	if (draw(8) == 0)
		a->cancelled = plx_client_cancel(c, a->handle) == 0;
}

static void check_done(const struct asked *a, const struct plx_client_done *d)
{
	char want[2048], w[16];
	size_t at = 0;
	uint32_t n = tokens_of(a->seed);

	for (uint32_t i = 0; i < n; i++) {
		word(a->seed, i, w);
		at += (size_t)snprintf(want + at, sizeof(want) - at, "%s", w);
	}
	want[at++] = '!';
	assert_int_equal(d->samples[0].n_tokens, n);
	assert_int_equal(a->text_bytes, at);
	assert_memory_equal(a->text, want, at);
}

static void take_events(struct plx_client *c)
{
	struct plx_client_event ev;

	while (plx_client_event(c, &ev)) {
		struct asked *a = ev.req != 0 ? asked_by(ev.req) : NULL;

		assert_int_not_equal(ev.type, PLX_CLIENT_EV_CLOSED);
		assert_int_not_equal(ev.type, PLX_CLIENT_EV_LOST);
		if (a == NULL)
			continue;
		if (ev.type == PLX_CLIENT_EV_TOKENS) {
			assert_true(a->text_bytes + ev.tokens.text_bytes < sizeof(a->text));
			memcpy(a->text + a->text_bytes, ev.tokens.text, ev.tokens.text_bytes);
			a->text_bytes += ev.tokens.text_bytes;
		}
		if (!plx_client_event_final(&ev))
			continue;
		assert_int_equal(++a->n_final, 1);
		if (ev.type == PLX_CLIENT_EV_DONE) {
			check_done(a, &ev.done);
			n_done++;
		} else {
			assert_int_equal(ev.type, PLX_CLIENT_EV_CANCELLED);
			assert_true(a->cancelled);
			n_cancelled++;
		}
	}
}

static void pass_packets(struct plx_client *c)
{
	struct plx_impair_packet p;
	uint8_t buf[2048];
	uint32_t n;

	while ((n = plx_rig_get(&wire, buf, sizeof(buf))) > 0)
		plx_impair_put(net, PLX_IMPAIR_DOWN, 0, buf, n, rig.now_ns);
	while (plx_impair_get(net, rig.now_ns, &p)) {
		if (p.dir == PLX_IMPAIR_UP)
			plx_rig_put(&wire, p.data, p.n_bytes);
		else if (!no_tokens || p.data[offsetof(struct plx_hdr, type)] != PLX_T_TOKENS)
			plx_client_input(c, p.data, p.n_bytes, rig.now_ns);
	}
}

static void run(uint64_t seed, double chance)
{
	struct plx_config cfg = plx_rig_config();
	struct plx_impair_cfg bad = {.loss = chance,
	                             .duplicate = chance,
	                             .reorder = chance,
	                             .corrupt = chance / 4,
	                             .truncate = chance / 4,
	                             .replay = chance / 4,
	                             .spare_originals = true,
	                             .delay_us = 100,
	                             .seed = seed};
	struct plx_impair_cfg both[PLX_IMPAIR_DIRS] = {bad, bad};
	struct plx_client_env env = {.send = env_send, .now_ns = env_now, .random = env_random};
	struct plx_client_config cc;
	struct plx_client *c;

	both[1].seed = seed + 1;
	draw_state = seed;
	n_asked = n_done = n_cancelled = 0;
	memset(job, 0, sizeof(job));
	cfg.tmr.keepalive_ms = 5000;
	cfg.tmr.pause_ms = 10000; /* as long as the defaults: only bad luck is tested */
	cfg.tmr.result_ttl_ms = 30000;
	cfg.tmr.reasm_ttl_ms = 30000;
	assert_int_equal(plx_rig_open(&rig, &cfg, 1, NULL), 0);
	plx_rig_client_init(&wire, &rig, 0, NULL, 40000);
	net = plx_impair_new(both);
	plx_client_config_init(&cc);
	cc.host = "10.77.0.2";
	cc.insecure = true;
	cc.connect_timeout_ms = 60000;
	cc.n_requests = 16;
	cc.request_bytes = 16384;
	assert_int_equal(plx_client_make(&c, &cc, &env, NULL), 0);
	for (uint32_t t = 0; t < TURNS && n_done + n_cancelled < REQUESTS; t++) {
		if (n_asked < REQUESTS && n_asked - n_done - n_cancelled < 12)
			ask_next(c);
		(void)plx_client_tick(c, rig.now_ns);
		pass_packets(c);
		plx_rig_turn(&rig, TURN_NS);
		run_tok();
		take_events(c);
	}
	assert_int_equal(n_done + n_cancelled, REQUESTS);
	for (uint32_t t = 0; t < 10000 && plx_req_busy(&rig.links) > 0; t++) {
		plx_rig_turn(&rig, TURN_NS);
		run_tok();
	}
	assert_int_equal(plx_req_busy(&rig.links), 0);
	if (chance > 0) { /* it was as bad as it should be */
		assert_true(plx_rig_count(&rig, 0, PLX_M_TX_RETRANSMITS) > 10);
		assert_true(plx_rig_count(&rig, 0, PLX_M_REQ_REPEATED) > 0);
		assert_true(plx_rig_count(&rig, 0, PLX_M_IO_DROP_AUTH) +
		                plx_rig_count(&rig, 0, PLX_M_IO_DROP_FORMAT) >
		            5);
		assert_true(plx_rig_count(&rig, 0, PLX_M_IO_DROP_REPLAY) > 10);
	}
	plx_client_free(c);
	plx_impair_free(net);
	plx_rig_client_end(&wire);
	plx_rig_close(&rig);
}

static void test_io_every_request_ends_once_on_a_good_network(void **state)
{
	(void)state;
	run(1, 0);
	assert_true(n_done > 80);
}

static void test_io_every_request_ends_once_on_a_bad_network(void **state)
{
	(void)state;
	for (uint64_t seed = 10; seed < 13; seed++)
		run(seed, 0.10);
}

/* Three of ten packets are lost, both ways: slow (some 7 s of this clock), but everything ends. */
static void test_io_every_request_ends_once_on_a_terrible_network(void **state)
{
	(void)state;
	run(20, 0.30);
}

/* The end of a request arrives and its tokens never do: the appliance lets go of them after their
 * time, and the client, a little later, of the request. */
static void test_io_tokens_out_of_time_end_the_request_once(void **state)
{
	struct plx_config cfg = plx_rig_config();
	struct plx_impair_cfg good = {.delay_us = 100, .seed = 1};
	struct plx_impair_cfg both[PLX_IMPAIR_DIRS] = {good, good};
	struct plx_client_env env = {.send = env_send, .now_ns = env_now, .random = env_random};
	struct plx_client_request r;
	struct plx_client_event ev;
	struct plx_client_config cc;
	struct plx_client *c;
	uint64_t req, failed_ns = 0;
	uint32_t n_final = 0;

	(void)state;
	memset(job, 0, sizeof(job));
	cfg.tmr.result_ttl_ms = 1000;
	assert_int_equal(plx_rig_open(&rig, &cfg, 1, NULL), 0);
	plx_rig_client_init(&wire, &rig, 0, NULL, 40000);
	net = plx_impair_new(both);
	plx_client_config_init(&cc);
	cc.insecure = true;
	assert_int_equal(plx_client_make(&c, &cc, &env, NULL), 0);
	plx_client_request_init(&r);
	r.text = "7"; /* 50 tokens */
	r.text_bytes = 1;
	assert_int_equal(plx_client_submit(c, &r, &req, NULL), 0);
	no_tokens = true;
	uint64_t began_ns = rig.now_ns;

	for (uint32_t t = 0; t < 30000; t++) {
		(void)plx_client_tick(c, rig.now_ns);
		pass_packets(c);
		plx_rig_turn(&rig, TURN_NS);
		run_tok();
		while (plx_client_event(c, &ev)) {
			assert_int_not_equal(ev.type, PLX_CLIENT_EV_LOST);
			if (!plx_client_event_final(&ev))
				continue;
			assert_int_equal(ev.type, PLX_CLIENT_EV_FAILED);
			assert_int_equal(ev.failed.err, PLX_E_TIMEOUT);
			assert_non_null(strstr(ev.failed.why, "in the 1.0 s"));
			failed_ns = rig.now_ns;
			n_final++;
		}
	}
	no_tokens = false;
	assert_int_equal(n_final, 1);
	assert_in_range(failed_ns - began_ns, 3 * PLX_NS_PER_S, 32 * PLX_NS_PER_S / 10);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_TX_EXPIRED), 1);
	assert_int_equal(plx_req_busy(&rig.links), 0);
	plx_client_free(c);
	plx_impair_free(net);
	plx_rig_client_end(&wire);
	plx_rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_io_every_request_ends_once_on_a_good_network),
	    cmocka_unit_test(test_io_every_request_ends_once_on_a_bad_network),
	    cmocka_unit_test(test_io_every_request_ends_once_on_a_terrible_network),
	    cmocka_unit_test(test_io_tokens_out_of_time_end_the_request_once),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
