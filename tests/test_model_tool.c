/*
 * plx-model quantise and verify, the files they write, and the command line: the same bytes at any
 * number of threads, whole files or none, damage found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "accel/model/gguf.h"
#include "fw/base/err.h"
#include "tests/lib/mtool.h"
#include "tests/lib/qdata.h"
#include "tools/gguf/emit.h"
#include "tools/gguf/out.h"

#define COLS 512u
#define ROWS 1100u /* more than one item */

static float weights[COLS * ROWS];

static int setup(void **state)
{
	uint64_t seed = 5;

	(void)state;
	mtool_begin();
	for (size_t i = 0; i < COLS * ROWS; i++)
		weights[i] = 0.05f * (plx_t_uniform(&seed) + plx_t_uniform(&seed));
	return 0;
}

static struct plx_emit_tensor tensor(const char *name, uint32_t n_dims, uint64_t cols,
                                     uint64_t rows, const uint8_t *const *src)
{
	struct plx_emit_tensor t = {.n_dims = n_dims,
	                            .dim = {cols, rows, 1, 1},
	                            .from = PLX_Q_F32,
	                            .to = PLX_Q_F32,
	                            .src = src,
	                            .n_src = 1};

	snprintf(t.name, sizeof t.name, "%s", name);
	return t;
}

/* A file of F32 tensors: an embedding, two matrices (one of rows of 96), a norm. */
static const char *source(const char *name)
{
	const uint8_t *data = (const uint8_t *)weights;
	struct plx_emit_tensor t[] = {
	    tensor("token_embd.weight", 2, COLS, 40, &data),
	    tensor("blk.0.attn_q.weight", 2, COLS, ROWS, &data),
	    tensor("blk.0.ffn_down.weight", 2, 96, 33, &data),
	    tensor("blk.0.attn_norm.weight", 1, COLS, 1, &data),
	};
	struct plx_emit_options o = {.path = mtool_path(name), .n_threads = 1, .quiet = true};
	struct plx_diag d = {0};
	struct plx_gw w = {0};

	plx_gw_str(&w, "general.architecture", plx_gw_name("test"));
	plx_gw_u32(&w, "general.file_type", 0);
	plx_gw_u32(&w, "test.number", 7);
	if (plx_emit(&w, t, 4, &o, &d))
		fail_msg("%s", d.text);
	plx_gw_free(&w);
	return o.path;
}

/* ---- quantise -------------------------------------------------------------------------------- */

static void test_bytes_do_not_depend_on_threads(void **state)
{
	static const char *const threads[] = {"1", "2", "5", "1"};
	struct plx_diag d;

	(void)state;
	source("in");
	for (uint32_t t = 0; t < PLX_QTYPE_COUNT; t++)
		for (size_t i = 0; i < 4; i++) {
			assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o",
			                       mtool_path(i ? "b" : "a"), "-t",
			                       plx_qtype_name(plx_qtype_at(t)), "--threads",
			                       threads[i], "--force", NULL),
			                 0);
			assert_true(!i || mtool_same(mtool_path("a"), mtool_path("b")));
		}
}

static uint32_t type_in(const struct plx_gguf *g, const char *name)
{
	const struct plx_gguf_tensor *t = plx_gguf_tensor_find(g, name);

	assert_non_null(t);
	return t->type;
}

