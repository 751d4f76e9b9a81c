/*
 * Any bytes as a vocabulary and a text: build refuses and says why, or works; what works gives the
 * same ids at any budget, only ids of the vocabulary, and a stream that stays within its bounds.
 *
 * Input: switches and counts, tokens (type and score in one byte, then a length byte and the
 * bytes), merges likewise, then flags, budget, span and text.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/stop.h"
#include "accel/model/tokenizer.h"
#include "fw/base/check.h"
#include "tests/lib/fuzz_in.h"

#define MAX_TEXT   512
#define MAX_IDS    (4 * MAX_TEXT)
#define MAX_TOKENS 512
#define MAX_MERGES 128

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plx_tok_str take_str(struct plx_fuzz_in *in)
{
	size_t n = plx_fuzz_take(in) & 31;

	if (n > in->left)
		n = in->left;
	struct plx_tok_str s = {(const char *)in->p, n};

	in->p += n;
	in->left -= n;
	return s;
}

static struct plx_tok_str tokens[MAX_TOKENS];
static struct plx_tok_str merges[MAX_MERGES];
static int32_t types[MAX_TOKENS];
static float scores[MAX_TOKENS];
static char byte_names[256][8];

/* All <0xNN>, so that the fuzzer need not find them. */
static uint32_t give_bytes(void)
{
	for (int i = 0; i < 256; i++) {
		snprintf(byte_names[i], sizeof(byte_names[i]), "<0x%02X>", i);
		tokens[i] = (struct plx_tok_str){byte_names[i], 6};
		types[i] = PLX_TOK_T_BYTE;
		scores[i] = 0;
	}
	return 256;
}

static void take_vocab(struct plx_fuzz_in *in, struct plx_tok_source *src)
{
	static const char *const pres[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
	uint8_t kind = plx_fuzz_take(in);
	uint32_t n_tokens = plx_fuzz_take(in);
	uint32_t n_merges = plx_fuzz_take(in) & (MAX_MERGES - 1);
	uint32_t n = 0;

	*src = (struct plx_tok_source){.model = kind & 1 ? "llama" : "gpt2",
	                               .pre = pres[(kind >> 1) & 3],
	                               .tokens = tokens,
	                               .types = types,
	                               .scores = scores,
	                               .merges = merges,
	                               .n_merges = n_merges,
	                               .bos = (int8_t)plx_fuzz_take(in),
	                               .eos = (int8_t)plx_fuzz_take(in),
	                               .eot = PLX_TOK_NONE,
	                               .unk = PLX_TOK_NONE,
	                               .pad = PLX_TOK_NONE,
	                               .add_bos = (int8_t)((kind >> 3) % 3 - 1),
	                               .add_eos = (int8_t)((kind >> 4) & 1),
	                               .add_space_prefix = (int8_t)((kind >> 5) & 1)};
	if ((kind & 1) && (kind & 64))
		n = give_bytes();
	for (uint32_t end = n + n_tokens; n < end; n++) {
		uint8_t head = plx_fuzz_take(in);

		types[n] = head & 7;
		scores[n] = (float)(head >> 3);
		tokens[n] = take_str(in);
	}
	src->n_tokens = n;
	for (uint32_t i = 0; i < n_merges; i++)
		merges[i] = take_str(in);
}

static int32_t once[MAX_IDS], sliced[MAX_IDS];

static void check_stream(const struct plx_tok *t, const int32_t *ids, int n)
{
	uint32_t cap = plx_tok_stream_max(t);
	uint8_t *out = malloc(cap);
	uint8_t *released = malloc(cap + PLX_STOP_BYTES);
	struct plx_tok_stream st;
	struct plx_stop stop;

	plx_stop_init(&stop);
	PLX_CHECK(plx_stop_add(&stop, "ab\nab", 5) == 0);
	plx_tok_stream_init(&st, t, 0);
	for (int i = 0; i < n; i++) {
		int got = plx_tok_stream_push(&st, ids[i], out, cap);

		PLX_CHECK(got >= 0 && (uint32_t)got <= cap);
		plx_stop_feed(&stop, out, (uint32_t)got, released);
		PLX_CHECK(stop.n_held <= PLX_STOP_BYTES);
	}
	PLX_CHECK(plx_tok_stream_flush(&st, out, cap) >= 0);
	free(out);
	free(released);
}

/* Encodes with steps of this budget; the span is dropped where it does not fit. */
static int encode(struct plx_tok_scratch *s, struct plx_tok_job job, uint32_t budget)
{
	int n;

	if (plx_tok_begin(s, &job) != 0) {
		job.n_span = 0;
		PLX_CHECK(plx_tok_begin(s, &job) == 0);
	}
	while ((n = plx_tok_step(s, budget)) == PLX_E_AGAIN)
		;
	PLX_CHECK(n >= 0 || n == PLX_E_TOO_LARGE); /* NFC may grow */
	return n;
}

static void check_encode(const struct plx_tok *t, struct plx_fuzz_in *in)
{
	struct plx_tok_scratch *s;
	uint32_t flags = plx_fuzz_take(in) & 31;
	uint32_t budget = 1 + plx_fuzz_take(in);
	uint8_t off = plx_fuzz_take(in);
	struct plx_tok_span span = {off, plx_fuzz_take(in)};
	struct plx_tok_job job = {.text = in->p,
	                          .len = in->left < MAX_TEXT ? (uint32_t)in->left : MAX_TEXT,
	                          .flags = flags,
	                          .span = &span,
	                          .n_span = 1,
	                          .ids = once,
	                          .max_ids = MAX_IDS};

	PLX_CHECK(plx_tok_scratch_new(&s, t, MAX_TEXT, NULL) == 0);
	int n = encode(s, job, UINT32_MAX);

	job.ids = sliced;
	PLX_CHECK(encode(s, job, budget) == n);
	PLX_CHECK(n <= 0 || memcmp(once, sliced, (size_t)n * 4) == 0);
	for (int i = 0; i < n; i++)
		PLX_CHECK(once[i] >= 0 && (uint32_t)once[i] < plx_tok_n_vocab(t));
	check_stream(t, once, n);
	job.flags &= ~(uint32_t)(PLX_TOK_CONTROL | PLX_TOK_BOS | PLX_TOK_EOS);
	n = encode(s, job, budget);
	for (int i = 0; i < n; i++) /* what a user writes never becomes control */
		PLX_CHECK(plx_tok_type(t, sliced[i]) != PLX_TOK_T_CONTROL &&
		          plx_tok_type(t, sliced[i]) != PLX_TOK_T_UNKNOWN);
	plx_tok_scratch_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plx_fuzz_in in = {data, size};
	struct plx_tok_source src;
	struct plx_diag d = {{0}};
	struct plx_tok *t;

	take_vocab(&in, &src);
	if (plx_tok_build(&t, &src, &d)) {
		PLX_CHECK(d.text[0] != '\0');
		return 0;
	}
	check_encode(t, &in);
	plx_tok_free(t);
	return 0;
}
