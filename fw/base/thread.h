/*
 * Helper threads that wait for disks, so that no lcore has to.
 */
#ifndef PLX_FW_BASE_THREAD_H
#define PLX_FW_BASE_THREAD_H

#include <pthread.h>
#include <stdint.h>

/*
 * plx_thread_start - a thread with a stack of 256 KiB and all signals blocked, which are for the
 * thread that waits for them.
 *
 * Owner:  the caller; pthread_join.  Thread: any that may allocate.
 * Errors: as pthread_create: 0 or an errno.
 */
int plx_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg);

/*
 * plx_thread_keep_off - the calling thread leaves the CPU that it inherited from the lcore that
 * started it: it goes where no lcore computes, if the process has such a CPU, else anywhere.
 *
 * @cpus  [16] bit map of the CPUs whose lcores compute.
 */
void plx_thread_keep_off(const uint64_t *cpus);

#endif
