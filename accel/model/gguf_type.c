/*
 * The types a GGUF file can name, with their storage sizes: those this build computes and those it
 * only needs to recognise, so that a refusal can say which one it met.
 */
#include "accel/model/gguf.h"

#include <string.h>

struct tensor_type {
	const char *name; /* NULL: no such number, or one that was withdrawn */
	uint32_t block_elems;
	uint32_t block_bytes;
};

/* Source: enum ggml_type and its type traits, ggml project; numbers are the file's. */
static const struct tensor_type tensor_types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 40},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},
};

#define N_TENSOR_TYPES (sizeof tensor_types / sizeof tensor_types[0])

static const char *const value_types[] = {
    [PLX_GGUF_U8] = "u8",   [PLX_GGUF_I8] = "i8",     [PLX_GGUF_U16] = "u16",
    [PLX_GGUF_I16] = "i16", [PLX_GGUF_U32] = "u32",   [PLX_GGUF_I32] = "i32",
    [PLX_GGUF_F32] = "f32", [PLX_GGUF_BOOL] = "bool", [PLX_GGUF_STR] = "string",
    [PLX_GGUF_U64] = "u64", [PLX_GGUF_ARR] = "array", [PLX_GGUF_I64] = "i64",
    [PLX_GGUF_F64] = "f64",
};

const char *plx_gguf_type_name(uint32_t type)
{
	return type < sizeof value_types / sizeof value_types[0] ? value_types[type] : "unknown";
}

const char *plx_gguf_tensor_type_name(uint32_t type)
{
	if (type >= N_TENSOR_TYPES || !tensor_types[type].name)
		return "unknown";
	return tensor_types[type].name;
}

bool plx_gguf_tensor_type_size(uint32_t type, uint32_t *block_elems, uint32_t *block_bytes)
{
	if (type >= N_TENSOR_TYPES || !tensor_types[type].name)
		return false;
	*block_elems = tensor_types[type].block_elems;
	*block_bytes = tensor_types[type].block_bytes;
	return true;
}

const char *plx_gguf_printable(struct plx_gguf_str s, char *buf, size_t buf_bytes)
{
	size_t room = buf_bytes ? buf_bytes - 1 : 0;
	size_t n = s.len < room ? (size_t)s.len : room;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s.ptr[i];

		buf[i] = c < 32 || c > 126 ? '?' : (char)c;
	}
	if (n < s.len && n >= 3)
		memcpy(buf + n - 3, "...", 3);
	if (buf_bytes)
		buf[n] = '\0';
	return buf;
}
