/*
 * The cache of repacked weights: who is trusted, what is refused, what survives a full disk, two
 * writers and a dead one; and that a device computes with the same bytes however it got them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xxhash.h>

#include "accel/cpu.h"
#include "accel/cpu_cache.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "kernels/cpu/layout.h"
#include "tests/lib/cachekit.h"

#define DATA_BYTES ((5u << 19) + 64) /* two chunks and a half */
#define TINY       "tests/golden/tiny/qwen3.gguf"
#define NOBODY     65534

static char dir[64], path[96], tmp[112];
static uint8_t *data;
static struct plx_cache_plan plan;

static int setup(void **state)
{
	(void)state;
	plx_log_init("test", PLX_LOG_ERROR);
	snprintf(dir, sizeof(dir), "/tmp/plx-cache-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/m.gguf.plx", dir);
	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	data = malloc(DATA_BYTES);
	assert_non_null(data);
	plx_t_cache_fill(data, DATA_BYTES);
	plan = plx_t_cache_plan(DATA_BYTES);
	return 0;
}

static int teardown(void **state)
{
	char other[128];

	(void)state;
	(void)chmod(dir, 0700);
	(void)unlink(path);
	(void)unlink(tmp);
	snprintf(other, sizeof(other), "%s/m.gguf", dir);
	(void)unlink(other);
	snprintf(other, sizeof(other), "%s/other", dir);
	(void)unlink(other);
	assert_int_equal(rmdir(dir), 0); /* nothing else was left */
	free(data);
	return 0;
}

static bool exists(const char *p)
{
	struct stat st;

	return lstat(p, &st) == 0;
}

/* Writes the cache by its writer; returns the writer's outcome. */
static int written(void)
{
	static struct plx_cache_writer w;

	memset(&w, 0, sizeof(w));
	assert_int_equal(plx_cache_write_start(&w, path, &plan, data, NULL), 0);
	plx_cache_write_wait(&w);
	assert_true(w.done);
	return w.err;
}

/* Opens and reads all of it: 0, or the error; what was read must be what was written. */
static int readable(const struct plx_cache_plan *p, struct plx_diag *why)
{
	struct plx_cache c;
	uint8_t *got = calloc(1, DATA_BYTES);
	int err = plx_cache_open(&c, path, p, why);

	for (uint32_t i = 0; err == 0 && i < c.n_chunk; i++)
		err = plx_cache_read(&c, i, got);
	if (err == 0)
		assert_memory_equal(got, data, DATA_BYTES);
	plx_cache_close(&c);
	free(got);
	return err;
}

static void refused(const struct plx_cache_plan *p, int want, const char *text)
{
	struct plx_diag why = {0};

	assert_int_equal(readable(p, &why), want);
	assert_string_equal(why.text, text);
}

static void put_file(const uint8_t *bytes, uint64_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	close(fd);
}

static void test_cache_round_trip(void **state)
{
	struct stat st;
	uint64_t n;
	uint8_t *want = plx_t_cache_file(&plan, data, &n), *got = malloc(n);

	(void)state;
	refused(&plan, PLX_E_NOT_FOUND, "");
	assert_int_equal(written(), 0);
	assert_false(exists(tmp));
	assert_int_equal(readable(&plan, NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, n);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, got, n), n);
	assert_memory_equal(got, want, n);
	close(fd);
	free(got);
	free(want);
}

static void test_cache_of_something_else_is_refused(void **state)
{
	struct plx_cache_mat mat[2];
	struct plx_cache_plan p = plan;

	(void)state;
	assert_int_equal(written(), 0);
	p.layout_id = 8;
	refused(&p, PLX_E_STALE, "it has kernel layout 7, this build 8");
	p = plan;
	p.model_mtime_ns++;
	refused(&p, PLX_E_STALE, "the model file has changed since");
	p = plan;
	p.model_bytes--;
	refused(&p, PLX_E_STALE, "the model file has changed since");
	p = plan;
	p.model_hash[15] ^= 1;
	refused(&p, PLX_E_STALE, "the model file has changed since");
	p = plan;
	memcpy(mat, plan.mat, sizeof(mat));
	mat[1].type = 8;
	p.mat = mat;
	refused(&p, PLX_E_FORMAT, "its table is damaged");
	p = plan;
	p.data_bytes -= 64;
	refused(&p, PLX_E_FORMAT, "it has the wrong size");
	assert_int_equal(readable(&plan, NULL), 0);
}

