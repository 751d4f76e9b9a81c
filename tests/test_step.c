/* What a step may hold: each way to be wrong is refused, and leaves the slots as they were. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "accel/step.h"
#include "fw/base/err.h"

#define N_SLOTS 4u

static struct plx_step_checker check;
static struct plx_step *rec;

static int setup(void **state)
{
	(void)state;
	check.lim = (struct plx_dev_limits){.n_slots = N_SLOTS,
	                                    .n_blocks = 32,
	                                    .block_tokens = 16,
	                                    .max_seq_blocks = 8,
	                                    .max_step_tokens = 64,
	                                    .max_step_seqs = 3,
	                                    .steps_in_flight = 2,
	                                    .n_threads = 1};
	check.caps = PLX_CAP_LAST | PLX_CAP_DRAFT | PLX_CAP_LOGPROBS;
	check.n_vocab = 100;
	plx_step_layout_make(&check.lim, &check.lay);
	check.slot = calloc(N_SLOTS, sizeof(*check.slot));
	check.undo = calloc(plx_step_undo_entries(&check.lim, &check.lay), sizeof(*check.undo));
	rec = aligned_alloc(64, check.lay.record_bytes);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(check.slot);
	free(check.undo);
	free(rec);
	return 0;
}

/* A good step: slots 1 and 2 set, three tokens of one and a decode with two drafts of the other. */
static void good(void)
{
	struct plx_step_seq *q = plx_step_seqs(rec);
	struct plx_step_delta *e = plx_step_deltas(rec);

	memset(rec, 0, check.lay.record_bytes);
	plx_step_format(rec, &check.lay);
	q = plx_step_seqs(rec);
	e = plx_step_deltas(rec);
	rec->n_sampler = 1;
	*plx_step_samplers(rec) = (struct plx_sampler){.top_p = 1, .repeat_penalty = 1};
	e[0] = (struct plx_step_delta){PLX_DELTA_SLOT_SET, 1, 0, 0, {rec->sampler_off}};
	e[1] = (struct plx_step_delta){PLX_DELTA_BLOCK, 1, 0, 7, {0}};
	e[2] = (struct plx_step_delta){PLX_DELTA_SLOT_SET, 2, 0, 0, {rec->sampler_off}};
	e[3] = (struct plx_step_delta){PLX_DELTA_BLOCK, 2, 0, 8, {0}};
	e[4] = (struct plx_step_delta){PLX_DELTA_BLOCK, 2, 1, 31, {0}};
	rec->n_delta = 5;
	q[0] = (struct plx_step_seq){.slot = 1, .first_tok = 0, .n_tok = 3};
	q[1] = (struct plx_step_seq){.slot = 2, .first_tok = 3, .n_tok = 3, .n_draft = 2};
	rec->n_seq = 2;
	for (uint32_t i = 0; i < 6; i++) {
		uint32_t pos = i < 3 ? i : 20 + i;

		plx_step_toks(rec)[i] = (struct plx_step_tok){
		    .id = (int32_t)(i * 19), .pos = {pos, 0, 0}, .parent = -1};
		plx_step_toks(rec)[i].flags = i >= 3 ? PLX_TOKF_LOGITS : 0;
	}
	rec->n_tok = 6;
}

static struct plx_step_tok *tok(uint32_t i)
{
	return &plx_step_toks(rec)[i];
}

static struct plx_step_seq *seq(uint32_t i)
{
	return &plx_step_seqs(rec)[i];
}

static struct plx_step_delta *delta(uint32_t i)
{
	return &plx_step_deltas(rec)[i];
}

