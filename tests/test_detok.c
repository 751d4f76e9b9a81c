/* One answer on its way out: which tokens go when, with which text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/detok.h"
#include "tests/lib/tiny_vocab.h"

enum { HE, LLO, WORLD, WOR, LD, EURO_A, A, B, AB, ABC, LONG, N_WORDS };
static char long_word[201];
static const char *words[N_WORDS] = {
    "he",  "llo",    "\xe2\x96\x81world", "\xe2\x96\x81wor", "ld", "x\xe2\x82\xac", "a", "b", "ab",
    "abc", long_word};

static struct plx_tok *tok;

static int group_setup(void **state)
{
	(void)state;
	memset(long_word, 'z', sizeof(long_word) - 1);
	tok = plx_tiny_vocab(words, N_WORDS);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	plx_tok_free(tok);
	return 0;
}

/* An answer, and everything that was taken from it. */
struct rig {
	struct plx_detok a;
	struct plx_top top[PLX_DETOK_HOLD * PLX_MAX_TOP];
	struct plx_req req;
	uint8_t body[4096];
	char text[8192];
	size_t n_text;
	int32_t id[512];
	uint32_t n_ids;
	uint32_t n_events;
	bool last;
	uint16_t n_new; /* ids of the last take_all */
};

static struct rig r;

static void rig_open(uint32_t flags, uint8_t n_top, const char *stop1, const char *stop2)
{
	struct plx_req_writer w;
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_wire_limits lim = {.max_request_bytes = sizeof(r.body),
	                              .max_prompt_tokens = 100,
	                              .max_new = 100,
	                              .max_samples = 4,
	                              .max_stops = 4,
	                              .max_stop_bytes = 128,
	                              .max_logprobs = 20};
	struct plx_req_fault f;

	memset(&r, 0, sizeof(r));
	m.flags |= PLX_REQ_TEXT | flags;
	m.max_new = 50;
	m.n_logprobs = n_top;
	plx_req_begin(&w, r.body, sizeof(r.body), &m);
	if (stop1)
		plx_req_stop(&w, stop1, strlen(stop1));
	if (stop2)
		plx_req_stop(&w, stop2, strlen(stop2));
	plx_req_prompt_text(&w, "p", 1);
	int n = plx_req_end(&w);

	assert_true(n > 0);
	assert_int_equal(plx_req_decode(&r.req.view, r.body, (size_t)n, &lim, UINT32_MAX, &f), 0);
	r.a.top = r.top;
	plx_detok_init(&r.a, tok, &r.req);
}

static void take_all(void)
{
	struct plx_ev ev;
	uint32_t bound = plx_detok_events(&r.a), n = 0;

	r.n_new = 0;
	for (; plx_detok_take(&r.a, &ev); n++) {
		assert_int_equal(ev.first_idx, r.n_ids);
		assert_true(ev.n_ids > 0 || ev.last);
		assert_true(ev.n_ids * ev.n_top <= PLX_EV_TOPS);
		assert_false(r.last);
		memcpy(r.text + r.n_text, ev.text, ev.text_bytes);
		r.n_text += ev.text_bytes;
		for (uint32_t i = 0; i < ev.n_ids; i++) {
			r.id[r.n_ids++] = ev.id[i];
			for (uint32_t k = 0; k < ev.n_top; k++)
				assert_int_equal(ev.top[i * ev.n_top + k].id,
				                 (uint32_t)ev.id[i] + k);
		}
		r.n_new = (uint16_t)(r.n_new + ev.n_ids);
		r.last = ev.last;
		r.n_events++;
	}
	assert_true(n <= bound);
}

static void push(int32_t id)
{
	struct plx_top top[PLX_MAX_TOP];

	for (int32_t k = 0; k < PLX_MAX_TOP; k++)
		top[k] = (struct plx_top){id + k, -1.0f};
	plx_detok_push(&r.a, id, -0.5f, top, 1);
	take_all();
}

static void finish(void)
{
	plx_detok_end(&r.a);
	take_all();
	assert_true(r.last);
	assert_int_equal(r.a.n_held, 0);
}

#define assert_text(s)                                                                             \
	do {                                                                                       \
		assert_int_equal(r.n_text, strlen(s));                                             \
		assert_memory_equal(r.text, s, strlen(s));                                         \
	} while (0)

static void test_detok_sends_each_token_at_once(void **state)
{
	(void)state;
	rig_open(0, 0, NULL, NULL);
	push(TINY_WORD(HE));
	assert_text("he");
	push(TINY_WORD(LLO));
	push(TINY_WORD(WORLD));
	assert_text("hello world");
	assert_int_equal(r.n_ids, 3);
	assert_false(r.last);
	finish();
	assert_int_equal(r.n_ids, 3);
	assert_int_equal(r.n_events, 4);
}

