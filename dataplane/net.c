/*
 * The little of a network stack that an appliance needs. Every offset is checked before it is
 * read; replies are made in the buffer the request came in.
 */
#include "dataplane/net.h"

#include <string.h>

enum {
	ETH_TYPE_IP4 = 0x0800,
	ETH_TYPE_ARP = 0x0806,
	ETH_TYPE_IP6 = 0x86dd,
	IP_PROTO_ICMP = 1,
	IP_PROTO_UDP = 17,
	IP_PROTO_ICMP6 = 58,
	ICMP_ECHO = 8,
	ICMP_ECHO_REPLY = 0,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_NS = 135,
	ICMP6_NA = 136,
	IP4_BYTES = 20,
	IP6_BYTES = 40,
	UDP_BYTES = 8,
	ARP_BYTES = 28,
	ECHO_BYTES = 8,
	NS_BYTES = 24,
	NA_BYTES = 32,
	HOP_LIMIT = 64,
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static bool is_zero(const uint8_t *p, size_t n)
{
	uint8_t any = 0;

	for (size_t i = 0; i < n; i++)
		any |= p[i];
	return any == 0;
}

/* Four 32-bit lanes; each sums the 16-bit words that fall on it, in 16-byte strides. */
typedef uint32_t lanes __attribute__((vector_size(16)));

uint16_t plx_net_sum(const void *data, size_t bytes, uint32_t init)
{
	const uint8_t *p = data;
	lanes acc = {0}, acc2 = {0}, v, v2;
	uint64_t sum = init, w;

	/* A lane takes 2 * 65,535 a stride: it can't overflow below 256 KiB. */
	for (; bytes >= 32; bytes -= 32, p += 32) {
		memcpy(&v, p, 16);
		memcpy(&v2, p + 16, 16);
		acc += (v & 0xffff) + (v >> 16);
		acc2 += (v2 & 0xffff) + (v2 >> 16);
	}
	acc += acc2;
	sum += (uint64_t)acc[0] + acc[1] + acc[2] + acc[3];
	for (; bytes >= 8; bytes -= 8, p += 8) {
		memcpy(&w, p, 8);
		sum += (w & UINT32_MAX) + (w >> 32);
	}
	w = 0;
	memcpy(&w, p, bytes);
	sum += (w & UINT32_MAX) + (w >> 32);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* Sum of the pseudo-header; addrs points at source and destination, back to back. */
static uint16_t pseudo_sum(const uint8_t *addrs, size_t addr_bytes, uint32_t len, uint8_t proto)
{
	uint8_t tail[8] = {0};

	put16(tail + 2, len);
	tail[7] = proto;
	return plx_net_sum(tail, sizeof(tail), plx_net_sum(addrs, 2 * addr_bytes, 0));
}

/* Write the complement of sum at p, as stored (no byte swap: the sum was loaded as stored). */
static void put_sum(uint8_t *p, uint16_t sum)
{
	uint16_t v = (uint16_t)~sum;

	memcpy(p, &v, 2);
}

void plx_net_if_init(struct plx_net_if *ifc, const uint8_t mac[6], const uint8_t ip4[4],
                     const uint8_t ip6[16], uint16_t udp_port)
{
	memset(ifc, 0, sizeof(*ifc));
	memcpy(ifc->mac, mac, 6);
	memcpy(ifc->ip4, ip4, 4);
	memcpy(ifc->ip6, ip6, 16);
	ifc->udp_port = udp_port;
	const uint8_t ll[16] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0};

	memcpy(ifc->ip6_ll, ll, 16);
	memcpy(ifc->ip6_ll + 8, mac, 3);
	ifc->ip6_ll[8] ^= 2;
	memcpy(ifc->ip6_ll + 13, mac + 3, 3);
}

static void eth_turn(const struct plx_net_if *ifc, uint8_t *f)
{
	memcpy(f, f + 6, 6);
	memcpy(f + 6, ifc->mac, 6);
}

static enum plx_net_verdict input_arp(const struct plx_net_if *ifc, uint8_t *f, uint32_t bytes,
                                      struct plx_net_rx *out)
{
	static const uint8_t request[8] = {0, 1, 8, 0, 6, 4, 0, 1};
	uint8_t *a = f + PLX_NET_ETH_BYTES;

