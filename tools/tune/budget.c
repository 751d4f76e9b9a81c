/* Budgets: a few words and a number. */
#include "tools/tune/budget.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"

#define MAX_WORDS  8u
#define MAX_TEXT   128u
#define EQUAL_RATE 1.01

const struct plx_figure_info plx_figure_info[PLX_FIGURES] = {
    [PLX_FIG_LOSS] = {"perplexity", "perplexity above the reference's", "%", false},
    [PLX_FIG_KL] = {"divergence", "divergence from the reference", "nats", false},
    [PLX_FIG_TOP] = {"agreement", "best ids that are the reference's", "%", true},
    [PLX_FIG_RATE] = {"rate", "all answers together", "tokens/s", true},
    [PLX_FIG_FIRST] = {"first token", "first token, median", "ms", false},
    [PLX_FIG_P50] = {"p50 inter-token", "from token to token, median", "ms", false},
    [PLX_FIG_P99] = {"p99 inter-token", "from token to token, 99 of 100", "ms", false},
    [PLX_FIG_MEMORY] = {"memory", "weights and KV", "MiB", false},
};

/* Words that name a figure; all of them must be there. */
static const struct {
	const char *word[2];
	enum plx_figure figure;
} named[] = {
    {{"perplexity", NULL}, PLX_FIG_LOSS}, {{"loss", NULL}, PLX_FIG_LOSS},
    {{"divergence", NULL}, PLX_FIG_KL},   {{"kl", NULL}, PLX_FIG_KL},
    {{"agreement", NULL}, PLX_FIG_TOP},   {{"rate", NULL}, PLX_FIG_RATE},
    {{"tokens/s", NULL}, PLX_FIG_RATE},   {{"first", "token"}, PLX_FIG_FIRST},
    {{"ttft", NULL}, PLX_FIG_FIRST},      {{"p50", "inter-token"}, PLX_FIG_P50},
    {{"p50", "itl"}, PLX_FIG_P50},        {{"p99", "inter-token"}, PLX_FIG_P99},
    {{"p99", "itl"}, PLX_FIG_P99},        {{"memory", NULL}, PLX_FIG_MEMORY},
};

static const struct {
	const char *name, *of; /* a unit, and the one that figures are in */
	double factor;
} units[] = {
    {"%", "%", 1},       {"ms", "ms", 1},    {"us", "ms", 1e-3},
    {"s", "ms", 1e3},    {"mib", "MiB", 1},  {"gib", "MiB", 1024},
    {"nats", "nats", 1}, {"nat", "nats", 1}, {"tokens/s", "tokens/s", 1},
};

/* A budget taken apart. */
struct parts {
	char text[MAX_TEXT];
	char *word[MAX_WORDS]; /* words before, or those behind the number that are no unit */
	uint32_t n;
	double value;
	bool have_value;
};

static int wrong(const char *text, const char *why, struct plx_diag *d)
{
	return plx_diag_set(d, PLX_E_INVAL,
	                    "--budget \"%.60s\": %s; write one such as \"perplexity 1 %%\", "
	                    "\"p99 inter-token 20 ms\", \"first token 300 ms\", \"50 tokens/s\", "
	                    "\"memory 400 MiB\", \"agreement 95 %%\", \"divergence 0.01\"",
	                    text, why);
}

/* A number, alone or with its unit right behind it ("1%"): the rest of the word stays one. */
static bool take_number(struct parts *p, char *word)
{
	char *end;
	double v;

	if (!isdigit((unsigned char)word[0]) && word[0] != '.')
		return false;
	v = strtod(word, &end);
	if (end == word || !isfinite(v) || p->have_value)
		return false;
	p->value = v;
	p->have_value = true;
	if (*end)
		p->word[p->n++] = end;
	return true;
}

