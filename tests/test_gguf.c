/* The GGUF reader: files another program wrote, and every kind of lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accel/model/gguf.h"
#include "fw/base/err.h"
#include "kernels/quant.h"
#include "tests/lib/gguf_make.h"

static struct plx_gguf *open_golden(const char *path)
{
	struct plx_diag d = {0};
	struct plx_gguf *g;

	if (plx_gguf_open(path, &g, &d) != 0)
		fail_msg("%s", d.text);
	return g;
}

/* Open a copy in memory of exactly its size, so that a read past its end is seen. */
static int open_copy(const uint8_t *p, size_t n, struct plx_diag *d)
{
	uint8_t *copy = malloc(n ? n : 1);
	struct plx_gguf *g;
	int err;

	assert_non_null(copy);
	memcpy(copy, p, n);
	err = plx_gguf_open_mem(copy, n, &g, d);
	if (!err)
		plx_gguf_close(g);
	else
		assert_null(g);
	free(copy);
	return err;
}

static void check_lie(struct gguf_make *m, int want_err, const char *want_text)
{
	struct plx_diag d = {0};
	int err = open_copy(m->file.p, m->file.n, &d);

	if (err != want_err || !strstr(d.text, want_text))
		fail_msg("got %d '%s', want %d '%s'", err, d.text, want_err, want_text);
	assert_non_null(strstr(d.text, "(memory): "));
	gguf_make_free(m);
}

/* ---- files another program wrote ----------------------------------------------------------- */

static json_t *load_description(void)
{
	json_t *j = json_load_file("tests/golden/gguf/types.json", 0, NULL);

	if (!j)
		fail_msg("tests/golden/gguf/types.json: run from the repository's root");
	return j;
}

