/*
 * The arithmetic of a transformer on an NVIDIA GPU: launchers, callable from C.
 *
 * Every launcher puts one kernel on a stream and returns; errors are collected by the caller
 * (cudaGetLastError). Counts that a step decides are read from device memory (struct plx_kc_count),
 * so that a captured graph serves every step up to its size; a count of 0 makes a kernel do
 * nothing.
 *
 * Numerics: every reduction's order depends on its length (matrix products, norms) or on absolute
 * positions (attention) alone, so a token's bits do not depend on what runs beside it, nor on how a
 * prompt is cut. Weights enter exactly as stored (F32: as a sum of two bf16, 2^-17); activations
 * enter as a sum of two bf16, off by at most 2^-17 of each; K and V are kept in f16. Everything is
 * summed in f32.
 */
#ifndef PLX_KERNELS_CUDA_OPS_H
#define PLX_KERNELS_CUDA_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st; /* CUDA's stream */

/* What a step decides; in device memory. */
struct plx_kc_count {
	uint32_t n_tok;
	uint32_t n_row; /* rows that want logits */
};

/* ---- weights ------------------------------------------------------------------------------ */

/*
 * A weight matrix repacked in device memory: tiles of 16 rows, in them stretches of 64 columns, in
 * these what each lane of a warp feeds to mma.m16n8k16. Rows and columns that fill up are zero.
 */
struct plx_kc_mat {
	const void *q;     /* quants: [tile][n_kp][...][32 lanes], 16 bytes a load */
	const void *hi;    /* bits from 4 on, where a format has 5 or 6; [tile][n_kp][32] 8 bytes */
	const void *scale; /* [tile][n_kp][8], 8 or 16 bytes */
	const void *super; /* K formats: [tile][n_kp / 4][8] 8 bytes */
	uint32_t type;     /* enum plx_qtype */
	uint32_t n_out;
	uint32_t n_in;
	uint32_t n_kp; /* stretches of 64 columns */
};

/* plx_kc_mat_bytes - device bytes of a repacked matrix; 0 where it can't be. n_in % 32 == 0. */
uint64_t plx_kc_mat_bytes(uint32_t type, uint32_t n_out, uint32_t n_in);

/* plx_kc_mat_place - describe a matrix whose memory begins at base, 256-byte aligned. */
void plx_kc_mat_place(struct plx_kc_mat *m, void *base, uint32_t type, uint32_t n_out,
                      uint32_t n_in);

/*
 * plx_kc_pack - repack n_rows rows as the file stores them.
 *
 * @raw    device, row row0's first byte.
 * @row0   multiple of 16; n_rows too, or up to n_out.
 */
void plx_kc_pack(const struct plx_kc_mat *m, const void *raw, uint64_t row_bytes, uint32_t row0,
                 uint32_t n_rows, struct CUstream_st *st);

/* ---- activations -------------------------------------------------------------------------- */

/*
 * Activations as matrix products take them: each value as two bf16, and the sum of each 32.
 * All of it is zeroed once, when it is allocated.
 */
struct plx_kc_act {
	uint16_t *x2; /* [n_tok][n_kp * 128] */
	float *sum;   /* [n_tok][n_kp * 2] */
	uint32_t n_in;
	uint32_t n_kp;
};

/* plx_kc_act_bytes - of x2 and of sum; both 256-byte multiples. */
uint64_t plx_kc_act_bytes(uint32_t n_tok, uint32_t n_in, uint64_t *sum_bytes);

/* plx_kc_embed - x[t] = row id[t] of w.  @x  out [n_tok][w->n_in]. */
void plx_kc_embed(const struct plx_kc_mat *w, const int32_t *id, float *x,
                  const struct plx_kc_count *n, uint32_t max_tok, struct CUstream_st *st);

/*
 * plx_kc_norm - act[t] = RMS(x[src[t]]) * w.
 *
 * @src  NULL: src[t] = t, of n_tok; else [n_row], rows row0 .. of it, at most max_tok.
 */
void plx_kc_norm(const struct plx_kc_act *act, const float *x, const float *w, float eps,
                 const uint32_t *src, uint32_t row0, const struct plx_kc_count *n, uint32_t max_tok,
                 struct CUstream_st *st);

