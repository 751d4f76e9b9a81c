/*
 * The GGUF parser: one pass over header, metadata and tensor table with a cursor that can't leave
 * the file, then a check of the tensors' extents against each other and the file's end.
 *
 * Invariant: a size from the file is compared with the bytes that are left before it is added to
 * or multiplied with anything, so no sum or product here can overflow.
 */
#include "accel/model/gguf_file.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is read as it lies");

#define DAMAGED     "the file is truncated or damaged; fetch or convert it again"
#define SHOWN_BYTES 72 /* of a key or name in a message */

/* Where reading stands, and what a message should call it. */
struct cursor {
	const struct plx_gguf *g;
	uint64_t off;
	char what[SHOWN_BYTES + 32]; /* "key 'general.name'" */
	struct plx_diag *d;
};

static void cursor_at(struct cursor *c, const char *kind, struct plx_gguf_str name)
{
	char shown[SHOWN_BYTES];

	plx_gguf_printable(name, shown, sizeof shown);
	strcpy(c->what, kind);
	strcat(c->what, " '");
	strcat(c->what, shown);
	strcat(c->what, "'");
}

static uint64_t left(const struct cursor *c)
{
	return c->g->size - c->off;
}

static int damaged(const struct cursor *c, const char *what)
{
	plx_diag_set(c->d, PLX_E_FORMAT, "%s: byte %llu: %s: %s; " DAMAGED, c->g->name,
	             (unsigned long long)c->off, c->what, what);
	return PLX_E_FORMAT; /* said outright, for the compiler to see that it isn't 0 */
}

static int read_bytes(struct cursor *c, void *out, uint64_t n)
{
	if (n > left(c))
		return damaged(c, "the file ends in the middle of it");
	memcpy(out, c->g->base + c->off, n);
	c->off += n;
	return 0;
}

static int read_u32(struct cursor *c, uint32_t *out)
{
	return read_bytes(c, out, sizeof *out);
}

static int read_u64(struct cursor *c, uint64_t *out)
{
	return read_bytes(c, out, sizeof *out);
}

static int read_str(struct cursor *c, struct plx_gguf_str *out)
{
	int err = read_u64(c, &out->len);

	if (err)
		return err;
	if (out->len > left(c))
		return damaged(c, "a string is longer than the file");
	out->ptr = (const char *)c->g->base + c->off;
	c->off += out->len;
	return 0;
}

/* ---- metadata ------------------------------------------------------------------------------ */

static const uint8_t value_bytes[] = {
    [PLX_GGUF_U8] = 1,  [PLX_GGUF_I8] = 1,   [PLX_GGUF_U16] = 2, [PLX_GGUF_I16] = 2,
    [PLX_GGUF_U32] = 4, [PLX_GGUF_I32] = 4,  [PLX_GGUF_F32] = 4, [PLX_GGUF_BOOL] = 1,
    [PLX_GGUF_STR] = 8, [PLX_GGUF_ARR] = 12, [PLX_GGUF_U64] = 8, [PLX_GGUF_I64] = 8,
    [PLX_GGUF_F64] = 8, /* for strings and arrays: what the shortest one takes */
};

static int read_type(struct cursor *c, enum plx_gguf_type *out)
{
	uint32_t type;
	int err = read_u32(c, &type);

	if (err)
		return err;
	if (type > PLX_GGUF_F64) {
		c->off -= sizeof type;
		return damaged(c, "its type is not one the format has");
	}
	*out = (enum plx_gguf_type)type;
	return 0;
}

static int check_bools(struct cursor *c, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		if (c->g->base[c->off + i] > 1) {
			c->off += i;
			return damaged(c, "a bool is neither 0 nor 1");
		}
	}
	return 0;
}

static int skip_array(struct cursor *c, uint32_t depth);

/* Walk over n values of a type, checking that all of them are there. */
static int skip_values(struct cursor *c, enum plx_gguf_type type, uint64_t n, uint32_t depth)
{
	struct plx_gguf_str s;
	int err = 0;

	if (n > left(c) / value_bytes[type])
		return damaged(c, "it has more elements than the file has room for");
	if (type == PLX_GGUF_BOOL)
		err = check_bools(c, n);
	if (type != PLX_GGUF_STR && type != PLX_GGUF_ARR) {
		c->off += n * value_bytes[type];
		return err;
	}
	for (uint64_t i = 0; i < n && !err; i++)
		err = type == PLX_GGUF_STR ? read_str(c, &s) : skip_array(c, depth + 1);
	return err;
}

