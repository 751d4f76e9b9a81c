/*
 * Reads a model's configuration from "<architecture>.<name>" keys and refuses, by name, every
 * setting that would change the arithmetic in a way the forward pass does not know.
 */
#include "accel/model/model_conf.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "fw/base/err.h"

#define KEY_BYTES 96

struct arch_info {
	const char *name;
	enum plx_arch arch;
	enum plx_rope_pairing pairing; /* llama files carry q and k permuted for adjacent pairs */
};

static const struct arch_info archs[] = {
    {"llama", PLX_ARCH_LLAMA, PLX_ROPE_ADJACENT},
    {"qwen2", PLX_ARCH_QWEN2, PLX_ROPE_HALVES},
    {"qwen3", PLX_ARCH_QWEN3, PLX_ROPE_HALVES},
    {"qwen2moe", PLX_ARCH_QWEN2MOE, PLX_ROPE_HALVES},
    {"qwen3moe", PLX_ARCH_QWEN3MOE, PLX_ROPE_HALVES},
};

#define N_ARCHS (sizeof archs / sizeof archs[0])

const char *plx_arch_name(enum plx_arch arch)
{
	for (size_t i = 0; i < N_ARCHS; i++) {
		if (archs[i].arch == arch)
			return archs[i].name;
	}
	return "unknown";
}

/* "<architecture>.<suffix>" in buf. */
static const char *arch_key(const struct plx_model *m, const char *suffix, char buf[KEY_BYTES])
{
	snprintf(buf, KEY_BYTES, "%s.%s", plx_arch_name(m->arch), suffix);
	return buf;
}

static int read_arch(struct plx_model *m, struct plx_diag *d)
{
	struct plx_gguf_str s;
	char shown[48];
	int err = plx_gguf_get_str(m->gguf, "general.architecture", &s, d);

	if (err)
		return err == PLX_E_NOT_FOUND ? PLX_E_FORMAT : err;
	for (size_t i = 0; i < N_ARCHS; i++) {
		if (plx_gguf_str_is(s, archs[i].name)) {
			m->arch = archs[i].arch;
			m->pairing = archs[i].pairing;
			return 0;
		}
	}
	return plx_diag_set(d, PLX_E_UNSUPPORTED,
	                    "%s: architecture '%s' is not supported; give a model of one of: "
	                    "llama (also SmolLM, Mistral 7B and Mixtral), qwen2, qwen3, qwen2moe, "
	                    "qwen3moe",
	                    plx_gguf_name(m->gguf), plx_gguf_printable(s, shown, sizeof shown));
}

static void read_name(struct plx_model *m)
{
	const char *path = plx_gguf_name(m->gguf);
	const char *slash = strrchr(path, '/');
	struct plx_gguf_str s;

	if (plx_gguf_get_str(m->gguf, "general.name", &s, NULL) != 0 || s.len == 0) {
		s.ptr = slash ? slash + 1 : path;
		s.len = strlen(s.ptr);
	}
	plx_gguf_printable(s, m->name, sizeof m->name);
}

/* One size: from the file, or dflt where the key is absent and dflt is not 0; 1..max. */
static int read_size(const struct plx_model *m, const char *suffix, uint32_t dflt, uint32_t max,
                     uint32_t *out, struct plx_diag *d)
{
	char key[KEY_BYTES];
	int err;

	arch_key(m, suffix, key);
	if (dflt)
		err = plx_gguf_get_u32_or(m->gguf, key, dflt, out, d);
	else
		err = plx_gguf_get_u32(m->gguf, key, out, d);
	if (err)
		return PLX_E_FORMAT;
	if (*out == 0)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: metadata key '%s' is 0; convert or fetch the model again",
		                    plx_gguf_name(m->gguf), key);
	if (*out > max)
		return plx_diag_set(d, PLX_E_LIMIT,
		                    "%s: metadata key '%s' is %u, over the limit of %u; this build "
		                    "can't run a model of that size",
		                    plx_gguf_name(m->gguf), key, *out, max);
	return 0;
}

static int contradicts(const struct plx_model *m, const char *what, struct plx_diag *d)
{
	return plx_diag_set(d, PLX_E_FORMAT,
	                    "%s: the configuration contradicts itself: %s; "
	                    "convert or fetch the model again",
	                    plx_gguf_name(m->gguf), what);
}

static int read_heads(struct plx_model *m, struct plx_diag *d)
{
	uint32_t value_dim;
	int err;

	if ((err = read_size(m, "attention.head_count", 0, PLX_MODEL_MAX_HEAD, &m->n_head, d)) ||
	    (err = read_size(m, "attention.head_count_kv", m->n_head, PLX_MODEL_MAX_HEAD,
	                     &m->n_head_kv, d)) ||
	    (err = read_size(m, "attention.key_length", m->n_embd / m->n_head,
	                     PLX_MODEL_MAX_HEAD_DIM, &m->head_dim, d)) ||
	    (err = read_size(m, "attention.value_length", m->head_dim, PLX_MODEL_MAX_HEAD_DIM,
	                     &value_dim, d)) ||
	    (err = read_size(m, "rope.dimension_count", m->head_dim, PLX_MODEL_MAX_HEAD_DIM,
	                     &m->n_rot, d)))
		return err;
	if (m->n_head % m->n_head_kv)
		return contradicts(m, "head_count is no multiple of head_count_kv", d);
	if (m->head_dim % 2 || m->n_rot % 2 || m->n_rot > m->head_dim)
		return contradicts(
		    m, "head size and rope.dimension_count must be even, the latter no larger", d);
	if (value_dim != m->head_dim)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: keys of %u and values of %u dimensions a head are not "
		                    "supported (they must be equal); give another model",
		                    plx_gguf_name(m->gguf), m->head_dim, value_dim);
	return 0;
}

