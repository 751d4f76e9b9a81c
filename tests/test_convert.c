/*
 * plx-model convert on folders as Hugging Face saves them (tests/golden/hf, made by
 * tests/gen/hf_models.py): the file's logits are those of transformers on the same weights, its
 * token ids those of tokenizers; and what is wrong with a folder is said, with nothing left behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/model/chat.h"
#include "accel/model/tokenizer.h"
#include "kernels/quant.h"
#include "tests/lib/mtool.h"
#include "tests/lib/tiny_golden.h"

/* Goldens are printed with nine digits, and Llama 3 factors are f32. */
#define REF_BOUND 2e-6
/* f32 activations and f16 KV; with BF16 weights the device rounds activations to BF16 as well. */
#define DEV_BOUND      0.05
#define DEV_BOUND_BF16 0.2

/* The last three have experts; mixtral's are 48 wide, which the CPU device refuses. */
static const char *const names[] = {"llama",   "qwen2",    "qwen3",   "mistral",
                                    "mixtral", "qwen2moe", "qwen3moe"};
#define N_NAMES (sizeof names / sizeof names[0])

static char *folder_of(const char *name, const char *file)
{
	static char path[128];

	snprintf(path, sizeof path, "tests/golden/hf/%s%s%s", name, *file ? "/" : "", file);
	return path;
}

static struct plx_model *converted(const char *name)
{
	char out[64];
	struct plx_diag d;
	struct plx_model *m = NULL;

	snprintf(out, sizeof out, "%s.gguf", name);
	if (mtool(&d, "convert", folder_of(name, ""), "-o", mtool_path(out), "--force", NULL) ||
	    plx_model_open(mtool_path(out), &m, &d))
		fail_msg("%s: %s", name, d.text);
	return m;
}

/* A copy of a golden folder, "hf", in which one file has `from` replaced by `to`, once. */
static void edited(const char *name, const char *file, const char *from, const char *to)
{
	char path[64];

	mtool_end();
	mtool_begin();
	mtool_copy(folder_of(name, ""), mtool_path("hf"));
	snprintf(path, sizeof path, "hf/%s", file);
	mtool_edit(path, from, to);
}

/* ---- what is right --------------------------------------------------------------------------- */

static void check_device(const char *name, uint32_t type, const struct plx_t_golden *g)
{
	char file[64];

	snprintf(file, sizeof file, "%s.gguf", name);
	double worst = plx_t_golden_dev_error(g, mtool_path(file), "auto");

	print_message("%s: the device against transformers: %.1e\n", name, worst);
	assert_true(worst <= (type == PLX_Q_BF16 ? DEV_BOUND_BF16 : DEV_BOUND));
}

static void test_logits_are_those_of_transformers(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_NAMES; i++) {
		struct plx_model *m = converted(names[i]);
		struct plx_t_golden g;

		plx_t_golden_read(&g, folder_of(names[i], "logits"));
		double worst = plx_t_golden_ref_error(&g, m);

		print_message("%s: against transformers: %.1e\n", names[i], worst);
		assert_true(worst <= REF_BOUND);
		assert_true(fabs(g.logits[0]) > 1e-3);
		if (m->n_ff_expert % 32 == 0) /* what the CPU device runs */
			check_device(names[i], m->layer[0].wq.type, &g);
		plx_t_golden_free(&g);
		plx_model_close(m);
	}
}

static void check_text(struct plx_tok_scratch *s, const json_t *golden)
{
	const char *text = json_string_value(json_object_get(golden, "text"));
	const json_t *want = json_object_get(golden, "ids");
	int32_t ids[512];
	int n = plx_tok_encode(s, text, (uint32_t)strlen(text), PLX_TOK_SPECIALS, ids, 512);

	assert_int_equal(n, json_array_size(want));
	for (int k = 0; k < n; k++)
		assert_int_equal(ids[k], json_integer_value(json_array_get(want, (size_t)k)));
}

static void test_ids_are_those_of_tokenizers(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_NAMES; i++) {
		struct plx_model *m = converted(names[i]);
		json_t *all = json_load_file(folder_of(names[i], "texts.json"), 0, NULL), *golden;
		struct plx_tok_scratch *s;
		struct plx_tok *t;
		size_t k;

		assert_int_equal(json_array_size(all), 12);
		assert_int_equal(plx_tok_open(&t, m->gguf, NULL), 0);
		assert_int_equal(plx_tok_scratch_new(&s, t, 4096, NULL), 0);
		json_array_foreach(all, k, golden) check_text(s, golden);
		plx_tok_scratch_free(s);
		plx_tok_free(t);
		plx_model_close(m);
		json_decref(all);
	}
}

