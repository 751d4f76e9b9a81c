/* REQ: written, read back, and every way in which it can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/req.h"

static const struct plx_wire_limits lim = {.max_request_bytes = 4096,
                                           .max_prompt_tokens = 100,
                                           .max_new = 64,
                                           .max_samples = 4,
                                           .max_stops = 2,
                                           .max_stop_bytes = 16,
                                           .max_logprobs = 5};
#define ALL UINT32_MAX

static uint8_t buf[4096];
static struct plx_req_view v;
static struct plx_req_fault f;

static struct plx_msg_req block(void)
{
	struct plx_msg_req m = plx_msg_req_init();

	m.max_new = 10;
	return m;
}

static int decode(int n)
{
	assert_true(n > 0);
	memset(&f, 0, sizeof(f));
	return plx_req_decode(&v, buf, (size_t)n, &lim, ALL, &f);
}

static int text(struct plx_msg_req m)
{
	struct plx_req_writer w;

	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_prompt_text(&w, "hello", 5);
	return plx_req_end(&w);
}

static void test_req_text_round_trip(void **state)
{
	(void)state;
	assert_int_equal(text(block()), 93);
	assert_int_equal(decode(93), 0);
	assert_int_equal(v.m.prompt_bytes, 5);
	assert_memory_equal(v.prompt, "hello", 5);
	assert_int_equal(v.features, PLX_FEAT_GENERATE | PLX_FEAT_TEXT);
	assert_true(v.m.temperature == 0.0f && v.m.top_p == 1.0f);
}

static void test_req_ids_and_options_round_trip(void **state)
{
	const uint32_t ids[3] = {1, 2, 300}, done[2] = {7, 8};
	const struct plx_msg_top bias[2] = {{5, -100.0f}, {6, 2.5f}};
	struct plx_req_writer w;
	struct plx_req_tlv tlv;
	const uint8_t *value;
	struct plx_msg_req m = block();
	uint32_t off = 0;

	(void)state;
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_stop(&w, "\n\n", 2);
	plx_req_resume(&w, 0, done, 2);
	plx_req_stop(&w, "END", 3);
	plx_req_bias(&w, bias, 2);
	plx_req_opt(&w, 900, "later", 5); /* unknown, not critical: ignored */
	plx_req_prompt_ids(&w, ids, 3);
	int n = plx_req_end(&w);

	assert_int_equal(n, 88 + 12 + 24 + 12 + 24 + 16 + 12);
	assert_int_equal(decode(n), 0);
	assert_int_equal(v.m.prompt_tokens, 3);
	assert_int_equal(plx_req_id(&v, 2), 300);
	assert_int_equal(v.n_stops, 2);
	assert_int_equal(plx_req_opt_next(&v, &off, PLX_OPT_STOP, &tlv, &value), 1);
	assert_memory_equal(value, "\n\n", 2);
	assert_int_equal(plx_req_opt_next(&v, &off, PLX_OPT_STOP, &tlv, &value), 1);
	assert_int_equal(tlv.bytes, 3);
	assert_int_equal(plx_req_opt_next(&v, &off, PLX_OPT_STOP, &tlv, &value), 0);
	off = 0;
	assert_int_equal(plx_req_opt_next(&v, &off, PLX_OPT_RESUME, &tlv, &value), 1);
	assert_int_equal(plx_get_u32(value + 12), 8);
}

static void test_req_continues_another(void **state)
{
	const uint32_t had[2] = {7, 8};
	struct plx_req_writer w;
	struct plx_msg_req m = block();
	uint32_t count;

	(void)state;
	m.n_samples = 2;
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_continue(&w, UINT64_C(0x100000002), 3);
	plx_req_resume(&w, 1, had, 2);
	plx_req_prompt_text(&w, NULL, 0); /* nothing new: go on where it was cut */
	int n = plx_req_end(&w);

	assert_int_equal(n, 88 + 20 + 24);
	assert_int_equal(plx_get_u32(buf + PLX_REQ_CONTINUE_AT), 2);
	assert_int_equal(decode(n), 0);
	assert_int_equal(v.continued, UINT64_C(0x100000002));
	assert_int_equal(v.continued_sample, 3);
	assert_int_equal(v.m.prompt_bytes, 0);
	assert_int_equal(v.features & (PLX_FEAT_CONTINUE | PLX_FEAT_RESUME),
	                 PLX_FEAT_CONTINUE | PLX_FEAT_RESUME);
	assert_null(plx_req_resumed(&v, 0, &count));
	assert_int_equal(count, 0);
	const uint8_t *ids = plx_req_resumed(&v, 1, &count);

	assert_int_equal(count, 2);
	assert_int_equal(plx_get_u32(ids + 4), 8);
	/* Without it an empty prompt is refused, by the writer and by the reader. */
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_prompt_text(&w, NULL, 0);
	assert_int_equal(plx_req_end(&w), PLX_E_INVAL);
	n = text(m);
	plx_put_u32(buf, 88);
	plx_put_u32(buf + 24, 0);
	assert_int_equal(decode(n - 5), PLX_E_BAD_REQUEST);
	assert_string_equal(f.detail, "the prompt is empty");
}