static int read_sizes(struct plx_model *m, struct plx_diag *d)
{
	int err;

	if ((err = read_size(m, "block_count", 0, PLX_MODEL_MAX_LAYER, &m->n_layer, d)) ||
	    (err = read_size(m, "embedding_length", 0, PLX_MODEL_MAX_EMBD, &m->n_embd, d)) ||
	    (err = read_size(m, "feed_forward_length", 0, PLX_MODEL_MAX_FF, &m->n_ff, d)) ||
	    (err = read_size(m, "context_length", 0, PLX_MODEL_MAX_CTX, &m->n_ctx, d)) ||
	    (err = read_size(m, "attention.sliding_window", m->n_ctx, UINT32_MAX, &m->window, d)))
		return err;
	/* Inside its window a sliding-window model computes what a plain one does. */
	if (m->window >= m->n_ctx)
		m->window = 0;
	return read_heads(m, d);
}

static bool has_shared(const struct plx_model *m)
{
	return m->arch == PLX_ARCH_QWEN2MOE;
}

/* How many experts the file says; an architecture without them must not have any. */
static int read_expert_count(struct plx_model *m, struct plx_diag *d)
{
	bool must = m->arch == PLX_ARCH_QWEN2MOE || m->arch == PLX_ARCH_QWEN3MOE;
	char key[KEY_BYTES];

	arch_key(m, "expert_count", key);
	if (plx_gguf_get_u32_or(m->gguf, key, 0, &m->n_expert, d))
		return PLX_E_FORMAT;
	if (must || (m->n_expert > 0 && m->arch == PLX_ARCH_LLAMA))
		return read_size(m, "expert_count", 0, PLX_MODEL_MAX_EXPERT, &m->n_expert, d);
	if (m->n_expert > 0)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: metadata key '%s' is %u, but architecture %s has no "
		                    "experts; give a model without them",
		                    plx_gguf_name(m->gguf), key, m->n_expert,
		                    plx_arch_name(m->arch));
	return 0;
}

static int read_experts(struct plx_model *m, struct plx_diag *d)
{
	uint32_t plain = m->n_ff;
	char key[KEY_BYTES];
	int err = read_expert_count(m, d);

	if (err || m->n_expert == 0)
		return err;
	if ((err =
	         read_size(m, "expert_used_count", 0, PLX_MODEL_MAX_EXPERT, &m->n_expert_used, d)))
		return err;
	if (m->n_expert_used > m->n_expert)
		return contradicts(m, "expert_used_count is larger than expert_count", d);
	if (has_shared(m) && m->n_ff >= m->n_expert_used)
		plain = m->n_ff / m->n_expert_used; /* what older files leave out */
	err =
	    read_size(m, "expert_feed_forward_length", plain, PLX_MODEL_MAX_FF, &m->n_ff_expert, d);
	if (!err && has_shared(m))
		err = read_size(m, "expert_shared_feed_forward_length", m->n_ff, PLX_MODEL_MAX_FF,
		                &m->n_ff_shared, d);
	arch_key(m, "expert_weights_norm", key);
	if (!err &&
	    plx_gguf_get_bool_or(m->gguf, key, m->arch != PLX_ARCH_QWEN2MOE, &m->expert_norm, d))
		err = PLX_E_FORMAT;
	return err;
}

/* One real number in (lo, hi). */
static int read_real(const struct plx_model *m, const char *suffix, float dflt, float hi,
                     float *out, struct plx_diag *d)
{
	char key[KEY_BYTES];

	arch_key(m, suffix, key);
	if (dflt > 0 ? plx_gguf_get_f32_or(m->gguf, key, dflt, out, d)
	             : plx_gguf_get_f32(m->gguf, key, out, d))
		return PLX_E_FORMAT;
	if (!(*out > 0 && *out < hi))
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: metadata key '%s' is %g, not between 0 and %g; convert "
		                    "or fetch the model again",
		                    plx_gguf_name(m->gguf), key, (double)*out, (double)hi);
	return 0;
}

