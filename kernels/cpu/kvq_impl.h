/*
 * K and V in 8 and in 4 bits, once for every instruction set: included by attn_impl.h alone.
 *
 * Both products of attention are integer dots: of K with the query in 15 bits a block, of V with
 * the probabilities times V's scales in 15 bits a chunk. Integers are exact in any order, so only
 * what turns them into floats has an order to keep. An unseen position's weight is 0, whatever
 * bytes lie there; a token whose K or V has a NaN has NaN as the scales of its K, so that whoever
 * sees it becomes NaN and nobody else.
 */
#ifndef PLX_KERNELS_CPU_KVQ_IMPL_H
#define PLX_KERNELS_CPU_KVQ_IMPL_H

#include "kernels/cpu/kvq.h"
#include "kernels/cpu/v16.h"

#define KVQ_FULL  32512.0f  /* 127 * 256: the largest that two signed bytes hold */
#define KVQ_LEAST 0x1p-100f /* below it all is zero */

/* ---- rotation -------------------------------------------------------------------------------- */

/* Signs of the Walsh-Hadamard matrix of 16, over 4. */
static const float had16[16][16] = {
#define HAD_1(r, c) (__builtin_popcount((r) & (c)) % 2 ? -0.25f : 0.25f)
#define HAD_4(r, c) HAD_1(r, c), HAD_1(r, (c) + 1), HAD_1(r, (c) + 2), HAD_1(r, (c) + 3)
#define HAD_16(r)                                                                                  \
	{                                                                                          \
		HAD_4(r, 0), HAD_4(r, 4), HAD_4(r, 8), HAD_4(r, 12)                                \
	}
    HAD_16(0), HAD_16(1), HAD_16(2),  HAD_16(3),  HAD_16(4),  HAD_16(5),  HAD_16(6),  HAD_16(7),
    HAD_16(8), HAD_16(9), HAD_16(10), HAD_16(11), HAD_16(12), HAD_16(13), HAD_16(14), HAD_16(15)};

/* 1/sqrt(n) for n vectors that are mixed. */
static float had_scale(uint32_t n)
{
	return n == 1   ? 1.0f
	       : n == 2 ? 0x1.6a09e6p-1f
	       : n == 4 ? 0.5f
	       : n == 8 ? 0x1.6a09e6p-2f
	                : 0.25f;
}

/* One vector by the matrix of 16: sums in the order of its elements. */
V16_INLINE void had_one(float *x)
{
	vf sum = vf_mul(vf_set1(x[0]), vf_load(had16[0]));

	for (int e = 1; e < 16; e++)
		sum = vf_fma(vf_set1(x[e]), vf_load(had16[e]), sum);
	vf_store(x, sum);
}

/* n vectors of 16 among each other, n a power of two. */
static void had_mix(float *x, uint32_t n)
{
	vf scale = vf_set1(had_scale(n));

	for (uint32_t h = 1; h < n; h *= 2)
		for (uint32_t i = 0; i < n; i++) {
			float *a = x + (size_t)i * 16, *b = a + (size_t)h * 16;

			if (i & h)
				continue;
			vf va = vf_load(a), vb_ = vf_load(b);

			vf_store(a, vf_add(va, vb_));
			vf_store(b, vf_sub(va, vb_));
		}
	for (uint32_t i = 0; i < n; i++)
		vf_store(x + (size_t)i * 16, vf_mul(vf_load(x + (size_t)i * 16), scale));
}

/* A head turned by the Walsh-Hadamard matrix of the largest power of two that divides it. */
static void had_head(float *x, uint32_t dim)
{
	uint32_t n = dim / 16 & -(dim / 16);

	for (uint32_t i = 0; i < dim; i += 16)
		had_one(x + i);
	for (uint32_t i = 0; n > 1 && i < dim; i += n * 16)
		had_mix(x + i, n);
}

/* ---- storing and reading ---------------------------------------------------------------------
 */

/* The largest magnitude of 32 values; an infinity or a NaN where there is one. */
V16_INLINE float kvq_absmax(const float *x)
{
	const vi mag = vi_set1(0x7fffffff);
	vi a = vi_and(vi_from_bits(vf_load(x)), mag);
	vi b = vi_and(vi_from_bits(vf_load(x + 16)), mag);

	return plx_f32_from_bits((uint32_t)vi_hmax(vi_max(a, b)));
}

static uint16_t kvq_f16(float x)
{
	float in[16] = {x};
	uint16_t out[16];

	vf_to_f16(out, vf_load(in));
	return out[0];
}

