/* The commands that look: each takes a live polluxd or a recording. */
#ifndef PLX_TOOLS_SCOPE_COMMANDS_H
#define PLX_TOOLS_SCOPE_COMMANDS_H

#include <signal.h>

#include "tools/scope/options.h"

extern volatile sig_atomic_t plx_scope_stop; /* main's: a signal asked for the end */

/* plx_scope_path - o->file, or the only one there is. Errors: as plx_scope_find. */
int plx_scope_path(const struct plx_scope_options *o, char path[PLX_SHARE_PATH_BYTES],
                   struct plx_diag *d);

int plx_scope_top(const struct plx_scope_options *o, struct plx_diag *d);
int plx_scope_list(const struct plx_scope_options *o, struct plx_diag *d);
int plx_scope_why(const struct plx_scope_options *o, struct plx_diag *d);
int plx_scope_record(const struct plx_scope_options *o, struct plx_diag *d);
int plx_scope_replay(const struct plx_scope_options *o, struct plx_diag *d);
int plx_scope_trace(const struct plx_scope_options *o, struct plx_diag *d);

#endif
