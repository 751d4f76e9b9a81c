/*
 * How far a model's predictions on a text are from a reference's: the reference is run once and its
 * distributions are kept, 2 bytes an id; then each file and KV type is run over the same ids.
 *
 *   ln_ppl     mean over the text of log p_ref(next) - log p(next): the logarithm of the ratio of
 *              perplexities
 *   ln_ppl_sd  its standard error, from the scatter of the tokens' differences (chance of the text)
 *   kl         mean of sum over ids of p_ref log(p_ref / p), nats: what ln_ppl would be on texts
 * that the reference itself writes, and known far more exactly; kl_sd its standard error top share
 * of places at which the best id is the reference's: greedy decoding agrees
 *
 * A text longer than the model's context is run in windows of that length. All are the device's
 * own, in its arithmetic, and the same whenever they are measured.
 */
#ifndef PLX_TOOLS_TUNE_ACCURACY_H
#define PLX_TOOLS_TUNE_ACCURACY_H

#include "fw/base/diag.h"
#include "tools/tune/rig.h"

#define PLX_ACCURACY_LEAST 64u          /* ids that a text must have */
#define PLX_ACCURACY_BYTES (1ull << 31) /* that a reference may take */

struct plx_accuracy {
	uint32_t n; /* places */
	double ln_ppl, ln_ppl_sd, kl, kl_sd, top;
	double ppl;
};

struct plx_accuracy_ref {
	uint32_t n; /* ids of the text less one */
	uint32_t n_vocab;
	const int32_t *ids; /* [n + 1], the caller's */
	uint16_t *logp;     /* [n][n_vocab] -log p in units of 2^-11, 32 at most */
	double *next;       /* [n] log p of the id that follows */
	int32_t *best;      /* [n] */
	double *share;      /* [65536] exp(-u 2^-11) */
};

/* plx_accuracy_limits - sizes for n places of a model with that context. */
struct plx_dev_limits plx_accuracy_limits(uint32_t n, uint32_t n_ctx, uint32_t kv_type,
                                          uint32_t n_threads);
/* The caller may set kv_type and the limits' sparse_* as well. */

/*
 * plx_accuracy_ref_run - run the reference.
 *
 * @n  places: ids has one more.
 *
 * Errors: NOMEM, LIMIT (more than PLX_ACCURACY_BYTES; d says how many ids would do), FAULT,
 *         CANCELLED (a signal). On error nothing is kept.
 */
int plx_accuracy_ref_run(struct plx_accuracy_ref *ref, struct plx_rig *r, const int32_t *ids,
                         uint32_t n, struct plx_diag *d);
void plx_accuracy_ref_free(struct plx_accuracy_ref *ref);

/* plx_accuracy_run - run a file against it. The rig was opened with plx_accuracy_limits.
 * Errors: INVAL (another vocabulary), FAULT, CANCELLED. */
int plx_accuracy_run(struct plx_accuracy *out, const struct plx_accuracy_ref *ref,
                     struct plx_rig *r, struct plx_diag *d);

/*
 * plx_accuracy_enough - whether a text gives perplexity as exactly as is asked.
 *
 * @percent  half of the 95 % interval of the ratio of perplexities may be this much.
 *
 * Errors: INVAL; d says how exact it is and how long the text should be.
 */
int plx_accuracy_enough(const struct plx_accuracy *a, double percent, struct plx_diag *d);

#endif
