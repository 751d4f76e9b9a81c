/*
 * The matrix product of the block formats for many tokens, its integer dots by AMX tiles.
 *
 * A 32-block's dot is an exact integer, so what computes it does not matter to the bits; scales are
 * applied by mm_impl.h's formula in its order. Sixteen rows' weights of a panel of blocks are
 * unpacked once, as signed bytes in the tiles' order, and serve all tokens of a chunk: 16 rows by
 * 16 tokens by 32 columns are one instruction. The dots of a block are computed while those of the
 * block before it are scaled. Included after mm_impl.h.
 */
#ifndef PLX_KERNELS_CPU_MM_AMX_H
#define PLX_KERNELS_CPU_MM_AMX_H

#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/mm_impl.h"

/* Below it the vector path is quicker: at 16 tokens by a sixth, at 8 by half. */
#define AMX_MIN_TOKENS 32
#define AMX_TOKENS     64 /* of a chunk: the most that an item has */
#define AMX_BLOCKS     8  /* of a panel: a super-block */
#define AMX_TILE       16 /* tokens of a tile */
#define AMX_DOTS       (AMX_TILE * PLX_K_TILE)

/* Up to AMX_BLOCKS blocks of 16 rows, unpacked. */
struct amx_panel {
	/* [block][half][column / 4][row][column % 4]; Q6_K has 16 columns and 16 zeros a half,
	 * other formats one half of 32 columns */
	int8_t w[AMX_BLOCKS][2][512];
	float d[AMX_BLOCKS][PLX_K_TILE];
	float min[AMX_BLOCKS][PLX_K_TILE];
	float sc[AMX_BLOCKS][2][PLX_K_TILE]; /* Q6_K */
	uint32_t n_blocks;
};

/* Tiles 0, 1: sums of 16 tokens, 2, 3: of the last few; 4 and 5: their activations; 6, 7: weights.
 */
static void amx_configure(struct amx_config *c, uint32_t n_tok)
{
	uint32_t tail = n_tok % AMX_TILE;

	memset(c, 0, sizeof *c);
	c->palette = 1;
	for (uint32_t i = 0; i < 8; i++) {
		c->rows[i] = i >= 6 ? 8 : AMX_TILE;
		c->colsb[i] = i == 4 || i == 5 ? PLX_K_QBLOCK : 64;
	}
	if (tail > 0)
		c->rows[2] = c->rows[3] = c->rows[5] = (uint8_t)tail;
}

/* ---- unpacking ------------------------------------------------------------------------------ */

V16_INLINE void amx_unpack_block(enum plx_qtype type, int8_t w[2][512], const uint8_t *q,
                                 const uint8_t *h)
{
	const struct plx_layout l = plx_layout_of(type);
	const int offset = mm_has_min(type) ? 0 : 1 << mm_offset_log2(type);
	vb h0 = vb_load(l.h_bytes ? h : q);
	vb h1 = l.h_bytes == 128 ? vb_load(h + 64) : h0;

#pragma GCC unroll 8
	for (int g = 0; g < 8; g++) {
		vb v = vb_sub(mm_weights(l, q, g < 4 ? h0 : h1, g), offset);
		uint32_t half = type == PLX_Q_Q6_K && g >= 4;

		vb_store((uint8_t *)w[half] + 64 * g, v);
	}
	if (type == PLX_Q_Q6_K) {
		memset(w[0] + 256, 0, 256);
		memset(w[1], 0, 256);
	}
}

