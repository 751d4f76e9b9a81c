/* The command line: which options belong to which command stands in one table. */
#include "tools/model/options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/gguf/pool.h"

enum { OPT_TENSOR = 256, OPT_PLAIN, OPT_PRE, OPT_AGAINST, OPT_HASHES, OPT_CHECK, OPT_BOARD };
enum { OPT_DEVICE = 300, OPT_CONTEXT, OPT_JSON, OPT_FORCE, OPT_THREADS };

static const struct option known[] = {
    {"output", 1, NULL, 'o'},
    {"type", 1, NULL, 't'},
    {"tensor", 1, NULL, OPT_TENSOR},
    {"plain", 0, NULL, OPT_PLAIN},
    {"pre", 1, NULL, OPT_PRE},
    {"against", 1, NULL, OPT_AGAINST},
    {"hashes", 1, NULL, OPT_HASHES},
    {"check", 1, NULL, OPT_CHECK},
    {"board", 1, NULL, OPT_BOARD},
    {"device", 1, NULL, OPT_DEVICE},
    {"context", 1, NULL, OPT_CONTEXT},
    {"json", 0, NULL, OPT_JSON},
    {"force", 0, NULL, OPT_FORCE},
    {"threads", 1, NULL, OPT_THREADS},
    {"quiet", 0, NULL, 'q'},
    {"verbose", 0, NULL, 'v'},
    {"help", 0, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* Options that not every command takes. */
#define IN(cmd) (1u << PLX_MTOOL_##cmd)
static const struct {
	int opt;
	unsigned commands;
} only[] = {
    {'o', IN(CONVERT) | IN(QUANTISE)},
    {'t', IN(CONVERT) | IN(QUANTISE)},
    {OPT_TENSOR, IN(CONVERT) | IN(QUANTISE)},
    {OPT_PLAIN, IN(CONVERT) | IN(QUANTISE)},
    {OPT_FORCE, IN(CONVERT) | IN(QUANTISE) | IN(VERIFY)},
    {OPT_PRE, IN(CONVERT)},
    {OPT_AGAINST, IN(VERIFY)},
    {OPT_HASHES, IN(VERIFY)},
    {OPT_CHECK, IN(VERIFY)},
    {OPT_BOARD, IN(INSPECT)},
    {OPT_DEVICE, IN(INSPECT)},
    {OPT_CONTEXT, IN(INSPECT)},
    {OPT_JSON, IN(INSPECT) | IN(VERIFY)},
};

void plx_mtool_usage(FILE *f)
{
	fputs(
	    "usage: plx-model inspect FILE|DIR [--json] [--context N] [--board BOARD.yml]\n"
	    "                 [--device NAME=SIZE]...\n"
	    "       plx-model convert DIR|FILE.safetensors -o OUT.gguf [-t TYPE] [--pre NAME]\n"
	    "       plx-model quantise IN.gguf -o OUT.gguf -t TYPE\n"
	    "       plx-model verify FILE.gguf [--against OTHER.gguf] [--hashes LIST] [--check "
	    "LIST]\n"
	    "\n"
	    "inspect   what a model is, what a token of it reads, and where it fits\n"
	    "convert   Hugging Face safetensors, config.json and tokenizer.json to one GGUF file\n"
	    "quantise  the same model in another format\n"
	    "verify    structure, hashes, numbers that are none, ranges; the difference to "
	    "another\n"
	    "\n"
	    "  -o, --output FILE      replaced as a whole, or not at all\n"
	    "  -t, --type TYPE        F32 F16 BF16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0;\n"
	    "                         convert without it keeps the source's\n"
	    "      --tensor GLOB=TYPE another format for some tensors; the first that matches\n"
	    "      --plain            scales by extremes instead of least squares: fast, worse\n"
	    "      --pre NAME         pre-tokenizer, where tokenizer.json has one we don't know:\n"
	    "                         gpt-2, smollm, llama-bpe, qwen2\n"
	    "      --force            replace a file that is there\n"
	    "      --context N        what N tokens of one sequence take (inspect)\n"
	    "      --board BOARD.yml  does it fit this board's devices\n"
	    "      --device NAME=SIZE does it fit a memory of SIZE: 24G, 512M\n"
	    "      --against FILE     largest difference and cosine, tensor by tensor\n"
	    "      --hashes LIST      write each tensor's XXH3-128 to LIST\n"
	    "      --check LIST       compare with a list that --hashes wrote\n"
	    "      --json             for programs\n"
	    "      --threads N        1 to 256; without: one a CPU. The result is the same\n"
	    "  -v, --verbose          a line a tensor\n"
	    "  -q, --quiet            no progress bar, no summary\n"
	    "\n"
	    "Exit codes: 0 done, 1 not done, 2 wrong command line, 3 the output can't be written "
	    "or is\n"
	    "there already, 4 verify found something wrong or different, 130 interrupted.\n",
	    f);
}

int plx_mtool_exit_of(int err)
{
	switch (err) {
	case 0:
		return PLX_MTOOL_OK;
	case PLX_E_INVAL:
		return PLX_MTOOL_USAGE;
	case PLX_E_EXISTS:
	case PLX_E_IO:
		return PLX_MTOOL_OUTPUT;
	case PLX_E_CANCELLED:
		return PLX_MTOOL_INTERRUPTED;
	default:
		return PLX_MTOOL_FAILED;
	}
}

static int find_command(struct plx_mtool_options *o, const char *name, struct plx_diag *d)
{
	static const struct {
		const char *name;
		enum plx_mtool_cmd cmd;
	} names[] = {{"inspect", PLX_MTOOL_INSPECT},   {"convert", PLX_MTOOL_CONVERT},
	             {"quantise", PLX_MTOOL_QUANTISE}, {"quantize", PLX_MTOOL_QUANTISE},
	             {"verify", PLX_MTOOL_VERIFY},     {"help", PLX_MTOOL_HELP},
	             {"--help", PLX_MTOOL_HELP},       {"-h", PLX_MTOOL_HELP}};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strcmp(name, names[i].name) == 0) {
			o->cmd = names[i].cmd;
			return 0;
		}
	return plx_diag_set(d, PLX_E_INVAL,
	                    "\"%s\" is no command; give inspect, convert, quantise or verify",
	                    name);
}

static int number(const char *what, const char *text, uint64_t low, uint64_t high, uint64_t *out,
                  struct plx_diag *d)
{
	size_t n = strlen(text);

	if (n < 1 || n > 12 || strspn(text, "0123456789") != n || strtoull(text, NULL, 10) < low ||
	    strtoull(text, NULL, 10) > high)
		return plx_diag_set(d, PLX_E_INVAL, "%s %s: give a number of %llu to %llu", what,
		                    text, (unsigned long long)low, (unsigned long long)high);
	*out = strtoull(text, NULL, 10);
	return 0;
}

/* "24G", "512M", "80GiB", a number of bytes. */
static bool size_of(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	char *end;
	double v = strtod(text, &end);
	const char *unit = *end ? strchr(units, *end) : NULL;

	if (end == text || !(v > 0 && v < 1e15))
		return false;
	for (const char *u = units; unit && u <= unit; u++)
		v *= 1024;
	end += unit != NULL;
	if (*end && strcmp(end, "iB") != 0 && strcmp(end, "B") != 0)
		return false;
	*bytes = v < 1e18 ? (uint64_t)v : UINT64_C(1000000000000000000);
	return true;
}

static int add_device(struct plx_mtool_options *o, const char *text, struct plx_diag *d)
{
	const char *eq = strchr(text, '=');
	size_t n = eq ? (size_t)(eq - text) : 0;

	if (o->n_devices == PLX_MTOOL_MAX_DEVICES)
		return plx_diag_set(d, PLX_E_INVAL, "more than %u times --device",
		                    PLX_MTOOL_MAX_DEVICES);
	if (n == 0 || n >= sizeof o->device[0].name ||
	    !size_of(eq + 1, &o->device[o->n_devices].bytes))
		return plx_diag_set(d, PLX_E_INVAL, "--device %s: give NAME=SIZE, such as card=24G",
		                    text);
	memcpy(o->device[o->n_devices].name, text, n);
	o->device[o->n_devices++].name[n] = '\0';
	return 0;
}

static int check_command(const struct plx_mtool_options *o, int opt, const char *shown,
                         struct plx_diag *d)
{
	for (size_t i = 0; i < sizeof only / sizeof only[0]; i++)
		if (only[i].opt == opt && !(only[i].commands & 1u << o->cmd))
			return plx_diag_set(
			    d, PLX_E_INVAL,
			    "%s does not go with this command; see plx-model --help", shown);
	return 0;
}

static int take_value(struct plx_mtool_options *o, int opt, char *arg, struct plx_diag *d)
{
	uint64_t v = 0;
	int err = 0;

	switch (opt) {
	case 't':
		o->type_given = true;
		return plx_rules_type(arg, &o->rules.main, d);
	case OPT_TENSOR:
		return plx_rules_add(&o->rules, arg, d);
	case OPT_DEVICE:
		return add_device(o, arg, d);
	case OPT_CONTEXT:
		return number("--context", arg, 1, 1u << 30, &o->n_ctx, d);
	case OPT_THREADS:
		err = number("--threads", arg, 1, PLX_POOL_MAX, &v, d);
		o->n_threads = (uint32_t)v;
		return err;
	default:
		return 0;
	}
}

static void take_word(struct plx_mtool_options *o, int opt, const char *arg)
{
	const char **text = opt == 'o'           ? &o->out
	                    : opt == OPT_PRE     ? &o->pre
	                    : opt == OPT_AGAINST ? &o->against
	                    : opt == OPT_HASHES  ? &o->hashes
	                    : opt == OPT_CHECK   ? &o->check
	                    : opt == OPT_BOARD   ? &o->board
	                                         : NULL;

	if (text)
		*text = arg;
	o->plain |= opt == OPT_PLAIN;
	o->force |= opt == OPT_FORCE;
	o->json |= opt == OPT_JSON;
	o->quiet |= opt == 'q';
	o->verbose |= opt == 'v';
}

static int check_needs(const struct plx_mtool_options *o, struct plx_diag *d)
{
	bool writes = o->cmd == PLX_MTOOL_CONVERT || o->cmd == PLX_MTOOL_QUANTISE;

	if (!o->in)
		return plx_diag_set(d, PLX_E_INVAL, "give the model's file; see plx-model --help");
	if (writes && !o->out)
		return plx_diag_set(d, PLX_E_INVAL, "-o is missing; give the file to write");
	if (o->cmd == PLX_MTOOL_QUANTISE && !o->type_given)
		return plx_diag_set(d, PLX_E_INVAL, "-t is missing; give a format such as Q4_K");
	return 0;
}

int plx_mtool_parse(struct plx_mtool_options *o, int argc, char **argv, struct plx_diag *d)
{
	int opt, err;

	*o = (struct plx_mtool_options){.cmd = PLX_MTOOL_HELP};
	if (argc < 2)
		return plx_diag_set(d, PLX_E_INVAL, "give a command; see plx-model --help");
	err = find_command(o, argv[1], d);
	if (err || o->cmd == PLX_MTOOL_HELP)
		return err;
	optind = 0;
	opterr = 0;
	while (!err && (opt = getopt_long(argc - 1, argv + 1, ":o:t:qvh", known, NULL)) != -1) {
		const char *shown = argv[optind > 0 ? optind : 1];

		if (opt == 'h') {
			o->cmd = PLX_MTOOL_HELP;
			return 0;
		}
		if (opt == '?' || opt == ':')
			return plx_diag_set(d, PLX_E_INVAL, "%s %s; see plx-model --help", shown,
			                    opt == ':' ? "needs a value" : "is not an option");
		err = check_command(o, opt, shown, d);
		if (!err)
			err = take_value(o, opt, optarg, d);
		take_word(o, opt, optarg);
	}
	if (err)
		return err;
	if (optind < argc - 2)
		return plx_diag_set(d, PLX_E_INVAL, "\"%s\": one model at a time",
		                    argv[optind + 2]);
	o->in = optind < argc - 1 ? argv[optind + 1] : NULL;
	return check_needs(o, d);
}
