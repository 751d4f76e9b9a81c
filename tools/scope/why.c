/* Splits a token's time and finds what to blame; see why.h. */
#include "tools/scope/why.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/config.h"

#define UNKNOWN        UINT32_MAX
#define MOST_USUAL     4096   /* tokens that a median is made of */
#define LATE_LEAST     200000 /* below that nobody calls a token late */
#define BLAME_SHARE    3      /* a cause has to explain a third of what is too much */
#define BLAME_TOGETHER 2      /* causes of one lcore, half of it */
#define STORM_PER_MS   4      /* interrupts of one kind, far above any tick */
#define STORM_SHARE    5      /* of a storm a fifth */
#define MOST_GROUPS    64     /* thieves within one part */
#define PRINT_LEAST    10000  /* the kernel's doings shorter than that are not worth a line */
#define LARGE_STEP     2      /* a step is large that has so many times the usual tokens */

const char *plx_why_part_name(enum plx_why_part p)
{
	static const char *const name[] = {
	    "receive", "wait for tok", "encode", "wait for batch", "schedule", "wait for device",
	    "device",  "collect",      "text",   "wait for io",    "send"};

	return p < PLX_WHY_PARTS ? name[p] : "unknown";
}

const char *plx_why_cause_name(enum plx_why_cause c)
{
	static const char *const name[] = {"usual",     "task",        "interrupt",  "fault",
	                                   "syscall",   "slow device", "large step", "queue",
	                                   "full ring", "lcore",       "stage"};

	return c < PLX_WHY_CAUSES ? name[c] : "unknown";
}

const char *plx_thief_name(uint32_t kind)
{
	static const char *const name[] = {"unknown", "task",    "interrupt", "soft interrupt",
	                                   "fault",   "syscall", "migration"};

	return name[kind < PLX_THIEF_KIND_END ? kind : 0];
}

/* The moments between parts: each as it was, 0 where it is not known. */
static void moments(uint64_t at[PLX_WHY_PARTS + 1], const struct plx_token_times *t,
                    const struct plx_request_times *r)
{
	memset(at, 0, (PLX_WHY_PARTS + 1) * sizeof(*at));
	if (t->index == 0 && r != NULL) {
		at[PLX_WHY_RECEIVE] = r->rx_ns;
		at[PLX_WHY_TOK_WAIT] = r->whole_ns;
		at[PLX_WHY_ENCODE] = r->encode_ns;
		at[PLX_WHY_ADMIT] = r->encoded_ns;
	}
	at[PLX_WHY_SCHEDULE] = t->before_ns;
	at[PLX_WHY_DEV_WAIT] = t->given_ns;
	at[PLX_WHY_DEVICE] = t->start_ns;
	at[PLX_WHY_COLLECT] = t->device_ns;
	at[PLX_WHY_TEXT] = t->batch_ns;
	at[PLX_WHY_IO_WAIT] = t->text_ns;
	at[PLX_WHY_SEND] = t->io_ns;
	at[PLX_WHY_PARTS] = t->sent_ns;
}

static void split(struct plx_why *w, const struct plx_why_in *in, const struct plx_token_times *t)
{
	uint64_t at[PLX_WHY_PARTS + 1], last = 0;

	moments(at, t, plx_tokens_request(in->tokens, t->session, t->req_id));
	for (uint32_t p = 0; p <= PLX_WHY_PARTS; p++) {
		/* A step may be given before the token before it is done: that costs nothing. */
		if (at[p] < last)
			at[p] = last;
		w->at_ns[p] = last = at[p];
	}
	for (uint32_t p = 0; p < PLX_WHY_PARTS; p++)
		w->ns[p] = w->at_ns[p] != 0 ? w->at_ns[p + 1] - w->at_ns[p] : 0;
	uint32_t first = 0;

	while (first < PLX_WHY_PARTS && w->at_ns[first] == 0)
		first++;
	w->total_ns = w->at_ns[PLX_WHY_PARTS] - w->at_ns[first];
}

static uint32_t page_of(const struct plx_snap *s, const char *name)
{
	for (uint32_t i = 0; i < s->n_pages; i++)
		if (strcmp(s->page[i].name, name) == 0)
			return i;
	return UNKNOWN;
}

