/* Noise against its published vector; HELLO, RETRY, HELLO_ACK, VERSION_NEG, RESET. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "dataplane/wire/handshake.h"

#define S(n) ((n)*UINT64_C(1000000000))

/* ---- Noise: vector Noise_NNpsk0_25519_ChaChaPoly_SHA256 of the cacophony test suite, as shipped
 * with mcginty/snow (tests/vectors/cacophony.txt) ---- */

static void unhex(uint8_t *out, const char *hex, size_t bytes)
{
	assert_int_equal(sodium_hex2bin(out, bytes, hex, 2 * bytes, NULL, NULL, NULL), 0);
}

static const char vec_prologue[] = "John Galt";
static const char vec_psk[] = "This is my Austrian perspective!";
static const char vec_e_i[] = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
static const char vec_e_r[] = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
static const char vec_hash[] = "f4d03dc34495c95729ea6de9e1b59004b59733102488b3e24bc441e0be208eaf";
static const char vec_pay1[] = "4c756477696720766f6e204d69736573";
static const char vec_msg1[] = "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
			       "79b962b8aff8485742ac32f905ba45369e2465fb59e138a93d67a0d1266b6a54";
static const char vec_pay2[] = "4d757272617920526f746862617264";
static const char vec_msg2[] = "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
			       "d6062704d5a9c422a8e834423f8c1feada7e8d0d910a1a2cd030fb584221e3";
static const char vec_pay3[] = "462e20412e20486179656b";
static const char vec_msg3[] = "e632c3763d7669067383433197a3baddf146e9e70ad4b4e9e59e0f";
static const char vec_pay4[] = "4361726c204d656e676572";
static const char vec_msg4[] = "64c6bee32ea91c8474bb4c21d7a700109ad45af77b29764ba5eb1e";

static void noise_start(struct plx_noise *s, const char *e_hex)
{
	uint8_t e[32];

	unhex(e, e_hex, 32);
	plx_noise_begin(s, (const uint8_t *)vec_prologue, sizeof(vec_prologue) - 1,
	                (const uint8_t *)vec_psk, e);
}

/* A transport message under a key of the split, nonce 0. */
static void check_transport(const uint8_t key[32], const char *pay, const char *msg)
{
	static const uint8_t nonce[12];
	uint8_t p[11], want[27], got[27];

	unhex(p, pay, sizeof(p));
	unhex(want, msg, sizeof(want));
	crypto_aead_chacha20poly1305_ietf_encrypt(got, NULL, p, sizeof(p), NULL, 0, NULL, nonce,
	                                          key);
	assert_memory_equal(got, want, sizeof(want));
}

static void test_noise_matches_published_vector(void **state)
{
	struct plx_noise i, r;
	uint8_t p1[16], p2[15], m1[64], m2[63], want[64], got[16], k[4][32];

	(void)state;
	unhex(p1, vec_pay1, sizeof(p1));
	unhex(p2, vec_pay2, sizeof(p2));
	noise_start(&i, vec_e_i);
	noise_start(&r, vec_e_r);
	plx_noise_write1(&i, m1, p1, sizeof(p1));
	unhex(want, vec_msg1, 64);
	assert_memory_equal(m1, want, 64);
	assert_int_equal(plx_noise_read1(&r, got, m1, sizeof(p1)), 0);
	assert_memory_equal(got, p1, sizeof(p1));
	assert_int_equal(plx_noise_write2(&r, m2, p2, sizeof(p2)), 0);
	unhex(want, vec_msg2, 63);
	assert_memory_equal(m2, want, 63);
	assert_int_equal(plx_noise_read2(&i, got, m2, sizeof(p2)), 0);
	assert_memory_equal(got, p2, sizeof(p2));
	unhex(want, vec_hash, 32);
	assert_memory_equal(i.h, want, 32);
	assert_memory_equal(r.h, want, 32);
	plx_noise_split(&i, k[0], k[1]);
	plx_noise_split(&r, k[2], k[3]);
	assert_memory_equal(k[0], k[2], 64);
	check_transport(k[0], vec_pay3, vec_msg3);
	check_transport(k[1], vec_pay4, vec_msg4);
}

