/* What was found: the table, the presets' verdicts, the pictures, the choice. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/tune/draw.h"
#include "tools/tune/tune.h"

static uint32_t count(const struct plx_tune *t, enum plx_journal_kind kind)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->journal.n; i++)
		n += t->journal.rec[i].kind == kind;
	return n;
}

static void about(const struct plx_tune *t, char *buf, size_t bytes)
{
	snprintf(
	    buf, bytes,
	    "%s; %u requests in flight, prompts of %u tokens, answers of %u; perplexity on %u "
	    "tokens. %u measurements of speed at %u configurations and %u of accuracy, of a grid "
	    "of %llu; then %u rounds of comparison",
	    t->machine, t->load.batch, t->load.prompt, t->load.answer, t->n_places,
	    count(t, PLX_JOURNAL_SPEED), t->search.n_points, count(t, PLX_JOURNAL_ACCURACY),
	    (unsigned long long)plx_tune_space_grid(&t->space), t->result.n_rounds);
}

static void name_of(const struct plx_candidate *c, char buf[PLX_DRAW_NAME_BYTES])
{
	char text[PLX_TUNE_TEXT_BYTES];

	plx_tune_point_short(&c->point, text);
	snprintf(buf, PLX_DRAW_NAME_BYTES, "%s%s%s", c->preset, c->preset[0] ? ": " : "", text);
}

/* ---- text ---- */

static void print_row(const struct plx_candidate *c)
{
	char name[PLX_DRAW_NAME_BYTES];

	name_of(c, name);
	printf(
	    "%3u  %7.1f +- %-5.1f %6.2f +- %-5.2f %7.2f +- %-6.2f %7.1f +- %-6.1f %6.2f +- %-5.2f "
	    "%7.4f %5.1f %6.0f  %s\n",
	    c->number, c->f[PLX_FIG_RATE], c->half[PLX_FIG_RATE], c->f[PLX_FIG_P50],
	    c->half[PLX_FIG_P50], c->f[PLX_FIG_P99], c->half[PLX_FIG_P99], c->f[PLX_FIG_FIRST],
	    c->half[PLX_FIG_FIRST], c->f[PLX_FIG_LOSS], c->half[PLX_FIG_LOSS], c->f[PLX_FIG_KL],
	    c->f[PLX_FIG_TOP], c->f[PLX_FIG_MEMORY], name);
}

static void print_front(const struct plx_tune *t)
{
	char text[512];

	about(t, text, sizeof text);
	printf("%s\n\n", text);
	printf("  #  tokens/s         p50, ms         p99, ms           first token, ms   "
	       "perplexity, %%  diverg. agree,%% MiB  knobs\n");
	for (uint32_t rank = 1; rank <= t->result.n; rank++)
		for (uint32_t i = 0; i < t->result.n; i++)
			if (t->result.c[i].number == rank)
				print_row(&t->result.c[i]);
	printf("\n");
}

static void print_presets(const struct plx_tune *t)
{
	static const char *const word[] = {"beaten by", "not told apart by noise from",
	                                   "BEATS THE FRONT; nearest is"};

	for (uint32_t i = 0; i < t->result.n; i++) {
		const struct plx_candidate *c = &t->result.c[i];
		char name[PLX_DRAW_NAME_BYTES], other[PLX_TUNE_TEXT_BYTES];
		uint32_t by;
		double gap;

		if (!c->preset[0])
			continue;
		name_of(c, name);
		enum plx_verdict v = plx_result_judge(&t->result, i, &by, &gap);

		if (by == i) {
			printf("preset %s: the search found the same\n", name);
			continue;
		}
		plx_tune_point_short(&t->result.c[by].point, other);
		printf("preset %s: %s %s (rate %+.1f %%, p99 %+.1f %%, first token %+.1f %%, "
		       "divergence %+.4f nats)\n",
		       name, word[v], other, 100 * expm1(c->cost[1] - t->result.c[by].cost[1]),
		       100 * expm1(t->result.c[by].cost[2] - c->cost[2]),
		       100 * expm1(t->result.c[by].cost[3] - c->cost[3]),
		       t->result.c[by].f[PLX_FIG_KL] - c->f[PLX_FIG_KL]);
	}
}

/* ---- pictures ---- */

