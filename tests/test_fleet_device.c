/*
 * The fleet over two CPU devices: the same ids and the same bits of their log-probabilities as one
 * device gives, whether they share the work, split it into prompts and answers with copied blocks,
 * have too little memory, or one of them is lost in the middle.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/fleet.h"
#include "fw/base/err.h"
#include "tests/lib/devkit.h"

#define N_REQ     8u
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

struct shape {
	uint32_t n_dev;
	uint8_t role[2];
	uint32_t n_blocks, n_host, step_tokens, threads;
	uint32_t lose_at; /* steps after which the first device is reset; 0: never */
};

static struct answer got[N_REQ], want[N_REQ];
static int32_t prompt[N_REQ][CTX];
static const uint32_t n_prompt[N_REQ] = {1, 15, 16, 17, 90, 120, 100, 33};
static struct devkit kit[2];
static struct plx_fleet fleet;
static struct plx_arena arena;

static uint32_t samples_of(uint32_t r)
{
	return r == 6 ? N_SAMPLES : 1;
}

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct answer *a = &got[key];

	(void)ctx, (void)end, (void)device_ns, (void)top, (void)n_top;
	assert_int_equal(index, a->n[sample]);
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
	assert_false(got[key].final);
	got[key].final = true;
	got[key].how = *f;
}

static void on_import(void *ctx, uint32_t dev, uint32_t from, const struct plx_block_copy *pairs,
                      uint32_t n)
{
	(void)ctx;
	assert_int_equal(plx_queue_copy_blocks(kit[dev].q, kit[from].q, pairs, n), 0);
}

static void on_copy(void *ctx, uint32_t dev, const struct plx_block_copy *pairs, uint32_t n)
{
	on_import(ctx, dev, dev, pairs, n);
}

static struct plx_dev_limits limits_of(const struct shape *h)
{
	struct plx_dev_limits lim = devkit_limits();

	lim.n_slots = lim.max_step_seqs = 10;
	lim.n_blocks = h->n_blocks;
	lim.n_host_blocks = h->n_host;
	lim.block_tokens = BT;
	lim.max_seq_blocks = CTX / BT;
	lim.max_step_tokens = h->step_tokens;
	lim.n_threads = h->threads;
	return lim;
}

static struct plx_fleet_dev_conf conf_of(const struct shape *h, uint32_t i)
{
	struct plx_dev_info info;

	assert_int_equal(plx_dev_info_get(kit[i].dev, &info), 0);
	return (struct plx_fleet_dev_conf){.role = h->role[i],
	                                   .kind = 1,
	                                   .layout = info.kv_layout_hash,
	                                   .sched = {.n_keys = N_REQ,
	                                             .n_slots = 10,
	                                             .n_blocks = h->n_blocks,
	                                             .n_host_blocks = h->n_host,
	                                             .block_tokens = BT,
	                                             .ctx_tokens = CTX,
	                                             .max_prompt = CTX,
	                                             .max_new = CTX,
	                                             .step_tokens = h->step_tokens,
	                                             .step_seqs = 10,
	                                             .steps_in_flight = 2,
	                                             .window = 1000,
	                                             .pause_ns = UINT64_MAX,
	                                             .prefix_cache = true}};
}

static void shape_open(const struct shape *h)
{
	struct plx_dev_limits lim = limits_of(h);
	struct plx_sched_sink sink = {.token = on_token, .end = on_end, .final = on_final};
	struct plx_fleet_io io = {NULL, on_copy, on_import};
	struct plx_fleet_conf c = {
	    .n_dev = h->n_dev, .n_samples = N_SAMPLES, .probe_steps = 4, .probe_keys = 1};
	struct plx_diag d = {""};

	for (uint32_t i = 0; i < h->n_dev; i++) {
		devkit_open(&kit[i], "tests/golden/tiny/llama3.gguf", "auto", &lim);
		c.dev[i] = conf_of(h, i);
	}
	assert_int_equal(plx_arena_open(&arena, plx_fleet_bytes(&c), &d), 0);
	assert_int_equal(plx_fleet_init(&fleet, &arena, &c, &sink, &io, &d), 0);
	memset(got, 0, sizeof(got));
}

static void shape_close(const struct shape *h)
{
	plx_fleet_check(&fleet);
	for (uint32_t i = 0; i < h->n_dev; i++) {
		assert_int_equal(plx_kv_room(&fleet.dev[i].sched.kv), h->n_blocks);
		devkit_close(&kit[i]);
	}
	plx_arena_close(&arena);
}

static uint64_t now_ns;

