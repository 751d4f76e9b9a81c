/*
 * Attention over paged KV, once for every instruction set: included by isa_*.c alone.
 *
 * A lane of the scores is a position (K is stored 16 positions side by side), a lane of the output
 * a head dimension. Up to ATTN_Q queries go through a chunk together and share its loads; each
 * query's own arithmetic is the same alone or in company. They are in the order of their tokens, so
 * the first one sees the fewest positions: as far as it sees they go together, then each alone, so
 * that nothing of a position that a query must not see, a NaN for one, can reach it.
 *
 * Queries that read only some chunks, by a window or by choice, go through each chunk with those
 * others that read it too; what they leave out is never loaded.
 */
#ifndef PLX_KERNELS_CPU_ATTN_IMPL_H
#define PLX_KERNELS_CPU_ATTN_IMPL_H

#include "fw/base/check.h"
#include "kernels/cpu/v16.h"
#include "kernels/kernels.h"

#define ATTN_EMPTY (-3.0e38f) /* the maximum of no scores; finite, so that differences are too */
#define ATTN_LANES (PLX_K_ATTN_CHUNK / 16)

/* Queries of one register block; each size is compiled, so sanitizer builds have fewer. */
#if defined(__AVX512BW__) && !defined(PLX_DEBUG)
#define ATTN_Q 6
#else
#define ATTN_Q 2
#endif

struct kvq_query;

/* One query's running state; o lies in the caller's partial. */
struct attn_state {
	const float *q;
	const struct kvq_query *iq; /* Q8 and Q4: instead of q */
	float *o;
	float max;
	float c;                   /* what the newest chunk scales o by */
	uint32_t seen;             /* positions of this split that it may see */
	uint32_t from;             /* those before are out of its window */
	uint32_t pick;             /* a bit for each chunk of the split that it reads */
	uint32_t n;                /* of the chunk in work */
	uint32_t lo;               /* of the chunk in work: positions out of its window; else 0 */
	vf l;                      /* sum of p, by lane */
	float p[PLX_K_ATTN_CHUNK]; /* last: of the chunk in work */
};

#include "kernels/cpu/kvq_impl.h"

/* A chunk's K and V, 16 positions each. */
struct attn_kv {
	const uint16_t *k[ATTN_LANES];
	const uint16_t *v[ATTN_LANES];
};

/* plx_k_expf, without leaving the registers. */
V16_INLINE float exp_one(float x)
{
	float e[16];

	vf_store(e, vf_exp(vf_set1(x)));
	return e[0];
}

/* Where the first n positions from pos on lie. */
static void attn_kv_at(const struct plx_k_kv *kv, uint32_t pos, uint32_t n, struct attn_kv *at)
{
	for (uint32_t g = 0; g * 16 < n; g++, pos += 16) {
		uint32_t block = pos / kv->block_tokens;
		size_t first = (size_t)(pos - block * kv->block_tokens) * kv->head_dim;
		const uint8_t *base =
		    (const uint8_t *)kv->base + kv->table[block] * kv->block_bytes;

		at->k[g] = (const uint16_t *)(const void *)(base + kv->k_off) + first;
		at->v[g] = (const uint16_t *)(const void *)(base + kv->v_off) + first;
	}
}

/* Scores of nq queries at ng groups of 16 positions: s[i][g], not yet scaled. */
V16_INLINE void attn_scores(const int nq, const int ng, const struct attn_state *st,
                            const uint16_t *const *k, uint32_t dim, vf s[][ATTN_LANES])
{
	vf acc[ATTN_Q][ATTN_LANES];

#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int g = 0; g < ng; g++)
			acc[i][g] = vf_set1(0.0f);
	for (uint32_t d = 0; d < dim; d++) {
		vf kd[ATTN_LANES];

#pragma GCC unroll 4
		for (int g = 0; g < ng; g++)
			kd[g] = vf_from_f16(k[g] + (size_t)d * 16);
#pragma GCC unroll 6
		for (int i = 0; i < nq; i++) {
			vf q = vf_set1(st[i].q[d]);

#pragma GCC unroll 4
			for (int g = 0; g < ng; g++)
				acc[i][g] = vf_fma(q, kd[g], acc[i][g]);
		}
	}
#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int g = 0; g < ng; g++)
			s[i][g] = acc[i][g];
}