/* Candidates first, then what was measured on the way. */
static uint32_t draw_points(struct plx_tune *t, struct plx_draw_point *p, int chosen)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->result.n; i++) {
		const struct plx_candidate *c = &t->result.c[i];

		p[n].kind = (int)i == chosen ? PLX_DRAW_CHOSEN
		            : c->number      ? PLX_DRAW_FRONT
		            : c->preset[0]   ? PLX_DRAW_PRESET
		                             : PLX_DRAW_TRIED;
		p[n].number = c->number;
		name_of(c, p[n].name);
		memcpy(p[n].f, c->f, sizeof c->f);
		memcpy(p[n++].half, c->half, sizeof c->half);
	}
	for (uint32_t i = 0; i < t->journal.n; i++) {
		const struct plx_journal_rec *r = &t->journal.rec[i];
		struct plx_journal_rec a;

		if (r->kind != PLX_JOURNAL_SPEED || plx_tune_accuracy(t, &r->point, &a, NULL) != 0)
			continue;
		p[n] = (struct plx_draw_point){.kind = PLX_DRAW_TRIED};
		plx_tune_point_short(&r->point, p[n].name);
		p[n].f[PLX_FIG_LOSS] = 100 * expm1(a.v[1]);
		p[n].f[PLX_FIG_KL] = a.v[3];
		p[n].f[PLX_FIG_TOP] = 100 * a.v[5];
		p[n].f[PLX_FIG_RATE] = r->v[1];
		p[n].f[PLX_FIG_P50] = r->v[2];
		p[n].f[PLX_FIG_P99] = r->v[3];
		p[n].f[PLX_FIG_FIRST] = r->v[4];
		p[n++].f[PLX_FIG_MEMORY] = r->v[5];
	}
	return n;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int draw(struct plx_tune *t, int chosen, struct plx_diag *d)
{
	char title[256], text[512], path[PLX_WEIGHTS_PATH];
	struct plx_draw_point *p = calloc(t->result.n + t->journal.n, sizeof *p);
	struct plx_draw w = {.title = title, .about = text, .point = p};
	int err = 0;

	if (!p)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for the pictures");
	w.n = draw_points(t, p, chosen);
	snprintf(title, sizeof title, "%s: speed and accuracy", base_name(t->o->model));
	about(t, text, sizeof text);
	if ((size_t)snprintf(path, sizeof path, "%s/front.svg", t->o->work) < sizeof path)
		err = plx_draw_svg(&w, path, d);
	if (!err && (size_t)snprintf(path, sizeof path, "%s/index.html", t->o->work) < sizeof path)
		err = plx_draw_page(&w, path, d);
	if (!err)
		printf("pictures: %s/front.svg, %s/index.html\n", t->o->work, t->o->work);
	free(p);
	return err;
}

/* ---- the choice ---- */

static int none_holds(const struct plx_tune *t, uint32_t near, struct plx_diag *d)
{
	const struct plx_candidate *c = &t->result.c[near];
	char text[PLX_TUNE_TEXT_BYTES], far[256] = "";
	size_t len = 0;

	for (uint32_t i = 0; i < t->o->n_budgets && len < sizeof far; i++) {
		const struct plx_budget *b = &t->o->budget[i];
		const struct plx_figure_info *f = &plx_figure_info[b->figure];

		if (plx_budget_excess(b, c->f) > 0)
			len += (size_t)snprintf(far + len, sizeof far - len,
			                        "%s%s %.4g %s, asked %.4g", len ? "; " : "",
			                        f->name, c->f[b->figure], f->unit, b->bound);
	}
	plx_tune_point_short(&c->point, text);
	return plx_diag_set(
	    d, PLX_E_NOT_FOUND,
	    "nothing holds the budgets; nearest is %s: %s. Give a wider budget, fewer "
	    "requests in flight, or more time",
	    text, far);
}

static int choose(const struct plx_tune *t, int *chosen, struct plx_diag *d)
{
	double f[PLX_RESULT_MAX][PLX_FIGURES];
	uint32_t near;

	*chosen = -1;
	if (t->o->n_budgets == 0)
		return 0;
	for (uint32_t i = 0; i < t->result.n; i++)
		memcpy(f[i], t->result.c[i].f, sizeof f[i]);
	*chosen = plx_budget_choose(t->o->budget, t->o->n_budgets, (const double(*)[PLX_FIGURES])f,
	                            t->result.n, &near);
	return *chosen < 0 ? none_holds(t, near, d) : 0;
}

static int write_board(const struct plx_tune *t, const struct plx_candidate *c, struct plx_diag *d)
{
	char file[PLX_WEIGHTS_PATH], line[200];
	int err = plx_tune_file(t, &c->point, file, d);

	snprintf(line, sizeof line, "by plx-tune: %.1f tokens/s, p99 %.2f ms, perplexity %+.2f %%",
	         c->f[PLX_FIG_RATE], c->f[PLX_FIG_P99], c->f[PLX_FIG_LOSS]);
	if (!err)
		err =
		    plx_board_write(t->o->out, t->o->board, &c->point, file, line, t->o->force, d);
	if (!err)
		printf("board: %s\n", t->o->out);
	return err;
}

int plx_tune_report(struct plx_tune *t, struct plx_diag *d)
{
	struct plx_diag none = {0};
	int chosen, failed, err;

	print_front(t);
	print_presets(t);
	failed = choose(t, &chosen, &none);
	err = draw(t, chosen, d);
	if (!err && failed)
		return plx_diag_set(d, failed, "%s", none.text);
	if (err || chosen < 0)
		return err;
	const struct plx_candidate *c = &t->result.c[chosen];
	char text[PLX_TUNE_TEXT_BYTES];

	plx_tune_point_print(&c->point, text);
	printf("chosen: %s\n", text);
	print_row(c);
	return t->o->out ? write_board(t, c, d) : 0;
}
