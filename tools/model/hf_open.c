/* Loads a model folder's JSON files. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fw/base/err.h"
#include "tools/model/hf.h"

/* One file; *out stays NULL where it is absent and may be. */
static int load(const char *folder, const char *name, bool may_lack, json_t **out,
                struct plx_diag *d)
{
	char path[PATH_MAX + 64];
	json_error_t why;

	snprintf(path, sizeof path, "%s%s", folder, name);
	*out = NULL;
	if (access(path, R_OK) != 0) {
		if (may_lack && errno == ENOENT)
			return 0;
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "%s: %s; a model's folder must have it beside the tensors",
		                    path, strerror(errno));
	}
	*out = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
	if (!*out)
		return plx_diag_set(d, PLX_E_FORMAT, "%s:%d: %s; fetch the model again", path,
		                    why.line, why.text);
	if (!json_is_object(*out))
		return plx_diag_set(d, PLX_E_FORMAT, "%s: no JSON object; fetch the model again",
		                    path);
	return 0;
}

int plx_hf_open(const char *folder, struct plx_hf *h, struct plx_diag *d)
{
	int err;

	*h = (struct plx_hf){0};
	if (strlen(folder) >= sizeof h->folder)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: the name is too long", folder);
	strcpy(h->folder, folder);
	if ((err = load(folder, "config.json", false, &h->config, d)) ||
	    (err = load(folder, "tokenizer.json", false, &h->tokenizer, d)) ||
	    (err = load(folder, "tokenizer_config.json", true, &h->tok_config, d)) ||
	    (err = load(folder, "generation_config.json", true, &h->generation, d)) ||
	    (err = plx_hf_conf_read(h, d)))
		plx_hf_close(h);
	return err;
}

void plx_hf_close(struct plx_hf *h)
{
	json_decref(h->config);
	json_decref(h->tokenizer);
	json_decref(h->tok_config);
	json_decref(h->generation);
	free(h->rope_factors);
	*h = (struct plx_hf){0};
}
