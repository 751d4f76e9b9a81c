/*
 * The one clock for stamps, at half its cost: the time-stamp counter, laid over plx_clock_ns() anew
 * every millisecond. Within 1 us of it, and it never goes back on one thread; between two threads
 * it may, by as much. So it is for the times of events, which their reader puts in order, and not
 * for durations between threads.
 */
#ifndef PLX_FW_BASE_TICK_H
#define PLX_FW_BASE_TICK_H

#include <stdint.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "fw/base/clock.h"

#define PLX_TICK_SHIFT 24

/* A thread's last look at the clock. until 0: it has to look at each time. */
struct plx_tick {
	uint64_t tsc, ns; /* the counter then, and what was said then */
	uint64_t until;   /* ticks that may pass before the next look */
	uint64_t mult;    /* ns a tick, shifted left by PLX_TICK_SHIFT */
	uint64_t first_tsc, first_ns;
};

/* plx_tick_look - look at the clock, and return what it says or the last answer, if later. */
uint64_t plx_tick_look(struct plx_tick *t);

extern _Thread_local struct plx_tick plx_tick_own;

/*
 * plx_tick_ns - now, as plx_clock_ns().
 *
 * Where the counter is none to rely on, it is plx_clock_ns() itself.
 * Thread: any.  Cost: about 11 ns, and 100 ns once a millisecond.
 */
static inline uint64_t plx_tick_ns(void)
{
#if defined(__x86_64__)
	struct plx_tick *t = &plx_tick_own;
	uint64_t passed = __rdtsc() - t->tsc;

	/* A counter that went back has passed nearly all there is. */
	if (__builtin_expect(passed < t->until, 1))
		return t->ns + (passed * t->mult >> PLX_TICK_SHIFT);
	return plx_tick_look(t);
#else
	return plx_clock_ns();
#endif
}

#endif