	if (bytes < PLX_NET_ETH_BYTES + ARP_BYTES)
		return PLX_NET_DROP_SHORT;
	if (memcmp(a, request, sizeof(request)) != 0)
		return PLX_NET_DROP_PROTO;
	if (is_zero(ifc->ip4, 4) || memcmp(a + 24, ifc->ip4, 4) != 0)
		return PLX_NET_DROP_DST;
	eth_turn(ifc, f);
	a[7] = 2;
	memmove(a + 18, a + 8, 10); /* sender becomes target */
	memcpy(a + 8, ifc->mac, 6);
	memcpy(a + 14, ifc->ip4, 4);
	out->reply_bytes = PLX_NET_ETH_BYTES + ARP_BYTES;
	return PLX_NET_REPLY;
}

/* A UDP checksum is right, absent (IPv4 only), or veth's pseudo-header sum. */
static bool udp_sum_good(const uint8_t *udp, uint32_t len, uint16_t pseudo, bool may_be_absent)
{
	uint16_t field;

	memcpy(&field, udp + 6, 2);
	if (field == 0)
		return may_be_absent;
	return field == pseudo || plx_net_sum(udp, len, pseudo) == 0xffff;
}

/* ip_payload points at the UDP header; room says how much of it is there. */
static enum plx_net_verdict input_udp(const struct plx_net_if *ifc, const uint8_t *f,
                                      const uint8_t *udp, uint32_t room, bool sum_ok,
                                      struct plx_net_rx *out)
{
	bool v6 = out->peer.family == 6;

	if (room < UDP_BYTES)
		return PLX_NET_DROP_SHORT;
	uint32_t len = get16(udp + 4);

	if (len < UDP_BYTES || len > room)
		return PLX_NET_DROP_SHORT;
	if (get16(udp + 2) != ifc->udp_port)
		return PLX_NET_DROP_PORT;
	if (get16(udp) == 0)
		return PLX_NET_DROP_SRC;
	size_t addr_bytes = v6 ? 16 : 4;

	if (!sum_ok &&
	    !udp_sum_good(udp, len, pseudo_sum(udp - 2 * addr_bytes, addr_bytes, len, IP_PROTO_UDP),
	                  !v6))
		return PLX_NET_DROP_SUM;
	out->peer.port = get16(udp);
	memcpy(out->peer.mac, f + 6, 6);
	out->payload_off = (uint32_t)(udp - f) + UDP_BYTES;
	out->payload_bytes = len - UDP_BYTES;
	return PLX_NET_UDP;
}

static void ip4_seal(uint8_t *ip)
{
	ip[8] = HOP_LIMIT;
	ip[10] = ip[11] = 0;
	put_sum(ip + 10, plx_net_sum(ip, IP4_BYTES, 0));
}

static enum plx_net_verdict input_icmp4(const struct plx_net_if *ifc, uint8_t *f, uint32_t len,
                                        struct plx_net_rx *out)
{
	uint8_t *ip = f + PLX_NET_ETH_BYTES, *icmp = ip + IP4_BYTES;

