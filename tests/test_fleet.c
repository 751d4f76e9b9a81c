/*
 * Several devices as one: where requests go, how they move from device to device, what becomes of
 * them when a device fails; and the same ids through all of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/preempt.h"
#include "fw/base/err.h"
#include "tests/lib/fleetrig.h"

static struct fleet_rig g;

#define FAST    1000, 50
#define SLOW    3000, 150
#define MIXED   PLX_FLEET_MIXED
#define PREFILL PLX_FLEET_PREFILL
#define DECODE  PLX_FLEET_DECODE

static void no_eog(void)
{
	for (uint32_t i = 0; i < g.f.conf.n_dev; i++) {
		plx_fake_conf(g.dev[i].fake)->eog_every = 0;
		g.f.dev[i].sched.conf.n_eog = 0;
	}
}

static void add(uint32_t key, uint32_t n_prompt, uint32_t n_samples, uint32_t max_new)
{
	int32_t p[FLEET_CTX];

	fleet_prompt(p, n_prompt, 31 * (int32_t)key);
	struct plx_sched_job j = fleet_job(&g, key, p, n_prompt, n_samples, max_new, key);

	assert_int_equal(fleet_add(&g, key, &j), 0);
}

static void turns(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		fleet_turn(&g, 500);
}

/* ---- routing ---- */

static void test_fleet_shares_by_measured_speed(void **state)
{
	static const struct fleet_shape h = {
	    2, true, {{MIXED, 1, 1, 6, 80, 64, FAST, 0}, {MIXED, 1, 1, 6, 80, 64, SLOW, 0}}};

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	for (uint32_t i = 0; i < 3000; i++) {
		uint32_t key = i % FLEET_KEYS;

		if (!g.r[key].live && g.f.n_live < 31)
			add(key, 20, 1, 40);
		fleet_turn(&g, 500);
	}
	/* Three times as fast: it gets most, and the other is not idle. */
	double share = (double)g.dev[0].n_tokens / (double)g.n_tokens;

	assert_true(share > 0.6 && share < 0.85);
	fleet_run_out(&g);
	assert_int_equal(g.n_rejected, 0);
	fleet_close(&g);
}

static void test_fleet_goes_where_the_prefix_is(void **state)
{
	static const struct fleet_shape h = {
	    2, false, {{MIXED, 1, 1, 6, 80, 64, FAST, 0}, {MIXED, 1, 1, 6, 80, 64, FAST, 0}}};

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 8; k++) { /* both learn how fast they are */
		add(k, 40, 1, 8);
		add(k + 8, 40, 1, 8);
		fleet_run_out(&g);
	}
	assert_true(g.dev[0].n_tokens > 0 && g.dev[1].n_tokens > 0);
	int32_t p[FLEET_CTX];

	for (uint32_t k = 20; k < 24; k++) {
		fleet_prompt(p, 150, 7 * (int32_t)k);
		struct plx_sched_job j = fleet_job(&g, k, p, 150, 1, 4, k);

		assert_int_equal(fleet_add(&g, k, &j), 0);
		uint32_t dev = g.f.ent[k].dev;

		fleet_run_out(&g);
		/* The same again, as another request: there and nowhere else. */
		struct plx_sched_job again = fleet_job(&g, k + 4, p, 150, 1, 4, k + 4);

		assert_int_equal(fleet_add(&g, k + 4, &again), 0);
		assert_int_equal(g.f.ent[k + 4].dev, dev);
		fleet_run_out(&g);
		assert_int_equal(g.r[k + 4].final.cached_tokens, 144);
		assert_int_equal(g.r[k + 4].final.device, dev);
	}
	fleet_close(&g);
}

