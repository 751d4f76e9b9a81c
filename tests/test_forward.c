/*
 * Numerics: the bits of a sequence's logits depend on model, ids and positions alone. Everything is
 * compared with one sequence alone, its prompt in one step, on one thread, by the scalar kernels.
 * Tests of tiny models run once for each type of KV.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"

#define N_SEQ      4u
#define MAX_PROMPT 1200u

/* How a set of sequences is run. */
struct way {
	const char *isa;
	uint32_t n_threads;
	uint32_t chunk; /* prompt tokens a step; 0: as many as fit */
	bool together;  /* all sequences in the same steps */
};

static uint32_t types[] = {PLX_KV_F16, PLX_KV_Q8, PLX_KV_Q4};
static uint32_t kv_type; /* of the test that runs */

static int32_t prompt[N_SEQ][MAX_PROMPT];

static void prompts_make(uint32_t n_vocab)
{
	uint32_t x = 12345;

	for (uint32_t i = 0; i < N_SEQ; i++)
		for (uint32_t j = 0; j < MAX_PROMPT; j++) {
			x = x * 1664525u + 1013904223u;
			prompt[i][j] = (int32_t)((x >> 8) % n_vocab);
		}
}

/* Different lengths, samplers and starts; the first two are greedy. */
static void seqs_make(struct devseq q[N_SEQ], uint32_t n_long, uint32_t n_new, uint32_t chunk)
{
	const uint32_t len[N_SEQ] = {n_long, 1, 33, 17};

	memset(q, 0, N_SEQ * sizeof(q[0]));
	for (uint32_t i = 0; i < N_SEQ; i++) {
		q[i].prompt = prompt[i];
		q[i].n_prompt = len[i];
		q[i].n_new = n_new;
		q[i].chunk = chunk;
		q[i].start = i;
		q[i].sampler = devkit_greedy();
	}
	q[2].sampler = (struct plx_sampler){.temperature = 0.8f,
	                                    .top_p = 0.95f,
	                                    .min_p = 0.01f,
	                                    .repeat_penalty = 1.2f,
	                                    .penalty_window = 64,
	                                    .top_k = 40,
	                                    .seed = 7};
	q[3].sampler = q[2].sampler;
	q[3].sampler.sample = 1;
}

static void run_way(const char *path, const struct way *w, struct devseq q[N_SEQ], uint32_t n_long,
                    uint32_t n_new)
{
	struct plx_dev_limits lim = devkit_limits();
	struct devkit k;

	lim.n_threads = w->n_threads;
	lim.kv_type = kv_type;
	devkit_open(&k, path, w->isa, &lim);
	prompts_make(k.model->n_vocab);
	seqs_make(q, n_long, n_new, w->chunk);
	if (w->together) {
		devkit_run(&k, q, N_SEQ);
	} else {
		for (uint32_t i = 0; i < N_SEQ; i++) {
			q[i].start = 0;
			devkit_run(&k, &q[i], 1);
		}
	}
	devkit_close(&k);
}

static void same(const struct devseq *a, const struct devseq *b, const struct way *w)
{
	for (uint32_t i = 0; i < N_SEQ; i++) {
		if (a[i].n_out != b[i].n_out || a[i].hash != b[i].hash ||
		    memcmp(a[i].out, b[i].out, a[i].n_out * sizeof(a[i].out[0])) != 0 ||
		    memcmp(a[i].logprob, b[i].logprob, a[i].n_out * sizeof(float)) != 0)
			fail_msg("sequence %u differs: %s, %u threads, chunk %u, %s", i, w->isa,
			         w->n_threads, w->chunk, w->together ? "together" : "alone");
	}
}

static void all_ways(const char *path, const struct way *first, const struct way *ways,
                     uint32_t n_ways, uint32_t n_long, uint32_t n_new)
{
	static struct devseq base[N_SEQ], q[N_SEQ];

	run_way(path, first, base, n_long, n_new);
	for (uint32_t i = 0; i < N_SEQ; i++)
		assert_int_equal(base[i].n_out, n_new);
	for (uint32_t i = 0; i < n_ways; i++) {
		if (!devkit_has_isa(ways[i].isa))
			continue;
		run_way(path, &ways[i], q, n_long, n_new);
		same(base, q, &ways[i]);
	}
}

static const struct way scalar_alone = {"scalar", 1, 0, false};

static void test_bits_of_tiny_models(void **state)
{
	static const struct way ways[] = {
	    {"scalar", 1, 1, true},      {"scalar", 2, 3, true},  {"avx2", 1, 0, false},
	    {"avx2", 1, 16, true},       {"avx512", 1, 0, false}, {"avx512", 1, 1, false},
	    {"avx512", 1, 3, true},      {"avx512", 1, 16, true}, {"avx512", 2, 64, true},
	    {"avx512", 3, 0, true},      {"avx512", 3, 5, true},  {"avxvnni", 1, 16, true},
	    {"avx512bf16", 2, 64, true}, {"amx", 2, 64, true},
	};
	static const char *const names[] = {"llama3",  "llama-linear", "qwen2",
	                                    "qwen3",   "qwen2-window", "mistral",
	                                    "mixtral", "qwen2moe",     "qwen3moe"};

	kv_type = *(uint32_t *)*state;
	for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char path[128];

		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", names[i]);
		all_ways(path, &scalar_alone, ways, sizeof(ways) / sizeof(ways[0]), 90, 12);
	}
}

/* Contexts of more than one attention split. */
static void test_bits_of_long_contexts(void **state)
{
	static const struct way ways[] = {
	    {"avx2", 1, 0, true}, {"avx512", 2, 100, true}, {"avx512", 1, 7, false}};

	kv_type = *(uint32_t *)*state;
	all_ways("tests/golden/tiny/qwen3.gguf", &scalar_alone, ways,
	         sizeof(ways) / sizeof(ways[0]), 1150, 4);
}

static void test_bits_of_the_real_model(void **state)
{
	static const struct way first = {"auto", 1, 0, false};
	static const struct way ways[] = {{"auto", 2, 3, true}, {"avx2", 1, 16, true}};
	const char *path = plx_test_model();

	kv_type = *(uint32_t *)*state;
	if (path == NULL) {
		printf("test_forward: real model SKIPPED, no model; `make test` gets it\n");
		skip();
	}
#ifdef PLX_DEBUG
	all_ways(path, &first, ways, 1, 5, 2);
#else
	all_ways(path, &first, ways, sizeof(ways) / sizeof(ways[0]), 20, 4);
#endif
}

int main(void)
{
#define OF_EACH_TYPE(f)                                                                            \
	{#f ": f16", f, NULL, NULL, &types[0]}, {#f ": q8", f, NULL, NULL, &types[1]},             \
	{                                                                                          \
#f ": q4", f, NULL, NULL, &types[2]                                                \
	}
	const struct CMUnitTest tests[] = {
	    OF_EACH_TYPE(test_bits_of_tiny_models),
	    OF_EACH_TYPE(test_bits_of_long_contexts),
	    cmocka_unit_test_prestate(test_bits_of_the_real_model, &types[0]),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