static int read_rope(struct plx_model *m, struct plx_diag *d)
{
	struct plx_gguf_str kind = {.ptr = "linear", .len = 6};
	float factor = 1;
	char key[KEY_BYTES];
	char shown[32];
	int err;

	if ((err = read_real(m, "rope.freq_base", 10000.0f, 1e12f, &m->rope_base, d)))
		return err;
	arch_key(m, "rope.scaling.type", key);
	if (plx_gguf_find(m->gguf, key) && plx_gguf_get_str(m->gguf, key, &kind, d))
		return PLX_E_FORMAT;
	/* The older key first, so that the newer one wins where a file has both. */
	if ((err = read_real(m, "rope.scale_linear", 1.0f, 1e6f, &factor, d)) ||
	    (err = read_real(m, "rope.scaling.factor", factor, 1e6f, &factor, d)))
		return err;
	m->rope_scale = 1;
	if (plx_gguf_str_is(kind, "linear"))
		m->rope_scale = 1 / factor;
	else if (!plx_gguf_str_is(kind, "none"))
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: RoPE scaling '%s' is not supported (none and linear are, "
		                    "and Llama 3's factors); give a model without it",
		                    plx_gguf_name(m->gguf),
		                    plx_gguf_printable(kind, shown, sizeof shown));
	return 0;
}

/* A setting that must have one of two neutral values where it is present. */
struct neutral {
	const char *suffix;
	float a;
	float b;
};

static const struct neutral neutrals[] = {
    {"expert_weights_scale", 0, 1},
    {"expert_gating_func", 0, 1}, /* 1: softmax */
    {"expert_group_count", 0, 1},
    {"leading_dense_block_count", 0, 0},
    {"attention.max_alibi_bias", 0, 0},
    {"attention.clamp_kqv", 0, 0},
    {"attention.scale", 0, 0},
    {"attention.causal", 1, 1},
    {"attention.temperature_scale", 0, 1},
    {"attn_logit_softcapping", 0, 0},
    {"final_logit_softcapping", 0, 0},
    {"logit_scale", 0, 1},
    {"embedding_scale", 0, 1},
    {"residual_scale", 0, 1},
    {"use_parallel_residual", 0, 0},
    {"rope.scaling.attn_factor", 1, 1},
};

static int check_neutral(const struct plx_model *m, const struct neutral *n, struct plx_diag *d)
{
	char key[KEY_BYTES];
	uint32_t u;
	float f;
	bool b;

	arch_key(m, n->suffix, key);
	if (!plx_gguf_find(m->gguf, key))
		return 0;
	if (plx_gguf_get_u32(m->gguf, key, &u, NULL) == 0)
		f = (float)u;
	else if (plx_gguf_get_bool(m->gguf, key, &b, NULL) == 0)
		f = b ? 1 : 0;
	else if (plx_gguf_get_f32(m->gguf, key, &f, d))
		return PLX_E_FORMAT;
	if (f < n->a || f > n->b || (f > n->a && f < n->b))
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "%s: metadata key '%s' is %g, which is not supported; give a "
		                    "model without it",
		                    plx_gguf_name(m->gguf), key, (double)f);
	return 0;
}

/* A list of flags, one a layer. */
static int windows_listed(struct plx_model *m, const char *key, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv;

	if (plx_gguf_get_arr(m->gguf, key, PLX_GGUF_BOOL, &kv, d))
		return PLX_E_FORMAT;
	if (kv->n != m->n_layer)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: metadata key '%s' has %llu entries for %u layers; convert "
		                    "or fetch the model again",
		                    plx_gguf_name(m->gguf), key, (unsigned long long)kv->n,
		                    m->n_layer);
	for (uint32_t i = 0; i < m->n_layer; i++)
		m->layer[i].window = plx_gguf_arr_bool(kv, i) ? m->window : 0;
	return 0;
}

static int windows_of(struct plx_model *m, const char *key, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv = plx_gguf_find(m->gguf, key);
	uint32_t every = 0; /* that many-th layer has none; 0: all have one */

	if (kv != NULL && kv->type == PLX_GGUF_ARR)
		return windows_listed(m, key, d);
	if (plx_gguf_get_u32_or(m->gguf, key, 0, &every, d))
		return PLX_E_FORMAT;
	for (uint32_t i = 0; i < m->n_layer; i++)
		m->layer[i].window = every == 0 || i % every < every - 1 ? m->window : 0;
	return 0;
}

int plx_model_conf_windows(struct plx_model *m, struct plx_diag *d)
{
	char key[KEY_BYTES];
	uint32_t largest = 0;

	if (m->window == 0)
		return 0;
	arch_key(m, "attention.sliding_window_pattern", key);
	if (windows_of(m, key, d))
		return PLX_E_FORMAT;
	for (uint32_t i = 0; i < m->n_layer; i++)
		largest = m->layer[i].window > largest ? m->layer[i].window : largest;
	m->window = largest;
	return 0;
}

int plx_model_conf_read(struct plx_model *m, struct plx_diag *d)
{
	int err = read_arch(m, d);

	if (err)
		return err;
	read_name(m);
	for (size_t i = 0; i < sizeof neutrals / sizeof neutrals[0]; i++) {
		if ((err = check_neutral(m, &neutrals[i], d)))
			return err;
	}
	if ((err = read_sizes(m, d)) || (err = read_experts(m, d)) || (err = read_rope(m, d)))
		return err;
	return read_real(m, "attention.layer_norm_rms_epsilon", 0, 1, &m->rms_eps, d);
}
