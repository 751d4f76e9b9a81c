/*
 * K that moves to other positions, once for every instruction set: included by table_impl.h alone.
 *
 * A lane is a position: in f16 the sixteen positions of a group lie side by side, and all of them
 * turn by the same angles. Each one's arithmetic is that of rope.
 */
#ifndef PLX_KERNELS_CPU_ROTATE_IMPL_H
#define PLX_KERNELS_CPU_ROTATE_IMPL_H

#include "kernels/cpu/attn_impl.h"
#include "kernels/cpu/ops_impl.h"

V16_INLINE void rotate_put(uint16_t *at, vf v)
{
	vf_to_f16(at, vf_max(vf_set1(-65504.0f), vf_min(vf_set1(65504.0f), v)));
}

/* A pair of dimensions of sixteen positions. */
V16_INLINE void rotate_pair(uint16_t *pa, uint16_t *pb, const float *tab)
{
	vf a = vf_from_f16(pa), b = vf_from_f16(pb), c = vf_set1(tab[0]), s = vf_set1(tab[1]);

	rotate_put(pa, vf_fma(a, c, vf_neg(vf_mul(b, s))));
	rotate_put(pb, vf_fma(b, c, vf_mul(a, s)));
}

static void op_k_rotate(const struct plx_k_kv *kv, uint32_t pos, const float *tab, uint32_t n_rot,
                        enum plx_k_rope kind)
{
	float k[PLX_K_HEAD_DIM_MAX];

	PLX_DCHECK(pos % 16 == 0 && n_rot % 16 == 0 && n_rot <= kv->head_dim);
	for (uint32_t i = 0; i < 16 && kv->type != PLX_K_KV_F16; i++) {
		op_k_load(kv, pos + i, k);
		op_rope(k, tab, 1, kv->head_dim, n_rot, kind);
		op_k_store(kv, pos + i, k);
	}
	if (kv->type != PLX_K_KV_F16)
		return;
	uint16_t *k16 = k_at(kv, pos);
	uint32_t half = n_rot / 2;

	for (uint32_t i = 0; i < half; i++) {
		uint32_t a = kind == PLX_K_ROPE_HALVES ? i : 2 * i;
		uint32_t b = kind == PLX_K_ROPE_HALVES ? i + half : 2 * i + 1;

		rotate_pair(k16 + (size_t)a * 16, k16 + (size_t)b * 16, tab + 2 * i);
	}
}

#endif
