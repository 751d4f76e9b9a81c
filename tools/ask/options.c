/* The command line by getopt_long; numbers are checked whole, with their range in the message. */
#include "tools/ask/options.h"

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	O_HOST = 1,
	O_PORT,
	O_KEY,
	O_INSECURE,
	O_TIMEOUT,
	O_SYSTEM,
	O_MAX_NEW,
	O_TEMPERATURE,
	O_TOP_P,
	O_TOP_K,
	O_MIN_P,
	O_REPEAT,
	O_SEED,
	O_STOP,
	O_LOGPROBS,
	O_N,
	O_RAW,
	O_IDS,
	O_JSON,
	O_PING,
	O_MODELS,
	O_MODEL,
	O_DEADLINE,
	O_PRIORITY,
	O_IGNORE_EOS,
	O_NO_DRAFTS,
	O_BEYOND,
	O_KEEP_RATIO,
	O_MAX_LOSS,
	O_COMPRESS,
	O_KEEP,
	O_KEEP_ROLE,
	O_BEST_OF,
	O_ATTEND,
	O_RETRY,
	O_QUIET,
	O_CHAT,
	O_HELP,
};

static const struct option options[] = {{"host", 1, NULL, O_HOST},
                                        {"port", 1, NULL, O_PORT},
                                        {"key", 1, NULL, O_KEY},
                                        {"insecure", 0, NULL, O_INSECURE},
                                        {"timeout", 1, NULL, O_TIMEOUT},
                                        {"system", 1, NULL, O_SYSTEM},
                                        {"max-new", 1, NULL, O_MAX_NEW},
                                        {"temperature", 1, NULL, O_TEMPERATURE},
                                        {"top-p", 1, NULL, O_TOP_P},
                                        {"top-k", 1, NULL, O_TOP_K},
                                        {"min-p", 1, NULL, O_MIN_P},
                                        {"repeat-penalty", 1, NULL, O_REPEAT},
                                        {"seed", 1, NULL, O_SEED},
                                        {"stop", 1, NULL, O_STOP},
                                        {"logprobs", 1, NULL, O_LOGPROBS},
                                        {"n", 1, NULL, O_N},
                                        {"raw", 0, NULL, O_RAW},
                                        {"ids", 0, NULL, O_IDS},
                                        {"json", 0, NULL, O_JSON},
                                        {"ping", 1, NULL, O_PING},
                                        {"models", 0, NULL, O_MODELS},
                                        {"model", 1, NULL, O_MODEL},
                                        {"deadline", 1, NULL, O_DEADLINE},
                                        {"priority", 1, NULL, O_PRIORITY},
                                        {"ignore-eos", 0, NULL, O_IGNORE_EOS},
                                        {"no-drafts", 0, NULL, O_NO_DRAFTS},
                                        {"beyond-context", 0, NULL, O_BEYOND},
                                        {"keep-ratio", 1, NULL, O_KEEP_RATIO},
                                        {"max-loss", 1, NULL, O_MAX_LOSS},
                                        {"compress", 1, NULL, O_COMPRESS},
                                        {"keep", 1, NULL, O_KEEP},
                                        {"keep-role", 1, NULL, O_KEEP_ROLE},
                                        {"best-of", 1, NULL, O_BEST_OF},
                                        {"attend", 1, NULL, O_ATTEND},
                                        {"retry", 0, NULL, O_RETRY},
                                        {"quiet", 0, NULL, O_QUIET},
                                        {"chat", 0, NULL, O_CHAT},
                                        {"help", 0, NULL, O_HELP},
                                        {NULL, 0, NULL, 0}};

