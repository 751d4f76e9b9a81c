/*
 * Reading memory as fast as this machine can: the limit that decode is held against.
 */
#ifndef PLX_TESTS_LIB_STREAM_H
#define PLX_TESTS_LIB_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_BYTES      ((size_t)512 << 20) /* of a thread's buffer, far beyond the caches */
#define STREAM_PASS_BYTES ((size_t)32 << 20)  /* between two looks at the clock */

/* One way to read: streams side by side, prefetch distance. */
struct stream_loop {
	const char *name;
	void (*fn)(const uint8_t *p, size_t bytes); /* bytes: a multiple of 512 */
	bool wide;                                  /* needs AVX-512 */
};

/* stream_loop - the i-th of the loops that this machine can run; NULL behind the last. */
const struct stream_loop *stream_loop(uint32_t i);

/*
 * stream_buffer - STREAM_BYTES in huge pages where the kernel gives them, touched by the caller,
 * so that they may lie near to it. Never freed.
 */
uint8_t *stream_buffer(void);

#endif