static void test_req_messages_round_trip(void **state)
{
	struct plx_req_writer w;
	struct plx_req_message m;
	struct plx_msg_req b = block();
	const char *content;
	uint32_t off = 0;

	(void)state;
	plx_req_begin(&w, buf, sizeof(buf), &b);
	plx_req_message(&w, PLX_ROLE_SYSTEM, "be brief", 8);
	plx_req_message(&w, PLX_ROLE_USER, "why?", 4);
	plx_req_message(&w, PLX_ROLE_ASSISTANT, "", 0);
	plx_req_stop(&w, "x", 1);
	int n = plx_req_end(&w);

	assert_int_equal(decode(n), 0);
	assert_int_equal(v.n_messages, 3);
	assert_int_equal(plx_req_message_next(&v, &off, &m, &content), 1);
	assert_int_equal(m.role, PLX_ROLE_SYSTEM);
	assert_int_equal(m.bytes, 8);
	assert_memory_equal(content, "be brief", 8);
	assert_int_equal(plx_req_message_next(&v, &off, &m, &content), 1);
	assert_memory_equal(content, "why?", 4);
	assert_int_equal(plx_req_message_next(&v, &off, &m, &content), 1);
	assert_int_equal(m.bytes, 0);
	assert_int_equal(plx_req_message_next(&v, &off, &m, &content), 0);
}

static void test_req_writer_refuses_misuse(void **state)
{
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	(void)state;
	plx_req_begin(&w, buf, 90, &m);
	plx_req_prompt_text(&w, "hello", 5);
	assert_int_equal(plx_req_end(&w), PLX_E_LIMIT);
	plx_req_begin(&w, buf, 80, &m);
	assert_int_equal(plx_req_end(&w), PLX_E_LIMIT);
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_prompt_text(&w, "a", 1);
	plx_req_stop(&w, "b", 1);
	assert_int_equal(plx_req_end(&w), PLX_E_INVAL);
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_prompt_text(&w, "", 0);
	assert_int_equal(plx_req_end(&w), PLX_E_INVAL);
}

static void expect_bad(struct plx_msg_req m, int err)
{
	assert_int_equal(decode(text(m)), err);
	assert_int_equal(f.err, err);
	assert_true(f.detail[0] != 0);
}

static void test_req_block_out_of_range(void **state)
{
	struct plx_msg_req m;
	static const float bad_t[] = {-0.1f, 101.0f, NAN, INFINITY};
	static const float bad_p[] = {0.0f, 1.5f, NAN};

	(void)state;
	for (size_t i = 0; i < 4; i++)
		m = block(), m.temperature = bad_t[i], expect_bad(m, PLX_E_BAD_REQUEST);
	for (size_t i = 0; i < 3; i++)
		m = block(), m.top_p = bad_p[i], expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.min_p = 1.0f, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.repeat_penalty = 0.0f, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.kind = 3, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.flags |= 1u << 20, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.n_samples = 0, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.n_samples = 5, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.max_new = 0, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.max_new = 65, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.n_logprobs = 1, expect_bad(m, PLX_E_BAD_REQUEST);
	m = block(), m.zero = 1, expect_bad(m, PLX_E_BAD_REQUEST);
}

static void test_req_lengths_that_lie(void **state)
{
	int n = text(block());

	(void)state;
	for (int cut = 1; cut < n; cut++)
		assert_int_equal(decode(cut), PLX_E_BAD_REQUEST);
	plx_put_u32(buf + 28, 0xfffffffc); /* options_bytes that would wrap a 32-bit sum */
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	text(block());
	plx_put_u32(buf + 24, 6); /* prompt_bytes */
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	text(block());
	plx_put_u32(buf + 20, 1); /* prompt_tokens with text */
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	text(block());
	plx_put_u32(buf + 8, PLX_REQ_TEXT | PLX_REQ_IDS);
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	text(block());
	buf[90] = 0xff; /* not UTF-8 */
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
}

