/*
 * A UDP relay that impairs: stands between clients and an appliance and loses, doubles, delays,
 * damages, cuts and replays packets in both directions, by a seed.
 *
 * Each client address gets a socket of its own towards the appliance, so that answers find their
 * way back. SIGUSR1 gives every client a fresh one: its address changes, as behind a NAT that
 * forgot. SIGTERM and SIGINT end the relay; it then prints what it did to standard output.
 */
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "tests/lib/impair.h"

#define MAX_FLOWS 64

struct flow {
	struct sockaddr_storage addr; /* the client */
	socklen_t addr_len;
	int up_fd; /* towards the appliance */
};

struct relay {
	struct plx_impair *im;
	struct sockaddr_storage to;
	socklen_t to_len;
	int fd; /* clients send here */
	uint32_t n_flows;
	struct flow flow[MAX_FLOWS];
};

static volatile sig_atomic_t stop_asked, rebind_asked;

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		rebind_asked = 1;
	else
		stop_asked = 1;
}

/* "HOST PORT" from "host:port" or "[v6]:port"; both numeric. */
static int parse_addr(const char *s, struct sockaddr_storage *out, socklen_t *out_len)
{
	char host[128];
	const char *colon = strrchr(s, ':');
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM,
	                         .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
	struct addrinfo *ai;

	if (!colon || (size_t)(colon - s) >= sizeof(host))
		return -1;
	size_t n = (size_t)(colon - s);
	bool bracketed = n >= 2 && s[0] == '[' && s[n - 1] == ']';

	snprintf(host, sizeof(host), "%.*s", (int)(bracketed ? n - 2 : n), s + bracketed);
	if (getaddrinfo(host, colon + 1, &hints, &ai))
		return -1;
	memcpy(out, ai->ai_addr, ai->ai_addrlen);
	*out_len = ai->ai_addrlen;
	freeaddrinfo(ai);
	return 0;
}

static int open_up(const struct relay *r)
{
	int fd = socket(r->to.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)&r->to, r->to_len)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int flow_of(struct relay *r, const struct sockaddr_storage *addr, socklen_t len)
{
	for (uint32_t i = 0; i < r->n_flows; i++)
		if (r->flow[i].addr_len == len && !memcmp(&r->flow[i].addr, addr, len))
			return (int)i;
	if (r->n_flows == MAX_FLOWS)
		return -1;
	struct flow *f = &r->flow[r->n_flows];

	f->addr = *addr;
	f->addr_len = len;
	f->up_fd = open_up(r);
	return f->up_fd < 0 ? -1 : (int)r->n_flows++;
}