static void test_noise_refuses_low_order_point(void **state)
{
	struct plx_noise r;
	uint8_t out[64] = {0};

	(void)state;
	noise_start(&r, vec_e_r);
	assert_int_equal(plx_noise_write2(&r, out, NULL, 0), PLX_E_AUTH); /* re is all zeros */
}

/* ---- the handshake -------------------------------------------------------------------------- */

static const uint8_t psk[32] = "a pre-shared key of 32 bytes....";
static const uint8_t rand_c[32] = {1, 2, 3}, rand_a[32] = {9, 8, 7};
static const struct plx_hs_secrets secrets = {.cookie_key = {1}, .reset_key = {2}};
#define BOTH 6u

struct ends {
	struct plx_psk key;
	struct plx_hs_client c;
	struct plx_wire_addr addr;
	struct plx_hs_job job;
	uint8_t hello[PLX_HELLO_BYTES], reply[PLX_HS_REPLY_MAX], ack[PLX_HELLO_ACK_MAX];
	size_t reply_bytes;
};

static void begin(struct ends *e)
{
	static const uint8_t ip[4] = {10, 0, 0, 2};

	memset(e, 0, sizeof(*e));
	assert_true(sodium_init() >= 0);
	plx_psk_init(&e->key, 42, psk);
	plx_hsc_init(&e->c, &e->key, 0xc11e17, BOTH, rand_c);
	e->addr = plx_wire_addr_v4(ip, 4444);
	plx_hsc_hello(&e->c, e->hello);
}

static enum plx_hs_verdict check(struct ends *e, uint64_t now_ns)
{
	return plx_hs_check(&e->job, e->reply, &e->reply_bytes, &secrets, &e->key, BOTH, e->hello,
	                    PLX_HELLO_BYTES, &e->addr, now_ns);
}

/* Through RETRY to a checked HELLO with cookie. */
static void begin_with_cookie(struct ends *e, uint64_t now_ns)
{
	struct plx_hello_ack ack;
	struct plx_hs_keys keys;

	begin(e);
	assert_int_equal(check(e, now_ns), PLX_HS_REPLY);
	assert_int_equal(plx_hsc_input(&e->c, &ack, &keys, e->reply, e->reply_bytes), PLX_E_AGAIN);
	plx_hsc_hello(&e->c, e->hello);
}

static struct plx_hello_ack make_ack(void)
{
	return (struct plx_hello_ack){.session_id = 0xabcd,
	                              .features = PLX_FEAT_TEXT,
	                              .credit_packets = 100,
	                              .credit_requests = 8,
	                              .limits = {.max_request_bytes = 1 << 20,
	                                         .max_in_flight = 8,
	                                         .max_prompt_tokens = 4096,
	                                         .max_new = 512,
	                                         .keepalive_ms = 5000,
	                                         .retx_floor_us = 200,
	                                         .max_samples = 4,
	                                         .max_datagram = 1472}};
}

static int respond(struct ends *e, struct plx_hs_keys *keys)
{
	struct plx_hello_ack ack = make_ack();

	return plx_hs_respond(e->ack, keys, &ack, &secrets, &e->job, &e->key, rand_a);
}

