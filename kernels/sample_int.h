/*
 * The state of a choice between its steps, and the passes it is made of; for sample.c and
 * sample_pass.c alone.
 */
#ifndef PLX_KERNELS_SAMPLE_INT_H
#define PLX_KERNELS_SAMPLE_INT_H

#include <assert.h>
#include <math.h>
#include <stdbool.h>

#include "kernels/sample.h"

#define BIN_BITS     11
#define BINS         (1u << BIN_BITS)
#define CANDIDATES   8192u
#define BLOCK        PLX_K_MAX_BLOCK
#define BLOCKS       (PLX_K_VOCAB_MAX / BLOCK)
#define STRETCH      1024u    /* logits between two places where a pass can stop */
#define ONE          0x1p40f  /* the weight of probability 1 */
#define SPAN         28.0f    /* further below the maximum than this a weight is 0 */
#define NEAR         0x1p-10f /* added to distances; below it bins have equal widths */
#define OCTAVE_SHIFT 16 /* of a distance's bits: 15 octaves from NEAR to SPAN, 128 bins each */

enum plx_k_pass {
	PASS_MAX,    /* block_max and max */
	PASS_GATHER, /* candidates: logits in lo .. hi */
	PASS_BINS,   /* the select's bins */
	PASS_EQUALS, /* the left-th of the logits whose key is lo */
	PASS_SUM,    /* weights of what the cut and min-p leave, by stretch and in all */
	PASS_TOP,    /* the best n_top */
	PASS_DONE,
};

/* What a pass is for. */
enum plx_k_goal {
	FOR_MAX,
	FOR_BEST,        /* select among the blocks' maxima: none of the best is below it */
	FOR_BEST_GATHER, /* the logits that are not below it */
	FOR_TOP_K,       /* select */
	FOR_TOTAL,       /* what top-p is a part of */
	FOR_DROP,        /* gather the logits at most `drop` below the maximum */
	FOR_DROP_SUM,    /* whether they are enough for top-p */
	FOR_TOP_P,       /* select */
	FOR_DRAW,
	FOR_TOP,
};

/* Some of the logits, ids increasing. */
struct plx_k_view {
	const float *x;
	const uint32_t *id; /* NULL: x[i] is id i */
	uint32_t n;
};

/* A prefix of the order: logits whose key is above `key`, and those equal with id <= max_id. */
struct plx_k_cut {
	uint32_t key;
	uint32_t max_id;
};

#define EVERYTHING ((struct plx_k_cut){0, UINT32_MAX})

/*
 * The search for the shortest prefix of `within` whose count or weight reaches `left`; there may be
 * none where min-p let narrow to less than top-p wants.
 */
struct plx_k_select {
	struct plx_k_view v;
	struct plx_k_cut within;
	bool weighed;     /* else counted */
	bool by_distance; /* bins of distances from the maximum; else of key bits from `shift` on */
	bool narrowing;   /* the pass that runs is a gather of what is left */
	uint32_t shift;
	uint64_t left; /* to be reached inside lo .. hi */
};

struct plx_k_job {
	const struct plx_kernels *k;
	struct plx_k_sampling s;
	struct plx_k_view all;
	uint64_t random;
	bool logprobs; /* a plx_k_logprobs: the fields below, and no draw */
	uint32_t logprob_id;
	uint32_t n_top;
	uint32_t n_best; /* in top */
	double log_sum;
	float logprob;
	struct plx_k_logprob top[PLX_K_TOP_MAX];

	enum plx_k_pass pass;
	enum plx_k_goal goal;
	uint32_t at; /* how far the pass has come */
	uint32_t end;
	int64_t result; /* DONE: what is returned */

	float max;
	bool nan;
	float drop;
	struct plx_k_view v; /* holds all that can be kept */
	struct plx_k_cut c;  /* what is kept */
	uint64_t target;     /* top-p; 0: keeps all */

	struct plx_k_view over; /* SUM */
	struct plx_k_cut sum_cut;
	float sum_min_p;
	float inv_temperature;
	uint64_t sum;
	uint32_t lo; /* GATHER, BINS, EQUALS: keys */
	uint32_t hi;
	uint32_t n_found;
	bool overflow; /* GATHER: there are more than CANDIDATES */
	struct plx_k_select sel;

	uint64_t bin[BINS]; /* BINS; SUM: by stretch */
	float block_max[BLOCKS];
	float x[CANDIDATES];
	uint32_t id[CANDIDATES];
};

static_assert(PLX_K_VOCAB_MAX / STRETCH <= BINS, "a sum of each stretch fits in the bins");
static_assert(STRETCH % BLOCK == 0, "passes stop between blocks");

/* The order of floats as integers; both zeros are equal. */
static inline uint32_t key_of(float x)
{
	uint32_t u = plx_f32_bits(x + 0.0f);

	return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static inline float float_of(uint32_t key)
{
	return plx_f32_from_bits(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

static inline uint32_t id_of(const struct plx_k_view *v, uint32_t i)
{
	return v->id ? v->id[i] : i;
}

static inline bool is_kept(struct plx_k_cut c, uint32_t key, uint32_t id)
{
	return key > c.key || (key == c.key && id <= c.max_id);
}

static inline bool is_all(const struct plx_k_job *j, const struct plx_k_view *v)
{
	return v->x == j->all.x;
}

/* plx_k_job_weights16 - of n <= 16 logits; the others are 0. */
void plx_k_job_weights16(const struct plx_k_job *j, const float *x, uint32_t n,
                         float inv_temperature, uint64_t out[16]);

/* plx_k_job_pass_begin - let the next pass be over n entries. */
void plx_k_job_pass_begin(struct plx_k_job *j, enum plx_k_pass pass, enum plx_k_goal goal,
                          uint32_t n);

/* plx_k_job_pass_run - look at entries at .. end - 1, at on a stretch; a pass that needs no more
 * sets j->at to j->end. */
void plx_k_job_pass_run(struct plx_k_job *j, uint32_t at, uint32_t end);

/* plx_k_job_gather_begin - gather the logits whose key is in lo .. hi. */
void plx_k_job_gather_begin(struct plx_k_job *j, enum plx_k_goal goal, uint32_t lo, uint32_t hi);

/* plx_k_job_gathered - what was gathered; all logits, where it was too many. */
struct plx_k_view plx_k_job_gathered(const struct plx_k_job *j);

/* plx_k_job_sum_begin - add up the weights of what c keeps of v, and min-p when it is for a draw.
 */
void plx_k_job_sum_begin(struct plx_k_job *j, enum plx_k_goal goal, const struct plx_k_view *v,
                         struct plx_k_cut c, float inv_temperature);

/* plx_k_job_kept_stretch - n logits of the sum's view, -inf where the cut or min-p leaves one out.
 */
const float *plx_k_job_kept_stretch(const struct plx_k_job *j, uint32_t at, uint32_t n,
                                    float buf[STRETCH]);

/* plx_k_job_select_begin - find the shortest prefix of j->c that reaches target; it will be in
 * j->c. */
void plx_k_job_select_begin(struct plx_k_job *j, enum plx_k_goal goal, const struct plx_k_view *v,
                            bool weighed, uint64_t target);

/* plx_k_job_select_goes_on - after a pass of the select; false when j->c is its cut: as it was, if
 * none reaches the target. */
bool plx_k_job_select_goes_on(struct plx_k_job *j);

#endif
