/*
 * The matrix product, once for every instruction set: included by isa_*.c alone.
 *
 * One register block is a tile of 16 rows by up to V16_MM_TOKENS tokens over the whole of k, so a
 * result's additions run in the order of k whatever the caller's cut. The weights of a tile are
 * unpacked once for all tokens of a register block; for a handful of tokens memory is read once.
 */
#ifndef PLX_KERNELS_CPU_MM_IMPL_H
#define PLX_KERNELS_CPU_MM_IMPL_H

#include "fw/base/check.h"
#include "kernels/cpu/layout.h"
#include "kernels/cpu/mm_bf16.h"
#include "kernels/cpu/mm_tile.h"
#include "kernels/cpu/v16.h"
#include "kernels/kernels.h"

V16_INLINE bool mm_has_min(enum plx_qtype t)
{
	return t == PLX_Q_Q4_1 || t == PLX_Q_Q5_1 || t == PLX_Q_Q4_K || t == PLX_Q_Q5_K;
}

/* log2 of what is subtracted from a stored quant to get its signed value. */
V16_INLINE int mm_offset_log2(enum plx_qtype t)
{
	if (t == PLX_Q_Q4_0)
		return 3;
	if (t == PLX_Q_Q5_0)
		return 4;
	return t == PLX_Q_Q6_K ? 5 : 7;
}

/* Columns 4g..4g+3 of 16 rows, g = 0..7, from the block's planes. */
V16_INLINE vb mm_weights(struct plx_layout l, const uint8_t *q, vb h, const int g)
{
	if (l.q_bytes == 512)
		return vb_load(q + g * 64);
	vb packed = vb_load(q + (g & 3) * 64);
	vb w = g < 4 ? vb_low4(packed) : vb_high4(packed);

	if (l.h_bytes == 64)
		return vb_or_bits(w, h, 4 - g, 0x10);
	if (l.h_bytes == 128)
		return vb_or_bits(w, h, 4 - 2 * (g & 3), 0x30);
	return w;
}

V16_INLINE vi mm_dot(struct plx_layout l, vi acc, vb w, const int8_t *a)
{
	return l.q_bytes == 512 ? vi_dot_wide(acc, w, a) : vi_dot(acc, w, a);
}

/* Dots of unsigned quants: lo of columns 0..15, hi of 16..31, for nt tokens. */
V16_INLINE void mm_dots(struct plx_layout l, const int nt, const uint8_t *q, const uint8_t *h,
                        const struct plx_k_qblk *a, size_t stride, vi *lo, vi *hi)
{
	vb h0 = vb_load(l.h_bytes ? h : q);
	vb h1 = vb_load(l.h_bytes == 128 ? h + 64 : q);

#pragma GCC unroll 8
	for (int t = 0; t < nt; t++)
		lo[t] = hi[t] = vi_set1(0);
#define MM_DOT4(g, high, sum)                                                                      \
	do {                                                                                       \
		vb w = mm_weights(l, q, high, g);                                                  \
		_Pragma("GCC unroll 8") for (int t = 0; t < nt; t++) sum[t] =                      \
		    mm_dot(l, sum[t], w, a[(size_t)t * stride].q + 4 * (g));                       \
	} while (0)
	MM_DOT4(0, h0, lo);
	MM_DOT4(4, (l.h_bytes == 128 ? h1 : h0), hi);
	MM_DOT4(1, h0, lo);
	MM_DOT4(5, (l.h_bytes == 128 ? h1 : h0), hi);
	MM_DOT4(2, h0, lo);
	MM_DOT4(6, (l.h_bytes == 128 ? h1 : h0), hi);
	MM_DOT4(3, h0, lo);
	MM_DOT4(7, (l.h_bytes == 128 ? h1 : h0), hi);
#undef MM_DOT4
}

/* Signed integer dot of one token: offsets taken off, Q6_K's two scales applied. Exact. */
V16_INLINE vi mm_signed(enum plx_qtype type, vi lo, vi hi, const struct plx_k_qblk *a,
                        const uint8_t *s6)
{
	if (mm_has_min(type))
		return vi_add(lo, hi);
	const int shift = mm_offset_log2(type);

	if (type == PLX_Q_Q6_K) {
		lo = vi_sub(lo, vi_shl(vi_set1(a->sum_lo), shift));
		hi = vi_sub(hi, vi_shl(vi_set1(a->sum - a->sum_lo), shift));
		return vi_add(vi_mul(lo, vi_from_i8(s6)), vi_mul(hi, vi_from_i8(s6 + 16)));
	}
	return vi_sub(vi_add(lo, hi), vi_shl(vi_set1(a->sum), shift));
}

