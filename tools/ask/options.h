/* plx-ask's command line. */
#ifndef PLX_TOOLS_ASK_OPTIONS_H
#define PLX_TOOLS_ASK_OPTIONS_H

#include "tools/client/client.h"

#define PLX_ASK_STOPS_MAX 64
#define PLX_ASK_KEEPS_MAX 64

/* Exit codes; the usage text names them. */
enum plx_ask_exit {
	PLX_ASK_OK = 0,
	PLX_ASK_INTERNAL = 1,
	PLX_ASK_USAGE = 2,
	PLX_ASK_NO_ANSWER = 3, /* no session: wrong address, not running, wrong key */
	PLX_ASK_KEY = 4,       /* the key file can't be used, or the key was removed */
	PLX_ASK_BUSY = 5,      /* rejected; the same may work later */
	PLX_ASK_REFUSED = 6,   /* rejected; the same will be rejected again */
	PLX_ASK_LOST = 7,      /* the session was lost, or the appliance cancelled */
	PLX_ASK_CUT = 8,       /* the answer ended early: deadline or fault */
	PLX_ASK_INTERRUPTED = 130,
};

enum plx_ask_mode { PLX_ASK_PROMPT, PLX_ASK_PING, PLX_ASK_MODELS };

struct plx_ask_options {
	struct plx_client_config cfg;
	struct plx_client_request req; /* without its prompt */
	enum plx_ask_mode mode;
	const char *key_file;
	const char *system;
	const char *prompt; /* NULL: standard input, or a conversation on a terminal */
	const char *stop[PLX_ASK_STOPS_MAX];
	const char *keep[PLX_ASK_KEEPS_MAX]; /* texts that stay where they stand */
	uint32_t n_keep;
	uint32_t n_pings;
	bool raw;   /* prompt as it is */
	bool ids;   /* prompt and answer are ids */
	bool json;  /* one object on standard output */
	bool quiet; /* no figures */
	bool chat;  /* a conversation, also where standard input is no terminal */
	bool help;
};

/* plx_ask_parse - read argv and environment. Errors: INVAL, with the remedy in d. */
int plx_ask_parse(struct plx_ask_options *o, int argc, char **argv, struct plx_diag *d);

/* plx_ask_usage - text for --help. */
const char *plx_ask_usage(void);

#endif
