/*
 * Choosing a token, a bounded piece at a time; sample.h has the definition and its order.
 *
 * No sort: what top-k and top-p keep is a prefix of the order "larger logit first, lower id
 * first", so it is named by a cut: its last logit, and the highest id kept among equals of that.
 * A cut is found in bins that hold counts (top-k) or sums of integer weights (top-p): first by
 * distance from the maximum, then by the bits of the logits that are left, until they are one
 * value. Maxima of blocks of 64 logits usually leave a few hundred candidates to look at; when they
 * don't, the same code looks at all logits.
 *
 * All of it is passes over logits (enum plx_k_pass, sample_int.h). A pass can stop after any 1,024
 * of them; what it has by then is integers, counts and maxima, so where it stops changes nothing.
 * When a pass ends, pass_ended says what that was for (enum plx_k_goal) and begins the next one.
 */
#include "kernels/sample.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"
#include "kernels/sample_int.h"

static void done(struct plx_k_job *j, int64_t result)
{
	j->pass = PASS_DONE;
	j->result = result;
}

/* ---- from pass to pass ---------------------------------------------------------------------- */

/* floor(random / 2^64 * n) */
static uint64_t scaled(uint64_t random, uint64_t n)
{
	__extension__ typedef unsigned __int128 u128;

	return (uint64_t)((u128)random * n >> 64);
}

/* The id with which the running sum of weights exceeds r, found through the stretches' sums. */
static int64_t draw_one(struct plx_k_job *j)
{
	uint64_t r = scaled(j->random, j->sum);
	float buf[STRETCH];
	uint64_t value[16];
	uint32_t at = 0;

	while (j->bin[at / STRETCH] <= r) {
		r -= j->bin[at / STRETCH];
		at += STRETCH;
		PLX_CHECK(at < j->over.n); /* r is below the sum */
	}
	uint32_t n = j->over.n - at < STRETCH ? j->over.n - at : STRETCH;
	const float *x = plx_k_job_kept_stretch(j, at, n, buf);

	for (uint32_t i = 0; i < n; i += 16) {
		plx_k_job_weights16(j, x + i, n - i < 16 ? n - i : 16, j->inv_temperature, value);
		for (uint32_t l = 0; l < 16; r -= value[l++])
			if (value[l] > r)
				return id_of(&j->over, at + i + l);
	}
	return PLX_E_FAULT; /* not reached: r is below the stretch's sum */
}

/* The first of the logits equal to max, through the blocks' maxima. */
static int64_t first_of_max(const struct plx_k_job *j)
{
	uint32_t i = 0;

	while (j->block_max[i / BLOCK] < j->max)
		i += BLOCK;
	while (j->all.x[i] < j->max)
		i++;
	return i;
}

static void draw_begin(struct plx_k_job *j)
{
	plx_k_job_sum_begin(j, FOR_DRAW, &j->v, j->c, 1.0f / j->s.temperature);
}

static void top_p_begin(struct plx_k_job *j)
{
	if (j->target > 0)
		plx_k_job_select_begin(j, FOR_TOP_P, &j->v, true, j->target);
	else
		draw_begin(j);
}

static void drop_begin(struct plx_k_job *j, float drop)
{
	j->drop = drop;
	plx_k_job_gather_begin(j, FOR_DROP, key_of(j->max - drop), key_of(j->max));
}

/* With the total in j->target, where top-p needs it. */
static void after_total(struct plx_k_job *j)
{
	if (!j->v.id && j->c.key == 0 && (j->target > 0 || j->s.min_p > 0.0f))
		drop_begin(j, 4.0f);
	else
		top_p_begin(j);
}

static void after_top_k(struct plx_k_job *j)
{
	if (j->s.top_p < 1.0f)
		plx_k_job_sum_begin(j, FOR_TOTAL, &j->v, j->c, 1.0f);
	else
		after_total(j);
}

/* Some logits were gathered: enough of them, too many, or too few yet. */
static void after_drop(struct plx_k_job *j)
{
	struct plx_k_view v = plx_k_job_gathered(j);
	bool min_p_ends = plx_k_expf(-j->drop) < j->s.min_p * 0.5f;

	if (j->overflow || min_p_ends || (j->goal == FOR_DROP_SUM && j->sum >= j->target)) {
		j->v = v;
		top_p_begin(j);
	} else if (j->goal == FOR_DROP && j->target > 0) {
		plx_k_job_sum_begin(j, FOR_DROP_SUM, &v, EVERYTHING, 1.0f);
	} else if (j->drop < 32.0f) {
		drop_begin(j, j->drop * 2.0f);
	} else {
		top_p_begin(j);
	}
}

