/*
 * The arithmetic of a transformer on the CPU: a table of ops, one implementation for each
 * instruction set, all giving the same bits.
 *
 * The scalar implementation defines every result (order of additions included); vector ones only
 * compute the same thing sooner. A SIMD lane is an output row, a KV position or a head dimension,
 * so nothing depends on how wide a register is, nor on how the caller cuts rows, tokens or time.
 * Pure arithmetic: no threads, no allocation, no I/O, no system call, nothing kept after return.
 *
 * Conventions: f32 arrays are row-major and need 4-byte alignment only; counts are u32; every n_*
 * that is a vector length is a multiple of 16 (n_in of a matrix: of 32). Shapes are asserted in
 * debug builds. FTZ and DAZ must be set in the calling thread (plx_k_fpu_setup), or results may
 * differ from another thread's in subnormal cases. A NaN or infinity in one token's activations
 * gives NaN in that token's results alone.
 */
#ifndef PLX_KERNELS_KERNELS_H
#define PLX_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

/* ---- weights ----------------------------------------------------------------------------- */

#define PLX_K_TILE 16 /* rows that are interleaved; row ranges start at a multiple of it */

/*
 * A weight matrix repacked by plx_k_pack: rows in tiles of 16, within a tile block by block, so
 * that one register holds the same elements of 16 rows. Values are those stored in the file.
 */
struct plx_k_mat {
	const void *data; /* 64-byte aligned, plx_k_pack_bytes(type, n_out, n_in) */
	enum plx_qtype type;
	uint32_t n_out; /* rows: outputs */
	uint32_t n_in;  /* columns: inputs; multiple of 32, and of 256 for the K formats */
};

/*
 * plx_k_pack_bytes - bytes of a repacked matrix; within 3 % of the file's size for n_out % 16 == 0.
 *
 * Returns 0 when type is not known, n_in or n_out is 0, n_in is not a multiple as above, or the
 * size overflows: such a matrix is refused by the loader.
 */
uint64_t plx_k_pack_bytes(uint32_t ggml_type, uint32_t n_out, uint32_t n_in);

/*
 * plx_k_pack - repack rows [row_begin, row_end) of a matrix as the file stores it.
 *
 * @dst        out, start of the whole repacked matrix, 64-byte aligned.
 * @src        in, start of the whole stored matrix, row-major; any alignment.
 * @row_begin  multiple of 16.
 * @row_end    multiple of 16, or n_out; the rows that pad the last tile are zeroed.
 *
 * Thread: any; disjoint row ranges may run at the same time.  Cost: 0.3 ns an element (floats: 1
 * ns).
 */
void plx_k_pack(void *dst, enum plx_qtype type, const void *src, uint32_t n_out, uint32_t n_in,
                uint32_t row_begin, uint32_t row_end);

/* ---- activations ------------------------------------------------------------------------- */

#define PLX_K_QBLOCK 32

/* 32 activations of one token, quantised: x[i] is about d * q[i]. */
struct plx_k_qblk {
	int8_t q[PLX_K_QBLOCK]; /* -127..127 */
	float d;        /* absmax / 127; 0 for a block of (nearly) zeros; NaN if x has one */
	float s;        /* d * sum */
	int32_t sum;    /* of q[0..31] */
	int32_t sum_lo; /* of q[0..15] */
};
_Static_assert(sizeof(struct plx_k_qblk) == 48, "kernels step through blocks of 48 bytes");

/* The forms of activations that matmul takes. */
enum plx_k_act {
	PLX_K_ACT_F32,
	PLX_K_ACT_BF16, /* rounded to nearest, ties to even: 2 bytes a value */
	PLX_K_ACT_Q8,   /* struct plx_k_qblk */
};

/* plx_k_wants - which form weights of a type take: F32 and F16 f32, BF16 bf16, all others Q8. */
static inline enum plx_k_act plx_k_wants(enum plx_qtype type)
{
	if (type == PLX_Q_F32 || type == PLX_Q_F16)
		return PLX_K_ACT_F32;
	return type == PLX_Q_BF16 ? PLX_K_ACT_BF16 : PLX_K_ACT_Q8;
}

/* ---- matrix product ---------------------------------------------------------------------- */

/* What becomes of a product: stored, or added to what y holds (residual, bias put there before). */
enum plx_k_mode {
	PLX_K_STORE = 0,
	PLX_K_ADD = 1,
};

/*
 * y[t][r] = sum over k of w[r][k] * x[t][k]   (+ y[t][r] when mode is PLX_K_ADD)
 * for r in [row_begin, row_end), t in [tok_begin, tok_end).
 */
