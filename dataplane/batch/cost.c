/* Least squares of step times; cost.h states the model. */
#include "dataplane/batch/cost.h"

#include <math.h>
#include <string.h>

#define N PLX_COST_FEATURES

#define FORGET      0.995
#define HOLD        1e-3  /* of the mean diagonal: keeps a weight where the steps say nothing */
#define HOLD_BASE   100.0 /* the constant is held firmer: what is unknown goes to prompt tokens */
#define LEAST_STEPS 4u
#define MOST_STEPS  1000u
#define DRIFT_SLOW  (1.0 / 16)
#define DRIFT_FAST  (1.0 / 4)
#define RUN_FAST    6
#define DRIFT_MOST  8.0
#define OUTLIER     2.0 /* a step this many times off counts as one just so far off */
#define ERR_SMOOTH  (1.0 / 32)
#define QUANTILE    0.99
#define OVER_STEP   0.3
#define OVER_START  0.10
#define OVER_MOST   0.5
#define ALIKE       1.05 /* light explains a step with prompt tokens this well: it is light */
#define NS_PER_MS   1e6

void plx_cost_init(struct plx_cost *c)
{
	memset(c, 0, sizeof(*c));
	c->drift = 1;
	c->err = OVER_START / 2;
	c->over = OVER_START;
}

/* Features, scaled to about 1 where a busy GPU works. */
static void features(const struct plx_cost_work *w, double x[N])
{
	x[0] = 1;
	x[1] = w->decodes / 64.0;
	x[2] = w->prefill / 512.0;
	x[3] = (double)w->context / 65536.0;
	x[4] = (double)w->prefill_pos / 1048576.0;
}

static double dot(const double w[N], const double x[N])
{
	double s = 0;

	for (int i = 0; i < N; i++)
		s += w[i] * x[i];
	return s;
}

/* l l^T = a over the features in use, the others' rows those of the identity. */
static void factor(const struct plx_cost_fit *f, const double hold[N], unsigned out, double l[N][N])
{
	for (int i = 0; i < N; i++)
		for (int j = 0; j <= i; j++) {
			bool in = !(out >> i & 1) && !(out >> j & 1);
			double s = in ? f->a[i][j] : 0;

			s += i == j ? (in ? hold[i] : 1) : 0;
			for (int k = 0; k < j; k++)
				s -= l[i][k] * l[j][k];
			l[i][j] = i == j ? 1 / sqrt(s) : s * l[j][j];
		}
}

/* l holds reciprocals on its diagonal. */
static void substitute(double l[N][N], const double rhs[N], double y[N])
{
	for (int i = 0; i < N; i++) {
		double s = rhs[i];

		for (int k = 0; k < i; k++)
			s -= l[i][k] * y[k];
		y[i] = s * l[i][i];
	}
	for (int i = N - 1; i >= 0; i--) {
		double s = y[i];

		for (int k = i + 1; k < N; k++)
			s -= l[k][i] * y[k];
		y[i] = s * l[i][i];
	}
}

/* Minimise the squares + hold * |w - w before|^2 with w >= 0: features that turn negative leave. */
static void solve(struct plx_cost_fit *f)
{
	double sum = 0, hold[N], l[N][N], rhs[N], y[N];
	unsigned out = 0, was;

	for (int i = 0; i < N; i++)
		sum += f->a[i][i];
	for (int i = 0; i < N; i++)
		hold[i] = sum * HOLD / N * (i == 0 ? HOLD_BASE : 1);
	do {
		was = out;
		factor(f, hold, out, l);
		for (int i = 0; i < N; i++)
			rhs[i] = out >> i & 1 ? 0 : f->b[i] + hold[i] * f->w[i];
		substitute(l, rhs, y);
		for (int i = 0; i < N; i++)
			out |= y[i] < 0 ? 1u << i : 0u;
	} while (out != was);
	memcpy(f->w, y, sizeof(y));
}

static void fit_add(struct plx_cost_fit *f, const double x[N], double ms)
{
	double rel = 1 / ms;

	for (int i = 0; i < N; i++) {
		for (int j = 0; j <= i; j++)
			f->a[i][j] = FORGET * f->a[i][j] + x[i] * rel * x[j] * rel;
		f->b[i] = FORGET * f->b[i] + x[i] * rel;
	}
	f->n += f->n < MOST_STEPS;
	solve(f);
}

