/* The waiting order against a plain sorted list, and shares that come out as weighted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/queue.h"

#define N   64u
#define SEC INT64_C(1000000000)

static struct plx_arena arena;
static struct plx_order o;
static struct plx_fair f;

static int open_all(void **state)
{
	struct plx_diag d = {""};

	(void)state;
	assert_int_equal(plx_arena_open(&arena, plx_order_bytes(N) + plx_fair_bytes(N), &d), 0);
	assert_int_equal(plx_order_init(&o, &arena, N), 0);
	assert_int_equal(plx_fair_init(&f, &arena, N), 0);
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	plx_arena_close(&arena);
	return 0;
}

static uint64_t rng = 7;

static uint32_t rnd(uint32_t n)
{
	rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng >> 33) % n;
}

/* The plain model: keys in order. */
struct plain {
	uint32_t n;
	uint32_t key[N], tokens[N];
	int64_t rank[N];
	uint64_t deadline[N];
};

static void plain_add(struct plain *p, uint32_t key, int64_t rank, uint32_t tokens, uint64_t dl)
{
	uint32_t i = p->n++;

	for (; i > 0 && p->rank[i - 1] > rank; i--) {
		p->key[i] = p->key[i - 1];
		p->rank[i] = p->rank[i - 1];
		p->tokens[i] = p->tokens[i - 1];
		p->deadline[i] = p->deadline[i - 1];
	}
	p->key[i] = key;
	p->rank[i] = rank;
	p->tokens[i] = tokens;
	p->deadline[i] = dl;
}

static void plain_remove(struct plain *p, uint32_t key)
{
	uint32_t i = 0;

	while (p->key[i] != key)
		i++;
	for (p->n--; i < p->n; i++) {
		p->key[i] = p->key[i + 1];
		p->rank[i] = p->rank[i + 1];
		p->tokens[i] = p->tokens[i + 1];
		p->deadline[i] = p->deadline[i + 1];
	}
}

static void same(const struct plain *p)
{
	uint32_t k = plx_order_first(&o);
	uint64_t sum = 0, now = rnd(1000), first = UINT64_MAX;
	int64_t rank = (int64_t)rnd(24) - 2;
	struct plx_order_ahead want = {0, 0}, got = plx_order_ahead(&o, rank);
	uint32_t after = PLX_QUEUE_NONE;

	for (uint32_t i = 0; i < p->n; i++, k = plx_order_next(&o, k)) {
		assert_int_equal(k, p->key[i]);
		sum += p->tokens[i];
		if (p->rank[i] <= rank) {
			want.count++;
			want.tokens += p->tokens[i];
		} else if (after == PLX_QUEUE_NONE) {
			after = k;
		}
		if (p->deadline[i] && p->deadline[i] < first)
			first = p->deadline[i];
	}
	assert_int_equal(k, PLX_QUEUE_NONE);
	assert_int_equal(plx_order_count(&o), p->n);
	assert_int_equal(plx_order_sum(&o), sum);
	assert_int_equal(got.count, want.count);
	assert_int_equal(got.tokens, want.tokens);
	assert_int_equal(plx_order_after(&o, rank), after);
	k = plx_order_overdue(&o, now);
	if (first > now)
		assert_int_equal(k, PLX_QUEUE_NONE);
	else
		assert_int_equal(o.node[k].deadline_ns, first);
}

static void test_order_is_a_sorted_list(void **state)
{
	static struct plain p;

	(void)state;
	memset(&p, 0, sizeof(p));
	for (uint32_t i = 0; i < 30000; i++) {
		uint32_t key = rnd(N);

		if (!plx_order_has(&o, key)) {
			int64_t rank = rnd(20);
			uint32_t tokens = rnd(100);
			uint64_t dl = rnd(2) ? 1 + rnd(1000) : 0;

			plx_order_add(&o, key, rank, tokens, dl);
			plain_add(&p, key, rank, tokens, dl);
		} else if (rnd(3) == 0) {
			uint32_t at = 0;

			while (p.key[at] != key)
				at++;
			p.tokens[at] = rnd(100);
			plx_order_tokens(&o, key, p.tokens[at]);
		} else {
			plx_order_remove(&o, key);
			plain_remove(&p, key);
		}
		same(&p);
	}
}

static void test_rank_ages_everybody_alike(void **state)
{
	(void)state;
	/* Priority first among those who come together, whatever they hope for. */
	assert_true(plx_queue_rank(0, 1, 0, 1, 0) < plx_queue_rank(0, 1, 0, 0, 0));
	assert_true(plx_queue_rank(0, 8000000000, 0, 2, 0) <= plx_queue_rank(0, 0, 0, 1, 0));
	/* 16 s later a higher one comes behind in any case. */
	assert_true(plx_queue_rank(16000000001, 0, 0, 1, 0) >
	            plx_queue_rank(0, 8000000000, 0, 0, 0));
	assert_true(plx_queue_rank(24000000001, 0, 0, 1, 0) >
	            plx_queue_rank(0, 8000000000, 0, 0, 8000000000));
	/* The least slack first: due sooner, or more to do before. */
	assert_true(plx_queue_rank(0, 300000000, 0, 0, 0) < plx_queue_rank(0, 3000000000, 0, 0, 0));
	assert_true(plx_queue_rank(0, 3000000000, 400000000, 0, 0) <
	            plx_queue_rank(0, 3000000000, 0, 0, 0));
	/* No term can outgrow its range. */
	assert_int_equal(plx_queue_rank(5, UINT64_MAX, UINT64_MAX, 15, UINT64_MAX),
	                 5 - 15 * 8 * SEC + 8 * SEC);
}

