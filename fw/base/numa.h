/*
 * Memory nodes: which ones a set of CPUs belongs to, and where the pages of a mapping shall lie.
 * On a machine of one node nothing here does anything.
 */
#ifndef PLX_FW_BASE_NUMA_H
#define PLX_FW_BASE_NUMA_H

#include <stddef.h>
#include <stdint.h>

#define PLX_NUMA_CPU_WORDS 16u /* of a bit map of CPUs: 1,024 of them */

/*
 * plx_numa_nodes - bit map of the nodes 0..63 that hold any of these CPUs.
 *
 * @cpus  in [PLX_NUMA_CPU_WORDS], bit cpu % 64 of word cpu / 64.
 *
 * Returns 0 where none is found: no CPU given, or a kernel that knows no nodes.
 * Thread: any; reads /sys.
 * Source: Linux, Documentation/admin-guide/cputopology.rst; the lists are "0-3,8-11".
 */
uint64_t plx_numa_nodes(const uint64_t *cpus);

/* plx_numa_nodes_in - the same with /sys elsewhere, for tests. */
uint64_t plx_numa_nodes_in(const char *sys, const uint64_t *cpus);

/*
 * plx_numa_interleave - deal the pages of [p, p + bytes) that are not made yet out to these nodes,
 * one by one.
 * plx_numa_prefer - make them on the first of these nodes, elsewhere only where that one is full.
 *
 * @p  start of a mapping.
 *
 * Errors: UNSUPPORTED (the kernel refuses): then pages lie where they are touched first.
 * Source: mbind(2).
 */
int plx_numa_interleave(void *p, size_t bytes, uint64_t nodes);
int plx_numa_prefer(void *p, size_t bytes, uint64_t nodes);

#endif
