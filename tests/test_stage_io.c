/*
 * The io stage against a client made of the wire library: what it answers, what it never answers,
 * and that every request ends once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "dataplane/stage_batch.h"
#include "dataplane/stage_io.h"
#include "fw/base/clock.h"
#include "fw/compose.h"
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

/* Send a one-packet text request; returns its id. */
static uint64_t ask(const char *text)
{
	uint8_t msg[1200];
	uint32_t n = plx_rig_req(msg, sizeof(msg), text, (uint32_t)strlen(text));
	uint64_t id = cli.next_req++;

	plx_rig_say(&cli, PLX_T_REQ, id, msg, n);
	plx_rig_turn(&rig, 1000);
	return id;
}

static void tok_ack(uint64_t req_id, uint32_t next, uint16_t flags)
{
	struct plx_msg_tok_ack_entry e = {.req_id = req_id, .next_idx = next, .flags = flags};
	struct plx_msg_ack_head head = plx_conn_ack_fill(&cli.conn, 1, rig.now_ns);
	uint8_t p[64];
	int n = plx_msg_tok_ack_encode(p, sizeof(p), &head, &e);

	plx_rig_say(&cli, PLX_T_TOK_ACK, 0, p, (uint32_t)n);
	plx_rig_turn(&rig, 1000);
}

/* The fake tok ends a request. */
static void end_done(struct plx_req *r, uint32_t n_tokens)
{
	r->res.kind = PLX_FINAL_DONE;
	r->res.prompt_tokens = 5;
	r->res.sample[0] =
	    (struct plx_msg_done_sample){.n_tokens = n_tokens, .reason = PLX_FINISH_EOS};
	plx_rig_event(&rig, r, PLX_EV_FINAL);
}

static void test_io_handshake_then_ping(void **state)
{
	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	assert_int_equal(count(PLX_M_HS_RETRY), 1);
	assert_int_equal(count(PLX_M_HS_HELLO), 2);
	assert_int_equal(count(PLX_M_SESSION_OPENED), 1);
	assert_int_equal(plx_stage_io_sessions(rig.io[0]), 1);
	assert_int_equal(cli.ack.limits.max_in_flight, 4);
	assert_int_equal(cli.ack.limits.max_datagram, 1452);
	assert_int_equal(cli.ack.credit_requests, 4);
}

static void test_io_same_hello_same_answer(void **state)
{
	uint8_t hello[PLX_HELLO_BYTES], first[2048], again[2048];
	struct plx_hs_keys keys;
	uint32_t n = 0, k;

	(void)state;
	plx_hsc_hello(&cli.hs, hello);
	plx_rig_put(&cli, hello, sizeof(hello));
	plx_rig_turn(&rig, 1000);
	n = plx_rig_get(&cli, first, sizeof(first));
	assert_int_equal(plx_hsc_input(&cli.hs, &cli.ack, &keys, first, n), PLX_E_AGAIN);
	plx_hsc_hello(&cli.hs, hello);
	plx_rig_put(&cli, hello, sizeof(hello));
	plx_rig_put(&cli, hello, sizeof(hello));
	for (int i = 0; i < 3; i++)
		plx_rig_turn(&rig, 1000);
	n = plx_rig_get(&cli, first, sizeof(first));
	assert_true(n > 0);
	plx_rig_put(&cli, hello, sizeof(hello));
	plx_rig_turn(&rig, 1000);
	k = plx_rig_get(&cli, again, sizeof(again));
	assert_int_equal(n, k);
	assert_memory_equal(first, again, n);
	assert_int_equal(plx_stage_io_sessions(rig.io[0]), 1);
}

static void test_io_is_silent_to_a_wrong_mac(void **state)
{
	uint8_t hello[PLX_HELLO_BYTES];

	(void)state;
	plx_hsc_hello(&cli.hs, hello);
	hello[PLX_HDR_BYTES + 120] ^= 1;
	plx_rig_put(&cli, hello, sizeof(hello));
	hello[2] = 9; /* a version nobody knows: the MAC still rules */
	plx_rig_put(&cli, hello, sizeof(hello));
	plx_rig_turn(&rig, 1000);
	plx_rig_turn(&rig, 1000);
	assert_int_equal(plx_rig_get(&cli, buf, sizeof(buf)), 0);
	assert_int_equal(count(PLX_M_HS_BAD_MAC), 2);
	assert_int_equal(plx_stage_io_sessions(rig.io[0]), 0);
}

