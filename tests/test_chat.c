/* Chat templates: against jinja2's rendering of the same templates, and at the edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/chat.h"
#include "accel/model/gguf.h"
#include "fw/base/err.h"

#define MAX_MSG  8
#define MAX_TEXT 8192

static struct plx_chat *open_named(const char *name)
{
	struct plx_chat_source src = {.file = "test", .name = name, .bos = "<s>", .eos = "</s>"};
	struct plx_diag d = {0};
	struct plx_chat *c;

	assert_int_equal(plx_chat_build(&src, &c, &d), 0);
	assert_string_equal(plx_chat_name(c), name);
	return c;
}

static int open_text(const char *text, size_t len, struct plx_chat **c, struct plx_diag *d)
{
	struct plx_chat_source src = {.file = "test.gguf",
	                              .template_ptr = text,
	                              .template_len = len,
	                              .bos = "<s>",
	                              .eos = "</s>"};

	return plx_chat_build(&src, c, d);
}

static struct plx_chat_msg msg(uint32_t role, const char *text)
{
	return (struct plx_chat_msg){.text = text, .len = (uint32_t)strlen(text), .role = role};
}

/* Whether a segment's bytes lie inside some message. */
static bool in_messages(const struct plx_chat_seg *s, const struct plx_chat_msg *m, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (s->ptr >= m[i].text && s->ptr + s->len <= m[i].text + m[i].len)
			return true;
	}
	return false;
}

static uint32_t role_of(const char *name)
{
	return strcmp(name, "system") == 0 ? PLX_CHAT_SYSTEM
	       : strcmp(name, "user") == 0 ? PLX_CHAT_USER
	                                   : PLX_CHAT_ASSISTANT;
}

static uint32_t read_messages(const json_t *list, struct plx_chat_msg *out)
{
	uint32_t n = (uint32_t)json_array_size(list);

	assert_true(n <= MAX_MSG);
	for (uint32_t i = 0; i < n; i++) {
		const json_t *m = json_array_get(list, i);

		out[i] = (struct plx_chat_msg){
		    .text = json_string_value(json_object_get(m, "content")),
		    .len = (uint32_t)json_string_length(json_object_get(m, "content")),
		    .role = role_of(json_string_value(json_object_get(m, "role"))),
		};
	}
	return n;
}

/* Render with exactly as many segments as promised, join, compare. */
static void check_case(const struct plx_chat *c, const json_t *kase)
{
	struct plx_chat_msg msgs[MAX_MSG];
	struct plx_chat_seg segs[PLX_CHAT_SEGS(MAX_MSG)];
	struct plx_tok_span span[2 * MAX_MSG];
	char text[MAX_TEXT];
	struct plx_chat_prompt p = {
	    .text = text, .max_text = sizeof text, .span = span, .max_span = 2 * MAX_MSG};
	uint32_t n = read_messages(json_object_get(kase, "messages"), msgs);
	const json_t *want = json_object_get(kase, "text");
	int n_segs = plx_chat_render(c, msgs, n, segs, PLX_CHAT_SEGS(n));

	if (json_is_null(want)) {
		if (n_segs != PLX_E_BAD_REQUEST)
			fail_msg("%s: rendered what jinja2 refuses: %.*s ...", plx_chat_name(c),
			         (int)msgs[n - 1].len, msgs[n - 1].text);
		return;
	}
	if (n_segs <= 0)
		fail_msg("%s: refused (%d), jinja2 gives %s", plx_chat_name(c), n_segs,
		         json_string_value(want));
	for (int i = 0; i < n_segs; i++) {
		assert_true(segs[i].len > 0);
		assert_int_equal(segs[i].content, in_messages(&segs[i], msgs, n));
	}
	assert_int_equal(plx_chat_join(segs, (uint32_t)n_segs, &p), 0);
	if (p.len != json_string_length(want) || memcmp(text, json_string_value(want), p.len) != 0)
		fail_msg("%s: got\n%.*s\njinja2 gives\n%s", plx_chat_name(c), (int)p.len, text,
		         json_string_value(want));
}