/* Each byte of the table flipped, some of the data, and cuts at many lengths. */
static void test_cache_damage_is_found(void **state)
{
	uint64_t n, off = plx_cache_table_bytes(&plan);
	uint8_t *file = plx_t_cache_file(&plan, data, &n);

	(void)state;
	put_file(file, n);
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_int_equal(readable(&plan, NULL), 0);
	for (uint64_t i = 0; i < n; i += i < off ? 1 + i / 300 * 60 : 99991) {
		uint8_t bad = file[i] ^ (uint8_t)(1u << i % 8);

		assert_int_equal(pwrite(fd, &bad, 1, (off_t)i), 1);
		assert_int_not_equal(readable(&plan, NULL), 0);
		assert_int_equal(pwrite(fd, &file[i], 1, (off_t)i), 1);
	}
	assert_int_equal(readable(&plan, NULL), 0);
	for (uint64_t cut = n - 1; cut > 0; cut = cut * 2 / 3) {
		assert_int_equal(ftruncate(fd, (off_t)cut), 0);
		assert_int_not_equal(readable(&plan, NULL), 0);
	}
	assert_int_equal(ftruncate(fd, 0), 0);
	refused(&plan, PLX_E_FORMAT, "it is cut short");
	close(fd);
	free(file);
}

static void test_cache_of_others_is_not_trusted(void **state)
{
	char other[96];

	(void)state;
	assert_int_equal(written(), 0);
	assert_int_equal(chmod(path, 0620), 0);
	refused(&plan, PLX_E_AUTH, "its mode is 0620, so others may write it");
	assert_int_equal(chmod(path, 0602), 0);
	refused(&plan, PLX_E_AUTH, "its mode is 0602, so others may write it");
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(readable(&plan, NULL), 0);
	if (chown(path, NOBODY, NOBODY) == 0) {
		refused(&plan, PLX_E_AUTH, "it belongs to user 65534, not to 0");
		assert_int_equal(chown(path, 0, 0), 0);
	}
	snprintf(other, sizeof(other), "%s/other", dir);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(symlink("other", path), 0);
	refused(&plan, PLX_E_AUTH, "it is a symbolic link");
	/* Written anew, the link goes and what it named stays. */
	assert_int_equal(written(), 0);
	assert_int_equal(readable(&plan, NULL), 0);
	assert_true(exists(other));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	refused(&plan, PLX_E_AUTH, "it is no regular file");
}

static void test_leftover_is_replaced_and_a_writer_respected(void **state)
{
	(void)state;
	int fd = open(tmp, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, "rubbish", 7), 7);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(written(), PLX_E_AGAIN); /* a living writer has it */
	assert_true(exists(tmp));
	assert_false(exists(path));
	close(fd); /* it dies */
	assert_int_equal(written(), 0);
	assert_false(exists(tmp));
	assert_int_equal(readable(&plan, NULL), 0);
	/* A link put there is not followed, nor removed. */
	assert_int_equal(symlink(path, tmp), 0);
	assert_int_equal(written(), PLX_E_AGAIN);
	assert_int_equal(readable(&plan, NULL), 0);
}

static void test_writer_stopped_leaves_nothing(void **state)
{
	static struct plx_cache_writer w;

	(void)state;
	memset(&w, 0, sizeof(w));
	assert_int_equal(plx_cache_write_start(&w, path, &plan, data, NULL), 0);
	while (!exists(tmp) && !w.done)
		usleep(50);
	plx_cache_write_stop(&w);
	assert_false(exists(tmp));
	assert_true(w.err == PLX_E_CANCELLED ? !exists(path) : readable(&plan, NULL) == 0);
}

static void test_two_writers_at_once(void **state)
{
	static struct plx_cache_writer w[2];

	(void)state;
	for (uint32_t round = 0; round < 8; round++) {
		memset(w, 0, sizeof(w));
		for (uint32_t i = 0; i < 2; i++)
			assert_int_equal(plx_cache_write_start(&w[i], path, &plan, data, NULL), 0);
		for (uint32_t i = 0; i < 2; i++)
			plx_cache_write_wait(&w[i]);
		assert_true(w[0].err == 0 || w[1].err == 0);
		for (uint32_t i = 0; i < 2; i++)
			assert_true(w[i].err == 0 || w[i].err == PLX_E_AGAIN);
		assert_false(exists(tmp));
		assert_int_equal(readable(&plan, NULL), 0);
		assert_int_equal(unlink(path), 0);
	}
}

static void test_no_room_leaves_nothing(void **state)
{
	struct rlimit was, low;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	low = was;
	low.rlim_cur = 1 << 20;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	int err = written();

	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(err, PLX_E_FULL);
	assert_false(exists(tmp));
	assert_false(exists(path));
}

