/*
 * plx-model inspect: what a model is, what fits where, for people and for scripts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "tests/lib/mtool.h"
#include "tools/gguf/write.h"
#include "tools/model/facts.h"
#include "tools/model/options.h"

static void test_sizes_have_units(void **state)
{
	char words[9][16] = {"plx-model", "inspect",  "x",        "--device", "a=24G",
	                     "--device",  "b=1.5MiB", "--device", "c=7"};
	struct plx_mtool_options o;
	struct plx_diag d = {0};
	char *argv[10] = {0};

	(void)state;
	for (int i = 0; i < 9; i++)
		argv[i] = words[i];
	assert_int_equal(plx_mtool_parse(&o, 9, argv, &d), 0);
	assert_int_equal(o.n_devices, 3);
	assert_int_equal(o.device[0].bytes, 25769803776);
	assert_string_equal(o.device[1].name, "b");
	assert_int_equal(o.device[1].bytes, 1572864);
	assert_int_equal(o.device[2].bytes, 7);
}

static void test_inspect_says_what_a_model_is(void **state)
{
	struct plx_diag d;

	(void)state;
	assert_int_equal(mtool(&d, "inspect", "tests/golden/tiny/qwen3.gguf", "--device",
	                       "tiny=64K", "--board", "board/devbox/board.yml", NULL),
	                 0);
	char *said = mtool_said();

	assert_non_null(
	    strstr(said, "3 layers, embedding 32, 4 heads on 2 of 16, feed-forward 64"));
	assert_non_null(strstr(said, "f16 KV: 384 bytes a token")); /* 2 x 3 x 2 x 16 x 2 */
	assert_non_null(strstr(said, "tiny: 0.0 GiB, NO: too small for the weights"));
	assert_non_null(strstr(said, "cpu0 (cpu): "));
	free(said);
	assert_int_equal(mtool(&d, "inspect", "tests/golden/hf/qwen2", NULL), 0);
	said = mtool_said();
	assert_non_null(strstr(said, "safetensors in 2 files"));
	assert_non_null(strstr(said, "architecture  qwen2"));
	free(said);
	assert_int_equal(mtool(&d, "inspect", "tests/golden/README.md", NULL), 1);
}

/* A card's memory is no board's to know: it is asked for by the device's name, and used then. */
static void test_inspect_asks_for_a_cards_memory(void **state)
{
	static const char board[] = "devices:\n  - {name: gpu0, kind: cuda, index: 0}\n"
				    "  - {name: cpu0, kind: cpu, isa: auto}\n";
	struct plx_diag d;

	(void)state;
	mtool_write(mtool_path("board.yml"), board, sizeof board - 1);
	assert_int_equal(mtool(&d, "inspect", "tests/golden/tiny/qwen3moe.gguf", "--board",
	                       mtool_path("board.yml"), NULL),
	                 0);
	char *said = mtool_said();

	assert_non_null(
	    strstr(said, "gpu0 (cuda): its memory is not known here; give --device gpu0=SIZE"));
	assert_non_null(strstr(said, "a token uses 4 of 16 experts"));
	free(said);
	assert_int_equal(mtool(&d, "inspect", "tests/golden/tiny/qwen3moe.gguf", "--board",
	                       mtool_path("board.yml"), "--device", "gpu0=2G", NULL),
	                 0);
	said = mtool_said();
	assert_non_null(strstr(said, "gpu0 (cuda): 2.0 GiB, yes"));
	free(said);
}

/* A model of 64 experts of 4 MiB in F16, and little else; its weights are a hole in the file. */
static void sparse_experts(const char *name)
{
	static const struct {
		const char *name;
		uint32_t type, n_dims;
		uint64_t dim[3];
	} t[] = {
	    {"token_embd.weight", PLX_Q_F16, 2, {64, 32, 1}},
	    {"output_norm.weight", PLX_Q_F32, 1, {64, 1, 1}},
	    {"blk.0.attn_norm.weight", PLX_Q_F32, 1, {64, 1, 1}},
	    {"blk.0.ffn_norm.weight", PLX_Q_F32, 1, {64, 1, 1}},
	    {"blk.0.attn_q.weight", PLX_Q_F16, 2, {64, 64, 1}},
	    {"blk.0.attn_k.weight", PLX_Q_F16, 2, {64, 64, 1}},
	    {"blk.0.attn_v.weight", PLX_Q_F16, 2, {64, 64, 1}},
	    {"blk.0.attn_output.weight", PLX_Q_F16, 2, {64, 64, 1}},
	    {"blk.0.ffn_gate_inp.weight", PLX_Q_F32, 2, {64, 64, 1}},
	    {"blk.0.ffn_gate_exps.weight", PLX_Q_F16, 3, {64, 10944, 64}},
	    {"blk.0.ffn_up_exps.weight", PLX_Q_F16, 3, {64, 10944, 64}},
	    {"blk.0.ffn_down_exps.weight", PLX_Q_F16, 3, {10944, 64, 64}},
	};
	struct plx_gw w = {0};

	plx_gw_str(&w, "general.architecture", plx_gw_name("llama"));
	plx_gw_u32(&w, "llama.block_count", 1);
	plx_gw_u32(&w, "llama.context_length", 128);
	plx_gw_u32(&w, "llama.embedding_length", 64);
	plx_gw_u32(&w, "llama.feed_forward_length", 10944);
	plx_gw_u32(&w, "llama.attention.head_count", 1);
	plx_gw_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	plx_gw_u32(&w, "llama.expert_count", 64);
	plx_gw_u32(&w, "llama.expert_used_count", 2);
	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
		plx_gw_tensor(&w, plx_gw_name(t[i].name), t[i].type, t[i].n_dims, t[i].dim);
	assert_int_equal(plx_gw_finish(&w, NULL), 0);
	mtool_write(mtool_path(name), w.head.p, w.head.n);
	assert_int_equal(truncate(mtool_path(name), (off_t)w.file_bytes), 0);
	plx_gw_free(&w);
}

