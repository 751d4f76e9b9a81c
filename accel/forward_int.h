/* What the files of the pass (forward*.c) share; nobody else includes it. */
#ifndef PLX_ACCEL_FORWARD_INT_H
#define PLX_ACCEL_FORWARD_INT_H

#include "accel/cut.h"
#include "accel/forward.h"

/* What an instruction set does in a nanosecond, roughly: only the cut of an op depends on it. */
struct plx_fwd_rates {
	double q8_macs; /* a nanosecond */
	double f32_macs;
	double attn_macs;
	double floats; /* of element-wise work */
	double bytes;  /* of weights */
};

const struct plx_fwd_rates *plx_fwd_rates_of(const struct plx_fwd *f);

/* plx_fwd_seq_of - the sequence that token t belongs to. */
const struct plx_fwd_seq *plx_fwd_seq_of(const struct plx_fwd *f, uint32_t t);

/* plx_fwd_kv_view - one KV head of a layer in a sequence's blocks. */
struct plx_k_kv plx_fwd_kv_view(const struct plx_fwd *f, const uint32_t *table, uint32_t layer,
                                uint32_t head);

/* plx_fwd_shift_cut - SHIFT: unit u is one KV head of one layer of a block that moved. */
struct plx_cut plx_fwd_shift_cut(const struct plx_fwd *f);

/* plx_fwd_shift_units - units of SHIFT. */
void plx_fwd_shift_units(const struct plx_fwd *f, struct plx_range u);

/* Places up to `pos` that a token there reads in a layer with a window: those whose tokens'
 * positions are less than the window before its own. Never less than the model's window where all
 * are read. */
uint32_t plx_fwd_window(const struct plx_fwd *f, const struct plx_fwd_seq *q, uint32_t pos);

/* EVICT: unit u is one KV head of one layer. */
struct plx_cut plx_fwd_evict_cut(const struct plx_fwd *f);
void plx_fwd_evict_units(const struct plx_fwd *f, struct plx_range u);

/* plx_fwd_last - whether this is the last layer of the step. */
static inline bool plx_fwd_last(const struct plx_fwd *f)
{
	return f->il + 1 == f->m->n_layer || (f->early && f->il + 1 == f->lim.early_layers);
}

/* plx_fwd_observes - whether this layer is looked at. OBSERVE: unit u is KV head u % n_head_kv of
 * query u / n_head_kv. */
bool plx_fwd_observes(const struct plx_fwd *f);
struct plx_cut plx_fwd_observe_cut(const struct plx_fwd *f);
void plx_fwd_observe_units(struct plx_fwd *f, struct plx_range u, uint32_t lane);

/* plx_fwd_spans_make - cut the step's sequences into spans, and count the splits. */
void plx_fwd_spans_make(struct plx_fwd *f);

/* plx_fwd_first_split - the first split that the layer in work attends to. */
static inline uint32_t plx_fwd_first_split(const struct plx_fwd *f)
{
	return f->m->layer[f->il].window > 0 ? f->window_split : 0;
}

/* plx_fwd_attn_ns - what the current split of attention takes one lane, roughly. */
double plx_fwd_attn_ns(const struct plx_fwd *f);

/* plx_fwd_attn_units - units of ATTN: unit u is KV head u % n_head_kv of span u / n_head_kv. */
void plx_fwd_attn_units(struct plx_fwd *f, struct plx_range u, uint32_t lane);

/* plx_fwd_tok_units - units of EMBED, NORM1, NORM2, HEAD_NORM, ROPE and QATT: unit u is token u.
 */
void plx_fwd_tok_units(struct plx_fwd *f, struct plx_range tok, uint32_t lane);

/* ---- matrices and feed-forward networks (forward.c) ----------------------------------------- */

/* plx_fwd_mat_ns - what a product by n_tok tokens takes one lane, roughly. */
double plx_fwd_mat_ns(const struct plx_fwd *f, const struct plx_k_mat *w, uint32_t n_tok);

/* plx_fwd_act_at - an activation from row on, rows being n wide. */
static inline struct plx_fwd_act plx_fwd_act_at(const struct plx_fwd_act *a, size_t row, uint32_t n)
{
	return (struct plx_fwd_act){a->q8 != NULL ? a->q8 + row * (n / PLX_K_QBLOCK) : NULL,
	                            a->bf16 != NULL ? a->bf16 + row * n : NULL,
	                            a->f32 != NULL ? a->f32 + row * n : NULL};
}

/* plx_fwd_row_at - where row, a multiple of PLX_K_TILE, begins. */
static inline const uint8_t *plx_fwd_row_at(const struct plx_k_mat *w, uint32_t row)
{
	return (const uint8_t *)w->data +
	       row / PLX_K_TILE * plx_k_pack_bytes(w->type, PLX_K_TILE, w->n_in);
}

/*
 * plx_fwd_fetch - the kernels fetch this far ahead of where they read, so the first bytes of a
 * stretch are fetched here: without that each stretch would begin at the pace of single cache
 * misses.
 */
#define PLX_FWD_FETCH_BYTES 4096u

static inline void plx_fwd_fetch(const void *at)
{
	for (uint32_t i = 0; i < PLX_FWD_FETCH_BYTES; i += 64)
		__builtin_prefetch((const char *)at + i);
}

/*
 * The first half of a feed-forward network for rows of activations that lie together:
 * out[t] = silu(gate in[t]) * (up in[t]), times scale[t] where scale is not NULL.
 */
struct plx_fwd_gated {
	const struct plx_fwd_ffn *w;
	struct plx_fwd_act in;
	struct plx_fwd_act out;
	const float *scale;
};

/* plx_fwd_gated_rows - granules of it, for at most PLX_FWD_TOK_CHUNK rows t of tok. */
void plx_fwd_gated_rows(const struct plx_fwd *f, const struct plx_fwd_gated *g,
                        struct plx_range granule, struct plx_range tok,
                        const struct plx_fwd_lane *s);

#endif
