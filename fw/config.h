/*
 * The board file: YAML into struct plx_config, with defaults, and with every error told by file,
 * line, what is wrong and what to do.
 *
 * fw/limits.def lists the limits and timers with their ranges; `polluxd --help-board` prints the
 * whole format.
 */
#ifndef PLX_FW_CONFIG_H
#define PLX_FW_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "fw/base/config.h"
#include "fw/base/diag.h"
#include "fw/machine.h"

/*
 * plx_config_load - read a board file.
 *
 * @path  the file; relative paths in it are taken from its folder.
 * @m     the machine to check lcores against; NULL: not checked.
 *
 * Errors: IO, FORMAT, INVAL, LIMIT, each with "file:line: what; remedy" in d.
 */
int plx_config_load(struct plx_config *out, const char *path, const struct plx_machine *m,
                    struct plx_diag *d);

/* plx_config_parse - the same from memory; name stands for the file in messages. */
int plx_config_parse(struct plx_config *out, const char *name, const uint8_t *text, size_t n_bytes,
                     const struct plx_machine *m, struct plx_diag *d);

/* plx_config_help - print the format of a board file with defaults and ranges. */
void plx_config_help(FILE *f);

#endif
