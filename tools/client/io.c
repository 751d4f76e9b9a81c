/*
 * The library's only contact with the operating system: a connected, non-blocking UDP socket, the
 * clock, random bytes, and the blocking helpers.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sodium.h>

#include "tools/client/core.h"

#define RECV_BURST 64

uint64_t plx_client_now_ns(void)
{
	return plx_clock_ns();
}

static uint64_t env_now(void *ctx)
{
	(void)ctx;
	return plx_clock_ns();
}

static void env_random(void *ctx, void *out, size_t n_bytes)
{
	(void)ctx;
	randombytes_buf(out, n_bytes);
}

/* What env.ctx points to: the socket, and where it may be pointed. */
struct link {
	struct plx_client *c;
	int fd;
	uint32_t n, at;
	socklen_t addr_bytes;
	struct sockaddr_storage addr[PLX_CLIENT_ADDRS];
};

static int env_send(void *ctx, const uint8_t *pkt, size_t n_bytes)
{
	const struct link *l = ctx;
	ssize_t n = send(l->fd, pkt, n_bytes, MSG_DONTWAIT);

	/* An earlier datagram's "nothing listens there": this one has not gone yet. */
	if (n < 0 && errno == ECONNREFUSED) {
		plx_client_hs_refused(l->c, plx_clock_ns());
		n = send(l->fd, pkt, n_bytes, MSG_DONTWAIT);
	}
	if (n >= 0)
		return 0;
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
		return PLX_E_AGAIN;
	return errno == EMSGSIZE ? PLX_E_LIMIT : PLX_E_IO;
}

/* Point the socket at addr[i]; it forgets address and errors of the one before. */
static int point_at(struct link *l, uint32_t i)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	socklen_t bytes = sizeof(int);
	int old;

	connect(l->fd, &none, sizeof(none));
	getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &old, &bytes);
	if (connect(l->fd, (const struct sockaddr *)&l->addr[i], l->addr_bytes))
		return -1;
	l->at = i;
	return 0;
}

static uint32_t env_next_addr(void *ctx)
{
	struct link *l = ctx;

	for (uint32_t i = 1; i <= l->n; i++)
		if (!point_at(l, (l->at + i) % l->n))
			break;
	return l->at;
}

/* "Don't fragment": the protocol finds the path's size itself. */
static void set_dont_fragment(int fd, int family)
{
	int v4 = IP_PMTUDISC_PROBE, v6 = IPV6_PMTUDISC_PROBE;

	setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &v4, sizeof(v4));
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &v6, sizeof(v6));
}

static int open_socket(int family)
{
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int bytes = 1 << 20, no = 0;

	if (fd < 0)
		return -1;
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
	set_dont_fragment(fd, family);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return fd;
}

/* An IPv4 address as a socket of IPv6 takes it: ::ffff:a.b.c.d. */
static void map_v4(struct sockaddr_storage *out, const struct sockaddr_in *in)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = in->sin_port};

	a.sin6_addr.s6_addr[10] = a.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&a.sin6_addr.s6_addr[12], &in->sin_addr, sizeof(in->sin_addr));
	memcpy(out, &a, sizeof(a));
}

/* The addresses of the list that a socket of this family reaches, in the list's order. */
static void take_addrs(struct link *l, const struct addrinfo *list, int family)
{
	l->n = 0;
	l->addr_bytes =
	    family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	for (const struct addrinfo *ai = list; ai && l->n < PLX_CLIENT_ADDRS; ai = ai->ai_next) {
		struct sockaddr_in v4;

		if (ai->ai_family == family) {
			memcpy(&l->addr[l->n++], ai->ai_addr, ai->ai_addrlen);
		} else if (family == AF_INET6 && ai->ai_family == AF_INET) {
			memcpy(&v4, ai->ai_addr, sizeof(v4));
			map_v4(&l->addr[l->n++], &v4);
		}
	}
}

/* One socket for the whole list: of IPv6 when it has such addresses and this host has IPv6. */
static int open_link(struct link *l, const struct addrinfo *list)
{
	bool v6 = false;

	for (const struct addrinfo *ai = list; ai; ai = ai->ai_next)
		v6 |= ai->ai_family == AF_INET6;
	l->fd = v6 ? open_socket(AF_INET6) : -1;
	take_addrs(l, list, l->fd >= 0 ? AF_INET6 : AF_INET);
	if (l->fd < 0 && l->n > 0)
		l->fd = open_socket(AF_INET);
	if (l->fd < 0)
		return -1;
	for (uint32_t i = 0; i < l->n; i++)
		if (!point_at(l, i))
			return 0;
	int why = errno;

	close(l->fd);
	errno = why;
	return -1;
}

static int connect_to(struct link *l, const struct plx_client_config *cfg, struct plx_diag *d)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *list;
	char port[8];

	if (!cfg->host || !cfg->port)
		return plx_diag_set(d, PLX_E_INVAL, "no host or port; give both");
	snprintf(port, sizeof(port), "%u", cfg->port);
	int why = getaddrinfo(cfg->host, port, &hints, &list);

	if (why)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "%s: %s; give an address or a name that resolves", cfg->host,
		                    gai_strerror(why));
	int err = open_link(l, list);

	why = errno;
	freeaddrinfo(list);
	if (err)
		return plx_diag_set(d, PLX_E_IO, "%s port %u: %s; check address and routes",
		                    cfg->host, cfg->port, strerror(why));
	return 0;
}