static void test_fleet_that_is_full_says_so(void **state)
{
	static const struct fleet_shape h = {
	    2, true, {{MIXED, 1, 1, 2, 20, 64, FAST, 0}, {MIXED, 1, 1, 2, 20, 64, SLOW, 0}}};
	uint32_t n = 0;
	int err = 0;

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 6; k++) {
		add(k, 40, 1, 20);
		fleet_run_out(&g);
	}
	int32_t p[FLEET_CTX];
	struct plx_sched_admit out = {0};

	fleet_prompt(p, 60, 3);
	for (; n < FLEET_KEYS && err == 0; n++) {
		struct plx_sched_job j = fleet_job(&g, n, p, 60, 1, 50, n);

		j.ttft_slo_ns = 60000;
		err = plx_fleet_add(&g.f, n, &j, g.now, &out);
		g.r[n].live = err == 0;
	}
	/* Both have some before it comes to that. */
	assert_true(g.f.dev[0].n_keys > 0 && g.f.dev[1].n_keys > 0 && n > 4);
	assert_true(err == PLX_E_QUEUE_FULL || err == PLX_E_KV_PRESSURE ||
	            err == PLX_E_DEADLINE_UNMEETABLE);
	assert_true(out.retry_ns > 0 && out.why != NULL);
	const struct plx_sched_stats *a = &g.f.dev[0].sched.stats, *b = &g.f.dev[1].sched.stats;

	assert_int_equal(
	    a->full + a->pressed + a->unmeetable + b->full + b->pressed + b->unmeetable, 1);
	struct plx_sched_job j = fleet_job(&g, FLEET_KEYS - 1, p, 60, 1, 50, 1);

	j.n_samples = 4;
	assert_int_equal(fleet_add(&g, FLEET_KEYS - 1, &j), PLX_E_TOO_LARGE);
	fleet_run_out(&g);
	fleet_close(&g);
}

/* ---- prompts here, answers there ---- */

static const struct fleet_shape split = {
    2, false, {{PREFILL, 1, 1, 8, 90, 64, FAST, 0}, {DECODE, 1, 1, 8, 90, 64, FAST, 0}}};

static void test_fleet_hands_prompts_over(void **state)
{
	(void)state;
	fleet_open(&g, &split);
	no_eog();
	for (uint32_t k = 0; k < 6; k++)
		add(k, 30 + 10 * k, 1, 30);
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 6);
	assert_int_equal(g.f.stats.handed, 6);
	assert_int_equal(g.f.stats.imported, 6);
	assert_int_equal(g.dev[0].n_tokens, 6);
	assert_int_equal(g.n_tokens, 6 * 30);
	/* The prompt's blocks, and one known id to go on with, nothing else. */
	assert_int_equal(g.dev[1].n_copied, 2 + 3 + 4 + 4 + 5 + 5);
	assert_int_equal(g.f.dev[1].sched.stats.prefill_tokens, 6);
	assert_int_equal(g.f.dev[0].sched.stats.decode_tokens, 0);
	assert_false(g.r[0].final.kind_changed);
	assert_true(g.r[0].final.prefill_ns > 0 && g.r[0].final.decode_ns > 0);
	/* The cache of each side knows the prompt now. */
	int32_t p[FLEET_CTX];

	fleet_prompt(p, 80, 31 * 5);
	struct plx_sched_job j = fleet_job(&g, 9, p, 80, 1, 30, 77);

	assert_int_equal(fleet_add(&g, 9, &j), 0);
	fleet_run_out(&g);
	assert_int_equal(g.r[9].final.cached_tokens, 64);
	assert_int_equal(g.dev[1].n_copied, 23 + 1); /* four of five were there */
	fleet_close(&g);
}

static void test_fleet_hands_samples_over(void **state)
{
	(void)state;
	fleet_open(&g, &split);
	no_eog();
	add(0, 70, 3, 25);
	add(1, 9, 3, 25);
	add(2, 16, 2, 25);
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 3);
	assert_int_equal(g.f.stats.imported, 3);
	assert_int_equal(g.dev[0].n_tokens, 8);
	assert_int_equal(g.n_tokens, 8 * 25);
	/* Shared blocks once, tails each: 4 + 3, 3, 2. */
	assert_int_equal(g.dev[1].n_copied, 12);
	fleet_close(&g);
}

/* Nobody reads along, on either device: they do not wait for a window. */
static void test_fleet_hands_held_samples_over(void **state)
{
	int32_t p[FLEET_CTX];

	(void)state;
	fleet_open(&g, &split);
	no_eog();
	for (uint32_t i = 0; i < 2; i++)
		g.f.dev[i].sched.conf.window = 5;
	fleet_prompt(p, 60, 3);
	struct plx_sched_job j = fleet_job(&g, 0, p, 60, 3, 40, 7);

	j.held = true;
	assert_int_equal(fleet_add(&g, 0, &j), 0);
	fleet_run_out(&g);
	assert_int_equal(g.r[0].final.kind, PLX_SCHED_DONE);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(g.r[0].final.n_out[i], 40);
	assert_int_equal(g.r[0].final.device, 1);
	fleet_close(&g);
}