static float kvq_f32(uint16_t h)
{
	uint16_t in[16] = {h};
	float out[16];

	vf_store(out, vf_from_f16(in));
	return out[0];
}

/* 32 values into u; returns their scale, signed so that the largest magnitude is -half. */
static uint16_t kvq_block(const int bits, const float *x, uint8_t *u)
{
	const float half = (float)(1 << (bits - 1));
	vf x0 = vf_load(x), x1 = vf_load(x + 16);
	float up = vf_hmax(vf_max(x0, x1));
	float down = vf_hmax(vf_max(vf_neg(x0), vf_neg(x1)));
	uint16_t d16 = kvq_f16((up > down ? -up : down) / half);
	float d = kvq_f32(d16);
	vf inv = vf_set1(d < 0.0f || d > 0.0f ? 1.0f / d : 0.0f);

	for (int i = 0; i < 32; i += 16) {
		vf v = vf_fma(vf_load(x + i), inv, vf_set1(half));

		v = vf_max(vf_min(v, vf_set1(2.0f * half - 1.0f)), vf_set1(0.0f));
		vi_store_i8((int8_t *)u + i, vi_sub(vi_round(v), vi_set1(128)));
	}
	for (int i = 0; i < 32; i++)
		u[i] ^= 128;
	return d16;
}

/*
 * A head as it is quantised: turned where the type says so, within f16, padded with zeros to whole
 * blocks. False where it has a NaN.
 */
static bool kvq_prepare(enum plx_k_kv_type type, const float *x, uint32_t dim, float *y)
{
	const uint32_t n = kvq_blocks(dim) * KVQ_BLOCK;
	vf sum = vf_set1(0.0f);

	memset(y + dim, 0, (n - dim) * sizeof *y);
	for (uint32_t i = 0; i < dim; i += 16) {
		vf v = vf_min(vf_set1(65504.0f), vf_load(x + i));

		v = vf_max(vf_set1(-65504.0f), v);
		sum = vf_add(sum, v);
		vf_store(y + i, v);
	}
	float all = vf_hsum(sum);

	if (!(all - all >= 0.0f))
		return false;
	if (type == PLX_K_KV_Q4)
		had_head(y, dim);
	return true;
}

/* Where u[c] of a block goes: bytes of K at position r of its group. */
static void kvq_put_k(struct kvq f, uint8_t *q, uint8_t *h, uint32_t r, const uint8_t *u)
{
	for (uint32_t c = 0; c < 32 && f.bits == 8; c++)
		q[(c >> 2) * 64 + r * 4 + (c & 3)] = u[c];
	for (uint32_t c = 0; c < 16 && f.bits != 8; c++)
		q[(c & 12) * 16 + r * 4 + (c & 3)] = (uint8_t)((u[c] & 15) | (u[c + 16] & 15) << 4);
	for (uint32_t i = 0; i < 4 && f.h_bytes > 0; i++) {
		uint32_t bits = 0;

		for (uint32_t quad = 0; quad < 8; quad++)
			bits |= (uint32_t)(u[quad * 4 + i] >> 4) << quad;
		h[r * 4 + i] = (uint8_t)bits;
	}
}

static void kvq_put_v(struct kvq f, uint8_t *q, uint32_t r, const uint8_t *u)
{
	for (uint32_t c = 0; c < 32 && f.bits == 8; c++)
		q[(r >> 2) * 128 + (c >> 4) * 64 + (c & 15) * 4 + (r & 3)] = u[c];
	for (uint32_t c = 0; c < 16 && f.bits != 8; c++)
		q[(r >> 2) * 64 + (c & 15) * 4 + (r & 3)] = (uint8_t)(u[c] | u[c + 16] << 4);
}

/* The group of 16 positions that pos lies in, from the head's K or V at off. */
static uint8_t *kvq_group(const struct plx_k_kv *kv, uint64_t off, struct kvq f, uint32_t pos)
{
	uint8_t *block = (uint8_t *)kv->base + kv->table[pos / kv->block_tokens] * kv->block_bytes;

	return block + off +
	       (size_t)(pos % kv->block_tokens / 16) * kvq_group_bytes(f, kv->head_dim);
}

static void kvq_put_scale(uint8_t *group, struct kvq f, uint32_t dim, uint32_t b, uint32_t r,
                          uint16_t d)
{
	memcpy(group + kvq_d_off(f, dim) + (b * 16 + r) * sizeof d, &d, sizeof d);
}

#define KVQ_NAN 0x7e00u

