/*
 * Ports over what any machine has: rings in memory, and a veth pair by AF_XDP and AF_PACKET, with
 * the kernel's own stack at the other end as the judge of our ARP, ND, ICMP and checksums.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dataplane/port.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "tests/lib/veth.h"

/* The AF_XDP driver keeps its umem and BPF object until the process ends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:xsk_umem__create\nleak:libbpf";
}

static bool have_veth;

static struct plx_config board(enum plx_port_kind kind)
{
	struct plx_config c = {
	    .mem_mib = 64,
	    .n_ports = 1,
	    .lim = {.n_mbufs = 4095},
	    .port = {{.name = "wire0",
	              .kind = kind,
	              .iface = "plxs",
	              .n_queues = 1,
	              .ipv4 = {10, 77, 0, 2},
	              .ipv6 = {0xfd, 0x77, [15] = 2},
	              .udp_port = 7709}},
	};

	return c;
}

static int group_setup(void **state)
{
	struct plx_config c = board(PLX_PORT_AUTO);
	struct plx_diag d = {0};

	(void)state;
	have_veth = plx_test_veth_up() == 0;
	if (plx_eal_start(&c, &d) != PLX_E_OK) {
		printf("%s\n", d.text);
		return -1;
	}
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	plx_eal_stop();
	return 0;
}

/* What an io stage does with frames, reduced to an echo. Returns datagrams echoed. */
static uint32_t echo_turn(const struct plx_port *p, uint16_t queue)
{
	struct rte_mbuf *in[PLX_PORT_BURST], *out[PLX_PORT_BURST];
	uint16_t n = plx_port_rx(p, queue, in, PLX_PORT_BURST), k = 0;
	uint32_t echoed = 0;

	for (uint16_t i = 0; i < n; i++) {
		uint8_t *f = rte_pktmbuf_mtod(in[i], uint8_t *);
		uint32_t room = (uint32_t)in[i]->data_len + rte_pktmbuf_tailroom(in[i]), len = 0;
		struct plx_net_rx rx;
		enum plx_net_verdict v = plx_net_input(&p->net, f, in[i]->data_len, room,
		                                       plx_port_sum_ok(p, in[i]), &rx);

		if (v == PLX_NET_REPLY)
			len = rx.reply_bytes;
		if (v == PLX_NET_UDP) {
			len = plx_net_output(&p->net, &rx.peer, f, rx.payload_bytes);
			echoed++;
		}
		if (len == 0) {
			rte_pktmbuf_free(in[i]);
			continue;
		}
		in[i]->data_len = (uint16_t)len;
		in[i]->pkt_len = len;
		out[k++] = in[i];
	}
	(void)plx_port_tx(p, queue, out, k);
	return echoed;
}

/* One datagram there and back through the kernel's socket; 0 when it came back whole. */
static int kernel_echo(const struct plx_port *p, uint16_t n_queues, int family)
{
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(7709)};
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(7709)};
	int fd = socket(family, SOCK_DGRAM, 0), rc = -1;
	char buf[1000] = {0}, msg[1000];

	inet_pton(AF_INET, "10.77.0.2", &a4.sin_addr);
	inet_pton(AF_INET6, "fd77::2", &a6.sin6_addr);
	memset(msg, 'x', sizeof(msg));
	const struct sockaddr *a = family == AF_INET ? (const void *)&a4 : (const void *)&a6;

	if (connect(fd, a, family == AF_INET ? sizeof(a4) : sizeof(a6)) == 0 &&
	    send(fd, msg, sizeof(msg), 0) == (ssize_t)sizeof(msg)) {
		uint64_t end = plx_clock_ns() + 2 * PLX_NS_PER_S;

		while (rc != 0 && plx_clock_ns() < end) {
			for (uint16_t q = 0; q < n_queues; q++)
				(void)echo_turn(p, q);
			if (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) == (ssize_t)sizeof(buf))
				rc = memcmp(buf, msg, sizeof(buf));
		}
	}
	close(fd);
	return rc;
}