static void test_fleet_runs_again_where_layouts_differ(void **state)
{
	static const struct fleet_shape h = {3,
	                                     false,
	                                     {{PREFILL, 1, 1, 8, 90, 64, FAST, 0},
	                                      {DECODE, 1, 2, 8, 90, 64, FAST, 0},
	                                      {DECODE, 2, 1, 8, 90, 64, FAST, 0}}};

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 8; k++)
		add(k, 40, 1, 30);
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 8);
	assert_int_equal(g.f.stats.handed, 8);
	assert_int_equal(g.f.stats.imported, 0);
	assert_int_equal(
	    g.f.dev[1].sched.stats.prefill_tokens + g.f.dev[2].sched.stats.prefill_tokens, 8 * 41);
	for (uint32_t k = 0; k < 8; k++)
		assert_int_equal(g.r[k].final.kind_changed, g.r[k].final.device == 2);
	fleet_close(&g);
}

static void test_fleet_survives_a_refused_copy(void **state)
{
	(void)state;
	fleet_open(&g, &split);
	no_eog();
	plx_fake_conf(g.dev[1].fake)->copy_err = PLX_E_UNSUPPORTED;
	for (uint32_t k = 0; k < 6; k++)
		add(k, 40, 1, 30);
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 6);
	assert_int_equal(g.n_tokens, 6 * 30);
	assert_int_equal(g.f.dev[1].sched.import_from, 0);
	fleet_close(&g);
}

/* The answering device is busy: what waits for it keeps its blocks, and new prompts wait. */
static void test_fleet_prompts_wait_for_answers(void **state)
{
	static const struct fleet_shape h = {
	    2, true, {{PREFILL, 1, 1, 12, 14, 64, FAST, 0}, {DECODE, 1, 1, 1, 90, 64, FAST, 0}}};
	uint32_t most = 0;

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 10; k++)
		add(k, 60, 1, 50);
	while (!plx_fleet_idle(&g.f)) {
		fleet_turn(&g, 500);
		plx_fleet_check(&g.f);
		most = g.f.dev[0].sched.n_kept > most ? g.f.dev[0].sched.n_kept : most;
	}
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 10);
	assert_int_equal(g.f.stats.imported, 10);
	assert_int_equal(most, 3); /* four blocks each */
	fleet_close(&g);
}

/* But one that runs, and needs a block, gets theirs: they are run again over there. */
static void test_fleet_gives_kept_blocks_up(void **state)
{
	static const struct fleet_shape h = {
	    2, true, {{PREFILL, 1, 1, 12, 14, 64, FAST, 0}, {DECODE, 1, 1, 1, 90, 64, SLOW, 0}}};

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	g.f.dev[1].state = PLX_FLEET_OUT;
	g.f.dev[1].retry_ns = UINT64_MAX;
	add(0, 60, 1, 60); /* nobody is there to answer it: it stays */
	turns(20);
	g.f.dev[1].state = PLX_FLEET_UP;
	assert_true(g.r[0].n_got[0] > 1);
	for (uint32_t k = 1; k < 6; k++)
		add(k, 60, 1, 50);
	while (!plx_fleet_idle(&g.f)) {
		fleet_turn(&g, 500);
		plx_fleet_check(&g.f);
	}
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 6);
	assert_int_equal(g.r[0].final.device, 0);
	assert_int_equal(g.f.stats.handed, 5);
	assert_in_range(g.f.stats.imported, 1, 4);
	assert_int_equal(g.f.dev[0].sched.stats.preempted, 0);
	fleet_close(&g);
}

static void test_fleet_does_without_the_other_half(void **state)
{
	(void)state;
	fleet_open(&g, &split);
	no_eog();
	plx_fake_conf(g.dev[1].fake)->hang = true;
	plx_fake_conf(g.dev[1].fake)->reset_err = PLX_E_IO;
	for (uint32_t k = 0; k < 4; k++)
		add(k, 40, 1, 30);
	fleet_run_quiet(&g);
	assert_int_equal(g.n_done, 4);
	assert_int_equal(g.f.dev[1].state, PLX_FLEET_OUT);
	add(5, 40, 1, 30);
	fleet_run_quiet(&g);
	assert_int_equal(g.r[5].final.device, 0);
	/* And the answering one alone. */
	plx_fake_conf(g.dev[1].fake)->hang = false;
	plx_fake_conf(g.dev[1].fake)->reset_err = 0;
	g.now += 20000;
	for (uint32_t i = 0; i < 40; i++) {
		fleet_turn(&g, 5000);
		plx_fleet_tick(&g.f, g.now);
	}
	assert_int_equal(g.f.dev[1].state, PLX_FLEET_PROBE);
	plx_fake_conf(g.dev[0].fake)->hang = true;
	plx_fake_conf(g.dev[0].fake)->reset_err = PLX_E_IO;
	add(6, 40, 1, 30);
	fleet_run_quiet(&g);
	assert_int_equal(g.r[6].final.kind, PLX_SCHED_DONE);
	assert_int_equal(g.r[6].final.device, 1);
	fleet_close(&g);
}