/* What multiplies a block's dot, and (where the format has a minimum) its sum. */
struct mm_scale {
	vf d;
	vf min;
	const uint8_t *s6;
};

V16_INLINE struct mm_scale mm_scales(enum plx_qtype type, const uint8_t *s, uint32_t in_group,
                                     vf group_d, vf group_min)
{
	struct mm_scale r = {group_d, group_min, s};
	const uint16_t *f16 = (const uint16_t *)(const void *)s;

	if (type == PLX_Q_Q4_K || type == PLX_Q_Q5_K) {
		const uint8_t *sub = s + 64 + in_group * 32;

		r.d = vf_mul(group_d, vf_from_i(vi_from_u8(sub)));
		r.min = vf_mul(group_min, vf_from_i(vi_from_u8(sub + 16)));
	} else if (type == PLX_Q_Q6_K) {
		r.s6 = s + 32 + in_group * 32;
	} else if (mm_has_min(type)) {
		r.d = vf_from_f16(f16 + in_group * 32);
		r.min = vf_from_f16(f16 + in_group * 32 + 16);
	} else {
		r.d = vf_from_f16(f16 + in_group * 16);
	}
	return r;
}

/* One 32-block: acc[t] += its product with nt tokens. */
V16_INLINE void mm_block(enum plx_qtype type, const int nt, const uint8_t *q, const uint8_t *h,
                         struct mm_scale s, const struct plx_k_qblk *a, size_t stride, vf *acc)
{
	vi lo[V16_MM_TOKENS];
	vi hi[V16_MM_TOKENS];

	mm_dots(plx_layout_of(type), nt, q, h, a, stride, lo, hi);
#pragma GCC unroll 8
	for (int t = 0; t < nt; t++) {
		const struct plx_k_qblk *at = a + (size_t)t * stride;
		vi dot = mm_signed(type, lo[t], hi[t], at, s.s6);

		acc[t] = vf_fma(s.d, vf_mul(vf_from_i(dot), vf_set1(at->d)), acc[t]);
		if (mm_has_min(type))
			acc[t] = vf_fma(s.min, vf_set1(at->s), acc[t]);
	}
}

/* A tile by nt tokens over the whole of k. */
V16_INLINE void mm_blocks(enum plx_qtype type, const int nt, const struct mm_tile *m, vf *acc)
{
	const struct plx_layout l = plx_layout_of(type);
	const uint32_t group_bytes = plx_layout_group_bytes(l);
	const uint32_t block_bytes = (group_bytes / l.group_blocks + 63) / 64 * 64;
	const struct plx_k_qblk *a = m->a;
	const uint8_t *group = m->w;
	uint32_t n_blocks = m->n_in / 32;

	for (int t = 0; t < nt; t++)
		acc[t] = vf_set1(0.0f);
	for (uint32_t b = 0; b < n_blocks; group += group_bytes) {
		const uint8_t *h = group + l.group_blocks * l.q_bytes;
		const uint8_t *s = h + l.group_blocks * l.h_bytes;
		const uint16_t *f16 = (const uint16_t *)(const void *)s;
		vf d = vf_from_f16(f16);
		vf min = vf_neg(vf_from_f16(f16 + 16));

		for (uint32_t i = 0; i < l.group_blocks && b < n_blocks; i++, b++, a++) {
			for (uint32_t line = 0; line < block_bytes; line += 64)
				__builtin_prefetch(group + m->prefetch + i * block_bytes + line);
			mm_block(type, nt, group + i * l.q_bytes, h + i * l.h_bytes,
			         mm_scales(type, s, i, d, min), a, m->stride, acc);
		}
	}
}

/* 16 rows' weights at column k. */
V16_INLINE vf mm_float_weights(enum plx_qtype type, const uint8_t *w, uint32_t k)
{
	if (type == PLX_Q_F32)
		return vf_load((const float *)(const void *)w + (size_t)k * 16);
	return vf_from_f16((const uint16_t *)(const void *)w + (size_t)k * 16);
}

