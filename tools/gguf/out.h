/*
 * A file that appears under its name only when it is complete.
 *
 * Bytes go to a temporary file in the same folder, ".NAME.XXXXXX", which becomes NAME by fsync and
 * rename. A full disk, an error or Ctrl-C leaves neither half a file under the final name nor the
 * temporary one (SIGKILL leaves the latter).
 */
#ifndef PLX_TOOLS_GGUF_OUT_H
#define PLX_TOOLS_GGUF_OUT_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"

struct plx_out {
	int fd;
	bool force;
	char path[PATH_MAX];
	char temp[PATH_MAX]; /* "": none */
};

/*
 * plx_out_catch - from now on SIGINT, SIGTERM and SIGHUP only raise a flag, and a file size limit
 * is an error code rather than a signal.
 *
 * plx_out_interrupted - the flag. Work that sees it ends with CANCELLED.
 */
void plx_out_catch(void);
bool plx_out_interrupted(void);

/* plx_out_check - refuse a path that exists (unless force) or is no regular file: EXISTS, IO. */
int plx_out_check(const char *path, bool force, struct plx_diag *d);

/*
 * plx_out_open - begin a file of n_bytes; its room is reserved where the file system can.
 *
 * @force  replace a file that is there.
 *
 * Errors: EXISTS; IO (no such folder, no room, ...). d says what to do.
 */
int plx_out_open(struct plx_out *o, const char *path, bool force, uint64_t n_bytes,
                 struct plx_diag *d);

/* plx_out_write - n bytes at off. Thread: any, several at once.  Errors: IO. */
int plx_out_write(const struct plx_out *o, const void *p, size_t n, uint64_t off,
                  struct plx_diag *d);

/* plx_out_commit - the file is complete: make it durable and give it its name. Errors: IO, EXISTS;
 * the temporary file is gone either way. */
int plx_out_commit(struct plx_out *o, struct plx_diag *d);

/* plx_out_abort - forget it; harmless after commit and on a zeroed struct. */
void plx_out_abort(struct plx_out *o);

/* plx_out_file - a whole file from memory. Errors: EXISTS, IO. */
int plx_out_file(const char *path, const void *p, size_t n, bool force, struct plx_diag *d);

#endif
