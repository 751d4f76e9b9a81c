/* What is left out of a prompt: marks from the text, units by self-information, goals. */
#include "dataplane/batch/compress_kv.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define MOST 256

/* A text cut into words, each with the space in front of it, as byte-level vocabularies do. */
struct cut {
	const char *text;
	uint32_t n;
	uint32_t end[MOST];
	uint8_t mark[MOST];
};

static struct cut cut_words(const char *text)
{
	struct cut c = {.text = text};
	uint32_t len = (uint32_t)strlen(text);

	for (uint32_t i = 0; i < len;) {
		i++;
		while (i < len && text[i] != ' ' && text[i] != '\n')
			i++;
		c.end[c.n++] = i;
	}
	return c;
}

static void mark_all(struct cut *c, bool asks)
{
	struct plx_compress_span s = {0, (uint32_t)strlen(c->text), asks};

	plx_compress_mark(c->text, c->end, c->n, &s, 1, c->mark);
}

/* One letter a token: K keep, u unit, B both, . neither. */
static const char *picture(const struct cut *c)
{
	static char p[MOST + 1];

	for (uint32_t i = 0; i < c->n; i++)
		p[i] = ".KuB"[c->mark[i] & 3];
	p[c->n] = 0;
	return p;
}

static void test_compress_mark_phrases_end_at_punctuation(void **state)
{
	struct cut c = cut_words("the sun rose, it was warm. we left");

	(void)state;
	mark_all(&c, false);
	assert_string_equal(picture(&c), "u..u..u.");
	c = cut_words("one two three four five six seven eight nine ten");
	mark_all(&c, false);
	assert_string_equal(picture(&c), "u..u..u..u");
	c = cut_words("a line\nand another");
	mark_all(&c, false);
	assert_string_equal(picture(&c), "u.u.");
}

static void test_compress_mark_keeps_numbers_and_names(void **state)
{
	struct cut c = cut_words("The road to Bern is 90 km long. It was I who saw NASA");

	(void)state;
	mark_all(&c, false);
	/* "The" and "It" begin sentences, "I" is no name. */
	assert_string_equal(picture(&c), "u..B.Ku.u..u.K");
}

static void test_compress_mark_keeps_what_asks(void **state)
{
	struct cut c = cut_words("it rained. where did she go? then home");

	(void)state;
	mark_all(&c, true);
	assert_string_equal(picture(&c), "u.BKKBu.");
	mark_all(&c, false);
	assert_string_equal(picture(&c), "u.u..uu.");
	c = cut_words("is \"this it?\" no");
	mark_all(&c, true);
	assert_string_equal(picture(&c), "BKKu");
}

static void test_compress_mark_touches_spans_only(void **state)
{
	struct cut c = cut_words("be kind. the sky was grey. be brief.");
	struct plx_compress_span s = {8, 26, false};

	(void)state;
	plx_compress_mark(c.text, c.end, c.n, &s, 1, c.mark);
	assert_string_equal(picture(&c), "KKu..uBK");
	plx_compress_keep(c.end, c.n, 12, 14, c.mark); /* within " sky" */
	assert_string_equal(picture(&c), "KKuK.uBK");
	plx_compress_mark(c.text, c.end, c.n, NULL, 0, c.mark);
	assert_string_equal(picture(&c), "KKKKKKKK");
}

static void test_compress_follow_passes_a_prefix_and_stops_at_another_text(void **state)
{
	uint32_t at = 0;

	(void)state;
	assert_true(plx_compress_follow("to be", 5, &at, (const uint8_t *)" to", 3));
	assert_int_equal(at, 2);
	assert_true(plx_compress_follow("to be", 5, &at, (const uint8_t *)" be", 3));
	assert_int_equal(at, 5);
	assert_false(plx_compress_follow("to be", 5, &at, (const uint8_t *)"x", 1));
}

/* Three units of three tokens: dull, rich, duller. The first token always stays. */
static const uint8_t units[9] = {2, 0, 0, 2, 0, 0, 2, 0, 0};
static const float logp[9] = {0, -1, -1, -3, -3, -3, -0.5f, -0.5f, -0.5f};

static uint32_t prune(bool by_loss, float target, int32_t out[9], struct plx_compress_result *r)
{
	struct plx_compress_goal g = {by_loss, target};

	for (int32_t i = 0; i < 9; i++)
		out[i] = i;
	return plx_compress_prune(out, units, logp, 9, &g, r);
}

static void test_compress_prune_takes_the_dullest_first(void **state)
{
	static const int32_t first6[6] = {0, 1, 2, 3, 4, 5}, rich[4] = {0, 3, 4, 5};
	struct plx_compress_result r;
	int32_t ids[9];

	(void)state;
	assert_int_equal(prune(false, 6.0f / 9, ids, &r), 6);
	assert_memory_equal(ids, first6, sizeof(first6));
	assert_int_equal(r.n_removed, 3);
	assert_float_equal(r.loss, 0.12f, 1e-6f);
	assert_int_equal(prune(false, 4.0f / 9, ids, &r), 4);
	assert_memory_equal(ids, rich, sizeof(rich));
	assert_float_equal(r.loss, 0.28f, 1e-6f);
}

