/*
 * Attention over paged KV, once for every instruction set: included by isa_*.c alone.
 *
 * A lane of the scores is a position (K is stored 16 positions side by side), a lane of the output
 * a head dimension. Up to V16_ATTN_Q queries go through a chunk together and share its loads; each
 * query's own arithmetic is the same alone or in company.
 */
#ifndef PLX_KERNELS_CPU_ATTN_IMPL_H
#define PLX_KERNELS_CPU_ATTN_IMPL_H

#include "fw/base/check.h"
#include "kernels/cpu/v16.h"
#include "kernels/kernels.h"

#define ATTN_EMPTY (-3.0e38f) /* the maximum of no scores; finite, so that differences are too */
#define ATTN_LANES (PLX_K_ATTN_CHUNK / 16)

/* One query's running state; o lies in the caller's partial. */
struct attn_state {
	const float *q;
	float *o;
	float max;
	float c;       /* what the newest chunk scales o by */
	uint32_t seen; /* positions of this split that it may see */
	vf l;          /* sum of p, by lane */
	float p[PLX_K_ATTN_CHUNK];
};

/* plx_k_expf, without leaving the registers. */
V16_INLINE float exp_one(float x)
{
	float e[16];

	vf_store(e, vf_exp(vf_set1(x)));
	return e[0];
}

static const uint16_t *k_at(const struct plx_k_kv *kv, uint32_t pos)
{
	const uint8_t *block =
	    (const uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;

	return (const uint16_t *)(const void *)(block + kv->k_off) +
	       (size_t)(pos % kv->block_tokens / 16 * 16) * kv->head_dim;
}

static const uint16_t *v_at(const struct plx_k_kv *kv, uint32_t pos)
{
	const uint8_t *block =
	    (const uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;

	return (const uint16_t *)(const void *)(block + kv->v_off) +
	       (size_t)(pos % kv->block_tokens) * kv->head_dim;
}

/* Scores of nq queries at ng groups of 16 positions: s[i][g], not yet scaled. */
V16_INLINE void attn_scores(const int nq, const int ng, const struct attn_state *st,
                            const uint16_t *const *k, uint32_t dim, vf s[][ATTN_LANES])
{
	vf acc[V16_ATTN_Q][ATTN_LANES];

#pragma GCC unroll 4
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int g = 0; g < ng; g++)
			acc[i][g] = vf_set1(0.0f);
	for (uint32_t d = 0; d < dim; d++) {
		vf kd[ATTN_LANES];

#pragma GCC unroll 4
		for (int g = 0; g < ng; g++)
			kd[g] = vf_from_f16(k[g] + (size_t)d * 16);
#pragma GCC unroll 4
		for (int i = 0; i < nq; i++) {
			vf q = vf_set1(st[i].q[d]);

#pragma GCC unroll 4
			for (int g = 0; g < ng; g++)
				acc[i][g] = vf_fma(q, kd[g], acc[i][g]);
		}
	}
#pragma GCC unroll 4
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int g = 0; g < ng; g++)
			s[i][g] = acc[i][g];
}

/* A chunk's scores into probabilities p, the new maximum, the factor c and the sum l. */
static void attn_softmax(struct attn_state *st, const vf *s, uint32_t n, float scale)
{
	vf e[ATTN_LANES];
	vf top = vf_set1(ATTN_EMPTY);
	uint32_t groups = (n + 15) / 16;

	for (uint32_t g = 0; g < ATTN_LANES; g++)
		e[g] = vf_set1(0.0f);
	for (uint32_t g = 0; g < groups; g++) {
		uint32_t lanes = n - g * 16 < 16 ? n - g * 16 : 16;

		e[g] = vf_first(vf_mul(s[g], vf_set1(scale)), lanes, ATTN_EMPTY);
		top = vf_max(e[g], top);
	}
	float max = vf_hmax(top);

	max = max > st->max ? max : st->max;
	vf m = vf_set1(max);

	st->c = exp_one(st->max - max);
	st->max = max;
	for (uint32_t g = 0; g < groups; g++) {
		uint32_t lanes = n - g * 16 < 16 ? n - g * 16 : 16;

		e[g] = vf_first(vf_exp(vf_sub(e[g], m)), lanes, 0.0f);
		vf_store(st->p + g * 16, e[g]);
	}
	st->l = vf_fma(st->l, vf_set1(st->c), vf_add(vf_add(e[0], e[1]), vf_add(e[2], e[3])));
}

