/* Drafts: how many are worth it, what look-up guesses and learns, and what the scheduler does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/draft_lookup.h"
#include "tests/lib/guess.h"

/* ---- lengths ---- */

static const float sure[PLX_MAX_DRAFT] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
/* Each half sure, those before it being right. */
static const float half[PLX_MAX_DRAFT] = {0x1p-1f,  0x1p-2f,  0x1p-3f,  0x1p-4f,  0x1p-5f,
                                          0x1p-6f,  0x1p-7f,  0x1p-8f,  0x1p-9f,  0x1p-10f,
                                          0x1p-11f, 0x1p-12f, 0x1p-13f, 0x1p-14f, 0x1p-15f};

static double lengths(struct plx_draft_share *s, uint32_t n, const struct plx_draft_step *step)
{
	return plx_draft_lengths(s, n, step);
}

static void test_draft_lengths_one(void **state)
{
	struct plx_draft_step step = {.n_seq = 1, .max_tok = 100, .plain_ns = 1000};
	struct plx_draft_share s = {.p = sure, .most = 15, .tok_ns = 100};

	(void)state;
	/* Sure ones are all worth it: 16 ids in 2,500 ns. */
	assert_true(lengths(&s, 1, &step) > 6.39 && s.n == 15);
	/* A draft that takes as long as a step is not, however sure. */
	s.tok_ns = 1000;
	assert_true(lengths(&s, 1, &step) == 1 && s.n == 0);
	/* Half sure, at a tenth of a step: 1 + 1/2 + 1/4 in 1,200 is best. */
	s = (struct plx_draft_share){.p = half, .most = 15, .tok_ns = 100};
	assert_true(lengths(&s, 1, &step) > 1.458 && s.n == 2);
	/* What waiting costs is counted, once. */
	step.wait_ns = 700;
	assert_true(lengths(&s, 1, &step) == 1 && s.n == 0);
	step.wait_ns = 100;
	assert_true(lengths(&s, 1, &step) > 1.03 && s.n >= 2);
}

/* The best of all choices, tried one by one. */
static double best_of_all(const float *p, const float *q, double tok_ns, double plain_ns)
{
	double best = 1;

	for (uint32_t i = 0; i <= 15; i++)
		for (uint32_t k = 0; k <= 15; k++) {
			double ids = 2;

			for (uint32_t t = 0; t < i; t++)
				ids += (double)p[t];
			for (uint32_t t = 0; t < k; t++)
				ids += (double)q[t];
			double rate = ids / 2 / ((plain_ns + (i + k) * tok_ns) / plain_ns);

			best = rate > best ? rate : best;
		}
	return best;
}

static void test_draft_lengths_are_the_best(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 300; round++) {
		float p[15], q[15];
		double tok = 5 + round * 3;

		for (uint32_t i = 0; i < 15; i++) {
			p[i] = (float)((round * 7 + i * 3) % 11) / 10 * (i ? p[i - 1] : 1);
			q[i] = (float)((round * 5 + i * i) % 13) / 12 * (i ? q[i - 1] : 1);
		}
		struct plx_draft_share s[2] = {{.p = p, .most = 15, .tok_ns = tok},
		                               {.p = q, .most = 15, .tok_ns = tok}};
		struct plx_draft_step step = {.n_seq = 2, .max_tok = 100, .plain_ns = 1000};
		double got = lengths(s, 2, &step), best = best_of_all(p, q, tok, 1000);

		/* Chances so faint that they are left out make no difference worth a draft. */
		assert_true(got >= best * 0.97 || (got == 1 && best < PLX_DRAFT_WORTH * 1.01));
		assert_true(got <= best + 1e-9);
	}
}

