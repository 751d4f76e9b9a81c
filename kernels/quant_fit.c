/*
 * f32 to the block formats of quant.h, by extremes or by least squares.
 *
 * A block is written by an encoder that is given its scales; PLAIN gives it those of the extremes,
 * FIT those of a search. Sums run in four lanes in a fixed order, without fused operations, so the
 * bytes are the same on every machine.
 */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "fw/base/check.h"
#include "kernels/quant.h"

#define LANES 4
/* 1.5 * 2^23: what is added and taken away again is rounded to the nearest integer, ties to even.
 */
#define TO_INT 12582912.0f
/* The search leaves out what f16 scales can't show, and what would overflow its sums. */
#define FIT_LEAST 1e-10f
#define FIT_MOST  1e9f
#define MAX_BYTES 210 /* of a block */
#define MAX_SUBS  16

/* ---- sums over a block ----------------------------------------------------------------------- */

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t lane_mask __attribute__((vector_size(4 * LANES)));

static inline lanes all(float v)
{
	return (lanes){v, v, v, v};
}

static inline lanes load(const float *x)
{
	lanes v;

	memcpy(&v, x, sizeof v);
	return v;
}

/* a where the mask is set, else b. */
static inline lanes choose(lane_mask mask, lanes a, lanes b)
{
	return (lanes)(((lane_mask)a & mask) | ((lane_mask)b & ~mask));
}

static inline lanes nearest_lanes(lanes v, lanes lo, lanes hi)
{
	v = choose(v < lo, lo, v);
	v = choose(v > hi, hi, v);
	return (v + TO_INT) - TO_INT;
}

static inline float nearest(float v, float lo, float hi)
{
	v = v < lo ? lo : v;
	v = v > hi ? hi : v;
	return (v + TO_INT) - TO_INT;
}

static float inverse(float d)
{
	return d != 0 ? 1.0f / d : 0;
}

static inline float fold(lanes v)
{
	return (v[0] + v[2]) + (v[1] + v[3]);
}

/* Of the quants that x gets: their sum, that of their squares, that of their products with x. */
struct sums {
	float q, qq, xq;
};

/* q = nearest((x - m) * id) in lo..hi; n is a multiple of LANES. */
static struct sums sum_quants(const float *x, uint32_t n, float id, float m, float lo, float hi)
{
	lanes q = all(0), qq = q, xq = q, vlo = all(lo), vhi = all(hi);

	for (uint32_t i = 0; i < n; i += LANES) {
		lanes u = load(x + i);
		lanes v = nearest_lanes((u - m) * id, vlo, vhi);

		q += v;
		qq += v * v;
		xq += u * v;
	}
	return (struct sums){fold(q), fold(qq), fold(xq)};
}

/* Squared error of x against d * q + m, q as sum_quants has it. */
static float sum_error(const float *x, uint32_t n, float d, float m, float lo, float hi)
{
	lanes e = all(0), vlo = all(lo), vhi = all(hi);
	float id = inverse(d);

	for (uint32_t i = 0; i < n; i += LANES) {
		lanes u = load(x + i);
		lanes v = u - (d * nearest_lanes((u - m) * id, vlo, vhi) + m);

		e += v * v;
	}
	return fold(e);
}

static float sum(const float *x, uint32_t n)
{
	lanes s = all(0);

	for (uint32_t i = 0; i < n; i += LANES)
		s += load(x + i);
	return fold(s);
}

/* The element of largest magnitude, with its sign. */
static float extreme(const float *x, uint32_t n)
{
	float most = 0;

	for (uint32_t i = 0; i < n; i++)
		most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
	return most;
}

static void range(const float *x, uint32_t n, float *lo, float *hi)
{
	*lo = *hi = x[0];
	for (uint32_t i = 1; i < n; i++) {
		*lo = x[i] < *lo ? x[i] : *lo;
		*hi = x[i] > *hi ? x[i] : *hi;
	}
}

/* ---- the search ------------------------------------------------------------------------------ */

/* x ~ d * q, q in lo..hi: the d of least squared error. The extreme lands near either end. */
static float fit_scale(const float *x, uint32_t n, float lo, float hi)
{
	float most = extreme(x, n), best = 0, d = 0;
	int step = hi > 16 ? 3 : 1; /* of many levels a third of the trials finds as much */

	if (fabsf(most) < FIT_LEAST)
		return 0;
	for (int t = -9; t < 29; t += step) {
		float end = t < 10 ? lo + 0.1f * (float)t : hi + 0.1f * (float)(t - 19);
		struct sums s = sum_quants(x, n, end / most, 0, lo, hi);

		if (s.qq > 0 && s.xq * s.xq > best * s.qq) {
			best = s.xq * s.xq / s.qq;
			d = s.xq / s.qq;
		}
	}
	return d;
}

