/*
 * Board file to configuration: libcyaml reads it by schema, fw/yaml_lines.c knows the lines, and
 * what a schema can't say is checked in fw/config_check.c.
 */
#include "fw/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cyaml/cyaml.h>

#include "fw/base/err.h"
#include "fw/config_check.h"
#include "fw/yaml_lines.h"

#define MAX_FILE_BYTES ((size_t)1 << 20)

/* The file as YAML has it: addresses and names are still text. */
struct raw_port {
	char name[PLX_CFG_NAME_BYTES];
	enum plx_port_kind kind;
	char iface[PLX_CFG_NAME_BYTES];
	char pci_addr[PLX_CFG_NAME_BYTES];
	char vdev[PLX_CFG_PATH_BYTES];
	uint32_t queues;
	char ipv4[INET_ADDRSTRLEN];
	char ipv6[INET6_ADDRSTRLEN];
	uint16_t udp_port;
};

struct raw_stage {
	enum plx_stage_kind kind;
	uint32_t lcore;
	char port[PLX_CFG_NAME_BYTES];
	uint32_t queue;
	char device[PLX_CFG_NAME_BYTES];
};

enum weights_cache {
	CACHE_AUTO, /* also where the key is missing */
	CACHE_OFF,
};

struct raw_board {
	char board[PLX_CFG_NAME_BYTES];
	char about[PLX_CFG_PATH_BYTES];
	char model[PLX_CFG_PATH_BYTES];
	char keys[PLX_CFG_PATH_BYTES];
	char chat_template[PLX_CFG_NAME_BYTES];
	char file_prefix[PLX_CFG_NAME_BYTES];
	char telemetry[PLX_CFG_PATH_BYTES];
	bool insecure;
	bool idle_backoff;
	bool huge_pages;
	enum weights_cache weights_cache;
	enum plx_cfg_kv kv_type;
	uint32_t memory_mib;
	uint32_t n_ports, n_stages, n_devs;
	struct raw_port ports[PLX_CFG_MAX_PORTS];
	struct raw_stage stages[PLX_CFG_MAX_STAGES];
	struct plx_cfg_dev devices[PLX_CFG_MAX_DEVS];
	struct plx_cfg_limits limits;
	struct plx_cfg_timers timers;
};

/* libcyaml's tables take keys and strings without const. */
static const cyaml_strval_t port_kinds[] = {
    {"auto", PLX_PORT_AUTO}, {"af_xdp", PLX_PORT_AF_XDP}, {"af_packet", PLX_PORT_AF_PACKET},
    {"pci", PLX_PORT_PCI},   {"vdev", PLX_PORT_VDEV},
};
static const cyaml_strval_t stage_kinds[] = {
    {"io", PLX_STAGE_IO},       {"hs", PLX_STAGE_HS},       {"tok", PLX_STAGE_TOK},
    {"batch", PLX_STAGE_BATCH}, {"accel", PLX_STAGE_ACCEL}, {"worker", PLX_STAGE_WORKER},
};
static const cyaml_strval_t dev_roles[] = {{"mixed", PLX_CFG_MIXED},
                                           {"prefill", PLX_CFG_PREFILL},
                                           {"decode", PLX_CFG_DECODE},
                                           {"draft", PLX_CFG_DRAFT}};

static const cyaml_strval_t kv_types[] = {
    {"f16", PLX_CFG_KV_F16}, {"q8", PLX_CFG_KV_Q8}, {"q4", PLX_CFG_KV_Q4}};
static const cyaml_strval_t cache_words[] = {{"auto", CACHE_AUTO}, {"off", CACHE_OFF}};

#define OPT                           CYAML_FLAG_OPTIONAL
#define STRICT                        CYAML_FLAG_STRICT
#define TEXT(key, type, field, flags) CYAML_FIELD_STRING(key, flags, type, field, 0)
#define COUNT_OF(a)                   (sizeof(a) / sizeof((a)[0]))

