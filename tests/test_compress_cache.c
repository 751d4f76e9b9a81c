/*
 * Compression and the prefix cache: what was compressed is never found by a request that did not
 * allow it, nor the other way round, on the device or in the host's memory. Thinned out or few
 * layers' KV under another's prompt would show in its ids, which are compared, bit for bit, with
 * those that the same request makes alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/devsched.h"

#define PROMPTS 3u
#define TOKENS  150u
#define ROUNDS  60u

/* What is done with a prompt. */
enum mode { PLAIN, PRUNED, THINNED, LATE, SCORED, N_MODES };

static int32_t prompt[PROMPTS][TOKENS], pruned[PROMPTS][TOKENS];
static uint32_t n_pruned[PROMPTS];
static int32_t want[PROMPTS][N_MODES][DS_NEW];
static float score[DS_KEYS][TOKENS], want_score[PROMPTS][TOKENS];

/* Three that begin alike; pruned, every third phrase of five is missing. */
static void make_prompts(void)
{
	for (uint32_t p = 0; p < PROMPTS; p++) {
		n_pruned[p] = 0;
		for (uint32_t i = 0; i < TOKENS; i++) {
			prompt[p][i] = (int32_t)(3 + (i * 29 + (i > 70 ? p * 13 : 0)) % 60);
			if (i < 5 || i / 5 % 3 != 1)
				pruned[p][n_pruned[p]++] = prompt[p][i];
		}
	}
}

static struct plx_sched_job job_of(uint32_t p, enum mode m, uint32_t key)
{
	struct plx_sched_job j = devsched_job(prompt[p], TOKENS);

	if (m == PRUNED) {
		j.ids = pruned[p];
		j.n_ids = n_pruned[p];
	}
	j.evict = m == THINNED || m == LATE;
	j.evict_late = m == LATE;
	j.evict_goal.target = 0.4f;
	j.max_new = 12;
	if (m == SCORED) {
		j.score = score[key];
		j.flags = PLX_SEQF_EARLY;
	}
	return j;
}

static void run_alone(void)
{
	make_prompts();
	ds.early_layers = 1;
	for (uint32_t p = 0; p < PROMPTS; p++)
		for (uint32_t m = 0; m < N_MODES; m++) {
			struct plx_sched_job j = job_of(p, (enum mode)m, 0);

			devsched_open(64, 40);
			devsched_add(0, &j);
			devsched_run(false);
			memcpy(want[p][m], ds.said[0], sizeof(want[p][m]));
			if (m == SCORED)
				memcpy(want_score[p], score[0], sizeof(want_score[p]));
			devsched_close();
		}
	assert_memory_not_equal(want[0][PLAIN], want[0][THINNED], 4 * 12);
	assert_memory_not_equal(want[0][PLAIN], want[0][PRUNED], 4 * 12);
}

/* What came of a request: its own ids, and nothing of a cache where it may not. */
static void judge(uint32_t key, uint32_t p, enum mode m)
{
	const struct plx_sched_final *f = &ds.final[key];

	assert_true(ds.ended[key]);
	if (m == SCORED) {
		assert_int_equal(f->kind, PLX_SCHED_SCORED);
		assert_memory_equal(&score[key][1], &want_score[p][1], 4 * (TOKENS - 1));
		return;
	}
	assert_int_equal(f->kind, PLX_SCHED_DONE);
	if (m == THINNED || m == LATE)
		assert_int_equal(f->cached_tokens, 0);
	if (m == LATE && f->n_evicted == 0)
		m = PLAIN;
	else if (m == LATE)
		return; /* where it was thinned out depends on the others */
	assert_memory_equal(ds.said[key], want[p][m], 4 * 12);
}

static void test_compress_cache_finds_no_thinned_blocks(void **state)
{
	static const enum mode first[] = {THINNED, LATE, SCORED};

	(void)state;
	run_alone();
	for (uint32_t i = 0; i < 3; i++) {
		struct plx_sched_job j = job_of(0, first[i], 0);

		devsched_open(64, 40);
		devsched_add(0, &j);
		devsched_run(false);
		j = job_of(0, PLAIN, 1);
		devsched_add(1, &j);
		devsched_run(false);
		assert_int_equal(ds.final[1].cached_tokens, 0);
		judge(1, 0, PLAIN);
		/* The other way round: all of it is there now, and nobody who thins out takes it.
		 */
		j = job_of(0, first[i], 0);
		devsched_add(0, &j);
		devsched_run(false);
		assert_int_equal(ds.final[0].cached_tokens, 0);
		judge(0, 0, first[i]);
		devsched_close();
	}
}

/* A pruned prompt is a prompt of its own ids: it shares what stands before the first unit that is
 * missing, and no more. */
static void test_compress_cache_pruned_prompts_share_their_own_ids(void **state)
{
	struct plx_sched_job j = job_of(0, PRUNED, 0);
	uint32_t same = 0;

	(void)state;
	run_alone();
	while (pruned[0][same] == prompt[0][same])
		same++;
	devsched_open(64, 40);
	devsched_add(0, &j);
	devsched_run(false);
	j = job_of(0, PLAIN, 1);
	devsched_add(1, &j);
	devsched_run(false);
	assert_int_equal(ds.final[1].cached_tokens, same / DS_BT * DS_BT);
	judge(1, 0, PLAIN);
	devsched_close();
}

/* All at once, in little memory, in and out of the host's, preempted. */
static void test_compress_cache_random(void **state)
{
	uint32_t of[DS_KEYS];
	enum mode mode[DS_KEYS];
	uint64_t cached = 0;

	(void)state;
	run_alone();
	srand(3);
	ds.n_host = 30;
	devsched_open(48, 26);
	for (uint32_t r = 0; r < ROUNDS; r++) {
		for (uint32_t k = 0; k < DS_KEYS; k++) {
			of[k] = (uint32_t)rand() % PROMPTS;
			mode[k] = (enum mode)(rand() % N_MODES);
			struct plx_sched_job j = job_of(of[k], mode[k], k);

			devsched_add(k, &j);
			for (int n = rand() % 4; n > 0; n--)
				devsched_turn();
		}
		devsched_run(rand() % 4 == 0);
		for (uint32_t k = 0; k < DS_KEYS; k++) {
			judge(k, of[k], mode[k]);
			cached += mode[k] != SCORED ? ds.final[k].cached_tokens : 0;
		}
	}
	/* The cache was of use all the while, and so was the host's memory. */
	assert_true(cached > 1000);
	assert_true(ds.sched.stats.preempted > 0);
	assert_true(ds.sched.stats.evicted_tokens > 0);
	assert_true(ds.sched.tier.n_back > 0);
	devsched_close();
	ds.n_host = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_compress_cache_finds_no_thinned_blocks),
	    cmocka_unit_test(test_compress_cache_pruned_prompts_share_their_own_ids),
	    cmocka_unit_test(test_compress_cache_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
