/* Builds GGUF files in memory for tests. */
#include "tests/lib/gguf_make.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/gguf.h"
#include "fw/base/check.h"

static void buf_init(struct gguf_buf *b)
{
	b->p = calloc(1, GGUF_MAKE_BYTES);
	PLX_CHECK(b->p);
	b->n = 0;
}

void gguf_make_init(struct gguf_make *m)
{
	static const struct gguf_lie none;

	*m = (struct gguf_make){.version = 3, .alignment = 32, .lie = &none};
	buf_init(&m->kv);
	buf_init(&m->info);
	buf_init(&m->file);
}

void gguf_make_free(struct gguf_make *m)
{
	free(m->kv.p);
	free(m->info.p);
	free(m->file.p);
}

void gguf_put(struct gguf_buf *b, const void *p, size_t n)
{
	PLX_CHECK(n <= GGUF_MAKE_BYTES - b->n);
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

void gguf_put_u32(struct gguf_buf *b, uint32_t v)
{
	gguf_put(b, &v, sizeof v);
}

void gguf_put_u64(struct gguf_buf *b, uint64_t v)
{
	gguf_put(b, &v, sizeof v);
}

void gguf_put_str(struct gguf_buf *b, const char *s)
{
	gguf_put_u64(b, strlen(s));
	gguf_put(b, s, strlen(s));
}

static int same(const char *a, const char *b)
{
	return a && strcmp(a, b) == 0;
}

static void put_kv(struct gguf_make *m, const char *key, uint32_t type, const void *p, size_t n)
{
	gguf_put_str(&m->kv, key);
	gguf_put_u32(&m->kv, type);
	gguf_put(&m->kv, p, n);
	m->n_kv++;
}

void gguf_make_raw(struct gguf_make *m, const char *key, uint32_t type, const void *p, size_t n)
{
	const struct gguf_lie *l = m->lie;

	if (!same(l->skip, key) && !same(l->kv_u32, key) && !same(l->kv_f32, key) &&
	    !same(l->kv_str, key))
		put_kv(m, key, type, p, n);
}

void gguf_make_u32(struct gguf_make *m, const char *key, uint32_t v)
{
	gguf_make_raw(m, key, PLX_GGUF_U32, &v, sizeof v);
}

void gguf_make_f32(struct gguf_make *m, const char *key, float v)
{
	gguf_make_raw(m, key, PLX_GGUF_F32, &v, sizeof v);
}

static size_t str_value(const char *v, uint8_t out[512])
{
	uint64_t len = strlen(v);

	PLX_CHECK(len <= 500);
	memcpy(out, &len, 8);
	memcpy(out + 8, v, len);
	return 8 + len;
}

void gguf_make_str(struct gguf_make *m, const char *key, const char *v)
{
	uint8_t buf[512];

	gguf_make_raw(m, key, PLX_GGUF_STR, buf, str_value(v, buf));
}

static void put_tensor(struct gguf_make *m, const char *name, uint32_t type, uint64_t d0,
                       uint64_t d1)
{
	uint32_t elems = 1;
	uint32_t bytes = 4;

	plx_gguf_tensor_type_size(type, &elems, &bytes);
	gguf_put_str(&m->info, name);
	gguf_put_u32(&m->info, d1 ? 2 : 1);
	gguf_put_u64(&m->info, d0);
	if (d1)
		gguf_put_u64(&m->info, d1);
	gguf_put_u32(&m->info, type);
	gguf_put_u64(&m->info, m->data_bytes);
	m->data_bytes += d0 / elems * bytes * (d1 ? d1 : 1);
	m->data_bytes = (m->data_bytes + m->alignment - 1) / m->alignment * m->alignment;
	m->n_tensor++;
}

void gguf_make_tensor(struct gguf_make *m, const char *name, uint32_t type, uint64_t d0,
                      uint64_t d1)
{
	const struct gguf_lie *l = m->lie;

	if (same(l->skip, name))
		return;
	if (same(l->swap, name))
		put_tensor(m, name, l->type, l->dim[0], l->dim[1]);
	else
		put_tensor(m, name, type, d0, d1);
}

void gguf_make_finish(struct gguf_make *m)
{
	static const float one = 1.0f;

	gguf_put(&m->file, "GGUF", 4);
	gguf_put_u32(&m->file, m->version);
	gguf_put_u64(&m->file, m->n_tensor);
	gguf_put_u64(&m->file, m->n_kv);
	gguf_put(&m->file, m->kv.p, m->kv.n);
	gguf_put(&m->file, m->info.p, m->info.n);
	while (m->file.n % m->alignment)
		gguf_put(&m->file, "", 1);
	for (uint64_t i = 0; i < m->data_bytes; i += sizeof one)
		gguf_put(&m->file, &one, sizeof one);
}

static void put_lies(struct gguf_make *m)
{
	const struct gguf_lie *l = m->lie;
	uint8_t buf[512];

	if (l->kv_u32)
		put_kv(m, l->kv_u32, PLX_GGUF_U32, &l->u32, 4);
	if (l->kv_f32)
		put_kv(m, l->kv_f32, PLX_GGUF_F32, &l->f32, 4);
	if (l->kv_str)
		put_kv(m, l->kv_str, PLX_GGUF_STR, buf, str_value(l->str, buf));
	if (l->extra)
		put_tensor(m, l->extra, 0, 4, 0);
}

static void make_layer(struct gguf_make *m, int layer)
{
	static const struct {
		const char *stem;
		uint64_t d0, d1;
	} parts[] = {
	    {"attn_norm.weight", 32, 0},    {"attn_q.weight", 32, 32},
	    {"attn_k.weight", 32, 16},      {"attn_v.weight", 32, 16},
	    {"attn_output.weight", 32, 32}, {"ffn_norm.weight", 32, 0},
	    {"ffn_gate.weight", 32, 64},    {"ffn_up.weight", 32, 64},
	    {"ffn_down.weight", 64, 32},
	};

	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		char name[64];

		snprintf(name, sizeof name, "blk.%d.%s", layer, parts[i].stem);
		gguf_make_tensor(m, name, parts[i].d1 ? 8 : 0, parts[i].d0, parts[i].d1);
	}
}

void gguf_make_start(struct gguf_make *m, const struct gguf_lie *lie)
{
	gguf_make_init(m);
	m->lie = lie;
	gguf_make_str(m, "general.architecture", lie->arch ? lie->arch : "llama");
	gguf_make_u32(m, "llama.block_count", 2);
	gguf_make_u32(m, "llama.context_length", 128);
	gguf_make_u32(m, "llama.embedding_length", 32);
	gguf_make_u32(m, "llama.feed_forward_length", 64);
	gguf_make_u32(m, "llama.attention.head_count", 4);
	gguf_make_u32(m, "llama.attention.head_count_kv", 2);
	gguf_make_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	gguf_make_tensor(m, "token_embd.weight", 8, 32, 16);
	gguf_make_tensor(m, "output_norm.weight", 0, 32, 0);
	make_layer(m, 0);
	make_layer(m, 1);
	put_lies(m);
}

void gguf_make_llama(struct gguf_make *m, const struct gguf_lie *lie)
{
	gguf_make_start(m, lie);
	gguf_make_finish(m);
}