static const cyaml_schema_field_t port_fields[] = {
    TEXT("name", struct raw_port, name, CYAML_FLAG_DEFAULT),
    CYAML_FIELD_ENUM("kind", STRICT, struct raw_port, kind, port_kinds, COUNT_OF(port_kinds)),
    TEXT("iface", struct raw_port, iface, OPT),
    TEXT("pci_addr", struct raw_port, pci_addr, OPT),
    TEXT("vdev", struct raw_port, vdev, OPT),
    CYAML_FIELD_UINT("queues", OPT, struct raw_port, queues),
    TEXT("ipv4", struct raw_port, ipv4, OPT),
    TEXT("ipv6", struct raw_port, ipv6, OPT),
    CYAML_FIELD_UINT("udp_port", OPT, struct raw_port, udp_port),
    CYAML_FIELD_END};

static const cyaml_schema_field_t stage_fields[] = {
    CYAML_FIELD_ENUM("kind", STRICT, struct raw_stage, kind, stage_kinds, COUNT_OF(stage_kinds)),
    CYAML_FIELD_UINT("lcore", CYAML_FLAG_DEFAULT, struct raw_stage, lcore),
    TEXT("port", struct raw_stage, port, OPT),
    CYAML_FIELD_UINT("queue", OPT, struct raw_stage, queue),
    TEXT("device", struct raw_stage, device, OPT),
    CYAML_FIELD_END};

static const cyaml_schema_field_t dev_fields[] = {
    TEXT("name", struct plx_cfg_dev, name, CYAML_FLAG_DEFAULT),
    TEXT("kind", struct plx_cfg_dev, kind, CYAML_FLAG_DEFAULT),
    TEXT("isa", struct plx_cfg_dev, isa, OPT),
    CYAML_FIELD_UINT("index", OPT, struct plx_cfg_dev, index),
    CYAML_FIELD_ENUM("role", OPT | STRICT, struct plx_cfg_dev, role, dev_roles,
                     COUNT_OF(dev_roles)),
    TEXT("model", struct plx_cfg_dev, model, OPT),
    TEXT("skip_layers", struct plx_cfg_dev, skip_layers, OPT),
    CYAML_FIELD_UINT("n_kv_blocks", OPT, struct plx_cfg_dev, n_kv_blocks),
    CYAML_FIELD_END};

static const cyaml_schema_field_t limit_fields[] = {
#define LIMIT(field, def, lo, hi, help) CYAML_FIELD_UINT(#field, OPT, struct plx_cfg_limits, field),
#define TIMER(field, def, lo, hi, help)
#include "fw/limits.def"
#undef LIMIT
#undef TIMER
    CYAML_FIELD_END};

static const cyaml_schema_field_t timer_fields[] = {
#define LIMIT(field, def, lo, hi, help)
#define TIMER(field, def, lo, hi, help) CYAML_FIELD_UINT(#field, OPT, struct plx_cfg_timers, field),
#include "fw/limits.def"
#undef LIMIT
#undef TIMER
    CYAML_FIELD_END};

static const cyaml_schema_value_t port_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_port, port_fields)};
static const cyaml_schema_value_t stage_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_stage, stage_fields)};
static const cyaml_schema_value_t dev_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct plx_cfg_dev, dev_fields)};