/* The stage whose turn it was. A wait is for the stage that would end it. */
static void name_pages(struct plx_why *w, const struct plx_why_in *in,
                       const struct plx_token_times *t)
{
	uint32_t tok = t->text_ns != 0 ? t->tok_page : page_of(in->snap, "tok");
	uint32_t accel = t->start_ns != 0 ? t->accel_page : page_of(in->snap, "accel");
	uint32_t io = t->io_ns != 0 ? t->io_page : page_of(in->snap, "io");
	uint32_t page[PLX_WHY_PARTS] = {[PLX_WHY_RECEIVE] = io,
	                                [PLX_WHY_TOK_WAIT] = tok,
	                                [PLX_WHY_ENCODE] = tok,
	                                [PLX_WHY_ADMIT] = t->batch_page,
	                                [PLX_WHY_SCHEDULE] = t->batch_page,
	                                [PLX_WHY_DEV_WAIT] = accel,
	                                [PLX_WHY_DEVICE] = accel,
	                                [PLX_WHY_COLLECT] = t->batch_page,
	                                [PLX_WHY_TEXT] = tok,
	                                [PLX_WHY_IO_WAIT] = io,
	                                [PLX_WHY_SEND] = io};

	memcpy(w->page, page, sizeof(page));
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Medians of each part over the tokens of t's sort, up to the newest MOST_USUAL; [n] is of totals,
 * and *step_tokens of their steps. */
static void usual(struct plx_why *w, const struct plx_why_in *in, const struct plx_token_times *t,
                  uint64_t *step_tokens)
{
	static uint64_t v[PLX_WHY_PARTS + 2][MOST_USUAL];
	uint32_t n = 0;

	for (uint32_t i = in->tokens->n_tok; i-- > 0 && n < MOST_USUAL;) {
		const struct plx_token_times *o = &in->tokens->tok[i];
		struct plx_why one;

		if ((o->index == 0) != (t->index == 0) || o->sent_ns == 0)
			continue;
		split(&one, in, o);
		for (uint32_t p = 0; p < PLX_WHY_PARTS; p++)
			v[p][n] = one.ns[p];
		v[PLX_WHY_PARTS][n] = one.total_ns;
		v[PLX_WHY_PARTS + 1][n] = o->step_tokens;
		n++;
	}
	for (uint32_t p = 0; p < PLX_WHY_PARTS + 2; p++)
		qsort(v[p], n, sizeof(v[p][0]), by_value);
	for (uint32_t p = 0; p < PLX_WHY_PARTS; p++)
		w->usual_ns[p] = n > 0 ? v[p][n / 2] : 0;
	w->usual_total_ns = n > 0 ? v[PLX_WHY_PARTS][n / 2] : 0;
	*step_tokens = n > 0 ? v[PLX_WHY_PARTS + 1][n / 2] : 0;
}

static uint64_t overlap(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
	uint64_t from = a > b ? a : b, to = a_end < b_end ? a_end : b_end;

	return to > from ? to - from : 0;
}

/* A storm of soft interrupts goes on in a task of the kernel's. */
static bool is_softirq_task(const struct plx_thief *t)
{
	return strncmp(t->name, "ksoftirqd/", 10) == 0;
}

static enum plx_why_cause cause_of(const struct plx_thief *t)
{
	switch (t->kind) {
	case PLX_THIEF_SCHED:
		return is_softirq_task(t) ? PLX_WHY_INTERRUPT : PLX_WHY_TASK;
	case PLX_THIEF_IRQ:
	case PLX_THIEF_SOFTIRQ:
		return PLX_WHY_INTERRUPT;
	case PLX_THIEF_FAULT:
		return PLX_WHY_FAULT;
	case PLX_THIEF_SYSCALL:
		return PLX_WHY_SYSCALL;
	default:
		return PLX_WHY_USUAL;
	}
}

/* Whether a part waits for that lcore: the stage's own, and while the device runs its workers'. */
static bool waits_for(const struct plx_why *w, const struct plx_why_in *in, uint32_t part,
                      uint32_t lcore)
{
	uint32_t own = w->page[part];

	if (own < in->snap->n_pages && in->snap->page[own].lcore == lcore)
		return true;
	for (uint32_t i = 0; i < in->snap->n_pages && part == PLX_WHY_DEVICE; i++)
		if (in->snap->page[i].kind == PLX_STAGE_WORKER && in->snap->page[i].lcore == lcore)
			return true;
	return false;
}

/* What one thief did within the part, all its times together. */
struct group {
	const struct plx_thief *longest;
	uint64_t longest_ns, ns;
	uint32_t times;
};

static bool is_same(const struct plx_thief *a, const struct plx_thief *b)
{
	return a->cpu == b->cpu && a->kind == b->kind &&
	       strncmp(a->name, b->name, sizeof(a->name)) == 0;
}

/* A group of these that t belongs to, or a new one; NULL: there are too many. */
static struct group *group_of(struct group *g, uint32_t *n, const struct plx_thief *t)
{
	for (uint32_t i = 0; i < *n; i++)
		if (is_same(g[i].longest, t))
			return &g[i];
	if (*n == MOST_GROUPS)
		return NULL;
	g[*n] = (struct group){.longest = t};
	return &g[(*n)++];
}

static bool is_interrupt(const struct plx_thief *t)
{
	return t->kind == PLX_THIEF_IRQ || t->kind == PLX_THIEF_SOFTIRQ;
}

/* A thief's time within [from, to): a task's without the interrupts that ran while it had the core.
 */
static uint64_t time_of(const struct plx_why_in *in, const struct plx_thief *t, uint64_t from,
                        uint64_t to)
{
	uint64_t a = t->begin_ns > from ? t->begin_ns : from;
	uint64_t b = t->end_ns < to ? t->end_ns : to, taken = 0;

	if (b <= a)
		return 0;
	for (uint32_t i = 0; t->kind == PLX_THIEF_SCHED && i < in->n_thieves; i++) {
		const struct plx_thief *o = &in->thief[i];

		if (is_interrupt(o) && o->cpu == t->cpu)
			taken += overlap(o->begin_ns, o->end_ns, a, b);
	}
	return b - a > taken ? b - a - taken : 0;
}

static uint32_t group_thieves(const struct plx_why *w, const struct plx_why_in *in, uint32_t part,
                              struct group g[MOST_GROUPS])
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < in->n_thieves; i++) {
		const struct plx_thief *t = &in->thief[i];

		if (cause_of(t) == PLX_WHY_USUAL || !waits_for(w, in, part, t->cpu))
			continue;
		uint64_t ns = time_of(in, t, w->at_ns[part], w->at_ns[part + 1]);

		if (ns == 0)
			continue;
		struct group *to = group_of(g, &n, t);

		if (to == NULL)
			continue;
		to->ns += ns;
		to->times++;
		if (ns > to->longest_ns) {
			to->longest_ns = ns;
			to->longest = t;
		}
	}
	return n;
}

