/* The command line by getopt_long, and its precedence over the board file. */
#include "fw/options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "fw/base/err.h"

enum { OPT_PREFIX = 256, OPT_TEMPLATE, OPT_CHECK, OPT_HELP_BOARD, OPT_LOG, OPT_VERSION, OPT_CACHE };

static const struct option longopts[] = {{"board", required_argument, NULL, 'b'},
                                         {"model", required_argument, NULL, 'm'},
                                         {"keys", required_argument, NULL, 'k'},
                                         {"file-prefix", required_argument, NULL, OPT_PREFIX},
                                         {"chat-template", required_argument, NULL, OPT_TEMPLATE},
                                         {"check", no_argument, NULL, OPT_CHECK},
                                         {"help", no_argument, NULL, 'h'},
                                         {"help-board", no_argument, NULL, OPT_HELP_BOARD},
                                         {"log-level", required_argument, NULL, OPT_LOG},
                                         {"version", no_argument, NULL, OPT_VERSION},
                                         {"weights-cache", required_argument, NULL, OPT_CACHE},
                                         {NULL, 0, NULL, 0}};

const char *plx_options_usage(void)
{
	return "usage: polluxd --board BOARD.yml [--model FILE.gguf] [--keys FILE] [options]\n"
	       "\n"
	       "  --board FILE          what this box is made of; --help-board prints the format\n"
	       "  --model FILE          GGUF model; overrides the board file\n"
	       "  --keys FILE           client keys, mode 0600 (plx-key makes it); overrides the "
	       "board file\n"
	       "  --check               validate board, keys and model, say what would run, exit\n"
	       "  --chat-template NAME  chatml, llama2, llama3, mistral, gemma or phi3 instead of "
	       "the model's own\n"
	       "  --weights-cache WHAT  auto: keep repacked weights in a file beside the model, "
	       "MODEL.plx, so\n"
	       "                        that the next start reads them (default); off: don't\n"
	       "  --file-prefix NAME    DPDK's name for this process; one a running polluxd\n"
	       "  --log-level LEVEL     error, warning, info (default) or debug\n"
	       "  --help, --help-board, --version\n"
	       "\n"
	       "signals: TERM and INT drain and exit, HUP reloads the keys\n"
	       "exit: 0 ok, 1 internal, 2 usage, 3 board, 4 keys, 5 model, 6 device, 7 port, 8 "
	       "memory,\n"
	       "      9 the drain limit passed with requests in flight\n";
}

static int parse_level(const char *text, enum plx_log_level *out)
{
	static const struct {
		const char *name;
		enum plx_log_level level;
	} levels[] = {{"error", PLX_LOG_ERROR},
	              {"warning", PLX_LOG_WARN},
	              {"info", PLX_LOG_INFO},
	              {"debug", PLX_LOG_DEBUG}};

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(text, levels[i].name) == 0) {
			*out = levels[i].level;
			return PLX_E_OK;
		}
	}
	return PLX_E_INVAL;
}

/* Returns false when opt is none of ours. */
static bool take(struct plx_options *o, int opt, struct plx_diag *d, int *err)
{
	switch (opt) {
	case 'b':
		o->board = optarg;
		return true;
	case 'm':
		o->model = optarg;
		return true;
	case 'k':
		o->keys = optarg;
		return true;
	case 'h':
		o->help = true;
		return true;
	case OPT_PREFIX:
		o->file_prefix = optarg;
		return true;
	case OPT_TEMPLATE:
		o->chat_template = optarg;
		return true;
	case OPT_CHECK:
		o->check = true;
		return true;
	case OPT_HELP_BOARD:
		o->help_board = true;
		return true;
	case OPT_VERSION:
		o->version = true;
		return true;
	case OPT_CACHE:
		o->weights_cache = optarg;
		if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "off") != 0)
			*err = plx_diag_set(d, PLX_E_INVAL, "--weights-cache %s: give auto or off",
			                    optarg);
		return true;
	case OPT_LOG:
		*err = parse_level(optarg, &o->log_level);
		if (*err != 0)
			plx_diag_set(d, *err, "--log-level %s: give error, warning, info or debug",
			             optarg);
		return true;
	default:
		return false;
	}
}

int plx_options_parse(struct plx_options *o, int argc, char **argv, struct plx_diag *d)
{
	int opt;
	int err = PLX_E_OK;

	*o = (struct plx_options){.log_level = PLX_LOG_INFO};
	optind = 0; /* glibc: start over, also when called a second time */
	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":b:m:k:h", longopts, NULL)) != -1) {
		if (!take(o, opt, d, &err))
			return plx_diag_set(d, PLX_E_INVAL, "%s %s; see polluxd --help",
			                    argv[optind - 1],
			                    opt == ':' ? "needs a value" : "is not an option");
		if (err != 0)
			return err;
	}
	if (optind < argc)
		return plx_diag_set(d, PLX_E_INVAL, "\"%s\" is no option; see polluxd --help",
		                    argv[optind]);
	if (o->board == NULL && !o->help && !o->help_board && !o->version)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--board is missing; give one such as board/devbox/board.yml");
	return PLX_E_OK;
}

static int put(char *out, size_t n, const char *option, const char *value, struct plx_diag *d)
{
	if (value == NULL)
		return PLX_E_OK;
	if (strlen(value) >= n)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: longer than %zu bytes", option, n - 1);
	snprintf(out, n, "%s", value);
	return PLX_E_OK;
}

int plx_options_apply(const struct plx_options *o, struct plx_config *c, struct plx_diag *d)
{
	int err = put(c->model_path, sizeof(c->model_path), "--model", o->model, d);

	if (err == 0)
		err = put(c->keys_path, sizeof(c->keys_path), "--keys", o->keys, d);
	if (err == 0)
		err =
		    put(c->file_prefix, sizeof(c->file_prefix), "--file-prefix", o->file_prefix, d);
	if (err == 0)
		err = put(c->chat_template, sizeof(c->chat_template), "--chat-template",
		          o->chat_template, d);
	if (err != 0)
		return err;
	if (o->weights_cache != NULL)
		c->weights_cache = strcmp(o->weights_cache, "auto") == 0;
	if (c->model_path[0] == '\0')
		return plx_diag_set(d, PLX_E_INVAL,
		                    "no model: give --model FILE.gguf, or model: in %s",
		                    c->board_path);
	if (c->keys_path[0] == '\0' && !c->insecure)
		return plx_diag_set(
		    d, PLX_E_INVAL,
		    "no keys: make a file with plx-key and give --keys FILE, or say "
		    "insecure: true in %s",
		    c->board_path);
	if (o->keys != NULL && c->insecure)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--keys together with insecure: true in %s says two things; "
		                    "remove one",
		                    c->board_path);
	return PLX_E_OK;
}