static void test_types_follow_the_rules(void **state)
{
	struct plx_gguf *g;
	struct plx_diag d;
	uint32_t v = 0;

	(void)state;
	source("in");
	assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"), "-t",
	                       "q4_k", "-v", NULL),
	                 0);
	assert_int_equal(plx_gguf_open(mtool_path("a"), &g, NULL), 0);
	assert_int_equal(type_in(g, "token_embd.weight"), PLX_Q_Q6_K); /* the head */
	assert_int_equal(type_in(g, "blk.0.attn_q.weight"), PLX_Q_Q4_K);
	assert_int_equal(type_in(g, "blk.0.ffn_down.weight"), PLX_Q_Q5_0); /* rows of 96 */
	assert_int_equal(type_in(g, "blk.0.attn_norm.weight"), PLX_Q_F32);
	assert_int_equal(plx_gguf_get_u32(g, "general.file_type", &v, NULL), 0);
	assert_int_equal(v, 14);
	assert_int_equal(plx_gguf_get_u32(g, "test.number", &v, NULL), 0);
	assert_int_equal(v, 7);
	plx_gguf_close(g);
	assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("b"), "-t",
	                       "Q8_0", "--tensor", "blk.*.attn_?.weight=BF16", "--tensor", "*=Q5_1",
	                       NULL),
	                 2); /* a vector would be Q5_1 */
	assert_non_null(strstr(d.text, "'blk.0.attn_norm.weight' is a vector"));
	assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("b"), "-t",
	                       "Q8_0", "--tensor", "blk.*.attn_?.weight=BF16", "--tensor",
	                       "token*=q4_0", NULL),
	                 0);
	assert_int_equal(plx_gguf_open(mtool_path("b"), &g, NULL), 0);
	assert_int_equal(type_in(g, "token_embd.weight"), PLX_Q_Q4_0);
	assert_int_equal(type_in(g, "blk.0.attn_q.weight"), PLX_Q_BF16);
	assert_int_equal(type_in(g, "blk.0.ffn_down.weight"), PLX_Q_Q8_0);
	plx_gguf_close(g);
	assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("c"), "-t",
	                       "Q8_0", "--tensor", "*ffn_down*=Q4_K", NULL),
	                 2);
	assert_non_null(strstr(d.text, "96 elements, no multiple of 256"));
}

/* Values are those of the source, quantised: the reader of plx-model's own checks is not asked. */
static void test_values_are_the_quantised_ones(void **state)
{
	static uint8_t want[COLS * ROWS * 4];

	(void)state;
	source("in");
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++) {
		enum plx_qtype type = plx_qtype_at(i);
		bool plain = type == PLX_Q_Q4_0 || type == PLX_Q_Q4_1;
		struct plx_gguf *g;
		struct plx_diag d;

		assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"),
		                       "-t", plx_qtype_name(type), "--threads", "2", "--force",
		                       NULL),
		                 0);
		assert_int_equal(plx_gguf_open(mtool_path("a"), &g, NULL), 0);
		const struct plx_gguf_tensor *t = plx_gguf_tensor_find(g, "blk.0.attn_q.weight");

		plx_q_quantise(type, plain ? PLX_Q_PLAIN : PLX_Q_FIT, weights, want, COLS * ROWS);
		assert_int_equal(t->type, type);
		assert_true(t->bytes <= sizeof want && t->bytes >= COLS * ROWS / 2);
		assert_memory_equal(t->data, want, t->bytes);
		plx_gguf_close(g);
	}
}

static void test_values_that_are_none_are_refused(void **state)
{
	struct plx_diag d;

	(void)state;
	source("in");
	size_t n;
	uint8_t *p = mtool_read(mtool_path("in"), &n);
	/* The last tensors are 96 x 33 and 512: a value of row 700 of attn_q lies before them. */
	size_t end = n - (96 * 33 + COLS) * 4, at = end - (ROWS - 700) * COLS * 4;
	float bad = NAN;

	memcpy(p + at, &bad, sizeof bad);
	mtool_write(mtool_path("nan"), p, n);
	bad = 70000;
	memcpy(p + at, &bad, sizeof bad);
	mtool_write(mtool_path("large"), p, n);
	free(p);
	assert_int_equal(
	    mtool(&d, "quantise", mtool_path("nan"), "-o", mtool_path("a"), "-t", "Q4_0", NULL), 1);
	assert_string_equal(d.text, "tensor 'blk.0.attn_q.weight', row 700: a value is no number; "
	                            "the model is damaged, fetch it again");
	assert_int_equal(
	    mtool(&d, "quantise", mtool_path("large"), "-o", mtool_path("a"), "-t", "F16", NULL),
	    1);
	assert_non_null(strstr(d.text, "row 700: 70000 does not fit F16"));
	assert_int_equal(mtool_files(), 3);
	assert_int_equal(mtool(&d, "verify", mtool_path("nan"), NULL), 4);
	char *said = mtool_said();

	assert_non_null(strstr(said, "blk.0.attn_q.weight: 1 values are no finite numbers"));
	free(said);
}

