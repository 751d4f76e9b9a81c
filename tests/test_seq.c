/* One sequence's share of a step: deltas, tokens, ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "accel/step.h"
#include "dataplane/batch/seq.h"

#define BT 16u

struct rig {
	struct plx_step *st;
	struct plx_seq q;
	struct plx_seq_fill f;
	int32_t ids[256];
	uint32_t block[16];
	struct plx_sampler sampler;
};

static struct rig r;

static int rig_open(void **state)
{
	struct plx_dev_limits lim = {.n_slots = 2,
	                             .n_blocks = 32,
	                             .block_tokens = BT,
	                             .max_seq_blocks = 16,
	                             .max_step_tokens = 64,
	                             .max_step_seqs = 2,
	                             .steps_in_flight = 2,
	                             .n_threads = 1};
	struct plx_step_layout lay;

	(void)state;
	memset(&r, 0, sizeof(r));
	plx_step_layout_make(&lim, &lay);
	r.st = calloc(1, lay.record_bytes);
	plx_step_format(r.st, &lay);
	r.f = (struct plx_seq_fill){.step = r.st, .max_tok = 64, .max_seq = 2, .block_tokens = BT};
	for (int32_t i = 0; i < 256; i++)
		r.ids[i] = 1000 + i;
	for (uint32_t i = 0; i < 16; i++)
		r.block[i] = 20 + i;
	r.sampler = (struct plx_sampler){.top_p = 1, .repeat_penalty = 1.5f, .penalty_window = 64};
	r.q = (struct plx_seq){.state = PLX_SEQ_RUN,
	                       .set_pending = true,
	                       .sample = 2,
	                       .n_prompt = 40,
	                       .n_known = 40,
	                       .max_new = 3,
	                       .window = 100,
	                       .n_blocks = plx_seq_blocks(40, 3, BT),
	                       .ids = r.ids,
	                       .block = r.block};
	return 0;
}

static int rig_close(void **state)
{
	(void)state;
	free(r.st);
	return 0;
}

static void assert_delta(uint32_t i, uint32_t kind, uint32_t index, uint32_t block)
{
	const struct plx_step_delta *d = &plx_step_deltas(r.st)[i];

	assert_int_equal(d->kind, kind);
	assert_int_equal(d->slot, 1);
	assert_int_equal(d->index, index);
	assert_int_equal(d->block, block);
}

static void next_step(void)
{
	r.st->n_tok = r.st->n_seq = r.st->n_delta = r.st->n_sampler = 0;
}

static void test_seq_blocks_do_not_count_the_last_id(void **state)
{
	(void)state;
	assert_int_equal(plx_seq_blocks(16, 1, BT), 1);
	assert_int_equal(plx_seq_blocks(16, 2, BT), 2);
	assert_int_equal(plx_seq_blocks(1, 16, BT), 1);
	assert_int_equal(plx_seq_blocks(1, 17, BT), 2);
}

static void test_seq_first_chunk_sets_the_slot(void **state)
{
	(void)state;
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 20, &r.sampler), 20);
	assert_int_equal(r.st->n_delta, 3);
	assert_delta(0, PLX_DELTA_SLOT_SET, 0, 0);
	assert_int_equal(plx_step_deltas(r.st)[0].sampler_off, r.st->sampler_off);
	assert_delta(1, PLX_DELTA_BLOCK, 0, 20);
	assert_delta(2, PLX_DELTA_BLOCK, 1, 21);
	assert_int_equal(plx_step_samplers(r.st)[0].sample, 2);
	assert_int_equal(plx_step_samplers(r.st)[0].n_recent, 0);
	assert_int_equal(plx_step_toks(r.st)[19].id, 1019);
	assert_int_equal(plx_step_toks(r.st)[19].pos[0], 19);
	assert_int_equal(plx_step_toks(r.st)[19].flags, 0);
	assert_int_equal(plx_step_toks(r.st)[19].parent, -1);
	assert_int_equal(plx_seq_sampled(&r.q), 0);
	assert_int_equal(plx_seq_prefilling(&r.q), 20);
}

static void test_seq_last_prompt_token_samples_then_decodes(void **state)
{
	(void)state;
	plx_seq_give(&r.q, 1, &r.f, 20, &r.sampler);
	next_step();
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 20, &r.sampler), 20);
	assert_int_equal(r.st->n_delta, 1);
	assert_delta(0, PLX_DELTA_BLOCK, 2, 22);
	assert_int_equal(plx_step_toks(r.st)[18].flags, 0);
	assert_int_equal(plx_step_toks(r.st)[19].flags, PLX_TOKF_LOGITS);
	assert_true(plx_seq_can_decode(&r.q));
	next_step();
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 1, &r.sampler), 1);
	assert_int_equal(plx_step_toks(r.st)[0].id, PLX_TOK_LAST);
	assert_int_equal(plx_step_toks(r.st)[0].pos[0], 40);
	assert_int_equal(plx_step_toks(r.st)[0].flags, PLX_TOKF_LOGITS);
	assert_int_equal(r.st->n_delta, 0);
	plx_seq_give(&r.q, 1, &r.f, 1, &r.sampler);
	/* Three ids are on their way: max_new. */
	assert_int_equal(plx_seq_sampled(&r.q), 3);
	assert_false(plx_seq_can_decode(&r.q));
	assert_int_equal(r.q.in_flight, 4);
}