/* ping(8) may be missing; a raw socket is the same. */
static int kernel_ping4(const struct plx_port *p)
{
	uint8_t echo[12] = {8, 0, 0, 0, 0, 1, 0, 1, 'p', 'o', 'n', 'g'}, buf[64];
	struct sockaddr_in a = {.sin_family = AF_INET};
	uint16_t sum = (uint16_t)~plx_net_sum(echo, sizeof(echo), 0);
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), rc = -1;
	uint64_t end = plx_clock_ns() + 2 * PLX_NS_PER_S;

	inet_pton(AF_INET, "10.77.0.2", &a.sin_addr);
	memcpy(echo + 2, &sum, 2);
	(void)sendto(fd, echo, sizeof(echo), 0, (struct sockaddr *)&a, sizeof(a));
	while (rc != 0 && plx_clock_ns() < end) {
		(void)echo_turn(p, 0);
		if (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) == 32)
			rc = buf[20] == 0 && memcmp(buf + 28, "pong", 4) == 0 ? 0 : -1;
	}
	close(fd);
	return rc;
}

/* A datagram to a port that is not ours goes past us; 0 when the program counted it so. */
static int kernel_sees_port_9(const struct plx_port *p)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(9)};
	struct plx_port_stats before, after;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	plx_port_stats(p, &before);
	inet_pton(AF_INET, "10.77.0.2", &a.sin_addr);
	(void)sendto(fd, "x", 1, 0, (struct sockaddr *)&a, sizeof(a));
	close(fd);
	plx_port_stats(p, &after);
	return after.xdp[PLX_XDP_UDP] == before.xdp[PLX_XDP_UDP] &&
	               after.xdp[PLX_XDP_PASSED] > before.xdp[PLX_XDP_PASSED]
	           ? 0
	           : -1;
}

static void test_port_af_xdp_carries_both_families(void **state)
{
	struct plx_config c = board(PLX_PORT_AF_XDP);
	struct plx_port_stats s;
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	if (!have_veth)
		skip();
	if (plx_port_open(&p, &c, 0, &d) != PLX_E_OK)
		fail_msg("%s", d.text);
	assert_int_equal(p.kind, PLX_PORT_AF_XDP);
	assert_int_equal(system("ip neigh flush dev plxc"), 0);
	assert_int_equal(p.max_datagram, 1452);
	assert_int_equal(kernel_echo(&p, 1, AF_INET), 0);
	assert_int_equal(kernel_echo(&p, 1, AF_INET6), 0);
	assert_int_equal(kernel_ping4(&p), 0);
	plx_port_stats(&p, &s);
	assert_int_equal(s.xdp[PLX_XDP_UDP], 2);
	assert_true(s.xdp[PLX_XDP_ARP] >= 1);
	assert_true(s.xdp[PLX_XDP_ND] >= 1);
	assert_int_equal(s.xdp[PLX_XDP_ECHO], 1);
	assert_int_equal(kernel_sees_port_9(&p), 0);
	plx_port_close(&p);
}

/* Child: take the interface, then die without a word, as a killed process does. */
static int open_and_die(void)
{
	struct plx_config c = board(PLX_PORT_AF_XDP);
	struct plx_port p;
	struct plx_diag d = {0};

	snprintf(c.file_prefix, sizeof(c.file_prefix), "plx-die-%d", (int)getpid());
	if (plx_eal_start(&c, &d) != PLX_E_OK || plx_port_open(&p, &c, 0, &d) != PLX_E_OK) {
		printf("%s\n", d.text);
		_exit(1);
	}
	int rc = kernel_echo(&p, 1, AF_INET) == 0 ? 0 : 2;

	(void)rmdir(rte_eal_get_runtime_dir());
	_exit(rc);
}

static void test_port_af_xdp_follows_a_killed_owner(void **state)
{
	(void)state;
	if (!have_veth)
		skip();
	for (int i = 0; i < 2; i++)
		assert_int_equal(system("/proc/$PPID/exe open-and-die"), 0);
}

static void test_port_af_packet_takes_two_queues(void **state)
{
	struct plx_config c = board(PLX_PORT_AF_PACKET);
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	if (!have_veth)
		skip();
	c.port[0].n_queues = 2;
	if (plx_port_open(&p, &c, 0, &d) != PLX_E_OK)
		fail_msg("%s", d.text);
	assert_int_equal(p.n_queues, 2);
	assert_int_equal(kernel_echo(&p, 2, AF_INET), 0);
	plx_port_close(&p);
}

static void test_port_auto_falls_back_and_says_so(void **state)
{
	struct plx_config c = board(PLX_PORT_AUTO);
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	if (!have_veth)
		skip();
	c.port[0].n_queues = 2; /* more than AF_XDP has on a veth */
	if (plx_port_open(&p, &c, 0, &d) != PLX_E_OK)
		fail_msg("%s", d.text);
	assert_int_equal(p.kind, PLX_PORT_AF_PACKET);
	assert_int_equal(kernel_echo(&p, 2, AF_INET), 0);
	plx_port_close(&p);
}