struct plx_k_mm {
	const struct plx_k_mat *w;
	const struct plx_k_qblk *q; /* in [n_tok][n_in/32]; read where w wants Q8 */
	const uint16_t *bf16;       /* in [n_tok][n_in]; read where w wants BF16 */
	const float *x;             /* in [n_tok][n_in]; read where w wants F32 */
	float *y;           /* [n_tok][y_stride]; only the named rows and tokens are written */
	uint32_t y_stride;  /* floats from one token's y to the next; >= n_out */
	uint32_t row_begin; /* multiple of 16 */
	uint32_t row_end;   /* multiple of 16, or n_out */
	uint32_t tok_begin;
	uint32_t tok_end;
	enum plx_k_mode mode;
};

/* ---- KV pages and attention -------------------------------------------------------------- */

#define PLX_K_ATTN_CHUNK 64   /* positions that share one running maximum */
#define PLX_K_ATTN_SPLIT 1024 /* positions of one partial result; both count from position 0 */

/*
 * One layer's and one KV head's view of a sequence's paged cache.
 *
 * Position p lies in block table[p / block_tokens]; that block starts at
 * base + block * block_bytes; this head's K begins k_off bytes into it and V v_off bytes, each
 * plx_k_kv_k_bytes and _v_bytes long. In f16:
 *   V is [token][dim];
 *   K is [token / 16][dim][token % 16], so that one load holds 16 positions. It is the exchange
 *   layout's [token][dim] with 16 tokens transposed; plx_k_kv_export and _import convert.
 * Q8 and Q4 keep integers with an f16 scale for each token and 32 dimensions (cpu/kvq.h): K and V
 * in 8 bits; or K in 5 and V in 4 bits, both of them turned by a Walsh-Hadamard matrix, which
 * spreads outliers over all dimensions. What is stored for a token depends on that token alone.
 */
enum plx_k_kv_type {
	PLX_K_KV_F16 = 0,
	PLX_K_KV_Q8,
	PLX_K_KV_Q4,
};

struct plx_k_kv {
	void *base;
	const uint32_t *table;
	uint64_t block_bytes;
	uint64_t k_off; /* multiples of 2 */
	uint64_t v_off;
	uint32_t block_tokens; /* multiple of 16 */
	uint32_t head_dim;     /* multiple of 16, at most PLX_K_HEAD_DIM_MAX */
	enum plx_k_kv_type type;
	uint64_t page_off; /* this head's page summaries in a block; multiple of 2 */
};

#define PLX_K_HEAD_DIM_MAX 256

/*
 * What a block may keep of its K beside it, so that who attends can tell without reading K which
 * pages matter. A page is a block's positions, at most PLX_K_ATTN_CHUNK of them, counted from
 * position 0 on; its summary is f16 [mean, least, largest][dim] of the K that is stored, the least
 * rounded down, the largest up.
 */
static inline uint32_t plx_k_page_tokens(uint32_t block_tokens)
{
	return block_tokens < PLX_K_ATTN_CHUNK ? block_tokens : PLX_K_ATTN_CHUNK;
}

/* plx_k_page_bytes - a head's summaries in a block. */
static inline uint64_t plx_k_page_bytes(uint32_t block_tokens, uint32_t head_dim)
{
	return (uint64_t)(block_tokens / plx_k_page_tokens(block_tokens)) * 3 * head_dim * 2;
}

/* plx_k_kv_k_bytes, plx_k_kv_v_bytes - a head's K or V in a block of n_tok (multiple of 16). */
uint64_t plx_k_kv_k_bytes(enum plx_k_kv_type type, uint32_t n_tok, uint32_t head_dim);
uint64_t plx_k_kv_v_bytes(enum plx_k_kv_type type, uint32_t n_tok, uint32_t head_dim);

/*
 * Queries of one sequence against one KV head: n_tok consecutive tokens from position pos, each
 * with n_group heads that share the KV head. A query at position p sees positions 0..p, with a
 * window the last `window` of them, and of these, with a choice, those in the chunks it names.
 */
struct plx_k_attn {
	struct plx_k_kv kv;
	const float *q;    /* in: token t, group head g at q + t*q_stride + g*head_dim; rotated */
	uint32_t q_stride; /* floats from one token's queries to the next */
	uint32_t n_tok;
	uint32_t n_group;
	uint32_t pos;
	float scale; /* usually 1/sqrt(head_dim) */

	uint32_t window; /* 0: none */
	/* [n_tok][n_group], or NULL: bit i for the i-th PLX_K_ATTN_CHUNK of the split in work */
	const uint16_t *pick;
};

/* plx_k_attn_part_floats - floats of one query's partial result: head_dim sums, then max and sum.
 */
