/* Several io stages, keys with limits, and key files that change under running sessions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataplane/stage_io.h"
#include "fw/base/clock.h"
#include "tests/lib/iorig.h"

#define HEX1 "0101010101010101010101010101010101010101010101010101010101010101"
#define HEX2 "0202020202020202020202020202020202020202020202020202020202020202"
#define HEX3 "0303030303030303030303030303030303030303030303030303030303030303"

static struct plx_rig rig;
static uint8_t buf[2048];
static struct plx_hdr hdr;
static char path[64];
static uint8_t psk1[32], psk2[32];

static void write_keys(const char *text)
{
	snprintf(path, sizeof(path), "/tmp/plx-many-%d", getpid());
	unlink(path);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static int setup(void **state)
{
	struct plx_config cfg = plx_rig_config();

	(void)state;
	memset(psk1, 1, sizeof(psk1));
	memset(psk2, 2, sizeof(psk2));
	write_keys("id=a key=" HEX1 " tenant=one sessions=2 requests=2 priority=3 kv_percent=25\n"
	           "id=b key=" HEX2 " tenant=two share_prefix=yes\n");
	return plx_rig_open(&rig, &cfg, 2, path);
}

static int teardown(void **state)
{
	(void)state;
	plx_rig_close(&rig);
	unlink(path);
	return 0;
}

static void ask(struct plx_rig_client *c, uint8_t prio)
{
	uint8_t msg[600];
	uint32_t n = plx_rig_req(msg, sizeof(msg), "hi", 2);
	struct plx_hdr h = {
	    .type = PLX_T_REQ, .req_id = c->next_req++, .prio_flags = plx_hdr_pack_prio(prio, 0)};

	(void)plx_rig_send(c, &h, msg, n);
	plx_rig_turn(&rig, 1000);
	plx_rig_turn(&rig, 1000);
}

static void test_io_packet_goes_to_its_owner(void **state)
{
	struct plx_rig_client c;
	struct plx_req *r;

	(void)state;
	plx_rig_client_init(&c, &rig, 0xb, psk2, 40000);
	c.queue = 1;
	assert_int_equal(plx_rig_connect(&c), 0);
	assert_int_equal(c.ack.session_id >> 28, 1);
	c.queue = 0; /* the client's flow now hashes to the other queue */
	ask(&c, 0);
	assert_null(plx_rig_take(&rig, 0));
	r = plx_rig_take(&rig, 1);
	assert_non_null(r);
	assert_int_equal(r->io_idx, 1);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_IO_FOREIGN), 1);
	plx_rig_tokens(&rig, r, 0, 7, "x", true);
	assert_true(plx_rig_expect(&c, PLX_T_TOKENS, &hdr, buf));
	plx_rig_client_end(&c);
}

static void test_io_unknown_owner_is_reset(void **state)
{
	struct plx_rig_client c;
	struct plx_msg_ping ping = {.token = 1};

	(void)state;
	plx_rig_client_init(&c, &rig, 0xb, psk2, 40000);
	assert_int_equal(plx_rig_connect(&c), 0);
	c.conn.peer_id = 0xf0000001u; /* io stage 15 of two */
	plx_rig_say(&c, PLX_T_PING, 0, &ping, sizeof(ping));
	plx_rig_turn(&rig, 1000);
	assert_int_equal(plx_rig_get(&c, buf, sizeof(buf)), PLX_RESET_BYTES);
	c.conn.peer_id = 0x10000001u; /* stage 1, which has no such session either */
	plx_rig_say(&c, PLX_T_PING, 0, &ping, sizeof(ping));
	plx_rig_turn(&rig, 1000);
	plx_rig_turn(&rig, 1000);
	assert_int_equal(plx_rig_get(&c, buf, sizeof(buf)), PLX_RESET_BYTES);
	plx_rig_client_end(&c);
}

static void test_io_key_limits_rule(void **state)
{
	struct plx_rig_client c[3];
	struct plx_req *r;

	(void)state;
	for (int i = 0; i < 3; i++)
		plx_rig_client_init(&c[i], &rig, 0xa, psk1, (uint16_t)(40000 + i));
	c[1].queue = 1; /* the limit holds over all stages */
	assert_int_equal(plx_rig_connect(&c[0]), 0);
	assert_int_equal(plx_rig_connect(&c[1]), 0);
	assert_int_equal(plx_rig_connect(&c[2]), -1);
	assert_true(plx_rig_count(&rig, 0, PLX_M_HS_KEY_FULL) >= 1);
	assert_int_equal(c[0].ack.limits.max_in_flight, 2);
	assert_int_equal(c[0].ack.limits.max_priority, 3);
	ask(&c[0], 9);
	r = plx_rig_take(&rig, 0);
	assert_non_null(r);
	assert_int_equal(r->priority, 3);
	assert_int_equal(r->tenant, 0);
	assert_int_equal(r->tenant_kv_blocks, 25);
	assert_false(r->share_prefix);
	struct plx_msg_close bye = {0};

	plx_rig_say(&c[1], PLX_T_CLOSE, 0, &bye, sizeof(bye));
	plx_rig_turn(&rig, 1000);
	plx_rig_client_end(&c[2]);
	plx_rig_client_init(&c[2], &rig, 0xa, psk1, 40009);
	assert_int_equal(plx_rig_connect(&c[2]), 0);
	for (int i = 0; i < 3; i++)
		plx_rig_client_end(&c[i]);
}

