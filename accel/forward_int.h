/* What forward.c and forward_attn.c share; nobody else includes it. */
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

/* plx_fwd_kv_view - one KV head of a layer in a sequence's blocks. */
struct plx_k_kv plx_fwd_kv_view(const struct plx_fwd *f, const uint32_t *table, uint32_t layer,
                                uint32_t head);

/* plx_fwd_shift_cut - SHIFT: unit u is one KV head of one layer of a block that moved. */
struct plx_cut plx_fwd_shift_cut(const struct plx_fwd *f);

/* plx_fwd_shift_units - units of SHIFT. */
void plx_fwd_shift_units(const struct plx_fwd *f, struct plx_range u);

/* plx_fwd_spans_make - cut the step's sequences into spans, and count the splits. */
void plx_fwd_spans_make(struct plx_fwd *f);

/* plx_fwd_attn_ns - what the current split of attention takes one lane, roughly. */
double plx_fwd_attn_ns(const struct plx_fwd *f);

/* plx_fwd_attn_units - units of ATTN: unit u is KV head u % n_head_kv of span u / n_head_kv. */
void plx_fwd_attn_units(struct plx_fwd *f, struct plx_range u, uint32_t lane);

#endif