/* ---- devices that fail ---- */

static const struct fleet_shape twins = {
    2, false, {{MIXED, 1, 1, 8, 90, 64, FAST, 0}, {MIXED, 1, 1, 8, 90, 64, FAST, 0}}};

static void begin_eight(void)
{
	for (uint32_t k = 0; k < 8; k++)
		add(k, 40, k % 3 ? 1 : 2, 50);
	turns(80);
	assert_true(g.f.dev[0].n_keys > 1 && g.f.dev[1].n_keys > 1);
	assert_true(g.n_tokens > 20);
}

static void fails_with(int status)
{
	fleet_open(&g, &twins);
	no_eog();
	begin_eight();
	uint32_t n = g.f.dev[0].n_keys;

	plx_fake_conf(g.dev[0].fake)->fail_status = status;
	while (g.f.stats.failed == 0)
		fleet_turn(&g, 500);
	assert_int_equal(g.f.stats.rescued, n);
	assert_int_equal(g.f.dev[0].n_keys, 0);
	plx_fleet_check(&g.f);
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 8);
	assert_int_equal(g.n_tokens, 11 * 50);
	/* It was reset once, and is tried again at once. */
	assert_int_equal(plx_fake_resets(g.dev[0].fake), 1);
	assert_int_equal(g.f.stats.returned, 1);
	assert_int_equal(g.f.dev[0].state, PLX_FLEET_PROBE);
	for (uint32_t k = 0; k < 8; k++) {
		assert_int_equal(g.r[k].final.kind, PLX_SCHED_DONE);
		assert_false(g.r[k].final.kind_changed);
	}
	fleet_close(&g);
}

static void test_fleet_loses_nothing_with_a_device(void **state)
{
	(void)state;
	fails_with(PLX_E_FAULT);
	fails_with(PLX_E_TIMEOUT);
	fails_with(PLX_E_LOST);
}

static void test_fleet_takes_out_what_stalls(void **state)
{
	(void)state;
	fleet_open(&g, &twins);
	no_eog();
	begin_eight();
	plx_fake_conf(g.dev[1].fake)->hang = true;
	uint64_t since = g.now;

	while (g.f.stats.stalled == 0) {
		fleet_turn(&g, 500);
		plx_fleet_tick(&g.f, g.now);
	}
	/* 100 us, and not before: a step takes some 2 us. */
	assert_in_range(g.now - since, 95000, 110000);
	plx_fleet_check(&g.f);
	/* Its steps come back with what they would have said: nobody hears it. */
	plx_fake_conf(g.dev[1].fake)->hang = false;
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 8);
	assert_int_equal(g.n_tokens, 11 * 50);
	assert_int_equal(g.f.stats.failed, 1);
	fleet_close(&g);
}

/* What waits for a disk that reads is no stall; when the disk stops it is one. */
static void test_fleet_waits_for_what_is_alive(void **state)
{
	(void)state;
	fleet_open(&g, &twins);
	no_eog();
	begin_eight();
	plx_fake_conf(g.dev[1].fake)->hang = true;
	for (uint64_t since = g.now; g.now - since < 500000;) {
		fleet_turn(&g, 500);
		plx_fleet_alive(&g.f, 1, g.now);
		plx_fleet_tick(&g.f, g.now);
	}
	assert_int_equal(g.f.stats.stalled, 0);
	uint64_t since = g.now;

	while (g.f.stats.stalled == 0) {
		fleet_turn(&g, 500);
		plx_fleet_tick(&g.f, g.now);
	}
	assert_in_range(g.now - since, 95000, 110000);
	plx_fake_conf(g.dev[1].fake)->hang = false;
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 8);
	fleet_close(&g);
}

