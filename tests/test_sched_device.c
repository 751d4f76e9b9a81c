/*
 * The scheduler over the CPU device: the same ids and the same bits of their log-probabilities,
 * alone or in a batch, at any chunking, with and without the prefix cache, in samples that share
 * their prompt, on one thread or more, preempted, swapped to the host and back, going on from what
 * was said elsewhere, where the oldest tokens leave the context, and with drafts, right and wrong.
 * Each test runs once for each type of KV.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/preempt.h"
#include "tests/lib/devkit.h"

#define N_REQ     7u
#define N_SAMPLES 3u
#define N_NEW     24u
#define CTX       256u
#define BT        16u

struct answer {
	uint32_t n[N_SAMPLES];
	int32_t id[N_SAMPLES][N_NEW];
	float logprob[N_SAMPLES][N_NEW];
	bool final;
	struct plx_sched_final how;
};

static struct answer got[N_REQ], want[N_REQ];
static bool sparse; /* two of three requests say how much attention reads */
static int32_t prompt[N_REQ][CTX];
static const uint32_t n_prompt[N_REQ] = {1, 15, 16, 17, 90, 120, 100};

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct answer *a = &got[key];

	(void)ctx, (void)end, (void)device_ns;
	assert_int_equal(index, a->n[sample]);
	assert_int_equal(n_top, 2);
	assert_true(top[0].logprob >= top[1].logprob);
	a->id[sample][index] = id;
	a->logprob[sample][index] = logprob;
	a->n[sample]++;
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
	got[key].final = true;
	got[key].how = *f;
}

struct shape {
	uint32_t n_slots, step_tokens, step_seqs, steps, threads;
	bool cache, together;
	uint32_t n_blocks; /* 0: 100 */
	uint32_t n_host;
	uint32_t have; /* ids that each sample had before; at most N_NEW / 2 */
	uint32_t ctx;  /* tokens of a context that texts may outgrow; 0: CTX, and none does */
};

/* Prompts of which some begin alike. */
static void make_prompts(void)
{
	for (uint32_t r = 0; r < N_REQ; r++)
		for (uint32_t i = 0; i < n_prompt[r]; i++)
			prompt[r][i] = (int32_t)(i < 70 ? 3 + (i * 29) % 60 : (i * (7 + r)) % 64);
}

static struct plx_sched_job job_of(uint32_t r)
{
	struct plx_sampler s = {.temperature = r % 2 ? 0.0f : 1.25f,
	                        .top_p = 0.95f,
	                        .repeat_penalty = 1.25f,
	                        .penalty_window = 32,
	                        .seed = 100 + r};

	return (struct plx_sched_job){.ids = prompt[r],
	                              .n_ids = n_prompt[r],
	                              .max_new = N_NEW,
	                              .n_samples = r == 6 ? N_SAMPLES : 1,
	                              .n_top = 2,
	                              .sampler = s};
}

static uint32_t types[] = {PLX_KV_F16, PLX_KV_Q8, PLX_KV_Q4};
static uint32_t kv_type; /* of the test that runs */

static struct devkit kit;
static struct plx_sched sched;
static struct plx_arena arena;

static void on_copy(void *ctx, const struct plx_block_copy *pairs, uint32_t n)
{
	(void)ctx;
	assert_int_equal(plx_queue_copy_blocks(kit.q, kit.q, pairs, n), 0);
}

/* Drafts what was said without drafts, but for one id in one_in. */
static uint32_t one_in, n_guess; /* one_in 0: no drafts */
static bool trees;

static void guess_begin(void *ctx, uint32_t slot)
{
	(void)ctx, (void)slot;
}

static uint32_t guess_learn(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n,
                            uint32_t n_prompt_ids, uint32_t most)
{
	(void)ctx, (void)slot, (void)ids, (void)n, (void)n_prompt_ids, (void)most;
	return 0;
}

