/*
 * Any datagram at both ends of the handshake. First byte: what the input is. An input may ask for
 * its MAC to be made right, so that the fuzzer gets behind the checks that keep strangers out.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <sodium.h>

#include "dataplane/wire/handshake.h"
#include "fw/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plx_psk key;
static const uint8_t rand_c[32] = {1}, rand_a[32] = {2};
static const struct plx_hs_secrets secrets = {.cookie_key = {3}, .reset_key = {4}};

static void start(void)
{
	static const uint8_t psk[32] = {5};

	if (key.key_id)
		return;
	PLX_CHECK(sodium_init() >= 0);
	plx_psk_init(&key, 7, psk);
}

static void appliance(uint8_t *pkt, size_t n, bool good_mac)
{
	static const uint8_t ip[4] = {10, 0, 0, 1};
	struct plx_wire_addr addr = plx_wire_addr_v4(ip, 1);
	const size_t covered = PLX_HDR_BYTES + offsetof(struct plx_hello, mac);
	struct plx_hs_job job;
	struct plx_hs_keys keys;
	struct plx_hello_ack ack = {.session_id = 1};
	uint8_t reply[PLX_HS_REPLY_MAX];
	size_t reply_bytes = 0;
	uint64_t key_id;

	if (good_mac && n >= covered + 16)
		crypto_generichash(pkt + covered, 16, pkt, covered, key.mac_hello, 32);
	if (plx_hs_key_id(&key_id, pkt, n))
		return;
	switch (plx_hs_check(&job, reply, &reply_bytes, &secrets, &key, 6, pkt, n, &addr, 1000)) {
	case PLX_HS_DROP:
		return;
	case PLX_HS_REPLY:
		PLX_CHECK(reply_bytes > PLX_HDR_BYTES && reply_bytes < n);
		return;
	case PLX_HS_DH:
		(void)plx_hs_respond(reply, &keys, &ack, &secrets, &job, &key, rand_a);
	}
}

static void client(uint8_t *pkt, size_t n, bool good_mac)
{
	struct plx_hs_client c;
	struct plx_hello_ack ack;
	struct plx_hs_keys keys;

	plx_hsc_init(&c, &key, 9, 6, rand_c);
	if (good_mac && n > PLX_HDR_BYTES + 48) {
		memcpy(pkt + PLX_HDR_BYTES, c.hello.ephemeral, 32);
		crypto_generichash(pkt + n - 16, 16, pkt, n - 16, key.mac_reply, 32);
	}
	int err = plx_hsc_input(&c, &ack, &keys, pkt, n);

	PLX_CHECK(err != 0); /* nobody guesses a tag */
	PLX_CHECK(c.state == PLX_HSC_HELLO || err == PLX_E_UNSUPPORTED);
	(void)plx_reset_check(pkt, n, 9, rand_a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t pkt[4096];

	if (size < 1 || size > sizeof(pkt))
		return 0;
	start();
	memcpy(pkt, data + 1, size - 1);
	if (data[0] & 1)
		appliance(pkt, size - 1, data[0] & 2);
	else
		client(pkt, size - 1, data[0] & 2);
	return 0;
}
