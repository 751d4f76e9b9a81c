/*
 * The round trip of a PING over a veth pair, beside a plain recvmmsg UDP echo and a bare DPDK echo,
 * in turns of one run. Client: a kernel socket that spins, on one CPU; the other end on another.
 *
 * Everything stands in network namespaces of this process and its child, and goes with them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rte_lcore.h>

#include "dataplane/stage_io.h"
#include "fw/base/clock.h"
#include "tests/lib/iorig.h"
#include "tests/lib/veth.h"

#define ROUNDS  8u
#define TRIPS   1500u
#define BYTES   56u /* a PING's datagram */
#define WAIT_NS (100 * PLX_NS_PER_MS)

enum way { WAY_KERNEL, WAY_DPDK, WAY_PING, N_WAYS };

static struct plx_rig rig;
static _Atomic int way, running; /* what the far end does; what it has taken up */
static double trip_us[N_WAYS][ROUNDS * TRIPS];
static uint32_t n_trips[N_WAYS], n_lost[N_WAYS];

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned int)cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

/* ---- the far ends -------------------------------------------------------------------------- */

/* The child: a namespace of its own, a blocking recvmmsg loop. */
static void kernel_echo(int ready_fd, int go_fd, int cpu)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(7000)}, from[32];
	struct mmsghdr m[32] = {0};
	struct iovec v[32];
	static char buf[32][2048];
	char byte = 0;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWNET) != 0 || write(ready_fd, &byte, 1) != 1 ||
	    read(go_fd, &byte, 1) != 1)
		_exit(1);
	if (system("ip link set plxe up && ip addr add 10.78.0.2/24 dev plxe") != 0)
		_exit(1);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || write(ready_fd, &byte, 1) != 1)
		_exit(1);
	pin(cpu);
	for (;;) {
		for (int i = 0; i < 32; i++) {
			v[i] = (struct iovec){buf[i], sizeof(buf[i])};
			m[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
			                               .msg_namelen = sizeof(from[i]),
			                               .msg_iov = &v[i],
			                               .msg_iovlen = 1};
		}
		int n = recvmmsg(fd, m, 32, MSG_WAITFORONE, NULL);

		for (int i = 0; i < n; i++)
			v[i].iov_len = m[i].msg_len;
		if (n > 0)
			(void)sendmmsg(fd, m, (unsigned int)n, 0);
	}
}

/* Echo and nothing else, on the port that the io stage uses in its turns. */
static void dpdk_echo(void)
{
	struct rte_mbuf *in[32], *out[32];
	uint16_t n = plx_port_rx(&rig.port, 0, in, 32), k = 0;

	for (uint16_t i = 0; i < n; i++) {
		uint8_t *f = rte_pktmbuf_mtod(in[i], uint8_t *);
		struct plx_net_rx rx;
		uint32_t room = in[i]->data_len + (uint32_t)rte_pktmbuf_tailroom(in[i]), len = 0;
		enum plx_net_verdict v =
		    plx_net_input(&rig.port.net, f, in[i]->data_len, room, false, &rx);

		if (v == PLX_NET_UDP)
			len = plx_net_output(&rig.port.net, &rx.peer, f, rx.payload_bytes);
		else if (v == PLX_NET_REPLY)
			len = rx.reply_bytes;
		if (len == 0) {
			rte_pktmbuf_free(in[i]);
			continue;
		}
		in[i]->data_len = (uint16_t)len;
		in[i]->pkt_len = len;
		out[k++] = in[i];
	}
	if (k > 0)
		(void)plx_port_tx(&rig.port, 0, out, k);
}

static void *far_end(void *arg)
{
	pin(*(const int *)arg);
	(void)rte_thread_register();
	for (;;) {
		int w = atomic_load_explicit(&way, memory_order_acquire);

		atomic_store_explicit(&running, w, memory_order_release);
		if (w < 0)
			break;
		if (w == WAY_DPDK) {
			dpdk_echo();
		} else if (w == WAY_PING) {
			uint64_t now = plx_clock_ns();

			(void)plx_stage_io_poll(rig.io[0], now);
			(void)plx_stage_hs_poll(&rig.hs, now);
		} else {
			usleep(1000);
		}
	}
	rte_thread_unregister();
	return NULL;
}

