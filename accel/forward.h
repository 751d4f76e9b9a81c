/*
 * The transformer pass as a sequence of ops over the tokens of a step (CPU).
 *
 * The tokens of all sequences are laid one after another, prefill chunks and single decode tokens
 * alike; every op works on all of them. An op is cut into units by rows and tokens; units of an op
 * are independent, ops follow one another. Nothing that is added up is ever cut except where the
 * kernels fix the cut by absolute position (attention splits), so a token's bits do not depend on
 * what runs beside it, on how units are taken together or on who runs them.
 *
 *   SHIFT for each context that tokens left: K rotated to its new position
 *   EVICT where rows of a sequence's KV go: the others move down
 *   BRANCH where drafts form trees: each branch gets a last block of its own (forward_tree.h)
 *   EMBED                          x = embedding rows
 *   for each layer
 *     NORM1                        q8 or f32 of RMS(x) * attn_norm
 *     QKV                          qkv = W h (+ bias)
 *     ROPE                         norms of q and k, rotation, K and V into the cache
 *     OBSERVE, in every third layer, what the last tokens of one sequence attend to
 *     PAGES                        summaries of the pages that are full now (sparse attention)
 *     PICK                         which chunks each query reads (the same, forward_pick.h)
 *     ATTN  for each split of 1,024 positions that any token sees
 *     QATT                         only where a KV head's outputs are no whole number of q8 blocks
 *     OUT                          x += Wo att
 *     NORM2, GATE_UP, DOWN         x += Wd (silu(Wg h) * (Wu h)), gate and up in one op
 *       or, with experts, NORM2, ROUTER .. EXP_SUM (forward_moe.h)
 *   for each group of rows that want logits
 *     HEAD_NORM, HEAD              logits = W RMS(x) * output_norm
 *   SETTLE what the branch taken wrote goes to its sequence's blocks
 *
 * The caller runs plx_fwd_next alone, then all units of the cut it gave, some at a time, in any
 * order on any lanes, then plx_fwd_next again.
 */
#ifndef PLX_ACCEL_FORWARD_H
#define PLX_ACCEL_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/accel.h"
#include "accel/cut.h"
#include "accel/model/model.h"
#include "fw/base/arena.h"
#include "kernels/kernels.h"

enum plx_fwd_op {
	PLX_FWD_SHIFT,
	PLX_FWD_EMBED,
	PLX_FWD_NORM1,
	PLX_FWD_QKV,
	PLX_FWD_ROPE,
	PLX_FWD_PAGES,
	PLX_FWD_PICK,
	PLX_FWD_ATTN,
	PLX_FWD_QATT,
	PLX_FWD_OUT,
	PLX_FWD_NORM2,
	PLX_FWD_GATE_UP,
	PLX_FWD_DOWN,
	PLX_FWD_ROUTER,
	PLX_FWD_ROUTE,
	PLX_FWD_GROUP,
	PLX_FWD_GATHER,
	PLX_FWD_EXP_WAIT,
	PLX_FWD_EXP_UP,
	PLX_FWD_EXP_DOWN,
	PLX_FWD_EXP_SUM,
	PLX_FWD_HEAD_NORM,
	PLX_FWD_HEAD,
	PLX_FWD_EVICT,
	PLX_FWD_OBSERVE,
	PLX_FWD_BRANCH,
	PLX_FWD_SETTLE,
	PLX_FWD_N_OPS,
};

/*
 * A layer's matrices as the kernels take them; the vectors stay where the model has them.
 *
 * gate and up lie granule after granule, so that they are read as one stream: the first
 * PLX_FWD_GRAIN rows of gate, those of up, the next ones of gate, and so on. Granule i of either is
 * the matrix at data + i * ffn_stride.
 */
#define PLX_FWD_GRAIN 32u /* rows of gate and of up that make one q8 block of their product */

struct plx_fwd_layer {
	struct plx_k_mat wq, wk, wv, wo, gate, up, down;
	uint64_t ffn_stride; /* bytes */

	/* With experts, in place of gate, up and down. */
	struct plx_k_mat router;
	struct plx_k_mat shared_gate;     /* one row; where there is a shared expert */
	const struct plx_fwd_ffn *expert; /* [plx_fwd_n_ffn], the shared one behind the others */
};

/* One feed-forward network: a dense layer's, or an expert. */
struct plx_fwd_ffn {
	struct plx_k_mat gate, up, down;
	uint64_t stride; /* as ffn_stride */
};

