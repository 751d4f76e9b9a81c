/* The fleet over fake devices; see fleetrig.h. */
#include "tests/lib/fleetrig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct fleet_rig *g = ctx;
	struct fleet_req *r = &g->r[key];

	(void)logprob, (void)top, (void)n_top;
	assert_true(r->live && r->ended[sample] == 0 && !r->stopped[sample]);
	assert_int_equal(index, r->n_got[sample]);
	assert_true(index < r->n_want[sample]);
	assert_int_equal(id, r->want[sample][index]);
	r->n_got[sample]++;
	r->ended[sample] = (uint8_t)end;
	r->first_ns = r->first_ns ? r->first_ns : device_ns;
	g->dev[g->f.ent[key].dev].n_tokens++;
	g->n_tokens++;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	struct fleet_rig *g = ctx;
	struct fleet_req *r = &g->r[key];

	(void)device_ns;
	assert_true(r->live && r->ended[sample] == 0);
	if (end == PLX_SEQ_END_EOS)
		assert_int_equal(r->n_got[sample], r->n_want[sample]);
	r->ended[sample] = (uint8_t)end;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct fleet_rig *g = ctx;
	struct fleet_req *r = &g->r[key];

	assert_true(r->live);
	r->live = false;
	r->final = *f;
	r->final_ns = g->now;
	g->n_done += f->kind == PLX_SCHED_DONE;
	g->n_rejected += f->kind == PLX_SCHED_REJECT;
	g->n_lost += f->kind == PLX_SCHED_REJECT && f->err == PLX_E_DEVICE_LOST;
	g->n_cancelled += f->kind == PLX_SCHED_CANCELLED;
	for (uint32_t i = 0; i < r->n_samples; i++) {
		if (f->kind == PLX_SCHED_DONE)
			assert_int_not_equal(f->end[i], PLX_SEQ_END_NONE);
		if (f->kind == PLX_SCHED_DONE || f->n_out[i])
			assert_int_equal(f->n_out[i], r->n_got[i]);
		uint32_t n = r->n_prompt + f->n_out[i];

		if (f->kind == PLX_SCHED_DONE && r->beyond && n > FLEET_CTX + 1)
			assert_int_equal(f->n_left[i], 32 * (1 + (n - 2 - FLEET_CTX) / 32));
		if (f->kind == PLX_SCHED_DONE && r->ended[i])
			assert_int_equal(f->end[i], r->ended[i]);
	}
}

static void on_copy(void *ctx, uint32_t dev, const struct plx_block_copy *pairs, uint32_t n)
{
	struct fleet_rig *g = ctx;

	assert_int_equal(plx_queue_copy_blocks(g->dev[dev].q, g->dev[dev].q, pairs, n), 0);
}

static void on_import(void *ctx, uint32_t dev, uint32_t from, const struct plx_block_copy *pairs,
                      uint32_t n)
{
	struct fleet_rig *g = ctx;
	struct fleet_rig_dev *d = &g->dev[dev];

	d->n_copied += n;
	if (plx_queue_copy_blocks(d->q, g->dev[from].q, pairs, n) == 0)
		return;
	d->poison = true;
	d->poison_from = from;
}

static void dev_open(struct fleet_rig *g, const struct fleet_dev_shape *h, uint32_t i)
{
	struct fleet_rig_dev *d = &g->dev[i];
	struct plx_diag diag = {""};
	struct plx_dev_limits lim = {.n_slots = h->n_slots,
	                             .n_blocks = h->n_blocks,
	                             .block_tokens = FLEET_BT,
	                             .max_seq_blocks = FLEET_CTX / FLEET_BT,
	                             .max_step_tokens = h->step_tokens,
	                             .max_step_seqs = h->n_slots,
	                             .steps_in_flight = FLEET_STEPS,
	                             .n_threads = 1,
	                             .n_host_blocks = h->n_host};
	struct plx_fake_conf fc = {.n_vocab = FLEET_VOCAB,
	                           .eog_id = FLEET_EOG,
	                           .eog_every = 64,
	                           .clock = &g->now,
	                           .step_ns = h->base_ns,
	                           .tok_ns = h->tok_ns};

	d->fake = plx_fake_open(&lim, &fc);
	assert_int_equal(plx_queue_open(plx_fake_dev(d->fake), &d->q, &diag), 0);
	for (uint32_t s = 0; s < FLEET_STEPS; s++)
		d->free_step[d->n_free++] = s;
}

