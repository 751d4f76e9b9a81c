/* The search over knobs, and the comparison at the end. */
#include "tools/tune/tune.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fw/base/err.h"

#define SEARCH_SHARE 0.5 /* of the time; the comparison has the rest */
#define BLOCK        4u  /* measurements that are taken one right after another */
#define FINALISTS    10u
#define LEAST_ROUNDS 4u
#define N_OBJ        PLX_RESULT_OBJ

/* Configurations that people pick by hand. */
static const struct {
	const char *name, *knobs;
} presets[] = {
    {"polluxd's defaults", "weights=given"},
    {"defaults, Q4_K", "weights=q4_k"},
    {"defaults, Q8_0 and KV in q8", "weights=q8_0,kv=q8"},
    {"as llama.cpp by default", "weights=given,kv=f16,drafts=0,step=512,seqs=32"},
    {"as llama.cpp by default, Q4_K", "weights=q4_k,kv=f16,drafts=0,step=512,seqs=32"},
    {"as llama.cpp by default, Q8_0", "weights=q8_0,kv=f16,drafts=0,step=512,seqs=32"},
    {"smallest", "weights=q4_0,kv=q4"},
};

/* ---- points of the search are indices into the space's values ---- */

static void to_point(const struct plx_tune *t, const uint8_t *x, struct plx_tune_point *p)
{
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		p->v[k] = t->space.value[k][x[k]];
}

/* False where the space does not have it. */
static bool from_point(const struct plx_tune *t, const struct plx_tune_point *p, uint8_t *x)
{
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++) {
		uint32_t i = 0;

		while (i < t->space.n[k] && t->space.value[k][i] != p->v[k])
			i++;
		if (i == t->space.n[k])
			return false;
		x[k] = (uint8_t)i;
	}
	return true;
}

static int open_search(struct plx_tune *t, struct plx_diag *d)
{
	struct plx_search_conf c = {
	    .n_knobs = PLX_TUNE_KNOBS, .n_obj = N_OBJ, .exact = 1, .seed = t->o->seed};

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++) {
		bool moves = t->space.n[k] > 1;

		c.n_values[k] = t->space.n[k];
		c.ordered |= (uint32_t)((plx_tune_knobs[k].flags & PLX_KNOB_ORDERED) != 0) << k;
		if (plx_tune_knobs[k].flags & PLX_KNOB_ACCURACY)
			c.use[0] |= 1u << k;
		for (uint32_t i = 1; i < N_OBJ; i++)
			c.use[i] |= (uint32_t)moves << k;
	}
	for (uint32_t i = 1; i < N_OBJ; i++)
		c.use[i] |= c.use[i] == 0;
	int err = plx_search_open(&t->search, &c);

	return err ? plx_diag_set(d, err, "no memory for the search") : 0;
}

static bool tell(struct plx_tune *t, const struct plx_journal_rec *speed, double kl)
{
	double y[N_OBJ] = {kl, -log(speed->v[1]), log(speed->v[3]), log(speed->v[4])};
	uint8_t x[PLX_GP_DIMS] = {0};

	return !from_point(t, &speed->point, x) ||
	       plx_search_tell(&t->search, x, (uint32_t)speed->v[0], y);
}

/* What earlier runs measured. Returns how many measurements of speed. */
static uint32_t replay(struct plx_tune *t, struct plx_diag *d, int *err)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->journal.n && !*err; i++) {
		struct plx_journal_rec speed = t->journal.rec[i], a;

		if (speed.kind != PLX_JOURNAL_SPEED)
			continue;
		*err = plx_tune_accuracy(t, &speed.point, &a, d);
		if (!*err)
			(void)tell(t, &speed, a.v[3]);
		n++;
	}
	return n;
}

