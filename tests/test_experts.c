/*
 * Models with experts: what their files may say. The honest ones are converted from
 * tests/golden/hf; each lie is the honest file with one entry of its head changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/accel.h"
#include "accel/model/model.h"
#include "fw/base/err.h"
#include "tests/lib/devkit.h"
#include "tests/lib/mtool.h"
#include "tools/gguf/write.h"

struct lie {
	const char *model;
	const char *key; /* this number becomes value; value 0: the key is left out */
	uint32_t value;
	const char *tensor; /* its dimension `dim` becomes `size`; size 0: it is left out */
	uint32_t dim;
	uint64_t size;
	int err;
	const char *says;
};

static int setup(void **state)
{
	static const char *const names[] = {"mixtral", "qwen2moe", "qwen3moe"};
	struct plx_diag d;

	(void)state;
	mtool_begin();
	for (size_t i = 0; i < 3; i++) {
		char from[64];

		snprintf(from, sizeof from, "tests/golden/hf/%s", names[i]);
		assert_int_equal(mtool(&d, "convert", from, "-o", mtool_path(names[i]), NULL), 0);
	}
	return 0;
}

static bool is(struct plx_gguf_str s, const char *text)
{
	return text && plx_gguf_str_is(s, text);
}

/* The head of g with the lie, as a file whose data are zeros. */
static struct plx_gguf *with_lie(const struct plx_gguf *g, const struct lie *l, uint8_t **image)
{
	struct plx_gguf *out;
	struct plx_gw w = {0};

	for (uint32_t i = 0; i < plx_gguf_n_kv(g); i++)
		if (!is(plx_gguf_kv_at(g, i)->key, l->key))
			plx_gw_kv(&w, plx_gguf_kv_at(g, i));
	if (l->key && l->value)
		plx_gw_u32(&w, l->key, l->value);
	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(g, i);
		uint64_t dim[4];

		memcpy(dim, t->dim, sizeof dim);
		if (is(t->name, l->tensor) && l->size == 0)
			continue;
		if (is(t->name, l->tensor))
			dim[l->dim] = l->size;
		plx_gw_tensor(&w, t->name, t->type, t->n_dims, dim);
	}
	assert_int_equal(plx_gw_finish(&w, NULL), 0);
	*image = calloc(1, w.file_bytes);
	assert_non_null(*image);
	memcpy(*image, w.head.p, w.head.n);
	assert_int_equal(plx_gguf_open_mem(*image, w.file_bytes, &out, NULL), 0);
	plx_gw_free(&w);
	return out;
}

