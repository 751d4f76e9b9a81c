/*
 * Time to choose a token from one row of logits, log-probability included, by size and settings;
 * and of the longest step when it is chosen in steps, as the device does.
 */
#include <stdio.h>
#include <stdlib.h>

#include "accel/cpu.h"
#include "accel/sampler.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"

struct setting {
	const char *name;
	struct plx_sampler s;
	uint32_t n_top;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The longest step of one choice, in us; a step that was interrupted counts as it was. */
static double longest_step(const struct plx_kernels *k, const struct plx_slot_sampler *s,
                           float *logits, uint32_t n, uint32_t n_top, void *scratch)
{
	struct plx_top top[PLX_MAX_TOP];
	struct plx_choosing g;
	uint64_t longest = 0;
	uint64_t t0 = plx_clock_ns();
	bool done = false;

	plx_slot_sampler_begin(&g, s, k, logits, n, 64, top, n_top, scratch);
	while (!done) {
		done = plx_slot_sampler_step(&g, PLX_CPU_CHOOSE_BUDGET, scratch);
		uint64_t now = plx_clock_ns();

		longest = now - t0 > longest ? now - t0 : longest;
		t0 = now;
	}
	return (double)longest / 1000;
}

static void bench(const struct plx_kernels *k, const struct setting *how, float *logits, uint32_t n,
                  void *scratch)
{
	struct plx_slot_sampler s;
	struct plx_top top[PLX_MAX_TOP];
	double us[31];
	double step_us[31];

	plx_slot_sampler_set(&s, &how->s);
	for (uint32_t i = 0; i < 64; i++)
		plx_slot_sampler_note(&s, i, (int32_t)(i * 31));
	for (uint32_t i = 0; i < 31; i++) {
		s.conf.seed = i;
		uint64_t t0 = plx_clock_ns();
		struct plx_choice c =
		    plx_slot_sampler_choose(&s, k, logits, n, 64, top, how->n_top, scratch);

		us[i] = (double)(plx_clock_ns() - t0) / 1000;
		PLX_CHECK(c.status == 0);
		step_us[i] = longest_step(k, &s, logits, n, how->n_top, scratch);
	}
	qsort(us, 31, sizeof(us[0]), by_value);
	qsort(step_us, 31, sizeof(us[0]), by_value);
	printf("bench_sampler: %u logits, %s, %s: %.1f us (%.1f to %.1f over 31 runs), longest "
	       "step %.1f us (%.1f to %.1f)\n",
	       n, k->isa_name, how->name, us[15], us[0], us[30], step_us[15], step_us[0],
	       step_us[30]);
}

int main(void)
{
	static const struct setting how[] = {
	    {"greedy", {.top_p = 1, .repeat_penalty = 1}, 0},
	    {"greedy with top 20", {.top_p = 1, .repeat_penalty = 1}, 20},
	    {"temperature 0.8, top-p 0.95, penalty 1.1",
	     {.temperature = 0.8f, .top_p = 0.95f, .repeat_penalty = 1.1f, .penalty_window = 64},
	     0},
	    {"temperature 0.8, top-k 40, top-p 0.95, min-p 0.05",
	     {.temperature = 0.8f,
	      .top_p = 0.95f,
	      .min_p = 0.05f,
	      .repeat_penalty = 1,
	      .top_k = 40},
	     0},
	    {"temperature 1, nothing cut", {.temperature = 1, .top_p = 1, .repeat_penalty = 1}, 0},
	};
	static const struct setting flat = {"nearly flat, temperature 1, top-p 0.95",
	                                    {.temperature = 1, .top_p = 0.95f, .repeat_penalty = 1},
	                                    0};
	static const uint32_t sizes[] = {49152, 262144};
	const struct plx_kernels *k = plx_kernels_select(PLX_K_ISA_BEST);
	float *logits = calloc(262144, sizeof(float));
	void *scratch = aligned_alloc(64, (plx_k_sample_scratch_bytes() + 63) & ~(size_t)63);
	uint32_t x = 1;

	PLX_CHECK(logits != NULL && scratch != NULL);
	plx_k_fpu_setup();
	/* Sums of uniform numbers: bell-shaped like a model's, from -10 to 20. */
	for (uint32_t i = 0; i < 262144; i++) {
		float sum = 0;

		for (uint32_t j = 0; j < 6; j++) {
			x = x * 1664525u + 1013904223u;
			sum += (float)(x >> 8) / 16777216.0f;
		}
		logits[i] = sum * 5 - 10;
	}
	for (uint32_t i = 0; i < 2; i++)
		for (uint32_t j = 0; j < sizeof(how) / sizeof(how[0]); j++)
			bench(k, &how[j], logits, sizes[i], scratch);
	for (uint32_t i = 0; i < 262144; i++)
		logits[i] = logits[i] * 1e-3f;
	for (uint32_t i = 0; i < 2; i++)
		bench(k, &flat, logits, sizes[i], scratch);
	free(scratch);
	free(logits);
	return 0;
}