static void test_req_over_a_limit_is_too_large(void **state)
{
	static const uint32_t ids[101];
	static uint8_t big[8192];
	struct plx_req_writer w;
	struct plx_msg_req m = block();
	static char prompt[4100];

	(void)state;
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_prompt_ids(&w, ids, 101);
	assert_int_equal(decode(plx_req_end(&w)), PLX_E_TOO_LARGE);
	memset(prompt, 'a', sizeof(prompt));
	plx_req_begin(&w, big, sizeof(big), &m);
	plx_req_prompt_text(&w, prompt, sizeof(prompt));
	int n = plx_req_end(&w);

	assert_int_equal(plx_req_decode(&v, big, (size_t)n, &lim, ALL, &f), PLX_E_TOO_LARGE);
}

/* One option of these bytes; returns what decoding says. */
static int with_option(uint16_t type, const void *value, uint32_t bytes)
{
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_opt(&w, type, value, bytes);
	plx_req_prompt_text(&w, "p", 1);
	return decode(plx_req_end(&w));
}

static void expect_option(uint16_t type, const void *value, uint32_t bytes)
{
	assert_int_equal(with_option(type, value, bytes), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, type & 0x7fff);
}

static void test_req_bad_options_are_named(void **state)
{
	static const uint8_t nan_bias[8] = {1, 0, 0, 0, 0, 0, 0xc0, 0x7f};
	static const uint8_t resume[12] = {4, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0};
	static const uint8_t image[16] = {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0};
	static const uint8_t grammar[5] = {3, 0, 0, 0, 'x'};

	(void)state;
	expect_option(0x8000 | 900, "x", 1); /* unknown and critical */
	assert_int_equal(with_option(900, "x", 1), 0);
	expect_option(PLX_OPT_STOP, "", 0);
	expect_option(PLX_OPT_STOP, "seventeen bytes..", 17);
	expect_option(PLX_OPT_STOP, "\xff", 1);
	expect_option(PLX_OPT_MESSAGES, "\1\0\0\0", 4); /* without the flag */
	expect_option(PLX_OPT_RESUME, resume, 12);      /* sample 4 of 1 */
	expect_option(PLX_OPT_RESUME, resume, 8);
	expect_option(PLX_OPT_CONTINUE, "12345678", 8);
	expect_option(PLX_OPT_CONTINUE, "\0\0\0\0\0\0\0\0\0\0\0", 12);   /* request 0 */
	expect_option(PLX_OPT_CONTINUE, "\1\0\0\0\0\0\0\0\100\0\0", 12); /* sample 64 */
	expect_option(PLX_OPT_LOGIT_BIAS, nan_bias, 8);
	expect_option(PLX_OPT_LOGIT_BIAS, nan_bias, 7);
	expect_option(PLX_OPT_GRAMMAR, grammar, 5);
	expect_option(PLX_OPT_IMAGE, image, 16); /* one pixel, no bytes */
}

static int with_compress(struct plx_req_compress c, const struct plx_req_keep *keep)
{
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_prune(&w, &c, keep);
	plx_req_message(&w, PLX_ROLE_SYSTEM, "be brief", 8);
	plx_req_message(&w, PLX_ROLE_USER, "hello there", 11);
	return decode(plx_req_end(&w));
}

static void test_req_compress_round_trip(void **state)
{
	struct plx_req_keep keep[2] = {{1, 0, 5}, {0, 7, 8}};
	struct plx_req_compress c = {.by = PLX_COMPRESS_RATIO,
	                             .keep_roles = 4,
	                             .how = PLX_COMPRESS_KV | PLX_COMPRESS_LATE,
	                             .target = 0.5f};

	(void)state;
	assert_int_equal(text(block()), 93);
	assert_int_equal(decode(93), 0);
	assert_int_equal(v.compress.by, 0);
	c.n_keep = 2;
	assert_int_equal(with_compress(c, keep), 0);
	assert_true(v.m.flags & PLX_REQ_COMPRESS);
	assert_true(v.features & PLX_FEAT_PRUNE);
	assert_memory_equal(&v.compress, &c, sizeof(c));
	assert_int_equal(plx_req_keep_at(&v, 0).end, 5);
	assert_int_equal(plx_req_keep_at(&v, 1).first, 7);
	c = (struct plx_req_compress){.by = PLX_COMPRESS_LOSS, .target = 0};
	assert_int_equal(with_compress(c, NULL), 0);
}

static void expect_compress(struct plx_req_compress c, const struct plx_req_keep *keep)
{
	assert_int_equal(with_compress(c, keep), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_COMPRESS);
}

