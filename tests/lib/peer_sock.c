/* A socket around the appliance in a box; one client at a time, the one that spoke last. */
#include "tests/lib/peer_sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fw/base/clock.h"

struct line {
	int fd;
	struct sockaddr_in to;
};

int plx_peer_sock_open(uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
	                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	                        .sin_port = htons(*port)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&a, len) || getsockname(fd, (struct sockaddr *)&a, &len)) {
		close(fd);
		return -1;
	}
	*port = ntohs(a.sin_port);
	return fd;
}

static void send_to(void *ctx, const uint8_t *pkt, size_t n)
{
	const struct line *l = ctx;

	/* A full buffer is a lost packet: the protocol's business. */
	(void)!sendto(l->fd, pkt, n, 0, (const struct sockaddr *)&l->to, sizeof(l->to));
}

static void take(struct plx_peer *p, struct line *l)
{
	uint8_t pkt[PLX_DGRAM_MAX_BYTES], ip[4];
	socklen_t len = sizeof(l->to);
	ssize_t n;

	while ((n = recvfrom(l->fd, pkt, sizeof(pkt), 0, (struct sockaddr *)&l->to, &len)) >= 0) {
		memcpy(ip, &l->to.sin_addr, sizeof(ip));
		struct plx_wire_addr a = plx_wire_addr_v4(ip, ntohs(l->to.sin_port));

		plx_peer_input(p, pkt, (size_t)n, &a, plx_clock_ns());
	}
}

void plx_peer_sock_serve(int fd, struct plx_peer_cfg *cfg, volatile sig_atomic_t *stop,
                         volatile sig_atomic_t *restart, volatile sig_atomic_t *drain)
{
	struct line l = {.fd = fd};

	cfg->send = send_to;
	cfg->ctx = &l;
	struct plx_peer *p = plx_peer_new(cfg, plx_clock_ns());

	while (!*stop) {
		uint64_t now = plx_clock_ns(), next = plx_peer_next_ns(p);
		uint64_t wait = next > now ? next - now : 0;
		struct pollfd pfd = {.fd = fd, .events = POLLIN};

		if (wait > 100 * PLX_NS_PER_MS)
			wait = 100 * PLX_NS_PER_MS;
		struct timespec ts = {.tv_nsec = (long)wait};

		ppoll(&pfd, 1, &ts, NULL);
		take(p, &l);
		if (*restart)
			plx_peer_restart(p);
		if (*drain)
			plx_peer_drain(p, plx_clock_ns());
		*restart = *drain = 0;
		plx_peer_tick(p, plx_clock_ns());
	}
	plx_peer_free(p);
}