const char *plx_ask_usage(void)
{
	return "usage: plx-ask [options] [PROMPT]\n"
	       "\n"
	       "Sends a prompt to a Pollux appliance and prints the answer as it is generated;\n"
	       "figures follow on standard error. Without PROMPT it reads standard input, or, on "
	       "a\n"
	       "terminal, holds a conversation.\n"
	       "\n"
	       "  --host NAME           appliance; default $POLLUX_HOST, else localhost\n"
	       "  --port N              UDP port, 7709\n"
	       "  --key FILE            our key (plx-key show-client makes it); default "
	       "$POLLUX_KEY\n"
	       "  --insecure            the appliance runs without keys\n"
	       "  --timeout MS          to wait for a session, 5000\n"
	       "\n"
	       "  --system TEXT         system message before the prompt\n"
	       "  --raw                 no chat template: the prompt as it is\n"
	       "  --ids                 the prompt is token ids; the answer is printed as ids\n"
	       "  --max-new N           at most so many tokens, 256\n"
	       "  --temperature T       0 (default): always the likeliest token\n"
	       "  --top-p P --top-k N --min-p P --repeat-penalty X --seed N\n"
	       "  --stop TEXT           end before this text; may be given several times\n"
	       "  --n N                 so many answers\n"
	       "  --best-of N           make so many, and give the likeliest of them (the --n\n"
	       "                        likeliest, best first, once all are made)\n"
	       "  --logprobs N          log-probability of each token, and of N alternatives\n"
	       "  --ignore-eos          go on after the model's end of text\n"
	       "  --no-drafts           nothing is guessed ahead; the text is the same\n"
	       "  --beyond-context      go on where the context is full: the oldest tokens leave\n"
	       "                        it but for the very first; the figures say how many\n"
	       "  --keep-ratio R        leave out what says least of the prompt, down to this "
	       "share\n"
	       "                        of its tokens; system message, questions, numbers and\n"
	       "                        names stay; the figures say how much went\n"
	       "  --max-loss L          the same, by the share of its information that may go\n"
	       "  --compress HOW        with one of these: prompt (default), kv: leave out the\n"
	       "                        memory of what it attends to least, when it was run;\n"
	       "                        both, or late: kv, but only where memory is short\n"
	       "  --keep TEXT           with one of these: the prompt's text stays wherever this\n"
	       "                        stands in it; may be given several times\n"
	       "  --keep-role ROLE      likewise: messages of user, assistant or tool stay whole\n"
	       "  --attend N            in a long context attention need read so many parts of\n"
	       "                        1000 only, by the appliance's estimate; the figures say\n"
	       "                        what it read\n"
	       "  --model N             model id, as --models lists it\n"
	       "  --deadline MS         give up after so long at the appliance\n"
	       "  --priority N          0 (lowest) to 15\n"
	       "  --retry               go on, or ask anew, when the appliance was restarted\n"
	       "                        meanwhile or lost its device\n"
	       "\n"
	       "  --chat                a conversation, a line of standard input each turn: only\n"
	       "                        what is new is sent and computed\n"
	       "  --json                one JSON object instead of text\n"
	       "  --quiet               no figures\n"
	       "  --ping N              N round trips instead of a prompt\n"
	       "  --models              list the models instead\n"
	       "\n"
	       "Exit codes: 0 answered, 1 internal, 2 wrong command line, 3 no session, 4 key\n"
	       "unusable, 5 rejected for now, 6 rejected, 7 session lost or cancelled by the\n"
	       "appliance, 8 answer cut by deadline or fault, 130 interrupted.\n";
}

static int number(const char *name, const char *s, double low, double high, double *out,
                  struct plx_diag *d)
{
	char *end;
	double v = strtod(s, &end);

	if (!*s || *end || !isfinite(v) || v < low || v > high)
		return plx_diag_set(d, PLX_E_INVAL, "--%s %s: give a number of %g to %g", name, s,
		                    low, high);
	*out = v;
	return 0;
}

static int whole(const char *name, const char *s, uint64_t low, uint64_t high, uint64_t *out,
                 struct plx_diag *d)
{
	char *end;
	uint64_t v = strtoull(s, &end, 10);

	if (!*s || *end || *s == '-' || strlen(s) > 20 || v < low || v > high)
		return plx_diag_set(d, PLX_E_INVAL, "--%s %s: give a whole number of %llu to %llu",
		                    name, s, (unsigned long long)low, (unsigned long long)high);
	*out = v;
	return 0;
}

static int set_float(const char *name, float *out, double low, double high, struct plx_diag *d)
{
	double v = 0;
	int err = number(name, optarg, low, high, &v, d);

	if (!err)
		*out = (float)v;
	return err;
}

static int set_u32(const char *name, uint32_t *out, uint64_t low, uint64_t high, struct plx_diag *d)
{
	uint64_t v = 0;
	int err = whole(name, optarg, low, high, &v, d);

	if (!err)
		*out = (uint32_t)v;
	return err;
}

