/* The scheduler over the tiny model. */
#include "tests/lib/devsched.h"

#include <string.h>

#include "accel/model/layers.h"
#include "fw/base/check.h"

struct devsched ds;

static uint32_t free_step[2], n_free;

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id, float lp,
                     const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	(void)ctx, (void)sample, (void)top, (void)n_top, (void)end, (void)device_ns;
	PLX_CHECK(index < DS_NEW);
	ds.said[key][index] = id;
	ds.logprob[key][index] = lp;
	ds.n_said[key] = index + 1;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
	PLX_CHECK(false); /* answers ignore the end of text */
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	(void)ctx;
	ds.final[key] = *f;
	ds.ended[key] = true;
}

static void on_copy(void *ctx, const struct plx_block_copy *pairs, uint32_t n)
{
	(void)ctx;
	PLX_CHECK(plx_queue_copy_blocks(ds.kit.q, ds.kit.q, pairs, n) == 0);
}

static void open_device(const struct plx_dev_limits *lim)
{
	const char *path = ds.path ? ds.path : "tests/golden/tiny/llama3.gguf";
	struct plx_model *part;

	ds.whole = NULL;
	if (!ds.skip_layers) {
		devkit_open(&ds.kit, path, "auto", lim);
		return;
	}
	PLX_CHECK(plx_model_open(path, &ds.whole, NULL) == 0);
	PLX_CHECK(plx_model_without(ds.whole, ds.skip_layers, &part, NULL) == 0);
	devkit_open_model(&ds.kit, part, "auto", lim);
}

void devsched_open(uint32_t step_tokens, uint32_t n_blocks)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sched_sink sink = {NULL, on_token, on_end, on_final};
	struct plx_sched_conf c = {.n_keys = DS_KEYS,
	                           .n_slots = DS_KEYS,
	                           .n_blocks = n_blocks,
	                           .n_host_blocks = ds.n_host,
	                           .block_tokens = DS_BT,
	                           .ctx_tokens = DS_CTX,
	                           .can_shift = true,
	                           .can_evict = true,
	                           .max_prompt = 600,
	                           .max_new = DS_CTX,
	                           .step_tokens = step_tokens,
	                           .step_seqs = DS_KEYS,
	                           .steps_in_flight = 2,
	                           .window = 1000,
	                           .pause_ns = UINT64_MAX,
	                           .prefix_cache = !ds.no_cache};

	lim.n_slots = DS_KEYS;
	lim.n_blocks = n_blocks;
	lim.n_host_blocks = ds.n_host;
	lim.block_tokens = DS_BT;
	lim.max_seq_blocks = DS_CTX / DS_BT;
	lim.max_step_tokens = step_tokens;
	lim.max_step_seqs = DS_KEYS;
	lim.steps_in_flight = 2;
	lim.n_threads = ds.n_threads ? ds.n_threads : 1;
	lim.early_layers = ds.early_layers;
	open_device(&lim);
	PLX_CHECK(plx_arena_open(&ds.arena, plx_sched_bytes(&c), NULL) == 0);
	PLX_CHECK(plx_sched_init(&ds.sched, &ds.arena, &c, &sink, NULL) == 0);
	plx_sched_set_copy(&ds.sched, NULL, on_copy);
	free_step[0] = 0;
	free_step[1] = 1;
	n_free = 2;
	memset(ds.ended, 0, sizeof(ds.ended));
	memset(ds.n_said, 0, sizeof(ds.n_said));
}

void devsched_close(void)
{
	plx_sched_check(&ds.sched);
	PLX_CHECK(plx_kv_room(&ds.sched.kv) == ds.sched.conf.n_blocks);
	devkit_close(&ds.kit);
	plx_model_close(ds.whole);
	plx_arena_close(&ds.arena);
}

struct plx_sched_job devsched_job(const int32_t *ids, uint32_t n)
{
	struct plx_sched_job j = {
	    .ids = ids, .n_ids = n, .max_new = DS_NEW, .n_samples = 1, .ignore_eos = true};

	j.sampler = (struct plx_sampler){.top_p = 1, .repeat_penalty = 1};
	return j;
}

void devsched_add(uint32_t key, const struct plx_sched_job *j)
{
	struct plx_sched_admit out;

	ds.ended[key] = false;
	ds.n_said[key] = 0;
	PLX_CHECK(plx_sched_add(&ds.sched, key, j, 1, &out) == 0);
}

bool devsched_turn(void)
{
	if (plx_sched_idle(&ds.sched))
		return false;
	while (n_free > 0 &&
	       plx_sched_fill(&ds.sched, plx_queue_step(ds.kit.q, free_step[n_free - 1]), 1000, 1))
		PLX_CHECK(plx_queue_submit(ds.kit.q, free_step[--n_free]) == 0);
	uint32_t idx = devkit_wait(&ds.kit);
	struct plx_step *st = plx_queue_step(ds.kit.q, idx);

	PLX_CHECK(st->status == 0);
	plx_sched_done(&ds.sched, st, 0, 1);
	plx_sched_check(&ds.sched);
	free_step[n_free++] = idx;
	return true;
}

void devsched_run(bool preempts)
{
	for (uint32_t n = 0; devsched_turn();)
		for (uint32_t v = 0; preempts && v < DS_KEYS && n < 6; v++) {
			const struct plx_seq *q = &ds.sched.seq[v];

			if (q->state == PLX_SEQ_RUN && !q->leaving && q->n_blocks > 0 &&
			    n++ % 2 == 0)
				plx_sched_preempt(&ds.sched, v);
		}
}