static void test_step_good_is_accepted(void **state)
{
	(void)state;
	plx_step_checker_reset(&check);
	good();
	assert_int_equal(plx_step_accept(&check, rec), 0);
	assert_true(check.slot[1].live && check.slot[2].live && !check.slot[3].live);
	assert_int_equal(check.slot[2].n_blocks, 2);
	assert_int_equal(check.slot[2].next_pos, 26);
	assert_true(check.slot[2].has_last && !check.slot[1].has_last);
	/* The next one: LAST is known in slot 2 now, and slot 1 goes away. */
	good();
	rec->n_delta = 1;
	*delta(0) = (struct plx_step_delta){.kind = PLX_DELTA_SLOT_CLEAR, .slot = 1};
	rec->n_seq = 1;
	rec->n_tok = 1;
	*seq(0) = (struct plx_step_seq){.slot = 2, .n_tok = 1};
	*tok(0) = (struct plx_step_tok){
	    .id = PLX_TOK_LAST, .pos = {26, 26, 26}, .parent = -1, .flags = PLX_TOKF_LOGITS};
	tok(0)->pos[0] = 28; /* nothing ran at 26 and 27 */
	assert_int_equal(plx_step_accept(&check, rec), PLX_E_INVAL);
	tok(0)->pos[0] = 26;
	assert_int_equal(plx_step_accept(&check, rec), 0);
	assert_false(check.slot[1].live);
	/* Deltas alone. */
	rec->n_tok = 0;
	rec->n_seq = 0;
	delta(0)->slot = 2;
	assert_int_equal(plx_step_accept(&check, rec), 0);
	assert_int_equal(plx_step_accept(&check, rec), PLX_E_INVAL);
}

/* One way to spoil the good step. */
struct spoil {
	const char *what;
	uint32_t *field;
	uint32_t value;
	int err;
};

static int spoiled(uint32_t *field, uint32_t value)
{
	good();
	*field = value;
	plx_step_checker_reset(&check);
	int err = plx_step_accept(&check, rec);

	for (uint32_t i = 0; i < N_SLOTS; i++) {
		assert_false(check.slot[i].live);
		assert_int_equal(check.slot[i].n_blocks, 0);
		assert_false(check.slot[i].has_last);
	}
	return err;
}

static uint32_t *id_field(uint32_t i)
{
	return (uint32_t *)(void *)&tok(i)->id;
}

/* Few layers: all of a step's sequences or none. */
static void test_step_ends_early_for_all(void **state)
{
	uint32_t caps = check.caps;

	(void)state;
	check.caps |= PLX_CAP_EARLY;
	check.lim.early_layers = 1;
	assert_int_equal(spoiled(&seq(0)->flags, PLX_SEQF_EARLY), PLX_E_INVAL);
	assert_int_equal(spoiled(&seq(1)->flags, PLX_SEQF_EARLY), PLX_E_INVAL);
	good();
	for (uint32_t i = 0; i < rec->n_seq; i++)
		seq(i)->flags = PLX_SEQF_EARLY;
	assert_int_equal(plx_step_accept(&check, rec), 0);
	plx_step_checker_reset(&check);
	check.caps = caps;
	check.lim.early_layers = 0;
}

