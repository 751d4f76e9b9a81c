/*
 * The scheduler against the fake device: exact ids whatever the batch, chunk, sharing or order, and
 * exactly one end for each request, through a great many random operations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/sched.h"
#include "fw/base/err.h"
#include "tests/lib/fake_device.h"

#define BT       16u
#define CTX      160u
#define KEYS     24u
#define SAMPLES  4u
#define MAX_NEW  40u
#define EOG      7u
#define N_VOCAB  1000u
#define ROOM     100000u
#define MAX_STEP 4u

/* What the test knows of a request. */
struct expect {
	bool live;
	int32_t prompt[CTX];
	uint32_t n_prompt, n_samples, max_new;
	uint64_t seed;
	int32_t want[SAMPLES][MAX_NEW];
	uint32_t n_want[SAMPLES]; /* ids until the first eog or max_new */
	uint32_t n_got[SAMPLES];
	uint8_t ended[SAMPLES]; /* end that a token or end record brought */
	bool stopped[SAMPLES];
	uint32_t n_finals;
	struct plx_sched_final final;
};

struct world {
	struct plx_arena arena;
	struct plx_sched_conf conf;
	struct plx_sched s;
	struct plx_fake *fake;
	struct plx_queue *q;
	struct expect e[KEYS];
	uint32_t free_step[MAX_STEP];
	uint32_t n_free;
	uint64_t now;
	uint64_t step_ns; /* an eighth of a step, and a token of it; 0: steps take no time */
	uint64_t n_tokens, n_done, n_rejected, n_cancelled;
	uint32_t most_live; /* sequences in one step */
};

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct world *w = ctx;
	struct expect *e = &w->e[key];

	(void)device_ns;
	assert_true(e->live && e->ended[sample] == 0 && !e->stopped[sample]);
	assert_int_equal(index, e->n_got[sample]);
	assert_true(index < e->n_want[sample]);
	assert_int_equal(id, e->want[sample][index]);
	assert_true(logprob < 0);
	for (uint32_t i = 0; i < n_top; i++)
		assert_int_equal(top[i].id, ((uint32_t)id + i) % N_VOCAB);
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
	struct expect *e = &w->e[key];

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
	struct expect *e = &w->e[key];

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

static void world_open(struct world *w, uint32_t n_slots, uint32_t n_blocks, uint32_t step_tokens,
                       uint32_t step_seqs, uint32_t steps, bool cache)
{
	struct plx_diag d = {""};
	struct plx_sched_sink sink = {w, on_token, on_end, on_final};
	struct plx_dev_limits lim = {.n_slots = n_slots,
	                             .n_blocks = n_blocks,
	                             .block_tokens = BT,
	                             .max_seq_blocks = CTX / BT,
	                             .max_step_tokens = step_tokens,
	                             .max_step_seqs = step_seqs,
	                             .steps_in_flight = steps,
	                             .n_threads = 1};
	struct plx_fake_conf fc = {.n_vocab = N_VOCAB, .eog_id = EOG, .eog_every = 64};

	memset(w, 0, sizeof(*w));
	w->conf = (struct plx_sched_conf){.n_keys = KEYS,
	                                  .n_slots = n_slots,
	                                  .n_blocks = n_blocks,
	                                  .block_tokens = BT,
	                                  .ctx_tokens = CTX,
	                                  .max_prompt = CTX,
	                                  .max_new = MAX_NEW,
	                                  .step_tokens = step_tokens,
	                                  .step_seqs = step_seqs,
	                                  .steps_in_flight = steps,
	                                  .window = 1000,
	                                  .pause_ns = 1000,
	                                  .prefix_cache = cache,
	                                  .secret = 99,
	                                  .eog = {EOG},
	                                  .n_eog = 1};
	assert_int_equal(plx_arena_open(&w->arena, plx_sched_bytes(&w->conf), &d), 0);
	assert_int_equal(plx_sched_init(&w->s, &w->arena, &w->conf, &sink, &d), 0);
	w->fake = plx_fake_open(&lim, &fc);
	assert_int_equal(plx_queue_open(plx_fake_dev(w->fake), &w->q, &d), 0);
	for (uint32_t i = 0; i < steps; i++)
		w->free_step[w->n_free++] = i;
	w->now = 1;
}

static void world_close(struct world *w)
{
	plx_dev_close(plx_fake_dev(w->fake));
	plx_arena_close(&w->arena);
}

