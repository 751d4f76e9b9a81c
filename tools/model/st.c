/* One safetensors file: the header by jansson, everything else by hand. */
#include "tools/model/st.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/err.h"

#define FETCH_AGAIN "; fetch or save the model again"

struct plx_st {
	const uint8_t *base;
	uint64_t size;
	void *map;
	char *name;
	json_t *head; /* owns the names */
	uint32_t n;
	struct plx_st_tensor *tensor; /* by data */
	uint32_t *sorted;             /* by name */
};

/* ---- one tensor ------------------------------------------------------------------------------ */

static int wrong(const struct plx_st *s, const char *tensor, const char *what, struct plx_diag *d)
{
	return plx_diag_set(d, PLX_E_FORMAT, "%s: tensor '%.80s': %s" FETCH_AGAIN, s->name, tensor,
	                    what);
}

/* Source: the format's list of types, with their bytes. */
static const struct {
	const char *name;
	enum plx_st_dtype dtype;
	uint32_t bytes;
} dtypes[] = {
    {"F32", PLX_ST_F32, 4},    {"F16", PLX_ST_F16, 2},       {"BF16", PLX_ST_BF16, 2},
    {"F64", PLX_ST_OTHER, 8},  {"I64", PLX_ST_OTHER, 8},     {"I32", PLX_ST_OTHER, 4},
    {"I16", PLX_ST_OTHER, 2},  {"I8", PLX_ST_OTHER, 1},      {"U64", PLX_ST_OTHER, 8},
    {"U32", PLX_ST_OTHER, 4},  {"U16", PLX_ST_OTHER, 2},     {"U8", PLX_ST_OTHER, 1},
    {"BOOL", PLX_ST_OTHER, 1}, {"F8_E4M3", PLX_ST_OTHER, 1}, {"F8_E5M2", PLX_ST_OTHER, 1},
};

static int read_dtype(const struct plx_st *s, struct plx_st_tensor *t, const json_t *info,
                      uint32_t *bytes, struct plx_diag *d)
{
	const char *text = json_string_value(json_object_get(info, "dtype"));

	if (!text)
		return wrong(s, t->name, "it has no dtype", d);
	for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
		if (strcmp(text, dtypes[i].name) == 0) {
			t->dtype = dtypes[i].dtype;
			*bytes = dtypes[i].bytes;
			snprintf(t->dtype_name, sizeof t->dtype_name, "%s", text);
			return 0;
		}
	return plx_diag_set(d, PLX_E_UNSUPPORTED,
	                    "%s: tensor '%.80s': its dtype '%.20s' is not known; save the model as "
	                    "F32, F16 or BF16",
	                    s->name, t->name, text);
}

/* A JSON integer of 0 or more, as u64. */
static bool whole(const json_t *v, uint64_t *out)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return false;
	*out = (uint64_t)json_integer_value(v);
	return true;
}

static int read_shape(const struct plx_st *s, struct plx_st_tensor *t, const json_t *info,
                      struct plx_diag *d)
{
	const json_t *shape = json_object_get(info, "shape");
	size_t n = json_array_size(shape);

	if (!json_is_array(shape) || n > PLX_ST_MAX_DIMS)
		return wrong(s, t->name, "it has no shape, or one of more than 8 dimensions", d);
	t->n_dims = (uint32_t)n;
	t->n_elem = 1;
	for (size_t i = 0; i < n; i++) {
		if (!whole(json_array_get(shape, i), &t->dim[i]))
			return wrong(s, t->name, "a dimension is no whole number", d);
		if (__builtin_mul_overflow(t->n_elem, t->dim[i], &t->n_elem))
			return wrong(s, t->name, "its shape overflows", d);
	}
	return 0;
}

static int read_place(const struct plx_st *s, struct plx_st_tensor *t, const json_t *info,
                      uint64_t data_off, struct plx_diag *d)
{
	const json_t *offs = json_object_get(info, "data_offsets");
	uint64_t begin, end;

	if (json_array_size(offs) != 2 || !whole(json_array_get(offs, 0), &begin) ||
	    !whole(json_array_get(offs, 1), &end))
		return wrong(s, t->name, "its data_offsets are no two whole numbers", d);
	if (begin > end || end > s->size - data_off)
		return wrong(s, t->name, "its data ends behind the end of the file", d);
	if (end - begin != t->bytes)
		return wrong(s, t->name, "its data_offsets contradict its shape and dtype", d);
	t->data = s->base + data_off + begin;
	return 0;
}

