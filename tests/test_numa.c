/* Memory nodes from a folder that looks like /sys; this process's own pages as mbind leaves them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mman.h>

#include "fw/base/err.h"
#include "fw/base/numa.h"

static char root[64];

static void put(const char *dir, const char *list)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/devices/system/node/%s", root, dir);
	assert_int_equal(mkdir(path, 0700), 0);
	strcat(path, "/cpulist");
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(list, f);
	fclose(f);
}

static int setup(void **state)
{
	char path[192];

	(void)state;
	snprintf(root, sizeof(root), "/tmp/plx-numa-XXXXXX");
	assert_non_null(mkdtemp(root));
	static const char *const part[] = {"/devices", "/devices/system", "/devices/system/node"};

	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s%s", root, part[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	/* Four nodes: two with interleaved numbering, one without CPUs, one far up. */
	put("node0", "0-3,8-11\n");
	put("node1", "4-7,12-15\n");
	put("node2", "\n");
	put("node63", "100,1000-1023\n");
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -r %s", root);
	return system(cmd);
}

static uint64_t nodes_of(const uint32_t *cpu, uint32_t n)
{
	uint64_t cpus[PLX_NUMA_CPU_WORDS] = {0};

	for (uint32_t i = 0; i < n; i++)
		cpus[cpu[i] / 64] |= UINT64_C(1) << cpu[i] % 64;
	return plx_numa_nodes_in(root, cpus);
}

static void test_nodes_of_cpus(void **state)
{
	(void)state;
	assert_int_equal(nodes_of(NULL, 0), 0);
	assert_int_equal(nodes_of((const uint32_t[]){0}, 1), 1);
	assert_int_equal(nodes_of((const uint32_t[]){3, 8, 11}, 3), 1);
	assert_int_equal(nodes_of((const uint32_t[]){7, 12}, 2), 2);
	assert_int_equal(nodes_of((const uint32_t[]){2, 13}, 2), 3);
	assert_int_equal(nodes_of((const uint32_t[]){16, 99, 101, 999}, 4), 0);
	assert_int_equal(nodes_of((const uint32_t[]){100}, 1), UINT64_C(1) << 63);
	assert_int_equal(nodes_of((const uint32_t[]){1023, 4}, 2), (UINT64_C(1) << 63) | 2);
}

static void test_no_nodes_known(void **state)
{
	uint64_t cpus[PLX_NUMA_CPU_WORDS] = {UINT64_MAX};

	(void)state;
	assert_int_equal(plx_numa_nodes_in("/nonexistent", cpus), 0);
}

static void test_policy_is_taken_or_refused(void **state)
{
	size_t n = 1 << 20;
	uint8_t *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FILE *f;
	char line[512];
	bool seen = false;

	(void)state;
	assert_true(p != MAP_FAILED);
	/* Node 0 is everywhere where the kernel knows nodes at all. */
	if (plx_numa_interleave(p, n, 1) != 0)
		skip();
	f = fopen("/proc/self/numa_maps", "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		seen = seen || (strtoull(line, NULL, 16) == (uintptr_t)p &&
		                strstr(line, "interleave:0") != NULL);
	if (f != NULL) {
		fclose(f);
		assert_true(seen);
	}
	assert_int_equal(plx_numa_prefer(p, n, 1), 0);
	assert_int_equal(plx_numa_interleave(p, n, UINT64_C(1) << 63), PLX_E_UNSUPPORTED);
	memset(p, 1, n);
	munmap(p, n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nodes_of_cpus),
	    cmocka_unit_test(test_no_nodes_known),
	    cmocka_unit_test(test_policy_is_taken_or_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
