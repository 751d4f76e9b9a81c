/* `plx-scope export`: a polluxd's figures for Prometheus, over HTTP. */
#ifndef PLX_TOOLS_SCOPE_EXPORT_H
#define PLX_TOOLS_SCOPE_EXPORT_H

#include "tools/scope/serve.h"
#include "tools/scope/snap.h"

struct plx_export {
	const char *file; /* the polluxd's; it may come and go */
	unsigned int names;
	struct plx_scope scope;
	struct plx_snap snap;
	bool open;
};

/*
 * plx_export_answer - /metrics and /: fits plx_serve_answer, ctx is a struct plx_export. Where
 * there is no polluxd, /metrics says plx_up 0.
 */
void plx_export_answer(void *ctx, const struct plx_http *r, struct plx_reply *reply);

/* plx_export_look - see that the file is open, and take a copy; false: there is none. */
bool plx_export_look(struct plx_export *e);

/* plx_export_close - let go of the file. */
void plx_export_close(struct plx_export *e);

#endif