/* Blocks b0 .. b0 + p->n_blocks of a tile. AMX_BLOCKS is a multiple of every group. */
V16_INLINE void amx_unpack(enum plx_qtype type, struct amx_panel *p, const uint8_t *tile,
                           uint32_t b0)
{
	const struct plx_layout l = plx_layout_of(type);

	for (uint32_t i = 0; i < p->n_blocks; i++) {
		uint32_t in_group = (b0 + i) % l.group_blocks;
		const uint8_t *group =
		    tile + (size_t)((b0 + i) / l.group_blocks) * plx_layout_group_bytes(l);
		const uint8_t *h = group + l.group_blocks * l.q_bytes;
		const uint8_t *s = h + l.group_blocks * l.h_bytes;
		const uint16_t *f16 = (const uint16_t *)(const void *)s;
		struct mm_scale m =
		    mm_scales(type, s, in_group, vf_from_f16(f16), vf_neg(vf_from_f16(f16 + 16)));

		__builtin_prefetch(group + MM_PREFETCH_BYTES + in_group * l.q_bytes);
		amx_unpack_block(type, p->w[i], group + in_group * l.q_bytes,
		                 h + in_group * l.h_bytes);
		vf_store(p->d[i], m.d);
		vf_store(p->min[i], m.min);
		if (type == PLX_Q_Q6_K) {
			vf_store(p->sc[i][0], vf_from_i(vi_from_i8(m.s6)));
			vf_store(p->sc[i][1], vf_from_i(vi_from_i8(m.s6 + 16)));
		}
	}
}

/* ---- dots ----------------------------------------------------------------------------------- */

#define AMX_PRODUCT(c, a, b)                                                                       \
	do {                                                                                       \
		amx_zero(c);                                                                       \
		amx_load(b, w, 64);                                                                \
		amx_load(a, x, stride * sizeof(struct plx_k_qblk));                                \
		amx_dot(c, a, b);                                                                  \
		amx_store(c, out, 64);                                                             \
	} while (0)

/* out[token][row] = a half block's dots, of 16 tokens, or of as many as the tail has. */
V16_INLINE void amx_half(const bool tail, const uint32_t odd, const int8_t *w, const int8_t *x,
                         size_t stride, int32_t *out)
{
	if (tail && odd)
		AMX_PRODUCT(3, 5, 7);
	else if (tail)
		AMX_PRODUCT(2, 5, 6);
	else if (odd)
		AMX_PRODUCT(1, 4, 7);
	else
		AMX_PRODUCT(0, 4, 6);
}

/* Block b's dots with tokens from a, which is at the panel's first block. */
V16_INLINE void amx_dots(enum plx_qtype type, const bool tail, const struct amx_panel *p,
                         uint32_t b, const struct plx_k_qblk *a, size_t stride, int32_t *out)
{
	if (type == PLX_Q_Q6_K) {
		amx_half(tail, 0, p->w[b][0], a[b].q, stride, out);
		amx_half(tail, 1, p->w[b][1], a[b].q, stride, out + AMX_DOTS);
	} else {
		amx_half(tail, b & 1, p->w[b][0], a[b].q, stride, out);
	}
}

/* ---- scales --------------------------------------------------------------------------------- */

/*
 * The signed integer dot of a token, as a float. Q6_K: 2 * 16 * 32 * 127 * 128 < 2^24, so every
 * step is exact; the sum starts at +0, or a product of -0 would give the sign that integers lack.
 */
V16_INLINE vf amx_signed(enum plx_qtype type, const struct amx_panel *p, uint32_t b,
                         const int32_t *dots)
{
	vf lo = vf_from_i(vi_load(dots));

	if (type != PLX_Q_Q6_K)
		return lo;
	vf hi = vf_from_i(vi_load(dots + AMX_DOTS));

	return vf_fma(hi, vf_load(p->sc[b][1]), vf_fma(lo, vf_load(p->sc[b][0]), vf_set1(0.0f)));
}

