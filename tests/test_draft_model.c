/*
 * A draft model beside the model: what the scheduler says with drafts of one are the ids and the
 * bits that it says without, whether the draft model is the same one (then all it says is right,
 * greedy or sampled, under penalties too), another one, has little memory, or fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "tests/lib/draftdev.h"

#define N_REQ 5u
#define N_NEW 48u
#define CTX   256u
#define BT    16u

static const char *const file = "tests/golden/tiny/llama3.gguf";
static const char *const other_file = "tests/golden/tiny/qwen2.gguf"; /* as many ids */

struct answer {
	uint32_t n;
	int32_t id[N_NEW];
	float logprob[N_NEW];
	bool final;
};

static struct answer got[N_REQ], want[N_REQ];
static const uint32_t n_prompt[N_REQ] = {1, 16, 17, 90, 120};
static int32_t prompt[N_REQ][CTX];

static struct devkit kit;
static struct draftdev dd;
static struct plx_sched sched;
static struct plx_arena arena;

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	(void)ctx, (void)sample, (void)top, (void)n_top, (void)end, (void)device_ns;
	assert_int_equal(index, got[key].n);
	got[key].id[index] = id;
	got[key].logprob[index] = logprob;
	got[key].n++;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
	fail();
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	(void)ctx;
	assert_int_equal(f->kind, PLX_SCHED_DONE);
	got[key].final = true;
}

static void open_all(bool cache)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sched_sink sink = {NULL, on_token, on_end, on_final};
	struct plx_diag d = {""};
	struct plx_sched_conf c = {.n_keys = N_REQ,
	                           .n_slots = N_REQ,
	                           .n_blocks = 100,
	                           .block_tokens = BT,
	                           .ctx_tokens = CTX,
	                           .max_prompt = CTX,
	                           .max_new = CTX,
	                           .step_tokens = 128,
	                           .step_seqs = N_REQ,
	                           .steps_in_flight = 2,
	                           .window = 1000,
	                           .pause_ns = UINT64_MAX,
	                           .prefix_cache = cache};

	lim.n_slots = lim.max_step_seqs = N_REQ;
	lim.n_blocks = 100;
	lim.max_seq_blocks = CTX / BT;
	lim.max_step_tokens = 128;
	devkit_open(&kit, file, "auto", &lim);
	assert_int_equal(plx_arena_open(&arena, plx_sched_bytes(&c), &d), 0);
	assert_int_equal(plx_sched_init(&sched, &arena, &c, &sink, &d), 0);
	memset(got, 0, sizeof(got));
}

static void open_drafts(const char *path, uint32_t n_blocks)
{
	struct plx_dev_limits lim = kit.lim;

	lim.n_blocks = n_blocks;
	lim.max_step_tokens = 50; /* prompts take several steps */
	draftdev_open(&dd, path, &lim);
	dd.step_ns = 20000;
	struct plx_drafter by = plx_dmodel_drafter(&dd.m);

	assert_int_equal(plx_sched_add_drafter(&sched, &by), 0);
}

static void close_all(bool drafts)
{
	plx_sched_check(&sched);
	assert_int_equal(plx_kv_room(&sched.kv), 100);
	if (drafts) {
		while (draftdev_turn(&dd)) /* guesses that nobody waits for */
			;
		assert_int_equal(dd.m.n_free, dd.m.conf.n_blocks);
		assert_int_equal(dd.m.n_asked, 0);
		draftdev_close(&dd);
	}
	devkit_close(&kit);
	plx_arena_close(&arena);
}

/* A device whose steps take long and tokens little, and drafts next to nothing. */
static void set_times(struct plx_step *st)
{
	static uint64_t now;

	st->start_ns = now + 10000;
	now = st->end_ns = st->start_ns + 900000 + st->n_tok * 1000;
}

static void add(uint32_t r)
{
	struct plx_sched_admit out;
	struct plx_sched_job j = {.ids = prompt[r],
	                          .n_ids = n_prompt[r],
	                          .max_new = N_NEW,
	                          .n_samples = 1,
	                          .ignore_eos = true,
	                          .sampler = {.temperature = r % 2 ? 0.0f : 1.25f,
	                                      .top_p = 0.95f,
	                                      .repeat_penalty = r > 2 ? 1.25f : 1.0f,
	                                      .penalty_window = r > 2 ? 32 : 0,
	                                      .seed = 100 + r}};

	assert_int_equal(plx_sched_add(&sched, r, &j, 1, &out), 0);
}

static void run(bool drafts)
{
	uint32_t free_step[2] = {0, 1}, n_free = 2;

	while (!plx_sched_idle(&sched)) {
		while (n_free > 0) {
			uint32_t idx = free_step[n_free - 1];

			if (!plx_sched_fill(&sched, plx_queue_step(kit.q, idx), 10000, 1))
				break;
			n_free--;
			assert_int_equal(plx_queue_submit(kit.q, idx), 0);
		}
		/* Whatever drafts wait for comes without the other device. */
		if (drafts && (n_free == 2 || sched.stats.steps % 3 == 0) && !draftdev_turn(&dd))
			assert_true(n_free < 2);
		if (n_free == 2)
			continue;
		uint32_t idx = devkit_wait(&kit);
		struct plx_step *st = plx_queue_step(kit.q, idx);

		assert_int_equal(st->status, 0);
		set_times(st);
		plx_sched_done(&sched, st, 0, 1);
		free_step[n_free++] = idx;
	}
}