static void test_io_carries_a_request_and_its_answer(void **state)
{
	struct plx_msg_tokens_view v;
	struct plx_msg_done done;
	struct plx_msg_done_sample ds[PLX_SAMPLES_MAX];
	struct plx_msg_accept acc;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = ask("hello");
	struct plx_req *r = plx_rig_take(&rig, 0);

	assert_non_null(r);
	assert_int_equal(r->view.m.prompt_bytes, 5);
	assert_memory_equal(r->view.prompt, "hello", 5);
	assert_int_equal(r->req_id, 1);
	assert_true(plx_rig_expect(&cli, PLX_T_ACK, &hdr, buf));

	plx_rig_event(&rig, r, PLX_EV_ACCEPTED);
	plx_rig_tokens(&rig, r, 0, 42, "Hi", false);
	assert_true(plx_rig_expect(&cli, PLX_T_ACCEPT, &hdr, buf));
	assert_int_equal(plx_msg_get(PLX_T_ACCEPT, &acc, sizeof(acc), buf, hdr.payload_bytes), 0);
	assert_int_equal(acc.queue_position, 3);
	assert_true(plx_rig_expect(&cli, PLX_T_TOKENS, &hdr, buf));
	assert_int_equal(plx_msg_tokens_decode(&v, buf, hdr.payload_bytes), 0);
	assert_int_equal(v.m.count, 1);
	assert_int_equal(plx_get_u32(v.ids), 42);
	assert_memory_equal(v.text, "Hi", 2);

	plx_rig_tokens(&rig, r, 1, 43, " there", true);
	end_done(r, 2);
	assert_true(plx_rig_expect(&cli, PLX_T_TOKENS, &hdr, buf));
	assert_int_equal(plx_msg_tokens_decode(&v, buf, hdr.payload_bytes), 0);
	assert_int_equal(v.m.first_idx, 1);
	assert_int_equal(v.m.flags, PLX_TOKENS_LAST);
	assert_true(plx_rig_expect(&cli, PLX_T_DONE, &hdr, buf));
	assert_int_equal(plx_msg_done_decode(&done, ds, buf, hdr.payload_bytes), 0);
	assert_int_equal(done.n_samples, 1);
	assert_int_equal(done.numeric_kind, 7);
	assert_int_equal(ds[0].n_tokens, 2);
	assert_int_equal(plx_req_busy(&rig.links), 0);

	plx_rig_ack(&cli, PLX_T_ACCEPT, id);
	plx_rig_ack(&cli, PLX_T_DONE, id);
	tok_ack(id, 2, PLX_TOK_ACK_LAST);
	for (int i = 0; i < 50; i++)
		plx_rig_turn(&rig, 10 * PLX_NS_PER_MS);
	while (plx_rig_hear(&cli, &hdr, buf))
		assert_int_equal(hdr.type, PLX_T_CREDIT);
}

static void test_io_resumes_behind_what_the_client_has(void **state)
{
	static const uint32_t had[3] = {40, 41, 42};
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_msg_tokens_view v;
	struct plx_msg_done done;
	struct plx_msg_done_sample ds[PLX_SAMPLES_MAX];
	struct plx_req_writer w;
	struct plx_note note;
	uint8_t msg[600];

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	plx_req_begin(&w, msg, sizeof(msg), &m);
	plx_req_resume(&w, 0, had, 3);
	plx_req_prompt_text(&w, "x", 1);
	uint64_t id = cli.next_req++;

	plx_rig_say(&cli, PLX_T_REQ, id, msg, (uint32_t)plx_req_end(&w));
	plx_rig_turn(&rig, 1000);
	struct plx_req *r = plx_rig_take(&rig, 0);

	assert_non_null(r);
	assert_true(plx_session_marked(&rig.links, 0, r->session_id));
	plx_rig_tokens(&rig, r, 3, 43, "on", false);
	assert_true(plx_rig_expect(&cli, PLX_T_TOKENS, &hdr, buf));
	assert_int_equal(plx_msg_tokens_decode(&v, buf, hdr.payload_bytes), 0);
	assert_int_equal(v.m.first_idx, 3);
	tok_ack(id, 4, 0);
	assert_true(plx_ring_note_pop(&rig.links.io_note[0], &note));
	assert_int_equal(note.next, 4 + rig.cfg.lim.unacked_tokens);
	plx_rig_tokens(&rig, r, 4, 44, ".", true);
	end_done(r, 5);
	assert_true(plx_rig_expect(&cli, PLX_T_DONE, &hdr, buf));
	assert_int_equal(plx_msg_done_decode(&done, ds, buf, hdr.payload_bytes), 0);
	assert_int_equal(ds[0].n_tokens, 5);
}

static void test_io_says_when_a_session_goes(void **state)
{
	struct plx_msg_close bye = {.code = PLX_CLOSE_DONE};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	ask("hello");
	uint32_t id = plx_rig_take(&rig, 0)->session_id;

	assert_true(plx_session_marked(&rig.links, 0, id));
	assert_false(plx_session_marked(&rig.links, 0, id + 0x10000)); /* the place's next one */
	plx_rig_say(&cli, PLX_T_CLOSE, 0, &bye, sizeof(bye));
	plx_rig_turn(&rig, 1000);
	assert_false(plx_session_marked(&rig.links, 0, id));
}

/* ---- one value for each limit ---- */

static uint32_t add_flags; /* of the request; enum plx_req_flag */

static int decode_and_add(struct plx_stage_batch *b, uint32_t n_ids, uint32_t max_new,
                          uint16_t n_samples)
{
	static uint8_t msg[8192];
	static int32_t ids[1024];
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_sched_admit admit;
	struct plx_req_writer w;
	struct plx_req_view v;
	struct plx_req_fault f;

	m.n_samples = n_samples;
	m.max_new = max_new;
	m.flags |= add_flags;
	plx_req_begin(&w, msg, sizeof(msg), &m);
	plx_req_prompt_ids(&w, (const uint32_t *)ids, n_ids);
	int n = plx_req_end(&w);
	int e = plx_req_decode(&v, msg, (size_t)n, &cli.ack.limits, (uint32_t)cli.ack.features, &f);
	struct plx_sched_job job = {.ids = ids,
	                            .n_ids = v.m.prompt_tokens,
	                            .max_new = v.m.max_new,
	                            .n_samples = v.m.n_samples,
	                            .beyond = (v.m.flags & PLX_REQ_COMPRESS) != 0,
	                            .sampler = {.top_p = 1, .repeat_penalty = 1}};

	if (e)
		return e;
	e = plx_sched_add(&b->sched, 0, &job, 1, &admit);
	if (!e) {
		b->live[b->n_live++] = 0;
		b->place[0] = 0;
		plx_sched_cancel(&b->sched, 0, PLX_CANCEL_CLIENT, 1);
	}
	return e;
}

