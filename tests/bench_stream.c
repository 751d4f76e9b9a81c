/*
 * What the machine can do at all: bytes read a second, and int8 multiply-adds a second.
 *
 *   bench_stream [threads (2) [read | dot]]
 *
 * Reading: each thread has a buffer of its own far beyond the caches, in huge pages where the
 * kernel gives them, and adds up all of it again and again, with the loop that is fastest here
 * (streams side by side, prefetch distance). Multiplying: the dot instruction alone, on registers,
 * with enough chains to fill its ports. Thread i runs on CPU i, as lane i of bench_device does.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <immintrin.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"

#define MAX_THREADS  64u
#define BUF_BYTES    ((size_t)512 << 20)
#define PASS_BYTES   ((size_t)32 << 20) /* between two looks at the clock */
#define TRIAL_NS     (60 * PLX_NS_PER_MS)
#define MEASURE_NS   (600 * PLX_NS_PER_MS)
#define DOT_NS       (250 * PLX_NS_PER_MS)
#define DOT_STEPS    100000u
#define DOT_CHAINS   12u
#define N_SPACE      4u /* streams of a loop with several: that many equal parts */
#define PREFETCH_OFF 4096u

static volatile uint64_t sink;

/* ---- loops that read ------------------------------------------------------------------------- */

typedef void (*read_fn)(const uint8_t *p, size_t bytes);

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

static const struct {
	const char *name;
	read_fn fn;
	bool wide; /* needs AVX-512 */
} loops[] = {
    {"512 bits", read_plain, true},
    {"512 bits, prefetch 1 KiB ahead", read_near, true},
    {"512 bits, prefetch 4 KiB ahead", read_far, true},
    {"512 bits, prefetch 4 KiB ahead, non-temporal", read_nta, true},
    {"512 bits, four streams a thread", read_four, true},
    {"256 bits, prefetch 4 KiB ahead", read_avx2, false},
};

#define N_LOOPS (sizeof loops / sizeof loops[0])

/* ---- loops that multiply --------------------------------------------------------------------- */

/* DOT_STEPS x DOT_CHAINS dot instructions; returns multiply-adds times two. */
typedef double (*dot_fn)(void);

/* Twelve chains in registers, in assembly, so that no compiler keeps them elsewhere. */
#define DOT(vex, r, i) vex "vpdpbusd %%" r "0, %%" r "1, %%" r #i "\n"
#define DOT_LOOP(vex, r)                                                                           \
	"1:\n" DOT(vex, r, 2) DOT(vex, r, 3) DOT(vex, r, 4) DOT(vex, r, 5) DOT(vex, r, 6)          \
	    DOT(vex, r, 7) DOT(vex, r, 8) DOT(vex, r, 9) DOT(vex, r, 10) DOT(vex, r, 11)           \
		DOT(vex, r, 12) DOT(vex, r, 13) "dec %0\njnz 1b\n"

#define DOT_CLOBBERS                                                                               \
	"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",      \
	    "xmm10", "xmm11", "xmm12", "xmm13"

__attribute__((target("avx512f,avx512vnni"))) static double dot_512(void)
{
	uint64_t n = DOT_STEPS;

	__asm__ volatile(DOT_LOOP("", "zmm") : "+r"(n) : : DOT_CLOBBERS);
	return 128.0 * DOT_CHAINS * DOT_STEPS;
}

__attribute__((target("avxvnni,avx2"))) static double dot_256(void)
{
	uint64_t n = DOT_STEPS;

	__asm__ volatile(DOT_LOOP("%{vex%} ", "ymm") : "+r"(n) : : DOT_CLOBBERS);
	return 64.0 * DOT_CHAINS * DOT_STEPS;
}

/* ---- all threads at once --------------------------------------------------------------------- */

struct crew {
	uint32_t n;
	read_fn read; /* NULL: dot */
	dot_fn dot;
	uint64_t time_ns;
	pthread_barrier_t start;
	_Atomic bool stop;
	uint8_t *buf[MAX_THREADS];
	double done[MAX_THREADS]; /* bytes, or operations */
	uint64_t begin_ns[MAX_THREADS], end_ns[MAX_THREADS];
};

struct hand {
	struct crew *crew;
	uint32_t idx;
};

