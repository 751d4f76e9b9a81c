/*
 * KV blocks from one CPU device to another: a sequence goes on there with the same logits, bit by
 * bit, while the first one runs something else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "fw/base/err.h"
#include "tests/lib/devkit.h"

#define N_PROMPT 40u
#define N_NEW    6u
#define N_VOCAB  128u

static const int32_t ids[N_PROMPT] = {11, 90, 3,  77, 5,  60, 12, 99, 101, 7,  31, 2,  8,  120,
                                      44, 1,  19, 63, 88, 27, 9,  70, 35,  54, 66, 13, 81, 4,
                                      17, 29, 93, 10, 42, 58, 6,  22, 75,  37, 50, 15};
static const int32_t last = PLX_TOK_LAST;

static struct devkit here, there;
static float want[N_NEW][N_VOCAB];
static int32_t said[N_NEW];

static void open_both(const char *there_model, uint32_t block_tokens, uint32_t threads)
{
	struct plx_dev_limits lim = devkit_limits();

	devkit_open(&here, "tests/golden/tiny/qwen3.gguf", "auto", &lim);
	lim.block_tokens = block_tokens;
	lim.n_blocks = 700;
	lim.n_threads = threads;
	devkit_open(&there, there_model, "auto", &lim);
}

static void close_both(void)
{
	devkit_close(&there);
	devkit_close(&here);
}

/* Runs one step of a slot that stands in blocks 600 and on, and keeps its logits. */
static void run(struct devkit *k, struct plx_step *s, float *logits, int32_t *id)
{
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	assert_int_equal(devkit_wait(k), 0);
	assert_int_equal(s->status, 0);
	memcpy(logits, devkit_logits(k, 0), N_VOCAB * sizeof(float));
	*id = plx_step_outs(s)[0].id[0];
}

static struct plx_step *prompt_step(struct devkit *k, uint32_t first_block)
{
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(k, 0);

	devkit_set(s, 5, &greedy);
	devkit_blocks(s, 5, 0, 3, first_block);
	devkit_seq(s, 5, ids, 0, N_PROMPT, true);
	return s;
}

static void clear(struct devkit *k)
{
	devkit_clear(devkit_step(k, 0), 5);
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	assert_int_equal(devkit_wait(k), 0);
}

/* What the other device says alone. */
static void run_alone(void)
{
	run(&there, prompt_step(&there, 600), want[0], &said[0]);
	for (uint32_t i = 1; i < N_NEW; i++) {
		struct plx_step *s = devkit_step(&there, 0);

		devkit_seq(s, 5, &last, N_PROMPT + i - 1, 1, true);
		run(&there, s, want[i], &said[i]);
	}
	clear(&there);
}

/* From the first token on, in blocks 100 and on. */
static void go_on_there(void)
{
	struct plx_sampler greedy = devkit_greedy();
	float got[N_VOCAB];
	int32_t id;

	for (uint32_t i = 1; i < N_NEW; i++) {
		struct plx_step *s = devkit_step(&there, 0);

		if (i == 1) {
			devkit_set(s, 5, &greedy);
			devkit_blocks(s, 5, 0, 3, 100);
		}
		devkit_seq(s, 5, i == 1 ? &said[0] : &last, N_PROMPT + i - 1, 1, true);
		run(&there, s, got, &id);
		assert_memory_equal(got, want[i], sizeof(got));
		assert_int_equal(id, said[i]);
	}
	clear(&there);
}

static void copied_prefill(uint32_t threads)
{
	static const struct plx_block_copy pairs[3] = {{40, 100}, {41, 101}, {42, 102}};

	open_both("tests/golden/tiny/qwen3.gguf", 16, threads);
	run_alone();
	struct plx_step *s = prompt_step(&here, 40);

	assert_int_equal(plx_queue_submit(here.q, 0), 0);
	assert_int_equal(devkit_wait(&here), 0);
	assert_int_equal(plx_step_outs(s)[0].id[0], said[0]);
	assert_memory_equal(devkit_logits(&here, 0), want[0], sizeof(want[0]));
	/* Another prompt is under way there, and will be when all is said here. */
	clear(&here);
	(void)prompt_step(&here, 300);
	assert_int_equal(plx_queue_submit(here.q, 0), 0);
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, pairs, 3), 0);
	go_on_there();
	assert_int_equal(devkit_wait(&here), 0);
	clear(&here);
	close_both();
}

static void test_copied_prefill_gives_the_same_logits(void **state)
{
	(void)state;
	copied_prefill(1);
	copied_prefill(3);
}

/* Through host blocks: out to the one's, over to the other's, and in. */
static void test_copied_through_host_blocks(void **state)
{
	(void)state;
	open_both("tests/golden/tiny/qwen3.gguf", 16, 1);
	uint32_t a = here.lim.n_blocks, b = there.lim.n_blocks;
	const struct plx_block_copy out[3] = {{40, a}, {41, a + 1}, {42, a + 3}};
	const struct plx_block_copy over[3] = {{a, b + 2}, {a + 1, b}, {a + 3, b + 1}};
	const struct plx_block_copy in[3] = {{b + 2, 100}, {b, 101}, {b + 1, 102}};
	const struct plx_block_copy bad_src = {a + 4, 0}, bad_dst = {0, b + 4};

	run_alone();
	(void)prompt_step(&here, 40);
	assert_int_equal(plx_queue_submit(here.q, 0), 0);
	assert_int_equal(plx_queue_copy_blocks(here.q, here.q, out, 3), 0);
	assert_int_equal(devkit_wait(&here), 0);
	clear(&here); /* behind the copy, which has no answer of its own */
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, over, 3), 0);
	assert_int_equal(plx_queue_copy_blocks(there.q, there.q, in, 3), 0);
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, &bad_src, 1), PLX_E_INVAL);
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, &bad_dst, 1), PLX_E_INVAL);
	go_on_there();
	close_both();
}

static void test_other_layouts_are_refused(void **state)
{
	static const struct plx_block_copy pair = {0, 0};

	(void)state;
	open_both("tests/golden/tiny/qwen3.gguf", 32, 1);
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, &pair, 1), PLX_E_UNSUPPORTED);
	close_both();
	open_both("tests/golden/tiny/llama3.gguf", 16, 1);
	struct plx_dev_info a, b;

	assert_int_equal(plx_dev_info_get(here.dev, &a), 0);
	assert_int_equal(plx_dev_info_get(there.dev, &b), 0);
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, &pair, 1),
	                 a.kv_layout_hash == b.kv_layout_hash ? 0 : PLX_E_UNSUPPORTED);
	close_both();
}

/* A reset of either side in between: of no use, but nothing is held up. */
static void test_copies_survive_resets(void **state)
{
	static const struct plx_block_copy pair = {40, 600};

	(void)state;
	open_both("tests/golden/tiny/qwen3.gguf", 16, 1);
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, &pair, 1), 0);
	assert_int_equal(plx_dev_reset(there.dev), 0);
	assert_int_equal(plx_queue_copy_blocks(there.q, here.q, &pair, 1), 0);
	assert_int_equal(plx_dev_reset(here.dev), 0);
	run_alone();
	close_both();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_copied_prefill_gives_the_same_logits),
	    cmocka_unit_test(test_copied_through_host_blocks),
	    cmocka_unit_test(test_other_layouts_are_refused),
	    cmocka_unit_test(test_copies_survive_resets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
