/*
 * Opening ports. All of it runs at start, on the main thread: nothing here is fast, everything
 * says what went wrong and what to do about it.
 */
#include "dataplane/port.h"

#include <errno.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_dev.h>
#include <rte_errno.h>

#include "fw/base/err.h"
#include "fw/base/log.h"

#define OPEN_RETRIES  20
#define RETRY_WAIT_US 50000
#define POOL_CACHE    256u
#define ARG_BYTES     384

const char *plx_port_kind_name(enum plx_port_kind k)
{
	switch (k) {
	case PLX_PORT_AUTO:
		return "auto";
	case PLX_PORT_AF_XDP:
		return "af_xdp";
	case PLX_PORT_AF_PACKET:
		return "af_packet";
	case PLX_PORT_PCI:
		return "pci";
	case PLX_PORT_VDEV:
		return "vdev";
	default:
		return "unknown";
	}
}

/* Nothing comes through an interface that is down: a port like others, only silent. */
static void warn_if_down(const struct plx_port *p)
{
	struct ifreq r = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%.15s", p->iface);
	if (fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &r) == 0 && (r.ifr_flags & IFF_UP) == 0)
		plx_log(PLX_LOG_WARN, "port %s: interface %s is down; `ip link set %s up`", p->name,
		        p->iface, p->iface);
	if (fd >= 0)
		close(fd);
}

/* Asked first, since the drivers' own answers are "Invalid argument" and the like. */
static bool may_open_packets(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || errno != EPERM;
}

/*
 * One polluxd an interface: an abstract socket's name is unique in its network namespace and goes
 * with the process, however that ends.
 */
static int take_iface(struct plx_port *p, struct plx_diag *d)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "pollux-port-%s", p->iface);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);

	if (if_nametoindex(p->iface) == 0)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "port %s: interface %s does not exist here; `ip link` lists "
		                    "those that do (each network namespace has its own)",
		                    p->name, p->iface);
	if (!may_open_packets())
		return plx_diag_set(
		    d, PLX_E_IO,
		    "port %s: opening interface %s takes CAP_NET_RAW and CAP_NET_ADMIN, "
		    "and for AF_XDP CAP_BPF and CAP_SYS_ADMIN; run as root or from "
		    "the systemd unit, which gives them",
		    p->name, p->iface);
	p->lock_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (p->lock_fd < 0)
		return plx_diag_set(d, PLX_E_IO, "port %s: %s", p->name, strerror(errno));
	if (bind(p->lock_fd, (struct sockaddr *)&a, len) == 0)
		return PLX_E_OK;
	return plx_diag_set(d, PLX_E_EXISTS,
	                    "port %s: another polluxd uses interface %s; stop that one first",
	                    p->name, p->iface);
}

static int make_pool(struct plx_port *p, const struct plx_config *cfg, struct plx_diag *d)
{
	char name[RTE_MEMPOOL_NAMESIZE];

	snprintf(name, sizeof(name), "plx_%u", p->eth_id);
	p->pool = rte_pktmbuf_pool_create(name, cfg->lim.n_mbufs, POOL_CACHE, 0,
	                                  RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (p->pool != NULL)
		return PLX_E_OK;
	return plx_diag_set(d, PLX_E_NOMEM,
	                    "port %s: no room for %u packet buffers (%s); lower limits.n_mbufs or "
	                    "raise memory_mib in the board file",
	                    p->name, cfg->lim.n_mbufs, rte_strerror(rte_errno));
}

static int start_queues(struct plx_port *p, const struct rte_eth_dev_info *info)
{
	struct rte_eth_conf conf = {0};
	uint16_t rx = PLX_PORT_DESCS, tx = PLX_PORT_DESCS;

	conf.rxmode.offloads = info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
	p->rx_sum_ok = conf.rxmode.offloads != 0;
	int rc = rte_eth_dev_configure(p->eth_id, p->n_queues, p->n_queues, &conf);

	if (rc == 0)
		rc = rte_eth_dev_adjust_nb_rx_tx_desc(p->eth_id, &rx, &tx);
	for (uint16_t q = 0; rc == 0 && q < p->n_queues; q++) {
		rc = rte_eth_rx_queue_setup(p->eth_id, q, rx, (unsigned int)SOCKET_ID_ANY, NULL,
		                            p->pool);
		if (rc == 0)
			rc = rte_eth_tx_queue_setup(p->eth_id, q, tx, (unsigned int)SOCKET_ID_ANY,
			                            NULL);
	}
	return rc == 0 ? rte_eth_dev_start(p->eth_id) : rc;
}

/* Addresses, pool, queues: everything that does not depend on the kind. */
static int start_dev(struct plx_port *p, const struct plx_config *cfg,
                     const struct plx_cfg_port *cp, struct plx_diag *d)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	uint16_t mtu = 1500;
	int rc = rte_eth_dev_info_get(p->eth_id, &info);

	if (rc != 0 || rte_eth_macaddr_get(p->eth_id, &mac) != 0)
		return plx_diag_set(d, PLX_E_IO, "port %s: the device does not answer: %s", p->name,
		                    rte_strerror(-rc));
	if (p->n_queues > info.max_rx_queues || p->n_queues > info.max_tx_queues)
		return plx_diag_set(
		    d, PLX_E_UNSUPPORTED,
		    "port %s: %u queues asked, %s has %u; lower queues in the board "
		    "file",
		    p->name, p->n_queues, info.driver_name, info.max_rx_queues);
	plx_net_if_init(&p->net, mac.addr_bytes, cp->ipv4, cp->ipv6, cp->udp_port);
	if (p->pool == NULL && (rc = make_pool(p, cfg, d)) != PLX_E_OK)
		return rc;
	rc = start_queues(p, &info);
	if (rc != 0)
		return plx_diag_set(d, rc == -EBUSY || rc == -EINVAL ? PLX_E_EXISTS : PLX_E_IO,
		                    "port %s: %s can't start its queues: %s", p->name,
		                    info.driver_name, rte_strerror(-rc));
	(void)rte_eth_promiscuous_enable(p->eth_id); /* solicited-node multicast; not all can */
	if (rte_eth_dev_get_mtu(p->eth_id, &mtu) != 0 || mtu < 1280 || mtu > 1500)
		mtu = 1500; /* a buffer holds no more */
	p->max_datagram = (uint16_t)(mtu - (PLX_NET_HDR6_BYTES - PLX_NET_ETH_BYTES));
	return PLX_E_OK;
}

