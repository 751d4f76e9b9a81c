/* A slot's sampler: which ids the repeat penalty sees, and what is chosen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "accel/sampler.h"
#include "fw/base/err.h"

#define N_VOCAB 96u

static const struct plx_kernels *k;
static void *scratch;

static int setup(void **state)
{
	(void)state;
	k = plx_kernels_select(PLX_K_ISA_BEST);
	scratch = aligned_alloc(64, (plx_k_sample_scratch_bytes() + 63) & ~(size_t)63);
	plx_k_fpu_setup();
	return k == NULL || scratch == NULL;
}

static int teardown(void **state)
{
	(void)state;
	free(scratch);
	return 0;
}

static struct plx_slot_sampler slot(struct plx_sampler conf)
{
	struct plx_slot_sampler s;

	plx_slot_sampler_set(&s, &conf);
	return s;
}

static void test_recent_is_the_window_before_a_position(void **state)
{
	struct plx_slot_sampler s = slot((struct plx_sampler){.penalty_window = 4});
	uint32_t got[PLX_PENALTY_WINDOW];

	(void)state;
	for (uint32_t i = 0; i < 300; i++)
		plx_slot_sampler_note(&s, i, (int32_t)(1000 + i));
	assert_int_equal(plx_slot_sampler_recent(&s, 300, got), 4);
	assert_int_equal(got[0], 1296);
	assert_int_equal(got[3], 1299);
	/* Drafts that were wrong are written over. */
	for (uint32_t i = 300; i < 315; i++)
		plx_slot_sampler_note(&s, i, 7);
	plx_slot_sampler_note(&s, 300, 42);
	assert_int_equal(plx_slot_sampler_recent(&s, 301, got), 4);
	assert_int_equal(got[0], 1297);
	assert_int_equal(got[3], 42);
}

static void test_recent_knows_the_cached_prefix(void **state)
{
	struct plx_sampler conf = {.penalty_window = 64, .n_recent = 3, .recent = {5, 6, 7}};
	struct plx_slot_sampler s = slot(conf);
	uint32_t got[PLX_PENALTY_WINDOW];

	(void)state;
	plx_slot_sampler_note(&s, 16, 8);
	assert_int_equal(plx_slot_sampler_recent(&s, 17, got), 4);
	assert_int_equal(got[0], 5);
	assert_int_equal(got[2], 7);
	assert_int_equal(got[3], 8);
	/* More ids than there are positions before the first one. */
	s = slot(conf);
	plx_slot_sampler_note(&s, 2, 8);
	assert_int_equal(plx_slot_sampler_recent(&s, 3, got), 3);
	assert_int_equal(got[0], 6);
	/* A new sequence knows nothing of the old one. */
	s = slot((struct plx_sampler){.penalty_window = 64});
	plx_slot_sampler_note(&s, 0, 9);
	assert_int_equal(plx_slot_sampler_recent(&s, 1, got), 1);
	assert_int_equal(got[0], 9);
}

static void ramp(float logits[N_VOCAB])
{
	for (uint32_t i = 0; i < N_VOCAB; i++)
		logits[i] = (float)((i * 29) % N_VOCAB) / 8.0f;
}

static void test_penalty_turns_the_choice(void **state)
{
	struct plx_sampler conf = {.top_p = 1, .repeat_penalty = 2, .penalty_window = 64};
	struct plx_slot_sampler s = slot(conf);
	float logits[N_VOCAB], was[N_VOCAB];
	struct plx_top top[3];

	(void)state;
	ramp(logits); /* 95 is at id 43, 94 at 86, 93 at 33 */
	memcpy(was, logits, sizeof(was));
	plx_slot_sampler_note(&s, 0, 1);
	struct plx_choice c = plx_slot_sampler_choose(&s, k, logits, N_VOCAB, 1, NULL, 0, scratch);

	assert_int_equal(c.id, 43);
	plx_slot_sampler_note(&s, 1, 43);
	plx_slot_sampler_note(&s, 2, 43);
	plx_slot_sampler_note(&s, 3, 86);
	c = plx_slot_sampler_choose(&s, k, logits, N_VOCAB, 4, top, 3, scratch);
	assert_int_equal(c.status, 0);
	assert_int_equal(c.id, 33);
	/* Log-probabilities are those before the penalty, and the logits are as they were. */
	assert_int_equal(top[0].id, 43);
	assert_int_equal(top[2].id, 33);
	assert_true(fabsf(c.logprob - top[2].logprob) < 1e-6f);
	assert_true(fabsf(top[0].logprob - top[2].logprob - 0.25f) < 1e-5f);
	assert_memory_equal(logits, was, sizeof(was));
}

static void test_choice_depends_on_seed_sample_and_position(void **state)
{
	struct plx_sampler conf = {.temperature = 2, .top_p = 1, .repeat_penalty = 1, .seed = 3};
	struct plx_slot_sampler a = slot(conf), b = slot(conf);
	float logits[N_VOCAB];
	uint32_t n_same[3] = {0};

	(void)state;
	ramp(logits);
	for (uint32_t pos = 1; pos <= 64; pos++) {
		int32_t id[4];

		for (uint32_t i = 0; i < 4; i++) {
			b.conf.seed = i == 1 ? 4 : 3;
			b.conf.sample = i == 2;
			const struct plx_slot_sampler *s = i == 3 ? &a : &b;

			id[i] =
			    plx_slot_sampler_choose(s, k, logits, N_VOCAB, pos, NULL, 0, scratch)
				.id;
			assert_in_range(id[i], 0, N_VOCAB - 1);
		}
		n_same[0] += id[0] == id[1];
		n_same[1] += id[0] == id[2];
		n_same[2] += id[0] == id[3];
	}
	assert_true(n_same[0] < 24 && n_same[1] < 24);
	assert_int_equal(n_same[2], 64);
}

static void test_nan_is_a_fault(void **state)
{
	struct plx_slot_sampler s = slot((struct plx_sampler){.top_p = 1, .repeat_penalty = 1});
	float logits[N_VOCAB];

	(void)state;
	ramp(logits);
	logits[50] = NAN;
	assert_int_equal(
	    plx_slot_sampler_choose(&s, k, logits, N_VOCAB, 1, NULL, 0, scratch).status,
	    PLX_E_FAULT);
	ramp(logits);
	logits[50] = INFINITY;
	assert_int_equal(
	    plx_slot_sampler_choose(&s, k, logits, N_VOCAB, 1, NULL, 0, scratch).status,
	    PLX_E_FAULT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_recent_is_the_window_before_a_position),
	    cmocka_unit_test(test_recent_knows_the_cached_prefix),
	    cmocka_unit_test(test_penalty_turns_the_choice),
	    cmocka_unit_test(test_choice_depends_on_seed_sample_and_position),
	    cmocka_unit_test(test_nan_is_a_fault),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
