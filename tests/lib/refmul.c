/*
 * Dot products in double, four rows by four vectors at a time. One text is compiled for three
 * register widths; its lanes are the eight sums, so that all give the same bits.
 */
#include "tests/lib/refmul.h"

#include <stddef.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define SIDE   4

typedef double lanes __attribute__((vector_size(64)));

/* Rows r .. r+nr-1 by vectors t .. t+nt-1. */
INLINE void tile(const struct plx_ref_mul *m, const uint32_t nr, const uint32_t nt, uint32_t r,
                 uint32_t t)
{
	const double *w = m->w + (size_t)r * m->w_stride;
	const double *x = m->x + (size_t)t * m->x_stride;
	lanes s[SIDE][SIDE];

	memset(s, 0, sizeof(s));
	for (uint32_t i = 0; i < m->n; i += 8) {
#pragma GCC unroll 4
		for (uint32_t a = 0; a < nt; a++) {
			lanes xa, wb;

			memcpy(&xa, x + (size_t)a * m->x_stride + i, sizeof(xa));
#pragma GCC unroll 4
			for (uint32_t b = 0; b < nr; b++) {
				memcpy(&wb, w + (size_t)b * m->w_stride + i, sizeof(wb));
				s[a][b] += wb * xa;
			}
		}
	}
#pragma GCC unroll 4
	for (uint32_t a = 0; a < nt; a++)
#pragma GCC unroll 4
		for (uint32_t b = 0; b < nr; b++) {
			lanes v = s[a][b];

			m->y[(size_t)(t + a) * m->y_stride + r + b] =
			    ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
		}
}

INLINE void tiles(const struct plx_ref_mul *m, const uint32_t nt, uint32_t t)
{
	uint32_t r = 0;

	for (; r + SIDE <= m->n_row; r += SIDE)
		tile(m, SIDE, nt, r, t);
	for (; r < m->n_row; r++)
		tile(m, 1, nt, r, t);
}

INLINE void mul(const struct plx_ref_mul *m)
{
	uint32_t t = 0;

	for (; t + SIDE <= m->n_x; t += SIDE)
		tiles(m, SIDE, t);
	for (; t < m->n_x; t++)
		tiles(m, 1, t);
}

static __attribute__((target("avx512f"))) void mul_avx512(const struct plx_ref_mul *m)
{
	mul(m);
}

static __attribute__((target("avx2"))) void mul_avx2(const struct plx_ref_mul *m)
{
	mul(m);
}

void plx_ref_mul(const struct plx_ref_mul *m)
{
	if (__builtin_cpu_supports("avx512f"))
		mul_avx512(m);
	else if (__builtin_cpu_supports("avx2"))
		mul_avx2(m);
	else
		mul(m);
}
