/* A million random operations on the scheduler: no block lost, no limit passed, each request ends
 * once with its own ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "tests/lib/schedworld.h"

static struct world w;

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

static void random_add(struct world *v)
{
	uint32_t key = rnd(WORLD_KEYS);
	int32_t p[WORLD_CTX];
	struct plx_sched_admit out;

	if (v->e[key].live || rnd(3))
		return;
	uint32_t n = 1 + rnd(rnd(4) ? 60 : WORLD_CTX - 1), same = rnd(n + 1);

	/* One of three beginnings, then something new. */
	world_prompt(p, n, (int32_t)rnd(3));
	world_prompt(p + same, n - same, (int32_t)rnd(WORLD_VOCAB));
	struct plx_sched_job j = world_job(v, key, p, n, 1 + rnd(4) / 3 * rnd(WORLD_SAMPLES),
	                                   1 + rnd(WORLD_NEW), rnd(100));

	j.tenant = rnd(3);
	j.tenant_blocks = rnd(4) ? 0 : 12;
	j.priority = (uint8_t)rnd(PLX_SCHED_PRIORITIES);
	j.n_top = rnd(4) ? 0 : rnd(5);
	j.held = rnd(5) == 0;
	if (v->step_ns) {
		j.deadline_ns = rnd(4) ? 0 : v->now + 1 + v->step_ns * rnd(500);
		j.ttft_slo_ns = rnd(2) ? 0 : 1 + v->step_ns * rnd(2000);
		j.itl_slo_ns = rnd(2) ? 0 : 1 + v->step_ns * rnd(200);
	} else {
		j.deadline_ns = rnd(4) ? 0 : v->now + 1 + rnd(16);
	}
	j.session = rnd(5);
	j.weight = rnd(4);
	world_add(v, key, &j, &out);
}

static void random_end(struct world *v)
{
	uint32_t key = rnd(WORLD_KEYS), sample = rnd(WORLD_SAMPLES);
	struct world_req *e = &v->e[key];

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
		plx_sched_window(&v->s, rnd(WORLD_KEYS), rnd(WORLD_SAMPLES), rnd(100));
		break;
	case 6:
		plx_fake_conf(v->fake)->polls = rnd(3);
		if (rnd(50) == 0)
			random_fault(v);
		break;
	default:
		world_turn(v);
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
	for (uint32_t k = 0; k < WORLD_KEYS; k++)
		for (uint32_t i = 0; i < WORLD_SAMPLES; i++)
			plx_sched_window(&w.s, k, i, 1000);
	w.s.conf.window = 1000;
	plx_fake_conf(w.fake)->fail_status = 0;
	plx_fake_conf(w.fake)->nan_slot1 = 0;
	world_run_out(&w);
	for (uint32_t k = 0; k < WORLD_KEYS; k++)
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
	    cmocka_unit_test(test_sched_million_random_operations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