/* Root may write anywhere, so another user tries. */
static void test_read_only_folder_is_said(void **state)
{
	int status;

	(void)state;
	assert_int_equal(chmod(dir, 0555), 0);
	pid_t pid = fork();

	if (pid == 0) {
		if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) != 0)
			_exit(2);
		_exit(written() == PLX_E_IO && !exists(tmp) ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/*
 * What a layout's number stands for: these bytes. Who changes where plx_k_pack puts a byte has to
 * give the layout the next number, and its bytes' sum here.
 */
static void test_layout_id_stands_for_its_bytes(void **state)
{
	enum { ROWS = 20, COLS = 512 };
	uint8_t *src = malloc(ROWS * COLS * 4), *all = aligned_alloc(64, 1 << 20);
	uint64_t used = 0;

	(void)state;
	plx_t_cache_fill(src, ROWS * COLS * 4);
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		enum plx_qtype t = plx_qtype_at(i);

		plx_k_pack(all + used, t, src, ROWS, COLS, 0, ROWS);
		used += plx_k_pack_bytes(t, ROWS, COLS);
	}
	assert_int_equal(PLX_K_LAYOUT_ID, 2);
	assert_int_equal(used, 226048);
	assert_int_equal(XXH3_64bits(all, used), UINT64_C(0xddc0b8548db2e30));
	free(src);
	free(all);
}

/* ---- the device ----------------------------------------------------------------------------- */

struct lane {
	struct plx_dev *dev;
	uint32_t idx;
	_Atomic bool *stop;
};

static void *lane_main(void *arg)
{
	struct lane *l = arg;

	while (!*l->stop)
		(void)plx_dev_worker(l->dev, l->idx, 50);
	return NULL;
}

/* A device with the model loaded by so many lanes; ended tells whether the weights were read. */
static struct plx_cpu *loaded(struct plx_model *m, uint32_t n_lane, bool cache, bool *read)
{
	struct plx_dev_limits lim = {.n_slots = 2,
	                             .n_blocks = 64,
	                             .block_tokens = 16,
	                             .max_seq_blocks = 32,
	                             .max_step_tokens = 64,
	                             .max_step_seqs = 2,
	                             .steps_in_flight = 2,
	                             .n_threads = n_lane};
	struct plx_dev_conf conf = {.name = "test", .kind = "cpu"};
	struct plx_load_progress p = {0};
	struct lane lane[4];
	pthread_t thread[4];
	_Atomic bool stop = false;
	struct plx_dev *dev;
	int err;

	if (cache)
		snprintf(conf.cache_base, sizeof(conf.cache_base), "%s", plx_gguf_name(m->gguf));
	assert_int_equal(plx_dev_open(&conf, &dev, NULL), 0);
	assert_int_equal(plx_dev_load_begin(dev, m, &lim, NULL), 0);
	for (uint32_t i = 1; i < n_lane; i++) {
		lane[i] = (struct lane){dev, i, &stop};
		assert_int_equal(pthread_create(&thread[i], NULL, lane_main, &lane[i]), 0);
	}
	while ((err = plx_dev_load_poll(dev, 100, &p, NULL)) == PLX_E_AGAIN)
		assert_true(p.done_bytes <= p.total_bytes);
	stop = true;
	for (uint32_t i = 1; i < n_lane; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(err, 0);
	assert_int_equal(p.done_bytes, p.total_bytes);
	*read = strstr(p.note, "weights read from their cache") != NULL;
	return (struct plx_cpu *)(void *)dev;
}

static void same_weights(const struct plx_cpu *a, const struct plx_cpu *b)
{
	assert_int_equal(a->weights.used_bytes, b->weights.used_bytes);
	assert_memory_equal(a->weights.base, b->weights.base, a->weights.used_bytes);
}

static void copy_model(const char *to)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd), "cp %s %s", TINY, to);
	assert_int_equal(system(cmd), 0);
}

static void wait_for(const char *p)
{
	uint64_t end = plx_clock_ns() + 10 * PLX_NS_PER_S;

	while (!exists(p) && plx_clock_ns() < end)
		usleep(1000);
	assert_true(exists(p));
}