/* ---- whole files or none --------------------------------------------------------------------- */

static void test_what_is_there_stays(void **state)
{
	struct plx_diag d;

	(void)state;
	source("in");
	mtool_write(mtool_path("a"), "x", 1);
	assert_int_equal(
	    mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"), "-t", "Q4_0", NULL), 3);
	assert_non_null(strstr(d.text, "is there already; give --force"));
	assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"), "-t",
	                       "Q4_0", "--force", NULL),
	                 0);
	/* Onto itself: the source is mapped, and stays until the new file has the name. */
	assert_int_equal(mtool(&d, "quantise", mtool_path("a"), "-o", mtool_path("a"), "-t", "Q8_0",
	                       "--force", NULL),
	                 0);
	assert_int_equal(mtool_files(), 2);
	assert_int_equal(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("no/such"), "-t",
	                       "Q4_0", NULL),
	                 3);
	assert_non_null(strstr(d.text, "make the folder first"));
	assert_int_equal(
	    mtool(&d, "quantise", mtool_path("in"), "-o", "/dev/null", "-t", "Q4_0", NULL), 3);
	struct stat st;

	assert_int_equal(stat(mtool_path("a"), &st), 0);
	assert_int_equal(st.st_mode & 0600, 0600);
}

static void test_a_size_limit_leaves_nothing(void **state)
{
	struct rlimit was, small;
	struct plx_diag d;

	(void)state;
	source("in");
	plx_out_catch();
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	small = was;
	small.rlim_cur = 65536;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	int rc = mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"), "-t", "Q8_0", NULL);
	struct plx_diag d2;
	int rc2 = mtool(&d2, "convert", "tests/golden/hf/llama", "-o", mtool_path("b"), NULL);

	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(rc, 3);
	assert_int_equal(rc2, 3);
	assert_non_null(strstr(d.text, "ulimit -f"));
	assert_non_null(strstr(d2.text, "ulimit -f"));
	assert_int_equal(mtool_files(), 1);
}

/* Under any name, hidden ones too. */
static int files_in(const char *name)
{
	DIR *dir = opendir(mtool_path(name));
	int n = -2; /* . and .. */

	while (dir && readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void test_a_full_disk_leaves_nothing(void **state)
{
	struct plx_diag d;

	(void)state;
	source("in");
	assert_int_equal(mkdir(mtool_path("disk"), 0700), 0);
	if (mount("none", mtool_path("disk"), "tmpfs", 0, "size=64k")) {
		print_message("no right to mount a small tmpfs: %s\n", strerror(errno));
		skip();
	}
	int rc =
	    mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("disk/a"), "-t", "Q4_0", NULL);
	struct plx_diag d2, d3;
	int rc2 = mtool(&d2, "convert", "tests/golden/hf/llama", "-o", mtool_path("disk/b"), NULL);
	int left = files_in("disk");
	FILE *f = fopen(mtool_path("disk/fill"), "w");
	size_t n = fwrite(weights, 1, 65536, f);

	(void)fclose(f); /* the last of it finds no room */
	int rc3 = mtool(&d3, "verify", "tests/golden/tiny/qwen3.gguf", "--hashes",
	                mtool_path("disk/list"), NULL);
	int left3 = files_in("disk");

	assert_int_equal(umount(mtool_path("disk")), 0);
	assert_int_equal(n > 0, 1);
	assert_int_equal(rc, 3);
	assert_non_null(
	    strstr(d.text, "disk/a: no room for 0.3 MiB; free some, or write elsewhere"));
	assert_int_equal(rc2, 3);
	assert_non_null(strstr(d2.text, "disk/b: no room for 0.4 MiB"));
	assert_int_equal(left, 0);
	assert_int_equal(rc3, 3);
	assert_non_null(strstr(d3.text, "disk/list: can't write it"));
	assert_int_equal(left3, 1);
}

/* The room is not always reserved at once: a write that fails must clean up as well. */
static void test_a_write_that_fails_leaves_nothing(void **state)
{
	struct plx_diag d = {0};
	struct plx_out o;

	(void)state;
	assert_int_equal(mkdir(mtool_path("disk"), 0700), 0);
	if (mount("none", mtool_path("disk"), "tmpfs", 0, "size=64k")) {
		print_message("no right to mount a small tmpfs: %s\n", strerror(errno));
		skip();
	}
	int opened = plx_out_open(&o, mtool_path("disk/a"), false, 0, &d);
	int err = plx_out_write(&o, weights, sizeof weights, 0, &d);

	plx_out_abort(&o);
	plx_out_abort(&o); /* harmless */
	int empty = umount(mtool_path("disk"));

	assert_int_equal(opened, 0);
	assert_int_equal(empty, 0);
	assert_int_equal(err, PLX_E_IO);
	assert_non_null(strstr(d.text, "free some room"));
	assert_int_equal(rmdir(mtool_path("disk")), 0);
}

static void test_ctrl_c_leaves_nothing(void **state)
{
	int status;

	(void)state;
	source("in");
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct plx_diag d;

		plx_out_catch();
		raise(SIGINT);
		_exit(mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"), "-t", "Q4_0",
		            NULL));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 130);
	assert_int_equal(mtool_files(), 1);
}