	if (len < ECHO_BYTES)
		return PLX_NET_DROP_SHORT;
	if (icmp[0] != ICMP_ECHO || icmp[1] != 0)
		return PLX_NET_DROP_PROTO;
	if (plx_net_sum(icmp, len, 0) != 0xffff)
		return PLX_NET_DROP_SUM;
	eth_turn(ifc, f);
	memcpy(ip + 16, ip + 12, 4);
	memcpy(ip + 12, ifc->ip4, 4);
	ip4_seal(ip);
	icmp[0] = ICMP_ECHO_REPLY;
	icmp[2] = icmp[3] = 0;
	put_sum(icmp + 2, plx_net_sum(icmp, len, 0));
	out->reply_bytes = PLX_NET_ETH_BYTES + IP4_BYTES + len;
	return PLX_NET_REPLY;
}

static bool ip4_source_bad(const struct plx_net_if *ifc, const uint8_t *src)
{
	return src[0] == 0 || src[0] == 127 || src[0] >= 224 || memcmp(src, ifc->ip4, 4) == 0;
}

static enum plx_net_verdict input_ip4(const struct plx_net_if *ifc, uint8_t *f, uint32_t bytes,
                                      bool sum_ok, struct plx_net_rx *out)
{
	uint8_t *ip = f + PLX_NET_ETH_BYTES;

	if (bytes < PLX_NET_ETH_BYTES + IP4_BYTES)
		return PLX_NET_DROP_SHORT;
	uint32_t total = get16(ip + 2);

	if (ip[0] != 0x45)
		return ip[0] >> 4 == 4 && (ip[0] & 15) > 5 ? PLX_NET_DROP_OPTION
		                                           : PLX_NET_DROP_PROTO;
	if (total < IP4_BYTES || total > bytes - PLX_NET_ETH_BYTES)
		return PLX_NET_DROP_SHORT;
	if (is_zero(ifc->ip4, 4) || memcmp(ip + 16, ifc->ip4, 4) != 0)
		return PLX_NET_DROP_DST;
	if (get16(ip + 6) & 0x3fff)
		return PLX_NET_DROP_FRAG;
	if (plx_net_sum(ip, IP4_BYTES, 0) != 0xffff)
		return PLX_NET_DROP_SUM;
	if (ip4_source_bad(ifc, ip + 12))
		return PLX_NET_DROP_SRC;
	if (ip[9] == IP_PROTO_ICMP)
		return input_icmp4(ifc, f, total - IP4_BYTES, out);
	if (ip[9] != IP_PROTO_UDP)
		return PLX_NET_DROP_PROTO;
	out->peer.family = 4;
	memcpy(out->peer.addr, ip + 12, 4);
	return input_udp(ifc, f, ip + IP4_BYTES, total - IP4_BYTES, sum_ok, out);
}

/* Which of our IPv6 addresses a is: 0 none, 1 the configured one, 2 the link-local one. */
static int ip6_ours(const struct plx_net_if *ifc, const uint8_t *a)
{
	if (memcmp(a, ifc->ip6_ll, 16) == 0)
		return 2;
	return !is_zero(ifc->ip6, 16) && memcmp(a, ifc->ip6, 16) == 0;
}

/* Options of a neighbour solicitation have lengths, in units of 8 bytes, that add up. */
static bool nd_options_good(const uint8_t *opt, uint32_t bytes)
{
	uint32_t off = 0;

	while (off < bytes) {
		if (bytes - off < 2 || opt[off + 1] == 0)
			return false;
		off += opt[off + 1] * 8u;
	}
	return off == bytes;
}

/* The advertisement for target, over the solicitation (RFC 4861 4.4). */
static void write_na(const struct plx_net_if *ifc, uint8_t *f, const uint8_t target[16])
{
	uint8_t *ip = f + PLX_NET_ETH_BYTES, *na = ip + IP6_BYTES;
	bool probe = is_zero(ip + 8, 16); /* duplicate address detection: tell every node */

	eth_turn(ifc, f);
	memcpy(ip + 24, ip + 8, 16);
	if (probe) {
		static const uint8_t all_mac[6] = {0x33, 0x33, 0, 0, 0, 1};

		memcpy(f, all_mac, 6);
		memset(ip + 24, 0, 16);
		ip[24] = 0xff;
		ip[25] = 0x02;
		ip[39] = 1;
	}
	memcpy(ip + 8, target, 16);
	put16(ip + 4, NA_BYTES);
	ip[7] = 255;
	memset(na, 0, NA_BYTES);
	na[0] = ICMP6_NA;
	na[4] = probe ? 0x20 : 0x60; /* override, solicited */
	memcpy(na + 8, target, 16);
	na[24] = 2; /* target link-layer address */
	na[25] = 1;
	memcpy(na + 26, ifc->mac, 6);
	put_sum(na + 2,
	        plx_net_sum(na, NA_BYTES, pseudo_sum(ip + 8, 16, NA_BYTES, IP_PROTO_ICMP6)));
}

static enum plx_net_verdict input_ns(const struct plx_net_if *ifc, uint8_t *f, uint32_t len,
                                     uint32_t room, struct plx_net_rx *out)
{
	uint8_t *ip = f + PLX_NET_ETH_BYTES, *ns = ip + IP6_BYTES, target[16];

	if (len < NS_BYTES || room < PLX_NET_REPLY_ROOM)
		return PLX_NET_DROP_SHORT;
	if (ns[1] != 0 || ip[7] != 255 || !nd_options_good(ns + NS_BYTES, len - NS_BYTES))
		return PLX_NET_DROP_PROTO;
	if (!ip6_ours(ifc, ns + 8))
		return PLX_NET_DROP_DST;
	memcpy(target, ns + 8, 16);
	write_na(ifc, f, target);
	out->reply_bytes = PLX_NET_ETH_BYTES + IP6_BYTES + NA_BYTES;
	return PLX_NET_REPLY;
}

static enum plx_net_verdict input_echo6(const struct plx_net_if *ifc, uint8_t *f, uint32_t len,
                                        struct plx_net_rx *out)
{
	uint8_t *ip = f + PLX_NET_ETH_BYTES, *icmp = ip + IP6_BYTES, us[16];