/* The same for the first n positions of a chunk; more lanes are filled than asked. */
V16_INLINE void attn_scores_of(const int nq, const struct attn_state *st, const struct attn_kv *kv,
                               uint32_t n, uint32_t dim, vf s[][ATTN_LANES])
{
	if (n > 48)
		attn_scores(nq, 4, st, kv->k, dim, s);
	else if (n > 32)
		attn_scores(nq, 3, st, kv->k, dim, s);
	else if (n > 16)
		attn_scores(nq, 2, st, kv->k, dim, s);
	else
		attn_scores(nq, 1, st, kv->k, dim, s);
}

/* What lies before the window becomes fill; s[0] is the chunk's first 16 positions. */
static void attn_hide(const struct attn_state *st, vf *s, float fill)
{
	for (uint32_t g = 0; g * 16 < st->lo; g++) {
		float x[16];

		vf_store(x, s[g]);
		for (uint32_t i = 0; i < 16 && g * 16 + i < st->lo; i++)
			x[i] = fill;
		s[g] = vf_load(x);
	}
}

/* e = scale * s of the positions that the query sees, the others out of the way; their maximum. */
V16_INLINE float attn_scale(const struct attn_state *st, vf *s, float scale)
{
	vf top = vf_set1(ATTN_EMPTY);
	uint32_t g = 0;

	if (st->lo > 0)
		attn_hide(st, s, ATTN_EMPTY);
	for (; (g + 1) * 16 <= st->n; g++) {
		s[g] = vf_mul(s[g], vf_set1(scale));
		top = vf_max(s[g], top);
	}
	if (g * 16 < st->n) {
		s[g] = vf_first(vf_mul(s[g], vf_set1(scale)), st->n - g * 16, ATTN_EMPTY);
		top = vf_max(s[g], top);
	}
	return vf_hmax(top);
}

/* p = exp(s - max), and the sum l. */
V16_INLINE void attn_exp(struct attn_state *st, const vf *s)
{
	vf m = vf_set1(st->max);
	vf e[ATTN_LANES];
	uint32_t g = 0;

	e[0] = e[1] = e[2] = e[3] = vf_set1(0.0f);
	for (; (g + 1) * 16 <= st->n; g++) {
		e[g] = vf_exp(vf_sub(s[g], m));
		vf_store(st->p + g * 16, e[g]);
	}
	if (g * 16 < st->n) {
		e[g] = vf_first(vf_exp(vf_sub(s[g], m)), st->n - g * 16, 0.0f);
		vf_store(st->p + g * 16, e[g]);
	}
	if (st->lo > 0) {
		attn_hide(st, e, 0.0f);
		for (g = 0; g * 16 < st->lo; g++)
			vf_store(st->p + g * 16, e[g]);
	}
	st->l = vf_fma(st->l, vf_set1(st->c), vf_add(vf_add(e[0], e[1]), vf_add(e[2], e[3])));
}

/* Scores into probabilities p, the new maximum, the factor c and the sum l. */
V16_INLINE void attn_softmax(const int nq, struct attn_state *st, vf s[][ATTN_LANES], float scale)
{
	float fall[16] = {0};

	for (int i = 0; i < nq; i++) {
		float max = attn_scale(&st[i], s[i], scale);

		max = max > st[i].max ? max : st[i].max;
		fall[i] = st[i].max - max;
		st[i].max = max;
	}
	vf_store(fall, vf_exp(vf_load(fall)));
	for (int i = 0; i < nq; i++) {
		st[i].c = fall[i];
		attn_exp(&st[i], s[i]);
	}
}

/* o = o*c + sum over j of p[j]*v[j] for nd vectors of dimensions, nq queries, n positions but for
 * those before the window. */