static json_t *load_goldens(void)
{
	json_error_t e;
	json_t *all = json_load_file("tests/golden/chat.json", 0, &e);

	if (!all)
		fail_msg("tests/golden/chat.json: %s (run from the repository's root)", e.text);
	return all;
}

static void test_chat_goldens(void **state)
{
	json_t *all = load_goldens();
	uint32_t n_known = 0;
	size_t i;
	size_t k;
	json_t *t;
	json_t *kase;

	(void)state;
	json_array_foreach(all, i, t)
	{
		const json_t *jinja = json_object_get(t, "jinja");
		const char *family = json_string_value(json_object_get(t, "family"));
		struct plx_diag d = {0};
		struct plx_chat *c;
		int err = open_text(json_string_value(jinja), json_string_length(jinja), &c, &d);

		if (!family) {
			assert_int_equal(err, PLX_E_UNSUPPORTED);
			assert_non_null(strstr(d.text, "--chat-template"));
			continue;
		}
		if (err)
			fail_msg("%s: %s", json_string_value(json_object_get(t, "name")), d.text);
		assert_string_equal(plx_chat_name(c), family);
		json_array_foreach(json_object_get(t, "cases"), k, kase) check_case(c, kase);
		plx_chat_free(c);
		n_known++;
	}
	assert_int_equal(n_known, 22);
	json_decref(all);
}

/* A family chosen by name renders as the family's usual template in the goldens does. */
static void test_chat_names(void **state)
{
	static const char *const same[][2] = {
	    {"chatml", "chatml"},         {"qwen3", "qwen3"},       {"llama2", "llama2"},
	    {"llama3", "llama3"},         {"llama3.1", "llama3.1"}, {"mistral-v1", "mistral-v1"},
	    {"mistral-v3", "mistral-v3"}, {"gemma", "gemma"},       {"gemma3", "gemma3"},
	    {"phi3", "phi3-mini"},
	};
	json_t *all = load_goldens();
	size_t i;
	size_t k;
	json_t *t;
	json_t *kase;

	(void)state;
	for (size_t s = 0; s < sizeof same / sizeof same[0]; s++) {
		struct plx_chat *c = open_named(same[s][0]);

		assert_non_null(strstr(plx_chat_names(), same[s][0]));
		json_array_foreach(all, i, t)
		{
			if (strcmp(json_string_value(json_object_get(t, "name")), same[s][1]) != 0)
				continue;
			json_array_foreach(json_object_get(t, "cases"), k, kase)
			    check_case(c, kase);
		}
		plx_chat_free(c);
	}
	json_decref(all);
}

static void test_chat_unknown_name(void **state)
{
	struct plx_chat_source src = {.file = "m.gguf", .name = "vicuna", .bos = "", .eos = ""};
	struct plx_diag d = {0};
	struct plx_chat *c;

	(void)state;
	assert_int_equal(plx_chat_build(&src, &c, &d), PLX_E_UNSUPPORTED);
	assert_null(c);
	assert_string_equal(d.text,
	                    "--chat-template vicuna: there is no such template; give one of "
	                    "chatml, qwen3, llama2, llama3, llama3.1, mistral-v1, mistral-v3, "
	                    "gemma, gemma3, phi3");
}

static void test_chat_no_template(void **state)
{
	struct plx_diag d = {0};
	struct plx_chat *c;

	(void)state;
	assert_int_equal(open_text(NULL, 0, &c, &d), PLX_E_NOT_FOUND);
	assert_non_null(strstr(d.text, "test.gguf: it has no chat template"));
	assert_int_equal(open_text("", 0, &c, NULL), PLX_E_UNSUPPORTED);
}