static void kvq_k_store(const struct plx_k_kv *kv, uint32_t pos, const float *k, bool v_is_nan)
{
	const struct kvq f = kvq_k(kv->type);
	const uint32_t dim = kv->head_dim, r = pos % 16;
	uint8_t *group = kvq_group(kv, kv->k_off, f, pos);
	float x[PLX_K_HEAD_DIM_MAX + KVQ_BLOCK];
	bool ok = kvq_prepare(kv->type, k, dim, x) && !v_is_nan;

	for (uint32_t b = 0; b < kvq_blocks(dim); b++) {
		uint8_t u[32] = {0};
		uint16_t d = KVQ_NAN;

		if (ok)
			d = f.bits == 8 ? kvq_block(8, x + b * 32, u) : kvq_block(5, x + b * 32, u);
		kvq_put_k(f, group + b * f.q_bytes, group + kvq_h_off(f, dim) + b * f.h_bytes, r,
		          u);
		kvq_put_scale(group, f, dim, b, r, d);
	}
}

static void kvq_store(const struct plx_k_kv *kv, uint32_t pos, const float *k, const float *v)
{
	const struct kvq f = kvq_v(kv->type);
	const uint32_t dim = kv->head_dim, r = pos % 16;
	uint8_t *group = kvq_group(kv, kv->v_off, f, pos);
	float x[PLX_K_HEAD_DIM_MAX + KVQ_BLOCK];
	bool ok = kvq_prepare(kv->type, v, dim, x);

	for (uint32_t b = 0; b < kvq_blocks(dim); b++) {
		uint8_t u[32] = {0};
		uint16_t d = 0;

		if (ok)
			d = f.bits == 8 ? kvq_block(8, x + b * 32, u) : kvq_block(4, x + b * 32, u);
		kvq_put_v(f, group + b * f.q_bytes, r, u);
		kvq_put_scale(group, f, dim, b, r, d);
	}
	kvq_k_store(kv, pos, k, !ok);
}

static void kvq_k_load(const struct plx_k_kv *kv, uint32_t pos, float *k)
{
	const struct kvq f = kvq_k(kv->type);
	const uint32_t dim = kv->head_dim, r = pos % 16;
	const uint8_t *group = kvq_group(kv, kv->k_off, f, pos);

	for (uint32_t b = 0; b < kvq_blocks(dim); b++) {
		const uint8_t *q = group + b * f.q_bytes;
		const uint8_t *h = group + kvq_h_off(f, dim) + b * f.h_bytes;
		uint32_t n = dim - b * 32 < 32 ? dim - b * 32 : 32;
		uint16_t d;

		memcpy(&d, group + kvq_d_off(f, dim) + (b * 16 + r) * 2, sizeof d);
		const float scale = kvq_f32(d);

		for (uint32_t c = 0; c < n; c++) {
			uint32_t quad = c >> 2, at = r * 4 + (c & 3), u;

			if (f.bits == 8)
				u = q[quad * 64 + at];
			else
				u = (q[(quad & 3) * 64 + at] >> (c >> 4) * 4 & 15u) |
				    (h[at] >> quad & 1u) << 4;
			k[b * 32 + c] = scale * (float)((int32_t)u - (1 << (f.bits - 1)));
		}
	}
	if (kv->type == PLX_K_KV_Q4)
		had_head(k, dim);
}

/* ---- scores ----------------------------------------------------------------------------------
 */

/* A query as integers: about d * (256 * hi + lo) for each block. */
struct kvq_query {
	int8_t hi[PLX_K_HEAD_DIM_MAX + KVQ_BLOCK];
	int8_t lo[PLX_K_HEAD_DIM_MAX + KVQ_BLOCK];
	float d[KVQ_BLOCKS];     /* NaN where the query has one or an infinity */
	int32_t sum[KVQ_BLOCKS]; /* of the integers */
};

/* Sixteen integers as high and low bytes. */
V16_INLINE void kvq_split(vi a, int8_t *hi, int8_t *lo)
{
	vi h = vi_sar(vi_add(a, vi_set1(128)), 8);

	vi_store_i8(hi, h);
	vi_store_i8(lo, vi_sub(a, vi_shl(h, 8)));
}

static void kvq_query_make(enum plx_k_kv_type type, const float *q, uint32_t dim,
                           struct kvq_query *iq)
{
	float x[PLX_K_HEAD_DIM_MAX + KVQ_BLOCK];
	const uint32_t n_blocks = kvq_blocks(dim);