/* F32 and F16: sum j takes the columns k with k % 4 == j. */
V16_INLINE void mm_floats(enum plx_qtype type, const int nt, const struct mm_tile *m, vf *acc)
{
	const uint32_t col_bytes = type == PLX_Q_F32 ? 64 : 32;
	vf p[4][V16_MM_TOKENS / 2];

	for (int t = 0; t < nt; t++)
		p[0][t] = p[1][t] = p[2][t] = p[3][t] = vf_set1(0.0f);
	for (uint32_t k = 0; k < m->n_in; k += 4) {
		__builtin_prefetch(m->w + m->prefetch + (size_t)k * col_bytes);
		__builtin_prefetch(m->w + m->prefetch + (size_t)k * col_bytes + 64);
#pragma GCC unroll 4
		for (uint32_t j = 0; j < 4; j++) {
			vf w = mm_float_weights(type, m->w + (size_t)k * col_bytes, j);

#pragma GCC unroll 4
			for (int t = 0; t < nt; t++)
				p[j][t] = vf_fma(w, vf_set1(m->x[(size_t)t * m->stride + k + j]),
				                 p[j][t]);
		}
	}
	for (int t = 0; t < nt; t++)
		acc[t] = vf_add(vf_add(p[0][t], p[1][t]), vf_add(p[2][t], p[3][t]));
}

/* Store or add 16 rows of one token; the last tile may have fewer rows. */
static void mm_store(float *y, vf acc, uint32_t n_rows, enum plx_k_mode mode)
{
	float buf[PLX_K_TILE] = {0};

	if (n_rows >= PLX_K_TILE) {
		vf_store(y, mode == PLX_K_ADD ? vf_add(vf_load(y), acc) : acc);
		return;
	}
	if (mode == PLX_K_ADD) {
		memcpy(buf, y, n_rows * sizeof *y);
		acc = vf_add(vf_load(buf), acc);
	}
	vf_store(buf, acc);
	memcpy(y, buf, n_rows * sizeof *y);
}

V16_INLINE void mm_some(enum plx_qtype type, const int nt, const struct mm_tile *tile, vf *acc)
{
	if (plx_k_wants(type) == PLX_K_ACT_Q8)
		mm_blocks(type, nt, tile, acc);
	else if (plx_k_wants(type) == PLX_K_ACT_BF16)
		mm_bf16_tokens(nt <= MM_BF16_TOKENS ? nt : MM_BF16_TOKENS, tile, acc);
	else
		mm_floats(type, nt <= V16_MM_TOKENS / 2 ? nt : V16_MM_TOKENS / 2, tile, acc);
}

/*
 * How many of the tokens that are left go into the next register block. Sanitizer builds have
 * fewer sizes, since each is compiled for each format; results are the same.
 */
static uint32_t mm_step(uint32_t left, uint32_t most)
{
	if (left >= most)
		return most;
#ifdef PLX_DEBUG
	return left >= 2 ? 2 : 1;
#else
	return left;
#endif
}

/* Most tokens of a register block. */
V16_INLINE uint32_t mm_most(enum plx_qtype type)
{
	if (plx_k_wants(type) == PLX_K_ACT_F32)
		return V16_MM_TOKENS / 2;
	return plx_k_wants(type) == PLX_K_ACT_BF16 ? MM_BF16_TOKENS : V16_MM_TOKENS;
}

/* The register block by its number of tokens, 1..mm_most(type). */
V16_INLINE void mm_tokens(enum plx_qtype type, uint32_t nt, const struct mm_tile *tile, vf *acc)
{
#ifdef V16_PLAIN
	mm_some(type, (int)nt, tile, acc);
#else
	switch (nt) {
	case 1:
		mm_some(type, 1, tile, acc);
		break;
	case 2:
		mm_some(type, 2, tile, acc);
		break;
#ifndef PLX_DEBUG
	case 3:
		mm_some(type, 3, tile, acc);
		break;
#if V16_MM_TOKENS > 4
	case 4:
		mm_some(type, 4, tile, acc);
		break;
	case 5:
		mm_some(type, 5, tile, acc);
		break;
	case 6:
		mm_some(type, 6, tile, acc);
		break;
	case 7:
		mm_some(type, 7, tile, acc);
		break;
#endif
#endif
	default:
		mm_some(type, V16_MM_TOKENS, tile, acc);
	}
#endif
}

