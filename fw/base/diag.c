/* Stores the first message a failing operation leaves for a person. */
#include "fw/base/diag.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int plx_diag_set(struct plx_diag *d, int err, const char *fmt, ...)
{
	if (d != NULL && d->text[0] == '\0') {
		va_list ap;

		va_start(ap, fmt);
		vsnprintf(d->text, sizeof(d->text), fmt, ap);
		va_end(ap);
	}
	return err;
}

void plx_diag_at(struct plx_diag *d, const char *file, unsigned line)
{
	char at[PLX_DIAG_BYTES / 2];

	if (d == NULL || d->text[0] == '\0')
		return;
	if (line != 0)
		snprintf(at, sizeof(at), "%s:%u: ", file, line);
	else
		snprintf(at, sizeof(at), "%s: ", file);
	size_t n = strlen(at);

	memmove(d->text + n, d->text, sizeof(d->text) - n);
	memcpy(d->text, at, n);
	d->text[sizeof(d->text) - 1] = '\0';
}