static void test_lies_are_refused(void **state)
{
	static const struct lie lies[] = {
	    {.model = "mixtral",
	     .key = "llama.expert_count",
	     .value = 7,
	     .err = PLX_E_FORMAT,
	     .says = "'blk.0.ffn_gate_inp.weight' is 32 x 6 x 1 x 1 where the configuration says "
	             "32 x 7"},
	    {.model = "mixtral",
	     .key = "llama.expert_count",
	     .err = PLX_E_FORMAT,
	     .says = "'blk.0.ffn_gate.weight' is missing"},
	    {.model = "mixtral",
	     .key = "llama.expert_count",
	     .value = 4000000000,
	     .err = PLX_E_LIMIT,
	     .says = "over the limit of 1024"},
	    {.model = "mixtral",
	     .key = "llama.expert_used_count",
	     .err = PLX_E_FORMAT,
	     .says = "'llama.expert_used_count' is missing"},
	    {.model = "mixtral",
	     .key = "llama.expert_used_count",
	     .value = 7,
	     .err = PLX_E_FORMAT,
	     .says = "expert_used_count is larger than expert_count"},
	    {.model = "mixtral",
	     .key = "llama.feed_forward_length",
	     .value = 64,
	     .err = PLX_E_FORMAT,
	     .says = "'blk.0.ffn_gate_exps.weight' is 32 x 48 x 6"},
	    {.model = "mixtral",
	     .key = "llama.expert_gating_func",
	     .value = 2,
	     .err = PLX_E_UNSUPPORTED,
	     .says = "'llama.expert_gating_func' is 2"},
	    {.model = "mixtral",
	     .tensor = "blk.1.ffn_gate_inp.weight",
	     .dim = 0,
	     .size = 64,
	     .err = PLX_E_FORMAT,
	     .says = "'blk.1.ffn_gate_inp.weight' is 64 x 6"},
	    {.model = "mixtral",
	     .tensor = "blk.1.ffn_down_exps.weight",
	     .dim = 2,
	     .size = 5,
	     .err = PLX_E_FORMAT,
	     .says = "'blk.1.ffn_down_exps.weight' is 48 x 32 x 5"},
	    {.model = "mixtral",
	     .tensor = "blk.0.ffn_up_exps.weight",
	     .dim = 1,
	     .size = 1,
	     .err = PLX_E_FORMAT,
	     .says = "'blk.0.ffn_up_exps.weight' is 32 x 1 x 6"},
	    {.model = "qwen2moe",
	     .key = "qwen2moe.expert_count",
	     .err = PLX_E_FORMAT,
	     .says = "'qwen2moe.expert_count' is missing"},
	    {.model = "qwen2moe",
	     .key = "qwen2moe.expert_shared_feed_forward_length",
	     .value = 48,
	     .err = PLX_E_FORMAT,
	     .says = "'blk.0.ffn_gate_shexp.weight' is 32 x 64"},
	    {.model = "qwen2moe",
	     .tensor = "blk.0.ffn_gate_inp_shexp.weight",
	     .err = PLX_E_FORMAT,
	     .says = "'blk.0.ffn_gate_inp_shexp.weight' is missing"},
	    {.model = "qwen2moe",
	     .tensor = "blk.0.ffn_gate_inp_shexp.weight",
	     .dim = 0,
	     .size = 16,
	     .err = PLX_E_FORMAT,
	     .says = "is 16 x 1"},
	    {.model = "qwen3moe",
	     .key = "qwen3moe.expert_feed_forward_length",
	     .value = 16,
	     .err = PLX_E_FORMAT,
	     .says = "'blk.0.ffn_gate_exps.weight' is 32 x 32 x 8"},
	    {.model = "qwen3moe",
	     .key = "qwen3moe.leading_dense_block_count",
	     .value = 1,
	     .err = PLX_E_UNSUPPORTED,
	     .says = "leading_dense_block_count' is 1"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		struct plx_diag d = {0};
		struct plx_model *m;
		struct plx_gguf *g;
		uint8_t *image;

		assert_int_equal(plx_gguf_open(mtool_path(lies[i].model), &g, &d), 0);
		int err = plx_model_from_gguf(with_lie(g, &lies[i], &image), &m, &d);

		if (err != lies[i].err || !strstr(d.text, lies[i].says))
			fail_msg("%s: %d: %s", lies[i].says, err, d.text);
		plx_gguf_close(g);
		free(image);
	}
}

/* No lie: what was built that way opens. */
static void test_the_honest_head_opens(void **state)
{
	struct lie none = {0};
	struct plx_model *m;
	struct plx_gguf *g;
	uint8_t *image;
	char line[512];

	(void)state;
	assert_int_equal(plx_gguf_open(mtool_path("qwen2moe"), &g, NULL), 0);
	assert_int_equal(plx_model_from_gguf(with_lie(g, &none, &image), &m, NULL), 0);
	plx_model_describe(m, line, sizeof line);
	assert_non_null(strstr(line, "qwen2moe"));
	assert_non_null(strstr(line, "feed-forward 48, 2 of 6 experts of 32, vocabulary 352"));
	plx_model_close(m);
	plx_gguf_close(g);
	free(image);
}

/* g with a tensor for each expert in place of each stack, as files before April 2024 have it. */
static struct plx_gguf *one_by_one(const struct plx_gguf *g, uint8_t **image)
{
	struct plx_gguf *out;
	struct plx_gw w = {0};
	const uint8_t *from[256];

	for (uint32_t i = 0; i < plx_gguf_n_kv(g); i++)
		plx_gw_kv(&w, plx_gguf_kv_at(g, i));
	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++) {
		const struct plx_gguf_tensor *t = plx_gguf_tensor_at(g, i);
		uint64_t n = t->n_dims == 3 ? t->dim[2] : 1;

		for (uint64_t e = 0; e < n; e++) {
			char name[64];
			int stem = (int)t->name.len - (n > 1 ? (int)strlen("_exps.weight") : 0);

			snprintf(name, sizeof name, "%.*s", stem, t->name.ptr);
			if (n > 1)
				snprintf(name + stem, sizeof name - (size_t)stem, ".%u.weight",
				         (unsigned)e);
			from[w.n_tensor] = t->data + e * (t->bytes / n);
			plx_gw_tensor(&w, plx_gw_name(name), t->type, n > 1 ? 2 : t->n_dims,
			              t->dim);
		}
	}
	assert_int_equal(plx_gw_finish(&w, NULL), 0);
	*image = calloc(1, w.file_bytes);
	assert_non_null(*image);
	memcpy(*image, w.head.p, w.head.n);
	for (uint32_t i = 0; i < w.n_tensor; i++)
		memcpy(*image + w.place[i].off, from[i], w.place[i].bytes);
	assert_int_equal(plx_gguf_open_mem(*image, w.file_bytes, &out, NULL), 0);
	plx_gw_free(&w);
	return out;
}

