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

#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/stream.h"

#define MAX_THREADS 64u
#define TRIAL_NS    (60 * PLX_NS_PER_MS)
#define MEASURE_NS  (600 * PLX_NS_PER_MS)
#define DOT_NS      (250 * PLX_NS_PER_MS)
#define DOT_STEPS   100000u
#define DOT_CHAINS  12u

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
	const struct stream_loop *read; /* NULL: dot */
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
	c->read->fn(c->buf[idx] + *off, STREAM_PASS_BYTES);
	*off = (*off + STREAM_PASS_BYTES) % STREAM_BYTES;
	return (double)STREAM_PASS_BYTES;
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

static void *take_buffer(void *arg)
{
	*(uint8_t **)arg = stream_buffer();
	return NULL;
}

static void take_buffers(struct crew *c)
{
	pthread_t thread[MAX_THREADS];

	for (uint32_t i = 0; i < c->n; i++)
		PLX_CHECK(pthread_create(&thread[i], NULL, take_buffer, &c->buf[i]) == 0);
	for (uint32_t i = 0; i < c->n; i++)
		pthread_join(thread[i], NULL);
}

static void bench_read(struct crew *c)
{
	const struct stream_loop *which = NULL;
	double best = 0, rate;

	take_buffers(c);
	for (uint32_t i = 0; (c->read = stream_loop(i)) != NULL; i++) {
		rate = crew_run(c, TRIAL_NS);
		if (rate > best) {
			best = rate;
			which = c->read;
		}
	}
	if (which == NULL) {
		printf("bench_stream: read: SKIPPED, no AVX2 here\n");
		return;
	}
	c->read = which;
	rate = crew_run(c, MEASURE_NS);
	printf("bench_stream: read, %u thread%s: %.2f GB/s (%s)\n", c->n, c->n > 1 ? "s" : "", rate,
	       which->name);
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
