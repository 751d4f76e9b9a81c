/* Tokens that move to lower positions: K is stored rotated, so it is rotated on, and nothing else.
 */
#include "accel/forward_int.h"

#include "accel/cut.h"
#include "accel/forward_pick.h"
#include "fw/base/check.h"

/* A float read, turned and written, in those of element-wise work. */
#define COST_F16   2.0
#define COST_QUANT 24.0

#define FETCH_BYTES 2048u

void plx_fwd_shift_add(struct plx_fwd *f, const uint32_t *table, uint32_t index, uint32_t n_blocks,
                       uint32_t down)
{
	PLX_DCHECK(f->n_shift < f->lim.n_slots && index < n_blocks);
	f->shift[f->n_shift++] = (struct plx_fwd_shift){table, index, n_blocks, down};
}

struct plx_cut plx_fwd_shift_cut(const struct plx_fwd *f)
{
	const struct plx_fwd_shift *s = &f->shift[f->i_shift];
	uint32_t n_units = (s->n_blocks - s->index) * f->m->n_layer * f->m->n_head_kv;
	double floats = (double)n_units * f->lim.block_tokens * f->m->head_dim;

	double cost = f->lim.kv_type == PLX_KV_F16 ? COST_F16 : COST_QUANT;

	return plx_cut_op(cost * floats / plx_fwd_rates_of(f)->floats, n_units);
}

/* The angles of `down` positions, the other way round. */
static void back_row(const struct plx_fwd *f, uint32_t down, float *tab)
{
	const float *row = f->rope + (size_t)down * f->m->n_rot;

	for (uint32_t i = 0; i < f->m->n_rot; i += 2) {
		tab[i] = row[i];
		tab[i + 1] = -row[i + 1];
	}
}

static void shift_unit(const struct plx_fwd *f, uint32_t u)
{
	const struct plx_model *m = f->m;
	const struct plx_fwd_shift *s = &f->shift[f->i_shift];
	uint32_t head = u % m->n_head_kv, layer = u / m->n_head_kv % m->n_layer;
	uint32_t block = s->index + u / m->n_head_kv / m->n_layer, bt = f->lim.block_tokens;
	struct plx_k_kv kv = plx_fwd_kv_view(f, s->table, layer, head);
	enum plx_k_rope kind =
	    m->pairing == PLX_ROPE_HALVES ? PLX_K_ROPE_HALVES : PLX_K_ROPE_ADJACENT;
	float tab[PLX_K_HEAD_DIM_MAX];

	back_row(f, s->down, tab);
	for (uint32_t p = block * bt; p < (block + 1) * bt; p += 16)
		f->k->k_rotate(&kv, p, tab, m->n_rot, kind);
	plx_fwd_pages_again(f, &kv, block * bt, (block + 1) * bt);
}

/* A unit's first lines begin to arrive. */
static void fetch_unit(const struct plx_fwd *f, uint32_t u)
{
	const struct plx_fwd_shift *s = &f->shift[f->i_shift];
	uint32_t head = u % f->m->n_head_kv, layer = u / f->m->n_head_kv % f->m->n_layer;
	uint32_t block = s->index + u / f->m->n_head_kv / f->m->n_layer;
	struct plx_k_kv kv = plx_fwd_kv_view(f, s->table, layer, head);
	const char *at = (const char *)kv.base + s->table[block] * kv.block_bytes + kv.k_off;

	for (uint32_t i = 0; i < FETCH_BYTES; i += 64)
		__builtin_prefetch(at + i, 1, 2);
}

void plx_fwd_shift_units(const struct plx_fwd *f, struct plx_range u)
{
	for (uint32_t i = u.begin; i < u.end; i++) {
		if (i + 1 < u.end)
			fetch_unit(f, i + 1);
		shift_unit(f, i);
	}
}
