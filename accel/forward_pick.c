/* Sparse attention: pages summarised, and the chunks that each query reads. */
#include "accel/forward_pick.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "accel/forward_int.h"
#include "fw/base/check.h"

#define CHUNK         PLX_K_ATTN_CHUNK
#define SPLIT_CHUNKS  (PLX_K_ATTN_SPLIT / PLX_K_ATTN_CHUNK)
#define MASS_BUCKETS  128u /* quarter octaves below 4 */
#define BOUND_BUCKETS 256u /* of equal width, from the highest bound down */

/* Element-wise work of a rated page and dimension, and of a summarised position and dimension. */
#define COST_RATE 0.3
#define COST_SUM  4.0

/* ---- the choice ----------------------------------------------------------------------------- */

static void pick_set(uint16_t *pick, uint32_t chunk)
{
	pick[chunk / SPLIT_CHUNKS] |= (uint16_t)(1u << chunk % SPLIT_CHUNKS);
}

static bool pick_has(const uint16_t *pick, uint32_t chunk)
{
	return (pick[chunk / SPLIT_CHUNKS] >> chunk % SPLIT_CHUNKS & 1) != 0;
}

static uint32_t pick_count(const uint16_t *pick, uint32_t n)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i <= n / SPLIT_CHUNKS; i++)
		sum += (uint32_t)__builtin_popcount(pick[i]);
	return sum;
}

static uint32_t pick_all(uint16_t *pick, uint32_t n)
{
	for (uint32_t i = 0; i <= n; i++)
		pick_set(pick, i);
	return n + 1;
}

static float largest(const float *x, uint32_t n)
{
	float top = x[0];

	for (uint32_t i = 1; i < n; i++)
		top = x[i] > top ? x[i] : top;
	return top;
}

/* Mean scores of pages into shares of chunks, in mass[n]; false where they are no numbers. */
static bool masses(const struct plx_kernels *k, float *mass, uint32_t n, uint32_t per, double *all)
{
	float top = largest(mass, n * per);

	for (uint32_t i = 0; i < n * per; i++)
		mass[i] -= top;
	for (uint32_t i = n * per; i % 16 != 0; i++)
		mass[i] = 0.0f;
	k->exp(mass, mass, (n * per + 15) & ~15u);
	*all = 0;
	for (uint32_t c = 0; c < n; c++) {
		float sum = 0;

		for (uint32_t i = 0; i < per; i++)
			sum += mass[c * per + i];
		mass[c] = sum;
		*all += (double)sum;
	}
	return *all - *all >= 0;
}

/* 0 for masses from 3.5 on, more for smaller ones. */
static uint32_t mass_bucket(float mass)
{
	uint32_t at = (plx_f32_bits(4.0f) - plx_f32_bits(mass < 4.0f ? mass : 4.0f)) >> 21;

	return at < MASS_BUCKETS ? at : MASS_BUCKETS - 1;
}

/* Adds the chunks of largest mass until share of all is read. */
static void pick_mass(const float *mass, uint32_t n, double want, uint16_t *pick)
{
	double in[MASS_BUCKETS] = {0}, read = 0;
	uint32_t last = 0;

	for (uint32_t c = 0; c < n; c++)
		if (pick_has(pick, c))
			read += (double)mass[c];
		else
			in[mass_bucket(mass[c])] += (double)mass[c];
	if (read >= want)
		return;
	for (; last + 1 < MASS_BUCKETS && read + in[last] < want; last++)
		read += in[last];
	for (uint32_t c = 0; c < n; c++)
		if (mass_bucket(mass[c]) <= last)
			pick_set(pick, c);
}

/* Adds the `most` chunks of highest bound among those that are not read always. */
static void pick_bounds(const float *bound, uint32_t n, uint32_t most, uint16_t *pick)
{
	uint32_t in[BOUND_BUCKETS] = {0}, last = 0, left = most;
	float top = largest(bound, n), low = top, per;

	for (uint32_t c = 0; c < n; c++)
		low = bound[c] < low ? bound[c] : low;
	per = top > low ? (float)(BOUND_BUCKETS - 1) / (top - low) : 0.0f;
	for (uint32_t c = 1; c + 1 < n; c++)
		in[(uint32_t)((top - bound[c]) * per)]++;
	for (; last < BOUND_BUCKETS && in[last] <= left; last++)
		left -= in[last];
	for (uint32_t c = n - 1; c-- > 1;) {
		uint32_t at = (uint32_t)((top - bound[c]) * per);

		if (at > last || (at == last && left == 0))
			continue;
		left -= at == last;
		pick_set(pick, c);
	}
}