/* ---- verify ---------------------------------------------------------------------------------- */

static void test_verify_finds_damage(void **state)
{
	struct plx_diag d;
	size_t n;

	(void)state;
	source("in");
	assert_int_equal(
	    mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"), "-t", "Q8_0", NULL), 0);
	assert_int_equal(mtool(&d, "verify", mtool_path("a"), "--hashes", mtool_path("list"), NULL),
	                 0);
	assert_int_equal(mtool(&d, "verify", mtool_path("a"), "--check", mtool_path("list"), NULL),
	                 0);
	uint8_t *p = mtool_read(mtool_path("a"), &n);

	p[n - (COLS * 4 + 97)] ^= 1; /* the last byte or so of ffn_down */
	mtool_write(mtool_path("b"), p, n);
	free(p);
	assert_int_equal(mtool(&d, "verify", mtool_path("b"), "--check", mtool_path("list"), NULL),
	                 4);
	char *said = mtool_said();

	assert_non_null(strstr(said, "blk.0.ffn_down.weight: is not what the list says"));
	assert_null(strstr(said, "attn_q"));
	free(said);
	/* A script is told so too. */
	assert_int_equal(
	    mtool(&d, "verify", mtool_path("b"), "--check", mtool_path("list"), "--json", NULL), 4);
	said = mtool_said();
	assert_non_null(strstr(said, "\"sound\": false"));
	assert_non_null(strstr(said, "\"blk.0.ffn_down.weight: is not what the list says\""));
	free(said);
	/* As many lines as tensors, and one of them twice. */
	mtool_edit("list", "blk.0.attn_q.weight", "token_embd.weight");
	assert_int_equal(mtool(&d, "verify", mtool_path("a"), "--check", mtool_path("list"), NULL),
	                 4);
	said = mtool_said();
	assert_non_null(strstr(said, "token_embd.weight: is in the list twice"));
	assert_non_null(strstr(said, "blk.0.attn_q.weight: is not in the list"));
	free(said);
	assert_int_equal(mtool(&d, "verify", mtool_path("a"), "--check", mtool_path("in"), NULL),
	                 1);
	p = mtool_read(mtool_path("a"), &n);
	mtool_write(mtool_path("short"), p, n - COLS * 4 - 1);
	free(p);
	assert_int_equal(mtool(&d, "verify", mtool_path("short"), NULL), 1);
}

/* A matrix of zeros was lost on the way; a bias may be zero. Ranges are those of the values. */
static void test_verify_sees_zeros_and_ranges(void **state)
{
	struct plx_diag d;
	size_t n, norm = COLS * 4, down = 96 * 33 * 4;

	(void)state;
	source("in");
	uint8_t *p = mtool_read(mtool_path("in"), &n);
	float low = -3.5f, high = 12.25f;

	memset(p + n - norm, 0, norm);
	memcpy(p + n - norm - down - 4, &low, 4); /* the last value of attn_q */
	memcpy(p + n - norm - down - 8, &high, 4);
	mtool_write(mtool_path("range"), p, n);
	assert_int_equal(mtool(&d, "verify", mtool_path("range"), "-v", NULL), 0);
	char *said = mtool_said();

	assert_non_null(strstr(said, "blk.0.attn_norm.weight"));
	assert_non_null(strstr(said, "-3.5 to 12.2, rms 0.0"));
	free(said);
	memset(p + n - norm - down, 0, down);
	mtool_write(mtool_path("zero"), p, n);
	free(p);
	assert_int_equal(mtool(&d, "verify", mtool_path("zero"), NULL), 4);
	said = mtool_said();
	assert_non_null(strstr(said, "blk.0.ffn_down.weight: all values are 0"));
	assert_null(strstr(said, "attn_norm.weight: all"));
	free(said);
}

static void test_verify_measures_the_difference(void **state)
{
	struct plx_diag d;

	(void)state;
	source("in");
	assert_int_equal(
	    mtool(&d, "quantise", mtool_path("in"), "-o", mtool_path("a"), "-t", "Q8_0", NULL), 0);
	assert_int_equal(
	    mtool(&d, "verify", mtool_path("a"), "--against", mtool_path("in"), "-v", NULL), 0);
	char *said = mtool_said();

	/* Rows of 512 like these, uniform sums up to 0.1, have steps of about 0.0007. */
	assert_non_null(strstr(said, "1 of 4 tensors the same; relative error 4.311e-03"));
	assert_non_null(strstr(said, "least cosine 0.999990"));
	assert_non_null(strstr(said, "architecture 'test' is not supported"));
	free(said);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void test_wrong_command_lines_are_explained(void **state)
{
	static const struct {
		const char *words[6];
		const char *says;
	} wrongs[] = {
	    {{"melt", "x"}, "\"melt\" is no command"},
	    {{"quantise", "x", "-t", "Q4_0"}, "-o is missing"},
	    {{"quantise", "x", "-o", "y"}, "-t is missing"},
	    {{"quantise", "-o", "y", "-t", "Q4_0"}, "give the model's file"},
	    {{"quantise", "x", "-o", "y", "-t", "Q9"}, "\"Q9\" is no format; give one of F32"},
	    {{"quantise", "x", "--tensor", "Q4_0"}, "is not PATTERN=TYPE"},
	    {{"quantise", "x", "--threads", "0"}, "--threads 0: give a number of 1 to 256"},
	    {{"quantise", "x", "--melt"}, "--melt is not an option"},
	    {{"quantise", "x", "-o"}, "-o needs a value"},
	    {{"inspect", "x", "-o", "y"}, "does not go with this command"},
	    {{"inspect", "x", "y"}, "\"y\": one model at a time"},
	    {{"inspect", "x", "--device", "card"}, "give NAME=SIZE"},
	    {{"verify"}, "give the model's file"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
		const char *const *w = wrongs[i].words;
		struct plx_diag d;
		int rc = mtool(&d, w[0], w[1], w[2], w[3], w[4], w[5], NULL);

		if (rc != 2 || !strstr(d.text, wrongs[i].says))
			fail_msg("%s: exit %d, \"%s\"", wrongs[i].says, rc, d.text);
	}
}

/* Rows 0..3 of a head of 8 are x parts, 4..7 y parts; pairs become neighbours. */
static void test_pair_rows(void **state)
{
	static const uint64_t want[16] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};

	(void)state;
	for (uint64_t r = 0; r < 16; r++)
		assert_int_equal(plx_emit_pair_row(r, 16, 2), want[r]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, mtool_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_bytes_do_not_depend_on_threads),
	    TEST(test_types_follow_the_rules),
	    TEST(test_values_are_the_quantised_ones),
	    TEST(test_values_that_are_none_are_refused),
	    TEST(test_what_is_there_stays),
	    TEST(test_a_size_limit_leaves_nothing),
	    TEST(test_a_full_disk_leaves_nothing),
	    TEST(test_a_write_that_fails_leaves_nothing),
	    TEST(test_ctrl_c_leaves_nothing),
	    TEST(test_verify_finds_damage),
	    TEST(test_verify_sees_zeros_and_ranges),
	    TEST(test_verify_measures_the_difference),
	    TEST(test_wrong_command_lines_are_explained),
	    TEST(test_pair_rows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
