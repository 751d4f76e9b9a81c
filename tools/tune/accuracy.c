/* A text through a device, sixteen tokens a step, all of them with logits. One that is longer than
 * the model's context is run in windows of that length, each begun anew. */
#include "tools/tune/accuracy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "accel/cpu.h"
#include "fw/base/err.h"
#include "tools/gguf/out.h"

#define ROWS  (1u + PLX_MAX_DRAFT) /* that a step gives */
#define BLOCK 32u
#define UNIT  2048.0 /* of logp in a nat */

typedef void (*row_fn)(void *ctx, uint32_t pos, const float *logits);

struct plx_dev_limits plx_accuracy_limits(uint32_t n, uint32_t n_ctx, uint32_t kv_type,
                                          uint32_t n_threads)
{
	uint32_t n_blocks = ((n < n_ctx ? n : n_ctx) + BLOCK) / BLOCK + 1;

	return (struct plx_dev_limits){.n_slots = 1,
	                               .n_blocks = n_blocks,
	                               .block_tokens = BLOCK,
	                               .max_seq_blocks = n_blocks,
	                               .max_step_tokens = ROWS,
	                               .max_step_seqs = 1,
	                               .steps_in_flight = 2,
	                               .n_threads = n_threads,
	                               .kv_type = kv_type};
}

/* A step that runs n ids from position pos of a window on and gives logits after each of them. */
static void fill(struct plx_step *s, uint64_t id, const int32_t *ids, uint32_t pos, uint32_t n,
                 uint32_t flags)
{
	const struct plx_sampler greedy = {.top_p = 1, .repeat_penalty = 1};
	uint32_t n_delta = 0;

	s->id = id;
	s->n_tok = n;
	s->n_seq = 1;
	s->cancel = 0;
	s->n_sampler = pos == 0;
	if (pos == 0 && id > 0)
		plx_step_deltas(s)[n_delta++] =
		    (struct plx_step_delta){.kind = PLX_DELTA_SLOT_CLEAR};
	if (pos == 0) {
		plx_step_samplers(s)[0] = greedy;
		plx_step_deltas(s)[n_delta++] = (struct plx_step_delta){
		    .kind = PLX_DELTA_SLOT_SET, .sampler_off = s->sampler_off};
	}
	for (uint32_t b = (pos + BLOCK - 1) / BLOCK; b < (pos + n + BLOCK - 1) / BLOCK; b++)
		plx_step_deltas(s)[n_delta++] =
		    (struct plx_step_delta){PLX_DELTA_BLOCK, 0, b, b, {0}};
	s->n_delta = n_delta;
	plx_step_seqs(s)[0] = (struct plx_step_seq){.n_tok = n, .n_draft = n - 1, .flags = flags};
	for (uint32_t i = 0; i < n; i++)
		plx_step_toks(s)[i] = (struct plx_step_tok){.id = ids[i],
		                                            .pos = {pos + i, pos + i, pos + i},
		                                            .parent = -1,
		                                            .flags = PLX_TOKF_LOGITS};
}

static int run_step(struct plx_rig *r, struct plx_diag *d)
{
	int err = plx_queue_submit(r->q, 0);

	if (!err)
		err = plx_rig_wait(r);
	if (!err)
		err = plx_queue_step(r->q, 0)->status;
	if (!err)
		err = plx_step_outs(plx_queue_step(r->q, 0))[0].status;
	return err ? plx_diag_set(d, err, "%s: the device failed on the text: %s", r->model->name,
	                          plx_err_help(err))
	           : 0;
}

static int run_text(struct plx_rig *r, const int32_t *ids, uint32_t n, row_fn fn, void *ctx,
                    struct plx_diag *d)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)r->dev;

	uint32_t window = r->model->n_ctx;
	uint64_t id = 0;

	for (uint32_t pos = 0, m; pos < n; pos += m, id++) {
		uint32_t at = pos % window;

		m = n - pos < ROWS ? n - pos : ROWS;
		m = window - at < m ? window - at : m;
		if (plx_out_interrupted())
			return plx_diag_set(d, PLX_E_CANCELLED, "interrupted");
		fill(plx_queue_step(r->q, 0), id, ids + pos, at, m,
		     plx_limits_sparse(&r->lim) ? PLX_SEQF_SPARSE : 0u);
		int err = run_step(r, d);

		if (err)
			return err;
		for (uint32_t i = 0; i < m; i++)
			fn(ctx, pos + i, c->fwd.logits + (size_t)i * c->fwd.logit_stride);
	}
	return 0;
}

/* log of the sum of exp(x[i]), and where the largest stands, the first of equals. */
static double log_sum(const float *x, uint32_t n, int32_t *best)
{
	float high = x[0];
	double sum = 0;

	*best = 0;
	for (uint32_t i = 1; i < n; i++)
		if (x[i] > high) {
			high = x[i];
			*best = (int32_t)i;
		}
	for (uint32_t i = 0; i < n; i++)
		sum += (double)expf(x[i] - high);
	return (double)high + log(sum);
}

/* ---- the reference ---- */

