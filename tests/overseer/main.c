/*
 * What a supervisor and the network do to polluxd in the end-to-end tests.
 *
 *   overseer notify SOCKET    be systemd's notify socket; print what comes, each on a line
 *   overseer freeze TID MS    stop one thread of a process for a time, and let it go
 *   overseer ping ADDRESS     one ICMP or ICMPv6 echo; exit 0: its reply came
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PING_TRIES 5
#define TEXT       "pollux echo"

static int fail(const char *what)
{
	fprintf(stderr, "overseer: %s: %s\n", what, strerror(errno));
	return 1;
}

static int notify(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char text[1024];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
		return fail(path);
	for (;;) {
		ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

		if (n < 0)
			return fail("recv");
		text[n] = '\0';
		printf("%s%s", text, n > 0 && text[n - 1] == '\n' ? "" : "\n");
		fflush(stdout);
	}
}

static int freeze(const char *tid_text, const char *ms_text)
{
	pid_t tid = (pid_t)atoi(tid_text);
	int status;

	if (ptrace(PTRACE_SEIZE, tid, 0, 0) != 0)
		return fail("ptrace");
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) != 0 || waitpid(tid, &status, __WALL) != tid)
		return fail("interrupt");
	usleep((useconds_t)atoi(ms_text) * 1000);
	return ptrace(PTRACE_DETACH, tid, 0, 0) == 0 ? 0 : fail("detach");
}

static uint16_t icmp_sum(const uint8_t *p, size_t n)
{
	uint32_t s = 0;

	for (size_t i = 0; i < n; i++)
		s += i % 2 == 0 ? (uint32_t)p[i] << 8 : p[i];
	while (s > 0xffff)
		s = (s & 0xffff) + (s >> 16);
	return htons((uint16_t)~s);
}

/* The echo request: type, code, checksum (the kernel makes ICMPv6's), id, sequence, text. */
static size_t make_echo(uint8_t *p, int family)
{
	struct icmphdr h = {.type = family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST};

	h.un.echo.id = htons((uint16_t)getpid());
	memcpy(p, &h, sizeof(h));
	memcpy(p + sizeof(h), TEXT, sizeof(TEXT));
	if (family == AF_INET) {
		h.checksum = icmp_sum(p, sizeof(h) + sizeof(TEXT));
		memcpy(p, &h, sizeof(h));
	}
	return sizeof(h) + sizeof(TEXT);
}

static int is_reply(const uint8_t *p, size_t n, int family)
{
	size_t skip = family == AF_INET && n > 0 ? (p[0] & 15u) * 4u : 0;
	uint8_t want = family == AF_INET ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY;
	struct icmphdr h;

	if (n != skip + sizeof(h) + sizeof(TEXT))
		return 0;
	memcpy(&h, p + skip, sizeof(h));
	return h.type == want && h.un.echo.id == htons((uint16_t)getpid()) &&
	       memcmp(p + skip + sizeof(h), TEXT, sizeof(TEXT)) == 0;
}

static int ping(const char *text)
{
	struct sockaddr_in a4 = {.sin_family = AF_INET};
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6};
	int family = strchr(text, ':') != NULL ? AF_INET6 : AF_INET;
	struct timeval wait = {.tv_usec = 500000};
	uint8_t buf[512];
	int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC,
	                family == AF_INET ? (int)IPPROTO_ICMP : (int)IPPROTO_ICMPV6);

	inet_pton(family, text, family == AF_INET ? (void *)&a4.sin_addr : (void *)&a6.sin6_addr);
	const struct sockaddr *to =
	    family == AF_INET ? (struct sockaddr *)&a4 : (struct sockaddr *)&a6;
	socklen_t len = family == AF_INET ? sizeof(a4) : sizeof(a6);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) != 0 ||
	    connect(fd, to, len) != 0)
		return fail(text);
	for (int i = 0; i < PING_TRIES; i++) {
		size_t n = make_echo(buf, family);
		ssize_t got = send(fd, buf, n, 0);

		while (got >= 0 && (got = recv(fd, buf, sizeof(buf), 0)) > 0)
			if (is_reply(buf, (size_t)got, family))
				return 0;
	}
	return fail("no reply");
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "notify") == 0)
		return notify(argv[2]);
	if (argc == 4 && strcmp(argv[1], "freeze") == 0)
		return freeze(argv[2], argv[3]);
	if (argc == 3 && strcmp(argv[1], "ping") == 0)
		return ping(argv[2]);
	fprintf(stderr, "usage: overseer notify SOCKET | freeze TID MS | ping ADDRESS\n");
	return 2;
}
