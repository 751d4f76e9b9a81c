/*
 * Sealing packets: AES-256-GCM through libipsec-mb where the CPU has AES, ChaCha20-Poly1305 (IETF)
 * from libsodium anywhere; keys for each direction and epoch; the replay window.
 *
 *   secret[e+1] = HMAC-SHA256(secret[e], "pollux next" 0x01)
 *   key[e]      = HMAC-SHA256(secret[e], "pollux key" 0x01)
 *   salt[e]     = first 4 bytes of HMAC-SHA256(secret[e], "pollux salt" 0x01)
 *   nonce       = salt | pkt_num (8 bytes, little-endian)
 *   additional data = the packet's 32-byte header
 *
 * (HKDF-Expand of RFC 5869 for one block.) secret[0] of each direction comes from the handshake.
 */
#ifndef PLX_DATAPLANE_WIRE_CRYPT_H
#define PLX_DATAPLANE_WIRE_CRYPT_H

#include <intel-ipsec-mb.h>

#include "dataplane/wire/proto.h"
#include "fw/base/diag.h"

enum plx_cipher {
	PLX_CIPHER_CHACHA20_POLY1305 = 1,
	PLX_CIPHER_AES_256_GCM = 2,
};
/* Bit of a cipher in HELLO's mask. */
#define PLX_CIPHER_BIT(c) (1u << (c))

#define PLX_SECRET_BYTES 32u
#define PLX_EPOCH_LIMIT  (UINT64_C(1) << 23) /* packets under one key, never reached */
#define PLX_EPOCH_REKEY  (UINT64_C(1) << 22) /* from here on the sender rekeys */

/*
 * What a thread needs to seal and open: libipsec-mb's manager. One for each lcore, made at start.
 * Never shared between threads.
 */
struct plx_crypt {
	IMB_MGR *mgr;     /* NULL where the CPU has no AES or forced off */
	uint32_t ciphers; /* PLX_CIPHER_BIT mask that this CPU runs */
};

/*
 * plx_crypt_open - initialise libsodium and, where the CPU has AES and PCLMUL, libipsec-mb.
 *
 * @aes  false leaves AES out (as on a CPU without it).
 *
 * Thread: the one that will use it; allocates, so at start only.
 * Errors: NOMEM, INVAL (libsodium refused), each with a message in d.
 */
int plx_crypt_open(struct plx_crypt *x, bool aes, struct plx_diag *d);

/* plx_crypt_close - free it; one that was never opened is accepted if zeroed. */
void plx_crypt_close(struct plx_crypt *x);

/* plx_crypt_pick - the best cipher in both masks (AES before ChaCha), or UNSUPPORTED. */
int plx_crypt_pick(uint32_t ours, uint32_t theirs);

/* A key ready for use: one direction, one epoch. About 1.3 KiB. */
struct plx_aead {
	_Alignas(64) struct gcm_key_data gcm;
	uint8_t key[32]; /* ChaCha20-Poly1305 */
	uint8_t salt[4];
	uint8_t cipher; /* enum plx_cipher */
	uint8_t zero[3];
};

/* plx_aead_init - expand key and salt out of an epoch's secret. Cost: about 2 us. */
void plx_aead_init(struct plx_aead *k, struct plx_crypt *x, enum plx_cipher cipher,
                   const uint8_t secret[PLX_SECRET_BYTES]);

/* plx_secret_next - secret of the next epoch; next may be secret itself. */
void plx_secret_next(uint8_t next[PLX_SECRET_BYTES], const uint8_t secret[PLX_SECRET_BYTES]);

/*
 * plx_seal - encrypt the payload in place and append the tag.
 *
 * @pkt  32-byte header as it will be sent, payload_bytes of plain text, room for 16 more.
 *
 * Thread: x's.  Cost: 60 ns for 256 bytes, 170 ns for 1,400 with AES; no system call.
 */
void plx_seal(struct plx_crypt *x, const struct plx_aead *k, uint8_t *pkt, uint16_t payload_bytes);

/*
 * plx_open - check the tag and decrypt in place.
 *
 * Errors: AUTH; the payload's bytes are then undefined.
 */
int plx_open(struct plx_crypt *x, const struct plx_aead *k, uint8_t *pkt, uint16_t payload_bytes);

/* plx_kdf - HMAC-SHA256 of a string label and one byte 0x01: HKDF-Expand for a single block. */
void plx_kdf(uint8_t out[32], const uint8_t secret[32], const char *label);

/*
 * The replay window: 1,024 packet numbers below the largest opened. One for all epochs of a
 * direction. Check before opening, move only after the packet opened.
 * Source: RFC 6479's blocks, here as a ring of 64-bit words.
 */
#define PLX_REPLAY_BITS  1024u
#define PLX_REPLAY_WORDS (PLX_REPLAY_BITS / 64u + 1u)
struct plx_replay {
	uint64_t next; /* one above the largest opened; 0: none yet */
	uint64_t word[PLX_REPLAY_WORDS];
};

/* plx_replay_check - 0 if pkt_num may still be opened, REPLAY if seen or below the window. */
int plx_replay_check(const struct plx_replay *r, uint64_t pkt_num);
/* plx_replay_mark - pkt_num was opened. */
void plx_replay_mark(struct plx_replay *r, uint64_t pkt_num);

#endif
