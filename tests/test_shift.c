/*
 * Tokens that leave a context: what stays is at its new positions as if it had been rotated there
 * in double precision, with the same bits on every instruction set, thread count and chunking, and
 * sampling goes on counting.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include <xxhash.h>

#include "accel/cpu.h"
#include "accel/forward_int.h"
#include "tests/lib/devkit.h"

#define BT     16u
#define BLOCKS 8u
#define DROP   2u
#define N_IDS  (BT * BLOCKS + BT * DROP)

static struct devkit kit;
static int32_t ids[N_IDS];

static void kit_open_kv(const char *model, const char *isa, uint32_t n_threads,
                        enum plx_kv_type type)
{
	struct plx_dev_limits lim = devkit_limits();

	lim.block_tokens = BT;
	lim.max_seq_blocks = BLOCKS;
	lim.n_blocks = 4 * BLOCKS;
	lim.n_threads = n_threads;
	lim.kv_type = type;
	devkit_open(&kit, model, isa, &lim);
	for (uint32_t i = 0; i < N_IDS; i++)
		ids[i] = (int32_t)((i * 37 + i * i) % kit.model->n_vocab);
}

static void kit_open(const char *model, const char *isa, uint32_t n_threads)
{
	kit_open_kv(model, isa, n_threads, PLX_KV_F16);
}

static void step_run(struct plx_step *s)
{
	assert_int_equal(plx_queue_submit(kit.q, 0), 0);
	assert_int_equal(devkit_wait(&kit), 0);
	assert_int_equal(s->status, 0);
}

static struct plx_sampler sampler_of(void)
{
	return (struct plx_sampler){.temperature = 1.5f,
	                            .top_p = 1,
	                            .repeat_penalty = 1.3f,
	                            .penalty_window = 64,
	                            .seed = 11};
}

/* The slot's window full: block i of the table is block first + i. */
static void fill_window(uint32_t slot, uint32_t first, uint32_t chunk)
{
	struct plx_sampler p = sampler_of();

	for (uint32_t at = 0; at < BT * BLOCKS; at += chunk) {
		struct plx_step *s = devkit_step(&kit, 0);
		uint32_t n = BT * BLOCKS - at < chunk ? BT * BLOCKS - at : chunk;

		if (at == 0) {
			devkit_set(s, slot, &p);
			devkit_blocks(s, slot, 0, BLOCKS, first);
		}
		devkit_seq(s, slot, ids + at, at, n, false);
		step_run(s);
	}
}

/* Blocks 1 .. DROP of the slot leave. */
static void add_shift(struct plx_step *s, uint32_t slot, uint32_t first)
{
	devkit_blocks(s, slot, 1, BLOCKS - DROP, first + 1 + DROP);
	plx_step_deltas(s)[s->n_delta++] = (struct plx_step_delta){.kind = PLX_DELTA_SHIFT,
	                                                           .slot = slot,
	                                                           .index = 1,
	                                                           .block = DROP,
	                                                           .n_blocks = BLOCKS - DROP};
}

/* K of a token in block `block`, of one layer and head. */
static void k_of(uint32_t block, uint32_t t, uint32_t layer, uint32_t head, float *k)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)kit.dev;
	struct plx_k_kv kv = plx_fwd_kv_view(&c->fwd, &block, layer, head);

	c->k->k_load(&kv, t, k);
}

/* a rotated back by `down` positions, in double. */
static void turn_back(const struct plx_model *m, float *a, uint32_t down)
{
	bool halves = m->pairing == PLX_ROPE_HALVES;

	for (uint32_t i = 0; i < m->n_rot / 2; i++) {
		double angle = -(double)down * (double)m->rope_scale *
		               pow((double)m->rope_base, -2.0 * i / m->n_rot);
		uint32_t x = halves ? i : 2 * i, y = halves ? i + m->n_rot / 2 : 2 * i + 1;
		double p = (double)a[x], q = (double)a[y];

		if (m->rope_factors)
			angle /= (double)m->rope_factors[i];
		a[x] = (float)(p * cos(angle) - q * sin(angle));
		a[y] = (float)(q * cos(angle) + p * sin(angle));
	}
}

static void shift_is_a_rotation(const char *model)
{
	static float was[BLOCKS][BT][PLX_K_HEAD_DIM_MAX];
	float now[PLX_K_HEAD_DIM_MAX];

	kit_open(model, "auto", 2);
	const struct plx_model *m = kit.model;
	uint32_t layer = m->n_layer - 1, head = m->n_head_kv - 1, n_moved = 0;

	fill_window(0, 3, BT * BLOCKS);
	for (uint32_t b = 0; b < BLOCKS; b++)
		for (uint32_t t = 0; t < BT; t++)
			k_of(3 + b, t, layer, head, was[b][t]);
	struct plx_step *s = devkit_step(&kit, 0);

	add_shift(s, 0, 3);
	step_run(s); /* without a token */
	for (uint32_t b = 0; b < BLOCKS; b++)
		for (uint32_t t = 0; t < BT; t++) {
			k_of(3 + b, t, layer, head, now);
			if (b > DROP)
				turn_back(m, was[b][t], DROP * BT);
			for (uint32_t d = 0; d < m->head_dim; d++) {
				float bound = b > DROP ? 0.0006f * fabsf(was[b][t][d]) + 1e-3f : 0;

				assert_true(fabsf(now[d] - was[b][t][d]) <= bound);
			}
			n_moved += b > DROP;
		}
	assert_int_equal(n_moved, 80);
	devkit_close(&kit);
}

