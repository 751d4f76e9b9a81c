/* polluxd's command line: what it takes, what it refuses, what overrides what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "fw/options.h"

static int parse(struct plx_options *o, struct plx_diag *d, int argc, ...)
{
	char words[8][64];
	char *argv[9] = {0};
	va_list ap;

	va_start(ap, argc);
	for (int i = 0; i < argc; i++) {
		strncpy(words[i], va_arg(ap, const char *), sizeof(words[i]) - 1);
		words[i][63] = '\0';
		argv[i] = words[i];
	}
	va_end(ap);
	d->text[0] = '\0';
	return plx_options_parse(o, argc, argv, d);
}

static void test_options_take_what_help_says(void **state)
{
	struct plx_options o;
	struct plx_diag d;

	(void)state;
	assert_int_equal(
	    parse(&o, &d, 5, "polluxd", "--board", "b", "--check", "--log-level=debug"), 0);
	assert_true(o.check);
	assert_int_equal(o.log_level, PLX_LOG_DEBUG);
	assert_int_equal(parse(&o, &d, 2, "polluxd", "--help"), 0);
	assert_true(o.help);
}

static void test_options_explain_mistakes(void **state)
{
	struct plx_options o;
	struct plx_diag d;

	(void)state;
	assert_int_equal(parse(&o, &d, 1, "polluxd"), PLX_E_INVAL);
	assert_string_equal(d.text, "--board is missing; give one such as board/devbox/board.yml");
	assert_int_equal(parse(&o, &d, 2, "polluxd", "--bord"), PLX_E_INVAL);
	assert_string_equal(d.text, "--bord is not an option; see polluxd --help");
	assert_int_equal(parse(&o, &d, 2, "polluxd", "--model"), PLX_E_INVAL);
	assert_string_equal(d.text, "--model needs a value; see polluxd --help");
	assert_int_equal(parse(&o, &d, 4, "polluxd", "--board", "b", "x"), PLX_E_INVAL);
	assert_string_equal(d.text, "\"x\" is no option; see polluxd --help");
	assert_int_equal(parse(&o, &d, 3, "polluxd", "--log-level", "loud"), PLX_E_INVAL);
	assert_string_equal(d.text, "--log-level loud: give error, warning, info or debug");
	assert_int_equal(parse(&o, &d, 3, "polluxd", "--weights-cache", "on"), PLX_E_INVAL);
	assert_string_equal(d.text, "--weights-cache on: give auto or off");
}

static void test_options_override_board(void **state)
{
	struct plx_options o = {.model = "m.gguf", .keys = "k", .weights_cache = "auto"};
	struct plx_config c = {.board_path = "b.yml", .model_path = "old", .file_prefix = "p"};
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(plx_options_apply(&o, &c, &d), 0);
	assert_string_equal(c.model_path, "m.gguf");
	assert_string_equal(c.keys_path, "k");
	assert_string_equal(c.file_prefix, "p");
	assert_true(c.weights_cache);
	o.weights_cache = "off";
	assert_int_equal(plx_options_apply(&o, &c, &d), 0);
	assert_false(c.weights_cache);
	o.weights_cache = NULL;
	assert_int_equal(plx_options_apply(&o, &c, &d), 0);
	assert_false(c.weights_cache);
	c.insecure = true;
	assert_int_equal(plx_options_apply(&o, &c, &d), PLX_E_INVAL);
	assert_string_equal(d.text,
	                    "--keys together with insecure: true in b.yml says two things; remove "
	                    "one");
	struct plx_config bare = {.board_path = "b.yml", .model_path = "m"};
	struct plx_options none = {0};

	d.text[0] = '\0';
	assert_int_equal(plx_options_apply(&none, &bare, &d), PLX_E_INVAL);
	assert_string_equal(d.text,
	                    "no keys: make a file with plx-key and give --keys FILE, or say "
	                    "insecure: true in b.yml");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_options_take_what_help_says),
	    cmocka_unit_test(test_options_explain_mistakes),
	    cmocka_unit_test(test_options_override_board),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
