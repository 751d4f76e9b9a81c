/*
 * Ethernet, ARP, IPv4, IPv6, ICMP echo, neighbour discovery and UDP, as far as an appliance with
 * one address a family needs them: parse what came, answer what has a fixed answer in place, build
 * the headers of what goes out.
 *
 * Works on plain bytes: no DPDK, no allocation, no state. Replies go to the link-layer address the
 * packet came from, so there is no neighbour table. IPv4 fragments and options, IPv6 extension
 * headers and VLAN tags are dropped: the wire protocol never needs them.
 */
#ifndef PLX_DATAPLANE_NET_H
#define PLX_DATAPLANE_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLX_NET_ETH_BYTES  14u
#define PLX_NET_HDR4_BYTES 42u /* Ethernet, IPv4, UDP */
#define PLX_NET_HDR6_BYTES 62u /* Ethernet, IPv6, UDP */
#define PLX_NET_REPLY_ROOM 86u /* a frame buffer must hold this: a neighbour advertisement */

/* What a port answers to. Addresses in network order; all zero: none. */
struct plx_net_if {
	uint8_t mac[6];
	uint8_t ip4[4];
	uint8_t ip6[16];
	uint8_t ip6_ll[16]; /* made from the MAC, RFC 4291 appendix A */
	uint16_t udp_port;  /* host order */
};

/* The other end of a datagram, and which of our addresses it spoke to. */
struct plx_net_peer {
	uint8_t addr[16];   /* IPv4 in the first four, the rest zero */
	uint16_t port;      /* host order */
	uint8_t family;     /* 4 or 6 */
	uint8_t link_local; /* IPv6: answered from ip6_ll */
	uint8_t mac[6];     /* next hop: where the packet came from on the link */
	uint8_t reserved[2];
};

/* What became of a frame. The drops are counted by name. */
enum plx_net_verdict {
	PLX_NET_UDP,         /* a datagram for our UDP port */
	PLX_NET_REPLY,       /* rewritten in place: send it */
	PLX_NET_DROP_SHORT,  /* shorter than its headers say */
	PLX_NET_DROP_PROTO,  /* an Ethernet, IP or ICMP type that has no answer here */
	PLX_NET_DROP_FRAG,   /* IPv4 fragment */
	PLX_NET_DROP_OPTION, /* IPv4 options or IPv6 extension headers */
	PLX_NET_DROP_SUM,    /* IPv4 header, ICMP or UDP checksum */
	PLX_NET_DROP_DST,    /* not our address */
	PLX_NET_DROP_SRC,    /* a source that can't be answered: multicast, zero, our own */
	PLX_NET_DROP_PORT,   /* another UDP port */
	PLX_NET_N_VERDICTS,
};

struct plx_net_rx {
	struct plx_net_peer peer; /* UDP only */
	uint32_t payload_off;     /* UDP only, from the start of the frame */
	uint32_t payload_bytes;
	uint32_t reply_bytes; /* REPLY only */
};

/* plx_net_if_init - fill in an interface; ip4 and ip6 may be all zero. */
void plx_net_if_init(struct plx_net_if *ifc, const uint8_t mac[6], const uint8_t ip4[4],
                     const uint8_t ip6[16], uint16_t udp_port);

/*
 * plx_net_input - parse one frame; a request with a fixed answer (ARP, neighbour solicitation,
 * ping) is rewritten into that answer.
 *
 * @frame       in/out [room] bytes, of which the first `bytes` are the frame.
 * @room        at least PLX_NET_REPLY_ROOM, else neighbour solicitations are DROP_SHORT.
 * @udp_sum_ok  the NIC already verified the UDP checksum.
 * @out         filled as the verdict says.
 *
 * A UDP checksum field that holds just the pseudo-header's sum is accepted: that is what a veth
 * pair delivers, whose sender left the rest to hardware that is not there.
 *
 * Thread: any.  Cost: O(1); O(bytes) where a checksum must be computed.
 * Source: RFC 826, 791, 768, 792, 8200, 4443, 4861, 1071.
 */
enum plx_net_verdict plx_net_input(const struct plx_net_if *ifc, uint8_t *frame, uint32_t bytes,
                                   uint32_t room, bool udp_sum_ok, struct plx_net_rx *out);

/* plx_net_hdr_bytes - headers in front of a payload to this peer: 42 or 62. */
static inline uint32_t plx_net_hdr_bytes(const struct plx_net_peer *peer)
{
	return peer->family == 6 ? PLX_NET_HDR6_BYTES : PLX_NET_HDR4_BYTES;
}

/*
 * plx_net_output - write Ethernet, IP ("don't fragment" set) and UDP headers with checksums.
 *
 * @frame          out [hdr_bytes + payload_bytes]; the payload stands at plx_net_hdr_bytes(peer).
 * @payload_bytes  at most 65,507 minus options; the caller's datagram limit is far below.
 *
 * Returns the frame's length.  Thread: any.  Cost: one pass over the payload.
 */
uint32_t plx_net_output(const struct plx_net_if *ifc, const struct plx_net_peer *peer,
                        uint8_t *frame, uint32_t payload_bytes);

/* plx_net_peer_same - address, port and family are equal (the next hop may differ). */
bool plx_net_peer_same(const struct plx_net_peer *a, const struct plx_net_peer *b);

/*
 * plx_net_sum - ones' complement sum of bytes, folded to 16 bits, in network byte order as loaded
 * by a little-endian machine; add sums of even-length parts by passing the last one as init. At
 * most 256 KiB.
 */
uint16_t plx_net_sum(const void *data, size_t bytes, uint32_t init);

/* plx_net_verdict_name - "udp", "reply", "short" ... for messages and tests. */
const char *plx_net_verdict_name(enum plx_net_verdict v);

#endif