static void test_chat_needs_eos(void **state)
{
	struct plx_chat_source src = {.file = "m.gguf", .name = "llama2", .bos = "<s>", .eos = ""};
	struct plx_diag d = {0};
	struct plx_chat *c;

	(void)state;
	assert_int_equal(plx_chat_build(&src, &c, &d), PLX_E_FORMAT);
	src.name = "chatml";
	assert_int_equal(plx_chat_build(&src, &c, NULL), 0);
	plx_chat_free(c);
}

static void test_chat_bad_requests(void **state)
{
	struct plx_chat *c = open_named("chatml");
	struct plx_chat_seg segs[8];
	struct plx_chat_msg tool = msg(3, "x");
	struct plx_chat_msg user = msg(PLX_CHAT_USER, "x");

	(void)state;
	assert_int_equal(plx_chat_render(c, &user, 0, segs, 8), PLX_E_BAD_REQUEST);
	assert_int_equal(plx_chat_render(c, &tool, 1, segs, 8), PLX_E_BAD_REQUEST);
	tool.role = UINT32_MAX;
	assert_int_equal(plx_chat_render(c, &tool, 1, segs, 8), PLX_E_BAD_REQUEST);
	assert_int_equal(plx_chat_render(c, &user, 1, segs, 3), PLX_E_TOO_LARGE);
	assert_int_equal(plx_chat_render(c, &user, 1, segs, 4), 4);
	plx_chat_free(c);
}

static void render_more(const char *name, const struct plx_chat_msg *m, uint32_t n, char *text)
{
	struct plx_chat *c = open_named(name);
	struct plx_chat_seg seg[PLX_CHAT_SEGS(MAX_MSG)];
	struct plx_tok_span span[MAX_MSG];
	struct plx_chat_prompt p = {
	    .text = text, .max_text = MAX_TEXT, .span = span, .max_span = MAX_MSG};
	int k = plx_chat_render_more(c, m, n, seg, PLX_CHAT_SEGS(MAX_MSG));

	assert_true(k > 0);
	assert_int_equal(plx_chat_join(seg, (uint32_t)k, &p), 0);
	text[p.len] = 0;
	assert_int_equal(p.n_span, n);
	plx_chat_free(c);
}

/* With what went before and the answer in between, it is the whole conversation's text. */
static void test_chat_goes_on(void **state)
{
	static const char *const names[] = {"chatml",     "llama2", "llama3", "llama3.1",
	                                    "mistral-v1", "gemma",  "gemma3", "phi3"};
	const struct plx_chat_msg m[3] = {msg(PLX_CHAT_USER, "Hi"), msg(PLX_CHAT_ASSISTANT, "Ho"),
	                                  msg(PLX_CHAT_USER, "And?")};
	char whole[MAX_TEXT], before[MAX_TEXT], more[MAX_TEXT], both[3 * MAX_TEXT];

	(void)state;
	render_more("chatml", &m[2], 1, more);
	assert_string_equal(
	    more, "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n");
	for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct plx_chat *c = open_named(names[i]);
		struct plx_chat_seg seg[PLX_CHAT_SEGS(3)];
		struct plx_tok_span span[MAX_MSG];
		struct plx_chat_prompt p = {
		    .text = whole, .max_text = MAX_TEXT, .span = span, .max_span = MAX_MSG};
		int n = plx_chat_render(c, m, 3, seg, PLX_CHAT_SEGS(3));

		assert_int_equal(plx_chat_join(seg, (uint32_t)n, &p), 0);
		whole[p.len] = 0;
		n = plx_chat_render(c, m, 1, seg, PLX_CHAT_SEGS(3));
		p.text = before;
		assert_int_equal(plx_chat_join(seg, (uint32_t)n, &p), 0);
		before[p.len] = 0;
		render_more(names[i], &m[2], 1, more);
		/* llama2 and mistral open an answer with a space, which there is the model's to
		 * write. */
		const char *space = whole[strlen(before)] == ' ' ? " " : "";

		snprintf(both, sizeof(both), "%s%sHo%s", before, space, more);
		assert_string_equal(both, whole);
		plx_chat_free(c);
	}
}

