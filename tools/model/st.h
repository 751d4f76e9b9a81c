/*
 * Reader for safetensors files.
 *
 * Layout: u64 length of the header, little-endian; the header, one JSON object of
 * name -> {dtype, shape, data_offsets [begin, end)}; then the data, offsets counted from its
 * beginning. "__metadata__" holds strings.
 *
 * The file is mapped and nothing in it is believed: lengths, shapes and offsets are checked for
 * overflow, each tensor's bytes against its type and shape, and all tensors together must cover
 * the data exactly, without overlap, gap or rest (as the format demands).
 *
 * Source: the safetensors format's description, README of its project.
 */
#ifndef PLX_TOOLS_MODEL_ST_H
#define PLX_TOOLS_MODEL_ST_H

#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"

#define PLX_ST_MAX_HEADER (100u << 20) /* the format's own limit is 100 MB */
#define PLX_ST_MAX_TENSOR 262144u
#define PLX_ST_MAX_DIMS   8u
#define PLX_ST_MAX_NAME   256u

enum plx_st_dtype {
	PLX_ST_F32 = 1,
	PLX_ST_F16,
	PLX_ST_BF16,
	PLX_ST_OTHER, /* of known size, which we don't convert */
};

struct plx_st_tensor {
	const char *name; /* of the reader's */
	enum plx_st_dtype dtype;
	char dtype_name[12];
	uint32_t n_dims;
	uint64_t dim[PLX_ST_MAX_DIMS]; /* dim[n_dims - 1] runs fastest */
	uint64_t n_elem;               /* may be 0 */
	uint64_t bytes;
	const uint8_t *data;
};

struct plx_st;

/*
 * plx_st_open - map a file and check all of it.
 *
 * Errors: NOT_FOUND, IO, FORMAT (named: tensor and what is wrong), LIMIT, NOMEM.
 * Owner: the caller; plx_st_close.
 */
int plx_st_open(const char *path, struct plx_st **out, struct plx_diag *d);

/* plx_st_open_mem - the same on bytes in memory, which must outlive the reader. */
int plx_st_open_mem(const void *mem, size_t bytes, struct plx_st **out, struct plx_diag *d);

/* plx_st_close - NULL is accepted. */
void plx_st_close(struct plx_st *s);

const char *plx_st_name(const struct plx_st *s);

/* plx_st_n, plx_st_at - the tensors in the order of their data. */
uint32_t plx_st_n(const struct plx_st *s);
const struct plx_st_tensor *plx_st_at(const struct plx_st *s, uint32_t idx);

/* plx_st_find - by name, or NULL.  Cost: O(log n). */
const struct plx_st_tensor *plx_st_find(const struct plx_st *s, const char *name);

/*
 * A model's tensors in one file or several.
 */
struct plx_st_set {
	uint32_t n_files;
	struct plx_st **file; /* [n_files] */
};

/*
 * plx_st_set_open - of a folder: model.safetensors, or the files that model.safetensors.index.json
 * names; of a file: that one, or, where it is an index (.json), the files it names.
 *
 * Each tensor of the index must be in the file it says; no file may hold one that the index does
 * not have, and no two the same. Names of files are plain names in the index's folder.
 *
 * Errors: as plx_st_open; NOT_FOUND names the file that is missing.
 */
int plx_st_set_open(const char *path, struct plx_st_set *set, struct plx_diag *d);
void plx_st_set_close(struct plx_st_set *set);

/* plx_st_set_find - by name, or NULL. */
const struct plx_st_tensor *plx_st_set_find(const struct plx_st_set *set, const char *name);

#endif
