/* The command line. */
#include "tools/tune/options.h"

#include <ctype.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/tune/rig.h"
#include "tools/tune/search.h"
#include "tools/tune/speed.h"

enum { OPT_TEXT = 256, OPT_WORK, OPT_REFERENCE, OPT_BOARD, OPT_BUDGET, OPT_PRESET, OPT_KNOB };
enum { OPT_TIME = 300, OPT_INTERVAL, OPT_SEED, OPT_CPU_TIME, OPT_RESTART, OPT_FORCE };
enum { OPT_NUMBER = 400 }; /* and what follows: numbers[] */

static const struct {
	const char *name;
	size_t off;
	uint32_t usual, low, high;
} numbers[] = {
    {"batch", offsetof(struct plx_tune_options, batch), 4, 1, PLX_SPEED_BATCH},
    {"requests", offsetof(struct plx_tune_options, n_requests), 0, 1, 1024},
    {"prompt", offsetof(struct plx_tune_options, prompt), 128, 1, 65536},
    {"answer", offsetof(struct plx_tune_options, answer), 32, 2, PLX_SPEED_ANSWER},
    {"tokens", offsetof(struct plx_tune_options, tokens), 1024, 1, 1048576},
    {"threads", offsetof(struct plx_tune_options, n_threads), 0, 1, PLX_RIG_THREADS},
    {"measurements", offsetof(struct plx_tune_options, most), 0, 1, PLX_SEARCH_MAX},
};
#define N_NUMBERS (sizeof numbers / sizeof numbers[0])

static const struct option known[] = {
    {"text", 1, NULL, OPT_TEXT},
    {"work", 1, NULL, OPT_WORK},
    {"reference", 1, NULL, OPT_REFERENCE},
    {"board", 1, NULL, OPT_BOARD},
    {"budget", 1, NULL, OPT_BUDGET},
    {"preset", 1, NULL, OPT_PRESET},
    {"knob", 1, NULL, OPT_KNOB},
    {"time", 1, NULL, OPT_TIME},
    {"interval", 1, NULL, OPT_INTERVAL},
    {"seed", 1, NULL, OPT_SEED},
    {"cpu-time", 0, NULL, OPT_CPU_TIME},
    {"restart", 0, NULL, OPT_RESTART},
    {"force", 0, NULL, OPT_FORCE},
    {"batch", 1, NULL, OPT_NUMBER},
    {"requests", 1, NULL, OPT_NUMBER + 1},
    {"prompt", 1, NULL, OPT_NUMBER + 2},
    {"answer", 1, NULL, OPT_NUMBER + 3},
    {"tokens", 1, NULL, OPT_NUMBER + 4},
    {"threads", 1, NULL, OPT_NUMBER + 5},
    {"measurements", 1, NULL, OPT_NUMBER + 6},
    {"output", 1, NULL, 'o'},
    {"quiet", 0, NULL, 'q'},
    {"verbose", 0, NULL, 'v'},
    {"help", 0, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

void plx_tune_usage(FILE *f)
{
	fputs(
	    "usage: plx-tune MODEL.gguf --text FILE --work DIR [options]\n"
	    "\n"
	    "Measures speed and accuracy over the knobs, finds the Pareto front with few\n"
	    "measurements, draws it (DIR/front.svg, DIR/index.html), and writes the board file\n"
	    "for a budget. Run again with the same options it goes on where it stopped.\n"
	    "\n"
	    "      --text FILE        plain text like what the model will see; prompts are cut\n"
	    "                         from it and perplexity is taken on it\n"
	    "      --work DIR         journal, pictures, re-quantised files; made if missing\n"
	    "      --reference FILE   the model unquantised; without: MODEL itself. Formats are\n"
	    "                         made from it\n"
	    "      --budget TEXT      what must hold, several times: \"perplexity 1 %\",\n"
	    "                         \"p99 inter-token 20 ms\"\n"
	    "      --board BOARD.yml  the board: its threads, its settings as a preset, and what\n"
	    "                         -o starts from\n"
	    "  -o, --output FILE      the board file that holds the budgets\n"
	    "      --time TIME        for all of it: 90s, 10m (10m)\n"
	    "      --knob NAME=V,V    try these values alone; one value fixes a knob\n"
	    "      --preset NAME:K=V,..  a configuration to compare with\n"
	    "      --batch N          requests in flight (4)\n"
	    "      --requests N       of one measurement (2 * batch)\n"
	    "      --prompt N, --answer N  tokens of each (128, 32)\n"
	    "      --tokens N         of the text that perplexity is taken on (1024)\n"
	    "      --interval P       half of perplexity's 95 % interval may be P % (5)\n"
	    "      --threads N        that compute; without: the board's, or one a CPU\n"
	    "      --cpu-time         measure CPU time instead of time: one thread, busy machine\n"
	    "      --measurements N   of speed in the search at most\n"
	    "      --seed N           of the search\n"
	    "      --restart          forget the journal\n"
	    "      --force            replace the board file if it is there\n"
	    "  -v, --verbose          a line a measurement\n"
	    "  -q, --quiet            the result alone\n"
	    "\n"
	    "Knobs:\n",
	    f);
	plx_tune_knobs_help(f);
	fputs("\nFigures of budgets:\n", f);
	plx_budgets_help(f);
	fputs(
	    "\nExit codes: 0 done, 1 not done, 2 wrong command line or a journal or text that "
	    "does\n"
	    "not fit, 3 a file can't be written or is there already, 4 nothing holds the budgets,\n"
	    "130 interrupted (run again to go on).\n",
	    f);
}

int plx_tune_exit_of(int err)
{
	switch (err) {
	case 0:
		return PLX_TUNE_OK;
	case PLX_E_INVAL:
		return PLX_TUNE_USAGE;
	case PLX_E_EXISTS:
	case PLX_E_IO:
		return PLX_TUNE_OUTPUT;
	case PLX_E_NOT_FOUND:
		return PLX_TUNE_NONE;
	case PLX_E_CANCELLED:
		return PLX_TUNE_INTERRUPTED;
	default:
		return PLX_TUNE_FAILED;
	}
}

static int take_number(struct plx_tune_options *o, uint32_t i, const char *text, struct plx_diag *d)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);
	uint32_t out = (uint32_t)v;

	if (!isdigit((unsigned char)text[0]) || *end || v < numbers[i].low || v > numbers[i].high)
		return plx_diag_set(d, PLX_E_INVAL, "--%s %s: give a number of %u to %u",
		                    numbers[i].name, text, numbers[i].low, numbers[i].high);
	memcpy((char *)o + numbers[i].off, &out, sizeof out);
	return 0;
}

