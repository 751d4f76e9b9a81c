/* Experts: who goes where, what each op of theirs does and how it is cut. */
#include "accel/forward_moe.h"

#include <math.h>
#include <string.h>

#include "accel/experts.h"
#include "accel/forward_int.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

#define FEW_TOK PLX_FWD_GUESS_TOK

static bool is_shared(const struct plx_fwd *f, const struct plx_fwd_job *j)
{
	return j->expert == f->m->n_expert;
}

static uint32_t n_assign(const struct plx_fwd *f)
{
	return f->n_tok * f->moe->n_used;
}

static const struct plx_fwd_ffn *ffn_of(const struct plx_fwd *f, const struct plx_fwd_job *j)
{
	return &f->layer[f->il].expert[j->expert];
}

/* ---- routing -------------------------------------------------------------------------------- */

/* The n_used largest of l[0..n): increasing in index, the lowest of equals; a NaN is never larger.
 */
static void top_of(const float *l, uint32_t n, uint32_t n_used, uint32_t *pick)
{
	uint32_t n_top = 0;

	/* By value first, the largest at the front. */
	for (uint32_t e = 0; e < n; e++) {
		uint32_t at = n_top;

		if (n_top == n_used && !(l[e] > l[pick[n_top - 1]]))
			continue;
		n_top += n_top < n_used;
		for (at = n_top - 1; at > 0 && l[e] > l[pick[at - 1]]; at--)
			pick[at] = pick[at - 1];
		pick[at] = e;
	}
	for (uint32_t i = 1; i < n_used; i++) {
		uint32_t e = pick[i], at = i;

		for (; at > 0 && pick[at - 1] > e; at--)
			pick[at] = pick[at - 1];
		pick[at] = e;
	}
}

/* l becomes exp(l - the largest); returns the sum of the first n, which a NaN makes one. */
static float exp_of(const struct plx_fwd *f, float *l, uint32_t n)
{
	float max = -INFINITY, sum = 0;

	for (uint32_t e = 0; e < n; e++)
		max = l[e] > max ? l[e] : max;
	for (uint32_t e = 0; e < n; e++)
		l[e] -= max;
	f->k->exp(l, l, (n + 15) & ~15u);
	for (uint32_t e = 0; e < n; e++)
		sum += l[e];
	return sum;
}

static void route_tok(struct plx_fwd *f, uint32_t t)
{
	const struct plx_fwd_moe *x = f->moe;
	uint32_t n = f->m->n_expert;
	float *l = x->logits + (size_t)t * x->stride;
	uint32_t *pick = x->pick + (size_t)t * x->n_used;
	float *weight = x->weight + (size_t)t * x->n_used;
	float kept = 0;

	if (f->m->n_ff_shared > 0)
		x->scale[(size_t)n_assign(f) + t] = 1 / (1 + plx_k_expf(-l[n]));
	top_of(l, n, x->n_used, pick);
	float sum = exp_of(f, l, n);

	for (uint32_t i = 0; i < x->n_used; i++) {
		weight[i] = l[pick[i]] / sum;
		kept += weight[i];
	}
	for (uint32_t i = 0; i < x->n_used && f->m->expert_norm; i++)
		weight[i] /= kept;
}

/* ---- grouping ------------------------------------------------------------------------------- */

static void jobs_add(struct plx_fwd_moe *x, uint32_t expert, uint32_t row, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += PLX_FWD_TOK_CHUNK)
		x->job[x->n_job++] = (struct plx_fwd_job){
		    expert, row + i, n - i < PLX_FWD_TOK_CHUNK ? n - i : PLX_FWD_TOK_CHUNK};
}

/* Only the runner adds; relaxed, since who reads wants a count and nothing that it stands for. */
static void count(_Atomic uint64_t *c, uint64_t n)
{
	uint64_t v = atomic_load_explicit(c, memory_order_relaxed);

	atomic_store_explicit(c, v + n, memory_order_relaxed);
}

/* Tokens of all experts of this layer so far, this step's among them. */
static uint64_t heat_sum(const struct plx_fwd *f)
{
	const uint64_t *heat = f->moe->heat + (size_t)f->il * f->m->n_expert;
	uint64_t sum = n_assign(f);

	for (uint32_t e = 0; e < f->m->n_expert; e++)
		sum += heat[e];
	return sum;
}

