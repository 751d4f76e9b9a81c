/* A step's profile, out of the device's trace; see devprof.h. */
#include "tests/lib/devprof.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/cpu.h"
#include "fw/base/check.h"

#define MAX_EVENT (1u << 20)
#define N_OPS     (PLX_FWD_N_OPS + 1u)
#define MAX_STEP  1024u

struct event {
	struct plx_cpu_event e;
	uint32_t lane;
};

/* Sums over one step, in nanoseconds. */
struct sums {
	double wall;
	double busy;
	double late;  /* lanes before their first item */
	double early; /* lanes after their last */
	double items;
	double phases;
};

struct devprof {
	struct devkit *k;
	struct plx_cpu *c;
	struct plx_cpu_trace trace[DEVKIT_MAX_THREADS];
	struct event *all;
	uint32_t n_all;
	struct sums step[MAX_STEP][N_OPS];
	uint32_t n_step;
	uint32_t n_quiet; /* the fastest quarter, which comes first once sorted */
	double *handover; /* from a phase's last finish to another lane's first item */
	uint32_t n_handover;
};

struct devprof *devprof_begin(struct devkit *k)
{
	struct devprof *p = calloc(1, sizeof(*p));

	PLX_CHECK(p != NULL);
	p->k = k;
	p->c = (struct plx_cpu *)(void *)k->dev;
	for (uint32_t i = 0; i < k->lim.n_threads; i++) {
		p->trace[i].event = calloc(MAX_EVENT, sizeof(struct plx_cpu_event));
		p->trace[i].max_event = MAX_EVENT;
		PLX_CHECK(p->trace[i].event != NULL);
	}
	p->c->trace = p->trace;
	return p;
}

/* ---- putting the lanes together ------------------------------------------------------------- */

static int by_phase(const void *a, const void *b)
{
	const struct event *x = a, *y = b;

	if (x->e.phase != y->e.phase)
		return x->e.phase < y->e.phase ? -1 : 1;
	return (x->e.begin_ns > y->e.begin_ns) - (x->e.begin_ns < y->e.begin_ns);
}

static void gather(struct devprof *p)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->k->lim.n_threads; i++)
		n += p->trace[i].n_event;
	p->all = calloc(n + 1, sizeof(*p->all));
	p->handover = calloc(n + 1, sizeof(*p->handover));
	PLX_CHECK(p->all != NULL && p->handover != NULL);
	for (uint32_t i = 0; i < p->k->lim.n_threads; i++)
		for (uint32_t j = 0; j < p->trace[i].n_event; j++)
			p->all[p->n_all++] = (struct event){p->trace[i].event[j], i};
	qsort(p->all, p->n_all, sizeof(*p->all), by_phase);
}

/* The lanes of events [from, to), one phase that was open from open_ns on; returns its end. */
static uint64_t phase_add(struct devprof *p, struct sums *s, uint32_t from, uint32_t to,
                          uint64_t open_ns, uint32_t closer)
{
	uint64_t first[DEVKIT_MAX_THREADS] = {0}, last[DEVKIT_MAX_THREADS] = {0}, end = 0;
	uint32_t n_lane = 0;
	bool other = false;

	for (uint32_t i = from; i < to; i++) {
		const struct event *v = &p->all[i];

		if (last[v->lane] == 0) {
			first[v->lane] = v->e.begin_ns;
			n_lane++;
			if (v->lane != closer && !other && v->e.begin_ns > open_ns) {
				p->handover[p->n_handover++] = (double)(v->e.begin_ns - open_ns);
				other = true;
			}
		}
		last[v->lane] = v->e.end_ns;
		s->busy += (double)(v->e.end_ns - v->e.begin_ns);
		end = v->e.end_ns > end ? v->e.end_ns : end;
	}
	for (uint32_t i = 0; i < p->k->lim.n_threads; i++) {
		if (last[i] == 0)
			s->late += (double)(end - open_ns);
		else if (first[i] > open_ns)
			s->late += (double)(first[i] - open_ns);
		if (last[i] != 0)
			s->early += (double)(end - last[i]);
	}
	s->wall += (double)(end - open_ns);
	s->items += to - from;
	s->phases++;
	return end;
}

/* The lane whose item of [from, to) ended last. */
static uint32_t closer_of(const struct devprof *p, uint32_t from, uint32_t to)
{
	uint32_t best = from;

	for (uint32_t i = from; i < to; i++)
		if (p->all[i].e.end_ns > p->all[best].e.end_ns)
			best = i;
	return p->all[best].lane;
}

static void phases_add(struct devprof *p)
{
	uint64_t open_ns = 0;
	uint32_t closer = 0;

	for (uint32_t from = 0, to; from < p->n_all; from = to) {
		uint32_t op = p->all[from].e.op;

		for (to = from; to < p->n_all && p->all[to].e.phase == p->all[from].e.phase;)
			to++;
		if (op == PLX_FWD_EMBED) {
			if (p->n_step == MAX_STEP)
				return;
			p->n_step++;
			open_ns = p->all[from].e.begin_ns;
			closer = p->all[from].lane;
		}
		if (p->n_step == 0)
			continue;
		open_ns = phase_add(p, &p->step[p->n_step - 1][op], from, to, open_ns, closer);
		closer = closer_of(p, from, to);
	}
}

static double step_wall(const struct sums *step)
{
	double sum = 0;

	for (uint32_t op = 0; op < N_OPS; op++)
		sum += step[op].wall;
	return sum;
}

