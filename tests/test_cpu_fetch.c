/*
 * The weights' cache past the kernel's cache: the same bytes whatever the disk does on the way, an
 * error where they do not come, and an end that waits for nobody. pread and mincore are the test's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "accel/cpu_fetch.h"
#include "fw/base/err.h"
#include "tests/lib/cachekit.h"

#define DATA_BYTES ((UINT64_C(9) << 20) + 64) /* three pieces, ten chunks */
#define ROOM_BYTES (UINT64_C(10) << 20)

enum fault {
	NONE,
	INTERRUPTED,  /* every other read, by a signal */
	SHORT,        /* a page at a time, of the direct reads; 64 KiB of the others */
	ODD,          /* direct reads end off a page */
	REFUSED,      /* direct reads but the first: EINVAL */
	BROKEN,       /* reads of the last piece: EIO */
	CUT,          /* reads of the last piece: the file ends */
	NEVER_DIRECT, /* direct reads: EINVAL, from the first on */
};

static enum fault fault;
static unsigned char resident;
static _Atomic uint32_t n_call, n_direct;
static char path[64];
static uint8_t *data, *got;
static struct plx_cache_plan plan;
static const uint64_t cpus[16];

int mincore(void *addr, size_t n, unsigned char *vec)
{
	(void)addr;
	(void)n;
	*vec = resident;
	return 0;
}

static ssize_t failed(int err)
{
	errno = err;
	return -1;
}

ssize_t pread(int fd, void *to, size_t n, off_t off)
{
	bool direct = (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
	uint32_t call = atomic_fetch_add(&n_call, 1);
	bool first = direct && atomic_fetch_add(&n_direct, 1) == 0;
	bool last = (uint64_t)off >= plx_cache_table_bytes(&plan) + 2 * PLX_FETCH_PIECE;

	if (fault == INTERRUPTED && call % 2 == 0)
		return failed(EINTR);
	if (direct && (fault == NEVER_DIRECT || (fault == REFUSED && !first)))
		return failed(EINVAL);
	if (fault == BROKEN && last)
		return failed(EIO);
	if (fault == CUT && last)
		return 0;
	if (fault == SHORT && n > 65536)
		n = direct ? 4096 : 65536;
	ssize_t r = syscall(SYS_pread64, fd, to, n, off);

	return fault == ODD && direct && r > 4096 ? r - 1234 : r;
}

static int setup(void **state)
{
	uint64_t n;

	(void)state;
	data = malloc(DATA_BYTES);
	got = aligned_alloc(4096, ROOM_BYTES);
	assert_true(data != NULL && got != NULL);
	memset(got, 0, ROOM_BYTES);
	plx_t_cache_fill(data, DATA_BYTES);
	plan = plx_t_cache_plan(DATA_BYTES);
	snprintf(path, sizeof(path), "/tmp/plx-fetch-XXXXXX");
	int fd = mkstemp(path);
	uint8_t *file = plx_t_cache_file(&plan, data, &n);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, file, n), n);
	close(fd);
	free(file);
	fault = NONE;
	resident = 0;
	n_direct = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)unlink(path);
	free(data);
	free(got);
	return 0;
}

/* The file system under the test may not know O_DIRECT. */
static void need_direct(void)
{
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0)
		skip();
	close(fd);
}

/* Fetches all of it, allowed from the last piece to the first; 0, or the first error. */
static int fetched(enum fault f)
{
	struct plx_fetch x = {0};
	struct plx_cache c;
	int err = 0;

	assert_int_equal(plx_cache_open(&c, path, &plan, NULL), 0);
	fault = f;
	assert_true(plx_fetch_start(&x, &c, got, cpus));
	assert_int_equal(x.n_piece, 3);
	for (uint32_t i = x.n_piece; i-- > 0;)
		plx_fetch_allow(&x, i);
	for (uint32_t i = 0; err == 0 && i < c.n_chunk; i++) {
		err = plx_fetch_wait(&x, i / 4);
		if (err == 0)
			err = plx_cache_check(&c, i, got);
	}
	plx_fetch_stop(&x);
	plx_fetch_stop(&x);
	plx_cache_close(&c);
	return err;
}

static void test_fetch_brings_the_same_bytes(void **state)
{
	(void)state;
	need_direct();
	for (enum fault f = NONE; f <= REFUSED; f++) {
		memset(got, 0xee, ROOM_BYTES);
		n_direct = 0;
		assert_int_equal(fetched(f), 0);
		assert_memory_equal(got, data, DATA_BYTES);
		assert_true(n_direct > 3);
	}
}

static void test_fetch_says_what_does_not_come(void **state)
{
	(void)state;
	need_direct();
	assert_int_equal(fetched(BROKEN), PLX_E_IO);
	assert_memory_equal(got, data, 2 * PLX_FETCH_PIECE);
	assert_int_equal(fetched(CUT), PLX_E_IO);
}

static void test_fetch_of_damage_is_found(void **state)
{
	(void)state;
	need_direct();
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_int_equal(pwrite(fd, "damage", 6, 5 << 20), 6);
	close(fd);
	assert_int_equal(fetched(NONE), PLX_E_FORMAT);
}

static void test_fetch_is_left_where_it_is_not_worth_it(void **state)
{
	struct plx_fetch x = {0};
	struct plx_cache c;

	(void)state;
	assert_int_equal(plx_cache_open(&c, path, &plan, NULL), 0);
	fault = NEVER_DIRECT;
	assert_false(plx_fetch_start(&x, &c, got, cpus));
	assert_false(x.on);
	fault = NONE;
	resident = 1;
	n_direct = 0;
	assert_false(plx_fetch_start(&x, &c, got, cpus));
	assert_int_equal(n_direct, 0); /* it was not even tried */
	plx_fetch_stop(&x);
	plx_cache_close(&c);
}

/* Threads that wait for memory, and a piece that nobody will bring any more. */
static void test_fetch_stops_while_it_waits(void **state)
{
	struct plx_fetch x = {0};
	struct plx_cache c;

	(void)state;
	need_direct();
	assert_int_equal(plx_cache_open(&c, path, &plan, NULL), 0);
	assert_true(plx_fetch_start(&x, &c, got, cpus));
	plx_fetch_allow(&x, 0);
	assert_int_equal(plx_fetch_wait(&x, 0), 0);
	plx_fetch_stop(&x);
	assert_false(x.on);
	assert_memory_equal(got, data, PLX_FETCH_PIECE);
	assert_int_equal(got[PLX_FETCH_PIECE + 5000], 0);
	plx_cache_close(&c);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_fetch_brings_the_same_bytes),
	    TEST(test_fetch_says_what_does_not_come),
	    TEST(test_fetch_of_damage_is_found),
	    TEST(test_fetch_is_left_where_it_is_not_worth_it),
	    TEST(test_fetch_stops_while_it_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
