/*
 * Everything between matrix products, once for every instruction set: included by isa_*.c alone.
 * kernels.h has each op's contract and order of additions.
 */
#ifndef PLX_KERNELS_CPU_OPS_IMPL_H
#define PLX_KERNELS_CPU_OPS_IMPL_H

#include "fw/base/check.h"
#include "kernels/cpu/v16.h"
#include "kernels/kernels.h"

static void quantise_block(struct plx_k_qblk *b, const float *x)
{
	const vi mag = vi_set1(0x7fffffff);
	vf x0 = vf_load(x);
	vf x1 = vf_load(x + 16);
	vi bits = vi_max(vi_and(vi_from_bits(x0), mag), vi_and(vi_from_bits(x1), mag));
	uint32_t top = (uint32_t)vi_hmax(bits);
	float absmax = plx_f32_from_bits(top);

	if (top >= 0x7f800000u || absmax < 0x1p-100f) {
		memset(b, 0, sizeof *b);
		b->d = top >= 0x7f800000u ? NAN : 0.0f;
		b->s = b->d;
		return;
	}
	vf inv = vf_set1(127.0f / absmax);
	vi q0 = vi_round(vf_mul(x0, inv));
	vi q1 = vi_round(vf_mul(x1, inv));

	vi_store_i8(b->q, q0);
	vi_store_i8(b->q + 16, q1);
	b->sum_lo = vi_hsum(q0);
	b->sum = b->sum_lo + vi_hsum(q1);
	b->d = absmax / 127.0f;
	b->s = b->d * (float)b->sum;
}

static void op_quantise(struct plx_k_qblk *q, const float *x, uint32_t n_tok, uint32_t n_in,
                        uint32_t x_stride)
{
	PLX_DCHECK(n_in % PLX_K_QBLOCK == 0);
	for (uint32_t t = 0; t < n_tok; t++)
		for (uint32_t b = 0; b < n_in / PLX_K_QBLOCK; b++)
			quantise_block(q++, x + (size_t)t * x_stride + (size_t)b * PLX_K_QBLOCK);
}

static void op_to_bf16(uint16_t *y, const float *x, uint32_t n)
{
	PLX_DCHECK(n % 16 == 0);
	for (uint32_t i = 0; i < n; i += 16)
		vf_to_bf16(y + i, vf_load(x + i));
}

static void op_rmsnorm(float *y, const float *x, const float *w, uint32_t n_tok, uint32_t n,
                       uint32_t stride, float eps)
{
	PLX_DCHECK(n % 16 == 0 && stride >= n);
	for (uint32_t t = 0; t < n_tok; t++, x += stride, y += stride) {
		vf sum = vf_set1(0.0f);

		for (uint32_t i = 0; i < n; i += 16)
			sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
		vf r = vf_set1(1.0f / sqrtf(vf_hsum(sum) / (float)n + eps));

		for (uint32_t i = 0; i < n; i += 16)
			vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), r), vf_load(w + i)));
	}
}

static void rope_halves(float *x, const float *tab, uint32_t half)
{
	for (uint32_t i = 0; i < half; i++) {
		float a = x[i];
		float b = x[i + half];
		float c = tab[2 * i];
		float s = tab[2 * i + 1];

		x[i] = fmaf(a, c, -(b * s));
		x[i + half] = fmaf(b, c, a * s);
	}
}

static void op_rope(float *x, const float *tab, uint32_t n_head, uint32_t head_dim, uint32_t n_rot,
                    enum plx_k_rope kind)
{
	PLX_DCHECK(n_rot % 16 == 0 && n_rot <= head_dim);
	for (uint32_t h = 0; h < n_head; h++, x += head_dim) {
		if (kind == PLX_K_ROPE_HALVES) {
			rope_halves(x, tab, n_rot / 2);
			continue;
		}
		for (uint32_t i = 0; i < n_rot; i += 16)
			vf_store(x + i, vf_rope_pairs(vf_load(x + i), vf_load(tab + i)));
	}
}

