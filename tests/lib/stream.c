/* Loops that read memory as fast as this machine can; buffers for them. */
#include "tests/lib/stream.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <immintrin.h>

#include "fw/base/check.h"

#define N_SPACE      4u /* streams of a loop with several: that many equal parts */
#define PREFETCH_OFF 4096u

static volatile uint64_t sink;

/* ---- loops that read ------------------------------------------------------------------------- */

/* One stream, with or without prefetch; the adds keep up with any memory. */
#define READ_512(name, prefetch)                                                                   \
	__attribute__((target("avx512f"))) static void name(const uint8_t *p, size_t bytes)        \
	{                                                                                          \
		__m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;                           \
                                                                                                   \
		for (size_t i = 0; i < bytes; i += 256) {                                          \
			prefetch(p + i);                                                           \
			a = _mm512_xor_si512(a, _mm512_load_si512(p + i));                         \
			b = _mm512_xor_si512(b, _mm512_load_si512(p + i + 64));                    \
			c = _mm512_xor_si512(c, _mm512_load_si512(p + i + 128));                   \
			d = _mm512_xor_si512(d, _mm512_load_si512(p + i + 192));                   \
		}                                                                                  \
		a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));              \
		sink = (uint64_t)_mm512_reduce_or_epi64(a);                                        \
	}

static inline __attribute__((always_inline)) void ahead_none(const uint8_t *p)
{
	(void)p;
}

static inline __attribute__((always_inline)) void ahead_far(const uint8_t *p)
{
	for (uint32_t i = 0; i < 256; i += 64)
		_mm_prefetch((const char *)p + PREFETCH_OFF + i, _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void ahead_near(const uint8_t *p)
{
	for (uint32_t i = 0; i < 256; i += 64)
		_mm_prefetch((const char *)p + PREFETCH_OFF / 4 + i, _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void ahead_nta(const uint8_t *p)
{
	for (uint32_t i = 0; i < 256; i += 64)
		_mm_prefetch((const char *)p + PREFETCH_OFF + i, _MM_HINT_NTA);
}

READ_512(read_plain, ahead_none)
READ_512(read_near, ahead_near)
READ_512(read_far, ahead_far)
READ_512(read_nta, ahead_nta)

/* Four streams side by side, each its quarter of the part: four rows of banks are open at once. */
__attribute__((target("avx512f"))) static void read_four(const uint8_t *p, size_t bytes)
{
	__m512i a[N_SPACE];
	size_t part = bytes / N_SPACE;

	for (uint32_t s = 0; s < N_SPACE; s++)
		a[s] = _mm512_setzero_si512();
	for (size_t i = 0; i < part; i += 128)
		for (uint32_t s = 0; s < N_SPACE; s++) {
			const uint8_t *at = p + s * part + i;

			_mm_prefetch((const char *)at + PREFETCH_OFF / 2, _MM_HINT_T0);
			_mm_prefetch((const char *)at + PREFETCH_OFF / 2 + 64, _MM_HINT_T0);
			a[s] = _mm512_xor_si512(a[s], _mm512_load_si512(at));
			a[s] = _mm512_xor_si512(a[s], _mm512_load_si512(at + 64));
		}
	a[0] = _mm512_xor_si512(_mm512_xor_si512(a[0], a[1]), _mm512_xor_si512(a[2], a[3]));
	sink = (uint64_t)_mm512_reduce_or_epi64(a[0]);
}

__attribute__((target("avx2"))) static void read_avx2(const uint8_t *p, size_t bytes)
{
	__m256i a = _mm256_setzero_si256(), b = a;

	for (size_t i = 0; i < bytes; i += 256) {
		ahead_far(p + i);
		for (uint32_t j = 0; j < 256; j += 64) {
			a = _mm256_xor_si256(a, _mm256_load_si256((const void *)(p + i + j)));
			b = _mm256_xor_si256(b, _mm256_load_si256((const void *)(p + i + j + 32)));
		}
	}
	sink = (uint64_t)_mm256_extract_epi64(_mm256_xor_si256(a, b), 0);
}

static const struct stream_loop loops[] = {
    {"512 bits", read_plain, true},
    {"512 bits, prefetch 1 KiB ahead", read_near, true},
    {"512 bits, prefetch 4 KiB ahead", read_far, true},
    {"512 bits, prefetch 4 KiB ahead, non-temporal", read_nta, true},
    {"512 bits, four streams a thread", read_four, true},
    {"256 bits, prefetch 4 KiB ahead", read_avx2, false},
};

const struct stream_loop *stream_loop(uint32_t i)
{
	for (uint32_t j = 0; j < sizeof loops / sizeof loops[0]; j++) {
		if (!(loops[j].wide ? __builtin_cpu_supports("avx512f")
		                    : __builtin_cpu_supports("avx2")))
			continue;
		if (i-- == 0)
			return &loops[j];
	}
	return NULL;
}

uint8_t *stream_buffer(void)
{
	const size_t huge = (size_t)2 << 20;
	uint8_t *p = mmap(NULL, STREAM_BYTES + huge, PROT_READ | PROT_WRITE,
	                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	PLX_CHECK(p != MAP_FAILED);
	/* Whole huge pages; the rest of the mapping is never touched. */
	p += -(uintptr_t)p & (huge - 1);
	(void)madvise(p, STREAM_BYTES, MADV_HUGEPAGE);
	memset(p, 0x5a, STREAM_BYTES);
	return p;
}
