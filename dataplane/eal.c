/*
 * Starting DPDK's environment: which CPUs, which memory, which buses.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>

#include "dataplane/port.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/base/mem.h"

#define MAX_ARGS      24
#define ARG_BYTES     1024
#define HUGE_PAGE_MIB 2u
#define HUGE_DIR      "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static bool started;
static int prefix_fd = -1; /* the lock on DPDK's folder */

struct args {
	char text[MAX_ARGS][ARG_BYTES];
	char *v[MAX_ARGS + 1];
	int n;
};

__attribute__((format(printf, 2, 3))) static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(a->text[a->n], ARG_BYTES, fmt, ap);
	va_end(ap);
	a->v[a->n] = a->text[a->n];
	a->n++;
}

/* A count of 2 MiB pages from /sys; 0 where there are none. */
static uint32_t huge_pages(const char *which)
{
	char path[128];
	unsigned int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), HUGE_DIR "%s", which);
	f = fopen(path, "re");
	if (f == NULL)
		return 0;
	if (fscanf(f, "%u", &n) != 1)
		n = 0;
	fclose(f);
	return n;
}

static int add_memory(struct args *a, const struct plx_config *cfg, struct plx_diag *d)
{
	/* Those that somebody has mapped and not yet touched still count as free. */
	uint32_t resv = huge_pages("resv_hugepages"), free = huge_pages("free_hugepages");
	uint32_t want = cfg->mem_mib;
	uint32_t need = (want + HUGE_PAGE_MIB - 1) / HUGE_PAGE_MIB;

	free = free > resv ? free - resv : 0;
	uint32_t have = free * HUGE_PAGE_MIB;
	uint32_t total = huge_pages("nr_hugepages") + (need > free ? need - free : 0);

	if (free >= need) {
		add(a, "--in-memory");
	} else if (cfg->huge_pages) {
		return plx_diag_set(
		    d, PLX_E_NOMEM,
		    "%u MiB of 2 MiB pages are free, %u are needed: "
		    "`echo %u > /proc/sys/vm/nr_hugepages`, or set huge_pages: false",
		    have, want, total);
	} else {
		plx_log(PLX_LOG_WARN,
		        "%u MiB of 2 MiB pages are free, %u wanted: running on ordinary pages, "
		        "slower; `echo %u > /proc/sys/vm/nr_hugepages` changes that",
		        have, want, total);
		add(a, "--no-huge");
		add(a, "--no-shconf");
	}
	add(a, "-m");
	add(a, "%u", want);
	return PLX_E_OK;
}

/* The CPUs the calling thread may use, as EAL writes a set: "(0,1,5)". */
static void own_cpus(char *out, size_t cap)
{
	cpu_set_t set;
	size_t used = 0;

	CPU_ZERO(&set);
	(void)sched_getaffinity(0, sizeof(set), &set);
	for (unsigned int cpu = 0; cpu < CPU_SETSIZE && used + 8 < cap; cpu++)
		if (CPU_ISSET(cpu, &set))
			used +=
			    (size_t)snprintf(out + used, cap - used, "%s%u", used ? "," : "", cpu);
}

static int add_lcores(struct args *a, const struct plx_config *cfg, struct plx_diag *d)
{
	char list[ARG_BYTES], cpus[ARG_BYTES / 2];
	bool used[PLX_EAL_MAIN_LCORE] = {false};
	size_t at = 0;

	own_cpus(cpus, sizeof(cpus));
	at += (size_t)snprintf(list, sizeof(list), "%u@(%s)", PLX_EAL_MAIN_LCORE, cpus);
	for (uint32_t i = 0; i < cfg->n_stages; i++) {
		uint32_t cpu = cfg->stage[i].lcore;

		if (cpu >= PLX_EAL_MAIN_LCORE)
			return plx_diag_set(
			    d, PLX_E_LIMIT,
			    "lcore %u: DPDK names lcores up to %u; place the stage lower", cpu,
			    PLX_EAL_MAIN_LCORE - 1);
		if (!used[cpu] && at + 16 < sizeof(list))
			at += (size_t)snprintf(list + at, sizeof(list) - at, ",%u@%u", cpu, cpu);
		used[cpu] = true;
	}
	add(a, "--lcores=%s", list);
	add(a, "--main-lcore=%u", PLX_EAL_MAIN_LCORE);
	return PLX_E_OK;
}