/* j->v has the n_best first ones. */
static void after_best(struct plx_k_job *j)
{
	if (j->logprobs)
		plx_k_job_pass_begin(j, PASS_TOP, FOR_TOP, j->v.n);
	else
		plx_k_job_select_begin(j, FOR_TOP_K, &j->v, false, j->s.top_k);
}

/* At least the n_best (> 0) first logits: no fewer blocks have a maximum that reaches the limit. */
static void best_begin(struct plx_k_job *j, uint32_t n_best)
{
	struct plx_k_view maxima = {j->block_max, NULL, (j->all.n + BLOCK - 1) / BLOCK};

	if (n_best > maxima.n || n_best > CANDIDATES)
		after_best(j);
	else
		plx_k_job_select_begin(j, FOR_BEST, &maxima, false, n_best);
}

static void after_best_cut(struct plx_k_job *j)
{
	uint32_t lo = j->c.key;

	j->c = EVERYTHING;
	plx_k_job_gather_begin(j, FOR_BEST_GATHER, lo, key_of(j->max));
}

static void after_max(struct plx_k_job *j)
{
	if (j->nan || !(j->max > -INFINITY && j->max < INFINITY))
		done(j, PLX_E_FAULT);
	else if (j->logprobs)
		plx_k_job_sum_begin(j, FOR_TOTAL, &j->v, EVERYTHING, 1.0f);
	else if (j->s.temperature <= 0.0f)
		done(j, first_of_max(j));
	else if (j->s.top_k > 0 && j->s.top_k < j->all.n)
		best_begin(j, j->s.top_k);
	else
		after_top_k(j);
}

/*
 * Natural logarithm for x >= 1, error below 1e-12: x = m * 2^e, log m = 2 atanh((m-1)/(m+1)).
 * Our own, since the library's bits differ between machines.
 */
static double log_of(double x)
{
	int e;
	double m = frexp(x, &e);

	if (m < 0x1.6a09e667f3bcdp-1) {
		m *= 2.0;
		e--;
	}
	double f = (m - 1.0) / (m + 1.0);
	double p = 0.0;

	for (int i = 17; i >= 1; i -= 2)
		p = p * (f * f) + 1.0 / i;
	return 2.0 * f * p + e * 0x1.62e42fefa39efp-1;
}

static void logprob_set(struct plx_k_job *j)
{
	j->log_sum = log_of((double)j->sum * 0x1p-40);
	j->logprob = (float)((double)j->all.x[j->logprob_id] - (double)j->max - j->log_sum);
	if (j->n_top > 0)
		best_begin(j, j->n_top);
	else
		done(j, PLX_E_OK);
}

static void top_set(struct plx_k_job *j)
{
	for (uint32_t i = 0; i < j->n_top; i++)
		j->top[i].logprob =
		    (float)((double)j->top[i].logprob - (double)j->max - j->log_sum);
	done(j, PLX_E_OK);
}

static bool is_select(enum plx_k_goal g)
{
	return g == FOR_BEST || g == FOR_TOP_K || g == FOR_TOP_P;
}

static void pass_ended(struct plx_k_job *j)
{
	if (is_select(j->goal) && plx_k_job_select_goes_on(j))
		return;
	switch (j->goal) {
	case FOR_MAX:
		after_max(j);
		break;
	case FOR_BEST:
		after_best_cut(j);
		break;
	case FOR_BEST_GATHER:
		j->v = plx_k_job_gathered(j);
		after_best(j);
		break;
	case FOR_TOP_K:
		after_top_k(j);
		break;
	case FOR_TOTAL:
		if (j->logprobs) {
			logprob_set(j);
			break;
		}
		j->target = (uint64_t)ceil((double)j->s.top_p * (double)j->sum);
		after_total(j);
		break;
	case FOR_DROP:
	case FOR_DROP_SUM:
		after_drop(j);
		break;
	case FOR_TOP_P:
		draw_begin(j);
		break;
	case FOR_DRAW:
		done(j, draw_one(j));
		break;
	case FOR_TOP:
		top_set(j);
		break;
	}
}

/* Looks at some more logits, about budget's worth; returns what they cost. */
static uint64_t pass_some(struct plx_k_job *j, uint64_t budget)
{
	/* Logits that cost as much as one of PASS_BINS. */
	static const uint8_t worth[] = {
	    [PASS_MAX] = 4,    [PASS_GATHER] = 2, [PASS_BINS] = 1,
	    [PASS_EQUALS] = 2, [PASS_SUM] = 2,    [PASS_TOP] = 2,
	};
	enum plx_k_pass pass = j->pass;
	uint32_t at = j->at;
	uint64_t n = budget * worth[pass] / STRETCH * STRETCH;

	n = n < STRETCH ? STRETCH : n;
	j->at = n < j->end - at ? at + (uint32_t)n : j->end;
	n = j->at - at;
	plx_k_job_pass_run(j, at, j->at);
	if (j->at == j->end)
		pass_ended(j);
	return n / worth[pass] + 1;
}