static struct plx_sched_job job_for(struct world *w, uint32_t key, const int32_t *prompt,
                                    uint32_t n_prompt, uint32_t n_samples, uint32_t max_new,
                                    uint64_t seed)
{
	struct expect *e = &w->e[key];
	uint32_t ctx_left = CTX - n_prompt;

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

static int add(struct world *w, uint32_t key, const struct plx_sched_job *job,
               struct plx_sched_admit *out)
{
	int err = plx_sched_add(&w->s, key, job, w->now, out);

	w->e[key].live = err == 0;
	return err;
}

/* One turn: fill and submit what is free, then collect. Returns the tokens given. */
static uint32_t turn(struct world *w)
{
	uint32_t given = 0, done[MAX_STEP];

	while (w->n_free > 0) {
		uint32_t idx = w->free_step[w->n_free - 1];
		struct plx_step *st = plx_queue_step(w->q, idx);
		uint32_t n = plx_sched_fill(&w->s, st, ROOM, w->now);

		if (n == 0)
			break;
		given += n;
		if (st->n_seq > w->most_live)
			w->most_live = st->n_seq;
		w->n_free--;
		assert_int_equal(plx_queue_submit(w->q, idx), 0);
	}
	int n = plx_queue_poll(w->q, 0, done, MAX_STEP);

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

static void run_out(struct world *w)
{
	for (uint32_t i = 0; i < 100000 && !plx_sched_idle(&w->s); i++)
		turn(w);
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

static void prompt_fill(int32_t *p, uint32_t n, int32_t first)
{
	for (uint32_t i = 0; i < n; i++)
		p[i] = (first + (int32_t)i * 3) % (int32_t)N_VOCAB;
}

/* ---- literal scenarios ---- */

static struct world w;

static void no_eog(void)
{
	plx_fake_conf(w.fake)->eog_every = 0;
	w.s.conf.n_eog = 0;
}

static void test_sched_runs_one_request(void **state)
{
	struct plx_sched_admit out;
	int32_t p[50];

	(void)state;
	world_open(&w, 4, 20, 16, 4, 2, false);
	no_eog();
	prompt_fill(p, 50, 11);
	struct plx_sched_job j = job_for(&w, 3, p, 50, 1, 5, 77);

	assert_int_equal(add(&w, 3, &j, &out), 0);
	assert_int_equal(out.queue_position, 0);
	/* Two steps of 16 prompt tokens, then 16 and the last 2, then decodes one ahead. */
	assert_int_equal(turn(&w), 32);
	assert_int_equal(turn(&w), 18);
	assert_int_equal(w.e[3].n_got[0], 1);
	run_out(&w);
	assert_int_equal(w.e[3].n_got[0], 5);
	assert_int_equal(w.e[3].final.kind, PLX_SCHED_DONE);
	assert_int_equal(w.e[3].final.end[0], PLX_SEQ_END_LENGTH);
	assert_int_equal(w.s.stats.late_tokens, 0);
	world_close(&w);
}

static void test_sched_eog_discards_the_step_in_flight(void **state)
{
	struct plx_sched_admit out;
	int32_t p[4] = {1, 2, 3, 4};
	uint64_t seed = 0;

	(void)state;
	world_open(&w, 1, 10, 16, 1, 2, false);
	struct plx_sched_job j;

	/* A seed whose answer ends by itself after some ids. */
	do
		j = job_for(&w, 0, p, 4, 1, 30, seed++);
	while (w.e[0].n_want[0] < 3 || w.e[0].n_want[0] > 20);
	assert_int_equal(add(&w, 0, &j, &out), 0);
	plx_fake_conf(w.fake)->polls = 1;
	run_out(&w);
	assert_int_equal(w.e[0].final.end[0], PLX_SEQ_END_EOS);
	assert_int_equal(w.e[0].final.n_out[0], w.e[0].n_want[0]);
	assert_int_equal(w.s.stats.late_tokens, 1);
	world_close(&w);
}

static void test_sched_samples_share_the_prompt(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	world_open(&w, 4, 22, 64, 4, 2, false);
	no_eog();
	prompt_fill(p, 100, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 100, 4, 24, 3);

	/* 99 / 16 = 6 shared blocks, and (100 + 24 - 1) / 16 rounded up = 8: 6 + 4 * 2 = 14. */
	assert_int_equal(add(&w, 0, &j, &out), 0);
	assert_int_equal(w.s.ent[0].need_blocks, 14);
	run_out(&w);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(w.e[0].n_got[i], 24);
	/* 100 once, and the 4 tokens behind the shared blocks three times more. */
	assert_int_equal(w.s.stats.prefill_tokens, 112);
	world_close(&w);
}

static void test_sched_finds_a_cached_prefix(void **state)
{
	struct plx_sched_admit out;
	int32_t p[80];

	(void)state;
	world_open(&w, 2, 30, 64, 2, 2, true);
	no_eog();
	prompt_fill(p, 80, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 80, 1, 8, 1);

	assert_int_equal(add(&w, 0, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 0);
	run_out(&w);
	/* The same prompt: four of its five blocks, since the last token must run. */
	j = job_for(&w, 1, p, 80, 1, 8, 2);
	assert_int_equal(add(&w, 1, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 64);
	run_out(&w);
	assert_int_equal(w.e[1].final.cached_tokens, 64);
	assert_int_equal(w.s.stats.prefill_tokens, 80 + 16);
	/* Another tenant finds nothing. */
	j = job_for(&w, 2, p, 80, 1, 8, 2);
	j.tenant = 1;
	assert_int_equal(add(&w, 2, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 0);
	run_out(&w);
	assert_int_equal(w.e[2].final.cached_tokens, 0);
	world_close(&w);
}

static void test_sched_finds_what_it_generated(void **state)
{
	struct plx_sched_admit out;
	int32_t p[120];

	(void)state;
	world_open(&w, 2, 30, 64, 2, 2, true);
	no_eog();
	prompt_fill(p, 20, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 20, 1, 40, 1);

	assert_int_equal(add(&w, 0, &j, &out), 0);
	run_out(&w);
	/* A second turn of the talk: prompt and answer, then more. 59 of 60 tokens ran: 3 blocks.
	 */
	memcpy(p + 20, w.e[0].want[0], 4 * 40);
	prompt_fill(p + 60, 20, 400);
	j = job_for(&w, 1, p, 80, 1, 4, 1);
	assert_int_equal(add(&w, 1, &j, &out), 0);
	assert_int_equal(out.cached_tokens, 48);
	run_out(&w);
	world_close(&w);
}

static void test_sched_refuses_what_can_not_run(void **state)
{
	struct plx_sched_admit out;
	int32_t p[CTX];

	(void)state;
	world_open(&w, 2, 8, 64, 2, 2, false);
	prompt_fill(p, CTX, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 100, 1, 40, 1);

	assert_int_equal(add(&w, 0, &j, &out), PLX_E_TOO_LARGE); /* 9 blocks of 8 */
	j.max_new = 29;                                          /* 128 positions: 8 blocks */
	assert_int_equal(add(&w, 0, &j, &out), 0);
	j.n_ids = 0;
	assert_int_equal(add(&w, 1, &j, &out), PLX_E_BAD_REQUEST);
	j.n_ids = 10;
	j.n_samples = 3;
	assert_int_equal(add(&w, 1, &j, &out), PLX_E_TOO_LARGE);
	j.n_samples = 1;
	j.tenant_blocks = 1;
	assert_int_equal(add(&w, 1, &j, &out), PLX_E_KV_PRESSURE);
	j.tenant_blocks = 0;
	j.deadline_ns = w.now;
	assert_int_equal(add(&w, 1, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	plx_sched_cancel(&w.s, 0, 1, w.now);
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_CANCELLED);
	run_out(&w);
	world_close(&w);
}

static void test_sched_starts_by_priority_then_arrival(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];
	static const uint8_t prio[5] = {0, 0, 2, 1, 2};
	static const uint32_t ahead[5] = {0, 1, 0, 1, 1};

	(void)state;
	world_open(&w, 1, 20, 64, 1, 2, false);
	prompt_fill(p, 16, 5);
	for (uint32_t k = 0; k < 5; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 16, 1, 4, k);

		j.priority = prio[k];
		assert_int_equal(add(&w, k, &j, &out), 0);
		assert_int_equal(out.queue_position, ahead[k]);
	}
	run_out(&w);
	/* One slot: queue times tell the order 2, 4, 3, 0, 1. */
	assert_true(w.e[2].final.queue_ns < w.e[4].final.queue_ns);
	assert_true(w.e[4].final.queue_ns < w.e[3].final.queue_ns);
	assert_true(w.e[3].final.queue_ns < w.e[0].final.queue_ns);
	assert_true(w.e[0].final.queue_ns < w.e[1].final.queue_ns);
	world_close(&w);
}

static void test_sched_tenant_at_its_share_waits_alone(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 4, 20, 64, 4, 2, false);
	no_eog();
	prompt_fill(p, 16, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 16, 1, 30, k);

		j.tenant = k < 2 ? 7 : 8;
		j.tenant_blocks = 4; /* each needs 3 */
		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	turn(&w);
	assert_int_equal(w.s.load.n_waiting, 1);
	assert_int_equal(w.s.load.n_running, 2);
	run_out(&w);
	assert_true(w.e[1].final.queue_ns > w.e[2].final.queue_ns);
	world_close(&w);
}

static void test_sched_window_pauses_then_cancels(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 1, 20, 64, 1, 2, false);
	no_eog();
	w.s.conf.window = 5;
	prompt_fill(p, 16, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 16, 1, 20, 1);

	assert_int_equal(add(&w, 0, &j, &out), 0);
	for (uint32_t i = 0; i < 50; i++)
		turn(&w);
	assert_int_equal(w.e[0].n_got[0], 5);
	plx_sched_tick(&w.s, w.now);
	assert_int_equal(w.s.stats.paused, 1);
	plx_sched_window(&w.s, 0, 0, 12);
	for (uint32_t i = 0; i < 50; i++)
		turn(&w);
	assert_int_equal(w.e[0].n_got[0], 12);
	plx_sched_tick(&w.s, w.now);
	assert_true(w.e[0].live);
	plx_sched_tick(&w.s, w.now + 1000);
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_CANCELLED);
	assert_int_equal(w.e[0].final.cause, PLX_SCHED_SLOW);
	run_out(&w);
	world_close(&w);
}

static void test_sched_deadlines(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 1, 20, 64, 1, 2, false);
	no_eog();
	prompt_fill(p, 16, 5);
	for (uint32_t k = 0; k < 2; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 16, 1, 40, k);

		j.deadline_ns = 1000;
		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	for (uint32_t i = 0; i < 5; i++)
		turn(&w);
	plx_sched_tick(&w.s, 999);
	assert_true(w.e[0].live && w.e[1].live);
	plx_sched_tick(&w.s, 1000);
	/* The one that runs keeps what it has; the one that waits is refused. */
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_DONE);
	assert_int_equal(w.e[0].final.end[0], PLX_SEQ_END_DEADLINE);
	assert_true(w.e[0].final.n_out[0] > 0);
	assert_int_equal(w.e[1].final.kind, PLX_SCHED_REJECT);
	assert_int_equal(w.e[1].final.err, PLX_E_DEADLINE_UNMEETABLE);
	run_out(&w);
	world_close(&w);
}