/* acc[t] += block b's product with nt tokens; a is at the block. The order of mm_block. */
V16_INLINE void amx_scale(enum plx_qtype type, const int nt, const struct amx_panel *p, uint32_t b,
                          const int32_t *dots, const struct plx_k_qblk *a, size_t stride, vf *acc)
{
	vf d = vf_load(p->d[b]);
	vf min = vf_load(p->min[b]);

#pragma GCC unroll 16
	for (int t = 0; t < nt; t++) {
		const struct plx_k_qblk *at = a + (size_t)t * stride;
		vf dot = amx_signed(type, p, b, dots + PLX_K_TILE * t);

		acc[t] = vf_fma(d, vf_mul(dot, vf_set1(at->d)), acc[t]);
		if (mm_has_min(type))
			acc[t] = vf_fma(min, vf_set1(at->s), acc[t]);
	}
}

/* The same with the sums in memory, for a tail of n tokens. */
V16_INLINE void amx_scale_tail(enum plx_qtype type, uint32_t n, const struct amx_panel *p,
                               uint32_t b, const int32_t *dots, const struct plx_k_qblk *a,
                               size_t stride, float sum[][PLX_K_TILE])
{
	uint32_t t = 0;
	vf acc[4];

	for (; t + 4 <= n; t += 4) {
		for (int i = 0; i < 4; i++)
			acc[i] = vf_load(sum[t + (uint32_t)i]);
		amx_scale(type, 4, p, b, dots + PLX_K_TILE * t, a + t * stride, stride, acc);
		for (int i = 0; i < 4; i++)
			vf_store(sum[t + (uint32_t)i], acc[i]);
	}
	for (; t < n; t++) {
		acc[0] = vf_load(sum[t]);
		amx_scale(type, 1, p, b, dots + PLX_K_TILE * t, a + t * stride, stride, acc);
		vf_store(sum[t], acc[0]);
	}
}

/* ---- panels, chunks, calls ------------------------------------------------------------------ */

/* sum[t] += the panel's product with n tokens, at most AMX_TILE, from a on. */
V16_INLINE void amx_tokens(enum plx_qtype type, const bool tail, const struct amx_panel *p,
                           const struct plx_k_qblk *a, size_t stride, uint32_t n,
                           float sum[][PLX_K_TILE])
{
	_Alignas(64) int32_t dots[2][2 * AMX_DOTS];
	vf acc[AMX_TILE];

	for (uint32_t t = 0; !tail && t < AMX_TILE; t++)
		acc[t] = vf_load(sum[t]);
	amx_dots(type, tail, p, 0, a, stride, dots[0]);
	for (uint32_t b = 0; b < p->n_blocks; b++) {
		if (b + 1 < p->n_blocks)
			amx_dots(type, tail, p, b + 1, a, stride, dots[(b + 1) & 1]);
		if (tail)
			amx_scale_tail(type, n, p, b, dots[b & 1], a + b, stride, sum);
		else
			amx_scale(type, AMX_TILE, p, b, dots[b & 1], a + b, stride, acc);
	}
	for (uint32_t t = 0; !tail && t < AMX_TILE; t++)
		vf_store(sum[t], acc[t]);
}

/* sum[t] = the product of a tile with n tokens, at most AMX_TOKENS. */
V16_INLINE void amx_chunk(enum plx_qtype type, const uint8_t *tile, uint32_t n_blocks,
                          const struct plx_k_qblk *a, uint32_t n, float sum[][PLX_K_TILE])
{
	_Alignas(64) struct amx_panel p;

	memset(sum, 0, n * sizeof *sum);
	for (uint32_t b = 0; b < n_blocks; b += AMX_BLOCKS) {
		uint32_t t = 0;

		p.n_blocks = n_blocks - b < AMX_BLOCKS ? n_blocks - b : AMX_BLOCKS;
		amx_unpack(type, &p, tile, b);
		amx_written(&p);
		for (; t + AMX_TILE <= n; t += AMX_TILE)
			amx_tokens(type, false, &p, a + (size_t)t * n_blocks + b, n_blocks,
			           AMX_TILE, sum + t);
		if (t < n)
			amx_tokens(type, true, &p, a + (size_t)t * n_blocks + b, n_blocks, n - t,
			           sum + t);
	}
}

