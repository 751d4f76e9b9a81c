/*
 * Fuzz target: any bytes as a Jinja template, and any conversation through each family's form.
 *
 * Input: a byte that picks a named family or, above the last, the file's own template; a byte with
 * the number of messages; for each message a byte of role and one of length; then the contents, and
 * what is left is the template. Whatever renders must fit the promised number of segments, and its
 * content segments must lie in the messages.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "accel/model/chat.h"
#include "fw/base/err.h"
#include "tests/lib/fuzz_in.h"

#define MAX_MSG 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"chatml",     "qwen3",      "llama2", "llama3", "llama3.1",
                                    "mistral-v1", "mistral-v3", "gemma",  "gemma3", "phi3"};

static uint32_t take_messages(struct plx_fuzz_in *in, struct plx_chat_msg msgs[MAX_MSG])
{
	uint32_t n = plx_fuzz_take(in) % (MAX_MSG + 1);

	for (uint32_t i = 0; i < n; i++) {
		msgs[i].role = plx_fuzz_take(in) % 4;
		msgs[i].len = plx_fuzz_take(in);
	}
	for (uint32_t i = 0; i < n; i++) {
		if (msgs[i].len > in->left)
			msgs[i].len = (uint32_t)in->left;
		msgs[i].text = (const char *)in->p;
		in->p += msgs[i].len;
		in->left -= msgs[i].len;
	}
	return n;
}

static void check_segments(const struct plx_chat_seg *segs, int n, const uint8_t *data, size_t size)
{
	for (int i = 0; i < n; i++) {
		const uint8_t *p = (const uint8_t *)segs[i].ptr;

		if (segs[i].len == 0)
			abort();
		if (segs[i].content && (p < data || p + segs[i].len > data + size))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plx_chat_source src = {.file = "fuzz", .bos = "<s>", .eos = "</s>"};
	struct plx_chat_seg segs[PLX_CHAT_SEGS(MAX_MSG)];
	struct plx_chat_msg msgs[MAX_MSG];
	struct plx_fuzz_in in = {.p = data, .left = size};
	uint32_t family = plx_fuzz_take(&in) % (sizeof names / sizeof names[0] + 1);
	uint32_t n_msgs = take_messages(&in, msgs);
	struct plx_chat *c;

	if (family < sizeof names / sizeof names[0])
		src.name = names[family];
	src.template_ptr = (const char *)in.p;
	src.template_len = in.left;
	if (plx_chat_build(&src, &c, NULL) != 0)
		return 0;
	int n = plx_chat_render(c, msgs, n_msgs, segs, PLX_CHAT_SEGS(n_msgs));

	if (n < 0 && n != PLX_E_BAD_REQUEST)
		abort();
	check_segments(segs, n, data, size);
	plx_chat_free(c);
	return 0;
}
