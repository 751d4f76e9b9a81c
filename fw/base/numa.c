/* Reads /sys/devices/system/node and binds by the bare system call, so that no library is needed.
 */
#include "fw/base/numa.h"

#include <linux/mempolicy.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fw/base/err.h"

#define N_NODES    64u
#define LINE_BYTES 4096
#define PATH_BYTES 512

static bool any_cpu(const uint64_t *cpus, unsigned long first, unsigned long last)
{
	for (unsigned long c = first; c <= last && c < 64ul * PLX_NUMA_CPU_WORDS; c++)
		if (cpus[c / 64] >> c % 64 & 1)
			return true;
	return false;
}

/* Whether a list such as "0-3,8-11" names one of the CPUs. */
static bool list_has(const char *list, const uint64_t *cpus)
{
	for (const char *p = list; *p >= '0' && *p <= '9';) {
		char *end;
		unsigned long first = strtoul(p, &end, 10), last = first;

		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		if (any_cpu(cpus, first, last))
			return true;
		p = *end == ',' ? end + 1 : end;
	}
	return false;
}

static bool node_has(const char *sys, uint32_t node, const uint64_t *cpus)
{
	char path[PATH_BYTES], line[LINE_BYTES];

	snprintf(path, sizeof(path), "%s/devices/system/node/node%u/cpulist", sys, node);
	FILE *f = fopen(path, "re");

	if (f == NULL)
		return false;
	bool has = fgets(line, sizeof(line), f) != NULL && list_has(line, cpus);

	fclose(f);
	return has;
}

uint64_t plx_numa_nodes_in(const char *sys, const uint64_t *cpus)
{
	uint64_t nodes = 0;

	for (uint32_t i = 0; i < N_NODES; i++)
		nodes |= (uint64_t)node_has(sys, i, cpus) << i;
	return nodes;
}

uint64_t plx_numa_nodes(const uint64_t *cpus)
{
	return plx_numa_nodes_in("/sys", cpus);
}

static int bind_pages(void *p, size_t bytes, int mode, uint64_t nodes)
{
	/* The kernel reads one bit less than it is told. */
	long rc = syscall(SYS_mbind, p, bytes, mode, &nodes, N_NODES + 1, 0);

	return rc == 0 ? PLX_E_OK : PLX_E_UNSUPPORTED;
}

int plx_numa_interleave(void *p, size_t bytes, uint64_t nodes)
{
	return bind_pages(p, bytes, MPOL_INTERLEAVE, nodes);
}

int plx_numa_prefer(void *p, size_t bytes, uint64_t nodes)
{
	return bind_pages(p, bytes, MPOL_PREFERRED, nodes & (~nodes + 1));
}