static void test_step_bad_is_refused(void **state)
{
	const struct spoil list[] = {
	    {"abi", &rec->abi_version, PLX_ACCEL_ABI + 1, PLX_E_INVAL},
	    {"record size", &rec->record_bytes, 64, PLX_E_INVAL},
	    {"token offset", &rec->tok_off, 0, PLX_E_INVAL},
	    {"sequence offset", &rec->seq_off, 0, PLX_E_INVAL},
	    {"delta offset", &rec->delta_off, UINT32_MAX, PLX_E_INVAL},
	    {"sampler offset", &rec->sampler_off, 0, PLX_E_INVAL},
	    {"out offset", &rec->out_off, 88, PLX_E_INVAL},
	    {"max deltas", &rec->max_deltas, UINT32_MAX, PLX_E_INVAL},
	    {"too many tokens", &rec->n_tok, 65, PLX_E_INVAL},
	    {"token without sequence", &rec->n_tok, 7, PLX_E_INVAL},
	    {"sequence past the tokens", &rec->n_tok, 5, PLX_E_INVAL},
	    {"no tokens", &rec->n_tok, 0, PLX_E_INVAL},
	    {"too many sequences", &rec->n_seq, 4, PLX_E_INVAL},
	    {"no sequences", &rec->n_seq, 0, PLX_E_INVAL},
	    {"too many deltas", &rec->n_delta, UINT32_MAX, PLX_E_INVAL},
	    {"slot not set", &rec->n_delta, 0, PLX_E_INVAL},
	    {"block missing", &rec->n_delta, 4, PLX_E_INVAL},
	    {"too many samplers", &rec->n_sampler, 4, PLX_E_INVAL},
	    {"sampler unused", &rec->n_sampler, 0, PLX_E_INVAL},
	    {"delta kind", &delta(1)->kind, 9, PLX_E_INVAL},
	    {"delta slot", &delta(1)->slot, N_SLOTS, PLX_E_INVAL},
	    {"delta block", &delta(1)->block, 32, PLX_E_INVAL},
	    {"delta hole", &delta(1)->index, 1, PLX_E_INVAL},
	    {"delta table end", &delta(4)->index, 8, PLX_E_INVAL},
	    {"slot set twice", &delta(2)->slot, 1, PLX_E_INVAL},
	    {"clear of an empty slot", &delta(0)->kind, PLX_DELTA_SLOT_CLEAR, PLX_E_INVAL},
	    {"sampler elsewhere", &delta(0)->sampler_off, 0, PLX_E_INVAL},
	    {"sampler askew", &delta(0)->sampler_off, rec->sampler_off + 4, PLX_E_INVAL},
	    {"sequence slot", &seq(0)->slot, N_SLOTS, PLX_E_INVAL},
	    {"slot twice", &seq(1)->slot, 1, PLX_E_INVAL},
	    {"empty slot", &seq(0)->slot, 3, PLX_E_INVAL},
	    {"gap", &seq(0)->first_tok, 1, PLX_E_INVAL},
	    {"no token in a sequence", &seq(0)->n_tok, 0, PLX_E_INVAL},
	    {"sequence too long", &seq(1)->n_tok, UINT32_MAX, PLX_E_INVAL},
	    {"drafts without a token", &seq(1)->n_draft, 3, PLX_E_INVAL},
	    {"too many drafts", &seq(1)->n_draft, 16, PLX_E_INVAL},
	    {"fewer drafts than rows", &seq(1)->n_draft, 1, PLX_E_INVAL},
	    {"too many alternatives", &seq(0)->n_top, 21, PLX_E_INVAL},
	    {"sequence flags", &seq(0)->flags, 8, PLX_E_INVAL},
	    {"observe", &seq(0)->flags, PLX_SEQF_OBSERVE, PLX_E_UNSUPPORTED},
	    {"keep", &delta(1)->kind, PLX_DELTA_KEEP, PLX_E_UNSUPPORTED},
	    {"sparse attention", &seq(0)->flags, PLX_SEQF_SPARSE, PLX_E_UNSUPPORTED},
	    {"few layers", &seq(0)->flags, PLX_SEQF_EARLY, PLX_E_UNSUPPORTED},
	    {"adapter", &seq(0)->adapter, 1, PLX_E_UNSUPPORTED},
	    {"mask", &seq(0)->mask_off, 88, PLX_E_UNSUPPORTED},
	    {"id", id_field(0), 100, PLX_E_INVAL},
	    {"last in the middle", id_field(1), (uint32_t)PLX_TOK_LAST, PLX_E_INVAL},
	    {"last of nothing", id_field(0), (uint32_t)PLX_TOK_LAST, PLX_E_INVAL},
	    {"embedding row", id_field(0), (uint32_t)PLX_TOK_EMBED(0), PLX_E_UNSUPPORTED},
	    {"position jumps", &tok(1)->pos[0], 2, PLX_E_INVAL},
	    {"position past the blocks", &tok(3)->pos[0], 30, PLX_E_INVAL},
	    {"position wraps", &tok(3)->pos[0], UINT32_MAX, PLX_E_INVAL},
	    {"tree", (uint32_t *)(void *)&tok(2)->parent, 0, PLX_E_UNSUPPORTED},
	    {"token flags", &tok(0)->flags, 16, PLX_E_INVAL},
	    {"told samples", &tok(0)->flags, 8, PLX_E_UNSUPPORTED},
	    {"score", &tok(0)->flags, PLX_TOKF_SCORE, PLX_E_UNSUPPORTED},
	    {"hidden row", &tok(2)->flags, PLX_TOKF_HIDDEN, PLX_E_UNSUPPORTED},
	    {"logits in the middle", &tok(1)->flags, PLX_TOKF_LOGITS, PLX_E_INVAL},
	    {"draft without logits", &tok(4)->flags, 0, PLX_E_INVAL},
	};

	(void)state;
	for (uint32_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		int err = spoiled(list[i].field, list[i].value);

		if (err != list[i].err)
			fail_msg("%s: %s", list[i].what, plx_err_name(err));
	}
}

