/*
 * A copy of everything a polluxd's file says at one moment: pages, and the events of all rings in
 * order of time. What the exporter, the live view, why, and record work on.
 */
#ifndef PLX_TOOLS_SCOPE_SNAP_H
#define PLX_TOOLS_SCOPE_SNAP_H

#include "tools/scope/attach.h"

/* An event and whose it is. */
struct plx_scope_ev {
	struct plx_trace_ev e;
	uint32_t page; /* which stage wrote it */
	uint32_t lcore;
};

struct plx_snap {
	struct plx_share_head head;
	enum plx_scope_life life;
	uint64_t ns;      /* plx_clock_ns() when it was taken */
	uint64_t real_ns; /* and CLOCK_REALTIME */
	uint32_t n_pages;
	struct plx_page *page; /* [PLX_SHARE_MAX_PAGES] */
	uint32_t n_evs, max_evs;
	struct plx_scope_ev *ev; /* [max_evs], by ns */
	uint64_t n_lost;         /* events overwritten while they were read */
};

/* plx_snap_open - room for a file's pages and, with events, its rings. Errors: NOMEM. */
int plx_snap_open(struct plx_snap *s, const struct plx_share_head *h, bool events);

/* plx_snap_close - give the room back. */
void plx_snap_close(struct plx_snap *s);

/*
 * plx_snap_take - copy now. Counters are those of the moment; a histogram's count is that of its
 * bins, so that they add up. Events of all rings where there is room for them.
 */
void plx_snap_take(struct plx_snap *s, const struct plx_scope *from);

/* plx_snap_sort - events by time, for one that was filled by hand or from a file. */
void plx_snap_sort(struct plx_snap *s);

#endif