V16_INLINE void attn_values(const int nq, const int nd, const struct attn_state *st,
                            const struct attn_kv *kv, uint32_t n, uint32_t dim, uint32_t d0)
{
	vf o[ATTN_Q][4];

#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int d = 0; d < nd; d++)
			o[i][d] = vf_mul(vf_load(st[i].o + d0 + d * 16), vf_set1(st[i].c));
	for (uint32_t j = nq == 1 ? st[0].lo : 0; j < n; j++) {
		const uint16_t *row = kv->v[j / 16] + (size_t)(j % 16) * dim + d0;
		vf vd[4];

#pragma GCC unroll 4
		for (int d = 0; d < nd; d++)
			vd[d] = vf_from_f16(row + d * 16);
#pragma GCC unroll 6
		for (int i = 0; i < nq; i++) {
			vf p = vf_set1(st[i].p[j]);

#pragma GCC unroll 4
			for (int d = 0; d < nd; d++)
				o[i][d] = vf_fma(p, vd[d], o[i][d]);
		}
	}
#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int d = 0; d < nd; d++)
			vf_store(st[i].o + d0 + d * 16, o[i][d]);
}

/* o += p[j]*v[j] for the positions from j on that this query sees and the block's first doesn't. */
static void attn_values_tail(const struct attn_state *st, const struct attn_kv *kv, uint32_t j,
                             uint32_t dim)
{
	for (; j < st->n; j++) {
		const uint16_t *row = kv->v[j / 16] + (size_t)(j % 16) * dim;
		vf p = vf_set1(st->p[j]);

		for (uint32_t d = 0; d < dim; d += 16)
			vf_store(st->o + d, vf_fma(p, vf_from_f16(row + d), vf_load(st->o + d)));
	}
}

/* nq queries through the chunk that begins at pos; each sees some of it, the first one fewest. */
V16_INLINE void attn_chunk(const int nq, struct attn_state *st, const struct plx_k_attn *a,
                           uint32_t pos)
{
	const uint32_t dim = a->kv.head_dim;
	struct attn_kv kv;
	vf s[ATTN_Q][ATTN_LANES];
	uint32_t d = 0;

	attn_kv_at(&a->kv, pos, st[nq - 1].n, &kv);
	attn_scores_of(nq, st, &kv, st[nq - 1].n, dim, s);
	attn_softmax(nq, st, s, a->scale);
	for (; d + 64 <= dim; d += 64)
		attn_values(nq, 4, st, &kv, st[0].n, dim, d);
	for (; d < dim; d += 16)
		attn_values(nq, 1, st, &kv, st[0].n, dim, d);
	for (int i = 1; i < nq; i++)
		attn_values_tail(&st[i], &kv, st[0].n, dim);
}

/* The same over quantised K and V. */
V16_INLINE void attn_chunk_kvq(const enum plx_k_kv_type type, const int nq, struct attn_state *st,
                               const struct plx_k_attn *a, uint32_t pos)
{
	const uint32_t dim = a->kv.head_dim, n = st[nq - 1].n, ng = (n + 15) / 16;
	const uint8_t *k[ATTN_LANES], *v[ATTN_LANES];
	vf s[ATTN_Q][ATTN_LANES];
	uint32_t g = 0;

	kvq_at(&a->kv, pos, n, k, v);
	for (; g + 2 <= ng; g += 2)
		kvq_scores(kvq_k(type), nq, 2, st, k, dim, g, s);
	if (g < ng)
		kvq_scores(kvq_k(type), nq, 1, st, k, dim, g, s);
	attn_softmax(nq, st, s, a->scale);
	for (int i = 0; i < nq; i++) /* no weight for what others see */
		for (g = (st[i].n + 15) / 16; g < ng; g++)
			vf_store(st[i].p + g * 16, vf_set1(0.0f));
	for (uint32_t b = 0; b < kvq_blocks(dim); b++)
		kvq_values(kvq_v(type), nq, st, v, ng, dim, b);
}

#define ATTN_CHUNK(type, nq, call)                                                                 \
	static __attribute__((noinline)) void attn_chunk_##type##_##nq(                            \
	    struct attn_state *st, const struct plx_k_attn *a, uint32_t pos)                       \
	{                                                                                          \
		call;                                                                              \
	}