static void test_req_compress_bad_targets_are_named(void **state)
{
	static const float bad_ratio[] = {0, -0.5f, 1.001f, NAN, INFINITY};
	static const float bad_loss[] = {-0.001f, 1, NAN, INFINITY};
	struct plx_req_compress c = {.by = PLX_COMPRESS_RATIO, .target = 0.5f};
	struct plx_req_keep past = {1, 0, 12}, none = {1, 3, 3}, nowhere = {2, 0, 1};

	(void)state;
	for (uint32_t i = 0; i < 5; i++)
		c.target = bad_ratio[i], expect_compress(c, NULL);
	for (uint32_t i = 0; i < 4; i++)
		c.by = PLX_COMPRESS_LOSS, c.target = bad_loss[i], expect_compress(c, NULL);
	c = (struct plx_req_compress){.by = 0, .target = 0.5f}, expect_compress(c, NULL);
	c.by = 3, expect_compress(c, NULL);
	c.by = PLX_COMPRESS_RATIO, c.keep_roles = 16, expect_compress(c, NULL);
	c.keep_roles = 0, c.zero = 1, expect_compress(c, NULL);
	c.zero = 0, c.how = 8, expect_compress(c, NULL);
	c.how = PLX_COMPRESS_LATE, expect_compress(c, NULL);
	c.how = PLX_COMPRESS_PROMPT;
	c.zero = 0, c.n_keep = 1, expect_compress(c, &past);
	expect_compress(c, &none);
	expect_compress(c, &nowhere);
	/* Without the flag it is refused, and where it does not run. */
	c.n_keep = 0;
	expect_option(PLX_OPT_COMPRESS, &c, sizeof(c));
	assert_int_equal(with_compress(c, NULL), 0);
	assert_int_equal(
	    plx_req_decode(&v, buf, v.m.message_bytes, &lim, ALL & ~(uint32_t)PLX_FEAT_PRUNE, &f),
	    PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_COMPRESS);
}

static void test_req_compress_that_removes_all_is_refused(void **state)
{
	static const uint32_t ids[9] = {0};
	struct plx_req_compress c = {.by = PLX_COMPRESS_RATIO, .target = 0.1f};
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	(void)state;
	for (uint32_t n = 8; n <= 9; n++) {
		plx_req_begin(&w, buf, sizeof(buf), &m);
		c.target = 1.0f / 9;
		plx_req_prune(&w, &c, NULL);
		plx_req_prompt_ids(&w, ids, n);
		assert_int_equal(decode(plx_req_end(&w)), n == 8 ? PLX_E_BAD_REQUEST : 0);
		assert_int_equal(f.option, n == 8 ? PLX_OPT_COMPRESS : 0);
	}
}

static int with_best(uint16_t n_samples, uint16_t n_made, uint32_t have)
{
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	m.n_samples = n_samples;
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_best_of(&w, n_made);
	plx_req_prompt_text(&w, "p", 1);
	return plx_req_decode(&v, buf, (size_t)plx_req_end(&w), &lim, have, &f);
}

static int with_sparse(uint32_t flags, uint16_t mass, uint16_t chunks, uint32_t have)
{
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	m.flags |= flags;
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_sparse(&w, mass, chunks);
	plx_req_prompt_text(&w, "p", 1);
	return plx_req_decode(&v, buf, (size_t)plx_req_end(&w), &lim, have, &f);
}

static void test_req_sparse_says_how_much_is_read(void **state)
{
	static const uint8_t cut[3] = {2, 0, 0};
	const uint32_t all = ALL | PLX_FEAT_SPARSE | PLX_FEAT_DETERMINISTIC;

	(void)state;
	assert_int_equal(with_sparse(0, 950, 8, all), 0);
	assert_int_equal(v.sparse.mass, 950);
	assert_int_equal(v.sparse.chunks, 8);
	assert_true(v.features & PLX_FEAT_SPARSE);
	assert_int_equal(with_sparse(0, 0, 1, all), 0);
	assert_int_equal(with_sparse(PLX_REQ_DETERMINISTIC, 1000, 0, all), 0);
	assert_int_equal(with_sparse(PLX_REQ_DETERMINISTIC, 999, 0, all), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_SPARSE);
	assert_int_equal(with_sparse(0, 0, 0, all), PLX_E_BAD_REQUEST);
	assert_int_equal(with_sparse(0, 1001, 0, all), PLX_E_BAD_REQUEST);
	assert_int_equal(with_sparse(0, 900, 0, all & ~(uint32_t)PLX_FEAT_SPARSE),
	                 PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_SPARSE);
	expect_option(PLX_OPT_SPARSE, cut, sizeof(cut));
}

