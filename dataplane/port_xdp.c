/*
 * Finding our XDP program on an interface, and its maps by name: the driver loads and attaches it,
 * so all we hold is the interface's name.
 */
#include "dataplane/port_xdp.h"

#include <errno.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <xdp/libxdp.h>

#include "fw/base/err.h"

#define PROG_NAME "plx_xdp_steer" /* the kernel keeps 15 characters of a name */
#define MAX_MAPS  16

/* The object file, between two labels. PLX_XDP_OBJECT is its path, given by the Makefile. */
__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        ".global plx_xdp_object\n"
        "plx_xdp_object:\n"
        ".incbin \"" PLX_XDP_OBJECT "\"\n"
        ".global plx_xdp_object_end\n"
        "plx_xdp_object_end:\n"
        ".byte 0\n"
        ".popsection\n");
extern const uint8_t plx_xdp_object[], plx_xdp_object_end[];

int plx_xdp_object_fd(struct plx_diag *d)
{
	size_t bytes = (size_t)(plx_xdp_object_end - plx_xdp_object);
	int fd = memfd_create("plx_xdp", MFD_CLOEXEC);

	if (fd >= 0 && write(fd, plx_xdp_object, bytes) == (ssize_t)bytes)
		return fd;
	int e = errno;

	if (fd >= 0)
		close(fd);
	return plx_diag_set(d, PLX_E_IO, "can't make a file for the XDP program: %s", strerror(e));
}

/* The program attached to an interface; id 0 when none. */
struct attached {
	uint32_t ifindex;
	uint32_t id;
	bool ours;
};

static int find_attached(const char *iface, struct attached *a)
{
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);

	memset(a, 0, sizeof(*a));
	a->ifindex = if_nametoindex(iface);
	if (a->ifindex == 0 || bpf_xdp_query_id((int)a->ifindex, 0, &a->id) != 0)
		return PLX_E_NOT_FOUND;
	if (a->id == 0)
		return PLX_E_OK;
	int fd = bpf_prog_get_fd_by_id(a->id);

	if (fd < 0)
		return PLX_E_IO;
	if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0)
		a->ours = strncmp(info.name, PROG_NAME, sizeof(info.name) - 1) == 0;
	close(fd);
	return PLX_E_OK;
}

/* What libbpf and libxdp print about a failure, we say in a line of our own. */
static int quiet_bpf(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	(void)level;
	(void)fmt;
	(void)ap;
	return 0;
}

static int quiet_xdp(enum libxdp_print_level level, const char *fmt, va_list ap)
{
	(void)level;
	(void)fmt;
	(void)ap;
	return 0;
}

int plx_xdp_clear_stale(const char *iface, struct plx_diag *d)
{
	struct attached a;

	libbpf_set_print(quiet_bpf);
	libxdp_set_print(quiet_xdp);
	if (libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_XDP, NULL) != 1)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "the kernel lets us load no XDP program; that takes CAP_BPF, "
		                    "CAP_NET_ADMIN and CAP_SYS_ADMIN");
	int err = find_attached(iface, &a);

	if (err != PLX_E_OK || a.id == 0)
		return PLX_E_OK; /* no XDP here at all: the driver will say what it can't do */
	if (!a.ours)
		return plx_diag_set(
		    d, PLX_E_EXISTS,
		    "interface %s carries another XDP program (id %u); remove it with "
		    "`ip link set %s xdp off`, or use kind: af_packet",
		    iface, a.id, iface);
	if (bpf_xdp_detach((int)a.ifindex, 0, NULL) != 0)
		return plx_diag_set(
		    d, PLX_E_IO,
		    "can't remove the XDP program that an earlier run left on %s; try "
		    "`ip link set %s xdp off`",
		    iface, iface);
	return PLX_E_OK;
}

/* A map of the program by name: its descriptor, or negative. */
static int map_of(uint32_t prog_id, const char *name)
{
	uint32_t ids[MAX_MAPS] = {0};
	struct bpf_prog_info prog = {.nr_map_ids = MAX_MAPS, .map_ids = (uintptr_t)ids};
	uint32_t len = sizeof(prog);
	int prog_fd = bpf_prog_get_fd_by_id(prog_id);

	if (prog_fd < 0)
		return PLX_E_IO;
	int err = bpf_obj_get_info_by_fd(prog_fd, &prog, &len);

	close(prog_fd);
	for (uint32_t i = 0; err == 0 && i < prog.nr_map_ids && i < MAX_MAPS; i++) {
		struct bpf_map_info map = {0};
		int fd = bpf_map_get_fd_by_id(ids[i]);

		len = sizeof(map);
		if (fd < 0)
			continue;
		if (bpf_obj_get_info_by_fd(fd, &map, &len) == 0 && strcmp(map.name, name) == 0)
			return fd;
		close(fd);
	}
	return PLX_E_NOT_FOUND;
}

static int our_map(const char *iface, const char *name)
{
	struct attached a;
	int err = find_attached(iface, &a);

	if (err != PLX_E_OK)
		return err;
	return a.ours ? map_of(a.id, name) : PLX_E_NOT_FOUND;
}

int plx_xdp_configure(const char *iface, const struct plx_net_if *ifc, struct plx_diag *d)
{
	struct plx_xdp_conf conf = {.udp_port = ifc->udp_port};
	uint32_t zero = 0;
	int fd = our_map(iface, "plx_xdp_conf");

	if (fd < 0)
		return plx_diag_set(d, fd, "the XDP program is not attached to %s: %s", iface,
		                    plx_err_help(fd));
	memcpy(conf.ip4, ifc->ip4, sizeof(conf.ip4));
	memcpy(conf.ip6, ifc->ip6, sizeof(conf.ip6));
	memcpy(conf.ip6_ll, ifc->ip6_ll, sizeof(conf.ip6_ll));
	int rc = bpf_map_update_elem(fd, &zero, &conf, 0);

	close(fd);
	return rc == 0 ? PLX_E_OK
	               : plx_diag_set(d, PLX_E_IO, "can't configure the XDP program on %s: %s",
	                              iface, strerror(errno));
}

int plx_xdp_counters(const char *iface, plx_xdp_u64 out[PLX_XDP_N_COUNTERS])
{
	int n_cpu = libbpf_num_possible_cpus(), fd = our_map(iface, "plx_xdp_count"),
	    err = PLX_E_OK;
	uint64_t *v = NULL;

	if (fd < 0)
		return fd;
	if (n_cpu > 0)
		v = calloc((size_t)n_cpu, sizeof(*v));
	for (uint32_t k = 0; v != NULL && k < PLX_XDP_N_COUNTERS; k++) {
		out[k] = 0;
		if (bpf_map_lookup_elem(fd, &k, v) != 0)
			err = PLX_E_IO;
		else
			for (int c = 0; c < n_cpu; c++)
				out[k] += v[c];
	}
	if (v == NULL)
		err = PLX_E_NOMEM;
	free(v);
	close(fd);
	return err;
}
