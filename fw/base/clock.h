/*
 * The one clock: nanoseconds of CLOCK_MONOTONIC, the same time base as bpf_ktime_get_ns(), so that
 * a stage's stamps and the kernel's events can be laid side by side. Read through the vDSO: no
 * system call on a host whose clock source is the TSC.
 */
#ifndef PLX_FW_BASE_CLOCK_H
#define PLX_FW_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define PLX_NS_PER_US UINT64_C(1000)
#define PLX_NS_PER_MS UINT64_C(1000000)
#define PLX_NS_PER_S  UINT64_C(1000000000)

/* plx_clock_ns - now. Thread: any.  Cost: about 20 ns. */
static inline uint64_t plx_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * PLX_NS_PER_S + (uint64_t)ts.tv_nsec;
}

#endif