static void stop_dev(struct plx_port *p)
{
	if (p->vdev[0] != '\0') {
		(void)rte_eth_dev_stop(p->eth_id);
		(void)rte_eal_hotplug_remove("vdev", p->vdev);
		p->vdev[0] = '\0';
	}
	rte_mempool_free(p->pool);
	p->pool = NULL;
}

/* Create a virtual device and start it; on failure nothing of it is left. */
static int start_vdev(struct plx_port *p, const struct plx_config *cfg,
                      const struct plx_cfg_port *cp, const char *name, const char *args,
                      struct plx_diag *d)
{
	int rc = rte_eal_hotplug_add("vdev", name, args);

	if (rc != 0)
		return plx_diag_set(d, rc == -EEXIST ? PLX_E_EXISTS : PLX_E_IO,
		                    "port %s: DPDK can't make %s (%s): %s", p->name, name, args,
		                    rte_strerror(-rc));
	snprintf(p->vdev, sizeof(p->vdev), "%s", name);
	rc = rte_eth_dev_get_port_by_name(name, &p->eth_id);
	if (rc != 0)
		rc =
		    plx_diag_set(d, PLX_E_IO, "port %s: %s made no Ethernet device", p->name, name);
	else
		rc = start_dev(p, cfg, cp, d);
	if (rc != PLX_E_OK)
		stop_dev(p);
	return rc;
}

static int open_af_xdp(struct plx_port *p, const struct plx_config *cfg,
                       const struct plx_cfg_port *cp, uint32_t idx, struct plx_diag *d)
{
	char name[PLX_CFG_NAME_BYTES], args[ARG_BYTES];
	int rc = plx_xdp_clear_stale(p->iface, d), fd;

	if (rc != PLX_E_OK)
		return rc;
	fd = plx_xdp_object_fd(d);
	if (fd < 0)
		return fd;
	snprintf(name, sizeof(name), "net_af_xdp%u", idx);
	snprintf(args, sizeof(args),
	         "iface=%s,start_queue=0,queue_count=%u,xdp_prog=/proc/self/fd/%d", p->iface,
	         p->n_queues, fd);
	/* The kernel releases a queue some time after its last owner let go. */
	for (int i = 0; i < OPEN_RETRIES; i++) {
		d->text[0] = '\0';
		rc = start_vdev(p, cfg, cp, name, args, d);
		if (rc != PLX_E_EXISTS)
			break;
		usleep(RETRY_WAIT_US);
	}
	close(fd);
	if (rc == PLX_E_OK)
		rc = plx_xdp_configure(p->iface, &p->net, d);
	if (rc != PLX_E_OK)
		stop_dev(p);
	else
		p->kind = PLX_PORT_AF_XDP;
	return rc;
}

static int open_af_packet(struct plx_port *p, const struct plx_config *cfg,
                          const struct plx_cfg_port *cp, uint32_t idx, struct plx_diag *d)
{
	char name[PLX_CFG_NAME_BYTES], args[ARG_BYTES];

	snprintf(name, sizeof(name), "net_af_packet%u", idx);
	snprintf(args, sizeof(args), "iface=%s,qpairs=%u,blocksz=4096,framesz=2048,framecnt=1024",
	         p->iface, p->n_queues);
	int rc = start_vdev(p, cfg, cp, name, args, d);

	if (rc == PLX_E_OK)
		p->kind = PLX_PORT_AF_PACKET;
	return rc;
}