/* w = d * q + m. */
struct line {
	float d, m;
};

/* The line through quants with these sums; false where they all are the same. m <= 0 if below. */
static bool solve_line(struct sums s, float sx, float n, bool below, struct line *l)
{
	float det = n * s.qq - s.q * s.q;

	if (!(det > 0))
		return false;
	l->d = (n * s.xq - sx * s.q) / det;
	l->m = (sx - l->d * s.q) / n;
	if (below && l->m > 0) {
		l->m = 0;
		l->d = s.xq / s.qq;
	}
	return l->d > 0;
}

/* Squared error but for the sum of x squared, which is the same for every line. */
static float line_error(struct sums s, float sx, float n, struct line l)
{
	return l.d * (l.d * s.qq + 2 * (l.m * s.q - s.xq)) + l.m * (l.m * n - 2 * sx);
}

/* x ~ d * q + m, q in 0..top: the line of least squared error. */
static struct line fit_line(const float *x, uint32_t n, float top, bool below)
{
	struct line best = {0}, l;
	float lo, hi, sx = sum(x, n), least = 0;

	range(x, n, &lo, &hi);
	lo = below && lo > 0 ? 0 : lo;
	best.m = lo;
	if (hi - lo < FIT_LEAST)
		return best;
	best.d = (hi - lo) / top;
	least = line_error(sum_quants(x, n, 1 / best.d, lo, 0, top), sx, (float)n, best);
	for (int t = -10; t <= 12; t++) {
		/* The last two go on from the best line so far. */
		float id = t <= 10 ? (top + 0.1f * (float)t) / (hi - lo) : 1 / best.d;
		struct sums s = sum_quants(x, n, id, t <= 10 ? lo : best.m, 0, top);

		if (!solve_line(s, sx, (float)n, below, &l))
			continue;
		float e = line_error(s, sx, (float)n, l);

		if (e < least) {
			least = e;
			best = l;
		}
	}
	return best;
}

/* ---- encoders -------------------------------------------------------------------------------- */

/* Store a scale as f16; returns what a reader will see. */
static float put_f16(uint8_t *dst, float d)
{
	uint16_t h = plx_f32_to_f16(d < -65504 ? -65504 : d > 65504 ? 65504 : d);

	memcpy(dst, &h, sizeof h);
	return plx_f16_to_f32(h);
}

static uint8_t quant(float x, float id, float lo, float hi)
{
	return (uint8_t)(int)nearest(x * id, lo, hi);
}

/* Element i in the low nibble of byte i, element i + 16 in its high one; fifth bits in qh. */
static void put_q45(uint8_t *qs, uint8_t *qh, const uint8_t q[32])
{
	uint32_t high = 0;

	for (uint32_t i = 0; i < 16; i++)
		qs[i] = (uint8_t)((q[i] & 15u) | (q[i + 16] & 15u) << 4);
	for (uint32_t i = 0; qh && i < 32; i++)
		high |= (uint32_t)(q[i] >> 4 & 1) << i;
	if (qh)
		memcpy(qh, &high, sizeof high);
}

/* Q4_0 (half 8) and Q5_0 (half 16): w = d * (q - half). */
static void encode_signed(uint8_t *b, const float *x, float d, float half)
{
	float id = inverse(put_f16(b, d));
	bool five = half > 8;
	uint8_t q[32];

	for (uint32_t i = 0; i < 32; i++)
		q[i] = (uint8_t)(int)(nearest(x[i] * id, -half, half - 1) + half);
	put_q45(b + (five ? 6 : 2), five ? b + 2 : NULL, q);
}

/* Q4_1 (top 15) and Q5_1 (top 31): w = d * q + m. */
static void encode_line(uint8_t *b, const float *x, struct line l, float top)
{
	float id = inverse(put_f16(b, l.d)), m = put_f16(b + 2, l.m);
	bool five = top > 15;
	uint8_t q[32];

	for (uint32_t i = 0; i < 32; i++)
		q[i] = quant(x[i] - m, id, 0, top);
	put_q45(b + (five ? 8 : 4), five ? b + 4 : NULL, q);
}

static void encode_q8_0(uint8_t *b, const float *x, float d)
{
	float id = inverse(put_f16(b, d));

	for (uint32_t i = 0; i < 32; i++)
		b[2 + i] = (uint8_t)(int8_t)nearest(x[i] * id, -127, 127);
}

