/*
 * A debug build aborts where the data path allocates: what an lcore runs is quiet, and the
 * allocator's hooks, which the sanitizers bring, ask whether the calling thread is.
 */
#ifndef PLX_FW_BASE_QUIET_H
#define PLX_FW_BASE_QUIET_H

#include <stdbool.h>

/*
 * plx_quiet_set - from now on the calling thread may not (true) or may (false) allocate or free;
 * returns what held before. Nothing happens in a release build.
 * Thread: any, for itself.
 */
#ifdef PLX_DEBUG
bool plx_quiet_set(bool quiet);
#else
static inline bool plx_quiet_set(bool quiet)
{
	(void)quiet;
	return false;
}
#endif

#endif
