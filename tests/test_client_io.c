/* The client library's sockets and blocking helpers, against the appliance in a box in a process of
 * its own on loopback. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/peer_sock.h"
#include "tools/client/client.h"

static uint16_t port;
static pid_t child;
static volatile sig_atomic_t stop, restart, drain;

/* ---- the system, as this test wants it: these stand before the C library's ---- */

#define TWO_HOST "two.test" /* resolves to ::1, then 127.0.0.1 */
static bool refuse;         /* every other send and recv says ECONNREFUSED */
static uint32_t n_refused;

static void *real(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);

	assert_non_null(f);
	return f;
}

static bool refused(void)
{
	static uint32_t turn;

	if (!refuse || turn++ % 2)
		return false;
	n_refused++;
	errno = ECONNREFUSED;
	return true;
}

ssize_t send(int fd, const void *p, size_t n, int flags)
{
	static ssize_t (*next)(int, const void *, size_t, int);

	if (!next)
		*(void **)&next = real("send");
	return refused() ? -1 : next(fd, p, n, flags);
}

ssize_t recv(int fd, void *p, size_t n, int flags)
{
	static ssize_t (*next)(int, void *, size_t, int);

	if (!next)
		*(void **)&next = real("recv");
	return refused() ? -1 : next(fd, p, n, flags);
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **list)
{
	static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

	if (!next)
		*(void **)&next = real("getaddrinfo");
	if (strcmp(host, TWO_HOST) != 0)
		return next(host, service, hints, list);
	int err = next("::1", service, hints, list);

	return err ? err : next("127.0.0.1", service, hints, &(*list)->ai_next);
}

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		restart = 1;
	else
		stop = 1;
}

static void serve(int fd)
{
	struct plx_peer_cfg pc = {.insecure = true, .token_ns = 2000000, .seed = 3};

	plx_peer_sock_serve(fd, &pc, &stop, &restart, &drain);
	_exit(0);
}

static int start_peer(void **state)
{
	struct sigaction sa = {.sa_handler = on_signal};
	int fd = plx_peer_sock_open(&port);

	(void)state;
	if (fd < 0)
		return -1;
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	child = fork();
	if (child == 0)
		serve(fd);
	close(fd);
	return child < 0 ? -1 : 0;
}

static int stop_peer(void **state)
{
	(void)state;
	kill(child, SIGTERM);
	return waitpid(child, NULL, 0) == child ? 0 : -1;
}

static struct plx_client *open_to(const char *host, uint16_t to_port)
{
	struct plx_client_config cfg;
	struct plx_client *c;
	struct plx_diag d = {0};

	plx_client_config_init(&cfg);
	cfg.host = host;
	cfg.port = to_port;
	cfg.insecure = true;
	assert_int_equal(plx_client_open(&c, &cfg, &d), 0);
	return c;
}

static struct plx_client *open_client(void)
{
	return open_to("127.0.0.1", port);
}

static struct plx_client_request request(const char *text, uint32_t max_new)
{
	struct plx_client_request q;

	plx_client_request_init(&q);
	q.text = text;
	q.text_bytes = strlen(text);
	q.max_new = max_new;
	return q;
}

struct heard {
	char text[256];
	uint32_t n_finals;
	uint32_t cancel_after; /* TOKENS events; 0: never */
};

static bool hear(void *arg, const struct plx_client_event *ev)
{
	struct heard *h = arg;

	h->n_finals += plx_client_event_final(ev);
	if (ev->type != PLX_CLIENT_EV_TOKENS)
		return true;
	strncat(h->text, ev->tokens.text, ev->tokens.text_bytes);
	return !h->cancel_after || --h->cancel_after;
}

static void test_client_io_asks_and_gets_an_answer(void **state)
{
	struct plx_client *c = open_client();
	struct plx_client_request q = request("hello", 4);
	struct heard h = {0};
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(plx_client_connect(c, &d), 0);
	assert_int_equal(plx_client_ask(c, &q, hear, &h, &d), 0);
	assert_string_equal(h.text, "0:0 0:1 0:2 0:3 ");
	assert_int_equal(h.n_finals, 1);
	plx_client_close(c);
}