/* How a sequence's queries choose chunks; mass and chunks as the limits' sparse_*. */
struct plx_fwd_choice {
	uint32_t mass, chunks; /* 0 and 0: they read all */
	uint32_t n_pool;       /* those at places below choose PLX_SPARSE_POOL together */
};

/* One sequence's share of a step, as the pass sees it. */
struct plx_fwd_seq {
	const uint32_t *table; /* its block table */
	uint32_t first_tok;
	uint32_t n_tok;
	uint32_t pos;   /* of its first token: its place in the blocks */
	uint32_t ahead; /* its tokens' positions are so much beyond their places */
	/* Where tokens left its KV and a layer has a window: positions of the first n_where places,
	 * rising. Those of the others are `ahead` of them; 0: all are. */
	const uint32_t *where;
	uint32_t n_where;
	struct plx_fwd_choice sparse;
	uint32_t step_seq; /* which of the step's sequences: never less than the one before */
};

/* plx_fwd_sparse - whether a sequence's attention is sparse. */
static inline bool plx_fwd_sparse(const struct plx_fwd_seq *q)
{
	return q->sparse.mass > 0 || q->sparse.chunks > 0;
}

/* Blocks of a sequence whose tokens are at lower positions from now on. */
struct plx_fwd_shift {
	const uint32_t *table;
	uint32_t index;    /* the first of them */
	uint32_t n_blocks; /* entries of the table */
	uint32_t down;     /* positions */
};

/* The sequence whose last tokens' attention is summed up; n_query 0: none. */
struct plx_fwd_observe {
	uint32_t seq;
	uint32_t n_query;
	uint32_t first_tok; /* of them, in the step */
	uint32_t n_pos;     /* places up to the last one's */
};

/* Rows that stay of a sequence's KV; n_pos 0: none go. */
struct plx_fwd_evict {
	uint32_t *table;      /* [max_seq_blocks] as it was */
	const uint64_t *keep; /* bits [n_pos] */
	uint32_t n_pos;
};

/* Consecutive tokens of one sequence whose attention is one unit of work for each KV head. */
struct plx_fwd_span {
	uint32_t seq;
	uint32_t tok;
	uint32_t n_tok;
	uint32_t pos;
	uint32_t window; /* places that its tokens read in a layer that has one */
};

/* Buffers of one lane (one lcore that computes); written inside an item only. */
#define PLX_FWD_TOK_CHUNK 64u  /* most tokens of a matrix item */
#define PLX_FWD_ROWS_MAX  128u /* most rows of a gate-and-up item */
#define PLX_FWD_AHEAD_TOK 4u   /* most tokens for which weights are fetched ahead */
#define PLX_FWD_SPAN_MAX  64u  /* most queries (tokens times heads) of an attention unit */

struct plx_fwd_lane {
	float *row;  /* one token's widest vector */
	float *gate; /* [PLX_FWD_TOK_CHUNK][PLX_FWD_ROWS_MAX] */
	float *up;
	float *part; /* partial attention results of one span */
	float *acc;
	float *score;   /* [n_head / n_head_kv][observe_stride] */
	uint32_t *seen; /* [observe_stride] shares of attention */
};

/* Activations in the forms a matrix may take; what no matrix of the model takes is NULL. */
struct plx_fwd_act {
	struct plx_k_qblk *q8; /* [n_tok][n / 32] */
	uint16_t *bf16;        /* [n_tok][n] */
	float *f32;            /* [n_tok][n] */
};

struct plx_fwd_moe;
struct plx_fwd_picks;
struct plx_fwd_tree;

struct plx_fwd {
	const struct plx_model *m;
	const struct plx_kernels *k;
	struct plx_dev_limits lim;
	struct plx_fwd_layer *layer; /* [n_layer] */
	struct plx_k_mat head;
	uint8_t *kv; /* [n_blocks][block_bytes] */
	uint64_t block_bytes;
	float *rope;          /* [max positions][n_rot] */
	uint32_t qkv_width;   /* floats of a token's q, k and v */
	uint32_t part_floats; /* of one partial attention result */
	uint32_t head_group;  /* rows whose logits are held at once */
	uint32_t logit_stride;
	float attn_scale; /* 1 / sqrt(head_dim) */
	bool att_by_head; /* a KV head's outputs are whole q8 blocks */