static int64_t num(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static void check_keys(const struct plx_gguf *g, const json_t *keys)
{
	size_t i;
	json_t *k;

	assert_int_equal(plx_gguf_n_kv(g), json_array_size(keys));
	json_array_foreach(keys, i, k)
	{
		const char *name = json_string_value(json_object_get(k, "key"));
		const struct plx_gguf_kv *kv = plx_gguf_find(g, name);

		assert_non_null(kv);
		assert_ptr_equal(kv, plx_gguf_kv_at(g, (uint32_t)i));
		assert_int_equal(kv->type, num(k, "type"));
		assert_int_equal(kv->elem, num(k, "elem"));
		if (!json_is_null(json_object_get(k, "n")))
			assert_int_equal(kv->n, num(k, "n"));
	}
}

static void check_tensor(const struct plx_gguf *g, const json_t *t)
{
	const struct plx_gguf_tensor *got =
	    plx_gguf_tensor_find(g, json_string_value(json_object_get(t, "name")));
	const json_t *shape = json_object_get(t, "shape");
	char head[17];

	assert_non_null(got);
	assert_int_equal(got->type, num(t, "type"));
	assert_string_equal(plx_gguf_tensor_type_name(got->type),
	                    json_string_value(json_object_get(t, "type_name")));
	assert_int_equal(got->n_dims, json_array_size(shape));
	for (uint32_t i = 0; i < PLX_GGUF_MAX_DIMS; i++) {
		const json_t *dim = json_array_get(shape, i);

		assert_int_equal(got->dim[i], dim ? json_integer_value(dim) : 1);
	}
	assert_int_equal(got->n_elem, num(t, "n_elem"));
	assert_int_equal(got->bytes, num(t, "bytes"));
	assert_int_equal(got->file_off, num(t, "offset"));
	for (uint32_t i = 0; i < 8 && i < got->bytes; i++)
		snprintf(head + 2 * i, 3, "%02x", got->data[i]);
	assert_string_equal(head, json_string_value(json_object_get(t, "head")));
}

static void check_golden(const char *path, uint32_t version)
{
	struct plx_gguf *g = open_golden(path);
	json_t *j = load_description();
	const json_t *tensors = json_object_get(j, "tensors");
	size_t i;
	json_t *t;

	assert_int_equal(plx_gguf_version(g), version);
	assert_int_equal(plx_gguf_alignment(g), num(j, "alignment"));
	check_keys(g, json_object_get(j, "keys"));
	assert_int_equal(plx_gguf_n_tensor(g), json_array_size(tensors));
	json_array_foreach(tensors, i, t) check_tensor(g, t);
	json_decref(j);
	plx_gguf_close(g);
}

static void test_gguf_goldens(void **state)
{
	(void)state;
	check_golden("tests/golden/gguf/types-v3.gguf", 3);
	check_golden("tests/golden/gguf/types-v2.gguf", 2);
}

static void test_gguf_integers(void **state)
{
	struct plx_gguf *g = open_golden("tests/golden/gguf/types-v3.gguf");
	uint32_t u = 5;

	(void)state;
	assert_int_equal(plx_gguf_get_u32(g, "test.u8", &u, NULL), 0);
	assert_int_equal(u, 200);
	assert_int_equal(plx_gguf_get_u32(g, "test.u16", &u, NULL), 0);
	assert_int_equal(u, 60000);
	assert_int_equal(plx_gguf_get_u32(g, "test.u32", &u, NULL), 0);
	assert_int_equal(u, 4000000000);
	assert_int_equal(plx_gguf_get_u32(g, "test.i64_small", &u, NULL), 0);
	assert_int_equal(u, 77);
	assert_int_equal(plx_gguf_get_u32(g, "test.i8", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.i16", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.i32", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.i64", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.u64", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.f32", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.str", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.arr_i32", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_u32(g, "test.bool_true", &u, NULL), PLX_E_FORMAT);
	assert_int_equal(u, 77);
	plx_gguf_close(g);
}

static void test_gguf_floats_bools_strings(void **state)
{
	struct plx_gguf *g = open_golden("tests/golden/gguf/types-v3.gguf");
	struct plx_gguf_str s;
	struct plx_diag d = {0};
	float f = 0;
	bool b = false;

	(void)state;
	assert_int_equal(plx_gguf_get_f32(g, "test.f32", &f, NULL), 0);
	assert_true(f == 0.15625f);
	assert_int_equal(plx_gguf_get_f32(g, "test.f64_small", &f, NULL), 0);
	assert_true(f == -0.5f);
	assert_int_equal(plx_gguf_get_f32(g, "test.f64", &f, &d), PLX_E_FORMAT);
	assert_non_null(strstr(d.text, "'test.f64' is not a finite f32"));
	assert_int_equal(plx_gguf_get_f32(g, "test.u8", &f, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_bool(g, "test.bool_true", &b, NULL), 0);
	assert_true(b);
	assert_int_equal(plx_gguf_get_bool(g, "test.bool_false", &b, NULL), 0);
	assert_false(b);
	assert_int_equal(plx_gguf_get_bool(g, "test.u8", &b, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_str(g, "test.str", &s, NULL), 0);
	assert_int_equal(s.len, 15);
	assert_memory_equal(s.ptr, "h\xc3\xa9llo \xe4\xb8\x96\xe7\x95\x8c\0\n", 15);
	assert_int_equal(plx_gguf_get_str(g, "test.str_empty", &s, NULL), 0);
	assert_int_equal(s.len, 0);
	assert_int_equal(plx_gguf_get_str(g, "test.u8", &s, NULL), PLX_E_FORMAT);
	plx_gguf_close(g);
}

static void test_gguf_arrays(void **state)
{
	struct plx_gguf *g = open_golden("tests/golden/gguf/types-v3.gguf");
	const struct plx_gguf_kv *kv;
	struct plx_gguf_iter it;
	struct plx_gguf_str s;

	(void)state;
	assert_int_equal(plx_gguf_get_arr(g, "test.arr_i32", PLX_GGUF_I32, &kv, NULL), 0);
	assert_int_equal(kv->n, 3);
	assert_int_equal(plx_gguf_arr_i32(kv, 0), 1);
	assert_int_equal(plx_gguf_arr_i32(kv, 1), -2);
	assert_int_equal(plx_gguf_arr_i32(kv, 2), 3);
	assert_int_equal(plx_gguf_get_arr(g, "test.arr_f32", PLX_GGUF_F32, &kv, NULL), 0);
	assert_true(plx_gguf_arr_f32(kv, 1) == -0.25f);
	assert_int_equal(plx_gguf_get_arr(g, "test.arr_str", PLX_GGUF_STR, &kv, NULL), 0);
	it = plx_gguf_strs(kv);
	assert_true(plx_gguf_next(&it, &s));
	assert_true(plx_gguf_str_is(s, "a"));
	assert_false(plx_gguf_str_is(s, "ab"));
	assert_true(plx_gguf_next(&it, &s));
	assert_int_equal(s.len, 0);
	assert_true(plx_gguf_next(&it, &s));
	assert_int_equal(s.len, 4);
	assert_memory_equal(s.ptr, "\xc3\xbc\0b", 4);
	assert_true(plx_gguf_next(&it, &s));
	assert_int_equal(s.len, 100);
	assert_false(plx_gguf_next(&it, &s));
	assert_int_equal(plx_gguf_get_arr(g, "test.arr_nested", PLX_GGUF_ARR, &kv, NULL), 0);
	assert_int_equal(kv->n, 2);
	assert_int_equal(plx_gguf_get_arr(g, "test.arr_str", PLX_GGUF_I32, &kv, NULL),
	                 PLX_E_FORMAT);
	assert_int_equal(plx_gguf_get_arr(g, "test.u8", PLX_GGUF_U8, &kv, NULL), PLX_E_FORMAT);
	plx_gguf_close(g);
}

static void test_gguf_absent(void **state)
{
	struct plx_gguf *g = open_golden("tests/golden/gguf/types-v3.gguf");
	struct plx_diag d = {0};
	uint32_t u = 1;
	float f = 1;
	bool b = false;

	(void)state;
	assert_null(plx_gguf_find(g, "test."));
	assert_null(plx_gguf_find(g, ""));
	assert_null(plx_gguf_find(g, "zzz"));
	assert_null(plx_gguf_tensor_find(g, "t.F32"));
	assert_int_equal(plx_gguf_get_u32(g, "no.such", &u, &d), PLX_E_NOT_FOUND);
	assert_non_null(strstr(d.text, "types-v3.gguf: metadata key 'no.such' is missing"));
	assert_int_equal(plx_gguf_get_u32_or(g, "no.such", 7, &u, NULL), 0);
	assert_int_equal(u, 7);
	assert_int_equal(plx_gguf_get_f32_or(g, "no.such", 0.5f, &f, NULL), 0);
	assert_true(f == 0.5f);
	assert_int_equal(plx_gguf_get_bool_or(g, "no.such", true, &b, NULL), 0);
	assert_true(b);
	/* A key of the wrong type is an error, default or not. */
	assert_int_equal(plx_gguf_get_u32_or(g, "test.str", 7, &u, NULL), PLX_E_FORMAT);
	plx_gguf_close(g);
}

/* Two lists of block sizes stand in this repository: the reader's and the kernels'. */
static void test_gguf_types_match_kernels(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		uint32_t type = plx_qtype_at(i);
		uint32_t elems = 0;
		uint32_t bytes = 0;

		assert_true(plx_gguf_tensor_type_size(type, &elems, &bytes));
		assert_int_equal(elems, plx_qtype_block_elems(type));
		assert_int_equal(bytes, plx_qtype_block_bytes(type));
		assert_string_equal(plx_gguf_tensor_type_name(type), plx_qtype_name(type));
	}
}

/* ---- files on disk ------------------------------------------------------------------------- */

static void test_gguf_paths(void **state)
{
	char dir[] = "/tmp/plx-test-gguf-XXXXXX";
	char path[64];
	struct plx_diag d = {0};
	struct plx_gguf *g;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(plx_gguf_open(dir, &g, &d), PLX_E_IO);
	assert_non_null(strstr(d.text, "no regular file"));
	snprintf(path, sizeof path, "%s/x", dir);
	d.text[0] = '\0';
	assert_int_equal(plx_gguf_open(path, &g, &d), PLX_E_NOT_FOUND);
	assert_non_null(strstr(d.text, "No such file"));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(plx_gguf_open(path, &g, NULL), PLX_E_IO);
	unlink(path);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fclose(f);
	d.text[0] = '\0';
	assert_int_equal(plx_gguf_open(path, &g, &d), PLX_E_FORMAT);
	assert_non_null(strstr(d.text, "the file is empty"));
	unlink(path);
	rmdir(dir);
	plx_gguf_close(NULL);
}

/* ---- lies ---------------------------------------------------------------------------------- */

/* A small honest file: two keys, two tensors. */
static void make_small(struct gguf_make *m)
{
	gguf_make_init(m);
	gguf_make_str(m, "general.architecture", "llama");
	gguf_make_u32(m, "a.b", 3);
	gguf_make_tensor(m, "one", 0, 8, 2);
	gguf_make_tensor(m, "two", 8, 32, 16);
}

static void test_gguf_small_is_good(void **state)
{
	struct gguf_make m;

	(void)state;
	make_small(&m);
	gguf_make_finish(&m);
	assert_int_equal(open_copy(m.file.p, m.file.n, NULL), 0);
	gguf_make_free(&m);
}

static void test_gguf_truncated_anywhere(void **state)
{
	struct gguf_make m;

	(void)state;
	make_small(&m);
	gguf_make_finish(&m);
	for (size_t n = 0; n < m.file.n; n++) {
		struct plx_diag d = {0};

		assert_int_equal(open_copy(m.file.p, n, &d), PLX_E_FORMAT);
		assert_true(d.text[0] != '\0');
	}
	gguf_make_free(&m);
}

static void test_gguf_any_byte_changed(void **state)
{
	static const uint8_t masks[] = {0x01, 0x80, 0xff};
	struct gguf_make m;

	(void)state;
	make_small(&m);
	gguf_make_finish(&m);
	for (size_t i = 0; i < m.file.n - 64; i++) {
		for (size_t k = 0; k < sizeof masks; k++) {
			m.file.p[i] ^= masks[k];
			open_copy(m.file.p, m.file.n, NULL); /* either is right; ASan watches */
			m.file.p[i] ^= masks[k];
		}
	}
	gguf_make_free(&m);
}

static void test_gguf_header_lies(void **state)
{
	static const struct {
		size_t off;
		uint64_t value;
		int err;
		const char *text;
	} lies[] = {
	    {0, 0x0000000346474747u, PLX_E_FORMAT, "this is no GGUF file"},
	    {4, 1, PLX_E_UNSUPPORTED, "GGUF version"},
	    {4, 4, PLX_E_UNSUPPORTED, "GGUF version"},
	    {4, 0x03000000, PLX_E_UNSUPPORTED, "big-endian"},
	    {8, UINT64_MAX, PLX_E_FORMAT, "byte 16: header: a count in it is larger"},
	    {8, UINT64_C(1) << 60, PLX_E_FORMAT, "a count in it is larger"},
	    {8, 3, PLX_E_FORMAT, "tensor"},
	    {16, UINT64_MAX, PLX_E_FORMAT, "byte 24: header: a count in it is larger"},
	    {16, 1, PLX_E_FORMAT, "tensor"},
	    {24, UINT64_MAX, PLX_E_FORMAT, "byte 32: metadata key: a string is longer"},
	    {24, 0, PLX_E_FORMAT, "it has no name"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		struct gguf_make m;

		make_small(&m);
		gguf_make_finish(&m);
		memcpy(m.file.p + lies[i].off, &lies[i].value, lies[i].off == 4 ? 4 : 8);
		check_lie(&m, lies[i].err, lies[i].text);
	}
}

/* One key whose type and bytes are given. */
static void check_value(uint32_t type, const void *p, size_t n, const char *text)
{
	struct gguf_make m;

	gguf_make_init(&m);
	gguf_make_raw(&m, "bad.key", type, p, n);
	gguf_make_finish(&m);
	check_lie(&m, PLX_E_FORMAT, text);
}

static void test_gguf_value_lies(void **state)
{
	static const uint64_t huge_str[] = {UINT64_MAX - 4, 0};
	struct {
		uint32_t elem;
		uint64_t n;
		uint64_t pad[2];
	} __attribute__((packed)) arr = {.elem = PLX_GGUF_U64, .n = UINT64_MAX};

	(void)state;
	check_value(13, "\0\0\0\0", 4, "'bad.key': its type is not one the format has");
	check_value(UINT32_MAX, "\0\0\0\0", 4, "its type is not one the format has");
	check_value(PLX_GGUF_BOOL, "\2", 1, "'bad.key': a bool is neither 0 nor 1");
	check_value(PLX_GGUF_STR, huge_str, 16, "'bad.key': a string is longer than the file");
	check_value(PLX_GGUF_ARR, &arr, sizeof arr, "'bad.key': it has more elements");
	arr.n = (UINT64_MAX / 8) + 2; /* times 8 overflows to 8 */
	check_value(PLX_GGUF_ARR, &arr, sizeof arr, "it has more elements");
	arr.elem = PLX_GGUF_STR;
	arr.n = 2;
	arr.pad[0] = UINT64_MAX - 7;
	check_value(PLX_GGUF_ARR, &arr, sizeof arr, "a string is longer than the file");
	arr.elem = 99;
	check_value(PLX_GGUF_ARR, &arr, sizeof arr, "its type is not one the format has");
	arr.elem = PLX_GGUF_BOOL;
	arr.n = 16;
	memset(arr.pad, 1, 16);
	((uint8_t *)arr.pad)[9] = 7;
	check_value(PLX_GGUF_ARR, &arr, sizeof arr, "a bool is neither 0 nor 1");
}

static void test_gguf_nesting_limit(void **state)
{
	uint8_t buf[12 * 6 + 8] = {0};

	(void)state;
	for (int i = 0; i < 6; i++) {
		buf[12 * i] = PLX_GGUF_ARR;
		buf[12 * i + 4] = 1;
	}
	check_value(PLX_GGUF_ARR, buf, sizeof buf, "arrays are nested deeper than 4");
}

static void test_gguf_duplicates(void **state)
{
	struct gguf_make m;

	(void)state;
	make_small(&m);
	gguf_make_u32(&m, "a.b", 4);
	gguf_make_finish(&m);
	check_lie(&m, PLX_E_FORMAT, "metadata key 'a.b' appears twice");
	make_small(&m);
	gguf_make_tensor(&m, "one", 0, 8, 0);
	gguf_make_finish(&m);
	check_lie(&m, PLX_E_FORMAT, "tensor 'one' appears twice");
}

static void test_gguf_alignment_lies(void **state)
{
	static const uint32_t bad[] = {0, 1, 4, 24, 33, 2097152, UINT32_MAX};
	struct gguf_make m;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		gguf_make_init(&m);
		gguf_make_u32(&m, "general.alignment", bad[i]);
		gguf_make_finish(&m);
		check_lie(&m, PLX_E_FORMAT, "'general.alignment' is");
	}
	gguf_make_init(&m);
	gguf_make_str(&m, "general.alignment", "32");
	gguf_make_finish(&m);
	check_lie(&m, PLX_E_FORMAT, "'general.alignment' is of type string");
}

/* A file of one tensor whose table entry is given whole. */
struct entry {
	const char *name;
	uint32_t n_dims;
	uint64_t dim[5];
	uint32_t type;
	uint64_t off;
};

static void make_entry(struct gguf_make *m, const struct entry *e)
{
	gguf_make_init(m);
	gguf_put_str(&m->info, e->name);
	gguf_put_u32(&m->info, e->n_dims);
	for (uint32_t i = 0; i < e->n_dims && i < 5; i++)
		gguf_put_u64(&m->info, e->dim[i]);
	gguf_put_u32(&m->info, e->type);
	gguf_put_u64(&m->info, e->off);
	m->n_tensor = 1;
	m->data_bytes = 4096;
	gguf_make_finish(m);
}

static void test_gguf_tensor_lies(void **state)
{
	static const char name65[] =
	    "0123456789012345678901234567890123456789012345678901234567890123x";
	static const struct {
		struct entry e;
		int err;
		const char *text;
	} lies[] = {
	    {{"t", 0, {0}, 0, 0}, PLX_E_FORMAT, "'t': it has no or more than 4 dimensions"},
	    {{"t", 5, {1, 1, 1, 1, 1}, 0, 0}, PLX_E_FORMAT, "no or more than 4 dimensions"},
	    {{"t", UINT32_MAX, {1}, 0, 0}, PLX_E_FORMAT, "no or more than 4 dimensions"},
	    {{"t", 2, {8, 0}, 0, 0}, PLX_E_FORMAT, "a dimension is zero"},
	    {{"t", 1, {0}, 0, 0}, PLX_E_FORMAT, "a dimension is zero"},
	    {{"t", 2, {UINT64_C(1) << 32, UINT64_C(1) << 32}, 0, 0},
	     PLX_E_FORMAT,
	     "their product overflows"},
	    {{"t", 4, {65536, 65536, 65536, 65536}, 0, 0}, PLX_E_FORMAT, "product overflows"},
	    {{"t", 1, {UINT64_MAX}, 0, 0}, PLX_E_FORMAT, "product overflows"},
	    {{"t", 1, {INT64_MAX}, 0, 0}, PLX_E_FORMAT, "it is larger than the file"},
	    {{"t", 1, {INT64_MAX / 4 + 1}, 0, 0}, PLX_E_FORMAT, "it is larger than the file"},
	    {{"t", 1, {33}, 8, 0}, PLX_E_FORMAT, "no whole number of quantisation blocks"},
	    {{"t", 2, {128, 2}, 12, 0}, PLX_E_FORMAT, "no whole number of quantisation blocks"},
	    {{"t", 1, {8}, 4, 0}, PLX_E_UNSUPPORTED, "'t': its type, number 4, is not known"},
	    {{"t", 1, {8}, 999, 0}, PLX_E_UNSUPPORTED, "number 999, is not known"},
	    {{"t", 1, {8}, 0, 16}, PLX_E_FORMAT, "not a multiple of general.alignment"},
	    {{"t", 1, {8}, 0, 4096}, PLX_E_FORMAT, "ends behind the end of the file"},
	    {{"t", 1, {9}, 0, 4064}, PLX_E_FORMAT, "ends behind the end of the file"},
	    {{"t", 1, {8}, 0, UINT64_MAX - 31}, PLX_E_FORMAT, "ends behind the end"},
	    {{"t", 1, {1025}, 0, 0}, PLX_E_FORMAT, "'t'"},
	    {{"", 1, {8}, 0, 0}, PLX_E_FORMAT, "it has no name"},
	    {{name65, 1, {8}, 0, 0}, PLX_E_FORMAT, "more than 64 bytes"},
	};
	static const struct entry good = {"t", 1, {8}, 0, 4064};
	struct gguf_make m;

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		make_entry(&m, &lies[i].e);
		check_lie(&m, lies[i].err, lies[i].text);
	}
	make_entry(&m, &good);
	assert_int_equal(open_copy(m.file.p, m.file.n, NULL), 0);
	gguf_make_free(&m);
}

static void test_gguf_overlap(void **state)
{
	struct gguf_make m;

	(void)state;
	make_small(&m);
	m.data_bytes = 32; /* inside of "two" */
	gguf_make_tensor(&m, "three", 0, 8, 0);
	m.data_bytes = 4096;
	gguf_make_finish(&m);
	check_lie(&m, PLX_E_FORMAT, "its data overlaps another tensor's");
}

static void test_gguf_hostile_name_is_shown_safely(void **state)
{
	struct gguf_make m;

	(void)state;
	gguf_make_init(&m);
	gguf_make_raw(&m, "\x1b[2Jred\n", 77, "", 0);
	gguf_make_finish(&m);
	check_lie(&m, PLX_E_FORMAT, "metadata key '?[2Jred?'");
}

static void test_gguf_printable(void **state)
{
	char buf[8];

	(void)state;
	assert_string_equal(
	    plx_gguf_printable((struct plx_gguf_str){"abcdefg", 7}, buf, sizeof buf), "abcdefg");
	assert_string_equal(
	    plx_gguf_printable((struct plx_gguf_str){"abcdefgh", 8}, buf, sizeof buf), "abcd...");
	assert_string_equal(
	    plx_gguf_printable((struct plx_gguf_str){"a\xff\0b", 4}, buf, sizeof buf), "a??b");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_gguf_goldens),
	    cmocka_unit_test(test_gguf_integers),
	    cmocka_unit_test(test_gguf_floats_bools_strings),
	    cmocka_unit_test(test_gguf_arrays),
	    cmocka_unit_test(test_gguf_absent),
	    cmocka_unit_test(test_gguf_types_match_kernels),
	    cmocka_unit_test(test_gguf_paths),
	    cmocka_unit_test(test_gguf_small_is_good),
	    cmocka_unit_test(test_gguf_truncated_anywhere),
	    cmocka_unit_test(test_gguf_any_byte_changed),
	    cmocka_unit_test(test_gguf_header_lies),
	    cmocka_unit_test(test_gguf_value_lies),
	    cmocka_unit_test(test_gguf_nesting_limit),
	    cmocka_unit_test(test_gguf_duplicates),
	    cmocka_unit_test(test_gguf_alignment_lies),
	    cmocka_unit_test(test_gguf_tensor_lies),
	    cmocka_unit_test(test_gguf_overlap),
	    cmocka_unit_test(test_gguf_hostile_name_is_shown_safely),
	    cmocka_unit_test(test_gguf_printable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