/*
 * What the handshake says is what admission checks is what the scheduler has, also where model and
 * KV memory are smaller than the board asks for.
 */
static void test_io_limits_are_the_schedulers(void **state)
{
	const struct plx_batch_model model = {.n_ctx = 200, .caps = PLX_CAP_LAST};
	const struct plx_wire_limits *l = &cli.ack.limits;
	struct plx_stage_batch b;
	struct plx_arena arena;
	struct plx_page page;
	struct plx_diag d;

	(void)state;
	teardown(NULL);
	struct plx_config cfg = plx_rig_config();

	plx_context_fit(&cfg, model.n_ctx, false);
	assert_int_equal(plx_rig_open(&rig, &cfg, 1, NULL), 0);
	plx_rig_client_init(&cli, &rig, 0, NULL, 40000);
	assert_int_equal(plx_rig_connect(&cli), 0);
	assert_int_equal(plx_arena_open(&arena, plx_stage_batch_bytes(&cfg, 200), &d), 0);
	plx_page_init(&page, PLX_STAGE_BATCH, 0, 0);
	assert_int_equal(plx_stage_batch_init(&b, &rig.links, &arena, NULL, &model, &page, &d), 0);
	assert_int_equal(l->max_prompt_tokens, 199);
	assert_int_equal(b.sched.conf.max_prompt, 199);
	assert_int_equal(l->max_new, b.sched.conf.max_new);
	assert_int_equal(l->token_window, b.sched.conf.window);
	assert_true(l->max_prompt_tokens < b.sched.conf.ctx_tokens);
	assert_true(l->max_samples <= b.sched.conf.n_slots);
	assert_true(l->max_samples <= b.sched.conf.step_seqs);
	assert_true(l->max_priority < PLX_SCHED_PRIORITIES);
	assert_true(l->max_in_flight <= b.sched.conf.n_keys);
	/* At each limit it runs; beyond it never comes to the scheduler. */
	assert_int_equal(decode_and_add(&b, 199, 1, 1), 0);
	assert_int_equal(decode_and_add(&b, 200, 1, 1), PLX_E_TOO_LARGE);
	assert_int_equal(decode_and_add(&b, 1, l->max_new, 1), 0);
	assert_int_equal(decode_and_add(&b, 1, l->max_new + 1, 1), PLX_E_BAD_REQUEST);
	assert_int_equal(decode_and_add(&b, 199, l->max_new, l->max_samples), 0);
	assert_int_equal(decode_and_add(&b, 1, 1, (uint16_t)(l->max_samples + 1)),
	                 PLX_E_BAD_REQUEST);
	plx_arena_close(&arena);
}

/* The same where texts may outgrow a context of 64 tokens: prompts keep the board's limit. */
static void test_io_limits_beyond_the_context(void **state)
{
	const struct plx_batch_model model = {.n_ctx = 200,
	                                      .caps = PLX_CAP_LAST | PLX_CAP_SHIFT | PLX_CAP_COPY};
	const struct plx_wire_limits *l = &cli.ack.limits;
	struct plx_stage_batch b;
	struct plx_arena arena;
	struct plx_page page;
	struct plx_diag d;

	(void)state;
	teardown(NULL);
	struct plx_config cfg = plx_rig_config();

	cfg.lim.context_tokens = 64;
	plx_context_fit(&cfg, model.n_ctx, true);
	assert_int_equal(plx_rig_open(&rig, &cfg, 1, NULL), 0);
	plx_rig_client_init(&cli, &rig, 0, NULL, 40000);
	assert_int_equal(plx_rig_connect(&cli), 0);
	assert_int_equal(plx_arena_open(&arena, plx_stage_batch_bytes(&cfg, 200), &d), 0);
	plx_page_init(&page, PLX_STAGE_BATCH, 0, 0);
	assert_int_equal(plx_stage_batch_init(&b, &rig.links, &arena, NULL, &model, &page, &d), 0);
	assert_int_equal(l->max_prompt_tokens, 256);
	assert_int_equal(b.sched.conf.max_prompt, 256);
	assert_int_equal(b.sched.conf.ctx_tokens, 64);
	assert_int_equal(decode_and_add(&b, 63, 1, 1), 0);
	assert_int_equal(decode_and_add(&b, 64, 1, 1), PLX_E_TOO_LARGE);
	add_flags = PLX_REQ_COMPRESS;
	assert_int_equal(decode_and_add(&b, 64, 1, 1), 0);
	assert_int_equal(decode_and_add(&b, 256, l->max_new, l->max_samples), 0);
	assert_int_equal(decode_and_add(&b, 257, 1, 1), PLX_E_TOO_LARGE);
	add_flags = 0;
	plx_arena_close(&arena);
}

