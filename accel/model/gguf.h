/*
 * Reader for GGUF model files, versions 2 and 3, little-endian.
 *
 * The file is mapped read-only and nothing in it is believed: every count, length, offset, type
 * and alignment is checked against the bytes that are there before it is used, once, at open.
 * After a successful open every pointer this header hands out lies inside the mapping, so readers
 * need no checks of their own. Nothing is copied but the two tables (keys and tensors).
 *
 * A file that is truncated while it is mapped raises SIGBUS on the next access; no check can
 * prevent that. The rule is that model files are replaced by rename and never written in place.
 *
 * Layout (all little-endian): "GGUF", u32 version, u64 n_tensor, u64 n_kv, the keys, the tensor
 * table, padding to the alignment, tensor data.
 *
 * Source: the GGUF specification, docs/gguf.md of the ggml project.
 */
#ifndef PLX_ACCEL_MODEL_GGUF_H
#define PLX_ACCEL_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"

#define PLX_GGUF_MAX_KV         65536u
#define PLX_GGUF_MAX_TENSOR     65536u
#define PLX_GGUF_MAX_KEY_BYTES  65535u /* the specification's limit */
#define PLX_GGUF_MAX_NAME_BYTES 64u    /* tensor names, the specification's limit */
#define PLX_GGUF_MAX_DIMS       4u
#define PLX_GGUF_MAX_NESTING    4u /* arrays in arrays */
#define PLX_GGUF_MIN_ALIGN      8u
#define PLX_GGUF_MAX_ALIGN      1048576u

/* Metadata value types, numbered as in the file. */
enum plx_gguf_type {
	PLX_GGUF_U8 = 0,
	PLX_GGUF_I8 = 1,
	PLX_GGUF_U16 = 2,
	PLX_GGUF_I16 = 3,
	PLX_GGUF_U32 = 4,
	PLX_GGUF_I32 = 5,
	PLX_GGUF_F32 = 6,
	PLX_GGUF_BOOL = 7,
	PLX_GGUF_STR = 8,
	PLX_GGUF_ARR = 9,
	PLX_GGUF_U64 = 10,
	PLX_GGUF_I64 = 11,
	PLX_GGUF_F64 = 12,
};

/* Bytes inside the mapping: any bytes, zeros included, and no terminator. */
struct plx_gguf_str {
	const char *ptr;
	uint64_t len;
};

/*
 * One metadata entry. A scalar has n 1 and elem equal to type; an array has type ARR, elem its
 * elements' type and n their number. data is not aligned.
 */
struct plx_gguf_kv {
	struct plx_gguf_str key;
	enum plx_gguf_type type;
	enum plx_gguf_type elem;
	uint64_t n;
	const uint8_t *data; /* first element; strings as u64 length and bytes */
	uint64_t data_bytes;
};

/* One tensor. dim[0] runs fastest; dims beyond n_dims are 1. */
struct plx_gguf_tensor {
	struct plx_gguf_str name;
	uint32_t type; /* ggml type number; plx_gguf_tensor_type_name names it */
	uint32_t n_dims;
	uint64_t dim[PLX_GGUF_MAX_DIMS];
	uint64_t n_elem;
	uint64_t bytes;
	uint64_t file_off; /* of data, from the start of the file */
	const uint8_t *data;
};

struct plx_gguf;

/*
 * plx_gguf_open - map a file and check all of it.
 *
 * Refused: bad magic, version other than 2 or 3, big-endian files, any count, length or offset
 * that leaves the file, unknown value or tensor types, keys or tensors that appear twice, zero
 * dimensions, sizes that overflow, rows that are no whole number of quantisation blocks, data that
 * is misaligned or overlaps, general.alignment that is no power of two in 8..1 MiB.
 *
 * Owner:  the caller; plx_gguf_close.  Thread: any; read-only afterwards, so shared freely.
 * Cost:   O(metadata + n log n); tensor data is not touched.
 * Errors: NOT_FOUND, IO, FORMAT, UNSUPPORTED (version, byte order, tensor type), LIMIT (the counts
 *         above), NOMEM. d names file, byte offset, key or tensor, and a remedy.
 */
int plx_gguf_open(const char *path, struct plx_gguf **out, struct plx_diag *d);

/*
 * plx_gguf_open_mem - the same on bytes in memory, which must outlive the reader.
 * Tensor data is then only as aligned as mem is.
 */
int plx_gguf_open_mem(const void *mem, size_t bytes, struct plx_gguf **out, struct plx_diag *d);

/* plx_gguf_close - unmap and free; NULL is accepted. */
void plx_gguf_close(struct plx_gguf *g);

/* plx_gguf_name - the path given to open, or "(memory)". */
const char *plx_gguf_name(const struct plx_gguf *g);

/* What the header says: format version (2 or 3), size of the file, alignment of tensor data. */
uint32_t plx_gguf_version(const struct plx_gguf *g);
uint64_t plx_gguf_file_bytes(const struct plx_gguf *g);
uint32_t plx_gguf_alignment(const struct plx_gguf *g);

/* plx_gguf_mtime_ns - when the file was last changed, since 1970; 0 for bytes in memory. */
uint64_t plx_gguf_mtime_ns(const struct plx_gguf *g);

/*
 * plx_gguf_ask - ask the disk for bytes of the file that will be read soon; a hint.
 *
 * @at  where they lie in the mapping; what is outside of it, or of a file in memory, is left out.
 *
 * Thread: any.  Cost: one system call; it does not wait for the disk.
 */
