/*
 * The distribution of text sampled with drafts is that of text sampled without: two tokens behind a
 * prompt, 100,000 times with a draft verified and as many times without, from other seeds, compared
 * by Pearson's chi-square for two samples; and the first token against the exact softmax.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/devkit.h"
#include "tests/lib/draftchi.h"

#define N_SLOTS 250u
#define ROUNDS  400u
#define VOCAB   DRAFTCHI_VOCAB
#define LEAST   20.0 /* ids expected less often are counted together */
#define TEMPER  0.7

static struct devkit kit;
static const int32_t prompt = 17;
static uint32_t first[2][VOCAB], second[2][VOCAB]; /* [drafted] */
static uint32_t n_accepted;
static float logits[VOCAB];

static uint32_t wait_ok(void)
{
	uint32_t idx = devkit_wait(&kit);

	assert_int_equal(plx_queue_step(kit.q, idx)->status, 0);
	return idx;
}

/* New sequences in all slots, the prompt run, with a draft behind it or not. */
static struct plx_step *start(uint64_t seed, int32_t draft)
{
	struct plx_step *s = devkit_step(&kit, 0);
	int32_t ids[2] = {prompt, draft};
	struct plx_sampler p = devkit_greedy();

	p.temperature = (float)TEMPER;
	for (uint32_t i = 0; i < N_SLOTS; i++) {
		p.seed = seed + i;
		if (seed > 0)
			devkit_clear(s, i);
		devkit_set(s, i, &p);
		devkit_blocks(s, i, 0, 1, i);
		struct plx_step_seq *q = devkit_seq(s, i, ids, 0, draft >= 0 ? 2 : 1, true);

		q->n_draft = draft >= 0;
		plx_step_toks(s)[q->first_tok].flags = PLX_TOKF_LOGITS;
	}
	assert_int_equal(plx_queue_submit(kit.q, 0), 0);
	wait_ok();
	return s;
}

/* The second id of those that do not have it yet. */
static void go_on(struct plx_step *s, uint32_t count[VOCAB])
{
	struct plx_step *t = devkit_step(&kit, 1);

	for (uint32_t i = 0; i < N_SLOTS; i++) {
		const struct plx_step_out *o = &plx_step_outs(s)[i];

		if (o->n_out > 1)
			count[o->id[1]]++;
		else
			devkit_seq(t, i, &o->id[0], 1, 1, true);
	}
	if (t->n_seq == 0)
		return;
	assert_int_equal(plx_queue_submit(kit.q, 1), 0);
	wait_ok();
	for (uint32_t i = 0; i < t->n_seq; i++)
		count[plx_step_outs(t)[i].id[0]]++;
}

static void draw(uint64_t seed, int32_t draft)
{
	struct plx_step *s = start(seed, draft);

	for (uint32_t i = 0; i < N_SLOTS; i++) {
		first[draft >= 0][plx_step_outs(s)[i].id[0]]++;
		n_accepted += plx_step_outs(s)[i].n_accepted;
	}
	go_on(s, second[draft >= 0]);
}

/* Chi-square of counts against the softmax of the prompt's logits. */
static double against_exact(const uint32_t *a, uint32_t *df)
{
	double sum = 0, rest = 0, rest_want = 0, chi = 0;

	*df = 0;
	for (uint32_t i = 0; i < VOCAB; i++)
		sum += exp((double)logits[i] / TEMPER);
	for (uint32_t i = 0; i < VOCAB; i++) {
		double want = exp((double)logits[i] / TEMPER) / sum * N_SLOTS * ROUNDS;

		if (want < LEAST) {
			rest += a[i];
			rest_want += want;
			continue;
		}
		chi += (a[i] - want) * (a[i] - want) / want;
		++*df;
	}
	if (rest_want > 0)
		chi += (rest - rest_want) * (rest - rest_want) / rest_want;
	*df -= rest_want > 0 ? 0 : 1;
	return chi;
}

static void check(const char *what, double chi, uint32_t df)
{
	print_message("%s: chi-square %.1f with %u degrees of freedom, 99.9 %% are below %.1f\n",
	              what, chi, df, draftchi_bound(df));
	assert_true(df > 10);
	assert_true(chi < draftchi_bound(df));
}

static void test_draft_distribution_is_the_models(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	uint32_t df, shifted[VOCAB];
	int32_t draft = 0;

	(void)state;
	lim.n_slots = lim.max_step_seqs = lim.n_blocks = N_SLOTS;
	lim.max_step_tokens = 2 * N_SLOTS;
	lim.max_seq_blocks = 1;
	devkit_open(&kit, "tests/golden/tiny/llama3.gguf", "auto", &lim);
	assert_int_equal(kit.model->n_vocab, VOCAB);
	draw(0, -1);
	memset(first, 0, sizeof(first));
	memset(second, 0, sizeof(second));
	struct plx_step *s = devkit_step(&kit, 0);

	devkit_seq(s, 0, &prompt, 0, 1, true);
	assert_int_equal(plx_queue_submit(kit.q, 0), 0);
	wait_ok();
	memcpy(logits, devkit_logits(&kit, 0), sizeof(logits));
	for (int32_t i = 1; i < (int32_t)VOCAB; i++)
		draft = logits[i] > logits[draft] ? i : draft;
	for (uint32_t r = 0; r < ROUNDS; r++) {
		draw(1000000 + r * N_SLOTS, -1);
		draw(9000000 + r * N_SLOTS, draft);
	}
	devkit_close(&kit);
	assert_true(n_accepted > N_SLOTS * ROUNDS / 50);
	double chi = against_exact(first[1], &df);

	check("first token, drafted, exact", chi, df);
	chi = draftchi_of(first[0], first[1], &df);
	check("first token, drafted and not", chi, df);
	chi = draftchi_of(second[0], second[1], &df);
	check("second token, drafted and not", chi, df);
	/* One that accepts drafts one time in a hundred too often is found. */
	memcpy(shifted, first[1], sizeof(shifted));
	shifted[draft] += N_SLOTS * ROUNDS / 100;
	chi = against_exact(shifted, &df);
	assert_true(chi > draftchi_bound(df));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_draft_distribution_is_the_models),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
