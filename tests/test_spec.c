/*
 * The examples in dataplane/wire/SPEC.md, made again and compared byte for byte: each stands there
 * between "```hex NAME" and "```", sixteen bytes a line behind their offset. Run from the root.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/conn.h"
#include "dataplane/wire/req.h"

static struct plx_crypt x;
static uint8_t psk_bytes[32], secret[32], rand_c[32], rand_a[32];
static struct plx_hs_secrets secrets;
static struct plx_psk psk;
static struct plx_hs_client client;
static struct plx_wire_addr addr;

static void count_up(uint8_t *p, size_t n, uint8_t from)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(from + i);
}

static int setup(void **state)
{
	static const uint8_t ip[4] = {192, 0, 2, 1};

	(void)state;
	count_up(psk_bytes, 32, 0x00);
	count_up(rand_c, 32, 0x20);
	count_up(rand_a, 32, 0x40);
	count_up(secret, 32, 0x60);
	memset(secrets.cookie_key, 0xaa, 32);
	memset(secrets.reset_key, 0xbb, 32);
	addr = plx_wire_addr_v4(ip, 4000);
	if (plx_crypt_open(&x, false, NULL))
		return -1;
	plx_psk_init(&psk, 42, psk_bytes);
	plx_hsc_init(&client, &psk, 0x11223344, 6, rand_c);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	plx_crypt_close(&x);
	return 0;
}

/* Bytes of the block called name in the specification. */
static size_t read_block(const char *name, uint8_t *out, size_t cap)
{
	char line[256], head[64];
	FILE *f = fopen("dataplane/wire/SPEC.md", "r");
	size_t n = 0;
	bool in = false;

	assert_non_null(f);
	snprintf(head, sizeof(head), "```hex %s\n", name);
	while (fgets(line, sizeof(line), f)) {
		if (!in) {
			in = strcmp(line, head) == 0;
			continue;
		}
		if (strncmp(line, "```", 3) == 0)
			break;
		char *p = line + 4; /* behind the offset */

		for (char *end; n < cap; p = end) {
			unsigned long v = strtoul(p, &end, 16);

			if (end == p)
				break;
			out[n++] = (uint8_t)v;
		}
	}
	fclose(f);
	return n;
}

static void expect(const char *name, const uint8_t *bytes, size_t n)
{
	uint8_t want[2048];
	size_t n_want = read_block(name, want, sizeof(want));

	if (n_want != n || memcmp(want, bytes, n)) {
		printf("%s should read:\n", name);
		for (size_t i = 0; i < n; i++) {
			if (i % 16 == 0)
				printf("%s%04zx ", i ? "\n" : "", i);
			printf(" %02x", bytes[i]);
		}
		printf("\n");
	}
	assert_int_equal(n_want, n);
	assert_memory_equal(want, bytes, n);
}

static void test_spec_keys(void **state)
{
	static struct plx_aead k;
	uint8_t out[68];

	(void)state;
	plx_aead_init(&k, &x, PLX_CIPHER_CHACHA20_POLY1305, secret);
	memcpy(out, k.key, 32);
	memcpy(out + 32, k.salt, 4);
	plx_secret_next(out + 36, secret);
	expect("keys", out, sizeof(out));
}

static void conn(struct plx_wire_conn *c)
{
	const struct plx_wire_limits lim = {.retx_floor_us = 200};
	struct plx_hs_keys keys = {.cipher = PLX_CIPHER_CHACHA20_POLY1305};

	memcpy(keys.secret_c2a, secret, 32);
	plx_conn_init(c, &x, PLX_SIDE_CLIENT, 0x11223344, 0x0a0b0c0d, &keys, &lim, 0);
}

static void test_spec_ping(void **state)
{
	static struct plx_wire_conn c;
	struct plx_msg_ping m = {.token = 1};
	struct plx_hdr h = {.type = PLX_T_PING, .frag_count = 1, .payload_bytes = sizeof(m)};
	uint8_t pkt[64];

	(void)state;
	conn(&c);
	plx_msg_put(PLX_T_PING, pkt + PLX_HDR_BYTES, sizeof(m), &m, sizeof(m));
	expect("ping", pkt, (size_t)plx_conn_seal(&c, &x, &h, pkt, 0));
}

static int make_req(uint8_t *p, size_t cap)
{
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_req_writer w;

	m.max_new = 16;
	m.seed = 7;
	plx_req_begin(&w, p, cap, &m);
	plx_req_stop(&w, "\n", 1);
	plx_req_prompt_text(&w, "Hello", 5);
	return plx_req_end(&w);
}

static void test_spec_req(void **state)
{
	static struct plx_wire_conn c;
	uint8_t msg[256], pkt[512];
	int n = make_req(msg, sizeof(msg));
	struct plx_hdr h = {.type = PLX_T_REQ,
	                    .req_id = 1,
	                    .frag_count = 1,
	                    .payload_bytes = (uint16_t)n,
	                    .prio_flags = plx_hdr_pack_prio(3, PLX_F_ACK_REQ)};

	(void)state;
	expect("req", msg, (size_t)n);
	conn(&c);
	memcpy(pkt + PLX_HDR_BYTES, msg, (size_t)n);
	expect("req-sealed", pkt, (size_t)plx_conn_seal(&c, &x, &h, pkt, 0));
}

