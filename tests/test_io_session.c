/* The io stage: how sessions begin, move and end, and packets that are none of theirs. */
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
	(void)plx_rig_ask(&cli, "slow");
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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_io_handshake_then_ping),
	    T(test_io_same_hello_same_answer),
	    T(test_io_is_silent_to_a_wrong_mac),
	    T(test_io_drops_tampered_replayed_truncated),
	    T(test_io_resets_an_unknown_session),
	    T(test_io_reset_after_a_restart_is_believed),
	    T(test_io_frees_a_silent_client),
	    T(test_io_close_frees_at_once),
	    T(test_io_follows_a_new_address_after_a_challenge),
	    T(test_io_new_address_gets_three_times_at_most),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
