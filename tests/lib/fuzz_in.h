/* A fuzzer's input as a stream of bytes; past its end they are zero. */
#ifndef PLX_TESTS_LIB_FUZZ_IN_H
#define PLX_TESTS_LIB_FUZZ_IN_H

#include <stddef.h>
#include <stdint.h>

struct plx_fuzz_in {
	const uint8_t *p;
	size_t left;
};

static inline uint8_t plx_fuzz_take(struct plx_fuzz_in *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->p++;
}

#endif