/* Counts each expert's tokens, makes its jobs, and leaves its first assignment in n_of. */
static void jobs_make(struct plx_fwd *f)
{
	struct plx_fwd_moe *x = f->moe;
	uint64_t *heat = x->heat + (size_t)f->il * f->m->n_expert;
	uint32_t row = 0, n_pass = 0, most = 0;
	uint64_t warm = heat_sum(f), hot = 0;

	memset(x->n_of, 0, f->m->n_expert * sizeof(*x->n_of));
	for (uint32_t i = 0; i < n_assign(f); i++)
		x->n_of[x->pick[i]]++;
	x->n_job = 0;
	for (uint32_t e = 0; e < f->m->n_expert; e++) {
		uint32_t n = x->n_of[e];

		jobs_add(x, e, row, n);
		heat[e] += n;
		hot += heat[e] * f->m->n_expert >= 2 * warm ? n : 0;
		n_pass += n > 0;
		most = n > most ? n : most;
		x->n_of[e] = row;
		row += n;
	}
	x->n_routed = x->n_job;
	x->wave = x->job;
	count(&x->tokens, row);
	count(&x->passes, n_pass);
	count(&x->busiest, most);
	count(&x->hot, hot);
	if (f->m->n_ff_shared > 0)
		jobs_add(x, f->m->n_expert, 0, f->n_tok);
	x->todo = 0;
	x->end_routed = x->n_routed;
	x->end = x->n_job;
}

/* ---- experts that are read from a file ------------------------------------------------------- */

bool plx_fwd_moe_guesses(const struct plx_fwd *f)
{
	return f->moe->store != NULL && f->n_tok <= FEW_TOK && f->il + 1 < f->m->n_layer;
}

/* What the next layer may want: of few tokens by its own router, of many all of them. */
static void experts_guess(struct plx_fwd *f)
{
	struct plx_fwd_moe *x = f->moe;
	uint32_t n = f->m->n_expert;

	for (uint32_t e = 0; e < n && f->n_tok > FEW_TOK; e++)
		plx_experts_guess(x->store, f->il + 1, e);
	for (uint32_t t = 0; t < f->n_tok && f->n_tok <= FEW_TOK; t++) {
		top_of(x->guess + (size_t)t * x->stride, n, x->n_used, x->guess_pick);
		for (uint32_t i = 0; i < x->n_used; i++)
			plx_experts_guess(x->store, f->il + 1, x->guess_pick[i]);
	}
}

/* Has the experts of all jobs read that are not in memory, then what the next layer may want. */
static void experts_fetch(struct plx_fwd *f)
{
	struct plx_fwd_moe *x = f->moe;

	plx_experts_turn(x->store, f->il);
	for (uint32_t i = 0; i < x->end_routed; i++)
		if (i == 0 || x->job[i].expert != x->job[i - 1].expert)
			plx_experts_need(x->store, f->il, x->job[i].expert);
	if (f->il + 1 < f->m->n_layer)
		experts_guess(f);
}

/* Brings a job whose expert is in memory to the end of the wave. */
static void wave_add(struct plx_fwd *f, uint32_t i)
{
	struct plx_fwd_moe *x = f->moe;
	struct plx_fwd_job *to = &x->wave[x->n_routed++], j = x->job[i];

	x->job[i] = *to;
	*to = j;
	plx_experts_bind(x->store, f->il, j.expert,
	                 &x->ffn[(size_t)f->il * plx_fwd_n_ffn(f->m) + j.expert]);
}

/* The jobs that can run now; false: none of those that are left. */
static bool wave_make(struct plx_fwd *f)
{
	struct plx_fwd_moe *x = f->moe;

	x->wave = &x->job[x->todo];
	x->n_routed = 0;
	for (uint32_t i = x->todo; i < x->end_routed; i++) {
		enum plx_expert_state s = plx_experts_ask(x->store, f->il, x->job[i].expert);

		if (s == PLX_EXPERT_FAILED)
			f->err = PLX_E_FAULT;
		if (s == PLX_EXPERT_READY)
			wave_add(f, i);
	}
	x->todo += x->n_routed;
	x->n_job = x->n_routed;
	/* The shared expert's jobs go with the last ones, or bridge the wait for any. */
	if (x->todo == x->end_routed || x->n_routed == 0) {
		if (x->n_routed == 0)
			x->wave = &x->job[x->end_routed];
		x->n_job += x->end - x->end_routed;
		x->end = x->end_routed;
	}
	return x->n_job > 0;
}

