/* Formats on demand. */
#include "tools/tune/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fw/base/err.h"
#include "tools/gguf/pool.h"
#include "tools/gguf/requant.h"
#include "tools/tune/knobs.h"

static int make(const struct plx_weights *w, const struct plx_rules *rules, const char *path,
                struct plx_diag *d)
{
	struct plx_emit_options e = {.path = path,
	                             .verb = "quantising",
	                             .effort = PLX_Q_FIT,
	                             .n_threads = plx_pool_threads(w->n_threads),
	                             .force = true,
	                             .quiet = w->quiet};
	struct plx_gguf *g;
	int err = plx_gguf_open(w->source, &g, d);

	if (err)
		return err;
	struct plx_emit_tensor *t = calloc(plx_gguf_n_tensor(g) + 1u, sizeof *t);

	err = t ? plx_requant(g, rules, t, &e, NULL, d)
	        : plx_diag_set(d, PLX_E_NOMEM, "no memory for the tensors");
	free(t);
	plx_gguf_close(g);
	return err;
}

int plx_weights_file(const struct plx_weights *w, uint32_t format, char path[PLX_WEIGHTS_PATH],
                     struct plx_diag *d)
{
	const char *name = plx_tune_knobs[0].value[format].text;
	struct plx_rules rules = {.n = 0};
	struct stat st;
	int n;

	if (format == 0)
		n = snprintf(path, PLX_WEIGHTS_PATH, "%s", w->given);
	else
		n = snprintf(path, PLX_WEIGHTS_PATH, "%s/%s-%016llx.gguf", w->folder, name,
		             (unsigned long long)w->source_hash);
	if (n < 0 || (size_t)n >= PLX_WEIGHTS_PATH)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: the path is too long", w->folder);
	if (format == 0 || stat(path, &st) == 0)
		return 0;
	int err = plx_rules_type(name, &rules.main, d);

	return err ? err : make(w, &rules, path, d);
}

bool plx_weights_larger(uint32_t format, double weight_bits)
{
	enum plx_qtype type;
	struct plx_diag d = {0};
	uint64_t bytes = 0;

	if (format == 0 || plx_rules_type(plx_tune_knobs[0].value[format].text, &type, &d))
		return false;
	return plx_q_row_bytes(type, 256, &bytes) || (double)bytes / 32 >= weight_bits;
}