void plx_gguf_ask(const struct plx_gguf *g, const uint8_t *at, uint64_t bytes);

/*
 * plx_gguf_scattered - say whether what is read next are single pages here and there. From then
 * on a page that is missing is read alone; without it the kernel reads megabytes around it.
 */
void plx_gguf_scattered(const struct plx_gguf *g, bool on);

/* plx_gguf_head - header, metadata and tensor table as they stand in the file. */
const uint8_t *plx_gguf_head(const struct plx_gguf *g, uint64_t *bytes);

/* ---- metadata ------------------------------------------------------------------------------ */

/* plx_gguf_n_kv - number of metadata entries. */
uint32_t plx_gguf_n_kv(const struct plx_gguf *g);

/* plx_gguf_kv_at - entry idx in file order, idx < n_kv. */
const struct plx_gguf_kv *plx_gguf_kv_at(const struct plx_gguf *g, uint32_t idx);

/* plx_gguf_find - the entry with this key, or NULL.  Cost: O(log n_kv). */
const struct plx_gguf_kv *plx_gguf_find(const struct plx_gguf *g, const char *key);

/*
 * plx_gguf_get_* - read a scalar.
 *
 * u32 takes any integer type whose value fits; f32 takes F32 and F64 (rounded) and refuses NaN and
 * infinity; bool takes BOOL alone.
 *
 * Errors: NOT_FOUND (no such key), FORMAT (wrong type or out of range); d names the key. *out is
 *         untouched on error. A caller with a default passes d only where absence is wrong:
 *         the _or forms return the default when the key is absent, other errors as above.
 */
int plx_gguf_get_u32(const struct plx_gguf *g, const char *key, uint32_t *out, struct plx_diag *d);
int plx_gguf_get_f32(const struct plx_gguf *g, const char *key, float *out, struct plx_diag *d);
int plx_gguf_get_bool(const struct plx_gguf *g, const char *key, bool *out, struct plx_diag *d);
int plx_gguf_get_str(const struct plx_gguf *g, const char *key, struct plx_gguf_str *out,
                     struct plx_diag *d);
int plx_gguf_get_u32_or(const struct plx_gguf *g, const char *key, uint32_t dflt, uint32_t *out,
                        struct plx_diag *d);
int plx_gguf_get_f32_or(const struct plx_gguf *g, const char *key, float dflt, float *out,
                        struct plx_diag *d);
int plx_gguf_get_bool_or(const struct plx_gguf *g, const char *key, bool dflt, bool *out,
                         struct plx_diag *d);

/*
 * plx_gguf_get_arr - the array with this key, whose elements must be of type elem.
 * Errors: NOT_FOUND, FORMAT (not an array, or of something else); d names the key.
 */
int plx_gguf_get_arr(const struct plx_gguf *g, const char *key, enum plx_gguf_type elem,
                     const struct plx_gguf_kv **out, struct plx_diag *d);

/* Element i < kv->n of an I32, F32 or BOOL array (checked in debug builds). */
int32_t plx_gguf_arr_i32(const struct plx_gguf_kv *kv, uint64_t i);
float plx_gguf_arr_f32(const struct plx_gguf_kv *kv, uint64_t i);
bool plx_gguf_arr_bool(const struct plx_gguf_kv *kv, uint64_t i);

/*
 * Iterator over an array of strings, without copying:
 *
 *   struct plx_gguf_iter it = plx_gguf_strs(kv);
 *   while (plx_gguf_next(&it, &s)) ...
 */
struct plx_gguf_iter {
	const uint8_t *pos;
	uint64_t left;
};
struct plx_gguf_iter plx_gguf_strs(const struct plx_gguf_kv *kv);
bool plx_gguf_next(struct plx_gguf_iter *it, struct plx_gguf_str *out);

/* plx_gguf_str_is - whether the bytes equal a C string. */
bool plx_gguf_str_is(struct plx_gguf_str s, const char *text);

/* plx_gguf_type_name - "u32", "string" ...; "unknown" for a number the format lacks. */
const char *plx_gguf_type_name(uint32_t type);

/*
 * plx_gguf_printable - copy s for a message: control bytes and bytes above 126 become '?', cut with
 * "..." when longer than the buffer.  Returns buf.
 */
const char *plx_gguf_printable(struct plx_gguf_str s, char *buf, size_t buf_bytes);

/* ---- tensors ------------------------------------------------------------------------------- */

/* plx_gguf_n_tensor, plx_gguf_tensor_at - the tensors in file order, idx < n_tensor. */
uint32_t plx_gguf_n_tensor(const struct plx_gguf *g);
const struct plx_gguf_tensor *plx_gguf_tensor_at(const struct plx_gguf *g, uint32_t idx);

/* plx_gguf_tensor_find - the tensor with this name, or NULL.  Cost: O(log n_tensor). */
const struct plx_gguf_tensor *plx_gguf_tensor_find(const struct plx_gguf *g, const char *name);

/* plx_gguf_tensor_type_name - "Q4_1", "IQ2_XS" ...; "unknown" for a number the format lacks. */
const char *plx_gguf_tensor_type_name(uint32_t type);

/*
 * plx_gguf_tensor_type_size - elements and bytes of one block of a tensor type.
 * Returns false for a number the format lacks.
 */
bool plx_gguf_tensor_type_size(uint32_t type, uint32_t *block_elems, uint32_t *block_bytes);

#endif
