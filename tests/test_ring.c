/* Typed rings, and the pools and limits of a request's way. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/request.h"

struct item {
	uint32_t from;
	uint32_t n;
	uint64_t square;
};
PLX_RING_DEFINE(item, struct item)

static struct plx_arena arena;

static int open_arena(void **state)
{
	struct plx_diag d;

	(void)state;
	return plx_arena_open(&arena, 4u << 20, &d);
}

static int close_arena(void **state)
{
	(void)state;
	plx_arena_close(&arena);
	return 0;
}

static void test_ring_holds_what_was_asked_for(void **state)
{
	struct plx_ring_item q;
	struct item e = {0}, out[8];

	(void)state;
	assert_int_equal(plx_ring_item_open(&q, &arena, 7, PLX_RING_SPSC), 0);
	assert_int_equal(plx_ring_item_room(&q), 7);
	for (uint32_t i = 0; i < 7; i++) {
		e.n = i;
		assert_true(plx_ring_item_push(&q, &e));
	}
	assert_false(plx_ring_item_push(&q, &e));
	assert_int_equal(plx_ring_item_count(&q), 7);
	assert_true(plx_ring_item_pop(&q, &e));
	assert_int_equal(e.n, 0);
	assert_int_equal(plx_ring_item_pop_n(&q, out, 8), 6);
	assert_int_equal(out[5].n, 6);
	assert_false(plx_ring_item_pop(&q, &e));
	/* Eight need the next power of two, of which one slot stays empty. */
	assert_int_equal(plx_ring_item_open(&q, &arena, 8, PLX_RING_SPSC), 0);
	assert_int_equal(plx_ring_item_room(&q), 15);
	assert_int_equal(plx_ring_item_open(&q, &arena, 1u << 20, PLX_RING_SPSC), PLX_E_NOMEM);
}

#define N_PUSH 3u
#define N_POP  2u
#define N_EACH 20000u

struct crowd {
	struct plx_ring_item q;
	_Atomic uint32_t popped;
	_Atomic uint32_t next;
	_Atomic uint64_t sum;
};

static void *push_many(void *arg)
{
	struct crowd *c = arg;
	struct item e = {.from = atomic_fetch_add(&c->next, 1)};

	for (e.n = 0; e.n < N_EACH; e.n++) {
		e.square = (uint64_t)e.n * e.n;
		while (!plx_ring_item_push(&c->q, &e))
			sched_yield();
	}
	return NULL;
}

static void *pop_many(void *arg)
{
	struct crowd *c = arg;
	uint32_t last[N_PUSH] = {0};
	struct item e;

	while (atomic_load(&c->popped) < N_PUSH * N_EACH) {
		if (!plx_ring_item_pop(&c->q, &e)) {
			sched_yield();
			continue;
		}
		/* Whole elements, and those of one pusher in order. */
		if (e.square != (uint64_t)e.n * e.n || (last[e.from] && e.n <= last[e.from]))
			break;
		last[e.from] = e.n;
		atomic_fetch_add(&c->sum, e.n);
		atomic_fetch_add(&c->popped, 1);
	}
	return NULL;
}

/*
 * ThreadSanitizer takes DPDK 22.11's ways to order many pushers for races: volatile loads in one
 * mode, a release that is not chained in the other. On x86 both are ordered.
 */
#ifdef __SANITIZE_THREAD__
#define SKIP_UNDER_TSAN() skip()
#else
#define SKIP_UNDER_TSAN() (void)0
#endif

