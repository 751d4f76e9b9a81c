/*
 * A model without some of its layers: the same weights, for drafts of it (self-speculation).
 *
 * A layer adds to the residual stream, so that leaving one out leaves a model whose guesses are
 * often the whole one's; which to leave out is tried (`bench_spec` with "layers"). Norms and output
 * are the whole model's.
 *
 * Source: Zhang et al., "Draft & Verify: Lossless Large Language Model Acceleration via
 *         Self-Speculative Decoding", arXiv:2309.08168; Elhoushi et al., "LayerSkip",
 *         arXiv:2404.16710.
 */
#ifndef PLX_ACCEL_MODEL_LAYERS_H
#define PLX_ACCEL_MODEL_LAYERS_H

#include "accel/model/model.h"

/*
 * plx_model_without - a view of m that lacks the layers named.
 *
 * @skip  numbers and ranges from 0 on, as "8-15,20".
 *
 * Owner:  the caller; plx_model_close, before m's. Its tensors are m's.
 * Errors: FORMAT (no such list), INVAL (a layer that the model has not, or none left), NOMEM.
 */
int plx_model_without(const struct plx_model *m, const char *skip, struct plx_model **out,
                      struct plx_diag *d);

#endif
