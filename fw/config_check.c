/* The rules of a board file, each with a message that names line, key and remedy. */
#include "fw/config_check.h"

#include <stdarg.h>
#include <string.h>

#include "fw/base/err.h"

#define MAX_QUEUES     8u    /* dataplane/port.h */
#define MAX_LCORE      126u  /* EAL has ids up to 127, and main takes that */
#define MBUF_BYTES     2432u /* a packet buffer with the pool's own head */
#define BYTES_IN_A_MIB (UINT64_C(1) << 20)

/* "stages[3].lcore" from "stages[%u].lcore": the one conversion we use, without a variable format.
 */
static void make_path(char *out, size_t n, const char *fmt, uint32_t idx)
{
	const char *pct = strstr(fmt, "%u");

	if (pct == NULL)
		snprintf(out, n, "%s", fmt);
	else
		snprintf(out, n, "%.*s%u%s", (int)(pct - fmt), fmt, idx, pct + 2);
}

/* The nearest line: of the key itself, else of the entry or group that lacks it. */
static uint32_t nearest_line(const struct plx_yaml_lines *l, const char *path)
{
	char p[PLX_YAML_PATH_BYTES];

	snprintf(p, sizeof(p), "%s", path);
	while (p[0] != '\0') {
		uint32_t line = plx_yaml_lines_find(l, p);
		char *dot = strrchr(p, '.');
		char *bracket = strrchr(p, '[');

		if (line != 0)
			return line;
		if (dot == NULL && bracket == NULL)
			break;
		*(dot > bracket ? dot : bracket) = '\0';
	}
	return 1;
}

int plx_cfg_fail(struct plx_cfg_src *s, int err, const char *path_fmt, const char *msg_fmt,
                 uint32_t idx, ...)
{
	char path[PLX_YAML_PATH_BYTES];
	char msg[256];
	va_list ap;

	make_path(path, sizeof(path), path_fmt, idx);
	va_start(ap, idx);
	vsnprintf(msg, sizeof(msg), msg_fmt, ap);
	va_end(ap);
	return plx_diag_set(s->diag, err, "%s:%u: %s: %s", s->name, nearest_line(s->lines, path),
	                    path, msg);
}

static int check_ranges(const struct plx_config *c, struct plx_cfg_src *s)
{
#define LIMIT(field, def, lo, hi, help)                                                            \
	if ((uint64_t)c->lim.field + 1 < (uint64_t)(lo) + 1 || c->lim.field > (hi))                \
		return plx_cfg_fail(s, PLX_E_LIMIT, "limits." #field,                              \
		                    "%u is outside %u..%u (" help ")", 0, c->lim.field,            \
		                    (unsigned)(lo), (unsigned)(hi));
#define TIMER(field, def, lo, hi, help)                                                            \
	if ((uint64_t)c->tmr.field + 1 < (uint64_t)(lo) + 1 || c->tmr.field > (hi))                \
		return plx_cfg_fail(s, PLX_E_LIMIT, "timers." #field,                              \
		                    "%u is outside %u..%u (" help ")", 0, c->tmr.field,            \
		                    (unsigned)(lo), (unsigned)(hi));
#include "fw/limits.def"
#undef LIMIT
#undef TIMER
	return PLX_E_OK;
}

static bool power_of_two(uint32_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}

