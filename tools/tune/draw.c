/* Charts in SVG, by hand. Colours are CSS variables, set twice: for light and for dark. */
#include "tools/tune/draw.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fw/base/err.h"
#include "tools/gguf/out.h"

#define WIDTH  480.0
#define HEIGHT 400.0
#define LEFT   62.0
#define RIGHT  18.0
#define TOP    34.0
#define BOTTOM 52.0

static const struct {
	enum plx_figure x, y;
	const char *title;
} charts[] = {
    {PLX_FIG_RATE, PLX_FIG_LOSS, "Perplexity"},
    {PLX_FIG_RATE, PLX_FIG_KL, "Divergence"},
    {PLX_FIG_RATE, PLX_FIG_P99, "Evenness"},
    {PLX_FIG_RATE, PLX_FIG_FIRST, "First token"},
};
#define N_CHARTS (sizeof charts / sizeof charts[0])

static const char style[] =
    ":root{--bg:#fff;--ink:#1b1f24;--soft:#667;--line:#d6d9de;--front:#0b63ce;--preset:#b3450b;"
    "--tried:#9aa3ad;--chosen:#16803a}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171a;--ink:#e6e8ea;--soft:#9aa3ad;"
    "--line:#343a40;--front:#6cb2ff;--preset:#ff9d5c;--tried:#5d6670;--chosen:#5fd38a}}\n"
    ".bg{fill:var(--bg)}.t{fill:var(--ink);font:600 15px sans-serif}.a{fill:var(--soft);font:13px "
    "sans-serif}.n{fill:var(--ink);font:12px sans-serif}.g{stroke:var(--line);stroke-width:1}\n"
    ".tried{fill:var(--tried)}.preset{fill:none;stroke:var(--preset);stroke-width:2}"
    ".front{fill:var(--front)}.chosen{fill:var(--chosen)}\n"
    ".bar{stroke-width:1.2}.bar.preset{stroke:var(--preset)}.bar.front{stroke:var(--front)}"
    ".bar.chosen{stroke:var(--chosen)}\n";

static void put_text(FILE *f, const char *s)
{
	for (; *s; s++)
		switch (*s) {
		case '<':
			fputs("&lt;", f);
			break;
		case '>':
			fputs("&gt;", f);
			break;
		case '&':
			fputs("&amp;", f);
			break;
		case '"':
			fputs("&quot;", f);
			break;
		default:
			fputc((unsigned char)*s < 32 ? ' ' : *s, f);
		}
}

/* ---- axes ---- */

struct axis {
	double low, high, step;
	double from, to; /* pixels */
};

static double pixel(const struct axis *a, double v)
{
	return a->from + (v - a->low) / (a->high - a->low) * (a->to - a->from);
}

