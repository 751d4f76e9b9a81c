/*
 * Choosing a token; sample.h has the definition and its order.
 *
 * No sort: what top-k and top-p keep is a prefix of the order "larger logit first, lower id
 * first", so it is named by a cut: its last logit, and the highest id kept among equals of that.
 * A cut is found by a histogram of the logits' bits, refined three times, whose bins hold counts
 * (top-k) or sums of integer weights (top-p). Maxima of blocks of 64 logits usually leave a few
 * hundred candidates to look at; when they don't, the same code looks at all logits.
 */
#include "kernels/sample.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define BIN_BITS   11
#define BINS       (1u << BIN_BITS)
#define CANDIDATES 8192u
#define BLOCK      PLX_K_MAX_BLOCK
#define BLOCKS     (PLX_K_VOCAB_MAX / BLOCK)
#define STRETCH    1024u   /* logits that are summed at once */
#define ONE        0x1p40f /* the weight of probability 1 */

struct scratch {
	uint64_t bin[BINS];
	float block_max[BLOCKS];
	float x[CANDIDATES];
	uint32_t id[CANDIDATES];
};

/* Some of the logits, ids increasing. */
struct view {
	const float *x;
	const uint32_t *id; /* NULL: x[i] is id i */
	uint32_t n;
};

/* A prefix of the order: logits whose key is above `key`, and those equal with id <= max_id. */
struct cut {
	uint32_t key;
	uint32_t max_id;
};

static const struct cut everything = {0, UINT32_MAX};

/* What is added up for each logit: 1, or its weight at a temperature. */
struct measure {
	const struct plx_kernels *k;
	float max;
	float inv_temperature; /* 0: count */
};