static void test_handshake_gives_both_ends_the_same_keys(void **state)
{
	struct ends e;
	struct plx_hs_keys a, c;
	struct plx_hello_ack ack, want = make_ack();
	uint64_t key_id = 0;

	(void)state;
	begin(&e);
	assert_int_equal(plx_hs_key_id(&key_id, e.hello, sizeof(e.hello)), 0);
	assert_int_equal(key_id, 42);
	begin_with_cookie(&e, S(1));
	assert_int_equal(e.reply_bytes, 104);
	assert_int_equal(check(&e, S(2)), PLX_HS_DH);
	assert_int_equal(e.job.cipher, PLX_CIPHER_AES_256_GCM);
	assert_int_equal(respond(&e, &a), 184);
	assert_int_equal(plx_hsc_input(&e.c, &ack, &c, e.ack, 184), 0);
	assert_memory_equal(a.secret_c2a, c.secret_c2a, 32);
	assert_memory_equal(a.secret_a2c, c.secret_a2c, 32);
	assert_memory_not_equal(a.secret_a2c, a.secret_c2a, 32);
	assert_int_equal(c.cipher, PLX_CIPHER_AES_256_GCM);
	assert_int_equal(ack.session_id, 0xabcd);
	assert_memory_equal(&ack.limits, &want.limits, sizeof(ack.limits));
	assert_int_equal(e.c.state, PLX_HSC_DONE);
	assert_int_equal(plx_hsc_input(&e.c, &ack, &c, e.ack, 184), PLX_E_FORMAT);
}

static void test_wrong_key_is_met_with_silence(void **state)
{
	struct ends e;
	uint8_t other[32] = {5};

	(void)state;
	begin(&e);
	plx_psk_init(&e.key, 42, other);
	assert_int_equal(check(&e, S(1)), PLX_HS_DROP);
	plx_psk_init(&e.key, 43, psk);
	assert_int_equal(check(&e, S(1)), PLX_HS_DROP);
}

