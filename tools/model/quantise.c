/* plx-model quantise: the same model in another format (tools/gguf/requant.h). */
#include <math.h>
#include <stdlib.h>

#include "fw/base/err.h"
#include "tools/gguf/out.h"
#include "tools/gguf/pool.h"
#include "tools/gguf/requant.h"
#include "tools/model/commands.h"

static void say_tensors(const struct plx_emit_tensor *t, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		printf("%-40s %6s -> %-6s error %.2e\n", t[i].name,
		       plx_gguf_tensor_type_name(t[i].from), plx_gguf_tensor_type_name(t[i].to),
		       t[i].square > 0 ? sqrt(t[i].error / t[i].square) : 0.0);
}

static void say_result(const struct plx_mtool_options *o, const struct plx_gguf *g,
                       uint64_t file_bytes, const struct plx_emit_tensor *t, uint32_t n)
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
	       (double)file_bytes / 1048576, (double)plx_gguf_file_bytes(g) / 1048576,
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
	uint64_t file_bytes;
	int err = plx_requant(g, &o->rules, t, &e, &file_bytes, d);

	if (!err && !o->quiet)
		say_result(o, g, file_bytes, t, plx_gguf_n_tensor(g));
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

	err = t ? quantise(o, g, t, d) : plx_diag_set(d, PLX_E_NOMEM, "no memory for the tensors");
	free(t);
	plx_gguf_close(g);
	return err;
}
