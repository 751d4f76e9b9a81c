/*
 * How fast text becomes ids, and how long one step can hold the lcore.
 *
 * The vocabulary is the real file's where that is at hand, else the trained smollm
 * golden. Text: 64 KiB of English made of the words of a fixed list, and the patterns that cost
 * most.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/gguf.h"
#include "accel/model/tokenizer.h"
#include "fw/base/clock.h"
#include "tests/lib/model_path.h"
#include "tests/lib/tok_golden.h"

#define TEXT_BYTES (64u << 10)
#define BIG_BYTES  (1u << 20)
#define ROUNDS     50

static uint8_t *text;
static int32_t *ids;

static struct plx_tok *open_real(const char *path)
{
	struct plx_diag d = {{0}};
	struct plx_gguf *file;
	struct plx_tok *t = NULL;

	if (plx_gguf_open(path, &file, &d) == 0) {
		uint64_t from = plx_clock_ns();

		plx_tok_open(&t, file, &d);
		printf("tokenizer open: %.1f ms for %u tokens\n",
		       (double)(plx_clock_ns() - from) / 1e6, t == NULL ? 0 : plx_tok_n_vocab(t));
		plx_gguf_close(file);
	}
	if (t == NULL)
		fprintf(stderr, "%s\n", d.text);
	return t;
}

static struct plx_tok *open_golden(const char *name)
{
	struct plx_diag d = {{0}};
	struct tok_golden g;
	struct plx_tok *t = NULL;
	char path[128];

	snprintf(path, sizeof(path), "tests/golden/tokenizer/%s.txt", name);
	if (tok_golden_read(&g, path) == 0 && plx_tok_build(&t, &g.src, &d))
		fprintf(stderr, "%s\n", d.text);
	tok_golden_free(&g);
	return t;
}

/* English: sentences of common words, the same on every machine. */
static void fill_english(void)
{
	static const char *const words[] = {
	    "the",     "of",        "and",     "request", "packet",      "is",     "that",
	    "time",    "token",     "it",      "which",   "predictable", "model",  "with",
	    "without", "scheduler", "memory",  "answers", "before",      "after",  "network",
	    "however", "because",   "quickly", "system",  "ring",        "we",     "don't",
	    "measure", "every",     "stage",   "between", "arrives",     "leaves", "42"};
	uint32_t state = 1, n = 0, k = 0;

	while (n + 32 < TEXT_BYTES) {
		state = state * 1664525 + 1013904223;
		const char *w = words[(state >> 16) % (sizeof(words) / sizeof(words[0]))];

		n += (uint32_t)sprintf((char *)text + n, "%s%s", k == 0 ? "" : " ", w);
		if (++k % 12 == 0)
			n += (uint32_t)sprintf((char *)text + n, k % 60 == 0 ? ".\n\n" : ",");
	}
	memset(text + n, '.', TEXT_BYTES - n);
}

static void bench_english(const struct plx_tok *t, const char *name)
{
	struct plx_tok_scratch *s;
	uint64_t best = UINT64_MAX;
	int n = 0;

	if (plx_tok_scratch_new(&s, t, TEXT_BYTES, NULL))
		return;
	fill_english();
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t from = plx_clock_ns();

		n = plx_tok_encode(s, text, TEXT_BYTES, 0, ids, BIG_BYTES);
		uint64_t took = plx_clock_ns() - from;

		best = took < best ? took : best;
	}
	printf("tokenizer encode, %s, 64 KiB English: %.1f MB/s, %.0f ns a token (%d tokens)\n",
	       name, (double)TEXT_BYTES * 1e3 / (double)best, (double)best / n, n);
	plx_tok_scratch_free(s);
}

/* CPU time of this thread, so that other programs on the machine don't count. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * PLX_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* All of a megabyte that repeats pattern: the whole time, and the longest steps. */
static void bench_worst(const struct plx_tok *t, const char *name, const char *pattern,
                        const char *what)
{
	struct plx_tok_scratch *s;
	size_t n = strlen(pattern);
	struct plx_tok_job job = {.text = text,
	                          .len = BIG_BYTES,
	                          .flags = PLX_TOK_SPECIALS,
	                          .ids = ids,
	                          .max_ids = 3 * BIG_BYTES};
	uint64_t longest[16] = {0}; /* falling; the first hold interrupts, too */
	uint64_t from;
	int got;

	if (plx_tok_scratch_new(&s, t, BIG_BYTES, NULL))
		return;
	for (uint32_t i = 0; i < BIG_BYTES; i++)
		text[i] = (uint8_t)pattern[i % n];
	from = cpu_ns();
	plx_tok_begin(s, &job);
	do {
		uint64_t step = cpu_ns();

		got = plx_tok_step(s, PLX_TOK_STEP_DEFAULT);
		step = cpu_ns() - step;
		for (int i = 0; i < 16; i++)
			if (step > longest[i]) {
				uint64_t old = longest[i];

				longest[i] = step;
				step = old;
			}
	} while (got == PLX_E_AGAIN);
	printf("tokenizer encode, %s, 1 MiB of %s: %.1f ms, longest step %.0f us (16th %.0f us)\n",
	       name, what, (double)(cpu_ns() - from) / 1e6, (double)longest[0] / 1e3,
	       (double)longest[15] / 1e3);
	plx_tok_scratch_free(s);
}

static void bench_decode(const struct plx_tok *t)
{
	uint32_t cap = plx_tok_stream_max(t);
	uint8_t *out = malloc(cap);
	struct plx_tok_scratch *s;
	struct plx_tok_stream st;
	uint64_t n_out = 0;

	if (plx_tok_scratch_new(&s, t, TEXT_BYTES, NULL) || out == NULL)
		return;
	fill_english();
	int n = plx_tok_encode(s, text, TEXT_BYTES, 0, ids, BIG_BYTES);
	uint64_t from = plx_clock_ns();

	plx_tok_stream_init(&st, t, 0);
	for (int i = 0; i < n; i++)
		n_out += (uint64_t)plx_tok_stream_push(&st, ids[i], out, cap);
	printf("tokenizer decode, streaming: %.0f ns a token (%llu bytes)\n",
	       (double)(plx_clock_ns() - from) / n, (unsigned long long)n_out);
	plx_tok_scratch_free(s);
	free(out);
}

int main(void)
{
	const char *path = plx_test_model();
	bool real = path != NULL;
	struct plx_tok *t = real ? open_real(path) : open_golden("smollm");
	struct plx_tok *q = open_golden("qwen2");
	struct plx_tok *spm = open_golden("spm-phrases");
	const char *name = real ? "SmolLM2" : "smollm golden";

	text = malloc(BIG_BYTES);
	ids = malloc(3 * (size_t)BIG_BYTES * sizeof(*ids));
	if (t == NULL || q == NULL || spm == NULL || text == NULL || ids == NULL)
		return 1;
	bench_english(t, name);
	bench_decode(t);
	bench_worst(t, name, "a", "one letter");
	bench_worst(t, name, "thequickbrownfoxjumpsoverthelazydog", "one word");
	bench_worst(t, name, "<|im_star", "broken control tokens");
	bench_worst(q, "qwen2 golden", "\xcc\x81\xcc\xa3", "combining marks");
	bench_worst(spm, "spm-phrases golden", "the time of ", "one SentencePiece word");
	plx_tok_free(t);
	plx_tok_free(q);
	plx_tok_free(spm);
	free(text);
	free(ids);
	return 0;
}