/* Only the NICs that the board names: DPDK must not take others. */
static void add_devices(struct args *a, const struct plx_config *cfg)
{
	uint32_t n_pci = 0;

	for (uint32_t i = 0; i < cfg->n_ports; i++)
		if (cfg->port[i].kind == PLX_PORT_PCI) {
			add(a, "--allow=%s", cfg->port[i].pci_addr);
			n_pci++;
		}
	if (n_pci == 0)
		add(a, "--no-pci");
}

/*
 * One polluxd a file prefix: DPDK's folder of that name is locked, which ends with the process,
 * however that ends.
 */
static int take_prefix(const struct plx_config *cfg, struct plx_diag *d)
{
	const char *dir = rte_eal_get_runtime_dir();

	if (cfg->file_prefix[0] == '\0') /* tests; a board always has one */
		return PLX_E_OK;
	prefix_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (prefix_fd >= 0 && flock(prefix_fd, LOCK_EX | LOCK_NB) == 0)
		return PLX_E_OK;
	if (prefix_fd >= 0)
		close(prefix_fd);
	prefix_fd = -1;
	return plx_diag_set(d, PLX_E_EXISTS,
	                    "another polluxd holds %s, DPDK's folder of file prefix \"%s\"; stop "
	                    "that one, or give another name by --file-prefix",
	                    dir, cfg->file_prefix);
}

/* DPDK made its folder before it failed; somebody else's stays. */
static void drop_folder(void)
{
	int fd = open(rte_eal_get_runtime_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		(void)rmdir(rte_eal_get_runtime_dir());
	if (fd >= 0)
		close(fd);
}

static int init_eal(const struct plx_config *cfg, struct plx_diag *d)
{
	static struct args a; /* EAL keeps pointers into it */
	int rc;

	a.n = 0;
	add(&a, "polluxd");
	add(&a, "--no-telemetry");
	add(&a, "--log-level=lib.eal:error");
	add(&a, "--log-level=pmd.*:critical");
	if (cfg->file_prefix[0] != '\0')
		add(&a, "--file-prefix=%s", cfg->file_prefix);
	rc = add_memory(&a, cfg, d);
	if (rc == PLX_E_OK)
		rc = add_lcores(&a, cfg, d);
	if (rc != PLX_E_OK)
		return rc;
	add_devices(&a, cfg);
	if (rte_eal_init(a.n, a.v) >= 0) {
		/* From here on our own messages say what failed, and what to do. */
		rte_log_set_level_pattern("lib.*", RTE_LOG_CRIT);
		started = true;
		return take_prefix(cfg, d);
	}
	drop_folder();
	return plx_diag_set(d, PLX_E_IO,
	                    "DPDK can't start: %s; try as root, and with %u MiB of memory free",
	                    rte_strerror(rte_errno), cfg->mem_mib);
}

int plx_eal_start(const struct plx_config *cfg, struct plx_diag *d)
{
	int lock = plx_mem_huge_lock();
	int rc = init_eal(cfg, d);

	close(lock);
	return rc;
}

void plx_eal_stop(void)
{
	char dir[ARG_BYTES];

	if (!started)
		return;
	snprintf(dir, sizeof(dir), "%s", rte_eal_get_runtime_dir());
	(void)rte_eal_cleanup();
	if (prefix_fd >= 0) {
		(void)rmdir(dir);
		close(prefix_fd);
	}
	prefix_fd = -1;
	started = false;
}