/* Scale and minimum of sub-block j in the 12 bytes: plx_q_k4_scale, backwards. */
static void put_k4_scale(uint8_t *scales, uint32_t j, uint32_t sc, uint32_t mn)
{
	if (j < 4) {
		scales[j] |= (uint8_t)sc;
		scales[j + 4] |= (uint8_t)mn;
		return;
	}
	scales[j + 4] = (uint8_t)((sc & 15u) | (mn & 15u) << 4);
	scales[j - 4] |= (uint8_t)(sc >> 4 << 6);
	scales[j] |= (uint8_t)(mn >> 4 << 6);
}

/* A block with two levels of scales while it is made: w = d * sc[j] * q - dmin * mn[j]. */
struct two_level {
	float d, dmin;
	float sc[MAX_SUBS], mn[MAX_SUBS]; /* integers */
};

/* The integers for sub-block j that come nearest to line l, or, by search, have the least error. */
static void choose_k45(struct two_level *t, uint32_t j, const float *x, struct line l, float top,
                       bool search)
{
	float sc0 = nearest(l.d * inverse(t->d), 0, 63);
	float mn0 = nearest(-l.m * inverse(t->dmin), 0, 63);
	float least = INFINITY;

	t->sc[j] = sc0;
	t->mn[j] = mn0;
	for (int k = 0; search && k < 9; k++) {
		float sc = nearest(sc0 + (float)(k / 3 - 1), 0, 63);
		float mn = nearest(mn0 + (float)(k % 3 - 1), 0, 63);
		float e = sum_error(x, 32, t->d * sc, -t->dmin * mn, 0, top);

		if (e < least) {
			least = e;
			t->sc[j] = sc;
			t->mn[j] = mn;
		}
	}
}

/* Nibbles of 64 elements a time: the first 32 low, the next 32 high; fifth bits by sub-block. */
static void pack_k45(uint8_t *qs, uint8_t *qh, const uint8_t q[256])
{
	for (uint32_t i = 0; i < 128; i++) {
		uint32_t from = i / 32 * 64 + i % 32;

		qs[i] = (uint8_t)((q[from] & 15u) | (q[from + 32] & 15u) << 4);
	}
	for (uint32_t i = 0; qh && i < 256; i++)
		qh[i % 32] |= (uint8_t)(q[i] >> 4 << i / 32);
}

/* Q4_K (top 15) and Q5_K (top 31) with about these scales; t says which were taken. */
static void encode_k45(uint8_t *b, const float *x, const struct line l[8], struct two_level *t,
                       float top, bool search)
{
	bool five = top > 15;
	uint8_t q[256];

	memset(b, 0, five ? 48 : 16);
	t->d = put_f16(b, t->d);
	t->dmin = put_f16(b + 2, t->dmin);
	for (uint32_t j = 0; j < 8; j++) {
		choose_k45(t, j, x + 32 * j, l[j], top, search);
		put_k4_scale(b + 4, j, (uint32_t)t->sc[j], (uint32_t)t->mn[j]);
		for (uint32_t i = 32 * j; i < 32 * j + 32; i++)
			q[i] = quant(x[i] + t->dmin * t->mn[j], inverse(t->d * t->sc[j]), 0, top);
	}
	pack_k45(b + (five ? 48 : 16), five ? b + 16 : NULL, q);
}

/* Quant i of a Q6_K block: plx_q_q6_at, backwards, into zeroed bytes. */
static void put_q6(uint8_t *b, uint32_t i, uint32_t q)
{
	uint32_t half = i >> 7, run = (i >> 5) & 3, col = i & 31;

	b[half * 64 + (run & 1) * 32 + col] |= (uint8_t)((q & 15u) << (run >> 1) * 4);
	b[128 + half * 32 + col] |= (uint8_t)(q >> 4 << run * 2);
}

static void choose_q6(struct two_level *t, uint32_t j, const float *x, float d, bool search)
{
	float sc0 = nearest(d * inverse(t->d), -128, 127), least = INFINITY;

	t->sc[j] = sc0;
	for (int k = -1; search && k < 2; k++) {
		float sc = nearest(sc0 + (float)k, -128, 127);
		float e = sum_error(x, 16, t->d * sc, 0, -32, 31);

		if (e < least) {
			least = e;
			t->sc[j] = sc;
		}
	}
}