static void guess_propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                          double least, struct plx_draft *out)
{
	const struct plx_seq *q = &sched.seq[slot];

	int32_t up = -1;

	(void)ctx, (void)ids, (void)n, (void)least;
	for (uint32_t i = q->n_out, k = 0; i < N_NEW && k < most && up < 15; i++, k++) {
		int32_t id = want[q->ent].id[q->sample][i];
		bool wrong = n_guess++ % one_in == one_in - 1;
		int32_t at = plx_draft_add(out, up, wrong ? (id + 1) % 64 : id, 0.9f);

		/* Where it is wrong the right one stands in a branch, from which it goes on. */
		if (out->tree && (wrong || k % 4 == 0)) {
			int32_t to = plx_draft_add(out, up, wrong ? id : (id + 2) % 64, 0.09f);

			at = wrong ? to : at;
		}
		up = at;
	}
}

static void use_drafts(void)
{
	struct plx_drafter by = {
	    .name = "guess", .begin = guess_begin, .learn = guess_learn, .propose = guess_propose};

	assert_int_equal(plx_sched_add_drafter(&sched, &by), 0);
}

/* Times of a device whose steps take long and tokens little, so that drafts are worth it. */
static void set_times(struct plx_step *st)
{
	st->start_ns = 1000000 * st->id;
	st->end_ns = st->start_ns + 900000 + st->n_tok * 1000;
}

static uint32_t pool_of(const struct shape *h)
{
	return h->n_blocks ? h->n_blocks : 100;
}

static void shape_open(const struct shape *h)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sched_sink sink = {NULL, on_token, on_end, on_final};
	struct plx_diag d = {""};
	struct plx_sched_conf c = {.n_keys = N_REQ,
	                           .n_slots = h->n_slots,
	                           .n_blocks = pool_of(h),
	                           .n_host_blocks = h->n_host,
	                           .block_tokens = BT,
	                           .ctx_tokens = h->ctx ? h->ctx : CTX,
	                           .can_shift = h->ctx != 0,
	                           .max_prompt = CTX,
	                           .max_new = CTX,
	                           .step_tokens = h->step_tokens,
	                           .step_seqs = h->step_seqs,
	                           .steps_in_flight = h->steps,
	                           .window = 1000,
	                           .pause_ns = UINT64_MAX,
	                           .tree_branches = trees ? 5 : 0,
	                           .prefix_cache = h->cache};

	lim.tree_branches = c.tree_branches;
	lim.n_slots = h->n_slots;
	lim.n_blocks = pool_of(h);
	lim.n_host_blocks = h->n_host;
	lim.block_tokens = BT;
	lim.max_seq_blocks = c.ctx_tokens / BT;
	lim.max_step_tokens = h->step_tokens;
	lim.max_step_seqs = h->step_seqs;
	lim.steps_in_flight = h->steps;
	lim.n_threads = h->threads;
	lim.kv_type = kv_type;
	lim.sparse_own = sparse;
	devkit_open(&kit, "tests/golden/tiny/llama3.gguf", "auto", &lim);
	assert_int_equal(plx_arena_open(&arena, plx_sched_bytes(&c), &d), 0);
	assert_int_equal(plx_sched_init(&sched, &arena, &c, &sink, &d), 0);
	if (one_in)
		use_drafts();
	if (h->n_host > 0 || h->ctx)
		plx_sched_set_copy(&sched, NULL, on_copy);
	memset(got, 0, sizeof(got));
}

static void shape_close(const struct shape *h)
{
	plx_sched_check(&sched);
	assert_int_equal(plx_kv_room(&sched.kv), pool_of(h));
	devkit_close(&kit);
	plx_arena_close(&arena);
}

/* Beside those that have to: one now and then. */
static void preempt_one(const struct shape *h, uint32_t n)
{
	const struct plx_seq *q = &sched.seq[n % h->n_slots];

	if (h->n_blocks && n % 5 == 0 && q->state == PLX_SEQ_RUN && !q->leaving && q->n_blocks > 0)
		plx_sched_preempt(&sched, n % h->n_slots);
}

