/*
 * The file in memory through which other processes read a running polluxd: a header, then the
 * pages of all stages, then their rings of events. The writer makes it once at start, all pages in
 * memory and never given back, so that a stamp is a store and nothing else. It is written under
 * another name and renamed when it is complete: whoever finds it finds all of it.
 *
 *   header | page[n_pages] | ring[n_pages][trace_events]
 */
#ifndef PLX_FW_BASE_SHARE_H
#define PLX_FW_BASE_SHARE_H

#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"
#include "fw/base/stamp.h"

#define PLX_SHARE_MAGIC      UINT64_C(0x504d54535f584c50) /* "PLX_STMP" */
#define PLX_SHARE_ABI        1u
#define PLX_SHARE_PATH_BYTES 256
#define PLX_SHARE_MAX_PAGES  64
#define PLX_SHARE_MAX_EVENTS (1u << 20)

enum plx_share_state {
	PLX_SHARE_STARTING = 1,
	PLX_SHARE_SERVING,
	PLX_SHARE_ENDED,
};

struct plx_share_head {
	uint64_t magic;
	uint32_t abi_version;
	uint32_t head_bytes;
	uint64_t layout_hash; /* of metrics.def and the structs: plx_share_layout */
	uint64_t total_bytes;
	uint64_t page_off;
	uint64_t trace_off;
	uint32_t page_bytes; /* from one page to the next */
	uint32_t n_pages;
	uint32_t trace_events; /* of each ring; 0: no rings */
	uint32_t state;        /* enum plx_share_state */
	int32_t pid;
	uint32_t reserved;
	uint64_t pid_start;  /* the kernel's start time of that process: a pid comes again */
	uint64_t start_ns;   /* plx_clock_ns() when this was made */
	uint64_t start_real; /* and CLOCK_REALTIME, for people and for Prometheus */
	char board[32];
	char model[64];
};
static_assert(sizeof(struct plx_share_head) <= 4096, "the header has a page of its own");

struct plx_share {
	struct plx_share_head *head;
	struct plx_page *page; /* [head->n_pages] */
	size_t bytes;
	char path[PLX_SHARE_PATH_BYTES];
};

/* plx_share_layout - what a reader must have been built with as well. Thread: any. */
uint64_t plx_share_layout(void);

/*
 * plx_share_size - bytes of a file for so many pages and events; trace_events is rounded up to a
 * power of two.
 */
size_t plx_share_size(uint32_t n_pages, uint32_t *trace_events);

/* plx_share_pid_start - the kernel's start time of a process in ticks; 0: there is none. */
uint64_t plx_share_pid_start(int32_t pid);

/*
 * plx_share_create - make the file, mode 0640, in place of one that a polluxd left behind.
 *
 * @trace_events  events of each ring, 0..PLX_SHARE_MAX_EVENTS; 0: no rings.
 *
 * Pages are zero; whoever fills one keeps trace_off, trace_events (plx_page_init does).
 * Thread: at start.
 * Errors: EXISTS (a running polluxd has it), IO, NOMEM; d says what to do.
 */
int plx_share_create(struct plx_share *s, const char *path, uint32_t n_pages, uint32_t trace_events,
                     struct plx_diag *d);

/* plx_share_state_set - for readers. Thread: one at a time. */
void plx_share_state_set(struct plx_share *s, enum plx_share_state state);

/* plx_share_close - say that it ended and remove it; nothing where it was never made. */
void plx_share_close(struct plx_share *s);

#endif
