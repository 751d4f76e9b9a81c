/*
 * From logits to a token, deterministically: the same logits, settings, seed, sample and position
 * give the same token on every path, in any batch.
 *
 * Order, as llama.cpp's default chain has it:
 *   1. repeat penalty: each distinct id of `recent`: logit > 0 ? logit / penalty : logit * penalty
 *   2. temperature <= 0: the largest logit, lowest id of equals; nothing is drawn. Else
 *   3. top-k: the k largest (lower id first among equals); 0 keeps all
 *   4. top-p: of those, in that order, the fewest whose probabilities add up to at least top_p
 *   5. min-p: of those, the ones with at least min_p times the largest probability
 *   6. temperature: weights exp((logit - max) / temperature) of what is left
 *   7. draw: r = 64 random bits scaled to [0, W); ids in increasing order; the first whose running
 *      sum of weights exceeds r
 * Steps 4 and 5 use probabilities at temperature 1. Weights are floor(exp(.) * 2^40) integers, so
 * sums are exact and need no order. Random bits: Philox4x32-10 with key = seed and counter =
 * (position, draw, sample, 0).
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox);
 *         Holtzman et al., arXiv:1904.09751 (top-p); Keskar et al., arXiv:1909.05858 (penalty).
 */
#ifndef PLX_KERNELS_SAMPLE_H
#define PLX_KERNELS_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

#define PLX_K_VOCAB_MAX (1u << 20)

struct plx_k_sampling {
	float temperature;    /* <= 0: greedy */
	float top_p;          /* in (0, 1]; 1 keeps all */
	float min_p;          /* in [0, 1]; 0 keeps all */
	float repeat_penalty; /* > 0; 1 changes nothing */
	uint32_t top_k;       /* 0 keeps all */
	uint32_t sample;      /* which of several continuations of one prompt */
	uint64_t seed;
};

/* One token with its log-probability at temperature 1, before penalties. */
struct plx_k_logprob {
	uint32_t id;
	float logprob;
};

/* plx_k_sample_scratch_bytes - bytes of scratch of the functions below; 8-byte aligned. */
size_t plx_k_sample_scratch_bytes(void);

/*
 * plx_k_penalise - step 1, in place.
 *
 * @logits    [n_vocab].
 * @recent    in [n_recent], the last tokens of the sequence, prompt included; an id that occurs
 *            several times counts once; one that is not below n_vocab is ignored.
 * Cost: O(n_recent^2 / 2) compares; keep n_recent at 64 to 256.
 */
void plx_k_penalise(float *logits, uint32_t n_vocab, const uint32_t *recent, uint32_t n_recent,
                    float penalty);

/*
 * plx_k_sample - steps 2 to 7.
 *
 * @logits    in [n_vocab], 1 <= n_vocab <= PLX_K_VOCAB_MAX.
 * @position  absolute position of the token that is being chosen.
 * @draw      counts draws at one position: 0 for the token itself, 1.. for verification of drafts.
 * @scratch   plx_k_sample_scratch_bytes(), nothing is kept in it.
 *
 * Returns the id, or a negative plx_err: FAULT when a logit is NaN or none is finite or one is +inf
 * (that sequence alone fails); INVAL for settings out of the ranges above.
 * Cost: at most about ten passes over the logits, no sort, no allocation.
 */
int64_t plx_k_sample(const struct plx_kernels *k, const struct plx_k_sampling *s,
                     const float *logits, uint32_t n_vocab, uint32_t position, uint32_t draw,
                     void *scratch);

/*
 * plx_k_sample_begin, plx_k_sample_step - plx_k_sample in bounded pieces, the same id at any
 * budget.
 *
 * @scratch  as above; holds all that is known between steps, and belongs to this choice alone until
 *           a step returns something else than AGAIN.
 * @logits   stay as they are until then.
 * @budget   about how many logits a step looks at, in the dearest of ways (some 2 ns each); at
 * least 1,024 are looked at.
 *
 * A step returns AGAIN, or what plx_k_sample does.
 * Thread: any, each step another one, when what the last one wrote is visible.
 */
void plx_k_sample_begin(void *scratch, const struct plx_kernels *k, const struct plx_k_sampling *s,
                        const float *logits, uint32_t n_vocab, uint32_t position, uint32_t draw);
int64_t plx_k_sample_step(void *scratch, uint32_t budget);

/*
 * plx_k_logprobs - log-probability of one id and the n_top most probable ones, best first, lower
 * id first among equals.
 *
 *   logprob_i = logit_i - max - log(sum over j of exp(logit_j - max))
 *
 * @scratch  plx_k_sample_scratch_bytes(), nothing is kept in it.
 * @top  out [n_top], n_top <= n_vocab, at most PLX_K_TOP_MAX; may be NULL when n_top is 0.
 *
 * Absolute error against double at most 2e-6 + 2e-7 * |logprob|.
 * Errors: FAULT as above; INVAL for an id or n_top out of range.
 */
#define PLX_K_TOP_MAX 20
int plx_k_logprobs(const struct plx_kernels *k, const float *logits, uint32_t n_vocab, uint32_t id,
                   float *logprob, struct plx_k_logprob *top, uint32_t n_top, void *scratch);

/*
 * plx_k_logprobs_begin, plx_k_logprobs_step - the same in bounded pieces; as for plx_k_sample.
 *
 * @logprob, @top  out, written when 0 is returned.
 */
void plx_k_logprobs_begin(void *scratch, const struct plx_kernels *k, const float *logits,
                          uint32_t n_vocab, uint32_t id, uint32_t n_top);
int plx_k_logprobs_step(void *scratch, uint32_t budget, float *logprob, struct plx_k_logprob *top);

/*
 * plx_k_philox - Philox4x32-10.
 *
 * @ctr  in, counter.  @key  in.  @out  four random words.
 */
void plx_k_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

#endif