static int by_wall(const void *a, const void *b)
{
	double x = step_wall(a), y = step_wall(b);

	return (x > y) - (x < y);
}

/* ---- the table ------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile(double *v, uint32_t n, double q)
{
	qsort(v, n, sizeof(*v), by_value);
	return n > 0 ? v[(uint32_t)(q * (n - 1))] : 0;
}

/* Median over the quiet steps of one figure of op, which is the field at off. */
static double median(const struct devprof *p, uint32_t op, size_t off)
{
	static double v[MAX_STEP];

	for (uint32_t i = 0; i < p->n_quiet; i++)
		memcpy(&v[i], (const char *)&p->step[i][op] + off, sizeof(double));
	return quantile(v, p->n_quiet, 0.5);
}

static double mat_bytes(const struct plx_k_mat *w)
{
	return (double)plx_k_pack_bytes(w->type, w->n_out, w->n_in);
}

/* Of a step of one token; of a layer's experts all are alike. */
static double experts_bytes(const struct plx_fwd_layer *l, uint32_t op, uint32_t n_used)
{
	if (op == PLX_FWD_ROUTER)
		return mat_bytes(&l->router);
	if (op == PLX_FWD_EXP_UP)
		return n_used * (mat_bytes(&l->expert[0].gate) + mat_bytes(&l->expert[0].up));
	return op == PLX_FWD_EXP_DOWN ? n_used * mat_bytes(&l->expert[0].down) : 0;
}

/* Bytes of weights and of K and V that op has to read in a step, once each. */
static double op_bytes(const struct devprof *p, uint32_t op, uint32_t context)
{
	const struct plx_fwd *f = &p->c->fwd;
	double sum = 0;

	for (uint32_t il = 0; il < f->m->n_layer; il++) {
		const struct plx_fwd_layer *l = &f->layer[il];

		if (op == PLX_FWD_QKV)
			sum += mat_bytes(&l->wq) + mat_bytes(&l->wk) + mat_bytes(&l->wv);
		else if (op == PLX_FWD_OUT)
			sum += mat_bytes(&l->wo);
		else if (op == PLX_FWD_GATE_UP && f->moe == NULL)
			sum += mat_bytes(&l->gate) + mat_bytes(&l->up);
		else if (op == PLX_FWD_DOWN && f->moe == NULL)
			sum += mat_bytes(&l->down);
		else if (f->moe != NULL)
			sum += experts_bytes(l, op, f->m->n_expert_used);
		if (op == PLX_FWD_ATTN)
			sum += 4.0 * f->m->n_head_kv * f->m->head_dim * context;
	}
	return op == PLX_FWD_HEAD ? mat_bytes(&f->head) : sum;
}

static void op_print(const struct devprof *p, const char *what, uint32_t op, uint32_t context)
{
	double wall = median(p, op, offsetof(struct sums, wall));
	double lanes = wall * p->k->lim.n_threads;
	double bytes = op_bytes(p, op, context);

	if (wall <= 0)
		return;
	printf("bench_device: profile %s: %-9s %8.1f us, %6.2f MB, %5.1f GB/s, %4.0f phases, %5.0f "
	       "items, busy %5.1f %%, late %5.1f us, early %5.1f us\n",
	       what, op < PLX_FWD_N_OPS ? plx_fwd_op_name((enum plx_fwd_op)op) : "sample",
	       wall / 1e3, bytes / 1e6, bytes / wall, median(p, op, offsetof(struct sums, phases)),
	       median(p, op, offsetof(struct sums, items)),
	       100 * median(p, op, offsetof(struct sums, busy)) / lanes,
	       median(p, op, offsetof(struct sums, late)) / 1e3,
	       median(p, op, offsetof(struct sums, early)) / 1e3);
}

static void steps_print(const struct devprof *p, const char *what, uint32_t context)
{
	double bytes = 0;

	for (uint32_t op = 0; op < N_OPS; op++)
		bytes += op_bytes(p, op, context);
	double quiet = step_wall(p->step[p->n_quiet / 2]);

	printf("bench_device: profile %s: step %.1f us (best %.1f, p50 of all %.1f), %.2f MB, "
	       "%.1f GB/s, %u steps\n",
	       what, quiet / 1e3, step_wall(p->step[0]) / 1e3,
	       step_wall(p->step[p->n_step / 2]) / 1e3, bytes / 1e6, bytes / quiet, p->n_step);
}

void devprof_end(struct devprof *p, const char *what, uint32_t context)
{
	p->c->trace = NULL;
	gather(p);
	phases_add(p);
	PLX_CHECK(p->n_step > 0);
	qsort(p->step, p->n_step, sizeof(p->step[0]), by_wall);
	p->n_quiet = (p->n_step + 3) / 4;
	for (uint32_t op = 0; op < N_OPS; op++)
		op_print(p, what, op, context);
	steps_print(p, what, context);
	if (p->n_handover > 0)
		printf("bench_device: profile %s: handover to another lane p50 %.0f ns, p99 %.0f "
		       "ns, %u of them\n",
		       what, quantile(p->handover, p->n_handover, 0.5),
		       quantile(p->handover, p->n_handover, 0.99), p->n_handover);
	for (uint32_t i = 0; i < p->k->lim.n_threads; i++)
		free(p->trace[i].event);
	free(p->all);
	free(p->handover);
	free(p);
}
