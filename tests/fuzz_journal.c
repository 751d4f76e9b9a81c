/*
 * Any bytes as a journal, and any lines with their check sums made right: what is taken from it can
 * be written, and reads the same again.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "fw/base/check.h"
#include "tools/tune/journal.h"

#define MAX_LINES 64u

static const struct plx_journal_key key = {1, 2, 3, 4, 5, 6};

static void parse(const char *text, size_t bytes)
{
	static struct plx_journal j, again;
	static char buf[2 * PLX_JOURNAL_LINE_BYTES];
	struct plx_diag d = {0};
	int err = plx_journal_parse(&j, "j", text, bytes, &key, &d);

	PLX_CHECK((err == 0) == (d.text[0] == '\0'));
	PLX_CHECK(err != 0 || j.bytes <= bytes);
	for (uint32_t i = 0; i < j.n && err == 0; i++) {
		size_t len = plx_journal_head(&key, buf);

		len += plx_journal_line(&j.rec[i], buf + len);
		PLX_CHECK(plx_journal_parse(&again, "j", buf, len, &key, NULL) == 0 &&
		          again.n == 1);
		PLX_CHECK(plx_tune_point_same(&again.rec[0].point, &j.rec[i].point));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static char sealed[(MAX_LINES + 1) * PLX_JOURNAL_LINE_BYTES];
	const char *text = (const char *)data;
	size_t len = plx_journal_head(&key, sealed);

	parse(text, bytes);
	for (uint32_t i = 0; i < MAX_LINES && bytes > 0; i++) {
		const char *end = memchr(text, '\n', bytes);
		size_t n = end ? (size_t)(end - text) : bytes, take = n < 700 ? n : 700;

		memcpy(sealed + len, text, take);
		len += take;
		len += (size_t)sprintf(sealed + len, " #%016llx\n",
		                       (unsigned long long)XXH3_64bits(sealed + len - take, take));
		text += n + (end != NULL);
		bytes -= n + (end != NULL);
	}
	parse(sealed, len);
	return 0;
}
