/* Metadata and table gather in memory, since the header counts them; data goes straight out. */
#include "tests/mkmodel/write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "kernels/quant.h"

#define ALIGN 32u

struct mem {
	uint8_t *p;
	size_t n, room;
};

struct mk_file {
	FILE *out;
	char path[4096], part[4096];
	struct mem kv, table;
	uint64_t n_kv, n_tensor;
	uint64_t *bytes; /* [n_tensor] of each tensor */
	uint64_t next_off;
	uint64_t n_ended, n_written; /* tensors ended; bytes of the one at hand */
};

static void fail(const struct mk_file *f)
{
	perror(f->part);
	remove(f->part);
	exit(1);
}

static void put(struct mem *m, const void *p, size_t n)
{
	if (n > m->room - m->n) {
		m->room = 2 * (m->room + n);
		m->p = realloc(m->p, m->room);
		PLX_CHECK(m->p != NULL);
	}
	memcpy(m->p + m->n, p, n);
	m->n += n;
}

static void put_u32(struct mem *m, uint32_t v)
{
	put(m, &v, sizeof v);
}

static void put_u64(struct mem *m, uint64_t v)
{
	put(m, &v, sizeof v);
}

static void put_str(struct mem *m, struct plx_gguf_str s)
{
	put_u64(m, s.len);
	put(m, s.ptr, s.len);
}

static void out(struct mk_file *f, const void *p, size_t n)
{
	if (fwrite(p, 1, n, f->out) != n)
		fail(f);
}

static void pad(struct mk_file *f, uint64_t n)
{
	static const uint8_t zero[ALIGN];

	out(f, zero, (ALIGN - n % ALIGN) % ALIGN);
}

struct mk_file *mk_open(const char *path)
{
	struct mk_file *f = calloc(1, sizeof *f);

	PLX_CHECK(f != NULL);
	PLX_CHECK(snprintf(f->path, sizeof f->path, "%s", path) < (int)sizeof f->path);
	PLX_CHECK(snprintf(f->part, sizeof f->part, "%s.part", path) < (int)sizeof f->part);
	f->out = fopen(f->part, "wb");
	if (f->out == NULL)
		fail(f);
	return f;
}

struct plx_gguf_str mk_name(const char *name)
{
	return (struct plx_gguf_str){.ptr = name, .len = strlen(name)};
}

static void key(struct mk_file *f, struct plx_gguf_str name, uint32_t type)
{
	put_str(&f->kv, name);
	put_u32(&f->kv, type);
	f->n_kv++;
}

static void array(struct mk_file *f, const struct plx_gguf_kv *kv, uint64_t n)
{
	key(f, kv->key, PLX_GGUF_ARR);
	put_u32(&f->kv, kv->elem);
	put_u64(&f->kv, n);
	put(&f->kv, kv->data, kv->data_bytes);
}

void mk_kv(struct mk_file *f, const struct plx_gguf_kv *kv)
{
	if (kv->type == PLX_GGUF_ARR) {
		array(f, kv, kv->n);
		return;
	}
	key(f, kv->key, kv->type);
	put(&f->kv, kv->data, kv->data_bytes);
}

void mk_kv_strs(struct mk_file *f, const struct plx_gguf_kv *kv, uint32_t n, const char *name)
{
	PLX_CHECK(kv->type == PLX_GGUF_ARR && kv->elem == PLX_GGUF_STR && n >= kv->n);
	array(f, kv, n);
	for (uint32_t i = (uint32_t)kv->n; i < n; i++) {
		char text[64];
		const char *at = strstr(name, "%u");

		PLX_CHECK(at != NULL);
		snprintf(text, sizeof text, "%.*s%u%s", (int)(at - name), name, i, at + 2);
		put_str(&f->kv, mk_name(text));
	}
}

void mk_kv_i32s(struct mk_file *f, const struct plx_gguf_kv *kv, uint32_t n, int32_t value)
{
	PLX_CHECK(kv->type == PLX_GGUF_ARR && kv->elem == PLX_GGUF_I32 && n >= kv->n);
	array(f, kv, n);
	for (uint32_t i = (uint32_t)kv->n; i < n; i++)
		put(&f->kv, &value, sizeof value);
}

void mk_u32(struct mk_file *f, const char *name, uint32_t v)
{
	key(f, mk_name(name), PLX_GGUF_U32);
	put_u32(&f->kv, v);
}

void mk_f32(struct mk_file *f, const char *name, float v)
{
	key(f, mk_name(name), PLX_GGUF_F32);
	put(&f->kv, &v, sizeof v);
}

void mk_str(struct mk_file *f, const char *name, const char *v)
{
	key(f, mk_name(name), PLX_GGUF_STR);
	put_str(&f->kv, mk_name(v));
}

void mk_tensor(struct mk_file *f, struct plx_gguf_str name, uint32_t type, uint64_t d0, uint64_t d1)
{
	uint64_t bytes = 0;

	PLX_CHECK(plx_q_matrix_bytes(type, d0, d1 ? d1 : 1, &bytes) == 0);
	f->bytes = realloc(f->bytes, (f->n_tensor + 1) * sizeof *f->bytes);
	PLX_CHECK(f->bytes != NULL);
	f->bytes[f->n_tensor++] = bytes;
	put_str(&f->table, name);
	put_u32(&f->table, d1 ? 2 : 1);
	put_u64(&f->table, d0);
	if (d1 > 0)
		put_u64(&f->table, d1);
	put_u32(&f->table, type);
	put_u64(&f->table, f->next_off);
	f->next_off += (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

void mk_head(struct mk_file *f)
{
	struct mem head = {0};

	put(&head, "GGUF", 4);
	put_u32(&head, 3);
	put_u64(&head, f->n_tensor);
	put_u64(&head, f->n_kv);
	out(f, head.p, head.n);
	out(f, f->kv.p, f->kv.n);
	out(f, f->table.p, f->table.n);
	pad(f, head.n + f->kv.n + f->table.n);
	free(head.p);
}

void mk_data(struct mk_file *f, const void *p, size_t n)
{
	out(f, p, n);
	f->n_written += n;
}

void mk_tensor_end(struct mk_file *f)
{
	PLX_CHECK(f->n_ended < f->n_tensor && f->n_written == f->bytes[f->n_ended]);
	pad(f, f->n_written);
	f->n_written = 0;
	f->n_ended++;
}

void mk_close(struct mk_file *f)
{
	PLX_CHECK(f->n_ended == f->n_tensor);
	if (fclose(f->out) != 0 || rename(f->part, f->path) != 0)
		fail(f);
	free(f->kv.p);
	free(f->table.p);
	free(f->bytes);
	free(f);
}
