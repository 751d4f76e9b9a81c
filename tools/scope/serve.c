/* The poll loop of the HTTP server; see serve.h. */
#include "tools/scope/serve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"

#define BODY_BYTES ((size_t)8 << 20)
#define HEAD_BYTES 512
#define LIMIT_NS   (5 * PLX_NS_PER_S)
#define POLL_MS    200

struct conn {
	int fd; /* -1: free */
	uint64_t end_ns;
	size_t n_in;
	char in[PLX_HTTP_BYTES];
	char *out; /* what is left to be sent; NULL: the request is not whole yet */
	size_t n_out, sent;
};

struct server {
	struct plx_serve *s;
	struct conn conn[PLX_SERVE_CONNS];
	char *body; /* [BODY_BYTES] answers are made here, one after the other */
};

static bool is_loopback(const struct sockaddr_storage *a)
{
	const struct sockaddr_in *v4 = (const void *)a;
	const struct sockaddr_in6 *v6 = (const void *)a;

	if (a->ss_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	return memcmp(&v6->sin6_addr, &in6addr_loopback, sizeof(in6addr_loopback)) == 0;
}

/* "127.0.0.1:9477" or "[::1]:9477". */
static int parse_at(const char *at, struct sockaddr_storage *a, socklen_t *n, struct plx_diag *d)
{
	const char *colon = strrchr(at, ':');
	struct sockaddr_in *v4 = (void *)a;
	struct sockaddr_in6 *v6 = (void *)a;
	char host[64], *rest = NULL;
	unsigned long port =
	    colon != NULL && colon[1] != '\0' ? strtoul(colon + 1, &rest, 10) : 65536;
	size_t n_host = colon != NULL ? (size_t)(colon - at) : 0;
	bool brackets = n_host > 2 && at[0] == '[' && at[n_host - 1] == ']';

	memset(a, 0, sizeof(*a));
	n_host -= brackets ? 2 : 0;
	if (port < 65536 && *rest == '\0' && n_host > 0 && n_host < sizeof(host)) {
		memcpy(host, at + brackets, n_host);
		host[n_host] = '\0';
		if (!brackets && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
			v4->sin_family = AF_INET;
			v4->sin_port = htons((uint16_t)port);
			*n = sizeof(*v4);
			return PLX_E_OK;
		}
		if (brackets && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
			v6->sin6_family = AF_INET6;
			v6->sin6_port = htons((uint16_t)port);
			*n = sizeof(*v6);
			return PLX_E_OK;
		}
	}
	return plx_diag_set(d, PLX_E_INVAL,
	                    "--listen \"%.80s\" is no address and port; write one such as "
	                    "127.0.0.1:9477 or [::1]:9477",
	                    at);
}

static uint16_t bound_port(int fd)
{
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
		return 0;
	return ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port
	                                    : ((struct sockaddr_in6 *)&a)->sin6_port);
}

int plx_serve_listen(struct plx_serve *s, const char *at, uint16_t *port_out, struct plx_diag *d)
{
	struct sockaddr_storage a;
	socklen_t n;
	int one = 1;
	int err = parse_at(at, &a, &n, d);

	if (err != 0)
		return err;
	if (!is_loopback(&a) && s->token == NULL)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--listen %.80s can be reached from elsewhere: give a "
		                    "--token-file as well, or listen on 127.0.0.1",
		                    at);
	int fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, n) != 0 || listen(fd, 64) != 0) {
		err = plx_diag_set(d, PLX_E_IO, "--listen %.80s: %s", at, strerror(errno));
		if (fd >= 0)
			close(fd);
		return err;
	}
	s->listen_fd = fd;
	if (port_out != NULL)
		*port_out = bound_port(fd);
	return PLX_E_OK;
}

static void conn_close(struct conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->out);
	c->out = NULL;
	c->fd = -1;
}

