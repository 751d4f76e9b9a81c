/* The machine polluxd runs on: what a board file can be wrong about, and the log's first lines. */
#ifndef PLX_FW_MACHINE_H
#define PLX_FW_MACHINE_H

#include <stdint.h>

/* What the machine has, as far as a board file can be wrong about it. */
struct plx_machine {
	uint32_t n_cpus;          /* highest CPU number + 1 */
	uint64_t cpu_allowed[16]; /* bit map of CPUs this process may run on */
};

/* plx_machine_probe - look at the machine this process runs on. */
void plx_machine_probe(struct plx_machine *m);

/* plx_machine_log - CPU, memory, huge pages: what was found, one line each. */
void plx_machine_log(const struct plx_machine *m);

#endif