static void crowd_run(enum plx_ring_sync sync, uint32_t n_pop)
{
	static struct crowd c;
	pthread_t t[N_PUSH + N_POP];

	memset(&c, 0, sizeof(c));
	assert_int_equal(plx_ring_item_open(&c.q, &arena, 60, sync), 0);
	for (uint32_t i = 0; i < N_PUSH + n_pop; i++)
		assert_int_equal(pthread_create(&t[i], NULL, i < N_PUSH ? push_many : pop_many, &c),
		                 0);
	for (uint32_t i = 0; i < N_PUSH + n_pop; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(c.popped, N_PUSH * N_EACH);
	assert_int_equal(c.sum, (uint64_t)N_PUSH * N_EACH * (N_EACH - 1) / 2);
}

static void test_ring_many_pushers_one_popper(void **state)
{
	(void)state;
	SKIP_UNDER_TSAN();
	crowd_run(PLX_RING_MPSC, 1);
}

static void test_ring_many_pushers_many_poppers(void **state)
{
	(void)state;
	SKIP_UNDER_TSAN();
	crowd_run(PLX_RING_MPMC, N_POP);
}

static struct plx_config tiny_config(void)
{
	struct plx_config c = {.n_ports = 1};

	c.lim = (struct plx_cfg_limits){.n_requests = 3,
	                                .request_bytes = 100,
	                                .prompt_tokens = 10,
	                                .block_tokens = 16,
	                                .n_samples = 2,
	                                .n_slots = 2,
	                                .step_tokens = 16,
	                                .step_seqs = 2,
	                                .steps_in_flight = 2,
	                                .ring_entries = 4};
	return c;
}

static void test_links_pool_is_bounded(void **state)
{
	struct plx_config c = tiny_config();
	struct plx_links l;
	struct plx_req *r[3];
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_links_open(&l, &arena, &c, 1, &d), 0);
	for (uint32_t i = 0; i < 3; i++) {
		r[i] = plx_req_take(&l);
		assert_non_null(r[i]);
		assert_int_equal(r[i]->gen, 1);
	}
	assert_null(plx_req_take(&l));
	assert_int_equal(plx_req_busy(&l), 3);
	r[1]->cancel = 2;
	plx_req_give(&l, r[1]);
	assert_ptr_equal(plx_req_take(&l), r[1]);
	assert_int_equal(r[1]->gen, 2);
	assert_int_equal(r[1]->cancel, 0);
}

static void test_links_refuse_limits_over_the_types(void **state)
{
	struct plx_config c = tiny_config();
	struct plx_links l;
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_links_open(&l, &arena, &c, 0, &d), PLX_E_LIMIT);
	c.lim.n_samples = 65;
	d.text[0] = 0;
	assert_int_equal(plx_links_open(&l, &arena, &c, 1, &d), PLX_E_LIMIT);
	assert_string_equal(d.text, "limits.n_samples is 65; give at most 64");
	c = tiny_config();
	c.lim.steps_in_flight = 1;
	assert_int_equal(plx_links_open(&l, &arena, &c, 1, &d), PLX_E_LIMIT);
	c = tiny_config();
	c.lim.request_bytes = 8u << 20;
	assert_int_equal(plx_links_open(&l, &arena, &c, 1, &d), PLX_E_NOMEM);
}

static void test_reject_says_when_to_come_again(void **state)
{
	struct plx_config c = tiny_config();
	struct plx_links l;
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_links_open(&l, &arena, &c, 1, &d), 0);
	struct plx_req *r = plx_req_take(&l);

	/* At once, as far as anybody knows before something ran. */
	assert_int_equal(plx_load_retry_us(&l), 1000);
	l.load.retry_us = 5000;
	l.load.free_kv_blocks = 7;
	assert_int_equal(plx_load_retry_us(&l), 5000);
	plx_req_reject(&l, r, PLX_E_QUEUE_FULL, "why");
	assert_int_equal(r->res.retry_after_us, 5000);
	assert_int_equal(r->res.load.free_kv_blocks, 7);
	assert_string_equal(r->res.detail, "why");
	plx_req_reject(&l, r, PLX_E_TOO_LARGE, NULL);
	assert_int_equal(r->res.retry_after_us, 0);
	l.load.retry_us = UINT32_MAX;
	assert_int_equal(plx_load_retry_us(&l), 10000000);
}

#define one(t) cmocka_unit_test_setup_teardown(t, open_arena, close_arena)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    one(test_ring_holds_what_was_asked_for),      one(test_ring_many_pushers_one_popper),
	    one(test_ring_many_pushers_many_poppers),     one(test_links_pool_is_bounded),
	    one(test_links_refuse_limits_over_the_types), one(test_reject_says_when_to_come_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