static struct plx_fleet_dev_conf conf_of(const struct fleet_shape *s, uint32_t i)
{
	const struct fleet_dev_shape *h = &s->dev[i];

	return (struct plx_fleet_dev_conf){.role = h->role,
	                                   .kind = h->kind,
	                                   .layout = h->layout,
	                                   .sched = {.n_keys = FLEET_KEYS,
	                                             .n_slots = h->n_slots,
	                                             .n_blocks = h->n_blocks,
	                                             .n_host_blocks = h->n_host,
	                                             .block_tokens = FLEET_BT,
	                                             .ctx_tokens = FLEET_CTX,
	                                             .max_prompt = FLEET_CTX,
	                                             .max_new = FLEET_NEW,
	                                             .step_tokens = h->step_tokens,
	                                             .step_seqs = h->n_slots,
	                                             .steps_in_flight = FLEET_STEPS,
	                                             .window = 1000,
	                                             .pause_ns = UINT64_MAX,
	                                             .prefix_cache = !s->no_cache,
	                                             .can_shift = true,
	                                             .secret = 99,
	                                             .eog = {FLEET_EOG},
	                                             .n_eog = 1}};
}

void fleet_open(struct fleet_rig *g, const struct fleet_shape *h)
{
	struct plx_diag d = {""};
	struct plx_sched_sink sink = {
	    .ctx = g, .token = on_token, .end = on_end, .final = on_final};
	struct plx_fleet_io io = {.ctx = g, .copy = on_copy, .import = on_import};
	struct plx_fleet_conf c = {.n_dev = h->n_dev,
	                           .n_samples = FLEET_SAMPLES,
	                           .stall_times = 20,
	                           .stall_ns = 100000,
	                           .probe_steps = 8,
	                           .probe_keys = 1,
	                           .away_ns = 100000,
	                           .away_most_ns = 1000000,
	                           .forget_ns = 10000000,
	                           .retry_ns = 5000};

	memset(g, 0, sizeof(*g));
	g->now = 1;
	for (uint32_t i = 0; i < h->n_dev; i++) {
		dev_open(g, &h->dev[i], i);
		c.dev[i] = conf_of(h, i);
	}
	assert_int_equal(plx_arena_open(&g->arena, plx_fleet_bytes(&c), &d), 0);
	assert_int_equal(plx_fleet_init(&g->f, &g->arena, &c, &sink, &io, &d), 0);
}

void fleet_close(struct fleet_rig *g)
{
	for (uint32_t i = 0; i < g->f.conf.n_dev; i++)
		plx_dev_close(plx_fake_dev(g->dev[i].fake));
	plx_arena_close(&g->arena);
}

void fleet_prompt(int32_t *p, uint32_t n, int32_t first)
{
	for (uint32_t i = 0; i < n; i++)
		p[i] = (first + (int32_t)i * 3) % (int32_t)FLEET_VOCAB;
}

struct plx_sched_job fleet_job(struct fleet_rig *g, uint32_t key, const int32_t *prompt,
                               uint32_t n_prompt, uint32_t n_samples, uint32_t max_new,
                               uint64_t seed)
{
	struct fleet_req *r = &g->r[key];
	uint32_t ctx_left = FLEET_CTX - n_prompt;

	memset(r, 0, sizeof(*r));
	memcpy(r->prompt, prompt, 4 * (size_t)n_prompt);
	r->n_prompt = n_prompt;
	r->n_samples = n_samples;
	r->max_new = max_new < ctx_left ? max_new : ctx_left;
	for (uint32_t i = 0; i < n_samples; i++)
		r->n_want[i] = plx_fake_expect(plx_fake_conf(g->dev[0].fake), prompt, n_prompt,
		                               seed, i, r->max_new, r->want[i]);
	return (struct plx_sched_job){
	    .ids = r->prompt,
	    .n_ids = n_prompt,
	    .max_new = max_new,
	    .n_samples = n_samples,
	    .sampler = {.top_p = 1, .repeat_penalty = 1.25f, .penalty_window = 64, .seed = seed}};
}

