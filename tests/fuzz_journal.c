/* Any bytes as a journal: what is taken from it can be written, and reads the same again. */
#include <stdint.h>
#include <string.h>

#include "fw/base/check.h"
#include "tools/tune/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const struct plx_journal_key key = {1, 2, 3, 4, 5, 6};
	static struct plx_journal j, again;
	static char buf[2 * PLX_JOURNAL_LINE_BYTES];
	struct plx_diag d = {0};
	int err = plx_journal_parse(&j, "j", (const char *)data, bytes, &key, &d);

	PLX_CHECK((err == 0) == (d.text[0] == '\0'));
	PLX_CHECK(err != 0 || j.bytes <= bytes);
	for (uint32_t i = 0; i < j.n && err == 0; i++) {
		size_t len = plx_journal_head(&key, buf);

		len += plx_journal_line(&j.rec[i], buf + len);
		PLX_CHECK(plx_journal_parse(&again, "j", buf, len, &key, NULL) == 0 &&
		          again.n == 1);
		PLX_CHECK(plx_tune_point_same(&again.rec[0].point, &j.rec[i].point));
	}
	return 0;
}
