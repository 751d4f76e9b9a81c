/*
 * The configuration half of a model: which architecture a file says it holds and how large it is.
 */
#ifndef PLX_ACCEL_MODEL_MODEL_CONF_H
#define PLX_ACCEL_MODEL_MODEL_CONF_H

#include "accel/model/model.h"

/*
 * plx_model_conf_read - fill name, arch and every size and number of m from m->gguf's metadata, but
 * for n_vocab, which the embedding's shape gives.
 *
 * Refuses, by key, what the forward pass of model.h does not compute. The sizes are in their limits
 * and consistent afterwards: head_dim and n_rot even, n_head_kv divides n_head.
 *
 * Errors: FORMAT, UNSUPPORTED, LIMIT; d names the key.
 */
int plx_model_conf_read(struct plx_model *m, struct plx_diag *d);

/*
 * plx_model_conf_windows - each layer's sliding window, once layer[] is there: all have the file's,
 * or those that <architecture>.attention.sliding_window_pattern names, a list of flags, one a
 * layer, or a number n: every n-th layer, n - 1 the first of them, has none.
 *
 * Errors: FORMAT; d names the key.
 */
int plx_model_conf_windows(struct plx_model *m, struct plx_diag *d);

#endif
