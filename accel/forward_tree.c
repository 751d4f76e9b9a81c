/* Branches of drafts: their last blocks, before the step and after it; see forward_tree.h. */
#include "accel/forward_tree.h"

#include <string.h>

#include "accel/forward_int.h"
#include "fw/base/check.h"

void plx_fwd_tree_begin(struct plx_fwd *f)
{
	if (f->tree != NULL)
		f->tree->n_branch = f->tree->n_copy = 0;
}

const uint32_t *plx_fwd_tree_branch(struct plx_fwd *f, const uint32_t *table, uint32_t pos)
{
	struct plx_fwd_tree *x = f->tree;
	uint32_t i = x->n_branch++, last = pos / f->lim.block_tokens;
	uint32_t *own = x->table + (size_t)i * f->lim.max_seq_blocks;
	uint32_t spare = f->lim.n_blocks + 2 * i;

	PLX_DCHECK(i < f->lim.tree_branches && last < f->lim.max_seq_blocks);
	memcpy(own, table, last * sizeof(*own));
	own[last] = spare;
	if (last + 1 < f->lim.max_seq_blocks)
		own[last + 1] = spare + 1;
	if (pos % f->lim.block_tokens > 0)
		x->copy[x->n_copy++] = (struct plx_fwd_copy){table[last], spare};
	return own;
}

void plx_fwd_tree_settle(struct plx_fwd *f, const uint32_t *branch, const uint32_t *table,
                         uint32_t pos, uint32_t last)
{
	struct plx_fwd_tree *x = f->tree;
	uint32_t bt = f->lim.block_tokens;

	for (uint32_t b = pos / bt; b <= last / bt; b++)
		x->copy[x->n_copy++] = (struct plx_fwd_copy){branch[b], table[b]};
}

bool plx_fwd_tree_go(struct plx_fwd *f, struct plx_cut *out)
{
	if (f->tree->n_copy == 0)
		return false;
	f->op = PLX_FWD_SETTLE;
	*out = plx_fwd_tree_cut(f);
	return true;
}

struct plx_cut plx_fwd_tree_cut(const struct plx_fwd *f)
{
	uint32_t n = f->tree->n_copy;

	/* Read and written. */
	return plx_cut_op(2.0 * n * (double)f->block_bytes / plx_fwd_rates_of(f)->bytes,
	                  n * f->m->n_layer);
}

void plx_fwd_tree_units(const struct plx_fwd *f, struct plx_range u)
{
	size_t bytes = f->block_bytes / f->m->n_layer;

	for (uint32_t i = u.begin; i < u.end; i++) {
		const struct plx_fwd_copy *c = &f->tree->copy[i / f->m->n_layer];
		size_t at = i % f->m->n_layer * bytes;

		memcpy(f->kv + c->to * f->block_bytes + at, f->kv + c->from * f->block_bytes + at,
		       bytes);
	}
}