static void test_io_repeats_until_acknowledged(void **state)
{
	uint32_t n_done = 0, n_tokens = 0;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = ask("x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	end_done(r, 1);
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
	tok_ack(id, 1, PLX_TOK_ACK_LAST);
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
	uint64_t id = ask("x");
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
	tok_ack(id, 10, 0);
	assert_int_equal(one_round(), 1);
	for (int i = 0; i < 3; i++)
		tok_ack(id, 10, 0); /* the same again is no news */
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
	uint64_t id = ask("x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	end_done(r, 1);
	assert_true(plx_rig_expect(&cli, PLX_T_DONE, &hdr, buf));
	assert_int_equal(count(PLX_M_TX_RETRANSMITS), 0);
	for (int i = 0; i < 30; i++)
		plx_rig_turn(&rig, PLX_NS_PER_MS);
	assert_true(count(PLX_M_TX_RETRANSMITS) >= 2);
	plx_rig_ack(&cli, PLX_T_DONE, id);
	tok_ack(id, 1, PLX_TOK_ACK_LAST);
	assert_int_equal(count(PLX_M_TX_SPURIOUS), 2);

	/* Another, of which the first copies are lost: nothing was in vain. */
	while (plx_rig_hear(&cli, &hdr, buf))
		;
	id = ask("y");
	r = plx_rig_take(&rig, 0);
	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	end_done(r, 1);
	for (int i = 0; i < 30; i++)
		plx_rig_turn(&rig, PLX_NS_PER_MS);
	while (plx_rig_hear(&cli, &hdr, buf))
		;
	plx_rig_ack(&cli, PLX_T_DONE, id);
	tok_ack(id, 1, PLX_TOK_ACK_LAST);
	assert_int_equal(count(PLX_M_TX_SPURIOUS), 2);
}

static void test_io_end_without_id_is_kept_until_told(void **state)
{
	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = ask("x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", false);
	plx_rig_turn(&rig, 1000);
	tok_ack(id, 1, 0);
	plx_rig_tokens(&rig, r, 1, -1, "bc", true);
	end_done(r, 1);
	plx_rig_turn(&rig, 1000);
	while (plx_rig_hear(&cli, &hdr, buf))
		; /* lost on the way */
	plx_rig_ack(&cli, PLX_T_DONE, id);
	tok_ack(id, 1, PLX_TOK_ACK_RESEND);
	assert_true(plx_rig_expect(&cli, PLX_T_TOKENS, &hdr, buf));
	assert_int_equal(hdr.req_id, id);
	tok_ack(id, 1, PLX_TOK_ACK_LAST);
	while (plx_rig_hear(&cli, &hdr, buf))
		;
	for (int i = 0; i < 50; i++)
		plx_rig_turn(&rig, 10 * PLX_NS_PER_MS);
	while (plx_rig_hear(&cli, &hdr, buf))
		assert_int_not_equal(hdr.type, PLX_T_TOKENS);
}

static void test_io_runs_a_request_once(void **state)
{
	uint8_t msg[1200];
	uint32_t n = plx_rig_req(msg, sizeof(msg), "once", 4);

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	for (int i = 0; i < 3; i++) {
		struct plx_hdr h = {
		    .type = PLX_T_REQ, .req_id = 1, .prio_flags = plx_hdr_pack_prio(0, PLX_F_RETX)};

		(void)plx_rig_send(&cli, &h, msg, n);
		plx_rig_turn(&rig, 1000);
	}
	struct plx_req *r = plx_rig_take(&rig, 0);

	assert_non_null(r);
	assert_null(plx_rig_take(&rig, 0));
	assert_int_equal(count(PLX_M_REQ_REPEATED), 2);
	end_done(r, 0);
	assert_true(plx_rig_expect(&cli, PLX_T_DONE, &hdr, buf));
	struct plx_hdr h = {
	    .type = PLX_T_REQ, .req_id = 1, .prio_flags = plx_hdr_pack_prio(0, PLX_F_RETX)};

	(void)plx_rig_send(&cli, &h, msg, n);
	plx_rig_turn(&rig, 1000);
	int again = 0;

	while (plx_rig_hear(&cli, &hdr, buf))
		again += hdr.type == PLX_T_DONE;
	assert_true(again >= 1); /* the stored answer */
	assert_null(plx_rig_take(&rig, 0));
}

static void test_io_refuses_below_the_window(void **state)
{
	struct plx_msg_reject m;
	const char *detail;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	cli.next_req = 16;
	(void)ask("a");
	struct plx_req *r = plx_rig_take(&rig, 0);

	assert_non_null(r);
	cli.next_req = 17;
	(void)ask("b");
	assert_non_null(plx_rig_take(&rig, 0));
	cli.next_req = 1; /* 16 below 17: outside the span of 4 * 4 */
	(void)ask("c");
	assert_null(plx_rig_take(&rig, 0));
	assert_true(plx_rig_expect(&cli, PLX_T_REJECT, &hdr, buf));
	assert_int_equal(hdr.req_id, 1);
	assert_int_equal(plx_msg_reject_decode(&m, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(m.code, plx_err_wire(PLX_E_BAD_REQUEST));
}

static void test_io_holds_clients_to_their_credit(void **state)
{
	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	for (int i = 0; i < 5; i++)
		(void)ask("q");
	for (int i = 0; i < 4; i++)
		assert_non_null(plx_rig_take(&rig, 0));
	assert_null(plx_rig_take(&rig, 0));
	assert_int_equal(count(PLX_M_REQ_NO_CREDIT), 1);
}

static void test_io_names_the_option_it_refuses(void **state)
{
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_req_writer w;
	struct plx_msg_reject rej;
	const char *detail;
	uint8_t msg[600];

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	m.flags |= PLX_REQ_TEXT;
	m.max_new = 1;
	plx_req_begin(&w, msg, sizeof(msg), &m);
	plx_req_opt(&w, 99 | PLX_OPT_CRITICAL, "abcd", 4);
	plx_req_prompt_text(&w, "x", 1);
	int n = plx_req_end(&w);

	assert_true(n > 0);
	plx_rig_say(&cli, PLX_T_REQ, 1, msg, (uint32_t)n);
	assert_true(plx_rig_expect(&cli, PLX_T_REJECT, &hdr, buf));
	assert_int_equal(plx_msg_reject_decode(&rej, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(rej.code, plx_err_wire(PLX_E_BAD_REQUEST));
	assert_int_equal(rej.option & 0x7fff, 99);
	assert_int_equal(plx_req_busy(&rig.links), 0);
}

/* A request of `bytes` of text, cut into fragments, sent in the given order. */
static void send_fragments(uint64_t id, const uint8_t *msg, uint32_t n, const uint16_t *order,
                           uint16_t n_order)
{
	uint16_t count_of = (uint16_t)plx_frag_count(n, 1200);

	for (uint16_t i = 0; i < n_order; i++) {
		struct plx_hdr h = {
		    .type = PLX_T_REQ, .req_id = id, .frag_idx = order[i], .frag_count = count_of};

		(void)plx_rig_send(&cli, &h, msg + 1152u * order[i],
		                   plx_frag_bytes(n, 1200, order[i]));
	}
	plx_rig_turn(&rig, 1000);
}

static void test_io_puts_fragments_together(void **state)
{
	static uint8_t msg[8192];
	static char text[4000];

	(void)state;
	memset(text, 'z', sizeof(text));
	uint32_t n = plx_rig_req(msg, sizeof(msg), text, sizeof(text));

	assert_int_equal(plx_frag_count(n, 1200), 4);
	assert_int_equal(plx_rig_connect(&cli), 0);
	send_fragments(1, msg, n, (const uint16_t[]){2, 0, 3, 1, 0}, 5);
	assert_null(plx_rig_take(&rig, 0)); /* 2 came before 0 and was not kept */
	send_fragments(1, msg, n, (const uint16_t[]){2}, 1);
	struct plx_req *r = plx_rig_take(&rig, 0);

	assert_non_null(r);
	assert_int_equal(r->view.m.prompt_bytes, 4000);
	assert_memory_equal(r->view.prompt, text, 4000);
	send_fragments(1, msg, n, (const uint16_t[]){1}, 1);
	assert_int_equal(count(PLX_M_REQ_REPEATED), 1);
}

static void test_io_rejects_what_does_not_arrive_whole(void **state)
{
	static uint8_t msg[8192];
	static char text[4000];
	struct plx_msg_reject rej;
	const char *detail;

	(void)state;
	memset(text, 'z', sizeof(text));
	uint32_t n = plx_rig_req(msg, sizeof(msg), text, sizeof(text));

	assert_int_equal(plx_rig_connect(&cli), 0);
	send_fragments(1, msg, n, (const uint16_t[]){0, 1}, 2);
	plx_rig_turn(&rig, cli.ack.limits.reasm_timeout_ms * PLX_NS_PER_MS);
	assert_true(plx_rig_expect(&cli, PLX_T_REJECT, &hdr, buf));
	assert_int_equal(hdr.req_id, 1);
	assert_int_equal(plx_msg_reject_decode(&rej, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(rej.code, plx_err_wire(PLX_E_QUEUE_FULL));
	send_fragments(1, msg, n, (const uint16_t[]){0, 1, 2, 3}, 4);
	assert_null(plx_rig_take(&rig, 0)); /* it has ended, and never runs */
}

static void test_io_refuses_what_is_too_large_at_its_first_fragment(void **state)
{
	static uint8_t msg[1152];
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_msg_reject rej;
	const char *detail;
	struct plx_hdr h = {.type = PLX_T_REQ, .req_id = 1, .frag_count = 20};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	m.message_bytes = 20000;
	memcpy(msg, &m, sizeof(m));
	(void)plx_rig_send(&cli, &h, msg, sizeof(msg));
	assert_true(plx_rig_expect(&cli, PLX_T_REJECT, &hdr, buf));
	assert_int_equal(plx_msg_reject_decode(&rej, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(rej.code, plx_err_wire(PLX_E_TOO_LARGE));
}

static void test_io_gives_up_on_half_a_request(void **state)
{
	static uint8_t msg[8192];
	static char text[4000];
	struct plx_msg_reject rej;
	struct plx_msg_ping ping = {.token = 1};
	const char *detail;

	(void)state;
	memset(text, 'z', sizeof(text));
	uint32_t n = plx_rig_req(msg, sizeof(msg), text, sizeof(text));

	assert_int_equal(plx_rig_connect(&cli), 0);
	send_fragments(1, msg, n, (const uint16_t[]){0, 1}, 2);
	for (int i = 0; i < 11; i++) {
		plx_rig_say(&cli, PLX_T_PING, 0, &ping, sizeof(ping));
		plx_rig_turn(&rig, 100 * PLX_NS_PER_MS);
	}
	assert_true(plx_rig_expect(&cli, PLX_T_REJECT, &hdr, buf));
	assert_int_equal(hdr.req_id, 1);
	assert_int_equal(plx_msg_reject_decode(&rej, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(rej.code, plx_err_wire(PLX_E_QUEUE_FULL));
	send_fragments(1, msg, n, (const uint16_t[]){2, 3}, 2); /* too late: it has ended */
	assert_null(plx_rig_take(&rig, 0));
}

/* An answer that is owed stays owed while the window moves past its id. */
static void test_io_hears_acknowledgements_below_the_window(void **state)
{
	struct plx_req *r;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	(void)ask("first");
	r = plx_rig_take(&rig, 0);
	plx_rig_tokens(&rig, r, 0, 1, "a", true);
	end_done(r, 1);
	plx_rig_turn(&rig, 1000);
	for (uint64_t id = 2; id < 30; id++) {
		if (id % 16 == 1)
			cli.next_req++; /* its slot is taken */
		uint64_t this_id = ask("more");

		r = plx_rig_take(&rig, 0);
		assert_non_null(r);
		end_done(r, 0);
		plx_rig_turn(&rig, 1000);
		plx_rig_ack(&cli, PLX_T_DONE, this_id);
		plx_rig_turn(&rig, 1000);
	}
	uint64_t before = count(PLX_M_TX_RETRANSMITS);

	tok_ack(1, 1, PLX_TOK_ACK_LAST);
	plx_rig_ack(&cli, PLX_T_DONE, 1);
	plx_rig_turn(&rig, 1000);
	for (int i = 0; i < 20; i++)
		plx_rig_turn(&rig, 100 * PLX_NS_PER_MS);
	assert_int_equal(count(PLX_M_TX_RETRANSMITS), before);
}

static void test_io_cancel_may_overtake(void **state)
{
	struct plx_msg_cancel c = {.packets = 1};
	struct plx_msg_cancelled m;
	uint32_t n_tokens[PLX_SAMPLES_MAX];

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	plx_rig_say(&cli, PLX_T_CANCEL, 1, &c, sizeof(c));
	assert_true(plx_rig_expect(&cli, PLX_T_CANCELLED, &hdr, buf));
	assert_int_equal(plx_msg_cancelled_decode(&m, n_tokens, buf, hdr.payload_bytes), 0);
	assert_int_equal(m.cause, PLX_CANCEL_CLIENT);
	assert_int_equal(m.n_samples, 0);
	(void)ask("late"); /* id 1 */
	assert_null(plx_rig_take(&rig, 0));
	assert_int_equal(count(PLX_M_REQ_TOMBSTONES), 1);
	(void)ask("next"); /* id 2 runs */
	assert_non_null(plx_rig_take(&rig, 0));
}

static void test_io_cancel_reaches_a_running_request(void **state)
{
	struct plx_msg_cancel c = {.packets = 1};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = ask("run");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_say(&cli, PLX_T_CANCEL, id, &c, sizeof(c));
	plx_rig_turn(&rig, 1000);
	assert_int_equal(atomic_load(&r->cancel), PLX_CANCEL_CLIENT);
	r->res.kind = PLX_FINAL_CANCELLED;
	r->res.cause = PLX_CANCEL_CLIENT;
	plx_rig_event(&rig, r, PLX_EV_FINAL);
	assert_true(plx_rig_expect(&cli, PLX_T_CANCELLED, &hdr, buf));
	assert_int_equal(plx_req_busy(&rig.links), 0);
}

static void test_io_drops_tampered_replayed_truncated(void **state)
{
	uint8_t pkt[256];
	struct plx_msg_ping ping = {.token = 5};
	struct plx_hdr h = {.type = PLX_T_PING, .frag_count = 1, .payload_bytes = sizeof(ping)};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	memcpy(pkt + PLX_HDR_BYTES, &ping, sizeof(ping));
	int n = plx_conn_seal(&cli.conn, &cli.crypt, &h, pkt, rig.now_ns);

	pkt[40] ^= 1;
	plx_rig_put(&cli, pkt, (uint32_t)n);
	plx_rig_turn(&rig, 1000);
	assert_int_equal(count(PLX_M_IO_DROP_AUTH), 1);
	pkt[40] ^= 1;
	plx_rig_put(&cli, pkt, (uint32_t)n);
	plx_rig_put(&cli, pkt, (uint32_t)n);
	plx_rig_turn(&rig, 1000);
	assert_int_equal(count(PLX_M_IO_DROP_REPLAY), 1);
	for (int k = 0; k < n; k++)
		plx_rig_put(&cli, pkt, (uint32_t)k);
	for (int k = 0; k < 10; k++)
		plx_rig_turn(&rig, 1000);
	assert_int_equal(count(PLX_M_IO_DROP_FORMAT), n);
	int pongs = 0;

	while (plx_rig_hear(&cli, &hdr, buf))
		pongs += hdr.type == PLX_T_PONG;
	assert_int_equal(pongs, 1);
}

static void test_io_resets_an_unknown_session(void **state)
{
	uint8_t pkt[128];
	struct plx_msg_ping ping = {.token = 5};
	struct plx_hdr h = {.type = PLX_T_PING, .frag_count = 1, .payload_bytes = sizeof(ping)};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	cli.conn.peer_id += 1u << 16; /* another generation */
	memcpy(pkt + PLX_HDR_BYTES, &ping, sizeof(ping));
	int n = plx_conn_seal(&cli.conn, &cli.crypt, &h, pkt, rig.now_ns);

	for (int i = 0; i < 100; i++)
		plx_rig_put(&cli, pkt, (uint32_t)n);
	for (int i = 0; i < 5; i++)
		plx_rig_turn(&rig, 1000);
	uint32_t resets = 0, bytes;

	while ((bytes = plx_rig_get(&cli, buf, sizeof(buf))) > 0) {
		resets++;
		assert_true(bytes < (uint32_t)n);
	}
	assert_int_equal(resets, 32); /* in 100 ms */
	assert_int_equal(count(PLX_M_IO_DROP_SESSION), 100);
	/* It names the session it was asked about, so that ours is not ended by it. */
	assert_int_equal(
	    plx_reset_check(buf, PLX_RESET_BYTES, cli.ack.session_id, cli.ack.reset_token),
	    PLX_E_FORMAT);
}

/* After a restart with the same keys, the old session's client believes the reset. */
static void test_io_reset_after_a_restart_is_believed(void **state)
{
	struct plx_config cfg = plx_rig_config();
	struct plx_msg_ping ping = {.token = 5};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	plx_rig_close(&rig);
	assert_int_equal(plx_rig_open(&rig, &cfg, 1, NULL), 0);
	memcpy(cli.server.mac, rig.port.net.mac, 6);
	plx_rig_say(&cli, PLX_T_PING, 0, &ping, sizeof(ping));
	plx_rig_turn(&rig, 1000);
	uint32_t n = plx_rig_get(&cli, buf, sizeof(buf));

	assert_int_equal(n, PLX_RESET_BYTES);
	assert_int_equal(plx_reset_check(buf, n, cli.ack.session_id, cli.ack.reset_token), 0);
}

static void test_io_frees_a_silent_client(void **state)
{
	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	(void)ask("slow");
	struct plx_req *r = plx_rig_take(&rig, 0);

	for (int i = 0; i < 40; i++)
		plx_rig_turn(&rig, 100 * PLX_NS_PER_MS);
	assert_int_equal(plx_stage_io_sessions(rig.io[0]), 0);
	assert_int_equal(count(PLX_M_SESSION_IDLE), 1);
	assert_int_equal(atomic_load(&r->cancel), PLX_CANCEL_CLIENT);
	r->res.kind = PLX_FINAL_CANCELLED;
	plx_rig_event(&rig, r, PLX_EV_FINAL);
	plx_rig_turn(&rig, 1000);
	assert_int_equal(plx_req_busy(&rig.links), 0);
	assert_int_equal(count(PLX_M_REQ_STALE), 1);
}

static void test_io_close_frees_at_once(void **state)
{
	struct plx_msg_close bye = {.code = PLX_CLOSE_DONE};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	plx_rig_say(&cli, PLX_T_CLOSE, 0, &bye, sizeof(bye));
	plx_rig_turn(&rig, 1000);
	assert_int_equal(plx_stage_io_sessions(rig.io[0]), 0);
	/* The place can be used again, under another id. */
	struct plx_rig_client two;

	plx_rig_client_init(&two, &rig, 0, NULL, 40001);
	assert_int_equal(plx_rig_connect(&two), 0);
	assert_int_not_equal(two.ack.session_id, cli.ack.session_id);
	assert_int_equal(two.ack.session_id & 0xffff, cli.ack.session_id & 0xffff);
	plx_rig_client_end(&two);
}

static void test_io_follows_a_new_address_after_a_challenge(void **state)
{
	struct plx_msg_ping ping = {.token = 9};
	struct plx_msg_path path;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	struct plx_net_if old = cli.net;

	cli.net.udp_port = 41000;
	plx_rig_say(&cli, PLX_T_PING, 0, &ping, sizeof(ping));
	plx_rig_turn(&rig, 1000);
	assert_true(plx_rig_hear(&cli, &hdr, buf)); /* at the new address: the challenge alone */
	assert_int_equal(hdr.type, PLX_T_PATH_CHALLENGE);
	assert_int_equal(
	    plx_msg_get(PLX_T_PATH_CHALLENGE, &path, sizeof(path), buf, hdr.payload_bytes), 0);
	assert_false(plx_rig_hear(&cli, &hdr, buf));
	struct plx_net_if moved = cli.net;

	cli.net = old;
	assert_true(
	    plx_rig_expect(&cli, PLX_T_PONG, &hdr, buf)); /* the answer goes to the old one */
	cli.net = moved;
	plx_rig_say(&cli, PLX_T_PATH_RESPONSE, 0, &path, sizeof(path));
	plx_rig_say(&cli, PLX_T_PING, 0, &ping, sizeof(ping));
	assert_true(plx_rig_expect(&cli, PLX_T_PONG, &hdr, buf));
	assert_int_equal(count(PLX_M_SESSION_MOVED), 1);
}

static void test_io_new_address_gets_three_times_at_most(void **state)
{
	struct plx_msg_ping ping = {.token = 9};
	uint32_t sent = PLX_SEAL_BYTES + sizeof(ping), got = 0, n;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	cli.net.udp_port = 41000;
	plx_rig_say(&cli, PLX_T_PING, 0, &ping, sizeof(ping));
	for (int i = 0; i < 200; i++) {
		plx_rig_turn(&rig, 10 * PLX_NS_PER_MS);
		while ((n = plx_rig_get(&cli, buf, sizeof(buf))) > 0)
			got += n;
	}
	assert_true(got > 0);
	assert_true(got <= 3 * sent);
}

static void test_io_refuses_when_the_pool_is_empty(void **state)
{
	struct plx_rig_client c[3];
	struct plx_msg_reject rej;
	const char *detail;
	uint8_t msg[600];
	uint32_t n = plx_rig_req(msg, sizeof(msg), "x", 1);

	(void)state;
	for (int i = 0; i < 3; i++) {
		plx_rig_client_init(&c[i], &rig, 0, NULL, (uint16_t)(42000 + i));
		assert_int_equal(plx_rig_connect(&c[i]), 0);
	}
	for (uint64_t id = 1; id <= 4; id++)
		for (int i = 0; i < 2; i++)
			plx_rig_say(&c[i], PLX_T_REQ, id, msg, n);
	plx_rig_turn(&rig, 1000);
	plx_rig_say(&c[2], PLX_T_REQ, 1, msg, n);
	assert_true(plx_rig_expect(&c[2], PLX_T_REJECT, &hdr, buf));
	assert_int_equal(plx_msg_reject_decode(&rej, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(rej.code, plx_err_wire(PLX_E_QUEUE_FULL));
	assert_true(rej.retry_after_us >= 1000);
	for (int i = 0; i < 3; i++)
		plx_rig_client_end(&c[i]);
}

/* How many DRAINs the client gets in so many turns of 10 ms. */
static uint32_t drains(int n_turns)
{
	uint32_t n = 0;

	for (int i = 0; i < n_turns; i++) {
		plx_rig_turn(&rig, 10 * PLX_NS_PER_MS);
		while (plx_rig_hear(&cli, &hdr, buf))
			n += hdr.type == PLX_T_DRAIN;
	}
	return n;
}

static void test_io_draining_refuses_and_tells(void **state)
{
	struct plx_msg_reject rej;
	const char *detail;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	plx_rig_ack(&cli, PLX_T_MODELS, 0);
	atomic_store(&rig.links.drain, 1);
	assert_true(plx_rig_expect(&cli, PLX_T_DRAIN, &hdr, buf));
	assert_true(drains(20) > 0); /* until it is acknowledged */
	plx_rig_ack(&cli, PLX_T_DRAIN, 0);
	assert_int_equal(drains(100), 0);
	(void)ask("no");
	assert_true(plx_rig_expect(&cli, PLX_T_REJECT, &hdr, buf));
	assert_int_equal(plx_msg_reject_decode(&rej, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(rej.code, plx_err_wire(PLX_E_DRAINING));
	plx_stage_io_farewell(rig.io[0], rig.now_ns);
	assert_true(plx_rig_expect(&cli, PLX_T_CLOSE, &hdr, buf));
}

static void test_io_tokens_wait_for_company(void **state)
{
	struct plx_msg_tokens_view v;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	(void)ask("x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	while (plx_rig_hear(&cli, &hdr, buf))
		;
	plx_rig_tokens(&rig, r, 0, 1, "a", false);
	plx_rig_turn(&rig, 1000);
	assert_true(plx_rig_hear(&cli, &hdr, buf)); /* the first leaves at once */
	assert_int_equal(hdr.type, PLX_T_TOKENS);
	for (uint32_t i = 1; i < 5; i++)
		plx_rig_tokens(&rig, r, i, (int32_t)i + 1, "b", false);
	plx_rig_turn(&rig, 1000);
	assert_false(plx_rig_hear(&cli, &hdr, buf));
	plx_rig_turn(&rig, 300000);
	assert_true(plx_rig_hear(&cli, &hdr, buf));
	assert_int_equal(plx_msg_tokens_decode(&v, buf, hdr.payload_bytes), 0);
	assert_int_equal(v.m.first_idx, 1);
	assert_int_equal(v.m.count, 4);
	assert_int_equal(v.m.text_bytes, 4);
	assert_memory_equal(v.text, "bbbb", 4);
	assert_int_equal(plx_get_u32(v.ids + 12), 5);
}

static void test_io_cancels_for_a_client_that_does_not_read(void **state)
{
	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	(void)ask("x");
	struct plx_req *r = plx_rig_take(&rig, 0);
	struct plx_msg_ping ping = {.token = 1};

	for (uint32_t i = 0; i < 64; i++) {
		plx_rig_tokens(&rig, r, i, 1, "a", false);
		plx_rig_turn(&rig, 10000);
	}
	for (int i = 0; i < 30 && atomic_load(&r->cancel) == 0; i++) {
		plx_rig_say(&cli, PLX_T_PING, 0, &ping, sizeof(ping)); /* alive, but not reading */
		plx_rig_turn(&rig, 100 * PLX_NS_PER_MS);
		while (plx_rig_hear(&cli, &hdr, buf))
			;
	}
	assert_int_equal(atomic_load(&r->cancel), PLX_CANCEL_SLOW);
	assert_int_equal(count(PLX_M_REQ_SLOW), 1);
}

static void test_io_window_notes_follow_acknowledgements(void **state)
{
	struct plx_note note;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = ask("x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", false);
	plx_rig_turn(&rig, 1000);
	tok_ack(id, 1, 0);
	assert_true(plx_ring_note_pop(&rig.links.io_note[0], &note));
	assert_int_equal(note.req_idx, r->idx);
	assert_int_equal(note.next, 65);
	tok_ack(id, 9, 0); /* tokens that were never made */
	assert_false(plx_ring_note_pop(&rig.links.io_note[0], &note));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_io_handshake_then_ping),
	    T(test_io_same_hello_same_answer),
	    T(test_io_is_silent_to_a_wrong_mac),
	    T(test_io_carries_a_request_and_its_answer),
	    T(test_io_limits_are_the_schedulers),
	    T(test_io_limits_beyond_the_context),
	    T(test_io_resumes_behind_what_the_client_has),
	    T(test_io_says_when_a_session_goes),
	    T(test_io_repeats_until_acknowledged),
	    T(test_io_probes_more_after_each_timeout),
	    T(test_io_counts_what_it_repeated_in_vain),
	    T(test_io_end_without_id_is_kept_until_told),
	    T(test_io_runs_a_request_once),
	    T(test_io_refuses_below_the_window),
	    T(test_io_holds_clients_to_their_credit),
	    T(test_io_names_the_option_it_refuses),
	    T(test_io_puts_fragments_together),
	    T(test_io_rejects_what_does_not_arrive_whole),
	    T(test_io_refuses_what_is_too_large_at_its_first_fragment),
	    T(test_io_gives_up_on_half_a_request),
	    T(test_io_hears_acknowledgements_below_the_window),
	    T(test_io_cancel_may_overtake),
	    T(test_io_cancel_reaches_a_running_request),
	    T(test_io_drops_tampered_replayed_truncated),
	    T(test_io_resets_an_unknown_session),
	    T(test_io_reset_after_a_restart_is_believed),
	    T(test_io_frees_a_silent_client),
	    T(test_io_close_frees_at_once),
	    T(test_io_follows_a_new_address_after_a_challenge),
	    T(test_io_new_address_gets_three_times_at_most),
	    T(test_io_refuses_when_the_pool_is_empty),
	    T(test_io_draining_refuses_and_tells),
	    T(test_io_tokens_wait_for_company),
	    T(test_io_cancels_for_a_client_that_does_not_read),
	    T(test_io_window_notes_follow_acknowledgements),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