int plx_client_open(struct plx_client **out, const struct plx_client_config *cfg,
                    struct plx_diag *d)
{
	struct plx_client_env env = {
	    .send = env_send, .now_ns = env_now, .random = env_random, .next_addr = env_next_addr};
	struct link *l = calloc(1, sizeof(*l));

	*out = NULL;
	if (!l)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for a client");
	int err = connect_to(l, cfg, d);

	if (err) {
		free(l);
		return err;
	}
	env.ctx = l;
	env.n_addrs = l->n;
	err = plx_client_make(out, cfg, &env, d);
	if (err) {
		close(l->fd);
		free(l);
		return err;
	}
	l->c = *out;
	(*out)->fd = l->fd;
	(*out)->addr_idx = l->at;
	return 0;
}

void plx_client_close(struct plx_client *c)
{
	if (!c)
		return;
	struct link *l = c->fd >= 0 ? c->env.ctx : NULL;

	plx_client_say_close(c, c->env.now_ns(c->env.ctx));
	plx_client_free(c);
	if (l) {
		close(l->fd);
		free(l);
	}
}

int plx_client_fd(const struct plx_client *c)
{
	return c->fd;
}

int plx_client_process(struct plx_client *c, uint64_t now_ns)
{
	uint8_t pkt[PLX_DGRAM_MAX_BYTES];

	for (int i = 0; i < RECV_BURST && c->fd >= 0; i++) {
		ssize_t n = recv(c->fd, pkt, sizeof(pkt), MSG_DONTWAIT);

		if (n < 0 && errno == ECONNREFUSED) {
			plx_client_hs_refused(c, now_ns);
			continue;
		}
		if (n < 0)
			break;
		plx_client_input(c, pkt, (size_t)n, now_ns);
	}
	return plx_client_tick(c, now_ns);
}

/* ---- blocking ---- */

int plx_client_wait(struct plx_client *c, uint32_t timeout_ms)
{
	uint64_t now = plx_clock_ns(), next = plx_client_next_ns(c);
	uint64_t limit = now + timeout_ms * PLX_NS_PER_MS;
	struct pollfd pfd = {.fd = c->fd, .events = POLLIN};

	if (limit < next)
		next = limit;
	uint64_t wait = next > now ? next - now : 0;
	struct timespec ts = {.tv_sec = (time_t)(wait / PLX_NS_PER_S),
	                      .tv_nsec = (long)(wait % PLX_NS_PER_S)};

	ppoll(&pfd, 1, &ts, NULL);
	return plx_client_process(c, plx_clock_ns());
}

int plx_client_connect(struct plx_client *c, struct plx_diag *d)
{
	while (c->state == PLX_CL_HANDSHAKE)
		plx_client_wait(c, 1000);
	if (c->state == PLX_CL_OPEN)
		return 0;
	return plx_diag_set(d, c->why_err, "%s", c->why);
}

static int outcome(const struct plx_client_event *ev, struct plx_diag *d)
{
	switch (ev->type) {
	case PLX_CLIENT_EV_REJECT:
		return plx_diag_set(d, ev->reject.err, "rejected: %s%s%s",
		                    plx_err_help(ev->reject.err), ev->reject.detail[0] ? ": " : "",
		                    ev->reject.detail);
	case PLX_CLIENT_EV_CANCELLED:
		return plx_diag_set(d, PLX_E_CANCELLED, "the request was cancelled");
	case PLX_CLIENT_EV_FAILED:
		return plx_diag_set(d, ev->failed.err, "%s", ev->failed.why);
	case PLX_CLIENT_EV_OPEN:
	case PLX_CLIENT_EV_MODELS:
	case PLX_CLIENT_EV_ACCEPT:
	case PLX_CLIENT_EV_TOKENS:
	case PLX_CLIENT_EV_RESTART:
	case PLX_CLIENT_EV_DONE:
	case PLX_CLIENT_EV_PONG:
	case PLX_CLIENT_EV_DRAIN:
	case PLX_CLIENT_EV_LOST:
	case PLX_CLIENT_EV_CLOSED:
		break;
	}
	return 0;
}

int plx_client_ask(struct plx_client *c, const struct plx_client_request *r,
                   plx_client_on_event *fn, void *arg, struct plx_diag *d)
{
	struct plx_client_event ev;
	uint64_t req;
	int err = plx_client_submit(c, r, &req, d);

	if (err)
		return err;
	for (;;) {
		while (plx_client_event_of(c, req, &ev)) {
			bool final = plx_client_event_final(&ev);

			if (fn && !fn(arg, &ev) && !final)
				plx_client_cancel(c, req);
			if (final)
				return outcome(&ev, d);
		}
		plx_client_wait(c, 1000);
	}
}
