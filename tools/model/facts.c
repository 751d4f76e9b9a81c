/* Sums over a model's tensors. */
#include "tools/model/facts.h"

#include <stddef.h>

const struct plx_facts_kv plx_facts_kv_types[PLX_FACTS_KV_TYPES] = {
    {"f16", 1, 2, 2}, {"q8", 32, 34, 34}, {"q4", 32, 22, 18}};

static void add(struct plx_facts *f, const struct plx_tensor *t)
{
	f->layer_bytes += t->bytes;
	f->layer_macs += (uint64_t)t->n_rows * t->n_cols;
}

/* Of all experts' rows those that one token uses. */
static void add_experts(struct plx_facts *f, const struct plx_model *m, const struct plx_tensor *t)
{
	if (m->n_expert == 0)
		return;
	f->layer_bytes += t->bytes / m->n_expert * m->n_expert_used;
	f->layer_macs += (uint64_t)t->n_rows / m->n_expert * m->n_expert_used * t->n_cols;
}

/* Norms and biases, f32 as we hold them. */
static uint64_t vector_bytes(const struct plx_model *m, const struct plx_layer *l)
{
	uint64_t q_dim = (uint64_t)m->n_head * m->head_dim;
	uint64_t kv_dim = (uint64_t)m->n_head_kv * m->head_dim;
	uint64_t n = 2 * (uint64_t)m->n_embd;

	n += l->bq ? q_dim + 2 * kv_dim : 0;
	n += l->shared_gate ? m->n_embd : 0;
	n += l->q_norm ? 2 * (uint64_t)m->head_dim : 0;
	return n * sizeof(float);
}

struct plx_facts plx_facts_of(const struct plx_model *m)
{
	struct plx_facts f = {.head_bytes = m->output.bytes};
	uint64_t vectors = m->n_embd * sizeof(float) + m->tok_embd.row_bytes;

	for (uint32_t i = 0; i < m->n_layer; i++) {
		const struct plx_layer *l = &m->layer[i];
		const struct plx_tensor *mats[] = {&l->wq,   &l->wk, &l->wv,   &l->wo,
		                                   &l->gate, &l->up, &l->down, &l->router};

		for (size_t k = 0; k < sizeof mats / sizeof mats[0]; k++)
			add(&f, mats[k]);
		add_experts(&f, m, &l->exp_gate);
		add_experts(&f, m, &l->exp_up);
		add_experts(&f, m, &l->exp_down);
		vectors += vector_bytes(m, l);
	}
	f.token_bytes = f.layer_bytes + f.head_bytes + vectors;
	return f;
}

uint64_t plx_facts_kv_bytes(const struct plx_model *m, const struct plx_facts_kv *type)
{
	uint64_t head = (m->head_dim + type->block_elems - 1) / type->block_elems;

	return (uint64_t)m->n_layer * m->n_head_kv * head * (type->k_bytes + type->v_bytes);
}
