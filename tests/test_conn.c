/* Two ends of a session: packet numbers, epochs, replay, acknowledgements, address change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/conn.h"

#define MS(n) ((n)*UINT64_C(1000000))

static struct plx_crypt x;
static struct plx_wire_conn cli, app;

static int setup(void **state)
{
	const struct plx_wire_limits lim = {.retx_floor_us = 1000, .max_ack_delay_us = 500};
	struct plx_hs_keys keys = {.secret_c2a = {1}, .secret_a2c = {2}};

	(void)state;
	if (!x.ciphers && plx_crypt_open(&x, true, NULL))
		return -1;
	keys.cipher = (enum plx_cipher)plx_crypt_pick(x.ciphers, 6);
	plx_conn_init(&cli, &x, PLX_SIDE_CLIENT, 11, 22, &keys, &lim, MS(1));
	plx_conn_init(&app, &x, PLX_SIDE_APPLIANCE, 22, 11, &keys, &lim, MS(1));
	return 0;
}

static int ping(struct plx_wire_conn *c, uint8_t *pkt, uint8_t flags, uint64_t now_ns)
{
	struct plx_msg_ping m = {.token = 0x1122334455667788};
	struct plx_hdr h = {.type = PLX_T_PING,
	                    .frag_count = 1,
	                    .payload_bytes = 8,
	                    .prio_flags = plx_hdr_pack_prio(0, flags)};

	plx_msg_put(PLX_T_PING, pkt + PLX_HDR_BYTES, 8, &m, sizeof(m));
	return plx_conn_seal(c, &x, &h, pkt, now_ns);
}

static void test_conn_seals_and_opens_once(void **state)
{
	uint8_t pkt[64], copy[64];
	struct plx_hdr h;
	struct plx_msg_ping m;

	(void)state;
	assert_int_equal(ping(&cli, pkt, 0, MS(2)), 56);
	memcpy(copy, pkt, 56);
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 56, MS(3)), 0);
	assert_int_equal(h.pkt_num, 1);
	assert_int_equal(h.session_id, 22);
	assert_int_equal(plx_msg_get(h.type, &m, sizeof(m), pkt + 32, h.payload_bytes), 0);
	assert_int_equal(m.token, 0x1122334455667788);
	assert_int_equal(plx_conn_open(&app, &x, &h, copy, 56, MS(3)), PLX_E_REPLAY);
	assert_int_equal(app.n_replay, 1);
	assert_int_equal(app.rx_last_ns, MS(3));
}

static void test_conn_refuses_what_is_not_for_it(void **state)
{
	uint8_t pkt[64];
	struct plx_hdr h;

	(void)state;
	ping(&cli, pkt, 0, MS(2));
	assert_int_equal(plx_conn_open(&cli, &x, &h, pkt, 56, MS(2)), PLX_E_FORMAT);
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 55, MS(2)), PLX_E_FORMAT);
	pkt[31] = 5; /* an epoch nobody has */
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 56, MS(2)), PLX_E_AUTH);
	assert_int_equal(app.n_epoch_fail, 1);
	pkt[31] = 1; /* the next epoch, but not sealed with it */
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 56, MS(2)), PLX_E_AUTH);
	assert_int_equal(app.n_auth_fail, 1);
	assert_int_equal(app.rx_epoch, 0);
	plx_conn_wipe(&app);
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 56, MS(2)), PLX_E_CLOSED);
	assert_int_equal(ping(&app, pkt, 0, MS(2)), PLX_E_CLOSED);
}

/* A forged packet must not use up the number of a true one. */
static void test_conn_moves_window_only_after_open(void **state)
{
	uint8_t pkt[64], bad[64];
	struct plx_hdr h;

	(void)state;
	ping(&cli, pkt, 0, MS(2));
	memcpy(bad, pkt, 56);
	bad[50] ^= 1;
	assert_int_equal(plx_conn_open(&app, &x, &h, bad, 56, MS(2)), PLX_E_AUTH);
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 56, MS(2)), 0);
}

static void pass(struct plx_wire_conn *from, struct plx_wire_conn *to, uint64_t now_ns)
{
	uint8_t pkt[64];
	struct plx_hdr h;

	assert_int_equal(ping(from, pkt, 0, now_ns), 56);
	assert_int_equal(plx_conn_open(to, &x, &h, pkt, 56, now_ns), 0);
}