static int skip_array(struct cursor *c, uint32_t depth)
{
	enum plx_gguf_type elem;
	uint64_t n;
	int err;

	if (depth > PLX_GGUF_MAX_NESTING)
		return damaged(c, "arrays are nested deeper than 4");
	if ((err = read_type(c, &elem)) || (err = read_u64(c, &n)))
		return err;
	return skip_values(c, elem, n, depth);
}

static int read_value(struct cursor *c, struct plx_gguf_kv *kv)
{
	int err = read_type(c, &kv->type);

	if (err)
		return err;
	kv->elem = kv->type;
	kv->n = 1;
	if (kv->type == PLX_GGUF_ARR) {
		if ((err = read_type(c, &kv->elem)) || (err = read_u64(c, &kv->n)))
			return err;
	}
	uint64_t start = c->off;

	err = skip_values(c, kv->elem, kv->n, 1);
	kv->data = c->g->base + start;
	kv->data_bytes = c->off - start;
	return err;
}

static int read_kv(struct cursor *c, struct plx_gguf_kv *kv)
{
	int err;

	strcpy(c->what, "metadata key");
	if ((err = read_str(c, &kv->key)))
		return err;
	if (kv->key.len == 0 || kv->key.len > PLX_GGUF_MAX_KEY_BYTES)
		return damaged(c, "it has no name, or one of more than 65535 bytes");
	cursor_at(c, "metadata key", kv->key);
	return read_value(c, kv);
}

/* ---- tensor table -------------------------------------------------------------------------- */

/* Multiply the dimensions; false where the product does not fit 63 bits or is zero. */
static bool count_elems(struct plx_gguf_tensor *t)
{
	t->n_elem = 1;
	for (uint32_t i = 0; i < PLX_GGUF_MAX_DIMS; i++) {
		if (t->dim[i] == 0 || t->dim[i] > (uint64_t)INT64_MAX / t->n_elem)
			return false;
		t->n_elem *= t->dim[i];
	}
	return true;
}

static int read_shape(struct cursor *c, struct plx_gguf_tensor *t)
{
	int err;

	if ((err = read_u32(c, &t->n_dims)))
		return err;
	if (t->n_dims == 0 || t->n_dims > PLX_GGUF_MAX_DIMS)
		return damaged(c, "it has no or more than 4 dimensions");
	for (uint32_t i = 0; i < PLX_GGUF_MAX_DIMS; i++) {
		t->dim[i] = 1;
		if (i < t->n_dims && (err = read_u64(c, &t->dim[i])))
			return err;
	}
	if (!count_elems(t))
		return damaged(c, "a dimension is zero or their product overflows");
	return 0;
}

static int read_extent(struct cursor *c, struct plx_gguf_tensor *t)
{
	uint32_t elems;
	uint32_t bytes;
	int err;

	if ((err = read_u32(c, &t->type)))
		return err;
	if (!plx_gguf_tensor_type_size(t->type, &elems, &bytes))
		return plx_diag_set(c->d, PLX_E_UNSUPPORTED,
		                    "%s: byte %llu: %s: its type, number %u, is not known; convert "
		                    "the model to Q4_K, Q8_0 or another common type",
		                    c->g->name, (unsigned long long)c->off - 4, c->what, t->type);
	if (t->dim[0] % elems)
		return damaged(c, "its rows are no whole number of quantisation blocks");
	if (t->n_elem / elems > c->g->size / bytes)
		return damaged(c, "it is larger than the file");
	t->bytes = t->n_elem / elems * bytes;
	return read_u64(c, &t->file_off); /* relative still; made absolute by place_tensors */
}

static int read_tensor(struct cursor *c, struct plx_gguf_tensor *t)
{
	int err;

	strcpy(c->what, "tensor");
	if ((err = read_str(c, &t->name)))
		return err;
	if (t->name.len == 0 || t->name.len > PLX_GGUF_MAX_NAME_BYTES)
		return damaged(c, "it has no name, or one of more than 64 bytes");
	cursor_at(c, "tensor", t->name);
	if ((err = read_shape(c, t)))
		return err;
	return read_extent(c, t);
}

/* ---- sorted indices ------------------------------------------------------------------------ */

