/*
 * One error message for a person: what was wrong, where, and what to do about it.
 *
 * Code that reads files, keys or command lines fills a struct plx_diag beside the error code it
 * returns; whoever talks to the person prints it once. The first message wins, since it is the
 * one nearest the cause.
 */
#ifndef PLX_FW_BASE_DIAG_H
#define PLX_FW_BASE_DIAG_H

#define PLX_DIAG_BYTES 512

struct plx_diag {
	char text[PLX_DIAG_BYTES]; /* NUL-terminated; "" when nothing was said */
};

/*
 * plx_diag_set - store a formatted message unless one is there already, and return err.
 *
 * @d    may be NULL, then only err is returned.
 * @err  the code to return, so that a caller can write `return plx_diag_set(d, err, ...)`.
 *
 * A message longer than PLX_DIAG_BYTES - 1 is cut.
 */
__attribute__((format(printf, 3, 4))) int plx_diag_set(struct plx_diag *d, int err, const char *fmt,
                                                       ...);

/* plx_diag_at - put "file:line: " before a message that is there; line 0: "file: ". */
void plx_diag_at(struct plx_diag *d, const char *file, unsigned line);

#endif