static const cyaml_schema_field_t board_fields[] = {
    TEXT("board", struct raw_board, board, CYAML_FLAG_DEFAULT),
    TEXT("about", struct raw_board, about, OPT),
    TEXT("model", struct raw_board, model, OPT),
    TEXT("keys", struct raw_board, keys, OPT),
    TEXT("chat_template", struct raw_board, chat_template, OPT),
    TEXT("file_prefix", struct raw_board, file_prefix, OPT),
    TEXT("telemetry", struct raw_board, telemetry, OPT),
    CYAML_FIELD_BOOL("insecure", OPT, struct raw_board, insecure),
    CYAML_FIELD_BOOL("idle_backoff", OPT, struct raw_board, idle_backoff),
    CYAML_FIELD_BOOL("huge_pages", OPT, struct raw_board, huge_pages),
    CYAML_FIELD_ENUM("weights_cache", OPT | STRICT, struct raw_board, weights_cache, cache_words,
                     COUNT_OF(cache_words)),
    CYAML_FIELD_ENUM("kv_type", OPT | STRICT, struct raw_board, kv_type, kv_types,
                     COUNT_OF(kv_types)),
    CYAML_FIELD_UINT("memory_mib", OPT, struct raw_board, memory_mib),
    CYAML_FIELD_SEQUENCE_COUNT("ports", CYAML_FLAG_DEFAULT, struct raw_board, ports, n_ports,
                               &port_value, 1, PLX_CFG_MAX_PORTS),
    CYAML_FIELD_SEQUENCE_COUNT("devices", CYAML_FLAG_DEFAULT, struct raw_board, devices, n_devs,
                               &dev_value, 1, PLX_CFG_MAX_DEVS),
    CYAML_FIELD_SEQUENCE_COUNT("stages", CYAML_FLAG_DEFAULT, struct raw_board, stages, n_stages,
                               &stage_value, 1, PLX_CFG_MAX_STAGES),
    CYAML_FIELD_MAPPING("limits", OPT, struct raw_board, limits, limit_fields),
    CYAML_FIELD_MAPPING("timers", OPT, struct raw_board, timers, timer_fields),
    CYAML_FIELD_END};

static const cyaml_schema_value_t board_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw_board, board_fields)};

/* libcyaml speaks through a log callback: the first line says what, the next with a line where. */
struct heard {
	char what[256];
	uint32_t line;
};

__attribute__((format(printf, 3, 0))) static void hear(cyaml_log_t level, void *ctx,
                                                       const char *fmt, va_list args)
{
	struct heard *h = ctx;
	char text[256];

	(void)level;
	vsnprintf(text, sizeof(text), fmt, args);
	text[strcspn(text, "\n")] = '\0';
	const char *at = strstr(text, "line: ");

	if (h->what[0] == '\0')
		snprintf(h->what, sizeof(h->what), "%s",
		         strncmp(text, "Load: ", 6) == 0 ? text + 6 : text);
	if (at != NULL && h->line == 0)
		h->line = (uint32_t)strtoul(at + 6, NULL, 10);
}

static int parse_addresses(const struct raw_port *r, struct plx_cfg_port *p, struct plx_cfg_src *s,
                           uint32_t idx)
{
	if (r->ipv4[0] != '\0' && inet_pton(AF_INET, r->ipv4, p->ipv4) != 1)
		return plx_cfg_fail(s, PLX_E_INVAL, "ports[%u].ipv4",
		                    "\"%s\" is not an IPv4 address; write one such as 10.77.0.2",
		                    idx, r->ipv4);
	if (r->ipv6[0] != '\0' && inet_pton(AF_INET6, r->ipv6, p->ipv6) != 1)
		return plx_cfg_fail(s, PLX_E_INVAL, "ports[%u].ipv6",
		                    "\"%s\" is not an IPv6 address; write one such as fd77::2", idx,
		                    r->ipv6);
	return PLX_E_OK;
}

/* The line of an entry of a list. */
static uint32_t entry_line(const struct plx_cfg_src *s, const char *list, uint32_t idx)
{
	char path[PLX_YAML_PATH_BYTES];

	snprintf(path, sizeof(path), "%s[%u]", list, idx);
	return plx_yaml_lines_find(s->lines, path);
}

static int convert_port(const struct raw_port *r, struct plx_cfg_port *p, struct plx_cfg_src *s,
                        uint32_t idx)
{
	memcpy(p->name, r->name, sizeof(p->name));
	p->kind = r->kind;
	memcpy(p->iface, r->iface, sizeof(p->iface));
	memcpy(p->pci_addr, r->pci_addr, sizeof(p->pci_addr));
	memcpy(p->vdev, r->vdev, sizeof(p->vdev));
	p->n_queues = r->queues == 0 ? 1 : r->queues;
	p->udp_port = r->udp_port == 0 ? 7709 : r->udp_port;
	p->line = entry_line(s, "ports", idx);
	return parse_addresses(r, p, s, idx);
}

