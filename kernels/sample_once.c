/* The small parts of choosing a token: the repeat penalty and the random numbers. */
#include <stdbool.h>
#include <string.h>

#include "kernels/sample.h"

static bool seen_before(const uint32_t *recent, uint32_t i)
{
	for (uint32_t j = 0; j < i; j++)
		if (recent[j] == recent[i])
			return true;
	return false;
}

void plx_k_penalise(float *logits, uint32_t n_vocab, const uint32_t *recent, uint32_t n_recent,
                    float penalty)
{
	for (uint32_t i = 0; i < n_recent; i++) {
		uint32_t id = recent[i];

		if (id >= n_vocab || seen_before(recent, i))
			continue;
		logits[id] = logits[id] > 0.0f ? logits[id] / penalty : logits[id] * penalty;
	}
}

void plx_k_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t k0 = key[0];
	uint32_t k1 = key[1];

	memcpy(out, ctr, 4 * sizeof *out);
	for (int round = 0; round < 10; round++) {
		uint64_t a = UINT64_C(0xd2511f53) * out[0];
		uint64_t b = UINT64_C(0xcd9e8d57) * out[2];
		uint32_t c1 = out[1];
		uint32_t c3 = out[3];

		out[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
		out[1] = (uint32_t)b;
		out[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
		out[3] = (uint32_t)a;
		k0 += 0x9e3779b9u;
		k1 += 0xbb67ae85u;
	}
}
