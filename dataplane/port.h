/*
 * A port: packets in, packets out, whatever stands below. A kernel interface by AF_XDP or
 * AF_PACKET, a NIC by its PCI address, or any of DPDK's virtual devices.
 *
 *   plx_eal_start(cfg)                 once, before any port
 *   plx_port_open(&port, cfg, idx)     one a board port, at start
 *   plx_port_rx / plx_port_tx          the lcore that owns the queue
 *   plx_port_close(&port)
 *
 * Frames that go out are built in mbufs of the port's own pool: everything from one pool of
 * limits.n_mbufs buffers, so that memory is bounded by one figure.
 */
#ifndef PLX_DATAPLANE_PORT_H
#define PLX_DATAPLANE_PORT_H

#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include "dataplane/net.h"
#include "dataplane/port_xdp.h"
#include "fw/base/config.h"
#include "fw/base/diag.h"

#define PLX_PORT_BURST      32u
#define PLX_PORT_DESCS      1024u /* of a queue, each direction */
#define PLX_PORT_MAX_QUEUES 8u

struct plx_port {
	uint16_t eth_id;
	uint16_t n_queues;
	uint16_t max_datagram;   /* UDP payload that fits the link's MTU over IPv6 */
	bool rx_sum_ok;          /* mbuf flags say whether a UDP checksum was verified */
	enum plx_port_kind kind; /* what it became: AUTO is resolved */
	struct plx_net_if net;   /* our addresses */
	struct rte_mempool *pool;
	char name[PLX_CFG_NAME_BYTES];
	char iface[PLX_CFG_NAME_BYTES]; /* "" unless AF_XDP or AF_PACKET */
	char vdev[PLX_CFG_NAME_BYTES];  /* the virtual device we made; "" none */
	int lock_fd;                    /* keeps a second polluxd off the interface; -1 none */
	bool opened;
};

/*
 * plx_eal_start - start DPDK's environment as the configuration says.
 *
 * EAL lcore ids are CPU numbers of cfg's stages; the calling thread becomes the main lcore with the
 * id PLX_EAL_MAIN_LCORE and keeps its CPU set, so that it may float while stages are pinned.
 * Memory comes from 2 MiB pages when enough are free; else, unless cfg->huge_pages, from ordinary
 * ones, and a log line says so.
 *
 * Thread: main.  Errors: NOMEM (too few huge pages), LIMIT (a CPU number EAL can't name),
 *         EXISTS (another polluxd has the file prefix), IO.
 */
#define PLX_EAL_MAIN_LCORE 127u
int plx_eal_start(const struct plx_config *cfg, struct plx_diag *d);

/* plx_eal_stop - give everything back, DPDK's folder in /var/run too; without a start: nothing. */
void plx_eal_stop(void);

/*
 * plx_port_open - bring up cfg->port[port_idx].
 *
 * AUTO tries AF_XDP with our XDP program, falls back to AF_PACKET and logs why. A queue that a
 * process before us has just released is waited for (up to 1 s).
 *
 * Thread: main, after plx_eal_start; enters the kernel.
 * Errors: NOT_FOUND (no such interface or device), EXISTS (in use), IO, NOMEM, UNSUPPORTED (more
 *         queues than it has), each with a remedy in d.
 */
int plx_port_open(struct plx_port *p, const struct plx_config *cfg, uint32_t port_idx,
                  struct plx_diag *d);

/*
 * plx_port_adopt - as plx_port_open, over an Ethernet device that exists already (tests make one
 * out of rings). The device is configured and started here, and only stopped by close.
 */
int plx_port_adopt(struct plx_port *p, const struct plx_config *cfg, uint32_t port_idx,
                   uint16_t eth_id, struct plx_diag *d);

/* plx_port_close - stop, detach, give everything back; a zeroed struct is accepted. */
void plx_port_close(struct plx_port *p);

/* plx_port_kind_name - "af_xdp" ... as the board file spells it. */
const char *plx_port_kind_name(enum plx_port_kind k);

/*
 * plx_port_rx - take up to n frames. Thread: the queue's owner.
 * Cost: AF_XDP and AF_PACKET enter the kernel at most once; others do not.
 */
static inline uint16_t plx_port_rx(const struct plx_port *p, uint16_t queue, struct rte_mbuf **m,
                                   uint16_t n)
{
	return rte_eth_rx_burst(p->eth_id, queue, m, n);
}

/*
 * plx_port_tx - send n frames; what the device does not take is freed.
 *
 * Returns how many were taken. A lost frame is found by the protocol's timers, so a full device is
 * a counted drop and never a wait.  Thread: the queue's owner.
 */
static inline uint16_t plx_port_tx(const struct plx_port *p, uint16_t queue, struct rte_mbuf **m,
                                   uint16_t n)
{
	uint16_t sent = rte_eth_tx_burst(p->eth_id, queue, m, n);

	if (sent < n)
		sent = (uint16_t)(sent + rte_eth_tx_burst(p->eth_id, queue, m + sent,
		                                          (uint16_t)(n - sent)));
	if (sent < n)
		rte_pktmbuf_free_bulk(m + sent, (unsigned int)(n - sent));
	return sent;
}

/* plx_port_sum_ok - the NIC already verified this datagram's UDP checksum. */
static inline bool plx_port_sum_ok(const struct plx_port *p, const struct rte_mbuf *m)
{
	return p->rx_sum_ok &&
	       (m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_GOOD;
}

/* What the device and the XDP program counted; for telemetry. Thread: control. */
struct plx_port_stats {
	uint64_t rx_packets, tx_packets;
	uint64_t rx_missed, rx_no_mbuf, tx_errors;
	uint64_t xdp[PLX_XDP_N_COUNTERS]; /* zeros unless AF_XDP */
};
void plx_port_stats(const struct plx_port *p, struct plx_port_stats *out);

#endif
