/* Chi-square of drafted ids against plain ones; see draftchi.h. */
#include "tests/lib/draftchi.h"

#include <math.h>
#include <string.h>

#include "fw/base/check.h"
#include "tests/lib/draftrig.h"

#define N_PROMPT 120u
#define LEAST    20.0 /* ids expected less often are counted together */

struct draw {
	struct draftchi *c;
	bool over[DRAFTRIG_KEYS];
};

static struct draftrig rig;

static void on_token(void *ctx, uint32_t key, uint32_t index, int32_t id)
{
	struct draw *d = ctx;

	(void)key;
	if (index > 0 && index <= DRAFTCHI_PLACES)
		d->c->count[index - 1][id]++;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct draw *d = ctx;

	PLX_CHECK(f->kind == PLX_SCHED_DONE);
	d->over[key] = true;
}

/* A prompt that has every id several times, so that look-up always has guesses. */
static void prompt_make(int32_t *ids)
{
	uint32_t x = 7;

	for (uint32_t i = 0; i < N_PROMPT; i++) {
		x = x * 1664525u + 1013904223u;
		ids[i] = (int32_t)(x >> 16) % (int32_t)DRAFTCHI_VOCAB;
	}
}

void draftchi_draw(struct draftchi *c, uint32_t who, bool trees, uint64_t seed, uint32_t n)
{
	static int32_t ids[N_PROMPT];
	struct draw d = {.c = c};
	uint32_t sent = 0, over = 0, round = 0;

	memset(c, 0, sizeof(*c));
	memset(d.over, 1, sizeof(d.over));
	prompt_make(ids);
	draftrig_open(&rig, who, trees, DRAFTRIG_BLOCKS);
	rig.ctx = &d;
	rig.token = on_token;
	rig.final = on_final;
	while (over < n) {
		/* Of different size, so that the scheduler learns what a token takes. */
		uint32_t most = 1 + round++ * 7 % DRAFTRIG_KEYS;

		for (uint32_t k = 0; k < most && sent < n; k++) {
			struct plx_sched_admit out;
			struct plx_sched_job j = {.ids = ids,
			                          .n_ids = N_PROMPT,
			                          .max_new = DRAFTCHI_PLACES + 2,
			                          .n_samples = 1,
			                          .ignore_eos = true,
			                          .ttft_slo_ns = 3600 * UINT64_C(1000000000),
			                          .sampler = {.temperature = 0.8f,
			                                      .top_p = 1,
			                                      .repeat_penalty = 1,
			                                      .seed = seed + sent}};

			if (!d.over[k])
				continue;
			PLX_CHECK(plx_sched_add(&rig.sched, k, &j, 1, &out) == 0);
			d.over[k] = false;
			sent++;
		}
		while (draftrig_turn(&rig)) /* until all that run are over */
			;
		over = sent;
	}
	if (who < DRAFTRIG_NONE) {
		c->drafted = rig.sched.draft.drafted[who];
		c->accepted = rig.sched.draft.accepted[who];
		c->branches = rig.sched.draft.branches;
	}
	draftrig_close(&rig);
}

double draftchi_of(const uint32_t *a, const uint32_t *b, uint32_t *df)
{
	double rest_a = 0, rest_b = 0, chi = 0;

	*df = 0;
	for (uint32_t i = 0; i < DRAFTCHI_VOCAB; i++) {
		double x = a[i], y = b[i];

		if (x + y < 2 * LEAST) {
			rest_a += x;
			rest_b += y;
			continue;
		}
		chi += (x - y) * (x - y) / (x + y);
		++*df;
	}
	if (rest_a + rest_b > 0)
		chi += (rest_a - rest_b) * (rest_a - rest_b) / (rest_a + rest_b);
	*df -= rest_a + rest_b > 0 ? 0 : 1;
	return chi;
}

/* Wilson and Hilferty's approximation. */
double draftchi_bound(uint32_t df)
{
	double t = 2.0 / (9.0 * df), c = 1 - t + 3.09 * sqrt(t);

	return df * c * c * c;
}
