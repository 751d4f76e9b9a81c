/*
 * Typed access to GGUF metadata. The reader has checked every extent; what is left to check here is
 * that a key holds what the caller expects.
 */
#include "accel/model/gguf.h"

#include <math.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define HELP "the file was not converted for this program, or is damaged; convert or fetch it again"

static const struct plx_gguf_kv *must_find(const struct plx_gguf *g, const char *key,
                                           struct plx_diag *d)
{
	const struct plx_gguf_kv *kv = plx_gguf_find(g, key);

	if (!kv)
		plx_diag_set(d, 0, "%s: metadata key '%s' is missing; " HELP, plx_gguf_name(g),
		             key);
	return kv;
}

static int wrong_type(const struct plx_gguf *g, const char *key, const struct plx_gguf_kv *kv,
                      const char *want, struct plx_diag *d)
{
	bool arr = kv->type == PLX_GGUF_ARR;

	return plx_diag_set(d, PLX_E_FORMAT, "%s: metadata key '%s' is %s%s, not %s; " HELP,
	                    plx_gguf_name(g), key, arr ? "an array of " : "of type ",
	                    plx_gguf_type_name(kv->elem), want);
}

/* Whether the scalar is an integer in 0..2^32-1, and then which. */
static bool as_u32(const struct plx_gguf_kv *kv, uint32_t *out)
{
	static const bool is_int[] = {
	    [PLX_GGUF_U8] = true,  [PLX_GGUF_I8] = true,  [PLX_GGUF_U16] = true,
	    [PLX_GGUF_I16] = true, [PLX_GGUF_U32] = true, [PLX_GGUF_I32] = true,
	    [PLX_GGUF_U64] = true, [PLX_GGUF_I64] = true, [PLX_GGUF_F64] = false,
	};
	bool is_signed = kv->type == PLX_GGUF_I8 || kv->type == PLX_GGUF_I16 ||
	                 kv->type == PLX_GGUF_I32 || kv->type == PLX_GGUF_I64;
	uint64_t v = 0;

	if (!is_int[kv->type])
		return false;
	memcpy(&v, kv->data, kv->data_bytes);
	if (is_signed && kv->data[kv->data_bytes - 1] >> 7)
		return false;
	if (v > UINT32_MAX)
		return false;
	*out = (uint32_t)v;
	return true;
}

int plx_gguf_get_u32(const struct plx_gguf *g, const char *key, uint32_t *out, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv = must_find(g, key, d);

	if (!kv)
		return PLX_E_NOT_FOUND;
	if (!as_u32(kv, out))
		return wrong_type(g, key, kv, "a whole number from 0 to 4294967295", d);
	return 0;
}

int plx_gguf_get_f32(const struct plx_gguf *g, const char *key, float *out, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv = must_find(g, key, d);
	float f = 0;
	double v = 0;

	if (!kv)
		return PLX_E_NOT_FOUND;
	if (kv->type == PLX_GGUF_F32) {
		memcpy(&f, kv->data, sizeof f);
	} else if (kv->type == PLX_GGUF_F64) {
		memcpy(&v, kv->data, sizeof v);
		/* Out-of-range conversion is undefined, so it is caught before. */
		f = fabs(v) <= 3.4028234663852886e38 ? (float)v : INFINITY;
	} else {
		return wrong_type(g, key, kv, "a floating-point number", d);
	}
	if (!isfinite(f))
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: metadata key '%s' is not a finite f32; " HELP,
		                    plx_gguf_name(g), key);
	*out = f;
	return 0;
}

int plx_gguf_get_bool(const struct plx_gguf *g, const char *key, bool *out, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv = must_find(g, key, d);

	if (!kv)
		return PLX_E_NOT_FOUND;
	if (kv->type != PLX_GGUF_BOOL)
		return wrong_type(g, key, kv, "a bool", d);
	*out = kv->data[0] != 0;
	return 0;
}

int plx_gguf_get_str(const struct plx_gguf *g, const char *key, struct plx_gguf_str *out,
                     struct plx_diag *d)
{
	const struct plx_gguf_kv *kv = must_find(g, key, d);

	if (!kv)
		return PLX_E_NOT_FOUND;
	if (kv->type != PLX_GGUF_STR)
		return wrong_type(g, key, kv, "a string", d);
	struct plx_gguf_iter it = plx_gguf_strs(kv);

	plx_gguf_next(&it, out);
	return 0;
}

int plx_gguf_get_u32_or(const struct plx_gguf *g, const char *key, uint32_t dflt, uint32_t *out,
                        struct plx_diag *d)
{
	if (plx_gguf_find(g, key))
		return plx_gguf_get_u32(g, key, out, d);
	*out = dflt;
	return 0;
}

int plx_gguf_get_f32_or(const struct plx_gguf *g, const char *key, float dflt, float *out,
                        struct plx_diag *d)
{
	if (plx_gguf_find(g, key))
		return plx_gguf_get_f32(g, key, out, d);
	*out = dflt;
	return 0;
}

int plx_gguf_get_bool_or(const struct plx_gguf *g, const char *key, bool dflt, bool *out,
                         struct plx_diag *d)
{
	if (plx_gguf_find(g, key))
		return plx_gguf_get_bool(g, key, out, d);
	*out = dflt;
	return 0;
}

int plx_gguf_get_arr(const struct plx_gguf *g, const char *key, enum plx_gguf_type elem,
                     const struct plx_gguf_kv **out, struct plx_diag *d)
{
	const struct plx_gguf_kv *kv = must_find(g, key, d);
	char want[32] = "an array of ";

	if (!kv)
		return PLX_E_NOT_FOUND;
	if (kv->type != PLX_GGUF_ARR || kv->elem != elem)
		return wrong_type(g, key, kv, strcat(want, plx_gguf_type_name(elem)), d);
	*out = kv;
	return 0;
}

int32_t plx_gguf_arr_i32(const struct plx_gguf_kv *kv, uint64_t i)
{
	int32_t v;

	PLX_DCHECK(kv->elem == PLX_GGUF_I32 && i < kv->n);
	memcpy(&v, kv->data + i * sizeof v, sizeof v);
	return v;
}

bool plx_gguf_arr_bool(const struct plx_gguf_kv *kv, uint64_t i)
{
	PLX_DCHECK(kv->elem == PLX_GGUF_BOOL && i < kv->n);
	return kv->data[i] != 0;
}

float plx_gguf_arr_f32(const struct plx_gguf_kv *kv, uint64_t i)
{
	float v;

	PLX_DCHECK(kv->elem == PLX_GGUF_F32 && i < kv->n);
	memcpy(&v, kv->data + i * sizeof v, sizeof v);
	return v;
}

struct plx_gguf_iter plx_gguf_strs(const struct plx_gguf_kv *kv)
{
	PLX_DCHECK(kv->elem == PLX_GGUF_STR);
	return (struct plx_gguf_iter){.pos = kv->data, .left = kv->n};
}

bool plx_gguf_next(struct plx_gguf_iter *it, struct plx_gguf_str *out)
{
	if (it->left == 0)
		return false;
	memcpy(&out->len, it->pos, sizeof out->len);
	out->ptr = (const char *)it->pos + sizeof out->len;
	it->pos += sizeof out->len + out->len;
	it->left--;
	return true;
}

bool plx_gguf_str_is(struct plx_gguf_str s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}