static void encode_q6_k(uint8_t *b, const float *x, const float d[16], struct two_level *t,
                        bool search)
{
	memset(b, 0, 210);
	t->d = put_f16(b + 208, t->d);
	for (uint32_t j = 0; j < 16; j++) {
		choose_q6(t, j, x + 16 * j, d[j], search);
		b[192 + j] = (uint8_t)(int8_t)t->sc[j];
		float id = inverse(t->d * t->sc[j]);

		for (uint32_t i = 16 * j; i < 16 * j + 16; i++)
			put_q6(b, i, (uint32_t)(int)(nearest(x[i] * id, -32, 31) + 32));
	}
}

/* ---- by extremes ----------------------------------------------------------------------------- */

static void plain_k45(uint8_t *b, const float *x, float top)
{
	struct two_level t = {0};
	struct line l[8];

	for (uint32_t j = 0; j < 8; j++) {
		float lo, hi;

		range(x + 32 * j, 32, &lo, &hi);
		l[j].m = lo < 0 ? lo : 0;
		l[j].d = (hi - l[j].m) / top;
		t.d = l[j].d > t.d ? l[j].d : t.d;
		t.dmin = -l[j].m > t.dmin ? -l[j].m : t.dmin;
	}
	t.d /= 63;
	t.dmin /= 63;
	encode_k45(b, x, l, &t, top, false);
}

static void plain_q6_k(uint8_t *b, const float *x)
{
	struct two_level t = {0};
	float d[16];

	for (uint32_t j = 0; j < 16; j++)
		d[j] = extreme(x + 16 * j, 16) / -32;
	t.d = extreme(d, 16) / -128;
	encode_q6_k(b, x, d, &t, false);
}

static void plain_block(enum plx_qtype type, uint8_t *b, const float *x)
{
	float lo, hi, top = type == PLX_Q_Q4_1 || type == PLX_Q_Q4_K ? 15 : 31;

	switch (type) {
	case PLX_Q_Q4_0:
	case PLX_Q_Q5_0:
		top = type == PLX_Q_Q4_0 ? 8 : 16;
		encode_signed(b, x, extreme(x, 32) / -top, top);
		break;
	case PLX_Q_Q4_1:
	case PLX_Q_Q5_1:
		range(x, 32, &lo, &hi);
		encode_line(b, x, (struct line){(hi - lo) / top, lo}, top);
		break;
	case PLX_Q_Q8_0:
		encode_q8_0(b, x, fabsf(extreme(x, 32)) / 127);
		break;
	case PLX_Q_Q4_K:
	case PLX_Q_Q5_K:
		plain_k45(b, x, top);
		break;
	case PLX_Q_Q6_K:
		plain_q6_k(b, x);
		break;
	case PLX_Q_F32:
	case PLX_Q_F16:
	case PLX_Q_BF16:
		PLX_CHECK(false); /* a float format has no blocks */
	}
}

/* ---- by least squares ------------------------------------------------------------------------ */

/* A block's best bytes so far. */
struct contest {
	enum plx_qtype type;
	const float *x;
	uint32_t n, bytes;
	uint8_t *best;
	double least;
};

static double true_error(const struct contest *c, const uint8_t *b)
{
	float y[256];
	double e = 0;

	plx_q_dequant(c->type, b, y, c->n);
	for (uint32_t i = 0; i < c->n; i++) {
		double v = (double)c->x[i] - (double)y[i];

		e += v * v;
	}
	return e;
}

/* b becomes the best if its error is less. */
static void enter(struct contest *c, const uint8_t *b)
{
	double e = true_error(c, b);

	if (e >= c->least)
		return;
	c->least = e;
	memcpy(c->best, b, c->bytes);
}

/* d and dmin by least squares, all integers staying; false where there is no better. */
static bool refit_k45(struct two_level *t, const float *x, float top)
{
	double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;

	for (uint32_t j = 0; j < 8; j++) {
		double sc = (double)t->sc[j], mn = (double)t->mn[j];
		struct sums s = sum_quants(x + 32 * j, 32, inverse(t->d * t->sc[j]),
		                           -t->dmin * t->mn[j], 0, top);

		aa += sc * sc * (double)s.qq;
		ab += sc * mn * (double)s.q;
		bb += mn * mn * 32;
		ax += sc * (double)s.xq;
		bx += mn * (double)sum(x + 32 * j, 32);
	}
	double det = aa * bb - ab * ab;

	if (bb == 0 && aa > 0) {
		t->d = (float)(ax / aa);
		return t->d > 0;
	}
	if (!(det > 1e-9 * aa * bb))
		return false;
	t->d = (float)((ax * bb - ab * bx) / det);
	t->dmin = (float)((ax * ab - aa * bx) / det);
	return t->d > 0 && t->dmin >= 0;
}

