/*
 * One seal and one open over two libraries; the cipher was chosen by the handshake.
 */
#include "dataplane/wire/crypt.h"

#include <string.h>

#include <sodium.h>

int plx_crypt_open(struct plx_crypt *x, bool aes, struct plx_diag *d)
{
	IMB_ARCH arch;

	*x = (struct plx_crypt){.ciphers = PLX_CIPHER_BIT(PLX_CIPHER_CHACHA20_POLY1305)};
	if (sodium_init() < 0)
		return plx_diag_set(d, PLX_E_INVAL, "libsodium did not start");
	if (!aes)
		return 0;
	x->mgr = alloc_mb_mgr(0);
	if (!x->mgr)
		return plx_diag_set(d, PLX_E_NOMEM, "libipsec-mb: no memory for its manager");
	uint64_t want = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;

	if ((x->mgr->features & want) != want) { /* emulated AES is slower than ChaCha20 */
		free_mb_mgr(x->mgr);
		x->mgr = NULL;
		return 0;
	}
	init_mb_mgr_auto(x->mgr, &arch);
	x->ciphers |= PLX_CIPHER_BIT(PLX_CIPHER_AES_256_GCM);
	return 0;
}

void plx_crypt_close(struct plx_crypt *x)
{
	if (x->mgr)
		free_mb_mgr(x->mgr);
	*x = (struct plx_crypt){0};
}

int plx_crypt_pick(uint32_t ours, uint32_t theirs)
{
	uint32_t both = ours & theirs;

	if (both & PLX_CIPHER_BIT(PLX_CIPHER_AES_256_GCM))
		return PLX_CIPHER_AES_256_GCM;
	if (both & PLX_CIPHER_BIT(PLX_CIPHER_CHACHA20_POLY1305))
		return PLX_CIPHER_CHACHA20_POLY1305;
	return PLX_E_UNSUPPORTED;
}

void plx_kdf(uint8_t out[32], const uint8_t secret[32], const char *label)
{
	crypto_auth_hmacsha256_state st;
	const uint8_t one = 1;

	crypto_auth_hmacsha256_init(&st, secret, 32);
	crypto_auth_hmacsha256_update(&st, (const uint8_t *)label, strlen(label));
	crypto_auth_hmacsha256_update(&st, &one, 1);
	crypto_auth_hmacsha256_final(&st, out);
	sodium_memzero(&st, sizeof(st));
}

void plx_aead_init(struct plx_aead *k, struct plx_crypt *x, enum plx_cipher cipher,
                   const uint8_t secret[PLX_SECRET_BYTES])
{
	uint8_t salt[32];

	k->cipher = (uint8_t)cipher;
	plx_kdf(k->key, secret, "pollux key");
	plx_kdf(salt, secret, "pollux salt");
	memcpy(k->salt, salt, sizeof(k->salt));
	if (cipher == PLX_CIPHER_AES_256_GCM)
		IMB_AES256_GCM_PRE(x->mgr, k->key, &k->gcm);
}

void plx_secret_next(uint8_t next[PLX_SECRET_BYTES], const uint8_t secret[PLX_SECRET_BYTES])
{
	plx_kdf(next, secret, "pollux next");
}

/* salt | pkt_num as it stands in the header */
static void nonce_of(uint8_t nonce[12], const struct plx_aead *k, const uint8_t *pkt)
{
	memcpy(nonce, k->salt, 4);
	memcpy(nonce + 4, pkt + offsetof(struct plx_hdr, pkt_num), 8);
}

void plx_seal(struct plx_crypt *x, const struct plx_aead *k, uint8_t *pkt, uint16_t payload_bytes)
{
	uint8_t nonce[12], *text = pkt + PLX_HDR_BYTES, *tag = text + payload_bytes;

	nonce_of(nonce, k, pkt);
	if (k->cipher == PLX_CIPHER_AES_256_GCM) {
		struct gcm_context_data ctx;

		IMB_AES256_GCM_ENC(x->mgr, &k->gcm, &ctx, text, text, payload_bytes, nonce, pkt,
		                   PLX_HDR_BYTES, tag, PLX_TAG_BYTES);
		return;
	}
	crypto_aead_chacha20poly1305_ietf_encrypt_detached(text, tag, NULL, text, payload_bytes,
	                                                   pkt, PLX_HDR_BYTES, NULL, nonce, k->key);
}

static int open_gcm(struct plx_crypt *x, const struct plx_aead *k, uint8_t *pkt,
                    uint16_t payload_bytes, const uint8_t nonce[12])
{
	struct gcm_context_data ctx;
	uint8_t tag[PLX_TAG_BYTES], *text = pkt + PLX_HDR_BYTES;

	IMB_AES256_GCM_DEC(x->mgr, &k->gcm, &ctx, text, text, payload_bytes, nonce, pkt,
	                   PLX_HDR_BYTES, tag, PLX_TAG_BYTES);
	return crypto_verify_16(tag, text + payload_bytes) ? PLX_E_AUTH : 0;
}

int plx_open(struct plx_crypt *x, const struct plx_aead *k, uint8_t *pkt, uint16_t payload_bytes)
{
	uint8_t nonce[12], *text = pkt + PLX_HDR_BYTES;

	nonce_of(nonce, k, pkt);
	if (k->cipher == PLX_CIPHER_AES_256_GCM)
		return open_gcm(x, k, pkt, payload_bytes, nonce);
	return crypto_aead_chacha20poly1305_ietf_decrypt_detached(text, NULL, text, payload_bytes,
	                                                          text + payload_bytes, pkt,
	                                                          PLX_HDR_BYTES, nonce, k->key)
	           ? PLX_E_AUTH
	           : 0;
}

/* ---- replay window --------------------------------------------------------------------------- */

int plx_replay_check(const struct plx_replay *r, uint64_t pkt_num)
{
	if (pkt_num >= r->next)
		return pkt_num == UINT64_MAX ? PLX_E_REPLAY : 0;
	if (r->next - pkt_num > PLX_REPLAY_BITS)
		return PLX_E_REPLAY;
	uint64_t word = r->word[(pkt_num / 64) % PLX_REPLAY_WORDS];

	return (word >> (pkt_num % 64)) & 1 ? PLX_E_REPLAY : 0;
}

void plx_replay_mark(struct plx_replay *r, uint64_t pkt_num)
{
	if (pkt_num >= r->next) {
		/* Words that the window newly enters begin empty; one lap clears them all. */
		uint64_t from = r->next ? (r->next - 1) / 64 + 1 : 0, to = pkt_num / 64;

		if (to >= from + PLX_REPLAY_WORDS)
			from = to - PLX_REPLAY_WORDS + 1;
		for (uint64_t w = from; w <= to; w++)
			r->word[w % PLX_REPLAY_WORDS] = 0;
		r->next = pkt_num + 1;
	}
	r->word[(pkt_num / 64) % PLX_REPLAY_WORDS] |= UINT64_C(1) << (pkt_num % 64);
}
