/*
 * How much memory this process may still take before the kernel kills somebody for it.
 */
#ifndef PLX_FW_BASE_MEM_H
#define PLX_FW_BASE_MEM_H

#include <stdint.h>

/*
 * plx_mem_available - bytes that can be taken without swapping: MemAvailable of the machine, or
 * what the control groups (version 2) above this process leave, whichever is less. Reserved huge
 * pages do not count. UINT64_MAX where neither can be read.
 *
 * Thread: main; it reads files.
 * Source: Linux, Documentation/filesystems/proc.rst and admin-guide/cgroup-v2.rst.
 */
uint64_t plx_mem_available(void);

/* plx_mem_available_in - the same with /proc and /sys/fs/cgroup elsewhere, for tests. */
uint64_t plx_mem_available_in(const char *proc, const char *cgroup);

/*
 * plx_mem_huge_lock - between looking how many 2 MiB pages are free and taking them no other
 * polluxd of this machine shall take them. Returns a descriptor to close (-1: no huge pages here;
 * close takes that too).
 */
int plx_mem_huge_lock(void);

#endif