static void test_sched_step_fault_ends_what_it_ran(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 2, 20, 64, 2, 2, true);
	no_eog();
	prompt_fill(p, 16, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 16, 1, 30, k);

		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	turn(&w);
	plx_fake_conf(w.fake)->fail_status = PLX_E_FAULT;
	turn(&w);
	for (uint32_t k = 0; k < 2; k++) {
		assert_int_equal(w.e[k].final.kind, PLX_SCHED_REJECT);
		assert_int_equal(w.e[k].final.err, PLX_E_DEVICE_LOST);
	}
	assert_true(w.e[2].live);
	run_out(&w);
	assert_int_equal(w.e[2].final.kind, PLX_SCHED_DONE);
	assert_int_equal(plx_fake_resets(w.fake), 1);
	assert_int_equal(w.s.kv.n_quarantined, 0);
	world_close(&w);
}

static void test_sched_quarantine_lasts_until_reset(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 3, 20, 64, 1, 2, false);
	no_eog();
	prompt_fill(p, 16, 5);
	for (uint32_t k = 0; k < 2; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 16, 1, 30, k);

		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	/* One sequence a step: the first that comes back fails, the other one goes on. */
	plx_fake_conf(w.fake)->fail_status = PLX_E_FAULT;
	turn(&w);
	assert_int_equal(w.n_rejected, 1);
	struct plx_sched_job j = job_for(&w, 2, p, 16, 1, 30, 2);

	assert_int_equal(add(&w, 2, &j, &out), 0);
	for (uint32_t i = 0; i < 5; i++)
		turn(&w);
	/* Its two blocks, prompt and first ids, are nobody's, and nothing new starts. */
	assert_int_equal(w.s.kv.n_quarantined, 2);
	assert_int_equal(plx_kv_room(&w.s.kv), 20 - 2 - 2);
	assert_int_equal(w.s.load.n_waiting, 1);
	assert_int_equal(plx_fake_resets(w.fake), 0);
	run_out(&w);
	assert_int_equal(plx_fake_resets(w.fake), 1);
	assert_int_equal(w.n_done, 2);
	world_close(&w);
}