static void test_spec_messages(void **state)
{
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_req_writer w;
	uint8_t msg[256];

	(void)state;
	plx_req_begin(&w, msg, sizeof(msg), &m);
	plx_req_message(&w, PLX_ROLE_SYSTEM, "Be brief.", 9);
	plx_req_message(&w, PLX_ROLE_USER, "Why?", 4);
	int n = plx_req_end(&w);

	expect("messages", msg + PLX_REQ_BLOCK_BYTES, (size_t)n - PLX_REQ_BLOCK_BYTES);
}

static void test_spec_best_of(void **state)
{
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_req_writer w;
	uint8_t msg[256];

	(void)state;
	plx_req_begin(&w, msg, sizeof(msg), &m);
	plx_req_best_of(&w, 5);
	plx_req_prompt_text(&w, "p", 1);
	assert_int_equal(plx_req_end(&w), PLX_REQ_BLOCK_BYTES + 13);
	expect("best-of", msg + PLX_REQ_BLOCK_BYTES, 12);
}

static void test_spec_sparse(void **state)
{
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_req_writer w;
	uint8_t msg[256];

	(void)state;
	plx_req_begin(&w, msg, sizeof(msg), &m);
	plx_req_sparse(&w, 950, 8);
	plx_req_prompt_text(&w, "p", 1);
	assert_int_equal(plx_req_end(&w), PLX_REQ_BLOCK_BYTES + 13);
	expect("sparse", msg + PLX_REQ_BLOCK_BYTES, 12);
}

static void test_spec_tokens(void **state)
{
	const uint32_t ids[2] = {1024, 7};
	const float lp[2] = {-0.25f, -1.0f};
	const struct plx_msg_top top[2] = {{1024, -0.25f}, {7, -1.0f}};
	struct plx_msg_tokens m = {
	    .count = 2, .first_idx = 3, .text_bytes = 6, .flags = PLX_TOKENS_LOGPROBS, .n_top = 1};
	uint8_t p[128];

	(void)state;
	expect("tokens", p,
	       (size_t)plx_msg_tokens_encode(p, sizeof(p), &m, ids, lp, top, " there"));
}

static void test_spec_ack(void **state)
{
	struct plx_msg_ack_head h = {.largest_pkt_num = 90, .ack_delay_us = 25, .n_entries = 1};
	struct plx_msg_ack_entry e = {.req_id = 1, .map = 5, .first_missing = 2, .type = PLX_T_REQ};
	uint8_t p[64];

	(void)state;
	expect("ack", p, (size_t)plx_msg_ack_encode(p, sizeof(p), &h, &e));
}

static void test_spec_handshake(void **state)
{
	uint8_t hello[PLX_HELLO_BYTES], reply[PLX_HS_REPLY_MAX], ack[PLX_HELLO_ACK_MAX];
	struct plx_hello_ack tell = {.session_id = 0x0a0b0c0d,
	                             .features = PLX_FEAT_TEXT | PLX_FEAT_GENERATE,
	                             .credit_packets = 64,
	                             .credit_requests = 8,
	                             .limits = {.max_request_bytes = 65536,
	                                        .max_in_flight = 8,
	                                        .max_prompt_tokens = 2048,
	                                        .max_new = 512,
	                                        .token_window = 256,
	                                        .keepalive_ms = 5000,
	                                        .max_ack_delay_us = 100,
	                                        .retx_floor_us = 200,
	                                        .result_ttl_ms = 30000,
	                                        .reasm_timeout_ms = 2000,
	                                        .coalesce_us = 200,
	                                        .max_samples = 4,
	                                        .max_datagram = 1472,
	                                        .max_stops = 4,
	                                        .max_stop_bytes = 64,
	                                        .max_priority = 7,
	                                        .max_logprobs = 5}},
			     got;
	struct plx_hs_keys a, c;
	struct plx_hs_job job;
	uint8_t both[64];
	size_t n;

	(void)state;
	plx_hsc_hello(&client, hello);
	expect("hello", hello, 160);
	assert_int_equal(plx_hs_check(&job, reply, &n, &secrets, &psk, 2, hello, sizeof(hello),
	                              &addr, 1000000000),
	                 PLX_HS_REPLY);
	expect("retry", reply, n);
	assert_int_equal(plx_hsc_input(&client, &got, &c, reply, n), PLX_E_AGAIN);
	plx_hsc_hello(&client, hello);
	expect("hello-again", hello + 112, 48);
	assert_int_equal(plx_hs_check(&job, reply, &n, &secrets, &psk, 2, hello, sizeof(hello),
	                              &addr, 1000000000),
	                 PLX_HS_DH);
	n = (size_t)plx_hs_respond(ack, &a, &tell, &secrets, &job, &psk, rand_a);
	expect("hello-ack", ack, n);
	assert_int_equal(plx_hsc_input(&client, &got, &c, ack, n), 0);
	expect("hello-ack-plain", (const uint8_t *)&got, sizeof(got));
	memcpy(both, c.secret_c2a, 32);
	memcpy(both + 32, c.secret_a2c, 32);
	expect("secrets", both, sizeof(both));
	n = plx_reset_make(reply, &secrets, 0x0a0b0c0d, &addr, 1200);
	expect("reset", reply, n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_spec_keys, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_ping, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_req, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_messages, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_best_of, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_sparse, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_tokens, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_ack, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_spec_handshake, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