V16_INLINE void amx_type(enum plx_qtype type, const struct plx_k_mm *m)
{
	const uint64_t tile_bytes = plx_layout_tile_bytes(type, m->w->n_in);
	const uint32_t n_blocks = m->w->n_in / PLX_K_QBLOCK;
	_Alignas(64) float sum[AMX_TOKENS][PLX_K_TILE];

	for (uint32_t row = m->row_begin; row < m->row_end; row += PLX_K_TILE)
		for (uint32_t t = m->tok_begin, n; t < m->tok_end; t += n) {
			n = m->tok_end - t < AMX_TOKENS ? m->tok_end - t : AMX_TOKENS;
			amx_chunk(type, (const uint8_t *)m->w->data + row / PLX_K_TILE * tile_bytes,
			          n_blocks, m->q + (size_t)t * n_blocks, n, sum);
			for (uint32_t i = 0; i < n; i++)
				mm_store(m->y + (size_t)(t + i) * m->y_stride + row,
				         vf_load(sum[i]), m->row_end - row, m->mode);
		}
}

#ifdef V16_PLAIN
static void amx_any(const struct plx_k_mm *m)
{
	amx_type(m->w->type, m);
}
#else
#define AMX_FUNCTION(name, type)                                                                   \
	static __attribute__((noinline)) void name(const struct plx_k_mm *m)                       \
	{                                                                                          \
		amx_type(type, m);                                                                 \
	}
AMX_FUNCTION(amx_q4_0, PLX_Q_Q4_0)
AMX_FUNCTION(amx_q4_1, PLX_Q_Q4_1)
AMX_FUNCTION(amx_q5_0, PLX_Q_Q5_0)
AMX_FUNCTION(amx_q5_1, PLX_Q_Q5_1)
AMX_FUNCTION(amx_q8_0, PLX_Q_Q8_0)
AMX_FUNCTION(amx_q6_k, PLX_Q_Q6_K)
#undef AMX_FUNCTION

static void amx_any(const struct plx_k_mm *m)
{
	switch (m->w->type) {
	case PLX_Q_Q4_0:
		amx_q4_0(m);
		break;
	case PLX_Q_Q4_1:
		amx_q4_1(m);
		break;
	case PLX_Q_Q5_0:
		amx_q5_0(m);
		break;
	case PLX_Q_Q5_1:
		amx_q5_1(m);
		break;
	case PLX_Q_Q8_0:
		amx_q8_0(m);
		break;
	case PLX_Q_Q6_K:
		amx_q6_k(m);
		break;
	case PLX_Q_Q4_K:
	case PLX_Q_Q5_K:
	case PLX_Q_F32:
	case PLX_Q_F16:
	case PLX_Q_BF16:
		PLX_CHECK(false); /* amx_serves says no */
	}
}
#endif

/*
 * Whether tiles are worth it. Q4_K and Q5_K spend their time on scales: at 512 tokens tiles were
 * 0.5 to 1.2 times the vector path's speed (Sapphire Rapids), others 1.0 to 1.7 times.
 */
static bool amx_serves(const struct plx_k_mm *m)
{
	return plx_k_wants(m->w->type) == PLX_K_ACT_Q8 && m->w->type != PLX_Q_Q4_K &&
	       m->w->type != PLX_Q_Q5_K && m->tok_end - m->tok_begin >= AMX_MIN_TOKENS;
}

/* As op_matmul, with tiles for what they serve. */
static void op_matmul_amx(const struct plx_k_mm *m)
{
	_Alignas(64) struct amx_config config;

	if (!amx_serves(m)) {
		op_matmul(m);
		return;
	}
	amx_configure(&config, (m->tok_end - m->tok_begin) % AMX_TOKENS);
	amx_written(&config);
	amx_begin(&config);
	amx_any(m);
	amx_end();
}

#endif