static void set_way(int w)
{
	atomic_store_explicit(&way, w, memory_order_release);
	while (atomic_load_explicit(&running, memory_order_acquire) != w)
		sched_yield();
}

/* ---- the client ---------------------------------------------------------------------------- */

static int connect_to(const char *ip, uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	inet_pton(AF_INET, ip, &a.sin_addr);
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? fd : -1;
}

/* Spin for a datagram; its bytes, or 0 after WAIT_NS. */
static uint32_t spin_recv(int fd, uint8_t *buf, uint32_t cap)
{
	uint64_t end = plx_clock_ns() + WAIT_NS;

	do {
		ssize_t n = recv(fd, buf, cap, MSG_DONTWAIT);

		if (n > 0)
			return (uint32_t)n;
	} while (plx_clock_ns() < end);
	return 0;
}

static void echo_trips(int fd, enum way w)
{
	uint8_t out[BYTES] = {0}, in[2048];

	for (uint32_t i = 0; i < TRIPS; i++) {
		uint64_t t0 = plx_clock_ns();

		memcpy(out, &t0, sizeof(t0));
		if (send(fd, out, sizeof(out), 0) != (ssize_t)sizeof(out) ||
		    spin_recv(fd, in, sizeof(in)) != sizeof(out) ||
		    memcmp(in, out, sizeof(out)) != 0) {
			n_lost[w]++;
			continue;
		}
		trip_us[w][n_trips[w]++] = (double)(plx_clock_ns() - t0) / 1e3;
	}
}

/* The client's half of a session over a socket. */
static int handshake(struct plx_rig_client *c, int fd)
{
	uint8_t pkt[2048];
	struct plx_hs_keys keys;

	for (int i = 0; i < 20; i++) {
		plx_hsc_hello(&c->hs, pkt);
		if (send(fd, pkt, PLX_HELLO_BYTES, 0) < 0)
			continue;
		uint32_t n = spin_recv(fd, pkt, sizeof(pkt));

		if (n > 0 && plx_hsc_input(&c->hs, &c->ack, &keys, pkt, n) == 0) {
			plx_conn_init(&c->conn, &c->crypt, PLX_SIDE_CLIENT, c->hs.hello.session_id,
			              c->ack.session_id, &keys, &c->ack.limits, plx_clock_ns());
			return 0;
		}
	}
	return -1;
}

static bool one_ping(struct plx_rig_client *c, int fd, uint64_t token)
{
	struct plx_msg_ping ping = {.token = token};
	struct plx_hdr h = {.type = PLX_T_PING, .frag_count = 1, .payload_bytes = sizeof(ping)};
	uint8_t pkt[2048];
	uint64_t now = plx_clock_ns();
	uint32_t got;

	memcpy(pkt + PLX_HDR_BYTES, &ping, sizeof(ping));
	int n = plx_conn_seal(&c->conn, &c->crypt, &h, pkt, now);

	if (n < 0 || send(fd, pkt, (size_t)n, 0) != n)
		return false;
	while ((got = spin_recv(fd, pkt, sizeof(pkt))) > 0) {
		if (plx_conn_open(&c->conn, &c->crypt, &h, pkt, got, now) == 0 &&
		    h.type == PLX_T_PONG && memcmp(pkt + PLX_HDR_BYTES, &token, 8) == 0)
			return true;
	}
	return false;
}

static void ping_trips(struct plx_rig_client *c, int fd)
{
	static uint64_t token;

	for (uint32_t i = 0; i < TRIPS; i++) {
		uint64_t t0 = plx_clock_ns();

		if (one_ping(c, fd, ++token))
			trip_us[WAY_PING][n_trips[WAY_PING]++] =
			    (double)(plx_clock_ns() - t0) / 1e3;
		else
			n_lost[WAY_PING]++;
	}
}