static void test_draft_lengths_keep_bounds(void **state)
{
	struct plx_draft_step step = {.n_seq = 4, .max_tok = 9, .plain_ns = 1000};
	struct plx_draft_share s[4];

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		s[i] = (struct plx_draft_share){.p = half, .most = 15, .tok_ns = 1};
	lengths(s, 4, &step);
	assert_true(s[0].n + s[1].n + s[2].n + s[3].n <= 9 && s[0].n > 0);
	/* Others' objective: no step over 1,010 ns, then none over what it takes anyway. */
	step.max_tok = 100;
	step.limit_ns = 1010;
	lengths(s, 4, &step);
	assert_true(s[0].n + s[1].n + s[2].n + s[3].n <= 10 && s[0].n > 0);
	step.limit_ns = 999;
	assert_true(lengths(s, 4, &step) == 1);
	assert_int_equal(s[0].n + s[1].n + s[2].n + s[3].n, 0);
	/* Equals share evenly what there is. */
	for (uint32_t i = 0; i < 4; i++)
		s[i] = (struct plx_draft_share){.p = sure, .most = 15, .tok_ns = 1};
	step.limit_ns = 1010;
	assert_true(lengths(s, 4, &step) > 3.4);
	assert_true(s[0].n == 3 && s[1].n == 3 && s[2].n == 2 && s[3].n == 2);
}

/* ---- look-up ---- */

#define IDS 200u

static struct plx_arena arena;
static struct plx_lookup look;
static struct plx_drafter by;

static int open_lookup(void **state)
{
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_arena_open(&arena, plx_lookup_bytes(2, IDS), &d), 0);
	assert_int_equal(plx_lookup_init(&look, &arena, 2, IDS), 0);
	by = plx_lookup_drafter(&look);
	by.begin(by.ctx, 0);
	by.begin(by.ctx, 1);
	return 0;
}

static int close_lookup(void **state)
{
	(void)state;
	plx_arena_close(&arena);
	return 0;
}

static void test_lookup_says_what_came_behind(void **state)
{
	/* "5 6 7 8 9 ... 5 6 7": 8 9 1 2, then what was just said. */
	static const int32_t ids[12] = {5, 6, 7, 8, 9, 1, 2, 5, 6, 7};
	static const int32_t want[8] = {8, 9, 1, 2, 5, 6, 7, 8};
	struct plx_draft d = {0};

	(void)state;
	assert_int_equal(by.learn(by.ctx, 1, ids, 10, 10, 4), 4);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 1, ids, 10, 8, 0, &d);
	assert_int_equal(d.n, 0); /* it has not seen all */
	assert_int_equal(by.learn(by.ctx, 1, ids, 10, 10, 100), 6);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 1, ids, 10, 8, 0, &d);
	assert_int_equal(d.n, 8);
	assert_memory_equal(d.id, want, sizeof(want));
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 1, ids, 10, 8, 0.99, &d);
	assert_int_equal(d.n, 0); /* no chance is that good */
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 1, ids, 10, 8, 0, &d);
	/* The longer what matches already, the surer. */
	assert_true(d.p[0] > 0.3f && d.p[0] < d.p[7] && d.p[7] < 1);
	/* The other slot knows nothing of it. */
	by.learn(by.ctx, 0, ids + 7, 3, 3, 100);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 0, ids + 7, 3, 8, 0, &d);
	assert_int_equal(d.n, 0);
	/* A new sequence in the slot. */
	by.begin(by.ctx, 1);
	by.learn(by.ctx, 1, ids + 7, 3, 3, 100);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 1, ids + 7, 3, 8, 0, &d);
	assert_int_equal(d.n, 0);
}

/* A text that repeats its words but never goes on as before: soon nothing is worth guessing. */
static void test_lookup_learns_that_it_is_wrong(void **state)
{
	int32_t ids[IDS];
	struct plx_draft d = {0};
	float first = 0;

	(void)state;
	for (uint32_t i = 0; i < IDS; i++)
		ids[i] = (int32_t)(i % 2 ? 100 + i : 1);
	for (uint32_t n = 1; n <= IDS; n++) {
		by.learn(by.ctx, 0, ids, n, 1, 10);
		plx_draft_begin(&d, false);
		by.propose(by.ctx, 0, ids, n, 1, 0, &d);
		if (n == 3)
			first = d.p[0];
	}
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 0, ids, IDS - 1, 1, 0, &d);
	assert_int_equal(d.n, 0); /* asked about less than it has seen */
	ids[0] = 1;
	by.begin(by.ctx, 1);
	by.learn(by.ctx, 1, ids, IDS - 1, IDS - 1, IDS); /* in a prompt: nothing is judged */
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 1, ids, IDS - 1, 1, 0, &d);
	assert_true(d.n == 1 && first > 0.1f);
	assert_true(d.p[0] < first); /* all sequences together know it too */
	by.begin(by.ctx, 0);
	by.learn(by.ctx, 0, ids, IDS - 1, 1, IDS);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 0, ids, IDS - 1, 1, 0, &d);
	assert_true(d.n == 1 && d.p[0] < 0.05f);
}

