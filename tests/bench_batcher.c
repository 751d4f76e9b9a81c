/*
 * The batcher against three baselines on a simulated H100; tests/sim/README.md says what is
 * simulated and how to read the figures.
 *
 *   bench_batcher                     100,000 requests, every scheduler at every load (what
 *                                     `make bench` runs); as many at once as there are CPUs, or
 *                                     PLX_BENCH_JOBS
 *   bench_batcher quick               the same with 5,000
 *   bench_batcher seeds [N]           the same on eight days, medians and worst: no policy is
 *                                     fitted to one of them
 *   bench_batcher point LOAD WHO [N [SEED [BLOCKS]]]
 *                                     one run: LOAD of capacity (0.95), WHO ours, static, orca or
 *                                     sarathi, with :NUMBER for another batch or budget; BLOCKS:
 *                                     of KV, instead of what the device has
 *   bench_batcher again LOAD WHO [N [SEED [BLOCKS]]]
 *                                     the same, but who is refused comes again when told to
 *   bench_batcher steps LOAD WHO FROM TO [N [SEED]]
 *                                     what each step between two seconds was made of
 *   bench_batcher sweep [N]           each baseline's best setting, and with it the capacity
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/sim/report.h"

#define SEED     1u
#define N_FULL   100000u
#define N_QUICK  5000u
#define N_POINT  20000u
#define MAX_RUNS 160u

static const double loads[] = {0.50, 0.80, 0.95, 1.20};
static const char *const everybody[] = {"static", "orca", "sarathi", "ours"};

#define N_LOADS (sizeof(loads) / sizeof(loads[0]))
#define N_WHO   (sizeof(everybody) / sizeof(everybody[0]))

struct point {
	char who[24];
	double load;
	uint32_t n;
	uint64_t seed;
	uint32_t n_blocks; /* 0: the device's */
	bool again;
	sim_watch_fn watch;
	void *watch_ctx;
};

/* "sarathi" or "sarathi:512". */
static struct sim_engine engine_of(struct sim *s, const struct point *p)
{
	const char *who = p->who;
	const char *colon = strchr(who, ':');
	uint32_t x = colon ? (uint32_t)atoi(colon + 1) : 0;
	size_t len = colon ? (size_t)(colon - who) : strlen(who);

	if (len == 6 && memcmp(who, "static", len) == 0)
		return sim_static(s, x ? x : SIM_BEST_STATIC);
	if (len == 4 && memcmp(who, "orca", len) == 0)
		return sim_orca(s, x ? x : SIM_BEST_ORCA);
	if (len == 7 && memcmp(who, "sarathi", len) == 0)
		return sim_sarathi(s, x ? x : SIM_BEST_SARATHI);
	if (len == 4 && memcmp(who, "ours", len) == 0)
		return sim_ours(s, &(struct sim_ours_conf){.step_tokens = x, .again = p->again});
	fprintf(stderr, "%s: no such scheduler; give ours, static, orca or sarathi\n", who);
	exit(2);
}

static void run_point(const struct point *p, struct sim_result *out)
{
	struct sim_trace t;
	struct sim s;

	sim_trace_make(&t, p->n, p->load * SIM_CAPACITY_HZ, p->seed);
	sim_open(&s, &t, p->seed);
	s.n_blocks = p->n_blocks ? p->n_blocks : s.n_blocks;
	s.watch = p->watch;
	s.watch_ctx = p->watch_ctx;
	struct sim_engine e = engine_of(&s, p);

	sim_run(&s, &e);
	sim_result_of(&s, p->who, p->load, out);
	sim_close(&s);
	sim_trace_free(&t);
}

/* ---- several runs at once, each in a process of its own ---- */

struct child {
	pid_t pid;
	int fd;
};

static struct child start(const struct point *p)
{
	int fd[2];

	PLX_CHECK(pipe(fd) == 0);
	fflush(stdout);
	struct child c = {fork(), fd[0]};

	PLX_CHECK(c.pid >= 0);
	if (c.pid == 0) {
		struct sim_result r;

		run_point(p, &r);
		_exit(write(fd[1], &r, sizeof(r)) == (ssize_t)sizeof(r) ? 0 : 1);
	}
	close(fd[1]);
	return c;
}

static void collect(const struct child *c, struct sim_result *out)
{
	int status;

	PLX_CHECK(read(c->fd, out, sizeof(*out)) == (ssize_t)sizeof(*out));
	close(c->fd);
	PLX_CHECK(waitpid(c->pid, &status, 0) == c->pid && status == 0);
}

