/*
 * The head of a GGUF file, version 3, built in memory: metadata, then the tensor table; and where
 * each tensor's data belongs. Data itself is written by whoever has it.
 *
 * Running out of memory is remembered and said once, by plx_gw_finish.
 */
#ifndef PLX_TOOLS_GGUF_WRITE_H
#define PLX_TOOLS_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/model/gguf.h"

#define PLX_GW_ALIGN 32u

struct plx_gw_mem {
	uint8_t *p;
	size_t n, room;
};

/* Where one tensor lies: off from the start of the file, bytes of data; zeros up to the next. */
struct plx_gw_place {
	uint64_t off;
	uint64_t bytes;
};

struct plx_gw {
	struct plx_gw_mem kv, table;
	struct plx_gw_mem head; /* finished: what the file begins with, padding included */
	uint64_t n_kv;
	uint32_t n_tensor;
	struct plx_gw_place *place; /* [n_tensor] */
	uint64_t next_off;          /* of data, while tensors are added */
	uint64_t file_bytes;        /* finished: the whole file */
	bool nomem;
};

/* plx_gw_free - release; a zeroed struct is empty and may be freed. */
void plx_gw_free(struct plx_gw *w);

/* plx_gw_name - a C string as the reader's. */
struct plx_gguf_str plx_gw_name(const char *text);

/* Metadata, in order. plx_gw_kv copies an entry of another file. */
void plx_gw_kv(struct plx_gw *w, const struct plx_gguf_kv *kv);
void plx_gw_u32(struct plx_gw *w, const char *key, uint32_t v);
void plx_gw_f32(struct plx_gw *w, const char *key, float v);
void plx_gw_bool(struct plx_gw *w, const char *key, bool v);
void plx_gw_str(struct plx_gw *w, const char *key, struct plx_gguf_str v);

/* plx_gw_arr - begin an array of n; then its elements by the five below, exactly n. */
void plx_gw_arr(struct plx_gw *w, struct plx_gguf_str key, enum plx_gguf_type elem, uint64_t n);
void plx_gw_elem_str(struct plx_gw *w, struct plx_gguf_str v);
void plx_gw_elem_i32(struct plx_gw *w, int32_t v);
void plx_gw_elem_f32(struct plx_gw *w, float v);
void plx_gw_elem_bool(struct plx_gw *w, bool v);
void plx_gw_elems(struct plx_gw *w, const struct plx_gguf_kv *kv);

/*
 * plx_gw_tensor - a further entry of the table: dim[0] runs fastest. Its index is the number of
 * those before it. The shape is the caller's promise: rows of whole blocks, sizes that fit.
 */
void plx_gw_tensor(struct plx_gw *w, struct plx_gguf_str name, uint32_t type, uint32_t n_dims,
                   const uint64_t *dim);

/* plx_gw_finish - make head, absolute places and file_bytes.  Errors: NOMEM. */
int plx_gw_finish(struct plx_gw *w, struct plx_diag *d);

#endif
