/*
 * A fleet under random operations: requests, cancels, faults, repairs and preemptions in any order;
 * every id is the right one, and nothing is lost or left over.
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

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

static void random_add(void)
{
	uint32_t key = rnd(FLEET_KEYS);
	int32_t p[FLEET_CTX];

	if (g.r[key].live || rnd(3))
		return;
	uint32_t n = 1 + rnd(rnd(4) ? 60 : FLEET_CTX - 1), same = rnd(n + 1);

	fleet_prompt(p, n, (int32_t)rnd(3));
	fleet_prompt(p + same, n - same, (int32_t)rnd(FLEET_VOCAB));
	struct plx_sched_job j = fleet_job(&g, key, p, n, 1 + rnd(4) / 3 * rnd(FLEET_SAMPLES),
	                                   1 + rnd(FLEET_NEW), rnd(100));

	j.tenant = rnd(2);
	j.priority = (uint8_t)rnd(PLX_SCHED_PRIORITIES);
	j.flags = rnd(4) ? 0u : (uint32_t)PLX_SEQF_DETERMINISTIC;
	j.held = rnd(5) == 0;
	j.deadline_ns = rnd(8) ? 0 : g.now + rnd(200000);
	if (rnd(4) == 0)
		fleet_beyond(&g, &j, key, 1 + rnd(FLEET_NEW));
	fleet_add(&g, key, &j);
}

static void random_end(void)
{
	uint32_t key = rnd(FLEET_KEYS), sample = rnd(FLEET_SAMPLES);
	struct fleet_req *r = &g.r[key];

	if (rnd(4) == 0) {
		plx_fleet_cancel(&g.f, key, 1, g.now);
		assert_false(r->live);
	} else if (r->live && r->ended[sample] == 0 && r->n_got[sample] > 0) {
		r->stopped[sample] = true;
		r->ended[sample] = PLX_SEQ_END_STOP;
		plx_fleet_stop(&g.f, key, sample, g.now);
	}
}

static void random_fault(void)
{
	static const int status[] = {PLX_E_FAULT, PLX_E_LOST, PLX_E_TIMEOUT, PLX_E_CANCELLED};
	struct plx_fake_conf *c = plx_fake_conf(g.dev[rnd(g.f.conf.n_dev)].fake);

	switch (rnd(6)) {
	case 0:
		c->fail_status = status[rnd(4)];
		break;
	case 1:
		c->hang = true;
		break;
	case 2:
		c->reset_err = PLX_E_IO;
		break;
	case 3:
		c->copy_err = rnd(4) ? 0 : PLX_E_UNSUPPORTED;
		break;
	case 4:
		c->nan_slot1 = 1 + rnd(3);
		break;
	default:
		c->step_ns = 500 + rnd(5000);
		break;
	}
}

static void random_repair(void)
{
	struct plx_fake_conf *c = plx_fake_conf(g.dev[rnd(g.f.conf.n_dev)].fake);

	c->hang = false;
	c->reset_err = 0;
	c->copy_err = 0;
}

static void random_preempt(void)
{
	struct plx_sched *s = &g.f.dev[rnd(g.f.conf.n_dev)].sched;
	uint32_t slot = rnd(s->conf.n_slots);

	if (s->seq[slot].state == PLX_SEQ_RUN && !s->seq[slot].leaving && s->seq[slot].n_blocks)
		plx_sched_preempt(s, slot);
}

static void random_op(void)
{
	switch (rnd(16)) {
	case 0:
	case 1:
		random_add();
		break;
	case 2:
		if (rnd(8) == 0)
			random_end();
		break;
	case 3:
		plx_fleet_tick(&g.f, g.now);
		break;
	case 4:
		plx_fleet_window(&g.f, rnd(FLEET_KEYS), rnd(FLEET_SAMPLES), rnd(200));
		break;
	case 5:
		if (rnd(100) == 0)
			random_fault();
		if (rnd(30) == 0)
			random_repair();
		break;
	case 6:
		if (rnd(8) == 0)
			random_preempt();
		break;
	default:
		fleet_turn(&g, rnd(rnd(10) ? 1500 : 20000));
		break;
	}
}

static struct fleet_shape random_shape(void)
{
	struct fleet_shape h = {.n_dev = 2 + rnd(3), .no_cache = rnd(3) == 0};
	bool roles = rnd(2);

	for (uint32_t i = 0; i < h.n_dev; i++)
		h.dev[i] = (struct fleet_dev_shape){.role = (uint8_t)(roles ? rnd(3) : 0),
		                                    .kind = 1 + rnd(4) / 3,
		                                    .layout = 1 + rnd(4) / 3,
		                                    .n_slots = 3 + rnd(8),
		                                    .n_blocks = 10 + rnd(20),
		                                    .step_tokens = 10 + rnd(60),
		                                    .base_ns = 500 + rnd(4000),
		                                    .tok_ns = 10 + rnd(100)};
	for (uint32_t i = 0; i < h.n_dev && !h.no_cache; i++)
		h.dev[i].n_host = rnd(3) ? 0 : rnd(20);
	return h;
}

static void repair_all(void)
{
	for (uint32_t i = 0; i < g.f.conf.n_dev; i++) {
		struct plx_fake_conf *c = plx_fake_conf(g.dev[i].fake);

		c->hang = false;
		c->reset_err = c->fail_status = c->copy_err = 0;
		c->nan_slot1 = 0;
		g.f.dev[i].sched.conf.window = 1000;
	}
	for (uint32_t k = 0; k < FLEET_KEYS; k++)
		for (uint32_t i = 0; i < FLEET_SAMPLES; i++)
			plx_fleet_window(&g.f, k, i, 1000);
}

static void test_fleet_random_operations(void **state)
{
	uint64_t tokens = 0, done = 0, handed = 0, imported = 0, rescued = 0, dropped = 0,
		 failed = 0, stalled = 0, returned = 0, shifts = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		rng_state = seed;
		struct fleet_shape h = random_shape();

		fleet_open(&g, &h);
		for (uint32_t i = 0; i < g.f.conf.n_dev; i++)
			g.f.dev[i].sched.conf.window = 1 + rnd(100);
		for (uint32_t i = 0; i < 12000; i++) {
			random_op();
			if (i % 16 == 0)
				plx_fleet_check(&g.f);
		}
		repair_all();
		fleet_run_out(&g);
		for (uint32_t k = 0; k < FLEET_KEYS; k++)
			assert_false(g.r[k].live);
		tokens += g.n_tokens;
		done += g.n_done;
		handed += g.f.stats.handed;
		imported += g.f.stats.imported;
		rescued += g.f.stats.rescued;
		dropped += g.f.stats.dropped;
		failed += g.f.stats.failed;
		stalled += g.f.stats.stalled;
		returned += g.f.stats.returned;
		for (uint32_t i = 0; i < g.f.conf.n_dev; i++)
			shifts += g.f.dev[i].sched.stats.shifts;
		fleet_close(&g);
	}
	/* The operations reached what they are meant to reach. */
	assert_true(tokens > 100000 && done > 4000);
	assert_true(shifts > 60);
	assert_true(handed > 200 && imported > 100 && rescued > 200);
	assert_true(failed > 50 && stalled > 5 && returned > 40 && dropped > 10);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fleet_random_operations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