static void test_specials_and_template_are_kept(void **state)
{
	static const struct {
		const char *name;
		int32_t bos, eos, pad;
		bool add_bos, chat;
	} want[] = {{"llama", 0, 2, -1, true, true},
	            {"qwen2", -1, 2, 0, false, true},
	            {"qwen3", 1, 2, -1, false, false},
	            {"mistral", 1, 2, -1, true, false}};

	(void)state;
	for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
		struct plx_model *m = converted(want[i].name);
		const struct plx_tok_special *s;
		struct plx_chat *c = NULL;
		struct plx_tok *t;

		assert_int_equal(plx_tok_open(&t, m->gguf, NULL), 0);
		s = plx_tok_special(t);
		assert_int_equal(s->bos, want[i].bos);
		assert_int_equal(s->eos, want[i].eos);
		assert_int_equal(s->pad, want[i].pad);
		assert_int_equal(s->add_bos, want[i].add_bos);
		assert_int_equal(plx_chat_open(m->gguf, NULL, &c, NULL) == 0, want[i].chat);
		plx_chat_free(c);
		plx_tok_free(t);
		plx_model_close(m);
	}
}

static void test_configuration_is_kept(void **state)
{
	struct plx_model *m = converted("mistral");

	(void)state;
	assert_int_equal(m->arch, PLX_ARCH_LLAMA);
	assert_int_equal(m->pairing, PLX_ROPE_ADJACENT);
	assert_int_equal(m->n_ctx, 256);
	assert_int_equal(m->window, 128);
	assert_int_equal(m->layer[1].window, 128);
	assert_int_equal(m->n_head, 4);
	assert_int_equal(m->n_head_kv, 2);
	assert_int_equal(m->head_dim, 16);
	assert_false(m->tied_output);
	assert_int_equal(m->layer[0].wq.type, PLX_Q_F16);
	plx_model_close(m);
	m = converted("qwen2");
	assert_int_equal(m->layer[1].down.type, PLX_Q_BF16);
	assert_non_null(m->layer[0].bq);
	assert_true(m->rope_base == 1000000.0f);
	plx_model_close(m);
	m = converted("llama");
	assert_non_null(m->rope_factors);
	assert_true(m->rope_factors[0] == 1.0f && m->rope_factors[7] == 8.0f);
	plx_model_close(m);
	m = converted("qwen2moe");
	assert_int_equal(m->arch, PLX_ARCH_QWEN2MOE);
	assert_int_equal(m->n_expert, 6);
	assert_int_equal(m->n_expert_used, 2);
	assert_int_equal(m->n_ff_expert, 32);
	assert_int_equal(m->n_ff_shared, 64);
	assert_false(m->expert_norm);
	assert_int_equal(m->layer[1].exp_down.n_rows, 6 * 32);
	assert_int_equal(m->layer[1].exp_down.n_cols, 32);
	assert_int_equal(m->layer[1].router.type, PLX_Q_F32);
	assert_non_null(m->layer[0].shared_gate);
	plx_model_close(m);
}