static void accept_new(struct server *v)
{
	int fd = accept4(v->s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (int i = 0; i < PLX_SERVE_CONNS; i++) {
		struct conn *c = &v->conn[i];

		if (c->fd >= 0)
			continue;
		c->fd = fd;
		c->end_ns = plx_clock_ns() + LIMIT_NS;
		c->n_in = 0;
		c->sent = 0;
		return;
	}
	close(fd); /* all are taken */
}

/* Whether the request may be answered. A page in a browser can't send headers: it asks by query. */
static bool is_let_in(const struct plx_serve *s, const struct plx_http *r)
{
	char asked[PLX_HTTP_TOKEN_BYTES];

	if (s->token == NULL || plx_http_same(s->token, r->token))
		return true;
	return plx_http_query(r, "token", asked, sizeof(asked)) && plx_http_same(s->token, asked);
}

static void make_reply(struct server *v, const struct plx_http *r, int status,
                       struct plx_reply *reply)
{
	*reply = (struct plx_reply){.status = status, .type = "text/plain; charset=utf-8"};
	plx_text_init(&reply->body, v->body, BODY_BYTES);
	if (status == 200 && !is_let_in(v->s, r))
		reply->status = 401;
	if (reply->status == 200) {
		reply->status = 404;
		v->s->answer(v->s->ctx, r, reply);
	}
	if (reply->body.cut)
		reply->status = 503;
	if (reply->status != 200 && reply->body.used == 0)
		plx_text_add(&reply->body, "%d %s\n", reply->status,
		             plx_http_reason(reply->status));
}

static void answer(struct server *v, struct conn *c, const struct plx_http *r, int status)
{
	struct plx_reply reply;

	make_reply(v, r, status, &reply);
	c->out = malloc(HEAD_BYTES + reply.body.used);
	if (c->out == NULL) {
		conn_close(c);
		return;
	}
	int n = snprintf(c->out, HEAD_BYTES,
	                 "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
	                 "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
	                 "Content-Security-Policy: default-src 'self' 'unsafe-inline'\r\n"
	                 "%sConnection: close\r\n\r\n",
	                 reply.status, plx_http_reason(reply.status), reply.type, reply.body.used,
	                 reply.status == 401 ? "WWW-Authenticate: Bearer\r\n" : "");

	c->n_out = (size_t)n;
	if (r->head)
		return;
	memcpy(c->out + n, reply.body.at, reply.body.used);
	c->n_out += reply.body.used;
}

static void receive(struct server *v, struct conn *c)
{
	ssize_t n = recv(c->fd, c->in + c->n_in, sizeof(c->in) - c->n_in, 0);
	struct plx_http r;

	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			conn_close(c);
		return;
	}
	c->n_in += (size_t)n;
	int got = plx_http_parse(&r, c->in, c->n_in);

	if (got != 0)
		answer(v, c, &r, got > 0 ? 200 : -got);
}

static void send_some(struct conn *c)
{
	ssize_t n = send(c->fd, c->out + c->sent, c->n_out - c->sent, MSG_NOSIGNAL);

	if (n < 0 && errno == EAGAIN)
		return;
	c->sent += n > 0 ? (size_t)n : 0;
	if (n < 0 || c->sent == c->n_out) {
		(void)shutdown(c->fd, SHUT_WR);
		conn_close(c);
	}
}

static void turn(struct server *v)
{
	struct pollfd fd[PLX_SERVE_CONNS + 1];

	fd[PLX_SERVE_CONNS] = (struct pollfd){.fd = v->s->listen_fd, .events = POLLIN};
	for (int i = 0; i < PLX_SERVE_CONNS; i++)
		fd[i] = (struct pollfd){.fd = v->conn[i].fd,
		                        .events = v->conn[i].out != NULL ? POLLOUT : POLLIN};
	if (poll(fd, PLX_SERVE_CONNS + 1, POLL_MS) < 0)
		return;
	uint64_t now = plx_clock_ns();

	for (int i = 0; i < PLX_SERVE_CONNS; i++) {
		struct conn *c = &v->conn[i];

		if (c->fd < 0)
			continue;
		if (fd[i].revents != 0 && c->out == NULL)
			receive(v, c);
		else if (fd[i].revents != 0)
			send_some(c);
		if (c->fd >= 0 && now > c->end_ns)
			conn_close(c);
	}
	if (fd[PLX_SERVE_CONNS].revents != 0)
		accept_new(v);
}

int plx_serve_run(struct plx_serve *s)
{
	struct server *v = calloc(1, sizeof(*v));

	if (v != NULL)
		v->body = malloc(BODY_BYTES);
	if (v == NULL || v->body == NULL) {
		free(v);
		close(s->listen_fd);
		return PLX_E_NOMEM;
	}
	v->s = s;
	for (int i = 0; i < PLX_SERVE_CONNS; i++)
		v->conn[i].fd = -1;
	while (!*s->stop)
		turn(v);
	for (int i = 0; i < PLX_SERVE_CONNS; i++)
		conn_close(&v->conn[i]);
	close(s->listen_fd);
	free(v->body);
	free(v);
	return PLX_E_OK;
}

int plx_serve_token(const char *path, char token[PLX_HTTP_TOKEN_BYTES], struct plx_diag *d)
{
	char line[PLX_HTTP_TOKEN_BYTES + 2] = "";
	FILE *f = fopen(path, "re");

	if (f == NULL)
		return plx_diag_set(d, PLX_E_IO, "--token-file %s: %s", path, strerror(errno));
	char *got = fgets(line, sizeof(line), f);

	fclose(f);
	size_t n = got != NULL ? strcspn(line, "\r\n") : 0;

	line[n] = '\0';
	for (size_t i = 0; i < n; i++)
		if (line[i] < 0x21 || line[i] > 0x7e)
			n = 0;
	if (n < 16 || n >= PLX_HTTP_TOKEN_BYTES)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "--token-file %s: the first line must be 16 to 128 printable "
		                    "characters; `openssl rand -hex 24` makes one",
		                    path);
	memcpy(token, line, n + 1);
	return PLX_E_OK;
}