static double clamp(double v, double lo, double hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

/* Fitted time in ms, without drift. */
static double fitted(const struct plx_cost *c, const double x[N])
{
	double light = c->light.n ? dot(c->light.w, x) : 0;
	double heavy = c->heavy.n ? dot(c->heavy.w, x) : 0;

	/* heavy was never asked about steps without prompts as long as light was. */
	return light > heavy || (x[2] <= 0 && c->light.n) ? light : heavy;
}

/* Which piece a step belongs to. */
static struct plx_cost_fit *piece_of(struct plx_cost *c, const double x[N], double ms)
{
	if (x[2] <= 0)
		return &c->light;
	double light = dot(c->light.w, x);

	if (c->light.n < LEAST_STEPS || dot(c->heavy.w, x) > light)
		return &c->heavy;
	return ms > ALIKE * light * c->drift ? &c->heavy : &c->light;
}

static void learn_error(struct plx_cost *c, double rel)
{
	double size = fabs(rel), step = OVER_STEP * c->err;

	c->run = rel > 0 ? (c->run > 0 ? c->run + 1 : 1) : (c->run < 0 ? c->run - 1 : -1);
	c->err += ERR_SMOOTH * (clamp(size, 0, 1) - c->err);
	/* While drift is behind, errors are its own and no noise. */
	if (c->run < RUN_FAST && c->run > -RUN_FAST)
		c->over += step * (rel > c->over ? QUANTILE : QUANTILE - 1);
	c->over = clamp(c->over, 0, OVER_MOST);
	bool fast = c->run >= RUN_FAST || c->run <= -RUN_FAST;

	c->drift *= 1 + (fast ? DRIFT_FAST : DRIFT_SLOW) * clamp(rel, 1 / OUTLIER - 1, OUTLIER - 1);
	c->drift = clamp(c->drift, 1 / DRIFT_MOST, DRIFT_MOST);
}

void plx_cost_update(struct plx_cost *c, const struct plx_cost_work *w, uint64_t ns)
{
	double x[N], ms = (double)ns / NS_PER_MS;

	if (ns == 0)
		return;
	features(w, x);
	double want = fitted(c, x) * c->drift;

	if (plx_cost_ready(c, w->prefill > 0) && want > 0) {
		learn_error(c, ms / want - 1);
		ms = clamp(ms, want / OUTLIER, want * OUTLIER);
	}
	struct plx_cost_fit *f = piece_of(c, x, ms);

	if (f == &c->light)
		x[2] = x[4] = 0;
	else if (f->n == 0)
		memcpy(f->w, c->light.w, sizeof(f->w));
	fit_add(f, x, ms);
	c->n += c->n < MOST_STEPS;
}

bool plx_cost_ready(const struct plx_cost *c, bool with_prefill)
{
	return c->n >= LEAST_STEPS && (with_prefill ? c->heavy.n > 0 : true);
}

double plx_cost_ns(const struct plx_cost *c, const struct plx_cost_work *w)
{
	double x[N];

	features(w, x);
	return fitted(c, x) * c->drift * NS_PER_MS;
}

double plx_cost_margin(const struct plx_cost *c)
{
	return 1 + c->over;
}

uint32_t plx_cost_chunk(const struct plx_cost *c, const struct plx_cost_work *w, uint32_t pos,
                        double budget_ns, uint32_t most)
{
	double x[N], budget = budget_ns / NS_PER_MS / c->drift;

	features(w, x);
	if (c->light.n && dot(c->light.w, x) > budget)
		return 0;
	double left = budget - dot(c->heavy.w, x);

	if (left <= 0)
		return 0;
	/* half * n^2 + rate * n = left: positions grow by one a token. */
	double half = c->heavy.w[4] / 1048576.0 / 2;
	double rate = c->heavy.w[2] / 512.0 + 2 * half * pos;
	double root = rate + sqrt(rate * rate + 4 * half * left);
	double n = root > 0 ? 2 * left / root : most;

	return n < most ? (uint32_t)n : most;
}