static void fit_k45(struct contest *c, float top)
{
	struct two_level t = {0};
	uint8_t b[MAX_BYTES];
	struct line l[8];

	for (uint32_t j = 0; j < 8; j++) {
		l[j] = fit_line(c->x + 32 * j, 32, top, true);
		t.d = l[j].d > t.d ? l[j].d : t.d;
		t.dmin = -l[j].m > t.dmin ? -l[j].m : t.dmin;
	}
	t.d /= 63;
	t.dmin /= 63;
	for (int turn = 0; turn < 3; turn++) {
		encode_k45(b, c->x, l, &t, top, true);
		enter(c, b);
		if (!refit_k45(&t, c->x, top))
			return;
	}
}

static bool refit_q6(struct two_level *t, const float *x)
{
	double aa = 0, ax = 0;

	for (uint32_t j = 0; j < 16; j++) {
		double sc = (double)t->sc[j];
		struct sums s = sum_quants(x + 16 * j, 16, inverse(t->d * t->sc[j]), 0, -32, 31);

		aa += sc * sc * (double)s.qq;
		ax += sc * (double)s.xq;
	}
	if (!(aa > 0))
		return false;
	t->d = (float)(ax / aa);
	return true;
}

static void fit_q6_k(struct contest *c)
{
	struct two_level t = {0};
	uint8_t b[MAX_BYTES];
	float d[16];

	for (uint32_t j = 0; j < 16; j++)
		d[j] = fit_scale(c->x + 16 * j, 16, -32, 31);
	t.d = extreme(d, 16) / -128;
	for (int turn = 0; turn < 3; turn++) {
		encode_q6_k(b, c->x, d, &t, true);
		enter(c, b);
		if (!refit_q6(&t, c->x))
			return;
	}
}

static void fit_block(struct contest *c)
{
	float top = c->type == PLX_Q_Q4_1 || c->type == PLX_Q_Q4_K ? 15 : 31;
	uint8_t b[MAX_BYTES];

	switch (c->type) {
	case PLX_Q_Q4_0:
	case PLX_Q_Q5_0:
		top = c->type == PLX_Q_Q4_0 ? 8 : 16;
		encode_signed(b, c->x, fit_scale(c->x, 32, -top, top - 1), top);
		enter(c, b);
		break;
	case PLX_Q_Q4_1:
	case PLX_Q_Q5_1:
		encode_line(b, c->x, fit_line(c->x, 32, top, false), top);
		enter(c, b);
		break;
	case PLX_Q_Q8_0:
		encode_q8_0(b, c->x, fit_scale(c->x, 32, -127, 127));
		enter(c, b);
		break;
	case PLX_Q_Q4_K:
	case PLX_Q_Q5_K:
		fit_k45(c, top);
		break;
	case PLX_Q_Q6_K:
		fit_q6_k(c);
		break;
	case PLX_Q_F32:
	case PLX_Q_F16:
	case PLX_Q_BF16:
		PLX_CHECK(false); /* a float format has no blocks */
	}
}

static void quantise_block(enum plx_qtype type, enum plx_q_effort effort, const float *x,
                           uint8_t *dst)
{
	struct contest c = {.type = type,
	                    .x = x,
	                    .n = plx_qtype_block_elems(type),
	                    .bytes = plx_qtype_block_bytes(type),
	                    .best = dst};
	float most = fabsf(extreme(x, c.n));

	plain_block(type, dst, x);
	if (effort == PLX_Q_PLAIN || most < FIT_LEAST || most > FIT_MOST)
		return;
	c.least = true_error(&c, dst);
	if (c.least > 0)
		fit_block(&c);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void put_floats(enum plx_qtype type, const float *src, uint8_t *dst, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h = type == PLX_Q_F16 ? plx_f32_to_f16(src[i]) : plx_f32_to_bf16(src[i]);

		memcpy(dst + 2 * i, &h, sizeof h);
	}
}

void plx_q_quantise(enum plx_qtype type, enum plx_q_effort effort, const float *src, void *dst,
                    size_t n_elems)
{
	uint32_t elems = plx_qtype_block_elems(type);
	uint32_t bytes = plx_qtype_block_bytes(type);

	PLX_CHECK(elems != 0 && n_elems % elems == 0);
	if (type == PLX_Q_F32)
		memcpy(dst, src, n_elems * sizeof *src);
	else if (elems == 1)
		put_floats(type, src, dst, n_elems);
	else
		for (size_t b = 0; b < n_elems / elems; b++)
			quantise_block(type, effort, src + b * elems, (uint8_t *)dst + b * bytes);
}