static void run_all(const struct shape *h)
{
	uint32_t free_step[8], n_free = 0, n = 0;

	for (uint32_t i = 0; i < h->steps; i++)
		free_step[n_free++] = i;
	while (!plx_sched_idle(&sched)) {
		while (n_free > 0) {
			uint32_t idx = free_step[n_free - 1];

			if (!plx_sched_fill(&sched, plx_queue_step(kit.q, idx), 10000, 1))
				break;
			n_free--;
			assert_int_equal(plx_queue_submit(kit.q, idx), 0);
		}
		uint32_t idx = devkit_wait(&kit);
		struct plx_step *st = plx_queue_step(kit.q, idx);

		assert_int_equal(st->status, 0);
		if (one_in)
			set_times(st);
		plx_sched_done(&sched, st, 0, 1);
		for (uint32_t i = 0; i < sched.conf.n_slots;
		     i++) /* right or wrong, they are drafted */
			sched.seq[i].purse_ns = 1e9;
		preempt_one(h, n++);
		free_step[n_free++] = idx;
	}
}

/* The first ids are what they were; only the others are to come. */
static void give_have(struct plx_sched_job *j, uint32_t r, uint32_t n)
{
	static struct plx_sched_have have[N_REQ][N_SAMPLES];

	for (uint32_t i = 0; n > 0 && i < j->n_samples; i++) {
		have[r][i] = (struct plx_sched_have){.ids = want[r].id[i], .n = n + i};
		got[r].n[i] = n + i;
		memcpy(got[r].id[i], want[r].id[i], (n + i) * sizeof(want[r].id[i][0]));
		memcpy(got[r].logprob[i], want[r].logprob[i],
		       (n + i) * sizeof(want[r].logprob[i][0]));
		j->have = have[r];
	}
}

static void run_shape(const struct shape *h)
{
	struct plx_sched_admit out;

	shape_open(h);
	for (uint32_t r = 0; r < N_REQ; r++) {
		struct plx_sched_job j = job_of(r);

		j.beyond = h->ctx != 0;
		if (sparse && r % 3 != 0) {
			j.flags |= PLX_SEQF_SPARSE;
			j.sparse_mass = 100 * r;
			j.sparse_chunks = r % 2;
		}
		give_have(&j, r, h->have);
		assert_int_equal(plx_sched_add(&sched, r, &j, 1, &out), 0);
		if (!h->together)
			run_all(h);
	}
	run_all(h);
	shape_close(h);
	for (uint32_t r = 0; r < N_REQ; r++) {
		assert_true(got[r].final);
		assert_int_equal(got[r].how.kind, PLX_SCHED_DONE);
	}
}

static void compare(void)
{
	for (uint32_t r = 0; r < N_REQ; r++)
		for (uint32_t s = 0; s < (r == 6 ? N_SAMPLES : 1); s++) {
			assert_int_equal(got[r].n[s], N_NEW);
			assert_memory_equal(got[r].id[s], want[r].id[s], sizeof(want[r].id[s]));
			assert_memory_equal(got[r].logprob[s], want[r].logprob[s],
			                    sizeof(want[r].logprob[s]));
		}
}

/* Sparse rows beside dense ones: groups of a prompt stay whole however steps are cut, and blocks
 * that others made are found where the choice was the same. */
static void test_sched_device_sparse_rows_in_any_shape(void **state)
{
	static const struct shape alone = {3, 128, 3, 2, 1, false, false, 0, 0, 0, 0};
	static const struct shape shapes[] = {{9, 128, 9, 2, 1, false, true, 0, 0, 0, 0},
	                                      {4, 33, 3, 2, 2, true, false, 0, 0, 0, 0},
	                                      {9, 64, 9, 2, 2, true, true, 0, 0, 0, 0}};

	kv_type = *(uint32_t *)*state;
	make_prompts();
	sparse = true;
	run_shape(&alone);
	memcpy(want, got, sizeof(want));
	for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		run_shape(&shapes[i]);
		compare();
	}
	sparse = false;
}

