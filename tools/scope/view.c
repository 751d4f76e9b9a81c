/* Pictures of a snapshot as text. */
#include "tools/scope/view.h"

#include <inttypes.h>
#include <string.h>

#include "fw/base/clock.h"
#include "fw/base/config.h"

#define BAR       20
#define MOST_LIST 200

static const char *end_name(uint32_t end)
{
	static const char *const name[] = {"runs", "done", "rejected", "cancelled"};

	return name[end < 4 ? end : 0];
}

static uint64_t since(const struct plx_snap *before, const struct plx_snap *now, uint32_t i,
                      enum plx_metric m)
{
	return now->page[i].counter[m] - (before != NULL ? before->page[i].counter[m] : 0);
}

static uint64_t sum_since(const struct plx_snap *before, const struct plx_snap *now,
                          enum plx_metric m)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < now->n_pages; i++)
		n += since(before, now, i, m);
	return n;
}

/* The histogram of what came between two snapshots. */
static void hist_since(struct plx_hist *h, const struct plx_snap *before,
                       const struct plx_snap *now, uint32_t i, enum plx_hist_idx x)
{
	*h = now->page[i].hist[x];
	if (before == NULL)
		return;
	const struct plx_hist *o = &before->page[i].hist[x];

	h->count -= o->count;
	for (uint32_t b = 0; b < PLX_HIST_BINS; b++)
		h->bin[b] -= o->bin[b];
}

static void put_quantiles(struct plx_text *out, const struct plx_hist *h)
{
	plx_text_add(out, "p50 ");
	plx_text_ns(out, plx_hist_quantile(h, 0.5));
	plx_text_add(out, ", p99 ");
	plx_text_ns(out, plx_hist_quantile(h, 0.99));
}

static void stage_line(struct plx_text *out, const struct plx_snap *before,
                       const struct plx_snap *now, uint32_t i)
{
	static const char mark[PLX_REGIME_COUNT] = {'#', '.', '!', '-'};
	static struct plx_hist turn;
	const struct plx_page *p = &now->page[i];
	uint64_t ns[PLX_REGIME_COUNT], sum = 0;
	char bar[BAR + 1];
	uint32_t n = 0;

	for (uint32_t r = 0; r < PLX_REGIME_COUNT; r++) {
		ns[r] = p->regime_ns[r] - (before != NULL ? before->page[i].regime_ns[r] : 0);
		sum += ns[r];
	}
	memset(bar, '.', BAR);
	bar[BAR] = '\0';
	for (uint32_t r = 0; r < PLX_REGIME_COUNT && sum > 0; r++)
		for (uint64_t k = (ns[r] * BAR + sum / 2) / sum;
		     r != PLX_REGIME_IDLE && k > 0 && n < BAR; k--)
			bar[n++] = mark[r];
	plx_text_add(out, "  %3" PRIu32 "  %-9s %s", p->lcore, p->name, bar);
	for (uint32_t r = 0; r < PLX_REGIME_COUNT; r++)
		plx_text_add(out, " %5.1f", sum > 0 ? 100.0 * (double)ns[r] / (double)sum : 0.0);
	hist_since(&turn, before, now, i, PLX_H_TURN);
	plx_text_add(out, "  ");
	put_quantiles(out, &turn);
	plx_text_add(out, "\n");
}

static void requests(struct plx_text *out, const struct plx_snap *before,
                     const struct plx_snap *now, double s)
{
	uint64_t g[PLX_G_COUNT] = {0};

	for (uint32_t i = 0; i < now->n_pages; i++)
		for (uint32_t k = 0; k < PLX_G_COUNT; k++)
			g[k] += now->page[i].gauge[k];
	plx_text_add(out,
	             "\nrequests: %" PRIu64 " in flight, %" PRIu64 " running, %" PRIu64
	             " waiting; %" PRIu64 " done, %" PRIu64 " rejected, %" PRIu64 " cancelled\n",
	             g[PLX_G_IN_FLIGHT], g[PLX_G_RUNNING], g[PLX_G_WAITING],
	             sum_since(before, now, PLX_M_REQ_DONE),
	             sum_since(before, now, PLX_M_REQ_REJECTED),
	             sum_since(before, now, PLX_M_REQ_CANCELLED));
	plx_text_add(out,
	             "tokens:   %.1f/s generated, %.1f/s of prompts run, %.1f/s of them found "
	             "cached\nKV:       %" PRIu64 " of %" PRIu64 " blocks free\n",
	             (double)sum_since(before, now, PLX_M_BATCH_DECODE) / s,
	             (double)sum_since(before, now, PLX_M_BATCH_PREFILL) / s,
	             (double)sum_since(before, now, PLX_M_BATCH_CACHED) / s, g[PLX_G_KV_FREE],
	             g[PLX_G_KV_BLOCKS]);
}