static int open_iface(struct plx_port *p, const struct plx_config *cfg,
                      const struct plx_cfg_port *cp, uint32_t idx, struct plx_diag *d)
{
	struct plx_diag why = {0};
	int rc = take_iface(p, d);

	if (rc != PLX_E_OK)
		return rc;
	warn_if_down(p);
	if (cp->kind == PLX_PORT_AF_PACKET)
		return open_af_packet(p, cfg, cp, idx, d);
	if (cp->kind == PLX_PORT_AF_XDP)
		return open_af_xdp(p, cfg, cp, idx, d);
	rc = open_af_xdp(p, cfg, cp, idx, &why);
	if (rc == PLX_E_OK)
		return rc;
	plx_log(PLX_LOG_WARN, "port %s: no AF_XDP (%s); using AF_PACKET instead", p->name,
	        why.text);
	return open_af_packet(p, cfg, cp, idx, d);
}

static int open_pci(struct plx_port *p, const struct plx_config *cfg, const struct plx_cfg_port *cp,
                    struct plx_diag *d)
{
	if (rte_eth_dev_get_port_by_name(cp->pci_addr, &p->eth_id) == 0)
		return start_dev(p, cfg, cp, d);
	return plx_diag_set(d, PLX_E_NOT_FOUND,
	                    "port %s: no NIC that DPDK can drive at %s; bind it with "
	                    "`dpdk-devbind.py --bind=vfio-pci %s`",
	                    p->name, cp->pci_addr, cp->pci_addr);
}

/* The board gives "net_memif0,role=server,...": a name, then arguments. */
static int open_vdev(struct plx_port *p, const struct plx_config *cfg,
                     const struct plx_cfg_port *cp, struct plx_diag *d)
{
	size_t name_bytes = strcspn(cp->vdev, ",");
	char name[PLX_CFG_NAME_BYTES];

	if (name_bytes == 0 || name_bytes >= sizeof(name))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "port %s: vdev must begin with a device name of at most %zu "
		                    "characters, as in net_memif0,role=server",
		                    p->name, sizeof(name) - 1);
	memcpy(name, cp->vdev, name_bytes);
	name[name_bytes] = '\0';
	const char *args = cp->vdev + name_bytes;

	return start_vdev(p, cfg, cp, name, *args == ',' ? args + 1 : "", d);
}

static int begin(struct plx_port *p, const struct plx_cfg_port *cp, struct plx_diag *d)
{
	memset(p, 0, sizeof(*p));
	p->lock_fd = -1;
	p->opened = true;
	p->kind = cp->kind;
	snprintf(p->name, sizeof(p->name), "%s", cp->name);
	snprintf(p->iface, sizeof(p->iface), "%s", cp->iface);
	if (cp->n_queues > PLX_PORT_MAX_QUEUES)
		return plx_diag_set(d, PLX_E_LIMIT, "port %s: %u queues asked, at most %u", p->name,
		                    cp->n_queues, PLX_PORT_MAX_QUEUES);
	p->n_queues = (uint16_t)(cp->n_queues == 0 ? 1 : cp->n_queues);
	return PLX_E_OK;
}

int plx_port_open(struct plx_port *p, const struct plx_config *cfg, uint32_t port_idx,
                  struct plx_diag *d)
{
	const struct plx_cfg_port *cp = &cfg->port[port_idx];
	struct plx_diag own = {0};
	int rc;

	if (d == NULL)
		d = &own;
	rc = begin(p, cp, d);
	if (rc != PLX_E_OK)
		return rc;
	if (cp->kind == PLX_PORT_PCI)
		rc = open_pci(p, cfg, cp, d);
	else if (cp->kind == PLX_PORT_VDEV)
		rc = open_vdev(p, cfg, cp, d);
	else
		rc = open_iface(p, cfg, cp, port_idx, d);
	if (rc != PLX_E_OK)
		plx_port_close(p);
	return rc;
}

int plx_port_adopt(struct plx_port *p, const struct plx_config *cfg, uint32_t port_idx,
                   uint16_t eth_id, struct plx_diag *d)
{
	int rc = begin(p, &cfg->port[port_idx], d);

	if (rc == PLX_E_OK) {
		p->eth_id = eth_id;
		rc = start_dev(p, cfg, &cfg->port[port_idx], d);
	}
	if (rc != PLX_E_OK)
		plx_port_close(p);
	return rc;
}

void plx_port_close(struct plx_port *p)
{
	if (!p->opened)
		return;
	if (p->vdev[0] == '\0' && p->pool != NULL)
		(void)rte_eth_dev_stop(p->eth_id);
	stop_dev(p);
	if (p->lock_fd >= 0)
		close(p->lock_fd);
	memset(p, 0, sizeof(*p));
}

void plx_port_stats(const struct plx_port *p, struct plx_port_stats *out)
{
	struct rte_eth_stats s = {0};

	memset(out, 0, sizeof(*out));
	if (rte_eth_stats_get(p->eth_id, &s) == 0) {
		out->rx_packets = s.ipackets;
		out->tx_packets = s.opackets;
		out->rx_missed = s.imissed;
		out->rx_no_mbuf = s.rx_nombuf;
		out->tx_errors = s.oerrors;
	}
	if (p->kind == PLX_PORT_AF_XDP)
		(void)plx_xdp_counters(p->iface, out->xdp);
}
