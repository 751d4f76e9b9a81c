/*
 * What the kernel does to polling lcores, seen by eBPF: who took the core, interrupts, page faults,
 * system calls, migrations, each with begin and end on the one clock. What a kernel does not offer
 * is said and left out; the rest goes on.
 */
#ifndef PLX_TOOLS_SCOPE_WATCH_H
#define PLX_TOOLS_SCOPE_WATCH_H

#include <stdio.h>

#include "tools/scope/attach.h"
#include "tools/scope/text.h"
#include "tools/scope/thief.h"

struct plx_watch;

/*
 * plx_watch_open - begin to watch the lcores' threads of a polluxd.
 *
 * @say  a line for each program that the kernel refuses; NULL: none.
 *
 * Returns NULL where nothing can be watched (also said). Owner: plx_watch_close.
 */
struct plx_watch *plx_watch_open(const struct plx_scope *s, FILE *say);
void plx_watch_close(struct plx_watch *w);

/* plx_watch_poll - append what came since to thief[*n..max). Never waits. */
void plx_watch_poll(struct plx_watch *w, struct plx_thief *thief, uint32_t max, uint32_t *n);

/* plx_watch_cost - what watching itself takes: a line. */
void plx_watch_cost(const struct plx_watch *w, struct plx_text *out);

#endif
