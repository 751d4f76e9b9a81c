/* Reads plx-scope's command line. */
#include "tools/scope/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/scope/prom.h"

static const struct option longs[] = {{"file", required_argument, NULL, 'f'},
                                      {"listen", required_argument, NULL, 'l'},
                                      {"token-file", required_argument, NULL, 't'},
                                      {"names", required_argument, NULL, 'n'},
                                      {"out", required_argument, NULL, 'o'},
                                      {"seconds", required_argument, NULL, 's'},
                                      {"once", no_argument, NULL, '1'},
                                      {"help", no_argument, NULL, 'h'},
                                      {NULL, 0, NULL, 0}};

/* Commands, with how many arguments each takes. */
static const struct {
	const char *name;
	uint32_t least, most;
} commands[] = {{"export", 0, 0}, {"metrics", 0, 0}, {"top", 0, 0},    {"why", 1, 2},
                {"list", 0, 0},   {"record", 0, 0},  {"replay", 1, 1}, {"trace", 0, 1}};

static int set_names(struct plx_scope_options *o, const char *text, struct plx_diag *d)
{
	o->names = 0;
	while (*text != '\0') {
		size_t n = strcspn(text, ",");

		if (n == 4 && memcmp(text, "vllm", 4) == 0)
			o->names |= PLX_PROM_VLLM;
		else if (n == 6 && memcmp(text, "gen_ai", 6) == 0)
			o->names |= PLX_PROM_GEN_AI;
		else
			return plx_diag_set(d, PLX_E_INVAL,
			                    "--names \"%.40s\" is not known; give vllm, gen_ai or "
			                    "vllm,gen_ai",
			                    text);
		text += n + (text[n] == ',');
	}
	return PLX_E_OK;
}

static int set_seconds(struct plx_scope_options *o, const char *text, struct plx_diag *d)
{
	char *end;

	o->seconds = strtod(text, &end);
	if (*end == '\0' && end != text && o->seconds >= 0.1 && o->seconds <= 86400)
		return PLX_E_OK;
	return plx_diag_set(d, PLX_E_INVAL, "--seconds \"%.40s\": give 0.1 to 86400", text);
}

static int set_command(struct plx_scope_options *o, int argc, char **argv, struct plx_diag *d)
{
	uint32_t n = (uint32_t)(argc - optind);

	if (n == 0)
		return plx_diag_set(d, PLX_E_INVAL, "no command; `plx-scope --help` lists them");
	o->command = argv[optind];
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(o->command, commands[i].name) != 0)
			continue;
		o->n_args = n - 1;
		if (o->n_args < commands[i].least || o->n_args > commands[i].most)
			return plx_diag_set(d, PLX_E_INVAL,
			                    "%s takes %u to %u arguments, not %u; see "
			                    "`plx-scope --help`",
			                    o->command, commands[i].least, commands[i].most,
			                    o->n_args);
		for (uint32_t k = 0; k < o->n_args; k++)
			o->arg[k] = argv[optind + 1 + (int)k];
		return PLX_E_OK;
	}
	return plx_diag_set(d, PLX_E_INVAL, "no command \"%.40s\"; `plx-scope --help` lists them",
	                    o->command);
}

int plx_scope_options_parse(struct plx_scope_options *o, int argc, char **argv, struct plx_diag *d)
{
	int c, err = PLX_E_OK;

	*o = (struct plx_scope_options){.listen = PLX_SCOPE_LISTEN};
	optind = 0;
	opterr = 0;
	while (err == 0 && (c = getopt_long(argc, argv, "f:o:h", longs, NULL)) != -1) {
		if (c == 'f')
			o->file = optarg;
		else if (c == 'l')
			o->listen = optarg;
		else if (c == 't')
			o->token_file = optarg;
		else if (c == 'n')
			err = set_names(o, optarg, d);
		else if (c == 'o')
			o->out = optarg;
		else if (c == 's')
			err = set_seconds(o, optarg, d);
		else if (c == '1')
			o->once = true;
		else if (c == 'h')
			o->help = true;
		else
			err = plx_diag_set(d, PLX_E_INVAL,
			                   "option %.40s: not known, or without its value; see "
			                   "`plx-scope --help`",
			                   argv[optind - 1]);
	}
	if (err != 0 || o->help)
		return err;
	return set_command(o, argc, argv, d);
}

static bool number(const char **at, uint64_t most, uint64_t *out)
{
	char *end;

	if (**at < '0' || **at > '9')
		return false;
	errno = 0;
	*out = strtoull(*at, &end, 10);
	*at = end;
	return errno == 0 && *out <= most;
}

int plx_scope_request(const char *text, uint32_t *session, uint64_t *req_id, struct plx_diag *d)
{
	const char *at = text;
	uint64_t n = 0;

	if (number(&at, UINT32_MAX, &n) && *at++ == '-' && number(&at, UINT64_MAX, req_id) &&
	    *at == '\0') {
		*session = (uint32_t)n;
		return PLX_E_OK;
	}
	return plx_diag_set(d, PLX_E_INVAL,
	                    "\"%.60s\" is no request; write SESSION-REQUEST such as 17-3, as "
	                    "`plx-scope list` shows them",
	                    text);
}

const char *plx_scope_usage(void)
{
	return "plx-scope: what a running polluxd does, and why a token was late.\n\n"
	       "  plx-scope top [--seconds 1] [--once]   lcores, stages, requests, devices, live\n"
	       "  plx-scope list                         requests it still knows, latest last\n"
	       "  plx-scope why REQUEST [TOKEN]          a token's time by stage, and the verdict\n"
	       "                                         (without TOKEN: the latest one's of all)\n"
	       "  plx-scope export                       Prometheus text and OpenMetrics over "
	       "HTTP\n"
	       "      --listen 127.0.0.1:9477            where; another than loopback needs a\n"
	       "      --token-file FILE                  token, sent as Authorization: Bearer\n"
	       "      --names vllm,gen_ai                other engines' names as well\n"
	       "  plx-scope record -o FILE [--seconds 10]  events and pages into a file\n"
	       "  plx-scope replay FILE                  top, list and why work on it: --file "
	       "FILE\n"
	       "  plx-scope trace [FILE] [-o OUT.json]   for ui.perfetto.dev and chrome://tracing\n"
	       "  plx-scope metrics                      every metric's name as a table\n\n"
	       "  --file FILE    polluxd's telemetry: file, or a recording; without it the only\n"
	       "                 /dev/shm/polluxd-*\n";
}