/* "90s", "10m", "1h", a number of seconds. */
static int take_time(struct plx_tune_options *o, const char *text, struct plx_diag *d)
{
	char *end;
	double v = strtod(text, &end);
	double unit = *end == 'm' ? 60 : *end == 'h' ? 3600 : 1;

	if (end == text || (*end && end[1]) || (*end && !strchr("smh", *end)) ||
	    !(v * unit >= 1 && v * unit <= 86400))
		return plx_diag_set(d, PLX_E_INVAL, "--time %s: give 1s to 24h, such as 10m", text);
	o->time_s = v * unit;
	return 0;
}

static int take_interval(struct plx_tune_options *o, const char *text, struct plx_diag *d)
{
	char *end;

	o->interval = strtod(text, &end);
	if (end == text || *end || !(o->interval > 0 && o->interval <= 100))
		return plx_diag_set(d, PLX_E_INVAL, "--interval %s: give a percentage such as 2",
		                    text);
	return 0;
}

/* "NAME:knob=value,...". */
static int take_preset(struct plx_tune_options *o, const char *text, struct plx_diag *d)
{
	const char *colon = strchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	struct plx_tune_preset *p = &o->preset[o->n_presets];

	if (o->n_presets == PLX_TUNE_PRESETS)
		return plx_diag_set(d, PLX_E_INVAL, "more than %u times --preset",
		                    PLX_TUNE_PRESETS);
	if (n == 0 || n >= sizeof p->name)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--preset %s: give NAME:KNOB=VALUE,..., such as "
		                    "small:weights=q4_0,kv=q8",
		                    text);
	memcpy(p->name, text, n);
	p->name[n] = '\0';
	plx_tune_point_usual(&p->point);
	o->n_presets++;
	return plx_tune_point_parse(&p->point, colon + 1, strlen(colon + 1), d);
}