/* The bits of the logits after a prompt; the device closes m. */
static uint64_t logits_of(struct plx_model *m)
{
	static const int32_t ids[] = {5, 9, 1, 77, 30, 2, 8, 8};
	struct plx_dev_limits lim = devkit_limits();
	struct devseq q = {.prompt = ids, .n_prompt = 8, .n_new = 3};
	struct devkit k;

	q.sampler = devkit_greedy();
	devkit_open_model(&k, m, "auto", &lim);
	devkit_run(&k, &q, 1);
	devkit_close(&k);
	return q.hash;
}

static void test_experts_one_by_one(void **state)
{
	struct plx_model *m, *whole;
	struct plx_gguf *g;
	uint8_t *image;

	(void)state;
	assert_int_equal(plx_gguf_open(mtool_path("qwen3moe"), &g, NULL), 0);
	assert_int_equal(plx_model_from_gguf(one_by_one(g, &image), &m, NULL), 0);
	plx_gguf_close(g);
	assert_non_null(plx_gguf_tensor_find(m->gguf, "blk.1.ffn_down.7.weight"));
	assert_ptr_equal(plx_model_expert(m, &m->layer[1], PLX_EXPERT_DOWN, 7).data,
	                 plx_gguf_tensor_find(m->gguf, "blk.1.ffn_down.7.weight")->data);
	assert_int_equal(plx_model_open(mtool_path("qwen3moe"), &whole, NULL), 0);
	assert_int_equal(m->layer[1].exp_up.bytes, whole->layer[1].exp_up.bytes);
	assert_true(logits_of(m) == logits_of(whole));
	free(image);
}

static int info_without_caps(struct plx_dev *dev, struct plx_dev_info *out)
{
	(void)dev;
	(void)out;
	return 0;
}

/* A device that has no experts says so, instead of running half a model. */
static void test_a_device_without_experts_refuses(void **state)
{
	static const struct plx_dev_ops ops = {.info = info_without_caps};
	struct plx_dev dev = {.ops = &ops};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_diag d = {0};
	struct plx_model *m;

	(void)state;
	assert_int_equal(plx_model_open(mtool_path("mixtral"), &m, NULL), 0);
	assert_int_equal(plx_dev_load_begin(&dev, m, &lim, &d), PLX_E_UNSUPPORTED);
	assert_non_null(strstr(d.text, "this device does not run experts"));
	plx_model_close(m);
}

/* Nor does the CPU device run experts whose width is no whole number of blocks: 48. */
static void test_the_cpu_device_refuses_a_width(void **state)
{
	struct plx_dev_conf conf = {.kind = "cpu", .name = "cpu0", .isa = "auto"};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_diag d = {0};
	struct plx_model *m;
	struct plx_dev *dev;

	(void)state;
	assert_int_equal(plx_model_open(mtool_path("mixtral"), &m, NULL), 0);
	assert_int_equal(plx_dev_open(&conf, &dev, &d), 0);
	assert_int_equal(plx_dev_load_begin(dev, m, &lim, &d), PLX_E_UNSUPPORTED);
	assert_non_null(
	    strstr(d.text, "widths 32, 48 and 32; the CPU device runs multiples of 32"));
	plx_dev_close(dev);
	plx_model_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lies_are_refused),
	    cmocka_unit_test(test_the_honest_head_opens),
	    cmocka_unit_test(test_experts_one_by_one),
	    cmocka_unit_test(test_a_device_without_experts_refuses),
	    cmocka_unit_test(test_the_cpu_device_refuses_a_width),
	};

	return cmocka_run_group_tests(tests, setup, mtool_teardown);
}
