/* Sealing, keys for each epoch, the replay window. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "dataplane/wire/crypt.h"

static struct plx_crypt aes, plain;
static const uint8_t secret[32] = {1, 2, 3, 4, 5, 6, 7, 8};

static int setup(void **state)
{
	(void)state;
	return plx_crypt_open(&aes, true, NULL) || plx_crypt_open(&plain, false, NULL);
}

static int teardown(void **state)
{
	(void)state;
	plx_crypt_close(&aes);
	plx_crypt_close(&plain);
	return 0;
}

static bool has_aes(void)
{
	return aes.ciphers & PLX_CIPHER_BIT(PLX_CIPHER_AES_256_GCM);
}

static void packet(uint8_t *pkt, uint64_t pkt_num, uint16_t payload_bytes)
{
	struct plx_hdr h = {.magic = PLX_WIRE_MAGIC,
	                    .version = 1,
	                    .type = PLX_T_PING,
	                    .pkt_num = pkt_num,
	                    .frag_count = 1,
	                    .payload_bytes = payload_bytes};

	plx_hdr_encode(pkt, &h);
	for (uint32_t i = 0; i < payload_bytes; i++)
		pkt[PLX_HDR_BYTES + i] = (uint8_t)(i * 7);
}

static void test_pick_prefers_aes(void **state)
{
	(void)state;
	assert_int_equal(plx_crypt_pick(6, 6), PLX_CIPHER_AES_256_GCM);
	assert_int_equal(plx_crypt_pick(2, 6), PLX_CIPHER_CHACHA20_POLY1305);
	assert_int_equal(plx_crypt_pick(4, 2), PLX_E_UNSUPPORTED);
	assert_int_equal(plx_crypt_pick(6, 8), PLX_E_UNSUPPORTED);
	assert_int_equal(plain.ciphers, 2);
}

static void check_round_trip(struct plx_crypt *x, enum plx_cipher cipher, uint16_t bytes)
{
	static struct plx_aead k;
	uint8_t pkt[PLX_SEAL_BYTES + 1400], want[sizeof(pkt)];

	plx_aead_init(&k, x, cipher, secret);
	packet(pkt, 77, bytes);
	memcpy(want, pkt, sizeof(pkt));
	plx_seal(x, &k, pkt, bytes);
	if (bytes > 8)
		assert_memory_not_equal(pkt + PLX_HDR_BYTES, want + PLX_HDR_BYTES, bytes);
	assert_int_equal(plx_open(x, &k, pkt, bytes), 0);
	assert_memory_equal(pkt, want, PLX_HDR_BYTES + bytes);
}

static void test_seal_opens_again(void **state)
{
	static const uint16_t sizes[] = {0, 1, 15, 16, 17, 255, 256, 1152, 1400};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		check_round_trip(&plain, PLX_CIPHER_CHACHA20_POLY1305, sizes[i]);
		if (has_aes())
			check_round_trip(&aes, PLX_CIPHER_AES_256_GCM, sizes[i]);
	}
}

/* AES-256-GCM of libipsec-mb and of libsodium, two implementations, must agree byte for byte. */
static void test_aes_agrees_with_libsodium(void **state)
{
	static struct plx_aead k;
	uint8_t pkt[PLX_SEAL_BYTES + 100], other[116], nonce[12];
	unsigned long long n;

	(void)state;
	if (!has_aes() || !crypto_aead_aes256gcm_is_available())
		skip();
	plx_aead_init(&k, &aes, PLX_CIPHER_AES_256_GCM, secret);
	packet(pkt, UINT64_C(0x0102030405060708), 100);
	memcpy(nonce, k.salt, 4);
	memcpy(nonce + 4, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	crypto_aead_aes256gcm_encrypt(other, &n, pkt + PLX_HDR_BYTES, 100, pkt, PLX_HDR_BYTES, NULL,
	                              nonce, k.key);
	plx_seal(&aes, &k, pkt, 100);
	assert_int_equal(n, 116);
	assert_memory_equal(pkt + PLX_HDR_BYTES, other, 116);
}

/* Every single bit of header, text and tag counts. */
static void check_tamper(struct plx_crypt *x, enum plx_cipher cipher)
{
	static struct plx_aead k;
	uint8_t good[PLX_SEAL_BYTES + 40], bad[sizeof(good)];

	plx_aead_init(&k, x, cipher, secret);
	packet(good, 5, 40);
	plx_seal(x, &k, good, 40);
	for (size_t bit = 0; bit < 8 * sizeof(good); bit++) {
		memcpy(bad, good, sizeof(bad));
		bad[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(plx_open(x, &k, bad, 40), PLX_E_AUTH);
	}
	assert_int_equal(plx_open(x, &k, good, 40), 0);
}

static void test_every_flipped_bit_fails(void **state)
{
	(void)state;
	check_tamper(&plain, PLX_CIPHER_CHACHA20_POLY1305);
	if (has_aes())
		check_tamper(&aes, PLX_CIPHER_AES_256_GCM);
}

static void test_epochs_have_other_keys(void **state)
{
	static struct plx_aead a, b;
	uint8_t next[32], pkt[PLX_SEAL_BYTES + 8];

	(void)state;
	plx_secret_next(next, secret);
	assert_memory_not_equal(next, secret, 32);
	plx_aead_init(&a, &plain, PLX_CIPHER_CHACHA20_POLY1305, secret);
	plx_aead_init(&b, &plain, PLX_CIPHER_CHACHA20_POLY1305, next);
	assert_memory_not_equal(a.key, b.key, 32);
	assert_memory_not_equal(a.salt, b.salt, 4);
	packet(pkt, 1, 8);
	plx_seal(&plain, &a, pkt, 8);
	assert_int_equal(plx_open(&plain, &b, pkt, 8), PLX_E_AUTH);
}

/* RFC 4231 test case 2 has a short key; this pins label, order and byte 0x01 of our own use,
 * computed with Python's hmac module. */
static void test_kdf_is_hmac_sha256(void **state)
{
	static const uint8_t want[32] = {0x20, 0x74, 0x06, 0x2d, 0x3e, 0xa0, 0x3a, 0x8f,
	                                 0x43, 0xca, 0x83, 0x7f, 0x13, 0xa0, 0x36, 0x83,
	                                 0x8d, 0xcf, 0xe2, 0x4f, 0x96, 0x04, 0x41, 0x19,
	                                 0x24, 0x32, 0xba, 0xe4, 0x9e, 0x2c, 0xd9, 0x66};
	uint8_t out[32];

	(void)state;
	plx_kdf(out, secret, "pollux key");
	assert_memory_equal(out, want, 32);
}

static void test_replay_window_slides(void **state)
{
	struct plx_replay r = {0};

	(void)state;
	assert_int_equal(plx_replay_check(&r, 0), 0);
	plx_replay_mark(&r, 1);
	assert_int_equal(plx_replay_check(&r, 1), PLX_E_REPLAY);
	assert_int_equal(plx_replay_check(&r, 0), 0);
	plx_replay_mark(&r, 2000);
	assert_int_equal(plx_replay_check(&r, 977), 0);
	assert_int_equal(plx_replay_check(&r, 976), PLX_E_REPLAY);
	assert_int_equal(plx_replay_check(&r, 1), PLX_E_REPLAY);
	plx_replay_mark(&r, 977);
	assert_int_equal(plx_replay_check(&r, 977), PLX_E_REPLAY);
	assert_int_equal(plx_replay_check(&r, 978), 0);
	plx_replay_mark(&r, UINT64_C(1) << 60);
	assert_int_equal(plx_replay_check(&r, 2000), PLX_E_REPLAY);
	assert_int_equal(plx_replay_check(&r, (UINT64_C(1) << 60) - 1), 0);
	assert_int_equal(plx_replay_check(&r, UINT64_MAX), PLX_E_REPLAY);
}

/* Against a model that remembers everything: 200,000 numbers around a moving front. */
static void test_replay_window_agrees_with_model(void **state)
{
	static uint8_t seen[1u << 18];
	struct plx_replay r = {0};
	uint64_t front = 0, x = 88172645463325252u;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		uint64_t n = front > 1500 ? front - 1500 + x % 1503 : x % 1503;
		bool old = front && n + PLX_REPLAY_BITS < front + 1;
		int want = old || seen[n] ? PLX_E_REPLAY : 0;

		assert_int_equal(plx_replay_check(&r, n), want);
		if (want == 0 && (x >> 60) != 0) { /* sometimes the packet did not open */
			plx_replay_mark(&r, n);
			seen[n] = 1;
			front = n > front ? n : front;
		}
	}
	assert_true(front > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_pick_prefers_aes),
	    cmocka_unit_test(test_seal_opens_again),
	    cmocka_unit_test(test_aes_agrees_with_libsodium),
	    cmocka_unit_test(test_every_flipped_bit_fails),
	    cmocka_unit_test(test_epochs_have_other_keys),
	    cmocka_unit_test(test_kdf_is_hmac_sha256),
	    cmocka_unit_test(test_replay_window_slides),
	    cmocka_unit_test(test_replay_window_agrees_with_model),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