static void wave_done(struct plx_fwd *f)
{
	struct plx_fwd_moe *x = f->moe;

	for (uint32_t i = 0; i < x->n_routed; i++)
		plx_experts_done(x->store, f->il, x->wave[i].expert);
}

/* The op after GROUP, GATHER, EXP_WAIT or EXP_DOWN. */
static enum plx_fwd_op wave_next(struct plx_fwd *f)
{
	struct plx_fwd_moe *x = f->moe;

	if (f->op == PLX_FWD_EXP_DOWN)
		wave_done(f);
	if (x->todo == x->end_routed && x->end == x->end_routed)
		return PLX_FWD_EXP_SUM;
	return wave_make(f) ? PLX_FWD_EXP_UP : PLX_FWD_EXP_WAIT;
}

void plx_fwd_moe_waited(struct plx_fwd *f, uint64_t ns)
{
	count(&f->moe->wait_ns, ns);
}

/* ---- grouping's op -------------------------------------------------------------------------- */

static void group(struct plx_fwd *f)
{
	struct plx_fwd_moe *x = f->moe;

	for (uint32_t t = 0; t < f->n_tok && f->n_tok <= FEW_TOK; t++)
		route_tok(f, t);
	jobs_make(f);
	for (uint32_t i = 0; i < n_assign(f); i++) {
		uint32_t row = x->n_of[x->pick[i]]++;

		x->row_of[i] = row;
		x->tok_of[row] = i / x->n_used;
		x->scale[row] = x->weight[i];
	}
	if (x->store != NULL)
		experts_fetch(f);
}

static void gather_row(const struct plx_fwd *f, uint32_t row)
{
	const struct plx_fwd_moe *x = f->moe;
	uint32_t n = f->m->n_embd;
	struct plx_fwd_act from = plx_fwd_act_at(&f->norm, x->tok_of[row], n);
	struct plx_fwd_act to = plx_fwd_act_at(&x->in, row, n);

	if (to.q8 != NULL)
		memcpy(to.q8, from.q8, n / PLX_K_QBLOCK * sizeof(*to.q8));
	if (to.bf16 != NULL)
		memcpy(to.bf16, from.bf16, n * sizeof(*to.bf16));
	if (to.f32 != NULL)
		memcpy(to.f32, from.f32, n * sizeof(*to.f32));
}

/* ---- the experts' matrices ------------------------------------------------------------------ */

/* A single token's activations are where they are: all of its jobs have one row, this one. */
static struct plx_fwd_act input_of(const struct plx_fwd *f, const struct plx_fwd_job *j)
{
	uint32_t n = f->m->n_embd;

	if (is_shared(f, j) || f->n_tok == 1)
		return plx_fwd_act_at(&f->norm, f->n_tok == 1 ? 0 : j->row, n);
	return plx_fwd_act_at(&f->moe->in, j->row, n);
}

static struct plx_fwd_act mid_of(const struct plx_fwd *f, const struct plx_fwd_job *j)
{
	if (is_shared(f, j))
		return plx_fwd_act_at(&f->mid, j->row, f->m->n_ff_shared);
	return plx_fwd_act_at(&f->moe->mid, j->row, f->m->n_ff_expert);
}

/* Of scale and out, where the shared expert's rows come behind the assignments. */
static size_t row_of(const struct plx_fwd *f, const struct plx_fwd_job *j)
{
	return is_shared(f, j) ? (size_t)n_assign(f) + j->row : j->row;
}

static void up_rows(struct plx_fwd *f, const struct plx_fwd_job *j, struct plx_range granule,
                    uint32_t lane)
{
	struct plx_fwd_gated g = {ffn_of(f, j), input_of(f, j), mid_of(f, j),
	                          f->moe->scale + row_of(f, j)};

	plx_fwd_gated_rows(f, &g, granule, (struct plx_range){0, j->n}, &f->lane[lane]);
}