/* What was done to an lcore in all: its thread's own calls and faults hold some of it. */
static uint64_t done_to(const struct group *g, uint32_t n, uint32_t cpu)
{
	uint64_t ns = 0;

	for (uint32_t i = 0; i < n; i++)
		if (g[i].longest->cpu == cpu &&
		    (g[i].longest->kind == PLX_THIEF_SCHED || is_interrupt(g[i].longest)))
			ns += g[i].ns;
	return ns;
}

/*
 * What an interrupt costs around its handler (a guest's exits, cold caches) is not in its time: of
 * a storm a smaller share will do, and it goes before tasks that it held up.
 */
static bool is_storm(const struct group *g, uint64_t part_ns)
{
	return is_interrupt(g->longest) && g->times * 1000000ull >= STORM_PER_MS * part_ns;
}

/* Whether a thief explains what is too much, alone or half of it with what else was done to that
 * lcore. */
static bool explains(const struct group *g, uint32_t n, const struct group *it, uint64_t most,
                     uint64_t part_ns)
{
	return it->ns * (is_storm(it, part_ns) ? STORM_SHARE : BLAME_SHARE) >= most ||
	       done_to(g, n, it->longest->cpu) * BLAME_TOGETHER >= most;
}

/*
 * Of what the kernel did to the lcores of that part, what took most in all and explains it. A call
 * holds the task that the thread waits for meanwhile, so what the thread itself does goes before
 * what is done to it.
 */
