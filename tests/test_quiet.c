/*
 * Promise 1 of DESIGN.md: after start the data path allocates nothing, waits for no page and makes
 * no system call. The whole appliance on an in-memory port with back-off off; while a new client
 * shakes hands, asks three ways at once, pings and cancels, every lcore's thread is watched. On
 * a veth with back-off on, the calls are the driver's and those of back-off, by name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/base/quiet.h"
#include "fw/compose.h"
#include "tests/lib/inproc.h"
#include "tests/lib/model_path.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static struct plx_inproc box;
static struct plx_client *client;

/* The clock is read through the vDSO; where the host's clock source is slower than that, each
 * reading is a system call and nobody's promise holds. */
static bool clock_is_fast(void)
{
	FILE *f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
	char name[32] = "tsc";

	if (f != NULL && fgets(name, sizeof(name), f) == NULL)
		name[0] = '\0';
	if (f != NULL)
		fclose(f);
	return strncmp(name, "tsc", 3) == 0 || strncmp(name, "kvm", 3) == 0 ||
	       strncmp(name, "hyperv", 6) == 0;
}

/* CMocka takes SIGSYS for itself before and after each test, so a test opens and closes the box. */
static bool open_box(bool memory)
{
	struct plx_inproc_conf conf = {.memory = memory,
	                               .kind = PLX_PORT_AUTO,
	                               .backoff = !memory,
	                               .watch = true,
	                               .model = plx_test_model()};
	struct plx_inproc_ask warm = {.text = "Say hello.", .max_new = 4};

	if (conf.model == NULL || !clock_is_fast())
		return false;
	conf.board = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? "board/devbox/board.yml"
	                                               : "board/onecore/board.yml";
	assert_int_equal(plx_inproc_open(&box, &conf), 0);
	client = plx_inproc_client(&box);
	assert_non_null(client);
	assert_int_equal(plx_inproc_asks(&box, client, &warm, 1, NULL), 1);
	return true;
}

static void ask_and_cancel(struct plx_client *c)
{
	struct plx_client_request r;
	struct plx_client_event ev = {0};
	uint64_t req, end = plx_clock_ns() + 20 * PLX_NS_PER_S;

	plx_client_request_init(&r);
	r.text = "One two three";
	r.text_bytes = 13;
	r.max_new = 512;
	r.ignore_eos = true;
	assert_int_equal(plx_client_submit(c, &r, &req, NULL), 0);
	while (plx_clock_ns() < end && !(ev.req == req && plx_client_event_final(&ev))) {
		plx_inproc_process(&box, c);
		if (!plx_client_event(c, &ev))
			continue;
		if (ev.type == PLX_CLIENT_EV_TOKENS && ev.tokens.first_idx == 0)
			assert_int_equal(plx_client_cancel(c, req), 0);
	}
	assert_int_equal(ev.type, PLX_CLIENT_EV_CANCELLED);
}

/* Everything a client does, from a handshake on. */
static void use(void)
{
	static char text[3001];
	struct plx_inproc_ask a[3] = {
	    {.text = "Name two rivers.", .max_new = 12},
	    {.text = "Write a poem about a lighthouse.", .max_new = 12, .temperature = 0.8f},
	    {.text = text, .max_new = 4, .raw = true},
	};
	struct plx_client *c = plx_inproc_client(&box);

	assert_non_null(c);
	/* Longer than anything in the warm-up, so that memory is used which that did not touch. */
	for (uint32_t i = 0; i + 6 < sizeof(text); i += 6)
		memcpy(text + i, "river ", 6);
	assert_int_equal(plx_inproc_asks(&box, c, a, 3, NULL), 3);
	assert_int_equal(a[0].n_tokens + a[1].n_tokens + a[2].n_tokens, 28);
	assert_int_not_equal(plx_inproc_ping(&box, c), 0);
	ask_and_cancel(c);
	plx_client_close(c);
}

static void judge(void)
{
	assert_int_not_equal(box.app.n_lcores, 0);
	for (uint32_t i = 0; i < box.app.n_lcores; i++) {
		const struct plx_watch *w = &box.watch[i];

		for (uint32_t k = 0; k < PLX_WATCH_CALLS; k++)
			if (w->call[k] > 0)
				print_message("lcore %u: %" PRIu64 " times %s\n",
				              box.app.lcore[i].cpu, w->call[k], plx_watch_name(k));
		assert_int_equal(w->n_calls, 0);
		assert_int_equal(w->n_alloc, 0);
		assert_int_equal(w->n_major, 0);
		/* A sanitizer's own memory is not there before it is used. */
		if (!SANITIZED)
			assert_int_equal(w->n_minor, 0);
	}
}