static void test_io_wrong_key_meets_silence(void **state)
{
	struct plx_rig_client c;

	(void)state;
	plx_rig_client_init(&c, &rig, 0xa, psk2, 40000);
	assert_int_equal(plx_rig_connect(&c), -1);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_HS_BAD_MAC), 1);
	plx_rig_client_end(&c);
	plx_rig_client_init(&c, &rig, 0xc, psk2, 40000);
	assert_int_equal(plx_rig_connect(&c), -1);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_HS_NO_KEY), 1);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_IO_TX), 0);
	plx_rig_client_end(&c);
}

static void test_io_removed_key_closes_its_sessions(void **state)
{
	struct plx_rig_client gone, stays, changed;
	struct plx_msg_close bye;
	struct plx_diag d = {0};
	struct plx_req *r;

	(void)state;
	plx_rig_client_init(&gone, &rig, 0xa, psk1, 40000);
	plx_rig_client_init(&stays, &rig, 0xb, psk2, 40001);
	assert_int_equal(plx_rig_connect(&gone), 0);
	assert_int_equal(plx_rig_connect(&stays), 0);
	ask(&gone, 0);
	r = plx_rig_take(&rig, 0);
	write_keys("id=b key=" HEX2 " tenant=two share_prefix=yes\nid=c key=" HEX3 "\n");
	assert_int_equal(plx_keys_reload(&rig.keys, path, &d), 0);
	assert_true(plx_rig_expect(&gone, PLX_T_CLOSE, &hdr, buf));
	assert_int_equal(plx_msg_get(PLX_T_CLOSE, &bye, sizeof(bye), buf, hdr.payload_bytes), 0);
	assert_int_equal(bye.code, PLX_CLOSE_REVOKED);
	assert_int_equal(atomic_load(&r->cancel), PLX_CANCEL_REVOKED);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_SESSION_REVOKED), 1);
	ask(&stays, 0);
	assert_non_null(plx_rig_take(&rig, 0));
	/* All stages have let the old table go: the next reload may free it. */
	write_keys("id=b key=" HEX3 " tenant=two\n");
	assert_int_equal(plx_keys_reload(&rig.keys, path, &d), 0);
	assert_true(plx_rig_expect(&stays, PLX_T_CLOSE, &hdr, buf)); /* same id, another key */
	memset(psk2, 3, sizeof(psk2));
	plx_rig_client_init(&changed, &rig, 0xb, psk2, 40002);
	assert_int_equal(plx_rig_connect(&changed), 0);
	plx_rig_client_end(&gone);
	plx_rig_client_end(&stays);
	plx_rig_client_end(&changed);
}

/* What a key opted in for goes with its requests, and who opts out begins anew at once. */
static void test_io_shared_prefixes_are_the_keys_choice(void **state)
{
	struct plx_rig_client c, d;
	struct plx_diag diag = {0};
	struct plx_req *r;

	(void)state;
	plx_rig_client_init(&c, &rig, 0xb, psk2, 40000);
	assert_int_equal(plx_rig_connect(&c), 0);
	ask(&c, 0);
	r = plx_rig_take(&rig, 0);
	assert_true(r->share_prefix);
	write_keys("id=b key=" HEX2 " tenant=two share_prefix=no\n");
	assert_int_equal(plx_keys_reload(&rig.keys, path, &diag), 0);
	assert_true(plx_rig_expect(&c, PLX_T_CLOSE, &hdr, buf));
	plx_rig_client_init(&d, &rig, 0xb, psk2, 40001);
	assert_int_equal(plx_rig_connect(&d), 0);
	ask(&d, 0);
	assert_false(plx_rig_take(&rig, 0)->share_prefix);
	plx_rig_client_end(&c);
	plx_rig_client_end(&d);
}

