/* The io stage: what it refuses, and that its limits are those of handshake and scheduler. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

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

static uint32_t add_flags; /* of the request; enum plx_req_flag */

static const struct plx_batch_dev no_dev;

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
	e = plx_fleet_add(&b->fleet, 0, &job, 1, &admit);
	if (!e) {
		b->live[b->n_live++] = 0;
		b->place[0] = 0;
		plx_fleet_cancel(&b->fleet, 0, PLX_CANCEL_CLIENT, 1);
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
	struct plx_page page = {0};
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
	assert_int_equal(plx_stage_batch_init(&b, &rig.links, &arena, &no_dev, &model, &page, &d),
	                 0);
	assert_int_equal(l->max_prompt_tokens, 199);
	assert_int_equal(b.fleet.dev[0].sched.conf.max_prompt, 199);
	assert_int_equal(l->max_new, b.fleet.dev[0].sched.conf.max_new);
	assert_int_equal(l->token_window, b.fleet.dev[0].sched.conf.window);
	assert_true(l->max_prompt_tokens < b.fleet.dev[0].sched.conf.ctx_tokens);
	assert_true(l->max_samples <= b.fleet.dev[0].sched.conf.n_slots);
	assert_true(l->max_samples <= b.fleet.dev[0].sched.conf.step_seqs);
	assert_true(l->max_priority < PLX_SCHED_PRIORITIES);
	assert_true(l->max_in_flight <= b.fleet.dev[0].sched.conf.n_keys);
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
	struct plx_page page = {0};
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
	assert_int_equal(plx_stage_batch_init(&b, &rig.links, &arena, &no_dev, &model, &page, &d),
	                 0);
	assert_int_equal(l->max_prompt_tokens, 256);
	assert_int_equal(b.fleet.dev[0].sched.conf.max_prompt, 256);
	assert_int_equal(b.fleet.dev[0].sched.conf.ctx_tokens, 64);
	assert_int_equal(decode_and_add(&b, 63, 1, 1), 0);
	assert_int_equal(decode_and_add(&b, 64, 1, 1), PLX_E_TOO_LARGE);
	add_flags = PLX_REQ_COMPRESS;
	assert_int_equal(decode_and_add(&b, 64, 1, 1), 0);
	assert_int_equal(decode_and_add(&b, 256, l->max_new, l->max_samples), 0);
	assert_int_equal(decode_and_add(&b, 257, 1, 1), PLX_E_TOO_LARGE);
	add_flags = 0;
	plx_arena_close(&arena);
}

static void test_io_refuses_below_the_window(void **state)
{
	struct plx_msg_reject m;
	const char *detail;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	cli.next_req = 16;
	(void)plx_rig_ask(&cli, "a");
	struct plx_req *r = plx_rig_take(&rig, 0);

	assert_non_null(r);
	cli.next_req = 17;
	(void)plx_rig_ask(&cli, "b");
	assert_non_null(plx_rig_take(&rig, 0));
	cli.next_req = 1; /* 16 below 17: outside the span of 4 * 4 */
	(void)plx_rig_ask(&cli, "c");
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
		(void)plx_rig_ask(&cli, "q");
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
	(void)plx_rig_ask(&cli, "no");
	assert_true(plx_rig_expect(&cli, PLX_T_REJECT, &hdr, buf));
	assert_int_equal(plx_msg_reject_decode(&rej, &detail, buf, hdr.payload_bytes), 0);
	assert_int_equal(rej.code, plx_err_wire(PLX_E_DRAINING));
	plx_stage_io_farewell(rig.io[0], rig.now_ns);
	assert_true(plx_rig_expect(&cli, PLX_T_CLOSE, &hdr, buf));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_io_limits_are_the_schedulers),   T(test_io_limits_beyond_the_context),
	    T(test_io_refuses_below_the_window),    T(test_io_holds_clients_to_their_credit),
	    T(test_io_names_the_option_it_refuses), T(test_io_refuses_when_the_pool_is_empty),
	    T(test_io_draining_refuses_and_tells),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
