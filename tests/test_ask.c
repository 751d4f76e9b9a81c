/* plx-ask's command line: what it takes, and how it refuses the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <getopt.h>

#include "tools/ask/keep.h"

static struct plx_ask_options o;
static struct plx_diag d;

/* Arguments up to a NULL. */
static int parse(const char *first, ...)
{
	static char text[32][64]; /* o points into it until the next call */
	char *argv[32] = {(char[]){"plx-ask"}};
	int argc = 1;
	va_list list;

	va_start(list, first);
	for (const char *a = first; a; a = va_arg(list, const char *)) {
		snprintf(text[argc], sizeof(text[argc]), "%s", a);
		argv[argc] = text[argc];
		argc++;
	}
	va_end(list);
	memset(&d, 0, sizeof(d));
	optind = 0; /* getopt begins anew */
	return plx_ask_parse(&o, argc, argv, &d);
}

static void refuses(const char *name, const char *value, const char *why)
{
	assert_int_equal(parse("--insecure", name, value, "hi", NULL), PLX_E_INVAL);
	if (!strstr(d.text, why))
		fail_msg("\"%s\" does not say \"%s\"", d.text, why);
}

static void test_ask_options_have_defaults(void **state)
{
	(void)state;
	assert_int_equal(parse("--insecure", "hello", NULL), 0);
	assert_string_equal(o.prompt, "hello");
	assert_string_equal(o.cfg.host, "localhost");
	assert_int_equal(o.cfg.port, 7709);
	assert_int_equal(o.req.max_new, 256);
	assert_int_equal(o.req.n_samples, 1);
	assert_true(o.req.temperature == 0);
	assert_int_equal(o.mode, PLX_ASK_PROMPT);
	assert_false(o.req.logprobs);
	assert_false(o.req.allow_compression);
}

static void test_ask_options_are_taken(void **state)
{
	(void)state;
	assert_int_equal(parse("--key", "k", "--host", "fd77::2", "--port", "99", "--temperature",
	                       "0.5", "--top-k", "40", "--seed", "18446744073709551615", "--stop",
	                       "a", "--stop", "b", "--logprobs", "0", "--deadline", "250", "--n",
	                       "3", "--beyond-context", "x", NULL),
	                 0);
	assert_string_equal(o.key_file, "k");
	assert_string_equal(o.cfg.host, "fd77::2");
	assert_int_equal(o.cfg.port, 99);
	assert_true(o.req.temperature == 0.5f);
	assert_int_equal(o.req.top_k, 40);
	assert_true(o.req.seed == UINT64_MAX);
	assert_int_equal(o.req.n_stops, 2);
	assert_string_equal(o.req.stops[1], "b");
	assert_true(o.req.logprobs);
	assert_int_equal(o.req.n_logprobs, 0);
	assert_int_equal(o.req.deadline_us, 250000);
	assert_int_equal(o.req.n_samples, 3);
	assert_true(o.req.allow_compression);
}

static void test_ask_options_are_refused_with_their_range(void **state)
{
	(void)state;
	refuses("--top-p", "1.5", "--top-p 1.5: give a number of 0 to 1");
	refuses("--temperature", "nan", "give a number of 0 to 100");
	refuses("--temperature", "1x", "give a number of 0 to 100");
	refuses("--port", "0", "give a whole number of 1 to 65535");
	refuses("--port", "-1", "give a whole number of 1 to 65535");
	refuses("--max-new", "1e3", "give a whole number of 1 to");
	refuses("--n", "65", "give a whole number of 1 to 64");
	refuses("--logprobs", "21", "give a whole number of 0 to 20");
	refuses("--priority", "16", "give a whole number of 0 to 15");
}

static void test_ask_needs_a_key_and_one_prompt(void **state)
{
	(void)state;
	unsetenv("POLLUX_KEY");
	assert_int_equal(parse("hello", NULL), PLX_E_INVAL);
	assert_non_null(strstr(d.text, "--key FILE"));
	setenv("POLLUX_KEY", "from-env", 1);
	assert_int_equal(parse("hello", NULL), 0);
	assert_string_equal(o.key_file, "from-env");
	unsetenv("POLLUX_KEY");
	assert_int_equal(parse("--insecure", "two", "prompts", NULL), PLX_E_INVAL);
	assert_non_null(strstr(d.text, "quotation marks"));
	assert_int_equal(parse("--insecure", "--chat", NULL), 0);
	assert_true(o.chat);
	assert_int_equal(parse("--insecure", "--chat", "hello", NULL), PLX_E_INVAL);
	assert_non_null(strstr(d.text, "leave PROMPT, --raw, --ids and --n out"));
	assert_int_equal(parse("--insecure", "--raw", "--system", "s", "x", NULL), PLX_E_INVAL);
	assert_int_equal(parse("--help", NULL), 0);
	assert_true(o.help);
}

static void test_ask_keeps_texts_and_roles(void **state)
{
	struct plx_client_message m[2] = {{PLX_CLIENT_SYSTEM, "cat", 3},
	                                  {PLX_CLIENT_USER, "a cat, a catcat", 15}};
	struct plx_client_keep keep[PLX_ASK_SPANS_MAX];
	struct plx_client_request q;

	(void)state;
	assert_int_equal(parse("--insecure", "--max-loss", "0.1", "--keep", "cat", "--keep",
	                       "nowhere", "--keep-role", "assistant", "hi", NULL),
	                 0);
	assert_true(o.req.max_loss == 0.1f && o.req.allow_compression);
	assert_int_equal(o.req.keep_roles, 1 << PLX_CLIENT_ASSISTANT);
	q = o.req;
	q.messages = m;
	q.n_messages = 2;
	plx_ask_keeps(&o, &q, keep);
	assert_int_equal(q.n_keeps, 4);
	assert_int_equal(keep[0].message, 0);
	assert_int_equal(keep[0].end, 3);
	assert_int_equal(keep[1].message, 1);
	assert_int_equal(keep[1].first, 2);
	assert_int_equal(keep[3].first, 12);
	assert_int_equal(keep[3].end, 15);
	q = o.req;
	q.text = "a cat";
	q.text_bytes = 5;
	plx_ask_keeps(&o, &q, keep);
	assert_int_equal(q.n_keeps, 1);
	assert_int_equal(keep[0].first, 2);
	refuses("--keep-role", "everybody", "give system, user, assistant or tool");
	refuses("--keep", "cat", "give --keep-ratio or --max-loss");
	assert_int_equal(parse("--insecure", "--best-of", "4", "--n", "2", "hi", NULL), 0);
	assert_int_equal(o.req.best_of, 4);
	refuses("--best-of", "1", "give a whole number of 2 to 64");
	assert_int_equal(parse("--insecure", "--best-of", "2", "--n", "3", "hi", NULL),
	                 PLX_E_INVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ask_options_have_defaults),
	    cmocka_unit_test(test_ask_options_are_taken),
	    cmocka_unit_test(test_ask_options_are_refused_with_their_range),
	    cmocka_unit_test(test_ask_needs_a_key_and_one_prompt),
	    cmocka_unit_test(test_ask_keeps_texts_and_roles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
