/*
 * The same model in another format. Everything but the tensors' types stays as it is in the source,
 * key by key and in order.
 */
#ifndef PLX_TOOLS_GGUF_REQUANT_H
#define PLX_TOOLS_GGUF_REQUANT_H

#include "accel/model/gguf.h"
#include "tools/gguf/emit.h"
#include "tools/gguf/rules.h"

/*
 * plx_requant - write the model in g with the formats that r says.
 *
 * @t           out [plx_gguf_n_tensor(g)]: what became of each tensor; zero before.
 * @file_bytes  out: of the file; may be NULL.
 *
 * The file is the same, byte for byte, whatever the number of threads.
 * Errors: as plx_emit; UNSUPPORTED (one part of several, a matrix of an unknown type), INVAL (a
 *         rule that does not fit its tensor).
 */
int plx_requant(const struct plx_gguf *g, const struct plx_rules *r, struct plx_emit_tensor *t,
                const struct plx_emit_options *e, uint64_t *file_bytes, struct plx_diag *d);

#endif