/* Limits that must fit each other. */
static int check_limits(const struct plx_config *c, struct plx_cfg_src *s)
{
	const struct plx_cfg_limits *l = &c->lim;

	if (!power_of_two(l->block_tokens))
		return plx_cfg_fail(s, PLX_E_INVAL, "limits.block_tokens",
		                    "%u is not a power of two; give 16, 32, 64, 128 or 256", 0,
		                    l->block_tokens);
	if (!power_of_two(l->ring_entries))
		return plx_cfg_fail(s, PLX_E_INVAL, "limits.ring_entries",
		                    "%u is not a power of two; give 256, for example", 0,
		                    l->ring_entries);
	if (l->step_seqs > l->n_slots)
		return plx_cfg_fail(
		    s, PLX_E_INVAL, "limits.step_seqs",
		    "%u sequences in a step are more than the %u slots; lower it or "
		    "raise limits.n_slots",
		    0, l->step_seqs, l->n_slots);
	if (l->step_tokens < l->step_seqs)
		return plx_cfg_fail(
		    s, PLX_E_INVAL, "limits.step_tokens",
		    "%u tokens can't hold one for each of %u sequences; raise it or "
		    "lower limits.step_seqs",
		    0, l->step_tokens, l->step_seqs);
	if (l->step_tokens < 32 && (l->sparse_mass | l->sparse_chunks | l->sparse_least) != 0)
		return plx_cfg_fail(s, PLX_E_INVAL, "limits.step_tokens",
		                    "%u tokens are too few for sparse attention, whose prompts run "
		                    "in groups of %u beside decodes; give at least 32",
		                    0, l->step_tokens, 16);
	if (l->n_session_requests > l->n_requests)
		return plx_cfg_fail(s, PLX_E_INVAL, "limits.n_session_requests",
		                    "%u for one session are more than the %u of all; lower it or "
		                    "raise limits.n_requests",
		                    0, l->n_session_requests, l->n_requests);
	if (l->reasm_bytes < l->request_bytes)
		return plx_cfg_fail(s, PLX_E_INVAL, "limits.reasm_bytes",
		                    "%u bytes can't hold one request of %u; raise it or lower "
		                    "limits.request_bytes",
		                    0, l->reasm_bytes, l->request_bytes);
	if (l->unacked_tokens < l->stop_bytes + 8)
		return plx_cfg_fail(
		    s, PLX_E_INVAL, "limits.unacked_tokens",
		    "%u tokens can't cover what waits for a stop string of %u bytes; "
		    "give %u or more",
		    0, l->unacked_tokens, l->stop_bytes, l->stop_bytes + 8);
	if (l->n_samples > l->step_seqs)
		return plx_cfg_fail(s, PLX_E_INVAL, "limits.n_samples",
		                    "%u answers of one request run together, and a step has %u "
		                    "sequences; lower it or raise limits.step_seqs",
		                    0, l->n_samples, l->step_seqs);
	if ((uint64_t)c->n_ports * l->n_mbufs * MBUF_BYTES > c->mem_mib * BYTES_IN_A_MIB)
		return plx_cfg_fail(
		    s, PLX_E_LIMIT, "limits.n_mbufs",
		    "%u packet buffers for each of %u ports need %u MiB, and "
		    "memory_mib is %u; raise that or lower this",
		    0, l->n_mbufs, c->n_ports,
		    (unsigned)((uint64_t)c->n_ports * l->n_mbufs * MBUF_BYTES / BYTES_IN_A_MIB + 1),
		    c->mem_mib);
	return PLX_E_OK;
}

/* Without an address of its own a port answers on the link-local one made from its MAC. */
static int check_port(const struct plx_config *c, uint32_t i, struct plx_cfg_src *s)
{
	const struct plx_cfg_port *p = &c->port[i];
	bool kernel =
	    p->kind == PLX_PORT_AUTO || p->kind == PLX_PORT_AF_XDP || p->kind == PLX_PORT_AF_PACKET;

	if (kernel && p->iface[0] == '\0')
		return plx_cfg_fail(s, PLX_E_INVAL, "ports[%u].iface",
		                    "this kind of port needs the name of a network interface", i);
	if (p->kind == PLX_PORT_PCI && p->pci_addr[0] == '\0')
		return plx_cfg_fail(s, PLX_E_INVAL, "ports[%u].pci_addr",
		                    "a pci port needs the NIC's address, such as 0000:01:00.0", i);
	if (p->kind == PLX_PORT_VDEV && p->vdev[0] == '\0')
		return plx_cfg_fail(
		    s, PLX_E_INVAL, "ports[%u].vdev",
		    "a vdev port needs DPDK's argument, such as net_memif0,role=server", i);
	if (p->n_queues > MAX_QUEUES)
		return plx_cfg_fail(s, PLX_E_LIMIT, "ports[%u].queues",
		                    "%u queues are more than %u; give fewer", i, p->n_queues,
		                    MAX_QUEUES);
	if (p->n_queues > 1 && (p->kind == PLX_PORT_AF_XDP || p->kind == PLX_PORT_AUTO))
		return plx_cfg_fail(
		    s, PLX_E_INVAL, "ports[%u].queues",
		    "AF_XDP takes one queue a port here; say kind: af_packet for %u", i,
		    p->n_queues);
	for (uint32_t k = 0; k < i; k++) {
		if (strcmp(c->port[k].name, p->name) == 0)
			return plx_cfg_fail(s, PLX_E_EXISTS, "ports[%u].name",
			                    "there is another port \"%s\"; names must differ", i,
			                    p->name);
		if (kernel && strcmp(c->port[k].iface, p->iface) == 0)
			return plx_cfg_fail(s, PLX_E_EXISTS, "ports[%u].iface",
			                    "port \"%s\" has interface %s already; one port an "
			                    "interface",
			                    i, c->port[k].name, p->iface);
	}
	return PLX_E_OK;
}

