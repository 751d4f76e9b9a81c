/*
 * Noise NNpsk0: the symmetric state of section 5.2 and two messages, on libsodium.
 */
#include "dataplane/wire/noise.h"

#include <string.h>

#include <sodium.h>

#include "fw/base/err.h"

static const char protocol[] = "Noise_NNpsk0_25519_ChaChaPoly_SHA256"; /* over 32 bytes: hashed */

static void hmac(uint8_t out[32], const uint8_t key[32], const uint8_t *a, size_t n_a, uint8_t last)
{
	crypto_auth_hmacsha256_state st;

	crypto_auth_hmacsha256_init(&st, key, 32);
	if (n_a)
		crypto_auth_hmacsha256_update(&st, a, n_a);
	if (last)
		crypto_auth_hmacsha256_update(&st, &last, 1);
	crypto_auth_hmacsha256_final(&st, out);
}

/* HKDF of section 4.3, three outputs; o3 may be NULL. */
static void hkdf(const uint8_t ck[32], const uint8_t *ikm, size_t n_ikm, uint8_t o1[32],
                 uint8_t o2[32], uint8_t o3[32])
{
	uint8_t temp[32], t1[32], t2[32];

	hmac(temp, ck, ikm, n_ikm, 0);
	hmac(t1, temp, NULL, 0, 1);
	hmac(t2, temp, t1, 32, 2);
	if (o3)
		hmac(o3, temp, t2, 32, 3);
	memcpy(o1, t1, 32);
	memcpy(o2, t2, 32);
	sodium_memzero(temp, sizeof(temp));
	sodium_memzero(t1, sizeof(t1));
	sodium_memzero(t2, sizeof(t2));
}

static void mix_hash(struct plx_noise *s, const uint8_t *p, size_t n)
{
	crypto_hash_sha256_state st;

	crypto_hash_sha256_init(&st);
	crypto_hash_sha256_update(&st, s->h, 32);
	if (n)
		crypto_hash_sha256_update(&st, p, n);
	crypto_hash_sha256_final(&st, s->h);
}

static void mix_key(struct plx_noise *s, const uint8_t ikm[32])
{
	hkdf(s->ck, ikm, 32, s->ck, s->k, NULL);
	s->n = 0;
}

static void mix_key_and_hash(struct plx_noise *s, const uint8_t psk[32])
{
	uint8_t temp_h[32];

	hkdf(s->ck, psk, 32, s->ck, temp_h, s->k);
	mix_hash(s, temp_h, 32);
	s->n = 0;
}

/* Nonce of section 12: 32 zero bits, then n little-endian. */
static void nonce_of(uint8_t nonce[12], uint64_t n)
{
	memset(nonce, 0, 4);
	memcpy(nonce + 4, &n, 8);
}

static void encrypt_and_hash(struct plx_noise *s, uint8_t *out, const uint8_t *p, size_t n)
{
	uint8_t nonce[12];

	nonce_of(nonce, s->n++);
	crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, p, n, s->h, 32, NULL, nonce, s->k);
	mix_hash(s, out, n + 16);
}

static int decrypt_and_hash(struct plx_noise *s, uint8_t *out, const uint8_t *in, size_t n)
{
	uint8_t nonce[12];

	nonce_of(nonce, s->n++);
	if (crypto_aead_chacha20poly1305_ietf_decrypt_detached(out, NULL, in, n, in + n, s->h, 32,
	                                                       nonce, s->k))
		return PLX_E_AUTH;
	mix_hash(s, in, n + 16);
	return 0;
}

void plx_noise_begin(struct plx_noise *s, const uint8_t *prologue, size_t prologue_bytes,
                     const uint8_t psk[32], const uint8_t e_priv[32])
{
	memset(s, 0, sizeof(*s));
	crypto_hash_sha256(s->h, (const uint8_t *)protocol, sizeof(protocol) - 1);
	memcpy(s->ck, s->h, 32);
	mix_hash(s, prologue, prologue_bytes);
	memcpy(s->e_priv, e_priv, 32);
	crypto_scalarmult_base(s->e_pub, s->e_priv);
	mix_key_and_hash(s, psk);
}

/* "e": in a psk handshake the ephemeral is mixed into the key as well (section 9.2). */
static void mix_e(struct plx_noise *s, const uint8_t e[32])
{
	mix_hash(s, e, 32);
	mix_key(s, e);
}

static int mix_ee(struct plx_noise *s)
{
	uint8_t dh[32];

	if (crypto_scalarmult(dh, s->e_priv, s->re))
		return PLX_E_AUTH;
	mix_key(s, dh);
	sodium_memzero(dh, sizeof(dh));
	return 0;
}

void plx_noise_write1(struct plx_noise *s, uint8_t *out, const uint8_t *payload, size_t bytes)
{
	memcpy(out, s->e_pub, 32);
	mix_e(s, s->e_pub);
	encrypt_and_hash(s, out + 32, payload, bytes);
}

int plx_noise_read1(struct plx_noise *s, uint8_t *payload, const uint8_t *in, size_t bytes)
{
	memcpy(s->re, in, 32);
	mix_e(s, s->re);
	return decrypt_and_hash(s, payload, in + 32, bytes);
}

int plx_noise_write2(struct plx_noise *s, uint8_t *out, const uint8_t *payload, size_t bytes)
{
	memcpy(out, s->e_pub, 32);
	mix_e(s, s->e_pub);
	int err = mix_ee(s);

	if (!err)
		encrypt_and_hash(s, out + 32, payload, bytes);
	return err;
}

int plx_noise_read2(struct plx_noise *s, uint8_t *payload, const uint8_t *in, size_t bytes)
{
	struct plx_noise t = *s;

	memcpy(t.re, in, 32);
	mix_e(&t, t.re);
	int err = mix_ee(&t);

	if (!err)
		err = decrypt_and_hash(&t, payload, in + 32, bytes);
	if (!err)
		*s = t;
	sodium_memzero(&t, sizeof(t));
	return err;
}

void plx_noise_split(const struct plx_noise *s, uint8_t i2r[32], uint8_t r2i[32])
{
	hkdf(s->ck, NULL, 0, i2r, r2i, NULL);
}
