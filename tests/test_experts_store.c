/*
 * Experts that are read from a file as they are needed: the bits are those of a device that has
 * them all in memory, whatever the memory and whoever runs beside; what is refused; a file that is
 * damaged, cut short, of another model or can't be made.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accel/cpu.h"
#include "accel/experts.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "tests/lib/devkit.h"
#include "tests/lib/mtool.h"

static const char *const names[] = {"mixtral", "qwen2moe", "qwen3moe"};

/* Folder of the test's own with the tiny models in it, so that their files lie beside them. */
static int setup(void **state)
{
	(void)state;
	plx_log_init("test", PLX_LOG_ERROR);
	mtool_begin();
	for (size_t i = 0; i < 3; i++) {
		char from[64];
		size_t n;

		snprintf(from, sizeof(from), "tests/golden/tiny/%s.gguf", names[i]);
		void *p = mtool_read(from, &n);

		mtool_write(mtool_path(names[i]), p, n);
		free(p);
	}
	return 0;
}

static struct plx_model *model(const char *name)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	if (plx_model_open(mtool_path(name), &m, &d) != 0)
		fail_msg("%s", d.text);
	return m;
}

static uint64_t bytes_of(const char *name, uint32_t n_slot)
{
	struct plx_model *m = model(name);
	uint64_t n = n_slot * plx_experts_slot_bytes(m);

	plx_model_close(m);
	return n;
}

/* ---- bits ----------------------------------------------------------------------------------- */

static const int32_t ids[24] = {11, 30, 3,  57, 5,  60, 12, 9,  41, 7,  31, 2,
                                8,  20, 44, 1,  19, 63, 18, 27, 39, 50, 35, 54};

struct way {
	uint32_t n_slot; /* 0: all in memory */
	uint32_t n_threads;
	uint32_t chunk;
	bool company;
};

/* The bits of all logits of a prompt and 8 ids; what the store counted. */
static uint64_t run(const char *name, const struct way *w, struct plx_dev_experts *n)
{
	struct plx_dev_limits lim = devkit_limits();
	struct devseq q[2] = {0};
	struct devkit k;

	lim.n_threads = w->n_threads;
	lim.expert_mem_bytes = w->n_slot > 0 ? bytes_of(name, w->n_slot) : 0;
	devkit_open_cached(&k, model(name), "auto", &lim, mtool_path(name));
	q[0] = (struct devseq){.prompt = ids,
	                       .n_prompt = 24,
	                       .n_new = 8,
	                       .chunk = w->chunk,
	                       .sampler = devkit_greedy()};
	q[1] = (struct devseq){.prompt = ids + 7, .n_prompt = 9, .n_new = 4};
	q[1].sampler = devkit_greedy();
	devkit_run(&k, q, w->company ? 2 : 1);
	assert_int_equal(q[0].status, 0);
	assert_int_equal(plx_dev_experts_get(k.dev, n), 0);
	devkit_close(&k);
	return q[0].hash;
}

static void test_bits_are_those_of_all_in_memory(void **state)
{
	/* Mixtral: 2 layers of 4, Qwen2-MoE 2 of 8, Qwen3-MoE 3 of 16; a quarter is 2, 4 and 12. */
	static const uint32_t quarter[3] = {2, 4, 12};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct way all = {.n_threads = 1};
		struct way some[] = {
		    {quarter[i], 1, 0, false}, {quarter[i], 1, 5, false}, {quarter[i], 2, 0, true},
		    {quarter[i], 3, 1, true},  {5, 2, 0, false},
		};
		struct plx_dev_experts n;
		uint64_t want = run(names[i], &all, &n);

		assert_int_equal(n.hits + n.misses + n.read_bytes + n.ahead + n.wait_ns, 0);
		for (size_t j = 0; j < sizeof(some) / sizeof(some[0]); j++) {
			assert_true(run(names[i], &some[j], &n) == want);
			assert_int_equal(n.hits + n.misses, n.passes);
			assert_true(n.misses >= some[j].n_slot && n.ahead_used <= n.ahead);
			/* Each miss was read once, and what was guessed and not used. */
			uint64_t most = n.misses + n.ahead;

			assert_true(n.read_bytes <= most * bytes_of(names[i], 1));
			assert_true(n.read_bytes > 0);
		}
	}
}