static void test_io_half_open_is_capped(void **state)
{
	struct plx_rig_client c[9];
	struct plx_hs_keys keys;
	uint32_t n_acks = 0;

	(void)state;
	for (int i = 0; i < 9; i++) {
		plx_rig_client_init(&c[i], &rig, 0xb, psk2, (uint16_t)(40000 + i));
		plx_hsc_hello(&c[i].hs, buf);
		plx_rig_put(&c[i], buf, PLX_HELLO_BYTES);
		plx_rig_turn(&rig, 1000);
		uint32_t n = plx_rig_get(&c[i], buf, sizeof(buf));

		assert_int_equal(plx_hsc_input(&c[i].hs, &c[i].ack, &keys, buf, n), PLX_E_AGAIN);
		plx_hsc_hello(&c[i].hs, buf);
		plx_rig_put(&c[i], buf, PLX_HELLO_BYTES);
		for (int k = 0; k < 3; k++)
			plx_rig_turn(&rig, 1000);
		n_acks += plx_rig_get(&c[i], buf, sizeof(buf)) > 0;
	}
	assert_int_equal(n_acks, 8);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_HS_HALF_FULL), 1);
	/* They are forgotten after a cookie's life. */
	for (int k = 0; k < 130; k++)
		plx_rig_turn(&rig, 100 * PLX_NS_PER_MS);
	assert_int_equal(plx_stage_io_sessions(rig.io[0]), 0);
	plx_rig_client_end(&c[8]);
	plx_rig_client_init(&c[8], &rig, 0xb, psk2, 40100);
	assert_int_equal(plx_rig_connect(&c[8]), 0);
	for (int i = 0; i < 9; i++)
		plx_rig_client_end(&c[i]);
}

#define STORM 10000u
#define WAVE  100u

/* One of them: what tells it from the others is its port. */
static void be(struct plx_rig_client *c, uint32_t i)
{
	struct plx_net_if net = c->net;

	plx_net_if_init(&c->net, net.mac, net.ip4, net.ip6, (uint16_t)(20000 + i));
}

/* Each of a wave says HELLO; returns how many were answered with `want`. */
static uint32_t wave(struct plx_rig_client *c, struct plx_hs_client *hs, uint32_t first, int want)
{
	struct plx_hello_ack ack;
	struct plx_hs_keys keys;
	uint32_t n_answers = 0;

	for (uint32_t i = 0; i < WAVE; i++) {
		be(c, first + i);
		plx_hsc_hello(&hs[i], buf);
		plx_rig_put(c, buf, PLX_HELLO_BYTES);
	}
	for (uint32_t i = 0; i < 20; i++)
		plx_rig_turn(&rig, 0);
	for (uint32_t i = 0; i < WAVE; i++) {
		be(c, first + i);
		uint32_t n = plx_rig_get(c, buf, sizeof(buf));

		if (n == 0)
			continue;
		assert_int_equal(plx_hsc_input(&hs[i], &ack, &keys, buf, n), want);
		n_answers++;
	}
	return n_answers;
}

/* 10,000 that open a session in one moment: as many as there is room for are answered, each of the
 * others is a counted drop, and whoever was there before is served as ever. */
static void test_io_ten_thousand_open_at_once(void **state)
{
	static struct plx_hs_client hs[WAVE];
	struct plx_msg_ping ping = {.token = 5};
	struct plx_rig_client old, many, late;
	uint32_t n_acks = 0;

	(void)state;
	plx_rig_client_init(&old, &rig, 0xb, psk2, 40000);
	plx_rig_client_init(&many, &rig, 0xb, psk2, 40001);
	assert_int_equal(plx_rig_connect(&old), 0);
	for (uint32_t at = 0; at < STORM; at += WAVE) {
		for (uint32_t i = 0; i < WAVE; i++) {
			uint8_t rand32[32] = {1, (uint8_t)(at >> 8), (uint8_t)at, (uint8_t)i};

			plx_hsc_init(&hs[i], &many.key, 1 + at + i, many.crypt.ciphers, rand32);
		}
		assert_int_equal(wave(&many, hs, at, PLX_E_AGAIN), WAVE);
		n_acks += wave(&many, hs, at, 0);
		plx_rig_say(&old, PLX_T_PING, 0, &ping, sizeof(ping));
		assert_true(plx_rig_expect(&old, PLX_T_PONG, &hdr, buf));
	}
	assert_int_equal(n_acks, 8); /* half-open ones at a time */
	assert_int_equal(n_acks + plx_rig_count(&rig, 0, PLX_M_HS_HALF_FULL), STORM);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_HS_RETRY), STORM + 1);
	assert_int_equal(plx_rig_count(&rig, 0, PLX_M_SESSION_OPENED), 1);
	for (int k = 0; k < 130; k++)
		plx_rig_turn(&rig, 100 * PLX_NS_PER_MS);
	plx_rig_client_init(&late, &rig, 0xb, psk2, 40002);
	assert_int_equal(plx_rig_connect(&late), 0);
	plx_rig_client_end(&old);
	plx_rig_client_end(&many);
	plx_rig_client_end(&late);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_io_packet_goes_to_its_owner),
	    T(test_io_unknown_owner_is_reset),
	    T(test_io_key_limits_rule),
	    T(test_io_wrong_key_meets_silence),
	    T(test_io_removed_key_closes_its_sessions),
	    T(test_io_shared_prefixes_are_the_keys_choice),
	    T(test_io_half_open_is_capped),
	    T(test_io_ten_thousand_open_at_once),
	};

	return plx_rig_eal() == 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
