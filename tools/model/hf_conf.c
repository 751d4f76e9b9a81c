/*
 * config.json to the keys of an architecture. Defaults are those of the configuration classes that
 * transformers has for the model types below.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/model/hf.h"

struct model_type {
	const char *name;
	enum plx_arch arch;
};

static const struct model_type model_types[] = {
    {"llama", PLX_ARCH_LLAMA},        {"mistral", PLX_ARCH_LLAMA},      {"mixtral", PLX_ARCH_LLAMA},
    {"qwen2_moe", PLX_ARCH_QWEN2MOE}, {"qwen3_moe", PLX_ARCH_QWEN3MOE}, {"qwen2", PLX_ARCH_QWEN2},
    {"qwen3", PLX_ARCH_QWEN3}};

static int refuse(const struct plx_hf *h, const char *what, struct plx_diag *d)
{
	return plx_diag_set(d, PLX_E_UNSUPPORTED, "%sconfig.json: %s", h->folder, what);
}

static const json_t *get(const struct plx_hf *h, const char *key)
{
	const json_t *v = json_object_get(h->config, key);

	return json_is_null(v) ? NULL : v;
}

static bool flag(const struct plx_hf *h, const char *key)
{
	const json_t *v = get(h, key);

	return json_is_true(v);
}

static int read_arch(struct plx_hf *h, struct plx_diag *d)
{
	const char *type = json_string_value(get(h, "model_type"));
	char what[192];

	for (size_t i = 0; type && i < sizeof model_types / sizeof model_types[0]; i++)
		if (strcmp(type, model_types[i].name) == 0) {
			h->arch = model_types[i].arch;
			h->mixtral = strcmp(type, "mixtral") == 0;
			return 0;
		}
	snprintf(what, sizeof what,
	         "model_type \"%.40s\" is not supported; give a model of one of: llama, mistral, "
	         "mixtral, qwen2, qwen3, qwen2_moe, qwen3_moe",
	         type ? type : "");
	return refuse(h, what, d);
}

/* One size, 1..max; dflt 0: it must be there. */
static int size(const struct plx_hf *h, const char *key, uint32_t dflt, uint32_t max, uint32_t *out,
                struct plx_diag *d)
{
	const json_t *v = get(h, key);
	json_int_t n = json_integer_value(v);

	*out = dflt;
	if (!v && dflt)
		return 0;
	if (!json_is_integer(v) || n < 1 || n > (json_int_t)max)
		return plx_diag_set(d, v && n > (json_int_t)max ? PLX_E_LIMIT : PLX_E_FORMAT,
		                    "%sconfig.json: \"%s\" is %s, not a whole number of 1 to %u",
		                    h->folder, key, v ? "out of range" : "missing", max);
	*out = (uint32_t)n;
	return 0;
}

static bool is_qwen3(const struct plx_hf *h)
{
	return h->arch == PLX_ARCH_QWEN3 || h->arch == PLX_ARCH_QWEN3MOE;
}

bool plx_hf_has_bias(const struct plx_hf *h)
{
	return h->arch == PLX_ARCH_QWEN2 || h->arch == PLX_ARCH_QWEN2MOE;
}

/* Every layer has experts, or none. */
static int read_experts(struct plx_hf *h, struct plx_diag *d)
{
	bool moe = h->arch == PLX_ARCH_QWEN2MOE || h->arch == PLX_ARCH_QWEN3MOE;
	const char *count = h->mixtral ? "num_local_experts" : "num_experts";
	const json_t *step = get(h, "decoder_sparse_step"), *dense = get(h, "mlp_only_layers");
	int err;

	if (!moe && !h->mixtral)
		return 0;
	if ((step && json_integer_value(step) != 1) || json_array_size(dense) > 0)
		return refuse(h, "some of its layers have no experts, which is not supported", d);
	if ((err = size(h, count, 0, PLX_MODEL_MAX_EXPERT, &h->n_expert, d)) ||
	    (err = size(h, "num_experts_per_tok", 0, h->n_expert, &h->n_expert_used, d)))
		return err;
	h->n_ff_expert = h->n_ff;
	h->expert_norm = h->mixtral || flag(h, "norm_topk_prob");
	if (moe)
		err = size(h, "moe_intermediate_size", 0, PLX_MODEL_MAX_FF, &h->n_ff_expert, d);
	if (!err && h->arch == PLX_ARCH_QWEN2MOE)
		err = size(h, "shared_expert_intermediate_size", 0, PLX_MODEL_MAX_FF,
		           &h->n_ff_shared, d);
	return err;
}

