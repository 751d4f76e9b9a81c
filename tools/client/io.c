/*
 * The library's only contact with the operating system: a connected, non-blocking UDP socket, the
 * clock, random bytes, and the blocking helpers.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
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

static int env_send(void *ctx, const uint8_t *pkt, size_t n_bytes)
{
	const struct plx_client *c = *(struct plx_client **)ctx;

	if (send(c->fd, pkt, n_bytes, MSG_DONTWAIT) >= 0)
		return 0;
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
		return PLX_E_AGAIN;
	return errno == EMSGSIZE ? PLX_E_LIMIT : PLX_E_IO;
}

/* "Don't fragment": the protocol finds the path's size itself. */
static void set_dont_fragment(int fd, int family)
{
	int v4 = IP_PMTUDISC_PROBE, v6 = IPV6_PMTUDISC_PROBE;

	if (family == AF_INET)
		setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &v4, sizeof(v4));
	else
		setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &v6, sizeof(v6));
}

static int open_socket(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int bytes = 1 << 20;

	if (fd < 0)
		return -1;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen)) {
		close(fd);
		return -1;
	}
	set_dont_fragment(fd, ai->ai_family);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return fd;
}

static int connect_to(const struct plx_client_config *cfg, struct plx_diag *d)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *list, *ai;
	char port[8];
	int fd = -1, why;

	if (!cfg->host || !cfg->port)
		return plx_diag_set(d, PLX_E_INVAL, "no host or port; give both");
	snprintf(port, sizeof(port), "%u", cfg->port);
	why = getaddrinfo(cfg->host, port, &hints, &list);
	if (why)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "%s: %s; give an address or a name that resolves", cfg->host,
		                    gai_strerror(why));
	for (ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = open_socket(ai);
	why = errno;
	freeaddrinfo(list);
	if (fd < 0)
		return plx_diag_set(d, PLX_E_IO, "%s port %u: %s; check address and routes",
		                    cfg->host, cfg->port, strerror(why));
	return fd;
}

int plx_client_open(struct plx_client **out, const struct plx_client_config *cfg,
                    struct plx_diag *d)
{
	struct plx_client_env env = {.send = env_send, .now_ns = env_now, .random = env_random};

	*out = NULL;
	int fd = connect_to(cfg, d);

	if (fd < 0)
		return fd;
	int err = plx_client_make(out, cfg, &env, d);

	if (err) {
		close(fd);
		return err;
	}
	(*out)->fd = fd;
	(*out)->self = *out;
	(*out)->env.ctx = &(*out)->self;
	return 0;
}

void plx_client_close(struct plx_client *c)
{
	if (!c)
		return;
	int fd = c->fd;

	plx_client_say_close(c, c->env.now_ns(c->env.ctx));
	plx_client_free(c);
	if (fd >= 0)
		close(fd);
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
			c->hs_refused = true;
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