	if (len < ECHO_BYTES)
		return PLX_NET_DROP_SHORT;
	if (!ip6_ours(ifc, ip + 24))
		return PLX_NET_DROP_DST;
	if (is_zero(ip + 8, 16))
		return PLX_NET_DROP_SRC;
	eth_turn(ifc, f);
	memcpy(us, ip + 24, 16);
	memcpy(ip + 24, ip + 8, 16);
	memcpy(ip + 8, us, 16);
	ip[7] = HOP_LIMIT;
	icmp[0] = ICMP6_ECHO_REPLY;
	icmp[2] = icmp[3] = 0;
	put_sum(icmp + 2, plx_net_sum(icmp, len, pseudo_sum(ip + 8, 16, len, IP_PROTO_ICMP6)));
	out->reply_bytes = PLX_NET_ETH_BYTES + IP6_BYTES + len;
	return PLX_NET_REPLY;
}

static enum plx_net_verdict input_icmp6(const struct plx_net_if *ifc, uint8_t *f, uint32_t len,
                                        uint32_t room, struct plx_net_rx *out)
{
	uint8_t *ip = f + PLX_NET_ETH_BYTES, *icmp = ip + IP6_BYTES;

	if (len < 4)
		return PLX_NET_DROP_SHORT;
	if (icmp[0] != ICMP6_NS && !(icmp[0] == ICMP6_ECHO && icmp[1] == 0))
		return PLX_NET_DROP_PROTO;
	if (plx_net_sum(icmp, len, pseudo_sum(ip + 8, 16, len, IP_PROTO_ICMP6)) != 0xffff)
		return PLX_NET_DROP_SUM;
	return icmp[0] == ICMP6_NS ? input_ns(ifc, f, len, room, out)
	                           : input_echo6(ifc, f, len, out);
}

static enum plx_net_verdict input_ip6(const struct plx_net_if *ifc, uint8_t *f, uint32_t bytes,
                                      uint32_t room, bool sum_ok, struct plx_net_rx *out)
{
	uint8_t *ip = f + PLX_NET_ETH_BYTES;

	if (bytes < PLX_NET_ETH_BYTES + IP6_BYTES)
		return PLX_NET_DROP_SHORT;
	uint32_t len = get16(ip + 4);

	if (ip[0] >> 4 != 6)
		return PLX_NET_DROP_PROTO;
	if (len > bytes - PLX_NET_ETH_BYTES - IP6_BYTES)
		return PLX_NET_DROP_SHORT;
	if (ip[8] == 0xff || ip6_ours(ifc, ip + 8))
		return PLX_NET_DROP_SRC;
	if (ip[6] == IP_PROTO_ICMP6)
		return input_icmp6(ifc, f, len, room, out);
	int ours = ip6_ours(ifc, ip + 24);

	if (!ours)
		return PLX_NET_DROP_DST;
	if (ip[6] != IP_PROTO_UDP)
		return ip[6] == 0 || ip[6] == 43 || ip[6] == 44 || ip[6] == 60 ? PLX_NET_DROP_OPTION
		                                                               : PLX_NET_DROP_PROTO;
	if (is_zero(ip + 8, 16))
		return PLX_NET_DROP_SRC;
	out->peer.family = 6;
	out->peer.link_local = ours == 2;
	memcpy(out->peer.addr, ip + 8, 16);
	return input_udp(ifc, f, ip + IP6_BYTES, len, sum_ok, out);
}

enum plx_net_verdict plx_net_input(const struct plx_net_if *ifc, uint8_t *frame, uint32_t bytes,
                                   uint32_t room, bool udp_sum_ok, struct plx_net_rx *out)
{
	memset(out, 0, sizeof(*out));
	if (bytes < PLX_NET_ETH_BYTES)
		return PLX_NET_DROP_SHORT;
	if (frame[6] & 1)
		return PLX_NET_DROP_SRC;
	switch (get16(frame + 12)) {
	case ETH_TYPE_IP4:
		return input_ip4(ifc, frame, bytes, udp_sum_ok, out);
	case ETH_TYPE_IP6:
		return input_ip6(ifc, frame, bytes, room, udp_sum_ok, out);
	case ETH_TYPE_ARP:
		return input_arp(ifc, frame, bytes, out);
	default:
		return PLX_NET_DROP_PROTO;
	}
}

static void write_udp(const struct plx_net_if *ifc, const struct plx_net_peer *peer, uint8_t *udp,
                      uint32_t len, size_t addr_bytes)
{
	put16(udp, ifc->udp_port);
	put16(udp + 2, peer->port);
	put16(udp + 4, len);
	udp[6] = udp[7] = 0;
	uint16_t sum =
	    plx_net_sum(udp, len, pseudo_sum(udp - 2 * addr_bytes, addr_bytes, len, IP_PROTO_UDP));

	put_sum(udp + 6, sum == 0xffff ? 0 : sum); /* an all-zero field means "no checksum" */
}

uint32_t plx_net_output(const struct plx_net_if *ifc, const struct plx_net_peer *peer,
                        uint8_t *frame, uint32_t payload_bytes)
{
	uint8_t *ip = frame + PLX_NET_ETH_BYTES;
	uint32_t udp_bytes = UDP_BYTES + payload_bytes;

	memcpy(frame, peer->mac, 6);
	memcpy(frame + 6, ifc->mac, 6);
	if (peer->family == 6) {
		put16(frame + 12, ETH_TYPE_IP6);
		memset(ip, 0, 8);
		ip[0] = 0x60;
		put16(ip + 4, udp_bytes);
		ip[6] = IP_PROTO_UDP;
		ip[7] = HOP_LIMIT;
		memcpy(ip + 8, peer->link_local ? ifc->ip6_ll : ifc->ip6, 16);
		memcpy(ip + 24, peer->addr, 16);
		write_udp(ifc, peer, ip + IP6_BYTES, udp_bytes, 16);
		return PLX_NET_HDR6_BYTES + payload_bytes;
	}
	put16(frame + 12, ETH_TYPE_IP4);
	memset(ip, 0, IP4_BYTES);
	ip[0] = 0x45;
	put16(ip + 2, IP4_BYTES + udp_bytes);
	ip[6] = 0x40; /* don't fragment */
	ip[9] = IP_PROTO_UDP;
	memcpy(ip + 12, ifc->ip4, 4);
	memcpy(ip + 16, peer->addr, 4);
	ip4_seal(ip);
	write_udp(ifc, peer, ip + IP4_BYTES, udp_bytes, 4);
	return PLX_NET_HDR4_BYTES + payload_bytes;
}

bool plx_net_peer_same(const struct plx_net_peer *a, const struct plx_net_peer *b)
{
	return a->port == b->port && a->family == b->family && memcmp(a->addr, b->addr, 16) == 0;
}

const char *plx_net_verdict_name(enum plx_net_verdict v)
{
	static const char *const name[PLX_NET_N_VERDICTS] = {
	    "udp", "reply", "short", "proto", "frag", "option", "sum", "dst", "src", "port",
	};

	return (unsigned)v < PLX_NET_N_VERDICTS ? name[v] : "unknown";
}
