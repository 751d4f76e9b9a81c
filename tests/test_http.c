/* HTTP: what the parser takes and refuses, and the server's rules about addresses and tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fw/base/err.h"
#include "tools/scope/serve.h"

static int parse(struct plx_http *r, const char *in)
{
	return plx_http_parse(r, in, strlen(in));
}

static void test_http_takes_a_scrape(void **state)
{
	static const char in[] = "GET /metrics?a=1&token=x-y HTTP/1.1\r\nHost: h\r\n"
				 "aCCept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n"
				 "Authorization: Bearer  \r\nX-Other: y\r\n\r\nrest";
	struct plx_http r;
	char v[8];

	(void)state;
	assert_int_equal(parse(&r, in), (int)sizeof(in) - 1 - 4);
	assert_string_equal(r.path, "/metrics");
	assert_true(r.open_metrics);
	assert_false(r.head);
	assert_string_equal(r.token, "");
	assert_true(plx_http_query(&r, "token", v, sizeof(v)));
	assert_string_equal(v, "x-y");
	assert_false(plx_http_query(&r, "oken", v, sizeof(v)));
	assert_false(plx_http_query(&r, "token", v, 3));
	for (size_t n = 0; n < sizeof(in) - 1 - 4; n++)
		assert_int_equal(plx_http_parse(&r, in, n), 0);
	assert_true(parse(&r, "HEAD / HTTP/1.0\r\nAuthorization: Bearer abc\r\n\r\n") > 0);
	assert_true(r.head);
	assert_string_equal(r.token, "abc");
}

static void test_http_refuses_the_rest(void **state)
{
	static const struct {
		const char *in;
		int status;
	} row[] = {
	    {"POST / HTTP/1.1\r\n\r\n", -405},
	    {"get / HTTP/1.1\r\n\r\n", -405},
	    {"GET metrics HTTP/1.1\r\n\r\n", -400},
	    {"GET / HTTP/2.0\r\n\r\n", -505},
	    {"GET /\r\n\r\n", -400},
	    {"GET / HTTP/1.1\r\nNoColon\r\n\r\n", -400},
	    {"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", -400},
	    {"GET / HTTP/1.1\r\nA: x\n\tB: y\r\n\r\n", -400},
	    {"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", -411},
	    {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", -411},
	    {"GET / HTTP/1.1\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", -400},
	    {"GET /\x01 HTTP/1.1\r\n\r\n", -400},
	    {" / HTTP/1.1\r\n\r\n", -400}};
	static char longer[PLX_HTTP_BYTES + 10];
	struct plx_http r;

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		assert_int_equal(parse(&r, row[i].in), row[i].status);
	memset(longer, 'a', sizeof(longer));
	memcpy(longer, "GET /", 5);
	assert_int_equal(plx_http_parse(&r, longer, sizeof(longer)), -431);
	memcpy(longer + 400, " HTTP/1.1\r\n\r\n", 13);
	assert_int_equal(plx_http_parse(&r, longer, 413), -414);
	assert_true(plx_http_same("secret", "secret"));
	assert_false(plx_http_same("secret", "secres"));
	assert_false(plx_http_same("secret", ""));
	assert_false(plx_http_same("aa", "a"));
}

static volatile sig_atomic_t stop;

static void say_hello(void *ctx, const struct plx_http *r, struct plx_reply *reply)
{
	(void)ctx;
	if (strcmp(r->path, "/hello") != 0)
		return;
	reply->status = 200;
	plx_text_add(&reply->body, "hello\n");
}

static void *serve(void *arg)
{
	return (void *)(intptr_t)plx_serve_run(arg);
}

/* The whole answer to a request. */
static void ask(uint16_t port, const char *request, char *answer, size_t room)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
	                        .sin_port = htons(port),
	                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t n = 0;
	ssize_t got;

	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(send(fd, request, strlen(request), 0), (ssize_t)strlen(request));
	while ((got = recv(fd, answer + n, room - 1 - n, 0)) > 0)
		n += (size_t)got;
	answer[n] = '\0';
	close(fd);
}

static void test_serve_answers_who_has_the_token(void **state)
{
	struct plx_serve s = {.token = "0123456789abcdef", .answer = say_hello, .stop = &stop};
	struct plx_diag d = {0};
	uint16_t port = 0;
	pthread_t thread;
	char got[2048];
	void *rc;

	(void)state;
	stop = 0;
	assert_int_equal(plx_serve_listen(&s, "127.0.0.1:0", &port, &d), 0);
	assert_int_equal(pthread_create(&thread, NULL, serve, &s), 0);
	ask(port, "GET /hello HTTP/1.1\r\n\r\n", got, sizeof(got));
	assert_non_null(strstr(got, "HTTP/1.1 401 Unauthorized\r\n"));
	assert_null(strstr(got, "hello"));
	ask(port, "GET /hello HTTP/1.1\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n", got,
	    sizeof(got));
	assert_non_null(strstr(got, "HTTP/1.1 200 OK\r\n"));
	assert_string_equal(strstr(got, "\r\n\r\n"), "\r\n\r\nhello\n");
	ask(port, "HEAD /hello?token=0123456789abcdef HTTP/1.1\r\n\r\n", got, sizeof(got));
	assert_non_null(strstr(got, "Content-Length: 6\r\n"));
	assert_string_equal(strstr(got, "\r\n\r\n"), "\r\n\r\n");
	ask(port, "GET /no?token=0123456789abcdef HTTP/1.1\r\n\r\n", got, sizeof(got));
	assert_non_null(strstr(got, "HTTP/1.1 404 Not Found\r\n"));
	ask(port, "PUT / HTTP/1.1\r\n\r\n", got, sizeof(got));
	assert_non_null(strstr(got, "HTTP/1.1 405 "));
	stop = 1;
	pthread_join(thread, &rc);
	assert_null(rc);
}

static void test_serve_listens_where_it_may(void **state)
{
	static const char *const bad[] = {"127.0.0.1",     "localhost:1", ":80",
	                                  "1.2.3.4:99999", "::1:80",      "[127.0.0.1]:80",
	                                  "127.0.0.1:80x"};
	struct plx_serve s = {.stop = &stop};
	struct plx_diag d = {0};
	uint16_t port;

	(void)state;
	assert_int_equal(plx_serve_listen(&s, "0.0.0.0:0", &port, &d), PLX_E_INVAL);
	assert_non_null(strstr(d.text, "--token-file"));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		d.text[0] = '\0';
		assert_int_equal(plx_serve_listen(&s, bad[i], &port, &d), PLX_E_INVAL);
		assert_non_null(strstr(d.text, "127.0.0.1:9477"));
	}
	s.token = "0123456789abcdef";
	assert_int_equal(plx_serve_listen(&s, "0.0.0.0:0", &port, &d), 0);
	assert_int_not_equal(port, 0);
	close(s.listen_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_http_takes_a_scrape),
	    cmocka_unit_test(test_http_refuses_the_rest),
	    cmocka_unit_test(test_serve_answers_who_has_the_token),
	    cmocka_unit_test(test_serve_listens_where_it_may),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
