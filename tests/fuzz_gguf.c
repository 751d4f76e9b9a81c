/*
 * Fuzz target: any bytes as a model file. What opens is walked over in full: every key by its type,
 * every tensor's first and last byte, the chat template, and the model's own checks.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/chat.h"
#include "accel/model/gguf.h"
#include "accel/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void walk_strings(const struct plx_gguf_kv *kv)
{
	struct plx_gguf_iter it = plx_gguf_strs(kv);
	struct plx_gguf_str s;

	while (plx_gguf_next(&it, &s)) {
		char shown[16];

		plx_gguf_printable(s, shown, sizeof shown);
		if (s.len)
			sink = (uint8_t)(s.ptr[0] + s.ptr[s.len - 1]);
	}
}

static void walk_kv(const struct plx_gguf *g, const struct plx_gguf_kv *kv)
{
	char key[64];
	uint32_t u;
	float f;
	bool b;

	plx_gguf_printable(kv->key, key, sizeof key);
	plx_gguf_get_u32(g, key, &u, NULL);
	plx_gguf_get_f32(g, key, &f, NULL);
	plx_gguf_get_bool(g, key, &b, NULL);
	if (kv->elem == PLX_GGUF_STR)
		walk_strings(kv);
	for (uint64_t i = 0; i < kv->n && kv->elem == PLX_GGUF_I32; i++)
		sink = (uint8_t)plx_gguf_arr_i32(kv, i);
	if (kv->data_bytes)
		sink = (uint8_t)(kv->data[0] + kv->data[kv->data_bytes - 1]);
}

static void walk_tensor(const struct plx_gguf_tensor *t)
{
	sink = (uint8_t)(t->data[0] + t->data[t->bytes - 1]);
	sink = (uint8_t)strlen(plx_gguf_tensor_type_name(t->type));
}

static void walk_chat(const struct plx_gguf *g)
{
	static const struct plx_chat_msg msg = {.text = "x", .len = 1, .role = PLX_CHAT_USER};
	struct plx_chat_seg segs[PLX_CHAT_SEGS(1)];
	struct plx_chat *c;

	if (plx_chat_open(g, NULL, &c, NULL) != 0)
		return;
	plx_chat_render(c, &msg, 1, segs, PLX_CHAT_SEGS(1));
	plx_chat_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plx_diag d = {0};
	struct plx_gguf *g;
	struct plx_model *m;
	char line[512];

	if (plx_gguf_open_mem(data, size, &g, &d) != 0) {
		if (d.text[0] == '\0')
			abort(); /* every refusal says why */
		return 0;
	}
	for (uint32_t i = 0; i < plx_gguf_n_kv(g); i++)
		walk_kv(g, plx_gguf_kv_at(g, i));
	for (uint32_t i = 0; i < plx_gguf_n_tensor(g); i++)
		walk_tensor(plx_gguf_tensor_at(g, i));
	walk_chat(g);
	if (plx_model_from_gguf(g, &m, &d) == 0) {
		plx_model_describe(m, line, sizeof line);
		plx_model_close(m);
	} else if (d.text[0] == '\0') {
		abort();
	}
	return 0;
}