static void run_all(const struct point *p, uint32_t n, struct sim_result *out)
{
	const char *env = getenv("PLX_BENCH_JOBS");
	long jobs = env ? atol(env) : sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t at_once = jobs < 1 ? 1 : jobs > 16 ? 16 : (uint32_t)jobs;
	struct child c[MAX_RUNS];

	PLX_CHECK(n <= MAX_RUNS);
	for (uint32_t i = 0; i < n + at_once; i++) {
		if (i >= at_once)
			collect(&c[i - at_once], &out[i - at_once]);
		if (i < n)
			c[i] = start(&p[i]);
	}
}

/* ---- the sweep that finds capacity ---- */

static const uint32_t try_static[] = {32, 128};
static const uint32_t try_orca[] = {512, 8192};
static const uint32_t try_sarathi[] = {256, 320, 384, 448, 512, 640};
static const double try_loads[] = {0.3, 0.5, 0.8, 1.0, 1.1, 1.2, 1.3, 1.4};

#define N_TRY_LOADS (sizeof(try_loads) / sizeof(try_loads[0]))

static double sweep_one(const char *name, uint32_t x, uint32_t n)
{
	struct point p[N_TRY_LOADS];
	struct sim_result r[N_TRY_LOADS];
	double best = 0;

	for (uint32_t i = 0; i < N_TRY_LOADS; i++) {
		p[i] = (struct point){.load = try_loads[i], .n = n, .seed = SEED};
		snprintf(p[i].who, sizeof(p[i].who), "%s:%u", name, x);
	}
	run_all(p, N_TRY_LOADS, r);
	printf("%-8s %6u:", name, x);
	for (uint32_t i = 0; i < N_TRY_LOADS; i++) {
		printf(" %6.2f/%5.2f", r[i].goodput_hz, r[i].offered_hz);
		best = r[i].goodput_hz > best ? r[i].goodput_hz : best;
	}
	printf("  peak %.2f\n", best);
	fflush(stdout);
	return best;
}

static void sweep(uint32_t n)
{
	printf("goodput/offered, requests a second, %u requests a run\n", n);
	for (uint32_t i = 0; i < sizeof(try_static) / 4; i++)
		sweep_one("static", try_static[i], n);
	for (uint32_t i = 0; i < sizeof(try_orca) / 4; i++)
		sweep_one("orca", try_orca[i], n);
	for (uint32_t i = 0; i < sizeof(try_sarathi) / 4; i++)
		sweep_one("sarathi", try_sarathi[i], n);
}

/* ---- all schedulers at all loads ---- */

/* Every scheduler at each load, and ours where most must be refused. */
#define N_RUNS (N_LOADS * N_WHO + 1)
#define OURS   (N_WHO - 1)
#define FLOOD  2.0

static const struct sim_result *at(const struct sim_result *r, uint32_t load, uint32_t who)
{
	return &r[load * N_WHO + who];
}

/* The best baseline at a load: by goodput. */
static const struct sim_result *best_baseline(const struct sim_result *r, uint32_t load)
{
	const struct sim_result *best = at(r, load, 0);

	for (uint32_t w = 1; w < OURS; w++)
		if (at(r, load, w)->goodput_hz > best->goodput_hz)
			best = at(r, load, w);
	return best;
}

static double peak_of_ours(const struct sim_result *r, bool flood)
{
	double peak = flood ? r[N_RUNS - 1].goodput_hz : 0;

	for (uint32_t l = 0; l < N_LOADS; l++)
		if (at(r, l, OURS)->goodput_hz > peak)
			peak = at(r, l, OURS)->goodput_hz;
	return peak;
}

/* What is wanted, and what came out. */
struct target {
	const char *what;
	double is, wanted;
	bool at_least;
};

#define N_TARGETS 7

static bool met(const struct target *t)
{
	return t->at_least ? t->is >= t->wanted : t->is <= t->wanted;
}

static void targets_of(const struct sim_result *r, struct target out[N_TARGETS])
{
	const struct sim_result *o = at(r, 2, OURS), *b = best_baseline(r, 2);
	const struct sim_result *over = at(r, 3, OURS), *flood = &r[N_RUNS - 1];
	const struct target t[N_TARGETS] = {
	    {"95 %, prefill bursts: p99/p50 between tokens", o->burst_gap[1] / o->burst_gap[0],
	     SIM_TARGET_SPREAD, false},
	    {"95 %, prefill bursts: p50 over the best baseline's",
	     o->burst_gap[0] / b->burst_gap[0], SIM_TARGET_MEDIAN, false},
	    {"95 %: goodput over the best baseline's", o->goodput_hz / b->goodput_hz, 1, true},
	    {"120 %: goodput over its own peak", over->goodput_hz / peak_of_ours(r, false),
	     SIM_TARGET_KEPT, true},
	    {"120 %: slowest reject, ms", over->reject[2], SIM_TARGET_REJECT_MS, false},
	    {"200 %: goodput over its own peak", flood->goodput_hz / peak_of_ours(r, true),
	     SIM_TARGET_KEPT, true},
	    {"200 %: slowest reject, ms", flood->reject[2], SIM_TARGET_REJECT_MS, false},
	};

	memcpy(out, t, sizeof(t));
}

