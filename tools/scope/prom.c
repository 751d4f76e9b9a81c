/* Writes scrapes; see prom.h. */
#include "tools/scope/prom.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fw/base/clock.h"
#include "fw/base/config.h"
#include "tools/scope/exemplar.h"
#include "tools/scope/prom_other.h"

#define NAME_BYTES 64

struct out {
	struct plx_text *t;
	const struct plx_snap *s;
	struct plx_exemplars *ex; /* NULL in Prometheus text */
	bool open;
};

/* "DEV_NS" with unit "ns" is "dev_seconds"; others keep their name. */
static void make_name(char out[NAME_BYTES], const char *name, const char *unit, const char *tail)
{
	size_t n = strlen(name);
	bool ns = strcmp(unit, "ns") == 0;

	if (ns && n > 3 && strcmp(name + n - 3, "_NS") == 0)
		n -= 3;
	snprintf(out, NAME_BYTES, "plx_%.*s%s%s", (int)n, name, ns ? "_seconds" : "", tail);
	for (char *c = out; *c != '\0'; c++)
		*c = (char)tolower((unsigned char)*c);
}

bool plx_prom_owner(const char *metric, uint32_t stage_kind)
{
	static const struct {
		const char *head;
		enum plx_stage_kind kind;
	} row[] = {{"IO_", PLX_STAGE_IO},         {"SESSION_", PLX_STAGE_IO},
	           {"TX_", PLX_STAGE_IO},         {"REQ_OPENED", PLX_STAGE_IO},
	           {"REQ_NO_ROOM", PLX_STAGE_IO}, {"REQ_RING_FULL", PLX_STAGE_IO},
	           {"HS_DONE", PLX_STAGE_HS},     {"HS_FAILED", PLX_STAGE_HS},
	           {"TOK_", PLX_STAGE_TOK},       {"BATCH_", PLX_STAGE_BATCH},
	           {"REQ_", PLX_STAGE_BATCH},     {"REJ_", PLX_STAGE_BATCH},
	           {"FLEET_", PLX_STAGE_BATCH},   {"DRAFT_", PLX_STAGE_BATCH},
	           {"TTFT_", PLX_STAGE_BATCH},    {"STEP_", PLX_STAGE_BATCH},
	           {"DEV_", PLX_STAGE_ACCEL},     {"EXPERT_", PLX_STAGE_ACCEL}};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		if (strncmp(metric, row[i].head, strlen(row[i].head)) == 0)
			return (uint32_t)row[i].kind == stage_kind;
	return false;
}

/* HELP and TYPE. OpenMetrics names a counter's family without its _total. */
static void head(const struct out *o, const char *name, const char *type, const char *help)
{
	size_t n = strlen(name);

	if (o->open && strcmp(type, "counter") == 0 && n > 6)
		n -= 6;
	plx_text_add(o->t, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)n, name, help, (int)n, name,
	             type);
}

static double in_unit(uint64_t v, const char *unit)
{
	return strcmp(unit, "ns") == 0 ? (double)v / 1e9 : (double)v;
}

/* A value of a stage; whole numbers are written as such. */
static void sample(const struct out *o, const char *name, const struct plx_page *p, uint64_t v,
                   const char *unit)
{
	if (strcmp(unit, "ns") == 0)
		plx_text_add(o->t, "%s{stage=\"%s\"} %.9f\n", name, p->name, in_unit(v, unit));
	else
		plx_text_add(o->t, "%s{stage=\"%s\"} %" PRIu64 "\n", name, p->name, v);
}

static void counters(const struct out *o)
{
	char name[NAME_BYTES];

	for (uint32_t m = 0; m < PLX_M_COUNT; m++) {
		const char *said = plx_metric_name((enum plx_metric)m);
		const char *unit = plx_metric_unit((enum plx_metric)m);

		make_name(name, said, unit, "_total");
		head(o, name, "counter", plx_metric_help((enum plx_metric)m));
		for (uint32_t i = 0; i < o->s->n_pages; i++) {
			const struct plx_page *p = &o->s->page[i];

			if (p->counter[m] != 0 || plx_prom_owner(said, p->kind))
				sample(o, name, p, p->counter[m], unit);
		}
	}
}