static void test_sched_nan_ends_one_sample(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 3, 20, 64, 3, 2, false);
	no_eog();
	prompt_fill(p, 16, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 16, 2, 10, 1);

	assert_int_equal(add(&w, 0, &j, &out), 0);
	j = job_for(&w, 1, p, 16, 1, 10, 2);
	assert_int_equal(add(&w, 1, &j, &out), 0);
	for (uint32_t i = 0; i < 3; i++)
		turn(&w);
	plx_fake_conf(w.fake)->nan_slot1 = 1u + w.s.ent[0].slot[1];
	run_out(&w);
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_DONE);
	assert_int_equal(w.e[0].final.end[0], PLX_SEQ_END_LENGTH);
	assert_int_equal(w.e[0].final.end[1], PLX_SEQ_END_FAULT);
	assert_int_equal(w.e[1].final.end[0], PLX_SEQ_END_LENGTH);
	world_close(&w);
}

static void test_sched_lost_device_ends_all_that_run(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	world_open(&w, 3, 30, 16, 1, 2, true);
	no_eog();
	prompt_fill(p, 100, 5);
	for (uint32_t k = 0; k < 4; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 10, 1, 30, k);

		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	turn(&w);
	plx_fake_conf(w.fake)->fail_status = PLX_E_LOST;
	turn(&w);
	/* Three ran, though one alone was in the step; the fourth had not started. */
	assert_int_equal(w.n_rejected, 3);
	assert_true(w.e[3].live);
	run_out(&w);
	assert_int_equal(w.n_done, 1);
	world_close(&w);
}

static void test_sched_stops_filling_without_room(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 4, 20, 64, 4, 2, false);
	prompt_fill(p, 16, 5);
	for (uint32_t k = 0; k < 4; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 16, 1, 8, k);

		j.n_top = 4; /* three records a token */
		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	struct plx_step *st = plx_queue_step(w.q, 0);

	assert_int_equal(plx_sched_fill(&w.s, st, 2, w.now), 0);
	assert_int_equal(plx_sched_fill(&w.s, st, 7, w.now), 32);
	assert_int_equal(st->n_seq, 2);
	assert_int_equal(w.s.promised, 6);
	/* The rest is promised already. */
	assert_int_equal(plx_sched_fill(&w.s, plx_queue_step(w.q, 1), 8, w.now), 0);
	assert_int_equal(w.s.stats.room_waits, 4);
	world_close(&w);
}

/* Long prompts do not stop others' tokens: every step has room for both. */
static void test_sched_decodes_go_on_beside_a_prompt(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	world_open(&w, 4, 40, 16, 4, 2, false);
	no_eog();
	prompt_fill(p, 150, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 10, 1, 40, 1);

	assert_int_equal(add(&w, 0, &j, &out), 0);
	turn(&w);
	j = job_for(&w, 1, p, 150, 1, 8, 2);
	assert_int_equal(add(&w, 1, &j, &out), 0);
	/* 150 tokens at 15 a step are 10 steps; each also carries a token of the first. */
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(turn(&w), 32);
	assert_true(w.e[0].n_got[0] >= 10);
	run_out(&w);
	world_close(&w);
}

