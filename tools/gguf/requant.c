/* Copies metadata, plans each tensor's format by the rules, and emits. */
#include "tools/gguf/requant.h"

#include <string.h>

#include "fw/base/err.h"

/* What the writer decides itself. */
static bool is_ours(struct plx_gguf_str key)
{
	return plx_gguf_str_is(key, "general.file_type") ||
	       plx_gguf_str_is(key, "general.quantization_version") ||
	       plx_gguf_str_is(key, "general.alignment");
}

static int refuse_split(const struct plx_gguf *g, struct plx_diag *d)
{
	uint32_t n = 1;

	if (plx_gguf_get_u32_or(g, "split.count", 1, &n, NULL) || n < 2)
		return 0;
	return plx_diag_set(d, PLX_E_UNSUPPORTED,
	                    "%s: this is one of %u parts of a model; merge them first",
	                    plx_gguf_name(g), n);
}

static void copy_metadata(struct plx_gw *w, const struct plx_gguf *g, enum plx_qtype main)
{
	for (uint32_t i = 0; i < plx_gguf_n_kv(g); i++)
		if (!is_ours(plx_gguf_kv_at(g, i)->key))
			plx_gw_kv(w, plx_gguf_kv_at(g, i));
	plx_gw_u32(w, "general.file_type", plx_rules_file_type(main));
	plx_gw_u32(w, "general.quantization_version", 2);
}

static bool is_head(const struct plx_gguf *g, const char *name)
{
	bool untied = plx_gguf_tensor_find(g, "output.weight") != NULL;

	return strcmp(name, untied ? "output.weight" : "token_embd.weight") == 0;
}

/* What a tensor becomes. One of a type that we can't read stays, unless it is a matrix. */
static int plan_tensor(const struct plx_gguf *g, const struct plx_gguf_tensor *t,
                       const struct plx_rules *r, struct plx_emit_tensor *out, struct plx_diag *d)
{
	enum plx_qtype to;

	memcpy(out->name, t->name.ptr, t->name.len);
	out->name[t->name.len] = '\0';
	out->n_dims = t->n_dims;
	memcpy(out->dim, t->dim, sizeof out->dim);
	out->from = out->to = t->type;
	out->src = &t->data;
	out->n_src = 1;
	if (!plx_qtype_known(t->type) && t->n_dims < 2)
		return 0;
	if (!plx_qtype_known(t->type))
		return plx_diag_set(
		    d, PLX_E_UNSUPPORTED,
		    "%s: tensor '%s' is of type %s, which can't be read; start from "
		    "F16, BF16 or one of the common formats",
		    plx_gguf_name(g), out->name, plx_gguf_tensor_type_name(t->type));
	int err = plx_rules_for(r, out->name, t->n_dims, t->dim[0], is_head(g, out->name), &to, d);

	out->to = to;
	return err;
}

int plx_requant(const struct plx_gguf *g, const struct plx_rules *r, struct plx_emit_tensor *t,
                const struct plx_emit_options *e, uint64_t *file_bytes, struct plx_diag *d)
{
	uint32_t n = plx_gguf_n_tensor(g);
	struct plx_gw w = {0};
	int err = refuse_split(g, d);

	for (uint32_t i = 0; i < n && !err; i++)
		err = plan_tensor(g, plx_gguf_tensor_at(g, i), r, &t[i], d);
	if (!err) {
		copy_metadata(&w, g, r->main);
		err = plx_emit(&w, t, n, e, d);
	}
	if (file_bytes)
		*file_bytes = w.file_bytes;
	plx_gw_free(&w);
	return err;
}