static int read_tensor(const struct plx_st *s, struct plx_st_tensor *t, const char *name,
                       const json_t *info, uint64_t data_off, struct plx_diag *d)
{
	uint32_t elem_bytes = 0;
	int err;

	t->name = name;
	if (strlen(name) == 0 || strlen(name) > PLX_ST_MAX_NAME)
		return wrong(s, name, "its name is empty or too long", d);
	if (!json_is_object(info))
		return wrong(s, name, "its entry is no object", d);
	if ((err = read_dtype(s, t, info, &elem_bytes, d)) || (err = read_shape(s, t, info, d)))
		return err;
	if (__builtin_mul_overflow(t->n_elem, (uint64_t)elem_bytes, &t->bytes))
		return wrong(s, name, "its shape overflows", d);
	return read_place(s, t, info, data_off, d);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static int by_data(const void *a, const void *b)
{
	const struct plx_st_tensor *x = a, *y = b;

	if (x->data != y->data)
		return x->data < y->data ? -1 : 1;
	return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b, void *s)
{
	const struct plx_st_tensor *t = ((const struct plx_st *)s)->tensor;

	return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

/* Together they cover the data exactly. */
static int check_cover(const struct plx_st *s, uint64_t data_off, struct plx_diag *d)
{
	const uint8_t *next = s->base + data_off;

	for (uint32_t i = 0; i < s->n; i++) {
		const struct plx_st_tensor *t = &s->tensor[i];

		if (t->data < next)
			return wrong(s, t->name, "its data overlaps another tensor's", d);
		if (t->data > next)
			return wrong(s, t->name, "there is a gap before its data", d);
		next = t->data + t->bytes;
	}
	if (next != s->base + s->size)
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "%s: %llu bytes behind the last tensor belong to none" FETCH_AGAIN, s->name,
		    (unsigned long long)(s->base + s->size - next));
	return 0;
}

static int read_tensors(struct plx_st *s, uint64_t data_off, struct plx_diag *d)
{
	const char *name;
	json_t *info;
	size_t n = json_object_size(s->head);

	if (n > PLX_ST_MAX_TENSOR)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: %zu tensors, more than %u", s->name, n,
		                    PLX_ST_MAX_TENSOR);
	s->tensor = calloc(n + 1, sizeof *s->tensor);
	s->sorted = calloc(n + 1, sizeof *s->sorted);
	if (!s->tensor || !s->sorted)
		return plx_diag_set(d, PLX_E_NOMEM, "%s: no memory for its tables", s->name);
	json_object_foreach(s->head, name, info)
	{
		if (strcmp(name, "__metadata__") == 0)
			continue;
		int err = read_tensor(s, &s->tensor[s->n], name, info, data_off, d);

		if (err)
			return err;
		s->n++;
	}
	qsort(s->tensor, s->n, sizeof *s->tensor, by_data);
	for (uint32_t i = 0; i < s->n; i++)
		s->sorted[i] = i;
	qsort_r(s->sorted, s->n, sizeof *s->sorted, by_name, s);
	return check_cover(s, data_off, d);
}

static int read_file(struct plx_st *s, struct plx_diag *d)
{
	json_error_t why;
	uint64_t n;

	if (s->size < 8)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: too short for a safetensors file" FETCH_AGAIN, s->name);
	memcpy(&n, s->base, sizeof n);
	if (n > PLX_ST_MAX_HEADER || n > s->size - 8 || n < 2 || s->base[8] != '{')
		return plx_diag_set(
		    d, PLX_E_FORMAT,
		    "%s: this is no safetensors file, or it is cut short (its header "
		    "would be %llu bytes of %llu)" FETCH_AGAIN,
		    s->name, (unsigned long long)n, (unsigned long long)s->size);
	s->head = json_loadb((const char *)s->base + 8, n, JSON_REJECT_DUPLICATES, &why);
	if (!s->head)
		return plx_diag_set(d, PLX_E_FORMAT, "%s: its header: %s" FETCH_AGAIN, s->name,
		                    why.text);
	return read_tensors(s, 8 + n, d);
}

/* ---- opening --------------------------------------------------------------------------------- */

static struct plx_st *new_reader(const char *name, struct plx_diag *d)
{
	struct plx_st *s = calloc(1, sizeof *s);

	if (s)
		s->name = strdup(name);
	if (!s || !s->name) {
		plx_diag_set(d, 0, "%s: no memory to open it", name);
		free(s);
		return NULL;
	}
	return s;
}

static int finish(struct plx_st *s, struct plx_st **out, struct plx_diag *d)
{
	int err = read_file(s, d);

	if (err)
		plx_st_close(s);
	else
		*out = s;
	return err;
}

int plx_st_open_mem(const void *mem, size_t bytes, struct plx_st **out, struct plx_diag *d)
{
	struct plx_st *s = new_reader("(memory)", d);

	*out = NULL;
	if (!s)
		return PLX_E_NOMEM;
	s->base = mem;
	s->size = bytes;
	return finish(s, out, d);
}

int plx_st_open(const char *path, struct plx_st **out, struct plx_diag *d)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	*out = NULL;
	if (fd < 0)
		return plx_diag_set(d, errno == ENOENT ? PLX_E_NOT_FOUND : PLX_E_FORMAT,
		                    "%s: can't open it: %s", path, strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size < 8) {
		close(fd);
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: this is no safetensors file; give one, or its folder",
		                    path);
	}
	void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

	close(fd);
	if (map == MAP_FAILED)
		return plx_diag_set(d, PLX_E_NOMEM, "%s: can't map it: %s", path, strerror(errno));
	struct plx_st *s = new_reader(path, d);

	if (!s) {
		munmap(map, (size_t)st.st_size);
		return PLX_E_NOMEM;
	}
	s->base = s->map = map;
	s->size = (uint64_t)st.st_size;
	return finish(s, out, d);
}

void plx_st_close(struct plx_st *s)
{
	if (!s)
		return;
	if (s->map)
		munmap(s->map, s->size);
	json_decref(s->head);
	free(s->tensor);
	free(s->sorted);
	free(s->name);
	free(s);
}

const char *plx_st_name(const struct plx_st *s)
{
	return s->name;
}

uint32_t plx_st_n(const struct plx_st *s)
{
	return s->n;
}

const struct plx_st_tensor *plx_st_at(const struct plx_st *s, uint32_t idx)
{
	return &s->tensor[idx];
}

const struct plx_st_tensor *plx_st_find(const struct plx_st *s, const char *name)
{
	uint32_t lo = 0, hi = s->n;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		const struct plx_st_tensor *t = &s->tensor[s->sorted[mid]];
		int r = strcmp(name, t->name);

		if (r == 0)
			return t;
		if (r < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}
