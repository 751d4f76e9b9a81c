/*
 * Noise_NNpsk0_25519_ChaChaPoly_SHA256, nothing more general: two messages.
 *
 *   -> psk, e, payload1      <- e, ee, payload2
 *
 * Source: The Noise Protocol Framework, revision 34, sections 5, 7.4, 9; checked against the
 * cacophony test vector of this name.
 */
#ifndef PLX_DATAPLANE_WIRE_NOISE_H
#define PLX_DATAPLANE_WIRE_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plx_noise {
	uint8_t ck[32], h[32], k[32];
	uint8_t e_priv[32], e_pub[32]; /* ours */
	uint8_t re[32];                /* theirs */
	uint64_t n;
};

/* plx_noise_begin - either side: protocol name, prologue, psk; e_priv is our ephemeral key. */
void plx_noise_begin(struct plx_noise *s, const uint8_t *prologue, size_t prologue_bytes,
                     const uint8_t psk[32], const uint8_t e_priv[32]);

/* plx_noise_write1 - initiator: ephemeral, then payload and its tag: 32 + bytes + 16 to out. */
void plx_noise_write1(struct plx_noise *s, uint8_t *out, const uint8_t *payload, size_t bytes);
/* plx_noise_read1 - responder: in is 32 + bytes + 16. Errors: AUTH. */
int plx_noise_read1(struct plx_noise *s, uint8_t *payload, const uint8_t *in, size_t bytes);
/* plx_noise_write2 - responder. Errors: AUTH, for a low-order ephemeral. */
int plx_noise_write2(struct plx_noise *s, uint8_t *out, const uint8_t *payload, size_t bytes);
/* plx_noise_read2 - initiator; s is unchanged on failure. Errors: AUTH. */
int plx_noise_read2(struct plx_noise *s, uint8_t *payload, const uint8_t *in, size_t bytes);
/* plx_noise_split - after message 2: secrets of initiator to responder, and back. */
void plx_noise_split(const struct plx_noise *s, uint8_t i2r[32], uint8_t r2i[32]);

#endif
