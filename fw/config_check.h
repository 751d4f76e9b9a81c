/*
 * What a schema can't say about a board file: ranges, powers of two, stages that must exist,
 * lcores that the machine must have.
 */
#ifndef PLX_FW_CONFIG_CHECK_H
#define PLX_FW_CONFIG_CHECK_H

#include "fw/config.h"
#include "fw/yaml_lines.h"

/* Where a configuration came from, for messages. */
struct plx_cfg_src {
	const char *name; /* the file */
	const struct plx_yaml_lines *lines;
	struct plx_diag *diag;
};

/*
 * plx_cfg_fail - leave "file:line: path: message" in s->diag and return err.
 *
 * @path_fmt  the key's path with one %u for idx at most, such as "stages[%u].lcore".
 * @msg_fmt   the rest; its arguments follow idx.
 */
__attribute__((format(printf, 4, 6))) int plx_cfg_fail(struct plx_cfg_src *s, int err,
                                                       const char *path_fmt, const char *msg_fmt,
                                                       uint32_t idx, ...);

/* plx_config_check - every rule on a converted configuration; m may be NULL. */
int plx_config_check(const struct plx_config *c, struct plx_cfg_src *s,
                     const struct plx_machine *m);

#endif