static void gauges(const struct out *o)
{
	char name[NAME_BYTES];

	for (uint32_t g = 0; g < PLX_G_COUNT; g++) {
		const char *unit = plx_gauge_unit((enum plx_gauge)g);

		make_name(name, plx_gauge_name((enum plx_gauge)g), unit, "");
		head(o, name, "gauge", plx_gauge_help((enum plx_gauge)g));
		for (uint32_t i = 0; i < o->s->n_pages; i++)
			if (o->s->page[i].kind == PLX_STAGE_BATCH)
				sample(o, name, &o->s->page[i], o->s->page[i].gauge[g], unit);
	}
}

static void exemplar(const struct out *o, uint32_t hist, uint64_t low_ns, uint64_t high_ns)
{
	struct plx_exemplar e;

	if (o->ex == NULL || !plx_exemplar_find(o->ex, hist, low_ns, high_ns, &e))
		return;
	plx_text_add(o->t,
	             " # {request=\"%" PRIu32 "-%" PRIu64 "\",token=\"%" PRIu32 "\"} %.9f %.3f",
	             e.session, e.req_id, e.token, (double)e.value_ns / 1e9,
	             (double)(e.ns - o->s->ns + o->s->real_ns) / 1e9);
}

/* Every power of two from 1 us to 137 s; below and between, the page knows more. */
void plx_prom_buckets(struct plx_text *t, const char *name, const char *labels,
                      const struct plx_hist *h, void (*after)(void *, uint64_t, uint64_t),
                      void *ctx)
{
	uint64_t n = 0, low = 0;
	uint32_t b = 0;

	for (uint32_t exp = 10; exp <= PLX_HIST_MAX_EXP; exp++) {
		uint64_t edge = UINT64_C(1) << exp;

		/* The last bin holds what is beyond the range as well. */
		for (; b < PLX_HIST_BINS - 1 && plx_hist_low_ns(b + 1) <= edge; b++)
			n += h->bin[b];
		plx_text_add(t, "%s_bucket{%s,le=\"%.9g\"} %" PRIu64, name, labels,
		             (double)edge / 1e9, n);
		if (after != NULL)
			after(ctx, low, edge);
		plx_text_add(t, "\n");
		low = edge;
	}
	plx_text_add(t, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, labels, h->count);
	plx_text_add(t, "%s_sum{%s} %.9f\n%s_count{%s} %" PRIu64 "\n", name, labels,
	             (double)h->sum_ns / 1e9, name, labels, h->count);
}

struct after_ctx {
	const struct out *o;
	uint32_t hist;
};

static void add_exemplar(void *ctx, uint64_t low, uint64_t high)
{
	const struct after_ctx *a = ctx;

	exemplar(a->o, a->hist, low, high);
}

static void histograms(const struct out *o)
{
	char name[NAME_BYTES], labels[64];

	for (uint32_t h = 0; h < PLX_H_COUNT; h++) {
		struct after_ctx ctx = {o, h};

		make_name(name, plx_hist_name((enum plx_hist_idx)h), "", "_seconds");
		head(o, name, "histogram", plx_hist_help((enum plx_hist_idx)h));
		for (uint32_t i = 0; i < o->s->n_pages; i++) {
			const struct plx_page *p = &o->s->page[i];

			if (p->hist[h].count == 0)
				continue;
			snprintf(labels, sizeof(labels), "stage=\"%s\"", p->name);
			plx_prom_buckets(o->t, name, labels, &p->hist[h], add_exemplar, &ctx);
		}
	}
}

static void lcores(const struct out *o)
{
	head(o, "plx_regime_seconds_total", "counter", "time of a stage by what its turns were");
	for (uint32_t i = 0; i < o->s->n_pages; i++) {
		const struct plx_page *p = &o->s->page[i];

		for (uint32_t r = 0; r < PLX_REGIME_COUNT; r++)
			plx_text_add(o->t,
			             "plx_regime_seconds_total{stage=\"%s\",lcore=\"%" PRIu32
			             "\",regime=\"%s\"} %.9f\n",
			             p->name, p->lcore, plx_regime_name((enum plx_regime)r),
			             (double)p->regime_ns[r] / 1e9);
	}
	head(o, "plx_turns_total", "counter",
	     "turns of a stage; stands still when its lcore hangs");
	for (uint32_t i = 0; i < o->s->n_pages; i++)
		sample(o, "plx_turns_total", &o->s->page[i], o->s->page[i].heartbeat, "");
	head(o, "plx_trace_events_total", "counter", "events written to a stage's ring");
	for (uint32_t i = 0; i < o->s->n_pages; i++)
		sample(o, "plx_trace_events_total", &o->s->page[i], o->s->page[i].trace_seq, "");
}