static int more_of(const char *name, uint32_t role)
{
	struct plx_chat *c = open_named(name);
	struct plx_chat_seg seg[PLX_CHAT_SEGS(1)];
	struct plx_chat_msg m = msg(role, "x");
	int e = plx_chat_render_more(c, &m, 1, seg, PLX_CHAT_SEGS(1));

	plx_chat_free(c);
	return e;
}

static void test_chat_goes_on_only_where_it_can(void **state)
{
	(void)state;
	assert_int_equal(more_of("qwen3", PLX_CHAT_USER), PLX_E_UNSUPPORTED);
	assert_int_equal(more_of("mistral-v3", PLX_CHAT_USER), PLX_E_UNSUPPORTED);
	assert_int_equal(more_of("llama2", PLX_CHAT_SYSTEM), PLX_E_BAD_REQUEST);
	assert_int_equal(more_of("gemma", PLX_CHAT_ASSISTANT), PLX_E_BAD_REQUEST);
	assert_int_equal(more_of("chatml", 3), PLX_E_BAD_REQUEST);
	assert_true(more_of("chatml", PLX_CHAT_SYSTEM) > 0);
}

static void test_chat_join_spans(void **state)
{
	struct plx_chat *c = open_named("mistral-v1");
	struct plx_chat_msg msgs[] = {msg(PLX_CHAT_SYSTEM, "Sys"), msg(PLX_CHAT_USER, "Hello")};
	struct plx_chat_seg segs[PLX_CHAT_SEGS(2)];
	struct plx_tok_span span[4];
	char text[64];
	struct plx_chat_prompt p = {.text = text, .max_text = 64, .span = span, .max_span = 4};
	int n = plx_chat_render(c, msgs, 2, segs, PLX_CHAT_SEGS(2));

	(void)state;
	assert_int_equal(plx_chat_join(segs, (uint32_t)n, &p), 0);
	assert_int_equal(p.len, 29);
	assert_memory_equal(text, "<s> [INST] Sys\n\nHello [/INST]", 29);
	assert_int_equal(p.n_span, 2);
	assert_int_equal(span[0].off, 11);
	assert_int_equal(span[0].len, 3);
	assert_int_equal(span[1].off, 16);
	assert_int_equal(span[1].len, 5);
	p.max_text = 28;
	assert_int_equal(plx_chat_join(segs, (uint32_t)n, &p), PLX_E_TOO_LARGE);
	p.max_text = 29;
	p.max_span = 1;
	assert_int_equal(plx_chat_join(segs, (uint32_t)n, &p), PLX_E_TOO_LARGE);
	plx_chat_free(c);
}

/* Every prefix of every template: recognised or refused, never read past its end. */
static void test_chat_truncated_templates(void **state)
{
	json_t *all = load_goldens();
	size_t i;
	json_t *t;

	(void)state;
	json_array_foreach(all, i, t)
	{
		const char *jinja = json_string_value(json_object_get(t, "jinja"));
		size_t len = json_string_length(json_object_get(t, "jinja"));

		for (size_t n = 0; n < len; n += 1 + len / 200) {
			char *exact = malloc(n + 1);
			struct plx_chat *c;

			assert_non_null(exact);
			memcpy(exact + 1, jinja, n);
			if (open_text(exact + 1, n, &c, NULL) == 0)
				plx_chat_free(c);
			free(exact);
		}
	}
	json_decref(all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_chat_goldens),
	    cmocka_unit_test(test_chat_names),
	    cmocka_unit_test(test_chat_unknown_name),
	    cmocka_unit_test(test_chat_no_template),
	    cmocka_unit_test(test_chat_needs_eos),
	    cmocka_unit_test(test_chat_bad_requests),
	    cmocka_unit_test(test_chat_goes_on),
	    cmocka_unit_test(test_chat_goes_on_only_where_it_can),
	    cmocka_unit_test(test_chat_join_spans),
	    cmocka_unit_test(test_chat_truncated_templates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