int plx_gguf_str_cmp(struct plx_gguf_str a, struct plx_gguf_str b)
{
	int r = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);

	return r ? r : (a.len > b.len) - (a.len < b.len);
}

static int kv_cmp(const void *a, const void *b, void *g)
{
	const struct plx_gguf_kv *kv = ((const struct plx_gguf *)g)->kv;

	return plx_gguf_str_cmp(kv[*(const uint32_t *)a].key, kv[*(const uint32_t *)b].key);
}

static int tensor_cmp(const void *a, const void *b, void *g)
{
	const struct plx_gguf_tensor *t = ((const struct plx_gguf *)g)->tensor;

	return plx_gguf_str_cmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static int tensor_off_cmp(const void *a, const void *b, void *g)
{
	const struct plx_gguf_tensor *t = ((const struct plx_gguf *)g)->tensor;
	uint64_t x = t[*(const uint32_t *)a].file_off;
	uint64_t y = t[*(const uint32_t *)b].file_off;

	return (x > y) - (x < y);
}

static void sort_by(struct plx_gguf *g, uint32_t *idx, uint32_t n,
                    int (*cmp)(const void *, const void *, void *))
{
	for (uint32_t i = 0; i < n; i++)
		idx[i] = i;
	qsort_r(idx, n, sizeof *idx, cmp, g);
}

static int said_twice(struct cursor *c, const char *kind, struct plx_gguf_str name)
{
	cursor_at(c, kind, name);
	return plx_diag_set(c->d, PLX_E_FORMAT, "%s: %s appears twice; " DAMAGED, c->g->name,
	                    c->what);
}

static int index_keys(struct cursor *c, struct plx_gguf *g)
{
	sort_by(g, g->kv_sorted, g->n_kv, kv_cmp);
	for (uint32_t i = 1; i < g->n_kv; i++) {
		if (kv_cmp(&g->kv_sorted[i - 1], &g->kv_sorted[i], g) == 0)
			return said_twice(c, "metadata key", g->kv[g->kv_sorted[i]].key);
	}
	return 0;
}

static int index_tensors(struct cursor *c, struct plx_gguf *g)
{
	sort_by(g, g->tensor_sorted, g->n_tensor, tensor_cmp);
	for (uint32_t i = 1; i < g->n_tensor; i++) {
		if (tensor_cmp(&g->tensor_sorted[i - 1], &g->tensor_sorted[i], g) == 0)
			return said_twice(c, "tensor", g->tensor[g->tensor_sorted[i]].name);
	}
	return 0;
}

/* ---- tensor data --------------------------------------------------------------------------- */

static int read_alignment(struct cursor *c, struct plx_gguf *g)
{
	int err = plx_gguf_get_u32_or(g, "general.alignment", 32, &g->alignment, c->d);

	if (err)
		return err;
	if (g->alignment < PLX_GGUF_MIN_ALIGN || g->alignment > PLX_GGUF_MAX_ALIGN ||
	    (g->alignment & (g->alignment - 1)))
		return plx_diag_set(c->d, PLX_E_FORMAT,
		                    "%s: metadata key 'general.alignment' is %u, not a power of "
		                    "two from 8 to 1048576; " DAMAGED,
		                    g->name, g->alignment);
	return 0;
}

static int place_tensor(struct cursor *c, struct plx_gguf *g, struct plx_gguf_tensor *t)
{
	uint64_t room = g->size > g->data_off ? g->size - g->data_off : 0;

	cursor_at(c, "tensor", t->name);
	if (t->file_off % g->alignment)
		return damaged(c, "its offset is not a multiple of general.alignment");
	if (t->file_off > room || t->bytes > room - t->file_off)
		return damaged(c, "its data ends behind the end of the file");
	t->file_off += g->data_off;
	t->data = g->base + t->file_off;
	return 0;
}

/* tensor_sorted serves as scratch for the order by offset before the names are indexed. */
static int check_overlap(struct cursor *c, struct plx_gguf *g)
{
	sort_by(g, g->tensor_sorted, g->n_tensor, tensor_off_cmp);
	for (uint32_t i = 1; i < g->n_tensor; i++) {
		const struct plx_gguf_tensor *a = &g->tensor[g->tensor_sorted[i - 1]];
		const struct plx_gguf_tensor *b = &g->tensor[g->tensor_sorted[i]];

		if (a->file_off + a->bytes > b->file_off) {
			cursor_at(c, "tensor", b->name);
			return damaged(c, "its data overlaps another tensor's");
		}
	}
	return 0;
}

static int place_tensors(struct cursor *c, struct plx_gguf *g)
{
	int err = read_alignment(c, g);

	g->head_bytes = c->off;
	if (err)
		return err;
	g->data_off = (c->off + g->alignment - 1) & ~((uint64_t)g->alignment - 1);
	for (uint32_t i = 0; i < g->n_tensor && !err; i++)
		err = place_tensor(c, g, &g->tensor[i]);
	return err ? err : check_overlap(c, g);
}

/* ---- opening ------------------------------------------------------------------------------- */

static int check_version(struct cursor *c, struct plx_gguf *g)
{
	int err = read_u32(c, &g->version);

	if (err)
		return err;
	if (g->version == 2 || g->version == 3)
		return 0;
	if (g->version != 0 && (g->version & 0xffffu) == 0)
		return plx_diag_set(c->d, PLX_E_UNSUPPORTED,
		                    "%s: the file is big-endian; convert it for little-endian",
		                    g->name);
	return plx_diag_set(c->d, PLX_E_UNSUPPORTED,
	                    "%s: GGUF version %u is not supported (2 and 3 are); convert the model "
	                    "again with a current converter",
	                    g->name, g->version);
}

/* One count of the header: within its limit, and with room in the file for that many entries. */
static int read_count(struct cursor *c, uint32_t max, uint64_t min_entry_bytes, uint32_t *out)
{
	uint64_t n;
	int err = read_u64(c, &n);

	if (err)
		return err;
	if (n > left(c) / min_entry_bytes)
		return damaged(c, "a count in it is larger than the file has room for");
	if (n > max)
		return plx_diag_set(c->d, PLX_E_LIMIT,
		                    "%s: byte %llu: the header counts %llu entries, over the limit "
		                    "of %u; this is no model this program can run",
		                    c->g->name, (unsigned long long)c->off - 8,
		                    (unsigned long long)n, max);
	*out = (uint32_t)n;
	return 0;
}

static int read_header(struct cursor *c, struct plx_gguf *g)
{
	char magic[4];
	int err;

	strcpy(c->what, "header");
	if ((err = read_bytes(c, magic, sizeof magic)))
		return err;
	if (memcmp(magic, "GGUF", 4) != 0)
		return plx_diag_set(
		    c->d, PLX_E_FORMAT,
		    "%s: this is no GGUF file (it does not start with 'GGUF'); give "
		    "the path of a model in GGUF format",
		    g->name);
	if ((err = check_version(c, g)))
		return err;
	/* Least sizes: name 8 + 1, n_dims 4, dim 8, type 4, offset 8; key 8 + 1, type 4, value 1.
	 */
	if ((err = read_count(c, PLX_GGUF_MAX_TENSOR, 33, &g->n_tensor)))
		return err;
	return read_count(c, PLX_GGUF_MAX_KV, 14, &g->n_kv);
}

static int alloc_tables(struct plx_gguf *g, struct plx_diag *d)
{
	/* One more than needed, so that an empty table is no NULL. */
	g->kv = calloc(g->n_kv + 1u, sizeof *g->kv);
	g->kv_sorted = calloc(g->n_kv + 1u, sizeof *g->kv_sorted);
	g->tensor = calloc(g->n_tensor + 1u, sizeof *g->tensor);
	g->tensor_sorted = calloc(g->n_tensor + 1u, sizeof *g->tensor_sorted);
	if (!g->kv || !g->kv_sorted || !g->tensor || !g->tensor_sorted)
		return plx_diag_set(d, PLX_E_NOMEM,
		                    "%s: no memory for its tables; free some memory", g->name);
	return 0;
}

int plx_gguf_parse(struct plx_gguf *g, struct plx_diag *d)
{
	struct cursor c = {.g = g, .d = d};
	int err;

	if ((err = read_header(&c, g)) || (err = alloc_tables(g, d)))
		return err;
	for (uint32_t i = 0; i < g->n_kv; i++) {
		if ((err = read_kv(&c, &g->kv[i])))
			return err;
	}
	if ((err = index_keys(&c, g)))
		return err;
	for (uint32_t i = 0; i < g->n_tensor; i++) {
		if ((err = read_tensor(&c, &g->tensor[i])))
			return err;
	}
	if ((err = place_tensors(&c, g)))
		return err;
	return index_tensors(&c, g);
}