/* Sessions that always want more are served as their weights say. */
static void test_fair_shares_follow_weights(void **state)
{
	static const uint32_t weight[3] = {1, 2, 5};
	uint64_t served[3] = {0, 0, 0};
	uint32_t flow[N], of[N], tokens[N];
	double start[N];

	(void)state;
	for (uint32_t k = 0; k < 30; k++) {
		of[k] = k % 3;
		tokens[k] = 10 + rnd(90) * (1 + of[k]);
		flow[k] = plx_fair_enter(&f, 1000 + of[k], weight[of[k]], tokens[k], &start[k]);
	}
	for (uint32_t i = 0; i < 30000; i++) {
		uint32_t k = 0;

		for (uint32_t j = 1; j < 30; j++)
			k = start[j] < start[k] ? j : k;
		plx_fair_serve(&f, start[k]);
		served[of[k]] += tokens[k];
		plx_fair_leave(&f, flow[k]);
		tokens[k] = 10 + rnd(90) * (1 + of[k]);
		flow[k] = plx_fair_enter(&f, 1000 + of[k], weight[of[k]], tokens[k], &start[k]);
	}
	assert_in_range(served[1] * 100 / served[0], 190, 210);
	assert_in_range(served[2] * 100 / served[0], 480, 520);
	for (uint32_t k = 0; k < 30; k++)
		plx_fair_leave(&f, flow[k]);
	assert_true(f.weight == 0);
}

static void test_fair_idle_sessions_save_nothing_and_owe_nothing(void **state)
{
	double start;
	uint32_t a = 0, b;

	(void)state;
	/* A had the appliance alone for a million tokens. */
	for (uint32_t i = 0; i < 1000; i++) {
		a = plx_fair_enter(&f, 1, 1, 1000, &start);
		plx_fair_serve(&f, start);
		plx_fair_leave(&f, a);
	}
	/* B comes new: it starts now, and A one request later. */
	b = plx_fair_enter(&f, 2, 1, 500, &start);
	assert_true(start == f.now);
	a = plx_fair_enter(&f, 1, 1, 500, &start);
	assert_true(start == f.now + 1000);
	/* Two sessions share, at 1,000 ns a token: A's turn is 2 ms away. */
	assert_int_equal(plx_fair_lag_ns(&f, start, 1000), 2000000);
	assert_int_equal(plx_fair_lag_ns(&f, f.now, 1000), 0);
	assert_int_equal(plx_fair_lag_ns(&f, 1e18, 1000), 8000000000);
	/* Its next request never has its turn before that one, though time a token has halved. */
	assert_int_equal(plx_fair_turn_ns(&f, 1, 5000, 1000), 5000 + 3000000);
	plx_fair_took_turn(&f, a, 3005000);
	assert_int_equal(plx_fair_turn_ns(&f, 1, 6000, 500), 3005000);
	assert_int_equal(plx_fair_turn_ns(&f, 2, 6000, 500), 6000 + 500000);
	assert_int_equal(plx_fair_turn_ns(&f, 3, 6000, 500), 6000);
	/* A's answer grows: so does what it is ahead. */
	plx_fair_charge(&f, a, 300);
	assert_true(plx_fair_peek(&f, 1) == f.now + 1800);
	plx_fair_charge(&f, a, -800);
	assert_true(plx_fair_peek(&f, 1) == f.now + 1000);
	plx_fair_leave(&f, a);
	plx_fair_leave(&f, b);
}

static void test_fair_remembers_a_session_as_long_as_there_is_room(void **state)
{
	double start;
	uint32_t flow = plx_fair_enter(&f, 77, 1, 5000, &start), live[N];

	(void)state;
	plx_fair_leave(&f, flow);
	/* Half of the flows can be taken over by live ones; the youngest idle one is not among
	 * them. */
	for (uint32_t i = 0; i < N; i++)
		live[i] = plx_fair_enter(&f, 5000 + i, 1, 1, &start);
	assert_true(plx_fair_peek(&f, 77) == f.now + 5000);
	for (uint32_t i = 0; i < N; i++)
		plx_fair_leave(&f, live[i]);
	/* A great many others later it is as new. */
	for (uint32_t i = 0; i < 10000; i++)
		plx_fair_leave(&f, plx_fair_enter(&f, 100000 + i, 1, 1, &start));
	assert_true(plx_fair_peek(&f, 77) == f.now);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_order_is_a_sorted_list, open_all, close_all),
	    cmocka_unit_test(test_rank_ages_everybody_alike),
	    cmocka_unit_test_setup_teardown(test_fair_shares_follow_weights, open_all, close_all),
	    cmocka_unit_test_setup_teardown(test_fair_idle_sessions_save_nothing_and_owe_nothing,
	                                    open_all, close_all),
	    cmocka_unit_test_setup_teardown(test_fair_remembers_a_session_as_long_as_there_is_room,
	                                    open_all, close_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
