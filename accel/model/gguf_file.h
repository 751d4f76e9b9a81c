/*
 * What the reader's own files share.
 */
#ifndef PLX_ACCEL_MODEL_GGUF_FILE_H
#define PLX_ACCEL_MODEL_GGUF_FILE_H

#include "accel/model/gguf.h"

struct plx_gguf {
	const uint8_t *base;
	uint64_t size;
	uint64_t mtime_ns; /* 0: no file */
	void *map;         /* what to unmap, or NULL */
	char *name;
	uint32_t version;
	uint32_t alignment;
	uint64_t head_bytes;
	uint64_t data_off;
	uint32_t n_kv;
	uint32_t n_tensor;
	struct plx_gguf_kv *kv;
	struct plx_gguf_tensor *tensor;
	uint32_t *kv_sorted;     /* indices by key */
	uint32_t *tensor_sorted; /* indices by name */
};

/*
 * plx_gguf_parse - fill everything from version on from base[0..size), which is believed nowhere.
 * Tables that were allocated are freed by plx_gguf_close, on error too.
 */
int plx_gguf_parse(struct plx_gguf *g, struct plx_diag *d);

/* plx_gguf_str_cmp - order by bytes, a prefix first; how the sorted tables are sorted. */
int plx_gguf_str_cmp(struct plx_gguf_str a, struct plx_gguf_str b);

#endif
