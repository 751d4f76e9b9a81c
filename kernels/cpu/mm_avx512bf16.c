/*
 * The matrix product for AVX-512 with VNNI and BF16, the same with AMX for many tokens, and whether
 * the machine's vdpbf16ps computes what the golden does.
 */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/mm_amx.h"
#include "kernels/cpu/mm_impl.h"

void plx_k_matmul_avx512bf16(const struct plx_k_mm *m)
{
	op_matmul(m);
}

/*
 * BF16 goes to the fma path, for the same bits: where there are tiles vdpbf16ps runs at half the
 * rate (Sapphire Rapids, 512 tokens: 120 Gop/s against 180).
 */
void plx_k_matmul_amx(const struct plx_k_mm *m)
{
	if (m->w->type == PLX_Q_BF16)
		plx_kernels_avx512.matmul(m);
	else
		op_matmul_amx(m);
}

/* One lane: bits of a sum, two pairs of bf16 (odd half on top). */
struct probe {
	uint32_t acc;
	uint32_t w;
	uint32_t x;
};

/*
 * Inputs on which every other reading of the instruction differs: even product first, products
 * rounded or flushed before they are added, both products added to each other first, subnormals
 * kept, a sum rounded once, an overflow on the way.
 */
static const struct probe probes[] = {
    {0x4b800000, 0x3f803f80, 0x3f80bf80}, /* 2^24 + 1 - 1: 2^24 - 0 or 2^24 - 1 by the order */
    {0x4b800000, 0x3f803f80, 0xbf803f80}, /* 2^24 - 1 + 1 */
    {0x01000000, 0x1f001f00, 0x1f801f80}, /* products of 2^-129: below the least normal */
    {0x80c00000, 0x1f401fc0, 0x20002000}, /* a sum that ends below it */
    {0x00000001, 0x3f803f80, 0x00003f80}, /* a subnormal sum given */
    {0x00800000, 0x00400040, 0x3f803f80}, /* subnormal operands */
    {0x00800000, 0x3f803f80, 0x8040bf80},
    {0xff7fffff, 0x7f007f00, 0x40003f80}, /* an odd product above the largest float */
    {0x7f7fffff, 0x7f00ff00, 0x40004000}, /* a sum that overflows on the way, then inf - 2^128 */
    {0x3f800001, 0x3f813f83, 0x3f853f87}, /* ordinary: two roundings, not one */
    {0xbf87fb83, 0x3f813f83, 0x3f853f87}, /* cancellation */
    {0x33800000, 0x3f80bf80, 0x3f803f80}, /* 2^-24 + 1 - 1: 0 or 2^-24 by the order */
};

static bool probe_agrees(const struct probe *p)
{
	uint32_t x2 = p->x;
	uint16_t x[2];

	memcpy(x, &x2, sizeof x);
	vf acc = vf_set1(plx_f32_from_bits(p->acc));
	vi w = vi_set1((int32_t)p->w);
	vf xo = vf_set1(plx_f32_from_bits(p->x & 0xffff0000u));
	vf xe = vf_set1(plx_f32_from_bits(p->x << 16));
	vf one = vf_dot_bf16(acc, w, x);
	vf two = vf_fma(vf_from_bits(vi_and(w, vi_set1(-65536))), xo, acc);

	two = vf_fma(vf_from_bits(vi_shl(w, 16)), xe, two);
	/* Bits, but any NaN is as good as another. */
	return _mm512_cmpeq_epi32_mask(vi_from_bits(one), vi_from_bits(two)) == 0xffff ||
	       (_mm512_cmp_ps_mask(one, one, _CMP_UNORD_Q) == 0xffff &&
	        _mm512_cmp_ps_mask(two, two, _CMP_UNORD_Q) == 0xffff);
}

bool plx_k_bf16_agrees(void)
{
	unsigned saved = _mm_getcsr();
	bool all = true;

	plx_k_fpu_setup();
	for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
		all = all && probe_agrees(&probes[i]);
	_mm_setcsr(saved);
	return all;
}
