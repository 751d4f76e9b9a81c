/*
 * The XDP program's face: the structs it shares with us, and how its object is handed to DPDK.
 *
 * The object is built by clang and embedded in the binary; the AF_XDP driver wants a path, so it
 * gets an anonymous file under /proc/self/fd. Nothing is installed and nothing is left behind.
 */
#ifndef PLX_DATAPLANE_PORT_XDP_H
#define PLX_DATAPLANE_PORT_XDP_H

#ifdef __bpf__
#include <linux/types.h>
typedef __u8 plx_xdp_u8;
typedef __u16 plx_xdp_u16;
typedef __u64 plx_xdp_u64;
#else
#include <stdint.h>

#include "dataplane/net.h"
#include "fw/base/diag.h"
typedef uint8_t plx_xdp_u8;
typedef uint16_t plx_xdp_u16;
typedef uint64_t plx_xdp_u64;
#endif

/* What is ours; addresses in network order, all zero matches nothing. */
struct plx_xdp_conf {
	plx_xdp_u8 ip4[4];
	plx_xdp_u16 udp_port; /* host order */
	plx_xdp_u16 reserved;
	plx_xdp_u8 ip6[16];
	plx_xdp_u8 ip6_ll[16];
};

enum plx_xdp_counter {
	PLX_XDP_UDP,    /* our datagrams, to the socket */
	PLX_XDP_ARP,    /* to the socket */
	PLX_XDP_ND,     /* to the socket */
	PLX_XDP_ECHO,   /* to the socket */
	PLX_XDP_PASSED, /* to the kernel */
	PLX_XDP_N_COUNTERS,
};

#ifndef __bpf__
/*
 * plx_xdp_object_fd - an anonymous file that holds the program's object; open it for the driver
 * as /proc/self/fd/<fd>, close it once the port runs.
 *
 * Errors: IO.
 */
int plx_xdp_object_fd(struct plx_diag *d);

/*
 * plx_xdp_clear_stale - detach a program of ours that a killed process left on the interface; a
 * program that is not ours is an error, since replacing it would break somebody's network.
 *
 * Errors: EXISTS, with the remedy in d; UNSUPPORTED (no XDP in this kernel, or not for us).
 */
int plx_xdp_clear_stale(const char *iface, struct plx_diag *d);

/* plx_xdp_configure - tell the attached program what is ours.  Errors: IO, NOT_FOUND. */
int plx_xdp_configure(const char *iface, const struct plx_net_if *ifc, struct plx_diag *d);

/*
 * plx_xdp_counters - read the program's counters, summed over CPUs.
 *
 * Thread: control; enters the kernel.  Errors: NOT_FOUND when our program is not attached.
 */
int plx_xdp_counters(const char *iface, plx_xdp_u64 out[PLX_XDP_N_COUNTERS]);
#endif

#endif