static bool blame_thief(struct plx_why *w, const struct plx_why_in *in, uint64_t most)
{
	struct group g[MOST_GROUPS];
	uint32_t n = group_thieves(w, in, w->part, g);
	uint64_t best = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t kind = g[i].longest->kind;
		bool own = kind == PLX_THIEF_FAULT || kind == PLX_THIEF_SYSCALL;
		uint64_t part_ns = w->ns[w->part];
		uint64_t more = own ? g[i].ns / 8 : is_storm(&g[i], part_ns) ? g[i].ns : 0;
		uint64_t weight = g[i].ns + more;

		if (weight <= best || !explains(g, n, &g[i], most, part_ns))
			continue;
		best = weight;
		w->thief = g[i].longest;
		w->thief_ns = g[i].ns;
	}
	if (w->thief == NULL)
		return false;
	w->cause = cause_of(w->thief);
	return true;
}

/* An event of a stage that spans a third of what is too much. lcore UNKNOWN: of any. */
static const struct plx_scope_ev *span(const struct plx_why *w, const struct plx_why_in *in,
                                       uint16_t kind, uint32_t lcore, uint64_t most)
{
	const struct plx_scope_ev *best = NULL;
	uint64_t best_ns = most / BLAME_SHARE;

	for (uint32_t i = 0; i < in->snap->n_evs; i++) {
		const struct plx_scope_ev *e = &in->snap->ev[i];
		uint64_t ns = overlap(e->e.a, e->e.b, w->at_ns[w->part], w->at_ns[w->part + 1]);

		if (e->e.kind != kind || ns <= best_ns || (lcore != UNKNOWN && e->lcore != lcore))
			continue;
		best_ns = ns;
		best = e;
	}
	return best;
}

/* Steps that ended within the part. */
static uint32_t steps_within(const struct plx_why *w, const struct plx_why_in *in)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < in->snap->n_evs; i++) {
		const struct plx_trace_ev *e = &in->snap->ev[i].e;

		n += e->kind == PLX_TR_STEP && e->b > w->at_ns[w->part] &&
		     e->b <= w->at_ns[w->part + 1];
	}
	return n;
}

static uint32_t lcore_of(const struct plx_why *w, const struct plx_why_in *in)
{
	uint32_t page = w->page[w->part];

	return page < in->snap->n_pages ? in->snap->page[page].lcore : UNKNOWN;
}

static const char *stage_of(const struct plx_why *w, const struct plx_why_in *in)
{
	uint32_t page = w->page[w->part];

	return page < in->snap->n_pages ? in->snap->page[page].name : "?";
}

static void put_ns(struct plx_text *v, const char *before, uint64_t ns, const char *after)
{
	plx_text_add(v, "%s", before);
	plx_text_ns(v, ns);
	plx_text_add(v, "%s", after);
}

static void say_thief(struct plx_text *v, const struct plx_why *w)
{
	const struct plx_thief *t = w->thief;
	uint32_t lcore = t->cpu;

	if (t->kind == PLX_THIEF_SCHED)
		plx_text_add(v, "%.16s (pid %" PRIu32 ") had lcore %" PRIu32 "'s core for ",
		             t->name, t->pid, lcore);
	else if (w->cause == PLX_WHY_INTERRUPT)
		plx_text_add(v, "%s %.16s ran on lcore %" PRIu32 " for ", plx_thief_name(t->kind),
		             t->name, lcore);
	else if (w->cause == PLX_WHY_FAULT)
		plx_text_add(v, "lcore %" PRIu32 " waited for a page of memory for ", lcore);
	else
		plx_text_add(v, "lcore %" PRIu32 " was in system call %.16s for ", lcore, t->name);
	put_ns(v, "", w->thief_ns, "");
}

static void say_device(struct plx_text *v, struct plx_why *w, const struct plx_token_times *t,
                       uint64_t step_tokens)
{
	bool large = t->step_tokens > LARGE_STEP * step_tokens;

	w->cause = large ? PLX_WHY_LARGE_STEP : PLX_WHY_SLOW;
	if (large)
		plx_text_add(v,
		             "its step had %" PRIu32 " tokens where %" PRIu64
		             " are usual: prompts ran with it",
		             t->step_tokens, step_tokens);
	else
		plx_text_add(v, "the device was slow: a step of %" PRIu32 " tokens took longer",
		             t->step_tokens);
}