	memcpy(x, q, dim * sizeof *x);
	memset(x + dim, 0, (n_blocks * KVQ_BLOCK - dim) * sizeof *x);
	if (type == PLX_K_KV_Q4)
		had_head(x, dim);
	for (uint32_t b = 0; b < n_blocks; b++) {
		float top = kvq_absmax(x + b * 32);
		bool finite = top - top >= 0.0f, some = finite && top >= KVQ_LEAST;
		vf inv = vf_set1(some ? KVQ_FULL / top : 0.0f);

		iq->sum[b] = 0;
		for (uint32_t i = b * 32; i < b * 32 + 32; i += 16) {
			vi a = some ? vi_round(vf_mul(vf_load(x + i), inv)) : vi_set1(0);

			kvq_split(a, iq->hi + i, iq->lo + i);
			iq->sum[b] += vi_hsum(a);
		}
		iq->d[b] = !finite ? NAN : some ? top / KVQ_FULL : 0.0f;
	}
}

/* 4 dimensions of 16 positions, quad 0..7 of a block of K. */
V16_INLINE vb kvq_k_quad(const struct kvq f, const uint8_t *q, const uint8_t *h, const int quad)
{
	if (f.bits == 8)
		return vb_load(q + quad * 64);
	vb packed = vb_load(q + (quad & 3) * 64);
	vb u = quad < 4 ? vb_low4(packed) : vb_high4(packed);

	return vb_or_bits(u, vb_load(h), 4 - quad, 0x10);
}

V16_INLINE vi kvq_dot(const struct kvq f, vi acc, vb u, const int8_t *a)
{
	return f.bits == 8 ? vi_dot_wide(acc, u, a) : vi_dot(acc, u, a);
}

/* 256 * hi + lo - half * sum */
V16_INLINE vf kvq_whole(const struct kvq f, vi hi, vi lo, int32_t sum)
{
	const int32_t half = 1 << (f.bits - 1);

	return vf_from_i(vi_sub(vi_add(vi_shl(hi, 8), lo), vi_set1(half * sum)));
}

#define KVQ_PAIR 2 /* groups of 16 positions that go together */

/* acc += the scores of block b for nq queries at ng groups. */
V16_INLINE void kvq_scores_block(const struct kvq f, const int nq, const int ng,
                                 const struct attn_state *st, const uint8_t *const *k, uint32_t dim,
                                 uint32_t b, vf acc[][KVQ_PAIR])
{
	vi hi[ATTN_Q][KVQ_PAIR], lo[ATTN_Q][KVQ_PAIR];

#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 2
		for (int g = 0; g < ng; g++)
			hi[i][g] = lo[i][g] = vi_set1(0);
#define KVQ_QUAD(quad)                                                                             \
	do {                                                                                       \
		_Pragma("GCC unroll 2") for (int g = 0; g < ng; g++)                               \
		{                                                                                  \
			vb u = kvq_k_quad(f, k[g] + b * f.q_bytes,                                 \
			                  k[g] + kvq_h_off(f, dim) + b * f.h_bytes, (quad));       \
			_Pragma("GCC unroll 6") for (int i = 0; i < nq; i++)                       \
			{                                                                          \
				hi[i][g] =                                                         \
				    kvq_dot(f, hi[i][g], u, st[i].iq->hi + b * 32 + (quad)*4);     \
				lo[i][g] =                                                         \
				    kvq_dot(f, lo[i][g], u, st[i].iq->lo + b * 32 + (quad)*4);     \
			}                                                                          \
		}                                                                                  \
	} while (0)
	KVQ_QUAD(0);
	KVQ_QUAD(4);
	KVQ_QUAD(1);
	KVQ_QUAD(5);
	KVQ_QUAD(2);
	KVQ_QUAD(6);
	KVQ_QUAD(3);
	KVQ_QUAD(7);
#undef KVQ_QUAD
#pragma GCC unroll 2
	for (int g = 0; g < ng; g++) {
		vf d = vf_from_f16(
		    (const uint16_t *)(const void *)(k[g] + kvq_d_off(f, dim) + b * 32));

#pragma GCC unroll 6
		for (int i = 0; i < nq; i++)
			acc[i][g] = vf_fma(kvq_whole(f, hi[i][g], lo[i][g], st[i].iq->sum[b]),
			                   vf_mul(d, vf_set1(st[i].iq->d[b])), acc[i][g]);
	}
}

