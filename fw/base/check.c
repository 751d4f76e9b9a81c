/* The end of the line for a broken invariant: say which and where, then abort. */
#include "fw/base/check.h"

#include <stdio.h>
#include <stdlib.h>

void plx_check_failed(const char *expr, const char *file, int line)
{
	fprintf(stderr, "%s:%d: internal error: check failed: %s\n", file, line, expr);
	abort();
}