/* The highest bound of each chunk, in bound[n]; false where they are no numbers. */
static bool bounds(float *bound, uint32_t n, uint32_t per)
{
	float sum = 0;

	for (uint32_t i = 0; i < n * per; i++)
		sum += bound[i] - bound[i];
	for (uint32_t c = 0; c < n; c++)
		bound[c] = largest(bound + (size_t)c * per, per);
	return sum >= 0;
}

/* What is read of the mass, in 1 / PLX_SHARE_ONE. */
static uint32_t share_of(const float *mass, uint32_t n, double all, const uint16_t *pick)
{
	double read = 0;

	for (uint32_t c = 0; c < n; c++)
		read += pick_has(pick, c) ? (double)mass[c] : 0;
	return read < all ? (uint32_t)(read / all * PLX_SHARE_ONE) : PLX_SHARE_ONE;
}

uint32_t plx_fwd_pick_chunks(const struct plx_kernels *k, const struct plx_fwd_choice *how,
                             float *mean, float *most, uint32_t n, uint32_t per, uint16_t *pick,
                             uint32_t *share)
{
	double all;

	memset(pick, 0, (n / SPLIT_CHUNKS + 1) * sizeof(*pick));
	*share = PLX_SHARE_ONE;
	if (n < 3 || !masses(k, mean, n, per, &all) || !bounds(most, n, per))
		return pick_all(pick, n);
	pick_set(pick, 0);
	pick_set(pick, n - 1);
	pick_set(pick, n);
	if (how->chunks > 0)
		pick_bounds(most, n, how->chunks, pick);
	if (how->mass > 0)
		pick_mass(mean, n, how->mass < 1000 ? all * how->mass / 1000.0 : (double)INFINITY,
		          pick);
	*share = share_of(mean, n, all, pick);
	return pick_count(pick, n);
}

void plx_fwd_pool(float *mean, const float *q, size_t stride, uint32_t n, uint32_t dim)
{
	memcpy(mean, q, dim * sizeof(*mean));
	for (uint32_t i = 1; i < n; i++)
		for (uint32_t d = 0; d < dim; d++)
			mean[d] += q[i * stride + d];
	for (uint32_t d = 0; d < dim; d++)
		mean[d] *= 1.0f / (float)n;
}

/* ---- the step ------------------------------------------------------------------------------- */

static uint32_t page_tokens(const struct plx_fwd *f)
{
	return plx_k_page_tokens(f->lim.block_tokens);
}

/* Tokens of a sequence in the step that pick: each for itself, or one of its group for all. */
static uint32_t pickers(const struct plx_fwd *f, const struct plx_fwd_seq *q)
{
	uint32_t end = q->pos + q->n_tok;
	uint32_t from = q->pos > f->lim.sparse_from ? q->pos : f->lim.sparse_from;
	uint32_t pool = end < q->sparse.n_pool ? end : q->sparse.n_pool;

	if (!plx_fwd_sparse(q) || from >= end)
		return 0;
	return from < pool ? (pool - from) / PLX_SPARSE_POOL + 1 + end - pool : end - from;
}

static uint32_t n_shares(const struct plx_fwd *f)
{
	return f->n_seq > 0 ? f->seq[f->n_seq - 1].step_seq + 1 : 0;
}

void plx_fwd_pick_begin(struct plx_fwd *f)
{
	struct plx_fwd_picks *x = f->picks;

	if (x == NULL)
		return;
	x->n_page = 0;
	x->n_tok = 0;
	for (uint32_t i = 0; i < f->lim.n_threads; i++)
		memset(x->lane[i].share, 0, n_shares(f) * sizeof(*x->lane[i].share));
	for (uint32_t i = 0; i < f->n_seq; i++) {
		const struct plx_fwd_seq *q = &f->seq[i];
		uint32_t n = page_tokens(f), end = q->pos + q->n_tok;

		for (uint32_t p = q->pos / n * n; plx_fwd_sparse(q) && p + n <= end; p += n)
			x->page[x->n_page++] = (struct plx_fwd_page){q->table, p};
		x->n_tok += pickers(f, q);
	}
}

void plx_fwd_pages_again(const struct plx_fwd *f, const struct plx_k_kv *kv, uint32_t from,
                         uint32_t to)
{
	uint32_t n = page_tokens(f);

	for (uint32_t p = from / n * n; f->picks != NULL && p + n <= to; p += n)
		f->k->page_sum(kv, p);
}

