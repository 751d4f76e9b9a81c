/* The scheduler over the fake device; see schedrig.h. */
#include "tests/lib/schedrig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct rig *g = ctx;
	struct rig_req *r = &g->r[key];

	(void)logprob, (void)top, (void)n_top, (void)device_ns;
	assert_true(r->live && r->ended[sample] == 0 && !r->stopped[sample]);
	assert_int_equal(index, r->n_got[sample]);
	assert_true(index < r->n_want[sample]);
	assert_int_equal(id, r->want[sample][index]);
	r->n_got[sample]++;
	r->ended[sample] = (uint8_t)end;
	if (end == PLX_SEQ_END_LENGTH || end == PLX_SEQ_END_CONTEXT)
		assert_int_equal(r->n_got[sample], r->max_new);
	g->n_tokens++;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	struct rig *g = ctx;
	struct rig_req *r = &g->r[key];

	(void)device_ns;
	assert_true(r->live && r->ended[sample] == 0);
	if (end == PLX_SEQ_END_EOS) {
		assert_int_equal(r->n_got[sample], r->n_want[sample]);
		assert_true(r->n_want[sample] < r->max_new);
	}
	r->ended[sample] = (uint8_t)end;
}

/* In words: each time that 160 positions are full, 32 tokens leave. */
static uint32_t left_of(uint32_t token)
{
	uint32_t left = 0;

	while (token - left >= RIG_CTX)
		left += 2 * RIG_BT;
	return left;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct rig *g = ctx;
	struct rig_req *r = &g->r[key];

	assert_true(r->live);
	r->live = false;
	r->final = *f;
	g->n_done += f->kind == PLX_SCHED_DONE;
	g->n_rejected += f->kind == PLX_SCHED_REJECT;
	g->n_cancelled += f->kind == PLX_SCHED_CANCELLED;
	for (uint32_t i = 0; f->kind == PLX_SCHED_DONE && i < r->n_samples; i++) {
		uint32_t n = r->n_prompt + r->n_got[i];

		assert_int_equal(f->n_left[i], r->beyond && n >= 2 ? left_of(n - 2) : 0);
		assert_int_not_equal(f->end[i], PLX_SEQ_END_NONE);
		assert_int_equal(f->n_out[i], r->n_got[i]);
		if (r->ended[i])
			assert_int_equal(f->end[i], r->ended[i]);
	}
}

static void on_copy(void *ctx, const struct plx_block_copy *pairs, uint32_t n)
{
	struct rig *g = ctx;

	g->n_copied += n;
	assert_int_equal(plx_queue_copy_blocks(g->q, g->q, pairs, n), 0);
}

static struct plx_sched_conf conf_of(const struct rig_shape *h)
{
	return (struct plx_sched_conf){.n_keys = RIG_KEYS,
	                               .n_slots = h->n_slots,
	                               .n_blocks = h->n_blocks,
	                               .block_tokens = RIG_BT,
	                               .ctx_tokens = RIG_CTX,
	                               .max_prompt = RIG_TEXT,
	                               .max_new = RIG_NEW,
	                               .can_shift = true,
	                               .step_tokens = h->step_tokens,
	                               .step_seqs = h->step_seqs,
	                               .steps_in_flight = h->steps,
	                               .window = 1000,
	                               .pause_ns = 1000,
	                               .prefix_cache = h->cache,
	                               .n_host_blocks = h->n_host,
	                               .tree_branches = RIG_BRANCHES,
	                               .secret = 99,
	                               .eog = {RIG_EOG},
	                               .n_eog = 1};
}

void rig_open(struct rig *g, const struct rig_shape *h)
{
	struct plx_diag d = {""};
	struct plx_sched_sink sink = {
	    .ctx = g, .token = on_token, .end = on_end, .final = on_final};
	struct plx_dev_limits lim = {.n_slots = h->n_slots,
	                             .n_blocks = h->n_blocks,
	                             .block_tokens = RIG_BT,
	                             .max_seq_blocks = RIG_CTX / RIG_BT,
	                             .max_step_tokens = h->step_tokens,
	                             .max_step_seqs = h->step_seqs,
	                             .steps_in_flight = h->steps,
	                             .n_threads = 1,
	                             .n_host_blocks = h->n_host,
	                             .tree_branches = RIG_BRANCHES};
	struct plx_fake_conf fc = {.n_vocab = RIG_VOCAB, .eog_id = RIG_EOG, .eog_every = 64};

	memset(g, 0, sizeof(*g));
	g->conf = conf_of(h);
	assert_int_equal(plx_arena_open(&g->arena, plx_sched_bytes(&g->conf), &d), 0);
	assert_int_equal(plx_sched_init(&g->s, &g->arena, &g->conf, &sink, &d), 0);
	if (h->copies)
		plx_sched_set_copy(&g->s, g, on_copy);
	g->fake = plx_fake_open(&lim, &fc);
	assert_int_equal(plx_queue_open(plx_fake_dev(g->fake), &g->q, &d), 0);
	for (uint32_t i = 0; i < h->steps; i++)
		g->free_step[g->n_free++] = i;
	g->now = 1;
}