static void plain(void)
{
	for (uint32_t r = 0; r < N_REQ; r++)
		for (uint32_t i = 0; i < n_prompt[r]; i++)
			prompt[r][i] = (int32_t)(i < 40 ? 3 + (i * 29) % 60 : (i * (7 + r)) % 64);
	open_all(false);
	for (uint32_t r = 0; r < N_REQ; r++)
		add(r);
	run(false);
	close_all(false);
	memcpy(want, got, sizeof(want));
}

static void compare(void)
{
	for (uint32_t r = 0; r < N_REQ; r++) {
		assert_true(got[r].final);
		assert_int_equal(got[r].n, N_NEW);
		assert_memory_equal(got[r].id, want[r].id, sizeof(want[r].id));
		assert_memory_equal(got[r].logprob, want[r].logprob, sizeof(want[r].logprob));
	}
}

/* Two models that agree say the same, with whatever sampler: only ends cut drafts off. */
static void test_draft_model_that_is_the_model_is_always_right(void **state)
{
	(void)state;
	plain();
	for (uint32_t together = 0; together < 2; together++) {
		open_all(together);
		open_drafts(file, 100);
		for (uint32_t r = 0; r < N_REQ; r++) {
			add(r);
			if (!together)
				run(true);
		}
		run(true);
		uint64_t drafted = sched.draft.drafted[PLX_DRAFT_MODEL];

		assert_true(drafted > N_REQ * N_NEW / 2);
		assert_int_equal(sched.draft.accepted[PLX_DRAFT_MODEL], drafted);
		close_all(true);
		compare();
	}
}

static void test_draft_model_that_is_another_changes_nothing(void **state)
{
	(void)state;
	plain();
	open_all(true);
	open_drafts(other_file, 100);
	for (uint32_t r = 0; r < N_REQ; r++)
		add(r);
	run(true);
	/* It guessed, was judged, and is not believed. */
	assert_true(dd.m.next_id > 0 && dd.m.all.n_any > 8);
	assert_true(dd.m.all.hits_any / dd.m.all.n_any < 0.5f);
	close_all(true);
	compare();
}

/* Blocks for some of the sequences alone, the longest of which never fits. */
static void test_draft_model_with_little_memory(void **state)
{
	(void)state;
	plain();
	open_all(false);
	open_drafts(file, 12);
	for (uint32_t r = 0; r < N_REQ; r++)
		add(r);
	run(true);
	uint64_t drafted = sched.draft.drafted[PLX_DRAFT_MODEL];

	/* Those that found blocks were asked, and were right. */
	assert_true(drafted > 0 && dd.m.next_id > 10);
	assert_int_equal(sched.draft.accepted[PLX_DRAFT_MODEL], drafted);
	close_all(true);
	compare();
}

static void test_draft_model_whose_device_fails(void **state)
{
	(void)state;
	plain();
	open_all(false);
	open_drafts(file, 100);
	dd.fail = PLX_E_FAULT;
	for (uint32_t r = 0; r < N_REQ; r++)
		add(r);
	run(true);
	assert_true(dd.m.lost);
	assert_int_equal(sched.draft.drafted[PLX_DRAFT_MODEL], 0);
	close_all(true);
	compare();
}

/* Requests end while their guesses are under way; whoever comes next finds its slot clean. */
static void test_draft_model_when_requests_are_cancelled(void **state)
{
	uint32_t free_step[2] = {0, 1}, n_free = 2, n = 0;

	(void)state;
	plain();
	open_all(false);
	open_drafts(file, 100);
	for (uint32_t round = 0; round < 30; round++) {
		add(round % N_REQ);
		for (uint32_t turn = 0; turn < 14 + round % 9; turn++) {
			while (n_free > 0 &&
			       plx_sched_fill(&sched, plx_queue_step(kit.q, free_step[n_free - 1]),
			                      10000, 1)) {
				n_free--;
				assert_int_equal(plx_queue_submit(kit.q, free_step[n_free]), 0);
			}
			if (n_free == 2 || n++ % 3 == 0)
				draftdev_turn(&dd);
			if (n_free == 2)
				continue;
			uint32_t idx = devkit_wait(&kit);

			set_times(plx_queue_step(kit.q, idx));
			plx_sched_done(&sched, plx_queue_step(kit.q, idx), 0, 1);
			free_step[n_free++] = idx;
		}
		if (!got[round % N_REQ].final)
			plx_sched_stop(&sched, round % N_REQ, 0, 1);
		while (n_free < 2) {
			uint32_t idx = devkit_wait(&kit);

			set_times(plx_queue_step(kit.q, idx));
			plx_sched_done(&sched, plx_queue_step(kit.q, idx), 0, 1);
			free_step[n_free++] = idx;
		}
		uint32_t r = round % N_REQ;

		assert_true(got[r].final && got[r].n <= N_NEW);
		assert_memory_equal(got[r].id, want[r].id, got[r].n * sizeof(got[r].id[0]));
		memset(&got[r], 0, sizeof(got[r]));
	}
	assert_true(sched.draft.drafted[PLX_DRAFT_MODEL] > 30);
	close_all(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_draft_model_that_is_the_model_is_always_right),
	    cmocka_unit_test(test_draft_model_that_is_another_changes_nothing),
	    cmocka_unit_test(test_draft_model_with_little_memory),
	    cmocka_unit_test(test_draft_model_whose_device_fails),
	    cmocka_unit_test(test_draft_model_when_requests_are_cancelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
