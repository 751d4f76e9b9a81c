/* A drafter that knows; see guess.h. */
#include "tests/lib/guess.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void begin(void *ctx, uint32_t slot)
{
	(void)ctx, (void)slot;
}

static uint32_t learn(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t n_prompt,
                      uint32_t most)
{
	(void)ctx, (void)slot, (void)ids, (void)most;
	assert_true(n >= n_prompt);
	return 0;
}

static void propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                    double least, struct plx_draft *out)
{
	struct guess *u = ctx;
	const struct plx_seq *q = &u->g->s.seq[slot];
	const struct rig_req *r = &u->g->r[q->ent];

	assert_true(least > 0);
	assert_ptr_equal(ids, q->ids);
	assert_int_equal(n, q->n_prompt + q->n_out);
	int32_t up = -1;

	for (uint32_t i = q->n_out, k = 0; k < most && k < u->most; i++, k++) {
		int32_t id = i < r->n_want[q->sample] ? r->want[q->sample][i] : (int32_t)RIG_EOG;
		bool wrong;

		u->n++;
		wrong = u->wrong && (u->n * UINT64_C(0x9e3779b97f4a7c15) >> 40) % u->wrong == 0;
		int32_t first = wrong ? (id + 1) % (int32_t)RIG_VOCAB : id;
		int32_t at = plx_draft_add(out, up, first, u->p);

		/* The right one, or another wrong one, beside it; half of the time more behind it.
		 */
		if (u->forks && out->tree && k % u->forks == 0 && at >= 0) {
			int32_t other = wrong ? id : (id + 2) % (int32_t)RIG_VOCAB;
			int32_t to = plx_draft_add(out, up, other, (1 - u->p) * 0.9f);

			at = wrong && u->n % 2 && to >= 0 ? to : at;
		}
		if (at < 0)
			return;
		up = at;
	}
}

void guess_open(struct guess *u, struct rig *g)
{
	struct plx_drafter by = {
	    .name = "guess", .ctx = u, .begin = begin, .learn = learn, .propose = propose};

	u->g = g;
	assert_int_equal(plx_sched_add_drafter(&g->s, &by), 0);
	plx_fake_conf(g->fake)->step_ns = 1000000;
	plx_fake_conf(g->fake)->tok_ns = 10000;
}