/* Where the machine has no such CPU the thread stays where it is. */
static void pin(uint32_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static double one_piece(struct crew *c, uint32_t idx, size_t *off)
{
	if (c->read == NULL)
		return c->dot();
	c->read(c->buf[idx] + *off, PASS_BYTES);
	*off = (*off + PASS_BYTES) % BUF_BYTES;
	return (double)PASS_BYTES;
}

/* Work until somebody's time is up, so that all threads run to the end. */
static void *hand_main(void *arg)
{
	const struct hand *h = arg;
	struct crew *c = h->crew;
	uint64_t now;
	size_t off = 0;

	pin(h->idx);
	(void)pthread_barrier_wait(&c->start);
	c->begin_ns[h->idx] = now = plx_clock_ns();
	while (!atomic_load_explicit(&c->stop, memory_order_relaxed)) {
		c->done[h->idx] += one_piece(c, h->idx, &off);
		now = plx_clock_ns();
		if (now - c->begin_ns[h->idx] >= c->time_ns)
			atomic_store_explicit(&c->stop, true, memory_order_relaxed);
	}
	c->end_ns[h->idx] = now;
	return NULL;
}

/* Sum of the threads' rates, each over its own time; they differ by less than one piece. */
static double crew_run(struct crew *c, uint64_t time_ns)
{
	struct hand hand[MAX_THREADS];
	pthread_t thread[MAX_THREADS];
	double rate = 0;

	c->time_ns = time_ns;
	atomic_store(&c->stop, false);
	memset(c->done, 0, sizeof c->done);
	PLX_CHECK(pthread_barrier_init(&c->start, NULL, c->n) == 0);
	for (uint32_t i = 0; i < c->n; i++) {
		hand[i] = (struct hand){.crew = c, .idx = i};
		PLX_CHECK(pthread_create(&thread[i], NULL, hand_main, &hand[i]) == 0);
	}
	for (uint32_t i = 0; i < c->n; i++) {
		pthread_join(thread[i], NULL);
		rate += c->done[i] / (double)(c->end_ns[i] - c->begin_ns[i]);
	}
	pthread_barrier_destroy(&c->start);
	return rate; /* a nanosecond, so in units of 1e9 a second */
}

/* ---- figures --------------------------------------------------------------------------------- */

static void *fill(void *arg)
{
	memset(arg, 0x5a, BUF_BYTES);
	return NULL;
}

/* Each buffer is first touched by a thread of its own, so that it may lie near to it. */
static void take_buffers(struct crew *c)
{
	pthread_t thread[MAX_THREADS];

	for (uint32_t i = 0; i < c->n; i++) {
		c->buf[i] = mmap(NULL, BUF_BYTES + ((size_t)2 << 20), PROT_READ | PROT_WRITE,
		                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		PLX_CHECK(c->buf[i] != MAP_FAILED);
		/* Whole huge pages; the rest of the mapping is never touched. */
		c->buf[i] += -(uintptr_t)c->buf[i] & (((size_t)2 << 20) - 1);
		(void)madvise(c->buf[i], BUF_BYTES, MADV_HUGEPAGE);
		PLX_CHECK(pthread_create(&thread[i], NULL, fill, c->buf[i]) == 0);
	}
	for (uint32_t i = 0; i < c->n; i++)
		pthread_join(thread[i], NULL);
}

static void bench_read(struct crew *c)
{
	double best = 0, rate;
	size_t which = N_LOOPS;

	take_buffers(c);
	for (size_t i = 0; i < N_LOOPS; i++) {
		if (!(loops[i].wide ? __builtin_cpu_supports("avx512f")
		                    : __builtin_cpu_supports("avx2")))
			continue;
		c->read = loops[i].fn;
		rate = crew_run(c, TRIAL_NS);
		if (rate > best) {
			best = rate;
			which = i;
		}
	}
	if (which == N_LOOPS) {
		printf("bench_stream: read: SKIPPED, no AVX2 here\n");
		return;
	}
	c->read = loops[which].fn;
	rate = crew_run(c, MEASURE_NS);
	printf("bench_stream: read, %u thread%s: %.2f GB/s (%s)\n", c->n, c->n > 1 ? "s" : "", rate,
	       loops[which].name);
}

static void bench_dot(struct crew *c)
{
	const char *name = "dpbusd, 512 bits";

	c->read = NULL;
	if (__builtin_cpu_supports("avx512vnni")) {
		c->dot = dot_512;
	} else if (__builtin_cpu_supports("avxvnni")) {
		c->dot = dot_256;
		name = "dpbusd, 256 bits";
	} else {
		printf("bench_stream: dot: SKIPPED, no VNNI here\n");
		return;
	}
	(void)crew_run(c, DOT_NS / 4);
	printf("bench_stream: dot, %u thread%s: %.0f Gop/s (%s)\n", c->n, c->n > 1 ? "s" : "",
	       crew_run(c, DOT_NS), name);
}

int main(int argc, char **argv)
{
	static struct crew c;
	const char *part = argc > 2 ? argv[2] : "";

	c.n = argc > 1 ? (uint32_t)atoi(argv[1]) : 2;
	if (c.n < 1 || c.n > MAX_THREADS) {
		fprintf(stderr, "bench_stream: give 1 to %u threads\n", MAX_THREADS);
		return 1;
	}
	if (strcmp(part, "dot") != 0)
		bench_read(&c);
	if (strcmp(part, "read") != 0)
		bench_dot(&c);
	return 0;
}