/* Memory for all but one expert: after the first round nearly all are hits. */
static void test_what_is_there_is_not_read_again(void **state)
{
	struct way most = {.n_slot = 7, .n_threads = 1, .chunk = 1};
	struct plx_dev_experts n;

	(void)state;
	(void)run("mixtral", &most, &n);
	/* 31 tokens by 2 layers by 2 experts, but the last layer of prompt tokens that need none.
	 */
	assert_true(n.hits > n.misses);
	assert_true(n.misses >= 7 && n.wait_ns > 0);
}

/* As much as all of them: nothing is read, no file is made. */
static void test_memory_for_all_streams_nothing(void **state)
{
	struct way all = {.n_slot = 8, .n_threads = 1};
	struct plx_dev_experts n;

	(void)state;
	(void)unlink(mtool_path("mixtral.experts.plx"));
	(void)run("mixtral", &all, &n);
	assert_int_equal(n.hits + n.misses + n.read_bytes, 0);
	assert_int_equal(access(mtool_path("mixtral.experts.plx"), F_OK), -1);
}

/* ---- refusals ------------------------------------------------------------------------------- */

/* Loads a model; the error and its text. */
static int load(const char *name, const char *base, uint64_t expert_bytes, struct plx_diag *d)
{
	struct plx_dev_conf conf = {.kind = "cpu", .name = "cpu0", .isa = "auto"};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_load_progress p;
	struct plx_model *m = model(name);
	struct plx_dev *dev;

	lim.expert_mem_bytes = expert_bytes;
	snprintf(conf.cache_base, sizeof(conf.cache_base), "%s", base);
	assert_int_equal(plx_dev_open(&conf, &dev, d), 0);
	int err = plx_dev_load_begin(dev, m, &lim, d);

	while (err == 0 && (err = plx_dev_load_poll(dev, 1000, &p, d)) == PLX_E_AGAIN)
		err = 0;
	plx_dev_close(dev);
	plx_model_close(m);
	return err;
}

static void test_too_little_memory_is_refused(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(load("qwen3moe", mtool_path("qwen3moe"), bytes_of("qwen3moe", 3), &d),
	                 PLX_E_LIMIT);
	assert_non_null(strstr(d.text, "hold 3 of them, and a token of this model uses 4"));
	assert_non_null(strstr(d.text, "give expert_mem_mib at least 1, or 0 for all"));
}

static void test_no_file_is_refused(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(load("mixtral", "", bytes_of("mixtral", 2), &d), PLX_E_INVAL);
	assert_non_null(strstr(d.text, "give weights_cache: auto and a model that is a file"));
	d.text[0] = '\0';
	assert_int_equal(load("mixtral", "/nowhere/mixtral", bytes_of("mixtral", 2), &d), PLX_E_IO);
	assert_non_null(strstr(d.text, "/nowhere/mixtral.experts.plx: it can't be made: No such"));
}

/* No room: said, and neither the file nor what was begun of it is left. */
static void test_no_room_is_refused(void **state)
{
	struct rlimit was, little = {4096, RLIM_INFINITY};
	struct plx_diag d = {0};

	(void)state;
	(void)unlink(mtool_path("mixtral.experts.plx"));
	(void)signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	little.rlim_max = was.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
	int err = load("mixtral", mtool_path("mixtral"), bytes_of("mixtral", 2), &d);

	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(err, PLX_E_FULL);
	assert_non_null(strstr(d.text, "mixtral.experts.plx: it can't be made as large"));
	assert_int_equal(access(mtool_path("mixtral.experts.plx"), F_OK), -1);
	assert_int_equal(access(mtool_path("mixtral.experts.plx.tmp"), F_OK), -1);
}

/* ---- a bad file ----------------------------------------------------------------------------- */

static off_t file_bytes(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

/* One expert of the file is overwritten while the device runs. */
static void spoil(const char *path, off_t from, off_t to, uint64_t stride)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	for (; from < to; from += (off_t)stride)
		assert_int_equal(pwrite(fd, "spoilt", 6, from), 6);
	close(fd);
}

