/* The session table and its wheel against a plain model; streams of tokens against a plain list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/session.h"

#define N    50u
#define TICK (UINT64_C(1) << PLX_WHEEL_SHIFT)
#define T0   UINT64_C(1000000000000)

static struct plx_arena arena;
static struct plx_sessions tab;

static int setup(void **state)
{
	(void)state;
	return plx_arena_open(&arena, plx_sessions_bytes(N, 4, 2), NULL) ||
	               plx_sessions_open(&tab, &arena, N, 4, 2, 3, 4095, T0)
	           ? -1
	           : 0;
}

static int teardown(void **state)
{
	(void)state;
	plx_arena_close(&arena);
	return 0;
}

static void test_session_ids_name_stage_and_place(void **state)
{
	struct plx_session *s[N];

	(void)state;
	for (uint32_t i = 0; i < N; i++) {
		s[i] = plx_session_new(&tab);
		assert_non_null(s[i]);
		assert_int_equal(plx_session_io(s[i]->id), 3);
		assert_ptr_equal(plx_sessions_find(&tab, s[i]->id), s[i]);
	}
	assert_null(plx_session_new(&tab));
	uint32_t old = s[7]->id;

	plx_session_give(&tab, s[7]);
	assert_null(plx_sessions_find(&tab, old));
	struct plx_session *again = plx_session_new(&tab);

	assert_ptr_equal(again, s[7]);
	assert_int_not_equal(again->id, old);
	assert_int_equal(again->id & 0xffff, old & 0xffff);
	assert_null(plx_sessions_find(&tab, old));
	assert_null(plx_sessions_find(&tab, 0));
	assert_null(plx_sessions_find(&tab, 0xffffffffu));
}

static void test_session_dirty_place_is_kept(void **state)
{
	struct plx_session *s = plx_session_new(&tab);

	(void)state;
	for (uint32_t i = 1; i < N; i++)
		assert_non_null(plx_session_new(&tab));
	s->dirty = true;
	plx_session_give(&tab, s);
	assert_null(plx_session_new(&tab)); /* its stage still has it on a list */
	s->dirty = false;
	plx_session_recycle(&tab, s);
	assert_ptr_equal(plx_session_new(&tab), s);
}

/* Every deadline fires once, never early, and at most a tick late. */
static void test_session_wheel_fires_in_time(void **state)
{
	uint64_t due[N] = {0}, now = T0;
	struct plx_session *s[N], *f;

	(void)state;
	srand(1);
	for (uint32_t i = 0; i < N; i++)
		s[i] = plx_session_new(&tab);
	for (uint32_t step = 0; step < 20000; step++) {
		uint32_t i = (uint32_t)rand() % N;
		uint64_t when = now + (uint64_t)rand() % (200 * TICK);

		if (due[i] == 0 || when < due[i])
			due[i] = when;
		plx_session_arm(&tab, s[i], when);
		now += (uint64_t)rand() % (2 * TICK);
		while ((f = plx_sessions_due(&tab, now)) != NULL) {
			i = plx_sessions_index(&tab, f);
			assert_true(due[i] != 0);
			assert_true(due[i] <= now);
			due[i] = 0;
		}
		for (i = 0; i < N; i++)
			assert_true(due[i] == 0 || due[i] + 2 * TICK > now);
	}
}

static void test_session_wheel_survives_long_sleeps(void **state)
{
	struct plx_session *s[N];
	uint32_t n = 0;

	(void)state;
	for (uint32_t i = 0; i < N; i++) {
		s[i] = plx_session_new(&tab);
		plx_session_arm(&tab, s[i], T0 + i * 100 * TICK);
	}
	while (plx_sessions_due(&tab, T0 + 100000 * TICK) != NULL)
		n++;
	assert_int_equal(n, N);
	/* Beyond the wheel: fires at its end at the latest, for the owner to set again. */
	uint64_t now = T0 + 100000 * TICK;

	plx_session_arm(&tab, s[0], now + 1000000 * TICK);
	assert_null(plx_sessions_due(&tab, now + 8000 * TICK));
	assert_ptr_equal(plx_sessions_due(&tab, now + 8192 * TICK), s[0]);
	plx_session_arm(&tab, s[1], PLX_NEVER);
	assert_null(plx_sessions_due(&tab, now + 100000 * TICK));
}

static void test_session_answers_are_as_many_as_credit(void **state)
{
	struct plx_session *s = plx_session_new(&tab);
	struct plx_answer *a[4];

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		s->slot[i].req_id = i + 1;
		a[i] = plx_session_answer(s, i);
		assert_non_null(a[i]);
		assert_int_equal(a[i]->req_id, i + 1);
	}
	assert_null(plx_session_answer(s, 5));
	plx_session_settle(s, a[2]);
	assert_null(s->slot[2].ans);
	assert_ptr_equal(plx_session_answer(s, 6), a[2]);
	uint32_t n = 0;

	for (struct plx_answer *x = s->live; x != NULL; x = x->next)
		n++;
	assert_int_equal(n, 4);
}

/* ---- streams --------------------------------------------------------------------------------- */

static struct plx_cell cell[64];
static struct plx_cells cells;
static struct plx_stream st;