static int find_port(const struct plx_config *c, const char *name)
{
	for (uint32_t i = 0; i < c->n_ports; i++)
		if (strcmp(c->port[i].name, name) == 0)
			return (int)i;
	return -1;
}

static int find_dev(const struct plx_config *c, const char *name)
{
	for (uint32_t i = 0; i < c->n_devs; i++)
		if (strcmp(c->dev[i].name, name) == 0)
			return (int)i;
	return -1;
}

/* Stages name ports and devices; the configuration holds their indices. */
static int convert_stage(const struct raw_stage *r, struct plx_config *c, struct plx_cfg_src *s,
                         uint32_t idx)
{
	struct plx_cfg_stage *out = &c->stage[idx];
	bool wants_dev = r->kind == PLX_STAGE_ACCEL || r->kind == PLX_STAGE_WORKER;

	*out = (struct plx_cfg_stage){.kind = r->kind, .lcore = r->lcore, .queue = r->queue};
	if (r->kind == PLX_STAGE_IO) {
		int port = find_port(c, r->port);

		if (port < 0)
			return plx_cfg_fail(s, PLX_E_INVAL, "stages[%u].port",
			                    "an io stage needs one of the names under ports:, not "
			                    "\"%s\"",
			                    idx, r->port);
		out->port_idx = (uint32_t)port;
	}
	if (wants_dev) {
		int dev = find_dev(c, r->device);

		if (dev < 0)
			return plx_cfg_fail(s, PLX_E_INVAL, "stages[%u].device",
			                    "an accel or worker stage needs one of the names under "
			                    "devices:, not \"%s\"",
			                    idx, r->device);
		out->device_idx = (uint32_t)dev;
	}
	return PLX_E_OK;
}

/* A path in the file is taken from the file's own folder. */
static int resolve_path(char out[PLX_CFG_PATH_BYTES], const char *board_path, const char *path,
                        struct plx_cfg_src *s, const char *key)
{
	const char *slash = strrchr(board_path, '/');
	int dir_len = slash == NULL ? 0 : (int)(slash - board_path) + 1;

	if (path[0] == '\0' || path[0] == '/')
		dir_len = 0;
	if (snprintf(out, PLX_CFG_PATH_BYTES, "%.*s%s", dir_len, board_path, path) <
	    PLX_CFG_PATH_BYTES)
		return PLX_E_OK;
	return plx_cfg_fail(s, PLX_E_LIMIT, key,
	                    "with the board file's folder before it the path is longer than %u "
	                    "bytes; give a shorter or an absolute one",
	                    0, PLX_CFG_PATH_BYTES - 1);
}

/* The line of a key, or of another that decides when it is not there. */
static uint32_t line_of(const struct plx_cfg_src *s, const char *key, const char *other)
{
	uint32_t line = plx_yaml_lines_find(s->lines, key);

	return line != 0 ? line : plx_yaml_lines_find(s->lines, other);
}

static int convert_scalars(struct plx_config *c, const struct raw_board *r, const char *name,
                           struct plx_cfg_src *s)
{
	int err;

