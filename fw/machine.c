/* Asks the kernel and /proc what this machine is. */
#include "fw/machine.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "fw/base/log.h"
#include "fw/base/mem.h"

#define LINE_BYTES 256
#define HUGE_DIR   "/sys/kernel/mm/hugepages/hugepages-2048kB/"

void plx_machine_probe(struct plx_machine *m)
{
	cpu_set_t set;
	long n = sysconf(_SC_NPROCESSORS_CONF);

	memset(m, 0, sizeof(*m));
	m->n_cpus = n > 0 ? (uint32_t)n : 1;
	if (m->n_cpus > 1024)
		m->n_cpus = 1024;
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		CPU_ZERO(&set);
	for (uint32_t i = 0; i < m->n_cpus; i++)
		if (CPU_ISSET(i, &set))
			m->cpu_allowed[i / 64] |= UINT64_C(1) << (i % 64);
}

/* The value behind "key :" in a file of such lines; "" where it is not there. */
static void field(char out[LINE_BYTES], const char *path, const char *key)
{
	char line[LINE_BYTES];
	FILE *f = fopen(path, "re");

	out[0] = '\0';
	while (f != NULL && out[0] == '\0' && fgets(line, sizeof(line), f) != NULL) {
		char *colon = strchr(line, ':');

		if (strncmp(line, key, strlen(key)) != 0 || colon == NULL)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(out, LINE_BYTES, "%s", colon + 1 + strspn(colon + 1, " \t"));
	}
	if (f != NULL)
		fclose(f);
}

static unsigned long number_in(const char *path)
{
	unsigned long v = 0;
	FILE *f = fopen(path, "re");

	if (f == NULL)
		return 0;
	if (fscanf(f, "%lu", &v) != 1)
		v = 0;
	fclose(f);
	return v;
}

void plx_machine_log(const struct plx_machine *m)
{
	char cpu[LINE_BYTES], total[LINE_BYTES];
	unsigned long long mib = 0;
	uint32_t allowed = 0;
	struct utsname u;

	for (uint32_t i = 0; i < m->n_cpus; i++)
		allowed += (uint32_t)(m->cpu_allowed[i / 64] >> (i % 64) & 1);
	field(cpu, "/proc/cpuinfo", "model name");
	field(total, "/proc/meminfo", "MemTotal");
	(void)sscanf(total, "%llu", &mib);
	plx_log(PLX_LOG_INFO, "machine: %s, %u of %u CPUs for us, %s %s",
	        cpu[0] != '\0' ? cpu : "unnamed CPU", allowed, m->n_cpus,
	        uname(&u) == 0 ? u.sysname : "unknown kernel", u.release);
	plx_log(PLX_LOG_INFO,
	        "memory: %llu MiB, %llu MiB of it free for us; 2 MiB pages: %lu, %lu of them free",
	        mib / 1024, (unsigned long long)(plx_mem_available() >> 20),
	        number_in(HUGE_DIR "nr_hugepages"), number_in(HUGE_DIR "free_hugepages"));
}