static void turn(uint32_t i, uint32_t free_step[2], uint32_t *n_free)
{
	uint32_t done[2];

	while (*n_free > 0) {
		uint32_t idx = free_step[*n_free - 1];

		if (!plx_fleet_fill(&fleet, i, plx_queue_step(kit[i].q, idx), 10000, now_ns))
			break;
		int e = plx_queue_submit(kit[i].q, idx);

		if (e) { /* as the accel stage answers */
			plx_fleet_done(&fleet, i, plx_queue_step(kit[i].q, idx), e, now_ns);
			break;
		}
		--*n_free;
	}
	int n = plx_queue_poll(kit[i].q, 200, done, 2);

	for (int k = 0; k < n; k++) {
		struct plx_step *st = plx_queue_step(kit[i].q, done[k]);

		free_step[(*n_free)++] = done[k];
		plx_fleet_done(&fleet, i, st, st->status, now_ns);
	}
	if (plx_fleet_wants_reset(&fleet, i, now_ns))
		plx_fleet_reset_done(&fleet, i, plx_dev_reset(kit[i].dev), now_ns);
}

static void run_all(const struct shape *h)
{
	uint32_t free_step[2][2] = {{0, 1}, {0, 1}}, n_free[2] = {2, 2};
	bool lost = false;

	while (!plx_fleet_idle(&fleet)) {
		now_ns++;
		for (uint32_t i = 0; i < h->n_dev; i++)
			turn(i, free_step[i], &n_free[i]);
		/* A device that resets itself: its steps come back as LOST. */
		if (h->lose_at && !lost && fleet.dev[0].sched.stats.steps >= h->lose_at &&
		    fleet.dev[0].sched.n_steps_out > 0) {
			lost = true;
			assert_int_equal(plx_dev_reset(kit[0].dev), 0);
		}
	}
	assert_true(lost == (h->lose_at > 0));
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
	                              .n_samples = samples_of(r),
	                              .flags = PLX_SEQF_DETERMINISTIC,
	                              .sampler = s};
}

static void run_shape(const struct shape *h)
{
	struct plx_sched_admit out;

	shape_open(h);
	for (uint32_t r = 0; r < N_REQ; r++) {
		struct plx_sched_job j = job_of(r);

		for (uint32_t i = 0; i < n_prompt[r]; i++)
			prompt[r][i] = (int32_t)(i < 70 ? 3 + (i * 29) % 60 : (i * (7 + r)) % 64);
		assert_int_equal(plx_fleet_add(&fleet, r, &j, ++now_ns, &out), 0);
	}
	run_all(h);
	shape_close(h);
}

static void same_as_one_device(const struct shape *h)
{
	static const struct shape one = {1, {0}, 100, 0, 128, 1, 0};

	if (!want[0].final) {
		run_shape(&one);
		memcpy(want, got, sizeof(want));
	}
	run_shape(h);
	for (uint32_t r = 0; r < N_REQ; r++)
		for (uint32_t s = 0; s < samples_of(r); s++) {
			assert_int_equal(got[r].how.kind, PLX_SCHED_DONE);
			assert_int_equal(got[r].n[s], N_NEW);
			assert_memory_equal(got[r].id[s], want[r].id[s], sizeof(want[r].id[s]));
			assert_memory_equal(got[r].logprob[s], want[r].logprob[s],
			                    sizeof(want[r].logprob[s]));
		}
}

static void test_fleet_device_shares(void **state)
{
	static const struct shape h = {2, {0, 0}, 100, 0, 64, 1, 0};

	(void)state;
	same_as_one_device(&h);
	assert_true(fleet.dev[0].sched.stats.steps > 0 && fleet.dev[1].sched.stats.steps > 0);
}

static void test_fleet_device_splits(void **state)
{
	static const struct shape h[] = {
	    {2, {PLX_FLEET_PREFILL, PLX_FLEET_DECODE}, 100, 0, 64, 1, 0},
	    {2, {PLX_FLEET_PREFILL, PLX_FLEET_DECODE}, 100, 8, 16, 2, 0},
	    {2, {PLX_FLEET_DECODE, PLX_FLEET_PREFILL}, 18, 0, 64, 1, 0},
	    {2, {PLX_FLEET_PREFILL, PLX_FLEET_DECODE}, 18, 30, 33, 2, 0},
	};

	(void)state;
	for (uint32_t i = 0; i < sizeof(h) / sizeof(h[0]); i++) {
		same_as_one_device(&h[i]);
		assert_int_equal(fleet.stats.handed, N_REQ);
		assert_true(fleet.stats.imported > N_REQ / 2);
	}
}

static void test_fleet_device_is_lost(void **state)
{
	static const struct shape h[] = {
	    {2, {0, 0}, 100, 0, 64, 1, 9},
	    {2, {PLX_FLEET_PREFILL, PLX_FLEET_DECODE}, 100, 0, 32, 1, 7},
	    {2, {PLX_FLEET_DECODE, PLX_FLEET_PREFILL}, 100, 8, 32, 2, 12},
	};

	(void)state;
	for (uint32_t i = 0; i < sizeof(h) / sizeof(h[0]); i++) {
		same_as_one_device(&h[i]);
		assert_int_equal(fleet.stats.failed, 1);
		assert_int_equal(fleet.stats.returned, 1);
		assert_true(fleet.stats.rescued > 0);
		assert_int_equal(fleet.stats.dropped, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fleet_device_shares),
	    cmocka_unit_test(test_fleet_device_splits),
	    cmocka_unit_test(test_fleet_device_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
