/*
 * Quantising weights: time an element, plain and by least squares, and what the search leaves of
 * the plain squared error. The least of five interleaved runs.
 */
#include <math.h>
#include <stdio.h>

#include "fw/base/clock.h"
#include "tests/lib/qdata.h"

#define N       (1u << 17)
#define N_ROUND 5

static float x[N], y[N];
static uint8_t bytes[N * 4];

static double squared_error(enum plx_qtype type)
{
	double e = 0;

	plx_q_dequant(type, bytes, y, N);
	for (uint32_t i = 0; i < N; i++)
		e += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
	return e;
}

static void measure(enum plx_qtype type)
{
	double ns[2] = {HUGE_VAL, HUGE_VAL}, error[2];

	for (int round = 0; round < N_ROUND; round++)
		for (int effort = PLX_Q_PLAIN; effort <= PLX_Q_FIT; effort++) {
			uint64_t start = plx_clock_ns();

			plx_q_quantise(type, (enum plx_q_effort)effort, x, bytes, N);
			ns[effort] = fmin(ns[effort], (double)(plx_clock_ns() - start) / N);
			error[effort] = squared_error(type);
		}
	printf("quantise %-5s plain %5.1f ns an element, fit %5.1f, squared error of fit %.3f of "
	       "plain\n",
	       plx_qtype_name(type), ns[0], ns[1], error[1] / error[0]);
}

int main(void)
{
	uint64_t seed = 1;

	for (uint32_t i = 0; i < N; i++)
		for (uint32_t k = 0; k < 8; k++)
			x[i] += 0.02f * plx_t_uniform(&seed);
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++)
		if (plx_qtype_block_elems(plx_qtype_at(i)) > 1)
			measure(plx_qtype_at(i));
	return 0;
}
