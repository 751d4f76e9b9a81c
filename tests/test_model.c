/* Models: what is accepted and how it is laid out, and what is refused by which name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/chat.h"
#include "accel/model/model.h"
#include "fw/base/err.h"
#include "kernels/quant.h"
#include "tests/lib/gguf_make.h"
#include "tests/lib/model_path.h"

static struct plx_model *open_file(const char *path)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	if (plx_model_open(path, &m, &d) != 0)
		fail_msg("%s", d.text);
	return m;
}

/* Open the little llama with one lie in it. */
static int open_lie(const struct gguf_lie *lie, struct gguf_make *file, struct plx_model **m,
                    struct plx_diag *d)
{
	struct plx_gguf *g;
	int err;

	gguf_make_llama(file, lie);
	err = plx_gguf_open_mem(file->file.p, file->file.n, &g, d);
	assert_int_equal(err, 0);
	return plx_model_from_gguf(g, m, d);
}

static void check_refused(const struct gguf_lie *lie, int want_err, const char *want_text)
{
	struct plx_diag d = {0};
	struct gguf_make file;
	struct plx_model *m;
	int err = open_lie(lie, &file, &m, &d);

	if (err != want_err || !strstr(d.text, want_text))
		fail_msg("got %d '%s', want %d '%s'", err, d.text, want_err, want_text);
	assert_null(m);
	gguf_make_free(&file);
}

static struct plx_model *open_good(const struct gguf_lie *lie, struct gguf_make *file)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	if (open_lie(lie, file, &m, &d) != 0)
		fail_msg("%s", d.text);
	return m;
}

static void close_good(struct plx_model *m, struct gguf_make *file)
{
	plx_model_close(m);
	gguf_make_free(file);
}

/* ---- accepted ------------------------------------------------------------------------------ */

static void test_model_defaults(void **state)
{
	static const struct gguf_lie honest;
	struct gguf_make file;
	struct plx_model *m = open_good(&honest, &file);
	const struct plx_layer *l = &m->layer[1];

	(void)state;
	assert_int_equal(m->arch, PLX_ARCH_LLAMA);
	assert_int_equal(m->n_layer, 2);
	assert_int_equal(m->n_embd, 32);
	assert_int_equal(m->n_head, 4);
	assert_int_equal(m->n_head_kv, 2);
	assert_int_equal(m->head_dim, 8);
	assert_int_equal(m->n_rot, 8);
	assert_int_equal(m->n_ff, 64);
	assert_int_equal(m->n_vocab, 16);
	assert_int_equal(m->n_ctx, 128);
	assert_int_equal(m->pairing, PLX_ROPE_ADJACENT);
	assert_true(m->rope_base == 10000.0f);
	assert_true(m->rope_scale == 1.0f);
	assert_null(m->rope_factors);
	assert_true(m->rms_eps == 1e-5f);
	assert_true(m->tied_output);
	assert_ptr_equal(m->output.data, m->tok_embd.data);
	assert_string_equal(m->name, "(memory)");
	assert_null(l->bq);
	assert_null(l->q_norm);
	assert_int_equal(l->wk.n_rows, 16);
	assert_int_equal(l->wk.n_cols, 32);
	assert_int_equal(l->wk.type, PLX_Q_Q8_0);
	assert_int_equal(l->wk.row_bytes, 34);
	assert_int_equal(l->wk.bytes, 544);
	assert_int_equal(l->down.n_rows, 32);
	assert_int_equal(l->down.row_bytes, 68);
	for (int i = 0; i < 32; i++)
		assert_true(l->ffn_norm[i] == 1.0f);
	assert_int_equal((uintptr_t)l->ffn_norm % 64, 0);
	close_good(m, &file);
	plx_model_close(NULL);
}