static inline uint32_t plx_k_attn_part_floats(uint32_t head_dim)
{
	return head_dim + 16;
}

/* plx_k_attn_splits - splits a query at position pos has: attn_part is called for 0..this-1. */
static inline uint32_t plx_k_attn_splits(uint32_t pos)
{
	return pos / PLX_K_ATTN_SPLIT + 1;
}

/* ---- the table --------------------------------------------------------------------------- */

enum plx_k_isa {
	PLX_K_ISA_BEST = 0, /* the best this machine can do */
	PLX_K_ISA_SCALAR,
	PLX_K_ISA_AVX2,       /* AVX2, FMA, F16C */
	PLX_K_ISA_AVXVNNI,    /* and AVX-VNNI */
	PLX_K_ISA_AVX512,     /* AVX-512 F, BW, DQ, VL and VNNI */
	PLX_K_ISA_AVX512BF16, /* and BF16 */
	PLX_K_ISA_AMX,        /* and AMX with int8 */
};

/* Which halves rope turns together: llama files use adjacent pairs, qwen files halves. */
enum plx_k_rope {
	PLX_K_ROPE_ADJACENT = 0, /* (2i, 2i+1) */
	PLX_K_ROPE_HALVES = 1,   /* (i, i + n_rot/2) */
};

#define PLX_K_MAX_BLOCK 64 /* values that share one maximum of block_max */

struct plx_kernels {
	enum plx_k_isa isa;
	const char *isa_name;     /* as plx_kernels_isa takes it */
	const char *numeric_kind; /* names the arithmetic: equal strings, equal bits. One for all */

	/*
	 * quantise - activations to 8 bits, dynamically, for each block of 32:
	 *   a = max |x[i]|;  a < 2^-100: d = 0, q = 0;  a not finite: d = NaN, q = 0;
	 *   else d = a / 127 and q[i] = x[i] * (127 / a) rounded to nearest, ties to even.
	 * @q  out [n_tok][n_in/32].  @x  in [n_tok][x_stride].
	 * |x[i] - d*q[i]| <= 0.501 d.
	 */
	void (*quantise)(struct plx_k_qblk *q, const float *x, uint32_t n_tok, uint32_t n_in,
	                 uint32_t x_stride);

	/*
	 * to_bf16 - y[i] = x[i] rounded to bf16, nearest, ties to even; NaN stays NaN.
	 * n % 16 == 0. Relative error at most 2^-9 for normal results.
	 */
	void (*to_bf16)(uint16_t *y, const float *x, uint32_t n);

	/*
	 * matmul - see struct plx_k_mm. One pass over the weights serves up to 8 tokens.
	 * Order, block formats: acc = 0; for each 32-block b in increasing k
	 *   acc = fma(scale, d_b * (float)idot, acc), then, where the format has a minimum,
	 *   acc = fma(min, s_b, acc);
	 * idot is the exact integer dot (Q6_K: sc0*dot0 + sc1*dot1, scale = d; Q4_K, Q5_K: scale =
	 * d*sc, min = -(dmin*mn)). F32 and F16: four sums, p[k % 4] = fma(w, x, p[k % 4]), and
	 * acc = (p0 + p1) + (p2 + p3). BF16: two sums of pairs i of columns (2i, 2i+1),
	 * p[i % 2] = fma(w[2i], x[2i], fma(w[2i+1], x[2i+1], p[i % 2])), and acc = p0 + p1.
	 */
	void (*matmul)(const struct plx_k_mm *m);

	/*
	 * rmsnorm - y[t][i] = (x[t][i] * r) * w[i],  r = 1 / sqrt(mean over i of x[t][i]^2 + eps)
	 * @y, @x  [n_tok][stride]; y may be x.  @w  [n]: gain. Each row of n is a token, or a head
	 * for QK norms (n_tok = tokens * heads, n = stride = head_dim).
	 * Source: Zhang and Sennrich, arXiv:1910.07467.
	 */
	void (*rmsnorm)(float *y, const float *x, const float *w, uint32_t n_tok, uint32_t n,
	                uint32_t stride, float eps);

	/*
	 * rope - rotate the first n_rot dimensions of each head of one token, in place:
	 *   (a, b) -> (a*cos - b*sin, b*cos + a*sin) for each pair that kind names.
	 * @x    [n_head][head_dim].
	 * @tab  [n_rot] f32: cos then sin of pair i at tab[2i], tab[2i+1]; plx_k_rope_row makes it.
	 * Source: Su et al., arXiv:2104.09864.
	 */
	void (*rope)(float *x, const float *tab, uint32_t n_head, uint32_t head_dim, uint32_t n_rot,
	             enum plx_k_rope kind);

