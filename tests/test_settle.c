/* Memory that stays: what was mapped and never touched is present after plx_settle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fw/base/err.h"
#include "fw/settle.h"

#define PAGES 64u
#define PAGE  4096u

static void *map(int fd)
{
	void *p = mmap(NULL, PAGES * PAGE, PROT_READ | (fd < 0 ? PROT_WRITE : 0),
	               MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	/* Otherwise one fault could bring in two megabytes. */
	(void)madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE);
	return p;
}

static long faults(void)
{
	struct rusage u;

	assert_int_equal(getrusage(RUSAGE_THREAD, &u), 0);
	return u.ru_minflt + u.ru_majflt;
}

/* Faults of writing to each page. */
static long touch(volatile uint8_t *p)
{
	long before = faults();

	for (uint32_t i = 0; i < PAGES; i++)
		p[i * PAGE] = 1;
	return faults() - before;
}

/* Kilobytes of the mapping at p that are locked. */
static long locked_kib(const void *p)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	bool here = false;
	long kib = -1;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL) {
		uintptr_t begin, end;

		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			here = begin <= (uintptr_t)p && (uintptr_t)p < end;
		else if (here && sscanf(line, "Locked: %ld", &kib) == 1)
			break;
	}
	fclose(f);
	return kib;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

/* A sanitizer maps terabytes for itself: the machine does not have them, and nothing is locked. */
static void test_settle_refuses_more_than_there_is(void **state)
{
	struct plx_diag d = {0};
	void *p = map(-1);

	(void)state;
	assert_int_equal(plx_settle(NULL, &d), PLX_E_LIMIT);
	assert_non_null(strstr(d.text, "memory is not locked"));
	assert_int_equal(locked_kib(p), 0);
	munmap(p, PAGES * PAGE);
}

#else

static void test_settle_leaves_no_fault(void **state)
{
	struct plx_diag d = {0};
	void *before = map(-1), *p = map(-1);

	(void)state;
	assert_int_equal(touch(before), PAGES);
	if (plx_settle(NULL, &d) != 0)
		skip(); /* the host limits locked memory */
	assert_int_equal(touch(p), 0);
	assert_int_equal(munlockall(), 0);
	munmap(before, PAGES * PAGE);
	munmap(p, PAGES * PAGE);
}

static void test_settle_leaves_the_model_file_alone(void **state)
{
	char path[] = "/tmp/plx_settle_XXXXXX", other[] = "/tmp/plx_settle_XXXXXX";
	int fd = mkstemp(path), fd2 = mkstemp(other);
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	assert_int_equal(ftruncate(fd2, PAGES * PAGE), 0);
	void *model = map(fd), *file = map(fd2);
	int err = plx_settle(path, &d);

	if (err == 0) {
		assert_int_equal(locked_kib(model), 0);
		assert_int_equal(locked_kib(file), PAGES * PAGE / 1024);
	}
	assert_int_equal(munlockall(), 0);
	unlink(path);
	unlink(other);
	close(fd);
	close(fd2);
	munmap(model, PAGES * PAGE);
	munmap(file, PAGES * PAGE);
	if (err != 0)
		skip();
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
		cmocka_unit_test(test_settle_refuses_more_than_there_is),
#else
		cmocka_unit_test(test_settle_leaves_no_fault),
		cmocka_unit_test(test_settle_leaves_the_model_file_alone),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
