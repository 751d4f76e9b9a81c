/*
 * What a model costs: bytes and multiplications of a token, bytes of its KV memory.
 */
#ifndef PLX_TOOLS_MODEL_FACTS_H
#define PLX_TOOLS_MODEL_FACTS_H

#include <stdint.h>

#include "accel/model/model.h"

struct plx_facts {
	uint64_t layer_bytes; /* of the layers' matrices */
	uint64_t layer_macs;  /* their multiplications a token */
	uint64_t head_bytes;
	uint64_t token_bytes; /* what a token of decode reads, KV apart */
};

/* plx_facts_of - of a model that was opened. */
struct plx_facts plx_facts_of(const struct plx_model *m);

/* How the CPU device keeps K and V (kernels.h, enum plx_k_kv_type): blocks of values, of K and of
 * V. */
struct plx_facts_kv {
	const char *name;
	uint32_t block_elems, k_bytes, v_bytes;
};
#define PLX_FACTS_KV_TYPES 3u
extern const struct plx_facts_kv plx_facts_kv_types[PLX_FACTS_KV_TYPES]; /* f16 first */

/* plx_facts_kv_bytes - K and V of one token in all layers. */
uint64_t plx_facts_kv_bytes(const struct plx_model *m, const struct plx_facts_kv *type);

#endif