	/* silu_mul - y[i] = gate[i] / (1 + exp(-gate[i])) * up[i], n % 16 == 0. @y may be either.
	 */
	void (*silu_mul)(float *y, const float *gate, const float *up, uint32_t n);

	/* add - y[i] += x[i]. n % 16 == 0. */
	void (*add)(float *y, const float *x, uint32_t n);

	/*
	 * kv_store - write one token's K and V of one head at position pos, saturated to +-65504.
	 * F16: rounded (nearest, ties to even); NaN stays.
	 * Q8, Q4: by blocks of 32, half = 2^(bits - 1), d = -x of the largest |x| / half in f16,
	 *   u = x / d + half rounded, within 0 .. 2*half - 1; x is about d * (u - half): off by
	 *   d / 2, by d at the other end, and by what d lost in f16. A NaN in K or V makes all of
	 *   the token's K NaN, so that who sees it has a NaN.
	 * @k, @v  in [head_dim] f32, K already rotated.
	 * Source (Q4's turn): Ashkboos et al., "QuaRot", arXiv:2404.00456.
	 */
	void (*kv_store)(const struct plx_k_kv *kv, uint32_t pos, const float *k, const float *v);

	/*
	 * k_load - the K of one head at position pos, as it is stored.  @k  out [head_dim] f32.
	 * k_store - write it anew, as kv_store does; V stays. Of what k_load gave it changes
	 * nothing in f16, and in Q8 and Q4 next to nothing. For a shift of positions: load, rotate,
	 * store.
	 */
	void (*k_load)(const struct plx_k_kv *kv, uint32_t pos, float *k);
	void (*k_store)(const struct plx_k_kv *kv, uint32_t pos, const float *k);

	/*
	 * k_rotate - rotate the K of one head at the 16 positions from pos on, a multiple of 16:
	 * for each of them the bits of k_load, rope with tab and k_store; in f16 many times sooner.
	 */
	void (*k_rotate)(const struct plx_k_kv *kv, uint32_t pos, const float *tab, uint32_t n_rot,
	                 enum plx_k_rope kind);

	/*
	 * attn_part - attention over the positions of one split,
	 * [split*1024, (split+1)*1024), causal, of a's n_tok * n_group queries.
	 *
	 * @out  [n_tok][n_group][plx_k_attn_part_floats(head_dim)]: one partial a query.
	 *
	 * A query without a position in the split gets an empty partial; merging it changes
	 * nothing. Chunks that lie before the window, or that pick leaves out, are not read; of the
	 * chunk in which the window begins, s[j] of the positions before it count as minus
	 * infinity.
	 *
	 * Order: chunks of 64 positions; in a chunk
	 *   s[j] = scale * (sum of q[d]*k[j][d], by fma in the order of d)
	 *   M = max(m, max of s);  c = exp(m - M);  p[j] = exp(s[j] - M);  l = l*c + sum of p
	 *   o[d] = o[d]*c, then fma(p[j], v[j][d], o[d]) in the order of j
	 * Q8 and Q4: the query becomes integers of 15 bits and sign for each 32 dimensions, and
	 * p[j] times V's scale for each chunk and 32 dimensions. Sums of their products with the
	 * stored integers are exact; a block's comes to s[j], a chunk's to o[d], by one fma. Q4
	 * turns q as K was turned, and o stays turned until attn_finish.
	 *
	 * Source: Milakov, Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135.
	 */
	void (*attn_part)(const struct plx_k_attn *a, uint32_t split, float *out);

	/*
	 * attn_merge - acc <- acc (+) part, for n queries' partials. Start from split 0's partial
	 * and merge splits in increasing order: the result is the same whether one thread made
	 * all partials or several did.
	 */
	void (*attn_merge)(float *acc, const float *part, uint32_t n, uint32_t head_dim);

	/*
	 * attn_finish - out[i][d] = o[d] / l for n queries.
	 * @out  [n][head_dim], so [n_tok][n_group][head_dim] has to be the caller's layout when
	 *       several tokens are finished at once; else call it for one token at a time.
	 */
	void (*attn_finish)(float *out, const float *acc, uint32_t n, uint32_t head_dim,
	                    enum plx_k_kv_type type);

	/*
	 * page_sum - summarise the page that begins at pos, all of whose positions are stored.
	 *
	 * Order: the mean is the sum in the order of positions, times 1 / positions. A NaN in K
	 * makes all three NaN in that dimension.
	 */
	void (*page_sum)(const struct plx_k_kv *kv, uint32_t pos);

