/*
 * The front as pictures: an SVG of four charts, and a page that holds them with a table. Both are
 * one file without anything from the network, follow the reader's light or dark setting and fit a
 * phone.
 */
#ifndef PLX_TOOLS_TUNE_DRAW_H
#define PLX_TOOLS_TUNE_DRAW_H

#include <stdint.h>

#include "fw/base/diag.h"
#include "tools/tune/budget.h"
#include "tools/tune/knobs.h"

#define PLX_DRAW_NAME_BYTES (PLX_TUNE_TEXT_BYTES + 136u)

enum plx_draw_kind {
	PLX_DRAW_TRIED,  /* measured on the way */
	PLX_DRAW_PRESET, /* picked by hand */
	PLX_DRAW_FRONT,
	PLX_DRAW_CHOSEN, /* of the front, by the budgets */
};

struct plx_draw_point {
	enum plx_draw_kind kind;
	uint32_t number;                /* of the front, from 1; 0: none */
	char name[PLX_DRAW_NAME_BYTES]; /* knobs, or a preset's name and knobs */
	double f[PLX_FIGURES];
	double half[PLX_FIGURES]; /* half of the 95 % interval; 0: none */
};

struct plx_draw {
	const char *title;
	const char *about; /* machine, load, how many measurements; plain text */
	const struct plx_draw_point *point;
	uint32_t n;
};

/*
 * plx_draw_svg, plx_draw_page - write the file, replacing what is there.
 * Errors: IO, NOMEM.
 */
int plx_draw_svg(const struct plx_draw *w, const char *path, struct plx_diag *d);
int plx_draw_page(const struct plx_draw *w, const char *path, struct plx_diag *d);

#endif
