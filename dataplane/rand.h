/*
 * Random bytes without a system call: ChaCha20 with its key replaced after every use, so that what
 * was given out can't be computed from what is kept. Seeded once from the kernel.
 * Source: Bernstein, "Fast-key-erasure random-number generators", 2017.
 */
#ifndef PLX_DATAPLANE_RAND_H
#define PLX_DATAPLANE_RAND_H

#include <stdint.h>
#include <string.h>

#include <sodium.h>

struct plx_rand {
	uint8_t seed[randombytes_SEEDBYTES];
};

/* plx_rand_open - seed it. Thread: at start; enters the kernel. */
static inline void plx_rand_open(struct plx_rand *r)
{
	randombytes_buf(r->seed, sizeof(r->seed));
}

/* plx_rand_32 - 32 random bytes. Thread: the generator's owner.  Cost: about 200 ns. */
static inline void plx_rand_32(struct plx_rand *r, uint8_t out[32])
{
	uint8_t buf[randombytes_SEEDBYTES + 32];

	randombytes_buf_deterministic(buf, sizeof(buf), r->seed);
	memcpy(r->seed, buf, sizeof(r->seed));
	memcpy(out, buf + sizeof(r->seed), 32);
	sodium_memzero(buf, sizeof(buf));
}

/* plx_rand_u64 - 8 random bytes, never 0. */
static inline uint64_t plx_rand_u64(struct plx_rand *r)
{
	uint8_t b[32];
	uint64_t v;

	plx_rand_32(r, b);
	memcpy(&v, b, sizeof(v));
	return v != 0 ? v : 1;
}

#endif