static void test_detok_keeps_the_space_after_a_text(void **state)
{
	(void)state;
	rig_open(0, 0, NULL, NULL);
	push(TINY_WORD(WORLD));
	assert_text(" world");
}

static void test_detok_stop_across_tokens(void **state)
{
	(void)state;
	rig_open(0, 0, "lo wor", NULL);
	push(TINY_WORD(HE));
	assert_int_equal(r.n_ids, 1);
	push(TINY_WORD(LLO));
	/* "l" is safe, but its token ends in what may be a stop. */
	assert_int_equal(r.n_ids, 1);
	assert_text("he");
	push(TINY_WORD(WORLD));
	assert_true(r.a.stopped);
	assert_text("hel");
	/* The token with the "l" goes; the one that lies in the stop does not. */
	assert_int_equal(r.n_ids, 2);
	assert_true(r.last);
	push(TINY_WORD(A));
	finish();
	assert_text("hel");
	assert_int_equal(r.n_ids, 2);
}

static void test_detok_stop_that_does_not_come(void **state)
{
	(void)state;
	rig_open(0, 0, "abcd", NULL);
	push(TINY_WORD(A));
	push(TINY_WORD(B));
	assert_int_equal(r.n_ids, 0);
	push(TINY_WORD(HE));
	assert_int_equal(r.n_new, 3);
	assert_text("abhe");
	assert_int_equal(r.n_events, 1);
	push(TINY_WORD(ABC));
	assert_int_equal(r.n_ids, 3);
	finish();
	assert_text("abheabc");
	assert_int_equal(r.n_ids, 4);
	assert_false(r.a.stopped);
}

static void test_detok_stop_at_the_very_beginning(void **state)
{
	(void)state;
	rig_open(0, 0, "ab", NULL);
	push(TINY_WORD(ABC));
	assert_true(r.a.stopped);
	assert_int_equal(r.n_ids, 0);
	assert_int_equal(r.n_events, 1);
	assert_true(r.last);
}

static void test_detok_earliest_of_two_stops(void **state)
{
	(void)state;
	rig_open(0, 0, "world", "llo wo");
	push(TINY_WORD(HE));
	push(TINY_WORD(LLO));
	push(TINY_WORD(WORLD));
	assert_text("he");
	assert_int_equal(r.n_ids, 1);
}

static void test_detok_holds_parts_of_a_character(void **state)
{
	(void)state;
	rig_open(0, 0, NULL, NULL);
	push(TINY_WORD(A));
	push(TINY_BYTE(0xe2));
	push(TINY_BYTE(0x82));
	assert_int_equal(r.n_ids, 1);
	push(TINY_BYTE(0xac));
	assert_int_equal(r.n_new, 3);
	assert_text("a\xe2\x82\xac");
}

static void test_detok_broken_character_becomes_replacement(void **state)
{
	(void)state;
	rig_open(0, 0, NULL, NULL);
	push(TINY_BYTE(0xe2));
	push(TINY_WORD(A));
	assert_int_equal(r.n_ids, 2);
	assert_text("\xef\xbf\xbd"
	            "a");
	push(TINY_BYTE(0xf0));
	assert_int_equal(r.n_ids, 2);
	finish();
	assert_int_equal(r.n_ids, 3);
	assert_text("\xef\xbf\xbd"
	            "a\xef\xbf\xbd");
}

static void test_detok_stop_begins_inside_a_waiting_token(void **state)
{
	(void)state;
	rig_open(0, 0, "\xe2\x82\xac!", NULL);
	push(TINY_WORD(EURO_A));
	assert_int_equal(r.n_ids, 0);
	push(TINY_BYTE('!'));
	assert_true(r.a.stopped);
	assert_text("x");
	assert_int_equal(r.n_ids, 1);
	assert_true(r.last);
}

static void test_detok_control_tokens_have_no_text(void **state)
{
	(void)state;
	rig_open(0, 0, "ab", NULL);
	push(TINY_BOS);
	assert_int_equal(r.n_ids, 1);
	push(TINY_WORD(A));
	push(TINY_BOS);
	assert_int_equal(r.n_ids, 1);
	push(TINY_WORD(B));
	/* The text of the stop is not sent, nor are the tokens it lies in; what has none of it and
	 * stands before it is. */
	assert_int_equal(r.n_ids, 1);
	assert_int_equal(r.n_text, 0);
}