/* What configurations of other versions of the same models say. */
static void test_configurations_vary(void **state)
{
	static const struct {
		const char *name, *from, *to;
		uint32_t window, head_dim;
		float base, scale;
		bool tied, norm;
	} ways[] = {
	    {"mistral", "\"sliding_window\": 128", "\"sliding_window\": null", 0, 16, 1e4f, 1,
	     false, false},
	    {"mistral", "\"head_dim\": null,", "\"head_dim\": 16,", 128, 16, 1e4f, 1, false, false},
	    {"mistral", "\"head_dim\": null,", "", 128, 16, 1e4f, 1, false, false},
	    {"mistral", "\"tie_word_embeddings\": false,", "", 128, 16, 1e4f, 1, false, false},
	    {"mistral", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", 128, 16,
	     1e4f, 1, true, false},
	    {"qwen2", "\"rope_theta\": 1000000.0,",
	     "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5000.0},", 0, 16,
	     5e3f, 1, false, false},
	    {"qwen2", "\"rope_scaling\": null",
	     "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}", 0, 16, 1e6f, 0.25f, false,
	     false},
	    {"qwen2", "\"sliding_window\": null", "\"sliding_window\": 64", 0, 16, 1e6f, 1, false,
	     false},
	    {"qwen2moe", "\"norm_topk_prob\": false", "\"norm_topk_prob\": true", 0, 16, 1e4f, 1,
	     false, true},
	    {"qwen3moe", "\"norm_topk_prob\": true", "\"norm_topk_prob\": false", 0, 16, 1e4f, 1,
	     false, false},
	    {"qwen3moe", "\"norm_topk_prob\": true,", "", 0, 16, 1e4f, 1, false, false},
	    {"mixtral", "\"head_dim\": null,", "\"norm_topk_prob\": false,", 0, 16, 1e4f, 1, false,
	     true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		struct plx_model *m;
		struct plx_diag d;

		edited(ways[i].name, "config.json", ways[i].from, ways[i].to);
		if (mtool(&d, "convert", mtool_path("hf"), "-o", mtool_path("out"), NULL) != 0 ||
		    plx_model_open(mtool_path("out"), &m, &d) != 0)
			fail_msg("%s: %s", ways[i].to, d.text);
		assert_int_equal(m->window, ways[i].window);
		assert_int_equal(m->head_dim, ways[i].head_dim);
		assert_true(m->rope_base == ways[i].base && m->rope_scale == ways[i].scale);
		assert_int_equal(m->tied_output, ways[i].tied);
		assert_int_equal(m->expert_norm, ways[i].norm);
		plx_model_close(m);
	}
}

/* Weights of experts that add up to 1, or not, against transformers with the other rule. */
static void test_either_rule_of_weights_is_that_of_transformers(void **state)
{
	static const char *const ways[2][3] = {
	    {"qwen2moe", "\"norm_topk_prob\": false", "\"norm_topk_prob\": true"},
	    {"qwen3moe", "\"norm_topk_prob\": true", "\"norm_topk_prob\": false"}};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct plx_t_golden g, other;
		struct plx_model *m;
		struct plx_diag d;

		edited(ways[i][0], "config.json", ways[i][1], ways[i][2]);
		assert_int_equal(
		    mtool(&d, "convert", mtool_path("hf"), "-o", mtool_path("out"), NULL), 0);
		char *said = mtool_said();

		assert_non_null(strstr(said, "polluxd follows it, llama.cpp"));
		free(said);
		assert_int_equal(plx_model_open(mtool_path("out"), &m, &d), 0);
		plx_t_golden_read(&g, folder_of(ways[i][0], "logits-norm"));
		plx_t_golden_read(&other, folder_of(ways[i][0], "logits"));
		assert_true(plx_t_golden_ref_error(&g, m) <= REF_BOUND);
		assert_true(plx_t_golden_ref_error(&other, m) > 1000 * REF_BOUND);
		plx_model_close(m);
		assert_true(plx_t_golden_dev_error(&g, mtool_path("out"), "auto") <= DEV_BOUND);
		plx_t_golden_free(&g);
		plx_t_golden_free(&other);
	}
}

/* tokenizer.json of older versions has merges as "a b" for ["a","b"]. */
static void test_merges_are_pairs_or_texts(void **state)
{
	struct plx_diag d;

	(void)state;
	for (size_t i = 0; i < N_NAMES; i++) {
		json_t *tok = json_load_file(folder_of(names[i], "tokenizer.json"), 0, NULL), *pair;
		json_t *model = json_object_get(tok, "model"), *texts = json_array();
		size_t k;

		json_array_foreach(json_object_get(model, "merges"), k, pair) json_array_append_new(
		    texts, json_sprintf("%s %s", json_string_value(json_array_get(pair, 0)),
		                        json_string_value(json_array_get(pair, 1))));
		assert_true(json_array_size(texts) > 20);
		assert_int_equal(json_object_set_new(model, "merges", texts), 0);
		mtool_end();
		mtool_begin();
		mtool_copy(folder_of(names[i], ""), mtool_path("hf"));
		assert_int_equal(
		    mtool(&d, "convert", mtool_path("hf"), "-o", mtool_path("a"), NULL), 0);
		assert_int_equal(json_dump_file(tok, mtool_path("hf/tokenizer.json"), 0), 0);
		assert_int_equal(
		    mtool(&d, "convert", mtool_path("hf"), "-o", mtool_path("b"), NULL), 0);
		assert_true(mtool_same(mtool_path("a"), mtool_path("b")));
		json_decref(tok);
	}
}