static void test_sched_device_same_bits_in_any_shape(void **state)
{
	/* slots, tokens, sequences, steps, threads, cache, together */
	static const struct shape alone = {3, 128, 3, 2, 1, false, false, 0, 0, 0, 0};
	static const struct shape shapes[] = {
	    {3, 5, 3, 2, 1, false, false, 0, 0, 0, 0},  {9, 128, 9, 2, 1, false, true, 0, 0, 0, 0},
	    {9, 16, 9, 2, 1, true, true, 0, 0, 0, 0},   {9, 7, 4, 3, 1, true, true, 0, 0, 0, 0},
	    {4, 33, 3, 2, 2, true, false, 0, 0, 0, 0},  {9, 64, 9, 2, 3, true, true, 0, 0, 0, 0},
	    {3, 128, 3, 2, 1, true, false, 0, 0, 0, 0},
	};

	kv_type = *(uint32_t *)*state;
	make_prompts();
	run_shape(&alone);
	memcpy(want, got, sizeof(want));
	/* Samples differ from each other, so that the comparison says something. */
	assert_memory_not_equal(want[6].id[0], want[6].id[1], sizeof(want[6].id[0]));
	for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		run_shape(&shapes[i]);
		compare();
		if (shapes[i].cache && !shapes[i].together)
			assert_int_equal(got[5].how.cached_tokens, 64);
	}
}

/* With far too little memory: the same bits, whoever had to leave, and wherever its blocks were. */
static void test_sched_device_same_bits_when_preempted(void **state)
{
	static const struct shape alone = {3, 128, 3, 2, 1, false, false, 0, 0, 0, 0};
	static const struct shape shapes[] = {
	    {9, 64, 9, 2, 1, false, true, 14, 0, 0, 0}, {9, 33, 9, 3, 2, true, true, 13, 0, 0, 0},
	    {9, 64, 9, 2, 1, true, true, 14, 40, 0, 0}, {9, 16, 9, 2, 2, true, true, 12, 20, 0, 0},
	    {9, 64, 9, 2, 1, true, true, 14, 40, 9, 0},
	};

	uint64_t n_out = 0;

	kv_type = *(uint32_t *)*state;
	make_prompts();
	run_shape(&alone);
	memcpy(want, got, sizeof(want));
	for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		run_shape(&shapes[i]);
		compare();
		assert_true(sched.stats.preempted > 3);
		n_out += sched.tier.n_out;
	}
	assert_true(n_out > 0);
}

static void test_sched_device_goes_on_from_what_was_said(void **state)
{
	static const struct shape alone = {3, 128, 3, 2, 1, false, false, 0, 0, 0, 0};
	static const struct shape shapes[] = {
	    {3, 128, 3, 2, 1, false, false, 0, 0, 11, 0},
	    {9, 16, 9, 2, 2, true, true, 0, 0, 1, 0},
	    {9, 64, 9, 2, 1, true, true, 0, 8, 7, 0},
	};

	kv_type = *(uint32_t *)*state;
	make_prompts();
	run_shape(&alone);
	memcpy(want, got, sizeof(want));
	for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		run_shape(&shapes[i]);
		compare();
	}
}

