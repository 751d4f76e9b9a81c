/*
 * Frames as literals, so that the parser is held against bytes and not against its own builder.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "dataplane/net.h"

static const uint8_t MAC[6] = {0x02, 0x11, 0x22, 0x33, 0x44, 0x55};
static const uint8_t IP4[4] = {10, 77, 0, 2};
static const uint8_t IP6[16] = {0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
static const uint8_t LL[16] = {0xfe, 0x80, 0,    0,    0,    0,    0,    0,
                               0x00, 0x11, 0x22, 0xff, 0xfe, 0x33, 0x44, 0x55};

static struct plx_net_if ifc;
static uint8_t f[256];
static struct plx_net_rx rx;

static enum plx_net_verdict feed(const uint8_t *frame, uint32_t bytes)
{
	plx_net_if_init(&ifc, MAC, IP4, IP6, 7709);
	memset(f, 0xee, sizeof(f));
	memcpy(f, frame, bytes);
	return plx_net_input(&ifc, f, bytes, sizeof(f), false, &rx);
}

static const uint8_t arp_request[42] = {
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x08, 0x06,
    0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
    10,   77,   0,    1,    0,    0,    0,    0,    0,    0,    10,   77,   0,    2};
static const uint8_t arp_reply[42] = {
    0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x08, 0x06,
    0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x02, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55,
    10,   77,   0,    2,    0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 10,   77,   0,    1};

static void test_net_answers_arp(void **state)
{
	(void)state;
	assert_int_equal(feed(arp_request, 42), PLX_NET_REPLY);
	assert_int_equal(rx.reply_bytes, 42);
	assert_memory_equal(f, arp_reply, 42);
}

static void test_net_leaves_other_arp(void **state)
{
	uint8_t other[42];

	(void)state;
	memcpy(other, arp_request, 42);
	other[41] = 3;
	assert_int_equal(feed(other, 42), PLX_NET_DROP_DST);
	assert_int_equal(feed(arp_reply, 42), PLX_NET_DROP_PROTO);
	assert_int_equal(feed(arp_request, 41), PLX_NET_DROP_SHORT);
}

/* 10.77.0.1:40000 -> 10.77.0.2:7709, "abcd". Sums were computed apart from this code. */
static const uint8_t udp4[46] = {
    0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x08, 0x00, 0x45, 0x00,
    0x00, 0x20, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x13, 0xfd, 10,   77,   0,    1,    10,   77,
    0,    2,    0x9c, 0x40, 0x1e, 0x1d, 0x00, 0x0c, 0x6c, 0x15, 'a',  'b',  'c',  'd'};

static void test_net_takes_udp4(void **state)
{
	(void)state;
	assert_int_equal(feed(udp4, 46), PLX_NET_UDP);
	assert_int_equal(rx.payload_off, 42);
	assert_int_equal(rx.payload_bytes, 4);
	assert_int_equal(rx.peer.port, 40000);
	assert_int_equal(rx.peer.family, 4);
	assert_memory_equal(rx.peer.addr, ((uint8_t[16]){10, 77, 0, 1}), 16);
	assert_memory_equal(rx.peer.mac, udp4 + 6, 6);
}

static void expect4(uint32_t at, uint8_t value, enum plx_net_verdict want)
{
	uint8_t bad[46];

	memcpy(bad, udp4, 46);
	bad[at] = value;
	/* Keep the IP header's sum right, so that the field itself is what is refused. */
	bad[24] = bad[25] = 0;
	uint16_t sum = (uint16_t)~plx_net_sum(bad + 14, 20, 0);

	memcpy(bad + 24, &sum, 2);
	assert_string_equal(plx_net_verdict_name(feed(bad, 46)), plx_net_verdict_name(want));
}

static void test_net_drops_bad_udp4(void **state)
{
	uint8_t bad[46];

	(void)state;
	expect4(14, 0x46, PLX_NET_DROP_OPTION);
	expect4(14, 0x44, PLX_NET_DROP_PROTO);
	expect4(14, 0x65, PLX_NET_DROP_PROTO);
	expect4(17, 0x21, PLX_NET_DROP_SHORT);
	expect4(17, 0x13, PLX_NET_DROP_SHORT);
	expect4(20, 0x20, PLX_NET_DROP_FRAG);
	expect4(21, 0x01, PLX_NET_DROP_FRAG);
	expect4(23, 6, PLX_NET_DROP_PROTO);
	expect4(26, 224, PLX_NET_DROP_SRC);
	expect4(29, 2, PLX_NET_DROP_SRC); /* our own address */
	expect4(33, 9, PLX_NET_DROP_DST);
	expect4(37, 0, PLX_NET_DROP_PORT);
	expect4(39, 0x0d, PLX_NET_DROP_SHORT);
	expect4(39, 0x07, PLX_NET_DROP_SHORT);
	expect4(45, 'e', PLX_NET_DROP_SUM);
	memcpy(bad, udp4, 46);
	bad[25] ^= 1;
	assert_int_equal(feed(bad, 46), PLX_NET_DROP_SUM);
	for (uint32_t n = 0; n < 46; n++)
		assert_int_equal(feed(udp4, n), PLX_NET_DROP_SHORT);
}