static void test_quiet_after_start(void **state)
{
	(void)state;
	if (!open_box(true)) {
		print_message("skipped: no model here, or a clock that is a system call\n");
		skip();
	}
	int err = plx_inproc_watch(&box, PLX_WATCH_ON);

	if (err == 0)
		use();
	(void)plx_inproc_watch(&box, PLX_WATCH_OFF);
	plx_client_close(client);
	plx_inproc_close(&box);
	if (err != 0) {
		print_message("skipped: the kernel gives no seccomp filter: %s\n", strerror(-err));
		skip();
	}
	judge();
}

/* A driver's own calls, a burst each, and idle back-off. */
static bool is_named(uint32_t call)
{
	return call == SYS_sendto || call == SYS_recvfrom || call == SYS_poll ||
	       call == SYS_sched_yield || call == SYS_nanosleep || call == SYS_clock_nanosleep;
}

enum { CHILD_GOOD = 3, CHILD_BAD, CHILD_SKIPPED };

static int judge_kernel_port(void)
{
	int rc = box.app.n_lcores > 0 ? CHILD_GOOD : CHILD_BAD;

	for (uint32_t i = 0; i < box.app.n_lcores; i++) {
		const struct plx_watch *w = &box.watch[i];

		if (w->n_alloc != 0 || w->n_major != 0 || (!SANITIZED && w->n_minor != 0)) {
			print_message("lcore %u: %" PRIu64 " allocations, %" PRIu64 " faults\n",
			              box.app.lcore[i].cpu, w->n_alloc, w->n_minor + w->n_major);
			rc = CHILD_BAD;
		}
		for (uint32_t k = 0; k < PLX_WATCH_CALLS; k++) {
			if (w->call[k] == 0 || is_named(k))
				continue;
			print_message("lcore %u: %" PRIu64 " times %s\n", box.app.lcore[i].cpu,
			              w->call[k], plx_watch_name(k));
			rc = CHILD_BAD;
		}
	}
	return rc;
}

/* A process of its own: EAL starts once in each. */
static int kernel_port(void)
{
	if (geteuid() != 0 || !open_box(false))
		return CHILD_SKIPPED;
	int err = plx_inproc_watch(&box, PLX_WATCH_ON);

	if (err == 0)
		use();
	(void)plx_inproc_watch(&box, PLX_WATCH_OFF);
	plx_client_close(client);
	plx_inproc_close(&box);
	return err == 0 ? judge_kernel_port() : CHILD_SKIPPED;
}

static void test_kernel_port_makes_its_own_calls_only(void **state)
{
	int status = 0;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(kernel_port());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == CHILD_SKIPPED) {
		print_message("skipped: needs root, a model, a fast clock and seccomp\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), CHILD_GOOD);
}

/* A thread that does what is to be seen: five yields, one other call, an allocation. */
static void *noisy(void *arg)
{
	struct plx_watch *w = arg;

	w->ask = PLX_WATCH_ON;
	(void)plx_watch_poll(w, 0);
	for (int i = 0; i < 5; i++)
		(void)syscall(SYS_sched_yield);
	(void)syscall(SYS_getppid);
	void *volatile p = malloc(10);

	free(p);
	w->ask = PLX_WATCH_OFF;
	(void)plx_watch_poll(w, 0);
	return NULL;
}

static void test_watch_counts_what_happens(void **state)
{
	struct plx_watch w = {0};
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, noisy, &w), 0);
	pthread_join(thread, NULL);
	if (w.err != 0)
		skip();
	assert_int_equal(w.call[SYS_sched_yield], 5);
	assert_int_equal(w.call[SYS_getppid], 1);
	assert_int_equal(w.n_calls, 6);
	assert_int_equal(w.n_alloc, 2);
	assert_string_equal(plx_watch_name(SYS_sched_yield), "sched_yield");
}

/* In a debug build an allocation ends a quiet thread's process; in a release build nothing looks.
 */
static void test_debug_build_aborts_on_allocation(void **state)
{
	int status = 0;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		(void)plx_quiet_set(true);
		void *volatile p = malloc(10);

		free(p);
		(void)plx_quiet_set(false);
		_exit(7);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
#ifdef PLX_DEBUG
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
#else
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_kernel_port_makes_its_own_calls_only),
	    cmocka_unit_test(test_quiet_after_start),
	    cmocka_unit_test(test_watch_counts_what_happens),
	    cmocka_unit_test(test_debug_build_aborts_on_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
