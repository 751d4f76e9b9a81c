/*
 * plx-model quantise: the same model in another format. Everything but the tensors' types stays as
 * it is in the input, key by key and in order.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/model/commands.h"
#include "tools/model/emit.h"
#include "tools/model/out.h"
#include "tools/model/pool.h"

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

static void say_tensors(const struct plx_emit_tensor *t, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		printf("%-40s %6s -> %-6s error %.2e\n", t[i].name,
		       plx_gguf_tensor_type_name(t[i].from), plx_gguf_tensor_type_name(t[i].to),
		       t[i].square > 0 ? sqrt(t[i].error / t[i].square) : 0.0);
}

static void say_result(const struct plx_mtool_options *o, const struct plx_gguf *g,
                       const struct plx_gw *w, const struct plx_emit_tensor *t, uint32_t n)
{
	double square = 0, error = 0;

	if (o->verbose)
		say_tensors(t, n);
	for (uint32_t i = 0; i < n; i++)
		if (t[i].from != t[i].to) {
			square += t[i].square;
			error += t[i].error;
		}
	printf("%s: %.1f MiB, was %.1f MiB; relative error of what changed %.3e\n", o->out,
	       (double)w->file_bytes / 1048576, (double)plx_gguf_file_bytes(g) / 1048576,
	       square > 0 ? sqrt(error / square) : 0.0);
}

static int quantise(const struct plx_mtool_options *o, const struct plx_gguf *g,
                    struct plx_emit_tensor *t, struct plx_diag *d)
{
	struct plx_emit_options e = {.path = o->out,
	                             .verb = "quantising",
	                             .effort = o->plain ? PLX_Q_PLAIN : PLX_Q_FIT,
	                             .n_threads = plx_pool_threads(o->n_threads),
	                             .force = o->force,
	                             .quiet = o->quiet};
	uint32_t n = plx_gguf_n_tensor(g);
	struct plx_gw w = {0};
	int err = 0;

	for (uint32_t i = 0; i < n && !err; i++)
		err = plan_tensor(g, plx_gguf_tensor_at(g, i), &o->rules, &t[i], d);
	if (!err) {
		copy_metadata(&w, g, o->rules.main);
		err = plx_emit(&w, t, n, &e, d);
	}
	if (!err && !o->quiet)
		say_result(o, g, &w, t, n);
	plx_gw_free(&w);
	return err;
}

int plx_mtool_quantise(const struct plx_mtool_options *o, struct plx_diag *d)
{
	struct plx_gguf *g;
	int err = plx_out_check(o->out, o->force, d);

	if (!err)
		err = plx_gguf_open(o->in, &g, d);
	if (err)
		return err;
	struct plx_emit_tensor *t = calloc(plx_gguf_n_tensor(g) + 1u, sizeof *t);

	err = t ? refuse_split(g, d) : plx_diag_set(d, PLX_E_NOMEM, "no memory for the tensors");
	if (!err)
		err = quantise(o, g, t, d);
	free(t);
	plx_gguf_close(g);
	return err;
}