static void say_lcore(struct plx_text *v, struct plx_why *w, const struct plx_why_in *in,
                      uint32_t lcore, uint64_t most)
{
	const struct plx_scope_ev *e = span(w, in, PLX_TR_LONG, lcore, most);

	struct group g[MOST_GROUPS];
	uint64_t taken = done_to(g, group_thieves(w, in, w->part, g), lcore);

	/* What a device on lcores computes, it does in the turns of its stage. */
	bool device = e != NULL && in->snap->page[e->page].kind == PLX_STAGE_ACCEL;

	w->cause = device ? PLX_WHY_SLOW : e != NULL ? PLX_WHY_LCORE : PLX_WHY_STAGE;
	if (e == NULL) {
		plx_text_add(v, "stage %s on lcore %" PRIu32 " came to it late", stage_of(w, in),
		             lcore);
	} else {
		plx_text_add(v, "%sa turn of stage %s held lcore %" PRIu32,
		             device ? "the device was slow: " : "", in->snap->page[e->page].name,
		             lcore);
		put_ns(v, " for ", e->e.b - e->e.a, "");
	}
	if (!in->watched)
		plx_text_add(v, "; what the kernel did was not recorded");
	else if (taken == 0)
		plx_text_add(v, ", and the kernel took nothing");
	else
		put_ns(v, ", and the kernel took no more than ", taken, "");
}

/* What is to blame for the part that is too long by `most`. */
static void blame(struct plx_text *v, struct plx_why *w, const struct plx_why_in *in,
                  const struct plx_token_times *t, uint64_t most, uint64_t step_tokens)
{
	uint32_t lcore = lcore_of(w, in);
	const struct plx_scope_ev *full;

	if (blame_thief(w, in, most)) {
		say_thief(v, w);
	} else if (w->part == PLX_WHY_DEVICE) {
		say_device(v, w, t, step_tokens);
	} else if ((full = span(w, in, PLX_TR_STALL, UNKNOWN, most)) != NULL) {
		w->cause = PLX_WHY_FULL;
		plx_text_add(v, "stage %s could not hand on: the ring behind it was full for ",
		             in->snap->page[full->page].name);
		put_ns(v, "", full->e.b - full->e.a, "");
	} else if (w->part == PLX_WHY_SCHEDULE || w->part == PLX_WHY_DEV_WAIT) {
		uint32_t n = steps_within(w, in);

		w->cause = n > 0 ? PLX_WHY_QUEUE : PLX_WHY_STAGE;
		if (n > 0)
			plx_text_add(v, "%" PRIu32 " other steps ran before its own", n);
		else
			say_lcore(v, w, in, lcore, most);
	} else {
		say_lcore(v, w, in, lcore, most);
	}
}

static void decide(struct plx_why *w, const struct plx_why_in *in, const struct plx_token_times *t,
                   uint64_t step_tokens)
{
	struct plx_text v;
	uint64_t most = 0;

	plx_text_init(&v, w->verdict, sizeof(w->verdict));
	for (uint32_t p = 0; p < PLX_WHY_PARTS; p++) {
		uint64_t over = w->ns[p] > w->usual_ns[p] ? w->ns[p] - w->usual_ns[p] : 0;

		if (over > most) {
			most = over;
			w->part = (enum plx_why_part)p;
		}
	}
	plx_text_add(&v, "token %" PRIu32 " of %" PRIu32 "-%" PRIu64, t->index, t->session,
	             t->req_id);
	put_ns(&v, " took ", w->total_ns, "");
	if (most < LATE_LEAST || most < w->usual_total_ns / 4) {
		w->cause = PLX_WHY_USUAL;
		put_ns(&v, ", which is usual here (", w->usual_total_ns, "): nothing was late");
		return;
	}
	put_ns(&v, ", ", most, " of it too much in \"");
	plx_text_add(&v, "%s\": ", plx_why_part_name(w->part));
	blame(&v, w, in, t, most, step_tokens);
}