static void test_lookup_learns_that_it_is_right(void **state)
{
	int32_t ids[IDS];
	struct plx_draft d = {0};

	(void)state;
	for (uint32_t i = 0; i < IDS; i++)
		ids[i] = (int32_t)(i % 10);
	by.learn(by.ctx, 0, ids, IDS, 1, IDS);
	plx_draft_begin(&d, false);
	by.propose(by.ctx, 0, ids, IDS, 15, 0, &d);
	assert_int_equal(d.n, 15);
	for (uint32_t i = 0; i < 15; i++) {
		assert_int_equal(d.id[i], (IDS + i) % 10);
		assert_true(d.p[i] > 0.97f);
	}
}

/* ---- in the scheduler ---- */

static struct rig g;
static struct guess u;
static const struct rig_shape roomy = {8, 60, 128, 8, 2, true, false, 0};

static void open_rig(const struct rig_shape *h, uint32_t wrong)
{
	rig_open(&g, h);
	u = (struct guess){.wrong = wrong, .most = PLX_MAX_DRAFT, .p = 0.9f};
	guess_open(&u, &g);
}

static void add(uint32_t key, uint32_t n_prompt, uint32_t n_samples, uint32_t max_new)
{
	int32_t p[RIG_CTX];

	rig_prompt(p, n_prompt, (int32_t)key * 31);
	struct plx_sched_job j = rig_job(&g, key, p, n_prompt, n_samples, max_new, 7 + key);

	assert_int_equal(rig_add(&g, key, &j), 0);
}

static void test_drafts_make_fewer_steps(void **state)
{
	uint64_t steps[2];

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		if (i)
			open_rig(&roomy, 0);
		else
			rig_open(&g, &roomy);
		plx_fake_conf(g.fake)->eog_every = 0;
		add(1, 20, 1, 96);
		rig_run_out(&g);
		assert_int_equal(g.r[1].n_got[0], 96);
		steps[i] = g.s.stats.steps;
		rig_close(&g);
	}
	/* Without drafts a step an id; with them a few until times are known, then 16 ids each. */
	assert_int_equal(steps[0], 96);
	assert_in_range(steps[1], 7, 14);
	assert_true(g.s.draft.accepted[0] >= 80);
	assert_int_equal(g.s.draft.accepted[0], g.s.draft.drafted[0]);
}

/* A request's own no: a step an id, and nothing of it was drafted. */
static void test_drafts_can_be_refused(void **state)
{
	int32_t p[RIG_CTX];

	(void)state;
	open_rig(&roomy, 0);
	plx_fake_conf(g.fake)->eog_every = 0;
	rig_prompt(p, 20, 31);
	struct plx_sched_job j = rig_job(&g, 1, p, 20, 1, 96, 8);

	j.no_drafts = true;
	assert_int_equal(rig_add(&g, 1, &j), 0);
	rig_run_out(&g);
	assert_int_equal(g.r[1].n_got[0], 96);
	assert_int_equal(g.s.stats.steps, 96);
	assert_int_equal(g.s.draft.drafted[0], 0);
	rig_close(&g);
}