V16_INLINE uint32_t mm_prefetch(enum plx_qtype type)
{
	if (plx_k_wants(type) != PLX_K_ACT_Q8)
		return MM_PREFETCH_BYTES;
	const struct plx_layout l = plx_layout_of(type);

	return l.q_bytes + l.h_bytes < MM_PREFETCH_BLOCK ? MM_PREFETCH_BYTES : 0;
}

/* All tiles and tokens of a call, for one format. */
V16_INLINE void mm_type(enum plx_qtype type, const struct plx_k_mm *m)
{
	const enum plx_k_act form = plx_k_wants(type);
	uint64_t tile_bytes = plx_layout_tile_bytes(type, m->w->n_in);
	struct mm_tile tile = {.n_in = m->w->n_in, .stride = m->w->n_in};

	if (form == PLX_K_ACT_Q8)
		tile.stride /= PLX_K_QBLOCK;

	for (uint32_t row = m->row_begin; row < m->row_end; row += PLX_K_TILE) {
		tile.w = (const uint8_t *)m->w->data + row / PLX_K_TILE * tile_bytes;
		tile.prefetch = mm_prefetch(type);
		for (uint32_t t = m->tok_begin, nt; t < m->tok_end; t += nt) {
			vf acc[V16_MM_TOKENS];

			nt = mm_step(m->tok_end - t, mm_most(type));
			if (form == PLX_K_ACT_Q8)
				tile.a = m->q + t * tile.stride;
			else if (form == PLX_K_ACT_BF16)
				tile.x16 = m->bf16 + t * tile.stride;
			else
				tile.x = m->x + t * tile.stride;
			mm_tokens(type, nt, &tile, acc);
			tile.prefetch = 0;
			for (uint32_t i = 0; i < nt; i++)
				mm_store(m->y + (size_t)(t + i) * m->y_stride + row, acc[i],
				         m->row_end - row, m->mode);
		}
	}
}

#ifdef V16_PLAIN
static void mm_any(const struct plx_k_mm *m)
{
	mm_type(m->w->type, m);
}
#else
#define MM_FUNCTION(name, type)                                                                    \
	static __attribute__((noinline)) void name(const struct plx_k_mm *m)                       \
	{                                                                                          \
		mm_type(type, m);                                                                  \
	}
MM_FUNCTION(mm_f32, PLX_Q_F32)
MM_FUNCTION(mm_f16, PLX_Q_F16)
MM_FUNCTION(mm_bf16, PLX_Q_BF16)
MM_FUNCTION(mm_q4_0, PLX_Q_Q4_0)
MM_FUNCTION(mm_q4_1, PLX_Q_Q4_1)
MM_FUNCTION(mm_q5_0, PLX_Q_Q5_0)
MM_FUNCTION(mm_q5_1, PLX_Q_Q5_1)
MM_FUNCTION(mm_q8_0, PLX_Q_Q8_0)
MM_FUNCTION(mm_q4_k, PLX_Q_Q4_K)
MM_FUNCTION(mm_q5_k, PLX_Q_Q5_K)
MM_FUNCTION(mm_q6_k, PLX_Q_Q6_K)
#undef MM_FUNCTION

static void mm_any(const struct plx_k_mm *m)
{
	switch (m->w->type) {
	case PLX_Q_F32:
		mm_f32(m);
		break;
	case PLX_Q_F16:
		mm_f16(m);
		break;
	case PLX_Q_BF16:
		mm_bf16(m);
		break;
	case PLX_Q_Q4_0:
		mm_q4_0(m);
		break;
	case PLX_Q_Q4_1:
		mm_q4_1(m);
		break;
	case PLX_Q_Q5_0:
		mm_q5_0(m);
		break;
	case PLX_Q_Q5_1:
		mm_q5_1(m);
		break;
	case PLX_Q_Q8_0:
		mm_q8_0(m);
		break;
	case PLX_Q_Q4_K:
		mm_q4_k(m);
		break;
	case PLX_Q_Q5_K:
		mm_q5_k(m);
		break;
	case PLX_Q_Q6_K:
		mm_q6_k(m);
		break;
	}
}

#endif

static void op_matmul(const struct plx_k_mm *m)
{
	PLX_DCHECK(m->row_begin % PLX_K_TILE == 0 && m->row_end <= m->w->n_out);
	PLX_DCHECK(m->row_end % PLX_K_TILE == 0 || m->row_end == m->w->n_out);
	PLX_DCHECK(m->y_stride >= m->w->n_out);
	mm_any(m);
}

#endif