/* More tokens wait than the table holds: those without text are left out, no text is lost. */
static void test_detok_full_table_leaves_out_empty_tokens(void **state)
{
	(void)state;
	rig_open(0, 0, "ab", NULL);
	push(TINY_WORD(A));
	for (int i = 0; i < 300; i++)
		push(TINY_BOS);
	assert_int_equal(r.n_ids, 0);
	push(TINY_WORD(A));
	finish();
	assert_text("aa");
}

static void test_detok_long_texts_are_split(void **state)
{
	(void)state;
	rig_open(0, 0, "abz", NULL);
	for (int i = 0; i < 3; i++) {
		push(TINY_WORD(LONG));
		assert_int_equal(r.n_ids, i + 1);
	}
	assert_int_equal(r.n_text, 600);
	rig_open(PLX_REQ_LOGPROBS, 20, NULL, NULL);
	push(TINY_WORD(A));
	push(TINY_WORD(LONG));
	assert_int_equal(r.n_text, 201);
}

static void test_detok_many_waiting_tokens_with_alternatives(void **state)
{
	char stop[129];

	(void)state;
	memset(stop, 'a', 127);
	stop[127] = 'b';
	stop[128] = 0;
	rig_open(PLX_REQ_LOGPROBS, 20, stop, NULL);
	for (int i = 0; i < 127; i++)
		push(TINY_WORD(A));
	assert_int_equal(r.n_ids, 0);
	push(TINY_WORD(HE));
	assert_int_equal(r.n_ids, 128);
	assert_int_equal(r.n_events, 64);
	assert_int_equal(r.n_text, 129);
}

static void test_detok_ids_alone(void **state)
{
	(void)state;
	rig_open(PLX_REQ_NO_TEXT, 0, NULL, NULL);
	push(TINY_BYTE(0xe2));
	push(TINY_WORD(HE));
	assert_int_equal(r.n_ids, 2);
	assert_int_equal(r.n_text, 0);
	finish();
}

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

/* Against the text decoded at once: nothing of a stop is sent, nothing else is missing. */
static void test_detok_random_answers(void **state)
{
	static const char *stops[] = {"ab", "aab", "abcab", "lo", "hehe", "\xe2\x82\xac", "xab"};

	(void)state;
	rng_state = 5;
	for (uint32_t round = 0; round < 3000; round++) {
		const char *stop = stops[rnd(7)];
		struct plx_tok_stream st;
		char all[4096];
		size_t n = 0;
		uint32_t len = 1 + rnd(40);

		rig_open(0, 0, stop, NULL);
		plx_tok_stream_init(&st, tok, PLX_TOK_KEEP_SPACE);
		for (uint32_t i = 0; i < len; i++) {
			int32_t id = rnd(5) ? TINY_WORD((int32_t)rnd(N_WORDS - 1))
			                    : TINY_BYTE(0xe2 - (int32_t)rnd(3) * 0x30);

			n += (size_t)plx_tok_stream_push(&st, id, all + n, 1024);
			push(id);
		}
		n += (size_t)plx_tok_stream_flush(&st, all + n, 1024);
		finish();
		char *hit = memmem(all, n, stop, strlen(stop));

		assert_int_equal(r.n_text, hit ? (size_t)(hit - all) : n);
		assert_memory_equal(r.text, all, r.n_text);
		assert_int_equal(r.a.stopped, hit != NULL);
		if (!hit)
			assert_int_equal(r.n_ids, len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_detok_sends_each_token_at_once),
	    cmocka_unit_test(test_detok_keeps_the_space_after_a_text),
	    cmocka_unit_test(test_detok_stop_across_tokens),
	    cmocka_unit_test(test_detok_stop_that_does_not_come),
	    cmocka_unit_test(test_detok_stop_at_the_very_beginning),
	    cmocka_unit_test(test_detok_earliest_of_two_stops),
	    cmocka_unit_test(test_detok_holds_parts_of_a_character),
	    cmocka_unit_test(test_detok_broken_character_becomes_replacement),
	    cmocka_unit_test(test_detok_stop_begins_inside_a_waiting_token),
	    cmocka_unit_test(test_detok_control_tokens_have_no_text),
	    cmocka_unit_test(test_detok_full_table_leaves_out_empty_tokens),
	    cmocka_unit_test(test_detok_long_texts_are_split),
	    cmocka_unit_test(test_detok_many_waiting_tokens_with_alternatives),
	    cmocka_unit_test(test_detok_ids_alone),
	    cmocka_unit_test(test_detok_random_answers),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