static void status(const struct plx_tune *t, const char *what, uint32_t n)
{
	uint32_t s = (uint32_t)plx_tune_elapsed(t), of = (uint32_t)t->o->time_s;

	if (t->o->quiet || t->o->verbose || !isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r%s  %u:%02u of %u:%02u  %u measurements\033[K", what, s / 60, s % 60,
	        of / 60, of % 60, n);
	fflush(stderr);
}

/* The coarsest of all: its perplexity is the least certain. */
static int check_interval(struct plx_tune *t, struct plx_diag *d)
{
	struct plx_journal_rec r;
	struct plx_tune_point p;
	uint8_t x[PLX_GP_DIMS];

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		x[k] = (uint8_t)(t->space.n[k] - 1);
	to_point(t, x, &p);
	int err = plx_tune_accuracy(t, &p, &r, d);
	struct plx_accuracy a = {.n = (uint32_t)r.v[0], .ln_ppl = r.v[1], .ln_ppl_sd = r.v[2]};

	return err ? err : plx_accuracy_enough(&a, t->o->interval, d);
}

static bool compared(const struct plx_tune *t)
{
	for (uint32_t i = 0; i < t->journal.n; i++)
		if (t->journal.rec[i].kind == PLX_JOURNAL_CHECK)
			return true;
	return false;
}

/* What runs now: the board's settings or polluxd's own. False where options leave it out. */
static bool start_point(const struct plx_tune *t, struct plx_tune_point *p)
{
	uint8_t x[PLX_GP_DIMS];

	plx_tune_point_usual(p);
	if (t->board.n_threads)
		*p = t->board.point;
	plx_tune_same_as(t, p);
	return from_point(t, p, x);
}

/* The search starts at what runs now. */
static void next_point(struct plx_tune *t, uint32_t n, struct plx_tune_point *p)
{
	uint8_t x[PLX_GP_DIMS];

	if (n == 0 && start_point(t, p))
		return;
	plx_search_ask(&t->search, x);
	to_point(t, x, p);
}

/* Measures until the time for it is over. A comparison that has begun is not gone behind. */
static int search(struct plx_tune *t, struct plx_diag *d)
{
	int err = open_search(t, d);
	uint32_t n = err ? 0 : replay(t, d, &err);
	uint64_t grid = plx_tune_space_grid(&t->space);
	uint32_t most = t->o->most ? t->o->most : PLX_SEARCH_MAX;
	struct plx_journal_rec a, speed;
	struct plx_tune_point p;

	while (!err && !compared(t) && n < most && n < 4 * grid &&
	       (n == 0 || plx_tune_elapsed(t) < SEARCH_SHARE * t->o->time_s)) {
		next_point(t, n, &p);
		err = plx_tune_accuracy(t, &p, &a, d);
		if (!err)
			err = plx_tune_speed(t, &p, PLX_JOURNAL_SPEED, n / BLOCK, &speed, d);
		if (!err && !tell(t, &speed, a.v[3]))
			break;
		n++;
		status(t, "searching", n);
	}
	return err;
}

/* ---- the comparison ---- */

/* Its format may be made, or is the file as given. */
static bool in_reach(const struct plx_tune *t, const struct plx_tune_point *p)
{
	bool found = p->v[0] == 0;

	for (uint32_t i = 0; i < t->space.n[0]; i++)
		found = found || t->space.value[0][i] == p->v[0];
	return found;
}

static void add_preset(struct plx_tune *t, const char *name, struct plx_tune_point p)
{
	plx_tune_same_as(t, &p);
	if (in_reach(t, &p))
		(void)plx_result_add(&t->result, &p, name);
}

static void candidates(struct plx_tune *t)
{
	uint32_t idx[FINALISTS], n;
	struct plx_tune_point p;

	/* Where the search began is first, whatever the measurement on the way said of it. */
	if (start_point(t, &p))
		(void)plx_result_add(&t->result, &p, "");
	plx_search_settle(&t->search);
	n = plx_search_front(&t->search, idx, FINALISTS);
	for (uint32_t i = 0; i < n; i++) {
		to_point(t, t->search.point[idx[i]].x, &p);
		(void)plx_result_add(&t->result, &p, "");
	}
	for (uint32_t i = 0; i < t->o->n_presets; i++)
		add_preset(t, t->o->preset[i].name, t->o->preset[i].point);
	if (t->board.n_threads)
		add_preset(t, t->board.name, t->board.point);
	for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
		plx_tune_point_usual(&p);
		if (plx_tune_point_parse(&p, presets[i].knobs, strlen(presets[i].knobs), NULL) == 0)
			add_preset(t, presets[i].name, p);
	}
}

/* An order of its own for each round. */
static void shuffle(uint32_t *order, uint32_t n, uint32_t round)
{
	uint32_t x = round * 2654435761u + 1;

	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	for (uint32_t i = n; i > 1; i--) {
		x = x * 1664525u + 1013904223u;
		uint32_t j = (x >> 16) % i, keep = order[i - 1];

		order[i - 1] = order[j];
		order[j] = keep;
	}
}

static int round_of(struct plx_tune *t, uint32_t round, uint32_t *n_done, struct plx_diag *d)
{
	uint32_t order[PLX_RESULT_MAX];
	struct plx_journal_rec r;
	int err = 0;

	shuffle(order, t->result.n, round);
	for (uint32_t i = 0; i < t->result.n && !err; i++) {
		uint32_t c = order[i];

		if (!plx_result_lacks(&t->result, c, round) || t->result.c[c].out)
			continue;
		err = plx_tune_accuracy(t, &t->result.c[c].point, &r, d);
		if (err)
			return err;
		plx_result_take(&t->result, &r);
		err = plx_tune_speed(t, &t->result.c[c].point, PLX_JOURNAL_CHECK, round, &r, d);
		if (!err)
			plx_result_take(&t->result, &r);
		++*n_done;
		status(t, "comparing", *n_done);
	}
	return err;
}

static uint32_t rounds_had(const struct plx_tune *t)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->journal.n; i++)
		if (t->journal.rec[i].kind == PLX_JOURNAL_CHECK && t->journal.rec[i].v[0] >= n)
			n = (uint32_t)t->journal.rec[i].v[0] + 1;
	return n;
}

static int compare(struct plx_tune *t, struct plx_diag *d)
{
	double begin = plx_tune_elapsed(t);
	uint32_t n = 0, had, most, n_run = t->result.n;
	int err = 0;

	for (uint32_t i = 0; i < t->journal.n; i++)
		plx_result_take(&t->result, &t->journal.rec[i]);
	/* A run that had ended is only completed, for presets that are new. */
	had = rounds_had(t);
	most = had < LEAST_ROUNDS ? PLX_RESULT_ROUNDS : had;
	for (uint32_t round = 0; round < most && !err; round++) {
		double now = plx_tune_elapsed(t), next = n ? (now - begin) / n * n_run : 0;

		if (round >= LEAST_ROUNDS && round >= had && now + next > t->o->time_s)
			break;
		err = round_of(t, round, &n, d);
		if (!err && round + 1 >= LEAST_ROUNDS)
			n_run = plx_result_retire(&t->result, round + 1);
	}
	if (!err)
		plx_result_sum(&t->result);
	return err;
}

int plx_tune_find(struct plx_tune *t, struct plx_diag *d)
{
	int err = check_interval(t, d);

	if (!err)
		err = search(t, d);
	if (!err) {
		candidates(t);
		err = compare(t, d);
	}
	if (isatty(STDERR_FILENO) && !t->o->quiet)
		fputs("\r\033[K", stderr);
	return err;
}