/* Scores: of ids that there are, in sequences that sample nothing. */
static void test_step_scores_are_checked(void **state)
{
	(void)state;
	check.caps |= PLX_CAP_SCORE;
	assert_int_equal(spoiled(&tok(4)->flags, PLX_TOKF_SCORE | PLX_TOKF_LOGITS), PLX_E_INVAL);
	good();
	tok(0)->flags = PLX_TOKF_SCORE;
	plx_step_checker_reset(&check);
	assert_int_equal(plx_step_accept(&check, rec), 0);
	tok(0)->pos[1] = 100; /* the vocabulary ends at 99 */
	plx_step_checker_reset(&check);
	assert_int_equal(plx_step_accept(&check, rec), PLX_E_INVAL);
	check.caps &= ~(uint32_t)PLX_CAP_SCORE;
}

static int sampler_error(struct plx_sampler p)
{
	good();
	*plx_step_samplers(rec) = p;
	plx_step_checker_reset(&check);
	return plx_step_accept(&check, rec);
}

static void test_step_samplers_are_checked(void **state)
{
	const struct plx_sampler ok = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
	struct plx_sampler p = ok;

	(void)state;
	assert_int_equal(sampler_error(ok), 0);
	p.temperature = -1;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p.temperature = NAN;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p = ok;
	p.top_p = 0;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p.top_p = 1.5f;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p = ok;
	p.min_p = -0.1f;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p = ok;
	p.repeat_penalty = 0;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p = ok;
	p.n_recent = PLX_PENALTY_WINDOW + 1;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p = ok;
	p.penalty_window = PLX_PENALTY_WINDOW + 1;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p = ok;
	p.n_recent = 2;
	p.recent[1] = 100;
	assert_int_equal(sampler_error(p), PLX_E_INVAL);
	p.recent[1] = 99;
	assert_int_equal(sampler_error(p), 0);
}

/* Slot 1 with a table of `told` blocks and n tokens run; then a step that shifts it. */
static void ready_to_shift(uint32_t told, uint32_t n)
{
	plx_step_checker_reset(&check);
	check.caps |= PLX_CAP_SHIFT;
	good();
	rec->n_delta = 1;
	for (uint32_t i = 0; i < told; i++)
		*delta(rec->n_delta++) = (struct plx_step_delta){
		    .kind = PLX_DELTA_BLOCK, .slot = 1, .index = i, .block = i};
	rec->n_seq = n > 0;
	rec->n_tok = n > 0;
	*seq(0) = (struct plx_step_seq){.slot = 1, .n_tok = 1};
	tok(0)->pos[0] = n - 1;
	assert_int_equal(plx_step_accept(&check, rec), 0);
	rec->n_tok = rec->n_seq = 0;
	rec->n_delta = 1;
	*delta(0) = (struct plx_step_delta){
	    .kind = PLX_DELTA_SHIFT, .slot = 1, .index = 1, .block = 2, .n_blocks = 6};
}

