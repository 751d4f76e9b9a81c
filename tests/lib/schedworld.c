/* The scheduler and the fake device, and what is checked of each record. */
#include "tests/lib/schedworld.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct world *w = ctx;
	struct world_req *e = &w->e[key];

	(void)device_ns;
	assert_true(e->live && e->ended[sample] == 0 && !e->stopped[sample]);
	assert_int_equal(index, e->n_got[sample]);
	assert_true(index < e->n_want[sample]);
	assert_int_equal(id, e->want[sample][index]);
	assert_true(logprob < 0);
	for (uint32_t i = 0; i < n_top; i++)
		assert_int_equal(top[i].id, ((uint32_t)id + i) % WORLD_VOCAB);
	e->n_got[sample]++;
	e->ended[sample] = (uint8_t)end;
	if (end == PLX_SEQ_END_LENGTH || end == PLX_SEQ_END_CONTEXT)
		assert_int_equal(e->n_got[sample], e->max_new);
	w->n_tokens++;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	struct world *w = ctx;
	struct world_req *e = &w->e[key];

	(void)device_ns;
	assert_true(e->live && e->ended[sample] == 0);
	if (end == PLX_SEQ_END_EOS) {
		assert_int_equal(e->n_got[sample], e->n_want[sample]);
		assert_true(e->n_want[sample] < e->max_new);
	}
	e->ended[sample] = (uint8_t)end;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct world *w = ctx;
	struct world_req *e = &w->e[key];

	assert_true(e->live);
	e->live = false;
	e->n_finals++;
	e->final = *f;
	w->n_done += f->kind == PLX_SCHED_DONE;
	w->n_rejected += f->kind == PLX_SCHED_REJECT;
	w->n_cancelled += f->kind == PLX_SCHED_CANCELLED;
	if (f->kind != PLX_SCHED_DONE)
		return;
	for (uint32_t i = 0; i < e->n_samples; i++) {
		assert_int_not_equal(f->end[i], PLX_SEQ_END_NONE);
		assert_int_equal(f->n_out[i], e->n_got[i]);
		if (e->ended[i])
			assert_int_equal(f->end[i], e->ended[i]);
	}
}

void world_open(struct world *w, uint32_t n_slots, uint32_t n_blocks, uint32_t step_tokens,
                uint32_t step_seqs, uint32_t steps, bool cache)
{
	struct plx_diag d = {""};
	struct plx_sched_sink sink = {w, on_token, on_end, on_final};
	struct plx_dev_limits lim = {.n_slots = n_slots,
	                             .n_blocks = n_blocks,
	                             .block_tokens = WORLD_BT,
	                             .max_seq_blocks = WORLD_CTX / WORLD_BT,
	                             .max_step_tokens = step_tokens,
	                             .max_step_seqs = step_seqs,
	                             .steps_in_flight = steps,
	                             .n_threads = 1};
	struct plx_fake_conf fc = {.n_vocab = WORLD_VOCAB, .eog_id = WORLD_EOG, .eog_every = 64};

	memset(w, 0, sizeof(*w));
	w->conf = (struct plx_sched_conf){.n_keys = WORLD_KEYS,
	                                  .n_slots = n_slots,
	                                  .n_blocks = n_blocks,
	                                  .block_tokens = WORLD_BT,
	                                  .ctx_tokens = WORLD_CTX,
	                                  .max_prompt = WORLD_CTX,
	                                  .max_new = WORLD_NEW,
	                                  .step_tokens = step_tokens,
	                                  .step_seqs = step_seqs,
	                                  .steps_in_flight = steps,
	                                  .window = 1000,
	                                  .pause_ns = 1000,
	                                  .prefix_cache = cache,
	                                  .secret = 99,
	                                  .eog = {WORLD_EOG},
	                                  .n_eog = 1};
	assert_int_equal(plx_arena_open(&w->arena, plx_sched_bytes(&w->conf), &d), 0);
	assert_int_equal(plx_sched_init(&w->s, &w->arena, &w->conf, &sink, &d), 0);
	w->fake = plx_fake_open(&lim, &fc);
	assert_int_equal(plx_queue_open(plx_fake_dev(w->fake), &w->q, &d), 0);
	for (uint32_t i = 0; i < steps; i++)
		w->free_step[w->n_free++] = i;
	w->now = 1;
}