static void down_rows(const struct plx_fwd *f, const struct plx_fwd_job *j, struct plx_range tile)
{
	const struct plx_k_mat *w = &ffn_of(f, j)->down;
	struct plx_fwd_act in = mid_of(f, j);
	struct plx_k_mm mm = {.w = w, .q = in.q8, .bf16 = in.bf16, .x = in.f32};

	mm.y = f->moe->out + row_of(f, j) * f->m->n_embd;
	mm.y_stride = f->m->n_embd;
	mm.row_begin = tile.begin * PLX_K_TILE;
	mm.row_end = tile.end * PLX_K_TILE < w->n_out ? tile.end * PLX_K_TILE : w->n_out;
	mm.tok_end = j->n;
	mm.mode = PLX_K_STORE;
	plx_fwd_fetch(plx_fwd_row_at(w, mm.row_begin));
	f->k->matmul(&mm);
}

/* Units of one job: granules of EXP_UP, tiles of EXP_DOWN. */
static uint32_t job_units(const struct plx_fwd *f, enum plx_fwd_op op, const struct plx_fwd_job *j)
{
	if (op == PLX_FWD_EXP_DOWN)
		return (f->m->n_embd + PLX_K_TILE - 1) / PLX_K_TILE;
	return (is_shared(f, j) ? f->m->n_ff_shared : f->m->n_ff_expert) / PLX_FWD_GRAIN;
}

/* The job of unit u of an op, and its first unit. Routed jobs have as many as each other. */
static const struct plx_fwd_job *job_of(const struct plx_fwd *f, enum plx_fwd_op op, uint32_t u,
                                        uint32_t *first)
{
	const struct plx_fwd_moe *x = f->moe;
	uint32_t n = job_units(f, op, &x->wave[0]), i = u / n;

	*first = i * n;
	if (i < x->n_routed)
		return &x->wave[i];
	u -= x->n_routed * n;
	*first = x->n_routed * n;
	n = job_units(f, op, &x->wave[x->n_routed]);
	*first += u / n * n;
	return &x->wave[x->n_routed + u / n];
}

static void job_rows(struct plx_fwd *f, struct plx_range u, uint32_t lane)
{
	while (u.begin < u.end) {
		uint32_t first;
		const struct plx_fwd_job *j = job_of(f, f->op, u.begin, &first);
		struct plx_range part = plx_range_within(u, first, job_units(f, f->op, j));

		if (f->op == PLX_FWD_EXP_UP)
			up_rows(f, j, part, lane);
		else
			down_rows(f, j, part);
		u.begin = first + part.end;
	}
}

static void sum_tok(struct plx_fwd *f, uint32_t t)
{
	const struct plx_fwd_moe *x = f->moe;
	uint32_t n = f->m->n_embd;
	float *y = f->x + (size_t)t * n;

	for (uint32_t i = 0; i < x->n_used; i++)
		f->k->add(y, x->out + (size_t)x->row_of[t * x->n_used + i] * n, n);
	if (f->m->n_ff_shared > 0)
		f->k->add(y, x->out + ((size_t)n_assign(f) + t) * n, n);
}

/* ---- ops ------------------------------------------------------------------------------------ */

uint32_t plx_fwd_moe_jobs(const struct plx_model *m, uint32_t n_tok)
{
	uint64_t rows = (uint64_t)n_tok * m->n_expert_used;
	uint64_t routed = rows / PLX_FWD_TOK_CHUNK + (m->n_expert < rows ? m->n_expert : rows);

	return (uint32_t)(routed + n_tok / PLX_FWD_TOK_CHUNK + 1);
}

void plx_fwd_moe_counts(const struct plx_fwd *f, struct plx_dev_experts *out)
{
	const struct plx_fwd_moe *x = f->moe;

	out->tokens = atomic_load_explicit(&x->tokens, memory_order_relaxed);
	out->passes = atomic_load_explicit(&x->passes, memory_order_relaxed);
	out->busiest = atomic_load_explicit(&x->busiest, memory_order_relaxed);
	out->hot = atomic_load_explicit(&x->hot, memory_order_relaxed);
	out->wait_ns = atomic_load_explicit(&x->wait_ns, memory_order_relaxed);
	if (x->store != NULL)
		plx_experts_counts(x->store, out);
}

enum plx_fwd_op plx_fwd_moe_next(struct plx_fwd *f)
{
	bool gathered = f->op == PLX_FWD_GATHER || (f->op == PLX_FWD_GROUP && f->n_tok == 1);

	if (f->op == PLX_FWD_ROUTER && f->n_tok <= FEW_TOK)
		return PLX_FWD_GROUP;
	if (f->moe->store != NULL &&
	    (gathered || f->op == PLX_FWD_EXP_WAIT || f->op == PLX_FWD_EXP_DOWN))
		return wave_next(f);
	return gathered ? PLX_FWD_EXP_UP : f->op + 1;
}

