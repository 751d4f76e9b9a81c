/* Metadata and table gather in memory, since the header counts them. */
#include "tools/gguf/write.h"

#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"
#include "kernels/quant.h"

void plx_gw_free(struct plx_gw *w)
{
	free(w->kv.p);
	free(w->table.p);
	free(w->head.p);
	free(w->place);
	*w = (struct plx_gw){0};
}

static void put(struct plx_gw *w, struct plx_gw_mem *m, const void *p, size_t n)
{
	if (w->nomem)
		return;
	if (n > m->room - m->n) {
		size_t room = 2 * (m->room + n) + 64;
		uint8_t *q = realloc(m->p, room);

		if (!q) {
			w->nomem = true;
			return;
		}
		m->p = q;
		m->room = room;
	}
	if (n > 0)
		memcpy(m->p + m->n, p, n);
	m->n += n;
}

static void put_u32(struct plx_gw *w, struct plx_gw_mem *m, uint32_t v)
{
	put(w, m, &v, sizeof v);
}

static void put_u64(struct plx_gw *w, struct plx_gw_mem *m, uint64_t v)
{
	put(w, m, &v, sizeof v);
}

static void put_str(struct plx_gw *w, struct plx_gw_mem *m, struct plx_gguf_str s)
{
	put_u64(w, m, s.len);
	put(w, m, s.ptr, s.len);
}

struct plx_gguf_str plx_gw_name(const char *text)
{
	return (struct plx_gguf_str){.ptr = text, .len = strlen(text)};
}

/* ---- metadata -------------------------------------------------------------------------------- */

static void begin(struct plx_gw *w, struct plx_gguf_str key, uint32_t type)
{
	put_str(w, &w->kv, key);
	put_u32(w, &w->kv, type);
	w->n_kv++;
}

void plx_gw_arr(struct plx_gw *w, struct plx_gguf_str key, enum plx_gguf_type elem, uint64_t n)
{
	begin(w, key, PLX_GGUF_ARR);
	put_u32(w, &w->kv, elem);
	put_u64(w, &w->kv, n);
}

void plx_gw_elems(struct plx_gw *w, const struct plx_gguf_kv *kv)
{
	put(w, &w->kv, kv->data, kv->data_bytes);
}

void plx_gw_kv(struct plx_gw *w, const struct plx_gguf_kv *kv)
{
	if (kv->type == PLX_GGUF_ARR)
		plx_gw_arr(w, kv->key, kv->elem, kv->n);
	else
		begin(w, kv->key, kv->type);
	plx_gw_elems(w, kv);
}

void plx_gw_u32(struct plx_gw *w, const char *key, uint32_t v)
{
	begin(w, plx_gw_name(key), PLX_GGUF_U32);
	put_u32(w, &w->kv, v);
}

void plx_gw_f32(struct plx_gw *w, const char *key, float v)
{
	begin(w, plx_gw_name(key), PLX_GGUF_F32);
	put(w, &w->kv, &v, sizeof v);
}

void plx_gw_bool(struct plx_gw *w, const char *key, bool v)
{
	uint8_t byte = v;

	begin(w, plx_gw_name(key), PLX_GGUF_BOOL);
	put(w, &w->kv, &byte, sizeof byte);
}

void plx_gw_str(struct plx_gw *w, const char *key, struct plx_gguf_str v)
{
	begin(w, plx_gw_name(key), PLX_GGUF_STR);
	put_str(w, &w->kv, v);
}

void plx_gw_elem_str(struct plx_gw *w, struct plx_gguf_str v)
{
	put_str(w, &w->kv, v);
}

void plx_gw_elem_i32(struct plx_gw *w, int32_t v)
{
	put(w, &w->kv, &v, sizeof v);
}

void plx_gw_elem_bool(struct plx_gw *w, bool v)
{
	uint8_t byte = v;

	put(w, &w->kv, &byte, sizeof byte);
}

void plx_gw_elem_f32(struct plx_gw *w, float v)
{
	put(w, &w->kv, &v, sizeof v);
}

/* ---- tensors --------------------------------------------------------------------------------- */

static uint64_t aligned(uint64_t n)
{
	return (n + PLX_GW_ALIGN - 1) / PLX_GW_ALIGN * PLX_GW_ALIGN;
}

void plx_gw_tensor(struct plx_gw *w, struct plx_gguf_str name, uint32_t type, uint32_t n_dims,
                   const uint64_t *dim)
{
	uint32_t elems = 1, size = 0;
	uint64_t n = 1;

	PLX_CHECK(plx_gguf_tensor_type_size(type, &elems, &size) && dim[0] % elems == 0);
	put_str(w, &w->table, name);
	put_u32(w, &w->table, n_dims);
	for (uint32_t i = 0; i < n_dims; i++) {
		put_u64(w, &w->table, dim[i]);
		n *= dim[i];
	}
	put_u32(w, &w->table, type);
	put_u64(w, &w->table, w->next_off);
	struct plx_gw_place *place =
	    w->nomem ? NULL : realloc(w->place, (w->n_tensor + 1) * sizeof *place);

	if (!place) {
		w->nomem = true;
		return;
	}
	w->place = place;
	place[w->n_tensor++] = (struct plx_gw_place){.off = w->next_off, .bytes = n / elems * size};
	w->next_off = aligned(w->next_off + n / elems * size);
}

int plx_gw_finish(struct plx_gw *w, struct plx_diag *d)
{
	static const uint8_t zero[PLX_GW_ALIGN];
	struct plx_gw_mem *h = &w->head;

	put(w, h, "GGUF", 4);
	put_u32(w, h, 3);
	put_u64(w, h, w->n_tensor);
	put_u64(w, h, w->n_kv);
	put(w, h, w->kv.p, w->kv.n);
	put(w, h, w->table.p, w->table.n);
	put(w, h, zero, aligned(h->n) - h->n);
	if (w->nomem)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for the file's metadata; free some");
	for (uint32_t i = 0; i < w->n_tensor; i++)
		w->place[i].off += h->n;
	w->file_bytes = h->n + w->next_off;
	return 0;
}
