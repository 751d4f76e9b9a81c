/* Memory that is left: the machine's, or the tightest control group's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "fw/base/arena.h"
#include "fw/base/err.h"
#include "fw/base/mem.h"

static char root[] = "/tmp/plx-mem.XXXXXX";

static void put(const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void make_dir(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	assert_int_equal(mkdir(path, 0700), 0);
}

static uint64_t left(void)
{
	char proc[128], cgroup[128];

	snprintf(proc, sizeof(proc), "%s/proc", root);
	snprintf(cgroup, sizeof(cgroup), "%s/cg", root);
	return plx_mem_available_in(proc, cgroup);
}

static void test_mem_takes_the_tightest(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(root));
	make_dir("proc");
	make_dir("proc/self");
	make_dir("cg");
	make_dir("cg/a");
	make_dir("cg/a/b");
	assert_true(left() == UINT64_MAX);
	put("proc/meminfo", "MemTotal:   9000 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB\n");
	assert_int_equal(left(), 5120000);
	put("proc/self/cgroup", "4:memory:/x\n0::/a/b\n");
	assert_int_equal(left(), 5120000);
	put("cg/a/b/memory.max", "max\n");
	put("cg/a/b/memory.current", "77\n");
	assert_int_equal(left(), 5120000);
	/* The group above: page cache can be dropped, so it is not in the way. */
	put("cg/a/memory.max", "1000000\n");
	put("cg/a/memory.current", "700000\n");
	assert_int_equal(left(), 300000);
	put("cg/a/memory.stat", "anon 500000\nfile 200000\n");
	assert_int_equal(left(), 500000);
	put("cg/a/memory.current", "2000000\n");
	assert_int_equal(left(), 0);
}

static void test_mem_is_some_here(void **state)
{
	(void)state;
	assert_in_range(plx_mem_available(), 1 << 20, UINT64_C(1) << 50);
}

/* More than the machine has is refused before it is touched. */
static void test_arena_refuses_what_is_not_there(void **state)
{
	struct plx_arena a;
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(plx_arena_open(&a, (size_t)1 << 45, &d), PLX_E_NOMEM);
	assert_non_null(a.base == NULL ? d.text : NULL);
	assert_int_equal(strncmp(d.text, "out of memory: 33554432 MiB are needed and ", 43), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mem_takes_the_tightest),
	    cmocka_unit_test(test_mem_is_some_here),
	    cmocka_unit_test(test_arena_refuses_what_is_not_there),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	char cmd[160];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", root);
	return system(cmd) == 0 ? rc : 1;
}