/* Items are cut by the heaviest job's units, since a lane may claim several of those. */
static struct plx_cut jobs_cut(const struct plx_fwd *f)
{
	const struct plx_fwd_moe *x = f->moe;
	uint32_t n_units = 0;
	double sum = 0, worst = 0;

	for (uint32_t i = 0; i < x->n_job; i++) {
		const struct plx_fwd_job *j = &x->wave[i];
		const struct plx_fwd_ffn *w = ffn_of(f, j);
		uint32_t n = job_units(f, f->op, j);
		double ns = f->op == PLX_FWD_EXP_DOWN ? plx_fwd_mat_ns(f, &w->down, j->n)
		                                      : plx_fwd_mat_ns(f, &w->gate, j->n) +
		                                            plx_fwd_mat_ns(f, &w->up, j->n);

		sum += ns;
		n_units += n;
		worst = ns / n > worst ? ns / n : worst;
	}
	struct plx_cut cut = plx_cut_op(worst * n_units, n_units);

	cut.alone = n_units <= 1 || sum < PLX_CUT_SHARE_NS;
	return cut;
}

struct plx_cut plx_fwd_moe_cut(const struct plx_fwd *f)
{
	double floats = plx_fwd_rates_of(f)->floats;
	double n_tok = f->n_tok, n = f->m->n_embd;

	switch ((int)f->op) {
	case PLX_FWD_ROUTE:
		/* Choosing takes about as long as two element-wise ops over all experts. */
		return plx_cut_op(3 * n_tok * f->m->n_expert / floats, f->n_tok);
	case PLX_FWD_GATHER:
		return plx_cut_op(n_assign(f) * n / 2 / floats, n_assign(f));
	case PLX_FWD_EXP_WAIT:
		return (struct plx_cut){0, 1, false};
	case PLX_FWD_EXP_UP:
	case PLX_FWD_EXP_DOWN:
		return jobs_cut(f);
	case PLX_FWD_EXP_SUM:
		return plx_cut_op(n_tok * n * f->moe->n_used / 2 / floats, f->n_tok);
	default: /* GROUP */
		return (struct plx_cut){1, 1, true};
	}
}

void plx_fwd_moe_units(struct plx_fwd *f, struct plx_range u, uint32_t lane)
{
	if (f->op == PLX_FWD_EXP_UP || f->op == PLX_FWD_EXP_DOWN) {
		job_rows(f, u, lane);
		return;
	}
	for (uint32_t i = u.begin; i < u.end; i++) {
		if (f->op == PLX_FWD_ROUTE)
			route_tok(f, i);
		else if (f->op == PLX_FWD_GROUP)
			group(f);
		else if (f->op == PLX_FWD_GATHER)
			gather_row(f, i);
		else
			sum_tok(f, i);
	}
}

/* ---- what is read next ---------------------------------------------------------------------- */

/* Where the share-th of n_share stretches of EXP_UP's or EXP_DOWN's units begins. */
static const char *jobs_at(const struct plx_fwd *f, enum plx_fwd_op op, uint32_t share,
                           uint32_t n_share)
{
	uint32_t n_units = 0, first;

	for (uint32_t i = 0; i < f->moe->n_job; i++)
		n_units += job_units(f, op, &f->moe->wave[i]);
	uint32_t u = plx_cut_range(n_units, n_share, share).begin;
	const struct plx_fwd_job *j = job_of(f, op, u, &first);
	const struct plx_fwd_ffn *w = ffn_of(f, j);

	if (op == PLX_FWD_EXP_DOWN)
		return (const char *)plx_fwd_row_at(&w->down, (u - first) * PLX_K_TILE);
	return (const char *)w->gate.data + (u - first) * w->stride;
}

const char *plx_fwd_moe_ahead(const struct plx_fwd *f, uint32_t share, uint32_t n_share)
{
	if (f->op == PLX_FWD_EXP_UP)
		return jobs_at(f, PLX_FWD_EXP_DOWN, share, n_share);
	/* Which come first of those that are read from a file is not known yet. */
	return f->op == PLX_FWD_GATHER && f->moe->store == NULL
	           ? jobs_at(f, PLX_FWD_EXP_UP, share, n_share)
	           : NULL;
}
