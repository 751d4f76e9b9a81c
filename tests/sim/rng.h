/*
 * Random numbers of the simulation: a counter through splitmix64's finaliser, so that equal seeds
 * give equal runs on every machine. Normals are sums of twelve uniforms (never beyond 6 sigma).
 *
 * Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
 */
#ifndef PLX_TESTS_SIM_RNG_H
#define PLX_TESTS_SIM_RNG_H

#include <math.h>
#include <stdint.h>

struct sim_rng {
	uint64_t s;
};

static inline uint64_t sim_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static inline uint64_t sim_u64(struct sim_rng *r)
{
	r->s += UINT64_C(0x9e3779b97f4a7c15);
	return sim_mix(r->s);
}

/* sim_unit - uniform in (0, 1). */
static inline double sim_unit(struct sim_rng *r)
{
	return ((double)(sim_u64(r) >> 12) + 0.5) * 0x1p-52;
}

static inline double sim_normal(struct sim_rng *r)
{
	double z = -6;

	for (int i = 0; i < 12; i++)
		z += sim_unit(r);
	return z;
}

/* sim_exponential - mean 1. */
static inline double sim_exponential(struct sim_rng *r)
{
	return -log(sim_unit(r));
}

/* sim_lognormal - median * e^(sigma * normal), cut to lo..hi and rounded down. */
static inline uint32_t sim_lognormal(struct sim_rng *r, double median, double sigma, uint32_t lo,
                                     uint32_t hi)
{
	double x = median * exp(sigma * sim_normal(r));

	return x < lo ? lo : x > hi ? hi : (uint32_t)x;
}

#endif