/* About five ticks at 1, 2 or 5 times a power of ten. */
static double tick_step(double range)
{
	double raw = range / 5, ten = pow(10, floor(log10(raw))), m = raw / ten;

	return ten * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static struct axis axis_of(const struct plx_draw *w, enum plx_figure fig, double from, double to)
{
	struct axis a = {INFINITY, -INFINITY, 1, from, to};

	for (uint32_t i = 0; i < w->n; i++) {
		const struct plx_draw_point *p = &w->point[i];

		a.low = fmin(a.low, p->f[fig] - p->half[fig]);
		a.high = fmax(a.high, p->f[fig] + p->half[fig]);
	}
	if (!isfinite(a.low) || !isfinite(a.high)) {
		a.low = 0;
		a.high = 1;
	}
	double pad = fmax((a.high - a.low) * 0.08, fmax(fabs(a.high) * 0.01, 1e-6));

	a.low -= pad;
	a.high += pad;
	a.step = tick_step(a.high - a.low);
	return a;
}

static void draw_axes(FILE *f, const struct axis *x, const struct axis *y, enum plx_figure fx,
                      enum plx_figure fy)
{
	for (double v = ceil(x->low / x->step) * x->step; v <= x->high; v += x->step)
		fprintf(
		    f,
		    "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
		    "<text class=\"a\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n",
		    pixel(x, v), pixel(x, v), y->from, y->to, pixel(x, v), y->from + 17,
		    fabs(v) < x->step / 2 ? 0 : v);
	for (double v = ceil(y->low / y->step) * y->step; v <= y->high; v += y->step)
		fprintf(f,
		        "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
		        "<text class=\"a\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
		        x->from, x->to, pixel(y, v), pixel(y, v), x->from - 6, pixel(y, v) + 4,
		        fabs(v) < y->step / 2 ? 0 : v);
	fprintf(f, "<text class=\"a\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s, %s</text>\n",
	        (x->from + x->to) / 2, y->from + 38, plx_figure_info[fx].label,
	        plx_figure_info[fx].unit);
	fprintf(f,
	        "<text class=\"a\" transform=\"translate(15 %.1f) rotate(-90)\" "
	        "text-anchor=\"middle\">%s, %s</text>\n",
	        (y->from + y->to) / 2, plx_figure_info[fy].label, plx_figure_info[fy].unit);
}

/* ---- points ---- */

static const char *class_of(enum plx_draw_kind k)
{
	static const char *const name[] = {"tried", "preset", "front", "chosen"};

	return name[k];
}

static void draw_bars(FILE *f, const struct plx_draw_point *p, const struct axis *x,
                      const struct axis *y, enum plx_figure fx, enum plx_figure fy)
{
	double cx = pixel(x, p->f[fx]), cy = pixel(y, p->f[fy]);

	if (p->half[fx] > 0)
		fprintf(
		    f, "<line class=\"bar %s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
		    class_of(p->kind), pixel(x, p->f[fx] - p->half[fx]),
		    pixel(x, p->f[fx] + p->half[fx]), cy, cy);
	if (p->half[fy] > 0)
		fprintf(
		    f, "<line class=\"bar %s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
		    class_of(p->kind), cx, cx, pixel(y, p->f[fy] - p->half[fy]),
		    pixel(y, p->f[fy] + p->half[fy]));
}

/* A mark with its figures as the tooltip. */
static void draw_mark(FILE *f, const struct plx_draw_point *p, double cx, double cy)
{
	if (p->kind == PLX_DRAW_PRESET)
		fprintf(f, "<rect class=\"preset\" x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\">",
		        cx - 4.5, cy - 4.5);
	else
		fprintf(f, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\">",
		        class_of(p->kind), cx, cy, p->kind == PLX_DRAW_TRIED ? 2.5 : 5.0);
	fputs("<title>", f);
	put_text(f, p->name);
	for (uint32_t i = 0; i < PLX_FIGURES; i++)
		fprintf(f, "\n%s %.4g %s", plx_figure_info[i].name, p->f[i],
		        plx_figure_info[i].unit);
	fprintf(f, "</title></%s>\n", p->kind == PLX_DRAW_PRESET ? "rect" : "circle");
}

/* ---- numbers beside points ---- */

#define MAX_LABELS 64u

struct labels {
	double x[MAX_LABELS], y[MAX_LABELS]; /* pixels: the left end of the base line */
	uint32_t n;
};

/* How much a number at x, y, some 14 pixels wide and 9 high, would cover. */
static uint32_t covered(const struct labels *l, const struct plx_draw *w, double x, double y,
                        const struct axis *ax, const struct axis *ay, size_t chart)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < l->n; i++)
		n += fabs(l->x[i] - x) < 14 && fabs(l->y[i] - y) < 10 ? 2 : 0;
	for (uint32_t i = 0; i < w->n; i++) {
		double cx = pixel(ax, w->point[i].f[charts[chart].x]);
		double cy = pixel(ay, w->point[i].f[charts[chart].y]);

		n += w->point[i].kind != PLX_DRAW_TRIED && cx > x - 5 && cx < x + 14 &&
		     cy > y - 14 && cy < y + 5;
	}
	return n;
}

/* At the first of some places around its point that covers least. */
static void draw_number(FILE *f, struct labels *l, const struct plx_draw *w, uint32_t i,
                        const struct axis *ax, const struct axis *ay, size_t chart)
{
	static const double off[][2] = {{7, -5},   {-14, -5}, {7, 14},   {-14, 14},
	                                {-4, -12}, {-4, 21},  {20, -12}, {-27, -12},
	                                {20, 21},  {-27, 21}, {-4, -25}, {-4, 34}};
	double cx = pixel(ax, w->point[i].f[charts[chart].x]);
	double cy = pixel(ay, w->point[i].f[charts[chart].y]);
	uint32_t least = UINT32_MAX, best = 0;

	if (l->n == MAX_LABELS)
		return;
	for (uint32_t k = 0; k < sizeof off / sizeof off[0]; k++) {
		uint32_t n = covered(l, w, cx + off[k][0], cy + off[k][1], ax, ay, chart);

		if (n < least) {
			least = n;
			best = k;
		}
	}
	l->x[l->n] = cx + off[best][0];
	l->y[l->n] = cy + off[best][1];
	fprintf(f, "<text class=\"n\" x=\"%.1f\" y=\"%.1f\">%u</text>\n", l->x[l->n], l->y[l->n],
	        w->point[i].number);
	l->n++;
}