static void test_port_refuses_a_second_owner(void **state)
{
	struct plx_config c = board(PLX_PORT_AF_PACKET);
	struct plx_port p, q;
	struct plx_diag d = {0};

	(void)state;
	if (!have_veth)
		skip();
	assert_int_equal(plx_port_open(&p, &c, 0, &d), PLX_E_OK);
	assert_int_equal(plx_port_open(&q, &c, 0, &d), PLX_E_EXISTS);
	assert_string_equal(d.text,
	                    "port wire0: another polluxd uses interface plxs; stop that one "
	                    "first");
	plx_port_close(&p);
}

static void test_port_names_a_missing_interface(void **state)
{
	struct plx_config c = board(PLX_PORT_AUTO);
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	strcpy(c.port[0].iface, "nosuch0");
	assert_int_equal(plx_port_open(&p, &c, 0, &d), PLX_E_NOT_FOUND);
	assert_string_equal(
	    d.text, "port wire0: interface nosuch0 does not exist here; `ip link` lists those "
		    "that do (each network namespace has its own)");
}

static void test_port_vdev_ring_loops_back(void **state)
{
	struct plx_config c = board(PLX_PORT_VDEV);
	struct rte_mbuf *m, *got[PLX_PORT_BURST];
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	strcpy(c.port[0].vdev, "net_ring0");
	if (plx_port_open(&p, &c, 0, &d) != PLX_E_OK)
		fail_msg("%s", d.text);
	m = rte_pktmbuf_alloc(p.pool);
	assert_non_null(m);
	memcpy(rte_pktmbuf_append(m, 60), "hello", 5);
	assert_int_equal(plx_port_tx(&p, 0, &m, 1), 1);
	assert_int_equal(plx_port_rx(&p, 0, got, PLX_PORT_BURST), 1);
	assert_memory_equal(rte_pktmbuf_mtod(got[0], char *), "hello", 5);
	rte_pktmbuf_free(got[0]);
	plx_port_close(&p);
}

static void test_port_vdev_memif_opens(void **state)
{
	struct plx_config c = board(PLX_PORT_VDEV);
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	snprintf(c.port[0].vdev, sizeof(c.port[0].vdev),
	         "net_memif0,role=server,socket=/tmp/plx-memif-%d.sock,socket-abstract=no",
	         getpid());
	if (plx_port_open(&p, &c, 0, &d) != PLX_E_OK)
		fail_msg("%s", d.text);
	struct rte_mbuf *got[4];

	assert_int_equal(plx_port_rx(&p, 0, got, 4), 0);
	plx_port_close(&p);
}

static void test_port_bad_vdev_is_explained(void **state)
{
	struct plx_config c = board(PLX_PORT_VDEV);
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	strcpy(c.port[0].vdev, ",x=1");
	assert_int_equal(plx_port_open(&p, &c, 0, &d), PLX_E_INVAL);
	d.text[0] = '\0';
	strcpy(c.port[0].vdev, "net_nosuch0");
	assert_int_equal(plx_port_open(&p, &c, 0, &d), PLX_E_IO);
	assert_non_null(strstr(d.text, "DPDK can't make net_nosuch0"));
}

static void test_port_too_many_buffers_is_explained(void **state)
{
	struct plx_config c = board(PLX_PORT_VDEV);
	struct plx_port p;
	struct plx_diag d = {0};

	(void)state;
	strcpy(c.port[0].vdev, "net_null0");
	c.lim.n_mbufs = 1u << 20;
	assert_int_equal(plx_port_open(&p, &c, 0, &d), PLX_E_NOMEM);
	assert_non_null(strstr(d.text, "lower limits.n_mbufs"));
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "open-and-die") == 0)
		return open_and_die();
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_port_af_xdp_follows_a_killed_owner),
	    cmocka_unit_test(test_port_af_xdp_carries_both_families),
	    cmocka_unit_test(test_port_af_packet_takes_two_queues),
	    cmocka_unit_test(test_port_auto_falls_back_and_says_so),
	    cmocka_unit_test(test_port_refuses_a_second_owner),
	    cmocka_unit_test(test_port_names_a_missing_interface),
	    cmocka_unit_test(test_port_vdev_ring_loops_back),
	    cmocka_unit_test(test_port_vdev_memif_opens),
	    cmocka_unit_test(test_port_bad_vdev_is_explained),
	    cmocka_unit_test(test_port_too_many_buffers_is_explained),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
