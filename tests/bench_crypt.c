/*
 * What sealing and opening a packet costs, beside libipsec-mb's cipher alone on the same bytes.
 * One line a figure, nanoseconds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "dataplane/wire/conn.h"
#include "fw/base/clock.h"
#include "tests/lib/best.h"

#define CHUNKS 15u /* the best of these counts: the machine has other work */

static struct plx_crypt x;
static _Alignas(64) uint8_t pkt[2048];
static struct plx_aead key;
static uint16_t bytes;

static void bench(const char *what, uint32_t rounds, void (*once)(uint32_t i))
{
	printf("crypt %-36s %5u bytes %9.1f ns\n", what, bytes, plx_best_ns(CHUNKS, rounds, once));
}

static void raw(uint32_t i)
{
	struct gcm_context_data ctx;
	uint8_t iv[12] = {0}, tag[16];

	memcpy(iv + 4, &i, 4);
	IMB_AES256_GCM_ENC(x.mgr, &key.gcm, &ctx, pkt + 32, pkt + 32, bytes, iv, pkt, 32, tag, 16);
}

static void seal(uint32_t i)
{
	(void)i;
	plx_seal(&x, &key, pkt, bytes);
}

static void seal_open(uint32_t i)
{
	seal(i);
	if (plx_open(&x, &key, pkt, bytes))
		exit(1);
}

/* A whole packet through a session: numbers, epochs, replay window and all. */
static struct plx_wire_conn a, b;

static void session(uint32_t i)
{
	struct plx_hdr h, out = {.type = PLX_T_REQ, .frag_count = 1, .payload_bytes = bytes};
	int n = plx_conn_seal(&a, &x, &out, pkt, i);

	if (n < 0 || plx_conn_open(&b, &x, &h, pkt, (size_t)n, i))
		exit(1);
}

static void bench_sizes(void)
{
	static const uint8_t secret[32] = {1};
	const struct plx_wire_limits lim = {.retx_floor_us = 200, .max_ack_delay_us = 100};
	struct plx_hs_keys keys = {.secret_c2a = {1}};

	if (x.mgr) {
		plx_aead_init(&key, &x, PLX_CIPHER_AES_256_GCM, secret);
		bench("aes-256-gcm, libipsec-mb alone", 2000, raw);
		bench("aes-256-gcm seal", 2000, seal);
		bench("aes-256-gcm seal and open", 2000, seal_open);
	}
	plx_aead_init(&key, &x, PLX_CIPHER_CHACHA20_POLY1305, secret);
	bench("chacha20-poly1305 seal", 2000, seal);
	bench("chacha20-poly1305 seal and open", 2000, seal_open);
	keys.cipher = (enum plx_cipher)plx_crypt_pick(x.ciphers, x.ciphers);
	plx_conn_init(&a, &x, PLX_SIDE_CLIENT, 1, 2, &keys, &lim, 0);
	plx_conn_init(&b, &x, PLX_SIDE_APPLIANCE, 2, 1, &keys, &lim, 0);
	bench("session seal and open, best cipher", 2000, session);
}

static uint8_t hello[PLX_HELLO_BYTES], reply[PLX_HS_REPLY_MAX];
static const struct plx_hs_secrets secrets = {.cookie_key = {3}};
static const uint8_t rand32[32] = {2};
static struct plx_psk psk;
static struct plx_hs_job job;
static enum plx_hs_verdict verdict;

static void hello_check(uint32_t i)
{
	const struct plx_wire_addr addr = {.port = 1};
	size_t n;

	(void)i;
	verdict = plx_hs_check(&job, reply, &n, &secrets, &psk, x.ciphers, hello, sizeof(hello),
	                       &addr, 1);
}

static void hello_respond(uint32_t i)
{
	struct plx_hello_ack ack = {0};
	struct plx_hs_keys keys;

	(void)i;
	if (plx_hs_respond(reply, &keys, &ack, &secrets, &job, &psk, rand32) < 0)
		exit(1);
}

static void bench_hello(void)
{
	struct plx_hs_client c;

	bytes = PLX_HELLO_BYTES;
	plx_psk_init(&psk, 1, rand32);
	plx_hsc_init(&c, &psk, 1, x.ciphers, rand32);
	plx_hsc_hello(&c, hello);
	bench("hello: mac, retry (stage_io)", 1000, hello_check);
	memcpy(c.hello.cookie, reply + PLX_HDR_BYTES + 32, PLX_COOKIE_BYTES);
	c.hello.cookie_bytes = PLX_COOKIE_BYTES;
	plx_hsc_hello(&c, hello);
	bench("hello: mac, cookie (stage_io)", 1000, hello_check);
	if (verdict != PLX_HS_DH)
		exit(1);
	bench("hello: key exchange (stage_hs)", 30, hello_respond);
}

int main(void)
{
	static const uint16_t sizes[] = {256, 1400};

	if (plx_crypt_open(&x, true, NULL))
		return 1;
	for (int i = 0; i < 2; i++) {
		bytes = sizes[i];
		bench_sizes();
	}
	bench_hello();
	plx_crypt_close(&x);
	return 0;
}