static void print_targets(const struct sim_result *r)
{
	struct target t[N_TARGETS];

	targets_of(r, t);
	for (uint32_t i = 0; i < N_TARGETS; i++)
		printf("target %-58s %7.3f, wanted %s %.3f: %s\n", t[i].what, t[i].is,
		       t[i].at_least ? ">=" : "<=", t[i].wanted, met(&t[i]) ? "met" : "MISSED");
}

static void print_estimates(const struct sim_result *r)
{
	for (uint32_t l = 0; l <= N_LOADS; l++) {
		const struct sim_result *o = l < N_LOADS ? at(r, l, OURS) : &r[N_RUNS - 1];

		printf("%4.0f%% ours: first token estimated at ACCEPT within %.1f ms for half, "
		       "%.0f ms for 99 %%; %.1f %% off for half, %.0f %% for 95 %%, %.0f %% on "
		       "average; "
		       "%.0f %% came sooner than said\n",
		       100 * o->load, o->est_off[0], o->est_off[1], 100 * o->est_rel[1],
		       100 * o->est_rel[2], 100 * o->est_rel[0], 100 * o->est_over);
		printf("%4.0f%% ours: steps within 5 %% of the cost model's time %.1f %%, within "
		       "10 %% "
		       "%.1f %%, within 25 %% %.1f %%; the device's own noise allows 68.3 and "
		       "95.4 %%\n",
		       100 * o->load, 100 * o->step_within[0], 100 * o->step_within[1],
		       100 * o->step_within[2]);
	}
}

static void run_seed(uint32_t n, uint64_t seed, struct sim_result r[N_RUNS])
{
	struct point p[N_RUNS];

	for (uint32_t i = 0; i < N_RUNS; i++) {
		bool flood = i == N_RUNS - 1;

		p[i] =
		    (struct point){.load = flood ? FLOOD : loads[i / N_WHO], .n = n, .seed = seed};
		snprintf(p[i].who, sizeof(p[i].who), "%s", everybody[flood ? OURS : i % N_WHO]);
	}
	run_all(p, N_RUNS, r);
}

static void compare(uint32_t n)
{
	struct sim_result r[N_RUNS];

	run_seed(n, SEED, r);
	printf("batcher: simulated H100, Llama 3 8B in BF16, %u requests a run; capacity %.2f "
	       "requests/s; chat %u/%u ms, documents %u/%u ms\n",
	       n, SIM_CAPACITY_HZ, sim_objectives[SIM_CHAT].first_ms,
	       sim_objectives[SIM_CHAT].between_ms, sim_objectives[SIM_DOC].first_ms,
	       sim_objectives[SIM_DOC].between_ms);
	sim_report_head();
	for (uint32_t i = 0; i < N_RUNS; i++)
		sim_report_row(&r[i]);
	print_estimates(r);
	print_targets(r);
	for (uint32_t i = 0; i < N_RUNS; i++)
		sim_report_line(&r[i]);
}

/* ---- all of it, on other days ---- */

#define N_SEEDS 8u

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Sorts; the middle. */
static double middle(double v[N_SEEDS])
{
	qsort(v, N_SEEDS, sizeof(*v), by_value);
	return (v[N_SEEDS / 2 - 1] + v[N_SEEDS / 2]) / 2;
}

static void print_seeds_target(struct target all[N_SEEDS][N_TARGETS], uint32_t i)
{
	const struct target *t = &all[0][i];
	double v[N_SEEDS];
	uint32_t n_met = 0;

	for (uint32_t s = 0; s < N_SEEDS; s++) {
		v[s] = all[s][i].is;
		n_met += met(&all[s][i]);
	}
	double mid = middle(v);

	printf("target %-58s median %7.3f, worst %7.3f, wanted %s %.3f: met on %u of %u\n", t->what,
	       mid, t->at_least ? v[0] : v[N_SEEDS - 1], t->at_least ? ">=" : "<=", t->wanted,
	       n_met, N_SEEDS);
}

/* A figure of a scheduler at a load: its middle over the seeds, and the range. */
static void print_seeds_range(const char *what, double v[N_SEEDS])
{
	double mid = middle(v);

	printf("  %s %.3f (%.3f to %.3f)", what, mid, v[0], v[N_SEEDS - 1]);
}

