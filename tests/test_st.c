/* The safetensors reader: what a file says, and every lie a header can tell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/model/st.h"

#define MAX_FILE 4096

static uint8_t file[MAX_FILE];

/* A file of this header and n_data bytes 0, 1, 2 ...; its length. */
static size_t make(const char *header, size_t n_data)
{
	uint64_t n = strlen(header);

	assert_true(8 + n + n_data <= MAX_FILE);
	memcpy(file, &n, 8);
	memcpy(file + 8, header, n);
	for (size_t i = 0; i < n_data; i++)
		file[8 + n + i] = (uint8_t)i;
	return 8 + n + n_data;
}

static void test_st_reads_what_is_there(void **state)
{
	struct plx_diag d = {0};
	struct plx_st *s;
	size_t n = make("{\"__metadata__\":{\"format\":\"pt\"},"
	                "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
	                "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
	                "\"none\":{\"dtype\":\"I64\",\"shape\":[0,5],\"data_offsets\":[16,16]}}  ",
	                16);

	(void)state;
	assert_int_equal(plx_st_open_mem(file, n, &s, &d), 0);
	assert_int_equal(plx_st_n(s), 3);
	const struct plx_st_tensor *b = plx_st_find(s, "b"), *a = plx_st_find(s, "a");

	assert_ptr_equal(plx_st_at(s, 0), a);
	assert_int_equal(a->dtype, PLX_ST_F32);
	assert_int_equal(a->n_dims, 0);
	assert_int_equal(a->n_elem, 1);
	assert_int_equal(b->dtype, PLX_ST_BF16);
	assert_int_equal(b->dim[0], 2);
	assert_int_equal(b->dim[1], 3);
	assert_int_equal(b->bytes, 12);
	assert_int_equal(b->data[0], 4);
	assert_int_equal(plx_st_find(s, "none")->dtype, PLX_ST_OTHER);
	assert_int_equal(plx_st_find(s, "none")->n_elem, 0);
	assert_null(plx_st_find(s, "__metadata__"));
	assert_null(plx_st_find(s, "c"));
	plx_st_close(s);
}

#define A4 "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}"

static void test_st_refuses_lies(void **state)
{
	static const struct {
		const char *header;
		size_t n_data;
		int err;
		const char *says;
	} lies[] = {
	    {"{" A4 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6,
	     PLX_E_FORMAT, "tensor 'b': its data overlaps"},
	    {"{" A4 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
	     PLX_E_FORMAT, "overlaps"},
	    {"{" A4 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12,
	     PLX_E_FORMAT, "a gap before"},
	    {"{" A4 "}", 5, PLX_E_FORMAT, "1 bytes behind the last tensor"},
	    {"{" A4 "}", 3, PLX_E_FORMAT, "behind the end of the file"},
	    {"{" A4 "," A4 "}", 4, PLX_E_FORMAT, "duplicate"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, PLX_E_FORMAT,
	     "contradict"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, PLX_E_FORMAT,
	     "behind the end"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, PLX_E_FORMAT,
	     "no two whole numbers"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, PLX_E_FORMAT,
	     "no two whole numbers"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
	     "\"data_offsets\":[9223372036854775803,9223372036854775807]}}",
	     4, PLX_E_FORMAT, "behind the end"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
	     "\"data_offsets\":[0,4]}}",
	     4, PLX_E_FORMAT, "shape overflows"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}",
	     4, PLX_E_FORMAT, "shape overflows"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, PLX_E_FORMAT,
	     "no whole number"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, PLX_E_FORMAT,
	     "no whole number"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
	     PLX_E_FORMAT, "more than 8 dimensions"},
	    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, PLX_E_FORMAT,
	     "no shape"},
	    {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
	     PLX_E_UNSUPPORTED, "dtype 'Q4' is not known"},
	    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PLX_E_FORMAT, "no dtype"},
	    {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PLX_E_FORMAT,
	     "name is empty"},
	    {"{\"a\":[]}", 0, PLX_E_FORMAT, "no object"},
	    {"{\"a\":", 0, PLX_E_FORMAT, "header"},
	    {"[]", 0, PLX_E_FORMAT, "no safetensors file"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		struct plx_diag d = {0};
		struct plx_st *s = NULL;
		size_t n = make(lies[i].header, lies[i].n_data);
		int err = plx_st_open_mem(file, n, &s, &d);

		if (err != lies[i].err || !strstr(d.text, lies[i].says))
			fail_msg("%s: %d, \"%s\"", lies[i].header, err, d.text);
		assert_null(s);
	}
}

static void test_st_refuses_wrong_lengths(void **state)
{
	static const uint64_t lengths[] = {0, 1, 5000, UINT64_MAX, UINT64_MAX - 7, 101u << 20};
	struct plx_st *s;

	(void)state;
	size_t n = make("{" A4 "}", 4);

	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		memcpy(file, &lengths[i], 8);
		assert_int_equal(plx_st_open_mem(file, n, &s, NULL), PLX_E_FORMAT);
	}
	for (size_t cut = 0; cut < n; cut++) {
		make("{" A4 "}", 4);
		assert_int_equal(plx_st_open_mem(file, cut, &s, NULL), PLX_E_FORMAT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_st_reads_what_is_there),
	    cmocka_unit_test(test_st_refuses_lies),
	    cmocka_unit_test(test_st_refuses_wrong_lengths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
