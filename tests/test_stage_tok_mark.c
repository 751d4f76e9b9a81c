/* Which tokens of a prompt stay: by role, by span, by what they say, wherever the text came from.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/stage_tok_int.h"
#include "tests/lib/tiny_vocab.h"

#define MOST 256u

/* A prompt of one token a byte. */
struct world {
	struct plx_stage_tok s;
	struct plx_req r;
	struct plx_tok *tok;
	char text[MOST];
	int32_t ids[MOST];
	uint8_t mark[MOST];
	uint32_t end[MOST];
	struct plx_chat_msg msg[2];
	struct plx_chat_seg seg[5];
	struct plx_compress_span span[5];
};

static struct world w;

static void begin(uint32_t flags)
{
	memset(&w, 0, sizeof(w));
	w.tok = plx_tiny_vocab(NULL, 0);
	w.s.tok = w.tok;
	w.r.ids = w.ids;
	w.r.mark = w.mark;
	w.r.view.m.flags = flags;
	w.s.in = (struct plx_tok_in){.req = &w.r,
	                             .max_text = MOST,
	                             .text = w.text,
	                             .prompt = w.text,
	                             .tok_end = w.end,
	                             .msg = w.msg,
	                             .seg = w.seg,
	                             .free_span = w.span};
}

static void add_text(const char *s)
{
	uint32_t n = (uint32_t)strlen(s);

	memcpy(w.text + w.s.in.prompt_len, s, n);
	w.s.in.prompt_len += n;
	for (uint32_t i = 0; i < n; i++)
		w.ids[w.r.n_ids++] = TINY_BYTE((uint8_t)s[i]);
}

static void add_seg(const char *s, bool content)
{
	w.seg[w.s.in.n_segs++] = (struct plx_chat_seg){s, (uint32_t)strlen(s), content};
	add_text(s);
}

static const char system_text[] = "be kind", user_text[] = "the sun rose. is it red?\nsay why";

static void chat(void)
{
	begin(PLX_REQ_MESSAGES);
	w.msg[0] = (struct plx_chat_msg){system_text, 7, PLX_CHAT_SYSTEM};
	w.msg[1] = (struct plx_chat_msg){user_text, 32, PLX_CHAT_USER};
	w.s.in.n_msgs = 2;
	add_seg("[", false);
	add_seg(system_text, true);
	add_seg("][", false);
	add_seg(user_text, true);
	add_seg("]", false);
}

/* The text with a dot for every token that may go. */
static const char *marked(void)
{
	static char p[MOST + 1];

	while (!plx_tok_mark(&w.s))
		;
	for (uint32_t i = 0; i < w.r.n_ids; i++) {
		int32_t id = w.ids[i];

		p[i] = !(w.mark[i] & PLX_MARK_KEEP) ? '.' : id < 3 ? '^' : (char)(id - 3);
	}
	p[w.r.n_ids] = 0;
	plx_tok_free(w.tok);
	return p;
}

static void keep(const struct plx_req_keep *k, uint32_t n)
{
	w.r.view.compress.n_keep = n;
	w.r.view.keep = (const uint8_t *)k;
}

static void test_tok_mark_leaves_system_template_and_questions(void **state)
{
	(void)state;
	chat();
	assert_string_equal(marked(), "[be kind][............. is it red?.say why]");
}

static void test_tok_mark_keeps_roles_and_spans(void **state)
{
	static const struct plx_req_keep sun[2] = {{1, 4, 7}, {0, 0, 2}};

	(void)state;
	chat();
	keep(sun, 2);
	assert_string_equal(marked(), "[be kind][....sun...... is it red?.say why]");
	chat();
	w.r.view.compress.keep_roles = 1u << PLX_CHAT_USER;
	assert_string_equal(marked(), "[be kind][the sun rose. is it red?\nsay why]");
}

static void test_tok_mark_of_a_text(void **state)
{
	static const struct plx_req_keep red = {0, 4, 7};

	(void)state;
	begin(PLX_REQ_TEXT);
	w.ids[w.r.n_ids++] = TINY_BOS; /* not of the text */
	add_text("the red sun of 1969. why?\nin short");
	keep(&red, 1);
	assert_string_equal(marked(), "^....red........1969. why?.in short");
}

static void test_tok_mark_of_ids(void **state)
{
	static const struct plx_req_keep three = {0, 1, 4};

	(void)state;
	begin(PLX_REQ_IDS);
	add_text("a sun rose");
	memset(w.text, 0, sizeof(w.text)); /* made from the ids */
	w.s.in.prompt_len = 0;
	keep(&three, 1);
	assert_string_equal(marked(), ". su......");
}

/* What was kept of an earlier request stays; so does what can't be followed. */
static void test_tok_mark_stays_where_it_knows_nothing(void **state)
{
	(void)state;
	begin(PLX_REQ_TEXT);
	w.r.n_kept = w.r.n_ids = 2;
	w.ids[0] = w.ids[1] = TINY_BYTE('x');
	w.s.in.n_marked = 2;
	add_text("sun rose");
	assert_string_equal(marked(), "xx........");
	begin(PLX_REQ_TEXT);
	add_text("sun rose");
	w.ids[3] = TINY_BYTE('!');
	assert_string_equal(marked(), "...!rose");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tok_mark_leaves_system_template_and_questions),
	    cmocka_unit_test(test_tok_mark_keeps_roles_and_spans),
	    cmocka_unit_test(test_tok_mark_of_a_text),
	    cmocka_unit_test(test_tok_mark_of_ids),
	    cmocka_unit_test(test_tok_mark_stays_where_it_knows_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