bool plx_fwd_pages_todo(const struct plx_fwd *f)
{
	return f->picks != NULL && f->picks->n_page > 0;
}

bool plx_fwd_pick_todo(const struct plx_fwd *f)
{
	return f->picks != NULL && f->picks->n_tok > 0 && f->m->layer[f->il].window == 0;
}

struct plx_cut plx_fwd_pick_cut(const struct plx_fwd *f)
{
	const struct plx_fwd_picks *x = f->picks;
	double rate = plx_fwd_rates_of(f)->floats, dim = f->m->head_dim;
	uint32_t n_kv = f->m->n_head_kv;

	if (f->op == PLX_FWD_PAGES)
		return plx_cut_op(COST_SUM * x->n_page * n_kv * page_tokens(f) * dim / rate,
		                  x->n_page * n_kv);
	return plx_cut_op(COST_RATE * x->n_tok * f->m->n_head * dim * f->n_split *
	                      (PLX_K_ATTN_SPLIT / page_tokens(f)) / rate,
	                  f->n_tok * n_kv);
}

static void page_unit(const struct plx_fwd *f, uint32_t u)
{
	const struct plx_fwd_page *p = &f->picks->page[u / f->m->n_head_kv];
	struct plx_k_kv kv = plx_fwd_kv_view(f, p->table, f->il, u % f->m->n_head_kv);

	f->k->page_sum(&kv, p->pos);
}

bool plx_fwd_attn_next(struct plx_fwd *f)
{
	bool stored = f->op == PLX_FWD_ROPE || f->op == PLX_FWD_OBSERVE;

	if (f->op == PLX_FWD_ROPE && plx_fwd_observes(f))
		f->op = PLX_FWD_OBSERVE;
	else if (stored && plx_fwd_pages_todo(f))
		f->op = PLX_FWD_PAGES;
	else if (plx_fwd_last(f) && f->n_row == 0)
		return false;
	else if (f->op != PLX_FWD_PICK && plx_fwd_pick_todo(f))
		f->op = PLX_FWD_PICK;
	else {
		f->split = plx_fwd_first_split(f);
		f->op = PLX_FWD_ATTN;
	}
	return true;
}

static uint16_t *pick_at(const struct plx_fwd *f, uint32_t split, uint32_t head, uint32_t tok)
{
	uint32_t group = f->m->n_head / f->m->n_head_kv;

	return f->picks->pick +
	       (((size_t)split * f->m->n_head_kv + head) * f->lim.max_step_tokens + tok) * group;
}

/* Only the lane itself writes; readers want no more than a recent value. */
static void count(_Atomic uint64_t *at, uint64_t by)
{
	uint64_t n = atomic_load_explicit(at, memory_order_relaxed);

	atomic_store_explicit(at, n + by, memory_order_relaxed);
}

/* Tokens that choose together, or one that does for itself. */
struct chooser {
	const struct plx_fwd_seq *q;
	uint32_t tok, n_tok; /* the first one in the step, and how many */
	uint32_t head;       /* of K and V */
	bool together;
};

/* What n tokens chose, in the lane's counts; the last layer is there for some tokens only. */
static void count_choice(struct plx_fwd *f, const struct chooser *c, uint32_t n_read,
                         uint32_t share, struct plx_fwd_pick_lane *s)
{
	struct plx_step_share *h = &s->share[c->q->step_seq];
	uint32_t n_chunk = f->pos[c->tok] / CHUNK + 1;

	count(&s->tokens, c->n_tok);
	count(&s->chunks, (uint64_t)c->n_tok * n_chunk);
	count(&s->read, (uint64_t)c->n_tok * n_read);
	if (f->il + 1 == f->m->n_layer && f->il > 0)
		return;
	h->least = h->n == 0 || share < h->least ? share : h->least;
	h->n += c->n_tok;
	h->sum += (uint64_t)c->n_tok * share;
	h->chunks += (uint64_t)c->n_tok * n_chunk;
	h->read += (uint64_t)c->n_tok * n_read;
}