static void test_device_has_the_same_weights(void **state)
{
	char name[96];
	struct plx_model *m;
	struct plx_cpu *c[4];
	bool read[4];

	(void)state;
	snprintf(name, sizeof(name), "%s/m.gguf", dir);
	copy_model(name);
	assert_int_equal(plx_model_open(name, &m, NULL), 0);
	c[0] = loaded(m, 1, false, &read[0]);
	assert_false(exists(path)); /* a cache only where it is asked for */
	c[1] = loaded(m, 4, true, &read[1]);
	wait_for(path);
	c[2] = loaded(m, 1, true, &read[2]);
	c[3] = loaded(m, 3, true, &read[3]);
	assert_true(!read[0] && !read[1] && read[2] && read[3]);
	for (uint32_t i = 1; i < 4; i++)
		same_weights(c[0], c[i]);
	for (uint32_t i = 0; i < 4; i++)
		plx_dev_close(&c[i]->base);
	plx_model_close(m);
}

/* Rows of granule i of a stored matrix, repacked, are what lies at p. */
static void granule_is(const uint8_t *p, const struct plx_tensor *t, uint32_t i, uint64_t bytes)
{
	uint8_t *want = aligned_alloc(64, bytes);

	plx_k_pack(want, (enum plx_qtype)t->type, t->data + i * 32 * t->row_bytes, 32, t->n_cols, 0,
	           32);
	assert_memory_equal(p, want, bytes);
	free(want);
}

/* 32 rows of gate, the same 32 of up, and so on; the other matrices of a layer around them. */
static void test_a_layer_is_one_stream(void **state)
{
	struct plx_model *m;
	bool read;

	(void)state;
	assert_int_equal(plx_model_open(TINY, &m, NULL), 0);
	struct plx_cpu *c = loaded(m, 2, false, &read);
	const struct plx_fwd_layer *l = &c->fwd.layer[1];
	uint64_t gate = plx_k_pack_bytes(l->gate.type, 32, l->gate.n_in);
	uint64_t up = plx_k_pack_bytes(l->up.type, 32, l->up.n_in);
	const uint8_t *p = l->gate.data;

	assert_true(m->n_ff >= 64);
	assert_int_equal(l->ffn_stride, gate + up);
	for (uint32_t i = 0; i < m->n_ff / 32; i++, p += gate + up) {
		granule_is(p, &m->layer[1].gate, i, gate);
		granule_is(p + gate, &m->layer[1].up, i, up);
	}
	assert_ptr_equal(l->up.data, (const uint8_t *)l->gate.data + gate);
	assert_ptr_equal(l->down.data, p);
	assert_ptr_equal(l->wk.data, (const uint8_t *)l->wq.data +
	                                 plx_k_pack_bytes(l->wq.type, l->wq.n_out, l->wq.n_in));
	assert_ptr_equal(l->wv.data, (const uint8_t *)l->wk.data +
	                                 plx_k_pack_bytes(l->wk.type, l->wk.n_out, l->wk.n_in));
	plx_dev_close(&c->base);
	plx_model_close(m);
}

/* Damage in the data is found after part of it is in place already: all is repacked then. */
static void test_device_repacks_what_is_damaged(void **state)
{
	char name[96];
	struct plx_model *m;
	struct plx_cpu *good, *bad;
	struct stat before, after;
	bool read;

	(void)state;
	snprintf(name, sizeof(name), "%s/m.gguf", dir);
	copy_model(name);
	assert_int_equal(plx_model_open(name, &m, NULL), 0);
	good = loaded(m, 1, true, &read);
	wait_for(path);
	assert_int_equal(stat(path, &before), 0);
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_int_equal(pwrite(fd, "damage", 6, before.st_size - 100), 6);
	close(fd);
	bad = loaded(m, 3, true, &read);
	assert_false(read);
	same_weights(good, bad);
	for (uint32_t i = 0; i < 1000; i++) {
		assert_int_equal(stat(path, &after), 0);
		if (after.st_ino != before.st_ino)
			break;
		usleep(5000);
	}
	assert_true(after.st_ino != before.st_ino); /* and written anew */
	plx_dev_close(&good->base);
	plx_dev_close(&bad->base);
	plx_model_close(m);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_cache_round_trip),
	    TEST(test_cache_of_something_else_is_refused),
	    TEST(test_cache_damage_is_found),
	    TEST(test_cache_of_others_is_not_trusted),
	    TEST(test_leftover_is_replaced_and_a_writer_respected),
	    TEST(test_writer_stopped_leaves_nothing),
	    TEST(test_two_writers_at_once),
	    TEST(test_no_room_leaves_nothing),
	    TEST(test_read_only_folder_is_said),
	    TEST(test_layout_id_stands_for_its_bytes),
	    TEST(test_a_layer_is_one_stream),
	    TEST(test_device_has_the_same_weights),
	    TEST(test_device_repacks_what_is_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
