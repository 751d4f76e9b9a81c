/* polluxd's command line. */
#ifndef PLX_FW_OPTIONS_H
#define PLX_FW_OPTIONS_H

#include <stdbool.h>

#include "fw/base/config.h"
#include "fw/base/diag.h"
#include "fw/base/log.h"

/* Exit codes of polluxd; the manual and the systemd unit name them. */
enum plx_exit {
	PLX_EXIT_OK = 0,
	PLX_EXIT_INTERNAL = 1, /* a failure that should not happen */
	PLX_EXIT_USAGE = 2,    /* wrong command line */
	PLX_EXIT_BOARD = 3,    /* the board file is wrong */
	PLX_EXIT_KEYS = 4,     /* the key file is wrong */
	PLX_EXIT_MODEL = 5,    /* the model file is wrong */
	PLX_EXIT_DEVICE = 6,   /* a device can't be opened or loaded */
	PLX_EXIT_PORT = 7,     /* DPDK or a port can't be opened */
	PLX_EXIT_MEMORY = 8,   /* memory for the configured limits is missing */
	PLX_EXIT_DRAIN = 9,    /* the drain limit passed with requests in flight */
};

struct plx_options {
	const char *board;         /* required unless help */
	const char *model;         /* NULL: the board file's */
	const char *keys;          /* NULL: the board file's */
	const char *file_prefix;   /* NULL: the board file's */
	const char *chat_template; /* NULL: the board file's */
	const char *weights_cache; /* "auto" or "off"; NULL: the board file's */
	enum plx_log_level log_level;
	bool check;      /* validate and exit */
	bool help;       /* print the usage and exit */
	bool help_board; /* print the board file's format and exit */
	bool version;    /* print the version and exit */
};

/* plx_options_parse - read argv. Errors: INVAL, with the remedy in d. Owner: points into argv. */
int plx_options_parse(struct plx_options *o, int argc, char **argv, struct plx_diag *d);

/* plx_options_apply - let what the command line says override the board file. */
int plx_options_apply(const struct plx_options *o, struct plx_config *c, struct plx_diag *d);

/* plx_options_usage - text for --help. */
const char *plx_options_usage(void);

#endif