static int set_compress(struct plx_client_request *r, struct plx_diag *d)
{
	bool late = strcmp(optarg, "late") == 0, both = strcmp(optarg, "both") == 0;
	bool kv = strcmp(optarg, "kv") == 0;

	if (!late && !both && !kv && strcmp(optarg, "prompt") != 0)
		return plx_diag_set(d, PLX_E_INVAL, "--compress %s: give prompt, kv, both or late",
		                    optarg);
	r->evict = late || both || kv;
	r->evict_late = late;
	r->prune_too = both;
	return 0;
}

static int set_keep_role(struct plx_client_request *r, struct plx_diag *d)
{
	static const char *const role[] = {"system", "user", "assistant", "tool"};

	for (uint32_t i = 0; i < 4; i++)
		if (strcmp(optarg, role[i]) == 0) {
			r->keep_roles |= (uint8_t)(1u << i);
			return 0;
		}
	return plx_diag_set(d, PLX_E_INVAL, "--keep-role %s: give system, user, assistant or tool",
	                    optarg);
}

/* Options that set one number of the request; 1 when opt is none of them. */
static int set_request(struct plx_client_request *r, int opt, const char *name, struct plx_diag *d)
{
	uint32_t v = 0;
	int err;

	switch (opt) {
	case O_MAX_NEW:
		return set_u32(name, &r->max_new, 1, UINT32_MAX, d);
	case O_TEMPERATURE:
		return set_float(name, &r->temperature, 0, 100, d);
	case O_TOP_P:
		return set_float(name, &r->top_p, 0, 1, d);
	case O_TOP_K:
		return set_u32(name, &r->top_k, 0, UINT32_MAX, d);
	case O_MIN_P:
		return set_float(name, &r->min_p, 0, 1, d);
	case O_REPEAT:
		return set_float(name, &r->repeat_penalty, 0.01, 100, d);
	case O_SEED:
		return whole(name, optarg, 0, UINT64_MAX, &r->seed, d);
	case O_MODEL:
		return set_u32(name, &r->model_id, 0, UINT32_MAX, d);
	case O_LOGPROBS:
		err = set_u32(name, &v, 0, 20, d);
		r->n_logprobs = (uint8_t)v;
		r->logprobs = true;
		return err;
	case O_N:
		err = set_u32(name, &v, 1, PLX_CLIENT_SAMPLES_MAX, d);
		r->n_samples = (uint16_t)v;
		return err;
	case O_DEADLINE:
		err = set_u32(name, &v, 1, 4000000, d);
		r->deadline_us = v * 1000;
		return err;
	case O_PRIORITY:
		err = set_u32(name, &v, 0, 15, d);
		r->priority = (uint8_t)v;
		return err;
	case O_IGNORE_EOS:
		r->ignore_eos = true;
		return 0;
	case O_NO_DRAFTS:
		r->no_drafts = true;
		return 0;
	case O_BEYOND:
		r->allow_compression = true;
		return 0;
	case O_KEEP_RATIO:
		r->allow_compression = true;
		return set_float(name, &r->keep_ratio, 0.001, 1, d);
	case O_COMPRESS:
		return set_compress(r, d);
	case O_KEEP_ROLE:
		return set_keep_role(r, d);
	case O_BEST_OF:
		err = set_u32(name, &v, 2, PLX_CLIENT_SAMPLES_MAX, d);
		r->best_of = (uint16_t)v;
		return err;
	case O_ATTEND:
		err = set_u32(name, &v, 1, 1000, d);
		r->attend_mass = (uint16_t)v;
		return err;
	case O_MAX_LOSS:
		r->allow_compression = true;
		return set_float(name, &r->max_loss, 0.001, 0.999, d);
	case O_RETRY:
		r->resubmit = PLX_CLIENT_RESUBMIT_RESUME;
		return 0;
	default:
		return 1;
	}
}

static int set_where(struct plx_ask_options *o, int opt, const char *name, struct plx_diag *d)
{
	uint32_t v = 0;
	int err = 0;

	switch (opt) {
	case O_HOST:
		o->cfg.host = optarg;
		return 0;
	case O_PORT:
		err = set_u32(name, &v, 1, 65535, d);
		o->cfg.port = (uint16_t)v;
		return err;
	case O_KEY:
		o->key_file = optarg;
		return 0;
	case O_INSECURE:
		o->cfg.insecure = true;
		return 0;
	case O_TIMEOUT:
		return set_u32(name, &o->cfg.connect_timeout_ms, 1, 3600000, d);
	default:
		return 1;
	}
}