static void test_fleet_tries_again_later_and_later(void **state)
{
	(void)state;
	fleet_open(&g, &twins);
	no_eog();
	uint64_t away[4];

	for (uint32_t i = 0; i < 4; i++) {
		uint64_t failed = g.f.stats.failed;

		for (uint32_t k = 0; g.f.stats.failed == failed; k = (k + 1) % FLEET_KEYS) {
			plx_fake_conf(g.dev[0].fake)->fail_status = PLX_E_FAULT;
			if (!g.r[k].live && g.f.n_live < 8)
				add(k, 20, 1, 20);
			fleet_turn(&g, 500);
		}
		plx_fake_conf(g.dev[0].fake)->fail_status = 0;
		away[i] = g.now;
		while (g.f.stats.returned == i) {
			fleet_turn(&g, 500);
			plx_fleet_tick(&g.f, g.now);
		}
		away[i] = g.now - away[i];
		/* One request at a time is what it gets. */
		for (uint32_t k = 0; k < 4; k++)
			if (!g.r[20 + k].live)
				add(20 + k, 20, 1, 20);
		assert_true(g.f.dev[0].n_keys <= 1);
	}
	assert_true(away[0] < 10000);
	assert_in_range(away[1], 90000, 110000);
	assert_in_range(away[2], 190000, 210000);
	assert_in_range(away[3], 390000, 410000);
	fleet_run_out(&g);
	assert_int_equal(g.n_rejected, 0);
	/* After so many good steps it is as any other. */
	for (uint32_t i = 0; i < 200 && g.f.dev[0].state != PLX_FLEET_UP; i++) {
		uint32_t k = i % FLEET_KEYS;

		if (!g.r[k].live)
			add(k, 20, 1, 20);
		turns(10);
	}
	assert_int_equal(g.f.dev[0].state, PLX_FLEET_UP);
	fleet_run_out(&g);
	fleet_close(&g);
}

static void test_fleet_keeps_deterministic_ones_to_their_kind(void **state)
{
	static const struct fleet_shape h = {
	    2, false, {{MIXED, 1, 1, 8, 90, 64, FAST, 0}, {MIXED, 2, 1, 8, 90, 64, FAST, 0}}};

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	for (uint32_t k = 0; k < 12; k++) {
		int32_t p[30];

		fleet_prompt(p, 30, (int32_t)k);
		struct plx_sched_job j = fleet_job(&g, k, p, 30, 1, 50, k);

		j.flags = k % 2 ? (uint32_t)PLX_SEQF_DETERMINISTIC : 0u;
		assert_int_equal(fleet_add(&g, k, &j), 0);
		assert_true(k % 2 == 0 || g.f.ent[k].dev == 0);
	}
	turns(80);
	assert_true(g.n_tokens > 20);
	uint32_t here[12];

	for (uint32_t k = 0; k < 12; k++)
		here[k] = g.f.ent[k].dev;
	plx_fake_conf(g.dev[0].fake)->fail_status = PLX_E_LOST;
	fleet_run_out(&g);
	assert_int_equal(g.n_lost, 6);
	for (uint32_t k = 0; k < 12; k++) {
		const struct plx_sched_final *f = &g.r[k].final;

		assert_int_equal(f->kind, k % 2 ? PLX_SCHED_REJECT : PLX_SCHED_DONE);
		if (k % 2)
			assert_int_equal(f->err, PLX_E_DEVICE_LOST);
		else
			assert_int_equal(f->kind_changed, here[k] == 0);
	}
	fleet_close(&g);
}

static void test_fleet_without_devices_says_so(void **state)
{
	(void)state;
	fleet_open(&g, &twins);
	no_eog();
	begin_eight();
	for (uint32_t i = 0; i < 2; i++) {
		plx_fake_conf(g.dev[i].fake)->fail_status = PLX_E_LOST;
		plx_fake_conf(g.dev[i].fake)->reset_err = PLX_E_IO;
	}
	fleet_run_quiet(&g);
	assert_int_equal(g.n_lost, 8);
	int32_t p[8];

	fleet_prompt(p, 8, 1);
	struct plx_sched_job j = fleet_job(&g, 9, p, 8, 1, 4, 1);

	assert_int_equal(fleet_add(&g, 9, &j), PLX_E_DEVICE_LOST);
	for (uint32_t i = 0; i < 2; i++)
		plx_fake_conf(g.dev[i].fake)->reset_err = 0;
	g.now += 10000;
	turns(20);
	assert_int_equal(fleet_add(&g, 9, &j), 0);
	fleet_run_out(&g);
	assert_int_equal(g.n_done, 1);
	fleet_close(&g);
}