static int put(uint32_t first, uint16_t n, const char *text, bool last)
{
	static struct plx_ev ev;

	memset(&ev, 0, sizeof(ev));
	ev.first_idx = first;
	ev.n_ids = n;
	ev.last = last;
	ev.text_bytes = (uint16_t)strlen(text);
	memcpy(ev.text, text, strlen(text));
	for (uint32_t i = 0; i < n; i++)
		ev.id[i] = (int32_t)(first + i + 100);
	return plx_stream_put(&cells, &st, &ev, false, 5);
}

static void stream_new(uint32_t n_cells)
{
	plx_cells_init(&cells, cell, n_cells);
	memset(&st, 0, sizeof(st));
}

/* Make, check what it starts with, send. */
static void sends(uint32_t first, uint16_t count, const char *text, bool retx, bool last)
{
	uint8_t p[PLX_TOKENS_ROOM];
	struct plx_stream_msg m;
	struct plx_msg_tokens_view v;

	assert_true(plx_stream_make(&cells, &st, 1, false, p, &m));
	assert_int_equal(plx_msg_tokens_decode(&v, p, m.bytes), 0);
	assert_int_equal(v.m.sample, 1);
	assert_int_equal(v.m.first_idx, first);
	assert_int_equal(v.m.count, count);
	assert_int_equal(v.m.text_bytes, strlen(text));
	assert_memory_equal(v.text, text, strlen(text));
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(plx_get_u32(v.ids + 4 * i), first + i + 100);
	assert_int_equal(m.retx, retx);
	assert_int_equal(m.last, last);
	plx_stream_sent(&cells, &st, &m);
}

static void nothing_to_send(void)
{
	uint8_t p[PLX_TOKENS_ROOM];
	struct plx_stream_msg m;

	assert_false(plx_stream_make(&cells, &st, 1, false, p, &m));
}

static void test_stream_messages_stay_as_they_were(void **state)
{
	(void)state;
	stream_new(64);
	assert_int_equal(put(0, 1, "a", false), 0);
	sends(0, 1, "a", false, false);
	assert_int_equal(put(1, 2, "bc", false), 0);
	assert_int_equal(put(3, 1, "d", false), 0);
	sends(1, 3, "bcd", false, false); /* two records, one message */
	nothing_to_send();
	assert_int_equal(put(4, 1, "e", true), 0);
	plx_stream_rewind(&st);
	sends(0, 1, "a", true, false);
	sends(1, 3, "bcd", true, false); /* e does not join a message that has gone */
	sends(4, 1, "e", false, true);
	nothing_to_send();
}

static void test_stream_acknowledgements_free(void **state)
{
	(void)state;
	stream_new(64);
	put(0, 1, "a", false);
	put(1, 1, "b", false);
	sends(0, 2, "ab", false, false);
	put(2, 0, "tail", true);
	assert_true(plx_stream_ack(&cells, &st, 2, false));
	assert_false(plx_stream_ack(&cells, &st, 2, false));
	assert_int_equal(cells.n_free, 63); /* the end without an id waits for its own word */
	sends(2, 0, "tail", false, true);
	assert_false(plx_stream_ack(&cells, &st, 3, true)); /* never made */
	assert_true(plx_stream_ack(&cells, &st, 2, true));
	assert_int_equal(cells.n_free, 64);
	assert_int_equal(st.oldest, 0);
	nothing_to_send();
}

static void test_stream_full_store_keeps_what_it_has(void **state)
{
	char text[600];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	stream_new(6);
	assert_int_equal(put(0, 16, text, false), 0); /* 16 + 64 + 599 bytes: 6 cells */
	assert_int_equal(cells.n_free, 0);
	assert_int_equal(put(16, 1, "y", false), PLX_E_FULL);
	sends(0, 16, text, false, false);
	assert_true(plx_stream_ack(&cells, &st, 16, false));
	assert_int_equal(put(16, 1, "y", false), 0);
	assert_int_equal(put(18, 1, "z", false), PLX_E_FORMAT); /* a gap */
	assert_int_equal(put(17, 0, "", true), 0);
	assert_int_equal(put(17, 1, "z", false), PLX_E_FORMAT); /* after its end */
	plx_stream_clear(&cells, &st);
	assert_int_equal(cells.n_free, 6);
}

static void test_stream_fills_packets_and_no_more(void **state)
{
	char text[501];
	uint8_t p[PLX_TOKENS_ROOM];
	struct plx_stream_msg m;

	(void)state;
	memset(text, 'x', 500);
	text[500] = '\0';
	stream_new(64);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(put(i, 1, text, i == 4), 0);
	uint32_t n = 0, bytes = 0;

	while (plx_stream_make(&cells, &st, 0, false, p, &m)) {
		assert_true(m.bytes <= PLX_TOKENS_ROOM);
		bytes += m.bytes;
		n++;
		plx_stream_sent(&cells, &st, &m);
	}
	assert_int_equal(n, 3);
	assert_int_equal(bytes, 3 * 16 + 5 * 504);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_session_ids_name_stage_and_place),
	    T(test_session_dirty_place_is_kept),
	    T(test_session_wheel_fires_in_time),
	    T(test_session_wheel_survives_long_sleeps),
	    T(test_session_answers_are_as_many_as_credit),
	    cmocka_unit_test(test_stream_messages_stay_as_they_were),
	    cmocka_unit_test(test_stream_acknowledgements_free),
	    cmocka_unit_test(test_stream_full_store_keeps_what_it_has),
	    cmocka_unit_test(test_stream_fills_packets_and_no_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