static int read_sizes(struct plx_hf *h, struct plx_diag *d)
{
	int err;

	if ((err = size(h, "num_hidden_layers", 0, PLX_MODEL_MAX_LAYER, &h->n_layer, d)) ||
	    (err = size(h, "hidden_size", 0, PLX_MODEL_MAX_EMBD, &h->n_embd, d)) ||
	    (err = size(h, "intermediate_size", 0, PLX_MODEL_MAX_FF, &h->n_ff, d)) ||
	    (err = size(h, "num_attention_heads", 0, PLX_MODEL_MAX_HEAD, &h->n_head, d)) ||
	    (err =
	         size(h, "num_key_value_heads", h->n_head, PLX_MODEL_MAX_HEAD, &h->n_head_kv, d)) ||
	    (err = size(h, "vocab_size", 0, PLX_MODEL_MAX_VOCAB, &h->n_vocab, d)))
		return err;
	uint32_t plain = is_qwen3(h) ? 128 : h->n_embd / h->n_head;

	if ((err = size(h, "head_dim", plain ? plain : 1, PLX_MODEL_MAX_HEAD_DIM, &h->head_dim, d)))
		return err;
	if (h->n_head % h->n_head_kv || h->head_dim % 2)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%sconfig.json: num_attention_heads is no multiple of "
		                    "num_key_value_heads, or head_dim is odd",
		                    h->folder);
	return 0;
}

/* ---- what must be as the forward pass has it ------------------------------------------------- */

static int read_neutral(const struct plx_hf *h, struct plx_diag *d)
{
	const char *act = json_string_value(get(h, "hidden_act"));
	const json_t *partial = get(h, "partial_rotary_factor");

	if (act && strcmp(act, "silu") != 0)
		return refuse(h, "hidden_act is not silu, which alone is supported", d);
	if (flag(h, "mlp_bias"))
		return refuse(h, "mlp_bias is set; biases of the feed-forward are not supported",
		              d);
	if (flag(h, "attention_bias") && !plx_hf_has_bias(h))
		return refuse(h, "attention_bias is set; a bias behind attention is not supported",
		              d);
	if (partial && json_number_value(partial) != 1)
		return refuse(h, "partial_rotary_factor is not 1", d);
	if (get(h, "quantization_config"))
		return refuse(h, "the weights are quantised already; fetch the model's F16 or BF16",
		              d);
	return 0;
}

/* ---- RoPE ------------------------------------------------------------------------------------ */

/* rope_parameters (newer files) or rope_scaling. */
static const json_t *scaling(const struct plx_hf *h)
{
	const json_t *s = get(h, "rope_parameters");

	return s ? s : get(h, "rope_scaling");
}

static const char *scaling_type(const struct plx_hf *h)
{
	const char *t = json_string_value(json_object_get(scaling(h), "rope_type"));

	if (!t)
		t = json_string_value(json_object_get(scaling(h), "type"));
	return t ? t : "default";
}

static double rope_theta(const struct plx_hf *h)
{
	const json_t *v = json_object_get(get(h, "rope_parameters"), "rope_theta");

	if (!json_is_number(v))
		v = get(h, "rope_theta");
	return json_is_number(v) ? json_number_value(v) : 10000.0;
}