#define ATTN_SIZE(nq)                                                                              \
	ATTN_CHUNK(f16, nq, attn_chunk(nq, st, a, pos))                                            \
	ATTN_CHUNK(q8, nq, attn_chunk_kvq(PLX_K_KV_Q8, nq, st, a, pos))                            \
	ATTN_CHUNK(q4, nq, attn_chunk_kvq(PLX_K_KV_Q4, nq, st, a, pos))
ATTN_SIZE(1)
ATTN_SIZE(2)
#if ATTN_Q > 2
ATTN_SIZE(3)
ATTN_SIZE(4)
ATTN_SIZE(5)
ATTN_SIZE(6)
#define ATTN_SIZES(type)                                                                           \
	{                                                                                          \
		attn_chunk_##type##_1, attn_chunk_##type##_2, attn_chunk_##type##_3,               \
		    attn_chunk_##type##_4, attn_chunk_##type##_5, attn_chunk_##type##_6            \
	}
#else
#define ATTN_SIZES(type)                                                                           \
	{                                                                                          \
		attn_chunk_##type##_1, attn_chunk_##type##_2                                       \
	}
#endif

/* nq queries, at most ATTN_Q, through the chunk that begins at pos. */
static void attn_one_chunk(struct attn_state *st, uint32_t nq, const struct plx_k_attn *a,
                           uint32_t pos)
{
	static void (*const chunks[][ATTN_Q])(struct attn_state *, const struct plx_k_attn *,
	                                      uint32_t) = {
	    [PLX_K_KV_F16] = ATTN_SIZES(f16),
	    [PLX_K_KV_Q8] = ATTN_SIZES(q8),
	    [PLX_K_KV_Q4] = ATTN_SIZES(q4),
	};

	chunks[a->kv.type][nq - 1](st, a, pos);
}

/* How far a query sees into the chunk that begins at `at` of the split. */
V16_INLINE void attn_enter(struct attn_state *st, uint32_t at)
{
	st->n = st->seen - at < PLX_K_ATTN_CHUNK ? st->seen - at : PLX_K_ATTN_CHUNK;
	st->lo = st->from > at ? st->from - at : 0;
}

/* Chunks of one split for nq queries, at most ATTN_Q. */
static void attn_queries(struct attn_state *st, uint32_t nq, const struct plx_k_attn *a,
                         uint32_t start)
{
	for (uint32_t at = 0; at < PLX_K_ATTN_SPLIT; at += PLX_K_ATTN_CHUNK) {
		while (nq > 0 && st->seen <= at) { /* the first ones are at their end */
			st++;
			nq--;
		}
		if (nq == 0)
			return;
		for (uint32_t i = 0; i < nq; i++)
			attn_enter(&st[i], at);
		attn_one_chunk(st, nq, a, start + at);
	}
}

/* ---- queries that do not read all they could ------------------------------------------------- */

#define ATTN_SOME 16 /* queries among which those that read a chunk are looked for */

static bool attn_reads(const struct attn_state *st, uint32_t at)
{
	return st->seen > at && st->from < at + PLX_K_ATTN_CHUNK &&
	       (st->pick >> (at / PLX_K_ATTN_CHUNK) & 1) != 0;
}

#define ATTN_STATE_BYTES offsetof(struct attn_state, p)

/* Those that were gathered go through the chunk together, and their states back. */
static void attn_gathered(struct attn_state *st, const uint32_t *who, uint32_t n,
                          const struct plx_k_attn *a, uint32_t pos)
{
	struct attn_state w[ATTN_Q];

	for (uint32_t i = 0; i < n; i++)
		memcpy(&w[i], &st[who[i]], ATTN_STATE_BYTES);
	attn_one_chunk(w, n, a, pos);
	for (uint32_t i = 0; i < n; i++)
		memcpy(&st[who[i]], &w[i], ATTN_STATE_BYTES);
}

/*
 * The same for queries with a window or a choice of chunks, nq up to ATTN_SOME: whoever reads a
 * chunk does so in company of the others that do, but alone where the window begins in it.
 */
