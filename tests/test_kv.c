/* The pool of KV blocks and the prefix cache over it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/batch/prefix.h"

#define BT 16u

struct pool {
	struct plx_arena arena;
	struct plx_kv kv;
	struct plx_prefix px;
};

static void pool_open(struct pool *p, uint32_t n_blocks, bool cache)
{
	struct plx_diag d = {""};

	assert_int_equal(
	    plx_arena_open(&p->arena, plx_kv_bytes(n_blocks) + plx_prefix_bytes(n_blocks, BT), &d),
	    0);
	assert_int_equal(plx_kv_init(&p->kv, &p->arena, n_blocks), 0);
	assert_int_equal(plx_prefix_init(&p->px, &p->arena, &p->kv, 0, BT, cache, 0x5eed), 0);
}

static void test_kv_takes_newest_first(void **state)
{
	struct pool p;
	bool evicted;

	(void)state;
	pool_open(&p, 3, false);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), 0);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), 1);
	plx_kv_drop(&p.kv, 0, false);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), 0);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), 2);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), PLX_KV_NONE);
	assert_int_equal(plx_kv_room(&p.kv), 0);
	plx_arena_close(&p.arena);
}

static void test_kv_evicts_oldest_parked(void **state)
{
	struct pool p;
	bool evicted;

	(void)state;
	pool_open(&p, 3, false);
	for (uint32_t i = 0; i < 3; i++)
		plx_kv_take(&p.kv, &evicted);
	plx_kv_drop(&p.kv, 1, true);
	plx_kv_drop(&p.kv, 0, true);
	plx_kv_drop(&p.kv, 2, true);
	assert_int_equal(plx_kv_room(&p.kv), 3);
	plx_kv_hold(&p.kv, 0);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), 1);
	assert_true(evicted);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), 2);
	assert_int_equal(plx_kv_take(&p.kv, &evicted), PLX_KV_NONE);
	plx_arena_close(&p.arena);
}

static void test_kv_quarantines_bad_blocks(void **state)
{
	struct pool p;
	bool evicted;

	(void)state;
	pool_open(&p, 2, false);
	plx_kv_take(&p.kv, &evicted);
	plx_kv_hold(&p.kv, 0);
	plx_kv_mark_bad(&p.kv, 0);
	plx_kv_drop(&p.kv, 0, true);
	assert_int_equal(p.kv.n_quarantined, 0);
	plx_kv_drop(&p.kv, 0, true);
	assert_int_equal(p.kv.n_quarantined, 1);
	assert_int_equal(plx_kv_room(&p.kv), 1);
	plx_kv_end_quarantine(&p.kv);
	assert_int_equal(plx_kv_room(&p.kv), 2);
	plx_arena_close(&p.arena);
}

static void ids_fill(int32_t *ids, int32_t first)
{
	for (uint32_t i = 0; i < BT; i++)
		ids[i] = first + (int32_t)i;
}

static void test_prefix_finds_only_the_same_chain(void **state)
{
	struct pool p;
	int32_t a[BT], b[BT];
	struct plx_prefix_at at = plx_prefix_begin(7);

	(void)state;
	pool_open(&p, 4, true);
	p.px.n_buckets = 1; /* every block collides: only the comparison decides */
	ids_fill(a, 100);
	ids_fill(b, 200);
	uint32_t ba = plx_prefix_take(&p.px), bb = plx_prefix_take(&p.px);

	plx_prefix_add(&p.px, &at, a, ba);
	plx_prefix_add(&p.px, &at, b, bb);
	at = plx_prefix_begin(7);
	assert_int_equal(plx_prefix_find(&p.px, &at, a), ba);
	assert_int_equal(plx_prefix_find(&p.px, &at, b), bb);
	assert_int_equal(plx_prefix_find(&p.px, &at, b), PLX_KV_NONE);
	/* The second block alone is no prefix, nor is any of it another tenant's. */
	at = plx_prefix_begin(7);
	assert_int_equal(plx_prefix_find(&p.px, &at, b), PLX_KV_NONE);
	at = plx_prefix_begin(8);
	assert_int_equal(plx_prefix_find(&p.px, &at, a), PLX_KV_NONE);
	plx_arena_close(&p.arena);
}

/* A tenant's number is never taken for a uid: tenant 1 and the block with uid 1 differ. */
static void test_prefix_tenant_is_no_uid(void **state)
{
	struct pool p;
	int32_t a[BT], b[BT];
	struct plx_prefix_at at = plx_prefix_begin(9);

	(void)state;
	pool_open(&p, 4, true);
	p.px.n_buckets = 1; /* every block collides: only the comparison decides */
	ids_fill(a, 1);
	ids_fill(b, 50);
	uint32_t ba = plx_prefix_take(&p.px), bb = plx_prefix_take(&p.px);

	plx_prefix_add(&p.px, &at, a, ba);
	assert_int_equal(at.parent, 1);
	plx_prefix_add(&p.px, &at, b, bb);
	at = plx_prefix_begin(1);
	assert_int_equal(plx_prefix_find(&p.px, &at, b), PLX_KV_NONE);
	plx_arena_close(&p.arena);
}