/* The same bytes, whoever works, experts too. */
static void test_bytes_do_not_depend_on_threads(void **state)
{
	static const char *const threads[] = {"1", "2", "5", "1"};
	struct plx_diag d;

	(void)state;
	for (size_t i = 0; i < N_NAMES; i++)
		for (size_t t = 0; t < 4; t++) {
			assert_int_equal(mtool(&d, "convert", folder_of(names[i], ""), "-o",
			                       mtool_path(t ? "b" : "a"), "-t", "Q8_0", "--threads",
			                       threads[t], "--force", NULL),
			                 0);
			assert_true(!t || mtool_same(mtool_path("a"), mtool_path("b")));
		}
	char *said = mtool_said(); /* of qwen3moe, whose rule is llama.cpp's too */

	assert_null(strstr(said, "llama.cpp"));
	free(said);
}

/* An index, one of its files' folder, and one whole file say the same. */
static void test_types_and_inputs(void **state)
{
	struct plx_diag d;

	(void)state;
	assert_int_equal(mtool(&d, "convert", folder_of("qwen2", ""), "-o", mtool_path("a"), NULL),
	                 0);
	assert_int_equal(mtool(&d, "convert", folder_of("qwen2", "model.safetensors.index.json"),
	                       "-o", mtool_path("b"), "--threads", "3", NULL),
	                 0);
	assert_true(mtool_same(mtool_path("a"), mtool_path("b")));
	assert_int_equal(mtool(&d, "convert", folder_of("llama", "model.safetensors"), "-o",
	                       mtool_path("c"), "-t", "Q8_0", "--tensor", "*.attn_v.weight=F16",
	                       NULL),
	                 0);
	struct plx_model *m;

	assert_int_equal(plx_model_open(mtool_path("c"), &m, NULL), 0);
	assert_int_equal(m->layer[0].wq.type, PLX_Q_Q8_0);
	assert_int_equal(m->layer[1].wv.type, PLX_Q_F16);
	plx_model_close(m);
}