/* The order of floats as integers; both zeros are equal. */
static uint32_t key_of(float x)
{
	uint32_t u = plx_f32_bits(x + 0.0f);

	return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static float float_of(uint32_t key)
{
	return plx_f32_from_bits(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

static uint32_t id_of(const struct view *v, uint32_t i)
{
	return v->id ? v->id[i] : i;
}

static bool is_kept(struct cut c, uint32_t key, uint32_t id)
{
	return key > c.key || (key == c.key && id <= c.max_id);
}

/* Measures of entries i .. i+15 of a view, those past its end 0. */
static void measure16(const struct measure *m, const struct view *v, uint32_t i, uint64_t out[16])
{
	uint32_t n = v->n - i < 16 ? v->n - i : 16;
	float e[16];

	for (uint32_t j = 0; j < 16; j++) {
		e[j] = j < n ? (v->x[i + j] - m->max) * m->inv_temperature : -INFINITY;
		out[j] = j < n;
	}
	if (m->inv_temperature <= 0.0f)
		return;
	m->k->exp(e, e, 16);
	for (uint32_t j = 0; j < 16; j++)
		out[j] = (uint64_t)(int64_t)(e[j] * ONE);
}

/* Which of entries i .. i+15 are in the prefix and have these key bits above `shift`. */
static uint32_t members16(const struct view *v, uint32_t i, struct cut within, uint32_t shift,
                          uint32_t bits)
{
	uint32_t n = v->n - i < 16 ? v->n - i : 16;
	uint32_t members = 0;

	for (uint32_t j = 0; j < n; j++) {
		uint32_t key = key_of(v->x[i + j]);
		bool in = (uint64_t)key >> shift == bits && is_kept(within, key, id_of(v, i + j));

		members |= (uint32_t)in << j;
	}
	return members;
}

#define ANY_KEY 32 /* a shift that leaves no bits of a key */

/* One level of find_cut: bins of the `bits` key bits above `shift`, where those above are prefix.
 */
static void histogram(const struct measure *m, const struct view *v, struct cut within,
                      uint32_t shift, uint32_t bits, uint32_t prefix, uint64_t *bin)
{
	uint64_t value[16];

	memset(bin, 0, BINS * sizeof *bin);
	for (uint32_t i = 0; i < v->n; i += 16) {
		uint32_t members = members16(v, i, within, shift + bits, prefix);

		if (members)
			measure16(m, v, i, value);
		for (; members; members &= members - 1) {
			uint32_t j = (uint32_t)__builtin_ctz(members);

			bin[(key_of(v->x[i + j]) >> shift) & ((1u << bits) - 1)] += value[j];
		}
	}
}

/* Among entries equal to key, inside `within`, the id with which the measure reaches left. */
static uint32_t cut_equals(const struct measure *m, const struct view *v, struct cut within,
                           uint32_t key, uint64_t left)
{
	uint64_t value[16];
	uint32_t last = 0;

	for (uint32_t i = 0; i < v->n; i += 16) {
		uint32_t members = members16(v, i, within, 0, key);

		if (members)
			measure16(m, v, i, value);
		for (; members; members &= members - 1) {
			uint32_t j = (uint32_t)__builtin_ctz(members);

			last = id_of(v, i + j);
			if (value[j] >= left)
				return last;
			left -= value[j];
		}
	}
	return last;
}

/* The shortest prefix of `within` whose measure reaches target (> 0); within, if none does. */
static struct cut find_cut(const struct measure *m, const struct view *v, struct cut within,
                           uint64_t target, uint64_t *bin)
{
	static const uint32_t shifts[] = {21, 10, 0};
	static const uint32_t widths[] = {11, 11, 10};
	struct cut c = {0, 0};

	for (uint32_t level = 0; level < 3; level++) {
		int32_t b = (1 << widths[level]) - 1;

		histogram(m, v, within, shifts[level], widths[level], c.key, bin);
		while (b >= 0 && bin[b] < target)
			target -= bin[b--];
		if (b < 0)
			return within;
		c.key = c.key << widths[level] | (uint32_t)b;
	}
	c.max_id = cut_equals(m, v, within, c.key, target);
	return c;
}

static uint64_t total(const struct measure *m, const struct view *v, struct cut within)
{
	uint64_t value[16];
	uint64_t sum = 0;

	for (uint32_t i = 0; i < v->n; i += 16) {
		uint32_t members = members16(v, i, within, ANY_KEY, 0);

		if (members)
			measure16(m, v, i, value);
		for (; members; members &= members - 1)
			sum += value[__builtin_ctz(members)];
	}
	return sum;
}

/* The logits that are at least `limit`, ids increasing; false when there are too many. */
static bool gather(const struct view *all, float limit, struct scratch *s, struct view *out)
{
	uint32_t n = 0;

	for (uint32_t b = 0; b * BLOCK < all->n; b++) {
		uint32_t end = (b + 1) * BLOCK < all->n ? (b + 1) * BLOCK : all->n;

		if (s->block_max[b] < limit)
			continue;
		for (uint32_t i = b * BLOCK; i < end; i++) {
			if (all->x[i] < limit)
				continue;
			if (n == CANDIDATES)
				return false;
			s->x[n] = all->x[i];
			s->id[n++] = i;
		}
	}
	*out = (struct view){s->x, s->id, n};
	return true;
}

/* At least the n_best (> 0) first logits: no fewer blocks have a maximum that reaches the limit. */
static struct view narrow_to_best(const struct view *all, uint32_t n_best, struct scratch *s)
{
	const struct measure count = {0};
	struct view maxima = {s->block_max, NULL, (all->n + BLOCK - 1) / BLOCK};
	struct view out;

	if (n_best > maxima.n || n_best > CANDIDATES)
		return *all;
	struct cut c = find_cut(&count, &maxima, everything, n_best, s->bin);

	return gather(all, float_of(c.key), s, &out) ? out : *all;
}

/* Every logit that top-p (weight target) and min-p (least weight) can keep, when there is no top-k.
 */
static struct view narrow_to_weight(const struct measure *m, const struct view *all,
                                    uint64_t target, float min_p, struct scratch *s)
{
	for (float drop = 4.0f; drop <= 32.0f; drop *= 2.0f) {
		struct view out;

		if (!gather(all, m->max - drop, s, &out))
			return *all;
		if (plx_k_expf(-drop) < min_p * 0.5f || total(m, &out, everything) >= target)
			return out;
	}
	return *all;
}

/* floor(random / 2^64 * n) */
static uint64_t scaled(uint64_t random, uint64_t n)
{
	__extension__ typedef unsigned __int128 u128;

	return (uint64_t)((u128)random * n >> 64);
}

/* Draw one of the entries that the cut and min-p leave, ids in increasing order. */
static int64_t draw_one(const struct measure *plain, const struct measure *tempered,
                        const struct view *v, struct cut c, float min_p, uint64_t random)
{
	const uint64_t least = (uint64_t)(int64_t)ceilf(min_p * ONE);
	uint64_t weight[16] = {0};
	uint64_t value[16];
	uint64_t sum = 0;
	uint64_t r = 0;

	for (int pass = 0; pass < 2; pass++) {
		uint64_t run = 0;

		for (uint32_t i = 0; i < v->n; i += 16) {
			uint32_t members = members16(v, i, c, ANY_KEY, 0);

			if (members && least > 0)
				measure16(plain, v, i, weight);
			if (members)
				measure16(tempered, v, i, value);
			for (; members; members &= members - 1) {
				uint32_t j = (uint32_t)__builtin_ctz(members);

				run += weight[j] < least ? 0 : value[j];
				if (pass == 1 && run > r)
					return id_of(v, i + j);
			}
		}
		sum = run;
		r = scaled(random, sum);
	}
	return PLX_E_FAULT; /* not reached: r < sum, and the largest logit's weight is ONE */
}

/* draw_one when nothing is cut: stretches that end before r are skipped by their sums. */
static int64_t draw_from_all(const struct measure *tempered, const struct view *all,
                             uint64_t random)
{
	const struct plx_kernels *k = tempered->k;
	const float max = tempered->max;
	const float inv = tempered->inv_temperature;
	uint64_t r = scaled(random, k->weight_sum(all->x, all->n, max, inv));
	uint32_t at = 0;
	uint64_t value[16];

	for (uint32_t step = STRETCH; at + step <= all->n; at += step) {
		uint64_t sum = k->weight_sum(all->x + at, step, max, inv);

		if (sum > r)
			break;
		r -= sum;
	}
	for (; at < all->n; at += 16) {
		measure16(tempered, all, at, value);
		for (uint32_t j = 0; j < 16; r -= value[j++])
			if (value[j] > r)
				return at + j;
	}
	return PLX_E_FAULT; /* not reached: r is below the sum */
}

static bool settings_are_valid(const struct plx_k_sampling *s)
{
	return s->temperature < INFINITY && s->top_p > 0.0f && s->top_p <= 1.0f &&
	       s->min_p >= 0.0f && s->min_p <= 1.0f;
}

/* The first of the logits equal to max, through the blocks' maxima. */
static int64_t first_of(const struct view *all, const float *block_max, float max)
{
	uint32_t i = 0;

	while (block_max[i / BLOCK] < max)
		i += BLOCK;
	while (all->x[i] < max)
		i++;
	return i;
}

static uint64_t random_bits(const struct plx_k_sampling *s, uint32_t position, uint32_t draw)
{
	const uint32_t ctr[4] = {position, draw, s->sample, 0};
	const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
	uint32_t out[4];

	plx_k_philox(ctr, key, out);
	return (uint64_t)out[1] << 32 | out[0];
}

/* Steps 3 to 7 of the definition. */
static int64_t sample(const struct plx_kernels *k, const struct plx_k_sampling *s,
                      const struct view *all, float max, uint64_t random, struct scratch *tmp)
{
	const struct measure count = {.k = k};
	const struct measure plain = {.k = k, .max = max, .inv_temperature = 1.0f};
	const struct measure tempered = {
	    .k = k, .max = max, .inv_temperature = 1.0f / s->temperature};
	struct view v = *all;
	struct cut c = everything;
	uint64_t target = 0;

	if (s->top_k > 0 && s->top_k < all->n) {
		v = narrow_to_best(all, s->top_k, tmp);
		c = find_cut(&count, &v, c, s->top_k, tmp->bin);
	}
	if (s->top_p < 1.0f) {
		float top = max;
		uint64_t sum = c.key ? total(&plain, &v, c) : k->logit_sum(all->x, all->n, &top);

		target = (uint64_t)ceil((double)s->top_p * (double)sum);
	}
	if (!v.id && c.key == 0 && (target > 0 || s->min_p > 0.0f))
		v = narrow_to_weight(&plain, all, target ? target : UINT64_MAX, s->min_p, tmp);
	if (target > 0)
		c = find_cut(&plain, &v, c, target, tmp->bin);
	if (!v.id && c.key == 0 && s->min_p <= 0.0f)
		return draw_from_all(&tempered, all, random);
	return draw_one(&plain, &tempered, &v, c, s->min_p, random);
}

size_t plx_k_sample_scratch_bytes(void)
{
	return sizeof(struct scratch);
}

int64_t plx_k_sample(const struct plx_kernels *k, const struct plx_k_sampling *s,
                     const float *logits, uint32_t n_vocab, uint32_t position, uint32_t draw,
                     void *scratch)
{
	struct scratch *tmp = scratch;
	struct view all = {logits, NULL, n_vocab};

	if (n_vocab == 0 || n_vocab > PLX_K_VOCAB_MAX || !settings_are_valid(s))
		return PLX_E_INVAL;
	float max = k->block_max(tmp->block_max, logits, n_vocab);

	if (!(max > -INFINITY && max < INFINITY))
		return PLX_E_FAULT;
	if (s->temperature <= 0.0f)
		return first_of(&all, tmp->block_max, max);
	return sample(k, s, &all, max, random_bits(s, position, draw), tmp);
}

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

/* Keep the best n_top of the view, best first, by insertion. */
static void best_of(const struct view *v, struct plx_k_logprob *top, uint32_t n_top)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < v->n; i++) {
		uint32_t at = n;

		while (at > 0 && top[at - 1].logprob < v->x[i])
			at--;
		if (at == n_top)
			continue;
		n = n < n_top ? n + 1 : n;
		memmove(&top[at + 1], &top[at], (n - 1 - at) * sizeof *top);
		top[at] = (struct plx_k_logprob){id_of(v, i), v->x[i]};
	}
}

int plx_k_logprobs(const struct plx_kernels *k, const float *logits, uint32_t n_vocab, uint32_t id,
                   float *logprob, struct plx_k_logprob *top, uint32_t n_top, void *scratch)
{
	struct scratch *tmp = scratch;
	struct view all = {logits, NULL, n_vocab};
	float max;

	if (n_vocab == 0 || n_vocab > PLX_K_VOCAB_MAX || id >= n_vocab || n_top > n_vocab ||
	    n_top > PLX_K_TOP_MAX)
		return PLX_E_INVAL;
	uint64_t sum = k->logit_sum(logits, n_vocab, &max);

	if (sum == 0)
		return PLX_E_FAULT;
	double log_sum = log_of((double)sum * 0x1p-40);

	*logprob = (float)((double)logits[id] - (double)max - log_sum);
	if (n_top == 0)
		return PLX_E_OK;
	k->block_max(tmp->block_max, logits, n_vocab);
	struct view v = narrow_to_best(&all, n_top, tmp);

	best_of(&v, top, n_top);
	for (uint32_t i = 0; i < n_top; i++)
		top[i].logprob = (float)((double)top[i].logprob - (double)max - log_sum);
	return PLX_E_OK;
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