/* While drafts are out nothing else is given: one step in flight; without drafts there are two. */
static void test_drafts_go_one_step_at_a_time(void **state)
{
	uint32_t most = 0;

	(void)state;
	open_rig(&roomy, 4);
	plx_fake_conf(g.fake)->polls = 2;
	add(1, 20, 1, 90);
	add(2, 30, 2, 90);
	for (uint32_t i = 0; i < 40; i++) {
		rig_turn(&g);
		plx_sched_check(&g.s);
		assert_true(!g.s.draft.out || g.s.n_steps_out <= 1);
	}
	assert_true(g.s.draft.drafted[0] > 50);
	u.most = 0; /* from now on it has no idea */
	for (uint32_t i = 0; i < 40; i++) {
		rig_turn(&g);
		most = g.s.n_steps_out > most ? g.s.n_steps_out : most;
	}
	assert_int_equal(most, 2);
	rig_run_out(&g);
	assert_int_equal(g.n_done, 2);
	rig_close(&g);
}

/* Who says that all is sure and is always wrong costs steps that are long, but no id. */
static void test_drafts_that_are_wrong_change_nothing(void **state)
{
	(void)state;
	open_rig(&roomy, 1);
	add(1, 20, 3, 90);
	add(2, 17, 1, 90);
	rig_run_out(&g);
	assert_int_equal(g.n_done, 2);
	assert_true(g.s.draft.drafted[0] > 16);
	assert_int_equal(g.s.draft.accepted[0], 0);
	rig_close(&g);
}

/* ns in which the device answers n_seq requests of 96 ids, with drafts of which one in `wrong` is
 * wrong; 0: without drafts. */
static uint64_t time_of(uint32_t n_seq, uint64_t tok_ns, uint32_t wrong)
{
	if (wrong)
		open_rig(&roomy, wrong);
	else
		rig_open(&g, &roomy);
	plx_fake_conf(g.fake)->eog_every = 0;
	plx_fake_conf(g.fake)->step_ns = 1000000;
	plx_fake_conf(g.fake)->tok_ns = tok_ns;
	for (uint32_t i = 0; i < n_seq; i++)
		add(i, 16, 1, 96);
	rig_run_out(&g);
	assert_int_equal(g.n_done, n_seq);
	uint64_t ns = g.s.draft.last_end_ns;

	assert_true(!wrong || g.s.draft.drafted[0] > 0);
	rig_close(&g);
	return ns;
}

/*
 * Whoever promises 0.9 and is never right costs at most a fiftieth of the time without drafts,
 * however long the step and its tokens take and however many answer; who is mostly right saves
 * some of it.
 */
static void test_wrong_drafts_take_little(void **state)
{
	static const uint64_t tok_ns[] = {1000, 10000, 50000, 200000};

	(void)state;
	for (uint32_t n = 1; n <= 4; n *= 2)
		for (uint32_t i = 0; i < 4; i++) {
			uint64_t plain = time_of(n, tok_ns[i], 0);
			uint64_t wrong = time_of(n, tok_ns[i], 1);
			uint64_t mostly = time_of(n, tok_ns[i], 8);

			print_message("%u at once, %lu ns a token: %.3f, %.3f\n", n,
			              (unsigned long)tok_ns[i], (double)wrong / (double)plain,
			              (double)mostly / (double)plain);
			assert_true(wrong > plain && wrong <= plain + plain / 50);
			assert_true(mostly < plain);
		}
}

/* Nobody leaves for the sake of drafts: they lie in blocks that are there. */
static void test_drafts_take_no_others_blocks(void **state)
{
	static const struct rig_shape tight = {4, 12, 64, 4, 2, false, false, 0};

	(void)state;
	open_rig(&tight, 8);
	plx_fake_conf(g.fake)->eog_every = 0;
	add(1, 16, 1, 80);
	add(2, 16, 1, 80); /* six blocks each: just enough */
	rig_run_out(&g);
	assert_int_equal(g.s.stats.preempted, 0);
	assert_true(g.s.draft.accepted[0] > 40);
	rig_close(&g);
}