/* Quantising what was converted gives what converting to that format gives. */
static void test_convert_then_quantise_is_convert_with_type(void **state)
{
	struct plx_diag d;

	(void)state;
	assert_int_equal(mtool(&d, "convert", folder_of("llama", ""), "-o", mtool_path("a"), NULL),
	                 0);
	assert_int_equal(
	    mtool(&d, "quantise", mtool_path("a"), "-o", mtool_path("b"), "-t", "q4_1", NULL), 0);
	assert_int_equal(
	    mtool(&d, "convert", folder_of("llama", ""), "-o", mtool_path("c"), "-t", "Q4_1", NULL),
	    0);
	assert_int_equal(mtool(&d, "verify", mtool_path("b"), "--against", mtool_path("c"), NULL),
	                 0);
	char *said = mtool_said();

	assert_non_null(strstr(said, "22 of 22 tensors the same"));
	free(said);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static void test_wrong_folders_are_refused(void **state)
{
	static const struct {
		const char *name, *file, *from, *to;
		const char *says;
	} wrongs[] = {
	    {"llama", "config.json", "\"model_type\": \"llama\"", "\"model_type\": \"gpt9\"",
	     "model_type \"gpt9\" is not supported"},
	    {"llama", "config.json", "\"hidden_size\": 64", "\"hidden_size\": 4000000000",
	     "\"hidden_size\" is out of range"},
	    {"llama", "config.json", "\"hidden_size\": 64,", "", "\"hidden_size\" is missing"},
	    {"llama", "config.json", "\"hidden_size\": 64", "\"hidden_size\": 128",
	     "where config.json says 384 x 128"},
	    {"llama", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
	     "tensor 'model.layers.2.input_layernorm.weight' is missing"},
	    {"llama", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1",
	     "tensor 'model.layers.1.input_layernorm.weight' has no place"},
	    {"llama", "config.json", "\"llama3\"", "\"yarn\"",
	     "rope_scaling of type \"yarn\" is not supported"},
	    {"llama", "config.json", "\"silu\"", "\"gelu\"", "hidden_act is not silu"},
	    {"llama", "config.json", "\"attention_bias\": false", "\"attention_bias\": true",
	     "attention_bias is set"},
	    {"llama", "config.json", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
	     "no multiple"},
	    {"llama", "config.json", "{", "[", "config.json"},
	    {"llama", "config.json", "\"mlp_bias\": false", "\"mlp_bias\": true",
	     "mlp_bias is set"},
	    {"llama", "config.json", "{", "{\"partial_rotary_factor\": 0.5,",
	     "partial_rotary_factor is not 1"},
	    {"llama", "config.json", "{", "{\"quantization_config\": {\"bits\": 4},",
	     "the weights are quantised already"},
	    {"llama", "config.json", "\"low_freq_factor\": 1.0", "\"low_freq_factor\": 4.0",
	     "low_freq_factor < high_freq_factor"},
	    {"llama", "config.json", "\"rope_theta\": 10000.0", "\"rope_theta\": -1",
	     "rope_theta is out of range"},
	    {"llama", "config.json", "\"num_key_value_heads\": 2,", "",
	     "k_proj.weight' has 2 dimensions, 32 x 64, where config.json says 64 x 64"},
	    {"llama", "config.json", "\"vocab_size\": 384",
	     "\"vocab_size\": 384, \"vocab_size\": 1", "duplicate"},
	    {"llama", "tokenizer.json", "\"type\":\"BPE\"", "\"type\":\"Unigram\"",
	     "only BPE is supported"},
	    {"llama", "tokenizer.json", "\"type\":\"BPE\"", "\"type\":\"WordPiece\"",
	     "its model is \"WordPiece\"; only BPE is supported"},
	    {"llama", "tokenizer.json", "\"model\":", "\"medal\":", "only BPE is supported"},
	    {"llama", "tokenizer.json", "\"vocab\":", "\"vocal\":", "its model has no vocab"},
	    {"llama", "tokenizer.json", "\\\\p{N}{1,3}", "\\\\p{N}{1,4}", "none that is known"},
	    {"llama", "tokenizer.json", "\"rstrip\":false", "\"rstrip\":true", "rstrip"},
	    {"llama", "tokenizer.json", "\"vocab\":{", "\"vocab\":{\"setup_teardown\":384,",
	     "id that is not below 384"},
	    {"llama", "tokenizer.json", "\"vocab\":{", "\"vocab\":{\"setup_teardown\":5,",
	     "have the same id"},
	    {"mistral", "tokenizer.json", "\"merges\":[", "\"merges\":[[\"zz\",\"qq\"],",
	     "a merge makes no token"},
	    {"mistral", "tokenizer.json", "\"<0x0A>\":13,", "", "0x0A"},
	    {"qwen2", "model.safetensors.index.json", "00001-of-00002", "00007-of-00002",
	     "model-00007-of-00002.safetensors: can't open it"},
	    {"qwen2", "model.safetensors.index.json", "\"model-00001", "\"../model-00001",
	     "no plain name"},
	    {"qwen2", "model.safetensors.index.json", "\"lm_head.weight\"", "\"other.weight\"",
	     "'other.weight' should be in"},
	    {"qwen2", "model.safetensors.index.json", "\"model.norm.weight\": \"model-00002",
	     "\"model.norm.weight\": \"model-00001",
	     "'model.norm.weight' should be in model-00001-of-00002.safetensors, but is not"},
	    {"qwen2", "model.safetensors.index.json",
	     "\"lm_head.weight\": \"model-00002-of-00002.safetensors\",", "",
	     "it lists 26 tensors, but its files hold 27"},
	    {"qwen2", "model.safetensors.index.json", "weight_map", "weight_nap",
	     "it has no weight_map"},
	    {"qwen2", "model-00002-of-00002.safetensors", "[0,45056]", "[0,45058]",
	     "contradict its shape"},
	    {"qwen2", "model-00002-of-00002.safetensors", "[45056,45184]", "[45054,45182]",
	     "'model.layers.1.input_layernorm.weight': its data overlaps another tensor's"},
	    {"qwen2", "model-00002-of-00002.safetensors",
	     "\"lm_head.weight\":{\"dtype\":\"BF16\",\"shape\":[352,64],\"data_offsets\":[0,45056]"
	     "}",
	     "\"lm\":{\"dtype\":\"BF16\",\"shape\":[288230376151711744,64],\"data_offsets\":[0,0]}"
	     " ",
	     "tensor 'lm': its shape overflows"},
	    {"qwen2", "model-00001-of-00002.safetensors", "\"dtype\":\"BF16\"",
	     "\"dtype\":\"F99\" ", "dtype 'F99' is not known"},
	    {"qwen2", "model-00001-of-00002.safetensors", "\"dtype\":\"BF16\"",
	     "\"dtype\":\"I16\" ", "is I16; save the model as"},
	    {"llama", "model.safetensors", "lm_head.weight", "lm_heap.weight",
	     "'lm_head.weight' is missing"},
	    {"mixtral", "config.json", "\"num_local_experts\": 6", "\"num_local_experts\": 5",
	     "block_sparse_moe.gate.weight' has 2 dimensions, 6 x 32"},
	    {"mixtral", "config.json", "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 7",
	     "\"num_experts_per_tok\" is out of range"},
	    {"qwen2moe", "config.json", "\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2",
	     "some of its layers have no experts"},
	    {"qwen3moe", "model.safetensors", "model.layers.1.mlp.experts.7.up_proj.weight",
	     "model.layers.1.mlp.experts.9.up_proj.weight",
	     "'model.layers.1.mlp.experts.7.up_proj.weight' is missing"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
		struct plx_diag d;

		edited(wrongs[i].name, wrongs[i].file, wrongs[i].from, wrongs[i].to);
		int rc = mtool(&d, "convert", mtool_path("hf"), "-o", mtool_path("out"), NULL);

		if (rc != 1 || !strstr(d.text, wrongs[i].says))
			fail_msg("%s: exit %d: %s", wrongs[i].says, rc, d.text);
		assert_int_equal(mtool_files(), 1); /* the folder alone */
	}
}

static void refused(const char *says)
{
	struct plx_diag d;
	int rc = mtool(&d, "convert", mtool_path("hf"), "-o", mtool_path("out"), NULL);

	if (rc != 1 || !strstr(d.text, says))
		fail_msg("%s: exit %d: %s", says, rc, d.text);
	assert_int_equal(mtool_files(), 1);
}

/* The second file has a tensor of the first one's name, and the index is silent about it. */
static void test_a_tensor_in_two_files_is_refused(void **state)
{
	(void)state;
	edited("qwen2", "model-00002-of-00002.safetensors", "model.layers.1.mlp.up_proj",
	       "model.layers.0.mlp.up_proj");
	mtool_edit("hf/model.safetensors.index.json",
	           "\"model.layers.1.mlp.up_proj.weight\": \"model-00002-of-00002.safetensors\",",
	           "");
	refused("some are there twice or belong to another model");
}

static void test_a_shard_that_is_cut_short_is_refused(void **state)
{
	static const char file[] = "hf/model-00002-of-00002.safetensors";
	size_t n;

	(void)state;
	mtool_copy(folder_of("qwen2", ""), mtool_path("hf"));
	void *p = mtool_read(mtool_path(file), &n);

	mtool_write(mtool_path(file), p, n - 1);
	refused("'model.norm.weight': its data ends behind the end of the file");
	mtool_write(mtool_path(file), p, 100);
	refused("it is cut short");
	free(p);
}

static void test_missing_files_are_named(void **state)
{
	static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
	struct plx_diag d;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		char path[64];

		mtool_end();
		mtool_begin();
		mtool_copy(folder_of("llama", ""), mtool_path("hf"));
		snprintf(path, sizeof path, "hf/%s", files[i]);
		assert_int_equal(unlink(mtool_path(path)), 0);
		assert_int_equal(
		    mtool(&d, "convert", mtool_path("hf"), "-o", mtool_path("out"), NULL), 1);
		assert_non_null(strstr(d.text, files[i]));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_logits_are_those_of_transformers, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_ids_are_those_of_tokenizers, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_specials_and_template_are_kept, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_configuration_is_kept, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_configurations_vary, mtool_setup, mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_either_rule_of_weights_is_that_of_transformers,
	                                    mtool_setup, mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_merges_are_pairs_or_texts, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_bytes_do_not_depend_on_threads, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_types_and_inputs, mtool_setup, mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_convert_then_quantise_is_convert_with_type,
	                                    mtool_setup, mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_wrong_folders_are_refused, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_a_tensor_in_two_files_is_refused, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_a_shard_that_is_cut_short_is_refused, mtool_setup,
	                                    mtool_teardown),
	    cmocka_unit_test_setup_teardown(test_missing_files_are_named, mtool_setup,
	                                    mtool_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