static int32_t step_status(struct devkit *k, bool first, const int32_t *id)
{
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(k, 0);

	if (first) {
		devkit_set(s, 3, &greedy);
		devkit_blocks(s, 3, 0, 2, 40);
	}
	devkit_seq(s, 3, id, 0, 8, true);
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	(void)devkit_wait(k);
	if (s->status == 0)
		assert_int_equal(plx_step_outs(s)[0].n_out, 1);
	else
		assert_int_equal(plx_step_outs(s)[0].status, s->status);
	return s->status;
}

static void clear(struct devkit *k)
{
	struct plx_step *s = devkit_step(k, 0);

	devkit_clear(s, 3);
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	(void)devkit_wait(k);
	assert_int_equal(s->status, 0);
}

static void test_damage_is_a_fault_of_the_step_alone(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	const char *path = mtool_path("qwen3moe.experts.plx");
	uint64_t slot = bytes_of("qwen3moe", 1);
	struct devkit k;

	(void)state;
	plx_log_init("test (a damaged file is expected)", PLX_LOG_ERROR);
	(void)unlink(path);
	lim.n_threads = 2;
	lim.expert_mem_bytes = 8 * slot;
	devkit_open_cached(&k, model("qwen3moe"), "auto", &lim, mtool_path("qwen3moe"));
	size_t n;
	uint8_t *good = mtool_read(path, &n);

	assert_int_equal(n, file_bytes(path));
	spoil(path, (off_t)(n - 48 * slot), (off_t)n, slot);
	assert_int_equal(step_status(&k, true, ids), PLX_E_FAULT);
	assert_int_equal(step_status(&k, false, ids), PLX_E_FAULT);
	clear(&k);
	/* As it was again: so is the device, without a reset. */
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_int_equal(write(fd, good, n), n);
	close(fd);
	assert_int_equal(step_status(&k, true, ids), 0);
	/* Cut short, the reads themselves fail. */
	assert_int_equal(truncate(path, (off_t)(n - 48 * slot)), 0);
	assert_int_equal(step_status(&k, false, ids + 9), PLX_E_FAULT);
	devkit_close(&k);
	free(good);
	plx_log_init("test", PLX_LOG_ERROR);
	/* The next start makes it anew. */
	struct plx_diag d = {0};

	assert_int_equal(load("qwen3moe", mtool_path("qwen3moe"), 8 * slot, &d), 0);
	assert_int_equal(file_bytes(path), n);
}

/* What runs while its experts are on their way can be given up. */
static void test_reset_while_experts_are_read(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	struct devkit k;

	(void)state;
	lim.expert_mem_bytes = bytes_of("mixtral", 2);
	devkit_open_cached(&k, model("mixtral"), "auto", &lim, mtool_path("mixtral"));
	for (uint32_t i = 0; i < 20; i++) {
		struct plx_sampler greedy = devkit_greedy();
		struct plx_step *s = devkit_step(&k, 0);
		uint32_t done;

		devkit_set(s, 3, &greedy);
		devkit_blocks(s, 3, 0, 2, 40);
		devkit_seq(s, 3, ids, 0, 24, true);
		assert_int_equal(plx_queue_submit(k.q, 0), 0);
		/* A step is more than a poll or two: it waits for an expert by now. */
		int n = plx_queue_poll(k.q, 100, &done, 1);

		if (i % 2 == 0) {
			assert_int_equal(plx_dev_reset(k.dev), 0);
		} else {
			__atomic_store_n(&s->cancel, 1, __ATOMIC_RELAXED);
		}
		while (n == 0)
			n = plx_queue_poll(k.q, 200, &done, 1);
		assert_true(s->status == 0 ||
		            s->status == (i % 2 == 0 ? PLX_E_LOST : PLX_E_CANCELLED));
		if (i % 2 == 1)
			clear(&k);
	}
	devkit_close(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_bits_are_those_of_all_in_memory),
	    cmocka_unit_test(test_what_is_there_is_not_read_again),
	    cmocka_unit_test(test_memory_for_all_streams_nothing),
	    cmocka_unit_test(test_too_little_memory_is_refused),
	    cmocka_unit_test(test_no_file_is_refused),
	    cmocka_unit_test(test_no_room_is_refused),
	    cmocka_unit_test(test_damage_is_a_fault_of_the_step_alone),
	    cmocka_unit_test(test_reset_while_experts_are_read),
	};

	return cmocka_run_group_tests(tests, setup, mtool_teardown);
}