void rig_close(struct rig *g)
{
	plx_dev_close(plx_fake_dev(g->fake));
	plx_arena_close(&g->arena);
}

struct plx_sched_job rig_job(struct rig *g, uint32_t key, const int32_t *prompt, uint32_t n_prompt,
                             uint32_t n_samples, uint32_t max_new, uint64_t seed)
{
	struct rig_req *r = &g->r[key];
	uint32_t ctx_left = n_prompt < RIG_CTX ? RIG_CTX - n_prompt : 0;

	memset(r, 0, sizeof(*r));
	memcpy(r->prompt, prompt, 4 * (size_t)n_prompt);
	r->n_prompt = n_prompt;
	r->n_samples = n_samples;
	r->max_new = max_new < ctx_left ? max_new : ctx_left;
	for (uint32_t i = 0; i < n_samples; i++)
		r->n_want[i] = plx_fake_expect(plx_fake_conf(g->fake), prompt, n_prompt, seed, i,
		                               r->max_new, r->want[i]);
	return (struct plx_sched_job){
	    .ids = r->prompt,
	    .n_ids = n_prompt,
	    .max_new = max_new,
	    .n_samples = n_samples,
	    .sampler = {.top_p = 1, .repeat_penalty = 1.25f, .penalty_window = 64, .seed = seed}};
}

void rig_had(struct rig *g, struct plx_sched_job *j, uint32_t key, uint32_t sample, uint32_t n,
             enum plx_seq_end end)
{
	struct rig_req *r = &g->r[key];

	r->have[sample] =
	    (struct plx_sched_have){.ids = r->want[sample], .n = n, .end = (uint8_t)end};
	r->n_got[sample] = n;
	r->ended[sample] = (uint8_t)end;
	j->have = r->have;
}

void rig_beyond(struct rig *g, struct plx_sched_job *j, uint32_t key, uint32_t max_new)
{
	struct rig_req *r = &g->r[key];
	struct plx_fake_window w = {.window = plx_shift_window(&g->s.shift),
	                            .sinks = PLX_SHIFT_SINKS * RIG_BT,
	                            .drop = plx_shift_step(&g->s.shift)};

	j->beyond = r->beyond = true;
	j->max_new = r->max_new = max_new;
	for (uint32_t i = 0; i < r->n_samples; i++)
		r->n_want[i] =
		    plx_fake_expect_window(plx_fake_conf(g->fake), &w, r->prompt, r->n_prompt,
		                           j->sampler.seed, i, max_new, r->want[i]);
}

int rig_add(struct rig *g, uint32_t key, const struct plx_sched_job *job)
{
	struct plx_sched_admit out;
	int err = plx_sched_add(&g->s, key, job, g->now, &out);

	g->r[key].live = err == 0;
	return err;
}

static uint32_t fill_and_submit(struct rig *g)
{
	uint32_t given = 0;

	while (g->n_free > 0) {
		uint32_t idx = g->free_step[g->n_free - 1];
		uint32_t n = plx_sched_fill(&g->s, plx_queue_step(g->q, idx), 100000, g->now);

		if (n == 0)
			break;
		given += n;
		g->n_free--;
		assert_int_equal(plx_queue_submit(g->q, idx), 0);
	}
	return given;
}

uint32_t rig_turn(struct rig *g)
{
	uint32_t given = fill_and_submit(g), done[RIG_STEPS];
	int n = plx_queue_poll(g->q, 0, done, RIG_STEPS);

	for (int i = 0; i < n; i++) {
		struct plx_step *st = plx_queue_step(g->q, done[i]);

		plx_sched_done(&g->s, st, st->status, g->now);
		g->free_step[g->n_free++] = done[i];
	}
	if (plx_sched_wants_reset(&g->s)) {
		assert_int_equal(plx_dev_reset(plx_fake_dev(g->fake)), 0);
		plx_sched_reset_done(&g->s);
	}
	g->now++;
	return given;
}

void rig_run_out(struct rig *g)
{
	for (uint32_t i = 0; i < 100000 && !plx_sched_idle(&g->s); i++)
		rig_turn(g);
	assert_true(plx_sched_idle(&g->s));
	plx_sched_tick(&g->s, g->now);
	plx_sched_check(&g->s);
	assert_int_equal(plx_kv_room(&g->s.kv), g->conf.n_blocks);
	assert_int_equal(g->s.promised, 0);
	assert_int_equal(g->s.coming, 0);
	assert_int_equal(g->s.load.queued_tokens, 0);
}

void rig_prompt(int32_t *p, uint32_t n, int32_t first)
{
	for (uint32_t i = 0; i < n; i++)
		p[i] = (first + (int32_t)i * 3) % (int32_t)RIG_VOCAB;
}