static void test_net_takes_partial_and_absent_sum(void **state)
{
	uint8_t p[46];

	(void)state;
	memcpy(p, udp4, 46);
	p[40] = p[41] = 0;
	assert_int_equal(feed(p, 46), PLX_NET_UDP);
	p[40] = 0x14; /* pseudo-header: 0a4d+0001+0a4d+0002+0011+000c = 14ba */
	p[41] = 0xba;
	assert_int_equal(feed(p, 46), PLX_NET_UDP);
	p[41] = 0xbb;
	assert_int_equal(feed(p, 46), PLX_NET_DROP_SUM);
	plx_net_if_init(&ifc, MAC, IP4, IP6, 7709);
	assert_int_equal(plx_net_input(&ifc, p, 46, 46, true, &rx), PLX_NET_UDP);
}

/* ping 10.77.0.2, id 1, seq 1, "ping". */
static const uint8_t echo4[46] = {
    0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x08, 0x00, 0x45, 0x00,
    0x00, 0x20, 0x00, 0x00, 0x40, 0x00, 0x40, 0x01, 0x26, 0x41, 10,   77,   0,    1,    10,   77,
    0,    2,    0x08, 0x00, 0x19, 0x2d, 0x00, 0x01, 0x00, 0x01, 'p',  'i',  'n',  'g'};

static void test_net_answers_ping4(void **state)
{
	static const uint8_t want[12] = {0x00, 0x00, 0x21, 0x2d, 0x00, 0x01,
	                                 0x00, 0x01, 'p',  'i',  'n',  'g'};

	(void)state;
	assert_int_equal(feed(echo4, 46), PLX_NET_REPLY);
	assert_int_equal(rx.reply_bytes, 46);
	assert_memory_equal(f, echo4 + 6, 6);
	assert_memory_equal(f + 6, MAC, 6);
	assert_memory_equal(f + 26, ((uint8_t[8]){10, 77, 0, 2, 10, 77, 0, 1}), 8);
	assert_memory_equal(f + 24, echo4 + 24, 2); /* swapped addresses, same sum */
	assert_memory_equal(f + 34, want, 12);
}

/* Who has fd77::2? from fd77::1, with the source link-layer option. */
static const uint8_t ns6[86] = {
    0x33, 0x33, 0xff, 0x00, 0x00, 0x02, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x86, 0xdd, 0x60,
    0,    0,    0,    0,    32,   58,   255,  0xfd, 0x77, 0,    0,    0,    0,    0,    0,
    0,    0,    0,    0,    0,    0,    0,    1,    0xff, 0x02, 0,    0,    0,    0,    0,
    0,    0,    0,    0,    1,    0xff, 0,    0,    2,    135,  0,    0xe2, 0x44, 0,    0,
    0,    0,    0xfd, 0x77, 0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
    0,    0,    2,    1,    1,    0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee};

static void test_net_answers_neighbour_solicitation(void **state)
{
	(void)state;
	assert_int_equal(feed(ns6, 86), PLX_NET_REPLY);
	assert_int_equal(rx.reply_bytes, 86);
	assert_memory_equal(f, ns6 + 6, 6);
	assert_memory_equal(f + 6, MAC, 6);
	assert_int_equal(f[21], 255);
	assert_memory_equal(f + 22, IP6, 16);
	assert_memory_equal(f + 38, ns6 + 22, 16);
	assert_int_equal(f[54], 136);
	assert_int_equal(f[58], 0x60); /* solicited, override */
	assert_memory_equal(f + 62, IP6, 16);
	assert_memory_equal(f + 78, ((uint8_t[8]){2, 1, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55}), 8);
	/* ones' complement sum over pseudo-header and message, computed apart */
	assert_memory_equal(f + 56, ((uint8_t[2]){0xb4, 0x9d}), 2);
}

static void resum6(uint8_t *p, uint32_t len)
{
	uint8_t pseudo[8] = {0, 0, 0, (uint8_t)len, 0, 0, 0, 58};

	p[56] = p[57] = 0;
	uint16_t sum = plx_net_sum(pseudo, 8, plx_net_sum(p + 22, 32, 0));
	uint16_t v = (uint16_t)~plx_net_sum(p + 54, len, sum);

	memcpy(p + 56, &v, 2);
}

static void test_net_defends_its_address(void **state)
{
	uint8_t dad[86];

	(void)state;
	memcpy(dad, ns6, 86);
	memset(dad + 22, 0, 16);
	dad[19] = 24;
	resum6(dad, 24);
	assert_int_equal(feed(dad, 78), PLX_NET_REPLY);
	assert_memory_equal(f, ((uint8_t[6]){0x33, 0x33, 0, 0, 0, 1}), 6);
	assert_int_equal(f[38], 0xff);
	assert_int_equal(f[53], 1);
	assert_int_equal(f[58], 0x20);
}

