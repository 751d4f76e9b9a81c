/* How many drafts are worth their time; draft.h states the rule. */
#include "dataplane/batch/draft.h"

#define ROUNDS      8 /* Dinkelbach's steps converge faster than linearly; four are rarely exceeded */
#define STRICT      1.25
#define MOST_STRICT 64
#define FAINT       0.02 /* chances below it are not to be believed */

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
		double p = 1;

		for (s->n = 0; s->n < s->most; s->n++) {
			p *= (double)s->p[s->n];
			if (p < FAINT || p <= rate * s->tok_ns)
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

static bool too_much(const struct plx_draft_step *step, const struct sum *sum)
{
	return sum->tok > step->max_tok ||
	       (step->limit_ns > 0 && sum->tok > 0 && step->plain_ns + sum->ns > step->limit_ns);
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
	/* Less for everybody until it fits. */
	double strict = rate;

	for (int i = 0; i < MOST_STRICT && too_much(step, &sum); i++) {
		strict *= STRICT;
		sum = lengths_at(share, n_share, strict);
	}
	rate = rate_of(step, &sum);
	if (sum.tok > 0 && !too_much(step, &sum) && rate >= PLX_DRAFT_WORTH * plain)
		return rate / plain;
	for (uint32_t i = 0; i < n_share; i++)
		share[i].n = 0;
	return 1;
}
