/*
 * The progress bar: what it says, that a terminal sees it and is left clean, and that nothing else
 * does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "tests/lib/mtool.h"
#include "tools/gguf/progress.h"

static void test_progress_line(void **state)
{
	struct plx_progress p;
	char line[121];

	(void)state;
	plx_progress_begin(&p, "quantising", 100u << 20, false);
	p.start_ns = 0;
	plx_progress_add(&p, 1, 25u << 20);
	plx_progress_line(&p, 2 * PLX_NS_PER_S, 80, line, sizeof line);
	assert_string_equal(line,
	                    "quantising  [========>                          ]   25 %  12.5 MiB/s  "
	                    "0:06 left");
	plx_progress_line(&p, 2 * PLX_NS_PER_S, 30, line, sizeof line);
	assert_string_equal(line, "quantising   25 %  12.5 MiB/s  0:06 left");
}

/* Standard error is fd from here on; returns what it was. */
static int stderr_to(int fd)
{
	int was = dup(STDERR_FILENO);

	fflush(stderr);
	assert_true(was >= 0 && dup2(fd, STDERR_FILENO) >= 0);
	return was;
}

static void stderr_back(int was)
{
	fflush(stderr);
	assert_true(dup2(was, STDERR_FILENO) >= 0);
	close(was);
}

/* What arrived there so far. */
static size_t seen(int fd, char *buf, size_t bytes)
{
	size_t n = 0;
	ssize_t got;

	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	while ((got = read(fd, buf + n, bytes - 1 - n)) > 0)
		n += (size_t)got;
	buf[n] = '\0';
	return n;
}

/* A quarter, half a second ago since the last drawing; then the end. */
static void draw(struct plx_progress *p)
{
	plx_progress_begin(p, "converting", 4u << 20, true);
	p->drawn_ns -= PLX_NS_PER_S / 2;
	plx_progress_add(p, 1, 1u << 20); /* another thread draws nothing */
	plx_progress_add(p, 0, 0);
	plx_progress_add(p, 0, 1); /* at once again: no drawing */
	plx_progress_end(p);
}

static void test_a_terminal_sees_it_and_is_left_clean(void **state)
{
	struct winsize size = {.ws_row = 24, .ws_col = 70};
	struct plx_progress p;
	char buf[512], tail[] = "\r\033[K";
	int master, slave;

	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
	int was = stderr_to(slave);

	draw(&p);
	stderr_back(was);
	size_t n = seen(master, buf, sizeof buf);

	close(slave);
	close(master);
	assert_true(n > 30);
	assert_memory_equal(buf, "\rconverting  [", 14);
	assert_non_null(strstr(buf, "]   25 %  "));
	assert_string_equal(buf + n - 4, tail);
	/* One drawing of less than the terminal's width, and its wiping. */
	const char *second = strstr(buf + 1, "\r");

	assert_non_null(second);
	assert_true(second - buf <= 70 + 4);
	assert_null(strstr(second + 1, "\r"));
}

/* In a pipe, a file of a log: nothing, from the bar and from a whole command. */
static void test_others_see_nothing(void **state)
{
	struct plx_progress p;
	struct plx_diag d;
	char buf[512];
	int pipes[2];

	(void)state;
	mtool_begin();
	assert_int_equal(pipe(pipes), 0);
	int was = stderr_to(pipes[1]);

	draw(&p);
	int rc = mtool(&d, "convert", "tests/golden/hf/llama", "-o", mtool_path("a"), NULL);

	stderr_back(was);
	assert_int_equal(seen(pipes[0], buf, sizeof buf), 0);
	assert_int_equal(rc, 0);
	close(pipes[0]);
	close(pipes[1]);
	mtool_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_progress_line),
	    cmocka_unit_test(test_a_terminal_sees_it_and_is_left_clean),
	    cmocka_unit_test(test_others_see_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