static double param(const struct plx_hf *h, const char *key)
{
	return json_number_value(json_object_get(scaling(h), key));
}

/*
 * Llama 3's factors: what each plain frequency is divided by. Long waves are slowed down by factor,
 * short ones stay, those between are interpolated.
 * Source: the rope_scaling of the model's configuration, as its makers' reference code applies it.
 */
static int llama3_factors(struct plx_hf *h, struct plx_diag *d)
{
	double factor = param(h, "factor"), low = param(h, "low_freq_factor");
	double high = param(h, "high_freq_factor");
	double old = param(h, "original_max_position_embeddings");

	if (!(factor >= 1 && low > 0 && high > low && old > 0))
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%sconfig.json: rope_scaling of type llama3 needs factor, "
		                    "low_freq_factor < high_freq_factor and "
		                    "original_max_position_embeddings",
		                    h->folder);
	h->rope_factors = calloc(h->head_dim / 2, sizeof *h->rope_factors);
	if (!h->rope_factors)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for the model's tables");
	for (uint32_t i = 0; i < h->head_dim / 2; i++) {
		double wave = 2 * M_PI * pow(rope_theta(h), 2.0 * i / h->head_dim);
		double smooth = (old / wave - low) / (high - low);
		double f = 1 / ((1 - smooth) / factor + smooth);

		f = wave < old / high ? 1 : wave > old / low ? factor : f;
		h->rope_factors[i] = (float)f;
	}
	return 0;
}

