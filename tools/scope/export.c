/* Answers scrapes from the pages alone. */
#include "tools/scope/export.h"

#include <string.h>

#include "fw/base/clock.h"
#include "tools/scope/prom.h"

#define TYPE_PROM "text/plain; version=0.0.4; charset=utf-8"
#define TYPE_OPEN "application/openmetrics-text; version=1.0.0; charset=utf-8"

void plx_export_close(struct plx_export *e)
{
	if (!e->open)
		return;
	plx_snap_close(&e->snap);
	plx_scope_close(&e->scope);
	e->open = false;
}

bool plx_export_look(struct plx_export *e)
{
	struct plx_diag d = {0};

	if (e->open && plx_scope_again(&e->scope, &d) != 0)
		plx_export_close(e);
	if (!e->open) {
		if (plx_scope_open(&e->scope, e->file, &d) != 0)
			return false;
		if (plx_snap_open(&e->snap, &e->scope.head, true) != 0) {
			plx_scope_close(&e->scope);
			return false;
		}
		e->open = true;
	}
	plx_snap_take(&e->snap, &e->scope);
	return true;
}

static void metrics(struct plx_export *e, const struct plx_http *r, struct plx_reply *reply)
{
	reply->status = 200;
	reply->type = r->open_metrics ? TYPE_OPEN : TYPE_PROM;
	if (plx_export_look(e))
		plx_prom_write(&reply->body, &e->snap, r->open_metrics, e->names);
	else
		plx_text_add(&reply->body,
		             "# HELP plx_up 1 while polluxd serves\n# TYPE plx_up gauge\nplx_up 0\n"
		             "%s",
		             r->open_metrics ? "# EOF\n" : "");
}

void plx_export_answer(void *ctx, const struct plx_http *r, struct plx_reply *reply)
{
	if (strcmp(r->path, "/metrics") == 0) {
		metrics(ctx, r, reply);
	} else if (strcmp(r->path, "/") == 0) {
		reply->status = 200;
		plx_text_add(&reply->body, "plx-scope: /metrics\n");
	}
}