static void test_shift_rotates_what_stays(void **state)
{
	(void)state;
	shift_is_a_rotation("tests/golden/tiny/llama3.gguf"); /* adjacent pairs, factors */
	shift_is_a_rotation("tests/golden/tiny/llama-linear.gguf");
	shift_is_a_rotation("tests/golden/tiny/qwen2.gguf"); /* halves */
}

/* Everything a shifted slot says in 32 more tokens, and the logits that it said it with. */
static uint64_t hash_of_rest(uint32_t slot, uint32_t first, uint32_t chunk)
{
	uint32_t pos = BT * (BLOCKS - DROP), n = N_IDS - BT * BLOCKS;
	uint64_t h = 0;

	for (uint32_t at = 0; at < n - 8; at += chunk) {
		struct plx_step *s = devkit_step(&kit, 0);
		uint32_t take = n - 8 - at < chunk ? n - 8 - at : chunk;

		if (at == 0) {
			add_shift(s, slot, first);
			devkit_blocks(s, slot, BLOCKS - DROP, BLOCKS, first + 1);
		}
		devkit_seq(s, slot, ids + BT * BLOCKS + at, pos + at, take, at + take == n - 8);
		step_run(s);
	}
	for (uint32_t i = 0; i < 8; i++) {
		static const int32_t last = PLX_TOK_LAST;

		h = XXH3_64bits_withSeed(devkit_logits(&kit, 0), kit.model->n_vocab * 4, h);
		if (i == 7)
			break;
		struct plx_step *s = devkit_step(&kit, 0);

		devkit_seq(s, slot, &last, pos + n - 8 + i, 1, true);
		step_run(s);
		h = XXH3_64bits_withSeed(&plx_step_outs(s)[0].id[0], 4, h);
	}
	return h;
}

static void test_shift_same_bits_everywhere(void **state)
{
	static const struct {
		const char *isa;
		uint32_t n_threads, chunk;
	} way[] = {{"scalar", 1, 200}, {"scalar", 2, 7}, {"avx2", 1, 200},
	           {"avx2", 3, 16},    {"avx512", 1, 1}, {"avx512", 3, 33}};
	static const char *const models[] = {"tests/golden/tiny/llama3.gguf",
	                                     "tests/golden/tiny/qwen3.gguf"};

	(void)state;
	for (uint32_t n = 0; n < 2 * PLX_KV_N_TYPES; n++) {
		uint32_t m = n % 2;
		uint64_t want = 0;

		for (uint32_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
			if (!devkit_has_isa(way[i].isa))
				continue;
			kit_open_kv(models[m], way[i].isa, way[i].n_threads,
			            (enum plx_kv_type)(n / 2));
			fill_window(i % 3, 5, way[i].chunk);
			uint64_t h = hash_of_rest(i % 3, 5, way[i].chunk);

			want = i == 0 ? h : want;
			assert_true(h == want);
			devkit_close(&kit);
		}
	}
}

/* Draws and penalties are those of a text that lost nothing. */
static void test_shift_sampling_goes_on_counting(void **state)
{
	struct plx_slot_sampler p;
	struct plx_sampler conf = sampler_of();
	static float logits[4096];

	(void)state;
	kit_open("tests/golden/tiny/llama3.gguf", "auto", 1);
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)kit.dev;

	fill_window(0, 0, BT * BLOCKS);
	struct plx_step *s = devkit_step(&kit, 0);

	add_shift(s, 0, 0);
	devkit_blocks(s, 0, BLOCKS - DROP, BLOCKS, 1);
	devkit_seq(s, 0, ids + BT * BLOCKS, BT * (BLOCKS - DROP), 3, true);
	step_run(s);
	plx_slot_sampler_set(&p, &conf);
	for (uint32_t i = 0; i < BT * BLOCKS + 3; i++)
		plx_slot_sampler_note(&p, i, ids[i]);
	memcpy(logits, devkit_logits(&kit, 0), kit.model->n_vocab * sizeof(float));
	struct plx_choice want = plx_slot_sampler_choose(&p, c->k, logits, kit.model->n_vocab,
	                                                 BT * BLOCKS + 3, NULL, 0, c->scratch);

	assert_int_equal(plx_step_outs(s)[0].id[0], want.id);
	/* Here counting from anew would choose another one. */
	memcpy(logits, devkit_logits(&kit, 0), kit.model->n_vocab * sizeof(float));
	struct plx_choice other = plx_slot_sampler_choose(
	    &p, c->k, logits, kit.model->n_vocab, BT * (BLOCKS - DROP) + 3, NULL, 0, c->scratch);

	assert_int_not_equal(other.id, want.id);
	devkit_close(&kit);
}

