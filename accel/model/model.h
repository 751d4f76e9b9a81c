/*
 * A model file, checked and laid out for the forward pass: architecture, sizes and, layer by layer,
 * where each tensor lies.
 *
 * What plx_model_open accepts is complete and consistent: every tensor the architecture needs is
 * there with the shape that the configuration implies and a type this build computes, no tensor is
 * left over, and whatever the file asks for that would change the arithmetic (YaRN, ALiBi and the
 * like) is refused by name. So the forward pass needs no checks of its own.
 *
 * A layer, x being [n_tok][n_embd] and RMS the norm with rms_eps:
 *
 *   h = RMS(x) * attn_norm
 *   q = wq h + bq    [n_head][head_dim]        then, with q_norm: q = RMS over head_dim * q_norm
 *   k = wk h + bk    [n_head_kv][head_dim]     likewise with k_norm
 *   v = wv h + bv    [n_head_kv][head_dim]
 *   rotate q and k (below); head i attends with key head i / (n_head / n_head_kv)
 *   x += wo softmax(q k / sqrt(head_dim)) v
 *   h = RMS(x) * ffn_norm;  x += w_down (silu(w_gate h) * (w_up h))
 *
 * where a token of a layer with a window w attends to the last w positions alone, its own included,
 * and logits = output (RMS(x) * output_norm). Biases and q_norm, k_norm are NULL where absent.
 *
 * With experts (n_expert > 0) the last line is
 *
 *   s = softmax(router h)           over all experts
 *   E = the n_expert_used experts of largest s, ties to the lowest number; where expert_norm,
 *       their s is divided by its sum
 *   x += sum over e in E of s_e w_down_e (silu(w_gate_e h) * (w_up_e h))
 *   x += sigmoid(shared_gate h) w_down (silu(w_gate h) * (w_up h))     where n_ff_shared > 0
 *
 * Rotation: pair i of n_rot / 2 turns by  pos * rope_scale * rope_base^(-2i / n_rot) / factor[i],
 * factor being rope_factors or 1. The pair is (2i, 2i + 1) where pairing is ADJACENT and
 * (i, i + n_rot / 2) where it is HALVES; dimensions from n_rot on are left alone.
 */
#ifndef PLX_ACCEL_MODEL_MODEL_H
#define PLX_ACCEL_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/model/gguf.h"
#include "fw/base/diag.h"

#define PLX_MODEL_MAX_LAYER    512u
#define PLX_MODEL_MAX_EMBD     65536u
#define PLX_MODEL_MAX_FF       524288u
#define PLX_MODEL_MAX_HEAD     1024u
#define PLX_MODEL_MAX_HEAD_DIM 512u
#define PLX_MODEL_MAX_VOCAB    1048576u
#define PLX_MODEL_MAX_EXPERT   1024u
#define PLX_MODEL_MAX_CTX      16777216u
#define PLX_MODEL_HASH_BYTES   16
#define PLX_MODEL_NAME_BYTES   64

enum plx_arch {
	PLX_ARCH_LLAMA = 1, /* Llama 1 to 3, SmolLM, Mistral 7B, TinyLlama; with experts: Mixtral */
	PLX_ARCH_QWEN2 = 2, /* biases on q, k, v */
	PLX_ARCH_QWEN3 = 3, /* norms on q and k */
	PLX_ARCH_QWEN2MOE = 4, /* qwen2 with experts and a shared one */
	PLX_ARCH_QWEN3MOE = 5, /* qwen3 with experts */
};

enum plx_rope_pairing {
	PLX_ROPE_ADJACENT = 0,
	PLX_ROPE_HALVES = 1,
};

/*
 * A weight matrix as stored: y[r] = sum over c of w[r][c] x[c]. Row r starts at
 * data + r * row_bytes and is n_cols / block elements blocks long. Aligned to the file's alignment
 * (at least 8 bytes), rows only to row_bytes.
 */
struct plx_tensor {
	const uint8_t *data; /* in the mapped file */
	uint32_t type;       /* enum plx_qtype of kernels/quant.h, ggml's numbers */
	uint32_t n_rows;
	uint32_t n_cols;
	uint64_t row_bytes;
	uint64_t bytes; /* n_rows * row_bytes */
};