static int take_apart(struct parts *p, const char *text, struct plx_diag *d)
{
	char *save = NULL;

	*p = (struct parts){.n = 0};
	if (strlen(text) >= MAX_TEXT)
		return wrong(text, "it is too long", d);
	for (size_t i = 0; text[i]; i++)
		p->text[i] = (char)tolower((unsigned char)text[i]);
	for (char *w = strtok_r(p->text, " \t=:<>", &save); w;
	     w = strtok_r(NULL, " \t=:<>", &save)) {
		if (p->n + 1 >= MAX_WORDS)
			return wrong(text, "it has too many words", d);
		if (!take_number(p, w))
			p->word[p->n++] = w;
	}
	return p->have_value ? 0 : wrong(text, "it has no number", d);
}

/* Takes a word out; false where it is not there. */
static bool take_word(struct parts *p, const char *word)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (strcmp(p->word[i], word) == 0) {
			p->word[i] = p->word[--p->n];
			return true;
		}
	return false;
}

static bool has_word(const struct parts *p, const char *word)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (strcmp(p->word[i], word) == 0)
			return true;
	return false;
}

static bool take_figure(struct parts *p, enum plx_figure *out)
{
	for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
		const char *const *w = named[i].word;

		if (!has_word(p, w[0]) || (w[1] && !has_word(p, w[1])))
			continue;
		(void)take_word(p, w[0]);
		if (w[1])
			(void)take_word(p, w[1]);
		*out = named[i].figure;
		return true;
	}
	return false;
}

int plx_budget_parse(struct plx_budget *b, const char *text, struct plx_diag *d)
{
	struct parts p;
	int err = take_apart(&p, text, d);

	if (err)
		return err;
	if (!take_figure(&p, &b->figure))
		return wrong(text, "it names no figure", d);
	const struct plx_figure_info *f = &plx_figure_info[b->figure];

	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
		if (strcmp(units[i].of, f->unit) == 0 && take_word(&p, units[i].name)) {
			p.value *= units[i].factor;
			break;
		}
	if (take_word(&p, "at") && !take_word(&p, f->more ? "least" : "most"))
		return wrong(text, f->more ? "it is a least value" : "it is a most value", d);
	if (p.n > 0)
		return wrong(text, "it has a word or a unit that does not belong", d);
	if (!(p.value > 0) && b->figure != PLX_FIG_LOSS && b->figure != PLX_FIG_KL)
		return wrong(text, "the number must be above 0", d);
	b->bound = p.value;
	return 0;
}

double plx_budget_excess(const struct plx_budget *b, const double f[PLX_FIGURES])
{
	double over =
	    plx_figure_info[b->figure].more ? b->bound - f[b->figure] : f[b->figure] - b->bound;

	return over / fmax(b->bound, 1e-6);
}

/* a is the better choice: faster, or as fast with less loss. */
static bool better(const double *a, const double *b)
{
	if (a[PLX_FIG_RATE] > b[PLX_FIG_RATE] * EQUAL_RATE)
		return true;
	return a[PLX_FIG_RATE] * EQUAL_RATE >= b[PLX_FIG_RATE] && a[PLX_FIG_KL] < b[PLX_FIG_KL];
}

int plx_budget_choose(const struct plx_budget *b, uint32_t n_budgets,
                      const double (*f)[PLX_FIGURES], uint32_t n, uint32_t *nearest)
{
	double least = INFINITY;
	int best = -1;

	*nearest = 0;
	for (uint32_t i = 0; i < n; i++) {
		double worst = -INFINITY;

		for (uint32_t k = 0; k < n_budgets; k++)
			worst = fmax(worst, plx_budget_excess(&b[k], f[i]));
		if (worst < least) {
			least = worst;
			*nearest = i;
		}
		if (worst <= 0 && (best < 0 || better(f[i], f[best])))
			best = (int)i;
	}
	return best;
}

void plx_budgets_help(FILE *f)
{
	for (uint32_t i = 0; i < PLX_FIGURES; i++)
		fprintf(f, "  %-16s %s %s, %s\n", plx_figure_info[i].name,
		        plx_figure_info[i].more ? "at least" : "at most ", plx_figure_info[i].unit,
		        plx_figure_info[i].label);
}
