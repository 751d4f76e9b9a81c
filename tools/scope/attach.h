/*
 * A running polluxd seen through its shared file, read-only: fw/base/share.h. Whatever the file
 * holds, nothing outside of it is read; what a writer changes meanwhile is a value of then or now.
 */
#ifndef PLX_TOOLS_SCOPE_ATTACH_H
#define PLX_TOOLS_SCOPE_ATTACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/share.h"

enum plx_scope_life {
	PLX_SCOPE_STARTING = 1,
	PLX_SCOPE_SERVING,
	PLX_SCOPE_ENDED, /* it said so */
	PLX_SCOPE_DEAD,  /* its process is gone without a word: the file is what it left */
};

struct plx_scope {
	const struct plx_share_head *map;
	struct plx_share_head head; /* as it was at open, checked */
	size_t bytes;
	uint64_t inode;
	char path[PLX_SHARE_PATH_BYTES];
};

/*
 * plx_scope_find - the path of the only polluxd's file below /dev/shm.
 * Errors: NOT_FOUND, EXISTS (more than one: d names two).
 */
int plx_scope_find(char path[PLX_SHARE_PATH_BYTES], struct plx_diag *d);

/*
 * plx_scope_open - map the file of a polluxd.
 * Errors: NOT_FOUND, IO (no right to read it), FORMAT (no such file, or cut), UNSUPPORTED (made by
 *         another version).
 */
int plx_scope_open(struct plx_scope *s, const char *path, struct plx_diag *d);

/* plx_scope_close - unmap; nothing where it was not open. */
void plx_scope_close(struct plx_scope *s);

/*
 * plx_scope_again - open the file anew where another polluxd has replaced it.
 *
 * Returns 1 when it did, 0 when it is the same, or a negative error, with the old one still there.
 * Cost: a stat.
 */
int plx_scope_again(struct plx_scope *s, struct plx_diag *d);

/* plx_scope_life - what has become of the process. Cost: a file of /proc. */
enum plx_scope_life plx_scope_life(const struct plx_scope *s);
const char *plx_scope_life_name(enum plx_scope_life life);

/* plx_scope_page - a stage's page, i below head.n_pages. It changes while it is read. */
const struct plx_page *plx_scope_page(const struct plx_scope *s, uint32_t i);

/* plx_scope_ring - its events, [head.trace_events]; NULL where there are none. */
const struct plx_trace_ev *plx_scope_ring(const struct plx_scope *s, uint32_t i);

/* plx_scope_name - the page's name, always ended. */
void plx_scope_name(const struct plx_page *p, char name[33]);

#endif