/* plx_kc_split - act[t] = x[t]; with up: act[t] = silu(x[t]) * up[t]. */
void plx_kc_split(const struct plx_kc_act *act, const float *x, const float *up,
                  const struct plx_kc_count *n, uint32_t max_tok, struct CUstream_st *st);

/* ---- matrix products ---------------------------------------------------------------------- */

/* y[t][r] = sum over k of w[r][k] act[t][k]  (+ bias[r]) (+ y[t][r] where add). */
struct plx_kc_seg {
	struct plx_kc_mat w;
	float *y;
	const float *bias; /* [n_out] or NULL */
	uint32_t y_stride;
	uint32_t add;
};

/* Activations that a product norms on the way in: plx_kc_norm's, of one row. */
struct plx_kc_norm_in {
	const float *x; /* NULL: act has them */
	const float *w;
	const uint32_t *src; /* [n_row] or NULL: row 0 */
	float eps;
};

/* Weights that kernels behind this one will read: asked into L2, nothing more. */
struct plx_kc_ahead {
	const void *at; /* 16-byte aligned */
	uint64_t bytes;
};
#define PLX_KC_AHEAD 3u

struct plx_kc_mm {
	struct plx_kc_seg seg[3]; /* of one type */
	uint32_t n_seg;
	struct plx_kc_act act;
	struct plx_kc_norm_in norm; /* where plx_kc_few_norms */
	struct plx_kc_act mid;      /* x2 not NULL: takes silu(seg[0]) seg[1], in place of y */
	struct plx_kc_ahead ahead[PLX_KC_AHEAD];
	const struct plx_kc_count *n;
	uint32_t row0; /* with of_rows: n_row - row0 tokens, at most max_tok; else n_tok */
	uint32_t of_rows;
	uint32_t max_tok;
};

/*
 * plx_kc_matmul - segments of one type in one launch.
 *
 * Up to PLX_KC_FEW tokens can be normed on the way in, and leave as silu(gate) up; the bits are
 * those of plx_kc_norm before and plx_kc_split behind.
 */
#define PLX_KC_FEW 32u
void plx_kc_matmul(const struct plx_kc_mm *m, struct CUstream_st *st);

/* plx_kc_few - the same for max_tok up to PLX_KC_FEW. */
void plx_kc_few(const struct plx_kc_mm *m, struct CUstream_st *st);

/* plx_kc_few_norms - whether a product can norm rows of n_in itself. */
bool plx_kc_few_norms(uint32_t n_in, uint32_t max_tok);

/* ---- attention ---------------------------------------------------------------------------- */

#define PLX_KC_ATTN_SPLIT 128u /* positions of one partial result, from position 0 on */
#define PLX_KC_HEAD_MAX   256u /* dimensions of a head, a multiple of 16 */

/* The paged cache: block [layer][k or v][head][token][dim] f16, the exchange layout. */
struct plx_kc_kv {
	uint8_t *pool;
	uint64_t block_bytes;
	const uint32_t *table; /* [slot][max_seq_blocks] */
	uint32_t max_seq_blocks;
	uint32_t block_tokens;
	uint32_t n_head;
	uint32_t n_head_kv;
	uint32_t head_dim;
};

/* The step's tokens. */
struct plx_kc_toks {
	const struct plx_kc_count *n;
	const uint32_t *pos;  /* [n_tok] */
	const uint32_t *slot; /* [n_tok] */
	uint32_t max_tok;
};

/*
 * plx_kc_rope - norms of q and k where there are any, rotation, K and V into the cache.
 *
 * @qkv     [n_tok][(n_head + 2 n_head_kv) * head_dim]; q is left rotated in it.
 * @tab     [positions][n_rot]: cos, sin of each pair.
 * @q_norm  [head_dim] or NULL; @k_norm likewise.
 */
struct plx_kc_rope {
	struct plx_kc_kv kv;
	struct plx_kc_toks toks;
	float *qkv;
	const float *tab;
	const float *q_norm;
	const float *k_norm;
	float eps;
	uint32_t n_rot;
	uint32_t halves; /* pairs (i, i + n_rot / 2); else (2i, 2i + 1) */
	uint32_t layer;
};
void plx_kc_rope(const struct plx_kc_rope *r, struct CUstream_st *st);

