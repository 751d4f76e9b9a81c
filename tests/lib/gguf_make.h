/*
 * Builds GGUF files in memory for tests: honest by default, with room for one lie at a time.
 */
#ifndef PLX_TESTS_LIB_GGUF_MAKE_H
#define PLX_TESTS_LIB_GGUF_MAKE_H

#include <stddef.h>
#include <stdint.h>

#define GGUF_MAKE_BYTES (1u << 21)

struct gguf_buf {
	uint8_t *p; /* [GGUF_MAKE_BYTES] */
	size_t n;
};

/* One lie for gguf_make_llama; all zero: none. */
struct gguf_lie {
	const char *skip; /* leave out this key or tensor */
	const char *swap; /* a tensor that gets these dims and this type instead */
	uint64_t dim[2];
	uint32_t type;
	const char *kv_u32; /* a key (dropped where it stands) to add with this value */
	uint32_t u32;
	const char *kv_f32;
	float f32;
	const char *kv_str;
	const char *str;
	const char *extra; /* a further F32 tensor of this name, 4 elements */
	const char *arch;  /* NULL: llama */
};

struct gguf_make {
	struct gguf_buf kv;
	struct gguf_buf info;
	struct gguf_buf file; /* the result */
	uint64_t n_kv;
	uint64_t n_tensor;
	uint64_t data_bytes;
	uint32_t version;   /* 3 */
	uint32_t alignment; /* 32 */
	const struct gguf_lie *lie;
};

void gguf_make_init(struct gguf_make *m);
void gguf_make_free(struct gguf_make *m);

void gguf_put(struct gguf_buf *b, const void *p, size_t n);
void gguf_put_u32(struct gguf_buf *b, uint32_t v);
void gguf_put_u64(struct gguf_buf *b, uint64_t v);
void gguf_put_str(struct gguf_buf *b, const char *s);

/* Metadata; what the lie names is left out or replaced. */
void gguf_make_raw(struct gguf_make *m, const char *key, uint32_t type, const void *p, size_t n);
void gguf_make_u32(struct gguf_make *m, const char *key, uint32_t v);
void gguf_make_f32(struct gguf_make *m, const char *key, float v);
void gguf_make_str(struct gguf_make *m, const char *key, const char *v);

/* A tensor of d0 x d1 (d1 0: one dimension), data zero or, F32, all one. */
void gguf_make_tensor(struct gguf_make *m, const char *name, uint32_t type, uint64_t d0,
                      uint64_t d1);

/* Put everything together in m->file. */
void gguf_make_finish(struct gguf_make *m);

/* A whole two-layer model (embedding 32, 4 heads on 2, feed-forward 64, 16 tokens), finished. */
void gguf_make_llama(struct gguf_make *m, const struct gguf_lie *lie);

/* The same, to be finished after further entries. */
void gguf_make_start(struct gguf_make *m, const struct gguf_lie *lie);

#endif