	memcpy(c->board, r->board, sizeof(c->board));
	snprintf(c->board_path, sizeof(c->board_path), "%s", name);
	err = resolve_path(c->model_path, name, r->model, s, "model");
	if (err == 0)
		err = resolve_path(c->keys_path, name, r->keys, s, "keys");
	if (err == 0 && strcmp(r->telemetry, "off") == 0)
		memcpy(c->telemetry, r->telemetry, sizeof("off"));
	else if (err == 0)
		err = resolve_path(c->telemetry, r->telemetry[0] != '\0' ? name : "", r->telemetry,
		                   s, "telemetry");
	memcpy(c->chat_template, r->chat_template, sizeof(c->chat_template));
	snprintf(c->file_prefix, sizeof(c->file_prefix), "%s",
	         r->file_prefix[0] != '\0' ? r->file_prefix : "polluxd");
	c->insecure = r->insecure;
	c->idle_backoff = r->idle_backoff;
	c->huge_pages = r->huge_pages;
	c->weights_cache = r->weights_cache == CACHE_AUTO;
	c->kv_type = r->kv_type;
	c->mem_mib = r->memory_mib != 0 ? r->memory_mib : 128;
	c->mem_line = line_of(s, "huge_pages", "memory_mib");
	c->kv_line = line_of(s, "limits.n_kv_blocks", "limits");
	c->lim = r->limits;
	c->tmr = r->timers;
#define LIMIT(field, def, lo, hi, help)                                                            \
	if (plx_yaml_lines_find(s->lines, "limits." #field) == 0)                                  \
		c->lim.field = (def);
#define TIMER(field, def, lo, hi, help)                                                            \
	if (plx_yaml_lines_find(s->lines, "timers." #field) == 0)                                  \
		c->tmr.field = (def);
#include "fw/limits.def"
#undef LIMIT
#undef TIMER
	return err;
}

static int convert(struct plx_config *c, const struct raw_board *r, struct plx_cfg_src *s)
{
	memset(c, 0, sizeof(*c));
	int bad = convert_scalars(c, r, s->name, s);

	if (bad != 0)
		return bad;
	c->n_ports = r->n_ports;
	c->n_stages = r->n_stages;
	c->n_devs = r->n_devs;
	for (uint32_t i = 0; i < r->n_ports; i++) {
		int err = convert_port(&r->ports[i], &c->port[i], s, i);

		if (err != 0)
			return err;
	}
	for (uint32_t i = 0; i < r->n_devs; i++) {
		c->dev[i] = r->devices[i];
		c->dev[i].line = entry_line(s, "devices", i);
		if (c->dev[i].isa[0] == '\0')
			memcpy(c->dev[i].isa, "auto", 5);
		int err = resolve_path(c->dev[i].model, s->name, r->devices[i].model, s, "devices");

		if (err != 0)
			return err;
	}
	for (uint32_t i = 0; i < r->n_stages; i++) {
		int err = convert_stage(&r->stages[i], c, s, i);

		if (err != 0)
			return err;
	}
	return PLX_E_OK;
}

int plx_config_parse(struct plx_config *out, const char *name, const uint8_t *text, size_t n_bytes,
                     const struct plx_machine *m, struct plx_diag *d)
{
	struct heard heard = {0};
	cyaml_config_t cy = {.log_fn = hear,
	                     .log_ctx = &heard,
	                     .mem_fn = cyaml_mem,
	                     .log_level = CYAML_LOG_WARNING,
	                     .flags = CYAML_CFG_NO_ALIAS};
	struct plx_yaml_lines *lines = malloc(sizeof(*lines));
	struct raw_board *raw = NULL;
	int err;

	if (lines == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "out of memory while reading %s", name);
	plx_yaml_lines_scan(lines, text, n_bytes);
	cyaml_err_t cerr =
	    cyaml_load_data(text, n_bytes, &cy, &board_value, (cyaml_data_t **)&raw, NULL);
	if (cerr != CYAML_OK) {
		err = plx_diag_set(d, PLX_E_FORMAT,
		                   "%s:%u: %s; `polluxd --help-board` prints the "
		                   "format",
		                   name, heard.line,
		                   heard.what[0] != '\0' ? heard.what : cyaml_strerror(cerr));
	} else if (raw == NULL) {
		err = plx_diag_set(d, PLX_E_FORMAT,
		                   "%s:1: the file is empty; `polluxd --help-board` prints the "
		                   "format",
		                   name);
	} else {
		struct plx_cfg_src src = {.name = name, .lines = lines, .diag = d};

		err = convert(out, raw, &src);
		if (err == 0)
			err = plx_config_check(out, &src, m);
	}
	cyaml_free(&cy, &board_value, raw, 0);
	free(lines);
	return err;
}

int plx_config_load(struct plx_config *out, const char *path, const struct plx_machine *m,
                    struct plx_diag *d)
{
	FILE *f = fopen(path, "rb");
	uint8_t *text;
	size_t n;
	int err;

	if (f == NULL)
		return plx_diag_set(d, PLX_E_IO,
		                    "%s: can't be opened: %s; give the board file with --board",
		                    path, strerror(errno));
	text = malloc(MAX_FILE_BYTES + 1);
	n = text == NULL ? 0 : fread(text, 1, MAX_FILE_BYTES + 1, f);
	if (text == NULL)
		err = plx_diag_set(d, PLX_E_NOMEM, "out of memory while reading %s", path);
	else if (ferror(f))
		err = plx_diag_set(d, PLX_E_IO, "%s: can't be read: %s", path, strerror(errno));
	else if (n > MAX_FILE_BYTES)
		err = plx_diag_set(d, PLX_E_LIMIT, "%s: larger than 1 MiB; that is no board file",
		                   path);
	else
		err = plx_config_parse(out, path, text, n, m, d);
	free(text);
	fclose(f);
	return err;
}

void plx_config_help(FILE *f)
{
	fputs(
	    "A board file is YAML:\n\n"
	    "board: NAME              required\n"
	    "about: TEXT              for people\n"
	    "model: FILE.gguf         --model overrides it\n"
	    "keys: FILE               client keys, mode 0600 (plx-key makes it); --keys overrides\n"
	    "insecure: false          true: run without keys\n"
	    "chat_template: NAME      when the model's own is not recognised\n"
	    "file_prefix: polluxd     one a running polluxd (DPDK's --file-prefix)\n"
	    "telemetry: FILE          what plx-scope reads; /dev/shm/polluxd-FILE_PREFIX; or off\n"
	    "idle_backoff: false      true on a box that shares its cores\n"
	    "huge_pages: false        true: refuse to start without 2 MiB pages\n"
	    "weights_cache: auto      off: no file of repacked weights beside the model\n"
	    "kv_type: f16             q8 and q4 keep more tokens in a MiB: 1.9 and 3.2 times as "
	    "many\n"
	    "memory_mib: 128          DPDK memory\n"
	    "ports:                   1 to 4 of\n"
	    "  - {name: NAME, kind: auto|af_xdp|af_packet|pci|vdev, iface: IF, pci_addr: ADDR,\n"
	    "     vdev: ARGS, queues: 1, ipv4: ADDR, ipv6: ADDR, udp_port: 7709}\n"
	    "devices:                 1 to 8 of\n"
	    "  - {name: NAME, kind: cpu, isa: auto, index: 0, role: mixed}\n"
	    "                         isa: auto|scalar|avx2|avxvnni|avx512|avx512bf16|amx\n"
	    "                         role: mixed|prefill|decode|draft\n"
	    "  - {name: NAME, kind: cpu, role: draft, model: FILE.gguf, skip_layers: 8-15,20,\n"
	    "     n_kv_blocks: 512}    drafts for the one other device, by a smaller model of the\n"
	    "                         same vocabulary, or by the model without some layers; its\n"
	    "                         accel stage is the last one\n"
	    "stages:                  every stage with the lcore it runs on\n"
	    "  - {kind: io, lcore: N, port: NAME, queue: 0}\n"
	    "  - {kind: hs|tok|batch, lcore: N}\n"
	    "  - {kind: accel|worker, lcore: N, device: NAME}\n"
	    "limits:                  default, range\n",
	    f);
#define LIMIT(field, def, lo, hi, help)                                                            \
	fprintf(f, "  %-20s %8u  %u..%u  %s\n", #field ":", (unsigned)(def), (unsigned)(lo),       \
	        (unsigned)(hi), help);
#define TIMER(field, def, lo, hi, help)
#include "fw/limits.def"
#undef LIMIT
#undef TIMER
	fputs("timers:\n", f);
#define LIMIT(field, def, lo, hi, help)
#define TIMER(field, def, lo, hi, help)                                                            \
	fprintf(f, "  %-20s %8u  %u..%u  %s\n", #field ":", (unsigned)(def), (unsigned)(lo),       \
	        (unsigned)(hi), help);
#include "fw/limits.def"
#undef LIMIT
#undef TIMER
}
