/* The io stage: requests that come in fragments, whole or not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_io_puts_fragments_together),
	    T(test_io_rejects_what_does_not_arrive_whole),
	    T(test_io_refuses_what_is_too_large_at_its_first_fragment),
	    T(test_io_gives_up_on_half_a_request),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