/* A callback that returns false cancels; events of another request stay for later. */
static void test_client_io_cancels_and_leaves_other_events(void **state)
{
	struct plx_client *c = open_client();
	struct plx_client_request q = request("hello", 4000), other = request("hi", 3);
	struct heard h = {.cancel_after = 2};
	struct plx_client_event ev;
	struct plx_diag d = {0};
	uint64_t req;
	uint32_t n_ids = 0;

	(void)state;
	assert_int_equal(plx_client_submit(c, &other, &req, &d), 0);
	assert_int_equal(plx_client_ask(c, &q, hear, &h, &d), PLX_E_CANCELLED);
	assert_int_equal(h.n_finals, 1);
	bool ended = false;

	for (int i = 0; i < 1000 && !ended; i++) {
		while (!ended && plx_client_event(c, &ev)) {
			if (ev.req != req)
				continue;
			if (ev.type == PLX_CLIENT_EV_TOKENS)
				n_ids += ev.tokens.count;
			ended = plx_client_event_final(&ev);
		}
		if (!ended)
			plx_client_wait(c, 10);
	}
	assert_true(ended);
	assert_int_equal(ev.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(n_ids, 3);
	plx_client_close(c);
}

static void test_client_io_survives_a_restart(void **state)
{
	struct plx_client *c = open_client();
	struct plx_client_request q = request("hello", 300);
	struct plx_client_info info;
	struct plx_client_event ev;
	uint64_t req, end = plx_client_now_ns() + UINT64_C(15000000000);
	uint32_t n_ids = 0, n_restarts = 0;
	bool told = false, ended = false;

	(void)state;
	q.resubmit = PLX_CLIENT_RESUBMIT_ALWAYS;
	assert_int_equal(plx_client_submit(c, &q, &req, NULL), 0);
	while (!ended && plx_client_now_ns() < end) {
		plx_client_wait(c, 10);
		while (!ended && plx_client_event(c, &ev)) {
			if (ev.type == PLX_CLIENT_EV_RESTART) {
				n_restarts++;
				n_ids = 0;
			}
			if (ev.type == PLX_CLIENT_EV_TOKENS)
				n_ids += ev.tokens.count;
			ended = ev.req == req && plx_client_event_final(&ev);
		}
		if (n_ids > 5 && !told) {
			told = true;
			kill(child, SIGUSR1);
		}
	}
	assert_true(ended);
	assert_int_equal(ev.type, PLX_CLIENT_EV_DONE);
	assert_int_equal(n_ids, 300);
	assert_int_equal(n_restarts, 1);
	plx_client_info(c, &info);
	assert_int_equal(info.n_sessions, 2);
	plx_client_close(c);
}

static void test_client_io_says_why_there_is_no_session(void **state)
{
	struct plx_client_config cfg;
	struct plx_client *c;
	struct plx_diag d = {0}, e = {0}, f = {0};

	(void)state;
	plx_client_config_init(&cfg);
	cfg.host = "127.0.0.1";
	cfg.port = 1; /* nobody listens: the host says so */
	cfg.insecure = true;
	cfg.connect_timeout_ms = 150;
	assert_int_equal(plx_client_open(&c, &cfg, &d), 0);
	assert_int_equal(plx_client_connect(c, &d), PLX_E_TIMEOUT);
	assert_non_null(strstr(d.text, "127.0.0.1 port 1 says that nothing listens there"));
	plx_client_close(c);
	cfg.host = "no-such-host.invalid";
	assert_int_equal(plx_client_open(&c, &cfg, &e), PLX_E_NOT_FOUND);
	assert_non_null(strstr(e.text, "no-such-host.invalid"));
	cfg.host = "127.0.0.1";
	cfg.n_requests = 0;
	assert_int_equal(plx_client_open(&c, &cfg, &f), PLX_E_INVAL);
	assert_string_equal(f.text, "n_requests is 0; give 1 to 1024");
	assert_null(c);
	plx_client_close(NULL);
}

/* A socket of ::1 that takes what comes and answers nothing; -1: this host has no IPv6. */
static int silent_v6(uint16_t at)
{
	struct sockaddr_in6 a = {
	    .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = htons(at)};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* The appliance is at a name's second address; nobody, or somebody silent, at its first. */
static void test_client_io_tries_every_address(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	for (int silent = 0; silent < 2; silent++) {
		int fd = silent ? silent_v6(port) : -1;
		struct plx_client *c = open_to(TWO_HOST, port);
		struct plx_client_request q = request("hello", 4);
		struct heard h = {0};
		int poll_fd = plx_client_fd(c);

		assert_int_equal(plx_client_connect(c, &d), 0);
		assert_int_equal(plx_client_ask(c, &q, hear, &h, &d), 0);
		assert_string_equal(h.text, "0:0 0:1 0:2 0:3 ");
		assert_int_equal(plx_client_fd(c), poll_fd);
		plx_client_close(c);
		if (fd >= 0)
			close(fd);
	}
}

/* "Nothing listens there" is said of a name only when every address said so. */
static void test_client_io_says_which_addresses_refused(void **state)
{
	struct plx_client_config cfg;
	struct plx_client *c;
	struct plx_diag d = {0}, e = {0};
	int fd = silent_v6(0);
	struct sockaddr_in6 a;
	socklen_t bytes = sizeof(a);

	(void)state;
	if (fd < 0)
		skip();
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &bytes), 0);
	plx_client_config_init(&cfg);
	cfg.host = TWO_HOST;
	cfg.insecure = true;
	cfg.connect_timeout_ms = 400;
	cfg.port = ntohs(a.sin6_port);
	assert_int_equal(plx_client_open(&c, &cfg, &d), 0);
	assert_int_equal(plx_client_connect(c, &d), PLX_E_TIMEOUT);
	assert_non_null(strstr(d.text, "no answer from two.test"));
	plx_client_close(c);
	close(fd);
	assert_int_equal(plx_client_open(&c, &cfg, &e), 0);
	assert_int_equal(plx_client_connect(c, &e), PLX_E_TIMEOUT);
	assert_non_null(strstr(e.text, "says that nothing listens there"));
	plx_client_close(c);
}

