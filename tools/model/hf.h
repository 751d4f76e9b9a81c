/*
 * A Hugging Face model folder's JSON files, and what a GGUF file says in their place.
 *
 * Read: config.json; tokenizer.json; tokenizer_config.json, generation_config.json and
 * chat_template.jinja where they are there. What would change the arithmetic or the tokens and has
 * no place in GGUF, or none that this build computes, is refused by name.
 */
#ifndef PLX_TOOLS_MODEL_HF_H
#define PLX_TOOLS_MODEL_HF_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/model/model.h"
#include "fw/base/diag.h"
#include "tools/gguf/write.h"

struct plx_hf {
	char folder[PATH_MAX]; /* "" or with a slash at its end */
	json_t *config;        /* objects; NULL where there is no such file */
	json_t *tokenizer;
	json_t *tok_config;
	json_t *generation;
	/* from config.json, checked */
	char name[PLX_MODEL_NAME_BYTES];
	enum plx_arch arch;
	uint32_t n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab;
	uint32_t n_expert, n_expert_used, n_ff_expert, n_ff_shared; /* 0: none */
	bool expert_norm;
	bool mixtral;         /* its experts' names */
	bool tied_said, tied; /* tie_word_embeddings: whether it is said, and what */
	float *rope_factors;  /* [head_dim / 2], Llama 3's; NULL: none */
};

/* plx_hf_open - load the files of a folder ("" or ending in a slash) and check config.json.
 * Errors: NOT_FOUND, FORMAT, UNSUPPORTED, LIMIT, NOMEM. Owner: the caller; plx_hf_close. */
int plx_hf_open(const char *folder, struct plx_hf *h, struct plx_diag *d);
void plx_hf_close(struct plx_hf *h);

/* plx_hf_conf_read - sizes and RoPE from h->config. plx_hf_conf_put - the keys of the architecture.
 */
int plx_hf_conf_read(struct plx_hf *h, struct plx_diag *d);
int plx_hf_conf_put(const struct plx_hf *h, struct plx_gw *w, struct plx_diag *d);

/* plx_hf_has_bias - whether q, k and v have biases. */
bool plx_hf_has_bias(const struct plx_hf *h);

/*
 * plx_hf_tok_put - the tokenizer.* keys.
 *
 * @pre  pre-tokenizer by name, instead of what tokenizer.json's rules are recognised as; or NULL.
 *
 * Errors: UNSUPPORTED (a model, rule or flag we have no equal for), FORMAT, NOMEM.
 */
int plx_hf_tok_put(const struct plx_hf *h, struct plx_gw *w, const char *pre, struct plx_diag *d);

/*
 * plx_hf_pre_find - what the normalizer and pre_tokenizer of a tokenizer.json are.
 *
 * @name   out: a name of tokenizer.ggml.pre, for byte-level BPE; NULL for SentencePiece BPE.
 * @space  out: whether SentencePiece puts a space before the text.
 *
 * Errors: UNSUPPORTED, with the rule that was not recognised.
 */
int plx_hf_pre_find(const json_t *tokenizer, const char **name, bool *space, struct plx_diag *d);

#endif