/* Top alternatives of accepted drafts come with their own row; records never exceed the room. */
static void test_drafts_count_records(void **state)
{
	(void)state;
	open_rig(&roomy, 5);
	int32_t p[20];

	rig_prompt(p, 20, 3);
	struct plx_sched_job j = rig_job(&g, 1, p, 20, 2, 60, 5);

	j.n_top = 5;
	assert_int_equal(rig_add(&g, 1, &j), 0);
	for (uint32_t i = 0; i < 100 && !plx_sched_idle(&g.s); i++) {
		uint64_t before = g.n_tokens;
		uint32_t idx = g.free_step[g.n_free - 1], done[2], room = 6 + i % 30;

		if (plx_sched_fill(&g.s, plx_queue_step(g.q, idx), room, g.now++) == 0)
			continue;
		assert_true(g.s.promised <= room);
		assert_int_equal(plx_queue_submit(g.q, idx), 0);
		assert_int_equal(plx_queue_poll(g.q, 0, done, 2), 1);
		uint32_t promised = g.s.promised;

		plx_sched_done(&g.s, plx_queue_step(g.q, idx), 0, g.now);
		assert_true((g.n_tokens - before) * 3 <= promised);
		assert_int_equal(g.s.promised, 0);
	}
	assert_true(g.s.draft.accepted[0] > 10);
	rig_run_out(&g);
	rig_close(&g);
}

/* With an objective no longer than plain steps take, nothing is drafted. */
static void test_drafts_respect_objectives(void **state)
{
	(void)state;
	open_rig(&roomy, 0);
	add(1, 20, 1, 60);
	int32_t p[20];

	rig_prompt(p, 20, 500);
	struct plx_sched_job j = rig_job(&g, 2, p, 20, 1, 60, 5);

	j.itl_slo_ns = 1150000; /* steps take 1,020,000 for two; the margin is 10 % */
	assert_int_equal(rig_add(&g, 2, &j), 0);
	for (uint32_t i = 0; i < 60 && g.r[2].live; i++) {
		rig_turn(&g);
		assert_true(g.s.draft.drafted[0] <= 3 * g.s.stats.steps);
	}
	rig_run_out(&g);
	rig_close(&g);
}

/* The real drafter, over ids that are a hash and repeat nothing: little is run for it. */
static void test_drafts_by_lookup(void **state)
{
	(void)state;
	rig_open(&g, &roomy);
	struct plx_arena a;
	struct plx_diag d = {""};
	struct plx_lookup l;

	assert_int_equal(plx_arena_open(&a, plx_lookup_bytes(8, 256), &d), 0);
	assert_int_equal(plx_lookup_init(&l, &a, 8, 256), 0);
	struct plx_drafter real = plx_lookup_drafter(&l);

	assert_int_equal(plx_sched_add_drafter(&g.s, &real), 0);
	plx_fake_conf(g.fake)->step_ns = 1000000;
	plx_fake_conf(g.fake)->tok_ns = 100000;
	add(1, 50, 2, 90);
	rig_run_out(&g);
	assert_true(g.s.draft.drafted[0] < 10);
	rig_close(&g);
	plx_arena_close(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_draft_lengths_one),
	    cmocka_unit_test(test_draft_lengths_are_the_best),
	    cmocka_unit_test(test_draft_lengths_keep_bounds),
	    cmocka_unit_test_setup_teardown(test_lookup_says_what_came_behind, open_lookup,
	                                    close_lookup),
	    cmocka_unit_test_setup_teardown(test_lookup_learns_that_it_is_wrong, open_lookup,
	                                    close_lookup),
	    cmocka_unit_test_setup_teardown(test_lookup_learns_that_it_is_right, open_lookup,
	                                    close_lookup),
	    cmocka_unit_test(test_drafts_make_fewer_steps),
	    cmocka_unit_test(test_drafts_can_be_refused),
	    cmocka_unit_test(test_drafts_go_one_step_at_a_time),
	    cmocka_unit_test(test_drafts_that_are_wrong_change_nothing),
	    cmocka_unit_test(test_wrong_drafts_take_little),
	    cmocka_unit_test(test_drafts_take_no_others_blocks),
	    cmocka_unit_test(test_drafts_count_records),
	    cmocka_unit_test(test_drafts_respect_objectives),
	    cmocka_unit_test(test_drafts_by_lookup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