void world_close(struct world *w)
{
	plx_dev_close(plx_fake_dev(w->fake));
	plx_arena_close(&w->arena);
}

struct plx_sched_job world_job(struct world *w, uint32_t key, const int32_t *prompt,
                               uint32_t n_prompt, uint32_t n_samples, uint32_t max_new,
                               uint64_t seed)
{
	struct world_req *e = &w->e[key];
	uint32_t ctx_left = WORLD_CTX - n_prompt;

	memset(e, 0, sizeof(*e));
	memcpy(e->prompt, prompt, 4 * (size_t)n_prompt);
	e->n_prompt = n_prompt;
	e->n_samples = n_samples;
	e->max_new = max_new < ctx_left ? max_new : ctx_left;
	e->seed = seed;
	for (uint32_t i = 0; i < n_samples; i++)
		e->n_want[i] = plx_fake_expect(plx_fake_conf(w->fake), prompt, n_prompt, seed, i,
		                               e->max_new, e->want[i]);
	return (struct plx_sched_job){
	    .ids = e->prompt,
	    .n_ids = n_prompt,
	    .max_new = max_new,
	    .n_samples = n_samples,
	    .sampler = {.top_p = 1, .repeat_penalty = 1.25f, .penalty_window = 64, .seed = seed}};
}

int world_add(struct world *w, uint32_t key, const struct plx_sched_job *job,
              struct plx_sched_admit *out)
{
	int err = plx_sched_add(&w->s, key, job, w->now, out);

	w->e[key].live = err == 0;
	return err;
}

uint32_t world_turn(struct world *w)
{
	uint32_t given = 0, done[WORLD_STEPS];

	while (w->n_free > 0) {
		uint32_t idx = w->free_step[w->n_free - 1];
		struct plx_step *st = plx_queue_step(w->q, idx);
		uint32_t n = plx_sched_fill(&w->s, st, WORLD_ROOM, w->now);

		if (n == 0)
			break;
		given += n;
		if (st->n_seq > w->most_live)
			w->most_live = st->n_seq;
		w->n_free--;
		assert_int_equal(plx_queue_submit(w->q, idx), 0);
	}
	int n = plx_queue_poll(w->q, 0, done, WORLD_STEPS);

	for (int i = 0; i < n; i++) {
		struct plx_step *st = plx_queue_step(w->q, done[i]);

		st->start_ns = w->now;
		w->now += w->step_ns ? w->step_ns * (8 + st->n_tok) : 0;
		st->end_ns = w->now;
		plx_sched_done(&w->s, st, st->status, w->now);
		w->free_step[w->n_free++] = done[i];
	}
	if (plx_sched_wants_reset(&w->s)) {
		assert_int_equal(plx_dev_reset(plx_fake_dev(w->fake)), 0);
		plx_sched_reset_done(&w->s);
	}
	w->now++;
	return given;
}

void world_run_out(struct world *w)
{
	for (uint32_t i = 0; i < 100000 && !plx_sched_idle(&w->s); i++)
		world_turn(w);
	assert_true(plx_sched_idle(&w->s));
	plx_sched_tick(&w->s, w->now);
	plx_sched_check(&w->s);
	assert_int_equal(plx_kv_room(&w->s.kv), w->conf.n_blocks);
	assert_int_equal(w->s.promised, 0);
	assert_int_equal(w->s.load.waiting_tokens, 0);
	assert_int_equal(w->s.load.queued_tokens, 0);
	for (uint32_t t = 0; t < PLX_SCHED_TENANTS; t++)
		assert_int_equal(w->s.tenant_held[t], 0);
}

void world_no_eog(struct world *w)
{
	plx_fake_conf(w->fake)->eog_every = 0;
	w->s.conf.n_eog = 0;
}

void world_prompt(int32_t *p, uint32_t n, int32_t first)
{
	for (uint32_t i = 0; i < n; i++)
		p[i] = (first + (int32_t)i * 3) % (int32_t)WORLD_VOCAB;
}