/* o = o*c + sum over j of p[j]*v[j] for nd vectors of dimensions, nq queries, n positions. */
V16_INLINE void attn_values(const int nq, const int nd, const struct attn_state *st,
                            const uint16_t *const *v, uint32_t n, uint32_t dim, uint32_t d0)
{
	vf o[V16_ATTN_Q][4];

#pragma GCC unroll 4
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int d = 0; d < nd; d++)
			o[i][d] = vf_mul(vf_load(st[i].o + d0 + d * 16), vf_set1(st[i].c));
	for (uint32_t j = 0; j < n; j++) {
		const uint16_t *row = v[j / 16] + (size_t)(j % 16) * dim + d0;
		vf vd[4];

#pragma GCC unroll 4
		for (int d = 0; d < nd; d++)
			vd[d] = vf_from_f16(row + d * 16);
#pragma GCC unroll 4
		for (int i = 0; i < nq; i++) {
			vf p = vf_set1(st[i].p[j]);

#pragma GCC unroll 4
			for (int d = 0; d < nd; d++)
				o[i][d] = vf_fma(p, vd[d], o[i][d]);
		}
	}
#pragma GCC unroll 4
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 4
		for (int d = 0; d < nd; d++)
			vf_store(st[i].o + d0 + d * 16, o[i][d]);
}

/* nq queries that see the same n positions (1..64) of the chunk that begins at pos. */
V16_INLINE void attn_chunk(const int nq, struct attn_state *st, const struct plx_k_attn *a,
                           uint32_t pos, uint32_t n)
{
	const uint32_t dim = a->kv.head_dim;
	const uint16_t *k[ATTN_LANES];
	const uint16_t *v[ATTN_LANES];
	vf s[V16_ATTN_Q][ATTN_LANES];
	uint32_t d = 0;

	for (uint32_t g = 0; g < (n + 15) / 16; g++) {
		k[g] = k_at(&a->kv, pos + g * 16);
		v[g] = v_at(&a->kv, pos + g * 16);
	}
	if (n > PLX_K_ATTN_CHUNK - 16)
		attn_scores(nq, ATTN_LANES, st, k, dim, s);
	else
		for (uint32_t g = 0; g < (n + 15) / 16; g++) {
			vf one[V16_ATTN_Q][ATTN_LANES];

			attn_scores(nq, 1, st, k + g, dim, one);
			for (int i = 0; i < nq; i++)
				s[i][g] = one[i][0];
		}
	for (int i = 0; i < nq; i++)
		attn_softmax(&st[i], s[i], n, a->scale);
	for (; d + 64 <= dim; d += 64)
		attn_values(nq, 4, st, v, n, dim, d);
	for (; d < dim; d += 16)
		attn_values(nq, 1, st, v, n, dim, d);
}

static __attribute__((noinline)) void
attn_chunk_one(struct attn_state *st, const struct plx_k_attn *a, uint32_t pos, uint32_t n)
{
	attn_chunk(1, st, a, pos, n);
}

static __attribute__((noinline)) void
attn_chunk_full(struct attn_state *st, const struct plx_k_attn *a, uint32_t pos, uint32_t n)
{
	attn_chunk(V16_ATTN_Q, st, a, pos, n);
}

#if V16_ATTN_Q > 3
static __attribute__((noinline)) void
attn_chunk_three(struct attn_state *st, const struct plx_k_attn *a, uint32_t pos, uint32_t n)
{
	attn_chunk(3, st, a, pos, n);
}
#endif