/* The same where a step has one sequence: they take turns, and so do the two that decode then. */
static void test_sched_steps_of_one_sequence_starve_nobody(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	world_open(&w, 4, 40, 16, 1, 2, false);
	no_eog();
	prompt_fill(p, 150, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 10, 1, 40, 1);

	assert_int_equal(add(&w, 0, &j, &out), 0);
	turn(&w);
	j = job_for(&w, 1, p, 100, 1, 40, 2);
	assert_int_equal(add(&w, 1, &j, &out), 0);
	/* 100 tokens at 16 a step are 7 steps, every other one. */
	for (uint32_t i = 0; i < 8; i++)
		turn(&w);
	assert_in_range(w.e[0].n_got[0], 8, 10);
	assert_in_range(w.e[1].n_got[0], 1, 2);
	for (uint32_t i = 0; i < 10; i++)
		turn(&w);
	assert_in_range(w.e[0].n_got[0], 17, 21);
	assert_in_range(w.e[1].n_got[0], 9, 13);
	run_out(&w);
	assert_int_equal(w.n_done, 2);
	world_close(&w);
}

/* ---- a device whose steps take time ---- */

#define STEP_NS  1000000u /* a step */
#define TOKEN_NS 20000u   /* and each of its tokens */

/* A turn in which steps run one after the other; returns how long the longest with decodes took. */
static uint64_t timed_turn(void)
{
	uint32_t done[MAX_STEP];
	uint64_t longest = 0;

	while (w.n_free > 0) {
		uint32_t idx = w.free_step[w.n_free - 1];

		if (plx_sched_fill(&w.s, plx_queue_step(w.q, idx), ROOM, w.now) == 0)
			break;
		w.n_free--;
		assert_int_equal(plx_queue_submit(w.q, idx), 0);
	}
	int n = plx_queue_poll(w.q, 0, done, MAX_STEP);

	for (int i = 0; i < n; i++) {
		struct plx_step *st = plx_queue_step(w.q, done[i]);
		bool decodes = plx_step_toks(st)[0].id == PLX_TOK_LAST;

		st->start_ns = w.now;
		w.now += STEP_NS + (uint64_t)TOKEN_NS * st->n_tok;
		st->end_ns = w.now;
		if (decodes && st->end_ns - st->start_ns > longest)
			longest = st->end_ns - st->start_ns;
		plx_sched_done(&w.s, st, st->status, w.now);
		w.free_step[w.n_free++] = done[i];
	}
	w.now += n == 0 ? STEP_NS : 0;
	return longest;
}

static void timed_out(void)
{
	for (uint32_t i = 0; i < 10000 && !plx_sched_idle(&w.s); i++)
		timed_turn();
	assert_true(plx_sched_idle(&w.s));
	plx_sched_check(&w.s);
}

/* Requests enough for the scheduler to know the device; keys 20 to 23. */
static void timed_open_with(uint32_t n_slots, uint32_t n_blocks)
{
	struct plx_sched_admit out;
	int32_t p[150];

	world_open(&w, n_slots, n_blocks, 128, n_slots, 2, false);
	no_eog();
	prompt_fill(p, 150, 5);
	for (uint32_t i = 0; i < 8; i++) {
		struct plx_sched_job j = job_for(&w, 20 + i % 4, p, 5 + 18 * i, 1, 10, i);

		assert_int_equal(add(&w, 20 + i % 4, &j, &out), 0);
		if (i % 2)
			timed_out();
	}
	memset(&w.s.stats, 0, sizeof(w.s.stats));
}

static void timed_open(uint32_t n_slots)
{
	timed_open_with(n_slots, 80);
}

static void test_sched_steps_keep_the_objective_between_tokens(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	uint64_t longest = 0;

	(void)state;
	timed_open(6);
	prompt_fill(p, 150, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 10, 1, 40, k);

		j.itl_slo_ns = 2000000; /* a step of 50 tokens */
		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	timed_turn();
	timed_turn();
	/* 300 prompt tokens at once would take 7 ms; they come in chunks beside the three. */
	for (uint32_t k = 3; k < 5; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 150, 1, 5, k);

		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	for (uint32_t i = 0; i < 8; i++) {
		uint64_t ns = timed_turn();

		longest = ns > longest ? ns : longest;
	}
	assert_in_range(longest, 1400000, 2000000);
	assert_true(w.s.load.queued_tokens < 150);
	timed_out();
	assert_int_equal(w.n_rejected, 0);
	world_close(&w);
}

/* Four answers of 40 ids, begun one after the other: 7 blocks each and 2 more as they grow. */
static void run_four(uint32_t n_blocks, uint32_t tenant_blocks)
{
	struct plx_sched_admit out;
	int32_t p[100];

	timed_open_with(6, n_blocks);
	w.s.pace.answer = 40;
	prompt_fill(p, 100, 5);
	for (uint32_t k = 0; k < 4; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 100, 1, 40, k);

		j.tenant = tenant_blocks ? 1 : 0;
		j.tenant_blocks = tenant_blocks;
		assert_int_equal(add(&w, k, &j, &out), 0);
		for (uint32_t i = 0; i < 5 && k < 3; i++)
			timed_turn();
	}
	timed_turn();
	assert_int_equal(w.s.n_run, 4);
	assert_in_range(plx_sched_retry_ns(&w.s), 9000000, 14000000); /* 40 * 1.1 ms / 4 */
}

static void wait_ns(uint64_t ns)
{
	uint64_t then = w.now + ns;

	while (w.now < then)
		timed_turn();
}