static void print_seeds_row(struct sim_result all[N_SEEDS][N_RUNS], uint32_t run)
{
	double good[N_SEEDS], spread[N_SEEDS], gap[N_SEEDS], half[N_SEEDS], most[N_SEEDS];

	for (uint32_t s = 0; s < N_SEEDS; s++) {
		const struct sim_result *r = &all[s][run];

		good[s] = r->goodput_hz / r->offered_hz;
		gap[s] = r->burst_gap[0];
		spread[s] = r->burst_gap[1] / r->burst_gap[0];
		half[s] = r->est_rel[1];
		most[s] = r->est_rel[2];
	}
	printf("%4.0f%% %-8s", 100 * all[0][run].load, all[0][run].name);
	print_seeds_range("met/offered", good);
	print_seeds_range("burst p50 ms", gap);
	print_seeds_range("p99/p50", spread);
	if (strcmp(all[0][run].name, "ours") == 0) {
		print_seeds_range("estimate off p50", half);
		print_seeds_range("p95", most);
	}
	printf("\n");
}

static void seeds(uint32_t n)
{
	static struct sim_result r[N_SEEDS][N_RUNS];
	struct target t[N_SEEDS][N_TARGETS];

	printf("batcher: seeds 1 to %u, %u requests a run: medians, and from least to most\n",
	       N_SEEDS, n);
	for (uint32_t s = 0; s < N_SEEDS; s++) {
		run_seed(n, 1 + s, r[s]);
		targets_of(r[s], t[s]);
	}
	for (uint32_t i = 0; i < N_RUNS; i++)
		print_seeds_row(r, i);
	for (uint32_t i = 0; i < N_TARGETS; i++)
		print_seeds_target(t, i);
}

/* ---- a look at steps ---- */

struct look {
	uint64_t from_ns, to_ns;
};

static void print_step(void *ctx, struct plx_step *st, uint64_t now_ns)
{
	const struct look *k = ctx;
	struct sim_load l;

	if (now_ns < k->from_ns || now_ns >= k->to_ns)
		return;
	sim_load_of(st, &l);
	printf("%10.4f s  step %-8lu %7.2f ms  decodes %3u (context %6lu)  chunks %2u of %5u "
	       "tokens (context %6lu)\n",
	       (double)now_ns / 1e9, (unsigned long)st->id,
	       (double)(st->end_ns - st->start_ns) / 1e6, l.n_decode, (unsigned long)l.n_context,
	       l.n_chunks, l.n_prefill, (unsigned long)l.chunk_context);
}

static void one_point(struct point *p)
{
	struct sim_result r;
	uint64_t t0 = plx_clock_ns();

	run_point(p, &r);
	sim_report_head();
	sim_report_row(&r);
	sim_report_line(&r);
	printf("batcher took %.1f s\n", (double)(plx_clock_ns() - t0) / 1e9);
}

static uint32_t number(int argc, char **argv, int i, uint32_t otherwise)
{
	return argc > i && atoi(argv[i]) > 0 ? (uint32_t)atoi(argv[i]) : otherwise;
}

int main(int argc, char **argv)
{
	struct point p = {.who = ""};

	if (argc < 2 || strcmp(argv[1], "quick") == 0) {
		compare(argc < 2 ? N_FULL : number(argc, argv, 2, N_QUICK));
		return 0;
	}
	if (strcmp(argv[1], "seeds") == 0) {
		seeds(number(argc, argv, 2, N_FULL));
		return 0;
	}
	if (strcmp(argv[1], "sweep") == 0) {
		sweep(number(argc, argv, 2, N_POINT));
		return 0;
	}
	bool steps = strcmp(argv[1], "steps") == 0;

	p.again = strcmp(argv[1], "again") == 0;
	if (argc < (steps ? 6 : 4) || (!steps && !p.again && strcmp(argv[1], "point") != 0)) {
		fprintf(stderr,
		        "usage: %s [quick [N] | seeds [N] | point LOAD WHO [N [SEED [BLOCKS]]] | "
		        "again LOAD WHO [N [SEED [BLOCKS]]] | "
		        "steps LOAD WHO FROM TO [N [SEED]] | sweep [N]]\n",
		        argv[0]);
		return 2;
	}
	p.load = atof(argv[2]);
	snprintf(p.who, sizeof(p.who), "%s", argv[3]);
	p.n = number(argc, argv, steps ? 6 : 4, N_POINT);
	p.seed = number(argc, argv, steps ? 7 : 5, SEED);
	p.n_blocks = steps ? 0 : number(argc, argv, 6, 0);
	struct look k = {steps ? (uint64_t)(atof(argv[4]) * 1e9) : 0,
	                 steps ? (uint64_t)(atof(argv[5]) * 1e9) : 0};

	if (steps) {
		p.watch = print_step;
		p.watch_ctx = &k;
	}
	one_point(&p);
	return 0;
}