/* Rates of the pages before the query's chunk; of those that choose together, of their mean. */
static void rate(const struct plx_fwd *f, const struct chooser *c, const struct plx_k_kv *kv,
                 uint32_t g, uint32_t n_page, const struct plx_fwd_pick_lane *s)
{
	uint32_t group = f->m->n_head / f->m->n_head_kv, hd = f->m->head_dim;
	const float *q =
	    f->qkv + (size_t)c->tok * f->qkv_width + ((size_t)c->head * group + g) * hd;
	float mean[PLX_K_HEAD_DIM_MAX];

	if (!c->together) {
		f->k->page_rate(kv, q, f->attn_scale, n_page, s->mean, s->most);
		return;
	}
	plx_fwd_pool(mean, q, f->qkv_width, c->n_tok, hd);
	f->k->page_rate(kv, mean, f->attn_scale, n_page, s->mean, NULL);
	memcpy(s->most, s->mean, n_page * sizeof(*s->most));
}

/* The choice of one head, for each of the tokens. */
static void choose(struct plx_fwd *f, const struct chooser *c, const struct plx_k_kv *kv,
                   uint32_t g, struct plx_fwd_pick_lane *s)
{
	uint32_t pos = f->pos[c->tok], n = pos / CHUNK, per = CHUNK / page_tokens(f), share;
	uint16_t *pick = (uint16_t *)(void *)(s->most + ((size_t)n * per + 15) / 16 * 16);
	bool all = pos + c->n_tok <= f->lim.sparse_from;

	if (!all) {
		rate(f, c, kv, g, n * per, s);
		uint32_t n_read = plx_fwd_pick_chunks(f->k, &c->q->sparse, s->mean, s->most, n, per,
		                                      pick, &share);

		count_choice(f, c, n_read, share, s);
	}
	for (uint32_t t = 0; t < c->n_tok; t++)
		for (uint32_t i = 0; i <= n / SPLIT_CHUNKS; i++)
			pick_at(f, i, c->head, c->tok + t)[g] =
			    pos + t < f->lim.sparse_from ? 0xffffu : pick[i];
}

static void pick_unit(struct plx_fwd *f, uint32_t u, uint32_t lane)
{
	uint32_t tok = u / f->m->n_head_kv, pos = f->pos[tok];
	const struct plx_fwd_seq *q = plx_fwd_seq_of(f, tok);
	struct chooser c = {q, tok, 1, u % f->m->n_head_kv, pos < q->sparse.n_pool};
	struct plx_k_kv kv = plx_fwd_kv_view(f, q->table, f->il, c.head);

	if (!plx_fwd_sparse(q) || (c.together && pos % PLX_SPARSE_POOL != 0))
		return;
	if (c.together) {
		uint32_t left = q->first_tok + q->n_tok - tok;

		c.n_tok = left < PLX_SPARSE_POOL ? left : PLX_SPARSE_POOL;
	}
	for (uint32_t g = 0; g < f->m->n_head / f->m->n_head_kv; g++)
		choose(f, &c, &kv, g, &f->picks->lane[lane]);
}

void plx_fwd_pick_units(struct plx_fwd *f, struct plx_range u, uint32_t lane)
{
	for (uint32_t i = u.begin; i < u.end; i++)
		if (f->op == PLX_FWD_PAGES)
			page_unit(f, i);
		else
			pick_unit(f, i, lane);
}

const uint16_t *plx_fwd_pick_of(const struct plx_fwd *f, const struct plx_fwd_span *sp,
                                uint32_t head)
{
	if (!plx_fwd_pick_todo(f) || !plx_fwd_sparse(&f->seq[sp->seq]) ||
	    sp->pos + sp->n_tok <= f->lim.sparse_from)
		return NULL;
	return pick_at(f, f->split, head, sp->tok);
}

void plx_fwd_sparse_counts(const struct plx_fwd *f, struct plx_dev_sparse *out)
{
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < f->lim.n_threads; i++) {
		const struct plx_fwd_pick_lane *s = &f->picks->lane[i];

		out->tokens += atomic_load_explicit(&s->tokens, memory_order_relaxed);
		out->chunks += atomic_load_explicit(&s->chunks, memory_order_relaxed);
		out->read += atomic_load_explicit(&s->read, memory_order_relaxed);
	}
}

void plx_fwd_shares(const struct plx_fwd *f, struct plx_step_share *out)
{
	for (uint32_t i = 0; i < n_shares(f); i++) {
		struct plx_step_share *o = &out[i];

		memset(o, 0, sizeof(*o));
		for (uint32_t l = 0; l < f->lim.n_threads; l++) {
			const struct plx_step_share *s = &f->picks->lane[l].share[i];

			if (s->n > 0 && (o->n == 0 || s->least < o->least))
				o->least = s->least;
			o->n += s->n;
			o->sum += s->sum;
			o->chunks += s->chunks;
			o->read += s->read;
		}
	}
}