static void test_sched_memory_that_comes_too_late_is_kv_pressure(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	run_four(34, 0);
	prompt_fill(p, 100, 6);
	struct plx_sched_job j = job_for(&w, 4, p, 100, 1, 10, 9);

	j.ttft_slo_ns = 10000000;
	assert_int_equal(add(&w, 4, &j, &out), PLX_E_KV_PRESSURE);
	assert_int_equal(w.s.stats.pressed, 1);
	assert_in_range(out.retry_ns, 5000000, 100000000);
	wait_ns(out.retry_ns);
	assert_int_equal(add(&w, 4, &j, &out), 0);
	timed_out();
	assert_int_equal(w.n_rejected, 0);
	assert_true(w.e[4].final.queue_ns + w.e[4].final.prefill_ns <= 11000000);
	world_close(&w);
}

/* The same where only the tenant's share is short: others are let in. */
static void test_sched_share_that_comes_too_late_is_kv_pressure(void **state)
{
	struct plx_sched_admit out;
	int32_t p[100];

	(void)state;
	run_four(80, 36); /* four may need 9 each */
	prompt_fill(p, 100, 6);
	struct plx_sched_job j = job_for(&w, 4, p, 10, 1, 10, 9);

	j.ttft_slo_ns = 5000000;
	j.tenant = 1;
	j.tenant_blocks = 36;
	assert_int_equal(add(&w, 4, &j, &out), PLX_E_KV_PRESSURE);
	assert_true(out.retry_ns >= 1000000);
	j.tenant_blocks = 1;
	assert_int_equal(add(&w, 4, &j, &out), PLX_E_KV_PRESSURE);
	assert_int_equal(out.retry_ns, 0);
	j.tenant = 2;
	j.tenant_blocks = 36;
	assert_int_equal(add(&w, 4, &j, &out), 0);
	timed_out();
	world_close(&w);
}

/* Twenty that may need 4 blocks each, of 9, say little: nobody is refused for what it might. */
static void test_sched_what_may_be_needed_is_not_counted(void **state)
{
	struct plx_sched_admit out;
	int32_t p[20];

	(void)state;
	timed_open_with(6, 9);
	prompt_fill(p, 20, 5);
	for (uint32_t k = 0; k < 20; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 20, 1, 40, k);

		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	for (uint32_t k = 0; k < 20; k++)
		plx_sched_cancel(&w.s, k, 1, w.now);
	timed_out();
	world_close(&w);
}

