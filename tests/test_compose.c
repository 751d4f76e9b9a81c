/* What composition makes of limits and model: one value for a prompt's tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fw/base/log.h"
#include "fw/compose.h"

static struct plx_config c;

static uint32_t fitted(uint32_t prompt_tokens, uint32_t n_kv_blocks, uint32_t n_ctx)
{
	c.lim.context_tokens = 0;
	c.lim.prompt_tokens = prompt_tokens;
	c.lim.n_kv_blocks = n_kv_blocks;
	c.lim.block_tokens = 32;
	plx_context_fit(&c, n_ctx, false);
	return c.lim.prompt_tokens;
}

static void test_context_fit_takes_the_tightest(void **state)
{
	(void)state;
	assert_int_equal(fitted(1000, 512, 8192), 1000);
	assert_int_equal(fitted(8192, 512, 8192), 8191); /* room for a token of the answer */
	assert_int_equal(fitted(8192, 512, 2048), 2047); /* the model */
	assert_int_equal(fitted(8192, 10, 2048), 319);   /* KV memory */
	assert_int_equal(fitted(1048576, 16777216, UINT32_MAX), 1048576); /* 2^29 in the pool */
}

static uint32_t context(uint32_t wanted, uint32_t n_kv_blocks, bool beyond)
{
	c.lim.prompt_tokens = 5000;
	c.lim.context_tokens = wanted;
	c.lim.n_kv_blocks = n_kv_blocks;
	c.lim.block_tokens = 32;
	plx_context_fit(&c, 2048, beyond);
	return c.lim.context_tokens;
}

static void test_context_fit_of_contexts(void **state)
{
	(void)state;
	assert_int_equal(context(0, 512, false), 2048);
	assert_int_equal(c.lim.prompt_tokens, 2047);
	assert_int_equal(context(512, 512, false), 512);
	assert_int_equal(c.lim.prompt_tokens, 511);
	assert_int_equal(context(4096, 512, false), 2048);
	assert_int_equal(context(4096, 10, false), 320);
	/* Where texts may outgrow it, prompts keep their limit. */
	assert_int_equal(context(512, 512, true), 512);
	assert_int_equal(c.lim.prompt_tokens, 5000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_context_fit_of_contexts),
	    cmocka_unit_test(test_context_fit_takes_the_tightest),
	};

	plx_log_init("test", PLX_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
