/*
 * Sparse attention in the pass: which chunks of 64 positions a query reads (accel.h, limits).
 *
 * Every page of K that a step of a sparse sequence fills is summarised once it is full (PAGES), in
 * the block that holds it, so that copies, other sequences and the host tier have the summary with
 * the keys; who shifts a block makes its summaries anew. Then the pages before a query's own chunk,
 * all of them full, are rated and chunks picked (PICK), in one of two ways:
 *
 *   decode   each query for itself, by the bounds of its scores at each page (Quest)
 *   prompt   the queries of PLX_SPARSE_POOL positions together, by the score of their mean at each
 *            page's mean (MInference): a block of queries against blocks of keys. A head has a
 *            choice of its own. Groups begin at multiples of PLX_SPARSE_POOL, no step cuts one
 *            apart, and none reaches beyond a page.
 *
 * So the choice depends on the ids up to the query (or the last one of its group) and on its
 * position, and on nothing that a step decides.
 *
 * Source: Jiang et al., "MInference 1.0", arXiv:2407.02490; Tang et al., "Quest", arXiv:2406.10774.
 */
#ifndef PLX_ACCEL_FORWARD_PICK_H
#define PLX_ACCEL_FORWARD_PICK_H

#include "accel/forward.h"

/* A page that the step filled. */
struct plx_fwd_page {
	const uint32_t *table;
	uint32_t pos; /* of its first token */
};

/* A lane's room, and what it counted. */
struct plx_fwd_pick_lane {
	float *mean; /* [max_chunks][pages of a chunk], then rates of chunks */
	float *most;
	_Atomic uint64_t tokens, chunks, read; /* the lane alone writes them */
	struct plx_step_share *share;          /* [max_step_seqs] of the step */
};

struct plx_fwd_picks {
	uint16_t *pick; /* [max_splits][n_head_kv][max_step_tokens][group]: bits, as attn_part's */
	struct plx_fwd_page *page;      /* [n_page] */
	uint32_t n_page;                /* of the step */
	uint32_t n_tok;                 /* of the step: tokens and groups that pick */
	struct plx_fwd_pick_lane *lane; /* [n_threads] */
};

/*
 * plx_fwd_pick_chunks - which chunks a query at chunk n reads: bit i of pick[i / 16].
 *
 * @mean   [n][per] mean scores of the pages of chunks 0..n-1, overwritten. Room for a multiple of
 *         16.
 * @most   the same, of what how->chunks goes by: bounds, or mean scores again.
 * @pick   out [n / 16 + 1]; chunks behind n are clear.
 * @share  out: of the mass of chunks 0..n-1, what is read, in 1 / PLX_SHARE_ONE, rounded down.
 *
 *   mass(c) = sum over pages i of c of exp(mean[i] - max(mean))
 *
 * Chunks 0, n - 1 and n are read, and what mass and chunks add. Mass goes by buckets
 * of a quarter octave, each one read as a whole; of equal bounds the latest first. All are read
 * where a rate is not finite.
 *
 * Returns how many are.
 * Cost: O(n * per), no allocation.
 */
uint32_t plx_fwd_pick_chunks(const struct plx_kernels *k, const struct plx_fwd_choice *how,
                             float *mean, float *most, uint32_t n, uint32_t per, uint16_t *pick,
                             uint32_t *share);

/* plx_fwd_pool - the mean of n queries, stride floats apart, each dimension added up in order. */
void plx_fwd_pool(float *mean, const float *q, size_t stride, uint32_t n, uint32_t dim);

/* plx_fwd_pick_begin - find the pages that the step fills, and count who picks. */
void plx_fwd_pick_begin(struct plx_fwd *f);

/* plx_fwd_pages_todo, plx_fwd_pick_todo - whether the step and layer have such an op. */
bool plx_fwd_pages_todo(const struct plx_fwd *f);
bool plx_fwd_pick_todo(const struct plx_fwd *f);

/* plx_fwd_pages_again - pages from..to-1 have other keys than before; those that are full are
 * summarised. */
void plx_fwd_pages_again(const struct plx_fwd *f, const struct plx_k_kv *kv, uint32_t from,
                         uint32_t to);

/* plx_fwd_attn_next - what follows once K and V are stored, up to ATTN; false where nothing
 * does, since this layer was there for its K and V only. */
bool plx_fwd_attn_next(struct plx_fwd *f);

/* plx_fwd_pick_cut, plx_fwd_pick_units - of PAGES and of PICK. */
struct plx_cut plx_fwd_pick_cut(const struct plx_fwd *f);
void plx_fwd_pick_units(struct plx_fwd *f, struct plx_range u, uint32_t lane);

/* plx_fwd_pick_of - a span's choice in the split and layer in work; NULL: all chunks. */
const uint16_t *plx_fwd_pick_of(const struct plx_fwd *f, const struct plx_fwd_span *sp,
                                uint32_t head);

#endif