static void attn_queries_some(struct attn_state *st, uint32_t nq, const struct plx_k_attn *a,
                              uint32_t start)
{
	for (uint32_t at = 0; at < PLX_K_ATTN_SPLIT; at += PLX_K_ATTN_CHUNK) {
		uint32_t who[ATTN_Q], n = 0;

		for (uint32_t i = 0; i < nq; i++) {
			if (!attn_reads(&st[i], at))
				continue;
			attn_enter(&st[i], at);
			if (st[i].lo > 0) {
				attn_one_chunk(&st[i], 1, a, start + at);
				continue;
			}
			who[n++] = i;
			if (n == ATTN_Q) {
				attn_gathered(st, who, n, a, start + at);
				n = 0;
			}
		}
		if (n > 0)
			attn_gathered(st, who, n, a, start + at);
	}
}

/* Query i of a, before its first chunk. */
static void attn_begin(struct attn_state *st, struct kvq_query *iq, const struct plx_k_attn *a,
                       uint32_t i, uint32_t start, float *out)
{
	const uint32_t dim = a->kv.head_dim, t = i / a->n_group, end = a->pos + t + 1;
	uint32_t first = a->window > 0 && end > a->window ? end - a->window : 0;

	st->q = a->q + (size_t)t * a->q_stride + (size_t)(i % a->n_group) * dim;
	st->o = out + (size_t)i * plx_k_attn_part_floats(dim);
	st->max = ATTN_EMPTY;
	st->seen = end > start ? end - start : 0;
	st->from = first > start ? first - start : 0;
	st->pick = a->pick != NULL ? a->pick[i] : UINT32_MAX;
	st->lo = 0;
	st->c = 0.0f;
	st->l = vf_set1(0.0f);
	st->iq = iq;
	if (a->kv.type != PLX_K_KV_F16 && st->pick != 0)
		kvq_query_make(a->kv.type, st->q, dim, iq);
	memset(st->o, 0, plx_k_attn_part_floats(dim) * sizeof *out);
}

static void attn_end(struct attn_state *st, uint32_t dim)
{
	st->o[dim] = st->max;
	st->o[dim + 1] = vf_hsum(st->l);
}

static void attn_part_some(const struct plx_k_attn *a, uint32_t start, float *out)
{
	const uint32_t nq_all = a->n_tok * a->n_group;

	for (uint32_t first = 0; first < nq_all; first += ATTN_SOME) {
		uint32_t nq = nq_all - first < ATTN_SOME ? nq_all - first : ATTN_SOME;
		struct attn_state st[ATTN_SOME];
		struct kvq_query iq[ATTN_SOME];

		for (uint32_t i = 0; i < nq; i++)
			attn_begin(&st[i], &iq[i], a, first + i, start, out);
		attn_queries_some(st, nq, a, start);
		for (uint32_t i = 0; i < nq; i++)
			attn_end(&st[i], a->kv.head_dim);
	}
}

static void op_attn_part(const struct plx_k_attn *a, uint32_t split, float *out)
{
	const uint32_t dim = a->kv.head_dim;
	const uint32_t start = split * PLX_K_ATTN_SPLIT;
	const uint32_t nq_all = a->n_tok * a->n_group;
	const uint32_t passes = (nq_all + ATTN_Q - 1) / ATTN_Q; /* of nearly equal size */

	PLX_DCHECK(dim % 16 == 0 && dim <= PLX_K_HEAD_DIM_MAX && a->kv.block_tokens % 16 == 0);
	if (a->pick != NULL || (a->window > 0 && a->pos + a->n_tok > a->window)) {
		attn_part_some(a, start, out);
		return;
	}
	for (uint32_t pass = 0; pass < passes; pass++) {
		uint32_t first = nq_all * pass / passes;
		uint32_t nq = nq_all * (pass + 1) / passes - first;
		struct attn_state st[ATTN_Q];
		struct kvq_query iq[ATTN_Q];

		for (uint32_t i = 0; i < nq; i++)
			attn_begin(&st[i], &iq[i], a, first + i, start, out);
		attn_queries(st, nq, a, start);
		for (uint32_t i = 0; i < nq; i++)
			attn_end(&st[i], dim);
	}
}