static void test_model_rope_scaling(void **state)
{
	static const struct gguf_lie newer = {.kv_f32 = "llama.rope.scaling.factor", .f32 = 4};
	static const struct gguf_lie older = {.kv_f32 = "llama.rope.scale_linear", .f32 = 2};
	static const struct gguf_lie none = {.kv_f32 = "llama.rope.scaling.factor",
	                                     .f32 = 4,
	                                     .kv_str = "llama.rope.scaling.type",
	                                     .str = "none"};
	struct gguf_make file;
	struct plx_model *m = open_good(&newer, &file);

	(void)state;
	assert_true(m->rope_scale == 0.25f);
	close_good(m, &file);
	m = open_good(&older, &file);
	assert_true(m->rope_scale == 0.5f);
	close_good(m, &file);
	m = open_good(&none, &file);
	assert_true(m->rope_scale == 1.0f);
	close_good(m, &file);
}

static void test_model_sliding_windows(void **state)
{
	static const struct gguf_lie wide = {.kv_u32 = "llama.attention.sliding_window",
	                                     .u32 = 128};
	static const struct gguf_lie all = {.kv_u32 = "llama.attention.sliding_window", .u32 = 48};
	struct gguf_make file;
	struct plx_model *m = open_good(&all, &file);

	(void)state;
	assert_int_equal(m->n_ctx, 128);
	assert_int_equal(m->window, 48);
	assert_int_equal(m->layer[0].window, 48);
	assert_int_equal(m->layer[1].window, 48);
	close_good(m, &file);
	m = open_good(&wide, &file); /* as large as the context: as if there were none */
	assert_int_equal(m->window, 0);
	assert_int_equal(m->layer[1].window, 0);
	close_good(m, &file);
}

/* A window of 48 in a model of two layers, and a pattern: number, or list where flags is set. */
static int open_pattern(uint32_t every, const char *flags, uint32_t n, struct plx_model **m,
                        struct gguf_make *file, struct plx_diag *d)
{
	static const struct gguf_lie all = {.kv_u32 = "llama.attention.sliding_window", .u32 = 48};
	struct plx_gguf *g;
	uint8_t arr[64];
	uint32_t type = PLX_GGUF_BOOL;
	uint64_t len = n;

	gguf_make_start(file, &all);
	if (flags) {
		memcpy(arr, &type, 4);
		memcpy(arr + 4, &len, 8);
		for (uint32_t i = 0; i < n; i++)
			arr[12 + i] = flags[i] == '1';
		gguf_make_raw(file, "llama.attention.sliding_window_pattern", PLX_GGUF_ARR, arr,
		              12 + n);
	} else {
		gguf_make_u32(file, "llama.attention.sliding_window_pattern", every);
	}
	gguf_make_finish(file);
	assert_int_equal(plx_gguf_open_mem(file->file.p, file->file.n, &g, d), 0);
	return plx_model_from_gguf(g, m, d);
}

static void test_model_window_patterns(void **state)
{
	static const struct {
		uint32_t every;
		const char *flags;
		uint32_t window, layer[2];
	} want[] = {
	    {0, NULL, 48, {48, 48}}, {1, NULL, 0, {0, 0}},   {2, NULL, 48, {48, 0}},
	    {6, NULL, 48, {48, 48}}, {0, "01", 48, {0, 48}}, {0, "00", 0, {0, 0}},
	};
	struct plx_diag d = {0};
	struct gguf_make file;
	struct plx_model *m;

	(void)state;
	for (uint32_t i = 0; i < sizeof want / sizeof want[0]; i++) {
		assert_int_equal(open_pattern(want[i].every, want[i].flags, 2, &m, &file, &d), 0);
		assert_int_equal(m->window, want[i].window);
		assert_int_equal(m->layer[0].window, want[i].layer[0]);
		assert_int_equal(m->layer[1].window, want[i].layer[1]);
		close_good(m, &file);
	}
	assert_int_equal(open_pattern(0, "011", 3, &m, &file, &d), PLX_E_FORMAT);
	assert_non_null(strstr(d.text, "has 3 entries for 2 layers"));
	gguf_make_free(&file);
}

static void test_model_vectors_are_converted(void **state)
{
	/* 0x3f80 is 1.0 as BF16; the builder fills with f32 ones: bytes 00 00 80 3f. */
	static const struct gguf_lie lie = {
	    .swap = "blk.0.attn_norm.weight", .dim = {32, 0}, .type = 30};
	struct gguf_make file;
	struct plx_model *m = open_good(&lie, &file);

	(void)state;
	for (int i = 0; i < 32; i++)
		assert_true(m->layer[0].attn_norm[i] == (i % 2 ? 1.0f : 0.0f));
	close_good(m, &file);
}

