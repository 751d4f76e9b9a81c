/*
 * plx-tune's command line.
 */
#ifndef PLX_TOOLS_TUNE_OPTIONS_H
#define PLX_TOOLS_TUNE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "fw/base/diag.h"
#include "tools/tune/budget.h"
#include "tools/tune/knobs.h"

#define PLX_TUNE_BUDGETS 8u
#define PLX_TUNE_PRESETS 8u /* of the command line */

enum plx_tune_exit {
	PLX_TUNE_OK = 0,
	PLX_TUNE_FAILED = 1, /* not done: damaged or unsupported input, memory, the device */
	PLX_TUNE_USAGE = 2,  /* wrong command line, a journal or text that does not fit it */
	PLX_TUNE_OUTPUT = 3, /* a file can't be written, or is there already */
	PLX_TUNE_NONE = 4,   /* no configuration holds the budgets */
	PLX_TUNE_INTERRUPTED = 130,
};

struct plx_tune_preset {
	char name[64];
	struct plx_tune_point point;
};

struct plx_tune_options {
	bool help;
	const char *model;
	const char *text;      /* --text */
	const char *work;      /* --work */
	const char *reference; /* --reference; NULL: the model itself */
	const char *board;     /* --board */
	const char *out;       /* -o */
	struct plx_tune_space space;
	uint32_t n_budgets, n_presets;
	struct plx_budget budget[PLX_TUNE_BUDGETS];
	struct plx_tune_preset preset[PLX_TUNE_PRESETS];
	double time_s;   /* --time */
	double interval; /* --interval, % of perplexity */
	uint32_t batch, prompt, answer, n_requests, tokens, n_threads;
	uint32_t most; /* --measurements of speed in the search; 0: as time allows */
	uint64_t seed;
	bool cpu_time, restart, force, quiet, verbose;
};

/* plx_tune_parse - argv to options.  Errors: INVAL; d says what and where to look. */
int plx_tune_parse(struct plx_tune_options *o, int argc, char **argv, struct plx_diag *d);

/* plx_tune_usage - the help text. */
void plx_tune_usage(FILE *f);

/* plx_tune_exit_of - an error code as an exit code. */
int plx_tune_exit_of(int err);

#endif
