/* Helper threads: starting one, and where it may run. */
#include "fw/base/thread.h"

#include <sched.h>
#include <signal.h>

#define STACK_BYTES (256u << 10)

int plx_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int rc = pthread_attr_init(&attr);

	if (rc != 0)
		return rc;
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(thread, &attr, fn, arg);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	(void)pthread_attr_destroy(&attr);
	return rc;
}

void plx_thread_keep_off(const uint64_t *cpus)
{
	cpu_set_t all, rest;

	CPU_ZERO(&all);
	for (uint32_t i = 0; i < CPU_SETSIZE; i++)
		CPU_SET(i, &all);
	rest = all;
	for (uint32_t i = 0; i < CPU_SETSIZE && i < 1024; i++)
		if ((cpus[i / 64] >> i % 64 & 1) != 0)
			CPU_CLR(i, &rest);
	/* Of these the kernel takes those that the process may have; none is an error. */
	if (sched_setaffinity(0, sizeof(rest), &rest) != 0)
		(void)sched_setaffinity(0, sizeof(all), &all);
}
