/* The io stage: requests and their answers, from packet to packet. */
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

static void test_io_carries_a_request_and_its_answer(void **state)
{
	struct plx_msg_tokens_view v;
	struct plx_msg_done done;
	struct plx_msg_done_sample ds[PLX_SAMPLES_MAX];
	struct plx_msg_done_tail dc;
	struct plx_msg_accept acc;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = plx_rig_ask(&cli, "hello");
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
	plx_rig_done(&rig, r, 2);
	assert_true(plx_rig_expect(&cli, PLX_T_TOKENS, &hdr, buf));
	assert_int_equal(plx_msg_tokens_decode(&v, buf, hdr.payload_bytes), 0);
	assert_int_equal(v.m.first_idx, 1);
	assert_int_equal(v.m.flags, PLX_TOKENS_LAST);
	assert_true(plx_rig_expect(&cli, PLX_T_DONE, &hdr, buf));
	assert_int_equal(plx_msg_done_decode(&done, ds, &dc, buf, hdr.payload_bytes), 0);
	assert_int_equal(done.n_samples, 1);
	assert_int_equal(done.numeric_kind, 7);
	assert_int_equal(ds[0].n_tokens, 2);
	assert_int_equal(plx_req_busy(&rig.links), 0);

	plx_rig_ack(&cli, PLX_T_ACCEPT, id);
	plx_rig_ack(&cli, PLX_T_DONE, id);
	plx_rig_tok_ack(&cli, id, 2, PLX_TOK_ACK_LAST);
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
	struct plx_msg_done_tail dc;
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
	plx_rig_tok_ack(&cli, id, 4, 0);
	assert_true(plx_ring_note_pop(&rig.links.io_note[0], &note));
	assert_int_equal(note.next, 4 + rig.cfg.lim.unacked_tokens);
	plx_rig_tokens(&rig, r, 4, 44, ".", true);
	plx_rig_done(&rig, r, 5);
	assert_true(plx_rig_expect(&cli, PLX_T_DONE, &hdr, buf));
	assert_int_equal(plx_msg_done_decode(&done, ds, &dc, buf, hdr.payload_bytes), 0);
	assert_int_equal(ds[0].n_tokens, 5);
}

static void test_io_says_when_a_session_goes(void **state)
{
	struct plx_msg_close bye = {.code = PLX_CLOSE_DONE};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	plx_rig_ask(&cli, "hello");
	uint32_t id = plx_rig_take(&rig, 0)->session_id;

	assert_true(plx_session_marked(&rig.links, 0, id));
	assert_false(plx_session_marked(&rig.links, 0, id + 0x10000)); /* the place's next one */
	plx_rig_say(&cli, PLX_T_CLOSE, 0, &bye, sizeof(bye));
	plx_rig_turn(&rig, 1000);
	assert_false(plx_session_marked(&rig.links, 0, id));
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
	plx_rig_done(&rig, r, 0);
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
	(void)plx_rig_ask(&cli, "late"); /* id 1 */
	assert_null(plx_rig_take(&rig, 0));
	assert_int_equal(count(PLX_M_REQ_TOMBSTONES), 1);
	(void)plx_rig_ask(&cli, "next"); /* id 2 runs */
	assert_non_null(plx_rig_take(&rig, 0));
}

static void test_io_cancel_reaches_a_running_request(void **state)
{
	struct plx_msg_cancel c = {.packets = 1};

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	uint64_t id = plx_rig_ask(&cli, "run");
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

static void test_io_tokens_wait_for_company(void **state)
{
	struct plx_msg_tokens_view v;

	(void)state;
	assert_int_equal(plx_rig_connect(&cli), 0);
	(void)plx_rig_ask(&cli, "x");
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
	(void)plx_rig_ask(&cli, "x");
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
	uint64_t id = plx_rig_ask(&cli, "x");
	struct plx_req *r = plx_rig_take(&rig, 0);

	plx_rig_tokens(&rig, r, 0, 1, "a", false);
	plx_rig_turn(&rig, 1000);
	plx_rig_tok_ack(&cli, id, 1, 0);
	assert_true(plx_ring_note_pop(&rig.links.io_note[0], &note));
	assert_int_equal(note.req_idx, r->idx);
	assert_int_equal(note.next, 65);
	plx_rig_tok_ack(&cli, id, 9, 0); /* tokens that were never made */
	assert_false(plx_ring_note_pop(&rig.links.io_note[0], &note));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_io_carries_a_request_and_its_answer),
	    T(test_io_resumes_behind_what_the_client_has),
	    T(test_io_says_when_a_session_goes),
	    T(test_io_runs_a_request_once),
	    T(test_io_cancel_may_overtake),
	    T(test_io_cancel_reaches_a_running_request),
	    T(test_io_tokens_wait_for_company),
	    T(test_io_cancels_for_a_client_that_does_not_read),
	    T(test_io_window_notes_follow_acknowledgements),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