static void test_model_harmless_leftover(void **state)
{
	static const struct gguf_lie lie = {.extra = "blk.0.attn_rot_embd.weight"};
	struct gguf_make file;

	(void)state;
	close_good(open_good(&lie, &file), &file);
}

static void test_model_rope_factors(void **state)
{
	static const struct gguf_lie lie = {.extra = "rope_freqs.weight"};
	struct gguf_make file;
	struct plx_model *m = open_good(&lie, &file);

	(void)state;
	assert_non_null(m->rope_factors);
	assert_true(m->rope_factors[3] == 1.0f);
	close_good(m, &file);
}

/* ---- refused ------------------------------------------------------------------------------- */

static void test_model_tensor_lies(void **state)
{
	static const struct {
		struct gguf_lie lie;
		int err;
		const char *text;
	} lies[] = {
	    {{.skip = "token_embd.weight"}, PLX_E_FORMAT, "'token_embd.weight' is missing"},
	    {{.skip = "output_norm.weight"}, PLX_E_FORMAT, "'output_norm.weight' is missing"},
	    {{.skip = "blk.1.ffn_up.weight"}, PLX_E_FORMAT, "'blk.1.ffn_up.weight' is missing"},
	    {{.skip = "blk.0.attn_norm.weight"},
	     PLX_E_FORMAT,
	     "'blk.0.attn_norm.weight' is missing"},
	    {{.extra = "blk.0.attn_q.bias"}, PLX_E_FORMAT, "'blk.0.attn_q.bias' is 4 x 1 x 1 x 1"},
	    {{.extra = "blk.0.attn_v.bias"}, PLX_E_FORMAT, "'blk.0.attn_q.bias' is missing"},
	    {{.extra = "blk.0.attn_q_norm.weight"},
	     PLX_E_UNSUPPORTED,
	     "has no place in architecture llama"},
	    {{.extra = "blk.0.ffn_gate_exps.weight"},
	     PLX_E_UNSUPPORTED,
	     "'blk.0.ffn_gate_exps.weight' has no"},
	    {{.extra = "blk.2.attn_norm.weight"},
	     PLX_E_UNSUPPORTED,
	     "'blk.2.attn_norm.weight' has no place"},
	    {{.extra = "attn_rot_embd.weight"}, PLX_E_UNSUPPORTED, "has no place"},
	    {{.extra = "output.weight"}, PLX_E_FORMAT, "'output.weight' is 4 x 1 x 1 x 1 where"},
	    {{.swap = "blk.0.attn_k.weight", .dim = {32, 32}, .type = 8},
	     PLX_E_FORMAT,
	     "'blk.0.attn_k.weight' is 32 x 32 x 1 x 1 where the configuration says 32 x 16"},
	    {{.swap = "blk.0.ffn_down.weight", .dim = {32, 64}, .type = 8},
	     PLX_E_FORMAT,
	     "says 64 x 32"},
	    {{.swap = "token_embd.weight", .dim = {64, 16}, .type = 8},
	     PLX_E_FORMAT,
	     "says 32 x 16"},
	    {{.swap = "output_norm.weight", .dim = {32, 32}, .type = 0},
	     PLX_E_FORMAT,
	     "says 32 x 1"},
	    {{.swap = "blk.1.attn_q.weight", .dim = {32, 32}, .type = 20},
	     PLX_E_UNSUPPORTED,
	     "'blk.1.attn_q.weight' is of type IQ4_NL, which is not supported"},
	    {{.swap = "blk.1.attn_norm.weight", .dim = {32, 0}, .type = 8},
	     PLX_E_UNSUPPORTED,
	     "norms, biases and factors must be F32, F16 or BF16"},
	    {{.swap = "token_embd.weight", .dim = {1, 1048577}, .type = 24},
	     PLX_E_LIMIT,
	     "1048577 tokens"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++)
		check_refused(&lies[i].lie, lies[i].err, lies[i].text);
}

static void test_model_number_lies(void **state)
{
	static const struct {
		const char *key;
		uint32_t value;
		int err;
		const char *text;
	} lies[] = {
	    {"llama.block_count", 0, PLX_E_FORMAT, "'llama.block_count' is 0"},
	    {"llama.block_count", 513, PLX_E_LIMIT, "is 513, over the limit of 512"},
	    {"llama.block_count", UINT32_MAX, PLX_E_LIMIT, "over the limit"},
	    {"llama.block_count", 3, PLX_E_FORMAT, "'blk.2.attn_norm.weight' is missing"},
	    {"llama.block_count", 1, PLX_E_UNSUPPORTED, "'blk.1.attn_norm.weight' has no place"},
	    {"llama.embedding_length", 65537, PLX_E_LIMIT, "over the limit of 65536"},
	    {"llama.embedding_length", 64, PLX_E_FORMAT, "'token_embd.weight' is 32 x 16"},
	    {"llama.feed_forward_length", 0, PLX_E_FORMAT, "is 0"},
	    {"llama.feed_forward_length", 32, PLX_E_FORMAT, "'blk.0.ffn_gate.weight'"},
	    {"llama.context_length", 0, PLX_E_FORMAT, "is 0"},
	    {"llama.attention.head_count", 0, PLX_E_FORMAT, "is 0"},
	    {"llama.attention.head_count", 1025, PLX_E_LIMIT, "over the limit of 1024"},
	    {"llama.attention.head_count", 64, PLX_E_FORMAT,
	     "'llama.attention.key_length' is missing"},
	    {"llama.attention.head_count_kv", 3, PLX_E_FORMAT, "no multiple of head_count_kv"},
	    {"llama.attention.head_count_kv", 8, PLX_E_FORMAT, "no multiple of head_count_kv"},
	    {"llama.attention.key_length", 7, PLX_E_FORMAT, "must be even"},
	    {"llama.attention.key_length", 513, PLX_E_LIMIT, "over the limit of 512"},
	    {"llama.attention.key_length", 16, PLX_E_FORMAT, "'blk.0.attn_q.weight'"},
	    {"llama.attention.value_length", 16, PLX_E_UNSUPPORTED, "keys of 8 and values of 16"},
	    {"llama.rope.dimension_count", 5, PLX_E_FORMAT, "must be even"},
	    {"llama.rope.dimension_count", 10, PLX_E_FORMAT, "no larger"},
	    {"llama.vocab_size", 17, PLX_E_FORMAT, "'llama.vocab_size' says 17"},
	    {"llama.expert_count", 8, PLX_E_FORMAT, "'llama.expert_used_count' is missing"},
	    {"llama.expert_count", 1025, PLX_E_LIMIT, "over the limit of 1024"},
	    {"llama.attention.sliding_window", 0, PLX_E_FORMAT, "is 0"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		struct gguf_lie lie = {.kv_u32 = lies[i].key, .u32 = lies[i].value};

		check_refused(&lie, lies[i].err, lies[i].text);
	}
}

static void test_model_real_lies(void **state)
{
	static const char eps[] = "llama.attention.layer_norm_rms_epsilon";
	static const struct {
		const char *key;
		float value;
		int err;
		const char *text;
	} lies[] = {
	    {eps, 0, PLX_E_FORMAT, "is 0, not between 0 and 1"},
	    {eps, -1, PLX_E_FORMAT, "is -1, not between"},
	    {eps, 1, PLX_E_FORMAT, "not between"},
	    {"llama.rope.freq_base", 0, PLX_E_FORMAT, "'llama.rope.freq_base' is 0"},
	    {"llama.rope.scaling.factor", -2, PLX_E_FORMAT, "not between"},
	    {"llama.rope.scaling.attn_factor", 0.5f, PLX_E_UNSUPPORTED, "is 0.5, which is not"},
	    {"llama.attention.max_alibi_bias", 8, PLX_E_UNSUPPORTED, "max_alibi_bias' is 8"},
	    {"llama.logit_scale", 0.5f, PLX_E_UNSUPPORTED, "logit_scale' is 0.5"},
	    {"llama.block_count", 2, PLX_E_FORMAT, "'llama.block_count' is of type f32"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		struct gguf_lie lie = {.kv_f32 = lies[i].key, .f32 = lies[i].value};

		check_refused(&lie, lies[i].err, lies[i].text);
	}
}

static void test_model_text_lies(void **state)
{
	static const struct gguf_lie gemma = {.arch = "gemma\x07"};
	static const struct gguf_lie no_arch = {.skip = "general.architecture"};
	static const struct gguf_lie no_eps = {.skip = "llama.attention.layer_norm_rms_epsilon"};
	static const struct gguf_lie yarn = {.kv_str = "llama.rope.scaling.type", .str = "yarn"};
	static const struct gguf_lie text = {.kv_str = "llama.block_count", .str = "2"};
	static const struct gguf_lie qwen = {.arch = "qwen2"};

	(void)state;
	check_refused(&gemma, PLX_E_UNSUPPORTED, "architecture 'gemma?' is not supported; give");
	check_refused(&no_arch, PLX_E_FORMAT, "'general.architecture' is missing");
	check_refused(&no_eps, PLX_E_FORMAT, "layer_norm_rms_epsilon' is missing");
	check_refused(&yarn, PLX_E_UNSUPPORTED, "RoPE scaling 'yarn' is not supported");
	check_refused(&text, PLX_E_FORMAT, "'llama.block_count' is of type string, not a whole");
	check_refused(&qwen, PLX_E_FORMAT, "'qwen2.block_count' is missing");
}

static void test_model_bad_rope_factor(void **state)
{
	static const struct gguf_lie lie = {.extra = "rope_freqs.weight"};
	static const float bad[] = {0.0f, -1.0f, __builtin_inff(), __builtin_nanf("")};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct plx_diag d = {0};
		struct gguf_make file;
		struct plx_model *m;
		struct plx_gguf *g;

		gguf_make_llama(&file, &lie); /* the extra tensor is the last */
		memcpy(file.file.p + file.file.n - 24, &bad[i], 4);
		assert_int_equal(plx_gguf_open_mem(file.file.p, file.file.n, &g, NULL), 0);
		assert_int_equal(plx_model_from_gguf(g, &m, &d), PLX_E_FORMAT);
		assert_non_null(strstr(d.text, "'rope_freqs.weight' holds a factor"));
		gguf_make_free(&file);
	}
}

/* ---- hash ---------------------------------------------------------------------------------- */

static void hash_of(const struct gguf_make *file, uint8_t out[PLX_MODEL_HASH_BYTES])
{
	struct plx_gguf *g;
	struct plx_model *m;

	assert_int_equal(plx_gguf_open_mem(file->file.p, file->file.n, &g, NULL), 0);
	assert_int_equal(plx_model_from_gguf(g, &m, NULL), 0);
	memcpy(out, m->hash, PLX_MODEL_HASH_BYTES);
	plx_model_close(m);
}

static void test_model_hash(void **state)
{
	static const struct gguf_lie lie = {.kv_str = "general.name", .str = "one"};
	uint8_t a[PLX_MODEL_HASH_BYTES];
	uint8_t b[PLX_MODEL_HASH_BYTES];
	struct gguf_make file;
	uint8_t *name;

	(void)state;
	gguf_make_llama(&file, &lie);
	hash_of(&file, a);
	hash_of(&file, b);
	assert_memory_equal(a, b, sizeof a);
	file.file.p[file.file.n - 1] ^= 1; /* last byte of the last tensor */
	hash_of(&file, b);
	assert_memory_not_equal(a, b, sizeof a);
	file.file.p[file.file.n - 1] ^= 1;
	name = memmem(file.file.p, file.file.n, "one", 3);
	assert_non_null(name);
	*name = 'O'; /* metadata */
	hash_of(&file, b);
	assert_memory_not_equal(a, b, sizeof a);
	gguf_make_free(&file);
}

/* ---- files another program wrote ----------------------------------------------------------- */

static void test_model_tiny_llama3(void **state)
{
	struct plx_model *m = open_file("tests/golden/tiny/llama3.gguf");

	(void)state;
	assert_string_equal(m->name, "tiny random llama3");
	assert_int_equal(m->arch, PLX_ARCH_LLAMA);
	assert_int_equal(m->pairing, PLX_ROPE_ADJACENT);
	assert_false(m->tied_output);
	assert_int_equal(m->n_ctx, 256);
	assert_int_equal(m->n_rot, 16);
	/* Frequencies turn faster than 32 / 4 positions, between, and slower than 32. */
	assert_true(m->rope_factors[0] == 1.0f);
	assert_true(m->rope_factors[1] > 1.0f && m->rope_factors[1] < 8.0f);
	assert_true(m->rope_factors[7] == 8.0f);
	plx_model_close(m);
}

static void test_model_tiny_llama_linear(void **state)
{
	struct plx_model *m = open_file("tests/golden/tiny/llama-linear.gguf");

	(void)state;
	assert_true(m->rope_scale == 0.25f);
	assert_true(m->rope_base == 5000.0f);
	assert_true(m->tied_output);
	assert_int_equal(m->n_head_kv, 1);
	assert_int_equal(m->head_dim, 32);
	assert_int_equal(m->layer[0].wq.type, PLX_Q_F16);
	plx_model_close(m);
}

static void test_model_tiny_qwen(void **state)
{
	struct plx_model *m = open_file("tests/golden/tiny/qwen2.gguf");

	(void)state;
	assert_int_equal(m->arch, PLX_ARCH_QWEN2);
	assert_int_equal(m->pairing, PLX_ROPE_HALVES);
	assert_non_null(m->layer[1].bq);
	assert_non_null(m->layer[1].bv);
	assert_null(m->layer[1].q_norm);
	plx_model_close(m);
	m = open_file("tests/golden/tiny/qwen3.gguf");
	assert_int_equal(m->arch, PLX_ARCH_QWEN3);
	assert_int_equal(m->pairing, PLX_ROPE_HALVES);
	assert_int_equal(m->head_dim, 16);
	assert_int_equal(m->layer[2].wq.n_rows, 64);
	assert_int_equal(m->layer[2].wo.n_cols, 64);
	assert_null(m->layer[2].bq);
	assert_non_null(m->layer[2].k_norm);
	plx_model_close(m);
}

static void test_model_smollm2(void **state)
{
	static const char want[] =
	    "Smollm2 135M 8k Lc100K Mix1 Ep2: llama, 134.5 M parameters, 92.1 MiB (61 F32, 210 "
	    "Q4_1, 1 Q8_0), 30 layers, embedding 576, heads 9/3 of 64, feed-forward 1536, "
	    "vocabulary 49152 (tied), context 8192, hash 00e31fb7cd08372d65d272dba8520dc7";
	const char *path = plx_test_model();
	char line[512];
	struct plx_chat *c;
	struct plx_model *m;

	(void)state;
	if (!path) {
		print_message("no model file: set PLX_TEST_MODEL or run make model\n");
		skip();
	}
	m = open_file(path);
	plx_model_describe(m, line, sizeof line);
	assert_string_equal(line, want);
	assert_true(m->rope_base == 100000.0f);
	assert_int_equal(plx_chat_open(m->gguf, NULL, &c, NULL), 0);
	assert_string_equal(plx_chat_name(c), "chatml");
	plx_chat_free(c);
	plx_model_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_model_defaults),
	    cmocka_unit_test(test_model_rope_scaling),
	    cmocka_unit_test(test_model_sliding_windows),
	    cmocka_unit_test(test_model_window_patterns),
	    cmocka_unit_test(test_model_vectors_are_converted),
	    cmocka_unit_test(test_model_harmless_leftover),
	    cmocka_unit_test(test_model_rope_factors),
	    cmocka_unit_test(test_model_tensor_lies),
	    cmocka_unit_test(test_model_number_lies),
	    cmocka_unit_test(test_model_real_lies),
	    cmocka_unit_test(test_model_text_lies),
	    cmocka_unit_test(test_model_bad_rope_factor),
	    cmocka_unit_test(test_model_hash),
	    cmocka_unit_test(test_model_tiny_llama3),
	    cmocka_unit_test(test_model_tiny_llama_linear),
	    cmocka_unit_test(test_model_tiny_qwen),
	    cmocka_unit_test(test_model_smollm2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