static int check_lcore(const struct plx_config *c, uint32_t i, struct plx_cfg_src *s,
                       const struct plx_machine *m)
{
	uint32_t lcore = c->stage[i].lcore;

	if (lcore > MAX_LCORE)
		return plx_cfg_fail(s, PLX_E_LIMIT, "stages[%u].lcore",
		                    "%u is more than the highest lcore DPDK has for stages, %u", i,
		                    lcore, MAX_LCORE);
	if (m == NULL)
		return PLX_E_OK;
	if (lcore >= m->n_cpus)
		return plx_cfg_fail(
		    s, PLX_E_INVAL, "stages[%u].lcore",
		    "lcore %u does not exist on this machine (0-%u); give one of those", i, lcore,
		    m->n_cpus - 1);
	if ((m->cpu_allowed[lcore / 64] >> (lcore % 64) & 1) == 0)
		return plx_cfg_fail(
		    s, PLX_E_INVAL, "stages[%u].lcore",
		    "this process may not run on CPU %u (taskset, cpuset or container); "
		    "give another",
		    i, lcore);
	return PLX_E_OK;
}

static uint32_t count_kind(const struct plx_config *c, enum plx_stage_kind kind)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->n_stages; i++)
		n += c->stage[i].kind == kind;
	return n;
}

static int check_io_stages(const struct plx_config *c, struct plx_cfg_src *s)
{
	for (uint32_t i = 0; i < c->n_stages; i++) {
		const struct plx_cfg_stage *a = &c->stage[i];

		if (a->kind != PLX_STAGE_IO)
			continue;
		if (a->queue >= c->port[a->port_idx].n_queues)
			return plx_cfg_fail(s, PLX_E_INVAL, "stages[%u].queue",
			                    "port \"%s\" has queues 0-%u, not %u", i,
			                    c->port[a->port_idx].name,
			                    c->port[a->port_idx].n_queues - 1, a->queue);
		for (uint32_t k = 0; k < i; k++)
			if (c->stage[k].kind == PLX_STAGE_IO &&
			    c->stage[k].port_idx == a->port_idx && c->stage[k].queue == a->queue)
				return plx_cfg_fail(
				    s, PLX_E_EXISTS, "stages[%u].queue",
				    "another io stage has queue %u of that port; one "
				    "stage a queue",
				    i, a->queue);
	}
	return PLX_E_OK;
}

/* Each queue that a port opens must be read by somebody, or its packets are lost unseen. */
static int check_queues_read(const struct plx_config *c, struct plx_cfg_src *s)
{
	for (uint32_t p = 0; p < c->n_ports; p++) {
		uint32_t n = 0;

		for (uint32_t i = 0; i < c->n_stages; i++)
			n += c->stage[i].kind == PLX_STAGE_IO && c->stage[i].port_idx == p;
		if (n != c->port[p].n_queues)
			return plx_cfg_fail(s, PLX_E_INVAL, "ports[%u].queues",
			                    "%u queues but %u io stages; each queue needs one", p,
			                    c->port[p].n_queues, n);
	}
	return PLX_E_OK;
}

/* The accel stage of a device, or n_stages. */
static uint32_t accel_of(const struct plx_config *c, uint32_t dev)
{
	uint32_t i = 0;

	while (i < c->n_stages &&
	       (c->stage[i].kind != PLX_STAGE_ACCEL || c->stage[i].device_idx != dev))
		i++;
	return i;
}

/* One accel stage a device; workers lend their lcores to devices that have one. */
static int check_devices(const struct plx_config *c, struct plx_cfg_src *s)
{
	for (uint32_t i = 0; i < c->n_stages; i++) {
		const struct plx_cfg_stage *a = &c->stage[i];

		if (a->kind == PLX_STAGE_ACCEL && accel_of(c, a->device_idx) != i)
			return plx_cfg_fail(s, PLX_E_EXISTS, "stages[%u].device",
			                    "another accel stage has device \"%s\"; one a device",
			                    i, c->dev[a->device_idx].name);
		if (a->kind == PLX_STAGE_WORKER && accel_of(c, a->device_idx) == c->n_stages)
			return plx_cfg_fail(
			    s, PLX_E_INVAL, "stages[%u].device",
			    "a worker must name an accel stage's device, and \"%s\" has none", i,
			    c->dev[a->device_idx].name);
	}
	return PLX_E_OK;
}