/*
 * plx_kc_attention - out[t] = softmax(scale q K) V over positions 0 .. pos[t].
 *
 * By splits of 128 positions, each with its own maximum; merged in increasing order. With part,
 * each split has a block of its own, and a second kernel merges; without, one block does a head's
 * splits one after another: the same bits.
 *
 * @part     [n_tok][n_head][n_split][head_dim + 4] or NULL.
 * @n_split  with part: most splits of a token.
 * @out      [n_tok][n_head * head_dim]; NULL: act takes it, where head_dim % 32 == 0.
 */
struct plx_kc_attn {
	struct plx_kc_kv kv;
	struct plx_kc_toks toks;
	const float *qkv;
	float *part;
	float *out;
	struct plx_kc_act act;
	float scale;
	uint32_t n_split;
	uint32_t layer;
};
void plx_kc_attention(const struct plx_kc_attn *a, struct CUstream_st *st);

/*
 * plx_kc_attention_one - plx_kc_rope and plx_kc_attention of a step's one token, the same bits.
 *
 * The last block of a head's splits merges them. @a  with part. q stays as it was in qkv.
 * @arrived  [n_head], zero; is zero again behind it.
 */
void plx_kc_attention_one(const struct plx_kc_rope *r, const struct plx_kc_attn *a,
                          uint32_t *arrived, struct CUstream_st *st);

/* plx_kc_copy_blocks - copy n blocks; pairs in mapped memory. Blocks from n_dev on are host's. */
struct plx_kc_pair {
	uint32_t src;
	uint32_t dst;
};
void plx_kc_copy_blocks(uint8_t *pool, uint8_t *host, uint64_t block_bytes, uint32_t n_dev,
                        const struct plx_kc_pair *pairs, uint32_t n, struct CUstream_st *st);

/* ---- sampling ----------------------------------------------------------------------------- */

#define PLX_KC_RECENT_MAX 64u

/* How a row is sampled: kernels/sample.h has the definition; ids are equal for equal logits. */
struct plx_kc_sampling {
	float temperature;
	float top_p;
	float min_p;
	float repeat_penalty;
	uint32_t top_k;
	uint32_t sample;
	uint64_t seed;
	uint32_t position;
	uint32_t n_top; /* alternatives wanted */
	uint32_t n_recent;
	uint32_t recent[PLX_KC_RECENT_MAX];
	uint64_t top_at; /* device address of n_top of struct plx_kc_top */
};

struct plx_kc_top {
	int32_t id;
	float logprob;
};

struct plx_kc_choice {
	int32_t status; /* 0, or -1: NaN, +inf, or nothing finite */
	int32_t id;
	float logprob;
};

#define PLX_KC_SCAN 32u /* blocks of a row: lanes of a warp */

/* What the blocks that read a row have found; in device memory, zero at first. */
struct plx_kc_scan {
	float max[PLX_KC_SCAN];
	uint32_t id[PLX_KC_SCAN];
	uint32_t fine[PLX_KC_SCAN]; /* no NaN */
	unsigned long long sum;     /* of weights; zero between rows */
	uint32_t arrived;
};

/*
 * plx_kc_sample - choose for rows row0 .. of the step, at most max_row. Returns how many kernels.
 *
 * A row is read by 32 blocks, for its largest logit and then for its log-probability; what is not
 * greedy, is penalised or wants alternatives is one block's.
 *
 * @logits  [max_row][stride]; penalised while it runs, restored after.
 * @how     [n_row], @out [n_row], both indexed from row 0 of the step.
 * @scan    [max_row]
 */
uint32_t plx_kc_sample(float *logits, uint32_t stride, uint32_t n_vocab,
                       const struct plx_kc_sampling *how, struct plx_kc_choice *out,
                       struct plx_kc_scan *scan, const struct plx_kc_count *n, uint32_t row0,
                       uint32_t max_row, struct CUstream_st *st);

#ifdef __cplusplus
}
#endif

#endif