/* ---- the run ------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static double report(enum way w, const char *name, double kernel_p50)
{
	uint32_t n = n_trips[w];

	if (n == 0) {
		printf("ping: %s: nothing came back\n", name);
		return 0;
	}
	qsort(trip_us[w], n, sizeof(double), by_value);
	double p50 = trip_us[w][n / 2];

	printf("ping: %s: p50 %.1f us, p99 %.1f us (%u trips, %u lost)", name, p50,
	       trip_us[w][n * 99 / 100], n, n_lost[w]);
	if (kernel_p50 > 0)
		printf(", %.2f of the kernel's echo", p50 / kernel_p50);
	printf("\n");
	return p50;
}

/* The pair plxk - plxe, plxe in the child's namespace. */
static pid_t start_kernel_echo(int cpu)
{
	int up[2], down[2];
	char cmd[200], byte;

	if (pipe(up) != 0 || pipe(down) != 0)
		return -1;
	pid_t pid = fork();

	if (pid == 0)
		kernel_echo(up[1], down[0], cpu);
	snprintf(cmd, sizeof(cmd),
	         "ip link add plxk type veth peer name plxe && ip link set plxe netns %d && "
	         "ip link set plxk up && ip addr add 10.78.0.1/24 dev plxk",
	         pid);
	if (pid < 0 || read(up[0], &byte, 1) != 1 || system(cmd) != 0 ||
	    write(down[1], &byte, 1) != 1 || read(up[0], &byte, 1) != 1)
		return -1;
	return pid;
}

int main(void)
{
	struct plx_config cfg = plx_rig_config();
	int n_cpu = (int)sysconf(_SC_NPROCESSORS_ONLN), far_cpu = n_cpu > 1 ? 1 : 0;
	struct plx_rig_client c;
	pthread_t thread;

	if (plx_test_veth_up() != 0) {
		printf("ping: needs root, to make network namespaces; not run\n");
		return 0;
	}
	pid_t child = start_kernel_echo(far_cpu);

	snprintf(cfg.port[0].iface, sizeof(cfg.port[0].iface), "plxs");
	cfg.port[0].kind = PLX_PORT_AUTO;
	cfg.tmr.keepalive_ms = 100000;
	if (child < 0 || plx_rig_eal() != 0 || plx_rig_open(&rig, &cfg, 1, NULL) != 0)
		return 1;
	plx_rig_client_init(&c, &rig, 0, NULL, 0);
	if (pthread_create(&thread, NULL, far_end, &far_cpu) != 0)
		return 1;
	pin(0);
	int fd_kernel = connect_to("10.78.0.2", 7000), fd_port = connect_to("10.77.0.2", 7709);

	set_way(WAY_PING);
	if (handshake(&c, fd_port) != 0) {
		printf("ping: no handshake over %s\n", plx_port_kind_name(rig.port.kind));
		return 1;
	}
	for (uint32_t r = 0; r < ROUNDS; r++) {
		set_way(WAY_KERNEL);
		echo_trips(fd_kernel, WAY_KERNEL);
		set_way(WAY_DPDK);
		echo_trips(fd_port, WAY_DPDK);
		set_way(WAY_PING);
		ping_trips(&c, fd_port);
	}
	set_way(-1);
	pthread_join(thread, NULL);
	printf("ping: port %s on a veth pair, %u-byte datagrams, client spins on CPU 0, far end on "
	       "CPU %d\n",
	       plx_port_kind_name(rig.port.kind), BYTES, far_cpu);
	double kernel = report(WAY_KERNEL, "kernel recvmmsg echo", 0);

	(void)report(WAY_DPDK, "bare DPDK echo", kernel);
	(void)report(WAY_PING, "PING to stage_io, sealed both ways", kernel);
	plx_rig_client_end(&c);
	plx_rig_close(&rig);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}