/* Scores of nq queries at ng groups of 16 positions, not yet scaled. */
V16_INLINE void kvq_scores(const struct kvq f, const int nq, const int ng,
                           const struct attn_state *st, const uint8_t *const *k, uint32_t dim,
                           uint32_t first, vf s[][ATTN_LANES])
{
	vf acc[ATTN_Q][KVQ_PAIR];

#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 2
		for (int g = 0; g < ng; g++)
			acc[i][g] = vf_set1(0.0f);
	for (uint32_t b = 0; b < kvq_blocks(dim); b++)
		kvq_scores_block(f, nq, ng, st, k + first, dim, b, acc);
#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 2
		for (int g = 0; g < ng; g++)
			s[i][first + (uint32_t)g] = acc[i][g];
}

/* ---- values ----------------------------------------------------------------------------------
 */

/* A chunk's probabilities times the scales of a block of V: about d * (256 * hi + lo). */
struct kvq_weights {
	int8_t hi[PLX_K_ATTN_CHUNK];
	int8_t lo[PLX_K_ATTN_CHUNK];
	float d;
	int32_t sum;
};

/* @p [ng * 16], 0 where nothing is seen.  @d  the scales of each group. */
V16_INLINE void kvq_weigh(const float *p, const uint8_t *const *d, uint32_t ng,
                          struct kvq_weights *w)
{
	vf x[ATTN_LANES], top = vf_set1(0.0f);
	vi sum = vi_set1(0);

	for (uint32_t g = 0; g < ng; g++) {
		vf scale = vf_from_f16((const uint16_t *)(const void *)d[g]);

		x[g] = vf_nan_to(vf_mul(vf_load(p + g * 16), scale), 0.0f);
		top = vf_max(vf_max(x[g], vf_neg(x[g])), top);
	}
	float most = vf_hmax(top);
	vf inv = vf_set1(most >= KVQ_LEAST ? KVQ_FULL / most : 0.0f);

	for (uint32_t g = 0; g < ng; g++) {
		vi a = vi_round(vf_mul(x[g], inv));

		kvq_split(a, w->hi + g * 16, w->lo + g * 16);
		sum = vi_add(sum, a);
	}
	w->d = most >= KVQ_LEAST ? most / KVQ_FULL : 0.0f;
	w->sum = vi_hsum(sum);
}

/* o = o*c + sum over positions of p*v for block b of nq queries, ng groups of positions. */
V16_INLINE void kvq_values(const struct kvq f, const int nq, const struct attn_state *st,
                           const uint8_t *const *v, uint32_t ng, uint32_t dim, uint32_t b)
{
	struct kvq_weights w[ATTN_Q];
	const uint8_t *d[ATTN_LANES];
	vi hi[ATTN_Q][2], lo[ATTN_Q][2];

	for (uint32_t g = 0; g < ng; g++)
		d[g] = v[g] + kvq_d_off(f, dim) + b * 32;
	for (int i = 0; i < nq; i++)
		kvq_weigh(st[i].p, d, ng, &w[i]);
#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
		hi[i][0] = hi[i][1] = lo[i][0] = lo[i][1] = vi_set1(0);
	for (uint32_t j = 0; j < ng * 4; j++) {
		const uint8_t *q = v[j / 4] + b * f.q_bytes + j % 4 * (f.q_bytes / 4);
		vb u[2];

		u[0] = f.bits == 8 ? vb_load(q) : vb_low4(vb_load(q));
		u[1] = f.bits == 8 ? vb_load(q + 64) : vb_high4(vb_load(q));
#pragma GCC unroll 6
		for (int i = 0; i < nq; i++)
#pragma GCC unroll 2
			for (int g = 0; g < 2; g++) {
				hi[i][g] = kvq_dot(f, hi[i][g], u[g], w[i].hi + j * 4);
				lo[i][g] = kvq_dot(f, lo[i][g], u[g], w[i].lo + j * 4);
			}
	}
#pragma GCC unroll 6
	for (int i = 0; i < nq; i++)
#pragma GCC unroll 2
		for (int g = 0; g < 2; g++) {
			float *o = st[i].o + b * 32 + g * 16;
			vf c = vf_mul(vf_load(o), vf_set1(st[i].c));

			vf_store(o, vf_fma(kvq_whole(f, hi[i][g], lo[i][g], w[i].sum),
			                   vf_set1(w[i].d), c));
		}
}

/* Where the first n positions from pos on lie. */
static void kvq_at(const struct plx_k_kv *kv, uint32_t pos, uint32_t n, const uint8_t **k,
                   const uint8_t **v)
{
	for (uint32_t g = 0; g * 16 < n; g++, pos += 16) {
		k[g] = kvq_group(kv, kv->k_off, kvq_k(kv->type), pos);
		v[g] = kvq_group(kv, kv->v_off, kvq_v(kv->type), pos);
	}
}

#endif