static void test_compress_prune_never_goes_past_the_goal(void **state)
{
	struct plx_compress_result r;
	int32_t ids[9];

	(void)state;
	for (uint32_t k = 1; k <= 100; k++) {
		float ratio = (float)k / 100;
		uint32_t n = prune(false, ratio, ids, &r);

		assert_true((float)n >= ratio * 9 - 1e-3f);
		assert_int_equal(n + r.n_removed, 9);
		(void)prune(true, ratio * 0.99f, ids, &r);
		assert_true(r.loss <= ratio * 0.99f + 1e-6f);
	}
	/* A third of the information: the dullest two units have 3.5 of 12.5. */
	assert_int_equal(prune(true, 0.3f, ids, &r), 4);
	assert_int_equal(prune(true, 0.2f, ids, &r), 6);
	assert_int_equal(prune(true, 0, ids, &r), 9);
	assert_int_equal(prune(false, 1, ids, &r), 9);
	assert_int_equal(r.n_removed, 0);
}

static void test_compress_prune_leaves_what_is_kept(void **state)
{
	static const uint8_t mark[6] = {2, 1, 0, 3, 1, 1};
	static const float flat[6] = {0, -1, -1, -1, -1, -1};
	static const int32_t stay[5] = {10, 11, 13, 14, 15};
	struct plx_compress_goal g = {false, 0.1f};
	struct plx_compress_result r;
	int32_t ids[6] = {10, 11, 12, 13, 14, 15};

	(void)state;
	assert_int_equal(plx_compress_prune(ids, mark, flat, 6, &g, &r), 5);
	assert_memory_equal(ids, stay, sizeof(stay));
	assert_int_equal(plx_compress_prune(ids, mark, flat, 1, &g, &r), 1);
	assert_int_equal(plx_compress_prune(ids, mark, flat, 0, &g, &r), 0);
}

static void test_compress_prune_takes_strange_numbers_for_none(void **state)
{
	static const float odd[9] = {NAN, NAN, INFINITY, -INFINITY, 1, -1e30f, NAN, -1, -2};
	struct plx_compress_goal g = {true, 0.5f};
	struct plx_compress_result r;
	int32_t ids[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};

	(void)state;
	uint32_t n = plx_compress_prune(ids, units, odd, 9, &g, &r);

	assert_true(n >= 1 && n <= 9);
	assert_true(r.loss >= 0 && r.loss <= 0.5f);
}

static void test_compress_kv_keeps_what_is_seen(void **state)
{
	float seen[100];
	uint64_t keep[2];
	struct plx_compress_result r;
	struct plx_compress_goal half = {false, 0.5f}, little = {true, 0.1f};

	(void)state;
	for (uint32_t p = 0; p < 100; p++)
		seen[p] = p == 40 ? 9 : p < 20 ? 1 : 0.25f;
	assert_int_equal(plx_evict_choose(seen, 100, &half, keep, &r), 50);
	assert_int_equal(r.n_removed, 50);
	/* The first four, the last sixteen, the heavy one with three on either side, the seen ones.
	 */
	for (uint32_t p = 0; p < 100; p++)
		if (p < 20 || p >= 84 || (p >= 37 && p <= 43))
			assert_true(keep[p / 64] >> (p % 64) & 1);
	assert_float_equal(r.loss, 50 * 0.25f / (20 + 9 + 79 * 0.25f), 1e-5f);
	uint32_t stay = plx_evict_choose(seen, 100, &little, keep, &r);

	assert_int_equal(stay, 100 - 19); /* 0.1 of 48.75 is 19 times 0.25 */
	assert_true(r.loss <= 0.1f);
}

static void test_compress_kv_bounds(void **state)
{
	float seen[100] = {NAN, -1, INFINITY};
	uint64_t keep[2];
	struct plx_compress_result r;
	struct plx_compress_goal all = {false, 0.01f}, none = {true, 0};

	(void)state;
	/* Nothing was seen: what may go goes, but for the first and the last. */
	assert_int_equal(plx_evict_choose(seen, 100, &all, keep, &r), 20);
	assert_true(r.loss >= 0 && r.loss <= 1);
	for (uint32_t n = 1; n <= 20; n++)
		assert_int_equal(plx_evict_choose(seen, n, &all, keep, &r), n);
	for (uint32_t p = 0; p < 100; p++)
		seen[p] = 1;
	assert_int_equal(plx_evict_choose(seen, 100, &none, keep, &r), 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_compress_mark_phrases_end_at_punctuation),
	    cmocka_unit_test(test_compress_mark_keeps_numbers_and_names),
	    cmocka_unit_test(test_compress_mark_keeps_what_asks),
	    cmocka_unit_test(test_compress_mark_touches_spans_only),
	    cmocka_unit_test(test_compress_follow_passes_a_prefix_and_stops_at_another_text),
	    cmocka_unit_test(test_compress_prune_takes_the_dullest_first),
	    cmocka_unit_test(test_compress_prune_never_goes_past_the_goal),
	    cmocka_unit_test(test_compress_prune_leaves_what_is_kept),
	    cmocka_unit_test(test_compress_prune_takes_strange_numbers_for_none),
	    cmocka_unit_test(test_compress_kv_keeps_what_is_seen),
	    cmocka_unit_test(test_compress_kv_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
