/*
 * The port's XDP program: what is ours goes to our AF_XDP socket, everything else to the kernel.
 *
 * Ours are datagrams to our UDP port, ARP requests and neighbour solicitations for our addresses,
 * and echo requests to them. Until plx_xdp_conf is written (port_xdp.c) nothing is ours. Where no
 * socket is bound to the queue, bpf_redirect_map falls back to XDP_PASS.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "dataplane/port_xdp.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__uint(key_size, 4);
	__uint(value_size, 4);
} xsks_map SEC(".maps"); /* DPDK's name for it */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plx_xdp_conf);
} plx_xdp_conf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PLX_XDP_N_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} plx_xdp_count SEC(".maps");

/* ARP for IPv4 over Ethernet. */
struct arp4 {
	__be16 htype, ptype;
	__u8 hlen, plen;
	__be16 op;
	__u8 sha[6], spa[4], tha[6], tpa[4];
} __attribute__((packed));

struct icmp_head {
	__u8 type, code;
	__be16 sum;
};

struct nd_solicit {
	struct icmp_head h;
	__be32 reserved;
	__u8 target[16];
};

static __always_inline void count(__u32 which)
{
	__u64 *v = bpf_map_lookup_elem(&plx_xdp_count, &which);

	if (v)
		(*v)++;
}

static __always_inline int same4(const void *a, const void *b)
{
	return *(const __u32 *)a == *(const __u32 *)b && *(const __u32 *)b != 0;
}

static __always_inline int same6(const __u8 *a, const __u8 *b)
{
	const __u32 *x = (const void *)a, *y = (const void *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] &&
	       (y[0] | y[1] | y[2] | y[3]) != 0;
}

static __always_inline int ours6(const struct plx_xdp_conf *c, const __u8 *a)
{
	return same6(a, c->ip6) || same6(a, c->ip6_ll);
}

static __always_inline int udp_ours(const struct plx_xdp_conf *c, void *p, void *end)
{
	struct udphdr *u = p;

	return (void *)(u + 1) <= end && u->dest == bpf_htons(c->udp_port);
}

/* Each returns a counter's index: what the packet is. */
static __always_inline __u32 look_arp(const struct plx_xdp_conf *c, void *p, void *end)
{
	struct arp4 *a = p;

	if ((void *)(a + 1) > end || a->op != bpf_htons(1) || !same4(a->tpa, c->ip4))
		return PLX_XDP_PASSED;
	return PLX_XDP_ARP;
}

static __always_inline __u32 look_ip4(const struct plx_xdp_conf *c, void *p, void *end)
{
	struct iphdr *ip = p;

	if ((void *)(ip + 1) > end || ip->ihl != 5 || !same4(&ip->daddr, c->ip4))
		return PLX_XDP_PASSED;
	if (ip->frag_off & bpf_htons(0x3fff))
		return PLX_XDP_PASSED;
	if (ip->protocol == IPPROTO_UDP)
		return udp_ours(c, ip + 1, end) ? PLX_XDP_UDP : PLX_XDP_PASSED;
	struct icmp_head *i = (void *)(ip + 1);

	if (ip->protocol != IPPROTO_ICMP || (void *)(i + 1) > end || i->type != 8)
		return PLX_XDP_PASSED;
	return PLX_XDP_ECHO;
}

static __always_inline __u32 look_ip6(const struct plx_xdp_conf *c, void *p, void *end)
{
	struct ipv6hdr *ip = p;

	if ((void *)(ip + 1) > end)
		return PLX_XDP_PASSED;
	if (ip->nexthdr == IPPROTO_UDP)
		return ours6(c, ip->daddr.s6_addr) && udp_ours(c, ip + 1, end) ? PLX_XDP_UDP
		                                                               : PLX_XDP_PASSED;
	struct icmp_head *i = (void *)(ip + 1);

	if (ip->nexthdr != IPPROTO_ICMPV6 || (void *)(i + 1) > end)
		return PLX_XDP_PASSED;
	if (i->type == 128)
		return ours6(c, ip->daddr.s6_addr) ? PLX_XDP_ECHO : PLX_XDP_PASSED;
	struct nd_solicit *ns = (void *)(ip + 1);

	if (i->type != 135 || (void *)(ns + 1) > end || !ours6(c, ns->target))
		return PLX_XDP_PASSED;
	return PLX_XDP_ND;
}

SEC("xdp")
int plx_xdp_steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u32 zero = 0, what = PLX_XDP_PASSED;
	struct plx_xdp_conf *c = bpf_map_lookup_elem(&plx_xdp_conf, &zero);

	if (!c || (void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		what = look_ip4(c, eth + 1, end);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		what = look_ip6(c, eth + 1, end);
	else if (eth->h_proto == bpf_htons(ETH_P_ARP))
		what = look_arp(c, eth + 1, end);
	count(what);
	if (what == PLX_XDP_PASSED)
		return XDP_PASS;
	return (int)bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "GPL";