static int take_budget(struct plx_tune_options *o, const char *text, struct plx_diag *d)
{
	if (o->n_budgets == PLX_TUNE_BUDGETS)
		return plx_diag_set(d, PLX_E_INVAL, "more than %u times --budget",
		                    PLX_TUNE_BUDGETS);
	return plx_budget_parse(&o->budget[o->n_budgets++], text, d);
}

static int take_value(struct plx_tune_options *o, int opt, const char *arg, struct plx_diag *d)
{
	char *end;

	switch (opt) {
	case OPT_BUDGET:
		return take_budget(o, arg, d);
	case OPT_PRESET:
		return take_preset(o, arg, d);
	case OPT_KNOB:
		return plx_tune_space_limit(&o->space, arg, d);
	case OPT_TIME:
		return take_time(o, arg, d);
	case OPT_INTERVAL:
		return take_interval(o, arg, d);
	case OPT_SEED:
		o->seed = strtoull(arg, &end, 10);
		return *end || !isdigit((unsigned char)arg[0])
		           ? plx_diag_set(d, PLX_E_INVAL, "--seed %s: give a number", arg)
		           : 0;
	default:
		if (opt >= OPT_NUMBER)
			return take_number(o, (uint32_t)(opt - OPT_NUMBER), arg, d);
		return 0;
	}
}

static void take_word(struct plx_tune_options *o, int opt, const char *arg)
{
	const char **text = opt == 'o'             ? &o->out
	                    : opt == OPT_TEXT      ? &o->text
	                    : opt == OPT_WORK      ? &o->work
	                    : opt == OPT_REFERENCE ? &o->reference
	                    : opt == OPT_BOARD     ? &o->board
	                                           : NULL;

	if (text)
		*text = arg;
	o->cpu_time |= opt == OPT_CPU_TIME;
	o->restart |= opt == OPT_RESTART;
	o->force |= opt == OPT_FORCE;
	o->quiet |= opt == 'q';
	o->verbose |= opt == 'v';
}

static int check(struct plx_tune_options *o, struct plx_diag *d)
{
	const char *why = !o->model             ? "give the model's file"
	                  : !o->text            ? "--text is missing; give a text file"
	                  : !o->work            ? "--work is missing; give a folder"
	                  : o->out && !o->board ? "-o needs --board: the board file to start from"
	                  : o->out && !o->n_budgets ? "-o needs a --budget"
	                                            : NULL;

	if (o->n_requests == 0)
		o->n_requests = 2 * o->batch;
	if (!why && o->n_requests < o->batch)
		why = "--requests must be at least --batch";
	if (!why && (uint64_t)o->n_requests * o->answer > PLX_SPEED_GAPS)
		why = "--requests times --answer is too much for one measurement";
	if (!why && o->cpu_time && o->n_threads > 1)
		why = "--cpu-time is for one thread; leave --threads out, or give 1";
	if (o->cpu_time)
		o->n_threads = 1;
	return why ? plx_diag_set(d, PLX_E_INVAL, "%s; see plx-tune --help", why) : 0;
}

static void usual(struct plx_tune_options *o)
{
	*o = (struct plx_tune_options){.time_s = 600, .interval = 5, .seed = 1};
	plx_tune_space_all(&o->space);
	for (size_t i = 0; i < N_NUMBERS; i++)
		memcpy((char *)o + numbers[i].off, &numbers[i].usual, sizeof(uint32_t));
}

int plx_tune_parse(struct plx_tune_options *o, int argc, char **argv, struct plx_diag *d)
{
	int opt, err = 0;

	usual(o);
	optind = 0;
	opterr = 0;
	while (!err && (opt = getopt_long(argc, argv, ":o:qvh", known, NULL)) != -1) {
		const char *shown = argv[optind > 1 ? optind - 1 : 1];

		if (opt == 'h') {
			o->help = true;
			return 0;
		}
		if (opt == '?' || opt == ':')
			return plx_diag_set(d, PLX_E_INVAL, "%s %s; see plx-tune --help", shown,
			                    opt == ':' ? "needs a value" : "is not an option");
		err = take_value(o, opt, optarg, d);
		take_word(o, opt, optarg);
	}
	if (err)
		return err;
	if (optind + 1 < argc)
		return plx_diag_set(d, PLX_E_INVAL, "\"%s\": one model at a time",
		                    argv[optind + 1]);
	o->model = optind < argc ? argv[optind] : NULL;
	return check(o, d);
}
