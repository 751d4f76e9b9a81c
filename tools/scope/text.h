/* Text that grows in a buffer of fixed size; what does not fit is left out and said. */
#ifndef PLX_TOOLS_SCOPE_TEXT_H
#define PLX_TOOLS_SCOPE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plx_text {
	char *at;
	size_t used, room; /* used + 1 <= room; at[used] is NUL */
	bool cut;          /* something did not fit */
};

/* plx_text_init - an empty text in room bytes, at least 1. */
void plx_text_init(struct plx_text *t, char *at, size_t room);

/* plx_text_add - as printf. A piece that does not fit whole is left out whole. */
__attribute__((format(printf, 2, 3))) void plx_text_add(struct plx_text *t, const char *fmt, ...);

/*
 * plx_text_quoted - text between double quotes, with what JSON and Prometheus labels both escape
 * escaped: backslash, quote, line feed; other control characters become blanks.
 */
void plx_text_quoted(struct plx_text *t, const char *text);

/* plx_text_ns - a duration for people: "812 ns", "4.31 us", "12.0 ms", "3.20 s". */
void plx_text_ns(struct plx_text *t, uint64_t ns);

#endif
