/*
 * What a stamp costs: a counter, a histogram, an event of the trace ring, each beside the same
 * loop without it; and the clock that most of them need. Medians of rounds, with their spread.
 */
#include <inttypes.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/base/share.h"
#include "fw/base/tick.h"

#define ROUNDS 41
#define TIMES  100000

enum what { NOTHING, COUNT, HIST, TRACE, CLOCK, TICK, TIMED, PACKET, WHATS };

static struct plx_share share;
static volatile uint64_t sink;

/* A packet: counted with its burst, its turn stamped with a clock and a histogram. */
static void packet(struct plx_page *p, uint64_t i)
{
	plx_count(p, PLX_M_IO_RX, 1);
	plx_hist_add(&p->hist[PLX_H_TURN], 1000 + (i & 1023));
	p->regime_ns[PLX_REGIME_BUSY] += i;
}

static void stamp(enum what w, struct plx_page *p, uint64_t i)
{
	struct plx_trace_ev ev = {.ns = i, .kind = PLX_TR_TOKEN, .req_id = i, .a = i};

	if (w == COUNT)
		plx_count(p, PLX_M_IO_RX, 1);
	else if (w == HIST)
		plx_hist_add(&p->hist[PLX_H_ITL], 1000 + (i * 7919 & 0xfffff));
	else if (w == TRACE)
		plx_trace(p, &ev);
	else if (w == CLOCK)
		sink = plx_clock_ns();
	else if (w == TICK)
		sink = plx_tick_ns();
	else if (w == TIMED) {
		ev.ns = plx_tick_ns();
		plx_trace(p, &ev);
	} else if (w == PACKET)
		packet(p, i);
	__asm__ volatile("" ::: "memory");
}

static double round_ns(enum what w)
{
	uint64_t begin = plx_clock_ns();

	switch (w) { /* so that each loop is compiled for its own */
	case COUNT:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(COUNT, &share.page[0], i);
		break;
	case HIST:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(HIST, &share.page[0], i);
		break;
	case TRACE:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(TRACE, &share.page[0], i);
		break;
	case CLOCK:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(CLOCK, &share.page[0], i);
		break;
	case TICK:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(TICK, &share.page[0], i);
		break;
	case TIMED:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(TIMED, &share.page[0], i);
		break;
	case PACKET:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(PACKET, &share.page[0], i);
		break;
	case NOTHING:
	case WHATS:
	default:
		for (uint64_t i = 0; i < TIMES; i++)
			stamp(NOTHING, &share.page[0], i);
	}
	return (double)(plx_clock_ns() - begin) / TIMES;
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static int open_instructions(void)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_HARDWARE,
	                               .size = sizeof(attr),
	                               .config = PERF_COUNT_HW_INSTRUCTIONS,
	                               .exclude_kernel = 1};

	return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

static void print_instructions(void)
{
	int fd = open_instructions();
	uint64_t empty = 0, with = 0;

	if (fd < 0) {
		puts("stamp: instructions a packet: no hardware counters on this machine");
		return;
	}
	for (int k = 0; k < 2; k++) {
		uint64_t *to = k == 0 ? &empty : &with;

		(void)ioctl(fd, PERF_EVENT_IOC_RESET, 0);
		(void)round_ns(k == 0 ? NOTHING : PACKET);
		if (read(fd, to, sizeof(*to)) != sizeof(*to))
			*to = 0;
	}
	printf("stamp: %.1f instructions a packet\n", (double)(with - empty) / TIMES);
	close(fd);
}

int main(void)
{
	static const char *const name[WHATS] = {"",
	                                        "counter",
	                                        "histogram",
	                                        "trace event",
	                                        "clock",
	                                        "stamps' clock",
	                                        "trace event with its clock",
	                                        "packet (count, histogram, regime)"};
	static double ns[WHATS][ROUNDS];
	struct plx_diag d = {0};
	char path[64];

	snprintf(path, sizeof(path), "/dev/shm/plx-bench-stamp-%d", (int)getpid());
	if (plx_share_create(&share, path, 1, 8192, &d) != 0) {
		printf("stamp: %s\n", d.text);
		return 1;
	}
	for (int r = 0; r < ROUNDS; r++)
		for (int w = 0; w < WHATS; w++)
			ns[w][r] = round_ns((enum what)w);
	plx_share_close(&share);
	for (int w = 0; w < WHATS; w++)
		qsort(ns[w], ROUNDS, sizeof(ns[w][0]), by_value);
	for (int w = 1; w < WHATS; w++)
		printf("stamp: %-34s %5.1f ns, %.1f to %.1f between quartiles\n", name[w],
		       ns[w][ROUNDS / 2] - ns[0][ROUNDS / 2], ns[w][ROUNDS / 4] - ns[0][ROUNDS / 2],
		       ns[w][3 * ROUNDS / 4] - ns[0][ROUNDS / 2]);
	print_instructions();
	return 0;
}