static void test_sched_absurd_objectives_are_refused(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	timed_open(4);
	prompt_fill(p, 150, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 100, 1, 5, 1);

	j.ttft_slo_ns = 1;
	assert_int_equal(add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	assert_int_equal(out.retry_ns, 0);
	j.ttft_slo_ns = 0;
	j.itl_slo_ns = 1;
	assert_int_equal(add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	/* Not absurd, but more than this device can do: 100 tokens take 3 ms, one takes 1.02. */
	j.itl_slo_ns = 900000;
	assert_int_equal(add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	j.itl_slo_ns = 0;
	j.ttft_slo_ns = 2000000;
	assert_int_equal(add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	j.ttft_slo_ns = 0;
	j.deadline_ns = w.now + 2000000;
	assert_int_equal(add(&w, 0, &j, &out), PLX_E_DEADLINE_UNMEETABLE);
	assert_int_equal(w.s.stats.unmeetable, 5);
	j.deadline_ns = w.now + 50000000;
	j.ttft_slo_ns = 50000000;
	j.itl_slo_ns = 10000000;
	assert_int_equal(add(&w, 0, &j, &out), 0);
	timed_out();
	assert_int_equal(w.e[0].final.kind, PLX_SCHED_DONE);
	world_close(&w);
}

/* A queue is as long as its objective allows, and a refusal says when to come again. */
static void test_sched_queue_is_bounded_by_time(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	uint32_t k = 0;
	int err = 0;

	(void)state;
	timed_open(8);
	prompt_fill(p, 150, 5);
	/* Each prompt takes 3 ms or a bit more; the first token is wanted after 20. */
	for (; k < 20 && err == 0; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 128, 1, 2, k);

		j.ttft_slo_ns = 20000000;
		err = add(&w, k, &j, &out);
	}
	assert_int_equal(err, PLX_E_QUEUE_FULL);
	assert_in_range(k, 4, 8);
	assert_int_equal(w.s.stats.full, 1);
	assert_in_range(out.retry_ns, 1000000, 10000000);
	/* So long later there is room for it. */
	uint64_t then = w.now + out.retry_ns;

	while (w.now < then)
		timed_turn();
	struct plx_sched_job j = job_for(&w, k, p, 128, 1, 2, k);

	j.ttft_slo_ns = 20000000;
	assert_int_equal(add(&w, k, &j, &out), 0);
	timed_out();
	/* Whoever was let in had its first token in time, within what estimates are off. */
	for (uint32_t i = 0; i < k - 1; i++)
		assert_true(w.e[i].final.queue_ns + w.e[i].final.prefill_ns <= 22000000);
	assert_true(w.s.stats.ttft_err[0] + w.s.stats.ttft_err[1] >= k / 2);
	assert_int_equal(w.s.stats.late_starts, 0);
	world_close(&w);
}

static void test_sched_least_slack_goes_first(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	static const uint64_t slo_ms[3] = {3000, 0, 300};

	(void)state;
	timed_open(1);
	prompt_fill(p, 150, 5);
	for (uint32_t k = 0; k < 3; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 100, 1, 4, k);

		j.ttft_slo_ns = slo_ms[k] * 1000000;
		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	assert_int_equal(out.queue_position, 0);
	timed_out();
	/* One slot: 0.3 s first, who wants nothing counts as 1 s, 3 s last. */
	assert_true(w.e[2].final.queue_ns < w.e[1].final.queue_ns);
	assert_true(w.e[1].final.queue_ns < w.e[0].final.queue_ns);
	world_close(&w);
}

/* A session that floods does not stop one that asks once. */
static void test_sched_sessions_share_by_tokens(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];
	uint32_t before = 0;

	(void)state;
	timed_open(1);
	prompt_fill(p, 150, 5);
	for (uint32_t k = 0; k < 12; k++) {
		struct plx_sched_job j = job_for(&w, k, p, 140, 1, 10, k);

		j.session = k < 11 ? 1 : 2;
		assert_int_equal(add(&w, k, &j, &out), 0);
	}
	assert_in_range(out.queue_position, 1, 4);
	timed_out();
	for (uint32_t k = 0; k < 11; k++)
		before += w.e[k].final.queue_ns < w.e[11].final.queue_ns;
	assert_in_range(before, 1, 4);
	world_close(&w);
}

static void test_sched_who_is_too_late_goes_behind(void **state)
{
	struct plx_sched_admit out;
	int32_t p[150];

	(void)state;
	timed_open(1);
	prompt_fill(p, 150, 5);
	struct plx_sched_job j = job_for(&w, 0, p, 10, 1, 40, 0);

	/* The first holds the only slot for 40 ms and more, which nobody can foresee. */
	w.s.pace.answer = 1;
	assert_int_equal(add(&w, 0, &j, &out), 0);
	timed_turn();
	j = job_for(&w, 1, p, 100, 1, 4, 1);
	j.ttft_slo_ns = 10000000;
	assert_int_equal(add(&w, 1, &j, &out), 0);
	j = job_for(&w, 2, p, 100, 1, 4, 2);
	j.ttft_slo_ns = 100000000;
	assert_int_equal(add(&w, 2, &j, &out), 0);
	assert_int_equal(out.queue_position, 1);
	timed_out();
	assert_int_equal(w.s.stats.late_starts, 1);
	assert_true(w.e[2].final.queue_ns < w.e[1].final.queue_ns);
	assert_int_equal(w.n_done, 8 + 3);
	world_close(&w);
}

static void test_sched_idle_device_waits_for_company_as_told(void **state)
{
	struct plx_sched_admit out;
	int32_t p[16];

	(void)state;
	world_open(&w, 4, 20, 64, 2, 2, false);
	no_eog();
	prompt_fill(p, 16, 5);
	w.s.conf.wait_ns = 100;
	w.now = 1000;
	struct plx_step *st = plx_queue_step(w.q, 0);
	struct plx_sched_job j = job_for(&w, 0, p, 16, 1, 4, 0);

	assert_int_equal(add(&w, 0, &j, &out), 0);
	assert_int_equal(plx_sched_fill(&w.s, st, ROOM, 1099), 0);
	/* A second one makes the batch full. */
	j = job_for(&w, 1, p, 16, 1, 4, 1);
	assert_int_equal(add(&w, 1, &j, &out), 0);
	assert_int_equal(turn(&w), 34);
	run_out(&w);
	/* Alone it goes when its time is over, and not later. */
	w.now = 5000;
	j = job_for(&w, 0, p, 16, 1, 4, 0);
	assert_int_equal(add(&w, 0, &j, &out), 0);
	assert_int_equal(plx_sched_fill(&w.s, st, ROOM, 5099), 0);
	w.now = 5100;
	assert_int_equal(turn(&w), 17);
	run_out(&w);
	world_close(&w);
}

/* ---- random operations ---- */

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

static void random_add(struct world *v)
{
	uint32_t key = rnd(KEYS);
	int32_t p[CTX];
	struct plx_sched_admit out;

	if (v->e[key].live || rnd(3))
		return;
	uint32_t n = 1 + rnd(rnd(4) ? 60 : CTX - 1), same = rnd(n + 1);

	/* One of three beginnings, then something new. */
	prompt_fill(p, n, (int32_t)rnd(3));
	prompt_fill(p + same, n - same, (int32_t)rnd(N_VOCAB));
	struct plx_sched_job j =
	    job_for(v, key, p, n, 1 + rnd(4) / 3 * rnd(SAMPLES), 1 + rnd(MAX_NEW), rnd(100));

	j.tenant = rnd(3);
	j.tenant_blocks = rnd(4) ? 0 : 12;
	j.priority = (uint8_t)rnd(PLX_SCHED_PRIORITIES);
	j.n_top = rnd(4) ? 0 : rnd(5);
	if (v->step_ns) {
		j.deadline_ns = rnd(4) ? 0 : v->now + 1 + v->step_ns * rnd(500);
		j.ttft_slo_ns = rnd(2) ? 0 : 1 + v->step_ns * rnd(2000);
		j.itl_slo_ns = rnd(2) ? 0 : 1 + v->step_ns * rnd(200);
	} else {
		j.deadline_ns = rnd(4) ? 0 : v->now + 1 + rnd(16);
	}
	j.session = rnd(5);
	j.weight = rnd(4);
	add(v, key, &j, &out);
}

static void random_end(struct world *v)
{
	uint32_t key = rnd(KEYS), sample = rnd(SAMPLES);
	struct expect *e = &v->e[key];

	if (rnd(4) == 0) {
		plx_sched_cancel(&v->s, key, 1, v->now);
		assert_false(e->live);
	} else if (e->live && e->ended[sample] == 0 && e->n_got[sample] > 0) {
		e->stopped[sample] = true;
		e->ended[sample] = PLX_SEQ_END_STOP;
		plx_sched_stop(&v->s, key, sample, v->now);
	}
}

static void random_fault(struct world *v)
{
	static const int status[] = {PLX_E_FAULT, PLX_E_LOST, PLX_E_TIMEOUT, PLX_E_CANCELLED};

	if (rnd(2))
		plx_fake_conf(v->fake)->fail_status = status[rnd(4)];
	else
		plx_fake_conf(v->fake)->nan_slot1 = 1 + rnd(v->conf.n_slots);
}

static void random_op(struct world *v)
{
	switch (rnd(16)) {
	case 0:
	case 1:
	case 2:
		random_add(v);
		break;
	case 3:
		if (rnd(6) == 0)
			random_end(v);
		break;
	case 4:
		plx_sched_tick(&v->s, v->now);
		break;
	case 5:
		plx_sched_window(&v->s, rnd(KEYS), rnd(SAMPLES), rnd(100));
		break;
	case 6:
		plx_fake_conf(v->fake)->polls = rnd(3);
		if (rnd(50) == 0)
			random_fault(v);
		break;
	default:
		turn(v);
		break;
	}
}

/* One world: every id that comes is the right one, by on_token; each request ends once. */
static void random_world(uint64_t seed, uint32_t n_ops)
{
	rng_state = seed;
	uint32_t n_slots = 4 + rnd(8);

	world_open(&w, n_slots, 24 + rnd(60), 2 + rnd(3) * 20 + rnd(16), 1 + rnd(n_slots),
	           2 + rnd(2), rnd(4) != 0);
	w.step_ns = seed % 2 ? 100000 : 0;
	w.s.conf.window = 1 + rnd(50);
	w.s.conf.pause_ns = 200 + 20 * w.step_ns;
	w.s.conf.wait_ns = rnd(2) ? 0 : 1 + rnd(20);
	for (uint32_t i = 0; i < n_ops; i++) {
		random_op(&w);
		if (i % 16 == 0)
			plx_sched_check(&w.s);
	}
	for (uint32_t k = 0; k < KEYS; k++)
		for (uint32_t i = 0; i < SAMPLES; i++)
			plx_sched_window(&w.s, k, i, 1000);
	w.s.conf.window = 1000;
	plx_fake_conf(w.fake)->fail_status = 0;
	plx_fake_conf(w.fake)->nan_slot1 = 0;
	run_out(&w);
	for (uint32_t k = 0; k < KEYS; k++)
		assert_false(w.e[k].live);
}

static void test_sched_million_random_operations(void **state)
{
	uint64_t tokens = 0, done = 0, rejected = 0, cancelled = 0;
	uint32_t most = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		random_world(seed, 25000);
		tokens += w.n_tokens;
		done += w.n_done;
		rejected += w.n_rejected;
		cancelled += w.n_cancelled;
		most = w.most_live > most ? w.most_live : most;
		world_close(&w);
	}
	/* The operations reached what they are meant to reach. */
	assert_true(tokens > 100000 && done > 10000 && rejected > 1000 && cancelled > 1000);
	assert_true(most >= 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sched_runs_one_request),
	    cmocka_unit_test(test_sched_eog_discards_the_step_in_flight),
	    cmocka_unit_test(test_sched_samples_share_the_prompt),
	    cmocka_unit_test(test_sched_finds_a_cached_prefix),
	    cmocka_unit_test(test_sched_finds_what_it_generated),
	    cmocka_unit_test(test_sched_refuses_what_can_not_run),
	    cmocka_unit_test(test_sched_memory_that_comes_too_late_is_kv_pressure),
	    cmocka_unit_test(test_sched_share_that_comes_too_late_is_kv_pressure),
	    cmocka_unit_test(test_sched_what_may_be_needed_is_not_counted),
	    cmocka_unit_test(test_sched_starts_by_priority_then_arrival),
	    cmocka_unit_test(test_sched_tenant_at_its_share_waits_alone),
	    cmocka_unit_test(test_sched_window_pauses_then_cancels),
	    cmocka_unit_test(test_sched_deadlines),
	    cmocka_unit_test(test_sched_step_fault_ends_what_it_ran),
	    cmocka_unit_test(test_sched_quarantine_lasts_until_reset),
	    cmocka_unit_test(test_sched_nan_ends_one_sample),
	    cmocka_unit_test(test_sched_lost_device_ends_all_that_run),
	    cmocka_unit_test(test_sched_stops_filling_without_room),
	    cmocka_unit_test(test_sched_decodes_go_on_beside_a_prompt),
	    cmocka_unit_test(test_sched_steps_of_one_sequence_starve_nobody),
	    cmocka_unit_test(test_sched_steps_keep_the_objective_between_tokens),
	    cmocka_unit_test(test_sched_absurd_objectives_are_refused),
	    cmocka_unit_test(test_sched_queue_is_bounded_by_time),
	    cmocka_unit_test(test_sched_least_slack_goes_first),
	    cmocka_unit_test(test_sched_sessions_share_by_tokens),
	    cmocka_unit_test(test_sched_who_is_too_late_goes_behind),
	    cmocka_unit_test(test_sched_idle_device_waits_for_company_as_told),
	    cmocka_unit_test(test_sched_million_random_operations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