/* Chunks of one split for up to V16_ATTN_Q queries. */
static void attn_queries(struct attn_state *st, uint32_t nq, const struct plx_k_attn *a,
                         uint32_t start)
{
	for (uint32_t at = 0; at < PLX_K_ATTN_SPLIT; at += PLX_K_ATTN_CHUNK) {
		uint32_t n[V16_ATTN_Q];
		bool same = true;
		bool any = false;

		for (uint32_t i = 0; i < nq; i++) {
			n[i] = st[i].seen > at ? st[i].seen - at : 0;
			n[i] = n[i] < PLX_K_ATTN_CHUNK ? n[i] : PLX_K_ATTN_CHUNK;
			same = same && n[i] == n[0];
			any = any || n[i] > 0;
		}
		if (!any)
			return;
		if (same && nq == V16_ATTN_Q) {
			attn_chunk_full(st, a, start + at, n[0]);
			continue;
		}
#if V16_ATTN_Q > 3
		if (same && nq == 3) {
			attn_chunk_three(st, a, start + at, n[0]);
			continue;
		}
#endif
		for (uint32_t i = 0; i < nq; i++)
			if (n[i])
				attn_chunk_one(&st[i], a, start + at, n[i]);
	}
}

static void op_attn_part(const struct plx_k_attn *a, uint32_t split, float *out)
{
	const uint32_t dim = a->kv.head_dim;
	const uint32_t start = split * PLX_K_ATTN_SPLIT;
	const uint32_t nq_all = a->n_tok * a->n_group;

	PLX_DCHECK(dim % 16 == 0 && dim <= PLX_K_HEAD_DIM_MAX && a->kv.block_tokens % 16 == 0);
	for (uint32_t first = 0; first < nq_all; first += V16_ATTN_Q) {
		uint32_t nq = nq_all - first < V16_ATTN_Q ? nq_all - first : V16_ATTN_Q;
		struct attn_state st[V16_ATTN_Q];

		for (uint32_t i = 0; i < nq; i++) {
			uint32_t t = (first + i) / a->n_group;
			uint32_t end = a->pos + t + 1;

			st[i].q = a->q + (size_t)t * a->q_stride +
			          (size_t)((first + i) % a->n_group) * dim;
			st[i].o = out + (size_t)(first + i) * plx_k_attn_part_floats(dim);
			st[i].max = ATTN_EMPTY;
			st[i].seen = end > start ? end - start : 0;
			st[i].l = vf_set1(0.0f);
			memset(st[i].o, 0, plx_k_attn_part_floats(dim) * sizeof *out);
		}
		attn_queries(st, nq, a, start);
		for (uint32_t i = 0; i < nq; i++) {
			st[i].o[dim] = st[i].max;
			st[i].o[dim + 1] = vf_hsum(st[i].l);
		}
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

static void op_attn_finish(float *out, const float *acc, uint32_t n, uint32_t head_dim)
{
	for (uint32_t q = 0; q < n; q++, out += head_dim) {
		vf inv = vf_set1(1.0f / acc[head_dim + 1]);

		for (uint32_t d = 0; d < head_dim; d += 16)
			vf_store(out + d, vf_mul(vf_load(acc + d), inv));
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

static void op_kv_store(const struct plx_k_kv *kv, uint32_t pos, const float *k, const float *v)
{
	uint8_t *block = (uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;
	uint32_t at = pos % kv->block_tokens;
	uint16_t *k16 = (uint16_t *)(void *)(block + kv->k_off) +
	                (size_t)(at / 16 * 16) * kv->head_dim + at % 16;
	uint16_t buf[PLX_K_HEAD_DIM_MAX];

	PLX_DCHECK(kv->head_dim % 16 == 0 && kv->head_dim <= PLX_K_HEAD_DIM_MAX);
	to_f16(buf, k, kv->head_dim);
	for (uint32_t d = 0; d < kv->head_dim; d++)
		k16[(size_t)d * 16] = buf[d];
	to_f16((uint16_t *)(void *)(block + kv->v_off) + (size_t)at * kv->head_dim, v,
	       kv->head_dim);
}

#endif
