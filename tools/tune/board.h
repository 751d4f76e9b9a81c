/*
 * Board files: what one sets of the knobs, and another one written with a point's values. All that
 * is not a knob stays as it is in the file, comments excepted.
 */
#ifndef PLX_TOOLS_TUNE_BOARD_H
#define PLX_TOOLS_TUNE_BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"
#include "tools/tune/knobs.h"

/* What a board says. */
struct plx_board {
	char name[64];
	struct plx_tune_point point; /* its knobs, those it does not set at their usual value */
	bool odd[PLX_TUNE_KNOBS];    /* it sets a value that the knob does not have */
	uint32_t n_threads;          /* lcores that compute for its first device */
	uint32_t sparse_from;        /* positions below it are dense */
	uint32_t pool_tokens;        /* tokens that its KV pool holds */
};

/*
 * plx_board_read - what a board file says.
 * Errors: IO, FORMAT (no YAML, or no board: file and line).
 */
int plx_board_read(struct plx_board *b, const char *path, struct plx_diag *d);

/*
 * plx_board_write - a board file as `base` is, but with the knobs of p and the model's path.
 *
 * n_kv_blocks is set so that the pool holds as many tokens as before; n_samples falls to the
 * sequences of a step where it was more, since polluxd takes no board otherwise.
 *
 * @about  a line on what it is, for the key "about".
 * @force  replace a file that is there.
 *
 * Errors: as plx_board_read; EXISTS, IO, LIMIT (a path longer than a board file takes).
 */
int plx_board_write(const char *path, const char *base, const struct plx_tune_point *p,
                    const char *model_path, const char *about, bool force, struct plx_diag *d);

#endif