/* An appliance on a raw socket shares its address with a kernel that knows no such port and says
 * so of every packet: handshake, session and requests go on. */
static void test_client_io_does_not_believe_refusals(void **state)
{
	struct plx_client_request q = request("hello", 50);
	struct plx_client_info info;
	struct plx_diag d = {0};

	(void)state;
	for (int two = 0; two < 2; two++) {
		struct heard h = {0};

		refuse = true;
		n_refused = 0;
		struct plx_client *c = open_to(two ? TWO_HOST : "127.0.0.1", port);

		assert_int_equal(plx_client_connect(c, &d), 0);
		assert_int_equal(plx_client_ask(c, &q, hear, &h, &d), 0);
		refuse = false;
		assert_int_equal(h.n_finals, 1);
		assert_true(n_refused > 20);
		plx_client_info(c, &info);
		assert_int_equal(info.n_sessions, 1);
		plx_client_close(c);
	}
}

/* The same with a real kernel: nothing listens at first, then the appliance starts. */
static void test_client_io_waits_for_an_appliance_that_starts(void **state)
{
	uint16_t later = 0;
	int fd = plx_peer_sock_open(&later);
	struct plx_diag d = {0};

	(void)state;
	close(fd);
	struct plx_client *c = open_to("127.0.0.1", later);
	uint64_t until = plx_client_now_ns() + UINT64_C(250000000);

	while (plx_client_now_ns() < until)
		assert_int_equal(plx_client_wait(c, 20), 0);
	fd = plx_peer_sock_open(&later);
	assert_true(fd >= 0);
	pid_t pid = fork();

	if (pid == 0)
		serve(fd);
	close(fd);
	assert_int_equal(plx_client_connect(c, &d), 0);
	plx_client_close(c);
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_client_io_asks_and_gets_an_answer),
	    cmocka_unit_test(test_client_io_cancels_and_leaves_other_events),
	    cmocka_unit_test(test_client_io_survives_a_restart),
	    cmocka_unit_test(test_client_io_says_why_there_is_no_session),
	    cmocka_unit_test(test_client_io_tries_every_address),
	    cmocka_unit_test(test_client_io_says_which_addresses_refused),
	    cmocka_unit_test(test_client_io_does_not_believe_refusals),
	    cmocka_unit_test(test_client_io_waits_for_an_appliance_that_starts),
	};

	return cmocka_run_group_tests(tests, start_peer, stop_peer);
}