static int set_how(struct plx_ask_options *o, int opt, const char *name, struct plx_diag *d)
{
	switch (opt) {
	case O_SYSTEM:
		o->system = optarg;
		return 0;
	case O_STOP:
		if (o->req.n_stops == PLX_ASK_STOPS_MAX)
			return plx_diag_set(d, PLX_E_INVAL, "more than %d --stop",
			                    PLX_ASK_STOPS_MAX);
		o->stop[o->req.n_stops++] = optarg;
		return 0;
	case O_KEEP:
		if (o->n_keep == PLX_ASK_KEEPS_MAX || !*optarg)
			return plx_diag_set(d, PLX_E_INVAL,
			                    "--keep: an empty text, or more than %d of them",
			                    PLX_ASK_KEEPS_MAX);
		o->keep[o->n_keep++] = optarg;
		return 0;
	case O_RAW:
		o->raw = true;
		return 0;
	case O_IDS:
		o->ids = true;
		return 0;
	case O_JSON:
		o->json = true;
		return 0;
	case O_QUIET:
		o->quiet = true;
		return 0;
	case O_CHAT:
		o->chat = true;
		return 0;
	case O_PING:
		o->mode = PLX_ASK_PING;
		return set_u32(name, &o->n_pings, 1, 10000000, d);
	case O_MODELS:
		o->mode = PLX_ASK_MODELS;
		return 0;
	case O_HELP:
		o->help = true;
		return 0;
	default:
		return plx_diag_set(d, PLX_E_INVAL, "see plx-ask --help");
	}
}

static int set(struct plx_ask_options *o, int opt, const char *name, struct plx_diag *d)
{
	int err = set_where(o, opt, name, d);

	if (err == 1)
		err = set_request(&o->req, opt, name, d);
	return err == 1 ? set_how(o, opt, name, d) : err;
}

static int check(const struct plx_ask_options *o, struct plx_diag *d)
{
	if (o->help)
		return 0;
	if (!o->key_file && !o->cfg.insecure)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "no key; give --key FILE, set POLLUX_KEY, or --insecure for an "
		                    "appliance that runs without keys");
	if (o->raw && o->ids)
		return plx_diag_set(d, PLX_E_INVAL, "--raw and --ids exclude each other");
	if (o->chat && (o->raw || o->ids || o->prompt || o->req.n_samples > 1))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--chat reads its turns from standard input, one answer each; "
		                    "leave PROMPT, --raw, --ids and --n out");
	if ((o->n_keep || o->req.keep_roles) && !(o->req.keep_ratio > 0 || o->req.max_loss > 0))
		return plx_diag_set(
		    d, PLX_E_INVAL,
		    "--keep and --keep-role say what a shorter prompt has still; give "
		    "--keep-ratio or --max-loss");
	if (o->ids && o->n_keep)
		return plx_diag_set(d, PLX_E_INVAL, "--keep names text; leave --ids out");
	if (o->req.best_of && (o->chat || o->req.best_of < o->req.n_samples))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--best-of %u: give at least as many as --n, and not --chat",
		                    o->req.best_of);
	if (o->system && (o->raw || o->ids))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--system needs the chat template; leave --raw and --ids out");
	return 0;
}

int plx_ask_parse(struct plx_ask_options *o, int argc, char **argv, struct plx_diag *d)
{
	int opt, which = 0, err = 0;
	const char *host = getenv("POLLUX_HOST");

	*o = (struct plx_ask_options){.key_file = getenv("POLLUX_KEY")};
	plx_client_config_init(&o->cfg);
	plx_client_request_init(&o->req);
	o->cfg.host = host ? host : "localhost";
	o->req.stops = o->stop;
	while (!err && (opt = getopt_long(argc, argv, "", options, &which)) != -1)
		err = opt == '?' ? plx_diag_set(d, PLX_E_INVAL, "see plx-ask --help")
		                 : set(o, opt, options[which].name, d);
	if (err)
		return err;
	if (o->cfg.insecure)
		o->key_file = NULL;
	if (optind < argc - 1)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "more than one prompt; put it in quotation marks");
	o->prompt = optind < argc ? argv[optind] : NULL;
	return check(o, d);
}
