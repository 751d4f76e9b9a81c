/* A model in several safetensors files, by its index. */
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/err.h"
#include "tools/model/st.h"

#define MAX_FILES 4096u
#define INDEX     "model.safetensors.index.json"

static bool ends(const char *s, const char *tail)
{
	size_t n = strlen(s), k = strlen(tail);

	return n >= k && strcmp(s + n - k, tail) == 0;
}

static int add_file(struct plx_st_set *set, const char *path, struct plx_diag *d)
{
	struct plx_st **file = realloc(set->file, (set->n_files + 1) * sizeof *file);

	if (!file)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for a list of files");
	set->file = file;
	int err = plx_st_open(path, &file[set->n_files], d);

	set->n_files += !err;
	return err;
}

/* The open file of that name, or NULL. */
static struct plx_st *opened(const struct plx_st_set *set, const char *path)
{
	for (uint32_t i = 0; i < set->n_files; i++)
		if (strcmp(plx_st_name(set->file[i]), path) == 0)
			return set->file[i];
	return NULL;
}

static int open_entry(struct plx_st_set *set, const char *folder, const char *tensor,
                      const json_t *where, const char *index, struct plx_diag *d)
{
	const char *file = json_string_value(where);
	char path[PATH_MAX];

	if (!file || !*file || strchr(file, '/') || strcmp(file, "..") == 0)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "%s: tensor '%.80s': its file is no plain name; fetch the model "
		    "again",
		    index, tensor);
	if ((size_t)snprintf(path, sizeof path, "%s%s", folder, file) >= sizeof path)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: a file's name is too long", index);
	if (!opened(set, path)) {
		if (set->n_files == MAX_FILES)
			return plx_diag_set(d, PLX_E_LIMIT, "%s: more than %u files", index,
			                    MAX_FILES);
		int err = add_file(set, path, d);

		if (err)
			return err;
	}
	if (!plx_st_find(opened(set, path), tensor))
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "%s: tensor '%.80s' should be in %s, but is not; fetch the model "
		    "again",
		    index, tensor, file);
	return 0;
}

/* Every tensor of the files stands in the index, so that none is there twice. */
static int check_surplus(const struct plx_st_set *set, const char *index, size_t n_indexed,
                         struct plx_diag *d)
{
	size_t n = 0;

	for (uint32_t i = 0; i < set->n_files; i++)
		n += plx_st_n(set->file[i]);
	if (n == n_indexed)
		return 0;
	return plx_diag_set(
	    d, PLX_E_FORMAT,
	    "%s: it lists %zu tensors, but its files hold %zu: some are there twice "
	    "or belong to another model; fetch the model again",
	    index, n_indexed, n);
}

static int open_index(struct plx_st_set *set, const char *path, struct plx_diag *d)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];
	json_error_t why;
	json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why), *where;
	json_t *map = json_object_get(root, "weight_map");
	const char *tensor;
	int err = 0;

	snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash + 1 - path) : 0, path);
	if (!root)
		err = plx_diag_set(d, PLX_E_FORMAT, "%s:%d: %s", path, why.line, why.text);
	else if (!json_is_object(map) || json_object_size(map) == 0)
		err = plx_diag_set(d, PLX_E_FORMAT, "%s: it has no weight_map", path);
	json_object_foreach(map, tensor, where)
	{
		if (!err)
			err = open_entry(set, folder, tensor, where, path, d);
	}
	if (!err)
		err = check_surplus(set, path, json_object_size(map), d);
	json_decref(root);
	return err;
}

static int open_folder(struct plx_st_set *set, const char *path, struct plx_diag *d)
{
	char one[PATH_MAX], index[PATH_MAX];

	if ((size_t)snprintf(one, sizeof one, "%s/model.safetensors", path) >= sizeof one ||
	    (size_t)snprintf(index, sizeof index, "%s/" INDEX, path) >= sizeof index)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: the name is too long", path);
	if (access(index, F_OK) == 0)
		return open_index(set, index, d);
	if (access(one, F_OK) == 0)
		return add_file(set, one, d);
	return plx_diag_set(d, PLX_E_NOT_FOUND,
	                    "%s: there is neither model.safetensors nor " INDEX " in it; give the "
	                    "folder of a model",
	                    path);
}

int plx_st_set_open(const char *path, struct plx_st_set *set, struct plx_diag *d)
{
	struct stat st;
	int err;

	*set = (struct plx_st_set){0};
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		err = open_folder(set, path, d);
	else if (ends(path, ".json"))
		err = open_index(set, path, d);
	else
		err = add_file(set, path, d);
	if (err)
		plx_st_set_close(set);
	return err;
}

void plx_st_set_close(struct plx_st_set *set)
{
	for (uint32_t i = 0; i < set->n_files; i++)
		plx_st_close(set->file[i]);
	free(set->file);
	*set = (struct plx_st_set){0};
}

const struct plx_st_tensor *plx_st_set_find(const struct plx_st_set *set, const char *name)
{
	for (uint32_t i = 0; i < set->n_files; i++) {
		const struct plx_st_tensor *t = plx_st_find(set->file[i], name);

		if (t)
			return t;
	}
	return NULL;
}
