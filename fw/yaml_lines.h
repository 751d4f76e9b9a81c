/*
 * Which line of a YAML text each key stands on, so that an error found after loading can still
 * name the line. Paths are written "limits.n_slots" and "stages[2].lcore".
 */
#ifndef PLX_FW_YAML_LINES_H
#define PLX_FW_YAML_LINES_H

#include <stddef.h>
#include <stdint.h>

#define PLX_YAML_PATH_BYTES 96
#define PLX_YAML_MAX_LINES  1024

struct plx_yaml_lines {
	uint32_t n;
	struct {
		char path[PLX_YAML_PATH_BYTES];
		uint32_t line; /* from 1 */
	} at[PLX_YAML_MAX_LINES];
};

/*
 * plx_yaml_lines_scan - record the line of every key and sequence entry of a YAML text.
 *
 * Errors: none; a text that does not parse, or is deeper than 8 levels, or has more than
 * PLX_YAML_MAX_LINES keys is recorded as far as it goes (the loader reports what is wrong).
 */
void plx_yaml_lines_scan(struct plx_yaml_lines *l, const uint8_t *text, size_t n_bytes);

/* plx_yaml_lines_find - line of path; 0 where the text does not have it. */
uint32_t plx_yaml_lines_find(const struct plx_yaml_lines *l, const char *path);

#endif