static void latencies(struct plx_text *out, const struct plx_snap *before,
                      const struct plx_snap *now)
{
	static const enum plx_hist_idx shown[] = {PLX_H_FIRST, PLX_H_ITL, PLX_H_QUEUE, PLX_H_STEP,
	                                          PLX_H_E2E};
	static struct plx_hist h;

	for (size_t k = 0; k < sizeof(shown) / sizeof(shown[0]); k++)
		for (uint32_t i = 0; i < now->n_pages; i++) {
			hist_since(&h, before, now, i, shown[k]);
			if (h.count == 0)
				continue;
			plx_text_add(out, "%-9s %-8s %8" PRIu64 " times, ", plx_hist_name(shown[k]),
			             now->page[i].name, h.count);
			put_quantiles(out, &h);
			plx_text_add(out, "\n");
		}
}

static void thieves(struct plx_text *out, const struct plx_thief *thief, uint32_t n)
{
	uint64_t best = 0;
	uint32_t at = 0;

	for (uint32_t i = 0; i < n; i++)
		if (thief[i].end_ns - thief[i].begin_ns > best) {
			best = thief[i].end_ns - thief[i].begin_ns;
			at = i;
		}
	plx_text_add(out, "\nkernel:   %" PRIu32 " times on polling lcores", n);
	if (best > 0) {
		plx_text_add(out, "; longest %.16s (%" PRIu32 ") on lcore %" PRIu32 ", ",
		             thief[at].name, thief[at].pid, thief[at].cpu);
		plx_text_ns(out, best);
	}
	plx_text_add(out, "\n");
}

void plx_view_top(struct plx_text *out, const struct plx_snap *before, const struct plx_snap *now,
                  const struct plx_thief *thief, uint32_t n_thieves)
{
	uint64_t from = before != NULL ? before->ns : now->head.start_ns;
	double s = now->ns > from ? (double)(now->ns - from) / 1e9 : 1e-9;

	plx_text_add(out, "polluxd %s, pid %" PRId32 ", model %s: %s, ", now->head.board,
	             now->head.pid, now->head.model, plx_scope_life_name(now->life));
	plx_text_ns(out, now->ns - now->head.start_ns);
	plx_text_add(out, "\n\nlcore  stage     %-*s  busy  idle  full  keep  a turn's time\n", BAR,
	             "");
	for (uint32_t i = 0; i < now->n_pages; i++)
		stage_line(out, before, now, i);
	requests(out, before, now, s);
	latencies(out, before, now);
	for (uint32_t i = 0; i < now->n_pages; i++)
		if (now->page[i].kind == PLX_STAGE_ACCEL)
			plx_text_add(out,
			             "device    %-8s %" PRIu64 " steps, busy %.1f %%, %" PRIu64
			             " faults\n",
			             now->page[i].name, since(before, now, i, PLX_M_DEV_STEPS),
			             (double)since(before, now, i, PLX_M_DEV_NS) / 1e7 / s,
			             since(before, now, i, PLX_M_DEV_FAULTS));
	if (thief != NULL)
		thieves(out, thief, n_thieves);
}

static void put_padded(struct plx_text *out, uint64_t ns)
{
	char cell[32];
	struct plx_text t;

	plx_text_init(&t, cell, sizeof(cell));
	if (ns != 0)
		plx_text_ns(&t, ns);
	plx_text_add(out, " %10s", ns != 0 ? cell : "-");
}

void plx_view_list(struct plx_text *out, const struct plx_snap *s, const struct plx_tokens *t)
{
	uint32_t from = t->n_req > MOST_LIST ? t->n_req - MOST_LIST : 0;

	plx_text_add(out, "%-18s %10s %6s %6s %6s %10s %10s %10s  %s\n", "request", "began",
	             "prompt", "cached", "tokens", "first", "worst gap", "took", "");
	for (uint32_t i = from; i < t->n_req; i++) {
		const struct plx_request_times *r = &t->req[i];
		char name[32];
		struct plx_text n;

		plx_text_init(&n, name, sizeof(name));
		plx_text_add(&n, "%" PRIu32 "-%" PRIu64, r->session, r->req_id);
		plx_text_add(out, "%-18s", name);
		put_padded(out, r->whole_ns != 0 ? s->ns - r->whole_ns : 0);
		plx_text_add(out, " %6" PRIu32 " %6" PRIu32 " %6" PRIu32, r->n_prompt, r->n_cached,
		             r->n_tokens);
		put_padded(out, r->whole_ns != 0 && r->first_ns > r->whole_ns
		                    ? r->first_ns - r->whole_ns
		                    : 0);
		put_padded(out, r->worst_ns);
		put_padded(
		    out, r->whole_ns != 0 && r->end_ns > r->whole_ns ? r->end_ns - r->whole_ns : 0);
		plx_text_add(out, "  %s\n", end_name(r->end));
	}
}

