/* A model without some of its layers: which are left, and what is no list of layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "accel/model/layers.h"
#include "fw/base/err.h"

static struct plx_model *whole; /* three layers */

static int setup(void **state)
{
	struct plx_diag d = {""};

	(void)state;
	return plx_model_open("tests/golden/tiny/llama3.gguf", &whole, &d);
}

static int teardown(void **state)
{
	(void)state;
	plx_model_close(whole);
	return 0;
}

static void test_layers_left_are_the_models(void **state)
{
	struct plx_model *m;
	struct plx_diag d = {""};
	uint32_t last = whole->n_layer - 1;

	(void)state;
	assert_int_equal(plx_model_without(whole, "0", &m, &d), 0);
	assert_int_equal(m->n_layer, last);
	for (uint32_t i = 0; i < last; i++)
		assert_ptr_equal(m->layer[i].wq.data, whole->layer[i + 1].wq.data);
	assert_ptr_equal(m->output.data, whole->output.data);
	assert_int_equal(m->n_vocab, whole->n_vocab);
	plx_model_close(m);
	/* What the whole one has is still there. */
	assert_non_null(whole->layer[0].wq.data);
}

static void refused(const char *list, int err, const char *why)
{
	struct plx_model *m;
	struct plx_diag d = {""};

	assert_int_equal(plx_model_without(whole, list, &m, &d), err);
	assert_null(m);
	assert_string_equal(d.text, why);
}

static void test_layers_refuse_what_is_no_list(void **state)
{
	(void)state;
	refused("1,x", PLX_E_FORMAT,
	        "layers to leave out are \"1,x\"; give numbers and ranges, as 8-15,20");
	refused("", PLX_E_FORMAT,
	        "layers to leave out are \"\"; give numbers and ranges, as 8-15,20");
	refused("1-0", PLX_E_FORMAT,
	        "layers to leave out are \"1-0\"; give numbers and ranges, as 8-15,20");
	refused("1 2", PLX_E_FORMAT,
	        "layers to leave out are \"1 2\"; give numbers and ranges, as 8-15,20");
	refused("0,4000", PLX_E_INVAL, "layer 4000 can't be left out: the model has layers 0 to 1");
	refused("0-1", PLX_E_INVAL, "layers to leave out are all of the model's; leave some");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_layers_left_are_the_models, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_layers_refuse_what_is_no_list, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