static int64_t job_step(struct plx_k_job *j, uint32_t budget)
{
	uint64_t left = budget;

	while (j->pass != PASS_DONE) {
		uint64_t cost = pass_some(j, left);

		if (cost >= left)
			break;
		left -= cost;
	}
	return j->pass == PASS_DONE ? j->result : PLX_E_AGAIN;
}

/* ---- the functions of the header ------------------------------------------------------------ */

static bool settings_are_valid(const struct plx_k_sampling *s)
{
	return s->temperature < INFINITY && s->top_p > 0.0f && s->top_p <= 1.0f &&
	       s->min_p >= 0.0f && s->min_p <= 1.0f;
}

static uint64_t random_bits(const struct plx_k_sampling *s, uint32_t position, uint32_t draw)
{
	const uint32_t ctr[4] = {position, draw, s->sample, 0};
	const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
	uint32_t out[4];

	plx_k_philox(ctr, key, out);
	return (uint64_t)out[1] << 32 | out[0];
}

size_t plx_k_sample_scratch_bytes(void)
{
	return sizeof(struct plx_k_job);
}

static void job_begin(struct plx_k_job *j, const struct plx_kernels *k, const float *logits,
                      uint32_t n_vocab)
{
	j->k = k;
	j->all = (struct plx_k_view){logits, NULL, n_vocab};
	j->v = j->all;
	j->c = EVERYTHING;
	j->target = 0;
	j->max = -INFINITY;
	j->nan = false;
	plx_k_job_pass_begin(j, PASS_MAX, FOR_MAX, n_vocab);
	if (n_vocab == 0 || n_vocab > PLX_K_VOCAB_MAX)
		done(j, PLX_E_INVAL);
}

void plx_k_sample_begin(void *scratch, const struct plx_kernels *k, const struct plx_k_sampling *s,
                        const float *logits, uint32_t n_vocab, uint32_t position, uint32_t draw)
{
	struct plx_k_job *j = scratch;

	job_begin(j, k, logits, n_vocab);
	j->s = *s;
	j->logprobs = false;
	if (settings_are_valid(s))
		j->random = random_bits(s, position, draw);
	else
		done(j, PLX_E_INVAL);
}

int64_t plx_k_sample_step(void *scratch, uint32_t budget)
{
	return job_step(scratch, budget);
}

int64_t plx_k_sample(const struct plx_kernels *k, const struct plx_k_sampling *s,
                     const float *logits, uint32_t n_vocab, uint32_t position, uint32_t draw,
                     void *scratch)
{
	int64_t id = PLX_E_AGAIN;

	plx_k_sample_begin(scratch, k, s, logits, n_vocab, position, draw);
	while (id == PLX_E_AGAIN)
		id = plx_k_sample_step(scratch, UINT32_MAX);
	return id;
}

void plx_k_logprobs_begin(void *scratch, const struct plx_kernels *k, const float *logits,
                          uint32_t n_vocab, uint32_t id, uint32_t n_top)
{
	struct plx_k_job *j = scratch;

	job_begin(j, k, logits, n_vocab);
	j->logprobs = true;
	j->logprob_id = id;
	j->n_top = n_top;
	j->n_best = 0;
	if (id >= n_vocab || n_top > n_vocab || n_top > PLX_K_TOP_MAX)
		done(j, PLX_E_INVAL);
}

int plx_k_logprobs_step(void *scratch, uint32_t budget, float *logprob, struct plx_k_logprob *top)
{
	struct plx_k_job *j = scratch;
	int err = (int)job_step(j, budget);

	if (err != 0)
		return err;
	*logprob = j->logprob;
	if (j->n_top > 0)
		memcpy(top, j->top, j->n_top * sizeof *top);
	return PLX_E_OK;
}

int plx_k_logprobs(const struct plx_kernels *k, const float *logits, uint32_t n_vocab, uint32_t id,
                   float *logprob, struct plx_k_logprob *top, uint32_t n_top, void *scratch)
{
	int err = PLX_E_AGAIN;

	plx_k_logprobs_begin(scratch, k, logits, n_vocab, id, n_top);
	while (err == PLX_E_AGAIN)
		err = plx_k_logprobs_step(scratch, UINT32_MAX, logprob, top);
	return err;
}