	/*
	 * page_rate - one query against the pages 0..n-1, all of them summarised.
	 *
	 *   mean[i] = scale * sum over d of q[d] * mean_i[d]
	 *   most[i] = scale * sum over d of (q[d] > 0 ? largest_i[d] : least_i[d]) * q[d]
	 *
	 * so that no key of page i scores above most[i], but for rounding, and the mean score of
	 * its keys is mean[i].
	 * @q  in [head_dim], rotated.  @mean, @most  out [n]; most may be NULL.
	 *
	 * Source: Tang et al., "Quest", arXiv:2406.10774 (most); Jiang et al., "MInference",
	 *         arXiv:2407.02490, and Lai et al., "FlexPrefill", arXiv:2502.20766 (mean).
	 */
	void (*page_rate)(const struct plx_k_kv *kv, const float *q, float scale, uint32_t n,
	                  float *mean, float *most);

	/* exp - y[i] = exp(x[i]), n % 16 == 0; bound: see plx_k_expf. y may be x. */
	void (*exp)(float *y, const float *x, uint32_t n);

	/*
	 * argmax - index of the largest of x[0..n), the lowest one of equals; n > 0, any.
	 * NaNs never win; 0 when all are NaN.
	 */
	uint32_t (*argmax)(const float *x, uint32_t n);

	/*
	 * block_max - the largest of each 64 values, and of all.
	 * @out  [ceil(n / 64)]; NaN for a block that has one.  Returns the largest; NaN if any is.
	 * n > 0, any.
	 */
	float (*block_max)(float *out, const float *x, uint32_t n);

	/*
	 * logit_sum - for a distribution over n logits: the largest one, and
	 * sum over i of floor(exp(x[i] - max) * 2^40), exact in integers, so that no order matters.
	 * @max  out.  Returns the sum; 0 when a logit is NaN or the largest is infinite.
	 * n > 0, any, at most 2^20.
	 */
	uint64_t (*logit_sum)(const float *x, uint32_t n, float *max);

	/*
	 * weight_sum - sum over i of floor(exp((x[i] - max) * inv_temperature) * 2^40), exact.
	 * No x[i] is NaN or above max; max is finite; n > 0, any, at most 2^20.
	 */
	uint64_t (*weight_sum)(const float *x, uint32_t n, float max, float inv_temperature);
};

/*
 * plx_kernels_select - the table for an instruction set; NULL where this machine lacks it.
 * plx_kernels_isa - by name: "best", "scalar", "avx2", "avxvnni", "avx512vnni", "avx512bf16",
 * "amx"; INVAL for another.
 *
 * Call select once at start, before other threads: on a machine with AMX it asks the kernel for the
 * right to use tiles, the one system call here.
 */
const struct plx_kernels *plx_kernels_select(enum plx_k_isa isa);
int plx_kernels_isa(const char *name);

/* plx_k_fpu_setup - set FTZ and DAZ, round to nearest, all exceptions masked, in this thread. */
void plx_k_fpu_setup(void);

/* ---- once for all instruction sets ------------------------------------------------------- */

/*
 * plx_k_expf - the exp that every path computes.
 *
 * Relative error against double at most 2e-7 for -87.3 <= x <= 88.3; exactly 0 below, exp(88.3)
 * above; exactly 1 at 0; NaN stays NaN.
 */
float plx_k_expf(float x);

/*
 * plx_k_rope_row - the cosines and sines of one position, built in double.
 *
 *   angle_i = pos * pos_scale * base^(-2i / n_rot) / factor_i
 *
 * @tab       out [n_rot]: cos_i, sin_i alternating, i = 0 .. n_rot/2 - 1.
 * @factors   in [n_rot/2], the tensor rope_freqs.weight, or NULL for ones.
 * @pos_scale 1, or 1 / factor for linear context extension.
 *
 * Cost: n_rot libm calls; build tables at start.
 */
void plx_k_rope_row(float *tab, uint32_t pos, uint32_t n_rot, double base, double pos_scale,
                    const float *factors);

/*
 * plx_k_kv_export, plx_k_kv_import - one head's K of one block between the kernels' layout and the
 * exchange layout [token][dim] (V is the same in both). @dst and @src do not overlap.
 */
void plx_k_kv_export(uint16_t *dst, const uint16_t *src, uint32_t block_tokens, uint32_t head_dim);
void plx_k_kv_import(uint16_t *dst, const uint16_t *src, uint32_t block_tokens, uint32_t head_dim);

/* plx_k_kv_move - copy one token's K and V of one head from position `from` to `to`, every bit. */
void plx_k_kv_move(const struct plx_k_kv *kv, uint32_t to, uint32_t from);

#endif