static void test_net_drops_bad_neighbour_solicitation(void **state)
{
	uint8_t bad[86];

	(void)state;
	memcpy(bad, ns6, 86);
	bad[21] = 64; /* came through a router */
	assert_int_equal(feed(bad, 86), PLX_NET_DROP_PROTO);
	memcpy(bad, ns6, 86);
	bad[79] = 0; /* an option of no length */
	resum6(bad, 32);
	assert_int_equal(feed(bad, 86), PLX_NET_DROP_PROTO);
	memcpy(bad, ns6, 86);
	bad[77] = 9; /* another's address */
	resum6(bad, 32);
	assert_int_equal(feed(bad, 86), PLX_NET_DROP_DST);
	memcpy(bad, ns6, 86);
	bad[80] ^= 1;
	assert_int_equal(feed(bad, 86), PLX_NET_DROP_SUM);
	memcpy(f, ns6, 86);
	assert_int_equal(plx_net_input(&ifc, f, 86, 80, false, &rx), PLX_NET_DROP_SHORT);
}

static void test_net_answers_ping6_on_link_local(void **state)
{
	uint8_t p[66] = {0};

	(void)state;
	memcpy(p, ns6, 54);
	memcpy(p + 38, LL, 16);
	p[19] = 12;
	p[54] = 128;
	memcpy(p + 62, "ping", 4);
	resum6(p, 12);
	assert_int_equal(feed(p, 66), PLX_NET_REPLY);
	assert_int_equal(rx.reply_bytes, 66);
	assert_int_equal(f[54], 129);
	assert_memory_equal(f + 22, LL, 16);
	assert_memory_equal(f + 38, ns6 + 22, 16);
	uint8_t sum[2];

	memcpy(sum, f + 56, 2);
	resum6(f, 12);
	assert_memory_equal(sum, f + 56, 2);
}

static void test_net_udp6_round_trip(void **state)
{
	static const uint8_t client_mac[6] = {0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee};
	static const uint8_t client_ip[16] = {0xfd, 0x77, [15] = 1};
	struct plx_net_if client;
	struct plx_net_peer to = {.family = 6, .port = 7709};
	uint8_t frame[PLX_NET_HDR6_BYTES + 5];

	(void)state;
	plx_net_if_init(&client, client_mac, (uint8_t[4]){0}, client_ip, 40000);
	memcpy(to.addr, IP6, 16);
	memcpy(to.mac, MAC, 6);
	memcpy(frame + PLX_NET_HDR6_BYTES, "hello", 5);
	assert_int_equal(plx_net_output(&client, &to, frame, 5), 67);
	assert_int_equal(feed(frame, 67), PLX_NET_UDP);
	assert_int_equal(rx.peer.family, 6);
	assert_int_equal(rx.peer.port, 40000);
	assert_int_equal(rx.peer.link_local, 0);
	assert_memory_equal(f + rx.payload_off, "hello", 5);
	frame[64] ^= 4;
	assert_int_equal(feed(frame, 67), PLX_NET_DROP_SUM);
	frame[60] = frame[61] = 0; /* IPv6 has no "no checksum" */
	assert_int_equal(feed(frame, 67), PLX_NET_DROP_SUM);
	frame[20] = 44;
	assert_int_equal(feed(frame, 67), PLX_NET_DROP_OPTION);
}

static void test_net_builds_udp4(void **state)
{
	struct plx_net_peer to = {.family = 4, .port = 7709, .addr = {10, 77, 0, 2}};
	struct plx_net_if client;
	uint8_t frame[46], want[46];

	(void)state;
	memcpy(to.mac, MAC, 6);
	plx_net_if_init(&client, udp4 + 6, (uint8_t[4]){10, 77, 0, 1}, (uint8_t[16]){0}, 40000);
	memcpy(frame + 42, "abcd", 4);
	assert_int_equal(plx_net_output(&client, &to, frame, 4), 46);
	memcpy(want, udp4, 46);
	want[18] = want[19] = 0; /* identification is free where fragments are forbidden */
	want[24] = 0x26;
	want[25] = 0x31;
	assert_memory_equal(frame, want, 46);
}

static void test_net_peer_same_ignores_next_hop(void **state)
{
	struct plx_net_peer a = {.family = 4, .port = 1, .addr = {1, 2, 3, 4}}, b = a;

	(void)state;
	b.mac[0] = 9;
	assert_true(plx_net_peer_same(&a, &b));
	b.port = 2;
	assert_false(plx_net_peer_same(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_net_answers_arp),
	    cmocka_unit_test(test_net_leaves_other_arp),
	    cmocka_unit_test(test_net_takes_udp4),
	    cmocka_unit_test(test_net_drops_bad_udp4),
	    cmocka_unit_test(test_net_takes_partial_and_absent_sum),
	    cmocka_unit_test(test_net_answers_ping4),
	    cmocka_unit_test(test_net_answers_neighbour_solicitation),
	    cmocka_unit_test(test_net_defends_its_address),
	    cmocka_unit_test(test_net_drops_bad_neighbour_solicitation),
	    cmocka_unit_test(test_net_answers_ping6_on_link_local),
	    cmocka_unit_test(test_net_udp6_round_trip),
	    cmocka_unit_test(test_net_builds_udp4),
	    cmocka_unit_test(test_net_peer_same_ignores_next_hop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