void plx_why_token(struct plx_why *w, const struct plx_why_in *in, const struct plx_token_times *t)
{
	uint64_t step_tokens;

	memset(w, 0, sizeof(*w));
	split(w, in, t);
	name_pages(w, in, t);
	usual(w, in, t, &step_tokens);
	decide(w, in, t, step_tokens);
}

static void print_thieves(struct plx_text *out, const struct plx_why *w,
                          const struct plx_why_in *in, uint32_t p)
{
	struct group g[MOST_GROUPS];
	uint32_t n = group_thieves(w, in, p, g);

	for (uint32_t i = 0; i < n; i++) {
		const struct plx_thief *t = g[i].longest;

		if (g[i].ns < PRINT_LEAST || g[i].ns < w->ns[p] / 20)
			continue;
		plx_text_add(out,
		             "      %s %.16s (%" PRIu32 ") on lcore %" PRIu32 ": %" PRIu32 " times",
		             plx_thief_name(t->kind), t->name, t->pid, t->cpu, g[i].times);
		put_ns(out, ", ", g[i].ns, "\n");
	}
}

static void print_part(struct plx_text *out, const struct plx_why *w, const struct plx_why_in *in,
                       uint32_t p)
{
	char ns[32], usual_ns[32];
	struct plx_text a, b;
	uint32_t page = w->page[p];
	bool over = w->cause != PLX_WHY_USUAL && w->part == p;

	plx_text_init(&a, ns, sizeof(ns));
	plx_text_init(&b, usual_ns, sizeof(usual_ns));
	plx_text_ns(&a, w->ns[p]);
	plx_text_ns(&b, w->usual_ns[p]);
	plx_text_add(out, "%c %-16s %10s  %10s  ", over ? '>' : ' ',
	             plx_why_part_name((enum plx_why_part)p), ns, usual_ns);
	if (page < in->snap->n_pages)
		plx_text_add(out, "%s on lcore %" PRIu32, in->snap->page[page].name,
		             in->snap->page[page].lcore);
	plx_text_add(out, "\n");
	print_thieves(out, w, in, p);
}

void plx_why_print(struct plx_text *out, const struct plx_why *w, const struct plx_why_in *in,
                   const struct plx_token_times *t)
{
	char ns[32];
	struct plx_text total;

	plx_text_add(out, "%s.\nBlamed on: %s.\n\n", w->verdict, plx_why_cause_name(w->cause));
	plx_text_add(out, "  %-16s %10s  %10s  %s\n", "part", "time", "usual", "stage");
	for (uint32_t p = 0; p < PLX_WHY_PARTS; p++)
		if (t->index == 0 || p >= PLX_WHY_SCHEDULE)
			print_part(out, w, in, p);
	plx_text_init(&total, ns, sizeof(ns));
	plx_text_ns(&total, w->total_ns);
	plx_text_add(out, "  %-16s %10s\n", "together", ns);
	if (!in->watched)
		plx_text_add(out, "\nThe kernel's part is not recorded here: `plx-scope record` "
		                  "does both.\n");
}

const struct plx_token_times *plx_why_latest(const struct plx_why_in *in, uint32_t session,
                                             uint64_t req_id)
{
	const struct plx_token_times *best = NULL;
	struct plx_why median[2];
	uint64_t most = 0, step_tokens;

	for (uint32_t k = 0; k < 2; k++) {
		struct plx_token_times of = {.index = k};

		memset(&median[k], 0, sizeof(median[k]));
		usual(&median[k], in, &of, &step_tokens);
	}
	for (uint32_t i = 0; i < in->tokens->n_tok; i++) {
		const struct plx_token_times *t = &in->tokens->tok[i];
		struct plx_why w;

		if (t->sent_ns == 0 || t->before_ns == 0 ||
		    ((session != 0 || req_id != 0) &&
		     (t->session != session || t->req_id != req_id)))
			continue;
		split(&w, in, t);
		uint64_t base = median[t->index != 0].usual_total_ns;
		uint64_t over = w.total_ns > base ? w.total_ns - base : 1;

		if (over > most) {
			most = over;
			best = t;
		}
	}
	return best;
}