static void op_attn_merge(float *acc, const float *part, uint32_t n, uint32_t head_dim)
{
	const uint32_t step = plx_k_attn_part_floats(head_dim);

	for (uint32_t q = 0; q < n; q++, acc += step, part += step) {
		float ma = acc[head_dim];
		float mb = part[head_dim];
		float max = ma > mb ? ma : mb;
		float ca = exp_one(ma - max);
		float cb = exp_one(mb - max);

		for (uint32_t d = 0; d < head_dim; d += 16)
			vf_store(acc + d, vf_fma(vf_load(part + d), vf_set1(cb),
			                         vf_mul(vf_load(acc + d), vf_set1(ca))));
		acc[head_dim] = max;
		acc[head_dim + 1] = fmaf(part[head_dim + 1], cb, acc[head_dim + 1] * ca);
	}
}

static void op_attn_finish(float *out, const float *acc, uint32_t n, uint32_t head_dim,
                           enum plx_k_kv_type type)
{
	for (uint32_t q = 0; q < n; q++, out += head_dim) {
		vf inv = vf_set1(1.0f / acc[head_dim + 1]);

		for (uint32_t d = 0; d < head_dim; d += 16)
			vf_store(out + d, vf_mul(vf_load(acc + d), inv));
		if (type == PLX_K_KV_Q4)
			had_head(out, head_dim);
		acc += plx_k_attn_part_floats(head_dim);
	}
}

/* f16 with saturation; NaN passes both comparisons. */
static void to_f16(uint16_t *dst, const float *x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 16) {
		vf v = vf_min(vf_set1(65504.0f), vf_load(x + i));

		vf_to_f16(dst + i, vf_max(vf_set1(-65504.0f), v));
	}
}

/* Where position pos begins among its 16: element [dim][16] of K. */
static uint16_t *k_at(const struct plx_k_kv *kv, uint32_t pos)
{
	uint8_t *block = (uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;
	uint32_t at = pos % kv->block_tokens;

	PLX_DCHECK(kv->head_dim % 16 == 0 && kv->head_dim <= PLX_K_HEAD_DIM_MAX);
	return (uint16_t *)(void *)(block + kv->k_off) + (size_t)(at / 16 * 16) * kv->head_dim +
	       at % 16;
}

static void op_k_load(const struct plx_k_kv *kv, uint32_t pos, float *k)
{
	const uint16_t *k16 = k_at(kv, pos);
	uint16_t buf[16];

	if (kv->type != PLX_K_KV_F16) {
		kvq_k_load(kv, pos, k);
		return;
	}
	for (uint32_t d = 0; d < kv->head_dim; d += 16) {
		for (uint32_t i = 0; i < 16; i++)
			buf[i] = k16[(size_t)(d + i) * 16];
		vf_store(k + d, vf_from_f16(buf));
	}
}

static void op_k_store(const struct plx_k_kv *kv, uint32_t pos, const float *k)
{
	uint16_t *k16 = k_at(kv, pos);
	uint16_t buf[PLX_K_HEAD_DIM_MAX];

	if (kv->type != PLX_K_KV_F16) {
		kvq_k_store(kv, pos, k, false);
		return;
	}
	to_f16(buf, k, kv->head_dim);
	for (uint32_t d = 0; d < kv->head_dim; d++)
		k16[(size_t)d * 16] = buf[d];
}

static void op_kv_store(const struct plx_k_kv *kv, uint32_t pos, const float *k, const float *v)
{
	uint8_t *block = (uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;
	uint32_t at = pos % kv->block_tokens;

	if (kv->type != PLX_K_KV_F16) {
		kvq_store(kv, pos, k, v);
		return;
	}
	op_k_store(kv, pos, k);
	to_f16((uint16_t *)(void *)(block + kv->v_off) + (size_t)at * kv->head_dim, v,
	       kv->head_dim);
}

#endif
