/*
 * A second model that drafts has to have the first one's vocabulary, id by id: what has is taken
 * with whatever weights, what has not is refused by name, place and reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/assets.h"
#include "fw/base/err.h"
#include "tests/lib/mtool.h"

/* qwen2 and qwen2moe have one tokenizer, llama another; and qwen2 with one token changed. */
static int setup(void **state)
{
	static const char *const names[] = {"qwen2", "qwen2moe", "llama"};
	struct plx_diag d;

	(void)mtool_setup(state);
	for (size_t i = 0; i < 3; i++) {
		char from[64];

		snprintf(from, sizeof from, "tests/golden/hf/%s", names[i]);
		assert_int_equal(mtool(&d, "convert", from, "-o", mtool_path(names[i]), NULL), 0);
	}
	size_t n;
	char *p = mtool_read(mtool_path("qwen2"), &n);
	char *at = memmem(p, n, "<|im_end|>", 10);

	assert_non_null(at);
	at[5] = 'E';
	mtool_write(mtool_path("changed"), p, n);
	free(p);
	return 0;
}

/* What opening says of that model drafting for qwen2. */
static int with_draft(const char *name, struct plx_diag *d)
{
	static struct plx_config cfg;
	struct plx_assets a;

	memset(&cfg, 0, sizeof cfg);
	snprintf(cfg.model_path, sizeof cfg.model_path, "%s", mtool_path("qwen2"));
	snprintf(cfg.board_path, sizeof cfg.board_path, "board.yml");
	cfg.n_stages = cfg.n_devs = 1;
	cfg.stage[0].kind = PLX_STAGE_ACCEL;
	cfg.dev[0].role = PLX_CFG_DRAFT;
	cfg.dev[0].line = 9;
	snprintf(cfg.dev[0].model, sizeof cfg.dev[0].model, "%s", mtool_path(name));
	int err = plx_assets_open(&a, &cfg, d);

	assert_true((a.draft != NULL) || err != 0);
	plx_assets_close(&a);
	return err;
}

static void test_the_same_vocabulary_may_draft(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(with_draft("qwen2moe", &d), 0);
	assert_int_equal(with_draft("qwen2", &d), 0);
}

static void test_another_vocabulary_is_refused(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(with_draft("llama", &d), PLX_E_INVAL);
	assert_non_null(strstr(d.text, "board.yml:9: "));
	assert_non_null(strstr(d.text,
	                       "llama can't draft for this model: it has 384 ids, the model "
	                       "352; give a model of the same vocabulary"));
	memset(&d, 0, sizeof d);
	assert_int_equal(with_draft("changed", &d), PLX_E_INVAL);
	assert_non_null(
	    strstr(d.text, "changed can't draft for this model: id 2 is another token"));
}

static void test_no_model_at_all_is_refused(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(with_draft("nothing", &d), PLX_E_NOT_FOUND);
	assert_non_null(strstr(d.text, "nothing"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_the_same_vocabulary_may_draft),
	    cmocka_unit_test(test_another_vocabulary_is_refused),
	    cmocka_unit_test(test_no_model_at_all_is_refused),
	};

	return cmocka_run_group_tests(tests, setup, mtool_teardown);
}