/* One may draft, for one other, behind it; and what it drafts with is said of it alone. */
static int check_draft(const struct plx_config *c, struct plx_cfg_src *s)
{
	uint32_t last = 0, n_accel = count_kind(c, PLX_STAGE_ACCEL), n = 0;

	for (uint32_t i = 0; i < c->n_stages; i++)
		last = c->stage[i].kind == PLX_STAGE_ACCEL ? i : last;
	for (uint32_t i = 0; i < c->n_devs; i++) {
		const struct plx_cfg_dev *v = &c->dev[i];

		if (v->role != PLX_CFG_DRAFT) {
			if (v->model[0] != '\0' || v->skip_layers[0] != '\0' || v->n_kv_blocks)
				return plx_cfg_fail(s, PLX_E_INVAL, "devices[%u].name",
				                    "\"%s\" has a model, layers or KV blocks of "
				                    "its own; that is for role: draft",
				                    i, v->name);
			continue;
		}
		if ((v->model[0] == '\0') == (v->skip_layers[0] == '\0'))
			return plx_cfg_fail(s, PLX_E_INVAL, "devices[%u].role",
			                    "\"%s\" drafts: give either its model or skip_layers",
			                    i, v->name);
		if (accel_of(c, i) == c->n_stages)
			continue;
		if (++n > 1 || n_accel != 2 || accel_of(c, i) != last)
			return plx_cfg_fail(s, PLX_E_INVAL, "devices[%u].role",
			                    "\"%s\" drafts for one other device: there are %u "
			                    "accel stages; give two, its own last",
			                    i, v->name, n_accel);
	}
	return PLX_E_OK;
}

/* Prompts need somebody who runs them, and answers too. */
static int check_roles(const struct plx_config *c, struct plx_cfg_src *s)
{
	uint32_t n[4] = {0};

	for (uint32_t i = 0; i < c->n_devs; i++)
		if (accel_of(c, i) < c->n_stages)
			n[c->dev[i].role]++;
	for (uint32_t i = 0; i < c->n_devs; i++) {
		bool alone = c->dev[i].role == PLX_CFG_PREFILL
		                 ? n[PLX_CFG_MIXED] + n[PLX_CFG_DECODE] == 0
		                 : n[PLX_CFG_MIXED] + n[PLX_CFG_PREFILL] == 0;

		if (accel_of(c, i) < c->n_stages && c->dev[i].role != PLX_CFG_MIXED &&
		    c->dev[i].role != PLX_CFG_DRAFT && alone)
			return plx_cfg_fail(
			    s, PLX_E_INVAL, "devices[%u].role",
			    "no other device does what \"%s\" does not; say mixed, or "
			    "give an accel stage to a device of another role",
			    i, c->dev[i].name);
	}
	return PLX_E_OK;
}

static int check_stages(const struct plx_config *c, struct plx_cfg_src *s,
                        const struct plx_machine *m)
{
	static const struct {
		enum plx_stage_kind kind;
		const char *name;
		uint32_t most;
	} need[] = {{PLX_STAGE_IO, "io", 16},
	            {PLX_STAGE_HS, "hs", 1},
	            {PLX_STAGE_TOK, "tok", 1},
	            {PLX_STAGE_BATCH, "batch", 1},
	            {PLX_STAGE_ACCEL, "accel", PLX_CFG_MAX_DEVS}};

	for (uint32_t i = 0; i < sizeof(need) / sizeof(need[0]); i++) {
		uint32_t n = count_kind(c, need[i].kind);

		if (n < 1 || n > need[i].most)
			return plx_cfg_fail(s, PLX_E_INVAL, "stages",
			                    "there are %u %s stages; give 1 to %u", 0, n,
			                    need[i].name, need[i].most);
	}
	for (uint32_t i = 0; i < c->n_stages; i++) {
		int err = check_lcore(c, i, s, m);

		if (err != 0)
			return err;
	}
	int err = check_io_stages(c, s);

	if (err == 0)
		err = check_queues_read(c, s);
	if (err == 0)
		err = check_devices(c, s);
	if (err == 0)
		err = check_draft(c, s);
	return err != 0 ? err : check_roles(c, s);
}

int plx_config_check(const struct plx_config *c, struct plx_cfg_src *s, const struct plx_machine *m)
{
	int err = check_ranges(c, s);

	if (err == 0)
		err = check_limits(c, s);
	for (uint32_t i = 0; err == 0 && i < c->n_ports; i++)
		err = check_port(c, i, s);
	if (err == 0)
		err = check_stages(c, s, m);
	if (err == 0 && c->insecure && c->keys_path[0] != '\0')
		err = plx_cfg_fail(s, PLX_E_INVAL, "insecure",
		                   "true together with keys: says two things; remove one", 0);
	return err;
}
