/* plx-tune's journal: torn, damaged, of something else, gone on with, on a full disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "fw/base/check.h"
#include "fw/base/err.h"
#include "tests/lib/mtool.h"
#include "tools/gguf/out.h"
#include "tools/tune/journal.h"
#include "tools/tune/weights.h"

static struct plx_journal j, other;

static const struct plx_journal_key key = {1, 2, 3, 4, 5, 6};

static struct plx_journal_rec record(uint32_t i)
{
	struct plx_journal_rec r = {.kind = (enum plx_journal_kind)(i % PLX_JOURNAL_N_KINDS)};

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		r.point.v[k] = (uint8_t)((i + k) % plx_tune_knobs[k].n);
	for (uint32_t k = 0; k < 7; k++)
		r.v[k] = i * 0.37 + k - 1.5;
	return r;
}

/* A journal's text of n records. */
static size_t text_of(uint32_t n, char *buf)
{
	size_t len = plx_journal_head(&key, buf);

	for (uint32_t i = 0; i < n; i++) {
		struct plx_journal_rec r = record(i);

		len += plx_journal_line(&r, buf + len);
	}
	return len;
}

static bool same_record(const struct plx_journal_rec *a, const struct plx_journal_rec *b)
{
	for (uint32_t k = 0; k < PLX_JOURNAL_FIGURES; k++)
		if (fabs(a->v[k] - b->v[k]) > 1e-7)
			return false;
	return a->kind == b->kind && plx_tune_point_same(&a->point, &b->point);
}

/* Whatever is cut off at the end: what stands before it is there, and nothing else. */
static void test_torn_journal_keeps_what_is_whole(void **state)
{
	static char buf[16 * PLX_JOURNAL_LINE_BYTES];
	size_t n = text_of(6, buf);

	(void)state;
	for (size_t cut = 0; cut <= n; cut++) {
		uint32_t lines = 0;

		for (size_t i = 0; i < cut; i++)
			lines += buf[i] == '\n';
		assert_int_equal(plx_journal_parse(&j, "j", buf, cut, &key, NULL), 0);
		assert_int_equal(j.n, lines ? lines - 1 : 0);
		for (uint32_t i = 0; i < j.n; i++) {
			struct plx_journal_rec r = record(i);

			assert_true(same_record(&j.rec[i], &r));
		}
		assert_true(j.bytes <= cut && (j.bytes == 0 || buf[j.bytes - 1] == '\n'));
	}
}

/* Whatever byte is changed: it is an error, or in the last line, which is dropped. */
static void test_damaged_journal_is_never_believed(void **state)
{
	static char buf[16 * PLX_JOURNAL_LINE_BYTES];
	size_t n = text_of(4, buf);

	(void)state;
	for (size_t i = 0; i < n; i++)
		for (int bit = 0; bit < 8; bit += 3) {
			buf[i] = (char)(buf[i] ^ 1 << bit);
			int err = plx_journal_parse(&j, "j", buf, n, &key, NULL);

			if (err == 0) {
				assert_true(j.n <= 3);
				for (uint32_t k = 0; k < j.n; k++) {
					struct plx_journal_rec r = record(k);

					assert_true(same_record(&j.rec[k], &r));
				}
			}
			buf[i] = (char)(buf[i] ^ 1 << bit);
		}
}

static void test_journal_of_something_else_is_refused(void **state)
{
	static const char *const says[] = {"another model", "another reference",
	                                   "another text",  "another machine",
	                                   "another load",  "another version"};
	static char buf[4 * PLX_JOURNAL_LINE_BYTES];
	size_t n = text_of(2, buf);

	(void)state;
	for (size_t i = 0; i < 6; i++) {
		struct plx_journal_key k = key;
		struct plx_diag d = {0};
		uint64_t v = 77;

		memcpy((char *)&k + i * sizeof v, &v, sizeof v);
		assert_int_equal(plx_journal_parse(&j, "j", buf, n, &k, &d), PLX_E_INVAL);
		if (!strstr(d.text, says[i]) || !strstr(d.text, "--restart"))
			fail_msg("%s", d.text);
	}
	struct plx_diag d = {0};

	assert_int_equal(plx_journal_parse(&j, "j", "hello\nworld\n", 12, &key, &d), PLX_E_FORMAT);
	assert_non_null(strstr(d.text, "j:1:"));
}

static void test_journal_goes_on(void **state)
{
	const char *path = mtool_path("journal");
	struct plx_diag d = {0};

	(void)state;
	for (uint32_t i = 0; i < 5; i++) {
		struct plx_journal_rec r = record(i);

		if (plx_journal_open(&j, path, &key, false, &d))
			fail_msg("%s", d.text);
		assert_int_equal(j.n, i);
		/* Nobody else writes it meanwhile. */
		assert_int_equal(plx_journal_open(&other, path, &key, false, NULL), PLX_E_EXISTS);
		assert_int_equal(plx_journal_add(&j, &r, &d), 0);
		plx_journal_close(&j);
		/* A crash in the middle of a line. */
		FILE *f = fopen(path, "a");

		fputs("s weights=given,kv=f16 bl", f);
		fclose(f);
	}
	assert_int_equal(plx_journal_open(&j, path, &key, true, &d), 0);
	assert_int_equal(j.n, 0);
	plx_journal_close(&j);
}

static void test_full_disk_keeps_the_journal(void **state)
{
	const char *path = mtool_path("small");
	struct plx_journal_rec r = record(1);
	struct rlimit old, low;
	struct plx_diag d = {0};
	uint32_t n = 0;

	(void)state;
	assert_int_equal(plx_journal_open(&j, path, &key, true, &d), 0);
	getrlimit(RLIMIT_FSIZE, &old);
	low = old;
	low.rlim_cur = 1000;
	plx_out_catch();
	setrlimit(RLIMIT_FSIZE, &low);
	while (n < 100 && plx_journal_add(&j, &r, &d) == 0)
		n++;
	setrlimit(RLIMIT_FSIZE, &old);
	assert_in_range(n, 1, 10);
	assert_non_null(strstr(d.text, "are safe"));
	plx_journal_close(&j);
	d.text[0] = '\0';
	if (plx_journal_open(&j, path, &key, false, &d))
		fail_msg("%s", d.text);
	assert_int_equal(j.n, n);
	plx_journal_close(&j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_torn_journal_keeps_what_is_whole),
	    cmocka_unit_test(test_damaged_journal_is_never_believed),
	    cmocka_unit_test(test_journal_of_something_else_is_refused),
	    cmocka_unit_test(test_journal_goes_on),
	    cmocka_unit_test(test_full_disk_keeps_the_journal),
	};

	return cmocka_run_group_tests(tests, mtool_setup, mtool_teardown);
}