/* 256.5 MiB of experts on a CPU device with less: how many of them may stay in memory. */
static void test_inspect_leaves_experts_on_disk(void **state)
{
	static const struct {
		const char *device, *says;
	} ways[] = {
	    {"cpu0=1G", "cpu0 (cpu): 1.0 GiB, yes"},
	    {"cpu0=100M",
	     "cpu0 (cpu): 0.1 GiB, only with experts on disk: limits.expert_mem_mib below 99"},
	    {"cpu0=9M", "limits.expert_mem_mib below 8"},
	    {"cpu0=8M", "cpu0 (cpu): 0.0 GiB, NO: too small for the weights"},
	};
	struct plx_diag d;

	(void)state;
	sparse_experts("big");
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		assert_int_equal(mtool(&d, "inspect", mtool_path("big"), "--board",
		                       "board/devbox/board.yml", "--device", ways[i].device, NULL),
		                 0);
		char *said = mtool_said();

		if (!strstr(said, ways[i].says))
			fail_msg("%s: %s", ways[i].device, said);
		free(said);
	}
}

/* What scripts read. */
static void test_json_says_the_same(void **state)
{
	struct plx_diag d;

	(void)state;
	assert_int_equal(mtool(&d, "inspect", "tests/golden/tiny/qwen3moe.gguf", "--json",
	                       "--context", "64", "--device", "card=1G", NULL),
	                 0);
	json_t *j = json_load_file(mtool_path("stdout"), JSON_REJECT_DUPLICATES, NULL), *e, *p;

	e = json_object_get(json_object_get(j, "sizes"), "experts");
	assert_int_equal(json_integer_value(json_object_get(e, "count")), 16);
	assert_int_equal(json_integer_value(json_object_get(e, "used")), 4);
	p = json_array_get(json_object_get(j, "fits"),
	                   json_array_size(json_object_get(j, "fits")) - 1);
	assert_string_equal(json_string_value(json_object_get(p, "name")), "card");
	assert_int_equal(json_integer_value(json_object_get(p, "bytes")), 1073741824);
	assert_true(json_is_true(json_object_get(p, "context_fits")));
	assert_int_equal(json_integer_value(json_object_get(j, "asked_context")), 64);
	json_decref(j);
	assert_int_equal(mtool(&d, "verify", "tests/golden/tiny/qwen3.gguf", "--json", NULL), 0);
	j = json_load_file(mtool_path("stdout"), JSON_REJECT_DUPLICATES, NULL);
	assert_int_equal(json_array_size(json_object_get(j, "tensors")), 35);
	assert_true(json_is_true(json_object_get(j, "sound")));
	json_decref(j);
}

/* What inspect says of K and V is what the device takes. */
static void test_kv_bytes_are_the_kernels(void **state)
{
	static const enum plx_k_kv_type types[] = {PLX_K_KV_F16, PLX_K_KV_Q8, PLX_K_KV_Q4};
	static const uint32_t dims[] = {64, 80, 128, 256};

	(void)state;
	for (size_t t = 0; t < PLX_FACTS_KV_TYPES; t++)
		for (size_t i = 0; i < 4; i++) {
			struct plx_model m = {.n_layer = 5, .n_head_kv = 3, .head_dim = dims[i]};

			assert_int_equal(plx_facts_kv_bytes(&m, &plx_facts_kv_types[t]) * 32,
			                 15 * (plx_k_kv_k_bytes(types[t], 32, dims[i]) +
			                       plx_k_kv_v_bytes(types[t], 32, dims[i])));
		}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, mtool_setup, mtool_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_sizes_have_units),
	    TEST(test_inspect_says_what_a_model_is),
	    TEST(test_inspect_asks_for_a_cards_memory),
	    TEST(test_inspect_leaves_experts_on_disk),
	    TEST(test_json_says_the_same),
	    TEST(test_kv_bytes_are_the_kernels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