static void test_prefix_forgets_what_is_evicted(void **state)
{
	struct pool p;
	int32_t a[BT];
	struct plx_prefix_at at = plx_prefix_begin(0);

	(void)state;
	pool_open(&p, 2, true);
	ids_fill(a, 5);
	uint32_t b = plx_prefix_take(&p.px);

	plx_prefix_add(&p.px, &at, a, b);
	plx_prefix_drop(&p.px, b);
	assert_int_equal(p.kv.n_parked, 1);
	at = plx_prefix_begin(0);
	assert_int_equal(plx_prefix_find(&p.px, &at, a), b);
	plx_prefix_take(&p.px);
	assert_int_equal(plx_prefix_take(&p.px), b);
	at = plx_prefix_begin(0);
	assert_int_equal(plx_prefix_find(&p.px, &at, a), PLX_KV_NONE);
	plx_arena_close(&p.arena);
}

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

#define N_BLOCKS 64u
#define N_IDS    40

/* Model: how many holders each block has, and which ids were published for it. */
struct model {
	uint32_t ref[N_BLOCKS];
	int32_t ids[N_BLOCKS]; /* first id of a published block; 0: none */
	bool bad[N_BLOCKS];
};

static void check_model(const struct pool *p, const struct model *m)
{
	uint32_t held = 0;

	for (uint32_t b = 0; b < N_BLOCKS; b++) {
		assert_int_equal(p->kv.block[b].ref, m->ref[b]);
		held += m->ref[b] > 0;
	}
	assert_int_equal(held + p->kv.n_free + p->kv.n_parked + p->kv.n_quarantined, N_BLOCKS);
}

static void do_take(struct pool *p, struct model *m)
{
	uint32_t b = plx_prefix_take(&p->px);

	if (b == PLX_KV_NONE)
		return;
	assert_int_equal(m->ref[b], 0);
	assert_int_equal(p->px.block[b].uid, 0);
	m->ref[b] = 1;
	m->ids[b] = 0;
	m->bad[b] = false;
}

static void do_publish(struct pool *p, struct model *m, uint32_t b)
{
	int32_t ids[BT], first = (int32_t)(1 + rnd(N_IDS)) * 1000;
	struct plx_prefix_at at = plx_prefix_begin(0);

	if (m->ref[b] == 0 || m->ids[b] != 0 || m->bad[b])
		return;
	ids_fill(ids, first);
	plx_prefix_add(&p->px, &at, ids, b);
	if (p->px.block[b].uid)
		m->ids[b] = first;
}

static void do_find(struct pool *p, struct model *m)
{
	int32_t ids[BT], first = (int32_t)(1 + rnd(N_IDS)) * 1000;
	struct plx_prefix_at at = plx_prefix_begin(0);

	ids_fill(ids, first);
	uint32_t b = plx_prefix_find(&p->px, &at, ids);

	if (b == PLX_KV_NONE)
		return;
	assert_int_equal(m->ids[b], first);
	plx_kv_hold(&p->kv, b);
	m->ref[b]++;
}

static void do_drop(struct pool *p, struct model *m, uint32_t b)
{
	if (m->ref[b] == 0)
		return;
	plx_prefix_drop(&p->px, b);
	m->ref[b]--;
}

static void do_bad(struct pool *p, struct model *m, uint32_t b)
{
	if (m->ref[b] == 0 || rnd(50))
		return;
	plx_prefix_forget(&p->px, b);
	plx_kv_mark_bad(&p->kv, b);
	m->ids[b] = 0;
	m->bad[b] = true;
}

static void one_op(struct pool *p, struct model *m)
{
	uint32_t b = rnd(N_BLOCKS);

	switch (rnd(8)) {
	case 0:
	case 1:
		do_take(p, m);
		break;
	case 2:
		do_publish(p, m, b);
		break;
	case 3:
		do_find(p, m);
		break;
	case 4:
		do_bad(p, m, b);
		break;
	case 5:
		if (rnd(2000) == 0)
			plx_kv_end_quarantine(&p->kv);
		break;
	default:
		do_drop(p, m, b);
		break;
	}
}

static void test_kv_million_random_operations_leak_nothing(void **state)
{
	static struct model m;
	struct pool p;

	(void)state;
	memset(&m, 0, sizeof(m));
	rng_state = 42;
	pool_open(&p, N_BLOCKS, true);
	for (uint32_t i = 0; i < 1000000; i++) {
		one_op(&p, &m);
		if (i % 64 == 0)
			check_model(&p, &m);
	}
	for (uint32_t b = 0; b < N_BLOCKS; b++)
		while (m.ref[b] > 0)
			do_drop(&p, &m, b);
	plx_kv_end_quarantine(&p.kv);
	assert_int_equal(plx_kv_room(&p.kv), N_BLOCKS);
	plx_prefix_clear(&p.px);
	assert_int_equal(p.kv.n_free, N_BLOCKS);
	plx_arena_close(&p.arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_kv_takes_newest_first),
	    cmocka_unit_test(test_kv_evicts_oldest_parked),
	    cmocka_unit_test(test_kv_quarantines_bad_blocks),
	    cmocka_unit_test(test_prefix_finds_only_the_same_chain),
	    cmocka_unit_test(test_prefix_tenant_is_no_uid),
	    cmocka_unit_test(test_prefix_forgets_what_is_evicted),
	    cmocka_unit_test(test_kv_million_random_operations_leak_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