static int shift_error(uint32_t index, uint32_t block, uint32_t n_blocks)
{
	struct plx_slot_shadow was = check.slot[1];

	delta(0)->index = index;
	delta(0)->block = block;
	delta(0)->n_blocks = n_blocks;
	int err = plx_step_accept(&check, rec);

	assert_true(err == 0 || memcmp(&was, &check.slot[1], sizeof(was)) == 0);
	return err;
}

static void test_step_shift_moves_the_next_position(void **state)
{
	(void)state;
	ready_to_shift(8, 128);
	assert_int_equal(plx_step_accept(&check, rec), 0);
	assert_int_equal(check.slot[1].n_blocks, 6);
	assert_int_equal(check.slot[1].next_pos, 96);
	good();
	rec->n_delta = 0;
	rec->n_seq = rec->n_tok = 1;
	*seq(0) = (struct plx_step_seq){.slot = 1, .n_tok = 1};
	tok(0)->pos[0] = 97;
	assert_int_equal(plx_step_accept(&check, rec), PLX_E_INVAL);
	tok(0)->pos[0] = 96;
	assert_int_equal(plx_step_accept(&check, rec), PLX_E_INVAL); /* no block */
	rec->n_delta = 1;
	*delta(0) =
	    (struct plx_step_delta){.kind = PLX_DELTA_BLOCK, .slot = 1, .index = 6, .block = 1};
	assert_int_equal(plx_step_accept(&check, rec), 0);
	/* A slot that holds others' blocks and has run nothing. */
	ready_to_shift(6, 0);
	assert_int_equal(plx_step_accept(&check, rec), 0);
	assert_int_equal(check.slot[1].next_pos, 0);
	check.caps &= ~(uint32_t)PLX_CAP_SHIFT;
}

static void test_step_bad_shift_is_refused(void **state)
{
	(void)state;
	ready_to_shift(8, 128);
	assert_int_equal(shift_error(1, 0, 8), PLX_E_INVAL);
	assert_int_equal(shift_error(6, 2, 6), PLX_E_INVAL); /* nothing moves */
	assert_int_equal(shift_error(1, 2, 9), PLX_E_INVAL); /* more than there are */
	assert_int_equal(shift_error(1, 3, 6), PLX_E_INVAL); /* more than a table has */
	assert_int_equal(shift_error(1, UINT32_MAX, 6), PLX_E_INVAL);
	assert_int_equal(shift_error(UINT32_MAX, 2, 6), PLX_E_INVAL);
	assert_int_equal(shift_error(1, 2, 5), PLX_E_INVAL); /* a token would have no block */
	*delta(1) = *delta(0);
	rec->n_delta = 2;
	delta(1)->n_blocks = 4;
	assert_int_equal(shift_error(1, 2, 6), PLX_E_INVAL); /* twice */
	rec->n_delta = 1;
	delta(0)->slot = 2;
	assert_int_equal(shift_error(1, 2, 6), PLX_E_INVAL); /* not live */
	delta(0)->slot = 1;
	check.caps &= ~(uint32_t)PLX_CAP_SHIFT;
	assert_int_equal(shift_error(1, 2, 6), PLX_E_UNSUPPORTED);
	check.caps |= PLX_CAP_SHIFT;
	ready_to_shift(8, 48);
	assert_int_equal(shift_error(1, 2, 6), PLX_E_INVAL); /* no token behind those that left */
	check.caps &= ~(uint32_t)PLX_CAP_SHIFT;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_step_good_is_accepted),
	    cmocka_unit_test(test_step_shift_moves_the_next_position),
	    cmocka_unit_test(test_step_bad_shift_is_refused),
	    cmocka_unit_test(test_step_ends_early_for_all),
	    cmocka_unit_test(test_step_bad_is_refused),
	    cmocka_unit_test(test_step_scores_are_checked),
	    cmocka_unit_test(test_step_samplers_are_checked),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
