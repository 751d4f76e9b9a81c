/*
 * What a thread asks of the kernel and of the allocator, counted exactly and by name, from within.
 *
 * A watch is a stage: placed on an lcore beside the stages under test, it starts and stops the
 * count between two turns. System calls are counted by a seccomp filter of that thread alone, which
 * turns each into a signal whose handler counts it and carries it out; it needs no tracing in the
 * kernel, no privilege and no other process, and slows only what is counted. Page faults are the
 * thread's own (getrusage). Allocations are counted by tests/alloc_hook.c, which a program that
 * watches links with (EXTRA_ in tests.mk).
 */
#ifndef PLX_TESTS_LIB_WATCH_H
#define PLX_TESTS_LIB_WATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PLX_WATCH_CALLS 512

struct plx_watch {
	_Atomic int ask; /* set by another thread: PLX_WATCH_ON, then PLX_WATCH_OFF */
	_Atomic int at;  /* what the watched thread has taken up */
	bool filtered;
	int err; /* negative errno: the kernel refused the filter */
	uint64_t n_alloc;
	uint64_t n_minor, n_major; /* page faults */
	uint64_t n_calls;
	uint64_t call[PLX_WATCH_CALLS]; /* by system call number */
};

enum { PLX_WATCH_NONE, PLX_WATCH_ON, PLX_WATCH_OFF };

/* plx_watch_poll - the stage (state: a zeroed struct plx_watch). Thread: the watched one. */
uint32_t plx_watch_poll(void *state, uint64_t now_ns);

/* plx_watch_set - wait until the watched thread has taken it up. Returns its err. Thread: another.
 */
int plx_watch_set(struct plx_watch *w, int what);

/* plx_watch_name - "sendto"; a number where this file does not know the name. */
const char *plx_watch_name(uint32_t call);

/* plx_watch_allocs - of the calling thread so far. tests/alloc_hook.c has it; a program without
 * that file can't watch. */
__attribute__((weak)) uint64_t plx_watch_allocs(void);

#endif