static void op_silu_mul(float *y, const float *gate, const float *up, uint32_t n)
{
	PLX_DCHECK(n % 16 == 0);
	for (uint32_t i = 0; i < n; i += 16) {
		vf g = vf_load(gate + i);
		vf silu = vf_div(g, vf_add(vf_set1(1.0f), vf_exp(vf_neg(g))));

		vf_store(y + i, vf_mul(silu, vf_load(up + i)));
	}
}

static void op_add(float *y, const float *x, uint32_t n)
{
	PLX_DCHECK(n % 16 == 0);
	for (uint32_t i = 0; i < n; i += 16)
		vf_store(y + i, vf_add(vf_load(y + i), vf_load(x + i)));
}

static void op_exp(float *y, const float *x, uint32_t n)
{
	PLX_DCHECK(n % 16 == 0);
	for (uint32_t i = 0; i < n; i += 16)
		vf_store(y + i, vf_exp(vf_load(x + i)));
}

/* 16 values from x, or the n < 16 that are left and fill behind them. */
V16_INLINE vf load_first(const float *x, uint32_t n, float fill)
{
	float buf[16];

	if (n >= 16)
		return vf_load(x);
	for (uint32_t i = 0; i < 16; i++)
		buf[i] = i < n ? x[i] : fill;
	return vf_load(buf);
}

static float max_of(const float *x, uint32_t n)
{
	vf m = vf_set1(-INFINITY);

	for (uint32_t i = 0; i < n; i += 16)
		m = vf_max(m, vf_nan_to(load_first(x + i, n - i, -INFINITY), -INFINITY));
	return vf_hmax(m);
}

static uint32_t op_argmax(const float *x, uint32_t n)
{
	vf m = vf_set1(max_of(x, n));

	for (uint32_t i = 0; i < n; i += 16) {
		uint32_t hit = vf_equal(load_first(x + i, n - i, NAN), m);

		if (hit)
			return i + (uint32_t)__builtin_ctz(hit);
	}
	return 0;
}

static float op_block_max(float *out, const float *x, uint32_t n)
{
	float top = -INFINITY;
	bool nan = false;

	for (uint32_t i = 0; i < n; i += PLX_K_MAX_BLOCK) {
		vf m = vf_set1(-INFINITY);
		uint32_t ordered = 0xffffu;

		for (uint32_t j = i; j < i + PLX_K_MAX_BLOCK && j < n; j += 16) {
			vf v = load_first(x + j, n - j, -INFINITY);

			ordered &= vf_equal(v, v);
			m = vf_max(m, v);
		}
		float block = ordered == 0xffffu ? vf_hmax(m) : NAN;

		nan = nan || ordered != 0xffffu;
		top = block > top ? block : top;
		out[i / PLX_K_MAX_BLOCK] = block;
	}
	return nan ? NAN : top;
}

static uint64_t op_logit_sum(const float *x, uint32_t n, float *max)
{
	vu sum = vu_zero();
	uint32_t ordered = 0xffffu;

	*max = max_of(x, n);
	if (!(*max > -INFINITY && *max < INFINITY))
		return 0;
	for (uint32_t i = 0; i < n; i += 16) {
		vf d = vf_sub(load_first(x + i, n - i, -INFINITY), vf_set1(*max));

		ordered &= vf_equal(d, d);
		sum = vu_add_floor(sum, vf_mul(vf_exp(d), vf_set1(0x1p40f)));
	}
	return ordered == 0xffffu ? vu_hsum(sum) : 0;
}

static uint64_t op_weight_sum(const float *x, uint32_t n, float max, float inv_temperature)
{
	vu sum = vu_zero();

	for (uint32_t i = 0; i < n; i += 16) {
		vf d = vf_sub(load_first(x + i, n - i, -INFINITY), vf_set1(max));
		vf e = vf_exp(vf_mul(d, vf_set1(inv_temperature)));

		sum = vu_add_floor(sum, vf_mul(e, vf_set1(0x1p40f)));
	}
	return vu_hsum(sum);
}

#endif
