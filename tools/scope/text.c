/* Text in a buffer; see text.h. */
#include "tools/scope/text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void plx_text_init(struct plx_text *t, char *at, size_t room)
{
	*t = (struct plx_text){.at = at, .room = room};
	at[0] = '\0';
}

void plx_text_add(struct plx_text *t, const char *fmt, ...)
{
	size_t left = t->room - t->used;
	va_list args;

	va_start(args, fmt);
	int n = vsnprintf(t->at + t->used, left, fmt, args);

	va_end(args);
	if (n < 0 || (size_t)n >= left) {
		t->at[t->used] = '\0';
		t->cut = true;
		return;
	}
	t->used += (size_t)n;
}

void plx_text_quoted(struct plx_text *t, const char *text)
{
	plx_text_add(t, "\"");
	for (; *text != '\0'; text++) {
		if (*text == '\n')
			plx_text_add(t, "\\n");
		else if (*text == '"' || *text == '\\')
			plx_text_add(t, "\\%c", *text);
		else
			plx_text_add(t, "%c", (unsigned char)*text < 0x20 ? ' ' : *text);
	}
	plx_text_add(t, "\"");
}

void plx_text_ns(struct plx_text *t, uint64_t ns)
{
	static const struct {
		uint64_t from;
		double unit;
		const char *name;
	} row[] = {{1000000000, 1e9, "s"}, {1000000, 1e6, "ms"}, {1000, 1e3, "us"}};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		double v = (double)ns / row[i].unit;

		if (ns < row[i].from)
			continue;
		plx_text_add(t, "%.*f %s", v < 10 ? 2 : v < 100 ? 1 : 0, v, row[i].name);
		return;
	}
	plx_text_add(t, "%" PRIu64 " ns", ns);
}