static void draw_chart(FILE *f, const struct plx_draw *w, size_t c, double top)
{
	enum plx_figure fx = charts[c].x, fy = charts[c].y;
	struct axis x = axis_of(w, fx, LEFT, WIDTH - RIGHT);
	struct axis y = axis_of(w, fy, top + HEIGHT - BOTTOM, top + TOP);
	struct labels labels = {.n = 0};

	fprintf(f, "<text class=\"t\" x=\"%.0f\" y=\"%.0f\">%s</text>\n", LEFT, top + 22,
	        charts[c].title);
	draw_axes(f, &x, &y, fx, fy);
	for (uint32_t k = PLX_DRAW_TRIED; k <= PLX_DRAW_CHOSEN; k++)
		for (uint32_t i = 0; i < w->n; i++) {
			const struct plx_draw_point *p = &w->point[i];

			if (p->kind != k)
				continue;
			draw_bars(f, p, &x, &y, fx, fy);
			draw_mark(f, p, pixel(&x, p->f[fx]), pixel(&y, p->f[fy]));
		}
	for (uint32_t i = 0; i < w->n; i++)
		if (w->point[i].number)
			draw_number(f, &labels, w, i, &x, &y, c);
}

static void svg_begin(FILE *f, double height, const char *label)
{
	fprintf(f,
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
	        "aria-label=\"%s\">\n",
	        WIDTH, height, label);
}

/* ---- files ---- */

static int store(FILE *f, char **text, size_t *len, const char *path, struct plx_diag *d)
{
	bool bad = ferror(f) != 0;
	int err;

	if (fclose(f) != 0 || bad)
		err = plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", path);
	else
		err = plx_out_file(path, *text, *len, true, d);
	free(*text);
	return err;
}

int plx_draw_svg(const struct plx_draw *w, const char *path, struct plx_diag *d)
{
	size_t len = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", path);
	svg_begin(f, HEIGHT * N_CHARTS, "Pareto front");
	fprintf(f, "<style>%s</style>\n<rect class=\"bg\" width=\"%.0f\" height=\"%.0f\"/>\n",
	        style, WIDTH, HEIGHT * N_CHARTS);
	for (size_t c = 0; c < N_CHARTS; c++)
		draw_chart(f, w, c, HEIGHT * (double)c);
	fputs("</svg>\n", f);
	return store(f, &text, &len, path, d);
}

static const char page_style[] =
    "body{margin:0 auto;max-width:1500px;padding:12px;background:var(--bg);color:var(--ink);"
    "font:15px/1.45 sans-serif}h1{font-size:20px}svg{width:100%;height:auto;display:block}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));"
    "gap:8px}.scroll{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}"
    "th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:right}"
    "th:last-child,td:last-child{text-align:left}tr.chosen "
    "td{font-weight:600}p{color:var(--soft)}\n";

static void put_row(FILE *f, const struct plx_draw_point *p)
{
	fprintf(f, "<tr class=\"%s\"><td>", p->kind == PLX_DRAW_CHOSEN ? "chosen" : "plain");
	if (p->number)
		fprintf(f, "%u", p->number);
	else
		fputs("&#9633;", f);
	fputs("</td>", f);
	for (uint32_t i = 0; i < PLX_FIGURES; i++) {
		fprintf(f, "<td>%.4g", p->f[i]);
		if (p->half[i] > 0)
			fprintf(f, " &plusmn; %.2g", p->half[i]);
		fputs("</td>", f);
	}
	fputs("<td>", f);
	put_text(f, p->name);
	fputs("</td></tr>\n", f);
}

static void put_table(FILE *f, const struct plx_draw *w)
{
	fputs("<div class=\"scroll\"><table><thead><tr><th>#</th>", f);
	for (uint32_t i = 0; i < PLX_FIGURES; i++)
		fprintf(f, "<th>%s, %s</th>", plx_figure_info[i].name, plx_figure_info[i].unit);
	fputs("<th>knobs</th></tr></thead><tbody>\n", f);
	for (uint32_t i = 0; i < w->n; i++)
		if (w->point[i].kind >= PLX_DRAW_FRONT)
			put_row(f, &w->point[i]);
	for (uint32_t i = 0; i < w->n; i++)
		if (w->point[i].kind == PLX_DRAW_PRESET)
			put_row(f, &w->point[i]);
	fputs("</tbody></table></div>\n", f);
}

int plx_draw_page(const struct plx_draw *w, const char *path, struct plx_diag *d)
{
	size_t len = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", path);
	fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
	      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
	      "<meta name=\"color-scheme\" content=\"light dark\"><title>",
	      f);
	put_text(f, w->title);
	fprintf(f, "</title>\n<style>%s%s</style></head><body>\n<h1>", style, page_style);
	put_text(f, w->title);
	fputs("</h1><p>", f);
	put_text(f, w->about);
	fputs(
	    "</p>\n<p>Numbered circles: the front. Green: chosen by the budgets. Squares: presets. "
	    "Dots: tried on the way. Bars and &plusmn;: 95 % intervals.</p>\n"
	    "<div class=\"charts\">\n",
	    f);
	for (size_t c = 0; c < N_CHARTS; c++) {
		svg_begin(f, HEIGHT, charts[c].title);
		draw_chart(f, w, c, 0);
		fputs("</svg>\n", f);
	}
	fputs("</div>\n", f);
	put_table(f, w);
	fputs("</body></html>\n", f);
	return store(f, &text, &len, path, d);
}