/* Header and the 128 bytes that the MAC covers and is: any flipped bit is met with silence. */
static void test_every_flipped_bit_of_hello_is_silence(void **state)
{
	struct ends e;

	(void)state;
	begin(&e);
	for (size_t bit = 0; bit < 8u * (32 + 128); bit++) {
		e.hello[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(check(&e, S(1)), PLX_HS_DROP);
		e.hello[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	assert_int_equal(plx_hs_check(&e.job, e.reply, &e.reply_bytes, &secrets, &e.key, BOTH,
	                              e.hello, PLX_HELLO_BYTES - 1, &e.addr, S(1)),
	                 PLX_HS_DROP);
	assert_int_equal(check(&e, S(1)), PLX_HS_REPLY);
}

static void test_every_flipped_bit_of_retry_is_ignored(void **state)
{
	struct ends e;
	struct plx_hello_ack ack;
	struct plx_hs_keys keys;

	(void)state;
	begin(&e);
	assert_int_equal(check(&e, S(1)), PLX_HS_REPLY);
	for (size_t bit = 0; bit < 8 * e.reply_bytes; bit++) {
		e.reply[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		int err = plx_hsc_input(&e.c, &ack, &keys, e.reply, e.reply_bytes);

		assert_true(err == PLX_E_AUTH || err == PLX_E_FORMAT);
		e.reply[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	assert_int_equal(plx_hsc_input(&e.c, &ack, &keys, e.reply, e.reply_bytes), PLX_E_AGAIN);
}

static void test_every_flipped_bit_of_ack_is_ignored(void **state)
{
	struct ends e;
	struct plx_hs_keys a, c;
	struct plx_hello_ack ack;

	(void)state;
	begin_with_cookie(&e, S(1));
	assert_int_equal(check(&e, S(1)), PLX_HS_DH);
	int n = respond(&e, &a);

	/* The header is not part of Noise's message: bits of it that say nothing may flip. */
	for (size_t bit = 8u * 32; bit < 8u * (size_t)n; bit++) {
		if (bit == 8u * 63 + 7)
			continue; /* X25519 ignores the top bit, but the transcript hash does not */
		e.ack[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(plx_hsc_input(&e.c, &ack, &c, e.ack, (size_t)n), PLX_E_AUTH);
		e.ack[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	e.ack[63] ^= 0x80;
	assert_int_equal(plx_hsc_input(&e.c, &ack, &c, e.ack, (size_t)n), PLX_E_AUTH);
	e.ack[63] ^= 0x80;
	e.ack[4] ^= 1; /* not our session */
	assert_int_equal(plx_hsc_input(&e.c, &ack, &c, e.ack, (size_t)n), PLX_E_FORMAT);
	e.ack[4] ^= 1;
	assert_int_equal(plx_hsc_input(&e.c, &ack, &c, e.ack, (size_t)n), 0);
}

static void test_cookie_is_bound_to_address_time_and_key(void **state)
{
	struct ends e, other;

	(void)state;
	begin_with_cookie(&e, S(100));
	assert_int_equal(check(&e, S(110)), PLX_HS_DH);
	assert_int_equal(check(&e, S(110) + 1), PLX_HS_REPLY);
	assert_int_equal(check(&e, S(100) - 1), PLX_HS_REPLY); /* from the future */
	e.addr.port++;
	assert_int_equal(check(&e, S(101)), PLX_HS_REPLY);
	e.addr.port--;
	e.addr.ip[15]++;
	assert_int_equal(check(&e, S(101)), PLX_HS_REPLY);
	e.addr.ip[15]--;
	assert_int_equal(check(&e, S(101)), PLX_HS_DH);
	/* The cookie in a HELLO with another ephemeral key. */
	begin(&other);
	plx_hsc_init(&other.c, &other.key, 0xc11e17, BOTH, rand_a);
	other.c.hello.cookie_bytes = PLX_COOKIE_BYTES;
	memcpy(other.c.hello.cookie, e.c.hello.cookie, PLX_COOKIE_BYTES);
	plx_hsc_hello(&other.c, other.hello);
	assert_int_equal(check(&other, S(101)), PLX_HS_REPLY);
}

static void test_same_ephemeral_gets_same_ack(void **state)
{
	struct ends e;
	struct plx_hs_keys a;
	struct plx_halfopen_entry mem[2] = {0};
	struct plx_halfopen t = {.e = mem, .n = 2};

	(void)state;
	begin_with_cookie(&e, S(1));
	assert_int_equal(check(&e, S(1)), PLX_HS_DH);
	assert_null(plx_halfopen_get(&t, e.job.ephemeral, S(1)));
	struct plx_halfopen_entry *h = plx_halfopen_put(&t, e.job.ephemeral, S(1));

	assert_non_null(h);
	h->ack_bytes = (uint16_t)respond(&e, &a);
	memcpy(h->ack, e.ack, h->ack_bytes);
	h->state = PLX_HALFOPEN_ACKED;
	assert_ptr_equal(plx_halfopen_get(&t, e.job.ephemeral, S(11)), h);
	assert_non_null(plx_halfopen_put(&t, rand_a, S(2)));
	assert_null(plx_halfopen_put(&t, rand_c, S(2))); /* capped */
	assert_int_equal(t.n_used, 2);
	assert_null(plx_halfopen_get(&t, e.job.ephemeral, S(12)));
	assert_int_equal(t.n_used, 1);
	assert_non_null(plx_halfopen_put(&t, rand_c, S(12)));
}

/* Whoever knows the key may still not change what the transcript holds. */
static void test_transcript_covers_ciphers_and_ids(void **state)
{
	struct ends e;
	struct plx_hs_keys a;

	(void)state;
	begin_with_cookie(&e, S(1));
	e.c.hello.ciphers = 2; /* as a downgrade would, with a right MAC */
	plx_hsc_hello(&e.c, e.hello);
	assert_int_equal(check(&e, S(1)), PLX_HS_DH);
	assert_int_equal(e.job.cipher, PLX_CIPHER_CHACHA20_POLY1305);
	assert_int_equal(respond(&e, &a), PLX_E_AUTH);
	e.c.hello.ciphers = BOTH;
	e.c.hello.session_id ^= 1;
	plx_hsc_hello(&e.c, e.hello);
	assert_int_equal(check(&e, S(1)), PLX_HS_DH);
	assert_int_equal(respond(&e, &a), PLX_E_AUTH);
}

static void test_unknown_version_gets_authentic_refusal(void **state)
{
	struct ends e;
	struct plx_hello_ack ack;
	struct plx_hs_keys keys;

	(void)state;
	begin(&e);
	e.c.hello.versions[0] = 9;
	plx_hsc_hello(&e.c, e.hello);
	e.hello[2] = 9; /* a client of version 9 would write so; then the MAC is not ours to make */
	assert_int_equal(check(&e, S(1)), PLX_HS_DROP);
	e.hello[2] = 1;
	assert_int_equal(check(&e, S(1)), PLX_HS_REPLY);
	assert_int_equal(e.reply[3], PLX_T_VERSION_NEG);
	assert_int_equal(e.reply_bytes, 88);
	e.reply[70] ^= 1; /* forged */
	assert_int_equal(plx_hsc_input(&e.c, &ack, &keys, e.reply, e.reply_bytes), PLX_E_AUTH);
	e.reply[70] ^= 1;
	assert_int_equal(plx_hsc_input(&e.c, &ack, &keys, e.reply, e.reply_bytes),
	                 PLX_E_UNSUPPORTED);
	assert_int_equal(e.c.state, PLX_HSC_FAILED);
}

static void test_chacha_where_one_side_lacks_aes(void **state)
{
	struct ends e;

	(void)state;
	begin_with_cookie(&e, S(1));
	assert_int_equal(plx_hs_check(&e.job, e.reply, &e.reply_bytes, &secrets, &e.key, 2, e.hello,
	                              PLX_HELLO_BYTES, &e.addr, S(1)),
	                 PLX_HS_DH);
	assert_int_equal(e.job.cipher, PLX_CIPHER_CHACHA20_POLY1305);
}

static void test_reset_needs_the_token_of_the_handshake(void **state)
{
	struct ends e;
	struct plx_hs_keys a, c;
	struct plx_hello_ack ack;
	uint8_t pkt[PLX_RESET_BYTES];

	(void)state;
	begin_with_cookie(&e, S(1));
	assert_int_equal(check(&e, S(1)), PLX_HS_DH);
	int n = respond(&e, &a);

	assert_int_equal(plx_hsc_input(&e.c, &ack, &c, e.ack, (size_t)n), 0);
	assert_int_equal(plx_reset_make(pkt, &secrets, 0xabcd, &e.addr, 48), 0);
	assert_int_equal(plx_reset_make(pkt, &secrets, 0xabcd, &e.addr, 49), 48);
	assert_int_equal(plx_reset_check(pkt, 48, 0xabcd, ack.reset_token), 0);
	assert_int_equal(plx_reset_check(pkt, 48, 0xabce, ack.reset_token), PLX_E_FORMAT);
	assert_int_equal(plx_reset_check(pkt, 47, 0xabcd, ack.reset_token), PLX_E_FORMAT);
	pkt[40] ^= 1;
	assert_int_equal(plx_reset_check(pkt, 48, 0xabcd, ack.reset_token), PLX_E_AUTH);
	e.addr.port++;
	plx_reset_make(pkt, &secrets, 0xabcd, &e.addr, 49);
	assert_int_equal(plx_reset_check(pkt, 48, 0xabcd, ack.reset_token), PLX_E_AUTH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_noise_matches_published_vector),
	    cmocka_unit_test(test_noise_refuses_low_order_point),
	    cmocka_unit_test(test_handshake_gives_both_ends_the_same_keys),
	    cmocka_unit_test(test_wrong_key_is_met_with_silence),
	    cmocka_unit_test(test_every_flipped_bit_of_hello_is_silence),
	    cmocka_unit_test(test_every_flipped_bit_of_retry_is_ignored),
	    cmocka_unit_test(test_every_flipped_bit_of_ack_is_ignored),
	    cmocka_unit_test(test_cookie_is_bound_to_address_time_and_key),
	    cmocka_unit_test(test_same_ephemeral_gets_same_ack),
	    cmocka_unit_test(test_transcript_covers_ciphers_and_ids),
	    cmocka_unit_test(test_unknown_version_gets_authentic_refusal),
	    cmocka_unit_test(test_chacha_where_one_side_lacks_aes),
	    cmocka_unit_test(test_reset_needs_the_token_of_the_handshake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