void plx_view_event(struct plx_text *out, const struct plx_snap *s, const struct plx_scope_ev *e,
                    uint64_t from_ns)
{
	plx_text_add(out, "%12.3f ms  %-8s %-12s", (double)(int64_t)(e->e.ns - from_ns) / 1e6,
	             s->page[e->page].name, plx_trace_name(e->e.kind));
	if (e->e.kind == PLX_TR_STEP) {
		plx_text_add(out, " %" PRIu32 " tokens of %" PRIu32 " sequences in ", e->e.n,
		             e->e.index);
		plx_text_ns(out, e->e.b - e->e.a);
	} else if (e->e.kind == PLX_TR_STALL || e->e.kind == PLX_TR_LONG) {
		plx_text_add(out, " ");
		plx_text_ns(out, e->e.b - e->e.a);
	} else {
		plx_text_add(out, " %" PRIu32 "-%" PRIu64 "  n %" PRIu32 "  index %" PRIu32,
		             e->e.session, e->e.req_id, e->e.n, e->e.index);
	}
	plx_text_add(out, "\n");
}

/* ---- the trace ---- */

#define KERNEL_TRACK 1000

static double us(uint64_t ns)
{
	return (double)ns / 1e3;
}

static void name_tracks(struct plx_text *out, const struct plx_snap *s)
{
	plx_text_add(out, "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":"
	                  "\"polluxd\"}},\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":2,"
	                  "\"args\":{\"name\":\"kernel on polling lcores\"}}");
	for (uint32_t i = 0; i < s->n_pages; i++)
		plx_text_add(out,
		             ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32
		             ",\"args\":{\"name\":\"%s on lcore %" PRIu32 "\"}}",
		             i, s->page[i].name, s->page[i].lcore);
}

static void trace_span(struct plx_text *out, const char *name, uint32_t pid, uint32_t tid,
                       uint64_t begin, uint64_t end)
{
	plx_text_add(out, ",\n{\"name\":");
	plx_text_quoted(out, name);
	plx_text_add(
	    out, ",\"ph\":\"X\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32 ",\"ts\":%.3f,\"dur\":%.3f}",
	    pid, tid, us(begin), us(end > begin ? end - begin : 0));
}

static void trace_request(struct plx_text *out, const struct plx_trace_ev *e)
{
	plx_text_add(out,
	             ",\n{\"name\":\"request %" PRIu32 "-%" PRIu64
	             "\",\"cat\":\"request\",\"ph\":\"%s\",\"id\":\"%" PRIu32 "-%" PRIu64
	             "\",\"pid\":1,\"tid\":0,\"ts\":%.3f}",
	             e->session, e->req_id, e->kind == PLX_TR_REQ_WHOLE ? "b" : "e", e->session,
	             e->req_id, us(e->ns));
}

static void trace_mark(struct plx_text *out, const struct plx_scope_ev *ev)
{
	const struct plx_trace_ev *e = &ev->e;

	plx_text_add(out,
	             ",\n{\"name\":\"%s\",\"ph\":\"i\",\"s\":\"t\",\"pid\":1,\"tid\":%" PRIu32
	             ",\"ts\":%.3f,\"args\":{\"request\":\"%" PRIu32 "-%" PRIu64
	             "\",\"index\":%" PRIu32 ",\"n\":%" PRIu32 "}}",
	             plx_trace_name(e->kind), ev->page, us(e->ns), e->session, e->req_id, e->index,
	             e->n);
}

void plx_view_trace(struct plx_text *out, const struct plx_snap *s, const struct plx_thief *thief,
                    uint32_t n_thieves)
{
	plx_text_add(out, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
	name_tracks(out, s);
	for (uint32_t i = 0; i < s->n_evs; i++) {
		const struct plx_scope_ev *ev = &s->ev[i];

		if (ev->e.kind == PLX_TR_STEP || ev->e.kind == PLX_TR_STALL ||
		    ev->e.kind == PLX_TR_LONG)
			trace_span(out, plx_trace_name(ev->e.kind), 1, ev->page, ev->e.a, ev->e.b);
		else
			trace_mark(out, ev);
		if (ev->e.kind == PLX_TR_REQ_WHOLE || ev->e.kind == PLX_TR_REQ_GONE)
			trace_request(out, &ev->e);
	}
	for (uint32_t i = 0; i < n_thieves; i++) {
		char name[PLX_THIEF_NAME_BYTES + 1] = {0};

		memcpy(name, thief[i].name, PLX_THIEF_NAME_BYTES);
		trace_span(out, name, 2, KERNEL_TRACK + thief[i].cpu, thief[i].begin_ns,
		           thief[i].end_ns);
	}
	plx_text_add(out, "\n]}\n");
}