static void acknowledge(struct plx_wire_conn *from, struct plx_wire_conn *to, uint64_t now_ns)
{
	struct plx_msg_ack_head h = plx_conn_ack_fill(from, 0, now_ns);

	plx_conn_acked(to, &h, now_ns);
}

static void test_conn_rekeys_through_twenty_epochs(void **state)
{
	(void)state;
	cli.rekey_after = 5;
	for (uint64_t i = 0; i < 100; i++) {
		pass(&cli, &app, MS(i + 2));
		acknowledge(&app, &cli, MS(i + 2));
	}
	assert_int_equal(cli.tx_epoch, 19);
	assert_int_equal(app.rx_epoch, 19);
	assert_int_equal(app.n_auth_fail, 0);
	assert_int_equal(app.tx_epoch, 0); /* the other direction is independent */
	pass(&app, &cli, MS(200));
}

static void test_conn_does_not_rekey_unacknowledged(void **state)
{
	uint8_t pkt[64];

	(void)state;
	assert_int_equal(plx_conn_rekey(&cli, &x), PLX_E_AGAIN);
	cli.rekey_after = 2;
	for (int i = 0; i < 5; i++)
		ping(&cli, pkt, 0, MS(2));
	assert_int_equal(cli.tx_epoch, 0);
	assert_int_equal(pkt[30] >> 4, PLX_F_ACK_REQ); /* it asks for what it waits for */
	cli.tx_pkt_num = cli.tx_first + PLX_EPOCH_LIMIT - 1;
	assert_int_equal(ping(&cli, pkt, 0, MS(2)), PLX_E_LIMIT);
}

static void test_conn_keeps_the_epoch_before_for_a_while(void **state)
{
	uint8_t late[64], later[64];
	struct plx_hdr h;

	(void)state;
	pass(&cli, &app, MS(2));
	acknowledge(&app, &cli, MS(2));
	ping(&cli, late, 0, MS(2));
	ping(&cli, later, 0, MS(2));
	assert_int_equal(plx_conn_rekey(&cli, &x), 0);
	pass(&cli, &app, MS(3));
	assert_int_equal(app.rx_epoch, 1);
	assert_int_equal(plx_conn_open(&app, &x, &h, late, 56, MS(4)), 0);
	/* No round trip is known: 3 timeouts are 3 * 10 * floor = 30 ms. */
	assert_int_equal(plx_conn_open(&app, &x, &h, later, 56, MS(33)), PLX_E_AUTH);
	assert_int_equal(app.n_epoch_fail, 1);
}

static void test_conn_window_spans_epochs(void **state)
{
	uint8_t pkt[64], copy[64];
	struct plx_hdr h;

	(void)state;
	ping(&cli, pkt, 0, MS(2));
	memcpy(copy, pkt, 56);
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 56, MS(2)), 0);
	acknowledge(&app, &cli, MS(2));
	assert_int_equal(plx_conn_rekey(&cli, &x), 0);
	pass(&cli, &app, MS(3));
	assert_int_equal(plx_conn_open(&app, &x, &h, copy, 56, MS(3)), PLX_E_REPLAY);
}

