/*
 * The four commands. Each returns 0 or an error that d explains; results go to standard output.
 */
#ifndef PLX_TOOLS_MODEL_COMMANDS_H
#define PLX_TOOLS_MODEL_COMMANDS_H

#include "tools/model/options.h"

int plx_mtool_inspect(const struct plx_mtool_options *o, struct plx_diag *d);
int plx_mtool_convert(const struct plx_mtool_options *o, struct plx_diag *d);
int plx_mtool_quantise(const struct plx_mtool_options *o, struct plx_diag *d);

/* Also sets *sound: false where the file is readable but not as it should be. */
int plx_mtool_verify(const struct plx_mtool_options *o, bool *sound, struct plx_diag *d);

#endif
