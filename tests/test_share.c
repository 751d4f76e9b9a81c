/* The shared file: what a writer puts there a reader finds, and nothing else is taken for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fw/base/err.h"
#include "fw/base/share.h"
#include "tools/scope/attach.h"

static char path[64];
static struct plx_share share;
static struct plx_scope scope;
static struct plx_diag d;

static int setup(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "/tmp/plx-test-share-%d", (int)getpid());
	memset(&d, 0, sizeof(d));
	return plx_share_create(&share, path, 2, 60, &d);
}

static int teardown(void **state)
{
	(void)state;
	plx_scope_close(&scope);
	plx_share_close(&share);
	unlink(path);
	return 0;
}

static void test_share_is_read_by_another(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(plx_scope_open(&scope, path, &d), 0);
	assert_int_equal(scope.head.n_pages, 2);
	assert_int_equal(scope.head.trace_events, 64);
	assert_int_equal(plx_scope_life(&scope), PLX_SCOPE_STARTING);
	plx_share_state_set(&share, PLX_SHARE_SERVING);
	assert_int_equal(plx_scope_life(&scope), PLX_SCOPE_SERVING);
	plx_count(&share.page[1], PLX_M_IO_RX, 7);
	plx_hist_add(&share.page[1].hist[PLX_H_TTFT], 1000);
	assert_int_equal(plx_counter_read(plx_scope_page(&scope, 1), PLX_M_IO_RX), 7);
	assert_int_equal(plx_scope_page(&scope, 1)->hist[PLX_H_TTFT].count, 1);
	assert_int_equal(plx_counter_read(plx_scope_page(&scope, 0), PLX_M_IO_RX), 0);
}

static void test_trace_keeps_the_newest(void **state)
{
	struct plx_trace_ev ev = {.kind = PLX_TR_TOKEN}, got;

	(void)state;
	assert_int_equal(plx_scope_open(&scope, path, &d), 0);
	for (uint32_t i = 0; i < 100; i++) {
		ev.index = i;
		plx_trace(&share.page[1], &ev);
	}
	const struct plx_trace_ev *ring = plx_scope_ring(&scope, 1);

	assert_int_equal(plx_scope_page(&scope, 1)->trace_seq, 100);
	assert_true(plx_trace_read(ring, 64, 99, &got));
	assert_int_equal(got.index, 99);
	assert_true(plx_trace_read(ring, 64, 36, &got));
	assert_int_equal(got.index, 36);
	assert_false(plx_trace_read(ring, 64, 35, &got)); /* 99 stands in its place */
	assert_false(plx_trace_read(ring, 64, 100, &got));
	assert_false(plx_trace_read(plx_scope_ring(&scope, 0), 64, 0, &got));
}

static atomic_bool stop;

/* Every field of an event says the same number. */
static void *writer(void *arg)
{
	struct plx_trace_ev ev = {0};

	(void)arg;
	for (uint64_t n = 1; !atomic_load(&stop); n++) {
		ev.ns = ev.req_id = ev.a = ev.b = ev.c = n;
		plx_trace(&share.page[0], &ev);
	}
	return NULL;
}

static void test_trace_event_is_whole_or_none(void **state)
{
	const struct plx_trace_ev *ring;
	struct plx_trace_ev got;
	pthread_t thread;
	uint32_t n_whole = 0;

	(void)state;
	assert_int_equal(plx_scope_open(&scope, path, &d), 0);
	ring = plx_scope_ring(&scope, 0);
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&thread, NULL, writer, NULL), 0);
	while (n_whole < 20000) {
		uint64_t seq =
		    __atomic_load_n(&plx_scope_page(&scope, 0)->trace_seq, __ATOMIC_ACQUIRE);

		/* The newest, and those that are just about to be overwritten. */
		for (uint64_t back = 1; back <= 64 && back <= seq; back += 21) {
			if (!plx_trace_read(ring, 64, seq - back, &got))
				continue;
			n_whole++;
			assert_int_equal(got.ns, seq - back + 1);
			assert_int_equal(got.req_id, got.ns);
			assert_int_equal(got.a, got.ns);
			assert_int_equal(got.b, got.ns);
			assert_int_equal(got.c, got.ns);
		}
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
}

