/* How many drafts are worth their time; draft.h states the rule. */
#include "dataplane/batch/draft.h"

#define ROUNDS 8 /* Dinkelbach's steps converge faster than linearly; four are rarely exceeded */

struct sum {
	double ids; /* expected beside one a sequence */
	double ns;
	uint32_t tok;
};

/* The drafts whose chance is worth their time at `rate` ids a nanosecond. */
static struct sum lengths_at(struct plx_draft_share *share, uint32_t n_share, double rate)
{
	struct sum sum = {0};

	for (uint32_t i = 0; i < n_share; i++) {
		struct plx_draft_share *s = &share[i];

		for (s->n = 0; s->n < s->most; s->n++) {
			double p = (double)s->p[s->n];

			if (p < PLX_DRAFT_FAINT || p <= rate * s->tok_ns)
				break;
			sum.ids += p;
		}
		sum.ns += s->n * s->tok_ns;
		sum.tok += s->n;
	}
	return sum;
}

static double rate_of(const struct plx_draft_step *step, const struct sum *sum)
{
	double wait = sum->tok ? step->wait_ns : 0;

	return (step->n_seq + sum->ids) / (step->plain_ns + wait + sum->ns);
}

static bool fits(const struct plx_draft_step *step, const struct sum *sum, double more_ns)
{
	return sum->tok < step->max_tok &&
	       (step->limit_ns <= 0 || step->plain_ns + sum->ns + more_ns <= step->limit_ns);
}

/* As many of them as fit: everybody's first draft, then everybody's second ... */
static struct sum cut(struct plx_draft_share *share, uint32_t n_share,
                      const struct plx_draft_step *step)
{
	struct sum sum = {0};

	for (uint32_t i = 0; i < n_share; i++) {
		share[i].most = share[i].n;
		share[i].n = 0;
	}
	for (uint32_t d = 0; d < PLX_MAX_DRAFT; d++)
		for (uint32_t i = 0; i < n_share; i++) {
			struct plx_draft_share *s = &share[i];

			if (s->n < d || s->most <= d || !fits(step, &sum, s->tok_ns))
				continue;
			sum.ids += (double)s->p[s->n++];
			sum.ns += s->tok_ns;
			sum.tok++;
		}
	return sum;
}

double plx_draft_lengths(struct plx_draft_share *share, uint32_t n_share,
                         const struct plx_draft_step *step)
{
	double plain = step->n_seq / step->plain_ns, rate = plain;
	struct sum sum = lengths_at(share, n_share, rate);

	for (int i = 0; i < ROUNDS; i++) {
		double next = rate_of(step, &sum);

		/* With drafts whose wait is not worth it the rate may fall below. */
		if (next <= rate)
			break;
		rate = next;
		sum = lengths_at(share, n_share, rate);
	}
	sum = cut(share, n_share, step);
	rate = rate_of(step, &sum);
	if (sum.tok > 0 && rate >= PLX_DRAFT_WORTH * plain)
		return rate / plain;
	for (uint32_t i = 0; i < n_share; i++)
		share[i].n = 0;
	return 1;
}
