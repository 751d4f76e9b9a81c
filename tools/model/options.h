/*
 * plx-model's command line: one command, its file, and the options that it takes.
 */
#ifndef PLX_TOOLS_MODEL_OPTIONS_H
#define PLX_TOOLS_MODEL_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "fw/base/diag.h"
#include "tools/gguf/rules.h"

enum plx_mtool_exit {
	PLX_MTOOL_OK = 0,
	PLX_MTOOL_FAILED = 1,  /* not done: damaged or unsupported input, memory */
	PLX_MTOOL_USAGE = 2,   /* wrong command line */
	PLX_MTOOL_OUTPUT = 3,  /* the output could not be written, or is there already */
	PLX_MTOOL_DIFFERS = 4, /* verify: what was checked is not as it should be */
	PLX_MTOOL_INTERRUPTED = 130,
};

enum plx_mtool_cmd {
	PLX_MTOOL_HELP,
	PLX_MTOOL_INSPECT,
	PLX_MTOOL_CONVERT,
	PLX_MTOOL_QUANTISE,
	PLX_MTOOL_VERIFY,
};

#define PLX_MTOOL_MAX_DEVICES 16u

struct plx_mtool_options {
	enum plx_mtool_cmd cmd;
	const char *in;
	const char *out;     /* -o */
	const char *pre;     /* --pre: pre-tokenizer by name */
	const char *against; /* --against */
	const char *hashes;  /* --hashes: a list to write */
	const char *check;   /* --check: a list to compare with */
	const char *board;   /* --board */
	uint64_t n_ctx;      /* --context: tokens of a sequence; 0: the model's */
	uint32_t n_threads;  /* --threads; 0: one a CPU */
	bool type_given;     /* -t */
	bool plain;          /* --plain */
	bool force, quiet, json, verbose;
	struct plx_rules rules;
	uint32_t n_devices;
	struct {
		char name[32];
		uint64_t bytes;
	} device[PLX_MTOOL_MAX_DEVICES]; /* --device NAME=SIZE */
};

/* plx_mtool_parse - argv to options.  Errors: INVAL; d says what and where to look. */
int plx_mtool_parse(struct plx_mtool_options *o, int argc, char **argv, struct plx_diag *d);

/* plx_mtool_usage - the help text. */
void plx_mtool_usage(FILE *f);

/* plx_mtool_exit_of - an error code as an exit code. */
int plx_mtool_exit_of(int err);

#endif