/* Two slots in one step: each its own table, and a third that does not move. */
static void test_shift_of_several_slots(void **state)
{
	uint64_t alone, h[2];

	(void)state;
	kit_open("tests/golden/tiny/qwen2.gguf", "auto", 2);
	fill_window(0, 0, 64);
	alone = hash_of_rest(0, 0, 64);
	struct plx_step *s = devkit_step(&kit, 0);

	devkit_clear(s, 0);
	step_run(s);
	for (uint32_t i = 0; i < 3; i++)
		fill_window(i, i * BLOCKS, 64);
	s = devkit_step(&kit, 0);
	add_shift(s, 0, 0);
	add_shift(s, 2, 2 * BLOCKS);
	devkit_blocks(s, 0, BLOCKS - DROP, BLOCKS, 1);
	devkit_blocks(s, 2, BLOCKS - DROP, BLOCKS, 2 * BLOCKS + 1);
	uint32_t n = N_IDS - BT * BLOCKS - 8, pos = BT * (BLOCKS - DROP);

	devkit_seq(s, 0, ids + BT * BLOCKS, pos, n, true);
	devkit_seq(s, 2, ids + BT * BLOCKS, pos, n, true);
	step_run(s);
	for (uint32_t i = 0; i < 2; i++)
		h[i] = XXH3_64bits(devkit_logits(&kit, i), kit.model->n_vocab * 4);
	assert_true(h[0] == h[1]);
	s = devkit_step(&kit, 0);
	devkit_clear(s, 1);
	step_run(s);
	fill_window(1, BLOCKS, 64);
	assert_true(hash_of_rest(1, BLOCKS, 64) == alone);
	devkit_close(&kit);
}

/* A block of 32 positions with some extremes, rotated by sixteens and one by one. */
static void rotate_both(const struct plx_kernels *k, enum plx_k_kv_type type, uint32_t dim,
                        uint32_t n_rot, enum plx_k_rope kind, uint8_t out[2][32768])
{
	static const uint32_t table[1] = {0};
	float x[PLX_K_HEAD_DIM_MAX], tab[PLX_K_HEAD_DIM_MAX];
	uint32_t seed = dim + n_rot;

	memset(out[0], 0, 2 * sizeof(out[0]));
	plx_k_rope_row(tab, 37, n_rot, 10000, 1, NULL);
	for (uint32_t w = 0; w < 2; w++) {
		struct plx_k_kv kv = {.base = out[w],
		                      .table = table,
		                      .block_bytes = sizeof(out[w]),
		                      .block_tokens = 32,
		                      .head_dim = dim,
		                      .type = type};

		kv.v_off = sizeof(out[w]) / 2;
		for (uint32_t p = 0; p < 32; p++) {
			uint32_t s = seed + p;

			for (uint32_t i = 0; i < dim; i++) {
				s = s * 1664525u + 1013904223u;
				x[i] =
				    (float)((double)s / 4294967296.0 - 0.5) * (p % 3 ? 8 : 90000);
			}
			x[p % dim] = p == 5 ? NAN : p == 6 ? 1e-7f : x[p % dim];
			k->kv_store(&kv, p, x, x);
		}
		for (uint32_t p = 16; p < 32 && w == 0; p += 16)
			k->k_rotate(&kv, p, tab, n_rot, kind);
		for (uint32_t p = 16; p < 32 && w == 1; p++) {
			k->k_load(&kv, p, x);
			k->rope(x, tab, 1, dim, n_rot, kind);
			k->k_store(&kv, p, x);
		}
	}
}

static void test_shift_sixteen_at_once_are_one_by_one(void **state)
{
	static const enum plx_k_isa isas[] = {PLX_K_ISA_SCALAR, PLX_K_ISA_AVX2, PLX_K_ISA_AVX512};
	static const uint32_t dims[][2] = {{16, 16}, {64, 64}, {80, 48}, {256, 128}};
	static uint8_t both[2][32768], first[32768];

	(void)state;
	for (uint32_t n = 0; n < 2u * 3 * 4; n++) {
		enum plx_k_rope kind = n % 2 ? PLX_K_ROPE_HALVES : PLX_K_ROPE_ADJACENT;

		for (uint32_t i = 0; i < 3; i++) {
			const struct plx_kernels *k = plx_kernels_select(isas[i]);

			if (k == NULL)
				continue;
			rotate_both(k, (enum plx_k_kv_type)(n / 2 % 3), dims[n / 6][0],
			            dims[n / 6][1], kind, both);
			assert_memory_equal(both[0], both[1], sizeof(both[0]));
			if (i == 0)
				memcpy(first, both[0], sizeof(first));
			assert_memory_equal(both[0], first, sizeof(first));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_shift_sixteen_at_once_are_one_by_one),
	    cmocka_unit_test(test_shift_rotates_what_stays),
	    cmocka_unit_test(test_shift_same_bits_everywhere),
	    cmocka_unit_test(test_shift_sampling_goes_on_counting),
	    cmocka_unit_test(test_shift_of_several_slots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