static void process(const struct out *o)
{
	head(o, "plx_up", "gauge", "1 while polluxd serves");
	plx_text_add(o->t, "plx_up %d\n", o->s->life == PLX_SCOPE_SERVING);
	head(o, "plx_start_time_seconds", "gauge", "when polluxd made its pages, in Unix time");
	plx_text_add(o->t, "plx_start_time_seconds %.3f\n", (double)o->s->head.start_real / 1e9);
	head(o, "plx_build", "gauge", "which board and model; always 1");
	plx_text_add(o->t, "plx_build{board=");
	plx_text_quoted(o->t, o->s->head.board);
	plx_text_add(o->t, ",model=");
	plx_text_quoted(o->t, o->s->head.model);
	plx_text_add(o->t, "} 1\n");
}

void plx_prom_write(struct plx_text *t, const struct plx_snap *s, bool open, unsigned int names)
{
	static struct plx_exemplars ex;
	struct out o = {.t = t, .s = s, .open = open, .ex = open ? &ex : NULL};
	bool lives = s->life == PLX_SCOPE_SERVING || s->life == PLX_SCOPE_STARTING;

	process(&o);
	if (lives) {
		if (open)
			plx_exemplars_gather(&ex, s);
		lcores(&o);
		gauges(&o);
		counters(&o);
		histograms(&o);
	}
	if (lives && (names & PLX_PROM_VLLM))
		plx_prom_vllm(t, s, open);
	if (lives && (names & PLX_PROM_GEN_AI))
		plx_prom_gen_ai(t, s, open);
	if (open)
		plx_text_add(t, "# EOF\n");
}

static void doc_row(struct plx_text *t, const char *name, const char *type, const char *unit,
                    const char *help)
{
	plx_text_add(t, "| `%s` | %s | %s | %s |\n", name, type, unit, help);
}

void plx_prom_doc(struct plx_text *t)
{
	char name[NAME_BYTES];

	plx_text_add(t, "# Metrics\n\nMade from `fw/base/metrics.def` by `plx-scope metrics`. All "
	                "but the first three have the label `stage`;\n`plx_regime_seconds_total` "
	                "has `lcore` and `regime` as well.\n\n| name | type | unit | what |\n"
	                "|---|---|---|---|\n");
	doc_row(t, "plx_up", "gauge", "", "1 while polluxd serves");
	doc_row(t, "plx_start_time_seconds", "gauge", "s", "when polluxd made its pages");
	doc_row(t, "plx_build", "gauge", "", "which board and model; always 1");
	doc_row(t, "plx_regime_seconds_total", "counter", "s",
	        "time by what the turns were: busy, idle, backpressured, housekeeping");
	doc_row(t, "plx_turns_total", "counter", "turns", "turns of a stage");
	doc_row(t, "plx_trace_events_total", "counter", "events", "events written to its ring");
	for (uint32_t g = 0; g < PLX_G_COUNT; g++) {
		const char *unit = plx_gauge_unit((enum plx_gauge)g);

		make_name(name, plx_gauge_name((enum plx_gauge)g), unit, "");
		doc_row(t, name, "gauge", strcmp(unit, "ns") == 0 ? "s" : unit,
		        plx_gauge_help((enum plx_gauge)g));
	}
	for (uint32_t h = 0; h < PLX_H_COUNT; h++) {
		make_name(name, plx_hist_name((enum plx_hist_idx)h), "", "_seconds");
		doc_row(t, name, "histogram", "s", plx_hist_help((enum plx_hist_idx)h));
	}
	for (uint32_t m = 0; m < PLX_M_COUNT; m++) {
		const char *unit = plx_metric_unit((enum plx_metric)m);

		make_name(name, plx_metric_name((enum plx_metric)m), unit, "_total");
		doc_row(t, name, "counter", strcmp(unit, "ns") == 0 ? "s" : unit,
		        plx_metric_help((enum plx_metric)m));
	}
}