static void test_share_restart_is_seen(void **state)
{
	struct plx_share next;

	(void)state;
	assert_int_equal(plx_scope_open(&scope, path, &d), 0);
	assert_int_equal(plx_scope_again(&scope, &d), 0);
	plx_count(&share.page[0], PLX_M_IO_RX, 3);
	/* The same process may: it is its own. */
	assert_int_equal(plx_share_create(&next, path, 3, 0, &d), 0);
	assert_int_equal(plx_scope_again(&scope, &d), 1);
	assert_int_equal(scope.head.n_pages, 3);
	assert_null(plx_scope_ring(&scope, 0));
	assert_int_equal(plx_counter_read(plx_scope_page(&scope, 0), PLX_M_IO_RX), 0);
	plx_share_close(&next);
	assert_int_equal(plx_scope_life(&scope), PLX_SCOPE_ENDED);
	assert_int_equal(access(path, F_OK), -1);
}

static void test_share_left_behind_is_known(void **state)
{
	int status, done[2];
	pid_t pid;

	(void)state;
	plx_share_close(&share);
	assert_int_equal(pipe(done), 0);
	pid = fork();
	if (pid == 0) {
		int err = plx_share_create(&share, path, 1, 0, &d);

		plx_share_state_set(&share, PLX_SHARE_SERVING);
		(void)!write(done[1], "x", 1);
		close(done[1]);
		pause();
		_exit(err != 0);
	}
	char c;

	assert_int_equal(read(done[0], &c, 1), 1);
	assert_int_equal(plx_scope_open(&scope, path, &d), 0);
	assert_int_equal(plx_scope_life(&scope), PLX_SCOPE_SERVING);
	/* It runs: nobody takes its file. */
	assert_int_equal(plx_share_create(&share, path, 1, 0, &d), PLX_E_EXISTS);
	assert_non_null(strstr(d.text, "telemetry:"));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(plx_scope_life(&scope), PLX_SCOPE_DEAD);
	assert_int_equal(plx_share_create(&share, path, 1, 0, &d), 0);
	close(done[0]);
	close(done[1]);
}

static int open_with(size_t at, const void *bytes, size_t n)
{
	int fd = open(path, O_RDWR);

	assert_int_equal(pwrite(fd, bytes, n, (off_t)at), (ssize_t)n);
	close(fd);
	memset(&d, 0, sizeof(d));
	plx_scope_close(&scope);
	return plx_scope_open(&scope, path, &d);
}

static void test_scope_refuses_what_does_not_fit(void **state)
{
	struct plx_share_head h = *share.head;
	uint64_t wrong = 1;
	uint32_t huge = UINT32_MAX;

	(void)state;
	assert_int_equal(open_with(offsetof(struct plx_share_head, layout_hash), &wrong, 8),
	                 PLX_E_UNSUPPORTED);
	assert_non_null(strstr(d.text, "another version"));
	assert_int_equal(open_with(0, &h, sizeof(h)), 0);
	assert_int_equal(open_with(offsetof(struct plx_share_head, n_pages), &huge, 4),
	                 PLX_E_FORMAT);
	assert_int_equal(open_with(0, &h, sizeof(h)), 0);
	assert_int_equal(open_with(offsetof(struct plx_share_head, trace_events), &huge, 4),
	                 PLX_E_FORMAT);
	assert_int_equal(open_with(0, &wrong, 8), PLX_E_FORMAT);
	assert_int_equal(truncate(path, 100), 0);
	assert_int_equal(plx_scope_open(&scope, path, &d), PLX_E_FORMAT);
	assert_int_equal(plx_scope_open(&scope, "/nowhere/at/all", &d), PLX_E_NOT_FOUND);
	/* What is mapped past a file's end can't be written any more. */
	memset(&share, 0, sizeof(share));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_share_is_read_by_another, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_trace_keeps_the_newest, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_trace_event_is_whole_or_none, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_share_restart_is_seen, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_share_left_behind_is_known, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_scope_refuses_what_does_not_fit, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