/* Contexts of 80 tokens: a quarter leaves at 80, 96 ... */
static void test_sched_device_same_bits_beyond_the_context(void **state)
{
	static const struct shape alone = {3, 128, 3, 2, 1, false, false, 0, 0, 0, 80};
	static const struct shape shapes[] = {
	    {9, 7, 4, 3, 1, true, true, 0, 0, 0, 80},
	    {4, 33, 3, 2, 2, true, false, 0, 0, 0, 80},
	    {9, 64, 9, 2, 3, true, true, 13, 0, 0, 80},
	    {9, 64, 9, 2, 1, false, true, 14, 0, 0, 80},
	    {9, 16, 9, 2, 2, true, true, 13, 20, 0, 80},
	    {9, 64, 9, 2, 1, true, true, 15, 8, 7, 80},
	};
	uint64_t preempted = 0;

	kv_type = *(uint32_t *)*state;
	make_prompts();
	run_shape(&alone);
	memcpy(want, got, sizeof(want));
	assert_int_equal(got[4].how.n_left[0], 48); /* 113 were run: at 80, 96 and 112 */
	assert_int_equal(got[3].how.n_left[0], 0);
	for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		run_shape(&shapes[i]);
		compare();
		assert_int_equal(got[5].how.n_left[0], 64);
		assert_true(sched.stats.shifts >= 3 + 4 + 3 * 3);
		preempted += sched.stats.preempted;
	}
	assert_true(preempted > 8);
}

/* Drafts verified at any temperature, under penalties, in samples, preempted, on the host. */
static void test_sched_device_same_bits_with_drafts(void **state)
{
	static const struct shape alone[2] = {{3, 128, 3, 2, 1, false, false, 0, 0, 0, 0},
	                                      {3, 128, 3, 2, 1, false, false, 0, 0, 0, 80}};
	static const struct shape shapes[] = {
	    {3, 128, 3, 2, 1, false, false, 0, 0, 0, 0}, {3, 128, 3, 2, 2, true, false, 0, 0, 0, 0},
	    {9, 128, 9, 2, 1, true, true, 0, 0, 0, 0},   {9, 32, 9, 2, 2, false, true, 0, 0, 0, 0},
	    {9, 64, 9, 2, 1, true, true, 24, 40, 0, 0},  {9, 64, 9, 3, 2, true, true, 22, 0, 9, 0},
	    {9, 64, 9, 2, 1, true, true, 24, 8, 0, 80},
	};
	static const uint32_t wrong[] = {1000, 3, 4, 1, 5, 6, 7};
	uint64_t accepted = 0, branches = 0;

	kv_type = *(uint32_t *)*state;
	make_prompts();
	for (uint32_t i = 0; i < 2 * sizeof(shapes) / sizeof(shapes[0]); i++) {
		const struct shape *h = &shapes[i / 2];

		one_in = 0;
		trees = i % 2;
		if (!trees)
			run_shape(&alone[h->ctx != 0]);
		if (!trees)
			memcpy(want, got, sizeof(want));
		one_in = wrong[i / 2];
		run_shape(h);
		compare();
		assert_true(trees || sched.draft.drafted[0] > 20);
		assert_true(trees || one_in == 1 || sched.draft.accepted[0] > 10);
		assert_true(trees || one_in > 1 || sched.draft.accepted[0] == 0);
		accepted += trees ? sched.draft.accepted[0] : 0;
		branches += sched.draft.branches;
	}
	one_in = 0;
	trees = false;
	assert_true(accepted > 400 && branches > 100);
}

int main(void)
{
#define OF_EACH_TYPE(f)                                                                            \
	{#f ": f16", f, NULL, NULL, &types[0]}, {#f ": q8", f, NULL, NULL, &types[1]},             \
	{                                                                                          \
#f ": q4", f, NULL, NULL, &types[2]                                                \
	}
	const struct CMUnitTest tests[] = {
	    OF_EACH_TYPE(test_sched_device_sparse_rows_in_any_shape),
	    OF_EACH_TYPE(test_sched_device_same_bits_in_any_shape),
	    OF_EACH_TYPE(test_sched_device_same_bits_when_preempted),
	    OF_EACH_TYPE(test_sched_device_goes_on_from_what_was_said),
	    OF_EACH_TYPE(test_sched_device_same_bits_beyond_the_context),
	    OF_EACH_TYPE(test_sched_device_same_bits_with_drafts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
