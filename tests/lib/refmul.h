/* Double-precision dot products of the reference pass: the same bits on every machine. */
#ifndef PLX_TESTS_LIB_REFMUL_H
#define PLX_TESTS_LIB_REFMUL_H

#include <stdint.h>

/* n_row rows of a matrix times n_x vectors. */
struct plx_ref_mul {
	const double *w;   /* [n_row][w_stride] */
	const double *x;   /* [n_x][x_stride] */
	double *y;         /* [n_x][y_stride] */
	uint32_t w_stride; /* doubles from one row to the next; likewise below */
	uint32_t x_stride;
	uint32_t y_stride;
	uint32_t n_row;
	uint32_t n_x;
	uint32_t n; /* multiple of 8 */
};

/*
 * plx_ref_mul - y[t][r] = sum over i < n of w[r][i] * x[t][i].
 *
 * Element i is added to sum i % 8 and the eight sums are added in pairs, without fused
 * multiply-add, so the width of the machine's registers changes no bit.
 */
void plx_ref_mul(const struct plx_ref_mul *m);

#endif