static void take_up(struct relay *r)
{
	uint8_t buf[PLX_IMPAIR_PACKET_BYTES];

	for (int i = 0; i < 64; i++) {
		struct sockaddr_storage from = {0};
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(r->fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

		if (n < 0)
			return;
		int flow = flow_of(r, &from, len);

		if (flow >= 0)
			plx_impair_put(r->im, PLX_IMPAIR_UP, (uint32_t)flow, buf, (uint32_t)n,
			               plx_clock_ns());
	}
}

static void take_down(struct relay *r, uint32_t flow)
{
	uint8_t buf[PLX_IMPAIR_PACKET_BYTES];

	for (int i = 0; i < 64; i++) {
		ssize_t n = recv(r->flow[flow].up_fd, buf, sizeof(buf), 0);

		if (n < 0)
			return;
		plx_impair_put(r->im, PLX_IMPAIR_DOWN, flow, buf, (uint32_t)n, plx_clock_ns());
	}
}

static void send_due(struct relay *r)
{
	struct plx_impair_packet p;

	while (plx_impair_get(r->im, plx_clock_ns(), &p)) {
		struct flow *f = &r->flow[p.flow];

		/* A full socket buffer or an absent peer is one more loss. */
		if (p.dir == PLX_IMPAIR_UP)
			(void)!send(f->up_fd, p.data, p.n_bytes, 0);
		else
			(void)!sendto(r->fd, p.data, p.n_bytes, 0, (struct sockaddr *)&f->addr,
			              f->addr_len);
	}
}

static void rebind_all(struct relay *r)
{
	for (uint32_t i = 0; i < r->n_flows; i++) {
		int fd = open_up(r);

		if (fd < 0)
			continue;
		close(r->flow[i].up_fd);
		r->flow[i].up_fd = fd;
	}
}

static void loop(struct relay *r)
{
	while (!stop_asked) {
		struct pollfd pfd[MAX_FLOWS + 1] = {{.fd = r->fd, .events = POLLIN}};
		uint64_t next = plx_impair_next_ns(r->im), now = plx_clock_ns();
		uint64_t wait = next == UINT64_MAX ? 100 * PLX_NS_PER_MS
		                : next > now       ? next - now
		                                   : 0;
		struct timespec ts = {.tv_sec = (time_t)(wait / PLX_NS_PER_S),
		                      .tv_nsec = (long)(wait % PLX_NS_PER_S)};

		if (rebind_asked) {
			rebind_asked = 0;
			rebind_all(r);
		}
		for (uint32_t i = 0; i < r->n_flows; i++)
			pfd[i + 1] = (struct pollfd){.fd = r->flow[i].up_fd, .events = POLLIN};
		if (ppoll(pfd, r->n_flows + 1, &ts, NULL) < 0 && errno != EINTR)
			return;
		take_up(r);
		for (uint32_t i = 0; i < r->n_flows; i++)
			take_down(r, i);
		send_due(r);
	}
}

static void print_counts(const struct relay *r)
{
	static const char *const name[] = {"up", "down"};

	for (int d = 0; d < PLX_IMPAIR_DIRS; d++) {
		const struct plx_impair_counts *c =
		    plx_impair_counts_of(r->im, (enum plx_impair_dir)d);

		printf("relay %s: in %lu out %lu lost %lu duplicated %lu reordered %lu corrupted "
		       "%lu truncated %lu replayed %lu too-big %lu full %lu\n",
		       name[d], c->in, c->out, c->lost, c->duplicated, c->reordered, c->corrupted,
		       c->truncated, c->replayed, c->too_big, c->full);
	}
}

static int usage(void)
{
	fputs(
	    "usage: relay --listen ADDR:PORT --to ADDR:PORT [--loss P] [--dup P] [--reorder P]\n"
	    "             [--corrupt P] [--truncate P] [--replay P] [--spare] [--delay-us N]\n"
	    "             [--reorder-us N] [--mtu N] [--seed N]\n"
	    "P is a chance from 0 to 1 and holds for both directions; --spare damages copies and\n"
	    "lets the packets themselves pass. SIGUSR1 changes the clients' addresses.\n",
	    stderr);
	return 2;
}

enum {
	O_LISTEN = 1,
	O_TO,
	O_LOSS,
	O_DUP,
	O_REORDER,
	O_CORRUPT,
	O_TRUNCATE,
	O_REPLAY,
	O_SPARE,
	O_DELAY,
	O_REORDER_US,
	O_MTU,
	O_SEED
};

static const struct option options[] = {{"listen", 1, NULL, O_LISTEN},
                                        {"to", 1, NULL, O_TO},
                                        {"loss", 1, NULL, O_LOSS},
                                        {"dup", 1, NULL, O_DUP},
                                        {"reorder", 1, NULL, O_REORDER},
                                        {"corrupt", 1, NULL, O_CORRUPT},
                                        {"truncate", 1, NULL, O_TRUNCATE},
                                        {"replay", 1, NULL, O_REPLAY},
                                        {"spare", 0, NULL, O_SPARE},
                                        {"delay-us", 1, NULL, O_DELAY},
                                        {"reorder-us", 1, NULL, O_REORDER_US},
                                        {"mtu", 1, NULL, O_MTU},
                                        {"seed", 1, NULL, O_SEED},
                                        {NULL, 0, NULL, 0}};

static int set_option(struct plx_impair_cfg *c, int opt)
{
	char *end = NULL;
	double p = optarg ? strtod(optarg, &end) : 0;

	if (optarg && (*end || p < 0))
		return -1;
	switch (opt) {
	case O_LOSS:
		c->loss = p;
		break;
	case O_DUP:
		c->duplicate = p;
		break;
	case O_REORDER:
		c->reorder = p;
		break;
	case O_CORRUPT:
		c->corrupt = p;
		break;
	case O_TRUNCATE:
		c->truncate = p;
		break;
	case O_REPLAY:
		c->replay = p;
		break;
	case O_SPARE:
		c->spare_originals = true;
		break;
	case O_DELAY:
		c->delay_us = (uint32_t)p;
		break;
	case O_REORDER_US:
		c->reorder_us = (uint32_t)p;
		break;
	case O_MTU:
		c->mtu_bytes = (uint32_t)p;
		break;
	case O_SEED:
		c->seed = (uint64_t)p;
		break;
	default:
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct relay r;
	struct sockaddr_storage at = {0};
	socklen_t at_len = 0;
	struct plx_impair_cfg cfg = {0};
	struct sigaction sa = {.sa_handler = on_signal};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == O_LISTEN ? parse_addr(optarg, &at, &at_len)
		    : opt == O_TO   ? parse_addr(optarg, &r.to, &r.to_len)
		                    : set_option(&cfg, opt))
			return usage();
	}
	if (!at_len || !r.to_len || optind != argc)
		return usage();
	r.fd = socket(at.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (r.fd < 0 || bind(r.fd, (struct sockaddr *)&at, at_len)) {
		perror("relay: --listen");
		return 1;
	}
	r.im = plx_impair_new((struct plx_impair_cfg[]){cfg, cfg});
	if (!r.im)
		return 1;
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	printf("relay ready\n");
	fflush(stdout);
	loop(&r);
	print_counts(&r);
	plx_impair_free(r.im);
	return 0;
}