	/* one step's activations */
	float *x;                /* [max_step_tokens][n_embd] */
	struct plx_fwd_act norm; /* [max_step_tokens][n_embd] */
	float *qkv;              /* [max_step_tokens][qkv_width] */
	float *acc; /* [max_step_tokens][n_head][part_floats]; NULL for short contexts */
	struct plx_fwd_act att;      /* [max_step_tokens][n_head * head_dim] */
	struct plx_fwd_act mid;      /* [max_step_tokens][n_ff], or n_ff_shared */
	struct plx_fwd_act last;     /* [head_group][n_embd] */
	float *logits;               /* [head_group][logit_stride] */
	struct plx_fwd_lane *lane;   /* [n_threads] */
	struct plx_fwd_moe *moe;     /* NULL in a dense model */
	struct plx_fwd_picks *picks; /* NULL without sparse attention */
	struct plx_fwd_tree *tree;   /* NULL without trees of drafts */

	/* the step that runs */
	bool early; /* it ends behind lim.early_layers; set before plx_fwd_begin */
	uint32_t n_tok;
	uint32_t n_seq;
	uint32_t n_row;
	uint32_t n_span;
	uint32_t n_split;            /* attention splits of the furthest token */
	uint32_t window_split;       /* the first one that a layer with a window needs */
	int32_t *id;                 /* [n_tok], all of them vocabulary ids */
	uint32_t *pos;               /* [n_tok] */
	struct plx_fwd_seq *seq;     /* [n_seq], branches of drafts counted each */
	uint32_t *row;               /* [n_row]: tokens whose logits are wanted, increasing */
	struct plx_fwd_shift *shift; /* [n_shift], of at most n_slots */
	uint32_t n_shift;
	uint32_t i_shift; /* SHIFT: which one runs */
	struct plx_fwd_evict evict;
	struct plx_fwd_observe observe;
	uint32_t observe_stride;   /* most places of a sequence */
	struct plx_fwd_span *span; /* [n_span] */

	/* the op that runs */
	int err; /* why plx_fwd_next ended the step early; 0: it did not */
	enum plx_fwd_op op;
	uint32_t il;         /* layer */
	uint32_t split;      /* ATTN */
	uint32_t row0;       /* HEAD: first row of the group */
	uint32_t n_head_row; /* HEAD: rows of the group */
	uint32_t n_rows;     /* matrix ops: rows, in tiles or in granules of gate and up */
	uint32_t unit_rows;  /* of them in a unit */
	uint32_t n_chunk;    /* token chunks; units are row stretches times chunks */
	uint32_t tok_chunk;  /* tokens a chunk */
};

/*
 * plx_fwd_check - whether this pass can run the model within these limits.
 * Errors: UNSUPPORTED, LIMIT; d names what.
 */
int plx_fwd_check(const struct plx_model *m, const struct plx_dev_limits *lim, struct plx_diag *d);

/* plx_fwd_n_ffn - experts of a layer, the shared one included; 0 in a dense model. */
static inline uint32_t plx_fwd_n_ffn(const struct plx_model *m)
{
	return m->n_expert + (m->n_ff_shared > 0 ? 1 : 0);
}

/*
 * plx_fwd_layer_mats - matrices of a layer. plx_fwd_layer_mat - the i-th as the file has it:
 * wq, wk, wv, wo, then (dense) gate, up, down, or router, the shared expert's gate where there is
 * one, and each expert's gate, up, down, the shared one's last.
 */
uint32_t plx_fwd_layer_mats(const struct plx_model *m);
struct plx_tensor plx_fwd_layer_mat(const struct plx_model *m, uint32_t il, uint32_t i);

/* plx_fwd_first_ffn - the index of the first gate; gate, up, down repeat from there on. */
static inline uint32_t plx_fwd_first_ffn(const struct plx_model *m)
{
	return m->n_expert == 0 ? 4 : m->n_ff_shared > 0 ? 6 : 5;
}

/* plx_fwd_weight_bytes - all matrices repacked; 0 where a matrix can't be. */
uint64_t plx_fwd_weight_bytes(const struct plx_model *m);

/* plx_fwd_kv_type - the limits' type of KV, as the kernels name it. */
static inline enum plx_k_kv_type plx_fwd_kv_type(const struct plx_dev_limits *lim)
{
	_Static_assert((int)PLX_KV_F16 == (int)PLX_K_KV_F16 && (int)PLX_KV_Q8 == (int)PLX_K_KV_Q8 &&
	                   (int)PLX_KV_Q4 == (int)PLX_K_KV_Q4,
	               "one list");
	return (enum plx_k_kv_type)lim->kv_type;
}

