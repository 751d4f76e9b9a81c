/* What people look at: the live picture, the list of requests, the events one by one, a trace. */
#ifndef PLX_TOOLS_SCOPE_VIEW_H
#define PLX_TOOLS_SCOPE_VIEW_H

#include "tools/scope/text.h"
#include "tools/scope/thief.h"
#include "tools/scope/tokens.h"

/*
 * plx_view_top - lcores with regimes, stages, requests and devices between two snapshots; before
 * may be NULL: since the start. thief may be NULL.
 */
void plx_view_top(struct plx_text *out, const struct plx_snap *before, const struct plx_snap *now,
                  const struct plx_thief *thief, uint32_t n_thieves);

/* plx_view_list - a line a request, latest last. */
void plx_view_list(struct plx_text *out, const struct plx_snap *s, const struct plx_tokens *t);

/* plx_view_event - a line for an event, with its time since from_ns. */
void plx_view_event(struct plx_text *out, const struct plx_snap *s, const struct plx_scope_ev *e,
                    uint64_t from_ns);

/*
 * plx_view_trace - JSON in the trace event format that Perfetto and Chrome read: a track for each
 * stage and core, a span for each request, step and thief, a mark for each token.
 * Source: "Trace Event Format", Google, 2016.
 */
void plx_view_trace(struct plx_text *out, const struct plx_snap *s, const struct plx_thief *thief,
                    uint32_t n_thieves);

#endif