void fleet_beyond(struct fleet_rig *g, struct plx_sched_job *j, uint32_t key, uint32_t max_new)
{
	static const struct plx_fake_window w = {
	    .window = FLEET_CTX, .sinks = FLEET_BT, .drop = FLEET_CTX / FLEET_BT / 4 * FLEET_BT};
	struct fleet_req *r = &g->r[key];

	j->beyond = r->beyond = true;
	j->max_new = r->max_new = max_new;
	for (uint32_t i = 0; i < r->n_samples; i++)
		r->n_want[i] =
		    plx_fake_expect_window(plx_fake_conf(g->dev[0].fake), &w, r->prompt,
		                           r->n_prompt, j->sampler.seed, i, max_new, r->want[i]);
}

int fleet_add(struct fleet_rig *g, uint32_t key, const struct plx_sched_job *job)
{
	struct plx_sched_admit out;
	int err = plx_fleet_add(&g->f, key, job, g->now, &out);

	g->r[key].live = err == 0;
	return err;
}

static void fill_and_submit(struct fleet_rig *g, uint32_t i)
{
	struct fleet_rig_dev *d = &g->dev[i];

	while (d->n_free > 0) {
		uint32_t idx = d->free_step[d->n_free - 1];
		struct plx_step *st = plx_queue_step(d->q, idx);

		if (plx_fleet_fill(&g->f, i, st, 100000, g->now) == 0)
			return;
		if (d->poison) { /* what the copy should have brought is not there */
			d->poison = false;
			plx_fleet_copy_failed(&g->f, i, d->poison_from);
			plx_fleet_done(&g->f, i, st, PLX_E_FAULT, g->now);
			return;
		}
		d->n_free--;
		assert_int_equal(plx_queue_submit(d->q, idx), 0);
	}
}

static void collect(struct fleet_rig *g, uint32_t i)
{
	struct fleet_rig_dev *d = &g->dev[i];
	uint32_t done[FLEET_STEPS];
	int n = plx_queue_poll(d->q, 0, done, FLEET_STEPS);

	for (int k = 0; k < n; k++) {
		struct plx_step *st = plx_queue_step(d->q, done[k]);

		d->free_step[d->n_free++] = done[k];
		plx_fleet_done(&g->f, i, st, st->status, g->now);
	}
}

void fleet_turn(struct fleet_rig *g, uint64_t ns)
{
	for (uint32_t i = 0; i < g->f.conf.n_dev; i++) {
		fill_and_submit(g, i);
		collect(g, i);
		if (plx_fleet_wants_reset(&g->f, i, g->now))
			plx_fleet_reset_done(&g->f, i, plx_dev_reset(plx_fake_dev(g->dev[i].fake)),
			                     g->now);
	}
	g->now += ns;
}

void fleet_run_quiet(struct fleet_rig *g)
{
	for (uint32_t i = 0; i < 200000 && g->f.n_live > 0; i++) {
		fleet_turn(g, 500);
		plx_fleet_tick(&g->f, g->now);
	}
	assert_int_equal(g->f.n_live, 0);
	plx_fleet_check(&g->f);
}

void fleet_run_out(struct fleet_rig *g)
{
	for (uint32_t i = 0; i < 200000 && !plx_fleet_idle(&g->f); i++) {
		fleet_turn(g, 500);
		plx_fleet_tick(&g->f, g->now);
	}
	assert_true(plx_fleet_idle(&g->f));
	plx_fleet_check(&g->f);
	assert_int_equal(g->f.n_lent, 0);
	for (uint32_t i = 0; i < g->f.conf.n_dev; i++) {
		const struct plx_sched *s = &g->f.dev[i].sched;

		assert_int_equal(s->n_kept, 0);
		assert_int_equal(plx_kv_room(&s->kv) + s->kv.n_quarantined, s->conf.n_blocks);
		assert_int_equal(s->promised, 0);
	}
}
