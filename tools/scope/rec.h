/*
 * A recording: what a polluxd and the kernel did in some seconds, in one file; the same snapshot as
 * a live one, with thieves beside it.
 *
 *   header | page[n_pages] | event[n_evs] | thief[n_thieves]
 */
#ifndef PLX_TOOLS_SCOPE_REC_H
#define PLX_TOOLS_SCOPE_REC_H

#include "tools/scope/snap.h"
#include "tools/scope/thief.h"

#define PLX_REC_EVENTS  (4u << 20) /* most of a recording */
#define PLX_REC_THIEVES (1u << 20)

struct plx_rec {
	struct plx_snap snap;
	uint32_t n_thieves;
	struct plx_thief *thief;            /* [PLX_REC_THIEVES] while it is made */
	bool watched;                       /* the kernel was looked at */
	uint64_t next[PLX_SHARE_MAX_PAGES]; /* number of each ring's next event */
};

/* plx_rec_open - room for a recording. Errors: NOMEM. */
int plx_rec_open(struct plx_rec *r, const struct plx_scope *from);
void plx_rec_close(struct plx_rec *r);

/*
 * plx_rec_begin - from now on. plx_rec_poll - take what came since; often enough that rings don't
 * run over (n_lost counts). plx_rec_end - pages as they are, events by time.
 */
void plx_rec_begin(struct plx_rec *r, const struct plx_scope *from);
void plx_rec_poll(struct plx_rec *r, const struct plx_scope *from);
void plx_rec_end(struct plx_rec *r, const struct plx_scope *from);

/* plx_rec_is - whether a file begins as a recording does. */
bool plx_rec_is(const char *path);

/* plx_rec_save, _load - Errors: IO, FORMAT, UNSUPPORTED (another version), NOMEM. */
int plx_rec_save(const struct plx_rec *r, const char *path, struct plx_diag *d);
int plx_rec_load(struct plx_rec *r, const char *path, struct plx_diag *d);

/* plx_rec_parse - the same of bytes; name for messages. */
int plx_rec_parse(struct plx_rec *r, const uint8_t *at, size_t n_bytes, const char *name,
                  struct plx_diag *d);

#endif
