/*
 * Writes a GGUF file, version 3: metadata, then the tensor table, then the data in the table's
 * order. Calls come in that order, and any failure ends the program with a message; the file
 * appears under its name only when it is complete.
 */
#ifndef PLX_TESTS_MKMODEL_WRITE_H
#define PLX_TESTS_MKMODEL_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "accel/model/gguf.h"

struct mk_file;

struct mk_file *mk_open(const char *path);

/* Metadata: an entry as another file has it, or of our own. */
void mk_kv(struct mk_file *f, const struct plx_gguf_kv *kv);
void mk_u32(struct mk_file *f, const char *key, uint32_t v);
void mk_f32(struct mk_file *f, const char *key, float v);
void mk_str(struct mk_file *f, const char *key, const char *v);

/* An array of n: kv's elements, then what name gives for each further index (a format with one %u),
 * or value. */
void mk_kv_strs(struct mk_file *f, const struct plx_gguf_kv *kv, uint32_t n, const char *name);
void mk_kv_i32s(struct mk_file *f, const struct plx_gguf_kv *kv, uint32_t n, int32_t value);

/* mk_name - a C string as the reader's. */
struct plx_gguf_str mk_name(const char *name);

/* mk_tensor - an entry of the table: d0 columns, d1 rows (0: a vector). */
void mk_tensor(struct mk_file *f, struct plx_gguf_str name, uint32_t type, uint64_t d0,
               uint64_t d1);

/* mk_head - header, metadata and table are written; data comes next. */
void mk_head(struct mk_file *f);

/* mk_data - next bytes of the tensor at hand. mk_tensor_end - it is complete; its size is checked.
 */
void mk_data(struct mk_file *f, const void *p, size_t n);
void mk_tensor_end(struct mk_file *f);

void mk_close(struct mk_file *f);

#endif