static void test_req_best_of_is_within_limits(void **state)
{
	static const uint8_t cut[3] = {2, 0, 0}, reserved[4] = {2, 0, 1, 0};
	static const uint32_t had[1] = {5};
	const uint16_t most = (uint16_t)lim.max_samples;
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	(void)state;
	assert_int_equal(with_best(1, most, ALL), 0);
	assert_int_equal(v.n_made, most);
	assert_int_equal(plx_req_runs(&v), most);
	assert_int_equal(with_best(2, 2, ALL), 0);
	assert_int_equal(with_best(2, 1, ALL), PLX_E_BAD_REQUEST); /* below n_samples */
	assert_int_equal(f.option, PLX_OPT_BEST_OF);
	assert_int_equal(with_best(1, 1, ALL), PLX_E_BAD_REQUEST);
	assert_int_equal(with_best(1, (uint16_t)(most + 1), ALL), PLX_E_BAD_REQUEST);
	assert_int_equal(with_best(1, 2, ALL & ~(uint32_t)PLX_FEAT_BEST_OF), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_BEST_OF);
	expect_option(PLX_OPT_BEST_OF, cut, sizeof(cut));
	expect_option(PLX_OPT_BEST_OF, reserved, sizeof(reserved));
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_resume(&w, 0, had, 1);
	plx_req_best_of(&w, 2);
	plx_req_prompt_text(&w, "p", 1);
	assert_int_equal(decode(plx_req_end(&w)), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_RESUME);
}

static void test_req_options_cut_short(void **state)
{
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	(void)state;
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_stop(&w, "ab", 2);
	plx_req_prompt_text(&w, "p", 1);
	int n = plx_req_end(&w);

	plx_put_u32(buf + 88 + 4, 5); /* the value would reach into the prompt */
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	plx_put_u32(buf + 88 + 4, UINT32_MAX);
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_STOP);
}

static void test_req_needs_features_that_run(void **state)
{
	int n = text(block());
	uint32_t have = PLX_FEAT_GENERATE | PLX_FEAT_TEXT;

	(void)state;
	assert_int_equal(plx_req_decode(&v, buf, (size_t)n, &lim, have, &f), 0);
	assert_int_equal(plx_req_decode(&v, buf, (size_t)n, &lim, PLX_FEAT_GENERATE, &f),
	                 PLX_E_BAD_REQUEST);
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_stop(&w, "x", 1);
	plx_req_prompt_text(&w, "p", 1);
	n = plx_req_end(&w);
	assert_int_equal(plx_req_decode(&v, buf, (size_t)n, &lim, have, &f), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_STOP);
}

static void test_req_messages_malformed(void **state)
{
	struct plx_req_writer w;
	struct plx_msg_req m = block();

	(void)state;
	plx_req_begin(&w, buf, sizeof(buf), &m);
	plx_req_message(&w, PLX_ROLE_USER, "hi", 2);
	int n = plx_req_end(&w);

	assert_int_equal(decode(n), 0);
	buf[100] = 4; /* role */
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	buf[100] = 1;
	plx_put_u32(buf + 104, 5);
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	plx_put_u32(buf + 104, 2);
	plx_put_u32(buf + 96, 2); /* says two */
	assert_int_equal(decode(n), PLX_E_BAD_REQUEST);
	assert_int_equal(f.option, PLX_OPT_MESSAGES);
	plx_req_begin(&w, buf, sizeof(buf), &m);
	assert_int_equal(decode(plx_req_end(&w)), PLX_E_BAD_REQUEST); /* no messages at all */
	assert_int_equal(f.option, PLX_OPT_MESSAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_req_text_round_trip),
	    cmocka_unit_test(test_req_ids_and_options_round_trip),
	    cmocka_unit_test(test_req_continues_another),
	    cmocka_unit_test(test_req_messages_round_trip),
	    cmocka_unit_test(test_req_writer_refuses_misuse),
	    cmocka_unit_test(test_req_block_out_of_range),
	    cmocka_unit_test(test_req_lengths_that_lie),
	    cmocka_unit_test(test_req_over_a_limit_is_too_large),
	    cmocka_unit_test(test_req_bad_options_are_named),
	    cmocka_unit_test(test_req_compress_round_trip),
	    cmocka_unit_test(test_req_compress_bad_targets_are_named),
	    cmocka_unit_test(test_req_compress_that_removes_all_is_refused),
	    cmocka_unit_test(test_req_best_of_is_within_limits),
	    cmocka_unit_test(test_req_sparse_says_how_much_is_read),
	    cmocka_unit_test(test_req_options_cut_short),
	    cmocka_unit_test(test_req_needs_features_that_run),
	    cmocka_unit_test(test_req_messages_malformed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
