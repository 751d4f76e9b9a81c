/* Stores the first message a failing operation leaves for a person. */
#include "fw/base/diag.h"

#include <stdarg.h>
#include <stdio.h>

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