/* One layer. Vectors are f32 in the model's own memory, whatever the file stored. */
struct plx_layer {
	const float *attn_norm; /* [n_embd] */
	struct plx_tensor wq;   /* [n_head * head_dim][n_embd] */
	struct plx_tensor wk;   /* [n_head_kv * head_dim][n_embd] */
	struct plx_tensor wv;   /* [n_head_kv * head_dim][n_embd] */
	struct plx_tensor wo;   /* [n_embd][n_head * head_dim] */
	const float *bq;        /* [n_head * head_dim] or NULL; bq, bk, bv come together */
	const float *bk;        /* [n_head_kv * head_dim] or NULL */
	const float *bv;        /* [n_head_kv * head_dim] or NULL */
	const float *q_norm;    /* [head_dim] or NULL; both or none */
	const float *k_norm;    /* [head_dim] or NULL */
	const float *ffn_norm;  /* [n_embd] */
	/* In a model with experts these three are the shared one's, n_ff_shared in place of n_ff,
	 * or all zero where there is none. */
	struct plx_tensor gate; /* [n_ff][n_embd] */
	struct plx_tensor up;   /* [n_ff][n_embd] */
	struct plx_tensor down; /* [n_embd][n_ff] */
	/* Experts, all zero without. The rows of expert e follow those of e - 1, or, in files that
	 * have a tensor for each (before April 2024), lie where exp_one says and data is NULL:
	 * plx_model_expert knows. */
	struct plx_tensor router;   /* [n_expert][n_embd] */
	struct plx_tensor exp_gate; /* [n_expert * n_ff_expert][n_embd] */
	struct plx_tensor exp_up;   /* [n_expert * n_ff_expert][n_embd] */
	struct plx_tensor exp_down; /* [n_expert * n_embd][n_ff_expert] */
	const uint8_t **exp_one;    /* [3][n_expert] gate, up, down, or NULL */
	const float *shared_gate;   /* [n_embd] or NULL */
	uint32_t window; /* positions that a token attends to, its own the last; 0: all */
};

struct plx_model {
	struct plx_gguf *gguf; /* for the tokenizer and the chat template; the model closes it */
	char name[PLX_MODEL_NAME_BYTES]; /* general.name, printable, or the file's base name */
	enum plx_arch arch;
	uint32_t n_layer;
	uint32_t n_embd;
	uint32_t n_head;
	uint32_t n_head_kv; /* divides n_head */
	uint32_t head_dim;  /* even */
	uint32_t n_ff;
	uint32_t n_expert;      /* 0: none, and the four below are 0 */
	uint32_t n_expert_used; /* by a token; at most n_expert */
	uint32_t n_ff_expert;
	uint32_t n_ff_shared; /* 0: no shared expert */
	bool expert_norm;     /* weights of a token's experts add up to 1 */
	uint32_t n_vocab;
	uint32_t n_ctx; /* positions it was trained for */
	uint32_t n_rot; /* dimensions of a head that are rotated; even, at most head_dim */
	enum plx_rope_pairing pairing;
	float rope_base;
	float rope_scale;          /* 1, or 1 / factor under linear scaling */
	const float *rope_factors; /* [n_rot / 2] or NULL */
	float rms_eps;
	bool tied_output;           /* output is tok_embd */
	struct plx_tensor tok_embd; /* [n_vocab][n_embd] */
	struct plx_tensor output;   /* [n_vocab][n_embd] */
	const float *output_norm;   /* [n_embd] */
	struct plx_layer *layer;    /* [n_layer] */
	const uint8_t **exp_one;    /* memory behind the layers' exp_one, or NULL */
	uint64_t weight_bytes;      /* of all tensors in the file */
	uint64_t n_param;           /* elements of all tensors in the file */
	float *vec;                 /* memory behind the float vectors above */
	uint8_t hash[PLX_MODEL_HASH_BYTES];
	uint32_t window;            /* of the layers that have one, below n_ctx; 0: none has */
	const struct plx_model *of; /* a view of another (layers.h), which owns all but layer */
};

/*
 * plx_model_open - open and check a model file.
 *
 * hash is XXH3-128 over the file's size, everything before the tensor data (configuration,
 * vocabulary, tensor table) and the first and last 4 KiB of each tensor. It tells models and
 * quantisations apart without reading gigabytes at start; it is no signature, and damage in the
 * middle of a tensor does not change it.
 *
 * Owner:  the caller; plx_model_close. The model must outlive devices and tokenizers made from it.
 * Thread: any; read-only afterwards.
 * Cost:   O(metadata) and 8 KiB of reading a tensor.
 * Errors: as plx_gguf_open; UNSUPPORTED (architecture, tensor type or feature, named), FORMAT
 *         (a missing, surplus or wrongly shaped tensor, a configuration that contradicts itself),
 *         LIMIT (a size over the limits above), NOMEM.
 */
int plx_model_open(const char *path, struct plx_model **out, struct plx_diag *d);

/*
 * plx_model_from_gguf - the same on an open reader, which the model takes over; on error too, it is
 * closed.
 */
int plx_model_from_gguf(struct plx_gguf *g, struct plx_model **out, struct plx_diag *d);

/* plx_model_close - free; NULL is accepted. */
void plx_model_close(struct plx_model *m);

enum plx_expert_part {
	PLX_EXPERT_GATE,
	PLX_EXPERT_UP,
	PLX_EXPERT_DOWN,
};

/* plx_model_expert - one matrix of expert e < n_expert of a layer, the shared one not counted. */
struct plx_tensor plx_model_expert(const struct plx_model *m, const struct plx_layer *l,
                                   enum plx_expert_part part, uint32_t e);

/* plx_arch_name - "llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe". */
const char *plx_arch_name(enum plx_arch arch);

/* plx_model_describe - one line for the start-up log: name, architecture, sizes, types, hash. */
void plx_model_describe(const struct plx_model *m, char *buf, size_t buf_bytes);

#endif