static void keep_row(void *ctx, uint32_t pos, const float *x)
{
	struct plx_accuracy_ref *ref = ctx;
	uint16_t *out = ref->logp + (size_t)pos * ref->n_vocab;
	double sum = log_sum(x, ref->n_vocab, &ref->best[pos]);
	const float shift = (float)(sum * UNIT);

	ref->next[pos] = (double)x[ref->ids[pos + 1]] - sum;
	for (uint32_t i = 0; i < ref->n_vocab; i++) {
		float u = shift - x[i] * (float)UNIT + 0.5f;

		out[i] = u < 0 ? 0 : u >= 65535 ? 65535 : (uint16_t)u;
	}
}

int plx_accuracy_ref_run(struct plx_accuracy_ref *ref, struct plx_rig *r, const int32_t *ids,
                         uint32_t n, struct plx_diag *d)
{
	uint64_t row = 2ull * r->model->n_vocab;
	int err = 0;

	*ref = (struct plx_accuracy_ref){.n = n, .n_vocab = r->model->n_vocab, .ids = ids};
	if (n * row > PLX_ACCURACY_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "%u tokens of the text take %.1f GiB with this vocabulary; "
		                    "give --tokens %llu or less",
		                    n, (double)(n * row) / 0x1p30,
		                    (unsigned long long)(PLX_ACCURACY_BYTES / row));
	ref->logp = malloc(n * row);
	ref->next = calloc(n, sizeof(double));
	ref->best = calloc(n, sizeof(int32_t));
	ref->share = calloc(65536, sizeof(double));
	if (!ref->logp || !ref->next || !ref->best || !ref->share)
		err = plx_diag_set(d, PLX_E_NOMEM,
		                   "no memory for the reference; give fewer --tokens");
	for (uint32_t i = 0; i < 65536 && !err; i++)
		ref->share[i] = exp(-(double)i / UNIT);
	if (!err)
		err = run_text(r, ids, n, keep_row, ref, d);
	if (err)
		plx_accuracy_ref_free(ref);
	return err;
}

void plx_accuracy_ref_free(struct plx_accuracy_ref *ref)
{
	free(ref->logp);
	free(ref->next);
	free(ref->best);
	free(ref->share);
	*ref = (struct plx_accuracy_ref){.n = 0};
}

/* ---- against it ---- */

struct compare {
	const struct plx_accuracy_ref *ref;
	double logprob, delta, delta2, kl, kl2;
	uint32_t n_top;
};

static void compare_row(void *ctx, uint32_t pos, const float *x)
{
	struct compare *c = ctx;
	const struct plx_accuracy_ref *ref = c->ref;
	const uint16_t *u = ref->logp + (size_t)pos * ref->n_vocab;
	int32_t best;
	double sum = log_sum(x, ref->n_vocab, &best), kl = 0, all = 0;
	double lp = (double)x[ref->ids[pos + 1]] - sum, delta = ref->next[pos] - lp;

	for (uint32_t i = 0; i < ref->n_vocab; i++) {
		double p = ref->share[u[i]];

		all += p;
		kl += p * (sum - (double)x[i] - u[i] / UNIT);
	}
	c->logprob += lp;
	c->delta += delta;
	c->delta2 += delta * delta;
	kl /= all;
	c->kl += kl;
	c->kl2 += kl * kl;
	c->n_top += best == ref->best[pos];
}

int plx_accuracy_run(struct plx_accuracy *out, const struct plx_accuracy_ref *ref,
                     struct plx_rig *r, struct plx_diag *d)
{
	struct compare c = {.ref = ref};
	double n = ref->n;

	if (r->model->n_vocab != ref->n_vocab)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "%s has %u ids and the reference %u; give a reference with the "
		                    "same vocabulary",
		                    r->model->name, r->model->n_vocab, ref->n_vocab);
	int err = run_text(r, ref->ids, ref->n, compare_row, &c, d);

	if (err)
		return err;
	*out = (struct plx_accuracy){.n = ref->n,
	                             .ln_ppl = c.delta / n,
	                             .kl = fmax(c.kl / n, 0),
	                             .top = c.n_top / n,
	                             .ppl = exp(-c.logprob / n)};
	out->ln_ppl_sd = sqrt(fmax(c.delta2 / n - out->ln_ppl * out->ln_ppl, 0) / n);
	out->kl_sd = sqrt(fmax(c.kl2 / n - (c.kl / n) * (c.kl / n), 0) / n);
	return 0;
}

int plx_accuracy_enough(const struct plx_accuracy *a, double percent, struct plx_diag *d)
{
	double half = 100 * expm1(1.96 * a->ln_ppl_sd);

	if (half <= percent)
		return 0;
	return plx_diag_set(
	    d, PLX_E_INVAL,
	    "%u tokens of this text give perplexity only to +-%.2f %%, and +-%.2f %% "
	    "is asked for; give a text (and --tokens) of about %.0f tokens, or "
	    "--interval %.1f",
	    a->n, half, percent, ceil(a->n * (half / percent) * (half / percent)),
	    ceil(half * 10) / 10);
}