static void test_conn_acks_in_one_packet_and_samples(void **state)
{
	uint8_t pkt[1200];
	struct plx_hdr h;
	struct plx_msg_ack_head head;
	struct plx_msg_ack_entry e[PLX_ACK_MAX], one = {.req_id = 7, .type = PLX_T_REQ};

	(void)state;
	assert_int_equal(ping(&cli, pkt, PLX_F_ACK_REQ, MS(10)), 56);
	assert_int_equal(plx_conn_open(&app, &x, &h, pkt, 56, MS(11)), 0);
	plx_conn_ack(&app, &one, false, MS(11));
	one.first_missing = 3;
	plx_conn_ack(&app, &one, false, MS(11)); /* replaces */
	one.req_id = 8;
	plx_conn_ack(&app, &one, false, MS(11));
	assert_int_equal(plx_conn_ack_flush(&app, &x, pkt, sizeof(pkt), MS(11)), 0);
	int n = plx_conn_ack_flush(&app, &x, pkt, sizeof(pkt), MS(11) + 500000);

	assert_int_equal(n, 48 + 16 + 2 * 24);
	assert_int_equal(plx_conn_open(&cli, &x, &h, pkt, (size_t)n, MS(13)), 0);
	assert_int_equal(h.type, PLX_T_ACK);
	assert_int_equal(plx_msg_ack_decode(&head, e, pkt + 32, h.payload_bytes), 0);
	assert_int_equal(head.largest_pkt_num, 1);
	assert_int_equal(head.ack_delay_us, 500);
	assert_int_equal(head.n_entries, 2);
	assert_int_equal(e[0].req_id, 7);
	assert_int_equal(e[0].first_missing, 3);
	plx_conn_acked(&cli, &head, MS(13));
	assert_int_equal(cli.rtt.n_samples, 1);
	assert_int_equal(cli.rtt.srtt_ns, MS(3));
	plx_conn_acked(&cli, &head, MS(99)); /* said before: no sample */
	head.largest_pkt_num = 1000;         /* never sent: no sample */
	plx_conn_acked(&cli, &head, MS(99));
	assert_int_equal(cli.rtt.n_samples, 1);
	assert_int_equal(plx_conn_ack_flush(&app, &x, pkt, sizeof(pkt), MS(99)), 0);
	plx_conn_ack_head(&app, MS(99));
	assert_int_equal(plx_conn_ack_flush(&app, &x, pkt, sizeof(pkt), MS(99)), 48 + 16);
}

static void test_path_moves_only_after_an_answer(void **state)
{
	static const uint8_t ip_a[4] = {10, 0, 0, 1}, ip_b[4] = {10, 0, 0, 9};
	struct plx_wire_addr a = plx_wire_addr_v4(ip_a, 1), b = plx_wire_addr_v4(ip_b, 2);
	struct plx_path p;

	(void)state;
	plx_path_init(&p, &a);
	assert_false(plx_path_seen(&p, &a, 100, true, 5));
	assert_false(plx_path_seen(&p, &b, 100, false, 5)); /* an old packet */
	assert_true(plx_path_seen(&p, &b, 100, true, 5));
	assert_false(plx_path_seen(&p, &b, 60, true, 6)); /* asked already */
	assert_true(plx_path_may_send(&p, 400));
	assert_false(plx_path_may_send(&p, 81)); /* 3 * 160 = 480 */
	assert_true(plx_path_may_send(&p, 80));
	assert_false(plx_path_response(&p, &b, 6));
	assert_false(plx_path_response(&p, &a, 5));
	assert_true(plx_wire_addr_equal(&p.addr, &a));
	assert_true(plx_path_response(&p, &b, 5));
	assert_true(plx_wire_addr_equal(&p.addr, &b));
	assert_int_equal(p.n_moved, 1);
	assert_false(plx_path_response(&p, &b, 5));
}

static void test_path_gives_up_on_silence(void **state)
{
	static const uint8_t ip[4] = {10, 0, 0, 1};
	struct plx_wire_addr a = plx_wire_addr_v4(ip, 1), b = plx_wire_addr_v4(ip, 2);
	struct plx_path p;
	uint64_t now = MS(1);
	int repeats = 0;

	(void)state;
	plx_path_init(&p, &a);
	assert_true(plx_path_seen(&p, &b, 100, true, 5));
	for (int i = 0; i < 100; i++, now += MS(10))
		repeats += plx_path_poll(&p, &cli.rtt, now);
	assert_int_equal(repeats, 2);
	assert_int_equal(p.n_failed, 1);
	assert_true(plx_path_seen(&p, &b, 100, true, 6)); /* may try again */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_conn_seals_and_opens_once, setup),
	    cmocka_unit_test_setup(test_conn_refuses_what_is_not_for_it, setup),
	    cmocka_unit_test_setup(test_conn_moves_window_only_after_open, setup),
	    cmocka_unit_test_setup(test_conn_rekeys_through_twenty_epochs, setup),
	    cmocka_unit_test_setup(test_conn_does_not_rekey_unacknowledged, setup),
	    cmocka_unit_test_setup(test_conn_keeps_the_epoch_before_for_a_while, setup),
	    cmocka_unit_test_setup(test_conn_window_spans_epochs, setup),
	    cmocka_unit_test_setup(test_conn_acks_in_one_packet_and_samples, setup),
	    cmocka_unit_test_setup(test_path_moves_only_after_an_answer, setup),
	    cmocka_unit_test_setup(test_path_gives_up_on_silence, setup),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	plx_crypt_close(&x);
	return rc;
}
