/* Lays the time-stamp counter over the clock; see tick.h. */
#include "fw/base/tick.h"

#include <stdbool.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define LOOK_NS  PLX_NS_PER_MS
#define LEARN_NS PLX_NS_PER_MS /* a rate is measured over that at least */
#define TRIES    4
#define INVARIANT                                                                                  \
	(1u << 8) /* CPUID 80000007h, EDX: it counts at one rate, whatever the core does */
#define LEAF_POWER 0x80000007u

_Thread_local struct plx_tick plx_tick_own;

#if defined(__x86_64__)
static bool is_invariant(void)
{
	unsigned int a, b, c, d;

	return __get_cpuid(LEAF_POWER, &a, &b, &c, &d) != 0 && (d & INVARIANT) != 0;
}

/* Counter and clock of one moment: of a few looks the one that was least disturbed. */
static void pair(uint64_t *tsc, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		uint64_t a = __rdtsc(), now = plx_clock_ns(), b = __rdtsc();

		if (b - a >= best)
			continue;
		best = b - a;
		*tsc = a + (b - a) / 2;
		*ns = now;
	}
}

uint64_t plx_tick_look(struct plx_tick *t)
{
	uint64_t tsc = 0, ns = 0, last = t->ns + (t->until * t->mult >> PLX_TICK_SHIFT);

	if (t->first_ns == UINT64_MAX)
		return plx_clock_ns();
	pair(&tsc, &ns);
	if (t->first_ns == 0 || tsc <= t->first_tsc) {
		*t = (struct plx_tick){.first_tsc = tsc,
		                       .first_ns = is_invariant() ? ns : UINT64_MAX};
		return ns;
	}
	if (ns - t->first_ns < LEARN_NS)
		return ns;
	uint64_t ticks = tsc - t->first_tsc, passed = ns - t->first_ns;

	t->mult = (uint64_t)((double)passed / (double)ticks * (1u << PLX_TICK_SHIFT));
	t->until = ticks / (passed / LOOK_NS);
	t->tsc = tsc;
	t->ns = ns > last ? ns : last;
	/* The next rate is that of the time from now on: the clock is being steered. */
	if (passed > PLX_NS_PER_S) {
		t->first_tsc = tsc;
		t->first_ns = ns;
	}
	return t->ns;
}
#else
uint64_t plx_tick_look(struct plx_tick *t)
{
	(void)t;
	return plx_clock_ns();
}
#endif
