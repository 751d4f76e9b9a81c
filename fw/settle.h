/*
 * Memory that stays: after start no lcore waits for a page to be made, read or brought back.
 */
#ifndef PLX_FW_SETTLE_H
#define PLX_FW_SETTLE_H

#include "fw/base/diag.h"

/*
 * plx_settle - make every page of this process present and keep it so: code, stacks, heap, packet
 * buffers; everything that is mapped now and may be touched, but for one file.
 *
 * @except_path  a file whose mappings are left alone: the model's, which is read while loading and
 *               may be larger than what is left; NULL: none.
 *
 * Thread: main, once, at the end of start; reads /proc.  Cost: a page fault for each page that was
 * never touched.
 * Errors: LIMIT (more than the machine has left: then nothing is locked; or the process's limit on
 *         locked memory: then what could be locked is), IO. Serving on is right; d is for a
 * warning.
 */
int plx_settle(const char *except_path, struct plx_diag *d);

#endif