static int read_rope(struct plx_hf *h, struct plx_diag *d)
{
	const char *type = scaling_type(h);
	char what[160];

	if (!(rope_theta(h) > 0 && rope_theta(h) < 1e12))
		return plx_diag_set(d, PLX_E_FORMAT, "%sconfig.json: rope_theta is out of range",
		                    h->folder);
	if (strcmp(type, "default") == 0)
		return 0;
	if (strcmp(type, "linear") == 0 && param(h, "factor") >= 1 && param(h, "factor") < 1e6)
		return 0;
	if (strcmp(type, "llama3") == 0)
		return llama3_factors(h, d);
	snprintf(what, sizeof what,
	         "rope_scaling of type \"%.30s\" is not supported (linear and llama3 are)", type);
	return refuse(h, what, d);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* The folder's own name, or what the file says, without what leads to it. */
static void read_name(struct plx_hf *h)
{
	const char *said = json_string_value(get(h, "_name_or_path"));
	char folder[PATH_MAX], real[PATH_MAX];

	if (!said || !*said) {
		snprintf(folder, sizeof folder, "%s", *h->folder ? h->folder : ".");
		said = realpath(folder, real) ? real : "model";
	}
	size_t n = strlen(said);

	while (n > 0 && said[n - 1] == '/')
		n--;
	size_t from = n;

	while (from > 0 && said[from - 1] != '/')
		from--;
	snprintf(h->name, sizeof h->name, "%.*s", (int)(n - from), said + from);
}

int plx_hf_conf_read(struct plx_hf *h, struct plx_diag *d)
{
	const json_t *tie = get(h, "tie_word_embeddings");
	int err;

	read_name(h);
	h->tied_said = json_is_boolean(tie);
	h->tied = json_is_true(tie);
	if ((err = read_arch(h, d)) || (err = read_sizes(h, d)) || (err = read_experts(h, d)) ||
	    (err = read_neutral(h, d)))
		return err;
	return read_rope(h, d);
}

static void put_u32(struct plx_gw *w, const struct plx_hf *h, const char *suffix, uint32_t v)
{
	char key[96];

	snprintf(key, sizeof key, "%s.%s", plx_arch_name(h->arch), suffix);
	plx_gw_u32(w, key, v);
}

static void put_f32(struct plx_gw *w, const struct plx_hf *h, const char *suffix, double v)
{
	char key[96];

	snprintf(key, sizeof key, "%s.%s", plx_arch_name(h->arch), suffix);
	plx_gw_f32(w, key, (float)v);
}

/* Whether a layer has the window: by the list of newer files, or qwen's number of those without. */
static bool has_window(const struct plx_hf *h, uint32_t il)
{
	const char *kind = json_string_value(json_array_get(get(h, "layer_types"), il));

	if (kind)
		return strcmp(kind, "sliding_attention") == 0;
	return h->arch == PLX_ARCH_LLAMA ||
	       (json_int_t)il >= json_integer_value(get(h, "max_window_layers"));
}

static void put_pattern(const struct plx_hf *h, struct plx_gw *w)
{
	char key[96];

	snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", plx_arch_name(h->arch));
	plx_gw_arr(w, plx_gw_name(key), PLX_GGUF_BOOL, h->n_layer);
	for (uint32_t i = 0; i < h->n_layer; i++)
		plx_gw_elem_bool(w, has_window(h, i));
}

static int put_window(const struct plx_hf *h, struct plx_gw *w, struct plx_diag *d)
{
	bool qwen = h->arch != PLX_ARCH_LLAMA;
	uint32_t window = 0, n = 0;

	if (!get(h, "sliding_window") || (qwen && !flag(h, "use_sliding_window")))
		return 0;
	int err = size(h, "sliding_window", 0, PLX_MODEL_MAX_CTX, &window, d);

	for (uint32_t i = 0; i < h->n_layer; i++)
		n += has_window(h, i);
	if (err || n == 0)
		return err;
	put_u32(w, h, "attention.sliding_window", window);
	if (n < h->n_layer)
		put_pattern(h, w);
	return 0;
}

static void put_experts(const struct plx_hf *h, struct plx_gw *w)
{
	char key[96];

	if (h->n_expert == 0)
		return;
	put_u32(w, h, "expert_count", h->n_expert);
	put_u32(w, h, "expert_used_count", h->n_expert_used);
	if (!h->mixtral)
		put_u32(w, h, "expert_feed_forward_length", h->n_ff_expert);
	if (h->n_ff_shared > 0)
		put_u32(w, h, "expert_shared_feed_forward_length", h->n_ff_shared);
	snprintf(key, sizeof key, "%s.expert_weights_norm", plx_arch_name(h->arch));
	plx_gw_bool(w, key, h->expert_norm);
}

int plx_hf_conf_put(const struct plx_hf *h, struct plx_gw *w, struct plx_diag *d)
{
	double eps = json_number_value(get(h, "rms_norm_eps"));
	uint32_t n_ctx;
	int err = size(h, "max_position_embeddings", 0, PLX_MODEL_MAX_CTX, &n_ctx, d);

	if (err)
		return err;
	put_u32(w, h, "block_count", h->n_layer);
	put_u32(w, h, "context_length", n_ctx);
	put_u32(w, h, "embedding_length", h->n_embd);
	put_u32(w, h, "feed_forward_length", h->n_ff);
	put_u32(w, h, "attention.head_count", h->n_head);
	put_u32(w, h, "attention.head_count_kv", h->n_head_kv);
	put_f32(w, h, "attention.layer_norm_rms_epsilon", eps > 0 ? eps : 1e-6);
	put_u32(w, h, "attention.key_length", h->head_dim);
	put_u32(w, h, "attention.value_length", h->head_dim);
	put_u32(w, h, "rope.dimension_count", h->head_dim);
	put_f32(w, h, "rope.freq_base", rope_theta(h));
	if (strcmp(scaling_type(h), "linear") == 0) {
		char key[96];

		snprintf(key, sizeof key, "%s.rope.scaling.type", plx_arch_name(h->arch));
		plx_gw_str(w, key, plx_gw_name("linear"));
		put_f32(w, h, "rope.scaling.factor", param(h, "factor"));
	}
	put_u32(w, h, "vocab_size", h->n_vocab);
	put_experts(h, w);
	return put_window(h, w, d);
}
