/* plx-scope's command line. */
#ifndef PLX_TOOLS_SCOPE_OPTIONS_H
#define PLX_TOOLS_SCOPE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "fw/base/diag.h"
#include "fw/base/share.h"

#define PLX_SCOPE_LISTEN "127.0.0.1:9477"

struct plx_scope_options {
	const char *command;    /* "export" ...; NULL: help */
	const char *file;       /* --file; NULL: the only one below /dev/shm */
	const char *listen;     /* --listen */
	const char *token_file; /* --token-file; NULL: none */
	unsigned int names;     /* --names: of enum plx_prom_names */
	const char *out;        /* -o */
	double seconds;         /* --seconds: of record; of top between pictures */
	bool once;              /* --once: top, one picture */
	bool help;
	const char *arg[2]; /* behind the command */
	uint32_t n_args;
};

/* plx_scope_options_parse - Errors: INVAL; d says what and what to do. */
int plx_scope_options_parse(struct plx_scope_options *o, int argc, char **argv, struct plx_diag *d);

/* plx_scope_request - "SESSION-REQUEST", both decimal. Errors: INVAL. */
int plx_scope_request(const char *text, uint32_t *session, uint64_t *req_id, struct plx_diag *d);

/* plx_scope_usage - what --help prints. */
const char *plx_scope_usage(void);

#endif