/* plx_fwd_block_bytes - one KV block over all layers. */
uint64_t plx_fwd_block_bytes(const struct plx_model *m, const struct plx_dev_limits *lim);

/* plx_fwd_work_bytes - everything else that plx_fwd_init takes from its arena. */
uint64_t plx_fwd_work_bytes(const struct plx_model *m, const struct plx_dev_limits *lim);

/*
 * plx_fwd_init - take the buffers; the caller then sets layer[], head, kv and the rope rows.
 *
 * Owner:  arena holds all of it.
 * Errors: NOMEM, where the arena is smaller than plx_fwd_work_bytes.
 */
int plx_fwd_init(struct plx_fwd *f, const struct plx_model *m, const struct plx_kernels *k,
                 const struct plx_dev_limits *lim, struct plx_arena *arena);

/*
 * plx_fwd_shift_add - tokens in entries index .. n_blocks-1 of a table move down before the step's
 * tokens run: one more in shift[], which the caller empties (n_shift = 0) before it adds.
 *
 *   K[p - down] = R(-down) K[p], in f32, then rounded as K is stored
 *
 * by the row of the angle table that belongs to position `down`. The entries may be told after this
 * call. So K moves exactly but for one rounding; a token moves at most n_ctx / down times.
 *
 * Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
 *         arXiv:2309.17453 (positions are those within the cache).
 */
void plx_fwd_shift_add(struct plx_fwd *f, const uint32_t *table, uint32_t index, uint32_t n_blocks,
                       uint32_t down);

/*
 * plx_fwd_evict_add - of a sequence's n places those whose bits are set stay and move down, before
 * the step's tokens run; once a step. The table is copied, keep stays until then. The caller sets
 * evict.n_pos = 0 before a step.
 *
 * Source: Li et al., "SnapKV", arXiv:2404.14469; Zhang et al., "H2O", arXiv:2306.14048.
 */
void plx_fwd_evict_add(struct plx_fwd *f, const uint32_t *table, const uint64_t *keep, uint32_t n);

/*
 * plx_fwd_observe - sum up what the last tokens of sequence `seq` attend to; behind seq and pos,
 * before begin. The caller sets observe.n_query = 0 before a step.
 * plx_fwd_observed - the sums, when the step has run; [observe.n_pos].
 */
void plx_fwd_observe(struct plx_fwd *f, uint32_t seq);
void plx_fwd_observed(const struct plx_fwd *f, float *out);

/*
 * plx_fwd_begin - take the step described in n_tok, n_seq, n_row, id, pos, seq, row and shift.
 *
 * The next plx_fwd_next gives the first op. With n_row = 0 no logits are computed; with n_tok = 0
 * there is SHIFT alone.
 * Cost: O(n_tok + n_seq).
 */
void plx_fwd_begin(struct plx_fwd *f);

/*
 * plx_fwd_next - go to the next op and cut it; false when the body is done and no group of logits
 * is left, or when weights could not be read (err says so).
 *
 * With no units the pass waits for weights that are being read: call it again later.
 *
 * After an op PLX_FWD_HEAD the logits of rows row0 .. row0 + n_head_row - 1 are in logits, and stay
 * until the next call.
 * Thread: one at a time.  Cost: below a microsecond.
 */
bool plx_fwd_next(struct plx_fwd *f, struct plx_cut *out);

/*
 * plx_fwd_units - compute some units of the op.
 *
 * Thread: any, each with a lane of its own.  Cost: about 20 us for as many as the cut allows.
 */
void plx_fwd_units(struct plx_fwd *f, struct plx_range units, uint32_t lane);

/*
 * plx_fwd_ahead - where the next matrix op begins to read weights.
 *
 * @share    of n_share: the op's rows are shared out in that many stretches.
 *
 * Returns the first weights of that stretch; NULL where weights are read too seldom to matter (many
 * tokens).
 * Thread: as plx_fwd_next.
 */
const char *plx_fwd_ahead(const struct plx_fwd *f, uint32_t share, uint32_t n_share);

/* plx_fwd_sparse_counts - what sparse attention read; with picks only. Thread: any. */
void plx_fwd_sparse_counts(const struct plx_fwd *f, struct plx_dev_sparse *out);

/* plx_fwd_shares - what each sequence of the step read, when it has run; with picks only. */
void plx_fwd_shares(const struct plx_fwd *f, struct plx_step_share *out);

/* plx_fwd_op_name - "embed", "qkv" ... */
const char *plx_fwd_op_name(enum plx_fwd_op op);

#endif