/* A client that reads slowly is not forgotten when its request moves, nor one that stops. */
static void test_fleet_moves_windows_and_stops(void **state)
{
	static const struct fleet_shape h = {
	    2, false, {{MIXED, 1, 1, 8, 90, 64, FAST, 0}, {MIXED, 1, 1, 1, 90, 64, SLOW, 0}}};

	(void)state;
	fleet_open(&g, &h);
	no_eog();
	g.f.dev[0].sched.conf.window = g.f.dev[1].sched.conf.window = 10;
	for (uint32_t k = 0; k < 5; k++)
		add(k, 20, k == 4 ? 2 : 1, 40);
	turns(200);
	plx_fleet_window(&g.f, 0, 0, 15);
	plx_fleet_window(&g.f, 1, 0, 14);
	turns(200);
	for (uint32_t k = 0; k < 5; k++)
		assert_int_equal(g.r[k].n_got[0], k == 0 ? 15 : k == 1 ? 14 : 10);
	uint32_t here[5];

	for (uint32_t k = 0; k < 5; k++)
		here[k] = g.f.ent[k].dev;
	plx_fake_conf(g.dev[0].fake)->fail_status = PLX_E_LOST;
	plx_fleet_window(&g.f, 0, 0, 20);
	while (g.f.stats.failed == 0)
		fleet_turn(&g, 500);
	/* Those of the first stand in line for the other's one slot; two samples never fit. */
	uint32_t n_lost = 0;

	for (uint32_t k = 0; k < 5; k++) {
		if (!g.r[k].live) {
			assert_int_equal(k, 4);
			assert_int_equal(g.r[k].final.err, PLX_E_DEVICE_LOST);
			n_lost++;
			continue;
		}
		if (here[k] != 0 || !g.f.ent[k].coming)
			continue;
		plx_fleet_window(&g.f, k, 0, 18 + k);
		if (k == 2) {
			g.r[k].stopped[0] = true;
			g.r[k].ended[0] = PLX_SEQ_END_STOP;
			plx_fleet_stop(&g.f, k, 0, g.now);
			assert_false(g.r[k].live);
			assert_int_equal(g.r[k].final.kind, PLX_SCHED_DONE);
		} else if (k == 3) {
			plx_fleet_cancel(&g.f, k, 1, g.now);
			assert_int_equal(g.r[k].final.kind, PLX_SCHED_CANCELLED);
			assert_int_equal(g.r[k].final.n_out[0], 10);
		}
	}
	assert_int_equal(n_lost, here[4] == 0);
	for (uint32_t i = 0; i < 400; i++)
		fleet_turn(&g, 500);
	for (uint32_t k = 0; k < 2; k++)
		assert_true(g.r[k].n_got[0] <= 20);
	for (uint32_t k = 0; k < FLEET_KEYS; k++)
		for (uint32_t i = 0; i < 2; i++)
			plx_fleet_window(&g.f, k, i, 1000);
	fleet_run_out(&g);
	fleet_close(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fleet_shares_by_measured_speed),
	    cmocka_unit_test(test_fleet_goes_where_the_prefix_is),
	    cmocka_unit_test(test_fleet_that_is_full_says_so),
	    cmocka_unit_test(test_fleet_hands_prompts_over),
	    cmocka_unit_test(test_fleet_hands_samples_over),
	    cmocka_unit_test(test_fleet_hands_held_samples_over),
	    cmocka_unit_test(test_fleet_runs_again_where_layouts_differ),
	    cmocka_unit_test(test_fleet_survives_a_refused_copy),
	    cmocka_unit_test(test_fleet_prompts_wait_for_answers),
	    cmocka_unit_test(test_fleet_gives_kept_blocks_up),
	    cmocka_unit_test(test_fleet_does_without_the_other_half),
	    cmocka_unit_test(test_fleet_loses_nothing_with_a_device),
	    cmocka_unit_test(test_fleet_takes_out_what_stalls),
	    cmocka_unit_test(test_fleet_waits_for_what_is_alive),
	    cmocka_unit_test(test_fleet_tries_again_later_and_later),
	    cmocka_unit_test(test_fleet_keeps_deterministic_ones_to_their_kind),
	    cmocka_unit_test(test_fleet_without_devices_says_so),
	    cmocka_unit_test(test_fleet_moves_windows_and_stops),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