static void test_seq_after_a_shared_prefix_tells_recent_ids(void **state)
{
	(void)state;
	r.q.n_run = r.q.n_ok = 32;
	r.q.slot_dirty = true;
	r.sampler.penalty_window = 5;
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 8, &r.sampler), 8);
	assert_delta(0, PLX_DELTA_SLOT_CLEAR, 0, 0);
	assert_delta(1, PLX_DELTA_SLOT_SET, 0, 0);
	assert_delta(4, PLX_DELTA_BLOCK, 2, 22);
	assert_int_equal(r.st->n_delta, 5);
	assert_int_equal(plx_step_samplers(r.st)[0].n_recent, 5);
	assert_int_equal(plx_step_samplers(r.st)[0].recent[0], 1027);
	assert_int_equal(plx_step_samplers(r.st)[0].recent[4], 1031);
	assert_int_equal(plx_step_toks(r.st)[0].pos[0], 32);
}

static void test_seq_takes_what_fits(void **state)
{
	(void)state;
	r.f.max_tok = 10;
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 40, &r.sampler), 10);
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 30, &r.sampler), 0);
	r.f.max_tok = 64;
	r.st->n_delta = r.st->max_deltas; /* block 0 is told: positions up to 15 need no delta */
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 30, &r.sampler), 6);
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 24, &r.sampler), 0);
	next_step();
	r.f.max_seq = 0;
	assert_int_equal(plx_seq_give(&r.q, 1, &r.f, 24, &r.sampler), 0);
}

static void test_seq_ends(void **state)
{
	static const int32_t eog[2] = {5, 6};
	int32_t id = 9;

	(void)state;
	assert_int_equal(plx_seq_take(&r.q, 20, NULL, eog, 2), PLX_SEQ_END_NONE);
	assert_int_equal(r.q.n_ok, 20);
	assert_int_equal(plx_seq_take(&r.q, 20, &id, eog, 2), PLX_SEQ_END_NONE);
	assert_int_equal(r.ids[40], 9);
	id = 6;
	assert_int_equal(plx_seq_take(&r.q, 1, &id, eog, 2), PLX_SEQ_END_EOS);
	assert_int_equal(r.q.n_out, 1);
	r.q.ignore_eos = true;
	assert_int_equal(plx_seq_take(&r.q, 1, &id, eog, 2), PLX_SEQ_END_NONE);
	assert_int_equal(plx_seq_take(&r.q, 1, &id, eog, 2), PLX_SEQ_END_LENGTH);
	r.q.n_out = 2;
	r.q.by_context = true;
	assert_int_equal(plx_seq_take(&r.q, 1, &id, eog, 2), PLX_SEQ_END_CONTEXT);
}

static void test_seq_window_bounds_what_is_given(void **state)
{
	(void)state;
	r.q.max_new = 10;
	r.q.window = 1;
	plx_seq_give(&r.q, 1, &r.f, 40, &r.sampler);
	assert_false(plx_seq_can_decode(&r.q));
	r.q.window = 2;
	assert_true(plx_seq_can_decode(&r.q));
	r.q.state = PLX_SEQ_DRAIN;
	assert_false(plx_seq_can_decode(&r.q));
}

#define one(t) cmocka_unit_test_setup_teardown(t, rig_open, rig_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    one(test_seq_blocks_do_not_count_the_last_id),
	    one(test_seq_first_chunk_sets_the_slot),
	    one(test_seq_last_prompt_token_samples_then_decodes),
	    one(test_seq_after_a_shared_prefix_tells_recent_ids),
	    one(test_seq_takes_what_fits),
	    one(test_seq_ends),
	    one(test_seq_window_bounds_what_is_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
